"""What is proved of the host link."""

from typing import Any

from amaranth.hdl import Mux, Signal

from bitwright.hw.bus.link import ESCAPE, ESCAPED, FLAG, HostLink

from .bench import Bench

__all__ = ["link"]


def link(bench: Bench, *, address_bits: int, timeout_cycles: int, kind: Any = HostLink) -> None:
    """The host link keeps the rules of its bus and its stream, and frames its replies.

    Any bytes may come, and the buffer's memory is taken out, so that it puts out anything.

    Parameters
    ----------
    bench
        Where it is added.
    address_bits, timeout_cycles
        As of the link.
    kind
        The link.
    """
    m = bench.m
    dut = bench.add(kind(address_bits=address_bits, timeout_cycles=timeout_cycles))
    bench.cut("dut.buffer")
    bench.rest(dut)
    bus = dut.bus
    asked, answered = bus.cyc & bus.stb, bus.ack | bus.err
    bench.assume(~answered | asked)
    bench.claim(
        "what is asked for stays until it is answered",
        bench.stays(asked, answered, bus.we, bus.adr, bus.sel, Mux(bus.we, bus.dat_w, 0)),
    )
    bench.claim("the bus is not held between two words", ~bench.before(answered) | ~bus.cyc)
    bench.claim("a byte stays until it is taken", bench.stays(dut.o.valid, dut.o.ready, dut.o.payload))
    bench.claim("a byte is taken within 9 cycles", bench.soon(dut.i.valid, dut.i.ready, 9))
    bench.claim("while a reply is sent, bytes are taken and dropped", ~(dut.o.valid | bus.cyc) | dut.i.ready)

    gave = dut.o.valid & dut.o.ready
    escaped, open_ = Signal(), Signal()
    with m.If(gave):
        m.d.sync += escaped.eq((dut.o.payload == ESCAPE) & ~escaped)
        with m.If(dut.o.payload == FLAG):
            m.d.sync += open_.eq(~open_)
    frame = Signal()  # a flag has come, and with it the end of what could be a request
    with m.If(dut.i.valid & dut.i.ready & (dut.i.payload == FLAG)):
        m.d.sync += frame.eq(1)
    # In the order in which the states are named.
    number = bench.inside("dut.fsm_state", 3)
    names = ("RECEIVE", "NEXT", "STORE", "STEP", "BUS", "FLAG", "BYTE")
    state = {name: number == index for index, name in enumerate(names)}
    receiving = state["RECEIVE"] | state["STORE"]
    sending, escape = bench.inside("dut.sending", 1), bench.inside("dut.escape", 1)
    bench.claim("inside: there are no other states", number < len(names))
    bench.claim("inside: it receives until a flag has come", frame | receiving)
    bench.claim("inside: it does not send while it receives", ~(receiving & sending))
    bench.claim("inside: a reply is open while it sends", open_ == sending)
    bench.claim("inside: bytes go out only then", ~state["BYTE"] | sending)
    byte = bench.inside("dut.byte", 8)
    special = (byte == FLAG) | (byte == ESCAPE)
    bench.claim(
        "inside: escapes are known",
        Mux(sending, (escape == escaped) & (~escape | state["BYTE"] & special), ~escaped)
        & (~escape | state["RECEIVE"] | state["BYTE"]),
    )
    bench.claim("inside: bytes are whole", ~state["RECEIVE"] | (bench.inside("dut.place", 11)[:3] == 0))
    bench.claim(
        "behind an escape comes a flag or an escape, changed as it must be",
        ~(dut.o.valid & escaped) | (dut.o.payload == FLAG ^ ESCAPED) | (dut.o.payload == ESCAPE ^ ESCAPED),
    )
    bench.claim("bytes come between two flags", ~dut.o.valid | open_ | (dut.o.payload == FLAG))
    bench.claim("nothing is asked for or sent before a flag has come", frame | ~(asked | dut.o.valid))
    bench.claim("nothing is written while a reply is open", ~(open_ & bus.we & asked))
    bench.goal("a byte waits while the one before it is stored", dut.i.valid & ~dut.i.ready)
