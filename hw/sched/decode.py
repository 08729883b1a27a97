"""Gathers an instruction from the bus words of a queue."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import INSTRUCTION_BITS

__all__ = ["InstructionDecoder"]


class InstructionDecoder(wiring.Component):
    """Collects ``256 / bus_bits`` words, lowest first, and holds the instruction until it is taken.

    Of each field only the low bits that the engine needs are kept; that the others are zero has been checked
    where the instruction was fetched.

    Parameters
    ----------
    bus_bits
        Width of a queue's word.
    layout
        Where each field lies.
    narrow
        The same fields as wide as they are kept.

    Members
    -------
    i : words of the queue
    o : instructions, payload in the narrow layout, stable while valid
    idle : no part of an instruction is held
    """

    def __init__(self, *, bus_bits: int, layout: data.StructLayout, narrow: data.StructLayout):
        self.bus_bits = bus_bits
        self.layout = layout
        self.narrow = narrow
        super().__init__(
            {
                "i": In(stream.Signature(bus_bits)),
                "o": Out(stream.Signature(narrow)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = INSTRUCTION_BITS // self.bus_bits
        count = Signal(range(words))
        full = Signal()
        take = self.i.valid & self.i.ready
        instruction = Signal(self.narrow, reset_less=True)
        m.d.comb += [
            self.i.ready.eq(~full),
            self.o.valid.eq(full),
            self.o.payload.eq(instruction),
            self.idle.eq(~full & (count == 0)),
        ]
        with m.If(take):
            for name, field in self.narrow:
                # No field lies across a multiple of 32 bits, so each is in one word.
                offset = self.layout[name].offset
                word, low = divmod(offset, self.bus_bits)
                with m.If(count == word):
                    m.d.sync += instruction[name].eq(self.i.payload[low : low + field.width])

        with m.If(full & self.o.ready):
            m.d.sync += full.eq(0)
        with m.If(take):
            m.d.sync += count.eq(count + 1)
            with m.If(count == words - 1):
                m.d.sync += [full.eq(1), count.eq(0)]
        return m
