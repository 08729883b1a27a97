"""The contract of a dot-product unit: what arrays, sequencer, compiler and cycle model know of one.

A unit is declared by data, a :class:`DotProduct`, and made as hardware by its :meth:`DotProduct.unit`.
Nothing outside a unit's own file, and the registry in :mod:`bitwright.hw.pe` that names it, asks which one it
is.

**Terms.** A *word* is what an operand port takes in one cycle, a *beat* one cycle with one word of each
operand. A *step* is :meth:`~DotProduct.elements` positions of the dot product; at a precision it is a fixed
list of :meth:`~DotProduct.beats`. A dot product of several steps runs them in one of two orders::

    Order.BEATS_OUTSIDE                          Order.STEPS_OUTSIDE
    for beat in beats:                           for step in range(steps):
        for step in range(steps):                    for beat in beats:
            issue(step, beat,                            issue(step, beat,
                  shift=beat.shift and step == 0)              shift=beat.shift)

Beats outside keeps one accumulator that is shifted once per bit of precision, however many steps there are;
steps outside keeps an operand at hand for all beats of a step.

**Timing.** A unit takes a beat in every cycle and never stalls. ``o`` holds the sum, and ``o_valid`` is set,
``latency`` cycles after the beat with ``last``.

**Meaning.** ``o = sum(a * w)`` over all elements since the beat that followed the previous ``last``, exactly,
for every value of the formats in force; the accumulator holds ``reduction`` elements of extreme values at
every precision that the unit was built for, and wraps beyond that.
"""

import enum
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from amaranth.hdl import Module, Shape, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike, NDArray

from ..emission import never_elaborated
from ..formats import Format, Int, parse_format, short_name
from ..reduce.carry import FABRICS, Fabric
from ..reduce.datapath import Accumulated, Datapath, Number
from ..reduce.terms import ZERO, Term

__all__ = [
    "ActivationFeeder",
    "Beat",
    "DotProduct",
    "DotProductUnit",
    "Layout",
    "Order",
    "Precision",
    "PriceCase",
    "enclosing",
    "integers",
    "packed_bits",
    "packed_words",
    "planar_bits",
]


@dataclass(frozen=True)
class Precision:
    """Formats of activations and weights in force.

    Written ``a8w8``; with ``u`` for unsigned, as in ``au8w4``; ``b`` is bipolar, ``t`` ternary, ``p4`` a
    power of two in 4 bits.
    """

    activation: Format
    weight: Format

    def __iter__(self) -> Iterator[Format]:
        return iter((self.activation, self.weight))

    def __str__(self) -> str:
        return f"a{short_name(self.activation)}w{short_name(self.weight)}"

    @classmethod
    def parse(cls, text: str) -> "Precision":
        """The precision of that name.

        Raises
        ------
        ValueError
            It is not the name of one.
        """
        match = re.fullmatch(r"a(u?\d+|b|t|p\d+)w(u?\d+|b|t|p\d+)", text)
        if not match:
            raise ValueError(
                f"{text!r} is no precision: a8w8, au8w4 (unsigned), abwb (bipolar), a8wt (ternary)"
            )
        return cls(parse_format(match[1]), parse_format(match[2]))

    def products(self) -> tuple[int, int]:
        """Least and greatest product."""
        corners = [
            a * w
            for a in (self.activation.min, self.activation.max)
            for w in (self.weight.min, self.weight.max)
        ]
        return min(corners), max(corners)


class Layout(enum.Enum):
    """How elements lie in words."""

    PACKED = "packed"
    """Elements side by side."""
    PLANAR = "planar"
    """A word holds one bit of each element; the word of the next bit follows."""


class Order(enum.Enum):
    """Which loop is outside in a dot product of several steps."""

    BEATS_OUTSIDE = "beats outside"
    STEPS_OUTSIDE = "steps outside"


@dataclass(frozen=True)
class Beat:
    """One beat of a step.

    Parameters
    ----------
    activation, weight
        Which of the step's words of that operand it takes.
    shift
        Whether what was accumulated is shifted before this beat is added; under
        :attr:`Order.BEATS_OUTSIDE` in the first step only.
    control
        Value of each other field of the unit's control.
    output
        Which of the unit's outputs it adds to.
    """

    activation: int = 0
    weight: int = 0
    shift: bool = False
    control: Mapping[str, int] = field(default_factory=dict)
    output: int = 0


@dataclass(frozen=True)
class PriceCase:
    """One line of hardware in the price table (``scripts/bench pe``).

    Parameters
    ----------
    lanes
        Width of the unit.
    precisions
        Those that it is priced at; each is a row of the table.
    built
        Those that the hardware is built for; where empty, each priced precision gets hardware of its own.
    """

    lanes: int
    precisions: tuple[Precision, ...]
    built: tuple[Precision, ...] = ()


_USUAL = tuple(map(Precision.parse, ("a8w8", "a4w4", "a2w2", "au1wu1", "abwb", "a8wt", "a8wp4")))


def enclosing(formats: Sequence[Format]) -> Int:
    """The narrowest integer format that holds every value of all the given ones."""
    low = min(format.min for format in formats)
    high = max(format.max for format in formats)
    bits = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0) + (low < 0)
    return Int(max(bits, 1), signed=low < 0)


def packed_bits(format: Format, values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Packed layout of the last axis as bits, lowest first: ``(..., elements)`` to ``(..., bits)``."""
    return format.planes(values).reshape(*values.shape[:-1], values.shape[-1] * format.bits)


def packed_words(lane: Format, format: Format, values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Packed layout, one word of a step: ``(..., elements)`` to ``(..., 1, bits)``.

    Parameters
    ----------
    lane
        What an element is in hardware, where it may be wider than the format in force.
    format
        That of the values.
    values
        A step's elements.

    Raises
    ------
    ValueError
        A value does not fit the format.
    """
    return packed_bits(lane, format.decode(format.encode(values)))[..., None, :]


def integers(precision: Precision) -> bool:
    """Whether both operands are integers of 1 to 16 bits."""
    return all(isinstance(format, Int) and format.bits <= 16 for format in precision)


def planar_bits(format: Format, values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Planar layout of the last axis, lowest plane first: ``(..., elements)`` to ``(..., planes, bits)``."""
    return np.moveaxis(format.planes(values), -1, -2)


_DECLARED = {
    "name": "what configurations call it",
    "supports": "in words, which precisions it supports",
    "activation_layout": "Layout.PACKED or Layout.PLANAR",
    "weight_layout": "Layout.PACKED or Layout.PLANAR",
}
"""What an architecture declares beside its methods."""


@dataclass(frozen=True, kw_only=True)
class DotProduct(ABC):
    """A dot-product unit, declared by data.

    Parameters
    ----------
    lanes
        Width of the unit; what a lane is, its own page says.
    precisions
        Those that it is built for; hardware for others is left out.
    reduction
        Longest dot product that it holds without overflow, in elements.
    fabric
        What its carry chains are made of.
    stride
        Additions between registers: more of them mean fewer flip-flops, a shorter latency and a slower clock.

    Raises
    ------
    TypeError
        A parameter is of another kind; or a class lacks its name, what it supports or a layout.
    ValueError
        A parameter is out of range, or a precision is not one that the architecture supports.
    """

    name: ClassVar[str]
    """What configurations call it."""
    supports: ClassVar[str]
    """Which precisions the architecture supports, in words."""
    activation_layout: ClassVar[Layout]
    weight_layout: ClassVar[Layout]
    order: ClassVar[Order] = Order.BEATS_OUTSIDE
    shift_places: ClassVar[int] = 1
    """By how much a beat with ``shift`` shifts what was accumulated."""

    lanes: int
    precisions: tuple[Precision, ...]
    reduction: int = 16384
    fabric: Fabric = "generic"
    stride: int = 1

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        # Which of its methods are abstract, a class is told only after this.
        names = {*vars(cls)}.union(*(getattr(base, "__abstractmethods__", ()) for base in cls.__bases__))
        if any(getattr(getattr(cls, name), "__isabstractmethod__", False) for name in names):
            return
        for name, meaning in _DECLARED.items():
            if not hasattr(cls, name):
                raise TypeError(f"{cls.__name__} does not declare {name}: {meaning}")

    def __post_init__(self) -> None:
        self.check_integer("lanes", 1)
        self.check_integer("reduction", 1)
        self.check_integer("stride", 1)
        if self.fabric not in FABRICS:
            raise ValueError(f"{self.name}: fabric = {self.fabric!r}: must be one of {', '.join(FABRICS)}")
        given: object = self.precisions
        if not isinstance(given, tuple) or not all(isinstance(item, Precision) for item in given):
            raise TypeError(
                f"{self.name}: precisions = {given!r}: must be a tuple of Precision, such as "
                "(Precision.parse('a8w8'),)"
            )
        if not self.precisions:
            raise ValueError(f"{self.name}: precisions: must name at least one")
        for precision in self.precisions:
            if not self.supported(precision):
                raise ValueError(f"{self.name} does not support precision {precision}: {self.supports}")

    def check_integer(self, parameter: str, least: int, most: int | None = None) -> None:
        """Complain of a parameter that is no integer of that range.

        Raises
        ------
        TypeError
            It is no integer.
        ValueError
            It is out of range.
        """
        value: object = getattr(self, parameter)
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{self.name}: {parameter} = {value!r}: must be an integer, {allowed}")
        if value < least or (most is not None and value > most):
            raise ValueError(f"{self.name}: {parameter} = {value}: must be {allowed}")

    # To be declared by each architecture

    @classmethod
    @abstractmethod
    def supported(cls, precision: Precision) -> bool:
        """Whether the architecture can be built for a precision."""

    @property
    @abstractmethod
    def activation_word_bits(self) -> int:
        """Width of an activation word."""

    @property
    @abstractmethod
    def weight_word_bits(self) -> int:
        """Width of a weight word."""

    def elements(self, precision: Precision) -> int:
        """Positions of the dot product in a step; one per lane unless an architecture says otherwise."""
        return self.lanes

    def beats(self, precision: Precision) -> tuple[Beat, ...]:
        """The beats of a step; a single one unless an architecture says otherwise."""
        return (Beat(),)

    @abstractmethod
    def pack_activations(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        """What :meth:`activation_bits` gives, of values whose kind and number have been checked."""

    @abstractmethod
    def pack_weights(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        """What :meth:`weight_bits` gives, of values whose kind and number have been checked."""

    @abstractmethod
    def unit(self) -> "DotProductUnit":
        """The hardware."""

    def feeder(self) -> "ActivationFeeder | None":
        """What makes the unit's activation words; None where a memory holds them as the unit takes them."""
        return None

    def stored_steps(self, precision: Precision) -> NDArray[np.intp]:
        """Which elements of what a memory holds together each step takes, ``(steps, elements)``.

        A word of the memory, or the planes of as many elements, has those of several steps where a feeder
        makes more of them than they are bits; otherwise of one, in their order.
        """
        return np.arange(self.elements(precision))[None]

    def feeder_index(self, precision: Precision, step: int, beat: Beat) -> int:
        """What the feeder is told in a beat; ``step`` is among those of :meth:`stored_steps`."""
        return beat.activation

    @property
    def outputs(self) -> int:
        """Dot products that a unit computes side by side: the same activations, weights of their own."""
        return 1

    @property
    def control(self) -> Mapping[str, int]:
        """Width of each field of the control of a beat; ``shift`` is among them where beats shift."""
        return {}

    @classmethod
    def priced(cls) -> tuple[PriceCase, ...]:
        """What the price table has of the architecture: 16 lanes fixed to each usual precision."""
        return (PriceCase(16, tuple(precision for precision in _USUAL if cls.supported(precision))),)

    @classmethod
    def variants(cls, *, dsp: bool) -> tuple[Mapping[str, Any], ...]:
        """The architecture's own parameters in the price table, one mapping for each choice of them.

        ``dsp`` is whether multiplier blocks may be used; an architecture that has a use for them answers
        differently.
        """
        return ({},)

    @property
    def outputs_per_beat(self) -> int:
        """How many of the outputs a beat adds to: one, or all of them, whose weights its word then holds."""
        return 1

    # What follows from that

    def activation_bits(self, values: ArrayLike, precision: Precision) -> NDArray[np.uint8]:
        """Words of a step's activations, as bits: ``(..., elements)`` to ``(..., words, word bits)``.

        The first bit of a word is its lowest.

        Raises
        ------
        TypeError
            Values are no integers.
        ValueError
            A value does not fit the format, or there are more or fewer of them than a step has elements.
        """
        return self.pack_activations(self._checked("activations", values, precision), precision)

    def weight_bits(self, values: ArrayLike, precision: Precision) -> NDArray[np.uint8]:
        """Words of a step's weights, as bits: ``(..., elements)`` to ``(..., words, word bits)``.

        Where a beat adds to several outputs, from ``(..., outputs, elements)``.

        Raises
        ------
        TypeError, ValueError
            As of :meth:`activation_bits`.
        """
        outputs = (self.outputs,) if self.outputs_per_beat > 1 else ()
        return self.pack_weights(self._checked("weights", values, precision, outputs), precision)

    def _checked(
        self, operand: str, values: ArrayLike, precision: Precision, outputs: tuple[int, ...] = ()
    ) -> NDArray[np.integer]:
        """A step's values as an array of integers."""
        given: object = precision
        if not isinstance(given, Precision):
            raise TypeError(
                f"{self.name}: precision = {given!r}: must be a Precision, such as Precision.parse('a8w8')"
            )
        if not self.supported(precision):
            raise ValueError(f"{self.name} does not support precision {precision}: {self.supports}")
        array = np.asarray(values)
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"{self.name}: {operand} must be integers, not {array.dtype}")
        wanted = (*outputs, self.elements(precision))
        if array.shape[-len(wanted) :] != wanted:
            axes = "outputs, elements" if outputs else "elements"
            raise ValueError(
                f"{self.name}: {operand} of shape {array.shape}: a step at {precision} has {wanted[-1]} "
                f"elements; the shape must be (..., {', '.join(map(str, wanted))}), for (..., {axes})"
            )
        return array

    @cached_property
    def latency(self) -> int:
        """Cycles from the beat with ``last`` to ``o_valid``, read off a trial build."""
        trial = Datapath(never_elaborated(Module()), self.fabric, None, stride=self.stride)
        return never_elaborated(self.unit()).compute(trial).time

    @property
    def result_shape(self) -> Shape | data.Layout:
        """Of what a unit gives in one cycle: a dot product, or all where a beat adds to several outputs."""
        result = signed(self.accumulator_bits)
        return result if self.outputs_per_beat == 1 else data.ArrayLayout(result, self.outputs)

    @cached_property
    def control_layout(self) -> data.StructLayout:
        """Layout of a beat's control."""
        return data.StructLayout(dict(self.control))

    @cached_property
    def accumulator_bits(self) -> int:
        """Signed width that holds ``reduction`` extreme products at every precision built for."""
        extremes = [precision.products() for precision in self.precisions]
        low = min(0, *(low for low, _ in extremes)) * self.reduction
        high = max(0, *(high for _, high in extremes)) * self.reduction
        return max(high.bit_length(), (-low - 1).bit_length() if low else 0) + 1

    def macs_per_cycle(self, precision: Precision) -> float:
        """Multiply-accumulate operations of a busy cycle."""
        return self.outputs * self.elements(precision) / len(self.beats(precision))

    def steps(self, terms: int, precision: Precision) -> int:
        """Steps of a dot product of so many terms."""
        return -(-terms // self.elements(precision))

    def resumes(self, precision: Precision) -> bool:
        """Whether a dot product can be cut into runs of steps, each with all beats, no ``last`` between."""
        return self.order is Order.STEPS_OUTSIDE or not any(beat.shift for beat in self.beats(precision))

    def schedule(self, steps: int, precision: Precision) -> Iterator[tuple[int, Beat, bool]]:
        """Every beat of a dot product in order: step, beat, and whether it shifts."""
        beats = self.beats(precision)
        if self.order is Order.BEATS_OUTSIDE:
            for beat in beats:
                for step in range(steps):
                    yield step, beat, beat.shift and step == 0
        else:
            for step in range(steps):
                for beat in beats:
                    yield step, beat, beat.shift

    def ends(self, precision: Precision) -> tuple[bool, ...]:
        """For each beat of a step whether it is the step's last of its output.

        In the last step that is where ``last`` is set: each output's sum comes behind its own last beat.
        """
        beats = self.beats(precision)
        final = {beat.output: index for index, beat in enumerate(beats)}
        return tuple(final[beat.output] == index for index, beat in enumerate(beats))

    def encoded_control(self, beat: Beat, *, shift: bool) -> int:
        """The control word of a beat."""
        word = 0
        for name, field_ in self.control_layout:
            value = int(shift) if name == "shift" else beat.control.get(str(name), 0)
            word |= value << field_.offset
        return word


class DotProductUnit(wiring.Component):
    """Hardware of a dot-product unit: the ports that all of them have.

    Operands and control are taken straight into logic: they have to come from registers.

    Parameters
    ----------
    spec
        What to build.

    Members
    -------
    a, w : words of one beat
    control : the beat's control, fields of ``spec.control``; not there where the unit needs none
    valid, last : the beat exists; it is the last of its dot product, set only with ``valid``
    o, o_valid : the dot product, in one cycle, ``spec.latency`` cycles after its last beat; an array of them
        where a beat adds to several outputs
    """

    def __init__(self, spec: DotProduct):
        self.spec = spec
        members: dict[str, Any] = {
            "a": In(spec.activation_word_bits),
            "w": In(spec.weight_word_bits),
            "valid": In(1),
            "last": In(1),
            "o": Out(spec.result_shape),
            "o_valid": Out(1),
        }
        if spec.control:
            members["control"] = In(spec.control_layout)
        super().__init__(members)

    @abstractmethod
    def compute(self, datapath: Datapath) -> Accumulated:
        """Build the unit's pipeline; its latency is the result's time."""

    def field(self, name: str) -> Term:
        """A one-bit field of the control."""
        return Term.of(getattr(self.control, name))

    def accumulate(
        self,
        datapath: Datapath,
        number: Number,
        *,
        width: int | None = None,
        carry: Term = ZERO,
        double: Term = ZERO,
        places: int = 1,
        segment: int = 12,
        name: str = "accumulator",
    ) -> Accumulated:
        """:meth:`Datapath.accumulate` over the beats of a dot product, ``spec.accumulator_bits`` wide."""
        return datapath.accumulate(
            number,
            self.spec.accumulator_bits if width is None else width,
            valid=Term.of(self.valid),
            last=Term.of(self.last),
            carry=carry,
            double=double,
            places=places,
            segment=segment,
            name=name,
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        datapath = Datapath(m, self.spec.fabric, platform, stride=self.spec.stride)
        result = self.compute(datapath)
        datapath.finish()
        if result.time != self.spec.latency:
            raise AssertionError(f"{self.spec}: declared latency {self.spec.latency}, built {result.time}")
        m.d.comb += [Value.cast(self.o).eq(result.total), self.o_valid.eq(result.valid)]
        return m


class ActivationFeeder(wiring.Component):
    """Makes a step's activation words of its activations, which a memory holds in one word.

    A row of an array has one, in front of all its units. It has no state: as long as the step lasts the
    memory gives the same word, in every beat, and where a word holds several steps, in all of them. Both
    inputs are taken straight into logic.

    Parameters
    ----------
    stored_word_bits, activation_word_bits, words
        Width of the memory's word; of the units' words, and the different ones that are made of one.
    latency
        Cycles from ``i`` and ``index`` to ``o``.

    Members
    -------
    i : word of the memory
    index : which of the activation words to make, :meth:`DotProduct.feeder_index`
    o : that word
    """

    def __init__(self, *, stored_word_bits: int, activation_word_bits: int, words: int, latency: int):
        self.latency = latency
        super().__init__(
            {"i": In(stored_word_bits), "index": In(range(max(2, words))), "o": Out(activation_word_bits)}
        )

    @abstractmethod
    def stored_bits(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        """A word of the memory: ``(..., elements)`` to ``(..., word bits)``, all elements that it holds.

        Raises
        ------
        ValueError
            A value does not fit the format.
        """
