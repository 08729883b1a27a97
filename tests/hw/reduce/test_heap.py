"""Sums of bits of many weights, and of numbers of one width, against integer arithmetic."""

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.sim import Simulator

from bitwright.hw.reduce.carry import FABRICS
from bitwright.hw.reduce.datapath import Datapath, Number
from bitwright.hw.reduce.heap import heap_sum
from bitwright.hw.reduce.offset import offset_tree
from bitwright.hw.reduce.terms import ONE, Term, bits_of


def check(m, datapath, inputs, number, expected, rng, carry=None):
    """The number, with a carry that is left over, a fixed time after random inputs and extreme ones."""
    output, left = Signal(len(number.bits)), Signal()
    m.d.comb += output.eq(datapath.value(number))
    if carry is not None:
        m.d.comb += left.eq(datapath.delayed(carry, number.time).value)
    datapath.finish()
    width = len(Cat(inputs))

    async def bench(ctx):
        for value in [0, (1 << width) - 1, *(rng.getrandbits(width) for _ in range(20))]:
            ctx.set(Cat(inputs), value)
            for _ in range(number.time):
                await ctx.tick()
            total = ctx.get(output.as_signed() if number.signed else output) + ctx.get(left)
            assert total == expected(value)

    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize(
    "heights",
    [
        {0: 1},
        {0: 2},
        {2: 5},
        {0: 4, 1: 4, 2: 4},
        {0: 3, 1: 6, 2: 9, 3: 6, 4: 3},
        {1: 2, 4: 7, 5: 1, 9: 2},
        {},
    ],
)
def test_heap(heights, fabric, rng):
    m = Module()
    datapath = Datapath(m, fabric, None)
    inputs = [Signal() for _ in range(sum(heights.values()))]
    m.d.sync += Signal().eq(0)  # there is a clock even where nothing is added
    left = iter(inputs)
    weights = [weight for weight, height in heights.items() for _ in range(height)]
    columns = {weight: [Term.of(next(left)) for _ in range(height)] for weight, height in heights.items()}
    number = heap_sum(datapath, columns | {3: [*columns.get(3, []), ONE]})

    def expected(value):
        return 8 + sum(1 << weight for index, weight in enumerate(weights) if value >> index & 1)

    check(m, datapath, inputs, number, expected, rng)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("count", range(1, 8))
def test_offset_tree(count, signed, fabric, rng):
    m = Module()
    datapath = Datapath(m, fabric, None)
    inputs = [Signal(5) for _ in range(count)]
    extras = Signal(count)
    m.d.sync += Signal().eq(0)
    numbers = [Number(tuple(bits_of(signal)), signed) for signal in inputs]
    number, left = offset_tree(datapath, numbers, bits_of(extras))
    assert len(left) == 1

    def expected(value):
        codes = [value >> 5 * index & 31 for index in range(count)]
        return sum(code - 32 * (signed and code >= 16) for code in codes) + (value >> 5 * count).bit_count()

    check(m, datapath, [*inputs, extras], number, expected, rng, left[0])
