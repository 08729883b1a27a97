"""The plain dot-product unit against integer arithmetic."""

import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.pe.parallel import ParallelSpec, ParallelUnit

WIDTHS = (2, 4, 8)


def spec(**changes):
    values = {
        "lanes": 4,
        "activation_bits": 8,
        "weight_bits": 8,
        "accumulator_bits": 24,
        "multiplier": "dsp",
    }
    return ParallelSpec(**{**values, **changes})


def values_of(bits):
    return range(-(1 << bits - 1), 1 << bits - 1)


def run(spec, beats, simulate, watch):
    """Outputs, by cycle, of beats ``(a, w, valid, last)``, one per cycle."""
    dut = ParallelUnit(spec)

    async def drive(ctx):
        for a, w, valid, last in beats:
            ctx.set(dut.a, a)
            ctx.set(dut.w, w)
            ctx.set(dut.valid, valid)
            ctx.set(dut.last, last)
            await ctx.tick()
        ctx.set(dut.valid, 0)
        await ctx.tick().repeat(spec.latency + 3)

    trace = []
    simulate(dut, drive, background=[watch(trace, dut.o_valid, dut.o.sum)])
    return {cycle: total for cycle, (valid, total) in enumerate(trace) if valid}


def expected(spec, beats):
    outputs = {}
    total = 0
    for cycle, (a, w, valid, last) in enumerate(beats):
        if valid:
            total += sum(x * y for x, y in zip(a, w, strict=True))
            if last:
                half = 1 << spec.accumulator_bits - 1
                outputs[cycle + spec.latency] = (total + half) % (2 * half) - half
                total = 0
    return outputs


def random_beats(spec, count, rng):
    beats = []
    for _ in range(count):
        a = [rng.choice(values_of(spec.activation_bits)) for _ in range(spec.lanes)]
        w = [rng.choice(values_of(spec.weight_bits)) for _ in range(spec.lanes)]
        # In a bubble the operands and `last` are anything.
        beats.append((a, w, int(rng.random() < 0.7), int(rng.random() < 0.4)))
    return beats


@pytest.mark.parametrize("multiplier", ["dsp", "lut"])
@pytest.mark.parametrize("weight_bits", WIDTHS)
@pytest.mark.parametrize("activation_bits", WIDTHS)
def test_widths(activation_bits, weight_bits, multiplier, rng, simulate, watch):
    unit = spec(lanes=3, activation_bits=activation_bits, weight_bits=weight_bits, multiplier=multiplier)
    beats = random_beats(unit, 120, rng)
    outputs = run(unit, beats, simulate, watch)
    assert outputs == expected(unit, beats)
    assert len(outputs) > 10


@pytest.mark.parametrize("lanes", [1, 2, 4, 5, 7, 16])
def test_lanes_and_latency(lanes, rng, simulate, watch):
    unit = spec(lanes=lanes)
    assert unit.latency == 2 + (lanes - 1).bit_length()
    beats = random_beats(unit, 80, rng)
    assert run(unit, beats, simulate, watch) == expected(unit, beats)


def test_dot_products_of_one_beat_back_to_back(rng, simulate, watch):
    unit = spec(lanes=2)
    beats = [(a, w, 1, 1) for a, w, _, _ in random_beats(unit, 30, rng)]
    outputs = run(unit, beats, simulate, watch)
    assert outputs == expected(unit, beats)
    assert sorted(outputs) == list(range(unit.latency, unit.latency + 30))


@pytest.mark.parametrize("multiplier", ["dsp", "lut"])
@pytest.mark.parametrize(("activation_bits", "weight_bits"), [(8, 8), (4, 2)])
def test_longest_reduction_of_extremes(activation_bits, weight_bits, multiplier, simulate, watch):
    """What a configuration promises: `reduction` products of the most negative operands fit."""
    config = EngineConfig(
        cols=1,
        lanes=16,
        activation_bits=activation_bits,
        weight_bits=weight_bits,
        multiplier=multiplier,
        reduction=256,
        activation_depth=16,
        weight_depth=16,
        channel_depth=16,
        output_depth=16,
        bus_bits=32,
    )
    unit = ParallelSpec.of(config)
    assert unit == spec(
        lanes=16,
        activation_bits=activation_bits,
        weight_bits=weight_bits,
        multiplier=multiplier,
        accumulator_bits=config.accumulator_bits,
    )
    a, w = values_of(activation_bits), values_of(weight_bits)
    corners = [(x, y) for x in (a[0], a[-1]) for y in (w[0], w[-1])]
    steps = config.reduction // config.lanes
    beats = [([x] * 16, [y] * 16, 1, int(step == steps - 1)) for x, y in corners for step in range(steps)]
    outputs = run(unit, beats, simulate, watch)
    assert list(outputs.values()) == [config.reduction * x * y for x, y in corners]


def test_accumulator_wraps(simulate, watch):
    unit = spec(lanes=1, accumulator_bits=16)
    beats = [([-128], [-128], 1, int(step == 2)) for step in range(3)]
    assert list(run(unit, beats, simulate, watch).values()) == [3 * 2**14 - 2**16]


def test_bubbles_do_not_count(simulate, watch):
    """A dot product waits for its last beat, whatever lies on the operands meanwhile."""
    unit = spec(lanes=2)
    junk = ([127, 127], [127, 127], 0, 1)
    beats = [([1, 2], [3, 4], 1, 0), *[junk] * 5, ([5, 6], [7, 8], 1, 1), *[junk] * 3, ([1, 1], [1, 1], 1, 1)]
    assert run(unit, beats, simulate, watch) == {6 + unit.latency: 94, 10 + unit.latency: 2}
