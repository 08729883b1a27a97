"""The array: every unit's dot product, when it is captured, and the order in which results leave."""

from itertools import chain

import pytest

from bitwright.hw.array.output_stationary import OutputStationaryArray
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Int


def config(**changes):
    values = {
        "lanes": 4,
        "bus_bits": 32,
        "activation_depth": 16,
        "weight_depth": 16,
        "channel_depth": 16,
        "output_depth": 16,
        "reduction": 256,
    }
    return EngineConfig(**{**values, **changes})


def pack(values, bits):
    """Elements side by side, first element lowest."""
    return sum((value & (1 << bits) - 1) << bits * index for index, value in enumerate(values))


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 1, "cols": 1},
        {"rows": 1, "cols": 4},
        {"rows": 3, "cols": 2, "multiplier": "lut", "weight_bits": 4, "lanes": 8, "activation_bits": 4},
        {"rows": 2, "cols": 4, "requantisers": 2},
        {"rows": 2, "cols": 4, "requantisers": 4},
        {"rows": 2, "cols": 3, "requantisers": 1, "weight_bits": 8, "activation_bits": 2, "lanes": 16},
    ],
)
def test_results_in_order(changes, rng, simulate, watch):
    """Tiles back to back: the results of one leave while the next is being computed."""
    c = config(**changes)
    dut = OutputStationaryArray(c)
    assert dut.latency == dut.spec.latency + 1
    a_format, w_format = Int(c.activation_bits), Int(c.weight_bits)
    captures = []  # cycle of the last beat, results row by row
    units = c.rows * c.cols
    drains = units // c.requantisers

    async def drive(ctx):
        cycle = 0
        for _ in range(5):
            steps = max(rng.randint(1, 5), drains)
            sums = [[0] * c.cols for _ in range(c.rows)]
            for step in range(steps):
                while rng.random() < 0.2:
                    ctx.set(dut.valid, 0)
                    ctx.set(dut.last, rng.randint(0, 1))
                    await ctx.tick()
                    cycle += 1
                a = [[rng.randint(a_format.min, a_format.max) for _ in range(c.lanes)] for _ in range(c.rows)]
                w = [[rng.randint(w_format.min, w_format.max) for _ in range(c.lanes)] for _ in range(c.cols)]
                for row in range(c.rows):
                    ctx.set(dut.activations[row], pack(a[row], c.activation_bits))
                    for col in range(c.cols):
                        sums[row][col] += sum(x * y for x, y in zip(a[row], w[col], strict=True))
                ctx.set(dut.weights, pack([*chain(*w)], c.weight_bits))
                ctx.set(dut.valid, 1)
                ctx.set(dut.last, step == steps - 1)
                await ctx.tick()
                cycle += 1
            captures.append((cycle - 1, [*chain(*sums)]))
        ctx.set(dut.valid, 0)
        await ctx.tick().repeat(dut.latency + drains + 2)

    async def shift(ctx):
        """As the quant pipeline does: from the cycle of the capture on, as often as there are groups."""
        left = 0
        while True:
            # `captured` comes from a register, so it can be looked at before the clock edge.
            if ctx.get(dut.captured):
                left = drains
            ctx.set(dut.shift, left > 0)
            left = max(0, left - 1)
            await ctx.tick()

    trace = []
    simulate(dut, drive, background=[shift, watch(trace, dut.captured, dut.results)])
    captured = [cycle for cycle, (high, _) in enumerate(trace) if high]
    assert captured == [cycle + dut.latency for cycle, _ in captures]
    for start, (_, results) in zip(captured, captures, strict=True):
        found = [value for _, group in trace[start : start + drains] for value in group]
        assert found == results


def test_results_stay_until_they_are_shifted(simulate, watch):
    c = config(rows=1, cols=4, weight_bits=8)
    dut = OutputStationaryArray(c)
    seen = []

    async def drive(ctx):
        ctx.set(dut.activations[0], pack([1, 0, 0, 0], 8))
        ctx.set(dut.weights, pack([5, 0, 0, 0, -6, 0, 0, 0, 7, 0, 0, 0, -8, 0, 0, 0], 8))
        ctx.set(dut.valid, 1)
        ctx.set(dut.last, 1)
        await ctx.tick()
        ctx.set(dut.valid, 0)
        await ctx.tick().until(dut.captured)
        for pause in (0, 3, 1, 0):
            for _ in range(pause):
                await ctx.tick()
            seen.append(ctx.get(dut.results[0]))
            ctx.set(dut.shift, 1)
            await ctx.tick()
            ctx.set(dut.shift, 0)

    simulate(dut, drive)
    assert seen == [5, -6, 7, -8]


def test_capture_goes_before_shift(simulate):
    """The last shift of one capture may meet the next capture."""
    c = config(rows=1, cols=2)
    dut = OutputStationaryArray(c)
    seen = []

    async def drive(ctx):
        ctx.set(dut.shift, 1)
        ctx.set(dut.activations[0], pack([1, 0, 0, 0], 8))
        for value in (3, 4):
            ctx.set(dut.weights, pack([value, 0, 0, 0, -value, 0, 0, 0], 8))
            ctx.set(dut.valid, 1)
            ctx.set(dut.last, 1)
            await ctx.tick()
        ctx.set(dut.valid, 0)
        for _ in range(dut.latency + 1):
            _, _, captured, result = await ctx.tick().sample(dut.captured, dut.results[0])
            if captured:
                seen.append(result)
        _, _, result = await ctx.tick().sample(dut.results[0])
        seen.append(result)

    simulate(dut, drive)
    assert seen == [3, 4, -4]
