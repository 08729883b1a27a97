"""The host link on a bus that the test plays: every request, and everything that a bad line does."""

import zlib

import pytest

from bitwright.hw.bus.link import ESCAPE, ESCAPED, FLAG, MAX_WORDS, HostLink, Operation, Status


def frame(content):
    content = bytes(content) + zlib.crc32(bytes(content)).to_bytes(4, "little")
    escaped = []
    for byte in content:
        escaped += [ESCAPE, byte ^ ESCAPED] if byte in (FLAG, ESCAPE) else [byte]
    return [FLAG, *escaped, FLAG]


def request(sequence, operation, address, words=(), count=None):
    length = 2 + (len(words) if count is None else count)
    content = [sequence, operation << 6 | length, *address.to_bytes(4, "little")]
    return frame([*content, *(byte for word in words for byte in word.to_bytes(4, "little"))])


def reply(sequence, operation, address, count, words, status):
    """The reply's bytes to a request of ``count`` words."""
    content = [sequence, operation << 6 | 2 + count, *address.to_bytes(4, "little")]
    data = [byte for word in words for byte in word.to_bytes(4, "little")]
    return frame([*content, *data, 1 << 4 | status])


class Target:
    """Words of the bus. Answers after 0 to `slow` cycles, an error to the word addresses in `bad`."""

    def __init__(self, bus, rng, slow=0, bad=()):
        self.bus, self.rng, self.slow, self.bad = bus, rng, slow, bad
        self.words = {}
        self.log = []

    async def run(self, ctx):
        bus = self.bus
        while True:
            _, _, cyc, stb, we, adr, sel, data = await ctx.tick().sample(
                bus.cyc, bus.stb, bus.we, bus.adr, bus.sel, bus.dat_w
            )
            assert cyc == stb
            if not cyc:
                continue
            before = (cyc, we, adr, sel, data)
            for _ in range(self.rng.randint(0, self.slow)):
                _, _, *now = await ctx.tick().sample(bus.cyc, bus.we, bus.adr, bus.sel, bus.dat_w)
                assert tuple(now) == before, "the cycle changed before it was answered"
            assert sel == 15
            self.log.append((we, adr))
            bad = adr in self.bad
            if we and not bad:
                self.words[adr] = data
            ctx.set(bus.err if bad else bus.ack, 1)
            ctx.set(bus.dat_r, self.words.get(adr, adr ^ 0x5555_AAAA))
            await ctx.tick()
            ctx.set(bus.err, 0)
            ctx.set(bus.ack, 0)
            ctx.set(bus.dat_r, 0xFFFF_FFFF)


class Line:
    """The link with a host, as tests write it: ``line.send(bytes)``, ``line.answer(count)``."""

    def __init__(self, rng, simulate, receiver, *, idle=0.0, stall=0.0, slow=0, bad=(), **parameters):
        self.dut = HostLink(**parameters)
        self.rng, self.idle, self.stall = rng, idle, stall
        self.target = Target(self.dut.bus, rng, slow, bad)
        self.found = []
        self._simulate, self._receiver = simulate, receiver

    def run(self, script, cycles=400_000):
        async def bench(ctx):
            self.ctx = ctx
            await script(self)

        self._simulate(
            self.dut,
            bench,
            background=[self.target.run, self._receiver(self.dut.o, self.found, self.rng, self.stall)],
            cycles=cycles,
        )

    async def send(self, payloads):
        ctx, stream = self.ctx, self.dut.i
        for payload in payloads:
            while self.rng.random() < self.idle:
                await ctx.tick()
            ctx.set(stream.valid, 1)
            ctx.set(stream.payload, payload)
            ready = False
            while not ready:
                _, _, ready = await ctx.tick().sample(stream.ready)
            ctx.set(stream.valid, 0)

    async def expect(self, wanted):
        for _ in range(200 * len(wanted) + 2000):
            if len(self.found) >= len(wanted):
                break
            await self.ctx.tick()
        assert bytes(self.found).hex(" ") == bytes(wanted).hex(" ")
        self.found.clear()

    async def silent(self, cycles=1000):
        await self.ctx.tick().repeat(cycles)
        assert not self.found


@pytest.fixture
def line(rng, simulate, receiver):
    def make(**parameters):
        return Line(rng, simulate, receiver, **parameters)

    return make


@pytest.mark.parametrize("idle", [0.0, 0.5])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_random_traffic(idle, stall, line, rng):
    async def script(line):
        words = line.target.words
        for sequence in range(1, 9):
            # Carries of the address come often.
            address = rng.choice([0, 0x8000_0000, rng.getrandbits(30) * 4, 0x0000_FFF8, 0x7EFF_FFF0])
            count = rng.choice([0, 1, 2, rng.randint(3, 12)])
            places = [(address // 4 + index) % (1 << 30) for index in range(count)]
            if rng.random() < 0.5:
                values = [
                    rng.choice([rng.getrandbits(32), 0x7E7D7E7D, 0xFFFF_FFFF, 0x7D5E_5D20]) for _ in places
                ]
                await line.send(request(sequence, Operation.WRITE, address, values))
                await line.expect(reply(sequence, Operation.WRITE, address, count, [], Status.OK))
                assert [words[place] for place in places] == values
                assert line.target.log == [(1, place) for place in places]
            else:
                values = [words.get(place, place ^ 0x5555_AAAA) for place in places]
                await line.send(request(sequence, Operation.READ, address, count=count))
                await line.expect(reply(sequence, Operation.READ, address, count, values, Status.OK))
                assert line.target.log == [(0, place) for place in places]
            line.target.log.clear()

    line(idle=idle, stall=stall, slow=5).run(script)


def test_longest(line, rng):
    values = [rng.getrandbits(32) for _ in range(MAX_WORDS)]

    async def script(line):
        await line.send(request(1, Operation.WRITE, 0x100, values))
        await line.expect(reply(1, Operation.WRITE, 0x100, MAX_WORDS, [], Status.OK))
        await line.send(request(2, Operation.READ, 0x100, count=MAX_WORDS))
        await line.expect(reply(2, Operation.READ, 0x100, MAX_WORDS, values, Status.OK))
        # One more does not fit the buffer: it is dropped, and nothing of it written.
        line.target.log.clear()
        await line.send(request(3, Operation.WRITE, 0x100, [0] * (MAX_WORDS + 1)))
        await line.send(request(3, Operation.WRITE, 0x100, [0] * (MAX_WORDS + 8))[:-6])
        await line.silent()
        assert line.target.log == []
        await line.send(request(4, Operation.IDENTIFY, 0))
        await line.expect(reply(4, Operation.IDENTIFY, 0, 0, [], Status.OK))

    line().run(script)


def test_write_is_executed_once(line):
    async def script(line):
        first = request(9, Operation.WRITE, 0x40, [1, 2])
        answer = reply(9, Operation.WRITE, 0x40, 2, [], Status.OK)
        for _ in range(3):
            await line.send(first)
            await line.expect(answer)
        assert line.target.log == [(1, 0x10), (1, 0x11)]
        # With another number it is another request, even if all else is the same.
        await line.send(request(10, Operation.WRITE, 0x40, [1, 2]))
        await line.expect(reply(10, Operation.WRITE, 0x40, 2, [], Status.OK))
        assert len(line.target.log) == 4
        # A read between makes the same number another request.
        await line.send(request(10, Operation.READ, 0x40, count=1))
        await line.expect(reply(10, Operation.READ, 0x40, 1, [1], Status.OK))
        await line.send(request(10, Operation.WRITE, 0x40, [7, 8]))
        await line.expect(reply(10, Operation.WRITE, 0x40, 2, [], Status.OK))
        assert line.target.words[0x10] == 7
        # Reads are executed every time.
        line.target.log.clear()
        for _ in range(2):
            await line.send(request(11, Operation.READ, 0x40, count=1))
            await line.expect(reply(11, Operation.READ, 0x40, 1, [7], Status.OK))
        assert line.target.log == [(0, 0x10)] * 2

    line().run(script)


def test_bus_error(line):
    async def script(line):
        await line.send(request(1, Operation.WRITE, 0x40, [1, 2, 3, 4]))
        await line.expect(reply(1, Operation.WRITE, 0x40, 4, [], Status.BUS_ERROR))
        assert line.target.log == [(1, 0x10), (1, 0x11), (1, 0x12)]
        # The same again is answered the same.
        await line.send(request(1, Operation.WRITE, 0x40, [1, 2, 3, 4]))
        await line.expect(reply(1, Operation.WRITE, 0x40, 4, [], Status.BUS_ERROR))
        assert len(line.target.log) == 3
        # A read gives what came before the error.
        await line.send(request(2, Operation.READ, 0x40, count=4))
        await line.expect(reply(2, Operation.READ, 0x40, 4, [1, 2], Status.BUS_ERROR))
        # And the error is over.
        await line.send(request(3, Operation.READ, 0x40, count=2))
        await line.expect(reply(3, Operation.READ, 0x40, 2, [1, 2], Status.OK))

    line(bad=(0x12,)).run(script)


def test_malformed(line):
    async def script(line):
        for number, (operation, count, words) in enumerate(
            [(Operation.WRITE, 3, [1, 2]), (Operation.WRITE, 1, [1, 2]), (3, 2, [1, 2]), (3, 0, [])], 1
        ):
            await line.send(request(number, operation, 0x40, words, count=count))
            await line.expect(reply(number, operation, 0x40, count, [], Status.MALFORMED))
        assert line.target.log == []
        await line.send(request(5, Operation.IDENTIFY, 0x1234_5678))
        await line.expect(reply(5, Operation.IDENTIFY, 0x1234_5678, 0, [], Status.OK))

    line().run(script)


def test_damage_is_dropped(line, rng):
    """A byte flipped, lost or inserted; then another request, without a pause."""
    good = request(77, Operation.WRITE, 0x40, [0x7E00_1234, 0xDEAD_BEEF])
    written = reply(77, Operation.WRITE, 0x40, 2, [], Status.OK)
    places = [0, 1, *rng.sample(range(2, len(good) - 2), 8), len(good) - 2, len(good) - 1]

    async def script(line):
        for sequence, place in enumerate(places * 3):
            bad = list(good)
            match sequence // len(places):
                case 0:
                    bad[place] ^= rng.randint(1, 255)
                case 1:
                    del bad[place]
                case 2:
                    bad.insert(place, rng.getrandbits(8))
            await line.send(bad)
            await line.ctx.tick().repeat(400)
            if line.found:
                # Only what stands outside the frame has been damaged.
                await line.expect(written)
                assert line.target.log == [(1, 0x10), (1, 0x11)]
            else:
                assert line.target.log == []
            # Where the frame had no end, the next one's start makes one, and that one is lost instead.
            after = request(sequence, Operation.READ, 0x400, count=1)
            answer = reply(sequence, Operation.READ, 0x400, 1, [0x100 ^ 0x5555_AAAA], Status.OK)
            await line.send(after)
            await line.ctx.tick().repeat(800)
            if line.found == written:
                assert place == len(good) - 1
                line.found.clear()
                await line.send(after)
            await line.expect(answer)
            line.target.log.clear()

    line().run(script, cycles=200_000)


def test_timeout(line):
    """An interrupted frame is dropped, not finished by what comes later."""

    async def script(line):
        good = request(1, Operation.WRITE, 0x40, [5])
        await line.send(good[:7])
        await line.ctx.tick().repeat(200)
        await line.send(good[7:])
        await line.expect(reply(1, Operation.WRITE, 0x40, 1, [], Status.OK))
        # 256 cycles behind the byte, the frame is gone.
        await line.send(request(2, Operation.WRITE, 0x40, [6])[:-1])
        await line.ctx.tick().repeat(280)
        await line.send([FLAG])
        await line.silent()
        assert line.target.words == {0x10: 5}
        await line.send(request(3, Operation.READ, 0x40, count=1))
        await line.expect(reply(3, Operation.READ, 0x40, 1, [5], Status.OK))

    line(timeout_cycles=256).run(script)


def test_latency(line):
    """Cycles from a request's last byte to the first and the last of its reply."""

    async def script(line):
        await line.send(request(1, Operation.READ, 0x40, count=1))
        cycles = 0
        while not line.found:
            await line.ctx.tick()
            cycles += 1
        # The header is read once, 48 bits of two cycles, and two more, before the reply begins; the bench
        # notices a cycle late, twice.
        assert cycles == 48 * 2 + 2 + 2

    line().run(script)


@pytest.mark.parametrize("address_bits", [4, 17])
def test_narrow_address(address_bits, line):
    """The bus's highest address bit is bit 31, whatever the width."""

    async def script(line):
        top = 1 << address_bits - 1
        await line.send(request(1, Operation.WRITE, 0x8000_0004, [1, 2, 3]))
        await line.expect(reply(1, Operation.WRITE, 0x8000_0004, 3, [], Status.OK))
        await line.send(request(2, Operation.WRITE, 0x0000_000C, [4, 5]))
        await line.expect(reply(2, Operation.WRITE, 0x0000_000C, 2, [], Status.OK))
        assert line.target.words == {top + 1: 1, top + 2: 2, top + 3: 3, 3: 4, 4: 5}

    line(address_bits=address_bits).run(script)


def test_refuses(refuses):
    refuses("address_bits must be from 2 to 30, not 31", HostLink, address_bits=31)
    refuses("timeout_cycles must be a positive integer, not 0", HostLink, timeout_cycles=0)
