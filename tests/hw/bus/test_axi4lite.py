"""The register port: address and data in any order, strobes, and as much patience as the host needs."""

import pytest

from bitwright.hw.bus.axi4lite import RegisterPort


async def offer(ctx, valid, ready, settings, delay):
    """One transfer after some cycles."""
    for _ in range(delay):
        await ctx.tick()
    for signal, value in settings:
        ctx.set(signal, value)
    ctx.set(valid, 1)
    taken = False
    while not taken:
        _, _, taken = await ctx.tick().sample(ready)
    ctx.set(valid, 0)


@pytest.mark.parametrize(("address_delay", "data_delay"), [(0, 0), (0, 3), (3, 0), (0, 1), (1, 0)], ids=str)
def test_order_of_address_and_data(address_delay, data_delay, simulate, watch):
    dut = RegisterPort()
    trace = []

    async def address(ctx):
        await offer(ctx, dut.s_awvalid, dut.s_awready, [(dut.s_awaddr, 0x24)], address_delay)

    async def data(ctx):
        settings = [(dut.s_wdata, 0x12345678), (dut.s_wstrb, 0b0101)]
        await offer(ctx, dut.s_wvalid, dut.s_wready, settings, data_delay)

    async def answer(ctx):
        ctx.set(dut.s_bready, 1)
        await ctx.tick().until(dut.s_bvalid)
        assert ctx.get(dut.s_bresp) == 0
        await ctx.tick().repeat(3)

    signals = (dut.write, dut.write_address, dut.write_data, dut.write_mask)
    simulate(dut, address, data, answer, background=[watch(trace, *signals)])
    writes = [(cycle, *values) for cycle, (write, *values) in enumerate(trace) if write]
    assert writes == [(1 + max(address_delay, data_delay), 0x24, 0x12345678, 0x00FF00FF)]


@pytest.mark.parametrize("strobes", range(16))
def test_strobes(strobes, simulate):
    dut = RegisterPort()

    async def drive(ctx):
        ctx.set(dut.s_awvalid, 1)
        ctx.set(dut.s_wvalid, 1)
        ctx.set(dut.s_wstrb, strobes)
        await ctx.tick()
        assert ctx.get(dut.write)
        assert ctx.get(dut.write_mask) == sum(255 << 8 * byte for byte in range(4) if strobes >> byte & 1)

    simulate(dut, drive)


@pytest.mark.parametrize("idle", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("stall", [0.0, 0.5, 0.9])
def test_random_traffic(idle, stall, rng, simulate, watch):
    """Reads and writes side by side; every channel with its own pauses."""
    dut = RegisterPort()
    count = 30
    writes = [(rng.randrange(64) * 4, rng.getrandbits(32), rng.randrange(16)) for _ in range(count)]
    reads = [rng.randrange(64) * 4 for _ in range(count)]
    answers, read_back = [], []

    def pause():
        cycles = 0
        while rng.random() < idle and cycles < 20:
            cycles += 1
        return cycles

    async def write_addresses(ctx):
        for address, _, _ in writes:
            await offer(ctx, dut.s_awvalid, dut.s_awready, [(dut.s_awaddr, address)], pause())

    async def write_data(ctx):
        for _, value, strobes in writes:
            settings = [(dut.s_wdata, value), (dut.s_wstrb, strobes)]
            await offer(ctx, dut.s_wvalid, dut.s_wready, settings, pause())

    async def write_answers(ctx):
        pending = False
        while len(answers) < count:
            ready = rng.random() >= stall
            ctx.set(dut.s_bready, ready)
            _, _, valid, response = await ctx.tick().sample(dut.s_bvalid, dut.s_bresp)
            assert response == 0
            assert valid or not pending, "bvalid was withdrawn"
            pending = valid and not ready
            if valid and ready:
                answers.append(response)
        ctx.set(dut.s_bready, 0)

    async def read_addresses(ctx):
        for address in reads:
            await offer(ctx, dut.s_arvalid, dut.s_arready, [(dut.s_araddr, address)], pause())

    async def read_answers(ctx):
        pending = None
        while len(read_back) < count:
            ready = rng.random() >= stall
            ctx.set(dut.s_rready, ready)
            _, _, valid, value, response = await ctx.tick().sample(dut.s_rvalid, dut.s_rdata, dut.s_rresp)
            assert response == 0
            if pending is not None:
                assert valid
                assert value == pending
            pending = value if valid and not ready else None
            if valid and ready:
                read_back.append(value)
        ctx.set(dut.s_rready, 0)
        await ctx.tick().repeat(3)

    given = []

    async def registers(ctx):
        """Answers a read after any time, from none on; a counter's answer lasts one cycle."""
        while True:
            done = ctx.get(dut.read) and rng.random() >= stall
            value = rng.getrandbits(32)
            ctx.set(dut.read_done, done)
            ctx.set(dut.read_data, value)
            _, _, read, address = await ctx.tick().sample(dut.read, dut.read_address)
            assert read or not done
            if done:
                given.append((address, value))

    trace = []
    signals = (dut.write, dut.write_address, dut.write_data, dut.write_mask)
    simulate(
        dut,
        write_addresses,
        write_data,
        write_answers,
        read_addresses,
        read_answers,
        background=[registers, watch(trace, *signals)],
    )
    assert [tuple(values) for write, *values in trace if write] == [
        (address, value, sum(255 << 8 * byte for byte in range(4) if strobes >> byte & 1))
        for address, value, strobes in writes
    ]
    assert [address for address, _ in given] == reads
    assert [value for _, value in given] == read_back


def test_slow_read(simulate):
    dut = RegisterPort()

    async def drive(ctx):
        ctx.set(dut.s_arvalid, 1)
        ctx.set(dut.s_araddr, 0x44)
        assert ctx.get(dut.s_arready)
        await ctx.tick()
        ctx.set(dut.s_araddr, 0x08)
        for _ in range(20):
            assert ctx.get(dut.read)
            assert ctx.get(dut.read_address) == 0x44
            assert not ctx.get(dut.s_rvalid)
            assert not ctx.get(dut.s_arready)
            await ctx.tick()
        ctx.set(dut.read_done, 1)
        ctx.set(dut.read_data, 99)
        await ctx.tick()
        ctx.set(dut.read_done, 0)
        ctx.set(dut.read_data, 0)
        for _ in range(5):
            assert ctx.get(dut.s_rvalid)
            assert ctx.get(dut.s_rdata) == 99
            assert not ctx.get(dut.read)
            # The next read waits until this one is through.
            assert not ctx.get(dut.s_arready)
            await ctx.tick()
        ctx.set(dut.s_rready, 1)
        await ctx.tick()
        assert not ctx.get(dut.s_rvalid)
        assert ctx.get(dut.s_arready)

    simulate(dut, drive)


def test_write_waits_for_the_previous_answer(simulate, watch):
    """The host may send the next address and data before it takes the answer; the write comes after that."""
    dut = RegisterPort()
    trace = []

    async def drive(ctx):
        ctx.set(dut.s_awvalid, 1)
        ctx.set(dut.s_wvalid, 1)
        await ctx.tick().repeat(10)
        ctx.set(dut.s_bready, 1)
        await ctx.tick()
        ctx.set(dut.s_awvalid, 0)
        ctx.set(dut.s_wvalid, 0)
        await ctx.tick().repeat(5)

    simulate(dut, drive, background=[watch(trace, dut.write)])
    assert [cycle for cycle, (write,) in enumerate(trace) if write] == [1, 11]
