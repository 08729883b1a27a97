"""Fetches the program and hands each instruction to the queue of its unit."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..bus.burst import BlockLayout, BurstLayout, BurstSplitter
from ..config import INSTRUCTION_BITS, EngineConfig
from ..delay import delay
from ..memory.fifo import BlockFifo
from .isa import HEADER, Opcode, Unit
from .widths import kept_bits, settings_of

__all__ = ["COUNT_BITS", "FetchUnit"]

COUNT_BITS = 20
"""Width of a program's number of instructions."""


class FetchUnit(wiring.Component):
    """Reads ``count`` instructions from word ``program`` of the window on.

    ::

        splitter ──► requests (only what the buffer has room for)
        words ──► buffer ──► register, and whose it is ──► queue of the unit

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    start, program, count : begin; first word; instructions
    request, word, word_valid : to and from the read port
    o : bus words of the instructions of each unit
    idle : everything has been handed on
    illegal : an opcode that no unit executes, or a bit is set that must be zero; two cycles
        after the word has come to the register
    """

    BURST = 16  # words asked for at a time
    BUFFER = 64  # words

    def __init__(self, config: EngineConfig):
        self.config = config
        burst = BurstLayout(config.burst_beats, address_bits=config.word_address_bits)
        super().__init__(
            {
                "start": In(1),
                "program": In(config.word_address_bits),
                "count": In(COUNT_BITS),
                "request": Out(stream.Signature(burst)),
                "word": In(config.bus_bits),
                "word_valid": In(1),
                "o": Out(stream.Signature(config.bus_bits)).array(len(Unit)),
                "idle": Out(1),
                "illegal": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        beats = INSTRUCTION_BITS // config.bus_bits
        burst = min(self.BURST, config.burst_beats)
        block_bits = max(burst, beats).bit_length()
        m.submodules.splitter = splitter = BurstSplitter(
            burst,
            BlockLayout(address_bits=config.word_address_bits, beats_bits=block_bits, row_bits=block_bits),
        )
        m.submodules.buffer = buffer = BlockFifo(config.bus_bits, self.BUFFER, registered=False)

        # Blocks of one burst's worth of instructions, as long as instructions are left.
        left = Signal(COUNT_BITS)  # instructions not yet asked for
        position = Signal(config.word_address_bits)
        per_block = burst // beats if burst >= beats else 1
        few = left <= per_block
        m.d.comb += [
            splitter.i.valid.eq(left != 0),
            splitter.i.payload.memory.eq(position),
            splitter.i.payload.row_beats.eq(per_block * beats),
        ]
        with m.If(few):
            m.d.comb += splitter.i.payload.beats.eq(left[:8] * beats)
        with m.Else():
            m.d.comb += splitter.i.payload.beats.eq(per_block * beats)
        with m.If(splitter.i.valid & splitter.i.ready):
            m.d.sync += position.eq(position + per_block * beats)
            with m.If(few):
                m.d.sync += left.eq(0)
            with m.Else():
                m.d.sync += left.eq(left - per_block)
        with m.If(self.start):
            m.d.sync += [left.eq(self.count), position.eq(self.program)]

        # Room is counted when a burst is asked for and given back when a word is handed on.
        room = Signal(range(self.BUFFER + 1), init=self.BUFFER)
        enough = room >= burst
        asked = self.request.valid & self.request.ready
        handed_on = Signal()
        length = splitter.o.payload.length
        m.d.sync += room.eq(room - (length & asked.replicate(len(length))) + handed_on)
        m.d.comb += [
            self.request.valid.eq(splitter.o.valid & enough),
            self.request.payload.memory.eq(splitter.o.payload.memory),
            self.request.payload.length.eq(length),
            self.request.payload.last.eq(splitter.o.payload.last),
            splitter.o.ready.eq(self.request.ready & enough),
            buffer.i.payload.eq(self.word),
            buffer.i.valid.eq(self.word_valid),
        ]

        kinds = [
            code
            for code in Opcode
            if code.unit is not Unit.COMPUTE or code in (Opcode.COMPUTE, *settings_of(config))
        ]
        # The first word of an instruction says whose it is; the others follow it. That is found out as the
        # word goes to the register, so that no queue waits for it.
        header = Signal(HEADER)
        opcode = header.opcode
        m.d.comb += header.as_value().eq(buffer.o.payload)
        beat = Signal(range(beats)) if beats > 1 else Signal(1)
        first = Signal(init=1)
        unit = Signal(len(Unit))  # one bit for each
        kind = Signal(range(len(kinds)))  # place of the opcode
        known = Cat(opcode == code for code in kinds).any()
        target = Cat((opcode[:2] == index + 1) & known for index in Unit)
        place = Signal.like(kind)
        for position, code in enumerate(kinds):
            with m.If(opcode == code):
                m.d.comb += place.eq(position)

        word = Signal(config.bus_bits, reset_less=True)
        there = Signal()
        whose = Signal(len(Unit))  # none: nothing is there, or it is nobody's
        word_kind = Signal.like(kind, reset_less=True)
        word_beat = Signal.like(beat, reset_less=True)
        # An opcode that there is not stays where it is until the fault has stopped the engine.
        m.d.comb += [
            handed_on.eq((whose & Cat(self.o[index].ready for index in Unit)).any()),
            buffer.o.ready.eq(~there | handed_on),
        ]
        with m.If(buffer.o.ready):
            m.d.sync += [
                there.eq(buffer.o.valid),
                word.eq(buffer.o.payload),
                whose.eq(Mux(first, target, unit) & buffer.o.valid.replicate(len(Unit))),
                word_kind.eq(Mux(first, place, kind)),
                word_beat.eq(beat),
            ]
        with m.If(buffer.o.valid & buffer.o.ready):
            m.d.sync += [beat.eq(beat + 1), first.eq(beat == beats - 1)]
            with m.If(beat == beats - 1):
                m.d.sync += beat.eq(0)
            with m.If(first):
                m.d.sync += [unit.eq(target), kind.eq(place)]
        for index in Unit:
            m.d.comb += [self.o[index].payload.eq(word), self.o[index].valid.eq(whose[index])]
        # A unit's decoder keeps of each field only the bits that this engine needs; all others must be zero.
        # The fault stops the engine before the instruction has come through its queue.
        excess = Array(Signal(name=f"excess_{code.name.lower()}", reset_less=True) for code in kinds)
        for position, code in enumerate(kinds):
            kept = kept_bits(config, code)
            words = [~(kept >> config.bus_bits * i) & (1 << config.bus_bits) - 1 for i in range(beats)]
            masked = [(word_beat == i) & (word & mask).any() for i, mask in enumerate(words)]
            m.d.sync += excess[position].eq(Cat(masked).any())
        checked = delay(m, Cat(there, there & ~whose.any()), 1, "checked", reset_less=False)
        checked_kind = delay(m, word_kind, 1, "checked_kind")
        m.d.sync += self.illegal.eq(checked[1] | (checked[0] & excess[checked_kind]))
        outstanding = room != self.BUFFER
        m.d.comb += self.idle.eq((left == 0) & splitter.i.ready & ~outstanding & ~self.start)
        return m
