"""Bit Fusion's dot-product unit: 2 bit by 2 bit bricks, shifted and added in each unit, then summed."""

from dataclasses import dataclass
from typing import ClassVar

from ..reduce.datapath import Datapath, Number
from .bricks import SIDE, BrickGrid, BrickGridUnit, Bricks, Pending, join, narrowed

__all__ = ["BitFusion", "BitFusionUnit"]


@dataclass(frozen=True, kw_only=True)
class BitFusion(BrickGrid):
    """``sum(a * w) = sum(sum(2**s[r,k] * a[u,r,k] * w[u,r,k] for brick r,k) for unit u)``.

    ::

        unit 0   brick 0,0 ─ s[0,0] ─┬─ brick 0,1 ─ s[0,1] ─┬─ ... ─ + ─┐
        unit 1   brick 0,0 ─ s[0,0] ─┬─ brick 0,1 ─ s[0,1] ─┬─ ... ─ + ─┤
         ...                                                            + ─ constant ─ + ──┬── o
                                                                                       ▲   │
                                                                 (shift 8, of 16 bit) acc ◄┘

    In each unit, bricks are fused by a tree of adders, each of which shifts one operand where both belong to
    one element in the mode in force: neighbours by 2 places, pairs of them by 4. The shifts take no LUTs: the
    slot that adds chooses between two bits (:func:`~bitwright.hw.pe.bricks.join`). BitBlade, which sums
    over the units first, takes half the LUTs for the same products.

    A brick is one adder::

        a * w = a_0 w_0 + 2 (a_0 w_1 + a_1 w_0) + 4 a_1 w_1

    where a product of bits that is to be subtracted is inverted, by a sign that follows from the beat's
    control. Words, beats, modes and the constant that completes the signs are those of
    :class:`~bitwright.hw.pe.bricks.BrickGrid`.

    Latency: 1 cycle for a brick, up to 3 where signs or modes come with the beat; 4 for fusing;
    ``ceil(log2(lanes))`` for the sum of the units; 1 for the constant, if there is one; and those of the
    accumulator.

    Source: Sharma et al., "Bit Fusion: Bit-Level Dynamically Composable Architecture for Accelerating Deep
    Neural Networks", ISCA 2018.
    """

    name: ClassVar[str] = "bitfusion"

    def unit(self) -> "BitFusionUnit":
        return BitFusionUnit(self)


class BitFusionUnit(BrickGridUnit):
    """Hardware of :class:`BitFusion`."""

    spec: BitFusion

    def summed(self, datapath: Datapath, bricks: Bricks) -> tuple[Pending, int]:
        units = []
        for unit in range(self.spec.lanes):
            grid = [
                [_brick(datapath, bricks, unit, row, column) for column in range(SIDE)] for row in range(SIDE)
            ]
            units.append(bricks.fused(grid))
        total, _ = datapath.tree([unit.number for unit in units])
        return Pending(total, sum(unit.most for unit in units)), self.spec.lanes


def _brick(datapath: Datapath, bricks: Bricks, unit: int, row: int, column: int) -> Pending:
    """Product of 2 bits by 2 bits."""
    p00, p01, p10, p11 = bricks.products(unit, row, column)
    signs = bricks.signs(row, column)
    x01, x10, x11 = (
        datapath.delayed(p, sign.time) ^ sign
        for p, sign in ((p01, signs.w), (p10, signs.a), (p11, signs.both))
    )
    upper = join(datapath, Pending(Number((x01, x11)), 3), Pending(Number((narrowed(datapath, x10, 2),)), 1))
    return Pending(Number((p00, *upper.number.bits)), 9)
