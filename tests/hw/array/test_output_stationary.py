"""The array: every unit's dot product, when it is captured, and the order in which results leave."""

import numpy as np
import pytest
from amaranth.hdl import Value

from bitwright.hw.array.output_stationary import OutputStationaryArray
from bitwright.hw.config import EngineConfig


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


def number(bits):
    """The word of those bits, lowest first."""
    return int("".join(map(str, bits[::-1])), 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 1, "cols": 1},
        {"rows": 1, "cols": 4},
        {"rows": 3, "cols": 2, "multiplier": "lut", "precisions": ("a4w4",), "lanes": 8},
        {"rows": 2, "cols": 4, "requantisers": 2},
        {"rows": 2, "cols": 4, "requantisers": 4},
        {"rows": 2, "cols": 3, "requantisers": 1, "precisions": ("a2w8",), "lanes": 16},
        {"rows": 2, "cols": 2, "pe": "bitfusion"},
        {"rows": 2, "cols": 2, "pe": "bitblade"},
        {"rows": 2, "cols": 2, "pe": "bismo", "precisions": ("a1w3",), "lanes": 32},
        {"rows": 2, "cols": 2, "pe": "stripes", "precisions": ("a1w8",), "lanes": 32},
        {"rows": 2, "cols": 2, "pe": "loom", "precisions": ("a1w4",), "lanes": 32},
        {"rows": 2, "cols": 2, "pe": "xnor", "precisions": ("a8wb",), "lanes": 8},
        {"rows": 2, "cols": 2, "pe": "ternary", "precisions": ("a8wt",)},
        {"rows": 2, "cols": 2, "pe": "log2", "precisions": ("a8wp4",)},
    ],
)
def test_results_in_order(changes, rng, simulate, watch):
    """Tiles back to back: the results of one leave while the next is being computed."""
    c = config(**changes)
    dut = OutputStationaryArray(c.unit, c.rows, c.cols, step=c.requantisers)
    assert dut.latency == c.unit.latency + 1
    unit, precision = c.unit, c.formats[0]
    elements = unit.elements(precision)
    random = np.random.default_rng(rng.getrandbits(32))
    captures = []  # cycle of the last beat, results row by row
    units = c.rows * c.cols
    drains = units // c.requantisers

    async def drive(ctx):
        cycle = 0
        for _ in range(5):
            steps = max(rng.randint(1, 5), drains)
            a = random.choice(precision.activation.values, (c.rows, steps, elements))
            w = random.choice(precision.weight.values, (c.cols, steps, elements))
            sums = np.einsum("rse,cse->rc", a, w)
            a_words, w_words = unit.activation_bits(a, precision), unit.weight_bits(w, precision)
            schedule = list(unit.schedule(steps, precision))
            for index, (step, beat, doubled) in enumerate(schedule):
                while rng.random() < 0.2:
                    ctx.set(dut.valid, 0)
                    ctx.set(dut.last, 0)
                    await ctx.tick()
                    cycle += 1
                for row in range(c.rows):
                    ctx.set(dut.activations[row], number(a_words[row, step, beat.activation]))
                ctx.set(dut.weights, number(w_words[:, step, beat.weight].reshape(-1)))
                if unit.control:
                    ctx.set(Value.cast(dut.control), unit.encoded_control(beat, shift=doubled))
                ctx.set(dut.valid, 1)
                ctx.set(dut.last, index == len(schedule) - 1)
                await ctx.tick()
                cycle += 1
            captures.append((cycle - 1, sums.reshape(-1).tolist()))
        ctx.set(dut.valid, 0)
        ctx.set(dut.last, 0)
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
    c = config(rows=1, cols=4, precisions=("a8w8",))
    dut = OutputStationaryArray(c.unit, c.rows, c.cols, step=c.requantisers)
    seen = []

    async def drive(ctx):
        ctx.set(dut.activations[0], pack([1, 0, 0, 0], 8))
        ctx.set(dut.weights, pack([5, 0, 0, 0, -6, 0, 0, 0, 7, 0, 0, 0, -8, 0, 0, 0], 8))
        ctx.set(dut.valid, 1)
        ctx.set(dut.last, 1)
        await ctx.tick()
        ctx.set(dut.valid, 0)
        ctx.set(dut.last, 0)
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
    dut = OutputStationaryArray(c.unit, c.rows, c.cols, step=c.requantisers)
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
        ctx.set(dut.last, 0)
        for _ in range(dut.latency + 1):
            _, _, captured, result = await ctx.tick().sample(dut.captured, dut.results[0])
            if captured:
                seen.append(result)
        _, _, result = await ctx.tick().sample(dut.results[0])
        seen.append(result)

    simulate(dut, drive)
    assert seen == [3, 4, -4]
