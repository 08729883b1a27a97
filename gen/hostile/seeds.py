"""Small sound files of every kind that is read, for others to be made of by breaking them.

They are networks of one or two operators and a few channels, so that a mutation hits something that matters
and hundreds are read in a second. Together they hold every operator that the importers lower in a way of its
own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any

import flatbuffers
import numpy as np
import onnx
import tflite
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["onnx_networks", "tflite_networks"]

Op = tflite.BuiltinOperator


# TFLite


@dataclass
class _Flat:
    """A TFLite network: tensors and operators are collected, then packed."""

    tensors: list[tuple[str, Sequence[int], int, float | None, int, NDArray[Any] | None]] = field(
        default_factory=list
    )
    operators: list[tuple[int, tuple[Sequence[int], int, str | None, dict[str, Any]]]] = field(
        default_factory=list
    )

    def tensor(
        self,
        shape: Sequence[int],
        *,
        kind: int = tflite.TensorType.INT8,
        scale: float | None = 2**-6,
        zero_point: int = 0,
        data: NDArray[Any] | None = None,
    ) -> int:
        self.tensors.append((f"t{len(self.tensors)}", shape, kind, scale, zero_point, data))
        return len(self.tensors) - 1

    def weights(self, *shape: int, scale: float = 2**-7) -> int:
        rng = np.random.default_rng(len(self.tensors))
        return self.tensor(shape, scale=scale, data=rng.integers(-127, 128, shape).astype(np.int8))

    def bias(self, size: int) -> int:
        values = np.arange(size).astype("<i4") * 10
        return self.tensor((size,), kind=tflite.TensorType.INT32, scale=2**-13, data=values)

    def integers(self, values: ArrayLike) -> int:
        array = np.asarray(values, "<i4")
        return self.tensor(array.shape, kind=tflite.TensorType.INT32, scale=None, data=array)

    def operator(
        self,
        op: int,
        inputs: Sequence[int],
        shape: Sequence[int],
        table: str | None = None,
        *,
        kind: int = tflite.TensorType.INT8,
        scale: float | None = 2**-6,
        zero_point: int = 0,
        **options: Any,
    ) -> int:
        output = self.tensor(shape, kind=kind, scale=scale, zero_point=zero_point)
        self.operators.append((op, (inputs, output, table, options)))
        return output

    def pack(self, output: int) -> bytes:
        b = flatbuffers.Builder(1024)
        contents = [None, *(data for *_, data in self.tensors if data is not None)]
        buffers = []
        for data in contents:
            stored = None if data is None else b.CreateByteVector(np.ascontiguousarray(data).tobytes())
            tflite.BufferStart(b)
            if stored is not None:
                tflite.BufferAddData(b, stored)
            buffers.append(tflite.BufferEnd(b))
        places = iter(range(1, len(contents)))
        tensors = [
            self._tensor(b, *tensor[:5], 0 if tensor[5] is None else next(places)) for tensor in self.tensors
        ]
        codes = list(dict.fromkeys(op for op, _ in self.operators))
        operators = [self._operator(b, codes.index(op), *rest) for op, rest in self.operators]
        parts = [
            _vector(b, tensors, b.PrependUOffsetTRelative),
            _vector(b, [0], b.PrependInt32),
            _vector(b, [output], b.PrependInt32),
            _vector(b, operators, b.PrependUOffsetTRelative),
        ]
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, parts[0])
        tflite.SubGraphAddInputs(b, parts[1])
        tflite.SubGraphAddOutputs(b, parts[2])
        tflite.SubGraphAddOperators(b, parts[3])
        subgraphs = _vector(b, [tflite.SubGraphEnd(b)], b.PrependUOffsetTRelative)
        packed = []
        for op in codes:
            tflite.OperatorCodeStart(b)
            tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(op, 127))
            tflite.OperatorCodeAddBuiltinCode(b, op)
            packed.append(tflite.OperatorCodeEnd(b))
        operator_codes = _vector(b, packed, b.PrependUOffsetTRelative)
        packed_buffers = _vector(b, buffers, b.PrependUOffsetTRelative)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, operator_codes)
        tflite.ModelAddSubgraphs(b, subgraphs)
        tflite.ModelAddBuffers(b, packed_buffers)
        b.Finish(tflite.ModelEnd(b), b"TFL3")
        return bytes(b.Output())

    @staticmethod
    def _tensor(
        b: Any, name: str, shape: Sequence[int], kind: int, scale: float | None, zero_point: int, buffer: int
    ) -> int:
        quantisation = None
        if scale is not None:
            scales = _vector(b, [scale], b.PrependFloat32)
            zeros = _vector(b, [zero_point], b.PrependInt64, 8)
            tflite.QuantizationParametersStart(b)
            tflite.QuantizationParametersAddScale(b, scales)
            tflite.QuantizationParametersAddZeroPoint(b, zeros)
            quantisation = tflite.QuantizationParametersEnd(b)
        text = b.CreateString(name)
        sizes = _vector(b, shape, b.PrependInt32)
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, sizes)
        tflite.TensorAddType(b, kind)
        tflite.TensorAddBuffer(b, buffer)
        tflite.TensorAddName(b, text)
        if quantisation is not None:
            tflite.TensorAddQuantization(b, quantisation)
        return int(tflite.TensorEnd(b))

    @staticmethod
    def _operator(
        b: Any, code: int, inputs: Sequence[int], output: int, table: str | None, options: dict[str, Any]
    ) -> int:
        read = _vector(b, inputs, b.PrependInt32)
        written = _vector(b, [output], b.PrependInt32)
        own = None
        if table is not None:
            getattr(tflite, f"{table}Start")(b)
            for key, value in options.items():
                getattr(tflite, f"{table}Add{key}")(b, value)
            own = getattr(tflite, f"{table}End")(b)
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, code)
        tflite.OperatorAddInputs(b, read)
        tflite.OperatorAddOutputs(b, written)
        if table is not None:
            tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, table))
            tflite.OperatorAddBuiltinOptions(b, own)
        return int(tflite.OperatorEnd(b))


def _vector(b: Any, values: Sequence[Any], prepend: Any, width: int = 4) -> int:
    b.StartVector(width, len(values), width)
    for value in reversed(values):
        prepend(value)
    return int(b.EndVector())


@cache
def tflite_networks() -> tuple[bytes, ...]:
    """TFLite files."""
    found = []

    def network(
        op: int,
        shapes: Sequence[Sequence[int]],
        table: str | None = None,
        *,
        make: Any = None,
        **options: Any,
    ) -> None:
        """One operator; `shapes` are of its input and its output, `make` adds the other inputs."""
        flat = _Flat()
        inputs = [flat.tensor(shapes[0]), *(make(flat) if make else ())]
        found.append(flat.pack(flat.operator(op, inputs, shapes[1], table, **options)))

    image, one = (1, 4, 4, 2), {"StrideH": 1, "StrideW": 1}
    full, dilated = "FullyConnectedOptions", {"DilationHFactor": 1, "DilationWFactor": 1}
    network(
        Op.FULLY_CONNECTED,
        ((1, 4), (1, 3)),
        full,
        make=lambda flat: (flat.weights(3, 4), flat.bias(3)),
        FusedActivationFunction=1,
    )
    network(
        Op.CONV_2D,
        (image, image),
        "Conv2DOptions",
        make=lambda flat: (flat.weights(2, 3, 3, 2), flat.bias(2)),
        **one,
        **dilated,
    )
    network(
        Op.DEPTHWISE_CONV_2D,
        (image, (1, 2, 2, 2)),
        "DepthwiseConv2DOptions",
        make=lambda flat: (flat.weights(1, 2, 2, 2), flat.bias(2)),
        StrideH=2,
        StrideW=2,
        DepthMultiplier=1,
        **dilated,
    )
    for op in (Op.MAX_POOL_2D, Op.AVERAGE_POOL_2D):
        network(op, (image, image), "Pool2DOptions", StrideH=1, StrideW=1, FilterHeight=3, FilterWidth=2)
    for op, table in ((Op.ADD, "AddOptions"), (Op.SUB, "SubOptions"), (Op.MUL, "MulOptions")):
        network(op, ((1, 3), (1, 3)), table, make=lambda flat: (flat.weights(1),), FusedActivationFunction=1)
        network(op, ((1, 3), (1, 3)), table, make=lambda flat: (0,))
    network(Op.RELU, ((1, 3), (1, 3)))
    network(Op.HARD_SWISH, ((1, 3), (1, 3)))
    network(Op.LEAKY_RELU, ((1, 3), (1, 3)), "LeakyReluOptions", Alpha=0.1)
    network(Op.TANH, ((1, 3), (1, 3)), scale=2**-7)
    network(Op.LOGISTIC, ((1, 3), (1, 3)), scale=2**-8, zero_point=-128)
    network(Op.CONCATENATION, (image, (1, 4, 4, 4)), "ConcatenationOptions", make=lambda flat: (0,), Axis=3)
    around = [[0, 0], [1, 1], [2, 0], [0, 1]]
    network(Op.PAD, (image, (1, 6, 6, 3)), make=lambda flat: (flat.integers(around),))
    network(
        Op.PADV2,
        (image, (1, 6, 6, 3)),
        make=lambda flat: (flat.integers(around), flat.weights(1, scale=2**-6)),
    )
    network(
        Op.SLICE,
        (image, (1, 2, 2, 2)),
        make=lambda flat: (flat.integers([0, 1, 1, 0]), flat.integers([1, 2, 2, 2])),
    )
    network(
        Op.RESIZE_NEAREST_NEIGHBOR,
        (image, (1, 8, 8, 2)),
        "ResizeNearestNeighborOptions",
        make=lambda flat: (flat.integers([8, 8]),),
    )
    network(
        Op.TRANSPOSE, (image, image), "TransposeOptions", make=lambda flat: (flat.integers([0, 2, 1, 3]),)
    )
    network(Op.MEAN, (image, (1, 2)), "ReducerOptions", make=lambda flat: (flat.integers([1, 2]),))
    network(Op.RESHAPE, (image, (1, 32)), "ReshapeOptions", make=lambda flat: (flat.integers([1, -1]),))
    network(
        Op.ARG_MAX,
        ((1, 4), (1,)),
        "ArgMaxOptions",
        make=lambda flat: (flat.integers(1),),
        kind=tflite.TensorType.INT32,
        scale=None,
    )

    # Several in a row, from floats to floats.
    flat = _Flat()
    x = flat.tensor((1, 4), kind=tflite.TensorType.FLOAT32, scale=None)
    x = flat.operator(Op.QUANTIZE, [x], (1, 4))
    x = flat.operator(Op.FULLY_CONNECTED, [x, flat.weights(3, 4)], (1, 3), full)
    x = flat.operator(Op.SOFTMAX, [x], (1, 3), "SoftmaxOptions", scale=2**-8, zero_point=-128, Beta=1.0)
    x = flat.operator(Op.DEQUANTIZE, [x], (1, 3), kind=tflite.TensorType.FLOAT32, scale=None)
    return (*found, flat.pack(x))


# ONNX


@dataclass
class _Nodes:
    """An ONNX network, node by node."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initialisers: list[TensorProto] = field(default_factory=list)
    numbers: "count[int]" = field(default_factory=count)

    def constant(self, values: ArrayLike, kind: Any = None) -> str:
        name = f"c{next(self.numbers)}"
        self.initialisers.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        names = [f"{op.lower()}{next(self.numbers)}" for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(op, inputs, names, name=f"n{len(self.nodes)}", domain=domain, **attributes)
        )
        return names[0]

    def weights(self, *shape: int, kind: Any = np.int8) -> NDArray[Any]:
        rng = np.random.default_rng(next(self.numbers))
        if kind == np.int8:
            return rng.integers(-127, 128, shape).astype(np.int8)
        return rng.normal(0, 0.5, shape).astype(np.float32)

    def quantised(self, value: str, scale: float = 2**-6) -> str:
        parameters = self.constant(scale, np.float32), self.constant(0, np.int8)
        codes = self.node("QuantizeLinear", value, *parameters)
        return self.node("DequantizeLinear", codes, *parameters)

    def stored(self, *shape: int) -> str:
        parameters = self.constant(2**-7, np.float32), self.constant(0, np.int8)
        return self.node("DequantizeLinear", self.constant(self.weights(*shape)), *parameters)

    def at(self, scale: float = 2**-6) -> tuple[str, str]:
        return self.constant(scale, np.float32), self.constant(0, np.int8)

    def custom(self, op: str, *inputs: str, **attributes: Any) -> str:
        return self.node(op, *inputs, domain="qonnx.custom_op.general", **attributes)

    def quant(self, value: str, scale: float = 0.25, bits: int = 4, signed: int = 1) -> str:
        numbers = [self.constant(each, np.float32) for each in (scale, 0, bits)]
        return self.custom("Quant", value, *numbers, signed=signed, narrow=0, rounding_mode="ROUND")

    def pack(self, output: str, shape: Sequence[int], kind: int = TensorProto.FLOAT) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info(output, kind, None)],
            self.initialisers,
        )
        domains = [
            helper.make_opsetid("", 13),
            helper.make_opsetid("com.microsoft", 1),
            helper.make_opsetid("qonnx.custom_op.general", 1),
        ]
        data: bytes = helper.make_model(graph, opset_imports=domains, ir_version=8).SerializeToString()
        return data


@cache
def onnx_networks(dialect: str) -> tuple[bytes, ...]:
    """ONNX files of a dialect: ``qdq``, ``qlinear`` or ``qonnx``."""
    return {"qdq": _qdq, "qlinear": _qlinear, "qonnx": _qonnx}[dialect]()


_IMAGE = (1, 2, 4, 4)
_SAME = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
_POOL = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 1, 0, 1]}


def _qdq() -> tuple[bytes, ...]:
    found = []

    def network(shape: Sequence[int], make: Any) -> None:
        """What `make` adds between two quantisers."""
        net = _Nodes()
        found.append(net.pack(net.quantised(make(net, net.quantised("x"))), shape))

    def integers(net: _Nodes, *values: int) -> str:
        return net.constant(values, np.int64)

    network((1, 4), lambda net, x: net.node("Relu", net.node("Gemm", x, net.stored(3, 4), transB=1)))
    network((1, 4), lambda net, x: net.node("Add", net.node("MatMul", x, net.stored(4, 3)), net.stored(3)))
    network(_IMAGE, lambda net, x: net.node("Conv", x, net.stored(2, 2, 3, 3), **_SAME))
    network(_IMAGE, lambda net, x: net.node("Conv", x, net.stored(2, 1, 2, 2), group=2, dilations=[2, 2]))
    network((1, 2, 6), lambda net, x: net.node("Conv", x, net.stored(2, 2, 3), strides=[2]))
    for op in ("MaxPool", "AveragePool"):
        network(_IMAGE, lambda net, x, op=op: net.node(op, x, **_POOL))
    for op in ("GlobalMaxPool", "GlobalAveragePool"):
        network(_IMAGE, lambda net, x, op=op: net.node(op, x))
    for op in ("Add", "Sub", "Mul"):
        network((1, 3), lambda net, x, op=op: net.node(op, x, net.quantised(net.node("Sigmoid", x), 2**-7)))
    for op in ("Sigmoid", "Tanh", "HardSwish", "Relu", "Identity"):
        network((1, 3), lambda net, x, op=op: net.node(op, x))
    network((1, 3), lambda net, x: net.node("LeakyRelu", x, alpha=0.1))
    network(
        (1, 3),
        lambda net, x: net.node("Clip", x, net.constant(0, np.float32), net.constant(1, np.float32)),
    )
    network(_IMAGE, lambda net, x: net.node("Concat", x, x, axis=1))
    network(_IMAGE, lambda net, x: net.node("Transpose", x, perm=[0, 1, 3, 2]))
    network(
        _IMAGE,
        lambda net, x: net.node(
            "Pad", x, integers(net, 0, 0, 1, 1, 0, 0, 1, 0), net.constant(0, np.float32), mode="constant"
        ),
    )
    network(
        _IMAGE,
        lambda net, x: net.node("Slice", x, integers(net, 1), integers(net, 3), integers(net, 2)),
    )
    network(_IMAGE, lambda net, x: net.node("Split", x, integers(net, 1, 1), outputs=2, axis=1))
    network(
        _IMAGE,
        lambda net, x: net.node(
            "Resize",
            x,
            "",
            net.constant([1, 1, 2, 2], np.float32),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    )
    network(_IMAGE, lambda net, x: net.node("ReduceMean", x, axes=[2, 3], keepdims=0))
    network(_IMAGE, lambda net, x: net.node("Reshape", x, integers(net, 1, -1)))
    network(_IMAGE, lambda net, x: net.node("Flatten", x, axis=1))
    network((1, 3, 1), lambda net, x: net.node("Squeeze", x, integers(net, 2)))
    network((1, 3), lambda net, x: net.node("Unsqueeze", x, integers(net, 1)))

    net = _Nodes()
    found.append(net.pack(net.node("Softmax", net.quantised("x"), axis=1), (1, 4)))
    return tuple(found)


def _qlinear() -> tuple[bytes, ...]:
    found = []

    def network(shape: Sequence[int], make: Any) -> None:
        net = _Nodes()
        found.append(net.pack(make(net, net.at()), shape, TensorProto.INT8))

    def microsoft(net: _Nodes, op: str, *inputs: str, **attributes: Any) -> str:
        return net.node(op, *inputs, domain="com.microsoft", **attributes)

    def weights(net: _Nodes, *shape: int) -> tuple[str, ...]:
        return (net.constant(net.weights(*shape)), *net.at(2**-7))

    network((1, 4), lambda net, at: net.node("QLinearMatMul", "x", *at, *weights(net, 4, 2), *at))
    network(
        _IMAGE,
        lambda net, at: net.node(
            "QLinearConv",
            "x",
            *at,
            *weights(net, 2, 2, 3, 3),
            *at,
            net.constant([3, -2], np.int32),
            **_SAME,
        ),
    )
    for op in ("QLinearAdd", "QLinearMul"):
        network((1, 3), lambda net, at, op=op: microsoft(net, op, "x", *at, "x", *at, *at))
    network((1, 3), lambda net, at: microsoft(net, "QLinearSigmoid", "x", *at, *at))
    network((1, 3), lambda net, at: microsoft(net, "QLinearLeakyRelu", "x", *at, *at, alpha=0.1))
    network(_IMAGE, lambda net, at: microsoft(net, "QLinearConcat", *at, "x", *at, "x", *at, axis=1))
    network(_IMAGE, lambda net, at: microsoft(net, "QLinearAveragePool", "x", *at, *at, **_POOL))
    network(
        _IMAGE, lambda net, at: microsoft(net, "QLinearGlobalAveragePool", "x", *at, *at, channels_last=0)
    )
    return tuple(found)


def _qonnx() -> tuple[bytes, ...]:
    found = []

    def network(shape: Sequence[int], make: Any) -> None:
        net = _Nodes()
        found.append(net.pack(net.quant(make(net, net.quant("x", 0.125)), 1.0), shape))

    def weights(net: _Nodes, *shape: int) -> str:
        return net.quant(net.constant(net.weights(*shape, kind=np.float32)))

    def numbers(net: _Nodes, *values: Any) -> list[str]:
        return [net.constant(value, np.float32) for value in values]

    network((1, 4), lambda net, x: net.node("MatMul", x, weights(net, 4, 3)))
    network((1, 4), lambda net, x: net.node("Relu", net.node("Gemm", x, weights(net, 3, 4), transB=1)))
    network(_IMAGE, lambda net, x: net.node("Conv", x, weights(net, 2, 2, 3, 3), **_SAME))
    network(_IMAGE, lambda net, x: net.node("Conv", x, weights(net, 2, 1, 2, 2), group=2))
    network(
        (1, 4),
        lambda net, x: net.node(
            "BatchNormalization",
            net.node("MatMul", x, weights(net, 4, 2)),
            *numbers(net, [1, -0.5], [0, 1], [0, 2], [1, 1]),
            epsilon=0.0,
        ),
    )
    for op in ("Add", "Sub", "Mul", "Div"):
        network((1, 3), lambda net, x, op=op: net.node(op, x, *numbers(net, [2, 4, 0.5])))
    network((1, 3), lambda net, x: net.node("Add", x, net.quant(net.node("Relu", x), 0.125, signed=0)))
    for op in ("MaxPool", "AveragePool"):
        network(_IMAGE, lambda net, x, op=op: net.node(op, x, **_POOL))
    network(
        _IMAGE,
        lambda net, x: net.custom(
            "Trunc",
            net.node("AveragePool", x, kernel_shape=[2, 2]),
            *numbers(net, 0.125, 0, 6, 4),
            rounding_mode="FLOOR",
        ),
    )
    network(_IMAGE, lambda net, x: net.node("Concat", x, x, axis=1))
    network(_IMAGE, lambda net, x: net.node("Transpose", x, perm=[0, 2, 3, 1]))
    network(_IMAGE, lambda net, x: net.node("Reshape", x, net.constant([1, -1], np.int64)))
    network(_IMAGE, lambda net, x: net.node("Pad", x, net.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)))
    network(
        (1, 3),
        lambda net, x: net.node("Clip", net.node("Relu", x), *numbers(net, 0, 1)),
    )

    net = _Nodes()
    x = net.custom("BipolarQuant", "x", *numbers(net, 1))
    w = net.custom("BipolarQuant", *numbers(net, net.weights(3, 4, kind=np.float32), 1))
    x = net.node("MatMul", x, net.node("Transpose", w, perm=[1, 0]))
    levels = [[-2, 0, 1], [-1, 0, 3], [0, 1, 2]]
    x = net.custom("MultiThreshold", x, *numbers(net, levels), out_bias=-2.0, out_dtype="INT2")
    found.append(net.pack(x, (1, 4)))
    return tuple(found)
