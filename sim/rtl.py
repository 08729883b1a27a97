"""Runs emitted Verilog with cocotb, on Verilator or Icarus Verilog, against a model of memory.

::

    Simulation                       simulator, a process of its own
    ----------                       -------------------------------------------------------
    engine.v ──► build (cached) ──►  testbench ─┬─ bitwright   (the engine)
    image, runs ──► job.zip ──────►             ├─ axi_memory or wishbone_memory (sim/verilog)
    results ◄──── results.zip ◄────              └─ register port ◄── cocotb (sim/testbench.py)
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import platformdirs

from ..hw.errors import BitwrightError
from .tools import Simulator, ToolError, find_simulator

if TYPE_CHECKING:
    from cocotb_tools.runner import Runner

__all__ = [
    "Bench",
    "MemoryTiming",
    "Result",
    "Run",
    "Simulation",
    "SimulationError",
    "cache_root",
    "compile_bench",
    "load_job",
    "load_results",
    "primitive_models",
    "run_bench",
    "save_job",
    "save_results",
    "testbench_verilog",
]

_CACHE_FORMAT = 1  # part of every cache key: raise it when builds change in a way the key does not see

# Measured on an array of 128 multipliers (tests/sim/mac_engine.py).
_VERILATOR_ARGUMENTS = (
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--timing",
    "--output-split",
    "20000",  # one C++ file up to some hundred multipliers: less work than several that share headers
    "-Wno-fatal",
    "-Wno-lint",
    "-Wno-style",
)
_MAKE_ARGUMENTS = ("OPT_FAST=-O2", "OPT_SLOW=-O0", "OPT_GLOBAL=-O2")
_MAKE_JOBS = 2

_LEAST_WORDS = 1 << 14  # memories are compiled in powers of two from here, so that few networks need a build
_LOG_LINES = 25


class SimulationError(BitwrightError):
    """The Verilog does not compile, or the simulation failed; the message has the end of its log."""


@dataclass(frozen=True)
class MemoryTiming:
    """How the memory answers. Counts are from the start of the simulation, over all its runs.

    Parameters
    ----------
    latency
        Cycles from a read address to its first data and from the last write data to the response,
        handshake to handshake; at least 2.
    stall
        Probability, in 256ths, that a channel pauses in a cycle.
    seed
        Seed of the pauses.
    read_error_at
        Number of the read beat (from 1) that answers an error.
    write_error_at
        Number of the write burst (from 1) that answers an error.
    hang_after
        Read beats after which the memory stops answering reads.
    extra
        Each burst takes up to this many cycles more, at random.
    """

    latency: int = 20
    stall: int = 0
    seed: int = 1
    read_error_at: int | None = None
    write_error_at: int | None = None
    hang_after: int | None = None
    extra: int = 0

    def __post_init__(self) -> None:
        for key, low, high in (
            ("latency", 2, 1 << 16),
            ("stall", 0, 255),
            ("seed", 0, (1 << 31) - 1),
            ("extra", 0, 4094),
            ("read_error_at", 1, (1 << 31) - 1),
            ("write_error_at", 1, (1 << 31) - 1),
            ("hang_after", 0, (1 << 31) - 1),
        ):
            value = getattr(self, key)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{key} must be from {low} to {high}, not {value!r}")

    @property
    def plusargs(self) -> list[str]:
        """The same, as options of the simulation."""
        return [f"+{key}={value}" for key, value in asdict(self).items() if value is not None]


@dataclass(frozen=True)
class Run:
    """One start of the engine.

    Parameters
    ----------
    writes
        Memory to change before: (offset in bytes from the start of memory, contents).
    registers
        Registers to write: (offset, value). The last one starts the engine: the run ends with the next
        rising edge of `irq`.
    reads
        Memory to read after: (offset, length), both in bytes.
    read_registers
        Offsets of the registers to read after.
    timeout_cycles
        Cycles after which the run is given up.
    """

    writes: tuple[tuple[int, bytes], ...] = ()
    registers: tuple[tuple[int, int], ...] = ()
    reads: tuple[tuple[int, int], ...] = ()
    read_registers: tuple[int, ...] = ()
    timeout_cycles: int = 1_000_000


@dataclass
class Result:
    """What came of a run.

    Parameters
    ----------
    registers
        Value of each register that was asked for, by its offset.
    data
        Contents of each range of memory that was asked for.
    cycles
        Clock cycles from the one that took the starting write to the one that raised `irq`.
    timed_out
        Whether `irq` did not come in time.
    read_beats, write_beats
        Data beats of the memory port.
    violations
        Breaches of the bus's protocol by the engine; :attr:`Simulation.messages` names them.
    out_of_range
        Bursts that left the memory.
    hazards
        Bursts sent while one of the other direction to the same place was in flight: what is read is
        undefined on real hardware.
    """

    registers: dict[int, int]
    data: list[bytes]
    cycles: int
    timed_out: bool
    read_beats: int
    write_beats: int
    violations: int
    out_of_range: int
    hazards: int = 0


# Jobs and results, as files that the simulator's process shares


def save_job(path: Path, runs: Sequence[Run], bus_bits: int, memory_base: int) -> None:
    """Write what a test bench is to do: a zip file of one JSON and the contents to write."""
    listing = []
    with zipfile.ZipFile(path, "w") as file:
        for index, run in enumerate(runs):
            for place, (_, contents) in enumerate(run.writes):
                file.writestr(f"write/{index}/{place}", contents)
            listing.append(vars(run) | {"writes": [offset for offset, _ in run.writes]})
        job = {"bus_bits": bus_bits, "memory_base": memory_base, "runs": listing}
        file.writestr("job.json", json.dumps(job))


def load_job(path: Path) -> tuple[list[Run], int, int]:
    """Read what :func:`save_job` wrote: the runs, the width of the bus and the address of the memory."""
    with zipfile.ZipFile(path) as file:
        job = json.loads(file.read("job.json"))
        runs = [
            Run(
                writes=tuple(
                    (offset, file.read(f"write/{index}/{place}"))
                    for place, offset in enumerate(entry["writes"])
                ),
                registers=tuple((offset, value) for offset, value in entry["registers"]),
                reads=tuple((offset, length) for offset, length in entry["reads"]),
                read_registers=tuple(entry["read_registers"]),
                timeout_cycles=entry["timeout_cycles"],
            )
            for index, entry in enumerate(job["runs"])
        ]
    return runs, job["bus_bits"], job["memory_base"]


def save_results(path: Path, results: Sequence[Result]) -> None:
    """Write what came of a job, in the same way."""
    listing = []
    with zipfile.ZipFile(path, "w") as file:
        for index, result in enumerate(results):
            for place, contents in enumerate(result.data):
                file.writestr(f"data/{index}/{place}", contents)
            changed = {"data": len(result.data), "registers": list(result.registers.items())}
            listing.append(vars(result) | changed)
        file.writestr("results.json", json.dumps(listing))


def load_results(path: Path) -> list[Result]:
    """Read what :func:`save_results` wrote."""
    with zipfile.ZipFile(path) as file:
        listing = json.loads(file.read("results.json"))
        for index, entry in enumerate(listing):
            entry["registers"] = dict(entry["registers"])
            entry["data"] = [file.read(f"data/{index}/{place}") for place in range(entry["data"])]
    return [Result(**entry) for entry in listing]


# The top of the simulation

_PORTS = {
    "s_axil": (
        "> awvalid 1, < awready 1, > awaddr 8, > awprot 3, > wvalid 1, < wready 1, > wdata 32, > wstrb 4, "
        "< bvalid 1, > bready 1, < bresp 2, > arvalid 1, < arready 1, > araddr 8, > arprot 3, "
        "< rvalid 1, > rready 1, < rdata 32, < rresp 2"
    ),
    "m_axi": (
        "< awvalid 1, > awready 1, < awid 1, < awaddr 32, < awlen 8, < awsize 3, < awburst 2, < awcache 4, "
        "< awprot 3, < wvalid 1, > wready 1, < wdata D, < wstrb S, < wlast 1, > bvalid 1, < bready 1, "
        "> bid 1, > bresp 2, < arvalid 1, > arready 1, < arid 1, < araddr 32, < arlen 8, < arsize 3, "
        "< arburst 2, < arcache 4, < arprot 3, > rvalid 1, < rready 1, > rid 1, > rdata D, > rresp 2, "
        "> rlast 1"
    ),
    "s_wb": "> cyc 1, > stb 1, > we 1, > adr 6, > sel 4, > dat_w 32, < dat_r 32, < ack 1, < err 1",
    "wb": (
        "< cyc 1, < stb 1, < we 1, < adr A, < sel S, < dat_w D, > dat_r D, > ack 1, > err 1, < cti 3, < bte 2"
    ),
}
"""Ports of the engine: `>` into it, `<` out of it, name, bits (D: of the bus, S: its bytes, A: of the
number of one of its words)."""

_BUSES = {"axi": ("s_axil", "m_axi", "axi_memory"), "wishbone": ("s_wb", "wb", "wishbone_memory")}
"""Of each kind of bus: the port of registers, that of memory, and the module that is the memory."""

_MEMORY_LACKS = ("awcache", "awprot", "arcache", "arprot")


def _ports(prefix: str, bus_bits: int) -> Iterator[tuple[bool, str, int]]:
    for port in _PORTS[prefix].split(", "):
        direction, name, bits = port.split()
        yield (
            direction == ">",
            name,
            {
                "D": bus_bits,
                "S": bus_bits // 8,
                "A": 32 - (bus_bits // 8 - 1).bit_length(),
            }.get(bits)
            or int(bits),
        )


def primitive_models(verilog: str) -> dict[str, str]:
    """Models of the cells of FPGA families that a design instantiates and does not define, by file name."""
    names = ("CCU2C", "DP16KD", "MULT18X18D", "SB_CARRY", "SB_LUT4")
    return {
        f"{name}.v": (Path(__file__).parent / "verilog" / f"{name}.v").read_text()
        for name in names
        if re.search(rf"^\s*{name}\b", verilog, re.MULTILINE)
        and not re.search(rf"^\s*module\s+{name}\b", verilog, re.MULTILINE)
    }


def testbench_verilog(bus_bits: int, words: int | None, bus: str = "axi") -> str:  # noqa: PT028
    """Verilog of the top module `testbench`.

    Parameters
    ----------
    bus_bits
        Width of the memory port.
    words
        Bus words of memory, and there is a clock of 10 ns; without it there is neither, and `clk` and the
        memory port lead outside instead.
    bus
        Kind of both ports: ``"axi"`` or ``"wishbone"``.
    """
    registers, memory_port, memory_module = _BUSES[bus]
    ports: list[tuple[bool, str, int]] = [(words is None, "clk", 1), (True, "rst", 1), (False, "irq", 1)]
    ports += [(into, f"{registers}_{name}", bits) for into, name, bits in _ports(registers, bus_bits)]
    engine = [name for _, name, _ in ports]
    wires: list[tuple[str, int]] = []
    memory: list[str] = []
    for into, name, bits in _ports(memory_port, bus_bits):
        engine.append(f"{memory_port}_{name}")
        if words is None:
            ports.append((into, f"{memory_port}_{name}", bits))
        else:
            wires.append((f"{memory_port}_{name}", bits))
            if name not in _MEMORY_LACKS:
                memory.append(f".{name}({memory_port}_{name})")
    if words is not None:
        own = [
            *((True, name, 1) for name in ("backdoor_load", "backdoor_store")),
            *((True, name, 32) for name in ("backdoor_first", "backdoor_last")),
            *((False, name, 32) for name in ("read_beats", "write_beats", "out_of_range")),
            *((False, name, 32) for name in ("violations", "hazards")),
        ]
        ports += own
        memory += [f".{name}({name})" for name in ("clk", "rst", *(name for _, name, _ in own))]

    def wire(name: str, bits: int) -> str:
        return f"wire [{bits - 1}:0] {name}" if bits > 1 else f"wire {name}"

    def instance(module: str, name: str, connections: list[str]) -> list[str]:
        return [f"    {module} {name} (", ",\n".join("        " + item for item in connections), "    );"]

    # Only the ports can be reached by name at run time: everything else is free to be optimised away.
    declarations = [
        f"    {'input ' if into else 'output'} {wire(name, bits)} /* verilator public_flat_rw */"
        for into, name, bits in ports
    ]
    lines = ["`timescale 1ns/1ps", "module testbench (", ",\n".join(declarations), ");"]
    lines += [f"    {wire(name, bits)};" for name, bits in wires]
    if words is not None:
        # A clock made here takes a third of the time of one that cocotb makes.
        lines += ["    reg clock = 1'b0;", "    always #5 clock = ~clock;", "    assign clk = clock;"]
    lines += instance("bitwright", "engine", [f".{name}({name})" for name in engine])
    if words is not None:
        lines += instance(f"{memory_module} #(.DATA_BITS({bus_bits}), .DEPTH({words}))", "memory", memory)
    return "\n".join([*lines, "endmodule", ""])


# Compiling


@dataclass(frozen=True)
class Bench:
    """Verilog compiled for a simulator.

    Parameters
    ----------
    folder
        Where it was built.
    top
        Name of its top module.
    simulator
        What it was compiled for.
    waves
        Whether it records waveforms.
    """

    folder: Path
    top: str
    simulator: Simulator
    waves: bool


def cache_root() -> Path:
    """Folder of compiled simulations: `$BITWRIGHT_CACHE/sim`, or the user's cache folder."""
    root = os.environ.get("BITWRIGHT_CACHE")
    return (Path(root) if root else platformdirs.user_cache_path("bitwright")).absolute() / "sim"


def compile_bench(
    sources: Mapping[str, str],
    top: str,
    simulator: str = "verilator",
    build_root: Path | None = None,
    waves: bool = False,
) -> Bench:
    """Compile Verilog, or find it compiled before.

    Parameters
    ----------
    sources
        Contents of the files, by their names.
    top
        Name of the top module.
    simulator
        One of :data:`~bitwright.sim.tools.SIMULATORS`.
    build_root
        Where compiled simulations are kept, rather than in :func:`cache_root`.
    waves
        Record every signal.

    Raises
    ------
    ToolError
        A program is missing.
    SimulationError
        The Verilog does not compile.
    """
    tool = find_simulator(simulator)
    root = (build_root or cache_root()).absolute()
    if simulator == "verilator" and len(str(root).split()) > 1:
        raise ToolError(f"{root}: make cannot build in folders with spaces; set BITWRIGHT_CACHE")
    arguments = _VERILATOR_ARGUMENTS if simulator == "verilator" else ()
    key = _key([dict(sources), top, waves, _tool_key(tool), arguments, _MAKE_ARGUMENTS])
    bench = Bench(root / key, top, tool, waves)
    if bench.folder.exists():
        with contextlib.suppress(OSError):
            os.utime(bench.folder)  # lets the least recently used be found
        return bench
    root.mkdir(parents=True, exist_ok=True)
    _prune(root, "building-*")
    # Built under another name and renamed: whoever is first wins, and nobody sees half a build.
    folder = Path(tempfile.mkdtemp(prefix="building-", dir=root))
    try:
        _compile(bench, folder, sources, arguments)
        try:
            folder.rename(bench.folder)
        except OSError:
            if not bench.folder.exists():
                raise
            shutil.rmtree(folder, ignore_errors=True)
    except SimulationError:
        raise  # its message names the log, which is still there
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return bench


def _prune(parent: Path, pattern: str) -> None:
    """Remove what failed builds and runs left more than a week ago."""
    for folder in parent.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > 7 * 86400:
                shutil.rmtree(folder, ignore_errors=True)


def _key(parts: Any) -> str:
    return hashlib.sha256(json.dumps([_CACHE_FORMAT, parts]).encode()).hexdigest()[:24]


def _tool_key(tool: Simulator) -> list[Any]:
    # cocotb's library is linked by its path
    cocotb = [importlib.metadata.version("cocotb"), sys.prefix]
    return [tool.name, str(tool.executable), tool.version, list(tool.make_variables), cocotb]


def _compile(bench: Bench, folder: Path, sources: Mapping[str, str], arguments: Sequence[str]) -> None:
    tool, waves = bench.simulator, bench.waves
    paths = []
    for name, text in sources.items():
        path = folder / name
        path.write_text(text)
        paths.append(path)
    log = folder / "build.log"
    # Most of the work would be Verilator's own library, the same in every build: its objects are kept.
    library = folder.parent / f"library-{_key([_tool_key(tool), arguments, _MAKE_ARGUMENTS, waves])}"

    def bring_library(command: Sequence[str]) -> None:
        if command[0] == "make" and library.is_dir():
            for path in library.iterdir():  # copied now, they are newer than the makefile, as make wants them
                shutil.copyfile(path, folder / path.name)

    runner = _make_runner(tool, before=bring_library)
    try:
        runner.build(
            sources=paths,
            hdl_toplevel=bench.top,
            build_dir=folder,
            build_args=arguments,
            timescale=("1ns", "1ps"),
            waves=waves,
            log_file=log,
            always=True,
        )
    except (RuntimeError, subprocess.SubprocessError) as error:
        message = f"{tool.name} cannot compile the Verilog:\n{_tail(log)}\n(all of it: {log})"
        raise SimulationError(message) from error
    if tool.name == "verilator" and not library.is_dir():
        objects = list(folder.glob("verilated*.o"))
        partial = folder / "library"
        partial.mkdir()
        for path in objects:
            path.rename(partial / path.name)
        with contextlib.suppress(OSError):  # another process was first
            partial.rename(library)
        shutil.rmtree(partial, ignore_errors=True)
    product = "sim.vvp" if tool.name == "icarus" else bench.top
    for path in folder.iterdir():  # the objects and the generated C++ are never needed again
        if path.name not in (product, log.name, *sources):
            path.unlink()


def _make_runner(
    tool: Simulator,
    environment: Mapping[str, str] | None = None,
    before: Callable[[Sequence[str]], None] | None = None,
    watch: Callable[[], None] | None = None,
) -> "Runner":
    """A cocotb runner that finds its simulator and keeps quiet.

    ``environment`` is set on top of what the runner sets, ``before`` called with each command before it is
    run, ``watch`` several times a second while it runs.
    """
    from cocotb_tools.runner import Icarus, Verilator

    class Quiet(Verilator if tool.name == "verilator" else Icarus):  # type: ignore[misc]
        def _simulator_in_path(self) -> None:
            pass

        def _simulator_in_path_build_only(self) -> None:
            self.executable = str(tool.executable)

        def _set_env_common(self) -> None:
            super()._set_env_common()
            tool.extend(self.env)
            self.env.update(environment or {})

        def _set_env_test(self) -> None:
            super()._set_env_test()
            self.env.update(environment or {})

        def _build_command(self) -> list[list[str]]:
            commands: list[list[str]] = super()._build_command()
            if tool.name == "verilator":
                # With every signal public, nothing could be optimised: the sources mark what has to be.
                commands[0].remove("--public-flat-rw")
                commands[1] = ["make", "-j", str(_MAKE_JOBS), "-C", str(self.build_dir), "-f", "Vtop.mk"]
                commands[1] += [*_MAKE_ARGUMENTS, *tool.make_variables]
            return commands

        def _execute_cmds(
            self, cmds: Sequence[Sequence[str]], cwd: Any, stdout: TextIO | None = None
        ) -> None:
            for command in cmds:
                if before is not None:
                    before(command)
                if stdout is not None:
                    print("$", shlex.join(command), file=stdout, flush=True)
                with subprocess.Popen(
                    command,
                    cwd=cwd,
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.STDOUT,
                ) as process:
                    try:
                        while watch is not None and process.poll() is None:
                            watch()
                            with contextlib.suppress(subprocess.TimeoutExpired):
                                process.wait(0.1)
                        process.wait()
                    except BaseException:
                        process.kill()
                        raise
                if process.returncode:
                    code = process.returncode
                    name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
                    raise RuntimeError(f"{command[0]}: {name}")

    runner = Quiet()
    runner.log.disabled = True
    return runner


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(line[:400] for line in lines[-_LOG_LINES:])


# Running


def run_bench(
    bench: Bench,
    module: str,
    folder: Path,
    plusargs: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    watch: Callable[[], None] | None = None,
) -> Path:
    """Run the cocotb tests of a module on a compiled simulation.

    Parameters
    ----------
    bench
        What :func:`compile_bench` returned.
    module
        Name of the Python module, found as this process would find it.
    folder
        Working directory; gets `simulation.log`, which is returned, and waveforms.
    plusargs, environment
        Options and variables of the simulation.
    watch
        Called several times a second while the simulation runs.

    Raises
    ------
    SimulationError
        The simulation crashed, or one of the module's tests failed.
    """
    from cocotb_tools.check_results import get_results

    folder = folder.absolute()
    log = folder / "simulation.log"
    outcome = folder / "results.xml"
    variables = {
        "COCOTB_ANSI_OUTPUT": "0",
        "COCOTB_REWRITE_ASSERTION_FILES": "",
        "COCOTB_RANDOM_SEED": "1",  # +seed is the memory's, cocotb would take it too
        **(environment or {}),
    }
    arguments = list(plusargs)
    if bench.waves and bench.simulator.name == "icarus":
        arguments.append(f"+dumpfile_path={folder / 'dump.fst'}")
    runner = _make_runner(bench.simulator, variables, watch=watch)
    reason = "the simulation failed"
    try:
        runner.test(
            test_module=module,
            hdl_toplevel=bench.top,
            hdl_toplevel_lang="verilog",
            build_dir=bench.folder,
            test_dir=folder,
            plusargs=arguments,
            results_xml=str(outcome),
            log_file=log,
            waves=bench.waves,
        )
    except RuntimeError as error:
        reason = f"the simulation crashed ({error})"
    except SystemExit:
        pass  # how the runner says, within pytest, that a test failed
    try:
        tests, failed = get_results(outcome)
    except Exception:
        tests, failed = 0, 0
    if not tests or failed:
        raise SimulationError(f"{reason}:\n{_tail(log)}\n(all of it: {log})")
    return log


class Simulation:
    """An engine in a simulator, beside a memory.

    Parameters
    ----------
    verilog
        The engine, module `bitwright`: the Verilog itself, or the file that has it.
    bus_bits
        Width of its memory port, in bits.
    memory_bytes
        Size of the memory.
    simulator
        One of :data:`~bitwright.sim.tools.SIMULATORS`.
    build_root
        Where compiled simulations are kept, rather than in :func:`cache_root`.
    waves
        Record every signal of the next run to :attr:`wave_file`. Much slower.
    bus
        Kind of the engine's ports: ``"axi"`` or ``"wishbone"``.
    """

    def __init__(
        self,
        verilog: str | Path,
        bus_bits: int,
        memory_bytes: int,
        simulator: str = "verilator",
        build_root: Path | None = None,
        waves: bool = False,
        bus: str = "axi",
    ):
        if memory_bytes <= 0 or memory_bytes % (bus_bits // 8):
            raise ValueError(f"memory_bytes must be whole words of {bus_bits} bits, not {memory_bytes!r}")
        self.verilog = verilog.read_text() if isinstance(verilog, Path) else verilog
        self.bus_bits = bus_bits
        self.bus = bus
        self.memory_bytes = memory_bytes
        self.simulator = simulator
        self.build_root = build_root
        self.waves = waves
        self.wave_file: Path | None = None
        """Waveforms of the last run, if asked for: VCD of Verilator, FST of Icarus. Kept for a week."""
        self.messages: list[str] = []
        """What the memory had to say about the last run: breaches of the protocol, with their times."""
        self._bench: Bench | None = None

    def build(self) -> None:
        """Compile, unless that was done before; :meth:`run` does it too.

        Raises
        ------
        ToolError, SimulationError
            As :func:`compile_bench`.
        """
        words = max(_LEAST_WORDS, 1 << (self.memory_bytes // (self.bus_bits // 8) - 1).bit_length())
        _, _, memory = _BUSES[self.bus]
        sources = {
            "testbench.v": testbench_verilog(self.bus_bits, words, self.bus),
            f"{memory}.v": (Path(__file__).parent / "verilog" / f"{memory}.v").read_text(),
            "engine.v": self.verilog,
            **primitive_models(self.verilog),
        }
        self._bench = compile_bench(sources, "testbench", self.simulator, self.build_root, self.waves)

    def run(
        self,
        image: bytes,
        runs: Sequence[Run],
        timing: MemoryTiming | None = None,
        memory_base: int = 0x4000_0000,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Result]:
        """Reset the engine and let it do some runs, one after the other.

        Parameters
        ----------
        image
            Contents of the memory from its start; the rest is zero.
        runs
            What to do.
        timing
            How the memory answers.
        memory_base
            Address of the memory's first byte.
        progress
            Called now and then with the number of runs finished and the cycles of the one under way.

        Returns
        -------
        list of Result
            One of each run. The list ends with the first run that timed out, if one did: what the engine
            would do after that means nothing.

        Raises
        ------
        SimulationError
            The simulation crashed, or the engine's register port answered an error or not at all.
        """
        self._check(image, runs, memory_base)
        if self._bench is None or not self._bench.folder.exists():
            self.build()
        assert self._bench is not None
        if not runs:
            return []
        first = Run(
            writes=((0, image), *runs[0].writes) if image else runs[0].writes,
            **{key: value for key, value in vars(runs[0]).items() if key != "writes"},
        )
        parent = self._bench.folder / "runs"
        parent.mkdir(exist_ok=True)
        _prune(parent, "*")
        folder = Path(tempfile.mkdtemp(dir=parent))
        save_job(folder / "job.zip", [first, *runs[1:]], self.bus_bits, memory_base)
        reported = (-1, -1)

        def watch() -> None:
            nonlocal reported
            with contextlib.suppress(OSError, ValueError):
                finished, cycles = (folder / "progress").read_text().split()
                if progress is not None and (int(finished), int(cycles)) != reported:
                    reported = (int(finished), int(cycles))
                    progress(*reported)

        words = self.memory_bytes // (self.bus_bits // 8)
        log = run_bench(
            self._bench,
            "bitwright.sim.testbench",
            folder,
            plusargs=[*(timing or MemoryTiming()).plusargs, f"+base={memory_base:x}", f"+words={words}"],
            environment={"BITWRIGHT_JOB": str(folder / "job.zip")},
            watch=watch if progress is not None else None,
        )
        watch()  # what was reported between the last look and the end
        results = load_results(folder / "results.zip")
        lines = log.read_text(errors="replace").splitlines()
        _, _, memory = _BUSES[self.bus]
        self.messages = [line.removeprefix(f"{memory}: ") for line in lines if line.startswith(f"{memory}: ")]
        if self.waves:
            self.wave_file = next(folder.glob("dump.*"), None)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        return results

    def _check(self, image: bytes, runs: Sequence[Run], memory_base: int) -> None:
        if memory_base < 0 or memory_base + self.memory_bytes > 1 << 32:
            raise ValueError(f"memory_base = {memory_base:#x}: the memory must lie within 32 bits of address")
        if memory_base % (self.bus_bits // 8):
            raise ValueError(f"memory_base = {memory_base:#x}: must be a multiple of the bus width")
        ranges = [(0, len(image))]
        for run in runs:
            ranges += [(offset, len(contents)) for offset, contents in run.writes]
            ranges += run.reads
            if not run.registers:
                raise ValueError("a run must write at least one register, the one that starts the engine")
        for offset, length in ranges:
            if offset < 0 or length < 0 or offset + length > self.memory_bytes:
                raise ValueError(
                    f"bytes {offset} to {offset + length} are not in a memory of {self.memory_bytes} bytes"
                )
