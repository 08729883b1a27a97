"""The unit for ternary weights against integer arithmetic."""

from itertools import product

import numpy as np
import pytest

from bitwright.hw.formats import Bipolar, Int, Ternary
from bitwright.hw.pe.contract import Precision
from bitwright.hw.pe.ternary import TernaryDot
from bitwright.hw.reduce.carry import FABRICS

INTEGERS = [Int(bits, signed=signed) for bits in range(1, 17) for signed in (False, True)]
EVERY = (
    *(Precision(a, Ternary()) for a in (*INTEGERS, Bipolar(), Ternary())),
    Precision(Ternary(), Bipolar()),
)


@pytest.mark.parametrize("fabric", FABRICS)
def test_pairs_in_one_unit(fabric, exercise):
    precisions = tuple(map(Precision.parse, ("a1wt", "au1wt", "a8wt", "au8wt", "abwt", "atwt", "atwb")))
    unit = TernaryDot(lanes=3, precisions=precisions, fabric=fabric)
    for precision in precisions:
        exercise(unit, precision, count=1, steps=2)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("precision", EVERY, ids=str)
def test_every_pair_alone(precision, fabric, exercise):
    exercise(TernaryDot(lanes=2, precisions=(precision,), fabric=fabric), precision, count=1, steps=2)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("text", ["a2wt", "atwb"])
def test_every_weight_vector(text, fabric, exercise):
    precision = Precision.parse(text)
    weights = np.array(list(product(precision.weight.values, repeat=4)))
    activations = np.resize(precision.activation.values, weights.size).reshape(weights.shape)
    operands = [(a[None], w[None]) for a, w in zip(activations, weights, strict=True)]
    exercise(TernaryDot(lanes=4, precisions=(precision,), fabric=fabric), precision, operands=operands)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("lanes", [2, 5, 7, 16])
def test_lanes(lanes, fabric, exercise):
    precision = Precision.parse("a3wt")
    exercise(TernaryDot(lanes=lanes, precisions=(precision,), fabric=fabric), precision)


@pytest.mark.parametrize("text", ["a3wt", "au3wt", "abwt", "atwt", "atwb"])
def test_longest_reduction_of_extremes(text, exercise):
    precision = Precision.parse(text)
    spec = TernaryDot(lanes=4, precisions=(precision,), reduction=32)
    corners = product(*((format.min, format.max) for format in precision))
    exercise(
        spec, precision, operands=[tuple(np.full((8, 4), value) for value in corner) for corner in corners]
    )


def test_a_step_is_one_beat_and_weights_are_as_wide_as_their_codes():
    def words(*texts):
        precisions = tuple(map(Precision.parse, texts))
        unit = TernaryDot(lanes=8, precisions=precisions)
        assert all(unit.macs_per_cycle(precision) == 8 for precision in precisions)
        return unit.activation_word_bits // 8, unit.weight_word_bits // 8

    assert words("a8wt") == (8, 2)
    assert words("a8wt", "au8wt") == (9, 2)
    assert words("abwt") == (1, 2)
    assert words("abwt", "atwb") == (2, 2)
    assert words("atwb") == (2, 1)


def test_refuses_values_that_fit_the_lane_only():
    precisions = tuple(map(Precision.parse, ("a3wt", "a8wt", "atwb")))
    unit = TernaryDot(lanes=2, precisions=precisions)
    with pytest.raises(ValueError, match="do not fit int3"):
        unit.activation_bits(np.array([[4, 0]]), precisions[0])
    with pytest.raises(ValueError, match="do not fit bipolar"):
        unit.weight_bits(np.array([[1, 0]]), precisions[2])


@pytest.mark.parametrize("precision", ["a8wb", "abwb", "a8w2", "a17wt", "ap4wt"])
def test_refuses_precision(precision):
    with pytest.raises(ValueError, match=f"ternary does not support precision {precision}"):
        TernaryDot(lanes=8, precisions=(Precision.parse(precision),))


def test_refuses_too_few_lanes():
    with pytest.raises(ValueError, match="lanes = 1: must be at least 2"):
        TernaryDot(lanes=1, precisions=(Precision.parse("a8wt"),))
