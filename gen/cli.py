"""The command line."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError

# Everything that takes long to import is imported by the command that needs it.

__all__ = ["app", "guarded", "load_inputs", "main", "show_layers"]

app = typer.Typer(
    name="bitwright",
    help="Variable-precision neural-network accelerators: a network file in, verified Verilog out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

USER_ERROR = 2
"""Exit status where the user's input is at fault, or a tool is missing."""
FAILED = 1
"""Exit status where everything ran and the result is bad: mismatches, or a design that does not fit."""

CELLS = "engine_cells.v"
"""Models of the cells of an FPGA family that the engine instantiates, for simulation."""

CORE = ("engine.core", "engine_tb.v")
"""Description of the engine for FuseSoC, and the test bench that it names."""

NETLIST = "netlist.v"
"""The engine as cells of a device, where that is what was simulated."""

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


class Simulator(StrEnum):
    """Simulators that run the Verilog."""

    VERILATOR = "verilator"
    ICARUS = "icarus"


class Tensors(StrEnum):
    """Which tensors a program leaves in memory."""

    ALL = "all"
    NEEDED = "needed"


Config = Annotated[
    str, typer.Argument(metavar="CONFIG", help="TOML file, or a shipped configuration's name.")
]
Network = Annotated[
    Path,
    typer.Argument(metavar="NETWORK", help="Quantised network: .onnx (QDQ, QLinear or QONNX) or .tflite."),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration key; may be repeated."),
]
Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        metavar="LAYER=a4w4",
        help="Requantise a layer (name or glob) to a precision; or a TOML file of them. May be repeated.",
    ),
]
TensorsOption = Annotated[
    Tensors,
    typer.Option(
        "--tensors",
        help="What is left in memory: all, to be compared, or what is needed there; the others share room.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")]
Inputs = Annotated[
    Path | None,
    typer.Option("--input", help=".npy, or .npz with `input` and optionally `label`. Random if left out."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only so many of the inputs.")]
SimulatorOption = Annotated[Simulator, typer.Option("--simulator", help="What runs the Verilog.")]
Latency = Annotated[int, typer.Option(min=2, max=65536, help="Cycles until the memory answers.")]
Stall = Annotated[int, typer.Option(min=0, max=255, help="Chance, in 256ths, that the memory pauses.")]
TargetOption = Annotated[
    str, typer.Option("--target", help="FPGA: ecp5-85k, ecp5-45k, ecp5-25k, ice40-up5k or ice40-hx8k.")
]
NetlistOption = Annotated[
    bool, typer.Option("--netlist", help="Simulate what Yosys makes of the engine for --target: cells.")
]
NetlistTarget = Annotated[
    str | None, typer.Option("--target", help="FPGA that --netlist is for; see `bitwright synth --help`.")
]
Seeds = Annotated[int, typer.Option(min=1, max=100, help="Placements to try.")]
Frequency = Annotated[float | None, typer.Option(help="Clock to aim for, in MHz; each target has its own.")]


@contextmanager
def working(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show on standard error what is being done, where that is a terminal; otherwise a line for each step."""
    if quiet:
        yield lambda text: None
    elif not _err.is_terminal:
        last, shape = 0.0, ""

        def line(text: str) -> None:
            # A count that goes up is worth a line now and then only; digits of a name are no count.
            nonlocal last, shape
            before, shape = shape, re.sub(r"(?<![\w/.-])\d+(?![\w/.-])", "#", text)
            if shape != before or shape == text or time.monotonic() > last + 10:
                last = time.monotonic()
                _err.print(text, markup=False, soft_wrap=True)

        yield line
    else:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=_err, transient=True) as progress:
            task = progress.add_task("", total=None)
            yield lambda text: progress.update(task, description=text)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _write_report(stage: Path, report: dict[str, Any]) -> None:
    from .html_report import html_report

    _write_json(stage / "report.json", report)
    (stage / "report.html").write_text(html_report(report), encoding="utf-8")


def show_table(title: str, rows: list[tuple[str, Any]]) -> None:
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, str(value))
    _out.print(table)


def load_inputs(path: Path | None, limit: int | None, graph: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Inputs, checked and stacked, and labels.

    Parameters
    ----------
    path
        A `.npy` or `.npz` file; random inputs if there is none.
    limit
        How many at most; of random ones, how many, 1 unless given.
    graph
        The network that they are for.

    Raises
    ------
    BitwrightError
        The file cannot be read, or what it holds does not fit the network.
    """
    from bitwright.sim import golden

    from .arrays import ArraysError, read_arrays

    labels = None
    if path is None:
        from .synthetic import random_input

        array = random_input(graph, count=limit or 1)
    else:
        try:
            arrays = read_arrays(path, ("input", "label"), required=("input",))
        except FileNotFoundError:
            raise BitwrightError(f"{path}: there is no such file") from None
        except ArraysError as error:
            raise BitwrightError(f"{path}: {error}") from None
        array, labels = arrays["input"], arrays.get("label")
    inputs = golden.prepare_input(graph, array)
    if labels is not None and labels.size != len(inputs):
        raise BitwrightError(f"{path}: {labels.size} labels for {len(inputs)} inputs")
    if labels is not None and labels.dtype.kind not in "iuf":
        raise BitwrightError(f"{path}: labels of type {labels.dtype} are not numbers")
    if limit:
        inputs = inputs[:limit]
        labels = None if labels is None else labels.reshape(-1)[:limit]
    return inputs, labels


@contextmanager
def _results(output: Path, engine: EngineConfig, optional: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to write into, whose files go to `output`; what is there of another engine is removed."""
    from .output import of_another_engine, staged

    old = of_another_engine(output, engine)
    with staged(output, optional=[*optional, *old]) as stage:
        yield stage
        gone = [name for name in old if not (stage / name).exists()]
    if gone:
        _err.print(
            f"note: removed from {output} what was of another engine: {', '.join(gone)}",
            markup=False,
            soft_wrap=True,
        )


def _inferences(count: int) -> str:
    return f"{count} inference{'s' if count > 1 else ''}"


# What the commands are made of: each writes its files into `stage` and returns its result


def _generate(
    config: EngineConfig, stage: Path, say: Callable[[str], None], core: str | None = None
) -> dict[str, Any]:
    from .driver import driver_files
    from .fusesoc import core_file, smoke_test
    from .manifest import manifest
    from .verilog import elaborate, simulation_cells

    say("Elaborating the engine")
    design = elaborate(config, progress=say)
    (stage / "engine.v").write_text(design.verilog)
    if cells := simulation_cells(design.verilog):
        (stage / CELLS).write_text(cells)
    if core is not None:
        for name, text in zip(
            CORE, (core_file(core, config, cells=bool(cells)), smoke_test(config, design)), strict=True
        ):
            (stage / name).write_text(text)
    for name, text in driver_files().items():
        (stage / name).write_text(text)
    description = manifest(config, design)
    _write_json(stage / "engine.json", description)
    return description


def _load_network(network: Path, precisions: list[str] | None) -> tuple[Any, dict[str, Any]]:
    """The network, requantised if asked for, and the precision of each layer that an override names."""
    from .importers import load

    graph = load(network)
    if not precisions:
        return graph, {}
    from .requantise import matched, parse_overrides, requantised

    overrides = parse_overrides(precisions)
    asked = matched(graph, overrides)
    graph = requantised(graph, overrides)
    _err.print(
        f"warning: {network.name} is requantised after training ({', '.join(precisions)}): "
        "its accuracy may fall",
        markup=False,
        soft_wrap=True,
    )
    return graph, asked


def _compile(
    config: EngineConfig,
    network: Path,
    stage: Path,
    say: Callable[[str], None],
    precisions: list[str] | None = None,
    tensors: Tensors = Tensors.ALL,
) -> tuple[Any, Any, dict[str, str]]:
    """The network, the program, and what was asked for of each layer that an override names."""
    from bitwright.sim.graph import NetworkError

    from .mapper import compile_graph

    say(f"Importing {network.name}")
    graph, asked = _load_network(network, precisions)
    try:
        program = compile_graph(
            graph, config, tensors=tensors.value, progress=lambda name: say(f"Mapping {name}")
        )
    except NetworkError as error:
        from .compare import holding

        raise holding(error, graph, config) from None
    program.save(stage / "program.npz")
    if asked:
        from .requantise import unmet

        for text in unmet(asked, program):
            _err.print(f"warning: {text}", markup=False, soft_wrap=True)
    return graph, program, {name: str(precision) for name, precision in asked.items()}


def _overridden(program: Any, asked: dict[str, str]) -> dict[str, dict[str, str]]:
    """The report's facts of layers that an override names: what was asked for, and what they run at."""
    return {
        "precision_overrides": asked,
        "precision_effective": {plan.name: plan.precision for plan in program.layers if plan.name in asked},
    }


def _requantised_inputs(
    network: Path, inputs: Path | None, limit: int | None, graph: Any
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Inputs as the requantised graph takes them, labels, and the report's facts of the network as given."""
    from bitwright.sim import golden

    from .importers import load
    from .report import accuracy
    from .requantise import converted_input

    given = load(network)
    data, labels = load_inputs(inputs, limit, given)
    facts: dict[str, Any] = {"accuracy_as_given": None}
    if labels is not None:
        facts["accuracy_as_given"] = accuracy(golden.run(given, data)[given.output], labels)
    return converted_input(given, graph, data), labels, facts


def _simulate(
    name: str,
    graph: Any,
    program: Any,
    inputs: np.ndarray,
    labels: np.ndarray | None,
    stage: Path,
    say: Callable[[str], None],
    *,
    simulator: Simulator,
    latency: int,
    stall: int,
    facts: dict[str, Any],
    netlist_target: str | None = None,
) -> dict[str, Any]:
    from bitwright.sim.rtl import MemoryTiming

    from .execute import execute
    from .report import simulation_report

    count = len(inputs)
    verilog: str | Path = stage / "engine.v"
    if netlist_target is not None:
        from .netlist import cell_models, netlist
        from .verilog import TOP

        say(f"Yosys: synthesising for {netlist_target}")
        cells = netlist((stage / "engine.v").read_text(), TOP, netlist_target, progress=say)
        (stage / NETLIST).write_text(cells)
        verilog = cells + cell_models(cells, netlist_target)
        facts = facts | {"netlist": netlist_target}
    say(f"Compiling the simulation ({simulator.value}) and running {_inferences(count)}")
    execution = execute(
        program,
        graph,
        inputs,
        verilog,
        simulator=simulator.value,
        timing=MemoryTiming(latency=latency, stall=stall),
        # The last report comes when all are done.
        progress=lambda done, cycles: say(
            f"Simulating inference {done + 1} of {count}: cycle {cycles}"
            if done < count
            else f"Simulated {_inferences(count)}"
        ),
    )
    outputs = dict(execution.outputs)
    outputs["output"] = outputs[graph.output]
    np.savez_compressed(stage / "outputs.npz", allow_pickle=False, **outputs)
    report = simulation_report(program, graph, execution, config=name, labels=labels)
    report |= {"memory": {"latency": latency, "stall": stall}} | facts
    _write_report(stage, report)
    return report


def _synth(
    stage: Path, target: str, seeds: int, frequency: float | None, say: Callable[[str], None]
) -> dict[str, Any]:
    from .synthesis import synthesise
    from .verilog import TOP

    result = synthesise(
        stage / "engine.v", TOP, target, stage / "synth", seeds=seeds, frequency=frequency, progress=say
    ).as_json()
    _write_json(stage / "synth.json", result)
    return result


# Tables


def _wide(width: int) -> Console:
    """Where wide tables go: there is no width to keep to where nobody watches, and no figure is to be cut."""
    return _out if _out.is_terminal else Console(highlight=False, width=width)


def _layer_table(*headings: str, title: str = "Layers, one inference") -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("layer", *headings):
        table.add_column(heading, justify="left" if heading in ("layer", "precision") else "right")
    return table


_PLANNED = ("precision", "MACs", "cycles\npredicted")


def _planned(layer: dict[str, Any]) -> list[str]:
    return [layer["name"], layer["precision"], f"{layer['macs']:,}", f"{layer['predicted_cycles']:,}"]


def _show_plan(layers: list[dict[str, Any]]) -> None:
    table = _layer_table(*_PLANNED)
    for layer in layers:
        table.add_row(*map(escape, _planned(layer)))
    _wide(120).print(table)


def _causes(waits: dict[str, float]) -> str:
    return (
        ", ".join(f"{cause.removeprefix('wait_')} {cycles:,.0f}" for cause, cycles in waits.items() if cycles)
        or "none"
    )


def show_layers(layers: Sequence[dict[str, Any]]) -> None:
    """Print cycles and words of each layer, as :func:`~bitwright.gen.report.layer_facts` has them."""
    cycles = _layer_table(
        *_PLANNED, "cycles\ncounted", "prediction\noff by", "busy", "MAC\nutilisation", "stalls\ncounted"
    )
    words = _layer_table(
        *("words\nloaded", "words\nfetched", "words\nstored", "bytes\nmoved", "MACs\nper byte"),
        *("granules written\non chip", "load unit\nwaited for", "store unit\nwaited for"),
        title="Words of the memory port, counted, one inference",
    )
    for layer in layers:
        cycles.add_row(
            *map(escape, _planned(layer)),
            f"{layer['cycles']:,.0f}",
            f"{layer['prediction_error']:+.1%}",
            f"{layer['busy']:.1%}",
            f"{layer['utilisation']:.1%}",
            _causes(layer["stalls"]),
        )
        intensity = layer["macs_per_byte"]
        words.add_row(
            escape(layer["name"]),
            *(f"{layer[f'words_{verb}']:,.0f}" for verb in ("loaded", "fetched", "stored")),
            f"{layer['bytes_moved']:,.0f}",
            "" if intensity is None else f"{intensity:,.1f}",
            f"{layer['granules_written']:,.0f}",
            _causes(layer["load_stalls"]),
            _causes(layer["store_stalls"]),
        )
    for table in (cycles, words):
        _wide(180).print(table)


def _simulation_rows(report: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [("network", report["network"]), ("configuration", report["config"])]
    if report.get("netlist"):
        rows.append(("simulated", f"netlist for {report['netlist']}"))
    if report["accuracy"] is not None:
        rows.append(("accuracy on the RTL", f"{report['accuracy']:.2%} of {report['inferences']}"))
    if report.get("accuracy_as_given") is not None:
        rows.append(
            (
                "accuracy before requantisation, golden model",
                f"{report['accuracy_as_given']:.2%} of {report['inferences']}",
            )
        )
    rows += [
        ("tensors compared with the golden model", f"{report['tensors_compared']:,}"),
        ("mismatches", report["mismatches"]),
        (
            "cycles per inference",
            f"{report['cycles_per_inference']:,.0f} (predicted {report['predicted_cycles_per_inference']:,}, "
            f"{report['prediction_error']:+.1%})",
        ),
        ("array busy", f"{report['busy']:.1%} of the cycles"),
        ("MAC utilisation", f"{report['utilisation']:.1%} of {_peaks(report)}"),
    ]
    return rows


def _peaks(report: dict[str, Any]) -> str:
    """What the array can do in a cycle at the precisions of the layers."""
    peaks = {layer["precision"]: layer["peak_macs_per_cycle"] for layer in report["layers"]}
    return ", ".join(f"{peak:.4g} per cycle at {precision}" for precision, peak in peaks.items())


def _synthesis_rows(result: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [("target", result["target"])]
    available = result["available"]
    for key in ("lut", "ff", "dsp", "bram", "spram"):
        if available.get(key):
            share = f" of {available[key]:,}"
            rows.append((key.upper(), f"{result[key]:,}{share}" if result[key] is not None else "?"))
    if result["fmax_mhz"]:
        clocks = result["fmax_mhz"]
        text = f"{np.median(clocks):.1f} MHz"
        if len(clocks) > 1:
            text += f" (median of {len(clocks)}: {min(clocks):.1f} to {max(clocks):.1f})"
        rows.append(("Fmax", text))
        rows.append(
            ("timing", f"{'met' if result['timing_met'] else 'NOT met'} at {result['frequency_mhz']:g} MHz")
        )
    if not result["fits"]:
        rows.append(("fits", "NO"))
    return rows


def _finish(folder: Path, names: list[str]) -> None:
    _out.print(f"written to {folder}: {', '.join(names)}", markup=False)


# Commands


@app.command()
def generate(
    config: Config,
    output: Output = Path("build"),
    core: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Write a FuseSoC core of that name too, with a test bench."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the engine's Verilog, a JSON manifest of its ports and registers, and a driver in C."""
    from . import config as configs
    from .driver import FILES
    from .fusesoc import check_name

    if core is not None:
        check_name(core)
    engine = configs.load(config, overrides or ())
    with _results(output, engine, [CELLS, *CORE]) as stage, working(as_json) as say:
        description = _generate(engine, stage, say, core)
    if as_json:
        return _print_json(description)
    show_table(
        f"Engine {config}",
        [
            ("array", f"{engine.rows} x {engine.cols} units of {engine.lanes} lanes"),
            ("unit, target", f"{engine.pe}, {engine.target}"),
            ("precisions", ", ".join(engine.precisions)),
            (
                "MACs per cycle",
                ", ".join(
                    f"{engine.macs_per_cycle(precision):.4g} at {precision}" for precision in engine.formats
                ),
            ),
            ("convolutions", _features(engine)),
            ("memory port", f"{_BUS_NAMES[engine.bus]}, {engine.bus_bits} bits"),
        ],
    )
    names = [name for name in (CELLS, *CORE) if (output / name).exists()]
    _finish(output, ["engine.v", "engine.json", *FILES, *names])
    return None


_BUS_NAMES = {"axi": "AXI4", "wishbone": "Wishbone"}


def _features(engine: EngineConfig) -> str:
    """What an engine has beside its array; keys that ask for what it cannot have are not in force."""
    if not engine.convolution:
        return "none, matrix products only"
    names = {
        "depthwise": engine.chained,
        "packing": engine.packs,
        "forwarding": engine.forwards,
        **dict.fromkeys(engine.combined, True),
    }
    return ", ".join(name for name, there in names.items() if there) or "plain"


@app.command(name="compile")
def compile_(
    config: Config,
    network: Network,
    output: Output = Path("build"),
    precisions: Precisions = None,
    tensors: TensorsOption = Tensors.ALL,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write program and memory image of a network for an engine."""
    from . import config as configs

    engine = configs.load(config, overrides or ())
    with _results(output, engine) as stage, working(as_json) as say:
        graph, program, asked = _compile(engine, network, stage, say, precisions, tensors)
    layers = [
        {key: getattr(plan, key) for key in ("name", "precision", "macs", "predicted_cycles", "tiling")}
        for plan in program.layers
    ]
    summary = {
        "network": graph.name,
        "config": config,
        "layers": layers,
        "macs": program.macs,
        "instructions": len(program.instructions),
        "image_bytes": len(program.image),
        "memory_bytes": program.memory_bytes,
        "predicted_cycles": program.predicted_cycles,
    }
    if as_json:
        return _print_json(summary | (_overridden(program, asked) if asked else {}))
    _show_plan(layers)
    show_table(
        f"Program of {graph.name}",
        [
            (key.replace("_", " "), value)
            for key, value in summary.items()
            if key not in ("network", "layers")
        ],
    )
    _finish(output, ["program.npz"])
    return None


@app.command()
def simulate(
    config: Config,
    network: Network,
    output: Output = Path("build"),
    inputs: Inputs = None,
    limit: Limit = None,
    simulator: SimulatorOption = Simulator.VERILATOR,
    latency: Latency = 20,
    stall: Stall = 0,
    precisions: Precisions = None,
    tensors: TensorsOption = Tensors.ALL,
    netlist: NetlistOption = False,
    target: NetlistTarget = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run a network on the engine's Verilog and compare every tensor with the golden model.

    With --netlist, on the cells of a device that synthesis makes of it.
    """
    from . import config as configs
    from .synthesis import check_target

    engine = configs.load(config, overrides or ())
    if netlist != (target is not None):
        given, other = ("--netlist", "--target") if netlist else ("--target", "--netlist")
        raise BitwrightError(f"{given}: goes with {other}: a netlist is made for a device")
    if target is not None:
        check_target(target, engine)
    with _results(output, engine, [CELLS, NETLIST]) as stage, working(as_json) as say:
        graph, program, asked = _compile(engine, network, stage, say, precisions, tensors)
        facts: dict[str, Any] = {}
        if precisions:
            data, labels, facts = _requantised_inputs(network, inputs, limit, graph)
            facts = _overridden(program, asked) | facts
        else:
            data, labels = load_inputs(inputs, limit, graph)
        _generate(engine, stage, say)
        report = _simulate(
            configs.label(config),
            graph,
            program,
            data,
            labels,
            stage,
            say,
            simulator=simulator,
            latency=latency,
            stall=stall,
            facts=facts,
            netlist_target=target,
        )
    if as_json:
        _print_json(report)
    else:
        show_layers(report["layers"])
        show_table("Simulation", _simulation_rows(report))
        names = ["engine.v", "engine.json", "program.npz", "outputs.npz", "report.json", "report.html"]
        _finish(output, [*names, NETLIST] if netlist else names)
    if report["mismatches"]:
        raise typer.Exit(FAILED)


@app.command()
def synth(
    config: Config,
    target: TargetOption,
    output: Output = Path("build"),
    seeds: Seeds = 1,
    frequency: Frequency = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Synthesise, place and route the engine; report resources and clock."""
    from . import config as configs
    from .synthesis import check_target

    engine = configs.load(config, overrides or ())
    check_target(target, engine)
    with _results(output, engine, [CELLS]) as stage, working(as_json) as say:
        _generate(engine, stage, say)
        result = _synth(stage, target, seeds, frequency, say)
    if as_json:
        _print_json(result)
    else:
        show_table("Synthesis", _synthesis_rows(result))
        _finish(output, ["engine.v", "engine.json", "synth.json", "synth/"])
    if not result["fits"]:
        raise typer.Exit(FAILED)


@app.command()
def run(
    config: Config,
    network: Network,
    target: TargetOption,
    output: Output = Path("build"),
    inputs: Inputs = None,
    limit: Limit = None,
    simulator: SimulatorOption = Simulator.VERILATOR,
    latency: Latency = 20,
    stall: Stall = 0,
    seeds: Seeds = 1,
    frequency: Frequency = None,
    precisions: Precisions = None,
    tensors: TensorsOption = Tensors.ALL,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Do all of it, generate, compile, simulate and synthesise, and end with one report."""
    from . import config as configs
    from .report import throughput
    from .synthesis import check_target

    engine = configs.load(config, overrides or ())
    check_target(target, engine)
    with _results(output, engine, [CELLS]) as stage, working(as_json) as say:
        graph, program, asked = _compile(engine, network, stage, say, precisions, tensors)
        facts: dict[str, Any] = {}
        if precisions:
            data, labels, facts = _requantised_inputs(network, inputs, limit, graph)
            facts = _overridden(program, asked) | facts
        else:
            data, labels = load_inputs(inputs, limit, graph)
        _generate(engine, stage, say)
        report = _simulate(
            configs.label(config),
            graph,
            program,
            data,
            labels,
            stage,
            say,
            simulator=simulator,
            latency=latency,
            stall=stall,
            facts=facts,
        )
        result = _synth(stage, target, seeds, frequency, say)
        report |= {"target": target, "synthesis": result, "throughput": throughput(report, result)}
        _write_report(stage, report)
    if as_json:
        _print_json(report)
    else:
        show_layers(report["layers"])
        speed = report["throughput"]
        rows = _simulation_rows(report) + _synthesis_rows(result)
        if speed["gops"] is not None:
            rows += [
                ("inferences per second", f"{speed['inferences_per_second']:,.0f}"),
                ("GOPS", f"{speed['gops']:.2f} (peak {speed['peak_gops']:.2f})"),
                ("GOPS per LUT", f"{speed['gops_per_lut']:.6f}"),
            ]
        show_table("Report", rows)
        names = [
            "engine.v",
            "engine.json",
            "program.npz",
            "outputs.npz",
            "report.json",
            "report.html",
            "synth.json",
            "synth/",
        ]
        _finish(output, names)
    if report["mismatches"] or not result["fits"]:
        raise typer.Exit(FAILED)


@app.command()
def compare(
    network: Network,
    target: Annotated[
        str | None, typer.Option("--target", help="FPGA to synthesise for; may be left out with --no-synth.")
    ] = None,
    units: Annotated[str, typer.Option("--units", help="`all`, or names with commas between.")] = "all",
    inputs: Inputs = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Inferences to run.")] = 2,
    base: Annotated[
        str | None, typer.Option("--base", help="Configuration that all other keys come from.")
    ] = None,
    lanes: Annotated[
        list[str] | None,
        typer.Option("--lanes", metavar="[UNIT=]N", help="Width of that unit, or of all; may be repeated."),
    ] = None,
    cols: Annotated[int | None, typer.Option("--cols", help="Columns of every engine, 8 by default.")] = None,
    bit_products: Annotated[
        int | None,
        typer.Option(
            "--bit-products", min=1, help="Of a column and cycle, which lanes are chosen for; 64 by default."
        ),
    ] = None,
    simulator: SimulatorOption = Simulator.VERILATOR,
    latency: Latency = 20,
    precisions: Precisions = None,
    seeds: Seeds = 1,
    synthesise: Annotated[bool, typer.Option("--synth/--no-synth", help="Synthesise each engine.")] = True,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Units under way at a time.")] = 2,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all of it there.")
    ] = None,
    plot_file: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw inferences per second against LUTs (.svg, .png)."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Run one network on every dot-product unit, synthesise each engine, and print one table."""
    from . import compare as comparing
    from .pe_bench import check_plot
    from .synthesis import check_target

    names = comparing.parse_units(units)
    if target is not None:
        check_target(target)
    elif synthesise:
        raise BitwrightError("--target must be given to synthesise; --no-synth does without")
    engine, explicit = comparing.base_config(base, overrides or (), cols)
    widths = comparing.parse_lanes(lanes or (), names)
    comparing.check_file("--json", json_file)
    comparing.check_file("--plot", plot_file)
    if plot_file:
        if not synthesise:
            raise BitwrightError("--plot draws what was synthesised; leave out --no-synth")
        check_plot(plot_file)
    graph, asked = _load_network(network, precisions)
    facts: dict[str, Any] = {}
    if asked:
        data, labels, facts = _requantised_inputs(network, inputs, count, graph)
        facts["precision_overrides"] = {name: str(precision) for name, precision in asked.items()}
    else:
        data, labels = load_inputs(inputs, count, graph)
    comparing.check_lanes(graph, lanes or (), widths, engine, target=target, explicit=explicit)
    with working(False) as say:
        found = comparing.compare(
            graph,
            data,
            labels=labels,
            units=names,
            base=engine,
            target=target,
            explicit=explicit,
            lanes=widths,
            bit_products=bit_products or comparing.BIT_PRODUCTS,
            simulator=simulator.value,
            latency=latency,
            seeds=seeds,
            synth=synthesise,
            jobs=jobs,
            progress=say,
        )
    if json_file:
        _write_json(json_file, found.as_json() | facts)
    if plot_file:
        comparing.draw(plot_file, found)
    _show_comparison(found)
    if not found.good:
        raise typer.Exit(FAILED)


def _show_comparison(found: Any) -> None:
    from .compare import excess

    table = Table(title=f"{found.network} on {found.target or 'the simulator'}", title_justify="left")
    placed = any(result.synthesis for result in found.results)
    for heading in ("unit", "precisions"):
        table.add_column(heading)
    headings = ["lanes", "bit\nproducts", "cycles\ncounted", "tensors\nequal"]
    if placed:
        headings += ["LUT", "FF", "DSP", "BRAM", "Fmax\nMHz", "inferences\nper second", "per second\nand LUT"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    notes = []
    for result in found.results:
        cells = [
            result.title,
            " ".join(result.config.precisions),
            str(result.config.lanes),
            f"{result.bit_products:.3g}",
            f"{result.cycles:,.0f}",
            f"{result.tensors_equal} of {result.tensors_compared}",
        ]
        if result.synthesis:
            cells += [f"{result.synthesis[key]:,}" for key in ("lut", "ff", "dsp", "bram")]
            if not result.synthesis["fits"]:
                notes.append((result.unit, excess(result.synthesis)))
        if result.inferences_per_second and result.inferences_per_second_per_lut:
            cells += [
                f"{result.fmax_mhz:.1f}",
                f"{result.inferences_per_second:,.0f}",
                f"{result.inferences_per_second_per_lut:.2f}",
            ]
        table.add_row(*cells)
    _wide(180).print(table)
    notes += [
        (refusal.unit, f"{'failed: ' if refusal.failed else 'cannot run it: '}{refusal.reason}")
        for refusal in found.refusals
    ]
    for unit, text in notes:
        _out.print(f"{unit}: {text}", markup=False, soft_wrap=True)


@app.command()
def suggest(
    network: Network,
    target: TargetOption,
    rate: Annotated[
        float | None, typer.Option(help="Inferences per second that are enough; as many as fit otherwise.")
    ] = None,
    luts: Annotated[
        int | None, typer.Option(help="LUTs that may be used; all of the device otherwise.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the configuration there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Propose a configuration for a network on a device: unit, columns and lanes."""
    from . import suggest as suggesting
    from .compare import check_file
    from .importers import load

    check_file("--output", output)
    graph = load(network)
    with working(as_json) as say:
        found = suggesting.suggest(graph, target, rate=rate, luts=luts, progress=say)
    if found.proposals and output:
        output.write_text(found.toml)
    if as_json:
        _print_json(found.as_json())
    elif found.obstacle is None:
        _show_suggestion(found)
        if output:
            _out.print(f"written to {output}", markup=False)
    if found.obstacle is not None:
        _err.print(found.obstacle, markup=False, soft_wrap=True)
        if not as_json:
            _show_refusals(found, _err)
        raise typer.Exit(FAILED)


def _show_suggestion(found: Any) -> None:
    _out.print(found.toml, markup=False, soft_wrap=True)
    table = Table(title="Estimated: the best of each unit", title_justify="left")
    table.add_column("unit")
    for heading in (
        *("columns", "lanes", "requantisers", "cycles\npredicted", "LUT", "DSP", "BRAM", "clock\nMHz"),
        "inferences\nper second",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for proposal in found.proposals:
        config, needs = proposal.config, proposal.estimate
        table.add_row(
            config.pe,
            *map(str, (config.cols, config.lanes, config.requantisers)),
            f"{proposal.cycles:,}",
            f"{needs.lut:,}",
            *map(str, (needs.dsp, needs.bram)),
            f"{needs.fmax_mhz:.0f}",
            f"{proposal.inferences_per_second:,.0f}",
        )
    _wide(120).print(table)
    _show_refusals(found, _out)


def _show_refusals(found: Any, console: Console) -> None:
    """Why units are left out."""
    for unit, reason in found.refusals.items():
        console.print(f"{unit}: {reason}", markup=False, soft_wrap=True)


@app.command(name="config")
def config_(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="Show this one.")] = None,
    show_schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema.")] = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print it as a file to start from.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """List the shipped configurations, show one with all its values, or print the JSON schema."""
    from dataclasses import asdict

    from . import config as configs

    if show_schema:
        return _print_json(configs.schema())
    if config is not None:
        engine = configs.load(config, overrides or ())
        if as_toml:
            print(configs.toml(engine), end="")
            return None
        values = asdict(engine)
        if as_json:
            return _print_json(values)
        texts = {key: ", ".join(map(str, x)) if isinstance(x, tuple) else x for key, x in values.items()}
        show_table(f"Configuration {config}", list(texts.items()))
        return None
    engines = {name: configs.load(name) for name in configs.shipped()}
    if as_json:
        return _print_json({name: asdict(engine) for name, engine in engines.items()})
    show_table(
        "Shipped configurations: rows x cols x lanes, precisions",
        [
            (name, f"{engine.rows} x {engine.cols} x {engine.lanes}, {', '.join(engine.precisions)}")
            for name, engine in engines.items()
        ],
    )
    return None


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        from bitwright import __version__

        print(f"bitwright {__version__}")
        raise typer.Exit


def _fail(message: str) -> NoReturn:
    _err.print(f"error: {message}", markup=False, soft_wrap=True)
    sys.exit(USER_ERROR)


def guarded(command: Callable[[], None]) -> None:
    """Run a command line; user errors are one message on standard error and exit status 2."""
    try:
        command()
    except BitwrightError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _err.print("interrupted")
        sys.exit(130)


def main() -> None:
    """Entry point of ``bitwright``."""
    guarded(app)
