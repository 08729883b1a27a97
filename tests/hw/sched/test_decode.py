"""The decoder: whole instructions from the words of a queue, and bits that must be zero."""

from itertools import groupby

import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.decode import InstructionDecoder
from bitwright.hw.sched.isa import LAYOUTS, LOAD, Opcode
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


@pytest.mark.parametrize(("idle", "stall", "hold"), [(0, 0, 0), (0.3, 0.5, 0.2), (0, 0.7, 0.7), (0.6, 0, 0)])
@pytest.mark.parametrize("bus_bits", [32, 64, 128])
def test_settings(bus_bits, idle, stall, hold, rng, simulate, sender):
    """What only sets things is not handed on: it is in force when the next instruction comes, and stays."""
    kinds = [Opcode.GEOMETRY, Opcode.WINDOW]
    layouts = {code: (LAYOUTS[code], narrow_layout(CONFIG, code)) for code in (*kinds, Opcode.COMPUTE)}
    layout, narrow = layouts[Opcode.COMPUTE]
    dut = InstructionDecoder(
        bus_bits=bus_bits, layout=layout, narrow=narrow, settings={code: layouts[code] for code in kinds}
    )
    opcodes = [rng.choice([*kinds, Opcode.COMPUTE]) for _ in range(30)] + [Opcode.COMPUTE]
    patterns = [rng.getrandbits(256) & kept_bits(*layouts[code]) & ~15 | code for code in opcodes]
    words = [
        pattern >> offset & (1 << bus_bits) - 1 for pattern in patterns for offset in range(0, 256, bus_bits)
    ]

    def fields(pattern, code):
        wide, kept = layouts[code]
        return {name: pattern >> wide[name].offset & (1 << field.width) - 1 for name, field in kept}

    expected, in_force = [], dict.fromkeys(kinds)
    for code, pattern in zip(opcodes, patterns, strict=True):
        if code in kinds:
            in_force[code] = fields(pattern, code)
        else:
            expected.append((fields(pattern, code), dict(in_force)))
    found = []
    ports = {code: getattr(dut, code.name.lower()) for code in kinds}

    async def take(ctx):
        held = False
        while len(found) < len(expected):
            ready = rng.random() >= stall
            ctx.set(dut.o.ready, ready)
            was_held, held = held, rng.random() < hold
            ctx.set(dut.hold, held)
            before = {code: values(ctx.get(port)) for code, port in ports.items()}
            _, _, valid, payload = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            after = {code: values(ctx.get(port)) for code, port in ports.items()}
            # They stay as long as an instruction waits, and while they are held, a cycle later.
            assert after == before or not (valid or was_held)
            if valid and ready:
                known = {code: before[code] for code in kinds if expected[len(found)][1][code] is not None}
                found.append((values(payload), {**dict.fromkeys(kinds), **known}))
        assert ctx.get(dut.idle)

    def values(view):
        return {name: view[name] for name, _ in view.shape()}

    simulate(dut, sender(dut.i, words, rng, idle), take)
    assert found == expected


def test_settings_take_no_longer_than_their_words(simulate, watch):
    layout, narrow = LAYOUTS[Opcode.COMPUTE], narrow_layout(CONFIG, Opcode.COMPUTE)
    settings = {Opcode.GEOMETRY: (LAYOUTS[Opcode.GEOMETRY], narrow_layout(CONFIG, Opcode.GEOMETRY))}
    dut = InstructionDecoder(bus_bits=64, layout=layout, narrow=narrow, settings=settings)
    trace = []

    async def drive(ctx):
        ctx.set(dut.o.ready, 1)
        ctx.set(dut.i.valid, 1)
        for index in range(16):
            opcode = Opcode.GEOMETRY if index // 4 % 2 == 0 else Opcode.COMPUTE
            ctx.set(dut.i.payload, int(opcode) if index % 4 == 0 else 0)
            assert ctx.get(dut.i.ready) or index == 9
            await ctx.tick().until(dut.i.ready)

    simulate(dut, drive, background=[watch(trace, dut.o.valid)])
    assert [(valid, len(list(run))) for (valid,), run in groupby(trace)] == [(0, 9), (1, 1), (0, 7)]


@pytest.mark.parametrize("bus_bits", [32, 64, 128])
def test_when_it_is_idle_and_how_long_it_takes(bus_bits, simulate):
    dut = InstructionDecoder(bus_bits=bus_bits, layout=LOAD, narrow=narrow_layout(CONFIG, Opcode.LOAD))
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
