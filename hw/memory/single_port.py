"""A memory with one port that reads or writes, as the large RAMs of an iCE40 UltraPlus have it."""

from amaranth.hdl import ClockSignal, Elaboratable, Instance, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..emission import Emission

__all__ = ["SinglePortRam"]

_VERILOG = """\
// A memory with one port that reads or writes, an enable for each byte; single-port RAM where there is some.
module bitwright_single_port_ram #(
  parameter WIDTH = 32,
  parameter DEPTH = 16,
  parameter ADDRESS = 4
) (
  input clk,
  input enable,
  input [WIDTH/8-1:0] write,
  input [ADDRESS-1:0] address,
  input [WIDTH-1:0] write_data,
  output reg [WIDTH-1:0] read_data
);
  (* ram_style = "huge" *) reg [WIDTH-1:0] contents [0:DEPTH-1];
  integer i;
`ifndef SYNTHESIS
  initial for (i = 0; i < DEPTH; i = i + 1) contents[i] = {WIDTH{1'b0}};
`endif
  always @(posedge clk)
    if (enable) begin
      for (i = 0; i < WIDTH/8; i = i + 1)
        if (write[i])
          contents[address][i*8 +: 8] <= write_data[i*8 +: 8];
      if (write == 0)
        read_data <= contents[address];
    end
endmodule
"""


class SinglePortRam(wiring.Component):
    """``depth`` words of ``width`` bits without initial contents, which are read or written.

    In a cycle in which ``enable`` is high, the bytes that ``write`` names are written. Where it names none,
    ``read_data(t + 1) = contents[address(t)]``; otherwise ``read_data`` stays as it is.

    Yosys makes SB_SPRAM256KA of it where there are any: 16384 words of 16 bits each, side by side for a wider
    word. Those have no initial contents, and lose them when the power goes.

    Parameters
    ----------
    width, depth
        Bits of a word, a multiple of 8; words.

    Members
    -------
    enable, write, address, write_data, read_data : the port; ``write`` has a bit for each byte

    References
    ----------
    Lattice FPGA-TN-02022, iCE40 SPRAM Usage Guide
    """

    def __init__(self, *, width: int, depth: int):
        if width < 8 or width % 8:
            raise ValueError(f"width must be a multiple of 8, not {width!r}")
        if depth < 2:
            raise ValueError(f"depth must be at least 2, not {depth!r}")
        self.width = width
        self.depth = depth
        super().__init__(
            {
                "enable": In(1),
                "write": In(width // 8),
                "address": In(range(depth)),
                "write_data": In(width),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        if isinstance(platform, Emission):
            platform.verilog["bitwright_single_port_ram"] = _VERILOG
            ports = {
                ("o_" if member.flow == Out else "i_") + str(path[0]): value
                for path, member, value in self.signature.flatten(self)
            }
            m.submodules.ram = Instance(
                "bitwright_single_port_ram",
                p_WIDTH=self.width,
                p_DEPTH=self.depth,
                p_ADDRESS=len(self.address),
                i_clk=ClockSignal(),
                **ports,
            )
            return m
        m.submodules.memory = contents = memory.Memory(shape=self.width, depth=self.depth, init=[])
        write = contents.write_port(granularity=8)
        read = contents.read_port()
        mask = Signal(self.width // 8)
        with m.If(self.enable):
            m.d.comb += mask.eq(self.write)
        m.d.comb += [
            write.en.eq(mask),
            write.addr.eq(self.address),
            write.data.eq(self.write_data),
            read.en.eq(self.enable & (self.write == 0)),
            read.addr.eq(self.address),
            self.read_data.eq(read.data),
        ]
        return m
