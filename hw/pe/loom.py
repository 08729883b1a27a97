"""Loom's dot-product unit: both operands bit-serial, an accumulator for each loop over their planes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..reduce.datapath import Accumulated, Datapath, Number
from ..reduce.popcount import popcount
from ..reduce.terms import ONE, Term, bits_of
from .contract import Beat, DotProduct, DotProductUnit, Layout, Order, Precision, integers, planar_bits

__all__ = ["Loom", "LoomUnit"]


@dataclass(frozen=True, kw_only=True)
class Loom(DotProduct):
    """``sum(a * w) = sum_steps(sum_j(2**j * sum_i(+-2**i * popcount(a_i & w_j))))``, planes i of a, j of w.

    ::

        a_i ─┐                  negate
             AND ─ popcount ─── XOR ─ + ──┬─── + ──┬─── + ──┬── o
        w_j ─┘                        ▲   │    ▲   │    ▲   │
                                      x2 ◄┘    x2 ◄┘    └ ◄─┘
                                     inner    outer    result
                                   every beat  plane_end  step_end

    A weight plane is held while the activation planes stream past, both most significant first. ``inner``
    sums over the activation planes by Horner's rule; behind the last, ``plane_end``, its sum goes to
    ``outer``, which does the same over the weight planes; behind the last of those, ``step_end``, that sum
    goes to the result. Beats of a step at 2 x 2 bits, and what each adds::

        beat   a_i  w_j   inner               outer               result
        0      1    1     p11
        1      0    1     2 p11 + p01  end
        2      1    0     p10                 s1
        3      0    0     2 p10 + p00  end
        (4)               next step's         2 s1 + s0  end
        (5)                                   next step's         + 2 s1 + s0

    Both local accumulators double in every beat that they take: they begin at zero, so that no beat needs
    to say whether to shift. What they begin with is their flip-flops' reset, as each sum moves on to a
    register of its own; and a count is negated in the slots of ``inner``, where exactly one of its planes
    is the sign of a signed operand. So each accumulator takes one LUT for a bit, and two for a cut.

    The three cannot be merged for more than one precision: ``inner`` and ``outer`` restart at different
    beats, and the result must not be doubled with ``outer`` when a step begins. One accumulator for all of
    that would have to be shifted back by as many places as there are planes, in front of each loop. Taking
    pairs of planes in order of significance joins ``inner`` and ``outer``, and steps inside joins those and
    the result; that is BISMO (:mod:`bitwright.hw.pe.bismo`), which takes every step's words anew for a pair.

    A step has ``lanes`` elements and ``a * w`` beats for a and w bits.

    Source: Sharify, Delmas Lascorz, Siu, Judd, Moshovos, "Loom: Exploiting Weight and Activation Precisions
    to Accelerate Convolutional Neural Networks", DAC 2018.

    Parameters
    ----------
    lanes
        Bits of a word; the paper has 16.
    """

    name: ClassVar[str] = "loom"
    supports: ClassVar[str] = "integers of 1 to 16 bits, signed or unsigned"
    activation_layout: ClassVar[Layout] = Layout.PLANAR
    weight_layout: ClassVar[Layout] = Layout.PLANAR
    order: ClassVar[Order] = Order.STEPS_OUTSIDE

    @classmethod
    def supported(cls, precision: Precision) -> bool:
        return integers(precision)

    @property
    def activation_word_bits(self) -> int:
        return self.lanes

    @property
    def weight_word_bits(self) -> int:
        return self.lanes

    @property
    def control(self) -> dict[str, int]:
        return {"negate": 1, "plane_end": 1, "step_end": 1}

    @property
    def inner_bits(self) -> int:
        """Width of a weight plane's sum: of ``lanes`` activations, or minus that."""
        return self._signed_bits(
            sign * value
            for a, w in self.precisions
            for value in (a.min, a.max)
            for sign in ((1, -1) if w.min < 0 else (1,))
        )

    @property
    def outer_bits(self) -> int:
        """Width of a step's sum: of ``lanes`` products."""
        return self._signed_bits(value for precision in self.precisions for value in precision.products())

    def _signed_bits(self, values: Iterable[int]) -> int:
        return 1 + max(
            (value * self.lanes if value >= 0 else -value * self.lanes - 1).bit_length() for value in values
        )

    def beats(self, precision: Precision) -> tuple[Beat, ...]:
        a, w = precision
        return tuple(
            Beat(
                i,
                j,
                control={
                    "negate": int((a.min < 0 and i == a.bits - 1) != (w.min < 0 and j == w.bits - 1)),
                    "plane_end": int(i == 0),
                    "step_end": int(i == 0 and j == 0),
                },
            )
            for j in reversed(range(w.bits))
            for i in reversed(range(a.bits))
        )

    def pack_activations(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return planar_bits(precision.activation, values)

    def pack_weights(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return planar_bits(precision.weight, values)

    def unit(self) -> "LoomUnit":
        return LoomUnit(self)


class LoomUnit(DotProductUnit):
    """Hardware of :class:`Loom`."""

    spec: Loom

    def compute(self, datapath: Datapath) -> Accumulated:
        negate, plane_end, step_end = (self.field(name) for name in self.spec.control)
        valid, last = Term.of(self.valid), Term.of(self.last)
        products = [a & w for a, w in zip(bits_of(self.a), bits_of(self.w), strict=True)]
        count, left = popcount(datapath, products)

        # -(count + left) = ~count + 1 - left = ~count + ~left
        carry = datapath.registered(Number((left[0] ^ negate,))).bits[0] if left else negate
        plane_end, step_end = (datapath.strobe(valid & end) for end in (plane_end, step_end))
        time = max(count.time, carry.time, plane_end.time + 1)
        count, sign = datapath.aligned(count, time), datapath.delayed(negate, time)
        inner = datapath.accumulate(
            Number((*(bit ^ sign for bit in count.bits), sign), signed=True),
            self.spec.inner_bits,
            valid=valid,
            last=plane_end,
            carry=carry,
            double=ONE,
            segment=16,
            name="inner",
        )
        outer = datapath.accumulate(
            _sum(inner), self.spec.outer_bits, valid=plane_end, last=step_end, double=ONE, name="outer"
        )
        return datapath.accumulate(
            _sum(outer), self.spec.accumulator_bits, valid=step_end, last=last, name="result"
        )


def _sum(accumulated: Accumulated) -> Number:
    return Number(tuple(bits_of(accumulated.total, accumulated.time)), signed=True)
