"""What is proved of queues."""

from typing import Any

from bitwright.hw.memory.fifo import BlockFifo

from .bench import Bench, Scoreboard

__all__ = ["fifo"]


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
