"""The multiplier: every product where there are few, and two cycles from operands to product."""

import pytest
from amaranth.back import rtlil

from bitwright.hw.emission import Emission
from bitwright.hw.pe.multiplier import BlockMultiplier


def decode(value, bits, signed):
    return value - (1 << bits) if signed and value >> bits - 1 else value


def check(dut, signed, pairs, simulate, watch):
    """A pair of bit patterns in every cycle."""
    bits = dut.a_bits, dut.b_bits

    async def drive(ctx):
        for a, b in pairs:
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            await ctx.tick()
        await ctx.tick().repeat(dut.LATENCY)

    trace = []
    simulate(dut, drive, background=[watch(trace, dut.product)], cycles=70_000)
    assert dut.LATENCY == 2
    expected = [decode(a, bits[0], signed) * decode(b, bits[1], signed) % 2 ** sum(bits) for a, b in pairs]
    assert [product for (product,) in trace][2:] == expected


def every_pair(a_bits, b_bits):
    return [(a, b) for a in range(1 << a_bits) for b in range(1 << b_bits)]


def some_pairs(a_bits, b_bits, rng):
    """Corners, and as many others."""
    corners = [[0, 1, (1 << bits - 1) - 1, 1 << bits - 1, (1 << bits) - 1] for bits in (a_bits, b_bits)]
    pairs = [(a, b) for a in corners[0] for b in corners[1]]
    return pairs + [(rng.getrandbits(a_bits), rng.getrandbits(b_bits)) for _ in range(400)]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("a_bits", "b_bits"), [(4, 4), (2, 5)])
def test_block_exhaustively(a_bits, b_bits, signed, simulate, watch):
    dut = BlockMultiplier(a_bits, b_bits, signed=signed)
    check(dut, signed, every_pair(a_bits, b_bits), simulate, watch)


@pytest.mark.parametrize(("a_bits", "b_bits", "signed"), [(8, 8, True), (16, 16, False), (8, 2, True)])
def test_wider_block(a_bits, b_bits, signed, rng, simulate, watch):
    dut = BlockMultiplier(a_bits, b_bits, signed=signed)
    check(dut, signed, some_pairs(a_bits, b_bits, rng), simulate, watch)


@pytest.mark.parametrize("signed", [True, False])
def test_block_is_an_instance_of_its_own_module(signed):
    platform = Emission()
    dut = BlockMultiplier(8, 4, signed=signed)
    text = rtlil.convert(dut, name="top", platform=platform, emit_src=False)
    assert list(platform.verilog) == ["bitwright_multiply"]
    assert "cell \\bitwright_multiply" in text
    for name, value in (("A_BITS", 8), ("B_BITS", 4), ("SIGNED", int(signed))):
        assert f"parameter \\{name} {value}\n" in text
