"""What is proved of the units that move blocks between memory and scratchpads."""

from typing import Any

from amaranth.hdl import Cat, Const, Mux, Signal, Value

from bitwright.hw.config import EngineConfig
from bitwright.hw.memory.load import LoadUnit
from bitwright.hw.memory.store import StoreUnit
from bitwright.hw.sched.isa import Buffer, Opcode

from .bench import Bench

__all__ = ["load_unit", "store_unit"]

_SNAPSHOT_BITS = 16 * 32
"""Of the words of all event counters."""


def load_unit(bench: Bench, *, config: EngineConfig, kind: Any = LoadUnit) -> None:
    """An instruction takes as many words as it has beats, and each goes to its row and bank, banks first.

    One instruction is followed, any, behind any others. The splitter, which is proved by itself, is taken
    out, so that requests may be anything; words may come in any cycle in which an instruction that was taken
    two or more cycles before is not complete, as no read port answers sooner.

    Parameters
    ----------
    bench
        Where it is added.
    config
        The engine.
    kind
        The unit.
    """
    m = bench.m
    dut = bench.add(kind(config))
    bench.cut("dut.splitter")
    bench.rest(dut)
    i = dut.i.payload
    bench.assume(bench.stays(dut.i.valid, dut.i.ready, i))
    ahead_most = config.loads_under_way + 1
    beats_bits = len(i.beats)

    # In `done` an instruction's last word is there: its end is told a cycle later.
    last_word = bench.inside("dut.last_word", 1)
    active = bench.inside("dut.active", 1)
    done = dut.word_valid & last_word
    took = dut.i.valid & dut.i.ready
    took_before = bench.before(took)
    under_way = Signal(range(ahead_most + 2))
    m.d.sync += under_way.eq(under_way + took - done)
    bench.assume(~dut.word_valid | (under_way > took_before))

    following, ahead = Signal(), Signal(range(ahead_most + 2))
    left, row, bank = Signal(beats_bits), Signal(dut.row_bits), Signal(max(1, dut.bank_bits))
    buffer, post = Signal(2), Signal(3)
    begin = took & ~following & bench.anything()
    mine = following & (ahead == 0)
    banks = [dut.geometries[each].banks if each in dut.geometries else 1 for each in Buffer]
    last_bank: Value = Const(0)
    for index, count in enumerate(banks):
        last_bank = last_bank | ((buffer == index) & (bank == count - 1))
    with m.If(begin):
        m.d.sync += [
            following.eq(1),
            ahead.eq(under_way - done),
            left.eq(i.beats),
            row.eq(i.scratch),
            bank.eq(0),
            buffer.eq(i.buffer),
            post.eq(i.post),
        ]
    with m.Elif(mine & dut.word_valid):
        m.d.sync += [
            left.eq(left - 1),
            bank.eq(Mux(last_bank, 0, bank + 1)),
            row.eq(row + last_bank),
            following.eq(left != 1),
        ]
    with m.Elif(following & done):
        m.d.sync += ahead.eq(ahead - 1)

    enables = {
        Buffer.ACTIVATIONS: dut.write_activations,
        Buffer.WEIGHTS: dut.write_weights,
        Buffer.CHANNELS: dut.write_channels,
    }
    if Buffer.TABLES in dut.geometries:
        enables[Buffer.TABLES] = dut.write_tables
    written = Cat(enables.values())
    here = mine & dut.word_valid
    bench.claim("nothing is written without a word", dut.word_valid | (written == 0))
    for pad, enable in enables.items():
        bench.claim(
            f"a word goes to {pad.name.lower()} if that is its instruction's",
            ~here | (enable == (buffer == pad)),
        )
    bench.claim("a word that comes is what is written", dut.write_data == dut.word)
    bench.claim("its row follows from its place", ~here | (dut.write_row == row))
    bench.claim("its bank follows from its place", ~here | (dut.write_bank == bank[: len(dut.write_bank)]))
    bench.claim("an instruction's last word is that of its beats", ~here | (done == (left == 1)))
    bench.claim(
        "the end is told in the cycle behind the last word, and not else",
        dut.ended == bench.before(done),
    )
    ends_mine = bench.before(here & (left == 1))
    bench.claim("its tokens are told with it", ~ends_mine | (dut.post == bench.before(post)))
    bench.claim("no more are under way than is stated", under_way <= ahead_most)
    bench.claim("it is idle only when all words are in place", ~dut.idle | (under_way == 0))
    bench.claim(
        "pending is told from two cycles behind an instruction on, while no word comes",
        dut.pending == ((under_way > took_before) & ~dut.word_valid),
    )

    # How it works: a ring of places, in front of it the registers of the one in force.
    slots = config.loads_under_way
    held = bench.inside("dut.held", slots.bit_length())
    put = bench.inside("dut.put", (slots - 1).bit_length())
    get = bench.inside("dut.get", (slots - 1).bit_length())
    own_left = bench.inside("dut.words_left", beats_bits)
    bench.claim("inside: a word waits for no place", active == (under_way > took_before))
    bench.claim("inside: instructions are counted", (held + active == under_way) & (held <= slots))
    bench.claim("inside: places are a ring", put == (get + held)[: len(put)])
    bench.claim("inside: words are counted", last_word == (own_left == 1))
    bench.claim(
        "inside: the followed one is under way",
        ~following | ((ahead < under_way) & (left != 0)),
    )
    within: Value = Const(0)
    for index, count in enumerate(banks):
        within = within | ((buffer == index) & (bank < count))
    bench.claim("inside: the followed one's bank is one of its scratchpad's", ~following | within)
    checked, bad = bench.inside("dut.checked", 1), bench.inside("dut.bad", 1)
    bench.claim("inside: what is checked is there", ~checked | dut.i.valid)
    bench.claim("inside: what is empty is bad", ~checked | bad | ((i.beats != 0) & (i.row_beats != 0)))
    in_force = ~mine | ~active
    for name, width, value in (
        ("buffer", 2, buffer),
        ("row", dut.row_bits, row),
        ("bank", max(1, dut.bank_bits), bank),
        ("words_left", beats_bits, left),
        ("posted", 3, post),
        ("last_bank", 1, last_bank),
    ):
        bench.claim(
            f"inside: {name} is the followed one's", in_force | (bench.inside(f"dut.{name}", width) == value)
        )
    for pad in enables:
        name = f"to_{pad.name.lower()}"
        bench.claim(
            f"inside: {name} is the followed one's",
            in_force | (bench.inside(f"dut.{name}", 1) == (buffer == pad)),
        )
    whole = Cat(buffer, row, left, post)
    for slot in range(slots):
        place = bench.inside(f"dut.place_{slot}", len(whole))
        waits = following & (ahead >= active) & ((get + ahead - active)[: len(get)] == slot)
        bench.claim(f"inside: place {slot} is the followed one's", ~waits | (place == whole) & (bank == 0))
    bench.goal("the followed one has waited for another", here & bench.before(following & (ahead != 0)))
    bench.goal("its last word comes", here & (left == 1) & bench.before(here))


def store_unit(bench: Bench, *, config: EngineConfig, kind: Any = StoreUnit) -> None:
    """As many words as an instruction has beats go out, in order, to where they belong, and then it ends.

    One word of the output scratchpad is followed, any; to memory, its place in the instruction's words is
    that of its row behind the first, and in the activation scratchpad its row and bank are those of a walk
    through rows of words. The splitter, which is proved by itself, is taken out: it asks for anything.

    Parameters
    ----------
    bench
        Where it is added.
    config
        The engine, which forwards.
    kind
        The unit.
    """
    m = bench.m
    dut = bench.add(kind(config))
    bench.cut("dut.splitter")
    bench.rest(dut, dut.read_data)
    i = dut.i.payload
    bits = len(i.beats)
    bench.assume(bench.stays(dut.i.valid, dut.i.ready, i))
    bench.assume(bench.stays(dut.counters.valid, dut.counters.ready, dut.counters.payload))

    # The scratchpad holds something at a row, any; at other rows it may hold anything.
    at, content = bench.constant(dut.row_bits), bench.constant(config.bus_bits)
    last_read = Signal(dut.row_bits)
    with m.If(dut.read_enable):
        m.d.sync += last_read.eq(dut.read_row)
    m.d.comb += dut.read_data.eq(Mux(last_read == at, content, bench.anything(config.bus_bits)))

    # What is under way, and how far it has come
    running, asked = Signal(), Signal()
    read, sent, taken, kept = Signal(bits), Signal(bits), Signal(bits), Signal(bits)
    counting = i.opcode == Opcode.SNAPSHOT
    sends = dut.words.valid & dut.words.ready
    forwards = dut.forward & dut.forward_ready
    counted = dut.counters.valid & dut.counters.ready
    # The counters give as many words as a snapshot has, which is what a legal instruction asks for.
    bench.assume(~dut.counters.valid | (running & counting & (taken < _SNAPSHOT_BITS // config.bus_bits)))
    to_memory, to_pad = ~i.only, i.forward
    with m.If(dut.take):
        m.d.sync += [running.eq(1), asked.eq(~to_memory)]
        m.d.sync += [each.eq(0) for each in (read, sent, taken, kept)]
    with m.Else():
        m.d.sync += [
            read.eq(read + dut.read_enable),
            sent.eq(sent + sends),
            taken.eq(taken + counted),
            kept.eq(kept + forwards),
        ]
        with m.If(dut.request.valid & dut.request.ready & dut.request.payload.last):
            m.d.sync += asked.eq(1)
        with m.If(dut.ended):
            m.d.sync += running.eq(0)
    # The walk through rows of words in the activation scratchpad
    row, first = Signal.like(dut.forward_row), Signal.like(dut.forward_row)
    bank, in_row = Signal.like(dut.forward_bank), Signal.like(i.row_beats)
    with m.If(dut.take):
        m.d.sync += [row.eq(i.place), first.eq(i.place), bank.eq(i.bank), in_row.eq(0)]
    with m.Elif(forwards):
        wraps = bank == dut.banks - 1
        m.d.sync += [in_row.eq(in_row + 1), bank.eq(Mux(wraps, 0, bank + 1)), row.eq(row + wraps)]
        with m.If(in_row == i.row_beats - 1):
            m.d.sync += [in_row.eq(0), bank.eq(i.bank), row.eq(first + i.pitch), first.eq(first + i.pitch)]

    def place(number: Value) -> Value:
        """The output scratchpad's row of the instruction's word of that number."""
        return (i.scratch + number)[: dut.row_bits]

    bench.claim("nothing is done without an instruction", running | ~(dut.words.valid | dut.read_enable))
    bench.claim("nothing is taken while one is under way", ~(running & dut.take))
    bench.claim(
        "a word to memory stays until it is taken",
        bench.stays(dut.words.valid, dut.words.ready, dut.words.payload),
    )
    bench.claim(
        "a word to the scratchpad stays until it is taken",
        bench.stays(dut.forward, dut.forward_ready, dut.words.payload, dut.forward_row, dut.forward_bank),
    )
    bench.claim("rows are read in order", ~dut.read_enable | (dut.read_row == place(read)))
    bench.claim(
        "words to memory are those of the rows, in order",
        ~(dut.words.valid & ~counting & (place(sent) == at)) | (dut.words.payload == content),
    )
    bench.claim(
        "words to the scratchpad are those of the rows, in order",
        ~(dut.forward & (place(kept) == at)) | (dut.words.payload == content),
    )
    bench.claim(
        "counters go to memory as they come",
        ~(bench.before(counted))
        | (dut.words.valid & (dut.words.payload == bench.before(dut.counters.payload))),
    )
    bench.claim("a store takes no counters", ~dut.counters.ready | ~running | counting)
    bench.claim("no more words go to memory than there are beats", ~dut.words.valid | (sent < i.beats))
    bench.claim("no more words go to the scratchpad", ~dut.forward | (kept < i.beats))
    bench.claim("none goes to memory that is only for the scratchpad", ~dut.words.valid | to_memory)
    bench.claim("none goes to the scratchpad that is only for memory", ~dut.forward | to_pad)
    bench.claim("its row in the scratchpad is that of the walk", ~dut.forward | (dut.forward_row == row))
    bench.claim("its bank in the scratchpad is that of the walk", ~dut.forward | (dut.forward_bank == bank))
    bench.claim(
        "an instruction ends when all words have gone, all is asked for and the memory has acknowledged",
        ~dut.ended
        | (
            running
            & asked
            & dut.acknowledged
            & (sent == Mux(to_memory, i.beats, 0))
            & (kept == Mux(to_pad, i.beats, 0))
        ),
    )
    bench.claim("it is idle only when nothing is under way", ~dut.idle | ~running)
    bench.claim("an instruction is taken when it ends", dut.i.ready == dut.ended)

    # How it works
    loaded, held, own_kept = (bench.inside(f"dut.{name}", 1) for name in ("loaded", "held", "kept"))
    own_left, own_row = bench.inside("dut.words_left", bits), bench.inside("dut.row", dut.row_bits)
    word = bench.inside("dut.word", config.bus_bits)
    came = read - loaded  # into the register
    gone = Mux(counting, taken, came)[:bits]
    bench.claim("inside: it runs while the model does", bench.inside("dut.running", 1) == running)
    bench.claim("inside: nothing is held while nothing runs", running | ~(loaded | held | own_kept))
    checked, bad = bench.inside("dut.checked", 1), bench.inside("dut.bad", 1)
    bench.claim("inside: what is checked is there", ~checked | (dut.i.valid & ~running))
    bench.claim(
        "inside: what was checked is legal or known not to be",
        ~checked
        | bad
        | (
            (i.beats != 0)
            & (i.row_beats != 0)
            & (~i.only | i.forward)
            & ~(counting & i.forward)
            & (~counting | (i.beats == _SNAPSHOT_BITS // config.bus_bits))
            & (i.bank < dut.banks)
            & (i.scratch >> dut.row_bits == 0)
        ),
    )
    state = (
        dut.i.valid
        & (i.beats != 0)
        & (i.row_beats != 0)
        & (~i.only | i.forward)
        & ~(counting & i.forward)
        & (~counting | (i.beats == _SNAPSHOT_BITS // config.bus_bits))
        & (i.bank < dut.banks)
        & (i.scratch >> dut.row_bits == 0)
        & (bench.inside("dut.from_counters", 1) == counting)
        & (bench.inside("dut.to_memory", 1) == to_memory)
        & (bench.inside("dut.forwards", 1) == to_pad)
        & (bench.inside("dut.all_asked", 1) == asked)
        & (own_left <= i.beats)
        & ((own_left + Mux(counting, taken, read)) == i.beats)
        & (own_row == place(read))
        & Mux(counting, (read == 0) & ~loaded & ~own_kept, taken == 0)
        & (~loaded | ((read != 0) & (last_read == place(read - 1))))
        & ((sent + held) == Mux(to_memory, gone, 0))
        & ((kept + own_kept) == Mux(to_pad, gone, 0))
        & (to_memory | ~held)
        & (to_pad | ~own_kept)
    )
    bench.claim("inside: the unit is where the model is", ~running | state)
    bench.claim(
        "inside: the register is the word that came last",
        ~(running & ~counting & (held | own_kept) & (place(came - 1) == at)) | (word == content),
    )
    own = {
        "forwarded_row": row,
        "first_row": first,
        "forwarded_bank": bank,
    }
    for name, value in own.items():
        bench.claim(
            f"inside: {name} is that of the walk",
            ~running | (bench.inside(f"dut.{name}", len(value)) == value),
        )
    own_in_row = bench.inside("dut.left", len(in_row))
    bench.claim(
        "inside: words of a row are counted",
        ~running
        | (
            (in_row < i.row_beats)
            & ((own_in_row + in_row) == i.row_beats)
            & (bench.inside("dut.last", 1) == (own_in_row == 1))
            & (bench.inside("dut.row_beats", len(in_row)) == i.row_beats)
            & (bench.inside("dut.first_bank", len(bank)) == i.bank)
            & (bench.inside("dut.pitch", len(row)) == i.pitch[: len(row)])
        ),
    )
    bench.goal("words go to both at once", sends & forwards)
    bench.goal("an instruction of several rows of words ends", dut.ended & (first != i.place) & (kept > 2))
    bench.goal("counters go to memory", sends & counting)
