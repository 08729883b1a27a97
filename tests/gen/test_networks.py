"""Real networks on the emitted Verilog against what their own runtime gave."""

from pathlib import Path

import numpy as np
import pytest

from bitwright.gen import config
from bitwright.gen.execute import Execution, execute
from bitwright.gen.importers import load
from bitwright.gen.mapper import compile_graph
from bitwright.gen.verilog import emit
from bitwright.sim.graph import Graph

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


@pytest.mark.parametrize("name", ["base", "tiny"])
def test_digits(name: str, base: str) -> None:
    test = np.load(DIGITS / "test.npz")
    verilog = base if name == "base" else emit(config.load(name))
    graph, done = run(DIGITS / "digits_mlp.onnx", test["input"][:50], verilog, name)
    assert done.mismatches == {}
    right = done.outputs[graph.output].reshape(50, -1).argmax(axis=1) == test["label"][:50]
    assert right.mean() >= 0.9
