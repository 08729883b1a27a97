"""Gathers an instruction from the bus words of a queue."""

from collections.abc import Mapping

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import INSTRUCTION_BITS
from .isa import HEADER, Opcode

__all__ = ["InstructionDecoder"]


class InstructionDecoder(wiring.Component):
    """Collects ``256 / bus_bits`` words, lowest first, and holds the instruction until it is taken.

    Of each field only the low bits that the engine needs are kept; that the others are zero has been checked
    where the instruction was fetched.

    An instruction that only sets things is not handed on: its fields go to registers and stay there until the
    next one of its kind. Its words come in when the instruction before it has been taken, and while `hold`
    is low. Where there are such instructions, words go through a register, with a flag that says what they
    are, and `hold` through another: whether a word is taken does not hang on what the queue's memory puts out
    in that cycle. So `hold` must be high in the cycle in which the instruction before is taken.

    Parameters
    ----------
    bus_bits
        Width of a queue's word.
    layout
        Where each field lies.
    narrow
        The same fields as wide as they are kept.
    settings
        Layout and narrow layout of each kind of instruction that sets things; none unless given.

    Members
    -------
    i : words of the queue
    o : instructions, payload in the narrow layout, stable while valid
    geometry, window, ... : what the last instruction of each kind that sets things has set
    hold : such instructions wait; there where there are any
    idle : no part of an instruction is held
    """

    def __init__(
        self,
        *,
        bus_bits: int,
        layout: data.StructLayout,
        narrow: data.StructLayout,
        settings: Mapping[Opcode, tuple[data.StructLayout, data.StructLayout]] | None = None,
    ):
        self.bus_bits = bus_bits
        self.layout = layout
        self.narrow = narrow
        self.settings = settings or {}
        members = {
            "i": In(stream.Signature(bus_bits)),
            "o": Out(stream.Signature(narrow)),
            "idle": Out(1),
        }
        for opcode, (_, kept) in self.settings.items():
            members |= {opcode.name.lower(): Out(kept), "hold": In(1)}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = INSTRUCTION_BITS // self.bus_bits
        count = Signal(range(words))
        full = Signal()
        take = self.i.valid & self.i.ready
        word: Value = self.i.payload
        instruction = Signal(self.narrow, reset_less=True)
        m.d.comb += [
            self.o.valid.eq(full),
            self.o.payload.eq(instruction),
        ]
        waits: Value = Const(0)

        def keep(layout: data.StructLayout, narrow: data.StructLayout, target: data.View) -> None:
            for name, field in narrow:
                # No field lies across a multiple of 32 bits, so each is in one word.
                offset = layout[name].offset
                place, low = divmod(offset, self.bus_bits)
                with m.If(count == place):
                    m.d.sync += target[name].eq(word[low : low + field.width])

        sets: Value = Const(0)
        if not self.settings:
            m.d.comb += self.i.ready.eq(~full)
        else:
            # The first word says which kind it is; the others follow it.
            word = Signal(self.bus_bits, name="word", reset_less=True)
            waits = Signal(name="word_waits")
            come = Signal.like(count)  # words of the instruction that have come
            header = Signal(HEADER)
            m.d.comb += header.as_value().eq(self.i.payload)
            opcode = Signal.like(header.opcode)
            sets = Signal()
            hold = Signal()
            m.d.sync += hold.eq(self.hold)
            take = waits & ~full & ~(sets & hold)
            m.d.comb += self.i.ready.eq(~waits | take)
            with m.If(self.i.ready):
                m.d.sync += waits.eq(self.i.valid)
            with m.If(self.i.valid & self.i.ready):
                m.d.sync += [word.eq(self.i.payload), come.eq(Mux(come == words - 1, 0, come + 1))]
                with m.If(come == 0):
                    kinds = Cat(header.opcode == code for code in self.settings)
                    m.d.sync += [opcode.eq(header.opcode), sets.eq(kinds.any())]
            for code, (layout, kept) in self.settings.items():
                settings = Signal(kept, name=code.name.lower())
                m.d.comb += getattr(self, code.name.lower()).eq(settings)
                with m.If(take & (opcode == code)):
                    keep(layout, kept, settings)
        with m.If(take & ~sets):
            keep(self.layout, self.narrow, instruction)

        m.d.comb += self.idle.eq(~full & (count == 0) & ~waits)
        with m.If(full & self.o.ready):
            m.d.sync += full.eq(0)
        with m.If(take):
            m.d.sync += count.eq(count + 1)
            with m.If(count == words - 1):
                m.d.sync += [full.eq(~sets), count.eq(0)]
        return m
