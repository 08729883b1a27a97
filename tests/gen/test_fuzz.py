"""Random networks on random engines: a few of them, and what many have found."""

import os
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest

from bitwright.gen import fuzz
from bitwright.gen.fuzz import Outcome, main, random_engine, random_graph, trial
from bitwright.gen.mapper import compile_graph
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Int
from bitwright.sim.graph import Graph, MaxPool, NetworkError, TensorInfo

SIMULATOR = "icarus" if shutil.which("iverilog") else "verilator"

TINY = EngineConfig(
    cols=2,
    lanes=4,
    bus_bits=32,
    reduction=2048,
    activation_depth=128,
    patch_depth=64,
    weight_depth=128,
    channel_depth=32,
    output_depth=64,
    queue_depth=4,
    burst_beats=16,
)


def first_seed() -> int:
    return int(os.environ.get("BITWRIGHT_SEED", random.randrange(1 << 31)))


def test_random_networks_on_random_engines(capsys: pytest.CaptureFixture[str]) -> None:
    """All tensors are equal; the seed is printed."""
    assert main(["--seed", str(first_seed()), "--engines", "2", "--networks", "2"]) == 0
    assert "2 engines" in capsys.readouterr().out


def test_the_seed_decides() -> None:
    def made(seed: int) -> tuple[EngineConfig, list[str]]:
        config = random_engine(np.random.default_rng(seed))
        graph = random_graph(np.random.default_rng(seed), config)
        return config, [node.name for node in graph.nodes]

    assert made(5) == made(5)
    assert len({str(made(seed)) for seed in range(8)}) == 8


def test_all_kinds_of_nodes_occur_and_most_networks_are_taken() -> None:
    kinds: dict[str, int] = {}
    refused = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng, TINY)
        for node in graph.nodes:
            kinds[type(node).__name__] = kinds.get(type(node).__name__, 0) + 1
    assert set(kinds) == {
        "AveragePool",
        "Binary",
        "Concatenate",
        "Convolution",
        "FullyConnected",
        "Lookup",
        "MaxPool",
        "Pad",
        "Reshape",
        "Select",
        "Upsample",
    }
    for seed in range(10):
        graph = random_graph(np.random.default_rng(seed), TINY)
        try:
            compile_graph(graph, TINY)
        except NetworkError:
            refused += 1
    assert refused <= 3


def pool(channels: int, kernel: tuple[int, int]) -> Graph:
    node = MaxPool(name="pool", input="x", output="y", kernel=kernel)
    x = TensorInfo(name="x", shape=(1, 4, 4, channels), format=Int(8), zero_point=3)
    y = replace(x, name="y", shape=(1, *node.positions(4, 4), channels))
    return Graph(name="pool", tensors={"x": x, "y": y}, nodes=(node,), input="x", output="y")


def equal(graph: Graph, config: EngineConfig) -> None:
    outcome = trial(graph, config, emit(config), np.random.default_rng(first_seed()), SIMULATOR)
    assert outcome == Outcome(compared=1, mismatches={})


@pytest.mark.parametrize(
    ("rows", "cols", "kernel"),
    # Windows of several captures; of parts of two, where a word of columns follows itself at once
    [(1, 1, (3, 3)), (2, 1, (3, 2)), (2, 2, (2, 2))],
)
def test_windows_of_units_of_several_outputs(rows: int, cols: int, kernel: tuple[int, int]) -> None:
    """Results of a window do not follow each other there: those of the other outputs lie in between."""
    equal(
        pool(20, kernel),
        TINY.replace(pe="unpu", precisions=("a8w3",), rows=rows, cols=cols, lanes=8, weight_depth=256),
    )


def test_scaling_over_four_cycles_beside_thresholds() -> None:
    """Such an engine never ended an instruction."""
    graph = pool(5, (2, 2))
    tensors = {name: replace(info, format=Int(4)) for name, info in graph.tensors.items()}
    config = TINY.replace(
        precisions=("a4w4",), lanes=8, quantisers=("requantise", "thresholds"), requantise_cycles=4
    )
    equal(replace(graph, tensors=tensors), config)


def test_thresholds_that_do_not_fit_are_named() -> None:
    """Five words of them for each channel: there was a division by zero."""
    graph = pool(9, (2, 2))
    tensors = {name: replace(info, format=Int(4)) for name, info in graph.tensors.items()}
    config = TINY.replace(precisions=("a4w4",), lanes=1, cols=8, quantisers=("thresholds",))
    with pytest.raises(NetworkError, match=r"node 'pool'.*of 8 channels do not fit.*channel_depth to 40"):
        compile_graph(replace(graph, tensors=tensors), config)
    assert compile_graph(replace(graph, tensors=tensors), config.replace(channel_depth=64))


def test_a_failure_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fuzz, "emit", lambda config: "")
    outcomes = iter(
        [
            Outcome(mismatches={"t3": 4}),
            Outcome(refused="node 'x': is too large", mismatches={}),
            Outcome(compared=1, sums=3, fused=2, mismatches={}),
        ]
    )
    monkeypatch.setattr(fuzz, "trial", lambda *_: next(outcomes))
    assert main(["--seed", "7", "--engines", "1", "--networks", "3"]) == 1
    said = capsys.readouterr().out
    assert "seed 7, network 0, on EngineConfig(" in said
    assert "differs: {'t3': 4}" in said
    assert "1 engines, 2 networks run, 1 refused, 1 failed; last seed 7" in said
    assert "3 sums, 2 of them part of a convolution" in said
    assert "1 refused: is too large" in said
