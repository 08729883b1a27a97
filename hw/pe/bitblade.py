"""BitBlade's dot-product unit: 2 bit by 2 bit bricks, summed over all units before they are shifted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..reduce.datapath import Datapath, Number
from ..reduce.popcount import popcount
from ..reduce.terms import ZERO, Term
from .bricks import SIDE, BrickGrid, BrickGridUnit, Bricks, Pending, join

__all__ = ["BitBlade", "BitBladeUnit"]


@dataclass(frozen=True, kw_only=True)
class BitBlade(BrickGrid):
    """``sum(a * w) = sum(2**s[r,k] * sum(a[u,r,k] * w[u,r,k] for unit u) for brick r,k)``.

    ::

        unit 0   brick 0,0 ─┐   brick 0,1 ─┐  ...  brick 3,3 ─┐
        unit 1   brick 0,0 ─┤   brick 0,1 ─┤       brick 3,3 ─┤
         ...                +              +                  +      a group per brick of the grid
                            │              │                  │
                            └── s[0,0] ────┴── s[0,1] ── ... ─┴──── + ─ constant ─ + ──┬── o
                                                                                   ▲   │
                                                             (shift 8, of 16 bit) acc ◄┘

    Bricks at one place of all units have one significance s in every mode: they are summed first, and shifted
    once. The shifts take no LUTs, as the slot that adds two groups chooses between two bits of one of them
    (:func:`~bitwright.hw.pe.bricks.join`).

    A group counts each of the four products of bits of a brick over all units::

        group = c00 + 2 (c01 + c10) + 4 c11          c_ij = popcount(a_i & w_j)

    where a count that is to be subtracted is inverted, in the slot that adds it, by a sign that follows from
    the beat's control. Words, beats, modes and the constant that completes the signs are those of
    :class:`~bitwright.hw.pe.bricks.BrickGrid`.

    Latency: ``ceil(log2(ceil(lanes / 2)))`` cycles for the counts; 3 for a group, up to 4 where signs or
    modes come with the beat; 4 for fusing; 1 for the constant, if there is one; and the accumulator's.

    Source: Ryu, Kim, Yi, Kim, "BitBlade: Area and Energy-Efficient Precision-Scalable Neural Network
    Accelerator with Bitwise Summation", DAC 2019.
    """

    name: ClassVar[str] = "bitblade"

    def unit(self) -> "BitBladeUnit":
        return BitBladeUnit(self)


class BitBladeUnit(BrickGridUnit):
    """Hardware of :class:`BitBlade`."""

    spec: BitBlade

    def summed(self, datapath: Datapath, bricks: Bricks) -> tuple[Pending, int]:
        counts = [
            [self._counts(datapath, bricks, row, column) for column in range(SIDE)] for row in range(SIDE)
        ]
        groups = [[_group(datapath, *four) for four in row] for row in counts]
        return bricks.fused(groups), counts[0][0][0].greatest

    def _counts(self, datapath: Datapath, bricks: Bricks, row: int, column: int) -> list[Pending]:
        """Of the products of each pair of bits of a brick, how many units' are set."""
        products = zip(*(bricks.products(unit, row, column) for unit in range(self.spec.lanes)), strict=True)
        signs = bricks.signs(row, column)
        return [
            _count(datapath, terms, invert)
            for terms, invert in zip(products, (ZERO, signs.w, signs.a, signs.both), strict=True)
        ]


def _group(datapath: Datapath, c00: Pending, c01: Pending, c10: Pending, c11: Pending) -> Pending:
    """Sum of the bricks at one place of all units."""
    middle = join(datapath, c01, c10)
    return join(datapath, c00, join(datapath, middle, c11, 1), 1)


def _count(datapath: Datapath, terms: Sequence[Term], invert: Term) -> Pending:
    """How many of the terms are set, every bit inverted where ``invert`` is."""
    number, left = popcount(datapath, terms)
    time = max(number.time, invert.time)
    invert = datapath.delayed(invert, time)
    bits = tuple(bit ^ invert for bit in datapath.aligned(number, time).bits)
    carry = datapath.delayed(left[0], time) ^ invert if left else ZERO
    most = (1 << len(bits)) - 1
    return Pending(Number(bits), most, carry)
