"""The plain dot-product unit: every lane multiplies in every cycle."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from amaranth.hdl import Cat, Const, Value
from numpy.typing import NDArray

from ..emission import never_elaborated
from ..formats import Int
from ..reduce.datapath import Accumulated, Datapath, Number
from ..reduce.heap import heap_sum
from ..reduce.offset import offset_tree
from ..reduce.terms import ONE, ZERO, Term, bits_of
from .contract import (
    DotProduct,
    DotProductUnit,
    Layout,
    Precision,
    PriceCase,
    enclosing,
    integers,
    packed_bits,
    packed_words,
)
from .multiplier import BlockMultiplier

__all__ = ["Multiplier", "Parallel", "ParallelUnit"]

Multiplier = Literal["dsp", "lut"]


@dataclass(frozen=True, kw_only=True)
class Parallel(DotProduct):
    """``sum(a * w)``, a product per lane and cycle.

    From LUTs, as the sum of the products of bits::

        a, w ─ a_i & w_j ─┬─ heap of those that count positive ─┐
                          │                                     - ── + ──┬── o
                          └─ heap of those that count negative ─┘    ▲   │
                                                                    acc ◄┘

    The bits of all lanes are added together by weight (:func:`~bitwright.hw.reduce.heap.heap_sum`): there is
    no product of a lane in between. Those of which exactly one factor is the sign of a signed operand count
    negative. They are added on their own and subtracted once, so that no sign is extended.

    From multiplier blocks, whose products a tree adds::

        a ───────────────────────────┐                       ┌ p+q bits ─ tree 1 ─ + ─┬─ o[1]
                                     × ─ a * w1 ║ a * w0 ────┤            ▲       acc ┘
        w0 + 2**(p+q) * w1 ──────────┘                       │  sign of a * w0
                                                             └ p+q bits ─ tree 0 ─ + ─┬─ o[0]
                                                                                  acc ┘

    With ``outputs`` above 1, a unit computes that many dot products of the same activations with weights of
    their own, and a block multiplies an activation by as many weights as it has room for: with p bits of
    activation and q of weight, n of them take ``(n - 1) * (p + q) + q`` bits of 18 (16 on an iCE40), and one
    more where weights are signed or only activations are. So a block of 18 bits takes two products at a8w4
    and a4w4, three at a4w2, four at a2w2. A field of the product is one too small where the field below is
    negative; the sign bit of that one makes up for it, as a carry of the tree. The weights are stored in such
    a way that their sum is wiring and two LUTs (:meth:`pack_weights`). At 2 bits, LUTs alone take less than
    what a block leaves to be added.

    A step has ``lanes`` elements and one beat.

    Parameters
    ----------
    lanes
        Products of an output per cycle.
    precisions
        A lane takes the formats that enclose all of them: no width is saved at run time.
    multiplier
        What multiplies: ``"lut"`` or ``"dsp"``.
    outputs
        Dot products side by side.
    """

    name: ClassVar[str] = "parallel"
    supports: ClassVar[str] = "integers of 1 to 16 bits, signed or unsigned"
    activation_layout: ClassVar[Layout] = Layout.PACKED
    weight_layout: ClassVar[Layout] = Layout.PACKED

    multiplier: Multiplier = "lut"
    outputs: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multiplier not in get_args(Multiplier):
            allowed = ", ".join(get_args(Multiplier))
            raise ValueError(f"{self.name}: multiplier = {self.multiplier!r}: must be one of {allowed}")
        self.check_integer("outputs", 1)
        if self.multiplier == "dsp" and max(self.operand_bits(1)) > self.block_bits:
            raise ValueError(
                f"{self.name}: multiplier = 'dsp': {self.activation} by {self.weight} needs operands of "
                f"{max(self.operand_bits(1))} bits, a block has {self.block_bits}"
            )

    @classmethod
    def supported(cls, precision: Precision) -> bool:
        return integers(precision)

    @classmethod
    def priced(cls) -> tuple[PriceCase, ...]:
        a8w8, a4w4, a8w4, a2w2 = map(Precision.parse, ("a8w8", "a4w4", "a8w4", "a2w2"))
        return PriceCase(16, (a8w8, a4w4, a8w4)), PriceCase(64, (a2w2,)), PriceCase(8, (a8w8, a8w4))

    @classmethod
    def variants(cls, *, dsp: bool) -> tuple[Mapping[str, Any], ...]:
        if not dsp:
            return ({"multiplier": "lut"},)
        return {"multiplier": "dsp"}, {"multiplier": "dsp", "outputs": 2}

    @property
    def outputs_per_beat(self) -> int:
        return self.outputs

    @cached_property
    def activation(self) -> Int:
        """Format of a lane's activation, which holds those of every precision."""
        return enclosing([precision.activation for precision in self.precisions])

    @cached_property
    def weight(self) -> Int:
        """Format of a lane's weight, which holds those of every precision."""
        return enclosing([precision.weight for precision in self.precisions])

    @property
    def activation_word_bits(self) -> int:
        return self.lanes * self.activation.bits

    @property
    def weight_word_bits(self) -> int:
        return self.lanes * self.outputs * self.weight.bits

    def pack_activations(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return packed_words(self.activation, precision.activation, values)

    def pack_weights(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        """Words of a step's weights, as bits: ``(..., elements)`` to ``(..., words, word bits)``.

        With several outputs, from ``(..., outputs, elements)``; their weights lie behind one another, each
        output's of all lanes. Where a block takes more than one, and weights are signed, what is stored is
        less by one where that of the output below is negative: what the upper half of the sum
        ``low + 2**n * high`` is in two's complement. It may be ``-2**(bits - 1) - 1``, of which ``bits`` bits
        are kept; the hardware knows it for that, as ``2**(bits - 1) - 1`` is not stored above a negative one.
        """
        if self.outputs == 1:
            return packed_words(self.weight, precision.weight, values)
        precision.weight.encode(values)
        stored = values.astype(np.int64)
        for output in range(1, self.outputs):
            if output % self.share and self.weight.signed:
                stored[..., output, :] -= stored[..., output - 1, :] < 0
        half = 1 << self.weight.bits - 1
        wrapped = (stored + half) % (2 * half) - half if self.weight.signed else stored
        bits = packed_bits(self.weight, wrapped)
        return bits.reshape(*bits.shape[:-2], 1, -1)

    @property
    def block_bits(self) -> int:
        """Widest operand of a multiplier block."""
        return 16 if self.fabric == "ice40" else 18

    def operand_bits(self, share: int) -> tuple[int, int]:
        """Operands of a block that multiplies an activation by so many weights."""
        p, q = self.activation.bits, self.weight.bits
        more = share > 1 and self.weight.signed
        weights = (share - 1) * (p + q) + q + more
        return (
            p + (self.weight.signed and not self.activation.signed),
            weights + (self.activation.signed and not self.weight.signed),
        )

    @cached_property
    def share(self) -> int:
        """Weights that a block multiplies an activation by."""
        if self.multiplier == "lut":
            return 1
        fitting = (n for n in range(1, self.outputs + 1) if max(self.operand_bits(n)) <= self.block_bits)
        return max(fitting)

    def unit(self) -> "ParallelUnit":
        return ParallelUnit(self)


class ParallelUnit(DotProductUnit):
    """Hardware of :class:`Parallel`."""

    spec: Parallel

    def compute(self, datapath: Datapath) -> Accumulated:
        spec = self.spec
        sums = self._rows(datapath) if spec.multiplier == "lut" else self._blocks(datapath)
        results = [
            self.accumulate(
                datapath,
                total,
                carry=carry,
                name=f"accumulator_{output}",
                segment=12 if spec.multiplier == "lut" else 16,
            )
            for output, (total, carry) in enumerate(sums)
        ]
        total = Cat(result.total for result in results).as_signed()
        return Accumulated(total, results[0].valid, results[0].time)

    def _weight(self, lane: int, output: int) -> Value:
        place = (output * self.spec.lanes + lane) * self.spec.weight.bits
        return self.w[place : place + self.spec.weight.bits]

    def _rows(self, datapath: Datapath) -> list[tuple[Number, Term]]:
        """Every output's sum of products of bits."""
        spec = self.spec
        p, q = spec.activation.bits, spec.weight.bits
        a = bits_of(self.a)
        sums = []
        for output in range(spec.outputs):
            positive: dict[int, list[Term]] = defaultdict(list)
            negative: dict[int, list[Term]] = defaultdict(list)
            for lane in range(spec.lanes):
                w = bits_of(self._weight(lane, output))
                for i, j in product(range(p), range(q)):
                    minus = (spec.activation.signed and i == p - 1) != (spec.weight.signed and j == q - 1)
                    (negative if minus else positive)[i + j].append(a[lane * p + i] & w[j])
            total = heap_sum(datapath, positive)
            if negative:
                total = datapath.add(total, heap_sum(datapath, negative), ONE, negate=ONE)
            if total.time == 0:
                total = datapath.registered(total)  # a single product, which nothing was added to
            sums.append((total, ZERO))
        return sums

    def _blocks(self, datapath: Datapath) -> list[tuple[Number, Term]]:
        """Every output's sum of products of multiplier blocks, and what is to be added to it yet."""
        spec = self.spec
        p, q = spec.activation.bits, spec.weight.bits
        is_signed = spec.activation.signed or spec.weight.signed
        field = p + q
        sums = []
        for first in range(0, spec.outputs, spec.share):
            count = min(spec.share, spec.outputs - first)
            a_bits, w_bits = spec.operand_bits(count)
            numbers: list[list[Number]] = [[] for _ in range(count)]
            borrows: list[list[Term]] = [[] for _ in range(count)]
            for lane in range(spec.lanes):
                # Wired up by whoever uses the datapath's module; a trial build drops it.
                block = never_elaborated(BlockMultiplier(a_bits, w_bits, signed=is_signed))
                datapath.m.submodules[f"multiplier_{first}_{lane}"] = block
                weights = [self._weight(lane, first + index) for index in range(count)]
                a = self.a[lane * p : (lane + 1) * p]
                datapath.m.d.comb += [
                    block.a.eq(a.as_signed() if spec.activation.signed else a),
                    block.b.eq(self._side_by_side(weights)),
                ]
                bits = bits_of(block.product, block.LATENCY)
                for index in range(count):
                    low = index * field
                    numbers[index].append(Number(tuple(bits[low : low + field]), is_signed))
                    if index and is_signed:
                        borrows[index].append(bits[low - 1])
            for products, extras in zip(numbers, borrows, strict=True):
                total, left = offset_tree(datapath, products, extras)
                sums.append((total, left[0] if left else ZERO))
        return sums

    def _side_by_side(self, stored: Sequence[Value]) -> Value:
        """The sum of weights, each shifted by the width of a product more than the one below."""
        if not self.spec.weight.signed:
            return Cat(Cat(bits, Const(0, self.spec.activation.bits)) for bits in stored)
        fields: list[Value] = []
        sign: Value = Const(0, 1)
        for bits in stored:
            sign = bits[-1] | Cat(sign, bits[:-1]).all()
            fields += [bits, sign.replicate(self.spec.activation.bits)]
        return Cat(fields).as_signed()
