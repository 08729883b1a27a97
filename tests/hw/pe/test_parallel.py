"""The parallel unit against integer arithmetic."""

from itertools import product

import numpy as np
import pytest
from amaranth.back import rtlil

from bitwright.hw.emission import Emission
from bitwright.hw.formats import Int
from bitwright.hw.pe.contract import Precision
from bitwright.hw.pe.parallel import Parallel
from bitwright.hw.reduce.carry import FABRICS

SIGNS = list(product((True, False), repeat=2))


def precision(a, w, signs):
    return Precision(*(Int(bits, signed=signed) for bits, signed in zip((a, w), signs, strict=True)))


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("signs", SIGNS)
def test_narrow_precision_pairs(signs, fabric, exercise):
    for a, w in product((1, 2, 3), repeat=2):
        at = precision(a, w, signs)
        exercise(Parallel(lanes=3, precisions=(at,), fabric=fabric), at, count=1, steps=2)


@pytest.mark.parametrize("a", range(4, 17))
def test_every_width(a, exercise):
    """Of activations and, as 5 and 17 have no common factor, of weights; all signs, multipliers, fabrics."""
    for index, signs in enumerate(SIGNS):
        at = precision(a, (5 * a + 4 * index) % 17 or 1, signs)
        fabric, multiplier = FABRICS[(a + index) % 3], ("lut", "dsp")[(a // 3 + index) % 2]
        if multiplier == "dsp" and 16 in (at.activation.bits, at.weight.bits):
            fabric = "ecp5"  # has blocks of 18 bits
        unit = Parallel(lanes=1, precisions=(at,), fabric=fabric, multiplier=multiplier)
        exercise(unit, at, count=2, steps=2)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("lanes", [1, 2, 5, 8])
@pytest.mark.parametrize("multiplier", ["lut", "dsp"])
def test_lanes(lanes, fabric, multiplier, exercise):
    for name in ("a3wu2", "a2w4"):
        at = Precision.parse(name)
        exercise(Parallel(lanes=lanes, precisions=(at,), fabric=fabric, multiplier=multiplier), at)


@pytest.mark.parametrize("multiplier", ["lut", "dsp"])
def test_several_precisions_in_one_lane(multiplier, exercise):
    """Unsigned 4 and signed 3 bits take lanes of 5."""
    precisions = tuple(map(Precision.parse, ("au4w2", "a3wu2", "a1wu1")))
    unit = Parallel(lanes=2, precisions=precisions, multiplier=multiplier)
    assert (unit.activation_word_bits, unit.weight_word_bits) == (10, 6)
    for at in precisions:
        exercise(unit, at)


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize(("a", "w", "outputs"), [(1, 1, 3), (2, 2, 4), (8, 4, 2), (4, 4, 3), (4, 2, 3)])
def test_outputs_side_by_side(a, w, outputs, signs, exercise):
    at = precision(a, w, signs)
    fabric = FABRICS[(a + w + SIGNS.index(signs)) % 3]
    unit = Parallel(lanes=3, precisions=(at,), fabric=fabric, multiplier="dsp", outputs=outputs)
    exercise(unit, at, steps=2)
    assert unit.macs_per_cycle(at) == 3 * outputs


def test_outputs_without_blocks(exercise):
    at = Precision.parse("a2w3")
    exercise(Parallel(lanes=2, precisions=(at,), outputs=2), at)


@pytest.mark.parametrize(("name", "outputs"), [("a2w2", 3), ("au2w2", 2)])
def test_every_weight_beside_every_other(name, outputs, exercise):
    at = Precision.parse(name)
    unit = Parallel(lanes=1, precisions=(at,), multiplier="dsp", outputs=outputs)
    assert unit.share == outputs
    sets = list(product(at.activation.values, *[at.weight.values] * outputs))
    operands = [(np.array([[a]]), np.array([[[weight] for weight in weights]])) for a, *weights in sets]
    exercise(unit, at, operands=operands, bubbles=0)


@pytest.mark.parametrize(
    ("name", "outputs", "fabric", "blocks"),
    [
        ("a8w8", 1, "generic", 1),
        ("a8w8", 2, "generic", 2),
        ("a8w4", 2, "generic", 1),
        ("a8w4", 2, "ice40", 2),
        ("a4w4", 2, "ice40", 1),
        ("a4w4", 4, "generic", 2),
        ("a4w2", 3, "generic", 1),
        ("a2w2", 4, "generic", 1),
        ("au8wu5", 2, "generic", 1),
        ("au8w5", 2, "generic", 2),
    ],
)
def test_blocks(name, outputs, fabric, blocks):
    at = Precision.parse(name)
    unit = Parallel(lanes=2, precisions=(at,), multiplier="dsp", outputs=outputs, fabric=fabric)
    text = rtlil.convert(unit.unit(), name="top", platform=Emission(), emit_src=False)
    assert text.count("cell \\bitwright_multiply ") == 2 * blocks
    assert "$mul" not in text


@pytest.mark.parametrize("multiplier", ["lut", "dsp"])
@pytest.mark.parametrize("name", ["a2w2", "a2wu2", "au3w1", "a1w1"])
def test_longest_reduction_of_extremes(name, multiplier, exercise):
    at = Precision.parse(name)
    unit = Parallel(lanes=2, precisions=(at,), reduction=32, multiplier=multiplier)
    corners = product(*((format.min, format.max) for format in at))
    operands = [tuple(np.full((16, 2), value) for value in corner) for corner in corners]
    exercise(unit, at, operands=operands)


def test_one_beat():
    at = Precision.parse("a8w8")
    unit = Parallel(lanes=8, precisions=(at,))
    assert len(unit.beats(at)) == 1
    assert unit.macs_per_cycle(at) == 8
    assert unit.steps(17, at) == 3


@pytest.mark.parametrize("name", ["abwb", "a17w1", "a8wt", "a8wp4"])
def test_refuses(name):
    with pytest.raises(ValueError, match=f"parallel does not support precision {name}"):
        Parallel(lanes=8, precisions=(Precision.parse(name),))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"multiplier": "rom"}, "multiplier = 'rom': must be one of dsp, lut"),
        ({"outputs": 0}, "outputs = 0: must be at least 1"),
        (
            {"multiplier": "dsp", "fabric": "ice40", "precisions": (Precision.parse("au16w8"),)},
            "uint16 by int8 needs operands of 17 bits, a block has 16",
        ),
    ],
)
def test_refuses_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        Parallel(**{"lanes": 8, "precisions": (Precision.parse("a8w8"),), **parameters})


@pytest.mark.parametrize("name", ["a8wu4", "au3w3"])
def test_refuses_values(name):
    at = Precision.parse(name)
    unit = Parallel(lanes=2, precisions=(at, Precision.parse("a16w16")))
    for encode, format in ((unit.activation_bits, at.activation), (unit.weight_bits, at.weight)):
        for value in (format.min - 1, format.max + 1):
            with pytest.raises(ValueError, match="do not fit"):
                encode(np.full((1, 2), value), at)
