"""Main memory on the chip: what an engine reads and writes over AXI4, and a host over Wishbone."""

from collections.abc import Mapping
from typing import Literal

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..bus.wishbone import WishboneSignature
from ..delay import delay
from .lut_ram import LutRam
from .ram import Ram
from .single_port import SinglePortRam

__all__ = ["MIN_BYTES", "MainMemory"]

MIN_BYTES = 4096
"""Smallest main memory: the unit in which an engine's window is granted."""


_MEETING = 3
"""Lowest bits of addresses by which a read and a write of block RAM are kept apart."""

_HOST = ("adr", "dat_w", "sel", "we")
"""Signals of the host's port that say what it asks."""

_QUEUE = 8
"""Words for R that are under way or wait: a power of two, and no less than the cycles that a word takes."""

_DEEPEST = 1 << 14
_SHALLOWEST = 1 << 11
"""Words of a block RAM at its narrowest, and at a byte each: of 16 kbit, as most are."""


def _banks(depth: int) -> list[tuple[int, int]]:
    """First word and number of words of each bank: powers of two, as far as it goes, the largest first.

    A memory of one bit that is as deep as a block RAM can be needs no multiplexers behind it, and any other
    one as many as it is deeper, so that of 18,432 words of a byte (9 block RAMs) the bits of 16,384 lie in
    one each and the rest in another: two inputs to choose from instead of nine. As the largest is first, a
    word's place in its bank is the lower part of its address.
    """
    banks = []
    first = 0
    while first < depth:
        left = depth - first
        count = left if left <= _SHALLOWEST else min(_DEEPEST, 1 << (left.bit_length() - 1))
        banks.append((first, count))
        first += count
    return banks


class MainMemory(wiring.Component):
    """A memory that an AXI4 master and a Wishbone initiator share.

    ::

        AW ─► place ┐                                  ┌─► R
        W ──────────┴─► write ──┐                      │
        Wishbone ───────────────┼─► arbiter ─► RAM ────┤
        AR ─► place, words left ┴── read ──┘           └─► Wishbone

    Of ``block`` RAM a word is read and another one written in a cycle, of ``single`` port RAM one of both.
    The host goes first, its accesses being rare; then a burst's words that are there to be written, then
    those to be read. Only a word that the host writes to block RAM waits for a cycle without one of a burst.
    A burst that nothing else interrupts goes at a word per cycle.

    No word is read in the cycle in which it is written (the read waits), as block RAM does not define what it
    gives then. Of ``block`` RAM, a read waits for a write of any word that is like its own in the lowest bits
    of the address: that is decided sooner, and of two bursts side by side it happens once.

    A large memory of block RAM lies all over the chip, so registers stand before and behind it, and reads are
    under way for some cycles; a queue has room for all of them::

        cycle   0         1                 2      3              4            5
        block   decided   in front of RAM   read   a bank's own   the bank's   queue: R
        single  decided = read    given: R, Wishbone

    Wishbone is answered from cycle 4's register.

    The master's part of the bargain, kept by :mod:`bitwright.hw.bus.axi4`: bursts are INCR, of whole words,
    and do not cross a multiple of ``burst_beats`` words. A word of R that it does not take holds up
    everything else where the RAM has one port, so it must not wait for a write meanwhile.

    Latency, without interruption: the first word of a read burst two cycles after its address was taken, of
    block RAM six; the answer to a write burst in the cycle after its last word. Wishbone is answered by
    single port RAM in the cycle after the one in which it asks; by block RAM a cycle later, and a read three
    more.

    Parameters
    ----------
    kind
        ``"block"`` or ``"single"``: which RAM.
    size
        Bytes: a multiple of :data:`MIN_BYTES`. Of an address only those bits are looked at that count up to
        there; the host's accesses to what is behind the end are answered ``err``, a burst there is undefined.
    bus_bits
        Data width of the AXI4 port: 32, 64 or 128.
    burst_beats
        Longest burst, as above: a power of two.
    host_address_bits
        Width of the host's address, which counts words of 32 bits.

    Members
    -------
    s_aw*, s_w*, s_b*, s_ar*, s_r* : AXI4, one ID bit; only those signals that are looked at
    host : Wishbone, 32 bits

    References
    ----------
    ARM IHI 0022, AMBA AXI; OpenCores, Wishbone B4
    """

    def __init__(
        self,
        *,
        kind: Literal["block", "single"],
        size: int,
        bus_bits: int,
        burst_beats: int,
        host_address_bits: int = 30,
    ):
        if kind not in ("block", "single"):
            raise ValueError(f"kind must be 'block' or 'single', not {kind!r}")
        if size < MIN_BYTES or size % MIN_BYTES:
            raise ValueError(f"size must be a multiple of {MIN_BYTES}, not {size!r}")
        if bus_bits not in (32, 64, 128):
            raise ValueError(f"bus_bits must be 32, 64 or 128, not {bus_bits!r}")
        if not 1 <= burst_beats <= 256 or burst_beats & (burst_beats - 1):
            raise ValueError(f"burst_beats must be a power of two up to 256, not {burst_beats!r}")
        self.kind = kind
        self.size = size
        self.bus_bits = bus_bits
        self.burst_beats = burst_beats
        super().__init__(
            {
                "s_awvalid": In(1),
                "s_awready": Out(1),
                "s_awid": In(1),
                "s_awaddr": In(32),
                "s_wvalid": In(1),
                "s_wready": Out(1),
                "s_wdata": In(bus_bits),
                "s_wstrb": In(bus_bits // 8),
                "s_wlast": In(1),
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
                "host": In(WishboneSignature(address_bits=host_address_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word_bytes = self.bus_bits // 8
        shift = (word_bytes - 1).bit_length()
        depth = self.size // word_bytes
        address_bits = (depth - 1).bit_length()
        # Within a burst only so many low bits of a word's address change.
        counted = min((self.burst_beats - 1).bit_length(), address_bits)

        def following(address: Signal) -> Value:
            return Cat((address[:counted] + 1)[:counted], address[counted:])

        one_port = self.kind == "single"
        host = self.host
        parts = self.bus_bits // 32
        part_bits = (parts - 1).bit_length()
        beyond: Value = Const(0)
        if depth & (depth - 1):
            beyond = host.adr[part_bits:][:address_bits] >= depth
            m.d.sync += host.err.eq(host.cyc & host.stb & ~host.err & beyond)
        host_asks = Signal()
        host_waits = Signal()  # for what it has asked to read
        host_done = Signal()
        comes = host.cyc & host.stb & ~host.ack & ~host_waits & ~beyond
        if one_port:
            host_access: Mapping[str, Value] = {name: getattr(host, name) for name in _HOST}
            m.d.comb += host_asks.eq(comes)
        else:
            # From the other end of the chip: what it asks decides about bursts only from a register.
            host_access = {name: Signal.like(getattr(host, name), name=f"host_{name}") for name in _HOST}
            m.d.sync += host_asks.eq(Mux(host_asks, ~host_done, comes))
            with m.If(~host_asks):
                m.d.sync += [register.eq(getattr(host, name)) for name, register in host_access.items()]
        host_place = host_access["adr"][part_bits:][:address_bits]
        host_part = host_access["adr"][:part_bits] if parts > 1 else Const(0, 1)
        host_we = host_access["we"]

        # What is under way
        writing = Signal()
        write_place = Signal(address_bits, reset_less=True)
        reading = Signal()
        read_place = Signal(address_bits, reset_less=True)
        read_left = Signal(range(self.burst_beats), reset_less=True)  # words behind the next one
        read_id = Signal(reset_less=True)
        room = Signal()  # for a word more for R

        # Who goes
        open_ = room if one_port else Const(1)  # a write may change the RAM's output
        if one_port:
            host_writes = host_asks & host_we & open_
            write_turn = writing & open_ & ~host_asks
            burst_writes = write_turn & self.s_wvalid
        else:
            # Whether a word is taken hangs on no decision. Between bursts there is a cycle for the host.
            write_turn = writing
            burst_writes = writing & self.s_wvalid
            host_writes = host_asks & host_we & ~burst_writes
        read_address = Mux(host_asks & ~host_we, host_place, read_place)
        write_address = Mux(host_writes, host_place, write_place)
        write = Signal()
        m.d.comb += write.eq(host_writes | burst_writes)
        blocked = write if one_port else write & (read_address[:_MEETING] == write_address[:_MEETING])
        host_reads = Signal()
        burst_reads = Signal()
        m.d.comb += [
            host_reads.eq(host_asks & ~host_we & open_ & ~blocked),
            host_done.eq(host_writes | host_reads),
            burst_reads.eq(reading & ~(host_asks & ~host_we) & room & ~blocked),
        ]

        # The RAM
        data = Mux(host_writes, host_access["dat_w"].replicate(parts), self.s_wdata)
        host_bytes = Cat(host_access["sel"] & (host_part == part).replicate(4) for part in range(parts))
        strobes = Mux(host_writes, host_bytes, self.s_wstrb) & write.replicate(word_bytes)
        last = read_left == 0
        if one_port:
            m.submodules.ram = ram = SinglePortRam(width=self.bus_bits, depth=depth)
            m.d.comb += [
                # The RAM's output is a word for R, and stays until it is taken.
                room.eq(~self.s_rvalid | self.s_rready),
                # A word of which no byte is to be written must not be read instead.
                ram.enable.eq(Mux(write, strobes.any(), host_reads | burst_reads)),
                ram.write.eq(strobes),
                ram.address.eq(Mux(host_asks, host_place, Mux(write, write_place, read_place))),
                ram.write_data.eq(data),
                self.s_rdata.eq(ram.read_data),
                host.dat_r.eq(ram.read_data.word_select(host_part, 32)),
            ]
            m.d.sync += host.ack.eq(host_done)
            with m.If(self.s_rready):
                m.d.sync += self.s_rvalid.eq(0)
            with m.If(burst_reads):
                m.d.sync += [self.s_rvalid.eq(1), self.s_rid.eq(read_id), self.s_rlast.eq(last)]
        else:
            burst_there = delay(m, burst_reads, 4, "burst_reads", reset_less=False)
            host_came = delay(m, host_reads, 3, "host_reads", reset_less=False)
            chosen = Const(0, self.bus_bits)
            for index, (first, count) in enumerate(_banks(depth)):
                place_bits = (count - 1).bit_length()
                written, read = (
                    address[place_bits:] == first >> place_bits for address in (write_address, read_address)
                )
                bank_word = Signal(self.bus_bits, name=f"bank_{index}_word")
                # A RAM for each byte leaves its shape to synthesis.
                for byte in range(word_bytes):
                    m.submodules[f"ram_{index}_{byte}"] = lane = Ram(width=8, depth=count, registered=True)
                    m.d.comb += [
                        lane.write_enable.eq(strobes[byte] & written),
                        lane.write_address.eq(write_address),
                        lane.write_data.eq(data[8 * byte :][:8]),
                        # Where it is another bank's word, nobody looks at this one.
                        lane.read_enable.eq(burst_reads | host_reads),
                        lane.read_address.eq(read_address),
                        bank_word[8 * byte :][:8].eq(lane.read_data),
                    ]
                own = delay(m, bank_word, 1, f"bank_{index}_own")
                chosen |= own & delay(m, read, 3, f"bank_{index}_read").replicate(self.bus_bits)
            word = delay(m, chosen, 1, "word")
            with_word = delay(m, Cat(read_id, last), 4, "with_word")

            # Words for R wait in a queue; none is read that there is no room for.
            m.submodules.queue = queue = LutRam(width=self.bus_bits + 2, depth=_QUEUE)
            put = Signal(range(_QUEUE))
            get = Signal(range(_QUEUE))
            there = Signal(range(_QUEUE + 1))
            left = Signal(range(_QUEUE + 1), init=_QUEUE)
            taken = self.s_rvalid & self.s_rready
            there_next = (there + burst_there - taken)[: len(there)]
            m.d.comb += [
                room.eq(left != 0),
                queue.write_enable.eq(burst_there),
                queue.write_address.eq(put),
                queue.write_data.eq(Cat(word, with_word)),
                queue.read_address.eq(get),
                Cat(self.s_rdata, self.s_rid, self.s_rlast).eq(queue.read_data),
            ]
            m.d.sync += [
                put.eq(put + burst_there),
                get.eq(get + taken),
                there.eq(there_next),
                self.s_rvalid.eq(there_next != 0),
                left.eq(left + taken - burst_reads),
                host.ack.eq(host_writes | host_came),
                host_waits.eq((host_waits | host_reads) & ~host_came),
            ]
            m.d.comb += host.dat_r.eq(word.word_select(host_part, 32))

        # Read bursts: while one is read, the next one's address waits. Who may send one hangs on no decision.
        waits = Signal()
        asked = Cat(self.s_araddr[shift:][:address_bits], self.s_arlen[: len(read_left)], self.s_arid)
        waiting = Signal.like(asked, reset_less=True)
        ends = ~reading | (burst_reads & last)
        m.d.comb += self.s_arready.eq(~waits)
        m.d.sync += waits.eq((waits | self.s_arvalid) & ~ends)
        with m.If(~waits):
            m.d.sync += waiting.eq(asked)
        with m.If(burst_reads):
            m.d.sync += [read_left.eq(read_left - 1), read_place.eq(following(read_place))]
        with m.If(ends):
            m.d.sync += [
                reading.eq(waits | self.s_arvalid),
                Cat(read_place, read_left, read_id).eq(Mux(waits, waiting, asked)),
            ]

        # Write bursts: one at a time, as its answer stands in a register.
        m.d.comb += [
            self.s_awready.eq(~writing & ~self.s_bvalid),
            self.s_wready.eq(write_turn),
        ]
        with m.If(self.s_bready):
            m.d.sync += self.s_bvalid.eq(0)
        with m.If(burst_writes):
            m.d.sync += write_place.eq(following(write_place))
            with m.If(self.s_wlast):
                m.d.sync += [writing.eq(0), self.s_bvalid.eq(1)]
        with m.If(self.s_awready):
            m.d.sync += [
                writing.eq(self.s_awvalid),
                write_place.eq(self.s_awaddr[shift:]),
                self.s_bid.eq(self.s_awid),
            ]
        return m
