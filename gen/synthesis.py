"""Synthesises, places and routes an engine, and says what it takes and how fast it is."""

import json
import os
import re
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError, ConfigError
from bitwright.sim.tools import ToolError

from .toolchain import Finished, ToolTimeoutError, run_tool, versions

__all__ = [
    "TARGETS",
    "CriticalPath",
    "Flow",
    "Resources",
    "SynthesisResult",
    "Target",
    "check_target",
    "synthesis_script",
    "synthesise",
]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Counts of what a device has, or of what a design takes.

    Parameters
    ----------
    lut
        ECP5: LUT4s, two for each cell of a carry chain, six for a LUT RAM of 16x4 bits. iCE40: logic cells of
        which anything is used, be it the LUT, the carry or the flip-flop alone; that is what decides whether
        a design fits.
    ff
        Flip-flops outside multipliers and memories.
    dsp
        Multipliers: 18x18 on ECP5, 16x16 on iCE40.
    bram
        Block RAMs: of 18 kbit on ECP5, of 4 kbit on iCE40.
    spram
        Single-port RAMs of 256 kbit, which only the UP5K has.
    """

    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram: int = 0
    spram: int = 0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device, and what the tools must be told about it.

    Parameters
    ----------
    name
        What it is called on the command line.
    device
        Its part number.
    family
        Its family, which decides on the tools.
    available
        What it has; as nextpnr counts it.
    frequency_mhz
        Clock to aim for unless another is given.
    yosys
        The synthesis command.
    nextpnr
        Arguments that name the device.
    cells
        File in ``gen/cells`` with what takes the place of modules of the design on this device.
    afterwards
        Yosys' commands behind the synthesis.
    """

    name: str
    device: str
    family: Literal["ecp5", "ice40"]
    available: Resources
    frequency_mhz: float
    yosys: str
    nextpnr: tuple[str, ...]
    cells: str | None = None
    afterwards: str = ""


# Measured with Yosys 0.70 and nextpnr 0.11.1: `small` on a 25k, four seeds, takes 4640 LUTs at 105 to 118 MHz
# without wide multiplexers, 4708 at 113 to 117 with them; the medians are 113 and 114, within the spread.
# `base` on an 85k, before its multipliers kept their registers: 9060 at 82, 9149 at 81. Neither -dff nor
# -noabc9 made a difference; -cmp2softlogic took 0.4 % fewer LUTs than the default.
_SYNTH_ECP5 = "synth_ecp5 -nowidelut"


def _ecp5(size: int, package: str, available: Resources) -> Target:
    return Target(
        name=f"ecp5-{size}k",
        device=f"LFE5U-{size}F-6",
        family="ecp5",
        available=available,
        frequency_mhz=100,
        yosys=_SYNTH_ECP5,
        nextpnr=(f"--{size}k", "--speed", "6", "--package", package),
        cells="ecp5.v",
    )


# There is no 12k and no HX4K: nextpnr takes them for the larger chips whose dies they are.
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        _ecp5(85, "CABGA381", Resources(lut=83640, ff=83640, dsp=156, bram=208)),
        _ecp5(45, "CABGA381", Resources(lut=43848, ff=43848, dsp=72, bram=108)),
        _ecp5(25, "CABGA381", Resources(lut=24288, ff=24288, dsp=28, bram=56)),
        Target(
            name="ice40-up5k",
            device="iCE40UP5K-SG48",
            family="ice40",
            available=Resources(lut=5280, ff=5280, dsp=8, bram=30, spram=4),
            frequency_mhz=20,
            # The eight cells of a tile share an enable. A few flip-flops with one of their own would have a
            # tile to themselves, on the smallest device; their LUTs have room for a multiplexer.
            yosys="synth_ice40 -device u -dsp -spram -dffe_min_ce_use 6",
            nextpnr=("--up5k", "--package", "sg48"),
            cells="up5k.v",
            # Yosys' ice40_dsp takes the registers out of an SB_MAC16 that it finds instantiated.
            afterwards="chtype -set SB_MAC16 t:bitwright_mac16",
        ),
        Target(
            name="ice40-hx8k",
            device="iCE40HX8K-CT256",
            family="ice40",
            available=Resources(lut=7680, ff=7680, bram=32),
            frequency_mhz=50,
            yosys="synth_ice40 -device hx",
            nextpnr=("--hx8k", "--package", "ct256"),
        ),
    )
}
"""The devices that can be synthesised for, by name."""


@dataclass(frozen=True, kw_only=True)
class CriticalPath:
    """The slowest path from register to register.

    Parameters
    ----------
    start, end
        Signals or memories it leads from and to, as hierarchical names; a name that starts with `$` is the
        tools' own.
    delay_ns, logic_ns, routing_ns
        Delay, and its two parts.
    """

    start: str
    end: str
    delay_ns: float
    logic_ns: float
    routing_ns: float


@dataclass(frozen=True, kw_only=True)
class SynthesisResult:
    """What a design takes on a device, and how fast it is there.

    Parameters
    ----------
    target
        Name of the device, one of :data:`TARGETS`.
    used
        What the design takes. Where it does not fit, of as much as was counted.
    available
        What the device has.
    excess
        Where the design needs more than there is: by how many, by resource.
    obstacle
        Why it does not fit, in nextpnr's words, where that is not a matter of counts.
    fmax_mhz
        Greatest clock, for each seed; empty where the design does not fit or has no path between registers.
    frequency_mhz
        Clock that was aimed for.
    cells
        Cells of the netlist by type, as Yosys counts them.
    versions
        Versions of the tools, by name.
    critical_path
        That of the run with the median clock.
    """

    target: str
    used: Resources
    available: Resources
    excess: dict[str, int] = field(default_factory=dict)
    obstacle: str | None = None
    fmax_mhz: tuple[float, ...] = ()
    frequency_mhz: float
    cells: dict[str, int]
    versions: dict[str, str]
    critical_path: CriticalPath | None = None

    @property
    def fits(self) -> bool:
        """Whether the device has room for it."""
        return not self.excess and self.obstacle is None

    @property
    def timing_met(self) -> bool:
        """Whether the median of the seeds reaches the clock that was aimed for."""
        if not self.fmax_mhz:
            return self.fits
        return statistics.median(self.fmax_mhz) >= self.frequency_mhz

    def as_json(self) -> dict[str, Any]:
        """Contents of `synth.json`."""
        path = self.critical_path
        return {
            "target": self.target,
            **asdict(self.used),
            "available": asdict(self.available),
            "fits": self.fits,
            "excess": self.excess,
            "obstacle": self.obstacle,
            "fmax_mhz": [round(clock, 2) for clock in self.fmax_mhz],
            "frequency_mhz": self.frequency_mhz,
            "timing_met": self.timing_met,
            "critical_path": path
            and {
                "from": path.start,
                "to": path.end,
                "delay_ns": round(path.delay_ns, 2),
                "logic_ns": round(path.logic_ns, 2),
                "routing_ns": round(path.routing_ns, 2),
            },
            "cells": self.cells,
            "versions": self.versions,
        }


def check_target(name: str, config: EngineConfig | None = None) -> Target:
    """The device of that name.

    Parameters
    ----------
    name
        One of :data:`TARGETS`.
    config
        An engine that is to be synthesised for it.

    Raises
    ------
    ConfigError
        There is none, or the engine is made of the cells of another family.
    """
    if name not in TARGETS:
        raise ConfigError("target", name, "one of " + ", ".join(TARGETS))
    device = TARGETS[name]
    if config is not None and config.target not in ("generic", device.family):
        raise ConfigError(
            "target",
            config.target,
            f"generic or {device.family} in the configuration, to be synthesised for {name}",
        )
    return device


def synthesise(
    verilog: Path,
    top: str,
    target: str,
    workdir: Path,
    *,
    seeds: int = 1,
    frequency: float | None = None,
    timeout: float = 7200,
    timing_weight: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> SynthesisResult:
    """Synthesise a design on its own, out of context: no pins, paths between registers only.

    The counts are those of the design alone. nextpnr-ecp5 has a mode for that; for nextpnr-ice40 the design
    loses its ports but for clock and reset, so that inputs have no source and outputs no load, which nextpnr
    places as it is. Paths from inputs and to outputs are not in Fmax for either family.

    What a design takes is what nextpnr packs it into (see :class:`Resources`), except that the report on an
    iCE40 has no flip-flops: these are counted in the netlist.

    A failure leaves nothing behind; success leaves `yosys.log`, `yosys.json` (cell counts), and for each seed
    `nextpnr-seedN.log` and `nextpnr-seedN.json` (nextpnr's report).

    Parameters
    ----------
    verilog
        The design; a single file.
    top
        Its top module.
    target
        One of :data:`TARGETS`.
    workdir
        Folder for logs and reports; made where it is not there.
    seeds
        Number of placements to try; Fmax of one is a draw.
    frequency
        Clock to aim for, in MHz; the target's own unless given.
    timeout
        Seconds after which a run of Yosys or of nextpnr is stopped. One of nextpnr-ice40 is started once
        more, with its other router.
    timing_weight
        How much nextpnr's placer minds delay beside length. Unless given: its own 10 on iCE40, where more may
        keep it from ever placing a device that is nearly full; on ECP5 30, and for a large design another
        placer, which does not ask.
    progress
        Told what is being done.

    Raises
    ------
    ToolError
        A tool is missing, or failed for another reason than a design that is too large.
    BitwrightError
        A parameter is not allowed, or a file cannot be read or written.
    """
    device = check_target(target)
    if seeds < 1:
        raise ConfigError("seeds", seeds, "at least 1")
    goal = device.frequency_mhz if frequency is None else float(frequency)
    if not 0 < goal < 1e5:
        raise ConfigError("frequency", frequency, "a clock in MHz, above 0")
    if not re.fullmatch(r"[A-Za-z_][\w$]*", top):
        raise ConfigError("top", top, "the name of a Verilog module")
    workdir = workdir.absolute()
    try:
        source = verilog.read_bytes()
        workdir.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{workdir.name}-", dir=workdir.parent))
    except OSError as error:
        raise BitwrightError(f"{error.filename}: {error.strerror}") from None
    try:
        (stage / "design.v").write_bytes(source)
        flow = Flow(device, stage, goal, timeout, progress or (lambda text: None), timing_weight)
        result = flow.run(top, seeds)
        _keep(stage, workdir)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return result


def _keep(stage: Path, workdir: Path) -> None:
    """Move logs and reports into place, and with them away what an earlier run with more seeds left."""
    try:
        workdir.mkdir(exist_ok=True)
        for pattern in ("yosys.*", "nextpnr-*"):
            for old in workdir.glob(pattern):
                old.unlink()
            for new in stage.glob(pattern):
                os.replace(new, workdir / new.name)
    except OSError as error:
        raise BitwrightError(f"{workdir}: cannot be written: {error.strerror}") from None


def synthesis_script(target: Target, top: str, folder: Path) -> str:
    """Yosys' commands from `design.v` in a folder to cells; puts there what else they read."""
    replace = ""
    if target.cells:
        text = (resources.files("bitwright.gen") / "cells" / target.cells).read_text()
        (folder / "cells.v").write_text(text)
        replace = "read_verilog -overwrite cells.v; "
    afterwards = f"; {target.afterwards}" if target.afterwards else ""
    return f"read_verilog design.v; {replace}{target.yosys} -top {top}{afterwards}"


# nextpnr stops improving a path that meets the clock it was given, so it is given one quicker than asked for.
_MARGIN = 1.2

_LARGE_LUTS = 8000  # on ECP5: from here on other settings are better

# nextpnr's names. The two LUTs whose place a LUT RAM's write port takes are in TRELLIS_COMB.
_ECP5_WEIGHTS = {
    "lut": {"TRELLIS_COMB": 1},
    "ff": {"TRELLIS_FF": 1},
    "dsp": {"MULT18X18D": 1},
    "bram": {"DP16KD": 1},
}
_ICE40_WEIGHTS = {
    "lut": {"ICESTORM_LC": 1},
    "dsp": {"ICESTORM_DSP": 1},
    "bram": {"ICESTORM_RAM": 1},
    "spram": {"ICESTORM_SPRAM": 1},
}
_WEIGHTS = {"ecp5": _ECP5_WEIGHTS, "ice40": _ICE40_WEIGHTS}

_NO_ROOM = re.compile(
    r"ERROR:.*(unable to (find|place|legalise)|failed to (place|expand|find|route)|no BELs remaining|"
    r"could not (place|find)|out of bels|design is probably at utilisation limit|unable to route)",
    re.IGNORECASE,
)
_CLOCK_PINS = {"C", "CLK", "CLOCK", "RCLK", "WCLK"}
_RESET_PINS = {"R", "S"}


@dataclass(frozen=True)
class Flow:
    """One design on its way through the tools, in a folder of its own.

    Parameters
    ----------
    target
        The device.
    folder
        Where `design.v` is, and everything else will be.
    frequency
        Clock to aim for, in MHz.
    timeout
        Seconds that a run of a tool may take.
    say
        Told what is being done.
    timing_weight
        How much nextpnr's placer minds delay beside length, as of :func:`synthesise`.
    """

    target: Target
    folder: Path
    frequency: float
    timeout: float
    say: Callable[[str], None]
    timing_weight: int | None = None

    @property
    def nextpnr(self) -> str:
        """The place-and-route tool of the family."""
        return f"nextpnr-{self.target.family}"

    def run(self, top: str, seeds: int) -> SynthesisResult:
        """Synthesise, place and route with seeds from 1 on.

        Parameters
        ----------
        top
            The top module.
        seeds
            How many.
        """
        return self.run_seeds(top, range(1, seeds + 1))

    def run_seeds(self, top: str, seeds: Sequence[int]) -> SynthesisResult:
        """The same with these seeds."""
        found = versions(("yosys", self.nextpnr), progress=self.say)
        cells = self.synthesise(top)
        self.prepare(top)
        used = self.count(self.pack(), cells)
        available = self.target.available
        excess = {
            name: getattr(used, name) - getattr(available, name)
            for name in asdict(available)
            if getattr(used, name) > getattr(available, name)
        }
        common: dict[str, Any] = {
            "target": self.target.name,
            "used": used,
            "available": available,
            "frequency_mhz": self.frequency,
            "cells": cells,
            "versions": found,
        }
        if excess:
            return SynthesisResult(**common, excess=excess)
        runs = []
        for count, seed in enumerate(seeds, 1):
            self.say(f"nextpnr: placing and routing for {self.target.name}, seed {count} of {len(seeds)}")
            report = self.place_and_route(seed)
            if isinstance(report, str):
                return SynthesisResult(**common, obstacle=report)
            # Placing adds a few cells to those that were packed, as where a carry chain is split.
            common["used"] = self.count(report["utilization"], cells)
            if report["fmax"]:
                runs.append((min(clock["achieved"] for clock in report["fmax"].values()), report))
        if not runs:
            return SynthesisResult(**common)
        _, median = sorted(runs, key=lambda run: run[0])[(len(runs) - 1) // 2]
        return SynthesisResult(
            **common, fmax_mhz=tuple(clock for clock, _ in runs), critical_path=_critical_path(median)
        )

    def prepare(self, top: str) -> None:
        """Make of the netlist what nextpnr is to be given."""
        if self.target.family == "ice40":
            self.drop_ports(top)
        else:
            self.trim_carry_chains(top)

    def synthesise(self, top: str) -> dict[str, int]:
        """Make the netlist; cells by type."""
        self.say(f"Yosys: synthesising for {self.target.name}")
        script = (
            f"{synthesis_script(self.target, top, self.folder)}; write_json netlist.json; "
            "tee -q -o yosys.json stat -json"
        )
        run_tool("yosys", ["-p", script], self.folder, timeout=self.timeout, progress=self.say)
        counts = json.loads((self.folder / "yosys.json").read_text())["design"]["num_cells_by_type"]
        # Notes about the hierarchy that was flattened count as cells, but take nothing.
        return {name: int(count) for name, count in counts.items() if name != "$scopeinfo"}

    def drop_ports(self, top: str) -> None:
        """Take all ports from the netlist but those that a clock or reset pin hangs on directly."""
        path = self.folder / "netlist.json"
        netlist = json.loads(path.read_text())
        module = netlist["modules"][top]
        kept = {
            bit
            for cell in module["cells"].values()
            for pin, bits in cell["connections"].items()
            if pin in _CLOCK_PINS | _RESET_PINS
            for bit in bits
        }
        module["ports"] = {
            name: port
            for name, port in module["ports"].items()
            if port["direction"] == "input" and len(port["bits"]) == 1 and port["bits"][0] in kept
        }
        path.write_text(json.dumps(netlist))

    def trim_carry_chains(self, top: str) -> None:
        """Take the carry from where a chain has no use for it.

        nextpnr spends two LUTs on a chain's first cell where its carry in is a constant, and two on a last
        one whose carry out is a net that leads nowhere. Yosys connects both. A first slot that lets no carry
        through (P = 0: the half of its table for D = 1 is empty, and D is 1) and takes none out does not look
        at it.
        """
        path = self.folder / "netlist.json"
        netlist = json.loads(path.read_text())
        module = netlist["modules"][top]
        cells = module["cells"].values()
        read = {
            bit
            for cell in cells
            for pin, bits in cell["connections"].items()
            if cell["port_directions"].get(pin) != "output"
            for bit in bits
        } | {bit for port in module["ports"].values() for bit in port["bits"]}
        for cell in cells:
            if cell["type"] != "CCU2C":
                continue
            pins = cell["connections"]
            if "COUT" in pins and not read.intersection(pins["COUT"]):
                pins["COUT"] = ["x"]
            lets_through = int(cell["parameters"]["INIT0"], 2) >> 8 or pins["D0"] != ["1"]
            takes_out = read.intersection(pins.get("S0", ()))
            if not lets_through and not takes_out and pins.get("CIN") in (["0"], ["1"], ["x"]):
                pins["CIN"] = ["x"]
        path.write_text(json.dumps(netlist))

    def arguments(self) -> list[str]:
        """What nextpnr is called with, whatever the seed."""
        context = {"ecp5": ["--out-of-context"], "ice40": ["--pcf-allow-unconstrained"]}[self.target.family]
        return [
            *self.target.nextpnr,
            *context,
            "--json",
            "netlist.json",
            "--freq",
            f"{self.frequency * _MARGIN:g}",
            "--timing-allow-fail",
        ]

    def tuning(self) -> list[str]:
        """Arguments that choose placement and routing, for a design that has been packed.

        What suits units and small engines does not suit large ones on ECP5, whose multipliers and memories
        are spread over the whole chip. The analytic placer (heap) gives `base`, 12 000 LUTs, so many long
        wires that neither router comes to an end for most seeds; placed by density, as if by electric charge
        (static), it is routed by router2 in some minutes.
        """
        weight, large = 10, False
        if self.target.family == "ecp5":
            packed = json.loads((self.folder / "packed.json").read_text())["utilization"]
            weight, large = 30, packed["TRELLIS_COMB"]["used"] > _LARGE_LUTS
        router = ["--router", "router2"] if large else []
        if self.timing_weight is not None:
            weight = self.timing_weight
        elif large:
            return ["--placer", "static", *router]
        return ["--placer-heap-timingweight", str(weight), *router]

    def results(self, seed: int) -> list[str]:
        """Arguments that name what nextpnr is to write beside its report."""
        return []

    def pack(self) -> dict[str, dict[str, int]]:
        """Pack only, which is quick and succeeds even where the device is too small; counts by bel type."""
        self.say(f"nextpnr: packing for {self.target.name}")
        arguments = [*self.arguments(), "--pack-only", "--report", "packed.json"]
        run_tool(self.nextpnr, arguments, self.folder, log="nextpnr-pack.log", timeout=self.timeout)
        report = json.loads((self.folder / "packed.json").read_text())
        utilisation: dict[str, dict[str, int]] = report["utilization"]
        return utilisation

    def count(self, packed: dict[str, dict[str, int]], cells: dict[str, int]) -> Resources:
        """What the design takes, by nextpnr's count of bel types and Yosys' of cells."""
        counts = {
            name: sum(weight * packed[bel]["used"] for bel, weight in weights.items() if bel in packed)
            for name, weights in _WEIGHTS[self.target.family].items()
        }
        if self.target.family == "ice40":
            counts["ff"] = sum(count for name, count in cells.items() if name.startswith("SB_DFF"))
        return Resources(**counts)

    def place_and_route(self, seed: int) -> dict[str, Any] | str:
        """The report, or why it does not fit."""
        name = f"nextpnr-seed{seed}"
        arguments = [
            *self.arguments(),
            *self.results(seed),
            *self.tuning(),
            *("--seed", str(seed), "--report", f"{name}.json"),
        ]

        def run(*more: str) -> Finished:
            return run_tool(
                self.nextpnr,
                [*arguments, *more],
                self.folder,
                log=f"{name}.log",
                timeout=self.timeout,
                check=False,
                progress=self.say,
            )

        try:
            finished = run()
        except ToolTimeoutError:
            # The router of iCE40 can go round in circles (seen with nextpnr 0.11.1, one seed of a unit of 500
            # cells). The other one always ends, with clocks some 15 % lower.
            if self.target.family != "ice40":
                raise
            finished = run("--router", "router2")
        if finished.returncode == 0:
            report: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
            return report
        complaint = finished.complaint()
        for line in complaint.splitlines():
            if _NO_ROOM.search(line):
                return line.removeprefix("ERROR: ")
        raise ToolError(f"{self.nextpnr} failed, seed {seed} ({finished.outcome}):\n{complaint}")


def _critical_path(report: dict[str, Any]) -> CriticalPath | None:
    paths = [
        path["path"]
        for path in report["critical_paths"]
        if path["path"] and path["from"].startswith(("posedge", "negedge")) and path["from"] == path["to"]
    ]
    if not paths:
        return None
    path = max(paths, key=lambda steps: sum(step["delay"] for step in steps))
    delay = sum(step["delay"] for step in path)
    routing = sum(step["delay"] for step in path if step["type"] == "routing")
    return CriticalPath(
        start=_signal(path[0]["from"]["cell"]),
        end=_signal(path[-1]["to"]["cell"]),
        delay_ns=delay,
        logic_ns=delay - routing,
        routing_ns=routing,
    )


def _signal(cell: str) -> str:
    """Name of the signal or memory that a cell was made for: Yosys appends types and pins, at length."""
    name = re.split(r"_(?:SB_|TRELLIS_|LUT4|CCU2C|PFUMX|L6MUX21|MULT18X18D|DP16KD)", cell, maxsplit=1)[0]
    return name.removeprefix("\\") or cell
