"""Powers of two as weights: every lane shifts in every cycle."""

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import and_
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..formats import Int, PowerOfTwo
from ..reduce.datapath import Accumulated, Datapath, Number
from ..reduce.offset import offset_tree
from ..reduce.terms import ZERO, Term, bits_of
from .contract import (
    DotProduct,
    DotProductUnit,
    Layout,
    Precision,
    enclosing,
    packed_bits,
    packed_words,
)

__all__ = ["Log2", "Log2Unit"]


@dataclass(frozen=True, kw_only=True)
class Log2(DotProduct):
    """``sum(a * w)`` for weights ``w = +-2**e`` or 0: a shifter in each lane instead of a multiplier.

    ::

        cycle     0            1                  2                               tree
        a ─ << 1 if e[0] ─ << 2 if e[1] ─ << 4 if e[2], ~ if negative ─┐
                           0 if w = 0                                  + ─ ... ─ + ──┬── o
                                           others' ────────────────────┘         ▲   │
                                                      1 if negative ─ carries   acc ◄┘

    A shift by 2**k is one LUT per bit, which has room for the select of zero, or of the complement. That a
    negative product is the complement plus one takes nothing: the ones are carries of the tree's adders.

    Weights are stored as sign and ``e``, all ones of which stand for zero.

    A step has ``lanes`` elements and one beat.

    Source: Miyashita, Lee, Murmann, "Convolutional Neural Networks using Logarithmic Data Representation",
    2016; what it does in hardware is that of a barrel shifter.

    Parameters
    ----------
    lanes
        Products per cycle.
    precisions
        A lane takes the formats that enclose all of them: no width is saved at run time.
    """

    name: ClassVar[str] = "log2"
    supports: ClassVar[str] = "activations of 1 to 16 bits, signed or unsigned; weights powers of two"
    activation_layout: ClassVar[Layout] = Layout.PACKED
    weight_layout: ClassVar[Layout] = Layout.PACKED

    @classmethod
    def supported(cls, precision: Precision) -> bool:
        a, w = precision
        return isinstance(a, Int) and a.bits <= 16 and isinstance(w, PowerOfTwo)

    @cached_property
    def activation(self) -> Int:
        """Format of a lane's activation, which holds those of every precision."""
        return enclosing([precision.activation for precision in self.precisions])

    @cached_property
    def weight(self) -> PowerOfTwo:
        """Format of a lane's weight, which holds those of every precision."""
        return PowerOfTwo(max(precision.weight.bits for precision in self.precisions))

    @property
    def activation_word_bits(self) -> int:
        return self.lanes * self.activation.bits

    @property
    def weight_word_bits(self) -> int:
        return self.lanes * self.weight.bits

    def pack_activations(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return packed_words(self.activation, precision.activation, values)

    def pack_weights(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        precision.weight.encode(values)
        codes = self.weight.encode(values)
        places = self.weight.bits - 1
        stored = (codes - 1 & (1 << places) - 1) | codes >> places << places
        return packed_bits(Int(self.weight.bits, signed=False), stored)[..., None, :]

    def unit(self) -> "Log2Unit":
        return Log2Unit(self)


class Log2Unit(DotProductUnit):
    """Hardware of :class:`Log2`."""

    spec: Log2

    def compute(self, datapath: Datapath) -> Accumulated:
        spec = self.spec
        p, q = spec.activation.bits, spec.weight.bits
        lanes = [
            self._shifted(
                datapath,
                Number(tuple(bits_of(self.a[lane * p : (lane + 1) * p])), spec.activation.signed),
                bits_of(self.w[lane * q : (lane + 1) * q]),
            )
            for lane in range(spec.lanes)
        ]
        negative = [Term.of(self.w[(lane + 1) * q - 1]) for lane in range(spec.lanes)]
        total, left = offset_tree(datapath, lanes, negative)
        return self.accumulate(
            datapath,
            total,
            carry=left[0] if left else ZERO,
        )

    def _shifted(self, datapath: Datapath, x: Number, weight: list[Term]) -> Number:
        """``x << e``, or the complement of that where the weight is negative."""
        *exponent, negative = weight
        zero = reduce(and_, exponent)
        gate = 0
        if len(exponent) > 2:
            # A LUT of its own, which is there in time for the second stage.
            zero = datapath.registered(Number((zero,))).bits[0]
            gate = 1
        for stage, select in enumerate(exponent):
            reach = min((2 << stage) - 1, self.spec.weight.max_exponent)
            width = self.spec.activation.bits + reach
            select = datapath.delayed(select, x.time)
            high = Number((*[ZERO] * (1 << stage), *x.bits), x.signed)
            bits = [
                select.select(one, other)
                for one, other in zip(high.extended(width), x.extended(width), strict=True)
            ]
            if stage == gate:
                keep = ~datapath.delayed(zero, x.time)
                bits = [bit & keep for bit in bits]
            if stage == len(exponent) - 1:
                flip = datapath.delayed(negative, x.time)
                bits = [bit ^ flip for bit in bits]
            x = datapath.registered(Number(tuple(bits), x.signed))
        return x if x.signed else Number((*x.bits, datapath.delayed(negative, x.time)), signed=True)
