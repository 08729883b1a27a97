"""Reports: what a simulation counted, beside what was predicted."""

from typing import Any

import numpy as np

from bitwright.sim.graph import Graph

from .execute import Execution
from .program import Program

__all__ = ["accuracy", "simulation_report", "throughput"]

_STALLS = ("compute_wait_load", "compute_wait_store", "compute_wait_drain", "compute_wait_fetch")


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of inputs whose greatest output is the label's."""
    return float(np.mean(outputs.reshape(len(labels), -1).argmax(axis=1) == labels.reshape(-1)))


def simulation_report(
    program: Program, graph: Graph, execution: Execution, *, config: str, labels: np.ndarray | None
) -> dict[str, Any]:
    """Contents of ``report.json``.

    ``cycles``, ``macs`` and ``counters`` are totals over all inferences, everything under ``layers`` is of
    one inference. Cycles and stalls are what the RTL counted; ``predicted_cycles`` is the cycle model's.

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
    peak = program.config.peak_macs_per_cycle
    report: dict[str, Any] = {
        "network": graph.name,
        "config": config,
        "inferences": inferences,
        "tensors_compared": execution.tensors_compared,
        "mismatches": sum(execution.mismatches.values()),
        "mismatching_tensors": execution.mismatches,
        "cycles": cycles,
        "cycles_per_inference": cycles / inferences,
        "predicted_cycles_per_inference": program.predicted_cycles,
        "macs": macs,
        "peak_macs_per_cycle": peak,
        "utilisation": macs / (cycles * peak),
        "accuracy": None,
        "note": "cycles, macs and counters: all inferences together; layers: one inference",
        "counters": execution.counters,
        "layers": [
            {
                "name": plan.name,
                "macs": plan.macs,
                "predicted_cycles": plan.predicted_cycles,
                "cycles": count.counters["cycles"],
                "utilisation": plan.macs / (count.counters["cycles"] * peak),
                "stalls": {name.removeprefix("compute_"): count.counters[name] for name in _STALLS},
                "words_loaded": count.counters["load_beats"],
                "words_stored": count.counters["store_beats"],
                "tiling": plan.tiling,
            }
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
