"""BISMO's dot-product unit: one bit of every activation times one bit of every weight in a beat."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..formats import Int
from ..reduce.datapath import Accumulated, Datapath
from ..reduce.popcount import signed_popcount
from ..reduce.terms import bits_of
from .contract import Beat, DotProduct, DotProductUnit, Layout, Precision, PriceCase, integers, planar_bits

__all__ = ["Bismo", "BismoUnit"]


@dataclass(frozen=True, kw_only=True)
class Bismo(DotProduct):
    """``sum(a * w) = sum(+-2**(i + j) * popcount(a_i & w_j))`` over the bit planes i of a and j of w.

    ::

        a_i ─┐
             AND ─ popcount ─ negate ─ + ──┬── o      acc' = (shift ? 2 acc : acc) +- popcount(a_i & w_j)
        w_j ─┘                         ▲   │
                             (shift) acc ◄─┘

    Plane pairs come in descending order of i + j, so that the accumulator is shifted by one place between
    significances (Horner's rule). A pair counts negative where exactly one of its planes is the sign of a
    signed operand. Negating and shifting take no LUTs: the last adder of the count inverts its inputs inside
    the slot (``-(x + y) = ~x + ~y + 2``, the two carries being inverted bits themselves), and the
    accumulator's slot chooses between its two neighbours.

    A step has ``lanes`` elements and ``a * w`` beats for a and w bits.

    Source: Umuroglu, Rasnayake, Själander, "BISMO: A Scalable Bit-Serial Matrix Multiplication Overlay for
    Reconfigurable Computing", FPL 2018.

    Parameters
    ----------
    lanes
        Bits of a word, at least 4.
    """

    name: ClassVar[str] = "bismo"
    supports: ClassVar[str] = "integers of 1 to 16 bits, signed or unsigned"
    activation_layout: ClassVar[Layout] = Layout.PLANAR
    weight_layout: ClassVar[Layout] = Layout.PLANAR

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lanes < 4:
            raise ValueError(f"{self.name}: lanes = {self.lanes}: must be at least 4")

    @classmethod
    def supported(cls, precision: Precision) -> bool:
        return integers(precision)

    @classmethod
    def priced(cls) -> tuple[PriceCase, ...]:
        precisions = tuple(map(Precision.parse, ("au1wu1", "a2w2", "a4w4", "a8w8")))
        return tuple(PriceCase(lanes, precisions, built=precisions) for lanes in (64, 128))

    @property
    def activation_word_bits(self) -> int:
        return self.lanes

    @property
    def weight_word_bits(self) -> int:
        return self.lanes

    @property
    def control(self) -> dict[str, int]:
        return {"shift": 1, "negate": 1}

    def beats(self, precision: Precision) -> tuple[Beat, ...]:
        return plane_pairs(precision)

    def pack_activations(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return planar_bits(precision.activation, values)

    def pack_weights(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return planar_bits(precision.weight, values)

    def unit(self) -> "BismoUnit":
        return BismoUnit(self)


def plane_pairs(precision: Precision) -> tuple[Beat, ...]:
    """Every pair of bit planes, the most significant first, a shift between significances."""
    a, w = precision.activation, precision.weight
    assert isinstance(a, Int)
    assert isinstance(w, Int)
    beats: list[Beat] = []
    for significance in reversed(range(a.bits + w.bits - 1)):
        for i in reversed(range(a.bits)):
            j = significance - i
            if 0 <= j < w.bits:
                negate = (a.signed and i == a.bits - 1) != (w.signed and j == w.bits - 1)
                first = bool(beats) and sum(_planes(beats[-1])) != significance
                beats.append(Beat(i, j, shift=first, control={"negate": int(negate)}))
    return tuple(beats)


def _planes(beat: Beat) -> tuple[int, int]:
    return beat.activation, beat.weight


class BismoUnit(DotProductUnit):
    """Hardware of :class:`Bismo`."""

    spec: Bismo

    def compute(self, datapath: Datapath) -> Accumulated:
        negate, shift = self.field("negate"), self.field("shift")
        products = [a & w for a, w in zip(bits_of(self.a), bits_of(self.w), strict=True)]
        negated, carry = signed_popcount(datapath, products, negate)
        return self.accumulate(
            datapath,
            negated,
            carry=carry,
            double=shift,
            segment=8,
        )
