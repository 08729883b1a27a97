"""What is proved of the bus ports: AXI4 masters and their window, AXI4-Lite, Wishbone, bursts.

Rules of AXI: ARM IHI 0022, A3.2.1 (handshakes) and A3.4.1 (bursts do not cross 4 KiB, as many beats as
announced). Rules of Wishbone: OpenCores, Wishbone B4, chapter 3.
"""

from typing import Any

from amaranth.hdl import Cat, Mux, Signal, Value
from amaranth.lib.wiring import Out

from bitwright.hw.bus.axi4 import ReadPort, WindowCheck, WritePort
from bitwright.hw.bus.axi4lite import RegisterPort
from bitwright.hw.bus.axi_to_wishbone import AxiToWishbone
from bitwright.hw.bus.burst import BlockLayout, BurstSplitter
from bitwright.hw.bus.wishbone import AxiLiteBridge

from .bench import Bench, Scoreboard

__all__ = [
    "aligned",
    "asked",
    "axi_to_wishbone",
    "bridge",
    "inside_window",
    "judged",
    "read_port",
    "register_port",
    "splitter",
    "window_check",
    "write_port",
]

_PAGE_BITS = 12
"""Of 4 KiB, which no burst crosses."""


def splitter(
    bench: Bench,
    *,
    burst_beats: int,
    address_bits: int,
    beats_bits: int,
    row_bits: int,
    kind: Any = BurstSplitter,
) -> None:
    """Bursts of a block against a walk through it, burst by burst.

    Parameters
    ----------
    bench
        Where it is added.
    burst_beats, address_bits, beats_bits, row_bits
        As of the splitter.
    kind
        The splitter.
    """
    m = bench.m
    block = BlockLayout(address_bits=address_bits, beats_bits=beats_bits, row_bits=row_bits)
    dut = bench.add(kind(burst_beats, block))
    bench.free_inputs(dut)
    i, o = dut.i.payload, dut.o.payload
    bench.assume(~dut.i.valid | ((i.beats != 0) & (i.row_beats != 0)))
    took, gave = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready

    open_ = Signal()  # a block of which bursts are to come
    place = Signal(address_bits)
    row = Signal(address_bits)  # where it began
    in_row = Signal(row_bits)  # words left of it
    left = Signal(beats_bits)  # of the block
    stride = Signal(address_bits)
    row_beats = Signal(row_bits)
    rest = Mux(left < in_row, left, in_row)
    room = burst_beats - (place & (burst_beats - 1))
    length = Mux(rest < room, rest, room)
    ends_row = length == in_row
    ends = length == left
    with m.If(gave):
        m.d.sync += [place.eq(place + length), in_row.eq(in_row - length), left.eq(left - length)]
        with m.If(ends_row):
            m.d.sync += [place.eq(row + stride), row.eq(row + stride), in_row.eq(row_beats)]
        with m.If(ends):
            m.d.sync += open_.eq(0)
    with m.If(took):
        m.d.sync += [
            open_.eq(1),
            place.eq(i.memory),
            row.eq(i.memory),
            in_row.eq(i.row_beats),
            row_beats.eq(i.row_beats),
            left.eq(i.beats),
            stride.eq(i.stride),
        ]
    state = {
        name: bench.inside("dut.fsm_state", 2) == index
        for index, name in enumerate(("idle", "row", "split", "give"))
    }
    of = {
        name: bench.inside(f"dut.{name}", width)
        for name, width in (
            ("beats_left", beats_bits),
            ("row_left", row_bits),
            ("row_start", address_bits),
            ("row_beats", row_bits),
            ("stride", address_bits),
            ("position", address_bits),
            ("row_end", 1),
            ("block_end", 1),
        )
    }
    at_row = (in_row == row_beats) & (place == row)
    within = ~state["idle"] & ~state["row"]
    bench.claim(
        "inside: the walk is where the splitter is",
        (open_ == ~state["idle"])
        & (
            ~open_
            | (
                (of["beats_left"] == left)
                & (of["row_beats"] == row_beats)
                & (of["stride"] == stride)
                & (left != 0)
                & (row_beats != 0)
                & (~state["row"] | (at_row & (of["row_start"] == row)))
                & (
                    ~within
                    | (
                        (of["row_start"] == (row + stride)[:address_bits])
                        & (of["position"] == place)
                        & (of["row_left"] == rest)
                        & (rest != 0)
                        & (of["block_end"] == (left <= in_row))
                    )
                )
                & (~state["give"] | (of["row_end"] == (length == rest)))
            )
        ),
    )
    bench.claim("a burst is of a block that was taken", ~dut.o.valid | open_)
    bench.claim("no block is taken before the one before it has ended", ~(took & open_))
    bench.claim(
        "a burst begins where the one before it, or the row, ends", ~dut.o.valid | (o.memory == place)
    )
    bench.claim(
        "a burst is as long as row, block and boundary let it be", ~dut.o.valid | (o.length == length)
    )
    bench.claim("the last burst of a block says so, and no other does", ~dut.o.valid | (o.last == ends))
    bench.claim(
        "no burst crosses a multiple of its greatest length",
        ~dut.o.valid | ((o.memory & (burst_beats - 1)) + o.length <= burst_beats),
    )
    bench.claim("what is offered stays until it is taken", bench.stays(dut.o.valid, dut.o.ready, o))
    bench.claim("a burst is offered within 3 cycles", bench.soon(open_, dut.o.valid, 3))
    bench.claim("without a block it takes one", bench.soon(~open_, dut.i.ready, 1))
    bench.goal("a block of two rows ends", gave & ends & (row != place) & (left != rest | ends))


def _window(bench: Bench, dut: Any, *, fixed: bool = True) -> tuple[Value, Value]:
    """Base and size of a window that lies in the address space, in bytes; neither changes."""
    base = bench.constant(32)
    size = bench.constant(32)
    shift = (dut.bus_bytes if hasattr(dut, "bus_bytes") else dut.bus_bits // 8).bit_length() - 1
    bench.assume((base[:_PAGE_BITS] == 0) & (base + (size << shift) <= 1 << 32))
    bench.m.d.comb += [dut.base.eq(base), dut.size.eq(size)]
    return base, size << shift


def inside_window(base: Value, size: Value, address: Value, length: Value, word: int) -> Value:
    """Whether the bytes of a burst of ``length`` - 1 = AXI's ``len`` are in the window."""
    end = address + ((length + 1) << (word - 1).bit_length())
    return (address >= base) & (end <= base + size)


def judged(
    bench: Bench,
    path: str,
    base: Value,
    size: Value,
    *,
    word: int,
    burst_beats: int,
    address_bits: int,
    name: str = "burst",
) -> Signal:
    """Claims about the registers of a window check inside something; whether it has a burst on offer.

    Parameters
    ----------
    bench, path
        Where the check is.
    base, size
        The window, in bytes.
    word, burst_beats, address_bits
        As of the check.
    name
        What its bursts are called.
    """
    summed = bench.inside(f"{path}.summed", 1)
    end = bench.inside(f"{path}.end", address_bits + 1)
    fits = bench.inside(f"{path}.fits", 1)
    payload = bench.inside(f"{path}.o__payload", 41)
    valid = bench.inside(f"{path}.o__valid", 1)
    address, length = payload[:32], payload[32:40]
    shift = (word - 1).bit_length()
    reach = (address - base)[:32] + ((length + 1) << shift)
    whole = aligned(address, length, word, burst_beats)
    bench.claim(
        f"inside: address and end of a {name} that is being judged belong together",
        ~summed | ~fits | ((end << shift) == reach),
    )
    bench.claim(f"inside: a {name} that is being judged does not cross a boundary", ~summed | whole)
    bench.claim(
        f"inside: a {name} that has been judged is in the window",
        ~valid | inside_window(base, size, address, length, word),
    )
    bench.claim(f"inside: a {name} that has been judged does not cross a boundary", ~valid | whole)
    bench.claim(f"inside: one {name} at a time is judged", ~(summed & valid))
    return valid


def aligned(address: Value, length: Value, word: int, burst_beats: int) -> Value:
    """Whether a burst crosses no multiple of the longest burst."""
    size = word * burst_beats
    return (address & (size - 1)) + ((length + 1) << (word - 1).bit_length()) <= size


def asked(bench: Bench, valid: Value, burst: Any, burst_beats: int) -> None:
    """Assume what is proved of a burst splitter."""
    low = burst.memory & (burst_beats - 1)
    bench.assume(~valid | ((burst.length != 0) & (low + burst.length <= burst_beats)))


def window_check(
    bench: Bench,
    *,
    bus_bytes: int,
    burst_beats: int,
    address_bits: int,
    order: bool,
    kind: Any = WindowCheck,
) -> None:
    """The window at the port of every burst, and that those inside all come out, in order.

    Parameters
    ----------
    bench
        Where it is added.
    bus_bytes, burst_beats, address_bits
        As of the check.
    order
        Whether to follow a burst through it.
    kind
        The check.
    """
    dut = bench.add(kind(bus_bytes=bus_bytes, burst_beats=burst_beats, address_bits=address_bits))
    base, size = _window(bench, dut)
    bench.rest(dut, dut.base, dut.size)
    burst = dut.i.payload.burst
    o = dut.o.payload
    asked(bench, dut.i.valid, burst, burst_beats)
    shift = (bus_bytes - 1).bit_length()
    fits = ((burst.memory + burst.length) << shift) <= size
    took = dut.i.valid & dut.i.ready & ~dut.stop
    gave = dut.o.valid & dut.o.ready
    judged(bench, "dut", base, size, word=bus_bytes, burst_beats=burst_beats, address_bits=address_bits)
    bench.claim(
        "no burst leaves the window", ~dut.o.valid | inside_window(base, size, o.address, o.len, bus_bytes)
    )
    bench.claim("what is offered stays until it is taken", bench.stays(dut.o.valid, dut.o.ready, o))
    bench.claim("it takes a burst within 2 cycles if the bus does", bench.soon(dut.o.ready, dut.i.ready, 2))
    bench.goal("a burst is refused", dut.outside)
    bench.goal("a burst is offered", gave)
    if not order:
        return
    bench.claim(
        "a burst outside is refused two cycles later, and no other",
        dut.outside == (bench.before(bench.before(took & ~fits)) & ~bench.before(dut.stop)),
    )
    length = Signal(8)
    bench.m.d.comb += length.eq(burst.length - 1)
    expected = Cat((base + (burst.memory << shift))[:32], length, dut.i.payload.id)
    board = Scoreboard(
        bench,
        push=bench.before(took & fits) & ~dut.stop,
        into=bench.before(expected),
        pop=gave,
        offered=dut.o.valid,
        out=Cat(o.address, o.len, o.id),
        greatest=2,
    )
    bench.claim(
        "one that is inside is offered two cycles later", bench.soon(board.inside != 0, dut.o.valid, 1)
    )
    bench.claim("idle means that nothing is inside", ~dut.idle | (board.inside == 0))


def _fixed(port: Any, channel: str, word: int) -> Value:
    """Whether what never changes on an address channel is what a full-width INCR burst has."""
    size, burst = (getattr(port, f"m_{channel}{name}") for name in ("size", "burst"))
    return (size == (word - 1).bit_length()) & (burst == 0b01)


def read_port(
    bench: Bench,
    *,
    bus_bits: int,
    burst_beats: int,
    address_bits: int,
    under_way_bits: int,
    kind: Any = ReadPort,
) -> None:
    """AXI4 reads: window, boundaries, handshake; whose word it is; one grant; when it is idle.

    Parameters
    ----------
    bench
        Where it is added.
    bus_bits, burst_beats, address_bits, under_way_bits
        As of the port.
    kind
        The port.
    """
    dut = bench.add(
        kind(
            bus_bits=bus_bits,
            burst_beats=burst_beats,
            address_bits=address_bits,
            under_way_bits=under_way_bits,
        )
    )
    word = bus_bits // 8
    base, size = _window(bench, dut)
    bench.rest(dut, dut.base, dut.size)
    for request in dut.request:
        asked(bench, request.valid, request.payload, burst_beats)
    offered = judged(
        bench, "dut.check", base, size, word=word, burst_beats=burst_beats, address_bits=address_bits
    )
    address = Cat(dut.m_arid, dut.m_araddr, dut.m_arlen)
    comes = dut.m_rvalid & dut.m_rready
    sent = dut.m_arvalid & dut.m_arready
    ended = comes & dut.m_rlast
    under_way = bench.count(sent, ended, (1 << under_way_bits) - 1)
    bench.assume(~dut.m_rvalid | (under_way != 0))
    bench.claim(
        "no burst leaves the window",
        ~dut.m_arvalid | inside_window(base, size, dut.m_araddr, dut.m_arlen, word),
    )
    bench.claim(
        "no burst crosses a multiple of the longest, nor 4 KiB",
        ~dut.m_arvalid | aligned(dut.m_araddr, dut.m_arlen, word, burst_beats),
    )
    bench.claim("an address stays until it is taken", bench.stays(dut.m_arvalid, dut.m_arready, address))
    bench.claim("bursts are INCR, of full width", _fixed(dut, "ar", word))
    first, second = (request.valid & request.ready for request in dut.request)
    bench.claim("one grant at a time", ~(first & second))
    bench.claim("the first goes before the second", ~(second & dut.request[0].valid))
    asker, place, length = Signal(), Signal(address_bits), Signal(8)
    with bench.m.If(first | second):
        granted = [
            Mux(first, *(request.payload[name] for request in dut.request)) for name in ("memory", "length")
        ]
        bench.m.d.sync += [asker.eq(~first), place.eq(granted[0]), length.eq(granted[1] - 1)]
    expected = Cat((base + (place << (word - 1).bit_length()))[:32], length, asker)
    judged_now = bench.inside("dut.check.summed", 1) | offered
    bench.claim(
        "inside: what is judged or offered is what was taken last",
        ~judged_now | (bench.inside("dut.check.o__payload", 41) == expected),
    )
    bench.claim(
        "an address on the bus is of the burst taken last, with the number of who asked",
        ~dut.m_arvalid | (Cat(dut.m_araddr, dut.m_arlen, dut.m_arid) == expected),
    )
    bench.claim(
        "a word goes to whom it is for, a cycle later, and to nobody else",
        dut.valid == Cat(bench.before(comes & ~dut.m_rid), bench.before(comes & dut.m_rid)),
    )
    bench.claim(
        "it is the word that came",
        ~dut.valid.any()
        | ((dut.data == bench.before(dut.m_rdata)) & (dut.last == bench.before(dut.m_rlast))),
    )
    bench.claim(
        "an error is told a cycle later, and nothing else is",
        dut.error == bench.before(comes & dut.m_rresp[1]),
    )
    bench.claim("no word comes behind a hold", ~bench.before(dut.hold) | ~dut.valid.any())
    bench.claim(
        "inside: bursts under way are counted", bench.inside("dut.under_way", under_way_bits) == under_way
    )
    half = 1 << under_way_bits - 1
    many = bench.inside("dut.many", 1)
    summed = bench.inside("dut.check.summed", 1)
    bench.claim(
        "inside: none is taken where the count might run over",
        (under_way + summed + offered <= half + 2) & (many | (under_way + summed + offered <= half + 1)),
    )
    bench.claim("the count does not run over", ~(sent & ~ended & under_way.all()))
    bench.claim(
        "idle means that no burst is inside or under way", ~dut.idle | (~dut.m_arvalid & (under_way == 0))
    )
    bench.goal("a burst of the second is offered", dut.m_arvalid & dut.m_arid)
    bench.goal("a last word comes", dut.last & dut.valid.any())


def write_port(
    bench: Bench,
    *,
    bus_bits: int,
    burst_beats: int,
    address_bits: int,
    under_way_bits: int,
    kind: Any = WritePort,
) -> None:
    """AXI4 writes: window, boundaries, handshakes, as many words as announced, the last of them marked.

    Parameters
    ----------
    bench
        Where it is added.
    bus_bits, burst_beats, address_bits, under_way_bits
        As of the port.
    kind
        The port.
    """
    m = bench.m
    dut = bench.add(
        kind(
            bus_bits=bus_bits,
            burst_beats=burst_beats,
            address_bits=address_bits,
            under_way_bits=under_way_bits,
        )
    )
    word = bus_bits // 8
    base, size = _window(bench, dut)
    bench.rest(dut, dut.base, dut.size)
    asked(bench, dut.request.valid, dut.request.payload, burst_beats)
    bench.assume(bench.stays(dut.data.valid, dut.data.ready, dut.data.payload))
    offered = judged(
        bench, "dut.check", base, size, word=word, burst_beats=burst_beats, address_bits=address_bits
    )
    waiting = bench.before(dut.m_awvalid & ~dut.m_awready)
    announced = dut.m_awvalid & ~waiting
    beat = dut.m_wvalid & dut.m_wready

    # Words that are to come of the burst whose words are on the bus, and of the one behind it
    left = Signal(range(burst_beats + 1))
    behind = Signal(range(burst_beats + 1))
    now = Signal(range(burst_beats + 1))
    m.d.comb += now.eq(Mux(left == 0, Mux(announced, dut.m_awlen + 1, 0), left))
    after = Mux((left != 0) & announced, dut.m_awlen + 1, behind)
    with m.If(beat & (now == 1)):
        m.d.sync += [left.eq(after), behind.eq(0)]
    with m.Else():
        m.d.sync += [left.eq(now - beat), behind.eq(after)]

    active, last = bench.inside("dut.active", 1), bench.inside("dut.last_beat", 1)
    beats_left = bench.inside("dut.beats_left", len(left))
    bench.claim(
        "inside: words that are to come are counted",
        Mux(
            active,
            (last == (beats_left == 1))
            & (beats_left != 0)
            & Mux(
                dut.m_wvalid & dut.m_wlast,
                (now == 1) & (after == beats_left),
                (now == beats_left + dut.m_wvalid) & (after == 0),
            ),
            (now == dut.m_wvalid) & (after == 0) & (~dut.m_wvalid | dut.m_wlast),
        ),
    )
    bench.claim(
        "no burst leaves the window",
        ~dut.m_awvalid | inside_window(base, size, dut.m_awaddr, dut.m_awlen, word),
    )
    bench.claim(
        "no burst crosses a multiple of the longest, nor 4 KiB",
        ~dut.m_awvalid | aligned(dut.m_awaddr, dut.m_awlen, word, burst_beats),
    )
    bench.claim(
        "an address stays until it is taken",
        bench.stays(dut.m_awvalid, dut.m_awready, dut.m_awaddr, dut.m_awlen),
    )
    bench.claim(
        "a word stays until it is taken",
        bench.stays(dut.m_wvalid, dut.m_wready, dut.m_wdata, dut.m_wstrb, dut.m_wlast),
    )
    bench.claim("bursts are INCR, of full width", _fixed(dut, "aw", word))
    bench.claim("no word comes before its burst is announced", ~dut.m_wvalid | (now != 0))
    bench.claim(
        "the last word of a burst says so, and no other does", ~dut.m_wvalid | (dut.m_wlast == (now == 1))
    )
    bench.claim(
        "at most one burst is announced behind the one whose words come",
        ~announced | (left == 0) | (behind == 0),
    )
    fresh = dut.m_wvalid & ~bench.before(dut.m_wvalid & ~dut.m_wready)
    whole = (1 << word) - 1
    bench.claim(
        "every byte of a word is written, or none after a stop",
        ~fresh | (dut.m_wstrb == Mux(bench.before(dut.stop), 0, whole)),
    )
    taken = dut.data.valid & dut.data.ready
    bench.claim(
        "a word that is written is the one taken in the cycle before it is offered",
        ~fresh | (dut.m_wstrb == 0) | (bench.before(taken) & (dut.m_wdata == bench.before(dut.data.payload))),
    )
    bench.claim("every word that is taken is offered in the next cycle", ~bench.before(taken) | fresh)
    bench.claim(
        "a word is offered within 2 cycles if there is one",
        bench.soon((now != 0) & dut.m_wready & (dut.data.valid | dut.stop), dut.m_wvalid, 2),
    )
    answered = dut.m_bvalid & dut.m_bready
    under_way = bench.count(announced, answered, (1 << under_way_bits) - 1)
    # A burst is answered when its address and all its words have been taken.
    unfinished = Signal(2)
    m.d.comb += unfinished.eq(Mux(now != 0, 1 + (after != 0), dut.m_awvalid))
    bench.assume(~dut.m_bvalid | (under_way + announced > unfinished))
    bench.claim(
        "inside: bursts under way are counted",
        bench.inside("dut.under_way", under_way_bits) == under_way + announced,
    )
    bench.claim("inside: bursts that are not through are under way", under_way + announced >= unfinished)
    half = 1 << under_way_bits - 1
    many = bench.inside("dut.many", 1)
    summed = bench.inside("dut.check.summed", 1)
    inside = under_way + announced + summed + offered
    bench.claim(
        "inside: none is taken where the count might run over",
        (inside <= half + 2) & (many | (inside <= half + 1)),
    )
    bench.claim("the count does not run over", ~(announced & ~answered & under_way.all()))
    bench.claim(
        "idle means that every burst has been acknowledged",
        ~dut.idle | (~dut.m_awvalid & ~dut.m_wvalid & (under_way + announced == 0)),
    )
    bench.claim(
        "an error is told a cycle later, and nothing else is",
        dut.error == bench.before(dut.m_bvalid & dut.m_bresp[1]),
    )
    bench.goal("a burst of two words or more ends", beat & dut.m_wlast & bench.before(beat))
    bench.goal("a word without strobes", dut.m_wvalid & (dut.m_wstrb == 0))
    bench.goal("the second burst is announced while words of the first wait", announced & (left != 0))


def register_port(bench: Bench, *, kind: Any = RegisterPort) -> None:
    """AXI4-Lite: one access for each address (and word) taken, as it was asked for, and one answer to each.

    Parameters
    ----------
    bench
        Where it is added.
    kind
        The port.
    """
    dut = bench.add(kind())
    bench.rest(dut)
    for channel, payload in (
        ("aw", (dut.s_awaddr,)),
        ("w", (dut.s_wdata, dut.s_wstrb)),
        ("ar", (dut.s_araddr,)),
    ):
        valid, ready = (getattr(dut, f"s_{channel}{name}") for name in ("valid", "ready"))
        bench.assume(bench.stays(valid, ready, *payload))
    mask = Cat(strobe.replicate(8) for strobe in dut.s_wstrb)
    addresses = Scoreboard(
        bench,
        push=dut.s_awvalid & dut.s_awready,
        into=dut.s_awaddr,
        pop=dut.write,
        out=dut.write_address,
        greatest=1,
        name="write addresses",
    )
    words = Scoreboard(
        bench,
        push=dut.s_wvalid & dut.s_wready,
        into=Cat(dut.s_wdata, mask),
        pop=dut.write,
        out=Cat(dut.write_data, dut.write_mask),
        greatest=1,
        name="words",
    )
    done = dut.read & dut.read_done
    reads = Scoreboard(
        bench,
        push=dut.s_arvalid & dut.s_arready,
        into=dut.s_araddr,
        pop=done,
        offered=dut.read,
        out=dut.read_address,
        greatest=1,
        name="read addresses",
    )
    bench.claim(
        "a write is answered in the next cycle, once",
        dut.s_bvalid == (bench.before(dut.write) | bench.before(dut.s_bvalid & ~dut.s_bready)),
    )
    bench.claim(
        "a read is answered in the cycle after its word is there, once",
        dut.s_rvalid == (bench.before(done) | bench.before(dut.s_rvalid & ~dut.s_rready)),
    )
    bench.claim(
        "nothing more happens while an answer to it would be lost",
        ~(dut.write & dut.s_bvalid & ~dut.s_bready) & ~(done & dut.s_rvalid & ~dut.s_rready),
    )
    bench.claim("it is that word", ~bench.before(done) | (dut.s_rdata == bench.before(dut.read_data)))
    bench.claim(
        "an answer to a write stays until it is taken", bench.stays(dut.s_bvalid, dut.s_bready, dut.s_bresp)
    )
    bench.claim(
        "an answer to a read stays until it is taken",
        bench.stays(dut.s_rvalid, dut.s_rready, dut.s_rdata, dut.s_rresp),
    )
    bench.claim("every access is answered OKAY", (dut.s_bresp == 0) & (dut.s_rresp == 0))
    bench.claim("a read goes on until it is done", ~bench.before(dut.read & ~dut.read_done) | dut.read)
    bench.claim(
        "a write happens within 2 cycles of address and word, if answers are taken",
        bench.soon((addresses.inside != 0) & (words.inside != 0) & dut.s_bready, dut.write, 2),
    )
    bench.claim("a read begins in the cycle after its address", (reads.inside != 0) == dut.read)
    bench.claim(
        "addresses and words are taken within 2 cycles where nothing waits",
        bench.soon(dut.s_bready & dut.s_awvalid & dut.s_wvalid, dut.s_awready, 3)
        & bench.soon(dut.s_bready & dut.s_awvalid & dut.s_wvalid, dut.s_wready, 3),
    )


def _target(bench: Bench, dut: Any) -> tuple[Value, Value]:
    """Assume that an AXI4-Lite target keeps the rules; whether it has taken the address, and the word."""
    m = bench.m
    taken = {}
    for channel, answer in (("aw", "b"), ("w", "b"), ("ar", "r")):
        valid, ready = (getattr(dut, f"m_{channel}{name}") for name in ("valid", "ready"))
        answered = getattr(dut, f"m_{answer}valid") & getattr(dut, f"m_{answer}ready")
        taken[channel] = Signal(name=f"taken_{channel}")
        with m.If(answered):
            m.d.sync += taken[channel].eq(0)
        with m.If(valid & ready):
            m.d.sync += taken[channel].eq(1)
    bench.assume(~dut.m_bvalid | (taken["aw"] & taken["w"]))
    bench.assume(~dut.m_rvalid | taken["ar"])
    bench.assume(bench.stays(dut.m_bvalid, dut.m_bready, dut.m_bresp))
    bench.assume(bench.stays(dut.m_rvalid, dut.m_rready, dut.m_rdata, dut.m_rresp))
    return taken["aw"] | taken["ar"], taken["w"]


def _initiator(bench: Bench, bus: Any) -> tuple[Value, Value]:
    """Assume that a Wishbone initiator sees its cycles to the end; it asks, it is answered."""
    asked = bus.cyc & bus.stb
    answered = bus.ack | bus.err
    bench.assume(bench.stays(asked, answered, bus.we, bus.adr, bus.sel, bus.dat_w))
    return asked, answered


def bridge(bench: Bench, *, kind: Any = AxiLiteBridge) -> None:
    """Wishbone to AXI4-Lite: one access for each cycle, handshakes, the answer in the cycle of the response.

    Parameters
    ----------
    bench
        Where it is added.
    kind
        The bridge.
    """
    dut = bench.add(kind())
    bench.rest(dut)
    bus = dut.bus
    asked, answered = _initiator(bench, bus)
    address_taken, data_taken = _target(bench, dut)
    bench.claim(
        "a write address stays until it is taken", bench.stays(dut.m_awvalid, dut.m_awready, dut.m_awaddr)
    )
    bench.claim(
        "a word stays until it is taken", bench.stays(dut.m_wvalid, dut.m_wready, dut.m_wdata, dut.m_wstrb)
    )
    bench.claim(
        "a read address stays until it is taken", bench.stays(dut.m_arvalid, dut.m_arready, dut.m_araddr)
    )
    bench.claim("one address for each cycle", ~address_taken | ~(dut.m_awvalid | dut.m_arvalid))
    bench.claim("one word for each cycle", ~data_taken | ~dut.m_wvalid)
    bench.claim(
        "an address is on offer from the first cycle on until it is taken",
        ~asked | address_taken | Mux(bus.we, dut.m_awvalid, dut.m_arvalid),
    )
    bench.claim("so is the word of a write", ~(asked & bus.we) | data_taken | dut.m_wvalid)
    bench.claim("nothing is asked for that is not", asked | ~(dut.m_awvalid | dut.m_wvalid | dut.m_arvalid))
    bench.claim(
        "reads do not write, writes do not read", Mux(bus.we, ~dut.m_arvalid, ~dut.m_awvalid & ~dut.m_wvalid)
    )
    bench.claim(
        "it asks for what it is asked for",
        (~dut.m_awvalid | (dut.m_awaddr == bus.adr << 2))
        & (~dut.m_arvalid | (dut.m_araddr == bus.adr << 2))
        & (~dut.m_wvalid | ((dut.m_wdata == bus.dat_w) & (dut.m_wstrb == bus.sel))),
    )
    response = Mux(bus.we, dut.m_bvalid, dut.m_rvalid)
    failed = Mux(bus.we, dut.m_bresp, dut.m_rresp)[1]
    bench.claim("a cycle is answered in that of its response", answered == (asked & response))
    bench.claim(
        "an error is one, and nothing else is", ~answered | ((bus.err == failed) & (bus.ack == ~failed))
    )
    bench.claim("a read's word is the response's", ~(bus.ack & ~bus.we) | (bus.dat_r == dut.m_rdata))
    bench.claim("every response is taken", ~(dut.m_bvalid | dut.m_rvalid) | answered)
    bench.goal("a write is answered", bus.ack & bus.we)
    bench.goal("a read fails", bus.err & ~bus.we)


def bridged_registers(bench: Bench, *, kind: Any = AxiLiteBridge) -> None:
    """Wishbone to the registers, whole: a cycle is answered within a bound, and happens once.

    Parameters
    ----------
    bench
        Where it is added.
    kind
        The bridge.
    """
    dut = bench.add(kind())
    port = bench.add(RegisterPort(), "port")
    driven = []
    for name, member in dut.signature.members.items():
        if name.startswith("m_"):
            ours, theirs = getattr(dut, name), getattr(port, f"s_{name.removeprefix('m_')}")
            if member.flow == Out:
                bench.m.d.comb += theirs.eq(ours)
                driven.append(theirs)
            else:
                bench.m.d.comb += ours.eq(theirs)
                driven.append(ours)
    bench.rest(dut, *driven)
    bench.rest(port, *driven)
    bus = dut.bus
    asked, answered = _initiator(bench, bus)
    done = port.read & port.read_done
    happened = Signal()
    bench.m.d.sync += happened.eq((happened | port.write | done) & ~answered)
    bench.claim("an access happens once in a cycle of the bus", ~(happened & (port.write | done)))
    bench.claim("it has happened when the bus is answered", ~answered | happened)
    bench.claim("it happens only for a cycle of the bus", ~(port.write | port.read) | asked)
    bench.claim(
        "it is what was asked for",
        (~port.write | (bus.we & (port.write_address == bus.adr << 2) & (port.write_data == bus.dat_w)))
        & (~done | (~bus.we & (port.read_address == bus.adr << 2))),
    )
    bench.claim(
        "a cycle is answered within 3 cycles if the registers answer at once",
        bench.soon(asked & (port.read_done | bus.we), answered, 3),
    )
    bench.goal("a write is answered", bus.ack & bus.we)
    bench.goal("a read is answered", bus.ack & ~bus.we)


def axi_to_wishbone(bench: Bench, *, bus_bits: int, kind: Any = AxiToWishbone) -> None:
    """AXI4 bursts on Wishbone: each beat once, in order; rules of both; reads and writes take turns.

    Parameters
    ----------
    bench
        Where it is added.
    bus_bits
        As of the component.
    kind
        The component.
    """
    m = bench.m
    dut = bench.add(kind(bus_bits=bus_bits))
    bench.rest(dut)
    bus = dut.bus
    aw, w, ar = (
        (getattr(dut, f"s_{channel}valid"), getattr(dut, f"s_{channel}ready"))
        for channel in ("aw", "w", "ar")
    )
    bench.assume(bench.stays(*aw, dut.s_awaddr, dut.s_awlen, dut.s_awid))
    bench.assume(bench.stays(*ar, dut.s_araddr, dut.s_arlen, dut.s_arid))
    bench.assume(bench.stays(*w, dut.s_wdata, dut.s_wstrb))
    asked = bus.cyc & bus.stb
    answered = bus.ack | bus.err
    bench.assume(~answered | asked)

    reading, writing, identifier, failed = Signal(), Signal(), Signal(), Signal()
    place = Signal(len(bus.adr))
    left = Signal(8)  # beats behind this one
    last = left == 0
    took_write, took_read = aw[0] & aw[1], ar[0] & ar[1]
    with m.If(answered):
        m.d.sync += [place.eq(place + 1), left.eq(left - 1), failed.eq(failed | bus.err)]
        with m.If(last):
            m.d.sync += [reading.eq(0), writing.eq(0)]
    with m.If(took_write | took_read):
        m.d.sync += [
            reading.eq(took_read),
            writing.eq(took_write),
            place.eq(Mux(took_write, dut.s_awaddr, dut.s_araddr) >> dut.shift),
            left.eq(Mux(took_write, dut.s_awlen, dut.s_arlen)),
            identifier.eq(Mux(took_write, dut.s_awid, dut.s_arid)),
            failed.eq(0),
        ]
    open_ = reading | writing
    bench.claim("one burst at a time", ~(took_write & took_read) & ~((took_write | took_read) & open_))
    bench.claim("the bus is held for a burst, and for nothing else", bus.cyc == open_)
    bench.claim("no strobe without a cycle", ~bus.stb | bus.cyc)
    bench.claim("reads read, writes write", ~bus.cyc | (bus.we == writing))
    bench.claim("beats follow each other", ~asked | (bus.adr == place))
    bench.claim("the bus is told whether the burst ends", ~asked | (dut.cti == Mux(last, 0b111, 0b010)))
    bench.claim(
        "what is asked for stays until it is answered",
        bench.stays(asked, answered, bus.we, bus.adr, bus.sel, Mux(bus.we, bus.dat_w, 0), dut.cti),
    )
    bench.claim(
        "a word is taken as it is written, and at no other time", (w[0] & w[1]) == (answered & writing)
    )
    bench.claim("it is that word", ~(asked & writing) | (bus.dat_w == dut.s_wdata) & (bus.sel == dut.s_wstrb))
    words = Scoreboard(
        bench,
        push=answered & reading,
        into=Cat(bus.dat_r, bus.err, last, identifier),
        pop=dut.s_rvalid & dut.s_rready,
        offered=dut.s_rvalid,
        out=Cat(dut.s_rdata, dut.s_rresp[1], dut.s_rlast, dut.s_rid),
        greatest=1,
        name="words read",
    )
    answers = Scoreboard(
        bench,
        push=answered & writing & last,
        into=Cat(failed | bus.err, identifier),
        pop=dut.s_bvalid & dut.s_bready,
        offered=dut.s_bvalid,
        out=Cat(dut.s_bresp[1], dut.s_bid),
        greatest=1,
        name="answers to writes",
    )
    bench.claim("what has been read is on offer in the next cycle", (words.inside != 0) == dut.s_rvalid)
    bench.claim("a write is answered in the next cycle", (answers.inside != 0) == dut.s_bvalid)
    bench.claim(
        "words read stay until they are taken",
        bench.stays(dut.s_rvalid, dut.s_rready, dut.s_rdata, dut.s_rresp, dut.s_rlast, dut.s_rid),
    )
    bench.claim(
        "answers stay until they are taken", bench.stays(dut.s_bvalid, dut.s_bready, dut.s_bresp, dut.s_bid)
    )
    write_waits = aw[0] & w[0] & ~dut.s_bvalid
    for name, waits, goes, others in (
        ("a read", ar[0], took_read, took_write),
        ("a write", write_waits, took_write, took_read),
    ):
        passed = Signal(2, name=f"passed_{name[2:]}")
        with m.If(~waits | goes):
            m.d.sync += passed.eq(0)
        with m.Elif(others & (passed != 3)):
            m.d.sync += passed.eq(passed + 1)
        bench.claim(f"{name} that waits is passed by at most one of the others", passed <= 1)
    bench.claim(
        "a burst begins at once where nothing is under way",
        open_ | ~(ar[0] | write_waits) | took_read | took_write,
    )
    bench.claim(
        "a beat is asked for at once where there is a word, or room for one",
        asked == (writing & w[0] | reading & (~dut.s_rvalid | dut.s_rready)),
    )
    bench.goal(
        "a burst of two words or more is written",
        answered & writing & last & bench.before(answered & writing),
    )
