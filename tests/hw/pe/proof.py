"""Proofs that a dot-product unit equals integer arithmetic, for every value of the operands.

A circuit around the unit holds the elements of a few dot products as free constants, plays the schedule that
the contract declares, with a bubble full of junk in every third cycle, and asserts that each result equals the
sum of products of the decoded values, in the declared cycle after the last beat and in no other.

Yosys' own SAT solver unrolls it from a reset in which every register without one is free. Bounds: the number
of dot products and of their steps, and where the bubbles are; the values are all of the formats'.
"""

from functools import reduce
from pathlib import Path

import numpy as np
from amaranth.asserts import AnyConst, AnySeq
from amaranth.back import rtlil
from amaranth.hdl import Array, Assert, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring

from bitwright.gen.toolchain import run_tool
from bitwright.hw.formats import Int
from bitwright.hw.pe.contract import DotProduct, Precision
from bitwright.hw.reduce.terms import Atom, Term


def _words(bits_of, format, elements, precision, inputs):
    """Every word of a step as an expression of the elements' codes, read off the packing itself."""
    width = elements * format.bits
    codes = np.arange(1 << width)[:, None] >> (np.arange(elements) * format.bits) & (1 << format.bits) - 1
    words = bits_of(format.decode(codes), precision)
    atoms = [Atom(inputs[bit]) for bit in range(width)]

    def expression(column):
        table = reduce(lambda total, index: total | 1 << int(index), np.flatnonzero(column), 0)
        return Term.reduced(atoms, table).value

    return [
        Cat(expression(words[:, word, bit]) for bit in range(words.shape[2])) for word in range(words.shape[1])
    ]


def _value(format, code):
    if isinstance(format, Int):
        return code.as_signed() if format.signed else code
    values = [int(value) for value in format.decode(np.arange(1 << format.bits))]
    return Array(Const(value, signed(8)) for value in values)[code]


class Miter(wiring.Component):
    """The unit, what drives it, and what it must say."""

    def __init__(self, spec: DotProduct, precision: Precision, lengths: tuple[int, ...]):
        self.spec = spec
        self.precision = precision
        self.lengths = lengths
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        spec, precision = self.spec, self.precision
        m.submodules.unit = unit = spec.unit()
        elements = spec.elements(precision)
        beats = []
        sums = []
        for length in self.lengths:
            total = Const(0)
            a_words, w_words = [], []
            for _ in range(length):
                codes = [AnyConst(elements * format.bits) for format in precision]
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


def prove(spec: DotProduct, precision: Precision, folder: Path, *, lengths=(1, 1)) -> None:
    """Prove dot products of so many steps, one behind the other.

    Raises
    ------
    ToolError
        There is a counterexample; it is in the message.
    """
    miter = Miter(spec, precision, lengths)
    (folder / "miter.il").write_text(rtlil.convert(miter, name="miter", ports=[]))
    cycles = miter.cycles
    script = (
        "read_rtlil miter.il; hierarchy -top miter; proc; flatten; opt -full; async2sync; dffunmap; "
        "chformal -lower; opt -full; "
        f"sat -verify -prove-asserts -set-assumes -set-at 1 rst 1 -seq {cycles + 1} "
        + " ".join(f"-set-at {cycle} rst 0" for cycle in range(2, cycles + 2))
        + " -prove-skip 1 -show-public"
    )
    run_tool("yosys", ["-p", script], folder, log="proof.log", timeout=600)
