"""Small cases of every dot-product unit, for :mod:`bitwright.gen.proof`."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["CASES", "UnitCase"]


@dataclass(frozen=True)
class UnitCase:
    """A unit and the dot products that are proved of it.

    Parameters
    ----------
    name, parameters
        The unit, and how it is built.
    precision
        Formats of the operands.
    lengths
        Steps of each of the dot products that follow one another.
    free
        Elements of a step whose values are free; more of them take a solver minutes.
    """

    name: str
    parameters: dict[str, Any] = field(hash=False)
    precision: str
    lengths: tuple[int, ...]
    free: int

    @property
    def label(self) -> str:
        """Its name among proofs."""
        kind = self.parameters.get("multiplier")
        return "-".join(("unit", self.name, self.precision, *([kind] if kind else ())))


CASES = [
    UnitCase("parallel", {"lanes": 3, "multiplier": "lut"}, "a3w3", (1, 1), 2),
    UnitCase("parallel", {"lanes": 2, "multiplier": "lut"}, "au2w3", (2,), 2),
    UnitCase("parallel", {"lanes": 3, "multiplier": "dsp"}, "a2wu3", (1, 1), 2),
    UnitCase("bitfusion", {"lanes": 1}, "au4w2", (1,), 3),
    UnitCase("bitblade", {"lanes": 1}, "a2wu4", (1,), 3),
    UnitCase("stripes", {"lanes": 4}, "a3w3", (1, 1), 2),
    UnitCase("unpu", {"lanes": 5, "outputs": 1}, "a2w2", (1,), 2),
    UnitCase("loom", {"lanes": 4}, "a2w2", (1, 1), 4),
    UnitCase("bismo", {"lanes": 4}, "a2w2", (1, 1), 4),
    UnitCase("bismo", {"lanes": 4}, "a2wu1", (2,), 4),
    UnitCase("xnor", {"lanes": 6}, "abwb", (1, 1), 6),
    UnitCase("xnor", {"lanes": 4}, "a3wb", (1, 1), 4),
    UnitCase("ternary", {"lanes": 4}, "a2wt", (1, 1), 4),
    UnitCase("ternary", {"lanes": 4}, "atwb", (1,), 4),
    UnitCase("log2", {"lanes": 3}, "a3wp3", (1, 1), 2),
]
"""At least one of every unit that is registered."""
