"""The load unit: blocks of memory into the scratchpads."""

from amaranth.hdl import Array, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..bus.burst import BlockLayout, BurstLayout, BurstSplitter
from ..config import EngineConfig
from ..sched.isa import Buffer, Opcode
from ..sched.widths import narrow_layout
from .scratchpad import geometries

__all__ = ["LoadUnit"]


class LoadUnit(wiring.Component):
    """Executes LOAD instructions.

    ::

        instruction ─┬─► splitter ──► requests                      asks ahead, instruction after instruction
                     └─► places (a few) ──► walker ◄── words       puts what comes where it belongs

    The requests of one instruction follow those of the previous without waiting for its data, so the bus
    is kept busy (``loads_under_way`` of them); the walker ends an instruction when its last word is in place.

    A word goes to (row, bank), banks first: a scratchpad row is filled before the next one begins.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    i, wait_for, waited, take : instructions and tokens, as in the compute unit
    request : bursts to the read port
    word, word_valid : from the read port
    write_activations, write_weights, write_channels : enables of the scratchpads
    write_tables : the same, in an engine that has tables
    write_row, write_bank, write_data : where and what
    ended, post : an instruction's last word is in place; tokens to give
    idle, illegal : as in the compute unit
    waiting, pending : for the event counters; words are expected
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        self.layout = narrow_layout(config, Opcode.LOAD)
        self.geometries = geometries(config)
        self.row_bits = max(max(1, (pad.rows - 1).bit_length()) for pad in self.geometries.values())
        self.bank_bits = max((pad.banks - 1).bit_length() for pad in self.geometries.values())
        burst = BurstLayout(config.burst_beats, address_bits=config.word_address_bits)
        tables = {"write_tables": Out(1)} if Buffer.TABLES in self.geometries else {}
        super().__init__(
            tables
            | {
                "i": In(stream.Signature(self.layout)),
                "wait_for": Out(3),
                "waited": In(1),
                "take": Out(1),
                "request": Out(stream.Signature(burst)),
                "word": In(config.bus_bits),
                "word_valid": In(1),
                "write_activations": Out(1),
                "write_weights": Out(1),
                "write_channels": Out(1),
                "write_row": Out(self.row_bits),
                "write_bank": Out(self.bank_bits),
                "write_data": Out(config.bus_bits),
                "ended": Out(1),
                "post": Out(3),
                "idle": Out(1),
                "illegal": Out(1),
                "waiting": Out(1),
                "pending": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        instruction = self.i.payload
        m.submodules.splitter = splitter = BurstSplitter(
            config.burst_beats,
            BlockLayout(
                address_bits=config.word_address_bits,
                beats_bits=len(instruction.beats),
                row_bits=len(instruction.row_beats),
            ),
        )

        place_layout = data.StructLayout(
            {
                "buffer": 2,
                "scratch": self.row_bits,
                "beats": len(instruction.beats),
                "post": 3,
            }
        )
        places = Array(
            Signal(place_layout, name=f"place_{index}", reset_less=True)
            for index in range(config.loads_under_way)
        )
        put = Signal(range(config.loads_under_way))
        get = Signal(range(config.loads_under_way))
        held = Signal(range(config.loads_under_way + 1))

        # Instructions
        pads = [self.geometries.get(buffer) for buffer in Buffer]
        beyond = Array(
            instruction.scratch[(pad.rows - 1).bit_length() :].any() if pad else Const(1) for pad in pads
        )
        illegal = (
            (instruction.beats == 0)
            | (instruction.row_beats == 0)
            | beyond[instruction.buffer]
            | instruction.wait[0]
            | instruction.post[0]
        )
        checked = Signal()
        bad = Signal()
        start = Signal()
        m.d.sync += [checked.eq(self.i.valid & ~start), bad.eq(illegal)]
        m.d.comb += [
            self.wait_for.eq(instruction.wait),
            self.illegal.eq(checked & bad),
            start.eq(checked & ~bad & self.waited & splitter.i.ready & (held != config.loads_under_way)),
            self.take.eq(start),
            self.i.ready.eq(start),
            self.waiting.eq(checked & ~self.waited),
            splitter.i.valid.eq(start),
            splitter.i.payload.memory.eq(instruction.memory),
            splitter.i.payload.beats.eq(instruction.beats),
            splitter.i.payload.row_beats.eq(instruction.row_beats),
            splitter.i.payload.stride.eq(instruction.stride),
        ]
        wiring.connect(m, splitter.o, wiring.flipped(self.request))
        with m.If(start):
            m.d.sync += [
                places[put].buffer.eq(instruction.buffer),
                places[put].scratch.eq(instruction.scratch),
                places[put].beats.eq(instruction.beats),
                places[put].post.eq(instruction.post),
                put.eq(put + 1),
            ]

        # Words: the place in force is copied into working registers, a cycle before its first word at the
        # earliest, as the bus takes longer than that to answer.
        active = Signal()
        buffer = Signal(2)
        to_activations = Signal()  # the buffer once more, decoded: write enables go a long way
        to_weights = Signal()
        to_channels = Signal()
        to_tables = Signal()
        row = Signal(self.row_bits)
        bank = Signal(max(1, self.bank_bits))
        last_bank = Signal()
        words_left = Signal.like(instruction.beats)
        last_word = Signal()
        post = Signal(3, name="posted")

        ending = self.word_valid & last_word
        fetch_place = (held != 0) & (~active | ending)
        m.d.comb += [
            self.write_data.eq(self.word),
            self.write_row.eq(row),
            self.write_bank.eq(bank),
            self.write_activations.eq(self.word_valid & to_activations),
            self.write_weights.eq(self.word_valid & to_weights),
            self.write_channels.eq(self.word_valid & to_channels),
            self.pending.eq(active & ~self.word_valid),
            self.idle.eq(~self.i.valid & ~active & (held == 0)),
        ]
        if Buffer.TABLES in self.geometries:
            m.d.comb += self.write_tables.eq(self.word_valid & to_tables)
        banks = [pad.banks if pad else 1 for pad in pads]
        last_banks = Array(count == 1 for count in banks)
        bank_counts = Array(map(Const, banks))
        m.d.sync += self.ended.eq(0)
        with m.If(self.word_valid):
            m.d.sync += [words_left.eq(words_left - 1), last_word.eq(words_left == 2)]
            with m.If(last_bank):
                m.d.sync += [bank.eq(0), row.eq(row + 1), last_bank.eq(last_banks[buffer])]
            with m.Else():
                m.d.sync += [bank.eq(bank + 1), last_bank.eq(bank + 2 == bank_counts[buffer])]
            with m.If(last_word):
                m.d.sync += [active.eq(0), self.ended.eq(1), self.post.eq(post)]
        place = Signal(place_layout)
        m.d.comb += place.eq(places[get])
        with m.If(fetch_place):
            m.d.sync += [
                active.eq(1),
                buffer.eq(place.buffer),
                to_activations.eq(place.buffer == Buffer.ACTIVATIONS),
                to_weights.eq(place.buffer == Buffer.WEIGHTS),
                to_channels.eq(place.buffer == Buffer.CHANNELS),
                to_tables.eq(place.buffer == Buffer.TABLES),
                row.eq(place.scratch),
                bank.eq(0),
                last_bank.eq(last_banks[place.buffer]),
                words_left.eq(place.beats),
                last_word.eq(place.beats == 1),
                post.eq(place.post),
                get.eq(get + 1),
            ]
        with m.If(start & ~fetch_place):
            m.d.sync += held.eq(held + 1)
        with m.Elif(fetch_place & ~start):
            m.d.sync += held.eq(held - 1)
        return m
