"""Every unit at a small width equals integer arithmetic, for all values: proved by a SAT solver."""

import pytest
from bitwright.gen.proof import prove

from bitwright.hw.pe import UNITS
from bitwright.hw.pe.bismo import Bismo
from bitwright.hw.pe.contract import Beat, Precision
from bitwright.hw.reduce.carry import FABRICS
from bitwright.sim.tools import ToolError

# Architecture, its parameters, precision, and steps of each of the dot products that follow one another. A
# multiplier block is not unfolded by a solver; what is around it is tested.
CASES = [
    ("parallel", {"lanes": 3, "multiplier": "lut"}, "a3w3", (1, 1)),
    ("parallel", {"lanes": 2, "multiplier": "lut"}, "au2w3", (2,)),
    ("bitfusion", {"lanes": 1}, "a4w4", (1,)),
    ("bitfusion", {"lanes": 1}, "au4w2", (1,)),
    ("bitblade", {"lanes": 1}, "a4w4", (1,)),
    ("bitblade", {"lanes": 1}, "a2wu4", (1,)),
    ("stripes", {"lanes": 4}, "a3w3", (1, 1)),
    ("stripes", {"lanes": 2}, "au2w3", (2,)),
    ("unpu", {"lanes": 4, "outputs": 1}, "a2w2", (1, 1)),
    ("loom", {"lanes": 4}, "a2w2", (1, 1)),
    ("loom", {"lanes": 2}, "a2wu2", (2,)),
    ("bismo", {"lanes": 4}, "a2w2", (1, 1)),
    ("bismo", {"lanes": 4}, "a2wu1", (2,)),
    ("xnor", {"lanes": 6}, "abwb", (1, 1)),
    ("xnor", {"lanes": 4}, "abwb", (2,)),
    ("xnor", {"lanes": 4}, "a3wb", (1, 1)),
    ("ternary", {"lanes": 4}, "a2wt", (1, 1)),
    ("ternary", {"lanes": 4}, "atwt", (1,)),
    ("ternary", {"lanes": 4}, "atwb", (1,)),
    ("log2", {"lanes": 3}, "a3wp3", (1, 1)),
]


def test_every_unit_is_here():
    assert {name for name, *_ in CASES} == set(UNITS)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize(
    ("name", "parameters", "precision", "lengths"), CASES, ids=lambda value: str(value).replace(" ", "")
)
def test_proved(name, parameters, precision, lengths, fabric, tmp_path):
    precision = Precision.parse(precision)
    spec = UNITS[name](precisions=(precision,), reduction=16, fabric=fabric, **parameters)
    prove(spec, precision, tmp_path, lengths=lengths)


class Wrong(Bismo):
    """Takes the sign plane for any other."""

    def beats(self, precision):
        return tuple(
            Beat(beat.activation, beat.weight, shift=beat.shift, control={"negate": 0})
            for beat in super().beats(precision)
        )


def test_what_is_wrong_is_not_proved(tmp_path):
    precision = Precision.parse("a2w2")
    with pytest.raises(ToolError, match="proof|failed|Called with -verify"):
        prove(Wrong(lanes=4, precisions=(precision,), reduction=16), precision, tmp_path)
