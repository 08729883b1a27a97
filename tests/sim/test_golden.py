"""The golden model against plain integer arithmetic, and what it makes of inputs."""

from fractions import Fraction

import numpy as np
import pytest

from bitwright.hw.formats import Int
from bitwright.hw.quant.arithmetic import quantise_multiplier
from bitwright.sim import golden
from bitwright.sim.graph import (
    Dequantize,
    FullyConnected,
    Graph,
    NetworkError,
    Quantize,
    Reshape,
    TensorInfo,
)

INT8 = Int(8)


def network(
    *,
    shape=(2, 4),
    n=3,
    input_format=INT8,
    output_format=INT8,
    z_x=5,
    z_y=-2,
    rounding="half_even",
    float_edges=False,
    **changes,
):
    rng = np.random.default_rng(0)
    k = shape[-1]
    multiplier, shift = quantise_multiplier(rng.uniform(0.001, 0.02, n))
    values = {
        "weights": rng.integers(-128, 128, (n, k)),
        "weight_format": INT8,
        "bias": rng.integers(-2000, 2000, n),
        "multiplier": multiplier,
        "shift": shift,
        "rounding": rounding,
        "low": output_format.min,
        "high": output_format.max,
        **changes,
    }
    tensors = [
        TensorInfo(name="q", shape=shape, format=input_format, scale=0.5, zero_point=z_x),
        TensorInfo(name="y", shape=(*shape[:-1], n), format=output_format, scale=0.25, zero_point=z_y),
    ]
    nodes = [FullyConnected(name="fc", input="q", output="y", **values)]
    if float_edges:
        tensors.append(TensorInfo(name="x", shape=shape, format=None))
        tensors.append(TensorInfo(name="out", shape=tensors[1].shape, format=None))
        nodes.insert(0, Quantize(name="quantize", input="x", output="q"))
        nodes.append(Dequantize(name="dequantize", input="y", output="out"))
    return Graph(
        name="net",
        tensors={tensor.name: tensor for tensor in tensors},
        nodes=tuple(nodes),
        input="x" if float_edges else "q",
        output="out" if float_edges else "y",
    )


def codes(graph, n, seed=1):
    info = graph.tensors["q"]
    rng = np.random.default_rng(seed)
    return rng.integers(info.format.min, info.format.max + 1, (n, *info.shape))


def by_hand(graph, x):
    """The layer in Python's own integers and fractions."""
    (node,) = (node for node in graph.nodes if isinstance(node, FullyConnected))
    z_x, z_y = graph.tensors["q"].zero_point, graph.tensors["y"].zero_point
    out = []
    for row in x.reshape(-1, node.reduction).tolist():
        for channel in range(node.channels):
            acc = sum((q - z_x) * int(w) for q, w in zip(row, node.weights[channel], strict=True))
            acc += int(node.bias[channel])
            product = acc * int(node.multiplier[channel])
            places = 31 - int(node.shift[channel])
            if node.rounding == "half_even":
                value = round(Fraction(product, 1 << places))
            else:
                high = (product + (1 << 30)) >> 31
                exact = Fraction(high, 1 << (places - 31))
                value = int(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)
            out.append(min(max(value + z_y, node.low), node.high))
    return np.array(out).reshape(*x.shape[:-1], node.channels)


@pytest.mark.parametrize("rounding", ["half_even", "tflite"])
@pytest.mark.parametrize(
    ("input_format", "output_format"),
    [
        (INT8, INT8),
        (Int(8, signed=False), Int(4)),
        (Int(4), Int(8, signed=False)),
        (Int(2), Int(4, signed=False)),
        (Int(16), Int(16)),
        (Int(20), Int(2)),
    ],
)
@pytest.mark.parametrize("shape", [(7,), (1, 4), (2, 3, 5)])
def test_layer(rounding, input_format, output_format, shape):
    graph = network(
        shape=shape,
        input_format=input_format,
        output_format=output_format,
        z_x=1,
        z_y=output_format.min + 1,
        rounding=rounding,
    )
    x = codes(graph, 30)
    tensors = golden.run(graph, x)
    np.testing.assert_array_equal(tensors["y"], by_hand(graph, x))
    assert tensors["y"].shape == (30, *shape[:-1], 3)
    assert tensors["q"].dtype == golden.storage_type(graph.tensors["q"])


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        (Int(8), "int8"),
        (Int(4), "int8"),
        (Int(1, signed=False), "uint8"),
        (Int(8, signed=False), "uint8"),
        (Int(9), "int16"),
        (Int(16, signed=False), "uint16"),
        (Int(17), "int32"),
        (Int(32), "int32"),
        (None, "float32"),
    ],
)
def test_storage_type(format, expected):
    assert golden.storage_type(TensorInfo(name="t", shape=(1,), format=format)) == np.dtype(expected)


def test_clamp():
    graph = network(low=-5, high=9)
    x = codes(graph, 50)
    y = golden.run(graph, x)["y"]
    assert (y.min(), y.max()) == (-5, 9)
    np.testing.assert_array_equal(y, by_hand(graph, x))


def test_every_tensor_of_a_longer_graph():
    layer = network().nodes[0]
    scale = {"scale": 0.5, "zero_point": 5}
    tensors = [
        TensorInfo(name="x", shape=(1, 2, 4), format=None),
        TensorInfo(name="codes", shape=(1, 2, 4), format=INT8, **scale),
        TensorInfo(name="q", shape=(2, 4), format=INT8, **scale),
        TensorInfo(name="y", shape=(2, 3), format=INT8, scale=0.25, zero_point=-2),
        TensorInfo(name="out", shape=(2, 3), format=None),
    ]
    graph = Graph(
        name="net",
        tensors={tensor.name: tensor for tensor in tensors},
        nodes=(
            Quantize(name="quantize", input="x", output="codes"),
            Reshape(name="reshape", input="codes", output="q"),
            layer,
            Dequantize(name="dequantize", input="y", output="out"),
        ),
        input="x",
        output="out",
    )
    x = np.random.default_rng(0).normal(0, 20, (6, 1, 2, 4)).astype(np.float32)
    values = golden.run(graph, x)
    assert list(values) == ["x", "codes", "q", "y", "out"]
    assert {name: array.dtype.name for name, array in values.items()} == {
        "x": "float32",
        "codes": "int8",
        "q": "int8",
        "y": "int8",
        "out": "float32",
    }
    np.testing.assert_array_equal(values["codes"], np.clip(np.rint(x / np.float32(0.5)) + 5, -128, 127))
    assert values["q"].shape == (6, 2, 4)
    np.testing.assert_array_equal(values["y"], by_hand(graph, values["q"]))
    np.testing.assert_array_equal(values["out"], (values["y"].astype(np.float32) + 2) * np.float32(0.25))
    # Codes given for the float input take the same way.
    again = golden.run(graph, values["codes"])
    assert list(again) == ["codes", "q", "y", "out"]
    for name, array in again.items():
        np.testing.assert_array_equal(array, values[name], name, strict=True)


# Quantising at the edge


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("half_even", [-4, -2, -2, 0, 0, 0, 0, 2, 2, 4]),
        ("tflite", [-4, -3, -2, -1, 0, 0, 1, 2, 3, 4]),
    ],
)
def test_quantise_ties(rounding, expected):
    info = TensorInfo(name="t", shape=(10,), format=INT8, scale=2.0)
    below = np.nextafter(np.float32(0.5), np.float32(0))
    ratios = np.array([-3.5, -2.5, -1.5, -0.5, -below, below, 0.5, 1.5, 2.5, 3.5], np.float32)
    assert golden.quantise(ratios * 2, info, rounding).tolist() == expected


@pytest.mark.parametrize("rounding", ["half_even", "tflite"])
@pytest.mark.parametrize("format", [Int(8), Int(4, signed=False)])
def test_quantise_saturates(rounding, format):
    info = TensorInfo(name="t", shape=(4,), format=format, scale=1e-3, zero_point=3)
    x = np.array([-np.inf, -3e38, 3e38, np.inf], np.float32)
    assert golden.quantise(x, info, rounding).tolist() == [format.min] * 2 + [format.max] * 2


def test_quantise_divides_in_float32():
    """0.15 / 0.1 is a tie in float32, though it is not one in exact arithmetic."""
    info = TensorInfo(name="t", shape=(1,), format=INT8, scale=float(np.float32(0.1)))
    x = np.arange(-100, 100, dtype=np.float32) * np.float32(0.05)
    expected = np.rint(x / np.float32(0.1)).astype(int)
    exact = [round(Fraction(float(v)) / Fraction(info.scale)) for v in x]
    assert expected.tolist() != exact
    assert golden.quantise(x, info).tolist() == expected.tolist()


# Overflow


@pytest.mark.parametrize("sign", [1, -1])
def test_accumulator_beyond_int32_is_refused(sign):
    limit = 2**31 - 1 if sign > 0 else 2**31
    # Eight products of 2 and 1: the bias decides whether the sum still fits.
    fits = network(shape=(1, 8), n=1, z_x=0, weights=np.full((1, 8), sign), bias=[sign * (limit - 16)])
    x = np.full((1, 1, 8), 2)
    assert golden.run(fits, x)["y"][0, 0, 0] == (127 if sign > 0 else -128)
    over = network(shape=(1, 8), n=1, z_x=0, weights=np.full((1, 8), sign), bias=[sign * (limit - 15)])
    with pytest.raises(NetworkError, match=r"node 'fc': accumulator .* exceeds int32; the network's own"):
        golden.run(over, x)


def test_wide_formats_are_summed_exactly():
    """Where float64 is not exact any more: 31-bit codes times 24-bit weights."""
    graph = network(
        shape=(1, 2),
        n=1,
        input_format=Int(32),
        z_x=0,
        weights=[[2**23 - 1, -(2**23) + 1]],
        weight_format=Int(24),
        bias=[3],
        multiplier=[1 << 30],
        shift=[1],
        output_format=Int(32),
        z_y=0,
    )
    y = golden.run(graph, np.array([[2**31 - 1, 2**31 - 2]]))["y"]
    assert y.item() == 2**23 - 1 + 3


# Preparing inputs


@pytest.mark.parametrize(
    ("shape", "given", "n"),
    [
        ((1, 6), (5, 1, 6), 5),
        ((1, 6), (1, 6), 1),
        ((1, 6), (5, 6), 5),
        ((1, 6), (6,), 1),
        ((1, 6), (30,), 5),
        ((1, 6), (5, 2, 3), 5),
        ((1, 6), (4, 5, 1, 6), 20),
        ((2, 6), (8, 6), 4),
        ((2, 6), (2, 6), 1),
        ((1, 2, 6), (8, 6), 4),
        ((4, 1), (3, 4), 3),
        ((1,), (5, 1), 5),
        ((1,), (5,), 5),
        ((6,), (4, 6), 4),
        ((6,), (4, 1, 2, 3), 4),
    ],
)
def test_prepared_shapes(shape, given, n):
    graph = network(shape=shape)
    x = (np.arange(np.prod(given)) % 100).reshape(given)
    prepared = golden.prepare_input(graph, x)
    assert prepared.shape == (n, *shape)
    assert prepared.dtype == np.int8
    np.testing.assert_array_equal(prepared.reshape(-1), x.reshape(-1))


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        ((1, 6), (5,)),
        ((1, 6), (6, 5)),
        ((1, 6), (0, 6)),
        ((1, 6), ()),
        ((1, 6), (12, 4)),
        ((2, 6), (3, 6)),
        ((2, 6), (6, 8)),
        ((6,), (6, 4)),
    ],
)
def test_refused_shapes(shape, given):
    with pytest.raises(NetworkError, match=r"input 'q': data of shape .* are not a whole number of inputs"):
        golden.prepare_input(network(shape=shape), np.zeros(given, int))


def test_the_message_says_which_shape():
    with pytest.raises(NetworkError, match=r"of 8 elements; give an array of shape \(n, 2, 4\)"):
        golden.prepare_input(network(), np.zeros(7, int))


@pytest.mark.parametrize("value", [-129, 128, 2**40])
@pytest.mark.parametrize("float_edges", [False, True])
def test_refused_codes(value, float_edges):
    x = np.zeros((2, 4), np.int64)
    x[1, 1] = value
    with pytest.raises(NetworkError, match="are outside the range of int8; give codes from -128 to 127"):
        golden.run(network(float_edges=float_edges), x)


def test_refused_types():
    with pytest.raises(NetworkError, match=r"data of type float32 given, but .* int8 codes; quantise first"):
        golden.prepare_input(network(), np.zeros((2, 4), np.float32))
    for values in (np.zeros((2, 4), complex), np.array([["a"] * 4] * 2), np.full((2, 4), None)):
        with pytest.raises(NetworkError, match="are not numbers"):
            golden.prepare_input(network(), values)
    x = np.zeros((2, 4))
    x[0, 0] = np.nan
    with pytest.raises(NetworkError, match=r"not numbers \(NaN\)"):
        golden.prepare_input(network(float_edges=True), x)


def test_floats_are_taken_as_float32():
    prepared = golden.prepare_input(network(float_edges=True), np.full((2, 4), 0.1))
    assert prepared.dtype == np.float32
    # Infinities, and float64 values beyond float32, saturate later.
    x = np.array([np.inf, -np.inf, 1e300, -1e300] * 2).reshape(2, 4)
    values = golden.run(network(float_edges=True), x)
    assert values["q"].reshape(-1).tolist() == [127, -128, 127, -128] * 2


def test_lists_are_taken():
    assert golden.prepare_input(network(), [[1, 2, 3, 4]] * 2).dtype == np.int8


def test_codes_need_one_quantiser():
    """With two quantisers on the input, codes could mean either."""
    graph = network(float_edges=True)
    tensors = dict(graph.tensors)
    tensors["q2"] = TensorInfo(name="q2", shape=(2, 4), format=INT8, scale=1.0)
    twice = Graph(
        name="net",
        tensors=tensors,
        nodes=(*graph.nodes, Quantize(name="second", input="x", output="q2")),
        input="x",
        output="out",
    )
    assert golden.run(twice, np.ones((2, 4), np.float32))["q2"].max() == 1
    with pytest.raises(NetworkError, match="does not begin by quantising its input once; give floats"):
        golden.run(twice, np.ones((2, 4), np.int8))
