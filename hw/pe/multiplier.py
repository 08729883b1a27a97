"""A multiplier with a register in front and one behind."""

from typing import cast

from amaranth.hdl import ClockSignal, Elaboratable, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..emission import Emission

__all__ = ["BlockMultiplier"]

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
  reg [A_BITS-1:0] a;
  reg [B_BITS-1:0] b;
  reg [A_BITS+B_BITS-1:0] p;
  initial a = 0;
  initial b = 0;
  initial p = 0;
  assign product = p;
  always @(posedge clk) begin
    a <= a_in;
    b <= b_in;
  end
  generate
    if (SIGNED != 0) begin : gen_signed
      always @(posedge clk) p <= $signed(a) * $signed(b);
    end else begin : gen_unsigned
      always @(posedge clk) p <= a * b;
    end
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
