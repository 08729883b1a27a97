"""ONNX import: every variation against onnxruntime without graph optimisation, every refusal by name."""

import shutil
import warnings
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitwright.gen.execute import execute
from bitwright.gen.importers import load
from bitwright.gen.importers._runtime import fit_multiplier, nearest
from bitwright.gen.mapper import compile_graph
from bitwright.gen.synthetic import random_input
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Int
from bitwright.hw.quant.arithmetic import quantise_multiplier, requantise
from bitwright.sim import golden
from bitwright.sim.graph import (
    ArgMax,
    AveragePool,
    Binary,
    Concatenate,
    Convolution,
    Dequantize,
    FullyConnected,
    Graph,
    Lookup,
    MaxPool,
    NetworkError,
    Pad,
    Quantize,
    Reshape,
    Softmax,
    Transpose,
    Upsample,
    same_order,
)

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


def check(model, tmp_path, inputs=200, seed=0, expect_warning=False, tolerated=0.0) -> Graph:
    """Import, run a batch through golden model and onnxruntime, compare every tensor that both have.

    Where the file's tensor of a name holds floats and the graph's holds codes, these must stand for them.
    So many of a tensor's codes may be off by one.
    """
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
    in_file = {name for node in model.graph.node for name in node.output}
    dequantised = {
        node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    # onnxruntime cannot hand out 4-bit tensors: compared once they are dequantised.
    names = {
        name: name
        for name, tensor in graph.tensors.items()
        if name in in_file and (tensor.format is None or tensor.format.bits >= 8)
    }
    names = {floats: codes for floats, codes in dequantised.items() if codes in graph.tensors} | names
    assert graph.output in names.values()
    expected = runtime(model, list(names), x)
    for name, ours in names.items():
        mine, info = tensors[ours], graph.tensors[ours]
        if mine.dtype.kind != "f" and expected[name].dtype.kind == "f":
            mine = golden.dequantise(mine, info)
        if expected[name].dtype == np.int64:
            # Indices.
            mine = mine.astype(np.int64)
        if any(isinstance(node, Softmax) and node.output == ours for node in graph.nodes):
            # The host's floats, which nothing is computed from.
            np.testing.assert_allclose(mine, expected[name], rtol=1e-6, err_msg=name)
        elif tolerated:
            differs = mine.astype(int) - expected[name]
            assert np.abs(differs).max() <= 1
            assert (differs != 0).mean() <= tolerated
        else:
            np.testing.assert_array_equal(mine, expected[name], name, strict=True)
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
    assert layer.quantiser.rounding == "half_even"
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
    fraction = acc * layer.quantiser.multiplier * 2.0 ** (layer.quantiser.shift - 31) % 1
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
    assert (layer.quantiser.low, layer.quantiser.high) == (low, high)


def test_clip_bounds_that_cross(tmp_path):
    """The upper bound wins, as in the operator's definition."""
    layer = load(save(mlp(after=clip(0.9, 0.2)), tmp_path)).nodes[1]
    assert layer.quantiser.low == layer.quantiser.high == -7 + 6


def test_clip_attributes(tmp_path):
    """Clip before opset 11, where the bounds were attributes."""
    net = Network(opset=10)
    w, _ = operands()
    # Opset 10 has no scales per channel.
    y = net.node("Gemm", net.qdq("x", S_X), net.weights(w, S_W), net.constant(np.zeros(N, np.float32)))
    y = net.node("Clip", y, min=0.0, max=1.0)
    layer = check(net.model(net.qdq(y, S_Y)), tmp_path).nodes[1]
    assert (layer.quantiser.low, layer.quantiser.high) == (0, 32)


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


@pytest.mark.parametrize("op", ["ConvTranspose", "Erf", "Gather", "Cast", "Loop"])
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
        (lambda net: net.node("Add", *two_products(net)), "the result of another product, which was never"),
        (
            lambda net: net.node("Add", relu(net, two_products(net)[0]), net.constant(np.ones(N, "f4"))),
            r"combines \(1, 10\) with a constant of shape \(10,\)",
        ),
        (
            lambda net: net.node("Add", two_products(net)[0], net.constant(np.ones((N, 1), "f4"))),
            r"bias of shape \(10, 1\) does not match axis 1 of \(1, 10\)",
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
            r"combines shapes \(1, 10\) and \(1, 24\)",
        ),
        (
            lambda net: net.node("Add", layer(net, layer(net, net.qdq("x", S_X))), net.qdq("x", S_X)),
            "takes the result of another product, which was never quantised",
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
            lambda net: net.node(
                "Add", unsqueeze(2)(net, two_products(net)[0]), net.constant(np.ones(N, "f4"))
            ),
            r"combines \(1, 10, 1\) with a constant of shape \(10,\)",
        ),
        (
            lambda net: layer(net, net.dequantize(net.quantize("x", S_X, 3), S_Y, 3)),
            "with scale 0.0313 and zero point 3, but its scale is 0.0123",
        ),
        (
            lambda net: layer(net, net.dequantize(net.quantize("x", S_X, 3), S_X, 3, "uint8")),
            "reads int8 with a zero point of uint8",
        ),
        (lambda net: layer(net, relu(net, net.qdq("x", S_X))), "takes floats that stand for no codes"),
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


# Maps: convolutions, pools and what stands between them


def power(rng, low=-8, high=-3):
    """A power of two: float32 sums of multiples of it are exact, whatever their order."""
    return np.float32(2.0 ** rng.integers(low, high + 1))


def random_scale(rng):
    return np.float32(np.exp(rng.uniform(-5, -2)))


def kind_and_zero(rng, kinds=("int8", "uint8")):
    kind = str(rng.choice(kinds))
    bounds = FORMATS[kind]
    return kind, int(rng.integers(bounds.min, bounds.max + 1))


def windows(rng, rank, *, pool=False):
    """Attributes of a window, at random, and the greatest reach of its kernel."""
    kernel = rng.integers(1, 4, rank).tolist()
    attributes = {"kernel_shape": kernel}
    if rng.random() < 0.7:
        attributes["strides"] = rng.integers(1, 4, rank).tolist()
    if not pool and rng.random() < 0.5:
        attributes["dilations"] = rng.integers(1, 3, rank).tolist()
    which = rng.integers(4)
    if which == 0:
        attributes["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        # onnxruntime refuses the one, and fails on strides beyond the kernel.
        attributes.pop("dilations", None)
        if attributes["auto_pad"] != "VALID":
            pairs = zip(attributes.get("strides", kernel), kernel, strict=True)
            attributes["strides"] = [min(pair) for pair in pairs]
    elif which < 3:
        limit = [size if pool else size + 1 for size in kernel * 2]
        attributes["pads"] = [int(rng.integers(0, most)) for most in limit]
    return attributes


def random_convolution(rng, net, x, s_x, channels, rank, *, exact=True, bias=None):
    """A Conv at random, not quantised yet: its output, the number of its channels, and a scale for them."""
    groups = int(rng.choice([g for g in (1, 2, 3, channels) if channels % g == 0]))
    count = groups * int(rng.integers(1, 4))
    attributes = windows(rng, rank)
    kind = str(rng.choice(["int8", "uint8", "int4"]))
    bounds = FORMATS[kind]
    shape = (count, channels // groups, *attributes["kernel_shape"])
    zero = 128 if kind == "uint8" else 0
    w = rng.integers(max(bounds.min, -127), bounds.max + 1, shape)
    scale = np.array([power(rng, -8, -5) if exact else random_scale(rng) for _ in range(count)], np.float32)
    per_channel = rng.random() < 0.6
    if not per_channel:
        scale = scale[0]
    weights = net.weights(w, scale, np.full(count, zero) if per_channel else zero, kind, axis=0)
    inputs = [x, weights]
    if bias is None:
        bias = str(rng.choice(["none", "int32", "float"]))
    b = rng.integers(-2000, 2000, count)
    unit = np.broadcast_to(s_x * scale, count)
    if bias == "int32":
        inputs.append(net.weights(b, unit.astype(np.float32), np.zeros(count), "int32", axis=0))
    elif bias == "float":
        inputs.append(net.constant((b * unit.astype(np.float64)).astype(np.float32)))
    if groups > 1:
        attributes["group"] = groups
    typical = float(s_x) * float(np.mean(scale)) * 70 * np.abs(w - zero).max() * np.sqrt(w[0].size)
    s_y = np.float32(2.0 ** np.round(np.log2(typical / 50)))
    return net.node("Conv", *inputs, **attributes), count, s_y


@pytest.mark.parametrize("seed", range(60))
def test_random_convolutions(tmp_path, seed):
    """Kernels, strides, dilations, paddings, groups, types and scales at random; one or two of them."""
    rng = np.random.default_rng(seed)
    print("seed", seed)
    net = Network()
    rank, channels = int(rng.integers(1, 3)), int(rng.integers(1, 7))
    spatial = tuple(int(n) for n in rng.integers(5, 10, rank))
    kind, zero = kind_and_zero(rng)
    s_x = power(rng)
    x = net.dequantize("x", s_x, zero, kind)
    first = channels
    for _ in range(int(rng.integers(1, 3))):
        x, channels, s_x = random_convolution(rng, net, x, s_x, channels, rank)
        if rng.random() < 0.4:
            x = [relu, clip(-9 * s_x, 99 * s_x), clip(None, 77 * s_x)][rng.integers(3)](net, x)
        out, out_zero = kind_and_zero(rng)
        x = net.qdq(x, s_x, out_zero // 2, out)
    model = net.model(x, (1, first, *spatial), TYPES[kind])
    check_or_refuse(model, tmp_path, "does not fit its input", inputs=10, seed=seed)


def check_or_refuse(model, tmp_path, message, **options):
    """As `check`; ``None`` where the importer refuses the model so, which random windows may deserve."""
    try:
        return check(model, tmp_path, **options)
    except NetworkError as error:
        if message not in str(error):
            raise
        return None


@pytest.mark.parametrize("seed", range(10))
def test_random_scales(tmp_path, seed):
    """Scales that are no powers of two, and so few terms that float32 sums are as good as exact."""
    rng = np.random.default_rng(1000 + seed)
    print("seed", 1000 + seed)
    net = Network()
    s_x = random_scale(rng)
    x = net.dequantize("x", s_x, 3, "int8")
    y, _, s_y = random_convolution(rng, net, x, s_x, 3, 2, exact=False)
    y = net.qdq(y, s_y * np.float32(rng.uniform(0.7, 1.4)), -7)
    check(net.model(y, (1, 3, 8, 9), TensorProto.INT8), tmp_path, inputs=5, seed=seed)


def image(net, s_x=TIES[0], zero=3, kind="int8"):
    return net.dequantize("x", s_x, zero, kind)


def conv(net, x, channels, count, kernel=3, s_x=TIES[0], seed=5, **attributes):
    """A plain convolution with 8-bit weights and an int32 bias."""
    rng = np.random.default_rng(seed)
    shape = (count, channels // attributes.get("group", 1), kernel, kernel)
    scale = np.full(count, 2.0**-7, np.float32)
    bias = net.weights(rng.integers(-900, 900, count), scale * s_x, np.zeros(count), "int32", axis=0)
    weights = net.weights(rng.integers(-127, 128, shape), scale, np.zeros(count), axis=0)
    return net.node("Conv", x, weights, bias, **attributes)


SAME = {"pads": [1, 1, 1, 1]}


def model_of_maps(net, y, shape=(1, 4, 6, 7), **options):
    return net.model(y, shape, TensorProto.INT8, **options)


def test_convolution(tmp_path):
    net = Network()
    y = conv(net, image(net), 4, 6, group=2, strides=[2, 1], dilations=[1, 2], pads=[1, 2, 0, 1])
    graph = check(model_of_maps(net, net.qdq(y, TIES[2], 5)), tmp_path, inputs=20)
    (layer,) = (node for node in graph.nodes if isinstance(node, Convolution))
    assert layer.weights.shape == (6, 3, 3, 2)
    assert (layer.stride, layer.dilation, layer.groups) == ((2, 1), (1, 2), 2)
    assert layer.padding == ((1, 0), (2, 1))
    assert [graph.tensors[name].channel_axis for name in (layer.input, layer.output)] == [1, 1]
    rows, columns = graph.tensors[layer.output].shape[2:]
    assert graph.macs == rows * columns * 6 * 9 * 2


def test_one_axis(tmp_path):
    net = Network()
    x = net.dequantize("x", TIES[0], 3)
    w = np.random.default_rng(1).integers(-127, 128, (6, 2, 3))
    y = net.node("Conv", x, net.weights(w, np.float32(2.0**-6)), pads=[2, 0], strides=[2], group=2)
    y = net.node("MaxPool", net.qdq(y, TIES[2]), kernel_shape=[2], strides=[1])
    y = net.node("GlobalAveragePool", net.qdq(y, TIES[2]))
    graph = check(net.model(net.qdq(y, TIES[2]), (1, 4, 9), TensorProto.INT8), tmp_path, inputs=20)
    layer = next(node for node in graph.nodes if isinstance(node, Convolution))
    assert layer.weights.shape == (6, 1, 3, 2)
    assert (layer.stride, layer.padding) == ((1, 2), ((0, 0), (2, 0)))


@pytest.mark.parametrize("seed", range(30))
def test_random_pools(tmp_path, seed):
    rng = np.random.default_rng(2000 + seed)
    print("seed", 2000 + seed)
    net = Network()
    rank = int(rng.integers(1, 3))
    spatial = tuple(int(n) for n in rng.integers(5, 9, rank))
    kind, zero = kind_and_zero(rng)
    s_x = power(rng)
    x = net.dequantize("x", s_x, zero, kind)
    op = str(rng.choice(["MaxPool", "AveragePool"]))
    attributes = windows(rng, rank, pool=True)
    attributes["ceil_mode"] = int(rng.integers(2))
    if "auto_pad" in attributes:
        # onnxruntime takes both together in its own way.
        attributes["ceil_mode"] = 0
    if op == "AveragePool":
        attributes["count_include_pad"] = int(rng.integers(2))
    y = net.node(op, x, **attributes)
    if op == "AveragePool":
        # Never on the middle between two codes: there the order of float32 sums decides.
        s_y, out_zero = s_x * np.float32(rng.uniform(0.7, 1.6)), int(rng.integers(-9, 9))
        y = net.qdq(clip(-0.7, 3.0)(net, y) if rng.random() < 0.3 else y, s_y, out_zero, "int8")
    else:
        y = net.qdq(y, s_x, zero, kind)
    model = net.model(y, (1, int(rng.integers(1, 5)), *spatial), TYPES[kind])
    graph = check_or_refuse(model, tmp_path, "counts padding in windows", inputs=20, seed=seed)
    assert graph is None or isinstance(graph.nodes[0], MaxPool if op == "MaxPool" else AveragePool)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
        ("AveragePool", {"kernel_shape": [6, 7]}),
    ],
)
def test_global_pools(tmp_path, op, attributes):
    net = Network()
    y = net.node(op, net.qdq(conv(net, image(net), 4, 6, **SAME), S_Y, 9), **attributes)
    y = net.qdq(y, S_Y * np.float32(0.7), -3)
    w, _ = operands(shape=(6, 5))
    y = net.node("Gemm", flatten(1)(net, y), net.weights(w, S_W))
    graph = check(model_of_maps(net, net.qdq(y, S_Y)), tmp_path, inputs=20)
    assert all(
        same_order(node, graph.tensors[node.input], graph.tensors[node.output])
        for node in graph.nodes
        if isinstance(node, Reshape)
    )


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize(("axes", "keep"), [((2, 3), 1), ((-1, -2), 0), ((2,), 1), ((3,), 0)])
def test_reduce_mean(tmp_path, opset, axes, keep):
    net = Network(opset=opset)
    x = net.qdq(conv(net, image(net), 4, 6, **SAME), S_Y, 9)
    if opset < 18:
        y = net.node("ReduceMean", x, axes=axes, keepdims=keep)
    else:
        y = net.node("ReduceMean", x, net.constant(np.array(axes)), keepdims=keep)
    graph = check(model_of_maps(net, net.qdq(y, S_Y * np.float32(0.7), -3)), tmp_path, inputs=20)
    assert any(isinstance(node, AveragePool) for node in graph.nodes)


def test_mean_over_channels_last(tmp_path):
    net = Network()
    x = net.qdq(conv(net, image(net), 4, 6, **SAME), S_Y, 9)
    x = transpose(0, 2, 3, 1)(net, x)
    y = net.node("ReduceMean", x, net.constant(np.array([1, 2])), keepdims=0)
    check(model_of_maps(net, net.qdq(y, S_Y * np.float32(0.7), -3)), tmp_path, inputs=20)


ELEMENTWISE = [
    ("Relu", {}),
    ("Abs", {}),
    ("Neg", {}),
    ("LeakyRelu", {"alpha": 0.1}),
    ("LeakyRelu", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("HardSigmoid", {}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", {}),
]


@pytest.mark.parametrize(("op", "attributes"), ELEMENTWISE)
@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_activations_of_every_code(tmp_path, op, attributes, kind):
    """All 256 codes, several scales."""
    bounds = FORMATS[kind]
    codes = np.arange(bounds.min, bounds.max + 1).astype(kind).reshape(1, -1)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        print("seed", seed)
        net = Network()
        zero, s_x = int(rng.integers(bounds.min, bounds.max + 1)), np.float32(np.exp(rng.uniform(-5, -1)))
        s_y = np.float32(np.exp(rng.uniform(-7, -4)))
        y = net.quantize(net.node(op, net.dequantize("x", s_x, zero, kind), **attributes), s_y, 5)
        model = net.model(y, (1, 256), TYPES[kind], TensorProto.INT8)
        graph = load(save(model, tmp_path))
        assert [type(node) for node in graph.nodes] == [Lookup]
        ours = golden.run(graph, codes)[y]
        np.testing.assert_array_equal(ours, runtime(model, [y], codes[None])[y][0].reshape(ours.shape))


def test_chains_of_functions(tmp_path):
    """x * sigmoid(x), scaled and shifted: one table."""
    net = Network()
    x = image(net, np.float32(0.04))
    y = net.node("Mul", x, net.node("Sigmoid", x))
    y = net.node("Sub", net.constant(np.float32(0.75)), net.node("Mul", y, net.constant(np.float32([1.5]))))
    graph = check(model_of_maps(net, net.qdq(clip(-3.0, None)(net, y), S_Y)), tmp_path, inputs=20)
    assert [type(node) for node in graph.nodes] == [Lookup, Dequantize]


def test_prelu_of_one_slope(tmp_path):
    net = Network()
    y = net.node("PRelu", image(net), net.constant(np.full((1, 1, 1), 0.2, np.float32)))
    check(model_of_maps(net, net.qdq(y, S_Y)), tmp_path, inputs=20)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Min", "Max"])
@pytest.mark.parametrize("seed", range(3))
def test_binary(tmp_path, op, seed):
    """A residual connection; the scales of both sides differ."""
    rng = np.random.default_rng(3000 + seed)
    print("seed", 3000 + seed)
    net = Network()
    x = image(net, random_scale(rng) if seed else TIES[0])
    y = net.qdq(conv(net, image(net), 4, 4, **SAME) if not seed else relu(net, x), random_scale(rng), 11)
    s_y, zero = random_scale(rng), int(rng.integers(-50, 50))
    y = net.node(op, *((x, y) if seed % 2 else (y, x)))
    graph = check(
        model_of_maps(net, net.qdq(relu(net, y) if seed == 2 else y, s_y, zero)), tmp_path, inputs=50
    )
    assert sum(isinstance(node, Binary) for node in graph.nodes) == 1


def test_division(tmp_path):
    net = Network()
    x = net.dequantize("x", S_X, -128, "int8")
    y = net.qdq(net.node("Add", x, net.constant(np.float32(0.5))), S_Y, -128)
    y = net.node("Div", x, net.node("Add", y, net.constant(np.float32(1.0))))
    check(model_of_maps(net, net.qdq(y, S_X)), tmp_path, inputs=20)


def test_several_functions_of_two_tensors(tmp_path):
    net = Network()
    x = image(net)
    y = net.qdq(relu(net, x), S_Y, 11)
    both = net.node("Add", x, y)
    y = net.node("Mul", net.node("Add", y, both), net.node("Tanh", x))
    graph = check(model_of_maps(net, net.qdq(y, S_Y * 8)), tmp_path, inputs=20)
    assert sum(isinstance(node, Binary) for node in graph.nodes) == 1


def test_a_tensor_with_itself(tmp_path):
    net = Network()
    x = image(net)
    graph = check(model_of_maps(net, net.qdq(net.node("Mul", x, x), S_Y)), tmp_path, inputs=20)
    assert isinstance(graph.nodes[0], Lookup)


@pytest.mark.parametrize("axis", [1, -1, 2])
@pytest.mark.parametrize("equal", [False, True])
def test_concat(tmp_path, axis, equal):
    net = Network()
    a = net.qdq(conv(net, image(net), 4, 4, **SAME), S_Y, 9)
    b = net.qdq(conv(net, image(net), 4, 4, seed=6, **SAME), S_Y if equal else S_X, 9 if equal else -3)
    y = net.node("Concat", a, b, a, axis=axis)
    y = net.qdq(y, S_Y, 9)
    graph = check(model_of_maps(net, y), tmp_path, inputs=20)
    assert sum(isinstance(node, Lookup) for node in graph.nodes) == (0 if equal else 1)
    (joined,) = (node for node in graph.nodes if isinstance(node, Concatenate))
    assert joined.axis == axis % 4


def test_concat_of_convolutions(tmp_path):
    """Nothing is quantised before it: the convolutions are, each."""
    net = Network()
    parts = [conv(net, image(net), 4, count, seed=count, **SAME) for count in (2, 3)]
    y = relu(net, net.node("Concat", *parts, axis=1))
    graph = check(model_of_maps(net, net.qdq(y, TIES[2], -128)), tmp_path, inputs=20)
    assert sum(isinstance(node, Convolution) for node in graph.nodes) == 2
    assert not any(isinstance(node, Lookup) for node in graph.nodes)


def test_concat_into_a_convolution(tmp_path):
    """Of the same quantisation, so that codes can be joined without a quantiser behind."""
    net = Network()
    x = image(net)
    y = net.node("Concat", x, net.node("MaxPool", x, kernel_shape=[3, 3], **SAME), axis=1)
    check(model_of_maps(net, net.qdq(conv(net, y, 8, 3), TIES[2] * 2)), tmp_path, inputs=20)


@pytest.mark.parametrize("element", [None, 0.0, 0.25, -50.0])
@pytest.mark.parametrize("after", [False, True])
def test_pad(tmp_path, element, after):
    net = Network()
    extra = [] if element is None else [net.constant(np.float32(element))]
    pads = net.constant(np.array([0, 0, 1, 2, 0, 1, 3, 0]))
    x = conv(net, image(net), 4, 4, **SAME) if after else image(net)
    y = net.qdq(net.node("Pad", x, pads, *extra), TIES[0] if not after else TIES[2], 3)
    graph = check(model_of_maps(net, y), tmp_path, inputs=20)
    (node,) = (node for node in graph.nodes if isinstance(node, Pad))
    assert node.padding == ((0, 0), (0, 1), (1, 3), (2, 0))


def test_pad_of_axes(tmp_path):
    net = Network()
    pads = net.node("Pad", image(net), net.constant(np.array([1, 2])), "", net.constant(np.array([-1])))
    check(model_of_maps(net, net.qdq(conv(net, pads, 4, 3), TIES[2] * 2)), tmp_path, inputs=20)


def test_pad_by_attributes(tmp_path):
    net = Network(opset=10)
    rng = np.random.default_rng(0)
    y = net.node("Pad", net.dequantize("x", TIES[0], 3), pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5)
    w = rng.integers(-127, 128, (3, 4, 3, 3))
    y = net.node("Conv", y, net.weights(w, np.float32(2.0**-7)))
    check(model_of_maps(net, net.qdq(y, TIES[2] * 2)), tmp_path, inputs=20)


def test_integer_maps(tmp_path):
    """Nodes that move codes as they are."""
    net = Network()
    y = net.node("MaxPool", "x", kernel_shape=[2, 2])
    y = net.node("Pad", y, net.constant(np.array([0, 0, 1, 0, 0, 0, 0, 1])), net.constant(7, "int8"))
    y = net.node("Concat", y, y, axis=1)
    y = conv(net, net.dequantize(y, TIES[0], 3), 8, 3)
    check(model_of_maps(net, net.qdq(y, TIES[2] * 2)), tmp_path, inputs=20)


def dense(net, x, count, outputs=5, s_x=TIES[2]):
    w = np.random.default_rng(9).integers(-127, 128, (count, outputs))
    y = net.node("Gemm", x, net.weights(w, np.full(outputs, 2.0**-7), np.zeros(outputs), axis=1))
    return net.qdq(y, TIES[2] * 16)


@pytest.mark.parametrize(
    "steps",
    [
        [flatten(1)],
        [reshape(1, -1)],
        [transpose(0, 2, 3, 1), flatten(1)],
        [transpose(0, 3, 2, 1), flatten(1)],
        [reshape(1, 4, -1), transpose(0, 2, 1), flatten(1)],
        [squeeze(0), reshape(1, -1)],
    ],
)
@pytest.mark.parametrize("requantised", ["not", "same", "other"])
def test_flattened_maps(tmp_path, steps, requantised):
    """Whatever order the file flattens in, the codes stay where they are and the weights are moved."""
    net = Network()
    y = net.qdq(conv(net, image(net), 4, 4, **SAME), TIES[2], 5)
    for step in steps:
        y = step(net, y)
    if requantised != "not":
        y = net.qdq(y, TIES[2] * (1 if requantised == "same" else 2), 5)
    graph = check(model_of_maps(net, dense(net, y, 4 * 6 * 7)), tmp_path, inputs=20)
    for node in graph.nodes:
        if isinstance(node, Reshape | Transpose):
            assert same_order(node, graph.tensors[node.input], graph.tensors[node.output]), node.name


def test_flattened_maps_with_other_readers(tmp_path):
    net = Network()
    x = net.qdq(conv(net, image(net), 4, 4, **SAME), TIES[2], 5)
    y = net.qdq(flatten(1)(net, x), TIES[2], 5)
    a, b = dense(net, y, 168, 3), dense(net, y, 168, 3)
    y = net.node("Add", net.node("Add", a, b), net.constant(np.float32(0.5)))
    graph = check(model_of_maps(net, net.qdq(y, TIES[2] * 32)), tmp_path, inputs=20)
    # Both read the same tensor.
    first, second = (node for node in graph.nodes if isinstance(node, FullyConnected))
    assert first.input == second.input


def test_flattened_map_as_the_output(tmp_path):
    net = Network()
    y = flatten(1)(net, net.qdq(conv(net, image(net), 4, 4, **SAME), TIES[2], 5))
    check(model_of_maps(net, y), tmp_path, inputs=20)


def test_channels_last_in_the_file(tmp_path):
    """As tf2onnx writes them: channels last at the edges, transposed for each convolution."""
    net = Network()
    x = transpose(0, 3, 1, 2)(net, net.dequantize("x", TIES[0], 3))
    y = net.qdq(conv(net, x, 4, 5, **SAME), TIES[2], 5)
    y = transpose(0, 2, 3, 1)(net, y)
    w = np.random.default_rng(9).integers(-127, 128, (5, 3))
    y = net.qdq(net.node("MatMul", y, net.weights(w, np.float32(2.0**-7))), TIES[2] * 4)
    graph = check(model_of_maps(net, y, (1, 6, 7, 4)), tmp_path, inputs=20)
    assert graph.tensors["x"].channel_axis is None
    for node in graph.nodes:
        if isinstance(node, Transpose):
            assert same_order(node, graph.tensors[node.input], graph.tensors[node.output])


def test_transpose_that_moves(tmp_path):
    """Height and width exchanged: right on the golden model, whatever an engine makes of it."""
    net = Network()
    x = transpose(0, 1, 3, 2)(net, image(net))
    check(model_of_maps(net, net.qdq(conv(net, x, 4, 3), TIES[2] * 2)), tmp_path, inputs=20)


def test_a_convolution_over_what_a_product_made(tmp_path):
    """Its channels are last, and the convolution takes another axis for them."""
    net = Network()
    w = np.random.default_rng(9).integers(-127, 128, (7, 6))
    y = net.qdq(net.node("MatMul", image(net), net.weights(w, np.float32(2.0**-7))), TIES[0], 3)
    graph = check(model_of_maps(net, net.qdq(conv(net, y, 4, 3), TIES[2] * 2)), tmp_path, inputs=20)
    layer = next(node for node in graph.nodes if isinstance(node, Convolution))
    assert graph.tensors[layer.input].channel_axis == 1


def test_requantised_between_scales(tmp_path):
    net = Network()
    y = net.qdq(net.qdq(image(net), S_Y, 4), S_X, 7, "uint8")
    graph = check(model_of_maps(net, y), tmp_path, inputs=20)
    assert [type(node) for node in graph.nodes] == [Lookup, Lookup, Dequantize]


def test_pool_before_the_quantiser(tmp_path):
    """The greatest of what a convolution makes: the convolution is quantised, then pooled."""
    net = Network()
    y = conv(net, image(net), 4, 3, **SAME)
    y = relu(net, net.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]))
    graph = check(model_of_maps(net, net.qdq(y, TIES[2] * 2, -100)), tmp_path, inputs=20)
    assert [type(node) for node in graph.nodes] == [Convolution, MaxPool, Dequantize]


def normalisation(rng, net, x, channels, *, exact):
    """A BatchNormalization; if exact, one whose float32 arithmetic rounds nothing."""
    variance = np.full(channels, 0.75 if exact else 0.8, np.float32)
    gain = rng.choice([-2.0, -0.5, 0.0, 0.25, 1.0, 2.0], channels)
    offset, mean = rng.integers(-50, 50, (2, channels)) * (2.0**-5 if exact else 0.0313)
    arrays = [net.constant(np.asarray(values, np.float32)) for values in (gain, offset, mean, variance)]
    return net.node("BatchNormalization", x, *arrays, epsilon=0.25 if exact else 1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_batch_normalisation(tmp_path, seed):
    rng = np.random.default_rng(seed)
    print("seed", seed)
    net = Network()
    y = normalisation(rng, net, conv(net, image(net), 4, 6, **SAME), 6, exact=True)
    y = relu(net, y) if seed % 2 else y
    graph = check(model_of_maps(net, net.qdq(y, TIES[2] * 4, 3)), tmp_path, inputs=20)
    assert [type(node) for node in graph.nodes] == [Convolution, Dequantize]


def test_batch_normalisation_that_rounds(tmp_path):
    net = Network()
    rng = np.random.default_rng(0)
    y = normalisation(rng, net, conv(net, image(net), 4, 6, **SAME), 6, exact=False)
    path = save(model_of_maps(net, net.qdq(y, TIES[2] * 4, 3)), tmp_path)
    with pytest.warns(UserWarning, match=r"\(Conv\): bias is rounded to the scale of the accumulator"):
        load(path)


def test_constants_per_channel(tmp_path):
    net = Network()
    y = conv(net, image(net), 4, 6, **SAME)
    rng = np.random.default_rng(0)

    def constant(choices):
        return net.constant(rng.choice(choices, (1, 6, 1, 1)).astype(np.float32))

    y = net.node("Mul", constant([-1.0, 0.5, 2.0]), y)
    y = net.node("Div", y, constant([2.0, -0.5]))
    y = net.node("Sub", y, constant([0.25, -0.5]))
    y = net.node("Sub", constant([0.25, -0.5]), y)
    graph = check(model_of_maps(net, net.qdq(y, TIES[2] * 4, 3)), tmp_path, inputs=20)
    assert len(graph.nodes) == 2


@pytest.mark.parametrize("quantised", [False, True])
def test_softmax(tmp_path, quantised):
    net = Network()
    y = dense(net, flatten(1)(net, net.qdq(conv(net, image(net), 4, 2, **SAME), TIES[2])), 84)
    y = net.node("Softmax", y, axis=-1)
    if quantised:
        y = net.qdq(y, np.float32(1 / 256), -128)
    graph = check(model_of_maps(net, y), tmp_path, inputs=20)
    assert isinstance(graph.nodes[-1 - quantised], Softmax)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("before", ["codes", "floats", "softmax"])
def test_arg_max(tmp_path, keep, before):
    net = Network()
    y = dense(net, flatten(1)(net, net.qdq(conv(net, image(net), 4, 2, **SAME), TIES[2])), 84, 9)
    if before == "codes":
        y = net.nodes[-1].input[0]
    elif before == "softmax":
        y = net.node("Softmax", y, axis=1)
    y = net.node("ArgMax", y, axis=-1, keepdims=keep, select_last_index=keep)
    graph = check(model_of_maps(net, y, output_kind=TensorProto.INT64), tmp_path, inputs=60)
    assert isinstance(graph.nodes[-1], ArgMax)


# QLinear operators


def qlinear(net, op, *inputs, **attributes):
    contributed = op not in ("QLinearConv", "QLinearMatMul")
    return net.node(op, *inputs, **({"domain": "com.microsoft"} if contributed else {}), **attributes)


def parameters(net, scale, zero, kind):
    return net.constant(np.float32(scale)), net.constant(zero, kind)


@pytest.mark.parametrize("seed", range(40))
def test_random_qlinear_convolutions(tmp_path, seed):
    """Any scales: the runtime's own arithmetic, over every accumulator that occurs."""
    rng = np.random.default_rng(4000 + seed)
    print("seed", 4000 + seed)
    net = Network()
    rank, groups = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    channels, count = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    kind, zero = kind_and_zero(rng)
    out_kind, out_zero = kind, kind_and_zero(rng, (kind,))[1]
    attributes = windows(rng, rank)
    # Small enough for processors that saturate sums of two products at 16 bits.
    w = rng.integers(-63, 64, (count, channels // groups, *attributes["kernel_shape"]))
    s_x, s_y = random_scale(rng), random_scale(rng) * np.float32(np.sqrt(w[0].size) * 4)
    s_w = np.array([random_scale(rng) for _ in range(count)])
    inputs = [
        *("x", *parameters(net, s_x, zero, kind)),
        *(net.constant(w, "int8"), *parameters(net, s_w, np.zeros(count), "int8")),
        *parameters(net, s_y, out_zero, out_kind),
    ]
    if rng.random() < 0.7:
        inputs.append(net.constant(rng.integers(-3000, 3000, count), "int32"))
    y = qlinear(net, "QLinearConv", *inputs, group=groups, **attributes)
    spatial = tuple(int(n) for n in rng.integers(7, 12, rank))
    model = net.model(y, (1, channels, *spatial), TYPES[kind], TYPES[out_kind])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(save(model, tmp_path))
    # No multiplier fits some factors for every accumulator, which the importer says.
    options = {"tolerated": 1e-3, "expect_warning": True} if caught else {}
    graph = check(model, tmp_path, inputs=40, seed=seed, **options)
    assert [type(node) for node in graph.nodes] == [Convolution]


def test_qlinear_rounds_as_float32_does():
    """Factors for which the exact product lies on the other side of the middle between two codes."""
    rng = np.random.default_rng(5)
    differed = 0
    for _ in range(3):
        factor = (rng.uniform(0.5, 1, 32) * 2.0 ** rng.integers(-14, -7, 32)).astype(np.float32)
        least, greatest = np.full(32, -(1 << 17)), np.full(32, 1 << 17)
        multiplier, shift, left = fit_multiplier(factor, least, greatest, -128, 127)
        nominal, nominal_shift = quantise_multiplier(factor.astype(np.float64))
        acc = np.arange(-(1 << 17), (1 << 17) + 1)[:, None]
        theirs = np.clip(np.rint(acc.astype(np.float32) * factor), -128, 127)
        ours = np.clip(requantise(acc, multiplier, shift, "half_even"), -128, 127)
        plain = np.clip(requantise(acc, nominal, nominal_shift, "half_even"), -128, 127)
        differed += int((plain != theirs).sum())
        if left == 0:
            np.testing.assert_array_equal(ours, theirs)
        assert (ours != theirs).sum() <= left
        assert np.abs(multiplier - nominal).max() < 1 << 9
    assert differed > 0


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("seed", range(4))
def test_qlinear_binary(tmp_path, op, kind, seed):
    """Every pair of codes."""
    rng = np.random.default_rng(5000 + seed)
    print("seed", 5000 + seed)
    net = Network()
    bounds = FORMATS[kind]
    scales = [random_scale(rng) if seed else TIES[i] for i in range(3)]
    zeros = rng.integers(bounds.min, bounds.max + 1, 3).tolist()
    sigmoid = ["x", *parameters(net, scales[0], zeros[0], kind), *parameters(net, scales[1], zeros[1], kind)]
    other = qlinear(net, "QLinearLeakyRelu", *sigmoid, alpha=-0.9)
    inputs = ["x", *parameters(net, scales[0], zeros[0], kind)]
    inputs += [
        other,
        *parameters(net, scales[1], zeros[1], kind),
        *parameters(net, scales[2], zeros[2], kind),
    ]
    y = qlinear(net, op, *inputs)
    check(net.model(y, (1, 3, 40), TYPES[kind], TYPES[kind]), tmp_path, inputs=200, seed=seed)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("seed", range(3))
def test_qlinear_network(tmp_path, kind, seed):
    """Everything that is left, one after the other."""
    rng = np.random.default_rng(6000 + seed)
    print("seed", 6000 + seed)
    net = Network()
    scales = [random_scale(rng) for _ in range(9)]
    zeros = [kind_and_zero(rng, (kind,))[1] for _ in scales]

    def at(index):
        return parameters(net, scales[index], zeros[index], kind)

    a = qlinear(net, "QLinearSigmoid", "x", *at(0), *at(1))
    b = qlinear(net, "QLinearLeakyRelu", "x", *at(0), *at(2), alpha=0.3)
    y = qlinear(net, "QLinearConcat", *at(2), a, *at(1), b, *at(2), axis=1)
    y = qlinear(net, "QLinearMul", y, *at(2), y, *at(2), *at(4))
    y = net.node("MaxPool", y, kernel_shape=[2, 2], strides=[1, 2], pads=[1, 0, 0, 1])
    if seed:
        pool = {"kernel_shape": [2, 3], "pads": [0, 1, 1, 1], "count_include_pad": seed - 1}
        y = qlinear(net, "QLinearAveragePool", y, *at(4), *at(5), **pool)
    else:
        y = qlinear(net, "QLinearGlobalAveragePool", y, *at(4), *at(5), channels_last=0)
    model = net.model(y, (1, 3, 5, 6), TYPES[kind], TYPES[kind])
    check(model, tmp_path, inputs=40, seed=seed)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_qgemm(tmp_path, kind, transposed, bias):
    net = Network()
    rng = np.random.default_rng(3)
    w = rng.integers(-63, 64, (N, K) if transposed else (K, N))
    scale = np.array([random_scale(rng) for _ in range(N)])
    inputs = ["x", *parameters(net, S_X, 7, kind), net.constant(w, "int8")]
    inputs += [*parameters(net, scale, np.zeros(N), "int8")]
    inputs += [net.constant(rng.integers(-3000, 3000, N), "int32") if bias else ""]
    y = qlinear(net, "QGemm", *inputs, *parameters(net, S_Y, 4, kind), transB=transposed)
    check(net.model(y, (1, K), TYPES[kind], TYPES[kind]), tmp_path)


# Quantised by onnxruntime's own tool


def float_network(activation):
    """A small network of every usual kind of node, in floats."""
    rng = np.random.default_rng(0)
    net = Network(opset=14)

    def convolve(x, channels, count, kernel, **attributes):
        w = rng.normal(0, 1 / np.sqrt(channels * kernel**2), (count, channels, kernel, kernel))
        b = rng.normal(0, 0.1, count)
        return net.node("Conv", x, *(net.constant(v.astype(np.float32)) for v in (w, b)), **attributes)

    def product(op, x, inputs, *bias):
        w = rng.normal(0, 0.2, (inputs, 10)).astype(np.float32)
        return net.node(op, x, net.constant(w), *(net.constant(b) for b in bias))

    x = relu(net, convolve("x", 3, 8, 3, **SAME))
    y = convolve(x, 1, 8, 3, group=8, **SAME)
    y = clip(0.0, 6.0)(net, y) if activation == "Clip" else net.node(activation, y)
    y = relu(net, net.node("Add", x, convolve(y, 8, 8, 1)))
    y = net.node("MaxPool", net.node("Concat", y, x, axis=1), kernel_shape=[4, 4], strides=[4, 4])
    z = product("MatMul", reshape(1, -1)(net, net.node("GlobalAveragePool", y)), 16)
    y = product("Gemm", flatten(1)(net, y), 64, rng.normal(0, 0.1, 10).astype(np.float32))
    return net.model(net.node("Softmax", net.node("Add", y, z), axis=-1), (1, 3, 8, 8))


@pytest.mark.parametrize("activation", ["Sigmoid", "LeakyRelu", "Clip"])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
def test_quantised_by_onnxruntime(tmp_path, activation, form, kind):
    """Every tensor of what the tool makes of a float network, in both of its forms."""
    tool = pytest.importorskip("onnxruntime.quantization")

    class Images(tool.CalibrationDataReader):
        def __init__(self):
            rng = np.random.default_rng(1)
            self.images = iter([{"x": rng.normal(0, 0.6, (1, 3, 8, 8)).astype("f4")} for _ in range(4)])

        def get_next(self):
            return next(self.images, None)

    model = float_network(activation)
    model.ir_version = 8
    onnx.save(model, tmp_path / "float.onnx")
    tool.quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "quantised.onnx",
        Images(),
        quant_format=getattr(tool.QuantFormat, form),
        activation_type=getattr(tool.QuantType, kind),
        weight_type=tool.QuantType.QInt8,
        per_channel=kind == "QInt8",
        # Processors without VNNI saturate sums of two products at 16 bits.
        reduce_range=True,
    )
    graph = check(onnx.load(tmp_path / "quantised.onnx"), tmp_path, inputs=20, expect_warning=True)
    kinds = {type(node) for node in graph.nodes}
    assert kinds >= {Convolution, FullyConnected, Binary, Concatenate, MaxPool, AveragePool, Softmax}


def test_ties_of_means_are_reported(tmp_path):
    """Means of codes on the same scale: every second sum of two lies between two codes."""
    net = Network()
    y = net.node("AveragePool", net.dequantize("x", S_X, 3), kernel_shape=[1, 2], name="mean")
    path = save(model_of_maps(net, net.qdq(y, S_X, 3)), tmp_path)
    with pytest.warns(UserWarning, match=r"node 'mean' \(AveragePool\): 255 of its sums lie in the middle"):
        graph = load(path)
    (pool,) = (node for node in graph.nodes if isinstance(node, AveragePool))
    exact = np.arange(-256, 255) / 2
    whole = exact % 1 == 0
    np.testing.assert_array_equal(pool.tables[2][whole], exact[whole])
    np.testing.assert_array_equal(np.abs(pool.tables[2] - exact)[~whole], 0.5)
    # Where the scale is a power of two, there is no doubt.
    net = Network()
    y = net.node("AveragePool", net.dequantize("x", TIES[0], 3), kernel_shape=[1, 2])
    check(model_of_maps(net, net.qdq(y, TIES[0], 3)), tmp_path, inputs=20)


# Refused


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda net, x: net.node("Conv", x, net.constant(np.ones((2, 4, 3, 3), "f4"))),
            "operands are not qu",
        ),
        (
            lambda net, x: net.node("Conv", "x", net.weights(np.ones((2, 4, 3, 3)), S_W)),
            "operands are not qu",
        ),
        (lambda net, x: net.node("Conv", x, x), "is not the product of a quantised activation"),
        (
            lambda net, x: net.node("Conv", relu(net, x), net.weights(np.ones((2, 4, 3, 3)), S_W)),
            "takes floats that stand for no codes",
        ),
        (
            lambda net, x: net.node("Conv", conv(net, x, 4, 4), net.weights(np.ones((2, 4, 3, 3)), S_W)),
            "the result of another product, which was never quantised",
        ),
        (lambda net, x: conv(net, x, 4, 2, kernel=8), r"kernel \(8, 8\) does not fit its input \(6, 7\)"),
        (lambda net, x: conv(net, x, 4, 2, auto_pad="SAME"), "auto_pad SAME is not known"),
        (lambda net, x: conv(net, x, 4, 2, pads=[-1, 0, 0, 0]), "pads .* are negative"),
        (lambda net, x: conv(net, x, 4, 2, pads=[1, 0]), "are not for 2 axes"),
        (lambda net, x: conv(net, x, 4, 2, strides=[0, 1]), "are not positive"),
        (lambda net, x: conv(net, x, 4, 2, strides=[1 << 40, 1]), "are beyond all measure"),
        (
            lambda net, x: conv(net, x, 4, 2, kernel_shape=[2, 2]),
            "kernel_shape .* is not that of its weights",
        ),
        (lambda net, x: conv(net, x, 8, 2), r"input \(1, 4, 6, 7\), weights \(2, 8, 3, 3\) and 1 groups do"),
        (lambda net, x: conv(net, x, 6, 3, group=3), "and 3 groups do not agree"),
        (
            lambda net, x: net.node("Conv", x, net.weights(np.ones((2, 4, 3)), S_W)),
            "only 1-D and 2-D convolutions are supported",
        ),
        (
            lambda net, x: net.node(
                "Conv", x, net.weights(np.ones((2, 4, 3, 3)), np.full(4, S_W), np.zeros(4), axis=1)
            ),
            "weights have a scale per input channel",
        ),
        (
            lambda net, x: net.node(
                "Conv", x, net.weights(np.ones((2, 4, 3, 3)), S_W), net.constant(np.ones(3, "f4"))
            ),
            r"bias of shape \(3,\) is not for 2 channels",
        ),
        (
            lambda net, x: net.node("Conv", x, net.weights(np.ones((2, 4, 3, 3)), S_W), "x"),
            "its bias is not constant",
        ),
        (
            lambda net, x: net.node("Add", conv(net, x, 4, 2), net.constant(np.ones((5, 5), "f4"))),
            "only one number per output channel",
        ),
        (
            lambda net, x: net.node("MaxPool", x, kernel_shape=[2, 2], dilations=[2, 1]),
            "dilates its window",
        ),
        (
            lambda net, x: net.node("AveragePool", x, kernel_shape=[2, 2], pads=[2, 0, 0, 0]),
            "is not below kernel",
        ),
        (
            lambda net, x: net.node(
                "AveragePool", x, kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1, count_include_pad=1
            ),
            "counts padding in windows that reach beyond it",
        ),
        (lambda net, x: net.node("AveragePool", conv(net, x, 4, 2), kernel_shape=[2, 2]), "never quantised"),
        (lambda net, x: net.node("ReduceMean", x, net.constant(np.array([0, 1]))), "only means over height"),
        (lambda net, x: net.node("GlobalAveragePool", flatten(1)(net, x)), "is no map of one or two axes"),
        (
            lambda net, x: net.node("Add", x, net.node("MaxPool", x, kernel_shape=[2, 2])),
            r"combines shapes \(1, 4, 6, 7\) and \(1, 4, 5, 6\)",
        ),
        (
            lambda net, x: net.node("Mul", x, net.constant(np.ones((4, 1, 1), "f4"))),
            "with a constant of shape",
        ),
        (lambda net, x: net.node("Mul", x, net.constant(np.float32(np.inf))), "not made of finite FLOAT"),
        (lambda net, x: net.node("Add", *[net.constant(np.ones(1, "f4"))] * 2), "takes constants"),
        (
            lambda net, x: net.node(
                "Add", net.node("Add", x, net.qdq(relu(net, x), S_Y)), net.qdq(net.node("Abs", x), S_Y)
            ),
            "combines more than two tensors",
        ),
        (lambda net, x: net.node("Div", x, x), "is no number"),
        (
            lambda net, x: net.node("Sigmoid", conv(net, x, 4, 2)),
            "is applied to floats that stand for no codes",
        ),
        (lambda net, x: net.node("PRelu", x, net.constant(np.ones((4, 1, 1), "f4"))), "its slope differs"),
        (
            lambda net, x: normalisation(np.random.default_rng(0), net, x, 4, exact=True),
            "does not follow a convolution or matrix product directly",
        ),
        (
            lambda net, x: normalisation(np.random.default_rng(0), net, conv(net, x, 4, 5), 4, exact=True),
            "its scale is not 5 finite numbers",
        ),
        (lambda net, x: net.node("Concat", x, net.quantize("x", S_X), axis=1), "takes integers and floats"),
        (lambda net, x: net.node("Concat", x, x, axis=4), "axis 4 does not exist"),
        (lambda net, x: net.node("Concat", x, flatten(1)(net, x), axis=1), "do not agree beside axis 1"),
        (
            lambda net, x: net.node("Pad", x, net.constant(np.array([0, 0, 1, 0, 0, 0, -1, 0]))),
            "are not possible",
        ),
        (
            lambda net, x: net.node("Pad", x, net.constant(np.zeros(8, np.int64)), mode="reflect"),
            "pads by reflect; pad with a constant",
        ),
        (lambda net, x: net.node("Softmax", x, axis=1), "is over axis 1 of shape"),
        (lambda net, x: net.node("ArgMax", conv(net, x, 4, 2), axis=1), "never quantised"),
        (lambda net, x: net.node("ArgMax", x, axis=5), "axis 5 does not exist"),
    ],
)
def test_refused_maps(tmp_path, build, message):
    net = Network()
    x = net.qdq("x", S_X)
    y = build(net, x)
    net.nodes[-1].name = "odd"
    refused(net, net.qdq(y, S_Y), tmp_path, message, shape=(1, 4, 6, 7))


def test_refused_infinite_scales(tmp_path):
    net = Network()
    inputs = ["x", *parameters(net, 1e30, 0, "int8"), net.constant(np.ones((K, N)), "int8")]
    inputs += [*parameters(net, 1e30, 0, "int8"), *parameters(net, 1.0, 0, "int8")]
    y = qlinear(net, "QLinearMatMul", *inputs, name="odd")
    message = r"node 'odd' \(QLinearMatMul\): its scales grow beyond all numbers"
    refused(net, y, tmp_path, message, kind=TensorProto.INT8, output_kind=TensorProto.INT8)


@pytest.mark.parametrize("op", ["Conv", "AveragePool", "Sigmoid", "Add"])
def test_refused_floats_at_the_end(tmp_path, op):
    net = Network()
    x = net.qdq("x", S_X)
    if op == "Conv":
        y = conv(net, x, 4, 2, name="odd")
    elif op == "AveragePool":
        y = net.node(op, x, kernel_shape=[2, 2], name="odd")
    else:
        y = net.node(op, *([x, x] if op == "Add" else [x]), name="odd")
    message = rf"node 'odd' \({op}\): its result leaves the network as floats that were never quantised"
    refused(net, y, tmp_path, message, shape=(1, 4, 6, 7))


@pytest.mark.parametrize("name", ["ic_resnet8_qdq", "kws_dscnn_qdq"])
def test_reference_convolutional_networks(shared_data, name):
    """Every tensor of every recorded run."""
    with warnings.catch_warnings():
        # The mean of a map, on the scale of the map.
        warnings.filterwarnings("ignore", message=".*sums lie in the middle")
        graph = load(shared_data / "mlperf_tiny_onnx" / f"{name}.onnx")
    recorded = np.load(shared_data / "mlperf_tiny_onnx" / f"golden_{name}.npz")
    tensors = golden.run(graph, recorded["input"])
    compared = set()
    for index, tensor in enumerate(recorded["tensor_names"].tolist()):
        key = f"q{index:02d}"
        if key in recorded:
            expected = recorded[key]
            np.testing.assert_array_equal(tensors[tensor].reshape(expected.shape), expected, key, strict=True)
            compared.add(tensor)
    assert len(compared) == {"ic_resnet8_qdq": 15, "kws_dscnn_qdq": 12}[name]
    # The rest is the input before it is transposed, what only has another shape, and the host's floats.
    rest = set(graph.tensors) - compared
    made = {node.output: node for node in graph.nodes}
    assert {type(made[tensor]) for tensor in rest - {graph.input}} <= {Quantize, Reshape, Softmax}
    output = tensors[graph.output].reshape(recorded["output"].shape)
    np.testing.assert_allclose(output, recorded["output"], rtol=2e-6)
    np.testing.assert_array_equal(output.argmax(-1), recorded["output"].argmax(-1))
    for node in graph.nodes:
        if isinstance(node, Reshape | Transpose):
            assert same_order(node, graph.tensors[node.input], graph.tensors[node.output]), node.name


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


def damageable(name):
    """A network to damage."""
    if name == "mlp":
        return mlp(per_channel=True)
    net = Network()
    if name == "qlinear":
        weights = [net.constant(np.ones((4, 3, 3, 3)), "int8"), *parameters(net, S_W, 0, "int8")]
        bias = net.constant(np.arange(4), "int32")
        inputs = ["x", *parameters(net, S_X, 3, "int8"), *weights, *parameters(net, S_Y, 5, "int8"), bias]
        y = qlinear(net, "QLinearConv", *inputs, **SAME)
        y = qlinear(
            net, "QLinearAdd", *(y, *parameters(net, S_Y, 5, "int8")) * 2, *parameters(net, S_Y, 5, "int8")
        )
        return net.model(y, (1, 3, 6, 7), TensorProto.INT8, TensorProto.INT8)
    y = net.qdq(conv(net, image(net), 4, 6, strides=[2, 1], group=2, **SAME), TIES[2])
    y = net.node("Add", y, net.qdq(net.node("Sigmoid", y), S_Y))
    y = net.node("MaxPool", net.qdq(y, S_Y), kernel_shape=[2, 2], pads=[1, 0, 0, 1])
    y = net.node("AveragePool", net.qdq(y, S_Y), kernel_shape=[2, 3], count_include_pad=1)
    y = net.node("Concat", net.qdq(y, S_Y), net.qdq(y, S_Y), axis=1)
    y = net.node("Pad", y, net.constant(np.array([0, 0, 1, 0, 0, 0, 0, 1])))
    return model_of_maps(net, dense(net, flatten(1)(net, net.qdq(y, S_Y)), 12 * 3 * 7))


def test_truncated(tmp_path):
    data = mlp(per_channel=True).SerializeToString()
    path = tmp_path / "short.onnx"
    messages = [outcome(data[:length], path) for length in range(1, len(data), 7)]
    # Without its end the file cannot be whole: the operator sets are the last thing in it.
    assert all(messages[: len(messages) - 5])


@pytest.mark.parametrize("name", ["mlp", "maps", "qlinear"])
def test_mutated(tmp_path, name):
    data = damageable(name).SerializeToString()
    rng = np.random.default_rng(0)
    path = tmp_path / "mutated.onnx"
    refusals = 0
    for _ in range(600):
        mutated = np.frombuffer(data, np.uint8).copy()
        where = rng.integers(0, len(data), rng.integers(1, 4))
        mutated[where] = rng.integers(0, 256, where.size)
        refusals += outcome(mutated.tobytes(), path) is not None
    assert refusals > 100


# Whole networks, as exporters write them: the importer, the golden model and the mapper

ENGINE = EngineConfig(cols=4, lanes=8, requantisers=2, bus_bits=64, activation_depth=256)


def mapped(model, tmp_path, **options) -> Graph:
    """As `check`; and an engine takes the network."""
    graph = check(model, tmp_path, **{"inputs": 20} | options)
    assert compile_graph(graph, ENGINE).layers
    return graph


def convolved(net, x, channels, count, s_x, kernel=(3, 3), s_y=None, after=None, seed=5, **attributes):
    """A convolution with its quantiser, and the scale of its result."""
    rng = np.random.default_rng(seed)
    s_y = np.float32(2.0**-4) if s_y is None else s_y
    shape = (count, channels // attributes.get("group", 1), *kernel)
    unit = s_x * np.float32(2.0**-7)
    bias = net.weights(rng.integers(-900, 900, count), np.full(count, unit), np.zeros(count), "int32", axis=0)
    scale = np.full(count, 2.0**-7, np.float32)
    y = net.node(
        "Conv",
        x,
        net.weights(rng.integers(-127, 128, shape), scale, np.zeros(count), axis=0),
        bias,
        **attributes,
    )
    if after:
        y = after(net, y)
    return net.qdq(y, s_y, -5), s_y


def test_inverted_residual(tmp_path):
    """MobileNetV2: expanded, depthwise and projected, with ReLU6, and added to what came in."""
    net = Network()
    x = image(net, TIES[0], 3)
    y, s_y = convolved(net, x, 8, 24, TIES[0], (1, 1), after=clip(0, 6))
    y, s_y = convolved(net, y, 24, 24, s_y, after=clip(0, 6), group=24, **SAME)
    y, s_y = convolved(net, y, 24, 8, s_y, (1, 1))
    y = net.qdq(net.node("Add", x, y), TIES[2] * 2, 4)
    graph = mapped(model_of_maps(net, y, (1, 8, 6, 7)), tmp_path)
    assert [node.groups for node in graph.nodes if isinstance(node, Convolution)] == [1, 24, 1]


@pytest.mark.parametrize(
    ("size", "kernel", "attributes"),
    [
        ((6, 7), (3, 3), {"group": 2, **SAME}),
        ((9, 8), (3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        ((6, 7), (3, 2), {"pads": [0, 1, 2, 0]}),
        ((8, 11), (3, 3), {"strides": [3, 3], "pads": [1, 1, 1, 1]}),
        ((3, 2), (5, 5), {"pads": [2, 2, 2, 2]}),
    ],
    ids=["groups", "dilation", "asymmetric", "stride 3", "kernel beyond its input"],
)
def test_kinds_of_convolutions(tmp_path, size, kernel, attributes):
    net = Network()
    y, _ = convolved(net, image(net), 8, 12, TIES[0], kernel, **attributes)
    mapped(model_of_maps(net, y, (1, 8, *size)), tmp_path)


def test_signals_between_reshapes(tmp_path):
    """A 1-D convolution as PyTorch writes it for a row of samples, and a classifier behind it."""
    net = Network()
    x = net.node("Reshape", "x", net.constant(np.array([1, 1, 32])))
    x = net.node(
        "Unsqueeze", net.node("Squeeze", x, net.constant(np.array([1]))), net.constant(np.array([1]))
    )
    x = net.qdq(x, S_X, 3)
    y, s_y = convolved(net, x, 1, 6, S_X, (5,), after=relu, strides=[2], pads=[2, 2])
    y = net.node("Dropout", identity(net, y))
    y = net.node("Reshape", y, net.constant(np.array([1, -1])))
    w, _ = operands(shape=(96, 5))
    y = net.qdq(net.node("MatMul", y, net.weights(w, S_W)), s_y * 16)
    mapped(net.model(y, (1, 32)), tmp_path, expect_warning=True)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "ReduceMean"])
def test_classifiers_behind_a_mean(tmp_path, op):
    """Means of 42 pixels in the scale of their codes: halves go to even, which takes two averages."""
    net = Network()
    y, s_y = convolved(net, image(net), 4, 6, TIES[0], **SAME)
    inputs = [net.constant(np.array([2, 3]))] if op == "ReduceMean" else []
    y = net.qdq(net.node(op, y, *inputs), s_y, -5)
    y = net.node("Gemm", flatten(1)(net, y), net.weights(operands(shape=(6, 5))[0], S_W))
    graph = mapped(model_of_maps(net, net.qdq(y, S_Y)), tmp_path)
    assert any(isinstance(node, AveragePool) for node in graph.nodes)


def test_matrix_products_of_rows(tmp_path):
    """A product with all rows of a sequence, between a pair of transpositions."""
    net = Network()
    x = transpose(0, 2, 1)(net, net.qdq("x", S_X, 3))
    w, _ = operands(shape=(8, 16))
    y = net.qdq(relu(net, net.node("MatMul", x, net.weights(w, S_W))), S_Y, -9)
    y = transpose(0, 2, 1)(net, y)
    mapped(net.model(y, (1, 8, 6)), tmp_path)


def test_normalised_before_it_is_quantised(tmp_path):
    rng = np.random.default_rng(4)
    net = Network()
    y, s_y = convolved(
        net,
        image(net),
        4,
        6,
        TIES[0],
        after=lambda net, y: relu(net, normalisation(rng, net, y, 6, exact=True)),
    )
    y, _ = convolved(net, y, 6, 4, s_y)
    mapped(model_of_maps(net, y, (1, 4, 7, 7)), tmp_path, expect_warning=True)


@pytest.mark.parametrize("op", ["HardSwish", "HardSigmoid", "Sigmoid"])
def test_functions_behind_a_convolution(tmp_path, op):
    """Quantised on both sides, as tables are."""
    net = Network()
    y, _ = convolved(net, image(net), 4, 6, TIES[0])
    y = net.qdq(net.node(op, y), np.float32(1 / 128), -20)
    y, _ = convolved(net, y, 6, 5, np.float32(1 / 128), (1, 1))
    graph = mapped(model_of_maps(net, y), tmp_path)
    assert [type(node) for node in graph.nodes[:3]] == [Convolution, Lookup, Convolution]


def resize(net, x, *, scales=None, sizes=None, **attributes):
    inputs = [x, "", "" if scales is None else net.constant(np.float32(scales))]
    if sizes is not None:
        inputs.append(net.constant(np.array(sizes)))
    return net.node("Resize", *inputs, name="resize", **attributes)


RESIZED = [
    ((1, 1, 2, 2), {}),
    ((1, 1, 3, 2), {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}),
    ((1, 1, 2, 5), {"coordinate_transformation_mode": "pytorch_half_pixel"}),
    ((1, 1, 4, 3), {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ((1, 1, 2, 1), {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "round_prefer_floor"}),
]


@pytest.mark.parametrize(("factors", "attributes"), RESIZED)
@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_repeated_pixels(tmp_path, factors, attributes, by):
    """The ways to resize that repeat each pixel; in front of a convolution, as in decoders."""
    net = Network()
    given = factors if by == "scales" else np.multiply(factors, (1, 6, 4, 5))
    y, s_y = convolved(net, image(net), 4, 6, TIES[0])
    y = net.qdq(resize(net, y, **{by: given}, **attributes), s_y, -5)
    y, _ = convolved(net, y, 6, 3, s_y, **SAME)
    graph = mapped(model_of_maps(net, y), tmp_path)
    assert [node.factors for node in graph.nodes if isinstance(node, Upsample)] == [factors[2:]]


def test_repeated_samples(tmp_path):
    """Along one axis, by axes, and what is applied to floats between the quantisers."""
    net = Network(opset=19)
    y = resize(net, image(net), scales=(3,), axes=[2], mode="nearest")
    graph = mapped(model_of_maps(net, net.qdq(relu(net, y), TIES[0], 3), (1, 4, 9)), tmp_path)
    assert [node.factors for node in graph.nodes if isinstance(node, Upsample)] == [(1, 3)]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"scales": (1, 1, 1.4, 2)}, "resizes .* by .*use whole factors"),
        ({"sizes": (1, 4, 9, 14)}, r"resizes \(1, 4, 6, 7\) to \(1, 4, 9, 14\)"),
        ({"scales": (1, 2, 2, 2)}, "height and width, and nothing else"),
        ({"scales": (1, 1, 2, 2), "mode": "linear"}, r"interpolates \(linear\)"),
        ({"scales": (1, 1, 3, 1), "nearest_mode": "floor"}, "half_pixel coordinates and floor do not repeat"),
        ({"scales": (1, 1, 3, 1), "coordinate_transformation_mode": "align_corners"}, "do not repeat"),
        ({"scales": (1, 1, 2, 2), "coordinate_transformation_mode": "tf_crop_and_resize"}, "do not repeat"),
        ({"scales": (1, 1, 2)}, r"has 3 scales for axes \[0, 1, 2, 3\]"),
        ({"sizes": (1, 4, 12, 7), "keep_aspect_ratio_policy": "not_larger"}, "keeps the aspect ratio"),
    ],
)
def test_refused_resize(tmp_path, attributes, message):
    net = Network(opset=19)
    y = resize(net, image(net), **attributes)
    refused(
        net,
        net.qdq(y, TIES[0], 3),
        tmp_path,
        rf"node 'resize' \(Resize\).*{message}",
        shape=(1, 4, 6, 7),
        kind=TensorProto.INT8,
    )


@pytest.mark.parametrize("mode", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_nearest_pixels(mode, rounding):
    """What every output pixel is a copy of, as onnxruntime has it."""
    for before, after in [(1, 3), (4, 8), (5, 15), (3, 12), (7, 49), (2, 98)]:
        net = Network()
        y = resize(net, "x", sizes=(1, 1, after), coordinate_transformation_mode=mode, nearest_mode=rounding)
        x = np.arange(before, dtype=np.float32).reshape(1, 1, 1, before)
        found = runtime(net.model(y, (1, 1, before)), [y], x)[y].reshape(-1)
        np.testing.assert_array_equal(nearest(before, after, mode, rounding), found)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("sizes", [(12, 20), (16, 16), (16, 8, 8)])
def test_split(tmp_path, opset, sizes):
    """Channels that go separate ways, and are joined again in another order."""
    net = Network(opset=opset)
    x = image(net)
    outputs = [net.name("part") for _ in sizes]
    inputs, attributes = [x], {"axis": 1}
    if sizes != (16, 16) or opset == 13:
        inputs.append(net.constant(np.array(sizes)))
    else:
        attributes["num_outputs"] = 2
    net.nodes.append(helper.make_node("Split", inputs, outputs, name="split", **attributes))
    y = net.node("Concat", *(relu(net, net.qdq(part, TIES[0], 3)) for part in reversed(outputs)), axis=1)
    y, _ = convolved(net, net.qdq(y, TIES[0], 3), 32, 4, TIES[0])
    graph = mapped(model_of_maps(net, y, (1, 32, 5, 4)), tmp_path)
    assert sum(isinstance(node, Pad) for node in graph.nodes) == len(sizes)


@pytest.mark.parametrize(
    ("starts", "ends", "axes"),
    [([4], [20], [1]), ([-12], [1 << 62], [1]), ([1, 2], [-1, 5], [2, -1])],
)
def test_slice(tmp_path, starts, ends, axes):
    net = Network()
    y = net.node("Slice", image(net), *(net.constant(np.array(each)) for each in (starts, ends, axes)))
    mapped(model_of_maps(net, net.qdq(relu(net, y), TIES[0], 3), (1, 24, 5, 6)), tmp_path)


def test_parts_and_sizes_as_attributes(tmp_path):
    """Forms of before opset 10 and 13, which onnxruntime does not take with these types, are the new ones."""

    def made(opset):
        net = Network(opset=opset)
        x, sizes, ends = image(net), (3, 5), (1, 1, 6)
        outputs = [net.name("part") for _ in sizes]
        if opset < 10:
            net.nodes.append(helper.make_node("Split", [x], outputs, axis=1, split=sizes))
            y = net.node("Slice", outputs[1], starts=(1, 2), ends=(5, 6), axes=(1, -1))
            y = net.node("Upsample", y, scales=(1.0, *map(float, ends)))
        else:
            net.nodes.append(helper.make_node("Split", [x, net.constant(np.array(sizes))], outputs, axis=1))
            numbers = [net.constant(np.array(each)) for each in ((1, 2), (5, 6), (1, -1))]
            y = resize(net, net.node("Slice", outputs[1], *numbers), scales=(1, *ends))
        graph = load(save(model_of_maps(net, net.quantize(y, TIES[0], 3), (1, 8, 2, 7)), tmp_path))
        return graph, golden.run(graph, np.arange(112, dtype=np.int8))[graph.output]

    (old, theirs), (new, ours) = made(9), made(13)
    assert (
        [type(node) for node in old.nodes[:3]]
        == [type(node) for node in new.nodes[:3]]
        == [Pad, Pad, Upsample]
    )
    assert ours.shape == (1, 1, 4, 2, 24)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "message"),
    [
        ("Slice", ([0], [4], [1], [2]), {}, "takes steps of .*slice without steps"),
        ("Slice", ([3], [2], [1]), {}, "leaves nothing of shape"),
        ("Slice", ([0], [2], [4]), {}, r"axes \[4\] do not exist"),
        ("Slice", ([0, 1], [2], [1]), {}, "are not as many"),
        ("Split", ([3],), {"axis": 1}, r"splits 4 elements into \[3\] for 1 outputs"),
        ("Split", ([4],), {"axis": 5}, "axis 5 does not exist"),
    ],
)
def test_refused_parts(tmp_path, op, inputs, attributes, message):
    net = Network()
    constants = [net.constant(np.array(each)) for each in inputs]
    y = net.node(op, image(net), *constants, name="odd", **attributes)
    refused(
        net,
        net.qdq(y, TIES[0], 3),
        tmp_path,
        rf"node 'odd' \({op}\).*{message}",
        shape=(1, 4, 6, 7),
        kind=TensorProto.INT8,
    )


def test_halves_of_means(tmp_path):
    """One code or the other, as the order of what is added has it; an even one where that is exact."""
    for s_x, exact in ((np.float32(0.0123), False), (np.float32(2.0**-5), True)):
        net = Network()
        y = net.node("AveragePool", image(net, s_x), kernel_shape=[2, 3], name="pool")
        model = model_of_maps(net, net.quantize(y, s_x, 3), (1, 50, 2, 3), output_kind=TensorProto.INT8)
        # The codes of sums of 6, 18, ... in all orders.
        rng = np.random.default_rng(0)
        x = rng.integers(-128, 128, (200, 1, 50, 2, 3)).astype(np.int8)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            graph = load(save(model, tmp_path))
        assert [("halves go to even" in str(each.message)) for each in said] == [True] * (not exact)
        ours = golden.run(graph, x)[graph.output].reshape(-1).astype(int)
        theirs = runtime(model, [graph.output], x)[graph.output].reshape(-1)
        above = x.reshape(-1, 6).astype(int).sum(axis=1) - 6 * 3
        halves = above % 6 == 3
        assert (ours[~halves] == theirs[~halves]).all()
        assert (np.abs(ours - theirs) <= 1).all()
        assert (ours == theirs).all() == exact
        assert not ((ours[halves] - 3) % 2).any()
        # And the order alone decided: the same sums, another code.
        decided = {}
        for total, code in zip(above[halves], theirs[halves], strict=True):
            decided.setdefault(total, set()).add(int(code))
        assert any(len(codes) > 1 for codes in decided.values()) != exact


def joins_and_averages(net):
    """An average of 3 x 3 with padding, and 12 and 20 channels joined."""
    s = np.float32(2.0**-5)
    x = image(net, s, 3)
    a, _ = convolved(net, x, 2, 12, s, (1, 1), seed=1)
    b, s_y = convolved(net, x, 2, 20, s, (1, 1), seed=2)
    y = net.qdq(net.node("Concat", a, b, axis=1), s_y, -5)
    y = net.node("AveragePool", y, kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 1])
    y = net.qdq(y, s_y, -5)
    return net.qdq(net.node("GlobalAveragePool", y), s_y, -5)


def test_joins_and_averages_on_an_engine(tmp_path):
    """From the file to the RTL: all tensors are those of onnxruntime."""
    net = Network()
    graph = check(model_of_maps(net, joins_and_averages(net), (1, 2, 3, 4)), tmp_path, inputs=20)
    config = EngineConfig(
        cols=2,
        lanes=4,
        bus_bits=64,
        reduction=2048,
        activation_depth=256,
        patch_depth=64,
        weight_depth=128,
        channel_depth=32,
        output_depth=64,
        queue_depth=4,
        burst_beats=16,
    )
    program = compile_graph(graph, config)
    simulator = "icarus" if shutil.which("iverilog") else "verilator"
    done = execute(program, graph, random_input(graph, count=1, seed=0), emit(config), simulator=simulator)
    assert not done.mismatches
    assert done.tensors_compared == 5
