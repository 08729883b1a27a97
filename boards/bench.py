"""Benchmarks of boards, in simulation: `scripts/bench link` and `scripts/bench board`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from bitwright.gen import config as configs
from bitwright.gen.cli import FAILED, Overrides, guarded, show_table, working

__all__ = ["app", "main", "measure_board", "measure_link"]

app = typer.Typer(name="bench", add_completion=False, pretty_exceptions_enable=False)


def measure_link(
    config: str,
    network: Path,
    images: NDArray[Any],
    *,
    rate: float,
    seed: int,
    divisor: int,
    overrides: list[str],
) -> dict[str, Any]:
    """Run a network on a simulated board over a line with faults, and compare with the golden model.

    Parameters
    ----------
    config, overrides
        The engine's configuration.
    network
        Network file.
    images
        Inputs.
    rate
        Probability that a byte is dropped, that it is flipped, and that one is inserted, in each direction.
    seed
        Of the faults.
    divisor
        Clock cycles of a bit.
    """
    from bitwright.gen.importers import load
    from bitwright.gen.mapper import compile_graph
    from bitwright.sim import golden

    from .faults import FaultyTransport
    from .host import Accelerator
    from .link import open_port
    from .simulation import REFERENCE_TOP, SimulatedBoard, reference_sources

    engine = configs.load(config, overrides)
    graph = load(network)
    program = compile_graph(graph, engine)
    expected = golden.run(graph, images)[graph.output]
    memory_bytes = 1 << max(12, (program.memory_bytes - 1).bit_length())
    sources = reference_sources(engine, divisor=divisor, memory_bytes=memory_bytes)
    with SimulatedBoard(sources, REFERENCE_TOP, bit_cycles=divisor) as board:
        # The image goes over a good line: what is measured are inferences.
        with Accelerator.open(board.port, program=program, link_timeout=3.0):
            pass
        line = FaultyTransport(open_port(board.port, baud=115200), rate=rate, seed=seed)
        started = time.monotonic()
        patience = 0.02 if rate else 3.0
        with Accelerator.open(line, program=program, link_timeout=patience, load=False) as accelerator:
            results = accelerator.run(images)
            statistics = accelerator.link.statistics
        seconds = time.monotonic() - started
        with Accelerator.open(board.port, program=program, link_timeout=3.0) as accelerator:
            recovered = np.array_equal(accelerator.run(images[0]), expected[0])
    return {
        "inferences": len(images),
        "wrong": _wrong(results, expected),
        "recovered": recovered,
        "seconds": seconds,
        "cycles": board.cycles,
        "faults": dict(sorted(line.injected.items())),
        **vars(statistics),
    }


def _wrong(results: NDArray[Any], expected: NDArray[Any]) -> int:
    """How many of the results have an element that differs."""
    return int((results != expected).any(axis=tuple(range(1, expected.ndim))).sum())


def measure_board(
    config: str,
    board: str,
    network: Path,
    images: NDArray[Any],
    *,
    netlist: bool,
    divisor: int,
    overrides: list[str],
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run a network on a simulated board, the top over its serial line, and compare with the golden model.

    Parameters
    ----------
    config, overrides
        The engine's configuration.
    board
        The board: its memory, and its device for the netlist. The simulated top has no PLL.
    network
        Network file.
    images
        Inputs.
    netlist
        Simulate what Yosys makes of the top, with models of the device's cells, instead of the Verilog.
    divisor
        Clock cycles of a bit.
    progress
        Told what is being done.
    """
    from bitwright.gen.importers import load
    from bitwright.gen.netlist import cell_models
    from bitwright.gen.netlist import netlist as synthesised
    from bitwright.gen.verilog import convert
    from bitwright.sim import golden

    from . import build as building
    from .board import check_board
    from .host import Accelerator
    from .simulation import SimulatedBoard

    say = progress or (lambda text: None)
    place = check_board(board)
    engine = configs.load(config, overrides)
    graph = load(network)
    program = building.compile_for(place, engine, graph, progress=say)
    plan = building.plan(place, engine, program=program)
    top = building.portable(engine, memory=plan.memory, memory_bytes=plan.memory_bytes, divisor=divisor)
    sources = {"top.v": convert(top, name=building.TOP)}
    if netlist:
        say(f"Synthesising for {place.target}")
        cells = synthesised(sources["top.v"], building.TOP, place.target, progress=say)
        sources = {"top.v": cells, "cells.v": cell_models(cells, place.target)}
    say("Compiling the simulation")
    started = time.monotonic()
    with (
        SimulatedBoard(sources, building.TOP, bit_cycles=divisor) as simulation,
        Accelerator.open(simulation.port, program=program, link_timeout=30, timeout=600) as accelerator,
    ):
        say(f"Running {len(images)} inferences")
        results = accelerator.run(images)
        cycles = accelerator.counters()["cycles"]
    return {
        "inferences": len(images),
        "wrong": _wrong(results, golden.run(graph, images)[graph.output]),
        "cycles_of_an_inference": cycles,
        "cycles_of_all_with_the_line": simulation.cycles,
        "seconds": time.monotonic() - started,
    }


Network = Annotated[Path, typer.Argument(help="Network file.")]
Inputs = Annotated[Path, typer.Option("--input", help=".npz with `input`.")]
_NETWORK = Path("examples/digits_mlp/digits_mlp.onnx")
_INPUTS = Path("examples/digits_mlp/test.npz")


@app.command()
def board(
    network: Network = _NETWORK,
    inputs: Inputs = _INPUTS,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many of the inputs.")] = None,
    config: Annotated[
        str, typer.Option("--config", help="TOML file or shipped configuration.")
    ] = "icebreaker",
    name: Annotated[str, typer.Option("--board", help="Board, as of `bitwright build`.")] = "icebreaker",
    netlist: Annotated[
        bool, typer.Option("--netlist", help="Simulate the netlist that Yosys makes, not the Verilog.")
    ] = False,
    divisor: Annotated[int, typer.Option(min=6, help="Clock cycles of a bit.")] = 6,
    overrides: Overrides = None,
) -> None:
    """A network on the top of a board in a simulation, over its serial line.

    Fails where a result is not the golden model's.
    """
    images = np.load(inputs)["input"][:limit]
    with working(False) as say:
        result = measure_board(
            config,
            name,
            network,
            images,
            netlist=netlist,
            divisor=divisor,
            overrides=overrides or [],
            progress=say,
        )
    show_table(
        f"{name}, {'netlist' if netlist else 'Verilog'}",
        [(key.replace("_", " "), value) for key, value in result.items()],
    )
    if result["wrong"]:
        raise typer.Exit(FAILED)


@app.command()
def link(
    network: Network = _NETWORK,
    inputs: Inputs = _INPUTS,
    limit: Annotated[int, typer.Option(min=1, help="Use only so many of the inputs.")] = 100,
    config: Annotated[str, typer.Option("--config", help="TOML file or shipped configuration.")] = "tiny",
    rate: Annotated[float, typer.Option(min=0.0, max=0.1, help="Probability of each kind of fault.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Of the faults.")] = 1,
    divisor: Annotated[int, typer.Option(min=6, help="Clock cycles of a bit.")] = 6,
    overrides: Overrides = None,
) -> None:
    """A network on a simulated board, over a serial line that drops, flips and inserts bytes.

    Fails where a result is wrong, or the link does not work when the line is good again.
    """
    images = np.load(inputs)["input"][:limit]
    with working(False) as say:
        say(f"Simulating {len(images)} inferences over a line with faults of {rate:.2%}")
        result = measure_link(
            config, network, images, rate=rate, seed=seed, divisor=divisor, overrides=overrides or []
        )
    faults = result.pop("faults")
    rows = [(f"bytes {name}", count) for name, count in faults.items()]
    show_table("Host link", [(key.replace("_", " "), value) for key, value in result.items()] + rows)
    if result["wrong"] or not result["recovered"]:
        raise typer.Exit(FAILED)


@app.callback()
def _app() -> None:
    """Benchmarks of boards, in simulation."""


def main() -> None:
    """Entry point; see :func:`bitwright.gen.cli.main`."""
    guarded(lambda: app(prog_name="scripts/bench"))


if __name__ == "__main__":
    main()
