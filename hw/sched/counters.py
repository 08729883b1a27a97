"""Event counters that share one adder and one small memory."""

from amaranth.hdl import Array, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..memory.ram import Ram
from .registers import COUNTERS

__all__ = ["EventCounters"]


class EventCounters(wiring.Component):
    """Sixteen 32-bit counters of events that may happen in every cycle.

    Each event has a small counter of its own. A pointer visits one event after another, adds its small
    counter to the event's total in a memory, and starts the small counter anew::

        cycle    t                t+1             t+2                       t+3
        pointer  read total[i]    register it     total + small[i]: sum     write sum to total[i]

    So a counter costs a few LUTs rather than thirty-two, and every event is visited every sixteen cycles,
    before its small counter is full. A read is answered when the pointer comes by, with the exact count up
    to that cycle. A snapshot gives all counters in one round, in order: counter *i* as of *i* cycles after
    counter 0.

    Parameters
    ----------
    bus_bits
        Width of a snapshot's words.

    Members
    -------
    events : bit *i* is high in each cycle in which event *i* happens
    clear : start all counters from zero, and forget a snapshot under way
    read, index, value, done : read counter ``index``: hold ``read`` until ``done``, at most 20 cycles
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
        small = Array(Signal(range(count + 1), name=f"small_{i}") for i in range(count))
        m.d.sync += pointer.eq(pointer + 1)
        for index in range(count):
            visited = pointer == index
            m.d.sync += small[index].eq(Mux(visited, 0, small[index]) + self.events[index])

        # During the first round after a clear the memory's old contents count as zero.
        fresh = Signal(range(count + 1), init=count)
        index_1 = Signal(range(count))
        index_2 = Signal(range(count))
        index_3 = Signal(range(count))
        small_1 = Signal(range(count + 1))
        small_2 = Signal(range(count + 1))
        zero_1 = Signal(init=1)
        old_2 = Signal(32)
        total_3 = Signal(32)
        m.d.sync += [
            index_1.eq(pointer),
            small_1.eq(small[pointer]),
            zero_1.eq(fresh != 0),
            index_2.eq(index_1),
            small_2.eq(small_1),
            old_2.eq(Mux(zero_1, 0, totals.read_data)),
            index_3.eq(index_2),
            total_3.eq(old_2 + small_2),
        ]
        with m.If(fresh != 0):
            m.d.sync += fresh.eq(fresh - 1)
        m.d.comb += [
            totals.read_address.eq(pointer),
            totals.read_enable.eq(1),
            totals.write_address.eq(index_3),
            totals.write_data.eq(total_3),
            totals.write_enable.eq(1),
        ]
        m.d.sync += self.done.eq(0)
        with m.If(self.read & ~self.done & (index_3 == self.index)):
            m.d.sync += [self.value.eq(total_3), self.done.eq(1)]

        # Snapshot: one round is copied into a memory, from where it is sent at the bus's pace.
        m.submodules.copy = copy = Ram(width=32, depth=count)
        parts = self.bus_bits // 32
        position = Signal(range(count))
        part = Signal(range(max(2, parts)))
        word = Signal(self.bus_bits)
        m.d.comb += [
            copy.write_address.eq(index_3),
            copy.write_data.eq(total_3),
            copy.read_address.eq(position),
            copy.read_enable.eq(1),
            self.o.payload.eq(word),
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
                sender.d.sync += position.eq(position + 1)
                sender.next = "GATHER"
            with sender.State("GATHER"):
                sender.d.sync += [word.word_select(part, 32).eq(copy.read_data), part.eq(part + 1)]
                sender.next = "FETCH"
                with sender.If(part == parts - 1):
                    sender.next = "SEND"
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
