"""Breaks the hardware on purpose, and counts how often its tests notice.

1. The tests of a subject run once, on Amaranth's simulator, and leave what they did to the hardware and what
   it answered (``Recorder`` in ``tests/hw/conftest.py``), with the netlist.
2. So many mutations are chosen of that netlist, processes made multiplexers and optimised, before technology
   mapping, and Yosys' ``mutate`` makes them: a bit of a cell's port inverted, held at 0 or 1, or inverted
   where another is 0 or 1. All of them go into one circuit, with an input that selects the mutant.
3. Verilator compiles it once (``mutants.cpp``), and every mutant is put to everything that the tests did. It
   is *killed* where an answer differs that the tests look at.
4. Of what survives, :mod:`bitwright.gen.equivalence` proves that no legal inputs ever tell it from the
   original, so that no test can kill it; or shows inputs that do, for a new test vector.

The clock is not mutated: a gated clock is no fault of logic, and simulators do not agree on one.
"""

import argparse
import datetime
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.hw.errors import BitwrightError
from bitwright.hw.formats import Format, Int
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.contract import DotProduct, Layout, Order, Precision
from bitwright.hw.quant.arithmetic import MAX_LEFT_SHIFT
from bitwright.hw.quant.combine import Combiner
from bitwright.hw.quant.requantise import CHANNEL, Requantiser
from bitwright.sim.native import compile_native
from bitwright.sim.tools import find_simulator

from .equivalence import (
    Aiger,
    Bit,
    Clause,
    Condition,
    Difference,
    Equivalent,
    Machine,
    Outcome,
    Undecided,
)
from .record import Record, write
from .record import main as record_page
from .toolchain import find_tool, run_tool

__all__ = [
    "MUTATED",
    "SUBJECTS",
    "OutOfRange",
    "Result",
    "Subject",
    "Trace",
    "bits_equal_when_shifted",
    "mutate",
    "record_traces",
    "unit_of",
]

_LEAST_SHARE = 0.95

_SEED = 1
"""Of the choice of mutations, and of the tests' random numbers."""

MUTATED: Mapping[str, tuple[str, Mapping[str, Any], tuple[str, ...]]] = {
    "parallel-lut": ("parallel", {"lanes": 3, "multiplier": "lut"}, ("a4w3", "au3wu4", "a1w1")),
    "parallel-dsp": ("parallel", {"lanes": 2, "multiplier": "dsp", "outputs": 2}, ("a4w3",)),
    "bitfusion": ("bitfusion", {"lanes": 1}, ("a4w4", "au4w2", "a2wu2", "a8w2")),
    "bitblade": ("bitblade", {"lanes": 1}, ("a4w4", "a2wu2")),
    "stripes": ("stripes", {"lanes": 4}, ("a3w3", "au2wu4", "a1w2")),
    "unpu": ("unpu", {"lanes": 5, "outputs": 1}, ("a2w2", "au2wu2")),
    "loom": ("loom", {"lanes": 5}, ("a3w2", "au2wu3", "a1w1")),
    "bismo": ("bismo", {"lanes": 6}, ("a3w2", "au2wu3", "a1w1")),
    "xnor": ("xnor", {"lanes": 6}, ("abwb", "a3wb", "au3wb")),
    "ternary": ("ternary", {"lanes": 4}, ("a3wt", "au2wt", "atwb")),
    "log2": ("log2", {"lanes": 3}, ("a3wp3", "au4wp2")),
}
"""Of each subject that is a dot-product unit: architecture, parameters, precisions."""

_REDUCTION = 64
"""Longest dot product of those units: its extremes reach the highest bit of the accumulators in few
cycles."""


def unit_of(name: str) -> DotProduct:
    """The dot-product unit that a subject is."""
    unit, parameters, names = MUTATED[name]
    precisions = tuple(map(Precision.parse, names))
    return UNITS[unit](precisions=precisions, reduction=_REDUCTION, **parameters)


@dataclass(frozen=True)
class Subject:
    """A piece of hardware, and its tests.

    Parameters
    ----------
    name
        What the command line calls it.
    tests
        Of pytest, relative to the root of a clone; all of them have the same netlist.
    observed
        When outputs count, by port: a port, how many bits of the output go with a bit of that one (0: any bit
        of that one is enough), and how many cycles ago. Outputs that are left out always count.
    unit
        The dot-product unit that it is; None for others.
    depth
        Cycles of the induction in proofs; as many as a value takes through it, if not more.
    legal
        Which inputs are legal, for proofs, by the ports' widths: of every cycle, and of the first. None
        where none are tried.
    """

    name: str
    tests: tuple[str, ...]
    observed: Mapping[str, tuple[str, int, int]]
    depth: int = 0
    legal: Callable[[Mapping[str, int]], tuple[list[Clause], list[Clause]]] | None = None
    unit: DotProduct | None = None

    @property
    def description(self) -> str:
        """Its name, and of a unit what it was built for."""
        if self.unit is None:
            return self.name
        return f"{self.name}, {self.unit.lanes} lanes, {' '.join(map(str, self.unit.precisions))}"


def _unit_subject(name: str) -> Subject:
    unit = unit_of(name)
    return Subject(
        name=name,
        tests=(f"tests/hw/pe/test_mutants.py::test_vectors[{name}]",),
        observed={
            "o": ("o_valid", 0, 0),
            **{f"o__{index}": ("o_valid", 0, 0) for index in range(unit.outputs)},
        },
        depth=unit.latency + 2,
        legal=lambda widths: _legal_beats(unit),
        unit=unit,
    )


def _requantiser_subject(cycles: int) -> Subject:
    return Subject(
        name=f"requantise-{cycles}",
        tests=(f"tests/hw/quant/test_requantise.py::test_values_and_latency[{cycles}]",),
        observed={"o": ("done", 0, 0)},
        depth=Requantiser.latency_of(cycles) + 2,
        legal=lambda widths: (_legal_elements(cycles, widths), []),
    )


_COMBINER = Subject(
    name="combine",
    tests=tuple(f"tests/hw/quant/test_combine.py::test_elements[changes1-False-{idle}]" for idle in (0, 0.3)),
    observed={"o": ("valid", 0, Combiner.BOUNDS + 1)},
)
"""With tables of 16 kbit in it, which are too much for the solver."""

SUBJECTS: Mapping[str, Subject] = {
    subject.name: subject
    for subject in (*map(_unit_subject, MUTATED), *map(_requantiser_subject, (1, 4)), _COMBINER)
}
"""Everything that can be mutated, by name."""


@dataclass(frozen=True)
class Trace:
    """What a test did to a component.

    Parameters
    ----------
    netlist
        RTLIL of the component, its top module ``dut``.
    ports
        Name, width in bits, and whether it is an input, of each port but the clock.
    cycles
        Value of each port in each cycle.
    """

    netlist: str
    ports: tuple[tuple[str, int, bool], ...]
    cycles: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class OutOfRange:
    """A mutant that differs only for sums that no dot product has; see :func:`bits_equal_when_shifted`.

    Parameters
    ----------
    bit
        Of the accumulator, which the mutated cell reads or which it makes.
    equal
        How many of the accumulator's highest bits are equal whenever it is shifted.
    """

    bit: int
    equal: int


@dataclass(frozen=True)
class Result:
    """What became of the mutants of a subject.

    Parameters
    ----------
    subject
        Which.
    cells
        Cells of the netlist.
    cycles
        Of the tests.
    killed
        For each mutant that was killed, its mutation.
    survivors
        For each other one, its mutation and what the solver says; None where it was not asked.
    """

    subject: Subject
    cells: int
    cycles: int
    killed: tuple[str, ...]
    survivors: tuple[tuple[str, Outcome | OutOfRange | None], ...]

    @property
    def proved(self) -> int:
        """Mutants that cannot be told from the original."""
        return sum(isinstance(outcome, Equivalent) for _, outcome in self.survivors)

    @property
    def out_of_range(self) -> int:
        """Mutants that differ for sums that no dot product has."""
        return sum(isinstance(outcome, OutOfRange) for _, outcome in self.survivors)

    @property
    def unexplained(self) -> int:
        """Mutants that survive, and it is not known why."""
        return len(self.survivors) - self.proved - self.out_of_range

    @property
    def share(self) -> float:
        """Share killed of those that are not explained."""
        return len(self.killed) / max(1, len(self.killed) + self.unexplained)


def record_traces(subject: Subject, root: Path, *, seed: int = _SEED) -> list[Trace]:
    """Run a subject's tests and return what they did; those of one netlist.

    Parameters
    ----------
    subject
        Which.
    root
        Of a clone: where `tests/` is.
    seed
        Of the tests' random numbers.

    Raises
    ------
    BitwrightError
        There are no such tests, one failed, or they are of several netlists.
    """
    if not (root / "tests").is_dir():
        raise BitwrightError(f"{root}: has no folder tests; run this from a clone of the repository")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *subject.tests],
            cwd=root,
            env=os.environ | {"BITWRIGHT_TRACES": folder, "BITWRIGHT_SEED": str(seed)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BitwrightError(f"{subject.name}: its tests fail:\n{done.stdout[-3000:]}")
        files = sorted(Path(folder).iterdir(), key=lambda path: int(path.stem.split("-")[1]))
        traces = [
            Trace(item["netlist"], tuple(map(tuple, item["ports"])), tuple(map(tuple, item["cycles"])))
            for item in map(json.loads, (path.read_text() for path in files))
        ]
    if len({trace.netlist for trace in traces}) != 1:
        raise BitwrightError(
            f"{subject.name}: its tests are of {len({trace.netlist for trace in traces})} netlists; a "
            "subject is one"
        )
    return traces


def mutate(
    subject: Subject,
    root: Path,
    *,
    count: int = 300,
    seed: int = _SEED,
    explain: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Make mutants of a subject and put them to its tests.

    Parameters
    ----------
    subject, root
        As of :func:`record_traces`.
    count
        Mutations; fewer where the netlist has no more.
    seed
        Of their choice, and of the tests' random numbers.
    explain
        Whether to look for proofs of what survives.
    progress
        Told what is being done.

    Raises
    ------
    BitwrightError
        The tests fail, also where the original does not answer Verilator what it answered Amaranth's
        simulator.
    ToolError, SimulationError
        A tool is missing or failed.
    """
    say = progress or (lambda text: None)
    say(f"{subject.name}: tests")
    traces = record_traces(subject, root, seed=seed)
    ports = traces[0].ports
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say(f"{subject.name}: mutations")
        mutations, cells = _mutations(traces[0].netlist, folder, count, seed)
        verilog = _mutated(mutations, folder)
        total = sum(len(trace.cycles) for trace in traces)
        say(f"{subject.name}: {len(mutations)} mutants in {cells} cells, {total} cycles")
        program = compile_native(
            {"mutants.v": verilog, "top.v": _wrapper(ports)},
            "top",
            (resources.files("bitwright.gen") / "mutants.cpp").read_text(),
        )
        (folder / "stimuli.bin").write_bytes(_stimuli(subject, traces).tobytes())
        done = subprocess.run(
            [program, "stimuli.bin", str(len(mutations))],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BitwrightError(
                f"{subject.name}: the simulation of the mutants failed: {(done.stdout + done.stderr)[-1000:]}"
            )
        lines = [line.split() for line in done.stdout.splitlines()]
        if len(lines) != len(mutations) + 1 or lines[0][1] != "survived":
            raise BitwrightError(
                f"{subject.name}: the netlist itself is told from the hardware by its tests: {lines[:1]}"
            )
        killed = [mutations[int(line[0]) - 1] for line in lines[1:] if line[1] != "survived"]
        alive = [int(line[0]) for line in lines[1:] if line[1] == "survived"]
        say(f"{subject.name}: {len(killed)} killed, {len(alive)} survive")
        outcomes: dict[int, Outcome | OutOfRange] = {}
        if explain and alive and subject.legal:
            machine = _machine(subject, ports, folder)
            for number in alive:
                outcome = machine.compare(number)
                outcomes[number] = (
                    _out_of_range(subject, mutations[number - 1], folder) or outcome
                    if isinstance(outcome, Undecided)
                    else outcome
                )
                if isinstance(outcome, Difference) and not _confirmed(
                    subject, ports, outcome, number, program, folder
                ):
                    raise BitwrightError(
                        f"{subject.name}: {mutations[number - 1]}: the solver tells it from the original "
                        f"by inputs that do not in the simulation: {outcome}"
                    )
    return Result(
        subject=subject,
        cells=cells,
        cycles=total,
        killed=tuple(killed),
        survivors=tuple((mutations[number - 1], outcomes.get(number)) for number in alive),
    )


_MODES = ("inv", "const0", "const1", "cnot0", "cnot1")
"""What may become of a bit: inverted, held at 0 or 1, inverted where another bit of the port is 0 or 1."""

_CLOCK = re.compile(r"CLK|ARST|[A-Z]+_(CLK|ARST)")

_MOST_BITS = 9
"""Bits of an element that all values are listed of."""

_SELECTOR = "mutsel"
_SELECTOR_BITS = 20


def _mutations(netlist: str, folder: Path, count: int, seed: int) -> tuple[list[str], int]:
    """Arguments of ``mutate`` for each mutation, and how many cells there are; leaves the netlist in the
    folder.

    Every bit of every port of a cell is as likely as any other, and every way to mutate it. Yosys' own choice
    (``mutate -list``) does not come to an end where a netlist has fewer mutations than are asked for.
    """
    (folder / "dut.il").write_text(netlist)
    run_tool(
        "yosys",
        [
            "-p",
            "read_rtlil dut.il; hierarchy -top dut; proc; flatten; opt; clean -purge; "
            "write_rtlil netlist.il; write_json netlist.json",
        ],
        folder,
        log="mutations.log",
    )
    cells = json.loads((folder / "netlist.json").read_text())["modules"]["dut"]["cells"]
    sites = []
    for name, cell in cells.items():
        known = name if cell["hide_name"] else f"\\{name}"
        for port, bits in cell["connections"].items():
            if not _CLOCK.fullmatch(port):
                sites += [
                    (known, port, bit, len(bits)) for bit, net in enumerate(bits) if isinstance(net, int)
                ]
    rng = random.Random(seed)
    every = [(site, mode) for site in sites for mode in _MODES if site[-1] > 1 or not mode.startswith("cnot")]
    chosen = rng.sample(every, min(count, len(every)))
    return [
        f"-mode {mode} -module \\dut -cell {cell} -port \\{port} -portbit {bit}"
        + (f" -ctrlbit {(bit + rng.randrange(1, width)) % width}" if mode.startswith("cnot") else "")
        for (cell, port, bit, width), mode in chosen
    ], len(cells)


def _mutated(mutations: Sequence[str], folder: Path) -> str:
    """Verilog of the netlist with all mutants in it; leaves `mutants.il` in the folder."""
    script = ["read_rtlil netlist.il"]
    script += [
        f"mutate -ctrl {_SELECTOR} {_SELECTOR_BITS} {index} {arguments}"
        for index, arguments in enumerate(mutations, start=1)
    ]
    script += ["opt_clean", "write_rtlil mutants.il", "write_verilog -noattr mutants.v"]
    (folder / "mutate.ys").write_text("\n".join(script) + "\n")
    run_tool("yosys", ["-s", "mutate.ys"], folder, log="mutate.log")
    # Of a mutant more than one case may match, of which the simulator would complain: it takes the first.
    return (folder / "mutants.v").read_text().replace("// synopsys parallel_case", "")


def _wrapper(ports: Sequence[tuple[str, int, bool]]) -> str:
    """A top module whose ports are the same for all: all inputs side by side, all outputs side by side.

    At least 65 bits each, which is where Verilator makes arrays of words of them.
    """
    places: dict[bool, int] = {True: 0, False: 0}
    connections = []
    for name, width, is_input in ports:
        low = places[is_input]
        places[is_input] += width
        vector = "i" if is_input else "o"
        if width:
            connections.append(f".\\{name} ({vector}[{low + width - 1}:{low}])")
    inputs, outputs = (max(65, places[key]) for key in (True, False))
    rest = f"assign o[{outputs - 1}:{places[False]}] = 0;" if outputs > places[False] else ""
    selector = f".{_SELECTOR}(mutsel[{_SELECTOR_BITS - 1}:0])"
    return "\n".join(
        [
            "/* verilator lint_off WIDTH */",
            "/* verilator lint_off UNUSED */",
            f"module top(input clk, input [31:0] mutsel, input [{inputs - 1}:0] i, output "
            f"[{outputs - 1}:0] o);",
            rest,
            f"dut dut ({', '.join(['.clk(clk)', selector, *connections])});",
            "endmodule\n",
        ]
    )


def _stimuli(subject: Subject, traces: Sequence[Trace]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """What `mutants.cpp` reads."""
    ports = traces[0].ports
    total = {
        kind: max(65, sum(width for _, width, is_input in ports if is_input == kind))
        for kind in (True, False)
    }
    words = {kind: -(-bits // 32) for kind, bits in total.items()}
    chunks = [np.array([words[True], words[False], len(traces)], np.uint32)]
    names = [name for name, *_ in ports]
    for trace in traces:
        text = bytearray()
        for cycle, values in enumerate(trace.cycles):
            packed = {True: 0, False: 0}
            places = {True: 0, False: 0}
            mask = 0
            for (name, width, is_input), value in zip(ports, values, strict=True):
                packed[is_input] |= value << places[is_input]
                if not is_input:
                    mask |= _mask(subject, trace, names, cycle, name, width) << places[False]
                places[is_input] += width
            for kind, value in ((True, packed[True]), (False, packed[False]), (False, mask)):
                text += value.to_bytes(4 * words[kind], "little")
        chunks += [np.array([len(trace.cycles)], np.uint32), np.frombuffer(bytes(text), "<u4")]
    return np.concatenate(chunks)


def _confirmed(
    subject: Subject,
    ports: Sequence[tuple[str, int, bool]],
    difference: Difference,
    number: int,
    program: Path,
    folder: Path,
) -> bool:
    """Whether the simulation, too, tells a mutant from the original by these inputs."""
    cycles = tuple(tuple(now.get(name, 0) for name, *_ in ports) for now in difference.cycles)
    stimuli = _stimuli(subject, [Trace("", tuple(ports), cycles)])
    (folder / "difference.bin").write_bytes(stimuli.tobytes())
    found = []
    for mutant in (0, number):
        done = subprocess.run(
            [program, "difference.bin", str(mutant), "show"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(
            [
                sum(int(word, 16) << 32 * place for place, word in enumerate(line.split()))
                for line in done.stdout.splitlines()
            ]
        )
    names = [name for name, *_ in ports]
    shown = [list(cycle) for cycle in cycles]
    for cycle, outputs in enumerate(found[0]):
        place = 0
        for index, (_, width, is_input) in enumerate(ports):
            if not is_input:
                shown[cycle][index] = outputs >> place & (1 << width) - 1
                place += width
    trace = Trace("", tuple(ports), tuple(map(tuple, shown)))
    for cycle, (original, mutated) in enumerate(zip(*found, strict=True)):
        place = 0
        for name, width, is_input in ports:
            if not is_input:
                differs = (original ^ mutated) >> place
                if differs & _mask(subject, trace, names, cycle, name, width):
                    return True
                place += width
    return False


def _mask(subject: Subject, trace: Trace, names: Sequence[str], cycle: int, name: str, width: int) -> int:
    """Which bits of an output count in a cycle."""
    everything = (1 << width) - 1
    if name not in subject.observed:
        return everything
    port, share, ago = subject.observed[name]
    if cycle < ago:
        return 0
    condition = trace.cycles[cycle - ago][names.index(port)]
    if not share:
        return everything if condition else 0
    return sum(
        ((1 << share) - 1) << share * bit for bit in range(condition.bit_length()) if condition >> bit & 1
    )


def _machine(subject: Subject, ports: Sequence[tuple[str, int, bool]], folder: Path) -> Machine:
    """The netlist with its mutants, for proofs."""
    run_tool(
        "yosys",
        [
            "-p",
            "read_rtlil mutants.il; hierarchy -top dut; memory_map; opt_clean; techmap; opt; setundef -zero; "
            "async2sync; dffunmap; simplemap; aigmap; opt_clean; "
            "write_aiger -ascii -zinit -map dut.map dut.aag",
        ],
        folder,
        log="aiger.log",
    )
    aiger = Aiger.read((folder / "dut.aag").read_text(), (folder / "dut.map").read_text())
    widths = {name: width for name, width, _ in ports}
    observed: dict[Bit, Condition] = {}
    for name, (port, share, ago) in subject.observed.items():
        for bit in range(widths.get(name, 0)):
            bits = tuple((port, index) for index in range(widths[port]))
            observed[name, bit] = Condition(bits if not share else (bits[bit // share],), ago)
    assert subject.legal is not None
    legal, initial = subject.legal(widths)
    return Machine(
        aiger,
        selector=_SELECTOR,
        observed=observed,
        legal=legal,
        initial=initial,
        depth=subject.depth,
    )


def bits_equal_when_shifted(unit: DotProduct) -> int:
    """How many of the highest bits of a serial unit's accumulator are equal whenever it is shifted.

    Planes come in descending order of significance (Horner's rule). In front of the shift from significance
    s to s - 1 the accumulator is ``sum(+-2**(i + j - s) * a_i * w_j)`` over all elements and those planes i
    of a and j of w that were there, ``i + j >= s``; an operand that is not serial is a whole, with j = 0. It
    is least and greatest where all elements have the pair of values for which one element's part is: all
    pairs are tried, so the bound is exact. Between dot products, where the accumulator may be anything, it
    is cleared by the next one's first beat. 0 if the unit does not shift by single places.
    """
    if "shift" not in unit.control or unit.shift_places != 1:
        return 0

    def planes(format: Format, layout: Layout) -> list[list[int]]:
        """Of each value its planes, times their signs and powers of two; itself where it is a whole."""
        if layout is not Layout.PLANAR or not isinstance(format, Int):
            return [[int(value)] for value in format.values]
        return [
            [
                (int(value) >> bit & 1) << bit
                if bit < format.bits - format.signed
                else -(int(value < 0) << bit)
                for bit in range(format.bits)
            ]
            for value in format.values
        ]

    needed = 1
    for precision in unit.precisions:
        for a in planes(precision.activation, unit.activation_layout):
            for w in planes(precision.weight, unit.weight_layout):
                for place in range(1, len(a) + len(w) - 1):
                    part = sum(x * y for i, x in enumerate(a) for j, y in enumerate(w) if i + j >= place)
                    total = unit.reduction * (part >> place)
                    needed = max(needed, (total if total >= 0 else ~total).bit_length() + 1)
    return max(0, unit.accumulator_bits - needed + 1)


def _out_of_range(subject: Subject, mutation: str, folder: Path) -> OutOfRange | None:
    """What explains a mutant at a cell that shifts the highest bits of an accumulator, if it is one."""
    equal = bits_equal_when_shifted(subject.unit) if subject.unit else 0
    if equal < 2:
        return None
    assert subject.unit is not None
    module = json.loads((folder / "netlist.json").read_text())["modules"]["dut"]
    name = mutation.split(" -cell ")[1].split()[0].removeprefix("\\")
    nets = {net for bits in module["cells"][name]["connections"].values() for net in bits}
    for wire, found in module["netnames"].items():
        bits = found["bits"]
        if re.fullmatch(r"accumulator(_\d+)?", wire) and len(bits) == subject.unit.accumulator_bits:
            for bit in range(len(bits) - equal, len(bits)):
                if bits[bit] in nets:
                    return OutOfRange(bit, equal)
    return None


def _legal_elements(cycles: int, widths: Mapping[str, int]) -> list[Clause]:
    """Inputs of a requantiser that are legal: a shift that there is, bounds of the clamp in their order, and
    an element held for its cycles.
    """
    exponent: list[Bit] = [
        ("channel", CHANNEL["exponent"].offset + bit) for bit in range(CHANNEL["exponent"].width)
    ]
    greatest = MAX_LEFT_SHIFT + 31
    # A number beyond has a bit that the greatest has not, where those above are as in it.
    clauses: list[Clause] = [
        [
            (exponent[bit], False),
            *(
                (above, False)
                for place, above in enumerate(exponent)
                if place > bit and greatest >> place & 1
            ),
        ]
        for bit in range(len(exponent))
        if not greatest >> bit & 1
    ]
    # In the highest bit that is not equal the lower bound has 0, but the sign.
    low, high = (
        [("channel", CHANNEL[name].offset + bit) for bit in range(CHANNEL[name].width)]
        for name in ("low", "high")
    )
    sign = len(low) - 1
    clauses.append([(("first difference", bit), True) for bit in range(-1, len(low))])
    for bit in range(-1, len(low)):
        unless = (("first difference", bit), False)
        for above in range(bit + 1, len(low)):
            clauses += [[unless, (low[above], value), (high[above], not value)] for value in (False, True)]
        if bit >= 0:
            clauses += [[unless, (low[bit], bit == sign)], [unless, (high[bit], bit != sign)]]
    start, rst = ("start", 0), ("rst", 0)
    inputs = [(port, bit) for port in ("channel", "acc") for bit in range(widths[port])]
    if cycles > 1:
        for port, bit in inputs:
            now, then = (port, bit), (f"{port} before'", bit)
            clauses += [[(now, False), (then, True)], [(now, True), (then, False)]]
    for held in range(1, cycles):
        is_held = ("held", held)
        clauses += [
            [(start if held == 1 else ("held", held - 1), False), (rst, True), (("held'", held), True)],
            [(is_held, False), (start, False)],
        ]
        for port, bit in inputs:
            now, then = (port, bit), (f"{port} before", bit)
            clauses += [
                [(is_held, False), (now, False), (then, True)],
                [(is_held, False), (now, True), (then, False)],
            ]
    return clauses


def _legal_beats(unit: DotProduct) -> tuple[list[Clause], list[Clause]]:
    """Inputs that the contract allows: of every cycle, and of the first.

    A beat is one that a precision of the unit has: its control, words that hold elements of that precision,
    and ``last`` only where it ends a dot product. It follows the beat before it as a schedule has it: behind
    the last beat of a dot product the first one of any precision comes, and otherwise, with steps outside,
    the next of the step; with beats outside the same once more, without a shift, or the next. How many steps
    there are may differ from beat to beat, which allows more than the contract does. In a cycle without a
    beat there is no ``last``.
    """
    outside = unit.order is Order.BEATS_OUTSIDE
    kinds = [  # precision, place in the step, and with beats outside whether it is the first of its steps
        (precision, place, first)
        for precision in unit.precisions
        for place in range(len(unit.beats(precision)))
        for first in ((True, False) if outside else (True,))
    ]
    end = len(kinds)  # between dot products

    def follow(before: int) -> Iterable[int]:
        for index, (precision, place, first) in enumerate(kinds):
            if before == end:
                if place == 0 and first:
                    yield index
                continue
            other, was, _ = kinds[before]
            if other != precision:
                continue
            if outside:
                if (place == was and not first) or (place == was + 1 and first):
                    yield index
            elif place == (was + 1) % len(unit.beats(precision)):
                yield index

    beat: list[Bit] = [("beat", index) for index in range(len(kinds))]
    before: list[Bit] = [("before", index) for index in range(len(kinds) + 1)]
    behind: list[Bit] = [("before'", index) for index in range(len(kinds) + 1)]
    valid, last, rst = ("valid", 0), ("last", 0), ("rst", 0)
    clauses: list[Clause] = [
        [(last, False), (valid, True)],
        [(valid, False), *((bit, True) for bit in beat)],
        [(bit, True) for bit in before],
        *([(one, False), (other, False)] for one, other in combinations(before, 2)),
        [(rst, False), (behind[end], True)],
        *(
            [(rst, True), (valid, True), (was, False), (now, True)]
            for was, now in zip(before, behind, strict=True)
        ),
    ]
    words: dict[tuple[Precision, str, int], list[tuple[list[Bit], set[int]]]] = {}
    for index, (precision, place, first) in enumerate(kinds):
        this = unit.beats(precision)[place]
        final = place == len(unit.beats(precision)) - 1
        unless: list[tuple[Bit, bool]] = [(beat[index], False), (valid, False)]
        for other in range(len(before)):
            if index not in set(follow(other)):
                clauses.append([*unless, (before[other], False)])
        # A result in the middle of a step, of one of several outputs, does not end it.
        clauses.append(
            [*unless, (rst, True), (last, True) if final else (valid, False), (behind[index], True)]
        )
        if final:
            clauses.append([*unless, (rst, True), (last, False), (behind[end], True)])
        if not unit.ends(precision)[place]:
            clauses.append([*unless, (last, False)])
        groups: list[tuple[list[Bit], set[int]]] = []
        if unit.control:
            control = unit.encoded_control(this, shift=this.shift and first)
            groups.append(([("control", bit) for bit in range(unit.control_layout.size)], {control}))
        for port, word in (("a", this.activation), ("w", this.weight)):
            key = (precision, port, word)
            if key not in words:
                words[key] = _word(unit, *key)
            groups += words[key]
        for bits, allowed in groups:
            for value in set(range(1 << len(bits))) - allowed:
                clauses.append([*unless, *((bit, not value >> low & 1) for low, bit in enumerate(bits))])
    return clauses, [[(before[end], True)]]


def _word(unit: DotProduct, precision: Precision, port: str, word: int) -> list[tuple[list[Bit], set[int]]]:
    """Bits of an operand's word that hold one element, and which values they have, of every element.

    Bits that hold several elements, and groups of many bits, are left out: they may be anything.
    """
    format, pack = (
        (precision.activation, unit.activation_bits) if port == "a" else (precision.weight, unit.weight_bits)
    )
    shape = [unit.elements(precision)]
    if port == "w" and unit.outputs_per_beat > 1:
        shape = [unit.outputs, *shape]
    rng = np.random.default_rng(0)
    count = int(np.prod(shape))
    holders: dict[int, set[int]] = {}
    patterns: dict[int, np.ndarray[Any, Any]] = {}
    for element in range(count):
        seen = []
        for _ in range(4):
            values = np.repeat(rng.choice(format.values, count)[None], len(format.values), axis=0)
            values[:, element] = format.values
            seen.append(pack(values.reshape(-1, *shape), precision)[:, word])
            for bit in np.flatnonzero(np.ptp(seen[-1], axis=0)):
                holders.setdefault(int(bit), set()).add(element)
        patterns[element] = seen[0]
    groups: list[tuple[list[Bit], set[int]]] = []
    for element in range(count):
        places = [bit for bit, elements in holders.items() if elements == {element}]
        if 0 < len(places) <= _MOST_BITS:
            codes = patterns[element][:, places].astype(np.int64) @ (1 << np.arange(len(places)))
            groups.append(([(port, bit) for bit in places], set(map(int, codes))))
    constant = sorted(set(range(patterns[0].shape[1])) - set(holders))
    groups += [([(port, bit)], {int(patterns[0][0, bit])}) for bit in constant]
    return groups


# The command

_NOT_COVERED = (
    "Mutations of more than one bit, of clocks, and of anything but the parameters that are listed.",
    "Mutants of the combiner are not given to the solver: its tables are memories of many bits.",
    "Which inputs are legal, the proofs take from the contract cycle by cycle; steps may differ from beat "
    "to beat.",
)


def _record(results: Sequence[Result], command: str, seconds: float) -> Record:
    killed, proved, out_of_range, unexplained = (
        sum(numbers)
        for numbers in zip(
            *((len(each.killed), each.proved, each.out_of_range, each.unexplained) for each in results),
            strict=True,
        )
    )
    return Record(
        name="mutation",
        title="Mutants of the hardware",
        method="mutated",
        claim=(
            f"Of {killed + proved + out_of_range + unexplained} mutants the tests kill {killed}; of {proved} "
            f"more there is a proof that no legal inputs tell them from the original; {out_of_range} are "
            "where a serial unit shifts the highest bits of its accumulator, which the longest dot products "
            "leave equal whenever it is shifted (all pairs of values are tried: "
            "`bitwright.gen.mutation.bits_equal_when_shifted`), and of these no difference was found. "
            f"{unexplained} survive without an explanation. The share is of those killed among all that are "
            "not explained. Each number of mutants is drawn at random from all bits of all ports of the "
            "netlist's cells, and all ways to mutate one."
        ),
        command=command,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        seconds=round(seconds, 1),
        versions={
            "bitwright": version("bitwright"),
            "python-sat": version("python-sat"),
            "verilator": find_simulator("verilator").version,
            "yosys": find_tool("yosys").version,
        },
        columns=(
            *("hardware", "cells", "cycles of tests", "mutants", "killed"),
            *("proved the same", "out of range", "unexplained", "share"),
        ),
        rows=tuple(
            (
                each.subject.description,
                each.cells,
                each.cycles,
                len(each.killed) + len(each.survivors),
                len(each.killed),
                each.proved,
                each.out_of_range,
                each.unexplained,
                f"{100 * each.share:.1f} %",
            )
            for each in results
        ),
        not_covered=_NOT_COVERED,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Mutate subjects; exit status 1 if less than 95 % are killed of one, 2 if it could not be tried.

    Parameters
    ----------
    arguments
        Of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="scripts/mutate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subjects", nargs="*", help=f"of {', '.join(SUBJECTS)}; all unless given")
    parser.add_argument("--number", type=int, default=300, help="mutants of each")
    parser.add_argument("--seed", type=int, default=_SEED, help="of their choice and of the tests")
    parser.add_argument("--record", action="store_true", help="write it to docs/verification")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    results: list[Result] = []
    try:
        unknown = [name for name in options.subjects if name not in SUBJECTS]
        if unknown:
            raise BitwrightError(f"{unknown[0]}: must be one of {', '.join(SUBJECTS)}")
        if options.number < 1:
            raise BitwrightError(f"--number = {options.number}: must be at least 1")
        if options.record and options.subjects:
            raise BitwrightError("--record: is of all subjects")
        for name in options.subjects or SUBJECTS:
            result = mutate(
                SUBJECTS[name],
                Path(),
                count=options.number,
                seed=options.seed,
                progress=lambda text: print(text, file=sys.stderr, flush=True),
            )
            results.append(result)
            print(
                f"{name}: {len(result.killed)} killed, {result.proved} proved the same, "
                f"{result.out_of_range} out of range, {result.unexplained} unexplained: "
                f"{100 * result.share:.1f} %",
                flush=True,
            )
            for mutation, outcome in result.survivors:
                if not isinstance(outcome, Equivalent):
                    print(f"  {mutation}\n    {_shown(outcome)}", flush=True)
        if options.record:
            command = f"scripts/mutate --number {options.number} --seed {options.seed} --record"
            write(_record(results, command, time.monotonic() - started), Path("docs/verification"))
            record_page([])
    except BitwrightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if all(result.share >= _LEAST_SHARE for result in results) else 1


def _shown(outcome: Outcome | OutOfRange | None) -> str:
    """What is known of a survivor."""
    if outcome is None:
        return "the solver was not asked"
    if isinstance(outcome, OutOfRange):
        return (
            f"at the accumulator's bit {outcome.bit}, and its highest {outcome.equal} bits are equal "
            "whenever it is shifted"
        )
    if isinstance(outcome, Difference):
        cycles = "; ".join(
            ", ".join(f"{name} {value:#x}" for name, value in now.items() if name != "clk")
            for now in outcome.cycles
        )
        return f"these inputs tell it from the original: {cycles}"
    return outcome.reason if isinstance(outcome, Undecided) else "the same"


if __name__ == "__main__":
    raise SystemExit(main())
