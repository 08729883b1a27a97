"""One result of several, before they are stored: the greatest of a window, or a sum by tables."""

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import TABLE_BITS, TABLE_ENTRIES, EngineConfig
from ..delay import delay
from ..emission import share
from ..formats import Bipolar
from ..memory.lut_ram import LutRam
from ..memory.scratchpad import Geometry, Scratchpad, geometries
from ..sched.isa import Buffer, Combine
from ..storage import Storage
from .packer import chosen

__all__ = ["FRACTION", "Combiner"]

FRACTION = 20
"""Bits behind the point of a table's entries."""

_INDEX_BITS = (TABLE_ENTRIES - 1).bit_length()


def _is_signed(storage: Storage) -> bool:
    """Whether a code, taken as two's complement, orders as its value does; otherwise it does as it is.

    The ternary codes are those of two bits of two's complement, and bipolar ones are greater if set.
    """
    plus_minus = isinstance(storage.format, Bipolar) and storage.bits == 1
    return storage.format.min < 0 and not plus_minus


class _Lane(wiring.Component):
    """One lane of a :class:`Combiner`, whose members say what these mean; each comes when it is used.

    Parameters
    ----------
    bits
        Width of a result.
    entries
        Values held.
    repeats
        Whether an entry may come twice in a row.
    maximum
        Whether it can take the greatest.
    tables
        The tables' geometry, where it can add up.
    """

    def __init__(self, *, bits: int, entries: int, repeats: bool, maximum: bool, tables: Geometry | None):
        self.bits = bits
        self.entries = entries
        self.repeats = repeats
        self.maximum = maximum
        self.tables = tables
        ports: dict[str, Any] = {
            "key": In(bits),  # 0: the code, so that codes order as unsigned numbers do
            "flip": In(bits),  # in the output's cycle: what makes a code of that
            "begins": In(1),  # LOOP - 1: an element is there that is combined with nothing before it
            "update": In(1),  # LOOP: an element is there
            "entry": In(range(max(2, entries))),  # LOOP
            "next_entry": In(range(max(2, entries))),  # LOOP - 1
            "o": Out(bits),
        }
        if tables:
            ports |= {
                "code": In(bits),  # 0
                "table": In(1),  # 0: which of the two
                "look_up": In(1),  # 0
                "adds": In(1),  # LOOP
                "half_even": In(1),  # ROUNDING
                "added": In(1),  # BOUNDS: `adds`, later
                "low": In(signed(9)),  # BOUNDS
                "high": In(signed(9)),  # BOUNDS
                "table_enable": In(1),
                "table_row": In(range(tables.rows)),
                "table_data": In(tables.write_bits),
            }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.bits
        width = TABLE_BITS if self.tables else bits
        key = delay(m, self.key, Scratchpad.LATENCY if self.tables else 1, "key")

        # The loop of one cycle: what is held of an entry, an element more, and back. Before the first of a
        # window 0 is held, which adds nothing and is the least key.
        held = Signal(width, reset_less=True)
        least = held[:bits]
        result: Value = key
        if self.maximum:
            result = Mux(least > key, least, key)
        if self.tables:
            m.submodules.table = table = Scratchpad(self.tables)
            m.d.comb += [
                table.read_enable.eq(self.look_up),
                table.read_address.eq(Cat(self.code, Const(0, _INDEX_BITS - bits), self.table)),
                table.write_enable.eq(self.table_enable),
                table.write_row.eq(self.table_row),
                table.write_data.eq(self.table_data),
            ]
            total = (held + table.read_data)[:width]
            # Above a key, anything may be.
            result = Cat(Mux(self.adds, total[:bits], result), total[bits:])
        combined = Signal(width, reset_less=True)
        m.d.sync += combined.eq(result)
        if self.entries > 1:
            # Entries take turns, so each may be read while the one before it is being made.
            m.submodules.held = ram = LutRam(width=width, depth=self.entries)
            m.d.comb += [
                ram.write_enable.eq(self.update),
                ram.write_address.eq(self.entry),
                ram.write_data.eq(result),
                ram.read_address.eq(self.next_entry),
            ]
            read = ram.read_data
            if self.repeats:
                read = Mux(self.update & (self.entry == self.next_entry), result, read)
            m.d.sync += held.eq(Mux(self.begins, 0, read))
        else:
            with m.If(self.begins):
                m.d.sync += held.eq(0)
            with m.Elif(self.update):
                m.d.sync += held.eq(result)
        if not self.tables:
            m.d.comb += self.o.eq(combined ^ self.flip)
            return m

        # Round; the sum has as many bits above the point as the table's entries have.
        half = combined[FRACTION - 1]
        tie = ~combined[: FRACTION - 1].any()
        rounded = Signal(signed(width - FRACTION + 1), reset_less=True)
        whole = combined[FRACTION:].as_signed()
        m.d.sync += rounded.eq(whole + (half & ~(self.half_even & tie & ~combined[FRACTION])))
        passed = delay(m, combined[:bits], 1, "passed")

        # Clamp
        with m.If(~self.added):
            m.d.sync += self.o.eq(passed ^ self.flip)
        with m.Elif(rounded < self.low):
            m.d.sync += self.o.eq(self.low)
        with m.Elif(rounded > self.high):
            m.d.sync += self.o.eq(self.high)
        with m.Else():
            m.d.sync += self.o.eq(rounded)
        return m


class Combiner(wiring.Component):
    """Makes one result of those of a window, each lane and each word of columns for itself.

    ::

        none     o = v
        maximum  o = max(v of the window)
        sum      o = clip(round(sum(table[0 or 1][v]) / 2**FRACTION), low, high)

    The first of a window looks v up in table 0, those behind it in table 1, at all bits of the result: an
    operand may be stored in more bits than what is made of it. An entry is a signed number of 32 bits, and so
    is their sum, modulo 2**32: whoever fills the tables keeps it in there. Rounding is half up, or half to
    even. What is rounded and clipped, and `low` and `high`, is the number that the stored code is: two's
    complement where the format has negative values, 0 and 1 where it is bipolar. A sum of one is a function
    of one operand, of two a sum of operands with scales of their own.

    Results of a window follow each other. What is held in between is one value per word of columns and lane,
    and of units of several outputs, whose results take turns, of each output; where rows may have windows of
    their own, of each row.

    ::

        cycle   0         1        2                 3        4       5
        sum     address   memory   held + entry      round    clip    output
        other   key       delayed  max(held, key)    delayed  code    output

    Without sums the loop is in cycle 1, and the output in cycle 2. Elements may follow each other in every
    cycle; words of columns, where there are several, take turns. Whatever is made of elements takes equally
    long.

    Parameters
    ----------
    config
        The engine's configuration; it combines results.

    Members
    -------
    values, valid : results of one element, and that there is one
    result : mode, by its place among the configuration's
    first : the element is in the first row of its window
    entry : word of columns, by its place in a row, above its :attr:`words_bits` which of a unit's outputs,
        and above that the row, of those that have windows of their own
    combine : what is made of them, see :class:`~bitwright.hw.sched.isa.Combine`; one the engine lacks is none
    half_even : how the element :data:`ROUNDING` cycles ago is rounded
    low, high : bounds of the element :data:`BOUNDS` cycles ago, as they are stored
    table_enable, table_row, table_data : write port of the tables: a bus word, table 0 in front of table 1
    o : what is made of the element and those before it in the window, :meth:`latency_of` cycles later
    """

    LOOP = Scratchpad.LATENCY
    """Cycles from an element of an engine with tables to its place in the loop."""
    ROUNDING = LOOP + 1
    """Cycles to where it is rounded."""
    BOUNDS = ROUNDING + 1
    """Cycles to where it is clipped."""

    @classmethod
    def latency_of(cls, config: EngineConfig) -> int:
        """Cycles from ``values`` to ``o``; none in an engine that combines nothing."""
        if "sum" in config.combined:
            return cls.BOUNDS + 1
        return 2 if config.combined else 0

    def __init__(self, config: EngineConfig):
        if not config.combined:
            raise ValueError("The configuration combines no results")
        self.config = config
        self.latency = self.latency_of(config)
        self.words_bits = (config.channel_words_per_drain - 1).bit_length()
        """Width of a word's place in a row."""
        outputs = config.unit.outputs
        self.entries = outputs << self.words_bits if outputs > 1 else config.channel_words_per_drain
        if config.tails and config.rows > 1:
            self.entries = config.rows << self.words_bits + (outputs - 1).bit_length()
        """Values that are held: one for each word of a row, of each output of the units, and of each row."""
        lanes = data.ArrayLayout(config.result_bits, config.requantisers)
        self.tables = geometries(config).get(Buffer.TABLES)
        ports: dict[str, Any] = {
            "values": In(lanes),
            "valid": In(1),
            "result": In((len(config.modes) - 1).bit_length()),
            "first": In(1),
            "entry": In((self.entries - 1).bit_length()),
            "combine": In(2),
            "o": Out(lanes),
        }
        if self.tables:
            ports |= {
                "half_even": In(1),
                "low": In(8),
                "high": In(8),
                "table_enable": In(1),
                "table_row": In(range(self.tables.rows)),
                "table_data": In(self.tables.write_bits),
            }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        bits = config.result_bits
        # Nothing is made of accumulators, so any format does for them.
        stored = [mode.storage for mode in config.modes if mode.quantiser != "accumulators"]
        storages = [stored[0] if mode.quantiser == "accumulators" else mode.storage for mode in config.modes]

        def by_format(value: Callable[[Storage], Value], result: Value) -> Value:
            return chosen([value(storage) for storage in storages], result)

        def flip(result: Value) -> Value:
            """What is flipped of a code to order it as an unsigned number."""
            if "maximum" not in config.combined:
                return Const(0, bits)
            return by_format(lambda s: Const(_is_signed(s) << s.bits - 1, bits), result)

        def number(code: Value, result: Value) -> Value:
            return by_format(
                lambda s: code[: s.bits].as_signed() if _is_signed(s) else code[: s.bits], result
            )

        loop = self.LOOP if self.tables else 1
        next_update = delay(m, self.valid, loop - 1, "next_update", reset_less=False)
        next_entry = delay(m, self.entry, loop - 1, "next_entry")
        update = delay(m, next_update, 1, "update", reset_less=False)
        entry = delay(m, next_entry, 1, "entry")
        maximum = (self.combine == Combine.MAXIMUM) & ("maximum" in config.combined)
        adds = (self.combine == Combine.SUM) & bool(self.tables)
        begins = next_update & delay(m, self.first | ~(maximum | adds), loop - 1, "alone")
        later = delay(m, self.result, self.BOUNDS if self.tables else loop + 1, "result")
        if self.tables:
            added = delay(m, adds, loop, "adds")
            added_later = delay(m, added, self.BOUNDS - loop, "added")
            low, high = number(self.low, later), number(self.high, later)
        unflip = flip(later)
        for index in range(config.requantisers):
            lane = _Lane(
                bits=bits,
                entries=self.entries,
                repeats=config.channel_words_per_drain == 1,
                maximum="maximum" in config.combined,
                tables=self.tables,
            )
            m.submodules[f"lane_{index}"] = share(platform, "combiner_lane", lane)
            value = Value.cast(self.values[index])
            code = by_format(lambda s, value=value: value[: s.bits], self.result)  # type: ignore[misc]
            m.d.comb += [
                lane.key.eq(code ^ flip(self.result)),
                lane.flip.eq(unflip),
                lane.begins.eq(begins),
                lane.update.eq(update),
                lane.entry.eq(entry),
                lane.next_entry.eq(next_entry),
                self.o[index].eq(lane.o),
            ]
            if self.tables:
                m.d.comb += [
                    lane.code.eq(value),
                    lane.table.eq(~self.first),
                    lane.look_up.eq(self.valid & adds),
                    lane.adds.eq(added),
                    lane.half_even.eq(self.half_even),
                    lane.added.eq(added_later),
                    lane.low.eq(low),
                    lane.high.eq(high),
                    lane.table_enable.eq(self.table_enable),
                    lane.table_row.eq(self.table_row),
                    lane.table_data.eq(self.table_data),
                ]
        return m
