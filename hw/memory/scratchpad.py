"""On-chip memories that are filled over the bus and read a word per cycle."""

from dataclasses import dataclass

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import TABLE_BITS, TABLE_ENTRIES, EngineConfig
from ..sched.isa import Buffer
from .ram import Ram

__all__ = ["Geometry", "Scratchpad", "geometries"]


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

    No address may be read in the cycle in which it is written.

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
        for bank in range(geometry.banks):
            # The last bank of a word that is no multiple of the bus keeps only the bits that are read.
            width = min(geometry.write_bits, geometry.read_bits * geometry.ratio - bank * geometry.write_bits)
            m.submodules[f"bank_{bank}"] = ram = Ram(width=width, depth=geometry.rows)
            m.d.comb += [
                ram.write_enable.eq(self.write_enable & (self.write_bank == bank)),
                ram.write_address.eq(self.write_row),
                ram.write_data.eq(self.write_data),
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
