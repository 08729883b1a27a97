"""What is proved of queues, and of main memory on the chip."""

from typing import Any

from amaranth.hdl import Mux, Signal

from bitwright.hw.memory.fifo import BlockFifo
from bitwright.hw.memory.main import MIN_BYTES, MainMemory

from .bench import Bench, Scoreboard

__all__ = ["fifo", "main_memory"]


def fifo(bench: Bench, *, depth: int, registered: bool, width: int = 4, kind: Any = BlockFifo) -> None:
    """Nothing is lost, doubled or overtaken; payload stays; level, room and latency are as stated.

    Parameters
    ----------
    bench
        Where it is added.
    depth, registered, width
        As of the FIFO.
    kind
        The FIFO.
    """
    dut = bench.add(kind(width, depth, registered=registered))
    bench.rest(dut)
    capacity = depth + 1 + registered
    board = Scoreboard(
        bench,
        push=dut.i.valid & dut.i.ready,
        into=dut.i.payload,
        pop=dut.o.valid & dut.o.ready,
        offered=dut.o.valid,
        out=dut.o.payload,
        greatest=capacity,
    )
    latency = 3 if registered else 2
    bench.claim("the level is what is inside", dut.level == board.inside)
    bench.claim(
        "what is offered stays until it is taken", bench.stays(dut.o.valid, dut.o.ready, dut.o.payload)
    )
    bench.claim(
        f"something is offered {latency} cycles after it came in, at the latest, if nothing is ahead of it",
        bench.soon(board.inside != 0, dut.o.valid, latency),
    )
    bench.claim("while fewer are inside than its depth it takes more", (board.inside >= depth) | dut.i.ready)
    bench.goal("it is full", ~dut.i.ready & (board.inside == capacity))


def main_memory(bench: Bench, *, burst_beats: int, bus_bits: int = 32, kind: Any = MainMemory) -> None:
    """Each burst is answered as it must be, in order, and the host too, soon.

    Of single-port RAM, which is taken out, so that it gives any words. Bursts may be asked for in any cycle,
    and their words given and taken.

    Parameters
    ----------
    bench
        Where it is added.
    burst_beats, bus_bits
        As of the memory.
    kind
        The memory.
    """
    m = bench.m
    dut = bench.add(
        kind(kind="single", size=MIN_BYTES, bus_bits=bus_bits, burst_beats=burst_beats, host_address_bits=10)
    )
    bench.cut("dut.ram")
    bench.rest(dut)
    # What who asks keeps to.
    bench.assume(bench.stays(dut.s_arvalid, dut.s_arready, dut.s_araddr, dut.s_arlen, dut.s_arid))
    bench.assume(bench.stays(dut.s_awvalid, dut.s_awready, dut.s_awaddr, dut.s_awid))
    bench.assume(bench.stays(dut.s_wvalid, dut.s_wready, dut.s_wdata, dut.s_wstrb, dut.s_wlast))
    bench.assume(~dut.s_arvalid | (dut.s_arlen < burst_beats))
    host = dut.host
    asked, answered = host.cyc & host.stb, host.ack | host.err
    bench.assume(bench.stays(asked, answered, host.we, host.adr, host.sel, host.dat_w))

    # Reads: the words of one burst are followed, any, behind all that were asked for before.
    took, gave = dut.s_arvalid & dut.s_arready, dut.s_rvalid & dut.s_rready
    most = 2 * burst_beats + 16
    owed, ahead = Signal(range(most + 1)), Signal(range(most + 1))
    following, left, ident = Signal(), Signal(range(burst_beats)), Signal()
    m.d.sync += owed.eq(owed + Mux(took, dut.s_arlen + 1, 0) - gave)
    with m.If(took & ~following & bench.anything()):
        m.d.sync += [following.eq(1), ahead.eq(owed - gave), left.eq(dut.s_arlen), ident.eq(dut.s_arid)]
    with m.Elif(following & gave):
        with m.If(ahead != 0):
            m.d.sync += ahead.eq(ahead - 1)
        with m.Else():
            m.d.sync += [left.eq(left - 1), following.eq(left != 0)]
    due = following & (ahead == 0) & dut.s_rvalid
    bench.claim(
        "a word read stays until it is taken",
        bench.stays(dut.s_rvalid, dut.s_rready, dut.s_rid, dut.s_rlast),
    )
    bench.claim("none comes that was not asked for", ~dut.s_rvalid | (owed != 0))
    bench.claim("a burst has as many words as were asked for", ~due | (dut.s_rlast == (left == 0)))
    bench.claim("a burst's words have its identifier", ~due | (dut.s_rid == ident))
    bench.claim("no more are asked for than can be counted", owed <= most)
    bench.claim("no read fails", dut.s_rresp == 0)
    bench.goal("the last word of a burst that is followed is given", due & dut.s_rlast & dut.s_rready)

    # Writes: one burst at a time.
    begins, ends = dut.s_awvalid & dut.s_awready, dut.s_wvalid & dut.s_wready & dut.s_wlast
    open_, owes, write_ident = Signal(), Signal(), Signal()
    words = Signal(range(burst_beats + 1))
    bench.assume(~dut.s_wvalid | (words < burst_beats - 1) | dut.s_wlast)
    with m.If(dut.s_wvalid & dut.s_wready):
        m.d.sync += words.eq(words + 1)
    with m.If(begins):
        m.d.sync += [open_.eq(1), write_ident.eq(dut.s_awid), words.eq(0)]
    with m.If(ends):
        m.d.sync += [open_.eq(0), owes.eq(1)]
    with m.If(dut.s_bvalid & dut.s_bready):
        m.d.sync += owes.eq(0)
    bench.claim("a burst is taken when the one before it is answered", ~begins | ~(open_ | owes))
    bench.claim("words are taken only of a burst", ~dut.s_wready | open_)
    bench.claim("a burst is answered in the cycle behind its last word", dut.s_bvalid == owes)
    bench.claim(
        "with its identifier, and no write fails",
        ~dut.s_bvalid | ((dut.s_bid == write_ident) & (dut.s_bresp == 0)),
    )
    bench.claim("an answer stays until it is taken", bench.stays(dut.s_bvalid, dut.s_bready, dut.s_bid))
    bench.goal("a write is answered", dut.s_bvalid & dut.s_bready)

    # The host
    # A word of R that is not taken holds up everything.
    bench.assume(bench.soon(dut.s_rvalid, dut.s_rready, 2))
    bench.claim("the host is answered only when it asks", ~answered | bench.before(asked))
    bench.claim("and once", ~(answered & bench.before(answered)))
    bench.claim("within 5 cycles, if no word read waits for more than one", bench.soon(asked, answered, 5))
    bench.goal("the host reads", host.ack & ~host.we)
