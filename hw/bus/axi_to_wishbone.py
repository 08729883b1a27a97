"""AXI4 bursts on a Wishbone bus."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .wishbone import WishboneSignature

__all__ = ["AxiToWishbone"]

INCREMENTING = 0b010
END_OF_BURST = 0b111
LINEAR = 0b00
SLVERR = 0b10


class AxiToWishbone(wiring.Component):
    """Takes the bursts of an AXI4 initiator, one at a time, and asks for their beats on a Wishbone bus.

    ::

        AR ──┬── IDLE, READ, WRITE ──► cyc, stb, adr, cti
        AW ──┘                           │
        W  ──► dat_w, sel                ack, err
        R  ◄── register ◄── dat_r ◄──────┘

    A burst is a registered-feedback burst of incrementing addresses (``cti``, ``bte``); a target that knows
    only classic cycles may ignore these. ``cyc`` stays for the burst. ``stb`` is low in it while the
    initiator has no word to write, or no room for one that is read, and once high it stays until the answer.
    ``err`` ends a beat as ``ack`` does and becomes SLVERR: that of the beat where it is read, of the whole
    burst where it is written. A write whose strobes are all low is a cycle whose ``sel`` is zero.

    Reads and writes take turns where both are asked for. A write begins with its first word, so that a bus
    is never held by one that waits for what is still to be read.

    Latency: a cycle from an address to ``stb``, a cycle from ``ack`` to the word read, none from the last
    ``ack`` of a write to its response's cycle but the one between; a beat in every cycle in which the target
    answers at once, and a cycle between bursts.

    Parameters
    ----------
    bus_bits
        Width of both buses: 32, 64 or 128.

    Members
    -------
    bus : :class:`~bitwright.hw.bus.wishbone.WishboneSignature`, words of 32 bits of byte address
    cti, bte : cycle type, burst type
    s_aw*, s_w*, s_b*, s_ar*, s_r* : AXI4, as the initiator drives it: INCR, full width, one ID bit

    References
    ----------
    OpenCores, Wishbone B4, revision of 2010, chapter 4 (registered feedback bus cycles); AMBA AXI protocol
    specification (ARM IHI 0022)
    """

    def __init__(self, *, bus_bits: int):
        self.bus_bits = bus_bits
        self.shift = max(0, bus_bits // 8 - 1).bit_length()
        super().__init__(
            {
                "bus": Out(WishboneSignature(address_bits=32 - self.shift, data_bits=bus_bits)),
                "cti": Out(3),
                "bte": Out(2),
                "s_awvalid": In(1),
                "s_awready": Out(1),
                "s_awid": In(1),
                "s_awaddr": In(32),
                "s_awlen": In(8),
                "s_wvalid": In(1),
                "s_wready": Out(1),
                "s_wdata": In(bus_bits),
                "s_wstrb": In(bus_bits // 8),
                "s_bvalid": Out(1),
                "s_bready": In(1),
                "s_bid": Out(1),
                "s_bresp": Out(2),
                "s_arvalid": In(1),
                "s_arready": Out(1),
                "s_arid": In(1),
                "s_araddr": In(32),
                "s_arlen": In(8),
                "s_rvalid": Out(1),
                "s_rready": In(1),
                "s_rid": Out(1),
                "s_rdata": Out(bus_bits),
                "s_rresp": Out(2),
                "s_rlast": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus
        beats_left = Signal(8)  # after this one
        identifier = Signal()
        failed = Signal()
        write_next = Signal()  # the last burst was a read

        answered = Signal()
        last = beats_left == 0
        m.d.comb += [
            answered.eq(bus.stb & (bus.ack | bus.err)),
            bus.dat_w.eq(self.s_wdata),
            self.cti.eq(Mux(last, END_OF_BURST, INCREMENTING)),
            self.bte.eq(LINEAR),
        ]
        with m.If(answered):
            m.d.sync += [bus.adr.eq(bus.adr + 1), beats_left.eq(beats_left - 1)]
        with m.If(self.s_rready):
            m.d.sync += self.s_rvalid.eq(0)

        with m.FSM():
            with m.State("IDLE"):
                write = Signal()
                asked = self.s_awvalid & self.s_wvalid & ~self.s_bvalid
                m.d.comb += [
                    write.eq(asked & (write_next | ~self.s_arvalid)),
                    self.s_awready.eq(write),
                    self.s_arready.eq(self.s_arvalid & ~write),
                ]
                m.d.sync += [
                    failed.eq(0),
                    identifier.eq(Mux(write, self.s_awid, self.s_arid)),
                    bus.adr.eq(Mux(write, self.s_awaddr, self.s_araddr) >> self.shift),
                    beats_left.eq(Mux(write, self.s_awlen, self.s_arlen)),
                ]
                with m.If(write):
                    m.next = "WRITE"
                with m.Elif(self.s_arvalid):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += [
                    bus.cyc.eq(1),
                    bus.stb.eq(~self.s_rvalid | self.s_rready),
                    bus.sel.eq(-1),
                ]
                m.d.sync += write_next.eq(1)
                with m.If(answered):
                    m.d.sync += [
                        self.s_rvalid.eq(1),
                        self.s_rid.eq(identifier),
                        self.s_rdata.eq(bus.dat_r),
                        self.s_rresp.eq(Mux(bus.err, SLVERR, 0)),
                        self.s_rlast.eq(last),
                    ]
                    with m.If(last):
                        m.next = "IDLE"
            with m.State("WRITE"):
                m.d.comb += [
                    bus.cyc.eq(1),
                    bus.we.eq(1),
                    bus.stb.eq(self.s_wvalid),
                    bus.sel.eq(self.s_wstrb),
                    self.s_wready.eq(answered),
                ]
                m.d.sync += write_next.eq(0)
                with m.If(answered):
                    m.d.sync += failed.eq(failed | bus.err)
                    with m.If(last):
                        m.d.sync += [
                            self.s_bvalid.eq(1),
                            self.s_bid.eq(identifier),
                            self.s_bresp.eq(Mux(failed | bus.err, SLVERR, 0)),
                        ]
                        m.next = "IDLE"
        with m.If(self.s_bvalid & self.s_bready):
            m.d.sync += self.s_bvalid.eq(0)
        return m
