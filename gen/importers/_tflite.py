"""TFLite flatbuffers as plain Python: everything that touches the file's bytes."""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from bitwright.sim.graph import NetworkError

__all__ = ["File", "Operator", "Tensor", "enum_name"]

_OPTIONS = {
    tflite.BuiltinOperator.ADD: "AddOptions",
    tflite.BuiltinOperator.ARG_MAX: "ArgMaxOptions",
    tflite.BuiltinOperator.AVERAGE_POOL_2D: "Pool2DOptions",
    tflite.BuiltinOperator.CONCATENATION: "ConcatenationOptions",
    tflite.BuiltinOperator.CONV_2D: "Conv2DOptions",
    tflite.BuiltinOperator.DEPTHWISE_CONV_2D: "DepthwiseConv2DOptions",
    tflite.BuiltinOperator.FULLY_CONNECTED: "FullyConnectedOptions",
    tflite.BuiltinOperator.LEAKY_RELU: "LeakyReluOptions",
    tflite.BuiltinOperator.MAX_POOL_2D: "Pool2DOptions",
    tflite.BuiltinOperator.MUL: "MulOptions",
    tflite.BuiltinOperator.RESIZE_NEAREST_NEIGHBOR: "ResizeNearestNeighborOptions",
    tflite.BuiltinOperator.SOFTMAX: "SoftmaxOptions",
    tflite.BuiltinOperator.SUB: "SubOptions",
}
"""Where an operator's options stand, of those that have any that matter."""

_OPTION_FIELDS = (
    "AlignCorners",
    "Alpha",
    "Axis",
    "Beta",
    "DilationHFactor",
    "DilationWFactor",
    "FilterHeight",
    "FilterWidth",
    "FusedActivationFunction",
    "HalfPixelCenters",
    "Padding",
    "StrideH",
    "StrideW",
    "WeightsFormat",
)


@dataclass(frozen=True)
class Tensor:
    """A tensor as the file describes it."""

    index: int
    name: str
    shape: tuple[int, ...]
    type: int
    buffer: int
    scales: NDArray[np.float64]
    zero_points: NDArray[np.int64]
    axis: int
    sparse: bool
    dynamic: bool

    @property
    def type_name(self) -> str:
        """Name of its type."""
        return enum_name(tflite.TensorType, self.type)


@dataclass(frozen=True)
class Operator:
    """An operator as the file describes it."""

    index: int
    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]
    """Fields of its options by their names in the schema; empty where it has none, or foreign ones."""


class File:
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
    def _tensor(index: int, tensor: Any) -> Tensor:
        quantisation = tensor.Quantization()
        scales = zero_points = np.zeros(0)
        axis = 0
        if quantisation is not None:
            scales = _array(quantisation.ScaleAsNumpy())
            zero_points = _array(quantisation.ZeroPointAsNumpy())
            axis = int(quantisation.QuantizedDimension())
        return Tensor(
            index=index,
            name=(tensor.Name() or b"").decode("utf-8", "replace"),
            shape=_integers(tensor.ShapeAsNumpy()),
            type=int(tensor.Type()),
            buffer=int(tensor.Buffer()),
            scales=scales.astype(np.float64),
            zero_points=zero_points.astype(np.int64),
            axis=axis,
            sparse=tensor.Sparsity() is not None,
            # Axes other than the first whose size the file leaves open.
            dynamic=any(size < 0 for size in _integers(tensor.ShapeSignatureAsNumpy())[1:]),
        )

    def _operator(self, index: int, operator: Any) -> Operator:
        model = self._model
        code = model.OperatorCodes(self._index(int(operator.OpcodeIndex()), model.OperatorCodesLength()))
        # Files from before there were more than 127 operators keep the number in the older field.
        number = max(int(code.BuiltinCode()), int(code.DeprecatedBuiltinCode()))
        op = enum_name(tflite.BuiltinOperator, number)
        if number == tflite.BuiltinOperator.CUSTOM:
            op = f"custom operator {(code.CustomCode() or b'').decode('utf-8', 'replace')}"
        inputs, outputs = (
            _integers(indices) for indices in (operator.InputsAsNumpy(), operator.OutputsAsNumpy())
        )
        for tensor in (*inputs, *outputs):
            # -1 stands for an optional tensor that is left out.
            if tensor != -1:
                self._index(tensor, len(self.tensors))
        options: dict[str, Any] = {}
        table = operator.BuiltinOptions()
        kind = _OPTIONS.get(number)
        if (
            table is not None
            and kind
            and operator.BuiltinOptionsType() == getattr(tflite.BuiltinOptions, kind)
        ):
            reader = getattr(tflite, kind)()
            reader.Init(table.Bytes, table.Pos)
            options = {
                key: getattr(reader, key)() for key in _OPTION_FIELDS if callable(getattr(reader, key, None))
            }
        return Operator(index, op, inputs, outputs, options)

    def content(self, tensor: Tensor) -> NDArray[np.uint8] | None:
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


def enum_name(enum: type, value: int) -> str:
    """Name of a member, or its number where it has none."""
    return next(
        (key for key, number in vars(enum).items() if not key.startswith("_") and number == value),
        f"number {value}",
    )
