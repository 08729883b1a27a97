"""The combiner by itself: an element in every cycle or not, against plain arithmetic; latency and bounds."""

from collections import deque

import pytest
from amaranth.hdl import Module

from bitwright.hw.config import EngineConfig
from bitwright.hw.memory.load import LoadUnit
from bitwright.hw.quant.combine import FRACTION, Combiner
from bitwright.hw.sched.isa import Buffer, Combine, Opcode


def config(**changes):
    return EngineConfig(**{"cols": 4, "lanes": 8, "bus_bits": 32, **changes})


def number(code, signed):
    return code - 256 * (code >> 7) if signed else code


def rounded(total, half_even):
    """``total / 2**FRACTION``, in whole numbers."""
    floor, rest = divmod(total, 1 << FRACTION)
    half = 1 << FRACTION - 1
    return floor + (rest > half or (rest == half and (floor & 1 or not half_even)))


async def fill(ctx, dut, tables):
    """Write the tables, as LOAD does."""
    entries = [entry & 2**32 - 1 for table in tables for entry in table]
    ratio = len(dut.table_data) // 32
    ctx.set(dut.table_enable, 1)
    for row in range(len(entries) // ratio):
        part = entries[row * ratio :][:ratio]
        ctx.set(dut.table_row, row)
        ctx.set(dut.table_data, sum(entry << 32 * index for index, entry in enumerate(part)))
        await ctx.tick()
    ctx.set(dut.table_enable, 0)


async def play(ctx, dut, elements, rng=None):
    """Elements or None, by cycle; what comes out with each of them, first lane first.

    With random numbers, whatever does not count is one of those.
    """
    found = []
    sums = hasattr(dut, "low")
    for cycle in range(len(elements) + dut.latency):

        def ago(stages, cycle=cycle):
            index = cycle - stages
            return elements[index] if 0 <= index < len(elements) else None

        now = ago(0)
        if rng:
            unused = ["first", "entry", "combine", "table_row", "table_data", "half_even", "low", "high"]
            for port in (getattr(dut, name, None) for name in unused):
                if port is not None:
                    ctx.set(port, rng.getrandbits(len(port)))
        ctx.set(dut.valid, now is not None)
        if now:
            ctx.set(dut.values, now["values"])
            for name in ("first", "entry", "combine"):
                ctx.set(getattr(dut, name), now[name])
        if sums and (element := ago(dut.ROUNDING)):
            ctx.set(dut.half_even, element["half_even"])
        if sums and (element := ago(dut.BOUNDS)):
            ctx.set(dut.low, element["low"] & 255)
            ctx.set(dut.high, element["high"] & 255)
        if ago(dut.latency):
            found.append([ctx.get(dut.o[lane]) for lane in range(len(dut.o))])
        await ctx.tick()
    return found


@pytest.mark.parametrize("idle", [0, 0.3])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"requantisers": 4},
        {"requantisers": 2},
        {"requantisers": 1, "combine": ("sum",)},
        {"cols": 12, "combine": ("maximum",)},
        {"cols": 10, "requantisers": 2, "bus_bits": 64},
    ],
)
def test_elements(changes, signed, idle, rng, simulate):
    c = config(**changes, precisions=("a8w8",) if signed else ("au8w8",))
    dut = Combiner(c)
    entries = c.channel_words_per_drain
    # Between two results, and to either side by one bit, however low, or by nothing
    tables = [
        [
            (rng.choice([rng.randint(-9, 9), rng.randint(-300, 300)]) << FRACTION - 1)
            + rng.choice([-1, 0, 0, 1, 1 << rng.randrange(FRACTION)])
            for _ in range(256)
        ]
        for _ in "01"
    ]
    others = [[rng.getrandbits(32) for _ in table] for table in tables]
    operations = [Combine.NONE, *(Combine[name.upper()] for name in c.combined)]

    elements, expected = [], []
    for _ in range(110):
        low, high = sorted(number(rng.randrange(256), signed) for _ in range(2))
        if rng.random() < 0.7:
            low, high = (-128, 127) if signed else (0, 255)
        common = {"combine": rng.choice(operations), "half_even": rng.randrange(2), "low": low, "high": high}
        held = {}
        for row in range(rng.choice([1, 1, 2, 4, 9])):
            for entry in range(entries):
                while rng.random() < idle:
                    elements.append(None)
                values = [rng.randrange(256) for _ in range(c.requantisers)]
                elements.append({**common, "values": values, "first": row == 0, "entry": entry})
                made = []
                for lane, code in enumerate(values):
                    before = held.get((entry, lane))
                    value = number(code, signed)
                    if common["combine"] == Combine.SUM:
                        held[entry, lane] = tables[min(row, 1)][code] + (before or 0)
                        made.append(min(max(rounded(held[entry, lane], common["half_even"]), low), high))
                        continue
                    if common["combine"] == Combine.MAXIMUM and before is not None:
                        value = max(value, before)
                    held[entry, lane] = value
                    made.append(value)
                expected.append([value & 255 for value in made])
    found = []

    async def drive(ctx):
        if dut.tables:
            await fill(ctx, dut, others)
            await fill(ctx, dut, tables)
        found.extend(await play(ctx, dut, elements, rng))

    simulate(dut, drive)
    assert found == expected


def test_bounds_of_sums(simulate):
    """The extremes of 32 bits, and a window of as many rows as there may be."""
    dut = Combiner(config(requantisers=4))
    table = [0] * 256
    table[:6] = [2**31 - 1, -(2**31), 2**23 - 1, 1 << FRACTION - 1, -(1 << FRACTION - 1), 1 << FRACTION - 2]
    common = {"combine": Combine.SUM, "entry": 0, "low": -128, "high": 127}
    rows = [
        # Alone: to the bounds
        {"values": [0, 1, 2, 3], "first": 1, "half_even": 0},
        {"values": [3, 4, 4, 3], "first": 1, "half_even": 0},
        {"values": [3, 4, 4, 3], "first": 1, "half_even": 1},
        # The others of a window of 256 add a quarter each.
        *({"values": [5] * 4, "first": index == 0, "half_even": 0} for index in range(256)),
    ]
    found = []

    async def drive(ctx):
        await fill(ctx, dut, [table, table])
        found.extend(await play(ctx, dut, [{**common, **row} for row in rows]))

    simulate(dut, drive)
    assert found[:3] == [[127, 128, 8, 1], [1, 0, 0, 1], [0, 0, 0, 0]]
    assert found[-1] == [64] * 4


@pytest.mark.parametrize("bus_bits", [32, 64, 128])
def test_tables_by_load(bus_bits, rng, simulate):
    """What LOAD brings is what is looked up: table 0 in front of table 1, low entries first."""
    c = config(bus_bits=bus_bits, lanes=16, cols=2, requantisers=2)
    combiner, load = Combiner(c), LoadUnit(c)
    m = Module()
    m.submodules += [combiner, load]
    m.d.comb += [
        combiner.table_enable.eq(load.write_tables),
        combiner.table_row.eq(load.write_row),
        combiner.table_data.eq(load.write_data),
    ]
    memory = [rng.getrandbits(bus_bits) for _ in range(2 * 256 * 32 // bus_bits)]
    entries = [word >> 32 * index & 2**32 - 1 for word in memory for index in range(bus_bits // 32)]
    common = {"combine": Combine.SUM, "half_even": 0, "low": -128, "high": 127, "entry": 0}
    # Whole numbers, modulo 256, of an entry of one table and one of the other
    pairs = [[rng.randrange(256) for _ in range(4)] for _ in range(200)]
    found = []

    async def answer(ctx):
        ctx.set(load.request.ready, 1)
        ctx.set(load.waited, 1)
        coming = deque()
        while True:
            ctx.set(load.word_valid, bool(coming))
            if coming:
                ctx.set(load.word, coming.popleft())
            *_, valid, burst = await ctx.tick().sample(load.request.valid, load.request.payload)
            if valid:
                coming.extend(memory[burst["memory"] :][: burst["length"]])

    async def drive(ctx):
        # Halves of the memory one after the other
        half = len(memory) // 2
        for first in (0, half):
            fields = {"opcode": Opcode.LOAD, "buffer": Buffer.TABLES, "memory": first, "scratch": first}
            ctx.set(load.i.payload, {**fields, "beats": half, "row_beats": half})
            ctx.set(load.i.valid, 1)
            await ctx.tick().until(load.take)
            ctx.set(load.i.valid, 0)
            await ctx.tick().until(load.ended)
        elements = []
        for a, b, c, d in pairs:
            elements.append({**common, "values": [a, b], "first": 1})
            elements.append({**common, "values": [c, d], "first": 0})
        found.extend(await play(ctx, combiner, elements))

    simulate(m, drive, background=[answer])
    expected = []
    for codes in pairs:
        for rows in (1, 2):
            made = []
            for lane in range(2):
                total = sum(entries[256 * row + codes[2 * row + lane]] for row in range(rows))
                total = (total + 2**31) % 2**32 - 2**31
                made.append(min(max(rounded(total, 0), -128), 127) & 255)
            expected.append(made)
    assert found == expected


def test_needs_something_to_combine(refuses):
    refuses("combines no results", Combiner, config(combine=()))
