"""Stripes' dot-product unit: one bit of every activation times all bits of every weight in a beat."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..formats import Int
from ..reduce.datapath import Accumulated, Datapath, Number
from ..reduce.terms import ZERO, bits_of
from .contract import (
    Beat,
    DotProduct,
    DotProductUnit,
    Layout,
    Precision,
    PriceCase,
    enclosing,
    integers,
    packed_words,
    planar_bits,
)

__all__ = ["Stripes", "StripesUnit"]


@dataclass(frozen=True, kw_only=True)
class Stripes(DotProduct):
    """``sum(a * w) = sum(+-2**i * sum(a_i ? w : 0))`` over the bit planes i of a.

    ::

        a_i ─┐
             AND ─ adder tree ─ negate ─ + ──┬── o      acc' = (shift ? 2 acc : acc) +- sum(a_i ? w : 0)
        w ═══╛                           ▲   │
                               (shift) acc ◄─┘

        beat     0            1            ...   p - 1
        plane    p - 1        p - 2        ...   0
        shift    -            yes          ...   yes           (in the first step of a dot product)
        negate   a is signed  -            ...   -

    Planes come most significant first, and the accumulator is shifted by one place between them (Horner's
    rule). The sign plane of signed activations counts negative. Neither takes LUTs: the last adder of the
    tree inverts its inputs inside the slot, the two carries that complete the negation being ``negate``
    itself, and the accumulator's slot chooses between its two neighbours.

    A step has ``lanes`` elements and p beats for activations of p bits, whatever the width of the weights.

    Source: Judd, Albericio, Hetherington, Aamodt, Moshovos, "Stripes: Bit-Serial Deep Neural Network
    Computing", MICRO 2016.

    Parameters
    ----------
    lanes
        Bits of an activation word, at least 3.
    """

    name: ClassVar[str] = "stripes"
    supports: ClassVar[str] = "integers of 1 to 16 bits, signed or unsigned"
    activation_layout: ClassVar[Layout] = Layout.PLANAR
    weight_layout: ClassVar[Layout] = Layout.PACKED

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lanes < 3:
            raise ValueError(f"{self.name}: lanes = {self.lanes}: must be at least 3")

    @classmethod
    def supported(cls, precision: Precision) -> bool:
        return integers(precision)

    @classmethod
    def priced(cls) -> tuple[PriceCase, ...]:
        return (PriceCase(16, tuple(map(Precision.parse, ("a8w8", "a4w8", "a8w16")))),)

    @cached_property
    def weight_lane(self) -> Int:
        """What a lane holds of every weight format."""
        return enclosing([precision.weight for precision in self.precisions])

    @property
    def activation_word_bits(self) -> int:
        return self.lanes

    @property
    def weight_word_bits(self) -> int:
        return self.lanes * self.weight_lane.bits

    @property
    def control(self) -> dict[str, int]:
        beats = [beat for precision in self.precisions for beat in self.beats(precision)]
        fields = {"shift": any(beat.shift for beat in beats)}
        fields["negate"] = any(beat.control["negate"] for beat in beats)
        return {name: 1 for name, needed in fields.items() if needed}

    def beats(self, precision: Precision) -> tuple[Beat, ...]:
        top = precision.activation.bits - 1
        return tuple(
            Beat(
                plane,
                shift=plane != top,
                control={"negate": int(plane == top and precision.activation.min < 0)},
            )
            for plane in reversed(range(top + 1))
        )

    def pack_activations(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return planar_bits(precision.activation, values)

    def pack_weights(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return packed_words(self.weight_lane, precision.weight, values)

    def unit(self) -> "StripesUnit":
        return StripesUnit(self)


class StripesUnit(DotProductUnit):
    """Hardware of :class:`Stripes`."""

    spec: Stripes

    def compute(self, datapath: Datapath) -> Accumulated:
        spec = self.spec
        negate = self.field("negate") if "negate" in spec.control else ZERO
        shift = self.field("shift") if "shift" in spec.control else ZERO
        lane = spec.weight_lane
        w = bits_of(self.w)
        products = [
            Number(tuple(a & bit for bit in w[index * lane.bits : (index + 1) * lane.bits]), lane.signed)
            for index, a in enumerate(bits_of(self.a))
        ]
        half = (spec.lanes + 2) // 4 * 2  # even, so that only a last lane may lack a partner
        left, _ = datapath.tree(products[:half])
        right, _ = datapath.tree(products[half:])
        return self.accumulate(
            datapath,
            datapath.add(left, right, negate, flip=negate),
            carry=negate,
            double=shift,
        )
