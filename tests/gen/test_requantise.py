"""Requantisation after training: against real arithmetic, against brute force, and on the emitted Verilog."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitwright.gen.execute import execute
from bitwright.gen.importers import load
from bitwright.gen.mapper import compile_graph
from bitwright.gen.report import accuracy
from bitwright.gen.requantise import converted_input, matched, parse_overrides, requantised, unmet
from bitwright.gen.synthetic import (
    ConvolutionShape,
    random_cnn,
    random_input,
    random_mlp,
    random_residual,
)
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError
from bitwright.hw.formats import Bipolar, Int, Ternary
from bitwright.hw.pe.contract import Precision
from bitwright.sim import golden
from bitwright.sim.graph import (
    LEVEL_MAX,
    LEVEL_MIN,
    AveragePool,
    Binary,
    Concatenate,
    FullyConnected,
    Graph,
    Lookup,
    MaxPool,
    NetworkError,
    Pad,
    Requantise,
    Reshape,
    Softmax,
    TensorInfo,
    Thresholds,
    Transpose,
)

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits_mlp"
NETWORK = DIGITS / "digits_mlp.onnx"
A4W4, A8W8 = Precision.parse("a4w4"), Precision.parse("a8w8")


@pytest.fixture
def rng():
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def layers(graph):
    return [node for node, _ in graph.fully_connected()]


def real(graph, name, codes):
    """What codes stand for."""
    info = graph.tensors[name]
    return info.scale * (codes.astype(float) - info.zero_point)


def digits(name="digits_mlp", data="test.npz"):
    graph = load(DIGITS / f"{name}.onnx")
    test = np.load(DIGITS / data)
    return graph, golden.prepare_input(graph, test["input"]), test["label"]


def reached(graph, x, label, *overrides):
    changed = requantised(graph, parse_overrides(overrides))
    tensors = golden.run(changed, converted_input(graph, changed, x))
    return accuracy(tensors[changed.output], label)


# What is asked for


def test_overrides_are_read_in_order(tmp_path):
    (tmp_path / "p.toml").write_text('[layers]\n"fc=2" = "a2w2"\n"*" = "au4wt"\n')
    found = parse_overrides(["*=a8w8", "fc=2=a4w4", str(tmp_path / "p.toml"), " fc3 = abwb"])
    assert [(name, str(precision)) for name, precision in found.items()] == [
        ("fc=2", "a2w2"),
        ("*", "au4wt"),
        ("fc3", "abwb"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a4w4", "LAYER=PRECISION"),
        ("=a4w4", "LAYER=PRECISION"),
        ("fc1=a4", "'a4' is no precision"),
        ("fc1=a99w4", "1 to 32 bits"),
        ("fc1=a" + "9" * 5000 + "w4", "is no precision|bits|digits"),
        ("fc1=ap9w4", "2 to 6 bits"),
        ("missing.toml", "no such file"),
        ("broken.toml", "not valid TOML"),
        ("deep.toml", "cannot be read|not valid"),
        ("binary.toml", "cannot be read"),
        ("folder.toml", "cannot be read"),
        ("other.toml", r"\[layers\]"),
        ("flat.toml", r"\[layers\]"),
        ("number.toml", "'fc1' must be a text"),
        ("dotted.toml", "in quotes"),
        ("wrong.toml", "'w4' is no precision"),
    ],
)
def test_bad_overrides_are_refused(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text("[layers")
    Path("deep.toml").write_text("x = " + "[" * 100_000)
    Path("binary.toml").write_bytes(b"\xff\xfe\x00")
    Path("folder.toml").mkdir()
    Path("other.toml").write_text('[layers]\n[tensors]\nx = "a4"\n')
    Path("flat.toml").write_text('layers = "a4w4"\n')
    Path("number.toml").write_text("[layers]\nfc1 = 4\n")
    Path("dotted.toml").write_text('[layers]\nblock.fc1 = "a4w4"\n')
    Path("wrong.toml").write_text('[layers]\nfc1 = "w4"\n')
    with pytest.raises(BitwrightError, match=words) as refused:
        parse_overrides([text])
    assert str(refused.value).startswith("--precision ")
    assert len(str(refused.value)) < 700


def test_names_and_globs():
    graph = random_mlp([8, 8, 8, 8])
    a2w2 = Precision.parse("a2w2")
    assert matched(graph, {"fc2": a2w2, "fc[01]": A4W4}) == {"fc0": A4W4, "fc1": A4W4, "fc2": a2w2}
    assert matched(graph, {"*": A4W4, "fc1": a2w2})["fc1"] == a2w2
    assert matched(graph, {"fc1": a2w2, "*": A4W4})["fc1"] == A4W4
    # A node may be called what a glob means something else by.
    odd = replace(graph, nodes=(replace(graph.nodes[0], name="f[0]*"), *graph.nodes[1:]))
    assert matched(odd, {"f[0]*": A4W4}) == {"f[0]*": A4W4}
    with pytest.raises(NetworkError, match=r"'fc_1'.*; there are fc0, fc1, fc2.*did you mean 'fc1'"):
        requantised(graph, {"fc_1": A4W4})
    with pytest.raises(NetworkError, match=r"'conv\*'.*none of that name; there are fc0"):
        requantised(graph, {"conv*": A4W4})


# What becomes of the graph


def test_what_fits_stays():
    for name, precision in (("digits_mlp", "a8w8"), ("digits_w8a8", "au8w8"), ("digits_w1a1", "a1wb")):
        graph = load(DIGITS / f"{name}.onnx")
        changed = requantised(graph, {"*": Precision.parse(precision)})
        assert changed.tensors == graph.tensors
        for before, after in zip(layers(graph), layers(changed), strict=True):
            assert (before.weights == after.weights).all()
            assert (before.bias == after.bias).all()
            match before.quantiser:
                case Requantise():
                    assert (before.quantiser.multiplier == after.quantiser.multiplier).all()
                    assert (before.quantiser.shift == after.quantiser.shift).all()
                case Thresholds():
                    assert (before.quantiser.levels == after.quantiser.levels).all()


@pytest.mark.parametrize(
    ("name", "precision"), [("digits_mlp", "au8w8"), ("digits_w8a8", "a8w8"), ("digits_w4a4", "a4w4")]
)
def test_another_sign_changes_no_number(name, precision):
    graph, x, _ = digits(name)
    changed = requantised(graph, {"*": Precision.parse(precision)})
    before, after = golden.run(graph, x), golden.run(changed, x)
    assert list(before) == list(after)
    moved = 0
    for tensor, info in changed.tensors.items():
        if info.format is None:
            assert (before[tensor] == after[tensor]).all()
        else:
            assert (real(graph, tensor, before[tensor]) == real(changed, tensor, after[tensor])).all()
            moved += info.format != graph.tensors[tensor].format
    assert moved == 3


@pytest.mark.parametrize("precision", ["a4w4", "au4w3", "a6w2", "a5wt", "a3wb", "au2w8", "a8wp4", "a1w4"])
def test_real_numbers_stay(precision, rng):
    """Each layer, computed with real numbers from what it reads and its old weights, bias and scale."""
    graph = random_mlp([40, 30, 20, 10], rounding="half_even", seed=int(rng.integers(1 << 32)))
    asked = Precision.parse(precision)
    changed = requantised(graph, {"*": asked})
    assert list(changed.tensors) == list(graph.tensors)
    x = random_input(graph, count=20, seed=int(rng.integers(1 << 32)))
    tensors = golden.run(changed, converted_input(graph, changed, x))
    for before, after in zip(layers(graph), layers(changed), strict=True):
        assert after.weight_format == asked.weight
        assert changed.tensors[before.input].format == asked.activation
        old, new = graph.tensors[before.output], changed.tensors[before.output]
        factor = before.quantiser.multiplier / 2.0**31 * 2.0**before.quantiser.shift * old.scale
        # The scales of the new weights are in the new multipliers.
        rescaled = after.quantiser.multiplier / 2.0**31 * 2.0**after.quantiser.shift * new.scale
        ratio = changed.tensors[before.input].scale / graph.tensors[before.input].scale
        scale = rescaled / factor / ratio
        close = scale[:, None] * after.weights
        # No wrong sign, and not worse than the greatest weight's scale without any clipping.
        assert (np.sign(close) * np.sign(before.weights) >= 0).all() or asked.weight == Bipolar()
        greatest = np.abs(before.weights).max(axis=1, keepdims=True) / asked.weight.max
        if isinstance(asked.weight, Int):
            plain = np.clip(np.rint(before.weights / greatest), asked.weight.min, asked.weight.max) * greatest
            error, other = ((before.weights - y) ** 2 for y in (close, plain))
            assert (error.sum(axis=1) <= other.sum(axis=1) + 1e-3).all()
        # Sums of what is read, as real numbers in the old accumulator's unit; then the clamp.
        read = real(changed, before.input, tensors[before.input]) / graph.tensors[before.input].scale
        sums = factor * (read @ close.T + before.bias)
        clamp = [
            old.scale * (code - old.zero_point) for code in (before.quantiser.low, before.quantiser.high)
        ]
        made = real(changed, before.output, tensors[before.output])
        # Half a code for the rounding, half for the zero point's, and the bias' rounding.
        slack = new.scale * (1 if new.format != old.format else 0.5) + rescaled.max() / 2 + 1e-6
        assert np.abs(made - np.clip(sums, *clamp)).max() <= slack


def test_weights_have_the_least_error_there_is(rng):
    """Two bits, few weights: against a scale searched for finely."""
    graph = random_mlp([6, 30], seed=int(rng.integers(1 << 32)))
    before = layers(graph)[0]
    after = layers(requantised(graph, {"fc0": Precision.parse("a8w2")}))[0]
    factors = [node.quantiser.multiplier * 2.0**node.quantiser.shift for node in (before, after)]
    found = ((before.weights - (factors[1] / factors[0])[:, None] * after.weights) ** 2).sum(axis=1)
    tried = np.linspace(1, 200, 4000)[:, None, None]
    codes = np.clip(np.rint(before.weights / tried), -2, 1)
    best = ((before.weights - tried * codes) ** 2).sum(axis=2).min(axis=0)
    assert (found <= 1.1 * best + 1e-3).mean() >= 0.9
    assert (found <= 1.5 * best + 1e-3).all()


def test_a_channel_of_zeros_is_its_bias_only():
    """Bipolar weights have no zero."""
    graph = random_mlp([64, 3], rounding="half_even")
    node = layers(graph)[0]
    multiplier, shift = np.full(3, 1 << 30), np.full(3, -10)
    node = replace(
        node,
        weights=node.weights * np.array([0, 1, 0])[:, None],
        bias=np.array([40_000, 0, 0]),
        quantiser=replace(node.quantiser, multiplier=multiplier, shift=shift),
    )
    graph = replace(graph, nodes=(node,))
    changed = requantised(graph, {"fc0": Precision.parse("a8wb")})
    assert changed.nodes[0].weight_format == Bipolar()
    x = random_input(graph, count=50)
    expected, found = (golden.run(each, x)["t1"][..., [0, 2]] for each in (graph, changed))
    assert (expected == found).all()


def threshold_layer(rng, count, descending, result, low):
    levels = np.sort(rng.integers(-25, 25, (4, count)), axis=1)
    levels[0, 0], levels[1, -1] = LEVEL_MIN, LEVEL_MAX
    first = FullyConnected(
        name="first",
        input="x",
        output="h",
        weights=np.arange(-4, 4).reshape(4, 2) | 1,
        weight_format=Int(4),
        bias=np.array([5, -3, 0, 1]),
        quantiser=Thresholds(
            levels=levels, descending=np.array([descending] * 2 + [not descending] * 2), low=low
        ),
    )
    second = FullyConnected(
        name="second",
        input="h",
        output="acc",
        weights=np.arange(12).reshape(3, 4) - 6,
        weight_format=Int(4),
        bias=np.array([0, 1, 2]),
        quantiser=None,
    )
    infos = [
        TensorInfo(name="x", shape=(1, 2), format=Int(4), scale=0.5),
        TensorInfo(name="h", shape=(1, 4), format=result, scale=0.25, zero_point=low if low >= 0 else 0),
        TensorInfo(name="acc", shape=(1, 3), format=Int(32), scale=0.125),
    ]
    return Graph(
        name="g", tensors={info.name: info for info in infos}, nodes=(first, second), input="x", output="acc"
    )


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    ("result", "low", "asked"),
    [
        (Int(4, signed=False), 0, "a2w4"),
        (Int(4, signed=False), 0, "au3w4"),
        (Int(4, signed=False), 0, "a4w4"),
        (Int(4, signed=False), 0, "a1w4"),
        (Int(3), -3, "au2w4"),
        (Int(2, signed=False), 0, "a4w4"),
        (Bipolar(), -1, "a4w4"),
    ],
)
def test_thresholds(descending, result, low, asked, rng):
    """Every input: results are the old ones, rounded to the new format."""
    count = 1 if result == Bipolar() else (5 if low == -3 else (1 << result.bits) - 1)
    graph = threshold_layer(rng, count, descending, result, low)
    changed = requantised(graph, {"second": Precision.parse(asked)})
    x = np.array([[[a, b]] for a in range(-8, 8) for b in range(-8, 8)])
    before, after = golden.run(graph, x)["h"], golden.run(changed, x)["h"]
    old, new = graph.tensors["h"], changed.tensors["h"]
    if result == Bipolar():
        assert old == new
        assert (before == after).all()
        return
    assert new.format == Precision.parse(asked).activation
    assert changed.nodes[0].quantiser.count == min(count, (1 << new.format.bits) - 1)
    codes = np.rint((before - old.zero_point) * (old.scale / new.scale)) + new.zero_point
    assert (after == codes.clip(new.format.min, new.format.max)).all()
    assert len(np.unique(after)) >= min(count + 1, 1 << new.format.bits) // 2 + (new.format.bits == 1)


@pytest.mark.parametrize("precision", ["a4w2", "a3w4", "a2wt"])
def test_thresholds_and_sums_of_a_requantised_layer(precision, rng):
    """New levels are where the old ones were in real numbers; sums that are not quantised mean the same."""
    graph = threshold_layer(rng, 15, False, Int(4, signed=False), 0)
    changed = requantised(graph, {"*": Precision.parse(precision)})
    x = random_input(graph, count=200)
    tensors = golden.run(changed, converted_input(graph, changed, x))
    for before, after in zip(graph.nodes, changed.nodes, strict=True):
        ratio = changed.tensors[before.input].scale / graph.tensors[before.input].scale
        # The scale of each channel's weights, by least squares.
        scale = (before.weights * after.weights).sum(axis=1) / (after.weights**2).sum(axis=1).clip(1)
        if before.quantiser is None:
            scale = np.full(3, (before.weights * after.weights).sum() / (after.weights**2).sum())
            sums = real(changed, "acc", tensors["acc"])
            read = real(changed, "h", tensors["h"]) / graph.tensors["h"].scale
            expected = graph.tensors["acc"].scale * (read @ (scale[:, None] * after.weights).T + before.bias)
            assert np.abs(sums - expected).max() <= changed.tensors["acc"].scale / 2 + 1e-9
            continue
        acc = golden.accumulators(after, tensors["x"], changed.tensors["x"]) - after.bias
        equivalent = acc * scale * ratio + before.bias
        levels = before.quantiser.levels - np.where(before.quantiser.descending, -0.5, 0.5)[:, None]
        counts = np.where(
            before.quantiser.descending[:, None],
            equivalent[..., None] <= levels,
            equivalent[..., None] >= levels,
        ).sum(axis=-1)
        near = np.abs(equivalent[..., None] - levels).min(axis=-1) < 1e-6
        old, new = graph.tensors["h"], changed.tensors["h"]
        codes = np.rint(counts * (old.scale / new.scale)).astype(int) + new.zero_point
        right = tensors["h"] == codes.clip(new.format.min, new.format.max)
        assert (right | near).all()
        assert right.mean() > 0.9


def test_a_tensor_that_two_layers_read():
    graph = random_mlp([8, 6, 4])
    first, second = layers(graph)
    other = replace(second, name="other", output="t3")
    tensors = graph.tensors | {"t3": replace(graph.tensors["t2"], name="t3")}
    graph = replace(graph, tensors=tensors, nodes=(first, second, other))
    with pytest.raises(NetworkError, match=r"'other': reads 't1' as 'fc1' does.*one only"):
        requantised(graph, {"fc1": A4W4})
    with pytest.raises(NetworkError, match=r"reads 't1' as 'fc1' does.*not for a8w8"):
        requantised(graph, {"fc1": A4W4, "other": A8W8})
    changed = requantised(graph, {"fc1": A4W4, "other": Precision.parse("a4w8")})
    assert changed.tensors["t1"].format == Int(4)
    assert (changed.nodes[2].weights == other.weights).all()
    # Weights alone are a layer's own business.
    assert requantised(graph, {"fc1": Precision.parse("a8w2")}).nodes[1].weight_format == Int(2)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("abw4", "reads 't0' of int8, which cannot be made bipolar after training; ask for integer"),
        ("atw4", "cannot be made ternary"),
        ("ap4w4", "cannot be made pow2_4"),
        ("a8wu4", "cannot be made uint4: they are of both signs"),
        ("a8w1", "cannot be made int1: they are of both signs; ask for wb or w2"),
    ],
)
def test_what_cannot_be_had_is_refused(asked, words):
    with pytest.raises(NetworkError, match=words) as refused:
        requantised(random_mlp([8, 4]), {"*": Precision.parse(asked)})
    assert "fc0" in str(refused.value)


def test_accumulators_that_a_layer_reads_are_refused():
    graph = random_mlp([8, 6, 4])
    first = replace(layers(graph)[0], quantiser=None)
    sums = TensorInfo(name="t1", shape=(1, 6), format=Int(32))
    graph = replace(graph, tensors=graph.tensors | {"t1": sums}, nodes=(first, graph.nodes[1]))
    with pytest.raises(NetworkError, match="'fc1': reads 't1', accumulators that are not quantised"):
        requantised(graph, {"fc1": A4W4})


def test_a_factor_beyond_the_hardware_is_refused():
    graph = random_mlp([8, 4])
    node = layers(graph)[0]
    quantiser = replace(node.quantiser, multiplier=np.full(4, 1 << 30), shift=np.full(4, 6))
    graph = replace(graph, nodes=(replace(node, quantiser=quantiser),))
    with pytest.raises(
        NetworkError, match=r"'fc0': its sums would have to be multiplied by .* 64 is the limit"
    ):
        requantised(graph, {"fc0": Precision.parse("a2w2")})


# Convolutions, pools, sums


def expected_sums(before, after, changed, tensors):
    """A product's sums as real numbers in its old accumulators' unit, of the weights that it has now."""
    old, new = before.quantiser, after.quantiser
    source, result = before.input, before.output
    factor = new.multiplier / old.multiplier * 2.0 ** (new.shift - old.shift)
    factor *= changed.tensors[result].scale
    plain = replace(after, bias=np.zeros_like(after.bias), quantiser=None)
    sums = golden.accumulators(plain, tensors[source], changed.tensors[source])
    return sums * factor + before.bias


@pytest.mark.parametrize("precision", ["a4w4", "au5w3", "a6w2", "a3wt", "a8w4"])
@pytest.mark.parametrize("channels_first", [False, True])
def test_convolutions_keep_their_numbers(precision, channels_first, rng):
    """Of groups, depthwise, 1-D, with strides, padding and dilation; scales of all tensors are 1."""
    around = ((1, 1), (1, 0))
    layers = [
        ConvolutionShape(channels=6, kernel=(3, 3), padding=around, stride=(2, 1)),
        ConvolutionShape(channels=8, kernel=(2, 3), groups=2, padding=around),
        ConvolutionShape(kernel=(3, 3), groups=8, padding=around, dilation=(2, 1)),
        ConvolutionShape(channels=4, kernel=(1, 3), stride=(1, 2)),
    ]
    seed = int(rng.integers(1 << 32))
    graph = random_cnn((11, 9, 3), layers, rounding="half_even", channels_first=channels_first, seed=seed)
    asked = Precision.parse(precision)
    changed = requantised(graph, {"*": asked})
    x = random_input(graph, count=3, seed=seed)
    tensors = golden.run(changed, converted_input(graph, changed, x))
    for before, after in zip(graph.nodes, changed.nodes, strict=True):
        assert after.weight_format == asked.weight
        assert after.weight_format.contains(after.weights)
        assert changed.tensors[before.input].format == asked.activation
        real_factor = before.quantiser.multiplier / 2.0**31 * 2.0**before.quantiser.shift
        sums = real_factor * expected_sums(before, after, changed, tensors)
        info = graph.tensors[before.output]
        clamp = [code - info.zero_point for code in (before.quantiser.low, before.quantiser.high)]
        made = info.to_canonical(real(changed, before.output, tensors[before.output])).reshape(sums.shape)
        scale = changed.tensors[before.output].scale
        # Half a code for the rounding, half for the zero point's, and the bias' rounding.
        step = (after.quantiser.multiplier * 2.0 ** (after.quantiser.shift - 31)).max() * scale
        slack = scale * (1 if scale > 1 or after is not changed.nodes[-1] else 0.5) + step / 2 + 1e-6
        assert np.abs(made - np.clip(sums, *clamp)).max() <= slack
    # Weights of a layer are those of its own kernel still, not only their numbers.
    error = [
        np.corrcoef(before.weights.ravel(), after.weights.ravel())[0, 1]
        for before, after in zip(graph.nodes, changed.nodes, strict=True)
    ]
    assert min(error) > 0.7


def residual(rng):
    seed = int(rng.integers(1 << 32))
    graph = random_residual((int(rng.integers(8, 12)), 8, 3), channels=4, seed=seed)
    return graph, random_input(graph, count=20, seed=seed)


def test_another_sign_of_a_residual_network(rng):
    graph, x = residual(rng)
    changed = requantised(graph, {"*": Precision.parse("au8w8")})
    before, after = golden.run(graph, x), golden.run(changed, converted_input(graph, changed, x))
    for name, info in changed.tensors.items():
        assert (real(graph, name, before[name]) == real(changed, name, after[name])).all(), name
        read_by_layers = name not in ("right_out", "down_out", "shortcut_out", "point_out", "y")
        assert info.format == Int(8, signed=not read_by_layers), name


@pytest.mark.parametrize("precision", ["a4w8", "au5w8", "a6w8", "a7w8"])
def test_pools_and_sums_keep_their_numbers(precision, rng):
    """Each computed with real numbers from what it reads; every tensor of these networks has the scale 1."""
    graph, x = residual(rng)
    changed = requantised(graph, {"*": Precision.parse(precision)})
    tensors = golden.run(changed, converted_input(graph, changed, x))
    numbers = {name: real(changed, name, tensors[name]) for name in tensors}
    seen = set()
    for node in graph.nodes:
        info, scale = graph.tensors[node.output], changed.tensors[node.output].scale
        match node:
            case Binary():
                first, second = (numbers[name] for name in node.inputs)
                expected = (0.7 * first + 0.6 * second).clip(0, info.format.max - info.zero_point)
                # The old table was rounded to codes of its own, of which a few bound each sum.
                slack = 0.5 * scale + 0.5 * scale + 1
            case AveragePool():
                expected = numbers[node.input].mean(axis=(2, 3), keepdims=True)
                slack = scale
            case MaxPool():
                assert changed.tensors[node.input].scale == scale
                before = numbers[node.input][:, :, : 2 * (expected_rows := info.shape[1])]
                expected = before.reshape(len(before), 1, expected_rows, 2, info.shape[2], 2, -1).max((3, 5))
                slack = 0
            case _:
                continue
        assert np.abs(numbers[node.output] - expected).max() <= slack, node.name
        assert np.abs((numbers[node.output] - expected).mean()) <= scale / 4, node.name
        seen.add(type(node))
    assert seen == {Binary, AveragePool, MaxPool}


def tabulated_network(table, pads=2):
    """x -> pad -> transpose -> fc1 -> y -> function -> fc2 -> z, with x of 2 by 3."""
    mlp = random_mlp([2, 6, 4], rows=3 + pads)
    first, second = layers(mlp)
    codes = mlp.tensors["t0"]
    infos = {
        info.name: info
        for info in (
            replace(codes, name="x", shape=(2, 3)),
            replace(codes, name="padded", shape=(2, 3 + pads)),
            codes,
            mlp.tensors["t1"],
            replace(mlp.tensors["t1"], name="f", zero_point=0),
            mlp.tensors["t2"],
        )
    }
    nodes = (
        Pad(name="pad", input="x", output="padded", padding=((0, 0), (0, pads)), value=7),
        Transpose(name="turn", input="padded", output="t0", axes=(1, 0)),
        first,
        Lookup(name="function", input="t1", output="f", table=table),
        replace(second, input="f"),
    )
    return Graph(name="g", tensors=infos, nodes=nodes, input="x", output="t2")


def test_functions_padding_and_transpositions(rng):
    codes = np.arange(-128, 128)
    table = np.rint(100 * np.tanh(codes / 40)).astype(np.int64)
    graph = tabulated_network(table)
    changed = requantised(graph, parse_overrides(["*=a5w8"]))
    narrow = {name for name, info in changed.tensors.items() if info.format == Int(5)}
    assert narrow == {"x", "padded", "t0", "f"}
    x = random_input(graph, count=30, seed=int(rng.integers(1 << 32)))
    tensors = golden.run(changed, converted_input(graph, changed, x))
    padding = real(changed, "padded", tensors["padded"])[:, :, 3:]
    step = changed.tensors["x"].scale
    assert np.abs(padding - (7 - graph.tensors["x"].zero_point)).max() <= step
    assert len(np.unique(padding)) == 1
    # The function, of what is read now; between codes it is as good as straight.
    read = real(changed, "t1", tensors["t1"]) + graph.tensors["t1"].zero_point
    expected = 100 * np.tanh(read.clip(-128, 127) / 40)
    assert np.abs(real(changed, "f", tensors["f"]) - expected).max() <= changed.tensors["f"].scale + 1


def test_a_product_of_two_tensors(rng):
    """No sum: what lies between the table's entries."""
    graph = random_mlp([6, 6, 4], activation=[Int(6)] * 3)
    first, second = layers(graph)
    codes = np.arange(-32, 32)
    zeros = [graph.tensors[name].zero_point for name in ("t0", "t1")]
    table = np.rint(np.outer(codes - zeros[0], codes - zeros[1]) / 128).clip(-32, 31).astype(np.int64)
    infos = graph.tensors | {"p": replace(graph.tensors["t1"], name="p", zero_point=0)}
    nodes = (
        first,
        Binary(name="times", inputs=("t0", "t1"), output="p", table=table),
        replace(second, input="p"),
    )
    graph = Graph(name="g", tensors=infos, nodes=nodes, input="t0", output="t2")
    changed = requantised(graph, parse_overrides(["*=a4w8"]))
    x = random_input(graph, count=50, seed=int(rng.integers(1 << 32)))
    tensors = golden.run(changed, converted_input(graph, changed, x))
    left, right = (real(changed, name, tensors[name]) for name in ("t0", "t1"))
    found = real(changed, "p", tensors["p"])
    assert np.abs(found - (left * right / 128).clip(-32, 31)).max() <= changed.tensors["p"].scale + 1


def test_averages_that_are_not_straight(rng):
    """A pool whose table is some other function of the sum."""
    info = TensorInfo(name="x", shape=(1, 2, 3, 4), format=Int(8), zero_point=5)
    result = TensorInfo(name="y", shape=(1, 1, 1, 4), format=Int(8))
    pool = AveragePool(name="pool", input="x", output="y", kernel=(2, 3)).tabulated(
        info, lambda sums, count: np.rint(100 * np.tanh(sums / count / 40)).astype(np.int64)
    )
    fc = replace(layers(random_mlp([4, 4]))[0], name="fc", input="flat", output="z")
    infos = (
        info,
        result,
        replace(result, name="flat", shape=(1, 4)),
        TensorInfo(name="z", shape=(1, 4), format=Int(8)),
    )
    graph = Graph(
        name="g",
        tensors={each.name: each for each in infos},
        nodes=(pool, Reshape(name="flatten", input="y", output="flat"), fc),
        input="x",
        output="z",
    )
    changed = requantised(graph, {"fc": Precision.parse("a5w8")})
    assert changed.tensors["y"].format == Int(5)
    x = random_input(graph, count=40, seed=int(rng.integers(1 << 32)))
    tensors = golden.run(changed, x)
    expected = 100 * np.tanh(x.mean(axis=(2, 3), keepdims=True) / 40)
    assert np.abs(real(changed, "y", tensors["y"]) - expected).max() <= changed.tensors["y"].scale + 1


def test_tensors_that_hold_the_same_codes():
    graph = random_residual((8, 8, 3), channels=4, depthwise=False)
    # A pool does not change what its codes stand for: who reads it asks for what the pool reads, too.
    changed = requantised(graph, {"left": A4W4})
    assert {changed.tensors[name].format for name in ("first_out", "pool_out")} == {Int(4)}
    with pytest.raises(NetworkError, match="node 'shortcut': reads 'sum_out' as 'down' does"):
        requantised(graph, {"down": A4W4})
    # So does a layer that reads what was pooled, before it is.
    nodes = list(graph.nodes)
    first = next(node for node in nodes if node.name == "left")
    nodes.append(replace(first, name="other", input="first_out", output="other_out"))
    tensors = graph.tensors | {
        "other_out": replace(graph.tensors["first_out"], name="other_out", zero_point=0)
    }
    with pytest.raises(NetworkError, match="'other': reads 'first_out', which holds codes that 'left' reads"):
        requantised(replace(graph, tensors=tensors, nodes=tuple(nodes)), {"left": A4W4})


def test_what_is_the_output_stays():
    graph = random_residual((8, 8, 3), channels=4, depthwise=False)
    with pytest.raises(
        NetworkError, match="'classes': reads 'flat_out', whose codes are the network's output"
    ):
        requantised(replace(graph, output="mean_out"), {"classes": A4W4})
    changed = requantised(replace(graph, output="mean_out"), {"classes": Precision.parse("a8w4")})
    assert changed.tensors["mean_out"] == graph.tensors["mean_out"]


def test_a_softmax_of_int8_keeps_what_it_reads():
    graph = random_mlp([8, 6, 4])
    share = TensorInfo(name="share", shape=(1, 6), format=Int(8), scale=1 / 256, zero_point=-128)
    node = Softmax(name="softmax", input="t1", output="share", arithmetic="tflite")
    graph = replace(
        graph, tensors=graph.tensors | {"share": share}, nodes=(*graph.nodes, node), output="share"
    )
    with pytest.raises(NetworkError, match="node 'softmax': TFLite's softmax is from int8"):
        requantised(graph, {"fc1": A4W4})


def test_sums_that_are_joined_are_refused():
    graph = random_mlp([8, 6])
    fc = replace(layers(graph)[0], quantiser=None)
    sums = [TensorInfo(name=name, shape=(1, 6), format=Int(32)) for name in ("s0", "s1")]
    both = TensorInfo(name="both", shape=(1, 12), format=Int(32))
    nodes = (
        replace(fc, output="s0"),
        replace(fc, name="fc1", output="s1"),
        Concatenate(name="join", inputs=("s0", "s1"), output="both", axis=1),
    )
    infos = {info.name: info for info in (graph.tensors["t0"], *sums, both)}
    graph = Graph(name="g", tensors=infos, nodes=nodes, input="t0", output="both")
    with pytest.raises(NetworkError, match="'fc0': its sums, which are not quantised, are joined"):
        requantised(graph, {"fc0": Precision.parse("a8w4")})
    # One alone takes its scale with it, under other names as well.
    nodes = (nodes[0], Reshape(name="shape", input="s0", output="s1"))
    graph = Graph(
        name="g",
        tensors={name: infos[name] for name in ("t0", "s0", "s1")},
        nodes=nodes,
        input="t0",
        output="s1",
    )
    changed = requantised(graph, {"fc0": Precision.parse("a8w4")})
    assert changed.tensors["s0"].scale == changed.tensors["s1"].scale > 5


# Accuracy, and the hardware


def test_accuracy_of_the_examples():
    graph, x, label = digits()
    assert reached(graph, x, label, "*=a8w8") == accuracy(golden.run(graph, x)[graph.output], label)
    assert reached(graph, x, label, "*=a6w6") > 0.97
    assert reached(graph, x, label, "*=a4w4") > 0.95
    assert reached(graph, x, label, "*=a4w2") > 0.85
    graph, x, label = digits("digits_w8a8")
    assert reached(graph, x, label, "*=a4w4") > 0.97
    graph, x, label = digits("digits_mixed")  # thresholds, bipolar and sums
    assert reached(graph, x, label, "*=a4w4") > 0.97


def test_the_documented_accuracies():
    """Of every row of the table in docs/precision.md."""
    text = (ROOT / "docs" / "precision.md").read_text(encoding="utf-8")
    rows = [line.strip("| \n").split("|") for line in text.splitlines() if line.startswith("| `digits")]
    assert len(rows) >= 6
    for name, overrides, stated, *_ in (map(str.strip, row) for row in rows):
        graph, x, label = digits(name.strip("`"))
        given = [part.strip("` '") for part in overrides.split(",") if part.strip() != "as it is"]
        assert f"{reached(graph, x, label, *given):.2%}".replace("%", " %") == stated, (name, overrides)


def test_the_documented_differences(shared_data):
    """Of every row of the table of convolutional networks in docs/precision.md."""
    text = (ROOT / "docs" / "precision.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in text.splitlines()]
    files = {"ResNet-8": ("ic_resnet8", "ic"), "DS-CNN": ("kws_dscnn", "kws")}
    for name, (network, data) in files.items():
        graph = load(shared_data / "mlperf_tiny" / f"{network}_int8.tflite")
        given = np.load(shared_data / "mlperf_tiny" / f"golden_{data}_int8.npz")
        x, label = golden.prepare_input(graph, given["input"]), given["label"]
        *_, (last, _) = graph.products()

        def scores(changed, x=x, last=last):
            return real(changed, last.output, golden.run(changed, x)[last.output]).reshape(len(x), -1)

        before = scores(graph)
        stated = [row for row in rows if len(row) == 5 and row[0] == name and row[2].endswith("%")]
        assert len(stated) >= 4
        for _, overrides, difference, same, right in stated:
            after = scores(
                requantised(graph, parse_overrides([each.strip("` ") for each in overrides.split(",")]))
            )
            share = np.sqrt(((before - after) ** 2).mean() / (before**2).mean())
            found = after.argmax(axis=1)
            assert f"{100 * share:.1f} %" == difference, overrides
            assert f"{(found == before.argmax(axis=1)).sum()} of {len(x)}" == same, overrides
            assert f"{(found == label).sum()} of {len(x)}" == right, overrides


CASES = {
    "bismo": ({"pe": "bismo", "lanes": 32}, ("a8w8", "a4w4", "a3w2"), ["*=a4w4", "layer2*=a3w2"]),
    "parallel": ({"pe": "parallel", "lanes": 8, "multiplier": "lut"}, ("a8w8", "a4w4"), ["*=a4w4"]),
    "ternary": ({"pe": "ternary", "lanes": 8}, ("a8wt", "a4wt"), ["*=a4wt", "layer1/Gemm=a8wt"]),
    "log2": ({"pe": "log2", "lanes": 8}, ("a8wp4",), ["*=a8wp4"]),
}


@pytest.mark.parametrize("name", CASES)
def test_on_the_hardware(name):
    changes, precisions, overrides = CASES[name]
    config = EngineConfig(
        cols=4,
        reduction=256,
        activation_depth=256,
        weight_depth=512,
        channel_depth=64,
        output_depth=128,
        queue_depth=8,
        precisions=precisions,
        **changes,
    )
    graph, x, _ = digits()
    changed = requantised(graph, parse_overrides(overrides))
    program = compile_graph(changed, config)
    expected = matched(graph, parse_overrides(overrides))
    assert [layer.precision for layer in program.layers] == [str(each) for each in expected.values()]
    done = execute(program, changed, x[:2], emit(config), simulator="icarus")
    assert done.mismatches == {}
    assert done.tensors_compared == 6


SIMULATOR = "icarus" if shutil.which("iverilog") else "verilator"
SMALL = EngineConfig(
    cols=4,
    lanes=8,
    requantisers=2,
    activation_depth=1024,
    patch_depth=256,
    weight_depth=512,
    channel_depth=64,
    output_depth=128,
    queue_depth=4,
    burst_beats=16,
)
CONVOLUTIONAL = {
    "bitfusion": SMALL.replace(pe="bitfusion", lanes=2, precisions=("a8w8", "a8w4", "a4w4")),
    "bismo": SMALL.replace(pe="bismo", lanes=32, precisions=("a8w8", "a8w4", "a8w2", "a4w4")),
    "loom": SMALL.replace(pe="loom", lanes=32, precisions=("a8w8", "a8w4", "a4w4"), rows=2),
    "stripes": SMALL.replace(pe="stripes", lanes=8, precisions=("a8w8", "a8w4", "a4w4")),
    "parallel": SMALL.replace(precisions=("a8w8", "a8w4", "a4w4"), depthwise=True, cols=8),
    "ternary": SMALL.replace(pe="ternary", precisions=("a8wt",)),
}


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_residual_network_on_the_hardware(name, rng):
    """Weights of 4 bits, in some layers activations as well: every tensor is the golden model's."""
    config = CONVOLUTIONAL[name]
    seed = int(rng.integers(1 << 32))
    graph = random_residual((4, int(rng.integers(4, 7)), 3), channels=4, seed=seed)
    overrides = ["*=a8w4", "first=a8w8", "down=a4w4", "shortcut=a4w4", "point=a4w4", "classes=a8w8"]
    if name == "ternary":
        overrides = ["*=a8wt"]
    changed = requantised(graph, parse_overrides(overrides))
    program = compile_graph(changed, config)
    given = converted_input(graph, changed, random_input(graph, count=1, seed=seed))
    done = execute(program, changed, given, emit(config), simulator=SIMULATOR)
    assert done.mismatches == {}
    assert done.tensors_compared == len(program.placements) - 1
    asked = matched(graph, parse_overrides(overrides))
    if name in ("bitfusion", "bismo", "loom"):  # where fewer bits are quicker
        used = {layer.name: layer.precision for layer in program.layers}
        assert {layer: used[layer] for layer in asked} == {
            layer: str(precision) for layer, precision in asked.items()
        }
        assert unmet(asked, program) == []


def test_a_layer_that_reads_what_is_added_to_wider_codes():
    """Both operands of a sum are stored in one way; what that costs the layer is said."""
    graph = random_residual((4, 4, 3), channels=4, depthwise=False)
    overrides = parse_overrides(["left=a4w4"])
    program = compile_graph(requantised(graph, overrides), CONVOLUTIONAL["bismo"])
    assert {layer.name: layer.precision for layer in program.layers}["left"] == "a8w4"
    (warning,) = unmet(matched(graph, overrides), program)
    assert warning.startswith("left: asked for a4w4, it runs at a8w4: ")
    assert "stored like a tensor of more bits, to which it is added" in warning


LARGE = EngineConfig(
    cols=8,
    lanes=2,
    requantisers=2,
    activation_depth=4096,
    patch_depth=1024,
    weight_depth=1024,
    channel_depth=512,
    output_depth=2048,
)
REAL = {
    "bitfusion": LARGE.replace(pe="bitfusion", precisions=("a8w8", "a8w4", "a4w4")),
    "bismo": LARGE.replace(
        pe="bismo",
        cols=16,
        lanes=64,
        requantisers=4,
        activation_depth=8192,
        weight_depth=4096,
        precisions=("a8w8", "a8w4", "a8w2", "a4w4"),
    ),
}
RESNET = ["op0[4-9]*=a8w4", "op10*=a8w4", "op09*=a4w4"]
DSCNN = ["op0[1-8]*=a8w4", "op06*=a4w4"]


@pytest.mark.parametrize(
    ("network", "unit", "overrides"),
    [("ic_resnet8", "bitfusion", RESNET), ("ic_resnet8", "bismo", RESNET), ("kws_dscnn", "bitfusion", DSCNN)],
)
def test_networks_of_4_bits_on_the_hardware(shared_data, network, unit, overrides):
    graph = load(shared_data / "mlperf_tiny" / f"{network}_int8.tflite")
    given = np.load(shared_data / "mlperf_tiny" / f"golden_{network.split('_')[0]}_int8.npz")["input"][:1]
    asked = matched(graph, parse_overrides(overrides))
    changed = requantised(graph, asked)
    program = compile_graph(changed, REAL[unit])
    used = {layer.name: layer.precision for layer in program.layers}
    assert {name: used[name] for name in asked} == {name: str(each) for name, each in asked.items()}
    x = converted_input(graph, changed, golden.prepare_input(graph, given))
    done = execute(program, changed, x, emit(REAL[unit]))
    assert done.mismatches == {}
    assert done.tensors_compared == len(program.placements) - 1


def test_resnet_keeps_its_classes(shared_data):
    """All convolutions but the first three at 4 bits: classes are those of the network as given."""
    graph = load(shared_data / "mlperf_tiny" / "ic_resnet8_int8.tflite")
    given = np.load(shared_data / "mlperf_tiny" / "golden_ic_int8.npz")
    x = golden.prepare_input(graph, given["input"])
    before = golden.run(graph, x)[graph.output]
    for overrides in (["*=a8w6"], ["op0[4-9]*=a8w4", "op10*=a8w4"]):
        changed = requantised(graph, parse_overrides(overrides))
        after = golden.run(changed, x)[graph.output]
        assert (before.argmax(axis=-1) == after.argmax(axis=-1)).all()


def test_codes_at_the_input(shared_data):
    """The network takes codes: those given are rounded to the new format's."""
    graph = load(shared_data / "mlperf_tiny" / "ad_autoencoder_int8.tflite")
    given = np.load(shared_data / "mlperf_tiny" / "golden_ad_int8.npz")
    x = golden.prepare_input(graph, given["input"][:4])
    changed = requantised(graph, parse_overrides(["*=a4w4", "op09*=a6wt"]))
    codes = converted_input(graph, changed, x)
    assert changed.tensors[graph.input].format == Int(4)
    step = changed.tensors[graph.input].scale
    assert np.abs(real(changed, graph.input, codes) - real(graph, graph.input, x)).max() <= step
    assert layers(changed)[-1].weight_format == Ternary()
    before = real(graph, graph.output, golden.run(graph, x)[graph.output])
    after = real(changed, graph.output, golden.run(changed, codes)[graph.output])
    assert np.sqrt(((before - after) ** 2).mean() / (before**2).mean()) < 0.3


def bitwright(*arguments, cwd):
    program = [sys.executable, "-c", "from bitwright.gen.cli import main; main()"]
    return subprocess.run(
        [*program, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=600
    )


def test_command_line(tmp_path):
    engine = ["tiny", NETWORK, "--set", "multiplier=lut", "--set", 'precisions=["a8w8","a4w4","a4w2"]']
    (tmp_path / "layers.toml").write_text('[layers]\n"*" = "a4w4"\n"layer2/*" = "a4w2"\n')
    options = ["--input", DIGITS / "test.npz", "--limit", 6, "--simulator", "icarus", "--json", "-o", "out"]
    done = bitwright("simulate", *engine, "--precision", "layers.toml", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: digits_mlp.onnx is requantised after training (layers.toml)" in done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["precision_overrides"] == {
        "layer1/Gemm": "a4w4",
        "layer2/Gemm": "a4w2",
        "layer3/Gemm": "a4w4",
    }
    # As quick on that unit, and earlier in the list.
    assert report["precision_effective"] == dict.fromkeys(report["precision_overrides"], "a4w4")
    assert "the engine has" not in done.stderr
    assert report["mismatches"] == 0
    graph, x, label = digits()
    assert report["accuracy_as_given"] == accuracy(golden.run(graph, x[:6])[graph.output], label[:6])
    assert report["accuracy"] == reached(graph, x[:6], label[:6], "*=a4w4", "layer2*=a4w2")
    with np.load(tmp_path / "out" / "outputs.npz") as outputs:
        assert np.ptp(outputs["hidden1"]) <= 15


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("layer1/gem=a4w4", ["layer1/gem", "there are layer1/Gemm, layer2", "(did you mean 'layer1/Gemm'?)"]),
        ("layer1*=a4", ["layer1*=a4", "no precision"]),
        ("nothing.toml", ["nothing.toml", "no such file"]),
        ("layer2*=abwb", ["layer2/Gemm", "hidden1", "bipolar"]),
        ("layer2*=a9w8", ["hidden1", "int9", "a8w8"]),  # which the engine was not built for
    ],
)
def test_command_line_refuses(tmp_path, override, words):
    done = bitwright("compile", "tiny", NETWORK, "--precision", override, "-o", "out", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []
