"""The command line of boards: what :mod:`bitwright.gen.cli` has, and `build`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bitwright.gen.cli import FAILED, app, guarded, show_table, working
from bitwright.gen.output import of_another_engine, staged
from bitwright.hw.errors import BitwrightError

# Everything that takes long to import is imported by the command that needs it.

__all__ = ["app", "main"]


@app.command()
def build(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="TOML file, or a shipped configuration's name.")
    ],
    board: Annotated[str, typer.Option("--board", help="Board to build for; docs/boards.md has them.")],
    network: Annotated[
        Path | None, typer.Argument(metavar="[NETWORK]", help="Network to compile for it: .onnx or .tflite.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")] = Path("build"),
    seed: Annotated[int, typer.Option(min=1, help="Placement to try; each gives another clock.")] = 1,
    clock: Annotated[float | None, typer.Option(help="The engine's clock in MHz.")] = None,
    baud: Annotated[int | None, typer.Option(min=1, help="Speed of the serial line.")] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Bytes of main memory, a multiple of 4096, or `external`: Verilog with an AXI4 port only."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration key; may be repeated."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON instead of a table.")
    ] = False,
) -> None:
    """Build a bitstream of the engine with memory and host link for a board, and compile a network for it."""
    from bitwright.gen import config as configs
    from bitwright.gen.importers import load
    from bitwright.gen.verilog import made_with

    from . import build as building
    from .board import check_board

    place = check_board(board)
    engine = configs.load(config, overrides or ())
    size = _memory(memory)
    # What cannot be had is refused before anything long is begun.
    building.plan(place, engine, clock_mhz=clock, baud=baud, memory=size)
    files = ["build.json", "top.v", "top.pcf", "top.lpf", "logs", "program.npz"]
    files += [f"{place.name}.{ending}" for ending in ("bin", "bit")]
    old = of_another_engine(output, engine)
    with staged(output, optional=[*files, *old]) as stage, working(as_json) as say:
        program = None
        if network is not None:
            graph = load(network)
            program = building.compile_for(place, engine, graph, memory=size, progress=say)
        plan = building.plan(place, engine, clock_mhz=clock, baud=baud, memory=size, program=program)
        if program is not None:
            program.save(stage / "program.npz")
        facts: dict[str, Any]
        command = None
        good = True
        if plan.memory == "external":
            building.write_verilog(plan, stage, progress=say)
            facts = building.facts(plan)
        else:
            built = building.build(plan, stage, seed=seed, progress=say)
            # To be run in the folder: what is written says nothing of where that is.
            facts = built.as_json() | {"command": built.command(Path())}
            command, good = built.command(output), built.good
        facts["configuration"] = configs.label(config)
        facts["versions"] = made_with()
        if program is not None:
            facts["network"] = program.network
            facts["program_bytes"] = program.memory_bytes
        (stage / "build.json").write_text(json.dumps(facts, indent=2) + "\n")
        made = sorted(item.name for item in stage.iterdir())
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        show_table(f"{place.title}, {place.device}", _rows(facts))
        print(f"written to {output}: {', '.join(made)}")
        if command:
            print(f"to program it: {command}")
    if not good:
        raise typer.Exit(FAILED)


def _memory(text: str | None) -> int | str | None:
    from .build import EXTERNAL

    if text is None or text == EXTERNAL:
        return text
    try:
        return int(text, 0)
    except ValueError:
        raise BitwrightError(f"--memory {text}: must be a number of bytes, or {EXTERNAL}") from None


def _rows(facts: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [
        ("clock", f"{facts['clock_mhz']:g} MHz"),
        ("serial line", f"{facts['baud']:,} baud"),
        ("main memory", f"{facts['memory_bytes']:,} bytes, {facts['memory']}"),
    ]
    if "program_bytes" in facts:
        rows.append(("program and data", f"{facts['program_bytes']:,} bytes"))
    if (result := facts.get("synthesis")) is None:
        return rows
    for key in ("lut", "ff", "dsp", "bram", "spram"):
        if available := result["available"][key]:
            rows.append((key.upper(), f"{result[key]:,} of {available:,} ({result[key] / available:.0%})"))
    for key, count in result["excess"].items():
        rows.append(("does not fit", f"{count:,} {key.upper()} too many"))
    if result["obstacle"]:
        rows.append(("does not fit", result["obstacle"]))
    for fmax in result["fmax_mhz"]:
        rows.append(("Fmax", f"{fmax:.1f} MHz: timing {'met' if result['timing_met'] else 'NOT met'}"))
    return rows


def main() -> None:
    """Entry point of ``bitwright``."""
    guarded(app)
