"""From a configuration and a board to a bitstream, and to the program that goes with it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bitwright.gen.mapper import compile_graph
from bitwright.gen.program import Program
from bitwright.gen.suggest import engine_blocks, memory_blocks, suggest
from bitwright.gen.synthesis import TARGETS, Flow, SynthesisResult, check_target
from bitwright.gen.toolchain import run_tool
from bitwright.gen.verilog import convert
from bitwright.hw.bus.uart import uart_divisor
from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError, ConfigError
from bitwright.hw.memory.main import MIN_BYTES
from bitwright.hw.soc import MemoryKind
from bitwright.sim.graph import Graph, NetworkError

from .board import Board, Pin
from .pll import Pll
from .top import Top

__all__ = [
    "EXTERNAL",
    "Build",
    "Plan",
    "build",
    "compile_for",
    "constraints",
    "facts",
    "implement",
    "plan",
    "portable",
    "write_verilog",
]

TOP = "top"
"""Name of the top module."""

EXTERNAL = "external"
"""Memory size that stands for an AXI4 port instead of a memory."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An engine on a board, before anything is built.

    Parameters
    ----------
    board, config
        What goes where.
    pll
        What makes the engine's clock; None where it is the board's.
    clock_mhz
        The engine's clock, as it will be.
    baud, divisor
        The serial line.
    memory, memory_bytes
        Main memory.
    """

    board: Board
    config: EngineConfig
    pll: Pll | None
    clock_mhz: float
    baud: int
    divisor: int
    memory: MemoryKind
    memory_bytes: int

    def top(self) -> Top:
        """The design."""
        pins = self.board.pins()
        return Top(
            self.config,
            memory=self.memory,
            memory_bytes=self.memory_bytes,
            divisor=self.divisor,
            pll=self.pll,
            inverted=frozenset(pin.port for pin in pins if pin.inverted),
            rgb_driver=self.board.rgb_driver,
            leds=self.board.leds is not None,
        )


def portable(
    config: EngineConfig, *, memory_bytes: int, divisor: int = 16, memory: MemoryKind = "block"
) -> Top:
    """The same design for a simulator: no PLL, no primitive of a board.

    Parameters
    ----------
    config
        The engine.
    memory_bytes, memory
        Main memory.
    divisor
        Clock cycles of a bit on the serial line.
    """
    return Top(config, memory=memory, memory_bytes=memory_bytes, divisor=divisor)


def memory_block_count(config: EngineConfig, memory_bytes: int, family: str) -> int:
    """Block RAMs of a main memory: one memory for each byte of a word."""
    return config.bus_bytes * memory_blocks(8, memory_bytes // config.bus_bytes, 8, family)


def largest_memory(board: Board, config: EngineConfig) -> int:
    """Bytes of the largest main memory that an engine leaves room for; 0 where there is none."""
    if board.memory == "single":
        return board.memory_bytes
    target = TARGETS[board.target]
    left = target.available.bram - engine_blocks(config, target.family) - _LINK_BLOCKS
    sizes = range(board.memory_bytes, 0, -MIN_BYTES)
    return next((size for size in sizes if memory_block_count(config, size, target.family) <= left), 0)


# The host link keeps a frame in one.
_LINK_BLOCKS = 1


def plan(
    board: Board,
    config: EngineConfig,
    *,
    clock_mhz: float | None = None,
    baud: int | None = None,
    memory: int | str | None = None,
    program: Program | None = None,
) -> Plan:
    """Clock, serial line and memory of an engine on a board.

    Parameters
    ----------
    board, config
        The board, and the engine.
    clock_mhz, baud
        The engine's clock and the serial line's speed; the board's own unless given.
    memory
        Bytes of main memory, or :data:`EXTERNAL`. Unless given: what `program` needs, or all that there is
        room for.
    program
        What is to run there.

    Raises
    ------
    ConfigError
        The clock or the speed cannot be had, the memory does not fit the board, or the engine is not one for
        AXI4, which a board's memory and host link speak.
    """
    check_target(board.target, config)
    if config.bus != "axi":
        raise ConfigError("bus", config.bus, "axi, or left out, on a board")
    wanted = board.clock_mhz if clock_mhz is None else clock_mhz
    pll: Pll | None = None
    if wanted != board.input_mhz:
        pll = board.pll.make(board.input_mhz, wanted)
        if board.pll_arguments:
            pll = replace(pll, **dict(board.pll_arguments))
    actual = board.input_mhz if pll is None else pll.output_mhz
    speed = board.baud if baud is None else baud
    try:
        divisor = uart_divisor(actual * 1e6, speed)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            "baud", speed, f"a speed that a clock of {actual:g} MHz can make ({error})"
        ) from None
    room = largest_memory(board, config)
    most = max(min(room, 1 << config.address_bits), 1)
    needed = program.memory_bytes if program else 0
    kind: MemoryKind = board.memory
    if memory != EXTERNAL and not room:
        raise BitwrightError(f"{board.title}: has no room for a memory: {_room(board, config, MIN_BYTES, 0)}")
    if memory == EXTERNAL:
        kind = "external"
        # Half of the host's addresses are the engine's registers.
        size = 1 << min(config.address_bits, 31)
    elif memory is None and kind == "single":
        size = most
    elif memory is None:
        # Without a network, what needs no multiplexers behind odd numbers of block RAMs
        size = -(-needed // MIN_BYTES) * MIN_BYTES if program else 1 << most.bit_length() - 1
    else:
        size = int(memory)
        if size < MIN_BYTES or size % MIN_BYTES:
            raise ConfigError("memory", memory, f"bytes, a multiple of {MIN_BYTES}, or {EXTERNAL}")
    if kind != "external" and size > room:
        raise ConfigError("memory", size, f"at most {room}: {_room(board, config, size, room)}")
    if program is not None and needed > size:
        raise ConfigError("memory", size, f"at least the {needed} bytes that {program.network} needs")
    return Plan(
        board=board,
        config=config,
        pll=pll,
        clock_mhz=actual,
        baud=speed,
        divisor=divisor,
        memory=kind,
        memory_bytes=size,
    )


def _room(board: Board, config: EngineConfig, size: int, room: int) -> str:
    """Says by how much a memory is too large for a board."""
    if board.memory == "single":
        return f"{size - room} bytes less, as that is all that {board.title} has"
    target = TARGETS[board.target]
    engine = engine_blocks(config, target.family)
    blocks = memory_block_count(config, size, target.family)
    available = target.available.bram
    lacking = blocks + engine + _LINK_BLOCKS - available
    return (
        f"{size} bytes take {blocks} block RAMs beside the {engine} of the engine and {_LINK_BLOCKS} of the "
        f"host link, and {board.title} has {available}, {lacking} too few; "
        f"`--memory {EXTERNAL}` gives Verilog with an AXI4 port for a memory of your own"
    )


def compile_for(
    board: Board,
    config: EngineConfig,
    graph: Graph,
    *,
    memory: int | str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Program:
    """The program of a network, for an engine and a memory that the board has room for.

    Parameters
    ----------
    board, config, graph
        What runs where.
    memory
        Bytes of main memory where that has been decided, or :data:`EXTERNAL`.
    progress
        Told what is being done.

    Raises
    ------
    NetworkError
        The engine cannot run it.
    BitwrightError
        The board has not the memory; with a configuration that would fit, where there is one.
    """
    say = progress or (lambda text: None)
    program = compile_graph(graph, config, tensors="needed", progress=lambda name: say(f"Mapping {name}"))
    if memory is not None:
        return program
    room = min(largest_memory(board, config), 1 << config.address_bits)
    if program.memory_bytes <= room:
        return program
    short = (
        f"{graph.name}: needs {program.memory_bytes} bytes of memory with this configuration, and "
        f"{board.title} has {room} for them, {program.memory_bytes - room} too few"
    )
    if board.memory == "block":
        short += f" ({_room(board, config, -(-program.memory_bytes // MIN_BYTES) * MIN_BYTES, room)})"
    say(f"Looking for a configuration of {graph.name} for {board.title}")
    smaller = _smaller(board, config, graph, program.memory_bytes)
    if smaller is not None:
        changes = [
            f"--set {key}={getattr(smaller, key)}"
            for key in _SCRATCHPADS
            if getattr(smaller, key) != getattr(config, key)
        ]
        raise BitwrightError(f"{short}. The same engine with {' '.join(changes)} would fit")
    found = _fitting(board, graph, say)
    if found is None:
        raise BitwrightError(f"{short}. No configuration is known that fits with its memory on the chip")
    raise BitwrightError(
        f"{short}. This would fit: pe = {found.pe}, cols = {found.cols}, lanes = {found.lanes} and the "
        f"scratchpads that go with them (`bitwright suggest NETWORK --target {board.target} -o mine.toml` "
        "writes such a configuration; then build it)"
    )


_SCRATCHPADS = ("weight_depth", "activation_depth", "output_depth", "channel_depth", "patch_depth")


def _smaller(board: Board, config: EngineConfig, graph: Graph, needed: int) -> EngineConfig | None:
    """The engine with smaller scratchpads, so that its main memory holds the network; None if none does.

    The one that frees most block RAMs is halved, again and again, until there is room for what the network
    needs; a program for smaller scratchpads has more instructions, so that it may need more.
    """
    if board.memory == "single":
        return None
    family = TARGETS[board.target].family
    while True:
        variants = []
        for key in _SCRATCHPADS:
            try:
                variants.append(config.replace(**{key: getattr(config, key) // 2}))
            except ConfigError:
                continue
        freed = {
            variant: engine_blocks(config, family) - engine_blocks(variant, family) for variant in variants
        }
        best = max(variants, key=freed.__getitem__, default=None)
        if best is None or not freed[best]:
            return None
        config = best
        room = largest_memory(board, config)
        if room < needed:
            continue
        try:
            if compile_graph(graph, config, tensors="needed").memory_bytes <= room:
                return config
        except NetworkError:
            return None


def _fitting(board: Board, graph: Graph, say: Callable[[str], None]) -> EngineConfig | None:
    """The engine of the best proposal that leaves room for its own program."""
    for proposal in suggest(graph, board.target, progress=say).proposals:
        room = largest_memory(board, proposal.config)
        if compile_graph(graph, proposal.config, tensors="needed").memory_bytes <= room:
            return proposal.config
    return None


@dataclass(frozen=True, kw_only=True)
class Build:
    """What came of a build.

    Parameters
    ----------
    plan
        What was built.
    result
        Resources and clock.
    bitstream
        Name of the bitstream in its folder; None where the design does not fit.
    """

    plan: Plan
    result: SynthesisResult
    bitstream: str | None

    @property
    def good(self) -> bool:
        """Whether there is a bitstream that runs at its clock."""
        return self.bitstream is not None and self.result.timing_met

    def command(self, folder: Path) -> str | None:
        """What loads the bitstream."""
        return self.bitstream and self.plan.board.program.format(file=folder / self.bitstream)

    def as_json(self) -> dict[str, Any]:
        """Contents of `build.json`."""
        return facts(self.plan) | {"bitstream": self.bitstream, "synthesis": self.result.as_json()}


def facts(plan: Plan) -> dict[str, Any]:
    """What `build.json` says of a plan."""
    return {
        "board": plan.board.name,
        "device": plan.board.device,
        "clock_mhz": plan.clock_mhz,
        "baud": plan.baud,
        "divisor": plan.divisor,
        "memory": plan.memory,
        "memory_bytes": plan.memory_bytes,
    }


def constraints(board: Board, pins: list[Pin]) -> tuple[str, str]:
    """Name and text of the file that tells nextpnr where the ports go.

    Parameters
    ----------
    board
        The board.
    pins
        Where its ports go.
    """
    lines = []
    family = TARGETS[board.target].family
    for pin in pins:
        if family == "ice40":
            pull = "-pullup yes " if pin.attributes.get("PULLUP") == "1" else ""
            lines.append(f"set_io {pull}{pin.port} {pin.site}")
        else:
            lines.append(f'LOCATE COMP "{pin.port}" SITE "{pin.site}";')
            if pin.attributes:
                settings = " ".join(f"{key}={value}" for key, value in pin.attributes.items())
                lines.append(f'IOBUF PORT "{pin.port}" {settings};')
    return f"top.{'pcf' if family == 'ice40' else 'lpf'}", "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _BoardFlow(Flow):
    """The same for a design with pins, to a bitstream."""

    board: Board = field(kw_only=True)

    def prepare(self, top: str) -> None:
        """Documented in :class:`Flow`; ports stay."""
        if self.target.family == "ecp5":
            self.trim_carry_chains(top)

    def arguments(self) -> list[str]:
        """Documented in :class:`Flow`."""
        name, _ = constraints(self.board, [])
        where = {"ice40": "--pcf", "ecp5": "--lpf"}[self.target.family]
        return [
            *self.board.nextpnr,
            *(where, name),
            *("--json", "netlist.json", "--freq", f"{self.frequency * _MARGIN:g}", "--timing-allow-fail"),
        ]

    def results(self, seed: int) -> list[str]:
        """Documented in :class:`Flow`."""
        return {"ice40": ["--asc"], "ecp5": ["--textcfg"]}[self.target.family] + [f"seed{seed}.txt"]

    def bitstream(self, seed: int) -> str:
        """Pack what was placed and routed; the file's name."""
        self.say("Packing the bitstream")
        placed = f"seed{seed}.txt"
        if self.target.family == "ice40":
            name = f"{self.board.name}.bin"
            run_tool("icepack", [placed, name], self.folder)
        else:
            name = f"{self.board.name}.bit"
            arguments = ["--input", placed, "--bit", name, *self.board.packer]
            run_tool("ecppack", arguments, self.folder)
        return name


# nextpnr stops improving a path that meets the clock it was given.
_MARGIN = 1.1


def build(
    plan: Plan,
    folder: Path,
    *,
    seed: int = 1,
    timeout: float = 7200,
    progress: Callable[[str], None] | None = None,
) -> Build:
    """Verilog, netlist, bitstream.

    Leaves in the folder: `top.v`, the constraints, the bitstream, and in `logs` what the tools said.

    Parameters
    ----------
    plan
        What to build; with a memory on the chip.
    folder
        Where to.
    seed
        Placement to try.
    timeout
        Seconds that each tool may take.
    progress
        Told what is being done.

    Raises
    ------
    ToolError
        A tool is missing, or failed for another reason than a design that is too large.
    """
    write_verilog(plan, folder, progress=progress)
    result, bitstream = implement(
        plan.board,
        (folder / "top.v").read_text(),
        folder,
        clock_mhz=plan.clock_mhz,
        seed=seed,
        timeout=timeout,
        progress=progress,
    )
    return Build(plan=plan, result=result, bitstream=bitstream)


def implement(
    board: Board,
    verilog: str,
    folder: Path,
    *,
    clock_mhz: float,
    seed: int = 1,
    timeout: float = 7200,
    progress: Callable[[str], None] | None = None,
) -> tuple[SynthesisResult, str | None]:
    """From the Verilog of a top to a bitstream.

    Leaves in the folder: the constraints, the bitstream, and in `logs` what the tools said.

    Parameters
    ----------
    board
        The board, whose ports the module `top` has.
    verilog
        The design.
    folder
        Where to.
    clock_mhz
        Clock to aim for.
    seed, timeout, progress
        As for :func:`build`.

    Returns
    -------
    What it takes and how fast it is; the name of the bitstream, None where the design does not fit.
    """
    say = progress or (lambda text: None)
    logs = folder / "logs"
    logs.mkdir()
    (logs / "design.v").write_text(verilog)
    name, text = constraints(board, board.pins())
    (folder / name).write_text(text)
    (logs / name).write_text(text)
    target = TARGETS[board.target]
    flow = _BoardFlow(target, logs, clock_mhz, timeout, say, board=board)
    result = flow.run_seeds(TOP, [seed])
    bitstream = None
    if result.fits:
        bitstream = flow.bitstream(seed)
        shutil.move(logs / bitstream, folder / bitstream)
    for leftover in ("design.v", "cells.v", "netlist.json", name, f"seed{seed}.txt", "packed.json"):
        (logs / leftover).unlink(missing_ok=True)
    return result, bitstream


def write_verilog(plan: Plan, folder: Path, *, progress: Callable[[str], None] | None = None) -> None:
    """Write `top.v`."""
    say = progress or (lambda text: None)
    say(f"Elaborating the design for {plan.board.title}")
    (folder / "top.v").write_text(convert(plan.top(), name=TOP, progress=say))
