"""The load unit against a plain walk over the block: what is asked for, and what is written where."""

from collections import deque

import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.memory.load import LoadUnit
from bitwright.hw.memory.scratchpad import geometries
from bitwright.hw.sched.isa import Buffer, Opcode


def config(**changes):
    values = {
        "cols": 4,
        "lanes": 4,
        "bus_bits": 32,
        "burst_beats": 4,
        "activation_depth": 64,
        "weight_depth": 32,
        "channel_depth": 16,
        "output_depth": 256,
    }
    return EngineConfig(**{**values, **changes})


CONFIGS = [
    {},
    # Activation words of two bus words, three array rows
    {"rows": 3, "lanes": 8},
    # Activation words narrower than the bus, which takes two weight words at once
    {"rows": 2, "lanes": 2, "cols": 2, "bus_bits": 64, "burst_beats": 16},
    {"precisions": ("a4w8",), "rows": 1, "lanes": 16, "cols": 3, "bus_bits": 128, "burst_beats": 8},
    # No tables
    {"rows": 2, "combine": ("maximum",)},
    # Parameters of two channels, and little memory
    {"requantisers": 2, "rows": 4, "bus_bits": 64, "address_bits": 16, "loads_under_way": 2},
]


def word(address, bits):
    """What lies in memory."""
    return ((address + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 >> 7) & (1 << bits) - 1


def addresses(c, i):
    """Words that an instruction reads, in order."""
    return [
        (i["memory"] + beat // i["row_beats"] * i["stride"] + beat % i["row_beats"]) % 2**c.word_address_bits
        for beat in range(i["beats"])
    ]


def places(c, i):
    """(buffer, row, bank) that each word goes to."""
    buffer = Buffer(i["buffer"])
    banks = geometries(c)[buffer].banks
    return [(buffer, i["scratch"] + beat // banks, beat % banks) for beat in range(i["beats"])]


def random_instruction(c, rng):
    buffer = rng.choice(list(geometries(c)))
    pad = geometries(c)[buffer]
    rows = rng.randint(1, min(12, pad.rows))
    beats = rng.randint(max(1, (rows - 1) * pad.banks + 1), rows * pad.banks)
    contiguous = rng.random() < 0.3
    row_beats = beats if contiguous else rng.randint(1, beats)
    return {
        "opcode": Opcode.LOAD,
        "buffer": buffer,
        "wait": rng.choice([0, 2, 4, 6]),
        "post": rng.choice([0, 2, 4, 6]),
        "memory": rng.choice([rng.randrange(1 << 12), rng.randrange(1 << c.word_address_bits)]),
        "beats": beats,
        "row_beats": row_beats,
        "stride": rng.choice([row_beats, row_beats + 3, 100, 2**c.word_address_bits - 5]),
        "scratch": rng.randint(0, pad.rows - rows),
    }


def memory(dut, rng, gap, asked):
    """A bench that takes requests and answers them in order, with gaps."""

    async def bench(ctx):
        pending = deque()
        bits = len(dut.word)
        while True:
            answers = bool(pending) and rng.random() >= gap
            ctx.set(dut.request.ready, rng.random() >= gap)
            ctx.set(dut.word_valid, answers)
            ctx.set(dut.word, word(pending.popleft(), bits) if answers else rng.getrandbits(bits))
            _, _, valid, ready, burst = await ctx.tick().sample(
                dut.request.valid, dut.request.ready, dut.request.payload
            )
            if valid and ready:
                asked.append((burst["memory"], burst["length"], burst["last"]))
                pending.extend(burst["memory"] + index for index in range(burst["length"]))

    return bench


def tokens(dut, rng, absent, taken):
    """A bench in whose cycles the tokens are there or not."""

    async def bench(ctx):
        while True:
            there = rng.random() >= absent
            ctx.set(dut.waited, there)
            _, _, take, wait_for = await ctx.tick().sample(dut.take, dut.wait_for)
            if take:
                assert there
                taken.append(wait_for)

    return bench


@pytest.mark.parametrize(("gap", "absent", "idle"), [(0, 0, 0), (0.5, 0, 0), (0.2, 0.7, 0.5)])
@pytest.mark.parametrize("changes", CONFIGS)
def test_random_instructions(changes, gap, absent, idle, rng, simulate, sender, watch):
    c = config(**changes)
    instructions = [random_instruction(c, rng) for _ in range(12)]
    check(c, instructions, gap, absent, idle, rng, simulate, sender, watch)


@pytest.mark.parametrize("changes", CONFIGS)
def test_pairs_of_fields(changes, rng, simulate, sender, watch, pairwise):
    """Every two values of two fields, least and greatest among them, in one of the instructions."""
    c = config(**changes)
    top = 2**c.word_address_bits - 1
    instructions = []
    for row in pairwise(
        {
            "buffer": geometries(c),
            "wait": [0, 2, 4, 6],
            "post": [0, 2, 4, 6],
            "memory": [0, 1, top],
            "rows": ["one", "some", "all"],
            "beats": ["least", "most"],
            "row_beats": ["one", "less", "all"],
            "stride": [0, 1, "row_beats", top],
            "scratch": ["first", "last"],
        }
    ):
        pad = geometries(c)[row["buffer"]]
        rows = {"one": 1, "some": min(3, pad.rows), "all": min(16, pad.rows)}[row["rows"]]
        beats = {"least": (rows - 1) * pad.banks + 1, "most": rows * pad.banks}[row["beats"]]
        row_beats = {"one": 1, "less": max(1, beats - 1), "all": beats}[row["row_beats"]]
        instructions.append(
            {
                "opcode": Opcode.LOAD,
                **{name: row[name] for name in ("buffer", "wait", "post", "memory")},
                "beats": beats,
                "row_beats": row_beats,
                "stride": row_beats if row["stride"] == "row_beats" else row["stride"],
                "scratch": 0 if row["scratch"] == "first" else pad.rows - rows,
            }
        )
    rng.shuffle(instructions)
    check(c, instructions, 0.1, 0.1, 0, rng, simulate, sender, watch)


def check(c, instructions, gap, absent, idle, rng, simulate, sender, watch):
    """What the unit asks for, writes and says of instructions."""
    dut = LoadUnit(c)
    asked, taken, trace = [], [], []
    send = sender(dut.i, instructions, rng, idle)

    async def drive(ctx):
        assert ctx.get(dut.idle)
        await send(ctx)
        await ctx.tick().until(dut.idle)
        await ctx.tick().repeat(3)
        assert ctx.get(dut.idle)

    signals = (
        dut.write_activations,
        dut.write_weights,
        dut.write_channels,
        *([dut.write_tables] if Buffer.TABLES in dut.geometries else []),
        dut.write_row,
        dut.write_bank,
        dut.write_data,
        dut.ended,
        dut.post,
        dut.illegal,
    )
    benches = [memory(dut, rng, gap, asked), tokens(dut, rng, absent, taken), watch(trace, *signals)]
    simulate(dut, drive, background=benches)

    assert taken == [i["wait"] for i in instructions]
    assert [address + index for address, length, _ in asked for index in range(length)] == [
        address for i in instructions for address in addresses(c, i)
    ]
    assert sum(last for _, _, last in asked) == len(instructions)

    writes, ends = [], []
    for cycle, (*enables, row, bank, value, ended, post, illegal) in enumerate(trace):
        assert not illegal
        targets = [buffer for buffer, enable in zip(Buffer, enables, strict=False) if enable]
        assert len(targets) <= 1
        writes += [(cycle, target, row, bank, value) for target in targets]
        if ended:
            ends.append((cycle, post))
    expected = [
        (*place, word(address, c.bus_bits))
        for i in instructions
        for place, address in zip(places(c, i), addresses(c, i), strict=True)
    ]
    assert [write[1:] for write in writes] == expected

    # An instruction ends in the cycle after its last word.
    last = -1
    last_cycles = []
    for i in instructions:
        last += i["beats"]
        last_cycles.append(writes[last][0])
    assert ends == [(cycle + 1, i["post"]) for cycle, i in zip(last_cycles, instructions, strict=True)]


def test_word_every_cycle(rng, simulate, sender, watch):
    """Requests of later instructions go out while words of earlier ones come."""
    c = config(burst_beats=16)
    dut = LoadUnit(c)
    i = {
        "opcode": Opcode.LOAD,
        "buffer": Buffer.WEIGHTS,
        "memory": 0,
        "beats": 64,
        "row_beats": 64,
        "stride": 0,
        "scratch": 0,
    }
    instructions = [{**i, "memory": 64 * index} for index in range(4)]
    trace = []

    async def drive(ctx):
        await sender(dut.i, instructions, rng)(ctx)
        await ctx.tick().until(dut.idle)

    benches = [memory(dut, rng, 0, []), tokens(dut, rng, 0, []), watch(trace, dut.write_weights, dut.pending)]
    simulate(dut, drive, background=benches)
    writes = [cycle for cycle, (write, _) in enumerate(trace) if write]
    assert len(writes) == writes[-1] - writes[0] + 1 == 256
    # What is counted as waiting for memory: cycles with an instruction in force and no word.
    assert sum(pending for _, pending in trace) == sum(
        pending for cycle, (_, pending) in enumerate(trace) if cycle < writes[0]
    )


@pytest.mark.parametrize("loads", [2, 4, 8])
def test_asks_ahead_as_far_as_it_keeps_places(loads, rng, simulate, sender):
    """With a memory that does not answer, one instruction is in force and the others have their places."""
    dut = LoadUnit(config(loads_under_way=loads))
    i = {"opcode": Opcode.LOAD, "beats": 4, "row_beats": 4}
    instructions = [{**i, "memory": 4 * index} for index in range(12)]
    asked = []

    async def deaf(ctx):
        ctx.set(dut.request.ready, 1)
        while True:
            _, _, valid, burst = await ctx.tick().sample(dut.request.valid, dut.request.payload)
            if valid:
                asked.append(burst["memory"])

    async def drive(ctx):
        await ctx.tick().repeat(100)
        assert not ctx.get(dut.idle)
        assert ctx.get(dut.pending)

    simulate(dut, drive, background=[deaf, sender(dut.i, instructions, rng), tokens(dut, rng, 0, [])])
    assert asked == list(range(0, 4 * (loads + 1), 4))


def test_waits_for_tokens(rng, simulate, stream_put):
    dut = LoadUnit(config())

    async def drive(ctx):
        ctx.set(dut.i.payload, {"opcode": 1, "beats": 1, "row_beats": 1, "wait": 4})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(10)
        assert ctx.get(dut.wait_for) == 4
        assert ctx.get(dut.waiting)
        assert not ctx.get(dut.take)
        assert not ctx.get(dut.idle)
        ctx.set(dut.waited, 1)
        assert ctx.get(dut.take)
        assert ctx.get(dut.i.ready)
        assert not ctx.get(dut.waiting)

    simulate(dut, drive)


LEGAL = {
    "opcode": Opcode.LOAD,
    "buffer": Buffer.ACTIVATIONS,
    "beats": 1,
    "row_beats": 1,
    "wait": 6,
    "post": 6,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"beats": 0},
        {"row_beats": 0},
        {"scratch": 64},
        {"scratch": 255},
        {"buffer": Buffer.WEIGHTS, "scratch": 32},
        {"buffer": Buffer.CHANNELS, "scratch": 16},
        {"buffer": Buffer.TABLES, "scratch": 512, "combine": ("sum",), "output_depth": 1024},
        {"buffer": Buffer.TABLES, "scratch": 256, "bus_bits": 64, "output_depth": 512},
        # There are none.
        {"buffer": Buffer.TABLES, "combine": ("maximum",)},
        {"buffer": Buffer.TABLES, "combine": ()},
        {"buffer": Buffer.TABLES, "quantisers": ("accumulators",)},
        {"wait": 1},
        {"post": 1},
    ],
)
def test_illegal(changes, simulate, watch):
    changes = dict(changes)
    keys = {"combine", "bus_bits", "quantisers", "output_depth"} & set(changes)
    dut = LoadUnit(config(rows=2, **{key: changes.pop(key) for key in keys}))
    trace = []

    async def drive(ctx):
        ctx.set(dut.waited, 1)
        ctx.set(dut.request.ready, 1)
        fields = {**LEGAL, **changes}
        ctx.set(dut.i.payload, fields)
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(20)

    simulate(dut, drive, background=[watch(trace, dut.illegal, dut.take, dut.request.valid)])
    assert [illegal for illegal, _, _ in trace] == [0] + [1] * 19
    assert not any(take or valid for _, take, valid in trace)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scratch": 63},
        {"buffer": Buffer.WEIGHTS, "scratch": 31},
        {"buffer": Buffer.CHANNELS, "scratch": 15},
        {"buffer": Buffer.TABLES, "scratch": 511},
        # As many words as fill the activations
        {"beats": 64, "row_beats": 64},
    ],
)
def test_just_legal(changes, simulate, watch):
    dut = LoadUnit(config(rows=2))
    trace = []

    async def drive(ctx):
        ctx.set(dut.waited, 1)
        ctx.set(dut.i.payload, {**LEGAL, **changes})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().until(dut.take)
        ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(10)

    simulate(dut, drive, background=[watch(trace, dut.illegal)])
    assert not any(illegal for (illegal,) in trace)


@pytest.mark.parametrize(("bus_bits", "cols", "lanes", "banks"), [(64, 64, 32, 256), (32, 63, 32, 504)])
def test_weights_of_many_banks(bus_bits, cols, lanes, banks, rng, simulate, sender, watch):
    """A weight word may be hundreds of bus words wide."""
    c = config(bus_bits=bus_bits, cols=cols, lanes=lanes, channel_depth=64)
    assert geometries(c)[Buffer.WEIGHTS].banks == banks
    dut = LoadUnit(c)
    i = {
        "opcode": Opcode.LOAD,
        "buffer": Buffer.WEIGHTS,
        "beats": 2 * banks + 3,
        "row_beats": 2 * banks + 3,
        "scratch": 5,
    }
    trace = []

    async def drive(ctx):
        await sender(dut.i, [i], rng)(ctx)
        await ctx.tick().until(dut.idle)

    benches = [
        memory(dut, rng, 0, []),
        tokens(dut, rng, 0, []),
        watch(trace, dut.write_weights, dut.write_row, dut.write_bank),
    ]
    simulate(dut, drive, background=benches)
    assert [(row, bank) for write, row, bank in trace if write] == [
        (5 + beat // banks, beat % banks) for beat in range(i["beats"])
    ]
