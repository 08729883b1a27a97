"""What Bit Fusion's and BitBlade's units share, on both, against integer arithmetic."""

from itertools import product

import numpy as np
import pytest

from bitwright.hw.formats import Int
from bitwright.hw.pe.bitblade import BitBlade
from bitwright.hw.pe.bitfusion import BitFusion
from bitwright.hw.pe.bricks import container
from bitwright.hw.pe.contract import Beat, Precision, packed_bits
from bitwright.hw.reduce.carry import FABRICS

UNITS = (BitBlade, BitFusion)


def pairs(*widths):
    formats = [Int(bits, signed=signed) for bits in widths for signed in (False, True)]
    return tuple(Precision(a, w) for a, w in product(formats, formats))


def bits_to_int(bits):
    return int("".join(map(str, bits[::-1])), 2)


def parsed(*names):
    return tuple(map(Precision.parse, names))


@pytest.mark.parametrize("unit", UNITS)
def test_every_pair_of_1_to_8_bits(unit, exercise):
    """All 256, in random order back to back on four units, each with every mode and sign."""
    for parities in product((0, 1), repeat=2):
        precisions = tuple(
            Precision(a, w) for a, w in pairs(*range(1, 9)) if (a.bits % 2, w.bits % 2) == parities
        )
        checked = exercise(unit(lanes=1, precisions=precisions, reduction=64), *precisions, count=1, steps=1)
        assert checked == 64 * 5


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("unit", UNITS)
def test_modes_signs_and_bytes_change_from_one_dot_product_to_the_next(unit, fabric, exercise):
    integers, others = pairs(2, 4, 8, 16), parsed("abwb", "atwu9", "a13wt", "a8wb")
    spec = unit(lanes=1, precisions=(*integers, *others), reduction=256, fabric=fabric)
    if fabric != "generic":
        # Of each pair of widths two pairs of signs, in turn the same and different ones.
        integers = tuple(
            Precision(a, w)
            for a, w in integers
            if (a.signed + w.signed + a.bits.bit_length() + w.bits.bit_length()) % 2
        )
    exercise(spec, *integers, *others, count=1, steps=1, bubbles=0.02)


@pytest.mark.parametrize("precision", ["a8w8", "au8w8", "a4wu4", "au2wu2", "au2w4", "a16wu16"])
@pytest.mark.parametrize("unit", UNITS)
def test_built_for_one_precision(unit, precision, exercise):
    (precision,) = parsed(precision)
    spec = unit(lanes=1, precisions=(precision,), reduction=100, fabric="ecp5")
    assert "a_quads" not in spec.control
    exercise(spec, precision, count=2, steps=2)


@pytest.mark.parametrize("unit", UNITS)
def test_built_for_some_precisions(unit, exercise):
    precisions = parsed("a8wu8", "a8wu2", "a4wu4")
    exercise(unit(lanes=2, precisions=precisions), *precisions, count=2)


@pytest.mark.parametrize(
    ("precisions", "a_bits", "w_bits", "control"),
    [
        (("a8w8",), 8, 8, set()),
        (("a2w2",), 32, 32, set()),
        (("a4w4",), 16, 16, set()),
        (("a8w2",), 32, 8, set()),
        (("a16w8",), 8, 8, {"shift", "a_signed"}),
        (("au16wu16",), 8, 8, {"shift"}),
        (("a8w8", "au8w8"), 8, 8, {"a_signed"}),
        (("a8w8", "a8w4"), 16, 8, {"w_quads"}),
        (("a8w8", "a2w2"), 32, 32, {"a_pairs", "a_quads", "w_pairs", "w_quads"}),
        (("a5w6", "a7w8"), 8, 8, set()),
    ],
)
def test_unused_modes_have_no_bits_in_words_and_control(precisions, a_bits, w_bits, control):
    spec = BitBlade(lanes=5, precisions=parsed(*precisions))
    assert (spec.activation_word_bits, spec.weight_word_bits) == (5 * a_bits, 5 * w_bits)
    assert set(spec.control) == control


def test_elements_and_beats():
    stored = {1: 2, 2: 2, 3: 4, 4: 4, 5: 8, 7: 8, 8: 8, 9: 16, 16: 16}
    for unit, (a, w) in product(UNITS, product(stored, stored)):
        precision = Precision(Int(a), Int(w, signed=False))
        spec = unit(lanes=3, precisions=(precision,))
        bits = [container(format).bits for format in precision]
        assert bits == [stored[a], stored[w]]
        assert spec.macs_per_cycle(precision) == 3 * 64 / (bits[0] * bits[1])
        assert len(spec.beats(precision)) == np.prod([-(-size // 8) for size in bits])


def test_words_of_16_bits_are_bytes():
    (precision,) = parsed("a16w9")
    spec = BitBlade(lanes=1, precisions=(precision,))
    words = np.packbits(spec.activation_bits(np.array([[-0x1235]]), precision), axis=-1, bitorder="little")
    assert words.tolist() == [[[0xCB], [0xED]]]
    signed = {"a_signed": 1, "w_signed": 1}
    assert spec.beats(precision) == (
        Beat(1, 1, control=signed),
        Beat(1, 0, shift=True, control={**signed, "w_signed": 0}),
        Beat(0, 1, control={**signed, "a_signed": 0}),
        Beat(0, 0, shift=True, control={"a_signed": 0, "w_signed": 0}),
    )


def test_word_holds_the_operands_brick_by_brick():
    precisions = parsed("a8w8", "a4w4", "a2w2")
    spec = BitFusion(lanes=1, precisions=precisions)

    def bricks(a, w):
        return [
            (bits.reshape(-1, 2) @ (1, 2))[places].tolist()
            for bits, places in ((a, spec.activation_places), (w, spec.weight_places))
        ]

    at8, at4, at2 = precisions
    value = np.array([0b01_10_11_00])
    a, w = bricks(spec.activation_bits(value, at8)[0], spec.weight_bits(value, at8)[0])
    assert a == [[0] * 4, [3] * 4, [2] * 4, [1] * 4]
    assert w == [[0, 3, 2, 1]] * 4
    elements = np.array([0b01_10, 0b00_11, 0b00_00, 0b01_01])
    a, w = bricks(spec.activation_bits(elements, at4)[0], spec.weight_bits(elements, at4)[0])
    assert a == [[2, 2, 3, 3], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert w == [[2, 1, 3, 0]] * 2 + [[0, 0, 1, 1]] * 2
    elements = np.arange(16) % 4 - 2
    a, w = bricks(spec.activation_bits(elements, at2)[0], spec.weight_bits(elements, at2)[0])
    assert a == w == [[2, 3, 0, 1]] * 4


@pytest.mark.parametrize("precision", ["a8w8", "a4w4", "a2w2", "a4w8", "a8w2"])
@pytest.mark.parametrize("unit", UNITS)
def test_activations_of_one_precision_lie_side_by_side(unit, precision):
    (precision,) = parsed(precision)
    spec = unit(lanes=3, precisions=(precision,))
    assert spec.feeder() is None
    values = np.random.default_rng(1).choice(precision.activation.values, (4, spec.elements(precision)))
    words = spec.activation_bits(values, precision)[:, 0]
    assert (words == packed_bits(precision.activation, values)).all()


@pytest.mark.parametrize(
    "precisions",
    [
        ("a8w8", "a4w4", "a2w2"),
        ("a8w8", "a4w8"),
        ("a8w4", "a4w4", "a2w8"),
        ("a2w2", "au4w8", "a8wt", "abwb", "atwu4"),
    ],
)
def test_feeder_repeats_what_a_memory_has_once(precisions, simulate):
    """Every step of a stored word, at every precision, is what the units take of the same elements."""
    spec = BitBlade(lanes=3, precisions=parsed(*precisions))
    feeder = spec.feeder()
    random = np.random.default_rng(1)
    seen = []

    async def drive(ctx):
        for precision in spec.precisions:
            steps = spec.stored_steps(precision)
            assert sorted(steps.reshape(-1)) == list(range(steps.size))
            values = random.choice(precision.activation.values, steps.size)
            ctx.set(feeder.i, bits_to_int(feeder.stored_bits(values, precision)))
            (beat,) = spec.beats(precision)
            for step, elements in enumerate(steps):
                ctx.set(feeder.index, spec.feeder_index(precision, step, beat))
                await ctx.tick()
                expected = spec.activation_bits(values[elements], precision)[0]
                assert ctx.get(feeder.o) == bits_to_int(expected)
                seen.append((precision, step))

    simulate(feeder, drive)
    assert len(set(seen)) == sum(len(spec.stored_steps(precision)) for precision in spec.precisions)


@pytest.mark.parametrize("unit", UNITS)
def test_longest_reduction_of_extremes_fits(unit, exercise):
    precisions = parsed("au8wu8", "au2wu2", "a8w8", "a2wu8")
    spec = unit(lanes=2, precisions=precisions, reduction=32)
    assert spec.accumulator_bits == (32 * 255 * 255).bit_length() + 1
    for elements in {spec.elements(precision) for precision in precisions}:
        alike = [precision for precision in precisions if spec.elements(precision) == elements]
        exercise(spec, *alike, count=0, steps=32 // elements, bubbles=0)


@pytest.mark.parametrize("precision", ["a8wp4", "ap3w8", "a17w8", "a8wu17"])
@pytest.mark.parametrize("unit", UNITS)
def test_refuses(unit, precision):
    with pytest.raises(
        ValueError, match=f"{unit.name} does not support precision {precision}: integers of 1"
    ):
        unit(lanes=1, precisions=parsed(precision))


def test_refuses_values_that_do_not_fit():
    spec = BitBlade(lanes=1, precisions=parsed("a7wu3"))
    with pytest.raises(ValueError, match="do not fit int7"):
        spec.activation_bits(np.array([[64, 0]]), spec.precisions[0])
    with pytest.raises(ValueError, match="do not fit uint3"):
        spec.weight_bits(np.array([[1, 8]]), spec.precisions[0])
