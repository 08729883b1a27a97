"""The integer graph: what it derives, and everything that its validation refuses."""

import numpy as np
import pytest

from bitwright.hw.errors import BitwrightError
from bitwright.hw.formats import Bipolar, Int, Ternary
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
    average_tables,
    on_host,
    same_order,
)

INT8 = Int(8)


def layer(name="fc", input="codes", output="y", n=3, k=4, **changes):
    """Changes of the quantiser may stand among those of the layer."""
    values = {
        "weights": np.arange(n * k).reshape(n, k) - 6,
        "weight_format": INT8,
        "bias": np.arange(n) * 100,
    }
    quantiser = {
        "multiplier": np.full(n, 1 << 30),
        "shift": np.full(n, -4),
        "rounding": "tflite",
        "low": -128,
        "high": 127,
    }
    quantiser |= {key: changes.pop(key) for key in quantiser if key in changes}
    values["quantiser"] = Requantise(**quantiser)
    return FullyConnected(name=name, input=input, output=output, **{**values, **changes})


def thresholds(n=3, count=2, **changes):
    values = {"levels": np.arange(n * count).reshape(n, count), "descending": np.zeros(n, bool), "low": 0}
    return Thresholds(**{**values, **changes})


def quantize(**changes):
    return Quantize(name="quantize", input="x", output="q", **changes)


def tensor(name, *shape, format=INT8, scale=0.5, zero_point=1, **others):
    return TensorInfo(name=name, shape=shape, format=format, scale=scale, zero_point=zero_point, **others)


def real(name, *shape):
    return TensorInfo(name=name, shape=shape, format=None)


def graph(*nodes, tensors, input="x", output="y"):
    return Graph(name="net", tensors={t.name: t for t in tensors}, nodes=nodes, input=input, output=output)


def whole(**changes):
    """Quantise, reshape, multiply, dequantise."""
    parts = {
        "x": real("x", 1, 2, 4),
        "q": tensor("q", 1, 2, 4),
        "codes": tensor("codes", 2, 4),
        "y": tensor("y", 2, 3, scale=0.25, zero_point=-3),
        "out": real("out", 2, 3),
        "quantize": Quantize(name="quantize", input="x", output="q"),
        "reshape": Reshape(name="reshape", input="q", output="codes"),
        "fc": layer(),
        "dequantize": Dequantize(name="dequantize", input="y", output="out"),
        **changes,
    }
    tensors = [part for part in parts.values() if isinstance(part, TensorInfo)]
    nodes = [part for part in parts.values() if part is not None and not isinstance(part, TensorInfo)]
    return graph(*nodes, tensors=tensors, output="out")


def test_a_whole_graph():
    net = whole()
    assert net.macs == 2 * 3 * 4
    assert [(node.name, rows) for node, rows in net.fully_connected()] == [("fc", 2)]
    assert net.tensors["x"].size == 8


def test_dimensions():
    node = layer(n=5, k=7)
    assert (node.channels, node.reduction) == (5, 7)
    assert node.macs(3) == 105


def test_a_vector_is_one_row():
    net = graph(layer(input="x"), tensors=[tensor("x", 4), tensor("y", 3)])
    assert net.macs == 12


def test_arrays_are_copied_and_cannot_be_changed():
    weights = np.ones((3, 4), np.int8)
    node = layer(weights=weights)
    weights[:] = 0
    assert node.weights.dtype == np.int64
    assert (node.weights == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        node.weights[0, 0] = 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros(4, int)}, r"node 'fc': weights of shape \(4,\) are not a matrix"),
        ({"weights": np.zeros((0, 4), int)}, "are not a matrix"),
        ({"bias": np.zeros(2, int)}, r"bias of shape \(2,\) does not match 3 output channels"),
        ({"multiplier": np.zeros((3, 1), int)}, r"multiplier of shape \(3, 1\) does not match 3"),
        ({"shift": np.zeros(4, int)}, r"shift of shape \(4,\) does not match 3"),
        ({"weights": np.full((3, 4), 128)}, r"weights 128\.\.128 do not fit int8"),
        ({"weight_format": Int(4), "weights": np.full((3, 4), -9)}, r"weights -9\.\.-9 do not fit int4"),
        ({"bias": np.full(3, 2**31)}, "bias 2147483648..2147483648 does not fit int32"),
        ({"multiplier": np.full(3, 2**31)}, "multiplier does not fit 31 bits"),
        ({"multiplier": np.full(3, -1)}, "multiplier does not fit 31 bits"),
        ({"shift": np.full(3, 7)}, "shift 7..7 is not from -31 to 6; .* below 64 times the output scale"),
        ({"shift": np.array([0, 0, -32])}, "shift -32..0 is not from -31 to 6"),
        ({"rounding": "up"}, "rounding 'up' is neither"),
        (
            {"quantiser": thresholds(2)},
            r"node 'fc': levels of shape \(2, 2\) are not a matrix of 3 output channels",
        ),
        ({"quantiser": thresholds(levels=np.zeros((3, 0), int))}, "are not a matrix of 3 output channels"),
        ({"quantiser": thresholds(levels=np.zeros(3, int))}, "are not a matrix of 3 output channels"),
        (
            {"quantiser": thresholds(descending=np.zeros(1, bool))},
            r"descending of shape \(1,\) does not",
        ),
        (
            {"quantiser": thresholds(levels=np.full((3, 1), LEVEL_MAX + 1))},
            "levels 2147483649..2147483649 are not from -2147483649 to 2147483648",
        ),
        ({"quantiser": thresholds(levels=np.full((3, 1), LEVEL_MIN - 1))}, "levels -2147483650..-2147483650"),
        ({"quantiser": thresholds(levels=np.array([[0, 1], [1, 1], [1, 0]]))}, "not in ascending order"),
    ],
)
def test_refused_layer(changes, message):
    with pytest.raises(NetworkError, match=message):
        layer(**changes)


def test_float_weights_are_a_mistake_of_the_caller():
    with pytest.raises(TypeError, match="Integers expected, not float64"):
        layer(weights=np.zeros((3, 4)))
    with pytest.raises(TypeError, match="Integers expected, not float64"):
        thresholds(levels=np.zeros((3, 4)))
    with pytest.raises(TypeError, match="Truth values expected, not int64"):
        thresholds(descending=np.zeros(3, int))


def test_levels_may_be_out_of_reach():
    levels = np.array([[LEVEL_MIN, LEVEL_MAX]] * 3)
    assert layer(quantiser=thresholds(levels=levels)).quantiser.count == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"operation": "add"}, "'add' takes a constant"),
        ({"operation": "sign", "constant": np.ones(1)}, "'sign' takes no constant"),
        ({"operation": "floor", "constant": np.ones(1)}, "'floor' takes no constant"),
        ({"operation": "add", "constant": np.ones(1, int)}, "must be finite floats"),
        ({"operation": "add", "constant": np.array([1, np.nan])}, "must be finite floats"),
    ],
)
def test_refused_step(values, message):
    with pytest.raises(ValueError, match=message):
        Elementwise(**values)


@pytest.mark.parametrize("key", ["gain", "offset"])
def test_refused_gain(key):
    for bad in (np.array([1, np.inf]), np.ones((1, 3))):
        with pytest.raises(NetworkError, match=f"node 'd': {key} is not a list of finite numbers"):
            Dequantize(name="d", input="y", output="out", **{key: bad})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (1, 0)}, r"tensor 't': shape \(1, 0\) has an axis without elements"),
        ({"shape": (-1,)}, r"tensor 't': shape \(-1,\) has an axis"),
        ({"scale": 0.0}, "tensor 't': scale 0.0 is not a positive number"),
        ({"scale": float("inf")}, "scale inf is not a positive number"),
        ({"scale": float("nan")}, "scale nan is not a positive number"),
        ({"zero_point": -129}, "zero point -129 is outside the range of int8"),
        ({"zero_point": -1, "format": Int(8, signed=False)}, "zero point -1 is outside the range of uint8"),
        ({"zero_point": 1, "format": Bipolar()}, "zero point 1 is outside the range of bipolar"),
        ({"format": Ternary()}, "tensor 't': is ternary; a tensor is integer or bipolar"),
    ],
)
def test_refused_tensor(changes, message):
    with pytest.raises(NetworkError, match=message):
        TensorInfo(**{"name": "t", "shape": (2,), "format": INT8, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantize": None}, "node 'reshape': reads 'q' before any node has produced it"),
        ({"dequantize": None}, "tensor 'out': is produced by no node"),
        ({"extra": tensor("extra", 1)}, "tensor 'extra': is produced by no node"),
        (
            {"extra": Reshape(name="extra", input="q", output="codes")},
            "node 'extra': produces 'codes', which exists already",
        ),
        (
            {"extra": Quantize(name="fc", input="x", output="q")},
            "node 'fc': has the same name as another node",
        ),
        (
            {"extra": Reshape(name="extra", input="q", output="nowhere")},
            "node 'extra': its tensor 'nowhere' is not among the graph's tensors",
        ),
        ({"q": tensor("q", 1, 8)}, r"node 'quantize': changes the shape from \(1, 2, 4\) to \(1, 8\)"),
        ({"out": real("out", 6)}, "node 'dequantize': changes the shape"),
        ({"x": tensor("x", 1, 2, 4)}, "node 'quantize': 'x' is not a float tensor"),
        ({"out": tensor("out", 2, 3)}, "node 'dequantize': 'out' is not a float tensor"),
        ({"codes": tensor("codes", 2, 5)}, r"node 'reshape': cannot reshape \(1, 2, 4\) to \(2, 5\)"),
        ({"codes": tensor("codes", 2, 4, scale=0.4)}, "node 'reshape': changes the format, scale or zero"),
        ({"codes": tensor("codes", 2, 4, zero_point=0)}, "node 'reshape': changes the format, scale or"),
        ({"codes": tensor("codes", 2, 4, format=Int(9))}, "node 'reshape': changes the format, scale or"),
        ({"codes": tensor("codes", 4, 2)}, r"node 'fc': the last axis of its input \(4, 2\) does not have 4"),
        ({"y": tensor("y", 2, 4)}, r"node 'fc': makes shape \(2, 3\), but its output has \(2, 4\)"),
        ({"y": tensor("y", 3, 2)}, r"node 'fc': makes shape \(2, 3\), but its output has \(3, 2\)"),
        ({"fc": layer(low=-129)}, r"node 'fc': clamp -129\.\.127 is not a range of int8"),
        ({"fc": layer(low=5, high=4)}, r"node 'fc': clamp 5\.\.4 is not a range of int8"),
        ({"y": tensor("y", 2, 3, format=Int(4))}, "node 'fc': clamp .* is not a range of int4"),
        (
            {"y": tensor("y", 2, 3, format=Bipolar(), zero_point=0)},
            "node 'fc': requantises to bipolar; thresholds make that",
        ),
        (
            {"fc": layer(quantiser=thresholds(count=2, low=126))},
            r"node 'fc': codes 126\.\.128 are not a range of int8",
        ),
        ({"fc": layer(quantiser=thresholds(low=-129))}, r"codes -129\.\.-127 are not a range of int8"),
        (
            {"fc": layer(quantiser=thresholds()), "y": tensor("y", 2, 3, format=Bipolar(), zero_point=0)},
            "node 'fc': makes 3 codes from 0 up; bipolar are two, from -1",
        ),
        (
            {"fc": layer(quantiser=None)},
            "node 'fc': makes accumulators, but its output is int8 with zero point -3",
        ),
        (
            {"fc": layer(quantiser=None), "y": tensor("y", 2, 3, format=Int(32))},
            "makes accumulators, but its output is int32 with zero point 1",
        ),
        (
            {"dequantize": Dequantize(name="dequantize", input="y", output="out", gain=np.ones(2))},
            r"node 'dequantize': gain does not match the last axis of \(2, 3\)",
        ),
        (
            {"dequantize": Dequantize(name="dequantize", input="y", output="out", offset=np.ones(4))},
            "node 'dequantize': offset does not match",
        ),
        ({"quantize": quantize(rounding="nearest")}, "node 'quantize': rounding 'nearest' is not known"),
        ({"quantize": quantize(low=-129)}, r"node 'quantize': clamp -129\.\.127 is not a range of int8"),
        ({"quantize": quantize(low=3, high=2)}, r"node 'quantize': clamp 3\.\.2 is not a range of int8"),
        (
            {"quantize": quantize(steps=(Elementwise(operation="add", constant=np.ones(3)),))},
            r"node 'quantize': a constant of shape \(3,\) does not match the input \(1, 2, 4\)",
        ),
        (
            {"quantize": quantize(steps=(Elementwise(operation="add", constant=np.ones((1, 1, 2, 4))),))},
            "does not match the input",
        ),
        (
            {"quantize": quantize(steps=(Elementwise(operation="count", constant=np.ones((3, 4))),))},
            r"a constant of shape \(3,\) does not match",
        ),
    ],
)
def test_refused_graph(changes, message):
    with pytest.raises(NetworkError, match=message):
        whole(**changes)


@pytest.mark.parametrize("changes", [{"low": -1}, {"high": 1}])
def test_refused_clamp_of_two_codes(changes):
    bipolar = {"format": Bipolar(), "zero_point": 0}
    tensors = {"q": tensor("q", 1, 2, 4, **bipolar), "codes": tensor("codes", 2, 4, **bipolar)}
    assert whole(**tensors, quantize=quantize()).tensors["q"].format == Bipolar()
    with pytest.raises(NetworkError, match="node 'quantize': clamps bipolar, which has two codes"):
        whole(**tensors, quantize=quantize(**changes))


def test_accumulators_and_thresholds_as_outputs():
    accumulators = tensor("y", 2, 3, format=Int(32), zero_point=0)
    assert whole(fc=layer(quantiser=None), y=accumulators).tensors["y"].format == Int(32)
    bipolar = tensor("y", 2, 3, format=Bipolar(), zero_point=0)
    assert whole(fc=layer(quantiser=thresholds(count=1, low=-1)), y=bipolar).tensors["y"].format.bits == 1
    assert whole(fc=layer(quantiser=thresholds(low=-128)))


def test_refused_float_in_the_middle():
    with pytest.raises(NetworkError, match="node 'fc': 'x' has no integer format"):
        graph(layer(input="x"), tensors=[real("x", 2, 4), tensor("y", 2, 3)])
    with pytest.raises(NetworkError, match="node 'fc': 'y' has no integer format"):
        graph(layer(input="x"), tensors=[tensor("x", 2, 4), real("y", 2, 3)])
    with pytest.raises(NetworkError, match="node 'q': 'y' has no integer format"):
        graph(Quantize(name="q", input="x", output="y"), tensors=[real("x", 2), real("y", 2)])


def test_refused_scalar():
    with pytest.raises(NetworkError, match="node 'fc': its input 'x' has no axes"):
        graph(layer(input="x", k=1), tensors=[tensor("x"), tensor("y", 3)])


def test_refused_order():
    nodes = [
        layer("first", input="x", output="h"),
        layer("second", input="h", output="y", k=3),
    ]
    tensors = [tensor("x", 4), tensor("h", 3), tensor("y", 3)]
    assert graph(*nodes, tensors=tensors).macs == 21
    with pytest.raises(NetworkError, match="node 'second': reads 'h' before"):
        graph(*reversed(nodes), tensors=tensors)


def test_refused_edges():
    with pytest.raises(NetworkError, match="graph 'net': its edge 'x' is not among its tensors"):
        graph(layer(), tensors=[tensor("codes", 4), tensor("y", 3)])
    with pytest.raises(NetworkError, match="graph 'net': has no nodes"):
        graph(tensors=[tensor("x", 4)], output="x")
    with pytest.raises(NetworkError, match="tensor 'y': is filed under the name 'z'"):
        Graph(name="net", tensors={"z": tensor("y", 4)}, nodes=(), input="z", output="z")


# Maps


@pytest.mark.parametrize(
    ("shape", "channel_axis", "canonical"),
    [
        ((), None, (1, 1, 1, 1)),
        ((5,), None, (1, 1, 1, 5)),
        ((2, 5), None, (2, 1, 1, 5)),
        ((2, 5), 0, (5, 1, 1, 2)),
        ((2, 7, 5), None, (2, 1, 7, 5)),
        ((2, 5, 7), 1, (2, 1, 7, 5)),
        ((2, 3, 7, 5), None, (2, 3, 7, 5)),
        ((2, 5, 3, 7), 1, (2, 3, 7, 5)),
        ((4, 2, 3, 7, 5), None, (8, 3, 7, 5)),
    ],
)
def test_canonical(shape, channel_axis, canonical):
    info = tensor("t", *shape, channel_axis=channel_axis)
    assert info.canonical == canonical
    values = np.arange(3 * info.size).reshape(3, *shape)
    moved = info.to_canonical(values)
    assert moved.shape == (3, *canonical)
    np.testing.assert_array_equal(info.from_canonical(moved), values)
    if channel_axis == 1 and len(shape) == 4:
        assert moved[2, 1, 2, 6, 4] == values[2, 1, 4, 2, 6]


@pytest.mark.parametrize("axis", [-1, 2])
def test_refused_channel_axis(axis):
    with pytest.raises(NetworkError, match=r"tensor 't': channel axis .* is none of shape \(2, 3\)"):
        tensor("t", 2, 3, channel_axis=axis)


@pytest.mark.parametrize("seed", range(30))
def test_positions_and_coverage(seed):
    rng = np.random.default_rng(seed)
    kernel, stride, dilation, size = (tuple(rng.integers(1, high, 2).tolist()) for high in (5, 4, 4, 12))
    padding = tuple(map(tuple, rng.integers(0, 4, (2, 2)).tolist()))
    node = convolution(
        weights=np.ones((1, *kernel, 1), int),
        bias=np.zeros(1, int),
        quantiser=None,
        stride=stride,
        dilation=dilation,
        padding=padding,
    )
    counts = []
    for n, k, s, d, (before, after) in zip(size, kernel, stride, dilation, padding, strict=True):
        starts = range(-before, n + after - (k - 1) * d, s)
        counts.append([sum(0 <= start + tap * d < n for tap in range(k)) for start in starts])
    if all(counts):
        assert node.positions(*size) == (len(counts[0]), len(counts[1]))
        np.testing.assert_array_equal(node.coverage(*size), np.outer(*counts))
    else:
        assert min(node.positions(*size)) < 1


def convolution(**changes):
    """3 x 2 kernel over 4 channels, to 3."""
    base = layer(n=3, k=24)
    values = {
        "name": "conv",
        "input": "x",
        "output": "y",
        "weights": base.weights.reshape(3, 3, 2, 4),
        "weight_format": INT8,
        "bias": base.bias,
        "quantiser": base.quantiser,
    }
    return Convolution(**{**values, **changes})


def convolved(source=None, result=None, **changes):
    source = source or tensor("x", 1, 6, 5, 4)
    return graph(convolution(**changes), tensors=[source, result or tensor("y", 1, 4, 4, 3)])


def test_a_convolution():
    net = convolved()
    node = net.nodes[0]
    assert (node.kernel, node.channels, node.reduction, node.input_channels) == ((3, 2), 3, 24, 4)
    assert not node.depthwise
    assert net.macs == 16 * 72
    assert list(net.products()) == [(node, 16)]
    assert list(net.fully_connected()) == []
    assert node.inputs == ("x",)
    padded = ((1, 1), (0, 1))
    assert convolved(result=tensor("y", 1, 6, 5, 3), padding=padded).macs == 30 * 72
    # The same with the channels first, and two inputs.
    first = tensor("x", 2, 4, 6, 5, channel_axis=1), tensor("y", 2, 3, 4, 4, channel_axis=1)
    assert convolved(*first).macs == 2 * 16 * 72
    depthwise = {"weights": np.ones((8, 3, 2, 1), int), "bias": np.zeros(8, int), "groups": 4}
    net = convolved(result=tensor("y", 1, 4, 4, 8, format=Int(32), zero_point=0), quantiser=None, **depthwise)
    assert net.nodes[0].depthwise
    assert net.macs == 16 * 48


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros((3, 24), int)}, r"node 'conv': weights of shape \(3, 24\) have not four axes"),
        ({"weights": np.zeros((3, 0, 2, 4), int)}, "have not four axes"),
        ({"weights": np.full((3, 3, 2, 4), 128)}, r"node 'conv': weights 128\.\.128 do not fit int8"),
        ({"bias": np.zeros(2, int)}, r"node 'conv': bias of shape \(2,\) does not match 3 output channels"),
        ({"quantiser": thresholds(2)}, "node 'conv': levels of shape .* are not a matrix of 3"),
        ({"stride": (0, 1)}, r"node 'conv': stride \(0, 1\) is not possible"),
        ({"stride": (1,)}, r"node 'conv': stride \(1,\) is not possible"),
        ({"dilation": (1, -1)}, r"node 'conv': dilation \(1, -1\) is not possible"),
        ({"padding": ((0, 0), (0, -1))}, r"node 'conv': padding \(\(0, 0\), \(0, -1\)\) is not possible"),
        ({"padding": ((0, 0), (0,))}, "node 'conv': padding .* is not possible"),
        ({"groups": 2}, "node 'conv': 3 output channels are not 2 groups"),
        ({"groups": 0}, "node 'conv': 3 output channels are not 0 groups"),
        ({"groups": 3}, "node 'conv': its input 'x' has 4 channels, not 12"),
        ({"source": tensor("x", 1, 4, 6, 5)}, "node 'conv': its input 'x' has 5 channels, not 4"),
        ({"source": tensor("x", 1, 2, 5, 4)}, "node 'conv': its kernel is larger than its input of 2 x 5"),
        (
            {"result": tensor("y", 1, 4, 5, 3)},
            r"node 'conv': makes \(1, 4, 4, 3\) of batch, height, width and channels, .* has \(1, 4, 5, 3\)",
        ),
        ({"result": tensor("y", 1, 4, 4, 2)}, "node 'conv': makes .*, but its output has"),
        ({"result": tensor("y", 2, 4, 4, 3)}, "node 'conv': makes .*, but its output has"),
        ({"result": real("y", 1, 4, 4, 3)}, "node 'conv': 'y' has no integer format"),
        ({"result": tensor("y", 1, 4, 4, 3, format=Int(4))}, "node 'conv': clamp .* is not a range of int4"),
        ({"quantiser": None}, "node 'conv': makes accumulators, but its output is int8"),
        (
            {
                "source": tensor("x", 1, 6, 5, 4),
                "padding": ((1 << 23, 0), (0, 1)),
                "result": tensor("y", 1, (1 << 23) + 4, 5, 3),
            },
            "node 'conv': has maps of more than 16777216 positions",
        ),
    ],
)
def test_refused_convolution(changes, message):
    with pytest.raises(NetworkError, match=message):
        convolved(**changes)


def pooled(kind=MaxPool, source=None, result=None, **changes):
    values = {"kernel": (2, 3), "stride": (2, 1), **changes}
    if kind is AveragePool:
        values = {"tables": {6: np.zeros(6 * 255 + 1, int)}, **values}
    node = kind(name="pool", input="x", output="y", **values)
    return graph(node, tensors=[source or tensor("x", 1, 6, 5, 4), result or tensor("y", 1, 3, 3, 4)])


@pytest.mark.parametrize("kind", [MaxPool, AveragePool])
def test_pools(kind):
    assert pooled(kind).macs == 0
    sources = tensor("x", 2, 4, 6, 5, channel_axis=1), tensor("y", 2, 4, 3, 3, channel_axis=1)
    assert pooled(kind, *sources).nodes[0].inputs == ("x",)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (MaxPool, {"kernel": (0, 1)}, r"node 'pool': kernel \(0, 1\) is not possible"),
        (AveragePool, {"stride": (1, 0)}, r"node 'pool': stride \(1, 0\) is not possible"),
        (MaxPool, {"result": tensor("y", 1, 3, 3, 5)}, r"node 'pool': makes \(1, 3, 3, 4\) of batch"),
        (MaxPool, {"result": tensor("y", 1, 3, 3, 4, scale=0.1)}, "node 'pool': changes the format, scale"),
        (MaxPool, {"kernel": (7, 1)}, "node 'pool': its kernel is larger than its input of 6 x 5"),
        (
            MaxPool,
            {"padding": ((2, 0), (0, 0)), "result": tensor("y", 1, 4, 3, 4)},
            "node 'pool': has a window that covers nothing but padding",
        ),
        (
            MaxPool,
            {"padding": ((0, 1 << 40), (0, 0)), "result": tensor("y", 1, 3 + (1 << 39), 3, 4)},
            "node 'pool': has maps of more than",
        ),
        (AveragePool, {"tables": {}}, "node 'pool': has no table for windows of 6 positions"),
        (
            AveragePool,
            {"padding": ((0, 1), (0, 1)), "result": tensor("y", 1, 3, 4, 4)},
            "node 'pool': has no table for windows of 4 positions",
        ),
        (
            AveragePool,
            {"tables": {6: np.zeros(6 * 255, int)}},
            r"node 'pool': its table has shape \(1530,\), not \(1531,\)",
        ),
        (
            AveragePool,
            {"tables": {6: np.full(6 * 255 + 1, 128)}},
            r"node 'pool': its table of 128\.\.128 does not fit int8",
        ),
        (
            AveragePool,
            {
                "source": tensor("x", 1, 6, 5, 4, format=Bipolar(), zero_point=0),
                "result": tensor("y", 1, 4, 3, 4),
                "padding": ((1, 1), (0, 0)),
                "count_padding": True,
            },
            "node 'pool': pads bipolar, which has no zero",
        ),
        (
            AveragePool,
            {"source": tensor("x", 1, 6, 5, 4, format=Int(24))},
            "node 'pool': would need a table of 100663291 entries, more than 16777216",
        ),
    ],
)
def test_refused_pool(kind, changes, message):
    with pytest.raises(NetworkError, match=message):
        pooled(kind, **changes)


def test_padding_may_count():
    node = AveragePool(
        name="pool", input="x", output="y", kernel=(2, 3), padding=((1, 0), (0, 1)), count_padding=True
    )
    assert np.unique(node.counts(6, 5)).tolist() == [6]
    assert np.unique(node.coverage(6, 5)).tolist() == [2, 3, 4, 6]


def test_average_tables():
    counts = np.array([[2, 1], [2, 4]])
    tables = average_tables(counts, Int(2), lambda sums, count: sums // count)
    assert {count: table.tolist() for count, table in tables.items()} == {
        1: [-2, -1, 0, 1],
        2: [-2, -2, -1, -1, 0, 0, 1],
        4: [-2] * 4 + [-1] * 4 + [0] * 4 + [1],
    }
    node = AveragePool(name="pool", input="x", output="y", kernel=(4096, 4096), padding=((0, 0), (0, 0)))
    with pytest.raises(NetworkError, match="node 'pool': would need a table of 4278190081 entries"):
        node.tabulated(tensor("x", 1, 4096, 4096, 1), lambda sums, count: sums)


# Other nodes


def one(node, *tensors):
    copies = [
        Reshape(name=f"copy of {each.name}", input=tensors[0].name, output=each.name)
        for each in tensors[1:-1]
    ]
    return graph(*copies, node, tensors=tensors, input=tensors[0].name, output=tensors[-1].name)


def binary(**changes):
    values = {"name": "n", "inputs": ("x", "x"), "output": "y", "table": np.zeros((256, 256), int)}
    return Binary(**{**values, **changes})


def lookup(size=256):
    return Lookup(name="n", input="x", output="y", table=np.zeros(size, int))


def concatenate(axis=1, align=1):
    return Concatenate(name="n", inputs=("x", "other"), output="y", axis=axis, align=align)


def select(*channels):
    return Select(name="n", input="x", output="y", channels=channels)


def upsample(factors):
    return Upsample(name="n", input="x", output="y", factors=factors)


def pad(padding=((0, 0), (1, 2)), value=1):
    return Pad(name="n", input="x", output="y", padding=padding, value=value)


def transpose(*axes):
    return Transpose(name="n", input="x", output="y", axes=axes)


def softmax(arithmetic="tflite", **others):
    return Softmax(name="n", input="x", output="y", arithmetic=arithmetic, **others)


def arg_max(axis=1):
    return ArgMax(name="n", input="x", output="y", axis=axis)


X, Y = tensor("x", 2, 3), tensor("y", 2, 3)
SHARES = tensor("y", 2, 3, scale=1 / 256, zero_point=-128)
INDEX = {"format": Int(32), "scale": 1.0, "zero_point": 0}


def test_the_other_nodes():
    assert one(binary(), X, Y).nodes[0].inputs == ("x", "x")
    uint2 = tensor("x", 2, 3, format=Int(2, signed=False))
    one(Lookup(name="n", input="x", output="y", table=np.full(4, -1)), uint2, Y)
    assert one(concatenate(), X, tensor("other", 2, 3), tensor("y", 2, 6)).nodes[1].inputs == ("x", "other")
    one(concatenate(align=4), X, tensor("other", 2, 3), tensor("y", 2, 7))
    one(pad(), X, tensor("y", 2, 6))
    one(pad(((0, 0), (2, -1))), X, tensor("y", 2, 4))
    one(select(2, 0, 0, 1), X, tensor("y", 2, 4))
    one(upsample((2, 3)), tensor("x", 1, 2, 3, 4), tensor("y", 1, 4, 9, 4))
    one(transpose(1, 0), X, tensor("y", 3, 2))
    one(softmax(), X, SHARES)
    one(softmax("float32"), X, real("y", 2, 3))
    one(arg_max(), X, tensor("y", 2, **INDEX))
    one(arg_max(), X, tensor("y", 2, 1, **INDEX))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: one(binary(), X, tensor("y", 3, 2)), r"its input 'x' has shape \(2, 3\), .* has \(3, 2\)"),
        (lambda: one(lookup(), X, tensor("y", 6)), r"its input 'x' has shape \(2, 3\)"),
        (
            lambda: one(lookup(), X, tensor("y", 2, 3, channel_axis=0)),
            "its input 'x' does not have its channels on the axis of its output",
        ),
        (lambda: one(lookup(255), X, Y), r"its table has shape \(255,\), not \(256,\)"),
        (
            lambda: one(lookup(), X, tensor("y", 2, 3, format=Bipolar(), zero_point=0)),
            "0 does not fit bipolar",
        ),
        (lambda: one(lookup(), tensor("x", 2, 3, format=Int(32)), Y), "a table of 4294967296 entries, more"),
        (
            lambda: one(binary(), tensor("x", 2, 3, format=Int(13)), Y),
            "a table of 8192 x 8192 entries, more than 16777216",
        ),
        (lambda: one(lookup(), real("x", 2, 3), Y), "'x' has no integer format"),
        (lambda: binary(inputs=("x",)), "must have two inputs, not 1"),
        (lambda: Concatenate(name="n", inputs=(), output="y", axis=0), "has no inputs"),
        (
            lambda: one(concatenate(2), X, tensor("other", 2, 3), tensor("y", 2, 6)),
            r"axis 2 is none of shape \(2, 6\)",
        ),
        (
            lambda: one(concatenate(0), X, tensor("other", 2, 3), tensor("y", 2, 6)),
            r"cannot join \(2, 3\) to \(2, 6\) along axis 0",
        ),
        (
            lambda: one(concatenate(), X, tensor("other", 2, 3), tensor("y", 2, 7)),
            r"its inputs do not add up to \(2, 7\) along axis 1",
        ),
        (
            lambda: one(concatenate(), X, tensor("other", 2, 3), tensor("y", 2, 6, zero_point=0)),
            "changes the format, scale or zero point; only the shape may change",
        ),
        (
            lambda: one(concatenate(), X, tensor("other", 2, 3), tensor("y", 2, 6, channel_axis=0)),
            "its tensors do not have their channels on the same axis",
        ),
        (lambda: one(pad(((0, 0),)), X, tensor("y", 2, 6)), "is not two counts for each axis"),
        (lambda: one(pad(((0, 0), (1, -3))), X, tensor("y", 2, 1)), "is not two counts for each axis"),
        (lambda: one(select(3), X, tensor("y", 2, 1)), r"selects channels \(3,\) of 3"),
        (lambda: one(select(0, 1), X, Y), r"makes \(2, 1, 1, 2\) of batch, .* has \(2, 1, 1, 3\)"),
        (lambda: one(select(0), X, tensor("y", 2, 1, scale=2.0)), "only the channels may change"),
        (lambda: one(upsample((1, 2)), X, Y), r"makes \(2, 1, 2, 3\) of batch, .* has \(2, 1, 1, 3\)"),
        (lambda: upsample((0, 2)), r"repeats positions \(0, 2\) times"),
        (lambda: concatenate(align=0), "cannot begin inputs at multiples of 0"),
        (lambda: one(pad(), X, tensor("y", 2, 5)), r"makes shape \(2, 6\), but its output has \(2, 5\)"),
        (lambda: one(pad(value=128), X, tensor("y", 2, 6)), "its value 128 is not one of int8"),
        (lambda: one(pad(), X, tensor("y", 2, 6, scale=2.0)), "only the shape may change"),
        (lambda: one(transpose(0, 0), X, tensor("y", 2, 2)), r"axes \(0, 0\) are not those of \(2, 3\)"),
        (lambda: one(transpose(1, 0), X, Y), r"makes shape \(3, 2\), but its output has \(2, 3\)"),
        (lambda: one(transpose(1, 0), X, tensor("y", 3, 2, scale=2.0)), "only the order may change"),
        (lambda: softmax("exact"), "arithmetic 'exact' is neither 'tflite' nor 'float32'"),
        (lambda: softmax(beta=0.0), "beta 0.0 is not a positive number"),
        (lambda: softmax(rounding="nearest"), "rounding 'nearest' is not known"),
        (lambda: one(softmax(), X, Y), "TFLite's softmax is from int8 to int8 with the scale 1/256"),
        (lambda: one(softmax(), X, real("y", 2, 3)), "TFLite's softmax is from int8 to int8"),
        (lambda: one(softmax(beta=1e-9), X, SHARES), "scale 0.5 times beta 1e-09 is too small"),
        (lambda: one(softmax(), X, tensor("y", 3, 2)), "changes the shape"),
        (lambda: one(softmax("float32"), tensor("x"), real("y")), "its input 'x' has no axes"),
        (lambda: one(arg_max(2), X, tensor("y", 2, **INDEX)), r"axis 2 is none of shape \(2, 3\)"),
        (
            lambda: one(arg_max(), X, tensor("y", 3, **INDEX)),
            r"makes shape \(2,\), but its output has \(3,\)",
        ),
        (lambda: one(arg_max(), X, tensor("y", 2)), "makes indices, but its output is not int32"),
    ],
)
def test_refused_node(make, message):
    with pytest.raises(NetworkError, match=f"^node 'n': .*{message}"):
        make()


def test_two_inputs_in_order():
    nodes = (lookup(), Binary(name="sum", inputs=("x", "y"), output="z", table=np.zeros((256, 256), int)))
    tensors = [X, Y, tensor("z", 2, 3)]
    assert graph(*nodes, tensors=tensors, output="z").nodes[1].inputs == ("x", "y")
    with pytest.raises(NetworkError, match="node 'sum': reads 'y' before any node has produced it"):
        graph(*reversed(nodes), tensors=tensors, output="z")
    with pytest.raises(NetworkError, match="node 'sum': its tensor 'y' is not among the graph's tensors"):
        graph(nodes[1], tensors=[X, tensor("z", 2, 3)], output="z")


def test_the_hosts_part():
    net = whole()
    assert [node.name for node in net.nodes if on_host(node)] == ["quantize", "dequantize"]
    assert [node.name for node in net.tail] == ["dequantize"]
    nodes = (
        lookup(),
        Softmax(name="softmax", input="y", output="shares", arithmetic="tflite"),
        Reshape(name="flat", input="shares", output="out"),
        ArgMax(name="best", input="y", output="index", axis=1),
    )
    shares = {"scale": 1 / 256, "zero_point": -128}
    tensors = [
        X,
        Y,
        tensor("shares", 2, 3, **shares),
        tensor("out", 6, **shares),
        tensor("index", 2, **INDEX),
    ]
    net = graph(*nodes, tensors=tensors, output="out")
    assert net.tail == nodes[1:]


@pytest.mark.parametrize(
    ("source", "result", "axes", "same"),
    [
        (tensor("x", 1, 4, 3, 5), tensor("y", 1, 60), None, True),
        (tensor("x", 1, 5, 4, 3, channel_axis=1), tensor("y", 1, 60), None, False),
        (tensor("x", 1, 5, 1, 1, channel_axis=1), tensor("y", 1, 5), None, True),
        (tensor("x", 1, 4, 3, 5), tensor("y", 1, 5, 4, 3, channel_axis=1), (0, 3, 1, 2), True),
        (tensor("x", 1, 4, 3, 5), tensor("y", 1, 5, 4, 3), (0, 3, 1, 2), False),
        (tensor("x", 1, 5, 7, channel_axis=1), tensor("y", 1, 7, 5), (0, 2, 1), True),
        (tensor("x", 1, 4, 3, 5), tensor("y", 1, 3, 4, 5), (0, 2, 1, 3), False),
    ],
)
def test_same_order(source, result, axes, same):
    node = Reshape(name="n", input="x", output="y") if axes is None else transpose(*axes)
    assert same_order(node, source, result) is same
    assert one(node, source, result)


def test_the_error_can_be_caught_and_taken_apart():
    error = NetworkError("node 'a\nb'", "is odd", "make it even")
    assert isinstance(error, BitwrightError)
    assert str(error) == "node 'a�b': is odd; make it even"
    assert (error.where, error.what, error.hint) == ("node 'a�b'", "is odd", "make it even")
    assert str(NetworkError("x", "y")) == "x: y"
    assert len(str(NetworkError("x" * 5000, "y" * 5000))) < 700
