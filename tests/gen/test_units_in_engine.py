"""Every dot-product unit inside an engine: a trained layer on emitted Verilog against the golden model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitwright.gen.execute import execute
from bitwright.gen.importers import load
from bitwright.gen.mapper import compile_graph
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Int
from bitwright.hw.pe import UNITS
from bitwright.hw.quant.arithmetic import quantise_multiplier
from bitwright.sim.graph import FullyConnected, Graph, TensorInfo

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_mlp"

BASE = EngineConfig(
    cols=4,
    lanes=8,
    requantisers=2,
    reduction=256,
    activation_depth=256,
    weight_depth=512,
    channel_depth=64,
    output_depth=64,
    queue_depth=8,
    burst_beats=16,
)

CONFIGS = {
    "parallel": {},
    "bitfusion": {},
    "bitblade": {"precisions": ("a4w4",), "lanes": 4},
    "stripes": {"precisions": ("a3w6",), "lanes": 32},
    "unpu": {"precisions": ("a8w5",), "weight_depth": 2048},
    "loom": {"precisions": ("a3w4",), "lanes": 64},
    "bismo": {"precisions": ("a5w3",), "lanes": 64},
    "xnor": {"precisions": ("a8wb",)},
    "ternary": {"precisions": ("a8wt",)},
    "log2": {"precisions": ("a8wp4",)},
}


def nearest(values, format):
    """Values of the format that lie nearest, after scaling to its range."""
    scaled = values * (max(-format.min, format.max) / np.abs(values).max())
    return format.values[np.abs(scaled[..., None] - format.values).argmin(axis=-1)]


def trained_layer(config: EngineConfig, count: int) -> tuple[Graph, np.ndarray]:
    """The example's first layer and images, both rounded to the formats of an engine."""
    graph = load(EXAMPLE / "digits_mlp.onnx")
    node = next(node for node in graph.nodes if isinstance(node, FullyConnected))
    pixels = np.load(EXAMPLE / "test.npz")["input"].reshape(-1, node.weights.shape[1])[:count]
    (precision,) = config.formats
    activation = Int(precision.activation.bits, signed=False)
    codes = np.rint(pixels / pixels.max() * activation.max).astype(np.int64)
    weights = nearest(node.weights, precision.weight)
    sums = codes @ weights.T
    # Where no weight is positive, a bias lifts the sums above the lower bound of the results.
    bias = np.full(len(weights), max(0, -sums.min()) if sums.max() <= 0 else 0)
    spread = np.abs(sums + bias).max(axis=0).clip(activation.max)
    multiplier, shift = quantise_multiplier(activation.max / spread)
    columns = len(weights)
    tensors = {
        name: TensorInfo(name=name, shape=(count, size), format=activation, scale=1.0, zero_point=0)
        for name, size in (("pixels", weights.shape[1]), ("hidden", columns))
    }
    layer = replace(
        node,
        input="pixels",
        output="hidden",
        weights=weights,
        weight_format=precision.weight,
        bias=bias,
        quantiser=replace(
            node.quantiser, multiplier=multiplier, shift=shift, low=activation.min, high=activation.max
        ),
    )
    return Graph(name="digits", tensors=tensors, nodes=(layer,), input="pixels", output="hidden"), codes[None]


def test_every_unit_is_here():
    assert set(CONFIGS) == set(UNITS)


@pytest.mark.parametrize("target", ["generic", "ecp5", "ice40"])
@pytest.mark.parametrize("pe", CONFIGS)
def test_trained_layer(pe, target):
    config = BASE.replace(pe=pe, target=target, **CONFIGS[pe])
    images = 4 if target == "generic" else 1  # primitives simulate slowly
    graph, inputs = trained_layer(config, count=images)
    program = compile_graph(graph, config)
    done = execute(program, graph, inputs, emit(config), simulator="icarus")
    assert done.mismatches == {}
    assert len(np.unique(done.outputs["hidden"])) > 1
    # As many beats as the contract declares, and no more.
    node = graph.nodes[0]
    (schedule,) = config.schedules
    steps = -(-node.reduction // schedule.elements)
    groups = -(-node.channels // config.group_channels)
    assert done.counters["compute_beats"] == -(-images // config.rows) * groups * steps * len(schedule.beats)
    if images > 1:  # the model is low on the smallest layers, where fetching waits behind data
        assert done.counters["cycles"] == pytest.approx(program.predicted_cycles, rel=0.15)
