"""The XNOR unit against integer arithmetic."""

import pytest

from bitwright.hw.formats import Bipolar, Int
from bitwright.hw.pe.contract import Precision
from bitwright.hw.pe.xnor import Xnor
from bitwright.hw.reduce.carry import FABRICS

BINARY = Precision.parse("abwb")
INTEGERS = tuple(
    Precision(Int(bits, signed=signed), Bipolar()) for bits in (1, 2, 3, 8, 16) for signed in (False, True)
)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("lanes", [4, 6, 8, 18, 32, 64, 100])
def test_bipolar(lanes, fabric, exercise):
    exercise(Xnor(lanes=lanes, precisions=(BINARY,), fabric=fabric), BINARY)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("precision", INTEGERS, ids=str)
@pytest.mark.parametrize("lanes", [4, 6, 10, 16])
def test_integer_activations(lanes, precision, fabric, exercise):
    exercise(Xnor(lanes=lanes, precisions=(precision,), fabric=fabric), precision, count=2)


def test_several_precisions_in_one_unit(exercise):
    precisions = (BINARY, Precision.parse("a4wb"), Precision.parse("au4wb"))
    unit = Xnor(lanes=6, precisions=precisions)
    assert unit.lane == Int(5)
    for precision in precisions:
        exercise(unit, precision)


@pytest.mark.parametrize("precision", ["a8w1", "atwb", "a17wb", "abw2"])
def test_refuses_precision(precision):
    with pytest.raises(ValueError, match=f"xnor does not support precision {precision}"):
        Xnor(lanes=8, precisions=(Precision.parse(precision),))


@pytest.mark.parametrize("lanes", [0, 2, 7])
def test_refuses_lanes(lanes):
    with pytest.raises(ValueError, match=f"lanes = {lanes}"):
        Xnor(lanes=lanes, precisions=(BINARY,))


def test_values_outside_the_format_are_refused():
    unit = Xnor(lanes=4, precisions=(Precision.parse("a8wb"), Precision.parse("a2wb")))
    import numpy as np

    with pytest.raises(ValueError, match="do not fit int2"):
        unit.activation_bits(np.array([5, 0, 0, 0]), Precision.parse("a2wb"))
