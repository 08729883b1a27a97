"""What Bit Fusion and BitBlade share: words, beats, modes and signs of units made of 2 by 2 bit bricks."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import product, starmap
from operator import or_
from typing import ClassVar, Literal

import numpy as np
from amaranth.hdl import Array, Cat, Module
from numpy.typing import NDArray

from ..formats import Bipolar, Format, Int, Ternary
from ..reduce.datapath import Accumulated, Datapath, Number
from ..reduce.terms import ONE, ZERO, Term, bits_of
from .contract import (
    ActivationFeeder,
    Beat,
    DotProduct,
    DotProductUnit,
    Layout,
    Precision,
    PriceCase,
    enclosing,
    packed_bits,
)

__all__ = ["BrickGrid", "BrickGridUnit", "Bricks", "Pending", "Signs", "join", "narrowed"]

BRICK_BITS = 2
"""Bits of each operand that a brick multiplies."""

SIDE = 4
"""Bricks of a unit along either operand."""

BYTE = SIDE * BRICK_BITS
"""Bits that a unit multiplies at once."""

Operand = Literal["a", "w"]


def container(format: Format) -> Int:
    """The integer of 2, 4, 8 or 16 bits in which a format is stored."""
    tight = enclosing((format,))
    return Int(next(bits for bits in (2, 4, 8, 16) if bits >= tight.bits), signed=tight.signed)


def in_words(format: Format) -> tuple[Int, ...]:
    """What each word of an operand holds of it, the lowest first: a byte of 16 bits, or all."""
    stored = container(format)
    if stored.bits <= BYTE:
        return (stored,)
    return Int(BYTE, signed=False), Int(BYTE, signed=stored.signed)


def spread(format: Format) -> int:
    """Bricks that a word's element of a format is spread over."""
    return in_words(format)[0].bits // BRICK_BITS


def word_pairs(precision: Precision) -> Iterator[tuple[int, int, bool]]:
    """Words of activations and weights for each beat of a step, and whether it shifts."""
    a, w = (len(in_words(format)) for format in precision)
    for significance in reversed(range(a + w - 1)):
        pairs = [(i, significance - i) for i in reversed(range(a)) if 0 <= significance - i < w]
        for index, pair in enumerate(pairs):
            yield *pair, index == 0 and significance < a + w - 2


def source(spreads: tuple[int, int], row: int, column: int, operand: Operand) -> tuple[int, int]:
    """Which element's which pair of bits a brick takes where operands are spread over so many bricks."""
    a, w = spreads
    element = row // a * (SIDE // w) + column // w
    return element, row % a if operand == "a" else column % w


@dataclass(frozen=True, kw_only=True)
class BrickGrid(DotProduct):
    """Units of 4 by 4 bricks, each of which multiplies 2 bits of an activation by 2 bits of a weight.

    An operand is stored in 2, 4 or 8 bits, the fewest that hold its format (1 bit, bipolar and ternary in 2),
    and spread over 1, 2 or 4 bricks, activations down the grid and weights across it. So the grid falls into
    1 to 16 elements, whose products are added up::

        a8w8: 1 element        a4w4: 4 elements       a8w2: 4 elements       a2w2: 16 elements
        ┌──┬──┬──┬──┐          ┌──┬──╥──┬──┐          ┌──╥──╥──╥──┐          ┌──╥──╥──╥──┐
        │ 0  2  4  6│          │ 0  2║ 0  2│          │ 0║ 0║ 0║ 0│          │ 0║ 0║ 0║ 0│
        │           │          │     ║     │          │  ║  ║  ║  │          ╞══╬══╬══╬══╡
        │ 2  4  6  8│          │ 2  4║ 2  4│          │ 2║ 2║ 2║ 2│          │ 0║ 0║ 0║ 0│
        │           │          ╞═════╬═════╡          │  ║  ║  ║  │          ╞══╬══╬══╬══╡
        │ 4  6  8 10│          │ 0  2║ 0  2│          │ 4║ 4║ 4║ 4│          │ 0║ 0║ 0║ 0│
        │           │          │     ║     │          │  ║  ║  ║  │          ╞══╬══╬══╬══╡
        │ 6  8 10 12│          │ 2  4║ 2  4│          │ 6║ 6║ 6║ 6│          │ 0║ 0║ 0║ 0│
        └──┴──┴──┴──┘          └──┴──╨──┴──┘          └──╨──╨──╨──┘          └──╨──╨──╨──┘

    The numbers say by how many places a brick's product is shifted in that mode. A step has
    ``lanes * (8 / a) * (8 / w)`` elements where a and w bits are stored in a word.

    **Words** hold two bits for each brick, unit by unit and row by row: 32 bits per unit, in which an
    operand stands once for each brick that takes it. Bricks that take the same bits in every mode that is
    built for share them: a unit built for ``a8w8`` alone has words of 8 bits, and nothing that chooses
    between modes.

    Where precisions differ in how far weights are spread, an activation stands in a word as often as a
    weight has bricks. A memory holds it once, and a :class:`BrickFeeder` in front of each row repeats it.
    Weights are repeated in memory.

    **Beats.** Operands of 9 to 16 bits are stored in 16 and take two words, the lower and the higher byte. A
    step has a beat for each pair of words, the most significant first; between significances the accumulator
    is shifted by 8 places (Horner's rule)::

        beat      a16w16                                        a16 with w1 to w8
        0         acc += a_hi * w_hi                            acc += a_hi * w
        1         acc = acc * 2**8 + a_hi * w_lo                acc = acc * 2**8 + a_lo * w
        2         acc += a_lo * w_hi
        3         acc = acc * 2**8 + a_lo * w_lo

    Mode and signs come with each beat, so that precision may change from one dot product to the next. Only a
    word that holds the sign of a signed operand is taken as signed.

    **Signs.** A product p of two bits that counts negative is inverted: ``-p = ~p - 1``. What the ones add up
    to follows from mode and signs alone, and is taken off once, behind everything else. So none of the sums
    before is signed, which would take a slot more each.

    Parameters
    ----------
    lanes
        Units, of 16 bricks each.
    """

    supports: ClassVar[str] = "integers of 1 to 16 bits, signed or unsigned; bipolar; ternary"
    activation_layout: ClassVar[Layout] = Layout.PACKED
    weight_layout: ClassVar[Layout] = Layout.PACKED
    shift_places: ClassVar[int] = SIDE * BRICK_BITS

    @classmethod
    def supported(cls, precision: Precision) -> bool:
        return all(
            (isinstance(format, Int) and format.bits <= 16) or isinstance(format, Bipolar | Ternary)
            for format in precision
        )

    @classmethod
    def priced(cls) -> tuple[PriceCase, ...]:
        formats = [Int(bits, signed=signed) for bits in (2, 4, 8) for signed in (True, False)]
        priced = tuple(map(Precision.parse, ("a8w8", "a4w4", "a2w2", "au1wu1", "abwb", "a8wt")))
        return (PriceCase(16, priced, built=tuple(starmap(Precision, product(formats, formats)))),)

    @cached_property
    def activation_places(self) -> NDArray[np.intp]:
        """Which of the pairs of bits of a unit's activation word each brick takes, ``(rows, columns)``."""
        return self._places("a")

    @cached_property
    def weight_places(self) -> NDArray[np.intp]:
        """Which of the pairs of bits of a unit's weight word each brick takes, ``(rows, columns)``."""
        return self._places("w")

    def _places(self, operand: Operand) -> NDArray[np.intp]:
        modes = dict.fromkeys(
            (spread(precision.activation), spread(precision.weight)) for precision in self.precisions
        )
        # In the order of the elements, so that a word of one mode is a packed one.
        grid = [
            [tuple(source(mode, row, column, operand) for mode in modes) for column in range(SIDE)]
            for row in range(SIDE)
        ]
        order = sorted({sources for row in grid for sources in row})
        return np.array([[order.index(sources) for sources in row] for row in grid])

    @property
    def activation_word_bits(self) -> int:
        return self.lanes * BRICK_BITS * (int(self.activation_places.max()) + 1)

    @property
    def weight_word_bits(self) -> int:
        return self.lanes * BRICK_BITS * (int(self.weight_places.max()) + 1)

    @cached_property
    def beat_formats(self) -> tuple[Precision, ...]:
        """Formats of the words of every kind of beat."""
        return tuple(
            dict.fromkeys(
                Precision(in_words(precision.activation)[a], in_words(precision.weight)[w])
                for precision in self.precisions
                for a, w, _ in word_pairs(precision)
            )
        )

    @cached_property
    def flags(self) -> Mapping[str, int | None]:
        """What beats say of their words: the value where all agree, None where it is a field of the control.

        ``a_pairs`` and ``a_quads``: activations are spread over at least two bricks, over four; ``a_signed``:
        the word's activations are signed; the same for weights.
        """
        seen = [_flags(precision) for precision in self.beat_formats]
        return {
            name: value if all(flags[name] == value for flags in seen) else None
            for name, value in seen[0].items()
        }

    @cached_property
    def shifts(self) -> bool:
        """Whether any beat does."""
        return any(shift for precision in self.precisions for *_, shift in word_pairs(precision))

    @property
    def control(self) -> dict[str, int]:
        fields = {name: 1 for name, value in self.flags.items() if value is None}
        return {"shift": 1, **fields} if self.shifts else fields

    @cached_property
    def spreads(self) -> tuple[int, ...]:
        """How far weights are spread, ascending; nothing where a memory has the words that units take."""
        modes = {(spread(a), spread(w)) for a, w in self.precisions}
        return tuple(sorted({w for _, w in modes})) if len(modes) > 1 else ()

    def feeder(self) -> "BrickFeeder | None":
        return BrickFeeder(self) if self.spreads else None

    def stored_steps(self, precision: Precision) -> NDArray[np.intp]:
        if not self.spreads:
            return super().stored_steps(precision)
        a, w = spread(precision.activation), spread(precision.weight)
        across = SIDE // w
        unit = np.array(
            [
                [
                    (SIDE * self.stored_column(w, element % across * w, step) + element // across * a) // a
                    for element in range(SIDE // a * across)
                ]
                for step in range(w // self.spreads[0])
            ]
        )
        size = SIDE // a * (SIDE // self.spreads[0])  # elements of a unit's part of a stored word
        lanes = np.arange(self.lanes)[:, None, None] * size + unit
        steps: NDArray[np.intp] = lanes.transpose(1, 0, 2).reshape(len(unit), -1)
        return steps

    def stored_column(self, w: int, column: int, step: int) -> int:
        """Which byte of a unit's part of a stored word a column of bricks takes, weights spread over w."""
        return column // w + SIDE // w * step

    @property
    def feeds(self) -> tuple[tuple[int, int], ...]:
        """What the feeder may be told: how far weights are spread, and which step of a stored word it is."""
        return tuple((w, step) for w in self.spreads for step in range(w // self.spreads[0]))

    def feeder_index(self, precision: Precision, step: int, beat: Beat) -> int:
        return self.feeds.index((spread(precision.weight), step)) if self.spreads else beat.activation

    def elements(self, precision: Precision) -> int:
        return self.lanes * (SIDE // spread(precision.activation)) * (SIDE // spread(precision.weight))

    def beats(self, precision: Precision) -> tuple[Beat, ...]:
        beats = []
        for a, w, shift in word_pairs(precision):
            flags = _flags(Precision(in_words(precision.activation)[a], in_words(precision.weight)[w]))
            fields = {name: value for name, value in flags.items() if self.flags[name] is None}
            beats.append(Beat(a, w, shift=shift, control=fields))
        return tuple(beats)

    def pack_activations(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return self._packed(values, precision, "a")

    def pack_weights(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return self._packed(values, precision, "w")

    def _packed(
        self, values: NDArray[np.integer], precision: Precision, operand: Operand
    ) -> NDArray[np.uint8]:
        format = precision.activation if operand == "a" else precision.weight
        if not format.contains(values):
            raise ValueError(f"Values {values.min()}..{values.max()} do not fit {format}")
        words = len(in_words(format))
        bits = container(format).planes(values)
        bits = bits.reshape(*values.shape[:-1], self.lanes, -1, words, spread(format), BRICK_BITS)
        mode = spread(precision.activation), spread(precision.weight)
        _, bricks = np.unique(
            self.activation_places if operand == "a" else self.weight_places, return_index=True
        )
        sources = [source(mode, *divmod(int(brick), SIDE), operand) for brick in bricks]
        placed = np.stack([bits[..., element, :, pair, :] for element, pair in sources], axis=-2)
        # (..., lanes, words, places, bits of a brick)
        return np.moveaxis(placed, -3, -4).reshape(*values.shape[:-1], words, -1)


class BrickFeeder(ActivationFeeder):
    """Repeats activations for the bricks that take them, of a memory word that has each of them once.

    A unit's part of a stored word has ``4 / W`` bytes, where W is how far weights are spread at least. Brick
    (r, c) takes two bits, pair r, of byte ``c // w + (4 / w) * step`` where weights are spread over w bricks:
    with ``w / W`` steps, a word is taken up. So each column of bricks chooses between at most four bytes::

                 w = 1           w = 2                      w = 4
        step     0               0           1              0        1        2        3
        bytes    0 1 2 3         0 0 1 1     2 2 3 3        0 0 0 0  1 1 1 1  2 2 2 2  3 3 3 3

    Parameters
    ----------
    spec
        The units.

    Members
    -------
    i, index, o : as of a feeder; activations are packed in 2, 4 or 8 bits each
    """

    def __init__(self, spec: BrickGrid):
        self.spec = spec
        self.bytes = SIDE // spec.spreads[0]
        super().__init__(
            stored_word_bits=spec.lanes * self.bytes * BYTE,
            activation_word_bits=spec.activation_word_bits,
            words=len(spec.feeds),
            latency=1,
        )

    def stored_bits(self, values: NDArray[np.integer], precision: Precision) -> NDArray[np.uint8]:
        return packed_bits(container(precision.activation), values)

    def elaborate(self, platform: object) -> Module:
        """As the class says."""
        m = Module()
        spec = self.spec
        _, bricks = np.unique(spec.activation_places, return_index=True)
        pairs = []
        for lane in range(spec.lanes):
            stored = self.i.word_select(lane, self.bytes * BYTE)
            for brick in bricks:
                row, column = divmod(int(brick), SIDE)
                choices = [
                    stored.word_select(SIDE * spec.stored_column(w, column, step) + row, BRICK_BITS)
                    for w, step in spec.feeds
                ]
                pairs.append(Array(choices)[self.index] if len(choices) > 1 else choices[0])
        m.d.sync += self.o.eq(Cat(pairs))
        return m


def _flags(words: Precision) -> dict[str, int]:
    """What a beat with words of those formats says."""
    flags = {}
    for operand, format in zip("aw", words, strict=True):
        assert isinstance(format, Int)
        flags[f"{operand}_pairs"] = int(format.bits >= 2 * BRICK_BITS)
        flags[f"{operand}_quads"] = int(format.bits >= 4 * BRICK_BITS)
        flags[f"{operand}_signed"] = int(format.signed)
    return flags


@dataclass(frozen=True)
class Pending:
    """An unsigned number, and a bit still to be added to it.

    Parameters
    ----------
    number
        Unsigned.
    most
        The most that it can be.
    carry
        The bit.
    """

    number: Number
    most: int
    carry: Term = ZERO

    @property
    def greatest(self) -> int:
        """The most that both together can be."""
        return self.most + (self.carry != ZERO)


def join(datapath: Datapath, x: Pending, y: Pending, places: int = 0, when: Term = ONE) -> Pending:
    """``x + (y << places if when else y)``.

    The slot that adds chooses between two bits of y, so that ``when`` takes no LUTs. Nor does the bit that is
    pending for y, c: ``(y + c) << n = (y << n) + (2**n - 1) * c + c``, so that c fills the empty places and
    is the carry in. The bit that is pending for x stays so.
    """
    if when in (ONE, ZERO):
        shift = places if when == ONE else 0
        most = x.most + (y.greatest << shift)
        number = datapath.add(
            x.number, y.number, narrowed(datapath, y.carry, 2), shift=shift, width=most.bit_length()
        )
        return Pending(number, most, x.carry)
    most = x.most + (y.greatest << places)
    *bits, carry = (narrowed(datapath, bit, 1) for bit in (*y.number.bits, y.carry))
    time = max(x.number.time, when.time, *(bit.time for bit in (*bits, carry)))
    when, carry, *bits = (datapath.delayed(bit, time) for bit in (when, carry, *bits))
    shifted, straight = [*[carry] * places, *bits], [*bits, *[ZERO] * places]
    chosen = Number(tuple(when.select(one, zero) for one, zero in zip(shifted, straight, strict=True)))
    return Pending(datapath.add(x.number, chosen, carry, width=most.bit_length()), most, x.carry)


def narrowed(datapath: Datapath, bit: Term, signals: int) -> Term:
    """The bit as a function of so many signals at most: itself, or a register behind a LUT.

    A slot that finds no room for a bit takes a LUT for it as well, but has that in front of the carry chain.
    """
    return bit if len(bit.atoms) <= signals else datapath.registered(Number((bit,))).bits[0]


@dataclass(frozen=True)
class Signs:
    """Whether products of a brick count negative.

    Parameters
    ----------
    a, w
        Those of the upper bit of the activation, of the weight, with the lower bit of the other.
    both
        That of both upper bits.
    """

    a: Term
    w: Term
    both: Term


class Bricks:
    """Operands of all bricks of a unit under construction, the signs of their products, the mode in force.

    Parameters
    ----------
    unit
        The hardware that they are part of.
    datapath
        What it is built in.
    """

    def __init__(self, unit: "BrickGridUnit", datapath: Datapath):
        self.spec = unit.spec
        self._datapath = datapath
        self._words = bits_of(unit.a), bits_of(unit.w)
        self._flags = {
            name: unit.field(name) if value is None else (ONE if value else ZERO)
            for name, value in self.spec.flags.items()
        }
        self._registers: dict[Term, Term] = {}
        self._signs = {operand: self._signs_along(operand) for operand in "aw"}

    def _registered(self, term: Term) -> Term:
        if term not in self._registers:
            self._registers[term] = self._datapath.registered(Number((term,)), "sign").bits[0]
        return self._registers[term]

    def _signs_along(self, operand: str) -> list[Term]:
        """Whether the upper bit of each brick's operand is the sign of one."""
        pairs, quads, signed = (self._flags[f"{operand}_{name}"] for name in ("pairs", "quads", "signed"))
        return [signed & top for top in (~pairs, ~quads, ~pairs, ONE)]

    def signs(self, row: int, column: int) -> Signs:
        """Signs of the products of a brick."""
        a, w = self._signs["a"][row], self._signs["w"][column]
        return Signs(self._registered(a), self._registered(w), self._registered(a ^ w))

    def products(self, unit: int, row: int, column: int) -> tuple[Term, Term, Term, Term]:
        """Products of a brick's bits: a0 w0, a0 w1, a1 w0, a1 w1."""
        places = self.spec.activation_places[row, column], self.spec.weight_places[row, column]
        (a0, a1), (w0, w1) = (
            word[len(word) // self.spec.lanes * unit + BRICK_BITS * place :][:BRICK_BITS]
            for word, place in zip(self._words, places, strict=True)
        )
        return a0 & w0, a0 & w1, a1 & w0, a1 & w1

    def fused(self, bricks: Sequence[Sequence[Pending]]) -> Pending:
        """Sum of a grid of bricks, each at the significance that it has in the mode in force.

        Two bricks become one that is shifted against the other where the operand is spread over both: first
        neighbours, by 2 places, along either side, then pairs of them, by 4.
        """
        grid = bricks
        for name, places in ("pairs", BRICK_BITS), ("quads", 2 * BRICK_BITS):
            grid = [
                self._joined(low, high, places, f"a_{name}")
                for low, high in zip(grid[::2], grid[1::2], strict=True)
            ]
            grid = [self._joined(row[::2], row[1::2], places, f"w_{name}") for row in grid]
        return grid[0][0]

    def _joined(
        self, low: Sequence[Pending], high: Sequence[Pending], places: int, flag: str
    ) -> Sequence[Pending]:
        when = self._flags[flag]
        return [join(self._datapath, x, y, places, when) for x, y in zip(low, high, strict=True)]

    def corrected(self, total: Pending, inverted: int) -> tuple[Number, Term]:
        """The sum with negative products counted so, as a number and a bit still to be added to it.

        Parameters
        ----------
        total
            The sum with them inverted.
        inverted
            What a product of two bits of a brick and its inverse add up to, over all units.
        """
        fields = [name for name, value in self.spec.flags.items() if value is None]
        constants = [
            -inverted * _negative_weight({**self.spec.flags, **dict(zip(fields, values[::-1], strict=True))})
            for values in product(range(2), repeat=len(fields))
        ]
        if not any(constants):
            return total.number, total.carry
        used = reduce(or_, constants)
        shift = (used & -used).bit_length() - 1
        atoms = [self._flags[name].atoms[0] for name in fields]
        bits = [
            Term.reduced(atoms, sum((value >> place & 1) << index for index, value in enumerate(constants)))
            for place in range(shift, (-min(constants)).bit_length() + 1)
        ]
        constant = Number(tuple(self._registered(bit) for bit in bits), signed=True)
        sums = [
            extreme * self.spec.elements(words)
            for words in self.spec.beat_formats
            for extreme in words.products()
        ]
        width = max(max(sums).bit_length(), (-min(sums)).bit_length()) + 1  # also without the bit left over
        return self._datapath.add(total.number, constant, shift=shift, width=width), total.carry


def _negative_weight(flags: Mapping[str, int | None]) -> int:
    """Weights of all products of bits in a unit that count negative."""
    a, w = (4 if flags[f"{name}_quads"] else 2 if flags[f"{name}_pairs"] else 1 for name in "aw")
    total = 0
    for row, column in product(range(SIDE), repeat=2):
        a_sign = int(bool(flags["a_signed"]) and row % a == a - 1)
        w_sign = int(bool(flags["w_signed"]) and column % w == w - 1)
        total += (2 * a_sign + 2 * w_sign + 4 * (a_sign ^ w_sign)) << BRICK_BITS * (row % a + column % w)
    return total


class BrickGridUnit(DotProductUnit):
    """What the hardware of Bit Fusion and BitBlade shares."""

    spec: BrickGrid

    @abstractmethod
    def summed(self, datapath: Datapath, bricks: Bricks) -> tuple[Pending, int]:
        """What :meth:`Bricks.corrected` takes: the sum with products that count negative inverted."""

    def compute(self, datapath: Datapath) -> Accumulated:
        bricks = Bricks(self, datapath)
        number, carry = bricks.corrected(*self.summed(datapath, bricks))
        return self.accumulate(
            datapath,
            number,
            carry=carry,
            double=self.field("shift") if self.spec.shifts else ZERO,
            places=self.spec.shift_places,
        )
