"""TFLite import: variations against tflite-micro, damaged files, everything that is refused."""

import re
from dataclasses import dataclass, field

import flatbuffers
import numpy as np
import pytest
import tflite
from tflite import ActivationFunctionType as Activation
from tflite import BuiltinOperator as Op
from tflite import TensorType as Type

from bitwright.gen.importers import load
from bitwright.hw.formats import Int
from bitwright.hw.quant.arithmetic import quantise_multiplier, requantise
from bitwright.sim import golden
from bitwright.sim.graph import Dequantize, FullyConnected, NetworkError, Quantize, Reshape

K, N = 12, 7
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
        if op == Op.FULLY_CONNECTED:
            options = options or {}
            tflite.FullyConnectedOptionsStart(b)
            tflite.FullyConnectedOptionsAddFusedActivationFunction(b, options.get("activation", 0))
            tflite.FullyConnectedOptionsAddKeepNumDims(b, options.get("keep_num_dims", False))
            tflite.FullyConnectedOptionsAddWeightsFormat(b, options.get("weights_format", 0))
            options = tflite.FullyConnectedOptionsEnd(b)
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, codes.index((op, custom)))
        tflite.OperatorAddInputs(b, inputs)
        tflite.OperatorAddOutputs(b, outputs)
        if op == Op.FULLY_CONNECTED:
            tflite.OperatorAddBuiltinOptionsType(b, tflite.BuiltinOptions.FullyConnectedOptions)
            tflite.OperatorAddBuiltinOptions(b, options)
        return tflite.OperatorEnd(b)


def save(data, tmp_path):
    path = tmp_path / "network.tflite"
    path.write_bytes(data)
    return path


def check(data, tmp_path, inputs=100):
    """Import, and compare every tensor that both have with tflite-micro."""
    micro = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    graph = load(save(data, tmp_path))
    info = graph.tensors[graph.input]
    rng = np.random.default_rng(0)
    if info.format is None:
        x = rng.normal(0, 0.8, (inputs, *info.shape)).astype(np.float32)
    else:
        x = rng.integers(-128, 128, (inputs, *info.shape)).astype(np.int8)
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
                np.testing.assert_array_equal(tensors[name][number], expected, name, strict=True)
    assert np.unique(tensors[graph.output]).size > 3
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
    assert (layer.low, layer.high) == (low, high)
    assert layer.rounding == "tflite"
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
    assert (layer.low, layer.high) == (-7, -7 + 86)


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
    assert (layer.multiplier[2] == 0) == (scale == 1e-11)


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


@pytest.mark.parametrize("file", ["ic_resnet8_int8", "kws_dscnn_int8"])
def test_reference_networks_that_are_refused(shared_data, file):
    with pytest.raises(NetworkError, match=r"operator 0 \(CONV_2D, output '.*: CONV_2D is not supported"):
        load(shared_data / "mlperf_tiny" / f"{file}.tflite")


# What is refused


def refused(data, tmp_path, message):
    with pytest.raises(NetworkError, match=message) as caught:
        load(save(data, tmp_path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("op", "custom", "message"),
    [
        (Op.SOFTMAX, None, r"operator 1 \(SOFTMAX, output 'z'\): SOFTMAX is not supported; supported are"),
        (Op.GELU, None, r"operator 1 \(GELU, output 'z'\): GELU is not supported"),
        (Op.CUSTOM, "Mine", r"operator 1 \(custom operator Mine, output 'z'\): custom operator Mine is not"),
        (9999, None, r"operator 1 \(number 9999, output 'z'\): number 9999 is not supported"),
        (Op.QUANTIZE, None, r"operator 1 \(QUANTIZE, output 'z'\): changes one quantisation into another"),
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


@pytest.mark.parametrize("seed", range(3))
def test_mutated(tmp_path, seed):
    data = two_layers()
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
