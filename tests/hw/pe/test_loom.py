"""Loom's unit against integer arithmetic."""

from itertools import product

import numpy as np
import pytest

from bitwright.hw.formats import Int
from bitwright.hw.pe.contract import Precision
from bitwright.hw.pe.loom import Loom
from bitwright.hw.reduce.carry import FABRICS

FORMATS = [Int(bits, signed=signed) for bits in (1, 2, 4) for signed in (False, True)]
PRECISIONS = tuple(Precision(a, w) for a, w in product(FORMATS, FORMATS))


@pytest.mark.parametrize("fabric", FABRICS)
def test_every_precision_pair(fabric, exercise):
    unit = Loom(lanes=6, precisions=PRECISIONS, fabric=fabric)
    for precision in PRECISIONS if fabric == "generic" else PRECISIONS[::5]:
        exercise(unit, precision, count=1, steps=2)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 7, 16, 33])
def test_lanes(lanes, fabric, exercise):
    precisions = (Precision.parse("a2wu3"),)
    exercise(Loom(lanes=lanes, precisions=precisions, fabric=fabric), precisions[0])


def test_every_width(exercise):
    """Of either operand, of either sign, in one unit."""
    precisions = [Precision(Int(bits), Int(17 - bits, signed=bits % 2 == 0)) for bits in range(1, 17)]
    precisions += [
        Precision(Int(bits, signed=False), Int(17 - bits, signed=bits % 2 == 1)) for bits in range(1, 17)
    ]
    unit = Loom(lanes=2, precisions=tuple(precisions))
    for precision in precisions:
        exercise(unit, precision, count=0, steps=1, bubbles=0)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("name", ["a3w2", "au3w2", "a3wu2", "au3wu2", "a1w1", "au1w1", "a1wu1"])
def test_built_for_one_precision(name, fabric, exercise):
    """The accumulators hold its corners, though they are no wider than that one needs."""
    precision = Precision.parse(name)
    unit = Loom(lanes=5, precisions=(precision,), reduction=35, fabric=fabric)
    values = product(*((format.min, format.max) for format in precision))
    exercise(unit, precision, operands=[tuple(np.full((7, 5), value) for value in pair) for pair in values])


def test_beats_are_the_product_of_the_widths():
    unit = Loom(lanes=8, precisions=PRECISIONS)
    for precision in PRECISIONS:
        a, w = precision
        beats = unit.beats(precision)
        pairs = {(beat.activation, beat.weight) for beat in beats}
        assert len(beats) == len(pairs) == a.bits * w.bits
        assert sum(beat.control["plane_end"] for beat in beats) == w.bits
        assert [beat.control["step_end"] for beat in beats] == [*[0] * (len(beats) - 1), 1]
        assert unit.macs_per_cycle(precision) == 8 / len(beats)


def test_a_weight_plane_is_held():
    precision = Precision.parse("a3w2")
    beats = Loom(lanes=8, precisions=(precision,)).beats(precision)
    assert [beat.weight for beat in beats] == [1, 1, 1, 0, 0, 0]
    assert [beat.activation for beat in beats] == [2, 1, 0, 2, 1, 0]


@pytest.mark.parametrize("precision", ["abwb", "a17w1", "a8wt", "a4wp3"])
def test_refuses(precision):
    with pytest.raises(ValueError, match=f"loom does not support precision {precision}"):
        Loom(lanes=8, precisions=(Precision.parse(precision),))
