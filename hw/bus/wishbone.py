"""Wishbone B4, as far as this project uses it."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["AxiLiteBridge", "WishboneSignature"]


class WishboneSignature(wiring.Signature):
    """Signals of a Wishbone bus, classic cycles, as its initiator drives them.

    A cycle is asked for by ``cyc`` and ``stb``, which stay with all else as they are until ``ack`` or ``err``
    is set for one cycle of the clock; ``dat_r`` is valid in that cycle.

    Parameters
    ----------
    address_bits
        Width of ``adr``, which counts words, not bytes.
    data_bits
        Width of a word: 32, 64 or 128.

    Members
    -------
    cyc, stb : a cycle is asked for
    we : it is a write
    adr : word
    sel : bytes of the word, bit i the one of bits 8 i to 8 i + 7
    dat_w, dat_r : the word
    ack, err : the cycle is done, or failed

    References
    ----------
    OpenCores, Wishbone B4, revision of 2010, chapter 3 (classic bus cycles)
    """

    def __init__(self, *, address_bits: int, data_bits: int = 32):
        if data_bits not in (32, 64, 128):
            raise ValueError(f"data_bits must be 32, 64 or 128, not {data_bits!r}")
        if address_bits < 1:
            raise ValueError(f"address_bits must be a positive integer, not {address_bits!r}")
        self.address_bits = address_bits
        self.data_bits = data_bits
        super().__init__(
            {
                "cyc": Out(1),
                "stb": Out(1),
                "we": Out(1),
                "adr": Out(address_bits),
                "sel": Out(data_bits // 8),
                "dat_w": Out(data_bits),
                "dat_r": In(data_bits),
                "ack": In(1),
                "err": In(1),
            }
        )


class AxiLiteBridge(wiring.Component):
    """A Wishbone target that passes cycles on to AXI4-Lite registers, as those of the engine are.

    One cycle of the bus becomes one read, or one write, whose address and data are on offer together and
    taken in any order. The answer comes in the cycle of the AXI4-Lite response: ``err`` where that is an
    error, otherwise ``ack``; so the bridge costs no clock cycle. An initiator must see its cycle to the end.

    Parameters
    ----------
    address_bits
        Width of the AXI4-Lite byte address; the bus's word address has two bits less.

    Members
    -------
    bus : :class:`WishboneSignature`, 32 bits
    m_aw*, m_w*, m_b*, m_ar*, m_r* : AXI4-Lite, as the one who asks drives it

    References
    ----------
    AMBA AXI protocol specification (ARM IHI 0022), AXI4-Lite
    """

    def __init__(self, *, address_bits: int = 8):
        if address_bits < 3:
            raise ValueError(f"address_bits must be 3 or more, not {address_bits!r}")
        super().__init__(
            {
                "bus": In(WishboneSignature(address_bits=address_bits - 2)),
                "m_awvalid": Out(1),
                "m_awready": In(1),
                "m_awaddr": Out(address_bits),
                "m_awprot": Out(3),
                "m_wvalid": Out(1),
                "m_wready": In(1),
                "m_wdata": Out(32),
                "m_wstrb": Out(4),
                "m_bvalid": In(1),
                "m_bready": Out(1),
                "m_bresp": In(2),
                "m_arvalid": Out(1),
                "m_arready": In(1),
                "m_araddr": Out(address_bits),
                "m_arprot": Out(3),
                "m_rvalid": In(1),
                "m_rready": Out(1),
                "m_rdata": In(32),
                "m_rresp": In(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus
        asked = Signal()
        # Of the cycle under way; only one of the two addresses is on offer in it.
        address_taken = Signal()
        data_taken = Signal()
        m.d.comb += [
            asked.eq(bus.cyc & bus.stb),
            self.m_awvalid.eq(asked & bus.we & ~address_taken),
            self.m_wvalid.eq(asked & bus.we & ~data_taken),
            self.m_arvalid.eq(asked & ~bus.we & ~address_taken),
            self.m_awaddr.eq(bus.adr << 2),
            self.m_araddr.eq(bus.adr << 2),
            self.m_wdata.eq(bus.dat_w),
            self.m_wstrb.eq(bus.sel),
            self.m_bready.eq(asked & bus.we),
            self.m_rready.eq(asked & ~bus.we),
            bus.dat_r.eq(self.m_rdata),
        ]
        with m.If((self.m_awvalid & self.m_awready) | (self.m_arvalid & self.m_arready)):
            m.d.sync += address_taken.eq(1)
        with m.If(self.m_wvalid & self.m_wready):
            m.d.sync += data_taken.eq(1)
        answered = (self.m_bvalid & self.m_bready) | (self.m_rvalid & self.m_rready)
        failed = Mux(bus.we, self.m_bresp, self.m_rresp)[1]
        m.d.comb += [bus.ack.eq(answered & ~failed), bus.err.eq(answered & failed)]
        with m.If(answered):
            m.d.sync += [address_taken.eq(0), data_taken.eq(0)]
        return m
