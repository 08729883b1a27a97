"""Scratchpads of words wider than the bus, narrower, and no multiple of it."""

import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.memory.scratchpad import Geometry, Scratchpad, geometries
from bitwright.hw.sched.isa import Buffer


@pytest.mark.parametrize(
    ("write_bits", "read_bits", "depth", "banks", "ratio", "rows"),
    [
        (32, 32, 16, 1, 1, 16),
        (32, 64, 8, 2, 1, 8),
        (64, 96, 8, 2, 1, 8),
        (32, 56, 4, 2, 1, 4),
        (32, 160, 4, 5, 1, 4),
        (32, 8, 32, 1, 4, 8),
        (64, 4, 32, 1, 16, 2),
        # Fewer words than a row holds: the row is there all the same.
        (64, 4, 8, 1, 16, 1),
        (32, 96, 1, 3, 1, 1),
        # Large ones, with registers in front of each bank.
        (64, 1024, 128, 16, 1, 128),
        (64, 160, 1024, 3, 1, 1024),
    ],
)
def test_contents_and_latency(write_bits, read_bits, depth, banks, ratio, rows, rng, simulate):
    geometry = Geometry(write_bits=write_bits, read_bits=read_bits, depth=depth)
    assert (geometry.banks, geometry.ratio, geometry.rows) == (banks, ratio, rows)
    dut = Scratchpad(geometry)
    assert dut.LATENCY == 2
    assert geometry.write_latency == (1 if read_bits * depth < 1 << 17 else 2 if banks <= 4 else 3)
    row_bits = read_bits * ratio
    contents = [0] * rows
    arriving = [None] * dut.LATENCY  # words on their way

    def word(address):
        return contents[address // ratio] >> address % ratio * read_bits & (1 << read_bits) - 1

    async def drive(ctx):
        everything = [(row, bank) for row in range(rows) for bank in range(banks)]
        rng.shuffle(everything)
        seen = None
        written = []  # rows, latest last
        for step in range(len(everything) + 200):
            # Every place is written once, then any, while other rows are read.
            to, bank = everything[step] if step < len(everything) else rng.choice(everything)
            writes = step < len(everything) or rng.random() < 0.5
            value = rng.getrandbits(write_bits)
            address = rng.randrange(rows * ratio)
            written.append(to if writes else None)
            reads = rng.random() < 0.6 and address // ratio not in written[-geometry.write_latency :]
            ctx.set(dut.write_enable, writes)
            ctx.set(dut.write_row, to)
            ctx.set(dut.write_bank, bank)
            ctx.set(dut.write_data, value)
            ctx.set(dut.read_enable, reads)
            ctx.set(dut.read_address, address)
            arriving.append(word(address) if reads else None)
            await ctx.tick()
            if writes:
                mask = (1 << write_bits) - 1 << write_bits * bank
                contents[to] = (contents[to] & ~mask | value << write_bits * bank) & (1 << row_bits) - 1
            # Without a further read the last word stays.
            arrived = arriving[step + 1]
            seen = seen if arrived is None else arrived
            if seen is not None:
                assert ctx.get(dut.read_data) == seen, step

    simulate(dut, drive)


def test_words_that_do_not_fill_a_bus_word():
    with pytest.raises(ValueError, match="Words of 24 bits do not fill a bus word of 64 bits"):
        Geometry(write_bits=64, read_bits=24, depth=16)


def test_geometries_of_a_configuration():
    config = EngineConfig(
        rows=2,
        cols=4,
        lanes=4,
        precisions=("a8w4",),
        bus_bits=64,
        requantisers=2,
        activation_depth=64,
        weight_depth=32,
        channel_depth=16,
        output_depth=16,
    )
    assert geometries(config) == {
        Buffer.ACTIVATIONS: Geometry(write_bits=64, read_bits=32, depth=64),
        Buffer.WEIGHTS: Geometry(write_bits=64, read_bits=64, depth=32),
        Buffer.CHANNELS: Geometry(write_bits=64, read_bits=192, depth=8),
        Buffer.TABLES: Geometry(write_bits=64, read_bits=32, depth=512),
    }


def test_parameters_narrower_than_the_bus_have_a_row_each():
    config = EngineConfig(
        cols=2,
        lanes=16,
        bus_bits=128,
        activation_depth=16,
        weight_depth=16,
        channel_depth=32,
        output_depth=16,
    )
    channels = geometries(config)[Buffer.CHANNELS]
    assert (channels.read_bits, channels.banks, channels.ratio, channels.rows) == (128, 1, 1, 32)
