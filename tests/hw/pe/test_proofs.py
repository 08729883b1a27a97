"""Every unit at a small width equals integer arithmetic, for all values: proved by a SAT solver."""

import pytest

from bitwright.gen.proof import prove
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.bismo import Bismo
from bitwright.hw.pe.contract import Beat, Precision
from bitwright.hw.reduce.carry import FABRICS
from bitwright.sim.tools import ToolError

# Architecture, its parameters, precision, steps of each of the dot products that follow one another, and how
# many elements of a step are free; more of them take a solver minutes. A solver does not unfold a multiplier
# block: what is around it is tested.
CASES = [
    ("parallel", {"lanes": 3, "multiplier": "lut"}, "a3w3", (1, 1), 2),
    ("parallel", {"lanes": 2, "multiplier": "lut"}, "au2w3", (2,), 2),
    ("bitfusion", {"lanes": 1}, "au4w2", (1,), 3),
    ("bitblade", {"lanes": 1}, "a2wu4", (1,), 3),
    ("stripes", {"lanes": 4}, "a3w3", (1, 1), 2),
    ("unpu", {"lanes": 5, "outputs": 1}, "a2w2", (1,), 2),
    ("loom", {"lanes": 4}, "a2w2", (1, 1), 4),
    ("bismo", {"lanes": 4}, "a2w2", (1, 1), 4),
    ("bismo", {"lanes": 4}, "a2wu1", (2,), 4),
    ("xnor", {"lanes": 6}, "abwb", (1, 1), 6),
    ("xnor", {"lanes": 4}, "a3wb", (1, 1), 4),
    ("ternary", {"lanes": 4}, "a2wt", (1, 1), 4),
    ("ternary", {"lanes": 4}, "atwb", (1,), 4),
    ("log2", {"lanes": 3}, "a3wp3", (1, 1), 2),
]


def test_every_unit_is_here():
    assert {name for name, *_ in CASES} == set(UNITS)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize(
    ("name", "parameters", "precision", "lengths", "free"),
    CASES,
    ids=[f"{name}-{precision}" for name, _, precision, *_ in CASES],
)
def test_proved(name, parameters, precision, lengths, free, fabric, tmp_path):
    precision = Precision.parse(precision)
    spec = UNITS[name](precisions=(precision,), reduction=16, fabric=fabric, **parameters)
    prove(spec, precision, tmp_path, lengths=lengths, free=free)


class Wrong(Bismo):
    """Takes the sign plane for any other."""

    def beats(self, precision):
        return tuple(
            Beat(beat.activation, beat.weight, shift=beat.shift, control={"negate": 0})
            for beat in super().beats(precision)
        )


def test_what_is_wrong_is_not_proved(tmp_path):
    precision = Precision.parse("a2w2")
    with pytest.raises(ToolError, match="failed"):
        prove(Wrong(lanes=4, precisions=(precision,), reduction=16), precision, tmp_path)
