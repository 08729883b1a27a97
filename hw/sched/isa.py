"""The instruction set: one description for the hardware that decodes and the compiler that encodes.

An instruction is 256 bits, stored as consecutive bus words, lowest bits first. Three units execute,
each in the order of its own queue, all at the same time: `load`, `compute` and `store`. What orders
them among each other are tokens: an instruction takes one token from each unit named in ``wait`` before
it starts, and gives one to each unit named in ``post`` when it has ended (bit *i* is unit *i* of
:class:`Unit`).

Memory addresses (``memory``, ``stride``) are bus words relative to the start of the window that the host
granted. Scratchpad addresses are rows of the scratchpad's memory, granules in the output scratchpad
(:class:`~bitwright.hw.config.EngineConfig`).

A field occupies the same bits for every bus width; an unused bit must be zero.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.hdl import unsigned
from amaranth.lib import data

from ..config import INSTRUCTION_BITS

__all__ = [
    "COMPUTE",
    "GEOMETRY",
    "HEADER",
    "LAYOUTS",
    "LOAD",
    "STORE",
    "WINDOW",
    "Buffer",
    "Combine",
    "Instruction",
    "Opcode",
    "Unit",
]


class Unit(enum.IntEnum):
    """The units that execute instructions."""

    LOAD = 0
    COMPUTE = 1
    STORE = 2


class Opcode(enum.IntEnum):
    """What an instruction does. The two low bits are the unit that does it, plus 1."""

    LOAD = 1
    """Memory to scratchpad."""
    COMPUTE = 2
    """A tile: every group of rows times every group of columns, ``steps`` steps each."""
    STORE = 3
    """Output scratchpad to memory, to the activation scratchpad, or to both."""
    SNAPSHOT = 7
    """The event counters to memory; executed by the store unit."""
    GEOMETRY = 6
    """Where the operands of the COMPUTEs that follow lie: pixels, taps, padding; for the compute unit.

    It neither waits nor posts."""
    WINDOW = 10
    """What is made of several results of each pixel; executed as GEOMETRY is."""

    @property
    def unit(self) -> Unit:
        """The unit that executes it."""
        return Unit((self & 3) - 1)


class Buffer(enum.IntEnum):
    """Destination of a LOAD."""

    ACTIVATIONS = 0
    WEIGHTS = 1
    CHANNELS = 2
    TABLES = 3
    """The two tables of :attr:`Combine.SUM`, where the engine has them; of every lane, all at once."""


class Combine(enum.IntEnum):
    """What is made of the results of a window, see :mod:`bitwright.hw.quant.combine`."""

    NONE = 0
    MAXIMUM = 1
    SUM = 2


_HEADER = {"opcode": 4, "wait": 3, "post": 3}

_LOAD = {
    **_HEADER,
    "buffer": 2,  # a Buffer
    "_0": 20,
    "memory": 32,  # first word
    "beats": 24,  # words moved in all
    "_1": 8,
    "row_beats": 16,  # words of a row in memory
    "_2": 16,
    "stride": 32,  # words from one row in memory to the next
    "scratch": 16,  # first scratchpad row
}

_STORE = {
    **_HEADER,
    "forward": 1,  # words go to the activation scratchpad, too
    "only": 1,  # and not to memory
    "_0": 20,
    "memory": 32,  # as of a LOAD
    "beats": 24,
    "_1": 8,
    "row_beats": 16,
    "_2": 16,
    "stride": 32,
    "scratch": 16,  # first bus word of the output scratchpad
    "place": 16,  # row of the activation scratchpad for the first `row_beats` words
    "pitch": 16,  # rows from there to where the next ones begin
    "bank": 8,  # word of its row where each of them begins
}

_COMPUTE = {
    **_HEADER,
    "drain": 1,  # give results; otherwise keep accumulating, and rows = cols = 1
    "chain": 1,  # columns keep the last taps of their own channels
    "pack": 1,  # a tap is a run of elements, that follow each other in lines without gaps
    "_0": 3,
    "steps": 16,  # of a dot product; a step is so many beats
    "row_groups": 16,
    "col_groups": 16,
    "activations": 16,  # first word of the first pixel, where its first tap lies; modulo 65536
    "lead": 16,  # of a chain: steps more of a line's first pixel; their weights come first
    "weights": 16,  # first word; groups of columns follow each other
    "channels": 16,  # first word; groups of columns follow each other
    "output": 24,  # first granule
    "precision": 8,  # place among the configuration's precisions
    "output_row": 24,  # granules from one row to the next; of a chain, which has one row, from line to line
    "result": 8,  # what becomes of sums: place among the configuration's modes
    "output_group": 24,  # granules from one group of rows to the next: rows x output_row
    "group": 8,  # of planes: which of the groups of columns of a block the first one is
}

_GEOMETRY = {
    **_HEADER,
    "_0": 6,
    "words": 16,  # of a tap: activation words that follow each other; packed, elements
    "pixels_inner": 16,  # of a line; as many lines as there are pixels
    "pad": 8,  # what lies outside: this byte over and over; of bit planes, bit j over and over in plane j
    "taps_more": 8,  # of a chain: inner taps of a pixel that is not its line's first; packed, elements from a
    # pixel to the next, beside `pixel_inner` words
    "taps_inner": 8,
    "taps_outer": 8,
    "dilation_inner": 8,  # positions from a tap to the next; packed, element of its word where a line begins
    "dilation_outer": 8,
    "start_inner": 16,  # position of the first tap of the first pixel, modulo 65536: less than 0 is outside
    "start_outer": 16,
    "stride_inner": 8,  # positions from a pixel to the next
    "stride_outer": 8,
    "limit_inner": 16,  # positions there are: from there on is outside
    "limit_outer": 16,
    "pixel_inner": 16,  # words from a pixel to the next, modulo 65536
    "pixel_outer": 16,  # words from a line to the next
    "tap_inner": 16,  # words from a tap to the next
    "tap_outer": 16,
}

_WINDOW = {
    **_HEADER,
    "combine": 2,  # a Combine
    "half_even": 1,  # of sums: how they are rounded
    "_0": 3,
    "low": 8,  # bounds of a sum, as stored
    "high": 8,
    "inner": 8,  # patches of a pixel: as many, less 1, along the inner dimension
    "outer": 8,
    "step_inner": 8,  # positions from a patch to the next
    "step_outer": 8,
    "words_inner": 16,  # words from a patch to the next, modulo 65536
    "words_outer": 16,
    "size": 8,  # patches of a pixel, less 1
    # Of a sum whose second operand is not computed: the tail of each patch, which it comes in as it is. Then
    # a pixel has one patch, and each row of units a window of two of its own.
    "own": 1,  # groups of columns have parts of the tail, one behind the other; otherwise each has the whole
    "_1": 7,
    "tail": 16,  # words of it; 0 where there is none
    "tail_steps": 16,  # of it, for each group of columns, whose weights lie behind those of the patch
    "tail_base": 16,  # its first word, of the first pixel
    "tail_inner": 16,  # words from there to that of the next pixel
    "tail_outer": 16,  # words to that of the next line
}


def _layout(fields: Mapping[str, int]) -> data.StructLayout:
    members = {name: unsigned(bits) for name, bits in fields.items()}
    rest = INSTRUCTION_BITS - sum(fields.values())
    return data.StructLayout({**members, "_rest": unsigned(rest)})


HEADER = _layout(_HEADER)
LOAD = _layout(_LOAD)
STORE = _layout(_STORE)
COMPUTE = _layout(_COMPUTE)
GEOMETRY = _layout(_GEOMETRY)
WINDOW = _layout(_WINDOW)

LAYOUTS: Mapping[Opcode, data.StructLayout] = {
    Opcode.LOAD: LOAD,
    Opcode.COMPUTE: COMPUTE,
    Opcode.STORE: STORE,
    Opcode.SNAPSHOT: STORE,
    Opcode.GEOMETRY: GEOMETRY,
    Opcode.WINDOW: WINDOW,
}
"""Bit layout of each opcode's instruction."""


@dataclass(frozen=True)
class Instruction:
    """One instruction, as the compiler handles it.

    Parameters
    ----------
    opcode
        What it does.
    fields
        Value of each field of the opcode's layout other than ``opcode``; a field left out is zero.

    Raises
    ------
    ValueError
        A field does not exist for the opcode, or its value does not fit.
    """

    opcode: Opcode
    fields: Mapping[str, int]

    def __post_init__(self) -> None:
        layout = LAYOUTS[self.opcode]
        for name, value in self.fields.items():
            if name.startswith("_") or name == "opcode" or name not in layout.members:
                raise ValueError(f"{self.opcode.name} has no field {name!r}")
            width = layout[name].width
            if not 0 <= value < 1 << width:
                raise ValueError(f"{self.opcode.name}.{name} = {value}: must fit {width} bits")

    def __getitem__(self, name: str) -> int:
        return self.fields.get(name, 0)

    def encode(self) -> bytes:
        """The instruction's bytes, lowest first."""
        layout = LAYOUTS[self.opcode]
        word = int(self.opcode)
        for name, value in self.fields.items():
            word |= value << layout[name].offset
        return word.to_bytes(INSTRUCTION_BITS // 8, "little")

    @classmethod
    def decode(cls, encoded: bytes) -> "Instruction":
        """Inverse of :meth:`encode`; fields that are zero are left out."""
        word = int.from_bytes(encoded, "little")
        opcode = Opcode(word & 15)
        fields = {}
        for name, field in LAYOUTS[opcode]:
            value = word >> field.offset & (1 << field.width) - 1
            if value and name != "opcode":
                fields[str(name)] = value
        return cls(opcode, fields)
