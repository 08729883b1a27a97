"""AXI4 bursts on Wishbone: random ones with idle and back-pressure, their errors, their latency."""

from itertools import pairwise

import pytest

from bitwright.hw.bus.axi_to_wishbone import AxiToWishbone

WORDS = 256
BASE = 0x4000_0000


class Target:
    """A Wishbone memory that checks its initiator.

    Members
    -------
    words : contents
    cycles : (word, write, cti) of every beat answered
    bad : words that are answered by ERR
    """

    def __init__(self, dut, words, rng, stall):
        self.dut, self.words, self.rng, self.stall = dut, words, rng, stall
        self.cycles = []
        self.bad = set()

    async def run(self, ctx):
        dut, bus = self.dut, self.dut.bus
        signals = (bus.cyc, bus.stb, bus.we, bus.adr, bus.sel, bus.dat_w, dut.cti, dut.bte)
        first = BASE // (dut.bus_bits // 8)
        pending = None  # asked for and not answered
        follows = None  # the word that the burst goes on with
        while True:
            cyc, stb, we, adr, sel, dat_w, cti, bte = request = tuple(ctx.get(signal) for signal in signals)
            answer = bool(cyc and stb) and self.rng.random() >= self.stall
            word = adr - first
            if answer:
                ctx.set(bus.dat_r, self.words[word] if word not in self.bad else 0)
                ctx.set(bus.err, word in self.bad)
                ctx.set(bus.ack, word not in self.bad)
            # Nothing that the initiator asks for may hang on the answer.
            assert tuple(ctx.get(signal) for signal in signals) == request
            assert cyc or not stb
            assert bte == 0
            if pending is not None:
                assert (cyc, stb, we, adr, sel, cti) == pending, "a request changed before its answer"
            pending = (cyc, stb, we, adr, sel, cti) if stb and not answer else None
            if follows is not None:
                assert cyc, "CYC left a burst before its end"
                assert not stb or adr == follows
            if answer:
                self.cycles.append((word, we, cti))
                follows = adr + 1 if cti == 2 else None
                assert cti in (2, 7)
                if we and word not in self.bad:
                    for byte in range(dut.bus_bits // 8):
                        if sel >> byte & 1:
                            mask = 255 << 8 * byte
                            self.words[word] = (self.words[word] & ~mask) | (dat_w & mask)
            await ctx.tick()
            ctx.set(bus.ack, 0)
            ctx.set(bus.err, 0)


async def transfer(ctx, dut, channel, rng, idle, **payload):
    """One transfer that the AXI initiator offers."""
    while rng.random() < idle:
        await ctx.tick()
    for name, value in payload.items():
        ctx.set(getattr(dut, f"s_{channel}{name}"), value)
    ctx.set(getattr(dut, f"s_{channel}valid"), 1)
    await ctx.tick().until(getattr(dut, f"s_{channel}ready"))
    ctx.set(getattr(dut, f"s_{channel}valid"), 0)


async def collect(ctx, dut, channel, names, count, found, rng, stall):
    """So many transfers that the AXI initiator takes; what is on offer has to stay."""
    valid, ready = getattr(dut, f"s_{channel}valid"), getattr(dut, f"s_{channel}ready")
    signals = [getattr(dut, f"s_{channel}{name}") for name in names]
    offered = None
    while len(found) < count:
        take = rng.random() >= stall
        ctx.set(ready, take)
        _, _, there, *values = await ctx.tick().sample(valid, *signals)
        if offered is not None:
            assert there, "withdrawn"
            assert values == offered
        offered = values if there and not take else None
        if there and take:
            found.append(tuple(values))
    ctx.set(ready, 0)


def random_bursts(rng, low, high, count):
    """(word, beats) within a part of the memory."""
    for _ in range(count):
        beats = rng.choice([1, 2, rng.randint(1, 16), rng.randint(1, high - low)])
        yield rng.randint(low, high - beats), beats


@pytest.mark.parametrize("bus_bits", [32, 128])
@pytest.mark.parametrize("slow", ["nobody", "initiator", "target", "both"])
def test_random_bursts(bus_bits, slow, rng, simulate):
    """Reads of one half of the memory beside writes to the other, some of whose words are bad."""
    idle = 0.4 if slow in ("initiator", "both") else 0.0
    stall = 0.6 if slow in ("target", "both") else 0.0
    dut = AxiToWishbone(bus_bits=bus_bits)
    bus_bytes = bus_bits // 8
    before = [rng.getrandbits(bus_bits) for _ in range(WORDS)]
    target = Target(dut, list(before), rng, stall)
    target.bad = {rng.randrange(WORDS) for _ in range(8)}
    half = WORDS // 2
    reads = [(*burst, rng.getrandbits(1)) for burst in random_bursts(rng, 0, half, 25)]
    writes = [
        (
            word,
            rng.getrandbits(1),
            [(rng.getrandbits(bus_bits), rng.getrandbits(bus_bytes)) for _ in range(beats)],
        )
        for word, beats in random_bursts(rng, half, WORDS, 25)
    ]

    async def ask_reads(ctx):
        for word, beats, identifier in reads:
            address = BASE + word * bus_bytes
            await transfer(ctx, dut, "ar", rng, idle, addr=address, len=beats - 1, id=identifier)

    async def ask_writes(ctx):
        for word, identifier, beats in writes:
            address = BASE + word * bus_bytes
            await transfer(ctx, dut, "aw", rng, idle, addr=address, len=len(beats) - 1, id=identifier)

    async def give_words(ctx):
        for _, _, beats in writes:
            for data, strobes in beats:
                await transfer(ctx, dut, "w", rng, idle, data=data, strb=strobes)

    words, answers = [], []

    async def take_words(ctx):
        count = sum(beats for _, beats, _ in reads)
        await collect(ctx, dut, "r", ("id", "data", "resp", "last"), count, words, rng, idle)

    async def take_answers(ctx):
        await collect(ctx, dut, "b", ("id", "resp"), len(writes), answers, rng, idle)

    simulate(dut, ask_reads, ask_writes, give_words, take_words, take_answers, background=(target.run,))

    expected = []
    for word, beats, identifier in reads:
        for place in range(word, word + beats):
            bad = place in target.bad
            expected.append(
                (identifier, 0 if bad else before[place], 2 if bad else 0, place == word + beats - 1)
            )
    assert words == expected
    after = list(before)
    expected = []
    for word, identifier, beats in writes:
        failed = False
        for place, (data, strobes) in enumerate(beats, word):
            failed |= place in target.bad
            mask = sum(255 << 8 * byte for byte in range(bus_bytes) if strobes >> byte & 1)
            if place not in target.bad:
                after[place] = (after[place] & ~mask) | (data & mask)
        expected.append((identifier, 2 if failed else 0))
    assert answers == expected
    assert target.words == after
    assert {2 in (response for _, _, response, _ in words), 2 in (response for _, response in answers)} == {
        True
    }


def test_latency(rng, simulate):
    """A burst of four words: stb a cycle after the address, a word in each cycle, read a cycle after ack."""
    dut = AxiToWishbone(bus_bits=32)
    target = Target(dut, list(range(WORDS)), rng, 0.0)
    trace = []

    async def bench(ctx):
        ctx.set(dut.s_rready, 1)
        ctx.set(dut.s_araddr, BASE + 40)
        ctx.set(dut.s_arlen, 3)
        ctx.set(dut.s_arvalid, 1)
        for _ in range(8):
            values = await ctx.tick().sample(
                dut.s_arready, dut.bus.stb, dut.s_rvalid, dut.s_rdata, dut.s_rlast
            )
            trace.append(values[2:])
            ctx.set(dut.s_arvalid, 0)

    simulate(dut, bench, background=(target.run,))
    assert [step[0] for step in trace] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert [step[1] for step in trace] == [0, 1, 1, 1, 1, 0, 0, 0]
    assert [step[2] for step in trace] == [0, 0, 1, 1, 1, 1, 0, 0]
    assert [step[3] for step in trace if step[2]] == [10, 11, 12, 13]
    assert [step[4] for step in trace if step[2]] == [0, 0, 0, 1]
    assert target.cycles == [(10, 0, 2), (11, 0, 2), (12, 0, 2), (13, 0, 7)]


def test_reads_and_writes_take_turns(rng, simulate):
    dut = AxiToWishbone(bus_bits=32)
    target = Target(dut, [0] * WORDS, rng, 0.0)

    async def bench(ctx):
        for name in ("arvalid", "awvalid", "wvalid", "rready", "bready"):
            ctx.set(getattr(dut, "s_" + name), 1)
        ctx.set(dut.s_araddr, BASE)
        ctx.set(dut.s_awaddr, BASE)
        for _ in range(40):
            await ctx.tick()

    simulate(dut, bench, background=(target.run,))
    kinds = [write for _, write, _ in target.cycles]
    assert len(kinds) > 10
    assert all(first != second for first, second in pairwise(kinds))


def test_a_write_waits_for_its_first_word(simulate):
    """Until then, reads go on."""
    dut = AxiToWishbone(bus_bits=32)
    found = []

    async def bench(ctx):
        ctx.set(dut.s_awvalid, 1)
        ctx.set(dut.s_rready, 1)
        for _ in range(5):
            _, _, ready, cyc = await ctx.tick().sample(dut.s_awready, dut.bus.cyc)
            found.append((ready, cyc))
        ctx.set(dut.s_arvalid, 1)
        await ctx.tick().until(dut.s_arready)
        ctx.set(dut.s_arvalid, 0)
        _, _, cyc, write = await ctx.tick().sample(dut.bus.cyc, dut.bus.we)
        found.append((cyc, write))

    simulate(dut, bench)
    assert found == [(0, 0)] * 5 + [(1, 0)]


@pytest.mark.parametrize("bits", [0, 16, 33])
def test_widths(bits, refuses):
    refuses("data_bits must be 32, 64 or 128", AxiToWishbone, bus_bits=bits)
