"""What a mapper writes into: instructions and their tokens, scratchpads as rings, the memory image."""

from dataclasses import dataclass, field

from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.isa import Instruction, Opcode, Unit
from bitwright.sim.graph import NetworkError

__all__ = ["Image", "Kept", "Region", "Residence", "Ring", "Schedule", "ceil_div", "ranges"]


def ceil_div(a: int, b: int) -> int:
    """The quotient, rounded up."""
    return -(-a // b)


def ranges(count: int, size: int) -> list[range]:
    """The numbers below `count`, so many at a time."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


# Instructions and what they wait for


@dataclass
class Pending:
    """An instruction, and the numbers of those that must be over before it begins."""

    opcode: Opcode
    fields: dict[str, int]
    after: set[int] = field(default_factory=set)


class Schedule:
    """Instructions in program order, with what each has to wait for."""

    def __init__(self) -> None:
        self.pending: list[Pending] = []

    def add(self, opcode: Opcode, after: set[int], **fields: int) -> int:
        """Append an instruction; returns its number."""
        self.pending.append(Pending(opcode, fields, set(after)))
        return len(self.pending) - 1

    def finish(self, config: EngineConfig) -> list[Instruction]:
        """Give and take tokens.

        The instructions of a unit end in order. So an instruction waits only for the last one that it
        depends on in each other unit, and not at all if an earlier one of its unit waited for that.
        """
        wait = [0] * len(self.pending)
        post = [0] * len(self.pending)
        seen: dict[tuple[Unit, Unit], int] = {}
        # Beside the tokens that a full queue waits for, so many may be under way. So who depends on something
        # further back waits for something later instead, which is over no earlier.
        reach = config.token_limit - config.queue_depth - 2
        givers: dict[Unit, list[int]] = {unit: [] for unit in Unit}
        for number, pending in enumerate(self.pending):
            taker = pending.opcode.unit
            if pending.opcode not in (Opcode.GEOMETRY, Opcode.WINDOW):  # these post nothing
                givers[taker].append(number)
            last: dict[Unit, int] = {}
            for other in pending.after:
                giver = self.pending[other].opcode.unit
                if giver is not taker:
                    last[giver] = max(last.get(giver, -1), other)
            for giver, other in last.items():
                if len(givers[giver]) > reach:
                    other = max(other, givers[giver][-reach])
                if other > seen.get((giver, taker), -1):
                    seen[giver, taker] = other
                    wait[number] |= 1 << giver
                    post[other] |= 1 << taker
        return [
            Instruction(
                pending.opcode,
                {
                    name: value
                    for name, value in {**pending.fields, "wait": wait[number], "post": post[number]}.items()
                    if value
                },
            )
            for number, pending in enumerate(self.pending)
        ]


@dataclass
class Region:
    """Rows of a scratchpad that hold something: what, and the instructions that write and read them."""

    key: object
    start: int
    end: int
    writers: set[int] = field(default_factory=set)
    readers: set[int] = field(default_factory=set)
    before: set[int] = field(default_factory=set)  # those that must be over before it is written

    def overlaps(self, other: "Region") -> bool:
        """Whether they have a row in common."""
        return self.start < other.end and other.start < self.end


class Ring:
    """Allocation in a scratchpad, or in the rows from `low` to `high` of it, oldest first out."""

    def __init__(self, capacity: int):
        self.low = 0
        self.high = capacity
        self.position = 0
        self.regions: dict[object, Region] = {}

    def bound(self, low: int, high: int) -> None:
        """Allocate between these rows from now on."""
        if (low, high) != (self.low, self.high):
            self.low = self.position = low
            self.high = high

    def find(self, key: object) -> Region | None:
        """The region of that key, if it is still there."""
        return self.regions.get(key)

    def allocate(self, key: object, size: int, pinned: set[object]) -> tuple[Region, set[int]] | None:
        """A region, and the instructions that must be over before it is written; None if pinned ones are in
        the way.
        """
        start = self.position if self.position + size <= self.high else self.low
        region = Region(key, start, start + size)
        over = [old for old in self.regions.values() if old.overlaps(region)]
        if any(old.key in pinned for old in over):
            return None
        self._enter(region, over)
        self.position = region.end
        return region, region.before

    def claim(self, key: object, start: int, size: int) -> Region:
        """The region of that key, at these rows, whatever was there."""
        region = Region(key, start, start + size)
        self._enter(region, [old for old in self.regions.values() if old.overlaps(region)])
        return region

    def _enter(self, region: Region, over: list[Region]) -> None:
        for old in over:
            region.before |= old.readers | old.writers
            del self.regions[old.key]
            # Who writes the rest of its rows waits for the same; it may be in another unit.
            for start, end in ((old.start, region.start), (region.end, old.end)):
                if start < end:
                    rest = Region(object(), start, end, old.writers, old.readers, old.before)
                    self.regions[rest.key] = rest
        self.regions[region.key] = region


@dataclass(frozen=True)
class Kept:
    """A tensor in the activation scratchpad.

    Parameters
    ----------
    address
        Its place in memory, which says which it is.
    start, rows
        Scratchpad rows.
    """

    address: int
    start: int
    rows: int

    @property
    def end(self) -> int:
        """The row behind it."""
        return self.start + self.rows


@dataclass(frozen=True)
class Residence:
    """Where a layer finds and leaves activations.

    Parameters
    ----------
    low, high
        Rows of the scratchpad that are the ring.
    sources
        Of its operands those that are on chip, by their address in memory.
    result
        Where its result goes on chip; None if it does not.
    stored
        Whether its result goes to memory.
    """

    low: int
    high: int
    sources: dict[int, Kept] = field(default_factory=dict)
    result: Kept | None = None
    stored: bool = True


# Memory


class Image:
    """The window's contents: blocks one behind the other."""

    def __init__(self, config: EngineConfig):
        self.align = min(config.burst_beats, 64) * config.bus_bytes
        self.limit = 1 << config.address_bits
        self.size = 0
        self.blocks: list[tuple[int, bytes]] = []

    def reserve(self, size: int) -> int:
        """Room for so many bytes, where a burst begins; returns its address.

        Raises
        ------
        NetworkError
            The engine's addresses do not reach that far.
        """
        address = self.size
        self.size = ceil_div(address + size, self.align) * self.align
        if self.size > self.limit:
            raise NetworkError(
                "network",
                f"needs more than the {self.limit} bytes that the engine can address",
                "raise address_bits, at most 32",
            )
        return address

    def put(self, data: bytes) -> int:
        """A block with contents; returns its address."""
        address = self.reserve(len(data))
        self.write(address, data)
        return address

    def write(self, address: int, data: bytes) -> None:
        """Contents of what was reserved."""
        self.blocks.append((address, data))

    def contents(self) -> bytes:
        """The window up to the last byte that was put; what was only reserved is zero."""
        end = max((address + len(data) for address, data in self.blocks), default=0)
        image = bytearray(end)
        for address, data in self.blocks:
            image[address : address + len(data)] = data
        return bytes(image)
