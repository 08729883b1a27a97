"""The feeder against the loops of its docstring, written in Python: every word, its place, and when."""

from math import gcd

import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.emission import never_elaborated
from bitwright.hw.memory.feeder import Feeder
from bitwright.hw.memory.scratchpad import Scratchpad
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
    {"rows": 2},
    {"rows": 3, "patch_depth": 64, "lanes": 2, "bus_bits": 64},
    {"rows": 4, "combine": ()},
    {"precisions": ("a4w4",), "lanes": 1, "cols": 8},
    # Words are bit planes, of one or of several precisions
    {"pe": "bismo", "lanes": 32, "precisions": ("a3w2",)},
    {"pe": "bismo", "lanes": 32, "rows": 2, "precisions": ("a3w2", "a1w1", "au2w4")},
    {"pe": "loom", "lanes": 32, "rows": 2, "precisions": ("a2w3", "a1w1", "a3w1")},
    {"depthwise": True},
    {"packing": True},
    {"packing": True, "rows": 3, "lanes": 8, "combine": ()},
    {"packing": True, "depthwise": True, "lanes": 2, "patch_depth": 32},
]


WINDOW_FIELDS = ("inner", "outer", "step_inner", "step_outer", "words_inner", "words_outer", "tail")


def random_instruction(c, rng):
    """Fields of a COMPUTE, of a GEOMETRY and of a WINDOW, as many words as are soon walked."""
    precision = rng.randrange(len(c.precisions))
    planes = c.schedules[precision].activation_words
    base = rng.randrange(c.activation_depth)
    compute = {"base": base, "row_groups": rng.randint(1, 4), "precision": precision}
    small = [1, 1, 2, rng.randint(1, 4)]
    taps = rng.choice(small), rng.choice(small)
    # Several rows have a whole patch in their buffers at a time.
    if c.rows > 1 and planes * taps[0] * taps[1] > c.patch_depth:
        taps = 1, 1
    most = c.patch_depth // (taps[0] * taps[1]) if c.rows > 1 else 24
    geometry = {
        "opcode": Opcode.GEOMETRY,
        "words": planes * rng.randint(1, max(1, min(most // planes, rng.choice([1, 3, 24])))),
        "pixels_inner": rng.choice([1, 2, rng.randint(1, 9)]),
        "pad": rng.randrange(256),
        "taps_inner": taps[0],
        "taps_outer": taps[1],
        "taps_more": 0,
    }
    for name in ("inner", "outer"):
        geometry |= {
            f"dilation_{name}": rng.randint(0, 3),
            f"start_{name}": rng.randint(-4, 3),
            f"stride_{name}": rng.randint(0, 3),
            f"limit_{name}": rng.randint(1, 12),
            f"pixel_{name}": rng.randrange(c.activation_depth),
            f"tap_{name}": rng.randrange(c.activation_depth),
        }
    window = None
    if c.combined:
        window = {
            "opcode": Opcode.WINDOW,
            "inner": rng.choice([0, 0, 1, 2]),
            "outer": rng.choice([0, 0, 1, 3]),
            "step_inner": rng.randint(0, 3),
            "step_outer": rng.randint(0, 3),
            "words_inner": rng.randrange(c.activation_depth),
            "words_outer": rng.randrange(c.activation_depth),
        }
    kind = rng.choice(["", *(["chain"] if c.chained else []), *(["pack"] if c.packs else [])])
    if kind:
        compute[kind] = 1
        window = window and {**window, "inner": 0, "outer": 0}
    if window and c.tails and not kind and rng.random() < 0.5:
        # Of a buffer that holds a whole patch, or that words go through.
        room = c.patch_depth - taps[0] * taps[1] * geometry["words"] if c.rows > 1 else c.patch_depth
        if room >= planes:
            window |= {"inner": 0, "outer": 0, "tail": planes * rng.randint(1, min(5, room // planes))}
            window |= {
                name: rng.randrange(c.activation_depth) for name in ("tail_base", "tail_inner", "tail_outer")
            }
    if window:
        # The last group ends a window.
        size = (window["inner"] + 1) * (window["outer"] + 1)
        compute["row_groups"] *= size // gcd(size, c.rows)
    if kind == "chain":
        geometry |= {"words": 1, "taps_more": rng.randint(1, taps[0])}
    if kind == "pack":
        lanes = c.lanes
        geometry |= {
            "words": rng.randint(1, max(1, min(4 * lanes, c.patch_depth * lanes // taps[1] - lanes))),
            "taps_inner": 1,
            "dilation_inner": rng.randrange(lanes),
            "taps_more": rng.randrange(lanes),
        }
    return compute, geometry, window


def patches(c, compute, geometry, window, memory):
    """Patch after patch, as lists of words; of a packed one's last word only the lanes that are filled, as a
    pair with their number."""
    g = geometry
    planes = c.schedules[compute["precision"]].activation_words
    planar = max(schedule.activation_words for schedule in c.schedules) > 1
    width = c.activation_word_bits
    w = window or dict.fromkeys(WINDOW_FIELDS, 0)

    def word(x, y, address, number):
        if 0 <= x < g["limit_inner"] and 0 <= y < g["limit_outer"]:
            return memory[address % c.activation_depth]
        if planar:
            return (g["pad"] >> number % planes & 1) * ((1 << width) - 1)
        return g["pad"] * (2**width // 255) & (1 << width) - 1 if width > 8 else g["pad"] & (1 << width) - 1

    def taps(x, y, address, first, count):
        return [
            word(
                x + i * g["dilation_inner"],
                y + o * g["dilation_outer"],
                address + i * g["tap_inner"] + o * g["tap_outer"] + number,
                number,
            )
            for i in range(first, first + count)
            for o in range(g["taps_outer"])
            for number in range(g["words"])
        ]

    def tail(inner, outer):
        if not w.get("tail"):
            return []
        address = w["tail_base"] + inner * w["tail_inner"] + outer * w["tail_outer"]
        return [memory[(address + number) % c.activation_depth] for number in range(w["tail"])]

    def packed(inner, y, address):
        lanes, bits = c.lanes, width // c.lanes
        begin = g["dilation_inner"] + inner * g["taps_more"]
        elements = []
        for o in range(g["taps_outer"]):
            for number in range(begin, begin + g["words"]):
                there, lane = divmod(number, lanes)
                x = g["start_inner"] + inner * g["stride_inner"] + there
                found = word(x, y + o * g["dilation_outer"], address + o * g["tap_outer"] + there, 0)
                elements.append(found >> lane * bits & (1 << bits) - 1)
        runs = [elements[first : first + lanes] for first in range(0, len(elements), lanes)]
        words = [sum(value << lane * bits for lane, value in enumerate(run)) for run in runs]
        return [(word, len(run) * bits) for word, run in zip(words, runs, strict=True)]

    found = []
    outer = 0
    while True:
        tap = 0  # of a chain, the next of its line
        for inner in range(g["pixels_inner"]):
            for p in range(w["inner"] + 1):
                for q in range(w["outer"] + 1):
                    x = g["start_inner"] + inner * g["stride_inner"] + p * w["step_inner"]
                    y = g["start_outer"] + outer * g["stride_outer"] + q * w["step_outer"]
                    address = compute["base"] + inner * g["pixel_inner"] + outer * g["pixel_outer"]
                    address += p * w["words_inner"] + q * w["words_outer"]
                    if "pack" in compute:
                        found.append(packed(inner, y, address))
                    elif "chain" in compute:
                        count = g["taps_more"] if inner else g["taps_inner"]
                        line = compute["base"] + outer * g["pixel_outer"]
                        found.append(taps(g["start_inner"], y, line, tap, count))
                        tap += count
                    else:
                        found.append(taps(x, y, address, 0, g["taps_inner"]) + tail(inner, outer))
                    if len(found) == compute["row_groups"] * c.rows:
                        return found
        outer += 1


def run(c, instructions, rng, simulate, watch, *, idle, pace):
    """Have the instructions fed; returns what was written, and what the feeder showed in each cycle.

    Parameters
    ----------
    idle
        Share of cycles in which no instruction begins.
    pace
        Share of cycles in which words are given back, as many as can be.
    """
    dut = Feeder(c)
    memory = [rng.getrandbits(c.activation_word_bits) for _ in range(c.activation_depth)]
    layout = narrow_layout(c, Opcode.GEOMETRY)
    most = Feeder.most_released(c)[-1]
    trace, released = [], [0]

    async def scratchpad(ctx):
        under_way = [None] * (Scratchpad.LATENCY - 1)
        while True:
            _, _, enable, address = await ctx.tick().sample(dut.read_enable, dut.read_address)
            under_way.append(memory[address] if enable else None)
            word = under_way.pop(0)
            ctx.set(dut.read_data, rng.getrandbits(c.activation_word_bits) if word is None else word)

    async def player(ctx):
        filled = 0
        while True:
            filled += (ctx.get(dut.filled) - filled) % (2 * c.patch_depth)
            can = min(most, filled - released[-1])
            count = can if rng.random() < pace else rng.randint(0, can) if rng.random() < pace else 0
            ctx.set(dut.release, count)
            await ctx.tick()
            released.append(released[-1] + count)

    async def drive(ctx):
        for compute, geometry, window in instructions:
            while rng.random() < idle:
                await ctx.tick()
            ctx.set(dut.base, compute["base"])
            ctx.set(dut.row_groups, compute["row_groups"])
            ctx.set(dut.precision, compute["precision"])
            for kind in ("chain", "pack"):
                if hasattr(dut, kind):
                    ctx.set(getattr(dut, kind), compute.get(kind, 0))
            ctx.set(
                dut.geometry,
                {name: geometry[name] % (1 << field.width) for name, field in layout if name in geometry},
            )
            if window is not None:
                ctx.set(dut.window, window)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            assert ctx.get(dut.busy)
            await ctx.tick()
            # Fields of the COMPUTE may change, and those of the GEOMETRY only when it is over.
            ctx.set(dut.base, rng.randrange(c.activation_depth))
            ctx.set(dut.row_groups, 0)
            while ctx.get(dut.busy):
                await ctx.tick()

    signals = (
        *(dut.write_enable, dut.write_address, dut.write_data, dut.filled),
        *(dut.read_enable, dut.busy, dut.start),
    )
    simulate(dut, drive, background=[watch(trace, *signals), scratchpad, player], cycles=60_000)
    return memory, trace, released


@pytest.mark.parametrize(("idle", "pace"), [(0, 1), (0, 0.3), (0.7, 0.8), (0.3, 0.1)])
@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_random_instructions(changes, idle, pace, rng, simulate, watch):
    c = config(**changes)
    instructions = [random_instruction(c, rng) for _ in range(14)]
    check(c, instructions, idle, pace, rng, simulate, watch)


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_pairs_of_fields(changes, rng, simulate, watch, pairwise):
    """Every two values of two fields that are free, least and greatest among them; the others are random."""
    c = config(**changes)
    last = c.activation_depth - 1
    geometry = {"pad": [0, 1, 255]}
    window = {}
    for name in ("inner", "outer"):
        geometry |= {
            f"start_{name}": [-4, -1, 0, 3],
            f"stride_{name}": [0, 1, 3],
            f"limit_{name}": [1, 12],
            f"pixel_{name}": [0, 1, last],
            f"tap_{name}": [0, 1, last],
        }
        window |= {f"step_{name}": [0, 1, 3], f"words_{name}": [0, 1, last]}
    geometry["dilation_outer"] = [0, 1, 3]
    instructions = []
    for row in pairwise({"base": [0, 1, last], **geometry, **(window if c.combined else {})}):
        compute, shape, combining = random_instruction(c, rng)
        compute["base"] = row["base"]
        shape |= {name: row[name] for name in geometry}
        if combining:
            combining |= {name: row[name] for name in window}
        instructions.append((compute, shape, combining))
    check(c, instructions, 0, 0.8, rng, simulate, watch)


def check(c, instructions, idle, pace, rng, simulate, watch):
    """The words that the feeder brings, where it puts them, and when it says so."""
    memory, trace, released = run(c, instructions, rng, simulate, watch, idle=idle, pace=pace)

    expected = []  # array row, place, word
    sizes = []  # words of a block: how many of them are ready together
    begin = 0
    for instruction in instructions:
        found = patches(c, *instruction, memory)
        block = c.schedules[instruction[0]["precision"]].activation_words
        for group in range(0, len(found), c.rows):
            size = len(found[group])
            for row, patch in enumerate(found[group : group + c.rows]):
                assert len(patch) == size
                expected += [(row, begin + place, word) for place, word in enumerate(patch)]
            begin += size
            sizes += [block] * (size // block)

    writes = [(cycle, row) for cycle, row in enumerate(trace) if row[0]]
    assert len(writes) == len(expected)
    filled = 0
    written = []  # for each cycle: words that are in all buffers
    for (cycle, (enable, address, data, *_)), (row, place, word) in zip(writes, expected, strict=True):
        assert enable == 1 << row
        assert address == place % c.patch_depth
        word, bits = word if isinstance(word, tuple) else (word, c.activation_word_bits)
        assert data & (1 << bits) - 1 == word
        # Never over what has not been given back.
        assert place < released[cycle] + c.patch_depth
        if row == c.rows - 1:
            written.append((cycle, place + 1))
    # What is said to be there is there, block by block, a cycle after its last word.
    blocks, total = {}, 0
    ready = {count: cycle for cycle, count in written}
    for size in sizes:
        total += size
        blocks[ready[total] + 1] = total
    for cycle, row in enumerate(trace):
        filled = blocks.get(cycle, filled)
        assert row[3] == filled % (2 * c.patch_depth)
    assert total == begin
    # It is busy until its last word has been written.
    assert trace[writes[-1][0]][5]


def test_tails(rng, simulate, watch):
    """Of every pixel, behind its taps, whatever lies outside of the map; and none where sums are not made."""
    c = config(rows=2, patch_depth=64)
    compute = {"base": 5, "row_groups": 6, "precision": 0}
    geometry = {
        "opcode": Opcode.GEOMETRY,
        **{"words": 2, "pixels_inner": 5, "pad": 0x5A, "taps_inner": 3, "taps_outer": 2, "taps_more": 0},
        **{"dilation_inner": 1, "start_inner": -1, "stride_inner": 1, "limit_inner": 5},
        **{"dilation_outer": 1, "start_outer": -1, "stride_outer": 1, "limit_outer": 3},
        **{"pixel_inner": 2, "tap_inner": 2, "pixel_outer": 10, "tap_outer": 10},
    }
    window = dict.fromkeys(WINDOW_FIELDS, 0) | {"opcode": Opcode.WINDOW}
    window |= {"tail": 3, "tail_base": 60, "tail_inner": 3, "tail_outer": 17}
    memory, trace, _ = run(c, [(compute, geometry, window)], rng, simulate, watch, idle=0, pace=1)
    words = [(row[0].bit_length() - 1, row[2]) for row in trace if row[0]]
    patch = 3 * 2 * 2 + 3
    assert len(words) == 12 * patch
    for pixel in range(12):
        part = words[pixel * patch : (pixel + 1) * patch]
        assert {row for row, _ in part} == {pixel % 2}
        address = 60 + pixel % 5 * 3 + pixel // 5 * 17
        assert [word for _, word in part[-3:]] == [memory[(address + word) % 64] for word in range(3)]
    without = never_elaborated(Feeder(config(combine=("maximum",))))
    assert without.window.shape()["tail"].width == 0
    assert Feeder.most_released(config(combine=("maximum",))) == range(2)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_word_per_cycle(rows, rng, simulate, watch):
    """As long as there is room; and the first of them after the latency of the scratchpad."""
    c = config(rows=rows, patch_depth=64)
    instructions = []
    while len(instructions) < 8:
        instruction = random_instruction(c, rng)
        if sum(map(len, patches(c, *instruction, [0] * c.activation_depth)[:: c.rows])) <= c.patch_depth // 2:
            instructions.append(instruction)
    memory, trace, _ = run(c, instructions, rng, simulate, watch, idle=0, pace=1)
    starts = [cycle for cycle, row in enumerate(trace) if row[6]]
    for start, end, instruction in zip(starts, [*starts[1:], len(trace)], instructions, strict=True):
        count = sum(map(len, patches(c, *instruction, memory)))
        reads = [cycle for cycle in range(start, end) if trace[cycle][4]]
        writes = [cycle for cycle in range(start, end) if trace[cycle][0]]
        assert reads == list(range(start + 3, start + 3 + count))
        assert writes == [cycle + Scratchpad.LATENCY for cycle in reads]


def test_it_stops_where_nothing_is_given_back(rng, simulate, watch):
    """It brings as many words as the ring has, of this instruction and of the next, and no more."""
    c = config()
    geometry = {
        "opcode": Opcode.GEOMETRY,
        **dict.fromkeys(("taps_inner", "taps_outer", "pixels_inner", "limit_inner", "limit_outer"), 1),
        "words": 7,
    }
    dut = Feeder(c)
    trace = []

    async def drive(ctx):
        ctx.set(dut.geometry, geometry)
        ctx.set(dut.row_groups, 1)
        for _ in range(3):
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            await ctx.tick().repeat(30)
        assert ctx.get(dut.busy)
        assert ctx.get(dut.filled) == c.patch_depth
        for _ in range(5):
            ctx.set(dut.release, 1)
            await ctx.tick()
        ctx.set(dut.release, 0)
        await ctx.tick().repeat(10)
        assert not ctx.get(dut.busy)
        assert ctx.get(dut.filled) == 21

    simulate(dut, drive, background=[watch(trace, dut.write_enable)])
    assert sum(enable for (enable,) in trace) == 21
