"""Gathers an instruction from the bus words of a queue."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import INSTRUCTION_BITS

__all__ = ["InstructionDecoder"]


class InstructionDecoder(wiring.Component):
    """Collects ``256 / bus_bits`` words, lowest first, and holds the instruction until it is taken.

    A word is kept only in the bits that the layout's fields use; synthesis drops the rest.

    Parameters
    ----------
    bus_bits
        Width of a queue's word.
    layout
        How to present the instruction.

    Members
    -------
    i : words of the queue
    o : instructions; the payload is stable while valid
    idle : no part of an instruction is held
    """

    def __init__(self, *, bus_bits: int, layout: data.StructLayout):
        self.bus_bits = bus_bits
        self.layout = layout
        super().__init__(
            {
                "i": In(stream.Signature(bus_bits)),
                "o": Out(stream.Signature(layout)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = INSTRUCTION_BITS // self.bus_bits
        held = Signal(INSTRUCTION_BITS, reset_less=True)
        count = Signal(range(words))
        full = Signal()
        m.d.comb += [
            self.i.ready.eq(~full),
            self.o.valid.eq(full),
            self.o.payload.eq(held),
            self.idle.eq(~full & (count == 0)),
        ]
        with m.If(full & self.o.ready):
            m.d.sync += full.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [held.word_select(count, self.bus_bits).eq(self.i.payload), count.eq(count + 1)]
            with m.If(count == words - 1):
                m.d.sync += [full.eq(1), count.eq(0)]
        return m
