"""The host's view: registers, event counters and fault codes, described once.

The AXI4-Lite port, the simulation's host and the manifest are made from these tables.
"""

import enum
from dataclasses import dataclass

__all__ = ["COUNTERS", "COUNTER_BASE", "ID_VALUE", "REGISTERS", "Fault", "Field", "Register"]

ID_VALUE = 0x42574731
"""Contents of the `id` register: "BWG1"."""


class Fault(enum.IntEnum):
    """Why the engine stopped, in `status` bits 15 to 8."""

    NONE = 0
    ILLEGAL_INSTRUCTION = 1
    """An opcode, field or count that no unit can execute."""
    ADDRESS = 2
    """A burst that does not lie wholly within the window the host granted; it was not sent."""
    READ_ERROR = 3
    """The bus answered a read with an error."""
    WRITE_ERROR = 4
    """The bus answered a write with an error."""
    WATCHDOG = 5
    """No data moved and nothing was computed for `watchdog` cycles."""
    TOKEN_OVERFLOW = 6
    """A unit gave more tokens than the counter holds."""


@dataclass(frozen=True)
class Field:
    """Some bits of a register.

    Parameters
    ----------
    name, low, bits, doc
        Its name, lowest bit, width, and meaning.
    """

    name: str
    low: int
    bits: int
    doc: str

    @property
    def mask(self) -> int:
        """Its bits, set."""
        return (1 << self.bits) - 1 << self.low


@dataclass(frozen=True)
class Register:
    """One 32-bit register of the AXI4-Lite port.

    Parameters
    ----------
    name, offset, access, doc
        Its name, byte offset, `ro` or `rw`, and meaning.
    fields
        Its parts; none where the whole register is one number.
    """

    name: str
    offset: int
    access: str
    doc: str
    fields: tuple[Field, ...] = ()


REGISTERS = (
    Register("id", 0x00, "ro", "Identifies the engine: 0x42574731."),
    Register(
        "control",
        0x04,
        "rw",
        "Write 1 to start; ignored while busy. Clears done and fault. Reads 0.",
        (Field("start", 0, 1, "Starts the program."),),
    ),
    Register(
        "status",
        0x08,
        "ro",
        "Bit 0 busy, bit 1 done, bit 2 fault, bits 15..8 fault code.",
        (
            Field("busy", 0, 1, "The program is running."),
            Field("done", 1, 1, "It has come to its end."),
            Field("fault", 2, 1, "It was stopped."),
            Field("code", 8, 8, "Why; a fault code."),
        ),
    ),
    Register("memory_base", 0x0C, "rw", "Byte address of the granted window; a multiple of 4096."),
    Register("memory_size", 0x10, "rw", "Bytes of the granted window."),
    Register("program", 0x14, "rw", "Byte offset of the program in the window; a multiple of the bus width."),
    Register("instructions", 0x18, "rw", "Instructions of the program."),
    Register(
        "watchdog",
        0x1C,
        "rw",
        "Cycles without progress after which the engine faults; 0 never. Use 100 or more.",
    ),
    Register(
        "irq_enable",
        0x20,
        "rw",
        "Bit 0: irq is high while done or fault is set.",
        (Field("enable", 0, 1, "Whether irq is raised."),),
    ),
)
"""Control and status registers."""

COUNTER_BASE = 0x40
"""Byte offset of the first event counter; they follow each other."""

COUNTERS = (
    ("cycles", "Cycles from start to end."),
    ("compute_beats", "Cycles in which the array took operands."),
    ("compute_wait_load", "Cycles the compute unit waited for a token of the load unit."),
    ("compute_wait_store", "Cycles it waited for a token of the store unit."),
    ("compute_wait_drain", "Cycles it waited for the previous results to leave the array."),
    ("compute_wait_fetch", "Cycles it had no instruction."),
    ("load_beats", "Bus words read into scratchpads."),
    ("load_wait_compute", "Cycles the load unit waited for a token of the compute unit."),
    ("load_wait_store", "Cycles it waited for a token of the store unit."),
    ("load_wait_memory", "Cycles in which data were under way and none came."),
    ("fetch_beats", "Bus words of instructions read."),
    ("store_beats", "Bus words written."),
    ("store_wait_compute", "Cycles the store unit waited for a token of the compute unit."),
    ("store_wait_memory", "Cycles in which the memory did not take a word or acknowledge a burst."),
    ("results", "Granules of results written to the output scratchpad."),
    ("compute_wait_words", "Cycles it waited for activations that the feeder had not brought yet."),
)
"""Event counters, 32 bits each; they wrap."""
