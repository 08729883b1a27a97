"""UNPU's dot-product unit: weights bit-serial, sums of activations looked up in small tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from amaranth.hdl import Cat, Module, Signal
from numpy.typing import NDArray

from ..emission import never_elaborated
from ..formats import Int
from ..memory.lut_ram import LutRam
from ..reduce.datapath import Accumulated, Datapath, Number
from ..reduce.terms import ONE, ZERO, Term, bits_of
from .contract import (
    ActivationFeeder,
    Beat,
    DotProduct,
    DotProductUnit,
    Layout,
    Order,
    Precision,
    PriceCase,
    enclosing,
    integers,
    packed_words,
    planar_bits,
)

__all__ = ["GROUP", "TableGenerator", "Unpu", "UnpuUnit"]

GROUP = 5
"""Lanes of a table: with the symmetry, they fill the 16 words of a LUT RAM."""

ENTRIES = 1 << GROUP - 1
"""Words of a table."""


@dataclass(frozen=True, kw_only=True)
class Unpu(DotProduct):
    """``sum(a * w) = sum_j(+-2**j * sum(a where bit j of w is set))``, the inner sum looked up in tables.

    ::

                ┌ table of 5 lanes ─ negate ┐              base ──┐
        a, fill │ table of 5 lanes ─ negate ├ tree ──┬── /2 ─ + ◄─┘
                │ ...                       │        └─► base          negate
        w_j ────┴ address, sign ────────────┘                 └─────── XOR ─ + ──┬── + ── o
                                                                             ▲   │   ▲ └► results, one
                                                                       step  x2 ◄┘   └─── for each output

    A table holds the sums ``a0 +- a1 +- a2 +- a3 +- a4`` of a group's activations, and gives its entry or
    minus that: 16 entries, which is what a LUT RAM has, for five lanes. With digits d = +-1 for the bits b of
    a plane, ``b = (d + 1) / 2``, hence::

        sum(a where b is set) = (sum(a * d) + sum(a)) / 2

    What the tables add up to is ``sum(a * d)``; their first entries add up to ``sum(a)``, which ``base``
    keeps. Weight words hold addresses and signs: the digit of a group's first lane is its sign, and the
    others are relative to it. None of that takes logic: signs are taken in the slots of the tree's first
    adders, and the bits that complete the negations are carries in, of which there are as many as tables.
    Entries and sums have half of their range added, so that the tree is unsigned and extends no signs;
    adding ``base``, which has the same, takes it away again. Then weight planes follow by Horner's rule,
    most significant first.

    Beats of a step, with 16 entries, C outputs and weights of w bits::

        beat               activation word        weight word      does
        0 ... 15           entry 0 ... 15         none             write the entry of every table
        15                                                         base = sum of the first entries
        16 + c w ...       none                   w - 1 ... 0      step = 2 step +- plane
        15 + (c + 1) w                            of output c      results[c] += step

    so that ``lanes * C`` multiplications and additions take ``16 + C w`` beats: a table pays when it is
    used often, by many outputs. The results of C outputs are in LUT RAM, and each comes behind its own last
    beat, at least w cycles after the one before it. Tables are filled in the foreground, as a step is a
    fixed list of beats that does not reach into the next one.

    A step has ``lanes`` elements. Activation words are entries of all tables. They come from a
    :class:`TableGenerator`, of which a row of an array needs one for all of its columns.

    Source: Lee, Kim, Kang, Shin, Kim, Yoo, "UNPU: An Energy-Efficient Deep Neural Network Accelerator With
    Fully Variable Weight Bit Precision", IEEE JSSC 54(1), 2019. There, tables are filled with all sums of
    three or four activations.

    Parameters
    ----------
    lanes
        Activations of a step, at least 5; best a multiple of five.
    outputs
        Dot products that share the tables, 1 to 16.
    """

    name: ClassVar[str] = "unpu"
    supports: ClassVar[str] = "integers of 1 to 16 bits, signed or unsigned"
    activation_layout: ClassVar[Layout] = Layout.PACKED
    weight_layout: ClassVar[Layout] = Layout.PLANAR
    order: ClassVar[Order] = Order.STEPS_OUTSIDE

    outputs: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lanes < GROUP:
            raise ValueError(f"{self.name}: lanes = {self.lanes}: must be at least {GROUP}")
        self.check_integer("outputs", 1, 16)

    @classmethod
    def supported(cls, precision: Precision) -> bool:
        return integers(precision)

    @cached_property
    def lane(self) -> Int:
        """Format of an activation where it enters the table generator."""
        return enclosing([precision.activation for precision in self.precisions])

    @cached_property
    def groups(self) -> tuple[range, ...]:
        """Lanes of each table."""
        return tuple(range(low, min(low + GROUP, self.lanes)) for low in range(0, self.lanes, GROUP))

    @cached_property
    def entry_bits(self) -> int:
        """Width of a word of a table: a sum of signed activations plus ``2**(entry_bits - 1)``."""
        return self.lane.bits + (not self.lane.signed) + (GROUP - 1).bit_length()

    @property
    def plane_bits(self) -> int:
        """Width of a sum of activations: two's complement if those are signed."""
        low, high = self.lanes * self.lane.min, self.lanes * self.lane.max
        return max(high.bit_length(), (-low - 1).bit_length() if low else 0) + self.lane.signed

    @property
    def step_bits(self) -> int:
        """Width of a step's sum: of ``lanes`` products."""
        corners = [self.lanes * value for precision in self.precisions for value in precision.products()]
        return 1 + max((value if value >= 0 else -value - 1).bit_length() for value in corners)

    @property
    def activation_word_bits(self) -> int:
        return len(self.groups) * self.entry_bits

    @property
    def weight_word_bits(self) -> int:
        return self.lanes

    @property
    def control(self) -> dict[str, int]:
        fields = {"write": 1, "entry": 4, "sum": 1, "negate": 1, "end": 1}
        if self.outputs > 1:
            fields |= {"output": (self.outputs - 1).bit_length(), "step_end": 1}
        return fields

    def beats(self, precision: Precision) -> tuple[Beat, ...]:
        w = precision.weight
        fill = [
            Beat(entry, control={"write": 1, "entry": entry, "sum": int(entry == ENTRIES - 1)})
            for entry in range(ENTRIES)
        ]
        lookups = [
            Beat(
                weight=j,
                output=output,
                control={
                    "negate": int(w.min < 0 and j == w.bits - 1),
                    "end": int(j == 0),
                    "output": output,
                    "step_end": int(j == 0 and output == self.outputs - 1),
                },
            )
            for output in range(self.outputs)
            for j in reversed(range(w.bits))
        ]
        return (*fill, *lookups)

    def pack_activations(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        a = precision.activation.decode(precision.activation.encode(values))
        entry = Int(self.entry_bits, signed=False)
        words = []
        for index in range(ENTRIES):
            sums = [
                a[..., group] @ np.array([1, *(1 - 2 * (index >> bit & 1) for bit in range(len(group) - 1))])
                for group in self.groups
            ]
            biased = np.stack(sums, axis=-1) + (1 << self.entry_bits - 1)
            words.append(entry.planes(biased).reshape(*biased.shape[:-1], -1))
        return np.stack(words, axis=-2)

    def pack_weights(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        planes = planar_bits(precision.weight, values)
        words = planes.copy()
        for group in self.groups:
            words[..., group[1:]] ^= planes[..., group[:1]]
            words[..., group[0]] ^= 1
        return words

    def unit(self) -> "UnpuUnit":
        return UnpuUnit(self)

    def feeder(self) -> "TableGenerator":
        return TableGenerator(self)

    @classmethod
    def priced(cls) -> tuple[PriceCase, ...]:
        return (PriceCase(64, tuple(map(Precision.parse, ("a8w8", "a8w4", "a8w2", "a8w1", "a4w4", "a2w2")))),)

    @classmethod
    def variants(cls, *, dsp: bool) -> tuple[Mapping[str, Any], ...]:
        return ({"outputs": 1}, {"outputs": 16})


class UnpuUnit(DotProductUnit):
    """Hardware of :class:`Unpu`."""

    spec: Unpu

    def compute(self, datapath: Datapath) -> Accumulated:
        spec, m = self.spec, datapath.m
        valid, last = Term.of(self.valid), Term.of(self.last)
        write, take, end = (self.field(name) for name in ("write", "sum", "end"))
        lookup = datapath.strobe(valid & ~write)
        end = datapath.strobe(valid & end)

        # Tables. Between lookups their first words are read: the sum of all activations.
        address = Signal(spec.lanes, reset_less=True)
        m.d.sync += address.eq(self.w)
        with m.If(write.value):
            m.d.sync += address.eq(0)
        sums, signs = [], []
        for index, group in enumerate(spec.groups):
            m.submodules[f"table_{index}"] = table = _lut_ram(spec.entry_bits, ENTRIES)
            m.d.comb += [
                table.write_enable.eq(self.valid & write.value),
                table.write_address.eq(self.control.entry),
                table.write_data.eq(self.a.word_select(index, spec.entry_bits)),
                table.read_address.eq(address[group.start + 1 : group.stop]),
            ]
            entry = datapath.registered(Number(tuple(bits_of(table.read_data, 1))))
            sign = datapath.delayed(Term.of(address[group.start], 1), entry.time)
            sums.append(Number(tuple(bit ^ sign for bit in entry.bits)))
            signs.append(sign)
        digits, _ = _biased_tree(datapath, sums, signs)
        base = Signal(len(digits.bits), name="base", reset_less=True)
        # Needs no reset: every step takes its own before it is used.
        with m.If(datapath.delayed(valid & take, digits.time).value):
            m.d.sync += base.eq(datapath.value(digits))

        # Half of digits + base + the last sign. That is even, so that the lowest bits of the three carry if
        # either of the first two is set. The two biases together invert the top bit, or are beyond it.
        lowest, *bits = digits.bits
        lowest_base, *base_bits = bits_of(base, digits.time)
        width = spec.plane_bits
        half = datapath.add(Number((*bits,)), Number((*base_bits,)), lowest | lowest_base, width=width)
        plane = half.bits if width <= len(bits) else (*half.bits[:-1], ~half.bits[-1])
        negate = datapath.delayed(self.field("negate"), half.time)
        step = datapath.accumulate(
            Number((*(bit ^ negate for bit in plane), *([] if spec.lane.signed else [negate])), signed=True),
            spec.step_bits,
            valid=lookup,
            last=end,
            carry=negate,
            double=ONE,
            segment=8,
            name="step",
        )
        number = Number(tuple(bits_of(step.total, step.time)), signed=True)
        if spec.outputs == 1:
            return datapath.accumulate(number, spec.accumulator_bits, valid=end, last=last, name="result")
        return self.accumulate_outputs(datapath, number, end)

    def accumulate_outputs(self, datapath: Datapath, number: Number, end: Term) -> Accumulated:
        """Add to the sum of the beat's output; in a dot product's first step it is zero, not as stored."""
        spec, m = self.spec, datapath.m
        width, time = spec.accumulator_bits, number.time
        valid, last = Term.of(self.valid), Term.of(self.last)
        step_end = datapath.delayed(datapath.strobe(valid & self.field("step_end")), time, reset=True)
        final = datapath.delayed(last, time, reset=True)
        first = Signal(init=1)
        with m.If(step_end.value):
            m.d.sync += first.eq(final.value)
        m.submodules.results = results = _lut_ram(width, spec.outputs)
        output = Number(tuple(bits_of(self.control.output)))
        m.d.comb += results.read_address.eq(datapath.value(datapath.aligned(output, time)))
        before = Signal(width, name="before", reset_less=True)
        m.d.sync += before.eq(results.read_data)
        with m.If(first):
            m.d.sync += before.eq(0)

        # Two halves, the upper one a cycle behind.
        half = width // 2
        x, y = bits_of(before, time + 1), number.extended(width)
        low = datapath.add(Number(tuple(x[:half])), Number(y[:half]))
        high = datapath.add(Number(tuple(x[half:])), Number(y[half:]), low.bits[half], width=width - half)
        after = datapath.value(
            datapath.aligned(Number((*low.bits[:half], *high.bits), signed=True), high.time)
        ).as_signed()
        m.d.comb += [
            results.write_enable.eq(datapath.delayed(end, high.time, reset=True).value),
            results.write_address.eq(datapath.value(datapath.aligned(output, high.time))),
            results.write_data.eq(after),
        ]
        return Accumulated(after, datapath.delayed(last, high.time, reset=True).value, high.time)


class TableGenerator(ActivationFeeder):
    """Entries of the tables of :class:`Unpu`.

    Entry ``index`` of a group is ``a0 + sum(+-a[k])``, the sign of ``a[k]`` negative where bit k - 1 of the
    index is set, plus half of the range. It is a tree of adders of the group's five activations, negated in
    its slots.

    Parameters
    ----------
    spec
        The units.

    Members
    -------
    i, index, o : as of a feeder; activations are packed, in the format that holds all that the units are for
    """

    def __init__(self, spec: Unpu):
        self.spec = spec
        super().__init__(
            stored_word_bits=spec.lanes * spec.lane.bits,
            activation_word_bits=spec.activation_word_bits,
            words=ENTRIES,
            latency=(GROUP - 1).bit_length(),
        )

    def stored_bits(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return packed_words(self.spec.lane, precision.activation, values)[..., 0, :]

    def elaborate(self, platform: object) -> Module:
        spec = self.spec
        m = Module()
        datapath = Datapath(m, spec.fabric, platform)
        index = bits_of(self.index)
        entries = []
        for group in spec.groups:
            signs = [ZERO, *index][: len(group)]
            lanes = []
            for lane, sign in zip(group, signs, strict=True):
                bits = bits_of(self.i.word_select(lane, spec.lane.bits))
                bits = [*bits[:-1], ~bits[-1]] if spec.lane.signed else [*bits, ONE]
                lanes.append(Number(tuple(bit ^ sign for bit in bits)))
            entry, _ = _biased_tree(datapath, lanes, signs[1:])
            entries.append(datapath.aligned(_biased(entry, spec.entry_bits), self.latency))
        datapath.finish()
        m.d.comb += self.o.eq(Cat(datapath.value(entry) for entry in entries))
        return m


def _lut_ram(width: int, depth: int) -> LutRam:
    return never_elaborated(LutRam(width=width, depth=depth))  # as those of a trial build are


def _biased(number: Number, width: int) -> Number:
    """``total + 2**(width - 1)`` of a number of fewer bits that is its total plus half of its range."""
    top = number.bits[-1]
    return Number((*number.bits[:-1], *[~top] * (width - len(number.bits)), top))


def _biased_tree(
    datapath: Datapath, numbers: Sequence[Number], extras: Sequence[Term]
) -> tuple[Number, Sequence[Term]]:
    """Balanced tree of additions of biased numbers: unsigned ones, their value plus half of their range.

    Two of them add up to another one, one bit wider, so that no adder extends a sign. Every adder takes one
    of the extras, bits that count 1, as its carry in. Returns the sum and the extras that are left.
    """
    left = list(extras)
    level = list(numbers)
    while len(level) > 1:
        width = max(len(number.bits) for number in level)
        level = [_biased(number, width) for number in level]
        sums = [
            datapath.add(x, y, left.pop(0) if left else ZERO)
            for x, y in zip(level[0::2], level[1::2], strict=False)
        ]
        level = sums + level[len(level) // 2 * 2 :]
    return level[0], left
