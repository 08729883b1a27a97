"""The quant pipeline: jobs as close as they may come, against the requantisation of the golden model."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.emission import never_elaborated
from bitwright.hw.formats import Bipolar
from bitwright.hw.memory.scratchpad import Scratchpad
from bitwright.hw.quant.arithmetic import requantise
from bitwright.hw.quant.combine import FRACTION
from bitwright.hw.quant.pipeline import QuantPipeline
from bitwright.hw.quant.requantise import encode_channel
from bitwright.hw.quant.thresholds import encode_level
from bitwright.hw.sched.isa import Combine


def config(**changes):
    values = {
        "cols": 4,
        "lanes": 4,
        "bus_bits": 32,
        "reduction": 256,
        "activation_depth": 16,
        "weight_depth": 16,
        "channel_depth": 128,
        "output_depth": 64,
    }
    return EngineConfig(**{**values, **changes})


CONFIGS = [
    {},
    {"requantise_cycles": 4},
    {"rows": 3, "cols": 2},
    {"rows": 2, "requantisers": 2, "requantise_cycles": 4},
    {"rows": 3, "cols": 12, "requantisers": 4},
    {"rows": 1, "cols": 1},
    {"rows": 1, "cols": 1, "requantise_cycles": 4},
    # One granule per group: columns need no counting
    {"rows": 2, "cols": 4, "requantisers": 4, "requantise_cycles": 1},
    {"precisions": ("a4w8",), "rows": 2, "lanes": 8, "requantisers": 4},
    # Planes: columns in a part of a block, a block, several; more planes than columns
    {"pe": "bismo", "lanes": 32, "precisions": ("a8w8", "a3w3"), "rows": 2},
    {"pe": "bismo", "lanes": 32, "precisions": ("a1w8", "a5w3"), "requantisers": 4},
    {"pe": "loom", "lanes": 32, "cols": 32, "precisions": ("a4w8", "a2w8"), "requantise_cycles": 4},
    {"pe": "loom", "lanes": 8, "cols": 16, "precisions": ("a4w8", "a8w8"), "requantisers": 4},
    {"pe": "stripes", "lanes": 64, "cols": 64, "precisions": ("a2w8",), "rows": 2},
    {"pe": "stripes", "lanes": 32, "cols": 1, "precisions": ("a7w2", "a2w2"), "rows": 2},
    # Thresholds and accumulators, beside requantisation and without
    {"precisions": ("a2w8",), "lanes": 16, "quantisers": ("thresholds",)},
    {
        "precisions": ("a4w8",),
        "lanes": 8,
        "rows": 2,
        "quantisers": ("requantise", "thresholds", "accumulators"),
    },
    {
        "precisions": ("a4w8",),
        "lanes": 8,
        "quantisers": ("accumulators", "requantise", "thresholds"),
        "requantise_cycles": 4,
        "requantisers": 2,
        "cols": 8,
    },
    # Elements of one mode end where those of another begin, which takes several cycles for each
    {
        "precisions": ("a4w4",),
        "lanes": 2,
        "quantisers": ("requantise", "thresholds"),
        "requantise_cycles": 4,
        "requantisers": 2,
    },
    {"pe": "xnor", "lanes": 32, "precisions": ("abwb",), "quantisers": ("thresholds", "accumulators")},
    {"pe": "ternary", "lanes": 16, "precisions": ("atwt",), "quantisers": ("thresholds",), "requantisers": 2},
    {
        "pe": "bismo",
        "lanes": 32,
        "precisions": ("a8w8", "au3w3", "a1w2"),
        "quantisers": ("requantise", "thresholds", "accumulators"),
        "rows": 2,
    },
    {
        "pe": "loom",
        "lanes": 64,
        "cols": 64,
        "precisions": ("a4w8", "a1w1"),
        "quantisers": ("thresholds", "accumulators"),
        "channel_depth": 1024,
        "requantisers": 4,
    },
]


def random_channel(bits, rng):
    low, high = sorted(rng.randint(-(1 << bits - 1), (1 << bits - 1) - 1) for _ in range(2))
    return {
        "bias": rng.randint(-(2**20), 2**20),
        "multiplier": rng.randint(2**30, 2**31 - 1),
        "shift": rng.randint(-14, -4),
        "rounding": rng.choice(["tflite", "half_even"]),
        "zero_point": rng.randint(-(1 << bits - 1), (1 << bits - 1) - 1),
        "low": low,
        "high": high,
    }


def output_of(acc, channel, bits):
    """The stored code of one element."""
    scaled = requantise(
        np.array([acc + channel["bias"]]), channel["multiplier"], channel["shift"], channel["rounding"]
    )
    value = np.clip(scaled[0] + channel["zero_point"], channel["low"], channel["high"])
    return int(value) & (1 << bits) - 1


def granule_columns(c, storage):
    """Columns whose results share a granule."""
    return c.granule_bits if storage.planar else max(1, c.granule_bits // storage.bits)


def results_of(c, job, results, channels, levels):
    """What is made of a job's sums, by row of units."""
    mode = c.modes[job["result"]]
    storage = mode.storage
    made = []
    for row in range(c.rows):
        sums = results[row * c.cols : (row + 1) * c.cols]
        if mode.quantiser == "accumulators":
            made.append(list(sums))
        elif mode.quantiser == "requantise":
            # A sum looks up all bits of what was requantised, however few of them are stored.
            whole = job.get("combine") == Combine.SUM
            codes = [
                output_of(
                    acc,
                    channels[job["channel"] * c.requantisers + column],
                    c.result_bits if whole else storage.format.bits,
                )
                for column, acc in enumerate(sums)
            ]
            made.append(codes if whole else [int(v) for v in storage.format.decode(np.array(codes))])
        else:
            made.append(
                [
                    int(storage.format.values[reached(c, mode, job["channel"], column, acc, levels)])
                    for column, acc in enumerate(sums)
                ]
            )
    return made


def granules_of(c, job, place, values):
    """Granules that hold a row of results, by place; so many rows behind the job's first."""
    storage = c.modes[job["result"]].storage
    total = c.output_depth * c.granules_per_word
    bits = storage.encode(np.array(values))
    # A group in the middle of a block has its part of each plane.
    parts = bits.reshape(-1, c.granule_bits)
    columns = granule_columns(c, storage)
    first_granules = {c.granule(storage, column // columns * columns) for column in range(c.cols)}
    per_column = max(1, storage.bits // c.granule_bits) if not storage.planar else storage.words
    plane = storage.block // c.granule_bits if storage.planar else 1
    return [
        (
            (job["output"] + place * job["row"] + first + index * plane) % total,
            int("".join(map(str, parts[first + index * plane][::-1])), 2),
        )
        for first in first_granules
        for index in range(per_column)
    ]


def numbers(storage):
    """The numbers that the codes of a format are: two's complement, or as they are."""
    bipolar = isinstance(storage.format, Bipolar) and storage.bits == 1
    values = [0, 1] if bipolar else list(map(int, storage.format.values))
    return values, (lambda number: 2 * number - 1 if bipolar else number)


def combined(c, job, operands, tables):
    """What is made of the values of a window."""
    storage = c.modes[job["result"]].storage
    if job["combine"] == Combine.NONE:
        return operands[-1]
    if job["combine"] == Combine.MAXIMUM:
        return max(operands)
    total = 0
    for index, operand in enumerate(operands):
        code = operand
        if c.modes[job["result"]].quantiser == "thresholds":
            code = int(storage.codes(np.array([operand]))[0])
        total += tables[min(index, 1)][code]
    total = (total + 2**31) % 2**32 - 2**31
    exact = Fraction(total, 1 << FRACTION)
    # Python rounds half to even.
    rounded = round(exact) if job["half_even"] else floor(exact + Fraction(1, 2))
    low, high = job["bounds"]
    return numbers(storage)[1](min(max(rounded, low), high))


def random_place(mode, words, requantised, rows, rng):
    """Where a job's parameters begin; those of a channel that take several words at a multiple of them."""
    if mode.quantiser != "thresholds":
        return rng.randrange(requantised - words + 1)
    size = mode.channel_words
    return rng.randrange(-(-requantised // size), (rows - words * size) // size + 1) * size


def random_levels(c, row, rng):
    """A word of levels of one channel that any threshold mode may read: no more than its format has steps."""
    flip = rng.random() < 0.5
    half = 1 << c.accumulator_bits - 1
    room = min(
        len(mode.storage.format.values) - 1 - 3 * (row % mode.channel_words)
        for mode in c.modes
        if mode.quantiser == "thresholds"
    )
    levels = [rng.choice([-half, half, rng.randrange(-half, half)]) for _ in range(3)]
    return [(level if index < room else half, flip) for index, level in enumerate(levels)]


def reached(c, mode, first, column, acc, levels):
    """How many levels of a channel a sum has reached."""
    element, lane = divmod(column, c.requantisers)
    rows = range(first + element * mode.channel_words, first + (element + 1) * mode.channel_words)
    return sum((~acc if flip else acc) >= level for row in rows for level, flip in levels[row][lane])


class Play:
    """A pipeline, its parameters, and what it does with jobs.

    Parameters
    ----------
    c
        The configuration.
    rng
        Random numbers.
    simulate
        The fixture.
    """

    def __init__(self, c, rng, simulate):
        self.c = c
        self.rng = rng
        self.simulate = simulate
        self.dut = QuantPipeline(c)
        self.words = c.channel_words_per_drain
        bits = min(storage.format.bits for storage in c.storages.values())
        self.channels = [random_channel(bits, rng) for _ in range(c.channel_depth)]
        self.rows = c.channel_depth // c.requantisers
        # The second half of the parameters are levels, where there are thresholds.
        thresholds = any(mode.quantiser == "thresholds" for mode in c.modes)
        self.requantised = self.rows // 2 if thresholds else self.rows
        self.levels = [
            [random_levels(c, row, rng) if thresholds else [] for _ in range(c.requantisers)]
            for row in range(self.rows)
        ]
        self.half = 1 << c.accumulator_bits - 1

    def sums(self):
        """Random sums of a capture."""
        return [self.rng.randrange(-self.half, self.half) for _ in range(self.c.rows * self.c.cols)]

    def job(self, result):
        """A random job of a mode, without what concerns windows."""
        c, rng = self.c, self.rng
        mode = c.modes[result]
        # What is written at once is so many granules, and lies in one word.
        lanes = c.accumulator_lanes if mode.quantiser == "accumulators" else c.requantisers
        size = 1 if mode.storage.planar else max(1, lanes * mode.storage.bits // c.granule_bits)
        return {
            "output": rng.randrange(0, c.output_depth * c.granules_per_word, size),
            "row": rng.randrange(0, c.output_depth * c.granules_per_word, size),
            "result": result,
            "channel": random_place(mode, self.words, self.requantised, self.rows, rng),
            "empty": int(rng.random() < 0.25),
            "end": int(rng.random() < 0.5),
            "post": rng.randrange(8),
        }

    def __call__(self, jobs, total, tables=None):
        """Jobs with their sums, by cycle; of each cycle what is written, ``result``, ``end`` and ``post``."""
        c, dut, rng = self.c, self.dut, self.rng
        trace = []

        async def drive(ctx):
            if tables:
                entries = [entry & 2**32 - 1 for table in tables for entry in table]
                ratio = c.bus_bits // 32
                ctx.set(dut.table_enable, 1)
                for row in range(len(entries) // ratio):
                    part = entries[row * ratio :][:ratio]
                    ctx.set(dut.table_row, row)
                    ctx.set(dut.table_data, sum(entry << 32 * i for i, entry in enumerate(part)))
                    await ctx.tick()
                ctx.set(dut.table_enable, 0)
            chain = [0] * (c.rows * c.cols)
            reading = [None] * Scratchpad.LATENCY
            shift = 0
            for cycle in range(total):
                job, _ = jobs.get(cycle, (None, None))
                ctx.set(dut.job_valid, job is not None)
                if job is not None:
                    ctx.set(dut.job, {name: job[name] for name in dut.job_layout.members if name in job})
                captured = jobs.get(cycle - dut.LEAD)
                if captured is not None and not captured[0]["empty"]:
                    chain = list(captured[1])
                elif shift:
                    shifted = [rng.randrange(-self.half, self.half) for _ in range(c.requantisers)]
                    chain = chain[c.requantisers :] + shifted
                ctx.set(dut.results, chain[: c.requantisers])
                row = reading[-Scratchpad.LATENCY]
                if row is not None:
                    ctx.set(dut.channel_data, self._parameters(row))
                _, _, shift, enable, row, write, place, data, result, end, post = await ctx.tick().sample(
                    dut.shift,
                    dut.channel_enable,
                    dut.channel_row,
                    dut.write_enable,
                    dut.write_row,
                    dut.write_data,
                    dut.result,
                    dut.end,
                    dut.post,
                )
                reading.append(row if enable else None)
                granules = {
                    place * c.granules_per_word + index: data >> index * c.granule_bits
                    & (1 << c.granule_bits) - 1
                    for index in range(c.granules_per_word)
                    if write >> index & 1
                }
                trace.append((granules, result, end, post))

        self.simulate(dut, drive)
        return trace

    def _parameters(self, row):
        word = 0
        for index in range(self.c.requantisers):
            if row < self.requantised:
                part = encode_channel(**self.channels[row * self.c.requantisers + index])
            else:
                slots = self.levels[row][index]
                part = sum(encode_level(n, flip=flip) << 32 * i for i, (n, flip) in enumerate(slots))
            word |= part << 96 * index
        return word


@pytest.mark.parametrize("slack", [0, 3])
@pytest.mark.parametrize("changes", CONFIGS)
def test_jobs(changes, slack, rng, simulate):
    c = config(**changes)
    play = Play(c, rng, simulate)
    dut, words = play.dut, play.words
    jobs = {}  # by cycle
    cycle = 0
    for _ in range(16):
        results = play.sums()
        result = rng.randrange(len(c.modes))
        mode = c.modes[result]
        jobs[cycle] = (play.job(result), results)
        cycle += mode.drain_cycles + rng.randint(0, slack)
        # Accumulators come when planes have been written, and what follows them at once.
        if c.planar and mode.storage.planar:
            cycle += mode.row_cycles
    trace = play(jobs, cycle + 40)

    # What each job writes, granule by granule, each once.
    written = iter([(cycle, *item) for cycle, (found, *_) in enumerate(trace) for item in found.items()])
    ends = iter([(cycle, post) for cycle, (*_, end, post) in enumerate(trace) if end])
    for cycle, (job, results) in jobs.items():
        mode = c.modes[job["result"]]
        expected = []
        if not job["empty"]:
            for row, values in enumerate(results_of(c, job, results, play.channels, play.levels)):
                expected += granules_of(c, job, row, values)
        found = [next(written) for _ in expected]
        assert sorted((granule, value) for _, granule, value in found) == sorted(expected)
        if job["end"]:
            ended, post = next(ends)
            assert post == job["post"]
            if found:
                # A cycle after the last write, so that whoever takes the token finds the data.
                assert ended == found[-1][0] + 1
            if not c.planar:
                elements = 1 if job["empty"] else c.rows * words
                # Requantisation counts from the first phase of an element, the others from the last.
                phases = mode.phases
                last = (elements - 1) * phases + (0 if mode.quantiser == "requantise" else phases - 1)
                assert ended == cycle + dut.LEAD + last + dut.latency + 1
    assert next(written, None) is None
    assert next(ends, None) is None
    assert sum(result for _, result, *_ in trace) == sum(
        c.rows
        * words
        * (c.modes[job["result"]].phases if c.modes[job["result"]].quantiser == "accumulators" else 1)
        for job, _ in jobs.values()
        if not job["empty"]
    )


WINDOWS = [
    *CONFIGS,
    # Windows of a part of the rows, of all, and of several jobs
    {"rows": 4, "requantisers": 2},
    {"rows": 4, "cols": 4, "requantisers": 4, "combine": ("sum",)},
    {"rows": 2, "cols": 6, "requantisers": 2, "combine": ("maximum",)},
    {"rows": 2, "bus_bits": 64, "precisions": ("au8w8",), "combine": ("sum", "maximum")},
    {"bus_bits": 128, "lanes": 16, "cols": 16, "requantisers": 16, "requantise_cycles": 4},
    {"pe": "bismo", "lanes": 32, "precisions": ("a8w8", "au8w8", "au3w3"), "rows": 4, "bus_bits": 64},
    {
        "pe": "loom",
        "lanes": 32,
        "precisions": ("a4w8", "a1w1"),
        "quantisers": ("thresholds", "requantise"),
        "rows": 2,
        "combine": ("maximum",),
    },
    {
        "pe": "xnor",
        "lanes": 32,
        "precisions": ("abwb",),
        "quantisers": ("thresholds",),
        "rows": 4,
        "requantisers": 2,
    },
    {"pe": "ternary", "lanes": 16, "precisions": ("atwt",), "quantisers": ("thresholds",), "rows": 4},
]


def random_table(rng):
    """Entries that make sums of every size, many of them just between two results."""

    def entry():
        match rng.randrange(4):
            case 0:
                return rng.randrange(-(1 << 31), 1 << 31)
            case 1:
                return rng.randrange(-(1 << 22), 1 << 22)
            case 2:
                return rng.randint(-600, 600) << FRACTION - 1
            case _:
                return rng.randrange(-(1 << 27), 1 << 27)

    return [entry() for _ in range(256)]


@pytest.mark.parametrize("slack", [0, 3])
@pytest.mark.parametrize("changes", WINDOWS)
def test_windows(changes, slack, rng, simulate):
    """What is made of the results of a window, as close as jobs may come."""
    c = config(**changes)
    play = Play(c, rng, simulate)
    dut = play.dut
    tables = [random_table(rng) for _ in range(2)] if "sum" in c.combined else None
    operations = [Combine.NONE, *(Combine[name.upper()] for name in c.combined)]
    sizes = [size for size in (1, 2, 3, 4, 9) if c.rows % size == 0 or size % c.rows == 0]

    jobs, expected = {}, []
    cycle = results = 0
    before = None
    while len(jobs) < 40:
        # An instruction
        result = rng.randrange(len(c.modes))
        mode = c.modes[result]
        raw = mode.quantiser == "accumulators"
        # Accumulators come when planes have been written.
        if raw and before is not None and before.storage.planar:
            cycle += before.row_cycles
        before = mode
        size = rng.choice(sizes)
        # Each row has a window of its own, of so many jobs.
        own = "own" in dut.job_layout.members and rng.random() < 0.5
        if own:
            size = rng.choice([1, 2, 2, 3])
        empty = rng.random() < 0.15
        possible = [0] if raw else numbers(mode.storage)[0]
        low, high = sorted(rng.choice(possible) for _ in range(2))
        bits = mode.storage.bits
        common = {
            "combine": Combine.NONE if raw else rng.choice(operations),
            "window": size - 1,
            "half_even": rng.randrange(2),
            "bounds": (low, high),
            # Bits above those of the format do not count.
            "low": (low & (1 << bits) - 1 | rng.getrandbits(8) << bits) & 255 if not raw else 0,
            "high": (high & (1 << bits) - 1 | rng.getrandbits(8) << bits) & 255 if not raw else 0,
            "empty": int(empty),
            **({"own": int(own)} if "own" in dut.job_layout.members else {}),
        }
        count = 1 if empty else rng.randint(1, 3) * (size if own else max(1, size // c.rows))
        rows = []
        for index in range(count):
            end = index == count - 1
            position = index % size if own else index * c.rows % size
            job = {**play.job(result), **common, "position": position, "end": int(end)}
            sums = play.sums()
            jobs[cycle] = (job, sums)
            cycle += mode.drain_cycles + rng.randint(0, slack)
            writes = []
            for row, values in enumerate(results_of(c, job, sums, play.channels, play.levels)):
                rows.append(values)
                if not empty and (position == size - 1 if own else len(rows) % size == 0):
                    window = rows[:: -c.rows][:size][::-1] if own else rows[-size:]
                    made = [combined(c, job, list(column), tables) for column in zip(*window, strict=True)]
                    writes += granules_of(c, job, row if own else row // size, made)
                    results += play.words * (mode.phases if raw else 1)
            expected.append((job, writes))
    trace = play(jobs, cycle + 60, tables)

    written = iter([(cycle, *item) for cycle, (found, *_) in enumerate(trace) for item in found.items()])
    ends = iter([(cycle, post) for cycle, (*_, end, post) in enumerate(trace) if end])
    for job, writes in expected:
        found = [next(written) for _ in writes]
        assert sorted((granule, value) for _, granule, value in found) == sorted(writes), job
        if job["end"]:
            ended, post = next(ends)
            assert post == job["post"]
            if found:
                assert ended == found[-1][0] + 1
    assert next(written, None) is None
    assert next(ends, None) is None
    assert sum(result for _, result, *_ in trace) == results


@pytest.mark.parametrize(
    ("combine", "rows", "latency", "fields"),
    [
        ((), 2, 0, set()),
        (("maximum",), 2, 2, {"combine", "position", "window"}),
        (("sum",), 1, 5, {"combine", "position", "window", "low", "high", "half_even"}),
        (("sum",), 2, 5, {"combine", "position", "window", "low", "high", "half_even", "own"}),
    ],
)
def test_what_is_not_combined_costs_nothing(combine, rows, latency, fields):
    """Neither time nor fields of a job."""
    without = never_elaborated(QuantPipeline(config(combine=(), rows=rows)))
    dut = never_elaborated(QuantPipeline(config(combine=combine, rows=rows)))
    assert dut.latency == without.latency + latency
    assert set(dut.job_layout.members) - set(without.job_layout.members) == fields
    assert hasattr(dut, "table_enable") == ("sum" in combine)


@pytest.mark.parametrize("changes", [{}, {"rows": 2, "requantise_cycles": 4}, CONFIGS[9], CONFIGS[16]])
def test_jobs_of_an_engine_that_combines_nothing(changes, rng, simulate):
    test_jobs({**changes, "combine": ()}, 0, rng, simulate)


def test_nothing_without_a_job(rng, simulate, watch):
    c = config()
    dut = QuantPipeline(c)
    trace = []

    async def drive(ctx):
        for _ in range(30):
            ctx.set(dut.job.as_value(), rng.getrandbits(len(dut.job.as_value())))
            await ctx.tick()

    simulate(dut, drive, background=[watch(trace, dut.write_enable, dut.end, dut.shift, dut.channel_enable)])
    assert not any(any(values) for values in trace)
