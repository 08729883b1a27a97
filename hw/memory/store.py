"""The store unit: results to memory and back to the activation scratchpad, event counters to memory."""

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..bus.burst import BlockLayout, BurstLayout, BurstSplitter
from ..config import EngineConfig
from ..sched.isa import Buffer, Opcode
from ..sched.widths import narrow_layout
from .scratchpad import geometries

__all__ = ["StoreUnit"]


class StoreUnit(wiring.Component):
    """Executes STORE and SNAPSHOT instructions, one at a time.

    ::

        instruction ─┬─► splitter ──► bursts ─► write port
                     └─► reader: output scratchpad or counters ──► register ─┬─► words
                                                                             └─► activation scratchpad

    An instruction ends when the memory has acknowledged its last burst, so that a token it gives to the
    load unit means that the data can be read back. Where the configuration forwards, words may go to the
    activation scratchpad as well, or only; its write port is the load unit's first. There, too, an
    instruction's words lie in rows of ``row_beats``: word ``bank`` of row ``place``, and each that follows
    ``pitch`` scratchpad rows on.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    i, wait_for, waited, take : instructions and tokens, as in the compute unit
    read_enable, read_row, read_data : read port of the output scratchpad, one cycle of latency
    snapshot, counters : start a snapshot of the event counters; its words
    forward, forward_row, forward_bank : write to the activation scratchpad, the payload of `words`; there
        where the configuration forwards
    forward_ready : that port is free
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
        activations = geometries(config)[Buffer.ACTIVATIONS]
        self.banks = activations.banks
        forwarding = {
            "forward": Out(1),
            "forward_row": Out(range(activations.rows)),
            "forward_bank": Out(range(activations.banks)),
            "forward_ready": In(1),
        }
        super().__init__(
            (forwarding if config.forwards else {})
            | {
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

        to_memory: Value = Const(1)  # of the instruction under way
        if self.config.forwards:
            if len(instruction.place) > len(self.forward_row):
                illegal |= instruction.place[len(self.forward_row) :].any()
            if self.banks < 1 << len(instruction.bank):
                illegal |= instruction.bank >= self.banks
            illegal |= instruction.only & ~instruction.forward
            illegal |= counting & instruction.forward
            to_memory = Signal(name="to_memory")

        m.d.sync += [checked.eq(self.i.valid & ~running & ~start), bad.eq(illegal)]
        m.d.comb += [
            self.wait_for.eq(instruction.wait),
            self.illegal.eq(checked & bad),
            start.eq(checked & ~bad & self.waited),
            self.take.eq(start),
            self.waiting.eq(checked & ~self.waited),
            self.idle.eq(~self.i.valid & ~running),
            self.snapshot.eq(start & counting),
            splitter.i.valid.eq(start & ~instruction.only if self.config.forwards else start),
            splitter.i.payload.memory.eq(instruction.memory),
            splitter.i.payload.beats.eq(instruction.beats),
            splitter.i.payload.row_beats.eq(instruction.row_beats),
            splitter.i.payload.stride.eq(instruction.stride),
        ]
        wiring.connect(m, splitter.o, wiring.flipped(self.request))

        sent = ~held | self.words.ready
        free = sent
        kept: Value = Const(0)
        if self.config.forwards:
            kept = Signal(name="kept")  # the register's word has not gone to the activation scratchpad
            free = sent & (~kept | self.forward_ready)
            self._forward(m, instruction, start, kept, move)
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
            m.d.sync += [word.eq(self.read_data), held.eq(to_memory)]
        with m.If(self.counters.valid & self.counters.ready):
            m.d.sync += [word.eq(self.counters.payload), held.eq(1), words_left.eq(words_left - 1)]
        with m.If(self.request.valid & self.request.ready & self.request.payload.last):
            m.d.sync += all_asked.eq(1)

        finish = running & all_asked & (words_left == 0) & ~loaded & ~held & ~kept & self.acknowledged
        m.d.comb += [self.i.ready.eq(finish), self.ended.eq(finish), self.post.eq(instruction.post)]
        with m.If(start):
            m.d.sync += [
                running.eq(1),
                all_asked.eq(instruction.only if self.config.forwards else 0),
                from_counters.eq(counting),
                words_left.eq(instruction.beats),
                row.eq(instruction.scratch),
            ]
        if self.config.forwards:
            with m.If(start):
                m.d.sync += to_memory.eq(~instruction.only)
        with m.If(finish):
            m.d.sync += running.eq(0)
        return m

    def _forward(self, m: Module, instruction: data.View, start: Signal, kept: Signal, move: Signal) -> None:
        """Take words to the activation scratchpad, row of words after row of words."""
        forwards = Signal()
        row = Signal.like(self.forward_row, name="forwarded_row")
        first_row = Signal.like(row)
        pitch = Signal.like(row)
        bank = Signal.like(self.forward_bank, name="forwarded_bank")
        first_bank = Signal.like(bank)
        row_beats = Signal.like(instruction.row_beats)
        left = Signal.like(row_beats)  # of the row of words
        last = Signal()
        m.d.comb += [
            self.forward.eq(kept),
            self.forward_row.eq(row),
            self.forward_bank.eq(bank),
        ]
        next_row = first_row + pitch
        with m.If(kept & self.forward_ready):
            m.d.sync += [kept.eq(0), left.eq(left - 1), last.eq(left == 2)]
            with m.If(bank == self.banks - 1):
                m.d.sync += [bank.eq(0), row.eq(row + 1)]
            with m.Else():
                m.d.sync += bank.eq(bank + 1)
            with m.If(last):
                m.d.sync += [
                    left.eq(row_beats),
                    last.eq(row_beats == 1),
                    row.eq(next_row),
                    first_row.eq(next_row),
                    bank.eq(first_bank),
                ]
        with m.If(move):
            m.d.sync += kept.eq(forwards)
        with m.If(start):
            m.d.sync += [
                forwards.eq(instruction.forward),
                row.eq(instruction.place),
                first_row.eq(instruction.place),
                pitch.eq(instruction.pitch),
                row_beats.eq(instruction.row_beats),
                left.eq(instruction.row_beats),
                last.eq(instruction.row_beats == 1),
            ]
            if self.banks > 1:
                m.d.sync += [bank.eq(instruction.bank), first_bank.eq(instruction.bank)]
