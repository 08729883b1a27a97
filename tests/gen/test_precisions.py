"""Layers of several precisions on one engine: its emitted Verilog, every tensor against the golden model."""

from dataclasses import replace

import numpy as np
import pytest

from bitwright.gen.execute import execute
from bitwright.gen.mapper import compile_graph
from bitwright.gen.synthetic import ConvolutionShape, random_cnn, random_input, random_mlp
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Bipolar, Int
from bitwright.sim.graph import Graph, NetworkError

BASE = EngineConfig(
    cols=8,
    lanes=32,
    reduction=512,
    activation_depth=256,
    weight_depth=512,
    channel_depth=64,
    output_depth=128,
    queue_depth=8,
    burst_beats=16,
)
U2, U4 = Int(2, signed=False), Int(4, signed=False)

# Configuration, formats of the tensors and of the layers' weights, and the precisions that they come to.
CASES = {
    "bismo": (
        {"pe": "bismo", "precisions": ("a8w8", "a4w4", "a3w3", "a2w2", "a1w1")},
        ([Int(8), Int(4), Int(3), U2, Int(1), Int(4)], [Int(8), Int(4), Int(3), Int(2), Int(1)]),
        ["a8w8", "a4w4", "a3w3", "a2w2", "a1w1"],
    ),
    "loom": (
        {"pe": "loom", "precisions": ("a2w3", "a4w1", "au4w2"), "rows": 2, "lanes": 64, "cols": 4},
        ([U4, Int(2), Int(4), U4], [Int(2), Int(3), Int(1)]),
        ["au4w2", "a2w3", "a4w1"],
    ),
    "stripes": (
        {"pe": "stripes", "precisions": ("a6w8", "a2w4", "a1w8"), "requantisers": 2, "cols": 16, "lanes": 16},
        ([Int(5), Int(1), U2, Int(6)], [Int(8), Int(6), Int(4)]),
        ["a6w8", "a1w8", "a2w4"],
    ),
    "unpu": (
        {"pe": "unpu", "precisions": ("a8w8", "a8w4", "a8w1"), "lanes": 16, "cols": 2, "weight_depth": 2048},
        ([Int(8), Int(8), Int(8), Int(8)], [Int(8), Int(3), Int(1)]),
        ["a8w8", "a8w4", "a8w1"],
    ),
    "bitfusion": (
        {"pe": "bitfusion", "precisions": ("a8w8", "a4w4", "a2w2"), "lanes": 2},
        ([Int(8), U4, Int(2), Int(3)], [Int(8), Int(4), Int(2)]),
        ["a8w8", "a4w4", "a2w2"],
    ),
    "bitblade": (
        {"pe": "bitblade", "precisions": ("a8w2", "a2w8", "a4w4"), "lanes": 4, "requantisers": 2, "rows": 2},
        ([Int(8), Int(2), U4, Int(8)], [Int(2), Int(7), Int(4)]),
        ["a8w2", "a2w8", "a4w4"],
    ),
    "parallel": (
        {"pe": "parallel", "precisions": ("a8w8", "a4w2"), "lanes": 8, "multiplier": "lut"},
        ([Int(8), U4, Int(7)], [Int(8), Int(2)]),
        ["a8w8", "a4w2"],
    ),
}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_layers_of_different_precision(name, rows):
    changes, (activations, weights), expected = CASES[name]
    config = BASE.replace(**changes)
    sizes = [70, 64, 50, 33, 40, 10][: len(activations)]
    graph = random_mlp(sizes, rows=rows, activation=activations, weight=weights, seed=rows)
    program = compile_graph(graph, config)
    assert [layer.precision for layer in program.layers] == expected
    done = execute(program, graph, random_input(graph, count=2), emit(config), simulator="icarus")
    assert done.mismatches == {}


@pytest.mark.parametrize(
    ("changes", "bits", "expected"),
    [
        ({"pe": "bismo", "precisions": ("a4w8", "a4w4", "a4w2")}, (8, 3, 3, 1, 2, 2, 4, 4), "a4w8 + a4w4"),
        (
            {"pe": "loom", "precisions": ("a4w8", "a4w2"), "lanes": 16},
            (2, 1, 2, 5),
            "a4w2 + a4w8 + a4w2 + a4w8",
        ),
        (
            {"pe": "unpu", "precisions": ("a4w8", "a4w2"), "lanes": 16, "cols": 1, "weight_depth": 4096},
            (8, 8, 2, 2),
            "a4w8 + a4w2 + a4w8 + a4w2",
        ),
        (
            {"pe": "bitfusion", "precisions": ("a4w8", "a4w2"), "lanes": 4},
            (2, 8, 2, 2),
            "a4w8 + a4w2 + a4w8 + a4w2",
        ),
    ],
)
def test_columns_of_different_precision(changes, bits, expected):
    """Weights that need fewer bits in some output channels: those run at fewer."""
    config = BASE.replace(**changes)
    graph = random_mlp([70, 64], rows=2, activation=Int(4), weight=Int(8))
    (node,) = graph.nodes
    weights = np.concatenate(
        [
            np.clip(node.weights[first : first + 8], -(1 << width - 1), (1 << width - 1) - 1)
            for first, width in zip(range(0, 64, 8), bits * 8, strict=False)
        ]
    )
    graph = replace(graph, nodes=(replace(node, weights=weights),))
    program = compile_graph(graph, config)
    assert [layer.precision for layer in program.layers] == [expected]
    done = execute(program, graph, random_input(graph, count=2), emit(config), simulator="icarus")
    assert done.mismatches == {}
    # Never more beats than if all columns had the precision of the widest.
    widest = compile_graph(graph, config.replace(precisions=("a4w8",)))
    assert program.predicted_cycles < widest.predicted_cycles


# Weights without a zero

XNOR = BASE.replace(pe="xnor", lanes=8, precisions=("a8wb",), packing=True, combine=())


def bipolar_cnn(channels: int, *layers: ConvolutionShape) -> Graph:
    return random_cnn((5, 6, channels), layers, weight=Bipolar(), seed=3)


@pytest.mark.parametrize("channels", [3, 11])
def test_bipolar_weights_of_the_networks_input(channels: int) -> None:
    """Behind its channels the host writes zeros, which count nothing; taps are not packed then."""
    graph = bipolar_cnn(channels, ConvolutionShape(channels=8, kernel=(3, 3)), ConvolutionShape(channels=2))
    program = compile_graph(graph, XNOR)
    assert not program.placements["t0"].lines
    done = execute(program, graph, random_input(graph, count=2), emit(XNOR), simulator="icarus")
    assert done.mismatches == {}


@pytest.mark.parametrize(
    ("graph", "name"),
    [
        # Padding fills whole words with its code.
        (bipolar_cnn(3, ConvolutionShape(channels=8, kernel=(3, 3), padding=((1, 1), (1, 1)))), "conv0"),
        # Behind the channels of results lies anything.
        (bipolar_cnn(8, ConvolutionShape(channels=3), ConvolutionShape(channels=2)), "conv1"),
        # Groups of channels are kept apart by weights of 0.
        (bipolar_cnn(8, ConvolutionShape(groups=2)), "conv0"),
    ],
    ids=["padding", "results", "groups"],
)
def test_bipolar_weights_where_words_are_not_full(graph: Graph, name: str) -> None:
    with pytest.raises(NetworkError, match=f"node '{name}': .*no zero"):
        compile_graph(graph, XNOR)
