"""The adder tree: sums and when they come."""

import pytest
from amaranth.hdl import ClockDomain, Module

from bitwright.hw.reduce.adder_tree import AdderTree


@pytest.mark.parametrize("stride", [0, 1, 2, 3])
@pytest.mark.parametrize(("count", "width"), [(1, 4), (2, 8), (3, 3), (5, 1), (8, 16), (13, 5), (32, 2)])
def test_sums_and_latency(count, width, stride, rng, simulate, watch):
    dut = AdderTree(count, width, stride=stride)
    levels = (count - 1).bit_length()
    assert dut.latency == (0 if stride == 0 else -(-levels // stride))
    assert dut.o.shape()["sum"].width == width + levels
    least, most = -(1 << width - 1), (1 << width - 1) - 1
    terms = [[rng.randint(least, most) for _ in range(count)] for _ in range(40)]
    terms += [[least] * count, [most] * count, [least] * count, [0] * count]

    async def drive(ctx):
        for values in terms:
            ctx.set(dut.i, values)
            await ctx.tick()
        await ctx.tick().repeat(dut.latency + 1)

    # Without registers the tree has no clock of its own.
    top = Module()
    top.domains.sync = ClockDomain()
    top.submodules.dut = dut
    trace = []
    simulate(top, drive, background=[watch(trace, dut.o.sum)])
    assert [total for (total,) in trace][dut.latency : -1] == [sum(values) for values in terms]


def test_no_terms(refuses):
    refuses("at least one term, not 0", AdderTree, 0, 8)
