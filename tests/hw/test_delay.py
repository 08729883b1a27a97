"""Values from some cycles ago, from one register per cycle and from fewer."""

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, ResetInserter, Signal, signed

from bitwright.hw.delay import delay, held_delay, pulses


@pytest.mark.parametrize("stages", [0, 1, 4])
@pytest.mark.parametrize("shape", [1, 8, signed(5)], ids=str)
def test_values(shape, stages, rng, simulate, watch):
    m = Module()
    value = Signal(shape)
    m.d.sync += Signal().eq(value)  # a clock, where there are no stages
    delayed = delay(m, value, stages, "delayed")
    assert delayed.shape() == value.shape()
    values = [rng.randrange(-16, 16) if shape == signed(5) else rng.getrandbits(shape) for _ in range(30)]

    async def drive(ctx):
        for item in values:
            ctx.set(value, item)
            await ctx.tick()

    trace = []
    simulate(m, drive, background=[watch(trace, delayed)])
    assert [item for (item,) in trace] == [0] * stages + values[: len(values) - stages]


@pytest.mark.parametrize("reset_less", [True, False])
def test_reset(reset_less, simulate):
    inner = Module()
    value = Signal(8)
    delayed = delay(inner, value, 2, "delayed", reset_less=reset_less)
    reset = Signal()
    m = Module()
    m.submodules.inner = ResetInserter(reset)(inner)

    async def drive(ctx):
        ctx.set(value, 7)
        await ctx.tick().repeat(3)
        ctx.set(reset, 1)
        await ctx.tick()
        assert ctx.get(delayed) == (7 if reset_less else 0)

    simulate(m, drive)


def test_pulses(rng, simulate, watch):
    m = Module()
    pulse = Signal()
    later = pulses(m, pulse, 3, "pulse")
    assert len(later) == 4
    given = [rng.randint(0, 1) for _ in range(40)]

    async def drive(ctx):
        for high in given:
            ctx.set(pulse, high)
            await ctx.tick()

    trace = []
    simulate(m, drive, background=[watch(trace, *later)])
    for stages in range(4):
        assert [values[stages] for values in trace] == [0] * stages + given[: 40 - stages]


@pytest.mark.parametrize(("every", "held"), [(1, 1), (2, 1), (3, 3), (4, 1), (4, 4), (7, 2)])
@pytest.mark.parametrize("stages", [0, 1, 3, 4, 9])
def test_value_of_a_pulse(stages, every, held, rng, simulate, watch):
    """Pulses at their least distance and farther apart; junk wherever the value does not count."""
    m = Module()
    pulse = Signal()
    value = Signal(16)
    later = pulses(m, pulse, max(1, stages), "pulse")
    out = held_delay(m, value, stages, "value", pulses=later, every=every, held=held)
    expected = {}
    trace = []

    async def drive(ctx):
        cycle = 0
        for index in range(20):
            expected[cycle + stages] = index
            for phase in range(every + rng.choice([0, 0, 1, 5])):
                ctx.set(pulse, phase == 0)
                ctx.set(value, index if phase < held else 0xFFFF)
                await ctx.tick()
                cycle += 1
        ctx.set(pulse, 0)
        ctx.set(value, 0xFFFF)
        await ctx.tick().repeat(stages + 1)

    simulate(m, drive, background=[watch(trace, out)])
    assert {cycle: trace[cycle][0] for cycle in expected} == expected


@pytest.mark.parametrize(
    ("stages", "every", "held", "registers"), [(9, 1, 1, 9), (9, 4, 4, 2), (8, 4, 1, 2), (3, 4, 4, 0)]
)
def test_registers_saved(stages, every, held, registers):
    """What it is for: a register per ``every`` cycles instead of one per cycle."""
    m = Module()
    value = Signal(16)
    later = [Signal(name=f"pulse_{index}") for index in range(stages + 1)]
    held_delay(m, value, stages, "value", pulses=later, every=every, held=held)
    text = rtlil.convert(m, name="top", ports=[value, *later], emit_src=False)
    assert text.count("cell $dff") == registers
