"""Benchmarks: figures that the RTL counted, from one command each."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError, ConfigError
from bitwright.hw.formats import Int
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.contract import Precision

from . import config as configs
from .cli import (
    FAILED,
    Latency,
    Overrides,
    Seeds,
    Simulator,
    SimulatorOption,
    Tensors,
    TensorsOption,
    guarded,
    show_layers,
    show_table,
    working,
)

if TYPE_CHECKING:
    from .network_bench import NetworkRun
    from .pe_bench import Record
    from .program import Program

__all__ = [
    "PRECISION_ENGINES",
    "Area",
    "LayerBeats",
    "PlanarCount",
    "PrecisionCount",
    "app",
    "cells",
    "count_planar",
    "count_product",
    "main",
    "theoretical_beats",
]

app = typer.Typer(
    name="bench", help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

_console = Console(highlight=False)
if not _console.is_terminal:
    _console.width = 180  # there is no width to keep to, and no figure is to be cut

PROGRAM = "scripts/bench"
"""What users call, which starts this module."""

JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result there too.")]
ConfigOption = Annotated[str, typer.Option("--config", help="TOML file or shipped configuration.")]


def _check_folder(option: str, path: Path | None) -> None:
    """Complain of a file that could not be written in the end, before anything is measured."""
    if path is None:
        return
    if path.is_dir():
        raise BitwrightError(f"{option} {path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise BitwrightError(f"{option} {path}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BitwrightError(f"{option} {path}: cannot be written: permission denied")


def _measure(
    name: str,
    sizes: list[int],
    rows: int,
    overrides: list[str] | None,
    simulator: Simulator,
    latency: int,
) -> dict[str, Any]:
    """Run one inference of random layers and report what was counted."""
    from bitwright.sim.rtl import MemoryTiming

    from .execute import execute
    from .mapper import compile_graph
    from .report import simulation_report
    from .synthetic import random_input, random_mlp
    from .verilog import emit

    engine = configs.load(name, overrides or ())
    with working(False) as say:
        say("Mapping")
        precision = engine.formats[0]
        assert isinstance(precision.activation, Int)
        graph = random_mlp(sizes, rows=rows, activation=precision.activation, weight=precision.weight)
        program = compile_graph(graph, engine)
        say("Elaborating")
        verilog = emit(engine)
        say("Simulating")
        execution = execute(
            program,
            graph,
            random_input(graph, count=1),
            verilog,
            simulator=simulator.value,
            timing=MemoryTiming(latency=latency),
            progress=lambda done, cycles: say(f"Simulating: cycle {cycles}"),
        )
    report = simulation_report(program, graph, execution, config=name, labels=None)
    words = execution.counters["load_beats"] + execution.counters["fetch_beats"]
    return {
        "config": name,
        "size": graph.name,
        "memory_latency": latency,
        "macs": report["macs"],
        "cycles": report["cycles"],
        "predicted_cycles": program.predicted_cycles,
        "peak_macs_per_cycle": report["peak_macs_per_cycle"],
        "utilisation": report["utilisation"],
        "mismatches": report["mismatches"],
        "read_beats": words,
        "read_beats_per_cycle": words / report["cycles"],
        "stalls": {key: value for key, value in execution.counters.items() if "wait" in key},
        "counters": execution.counters,
    }


def _write(path: Path | None, result: Any) -> None:
    if path:
        path.write_text(json.dumps(result, indent=2) + "\n")


def _finish(table: Table, records: list[dict[str, Any]], path: Path | None, *, failed: bool = False) -> None:
    """Print what was measured, write it where asked to, and exit as it came out."""
    _console.print(table)
    _write(path, records)
    if failed:
        raise typer.Exit(FAILED)


def _show(title: str, result: dict[str, Any], path: Path | None) -> None:
    flat = {key: value for key, value in result.items() if not isinstance(value, dict)}
    rows = [
        (key.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else value)
        for key, value in flat.items()
    ]
    show_table(title, rows + [(key.replace("_", " "), value) for key, value in result["stalls"].items()])
    _write(path, result)
    if result["mismatches"]:
        raise typer.Exit(FAILED)


@app.command()
def gemm(
    config: ConfigOption = "base",
    size: Annotated[str, typer.Option(help="Rows x terms x columns.")] = "256x256x256",
    json_file: JsonFile = None,
    latency: Latency = 20,
    simulator: SimulatorOption = Simulator.VERILATOR,
    overrides: Overrides = None,
) -> None:
    """Matrix product: how busy the array is."""
    rows, terms, columns = _sizes("--size", size, 3, "rows x terms x columns, as 256x256x256")
    _check_folder("--json", json_file)
    _show(
        "Matrix product", _measure(config, [terms, columns], rows, overrides, simulator, latency), json_file
    )


@app.command()
def mlp(
    config: ConfigOption = "base",
    sizes: Annotated[
        str, typer.Option(help="Terms of the first layer, then columns of each.")
    ] = "784-128-10",
    json_file: JsonFile = None,
    latency: Latency = 20,
    simulator: SimulatorOption = Simulator.VERILATOR,
    overrides: Overrides = None,
) -> None:
    """One inference of fully connected layers: how close to what the memory port gives."""
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)+", sizes):
        raise BitwrightError(f"--sizes {sizes}: must be layer sizes, as 784-128-10")
    _check_folder("--json", json_file)
    layers = list(map(int, sizes.split("-")))
    _show("Multilayer perceptron", _measure(config, layers, 1, overrides, simulator, latency), json_file)


class FabricChoice(StrEnum):
    """What carry chains are made of."""

    OWN = "own"
    GENERIC = "generic"


@app.command()
def pe(
    units: Annotated[
        list[str] | None, typer.Option("--unit", help="Only this unit; may be repeated, as all of these.")
    ] = None,
    precisions: Annotated[
        list[str] | None, typer.Option("--precision", help="Only this one: a8w8, au1wu1 (u: unsigned), abwb.")
    ] = None,
    lanes: Annotated[int | None, typer.Option(min=1, help="Width, rather than the unit's own.")] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option("--target", help="Only this one: ecp5 (with multiplier blocks), ecp5-nodsp or ice40."),
    ] = None,
    fabrics: Annotated[
        list[FabricChoice] | None,
        typer.Option(
            "--fabric", help="Carry chains: the target's own, or generic, what Yosys makes of sums."
        ),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Measure an array of units: its rows.")] = None,
    cols: Annotated[int | None, typer.Option(min=1, help="Measure an array of units: its columns.")] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Each precision in hardware of its own, without the others.")
    ] = False,
    seeds: Seeds = 3,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Units under way at a time.")] = 2,
    json_file: JsonFile = None,
    plot_file: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw LUTs per MAC against clock (.svg, .png)."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--check", metavar="FILE", help="Fail where a figure is worse than in this earlier --json."
        ),
    ] = None,
) -> None:
    """Dot-product units: LUTs, clock and what a multiply-accumulate operation costs."""
    from . import pe_bench

    array = None if rows is None and cols is None else (rows or 1, cols or 1)
    before = pe_bench.load(baseline) if baseline else []
    chosen = list(dict.fromkeys(fabrics or [FabricChoice.OWN]))
    cases = [
        case
        for fabric in chosen
        for case in pe_bench.cases(
            units or (),
            precisions or (),
            targets or (),
            generic=fabric is FabricChoice.GENERIC,
            lanes=lanes,
            array=array,
            alone=alone,
        )
    ]
    # What would be found wrong after half an hour is looked at first.
    _check_folder("--json", json_file)
    _check_folder("--plot", plot_file)
    if plot_file:
        pe_bench.check_plot(plot_file)
    if baseline:
        pe_bench.check_comparable(cases, before, baseline)
    with working(False) as say:
        records = pe_bench.measure(cases, seeds=seeds, jobs=jobs, progress=say)
    _show_prices(records)
    if json_file:
        pe_bench.save(json_file, records)
    if plot_file:
        pe_bench.draw(plot_file, records)
    if baseline:
        # Of the baseline only what was asked for now.
        asked = [
            record
            for record in before
            if (not units or record.unit in units)
            and (not precisions or record.precision in precisions)
            and (not targets or record.target in targets)
            and (lanes is None or record.lanes == lanes)
            and (record.rows, record.cols) == (array or (0, 0))
            and (not alone or record.built_for == [record.precision])
            and (FabricChoice.GENERIC if record.fabric == "generic" else FabricChoice.OWN) in chosen
        ]
        worse = pe_bench.regressions(records, asked)
        new = {record.key for record in records} - {record.key for record in asked}
        _console.print(
            f"{len(records) - len(new)} compared with {baseline}, {len(new)} not in it, "
            f"{len(worse)} figures are worse"
        )
        tools = {name: version for record in asked for name, version in record.versions.items()}
        for name, version in {item for record in records for item in record.versions.items()}:
            if tools.get(name, version) != version:
                _console.print(f"note: {name} was {tools[name]}, is {version}", markup=False)
        for text in worse:
            _console.print(f"worse: {text}", markup=False, soft_wrap=True)
        if worse:
            raise typer.Exit(FAILED)


def _show_prices(records: "Sequence[Record]") -> None:
    table = Table(title="Dot-product units", title_justify="left")
    for heading in ("unit", "precision", "target", "fabric"):
        table.add_column(heading, no_wrap=True)
    for heading in (
        *("lanes", "LUT", "FF", "DSP", "BRAM", "Fmax MHz\nmedian", "all seeds", "MACs\nper cycle"),
        *("LUT per\nMAC/cycle", "LUT per\nbinary op", "GOPS"),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for record in records:
        median = record.fmax_median_mhz
        size = f"{record.rows}x{record.cols} " if record.rows else ""
        table.add_row(
            size + " ".join([record.unit, *(f"{name}={value}" for name, value in record.variant.items())]),
            record.precision,
            record.target,
            record.fabric,
            str(record.lanes),
            f"{record.lut:,}",
            f"{record.ff:,}",
            str(record.dsp),
            str(record.bram),
            "does not fit" if median is None else f"{median:.0f}",
            " ".join(f"{clock:.0f}" for clock in record.fmax_mhz),
            f"{record.macs_per_cycle:g}",
            f"{record.lut_per_mac:.2f}",
            f"{record.lut_per_binary_op:.3f}",
            "" if record.gops is None else f"{record.gops:.2f}",
        )
    _console.print(table)


# Cycles against theory

_USUAL = ("a8w8", "a4w4", "a2w2")

PRECISION_ENGINES: Mapping[str, Mapping[str, Any]] = {
    "parallel": {"lanes": 8, "precisions": _USUAL},
    "bitfusion": {"lanes": 4, "precisions": (*_USUAL, "a8w2")},
    "bitblade": {"lanes": 4, "precisions": (*_USUAL, "a8w2")},
    "stripes": {"lanes": 16, "precisions": ("a8w8", "a4w8", "a2w8", "a1w8")},
    # Its outputs leave w beats apart: as many requantisers as columns, or narrow weights wait for the drain.
    "unpu": {
        "lanes": 64,
        "cols": 4,
        "requantisers": 4,
        "precisions": ("a8w8", "a8w4", "a8w2", "a8w1"),
        "weight_depth": 4096,
    },
    "loom": {"lanes": 64, "precisions": (*_USUAL, "a3w5", "a1w1")},
    "bismo": {"lanes": 64, "precisions": (*_USUAL, "a3w5", "a1w1")},
    "xnor": {"lanes": 16, "precisions": ("a8wb", "a4wb")},
    "ternary": {"lanes": 16, "precisions": ("a8wt", "a4wt")},
    "log2": {"lanes": 16, "precisions": ("a8wp4", "a4wp4")},
}
"""What each unit is measured with, beside :data:`_PRECISION_BASE`: one engine for all of its precisions."""

_PRECISION_BASE: Mapping[str, Any] = {"cols": 8, "requantisers": 1, "bus_bits": 128, "reduction": 4096}

_PRODUCT = "128x512x64"
_OVERHEAD = 0.10
_PLANAR_OVERHEAD = 0.05

_PLANAR_UNITS = ("stripes", "loom", "bismo")
_LAYERS = "32x512x256x64"

LAYER_FILL = 250
"""Cycles per layer in which the pipeline fills and empties, whatever the layer's size.

Array and quantiser, some 50 cycles; the last STORE and its answer, a memory latency; the first LOAD of what
was stored, another one; at the end the SNAPSHOT of the counters.
"""


def _brick_bits(bits: int) -> int:
    return next(size for size in (2, 4, 8) if size >= bits)


# Beats of one lane for one multiply-accumulate operation of a-bit activations and w-bit weights. From the
# publications of the architectures, not from the units' own schedules, which are what is measured.
_LANE_BEATS: Mapping[str, tuple[str, Callable[[int, int], float]]] = {
    "parallel": ("1", lambda a, w: 1),
    "bitfusion": ("a w / 64, in 2, 4 or 8 bits", lambda a, w: _brick_bits(a) * _brick_bits(w) / 64),
    "bitblade": ("a w / 64, in 2, 4 or 8 bits", lambda a, w: _brick_bits(a) * _brick_bits(w) / 64),
    "stripes": ("a", lambda a, w: a),
    # Of 16 outputs: 16 beats that fill the tables, and w lookups for each.
    "unpu": ("(16 + 16 w) / 16", lambda a, w: (16 + 16 * w) / 16),
    "loom": ("a w", lambda a, w: a * w),
    "bismo": ("a w", lambda a, w: a * w),
    "xnor": ("1", lambda a, w: 1),
    "ternary": ("1", lambda a, w: 1),
    "log2": ("1", lambda a, w: 1),
}


def theoretical_beats(config: EngineConfig, precision: Precision, size: Sequence[int]) -> float:
    """``M K N / (rows cols lanes) * beats of a lane``: what a matrix product takes if nothing ever waits.

    Parameters
    ----------
    config
        The engine.
    precision
        Formats in force.
    size
        Rows, terms and columns of the product.
    """
    _, beats = _LANE_BEATS[config.pe]
    bits = precision.activation.bits, precision.weight.bits
    return prod(size) * beats(*bits) / (config.rows * config.cols * config.lanes)


@dataclass(frozen=True, kw_only=True)
class PrecisionCount:
    """A matrix product at one precision, on an engine that has several.

    Parameters
    ----------
    unit, precision, engine_precisions
        The dot-product unit, the formats in force, and all that the engine is built for.
    size
        Rows, terms and columns.
    formula
        Beats of a lane for a multiply-accumulate operation, by theory.
    theoretical_beats
        See :func:`theoretical_beats`.
    beats, cycles, waits
        Counted by the RTL: cycles in which the array took operands, all from start to end, and those in which
        the compute unit waited, by cause.
    predicted_cycles
        The cycle model's.
    mismatches
        Elements that differ from the golden model.
    """

    unit: str
    precision: str
    engine_precisions: tuple[str, ...]
    size: tuple[int, int, int]
    formula: str
    theoretical_beats: float
    beats: int
    cycles: int
    waits: Mapping[str, int]
    predicted_cycles: int
    mismatches: int

    @property
    def overhead(self) -> float:
        """Counted cycles beyond the theoretical beats, as a share of these."""
        return self.cycles / self.theoretical_beats - 1

    @property
    def macs_per_cycle(self) -> float:
        """Multiply-accumulate operations of each counted cycle."""
        return prod(self.size) / self.cycles


def _waits(counters: Mapping[str, int]) -> dict[str, int]:
    head = "compute_wait_"
    return {name.removeprefix(head): value for name, value in counters.items() if name.startswith(head)}


def count_product(
    config: EngineConfig,
    precision: str,
    size: tuple[int, int, int],
    *,
    verilog: str | None = None,
    simulator: str = "verilator",
    latency: int = 20,
    progress: Callable[[str], None] | None = None,
) -> PrecisionCount:
    """Run one random matrix product on an engine's Verilog and count its cycles.

    Parameters
    ----------
    config
        The engine.
    precision
        Formats of the product; one of the engine's, the activations integers.
    size
        Rows, terms and columns.
    verilog
        The engine's, if there is one already.
    simulator, latency
        What runs it, and cycles until the memory answers.
    progress
        Told what is being done.

    Raises
    ------
    BitwrightError
        The engine cannot run the product at that precision.
    """
    from bitwright.sim.rtl import MemoryTiming

    from .execute import execute
    from .mapper import compile_graph
    from .synthetic import random_input, random_mlp
    from .verilog import emit

    formats = Precision.parse(precision)
    if formats not in config.formats or not isinstance(formats.activation, Int):
        allowed = ", ".join(str(each) for each in config.formats if isinstance(each.activation, Int))
        raise ConfigError("precision", precision, f"one of the engine's, {allowed}")
    rows, terms, columns = size
    graph = random_mlp([terms, columns], rows=rows, activation=formats.activation, weight=formats.weight)
    program = compile_graph(graph, config)
    taken = program.layers[0].precision
    if taken != precision:
        raise BitwrightError(
            f"precision {precision}: the product was mapped to {taken}, which holds it in as few beats"
        )
    execution = execute(
        program,
        graph,
        random_input(graph, count=1),
        verilog or emit(config),
        simulator=simulator,
        timing=MemoryTiming(latency=latency),
        progress=progress and (lambda done, cycles: progress(f"{config.pe} {precision}: cycle {cycles}")),
    )
    return PrecisionCount(
        unit=config.pe,
        precision=precision,
        engine_precisions=config.precisions,
        size=size,
        formula=_LANE_BEATS[config.pe][0],
        theoretical_beats=theoretical_beats(config, formats, size),
        beats=execution.counters["compute_beats"],
        cycles=execution.counters["cycles"],
        waits=_waits(execution.counters),
        predicted_cycles=program.predicted_cycles,
        mismatches=sum(execution.mismatches.values()),
    )


Units = Annotated[
    list[str] | None, typer.Option("--unit", help="Only this unit; may be repeated, as all of these.")
]


def _chosen_units(asked: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    for unit in asked or ():
        if unit not in known:
            raise BitwrightError(f"--unit {unit}: must be one of {', '.join(known)}")
    return list(dict.fromkeys(asked or known))


def _sizes(option: str, text: str, count: int, meaning: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (count - 1), text):
        raise BitwrightError(f"{option} {text}: must be {meaning}")
    return list(map(int, text.split("x")))


def _engine(unit: str, overrides: Sequence[str] | None = None) -> EngineConfig:
    """The engine that a unit is measured on: `base` but for a few keys."""
    own = {**_PRECISION_BASE, "pe": unit, **PRECISION_ENGINES[unit]}
    keys = [f"{key}={json.dumps(value)}" for key, value in own.items()]
    return configs.load("base", [*keys, *(overrides or ())])


def _waits_text(waits: Mapping[str, int]) -> str:
    return ", ".join(f"{cause} {value:,}" for cause, value in waits.items() if value) or "none"


@app.command()
def precision(
    units: Units = None,
    size: Annotated[str, typer.Option(help="Rows x terms x columns.")] = _PRODUCT,
    json_file: JsonFile = None,
    latency: Latency = 20,
    simulator: SimulatorOption = Simulator.VERILATOR,
    overrides: Overrides = None,
) -> None:
    """Matrix product at several precisions on one engine: counted cycles against theory.

    Fails where a result is wrong, or where cycles exceed the theoretical beats by 10 % or more: that may be
    so for a --size that is small.
    """
    rows, terms, columns = _sizes("--size", size, 3, f"rows x terms x columns, as {_PRODUCT}")
    _check_folder("--json", json_file)
    from .verilog import emit

    counts = []
    with working(False) as say:
        for unit in _chosen_units(units, list(PRECISION_ENGINES)):
            config = _engine(unit, overrides)
            say(f"{unit}: elaborating")
            verilog = emit(config)
            for name in config.precisions:
                say(f"{unit} {name}: compiling the simulation")
                counts.append(
                    count_product(
                        config,
                        name,
                        (rows, terms, columns),
                        verilog=verilog,
                        simulator=simulator.value,
                        latency=latency,
                        progress=say,
                    )
                )
    table = Table(title=f"Matrix product {size}, precisions of one engine", title_justify="left")
    for heading in ("unit", "precision", "beats of a lane\nper MAC"):
        table.add_column(heading, no_wrap=True)
    for heading in (
        *("beats\ntheory", "beats\ncounted", "cycles\ncounted", "cycles\npredicted", "overhead\ncounted"),
        *("MACs per cycle\ncounted", "wrong"),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("array waited for\ncounted", no_wrap=True)
    for count in counts:
        table.add_row(
            count.unit,
            count.precision,
            count.formula,
            f"{count.theoretical_beats:,.0f}",
            f"{count.beats:,}",
            f"{count.cycles:,}",
            f"{count.predicted_cycles:,}",
            f"{count.overhead:.1%}",
            f"{count.macs_per_cycle:.1f}",
            str(count.mismatches),
            _waits_text(count.waits),
        )
    _finish(
        table,
        [
            {**asdict(count), "overhead": count.overhead, "macs_per_cycle": count.macs_per_cycle}
            for count in counts
        ],
        json_file,
        failed=any(count.mismatches or count.overhead >= _OVERHEAD for count in counts),
    )


@dataclass(frozen=True, kw_only=True)
class LayerBeats:
    """A layer of :class:`PlanarCount`: its precision and what it takes by theory."""

    name: str
    precision: str
    theoretical_beats: float


@dataclass(frozen=True, kw_only=True)
class PlanarCount:
    """Two layers of a unit that takes activations as bit planes, which the first one's results become.

    Parameters
    ----------
    unit
        The dot-product unit.
    size
        Rows, terms, columns of the first layer, columns of the second.
    layers
        Of each what it takes by theory.
    fill
        Cycles in which the array cannot be busy: words of the bus until the first tile is there, and
        :data:`LAYER_FILL` for each layer.
    beats, cycles, waits
        Counted by the RTL, both layers together.
    stored_words
        Words of the bus, counted by the RTL, without the two SNAPSHOTs.
    result_words
        Words of both layers' results, once each.
    predicted_cycles
        The cycle model's.
    mismatches
        Elements that differ from the golden model, in either layer's results.
    """

    unit: str
    size: tuple[int, int, int, int]
    layers: tuple[LayerBeats, ...]
    fill: int
    beats: int
    cycles: int
    waits: Mapping[str, int]
    stored_words: int
    result_words: int
    predicted_cycles: int
    mismatches: int

    @property
    def theoretical_beats(self) -> float:
        """Of all layers."""
        return sum(layer.theoretical_beats for layer in self.layers)

    @property
    def overhead(self) -> float:
        """Counted cycles beyond the theoretical beats, as a share of these, without allowing for the fill."""
        return self.cycles / self.theoretical_beats - 1

    @property
    def overhead_beyond_fill(self) -> float:
        """The same beyond the theoretical beats and the fill."""
        return (self.cycles - self.fill) / self.theoretical_beats - 1


def _words_of_first_tile(program: "Program") -> int:
    """Words of the bus until the first COMPUTE may start."""
    from bitwright.hw.sched.isa import Opcode, Unit

    words = 0
    for instruction in program.instructions:
        if instruction.opcode is Opcode.LOAD:
            words += instruction["beats"]
            if instruction["post"] >> Unit.COMPUTE & 1:
                return words
    return words


def count_planar(
    config: EngineConfig,
    precisions: tuple[str, str],
    size: tuple[int, int, int, int],
    *,
    simulator: str = "verilator",
    latency: int = 20,
    progress: Callable[[str], None] | None = None,
) -> PlanarCount:
    """Run two layers, one behind the other, and count their cycles.

    Parameters
    ----------
    config
        The engine, of a unit that takes activations as bit planes.
    precisions
        Of the two layers, integers.
    size
        Rows, terms, columns of the first layer, columns of the second.
    simulator, latency, progress
        As of :func:`count_product`.

    Raises
    ------
    BitwrightError
        The engine cannot run them.
    """
    from bitwright.sim.rtl import MemoryTiming

    from .execute import execute
    from .mapper import SNAPSHOT_BYTES, compile_graph
    from .synthetic import random_input, random_mlp
    from .verilog import emit

    first, second = map(Precision.parse, precisions)
    formats = [first.activation, second.activation, second.activation]
    integers = [format for format in formats if isinstance(format, Int)]
    assert len(integers) == len(formats)
    graph = random_mlp(size[1:], rows=size[0], activation=integers, weight=[first.weight, second.weight])
    program = compile_graph(graph, config)
    if progress:
        progress(f"{config.pe}: elaborating, and compiling the simulation")
    execution = execute(
        program,
        graph,
        random_input(graph, count=1),
        emit(config),
        simulator=simulator,
        timing=MemoryTiming(latency=latency),
        progress=progress and (lambda done, cycles: progress(f"{config.pe}: cycle {cycles}")),
    )
    layers = tuple(
        LayerBeats(
            name=plan.name,
            precision=plan.precision,
            theoretical_beats=theoretical_beats(
                config, Precision.parse(plan.precision), (size[0], *size[number + 1 : number + 3])
            ),
        )
        for number, plan in enumerate(program.layers)
    )
    counters = execution.counters
    return PlanarCount(
        unit=config.pe,
        size=size,
        layers=layers,
        fill=_words_of_first_tile(program) + LAYER_FILL * len(layers),
        beats=counters["compute_beats"],
        cycles=counters["cycles"],
        waits=_waits(counters),
        stored_words=counters["store_beats"] - len(layers) * SNAPSHOT_BYTES // config.bus_bytes,
        result_words=sum(program.placements[name].size for name in ("t1", "t2")) // config.bus_bytes,
        predicted_cycles=program.predicted_cycles,
        mismatches=sum(execution.mismatches.values()),
    )


@app.command()
def planar(
    units: Annotated[
        list[str] | None,
        typer.Option("--unit", help="Only this unit: stripes, loom or bismo; may be repeated."),
    ] = None,
    size: Annotated[
        str, typer.Option(help="Rows x terms x columns of the first layer x columns of the second.")
    ] = _LAYERS,
    json_file: JsonFile = None,
    latency: Latency = 20,
    simulator: SimulatorOption = Simulator.VERILATOR,
    overrides: Overrides = None,
) -> None:
    """Two layers on a bit-serial engine: what it costs that activations are stored as planes.

    The first layer's precision is a8w8, the second's a4w4. Fails where a result is wrong, or where cycles
    exceed the layers' theoretical beats and the fill of the pipeline by 5 % or more.
    """
    rows, terms, columns, outputs = _sizes("--size", size, 4, f"four numbers, as {_LAYERS}")
    _check_folder("--json", json_file)
    counts = []
    with working(False) as say:
        for unit in _chosen_units(units, _PLANAR_UNITS):
            config = _engine(unit, ['precisions=["a8w8", "a4w4"]', *(overrides or ())])
            counts.append(
                count_planar(
                    config,
                    ("a8w8", "a4w4"),
                    (rows, terms, columns, outputs),
                    simulator=simulator.value,
                    latency=latency,
                    progress=say,
                )
            )
    table = Table(title=f"Two layers {size}, activations as bit planes", title_justify="left")
    for heading in ("unit", "layers"):
        table.add_column(heading, no_wrap=True)
    for heading in (
        *("beats of the layers\ntheory", "fill\nstated", "cycles\ncounted", "overhead", "beyond fill"),
        *("words stored\ncounted", "of results", "wrong"),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("array waited for\ncounted", no_wrap=True)
    for count in counts:
        table.add_row(
            count.unit,
            ", ".join(layer.precision for layer in count.layers),
            " + ".join(f"{layer.theoretical_beats:,.0f}" for layer in count.layers),
            f"{count.fill:,}",
            f"{count.cycles:,}",
            f"{count.overhead:.1%}",
            f"{count.overhead_beyond_fill:.1%}",
            f"{count.stored_words:,}",
            f"{count.result_words:,}",
            str(count.mismatches),
            _waits_text(count.waits),
        )
    _finish(
        table,
        [
            {**asdict(count), "overhead": count.overhead, "overhead_beyond_fill": count.overhead_beyond_fill}
            for count in counts
        ],
        json_file,
        failed=any(count.mismatches or count.overhead_beyond_fill >= _PLANAR_OVERHEAD for count in counts),
    )


# What a precision costs in hardware


@dataclass(frozen=True, kw_only=True)
class Area:
    """Cells of an engine on ECP5, as Yosys maps them; not packed, placed or routed.

    Parameters
    ----------
    unit, precisions
        The dot-product unit, and what the engine is built for.
    lut
        LUT4s, two for each cell of a carry chain, six for a LUT RAM of 16x4 bits.
    ff, dsp, bram
        Flip-flops, multiplier blocks, block RAMs.
    """

    unit: str
    precisions: tuple[str, ...]
    lut: int
    ff: int
    dsp: int
    bram: int


_AREA_WEIGHTS: Mapping[str, Mapping[str, int]] = {
    "lut": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
    "ff": {"TRELLIS_FF": 1},
    "dsp": {"MULT18X18D": 1},
    "bram": {"DP16KD": 1},
}


def cells(config: EngineConfig) -> Area:
    """Synthesise an engine for ECP5 with Yosys and count its cells.

    Raises
    ------
    ToolError
        There is no Yosys, or it failed.
    """
    from .synthesis import TARGETS, synthesis_script
    from .toolchain import run_tool
    from .verilog import TOP, emit

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "design.v").write_text(emit(config))
        script = synthesis_script(TARGETS["ecp5-85k"], TOP, folder)
        run_tool("yosys", ["-q", "-p", f"{script}; tee -q -o cells.json stat -json"], folder)
        counts = json.loads((folder / "cells.json").read_text())["design"]["num_cells_by_type"]
    sums = {
        name: sum(weight * int(counts.get(cell, 0)) for cell, weight in weights.items())
        for name, weights in _AREA_WEIGHTS.items()
    }
    return Area(unit=config.pe, precisions=config.precisions, **sums)


@app.command()
def area(
    units: Units = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--precisions", help="Only these together, as a8w8,a4w4; may be repeated."),
    ] = None,
    json_file: JsonFile = None,
    overrides: Overrides = None,
) -> None:
    """Engines for one, two and more precisions: the LUTs that each takes on ECP5, by Yosys.

    Without --precisions, those of the command `precision`, one more at a time.
    """
    _check_folder("--json", json_file)
    configurations = []
    for unit in _chosen_units(units or ["bismo", "bitfusion"], list(UNITS)):
        named = PRECISION_ENGINES[unit]["precisions"]
        choices = [tuple(each.split(",")) for each in sets or ()] or [
            named[:count] for count in range(1, len(named) + 1)
        ]
        for choice in choices:
            keys = [f"precisions={json.dumps(choice)}", 'target="ecp5"', *(overrides or ())]
            configurations.append(_engine(unit, keys))
    areas = []
    with working(False) as say:
        for config in configurations:
            say(f"Yosys: {config.pe} for {', '.join(config.precisions)}")
            areas.append(cells(config))
    table = Table(title="Engines by what they are built for, ECP5, Yosys", title_justify="left")
    for heading in ("unit", "precisions"):
        table.add_column(heading, no_wrap=True)
    for heading in ("LUT", "more than\nwithout the last", "FF", "DSP", "BRAM"):
        table.add_column(heading, justify="right", no_wrap=True)
    known = {(each.unit, each.precisions): each.lut for each in areas}
    for each in areas:
        before = known.get((each.unit, each.precisions[:-1]))
        table.add_row(
            each.unit,
            ", ".join(each.precisions),
            f"{each.lut:,}",
            "" if before is None else f"{each.lut - before:+,}",
            f"{each.ff:,}",
            str(each.dsp),
            str(each.bram),
        )
    _finish(table, [asdict(each) for each in areas], json_file)


@app.command()
def suggest(
    targets: Annotated[
        list[str] | None, typer.Option("--target", help="Only engines for this device; may be repeated.")
    ] = None,
    networks: Annotated[
        list[str] | None, typer.Option("--network", help="Only engines for this network; may be repeated.")
    ] = None,
    save: Annotated[
        bool, typer.Option("--write", help="Keep what was measured and fitted: gen/engines.json.")
    ] = False,
) -> None:
    """Engines that `bitwright suggest` estimates from, synthesised, and its constants fitted to them."""
    from .engine_bench import FILE, fit, measure, read, row_config, write
    from .suggest import Estimate, estimate
    from .synthesis import TARGETS

    overheads, rows = read()
    chosen = [
        number
        for number, row in enumerate(rows)
        if row["target"] in (targets or [row["target"]]) and row["network"] in (networks or [row["network"]])
    ]
    if not chosen:
        known = {key: ", ".join(dict.fromkeys(row[key] for row in rows)) for key in ("target", "network")}
        raise BitwrightError(f"no engine is of that device and network; there are {known}")
    for number in chosen:
        with working(False) as say:
            rows[number] = measure(rows[number], say)
        if save:
            # What takes hours is not lost.
            write(overheads, rows, FILE)
    after = fit(rows, overheads)
    table = Table("device", "network", "unit", "set", "bit products", title="Engines, and their estimates")
    for heading in ("LUT", "before", "off by", "fitted", "off by", "DSP", "BRAM", "estimated", "MHz"):
        table.add_column(heading, justify="right")
    for number in chosen:
        row, config = rows[number], row_config(rows[number])
        device = TARGETS[row["target"]]
        found: list[Estimate] = []
        for constants in (overheads, after):
            needs = estimate(config, device, constants)
            assert needs is not None
            found.append(needs)
        luts = [text for each in found for text in (f"{each.lut:,}", f"{each.lut / row['lut'] - 1:+.1%}")]
        table.add_row(
            *(row["target"], row["network"], row["unit"], " ".join(row["set"]), str(row["bit_products"])),
            *(f"{row['lut']:,}", *luts, str(row["dsp"]), str(row["bram"]), str(found[0].bram)),
            "-" if row["fmax_mhz"] is None else f"{row['fmax_mhz']:.1f}",
        )
    _console.print(table)
    for family, overhead in after.items():
        show_table(f"LUTs, {family}", [(name, f"{value:g}") for name, value in overhead.lut.items()])
    if save:
        write(after, rows, FILE)


@app.command()
def networks(
    files: Annotated[list[Path], typer.Argument(metavar="NETWORK...", help="Network files.")],
    config: ConfigOption = "base",
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(min=1, help="Inputs, random ones.")] = 1,
    json_file: JsonFile = None,
    latency: Latency = 20,
    simulator: SimulatorOption = Simulator.VERILATOR,
    tensors: TensorsOption = Tensors.ALL,
    separate_sums: Annotated[
        bool,
        typer.Option(
            "--separate-sums", help="No sum is part of a convolution, whose own result is then compared, too."
        ),
    ] = False,
) -> None:
    """Whole networks: cycles of every layer, predicted and counted, and which share of the peak they make."""
    from .network_bench import run_network

    _check_folder("--json", json_file)
    engine = configs.load(config, overrides or ())
    runs: list[NetworkRun] = []
    for path in files:
        with working(False) as say:
            runs.append(
                run_network(
                    path,
                    engine,
                    count=count,
                    latency=latency,
                    simulator=simulator.value,
                    tensors=tensors.value,
                    fuse_sums=not separate_sums,
                    progress=say,
                )
            )
        _show_network(runs[-1])
        _write(json_file, [run.as_json() for run in runs])
    if any(run.mismatches for run in runs):
        raise typer.Exit(FAILED)


def _show_network(run: "NetworkRun") -> None:
    _console.print(f"{run.network}, {run.inferences} inferences", markup=False)
    show_layers(run.layers)
    _console.print(
        f"{run.cycles:,.0f} cycles, predicted {run.predicted_cycles:,}; {run.macs:,} MACs, "
        f"{run.utilisation:.1%} of {run.peak_macs_per_cycle:g} per cycle; "
        f"{run.mismatches} elements of {run.tensors} tensors differ; {run.seconds:.0f} s"
    )


def main() -> None:
    """Entry point; see :func:`bitwright.gen.cli.main`."""
    guarded(lambda: app(prog_name=PROGRAM))


if __name__ == "__main__":
    main()
