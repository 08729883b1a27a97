"""A small memory that is read without a clock, as the LUTs of many FPGAs can be."""

from amaranth.hdl import ClockSignal, Elaboratable, Instance, Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..emission import Emission

__all__ = ["LutRam"]

_VERILOG = """\
// A memory that is written on the clock and read without it; LUT RAM where there is some.
module bitwright_lut_ram #(
  parameter WIDTH = 4,
  parameter DEPTH = 16,
  parameter ADDRESS = 4
) (
  input clk,
  input write_enable,
  input [ADDRESS-1:0] write_address,
  input [WIDTH-1:0] write_data,
  input [ADDRESS-1:0] read_address,
  output [WIDTH-1:0] read_data
);
  reg [WIDTH-1:0] contents [0:DEPTH-1];
`ifndef SYNTHESIS
  integer i;
  initial for (i = 0; i < DEPTH; i = i + 1) contents[i] = {WIDTH{1'b0}};
`endif
  always @(posedge clk)
    if (write_enable)
      contents[write_address] <= write_data;
  assign read_data = contents[read_address];
endmodule
"""


class LutRam(wiring.Component):
    """``depth`` words of ``width`` bits, without initial contents.

    ``read_data(t) = contents[read_address(t)]``; what is written in a cycle is read from the next one on.

    On ECP5 it is one TRELLIS_DPR16X4, which takes the room of six LUTs, for every four bits of 16 words. An
    iCE40 has nothing of the kind and takes flip-flops and multiplexers.

    Parameters
    ----------
    width, depth
        Bits of a word; words.

    Members
    -------
    write_enable, write_address, write_data : write port
    read_address, read_data : read port
    """

    def __init__(self, *, width: int, depth: int):
        self.width = width
        self.depth = depth
        address = In(range(max(2, depth)))  # at least one bit: Verilog has no ports of none
        super().__init__(
            {
                "write_enable": In(1),
                "write_address": address,
                "write_data": In(width),
                "read_address": address,
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        if isinstance(platform, Emission):
            platform.verilog["bitwright_lut_ram"] = _VERILOG
            ports = {
                ("o_" if member.flow == Out else "i_") + str(path[0]): value
                for path, member, value in self.signature.flatten(self)
            }
            m.submodules.ram = Instance(
                "bitwright_lut_ram",
                p_WIDTH=self.width,
                p_DEPTH=self.depth,
                p_ADDRESS=len(self.read_address),
                i_clk=ClockSignal(),
                **ports,
            )
            return m
        m.submodules.memory = contents = memory.Memory(shape=self.width, depth=self.depth, init=[])
        write = contents.write_port()
        read = contents.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.write_enable),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            read.addr.eq(self.read_address),
            self.read_data.eq(read.data),
        ]
        return m
