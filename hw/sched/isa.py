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
    "HEADER",
    "LAYOUTS",
    "TRANSFER",
    "Buffer",
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
    """What an instruction does."""

    LOAD = 1
    """Memory to scratchpad."""
    COMPUTE = 2
    """A tile: every group of rows times every group of columns, ``steps`` beats each."""
    STORE = 3
    """Output scratchpad to memory."""
    SNAPSHOT = 4
    """The event counters to memory; executed by the store unit."""

    @property
    def unit(self) -> Unit:
        """The unit that executes it."""
        return Unit.STORE if self is Opcode.SNAPSHOT else Unit(self - 1)


class Buffer(enum.IntEnum):
    """Destination of a LOAD."""

    ACTIVATIONS = 0
    WEIGHTS = 1
    CHANNELS = 2


_HEADER = {"opcode": 4, "wait": 3, "post": 3}

_TRANSFER = {
    **_HEADER,
    "buffer": 2,  # of a LOAD: a Buffer
    "_0": 20,
    "memory": 32,  # first word
    "beats": 24,  # words moved in all
    "_1": 8,
    "row_beats": 16,  # words of a row in memory
    "scratch_row": 16,  # of a LOAD of activations: scratchpad rows that a matrix row fills
    "stride": 32,  # words from one row in memory to the next
    "scratch": 16,  # first scratchpad row; of a STORE: first bus word
}

_COMPUTE = {
    **_HEADER,
    "drain": 1,  # give results; otherwise keep accumulating, and rows = cols = 1
    "_0": 5,
    "steps": 16,  # beats of a dot product
    "row_groups": 16,
    "col_groups": 16,
    "activations": 16,  # first word
    "activation_stride": 16,  # words from one group of rows to the next
    "weights": 16,  # first word; groups of columns follow each other
    "channels": 16,  # first word; groups of columns follow each other
    "output": 24,  # first granule
    "_1": 8,
    "output_row": 24,  # granules from one row to the next
    "_2": 8,
    "output_group": 24,  # granules from one group of rows to the next: rows x output_row
}


def _layout(fields: Mapping[str, int]) -> data.StructLayout:
    members = {name: unsigned(bits) for name, bits in fields.items()}
    rest = INSTRUCTION_BITS - sum(fields.values())
    return data.StructLayout({**members, "_rest": unsigned(rest)})


HEADER = _layout(_HEADER)
TRANSFER = _layout(_TRANSFER)
COMPUTE = _layout(_COMPUTE)

LAYOUTS: Mapping[Opcode, data.StructLayout] = {
    Opcode.LOAD: TRANSFER,
    Opcode.COMPUTE: COMPUTE,
    Opcode.STORE: TRANSFER,
    Opcode.SNAPSHOT: TRANSFER,
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
