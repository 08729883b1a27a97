"""The decoder: whole instructions from the words of a queue, and bits that must be zero."""

import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.decode import InstructionDecoder
from bitwright.hw.sched.isa import LAYOUTS, TRANSFER, Opcode
from bitwright.hw.sched.widths import narrow_layout

CONFIG = EngineConfig(
    cols=4,
    lanes=16,
    bus_bits=32,
    address_bits=20,
    activation_depth=64,
    weight_depth=128,
    channel_depth=16,
    output_depth=32,
)


def kept_bits(layout, narrow):
    return sum((1 << field.width) - 1 << layout[name].offset for name, field in narrow)


@pytest.mark.parametrize(("idle", "stall"), [(0, 0), (0.5, 0), (0, 0.5), (0.8, 0.3), (0.3, 0.8)])
@pytest.mark.parametrize(
    "opcode", [Opcode.LOAD, Opcode.COMPUTE, Opcode.STORE], ids=lambda opcode: opcode.name
)
@pytest.mark.parametrize("bus_bits", [32, 64, 128])
def test_instructions(bus_bits, opcode, idle, stall, rng, simulate, sender, receiver, watch):
    layout = LAYOUTS[opcode]
    narrow = narrow_layout(CONFIG, opcode)
    dut = InstructionDecoder(bus_bits=bus_bits, layout=layout, narrow=narrow)
    kept = kept_bits(layout, narrow)
    unused = [bit for bit in range(256) if not kept >> bit & 1]
    patterns = []
    for _ in range(14):
        pattern = rng.getrandbits(256) & kept
        if rng.random() < 0.4:
            pattern |= 1 << rng.choice(unused)
        patterns.append(pattern)
    words = [
        pattern >> offset & (1 << bus_bits) - 1 for pattern in patterns for offset in range(0, 256, bus_bits)
    ]
    found, trace = [], []

    async def drive(ctx):
        assert ctx.get(dut.idle)
        await receiver(dut.o, found, rng, stall, count=len(patterns))(ctx)
        assert ctx.get(dut.idle)

    async def feed(ctx):
        await sender(dut.i, words, rng, idle)(ctx)

    simulate(dut, drive, feed, background=[watch(trace, dut.o.valid, dut.o.ready)])
    assert found == [
        {name: pattern >> layout[name].offset & (1 << field.width) - 1 for name, field in narrow}
        for pattern in patterns
    ]
    assert sum(valid & ready for valid, ready in trace) == len(patterns)


@pytest.mark.parametrize("bus_bits", [32, 64, 128])
def test_when_it_is_idle_and_how_long_it_takes(bus_bits, simulate):
    dut = InstructionDecoder(bus_bits=bus_bits, layout=TRANSFER, narrow=narrow_layout(CONFIG, Opcode.LOAD))
    words = 256 // bus_bits

    async def drive(ctx):
        for _ in range(2):
            assert ctx.get(dut.idle)
            ctx.set(dut.i.valid, 1)
            for _ in range(words):
                assert ctx.get(dut.i.ready)
                assert not ctx.get(dut.o.valid)
                await ctx.tick()
                assert not ctx.get(dut.idle)
            # Full: nothing more comes in until the instruction has been taken.
            for _ in range(3):
                assert ctx.get(dut.o.valid)
                assert not ctx.get(dut.i.ready)
                assert not ctx.get(dut.idle)
                await ctx.tick()
            ctx.set(dut.i.valid, 0)
            ctx.set(dut.o.ready, 1)
            await ctx.tick()
            ctx.set(dut.o.ready, 0)

    simulate(dut, drive)
