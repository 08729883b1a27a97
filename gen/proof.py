"""Proofs that a dot-product unit equals integer arithmetic, for every value of the operands.

A circuit around the unit holds the elements of a few dot products as free constants, plays the schedule that
the contract declares, with a bubble full of junk in every third cycle, and asserts that each result equals
the sum of products of the decoded values, in the declared cycle after the last beat and in no other.

Yosys' own SAT solver unrolls it from a reset in which every register without one is free. Bounds: the number
of dot products and of their steps, where the bubbles are, and how many elements are free.
"""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from amaranth.asserts import AnyConst, AnySeq
from amaranth.back import rtlil
from amaranth.hdl import Array, Assert, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from numpy.typing import NDArray

from bitwright.hw.formats import Format, Int
from bitwright.hw.pe.contract import DotProduct, Precision
from bitwright.hw.reduce.terms import Atom, Term

from .toolchain import run_tool

__all__ = ["Miter", "prove"]


def _words(
    bits_of: Callable[[NDArray[np.integer], Precision], NDArray[np.uint8]],
    format: Format,
    elements: int,
    precision: Precision,
    inputs: Value,
) -> list[Value]:
    """Every word of a step as an expression of the elements' codes, read off the packing itself.

    Which elements a bit of a word depends on is found by changing one at a time, its table by trying all of
    their values; random values then have to come out the same.
    """
    width = format.bits
    everything = np.arange(1 << width)

    def packed(codes: NDArray[np.integer]) -> NDArray[np.uint8]:
        words = bits_of(format.decode(codes), precision)
        return words.reshape(len(codes), -1)

    shape = bits_of(format.decode(np.zeros((1, elements), np.int64)), precision).shape[1:]
    rng = np.random.default_rng(0)
    probes = rng.integers(0, 1 << width, (64, elements))
    users: list[set[int]] = [set() for _ in range(shape[0] * shape[1])]
    for element in range(elements):
        for probe in probes:
            codes = np.repeat(probe[None], 1 << width, axis=0)
            codes[:, element] = everything
            for changed in np.flatnonzero(np.ptp(packed(codes), axis=0)):
                users[changed].add(element)
    found: dict[tuple[int, ...], NDArray[np.uint8]] = {}
    samples = rng.integers(0, 1 << width, (500, elements))
    sampled = packed(samples)
    expressions = []
    for bit, used in enumerate(users):
        chosen = tuple(sorted(used))
        places = width * np.arange(len(chosen))
        if chosen not in found:
            codes = np.zeros((1 << width * len(chosen), elements), np.int64)
            codes[:, list(chosen)] = np.arange(len(codes))[:, None] >> places & (1 << width) - 1
            found[chosen] = packed(codes)
        column = found[chosen][:, bit]
        index = (samples[:, list(chosen)] << places).sum(axis=1)
        if (column[index] != sampled[:, bit]).any():
            raise AssertionError(f"bit {bit} of a word depends on more elements than {chosen}")
        atoms = [Atom(inputs[element * width + place]) for element in chosen for place in range(width)]
        table = int.from_bytes(np.packbits(column, bitorder="little").tobytes(), "little")
        expressions.append(Term.reduced(atoms, table).value)
    return [Cat(expressions[word * shape[1] : (word + 1) * shape[1]]) for word in range(shape[0])]


def _value(format: Format, code: Value) -> Value:
    """The value that a code means."""
    if isinstance(format, Int):
        return code.as_signed() if format.signed else code
    values = [int(value) for value in format.decode(np.arange(1 << format.bits))]
    return Array(Const(value, signed(8)) for value in values)[code]


class Miter(wiring.Component):  # type: ignore[misc]  # Amaranth has no type information
    """The unit, what drives it, and what it must say.

    Parameters
    ----------
    spec, precision
        The unit, and one of the precisions that it was built for.
    lengths
        Steps of each dot product, one behind the other.
    free
        Elements of a step whose values are free; the others have random ones. All are unless given.
    """

    def __init__(
        self, spec: DotProduct, precision: Precision, lengths: tuple[int, ...], free: int | None = None
    ):
        self.free = free
        self.spec = spec
        self.precision = precision
        self.lengths = lengths
        super().__init__({})

    def elaborate(self, platform: object) -> Module:
        """As the class says; sets ``cycles`` to how long it takes."""
        m = Module()
        spec, precision = self.spec, self.precision
        m.submodules.unit = unit = spec.unit()
        elements = spec.elements(precision)
        rng = random.Random(0)
        beats = []
        sums = []
        for length in self.lengths:
            total = Const(0)
            a_words, w_words = [], []
            for _ in range(length):
                free = elements if self.free is None else min(self.free, elements)
                codes = [
                    Cat(
                        AnyConst(free * format.bits),
                        Const(rng.getrandbits(64), 64).replicate(16)[: (elements - free) * format.bits],
                    )
                    for format in precision
                ]
                a_words.append(
                    _words(spec.activation_bits, precision.activation, elements, precision, codes[0])
                )
                w_words.append(_words(spec.weight_bits, precision.weight, elements, precision, codes[1]))
                for element in range(elements):
                    a, w = (
                        _value(format, code.word_select(element, format.bits))
                        for format, code in zip(precision, codes, strict=True)
                    )
                    total = total + a * w
            expected = Signal(signed(spec.accumulator_bits))
            m.d.comb += expected.eq(total)
            sums.append(expected)
            schedule = list(spec.schedule(length, precision))
            for index, (step, beat, shift) in enumerate(schedule):
                control = spec.encoded_control(beat, shift=shift)
                last = index == len(schedule) - 1
                beats.append((a_words[step][beat.activation], w_words[step][beat.weight], control, last))

        place = Signal(range(len(beats) + 1))
        phase = Signal(2)
        m.d.sync += phase.eq(Mux(phase == 2, 0, phase + 1))
        go = phase != 1
        valid = Signal()
        m.d.comb += valid.eq(go & (place != len(beats)))
        m.d.sync += place.eq(place + valid)
        junk = [AnySeq(spec.activation_word_bits), AnySeq(spec.weight_word_bits)]
        m.d.comb += [unit.valid.eq(valid), unit.a.eq(junk[0]), unit.w.eq(junk[1])]
        with m.If(valid), m.Switch(place):
            for index, (a, w, control, last) in enumerate(beats):
                with m.Case(index):
                    m.d.comb += [unit.a.eq(a), unit.w.eq(w), unit.last.eq(last)]
                    if spec.control:
                        m.d.comb += Value.cast(unit.control).eq(control)

        due = unit.last
        for _ in range(spec.latency):
            register = Signal()
            m.d.sync += register.eq(due)
            due = register
        done = Signal(range(len(sums) + 1))
        m.d.sync += done.eq(done + due)
        m.d.comb += Assert(unit.o_valid == due)
        with m.If(due), m.Switch(done):
            for index, expected in enumerate(sums):
                with m.Case(index):
                    m.d.comb += Assert(unit.o == expected)
        self.cycles = -(-3 * len(beats) // 2) + spec.latency + 2
        # What ends too early proves nothing.
        age = Signal(range(self.cycles + 2))
        m.d.sync += age.eq(age + 1)
        with m.If(age == self.cycles - 1):
            m.d.comb += Assert(done == len(sums))
        return m


def prove(
    spec: DotProduct,
    precision: Precision,
    folder: Path,
    *,
    lengths: tuple[int, ...] = (1, 1),
    free: int | None = None,
    timeout: float = 600,
) -> None:
    """Prove dot products of so many steps, one behind the other.

    Parameters
    ----------
    spec, precision, lengths, free
        As of a :class:`Miter`.
    folder
        Where the solver works; its log stays there.
    timeout
        Seconds after which the solver is stopped.

    Raises
    ------
    ToolError
        There is a counterexample; it is in the message.
    """
    miter = Miter(spec, precision, lengths, free)
    (folder / "miter.il").write_text(rtlil.convert(miter, name="miter", ports=[]))
    cycles = miter.cycles
    script = (
        "read_rtlil miter.il; hierarchy -top miter; proc; flatten; memory -nomap; memory_map; opt -full; "
        "async2sync; dffunmap; chformal -lower; opt -full; "
        f"sat -verify -prove-asserts -set-assumes -set-at 1 rst 1 -seq {cycles + 1} "
        + " ".join(f"-set-at {cycle} rst 0" for cycle in range(2, cycles + 2))
        + " -prove-skip 1 -show-public"
    )
    run_tool("yosys", ["-p", script], folder, log="proof.log", timeout=timeout)
