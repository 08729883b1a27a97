"""The golden model against plain integer arithmetic, and what it makes of inputs."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from bitwright.hw.formats import Bipolar, Int
from bitwright.hw.quant.arithmetic import quantise_multiplier, requantise
from bitwright.sim import golden
from bitwright.sim.graph import (
    LEVEL_MAX,
    LEVEL_MIN,
    ArgMax,
    AveragePool,
    Binary,
    Concatenate,
    Convolution,
    Dequantize,
    Elementwise,
    FullyConnected,
    Graph,
    Lookup,
    MaxPool,
    NetworkError,
    Pad,
    Quantize,
    Requantise,
    Reshape,
    Select,
    Softmax,
    TensorInfo,
    Thresholds,
    Transpose,
    Upsample,
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
        **{key: changes.pop(key) for key in ("weights", "weight_format", "bias") if key in changes},
    }
    requantise = {
        "multiplier": multiplier,
        "shift": shift,
        "rounding": rounding,
        "low": output_format.min,
        "high": output_format.max,
    }
    given = changes.pop("quantiser", "")
    values["quantiser"] = Requantise(**{**requantise, **changes}) if given == "" else given
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
            product = acc * int(node.quantiser.multiplier[channel])
            places = 31 - int(node.quantiser.shift[channel])
            if node.quantiser.rounding == "half_even":
                value = round(Fraction(product, 1 << places))
            else:
                high = (product + (1 << 30)) >> 31
                exact = Fraction(high, 1 << (places - 31))
                value = int(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)
            out.append(min(max(value + z_y, node.quantiser.low), node.quantiser.high))
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
        (Bipolar(), "int8"),
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


# Thresholds, accumulators, and arithmetic on the host


def accumulators(graph, x):
    node = next(node for node in graph.nodes if isinstance(node, FullyConnected))
    return (x.astype(np.int64) - graph.tensors["q"].zero_point) @ node.weights.T + node.bias


@pytest.mark.parametrize(("output_format", "z_y"), [(Int(3, signed=False), 2), (Int(4), 0), (Int(8), -128)])
def test_thresholds(output_format, z_y):
    rng = np.random.default_rng(3)
    levels = np.sort(rng.integers(-3000, 3000, (5, 7)), axis=1)
    levels[1, 2:4] = levels[1, 3]  # a code that is skipped
    levels[2] = LEVEL_MIN
    levels[3, 4:] = LEVEL_MAX
    descending = np.array([False, True, False, False, True])
    low = output_format.min
    quantiser = Thresholds(levels=levels, descending=descending, low=low)
    graph = network(n=5, output_format=output_format, z_y=z_y, quantiser=quantiser)
    x = codes(graph, 200)
    acc = accumulators(graph, x)
    expected = np.zeros_like(acc)
    for index in np.ndindex(acc.shape):
        row = levels[index[-1]]
        reached = [acc[index] <= t if descending[index[-1]] else acc[index] >= t for t in row]
        expected[index] = low + sum(reached)
    y = golden.run(graph, x)["y"]
    np.testing.assert_array_equal(y, expected)
    assert len(np.unique(y[..., 0])) > 4
    assert set(np.unique(y[..., 2])) == {low + 7}
    # Exactly on a level, either way round.
    on, below = golden.thresholds(quantiser, np.stack([levels[:, 0], levels[:, 0] - 1]))
    assert on[0] >= 1 > below[0]
    above = golden.thresholds(quantiser, levels[:, -1] + 1)
    assert golden.thresholds(quantiser, levels[:, -1])[4] >= 1 > above[4]


def test_bipolar():
    quantiser = Thresholds(
        levels=np.array([[0], [0], [4]]), descending=np.array([False, True, False]), low=-1
    )
    weights = np.array([[1, -1, 1, 1], [1, -1, 1, 1], [-1, -1, -1, -1]])
    graph = network(
        input_format=Bipolar(),
        output_format=Bipolar(),
        z_x=0,
        z_y=0,
        weights=weights,
        weight_format=Bipolar(),
        bias=np.zeros(3, int),
        quantiser=quantiser,
        float_edges=True,
    )
    x = np.array([[[0.5, -0.1, 0.0, 3.0], [-1.0, -1.0, -1.0, -1e-30]]], dtype=np.float32)
    tensors = golden.run(graph, x)
    np.testing.assert_array_equal(tensors["q"], [[[1, -1, 1, 1], [-1, -1, -1, -1]]])
    # Accumulators 4, 4, -2 and -2, -2, 4.
    np.testing.assert_array_equal(tensors["y"], [[[1, -1, -1], [-1, 1, 1]]])
    assert tensors["y"].dtype == np.int8
    np.testing.assert_array_equal(tensors["out"], 0.25 * tensors["y"])
    np.testing.assert_array_equal(golden.run(graph, tensors["q"])["y"], tensors["y"])
    with pytest.raises(NetworkError, match="are outside the range of bipolar; give codes -1 and \\+1"):
        golden.run(graph, np.zeros((1, 2, 4), int))


def test_raw_accumulators_with_gain_and_offset():
    rng = np.random.default_rng(4)
    gain, offset = rng.normal(0, 1, 3), rng.normal(0, 10, 3)
    base = network(output_format=Int(32), z_y=0, quantiser=None, float_edges=True)
    nodes = (*base.nodes[:-1], Dequantize(name="d", input="y", output="out", gain=gain, offset=offset))
    graph = replace(base, nodes=nodes)
    x = codes(graph, 50)
    acc = accumulators(graph, x)
    tensors = golden.run(graph, x)
    np.testing.assert_array_equal(tensors["y"], acc)
    assert tensors["y"].dtype == np.int32
    exact = np.array([[float(Fraction(int(a)) * Fraction(0.25)) for a in row] for row in acc.reshape(-1, 3)])
    expected = (exact * gain + offset).astype(np.float32).reshape(acc.shape)
    np.testing.assert_array_equal(tensors["out"], expected)
    # Rounded once: float32 throughout differs in places.
    assert (
        tensors["out"] != acc.astype(np.float32) * np.float32(0.25) * gain.astype(np.float32) + offset
    ).any()


def by_fraction(value, mode):
    """A rounding mode of QONNX in exact arithmetic."""
    size, sign = abs(value), -1 if value < 0 else 1
    down, rest = divmod(size, 1)
    match mode:
        case "half_even":
            return round(value)
        case "ceil":
            return -(-value // 1)
        case "floor":
            return value // 1
        case "up":
            return sign * (down + (rest > 0))
        case "down":
            return sign * down
        case "half_up" | "tflite":
            return sign * (down + (rest >= Fraction(1, 2)))
        case "half_down":
            return sign * (down + (rest > Fraction(1, 2)))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("zero_point", [0, 3])
@pytest.mark.parametrize(
    "mode", ["half_even", "tflite", "ceil", "floor", "up", "down", "half_up", "half_down"]
)
def test_rounding_modes(mode, zero_point, first):
    x = np.arange(-40, 41) / 8  # quarters, and so every tie
    info = TensorInfo(name="q", shape=(81,), format=Int(5), scale=0.5, zero_point=zero_point)
    ours = golden.quantise(x, info, mode, low=-15, high=14, zero_point_first=first)
    exact = [Fraction(value) * 2 for value in x]
    if first:
        expected = [by_fraction(value + zero_point, mode) for value in exact]
    else:
        expected = [by_fraction(value, mode) + zero_point for value in exact]
    np.testing.assert_array_equal(ours, np.clip([int(value) for value in expected], -15, 14))


def test_unknown_rounding():
    with pytest.raises(ValueError, match="Rounding mode 'nearest' is not known"):
        golden.round_whole(np.ones(1), "nearest")


def test_steps_on_the_host():
    def step(operation, constant=None, **others):
        values = None if constant is None else np.asarray(constant, np.float32)
        return Elementwise(operation=operation, constant=values, **others)

    steps = (
        step("multiply", [1, 2, 3, 4]),
        step("subtract", 10, reverse=True),
        step("divide", 3),
        step("maximum", -2),
        step("minimum", 5),
        step("power", 2),
        step("add", [[0.5], [1.5]]),
    )
    tensors = [
        TensorInfo(name="x", shape=(2, 4), format=None),
        TensorInfo(name="q", shape=(2, 4), format=Int(8), scale=0.25),
    ]
    graph = Graph(
        name="host",
        tensors={tensor.name: tensor for tensor in tensors},
        nodes=(Quantize(name="quantize", input="x", output="q", steps=steps),),
        input="x",
        output="q",
    )
    x = np.random.default_rng(5).normal(0, 3, (30, 2, 4)).astype(np.float32)
    y = (np.float32(10) - x * np.array([1, 2, 3, 4], np.float32)) / np.float32(3)
    y = np.clip(y, -2, 5) ** 2 + np.array([[0.5], [1.5]], np.float32)
    assert y.dtype == np.float32
    expected = np.clip(np.rint(y / np.float32(0.25)), -128, 127)
    np.testing.assert_array_equal(golden.run(graph, x)["q"], expected)
    root = replace(graph.nodes[0], steps=(step("power", 0.5),))
    with pytest.raises(NetworkError, match="node 'quantize': what the network does with its input first"):
        golden.run(replace(graph, nodes=(root,)), x)


def test_counting_and_signs():
    levels = np.array([[-1, 0, 2], [5, 5, 6]], np.float32)
    count = Elementwise(operation="count", constant=levels)
    x = np.array([[-1, 4], [0, 5], [3, 7]], np.float32)
    np.testing.assert_array_equal(golden.elementwise(count, x), [[1, 0], [2, 2], [3, 3]])
    sign = golden.elementwise(Elementwise(operation="sign"), np.array([-0.0, 0.0, -1e-40, 2]))
    np.testing.assert_array_equal(sign, [1, 1, -1, 1])


# Windows: each against loops over every output, tap and channel. A case is its seed.


def single(node, *tensors):
    """A graph of one node; the last tensor is its output, and all of several inputs are the network's."""
    nodes, names = [node], [tensor.name for tensor in tensors]
    for name in names[1:-1]:
        # Further inputs are copies of the first.
        nodes.insert(0, Reshape(name=f"copy_{name}", input=names[0], output=name))
    tensors = {tensor.name: tensor for tensor in tensors}
    return Graph(name="net", tensors=tensors, nodes=tuple(nodes), input=names[0], output=names[-1])


def info(name, shape, format=INT8, scale=0.5, zero_point=0, channel_axis=None):
    return TensorInfo(
        name=name,
        shape=tuple(map(int, shape)),
        format=format,
        scale=scale,
        zero_point=zero_point,
        channel_axis=channel_axis,
    )


def arranged(rng, n, height, width, channels):
    """A shape for maps, and where its channels are: first or last, with or without a height."""
    last, first = (n, height, width, channels), (n, channels, height, width)
    choices = [(last, None), (last, 3), (first, 1)]
    if height == 1:
        choices += [((n, width, channels), None), ((n, channels, width), 1)]
    return choices[rng.integers(len(choices))]


class Windows:
    """Random kernel, stride, dilation, padding and sizes that fit together."""

    def __init__(self, rng, *, pads=True, dilates=True):
        self.flat = rng.random() < 0.25  # one-dimensional
        while True:
            pick = lambda low, high: tuple(rng.integers(low, high, 2).tolist())  # noqa: E731
            self.kernel, self.stride, self.size = pick(1, 4), pick(1, 4), pick(1, 9)
            self.dilation = pick(1, 3) if dilates else (1, 1)
            self.padding = (pick(0, 3), pick(0, 3)) if pads else ((0, 0), (0, 0))
            if self.flat:
                self.kernel, self.size = (1, self.kernel[1]), (1, self.size[1])
                self.padding = (0, 0), self.padding[1]
            pool = MaxPool(
                name="p",
                input="x",
                output="y",
                kernel=tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)),
                stride=self.stride,
                padding=self.padding,
            )
            self.positions = pool.positions(*self.size)
            # Dilated kernels may have all their taps outside; pooling must not.
            if min(self.positions) >= 1 and (dilates or pool.coverage(*self.size).all()):
                return

    def taps(self, y, x):
        """Kernel row and column, and input row and column, of each tap; None for a tap outside."""
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                v = y * self.stride[0] - self.padding[0][0] + i * self.dilation[0]
                u = x * self.stride[1] - self.padding[1][0] + j * self.dilation[1]
                inside = 0 <= v < self.size[0] and 0 <= u < self.size[1]
                yield i, j, (v, u) if inside else None


def convolution_case(seed, quantiser="requantise", *, input_format=None, pads=True):
    rng = np.random.default_rng(seed)
    windows = Windows(rng, pads=pads)
    formats = [INT8, Int(4), Int(8, signed=False), Int(2, signed=False)]
    input_format = input_format or formats[rng.integers(4)]
    groups = int(rng.integers(1, 4))
    depth, outputs = ((1, 2, 3)[rng.integers(3)] for _ in range(2))
    if rng.random() < 0.4:
        depth = 1  # depthwise
    c, n = groups * depth, groups * outputs
    by = {
        "accumulators": None,
        "requantise": Requantise(
            multiplier=rng.integers(1 << 30, 1 << 31, n),
            shift=rng.integers(-7, -3, n),
            rounding=("tflite", "half_even")[seed % 2],
            low=-100,
            high=90,
        ),
        "thresholds": Thresholds(
            levels=np.sort(rng.integers(-300, 300, (n, 3)), axis=1),
            descending=rng.random(n) < 0.5,
            low=-1,
        ),
    }[quantiser]
    node = Convolution(
        name="conv",
        input="x",
        output="y",
        weights=rng.integers(-8, 8, (n, *windows.kernel, depth)),
        weight_format=Int(4),
        bias=rng.integers(-200, 200, n),
        quantiser=by,
        stride=windows.stride,
        dilation=windows.dilation,
        padding=windows.padding,
        groups=groups,
    )
    z_x = int(rng.integers(input_format.min, input_format.max + 1)) if isinstance(input_format, Int) else 0
    shape, axis = arranged(rng, 2, *windows.size, c)
    x = info("x", shape, input_format, zero_point=z_x, channel_axis=axis)
    shape, axis = arranged(rng, 2, *windows.positions, n)
    result = Int(32) if by is None else INT8
    y = info("y", shape, result, zero_point=0 if by is None else 7, channel_axis=axis)
    values = rng.choice(input_format.values, (3, *x.shape))
    return windows, single(node, x, y), values


def by_loops(windows, graph, values):
    """Accumulators ``(n, batch, height, width, channels)`` of the convolution."""
    (node,) = graph.nodes
    info = graph.tensors["x"]
    x = info.to_canonical(values)
    acc = np.zeros((*x.shape[:2], *windows.positions, node.channels), int)
    depth, per_group = node.weights.shape[3], node.channels // node.groups
    for a, b, row, column, n in np.ndindex(acc.shape):
        total = int(node.bias[n])
        for i, j, at in windows.taps(row, column):
            for k in range(depth):
                if at is not None:
                    code = int(x[(a, b, *at, n // per_group * depth + k)])
                    total += int(node.weights[n, i, j, k]) * (code - info.zero_point)
        acc[a, b, row, column, n] = total
    return acc


@pytest.mark.parametrize("seed", range(60))
def test_convolution(seed):
    windows, graph, values = convolution_case(seed, "accumulators")
    got = golden.run(graph, values)["y"]
    assert got.dtype == np.int32
    expected = by_loops(windows, graph, values)
    np.testing.assert_array_equal(graph.tensors["y"].to_canonical(got), expected)
    np.testing.assert_array_equal(got, graph.tensors["y"].from_canonical(expected))
    node = graph.nodes[0]
    assert graph.macs == 2 * np.prod(windows.positions) * node.weights.size
    assert node.reduction == node.weights[0].size


@pytest.mark.parametrize("quantiser", ["requantise", "thresholds"])
@pytest.mark.parametrize("seed", range(10))
def test_quantised_convolution(seed, quantiser):
    windows, graph, values = convolution_case(seed, quantiser)
    acc, node = by_loops(windows, graph, values), graph.nodes[0]
    by = node.quantiser
    # The quantiser alone is what test_layer and test_thresholds check.
    if quantiser == "requantise":
        codes = np.clip(requantise(acc, by.multiplier, by.shift, by.rounding) + 7, by.low, by.high)
    else:
        codes = by.low + golden.thresholds(by, acc)
    got = golden.run(graph, values)["y"]
    assert got.dtype == np.int8
    np.testing.assert_array_equal(graph.tensors["y"].to_canonical(got), codes)


@pytest.mark.parametrize("seed", range(5))
def test_bipolar_convolution(seed):
    windows, graph, values = convolution_case(seed, "accumulators", input_format=Bipolar(), pads=False)
    assert set(np.unique(values)) <= {-1, 1}
    got = graph.tensors["y"].to_canonical(golden.run(graph, values)["y"])
    np.testing.assert_array_equal(got, by_loops(windows, graph, values))


def test_convolution_in_parts(monkeypatch):
    """A batch that is convolved one input at a time."""
    _, graph, values = convolution_case(5)
    whole = golden.run(graph, values)["y"]
    monkeypatch.setattr(golden, "_PATCH_ELEMENTS", 1)
    np.testing.assert_array_equal(golden.run(graph, values)["y"], whole)


@pytest.mark.parametrize("bits", [8, 24])
def test_convolution_beyond_int32(bits):
    """Where float64 would not be exact, too."""
    weights = np.full((1, 1, 2, 1), (1 << (bits - 1)) - 1)
    x = info("x", (1, 1, 2, 1), Int(32))
    y = info("y", (1, 1, 1, 1), Int(32))
    values = {"weight_format": Int(bits), "bias": np.array([3]), "quantiser": None}
    node = Convolution(name="conv", input="x", output="y", weights=weights, **values)
    graph = single(node, x, y)
    balanced = np.array([2**31 - 1, 2 - 2**31]).reshape(1, 1, 1, 2, 1)
    assert golden.run(graph, balanced)["y"].item() == 3 + (1 << (bits - 1)) - 1
    with pytest.raises(NetworkError, match=r"node 'conv': accumulator .* exceeds int32; the network's own"):
        golden.run(graph, np.full((1, 1, 1, 2, 1), 2**31 - 1))


@pytest.mark.parametrize("seed", range(20))
def test_max_pool(seed):
    rng = np.random.default_rng(seed)
    windows = Windows(rng, dilates=False)
    format = [INT8, Int(4, signed=False), Bipolar()][seed % 3]
    shape, axis = arranged(rng, 2, *windows.size, 3)
    x = info("x", shape, format, channel_axis=axis)
    shape, axis = arranged(rng, 2, *windows.positions, 3)
    y = info("y", shape, format, channel_axis=axis)
    node = MaxPool(
        name="pool",
        input="x",
        output="y",
        kernel=windows.kernel,
        stride=windows.stride,
        padding=windows.padding,
    )
    values = rng.choice(format.values, (3, *x.shape))
    maps = x.to_canonical(values)
    got = y.to_canonical(golden.run(single(node, x, y), values)["y"])
    for a, b, row, column, c in np.ndindex(got.shape):
        seen = [maps[(a, b, *at, c)] for *_, at in windows.taps(row, column) if at is not None]
        assert got[a, b, row, column, c] == max(seen)


@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_average_pool(seed, count_padding):
    rng = np.random.default_rng(seed)
    windows = Windows(rng, dilates=False)
    format = [INT8, Int(4, signed=False)][seed % 2]
    zero_point = format.max // 3
    shape, axis = arranged(rng, 2, *windows.size, 3)
    x = info("x", shape, format, zero_point=zero_point, channel_axis=axis)
    shape, axis = arranged(rng, 2, *windows.positions, 3)
    y = info("y", shape, INT8, scale=0.1, channel_axis=axis)
    node = AveragePool(
        name="pool",
        input="x",
        output="y",
        kernel=windows.kernel,
        stride=windows.stride,
        padding=windows.padding,
        count_padding=count_padding,
    )
    # Any codes at all: the table is the arithmetic.
    node = node.tabulated(x, lambda sums, count: (sums * 37 + count * 11) % 256 - 128)
    values = rng.choice(format.values, (3, *x.shape))
    maps = x.to_canonical(values)
    got = y.to_canonical(golden.run(single(node, x, y), values)["y"])
    for a, b, row, column, c in np.ndindex(got.shape):
        taps = [at for *_, at in windows.taps(row, column)]
        codes = [int(maps[(a, b, *at, c)]) for at in taps if at is not None]
        if count_padding:
            codes += [zero_point] * (len(taps) - len(codes))
        assert got[a, b, row, column, c] == (sum(codes) * 37 + len(codes) * 11) % 256 - 128


# Element by element, and moving codes


@pytest.mark.parametrize("formats", [(INT8, Int(3)), (Int(4, signed=False), Bipolar()), (Bipolar(), INT8)])
def test_tables(formats):
    rng = np.random.default_rng(9)
    a, b = formats
    sizes = [len(format.values) for format in formats]
    pairs, singles = rng.integers(-128, 128, sizes), rng.integers(-128, 128, sizes[0])
    tensors = [info("a", (5, 4), a), info("b", (5, 4), b), info("y", (5, 4)), info("z", (5, 4))]
    place = {code: index for index, code in enumerate(a.values.tolist())}
    second = {code: index for index, code in enumerate(b.values.tolist())}
    to_b = np.array([b.values[index % sizes[1]] for index in range(sizes[0])])
    graph = Graph(
        name="net",
        tensors={tensor.name: tensor for tensor in tensors},
        nodes=(
            Lookup(name="to_b", input="a", output="b", table=to_b),
            Binary(name="both", inputs=("a", "b"), output="y", table=pairs),
            Lookup(name="one", input="a", output="z", table=singles),
        ),
        input="a",
        output="y",
    )
    x = rng.choice(a.values, (6, 5, 4))
    values = golden.run(graph, x)
    for index in np.ndindex(x.shape):
        i = place[int(x[index])]
        assert values["b"][index] == to_b[i]
        assert values["y"][index] == pairs[i, second[int(to_b[i])]]
        assert values["z"][index] == singles[i]


def test_one_tensor_twice():
    table = np.add.outer(np.arange(4), np.arange(4) * 10)
    uint2 = Int(2, signed=False)
    graph = single(
        Binary(name="sum", inputs=("x", "x"), output="y", table=table),
        info("x", (3,), uint2),
        info("y", (3,)),
    )
    assert golden.run(graph, np.array([[0, 1, 3]]))["y"].tolist() == [[0, 11, 33]]


def test_concatenate():
    tensors = [info("x", (2, 3, 4)), info("again", (2, 3, 4)), info("y", (2, 6, 4))]
    graph = single(Concatenate(name="join", inputs=("x", "again"), output="y", axis=1), *tensors)
    x = np.random.default_rng(0).integers(-128, 128, (5, 2, 3, 4))
    np.testing.assert_array_equal(golden.run(graph, x)["y"], np.concatenate([x, x], axis=2))


def test_concatenate_with_gaps():
    tensors = [info("x", (2, 3)), info("y", (2, 11), zero_point=7)]
    tensors[0] = replace(tensors[0], zero_point=7)
    graph = single(Concatenate(name="join", inputs=("x", "x", "x"), output="y", axis=1, align=4), *tensors)
    x = np.arange(6).reshape(1, 2, 3)
    assert golden.run(graph, x)["y"][0].tolist() == [
        [0, 1, 2, 7, 0, 1, 2, 7, 0, 1, 2],
        [3, 4, 5, 7, 3, 4, 5, 7, 3, 4, 5],
    ]


@pytest.mark.parametrize("axis", [None, 1])
def test_select(axis):
    x = np.random.default_rng(0).integers(-128, 128, (5, 2, 3, 4))
    taken = np.take(x, [2, 0, 0], axis=4 - 1 if axis is None else 2)
    tensors = [
        replace(info(name, shape), channel_axis=axis)
        for name, shape in (("x", x.shape[1:]), ("y", taken.shape[1:]))
    ]
    graph = single(Select(name="n", input="x", output="y", channels=(2, 0, 0)), *tensors)
    np.testing.assert_array_equal(golden.run(graph, x)["y"], taken)


def test_upsample():
    """Channels first: the last two axes are height and width."""
    tensors = [
        replace(info(name, shape), channel_axis=1)
        for name, shape in (("x", (1, 3, 2, 2)), ("y", (1, 3, 4, 6)))
    ]
    graph = single(Upsample(name="n", input="x", output="y", factors=(2, 3)), *tensors)
    x = np.random.default_rng(0).integers(-128, 128, (5, 1, 3, 2, 2))
    y = golden.run(graph, x)["y"]
    for index in np.ndindex(y.shape):
        assert y[index] == x[(*index[:3], index[3] // 2, index[4] // 3)]


def test_crop():
    node = Pad(name="pad", input="x", output="y", padding=((0, 0), (-1, 2), (1, -2)), value=-5)
    graph = single(node, info("x", (1, 3, 4)), info("y", (1, 4, 3)))
    x = np.random.default_rng(0).integers(0, 128, (5, 1, 3, 4))
    y = golden.run(graph, x)["y"]
    np.testing.assert_array_equal(y[:, :, :2, 1:], x[:, :, 1:, :2])
    assert (y[:, :, 2:] == -5).all()
    assert (y[:, :, :, 0] == -5).all()


def test_pad():
    node = Pad(name="pad", input="x", output="y", padding=((0, 1), (2, 3), (0, 0)), value=-5)
    graph = single(node, info("x", (1, 2, 3), zero_point=4), info("y", (2, 7, 3), zero_point=4))
    x = np.random.default_rng(0).integers(-128, 128, (5, 1, 2, 3))
    y = golden.run(graph, x)["y"]
    np.testing.assert_array_equal(y[:, :1, 2:4], x)
    assert (y == -5).sum() >= y.size - x.size
    assert (y[:, 1] == -5).all()
    assert (y[:, 0, :2] == -5).all()


def test_transpose():
    node = Transpose(name="turn", input="x", output="y", axes=(2, 0, 1))
    graph = single(node, info("x", (2, 3, 4)), info("y", (4, 2, 3)))
    x = np.random.default_rng(0).integers(-128, 128, (5, 2, 3, 4))
    y = golden.run(graph, x)["y"]
    for a, i, j, k in np.ndindex(x.shape):
        assert y[a, k, i, j] == x[a, i, j, k]


# On the host


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_softmax_in_float32(beta):
    x = info("x", (3, 10), scale=0.07, zero_point=5)
    codes = np.random.default_rng(0).integers(-128, 128, (20, 3, 10))
    real = (codes - 5) * 0.07 * beta
    expected = np.exp(real) / np.exp(real).sum(axis=-1, keepdims=True)
    node = Softmax(name="softmax", input="x", output="y", arithmetic="float32", beta=beta)
    shares = golden.run(single(node, x, info("y", (3, 10), None)), codes)["y"]
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares, expected, rtol=1e-5, atol=1e-7)
    y = info("y", (3, 10), Int(8, signed=False), scale=1 / 256)
    rounded = golden.run(single(node, x, y), codes)["y"]
    assert np.abs(np.clip(expected * 256, 0, 255) - rounded).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_arg_max(last, kept):
    node = ArgMax(name="best", input="x", output="y", axis=1, last=last)
    y = info("y", (3, 1, 4) if kept else (3, 4), Int(32), scale=1.0)
    codes = np.random.default_rng(0).integers(-2, 3, (20, 3, 5, 4))
    got = golden.run(single(node, info("x", (3, 5, 4)), y), codes)["y"]
    assert got.shape == (20, *y.shape)
    for a, i, k in np.ndindex(20, 3, 4):
        row = codes[a, i, :, k].tolist()
        best = 4 - row[::-1].index(max(row)) if last else row.index(max(row))
        assert got.reshape(20, 3, 4)[a, i, k] == best


def test_one_node_at_a_time():
    """What the host does with what the engine left."""
    graph = network(float_edges=True)
    values = golden.run(graph, codes(graph, 5))
    assert [node.name for node in graph.tail] == ["dequantize"]
    for node in graph.tail:
        np.testing.assert_array_equal(golden.compute(graph, node, values), values[node.output], strict=True)


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
