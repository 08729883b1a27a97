"""Proves the claims of a bench: Yosys makes an and-inverter graph of it, the ABC inside Yosys decides.

::

    bench ─► RTLIL ─► Yosys: memories and registers to latches ─► graph (AIGER) ─► ABC ─► proved, or a trace

Without a bound it is property-directed reachability (IC3; A. Bradley, "SAT-based model checking without
unrolling", VMCAI 2011; N. Een, A. Mishchenko and R. Brayton, "Efficient implementation of property directed
reachability", FMCAD 2011): an inductive invariant is found that implies all claims, so they hold in every
cycle of every run. With one, the graph is unrolled for as many cycles (bounded model checking).

What is proved is stricter than a simulation: every register and every word of memory has any value before the
reset, and a word that is read in the cycle in which it is written comes out as anything.

Nothing beside Yosys is needed. Its wheel has no command that replays a trace, so that is done here, on the
graph.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil
from vcd import VCDWriter

from bitwright.hw.errors import BitwrightError
from bitwright.sim.tools import ToolError

from ..toolchain import ToolFailedError, ToolTimeoutError, run_tool
from .bench import Bench, Build

__all__ = ["DisprovedError", "Result", "Trace", "solve"]

# What is undefined is made free before anything is optimised: an optimisation may choose it as suits it best.
_PREPARE = """\
read_rtlil bench.il
hierarchy -top bench
{cuts}
proc
delete */t:$meminit_v2
setparam -set COLLISION_X_MASK 1'1 */t:$memrd_v2 */r:CLK_ENABLE=1 %i
flatten
{peeks}
setattr -unset init w:*
memory -nomap
memory_map
setundef -anyseq
setundef -undriven -anyseq
async2sync
formalff -clk2ff -ff2anyinit
opt -full
opt_clean
setundef -anyseq
write_rtlil prepared.il
techmap
setundef -anyseq
opt -fast
dffunmap
simplemap
aigmap
opt_clean
setundef -anyseq
write_aiger -zinit -no-startoffset -map bench.map bench.aig
"""


# Yosys runs ABC only on a netlist, and wants one back: ABC puts this one aside while it does something else.
_ASIDE = """\
module \\aside
  wire input 1 \\a
  wire input 2 \\b
  wire output 3 \\y
  cell $_AND_ \\g
    connect \\A \\a
    connect \\B \\b
    connect \\Y \\y
  end
end
"""

_REACH_CYCLES = 400
"""How far to look for what must be reachable."""

_MISTAKE_CYCLES = 40
"""How far to look for what is wrong where there is no induction."""


class DisprovedError(BitwrightError):
    """A claim is wrong; the message says which, in which cycle, and where the trace is.

    Parameters
    ----------
    name
        The proof.
    claim
        What does not hold.
    cycle
        Cycles since the reset.
    trace
        Waveforms (VCD).
    """

    def __init__(self, name: str, claim: str, cycle: int, trace: Path):
        self.claim = claim
        self.cycle = cycle
        self.trace = trace
        super().__init__(
            f"{name}: {claim!r} does not hold in cycle {cycle} after the reset; the waveforms are in {trace}"
        )


@dataclass(frozen=True)
class Result:
    """A proof.

    Parameters
    ----------
    claims
        What holds.
    reached
        For each thing that must be able to happen, in which cycle it first can.
    latches, gates
        Size of the graph.
    seconds
        How long it took.
    """

    claims: tuple[str, ...]
    reached: dict[str, int]
    latches: int
    gates: int
    seconds: float


Trace = list[dict[str, int]]
"""Value of each port and register of a bench in each cycle, the first one being that of the reset."""


def solve(
    name: str,
    build: Build,
    folder: Path,
    *,
    steps: int | None = None,
    depth: int | None = None,
    timeout: float = 600,
) -> Result:
    """Prove every claim of a bench, and that it can get to whatever it says that it can.

    Parameters
    ----------
    name
        Of the proof, for messages.
    build
        What makes the bench.
    folder
        Where the solver works, made if it is missing; its files stay there.
    steps
        Prove by induction over at most so many cycles instead, with Yosys' own solver: quicker where claims
        compare wide sums, and imply each other.
    depth
        Cycles after the reset within which the claims are proved; without a bound unless given.
    timeout
        Seconds after which the solver is stopped.

    Raises
    ------
    DisprovedError
        A claim does not hold.
    BitwrightError
        Something that the bench must be able to get to is out of reach: then its assumptions exclude too much
        and the proof is worth nothing. Or the folder cannot be written.
    ToolError
        There is no Yosys, it failed, it took too long, or it found neither a proof nor a mistake.
    """
    if steps is not None and depth is not None:
        raise ValueError("steps and depth: a proof is either by induction or bounded")
    begin = time.monotonic()

    def left() -> float:
        return timeout - (time.monotonic() - begin)

    bench = Bench(build)
    circuit = rtlil.convert(bench, name="bench", ports=bench.ports(), emit_src=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bench.il").write_text(circuit)
        (folder / "prepare.ys").write_text(_preparation(bench, circuit))
        (folder / "aside.il").write_text(_ASIDE)
    except OSError as error:
        raise BitwrightError(f"{folder}: cannot be written: {error.strerror}") from None
    _yosys(folder, "prepare", left(), name)
    graph = _Graph(folder)
    if steps is not None:
        inductive = _is_inductive(folder, steps, left(), name)
        engine = "" if inductive else f"bmc3,-F,{_MISTAKE_CYCLES}"
    else:
        engine = "pdr" if depth is None else f"bmc3,-F,{depth + 1}"
    if engine:
        # ABC has nothing to say of a constant.
        status = _Status(True, 0, "")
        if not graph.is_zero(0):
            (status,) = _abc(folder, [0], engine, left(), name)
        if status.trace:
            trace = graph.replay(status.trace)
            path = folder / "trace.vcd"
            _write_vcd(path, trace, graph.widths)
            wrong = graph.wrong(trace[-1], bench.claims)
            raise DisprovedError(name, wrong[0], len(trace) - 2, path)
        if steps is not None and not status.proved:
            raise ToolError(
                f"{name}: neither an induction over {steps} cycles nor a mistake within {_MISTAKE_CYCLES} "
                f"cycles was found: nothing is proved"
            )
        if depth is None and not status.proved:
            raise ToolError(f"{name}: the solver gave up: nothing is proved")
        if depth is not None and not status.proved and status.frames < depth:
            raise ToolError(f"{name}: the solver came only to cycle {status.frames} of {depth}")
    reached = {}
    limit = _REACH_CYCLES if depth is None else depth + 1
    ways = _abc(folder, range(1, 1 + len(bench.goals)), f"bmc3,-F,{limit}", left(), name)
    for goal, found in zip(bench.goals, ways, strict=True):
        if not found.trace:
            raise BitwrightError(
                f"{name}: {goal!r} cannot happen within {limit} cycles, so the proof shows nothing about it; "
                "the assumptions exclude too much"
            )
        reached[goal] = found.frames - 1
    seconds = time.monotonic() - begin
    return Result(tuple(bench.claims), reached, graph.latches, graph.gates, seconds)


def _preparation(bench: Bench, circuit: str) -> str:
    """The script that makes a graph of a bench."""
    peeks = []
    for name, path in bench.peeked.items():
        parent, _, own = path.rpartition(".")
        peeks += [
            f"delete -input w:{name}",
            f"connect -nounset -set {name} {_module(circuit, parent)}.{own}",
        ]
    cuts = []
    for path in bench.cuts:
        parent, _, cell = path.rpartition(".")
        chosen = f"bench.{_module(circuit, parent)}/c:{cell}"
        cuts += [f"select -assert-count 1 {chosen}", f"cutpoint {chosen}"]
    return _PREPARE.replace("{peeks}", "\n".join(peeks)).replace("{cuts}", "\n".join(cuts))


def _module(circuit: str, path: str) -> str:
    """The name of a component, in which Amaranth numbers parts whose name something else has as well."""
    parts = r"\.".join(rf"{re.escape(part)}(?:\$\d+)?" for part in path.split("."))
    found = re.findall(rf"^module \\bench\.({parts})$", circuit, re.MULTILINE)
    if len(found) != 1:
        raise ValueError(f"{path}: there is no such component, or there are several: {found}")
    return str(found[0])


def _yosys(folder: Path, script: str, timeout: float, name: str) -> None:
    try:
        run_tool("yosys", [f"{script}.ys"], folder, log=f"{script}.log", timeout=max(timeout, 0.1))
    except ToolTimeoutError as error:
        raise ToolTimeoutError(f"{name}: {error}: nothing is proved") from None


def _is_inductive(folder: Path, steps: int, timeout: float, name: str) -> bool:
    """Whether the claims hold at first, and in a cycle behind so many in which they do."""
    (folder / "induction.ys").write_text(
        "read_rtlil prepared.il\ndffunmap\nopt_clean\n"
        f"sat -tempinduct -prove bad 0 -seq 1 -maxsteps {steps} -verify\n"
    )
    try:
        _yosys(folder, "induction", timeout, name)
    except ToolFailedError as error:
        if "proof did fail" not in error.log.read_text(errors="replace"):
            raise
        return False
    return True


@dataclass(frozen=True)
class _Status:
    proved: bool
    frames: int
    trace: str
    """Inputs of all frames, one after the other."""


def _abc(folder: Path, outputs: Sequence[int], engine: str, timeout: float, name: str) -> list[_Status]:
    """What ABC finds out about each of some outputs of the graph, which ought to be 0 for ever."""
    steps = ["backup"]
    paths = [folder / f"status_{output}.txt" for output in outputs]
    for output, path in zip(outputs, paths, strict=True):
        path.unlink(missing_ok=True)
        steps += ["read_aiger,bench.aig", f"cone,-O,{output}", engine, f"write_status,{path.name}"]
    steps.append("restore")
    (folder / "solve.ys").write_text(f'read_rtlil aside.il\nabc -script "+{";".join(steps)}"\n')
    _yosys(folder, "solve", timeout, name)
    return [_status(path, name) for path in paths]


def _status(path: Path, name: str) -> _Status:
    try:
        first, _, inputs = path.read_text().splitlines()
    except (OSError, ValueError):
        raise ToolFailedError(f"{name}: ABC did not tell what it found", path) from None
    verdict, frames = first.split()[:2]
    if verdict == "snl_SAT":
        return _Status(False, int(first.split()[4]), inputs)
    return _Status(verdict == "snl_UNSAT", int(frames), "")


class _Graph:
    """An and-inverter graph in AIGER's binary form with Yosys' map of names, to replay traces on.

    Source: A. Biere, "The AIGER And-Inverter Graph (AIG) format", 2007.
    """

    def __init__(self, folder: Path):
        data = (folder / "bench.aig").read_bytes()
        end = data.index(b"\n")
        magic, _, inputs, latches, outputs, gates = data[:end].split()
        assert magic == b"aig", magic
        self.inputs, self.latches, self.gates = int(inputs), int(latches), int(gates)
        lines = data[end + 1 :].split(b"\n", self.latches + int(outputs))
        self._next = [int(line.split()[0]) for line in lines[: self.latches]]
        self._outputs = [int(line) for line in lines[self.latches : -1]]
        numbers = _numbers(lines[-1])
        self._gates = []
        for index in range(self.gates):
            own = 2 * (1 + self.inputs + self.latches + index)
            left = own - next(numbers)
            self._gates.append((left, left - next(numbers)))
        self._names: list[tuple[str, int, int]] = []
        """Name, bit and literal of everything that has a name."""
        self.widths: dict[str, int] = {}
        bases = {"input": 1, "latch": 1 + self.inputs}
        inverted = 0
        for line in (folder / "bench.map").read_text().splitlines():
            kind, number, *rest = line.split()
            if kind not in ("input", "latch", "invlatch", "output"):
                continue
            bit, name = int(rest[0]), rest[1]
            if kind == "output":
                literal = self._outputs[int(number)]
            else:
                inverted = int(kind == "invlatch")
                literal = 2 * (bases[kind.removeprefix("inv")] + int(number)) | inverted
            self._names.append((name, bit, literal))
            self.widths[name] = max(self.widths.get(name, 0), bit + 1)

    def is_zero(self, output: int) -> bool:
        """Whether an output is 0 for ever, as it stands there."""
        return self._outputs[output] == 0

    def wrong(self, now: dict[str, int], claims: Sequence[str]) -> list[str]:
        """The claims that do not hold; constants, which need no proof, are not in the map of names."""
        there = [bit for name, bit, _ in self._names if name == "claims"]
        return [claims[bit] for bit in sorted(there) if not now["claims"] >> bit & 1] or list(claims)

    def replay(self, bits: str) -> Trace:
        """Everything with a name, frame by frame, given the inputs of every frame."""
        state = [0] * self.latches
        trace: Trace = []
        for start in range(0, len(bits), self.inputs):
            values = [0, *map(int, bits[start : start + self.inputs]), *state]
            for left, right in self._gates:
                values.append((values[left >> 1] ^ left & 1) & (values[right >> 1] ^ right & 1))
            now: dict[str, int] = {}
            for name, bit, literal in self._names:
                now[name] = now.get(name, 0) | (values[literal >> 1] ^ literal & 1) << bit
            trace.append(now)
            state = [values[literal >> 1] ^ literal & 1 for literal in self._next]
        return trace


def _numbers(data: bytes) -> Iterator[int]:
    """Numbers of seven bits per byte, lowest first; the highest bit says that more follow."""
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            yield value
            value = shift = 0


def _write_vcd(path: Path, trace: Trace, widths: dict[str, int]) -> None:
    with path.open("w") as file, VCDWriter(file, timescale="1 ns") as writer:
        variables = {}
        for name in sorted(trace[0]):
            *scope, own = name.replace("\\", "").split(".")
            variables[name] = writer.register_var(
                ".".join(["bench", *scope]), own.replace(" ", ""), "wire", size=widths[name]
            )
        for cycle, now in enumerate(trace):
            for name, value in now.items():
                writer.change(variables[name], cycle, value)
