"""What is proved of instructions: fetching, decoding, tokens, and that well-formed programs never lock up."""

from typing import Any

from amaranth.hdl import Cat, Const, Mux, Signal, Value

from bitwright.hw.bus.axi4 import ReadPort
from bitwright.hw.config import INSTRUCTION_BITS, EngineConfig
from bitwright.hw.sched.decode import InstructionDecoder
from bitwright.hw.sched.fetch import FetchUnit
from bitwright.hw.sched.isa import LAYOUTS, Opcode, Unit
from bitwright.hw.sched.tokens import TokenBank
from bitwright.hw.sched.widths import narrow_layout

from .bench import Bench

__all__ = ["decoder", "fetch", "read_arbiter", "schedule", "tokens"]

_PAIRS = [(giver, taker) for taker in Unit for giver in Unit if giver != taker]


def tokens(bench: Bench, *, limit: int, kind: Any = TokenBank) -> None:
    """Tokens are counted exactly, none is taken that is not there, and one too many is told.

    Parameters
    ----------
    bench
        Where it is added.
    limit
        As of the bank.
    kind
        The bank.
    """
    m = bench.m
    dut = bench.add(kind(limit))
    bench.rest(dut)
    lost = Signal()  # a token was one too many: a fault, behind which nothing is claimed until the next reset
    beyond: list[Value] = []
    for taker in Unit:
        # A unit starts only when it is told that it may.
        bench.assume(~dut.take[taker] | dut.waited[taker])
        bench.claim(
            f"{taker.name.lower()} may start when it lacks no token",
            dut.waited[taker] == ~dut.lacking[taker].any(),
        )
    for giver, taker in _PAIRS:
        given = dut.give[giver] & dut.post[giver][taker]
        taken = dut.take[taker] & dut.wait_for[taker][giver]
        count = Signal(range(limit + 1), name=f"{giver.name}_to_{taker.name}".lower())
        m.d.sync += count.eq(count + given - taken)
        name = f"from {giver.name.lower()} to {taker.name.lower()}"
        own = f"{giver.name}_{taker.name}".lower()
        bench.claim(
            f"inside: tokens {name} are counted",
            lost
            | (bench.inside(f"dut.count_{own}", len(count)) == count)
            & (bench.inside(f"dut.present_{own}", 1) == (count != 0)),
        )
        bench.claim(
            f"a token {name} is lacking when it is needed and there is none",
            lost | (dut.lacking[taker][giver] == (dut.wait_for[taker][giver] & (count == 0))),
        )
        bench.claim(f"no token {name} is taken that is not there", lost | ~taken | (count != 0))
        beyond.append(given & ~taken & (count == limit))
    over = Cat(beyond).any()
    m.d.sync += lost.eq(lost | over)
    bench.claim(
        "a token too many is told in the next cycle, and nothing else is",
        bench.before(lost) | (dut.overflow == bench.before(over)),
    )
    if limit < 8:  # otherwise it takes as many cycles to get there
        bench.goal("a token is one too many", over & ~lost)
    bench.goal(
        "all three take tokens at once",
        Cat(dut.take[unit] & dut.wait_for[unit].any() for unit in Unit).all() & ~lost,
    )


def schedule(bench: Bench, *, window: int, queued: int, limit: int, kind: Any = TokenBank) -> None:
    """Three units, as slow as they like, at a real token bank: a well-formed program never locks up.

    Instructions come in the order of the program, each for one unit, and wait in its queue; of each unit they
    run one at a time and in order. A unit begins at any time at which its tokens are there, and takes as long
    as it likes. Well-formed is what the mapper makes: every token that an instruction takes has been given by
    one in front of it in the program and taken by none since, so that the program could run one instruction
    after the other; and of a pair's tokens, at most ``limit - queued`` are untaken at any place of the
    program.

    The oldest instruction that has not ended is then running or may start, always; so every one ends, in
    whatever order units are slow. And no token is ever one too many.

    Parameters
    ----------
    bench
        Where it is added.
    window
        Instructions between the oldest that has not ended and the newest that has been fetched, both counted.
    queued
        Instructions of a unit that can have been fetched and not begun.
    limit
        Of the bank.
    kind
        The bank.
    """
    m = bench.m
    dut = bench.add(kind(limit))
    entries = range(window)
    unit = [Signal(range(len(Unit)), name=f"unit_{i}") for i in entries]
    wait = [Signal(len(Unit), name=f"wait_{i}") for i in entries]
    post = [Signal(len(Unit), name=f"post_{i}") for i in entries]
    begun = [Signal(name=f"begun_{i}") for i in entries]
    ended = [Signal(name=f"ended_{i}") for i in entries]
    used = Signal(range(window + 1))

    there = [Value.cast(used > i) for i in entries]
    starts, ends = [], []
    running = []
    for me in Unit:
        mine = [there[i] & (unit[i] == me) for i in entries]
        running.append(Cat(mine[i] & begun[i] & ~ended[i] for i in entries).any())
    # The next of each unit, and whether it begins, or the running one ends.
    bench.rest(dut, *dut.wait_for, *dut.take, *dut.give, *dut.post)
    for me in Unit:
        mine = [there[i] & (unit[i] == me) for i in entries]
        waiting = [mine[i] & ~begun[i] for i in entries]
        head = [waiting[i] & ~Cat(waiting[:i]).any() if i else waiting[i] for i in entries]
        go = Signal(name=f"go_{me}")
        end = Signal(name=f"end_{me}")
        m.d.comb += [
            dut.wait_for[me].eq(_any_of(head, wait)),
            go.eq(bench.anything() & ~running[me] & Cat(head).any() & dut.waited[me]),
            dut.take[me].eq(go),
            end.eq(bench.anything() & running[me]),
            dut.give[me].eq(end),
            dut.post[me].eq(_any_of([mine[i] & begun[i] & ~ended[i] for i in entries], post)),
        ]
        starts.append([head[i] & go for i in entries])
        ends.append([mine[i] & begun[i] & ~ended[i] & end for i in entries])
    begins = [Cat(starts[me][i] for me in Unit).any() for i in entries]
    finishes = [Cat(ends[me][i] for me in Unit).any() for i in entries]

    counts = {}
    for giver, taker in _PAIRS:
        width = limit.bit_length()
        counts[giver, taker] = bench.inside(f"dut.count_{giver.name}_{taker.name}".lower(), width)
        bench.claim(
            f"inside: tokens from {giver.name.lower()} to {taker.name.lower()} are there if they are counted",
            bench.inside(f"dut.present_{giver.name}_{taker.name}".lower(), 1) == (counts[giver, taker] != 0),
        )

    def untaken(giver: Unit, taker: Unit, place: int) -> Value:
        """Tokens of a pair that the program has given and not taken in front of a place."""
        given = sum(
            (there[i] & (unit[i] == giver) & ~ended[i] & post[i][taker] for i in range(place)), Const(0)
        )
        taken = sum(
            (there[i] & (unit[i] == taker) & ~begun[i] & wait[i][giver] for i in range(place)), Const(0)
        )
        return (counts[giver, taker] + given - taken).as_signed()

    # Fetching, at the end of the window
    fetched = Signal()
    new_unit, new_wait, new_post = bench.anything(range(len(Unit))), bench.anything(3), bench.anything(3)
    bench.assume(new_unit != len(Unit))
    of_unit = [sum((there[i] & (unit[i] == me) & ~begun[i] for i in entries), Const(0)) for me in Unit]
    m.d.comb += fetched.eq(
        bench.anything()
        & (used != window)
        & Cat((new_unit != me) | (of_unit[me] < queued) for me in Unit).all()
    )
    for giver, taker in _PAIRS:
        before = untaken(giver, taker, window)
        bench.assume(~(fetched & (new_unit == taker) & new_wait[giver]) | (before >= 1))
        bench.assume(~(fetched & (new_unit == giver) & new_post[taker]) | (before < limit - queued))
    for me in Unit:
        bench.assume(~(fetched & (new_unit == me)) | ~(new_wait[me] | new_post[me]))

    # The oldest leaves when it has ended.
    leaves = there[0] & ended[0]
    m.d.sync += used.eq(used + fetched - leaves)
    for i in entries:
        fills = fetched & (used - leaves == i)
        for signals, new in ((unit, new_unit), (wait, new_wait), (post, new_post)):
            following = signals[i + 1] if i + 1 < window else signals[i]
            m.d.sync += signals[i].eq(Mux(fills, new, Mux(leaves, following, signals[i])))
        for signals, happens in ((begun, begins), (ended, finishes)):
            now = [signals[j] | happens[j] for j in entries]
            following = now[i + 1] if i + 1 < window else Const(0)
            m.d.sync += signals[i].eq(Mux(fills, 0, Mux(leaves, following, now[i])))

    for giver, taker in _PAIRS:
        name = f"from {giver.name.lower()} to {taker.name.lower()}"
        for i in entries:
            bench.claim(
                f"inside: what instruction {i} takes {name} is given in front of it",
                ~(there[i] & (unit[i] == taker) & ~begun[i] & wait[i][giver])
                | (untaken(giver, taker, i) >= 1),
            )
        bench.claim(
            f"inside: tokens {name} are as few as the program says",
            (untaken(giver, taker, window) <= limit - queued) & (untaken(giver, taker, window) >= 0),
        )
    for i in entries:
        bench.claim(f"inside: instruction {i} ended only if it began", ~ended[i] | begun[i] | ~there[i])
        bench.claim(
            f"inside: instruction {i} is of a unit",
            ~there[i]
            | ((unit[i] != 3) & ~Cat((unit[i] == me) & (wait[i][me] | post[i][me]) for me in Unit).any()),
        )
        for j in range(i):
            bench.claim(
                f"inside: {j} begins before {i} of the same unit",
                ~(there[i] & (unit[i] == unit[j]) & begun[i]) | (begun[j] & ended[j]),
            )
    for me in Unit:
        bench.claim(f"inside: no more of {me.name.lower()} wait than fit", of_unit[me] <= queued)
    bench.claim("inside: the window holds what it can", used <= window)
    may_start = Cat((unit[0] == me) & dut.waited[me] for me in Unit).any()
    bench.claim(
        "the oldest instruction has ended, is running, or may start",
        ~there[0] | ended[0] | begun[0] | may_start,
    )
    bench.claim("no token is one too many", ~dut.overflow)
    bench.claim(
        "inside: counts stay within the limit", Cat(count <= limit for count in counts.values()).all()
    )
    bench.claim(
        "inside: no token too many is on its way",
        ~Cat(
            bench.inside(f"dut.excess_{g.name}_{t.name}".lower(), 1)
            & ~bench.inside(f"dut.taken_{g.name}_{t.name}".lower(), 1)
            for g, t in _PAIRS
        ).any(),
    )
    bench.goal("the window is full", used == window)
    bench.goal("all three units run", running[0] & running[1] & running[2])
    bench.goal(
        "an instruction that waits for a token begins", Cat(begins[i] & wait[i].any() for i in entries).any()
    )


def _any_of(chosen: list[Value], values: list[Signal]) -> Value:
    """That value which is chosen, 0 where none is."""
    result: Value = Const(0)
    for choice, value in zip(chosen, values, strict=True):
        result = result | Mux(choice, value, 0)
    return result


def fetch(bench: Bench, *, config: EngineConfig, kind: Any = FetchUnit) -> None:
    """The fetch unit asks only for what its buffer has room for, and is idle only when all is handed on.

    Any words may come; the buffer's memory is taken out, so that it puts out anything.

    Parameters
    ----------
    bench
        Where it is added.
    config
        The engine.
    kind
        The unit.
    """
    dut = bench.add(kind(config))
    bench.cut("dut.buffer.ram")
    bench.rest(dut)
    length = dut.request.payload.length
    asked = dut.request.valid & dut.request.ready
    outstanding = Signal(range(dut.BUFFER + 1))
    bench.m.d.sync += outstanding.eq(outstanding + Mux(asked, length, 0) - dut.word_valid)
    bench.assume(~dut.word_valid | (outstanding != 0))
    there = bench.inside("dut.there", 1)
    level = bench.inside("dut.buffer.level", (dut.BUFFER + 2).bit_length()) + there
    room = bench.inside("dut.room", (dut.BUFFER).bit_length())
    burst = min(dut.BURST, config.burst_beats)
    given = bench.inside("dut.splitter.o__valid", 1)
    bench.claim("inside: a burst is as long as it may be", ~given | (length <= burst))
    bench.claim(
        "inside: room is what is neither asked for nor inside", room + outstanding + level == dut.BUFFER
    )
    ready = bench.inside("dut.buffer.i__ready", 1)
    bench.claim("a word that comes finds room", ~dut.word_valid | ready)
    stored, full, some = (
        bench.inside(f"dut.buffer.{name}", bits)
        for name, bits in (("stored", dut.BUFFER.bit_length()), ("full", 1), ("some", 1))
    )
    bench.claim(
        "inside: the buffer's flags",
        (full == (stored == dut.BUFFER)) & (some == (stored != 0)) & (stored <= dut.BUFFER),
    )
    bench.claim(
        "a request stays until it is taken",
        bench.stays(dut.request.valid, dut.request.ready, dut.request.payload) | bench.before(dut.start),
    )
    offered = Cat(port.valid for port in dut.o)
    unit = bench.inside("dut.unit", len(offered))
    bench.claim("inside: an instruction is of one unit", (unit & (unit - 1))[: len(unit)] == 0)
    bench.claim("inside: what is offered is there", there | (offered == 0))
    bench.claim("a word goes to one unit", (offered & (offered - 1))[: len(offered)] == 0)
    for index, port in enumerate(dut.o):
        bench.claim(
            f"a word for unit {index} stays until it is taken",
            bench.stays(port.valid, port.ready, port.payload),
        )
    taken = Cat(port.valid & port.ready for port in dut.o).any()
    bench.claim(
        "idle means that nothing is asked for or inside",
        ~dut.idle | ((outstanding == 0) & (level == 0) & ~dut.request.valid),
    )
    bench.goal("the buffer is full of what has been asked for", (outstanding + level) > dut.BUFFER - burst)
    bench.goal("a word is handed on", taken)


def read_arbiter(bench: Bench, *, config: EngineConfig, cycles: int, kind: Any = ReadPort) -> None:
    """The fetch unit goes first at the read port, and the load unit is not starved for it.

    Parameters
    ----------
    bench
        Where it is added.
    config
        The engine.
    cycles
        In how many cycles a request of the load unit is taken while the bus takes an address in every cycle.
    kind
        The port.
    """
    unit = bench.add(FetchUnit(config), "fetch")
    bench.cut("fetch.buffer.ram")
    port = bench.add(
        kind(bus_bits=config.bus_bits, burst_beats=config.burst_beats, address_bits=config.word_address_bits)
    )
    m = bench.m
    first, second = port.request
    m.d.comb += [
        first.valid.eq(unit.request.valid),
        first.payload.eq(unit.request.payload),
        unit.request.ready.eq(first.ready),
        unit.word.eq(port.data),
        unit.word_valid.eq(port.valid[0]),
    ]
    bench.rest(unit, unit.request.ready, unit.word, unit.word_valid)
    bench.rest(port, first.valid, first.payload)
    many = bench.inside("dut.many", 1)
    waits = second.valid & port.m_arready & ~many
    bench.claim(f"the load unit waits at most {cycles} cycles", bench.soon(waits, second.ready, cycles))
    bench.goal(
        "the load unit waits for the fetch unit",
        bench.before(waits & ~second.ready) & first.valid & first.ready & waits,
    )


def decoder(bench: Bench, *, config: EngineConfig, opcode: Opcode, kind: Any = InstructionDecoder) -> None:
    """Fields of an instruction are those of its words, in order, whatever the gaps between them.

    Parameters
    ----------
    bench
        Where it is added.
    config
        The engine.
    opcode
        Of an instruction that a unit executes, and whose decoder knows no others.
    kind
        The decoder.
    """
    m = bench.m
    narrow = narrow_layout(config, opcode)
    dut = bench.add(kind(bus_bits=config.bus_bits, layout=LAYOUTS[opcode], narrow=narrow))
    bench.rest(dut)
    words = INSTRUCTION_BITS // config.bus_bits
    whole = Signal(INSTRUCTION_BITS)
    count = Signal(range(words + 1))
    took, gave = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
    with m.If(took):
        m.d.sync += [
            whole.word_select(count[: (words - 1).bit_length()], config.bus_bits).eq(dut.i.payload),
            count.eq(count + 1),
        ]
    with m.If(gave):
        m.d.sync += count.eq(0)
    for name, field in LAYOUTS[opcode]:
        if str(name).startswith("_") or not narrow[name].width:
            continue
        kept = Value.cast(dut.o.payload[name])
        came = whole[field.offset : field.offset + len(kept)]
        bench.claim(
            f"{name} is what came",
            (count <= field.offset // config.bus_bits) | (kept == came),
        )
    bench.claim("an instruction is on offer when all of its words have come", dut.o.valid == (count == words))
    bench.claim(
        "inside: words are counted",
        bench.inside("dut.count", (words - 1).bit_length()) == count[: (words - 1).bit_length()],
    )
    bench.claim("no word of the next one is taken before that", ~took | (count != words))
    bench.claim("words are taken at once otherwise", dut.i.ready == (count != words))
    bench.claim(
        "an instruction stays until it is taken", bench.stays(dut.o.valid, dut.o.ready, dut.o.payload)
    )
    bench.claim("idle means that no part of one is held", dut.idle == (count == 0))
    bench.goal("an instruction is taken", gave)
