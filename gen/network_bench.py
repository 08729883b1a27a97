"""Whole networks on the RTL: cycles predicted and counted, layer by layer, and how busy the array is."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bitwright.hw.config import EngineConfig

__all__ = ["NetworkRun", "run_network"]


@dataclass(frozen=True, kw_only=True)
class NetworkRun:
    """A network on an engine.

    Parameters
    ----------
    network, inferences
        Which, and how many inputs were run.
    macs
        Of one inference.
    peak_macs_per_cycle
        Of the engine.
    cycles, predicted_cycles
        Of one inference.
    tensors, mismatches
        Tensors compared with the golden model, over all inferences; elements that differ.
    seconds
        Wall time of the simulation, with its build.
    engine, layers
        As of ``report.json``: :func:`~bitwright.gen.report.engine_facts`, and
        :func:`~bitwright.gen.report.layer_facts` in execution order, averaged over the inferences.
    """

    network: str
    inferences: int
    macs: int
    peak_macs_per_cycle: float
    cycles: float
    predicted_cycles: int
    tensors: int
    mismatches: int
    seconds: float
    engine: dict[str, Any]
    layers: tuple[dict[str, Any], ...]

    @property
    def utilisation(self) -> float:
        """MACs of the network over the peak MACs of the cycles used."""
        return self.macs / (self.cycles * self.peak_macs_per_cycle)

    def as_json(self) -> dict[str, Any]:
        """The fields, and the utilisation."""
        return asdict(self) | {"utilisation": self.utilisation}


def run_network(
    path: Path,
    config: EngineConfig,
    *,
    count: int = 1,
    latency: int = 20,
    simulator: str = "verilator",
    tensors: Literal["all", "needed"] = "all",
    fuse_sums: bool = True,
    progress: Callable[[str], None] | None = None,
) -> NetworkRun:
    """Run random inputs through a network on the emitted Verilog.

    Parameters
    ----------
    path
        The network's file.
    config
        The engine.
    count, latency, simulator
        Inputs; cycles of the memory to the first word of a read, after which comes one per cycle; which.
    tensors, fuse_sums
        Which are left in memory, see :func:`~bitwright.gen.mapper.compile_graph`.
    progress
        Called with what is being done.

    Raises
    ------
    BitwrightError
        The network cannot be read, or the engine cannot run it.
    """
    from bitwright.sim.rtl import MemoryTiming

    from .execute import execute
    from .importers import load
    from .mapper import compile_graph
    from .report import engine_facts, layer_facts
    from .synthetic import random_input
    from .verilog import emit

    say = progress or (lambda text: None)
    say(f"{path.name}: mapping")
    graph = load(path)
    program = compile_graph(graph, config, tensors=tensors, fuse_sums=fuse_sums)
    say(f"{path.name}: elaborating")
    verilog = emit(config)
    say(f"{path.name}: compiling the simulation")
    begin = time.monotonic()
    done = execute(
        program,
        graph,
        random_input(graph, count=count),
        verilog,
        simulator=simulator,
        timing=MemoryTiming(latency=latency),
        progress=lambda number, cycles: say(
            f"{path.name}: inference {number + 1} of {count}, cycle {cycles}"
        ),
    )
    return NetworkRun(
        network=path.name,
        inferences=count,
        macs=program.macs,
        peak_macs_per_cycle=config.peak_macs_per_cycle,
        cycles=done.counters["cycles"] / count,
        predicted_cycles=program.predicted_cycles,
        tensors=done.tensors_compared,
        mismatches=sum(done.mismatches.values()),
        seconds=time.monotonic() - begin,
        engine=engine_facts(config),
        layers=tuple(
            layer_facts(program, plan, counted.counters)
            for plan, counted in zip(program.layers, done.layers, strict=True)
        ),
    )
