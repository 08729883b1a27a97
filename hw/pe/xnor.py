"""XNOR unit: bipolar weights times bipolar activations, or times integers."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..formats import Bipolar, Int
from ..reduce.datapath import Accumulated, Datapath, Number
from ..reduce.offset import centred, constant_number, signed_tree
from ..reduce.popcount import popcount
from ..reduce.terms import ZERO, bits_of
from .contract import (
    DotProduct,
    DotProductUnit,
    Layout,
    Precision,
    PriceCase,
    enclosing,
    packed_words,
)

__all__ = ["Xnor", "XnorUnit"]


@dataclass(frozen=True, kw_only=True)
class Xnor(DotProduct):
    """Dot product with weights of -1 and +1, one beat per step.

    With bipolar activations only, matches are counted::

        a ─┐
           XNOR ─ popcount ─ - lanes/2 ─ + ──┬── o = 2 acc
        w ─┘                             acc ◄─┘

        sum(a * w) = matches - mismatches = 2 * (matches - lanes / 2)

    The weight word holds the complement of the weights' codes, so that a match is ``a ^ w``, which a carry
    slot can add; subtracting half of the lanes inverts the top bit of the count.

    With integer activations a weight of -1 inverts all bits of its activation, and its completing one is the
    carry in of one of the adders, of which there are as many as there are lanes::

        a[k] ─ XOR ─┐
        n[k] ──┘    + ... tree ... + ──┬── o          sum(a * w) = sum((a ^ n) + n), n set for a weight of -1
        n[k] ─ carry in            acc ◄─┘

    Sources: Rastegari et al., "XNOR-Net", ECCV 2016; for wide activations Courbariaux et al.,
    "BinaryConnect", NeurIPS 2015, and Andri et al., "YodaNN", TCAD 2018.

    Parameters
    ----------
    lanes
        Elements of a step; even, at least 4.
    """

    name: ClassVar[str] = "xnor"
    supports: ClassVar[str] = "bipolar weights with bipolar activations or integers of 1 to 16 bits"
    activation_layout: ClassVar[Layout] = Layout.PACKED
    weight_layout: ClassVar[Layout] = Layout.PACKED

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lanes < 4 or self.lanes % 2:
            raise ValueError(f"{self.name}: lanes = {self.lanes}: must be even and at least 4")

    @classmethod
    def supported(cls, precision: Precision) -> bool:
        activation = precision.activation
        return isinstance(precision.weight, Bipolar) and (
            isinstance(activation, Bipolar) or (isinstance(activation, Int) and activation.bits <= 16)
        )

    @classmethod
    def priced(cls) -> tuple[PriceCase, ...]:
        abwb, a8wb = map(Precision.parse, ("abwb", "a8wb"))
        return PriceCase(64, (abwb,)), PriceCase(128, (abwb,)), PriceCase(16, (a8wb,))

    @cached_property
    def lane(self) -> Bipolar | Int:
        """What an activation is in hardware."""
        formats = [precision.activation for precision in self.precisions]
        return Bipolar() if all(format == Bipolar() for format in formats) else enclosing(formats)

    @property
    def activation_word_bits(self) -> int:
        return self.lanes * self.lane.bits

    @property
    def weight_word_bits(self) -> int:
        return self.lanes

    def pack_activations(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return packed_words(self.lane, precision.activation, values)

    def pack_weights(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return 1 - packed_words(precision.weight, precision.weight, values)

    def unit(self) -> "XnorUnit":
        return XnorUnit(self)


class XnorUnit(DotProductUnit):
    """Hardware of :class:`Xnor`."""

    spec: Xnor

    def compute(self, datapath: Datapath) -> Accumulated:
        lane = self.spec.lane
        return self._matches(datapath) if isinstance(lane, Bipolar) else self._signed_rows(datapath, lane)

    def _matches(self, datapath: Datapath) -> Accumulated:
        spec = self.spec
        *counted, last = [a ^ n for a, n in zip(bits_of(self.a), bits_of(self.w), strict=True)]
        total, _ = popcount(datapath, counted)
        half = spec.lanes // 2
        width = (2 * half - 1).bit_length()
        if missing := (1 << (width - 1)) - half:
            total = datapath.add(total, constant_number(missing), width=width)
        result = self.accumulate(
            datapath,
            centred(total, width),
            width=spec.accumulator_bits - 1,
            carry=last,
        )
        return result.times_two()

    def _signed_rows(self, datapath: Datapath, lane: Int) -> Accumulated:
        activations, negative = bits_of(self.a), bits_of(self.w)
        rows = []
        for index, n in enumerate(negative):
            bits = activations[index * lane.bits : (index + 1) * lane.bits]
            if not lane.signed:
                bits.append(ZERO)
            rows.append(Number(tuple(bit ^ n for bit in bits), signed=True))
        # As many adders as lanes, with the accumulator, take a carry each.
        total, left = signed_tree(datapath, rows, negative)
        return self.accumulate(
            datapath,
            total,
            carry=left[0] if left else ZERO,
        )
