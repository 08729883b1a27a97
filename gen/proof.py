"""Proofs that a dot-product unit equals integer arithmetic, for every value of the operands.

A circuit around the unit holds the elements of a few dot products as free constants, plays the schedule that
the contract declares, with a bubble full of junk in every third cycle, and asserts that each result equals
the sum of products of the decoded values, in the declared cycle after the last beat and in no other.

Yosys' own SAT solver unrolls it from a reset in which every register without one is free. Bounds: the number
of dot products and of their steps, where the bubbles are, and how many elements are free.

A counterexample is read back from the solver's log: the signals of the circuit that have a name there.
"""

import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from amaranth.asserts import AnyConst, AnySeq
from amaranth.back import rtlil
from amaranth.hdl import Array, Assert, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from numpy.typing import NDArray

from bitwright.hw.errors import BitwrightError
from bitwright.hw.formats import Format, Int
from bitwright.hw.pe.contract import Beat, DotProduct, Precision
from bitwright.hw.reduce.terms import Atom, Term

from .toolchain import ToolFailedError, ToolTimeoutError, run_tool

__all__ = ["Miter", "NotProvedError", "prove"]

_TABLE_BITS = 16
"""Bits of elements that one bit of a word may depend on: all of their values are tried."""

_LOG = "proof.log"

_OPERANDS = ("activations", "weights")

Trace = dict[int, dict[str, int]]
"""Value of each named signal in each cycle since the reset."""


class NotProvedError(BitwrightError):
    """The solver found operands for which a unit says something wrong; the message shows them.

    Parameters
    ----------
    message
        The counterexample in words.
    log
        The solver's log, which has every signal in every cycle.
    """

    def __init__(self, message: str, log: Path):
        self.log = log
        super().__init__(message)


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
        if width * len(chosen) > _TABLE_BITS:
            raise BitwrightError(
                f"bit {bit} of a word depends on {len(chosen)} elements of {width} bits: there are too many "
                f"values to try all (more than 2**{_TABLE_BITS}); prove the unit at fewer bits or lanes"
            )
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

    Raises
    ------
    BitwrightError
        The unit is not built for the precision, has several outputs, or a number is out of range.
    """

    def __init__(
        self, spec: DotProduct, precision: Precision, lengths: tuple[int, ...], free: int | None = None
    ):
        if precision not in spec.precisions:
            built = ", ".join(map(str, spec.precisions))
            raise BitwrightError(f"{spec.name}: precision = {precision}: the unit is built for {built}")
        if spec.outputs != 1:
            raise BitwrightError(
                f"{spec.name}: outputs = {spec.outputs}: proofs are of one output; build it with outputs=1"
            )
        if not lengths or min(lengths) < 1:
            raise BitwrightError(f"lengths = {lengths}: must be one number of steps or more, each at least 1")
        if free is not None and free < 1:
            raise BitwrightError(f"free = {free}: must be at least 1")
        self.free = free
        self.spec = spec
        self.precision = precision
        self.lengths = lengths
        super().__init__({})

    def elaborate(self, platform: object) -> Module:
        """As the class says.

        Sets ``cycles`` to how long it takes and ``beats`` to what it plays: for each beat its dot product,
        its step, which word of either operand, and its control. Signals with a name are those that
        :func:`_counterexample` asks for.
        """
        m = Module()
        spec, precision = self.spec, self.precision
        m.submodules.unit = unit = spec.unit()
        elements = spec.elements(precision)
        rng = random.Random(0)
        self.beats: list[tuple[int, int, Beat, int]] = []
        beats = []
        sums = []
        for number, length in enumerate(self.lengths):
            total = Const(0)
            a_words, w_words = [], []
            for step in range(length):
                free = elements if self.free is None else min(self.free, elements)
                codes = [
                    Cat(
                        AnyConst(free * format.bits),
                        Const(rng.getrandbits(64), 64).replicate(16)[: (elements - free) * format.bits],
                    )
                    for format in precision
                ]
                for name, code in zip(_OPERANDS, codes, strict=True):
                    shown = Signal(len(code), name=f"{name}_{number}_{step}")
                    m.d.comb += shown.eq(code)
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
            expected = Signal(signed(spec.accumulator_bits), name=f"expected_{number}")
            m.d.comb += expected.eq(total)
            sums.append(expected)
            schedule = list(spec.schedule(length, precision))
            for index, (step, beat, shift) in enumerate(schedule):
                control = spec.encoded_control(beat, shift=shift)
                last = index == len(schedule) - 1
                beats.append((a_words[step][beat.activation], w_words[step][beat.weight], control, last))
                self.beats.append((number, step, beat, control))

        place = Signal(range(len(beats) + 1), name="place")
        phase = Signal(2)
        m.d.sync += phase.eq(Mux(phase == 2, 0, phase + 1))
        go = phase != 1
        valid = Signal(name="playing")
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
        done = Signal(range(len(sums) + 1), name="finished")
        m.d.sync += done.eq(done + due)
        for name, value in (
            *(("due", due), ("result", unit.o), ("result_valid", unit.o_valid)),
            *(("word_a", unit.a), ("word_w", unit.w)),
        ):
            shown = Signal(len(value), name=name)
            m.d.comb += shown.eq(value)
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

    It returns when there is a proof.

    Parameters
    ----------
    spec, precision, lengths, free
        As of a :class:`Miter`.
    folder
        Where the solver works, made if it is missing; its log, ``proof.log``, and the circuit stay there.
    timeout
        Seconds after which the solver is stopped.

    Raises
    ------
    NotProvedError
        There is a counterexample; it is in the message.
    BitwrightError
        What :class:`Miter` says, or the folder cannot be written.
    ToolError
        There is no Yosys, it failed, or it took too long.
    """
    miter = Miter(spec, precision, lengths, free)
    circuit = rtlil.convert(miter, name="miter", ports=[])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "miter.il").write_text(circuit)
    except OSError as error:
        raise BitwrightError(f"{folder}: cannot be written: {error.strerror}") from None
    cycles = miter.cycles
    script = (
        "read_rtlil miter.il; hierarchy -top miter; proc; flatten; memory -nomap; memory_map; opt -full; "
        "async2sync; dffunmap; chformal -lower; opt -full; "
        f"sat -verify -prove-asserts -set-assumes -set-at 1 rst 1 -seq {cycles + 1} "
        + " ".join(f"-set-at {cycle} rst 0" for cycle in range(2, cycles + 2))
        + " -prove-skip 1 -show-public"
    )
    try:
        run_tool("yosys", ["-p", script], folder, log=_LOG, timeout=timeout)
    except ToolTimeoutError as error:
        raise ToolTimeoutError(
            f"{error}: nothing is proved; free fewer elements (free=), take fewer bits, steps or lanes, or "
            "give it longer (timeout=)"
        ) from None
    except ToolFailedError as error:
        text = error.log.read_text(errors="replace")
        if "model found: FAIL!" not in text:
            raise
        raise NotProvedError(_counterexample(miter, _trace(text), error.log), error.log) from None


# Counterexamples

_ROW = re.compile(r"^ +(\d+) \\(\w+) +\S+ +\S+ +([01x]+)$", re.MULTILINE)
_RESET_CYCLES = 2  # the solver counts from 1, and the first one is the reset


def _trace(log: str) -> Trace:
    """Signals by cycle, of the table that the solver prints."""
    trace: Trace = {}
    for time, name, bits in _ROW.findall(log):
        if int(time) >= _RESET_CYCLES:
            trace.setdefault(int(time) - _RESET_CYCLES, {})[name] = int(bits.replace("x", "0"), 2)
    return trace


def _counterexample(miter: Miter, trace: Trace, log: Path) -> str:
    """What the unit says wrong, of which operands, and the beats that it was given."""
    spec = miter.spec
    codes = trace[min(trace)] if trace else {}  # of the operands: they are constants
    wrong, lines = _first_mistake(miter, trace)
    for number, length in enumerate(miter.lengths):
        for step in range(length):
            values = [
                f"{operand} = {_elements(miter, format, codes[f'{name}_{number}_{step}'])}"
                for operand, name, format in zip("aw", _OPERANDS, miter.precision, strict=True)
                if f"{name}_{number}_{step}" in codes
            ]
            lines.append(f"dot product {number}, step {step}: {', '.join(values)}")
    for cycle, now in sorted(trace.items()):
        if not now.get("playing") or not {"place", "word_a", "word_w"} <= set(now):
            continue
        number, step, beat, control = miter.beats[now["place"]]
        if number == wrong:
            a = f"word {beat.activation} of a {now['word_a']:0{spec.activation_word_bits}b}"
            w = f"word {beat.weight} of w {now['word_w']:0{spec.weight_word_bits}b}"
            fields = "".join(
                f", {name} {control >> field.offset & (1 << field.width) - 1}"
                for name, field in spec.control_layout
            )
            lines.append(f"cycle {cycle}: step {step}, {a}, {w}{fields}")
    return "\n  ".join(
        [
            f"{spec.name} of {spec.lanes} lanes at {miter.precision}, fabric {spec.fabric}: not proved, as "
            "it is wrong for these operands (words with the highest bit first):",
            *lines,
            f"every signal of every cycle is in {log}",
        ]
    )


def _first_mistake(miter: Miter, trace: Trace) -> tuple[int | None, list[str]]:
    """Which dot product the unit gets wrong first, None where it is none of them, and in which way."""
    result = Int(miter.spec.accumulator_bits)
    for cycle, now in sorted(trace.items()):
        if {"due", "result", "result_valid", "finished"} <= set(now):
            number = now["finished"]
            if not now["due"] and now["result_valid"]:
                return None, [f"cycle {cycle}: o_valid is 1, and no result is due"]
            if now["due"]:
                codes = np.array([now[f"expected_{number}"], now["result"]])
                expected, got = result.decode(codes).tolist()
                said = f"cycle {cycle}: dot product {number}: expected {expected}, "
                if not now["result_valid"]:
                    return number, [f"{said}but o_valid is 0"]
                if got != expected:
                    return number, [f"{said}got {got}"]
    return None, []


def _elements(miter: Miter, format: Format, code: int) -> list[int]:
    """Values of a step's elements, which lie side by side."""
    mask = (1 << format.bits) - 1
    count = miter.spec.elements(miter.precision)
    codes = [code >> format.bits * element & mask for element in range(count)]
    values: list[int] = format.decode(np.array(codes)).tolist()
    return values
