"""One memory with a read port and a write port, as block RAM has them."""

from amaranth.hdl import ClockSignal, Elaboratable, Instance, Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..emission import Emission

__all__ = ["Ram"]

_VERILOG = """\
// A memory with one write port and one read port; replace it by a vendor's macro if you like.
// No address is ever read in the cycle in which it is written, so nothing needs to emulate that case.
module bitwright_ram #(
  parameter WIDTH = 8,
  parameter GRANULE = 8,
  parameter DEPTH = 16,
  parameter ADDRESS = 4
) (
  input clk,
  input [WIDTH/GRANULE-1:0] write_enable,
  input [ADDRESS-1:0] write_address,
  input [WIDTH-1:0] write_data,
  input read_enable,
  input [ADDRESS-1:0] read_address,
  output reg [WIDTH-1:0] read_data
);
  (* no_rw_check *) reg [WIDTH-1:0] contents [0:DEPTH-1];
  integer i;
`ifndef SYNTHESIS
  initial for (i = 0; i < DEPTH; i = i + 1) contents[i] = {WIDTH{1'b0}};
`endif
  always @(posedge clk) begin
    for (i = 0; i < WIDTH/GRANULE; i = i + 1)
      if (write_enable[i])
        contents[write_address][i*GRANULE +: GRANULE] <= write_data[i*GRANULE +: GRANULE];
    if (read_enable)
      read_data <= contents[read_address];
  end
endmodule
"""


_REGISTERED = """\
// The same behind registers of its own. They stay its own: synthesis would make one of those of several
// memories, which has a long way to all of them.
(* keep_hierarchy *)
module bitwright_registered_ram #(
  parameter WIDTH = 8,
  parameter GRANULE = 8,
  parameter DEPTH = 16,
  parameter ADDRESS = 4
) (
  input clk,
  input [WIDTH/GRANULE-1:0] write_enable,
  input [ADDRESS-1:0] write_address,
  input [WIDTH-1:0] write_data,
  input read_enable,
  input [ADDRESS-1:0] read_address,
  output [WIDTH-1:0] read_data
);
  reg [WIDTH/GRANULE-1:0] write_enable_1 = 0;
  reg [ADDRESS-1:0] write_address_1;
  reg [WIDTH-1:0] write_data_1;
  reg read_enable_1 = 0;
  reg [ADDRESS-1:0] read_address_1;
  always @(posedge clk) begin
    write_enable_1 <= write_enable;
    write_address_1 <= write_address;
    write_data_1 <= write_data;
    read_enable_1 <= read_enable;
    read_address_1 <= read_address;
  end
  bitwright_ram #(.WIDTH(WIDTH), .GRANULE(GRANULE), .DEPTH(DEPTH), .ADDRESS(ADDRESS)) ram (
    .clk(clk),
    .write_enable(write_enable_1),
    .write_address(write_address_1),
    .write_data(write_data_1),
    .read_enable(read_enable_1),
    .read_address(read_address_1),
    .read_data(read_data)
  );
endmodule
"""


class Ram(wiring.Component):
    """``depth`` words of ``width`` bits, without initial contents.

    ``read_data(t + 1) = contents[read_address(t)]`` where ``read_enable(t)``, otherwise it stays. What is
    read from an address in the cycle in which it is written is undefined; nothing here does that. Said so,
    synthesis leaves out the logic that would define it, some 80 cells for each memory.

    Amaranth's own memory is emitted with an initial value for every word, which made most of the time of
    elaboration and most of the Verilog; so Verilog gets a module of its own, ``bitwright_ram``.

    Parameters
    ----------
    width, depth
        Bits of a word; words.
    granule
        Bits that a write enable stands for; ``width`` unless given.
    registered
        Whether all inputs go through registers, which are not shared with those of any other memory: both
        ports are a cycle later. A large memory that consists of several lies all over the chip.

    Members
    -------
    write_enable, write_address, write_data : write port, an enable per granule
    read_enable, read_address, read_data : read port
    """

    def __init__(self, *, width: int, depth: int, granule: int | None = None, registered: bool = False):
        self.width = width
        self.depth = depth
        self.granule = granule or width
        self.registered = registered
        if width % self.granule:
            raise ValueError(f"Granules of {granule} bits do not fill a word of {width} bits")
        super().__init__(
            {
                "write_enable": In(width // self.granule),
                # At least one bit: Verilog has no ports of none.
                "write_address": In(range(max(2, depth))),
                "write_data": In(width),
                "read_enable": In(1),
                "read_address": In(range(max(2, depth))),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        if isinstance(platform, Emission):
            platform.verilog["bitwright_ram"] = _VERILOG
            kind = "bitwright_ram"
            if self.registered:
                kind = "bitwright_registered_ram"
                platform.verilog[kind] = _REGISTERED
            ports = {
                ("o_" if member.flow == Out else "i_") + str(path[0]): value
                for path, member, value in self.signature.flatten(self)
            }
            m = Module()
            m.submodules.ram = Instance(
                kind,
                p_WIDTH=self.width,
                p_GRANULE=self.granule,
                p_DEPTH=self.depth,
                p_ADDRESS=len(self.read_address),
                i_clk=ClockSignal(),
                **ports,
            )
            return m
        m = Module()
        m.submodules.memory = contents = memory.Memory(shape=self.width, depth=self.depth, init=[])
        write = contents.write_port(granularity=self.granule)
        read = contents.read_port()
        domain = m.d.sync if self.registered else m.d.comb
        domain += [
            write.en.eq(self.write_enable),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            read.en.eq(self.read_enable),
            read.addr.eq(self.read_address),
        ]
        m.d.comb += self.read_data.eq(read.data)
        return m
