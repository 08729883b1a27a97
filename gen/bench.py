"""Benchmarks: figures that the RTL counted, from one command each."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from bitwright.hw.errors import BitwrightError

from . import config as configs
from .cli import Latency, Overrides, Simulator, SimulatorOption, guarded, show_table, working

__all__ = ["app", "main"]

app = typer.Typer(
    name="bench", help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result there too.")]
ConfigOption = Annotated[str, typer.Option("--config", help="TOML file or shipped configuration.")]


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
        graph = random_mlp(sizes, rows=rows, activation=engine.activation, weight=engine.weight)
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


def _show(title: str, result: dict[str, Any], path: Path | None) -> None:
    flat = {key: value for key, value in result.items() if not isinstance(value, dict)}
    rows = [
        (key.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else value)
        for key, value in flat.items()
    ]
    show_table(title, rows + [(key.replace("_", " "), value) for key, value in result["stalls"].items()])
    if path:
        path.write_text(json.dumps(result, indent=2) + "\n")
    if result["mismatches"]:
        raise typer.Exit(1)


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
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", size):
        raise BitwrightError(f"--size {size}: must be rows x terms x columns, as 256x256x256")
    rows, terms, columns = map(int, size.split("x"))
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
    layers = list(map(int, sizes.split("-")))
    _show("Multilayer perceptron", _measure(config, layers, 1, overrides, simulator, latency), json_file)


def main() -> None:
    """Entry point; see :func:`bitwright.gen.cli.main`."""
    guarded(app)


if __name__ == "__main__":
    main()
