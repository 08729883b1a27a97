"""Reports: what a simulation counted, beside what was predicted."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitwright.hw.config import EngineConfig
from bitwright.hw.pe.contract import Precision
from bitwright.hw.sched.registers import COUNTERS
from bitwright.sim.graph import Graph

from .execute import Execution
from .program import LayerPlan, Program

__all__ = ["accuracy", "engine_facts", "layer_facts", "layer_peak", "simulation_report", "throughput"]


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of inputs whose greatest output is the label's."""
    return float(np.mean(outputs.reshape(len(labels), -1).argmax(axis=1) == labels.reshape(-1)))


def layer_peak(program: Program, plan: LayerPlan) -> float:
    """Multiply-accumulate operations of a busy cycle at a layer's precision, the quickest of several."""
    return max(program.config.macs_per_cycle(precision) for precision in _precisions(plan))


def _precisions(plan: LayerPlan) -> list[Precision]:
    return [Precision.parse(name) for name in plan.precision.split(" + ")]


def _waits(unit: str, counters: Mapping[str, float]) -> dict[str, float]:
    """Cycles in which ``load``, ``compute`` or ``store`` waited, by each cause that the engine counts."""
    names = [name for name, _ in COUNTERS if name.startswith(f"{unit}_wait_")]
    return {name.removeprefix(f"{unit}_"): counters[name] for name in names}


def layer_facts(program: Program, plan: LayerPlan, counters: Mapping[str, float]) -> dict[str, Any]:
    """What a report has of a layer, one inference. ::

        prediction_error  predicted cycles / counted cycles - 1
        busy              cycles in which the array took operands / cycles
        utilisation       MACs / (cycles * peak)
        other_cycles      cycles - beats - stalls
        bytes_moved       (words loaded + fetched + stored) * bytes of a bus word
        macs_per_byte     MACs / bytes moved

    A layer is what lies between its snapshot of the counters and the one before. The units run ahead, each
    at its own pace: what is loaded or computed early counts for the layer before, and the words of a
    snapshot for the layer that follows. So a short layer may show more than its peak.

    Parameters
    ----------
    program, plan
        The layer.
    counters
        Counted by the RTL while it was the one in progress.
    """
    cycles, beats = counters["cycles"], counters["compute_beats"]
    peak = layer_peak(program, plan)
    stalls = _waits("compute", counters)
    moved = (counters["load_beats"] + counters["fetch_beats"] + counters["store_beats"]) * (
        program.config.bus_bytes
    )
    return {
        "name": plan.name,
        "precision": plan.precision,
        "macs": plan.macs,
        "predicted_cycles": plan.predicted_cycles,
        "cycles": cycles,
        "prediction_error": plan.predicted_cycles / cycles - 1,
        "beats": beats,
        "busy": beats / cycles,
        "peak_macs_per_cycle": peak,
        "utilisation": plan.macs / (cycles * peak),
        "stalls": stalls,
        # Counters of a snapshot are taken some cycles after each other.
        "other_cycles": max(0.0, cycles - beats - sum(stalls.values())),
        "load_stalls": _waits("load", counters),
        "store_stalls": _waits("store", counters),
        "words_loaded": counters["load_beats"],
        "words_fetched": counters["fetch_beats"],
        "words_stored": counters["store_beats"],
        "granules_written": counters["results"],
        "bytes_moved": moved,
        "macs_per_byte": plan.macs / moved if moved else None,
        "tiling": plan.tiling,
    }


def engine_facts(config: EngineConfig) -> dict[str, Any]:
    """What a report has of the engine."""
    return {
        "unit": config.pe,
        "rows": config.rows,
        "cols": config.cols,
        "lanes": config.lanes,
        "target": config.target,
        "bus_bytes": config.bus_bytes,
        "macs_per_cycle": {str(precision): config.macs_per_cycle(precision) for precision in config.formats},
    }


def simulation_report(
    program: Program, graph: Graph, execution: Execution, *, config: str, labels: np.ndarray | None
) -> dict[str, Any]:
    """Contents of ``report.json``.

    ``cycles``, ``macs`` and ``counters`` are totals over all inferences, everything under ``layers`` is of
    one inference (:func:`layer_facts`). Cycles, stalls and words are what the RTL counted;
    ``predicted_cycles`` is the cycle model's. ::

        busy         cycles in which the array took operands / cycles
        utilisation  cycles that the MACs take at each layer's own peak (layer_peak) / cycles

    Parameters
    ----------
    program, graph, execution
        What was run, and what came of it.
    config
        Name of the configuration.
    labels
        Class of each input, where known.
    """
    inferences = execution.inferences
    cycles = execution.counters["cycles"]
    macs = program.macs * inferences
    peaks = {plan.name: layer_peak(program, plan) for plan in program.layers}
    least_cycles = sum(plan.macs / peaks[plan.name] for plan in program.layers)
    report: dict[str, Any] = {
        "network": graph.name,
        "config": config,
        "engine": engine_facts(program.config),
        "inferences": inferences,
        "tensors_compared": execution.tensors_compared,
        "mismatches": sum(execution.mismatches.values()),
        "mismatching_tensors": execution.mismatches,
        "cycles": cycles,
        "cycles_per_inference": cycles / inferences,
        "predicted_cycles_per_inference": program.predicted_cycles,
        "prediction_error": program.predicted_cycles * inferences / cycles - 1,
        "macs": macs,
        "peak_macs_per_cycle": program.config.peak_macs_per_cycle,
        "busy": execution.counters["compute_beats"] / cycles,
        "utilisation": least_cycles * inferences / cycles,
        "accuracy": None,
        "note": "cycles, macs and counters: all inferences together; layers: one inference",
        "counters": execution.counters,
        "layers": [
            layer_facts(program, plan, count.counters)
            for plan, count in zip(program.layers, execution.layers, strict=True)
        ],
    }
    if labels is not None:
        report["accuracy"] = accuracy(execution.outputs[graph.output], labels)
    return report


def throughput(report: dict[str, Any], synthesis: dict[str, Any]) -> dict[str, Any]:
    """Speed on the target: the median clock of the seeds times what the RTL did per cycle.

    A multiply-accumulate counts as two operations. Figures are None where the design did not place.
    """
    clocks = synthesis["fmax_mhz"]
    if not clocks:
        return dict.fromkeys(("fmax_mhz", "inferences_per_second", "gops", "peak_gops", "gops_per_lut"))
    clock = float(np.median(clocks))
    per_second = clock * 1e6 / report["cycles_per_inference"]
    gops = 2 * report["macs"] / report["inferences"] * per_second / 1e9
    return {
        "fmax_mhz": clock,
        "inferences_per_second": per_second,
        "gops": gops,
        "peak_gops": 2 * report["peak_macs_per_cycle"] * clock / 1e3,
        "gops_per_lut": gops / synthesis["lut"] if synthesis["lut"] else None,
    }
