"""The compute unit against its three loops, written in Python, cycle by cycle; a fake feeder brings words."""

from itertools import product

import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.memory.scratchpad import Scratchpad
from bitwright.hw.quant.pipeline import DrainJob, QuantPipeline
from bitwright.hw.sched.compute import ComputeUnit
from bitwright.hw.sched.isa import Opcode
from bitwright.hw.sched.widths import narrow_layout


def config(**changes):
    values = {
        "cols": 4,
        "lanes": 4,
        "bus_bits": 32,
        "activation_depth": 64,
        "patch_depth": 16,
        "weight_depth": 128,
        "channel_depth": 32,
        "output_depth": 64,
    }
    return EngineConfig(**{**values, **changes})


CONFIGS = [
    {},
    {"rows": 2, "requantise_cycles": 4},
    {"cols": 1, "rows": 1},  # results leave in one cycle
    {"rows": 3, "cols": 12, "requantisers": 4, "combine": ("maximum",)},
    {"rows": 6, "cols": 2, "combine": ()},
    # Beats of a step, steps inside and outside, and the words that they take
    {"pe": "bismo", "lanes": 32, "precisions": ("a3w2", "a1w1", "au2w4"), "activation_depth": 128},
    {"pe": "loom", "lanes": 32, "rows": 2, "precisions": ("a2w3", "a1w1", "a3w1")},
    {"pe": "stripes", "lanes": 64, "cols": 2, "precisions": ("a4w8", "a2w8")},
    {"pe": "stripes", "lanes": 64, "cols": 128, "precisions": ("a4w2",), "channel_depth": 256},
    {"pe": "unpu", "lanes": 8, "cols": 1, "precisions": ("a8w3", "a8w1")},
    # Modes of several durations, and accumulators beside planes
    {"precisions": ("a4w4",), "lanes": 8, "quantisers": ("thresholds", "accumulators"), "reduction": 64},
    {
        "pe": "bismo",
        "lanes": 32,
        "precisions": ("a3w2", "a4w1"),
        "quantisers": ("accumulators", "requantise", "thresholds"),
        "reduction": 64,
    },
]

LEGAL = {
    "opcode": Opcode.COMPUTE,
    "precision": 0,
    "result": 0,
    "group": 0,
    "steps": 1,
    "row_groups": 1,
    "col_groups": 1,
    "drain": 1,
}


def random_instruction(c, layout, rng):
    """Addresses, strides and output places of any value that their fields hold."""
    precision = rng.randrange(len(c.precisions))
    schedule = c.schedules[precision]
    # A unit that shifts between steps cannot stop before the last.
    drain = int(rng.random() < 0.8 or not all(map(c.unit.resumes, c.formats)))
    col_groups = rng.randint(1, 3) if drain else 1
    stored = rng.choice([1, 2, 3, rng.randint(1, 20)])
    if col_groups > 1 or len(schedule.beats) > 1:
        # What is played again must fit the ring.
        stored = min(stored, c.patch_depth // schedule.activation_words)

    def any_of(name):
        return rng.randrange(1 << layout[name].width)

    return {
        "opcode": Opcode.COMPUTE,
        "wait": rng.choice([0, 1, 4, 5]),
        "post": rng.choice([0, 1, 4, 5]),
        "drain": drain,
        # Whole words, whatever steps share them
        "steps": stored * len(schedule.stored_steps),
        "row_groups": rng.randint(1, 5) if drain else 1,
        "col_groups": col_groups,
        "activations": any_of("activations"),
        "weights": any_of("weights"),
        "channels": any_of("channels"),
        "output": any_of("output"),
        "output_row": any_of("output_row"),
        "output_group": any_of("output_group"),
        "precision": precision,
        "result": rng.randrange(len(c.modes)),
        "group": rng.randrange(c.block_groups),
    }


def random_window(c, layout, i, rng):
    """A WINDOW; its patches and the array's rows are multiples of each other, or these are fewer. Where sums
    are made, often of patches that have a tail, of which each group of columns has the whole, or a part."""
    if not c.combined:
        return None
    window = {name: rng.randrange(1 << field.width) for name, field in layout}
    window["opcode"] = Opcode.WINDOW
    parts = [patches for patches in range(1, c.rows + 1) if c.rows % patches == 0]
    window["size"] = rng.choice([rng.choice(parts), rng.randint(c.rows, c.rows + 5), 256]) - 1
    if not c.tails:
        return window
    schedule = c.schedules[i["precision"]]
    words = schedule.activation_words
    groups = i["col_groups"] if window["own"] else 1
    room = c.patch_depth
    if i["col_groups"] > 1 or len(schedule.beats) > 1:
        room -= patch_words(c, i, None)
    most = room // words // groups
    window["tail"] = 0
    if i["drain"] and most and rng.random() < 0.7:
        stored = rng.choice([1, rng.randint(1, most)])
        window |= {"tail": stored * words * groups, "tail_steps": stored * len(schedule.stored_steps)}
    return window


def patch_words(c, i, window):
    """Words of a patch and of its tail."""
    schedule = c.schedules[i["precision"]]
    own = i["steps"] // len(schedule.stored_steps) * schedule.activation_words
    return own + (window["tail"] if window and c.tails else 0)


def beats(c, layout, i, window):
    """Of each beat: words from the first patch's start to those of its step, and how many these are; from
    there to its own; address of its weights; the job if it is the last of a dot product; and how many words
    it releases, if it is the last of a tail, or None if it plays a patch."""
    schedule, mode = c.schedules[i["precision"]], c.modes[i["result"]]
    storage = mode.storage
    patches = window["size"] + 1 if window else 1
    tail = window["tail"] if window and c.tails else 0
    # Of what is played one after the other: steps, words to where they begin, and to those of the next group
    parts = [(i["steps"], 0, 0)]
    if tail:
        parts.append(
            (
                window["tail_steps"],
                patch_words(c, i, None),
                tail // i["col_groups"] if window["own"] else 0,
            )
        )
    found = []
    for m in range(i["row_groups"]):
        weights = i["weights"]
        captures = channel = 0
        # A window of more patches than there are rows goes on in the next group.
        ended, position = divmod(m * c.rows, patches) if patches >= c.rows and not tail else (m, 0)
        for n, part in product(range(i["col_groups"]), range(len(parts))):
            steps, start, each = parts[part]
            played = list(c.unit.schedule(steps, c.formats[i["precision"]]))
            if part:
                # To the same places as those that it is added to
                captures -= c.unit.outputs
            for number, (step, beat, _) in enumerate(played):
                index = schedule.beats.index(beat)
                job = None
                over = n == i["col_groups"] - 1 and number == len(played) - 1
                if step == steps - 1 and schedule.ends[index]:
                    end = m == i["row_groups"] - 1 and over and part == len(parts) - 1
                    # What a tail is added to is not written.
                    group = i["group"] + (captures if part or not tail else n * c.unit.outputs)
                    first = i["group"] * c.cols
                    place = c.granule(storage, group * c.cols) - c.granule(storage, first)
                    job = {
                        "output": i["output"] + ended * i["output_group"] + place,
                        "row": i["output_row"],
                        "result": i["result"],
                        "channel": i["channels"] + channel * c.channel_words_per_drain * mode.channel_words,
                        "empty": int(not i["drain"]),
                        "end": int(end),
                        "post": i["post"] if end else 0,
                    }
                    if window:
                        job |= {"combine": window["combine"], "window": window["size"]}
                        job["position"] = part if tail else position
                        if c.unit.outputs > 1:
                            job["part"] = captures % c.unit.outputs
                    if "sum" in c.combined:
                        job |= {name: window[name] for name in ("low", "high", "half_even")}
                    if "own" in layout.members:
                        job["own"] = int(tail > 0)
                    job = {name: value % (1 << layout[name].width) for name, value in job.items()}
                    captures += 1
                    channel += 1
                word = m * patch_words(c, i, window) + start + n * each
                word += step // len(schedule.stored_steps) * schedule.activation_words
                weight = weights + step * schedule.weight_words + schedule.weight_index[index]
                own = schedule.activation_index[index]
                gone = (tail if over else 0) if part else None
                found.append((word, schedule.activation_words, own, weight % c.weight_depth, job, gone))
            weights += steps * schedule.weight_words
    return found


class FakeFeeder:
    """Brings words, as many at a time as belong together, in random cycles, as far as there is room.

    Parameters
    ----------
    pace
        Share of cycles in which it brings something.

    Members
    -------
    brought : for each cycle, words brought before it
    released : the same, that have been given back
    started : of each instruction, the cycle in which it has been told to feed it
    """

    def __init__(self, dut, instructions, windows, rng, pace):
        self.dut = dut
        self.instructions = instructions
        self.windows = windows
        self.rng = rng
        self.pace = pace
        self.brought = []
        self.released = []
        self.started = []

    async def run(self, ctx):
        dut, c = self.dut, self.dut.config
        left = block = brought = released = 0
        busy = False
        while True:
            ctx.set(dut.filled, brought % (2 * c.patch_depth))
            ctx.set(dut.feeder_busy, busy)
            self.brought.append(brought)
            self.released.append(released)
            _, _, feed, release = await ctx.tick().sample(dut.feed, dut.release)
            assert released + release <= brought
            room = c.patch_depth - (brought - released)
            if left and room >= block and self.rng.random() < self.pace:
                brought += block
                left -= block
            released += release
            if feed:
                assert not busy
                i, window = self.instructions[len(self.started)], self.windows[len(self.started)]
                self.started.append(len(self.brought) - 1)
                left = i["row_groups"] * patch_words(c, i, window)
                block = c.schedules[i["precision"]].activation_words
                busy = True
            elif not left and self.rng.random() < self.pace:
                busy = False


def walk(dut, instructions, windows, feeder, ends):
    """What has to happen when, given when the feeder has brought what: see the comments.

    Returns of each cycle with a beat what it is; the cycles in which words are released, in which it lacks
    words, and in which it waits for results to leave; cycles of starts.
    """
    c = dut.config
    expected, releases, lacks, waits, starts = {}, {}, set(), set(), []
    free = 0  # when the results of the last capture will have left
    end = -1
    base = 0  # words before the instruction's first
    raw = [c.planar and mode.quantiser == "accumulators" for mode in c.modes]
    for i, window, fed in zip(instructions, windows, feeder.started, strict=True):
        # It is played when it is being fed, the one before has been played, and not too many are unwritten;
        # accumulators only when none are.
        cycle = max(fed, end) + 1
        while True:
            unwritten = len(starts) - sum(each < cycle for each in ends)
            if unwritten < 15 and not (raw[i["result"]] and unwritten):
                break
            cycle += 1
        starts.append(cycle)
        # Then a beat per cycle. But none in the cycle after its words have come, which is when that is seen,
        # and a last beat no sooner than the results of the last one before it have left.
        played = list(beats(c, DrainJob(c), i, window))
        final = {word: number for number, (word, *_) in enumerate(played)}
        for number, (word, words, own, weight, job, gone) in enumerate(played):
            cycle += 1
            while feeder.brought[cycle - 1] <= base + word:
                lacks.add(cycle)
                cycle += 1
            assert feeder.brought[cycle - 1] >= base + word + words
            if job is not None:
                waits.update(range(cycle, free))
                cycle = max(cycle, free)
                free = cycle + c.modes[i["result"]].drain_cycles
            if gone is None and final[word] == number:
                releases[cycle] = words
            elif gone:
                releases[cycle] = gone
            expected[cycle] = ((base + word + own) % c.patch_depth, weight, job, i["drain"])
        end = cycle
        base += i["row_groups"] * patch_words(c, i, window)
    return expected, releases, lacks, waits, starts


def instruction_bench(dut, instructions, windows, rng, idle):
    """Offers instruction after instruction, each with its WINDOW, which changes as soon as it is taken."""

    async def bench(ctx):
        for i, window in zip(instructions, windows, strict=True):
            if window is not None:
                ctx.set(dut.window, window)
            while rng.random() < idle:
                await ctx.tick()
            ctx.set(dut.i.payload, i)
            ctx.set(dut.i.valid, 1)
            ready = False
            while not ready:
                _, _, ready = await ctx.tick().sample(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    return bench


@pytest.mark.parametrize(("idle", "absent", "pace"), [(0, 0, 1), (0, 0, 0.4), (0.6, 0, 0.9), (0.2, 0.8, 0.7)])
@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_random_instructions(changes, idle, absent, pace, rng, simulate, watch):
    c = config(**changes)
    layout = narrow_layout(c, Opcode.COMPUTE)
    instructions = [random_instruction(c, layout, rng) for _ in range(12)]
    check(c, instructions, idle, absent, pace, rng, simulate, watch)


# 128 columns take most of the time of all, and have no field of their own.
@pytest.mark.parametrize("changes", [each for each in CONFIGS if each.get("cols") != 128], ids=str)
def test_pairs_of_fields(changes, rng, simulate, watch, pairwise):
    """Every two values of two fields, least and greatest among them, in one of the instructions."""
    c = config(**changes)
    layout = narrow_layout(c, Opcode.COMPUTE)
    places = ("activations", "weights", "channels", "output", "output_row", "output_group")
    choices = {
        "wait": [0, 1, 4, 5],
        "post": [0, 1, 4, 5],
        "precision": range(len(c.precisions)),
        "result": range(len(c.modes)),
        "group": sorted({0, c.block_groups - 1}),
        "row_groups": [1, 2, 4],
        "col_groups": [1, 2, 3],
        "drain": [1, 0] if all(map(c.unit.resumes, c.formats)) else [1],
        **{name: [0, (1 << layout[name].width) - 1] for name in places},
    }
    instructions = []
    for row in pairwise(choices):
        i = {**random_instruction(c, layout, rng), **row}
        schedule = c.schedules[i["precision"]]
        # A word of the patches' buffer or two, which any number of groups may play again.
        stored = min(rng.choice([1, 2]), c.patch_depth // schedule.activation_words)
        i["steps"] = stored * len(schedule.stored_steps)
        if not i["drain"]:
            i |= {"row_groups": 1, "col_groups": 1}
        instructions.append(i)
    rng.shuffle(instructions)
    check(c, instructions, 0, 0.1, 0.9, rng, simulate, watch)


def check(c, instructions, idle, absent, pace, rng, simulate, watch):
    """What the unit reads, and what it has array and quant pipeline do, cycle by cycle."""
    array_latency = rng.randint(3, 9)
    dut = ComputeUnit(c, array_latency=array_latency)
    windows = [random_window(c, narrow_layout(c, Opcode.WINDOW), i, rng) for i in instructions]
    feeder = FakeFeeder(dut, instructions, windows, rng, pace)
    trace, taken = [], []
    writing = 20  # cycles from a job to its last result

    async def drive(ctx):
        assert ctx.get(dut.idle)
        await instruction_bench(dut, instructions, windows, rng, idle)(ctx)
        while not ctx.get(dut.idle):
            await ctx.tick()
        await ctx.tick()

    ends = []

    async def around(ctx):
        """Tokens that come and go, and the quant pipeline's ends."""
        cycle = 0
        while True:
            there = rng.random() >= absent
            ctx.set(dut.waited, there)
            ctx.set(dut.ended, cycle in ends)
            _, _, take, wait_for, job_valid, job = await ctx.tick().sample(
                dut.take, dut.wait_for, dut.job_valid, dut.job
            )
            if take:
                assert there
                taken.append((cycle, wait_for))
            if job_valid and job["end"]:
                ends.append(cycle + writing)
            cycle += 1

    signals = {
        name: getattr(dut, name)
        for name in (
            *("read_enable", "activation_address", "weight_address", "beat", "last", "job_valid", "job"),
            *("beating", "draining", "lacking", "release", "illegal", "idle"),
        )
    }
    starts = []
    background = [
        around,
        feeder.run,
        watch(trace, *signals.values()),
        watch(starts, dut.i.valid, dut.i.ready),
    ]
    simulate(dut, drive, background=background, cycles=200_000)
    trace = [dict(zip(signals, row, strict=True)) for row in trace]

    def cycles(name):
        return {cycle for cycle, row in enumerate(trace) if row[name]}

    # It takes tokens when it has the feeder begin.
    assert [wait_for for _, wait_for in taken] == [i["wait"] for i in instructions]
    assert [cycle for cycle, _ in taken] == feeder.started
    assert not cycles("illegal")

    expected, releases, lacks, waits, started = walk(dut, instructions, windows, feeder, ends)
    assert [cycle for cycle, (valid, ready) in enumerate(starts) if valid and ready] == started
    issued = {
        cycle: (trace[cycle]["activation_address"], trace[cycle]["weight_address"])
        for cycle in cycles("read_enable")
    }
    assert issued == {cycle + dut.address_cycles: beat[:2] for cycle, beat in expected.items()}
    assert cycles("beating") == set(expected)
    assert cycles("lacking") == lacks
    assert cycles("draining") == waits
    assert {cycle: trace[cycle]["release"] for cycle in cycles("release")} == releases
    assert feeder.released[-1] == feeder.brought[-1]

    # The array gets a beat with its operands, the quant pipeline the job when it needs it.
    wait = dut.address_cycles + Scratchpad.LATENCY
    assert cycles("beat") == {cycle + wait for cycle in expected}
    assert cycles("last") == {
        cycle + wait for cycle, (*_, job, drain) in expected.items() if job is not None and drain
    }
    to_job = wait + array_latency - QuantPipeline.LEAD
    assert {cycle: trace[cycle]["job"] for cycle in cycles("job_valid")} == {
        cycle + to_job: job for cycle, (*_, job, _) in expected.items() if job is not None
    }

    # Not idle from when an instruction is fed to the end of its last result.
    idle_cycles = cycles("idle")
    for fed, start in zip(feeder.started, started, strict=True):
        assert not idle_cycles & set(range(fed + 1, start + 2))
    end = max(expected)
    assert end + to_job + writing not in idle_cycles
    assert end + to_job + writing + 1 in idle_cycles


def test_full_speed(rng, simulate, watch):
    """Words come as fast as they are played: a beat per cycle, and one cycle between two instructions."""
    c = config(cols=1)
    dut = ComputeUnit(c, array_latency=4)
    instructions = [
        {**LEGAL, "steps": rng.randint(6, 30), "row_groups": rng.randint(1, 4)} for _ in range(12)
    ]
    windows = [{"opcode": Opcode.WINDOW, "tail": 0}] * len(instructions)
    feeder = FakeFeeder(dut, instructions, windows, rng, 1)
    trace = []

    async def drive(ctx):
        ctx.set(dut.waited, 1)
        ctx.set(dut.ended, 0)
        await instruction_bench(dut, instructions, windows, rng, 0)(ctx)
        while ctx.get(dut.beating) or len(trace) < 20:
            await ctx.tick()
        while not ctx.get(dut.starving):
            await ctx.tick()

    simulate(dut, drive, background=[feeder.run, watch(trace, dut.beating)])
    beating = [cycle for cycle, (beat,) in enumerate(trace) if beat]
    count = sum(i["steps"] * i["row_groups"] for i in instructions)
    assert len(beating) == count
    # The feeder's own gap between instructions is hidden by what it has brought ahead.
    assert beating[-1] - beating[0] == count - 1 + len(instructions) - 1


def test_waits_and_starves(simulate):
    dut = ComputeUnit(config(), array_latency=4)

    async def drive(ctx):
        assert ctx.get(dut.starving)
        ctx.set(dut.i.payload, {**LEGAL, "steps": 3, "wait": 5})
        ctx.set(dut.i.valid, 1)
        assert not ctx.get(dut.starving)
        for _ in range(8):
            await ctx.tick()
            assert ctx.get(dut.wait_for) == 5
            assert ctx.get(dut.waiting)
            assert not ctx.get(dut.take)
            assert not ctx.get(dut.feed)
        ctx.set(dut.waited, 1)
        ctx.set(dut.feeder_busy, 1)
        # Tokens are there, but the feeder has not done with what was before.
        for _ in range(3):
            await ctx.tick()
            assert not ctx.get(dut.waiting)
            assert not ctx.get(dut.take)
        ctx.set(dut.feeder_busy, 0)
        assert ctx.get(dut.take)
        assert ctx.get(dut.feed)
        await ctx.tick()
        ctx.set(dut.waited, 0)
        ctx.set(dut.feeder_busy, 1)
        assert not ctx.get(dut.take)
        # It is held until it is played.
        assert ctx.get(dut.i.ready)
        await ctx.tick()
        ctx.set(dut.i.valid, 0)
        for step in range(3):
            for _ in range(step + 1):
                assert ctx.get(dut.lacking)
                assert not ctx.get(dut.beating)
                assert not ctx.get(dut.starving)
                await ctx.tick()
            ctx.set(dut.filled, step + 1)
            assert ctx.get(dut.lacking)
            await ctx.tick()
            assert ctx.get(dut.beating)
            assert ctx.get(dut.release) == 1
            assert not ctx.get(dut.lacking)
            await ctx.tick()
        assert ctx.get(dut.starving)
        assert not ctx.get(dut.idle)

    simulate(dut, drive)


def test_unwritten_instructions_are_bounded(simulate):
    """The count of instructions whose results are on their way does not overflow."""
    dut = ComputeUnit(config(cols=1), array_latency=4)
    starts = []

    async def drive(ctx):
        ctx.set(dut.waited, 1)
        for _ in range(200):
            _, _, ready = await ctx.tick().sample(dut.i.ready)
            starts.append(ready)
        assert sum(starts) == 15
        assert not ctx.get(dut.idle)
        # One has been written, so one more may start.
        ctx.set(dut.ended, 1)
        await ctx.tick()
        ctx.set(dut.ended, 0)
        for _ in range(50):
            _, _, ready = await ctx.tick().sample(dut.i.ready)
            starts.append(ready)
        assert sum(starts) == 16

    async def endless(ctx):
        ctx.set(dut.i.payload, LEGAL)
        ctx.set(dut.i.valid, 1)
        filled = 0
        while True:
            _, _, feed = await ctx.tick().sample(dut.feed)
            filled += feed
            ctx.set(dut.filled, filled)

    simulate(dut, drive, background=[endless])


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"row_groups": 0},
        {"col_groups": 0},
        {"drain": 0, "row_groups": 2},
        {"drain": 0, "col_groups": 2},
        {"wait": 2},
        {"post": 2},
        {"precision": 3},
        {"result": 3},
        # A sum that is shifted between beats is not over before the last.
        {"precision": 1, "drain": 0},
    ],
)
def test_illegal(changes, simulate, watch):
    c = config(pe="bismo", lanes=32, precisions=("a1w1", "a2w2", "a3w3"))
    dut = ComputeUnit(c, array_latency=4)
    trace = []

    async def drive(ctx):
        ctx.set(dut.waited, 1)
        fields = {**LEGAL, **changes}
        ctx.set(dut.i.payload, fields)
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(20)

    simulate(dut, drive, background=[watch(trace, dut.illegal, dut.take, dut.read_enable, dut.job_valid)])
    assert [illegal for illegal, *_ in trace] == [0] + [1] * 19
    assert not any(any(others) for _, *others in trace)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"drain": 0},
        {"activations": 63, "weights": 127, "channels": 31, "output": 255},
        {"wait": 5, "post": 5},
        {"steps": 64, "row_groups": 64, "col_groups": 128},
    ],
)
def test_just_legal(changes, simulate, watch):
    dut = ComputeUnit(config(), array_latency=4)
    trace = []

    async def drive(ctx):
        ctx.set(dut.waited, 1)
        ctx.set(dut.i.payload, {**LEGAL, **changes})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(10)

    simulate(dut, drive, background=[watch(trace, dut.illegal, dut.take)])
    assert not any(illegal for illegal, _ in trace)
    assert sum(take for _, take in trace) == 1
