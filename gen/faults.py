"""Does to an engine what must not happen, and looks at how it ends: ``scripts/faults``.

The engine is the Verilog that a user gets, compiled with Verilator beside a memory and a host in C++
(``faults.cpp``). It runs a network; in each scenario one thing goes wrong: the bus answers with an error or
does not move, a reset comes, the program or a register is not what it should be. Then

- it has to end: done, or in a fault whose code is the stated one, and not busy any more;
- nothing outside the granted window may have been read, written or changed, and no rule of AXI4 broken;
- where it says done although only time went wrong, the results are right;
- and the next run, of the right program in a memory put right, gives the golden model's results.
"""

import argparse
import datetime
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.config import INSTRUCTION_BITS, EngineConfig
from bitwright.hw.errors import BitwrightError
from bitwright.hw.formats import Int
from bitwright.hw.memory.scratchpad import geometries
from bitwright.hw.sched.isa import Buffer, Instruction, Opcode, Unit
from bitwright.hw.sched.registers import Fault
from bitwright.hw.sched.widths import kept_bits, narrow_layout, settings_of
from bitwright.sim import golden
from bitwright.sim.graph import Graph
from bitwright.sim.native import compile_native
from bitwright.sim.tools import find_simulator

from .execute import MEMORY_BASE
from .mapper import compile_graph
from .record import Record, write
from .record import main as record_page
from .synthetic import ConvolutionShape, random_cnn, random_input, random_mlp, random_residual
from .toolchain import find_tool
from .verilog import TOP, emit

__all__ = ["CASES", "KINDS", "Case", "Finding", "Outcome", "Scenario", "Tally", "inject", "scenarios"]

WATCHDOG = 1000
"""Cycles without progress that are a fault, in every run where nothing else is said."""

_STALL = 10_000
_SPARE = 1 << 13
_LIMIT = 4_000_000
"""Cycles after which a run has no end; broken programs with long loops took some ten thousand."""

_DONE = 2
_FAULT = 4

_INSTRUCTION = INSTRUCTION_BITS // 8

_WRITE_CYCLES = 32
"""That the host takes for a write, at most."""

_SNAPSHOT_CYCLES = 20
"""By which the time of a SNAPSHOT differs (:mod:`bitwright.hw.sched.counters`)."""


def _status(fault: Fault) -> int:
    return _FAULT | int(fault) << 8


_ANY = frozenset((_DONE, *(_status(fault) for fault in Fault if fault)))

_SMALL: dict[str, Any] = {
    "activation_depth": 64,
    "weight_depth": 64,
    "channel_depth": 32,
    "output_depth": 64,
    "patch_depth": 32,
}


@dataclass(frozen=True)
class Case:
    """A network on an engine.

    Parameters
    ----------
    config
        The engine.
    graph
        Makes the network.
    """

    config: EngineConfig
    graph: Callable[[], Graph]


_WIDE = EngineConfig(
    rows=2, cols=4, lanes=8, bus_bits=64, burst_beats=16, queue_depth=4, requantisers=2, **_SMALL
)

CASES: Mapping[str, Case] = {
    "mlp": Case(
        EngineConfig(
            cols=2, lanes=4, bus_bits=32, burst_beats=4, queue_depth=2, requantise_cycles=4, **_SMALL
        ),
        lambda: random_mlp((10, 6, 4), rows=3, seed=1),
    ),
    "cnn": Case(
        _WIDE,
        lambda: random_cnn(
            (5, 4, 3),
            [
                ConvolutionShape(channels=5, kernel=(3, 3), padding=((1, 1), (1, 1))),
                ConvolutionShape(channels=4, kernel=(2, 2), stride=(2, 2)),
            ],
            seed=2,
        ),
    ),
    "residual": Case(
        _WIDE, lambda: random_residual((4, 4, 2), channels=4, classes=3, depthwise=False, seed=3)
    ),
    "planes": Case(
        EngineConfig(
            pe="bismo",
            precisions=("a4w4",),
            cols=4,
            lanes=32,
            bus_bits=64,
            burst_beats=8,
            queue_depth=4,
            **_SMALL,
        ),
        lambda: random_mlp((40, 9, 4), rows=2, activation=Int(4), weight=Int(4), seed=4),
    ),
}
"""Networks and engines that faults are injected into: two widths of the bus, packed activations and planes,
forwarding, windows and tables of sums."""


KINDS = {
    "read error": "SLVERR or DECERR at a beat read",
    "write error": "SLVERR or DECERR for a burst written",
    "stall": "a channel does not move for 10 000 cycles; the watchdog waits for less",
    "patient stall": "the same, and the watchdog waits for more, or for ever",
    "reset": "reset in any cycle",
    "opcode": "every opcode that no unit executes",
    "reserved bit": "a bit that must be zero",
    "field": "a field out of range",
    "address": "LOAD, STORE or SNAPSHOT outside the window, wholly or in part",
    "fetch": "a program outside the window",
    "window": "a window smaller than the program needs",
    "alignment": "low bits set in program, memory_base and memory_size",
    "misplaced": "LOAD or STORE anywhere in the window, across 4 KiB and at odd words",
    "host": "every register written while the engine runs",
    "truncated": "a program with fewer instructions than it has, or more",
    "bit flip": "one to eight bits of the program",
}
"""What is tried."""


@dataclass(frozen=True)
class Scenario:
    """One fault.

    Parameters
    ----------
    kind
        One of :data:`KINDS`.
    arguments
        For the simulation, as `faults.cpp` says.
    allowed
        Values of the register ``status`` that are a right end.
    right
        Whether the results have to be right if it is done.
    within
        Cycles at most to the end, from the fault or, if it has no time of its own, from the start; 0: no
        bound but the simulation's.
    """

    kind: str
    arguments: str
    allowed: frozenset[int]
    right: bool = False
    within: int = 0


@dataclass(frozen=True)
class Outcome:
    """What the simulation says of a scenario and of the run behind it; see `faults.cpp`."""

    id: int
    status: int
    cycles: int
    since: int
    busy: int
    read_beats: int
    write_bursts: int
    outside: int
    violations: int
    dirty: int
    wrong: int
    changed: int
    next_status: int
    next_cycles: int
    next_outside: int
    next_violations: int
    next_dirty: int
    next_wrong: int


@dataclass(frozen=True)
class Finding:
    """A fault that was not handled.

    Parameters
    ----------
    case, scenario, outcome
        Which, and what came out.
    reason
        What is wrong with that.
    """

    case: str
    scenario: Scenario
    outcome: Outcome
    reason: str


@dataclass
class Tally:
    """What came out, of one kind in one case.

    Parameters
    ----------
    ends
        How often it ended in which way.
    longest
        Cycles from the fault to when the engine is not busy any more, at most.
    positions
        How many different ones there are of a kind of which there are not any number; otherwise 0.
    """

    ends: dict[str, int] = field(default_factory=dict)
    longest: int = 0
    positions: int = 0

    @property
    def tried(self) -> int:
        """How many."""
        return sum(self.ends.values())


class _Bench:
    """A case: the engine compiled, the program, and what it has to leave in memory."""

    def __init__(self, name: str, case: Case, folder: Path):
        self.name = name
        self.folder = folder
        self.config = case.config
        graph = case.graph()
        self.program = program = compile_graph(graph, case.config)
        inputs = random_input(graph, count=1, seed=5)
        tensors = golden.run(graph, inputs)
        image = bytearray(program.image.ljust(program.memory_bytes, bytes(1)))
        expected, mask = bytearray(len(image)), bytearray(len(image))
        for tensor, place in program.placements.items():
            span = slice(place.address, place.address + place.size)
            if tensor == graph.input:
                image[span] = place.encode(tensors[tensor][0])
            elif place.stored:
                expected[span] = place.encode(tensors[tensor][0])
                mask[span] = _elements(place.encode, tensors[tensor][0])
        self.image = bytes(image)
        # The counters take turns, and a SNAPSHOT waits for the first of them.
        snapshots = sum(each.opcode is Opcode.SNAPSHOT for each in program.instructions)
        self.slack = _SNAPSHOT_CYCLES * snapshots
        for file, contents in (("image", image), ("expected", expected), ("mask", mask)):
            (folder / file).write_bytes(contents)
        self.executable = compile_native(
            {"engine.v": emit(case.config)},
            TOP,
            f"#define DATA_BYTES {case.config.bus_bytes}\n"
            + (resources.files("bitwright.gen") / "faults.cpp").read_text(),
        )

    def run(self, batch: Sequence[Scenario], *, timeout: float = 900) -> list[Outcome]:
        """Outcomes, in order."""
        program = self.program
        lines = [
            f"memory {program.memory_bytes} {MEMORY_BASE} {_SPARE}",
            "image image",
            "expected expected mask",
            f"program {program.program_address} {len(program.instructions)}",
            *(f"run id={index} limit={_LIMIT} {scenario.arguments}" for index, scenario in enumerate(batch)),
        ]
        (self.folder / "job").write_text("\n".join(lines) + "\n")
        done = subprocess.run(
            [self.executable, "job"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        outcomes = [Outcome(*map(int, line.split())) for line in done.stdout.splitlines()]
        if done.returncode or len(outcomes) != len(batch):
            raise BitwrightError(
                f"{self.name}: the simulation ended after {len(outcomes)} of {len(batch)} scenarios "
                f"({done.returncode}): {done.stderr[-500:]}"
            )
        return outcomes


def _elements(encode: Callable[[NDArray[np.integer]], bytes], values: NDArray[np.integer]) -> bytes:
    """Which bits of a tensor's bytes are bits of elements: those that differ from one tensor to another.

    What fills up rows is left out. One of 64 random tensors differs in every bit, but once in 2**63.
    """
    rng = np.random.default_rng(0)
    low, high = int(values.min()), int(values.max()) + 1
    first = np.frombuffer(encode(values), np.uint8)
    found = np.zeros_like(first)
    for _ in range(64):
        found |= first ^ np.frombuffer(encode(rng.integers(low, high, values.shape)), np.uint8)
    return found.tobytes()


# Scenarios


class _Maker:
    """Scenarios of every kind, of one case.

    Parameters
    ----------
    bench
        The case.
    clean
        A run in which nothing goes wrong.
    rng
        Random numbers.
    """

    def __init__(self, bench: _Bench, clean: Outcome, rng: random.Random):
        self.config = bench.config
        self.program = bench.program
        self.image = bench.image
        self.clean = clean
        self.rng = rng
        self.words = self.program.memory_bytes // self.config.bus_bytes
        self.opcodes = [
            code
            for code in Opcode
            if code.unit is not Unit.COMPUTE or code in (Opcode.COMPUTE, *settings_of(self.config))
        ]

    def seed(self) -> str:
        """Pauses of the memory, or none."""
        return f"seed={self.rng.choice([0, self.rng.randrange(1, 1 << 30)])}"

    def patch(self, number: int, encoded: bytes) -> str:
        """Another instruction in the place of one."""
        return f"patch={self.program.program_address + _INSTRUCTION * number}:{encoded.hex()}"

    def changed(self, number: int, **fields: int) -> str:
        """An instruction with some of its fields changed."""
        instruction = self.program.instructions[number]
        return self.patch(number, Instruction(instruction.opcode, {**instruction.fields, **fields}).encode())

    def places(self, *opcodes: Opcode) -> list[int]:
        """Numbers of the instructions of these kinds."""
        return [number for number, each in enumerate(self.program.instructions) if each.opcode in opcodes]

    def kind(self, name: str) -> Iterator[Scenario]:
        """Scenarios of a kind, for as long as one likes."""
        method: Callable[[], Iterator[Scenario]] = getattr(self, "_" + name.replace(" ", "_"))
        while True:
            before = 0
            for scenario in method():
                before += 1
                yield scenario
            if not before:  # nothing of the kind can happen here
                return

    def _scenario(
        self,
        kind: str,
        arguments: str,
        *faults: Fault,
        done: bool = False,
        right: bool = False,
        within: int | None = None,
    ) -> Scenario:
        """Of faults that are there from the start, they may take as long as a run among pauses."""
        if within is None:
            within = 4 * self.clean.cycles + 100
        allowed = frozenset((*map(_status, faults), *([_DONE] if done else [])))
        return Scenario(kind, f"{self.seed()} {arguments}", allowed, right, within)

    def positions(self, kind: str) -> int:
        """How many there are of a kind that has so many and no more, a position and a response each."""
        return 2 * {"read error": self.clean.read_beats, "write error": self.clean.write_bursts}.get(kind, 0)

    def _shuffled(self, count: int) -> list[int]:
        return self.rng.sample(range(count), count)

    def _read_error(self) -> Iterator[Scenario]:
        for place in self._shuffled(2 * self.clean.read_beats):
            beat, decode = divmod(place, 2)
            yield self._scenario("read error", f"read_error={beat}:{2 + decode}", Fault.READ_ERROR, within=16)

    def _write_error(self) -> Iterator[Scenario]:
        for place in self._shuffled(2 * self.clean.write_bursts):
            burst, decode = divmod(place, 2)
            yield self._scenario(
                "write error", f"write_error={burst}:{2 + decode}", Fault.WRITE_ERROR, within=16
            )

    def _paused(self, kind: str, watchdog: int, *faults: Fault, within: int) -> Iterator[Scenario]:
        for channel in ("ar", "r", "aw", "w", "b"):
            start = self.rng.randrange(self.clean.cycles - 8)
            yield self._scenario(
                kind,
                f"stall={channel}:{start}:{_STALL} watchdog={watchdog}",
                *faults,
                done=True,
                right=True,
                within=within,
            )

    def _stall(self) -> Iterator[Scenario]:
        # Whatever can be done without that channel is done first.
        yield from self._paused(
            "stall", WATCHDOG, Fault.WATCHDOG, within=WATCHDOG + 4 * self.clean.cycles + 100
        )

    def _patient_stall(self) -> Iterator[Scenario]:
        yield from self._paused(
            "patient stall", self.rng.choice([0, _STALL + 500]), within=_STALL + 4 * self.clean.cycles + 100
        )

    def _reset(self) -> Iterator[Scenario]:
        for cycle in self._shuffled(self.clean.cycles - 8):
            length = self.rng.choice([1, 1, 2, 5])
            yield Scenario("reset", f"{self.seed()} reset={cycle}:{length}", frozenset((0,)))

    def _opcode(self) -> Iterator[Scenario]:
        for opcode in range(16):
            if opcode in self.opcodes:
                continue
            number = self.rng.randrange(len(self.program.instructions))
            encoded = bytearray(self.program.instructions[number].encode())
            encoded[0] = encoded[0] & 0xF0 | opcode
            yield self._scenario("opcode", self.patch(number, bytes(encoded)), Fault.ILLEGAL_INSTRUCTION)

    def _reserved_bit(self) -> Iterator[Scenario]:
        for opcode in self.opcodes:
            numbers = self.places(opcode)
            kept = kept_bits(self.config, opcode)
            for bit in range(INSTRUCTION_BITS):
                if not kept >> bit & 1 and numbers:
                    number = self.rng.choice(numbers)
                    word = int.from_bytes(self.program.instructions[number].encode(), "little") | 1 << bit
                    yield self._scenario(
                        "reserved bit",
                        self.patch(number, word.to_bytes(_INSTRUCTION, "little")),
                        Fault.ILLEGAL_INSTRUCTION,
                    )

    def _field(self) -> Iterator[Scenario]:
        """Each condition that a unit checks, at each instruction that it may be broken in."""
        config, rng = self.config, self.rng
        pads = geometries(config)

        def top(opcode: Opcode, name: str) -> int:
            return 1 << int(narrow_layout(config, opcode)[name].width)

        for number, instruction in enumerate(self.program.instructions):
            wrong: list[dict[str, int]] = []
            opcode, wait, post = instruction.opcode, instruction["wait"], instruction["post"]
            if opcode in (Opcode.LOAD, Opcode.STORE, Opcode.SNAPSHOT):
                own = 1 << int(opcode.unit)
                wrong += [{"beats": 0}, {"row_beats": 0}, {"wait": wait | own}, {"post": post | own}]
            if opcode is Opcode.LOAD:
                pad = pads[Buffer(instruction["buffer"])]
                if pad.rows < top(opcode, "scratch"):
                    wrong.append(
                        {"scratch": rng.randrange(1 << (pad.rows - 1).bit_length(), top(opcode, "scratch"))}
                    )
                wrong += [{"buffer": buffer} for buffer in range(4) if buffer not in pads]
            elif opcode is Opcode.COMPUTE:
                own = 1 << int(Unit.COMPUTE)
                wrong += [{name: 0} for name in ("steps", "row_groups", "col_groups")]
                wrong += [{"wait": wait | own}, {"post": post | own}]
                wrong += [{"drain": 0, "row_groups": 2}, {"drain": 0, "col_groups": 2, "row_groups": 1}]
                wrong += [
                    {name: rng.randrange(count, top(opcode, name))}
                    for name, count in (
                        ("precision", len(config.precisions)),
                        ("result", len(config.modes)),
                        ("group", config.block_groups),
                    )
                    if count < top(opcode, name)
                ]
            elif opcode in (Opcode.STORE, Opcode.SNAPSHOT):
                if config.output_depth < top(opcode, "scratch"):
                    wrong.append({"scratch": rng.randrange(config.output_depth, top(opcode, "scratch"))})
                if opcode is Opcode.SNAPSHOT:
                    wrong.append({"beats": instruction["beats"] + 1})
                elif config.forwards:
                    wrong.append({"only": 1, "forward": 0})
            for fields in wrong:
                yield self._scenario("field", self.changed(number, **fields), Fault.ILLEGAL_INSTRUCTION)

    def _address(self) -> Iterator[Scenario]:
        most = 1 << self.config.word_address_bits
        for number in self._shuffled(len(self.program.instructions)):
            instruction = self.program.instructions[number]
            if instruction.opcode not in (Opcode.LOAD, Opcode.STORE, Opcode.SNAPSHOT) or instruction["only"]:
                continue
            # Of the last row a part, and more, is beyond the end.
            rows = -(-instruction["beats"] // instruction["row_beats"])
            last = (rows - 1) * instruction["stride"] + (instruction["beats"] - 1) % instruction["row_beats"]
            for memory in (
                self.words - last + self.rng.randrange(last + 1),
                self.rng.randrange(self.words, most - last),
                most - 1 - last,
            ):
                yield self._scenario("address", self.changed(number, memory=memory), Fault.ADDRESS)

    def _fetch(self) -> Iterator[Scenario]:
        size, beyond = self.program.memory_bytes, (1 << self.config.address_bits) - 1
        length = _INSTRUCTION * len(self.program.instructions)
        for address in (size, size + self.rng.randrange(beyond - size), beyond - 4095):
            yield self._scenario("fetch", f"program={address}", Fault.ADDRESS)
        # Its end is beyond the window's. What lies before is anything, and may keep it from getting there.
        start = size - self.rng.randrange(_INSTRUCTION, max(length, 2 * _INSTRUCTION), _INSTRUCTION)
        yield Scenario("fetch", f"{self.seed()} program={start}", _ANY - {_DONE})

    def _window(self) -> Iterator[Scenario]:
        for _ in range(16):
            size = self.rng.randrange(self.program.memory_bytes)
            yield self._scenario("window", f"size={size}", Fault.ADDRESS, done=True, right=True)

    def _alignment(self) -> Iterator[Scenario]:
        bus = self.config.bus_bytes
        for low in range(1, bus):
            arguments = (
                f"program={self.program.program_address + low} base={MEMORY_BASE + self.rng.randrange(4096)}"
            )
            if self.rng.random() < 0.5:
                arguments += f" size={self.program.memory_bytes + low}"
            yield self._scenario("alignment", arguments, done=True, right=True)

    def _misplaced(self) -> Iterator[Scenario]:
        for number in self._shuffled(len(self.program.instructions)):
            instruction = self.program.instructions[number]
            if instruction.opcode not in (Opcode.LOAD, Opcode.STORE, Opcode.SNAPSHOT) or instruction["only"]:
                continue
            rows = -(-instruction["beats"] // instruction["row_beats"])
            span = (rows - 1) * instruction["stride"] + instruction["row_beats"]
            if span >= self.words:
                continue
            edge = 4096 // self.config.bus_bytes
            near = [
                word
                for word in range(edge - span + 1, self.words - span, edge)
                if word >= 0 and instruction["row_beats"] > 1
            ]
            for memory in (self.rng.randrange(self.words - span), self.rng.choice(near or [1])):
                # A STORE may write over the program, and what is fetched then is anything.
                if instruction.opcode is Opcode.LOAD:
                    yield self._scenario("misplaced", self.changed(number, memory=memory), done=True)
                else:
                    yield Scenario("misplaced", f"{self.seed()} {self.changed(number, memory=memory)}", _ANY)

    def _host(self) -> Iterator[Scenario]:
        # What is written behind the end counts.
        until = self.clean.cycles - _WRITE_CYCLES
        poke = f"poke={self.rng.randrange(until)}:{self.rng.randrange(1, 1 << 30)}:{until}"
        yield self._scenario("host", poke, done=True, right=True)

    def _truncated(self) -> Iterator[Scenario]:
        count = len(self.program.instructions)
        for less in self._shuffled(count):
            yield Scenario("truncated", f"{self.seed()} instructions={less}", _ANY)
        for more in (1, self.rng.randrange(2, 100), self.rng.randrange(100, 1 << 20)):
            yield Scenario("truncated", f"{self.seed()} instructions={count + more}", _ANY)

    def _bit_flip(self) -> Iterator[Scenario]:
        bits = len(self.program.instructions) * INSTRUCTION_BITS
        start = self.program.program_address
        for _ in range(64):
            changed: dict[int, int] = {}
            for _ in range(self.rng.choice([1, 1, 1, 2, 3, 8])):
                byte, bit = divmod(self.rng.randrange(bits), 8)
                changed[byte] = changed.get(byte, self.image[start + byte]) ^ 1 << bit
            patches = " ".join(f"patch={start + byte}:{value:02x}" for byte, value in changed.items())
            yield Scenario("bit flip", f"{self.seed()} {patches}", _ANY)


_ERRORS = ("read error", "write error")
_MIX = (*KINDS, "bit flip", "bit flip", "reserved bit")
"""As many of each kind, but more of those of which there are most."""


def scenarios(maker: _Maker, number: int, kinds: Sequence[str]) -> list[Scenario]:
    """So many scenarios of these kinds, in turn; fewer where none of them can happen."""
    sources = [maker.kind(kind) for kind in kinds]
    found: list[Scenario] = []
    while len(found) < number and sources:
        for source in list(sources):
            scenario = next(source, None)
            if scenario is None:
                sources.remove(source)
            elif len(found) < number:
                found.append(scenario)
    return found


def judge(scenario: Scenario, outcome: Outcome, clean: Outcome, slack: int) -> str | None:
    """What is wrong with an outcome, or None.

    Parameters
    ----------
    scenario, outcome
        What was done, and what came out.
    clean
        What came out when nothing was done.
    slack
        Cycles by which two runs of the program may differ.
    """
    if outcome.outside or outcome.dirty:
        return "something outside the window was accessed"
    if outcome.violations:
        return "a rule of the bus was broken"
    if outcome.status < 0:
        return f"it has no end within {_LIMIT} cycles"
    if outcome.status & 1:
        return "it is busy long after the fault"
    if outcome.status not in scenario.allowed:
        return f"it ends {_name(outcome.status)}, not {' or '.join(sorted(map(_name, scenario.allowed)))}"
    if scenario.right and outcome.status == _DONE and outcome.wrong:
        return "it is done, and the results are wrong"
    if outcome.changed:
        return "registers were written while it was busy"
    if scenario.within and outcome.since > scenario.within:
        return f"it ends {outcome.since} cycles after the fault, more than {scenario.within}"
    if outcome.next_status != _DONE:
        return f"the next run ends {_name(outcome.next_status)}"
    if outcome.next_wrong:
        return "the next run gives wrong results"
    if outcome.next_outside or outcome.next_dirty or outcome.next_violations:
        return "the next run breaks a rule of the bus or leaves the window"
    if abs(outcome.next_cycles - clean.next_cycles) > slack:
        return f"the next run takes {outcome.next_cycles} cycles, not {clean.next_cycles}"
    return None


def _name(status: int) -> str:
    """The register ``status`` in words."""
    if status < 0:
        return "never"
    if status & _FAULT:
        code = status >> 8
        return Fault(code).name if code in set(Fault) else f"with fault {code}"
    return {0: "reset", _DONE: "done"}.get(status, f"with status {status:#x}")


def inject(
    name: str,
    number: int,
    *,
    seed: int = 1,
    kinds: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[dict[str, Tally], list[Finding]]:
    """Inject faults into a case.

    Parameters
    ----------
    name
        One of :data:`CASES`.
    number
        How many faults.
    seed
        Of all that is random.
    kinds
        Of :data:`KINDS`; all unless given.
    progress
        Told what is being done.

    Returns
    -------
    What came out by kind, and what was not handled.

    Raises
    ------
    BitwrightError
        There is no such case, or the engine does not run the network right when nothing goes wrong.
    """
    if name not in CASES:
        raise BitwrightError(f"case = {name!r}: must be one of {', '.join(CASES)}")
    say = progress or (lambda text: None)
    with tempfile.TemporaryDirectory() as folder:
        say(f"{name}: engine")
        bench = _Bench(name, CASES[name], Path(folder))
        (clean,) = bench.run([Scenario("none", "", frozenset((_DONE,)))])
        good = Scenario("none", "", frozenset((_DONE,)), right=True)
        if (complaint := judge(good, clean, clean, bench.slack)) is not None:
            raise BitwrightError(f"{name}: without any fault, {complaint}: {clean}")
        maker = _Maker(bench, clean, random.Random(f"{name} {seed}"))
        if kinds is None:
            # Each position of an error on the bus once, if there is room for that beside the other kinds.
            todo = []
            for kind in _ERRORS:
                todo += scenarios(maker, min(maker.positions(kind), number // 3), [kind])
            todo += scenarios(maker, number - len(todo), [kind for kind in _MIX if kind not in _ERRORS])
        else:
            todo = scenarios(maker, number, kinds)
        tallies = {kind: Tally() for kind in KINDS}
        findings = []
        for first in range(0, len(todo), 200):
            batch = todo[first : first + 200]
            for scenario, outcome in zip(batch, bench.run(batch), strict=True):
                tally = tallies[scenario.kind]
                end = _name(outcome.status)
                tally.ends[end] = tally.ends.get(end, 0) + 1
                tally.longest = max(tally.longest, outcome.since + outcome.busy)
                tally.positions = maker.positions(scenario.kind)
                if (complaint := judge(scenario, outcome, clean, bench.slack)) is not None:
                    findings.append(Finding(name, scenario, outcome, complaint))
            say(f"{name}: {min(first + 200, len(todo))} of {len(todo)}, {len(findings)} not handled")
    return tallies, findings


# The command

_NOT_COVERED = (
    "Wishbone, and memory ports of 128 bits: the bench is AXI4 of 32 and 64 bits.",
    "A memory that never answers again: the engine says fault and stays busy, as documented, until a reset.",
    "A reset of the engine alone while the memory still has bursts of it under way; the bench resets both.",
    "Faults inside the engine, as flipped registers: it has no protection against them.",
)


def _record(
    tallies: Mapping[str, Mapping[str, Tally]], findings: Sequence[Finding], command: str, seconds: float
) -> Record:
    tried = sum(tally.tried for case in tallies.values() for tally in case.values())
    rows = [
        (
            case,
            KINDS[kind],
            tally.tried,
            ", ".join(f"{end} {count}" for end, count in sorted(tally.ends.items())),
            tally.longest,
            sum(finding.case == case and finding.scenario.kind == kind for finding in findings),
            tally.positions or "",
        )
        for case, kinds in tallies.items()
        for kind, tally in kinds.items()
        if tally.tried
    ]
    return Record(
        name="faults",
        title="Faults injected into engines",
        method="simulated",
        claim=(
            f"{tried} faults, {len(findings)} not handled. Each ended as it has to: in the fault state "
            "of the stated code, or done where nothing but time had gone wrong, and then with the right "
            "results; no access outside the granted window, no rule of AXI4 broken; and the run behind it "
            "gave the golden model's results, in as many cycles as without a fault, but for 20 of each "
            "SNAPSHOT. An error of the bus shows in the status register within 16 cycles; a channel that "
            f"does not move, within four times the cycles of a run, {WATCHDOG} of the watchdog, and 100. "
            "Where the program or a register was wrong from the start, it ended within four times the "
            "cycles of a run, and 100, the memory pausing at random. Programs with bits changed or "
            "instructions missing may end in any fault, or be done, and take as long as the watchdog lets "
            "them: these are the rows that say so. Of errors of the bus, the last column has how many "
            "beats read and bursts written there are, twice, as each may be answered SLVERR or DECERR: "
            "none is tried again before all have been."
        ),
        command=command,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        seconds=round(seconds, 1),
        versions={
            "bitwright": version("bitwright"),
            "verilator": find_simulator("verilator").version,
            "yosys": find_tool("yosys").version,
        },
        columns=(
            *("network", "fault", "tried", "ended", "cycles until not busy, at most", "not handled"),
            "positions",
        ),
        rows=tuple(rows),
        not_covered=_NOT_COVERED,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Inject faults; exit status 1 if one was not handled, 2 if it could not be tried.

    Parameters
    ----------
    arguments
        Of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="scripts/faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help=f"networks: {', '.join(CASES)}; all unless given")
    parser.add_argument("--number", type=int, default=24_000, help="faults, shared among the networks")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random")
    parser.add_argument("--record", action="store_true", help="write it to docs/verification")
    options = parser.parse_args(arguments)
    names = options.cases or list(CASES)
    started = time.monotonic()
    tallies: dict[str, dict[str, Tally]] = {}
    findings: list[Finding] = []
    try:
        if options.number < len(names):
            raise BitwrightError(
                f"--number = {options.number}: must be at least one for each of {len(names)} networks"
            )
        if options.record and (options.cases or not Path("docs").is_dir()):
            raise BitwrightError("--record: is of all networks, and from the root of a clone")
        for index, name in enumerate(names):
            share = options.number // len(names) + (index < options.number % len(names))
            tallies[name], found = inject(
                name, share, seed=options.seed, progress=lambda text: print(text, file=sys.stderr, flush=True)
            )
            findings += found
        command = f"scripts/faults --number {options.number} --seed {options.seed} --record"
        record = _record(tallies, findings, command, time.monotonic() - started)
        if options.record:
            write(record, Path("docs/verification"))
            record_page([])
    except BitwrightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for row in record.rows:
        print(*row, sep=" | ")
    for finding in findings:
        print(
            f"{finding.case}, {finding.scenario.kind}: {finding.reason}\n"
            f"  {finding.scenario.arguments}\n  {finding.outcome}"
        )
    print(record.claim)
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
