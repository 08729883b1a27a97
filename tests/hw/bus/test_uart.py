"""The serial receiver and transmitter: values, time on the line, and what a bad line does."""

import pytest

from bitwright.hw.bus.uart import LEAST_DIVISOR, UartReceiver, UartTransmitter, uart_divisor


def line(values, divisor, gap=0):
    """Levels of the line in each cycle."""
    levels = []
    for value in values:
        bits = [0, *(value >> bit & 1 for bit in range(8)), 1]
        levels += [level for level in bits for _ in range(divisor)] + [1] * gap
    return levels


def drive(dut, levels):
    async def bench(ctx):
        for level in levels:
            ctx.set(dut.rx, level)
            await ctx.tick()
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(12 * dut.divisor)

    return bench


@pytest.mark.parametrize("divisor", [LEAST_DIVISOR, 5, 6, 7, 16, 104])
def test_transmitter(divisor, rng, simulate, sender, watch):
    dut = UartTransmitter(divisor=divisor)
    values = [0x00, 0xFF, 0x55, *(rng.getrandbits(8) for _ in range(5))]
    trace = []

    async def wait(ctx):
        await ctx.tick().repeat(divisor * 10 * len(values) + 4)

    simulate(dut, sender(dut.i, values, rng), wait, background=[watch(trace, dut.tx, dut.i.ready)])
    levels = [level for level, _ in trace]
    # The start bit leaves in the cycle behind the transfer, and byte follows byte.
    assert levels[1 : 1 + 10 * divisor * len(values)] == line(values, divisor)
    assert set(levels[1 + 10 * divisor * len(values) :]) == {1}
    taken = [cycle for cycle, (_, ready) in enumerate(trace) if ready]
    assert taken[: len(values)] == [10 * divisor * index for index in range(len(values))]


@pytest.mark.parametrize("divisor", [LEAST_DIVISOR, 5, 6, 7, 16, 104])
@pytest.mark.parametrize("gap", [0, 3])
def test_receiver(divisor, gap, rng, simulate, watch):
    dut = UartReceiver(divisor=divisor)
    values = [0x00, 0xFF, 0xAA, *(rng.getrandbits(8) for _ in range(5))]
    trace = []

    async def take(ctx):
        ctx.set(dut.o.ready, 1)

    levels = line(values, divisor, gap)
    simulate(
        dut,
        drive(dut, levels),
        take,
        background=[watch(trace, dut.o.valid, dut.o.payload, dut.error)],
    )
    came = [(cycle, payload) for cycle, (valid, payload, _) in enumerate(trace) if valid]
    assert [payload for _, payload in came] == values
    assert not any(error for _, _, error in trace)
    # Two cycles of the synchroniser, one to notice the start, and the middle of the stop bit
    length = 10 * divisor + gap
    latency = 3 + divisor // 2 + 9 * divisor
    assert [cycle for cycle, _ in came] == [index * length + latency for index in range(len(values))]


@pytest.mark.parametrize(("divisor", "share"), [(8, 0.98), (8, 1.02), (16, 0.97), (100, 0.96), (100, 1.04)])
def test_other_end_is_off(divisor, share, rng, simulate, receiver):
    dut = UartReceiver(divisor=divisor)
    values = [0x00, 0xFF, *(rng.getrandbits(8) for _ in range(6))]
    bits = [bit for value in values for bit in line([value], 1)]
    length = int(len(bits) * divisor * share)
    levels = [bits[int(cycle / (divisor * share))] for cycle in range(length)]
    found = []
    simulate(dut, drive(dut, levels), background=[receiver(dut.o, found, rng)])
    assert found == values


def test_glitch_is_no_start(simulate, receiver, rng):
    dut = UartReceiver(divisor=8)
    found = []
    levels = [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, *line([90], 8)]
    simulate(dut, drive(dut, levels), background=[receiver(dut.o, found, rng)])
    assert found == [0x5A]


def test_missing_stop_bit(simulate, receiver, watch, rng):
    dut = UartReceiver(divisor=8)
    found, trace = [], []
    # A break: low for longer than a byte. It is one error, and what follows is received.
    levels = [0] * 300 + [1] * 8 + line([0xC3], 8)
    simulate(dut, drive(dut, levels), background=[receiver(dut.o, found, rng), watch(trace, dut.error)])
    assert found == [0xC3]
    assert sum(error for (error,) in trace) == 1


def test_byte_gives_way(simulate, rng):
    dut = UartReceiver(divisor=6)

    async def bench(ctx):
        await drive(dut, line([0x11, 0x22], 6))(ctx)
        assert ctx.get(dut.o.valid)
        assert ctx.get(dut.o.payload) == 0x22
        ctx.set(dut.o.ready, 1)
        await ctx.tick()
        assert not ctx.get(dut.o.valid)

    simulate(dut, bench)


def test_divisor():
    assert uart_divisor(12e6, 115200) == 104
    assert uart_divisor(48e6, 3e6) == 16
    with pytest.raises(ValueError, match=r"baud = 10,000,000 must be at most 3,000,000"):
        uart_divisor(12e6, 10e6)
    with pytest.raises(ValueError, match=r"baud = 921,600 is 7.0% off .* take 857143"):
        uart_divisor(6e6 * 0.9999999, 921600 * 1.0)


@pytest.mark.parametrize("component", [UartReceiver, UartTransmitter])
def test_refuses_divisor(component, refuses):
    refuses("divisor must be an integer of 4 or more, not 3", component, divisor=3)
