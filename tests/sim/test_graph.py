"""The integer graph: what it derives, and everything that its validation refuses."""

import numpy as np
import pytest

from bitwright.hw.errors import BitwrightError
from bitwright.hw.formats import Int
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


def layer(name="fc", input="codes", output="y", n=3, k=4, **changes):
    values = {
        "weights": np.arange(n * k).reshape(n, k) - 6,
        "weight_format": INT8,
        "bias": np.arange(n) * 100,
        "multiplier": np.full(n, 1 << 30),
        "shift": np.full(n, -4),
        "rounding": "tflite",
        "low": -128,
        "high": 127,
    }
    return FullyConnected(name=name, input=input, output=output, **{**values, **changes})


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
    ],
)
def test_refused_layer(changes, message):
    with pytest.raises(NetworkError, match=message):
        layer(**changes)


def test_float_weights_are_a_mistake_of_the_caller():
    with pytest.raises(TypeError, match="Integers expected, not float64"):
        layer(weights=np.zeros((3, 4)))


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
    ],
)
def test_refused_graph(changes, message):
    with pytest.raises(NetworkError, match=message):
        whole(**changes)


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


def test_the_error_can_be_caught_and_taken_apart():
    error = NetworkError("node 'a\nb'", "is odd", "make it even")
    assert isinstance(error, BitwrightError)
    assert str(error) == "node 'a�b': is odd; make it even"
    assert (error.where, error.what, error.hint) == ("node 'a�b'", "is odd", "make it even")
    assert str(NetworkError("x", "y")) == "x: y"
    assert len(str(NetworkError("x" * 5000, "y" * 5000))) < 700
