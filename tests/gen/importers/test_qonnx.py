"""QONNX import: every feature against float arithmetic and QONNX's own executor, every refusal by name.

Scales and constants of the networks here are dyadic, so that float32, float64 and integers agree to the bit.
"""

import warnings
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitwright.gen.execute import execute
from bitwright.gen.importers import load
from bitwright.gen.importers.qonnx import thresholds_of
from bitwright.gen.mapper import compile_graph
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Bipolar, Int, Ternary
from bitwright.sim import golden
from bitwright.sim.graph import (
    LEVEL_MAX,
    LEVEL_MIN,
    AveragePool,
    Binary,
    Concatenate,
    Convolution,
    Dequantize,
    FullyConnected,
    Lookup,
    MaxPool,
    NetworkError,
    Pad,
    Quantize,
    Requantise,
    Reshape,
    Thresholds,
    Transpose,
    same_order,
)

K, N = 12, 8
DOMAIN = "qonnx.custom_op.general"


@dataclass
class Network:
    """Writes a QONNX network, node by node."""

    seed: int = 0
    domain: str = DOMAIN
    version: int = 1
    nodes: list = field(default_factory=list)
    initialisers: list = field(default_factory=list)
    numbers: count = field(default_factory=count)

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)

    def constant(self, values, name=None):
        name = name or f"const_{next(self.numbers)}"
        values = np.asarray(values)
        values = values.astype(np.float32) if values.dtype == np.float64 else values
        self.initialisers.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op, *inputs, output=None, domain="", **attributes):
        output = output or f"{op.lower()}_{next(self.numbers)}"
        inputs = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=f"n_{output}", domain=domain, **attributes)
        )
        return output

    def custom(self, op, *inputs, **others):
        return self.node(op, *inputs, domain=self.domain, **others)

    def quant(self, x, scale, bits, *, zero=0.0, signed=1, narrow=0, mode="ROUND", **others):
        values = (np.float32(scale), np.float32(zero), np.float32(bits))
        return self.custom("Quant", x, *values, signed=signed, narrow=narrow, rounding_mode=mode, **others)

    def bipolar(self, x, scale=1.0, **others):
        return self.custom("BipolarQuant", x, np.float32(scale), **others)

    def matmul(self, x, bits=4, *, scale=0.25, k=K, n=N, transpose=True, **others):
        """A product with weights from a quantiser of random numbers."""
        values = self.rng.normal(0, 0.7, (n, k) if transpose else (k, n))
        w = self.bipolar(values, scale) if bits == "b" else self.quant(values, scale, bits, **others)
        return self.node("MatMul", x, self.node("Transpose", w, perm=[1, 0]) if transpose else w)

    def conv(self, x, k, n, bits=4, *, scale=0.25, kernel=(3, 3), group=1, bias=None, **attributes):
        """A convolution with weights from a quantiser of random numbers."""
        values = self.rng.normal(0, 0.7, (n, k // group, *kernel))
        w = self.bipolar(values, scale) if bits == "b" else self.quant(values, scale, bits)
        return self.node("Conv", x, w, *([] if bias is None else [bias]), group=group, **attributes)

    def norm(self, x, n=N, gain=None):
        rng = self.rng
        gain = rng.choice([-1.5, -0.25, 0.5, 1.0, 2.0], n) if gain is None else np.array(gain, float)
        bias, mean = rng.integers(-8, 9, n) / 8, rng.integers(-8, 9, n) / 4
        values = (gain, bias, mean, 4.0 ** rng.integers(-1, 3, n))
        return self.node("BatchNormalization", x, *values, epsilon=0.0)

    def model(self, output, shape=(1, K), kind=TensorProto.FLOAT):
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.initialisers,
        )
        domains = [helper.make_opsetid("", 13)]
        if self.domain:
            domains.append(helper.make_opsetid(self.domain, self.version))
        return helper.make_model(graph, opset_imports=domains, ir_version=8)


def save(model, tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def cut_windows(x, a, fill):
    """Windows of a batch of maps, those of one axis under a height of 1: (n, c, rows, columns, i, j)."""
    if x.ndim == 3:
        x = x[:, :, None]
    pair = lambda key, missing: [missing, *a[key]] if len(a[key]) == 1 else list(a[key])  # noqa: E731
    count = len(a["kernel_shape"])
    a = {"strides": [1] * count, "dilations": [1] * count, "pads": [0] * 2 * count} | a
    kernel, stride, dilation = pair("kernel_shape", 1), pair("strides", 1), pair("dilations", 1)
    if a.get("auto_pad") == b"SAME_UPPER":
        total = [
            max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(x.shape[2:], stride, kernel, strict=True)
        ]
        a["pads"] = [n // 2 for n in total] + [n - n // 2 for n in total]
    pads = a["pads"] if count == 2 else [0, a["pads"][0], 0, a["pads"][1]]
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=fill)
    size = [(x.shape[2 + i] - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1 for i in (0, 1)]
    at = [np.arange(size[i])[:, None] * stride[i] + np.arange(kernel[i]) * dilation[i] for i in (0, 1)]
    return x[:, :, at[0][:, None, :, None], at[1][None, :, None, :]]


def convolve(x, w, a):
    """A convolution by its definition."""
    a = {"kernel_shape": w.shape[2:]} | a
    groups = a.get("group", 1)
    parts = []
    for x_part, w_part in zip(np.split(x, groups, axis=1), np.split(w, groups), strict=True):
        windows = cut_windows(x_part, a, 0.0)
        parts.append(
            np.einsum("ncrsij,kcij->nkrs", windows, w_part.reshape(*w_part.shape[:2], *windows.shape[4:]))
        )
    y = np.concatenate(parts, axis=1)
    return y[:, :, 0] if x.ndim == 3 else y


def pool(x, a, average):
    """The greatest or the mean of each window."""
    y = cut_windows(x, a, np.nan)
    if average and a.get("count_include_pad"):
        y = np.nan_to_num(y)
    y = (np.nanmean if average else np.nanmax)(y, axis=(4, 5))
    return y[:, :, 0] if x.ndim == 3 else y


ROUNDINGS = {
    "ROUND": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}


def code_range(bits, signed, narrow):
    if signed:
        return -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
    return 0, 2**bits - 1 - narrow


def real_numbers(model, x):
    """Every tensor of a network for one input, in float64, by the definitions of the operators."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values["x"] = x.astype(np.float64)
    for node in model.graph.node:
        a = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        i = [values[name] for name in node.input]
        match node.op_type:
            case "Quant":
                low, high = code_range(int(i[3]), a["signed"], a["narrow"])
                y = i[0] / i[1] + i[2]
                if i[3] == 1 and a["signed"]:
                    y = np.where(y >= 0, 1.0, -1.0)
                else:
                    y = ROUNDINGS[a["rounding_mode"].decode()](np.clip(y, low, high))
                y = (y - i[2]) * i[1]
            case "BipolarQuant":
                y = np.where(i[0] >= 0, 1.0, -1.0) * i[1]
            case "MultiThreshold":
                axis = a["data_layout"].decode().index("C") if "data_layout" in a else 1
                v = np.moveaxis(i[0], axis, -1)[..., None]
                y = np.moveaxis((v >= i[1]).sum(-1), -1, axis) * a.get("out_scale", 1.0)
                y = y + a.get("out_bias", 0.0)
            case "Trunc":
                y = np.rint(i[0] / i[1] + i[2])
                rounding = ROUNDINGS[a["rounding_mode"].decode()]
                if len(i) == 5:
                    y = (rounding(y / 2.0 ** (i[3] - i[4])) - i[2]) * i[1]
                else:
                    y = y * i[1] / i[4]
                    y = rounding(np.clip(y, *code_range(int(i[5]), a["signed"], a["narrow"])))
                    y = (y - i[2] * i[1] / i[4]) * i[4]
            case "MatMul":
                y = i[0] @ i[1]
            case "Conv":
                y = convolve(i[0], i[1], a)
                y = y + (i[2].reshape(-1, *(1 for _ in y.shape[2:])) if len(i) > 2 else 0)
            case "MaxPool" | "AveragePool" as op:
                y = pool(i[0], a, op == "AveragePool")
            case "GlobalAveragePool":
                y = i[0].mean(axis=tuple(range(2, i[0].ndim)), keepdims=True)
            case "GlobalMaxPool":
                y = i[0].max(axis=tuple(range(2, i[0].ndim)), keepdims=True)
            case "ReduceMean":
                y = i[0].mean(axis=tuple(a["axes"]), keepdims=bool(a["keepdims"]))
            case "Pad":
                y = np.pad(i[0], i[1].reshape(2, -1).T)
            case "Gemm":
                y = i[0] @ (i[1].T if a.get("transB") else i[1]) + (i[2] if len(i) > 2 else 0)
            case "BatchNormalization":
                along = (-1, *(1 for _ in i[0].shape[2:]))
                gain, bias, mean, var = (value.reshape(along).astype(np.float64) for value in i[1:])
                y = (i[0] - mean) / np.sqrt(var + a["epsilon"]) * gain + bias
            case "Add" | "Sub" | "Mul" | "Div" | "Pow" as op:
                names = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide", "Pow": "power"}
                y = getattr(np, names[op])(*i)
                y = y.astype(np.int64) if i[0].dtype == np.int64 else y
            case "Sqrt":
                y = np.sqrt(i[0])
            case "Relu":
                y = np.maximum(i[0], 0)
            case "Clip":
                y = np.clip(i[0], i[1], i[2])
            case "Reshape":
                y = i[0].reshape([i[0].shape[axis] if n == 0 else n for axis, n in enumerate(i[1])])
            case "Flatten":
                y = i[0].reshape(i[0].shape[0], -1)
            case "Transpose":
                y = i[0].transpose(a["perm"])
            case "Shape":
                y = np.array(i[0].shape)
            case "Gather":
                y = np.take(i[0], i[1], axis=a.get("axis", 0))
            case "Slice":
                y = i[0][i[1][0] : i[2][0]]
            case "Unsqueeze":
                y = np.expand_dims(i[0], tuple(i[1]))
            case "Concat":
                y = np.concatenate(i, axis=a["axis"])
            case "Identity" | "Cast":
                y = i[0]
        values[node.output[0]] = y
    return values


def inputs_for(graph, inputs=60):
    # Eighths: ties and thresholds are met.
    rng = np.random.default_rng(7)
    return (rng.integers(-40, 41, (inputs, *graph.tensors[graph.input].shape)) / 8).astype(np.float32)


def compare(graph, x, reference):
    """Every tensor of the graph that the network has too; the names of the integer ones."""
    tensors = golden.run(graph, x)
    names = []
    for name, q in tensors.items():
        info = graph.tensors[name]
        if name not in reference or name == graph.input:
            continue
        if info.format is None:
            np.testing.assert_array_equal(q, reference[name].astype(np.float32), err_msg=name)
        else:
            real = info.scale * (q.astype(np.float64) - info.zero_point)
            np.testing.assert_array_equal(real, reference[name], err_msg=name)
            names.append(name)
    return names


def imported(model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(save(model, tmp_path))


def layers(graph):
    return [node for node in graph.nodes if isinstance(node, FullyConnected)]


# The networks


def mlp(net, x="x", *, first, **others):
    """Two products, with something after the first."""
    x = first(net, net.matmul(net.quant(x, 0.25, 3), **others))
    return net.matmul(x, k=N, n=5, **others)


def after(*steps):
    """A chain of elementwise steps, each a method's name with arguments or an operator's."""

    def make(net, x):
        for name, *rest in steps:
            options = rest.pop() if rest and isinstance(rest[-1], dict) else {}
            x = getattr(net, name, lambda *a, name=name, **o: net.node(name, *a, **o))(x, *rest, **options)
        return x

    return make


def chain(*steps, **others):
    return lambda net: mlp(net, first=after(*steps), **others)


U3 = ("quant", 0.5, 3, {"signed": 0})
VECTOR = np.array([0.5, -1, 2, 4, -0.25, 1, 8, -2])


def multi_threshold(levels, **attributes):
    def make(net, x):
        thresholds = levels(net.rng) if callable(levels) else levels
        return net.custom("MultiThreshold", x, thresholds, **attributes)

    return make


def steps_per_channel(rng):
    return np.sort(rng.integers(-24, 25, (N, 7)) / 4, axis=1)


def trunc(*, scale=0.0625, zero=0.0, bits=8, to=3, result=None, mode="FLOOR", **attributes):
    def make(net, x):
        values = [scale, zero, bits, *([] if result is None else [result]), to]
        return net.custom("Trunc", x, *map(np.float32, values), rounding_mode=mode, **attributes)

    return make


def then(first, second):
    return lambda net, x: second(net, first(net, x))


def bipolar_network(net):
    x = net.node("Sub", net.node("Mul", "x", np.float32(2)), np.float32([1]))
    x = net.bipolar(x)
    x = net.bipolar(net.norm(net.matmul(x, "b", scale=1)), 0.5)
    x = net.matmul(x, "b", scale=0.25, k=N, n=5)
    root = net.node("Pow", np.float32([16]), np.float32(0.5))
    x = net.node("Div", net.node("Sub", x, np.float32([0.5])), root)
    return net.node("Add", net.node("Mul", x, np.float32(-3)), np.float32([0.25, 1, 2, 3, 4]))


def flattened(net):
    """As PyTorch exports ``x.view(x.size(0), -1)``."""
    batch = net.node("Gather", net.node("Shape", "x"), np.array(0), axis=0)
    shape = net.node("Concat", net.node("Unsqueeze", batch, np.array([0])), np.array([-1]), axis=0)
    return mlp(net, net.node("Reshape", "x", shape), first=after(U3))


def flattened_by_slice(net):
    start = net.node("Slice", net.node("Shape", "x"), np.array([0]), np.array([1]))
    shape = net.node("Concat", start, np.array([-1]), axis=0)
    return mlp(net, net.node("Reshape", "x", shape), first=after(U3))


def normed_as_an_image(net):
    def make(net, x):
        x = net.norm(net.node("Reshape", x, np.array([1, N, 1, 1])))
        return net.node("Flatten", net.quant(net.node("Relu", x), 0.5, 2, signed=0))

    return mlp(net, first=make)


def gemm(net):
    def make(net, x):
        return net.quant(net.node("Relu", x), 0.25, 8, signed=0)

    x = net.quant("x", 0.25, 8)
    w = net.quant(net.rng.normal(0, 0.4, (N, K)), 0.0625, 6, narrow=1)
    b = net.quant(net.rng.normal(0, 2, N), 0.015625, 16)
    x = make(net, net.node("Gemm", x, w, b, transB=1))
    return net.node("Gemm", x, net.quant(net.rng.normal(0, 1, (N, 3)), 0.5, 4), np.float32([1, 2, 3]))


def host_image(net):
    """Constants per channel of an image, before it is quantised and flattened."""
    x = net.node("Mul", "x", np.array([1, 0.5, 2])[:, None, None])
    x = net.node("Pow", net.node("Add", x, np.float32(0.25)), np.float32(2))
    x = net.node("Flatten", net.node("Clip", x, np.float32(-1), np.float32(2.5)))
    return mlp(net, net.node("Sub", np.float32(1), x), first=after(U3))


def host_thresholds(net):
    levels = np.sort(net.rng.integers(-8, 9, (3, 3)) / 2, axis=1)
    x = net.custom("MultiThreshold", "x", levels, data_layout="NCHW", out_scale=0.5, out_bias=-1.0)
    return net.matmul(net.node("Flatten", x))


def finn(net):
    """Streamlined: integers as they are, thresholds in between."""
    x = multi_threshold(np.array([[-1.0, 0.0, 1.5]]))(net, "x")
    x = net.node("MatMul", x, net.rng.integers(-7, 8, (K, N)).astype(np.float32))
    x = multi_threshold(lambda rng: np.sort(rng.integers(-20, 21, (N, 3))).astype(float))(net, x)
    x = net.node("MatMul", x, net.rng.choice([-1.0, 1.0], (N, N)))
    x = multi_threshold(lambda rng: rng.integers(-3, 4, (N, 1)) * 1.0, out_scale=2.0, out_bias=-1.0)(net, x)
    x = net.node("MatMul", x, net.rng.choice([-1.0, 0.0, 1.0], (N, 4)))
    return net.node("Mul", x, np.array([0.5, 2, 4, -1]))


def reshaped_weights(net):
    """Weights of another shape when they are quantised, and scaled once more."""
    w = net.quant(net.rng.normal(0, 0.7, (N, 3, 4)), 2.0 ** net.rng.integers(-3, 1, (N, 1, 1)), 4)
    w = net.node("Reshape", net.node("Mul", w, np.full((N, 1, 1), -0.5)), np.array([N, K]))
    x = net.node("MatMul", net.quant("x", 0.25, 3), net.node("Transpose", w, perm=[1, 0]))
    x = net.quant(x, 0.25, 3)
    w = net.node("Div", net.quant(net.rng.normal(0, 1, 5 * N), 0.5, 4), np.float32(4))
    return net.node("MatMul", x, net.node("Reshape", w, np.array([N, 5])))


def computed_constants(net):
    size = net.node("Div", np.array([-3 * K]), np.array([-3]))
    x = net.node("Reshape", "x", net.node("Concat", np.array([1]), size, axis=0))
    gain = net.node("Sqrt", net.node("Add", np.float32(12), net.node("Cast", np.array(4), to=1)))
    return mlp(net, x, first=after(("Mul", gain), ("Sub", net.node("Mul", gain, np.float32(0.125))), U3))


def two_readers(net):
    """A quantiser whose result goes on twice, only one of which reaches the output."""
    x = net.matmul(net.quant("x", 0.25, 4))
    x = net.quant(x, 0.5, 4)
    net.quant(net.node("Relu", x), 1.0, 2, signed=0)
    return net.matmul(x, k=N, n=4)


def per_channel(net):
    def product(x, k, n):
        scale = 2.0 ** net.rng.integers(-3, 1, (n, 1))
        w = net.quant(net.rng.normal(0, 0.7, (n, k)), scale, 3, narrow=1)
        return net.node("MatMul", x, net.node("Transpose", w, perm=[1, 0]))

    x = net.quant(net.node("Relu", net.norm(product(net.quant("x", 0.25, 3), K, N))), 0.5, 3, signed=0)
    return product(x, N, 5)


SHAPES = {
    "flattened": (1, 3, 2, 2),
    "flattened_by_slice": (1, 3, 2, 2),
    "host_image": (1, 3, 2, 2),
    "host_thresholds": (1, 3, 2, 2),
    "many_rows": (5, K),
}
NETWORKS = {
    "bipolar": bipolar_network,
    "flattened": flattened,
    "flattened_by_slice": flattened_by_slice,
    "host_image": host_image,
    "host_thresholds": host_thresholds,
    "normed_as_an_image": normed_as_an_image,
    "gemm": gemm,
    "finn": finn,
    "two_readers": two_readers,
    "reshaped_weights": reshaped_weights,
    "computed_constants": computed_constants,
    "many_rows": chain(("norm",), U3),
    "norm": chain(("norm",), U3),
    "constant_channels": chain(("norm", {"gain": [0, 1, 0, -1, 2, 0, 1, 1]}), U3),
    "norm_relu": chain(("norm",), ("Relu",), U3),
    "bipolar_weights": chain(("norm",), U3, bits="b"),
    "ternary": chain(("norm",), ("quant", 0.5, 2, {"narrow": 1}), bits=2, narrow=1),
    "four_bits": chain(("norm",), ("quant", 0.25, 4), bits=4),
    "unsigned_narrow": chain(("quant", 0.5, 3, {"signed": 0, "narrow": 1})),
    "bipolar_activations": chain(("norm",), ("bipolar", 0.5)),
    "one_bit_signed": chain(("quant", 0.5, 1, {"narrow": 0}), bits=1),
    "one_bit_unsigned": chain(("quant", 0.5, 1, {"signed": 0}), bits=1, signed=0),
    "unsigned_weights": chain(("norm",), U3, bits=4, signed=0),
    "weight_zero_point": chain(("norm",), U3, bits=4, signed=0, zero=7.0),
    "scale_per_channel": per_channel,
    "wide_weights": chain(("quant", 0.25, 8), bits=16, scale=2**-8),
    "plain_weights": chain(("norm",), U3, transpose=False),
    "zero_point": chain(("quant", 0.5, 3, {"signed": 0, "zero": 2.0})),
    "requantised": chain(("quant", 0.5, 8)),
    "requantised_narrow": chain(("Relu",), ("quant", 0.5, 6, {"signed": 0, "narrow": 1})),
    "requantised_zero_point": chain(("quant", 0.5, 8, {"signed": 0, "zero": 128.0})),
    "requantised_affine": chain(("Mul", VECTOR), ("Add", VECTOR[::-1].copy()), ("quant", 0.5, 8), narrow=1),
    "requantised_constant": chain(
        ("Mul", VECTOR * (VECTOR > 0)), ("Add", VECTOR[::-1].copy()), ("quant", 0.5, 8)
    ),
    "hard_tanh": chain(("norm",), ("Clip", np.float32(-1), np.float32(1)), ("quant", 0.25, 4)),
    "clip_requantised": chain(("Clip", np.float32(-3), np.float32(5)), ("quant", 0.125, 8)),
    "divided": chain(("Div", VECTOR), ("Sub", np.float32([[0.5]])), ("quant", 0.25, 4)),
    "twice": chain(("quant", 0.5, 8), ("quant", 0.5, 8)),
    "twice_narrower": chain(("quant", 0.5, 8), ("quant", 0.5, 5, {"signed": 0})),
    "other_grid": chain(("quant", 0.125, 8), ("norm",), ("quant", 0.5, 4)),
    "relu_of_codes": chain(("quant", 0.5, 8), ("Relu",)),
    "relu_of_few_codes": chain(("quant", 0.5, 4), ("Relu",)),
    "scaled_codes": chain(("quant", 0.5, 4), ("Mul", np.float32(-0.5)), ("Div", np.float32(4))),
    "thresholds": lambda net: mlp(net, first=multi_threshold(steps_per_channel)),
    "thresholds_of_all": lambda net: mlp(
        net, first=multi_threshold(np.array([[2.0, 0.0, 1.0]]), out_scale=0.5, out_bias=-1.0)
    ),
    "many_thresholds": lambda net: mlp(
        net, first=multi_threshold(lambda rng: np.sort(rng.integers(-80, 81, (N, 40)) / 8), out_dtype="UINT8")
    ),
    "bipolar_thresholds": lambda net: mlp(
        net, first=multi_threshold(lambda rng: rng.integers(-4, 5, (N, 1)) / 4, out_scale=1.0, out_bias=-0.5)
    ),
    "trunc": lambda net: mlp(net, first=trunc(scale=0.25, bits=6, to=4)),
    "trunc_of_codes": lambda net: mlp(
        net, first=then(after(("norm",), ("quant", 0.25, 6)), trunc(scale=0.25, bits=6, to=3))
    ),
    "trunc_of_input": lambda net: net.matmul(trunc(scale=0.25, bits=4, to=2)(net, net.quant("x", 0.25, 4))),
    "trunc_rounded": lambda net: mlp(
        net, first=then(after(("quant", 0.25, 6)), trunc(scale=0.25, bits=6, to=4, mode="ROUND"))
    ),
    "trunc_2": lambda net: mlp(
        net,
        first=then(
            after(("norm",), ("quant", 0.25, 6, {"signed": 0, "zero": 8.0})),
            trunc(scale=0.25, zero=8.0, bits=6, to=4, result=1.0, signed=0, narrow=0),
        ),
    ),
    "ends_quantised": lambda net: net.quant(net.matmul(net.quant("x", 0.25, 4)), 0.5, 8),
    "ends_bipolar": lambda net: net.bipolar(net.matmul(net.quant("x", 0.25, 4)), 2.0),
    "ends_reshaped": lambda net: net.node(
        "Reshape", net.norm(net.matmul(net.quant("x", 0.25, 4))), np.array([1, 1, N])
    ),
    "ends_scaled": lambda net: net.node(
        "Add", net.node("Mul", net.quant(net.matmul(net.quant("x", 0.25, 4)), 0.5, 8), VECTOR), np.float32(1)
    ),
    "ends_subtracted": lambda net: net.node("Sub", VECTOR, net.matmul(net.quant("x", 0.25, 4))),
    "only_quantised": lambda net: net.quant("x", 0.5, 4),
    "cast_and_identity": lambda net: mlp(
        net, net.node("Cast", net.node("Identity", "x"), to=TensorProto.FLOAT), first=after(U3)
    ),
    **{f"mode_{mode.lower()}": chain(("norm",), ("quant", 0.5, 4, {"mode": mode})) for mode in ROUNDINGS},
    **{
        f"input_{mode.lower()}": lambda net, mode=mode: net.matmul(
            net.quant("x", 0.25, 4, zero=-3.0, mode=mode)
        )
        for mode in ROUNDINGS
    },
}


# Maps


def maps(*steps):
    """A network of steps, each a function of network, tensor and number of channels, that gives both."""

    def make(net):
        x, channels = net.quant("x", 0.25, 4), 3
        for step in steps:
            x, channels = step(net, x, channels)
        return x

    return make


def conv(n, *, norm=True, then=U3, **options):
    """A convolution, its normalisation and a quantiser."""

    def make(net, x, channels):
        x = net.conv(x, channels, n, **options)
        x = net.norm(x, n) if norm else x
        return after(then)(net, x) if then else x, n

    return make


def each(op, *rest, **attributes):
    """An operator that leaves the channels as they are; a quantiser or a method by its name."""
    if rest or not attributes:
        return lambda net, x, channels: (after((op, *rest, attributes))(net, x), channels)
    return lambda net, x, channels: (net.node(op, x, **attributes), channels)


def dense(n=5, size=None, **options):
    def make(net, x, channels):
        return net.matmul(net.node("Flatten", x), k=size or channels, n=n, **options), n

    return make


PAD = {"pads": [1, 1, 1, 1]}
HALVE = {"kernel_shape": [2, 2], "strides": [2, 2]}


def cnv(net):
    """As FINN's CNV: bipolar throughout, pooled behind the quantiser."""
    x = net.bipolar(net.norm(net.conv(net.quant("x", 0.25, 8), 3, 4, "b"), 4))
    x = net.bipolar(net.norm(net.conv(x, 4, 6, "b"), 6))
    x = net.node("MaxPool", x, **HALVE)
    x = net.bipolar(net.norm(net.matmul(net.node("Flatten", x), "b", k=6 * 3 * 3), N))
    return net.matmul(x, "b", k=N, n=5)


def residual(op, *, last=U3, scales=(0.5, 0.25), kinds=(3, 4)):
    """Two branches, quantised on grids of their own."""

    def make(net):
        x = net.quant("x", 0.25, 4)
        a = net.quant(net.norm(net.conv(x, 3, 4, **PAD), 4), scales[0], kinds[0])
        b = net.quant(net.norm(net.conv(x, 3, 4, kernel=(1, 1)), 4), scales[1], kinds[1])
        x = after(last)(net, net.node(op, a, b))
        return dense(size=4 * 36)(net, x, 4)[0]

    return make


def residual_of_one(net):
    """A tensor and a function of it."""
    x = net.quant("x", 0.25, 4)
    y = net.node("Add", net.node("Mul", x, np.float32(-0.5)), net.node("Relu", x))
    return net.conv(net.quant(y, 0.125, 8), 3, 2)


def residual_stack(net):
    """Three times onto the same tensor, requantised to 8 bits each time."""
    x = net.quant(net.conv(net.quant("x", 0.25, 4), 3, 4, **PAD), 0.25, 8)
    for _ in range(3):
        y = net.quant(net.node("Relu", net.norm(net.conv(x, 4, 4, **PAD), 4)), 0.5, 4, signed=0)
        y = net.quant(net.conv(y, 4, 4, kernel=(1, 1)), 0.25, 8)
        x = net.quant(net.node("Relu", net.node("Add", x, y)), 0.5, 8, signed=0)
    return dense(size=4 * 36)(net, x, 4)[0]


def joined(*kinds, axis=1):
    def make(net):
        x = net.quant("x", 0.25, 4)
        parts = [net.quant(net.conv(x, 3, 4, **PAD), 0.5, bits, signed=signed) for bits, signed in kinds]
        return net.conv(net.node("Concat", *parts, axis=axis), 4 * len(kinds) if axis == 1 else 4, 3)

    return make


def channels_last(net):
    """Channels last at the edges, as TensorFlow exports them."""
    x = net.node("Transpose", net.node("Mul", "x", np.float32(2)), perm=[0, 3, 1, 2])
    x = net.node("Add", x, np.array([0.5, 1, -1])[:, None, None])
    x = net.quant(net.norm(net.conv(net.quant(x, 0.25, 4), 3, 4), 4), 0.5, 4)
    x = net.node("Reshape", net.node("Transpose", x, perm=[0, 2, 3, 1]), np.array([1, -1]))
    return net.matmul(x, k=4 * 4 * 4, n=5)


def levels_of(n, count=3):
    def make(net, x, channels):
        levels = np.sort(net.rng.integers(-24, 25, (n, count)) / 4, axis=1)
        return net.custom("MultiThreshold", x, levels, out_dtype="UINT2", data_layout="NCHW"), channels

    return make


def truncated_mean(net):
    """As Brevitas exports its average pools."""
    x = net.quant(net.node("Relu", net.conv(net.quant("x", 0.25, 4), 3, 4)), 0.25, 4, signed=0)
    x = net.node("Mul", net.node("AveragePool", x, kernel_shape=[4, 4]), np.float32(16))
    x = trunc(scale=0.25, bits=8, to=4)(net, x)
    return dense()(net, x, 4)[0]


def mean_then_more(net):
    x = net.quant(net.norm(net.conv(net.quant("x", 0.25, 4), 3, 4), 4), 0.25, 4)
    x = net.node("ReduceMean", net.node("Mul", x, np.float32(-2)), axes=[2, 3], keepdims=0)
    x = net.quant(net.node("Relu", net.node("Add", x, np.float32(0.5))), 0.125, 8, signed=0)
    return net.matmul(x, k=4, n=5)


def one_axis(net):
    x = net.conv(net.quant("x", 0.25, 4), 3, 4, kernel=(3,), pads=[2, 1], strides=[2], dilations=[2])
    x = net.quant(net.norm(x, 4), 0.5, 4)
    x = net.node("MaxPool", x, kernel_shape=[2], strides=[1])
    x = net.quant(net.conv(x, 4, 4, kernel=(2,), group=4), 0.25, 8)
    x = net.node("AveragePool", x, kernel_shape=[2], pads=[1, 0])
    x = net.quant(x, 0.25, 4)
    return dense(size=4 * 2)(net, x, 4)[0]


MAPS = {
    "conv": maps(conv(4), conv(5, **PAD), dense(size=5 * 16)),
    "conv_strides": maps(conv(4, strides=[2, 1], dilations=[1, 2], pads=[0, 1, 2, 1]), dense(size=4 * 12)),
    "conv_same": maps(conv(4, auto_pad="SAME_UPPER", strides=[2, 2]), dense(size=4 * 9)),
    "conv_bias": maps(conv(4, bias=np.array([0.5, -1, 2, 0.25])), dense(size=4 * 16)),
    "conv_grouped": maps(conv(6), conv(4, group=2), dense(size=4 * 4)),
    "conv_depthwise": maps(conv(4, group=1), conv(8, group=4, **PAD), conv(4, kernel=(1, 1)), dense(size=64)),
    "conv_bipolar": maps(conv(4, bits="b", then=("bipolar", 0.5)), conv(5, bits="b"), dense(size=5 * 4)),
    "conv_three_bits": maps(conv(4, bits=3, then=("quant", 0.5, 3)), conv(4, bits=3), dense(size=16)),
    "conv_eight_bits": maps(conv(4, norm=False, then=("quant", 0.5, 8), **PAD), dense(size=4 * 36)),
    "conv_zero_point": maps(
        conv(4, then=("quant", 0.5, 4, {"signed": 0, "zero": 5.0})), conv(3, **PAD), dense(size=3 * 16)
    ),
    "conv_at_the_end": maps(conv(4, norm=False, then=None)),
    "conv_flat_at_the_end": maps(conv(4, then=None, kernel=(6, 6)), each("Flatten", axis=1)),
    "cnv": cnv,
    "max_pool": maps(conv(4, **PAD), each("MaxPool", **HALVE), conv(4), dense(size=4)),
    "max_pool_padded": maps(
        conv(4, **PAD),
        each("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1]),
        dense(size=4 * 9),
    ),
    "max_pool_before": maps(
        conv(4, norm=False, then=None, **PAD),
        each("Relu"),
        each("MaxPool", **HALVE),
        each(*U3[:3], **U3[3]),
        conv(4),
        dense(size=4),
    ),
    "max_pool_before_add": maps(
        conv(4, then=None, **PAD),
        each("MaxPool", **HALVE),
        each("Add", np.array([0.5, 1, -1, 0])[:, None, None]),
        each(*U3[:3], **U3[3]),
        dense(size=4 * 9),
    ),
    "max_pool_of_bipolar": maps(
        conv(4, then=("bipolar", 0.5)),
        each("MaxPool", **HALVE),
        conv(4, kernel=(2, 2), **PAD),
        dense(size=36),
    ),
    "global_max_pool": maps(conv(4), each("GlobalMaxPool"), dense()),
    "average_pool": maps(
        conv(4, **PAD), each("AveragePool", **HALVE), each("quant", 0.25, 4), conv(4), dense(size=4)
    ),
    "average_pool_padded": maps(
        conv(4, **PAD),
        each("AveragePool", kernel_shape=[2, 2], pads=[1, 0, 0, 1], count_include_pad=0),
        each("quant", 0.25, 8),
        dense(size=4 * 36),
    ),
    "average_pool_counted": maps(
        conv(4, **PAD),
        each("AveragePool", kernel_shape=[2, 2], pads=[1, 0, 0, 1], count_include_pad=1),
        each("quant", 0.25, 8),
        dense(size=4 * 36),
    ),
    "average_pool_of_bipolar": maps(
        conv(4, then=("bipolar", 0.5)), each("AveragePool", **HALVE), each("quant", 0.25, 4), dense(size=16)
    ),
    "global_average_pool": maps(conv(4), each("GlobalAveragePool"), each("quant", 0.125, 8), dense()),
    "truncated_mean": truncated_mean,
    "mean_then_more": mean_then_more,
    "residual_add": residual("Add"),
    "residual_subtract": residual("Sub", last=("quant", 0.25, 8)),
    "residual_multiply": residual("Mul", last=("quant", 0.125, 8)),
    "residual_bipolar": residual("Add", last=("bipolar", 1.0)),
    "residual_one_scale": residual("Add", scales=(0.5, 0.5), kinds=(4, 4), last=("quant", 0.5, 5)),
    "residual_of_one": residual_of_one,
    "residual_stack": residual_stack,
    "joined": joined((4, 1), (4, 1)),
    "joined_types": joined((4, 1), (3, 0), (4, 0)),
    "joined_rows": joined((4, 1), (4, 1), axis=2),
    "norm_of_codes": maps(
        conv(4), each("MaxPool", **HALVE), each("norm", 4), each("quant", 0.5, 4), dense(size=16)
    ),
    "norm_of_codes_wide": maps(
        conv(4, norm=False, then=("quant", 0.25, 8)),
        each("MaxPool", **HALVE),
        each("Mul", np.array([0.5, 1, 2, -1])[:, None, None]),
        each("quant", 0.5, 8),
        dense(size=16),
    ),
    "thresholds_of_maps": maps(
        conv(4, norm=False, then=None), levels_of(4), conv(3), levels_of(3), dense(size=12)
    ),
    "thresholds_of_codes": maps(conv(4), each("MaxPool", **HALVE), levels_of(4), dense(size=16)),
    "padded": maps(
        conv(4, then=("quant", 0.5, 4, {"signed": 0, "zero": 5.0})),
        each("Pad", np.array([0, 0, 1, 0, 0, 0, 0, 2])),
        conv(3),
        dense(size=3 * 12),
    ),
    "channels_last": channels_last,
    "one_axis": one_axis,
    "quantised_again": maps(
        conv(4, norm=False, then=("quant", 0.25, 8)), each("quant", 0.5, 8), dense(size=64)
    ),
    "scaled_again": maps(
        conv(4, norm=False, then=("quant", 0.25, 8)),
        each("Mul", np.float32(0.75)),
        each("Relu"),
        each("quant", 0.5, 6),
        dense(size=64),
    ),
}
NETWORKS |= {f"maps_{name}": make for name, make in MAPS.items()}
SHAPES |= {f"maps_{name}": (1, 3, 6, 6) for name in MAPS}
SHAPES |= {"maps_channels_last": (1, 6, 6, 3), "maps_one_axis": (1, 3, 8), "maps_cnv": (1, 3, 10, 10)}


def network(name):
    net = Network(version=2 if name == "trunc_2" else 1)
    output = NETWORKS[name](net)
    return net.model(output, SHAPES.get(name, (1, K)))


POOLED_ENGINE = EngineConfig(
    pe="bismo",
    cols=4,
    lanes=32,
    precisions=("a8w2", "a4w4", "a1w2"),
    quantisers=("thresholds", "accumulators"),
    combine=("maximum",),
    weight_depth=2048,
    patch_depth=128,
    queue_depth=4,
)


@pytest.fixture(scope="module")
def pooled_engine():
    return emit(POOLED_ENGINE)


@pytest.mark.parametrize(
    ("name", "pooled"),
    [
        ("maps_cnv", [False, True, False, False]),
        ("maps_max_pool", [True, False, False]),
        ("maps_max_pool_padded", [False, False, False]),
        ("maps_max_pool_before", [True, False, False]),
        ("maps_global_max_pool", [True, False]),
    ],
)
def test_pools_on_an_engine(name, pooled, pooled_engine, tmp_path):
    """Which convolutions do the pool behind them, and that every tensor is what the golden model makes."""
    graph = imported(network(name), tmp_path)
    program = compile_graph(graph, POOLED_ENGINE)
    assert ["pooled by" in layer.tiling for layer in program.layers] == pooled
    done = execute(program, graph, inputs_for(graph, 1), pooled_engine, simulator="icarus")
    assert done.mismatches == {}


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name, tmp_path):
    model = network(name)
    graph = imported(model, tmp_path)
    x = inputs_for(graph)
    runs = [real_numbers(model, one) for one in x]
    reference = {key: np.stack([run[key] for run in runs]) for key in runs[0]}
    names = compare(graph, x, reference)
    quantised = [name for name in names if not name.startswith(("matmul", "gemm", "conv"))]
    assert quantised or name == "only_quantised"
    for key in quantised:
        assert len(np.unique(reference[key])) > 1
    assert graph.output == model.graph.output[0].name
    assert np.unique(reference[graph.output]).size > 1


def random_steps(rng):
    """What may stand between a matrix product and its quantiser, in any order."""
    powers = np.array([-4.0, -2, -1, -0.5, 0.25, 0.5, 1, 2])
    kinds = {
        "Mul": lambda: (rng.choice(powers, N),),
        "Div": lambda: (np.float32(rng.choice(powers)),),
        "Add": lambda: (rng.integers(-8, 9, N) / 4,),
        "Sub": lambda: (np.float32(rng.integers(-8, 9) / 4),),
        "Relu": lambda: (),
        "Clip": lambda: (np.float32(-rng.integers(1, 5)), np.float32(rng.integers(1, 5))),
        "norm": lambda: (),
        "quant": lambda: (2.0 ** rng.integers(-4, 0), int(rng.integers(2, 9)), {"signed": 1}),
    }
    chosen = rng.choice(list(kinds), rng.integers(1, 7))
    return [(str(kind), *kinds[str(kind)]()) for kind in chosen]


@pytest.mark.parametrize(("scale", "said"), [(0.0123, 1), (0.25, 0)])
@pytest.mark.parametrize("size", [(2, 2), (2, 3)])
def test_halves_of_means(tmp_path, scale, said, size):
    """Halves go to even, also where float32 does not hold them; and an engine takes them."""
    net = Network()
    y = net.node("AveragePool", net.quant("x", scale, 8), kernel_shape=size)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = load(save(net.model(net.quant(y, scale, 8), (1, 3, 4, 6)), tmp_path))
    assert ["halves go to even" in str(each.message) for each in caught] == [True] * said
    (pool,) = [node for node in graph.nodes if isinstance(node, AveragePool)]
    ((count, table),) = pool.tables.items()
    sums = np.arange(len(table)) - 128 * count
    quotient, rest = np.divmod(sums, count)
    whole = quotient + (2 * rest > count) + ((2 * rest == count) & (quotient % 2 == 1))
    np.testing.assert_array_equal(table, whole)
    assert compile_graph(graph, EngineConfig(cols=4, lanes=8)).layers


@pytest.mark.parametrize("seed", range(40))
def test_random_chains(seed, tmp_path):
    """Up to four bits, every chain becomes thresholds."""
    rng = np.random.default_rng(seed)
    net = Network(seed=seed)
    mode = str(rng.choice(list(ROUNDINGS)))
    last = ("quant", 0.5, int(rng.integers(2, 5)), {"mode": mode, "signed": int(rng.integers(2))})
    model = net.model(mlp(net, first=after(*random_steps(rng), last)))
    graph = imported(model, tmp_path)
    x = inputs_for(graph, 20)
    runs = [real_numbers(model, one) for one in x]
    names = compare(graph, x, {key: np.stack([run[key] for run in runs]) for key in runs[0]})
    assert len(names) == 2
    assert isinstance(layers(graph)[0].quantiser, Thresholds)


class RandomMaps:
    """A network of maps at random: layers that fit each other, dyadic scales."""

    def __init__(self, seed):
        self.net = Network(seed=seed)
        self.rng = np.random.default_rng(seed)
        self.bipolar = False

    def choice(self, *options):
        return options[self.rng.integers(len(options))]

    def quantised(self, x, most=4):
        if self.rng.random() < 0.25:
            self.bipolar = True
            return self.net.bipolar(x, 0.5)
        self.bipolar = False
        signed = int(self.rng.integers(2))
        zero = float(self.choice(0, 0, 1))
        bits = int(self.rng.integers(2, most + 1))
        return self.net.quant(x, self.choice(0.25, 0.5, 1.0), bits, signed=signed, zero=zero)

    def conv(self, x, channels, size):
        kernel = [int(self.rng.integers(1, min(4, n + 1))) for n in size]
        a = {"strides": [int(n) for n in self.rng.integers(1, 3, 2)]}
        reach = kernel
        if self.rng.random() < 0.3 and all(2 * k - 1 <= n for k, n in zip(kernel, size, strict=True)):
            a["dilations"] = [2, 2]
            reach = [2 * k - 1 for k in kernel]
        pads = [0] * 4 if self.bipolar or self.rng.random() < 0.5 else self.rng.integers(0, 3, 4).tolist()
        group = self.choice(*(g for g in (1, 1, 2, 3, channels) if channels % g == 0))
        n = group * int(self.rng.integers(1, 4))
        x = self.net.conv(
            x, channels, n, self.choice("b", 2, 3, 4), kernel=kernel, group=group, pads=pads, **a
        )
        if self.rng.random() < 0.6:
            x = self.net.norm(x, n)
        if self.rng.random() < 0.3:
            x = self.net.node("Relu", x)
        size = [(size[i] + pads[i] + pads[i + 2] - reach[i]) // a["strides"][i] + 1 for i in range(2)]
        return self.quantised(x), n, size

    def pool(self, x, channels, size):
        average = self.rng.random() < 0.5
        pads = [0] * 4 if average else self.rng.integers(0, 2, 4).tolist()
        a = {"kernel_shape": [2, 2], "strides": [int(n) for n in self.rng.integers(1, 3, 2)], "pads": pads}
        x = self.net.node("AveragePool" if average else "MaxPool", x, **a)
        size = [(size[i] + pads[i] + pads[i + 2] - 2) // a["strides"][i] + 1 for i in range(2)]
        return (self.quantised(x, 8) if average else x), channels, size

    def residual(self, x, channels, size):
        y = self.net.conv(x, channels, channels, 3, kernel=(1, 1))
        y = self.net.quant(y, 0.25, 4)
        return self.quantised(self.net.node(self.choice("Add", "Sub", "Mul"), x, y), 6), channels, size

    def joined(self, x, channels, size):
        axis = int(self.rng.integers(1, 4))
        size = [n * (1 + (axis == at + 2)) for at, n in enumerate(size)]
        return self.net.node("Concat", x, x, axis=axis), channels * (1 + (axis == 1)), size

    def model(self):
        shape = (int(self.rng.integers(1, 4)), *(int(n) for n in self.rng.integers(5, 9, 2)))
        x, channels, size = self.net.quant("x", 0.25, 4), shape[0], list(shape[1:])
        for _ in range(int(self.rng.integers(1, 5))):
            kinds = [self.conv, self.conv, self.residual, self.joined]
            if min(size) > 1:
                kinds.append(self.pool)
            x, channels, size = self.choice(*kinds)(x, channels, size)
        x = self.net.matmul(self.net.node("Flatten", x), k=channels * size[0] * size[1], n=4)
        return self.net.model(x, (1, *shape))


@pytest.mark.parametrize("seed", range(50))
def test_random_maps(seed, tmp_path):
    print("seed", seed)
    model = RandomMaps(seed).model()
    graph = imported(model, tmp_path)
    x = inputs_for(graph, 8)
    runs = [real_numbers(model, one) for one in x]
    names = compare(graph, x, {key: np.stack([run[key] for run in runs]) for key in runs[0]})
    assert names
    for node in graph.nodes:
        if isinstance(node, Reshape | Transpose):
            assert same_order(node, graph.tensors[node.input], graph.tensors[node.output]), node.name


@pytest.mark.parametrize("name", NETWORKS)
def test_network_in_qonnx(name, tmp_path):
    """The same against QONNX's own executor, where it is installed and works with this onnx."""
    pytest.importorskip("qonnx")
    if tuple(map(int, onnx.__version__.split(".")[:2])) > (1, 20):
        pytest.skip("QONNX's executor makes models that onnxruntime refuses with onnx above 1.20")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    model = network(name)
    graph = imported(model, tmp_path)
    wrapped = ModelWrapper(model).transform(InferShapes())
    x = inputs_for(graph, 10)
    runs = [execute_onnx(wrapped, {"x": one}, return_full_exec_context=True) for one in x]
    compare(graph, x, {key: np.stack([run[key] for run in runs]) for key in runs[0] if key})


@pytest.mark.parametrize("domain", ["", DOMAIN, "onnx.brevitas", "finn.custom_op.general"])
def test_domains(domain, tmp_path):
    net = Network(domain=domain)
    model = net.model(mlp(net, first=after(U3)))
    graph = imported(model, tmp_path)
    assert [type(node) for node in graph.nodes] == [Quantize, FullyConnected, FullyConnected, Dequantize]


# What becomes of it


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bipolar", Bipolar()),
        ("ternary", Ternary()),
        ("four_bits", Int(4)),
        ("one_bit_signed", Bipolar()),
        ("one_bit_unsigned", Int(1, signed=False)),
        ("unsigned_weights", Int(4, signed=False)),
        ("weight_zero_point", Int(5)),
        ("wide_weights", Int(16)),
        ("scale_per_channel", Int(3)),
    ],
)
def test_weight_format(name, expected, tmp_path):
    assert {layer.weight_format for layer in layers(imported(network(name), tmp_path))} == {expected}


def test_formats_of_plain_weights(tmp_path):
    formats = [layer.weight_format for layer in layers(imported(network("finn"), tmp_path))]
    assert formats == [Int(4), Bipolar(), Ternary()]


@pytest.mark.parametrize(
    ("name", "quantiser", "format"),
    [
        ("norm", Thresholds, Int(3, signed=False)),
        ("four_bits", Thresholds, Int(4)),
        ("bipolar_activations", Thresholds, Bipolar()),
        ("one_bit_signed", Thresholds, Bipolar()),
        ("one_bit_unsigned", Thresholds, Int(1, signed=False)),
        ("requantised", Requantise, Int(8)),
        ("requantised_narrow", Requantise, Int(6, signed=False)),
        ("twice_narrower", Requantise, Int(5, signed=False)),
        ("relu_of_few_codes", Thresholds, Int(4)),
        ("thresholds", Thresholds, Int(3, signed=False)),
        ("thresholds_of_all", Thresholds, Int(2)),
        ("many_thresholds", Thresholds, Int(8, signed=False)),
        ("bipolar_thresholds", Thresholds, Bipolar()),
        ("trunc", Thresholds, Int(4)),
        ("trunc_2", Thresholds, Int(4, signed=False)),
        ("ends_quantised", Requantise, Int(8)),
    ],
)
def test_quantiser(name, quantiser, format, tmp_path):
    graph = imported(network(name), tmp_path)
    first = layers(graph)[0]
    assert isinstance(first.quantiser, quantiser)
    assert graph.tensors[first.output].format == format


HEAD, TAIL = [Quantize, Convolution], [FullyConnected, Dequantize]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv_bias", [*HEAD, Transpose, Reshape, *TAIL]),
        ("cnv", [*HEAD, Convolution, MaxPool, Transpose, Reshape, FullyConnected, *TAIL]),
        ("max_pool_before", [*HEAD, MaxPool, Convolution, Reshape, *TAIL]),
        ("global_average_pool", [*HEAD, AveragePool, Reshape, *TAIL]),
        ("truncated_mean", [*HEAD, AveragePool, Reshape, *TAIL]),
        ("residual_add", [*HEAD, Convolution, Binary, Transpose, Reshape, *TAIL]),
        ("residual_of_one", [Quantize, Lookup, Binary, Convolution, Dequantize]),
        ("joined", [*HEAD, Convolution, Concatenate, Convolution, Dequantize]),
        ("norm_of_codes", [*HEAD, MaxPool, Convolution, Transpose, Reshape, *TAIL]),
        ("padded", [*HEAD, Pad, Convolution, Transpose, Reshape, *TAIL]),
        ("channels_last", [Quantize, Transpose, Convolution, Transpose, Reshape, *TAIL]),
        ("quantised_again", [*HEAD, Lookup, Transpose, Reshape, *TAIL]),
        ("conv_flat_at_the_end", [*HEAD, Reshape, Dequantize]),
    ],
)
def test_nodes_of_maps(name, expected, tmp_path):
    """And whatever is flattened only relabels, channels last."""
    graph = imported(network(f"maps_{name}"), tmp_path)
    assert [type(node) for node in graph.nodes] == expected
    for node in graph.nodes:
        if isinstance(node, Reshape | Transpose):
            assert same_order(node, graph.tensors[node.input], graph.tensors[node.output])


def test_depthwise(tmp_path):
    layer = imported(network("maps_conv_depthwise"), tmp_path).nodes[2]
    assert layer.depthwise
    assert layer.weights.shape == (8, 3, 3, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("conv_bipolar", Bipolar()), ("conv_three_bits", Int(3)), ("conv_eight_bits", Int(8))],
)
def test_formats_of_maps(name, expected, tmp_path):
    graph = imported(network(f"maps_{name}"), tmp_path)
    assert graph.tensors[graph.nodes[1].output].format == expected
    assert graph.nodes[1].weight_format == {"conv_bipolar": Bipolar(), "conv_three_bits": Int(3)}.get(
        name, Int(4)
    )


def test_accumulators_at_the_end(tmp_path):
    graph = imported(network("bipolar"), tmp_path)
    last, dequantize = graph.nodes[-2:]
    assert last.quantiser is None
    info = graph.tensors[last.output]
    assert (info.format, info.scale, info.zero_point) == (Int(32), 0.125, 0)
    assert dequantize.gain == -0.75
    np.testing.assert_array_equal(dequantize.offset, 0.375 + np.array([0.25, 1, 2, 3, 4]))
    plain = imported(network("norm"), tmp_path).nodes[-1]
    assert plain.gain is None
    assert plain.offset is None


def test_names_and_order(tmp_path):
    graph = imported(network("flattened"), tmp_path)
    assert [type(node) for node in graph.nodes[:3]] == [Quantize, Reshape, FullyConnected]
    assert graph.nodes[0].input == "x"
    assert graph.nodes[1].output.startswith("quant_")


def test_names_belong_to_the_numbers_of_the_file(tmp_path):
    """Codes and accumulators that stand for other numbers than the file's tensor go by another name."""
    net = Network()
    x = net.node("Mul", quantised(net), np.float32(0.5))
    x = net.node("Reshape", x, np.array([1, K]))
    flat = net.node("Reshape", net.node("Reshape", x, np.array([K])), np.array([1, K]))
    graph = imported(
        net.model(net.node("Mul", net.matmul(flat, scale=VECTOR[:, None] ** 2), VECTOR)), tmp_path
    )
    products = {node.output[0] for node in onnx.load(tmp_path / "network.onnx").graph.node}
    assert {name for name in graph.tensors if name in products} == {"quant_0", graph.output}
    assert {f"{flat}_codes", f"{layers(graph)[0].output}"} < set(graph.tensors)


def test_a_symbolic_batch_is_one(tmp_path):
    net = Network()
    graph = imported(net.model(mlp(net, first=after(U3)), ("batch", K)), tmp_path)
    assert graph.tensors["x"].shape == (1, K)


def test_rounded_bias_is_reported(tmp_path):
    net = Network()
    x = net.node("Add", net.node("Mul", net.matmul(net.quant("x", 0.25, 4)), np.float32(8)), np.float32(0.75))
    with pytest.warns(
        UserWarning, match=r"node 'n_quant_\d+' \(Quant\): bias is rounded .* up to 1\.\d\d codes"
    ):
        load(save(net.model(net.quant(x, 0.25, 8)), tmp_path))


# Thresholds by bisection


def test_thresholds_of_every_kind():
    rng = np.random.default_rng(11)
    n, codes = 40, 6
    steps = np.sort(rng.integers(-300, 301, (n, codes - 1)), axis=1)
    steps[:4] = steps[:4, :1]  # several codes at once
    sign = rng.choice([-1, 1], n)
    sign[0], sign[1] = 1, -1
    steps[4:6] = 1000  # constant: the lowest code
    steps[6:8] = -1000  # the highest
    low, high = rng.integers(-250, 0, n), rng.integers(1, 250, n)

    def function(acc):
        return sum((sign * acc >= step).astype(np.int64) for step in steps.T)

    levels, descending = thresholds_of(function, low, high, codes)
    assert levels.shape == (n, codes - 1)
    assert (np.diff(levels, axis=1) >= 0).all()
    assert descending.any()
    assert not descending.all()
    quantiser = Thresholds(levels=levels, descending=descending, low=0)
    for channel in range(n):
        acc = np.arange(low[channel], high[channel] + 1)
        every = np.repeat(acc[:, None], n, axis=1)
        np.testing.assert_array_equal(
            golden.thresholds(quantiser, every)[:, channel], function(every)[:, channel]
        )
    assert (levels[4:6] == LEVEL_MAX).all()
    assert (levels[6:8] == LEVEL_MIN).all()
    # What lies inside is the step itself.
    inside = (levels > LEVEL_MIN) & (levels < LEVEL_MAX) & ~descending[:, None] & (sign == 1)[:, None]
    assert inside.any()
    np.testing.assert_array_equal(levels[inside], steps[inside])


def test_thresholds_over_all_of_int32():
    low, high = np.array([-(2**31)] * 4), np.array([2**31 - 1] * 4)
    edges = np.array([-(2**31) + 1, 2**31 - 1, 5, -7])

    def function(acc):
        return (np.array([1, 1, -1, 1]) * acc >= edges).astype(np.int64)

    levels, descending = thresholds_of(function, low, high, 2)
    assert levels.ravel().tolist() == [-(2**31) + 1, 2**31 - 1, -5, -7]
    assert descending.tolist() == [False, False, True, False]


def test_no_accumulator_but_one():
    zero = np.zeros(2, np.int64)
    levels, _ = thresholds_of(lambda acc: np.broadcast_to([0, 2], acc.shape), zero, zero, 3)
    assert levels.tolist() == [[LEVEL_MAX] * 2, [LEVEL_MIN] * 2]


# Real networks


def golden_file(shared_data, name):
    graph = load(shared_data / "qonnx" / f"{name}.onnx")
    return graph, np.load(shared_data / "qonnx" / f"golden_{name}.npz")


@pytest.mark.parametrize(
    ("name", "tensors", "format"),
    [
        (
            "TFC_1W1A",
            {
                "37": "x_5_BipolarQuant_4_out0",
                "45": "x_9_BipolarQuant_5_out0",
                "53": "x_13_BipolarQuant_6_out0",
                "61": "x_17_BipolarQuant_7_out0",
                "66": "x_19_MatMul_3_out0",
            },
            Bipolar(),
        ),
        (
            "TFC_2W2A",
            {
                "39": "x_5_Quant_4_out0",
                "51": "x_9_Quant_5_out0",
                "63": "x_13_Quant_6_out0",
                "75": "x_17_Quant_7_out0",
                "82": "x_19_MatMul_3_out0",
            },
            Ternary(),
        ),
    ],
)
def test_tfc(name, tensors, format, shared_data):
    graph, recorded = golden_file(shared_data, name)
    ours = golden.run(graph, recorded["input"])
    for key, theirs in tensors.items():
        info = graph.tensors[key]
        assert info.format is not None
        np.testing.assert_array_equal(ours[key] * info.scale, recorded[theirs], err_msg=key)
    products = ["x_7_MatMul_0_out0", "x_11_MatMul_1_out0", "x_15_MatMul_2_out0", "x_19_MatMul_3_out0"]
    for node, theirs in zip(layers(graph), products, strict=True):
        acc = golden.accumulators(node, ours[node.input], graph.tensors[node.input])
        np.testing.assert_array_equal(acc, recorded[theirs], err_msg=node.name)
        assert node.weight_format == format
    np.testing.assert_allclose(ours[graph.output], recorded["output"], rtol=1e-5)


def test_keywords(shared_data):
    graph, recorded = golden_file(shared_data, "kws_w3a3_mlperf_v0.7_QONNX_model")
    ours = golden.run(graph, recorded["input_float"])
    tensors = {
        "27": "x002_Quant_0_out0",
        "28": "x003_Flatten_0_out0",
        "40": "x008_Quant_5_out0",
        "52": "x013_Quant_6_out0",
        "64": "x018_Quant_7_out0",
    }
    differ = 0
    for key, theirs in tensors.items():
        codes = np.rint(recorded[theirs] / graph.tensors[key].scale)
        differ += np.count_nonzero(ours[key][:4] != codes)
    # Of 6992 values of 4 inputs: a float32 that lands on the other side of a threshold explains a few.
    assert differ == 0
    np.testing.assert_array_equal(ours[graph.output].argmax(-1), recorded["output"].argmax(-1))
    np.testing.assert_allclose(ours[graph.output], recorded["output"], rtol=1e-4, atol=1e-4)


# Refusals


def refused(output, message, tmp_path, net, shape=(1, K), kind=TensorProto.FLOAT):
    model = net.model(output, shape, kind)
    with pytest.raises(NetworkError, match=message) as caught:
        load(save(model, tmp_path))
    assert str(caught.value).isprintable()


def quantised(net):
    return net.quant("x", 0.25, 4)


def product(net):
    return net.matmul(quantised(net))


def weights(net, values=None, **others):
    values = net.rng.normal(0, 1, (K, N)) if values is None else values
    return net.quant(values, 0.25, 4, **others)


def overflowing(net):
    x = product(net)
    for _ in range(9):
        x = net.node("Mul", x, np.float32(3e38))
    return net.quant(net.node("Mul", net.node("Sub", x, np.float32(1)), np.float32(0)), 0.5, 4)


REFUSED = {
    "sigmoid": (
        lambda n: n.quant(n.node("Sigmoid", product(n)), 0.5, 4),
        "(Sigmoid): operator Sigmoid is not supported",
    ),
    "resize": (lambda n: n.node("Resize", quantised(n)), "operator Resize is not supported"),
    "fpga": (
        lambda n: n.node("MVAU", quantised(n), domain="finn.custom_op.fpgadataflow"),
        "operator MVAU of finn.custom_op.fpgadataflow is not supported",
    ),
    "float_weights": (
        lambda n: n.node("MatMul", quantised(n), n.rng.normal(0, 1, (K, N))),
        "(MatMul): weights are not quantised; put a Quant",
    ),
    "huge_weights": (
        lambda n: n.node("MatMul", quantised(n), np.full((K, N), 1e6)),
        "(MatMul): weights have more than 16 bits",
    ),
    "float_input": (lambda n: n.matmul("x"), "(MatMul): its input is not quantised; put a Quant"),
    "two_products": (lambda n: n.matmul(product(n), k=N), "(MatMul): its input is not quantised"),
    "arithmetic_after": (
        lambda n: n.matmul(n.node("Add", quantised(n), np.float32(1))),
        "its input is not quantised: arithmetic follows the last quantiser",
    ),
    "weights_first": (
        lambda n: n.node("MatMul", weights(n), quantised(n)),
        "is not the product of a quantised activation, first, with constant weights",
    ),
    "two_activations": (
        lambda n: n.node("MatMul", quantised(n), quantised(n)),
        "is not the product of a quantised activation",
    ),
    "shapes": (
        lambda n: n.matmul(quantised(n), k=5),
        r"input \(1, 12\) and weights for 5 inputs do not agree",
    ),
    "weight_axes": (
        lambda n: n.node("MatMul", quantised(n), weights(n, np.ones((1, K, N)))),
        r"weights of shape \(1, 12, 8\) are not a matrix",
    ),
    "input_scales": (
        lambda n: n.node(
            "MatMul", quantised(n), n.quant(np.ones((K, N)), np.arange(1, K + 1)[:, None] / 8, 4)
        ),
        "weights have a scale per input channel",
    ),
    "zero_scale": (lambda n: n.matmul(n.quant("x", 0.0, 4)), "(Quant): scale 0 is not positive"),
    "negative_weight_scale": (
        lambda n: n.node("MatMul", quantised(n), n.quant(np.ones((K, N)), -0.5, 4)),
        "(Quant): scale -0.5 is not positive",
    ),
    "bipolar_scale": (lambda n: n.matmul(n.bipolar("x", -1.0)), "(BipolarQuant): scale -1 is not positive"),
    "activation_scales": (
        lambda n: n.matmul(n.quant("x", np.arange(1, K + 1), 4)),
        "its scale differs from channel to channel; quantise activations per tensor",
    ),
    "computed_scale": (
        lambda n: n.matmul(n.custom("Quant", "x", "x", np.float32(0), np.float32(4), signed=1, narrow=0)),
        "(Quant): its scale is not constant",
    ),
    "infinite_scale": (lambda n: n.matmul(n.quant("x", np.inf, 4)), "its scale is not made of finite FLOAT"),
    "no_bits": (
        lambda n: n.matmul(n.custom("Quant", "x", np.float32(1), np.float32(0), signed=1, narrow=0)),
        "(Quant): has no bit width",
    ),
    "nine_bits": (lambda n: n.matmul(n.quant("x", 1, 9)), "bit width 9 is not a whole number from 1 to 8"),
    "half_bits": (lambda n: n.matmul(n.quant("x", 1, 2.5)), "bit width 2.5 is not a whole number"),
    "seventeen_bits": (
        lambda n: n.node("MatMul", quantised(n), n.quant(np.ones((K, N)), 1, 17)),
        "bit width 17 is not a whole number from 1 to 16",
    ),
    "zero_point": (lambda n: n.matmul(n.quant("x", 1, 4, zero=0.5)), "zero point 0.5 is not a whole number"),
    "far_zero_point": (
        lambda n: n.matmul(n.quant("x", 1, 4, zero=8)),
        "zero point 8 is not a whole number from -8 to 7",
    ),
    "bipolar_zero_point": (lambda n: n.matmul(n.quant("x", 1, 1, zero=1)), "is bipolar with a zero point"),
    "weight_zero_point": (
        lambda n: n.node("MatMul", quantised(n), weights(n, zero=0.5)),
        "zero point is not a code",
    ),
    "one_code": (
        lambda n: n.matmul(n.quant("x", 1, 1, signed=0, narrow=1)),
        "(Quant): has no code but 0",
    ),
    "mode": (
        lambda n: n.matmul(n.quant("x", 1, 4, mode="DITHER")),
        "rounding mode DITHER is not known; use ROUND",
    ),
    "rounded_down_to_eight_bits": (
        lambda n: n.matmul(n.quant(product(n), 0.5, 8, mode="FLOOR"), k=N),
        "(Quant): makes 256 codes with rounding FLOOR; use ROUND, or no more than 16 codes",
    ),
    "falls": (
        lambda n: n.matmul(
            n.quant(
                n.node(
                    "Mul", n.node("MatMul", quantised(n), weights(n, np.full((K, N), -9.0))), np.float32(-1)
                ),
                0.5,
                8,
            ),
            k=N,
        ),
        r"falls as the result of 'n_matmul_\d+' grows, and that node's weights, negated, do not fit int4",
    ),
    "constant_bipolar": (
        lambda n: n.matmul(
            n.quant(n.node("Mul", n.matmul(quantised(n), "b"), np.arange(N) * 1.0), 0.5, 8), k=N
        ),
        "is constant, and bipolar weights cannot be 0",
    ),
    "clamps_differ": (
        lambda n: n.matmul(
            n.quant(n.node("Add", n.node("Relu", product(n)), np.arange(N) * 1.0), 0.5, 8), k=N
        ),
        "an activation before it clamps each channel differently",
    ),
    "bias": (
        lambda n: n.matmul(n.quant(n.node("Add", product(n), np.float32(2.5e8)), 1e8, 8), k=N),
        "(Quant): its bias does not fit int32 in units of the accumulator",
    ),
    "relu_at_the_end": (
        lambda n: n.node("Relu", product(n)),
        "(Relu): an activation at the network's end is not quantised",
    ),
    "reshaped_at_the_end": (
        lambda n: n.node("Reshape", n.node("Mul", product(n), VECTOR), np.array([2, 4])),
        "(Reshape): reshapes the output after arithmetic per channel",
    ),
    "power": (
        lambda n: n.quant(n.node("Pow", product(n), np.float32(2)), 0.5, 4),
        "(Pow): is not monotone in the result of a matrix product",
    ),
    "reciprocal": (
        lambda n: n.quant(n.node("Div", np.float32(2), product(n)), 0.5, 4),
        "(Div): is not monotone in the result of a matrix product",
    ),
    "root": (lambda n: n.quant(n.node("Sqrt", product(n)), 0.5, 4), "(Sqrt): is supported of constants only"),
    "division_by_zero": (
        lambda n: n.quant(n.node("Div", product(n), np.float32(0)), 0.5, 4),
        "(Div): divides by zero",
    ),
    "constant_shape": (
        lambda n: n.quant(n.node("Add", product(n), np.ones(5)), 0.5, 4),
        r"(Add): a constant of shape \(5,\) does not match its input \(1, 8\)",
    ),
    "constant_per_row": (
        lambda n: n.quant(n.node("Add", product(n), np.arange(2.0)[:, None]), 0.5, 4),
        "differs between the rows of a matrix product",
    ),
    "types": (
        lambda n: n.quant(n.node("Add", product(n), np.arange(N)), 0.5, 4),
        "(Add): its constant is not made of finite FLOAT numbers",
    ),
    "gemm": (
        lambda n: n.node("Gemm", quantised(n), weights(n), alpha=2.0),
        r"(Gemm): alpha = 2.0 is not supported",
    ),
    "training": (
        lambda n: n.quant(
            n.node("BatchNormalization", product(n), *[np.ones(N)] * 4, training_mode=1), 0.5, 4
        ),
        "(BatchNormalization): is in training mode",
    ),
    "variance": (
        lambda n: n.quant(n.node("BatchNormalization", product(n), *[np.ones(N)] * 3, -np.ones(N)), 0.5, 4),
        "(BatchNormalization): variance is not positive",
    ),
    "norm_size": (
        lambda n: n.quant(n.node("BatchNormalization", product(n), *[np.ones(3)] * 4), 0.5, 4),
        "its scale has 3 elements for 8 channels",
    ),
    "clip": (
        lambda n: n.quant(n.node("Clip", product(n), np.float32(np.nan)), 0.5, 4),
        "(Clip): a bound is not a number",
    ),
    "clip_type": (
        lambda n: n.quant(n.node("Clip", product(n), np.zeros(2)), 0.5, 4),
        "(Clip): its min is not one number of type FLOAT",
    ),
    "trunc_one_code": (
        lambda n: n.matmul(trunc(to=1, result=1.0, signed=0, narrow=1)(n, product(n)), k=N),
        "(Trunc): has no code but 0",
    ),
    "bipolar_weight_zero_point": (
        lambda n: n.node("MatMul", quantised(n), n.quant(np.ones((K, N)), 1, 1, zero=1.0)),
        "(Quant): is bipolar with a zero point",
    ),
    "wide_zero_point": (
        lambda n: n.node(
            "MatMul", quantised(n), n.quant(np.full((K, N), -1e5), 1, 16, signed=0, zero=65535.0)
        ),
        r"weights less their zero point are -65535\.\.-65535, more than 16 bits",
    ),
    "gemm_axes": (
        lambda n: n.node("Gemm", n.node("Reshape", quantised(n), np.array([1, 1, K])), weights(n)),
        "(Gemm): its input has 3 axes instead of 2",
    ),
    "cast": (
        lambda n: n.matmul(n.node("Cast", quantised(n), to=TensorProto.INT8)),
        "(Cast): casts to INT8",
    ),
    "infinite_clip": (
        lambda n: n.quant(n.node("Clip", product(n), np.float32(np.inf), np.float32(np.inf)), 0.5, 4),
        "(Clip): clamps to inf..inf",
    ),
    "trunc_of_floats": (
        lambda n: n.matmul(trunc(scale=0.25, bits=6, to=4)(n, "x")),
        "(Trunc): does not truncate integers; put it behind",
    ),
    "trunc_to_eight": (
        lambda n: n.matmul(trunc(scale=0.0625, bits=10, to=8)(n, product(n)), k=N),
        "(Trunc): makes 256 codes with rounding FLOOR",
    ),
    "trunc_overflow": (
        lambda n: n.matmul(trunc(scale=0.0625, bits=4, to=3)(n, product(n)), k=N),
        r"(Trunc): makes -\d+\.\.\d+, which do not fit int3",
    ),
    "trunc_zero_point": (
        lambda n: n.matmul(trunc(zero=1.0, bits=6, to=4, result=0.25, signed=1)(n, product(n)), k=N),
        "(Trunc): its zero point becomes 0.25",
    ),
    "threshold_shape": (
        lambda n: n.matmul(multi_threshold(np.ones(3))(n, product(n)), k=N),
        r"(MultiThreshold): thresholds of shape \(3,\) are not a matrix",
    ),
    "threshold_channels": (
        lambda n: n.matmul(multi_threshold(np.ones((3, 2)))(n, product(n)), k=N),
        "thresholds for 3 channels do not match its input",
    ),
    "threshold_count": (
        lambda n: n.matmul(multi_threshold(np.ones((1, 256)))(n, product(n)), k=N),
        "up to 255 levels",
    ),
    "threshold_scale": (
        lambda n: n.matmul(multi_threshold(np.ones((1, 2)), out_scale=0.0)(n, product(n)), k=N),
        "out_scale 0 is not a positive number",
    ),
    "threshold_bias": (
        lambda n: n.matmul(multi_threshold(np.ones((1, 2)), out_bias=0.25)(n, product(n)), k=N),
        "out_bias 0.25 is no code of 8 bits in units of out_scale 1",
    ),
    "threshold_range": (
        lambda n: n.matmul(multi_threshold(np.ones((1, 200)), out_bias=-20.0)(n, product(n)), k=N),
        r"its results -20\.\.180 need more than 8 bits",
    ),
    "computed_shape": (lambda n: n.node("Reshape", quantised(n), "x"), "input 1 is not constant"),
    "gather": (
        lambda n: n.node("Reshape", quantised(n), n.node("Gather", n.node("Shape", "x"), np.array([5]))),
        r"(Gather): cannot be computed",
    ),
    "constants_only": (
        lambda n: n.quant(np.ones(4), 1, 4),
        "output 'quant_.*': is not computed by any matrix product",
    ),
    "relu_of_constants": (
        lambda n: n.node("MatMul", quantised(n), n.node("Relu", weights(n))),
        "(Relu): clamps constants",
    ),
    "overflow": (overflowing, "(Quant): its input grows beyond all numbers"),
}


def image(net):
    return net.quant("x", 0.25, 4)


IMAGE = (1, 3, 6, 6)
REFUSED_MAPS = {
    "float_weights": (
        lambda n: n.node("Conv", image(n), n.rng.normal(0, 1, (2, 3, 3, 3))),
        "(Conv): weights are not quantised; put a Quant",
    ),
    "float_input": (lambda n: n.conv("x", 3, 2), "(Conv): its input is not quantised; put a Quant"),
    "two_convs": (lambda n: n.conv(n.conv(image(n), 3, 2), 2, 2), "(Conv): its input is not quantised"),
    "channels": (
        lambda n: n.conv(image(n), 4, 2),
        r"input \(1, 3, 6, 6\), weights \(2, 4, 3, 3\) and 1 groups do not",
    ),
    "groups": (lambda n: n.conv(image(n), 6, 4, group=4), "and 4 groups do not agree"),
    "axes": (
        lambda n: n.node("Conv", n.node("Flatten", image(n)), n.quant(np.ones((2, 3, 3, 3)), 1, 4)),
        "only 1-D and 2-D convolutions are supported",
    ),
    "kernel": (
        lambda n: n.conv(image(n), 3, 2, kernel=(7, 7)),
        r"kernel \(7, 7\) does not fit its input \(6, 6\)",
    ),
    "padded_bipolar": (
        lambda n: n.conv(n.node("Pad", n.bipolar("x"), np.array([0, 0, 1, 1, 0, 0, 1, 1])), 3, 2),
        "(Pad): pads a bipolar tensor, which has no zero",
    ),
    "padded_by_one": (
        lambda n: n.conv(n.node("Pad", image(n), np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.float32(1)), 3, 2),
        "(Pad): pads with 1; pad with 0",
    ),
    "counted_bipolar": (
        lambda n: n.quant(
            n.node("AveragePool", n.bipolar("x"), kernel_shape=[2, 2], count_include_pad=1, **PAD), 0.5, 4
        ),
        "(AveragePool): pads a bipolar tensor, which has no zero",
    ),
    "mean_of_floats": (
        lambda n: n.quant(n.node("GlobalAveragePool", n.conv(image(n), 3, 2)), 0.5, 4),
        "(GlobalAveragePool): its input is not quantised",
    ),
    "mean_not_quantised": (
        lambda n: n.matmul(n.node("Flatten", n.node("GlobalAveragePool", image(n))), k=3),
        "(MatMul): its input is not quantised",
    ),
    "mean_at_the_end": (
        lambda n: n.node("GlobalAveragePool", image(n)),
        "(GlobalAveragePool): its input is not",
    ),
    "mean_axes": (
        lambda n: n.quant(n.node("ReduceMean", image(n), axes=[1], keepdims=1), 0.5, 4),
        "only means over height and width are supported",
    ),
    "mean_per_channel": (
        lambda n: n.quant(n.norm(n.node("GlobalAveragePool", image(n)), 3), 0.5, 4),
        "differs between the channels of what no product made",
    ),
    "maximum_of_floats": (
        lambda n: n.quant(n.node("MaxPool", "x", **HALVE), 0.5, 4),
        "(MaxPool): its input is not quantised",
    ),
    "maximum_of_the_negated": (
        lambda n: n.conv(n.node("MaxPool", n.node("Mul", image(n), np.float32(-1)), **HALVE), 3, 2),
        "(MaxPool): takes the greatest of negated codes",
    ),
    "falls_after_the_maximum": (
        lambda n: n.quant(
            n.node("Mul", n.node("MaxPool", n.conv(image(n), 3, 2), **HALVE), np.float32(-1)), 0.5, 4
        ),
        "(MaxPool): takes the greatest of what then falls as it grows",
    ),
    "maximum_at_the_end": (
        lambda n: n.node("MaxPool", n.conv(image(n), 3, 2), **HALVE),
        "(MaxPool): its result is not quantised",
    ),
    "dilated_maximum": (
        lambda n: n.node("MaxPool", image(n), kernel_shape=[2, 2], dilations=[2, 2]),
        "(MaxPool): dilates its window",
    ),
    "flat_pool": (
        lambda n: n.node("MaxPool", n.node("Flatten", image(n)), kernel_shape=[2]),
        "is no map of one or two axes",
    ),
    "shapes": (
        lambda n: n.quant(n.node("Add", image(n), n.node("MaxPool", image(n), **HALVE)), 0.5, 4),
        r"combines shapes \(1, 3, 6, 6\) and \(1, 3, 3, 3\)",
    ),
    "sum_of_floats": (
        lambda n: n.quant(n.node("Add", n.conv(image(n), 3, 3, **PAD), image(n)), 0.5, 4),
        "(Add): its input is not quantised",
    ),
    "sum_of_channels": (
        lambda n: n.quant(n.node("Add", n.norm(image(n), 3), image(n)), 0.5, 4),
        "(Add): takes what differs from channel to channel after its last quantiser",
    ),
    "sum_of_three": (
        lambda n: n.quant(
            n.node("Add", n.node("Add", image(n), n.quant("x", 0.5, 4)), n.quant("x", 1, 4)), 0.5, 4
        ),
        "(Add): combines more than two tensors; quantise in between",
    ),
    "sum_not_quantised": (
        lambda n: n.conv(n.node("Add", image(n), n.quant("x", 0.5, 4)), 3, 2),
        "(Conv): its input is not quantised",
    ),
    "joined_scales": (
        lambda n: n.conv(n.node("Concat", image(n), n.quant("x", 0.5, 4), axis=1), 6, 2),
        "(Concat): joins tensors of different scales",
    ),
    "joined_shapes": (
        lambda n: n.conv(n.node("Concat", image(n), n.node("MaxPool", image(n), **HALVE), axis=1), 6, 2),
        "do not agree beside axis 1",
    ),
    "joined_constants": (
        lambda n: n.conv(n.node("Concat", image(n), np.ones((1, 1, 6, 6)), axis=1), 4, 2),
        "(Concat): joins computed tensors with constants",
    ),
    "bias": (
        lambda n: n.conv(image(n), 3, 2, bias=np.ones(3)),
        r"(Conv): bias of shape \(3,\) is not for 2 channels",
    ),
    "channels_first_at_the_end": (
        lambda n: n.norm(n.conv(image(n), 3, 2), 2),
        "or has its channels first",
    ),
}
REFUSED |= {f"maps_{name}": refusal for name, refusal in REFUSED_MAPS.items()}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    make, message = REFUSED[name]
    net = Network()
    shape = IMAGE if name.startswith("maps_") else (1, K)
    if message.startswith("("):
        operator, rest = message[1:].split(")", 1)
        message = rf"node 'n_\w+' \({operator}\){rest}"
    refused(make(net), message, tmp_path, net, shape=(2, K) if name == "constant_per_row" else shape)


def test_refused_input(tmp_path):
    net = Network()
    refused(quantised(net), "input 'x': is INT8; make it FLOAT", tmp_path, net, kind=TensorProto.INT8)
    refused("quant_0", "input 'x': axis 1 has no fixed size", tmp_path, net, shape=(1, "width"))


def test_external_data_are_never_opened(tmp_path):
    path = tmp_path / "network.onnx"
    onnx.save(network("norm"), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    with pytest.raises(NetworkError, match="keeps its data in another file; save the network as one file"):
        load(path)


# Damaged files


DAMAGED = ["bipolar", "gemm", "flattened_by_slice", "host_thresholds", "thresholds", "trunc_2", "requantised"]
DAMAGED += [
    f"maps_{name}" for name in ("cnv", "residual_add", "average_pool_counted", "joined_types", "padded")
]


def outcome(data, path):
    """`None`, or the message with which the file was refused; anything else is a bug."""
    path.write_bytes(data)
    message = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*bias is rounded")
            warnings.filterwarnings("error", category=RuntimeWarning)
            graph = load(path)
        golden.run(graph, np.zeros((1, *graph.tensors[graph.input].shape), np.float32))
    except NetworkError as error:
        message = str(error)
    assert message is None or message.isprintable()
    return message


@pytest.mark.parametrize("name", DAMAGED)
def test_mutated_bytes(name, tmp_path):
    data = np.frombuffer(network(name).SerializeToString(), np.uint8)
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(60):
        mutated = data.copy()
        where = rng.integers(0, len(data), rng.integers(1, 4))
        mutated[where] = rng.integers(0, 256, where.size)
        messages.append(outcome(mutated.tobytes(), tmp_path / "mutated.onnx"))
    assert sum(message is not None for message in messages) > 3


@pytest.mark.parametrize("name", DAMAGED)
def test_mutated_content(name, tmp_path):
    """Well-formed files whose numbers and connections are not those of a network."""
    rng = np.random.default_rng(1)
    odd = [0, -1, 0.5, 1e-45, 3e38, -3e38, np.inf, np.nan, 255, 1e9]
    messages = []
    for _ in range(60):
        model = network(name)
        graph = model.graph
        for _ in range(rng.integers(1, 4)):
            tensor = graph.initializer[rng.integers(len(graph.initializer))]
            node = graph.node[rng.integers(len(graph.node))]
            match rng.integers(4):
                case 0:
                    values = numpy_helper.to_array(tensor).copy()
                    if values.dtype == np.float32:
                        values.flat[rng.integers(values.size)] = rng.choice(odd)
                    else:
                        values.flat[rng.integers(values.size)] = rng.integers(-9, 9)
                    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
                case 1:
                    values = numpy_helper.to_array(tensor)
                    shape = rng.integers(0, 4, rng.integers(4))
                    tensor.CopyFrom(numpy_helper.from_array(np.resize(values, shape), tensor.name))
                case 2 if node.input:
                    source = rng.choice([tensor.name, "x", *graph.node[0].output])
                    node.input[rng.integers(len(node.input))] = source
                case _ if node.input:
                    del node.input[rng.integers(len(node.input))]
        messages.append(outcome(model.SerializeToString(), tmp_path / "mutated.onnx"))
    assert sum(message is not None for message in messages) > 20
