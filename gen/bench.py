"""Benchmarks: figures that the RTL counted, from one command each."""

import json
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bitwright.hw.errors import BitwrightError

from . import config as configs
from .cli import FAILED, Latency, Overrides, Seeds, Simulator, SimulatorOption, guarded, show_table, working

if TYPE_CHECKING:
    from .pe_bench import Record

__all__ = ["app", "main"]

app = typer.Typer(
    name="bench", help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

_console = Console(highlight=False)
if not _console.is_terminal:
    _console.width = 180  # there is no width to keep to, and no figure is to be cut

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


def main() -> None:
    """Entry point; see :func:`bitwright.gen.cli.main`."""
    guarded(app)


if __name__ == "__main__":
    main()
