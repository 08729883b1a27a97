"""The example networks: against onnxruntime, against what their README says, and made again."""

import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from bitwright.gen.execute import execute
from bitwright.gen.importers import load
from bitwright.gen.mapper import compile_graph
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Bipolar, Int, short_name
from bitwright.sim import golden
from bitwright.sim.graph import (
    AveragePool,
    Binary,
    Convolution,
    FullyConnected,
    MaxPool,
    Requantise,
    Thresholds,
)

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "examples" / "digits_mlp"
README = (DIGITS / "README.md").read_text(encoding="utf-8")
CNN = ROOT / "examples" / "digits_cnn"
CNN_README = (CNN / "README.md").read_text(encoding="utf-8")
SCRIPT = ROOT / "scripts" / "train_digits.py"
EXAMPLES = {
    folder.name: json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for folder in (DIGITS, CNN)
}
MANIFEST = EXAMPLES["digits_mlp"]
LEAST_ACCURACY = {
    "digits_w8a8": 97.0,
    "digits_w4a4": 97.0,
    "digits_w2a2": 97.0,
    "digits_w1a1": 95.0,
    "digits_mixed": 97.0,
    "digits_cnn_w8a8": 98.0,
    "digits_cnn_w4a4": 98.0,
    "digits_cnn_w2a2": 97.0,
}
CONVOLUTIONAL = [name for name in LEAST_ACCURACY if "cnn" in name]
QDQ = CNN / "digits_cnn_w8a8_qdq.onnx"


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
    stated_float, stated_int8 = map(
        float, re.search(r"`digits_mlp` .* ([\d.]+) % \| ([\d.]+) % \|", README).groups()
    )
    assert f"{accuracy:.2f}" == f"{stated_int8:.2f}"
    assert stated_float >= 96.5
    assert stated_int8 >= stated_float - 0.5
    assert f"| {graph.macs} | {stated_float:.2f} %" in README


def test_digits_pixels_are_quantised_without_loss(images):
    x, _ = images
    tensors = golden.run(load(DIGITS / "digits_mlp.onnx"), x)
    np.testing.assert_array_equal((tensors["pixels"][:, 0].astype(int) + 128) / 8, x)


@pytest.fixture(scope="module")
def computed():
    """Each QONNX network: folder, manifest entry, graph, tensors of all test images by the golden model."""
    result = {}
    for example, manifest in EXAMPLES.items():
        folder = ROOT / "examples" / example
        for name, entry in manifest["networks"].items():
            graph = load(folder / entry["file"])
            tensors = golden.run(graph, np.load(folder / entry["input"])["input"])
            result[name] = folder, entry, graph, tensors
    return result


def kept_codes(graph, expected):
    """What a file of tensors has for every tensor of integers in the graph, in the graph's own shape."""
    result = {}
    for key, info in graph.tensors.items():
        if info.format is None:
            continue
        if key in expected:
            result[key] = expected[key].reshape(-1, *info.shape)
        else:
            # A map that a dense layer reads lies in memory channels last; the file has it as the network has.
            source = expected[re.sub("_(channels_last|flat)$", "", key)]
            result[key] = np.moveaxis(source, 1, -1).reshape(-1, *info.shape)
    return result


def test_every_qonnx_network_is_in_the_manifest():
    assert [name for manifest in EXAMPLES.values() for name in manifest["networks"]] == list(LEAST_ACCURACY)
    for folder, others in ((DIGITS, {"digits_mlp.onnx"}), (CNN, {QDQ.name})):
        files = {entry["file"] for entry in EXAMPLES[folder.name]["networks"].values()}
        assert files | others == {path.name for path in folder.glob("*.onnx")}


@pytest.mark.parametrize("name", LEAST_ACCURACY)
def test_qonnx_equals_the_script_s_own_evaluation(name, computed):
    """Every integer tensor of every test image that is kept, types included."""
    folder, entry, graph, tensors = computed[name]
    expected = dict(np.load(folder / entry["golden"]))
    images = EXAMPLES[folder.name].get("golden_images", 450)
    assert {len(values) for values in expected.values()} == {images}
    kept = kept_codes(graph, expected)
    assert set(expected) == {*(key for key in kept if key in graph.tensors and key in expected), "scores"}
    for key, codes in kept.items():
        np.testing.assert_array_equal(tensors[key][:images], codes, key, strict=True)
        # All codes occur, or a good part of many, so that equality says something.
        info = graph.tensors[key]
        codes = 2 if isinstance(info.format, Bipolar) else 1 << info.format.bits
        least = 17 if key == "pixels" and codes == 256 else codes if codes <= 16 else 40
        assert np.unique(kept[key]).size >= least, key
    scores = tensors["scores"].reshape(450, 10)[:images]
    np.testing.assert_allclose(scores, expected["scores"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LEAST_ACCURACY)
def test_qonnx_accuracy(name, computed, images):
    folder, entry, _, tensors = computed[name]
    label = np.load(folder / entry["input"])["label"]
    np.testing.assert_array_equal(label, images[1])
    correct = int((tensors["scores"].reshape(450, 10).argmax(axis=1) == label).sum())
    assert correct == entry["correct"]
    assert entry["accuracy"] == round(100 * correct / 450, 2) >= LEAST_ACCURACY[name]
    row = re.search(rf"`{name}` .*", CNN_README if folder == CNN else README)[0]
    float_accuracy = "" if folder == CNN else " – |"
    assert row.endswith(f"| {entry['macs']} |{float_accuracy} {entry['accuracy']:.2f} % |")


@pytest.mark.parametrize("name", LEAST_ACCURACY)
def test_qonnx_layers_are_of_the_stated_precision(name, computed):
    folder, entry, graph, _ = computed[name]
    layers = [node for node in graph.nodes if isinstance(node, FullyConnected | Convolution)]
    assert len(layers) == len(entry["layers"])
    for layer, stated in zip(layers, entry["layers"], strict=True):
        source, result = graph.tensors[layer.input], graph.tensors[layer.output]
        assert stated["precision"] == f"a{short_name(source.format)}w{short_name(layer.weight_format)}"
        reduction, channels = layer.weights[0].size, len(layer.weights)
        assert (stated["inputs"], stated["outputs"]) == (reduction, channels)
        assert layer.weight_format.contains(layer.weights)
        if folder == DIGITS:
            assert reduction % 64 == 0
        else:
            pixels = result.size // channels
            assert stated["macs"] == reduction * channels * pixels
        if layer is layers[-1]:
            assert layer.quantiser is None
            assert result.format == Int(32)
        else:
            assert isinstance(layer.quantiser, Thresholds if result.format.bits <= 4 else Requantise)
        if isinstance(layer.quantiser, Thresholds):
            # Both directions are there to be tested.
            assert 0 < layer.quantiser.descending.sum() < channels
    macs = (stated.get("macs", stated["inputs"] * stated["outputs"]) for stated in entry["layers"])
    assert entry["macs"] == graph.macs == sum(macs)


# Convolutional networks


def test_convolutional_networks_have_what_the_readme_says(computed):
    kinds = {
        name: {type(node) for node in computed[name][2].nodes} & {AveragePool, Binary, MaxPool}
        for name in CONVOLUTIONAL
    }
    assert kinds == {
        "digits_cnn_w8a8": {AveragePool, Binary, MaxPool},
        "digits_cnn_w4a4": {MaxPool},
        "digits_cnn_w2a2": {MaxPool},
    }
    depthwise = [
        node
        for node in computed["digits_cnn_w4a4"][2].nodes
        if isinstance(node, Convolution) and node.groups == len(node.weights) > 1
    ]
    assert [node.output for node in depthwise] == ["hidden2", "hidden4"]


def test_convolutional_qdq_equals_onnxruntime(images, computed):
    """Every tensor of every test image; up to the last layer they are those of the QONNX network."""
    x, label = images
    graph = load(QDQ)
    tensors = golden.run(graph, x)
    model = onnx.load(QDQ)
    made = {name for node in model.graph.node for name in node.output}
    names = [name for name in graph.tensors if name in made]
    assert len(names) == 9
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "scores")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    given = {"image": x.reshape(450, 1, 8, 8)}
    for name, expected in zip(names, session.run(names, given), strict=True):
        np.testing.assert_array_equal(tensors[name].reshape(expected.shape), expected, name, strict=True)
        assert np.unique(expected).size > 15, name
    theirs = computed["digits_cnn_w8a8"][3]
    for name in names:
        if name not in ("logits", "scores"):
            np.testing.assert_array_equal(tensors[name], theirs[name.removesuffix("_codes")], name)
    accuracy = 100 * np.mean(tensors["logits"].reshape(450, 10).argmax(axis=1) == label)
    assert accuracy >= LEAST_ACCURACY["digits_cnn_w8a8"]
    assert re.search(rf"`{QDQ.stem}` .*", CNN_README)[0].endswith(f"| {graph.macs} | {accuracy:.2f} % |")


SIMULATOR = "icarus" if shutil.which("iverilog") else "verilator"
ENGINE = EngineConfig(
    cols=8,
    lanes=8,
    requantisers=2,
    activation_depth=512,
    patch_depth=128,
    weight_depth=1024,
    channel_depth=64,
    output_depth=256,
    queue_depth=8,
    burst_beats=16,
    quantisers=("requantise", "thresholds", "accumulators"),
)
UNSIGNED = ("au8w8", "au4w4", "au2w2")
ENGINES = {
    "parallel": ENGINE.replace(precisions=("a8w8", "a4w4", "a2w2"), depthwise=True),
    "bitfusion": ENGINE.replace(pe="bitfusion", lanes=2, precisions=UNSIGNED),
    "stripes": ENGINE.replace(pe="stripes", lanes=16, cols=4, precisions=UNSIGNED),
}


@cache
def verilog(config):
    """One engine runs all networks that it is built for."""
    return emit(config)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("pe", ENGINES)
def test_convolutional_network_on_the_engine(pe, name):
    """Every tensor of a random image, against the script's own evaluation; at the network's own precision."""
    entry = EXAMPLES["digits_cnn"]["networks"][name]
    graph = load(CNN / entry["file"])
    bits = {"digits_cnn_w8a8": 8, "digits_cnn_w4a4": 4, "digits_cnn_w2a2": 2}[name]
    precision = f"a{bits}w{bits}" if pe == "parallel" else f"au{bits}w{bits}"
    # Simulating a brick that knows but one precision is much quicker.
    config = ENGINES[pe].replace(precisions=(precision,)) if pe == "bitfusion" else ENGINES[pe]
    program = compile_graph(graph, config, fuse_sums=False)
    assert {layer.precision for layer in program.layers} == {precision}
    image = random.randrange(EXAMPLES["digits_cnn"]["golden_images"])
    print(f"image {image}")
    x = np.load(CNN / entry["input"])["input"][image : image + 1]
    done = execute(program, graph, x, verilog(config), simulator=SIMULATOR)
    assert done.mismatches == {}
    kept = {key: values[image : image + 1] for key, values in np.load(CNN / entry["golden"]).items()}
    # What is pooled as it is made is nowhere in memory.
    pooled = {node.input for node in graph.nodes if isinstance(node, MaxPool)}
    for key, codes in kept_codes(graph, kept).items():
        if key in done.outputs or key not in pooled:
            np.testing.assert_array_equal(done.outputs[key], codes, key)
    np.testing.assert_allclose(done.outputs["scores"].reshape(1, 10), kept["scores"], rtol=1e-5, atol=1e-5)


def test_convolutional_qdq_on_the_engine():
    graph, config = load(QDQ), ENGINES["parallel"]
    x = np.load(DIGITS / "test.npz")["input"][:1]
    done = execute(compile_graph(graph, config), graph, x, verilog(config), simulator=SIMULATOR)
    assert done.mismatches == {}


def test_convolutional_readme_s_commands(tmp_path):
    """They work as they stand there, and every tensor is equal."""
    blocks = re.findall(r"^```console\n(.*?)^```", CNN_README, re.MULTILINE | re.DOTALL)
    commands = re.split(r"^\$ ", "".join(blocks), flags=re.MULTILINE)[1:]
    assert [command.split()[1] for command in commands] == ["simulate"] * 3
    assert re.search(r"^```toml\n(.*?)^```", CNN_README, re.MULTILINE | re.DOTALL)[1] == (
        CNN / "engine.toml"
    ).read_text(encoding="utf-8")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    networks = []
    for command in commands:
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        report = json.loads((tmp_path / "build" / "digits_cnn" / "report.json").read_text())
        assert report["mismatches"] == 0
        assert report["accuracy"] is not None
        networks.append(report["network"])
    assert networks == ["digits_cnn_w2a2", "digits_cnn_w4a4", "digits_cnn_w8a8"]


def test_thermometer_input_is_what_the_readme_says(images):
    x, label = images
    test = np.load(DIGITS / "test_thermometer.npz")
    levels = [int(n) for n in re.search(r"at least ([\d, ]+) for", README)[1].split(", ")]
    expected = np.concatenate([np.where(x >= level, 1, -1) for level in levels], axis=1)
    np.testing.assert_array_equal(test["input"], expected.astype(np.int8), strict=True)
    np.testing.assert_array_equal(test["label"], label)


@pytest.fixture(scope="module")
def script():
    """The training script as a module."""
    pytest.importorskip("sklearn")
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("train_digits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))
    for name in (spec.name, "low_bit_export", "low_bit_training"):
        del sys.modules[name]


@pytest.mark.parametrize("example", EXAMPLES)
def test_digits_can_be_made_again(example, tmp_path, script):
    subprocess.run(
        [sys.executable, SCRIPT, example, "--output", tmp_path], check=True, capture_output=True, cwd=tmp_path
    )
    assert [path.name for path in tmp_path.iterdir()] == [example]
    folder, kept = tmp_path / example, ROOT / "examples" / example
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in kept.iterdir())
    exact = ("digits_mlp.onnx", "test.npz", "test_thermometer.npz") if kept == DIGITS else ("engine.toml",)
    for name in exact:
        assert (folder / name).read_bytes() == (kept / name).read_bytes(), name
    # The networks of few bits may come out otherwise where numpy computes otherwise, within the tolerance.
    assert script.differences(folder, kept) == []


def test_the_script_refuses_what_is_no_example(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "digits", "--output", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "digits is no example; there are digits_mlp, digits_cnn" in done.stderr


def test_check_finds_what_differs(tmp_path, script):
    kept = tmp_path / "kept"
    shutil.copytree(DIGITS, kept)
    assert script.differences(DIGITS, kept) == []

    (kept / "digits_w4a4.onnx").write_bytes((DIGITS / "digits_w2a2.onnx").read_bytes())
    (kept / "golden_digits_w2a2.npz").unlink()
    (kept / "test.npz").write_bytes((DIGITS / "test_thermometer.npz").read_bytes())
    (kept / "digits_mlp.onnx").write_bytes(b"")
    (kept / "more.txt").touch()
    assert script.differences(DIGITS, kept) == [
        "more.txt is not written by this script",
        "digits_mlp.onnx has other numbers",
        "digits_w4a4.onnx has other nodes or constants of other shapes",
        "golden_digits_w2a2.npz is missing",
        "test.npz does not hold the test images",
    ]


def test_check_tolerates_a_point_of_accuracy(tmp_path, script):
    kept = tmp_path / "kept"
    shutil.copytree(DIGITS, kept)
    manifest = json.loads(json.dumps(MANIFEST))
    entry = manifest["networks"]["digits_w2a2"]

    def differences_with(**changes):
        entry.update(changes)
        (kept / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return script.differences(DIGITS, kept)

    reached = entry["accuracy"]
    assert differences_with(accuracy=reached - 0.9, correct=entry["correct"] - 4) == []
    assert differences_with(accuracy=reached - 1.5) == [
        f"digits_w2a2 reaches {reached} %, not {reached - 1.5} %"
    ]
    assert differences_with(macs=1) == ["manifest.json describes digits_w2a2 otherwise"]


@pytest.mark.parametrize(("signed", "boundaries"), [(False, [0.5, 1.5, 2.5]), (True, [-1.5, -0.5, 0.5])])
def test_shifts_are_settled_between_thresholds(signed, boundaries, script):
    """No accumulator of a settled channel comes near a boundary, even where one sat on it."""
    exporting = importlib.import_module("low_bit_export")
    gain, mean, deviation = np.array([1.0, -2.0]), np.array([3.0, -5.0]), np.array([4.0, 8.0])
    # Accumulators 3 and -5 are normalised to 0.5, a boundary of two bits.
    shift = exporting.settle(gain, mean, deviation, np.array([0.5, 0.5]), 1.0, 2, signed)
    z = (np.arange(-100, 101)[:, None] - mean) / deviation * gain + shift
    distance = np.abs(z[:, :, None] - np.array(boundaries)).min(axis=(0, 2)) / (np.abs(gain) / deviation)
    assert (distance >= exporting.THRESHOLD_MARGIN).all()
    assert (np.abs(shift - 0.5) <= 0.5 * np.abs(gain) / deviation + 1e-6).all()
