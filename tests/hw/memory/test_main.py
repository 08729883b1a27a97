"""Main memory: what three who share it read is what it held meanwhile, and bursts run at full speed."""

import numpy as np
import pytest

from bitwright.hw.memory.main import MIN_BYTES, MainMemory

BURST = 16
LATENCY = {"single": 2, "block": 6}  # cycles from a burst's address to its first word


class World:
    """The memory, everything that was ever in it, and those who use it.

    A word's history has, for each value, the cycle at whose end it was written. What a read gives must have
    been there at some time from the cycle in which it was asked for to the one in which it was answered.
    """

    def __init__(self, kind, bus_bits, rng, words=64, size=MIN_BYTES):
        self.dut = MainMemory(kind=kind, size=size, bus_bits=bus_bits, burst_beats=BURST)
        self.rng = rng
        self.bytes = bus_bits // 8
        self.words = words  # so few that they meet
        self.history = [[(-1, 0)] for _ in range(words * self.bytes)]
        self.now = 0
        self.reads = []

    async def clock(self, ctx):
        while True:
            await ctx.tick()
            self.now += 1

    def write(self, place, value, strobes, when):
        for byte in range(len(bin(strobes)) - 2):
            if strobes >> byte & 1:
                self.history[place + byte].append((when, value >> 8 * byte & 0xFF))

    def check(self, place, value, size, asked, answered):
        self.reads += [(place + byte, value >> 8 * byte & 0xFF, asked, answered) for byte in range(size)]

    def verify(self):
        """When all is over: a write may be known of only after a read that saw it."""
        for place, value, asked, answered in self.reads:
            # It begins after the cycle in which it is written, and ends after the one of the next.
            history = sorted(self.history[place], key=lambda entry: entry[0])
            ends = [when for when, _ in history[1:]] + [1 << 60]
            held = {
                old
                for (when, old), end in zip(history, ends, strict=True)
                if when < answered and end >= asked
            }
            assert value in held, (place, asked, answered, history)

    def burst(self):
        beats = self.rng.randint(1, BURST)
        first = self.rng.randrange(self.words // BURST) * BURST + self.rng.randint(0, BURST - beats)
        return first * self.bytes, beats

    def writer(self, count, idle):
        dut, rng = self.dut, self.rng

        async def run(ctx):
            for index in range(count):
                place, beats = self.burst()
                # Above the memory's size the address is not looked at.
                ctx.set(dut.s_awaddr, place | rng.getrandbits(20) << 12)
                ctx.set(dut.s_awid, index & 1)
                ctx.set(dut.s_awvalid, 1)
                await ctx.tick().until(dut.s_awready)
                ctx.set(dut.s_awvalid, 0)
                for beat in range(beats):
                    while rng.random() < idle:
                        await ctx.tick()
                    value, strobes = rng.getrandbits(8 * self.bytes), rng.getrandbits(self.bytes)
                    ctx.set(dut.s_wdata, value)
                    ctx.set(dut.s_wstrb, strobes)
                    ctx.set(dut.s_wlast, beat == beats - 1)
                    ctx.set(dut.s_wvalid, 1)
                    await ctx.tick().until(dut.s_wready)
                    self.write(place + beat * self.bytes, value, strobes, self.now - 1)
                    ctx.set(dut.s_wvalid, 0)
                while rng.random() < idle:
                    await ctx.tick()
                ctx.set(dut.s_bready, 1)
                bid, resp = await ctx.tick().sample(dut.s_bid, dut.s_bresp).until(dut.s_bvalid)
                assert (bid, resp) == (index & 1, 0)
                ctx.set(dut.s_bready, 0)

        return run

    def reader(self, count, idle):
        """Asks ahead for up to two bursts, and takes words as it likes."""
        dut, rng = self.dut, self.rng
        asked = []

        async def ask(ctx):
            for index in range(count):
                place, beats = self.burst()
                while rng.random() < idle or len(asked) > 1:
                    await ctx.tick()
                ctx.set(dut.s_araddr, place)
                ctx.set(dut.s_arlen, beats - 1)
                ctx.set(dut.s_arid, index & 1)
                ctx.set(dut.s_arvalid, 1)
                await ctx.tick().until(dut.s_arready)
                ctx.set(dut.s_arvalid, 0)
                asked.append((place, beats, index & 1, self.now - 1))

        async def take(ctx):
            for _ in range(count):
                beat, beats = 0, 1
                while beat < beats:
                    while rng.random() < idle:
                        await ctx.tick()
                    ctx.set(dut.s_rready, 1)
                    got = await (
                        ctx.tick()
                        .sample(dut.s_rdata, dut.s_rid, dut.s_rlast, dut.s_rresp)
                        .until(dut.s_rvalid)
                    )
                    ctx.set(dut.s_rready, 0)
                    place, beats, ident, when = asked[0]
                    assert tuple(got[1:]) == (ident, beat == beats - 1, 0)
                    self.check(place + beat * self.bytes, got[0], self.bytes, when, self.now - 1)
                    beat += 1
                asked.pop(0)

        return ask, take

    def host(self, count, idle):
        dut, rng = self.dut.host, self.rng

        async def run(ctx):
            for _ in range(count):
                while rng.random() < idle:
                    await ctx.tick()
                word, value, strobes = (
                    rng.randrange(self.words * self.bytes // 4),
                    rng.getrandbits(32),
                    rng.getrandbits(4),
                )
                write = rng.random() < 0.5
                for port, setting in (
                    (dut.cyc, 1),
                    (dut.stb, 1),
                    (dut.we, write),
                    (dut.adr, word),
                    (dut.sel, strobes),
                    (dut.dat_w, value),
                ):
                    ctx.set(port, setting)
                start = self.now
                data, err = await ctx.tick().sample(dut.dat_r, dut.err).until(dut.ack)
                ctx.set(dut.cyc, 0)
                ctx.set(dut.stb, 0)
                assert not err
                if write:
                    self.write(4 * word, value, strobes, self.now - 2)
                else:
                    self.check(4 * word, data, 4, start, self.now - 1)

        return run


@pytest.mark.parametrize("idle", [0.0, 0.5])
@pytest.mark.parametrize(
    ("kind", "bus_bits"), [("single", 32), ("block", 32), ("block", 64), ("single", 128)]
)
def test_three_at_once(kind, bus_bits, idle, rng, simulate):
    world = World(kind, bus_bits, rng)
    ask, take = world.reader(60, idle)
    simulate(world.dut, world.writer(60, idle), ask, take, world.host(120, idle), background=[world.clock])
    assert len(world.reads) > 500
    world.verify()


@pytest.mark.parametrize(
    ("kind", "bus_bits", "size"),
    # 7168 words are three banks of block RAM.
    [("single", 64, MIN_BYTES), ("block", 64, MIN_BYTES), ("block", 32, 7 * MIN_BYTES)],
)
def test_contents_against_an_array(kind, bus_bits, size, rng, simulate):
    """Whole contents by bursts, parts of them by the host, and all of it read back by either."""
    world = World(kind, bus_bits, rng, size=size)
    dut = world.dut
    word_bytes = world.bytes
    array = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, size, np.uint8)

    async def drive(ctx):
        ctx.set(dut.s_bready, 1)
        for place in range(0, size, BURST * word_bytes):
            ctx.set(dut.s_awaddr, place)
            ctx.set(dut.s_awvalid, 1)
            await ctx.tick().until(dut.s_awready)
            ctx.set(dut.s_awvalid, 0)
            for beat in range(BURST):
                word = array[place + word_bytes * beat :][:word_bytes].tobytes()
                ctx.set(dut.s_wdata, int.from_bytes(word, "little"))
                ctx.set(dut.s_wstrb, (1 << word_bytes) - 1)
                ctx.set(dut.s_wlast, beat == BURST - 1)
                ctx.set(dut.s_wvalid, 1)
                await ctx.tick().until(dut.s_wready)
            ctx.set(dut.s_wvalid, 0)
        for _ in range(50):
            word, sel = rng.randrange(size // 4), rng.getrandbits(4)
            fresh = rng.randbytes(4)
            for byte in range(4):
                if sel >> byte & 1:
                    array[4 * word + byte] = fresh[byte]
            await access(ctx, word, int.from_bytes(fresh, "little"), sel, 1)
        for word in range(0, size // 4, 7):
            assert await access(ctx, word, 0, 0xF, 0) == int(array[4 * word :][:4].view("<u4")[0])
        ctx.set(dut.s_rready, 1)
        for place in range(0, size, 13 * BURST * word_bytes):
            ctx.set(dut.s_araddr, place)
            ctx.set(dut.s_arlen, BURST - 1)
            ctx.set(dut.s_arvalid, 1)
            await ctx.tick().until(dut.s_arready)
            ctx.set(dut.s_arvalid, 0)
            got = b""
            for _ in range(BURST):
                (word,) = await ctx.tick().sample(dut.s_rdata).until(dut.s_rvalid)
                got += word.to_bytes(word_bytes, "little")
            assert got == array[place:][: BURST * word_bytes].tobytes()

    async def access(ctx, word, data, sel, write):
        host = dut.host
        for port, setting in ((host.cyc, 1), (host.stb, 1), (host.we, write), (host.adr, word)):
            ctx.set(port, setting)
        ctx.set(host.sel, sel)
        ctx.set(host.dat_w, data)
        (read,) = await ctx.tick().sample(host.dat_r).until(host.ack)
        ctx.set(host.stb, 0)
        return read

    simulate(dut, drive)


@pytest.mark.parametrize("kind", ["single", "block"])
def test_bursts_follow_each_other_at_a_word_per_cycle(kind, rng, simulate, watch):
    world = World(kind, 32, rng)
    dut = world.dut
    trace = []

    async def drive(ctx):
        ctx.set(dut.s_rready, 1)
        ctx.set(dut.s_arvalid, 1)
        ctx.set(dut.s_arlen, BURST - 1)
        await ctx.tick().repeat(4 * BURST)

    simulate(dut, drive, background=[watch(trace, dut.s_arready, dut.s_rvalid)])
    valid = [bool(high) for _, high in trace]
    # Some cycles behind the first address, then without a gap.
    late = LATENCY[kind]
    assert valid == [False] * late + [True] * (len(valid) - late)
    # One address is under way and one waits.
    taken = [0, *range(1, 4 * BURST, BURST)]
    assert [cycle for cycle, (ready, _) in enumerate(trace) if ready] == taken


@pytest.mark.parametrize(
    ("kind", "place", "cycles"),
    [
        ("single", BURST, 2 * BURST),
        ("single", 0, 2 * BURST),
        ("block", 0, BURST + 1),
        # What is like it in the lowest bits might be the same; the first and the second word are not.
        ("block", 2 * BURST + 8, BURST + 1),
        ("block", 2 * BURST + 1, BURST),
    ],
)
def test_reads_beside_writes(kind, place, cycles, rng, simulate):
    """Block RAM does both at once, a single port one after the other.

    No word is read in the cycle in which it is written: of the same place, reads come a cycle behind.
    """
    world = World(kind, 32, rng)
    dut = world.dut
    ends = {}

    async def writes(ctx):
        ctx.set(dut.s_awaddr, 4 * place)
        ctx.set(dut.s_awvalid, 1)
        ctx.set(dut.s_wvalid, 1)
        await ctx.tick()
        ctx.set(dut.s_awvalid, 0)
        for beat in range(BURST):
            ctx.set(dut.s_wlast, beat == BURST - 1)
            await ctx.tick().until(dut.s_wready)
        ctx.set(dut.s_wvalid, 0)
        ends["write"] = world.now

    async def reads(ctx):
        ctx.set(dut.s_rready, 1)
        ctx.set(dut.s_arlen, BURST - 1)
        ctx.set(dut.s_arvalid, 1)
        await ctx.tick()
        ctx.set(dut.s_arvalid, 0)
        await ctx.tick().until(dut.s_rvalid & dut.s_rlast)
        ends["read"] = world.now

    simulate(dut, writes, reads, background=[world.clock])
    assert ends == {"write": BURST, "read": LATENCY[kind] - 1 + cycles}


@pytest.mark.parametrize(("kind", "write"), [("single", 0), ("single", 1), ("block", 0), ("block", 1)])
def test_the_host_goes_first(kind, write, rng, simulate):
    """While bursts are under way its answer comes as soon as without them."""
    world = World(kind, 32, rng)
    dut = world.dut
    took = []

    async def reads(ctx):
        ctx.set(dut.s_rready, 1)
        ctx.set(dut.s_arlen, BURST - 1)
        ctx.set(dut.s_arvalid, 1)
        while True:
            await ctx.tick()

    async def host(ctx):
        for pause in range(20):
            await ctx.tick().repeat(pause + 1)
            start = world.now
            ctx.set(dut.host.cyc, 1)
            ctx.set(dut.host.stb, 1)
            ctx.set(dut.host.we, write)
            ctx.set(dut.host.adr, pause)
            await ctx.tick().until(dut.host.ack)
            ctx.set(dut.host.stb, 0)
            took.append(world.now - start)

    simulate(dut, host, background=[reads, world.clock])
    assert took == [2 if kind == "single" else 3 if write else 6] * 20


@pytest.mark.parametrize("write", [0, 1])
def test_the_host_is_told_of_the_end(write, rng, simulate):
    dut = MainMemory(kind="block", size=3 * MIN_BYTES, bus_bits=64, burst_beats=BURST)
    end = 3 * MIN_BYTES // 4
    answers = {}

    async def host(ctx):
        ctx.set(dut.host.cyc, 1)
        ctx.set(dut.host.we, write)
        ctx.set(dut.host.sel, 0xF)
        for word in (end - 1, end, end + MIN_BYTES // 4 - 1, 0):
            ctx.set(dut.host.adr, word)
            ctx.set(dut.host.stb, 1)
            answer = await ctx.tick().sample(dut.host.ack, dut.host.err).until(dut.host.ack | dut.host.err)
            ctx.set(dut.host.stb, 0)
            answers[word] = tuple(answer)
            await ctx.tick()

    simulate(dut, host)
    assert answers == {end - 1: (1, 0), end: (0, 1), end + MIN_BYTES // 4 - 1: (0, 1), 0: (1, 0)}


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        ("kind must be", {"kind": "flash"}),
        ("size must be a multiple of 4096", {"size": 6144}),
        ("size must be a multiple of 4096", {"size": 0}),
        ("bus_bits must be", {"bus_bits": 16}),
        ("burst_beats must be", {"burst_beats": 24}),
    ],
)
def test_refuses(match, changes, refuses):
    refuses(match, MainMemory, **{"kind": "block", "size": 4096, "bus_bits": 32, "burst_beats": 16} | changes)
