"""CNV W1A1, a binary network for CIFAR-10, against its recorded tensors: golden model and emitted Verilog."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bitwright.gen.execute import execute
from bitwright.gen.mapper import compile_graph
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Bipolar, Int
from bitwright.sim import golden as model
from bitwright.sim.graph import (
    ArgMax,
    Convolution,
    FullyConnected,
    Graph,
    MaxPool,
    Node,
    Reshape,
    TensorInfo,
    Thresholds,
)

POOLED = (1, 3)
"""Convolutions with a max pool of 2 x 2 behind them."""

BASE = EngineConfig(
    rows=4,
    cols=16,
    lanes=16,
    requantisers=4,
    quantisers=("thresholds", "accumulators"),
    combine=("maximum",),
    activation_depth=4096,
    weight_depth=4096,
    channel_depth=512,
    output_depth=2048,
    pe="xnor",
    precisions=("a8wb", "abwb"),
)
ENGINES = {
    "xnor": BASE,
    "bismo": BASE.replace(pe="bismo", lanes=32, precisions=("a8w2", "a1w2")),
}


def codes(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The first layer's activations: pixels from -1 to 1 in steps of 1/128."""
    return np.clip(np.rint((pixels / 127.5 - 1) * 128), -128, 127).astype(np.int64)


def load(folder: Path) -> tuple[Graph, dict[str, NDArray[np.int64]]]:
    """The network, and its recorded tensors by their names in the graph and with their shapes."""
    graph = read(folder / "cnvW1A1_cifar10_decoded.npz")
    with np.load(folder / "golden_cnvW1A1.npz") as kept:
        pixels = kept["input_uint8"]
        recorded = {
            name: kept[name].astype(np.int64).reshape(-1, *tensor.shape)
            for name, tensor in graph.tensors.items()
            if name in kept
        }
    np.testing.assert_array_equal(codes(pixels), recorded["act0"][:, 0])
    # The file's label is the image's, and the network is right about these.
    assert set(recorded) == {*(f"act{index}" for index in range(9)), "logits", "label"}
    return graph, recorded


def read(path: Path) -> Graph:
    """The network; tensor ``act{i}`` is what layer i reads, ``conv{i}`` what a pool reads."""
    kept = np.load(path)
    tensors = [TensorInfo(name="act0", shape=(1, 32, 32, 3), format=Int(8), scale=1 / 128)]
    nodes: list[Node] = []
    for index in range(9):
        weights = kept[f"W{index}"].astype(np.int64)
        channels, terms = len(weights), weights[0].size
        quantiser = None
        if f"T{index}" in kept:
            # Strictly above: twice the sum, or how many terms agree, which is half of sum and terms.
            threshold = kept[f"T{index}"].astype(np.int64)
            levels = threshold // 2 + 1 if index == 0 else 2 * threshold - terms + 1
            quantiser = Thresholds(levels=levels, descending=np.zeros(channels, np.bool_), low=-1)
        source = tensors[-1]
        common = {
            "name": f"layer{index}",
            "weights": weights,
            "weight_format": Bipolar(),
            "bias": np.zeros(channels, np.int64),
            "quantiser": quantiser,
        }

        def tensor(name: str, *shape: int, raw: bool = quantiser is None) -> TensorInfo:
            return TensorInfo(name=name, shape=shape, format=Int(32) if raw else Bipolar())

        name = "logits" if quantiser is None else f"act{index + 1}"
        if weights.ndim == 4:
            _, height, width, _ = source.shape
            target = f"conv{index}" if index in POOLED else name
            node = Convolution(**common, input=source.name, output=target)
            height, width = node.positions(height, width)
            tensors.append(tensor(target, 1, height, width, channels))
            nodes.append(node)
            if index in POOLED:
                pool = MaxPool(name=f"pool{index}", input=target, output=name, kernel=(2, 2), stride=(2, 2))
                tensors.append(tensor(name, 1, *pool.positions(height, width), channels))
                nodes.append(pool)
            continue
        if len(source.shape) == 4:
            nodes.append(Reshape(name="flatten", input=source.name, output="flat"))
            tensors.append(tensor("flat", 1, source.size, raw=False))
        nodes.append(FullyConnected(**common, input=tensors[-1].name, output=name))
        tensors.append(tensor(name, 1, channels))
    nodes.append(ArgMax(name="class", input="logits", output="label", axis=1))
    tensors.append(TensorInfo(name="label", shape=(1,), format=Int(32)))
    return Graph(
        name="CNV W1A1",
        tensors={info.name: info for info in tensors},
        nodes=tuple(nodes),
        input="act0",
        output="label",
    )


def test_golden_model(shared_data: Path) -> None:
    """Every tensor that was recorded, of every input."""
    graph, recorded = load(shared_data / "bnn_pynq")
    values = model.run(graph, recorded["act0"])
    for name, expected in recorded.items():
        np.testing.assert_array_equal(values[name], expected, name)


@pytest.mark.parametrize("name", ENGINES)
def test_engine(name: str, shared_data: Path) -> None:
    """Every tensor of one input; those in front of pools are nowhere."""
    config = ENGINES[name]
    graph, recorded = load(shared_data / "bnn_pynq")
    program = compile_graph(graph, config)
    absent = {f"conv{index}" for index in POOLED}
    assert set(program.placements) == set(graph.tensors) - {"label"} - absent
    assert [layer.precision for layer in program.layers] == [
        config.precisions[0],
        *[config.precisions[1]] * 8,
    ]
    done = execute(program, graph, recorded["act0"][:1], emit(config))
    assert done.mismatches == {}
    for tensor, expected in recorded.items():
        np.testing.assert_array_equal(done.outputs[tensor], expected[:1], tensor)
    cycles = sum(layer.counters["cycles"] for layer in done.layers)
    for layer, plan in zip(done.layers, program.layers, strict=True):
        print(f"{plan.name}: {layer.counters['cycles']:.0f} cycles, predicted {plan.predicted_cycles}")
    print(f"{name}: {program.macs} MACs, {cycles:.0f} cycles, predicted {program.predicted_cycles}")
    print(f"of the peak: {program.macs / cycles / config.peak_macs_per_cycle:.1%}")
    assert program.predicted_cycles == pytest.approx(cycles, rel=0.05)
