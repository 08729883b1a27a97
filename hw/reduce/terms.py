"""Bits of a sum as functions of a few signals: what one LUT in front of a carry chain can compute."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import and_, or_, xor

from amaranth.hdl import Const, Mux, Value

__all__ = ["ONE", "ZERO", "Atom", "Term", "bits_of"]


@dataclass(frozen=True, eq=False)
class Atom:
    """A one-bit signal and the cycle in which it is looked at; two atoms are equal only if they are the same.

    Parameters
    ----------
    value
        The signal.
    time
        Cycles after the operands entered.
    """

    value: Value
    time: int = 0


@dataclass(frozen=True)
class Term:
    """A Boolean function of atoms.

    ``table`` holds its values: bit ``sum(atom[i] << i)`` is the value at those atoms. Atoms on which it does
    not depend are left out. Terms combine with ``&``, ``|``, ``^`` and ``~``.

    Parameters
    ----------
    atoms
        All looked at in the same cycle.
    table
        Truth table, ``2**len(atoms)`` bits.
    """

    atoms: tuple[Atom, ...]
    table: int

    @staticmethod
    def of(value: Value, time: int = 0) -> "Term":
        """The signal itself."""
        return Term((Atom(value, time),), 0b10)

    @staticmethod
    def reduced(atoms: Sequence[Atom], table: int) -> "Term":
        """The function with that truth table, without atoms that it does not depend on."""
        kept = list(atoms)
        for bit in reversed(range(len(kept))):
            low = [index for index in range(1 << len(kept)) if not index >> bit & 1]
            if all(table >> index & 1 == table >> (index | 1 << bit) & 1 for index in low):
                table = sum((table >> index & 1) << place for place, index in enumerate(low))
                del kept[bit]
        return Term(tuple(kept), table)

    @property
    def time(self) -> int:
        """Cycle of its atoms; 0 for a constant."""
        return self.atoms[0].time if self.atoms else 0

    @property
    def constant(self) -> int | None:
        """Its value where it is a constant."""
        return None if self.atoms else self.table

    def over(self, atoms: Sequence[Atom | None]) -> int:
        """Its truth table over more atoms than its own; None stands for one that does not matter."""
        places = [atoms.index(atom) for atom in self.atoms]
        return sum(
            (self.table >> sum((index >> place & 1) << bit for bit, place in enumerate(places)) & 1) << index
            for index in range(1 << len(atoms))
        )

    def where(self, atom: Atom) -> "Term":
        """Its value where the atom is set, which it then does not depend on."""
        if atom not in self.atoms:
            return self
        others = tuple(other for other in self.atoms if other is not atom)
        table = self.over((atom, *others))
        odd = sum((table >> (2 * index + 1) & 1) << index for index in range(1 << len(others)))
        return Term.reduced(others, odd)

    def _with(self, other: "Term", operation: Callable[[int, int], int]) -> "Term":
        atoms = tuple(dict.fromkeys(self.atoms + other.atoms))
        return Term.reduced(atoms, operation(self.over(atoms), other.over(atoms)))

    def __and__(self, other: "Term") -> "Term":
        return self._with(other, and_)

    def __or__(self, other: "Term") -> "Term":
        return self._with(other, or_)

    def __xor__(self, other: "Term") -> "Term":
        return self._with(other, xor)

    def __invert__(self) -> "Term":
        return Term(self.atoms, self.table ^ (1 << (1 << len(self.atoms))) - 1)

    def select(self, one: "Term", zero: "Term") -> "Term":
        """``one`` where this is set, ``zero`` elsewhere."""
        return (self & one) | (~self & zero)

    @property
    def value(self) -> Value:
        """Amaranth's expression for it."""
        return _expression(self.atoms, self.table)


def _expression(atoms: tuple[Atom, ...], table: int) -> Value:
    """Shannon expansion by the last atom, in the simplest operators."""
    if not atoms:
        return Const(table, 1)
    select = atoms[-1].value
    half = 1 << len(atoms) - 1
    full = (1 << half) - 1
    low, high = table & full, table >> half
    if low == high:
        return _expression(atoms[:-1], low)
    if low ^ high == full:
        return select ^ _expression(atoms[:-1], low)
    if low == 0:
        return select if high == full else select & _expression(atoms[:-1], high)
    if high == 0:
        return ~select if low == full else ~select & _expression(atoms[:-1], low)
    if high == full:
        return select | _expression(atoms[:-1], low)
    if low == full:
        return ~select | _expression(atoms[:-1], high)
    return Mux(select, _expression(atoms[:-1], high), _expression(atoms[:-1], low))


ZERO = Term((), 0)
"""Always 0."""

ONE = Term((), 1)
"""Always 1."""


def bits_of(value: Value, time: int = 0) -> list[Term]:
    """Each bit of a signal, lowest first."""
    return [Term.of(value[index], time) for index in range(len(value))]
