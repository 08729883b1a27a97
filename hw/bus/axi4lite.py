"""AXI4-Lite register port.

Source: AMBA AXI protocol specification (ARM IHI 0022), AXI4-Lite.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ADDRESS_BITS", "RegisterPort"]

ADDRESS_BITS = 8


class RegisterPort(wiring.Component):
    """Turns AXI4-Lite into single 32-bit register accesses.

    One write and one read at a time. A write happens in the cycle in which ``write`` is high; strobes
    select bytes. A read asks with ``read`` until ``read_done`` comes with the data, which may take as long
    as it needs.

    Members
    -------
    write, write_address, write_data, write_mask : mask is per bit
    read, read_address, read_data, read_done
    s_* : AXI4-Lite, 32-bit data; every access answers OKAY
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "write": Out(1),
                "write_address": Out(ADDRESS_BITS),
                "write_data": Out(32),
                "write_mask": Out(32),
                "read": Out(1),
                "read_address": Out(ADDRESS_BITS),
                "read_data": In(32),
                "read_done": In(1),
                "s_awvalid": In(1),
                "s_awready": Out(1),
                "s_awaddr": In(ADDRESS_BITS),
                "s_awprot": In(3),
                "s_wvalid": In(1),
                "s_wready": Out(1),
                "s_wdata": In(32),
                "s_wstrb": In(4),
                "s_bvalid": Out(1),
                "s_bready": In(1),
                "s_bresp": Out(2),
                "s_arvalid": In(1),
                "s_arready": Out(1),
                "s_araddr": In(ADDRESS_BITS),
                "s_arprot": In(3),
                "s_rvalid": Out(1),
                "s_rready": In(1),
                "s_rdata": Out(32),
                "s_rresp": Out(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # Address and data may come in either order; a write happens when both are held.
        address_held = Signal()
        data_held = Signal()
        strobes = Signal(4)
        m.d.comb += [
            self.s_awready.eq(~address_held),
            self.s_wready.eq(~data_held),
            self.write.eq(address_held & data_held & ~self.s_bvalid),
            self.write_mask.eq(Cat(strobe.replicate(8) for strobe in strobes)),
        ]
        with m.If(self.s_awvalid & self.s_awready):
            m.d.sync += [address_held.eq(1), self.write_address.eq(self.s_awaddr)]
        with m.If(self.s_wvalid & self.s_wready):
            m.d.sync += [data_held.eq(1), self.write_data.eq(self.s_wdata), strobes.eq(self.s_wstrb)]
        with m.If(self.s_bready):
            m.d.sync += self.s_bvalid.eq(0)
        with m.If(self.write):
            m.d.sync += [address_held.eq(0), data_held.eq(0), self.s_bvalid.eq(1)]

        m.d.comb += self.s_arready.eq(~self.read & ~self.s_rvalid)
        with m.If(self.s_arvalid & self.s_arready):
            m.d.sync += [self.read.eq(1), self.read_address.eq(self.s_araddr)]
        with m.If(self.s_rready):
            m.d.sync += self.s_rvalid.eq(0)
        with m.If(self.read & self.read_done):
            m.d.sync += [self.read.eq(0), self.s_rvalid.eq(1), self.s_rdata.eq(self.read_data)]
        return m
