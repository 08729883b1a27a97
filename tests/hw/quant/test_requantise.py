"""The requantiser against the arithmetic that the golden model uses."""

import random

import numpy as np
import pytest

from bitwright.hw.quant.arithmetic import requantise
from bitwright.hw.quant.requantise import Requantiser, encode_channel

ACCUMULATOR_BITS = 30


def cases(count: int, rng: random.Random) -> list[dict]:
    found = []
    for _ in range(count):
        shift = rng.choice([rng.randint(-31, 6), rng.randint(-12, 0)])
        # Accumulators of every magnitude, and results near every boundary.
        bits = rng.randint(1, ACCUMULATOR_BITS - 1)
        acc = rng.randint(-(1 << bits), (1 << bits) - 1)
        bias = rng.choice([0, rng.randint(-(2**20), 2**20), rng.randint(-(2**30), 2**30)])
        multiplier = rng.choice([rng.randint(2**30, 2**31 - 1), 2**30, 0, rng.randint(0, 2**31 - 1)])
        zero_point = rng.randint(-128, 127)
        low = rng.choice([-128, zero_point, rng.randint(-128, 127)])
        high = rng.choice([127, rng.randint(low, 127)])
        if rng.random() < 0.3:
            # A tie, or one beside it.
            shift = rng.randint(-20, 0)
            multiplier = 2**30
            scaled = rng.randint(-200, 200)
            acc = (scaled << 1 - shift) + (1 << -shift) + rng.choice([-1, 0, 0, 1])
            if rng.random() < 0.3:
                # One bit beside it, as low as there are any: of the accumulator, or of the factor.
                acc = (rng.randint(-200, 200) << 1 - shift) + (1 << -shift) + (1 << rng.randint(0, 1 - shift))
            elif rng.random() < 0.3:
                acc = rng.choice([-1, 1]) << -shift
                multiplier += rng.choice([0, 1 << rng.randint(0, 29)])
            zero_point = rng.choice([zero_point, 0])
            low, high = rng.choice([(low, high), (-128, 127)])
            bias = 0
        elif rng.random() < 0.6:
            # The accumulator at which the result becomes another, of any factor, where nothing clips it.
            shift = rng.randint(-20, 0)
            multiplier = rng.randint(2**30, 2**31 - 1)
            zero_point = rng.randint(-3, 3)
            low, high = rng.choice([(-128, 127), (-128 + rng.randint(0, 7), 127 - rng.randint(0, 7))])
            border = 2 * rng.randint(-130, 130) + 1
            total = (border << 30 - shift) // multiplier + rng.choice([0, 1])
            bias = rng.choice([0, rng.randint(-(2**29), 2**29)])
            if abs(total - bias) >= 1 << ACCUMULATOR_BITS - 1:
                bias = 0
            acc = total - bias
        found.append(
            {
                "acc": acc,
                "bias": bias,
                "multiplier": multiplier,
                "shift": shift,
                "rounding": rng.choice(["tflite", "half_even"]),
                "zero_point": zero_point,
                "low": low,
                "high": max(low, high),
            }
        )
    return found


def expected(case: dict) -> int:
    scaled = requantise(
        np.array([case["acc"] + case["bias"]]),
        np.array([case["multiplier"]]),
        np.array([case["shift"]]),
        case["rounding"],
    )
    return int(np.clip(scaled[0] + case["zero_point"], case["low"], case["high"]))


@pytest.mark.parametrize("cycles", [1, 4])
def test_values_and_latency(cycles: int, rng, simulate) -> None:
    todo = [case for case in cases(6000 // cycles, rng) if abs(case["acc"] + case["bias"]) < 2**31]
    dut = Requantiser(accumulator_bits=ACCUMULATOR_BITS, bits=8, cycles=cycles)
    got: list[tuple[int, int]] = []

    async def drive(ctx) -> None:  # type: ignore[no-untyped-def]
        for case in todo:
            ctx.set(dut.start, 1)
            ctx.set(dut.acc.value, case["acc"])
            channel = encode_channel(**{key: value for key, value in case.items() if key != "acc"})
            ctx.set(dut.channel.as_value(), channel)
            await ctx.tick()
            for _ in range(cycles - 1):
                ctx.set(dut.start, 0)
                await ctx.tick()
        ctx.set(dut.start, 0)
        await ctx.tick().repeat(dut.latency + 2)

    async def watch(ctx) -> None:  # type: ignore[no-untyped-def]
        cycle = 0
        while True:
            _, _, done, value = await ctx.tick().sample(dut.done, dut.o)
            if done:
                got.append((cycle, value))
            cycle += 1

    simulate(dut, drive, background=[watch])

    assert [cycle for cycle, _ in got] == [dut.latency + cycles * index for index in range(len(todo))]
    for case, (_, value) in zip(todo, got, strict=True):
        assert value == expected(case) & 255, case


def test_channel_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="bias"):
        encode_channel(bias=2**31, multiplier=0, shift=0, rounding="tflite", zero_point=0, low=0, high=0)
