"""Multipliers with a register in front and one behind."""

from collections.abc import Sequence
from typing import cast

from amaranth.hdl import Cat, ClockSignal, Elaboratable, Instance, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..emission import Emission

__all__ = ["BlockMultiplier", "RowMultiplier"]

_VERILOG = """\
// A multiplier with the registers that multiplier blocks have: one for the operands, one for the product.
// Synthesis for a target may put the block itself in its place.
module bitwright_multiply #(
  parameter A_BITS = 8,
  parameter B_BITS = 8,
  parameter SIGNED = 1
) (
  input clk,
  input [A_BITS-1:0] a_in,
  input [B_BITS-1:0] b_in,
  output [A_BITS+B_BITS-1:0] product
);
  reg [A_BITS-1:0] a = 0;
  reg [B_BITS-1:0] b = 0;
  reg [A_BITS+B_BITS-1:0] p = 0;
  assign product = p;
  always @(posedge clk) begin
    a <= a_in;
    b <= b_in;
  end
  generate
    if (SIGNED) always @(posedge clk) p <= $signed(a) * $signed(b);
    else always @(posedge clk) p <= a * b;
  endgenerate
endmodule
"""


class BlockMultiplier(wiring.Component):
    """``product(t + 2) = a(t) * b(t)``, made for a multiplier block and the registers inside it.

    The way to a block and back is long, so it is walked in cycles of their own. Verilog gets a module
    ``bitwright_multiply``, which the flow replaces by the target's primitive where Yosys does not put the
    registers into the block itself (ECP5).

    Parameters
    ----------
    a_bits, b_bits
        Widths of the operands.
    signed
        Whether both are signed; otherwise both are unsigned.

    Members
    -------
    a, b, product : bit patterns
    """

    LATENCY = 2

    def __init__(self, a_bits: int, b_bits: int, *, signed: bool):
        self.a_bits = a_bits
        self.b_bits = b_bits
        self.signed = signed
        super().__init__({"a": In(a_bits), "b": In(b_bits), "product": Out(a_bits + b_bits)})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        if isinstance(platform, Emission):
            platform.verilog["bitwright_multiply"] = _VERILOG
            m.submodules.block = cast(
                Elaboratable,
                Instance(
                    "bitwright_multiply",
                    p_A_BITS=self.a_bits,
                    p_B_BITS=self.b_bits,
                    p_SIGNED=int(self.signed),
                    i_clk=ClockSignal(),
                    i_a_in=self.a,
                    i_b_in=self.b,
                    o_product=self.product,
                ),
            )
            return m
        a = Signal(self.a_bits, reset_less=True)
        b = Signal(self.b_bits, reset_less=True)
        product = a.as_signed() * b.as_signed() if self.signed else a * b
        m.d.sync += [a.eq(self.a), b.eq(self.b), self.product.eq(product)]
        return m


class RowMultiplier(wiring.Component):
    """``product(t + 2) = a(t) * b(t)``, both signed, from one row of AND gates per bit of ``b``.

    ``a * b = sum(2**j * a * b[j] for j < n - 1) - 2**(n - 1) * a * b[n - 1]``: rows are added pairwise, a
    register behind the first level and one behind the last. No ``*`` is left for synthesis to put into a
    multiplier block.

    Parameters
    ----------
    a_bits, b_bits
        Widths of the operands; ``b_bits`` at least 2.

    Members
    -------
    a, b, product : bit patterns
    """

    LATENCY = 2

    def __init__(self, a_bits: int, b_bits: int):
        if b_bits < 2:
            raise ValueError(f"A signed operand of rows needs at least 2 bits, not {b_bits!r}")
        self.a_bits = a_bits
        self.b_bits = b_bits
        super().__init__({"a": In(a_bits), "b": In(b_bits), "product": Out(a_bits + b_bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = self.a.as_signed()
        top = self.b_bits - 1
        # Each row: weight of its lowest bit, value, and whether it is subtracted, as that of the sign bit is.
        # That one is always the last, and added to nothing: it is the second of a pair, or left over.
        rows: Sequence[tuple[int, Value, bool]] = [
            (bit, Mux(self.b[bit], a, 0).as_signed(), bit == top) for bit in range(self.b_bits)
        ]
        registered = False
        while len(rows) > 1:
            sums: list[tuple[int, Value, bool]] = []
            for (low, x, _), (high, y, minus) in zip(rows[::2], rows[1::2], strict=False):
                keep = high - low  # the low bits of x pass by the adder
                upper = (x >> keep) - y if minus else (x >> keep) + y
                sums.append((low, Cat(x[:keep], upper).as_signed(), False))
            if len(rows) % 2:
                sums.append(rows[-1])
            rows = sums
            if not registered:
                registered = True
                held = []
                for low, value, minus in rows:
                    register = Signal(value.shape(), name=f"row_{low}", reset_less=True)
                    m.d.sync += register.eq(value)
                    held.append((low, register, minus))
                rows = held
        m.d.sync += self.product.eq(rows[0][1])
        return m
