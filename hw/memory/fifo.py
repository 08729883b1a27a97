"""A first-in first-out queue in block RAM."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .ram import Ram

__all__ = ["BlockFifo"]


class BlockFifo(wiring.Component):
    """Queue of ``depth`` words; a word leaves three cycles after it came in at the earliest.

    ::

        i ──► memory ──► its output (`loaded`) ──► register ──► o

    Block RAM is slow to put out, so a register stands behind it, unless whoever takes the words has one: then
    a word leaves a cycle earlier.

    A word is read only in a later cycle than it was written, so the memory never sees a read and a write
    of one address together.

    Parameters
    ----------
    width, depth
        Bits of a word; words, a power of two.
    registered
        Whether the register is there.

    Members
    -------
    i, o : streams of ``width`` bits
    level : words inside, counted when they come in and when they leave
    """

    def __init__(self, width: int, depth: int, *, registered: bool = True):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"FIFO depth must be a power of two of at least 2, not {depth!r}")
        self.width = width
        self.depth = depth
        self.registered = registered
        super().__init__(
            {
                "i": In(stream.Signature(width)),
                "o": Out(stream.Signature(width)),
                "level": Out(range(depth + 3)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.ram = ram = Ram(width=self.width, depth=self.depth)
        produce = Signal(range(self.depth))
        consume = Signal(range(self.depth))
        stored = Signal(range(self.depth + 1))  # words in the memory proper
        some = Signal()  # there are any
        full = Signal()
        loaded = Signal()  # the memory's output is a word that has not moved on
        move = Signal()

        m.d.comb += [
            self.i.ready.eq(~full),
            ram.write_address.eq(produce),
            ram.write_data.eq(self.i.payload),
            ram.write_enable.eq(self.i.valid & self.i.ready),
            ram.read_address.eq(consume),
            ram.read_enable.eq(some & (~loaded | move)),
        ]
        if self.registered:
            m.d.comb += [
                move.eq(loaded & (~self.o.valid | self.o.ready)),
                self.level.eq(stored + loaded + self.o.valid),
            ]
            with m.If(move):
                m.d.sync += [self.o.payload.eq(ram.read_data), self.o.valid.eq(1)]
            with m.Elif(self.o.ready):
                m.d.sync += self.o.valid.eq(0)
        else:
            m.d.comb += [
                self.o.payload.eq(ram.read_data),
                self.o.valid.eq(loaded),
                move.eq(loaded & self.o.ready),
                self.level.eq(stored + loaded),
            ]
        with m.If(ram.write_enable):
            m.d.sync += produce.eq(produce + 1)
        with m.If(ram.read_enable):
            m.d.sync += [consume.eq(consume + 1), loaded.eq(1)]
        with m.Elif(move):
            m.d.sync += loaded.eq(0)
        with m.If(ram.write_enable & ~ram.read_enable):
            m.d.sync += [stored.eq(stored + 1), some.eq(1), full.eq(stored == self.depth - 1)]
        with m.Elif(ram.read_enable & ~ram.write_enable):
            m.d.sync += [stored.eq(stored - 1), some.eq(stored != 1), full.eq(0)]
        return m
