"""The host's view: registers, event counters and fault codes, described once.

The AXI4-Lite port, the simulation's host and the manifest are made from these tables.
"""

import enum
from dataclasses import dataclass

__all__ = ["COUNTERS", "COUNTER_BASE", "ID_VALUE", "REGISTERS", "Fault", "Register"]

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
class Register:
    """One 32-bit register of the AXI4-Lite port.

    Parameters
    ----------
    name, offset, access, doc
        Its name, byte offset, `ro` or `rw`, and meaning.
    """

    name: str
    offset: int
    access: str
    doc: str


REGISTERS = (
    Register("id", 0x00, "ro", "Identifies the engine: 0x42574731."),
    Register("control", 0x04, "rw", "Write 1 to start; ignored while busy. Clears done and fault. Reads 0."),
    Register("status", 0x08, "ro", "Bit 0 busy, bit 1 done, bit 2 fault, bits 15..8 fault code."),
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
    Register("irq_enable", 0x20, "rw", "Bit 0: irq is high while done or fault is set."),
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
