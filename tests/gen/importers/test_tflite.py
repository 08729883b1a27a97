"""TFLite import: variations against tflite-micro, damaged files, everything that is refused."""

import re
import shutil
from collections import Counter
from dataclasses import dataclass, field

import flatbuffers
import numpy as np
import pytest
import tflite
from tflite import ActivationFunctionType as Activation
from tflite import BuiltinOperator as Op
from tflite import Padding
from tflite import TensorType as Type

from bitwright.gen.execute import execute
from bitwright.gen.importers import load
from bitwright.gen.mapper import compile_graph
from bitwright.gen.synthetic import random_input
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Int
from bitwright.hw.quant.arithmetic import quantise_multiplier, requantise
from bitwright.sim import fixed_point, golden
from bitwright.sim.graph import (
    AveragePool,
    Binary,
    Convolution,
    Dequantize,
    FullyConnected,
    Lookup,
    MaxPool,
    NetworkError,
    Pad,
    Quantize,
    Reshape,
    Softmax,
    Transpose,
    Upsample,
)

K, N = 12, 7
OPTIONS = {
    Op.ADD: "AddOptions",
    Op.ARG_MAX: "ArgMaxOptions",
    Op.AVERAGE_POOL_2D: "Pool2DOptions",
    Op.CONCATENATION: "ConcatenationOptions",
    Op.CONV_2D: "Conv2DOptions",
    Op.DEPTHWISE_CONV_2D: "DepthwiseConv2DOptions",
    Op.FULLY_CONNECTED: "FullyConnectedOptions",
    Op.LEAKY_RELU: "LeakyReluOptions",
    Op.MAX_POOL_2D: "Pool2DOptions",
    Op.MEAN: "ReducerOptions",
    Op.MUL: "MulOptions",
    Op.PACK: "PackOptions",
    Op.PAD: "PadOptions",
    Op.PADV2: "PadV2Options",
    Op.RESIZE_NEAREST_NEIGHBOR: "ResizeNearestNeighborOptions",
    Op.SHAPE: "ShapeOptions",
    Op.SLICE: "SliceOptions",
    Op.SOFTMAX: "SoftmaxOptions",
    Op.SQUEEZE: "SqueezeOptions",
    Op.STRIDED_SLICE: "StridedSliceOptions",
    Op.SUB: "SubOptions",
    Op.TRANSPOSE: "TransposeOptions",
}
S_X, S_W, S_Y = np.float32(0.0123), np.float32(0.0071), np.float32(0.0313)


@dataclass
class Network:
    """Writes a TFLite network: tensors and operators are collected, then packed."""

    tensors: list = field(default_factory=list)
    operators: list = field(default_factory=list)

    def tensor(self, name, shape, kind=Type.INT8, scale=None, zero_point=0, data=None, axis=0):
        self.tensors.append((name, shape, kind, scale, zero_point, data, axis))
        return len(self.tensors) - 1

    def operator(self, op, inputs, outputs, options=None, custom=None):
        self.operators.append((op, inputs, outputs, options, custom))

    def pack(self, inputs, outputs):
        b = flatbuffers.Builder(1024)
        buffers, buffer_of = [None], []
        for *_, data, _ in self.tensors:
            buffer_of.append(0 if data is None else len(buffers))
            if data is not None:
                buffers.append(np.ascontiguousarray(data).tobytes())
        packed_buffers = []
        for data in buffers:
            content = None if data is None else b.CreateNumpyVector(np.frombuffer(data, np.uint8))
            tflite.BufferStart(b)
            if content is not None:
                tflite.BufferAddData(b, content)
            packed_buffers.append(tflite.BufferEnd(b))
        tensors = [
            self._tensor(b, *tensor, buffer) for tensor, buffer in zip(self.tensors, buffer_of, strict=True)
        ]
        codes = []
        operators = [self._operator(b, codes, *operator) for operator in self.operators]
        parts = [
            self._vector(b, tensors, 4, b.PrependUOffsetTRelative),
            self._vector(b, inputs, 4, b.PrependInt32),
            self._vector(b, outputs, 4, b.PrependInt32),
            self._vector(b, operators, 4, b.PrependUOffsetTRelative),
        ]
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, parts[0])
        tflite.SubGraphAddInputs(b, parts[1])
        tflite.SubGraphAddOutputs(b, parts[2])
        tflite.SubGraphAddOperators(b, parts[3])
        subgraphs = self._vector(b, [tflite.SubGraphEnd(b)], 4, b.PrependUOffsetTRelative)
        packed_codes = []
        for op, custom in codes:
            name = b.CreateString(custom) if custom else None
            tflite.OperatorCodeStart(b)
            tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(op, 127))
            tflite.OperatorCodeAddBuiltinCode(b, op)
            tflite.OperatorCodeAddVersion(b, 4)
            if name is not None:
                tflite.OperatorCodeAddCustomCode(b, name)
            packed_codes.append(tflite.OperatorCodeEnd(b))
        packed_codes = self._vector(b, packed_codes, 4, b.PrependUOffsetTRelative)
        packed_buffers = self._vector(b, packed_buffers, 4, b.PrependUOffsetTRelative)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, packed_codes)
        tflite.ModelAddSubgraphs(b, subgraphs)
        tflite.ModelAddBuffers(b, packed_buffers)
        b.Finish(tflite.ModelEnd(b), b"TFL3")
        return bytes(b.Output())

    @staticmethod
    def _vector(b, values, width, prepend):
        b.StartVector(width, len(values), width)
        for value in reversed(values):
            prepend(value)
        return b.EndVector()

    def _tensor(self, b, name, shape, kind, scale, zero_point, _data, axis, buffer):
        quantisation = None
        if scale is not None:
            scales = b.CreateNumpyVector(np.atleast_1d(scale).astype(np.float32))
            zeros = b.CreateNumpyVector(np.atleast_1d(zero_point).astype(np.int64))
            tflite.QuantizationParametersStart(b)
            tflite.QuantizationParametersAddScale(b, scales)
            tflite.QuantizationParametersAddZeroPoint(b, zeros)
            tflite.QuantizationParametersAddQuantizedDimension(b, axis)
            quantisation = tflite.QuantizationParametersEnd(b)
        name = b.CreateString(name)
        shape = self._vector(b, shape, 4, b.PrependInt32)
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, shape)
        tflite.TensorAddType(b, kind)
        tflite.TensorAddBuffer(b, buffer)
        tflite.TensorAddName(b, name)
        if quantisation is not None:
            tflite.TensorAddQuantization(b, quantisation)
        return tflite.TensorEnd(b)

    def _operator(self, b, codes, op, inputs, outputs, options, custom):
        if (op, custom) not in codes:
            codes.append((op, custom))
        inputs = self._vector(b, inputs, 4, b.PrependInt32)
        outputs = self._vector(b, outputs, 4, b.PrependInt32)
        kind = OPTIONS.get(op)
        if kind is not None:
            packed = {}
            for key, value in (options or {}).items():
                is_list = isinstance(value, list | tuple)
                packed[key] = self._vector(b, value, 4, b.PrependInt32) if is_list else value
            getattr(tflite, f"{kind}Start")(b)
            for key, value in packed.items():
                camel = "".join(part.capitalize() for part in key.split("_"))
                camel = {"Activation": "FusedActivationFunction"}.get(camel, camel)
                getattr(tflite, f"{kind}Add{camel}")(b, value)
            options = getattr(tflite, f"{kind}End")(b)
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, codes.index((op, custom)))
        tflite.OperatorAddInputs(b, inputs)
        tflite.OperatorAddOutputs(b, outputs)
        if kind is not None:
            tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, kind))
            tflite.OperatorAddBuiltinOptions(b, options)
        return tflite.OperatorEnd(b)


def save(data, tmp_path):
    path = tmp_path / "network.tflite"
    path.write_bytes(data)
    return path


def check(data, tmp_path, inputs=100, distinct=4):
    """Import, and compare every tensor that both have with tflite-micro, for random or for given inputs."""
    micro = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    graph = load(save(data, tmp_path))
    info = graph.tensors[graph.input]
    rng = np.random.default_rng(0)
    if not isinstance(inputs, int):
        x = inputs
    elif info.format is None:
        x = rng.normal(0, 0.8, (inputs, *info.shape)).astype(np.float32)
    else:
        x = rng.integers(info.format.min, info.format.max + 1, (inputs, *info.shape))
        x = x.astype(golden.storage_type(info))
    tensors = golden.run(graph, x)
    interpreter = micro.Interpreter.from_bytes(
        data, intrepreter_config=micro.InterpreterConfig.kPreserveAllTensors, arena_size=1 << 18
    )
    for number, one in enumerate(x):
        interpreter.set_input(one, 0)
        interpreter.invoke()
        for name, tensor in graph.tensors.items():
            if tensor.index is not None and name != graph.input:
                expected = interpreter.GetTensor(tensor.index, 0)["tensor_data"]
                ours = tensors[name][number]
                if tensor.format == Int(32):  # an index, of 32 or 64 bits
                    expected = expected.astype(np.int32)
                np.testing.assert_array_equal(ours, expected, name, strict=True)
    assert np.unique(tensors[graph.output]).size >= distinct
    return graph


def operands(seed=1, shape=(N, K)):
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 128, shape).astype(np.int8), rng.integers(-3000, 3000, shape[0]).astype("<i4")


def fully_connected(
    *,
    x_shape=(1, K),
    y_shape=(1, N),
    scales=(S_X, S_W, S_Y),
    zero_points=(3, -7),
    bias="int32",
    **options,
):
    net = Network()
    w, b = operands()
    s_x, s_w, s_y = scales
    x = net.tensor("x", x_shape, scale=s_x, zero_point=zero_points[0])
    weights = net.tensor("w", w.shape, scale=s_w, zero_point=np.zeros(np.size(s_w)), data=w)
    inputs = [x, weights]
    if bias == "int32":
        inputs.append(net.tensor("b", b.shape, Type.INT32, s_x * s_w, np.zeros(np.size(s_w)), data=b))
    elif bias == "-1":
        inputs.append(-1)
    y = net.tensor("y", y_shape, scale=s_y, zero_point=zero_points[1])
    net.operator(Op.FULLY_CONNECTED, inputs, [y], options)
    return net.pack([x], [y])


CHANNEL_SCALES = (np.random.default_rng(5).uniform(0.2, 2, N) * S_W).astype(np.float32)


@pytest.mark.parametrize("scale", [S_W, CHANNEL_SCALES], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("bias", ["int32", "absent", "-1"])
@pytest.mark.parametrize(
    ("activation", "low", "high"),
    [
        (Activation.NONE, -128, 127),
        (Activation.RELU, -7, 127),
        (Activation.RELU_N1_TO_1, -39, 25),
        (Activation.RELU6, -7, 127),
    ],
)
def test_fully_connected(tmp_path, scale, bias, activation, low, high):
    graph = check(fully_connected(scales=(S_X, scale, S_Y), bias=bias, activation=activation), tmp_path)
    (layer,) = graph.nodes
    w, b = operands()
    np.testing.assert_array_equal(layer.weights, w)
    np.testing.assert_array_equal(layer.bias, b if bias == "int32" else 0 * b)
    assert (layer.quantiser.low, layer.quantiser.high) == (low, high)
    assert layer.quantiser.rounding == "tflite"
    assert layer.weight_format == Int(8)
    assert layer.name == "op00_fully_connected"
    assert graph.macs == K * N
    assert (graph.input, graph.output) == ("x", "y")
    assert graph.tensors["y"].index == len(graph.tensors) + (2 if bias == "int32" else 1) - 1
    assert graph.tensors["x"].scale == float(S_X)
    assert graph.tensors["x"].zero_point == 3


def test_relu6_clamps_above(tmp_path):
    (layer,) = check(
        fully_connected(scales=(S_X, S_W * 20, np.float32(0.07)), activation=Activation.RELU6), tmp_path
    ).nodes
    assert (layer.quantiser.low, layer.quantiser.high) == (-7, -7 + 86)


def test_ties(tmp_path):
    """Powers of two put many accumulators exactly between two codes."""
    graph = check(fully_connected(scales=(2.0**-6, 2.0**-7, 2.0**-6), zero_points=(0, 0)), tmp_path)
    (layer,) = graph.nodes
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (100, 1, K)).reshape(-1, K)
    acc = x @ layer.weights.T + layer.bias
    assert (acc % 128 == 64).any()
    assert (acc[acc % 128 == 64] < 0).any()


@pytest.mark.parametrize("scale", [1e-8, 1e-11])
def test_tiny_channel_scales(tmp_path, scale):
    scales = CHANNEL_SCALES.copy()
    scales[2] = scale
    graph = check(fully_connected(scales=(S_X, scales, S_Y)), tmp_path)
    (layer,) = graph.nodes
    assert (layer.quantiser.multiplier[2] == 0) == (scale == 1e-11)


def test_scales_are_multiplied_in_float64(tmp_path):
    """Biases count through a tie, where the product of scales in float32 would be seen."""
    micro = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    s_y = np.float32(S_Y * 7e4)
    factor = float(S_X) * float(S_W) / float(s_y)
    b = (int(60.5 / factor) + np.arange(400) - 200).astype("<i4")
    w = np.zeros((400, 4), np.int8)
    net = Network()
    x = net.tensor("x", (1, 4), scale=S_X)
    weights = net.tensor("w", w.shape, scale=S_W, data=w)
    bias = net.tensor("b", b.shape, Type.INT32, S_X * S_W, data=b)
    y = net.tensor("y", (1, 400), scale=s_y)
    net.operator(Op.FULLY_CONNECTED, [x, weights, bias], [y])
    data = net.pack([x], [y])
    interpreter = micro.Interpreter.from_bytes(data)
    interpreter.set_input(np.zeros((1, 4), np.int8), 0)
    interpreter.invoke()
    expected = interpreter.get_output(0)[0]
    graph = load(save(data, tmp_path))
    np.testing.assert_array_equal(golden.run(graph, np.zeros((1, 4), np.int8))["y"][0, 0], expected)
    in_float32 = requantise(b, *quantise_multiplier(float(S_X * S_W) / float(s_y)), "tflite")
    assert (in_float32 != expected).any()


@pytest.mark.parametrize(
    ("x_shape", "y_shape", "keep", "nodes"),
    [
        ((2, 3, K), (2, 3, N), True, [FullyConnected]),
        ((2, 3, K), (6, N), False, [Reshape, FullyConnected]),
        ((1, 3, 4), (1, N), False, [Reshape, FullyConnected]),
        ((2, 3, 4), (2, N), False, [Reshape, FullyConnected]),
        ((5, K), (5, N), False, [FullyConnected]),
        ((5, K), (5, N), True, [FullyConnected]),
    ],
)
def test_leading_axes(tmp_path, x_shape, y_shape, keep, nodes):
    graph = check(fully_connected(x_shape=x_shape, y_shape=y_shape, keep_num_dims=keep), tmp_path, inputs=10)
    assert [type(node) for node in graph.nodes] == nodes
    assert graph.macs == np.prod(y_shape) * K


def two_layers(names=("x", "flat", "hidden", "y")):
    """Floats are quantised, reshaped, multiplied twice and dequantised."""
    net = Network()
    real = net.tensor("real", (1, 3, 4), Type.FLOAT32)
    x = net.tensor(names[0], (1, 3, 4), scale=S_X, zero_point=3)
    shape = net.tensor("shape", (2,), Type.INT32, data=np.array([1, K], "<i4"))
    flat = net.tensor(names[1], (1, K), scale=S_X, zero_point=3)
    w, b = operands()
    weights = net.tensor("w", w.shape, scale=S_W, data=w)
    bias = net.tensor("b", b.shape, Type.INT32, S_X * S_W, data=b)
    hidden = net.tensor(names[2], (1, N), scale=S_Y, zero_point=-128)
    w2, b2 = operands(2, (4, N))
    weights2 = net.tensor("w2", w2.shape, scale=S_W, data=w2)
    bias2 = net.tensor("b2", b2.shape, Type.INT32, S_Y * S_W, data=b2)
    y = net.tensor(names[3], (1, 4), scale=S_Y * 3, zero_point=5)
    out = net.tensor("out", (1, 4), Type.FLOAT32)
    net.operator(Op.QUANTIZE, [real], [x])
    net.operator(Op.RESHAPE, [x, shape], [flat])
    net.operator(Op.FULLY_CONNECTED, [flat, weights, bias], [hidden], {"activation": Activation.RELU})
    net.operator(Op.FULLY_CONNECTED, [hidden, weights2, bias2], [y])
    net.operator(Op.DEQUANTIZE, [y], [out])
    return net.pack([real], [out])


def test_float_edges_and_reshape(tmp_path):
    graph = check(two_layers(), tmp_path)
    assert [type(node) for node in graph.nodes] == [
        Quantize,
        Reshape,
        FullyConnected,
        FullyConnected,
        Dequantize,
    ]
    assert graph.nodes[0].rounding == "tflite"
    assert list(graph.tensors) == ["real", "x", "flat", "hidden", "y", "out"]


def test_quantize_rounds_ties_away_from_zero(tmp_path):
    micro = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    net = Network()
    values = np.array([-1e9, -3.5, -2.5, -1.5, -0.5, -0.49999997, 0.49999997, 0.5, 1.5, 2.5, 300], "f4")
    real = net.tensor("real", values.shape, Type.FLOAT32)
    x = net.tensor("x", values.shape, scale=1.0, zero_point=10)
    net.operator(Op.QUANTIZE, [real], [x])
    data = net.pack([real], [x])
    interpreter = micro.Interpreter.from_bytes(data)
    interpreter.set_input(values, 0)
    interpreter.invoke()
    ours = golden.run(load(save(data, tmp_path)), values)["x"][0]
    np.testing.assert_array_equal(ours, interpreter.get_output(0))
    assert ours.tolist() == [-128, 6, 7, 8, 9, 10, 10, 11, 12, 13, 127]


def test_names_are_made_unique(tmp_path):
    graph = load(save(two_layers(("same", "", "same", "y")), tmp_path))
    assert list(graph.tensors) == ["real", "same_1", "tensor_3", "same_6", "y", "out"]
    assert [tensor.index for tensor in graph.tensors.values()] == [0, 1, 3, 6, 9, 10]


def test_reference_network(shared_data):
    """Every tensor of every recorded run."""
    graph = load(shared_data / "mlperf_tiny" / "ad_autoencoder_int8.tflite")
    recorded = np.load(shared_data / "mlperf_tiny" / "golden_ad_int8.npz")
    tensors = golden.run(graph, recorded["input"])
    by_index = {tensor.index: name for name, tensor in graph.tensors.items()}
    compared = {graph.input}
    for key in recorded:
        name = {"input": graph.input, "output": graph.output}.get(key)
        if name is None:
            name = by_index[int(re.fullmatch(r"op\d\d_fully_connected_t(\d+)", key)[1])]
        np.testing.assert_array_equal(tensors[name], recorded[key], key, strict=True)
        compared.add(name)
    assert compared == set(graph.tensors)
    assert len(graph.nodes) == 10
    assert graph.macs == 264192
    assert graph.name == "ad_autoencoder_int8"


@pytest.mark.parametrize(
    ("file", "macs", "kinds"),
    [
        (
            "ic_resnet8_int8",
            12501632,
            {Convolution: 9, Binary: 3, AveragePool: 1, Reshape: 1, FullyConnected: 1, Softmax: 1},
        ),
        (
            "kws_dscnn_int8",
            2656768,
            {Convolution: 9, AveragePool: 1, Reshape: 1, FullyConnected: 1, Softmax: 1},
        ),
    ],
)
def test_convolutional_reference_networks(shared_data, file, macs, kinds):
    """What they consist of; tests/gen/test_networks.py compares every tensor."""
    graph = load(shared_data / "mlperf_tiny" / f"{file}.tflite")
    assert Counter(type(node) for node in graph.nodes) == kinds
    assert sum(node.depthwise for node in graph.nodes if isinstance(node, Convolution)) == (
        4 if file.startswith("kws") else 0
    )
    assert graph.macs == macs
    assert [type(node) for node in graph.tail] == [Softmax]


# Convolutions


def convolution(
    *,
    op=Op.CONV_2D,
    x_shape=(1, 9, 8, 5),
    kernel=(3, 3),
    channels=6,
    groups=1,
    stride=(1, 1),
    dilation=(1, 1),
    padding=Padding.SAME,
    bias=True,
    per_channel=True,
    zero_points=(3, -7),
    scales=(S_X, S_W, S_Y),
    y_shape=None,
    net=None,
    **options,
):
    """One convolution; depthwise with `channels` outputs."""
    depthwise = op == Op.DEPTHWISE_CONV_2D
    rng = np.random.default_rng(7)
    c = x_shape[3]
    w_shape = (1, *kernel, channels) if depthwise else (channels, *kernel, c // groups)
    w = rng.integers(-128, 128, w_shape).astype(np.int8)
    s_x, s_w, s_y = scales
    s_w = (rng.uniform(0.2, 2, channels) * s_w).astype(np.float32) if per_channel else s_w
    net = net or Network()
    x = net.tensor("x", x_shape, scale=s_x, zero_point=zero_points[0])
    axis = 3 if depthwise else 0
    inputs = [x, net.tensor("w", w_shape, scale=s_w, zero_point=np.zeros(np.size(s_w)), data=w, axis=axis)]
    if bias:
        b = rng.integers(-3000, 3000, channels).astype("<i4")
        scale = (s_x * s_w).astype(np.float32)
        zeros = np.zeros(np.size(s_w))
        inputs.append(net.tensor("b", (channels,), Type.INT32, scale, zeros, data=b))
    if y_shape is None:
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        shrink = spans if padding == Padding.VALID else (1, 1)
        sides = [(n - k) // s + 1 for n, k, s in zip(x_shape[1:3], shrink, stride, strict=True)]
        y_shape = (x_shape[0], *sides, channels)
    y = net.tensor("y", y_shape, scale=s_y, zero_point=zero_points[1])
    options = {
        "padding": padding,
        "stride_h": stride[0],
        "stride_w": stride[1],
        "dilation_h_factor": dilation[0],
        "dilation_w_factor": dilation[1],
        **({"depth_multiplier": channels // c} if depthwise else {}),
        **options,
    }
    net.operator(op, inputs, [y], options)
    return net.pack([x], [y])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"padding": Padding.VALID},
        {"kernel": (1, 1)},
        {"kernel": (2, 4), "stride": (2, 3)},
        {"kernel": (2, 4), "stride": (2, 3), "padding": Padding.VALID},
        {"stride": (2, 2)},
        {"stride": (4, 5)},
        {"kernel": (1, 1), "stride": (2, 2)},
        {"kernel": (5, 5), "x_shape": (1, 3, 4, 2)},
        {"dilation": (2, 3)},
        {"dilation": (2, 2), "padding": Padding.VALID},
        {"x_shape": (1, 7, 6, 6), "groups": 3},
        {"x_shape": (1, 7, 6, 6), "groups": 6, "channels": 12},
        {"x_shape": (1, 1, 30, 4), "kernel": (1, 5), "stride": (1, 2)},
        {"x_shape": (1, 10, 4, 1), "kernel": (10, 4), "stride": (2, 2), "channels": 8},
        {"bias": False},
        {"per_channel": False},
        {"activation": Activation.RELU},
        {"activation": Activation.RELU6, "scales": (S_X, S_W * 30, np.float32(0.07))},
        {"activation": Activation.RELU_N1_TO_1},
        {"op": Op.DEPTHWISE_CONV_2D, "channels": 5},
        {"op": Op.DEPTHWISE_CONV_2D, "channels": 10, "stride": (2, 1)},
        {"op": Op.DEPTHWISE_CONV_2D, "channels": 15, "padding": Padding.VALID},
        {"op": Op.DEPTHWISE_CONV_2D, "channels": 7, "x_shape": (1, 8, 9, 1)},
        {"op": Op.DEPTHWISE_CONV_2D, "channels": 5, "dilation": (2, 1), "per_channel": False},
        {"op": Op.DEPTHWISE_CONV_2D, "channels": 5, "activation": Activation.RELU6, "bias": False},
    ],
    ids=str,
)
def test_convolution(tmp_path, changes):
    graph = check(convolution(**changes), tmp_path, inputs=20)
    (layer,) = graph.nodes
    assert isinstance(layer, Convolution)
    assert layer.weight_format == Int(8)
    assert layer.groups == (graph.tensors["x"].shape[3] if "op" in changes else changes.get("groups", 1))
    assert graph.macs == np.prod(graph.tensors["y"].shape[1:3]) * layer.weights.size


def operator(op, shapes, *, scales=None, zero_points=None, kinds=None, constants=(), **options):
    """One operator on int8 tensors ``x``, ``x1``, ..., with constants behind them, to ``y``.

    The network's input is ``x``; further tensors are other views of it, by way of QUANTIZE.
    """
    net = Network()
    *x_shapes, y_shape = shapes
    scales = scales or [S_X] * len(shapes)
    zero_points = zero_points or [3] * len(shapes)
    kinds = kinds or [Type.INT8] * len(shapes)
    inputs = [
        net.tensor(f"x{number or ''}", shape, kinds[number], scales[number], zero_points[number])
        for number, shape in enumerate(x_shapes)
    ]
    first = net.tensor("x0", x_shapes[0], kinds[0], S_X * 2, -1) if len(x_shapes) > 1 else inputs[0]
    if len(x_shapes) > 1:
        for index in inputs:
            net.operator(Op.QUANTIZE, [first], [index])
    for number, (data, kind) in enumerate(constants):
        scale = None if kind in (Type.INT32, Type.INT64) else S_X
        zero_point = 0 if scale is None else 3
        inputs.append(net.tensor(f"c{number}", data.shape, kind, scale, zero_point, data))
    scale = None if kinds[-1] in (Type.INT32, Type.INT64) else scales[-1]
    output = net.tensor("y", y_shape, kinds[-1], scale, zero_points[-1])
    net.operator(op, inputs, [output], options)
    return net.pack([first], [output])


def integers(*values, kind=Type.INT32):
    return np.array(values, "<i4" if kind == Type.INT32 else "<i8"), kind


# Pooling


@pytest.mark.parametrize("op", [Op.MAX_POOL_2D, Op.AVERAGE_POOL_2D])
@pytest.mark.parametrize(
    ("x_shape", "kernel", "stride", "padding", "y_shape"),
    [
        ((1, 8, 6, 3), (2, 2), (2, 2), Padding.VALID, (1, 4, 3, 3)),
        ((1, 9, 7, 3), (3, 3), (2, 2), Padding.SAME, (1, 5, 4, 3)),
        ((1, 9, 7, 3), (3, 2), (1, 3), Padding.SAME, (1, 9, 3, 3)),
        ((1, 9, 7, 3), (4, 5), (3, 1), Padding.VALID, (1, 2, 3, 3)),
        ((1, 25, 5, 8), (25, 5), (25, 5), Padding.VALID, (1, 1, 1, 8)),
        ((1, 1, 20, 4), (1, 3), (1, 2), Padding.SAME, (1, 1, 10, 4)),
    ],
)
@pytest.mark.parametrize("activation", [Activation.NONE, Activation.RELU, Activation.RELU6])
def test_pooling(tmp_path, op, x_shape, kernel, stride, padding, y_shape, activation):
    data = operator(
        op,
        [x_shape, y_shape],
        scales=[np.float32(0.08)] * 2,
        zero_points=[-20] * 2,
        padding=padding,
        filter_height=kernel[0],
        filter_width=kernel[1],
        stride_h=stride[0],
        stride_w=stride[1],
        activation=activation,
    )
    # The greatest of many codes is often beyond the clamp.
    graph = check(data, tmp_path, inputs=20, distinct=1 if op == Op.MAX_POOL_2D else 4)
    pool = graph.nodes[0]
    assert type(pool) is (MaxPool if op == Op.MAX_POOL_2D else AveragePool)
    clamped = op == Op.MAX_POOL_2D and activation != Activation.NONE
    assert [type(node) for node in graph.nodes[1:]] == ([Lookup] if clamped else [])


@pytest.mark.parametrize(
    ("x_shape", "axes", "y_shape", "keep"),
    [
        ((1, 7, 5, 6), (1, 2), (1, 1, 1, 6), True),
        ((1, 7, 5, 6), (2, 1), (1, 1, 1, 6), True),
        ((1, 7, 5, 6), (1, 2), (1, 6), False),
        ((1, 7, 5, 6), (-3, -2), (1, 6), False),
        ((1, 8, 8, 6), (1, 2), (1, 6), False),
        ((1, 12, 6), (1,), (1, 6), False),
        ((1, 12, 6), (1,), (1, 1, 6), True),
        ((1, 7, 5, 6), (1,), (1, 5, 6), False),
        ((1, 7, 5, 6), (2,), (1, 7, 1, 6), True),
    ],
)
@pytest.mark.parametrize(
    ("scales", "zero_points"),
    [((S_X, S_X), (3, 3)), ((S_X, S_X * np.float32(0.3)), (-20, 5)), ((S_X, S_X * 3), (-100, -128))],
)
def test_mean(tmp_path, x_shape, axes, y_shape, keep, scales, zero_points):
    data = operator(
        Op.MEAN,
        [x_shape, y_shape],
        scales=scales,
        zero_points=zero_points,
        constants=[integers(*axes)],
        keep_dims=keep,
    )
    graph = check(data, tmp_path, inputs=200)
    assert [type(node) for node in graph.nodes] == [AveragePool]


# Elementwise

EVERY_PAIR = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))).astype(np.int8)


@pytest.mark.parametrize("op", [Op.ADD, Op.SUB, Op.MUL], ids=["add", "sub", "mul"])
@pytest.mark.parametrize(
    ("scales", "zero_points", "activation"),
    [
        ((0.05, 0.05, 0.05), (0, 0, 0), Activation.NONE),
        ((0.031, 0.0123, 0.047), (3, -128, -7), Activation.NONE),
        ((0.031, 0.9, 0.33), (-77, 12, -128), Activation.RELU),
        ((0.0004, 0.021, 0.05), (0, 127, 5), Activation.RELU6),
        ((0.25, 0.5, 0.125), (1, 2, 3), Activation.RELU_N1_TO_1),
        ((0.7, 0.011, 0.09), (-128, -128, 0), Activation.NONE),
    ],
)
def test_every_pair(tmp_path, op, scales, zero_points, activation):
    """Every pair of codes: the operands are halves of one input."""
    micro = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    scales = [np.float32(scale) for scale in scales]
    net = Network()
    a = net.tensor("a", (256, 256), scale=scales[0], zero_point=zero_points[0])
    b = net.tensor("b", (256, 256), scale=scales[1], zero_point=zero_points[1])
    y = net.tensor("y", (256, 256), scale=scales[2], zero_point=zero_points[2])
    net.operator(op, [a, b], [y], {"activation": activation})
    interpreter = micro.Interpreter.from_bytes(net.pack([a, b], [y]), arena_size=1 << 20)
    for position in range(2):
        interpreter.set_input(EVERY_PAIR[position], position)
    interpreter.invoke()
    expected = interpreter.get_output(0)
    # The importer takes one input: here the second operand comes of the first, but the table is the same.
    net.operators.insert(0, (Op.QUANTIZE, [a], [b], None, None))
    graph = load(save(net.pack([a], [y]), tmp_path))
    table = graph.nodes[1].table
    np.testing.assert_array_equal(
        table[EVERY_PAIR[0].astype(int) + 128, EVERY_PAIR[1].astype(int) + 128], expected
    )
    assert np.unique(expected).size > 1


@pytest.mark.parametrize("op", [Op.ADD, Op.SUB, Op.MUL], ids=["add", "sub", "mul"])
def test_binary(tmp_path, op):
    shapes = [(1, 3, 2, 4)] * 3
    graph = check(operator(op, shapes, scales=[0.1, 0.03, 0.02], zero_points=[5, -9, 2]), tmp_path)
    assert [type(node) for node in graph.nodes] == [Lookup, Lookup, Binary]
    assert graph.nodes[2].inputs == ("x", "x1")
    # An operand with further axes of one element.
    shapes = [(1, 3, 2, 4), (1, 3, 2, 4), (3, 2, 4)]
    graph = load(save(operator(op, shapes), tmp_path))
    assert [type(node) for node in graph.nodes] == [Lookup, Lookup, Reshape, Reshape, Binary]


@pytest.mark.parametrize("op", [Op.ADD, Op.SUB, Op.MUL], ids=["add", "sub", "mul"])
@pytest.mark.parametrize("shape", [(1,), (1, 3, 4), (1, 1, 4)])
@pytest.mark.parametrize("first", [False, True])
def test_constant_operand(tmp_path, op, shape, first):
    net = Network()
    x = net.tensor("x", (1, 3, 4), scale=np.float32(0.03), zero_point=-9)
    c = net.tensor("c", shape, scale=np.float32(0.01), zero_point=4, data=np.full(shape, 77, np.int8))
    y = net.tensor("y", (1, 3, 4), scale=np.float32(0.02), zero_point=2)
    net.operator(op, [c, x] if first else [x, c], [y], {})
    graph = check(net.pack([x], [y]), tmp_path)
    assert [type(node) for node in graph.nodes] == [Lookup]
    assert set(graph.tensors) == {"x", "y"}


EVERY_CODE = np.arange(-128, 128).astype(np.int8).reshape(1, 256)


@pytest.mark.parametrize("zero_point", [-128, -3, 0, 100])
@pytest.mark.parametrize("scale", [1e-4, 0.01, 0.0313, 1 / 16, 0.3, 2.5])
@pytest.mark.parametrize(
    ("op", "output", "options"),
    [
        (Op.RELU, (0.6, -128), {}),
        (Op.RELU, (2.3, 17), {}),
        (Op.RELU6, None, {}),
        (Op.LEAKY_RELU, (0.9, 5), {"alpha": 0.1}),
        (Op.LEAKY_RELU, (1.7, -100), {"alpha": -0.73}),
        (Op.LEAKY_RELU, (0.4, 0), {"alpha": 1.5}),
        (Op.HARD_SWISH, (1.0, -10), {}),
        (Op.HARD_SWISH, (0.3, -128), {}),
        (Op.LOGISTIC, (1 / 256, -128), {}),
        (Op.TANH, (1 / 128, 0), {}),
        (Op.QUANTIZE, (0.31, 7), {}),
        (Op.QUANTIZE, (3.7, -7), {}),
    ],
)
def test_every_code(tmp_path, op, output, options, scale, zero_point):
    scale = np.float32(scale)
    if output is None:
        output = scale, zero_point
    elif op not in (Op.LOGISTIC, Op.TANH):
        output = np.float32(output[0]) * scale, output[1]
    shapes, scales = [(1, 256)] * 2, [scale, np.float32(output[0])]
    data = operator(op, shapes, scales=scales, zero_points=[zero_point, output[1]], **options)
    (node,) = check(data, tmp_path, EVERY_CODE[None], distinct=1).nodes
    assert isinstance(node, Lookup)


def test_relu_n1_to_1(tmp_path):
    """tflite-micro does not have it; with one quantisation it is a clamp."""
    shapes = [(1, 256)] * 2
    data = operator(Op.RELU_N1_TO_1, shapes, scales=[np.float32(0.02)] * 2, zero_points=[7] * 2)
    tensors = golden.run(load(save(data, tmp_path)), EVERY_CODE)
    np.testing.assert_array_equal(tensors["y"][0], np.clip(EVERY_CODE, 7 - 50, 7 + 50))


@pytest.mark.parametrize(
    ("kinds", "scales", "zero_points"),
    [
        ((Type.UINT8, Type.INT8), (0.1, 0.1), (128, 0)),
        ((Type.UINT8, Type.INT8), (0.1, 0.13), (3, -100)),
        ((Type.INT8, Type.UINT8), (0.1, 0.08), (-100, 3)),
    ],
)
def test_unsigned_edges(tmp_path, kinds, scales, zero_points):
    shapes = [(1, 256)] * 2
    x = EVERY_CODE if kinds[0] == Type.INT8 else (EVERY_CODE.astype(np.int64) + 128).astype(np.uint8)
    scales = [np.float32(scale) for scale in scales]
    data = operator(Op.QUANTIZE, shapes, kinds=kinds, scales=scales, zero_points=zero_points)
    graph = check(data, tmp_path, x[None])
    assert graph.tensors["y"].format == Int(8, signed=kinds[1] == Type.INT8)


# Moving codes


@pytest.mark.parametrize("axis", [3, -1, 1, 2])
def test_concatenation(tmp_path, axis):
    net = Network()
    x = net.tensor("x", (1, 2, 3, 4), scale=S_X, zero_point=3)
    double = net.tensor("double", (1, 2, 3, 4), scale=S_X / 2, zero_point=5)
    same = net.tensor("same", (1, 2, 3, 4), scale=S_X / 2, zero_point=5)
    shape = [1, 2, 3, 4]
    shape[axis] *= 3
    y = net.tensor("y", tuple(shape), scale=S_X / 2, zero_point=5)
    net.operator(Op.QUANTIZE, [x], [double])
    net.operator(Op.RELU, [double], [same])
    net.operator(Op.CONCATENATION, [double, same, double], [y], {"axis": axis})
    graph = check(net.pack([x], [y]), tmp_path)
    assert graph.nodes[2].axis == axis % 4


@pytest.mark.parametrize(("small", "sizes"), [((2, 2), (4, 6)), ((3, 2), (9, 2)), ((1, 5), (3, 10))])
@pytest.mark.parametrize("half_pixel_centers", [False, True])
def test_repeated_pixels(tmp_path, small, sizes, half_pixel_centers):
    data = operator(
        Op.RESIZE_NEAREST_NEIGHBOR,
        [(1, *small, 4), (1, *sizes, 4)],
        constants=[integers(*sizes)],
        half_pixel_centers=half_pixel_centers,
    )
    graph = check(data, tmp_path, inputs=5)
    (node,) = graph.nodes
    assert isinstance(node, Upsample)
    assert node.factors == (sizes[0] // small[0], sizes[1] // small[1])


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((6, 5), {}, "does not repeat each of 2 pixels as often, to 5"),
        ((9, 4), {"align_corners": True}, "does not repeat each of 3 pixels as often, to 9"),
        ((6, 4), {"given": (6, 6)}, r"makes \(6, 4\), but its size is \[6, 6\]"),
        ((6, 4), {"zero_points": [3, 4]}, "'x' and 'y' differ in scale or zero point"),
    ],
)
def test_refused_resize(tmp_path, sizes, options, message):
    given = integers(*options.get("given", sizes))
    options = {key: value for key, value in options.items() if key != "given"}
    data = operator(Op.RESIZE_NEAREST_NEIGHBOR, [(1, 3, 2, 4), (1, *sizes, 4)], constants=[given], **options)
    refused(data, tmp_path, f"RESIZE_NEAREST_NEIGHBOR, output 'y'.*{message}")


@pytest.mark.parametrize("before", [1, 2, 5, 7])
@pytest.mark.parametrize(("corners", "half"), [(False, False), (True, False), (False, True)])
def test_nearest_pixels(before, corners, half):
    """What every output pixel is a copy of, as the runtime has it."""
    micro = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    for after in (before, before + 1, 2 * before, 3 * before, 49 * before):
        data = operator(
            Op.RESIZE_NEAREST_NEIGHBOR,
            [(1, before, 1, 1), (1, after, 1, 1)],
            constants=[integers(after, 1)],
            align_corners=corners,
            half_pixel_centers=half,
        )
        interpreter = micro.Interpreter.from_bytes(data)
        interpreter.set_input(np.arange(before, dtype=np.int8).reshape(1, before, 1, 1), 0)
        interpreter.invoke()
        found = fixed_point.nearest(before, after, align_corners=corners, half_pixel_centres=half)
        np.testing.assert_array_equal(found, interpreter.get_output(0).reshape(-1))


def test_slice(tmp_path):
    constants = [integers(0, 1, 0, 2), integers(1, 3, 2, -1)]
    graph = check(operator(Op.SLICE, [(1, 5, 2, 8), (1, 3, 2, 6)], constants=constants), tmp_path, inputs=5)
    (node,) = graph.nodes
    assert isinstance(node, Pad)
    assert node.padding == ((0, 0), (-1, -1), (0, 0), (-2, 0))
    constants = [integers(0, 3, 0, 2), integers(1, 3, 2, -1)]
    data = operator(Op.SLICE, [(1, 5, 2, 8), (1, 3, 2, 6)], constants=constants)
    refused(data, tmp_path, r"takes \(1, 3, 2, 6\) from \[0, 3, 0, 2\] on of \(1, 5, 2, 8\)")


def test_joins_and_averages_on_an_engine(tmp_path):
    """From the file to the RTL: an average with padding, and 12 and 20 channels joined."""
    net = Network()
    first = net.tensor("x", (1, 3, 4, 2), scale=S_X, zero_point=3)
    parts = []
    for number, count in enumerate((12, 20)):
        w, b = operands(seed=number, shape=(count, 2))
        weights = net.tensor(f"w{number}", (count, 1, 1, 2), scale=S_W, data=w)
        bias = net.tensor(f"b{number}", (count,), Type.INT32, S_X * S_W, data=b)
        parts.append(net.tensor(f"part{number}", (1, 3, 4, count), scale=S_Y, zero_point=-5))
        options = {"stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1}
        net.operator(Op.CONV_2D, [first, weights, bias], [parts[-1]], options)
    joined = net.tensor("joined", (1, 3, 4, 32), scale=S_Y, zero_point=-5)
    net.operator(Op.CONCATENATION, parts, [joined], {"axis": 3})
    y = net.tensor("y", (1, 2, 4, 32), scale=S_Y, zero_point=-5)
    window = {"filter_height": 3, "filter_width": 3, "stride_h": 2, "stride_w": 1, "padding": Padding.SAME}
    net.operator(Op.AVERAGE_POOL_2D, [joined], [y], window)
    graph = check(net.pack([first], [y]), tmp_path, inputs=20)
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
    assert done.tensors_compared == 4


@pytest.mark.parametrize("op", [Op.PAD, Op.PADV2])
@pytest.mark.parametrize("kind", [Type.INT32, Type.INT64])
def test_pad(tmp_path, op, kind):
    constants = [integers(*[(0, 0), (1, 2), (0, 3), (0, 0)], kind=kind)]
    if op == Op.PADV2:
        constants.append((np.array([-77], np.int8), Type.INT8))
    data = operator(op, [(1, 4, 3, 2), (1, 7, 6, 2)], constants=constants)
    # tflite-micro takes paddings of 32 bits only.
    graph = check(data, tmp_path) if kind == Type.INT32 else load(save(data, tmp_path))
    (node,) = graph.nodes
    assert (node.padding, node.value) == (((0, 0), (1, 2), (0, 3), (0, 0)), -77 if op == Op.PADV2 else 3)


@pytest.mark.parametrize(
    ("op", "shapes", "constants", "options", "kind"),
    [
        (Op.SQUEEZE, [(1, 1, 5, 4), (1, 5, 4)], [], {"squeeze_dims": [1]}, Reshape),
        (Op.EXPAND_DIMS, [(1, 5, 4), (1, 1, 5, 4)], [integers(1)], {}, Reshape),
        (Op.TRANSPOSE, [(1, 3, 5, 4), (1, 5, 3, 4)], [integers(0, 2, 1, 3)], {}, Transpose),
        (Op.TRANSPOSE, [(1, 3, 5, 4), (4, 3, 5, 1)], [integers(3, 1, 2, 0)], {}, Transpose),
    ],
)
def test_other_shapes(tmp_path, op, shapes, constants, options, kind):
    graph = check(operator(op, shapes, constants=constants, **options), tmp_path, inputs=5)
    assert [type(node) for node in graph.nodes] == [kind]


@pytest.mark.parametrize("kept", [False, True])
def test_computed_shape(tmp_path, kept):
    """As Keras flattens: with a shape that is computed from the input's own."""
    net = Network()
    x = net.tensor("x", (1, 3, 4), scale=S_X)
    begin, end = (net.tensor(f"c{n}", (1,), Type.INT32, data=np.array([n], "<i4")) for n in range(2))
    length = net.tensor("length", (), Type.INT32, data=np.array(12, "<i4"))
    shape = net.tensor("shape", (3,), Type.INT32)
    batch = net.tensor("batch", (), Type.INT32)
    target = net.tensor("target", (2,), Type.INT32)
    y = net.tensor("y", (1, 12), scale=S_X)
    net.operator(Op.SHAPE, [x], [shape], {"out_type": Type.INT32})
    net.operator(Op.STRIDED_SLICE, [shape, begin, end, end], [batch], {"shrink_axis_mask": 1})
    net.operator(Op.PACK, [batch, length], [target], {"values_count": 2, "axis": 0})
    net.operator(Op.RESHAPE, [x, target], [y])
    if kept:
        refused(net.pack([x], [target]), tmp_path, r"operator 0 \(SHAPE, output 'shape'\): SHAPE is not supp")
    else:
        graph = check(net.pack([x], [y]), tmp_path)
        assert [type(node) for node in graph.nodes] == [Reshape]


# On the host


@pytest.mark.parametrize("beta", [1.0, 0.3, 2.5])
@pytest.mark.parametrize("scale", [1e-4, 0.004, 0.0625, 0.17, 1.3, 20.0])
@pytest.mark.parametrize("shape", [(1, 2), (1, 10), (1, 3, 5), (1, 300)])
def test_softmax(tmp_path, shape, scale, beta):
    scales = [np.float32(scale), np.float32(1 / 256)]
    data = operator(Op.SOFTMAX, [shape] * 2, scales=scales, zero_points=[7, -128], beta=beta)
    graph = check(data, tmp_path, distinct=1)
    assert graph.tail == graph.nodes
    # One code among many that are all the same.
    x = np.repeat(np.arange(-128, 128), np.prod(shape)).reshape(256, *shape)
    x[..., 0] = -x[..., 0] - 1
    check(data, tmp_path, x.astype(np.int8), distinct=1)


@pytest.mark.parametrize("kind", [Type.INT32, Type.INT64])
@pytest.mark.parametrize("axis", [1, -1, 2])
def test_arg_max(tmp_path, kind, axis):
    shape = (1, 4, 6)
    result = tuple(np.delete(shape, axis))
    data = operator(
        Op.ARG_MAX,
        [shape, result],
        kinds=[Type.INT8, kind],
        constants=[integers(axis)],
        output_type=kind,
    )
    # Few different codes, so that many are equal.
    x = np.random.default_rng(0).integers(-2, 2, (100, *shape)).astype(np.int8)
    if kind == Type.INT64:
        graph = load(save(data, tmp_path))  # not in tflite-micro
        np.testing.assert_array_equal(golden.run(graph, x)["y"], x.argmax(axis % 3 + 1))
    else:
        graph = check(data, tmp_path, x)
    assert graph.tensors["y"].format == Int(32)


# What is refused


def refused(data, tmp_path, message):
    with pytest.raises(NetworkError, match=message) as caught:
        load(save(data, tmp_path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("op", "custom", "message"),
    [
        (
            Op.MIRROR_PAD,
            None,
            r"operator 1 \(MIRROR_PAD, output 'z'\): MIRROR_PAD is not supported; supported",
        ),
        (Op.GELU, None, r"operator 1 \(GELU, output 'z'\): GELU is not supported"),
        (Op.CUSTOM, "Mine", r"operator 1 \(custom operator Mine, output 'z'\): custom operator Mine is not"),
        (9999, None, r"operator 1 \(number 9999, output 'z'\): number 9999 is not supported"),
        (Op.RESHAPE, None, r"node 'op01_reshape': changes the format, scale or zero point"),
    ],
)
def test_refused_operator(tmp_path, op, custom, message):
    net = Network()
    w, _ = operands()
    x = net.tensor("x", (1, K), scale=S_X)
    weights = net.tensor("w", w.shape, scale=S_W, data=w)
    y = net.tensor("y", (1, N), scale=S_Y)
    z = net.tensor("z", (1, N), scale=S_Y * 2)
    net.operator(Op.FULLY_CONNECTED, [x, weights], [y])
    net.operator(op, [y], [z], custom=custom)
    refused(net.pack([x], [z]), tmp_path, message)


def refused_maps(position, **changes):
    """A network of one convolution with some properties of one tensor changed: x, w, b, y."""
    net = Network()
    convolution(net=net)
    keys = ("name", "shape", "kind", "scale", "zero_point", "data", "axis")
    net.tensors[position] = tuple({**dict(zip(keys, net.tensors[position], strict=True)), **changes}.values())
    return net.pack([0], [3])


@pytest.mark.parametrize(
    ("position", "changes", "message"),
    [
        (0, {"shape": (9, 8, 5)}, r"operator 0 \(CONV_2D, output 'y'\): tensor 'x' has 3 axes, not 4"),
        (0, {"shape": (2, 9, 8, 5)}, "tensor 'x' has a batch of 2; convert the network with a batch of 1"),
        (0, {"shape": (1, 9, 8, 6)}, r"its input of 6 channels does not match its weights \(6, 3, 3, 5\)"),
        (0, {"shape": (1, 9, -1, 5)}, r"tensor 'x': shape \(1, 9, -1, 5\) has an axis without elements"),
        (0, {"shape": (1, 10, 8, 5)}, r"node 'op00_conv_2d': makes \(1, 10, 8, 6\) of batch"),
        (0, {"kind": Type.INT16}, "tensor 'x' is INT16, not INT8"),
        (0, {"kind": Type.UINT8}, "tensor 'x' is UINT8, not INT8"),
        (0, {"kind": Type.FLOAT32}, "tensor 'x' is FLOAT32, not INT8"),
        (0, {"scale": None}, "tensor 'x' does not have one scale and one zero point"),
        (0, {"data": np.zeros(360, np.int8)}, "its input 'x' is constant; fold constants before exporting"),
        (1, {"axis": 3}, "weights 'w' have 6 scales for 6 output channels"),
        (1, {"shape": (6, 3, 15)}, r"weights 'w' of shape \(6, 3, 15\) do not match their 270 bytes"),
        (2, {"data": np.zeros(5, "<i4")}, "bias 'b' has 20 bytes for 6 output channels"),
        (3, {"shape": (1, 9, 8, 7)}, r"makes \(1, 9, 8, 6\) of batch, .* but its output has \(1, 9, 8, 7\)"),
        (3, {"kind": Type.UINT8, "zero_point": 7}, "tensor 'y' is UINT8, not INT8"),
    ],
)
def test_refused_maps(tmp_path, position, changes, message):
    refused(refused_maps(position, **changes), tmp_path, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride_h": 0}, "Stride 0 x 1 is not possible"),
        ({"dilation_w_factor": -1}, "Dilation.* 1 x -1 is not possible"),
        ({"padding": 7}, "padding 7 is neither SAME nor VALID"),
        ({"activation": Activation.TANH}, "fused activation TANH is not supported; use RELU or RELU6"),
        ({"kernel": (10, 1), "padding": Padding.VALID, "y_shape": (1, 1, 8, 6)}, "its kernel is larger than"),
        (
            {"op": Op.DEPTHWISE_CONV_2D, "channels": 6},
            r"its input of 5 channels does not match .* \(1, 3, 3, 6\)",
        ),
        ({"x_shape": (1, 9, 8, 6), "groups": 3, "channels": 5}, "its input of 6 channels does not match"),
    ],
)
def test_refused_convolution(tmp_path, changes, message):
    refused(convolution(**changes), tmp_path, message)


def test_refused_without_options(tmp_path, monkeypatch):
    monkeypatch.setitem(OPTIONS, Op.CONV_2D, None)
    refused(convolution(), tmp_path, r"operator 0 \(CONV_2D, output 'y'\): has no options")


@pytest.mark.parametrize(("signature", "fits"), [((-1, 4), True), ((1, -1), False)])
def test_dynamic_shapes(tmp_path, monkeypatch, signature, fits):
    """An open batch is one; what else is open is refused."""
    net = Network()
    x = net.tensor("x", (1, 4), scale=S_X)
    y = net.tensor("y", (1, 4), scale=S_X)
    net.operator(Op.RESHAPE, [x], [y])
    start = tflite.TensorStart
    vectors = []

    def started(b):
        start(b)
        tflite.TensorAddShapeSignature(b, vectors.pop())

    packed = Network._tensor

    def tensor(self, b, *values):
        vectors.append(self._vector(b, signature, 4, b.PrependInt32))
        return packed(self, b, *values)

    monkeypatch.setattr(tflite, "TensorStart", started)
    monkeypatch.setattr(Network, "_tensor", tensor)
    data = net.pack([x], [y])
    if fits:
        assert load(save(data, tmp_path)).tensors["x"].shape == (1, 4)
    else:
        refused(data, tmp_path, "tensor 'x' has an axis of unknown size; convert .* with a fixed input shape")


SAME = [(1, 3, 4)] * 2
MAPS = [(1, 6, 6, 2), (1, 3, 3, 2)]
POOL = {"padding": Padding.VALID, "filter_height": 2, "filter_width": 2, "stride_h": 2, "stride_w": 2}
SHARES = {"scales": [S_X, np.float32(1 / 256)], "zero_points": [0, -128]}


@pytest.mark.parametrize(
    ("op", "values", "message"),
    [
        (Op.ADD, {"shapes": [(1, 3, 4), (1, 3, 4), (1, 6, 4)]}, "operand 'x' of shape .* would be broadcast"),
        (
            Op.MUL,
            {"shapes": SAME, "constants": [(np.arange(4, dtype=np.int8), Type.INT8)]},
            "'c0' differs from",
        ),
        (
            Op.ADD,
            {"shapes": [*SAME, (1, 3, 4)], "activation": Activation.TANH},
            "fused activation TANH is not",
        ),
        (
            Op.ADD,
            {"shapes": [*SAME, (1, 3, 4)], "scales": [1.0, 1.0, 1e-7]},
            r"its scales do not fit: The output's scale is less than 2\*\*-19 of an input's; convert",
        ),
        (Op.ADD, {"shapes": SAME}, "has 1 inputs and 1 outputs, which ADD has not"),
        (Op.AVERAGE_POOL_2D, {"shapes": MAPS, **POOL, "scales": [S_X, S_Y]}, "'x' and 'y' differ in scale"),
        (Op.MAX_POOL_2D, {"shapes": MAPS, **POOL, "zero_points": [1, 2]}, "'x' and 'y' differ in scale"),
        (Op.MAX_POOL_2D, {"shapes": MAPS, **POOL, "filter_width": 0}, "Filter 2 x 0 is not possible"),
        (Op.MAX_POOL_2D, {"shapes": [(6, 6, 2), (3, 3, 2)], **POOL}, "tensor 'x' has 3 axes, not 4"),
        (Op.MAX_POOL_2D, {"shapes": [(1, 6, 6, 2), (1, 3, 2, 2)], **POOL}, r"makes \(1, 3, 3, 2\) of batch"),
        (
            Op.AVERAGE_POOL_2D,
            {
                "shapes": [(1, 512, 512, 1), (1, 1, 1, 1)],
                **{**POOL, "filter_height": 512, "filter_width": 512},
            },
            "node 'op00_average_pool_2d': would need a table of 66846721 entries",
        ),
        (
            Op.AVERAGE_POOL_2D,
            {"shapes": [(1, 1 << 20, 1 << 20, 1), (1, 1 << 19, 1 << 19, 1)], **POOL},
            "node 'op00_average_pool_2d': has maps of more than",
        ),
        (
            Op.MEAN,
            {"shapes": [(1, 6, 6, 2), (1, 6, 6, 1)], "constants": [integers(3)]},
            "the axes .3.; only means",
        ),
        (Op.MEAN, {"shapes": [(2, 6, 6, 2), (2, 2)], "constants": [integers(1, 2)]}, "takes the mean of"),
        (
            Op.MEAN,
            {"shapes": [(1, 6, 6, 2), (1, 2)], "constants": [integers(1, 4)]},
            "axis 4 is none of shape",
        ),
        (
            Op.MEAN,
            {"shapes": [(1, 6, 6, 2), (1, 3)], "constants": [integers(1, 2)]},
            r"makes \(1, 1, 1, 2\) of",
        ),
        (Op.CONCATENATION, {"shapes": [*SAME, (1, 6, 4)], "axis": 3}, r"axis 3 is none of shape \(1, 6, 4\)"),
        (Op.CONCATENATION, {"shapes": [*SAME, (1, 7, 4)], "axis": 1}, "its inputs do not add up to"),
        (
            Op.CONCATENATION,
            {"shapes": [*SAME, (1, 6, 4)], "axis": 1, "scales": [S_X, S_Y, S_X]},
            "'x1' and 'y' differ in scale or zero point; CONCATENATION does not convert",
        ),
        (
            Op.CONCATENATION,
            {"shapes": [*SAME, (1, 6, 4)], "axis": 1, "activation": Activation.RELU},
            "fused activation RELU is not supported; put it into an operator of its own",
        ),
        (Op.PAD, {"shapes": SAME, "constants": [integers(1, 2)]}, r"its padding has shape \(2,\)"),
        (Op.PAD, {"shapes": [*SAME, (1, 3, 4)]}, "'x1' is not constant"),
        (
            Op.PAD,
            {"shapes": SAME, "constants": [(np.zeros((3, 2), np.int8), Type.INT8)]},
            "'c0' does not hold the integers that it should",
        ),
        (
            Op.PADV2,
            {"shapes": [(1, 3, 4), (1, 4, 4)], "constants": [integers((0, 0), (0, 1), (0, 0))] * 2},
            "tensor 'c1' is INT32, not INT8",
        ),
        (Op.TRANSPOSE, {"shapes": SAME, "constants": [integers(0, 1)]}, r"axes \(0, 1\) are not those of"),
        (
            Op.RELU6,
            {"shapes": SAME, "scales": [S_X, S_Y]},
            "'x' and 'y' differ in scale or zero point; RELU6",
        ),
        (Op.RELU, {"shapes": SAME, "scales": [1.0, 1e-9]}, "its scales do not fit: A factor of about"),
        (
            Op.HARD_SWISH,
            {"shapes": SAME, "scales": [1.0, 1e-4]},
            "its scales do not fit: The output's scale is",
        ),
        (Op.LOGISTIC, {"shapes": SAME}, "tensor 'y' has not the scale 1/256 and the zero point -128"),
        (
            Op.TANH,
            {"shapes": SAME},
            "tensor 'y' has not the scale 1/128 and the zero point 0 that TANH makes",
        ),
        (
            Op.SOFTMAX,
            {"shapes": SAME, "beta": 1.0},
            "tensor 'y' has not the scale 1/256 and the zero point -128",
        ),
        (Op.SOFTMAX, {"shapes": SAME, **SHARES}, "node 'op00_softmax': beta 0.0 is not a positive number"),
        (
            Op.ARG_MAX,
            {"shapes": [(1, 3, 4), (1, 3)], "constants": [integers(2)]},
            "tensor 'y' is INT8, not INT32 or INT64",
        ),
        (
            Op.ARG_MAX,
            {"shapes": [(1, 3, 4), (1, 3)], "constants": [integers(1, 2)], "kinds": [Type.INT8, Type.INT32]},
            "has 2 axes, not one",
        ),
        (
            Op.ARG_MAX,
            {"shapes": [(1, 3, 4), (1, 4)], "constants": [integers(2)], "kinds": [Type.INT8, Type.INT32]},
            r"makes shape \(1, 3\), but its output has \(1, 4\)",
        ),
        (Op.QUANTIZE, {"shapes": SAME, "kinds": [Type.INT8, Type.INT16]}, "tensor 'y' is INT16, not INT8"),
        (
            Op.QUANTIZE,
            {"shapes": SAME, "kinds": [Type.INT8, Type.FLOAT32]},
            "tensor 'y' is FLOAT32, not INT8",
        ),
    ],
)
def test_refused_use(tmp_path, op, values, message):
    values = dict(values)
    data = operator(op, values.pop("shapes"), **values)
    refused(data, tmp_path, message)


@pytest.mark.parametrize("op", [Op.ADD, Op.PADV2])
def test_refused_constants(tmp_path, op):
    """Only constants to compute with, or one that is computed where a constant should be."""
    net = Network()
    x = net.tensor("x", (1, 3), scale=S_X)
    y = net.tensor("y", (1, 3), scale=S_X)
    if op == Op.ADD:
        c = net.tensor("c", (1, 3), scale=S_X, data=np.ones((1, 3), np.int8))
        net.operator(op, [c, c], [y])
        message = "has only constant inputs"
    else:
        c = net.tensor("c", (2, 2), Type.INT32, data=np.zeros((2, 2), "<i4"))
        net.operator(op, [x, c, x], [y])
        message = "does not pad with one constant"
    refused(net.pack([x], [y]), tmp_path, message)


def changed(position, **changes):
    """The simplest network with some properties of one tensor changed: x, w, b, y."""
    net = Network()
    w, b = operands()
    keys = ("name", "shape", "kind", "scale", "zero_point", "data", "axis")
    for tensor in (
        ("x", (1, K), Type.INT8, S_X, 3, None, 0),
        ("w", (N, K), Type.INT8, S_W, 0, w, 0),
        ("b", (N,), Type.INT32, S_X * S_W, 0, b, 0),
        ("y", (1, N), Type.INT8, S_Y, -7, None, 0),
    ):
        net.tensors.append(tensor)
    net.tensors[position] = tuple(
        ({**dict(zip(keys, net.tensors[position], strict=True)), **changes}).values()
    )
    net.operator(Op.FULLY_CONNECTED, [0, 1, 2], [3])
    return net.pack([0], [3])


@pytest.mark.parametrize(
    ("position", "changes", "message"),
    [
        (0, {"kind": Type.UINT8}, "tensor 'x' is UINT8, not INT8; convert the network with full-integer"),
        (0, {"kind": Type.FLOAT32}, "tensor 'x' is FLOAT32, not INT8"),
        (0, {"kind": 77}, "tensor 'x' is number 77, not INT8"),
        (0, {"scale": None}, "tensor 'x' does not have one scale and one zero point"),
        (0, {"scale": [S_X] * 2, "zero_point": [0, 0]}, "tensor 'x' does not have one scale"),
        (0, {"scale": 0.0}, "tensor 'x': scale 0.0 is not a positive number"),
        (0, {"scale": np.nan}, "tensor 'x': scale nan is not a positive number"),
        (0, {"zero_point": 128}, "tensor 'x': zero point 128 is outside the range of int8"),
        (0, {"shape": (0, K)}, r"tensor 'x': shape \(0, 12\) has an axis without elements"),
        (0, {"shape": (-1, K)}, r"tensor 'x': shape \(-1, 12\) has an axis without elements"),
        (0, {"shape": (1, K + 1)}, r"input \(1, 13\), weights \(7, 12\) and output \(1, 7\) do not agree"),
        (1, {"data": None}, "weights 'w' are not constant"),
        (1, {"kind": Type.INT4}, "weights 'w' are INT4, not INT8"),
        (1, {"kind": Type.FLOAT32}, "weights 'w' are FLOAT32, not INT8"),
        (1, {"shape": (N, K + 1)}, r"weights 'w' of shape \(7, 13\) do not match their 84 bytes"),
        (1, {"shape": (N * K,)}, r"weights 'w' of shape \(84,\) do not match"),
        (1, {"shape": (-N, -K)}, r"weights 'w' of shape \(-7, -12\) do not match"),
        (1, {"zero_point": 1}, "weights 'w' have a zero point other than 0"),
        (1, {"scale": [S_W] * 3}, "weights 'w' have 3 scales for 7 output channels"),
        (1, {"scale": None}, "weights 'w' have 0 scales"),
        (1, {"scale": [S_W] * N, "axis": 1}, "weights 'w' have 7 scales"),
        (1, {"scale": -1.0}, "weights 'w' have a scale that is not a positive number"),
        (1, {"scale": np.inf}, "weights 'w' have a scale that is not a positive number"),
        (1, {"scale": 1e30}, "scale of bias 'b' is not input scale times weight scale"),
        (2, {"data": None}, "bias 'b' is not constant"),
        (2, {"kind": Type.INT64}, "bias 'b' is INT64, not INT32"),
        (2, {"data": np.zeros(N - 1, "<i4")}, "bias 'b' has 24 bytes for 7 output channels"),
        (2, {"scale": 1.0}, "scale of bias 'b' is not input scale times weight scale"),
        (3, {"shape": (1, N + 1)}, r"output \(1, 8\) do not agree"),
        (3, {"shape": ()}, r"output \(\) do not agree"),
        (3, {"shape": (2, N)}, r"output \(2, 7\) do not agree"),
        (3, {"kind": Type.INT16}, "tensor 'y' is INT16"),
        (3, {"scale": 1e-7}, "node 'op00_fully_connected': shift 10..10 is not from -31 to 6; the product"),
    ],
)
def test_refused_tensor(tmp_path, position, changes, message):
    refused(changed(position, **changes), tmp_path, message)


@pytest.mark.parametrize("activation", [Activation.TANH, Activation.SIGN_BIT, 99])
def test_refused_activation(tmp_path, activation):
    refused(fully_connected(activation=activation), tmp_path, "fused activation .* is not supported")


def test_refused_weights_format(tmp_path):
    refused(fully_connected(weights_format=1), tmp_path, "weights 'w' are sparse or shuffled")


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([], [1], "must have one input, but has 0: none"),
        ([0, 2], [1], "must have one input, but has 2: 'x', 'z'"),
        ([0], [1, 2], "must have one output, but has 2: 'y', 'z'"),
        ([0], [9], "damaged or truncated TFLite file"),
        ([0], [-1], "damaged or truncated TFLite file"),
        ([0], [2], "tensor 'z': is produced by no node"),
    ],
)
def test_refused_edges(tmp_path, inputs, outputs, message):
    net = Network()
    for name in "xyz":
        net.tensor(name, (1, K), scale=S_X)
    net.operator(Op.RESHAPE, [0], [1])
    refused(net.pack(inputs, outputs), tmp_path, message)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([0], [3], "has 1 inputs and 1 outputs, which FULLY_CONNECTED has not"),
        ([-1, 1, 2], [3], "which FULLY_CONNECTED has not"),
        ([0, -1, 2], [3], "has no weights"),
        ([0, 1, 2], [], r"operator 0 \(FULLY_CONNECTED\): has 3 inputs and 0 outputs"),
        ([0, 1, 99], [3], "damaged or truncated TFLite file"),
        ([0, 1, -2], [3], "damaged or truncated TFLite file"),
    ],
)
def test_refused_connections(tmp_path, inputs, outputs, message):
    net = Network()
    w, b = operands()
    net.tensor("x", (1, K), scale=S_X)
    net.tensor("w", (N, K), scale=S_W, data=w)
    net.tensor("b", (N,), Type.INT32, S_X * S_W, data=b)
    net.tensor("y", (1, N), scale=S_Y)
    net.operator(Op.FULLY_CONNECTED, inputs, outputs)
    refused(net.pack([0], [3]), tmp_path, message)


def test_refused_order(tmp_path):
    net = Network()
    for name in "xyz":
        net.tensor(name, (1, K), scale=S_X)
    net.operator(Op.RESHAPE, [1], [2])
    net.operator(Op.RESHAPE, [0], [1])
    refused(net.pack([0], [2]), tmp_path, "reads 'y' before any node has produced it")


# Damaged files


def outcome(data, path):
    """`None`, or the message with which the file was refused; anything else is a bug."""
    path.write_bytes(data)
    message = None
    try:
        load(path)
    except NetworkError as error:
        message = str(error)
    assert message is None or message.isprintable()
    return message


def test_truncated(tmp_path):
    data = two_layers()
    path = tmp_path / "short.tflite"
    lengths = range(1, len(data), 3)
    messages = [outcome(data[:length], path) for length in lengths]
    # The constants stand at the end: without some of them the file cannot be whole.
    assert all(messages[: (len(data) - 64) // 3])
    assert any("damaged or truncated" in message for message in messages if message)


def small_convolutional():
    """Convolution, addition, pooling and softmax."""
    net = Network()
    convolution(net=net, x_shape=(1, 6, 6, 6))
    y = 3
    total = net.tensor("sum", (1, 6, 6, 6), scale=S_Y)
    net.operator(Op.ADD, [0, y], [total], {"activation": Activation.RELU})
    pooled = net.tensor("pooled", (1, 2, 2, 6), scale=S_Y)
    window = {"filter_height": 3, "filter_width": 3, "stride_h": 3, "stride_w": 3}
    net.operator(Op.AVERAGE_POOL_2D, [total], [pooled], window)
    shares = net.tensor("shares", (1, 2, 2, 6), scale=np.float32(1 / 256), zero_point=-128)
    net.operator(Op.SOFTMAX, [pooled], [shares], {"beta": 1.0})
    return net.pack([0], [shares])


def test_small_convolutional(tmp_path):
    graph = check(small_convolutional(), tmp_path)
    assert [type(node) for node in graph.nodes] == [Convolution, Binary, AveragePool, Softmax]


@pytest.mark.parametrize("make", [two_layers, small_convolutional])
@pytest.mark.parametrize("seed", range(3))
def test_mutated(tmp_path, seed, make):
    data = make()
    rng = np.random.default_rng(seed)
    path = tmp_path / "mutated.tflite"
    refusals = 0
    for _ in range(500):
        mutated = np.frombuffer(data, np.uint8).copy()
        where = rng.integers(8, len(data), rng.integers(1, 4))
        mutated[where] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)], where.size)
        refusals += outcome(mutated.tobytes(), path) is not None
    assert refusals > 150


def test_only_the_identifier(tmp_path):
    assert "damaged" in outcome(b"\0\0\0\0TFL3", tmp_path / "a")
    assert "damaged" in outcome(b"\xff" * 4 + b"TFL3" + b"\xff" * 100, tmp_path / "a")
    assert "damaged" in outcome(b"\x08\0\0\0TFL3" + b"\0" * 100, tmp_path / "a")
