"""Figures of the report."""

import numpy as np
import pytest

from bitwright.gen.execute import Execution, LayerCount
from bitwright.gen.mapper import compile_graph
from bitwright.gen.report import accuracy, layer_facts, simulation_report, throughput
from bitwright.gen.synthetic import random_mlp
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Int
from bitwright.hw.sched.registers import COUNTERS


def test_accuracy_takes_the_greatest_output() -> None:
    outputs = np.array([[[1, 5, 2]], [[9, 0, 0]], [[0, 1, 2]], [[3, 2, 1]]])
    assert accuracy(outputs, np.array([1, 0, 1, 0])) == 0.75


def test_busy_is_a_share_of_cycles_and_utilisation_counts_at_the_layers_own_peak() -> None:
    """Two layers of a bit-serial unit: a product takes 64 cycles of a lane, then 4."""
    graph = random_mlp([128, 128, 128], activation=[Int(8), Int(2), Int(2)], weight=[Int(8), Int(2)])
    config = EngineConfig(pe="bismo", cols=8, lanes=64, precisions=("a8w8", "a2w2"))
    program = compile_graph(graph, config)
    assert [plan.precision for plan in program.layers] == ["a8w8", "a2w2"]
    beats = {"a8w8": 128 // 64 * 64 * 16, "a2w2": 128 // 64 * 4 * 16}
    stalls = {name: 0.0 for name, _ in COUNTERS}
    layers = [
        LayerCount(
            name=plan.name, counters={**stalls, "cycles": 4096.0, "compute_beats": beats[plan.precision]}
        )
        for plan in program.layers
    ]
    output = np.zeros((2, 1, 128), np.int8)
    execution = Execution(
        outputs={graph.output: output},
        expected={graph.output: output},
        counters={"cycles": 2 * 8192, "compute_beats": 2 * sum(beats.values())},
        layers=layers,
        mismatches={},
        tensors_computed=2,
    )
    report = simulation_report(program, graph, execution, config="mine", labels=None)
    # Nothing is padded here, so the cycles in which the array takes operands are those that MACs need.
    for layer in report["layers"]:
        share = beats[layer["precision"]] / 4096
        assert layer["busy"] == layer["utilisation"] == share
    assert [layer["peak_macs_per_cycle"] for layer in report["layers"]] == [8, 128]
    assert report["busy"] == report["utilisation"] == sum(beats.values()) / 8192


def test_facts_of_a_layer() -> None:
    """Every counter of the RTL is somewhere, and what follows from them."""
    graph = random_mlp([128, 64])
    program = compile_graph(graph, EngineConfig(cols=8, lanes=8, bus_bits=64))
    (plan,) = program.layers
    counters = {name: float(1 << index) for index, (name, _) in enumerate(COUNTERS)}
    counters["cycles"] = 100_000.0
    facts = layer_facts(program, plan, counters)
    assert facts["stalls"] == {
        f"wait_{cause}": counters[f"compute_wait_{cause}"]
        for cause in ("load", "store", "drain", "fetch", "words")
    }
    assert facts["load_stalls"] == {
        f"wait_{cause}": counters[f"load_wait_{cause}"] for cause in ("compute", "store", "memory")
    }
    assert facts["store_stalls"] == {
        f"wait_{cause}": counters[f"store_wait_{cause}"] for cause in ("compute", "memory")
    }
    figures = [value for value in facts.values() if isinstance(value, float)]
    figures += [*facts["stalls"].values(), *facts["load_stalls"].values(), *facts["store_stalls"].values()]
    assert set(counters.values()) <= set(figures)
    assert facts["other_cycles"] == 100_000 - facts["beats"] - sum(facts["stalls"].values())
    words = facts["words_loaded"] + facts["words_fetched"] + facts["words_stored"]
    assert facts["bytes_moved"] == 8 * words
    assert facts["macs_per_byte"] == plan.macs / (8 * words)
    assert facts["prediction_error"] == pytest.approx(plan.predicted_cycles / 100_000 - 1)


def test_a_layer_of_which_nothing_moved_or_all_was_busy() -> None:
    """Counters of a snapshot are taken one after the other: together they may exceed the cycles."""
    graph = random_mlp([128, 64])
    program = compile_graph(graph, EngineConfig(cols=8, lanes=8))
    counters = {name: 0.0 for name, _ in COUNTERS} | {"cycles": 50.0, "compute_beats": 53.0}
    facts = layer_facts(program, program.layers[0], counters)
    assert facts["other_cycles"] == 0
    assert facts["macs_per_byte"] is None


def test_throughput() -> None:
    report = {"cycles_per_inference": 1000.0, "macs": 4000, "inferences": 2, "peak_macs_per_cycle": 16}
    speed = throughput(report, {"fmax_mhz": [90.0, 100.0, 140.0], "lut": 500})
    assert speed["fmax_mhz"] == 100
    assert speed["inferences_per_second"] == 100_000
    assert speed["gops"] == pytest.approx(2 * 2000 * 100_000 / 1e9)
    assert speed["peak_gops"] == pytest.approx(3.2)
    assert speed["gops_per_lut"] == pytest.approx(speed["gops"] / 500)


def test_no_clock_no_throughput() -> None:
    speed = throughput({"cycles_per_inference": 1.0}, {"fmax_mhz": [], "lut": 5})
    assert set(speed.values()) == {None}
