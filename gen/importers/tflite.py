"""TFLite flatbuffers, quantised to int8.

What the numbers mean is TensorFlow Lite's quantisation specification; how they are rounded is what its
kernels for microcontrollers do (``tensorflow/lite/kernels/kernel_util.cc`` and gemmlowp).
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from bitwright.hw.formats import Int
from bitwright.hw.quant.arithmetic import quantise_multiplier
from bitwright.sim.golden import quantise
from bitwright.sim.graph import (
    Dequantize,
    FullyConnected,
    Graph,
    NetworkError,
    Node,
    Quantize,
    Reshape,
    TensorInfo,
)

__all__ = ["load"]

_INT8 = Int(8)

_CLAMPS = {
    tflite.ActivationFunctionType.NONE: (-np.inf, np.inf),
    tflite.ActivationFunctionType.RELU: (0.0, np.inf),
    tflite.ActivationFunctionType.RELU_N1_TO_1: (-1.0, 1.0),
    tflite.ActivationFunctionType.RELU6: (0.0, 6.0),
}

_CONVERT = "convert the network with full-integer int8 quantisation"


def load(data: bytes, name: str, where: str) -> Graph:
    """Graph of a TFLite file.

    Parameters
    ----------
    data
        Content of the file.
    name
        What to call the graph.
    where
        How messages about the file as a whole begin.

    Raises
    ------
    NetworkError
        The file is damaged or holds something that cannot be lowered; the message names the operator.
    """
    return _Importer(_File(data, where), name).graph()


# Reading: everything that touches the flatbuffer


@dataclass(frozen=True)
class _Tensor:
    index: int
    name: str
    shape: tuple[int, ...]
    type: int
    buffer: int
    scales: NDArray[np.float64]
    zero_points: NDArray[np.int64]
    axis: int
    sparse: bool

    @property
    def type_name(self) -> str:
        return _enum_name(tflite.TensorType, self.type)


@dataclass(frozen=True)
class _Operator:
    index: int
    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    activation: int
    weights_format: int


class _File:
    """A flatbuffer read into plain Python; whatever is wrong in it becomes a `NetworkError`."""

    def __init__(self, data: bytes, where: str):
        self.where = where
        self._data = data
        with self._reading():
            model = tflite.Model.GetRootAs(data, 0)
            self._model = model
            if model.SubgraphsLength() < 1:
                raise ValueError("no subgraph")
            subgraph = model.Subgraphs(0)
            self.inputs = _integers(subgraph.InputsAsNumpy())
            self.outputs = _integers(subgraph.OutputsAsNumpy())
            self.tensors = tuple(
                self._tensor(index, subgraph.Tensors(index)) for index in range(subgraph.TensorsLength())
            )
            self.operators = tuple(
                self._operator(index, subgraph.Operators(index))
                for index in range(subgraph.OperatorsLength())
            )
            for index in (*self.inputs, *self.outputs):
                self.tensors[self._index(index, len(self.tensors))]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (
            struct.error,
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            raise NetworkError(
                self.where, f"is a damaged or truncated TFLite file ({error})", "export the network again"
            ) from None

    @staticmethod
    def _index(index: int, count: int) -> int:
        if not 0 <= index < count:
            raise ValueError(f"reference to element {index} of {count}")
        return index

    @staticmethod
    def _tensor(index: int, tensor: Any) -> _Tensor:
        quantisation = tensor.Quantization()
        scales = zero_points = np.zeros(0)
        axis = 0
        if quantisation is not None:
            scales = _array(quantisation.ScaleAsNumpy())
            zero_points = _array(quantisation.ZeroPointAsNumpy())
            axis = int(quantisation.QuantizedDimension())
        return _Tensor(
            index=index,
            name=(tensor.Name() or b"").decode("utf-8", "replace"),
            shape=_integers(tensor.ShapeAsNumpy()),
            type=int(tensor.Type()),
            buffer=int(tensor.Buffer()),
            scales=scales.astype(np.float64),
            zero_points=zero_points.astype(np.int64),
            axis=axis,
            sparse=tensor.Sparsity() is not None,
        )

    def _operator(self, index: int, operator: Any) -> _Operator:
        model = self._model
        code = model.OperatorCodes(self._index(int(operator.OpcodeIndex()), model.OperatorCodesLength()))
        # Files from before there were more than 127 operators keep the number in the older field.
        number = max(int(code.BuiltinCode()), int(code.DeprecatedBuiltinCode()))
        op = _enum_name(tflite.BuiltinOperator, number)
        if number == tflite.BuiltinOperator.CUSTOM:
            op = f"custom operator {(code.CustomCode() or b'').decode('utf-8', 'replace')}"
        inputs, outputs = (
            _integers(indices) for indices in (operator.InputsAsNumpy(), operator.OutputsAsNumpy())
        )
        for tensor in (*inputs, *outputs):
            # -1 stands for an optional tensor that is left out.
            if tensor != -1:
                self._index(tensor, len(self.tensors))
        activation = weights_format = 0
        table = operator.BuiltinOptions()
        if table is not None and operator.BuiltinOptionsType() == tflite.BuiltinOptions.FullyConnectedOptions:
            options = tflite.FullyConnectedOptions()
            options.Init(table.Bytes, table.Pos)
            activation = int(options.FusedActivationFunction())
            weights_format = int(options.WeightsFormat())
        return _Operator(index, op, inputs, outputs, activation, weights_format)

    def content(self, tensor: _Tensor) -> NDArray[np.uint8] | None:
        """Bytes of a constant tensor; ``None`` for one that is computed."""
        with self._reading():
            if tensor.buffer == 0:
                return None
            index = self._index(tensor.buffer, self._model.BuffersLength())
            buffer = self._model.Buffers(index)
            if buffer.DataLength() == 0:
                return None
            return _array(buffer.DataAsNumpy()).astype(np.uint8, copy=False)


def _array(vector: Any) -> NDArray[Any]:
    # The reader gives the number 0 for a vector that is left out.
    return vector if isinstance(vector, np.ndarray) else np.zeros(0)


def _integers(vector: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in _array(vector))


def _enum_name(enum: type, value: int) -> str:
    return next(
        (key for key, number in vars(enum).items() if not key.startswith("_") and number == value),
        f"number {value}",
    )


# Lowering


class _Importer:
    def __init__(self, file: _File, name: str):
        self._file = file
        self._name = name
        counts = Counter(tensor.name for tensor in file.tensors)
        self._names: list[str] = []
        for tensor in file.tensors:
            unique = tensor.name and counts[tensor.name] == 1
            self._names.append(tensor.name if unique else f"{tensor.name or 'tensor'}_{tensor.index}")
        self._tensors: dict[str, TensorInfo] = {}
        self._nodes: list[Node] = []
        self._methods: dict[str, tuple[Callable[[_Operator, str, str], None], tuple[int, ...]]] = {
            "FULLY_CONNECTED": (self._fully_connected, (2, 3)),
            "RESHAPE": (self._reshape, (1, 2)),
            "QUANTIZE": (self._quantize, (1,)),
            "DEQUANTIZE": (self._dequantize, (1,)),
        }
        """How to lower each operator, and how many inputs it may have."""

    def graph(self) -> Graph:
        file = self._file
        for kind, indices in (("input", file.inputs), ("output", file.outputs)):
            if len(indices) != 1:
                names = ", ".join(f"'{self._names[index]}'" for index in indices) or "none"
                raise NetworkError(
                    file.where, f"must have one {kind}, but has {len(indices)}: {names}", f"keep one {kind}"
                )
        self._check_supported()
        for operator in file.operators:
            self._lower(operator)
        input, output = file.inputs[0], file.outputs[0]
        for index in (input, output):
            self._activation(index, file.where)
        return Graph(
            name=self._name,
            tensors=self._tensors,
            nodes=tuple(self._nodes),
            input=self._names[input],
            output=self._names[output],
        )

    def _where(self, operator: _Operator) -> str:
        outputs = operator.outputs
        named = f", output '{self._names[outputs[0]]}'" if outputs and outputs[0] >= 0 else ""
        return f"operator {operator.index} ({operator.op}{named})"

    def _check_supported(self) -> None:
        unsupported = [operator for operator in self._file.operators if operator.op not in self._methods]
        if unsupported:
            first, *others = dict.fromkeys(operator.op for operator in unsupported)
            raise NetworkError(
                self._where(unsupported[0]),
                f"{first} is not supported" + (f", nor {', '.join(others)}" if others else ""),
                f"supported are {', '.join(self._methods)}; leave the rest to the host",
            )

    def _lower(self, operator: _Operator) -> None:
        where = self._where(operator)
        method, counts = self._methods[operator.op]
        outputs = operator.outputs
        if len(operator.inputs) not in counts or len(outputs) != 1 or -1 in (operator.inputs[0], outputs[0]):
            raise NetworkError(
                where,
                f"has {len(operator.inputs)} inputs and {len(outputs)} outputs, which {operator.op} has not",
                "export the network again",
            )
        name = f"op{operator.index:02d}_{operator.op.lower()}"
        method(operator, name, where)

    def _activation(self, index: int, where: str) -> TensorInfo:
        """The graph's tensor for a tensor of the file."""
        name = self._names[index]
        if name not in self._tensors:
            tensor = self._file.tensors[index]
            if tensor.type == tflite.TensorType.FLOAT32:
                self._add(TensorInfo(name=name, shape=tensor.shape, format=None, index=index))
            elif tensor.type != tflite.TensorType.INT8:
                raise NetworkError(where, f"tensor '{name}' is {tensor.type_name}, not INT8", _CONVERT)
            elif len(tensor.scales) != 1 or len(tensor.zero_points) != 1:
                raise NetworkError(
                    where, f"tensor '{name}' does not have one scale and one zero point", _CONVERT
                )
            else:
                self._add(
                    TensorInfo(
                        name=name,
                        shape=tensor.shape,
                        format=_INT8,
                        scale=float(tensor.scales[0]),
                        zero_point=int(tensor.zero_points[0]),
                        index=index,
                    )
                )
        return self._tensors[name]

    def _codes(self, index: int, where: str) -> TensorInfo:
        info = self._activation(index, where)
        if info.format is None:
            raise NetworkError(where, f"tensor '{info.name}' is FLOAT32, not INT8", _CONVERT)
        return info

    def _add(self, info: TensorInfo) -> TensorInfo:
        self._tensors[info.name] = info
        return info

    def _fresh(self, name: str) -> str:
        while name in self._names or name in self._tensors:
            name += "_"
        return name

    def _quantize(self, operator: _Operator, name: str, where: str) -> None:
        source = self._activation(operator.inputs[0], where)
        if source.format is not None:
            raise NetworkError(
                where, "changes one quantisation into another, which is not supported", "use one throughout"
            )
        result = self._codes(operator.outputs[0], where)
        self._nodes.append(Quantize(name=name, input=source.name, output=result.name, rounding="tflite"))

    def _dequantize(self, operator: _Operator, name: str, where: str) -> None:
        source = self._codes(operator.inputs[0], where)
        result = self._activation(operator.outputs[0], where)
        self._nodes.append(Dequantize(name=name, input=source.name, output=result.name))

    def _reshape(self, operator: _Operator, name: str, where: str) -> None:
        # The shape is the output's own; the second input only repeats it, and it may be left out.
        source = self._codes(operator.inputs[0], where)
        result = self._codes(operator.outputs[0], where)
        self._nodes.append(Reshape(name=name, input=source.name, output=result.name))

    def _fully_connected(self, operator: _Operator, name: str, where: str) -> None:
        source = self._codes(operator.inputs[0], where)
        result = self._codes(operator.outputs[0], where)
        weights, weight_scales = self._weights(operator, where)
        channels, reduction = weights.shape
        bias = self._bias(operator, where, source.scale * weight_scales, result.scale)
        if operator.activation not in _CLAMPS:
            activation = _enum_name(tflite.ActivationFunctionType, operator.activation)
            raise NetworkError(where, f"fused activation {activation} is not supported", "use RELU or RELU6")
        if (
            not result.shape
            or result.shape[-1] != channels
            or prod(result.shape[:-1]) * reduction != source.size
        ):
            raise NetworkError(
                where,
                f"input {source.shape}, weights {weights.shape} and output {result.shape} do not agree",
                "export the network again",
            )
        # The operator takes the input's elements in rows of K, whatever the input's axes are.
        rows = (*result.shape[:-1], reduction)
        if rows != source.shape:
            flat = TensorInfo(
                name=self._fresh(f"{source.name}_rows"),
                shape=rows,
                format=source.format,
                scale=source.scale,
                zero_point=source.zero_point,
            )
            self._nodes.append(Reshape(name=f"{name}_rows", input=source.name, output=flat.name))
            source = self._add(flat)
        multiplier, shift = quantise_multiplier(source.scale * weight_scales / result.scale)
        clamp = np.array(_CLAMPS[operator.activation], dtype=np.float32)
        low, high = quantise(clamp, result, "tflite")
        self._nodes.append(
            FullyConnected(
                name=name,
                input=source.name,
                output=result.name,
                weights=weights,
                weight_format=_INT8,
                bias=bias,
                multiplier=multiplier,
                shift=shift,
                rounding="tflite",
                low=int(low),
                high=int(high),
            )
        )

    def _weights(self, operator: _Operator, where: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Weights, N × K, and the scale of each output channel."""
        index = operator.inputs[1]
        if index < 0:
            raise NetworkError(where, "has no weights", "export the network again")
        tensor = self._file.tensors[index]
        what = f"weights '{self._names[index]}'"
        data = self._file.content(tensor)
        if data is None:
            raise NetworkError(where, f"{what} are not constant", "only constant weights are supported")
        if tensor.type != tflite.TensorType.INT8:
            raise NetworkError(where, f"{what} are {tensor.type_name}, not INT8", _CONVERT)
        if tensor.sparse or operator.weights_format != tflite.FullyConnectedOptionsWeightsFormat.DEFAULT:
            raise NetworkError(where, f"{what} are sparse or shuffled", "convert the network without that")
        if len(tensor.shape) != 2 or min(tensor.shape) < 1 or prod(tensor.shape) != len(data):
            raise NetworkError(
                where,
                f"{what} of shape {tensor.shape} do not match their {len(data)} bytes",
                "export the network again",
            )
        channels = tensor.shape[0]
        if len(tensor.scales) not in (1, channels) or (len(tensor.scales) > 1 and tensor.axis != 0):
            raise NetworkError(
                where, f"{what} have {len(tensor.scales)} scales for {channels} output channels", _CONVERT
            )
        if not (np.isfinite(tensor.scales).all() and (tensor.scales > 0).all()):
            raise NetworkError(where, f"{what} have a scale that is not a positive number", _CONVERT)
        if tensor.zero_points.any():
            raise NetworkError(where, f"{what} have a zero point other than 0", _CONVERT)
        weights = data.view(np.int8).astype(np.int64).reshape(tensor.shape)
        return weights, np.broadcast_to(tensor.scales, channels)

    def _bias(
        self, operator: _Operator, where: str, scales: NDArray[np.float64], output_scale: float
    ) -> NDArray[np.int64]:
        """Bias of each output channel, in units of `scales`."""
        channels = len(scales)
        if len(operator.inputs) < 3 or operator.inputs[2] == -1:
            return np.zeros(channels, dtype=np.int64)
        index = operator.inputs[2]
        tensor = self._file.tensors[index]
        what = f"bias '{self._names[index]}'"
        data = self._file.content(tensor)
        if data is None:
            raise NetworkError(where, f"{what} is not constant", "only a constant bias is supported")
        if tensor.type != tflite.TensorType.INT32:
            raise NetworkError(where, f"{what} is {tensor.type_name}, not INT32", _CONVERT)
        if len(data) != 4 * channels:
            raise NetworkError(
                where, f"{what} has {len(data)} bytes for {channels} output channels", "export again"
            )
        # The limit is the runtime's own (GetQuantizedConvolutionMultipler).
        if (
            len(tensor.scales) in (1, channels)
            and (np.abs(scales - tensor.scales) > 0.02 * output_scale).any()
        ):
            raise NetworkError(where, f"scale of {what} is not input scale times weight scale", _CONVERT)
        return data.view("<i4").astype(np.int64)
