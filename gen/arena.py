"""Memory of tensors: several share a place if no two of them are needed at once.

While a network is mapped, every tensor has an address of its own, beyond all that an engine can reach, which
says which tensor it is. When it is known who reads what from memory, the places are laid one over the other,
and the addresses in instructions are replaced::

    layer   0   1   2   3              bytes 0 ┌──────────────┐
    input  ─────────────────  stays            │ input        │
    a       ├───┤                              ├──────────────┤
    b           ├───┤                          │ a, then c    │
    c               ├───┤                      ├──────────────┤
    output              ├──── stays            │ b, output    │
                                               └──────────────┘

A STORE into a place waits until the last LOAD from what lay there before is over. STOREs end in order.

Which offsets give the smallest total is the problem of dynamic storage allocation, which is NP-hard; tensors
one after the other into the lowest gap that is free for their whole lifetime, the largest first, is what
TensorFlow Lite for Microcontrollers does (its greedy memory planner). Here the best of three orders is taken.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.isa import Opcode
from bitwright.sim.graph import NetworkError

from .scheduling import Pending, ceil_div

__all__ = ["Arena", "Lifetime"]

_BEYOND = 1 << 32
"""Where the addresses begin that stand for tensors; those of an engine have 32 bits at most."""

_MOST = 1 << 33
"""Bytes of all tensors together; in words, their addresses fit an instruction's field for them."""


@dataclass(frozen=True)
class Lifetime:
    """When a tensor must be in memory.

    Parameters
    ----------
    first, last
        Of the layers that write or read it; its place is nobody else's from the one to the other, inclusive.
    """

    first: int
    last: int

    def overlaps(self, other: "Lifetime") -> bool:
        """Whether both are needed in some layer."""
        return self.first <= other.last and other.first <= self.last


class Arena:
    """The memory of a network's tensors.

    Parameters
    ----------
    align
        Bytes; a power of two. Every place begins at a multiple of them.
    """

    def __init__(self, align: int):
        self.align = align
        self.sizes: dict[int, int] = {}
        self._next = _BEYOND

    def reserve(self, size: int) -> int:
        """A tensor of so many bytes; returns the address that stands for it.

        Raises
        ------
        NetworkError
            The tensors are beyond all measure.
        """
        address = self._next
        self.sizes[address] = size
        self._next += ceil_div(max(size, 1), self.align) * self.align
        if self._next > _BEYOND + _MOST:
            raise NetworkError(
                "network", f"needs more than {_MOST} bytes for its tensors", "use a smaller one"
            )
        return address

    def arrange(self, lifetimes: Mapping[int, Lifetime]) -> "Arrangement":
        """Lay the places of tensors over each other.

        Parameters
        ----------
        lifetimes
            Of the tensors that are in memory at all.
        """
        orders: tuple[Callable[[int], tuple[int, ...]], ...] = (
            lambda tensor: (-self.sizes[tensor], lifetimes[tensor].first, tensor),
            lambda tensor: (lifetimes[tensor].first, -self.sizes[tensor], tensor),
            lambda tensor: (lifetimes[tensor].first - lifetimes[tensor].last, -self.sizes[tensor], tensor),
        )
        found = [self._fit(sorted(lifetimes, key=order), lifetimes) for order in orders]
        return min(found, key=lambda arrangement: arrangement.size)

    def _fit(self, order: list[int], lifetimes: Mapping[int, Lifetime]) -> "Arrangement":
        offsets: dict[int, int] = {}
        for tensor in order:
            size = self.sizes[tensor]
            place = 0
            # Of those that are there at the same time, from the lowest to the highest.
            for other in sorted(offsets, key=offsets.__getitem__):
                if not lifetimes[tensor].overlaps(lifetimes[other]):
                    continue
                if place + size <= offsets[other]:
                    break
                end = offsets[other] + self.sizes[other]
                place = max(place, ceil_div(end, self.align) * self.align)
            offsets[tensor] = place
        return Arrangement(offsets, self.sizes, lifetimes)


class Arrangement:
    """Tensors and where they lie.

    Parameters
    ----------
    offsets
        Of each tensor's first byte from the start of the arena.
    sizes, lifetimes
        Of these tensors, and perhaps of more.
    """

    def __init__(
        self, offsets: Mapping[int, int], sizes: Mapping[int, int], lifetimes: Mapping[int, Lifetime]
    ):
        self.offsets = offsets
        self.size = max((offset + sizes[tensor] for tensor, offset in offsets.items()), default=0)
        self._sizes = sizes
        # Who lay before, and who comes after, where a tensor lies.
        self.before: dict[int, list[int]] = {tensor: [] for tensor in offsets}
        self.overwritten: set[int] = set()
        for tensor, lifetime in lifetimes.items():
            for other in lifetimes:
                if lifetimes[other].last < lifetime.first and self._share(tensor, other):
                    self.before[tensor].append(other)
                    self.overwritten.add(other)

    def _share(self, tensor: int, other: int) -> bool:
        begin, start = self.offsets[tensor], self.offsets[other]
        return begin < start + self._sizes[other] and start < begin + self._sizes[tensor]

    def relocate(self, base: int, config: EngineConfig, pending: list[Pending]) -> None:
        """Replace what stands for tensors in instructions by addresses, and have STOREs wait for LOADs.

        Parameters
        ----------
        base
            The arena's first byte in the window.
        config
            The engine.
        pending
            All instructions, in program order.
        """
        first_word = _BEYOND // config.bus_bytes
        tensors = sorted(self._sizes)
        loaded: dict[int, int] = {}  # of each tensor the last LOAD
        for number, instruction in enumerate(pending):
            word = instruction.fields.get("memory", 0)
            if word < first_word:
                continue
            address = word * config.bus_bytes
            tensor = tensors[bisect_right(tensors, address) - 1]
            if tensor not in self.offsets:
                # What stays on chip is nowhere in memory, and no address is looked at.
                assert instruction.fields["only"]
                instruction.fields["memory"] = 0
                continue
            place = base + self.offsets[tensor] + address - tensor
            instruction.fields["memory"] = place // config.bus_bytes
            if instruction.opcode is Opcode.LOAD:
                loaded[tensor] = number
            else:
                instruction.after |= {loaded[other] for other in self.before[tensor] if other in loaded}
