"""The AXI4 ports: nothing leaves the window, everything arrives, and a stop is clean."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.hw.bus.axi4 import ReadPort, WindowCheck, WritePort

BASE = 0x4000
BURST = 8


# Window check


@st.composite
def bursts_near(draw, size, address_bits):
    """Bursts inside a window of ``size`` words, at its edge, and far beyond."""
    length = draw(st.integers(1, 16))
    most = (1 << address_bits) - 1
    memory = draw(
        st.one_of(
            st.integers(0, size),
            st.integers(max(0, size - length - 1), size + 1),
            st.sampled_from([2**28, 2**29, 2**30, 2**31, 2**32 - 1]),
            st.integers(0, most),
        )
    )
    return min(memory, most), length


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    bus_bytes=st.sampled_from([4, 8, 16]),
    base=st.sampled_from([0, 0x1000, 0x8000_0000]),
    narrow=st.sampled_from([None, 14, 28]),
    stall=st.sampled_from([0.0, 0.5]),
    rng=st.randoms(use_true_random=False),
)
def test_window(data, bus_bytes, base, narrow, stall, rng, simulate, sender, receiver, watch):
    largest = (2**32 - base) // bus_bytes
    size = data.draw(st.one_of(st.integers(0, 40), st.sampled_from([2**20, largest])))
    options = {} if narrow is None else {"address_bits": narrow}
    bursts = data.draw(st.lists(bursts_near(size, narrow or 32), min_size=1, max_size=8))
    dut = WindowCheck(bus_bytes=bus_bytes, burst_beats=16, **options)
    sent = [
        {"burst": {"memory": memory, "length": length}, "id": index % 2}
        for index, (memory, length) in enumerate(bursts)
    ]
    expected = [
        {"address": base + memory * bus_bytes, "len": length - 1, "id": index % 2}
        for index, (memory, length) in enumerate(bursts)
        if memory + length <= size
    ]
    found, trace = [], []

    async def drive(ctx):
        ctx.set(dut.base, base)
        ctx.set(dut.size, size)
        await sender(dut.i, sent, rng)(ctx)
        while not ctx.get(dut.idle):
            await ctx.tick()
        await ctx.tick()

    simulate(
        dut, drive, background=[receiver(dut.o, found, rng, stall), watch(trace, dut.outside)], cycles=500
    )
    assert found == expected
    assert sum(outside for (outside,) in trace) == len(bursts) - len(expected)


@pytest.mark.parametrize("bus_bytes", [4, 16])
def test_window_beyond_the_address_space(bus_bytes, simulate, stream_put):
    """Its byte address would wrap round to the window's beginning, whatever the host has granted."""
    dut = WindowCheck(bus_bytes=bus_bytes, burst_beats=16)
    words = 2**32 // bus_bytes

    async def drive(ctx):
        ctx.set(dut.size, 2**32 - 1)
        for memory, outside in ((words - 1, 0), (words, 1), (2 * words, 1), (2**31, 1)):
            await stream_put(ctx, dut.i, {"burst": {"memory": memory, "length": 1}})
            await ctx.tick()
            assert ctx.get(dut.o.valid) == (not outside)
            assert ctx.get(dut.outside) == outside
            ctx.set(dut.o.ready, 1)
            await ctx.tick()
            ctx.set(dut.o.ready, 0)

    simulate(dut, drive)


def test_window_takes_two_cycles(simulate, watch):
    dut = WindowCheck(bus_bytes=4, burst_beats=16)
    trace = []

    async def drive(ctx):
        ctx.set(dut.size, 1000)
        ctx.set(dut.o.ready, 1)
        ctx.set(dut.i.valid, 1)
        for cycle in range(20):
            ctx.set(dut.i.payload, {"burst": {"memory": 10 * (cycle // 2), "length": 1}})
            await ctx.tick()
        ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(4)

    simulate(dut, drive, background=[watch(trace, dut.o.valid, dut.o.payload.address)])
    assert [(cycle, address) for cycle, (valid, address) in enumerate(trace) if valid] == [
        (2 + 2 * index, 40 * index) for index in range(10)
    ]


def test_stopped_window_drops_but_does_not_withdraw(simulate, stream_put):
    dut = WindowCheck(bus_bytes=4, burst_beats=16)

    async def drive(ctx):
        ctx.set(dut.size, 100)
        await stream_put(ctx, dut.i, {"burst": {"memory": 7, "length": 1}})
        await ctx.tick()
        # One is on offer and another one is coming.
        ctx.set(dut.i.payload, {"burst": {"memory": 8, "length": 1}})
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.stop, 1)
        for _ in range(5):
            await ctx.tick()
            assert ctx.get(dut.o.valid)
            assert ctx.get(dut.o.payload.address) == 28
            assert not ctx.get(dut.idle)
        ctx.set(dut.o.ready, 1)
        for _ in range(5):
            await ctx.tick()
            assert not ctx.get(dut.o.valid)
            # What is dropped is not reported as outside.
            assert not ctx.get(dut.outside)
            assert ctx.get(dut.idle)
        ctx.set(dut.i.valid, 0)
        # And it goes on where it is let go.
        ctx.set(dut.stop, 0)
        await stream_put(ctx, dut.i, {"burst": {"memory": 9, "length": 2}})
        await ctx.tick()
        assert ctx.get(dut.o.valid)
        assert ctx.get(dut.o.payload.address) == 36
        assert ctx.get(dut.o.payload.len) == 1

    simulate(dut, drive)


@pytest.mark.parametrize("memory", [0, 1000])
def test_stop_between_the_two_cycles(memory, simulate, stream_put):
    """Inside the window or not, nobody hears of it."""
    dut = WindowCheck(bus_bytes=4, burst_beats=16)

    async def drive(ctx):
        ctx.set(dut.size, 100)
        await stream_put(ctx, dut.i, {"burst": {"memory": memory, "length": 1}})
        assert not ctx.get(dut.idle)
        ctx.set(dut.stop, 1)
        for _ in range(5):
            await ctx.tick()
            assert ctx.get(dut.idle)
            assert not ctx.get(dut.o.valid)
            assert not ctx.get(dut.outside)

    simulate(dut, drive)


# What the ports have in common


def window(dut, size):
    """A bench's beginning: the window of a port."""

    def grant(ctx):
        ctx.set(dut.base, BASE)
        ctx.set(dut.size, size)

    return grant


def random_bursts(count, size, rng, outside=0.0):
    """(word, length) of bursts that cross no boundary; some just leave the window."""
    found = []
    for _ in range(count):
        if rng.random() < outside:
            length = rng.randint(2, 4)
            found.append((size - rng.randint(0, length - 1), length))
        else:
            memory = rng.randrange(size)
            most = min(BURST - memory % BURST, size - memory)
            found.append((memory, rng.randint(1, most)))
    return found


def payloads(bursts):
    return [{"memory": memory, "length": length} for memory, length in bursts]


async def settle(ctx, dut):
    """Until the port is idle, and a little longer."""
    while not ctx.get(dut.idle):
        await ctx.tick()
    await ctx.tick().repeat(3)
    assert ctx.get(dut.idle)


# Read port


@pytest.mark.parametrize("stall", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("bus_bits", [32, 128])
def test_reads(bus_bits, stall, rng, simulate, sender, watch, axi_memory):
    size = 62  # words; the window ends within a burst's reach
    contents = bytearray(rng.randbytes(size * bus_bits // 8))
    dut = ReadPort(bus_bits=bus_bits, burst_beats=BURST)
    memory = axi_memory(
        dut, "m_", contents, bus_bits=bus_bits, burst_beats=BURST, rng=rng, base=BASE, stall=stall
    )
    asked = [random_bursts(25, size, rng, outside=0.2) for _ in range(2)]
    # The very last words, and one more than them.
    asked[0] += [(size - 6, 6), (size - 6, 7)]
    trace = []

    async def drive(ctx):
        window(dut, size)(ctx)
        await sender(dut.request[0], payloads(asked[0]), rng, 0.5)(ctx)
        await ctx.tick().until(dut.idle & ~dut.request[1].valid)
        await settle(ctx, dut)

    async def drive_second(ctx):
        await sender(dut.request[1], payloads(asked[1]), rng, 0.3)(ctx)

    held = []

    async def hold(ctx):
        while True:
            ctx.set(dut.hold, rng.random() < stall / 2)
            _, _, holding, valid = await ctx.tick().sample(dut.hold, dut.valid)
            assert not (held and held[-1] and valid)
            held.append(holding)

    simulate(
        dut,
        drive,
        drive_second,
        background=[
            memory.run,
            hold,
            watch(trace, dut.valid, dut.data, dut.last, dut.outside, dut.error, dut.idle),
        ],
    )
    assert any(held) == bool(stall)
    for requester, bursts in enumerate(asked):
        expected = [
            (memory.word(BASE + (start + index) * bus_bits // 8), int(index == length - 1))
            for start, length in bursts
            if start + length <= size
            for index in range(length)
        ]
        found = [(word, last) for valid, word, last, *_ in trace if valid >> requester & 1]
        assert found == expected
    assert sum(outside for _, _, _, outside, _, _ in trace) == sum(
        start + length > size for bursts in asked for start, length in bursts
    )
    assert not any(error for *_, error, _ in trace)
    # Not idle before the last word has come out.
    assert not any(idle and valid for valid, *_, idle in trace)
    assert memory.quiet


def test_first_requester_goes_first(simulate, watch):
    dut = ReadPort(bus_bits=32, burst_beats=BURST)
    trace = []

    async def drive(ctx):
        window(dut, 100)(ctx)
        for index in range(2):
            ctx.set(dut.request[index].payload, {"memory": 8 * (index + 1), "length": 3})
        ctx.set(dut.m_arready, 1)
        ctx.set(dut.request[1].valid, 1)
        ctx.set(dut.request[0].valid, 1)
        taken = []
        while len(taken) < 2:
            _, _, *ready = await ctx.tick().sample(*(request.ready for request in dut.request))
            for index in range(2):
                if ready[index] and ctx.get(dut.request[index].valid):
                    ctx.set(dut.request[index].valid, 0)
                    taken.append(index)
        assert taken == [0, 1]
        await ctx.tick().repeat(5)
        # Announced, and not answered
        assert not ctx.get(dut.idle)

    simulate(dut, drive, background=[watch(trace, dut.m_arvalid, dut.m_arid, dut.m_araddr, dut.m_arlen)])
    assert [burst for valid, *burst in trace if valid] == [[0, BASE + 32, 2], [1, BASE + 64, 2]]


def test_constant_signals_of_reads(simulate):
    for bus_bits, size in ((32, 2), (64, 3), (128, 4)):
        dut = ReadPort(bus_bits=bus_bits, burst_beats=BURST)

        async def drive(ctx, dut=dut, size=size):
            assert ctx.get(dut.m_arsize) == size
            assert ctx.get(dut.m_arburst) == 0b01
            assert ctx.get(dut.m_arcache) == 0b0011
            assert ctx.get(dut.m_arprot) == 0b000
            assert ctx.get(dut.m_rready) == 1
            await ctx.tick()

        simulate(dut, drive)


@pytest.mark.parametrize(("response", "is_error"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_read_response(response, is_error, simulate, stream_put, watch):
    dut = ReadPort(bus_bits=32, burst_beats=BURST)
    trace = []

    async def drive(ctx):
        window(dut, 8)(ctx)
        ctx.set(dut.m_arready, 1)
        await stream_put(ctx, dut.request[0], {"memory": 0, "length": 2})
        await ctx.tick().until(dut.m_arvalid)
        ctx.set(dut.m_rresp, response)
        # A response counts only with a word.
        await ctx.tick()
        ctx.set(dut.m_rvalid, 1)
        await ctx.tick()
        ctx.set(dut.m_rresp, 0)
        ctx.set(dut.m_rlast, 1)
        await ctx.tick()
        ctx.set(dut.m_rvalid, 0)
        await settle(ctx, dut)

    simulate(dut, drive, background=[watch(trace, dut.valid, dut.error)])
    assert [error for valid, error in trace if valid] == [is_error, 0]
    assert sum(error for _, error in trace) == is_error


@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_stop_of_reads(stall, rng, simulate, sender, axi_memory):
    """Bursts announced are read to their end; no others are announced."""
    contents = bytearray(64 * 4)
    dut = ReadPort(bus_bits=32, burst_beats=BURST)
    memory = axi_memory(dut, "m_", contents, bus_bits=32, burst_beats=BURST, rng=rng, base=BASE, stall=stall)
    send = sender(dut.request[0], payloads([(8 * index, 8) for index in range(8)] * 4), rng)

    async def requests(ctx):
        await send(ctx)
        while True:
            await ctx.tick()

    async def drive(ctx):
        window(dut, 64)(ctx)
        await ctx.tick().repeat(rng.randint(6, 30))
        ctx.set(dut.stop, 1)
        announced = len(memory.reads)
        offered = ctx.get(dut.m_arvalid)
        while not ctx.get(dut.idle):
            await ctx.tick()
        assert memory.quiet
        # Perhaps one was taken in the cycle before, which the memory has not counted yet.
        assert 1 <= len(memory.reads) <= announced + 1 + offered
        announced = len(memory.reads)
        await ctx.tick().repeat(20)
        assert len(memory.reads) == announced
        assert ctx.get(dut.idle)

    simulate(dut, drive, background=[requests, memory.run])


# Write port


@pytest.mark.parametrize("idle", [0.0, 0.6])
@pytest.mark.parametrize("stall", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("bus_bits", [32, 128])
def test_writes(bus_bits, stall, idle, rng, simulate, sender, watch, axi_memory):
    size = 62
    bus_bytes = bus_bits // 8
    contents = bytearray(size * bus_bytes)
    dut = WritePort(bus_bits=bus_bits, burst_beats=BURST)
    memory = axi_memory(
        dut, "m_", contents, bus_bits=bus_bits, burst_beats=BURST, rng=rng, base=BASE, stall=stall
    )
    bursts = [*random_bursts(20, size, rng, outside=0.2), (size - 6, 6), (size - 6, 7), (size - 1, 1)]
    inside = [(start, length) for start, length in bursts if start + length <= size]
    words = [rng.getrandbits(bus_bits) for _, length in inside for _ in range(length)]
    expected = bytearray(len(contents))
    places = [start + index for start, length in inside for index in range(length)]
    for place, word in zip(places, words, strict=True):
        expected[place * bus_bytes : (place + 1) * bus_bytes] = word.to_bytes(bus_bytes, "little")
    trace = []

    async def drive(ctx):
        window(dut, size)(ctx)
        await sender(dut.request, payloads(bursts), rng, idle)(ctx)
        await settle(ctx, dut)
        assert memory.quiet

    async def data(ctx):
        await sender(dut.data, words, rng, idle)(ctx)

    simulate(dut, drive, data, background=[memory.run, watch(trace, dut.outside, dut.error, dut.beat)])
    assert contents == expected
    assert memory.writes == [(BASE + start * bus_bytes, length) for start, length in inside]
    assert {strobes for _, _, strobes in memory.beats} == {(1 << bus_bytes) - 1}
    assert sum(outside for outside, _, _ in trace) == len(bursts) - len(inside)
    assert sum(error for _, error, _ in trace) == 0
    assert sum(beat for *_, beat in trace) == len(words)


def test_write_every_cycle(rng, simulate, sender, watch, axi_memory):
    """Bursts follow each other without a gap between their words, but for one cycle."""
    contents = bytearray(64 * 4)
    dut = WritePort(bus_bits=32, burst_beats=BURST)
    memory = axi_memory(dut, "m_", contents, bus_bits=32, burst_beats=BURST, rng=rng, base=BASE)
    words = [rng.getrandbits(32) for _ in range(64)]
    trace = []

    async def drive(ctx):
        window(dut, 64)(ctx)
        await sender(dut.request, payloads([(8 * index, 8) for index in range(8)]), rng)(ctx)
        await settle(ctx, dut)

    async def data(ctx):
        await sender(dut.data, words, rng)(ctx)

    simulate(dut, drive, data, background=[memory.run, watch(trace, dut.beat)])
    beats = [cycle for cycle, (beat,) in enumerate(trace) if beat]
    assert len(beats) == 64
    assert beats[-1] - beats[0] == 63 + 7


def test_constant_signals_of_writes(simulate):
    dut = WritePort(bus_bits=64, burst_beats=BURST)

    async def drive(ctx):
        assert ctx.get(dut.m_awid) == 0
        assert ctx.get(dut.m_awsize) == 3
        assert ctx.get(dut.m_awburst) == 0b01
        assert ctx.get(dut.m_awcache) == 0b0011
        assert ctx.get(dut.m_awprot) == 0b000
        assert ctx.get(dut.m_bready) == 1
        await ctx.tick()

    simulate(dut, drive)


@pytest.mark.parametrize(("response", "is_error"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_write_response(response, is_error, simulate, stream_put, watch):
    dut = WritePort(bus_bits=32, burst_beats=BURST)
    trace = []

    async def drive(ctx):
        window(dut, 8)(ctx)
        ctx.set(dut.m_awready, 1)
        ctx.set(dut.m_wready, 1)
        ctx.set(dut.data.valid, 1)
        await stream_put(ctx, dut.request, {"memory": 0, "length": 1})
        await ctx.tick().until(dut.m_wvalid)
        ctx.set(dut.m_bresp, response)
        await ctx.tick().repeat(3)
        assert not ctx.get(dut.idle)
        ctx.set(dut.m_bvalid, 1)
        await ctx.tick()
        ctx.set(dut.m_bvalid, 0)
        # Not idle before the error has been told.
        assert ctx.get(dut.idle) == (not is_error)
        await settle(ctx, dut)

    simulate(dut, drive, background=[watch(trace, dut.error)])
    assert sum(error for (error,) in trace) == is_error


@pytest.mark.parametrize("stall", [0.0, 0.6])
@pytest.mark.parametrize("given", [0, 1, 5, 8, 11])
def test_stop_of_writes(given, stall, rng, simulate, sender, axi_memory):
    """A stop after ``given`` words: what was announced is ended with empty strobes, in the right number."""
    contents = bytearray(64 * 4)
    dut = WritePort(bus_bits=32, burst_beats=BURST)
    memory = axi_memory(dut, "m_", contents, bus_bits=32, burst_beats=BURST, rng=rng, base=BASE, stall=stall)
    words = [rng.randrange(1, 1 << 32) for _ in range(given)]
    send = sender(dut.request, payloads([(8 * index, 8) for index in range(8)]), rng)

    async def requests(ctx):
        await send(ctx)
        while True:
            await ctx.tick()

    async def drive(ctx):
        window(dut, 64)(ctx)
        await sender(dut.data, words, rng)(ctx)
        await ctx.tick().repeat(rng.randint(2, 30))
        ctx.set(dut.stop, 1)
        announced = len(memory.writes)
        await settle(ctx, dut)
        assert memory.quiet
        bursts = len(memory.writes)
        # One may be on offer, and one checked behind it; see above for the third.
        assert bursts <= announced + 3
        await ctx.tick().repeat(20)
        assert len(memory.writes) == bursts

    simulate(dut, drive, background=[requests, memory.run])
    assert len(memory.beats) == 8 * len(memory.writes) >= given
    written = [(word, strobes) for _, word, strobes in memory.beats[:given]]
    assert written == [(word, 15) for word in words]
    assert {strobes for _, _, strobes in memory.beats[given:]} <= {0}
    expected = b"".join(word.to_bytes(4, "little") for word in words)
    assert contents == expected + bytes(len(contents) - len(expected))


def test_words_wait_for_their_burst(simulate):
    """No word leaves that no announced burst has room for."""
    dut = WritePort(bus_bits=32, burst_beats=BURST)

    async def drive(ctx):
        window(dut, 64)(ctx)
        ctx.set(dut.data.valid, 1)
        ctx.set(dut.m_wready, 1)
        for _ in range(10):
            await ctx.tick()
            assert not ctx.get(dut.m_wvalid)
            assert not ctx.get(dut.data.ready)
        # Nor for a burst that is refused.
        ctx.set(dut.request.payload, {"memory": 60, "length": 8})
        ctx.set(dut.request.valid, 1)
        await ctx.tick()
        ctx.set(dut.request.valid, 0)
        for _ in range(10):
            await ctx.tick()
            assert not ctx.get(dut.m_wvalid)
            assert not ctx.get(dut.m_awvalid)
            assert not ctx.get(dut.data.ready)
        assert ctx.get(dut.idle)

    simulate(dut, drive)


@pytest.mark.parametrize("port", [ReadPort, WritePort])
def test_no_more_bursts_are_taken_than_can_be_counted(port, simulate):
    """A memory that takes every burst and answers none of them for long: the port is not idle meanwhile."""
    bits = 4
    dut = port(bus_bits=32, burst_beats=BURST, under_way_bits=bits)
    reads = port is ReadPort
    request = dut.request[0] if reads else dut.request
    valid, ready = (dut.m_arvalid, dut.m_arready) if reads else (dut.m_awvalid, dut.m_awready)
    taken = []

    async def bench(ctx):
        window(dut, 64)(ctx)
        ctx.set(request.valid, 1)
        ctx.set(request.payload, {"memory": 0, "length": 1, "last": 1})
        ctx.set(ready, 1)
        if not reads:
            ctx.set(dut.data.valid, 1)
            ctx.set(dut.m_wready, 1)
        for cycle in range(200):
            taken.append(ctx.get(valid))
            assert not (sum(taken) and ctx.get(dut.idle)), cycle
            await ctx.tick()
        assert 1 << bits - 1 <= sum(taken) < 1 << bits
        ctx.set(request.valid, 0)
        for _ in range(sum(taken)):
            ctx.set(dut.m_rvalid if reads else dut.m_bvalid, 1)
            if reads:
                ctx.set(dut.m_rlast, 1)
            assert not ctx.get(dut.idle)
            await ctx.tick()
        ctx.set(dut.m_rvalid if reads else dut.m_bvalid, 0)
        await ctx.tick()
        assert ctx.get(dut.idle)
        # It goes on where it stopped.
        ctx.set(request.valid, 1)
        for _ in range(6):
            await ctx.tick()
        assert not ctx.get(dut.idle)

    simulate(dut, bench)
