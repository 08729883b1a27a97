"""The store unit: the output scratchpad, and snapshots of the event counters, to memory."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..bus.burst import BlockLayout, BurstLayout, BurstSplitter
from ..config import EngineConfig
from ..sched.isa import Opcode
from ..sched.widths import narrow_layout

__all__ = ["StoreUnit"]


class StoreUnit(wiring.Component):
    """Executes STORE and SNAPSHOT instructions, one at a time.

    ::

        instruction ─┬─► splitter ──► bursts ─► write port
                     └─► reader: output scratchpad or counters ──► words

    An instruction ends when the memory has acknowledged its last burst, so that a token it gives to the
    load unit means that the data can be read back.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    i, wait_for, waited, take : instructions and tokens, as in the compute unit
    read_enable, read_row, read_data : read port of the output scratchpad, one cycle of latency
    snapshot, counters : start a snapshot of the event counters; its words
    request, words : to the write port
    acknowledged : the write port has nothing under way
    ended, post, idle, illegal : as in the compute unit
    waiting : for the event counters
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        self.layout = narrow_layout(config, Opcode.STORE)
        burst = BurstLayout(config.burst_beats, address_bits=config.word_address_bits)
        self.row_bits = (config.output_depth - 1).bit_length()
        super().__init__(
            {
                "i": In(stream.Signature(self.layout)),
                "wait_for": Out(3),
                "waited": In(1),
                "take": Out(1),
                "read_enable": Out(1),
                "read_row": Out(self.row_bits),
                "read_data": In(config.bus_bits),
                "snapshot": Out(1),
                "counters": In(stream.Signature(config.bus_bits)),
                "request": Out(stream.Signature(burst)),
                "words": Out(stream.Signature(config.bus_bits)),
                "acknowledged": In(1),
                "ended": Out(1),
                "post": Out(3),
                "idle": Out(1),
                "illegal": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        instruction = self.i.payload
        m.submodules.splitter = splitter = BurstSplitter(
            self.config.burst_beats,
            BlockLayout(
                address_bits=self.config.word_address_bits,
                beats_bits=len(instruction.beats),
                row_bits=len(instruction.row_beats),
            ),
        )

        counting = instruction.opcode == Opcode.SNAPSHOT
        snapshot_words = 16 * 32 // self.config.bus_bits
        illegal = (
            (instruction.beats == 0)
            | (instruction.row_beats == 0)
            | instruction.scratch[self.row_bits :].any()
            | instruction.wait[2]
            | instruction.post[2]
            | (counting & (instruction.beats != snapshot_words))
        )
        checked = Signal()
        bad = Signal()
        start = Signal()
        running = Signal()
        from_counters = Signal()
        words_left = Signal.like(instruction.beats)
        all_asked = Signal()  # the splitter has given its last burst
        row = Signal(self.row_bits)
        loaded = Signal()  # the scratchpad's output is a word that has not moved on
        word = Signal(self.config.bus_bits, reset_less=True)
        held = Signal()  # the register behind it is a word not yet sent
        move = Signal()

        m.d.sync += [checked.eq(self.i.valid & ~running & ~start), bad.eq(illegal)]
        m.d.comb += [
            self.wait_for.eq(instruction.wait),
            self.illegal.eq(checked & bad),
            start.eq(checked & ~bad & self.waited),
            self.take.eq(start),
            self.waiting.eq(checked & ~self.waited),
            self.idle.eq(~self.i.valid & ~running),
            self.snapshot.eq(start & counting),
            splitter.i.valid.eq(start),
            splitter.i.payload.memory.eq(instruction.memory),
            splitter.i.payload.beats.eq(instruction.beats),
            splitter.i.payload.row_beats.eq(instruction.row_beats),
            splitter.i.payload.stride.eq(instruction.stride),
        ]
        wiring.connect(m, splitter.o, wiring.flipped(self.request))

        free = ~held | self.words.ready
        m.d.comb += [
            self.words.payload.eq(word),
            self.words.valid.eq(held),
            self.counters.ready.eq(from_counters & free),
            self.read_row.eq(row),
            move.eq(loaded & free),
            self.read_enable.eq(running & ~from_counters & (words_left != 0) & (~loaded | move)),
        ]
        with m.If(self.read_enable):
            m.d.sync += [row.eq(row + 1), words_left.eq(words_left - 1), loaded.eq(1)]
        with m.Elif(move):
            m.d.sync += loaded.eq(0)
        with m.If(self.words.ready):
            m.d.sync += held.eq(0)
        with m.If(move):
            m.d.sync += [word.eq(self.read_data), held.eq(1)]
        with m.If(self.counters.valid & self.counters.ready):
            m.d.sync += [word.eq(self.counters.payload), held.eq(1), words_left.eq(words_left - 1)]
        with m.If(self.request.valid & self.request.ready & self.request.payload.last):
            m.d.sync += all_asked.eq(1)

        finish = running & all_asked & (words_left == 0) & ~loaded & ~held & self.acknowledged
        m.d.comb += [self.i.ready.eq(finish), self.ended.eq(finish), self.post.eq(instruction.post)]
        with m.If(start):
            m.d.sync += [
                running.eq(1),
                all_asked.eq(0),
                from_counters.eq(counting),
                words_left.eq(instruction.beats),
                row.eq(instruction.scratch),
            ]
        with m.If(finish):
            m.d.sync += running.eq(0)
        return m
