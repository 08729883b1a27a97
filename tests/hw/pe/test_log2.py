"""The unit for powers of two against integer arithmetic."""

from itertools import product

import numpy as np
import pytest

from bitwright.hw.formats import Int, PowerOfTwo
from bitwright.hw.pe.contract import Precision
from bitwright.hw.pe.log2 import Log2
from bitwright.hw.reduce.carry import FABRICS

WEIGHTS = [PowerOfTwo(bits) for bits in range(2, 7)]


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
def test_narrow_precision_pairs(weight, fabric, exercise):
    for bits, signed in product((1, 4), (True, False)):
        at = Precision(Int(bits, signed=signed), weight)
        exercise(Log2(lanes=2, precisions=(at,), fabric=fabric), at, count=2, steps=2)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(2, 17))
def test_every_width(bits, signed, exercise):
    at = Precision(Int(bits, signed=signed), WEIGHTS[bits % 5])
    exercise(Log2(lanes=1, precisions=(at,), fabric=FABRICS[bits % 3]), at)


@pytest.mark.parametrize("name", ["a3wp4", "au3wp3", "a2wp2"])
def test_every_pair_of_values(name, exercise):
    at = Precision.parse(name)
    pairs = product(at.activation.values, at.weight.values)
    operands = [(np.array([[a]]), np.array([[w]])) for a, w in pairs]
    exercise(Log2(lanes=1, precisions=(at,)), at, operands=operands)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("lanes", [1, 2, 5, 8])
def test_lanes(lanes, fabric, exercise):
    for name in ("a3wp4", "au2wp3"):
        at = Precision.parse(name)
        exercise(Log2(lanes=lanes, precisions=(at,), fabric=fabric), at)


def test_several_precisions_in_one_lane(exercise):
    precisions = tuple(map(Precision.parse, ("a3wp4", "au3wp2", "a1wp3")))
    unit = Log2(lanes=2, precisions=precisions)
    assert (unit.activation_word_bits, unit.weight_word_bits) == (8, 8)
    for at in precisions:
        exercise(unit, at)


@pytest.mark.parametrize("name", ["a2wp3", "au2wp2", "a1wp4"])
def test_longest_reduction_of_extremes(name, exercise):
    at = Precision.parse(name)
    unit = Log2(lanes=2, precisions=(at,), reduction=32)
    corners = product(*((format.min, format.max) for format in at))
    operands = [tuple(np.full((16, 2), value) for value in corner) for corner in corners]
    exercise(unit, at, operands=operands)


def test_one_beat():
    at = Precision.parse("a8wp4")
    unit = Log2(lanes=8, precisions=(at,))
    assert len(unit.beats(at)) == 1
    assert unit.macs_per_cycle(at) == 8


def test_stored_weights():
    """Sign and exponent; all ones of the exponent are zero."""
    at = Precision.parse("a8wp3")
    bits = Log2(lanes=7, precisions=(at,)).weight_bits(np.array([1, 2, 4, -1, -2, -4, 0]), at)
    codes = bits.reshape(7, 3) @ [1, 2, 4]
    assert codes.tolist() == [0b000, 0b001, 0b010, 0b100, 0b101, 0b110, 0b011]


@pytest.mark.parametrize("name", ["a8w8", "a17wp2", "a8wt", "abwp4"])
def test_refuses(name):
    with pytest.raises(ValueError, match=f"log2 does not support precision {name}"):
        Log2(lanes=8, precisions=(Precision.parse(name),))


def test_refuses_values():
    at = Precision.parse("a4wp3")
    unit = Log2(lanes=2, precisions=(at, Precision.parse("a8wp5")))
    with pytest.raises(ValueError, match="do not fit int4"):
        unit.activation_bits(np.full((1, 2), 8), at)
    with pytest.raises(ValueError, match="do not fit pow2_3"):
        unit.weight_bits(np.full((1, 2), 8), at)
