"""BISMO's unit against integer arithmetic."""

from itertools import product

import pytest

from bitwright.hw.formats import Int
from bitwright.hw.pe.bismo import Bismo
from bitwright.hw.pe.contract import Precision
from bitwright.hw.reduce.carry import FABRICS

FORMATS = [Int(bits, signed=signed) for bits in (1, 2, 3, 8) for signed in (False, True)]
PRECISIONS = tuple(Precision(a, w) for a, w in product(FORMATS, FORMATS))


@pytest.mark.parametrize("fabric", FABRICS)
def test_every_precision_pair(fabric, exercise):
    exercise(Bismo(lanes=6, precisions=PRECISIONS, fabric=fabric), *PRECISIONS, count=1, steps=2)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("lanes", [4, 5, 7, 9, 32, 64])
def test_lanes(lanes, fabric, exercise):
    precisions = (Precision.parse("a2wu3"),)
    exercise(Bismo(lanes=lanes, precisions=precisions, fabric=fabric), precisions[0])


def test_widest(exercise):
    precision = Precision.parse("a16wu16")
    exercise(Bismo(lanes=4, precisions=(precision,)), precision, count=1, steps=2)


def test_beats_are_the_product_of_the_widths():
    unit = Bismo(lanes=8, precisions=PRECISIONS)
    for precision in PRECISIONS:
        beats = unit.beats(precision)
        pairs = {(beat.activation, beat.weight) for beat in beats}
        assert len(beats) == len(pairs) == precision.activation.bits * precision.weight.bits
        assert unit.macs_per_cycle(precision) == 8 / len(beats)


@pytest.mark.parametrize("precision", ["abwb", "a17w1", "a8wt"])
def test_refuses(precision):
    with pytest.raises(ValueError, match=f"bismo does not support precision {precision}"):
        Bismo(lanes=8, precisions=(Precision.parse(precision),))
