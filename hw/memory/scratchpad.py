"""On-chip memories that are filled over the bus and read a word per cycle."""

from dataclasses import dataclass

from amaranth.hdl import Array, Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import TABLE_BITS, TABLE_ENTRIES, EngineConfig
from ..sched.isa import Buffer
from .ram import Ram

__all__ = ["Geometry", "Scratchpad", "geometries"]

_LARGE_BITS = 1 << 17
"""From here on a scratchpad's block RAMs lie so far apart that a word cannot reach all within a cycle."""

_GROUP = 4
"""Banks of a large scratchpad that a word goes to from one register."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How the words of a scratchpad lie in its memories.

    A word wider than the bus lies across ``banks`` memories, one bus word in each: a row is one word.
    A narrower one shares a row with ``ratio`` - 1 others, lowest bits first::

        read_bits >= write_bits              read_bits < write_bits
        row r:  bank 0 | bank 1 | ...        row r:  word r*ratio | word r*ratio+1 | ...

    Parameters
    ----------
    write_bits, read_bits
        Width of a bus word and of a word read.
    depth
        Words read; a power of two.
    """

    write_bits: int
    read_bits: int
    depth: int

    def __post_init__(self) -> None:
        if self.read_bits < self.write_bits and self.write_bits % self.read_bits:
            raise ValueError(
                f"Words of {self.read_bits} bits do not fill a bus word of {self.write_bits} bits"
            )

    @property
    def banks(self) -> int:
        """Bus words that a row takes."""
        return max(1, -(-self.read_bits // self.write_bits))

    @property
    def ratio(self) -> int:
        """Words that a row holds."""
        return max(1, self.write_bits // self.read_bits)

    @property
    def rows(self) -> int:
        """Rows of the memories."""
        return max(1, self.depth // self.ratio)

    @property
    def write_latency(self) -> int:
        """Cycles from a write to the memory: 1, or in a large scratchpad 2 or 3; see :class:`Scratchpad`."""
        if self.rows * self.ratio * self.read_bits < _LARGE_BITS:
            return 1
        return 3 if self.banks > _GROUP else 2


def geometries(config: EngineConfig) -> dict[Buffer, Geometry]:
    """The scratchpads that LOAD fills."""

    def geometry(read_bits: int, depth: int) -> Geometry:
        return Geometry(write_bits=config.bus_bits, read_bits=read_bits, depth=depth)

    shapes = {
        Buffer.ACTIVATIONS: geometry(config.activation_word_bits, config.activation_depth),
        Buffer.WEIGHTS: geometry(config.weight_word_bits, config.weight_depth),
        # Parameters narrower than the bus have a row each.
        Buffer.CHANNELS: geometry(
            max(config.channel_word_bits, config.bus_bits), config.channel_depth // config.requantisers
        ),
    }
    if "sum" in config.combined:
        shapes[Buffer.TABLES] = geometry(TABLE_BITS, 2 * TABLE_ENTRIES)
    return shapes


class Scratchpad(wiring.Component):
    """Memory written a bus word at a time and read ``read_bits`` at a time.

    ``read_data`` is the word at ``read_address`` :attr:`LATENCY` cycles earlier: one cycle for the memory,
    one for a register behind it, as block RAM is slow to put out.

    ::

        write_* ──┬─► registers of banks 0 to 3 ──┬─► registers of bank 0 ──► bank 0
                  │                               ├─► registers of bank 1 ──► bank 1
                  ├─► registers of banks 4 to 7   └─► ...
                  └─► ...

    In a large scratchpad, each bank's registers take what is written there, and where there are more than
    four, each four banks' registers what is written to any of these. So a word goes to few places at a time,
    and from the last to the block RAMs of one bank.

    A word may be read ``geometry.write_latency`` cycles after it was written; until then its row may not.
    Tokens take longer than that from a unit that writes to one that reads.

    Parameters
    ----------
    geometry
        Widths and depth.

    Members
    -------
    write_enable, write_row, write_bank, write_data : one bus word
    read_enable, read_address, read_data : one word
    """

    LATENCY = 2

    def __init__(self, geometry: Geometry):
        self.geometry = geometry
        super().__init__(
            {
                "write_enable": In(1),
                "write_row": In(range(geometry.rows)),
                "write_bank": In(range(geometry.banks)),
                "write_data": In(geometry.write_bits),
                "read_enable": In(1),
                "read_address": In(range(geometry.rows * geometry.ratio)),
                "read_data": Out(geometry.read_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        geometry = self.geometry
        select_bits = (geometry.ratio - 1).bit_length()
        row = self.read_address[select_bits:]
        outs = []

        def registered(name: str, write: Value, *port: Value) -> tuple[Value, ...]:
            """What is written, a cycle later; the enable makes synthesis keep the registers apart."""
            enabled = Signal(name=f"write_{name}")
            held = [
                Signal.like(value, name=f"{name}_{index}", reset_less=True)
                for index, value in enumerate(port)
            ]
            m.d.sync += enabled.eq(write)
            with m.If(write):
                m.d.sync += [register.eq(value) for register, value in zip(held, port, strict=True)]
            return enabled, *held

        port: tuple[Value, ...] = (self.write_enable, self.write_bank, self.write_row, self.write_data)
        for bank in range(geometry.banks):
            if geometry.write_latency > 2 and bank % _GROUP == 0:
                group = range(bank, min(bank + _GROUP, geometry.banks))
                to_group = Cat(self.write_bank == each for each in group).any()
                port = registered(
                    f"group_{bank}",
                    self.write_enable & to_group,
                    self.write_bank,
                    self.write_row,
                    self.write_data,
                )
            # The last bank of a word that is no multiple of the bus keeps only the bits that are read.
            width = min(geometry.write_bits, geometry.read_bits * geometry.ratio - bank * geometry.write_bits)
            m.submodules[f"bank_{bank}"] = ram = Ram(width=width, depth=geometry.rows)
            enable, place, write_row, write_data = port
            write: tuple[Value, ...] = (enable & (place == bank), write_row, write_data[:width])
            if geometry.write_latency > 1:
                write = registered(f"bank_{bank}", *write)
            m.d.comb += [
                ram.write_enable.eq(write[0]),
                ram.write_address.eq(write[1]),
                ram.write_data.eq(write[2]),
                ram.read_enable.eq(self.read_enable),
                ram.read_address.eq(row),
            ]
            outs.append(ram.read_data)
        word = Cat(outs)
        if geometry.ratio > 1:
            select = Signal(select_bits)
            with m.If(self.read_enable):
                m.d.sync += select.eq(self.read_address[:select_bits])
            words = Array(word.word_select(i, geometry.read_bits) for i in range(geometry.ratio))
            register = Signal(geometry.read_bits, reset_less=True)
            m.d.sync += register.eq(words[select])
        else:
            register = Signal(geometry.read_bits, reset_less=True)
            m.d.sync += register.eq(word)
        m.d.comb += self.read_data.eq(register)
        return m
