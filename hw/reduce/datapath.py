"""Pipelined sums: numbers that know in which cycle they exist, adder trees, an accumulator."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Signal, Value

from .carry import LONGEST_CHAIN, Fabric, Row, add_rows
from .terms import ZERO, Atom, Term

__all__ = ["Accumulated", "Datapath", "Number"]


@dataclass(frozen=True)
class Number:
    """An integer as bits, lowest first, all of one cycle.

    Parameters
    ----------
    bits
        Its bits. Constants may be among them.
    signed
        Whether the highest bit counts negative.
    depth
        Additions that it comes from since the last registers.
    """

    bits: tuple[Term, ...]
    signed: bool = False
    depth: int = 0

    @property
    def time(self) -> int:
        """Cycle in which it exists."""
        return max((bit.time for bit in self.bits), default=0)

    @property
    def sign(self) -> Term:
        """What every bit above the highest is."""
        return self.bits[-1] if self.signed and self.bits else ZERO

    def extended(self, width: int) -> tuple[Term, ...]:
        """Its bits in a wider number."""
        return (*self.bits, *[self.sign] * (width - len(self.bits)))[:width]


@dataclass(frozen=True)
class Accumulated:
    """What :meth:`Datapath.accumulate` gives.

    Parameters
    ----------
    total
        The sum, from the cycle after its last term was added, for one cycle at least.
    valid
        Set in that cycle.
    time
        That cycle, counted from the operands of the last beat: the latency.
    """

    total: Value
    valid: Value
    time: int

    def times_two(self) -> "Accumulated":
        """The same with a zero below its lowest bit."""
        return Accumulated(Cat(Const(0, 1), self.total).as_signed(), self.valid, self.time)


class Datapath:
    """Builds a pipeline of additions in a module, domain ``sync``.

    Every bit knows the cycle in which it exists, counted from the operands, which exist in cycle 0. What is
    added to something of a later cycle is delayed by registers, which all users of a bit share. Every sum is
    registered, or with a ``stride`` every so many additions deep. Additions of one cycle share carry chains;
    :meth:`finish` makes them, once all are known.

    Parameters
    ----------
    m
        The module.
    fabric
        What carry chains are made of (:mod:`bitwright.hw.reduce.carry`).
    platform
        What ``elaborate`` was given.
    longest
        Slots of a carry chain that several rows share.
    stride
        Additions between registers, at least 1.
    """

    def __init__(
        self,
        m: Module,
        fabric: Fabric,
        platform: object,
        *,
        longest: int = LONGEST_CHAIN,
        stride: int = 1,
    ):
        self.stride = stride
        self.m = m
        self.fabric = fabric
        self.platform = platform
        self.longest = longest
        self._rows: dict[int, list[Row]] = {}
        self._delayed: dict[Atom, list[Atom]] = {}
        self._computed: dict[Term, Term] = {}
        self._numbers = 0

    def delayed(self, term: Term, time: int, *, reset: bool = False) -> Term:
        """The term in a later cycle.

        ``reset``: whether the registers are reset, as those of a strobe must be.
        """
        if self.fabric == "ice40" and len(term.atoms) > 1 and time > term.time and not reset:
            # A logic cell is a LUT and one flip-flop behind it, so that delaying signals apart takes more.
            term = self._compute(term)
        return Term(tuple(self._later(atom, time, reset) for atom in term.atoms), term.table)

    def _compute(self, term: Term) -> Term:
        """The term as a register, the same one for all that ask for it."""
        if term not in self._computed:
            (self._computed[term],) = self.registered(Number((term,)), "term").bits
        return self._computed[term]

    def _later(self, atom: Atom, time: int, reset: bool) -> Atom:
        if time < atom.time:
            raise ValueError(f"{atom} does not exist yet in cycle {time}")
        chain = self._delayed.setdefault(atom, [atom])
        while len(chain) <= time - atom.time:
            register = Signal(name=self._name("delay"), reset_less=not reset)
            self.m.d.sync += register.eq(chain[-1].value)
            chain.append(Atom(register, atom.time + len(chain)))
        return chain[time - atom.time]

    def aligned(self, number: Number, time: int) -> Number:
        """The number in a later cycle."""
        depth = number.depth if number.time == time else 0
        return Number(tuple(self.delayed(bit, time) for bit in number.bits), number.signed, depth)

    def registered(self, number: Number, name: str = "number") -> Number:
        """Each bit computed and registered: one cycle later, one signal per bit, constants left alone."""
        time = number.time
        bits = []
        for bit in self.aligned(number, time).bits:
            if bit.atoms:
                register = Signal(name=self._name(name), reset_less=True)
                self.m.d.sync += register.eq(bit.value)
                bit = Term.of(register, time + 1)
            bits.append(bit)
        return Number(tuple(bits), number.signed)

    def strobe(self, term: Term) -> Term:
        """The term a cycle later, in a register that is reset."""
        register = Signal(name="strobe")
        self.m.d.sync += register.eq(term.value)
        return Term.of(register, term.time + 1)

    def _name(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}_{self._numbers}"

    def add(
        self,
        x: Number,
        y: Number,
        carry: Term = ZERO,
        *,
        shift: int = 0,
        negate: Term = ZERO,
        flip: Term = ZERO,
        width: int | None = None,
    ) -> Number:
        """``x + y * 2**shift + carry``, a cycle after the later of them; in its cycle if ``stride`` allows.

        The lowest ``shift`` bits of x pass by the adder, so that ``carry`` counts ``2**shift``.

        Parameters
        ----------
        x, y
            Unsigned or signed.
        carry
            One more bit.
        shift
            Places to the left.
        negate
            Where set, y is subtracted: its bits are inverted, and the one that completes the negation has
            to come as ``carry``.
        flip
            Where set, the bits of both are inverted: the result is ``-x - y - 2 + carry``; with ``shift`` 0
            only.
        width
            Bits of the result where it is known to need fewer than the sum might.
        """
        time = max(x.time, y.time, carry.time, negate.time, flip.time)
        x, y = self.aligned(x, time), self.aligned(y, time)
        carry, negate, flip = (self.delayed(term, time) for term in (carry, negate, flip))
        depth = max(x.depth, y.depth) + 1
        registered = depth >= self.stride
        later = time + registered
        depth = 0 if registered else depth
        low = self.aligned(Number(x.bits[:shift]), later).bits
        if len(low) < shift:
            low = (*low, *x.extended(shift)[len(low) :])
        upper = Number(x.bits[shift:] or (x.sign,), x.signed)
        if negate != ZERO:
            y = Number((*(bit ^ negate for bit in y.bits), y.sign ^ negate), True)
        is_signed = upper.signed or y.signed
        span = max(
            len(upper.bits) + (is_signed and not upper.signed), len(y.bits) + (is_signed and not y.signed)
        )
        span += is_signed
        if width is not None:
            span = min(span, width - shift)
        keeps_carry = not is_signed and (width is None or width - shift > span)
        total = Signal(span + keeps_carry, name=self._name("sum"))
        bits_x, bits_y = upper.extended(span), y.extended(span)
        if flip != ZERO:
            bits_x, bits_y = tuple(bit ^ flip for bit in bits_x), tuple(bit ^ flip for bit in bits_y)
        self._rows.setdefault(time, []).append(Row(bits_x, bits_y, carry, total))
        if registered:
            register = Signal(len(total), name=self._name("number"), reset_less=True)
            self.m.d.sync += register.eq(total)
            total = register
        bits = (*low, *(Term.of(total[index], later) for index in range(len(total))))
        if flip != ZERO and not is_signed:
            # -x - y - 2 + carry has the carry out of its inverted bits below a sign that is `flip` itself.
            return Number((*bits, self.delayed(flip, later)), True, depth)
        return Number(bits, is_signed, depth)

    def tree(self, numbers: Sequence[Number], extras: Sequence[Term] = ()) -> tuple[Number, list[Term]]:
        """Balanced tree of additions: a level per cycle, two numbers at a time.

        Parameters
        ----------
        numbers
            What to add.
        extras
            Bits that count 1. Each adder takes one of them as its carry in, which costs nothing, so that
            ``len(numbers) - 1`` of them are added.

        Returns
        -------
        The sum, and the extras that were not taken.
        """
        left = list(extras)
        level = list(numbers)
        while len(level) > 1:
            sums = []
            for index in range(0, len(level) - 1, 2):
                carry = left.pop(0) if left else ZERO
                sums.append(self.add(level[index], level[index + 1], carry))
            level = sums + level[len(level) // 2 * 2 :]
        return level[0], left

    def accumulate(
        self,
        number: Number,
        width: int,
        *,
        valid: Term,
        last: Term,
        carry: Term = ZERO,
        double: Term = ZERO,
        places: int = 1,
        segment: int = 12,
        name: str = "accumulator",
    ) -> Accumulated:
        """``total = (total * 2**places if double else total) + number + carry``, cleared behind a last term.

        Doubling takes no LUTs: the slot that adds chooses between two bits of the accumulator. Nor does
        clearing, which is the flip-flops' synchronous reset as the total moves on to a register of its own.

        Parameters
        ----------
        number
            Added in every cycle in which ``valid`` is set.
        width
            Bits of the accumulator, which wraps.
        valid, last
            Of cycle 0, as the operands: the beat exists; it is the last of its sum, and exists.
        carry, double
            As above; of any cycle up to the number's.
        places
            What ``double`` shifts by.
        segment
            Most bits that are added in one cycle: a wider accumulator is cut into segments as even as can be,
            each a cycle behind the one below, whose carry out is registered. It takes two LUTs per cut.
        """
        if number.depth or not number.time:
            number = self.registered(number)
        time = max(number.time, carry.time, double.time)
        cuts = -(-width // segment)
        bounds = [width * index // cuts for index in range(cuts + 1)]
        held = Signal(width, name=name, reset_less=True)
        total = Signal(width, name=f"{name}_next")
        place = [time + index for index in range(cuts) for _ in range(bounds[index], bounds[index + 1])]
        state = [Term.of(held[index], place[index]) for index in range(width)]
        shifted = [*[ZERO] * places, *state][:width]
        done = []
        for index, (low, high) in enumerate(pairwise(bounds)):
            now = time + index
            add = self.delayed(double, now)
            bits = self.aligned(number, now).extended(width)[low:high]
            base = [
                add.select(self.delayed(up, now), here)
                for up, here in zip(shifted[low:high], state[low:high], strict=True)
            ]
            part: Value = total[low:high]
            if high < width:
                carry_out = Signal(name=f"{name}_carry_out_{index}")
                part = Cat(part, carry_out)
            self._rows.setdefault(now, []).append(Row(bits, base, self.delayed(carry, now), part))
            if high < width:
                register = Signal(name=f"{name}_carry_{index}", reset_less=True)
                self.m.d.sync += register.eq(carry_out)
                carry = Term.of(register, now + 1)
            # The same as `end`, but set by a reset, which clears in this way: so it takes no logic either.
            clear = Signal(name=f"{name}_clear_{index}", init=1)
            self.m.d.sync += clear.eq(self.delayed(last, now - 1, reset=True).value)
            enable = self.delayed(valid, now, reset=True).value
            with self.m.If(clear):
                self.m.d.sync += held[low:high].eq(0)
            with self.m.Elif(enable):
                self.m.d.sync += held[low:high].eq(total[low:high])
            done += [Term.of(total[bit], now) for bit in range(low, high)]
        end = time + cuts
        result = Cat(self.delayed(bit, end).value for bit in done).as_signed()
        return Accumulated(result, self.delayed(last, end, reset=True).value, end)

    def finish(self) -> None:
        """Make the carry chains."""
        for time, rows in self._rows.items():
            add_rows(
                self.m,
                rows,
                fabric=self.fabric,
                platform=self.platform,
                name=f"chain_{time}",
                longest=self.longest,
            )
        self._rows.clear()

    @staticmethod
    def value(number: Number) -> Value:
        """The number's bits as one value."""
        return Cat(bit.value for bit in number.bits)
