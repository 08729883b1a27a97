"""Event counters: every event counted once, whoever asks and whenever."""

from itertools import pairwise

import pytest

from bitwright.hw.sched.counters import EventCounters
from bitwright.hw.sched.registers import COUNTERS

COUNT = len(COUNTERS)
READ_DELAY = 4
"""Cycles from the last event that a value includes to the cycle in which it is given."""


class Events:
    """Random events, and the counts as of every cycle."""

    def __init__(self, rng, clears=()):
        self.rng = rng
        self.clears = set(clears)
        self.totals = []  # of every cycle: counts that include it

    def bench(self, dut):
        # Some happen in every cycle, some seldom, one never.
        rates = [1.0, 0.0, *(self.rng.random() for _ in range(COUNT - 2))]
        self.rng.shuffle(rates)

        async def run(ctx):
            counts = [0] * COUNT
            while True:
                now = [int(self.rng.random() < rate) for rate in rates]
                clear = len(self.totals) in self.clears
                ctx.set(dut.events, sum(event << index for index, event in enumerate(now)))
                ctx.set(dut.clear, clear)
                counts = [0 if clear else count + event for count, event in zip(counts, now, strict=True)]
                self.totals.append(counts)
                await ctx.tick()

        return run

    def at(self, cycle, index):
        return self.totals[cycle][index] if cycle >= 0 else 0


@pytest.mark.parametrize("clears", [(), (40, 41, 200)])
def test_reads(clears, rng, simulate):
    dut = EventCounters(32)
    events = Events(rng, clears)
    values = []

    async def drive(ctx):
        cycle = 0
        for _ in range(40):
            index = rng.randrange(COUNT)
            ctx.set(dut.index, index)
            ctx.set(dut.read, 1)
            start = cycle
            done = False
            while not done:
                _, _, done, value = await ctx.tick().sample(dut.done, dut.value)
                cycle += 1
                assert cycle - start <= 20
            values.append((cycle - 1, index, value))
            ctx.set(dut.read, 0)
            for _ in range(rng.choice([0, 1, 2, 7, 30])):
                await ctx.tick()
                cycle += 1

    simulate(dut, drive, background=[events.bench(dut)])
    assert [value for _, _, value in values] == [
        events.at(cycle - READ_DELAY, index) for cycle, index, _ in values
    ]


def test_done_is_one_cycle_even_if_the_read_stays(rng, simulate, watch):
    dut = EventCounters(32)
    trace = []

    async def drive(ctx):
        ctx.set(dut.read, 1)
        ctx.set(dut.index, 3)
        await ctx.tick().repeat(60)

    simulate(dut, drive, background=[watch(trace, dut.done)])
    done = [cycle for cycle, (high,) in enumerate(trace) if high]
    assert [later - earlier for earlier, later in pairwise(done)] == [16] * (len(done) - 1)
    assert len(done) >= 3


def unpack(words, bus_bits):
    return [word >> offset & 0xFFFFFFFF for word in words for offset in range(0, bus_bits, 32)]


def as_of(events, values, asked):
    """The cycle of which counter 0 is, and counter i of i cycles later; None if there is no such cycle."""
    for cycle in range(asked - 4, asked + 20):
        if values == [events.at(cycle + index, index) for index in range(COUNT)]:
            return cycle
    return None


@pytest.mark.parametrize("stall", [0.0, 0.7])
@pytest.mark.parametrize("bus_bits", [32, 64, 128])
def test_snapshots(bus_bits, stall, rng, simulate, receiver):
    dut = EventCounters(bus_bits)
    events = Events(rng)
    snapshots = []

    async def drive(ctx):
        for pause in (0, 5, 90, 1, rng.randrange(16)):
            for _ in range(pause):
                await ctx.tick()
            asked = len(events.totals)
            ctx.set(dut.snapshot, 1)
            await ctx.tick()
            ctx.set(dut.snapshot, 0)
            words = []
            await receiver(dut.o, words, rng, stall, count=512 // bus_bits)(ctx)
            snapshots.append((asked, unpack(words, bus_bits)))
            for _ in range(10):
                await ctx.tick()
                assert not ctx.get(dut.o.valid)

    simulate(dut, drive, background=[events.bench(dut)])
    for asked, values in snapshots:
        assert len(values) == COUNT
        assert as_of(events, values, asked) is not None


@pytest.mark.parametrize(
    ("delay", "taken"), [(1, 0), (10, 0), (30, 0), (38, 0), (100, 0), (100, 1), (100, 7)]
)
def test_clear_forgets_a_snapshot_under_way(delay, taken, rng, simulate, receiver):
    """A fault may leave a snapshot untaken; the next run's must be its own, and whole."""
    dut = EventCounters(32)
    asked = 20
    cleared = asked + delay
    events = Events(rng, clears=[cleared])

    async def snapshot(ctx):
        ctx.set(dut.snapshot, 1)
        await ctx.tick()
        ctx.set(dut.snapshot, 0)

    async def drive(ctx):
        await ctx.tick().repeat(asked)
        await snapshot(ctx)
        await receiver(dut.o, [], rng, 0, count=taken)(ctx)
        while len(events.totals) <= cleared:
            await ctx.tick()
        for _ in range(60):
            assert not ctx.get(dut.o.valid)
            await ctx.tick()
        asked_again = len(events.totals)
        await snapshot(ctx)
        words = []
        await receiver(dut.o, words, rng, 0, count=COUNT)(ctx)
        assert as_of(events, words, asked_again) is not None

    simulate(dut, drive, background=[events.bench(dut)], cycles=1000)
