"""Real networks on the emitted Verilog against what their own runtime gave."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitwright.gen import config
from bitwright.gen.execute import Execution, execute
from bitwright.gen.importers import load
from bitwright.gen.mapper import compile_graph
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.sim import golden as model
from bitwright.sim.graph import Binary, Graph

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits_mlp"


@pytest.fixture(scope="module")
def base() -> str:
    return emit(config.load("base"))


def run(network: Path, inputs: np.ndarray, verilog: str, name: str) -> tuple[Graph, Execution]:
    graph = load(network)
    program = compile_graph(graph, config.load(name))
    return graph, execute(program, graph, inputs, verilog)


def test_autoencoder_tflite(shared_data: Path, base: str) -> None:
    golden = dict(np.load(shared_data / "mlperf_tiny" / "golden_ad_int8.npz"))
    network = shared_data / "mlperf_tiny" / "ad_autoencoder_int8.tflite"
    graph, done = run(network, golden["input"][:4], base, "base")
    assert done.mismatches == {}
    compared = 0
    for info in graph.tensors.values():
        for key in (key for key in golden if key.endswith(f"_t{info.index}")):
            assert (done.outputs[info.name] == golden[key][:4]).all(), key
            compared += 1
    assert compared == 10
    assert (done.outputs[graph.output] == golden["output"][:4]).all()


def test_autoencoder_qdq(shared_data: Path, base: str) -> None:
    golden = dict(np.load(shared_data / "mlperf_tiny_onnx" / "golden_ad_autoencoder_qdq.npz"))
    network = shared_data / "mlperf_tiny_onnx" / "ad_autoencoder_qdq.onnx"
    graph, done = run(network, golden["input"], base, "base")
    assert done.mismatches == {}
    quantised = [name for name, info in graph.tensors.items() if info.format is not None]
    assert len(quantised) == 11
    for index, name in enumerate(golden["tensor_names"]):
        key = f"q{index:02d}"
        if key in golden and str(name) in quantised:
            assert (done.outputs[str(name)] == golden[key].reshape(done.outputs[str(name)].shape)).all(), name
            quantised.remove(str(name))
    assert quantised == []
    assert (done.outputs[graph.output].reshape(golden["output"].shape) == golden["output"]).all()


def recorded(graph: Graph, golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What tflite-micro gave for each tensor, by the tensor's name in the graph."""
    names = {info.index: name for name, info in graph.tensors.items()}
    found = {graph.output: golden["output"]}
    for key, values in golden.items():
        if match := re.fullmatch(r"op\d+_.*_t(\d+)", key):
            found[names[int(match[1])]] = values
    return found


@pytest.mark.parametrize(
    ("file", "record", "tensors"), [("ic_resnet8_int8", "ic", 16), ("kws_dscnn_int8", "kws", 13)]
)
def test_convolutional_tflite(file: str, record: str, tensors: int, shared_data: Path) -> None:
    """Every tensor of every recorded input, from the golden model."""
    graph = load(shared_data / "mlperf_tiny" / f"{file}.tflite")
    golden = dict(np.load(shared_data / "mlperf_tiny" / f"golden_{record}_int8.npz"))
    values = model.run(graph, golden["input"])
    theirs = recorded(graph, golden)
    assert len(theirs) == tensors
    assert set(theirs) == set(graph.tensors) - {graph.input}
    for name, expected in theirs.items():
        np.testing.assert_array_equal(values[name], expected, name, strict=True)


@pytest.mark.parametrize(
    ("file", "record", "fuse_sums"),
    [("ic_resnet8_int8", "ic", False), ("ic_resnet8_int8", "ic", True), ("kws_dscnn_int8", "kws", True)],
)
def test_convolutional_tflite_on_the_engine(
    file: str, record: str, fuse_sums: bool, shared_data: Path, base: str
) -> None:
    """Every tensor that the engine computes, and what the host makes of the last."""
    golden = dict(np.load(shared_data / "mlperf_tiny" / f"golden_{record}_int8.npz"))
    graph = load(shared_data / "mlperf_tiny" / f"{file}.tflite")
    program = compile_graph(graph, config.load("base"), fuse_sums=fuse_sums)
    done = execute(program, graph, golden["input"][:1], base)
    assert done.mismatches == {}
    theirs = recorded(graph, golden)
    for name in theirs.keys() & done.outputs.keys():
        np.testing.assert_array_equal(done.outputs[name], theirs[name][:1], name)
    # What a sum adds to at once is nowhere stored.
    fused = fuse_sums * sum(isinstance(node, Binary) for node in graph.nodes)
    assert len(theirs.keys() - done.outputs.keys()) == fused
    for layer, plan in zip(done.layers, program.layers, strict=True):
        # Counters are 16 cycles apart.
        assert plan.predicted_cycles == pytest.approx(layer.counters["cycles"], rel=0.05, abs=16), plan.name


@pytest.mark.parametrize("name", ["base", "tiny"])
def test_digits(name: str, base: str) -> None:
    test = np.load(DIGITS / "test.npz")
    verilog = base if name == "base" else emit(config.load(name))
    graph, done = run(DIGITS / "digits_mlp.onnx", test["input"][:50], verilog, name)
    assert done.mismatches == {}
    right = done.outputs[graph.output].reshape(50, -1).argmax(axis=1) == test["label"][:50]
    assert right.mean() >= 0.9


# Networks of few bits

LOW = EngineConfig(
    cols=4,
    lanes=64,
    reduction=1024,
    activation_depth=256,
    weight_depth=1024,
    channel_depth=256,
    output_depth=128,
    queue_depth=8,
    burst_beats=16,
    quantisers=("thresholds", "accumulators"),
)
TFC_1W1A = {
    "37": "x_5_BipolarQuant_4_out0",
    "45": "x_9_BipolarQuant_5_out0",
    "53": "x_13_BipolarQuant_6_out0",
    "61": "x_17_BipolarQuant_7_out0",
    "66": "x_19_MatMul_3_out0",
}
TFC_2W2A = {
    "39": "x_5_Quant_4_out0",
    "51": "x_9_Quant_5_out0",
    "63": "x_13_Quant_6_out0",
    "75": "x_17_Quant_7_out0",
    "82": "x_19_MatMul_3_out0",
}
KEYWORDS = {
    "27": "x002_Quant_0_out0",
    "28": "x003_Flatten_0_out0",
    "40": "x008_Quant_5_out0",
    "52": "x013_Quant_6_out0",
    "64": "x018_Quant_7_out0",
}


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("TFC_1W1A", {"pe": "xnor", "lanes": 16, "precisions": ("abwb",)}, ["abwb"] * 4),
        ("TFC_1W1A", {"pe": "bismo", "precisions": ("a1w2",)}, ["a1w2"] * 4),
        # Bipolar weights fill whole steps of 16: 784 terms are so many.
        ("TFC_1W1A", {"pe": "bitfusion", "lanes": 1, "precisions": ("abwb",)}, ["abwb"] * 4),
        ("TFC_2W2A", {"pe": "bismo", "precisions": ("a2w2",)}, ["a2w2"] * 4),
        ("TFC_2W2A", {"pe": "bitfusion", "lanes": 2, "precisions": ("a2w2",)}, ["a2w2"] * 4),
        ("TFC_2W2A", {"pe": "loom", "precisions": ("a2w2",)}, ["a2w2"] * 4),
        ("TFC_2W2A", {"pe": "ternary", "lanes": 8, "precisions": ("a2wt",)}, ["a2wt"] * 4),
        ("kws_w3a3", {"pe": "bismo", "precisions": ("a8w3", "au3w3")}, ["a8w3"] + ["au3w3"] * 3),
        ("kws_w3a3", {"pe": "loom", "precisions": ("a8w3", "au3w3")}, ["a8w3"] + ["au3w3"] * 3),
        (
            "kws_w3a3",
            {"pe": "bitfusion", "lanes": 2, "precisions": ("a8w4", "au4w4")},
            ["a8w4"] + ["au4w4"] * 3,
        ),
    ],
)
def test_qonnx(name: str, changes: dict[str, Any], expected: list[str], shared_data: Path) -> None:
    """Every tensor that QONNX's executor recorded, by its real number; the rest by the golden model."""
    recorded = {"TFC_1W1A": TFC_1W1A, "TFC_2W2A": TFC_2W2A, "kws_w3a3": KEYWORDS}[name]
    file = name if name.startswith("TFC") else "kws_w3a3_mlperf_v0.7_QONNX_model"
    kept = np.load(shared_data / "qonnx" / f"golden_{file}.npz")
    graph = load(shared_data / "qonnx" / f"{file}.onnx")
    engine = LOW.replace(**changes)
    program = compile_graph(graph, engine)
    assert [layer.precision for layer in program.layers] == expected
    inputs = kept["input"] if "input" in kept else kept["input_float"]
    # Icarus takes long for many bricks at work; Verilator is slow to be ready.
    simulator = "verilator" if changes["pe"] == "bitfusion" and name == "kws_w3a3" else "icarus"
    done = execute(program, graph, inputs[:1], emit(engine), simulator=simulator)
    assert done.mismatches == {}
    assert done.tensors_computed == len(expected) + 1  # the input, flattened, is one more
    for key, theirs in recorded.items():
        scale = graph.tensors[key].scale
        codes = np.rint(kept[theirs][0].astype(float) / scale)
        np.testing.assert_allclose(codes * scale, kept[theirs][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(done.outputs[key][0], codes.reshape(done.outputs[key][0].shape), key)
    scores, theirs = done.outputs[graph.output][0], kept["output"][0]
    np.testing.assert_allclose(scores.reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-4)
