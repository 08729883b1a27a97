"""Unit for ternary weights: a tree of adders that add, subtract or leave out."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..formats import Bipolar, Int, Ternary
from ..reduce.datapath import Accumulated, Datapath, Number
from ..reduce.terms import ONE, ZERO, Term, bits_of
from .contract import (
    DotProduct,
    DotProductUnit,
    Layout,
    Precision,
    PriceCase,
    enclosing,
    packed_words,
)

__all__ = ["TernaryDot", "TernaryUnit"]


@dataclass(frozen=True, kw_only=True)
class TernaryDot(DotProduct):
    """Dot product with weights of -1, 0 and +1, one beat per step.

    ::

        a[0] ─┐
              node ─┐                       node:  both  other   out
        a[1] ─┘     │                                1     0     x + y
                    node ─ ... ─ root ─── + ──┬── o  1     1     x - y
        a[2] ─┐     │            ▲        ▲   │      0     1     x
              node ─┘        nonzero,    acc ◄┘      0     0     y
        a[3] ─┘              negative

    No lane is gated or negated by itself. A node's sum is right up to a factor of -1, 0 or +1, which its
    parent takes into account: it adds where the factors of its inputs are equal, subtracts where they are
    opposite, passes one input where the other's factor is 0, and has the factor of the left input itself, or
    of the right one if that is 0. Only the last factor is applied, as the sum is accumulated. As the weights
    are constant, so is all of that: a weight word holds ``both`` and ``other`` of every node, from the leaves
    to the root, and ``nonzero`` and ``negative`` of the last factor: as many bits as the weights' codes.

    With two control bits, a carry slot of an ECP5 does all that a node does to a pair of bits, so that
    gating and signs take no LUTs; the ones that complete subtractions are the adders' carries in.

    Where all weights are bipolar no factor is 0, and a node has one control bit, which is ``other``.

    Sources: Li, Liu, "Ternary Weight Networks", 2016; Wan et al., "TBN", ECCV 2018 (bipolar weights with
    ternary activations).

    Parameters
    ----------
    lanes
        Elements of a step, at least 2.
    """

    name: ClassVar[str] = "ternary"
    supports: ClassVar[str] = (
        "ternary weights with integers of 1 to 16 bits, ternary or bipolar activations, and bipolar weights "
        "with ternary activations"
    )
    activation_layout: ClassVar[Layout] = Layout.PACKED
    weight_layout: ClassVar[Layout] = Layout.PACKED

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lanes < 2:
            raise ValueError(f"{self.name}: lanes = {self.lanes}: must be at least 2")

    @classmethod
    def supported(cls, precision: Precision) -> bool:
        match precision.activation, precision.weight:
            case Int(bits=bits), Ternary():
                return bits <= 16
            case (Bipolar() | Ternary(), Ternary()) | (Ternary(), Bipolar()):
                return True
        return False

    @classmethod
    def priced(cls) -> tuple[PriceCase, ...]:
        return (PriceCase(16, tuple(map(Precision.parse, ("a8wt", "atwt")))),)

    @cached_property
    def activation_lane(self) -> Bipolar | Int:
        """What an activation is in hardware."""
        formats = [precision.activation for precision in self.precisions]
        return Bipolar() if all(format == Bipolar() for format in formats) else enclosing(formats)

    @property
    def skips(self) -> bool:
        """Whether weights may be zero."""
        return any(precision.weight == Ternary() for precision in self.precisions)

    @property
    def activation_word_bits(self) -> int:
        return self.lanes * self.activation_lane.bits

    @property
    def weight_word_bits(self) -> int:
        return self.lanes * (2 if self.skips else 1)

    def pack_activations(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return packed_words(self.activation_lane, precision.activation, values)

    def pack_weights(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        precision.weight.encode(values)
        factors = list(np.moveaxis(values, -1, 0))
        bits: list[NDArray[np.bool_]] = []
        while len(factors) > 1:
            joined = []
            for x, y in zip(factors[::2], factors[1::2], strict=False):
                both = x * y != 0
                other = np.where(both, x != y, x != 0)
                bits += [both, other] if self.skips else [other]
                joined.append(np.where(x != 0, x, y))
            factors = joined + factors[len(factors) // 2 * 2 :]
        (factor,) = factors
        bits += [factor != 0, factor < 0] if self.skips else [factor < 0]
        return np.stack(bits, axis=-1).astype(np.uint8)[..., None, :]

    def unit(self) -> "TernaryUnit":
        return TernaryUnit(self)


class TernaryUnit(DotProductUnit):
    """Hardware of :class:`TernaryDot`."""

    spec: TernaryDot

    def compute(self, datapath: Datapath) -> Accumulated:
        spec = self.spec
        control = iter(bits_of(self.w))
        level = self._activations()
        while len(level) > 1:
            sums = []
            for x, y in zip(level[::2], level[1::2], strict=False):
                both = next(control) if spec.skips else ONE
                sums.append(_node(datapath, x, y, both, next(control)))
            level = sums + level[len(level) // 2 * 2 :]
        (total,) = level
        nonzero = datapath.delayed(next(control) if spec.skips else ONE, total.time)
        negative = datapath.delayed(next(control), total.time)
        return self.accumulate(
            datapath,
            Number(tuple(nonzero & (bit ^ negative) for bit in total.bits), signed=True),
            carry=nonzero & negative,
        )

    def _activations(self) -> list[Number]:
        lane = self.spec.activation_lane
        bits = bits_of(self.a)
        if isinstance(lane, Bipolar):
            return [Number((ONE, ~bit), signed=True) for bit in bits]
        sign = [] if lane.signed else [ZERO]
        words = [bits[index : index + lane.bits] for index in range(0, len(bits), lane.bits)]
        return [Number((*word, *sign), signed=True) for word in words]


def _node(datapath: Datapath, x: Number, y: Number, both: Term, other: Term) -> Number:
    """``x +- y`` where ``both`` is set, otherwise one of them: x where ``other`` is set."""
    time = max(x.time, y.time)
    both, other = datapath.delayed(both, time), datapath.delayed(other, time)
    width = max(len(x.bits), len(y.bits))
    x, y = datapath.aligned(x, time), datapath.aligned(y, time)
    chosen = [
        both.select(two ^ other, other.select(one, two))
        for one, two in zip(x.extended(width), y.extended(width), strict=True)
    ]
    added = [both & bit for bit in x.bits]
    return datapath.add(Number(tuple(chosen), signed=True), Number(tuple(added), signed=True), both & other)
