"""The store unit: the output scratchpad's words in order, whatever the write port's pace."""

from collections import deque

import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.memory.scratchpad import geometries
from bitwright.hw.memory.store import StoreUnit
from bitwright.hw.sched.isa import Buffer, Opcode

CONFIG = EngineConfig(
    cols=4,
    lanes=4,
    bus_bits=32,
    burst_beats=4,
    activation_depth=128,
    weight_depth=16,
    channel_depth=16,
    output_depth=64,
)


class Surroundings:
    """Benches for what stands around a store unit, and what they have seen."""

    def __init__(self, dut, config, rng, stall=0.0, absent=0.0):
        self.dut = dut
        self.rng = rng
        self.stall = stall
        self.absent = absent
        self.contents = [rng.getrandbits(config.bus_bits) for _ in range(config.output_depth)]
        self.asked = []
        self.taken = []
        self.words = []
        self.ends = []
        self.snapshots = 0
        self.acknowledged = 0  # words of acknowledged bursts
        self.forwarded = []  # row, bank, word

    async def scratchpad(self, ctx):
        """A cycle of latency, and nothing new without an enable."""
        while True:
            _, _, enable, row = await ctx.tick().sample(self.dut.read_enable, self.dut.read_row)
            if enable:
                ctx.set(self.dut.read_data, self.contents[row])

    async def counters(self, ctx):
        """Words of a snapshot some time after it was asked for."""
        bits = len(self.dut.counters.payload)
        left = deque()
        while True:
            offers = bool(left) and self.rng.random() >= self.stall
            ctx.set(self.dut.counters.valid, offers)
            ctx.set(self.dut.counters.payload, left[0] if offers else 0)
            while True:
                _, _, snapshot, ready = await ctx.tick().sample(self.dut.snapshot, self.dut.counters.ready)
                if snapshot:
                    self.snapshots += 1
                    assert not left
                    left.extend(1000 * self.snapshots + index for index in range(512 // bits))
                if not offers or ready:
                    break
            if offers:
                left.popleft()

    async def port(self, ctx):
        """As the write port: a burst's words only after the burst, acknowledged some time later."""
        dut = self.dut
        room = 0  # words of the bursts taken so far that have not come
        unacknowledged = deque()
        offered = None
        while True:
            request_ready = self.rng.random() >= self.stall
            word_ready = room > 0 and self.rng.random() >= self.stall
            if unacknowledged and unacknowledged[0] <= len(self.words) and self.rng.random() >= self.stall:
                self.acknowledged = unacknowledged.popleft()
            ctx.set(dut.acknowledged, not unacknowledged)
            ctx.set(dut.request.ready, request_ready)
            ctx.set(dut.words.ready, word_ready)
            _, _, asks, burst, valid, word, ended, post = await ctx.tick().sample(
                dut.request.valid,
                dut.request.payload,
                dut.words.valid,
                dut.words.payload,
                dut.ended,
                dut.post,
            )
            if offered is not None:
                assert valid
                assert word == offered
            offered = word if valid and not word_ready else None
            if ended:
                assert not unacknowledged
                self.ends.append((self.acknowledged, len(self.forwarded), post))
            if asks and request_ready:
                self.asked.append((burst["memory"], burst["length"], burst["last"]))
                room += burst["length"]
                unacknowledged.append(sum(length for _, length, _ in self.asked))
            if valid and word_ready:
                self.words.append(word)
                room -= 1

    async def activations(self, ctx):
        """The activation scratchpad's write port, which others use, too."""
        while True:
            ready = self.rng.random() >= self.stall
            ctx.set(self.dut.forward_ready, ready)
            _, _, valid, *place = await ctx.tick().sample(
                self.dut.forward, self.dut.forward_row, self.dut.forward_bank, self.dut.words.payload
            )
            if valid and ready:
                self.forwarded.append(tuple(place))

    async def tokens(self, ctx):
        while True:
            there = self.rng.random() >= self.absent
            ctx.set(self.dut.waited, there)
            _, _, take, wait_for = await ctx.tick().sample(self.dut.take, self.dut.wait_for)
            if take:
                assert there
                self.taken.append(wait_for)

    @property
    def benches(self):
        return [self.scratchpad, self.counters, self.port, self.activations, self.tokens]


def random_instruction(config, rng):
    snapshot_words = 512 // config.bus_bits
    counting = rng.random() < 0.25
    beats = snapshot_words if counting else rng.randint(1, 24)
    row_beats = rng.choice([beats, rng.randint(1, beats)])
    forward = not counting and rng.random() < 0.6
    activations = geometries(config)[Buffer.ACTIVATIONS]
    return {
        "forward": forward,
        "only": forward and rng.random() < 0.5,
        "place": rng.randrange(activations.rows),
        "pitch": rng.randrange(activations.rows),
        "bank": rng.randrange(activations.banks),
        "opcode": Opcode.SNAPSHOT if counting else Opcode.STORE,
        "wait": rng.randint(0, 3),
        "post": rng.randint(0, 3),
        "memory": rng.randrange(1 << min(20, config.word_address_bits)),
        "beats": beats,
        "row_beats": row_beats,
        "stride": rng.choice([row_beats, row_beats + 5, 64, 2**config.word_address_bits - 1]),
        "scratch": rng.randrange(config.output_depth),
    }


@pytest.mark.parametrize(
    ("stall", "absent", "idle"), [(0, 0, 0), (0.5, 0, 0), (0.8, 0.5, 0.3), (0.2, 0, 0.9)]
)
@pytest.mark.parametrize(
    ("bus_bits", "address_bits", "lanes"), [(32, 32, 4), (32, 20, 8), (32, 20, 12), (128, 18, 4)]
)
def test_random_instructions(bus_bits, address_bits, lanes, stall, absent, idle, rng, simulate, sender):
    config = CONFIG.replace(bus_bits=bus_bits, address_bits=address_bits, lanes=lanes)
    instructions = [random_instruction(config, rng) for _ in range(12)]
    check(config, instructions, stall, absent, idle, rng, simulate, sender)


@pytest.mark.parametrize(("bus_bits", "lanes"), [(32, 4), (32, 12), (64, 16), (128, 4)])
def test_pairs_of_fields(bus_bits, lanes, rng, simulate, sender, pairwise):
    """Every two values of two fields, least and greatest among them, in one of the instructions."""
    config = CONFIG.replace(bus_bits=bus_bits, lanes=lanes)
    pad = geometries(config)[Buffer.ACTIVATIONS]
    top = 2**config.word_address_bits - 1
    instructions = []
    for row in pairwise(
        {
            "kind": ["store", "forward", "only", "snapshot"],
            "place": [0, pad.rows - 1],
            "pitch": [0, 1, pad.rows - 1],
            "bank": sorted({0, pad.banks - 1}),
            "wait": [0, 1, 2, 3],
            "post": [0, 1, 2, 3],
            "memory": [0, 1, top],
            "beats": [1, 2, 24],
            "row_beats": ["one", "less", "all"],
            "stride": [0, 1, "row_beats", top],
            "scratch": [0, config.output_depth - 1],
        }
    ):
        counting = row["kind"] == "snapshot"
        beats = 512 // bus_bits if counting else row["beats"]
        row_beats = {"one": 1, "less": max(1, beats - 1), "all": beats}[row["row_beats"]]
        instructions.append(
            {
                **{
                    name: row[name]
                    for name in ("place", "pitch", "bank", "wait", "post", "memory", "scratch")
                },
                "opcode": Opcode.SNAPSHOT if counting else Opcode.STORE,
                "forward": row["kind"] in ("forward", "only"),
                "only": row["kind"] == "only",
                "beats": beats,
                "row_beats": row_beats,
                "stride": row_beats if row["stride"] == "row_beats" else row["stride"],
            }
        )
    rng.shuffle(instructions)
    check(config, instructions, 0.1, 0.1, 0, rng, simulate, sender)


def check(config, instructions, stall, absent, idle, rng, simulate, sender):
    """What the unit asks for, sends, forwards and says of instructions."""
    pad = geometries(config)[Buffer.ACTIVATIONS]
    dut = StoreUnit(config)
    around = Surroundings(dut, config, rng, stall, absent)

    async def drive(ctx):
        assert ctx.get(dut.idle)
        await sender(dut.i, instructions, rng, idle)(ctx)
        await ctx.tick().repeat(3)
        assert ctx.get(dut.idle)

    simulate(dut, drive, background=around.benches)

    assert around.taken == [i["wait"] for i in instructions]
    expected_words, expected_addresses, expected_ends, expected_forwarded = [], [], [], []
    snapshots = 0
    for i in instructions:
        if i["opcode"] == Opcode.SNAPSHOT:
            snapshots += 1
            words = [1000 * snapshots + index for index in range(i["beats"])]
        else:
            words = [
                around.contents[(i["scratch"] + beat) % config.output_depth] for beat in range(i["beats"])
            ]
        if i["forward"]:
            for beat, word in enumerate(words):
                line, index = divmod(beat, i["row_beats"])
                row, bank = divmod(i["bank"] + index, pad.banks)
                expected_forwarded.append(((i["place"] + line * i["pitch"] + row) % pad.rows, bank, word))
        if i["only"]:
            expected_ends.append((len(expected_words), len(expected_forwarded), i["post"]))
            continue
        expected_words += words
        expected_addresses += [
            (i["memory"] + beat // i["row_beats"] * i["stride"] + beat % i["row_beats"])
            % 2**config.word_address_bits
            for beat in range(i["beats"])
        ]
        # It ends when all its words, and no others, have been acknowledged.
        expected_ends.append((len(expected_words), len(expected_forwarded), i["post"]))
    assert around.words == expected_words
    assert around.forwarded == expected_forwarded
    assert [
        address + index for address, length, _ in around.asked for index in range(length)
    ] == expected_addresses
    assert sum(last for _, _, last in around.asked) == sum(not i["only"] for i in instructions)
    assert around.ends == expected_ends


def test_word_every_cycle(rng, simulate, stream_put, watch):
    dut = StoreUnit(CONFIG)
    around = Surroundings(dut, CONFIG, rng)
    trace = []

    async def drive(ctx):
        i = {"opcode": Opcode.STORE, "beats": 64, "row_beats": 64}
        await stream_put(ctx, dut.i, i)

    simulate(dut, drive, background=[*around.benches, watch(trace, dut.words.valid, dut.words.ready)])
    sent = [cycle for cycle, (valid, ready) in enumerate(trace) if valid and ready]
    assert len(sent) == 64
    # The splitter gives a burst of four words every two cycles, so only the first is waited for.
    assert sent[-1] - sent[0] == 63
    assert around.words == around.contents


def test_offers_words_without_waiting_to_be_asked(rng, simulate):
    """A master's valid may not wait for ready."""
    dut = StoreUnit(CONFIG)
    around = Surroundings(dut, CONFIG, rng)

    async def drive(ctx):
        ctx.set(dut.waited, 1)
        ctx.set(dut.i.payload, {"opcode": Opcode.STORE, "beats": 4, "row_beats": 4})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(8)
        assert ctx.get(dut.request.valid)
        assert ctx.get(dut.words.valid)

    simulate(dut, drive, background=[around.scratchpad])


def test_waits_for_tokens_and_for_the_acknowledgement(rng, simulate):
    dut = StoreUnit(CONFIG)
    around = Surroundings(dut, CONFIG, rng)

    async def drive(ctx):
        ctx.set(dut.i.payload, {"opcode": Opcode.STORE, "beats": 1, "row_beats": 1, "wait": 2, "post": 1})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(5)
        assert ctx.get(dut.wait_for) == 2
        assert ctx.get(dut.waiting)
        assert not ctx.get(dut.take)
        ctx.set(dut.waited, 1)
        assert ctx.get(dut.take)
        await ctx.tick()
        ctx.set(dut.waited, 0)
        ctx.set(dut.request.ready, 1)
        ctx.set(dut.words.ready, 1)
        await ctx.tick().repeat(20)
        assert not ctx.get(dut.idle)
        assert not ctx.get(dut.ended)
        assert not ctx.get(dut.i.ready)
        ctx.set(dut.acknowledged, 1)
        assert ctx.get(dut.ended)
        assert ctx.get(dut.post) == 1
        assert ctx.get(dut.i.ready)
        ctx.set(dut.i.valid, 0)
        await ctx.tick()
        assert ctx.get(dut.idle)
        assert not ctx.get(dut.ended)

    simulate(dut, drive, background=[around.scratchpad])


LEGAL = {"opcode": Opcode.STORE, "beats": 1, "row_beats": 1, "wait": 3, "post": 3}


@pytest.mark.parametrize(
    "changes",
    [
        {"beats": 0},
        {"row_beats": 0},
        {"scratch": 64},
        {"scratch": 127},
        {"wait": 4},
        {"post": 4},
        {"only": 1},
        {"opcode": Opcode.SNAPSHOT, "beats": 16, "forward": 1},
        {"opcode": Opcode.SNAPSHOT, "beats": 15},
        {"opcode": Opcode.SNAPSHOT, "beats": 17},
        {"opcode": Opcode.SNAPSHOT, "beats": 0},
    ],
)
def test_illegal(changes, simulate, watch):
    dut = StoreUnit(CONFIG)
    trace = []

    async def drive(ctx):
        ctx.set(dut.waited, 1)
        ctx.set(dut.request.ready, 1)
        fields = {**LEGAL, **changes}
        ctx.set(dut.i.payload, fields)
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(20)

    simulate(
        dut,
        drive,
        background=[watch(trace, dut.illegal, dut.take, dut.request.valid, dut.words.valid, dut.snapshot)],
    )
    assert [illegal for illegal, *_ in trace] == [0] + [1] * 19
    assert not any(any(others) for _, *others in trace)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scratch": 63},
        {"beats": 64, "row_beats": 64},
        {"opcode": Opcode.SNAPSHOT, "beats": 16},
    ],
)
def test_just_legal(changes, simulate, watch):
    dut = StoreUnit(CONFIG)
    trace = []

    async def drive(ctx):
        ctx.set(dut.waited, 1)
        ctx.set(dut.i.payload, {**LEGAL, **changes})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(10)

    simulate(dut, drive, background=[watch(trace, dut.illegal, dut.take)])
    assert not any(illegal for illegal, _ in trace)
    assert sum(take for _, take in trace) == 1
