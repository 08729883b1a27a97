"""Stripes' unit against integer arithmetic."""

from itertools import product

import numpy as np
import pytest

from bitwright.hw.formats import Int
from bitwright.hw.pe.contract import Precision
from bitwright.hw.pe.stripes import Stripes
from bitwright.hw.reduce.carry import FABRICS

SIGNED = [Int(bits) for bits in range(1, 17)]
UNSIGNED = [Int(bits, signed=False) for bits in range(1, 17)]
NARROW = [SIGNED[0], SIGNED[2], UNSIGNED[0], UNSIGNED[2]]


def pairs(activations, weights):
    return tuple(Precision(a, w) for a, w in product(activations, weights))


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize(
    "precisions",
    [pairs(NARROW, NARROW), pairs(SIGNED[:2], UNSIGNED[:2]), pairs(UNSIGNED[:2], SIGNED[:2])],
    ids=["mixed", "signed by unsigned", "unsigned by signed"],
)
def test_every_narrow_pair_in_one_unit(precisions, fabric, exercise):
    unit = Stripes(lanes=3, precisions=precisions, fabric=fabric)
    for precision in precisions:
        exercise(unit, precision, count=1, steps=2)


@pytest.mark.parametrize("weight", [*SIGNED, *UNSIGNED], ids=str)
def test_every_weight_width_alone(weight, exercise):
    precisions = (Precision(Int(2), weight),)
    exercise(Stripes(lanes=3, precisions=precisions, fabric="ecp5"), precisions[0], count=1, steps=2)


def test_every_activation_width_in_one_unit(exercise):
    precisions = pairs([*SIGNED, *UNSIGNED], [Int(2)])
    unit = Stripes(lanes=3, precisions=precisions)
    for precision in precisions:
        exercise(unit, precision, count=0, steps=1)


@pytest.mark.parametrize("fabric", FABRICS)
def test_widest(fabric, exercise):
    precisions = pairs([SIGNED[-1], UNSIGNED[-1]], [SIGNED[-1], UNSIGNED[-1]])
    unit = Stripes(lanes=3, precisions=precisions, fabric=fabric)
    for precision in precisions:
        exercise(unit, precision, count=1, steps=2)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("lanes", [3, 4, 7, 16])
def test_lanes(lanes, fabric, exercise):
    precisions = (Precision.parse("a2w3"),)
    exercise(Stripes(lanes=lanes, precisions=precisions, fabric=fabric), precisions[0], count=2)


@pytest.mark.parametrize("text", ["a3w3", "a3wu3", "au3w3", "au3wu3"])
def test_longest_reduction_of_extremes(text, exercise):
    precision = Precision.parse(text)
    spec = Stripes(lanes=4, precisions=(precision,), reduction=32)
    corners = product(*((format.min, format.max) for format in precision))
    exercise(
        spec, precision, operands=[tuple(np.full((8, 4), value) for value in corner) for corner in corners]
    )


def test_beats_are_the_activation_width():
    precisions = pairs([*SIGNED, *UNSIGNED], [Int(2), Int(16)])
    unit = Stripes(lanes=8, precisions=precisions)
    for precision in precisions:
        planes = [beat.activation for beat in unit.beats(precision)]
        assert planes == list(reversed(range(precision.activation.bits)))
        assert unit.macs_per_cycle(precision) == 8 / precision.activation.bits


def test_control_holds_what_the_precisions_need():
    def fields(*texts):
        return set(Stripes(lanes=8, precisions=tuple(map(Precision.parse, texts))).control)

    assert fields("au1w8") == set()
    assert fields("a1w8") == {"negate"}
    assert fields("au8w8") == {"shift"}
    assert fields("au8w8", "a1w8") == {"shift", "negate"}


def test_weight_lane_is_as_wide_as_it_must_be():
    precisions = tuple(map(Precision.parse, ("a4w3", "a4wu3")))
    unit = Stripes(lanes=8, precisions=precisions)
    assert (unit.activation_word_bits, unit.weight_word_bits) == (8, 8 * 4)
    with pytest.raises(ValueError, match="do not fit int3"):
        unit.weight_bits(np.full((1, 8), 7), precisions[0])  # which fits the lane


@pytest.mark.parametrize("precision", ["abw8", "a8wb", "a8wt", "a17w1", "a1w17"])
def test_refuses_precision(precision):
    with pytest.raises(ValueError, match=f"stripes does not support precision {precision}"):
        Stripes(lanes=8, precisions=(Precision.parse(precision),))


def test_refuses_too_few_lanes():
    with pytest.raises(ValueError, match="lanes = 2: must be at least 3"):
        Stripes(lanes=2, precisions=(Precision.parse("a8w8"),))
