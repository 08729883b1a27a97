"""The example networks: against onnxruntime, against what their README says, and made again."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from bitwright.gen.importers import load
from bitwright.sim import golden

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "examples" / "digits_mlp"


@pytest.fixture(scope="module")
def images():
    data = np.load(DIGITS / "test.npz")
    assert data["input"].shape == (450, 64)
    assert data["input"].dtype == np.float32
    return data["input"], data["label"]


def test_digits_equal_onnxruntime(images):
    """Every tensor of every test image."""
    x, _ = images
    graph = load(DIGITS / "digits_mlp.onnx")
    tensors = golden.run(graph, x)
    assert list(graph.tensors) == ["image", "pixels", "hidden1", "hidden2", "logits", "scores"]
    names = list(graph.tensors)[1:]
    model = onnx.load(DIGITS / "digits_mlp.onnx")
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names[:-1])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    for name, expected in zip(names, session.run(names, {"image": x}), strict=True):
        np.testing.assert_array_equal(tensors[name][:, 0], expected, name, strict=True)
        assert np.unique(expected).size > 15, name


def test_digits_accuracy(images):
    x, label = images
    graph = load(DIGITS / "digits_mlp.onnx")
    answers = golden.run(graph, x)["logits"].reshape(450, 10).argmax(axis=1)
    accuracy = 100 * np.mean(answers == label)
    readme = (DIGITS / "README.md").read_text()
    stated = {kind: float(re.search(rf"\| {kind} \| ([\d.]+) % \|", readme)[1]) for kind in ("float", "int8")}
    assert f"{accuracy:.2f}" == f"{stated['int8']:.2f}"
    assert stated["float"] >= 96.5
    assert stated["int8"] >= stated["float"] - 0.5
    assert f"({graph.macs} multiply" in readme


def test_digits_pixels_are_quantised_without_loss(images):
    x, _ = images
    tensors = golden.run(load(DIGITS / "digits_mlp.onnx"), x)
    np.testing.assert_array_equal((tensors["pixels"][:, 0].astype(int) + 128) / 8, x)


def test_digits_can_be_made_again(tmp_path):
    pytest.importorskip("sklearn")
    script = ROOT / "scripts" / "train_digits.py"
    subprocess.run(
        [sys.executable, script, "--output", tmp_path], check=True, capture_output=True, cwd=tmp_path
    )
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(path.name for path in DIGITS.iterdir())
    for name in made:
        assert (tmp_path / name).read_bytes() == (DIGITS / name).read_bytes(), name
