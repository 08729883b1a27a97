"""TFLite flatbuffers, quantised to int8.

What the numbers mean is TensorFlow Lite's quantisation specification; how they are rounded is what its
kernels for microcontrollers do (``tensorflow/lite/kernels/kernel_util.cc`` and gemmlowp, and see
:mod:`bitwright.sim.fixed_point`).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from bitwright.hw.formats import Int
from bitwright.hw.quant.arithmetic import quantise_multiplier
from bitwright.sim import fixed_point
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
    Node,
    Pad,
    Padding,
    Quantize,
    Requantise,
    Reshape,
    Softmax,
    TensorInfo,
    Transpose,
    Upsample,
)

from ._tflite import File, Operator, enum_name

__all__ = ["load"]

_INT8 = Int(8)
_UINT8 = Int(8, signed=False)
_INT32 = Int(32)

_CLAMPS = {
    tflite.ActivationFunctionType.NONE: (-np.inf, np.inf),
    tflite.ActivationFunctionType.RELU: (0.0, np.inf),
    tflite.ActivationFunctionType.RELU_N1_TO_1: (-1.0, 1.0),
    tflite.ActivationFunctionType.RELU6: (0.0, 6.0),
}

_SHAPED = ("EXPAND_DIMS", "RESHAPE")
"""Operators that further inputs only tell the shape of the output, which the file has."""

_CONVERT = "convert the network with full-integer int8 quantisation"
_AGAIN = "export the network again"


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
    return _Importer(File(data, where), name).graph()


class _Importer:
    def __init__(self, file: File, name: str):
        self._file = file
        self._name = name
        counts = Counter(tensor.name for tensor in file.tensors)
        self._names: list[str] = []
        for tensor in file.tensors:
            unique = tensor.name and counts[tensor.name] == 1
            self._names.append(tensor.name if unique else f"{tensor.name or 'tensor'}_{tensor.index}")
        self._tensors: dict[str, TensorInfo] = {}
        self._nodes: list[Node] = []
        self._methods: dict[str, tuple[Callable[[Operator, str, str], None], tuple[int, ...] | None]] = {
            "ADD": (self._binary, (2,)),
            "ARG_MAX": (self._arg_max, (2,)),
            "AVERAGE_POOL_2D": (self._average_pool, (1,)),
            "CONCATENATION": (self._concatenation, None),
            "CONV_2D": (self._convolution, (2, 3)),
            "DEPTHWISE_CONV_2D": (self._convolution, (2, 3)),
            "DEQUANTIZE": (self._dequantize, (1,)),
            "EXPAND_DIMS": (self._reshape, (2,)),
            "FULLY_CONNECTED": (self._fully_connected, (2, 3)),
            "HARD_SWISH": (self._lookup, (1,)),
            "LEAKY_RELU": (self._lookup, (1,)),
            "LOGISTIC": (self._lookup, (1,)),
            "MAX_POOL_2D": (self._max_pool, (1,)),
            "MEAN": (self._mean, (2,)),
            "MUL": (self._binary, (2,)),
            "PAD": (self._pad, (2,)),
            "PADV2": (self._pad, (3,)),
            "QUANTIZE": (self._quantize, (1,)),
            "RELU": (self._lookup, (1,)),
            "RELU6": (self._lookup, (1,)),
            "RELU_N1_TO_1": (self._lookup, (1,)),
            "RESHAPE": (self._reshape, (1, 2)),
            "RESIZE_NEAREST_NEIGHBOR": (self._resize, (2,)),
            "SLICE": (self._slice, (3,)),
            "SOFTMAX": (self._softmax, (1,)),
            "SQUEEZE": (self._reshape, (1,)),
            "SUB": (self._binary, (2,)),
            "TANH": (self._lookup, (1,)),
            "TRANSPOSE": (self._transpose, (2,)),
        }
        """How to lower each operator, and how many inputs it may have; ``None`` for one or more."""

    def graph(self) -> Graph:
        file = self._file
        for kind, indices in (("input", file.inputs), ("output", file.outputs)):
            if len(indices) != 1:
                names = ", ".join(f"'{self._names[index]}'" for index in indices) or "none"
                raise NetworkError(
                    file.where, f"must have one {kind}, but has {len(indices)}: {names}", f"keep one {kind}"
                )
        operators = self._without_shapes()
        self._check_supported(operators)
        for operator in operators:
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

    def _where(self, operator: Operator) -> str:
        outputs = operator.outputs
        named = f", output '{self._names[outputs[0]]}'" if outputs and outputs[0] >= 0 else ""
        return f"operator {operator.index} ({operator.op}{named})"

    def _without_shapes(self) -> list[Operator]:
        """The operators, but for those that only compute what an operator of `_SHAPED` is told.

        Networks of any batch size compute their shapes; the file has them for a batch of one.
        """
        whole = {tflite.TensorType.INT32, tflite.TensorType.INT64}
        needed = set(self._file.outputs)
        kept = []
        for operator in reversed(self._file.operators):
            computes_shape = bool(operator.outputs) and all(
                index not in needed and index >= 0 and self._file.tensors[index].type in whole
                for index in operator.outputs
            )
            if not computes_shape:
                kept.append(operator)
                needed.update(operator.inputs[:1] if operator.op in _SHAPED else operator.inputs)
        return kept[::-1]

    def _check_supported(self, operators: list[Operator]) -> None:
        unsupported = [operator for operator in operators if operator.op not in self._methods]
        if unsupported:
            first, *others = dict.fromkeys(operator.op for operator in unsupported)
            raise NetworkError(
                self._where(unsupported[0]),
                f"{first} is not supported" + (f", nor {', '.join(others)}" if others else ""),
                f"supported are {', '.join(self._methods)}; leave the rest to the host",
            )

    def _lower(self, operator: Operator) -> None:
        where = self._where(operator)
        method, counts = self._methods[operator.op]
        inputs, outputs = operator.inputs, operator.outputs
        fits = bool(inputs) if counts is None else len(inputs) in counts
        if not fits or len(outputs) != 1 or -1 in (inputs[0], outputs[0]):
            raise NetworkError(
                where,
                f"has {len(inputs)} inputs and {len(outputs)} outputs, which {operator.op} has not",
                _AGAIN,
            )
        name = f"op{operator.index:02d}_{operator.op.lower()}"
        method(operator, name, where)

    # Tensors

    def _activation(self, index: int, where: str) -> TensorInfo:
        """The graph's tensor for a tensor of the file."""
        name = self._names[index]
        if name not in self._tensors:
            tensor = self._file.tensors[index]
            formats = {tflite.TensorType.INT8: _INT8, tflite.TensorType.UINT8: _UINT8}
            if tensor.dynamic:
                raise NetworkError(
                    where,
                    f"tensor '{name}' has an axis of unknown size",
                    "convert the network with a fixed input shape",
                )
            if tensor.type == tflite.TensorType.FLOAT32:
                self._add(TensorInfo(name=name, shape=tensor.shape, format=None, index=index))
            elif tensor.type not in formats:
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
                        format=formats[tensor.type],
                        scale=float(tensor.scales[0]),
                        zero_point=int(tensor.zero_points[0]),
                        index=index,
                    )
                )
        return self._tensors[name]

    def _codes(self, index: int, where: str) -> TensorInfo:
        info = self._activation(index, where)
        if info.format != _INT8:
            kind = self._file.tensors[index].type_name
            raise NetworkError(where, f"tensor '{info.name}' is {kind}, not INT8", _CONVERT)
        return info

    def _edges(self, operator: Operator, where: str) -> tuple[TensorInfo, TensorInfo]:
        """Input and output of an operator that takes codes to codes."""
        index = operator.inputs[0]
        if self._file.content(self._file.tensors[index]) is not None:
            raise NetworkError(
                where, f"its input '{self._names[index]}' is constant", "fold constants before exporting"
            )
        return self._codes(index, where), self._codes(operator.outputs[0], where)

    def _maps(self, operator: Operator, where: str) -> tuple[TensorInfo, TensorInfo]:
        """Input and output of an operator on maps: one input at a time, height, width and channels."""
        source, result = self._edges(operator, where)
        for info in (source, result):
            if len(info.shape) != 4:
                raise NetworkError(where, f"tensor '{info.name}' has {len(info.shape)} axes, not 4", _AGAIN)
            if info.shape[0] != 1:
                raise NetworkError(
                    where,
                    f"tensor '{info.name}' has a batch of {info.shape[0]}",
                    "convert the network with a batch of 1",
                )
        return source, result

    def _same_quantisation(self, source: TensorInfo, result: TensorInfo, op: str, where: str) -> None:
        if (source.scale, source.zero_point) != (result.scale, result.zero_point):
            raise NetworkError(
                where,
                f"'{source.name}' and '{result.name}' differ in scale or zero point; {op} does not convert",
                _CONVERT,
            )

    def _constant(self, index: int, where: str) -> NDArray[np.int64]:
        """Integers of a tensor of axes, paddings or the like."""
        tensor = self._file.tensors[index]
        types = {tflite.TensorType.INT32: "<i4", tflite.TensorType.INT64: "<i8"}
        data = self._file.content(tensor)
        name = self._names[index]
        if data is None:
            raise NetworkError(where, f"'{name}' is not constant", _AGAIN)
        if (
            tensor.type not in types
            or len(data) != prod(tensor.shape) * np.dtype(types[tensor.type]).itemsize
        ):
            raise NetworkError(where, f"'{name}' does not hold the integers that it should", _AGAIN)
        return data.view(types[tensor.type]).astype(np.int64).reshape(tensor.shape)

    def _axis(self, value: int, info: TensorInfo, where: str) -> int:
        axis = value + len(info.shape) if value < 0 else value
        if axis not in range(len(info.shape)):
            raise NetworkError(where, f"axis {value} is none of shape {info.shape}", _AGAIN)
        return axis

    def _add(self, info: TensorInfo) -> TensorInfo:
        self._tensors[info.name] = info
        return info

    def _between(self, info: TensorInfo, name: str, **changes: Any) -> TensorInfo:
        """A tensor that the file does not have, like another but for the changes."""
        while name in self._names or name in self._tensors:
            name += "_"
        return self._add(replace(info, name=name, index=None, **changes))

    @contextmanager
    def _scales(self, where: str) -> Iterator[None]:
        """Says where, if the runtime's arithmetic does not take the scales."""
        try:
            yield
        except ValueError as error:
            raise NetworkError(where, f"its scales do not fit: {error}", _CONVERT) from None

    # Edges and shapes

    def _quantize(self, operator: Operator, name: str, where: str) -> None:
        source = self._activation(operator.inputs[0], where)
        result = self._activation(operator.outputs[0], where)
        if result.format is None:
            raise NetworkError(where, f"tensor '{result.name}' is FLOAT32, not INT8", _CONVERT)
        if source.format is None:
            self._nodes.append(Quantize(name=name, input=source.name, output=result.name, rounding="tflite"))
            return
        with self._scales(where):
            table = fixed_point.requantised(source, result)
        self._nodes.append(Lookup(name=name, input=source.name, output=result.name, table=table))

    def _dequantize(self, operator: Operator, name: str, where: str) -> None:
        source = self._activation(operator.inputs[0], where)
        result = self._activation(operator.outputs[0], where)
        self._nodes.append(Dequantize(name=name, input=source.name, output=result.name))

    def _reshape(self, operator: Operator, name: str, where: str) -> None:
        # The shape is the output's own; the second input only repeats it, and it may be left out.
        source, result = self._edges(operator, where)
        self._nodes.append(Reshape(name=name, input=source.name, output=result.name))

    def _transpose(self, operator: Operator, name: str, where: str) -> None:
        source, result = self._edges(operator, where)
        axes = tuple(self._constant(operator.inputs[1], where).ravel().tolist())
        self._nodes.append(Transpose(name=name, input=source.name, output=result.name, axes=axes))

    def _pad(self, operator: Operator, name: str, where: str) -> None:
        source, result = self._edges(operator, where)
        counts = self._constant(operator.inputs[1], where)
        if counts.shape != (len(source.shape), 2):
            raise NetworkError(where, f"its padding has shape {counts.shape}", _AGAIN)
        if counts.min() < 0:
            raise NetworkError(where, "pads by less than nothing, which TFLite does not either", _AGAIN)
        value = result.zero_point
        if operator.op == "PADV2":
            constant = self._uniform(operator.inputs[2], where)
            if constant is None:
                raise NetworkError(where, "does not pad with one constant", "pad with a constant")
            info, value = constant
            self._same_quantisation(info, result, operator.op, where)
        padding = tuple((int(before), int(after)) for before, after in counts)
        self._nodes.append(
            Pad(name=name, input=source.name, output=result.name, padding=padding, value=value)
        )

    def _slice(self, operator: Operator, name: str, where: str) -> None:
        source, result = self._edges(operator, where)
        begins = self._constant(operator.inputs[1], where).ravel().tolist()
        if len(begins) != len(source.shape) or len(result.shape) != len(source.shape):
            raise NetworkError(where, f"begins at {begins} in shape {source.shape}", _AGAIN)
        # The sizes are the output's own; the third input only repeats them.
        padding = tuple(
            (-begin, begin + size - whole)
            for begin, size, whole in zip(begins, result.shape, source.shape, strict=True)
        )
        if any(max(pad) > 0 for pad in padding):
            raise NetworkError(where, f"takes {result.shape} from {begins} on of {source.shape}", _AGAIN)
        node = Pad(name=name, input=source.name, output=result.name, padding=padding, value=result.zero_point)
        self._nodes.append(node)

    def _resize(self, operator: Operator, name: str, where: str) -> None:
        source, result = self._maps(operator, where)
        self._same_quantisation(source, result, operator.op, where)
        sizes, given = result.shape[1:3], self._constant(operator.inputs[1], where).ravel().tolist()
        if tuple(given) != sizes:
            raise NetworkError(where, f"makes {sizes}, but its size is {given}", _AGAIN)
        corners, centres = (
            bool(operator.options.get(key, False)) for key in ("AlignCorners", "HalfPixelCenters")
        )
        for before, after in zip(source.shape[1:3], sizes, strict=True):
            if after > 1 << 24:
                raise NetworkError(where, f"makes {sizes}, beyond all measure", _AGAIN)
            nearest = fixed_point.nearest(before, after, align_corners=corners, half_pixel_centres=centres)
            if after % before or (nearest != np.arange(after) // (after // before)).any():
                raise NetworkError(
                    where,
                    f"does not repeat each of {before} pixels as often, to {after}",
                    "make height and width a whole number of times as large, without align_corners",
                )
        factors = (sizes[0] // source.shape[1], sizes[1] // source.shape[2])
        self._nodes.append(Upsample(name=name, input=source.name, output=result.name, factors=factors))

    def _concatenation(self, operator: Operator, name: str, where: str) -> None:
        self._clamp(operator, where, (tflite.ActivationFunctionType.NONE,))
        result = self._codes(operator.outputs[0], where)
        sources = []
        for index in operator.inputs:
            source, _ = self._edges(replace(operator, inputs=(index,)), where)
            self._same_quantisation(source, result, operator.op, where)
            sources.append(source.name)
        axis = self._axis(operator.options.get("Axis", 0), result, where)
        self._nodes.append(Concatenate(name=name, inputs=tuple(sources), output=result.name, axis=axis))

    # Matrix products

    def _fully_connected(self, operator: Operator, name: str, where: str) -> None:
        source, result = self._edges(operator, where)
        weights, weight_scales = self._weights(operator, where, 2, 0)
        channels, reduction = weights.shape
        if (
            not result.shape
            or result.shape[-1] != channels
            or prod(result.shape[:-1]) * reduction != source.size
        ):
            raise NetworkError(
                where,
                f"input {source.shape}, weights {weights.shape} and output {result.shape} do not agree",
                _AGAIN,
            )
        bias = self._bias(operator, where, source.scale * weight_scales, result.scale)
        quantiser = self._quantiser(operator, where, source, weight_scales, result)
        # The operator takes the input's elements in rows of K, whatever the input's axes are.
        rows = (*result.shape[:-1], reduction)
        if rows != source.shape:
            flat = self._between(source, f"{source.name}_rows", shape=rows)
            self._nodes.append(Reshape(name=f"{name}_rows", input=source.name, output=flat.name))
            source = flat
        self._nodes.append(
            FullyConnected(
                name=name,
                input=source.name,
                output=result.name,
                weights=weights,
                weight_format=_INT8,
                bias=bias,
                quantiser=quantiser,
            )
        )

    def _convolution(self, operator: Operator, name: str, where: str) -> None:
        source, result = self._maps(operator, where)
        depthwise = operator.op == "DEPTHWISE_CONV_2D"
        weights, weight_scales = self._weights(operator, where, 4, 3 if depthwise else 0)
        channels = source.shape[3]
        if depthwise:
            groups = channels
            # One filter, whose channels are those of the output.
            fits = weights.shape[0] == 1 and weights.shape[3] % channels == 0
            weights = weights.transpose(3, 1, 2, 0)
        else:
            groups, rest = divmod(channels, weights.shape[3])
            fits = groups > 0 and not rest and weights.shape[0] % groups == 0
        if not fits:
            raise NetworkError(
                where,
                f"its input of {channels} channels does not match its weights "
                f"{self._file.tensors[operator.inputs[1]].shape}",
                _AGAIN,
            )
        kernel = weights.shape[1], weights.shape[2]
        stride, dilation = self._option_pairs(operator, where, "Stride{}", "Dilation{}Factor")
        self._nodes.append(
            Convolution(
                name=name,
                input=source.name,
                output=result.name,
                weights=weights,
                weight_format=_INT8,
                bias=self._bias(operator, where, source.scale * weight_scales, result.scale),
                quantiser=self._quantiser(operator, where, source, weight_scales, result),
                stride=stride,
                dilation=dilation,
                padding=self._padding(operator, where, source, kernel, stride, dilation),
                groups=groups,
            )
        )

    def _quantiser(
        self,
        operator: Operator,
        where: str,
        source: TensorInfo,
        weight_scales: NDArray[np.float64],
        result: TensorInfo,
    ) -> Requantise:
        low, high = fixed_point.activation_range(result, self._clamp(operator, where))
        multiplier, shift = quantise_multiplier(source.scale * weight_scales / result.scale)
        return Requantise(multiplier=multiplier, shift=shift, rounding="tflite", low=low, high=high)

    def _clamp(
        self, operator: Operator, where: str, allowed: tuple[int, ...] = tuple(_CLAMPS)
    ) -> tuple[float, float]:
        """Range of the fused activation, in real numbers."""
        activation = operator.options.get("FusedActivationFunction", tflite.ActivationFunctionType.NONE)
        if activation not in allowed:
            raise NetworkError(
                where,
                f"fused activation {enum_name(tflite.ActivationFunctionType, activation)} is not supported",
                "use RELU or RELU6" if len(allowed) > 1 else "put it into an operator of its own",
            )
        return _CLAMPS[activation]

    def _option_pairs(self, operator: Operator, where: str, *keys: str) -> Iterator[tuple[int, int]]:
        """Options that come for height and width."""
        if not operator.options:
            raise NetworkError(where, "has no options", _AGAIN)
        spelled = ("Height", "Width") if keys == ("Filter{}",) else ("H", "W")
        for key in keys:
            height, width = (int(operator.options[key.format(axis)]) for axis in spelled)
            if min(height, width) < 1:
                raise NetworkError(where, f"{key.format('')} {height} x {width} is not possible", _AGAIN)
            yield height, width

    @staticmethod
    def _padding(
        operator: Operator,
        where: str,
        source: TensorInfo,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        dilation: tuple[int, int] = (1, 1),
    ) -> Padding:
        match operator.options["Padding"]:
            case tflite.Padding.VALID:
                return (0, 0), (0, 0)
            case tflite.Padding.SAME:
                pads = []
                for size, taps, step, spread in zip(source.shape[1:3], kernel, stride, dilation, strict=True):
                    span = (taps - 1) * spread + 1
                    total = max((-(-size // step) - 1) * step + span - size, 0)
                    pads.append((total // 2, total - total // 2))
                return pads[0], pads[1]
            case other:
                raise NetworkError(where, f"padding {other} is neither SAME nor VALID", _AGAIN)

    def _weights(
        self, operator: Operator, where: str, axes: int, channel_axis: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Weights, and the scale of each output channel."""
        index = operator.inputs[1]
        if index < 0:
            raise NetworkError(where, "has no weights", _AGAIN)
        tensor = self._file.tensors[index]
        what = f"weights '{self._names[index]}'"
        data = self._file.content(tensor)
        if data is None:
            raise NetworkError(where, f"{what} are not constant", "only constant weights are supported")
        if tensor.type != tflite.TensorType.INT8:
            raise NetworkError(where, f"{what} are {tensor.type_name}, not INT8", _CONVERT)
        if tensor.sparse or operator.options.get("WeightsFormat"):
            raise NetworkError(where, f"{what} are sparse or shuffled", "convert the network without that")
        if len(tensor.shape) != axes or min(tensor.shape) < 1 or prod(tensor.shape) != len(data):
            raise NetworkError(
                where, f"{what} of shape {tensor.shape} do not match their {len(data)} bytes", _AGAIN
            )
        channels = tensor.shape[channel_axis]
        if len(tensor.scales) not in (1, channels) or (
            len(tensor.scales) > 1 and tensor.axis != channel_axis
        ):
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
        self, operator: Operator, where: str, scales: NDArray[np.float64], output_scale: float
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

    # Pooling

    def _max_pool(self, operator: Operator, name: str, where: str) -> None:
        source, result = self._maps(operator, where)
        self._same_quantisation(source, result, operator.op, where)
        kernel, stride, padding = self._window(operator, where, source)
        clamp = self._clamp(operator, where)
        pooled = result
        low, high = fixed_point.activation_range(result, clamp)
        clamps = (low, high) != (_INT8.min, _INT8.max)
        if clamps:
            pooled = self._between(result, f"{result.name}_pooled")
        self._nodes.append(
            MaxPool(
                name=name,
                input=source.name,
                output=pooled.name,
                kernel=kernel,
                stride=stride,
                padding=padding,
            )
        )
        if clamps:
            table = np.clip(np.arange(_INT8.min, _INT8.max + 1), low, high)
            self._nodes.append(
                Lookup(name=f"{name}_clamp", input=pooled.name, output=result.name, table=table)
            )

    def _average_pool(self, operator: Operator, name: str, where: str) -> None:
        source, result = self._maps(operator, where)
        self._same_quantisation(source, result, operator.op, where)
        kernel, stride, padding = self._window(operator, where, source)
        clamp = self._clamp(operator, where)
        node = AveragePool(
            name=name,
            input=source.name,
            output=result.name,
            kernel=kernel,
            stride=stride,
            padding=padding,
        )
        self._nodes.append(
            node.tabulated(source, lambda sums, count: fixed_point.average(sums, count, result, clamp))
        )

    def _window(
        self, operator: Operator, where: str, source: TensorInfo
    ) -> tuple[tuple[int, int], tuple[int, int], Padding]:
        """Kernel, stride and padding of pooling."""
        (kernel,) = self._option_pairs(operator, where, "Filter{}")
        (stride,) = self._option_pairs(operator, where, "Stride{}")
        return kernel, stride, self._padding(operator, where, source, kernel, stride)

    def _mean(self, operator: Operator, name: str, where: str) -> None:
        source, result = self._edges(operator, where)
        given = self._constant(operator.inputs[1], where).ravel().tolist()
        axes = {self._axis(axis, source, where) for axis in given}
        # Height and width, of which the former may be missing.
        last = len(source.shape) - 1
        if last not in (2, 3) or not axes or not axes <= set(range(1, last)) or source.shape[0] != 1:
            raise NetworkError(
                where,
                f"takes the mean of {source.shape} over the axes {sorted(axes)}",
                "only means over height and width of one input are supported",
            )
        _, height, width, _ = source.canonical
        node = AveragePool(
            name=name,
            input=source.name,
            output=result.name,
            kernel=(height if last - 2 in axes else 1, width if last - 1 in axes else 1),
        )
        with self._scales(where):
            node = node.tabulated(source, lambda sums, count: fixed_point.mean(sums, count, source, result))
        self._nodes.append(node)

    # Elementwise

    def _uniform(self, index: int, where: str) -> tuple[TensorInfo, int] | None:
        """Tensor and code of a constant that is the same everywhere; ``None`` if it is not constant."""
        if index < 0:
            raise NetworkError(where, "an input is left out", _AGAIN)
        data = self._file.content(self._file.tensors[index])
        if data is None:
            return None
        name = self._names[index]
        known = name in self._tensors
        info = self._codes(index, where)
        if not known:
            del self._tensors[name]  # the graph does without it
        codes = np.unique(data.view(np.int8))
        if len(codes) > 1:
            raise NetworkError(
                where,
                f"constant '{name}' differs from element to element",
                "fold it into the layer before it",
            )
        return info, int(codes[0])

    def _binary(self, operator: Operator, name: str, where: str) -> None:
        result = self._codes(operator.outputs[0], where)
        clamp = self._clamp(operator, where)
        constants = [self._uniform(index, where) for index in operator.inputs]
        if all(constants):
            raise NetworkError(where, "has only constant inputs", "fold constants before exporting")
        infos = [
            self._codes(index, where) if constant is None else constant[0]
            for index, constant in zip(operator.inputs, constants, strict=True)
        ]
        with self._scales(where):
            if operator.op == "MUL":
                table = fixed_point.multiply(infos[0], infos[1], result, clamp)
            else:
                table = fixed_point.add(infos[0], infos[1], result, clamp, subtract=operator.op == "SUB")
        for position, constant in enumerate(constants):
            if constant is not None:
                row = np.take(table, constant[1] - _INT8.min, axis=position)
                source = self._shaped(infos[1 - position], result, name, where)
                self._nodes.append(Lookup(name=name, input=source, output=result.name, table=row))
                return
        first, second = (self._shaped(info, result, name, where) for info in infos)
        self._nodes.append(Binary(name=name, inputs=(first, second), output=result.name, table=table))

    def _shaped(self, source: TensorInfo, result: TensorInfo, name: str, where: str) -> str:
        """An operand, in the result's shape, if that differs only in axes of one element."""
        if source.shape == result.shape:
            return source.name
        if [n for n in source.shape if n > 1] != [n for n in result.shape if n > 1]:
            raise NetworkError(
                where,
                f"operand '{source.name}' of shape {source.shape} would be broadcast to {result.shape}",
                "only operands of the output's shape, or equal constants, are supported",
            )
        shaped = self._between(source, f"{source.name}_shaped", shape=result.shape)
        self._nodes.append(Reshape(name=f"{name}_{shaped.name}", input=source.name, output=shaped.name))
        return shaped.name

    def _lookup(self, operator: Operator, name: str, where: str) -> None:
        source, result = self._edges(operator, where)
        clamps = tflite.ActivationFunctionType
        with self._scales(where):
            match operator.op:
                case "RELU":
                    table = fixed_point.requantised(source, result, _CLAMPS[clamps.RELU])
                case "RELU_N1_TO_1":
                    table = fixed_point.requantised(source, result, _CLAMPS[clamps.RELU_N1_TO_1])
                case "RELU6":
                    # The kernel for microcontrollers only clamps.
                    self._same_quantisation(source, result, operator.op, where)
                    low, high = fixed_point.activation_range(source, _CLAMPS[clamps.RELU6])
                    table = np.clip(np.arange(_INT8.min, _INT8.max + 1), low, high)
                case "LEAKY_RELU":
                    table = fixed_point.leaky_relu(source, result, operator.options.get("Alpha", 0.0))
                case "HARD_SWISH":
                    table = fixed_point.hard_swish(source, result)
                case "LOGISTIC":
                    self._check_result(result, 1 / 256, -128, operator.op, where)
                    table = fixed_point.logistic(source)
                case "TANH":
                    self._check_result(result, 1 / 128, 0, operator.op, where)
                    table = fixed_point.tanh(source)
                case other:
                    raise AssertionError(other)
        self._nodes.append(Lookup(name=name, input=source.name, output=result.name, table=table))

    @staticmethod
    def _check_result(result: TensorInfo, scale: float, zero_point: int, op: str, where: str) -> None:
        if (result.scale, result.zero_point) != (scale, zero_point):
            raise NetworkError(
                where,
                f"tensor '{result.name}' has not the scale 1/{1 / scale:g} and the zero point {zero_point} "
                f"that {op} makes",
                _CONVERT,
            )

    # What the host does with the results

    def _softmax(self, operator: Operator, name: str, where: str) -> None:
        source, result = self._edges(operator, where)
        self._check_result(result, 1 / 256, -128, operator.op, where)
        self._nodes.append(
            Softmax(
                name=name,
                input=source.name,
                output=result.name,
                arithmetic="tflite",
                beta=float(operator.options.get("Beta", 0.0)),
            )
        )

    def _arg_max(self, operator: Operator, name: str, where: str) -> None:
        index = operator.outputs[0]
        source, _ = self._edges(replace(operator, outputs=operator.inputs[:1]), where)
        tensor = self._file.tensors[index]
        if tensor.type not in (tflite.TensorType.INT32, tflite.TensorType.INT64):
            raise NetworkError(
                where, f"tensor '{self._names[index]}' is {tensor.type_name}, not INT32 or INT64", _AGAIN
            )
        axes = self._constant(operator.inputs[1], where).ravel().tolist()
        if len(axes) != 1:
            raise NetworkError(where, f"has {len(axes)} axes, not one", _AGAIN)
        result = self._add(
            TensorInfo(name=self._names[index], shape=tensor.shape, format=_INT32, index=index)
        )
        axis = self._axis(axes[0], source, where)
        self._nodes.append(ArgMax(name=name, input=source.name, output=result.name, axis=axis))
