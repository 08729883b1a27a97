"""UNPU's unit and its table generator against integer arithmetic."""

from itertools import product

import numpy as np
import pytest

from bitwright.hw.formats import Int
from bitwright.hw.pe.contract import Precision
from bitwright.hw.pe.unpu import Unpu
from bitwright.hw.reduce.carry import FABRICS


def pairs(*bits):
    formats = [Int(width, signed=signed) for width in bits for signed in (False, True)]
    return tuple(Precision(a, w) for a, w in product(formats, formats))


def test_every_precision_pair(exercise):
    precisions = pairs(1, 2, 4)
    unit = Unpu(lanes=6, precisions=precisions, outputs=2)
    for precision in precisions:
        exercise(unit, precision, count=1, steps=1)


def test_every_width(exercise):
    """Of either operand, of either sign, in one unit."""
    precisions = [Precision(Int(bits), Int(17 - bits, signed=bits % 2 == 0)) for bits in range(1, 17)]
    precisions += [
        Precision(Int(bits, signed=False), Int(17 - bits, signed=bits % 2 == 1)) for bits in range(1, 17)
    ]
    unit = Unpu(lanes=6, precisions=tuple(precisions), outputs=1)
    for precision in precisions:
        exercise(unit, precision, count=0, steps=1, bubbles=0)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("fabric", FABRICS)
def test_carry_chains(fabric, outputs, exercise):
    precisions = pairs(1, 3)
    unit = Unpu(lanes=7, precisions=precisions, outputs=outputs, fabric=fabric)
    for precision in precisions[::3]:
        exercise(unit, precision, count=1, steps=2)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("name", ["a3w2", "au3w2", "a3wu2", "au3wu2", "a1w1", "au1w1", "a1wu1"])
def test_built_for_one_precision(name, fabric, exercise):
    """The sums hold its corners, though they are no wider than that one needs."""
    precision = Precision.parse(name)
    unit = Unpu(lanes=5, precisions=(precision,), outputs=1, reduction=20, fabric=fabric)
    values = product(*((format.min, format.max) for format in precision))
    exercise(unit, precision, operands=[tuple(np.full((4, 5), value) for value in pair) for pair in values])


@pytest.mark.parametrize("name", ["a4wu3", "au4w3"])
@pytest.mark.parametrize("lanes", [5, 6, 7, 8, 9, 10, 11, 16, 33])
def test_lanes(lanes, name, exercise):
    precisions = (Precision.parse(name),)
    exercise(Unpu(lanes=lanes, precisions=precisions, outputs=2), precisions[0], count=2)


@pytest.mark.parametrize("name", ["a16w16", "au16wu16", "a1w16", "a16wu1"])
def test_widest(name, exercise):
    precision = Precision.parse(name)
    exercise(Unpu(lanes=6, precisions=(precision,), outputs=2), precision, count=1, steps=2)


def test_most_outputs(exercise):
    """With the fewest beats between two results, and between two additions to one."""
    precision = Precision.parse("a3w1")
    exercise(Unpu(lanes=6, precisions=(precision,), outputs=16), precision, bubbles=0)
    exercise(Unpu(lanes=5, precisions=(precision,), outputs=2), precision, bubbles=0, count=9)
    exercise(Unpu(lanes=5, precisions=(precision,), outputs=1), precision, bubbles=0, count=9)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize(
    ("lanes", "names"),
    [(13, ["a4w4"]), (10, ["au4w4"]), (11, ["a4w4", "au4w4"]), (5, ["a1w1"]), (6, ["au1w1"])],
)
def test_table_generator(lanes, names, fabric, rng, simulate):
    """It makes the words that the unit takes, in every cycle others."""
    precisions = tuple(map(Precision.parse, names))
    spec = Unpu(lanes=lanes, precisions=precisions, fabric=fabric)
    feeder = spec.feeder()
    random = np.random.default_rng(rng.getrandbits(32))
    beats, expected = [], []
    for precision in precisions:
        values = random.choice(precision.activation.values, (9, lanes))
        values[0], values[1] = precision.activation.min, precision.activation.max
        words = spec.activation_bits(values, precision)
        assert words.shape == (9, 16, spec.activation_word_bits)
        for index, step in product(range(16), range(9)):
            beats.append((feeder.stored_bits(values[step], precision), index))
            expected.append(words[step, index])

    def number(bits):
        return sum(int(bit) << place for place, bit in enumerate(bits))

    async def bench(ctx):
        for cycle in range(len(beats) + feeder.latency):
            if cycle < len(beats):
                ctx.set(feeder.i, number(beats[cycle][0]))
                ctx.set(feeder.index, beats[cycle][1])
            if cycle >= feeder.latency:
                assert ctx.get(feeder.o) == number(expected[cycle - feeder.latency])
            await ctx.tick()

    simulate(feeder, bench)


def test_beats_are_those_of_the_fill_and_the_planes():
    precisions = pairs(1, 2, 8)
    for outputs in (1, 16):
        unit = Unpu(lanes=64, precisions=precisions, outputs=outputs)
        for precision in precisions:
            beats = unit.beats(precision)
            w = precision.weight.bits
            assert len(beats) == 16 + outputs * w
            assert unit.macs_per_cycle(precision) == 64 * outputs / len(beats)
            assert [beat.weight for beat in beats[16:]] == [*range(w)][::-1] * outputs
            assert sum(unit.ends(precision)) == outputs


@pytest.mark.parametrize("precision", ["abwb", "a17w1", "a8wt", "a4wp3"])
def test_refuses(precision):
    with pytest.raises(ValueError, match=f"unpu does not support precision {precision}"):
        Unpu(lanes=8, precisions=(Precision.parse(precision),))


def test_refuses_fewer_lanes_than_a_table_has():
    with pytest.raises(ValueError, match="lanes = 4: must be at least 5"):
        Unpu(lanes=4, precisions=(Precision.parse("a8w8"),))


@pytest.mark.parametrize("outputs", [0, 17])
def test_refuses_outputs(outputs):
    with pytest.raises(ValueError, match=f"outputs = {outputs}: must be 1 to 16"):
        Unpu(lanes=8, precisions=(Precision.parse("a8w8"),), outputs=outputs)
