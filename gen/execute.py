"""Runs a compiled network on the emitted Verilog and compares every tensor with the golden model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitwright.hw.errors import BitwrightError
from bitwright.hw.sched.registers import COUNTER_BASE, COUNTERS, Fault
from bitwright.sim import golden
from bitwright.sim.graph import Graph
from bitwright.sim.rtl import MemoryTiming, Run, Simulation

from .host_part import OFFSETS, HostPart, start_registers
from .mapper import SNAPSHOT_BYTES
from .program import Program

__all__ = ["EngineError", "Execution", "LayerCount", "execute"]

_NAMES = [name for name, _ in COUNTERS]
MEMORY_BASE = 0x4000_0000
WATCHDOG_CYCLES = 100_000


class EngineError(BitwrightError):
    """The simulated engine stopped with a fault, did not stop, or broke the bus protocol."""


@dataclass(frozen=True, kw_only=True)
class LayerCount:
    """What the RTL counted while a layer was the one in progress.

    Parameters
    ----------
    name
        The graph node's.
    counters
        Difference of each event counter between the end of the layer before and its own, averaged over
        the inferences.
    """

    name: str
    counters: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Outcome of a simulation.

    Parameters
    ----------
    outputs
        Every tensor by its graph name, as the engine left it, stacked over the inferences.
    expected
        The same from the golden model.
    counters
        Each event counter, summed over the inferences.
    layers
        Counts of each layer.
    mismatches
        Elements that differ, by tensor, where any do.
    tensors_computed
        Tensors that the engine computes in one inference.
    """

    outputs: dict[str, NDArray[Any]]
    expected: dict[str, NDArray[Any]]
    counters: dict[str, int]
    layers: list[LayerCount]
    mismatches: dict[str, int]
    tensors_computed: int

    @property
    def inferences(self) -> int:
        """How many inputs were run."""
        return len(next(iter(self.outputs.values())))

    @property
    def tensors_compared(self) -> int:
        """Tensors compared with the golden model, over all inferences; inputs do not count."""
        return self.tensors_computed * self.inferences


def execute(
    program: Program,
    graph: Graph,
    inputs: ArrayLike,
    verilog: str | Path,
    *,
    simulator: str = "verilator",
    timing: MemoryTiming | None = None,
    waves: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Execution:
    """Run inferences on the Verilog, one after the other.

    Parameters
    ----------
    program
        From :func:`~bitwright.gen.mapper.compile_graph` for this graph.
    graph
        The network, for the golden model and the host's part (quantising the input, dequantising the output).
    inputs
        What :func:`~bitwright.sim.golden.prepare_input` accepts.
    verilog
        The engine's Verilog, or the file that has it.
    simulator, timing, waves, progress
        See :class:`~bitwright.sim.rtl.Simulation`.

    Raises
    ------
    EngineError
        The engine stopped with a fault, or not at all, or broke the bus protocol.
    NetworkError
        The inputs do not fit the network.
    """
    expected = golden.run(graph, inputs)
    host = HostPart.of(graph)
    source = host.source
    codes = expected[source]
    computed = [name for name, place in program.placements.items() if name != source and place.stored]
    reads = [(program.placements[name].address, program.placements[name].size) for name in computed]
    reads += [(layer.snapshot, SNAPSHOT_BYTES) for layer in program.layers]
    registers = (
        *start_registers(
            memory_base=MEMORY_BASE,
            memory_bytes=program.memory_bytes,
            program_address=program.program_address,
            instructions=len(program.instructions),
            watchdog=WATCHDOG_CYCLES,
            irq=True,
        ),
        (OFFSETS["control"], 1),
    )
    counters = tuple(COUNTER_BASE + 4 * index for index in range(len(COUNTERS)))
    place = program.placements[source]
    # What an inference leaves must not be taken for what the next one computed.
    blank = tuple(
        (program.placements[name].address, b"\xa5" * program.placements[name].size) for name in computed
    )
    runs = [
        Run(
            writes=(*blank, (place.address, place.encode(codes[index]))),
            registers=registers,
            reads=tuple(reads),
            read_registers=(OFFSETS["status"], *counters),
            timeout_cycles=20 * program.predicted_cycles + 200_000,
        )
        for index in range(len(codes))
    ]
    simulation = Simulation(
        verilog,
        program.config.bus_bits,
        program.memory_bytes,
        simulator,
        waves=waves,
        bus=program.config.bus,
    )
    results = simulation.run(program.image, runs, timing, MEMORY_BASE, progress)

    for index, result in enumerate(results):
        status = result.registers.get(OFFSETS["status"], 0)
        if result.timed_out:
            raise EngineError(f"inference {index}: no end after {result.cycles} cycles")
        if status & 4:
            fault = Fault(status >> 8 & 0xFF)
            raise EngineError(f"inference {index}: the engine stopped with fault {fault.name}")
        if result.violations or result.out_of_range or result.hazards:
            raise EngineError(f"inference {index}: bus protocol broken: {'; '.join(simulation.messages[:3])}")

    outputs: dict[str, NDArray[Any]] = {source: codes}
    mismatches: dict[str, int] = {}
    for position, name in enumerate(computed):
        values = np.stack([program.placements[name].decode(result.data[position]) for result in results])
        outputs[name] = values.astype(expected[name].dtype)
        wrong = int((values != expected[name]).sum())
        if wrong:
            mismatches[name] = wrong
    outputs |= host.finish(outputs)
    if graph.input not in outputs and graph.input in expected:
        outputs = {graph.input: expected[graph.input], **outputs}

    layers = []
    for position, layer in enumerate(program.layers):

        def count(index: int, run: int) -> NDArray[np.uint32]:
            if index < 0:
                return np.zeros(len(COUNTERS), np.uint32)
            return np.frombuffer(results[run].data[len(computed) + index], "<u4")

        deltas = [count(position, run) - count(position - 1, run) for run in range(len(results))]
        mean = np.mean(deltas, axis=0)
        layers.append(LayerCount(name=layer.name, counters=dict(zip(_NAMES, map(float, mean), strict=True))))
    totals = {
        name: sum(result.registers[offset] for result in results)
        for name, offset in zip(_NAMES, counters, strict=True)
    }
    return Execution(
        outputs=outputs,
        expected=expected,
        counters=totals,
        layers=layers,
        mismatches=mismatches,
        tensors_computed=len(computed),
    )
