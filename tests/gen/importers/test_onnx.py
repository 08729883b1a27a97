"""ONNX import: every variation against onnxruntime without graph optimisation, every refusal by name."""

import warnings
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitwright.gen.importers import load
from bitwright.hw.formats import Int
from bitwright.sim import golden
from bitwright.sim.graph import Dequantize, FullyConnected, Graph, NetworkError, Quantize, Reshape

K, N = 24, 10

TYPES = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int4": TensorProto.INT4,
    "uint4": TensorProto.UINT4,
    "int32": TensorProto.INT32,
}
FORMATS = {
    "int8": Int(8),
    "uint8": Int(8, signed=False),
    "int4": Int(4),
    "uint4": Int(4, signed=False),
}


@dataclass
class Network:
    """Writes an ONNX network, node by node."""

    opset: int = 21
    nodes: list = field(default_factory=list)
    initialisers: list = field(default_factory=list)
    numbers: count = field(default_factory=count)

    def name(self, stem):
        return f"{stem}_{next(self.numbers)}"

    def tensor(self, values, kind=None, name=""):
        values = np.asarray(values)
        if kind in ("int4", "uint4"):
            codes = values.reshape(-1).astype(np.uint8) & 15
            codes = np.append(codes, np.zeros(codes.size % 2, np.uint8))
            packed = (codes[::2] | codes[1::2] << 4).tobytes()
            return helper.make_tensor(name, TYPES[kind], values.shape, packed, raw=True)
        return numpy_helper.from_array(values.astype(kind or values.dtype), name)

    def constant(self, values, kind=None, stem="const", as_node=False):
        name = self.name(stem)
        tensor = self.tensor(values, kind, name)
        if as_node:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initialisers.append(tensor)
        return name

    def node(self, op, *inputs, output=None, name=None, **attributes):
        output = output or self.name(op.lower())
        name = f"n_{output}" if name is None else name
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=name, **attributes))
        return output

    def quantize(self, x, scale, zero_point=0, kind="int8", **attributes):
        zero = self.constant(zero_point, kind)
        return self.node("QuantizeLinear", x, self.constant(np.float32(scale)), zero, **attributes)

    def dequantize(self, q, scale, zero_point=0, kind="int8", **attributes):
        zero = self.constant(zero_point, kind)
        return self.node("DequantizeLinear", q, self.constant(np.float32(scale)), zero, **attributes)

    def qdq(self, x, scale, zero_point=0, kind="int8"):
        return self.dequantize(self.quantize(x, scale, zero_point, kind), scale, zero_point, kind)

    def weights(self, values, scale, zero_point=0, kind="int8", as_node=False, **attributes):
        stored = self.constant(values, kind, "weights", as_node)
        return self.dequantize(stored, scale, zero_point, kind, **attributes)

    def model(self, output, shape=(1, K), kind=TensorProto.FLOAT, output_kind=TensorProto.FLOAT):
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info(output, output_kind, None)],
            self.initialisers,
        )
        domains = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=domains, ir_version=10)


def save(model, tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def runtime(model, names, x):
    """Tensors of that name, computed by onnxruntime as the file says, without optimisation."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, ["CPUExecutionProvider"])
    runs = [session.run(list(names), {"x": one}) for one in x]
    return {name: np.stack(arrays) for name, arrays in zip(names, zip(*runs, strict=True), strict=True)}


def check(model, tmp_path, inputs=200, seed=0, expect_warning=False) -> Graph:
    """Import, run a batch through golden model and onnxruntime, compare every tensor that both have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if expect_warning else "error")
        graph = load(save(model, tmp_path))
    rng = np.random.default_rng(seed)
    info = graph.tensors[graph.input]
    if info.format is None:
        x = rng.normal(0, 0.6, (inputs, *info.shape)).astype(np.float32)
    else:
        x = rng.integers(info.format.min, info.format.max + 1, (inputs, *info.shape))
        x = x.astype(golden.storage_type(info))
    tensors = golden.run(graph, x)
    # onnxruntime cannot hand out 4-bit tensors: compared once they are dequantised.
    names, floats = [], {}
    quantised = {node.output[0] for node in model.graph.node if "uantizeLinear" in node.op_type}
    quantised |= {node.output[0] for node in model.graph.node if node.op_type == "QLinearMatMul"}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in graph.tensors:
            floats[node.output[0]] = node.input[0]
    for name, tensor in graph.tensors.items():
        if name in quantised | {graph.output} and (tensor.format is None or tensor.format.bits == 8):
            names.append(name)
    assert graph.output in names or graph.tensors[graph.output].format.bits == 4
    expected = runtime(model, [*names, *(name for name in floats if name not in names)], x)
    for name in names:
        assert tensors[name].dtype == expected[name].dtype, name
        np.testing.assert_array_equal(tensors[name], expected[name], name, strict=True)
    for name, codes in floats.items():
        real = golden.dequantise(tensors[codes], graph.tensors[codes])
        np.testing.assert_array_equal(real, expected[name], name, strict=True)
    # Something must have been compared that is not saturated through and through.
    last = tensors[graph.output]
    assert np.unique(last).size > 3
    return graph


def operands(seed=1, low=-128, high=128, shape=(K, N)):
    rng = np.random.default_rng(seed)
    return rng.integers(low, high, shape), rng.integers(-3000, 3000, shape[-1])


S_X, S_W, S_Y = np.float32(0.0123), np.float32(0.0071), np.float32(0.0313)
# With powers of two float32 is exact, so that many results lie exactly between two codes.
TIES = (np.float32(2.0**-6), np.float32(2.0**-7), np.float32(2.0**-5))


def mlp(
    *,
    scales=(S_X, S_W, S_Y),
    kind="int8",
    zero_points=(3, -7),
    weight_kind="int8",
    weight_zero=0,
    per_channel=False,
    transposed=False,
    bias="int32",
    before=None,
    after=None,
    as_node=False,
    shape=(1, K),
):
    """One layer: QuantizeLinear, DequantizeLinear, Gemm, QuantizeLinear, DequantizeLinear."""
    net = Network()
    s_x, s_w, s_y = scales
    bounds = FORMATS[weight_kind]
    w, b = operands(low=bounds.min, high=bounds.max + 1)
    if bounds.bits == 4:
        s_w = s_w * 16
    axis = 0 if transposed else 1
    if per_channel:
        s_w = (s_w * np.random.default_rng(2).uniform(0.3, 2, N)).astype(np.float32)
        weight_zero = np.broadcast_to(weight_zero, N)
    x = net.qdq("x", s_x, zero_points[0], kind)
    if before:
        x = before(net, x)
    weights = net.weights(w.T if transposed else w, s_w, weight_zero, weight_kind, as_node=as_node, axis=axis)
    inputs = [x, weights]
    unit = np.asarray(s_x * s_w)
    if bias == "int32":
        unit = np.broadcast_to(unit, N)
        inputs.append(net.weights(b, unit, np.zeros(N), "int32", as_node=as_node, axis=0))
    elif bias == "float":
        inputs.append(net.constant((b * s_x.astype(np.float64) * s_w).astype(np.float32)))
    y = net.node("Gemm", *inputs, transB=int(transposed), name="fc")
    if after:
        y = after(net, y)
    return net.model(net.qdq(y, s_y, zero_points[1], kind), shape)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bias", ["int32", "none", "float"])
def test_gemm(tmp_path, transposed, per_channel, bias):
    model = mlp(transposed=transposed, per_channel=per_channel, bias=bias)
    graph = check(model, tmp_path)
    assert [type(node) for node in graph.nodes] == [Quantize, FullyConnected, Dequantize]
    layer = graph.nodes[1]
    assert layer.name == "fc"
    assert layer.rounding == "half_even"
    w, b = operands()
    np.testing.assert_array_equal(layer.weights, w.T)
    np.testing.assert_array_equal(layer.bias, 0 * b if bias == "none" else b)
    assert layer.weight_format == Int(8)
    assert graph.macs == K * N
    assert (graph.input, graph.output) == ("x", model.graph.output[0].name)
    assert graph.tensors["x"].format is None
    assert graph.name == "network"


@pytest.mark.parametrize("kind", ["int8", "uint8", "int4", "uint4"])
def test_ties_go_to_even(tmp_path, kind):
    zero = 8 if kind.startswith("u") else 0
    graph = check(
        mlp(scales=TIES if "8" in kind else (2.0**-2, 2.0**-7, 2.0**-2), kind=kind, zero_points=(zero, zero)),
        tmp_path,
    )
    # The same accumulators rounded the other way differ: ties did occur.
    layer = graph.nodes[1]
    rng = np.random.default_rng(0)
    x = golden.run(graph, rng.normal(0, 0.6, (200, 1, K)).astype(np.float32))[layer.input]
    acc = (x.astype(int).reshape(-1, K) - zero) @ layer.weights.T + layer.bias
    fraction = acc * layer.multiplier * 2.0 ** (layer.shift - 31) % 1
    assert (fraction == 0.5).any()


@pytest.mark.parametrize("kind", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize("weight_kind", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_types(tmp_path, kind, weight_kind, per_channel):
    low = FORMATS[kind].min
    weight_zero = {"int8": 0, "uint8": 128, "int4": 0, "uint4": 8}[weight_kind]
    scales = (S_X, S_W, S_Y) if "8" in kind else (S_X * 16, S_W, S_Y * 16)
    graph = check(
        mlp(
            kind=kind,
            zero_points=(low + 5, low + 6),
            weight_kind=weight_kind,
            weight_zero=weight_zero,
            per_channel=per_channel,
            scales=scales,
        ),
        tmp_path,
    )
    layer = graph.nodes[1]
    assert graph.tensors[layer.input].format == FORMATS[kind]
    assert graph.tensors[layer.input].zero_point == low + 5
    assert layer.weight_format == Int(FORMATS[weight_kind].bits)


def test_weight_zero_points_are_folded(tmp_path):
    """What 4 bits cannot hold any more is kept in 8."""
    graph = check(mlp(weight_kind="int4", weight_zero=-3), tmp_path)
    assert graph.nodes[1].weight_format == Int(8)
    np.testing.assert_array_equal(graph.nodes[1].weights, operands(low=-8, high=8)[0].T + 3)


def test_weight_zero_points_per_channel(tmp_path):
    zero = np.arange(N) + 120
    net = Network()
    w = np.random.default_rng(1).integers(60, 190, (K, N))
    weights = net.weights(w, np.full(N, S_W), zero, "uint8", axis=-1)
    y = net.node("Gemm", net.qdq("x", S_X), weights)
    graph = check(net.model(net.qdq(y, S_Y)), tmp_path)
    np.testing.assert_array_equal(graph.nodes[1].weights, w.T - zero[:, None])


def relu(net, y):
    return net.node("Relu", y)


def clip(low, high, as_node=False):
    def add(net, y):
        bounds = [
            "" if bound is None else net.constant(np.float32(bound), as_node=as_node) for bound in (low, high)
        ]
        return net.node("Clip", y, *bounds)

    return add


@pytest.mark.parametrize(
    ("after", "low", "high"),
    [
        (relu, -7, 127),
        (clip(0.0, 1.5), -7, 41),
        (clip(-0.75, 0.8, as_node=True), -31, 19),
        (clip(None, 0.5), -128, 9),
        (clip(0.25, None), 1, 127),
        (lambda net, y: relu(net, clip(-1.0, 1.0)(net, y)), -7, 25),
        (lambda net, y: clip(0.1, 0.9)(net, relu(net, y)), -4, 22),
        # Out of reach: nothing is left to clamp.
        (clip(-100.0, 100.0), -128, 127),
    ],
)
def test_activations(tmp_path, after, low, high):
    layer = check(mlp(after=after), tmp_path).nodes[1]
    assert (layer.low, layer.high) == (low, high)


def test_clip_bounds_that_cross(tmp_path):
    """The upper bound wins, as in the operator's definition."""
    layer = load(save(mlp(after=clip(0.9, 0.2)), tmp_path)).nodes[1]
    assert layer.low == layer.high == -7 + 6


def test_clip_attributes(tmp_path):
    """Clip before opset 11, where the bounds were attributes."""
    net = Network(opset=10)
    w, _ = operands()
    # Opset 10 has no scales per channel.
    y = net.node("Gemm", net.qdq("x", S_X), net.weights(w, S_W), net.constant(np.zeros(N, np.float32)))
    y = net.node("Clip", y, min=0.0, max=1.0)
    layer = check(net.model(net.qdq(y, S_Y)), tmp_path).nodes[1]
    assert (layer.low, layer.high) == (0, 32)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("bias_shape", [(N,), (1, N), (1, 1, N), (1,), ()])
def test_matmul_add(tmp_path, swapped, bias_shape):
    net = Network()
    w, b = operands()
    bias = (b * np.float64(S_X) * S_W).astype(np.float32)
    bias = bias.reshape(bias_shape) if np.prod(bias_shape) == N else bias[0].reshape(bias_shape)
    y = net.node("MatMul", net.qdq("x", S_X), net.weights(w, S_W))
    inputs = [y, net.constant(bias)]
    y = net.node("Add", *(reversed(inputs) if swapped else inputs))
    graph = check(net.model(net.qdq(relu(net, y), S_Y), (1, 3, K)), tmp_path)
    assert graph.macs == 3 * K * N
    np.testing.assert_array_equal(graph.nodes[1].bias, b if np.prod(bias_shape) == N else np.full(N, b[0]))


def test_two_biases(tmp_path):
    net = Network()
    w, b = operands()
    bias = net.weights(b, np.full(N, S_X * S_W), np.zeros(N), "int32", axis=0)
    y = net.node("Gemm", net.qdq("x", S_X), net.weights(w, S_W), bias)
    y = net.node("Add", y, net.weights(2 * b, np.full(N, S_X * S_W), np.zeros(N), "int32", axis=0))
    graph = check(net.model(net.qdq(y, S_Y)), tmp_path)
    np.testing.assert_array_equal(graph.nodes[1].bias, 3 * b)


def test_matmul_of_a_vector(tmp_path):
    net = Network()
    w, _ = operands()
    y = net.node("MatMul", net.qdq("x", S_X), net.weights(w, np.full(N, S_W), np.zeros(N), axis=1))
    graph = check(net.model(net.qdq(y, S_Y), (K,)), tmp_path)
    assert graph.macs == K * N
    assert graph.tensors[graph.output].shape == (N,)


def test_float_bias_is_rounded_with_a_warning(tmp_path):
    net = Network()
    w, _ = operands()
    bias = np.linspace(-1, 1, N).astype(np.float32)
    y = net.node("Gemm", net.qdq("x", S_X), net.weights(w, S_W), net.constant(bias), name="fc")
    path = save(net.model(net.qdq(y, S_Y)), tmp_path)
    with pytest.warns(UserWarning, match=r"node 'fc' \(Gemm\): bias is rounded"):
        graph = load(path)
    np.testing.assert_array_equal(graph.nodes[1].bias, np.rint(bias / (np.float64(S_X) * S_W)))


def test_bias_in_another_scale(tmp_path):
    """An int8 bias with a scale of its own is brought to the accumulator's, which loses something."""
    net = Network()
    w, _ = operands()
    codes = np.arange(N) * 9 - 40
    bias = net.weights(codes, np.float32(0.013), 2, "int8")
    y = net.node("Gemm", net.qdq("x", S_X), net.weights(w, S_W), bias, name="fc")
    path = save(net.model(net.qdq(y, S_Y)), tmp_path)
    with pytest.warns(UserWarning, match="bias is rounded"):
        graph = load(path)
    exact = (codes - 2) * (np.float64(np.float32(0.013)) / (np.float64(S_X) * S_W))
    np.testing.assert_array_equal(graph.nodes[1].bias, np.rint(exact))


def test_large_bias_is_kept(tmp_path):
    """Its scale is the product of two in float32, and not taken for another scale."""
    net = Network()
    w, _ = operands()
    codes = np.linspace(-(2**30), 2**30, N).astype(int) + 1
    unit = np.full(N, S_X * S_W)
    assert float(unit[0]) != float(S_X) * float(S_W)
    bias = net.weights(codes, unit, np.zeros(N), "int32", axis=0)
    y = net.node("Gemm", net.qdq("x", S_X), net.weights(w, S_W), bias)
    layer = load(save(net.model(net.qdq(y, S_Y)), tmp_path)).nodes[1]
    np.testing.assert_array_equal(layer.bias, codes)


# Nodes that only relabel, in every place


def reshape(*shape, allowzero=0):
    return lambda net, y: net.node("Reshape", y, net.constant(np.array(shape, np.int64)), allowzero=allowzero)


def flatten(axis):
    return lambda net, y: net.node("Flatten", y, axis=axis)


def squeeze(*axes):
    def add(net, y):
        return net.node("Squeeze", y, *([net.constant(np.array(axes, np.int64))] if axes else []))

    return add


def unsqueeze(*axes):
    return lambda net, y: net.node("Unsqueeze", y, net.constant(np.array(axes, np.int64)))


def transpose(*order):
    return lambda net, y: net.node("Transpose", y, perm=order)


def identity(net, y):
    return net.node("Identity", y)


def chain(*steps):
    def add(net, y):
        for step in steps:
            y = step(net, y)
        return y

    return add


RELABEL = [
    ((1, K), identity),
    ((1, 4, 6), flatten(1)),
    ((1, 4, 6), flatten(-2)),
    ((1, 4, 6), reshape(1, -1)),
    ((1, 4, 6), reshape(0, K)),
    ((K,), reshape(-1, K, allowzero=1)),
    ((1, 1, K), squeeze(1)),
    ((1, 1, K), squeeze(-3)),
    ((1, K, 1, 1), squeeze(2, -1)),
    ((1, K, 1), chain(squeeze(), unsqueeze(0))),
    ((K,), unsqueeze(-2)),
    ((1, 4, 6), chain(unsqueeze(0, 2), reshape(1, 6, 4), flatten(1))),
    ((1, K, 1, 1), chain(transpose(0, 2, 3, 1), reshape(1, K))),
    ((1, 1, K), chain(transpose(1, 0, 2), squeeze(0))),
]


def layer(net, x, s_x=S_X, z_x=3):
    """MatMul and bias from the float tensor `x`, not quantised yet."""
    w, b = operands()
    bias = net.weights(b, np.full(N, s_x * S_W), np.zeros(N), "int32", axis=0)
    return net.node("Gemm", x, net.weights(w, np.full(N, S_W), np.zeros(N), axis=1), bias)


@pytest.mark.parametrize(("shape", "relabel"), RELABEL)
@pytest.mark.parametrize("place", ["float input", "codes", "dequantised", "integer input"])
def test_relabelled_before(tmp_path, shape, relabel, place):
    net = Network()
    kind = TensorProto.FLOAT
    if place == "integer input":
        x, kind = net.dequantize(relabel(net, "x"), S_X, 3), TensorProto.INT8
    elif place == "float input":
        x = net.qdq(relabel(net, "x"), S_X, 3)
    elif place == "codes":
        x = net.dequantize(relabel(net, net.quantize("x", S_X, 3)), S_X, 3)
    else:
        x = relabel(net, net.qdq("x", S_X, 3))
    model = net.model(net.qdq(layer(net, x), S_Y), shape, kind)
    graph = check(model, tmp_path, inputs=20)
    assert graph.tensors["x"].shape == shape
    if place != "integer input":
        # The host's part comes first, whatever the file's order is.
        assert isinstance(graph.nodes[0], Quantize)


@pytest.mark.parametrize(
    "relabel",
    [
        identity,
        reshape(2, 5),
        chain(unsqueeze(0), reshape(1, N, 1), squeeze(2)),
        flatten(0),
        transpose(1, 0),
        chain(reshape(5, 2), flatten(0)),
    ],
)
@pytest.mark.parametrize("place", ["product", "clamped", "codes", "dequantised", "integer output"])
def test_relabelled_after(tmp_path, relabel, place):
    net = Network()
    y = layer(net, net.qdq("x", S_X, 3))
    output_kind = TensorProto.FLOAT
    if place == "product":
        y = net.qdq(relabel(net, y), S_Y, 1)
    elif place == "clamped":
        y = net.qdq(relu(net, relabel(net, relu(net, y))), S_Y, 1)
    elif place == "codes":
        y = net.dequantize(relabel(net, net.quantize(y, S_Y, 1)), S_Y, 1)
    elif place == "dequantised":
        y = relabel(net, net.qdq(y, S_Y, 1))
    else:
        y, output_kind = relabel(net, net.quantize(y, S_Y, 1)), TensorProto.INT8
    graph = check(net.model(y, output_kind=output_kind), tmp_path, inputs=20)
    assert graph.output == y


def test_a_scalar_in_between(tmp_path):
    net = Network()
    w, _ = operands(shape=(K, 1))
    q = net.quantize(net.node("MatMul", net.qdq("x", S_X), net.weights(w, S_W)), S_Y)
    q = unsqueeze(0)(net, squeeze()(net, q))
    graph = check(net.model(q, output_kind=TensorProto.INT8), tmp_path)
    assert [tensor.shape for tensor in graph.tensors.values()][-2:] == [(), (1,)]


def test_two_layers_with_a_reshape_between(tmp_path):
    net = Network()
    w, _ = operands(shape=(6, 5))
    y = net.qdq(relu(net, net.node("MatMul", net.qdq("x", S_X, 3), net.weights(w, S_W))), S_Y, -100)
    w2, _ = operands(seed=4, shape=(20, 7))
    y = net.node("Gemm", flatten(1)(net, y), net.weights(w2, S_W / 4))
    graph = check(net.model(net.qdq(y, S_Y), (1, 4, 6)), tmp_path)
    assert [type(node) for node in graph.nodes] == [
        Quantize,
        FullyConnected,
        Reshape,
        FullyConnected,
        Dequantize,
    ]
    assert graph.macs == 4 * 30 + 140


# Where the constants come from


def test_constant_nodes(tmp_path):
    check(mlp(as_node=True, per_channel=True, transposed=True), tmp_path)


@pytest.mark.parametrize("per_channel", [False, True])
def test_float_weights_quantised_in_the_file(tmp_path, per_channel):
    net = Network()
    real = np.random.default_rng(3).normal(0, 0.5, (K, N)).astype(np.float32)
    real[0, 0] = 100  # saturates
    scale = np.full(N, S_W) if per_channel else S_W
    zero = np.zeros(N) if per_channel else 0
    q = net.quantize(net.constant(real), scale, zero, axis=1)
    y = net.node("MatMul", net.qdq("x", S_X), net.dequantize(q, scale, zero, axis=1))
    graph = check(net.model(net.qdq(y, S_Y)), tmp_path)
    assert graph.nodes[1].weights[0, 0] == 127


@pytest.mark.parametrize("stage", ["float", "codes", "dequantised"])
def test_weights_transposed_in_the_file(tmp_path, stage):
    net = Network()
    w, _ = operands()
    scale, zero = np.full(N, S_W) * np.float32(1.5), np.zeros(N)
    turned = transpose(1, 0)
    if stage == "float":
        real = net.constant((w.T * np.float64(scale[0])).astype(np.float32))
        weights = net.quantize(turned(net, real), scale, zero, axis=1)
        weights = net.dequantize(weights, scale, zero, axis=1)
    elif stage == "codes":
        weights = net.dequantize(turned(net, net.constant(w.T, "int8")), scale, zero, axis=1)
    else:
        weights = turned(net, net.weights(w.T, scale, zero, axis=0))
    y = net.node("MatMul", net.qdq("x", S_X), weights)
    graph = check(net.model(net.qdq(y, S_Y)), tmp_path)
    np.testing.assert_array_equal(graph.nodes[1].weights, w.T)


def test_weights_reshaped_in_the_file(tmp_path):
    net = Network()
    w, _ = operands()
    weights = net.weights(w.reshape(K, 1, N), np.linspace(0.5, 2, N) * S_W, np.zeros(N), axis=2)
    y = net.node("MatMul", net.qdq("x", S_X), squeeze(1)(net, weights))
    check(net.model(net.qdq(y, S_Y)), tmp_path)


def test_initialisers_listed_as_inputs(tmp_path):
    """Files before IR version 4 list them so."""
    model = mlp()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    check(model, tmp_path)


def test_four_bits_in_int32_fields(tmp_path):
    """4-bit numbers may also be stored as integers, a pair in each."""
    model = mlp(weight_kind="int4")
    (tensor,) = (t for t in model.graph.initializer if t.name.startswith("weights") and t.data_type != 6)
    packed = list(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.int32_data.extend(packed)
    graph = check(model, tmp_path)
    np.testing.assert_array_equal(graph.nodes[1].weights, operands(low=-8, high=8)[0].T)


# The edges, and how quantised tensors are shared


def test_integer_input_and_output(tmp_path):
    net = Network()
    y = net.quantize(layer(net, net.dequantize("x", S_X, 3)), S_Y, -7)
    graph = check(net.model(y, kind=TensorProto.INT8, output_kind=TensorProto.INT8), tmp_path)
    assert [type(node) for node in graph.nodes] == [FullyConnected]
    assert graph.tensors["x"].format == Int(8)
    assert graph.tensors["x"].scale == float(S_X)
    assert graph.tensors["x"].zero_point == 3


def test_identity_at_the_output(tmp_path):
    net = Network()
    y = identity(net, net.quantize(layer(net, net.dequantize("x", S_X, 3)), S_Y))
    graph = check(net.model(y, kind=TensorProto.INT8, output_kind=TensorProto.INT8), tmp_path)
    assert graph.output == y
    assert isinstance(graph.nodes[-1], Reshape)


def test_default_zero_point_is_uint8_zero(tmp_path):
    net = Network()
    scale = net.constant(S_X)
    x = net.node("DequantizeLinear", net.node("QuantizeLinear", "x", scale), scale)
    graph = check(net.model(net.qdq(layer(net, x), S_Y)), tmp_path)
    assert graph.tensors[graph.nodes[0].output].format == Int(8, signed=False)


def test_output_dtype(tmp_path):
    net = Network()
    scale = net.constant(S_X)
    q = net.node("QuantizeLinear", "x", scale, output_dtype=TensorProto.INT8)
    x = net.node("DequantizeLinear", q, scale)
    graph = check(net.model(net.qdq(layer(net, x), S_Y)), tmp_path)
    assert graph.tensors[q].format == Int(8)


def test_one_element_scales(tmp_path):
    net = Network()
    x = net.qdq("x", np.full(1, S_X), np.zeros(1))
    check(net.model(net.qdq(layer(net, x), np.full(1, S_Y), np.ones(1))), tmp_path)


def test_several_dequantisers_of_one_tensor(tmp_path):
    net = Network()
    q = net.quantize("x", S_X, 3)
    net.dequantize(q, S_X, 3)
    y = layer(net, net.dequantize(q, S_X, 3))
    graph = check(net.model(net.qdq(y, S_Y)), tmp_path)
    assert len(graph.nodes) == 3


def test_quantised_twice_with_the_same_numbers(tmp_path):
    net = Network()
    x = net.qdq(net.qdq("x", S_X, 3), S_X, 3)
    graph = check(net.model(net.qdq(layer(net, x), S_Y)), tmp_path)
    assert isinstance(graph.nodes[1], Reshape)


def test_nodes_that_nothing_needs_are_left_out(tmp_path):
    net = Network()
    net.node("Sin", "x")
    graph = check(net.model(net.qdq(layer(net, net.qdq("x", S_X, 3)), S_Y)), tmp_path)
    assert len(graph.nodes) == 3


@pytest.mark.parametrize("name", ["", "same"])
def test_node_names_need_not_be_unique(tmp_path, name):
    net = Network()
    x = net.qdq("x", S_X, 3)
    y = net.qdq(layer(net, x), S_Y, 0)
    w, _ = operands(shape=(N, N))
    y = net.qdq(net.node("Gemm", y, net.weights(w, S_W)), S_Y * 4)
    for node in net.nodes:
        node.name = name
    # onnxruntime takes empty names, but not equal ones.
    graph = load(save(net.model(y), tmp_path)) if name else check(net.model(y), tmp_path)
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)


def test_contributed_domain(tmp_path):
    """Quantisers under onnxruntime's own domain."""
    net = Network()
    y = net.qdq(layer(net, net.qdq("x", S_X, 3)), S_Y)
    for node in net.nodes:
        if "uantizeLinear" in node.op_type:
            node.domain = "com.microsoft"
    check(net.model(y), tmp_path)


@pytest.mark.parametrize("batch", ["batch", None, 0, -1])
def test_open_batch(tmp_path, batch):
    model = mlp(shape=("batch", K))
    size = model.graph.input[0].type.tensor_type.shape.dim[0]
    if batch is None:
        size.ClearField("dim_param")
    elif batch != "batch":
        size.dim_value = batch
    if batch == 0:
        with pytest.raises(NetworkError, match="axis 0 has no fixed size"):
            load(save(model, tmp_path))
        return
    graph = load(save(model, tmp_path))
    assert graph.tensors["x"].shape == (1, K)
    if batch != -1:
        check(model, tmp_path)


def test_fixed_batch(tmp_path):
    graph = check(mlp(shape=(3, K)), tmp_path)
    assert graph.macs == 3 * K * N


@pytest.mark.parametrize("per_channel", [False, True])
def test_qlinear_matmul(tmp_path, per_channel):
    net = Network()
    w, _ = operands()
    scale = np.linspace(0.5, 2, N) * S_W if per_channel else S_W
    zero = np.full(N, 2) if per_channel else 2
    w = np.clip(w, -100, 100)
    q = net.node(
        "QLinearMatMul",
        "x",
        net.constant(S_X),
        net.constant(7, "int8"),
        net.constant(w, "int8"),
        net.constant(np.float32(scale)),
        net.constant(zero, "int8"),
        net.constant(S_Y),
        net.constant(-9, "int8"),
    )
    graph = check(net.model(q, kind=TensorProto.INT8, output_kind=TensorProto.INT8), tmp_path)
    assert graph.tensors["x"].zero_point == 7
    np.testing.assert_array_equal(graph.nodes[0].weights, w.T - 2)


def test_reference_network(shared_data):
    """Every tensor of every recorded run."""
    graph = load(shared_data / "mlperf_tiny_onnx" / "ad_autoencoder_qdq.onnx")
    recorded = np.load(shared_data / "mlperf_tiny_onnx" / "golden_ad_autoencoder_qdq.npz")
    tensors = golden.run(graph, recorded["input"])
    names = dict(enumerate(recorded["tensor_names"].tolist()))
    keys = {f"q{index:02d}": name for index, name in names.items() if f"q{index:02d}" in recorded} | {
        "output": graph.output
    }
    assert len(keys) == 12
    for key, name in keys.items():
        ours = tensors[name][:, 0]
        np.testing.assert_array_equal(ours, recorded[key], key, strict=True)
    # And nothing that the graph computes is left uncompared.
    assert set(keys.values()) == set(graph.tensors) - {graph.input}
    assert graph.macs == 264192


@pytest.mark.parametrize(
    ("folder", "file", "operator"),
    [
        ("mlperf_tiny_onnx", "ic_resnet8_qdq", "Conv is not supported"),
        ("mlperf_tiny_onnx", "kws_dscnn_qdq", "Conv is not supported"),
        ("qonnx", "TFC_2W2A", "Shape is not supported, nor .*Quant of onnx.brevitas"),
        ("qonnx", "kws_w3a3_mlperf_v0.7_QONNX_model", "Quant is not supported, nor BatchNormalization"),
    ],
)
def test_reference_networks_that_are_refused(shared_data, folder, file, operator):
    with pytest.raises(NetworkError, match=rf"operator {operator}"):
        load(shared_data / folder / f"{file}.onnx")


# What is refused


def refused(net, output, tmp_path, message, **options):
    path = save(net.model(output, **options), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NetworkError, match=message) as caught:
            load(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"alpha": 0.5}, r"node 'fc' \(Gemm\): alpha = 0.5 is not supported"),
        ({"beta": 2.0}, "beta = 2.0 is not supported"),
        ({"transA": 1}, "transA = 1 is not supported"),
        ({"transB": 2}, "transB = 2 is not supported"),
        ({"alpha": "1"}, "attribute alpha has the wrong type"),
        ({"transB": 1}, r"input \(1, 24\) and weights for 10 inputs do not agree"),
    ],
)
def test_refused_gemm(tmp_path, attributes, message):
    net = Network()
    w, _ = operands()
    y = net.node("Gemm", net.qdq("x", S_X), net.weights(w, S_W), name="fc", **attributes)
    refused(net, net.qdq(y, S_Y), tmp_path, message)


def test_refused_unquantised(tmp_path):
    w, _ = operands()
    net = Network()
    y = net.node("Gemm", "x", net.constant(np.float32(w)), name="fc")
    refused(net, net.node("Relu", y), tmp_path, r"node 'fc' \(Gemm\): its operands are not quantised; quant")
    net = Network()
    y = net.node("MatMul", net.qdq("x", S_X), net.constant(np.float32(w)), name="fc")
    refused(net, net.qdq(y, S_Y), tmp_path, r"node 'fc' \(MatMul\): its operands are not quantised")
    net = Network()
    y = net.node("MatMul", net.qdq("x", S_X), net.weights(w, S_W), name="fc")
    refused(net, relu(net, y), tmp_path, "node 'fc' .*its result leaves the network as floats")
    net = Network()
    y = net.node("MatMul", net.qdq("x", S_X), net.weights(w, S_W))
    y = net.node("MatMul", y, net.weights(operands(shape=(N, N))[0], S_W), name="second")
    refused(net, net.qdq(y, S_Y), tmp_path, "node 'second' .*another product, which was never quantised")


@pytest.mark.parametrize("op", ["Conv", "Softmax", "Sigmoid", "Cast", "Loop"])
def test_refused_operator(tmp_path, op):
    net = Network()
    y = net.node(op, net.qdq("x", S_X), name="odd")
    refused(net, net.qdq(layer(net, y), S_Y), tmp_path, rf"node 'odd' \({op}\): operator {op} is not supp")


def test_refused_domain(tmp_path):
    net = Network()
    y = net.node("Gemm", net.qdq("x", S_X), name="odd", domain="my.own")
    refused(net, y, tmp_path, r"node 'odd' \(Gemm\): operator Gemm of my.own is not supported")


def two_products(net):
    return layer(net, net.qdq("x", S_X, 3)), layer(net, net.qdq("x", S_X, 3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda net: net.node("Add", *two_products(net)), "adds something other than a constant bias"),
        (
            lambda net: net.node("Add", relu(net, two_products(net)[0]), net.constant(np.ones(N, "f4"))),
            "adds something other than a constant bias",
        ),
        (
            lambda net: net.node("Add", two_products(net)[0], net.constant(np.ones((N, 1), "f4"))),
            r"bias of shape \(10, 1\) does not match the last axis of \(1, 10\)",
        ),
        (
            lambda net: net.node("Add", two_products(net)[0], net.constant(np.ones((1, 1, N), "f4"))),
            r"bias of shape \(1, 1, 10\) does not match",
        ),
        (
            lambda net: net.node("Add", two_products(net)[0], net.constant(np.full(N, np.nan, "f4"))),
            "bias is not made of finite FLOAT numbers",
        ),
        (
            lambda net: net.node("Add", two_products(net)[0], net.constant(np.full(N, 1e9, "f4"))),
            "bias does not fit int32",
        ),
        (
            lambda net: net.node("Add", two_products(net)[0], net.qdq("x", S_X)),
            "adds something that is not constant",
        ),
        (
            lambda net: net.node("MatMul", net.qdq("x", S_X), net.qdq("x", S_X)),
            "is not the product of a quantised activation",
        ),
        (
            lambda net: net.node("MatMul", net.weights(np.ones((N, K)), S_W), net.qdq("x", S_X)),
            "is not the product of a quantised activation",
        ),
        (
            lambda net: net.node("MatMul", net.qdq("x", S_X), net.weights(np.ones((1, K, N)), S_W)),
            r"weights of shape \(1, 24, 10\) are not a matrix",
        ),
        (
            lambda net: net.node("MatMul", net.qdq("x", S_X), net.weights(np.ones((K, N)), S_W, 0, "int32")),
            "weights are int32",
        ),
        (
            lambda net: net.node(
                "MatMul",
                net.qdq("x", S_X),
                net.weights(np.ones((K, N)), np.full(K, S_W), np.zeros(K), axis=0),
            ),
            "weights have a scale per input channel",
        ),
        (
            lambda net: net.node(
                "MatMul", net.qdq("x", S_X), net.weights(np.full((K, N), 200), S_W, 0, "uint8")
            ),
            "weights less their zero point are 200..200, more than 8 bits",
        ),
        (
            lambda net: net.node(
                "MatMul",
                net.qdq("x", S_X),
                net.weights(
                    np.ones((K, N)), np.full((2, N), S_W), np.zeros((2, N)), axis=0, block_size=K // 2
                ),
            ),
            "quantises per block",
        ),
        (
            lambda net: net.node(
                "MatMul", net.qdq("x", S_X), net.weights(np.ones((K, N)), np.full(3, S_W), np.zeros(3))
            ),
            r"scales of shape \(3,\) do not match axis 1",
        ),
        (
            lambda net: net.node(
                "MatMul", net.qdq("x", S_X), net.weights(np.ones((K, N)), np.full(N, S_W), 0)
            ),
            "has 10 scales and 1 zero points",
        ),
        (
            lambda net: net.node(
                "MatMul",
                net.qdq("x", S_X),
                net.weights(np.ones((K, N)), np.full(N, S_W), np.zeros(N), axis=2),
            ),
            "axis 2 does not exist",
        ),
        (lambda net: layer(net, net.qdq("x", S_X, 3, "int16")), "quantises activations to int16"),
        (
            lambda net: layer(net, net.qdq("x", np.full(K, S_X), np.zeros(K))),
            "quantises activations per channel",
        ),
        (lambda net: layer(net, net.qdq("x", 0.0)), "its scale is not a positive number"),
        (lambda net: layer(net, net.qdq("x", np.nan)), "its scale is not a positive number"),
        (lambda net: layer(net, net.qdq("x", -1.0)), "its scale is not a positive number"),
        (
            lambda net: layer(net, net.qdq(net.qdq("x", S_X), S_Y)),
            "changes one quantisation into another",
        ),
        (
            lambda net: layer(net, net.qdq(net.qdq("x", S_X, 3), S_X, 3, "uint8")),
            "changes one quantisation into another",
        ),
        (
            lambda net: net.node(
                "Add", unsqueeze(2)(net, two_products(net)[0]), net.constant(np.ones(N, "f4"))
            ),
            r"bias of shape \(10,\) does not match the last axis of \(1, 10, 1\)",
        ),
        (
            lambda net: layer(net, net.dequantize(net.quantize("x", S_X, 3), S_Y, 3)),
            "with scale 0.0313 and zero point 3, but its scale is 0.0123",
        ),
        (
            lambda net: layer(net, net.dequantize(net.quantize("x", S_X, 3), S_X, 3, "uint8")),
            "reads int8 with a zero point of uint8",
        ),
        (lambda net: layer(net, relu(net, net.qdq("x", S_X))), "does not follow a matrix product directly"),
        (
            lambda net: layer(net, net.dequantize("x", S_X)),
            "dequantises a tensor that does not hold integers",
        ),
        (
            lambda net: net.node("Clip", two_products(net)[0], net.constant(np.ones(2, "f4"))),
            "its min is not one number",
        ),
        (
            lambda net: net.node("Clip", two_products(net)[0], "", net.constant(np.float32(np.nan))),
            "a bound is not a number",
        ),
        (lambda net: reshape(3, 3)(net, two_products(net)[0]), r"cannot reshape \(1, 10\) to \(3, 3\)"),
        (lambda net: reshape(-1, -1)(net, two_products(net)[0]), r"cannot reshape \(1, 10\) to \(-1, -1\)"),
        (lambda net: reshape(-1, 0, allowzero=1)(net, two_products(net)[0]), "cannot reshape"),
        (lambda net: squeeze(1)(net, two_products(net)[0]), r"cannot remove axes \[1\] of shape \(1, 10\)"),
        (lambda net: squeeze(5)(net, two_products(net)[0]), r"axes \[5\] do not exist"),
        (lambda net: unsqueeze(0, 0)(net, two_products(net)[0]), r"axes \[0, 0\] do not exist"),
        (lambda net: flatten(7)(net, two_products(net)[0]), "axis 7 does not exist"),
        (
            lambda net: transpose(1, 0)(net, reshape(2, 5)(net, two_products(net)[0])),
            r"moves elements of shape \(2, 5\)",
        ),
        (lambda net: transpose(0, 0)(net, two_products(net)[0]), r"perm \[0, 0\] is no order of 2 axes"),
        (lambda net: net.node("Identity", "nowhere"), "reads 'nowhere' before any node has produced it"),
        (lambda net: net.node("Identity"), "has no input 0"),
        (
            lambda net: net.node("Reshape", two_products(net)[0], "x"),
            "input 1 is not constant",
        ),
        (
            lambda net: net.node("Reshape", two_products(net)[0], net.constant(np.ones(1, "f4"))),
            "input 1 is not a list of integers",
        ),
    ],
)
def test_refused(tmp_path, build, message):
    net = Network()
    refused(net, net.qdq(build(net), S_Y), tmp_path, message)


def test_refused_weights_across_scales(tmp_path):
    net = Network()
    weights = net.weights(np.ones((4, 60)), np.ones(4), np.zeros(4), axis=0)
    y = net.node("MatMul", net.qdq("x", S_X), reshape(K, N)(net, weights))
    refused(net, net.qdq(y, S_Y), tmp_path, "reshapes weights across the axis of their scales")


def test_refused_factor(tmp_path):
    """More than the hardware's multiplier takes."""
    refused_model = mlp(scales=(np.float32(1.0), np.float32(1.0), np.float32(1 / 64)))
    with pytest.raises(NetworkError, match=r"node 'fc': shift 7..7 is not from -31 to 6; the product of in"):
        load(save(refused_model, tmp_path))


@pytest.mark.parametrize("edge", ["input", "output"])
@pytest.mark.parametrize("number", [0, 2])
def test_refused_edges(tmp_path, edge, number):
    model = mlp()
    values = getattr(model.graph, edge)
    if number == 0:
        del values[:]
    else:
        values.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, (1,)))
    with pytest.raises(NetworkError, match=f"must have one {edge}, but has {number}: .*(other|none)"):
        load(save(model, tmp_path))


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((1, "sequence"), TensorProto.FLOAT, "input 'x': axis 1 has no fixed size"),
        (None, TensorProto.FLOAT, "input 'x': has no shape"),
        ((1, K), TensorProto.DOUBLE, "input 'x': is DOUBLE"),
        ((1, K), TensorProto.INT16, "input 'x': is INT16"),
        ((1, K), 99, "input 'x': is type number 99"),
    ],
)
def test_refused_input(tmp_path, shape, kind, message):
    model = mlp()
    value = helper.make_tensor_value_info("x", kind, shape)
    model.graph.input[0].CopyFrom(value)
    with pytest.raises(NetworkError, match=message):
        load(save(model, tmp_path))


def test_refused_order(tmp_path):
    model = mlp()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    with pytest.raises(NetworkError, match="before any node has produced it"):
        load(save(model, tmp_path))


def test_refused_duplicates(tmp_path):
    model = mlp()
    model.graph.node.append(model.graph.node[-1])
    with pytest.raises(NetworkError, match="which exists already"):
        load(save(model, tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.ClearField("raw_data"), "its data are damaged"),
        (lambda t: t.dims.append(1 << 40), "its data are damaged"),
        (lambda t: t.dims.append(-1), "its data are damaged"),
        (lambda t: setattr(t, "data_type", TensorProto.STRING), "STRING is not supported"),
        (lambda t: setattr(t, "data_type", 77), "type number 77 is not supported"),
        (lambda t: setattr(t, "data_type", TensorProto.INT4), "its data are damaged"),
        (lambda t: setattr(t, "data_type", TensorProto.INT32), "its data are damaged"),
        (lambda t: setattr(t, "data_location", TensorProto.EXTERNAL), "keeps its data in another file"),
    ],
)
def test_refused_data(tmp_path, change, message):
    model = mlp()
    tensor = next(t for t in model.graph.initializer if t.data_type == 3 and t.name.startswith("weights"))
    change(tensor)
    with pytest.raises(NetworkError, match=rf"initialiser 'weights_\d+': {message}"):
        load(save(model, tmp_path))


def test_external_data_are_never_opened(tmp_path, monkeypatch):
    """Even where the other file exists and is right."""
    path = tmp_path / "network.onnx"
    onnx.save(mlp(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    with pytest.raises(NetworkError, match="keeps its data in another file; save the network as one file"):
        load(path)


def test_only_float_constants(tmp_path):
    net = Network()
    y = net.node("Identity", net.constant(np.ones((1, 3), "f4")))
    refused(net, y, tmp_path, "output '.*': is not computed by any matrix product")


def test_names_cannot_break_the_line(tmp_path):
    model = mlp()
    for node in model.graph.node:
        if node.op_type == "Gemm":
            node.name = "a\nb\x1b[31m" + "c" * 10000
            node.op_type = "Odd"
    with pytest.raises(NetworkError) as caught:
        load(save(model, tmp_path))
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 1000


def test_names_that_are_not_text(tmp_path):
    """Protobuf hands them over as bytes."""
    data = mlp().SerializeToString().replace(b"n_gemm", b"n_\xffemm").replace(b"Gemm", b"Ge\xffm")
    path = tmp_path / "network.onnx"
    path.write_bytes(data)
    with pytest.raises(NetworkError, match="holds a name that is not UTF-8"):
        load(path)


# Damaged files


def outcome(data, path):
    """`None`, or the message with which the file was refused; anything else is a bug."""
    path.write_bytes(data)
    message = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = load(path)
        golden.run(graph, np.zeros(graph.tensors[graph.input].shape, np.int8))
    except NetworkError as error:
        message = str(error)
    assert message is None or message.isprintable()
    return message


def test_truncated(tmp_path):
    data = mlp(per_channel=True).SerializeToString()
    path = tmp_path / "short.onnx"
    messages = [outcome(data[:length], path) for length in range(1, len(data), 7)]
    # Without its end the file cannot be whole: the operator sets are the last thing in it.
    assert all(messages[: len(messages) - 5])


def test_mutated(tmp_path):
    data = mlp(per_channel=True).SerializeToString()
    rng = np.random.default_rng(0)
    path = tmp_path / "mutated.onnx"
    refusals = 0
    for _ in range(1500):
        mutated = np.frombuffer(data, np.uint8).copy()
        where = rng.integers(0, len(data), rng.integers(1, 4))
        mutated[where] = rng.integers(0, 256, where.size)
        refusals += outcome(mutated.tobytes(), path) is not None
    assert refusals > 300
