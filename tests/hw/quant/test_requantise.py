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


def corners(rng: random.Random) -> list[dict]:
    """For every shift: a half and one bit beside it, of every significance, and one bit alone too high."""
    found = []

    def add(
        total: int,
        multiplier: int,
        shift: int,
        rounding: str | None = None,
        bounds: tuple[int, int] = (-128, 127),
    ) -> None:
        bias = min(max(rng.choice([total, total - rng.getrandbits(29)]), -(1 << 31)), (1 << 31) - 1)
        if -(1 << 31) <= total < 1 << 31 and abs(total - bias) < 1 << ACCUMULATOR_BITS - 1:
            found.append(
                {
                    "acc": total - bias,
                    "bias": bias,
                    "multiplier": multiplier,
                    "shift": shift,
                    "rounding": rounding or rng.choice(["tflite", "half_even"]),
                    "zero_point": rng.randint(-3, 3),
                    "low": bounds[0],
                    "high": bounds[1],
                }
            )

    def add_beside(half: int, bit: int, shift: int, rounding: str) -> None:
        """The product ``half`` halves and this bit; nothing if there are no factors for it."""
        point = 31 - shift  # where a product's integer part begins
        product = (half << point - 1) + (1 << bit)
        power = min(bit, 30)
        if abs(product >> power) < 1 << 31:
            add(product >> power, 1 << power, shift, rounding)
        else:
            # Of an odd multiplier, every number modulo a power of two is a product.
            odd = rng.randrange(1, 32, 2)
            total = (((half & 3) << point - 1) + (1 << bit)) * pow(odd, -1, 2 << point) % (2 << point)
            add(total, odd, shift, rounding)

    for shift in range(-31, 7):
        point = 31 - shift
        for bit in range(point - 1):
            # Beside the half above an even number, where the bit alone makes it go up.
            add_beside(4 * rng.randint(-2, 1) + 1, bit, shift, "half_even")
            if rng.random() < 0.3:
                add_beside(2 * rng.randint(-3, 3) + 1, bit, shift, "tflite")
        for half in range(-5, 6, 2):
            multiplier = rng.randint(1 << 30, (1 << 31) - 1)
            add(round((half << point - 1) / multiplier), multiplier, shift)
        for bit in range(7, 31):
            value = rng.choice([-1, 1]) * ((1 << bit) + rng.randint(0, 100))
            power = min(point, 30)
            add(value << point - power, 1 << power, shift)
        for power in range(8, 16):
            # A half from two factors whose lower halves are large.
            if 0 <= point - 1 - power <= 24:
                factor = rng.randrange(1, 64, 2)
                add(-(4 - factor % 4) << power, factor << point - 1 - power, shift, "half_even")
    for _ in range(200):
        # An integer near a bound.
        bounds = sorted(rng.randint(-128, 127) for _ in range(2))
        add(rng.choice(bounds) + rng.randint(-8, 8), 1 << 30, 1, bounds=(bounds[0], bounds[1]))
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
    todo += corners(rng)
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
