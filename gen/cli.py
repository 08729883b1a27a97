"""The command line."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn
from zipfile import BadZipFile

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError

# Everything that takes long to import is imported by the command that needs it.

__all__ = ["app", "guarded", "main"]

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

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


class Simulator(StrEnum):
    """Simulators that run the Verilog."""

    VERILATOR = "verilator"
    ICARUS = "icarus"


Config = Annotated[
    str, typer.Argument(metavar="CONFIG", help="TOML file, or a shipped configuration's name.")
]
Network = Annotated[
    Path, typer.Argument(metavar="NETWORK", help="Quantised network: .onnx (QDQ) or .tflite.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration key; may be repeated."),
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
Seeds = Annotated[int, typer.Option(min=1, max=100, help="Placements to try.")]
Frequency = Annotated[float | None, typer.Option(help="Clock to aim for, in MHz; each target has its own.")]


@contextmanager
def working(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show on standard error what is being done, where that is a terminal; otherwise a line for each step."""
    if quiet:
        yield lambda text: None
    elif not _err.is_terminal:
        last = 0.0

        def line(text: str) -> None:
            # A count that goes up is worth a line now and then only.
            nonlocal last
            if not any(digit.isdigit() for digit in text) or time.monotonic() > last + 10:
                last = time.monotonic()
                _err.print(text, markup=False)

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


def show_table(title: str, rows: list[tuple[str, Any]]) -> None:
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, str(value))
    _out.print(table)


def _load_inputs(path: Path | None, limit: int | None, graph: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Inputs, checked and stacked, and labels."""
    from bitwright.sim import golden

    labels = None
    if path is None:
        from .synthetic import random_input

        array = random_input(graph, count=limit or 1)
    else:
        try:
            loaded = np.load(path, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                with loaded as file:
                    if "input" not in file:
                        raise BitwrightError(
                            f"{path}: has no array 'input', but {', '.join(file.files) or 'none'}"
                        )
                    array = file["input"]
                    labels = file.get("label")
            else:
                array = loaded
        except FileNotFoundError:
            raise BitwrightError(f"{path}: there is no such file") from None
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise BitwrightError(f"{path}: is not a .npy or .npz file of numbers ({error})") from None
    inputs = golden.prepare_input(graph, array)
    if labels is not None and labels.size != len(inputs):
        raise BitwrightError(f"{path}: {labels.size} labels for {len(inputs)} inputs")
    if limit:
        inputs = inputs[:limit]
        labels = None if labels is None else labels.reshape(-1)[:limit]
    return inputs, labels


# What the commands are made of: each writes its files into `stage` and returns its result


def _generate(config: EngineConfig, stage: Path, say: Callable[[str], None]) -> dict[str, Any]:
    from bitwright.sim.rtl import primitive_models

    from .manifest import manifest
    from .verilog import elaborate

    say("Elaborating the engine")
    design = elaborate(config, progress=say)
    (stage / "engine.v").write_text(design.verilog)
    if models := primitive_models(design.verilog):
        (stage / CELLS).write_text("\n".join(models.values()))
    description = manifest(config, design)
    _write_json(stage / "engine.json", description)
    return description


def _compile(config: EngineConfig, network: Path, stage: Path, say: Callable[[str], None]) -> tuple[Any, Any]:
    from .importers import load
    from .mapper import compile_graph

    say(f"Importing {network.name}")
    graph = load(network)
    program = compile_graph(graph, config, progress=lambda name: say(f"Mapping {name}"))
    program.save(stage / "program.npz")
    return graph, program


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
) -> dict[str, Any]:
    from bitwright.sim.rtl import MemoryTiming

    from .execute import execute
    from .report import simulation_report

    say(f"Compiling the simulation ({simulator.value}) and running {len(inputs)} inferences")
    execution = execute(
        program,
        graph,
        inputs,
        stage / "engine.v",
        simulator=simulator.value,
        timing=MemoryTiming(latency=latency, stall=stall),
        progress=lambda done, cycles: say(
            f"Simulating inference {done + 1} of {len(inputs)}: cycle {cycles}"
        ),
    )
    outputs = dict(execution.outputs)
    outputs["output"] = outputs[graph.output]
    np.savez_compressed(stage / "outputs.npz", allow_pickle=False, **outputs)
    report = simulation_report(program, graph, execution, config=name, labels=labels)
    _write_json(stage / "report.json", report)
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


def _show_layers(report: dict[str, Any]) -> None:
    table = Table(title="Layers, one inference", title_justify="left")
    for heading in ("layer", "MACs", "cycles\npredicted", "cycles\ncounted", "busy", "stalls\ncounted"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for layer in report["layers"]:
        stalls = ", ".join(
            f"{cause.removeprefix('wait_')} {value:.0f}" for cause, value in layer["stalls"].items() if value
        )
        table.add_row(
            layer["name"],
            f"{layer['macs']:,}",
            f"{layer['predicted_cycles']:,}",
            f"{layer['cycles']:,.0f}",
            f"{layer['utilisation']:.1%}",
            stalls or "none",
        )
    _out.print(table)


def _simulation_rows(report: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [("network", report["network"]), ("configuration", report["config"])]
    if report["accuracy"] is not None:
        rows.append(("accuracy on the RTL", f"{report['accuracy']:.2%} of {report['inferences']}"))
    rows += [
        ("tensors compared with the golden model", f"{report['tensors_compared']:,}"),
        ("mismatches", report["mismatches"]),
        ("cycles per inference", f"{report['cycles_per_inference']:,.0f}"),
        ("MAC utilisation", f"{report['utilisation']:.1%} of {report['peak_macs_per_cycle']} per cycle"),
    ]
    return rows


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
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the engine's Verilog and a JSON manifest of its ports and registers."""
    from . import config as configs
    from .output import staged

    engine = configs.load(config, overrides or ())
    with staged(output, optional=[CELLS]) as stage, working(as_json) as say:
        description = _generate(engine, stage, say)
    if as_json:
        return _print_json(description)
    show_table(
        f"Engine {config}",
        [
            ("array", f"{engine.rows} x {engine.cols} units of {engine.lanes} lanes"),
            ("operands", f"{engine.activation} x {engine.weight}"),
            ("MACs per cycle", engine.peak_macs_per_cycle),
            ("memory port", f"{engine.bus_bits} bits"),
        ],
    )
    _finish(output, ["engine.v", "engine.json", *([CELLS] if (output / CELLS).exists() else [])])
    return None


@app.command(name="compile")
def compile_(
    config: Config,
    network: Network,
    output: Output = Path("build"),
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write program and memory image of a network for an engine."""
    from . import config as configs
    from .output import staged

    engine = configs.load(config, overrides or ())
    with staged(output) as stage, working(as_json) as say:
        graph, program = _compile(engine, network, stage, say)
    summary = {
        "network": graph.name,
        "config": config,
        "layers": len(program.layers),
        "macs": program.macs,
        "instructions": len(program.instructions),
        "image_bytes": len(program.image),
        "memory_bytes": program.memory_bytes,
        "predicted_cycles": program.predicted_cycles,
    }
    if as_json:
        return _print_json(summary)
    show_table(
        f"Program of {graph.name}", [(key.replace("_", " "), value) for key, value in summary.items()][1:]
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
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run a network on the engine's Verilog and compare every tensor with the golden model."""
    from . import config as configs
    from .output import staged

    engine = configs.load(config, overrides or ())
    with staged(output, optional=[CELLS]) as stage, working(as_json) as say:
        graph, program = _compile(engine, network, stage, say)
        data, labels = _load_inputs(inputs, limit, graph)
        _generate(engine, stage, say)
        report = _simulate(
            config,
            graph,
            program,
            data,
            labels,
            stage,
            say,
            simulator=simulator,
            latency=latency,
            stall=stall,
        )
    if as_json:
        _print_json(report)
    else:
        _show_layers(report)
        show_table("Simulation", _simulation_rows(report))
        _finish(output, ["engine.v", "engine.json", "program.npz", "outputs.npz", "report.json"])
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
    from .output import staged
    from .synthesis import check_target

    engine = configs.load(config, overrides or ())
    check_target(target, engine)
    with staged(output, optional=[CELLS]) as stage, working(as_json) as say:
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
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Do all of it, generate, compile, simulate and synthesise, and end with one report."""
    from . import config as configs
    from .output import staged
    from .report import throughput
    from .synthesis import check_target

    engine = configs.load(config, overrides or ())
    check_target(target, engine)
    with staged(output, optional=[CELLS]) as stage, working(as_json) as say:
        graph, program = _compile(engine, network, stage, say)
        data, labels = _load_inputs(inputs, limit, graph)
        _generate(engine, stage, say)
        report = _simulate(
            config,
            graph,
            program,
            data,
            labels,
            stage,
            say,
            simulator=simulator,
            latency=latency,
            stall=stall,
        )
        result = _synth(stage, target, seeds, frequency, say)
        report |= {"target": target, "synthesis": result, "throughput": throughput(report, result)}
        _write_json(stage / "report.json", report)
    if as_json:
        _print_json(report)
    else:
        _show_layers(report)
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
            "synth.json",
            "synth/",
        ]
        _finish(output, names)
    if report["mismatches"] or not result["fits"]:
        raise typer.Exit(FAILED)


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
        show_table(f"Configuration {config}", list(values.items()))
        return None
    engines = {name: configs.load(name) for name in configs.shipped()}
    if as_json:
        return _print_json({name: asdict(engine) for name, engine in engines.items()})
    show_table(
        "Shipped configurations: rows x cols x lanes, activations x weights",
        [
            (name, f"{engine.rows} x {engine.cols} x {engine.lanes}, {engine.activation} x {engine.weight}")
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
