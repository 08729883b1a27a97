"""AXI4 master ports: bursts within the granted window, and nothing else.

Source: AMBA AXI protocol specification (ARM IHI 0022), AXI4: INCR bursts of up to 256 beats that do not
cross 4 KiB, full-width beats, one ID per requester, answers of one ID in order.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .burst import BurstLayout

__all__ = ["UNDER_WAY_BITS", "ReadPort", "WindowCheck", "WritePort"]

UNDER_WAY_BITS = 12
"""Width of a port's count of bursts under way: from half of its range on the port takes no further one."""

INCR = 0b01
CACHEABLE = 0b0011  # normal, non-cacheable, bufferable
PRIVILEGE = 0b000  # unprivileged, secure, data


class WindowCheck(wiring.Component):
    """Adds the window's base to a burst and refuses one that leaves the window.

    A burst takes two cycles: sums, then the comparison; the next one may enter as it leaves. ``i.memory`` and
    ``size`` count words; a burst is inside when ``memory + length <= size``. A refused burst is dropped and
    ``outside`` is high for a cycle.

    Parameters
    ----------
    bus_bytes, burst_beats, address_bits
        Bytes of a word; longest burst; width of a word address.

    Members
    -------
    base : byte address of the window, a multiple of 4096
    size : words of the window
    stop : drop everything
    i : bursts, with the requester's ``id``
    o : the same with byte ``address`` and AXI ``len`` (beats - 1)
    outside : a burst was refused
    idle : no burst inside
    """

    def __init__(self, *, bus_bytes: int, burst_beats: int, address_bits: int = 32):
        self.bus_bytes = bus_bytes
        self.address_bits = address_bits
        burst = BurstLayout(burst_beats, address_bits=address_bits)
        i = data.StructLayout({"burst": burst, "id": 1})
        o = data.StructLayout({"address": 32, "len": 8, "id": 1})
        super().__init__(
            {
                "base": In(32),
                "size": In(32),
                "stop": In(1),
                "i": In(stream.Signature(i)),
                "o": Out(stream.Signature(o)),
                "outside": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shift = (self.bus_bytes - 1).bit_length()
        summed = Signal()  # the registers hold a burst that has not been judged
        end = Signal(self.address_bits + 1, reset_less=True)
        fits = Signal(reset_less=True)
        burst = self.i.payload.burst

        m.d.comb += [
            self.i.ready.eq(~summed & (~self.o.valid | self.o.ready)),
            self.idle.eq(~summed & ~self.o.valid),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.i.ready):
            m.d.sync += [
                summed.eq(self.i.valid & ~self.stop),
                end.eq(burst.memory + burst.length),
                # Memory addresses beyond the byte address space cannot be inside any window.
                fits.eq(~burst.memory[32 - shift :].any()),
                self.o.payload.address.eq(self.base + (burst.memory << shift)),
                self.o.payload.len.eq(burst.length - 1),
                self.o.payload.id.eq(self.i.payload.id),
            ]
        inside = fits & (end <= self.size)
        m.d.sync += self.outside.eq(summed & ~inside & ~self.stop)
        with m.If(summed):
            m.d.sync += [summed.eq(0), self.o.valid.eq(inside & ~self.stop)]
        return m


class ReadPort(wiring.Component):
    """Read master shared by two requesters; requester 0 goes first.

    Whoever asks has room for what it asked for, so ``m_rready`` is high but for cycles of `hold`. Data come
    out a cycle after they arrive. Bursts under way are counted; while there are half as many as can be
    counted, or more, no further one is taken.

    Parameters
    ----------
    bus_bits, burst_beats, address_bits
        Data width; longest burst; width of a word address.
    under_way_bits
        Width of the count of bursts under way.

    Members
    -------
    base, size, stop : see :class:`WindowCheck`
    request : bursts of each requester
    hold : no word comes out in the next cycle
    data : the words, in order of the requests of each
    valid, last : which requester the word is for; the last word of a burst
    outside, error : faults, a cycle each
    idle : nothing is under way
    m_ar*, m_r* : AXI4
    """

    def __init__(
        self,
        *,
        bus_bits: int,
        burst_beats: int,
        address_bits: int = 32,
        under_way_bits: int = UNDER_WAY_BITS,
    ):
        self.bus_bits = bus_bits
        self.burst_beats = burst_beats
        self.address_bits = address_bits
        self.under_way_bits = under_way_bits
        burst = BurstLayout(burst_beats, address_bits=address_bits)
        super().__init__(
            {
                "base": In(32),
                "size": In(32),
                "stop": In(1),
                "request": In(stream.Signature(burst)).array(2),
                "hold": In(1),
                "data": Out(bus_bits),
                "valid": Out(2),
                "last": Out(1),
                "outside": Out(1),
                "error": Out(1),
                "idle": Out(1),
                "m_arvalid": Out(1),
                "m_arready": In(1),
                "m_arid": Out(1),
                "m_araddr": Out(32),
                "m_arlen": Out(8),
                "m_arsize": Out(3),
                "m_arburst": Out(2),
                "m_arcache": Out(4),
                "m_arprot": Out(3),
                "m_rvalid": In(1),
                "m_rready": Out(1),
                "m_rid": In(1),
                "m_rdata": In(bus_bits),
                "m_rresp": In(2),
                "m_rlast": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus_bytes = self.bus_bits // 8
        m.submodules.check = check = WindowCheck(
            bus_bytes=bus_bytes, burst_beats=self.burst_beats, address_bits=self.address_bits
        )
        first, second = self.request
        under_way = Signal(self.under_way_bits)
        # At most three bursts more than this says are on their way to the bus: the count does not run over.
        many = Signal()
        m.d.sync += many.eq(under_way[-1])
        m.d.comb += [
            check.base.eq(self.base),
            check.size.eq(self.size),
            check.stop.eq(self.stop),
            check.i.valid.eq((first.valid | second.valid) & ~many),
            check.i.payload.burst.eq(Mux(first.valid, first.payload.as_value(), second.payload.as_value())),
            check.i.payload.id.eq(~first.valid),
            first.ready.eq(check.i.ready & ~many),
            second.ready.eq(check.i.ready & ~many & ~first.valid),
            self.outside.eq(check.outside),
            self.m_arvalid.eq(check.o.valid),
            check.o.ready.eq(self.m_arready),
            self.m_arid.eq(check.o.payload.id),
            self.m_araddr.eq(check.o.payload.address),
            self.m_arlen.eq(check.o.payload.len),
            self.m_arsize.eq((bus_bytes - 1).bit_length()),
            self.m_arburst.eq(INCR),
            self.m_arcache.eq(CACHEABLE),
            self.m_arprot.eq(PRIVILEGE),
            self.m_rready.eq(~self.hold),
        ]
        comes = self.m_rvalid & self.m_rready
        sent = self.m_arvalid & self.m_arready
        ended = comes & self.m_rlast
        with m.If(sent & ~ended):
            m.d.sync += under_way.eq(under_way + 1)
        with m.Elif(ended & ~sent):
            m.d.sync += under_way.eq(under_way - 1)
        m.d.sync += [
            self.data.eq(self.m_rdata),
            self.valid.eq(Cat(~self.m_rid, self.m_rid) & comes.replicate(2)),
            self.last.eq(self.m_rlast),
            self.error.eq(comes & self.m_rresp[1]),
        ]
        m.d.comb += self.idle.eq(check.idle & (under_way == 0) & (self.valid == 0))
        return m


class WritePort(wiring.Component):
    """Write master: bursts and, in a stream beside them, their words.

    ::

        request ── WindowCheck ──┬── AW
                                 └── beat counter ── W ◄── data

    A burst's words are sent while its address is being taken. The next burst's address follows when both
    are through. Bursts that are not acknowledged are counted as those of :class:`ReadPort` are. When ``stop``
    is high a burst already announced is ended with empty strobes, as AXI4 does not allow to leave it.

    Parameters
    ----------
    bus_bits, burst_beats, address_bits
        Data width; longest burst; width of a word address.
    under_way_bits
        Width of the count of bursts under way.

    Members
    -------
    base, size, stop : see :class:`WindowCheck`
    request : bursts
    data : their words
    outside, error : faults, a cycle each
    idle : nothing is under way and every burst is acknowledged
    beat : a word was taken by the bus
    m_aw*, m_w*, m_b* : AXI4
    """

    def __init__(
        self,
        *,
        bus_bits: int,
        burst_beats: int,
        address_bits: int = 32,
        under_way_bits: int = UNDER_WAY_BITS,
    ):
        self.bus_bits = bus_bits
        self.burst_beats = burst_beats
        self.address_bits = address_bits
        self.under_way_bits = under_way_bits
        super().__init__(
            {
                "base": In(32),
                "size": In(32),
                "stop": In(1),
                "request": In(stream.Signature(BurstLayout(burst_beats, address_bits=address_bits))),
                "data": In(stream.Signature(bus_bits)),
                "outside": Out(1),
                "error": Out(1),
                "idle": Out(1),
                "beat": Out(1),
                "m_awvalid": Out(1),
                "m_awready": In(1),
                "m_awid": Out(1),
                "m_awaddr": Out(32),
                "m_awlen": Out(8),
                "m_awsize": Out(3),
                "m_awburst": Out(2),
                "m_awcache": Out(4),
                "m_awprot": Out(3),
                "m_wvalid": Out(1),
                "m_wready": In(1),
                "m_wdata": Out(bus_bits),
                "m_wstrb": Out(bus_bits // 8),
                "m_wlast": Out(1),
                "m_bvalid": In(1),
                "m_bready": Out(1),
                "m_bid": In(1),
                "m_bresp": In(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus_bytes = self.bus_bits // 8
        m.submodules.check = check = WindowCheck(
            bus_bytes=bus_bytes, burst_beats=self.burst_beats, address_bits=self.address_bits
        )
        under_way = Signal(self.under_way_bits)
        many = Signal()  # as in the read port
        m.d.sync += many.eq(under_way[-1])
        m.d.comb += [
            check.base.eq(self.base),
            check.size.eq(self.size),
            check.stop.eq(self.stop),
            check.i.valid.eq(self.request.valid & ~many),
            check.i.payload.burst.eq(self.request.payload),
            self.request.ready.eq(check.i.ready & ~many),
            self.outside.eq(check.outside),
            self.m_awid.eq(0),
            self.m_awsize.eq((bus_bytes - 1).bit_length()),
            self.m_awburst.eq(INCR),
            self.m_awcache.eq(CACHEABLE),
            self.m_awprot.eq(PRIVILEGE),
            self.m_bready.eq(1),
        ]

        # Words of the burst not yet moved into the output register. Whether there are any, and whether it is
        # the last, is kept in registers of their own: the ready of everything before hangs on it.
        beats_left = Signal(range(self.burst_beats + 1))
        active = Signal()
        last_beat = Signal()

        # Address: a register that is free again when the bus has taken it and all words are on their way.
        take = Signal()
        m.d.comb += [
            take.eq(check.o.valid & (~self.m_awvalid | self.m_awready) & ~active),
            check.o.ready.eq(take),
        ]
        with m.If(self.m_awready):
            m.d.sync += self.m_awvalid.eq(0)
        with m.If(take):
            m.d.sync += [
                self.m_awvalid.eq(1),
                self.m_awaddr.eq(check.o.payload.address),
                self.m_awlen.eq(check.o.payload.len),
                beats_left.eq(check.o.payload.len + 1),
                active.eq(1),
                last_beat.eq(check.o.payload.len == 0),
            ]

        # Words
        room = ~self.m_wvalid | self.m_wready
        move = Signal()
        m.d.comb += [
            move.eq(room & active & (self.data.valid | self.stop)),
            self.data.ready.eq(room & active),
            self.beat.eq(self.m_wvalid & self.m_wready),
        ]
        with m.If(room):
            m.d.sync += self.m_wvalid.eq(0)
        with m.If(move):
            m.d.sync += [
                self.m_wvalid.eq(1),
                self.m_wdata.eq(self.data.payload),
                self.m_wstrb.eq(Mux(self.stop, 0, Const(-1, bus_bytes))),
                self.m_wlast.eq(last_beat),
                beats_left.eq(beats_left - 1),
                last_beat.eq(beats_left == 2),
            ]
            with m.If(last_beat):
                m.d.sync += active.eq(0)

        # Answers
        with m.If(take & ~self.m_bvalid):
            m.d.sync += under_way.eq(under_way + 1)
        with m.Elif(self.m_bvalid & ~take):
            m.d.sync += under_way.eq(under_way - 1)
        m.d.sync += self.error.eq(self.m_bvalid & self.m_bresp[1])
        m.d.comb += self.idle.eq(check.idle & (under_way == 0) & ~self.error)
        return m
