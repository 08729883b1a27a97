"""Event counters that share one adder and one small memory."""

from amaranth.hdl import Array, Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..memory.ram import Ram
from .registers import COUNTERS

__all__ = ["EventCounters"]


class EventCounters(wiring.Component):
    """Sixteen 32-bit counters of events that may happen in every cycle.

    Each event has a small counter of its own, which wraps. A pointer visits one event after another and
    brings the event's total in a memory up to date: the total's low bits are the small counter, and it goes
    on by one above them where the small counter has wrapped since the last visit::

        cycle    t                t+1             t+2                            t+3
        pointer  read total[i]    register it     small[i] below, wrapped? +1    write sum to total[i]

    So a counter costs a few LUTs rather than thirty-two, and every event is visited every sixteen cycles,
    before its small counter has gone round. A read is answered when the pointer comes by, with the exact
    count up to that cycle. A snapshot gives all counters in one round, in order: counter *i* as of *i* cycles
    after counter 0.

    Parameters
    ----------
    bus_bits
        Width of a snapshot's words.

    Members
    -------
    events : bit *i* is high in each cycle in which event *i* happens
    clear : start all counters from zero, and forget a snapshot under way
    read, index, value, done : read counter ``index``: hold ``read`` until ``done``, at most 20 cycles, and
        take ``value`` in that cycle
    snapshot : start a snapshot; its words come out at ``o``, ``16 * 32 / bus_bits`` of them
    """

    def __init__(self, bus_bits: int):
        self.bus_bits = bus_bits
        self.count = len(COUNTERS)
        super().__init__(
            {
                "events": In(self.count),
                "clear": In(1),
                "read": In(1),
                "index": In(range(self.count)),
                "value": Out(32),
                "done": Out(1),
                "snapshot": In(1),
                "o": Out(stream.Signature(bus_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = self.count
        m.submodules.totals = totals = Ram(width=32, depth=count)

        pointer = Signal(range(count))
        # Between two visits a small counter gets at most `count` events: fewer than it has values.
        small_bits = count.bit_length()
        small = Array(Signal(small_bits, name=f"small_{i}") for i in range(count))
        m.d.sync += pointer.eq(pointer + 1)
        for counter, event in zip(small, self.events, strict=True):
            m.d.sync += counter.eq(counter + event)

        # During the first round after a clear the memory's old contents count as zero.
        fresh = Signal(range(count + 1), init=count)
        index_3 = Signal(range(count), init=count - 3)  # the pointer of three cycles ago
        small_1 = Signal(small_bits)
        small_2 = Signal(small_bits)
        zero_1 = Signal(init=1)
        old_2 = Signal(32)
        total_3 = Signal(32)
        m.d.sync += [
            small_1.eq(small[pointer]),
            zero_1.eq(fresh != 0),
            small_2.eq(small_1),
            old_2.eq(Mux(zero_1, 0, totals.read_data)),
            index_3.eq(index_3 + 1),
            total_3.eq(Cat(small_2, old_2[small_bits:] + (small_2 < old_2[:small_bits]))),
        ]
        with m.If(fresh != 0):
            m.d.sync += fresh.eq(fresh - 1)
        m.d.comb += [
            totals.read_address.eq(pointer),
            totals.read_enable.eq(1),
            totals.write_address.eq(index_3),
            totals.write_data.eq(total_3),
            totals.write_enable.eq(1),
            self.value.eq(total_3),
            self.done.eq(self.read & (index_3 == self.index)),
        ]

        # Snapshot: one round is copied into a memory, from where it is sent at the bus's pace.
        m.submodules.copy = copy = Ram(width=32, depth=count)
        # The memory's output is the last part of a word, and stays until that has been taken.
        parts = self.bus_bits // 32
        position = Signal(range(count))
        part = Signal(range(max(2, parts)))
        word = Signal(self.bus_bits - 32)
        m.d.comb += [
            copy.write_address.eq(index_3),
            copy.write_data.eq(total_3),
            copy.read_address.eq(position),
            self.o.payload.eq(Cat(word, copy.read_data)),
        ]
        # A clear ends it: after a fault nobody takes the rest of it, and the next run's must be its own.
        sender = Module()
        m.submodules.sender = ResetInserter(self.clear)(sender)
        with sender.FSM():
            with sender.State("IDLE"), sender.If(self.snapshot):
                sender.next = "ALIGN"
            with sender.State("ALIGN"), sender.If(index_3 == count - 1):
                sender.next = "COPY"
            with sender.State("COPY"):
                sender.d.comb += copy.write_enable.eq(1)
                with sender.If(index_3 == count - 1):
                    sender.d.sync += [position.eq(0), part.eq(0)]
                    sender.next = "FETCH"
            with sender.State("FETCH"):
                sender.d.comb += copy.read_enable.eq(1)
                sender.d.sync += position.eq(position + 1)
                with sender.If(part == parts - 1):
                    sender.next = "SEND"
                if parts > 1:
                    with sender.Else():
                        sender.next = "GATHER"
            if parts > 1:
                with sender.State("GATHER"):
                    sender.d.sync += [word.word_select(part, 32).eq(copy.read_data), part.eq(part + 1)]
                    sender.next = "FETCH"
            with sender.State("SEND"):
                sender.d.comb += self.o.valid.eq(1)
                with sender.If(self.o.ready):
                    sender.d.sync += part.eq(0)
                    sender.next = "FETCH"
                    with sender.If(position == 0):
                        sender.next = "IDLE"

        with m.If(self.clear):
            m.d.sync += fresh.eq(count)
            for signal in small:
                m.d.sync += signal.eq(0)
        return m
