"""ONNX networks in QDQ form: every operator between DequantizeLinear and QuantizeLinear.

The nodes are walked once, in order, each making a value out of its inputs' values; integers are
followed through the floats that stand between them. What a `QuantizeLinear` then receives is something
pending, and it becomes one node of the integer graph: a matrix product, a convolution, a mean, or a table
of what floats make of codes.

The numbers mean what the ONNX operator specification says of `QuantizeLinear` and `DequantizeLinear`:
``saturate(round_half_even(x / scale) + zero_point)``. Where floats decide, they are onnxruntime's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from bitwright.hw.formats import Int
from bitwright.sim.graph import Dequantize, Graph, NetworkError, Softmax

from . import _runtime as runtime
from ._lowering import ACTIVATIONS, QUANTISE
from ._onnx import (
    DOMAINS,
    EXPORT,
    FORMATS,
    Constant,
    Draft,
    Window,
    attribute,
    gemm_transposes,
    node_name,
    pool_window,
    type_name,
)
from ._qlinear import QLinear
from ._values import (
    Average,
    Border,
    Codes,
    Crop,
    FloatInput,
    Join,
    Moved,
    Numbers,
    Order,
    Pool,
    Product,
    QuantisedConstant,
    Reals,
    Relabel,
    Repeat,
    SoftmaxOf,
    Value,
    leaves,
)

__all__ = ["load"]

_Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_BINARY: dict[str, Callable[..., NDArray[np.float32]]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Min": np.minimum,
    "Max": np.maximum,
}


def load(model: onnx.ModelProto, name: str, where: str) -> Graph:
    """Graph of an ONNX model.

    Parameters
    ----------
    model
        Content of the file.
    name
        What to call the graph.
    where
        How messages about the file as a whole begin.

    Raises
    ------
    NetworkError
        The network holds something that cannot be lowered; the message names the node.
    """
    opset = max((entry.version for entry in model.opset_import if entry.domain in DOMAINS), default=1)
    return _Importer(model.graph, name, where, opset).graph()


class _Importer(QLinear):
    def __init__(self, graph: onnx.GraphProto, name: str, where: str, opset: int):
        super().__init__(graph, name, where)
        self._opset = opset

    def _operators(self) -> dict[str, Callable[[onnx.NodeProto, str], Value]]:
        return {
            "QuantizeLinear": self._quantize_linear,
            "DequantizeLinear": self._dequantize_linear,
            "Conv": self._conv,
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "BatchNormalization": self._batch_normalization,
            "MaxPool": self._max_pool,
            "AveragePool": self._average_pool,
            "GlobalAveragePool": self._global_average_pool,
            "GlobalMaxPool": self._global_max_pool,
            "ReduceMean": self._reduce_mean,
            **dict.fromkeys(_BINARY, self._arithmetic),
            "Relu": self._relu,
            "Clip": self._clip,
            **dict.fromkeys(
                ("Abs", "HardSigmoid", "HardSwish", "LeakyRelu", "Neg", "PRelu", "Sigmoid", "Tanh"),
                self._activation,
            ),
            "Concat": self._concat,
            "Pad": self._pad,
            "Resize": self._resize,
            "Upsample": self._resize,
            "Slice": self._slice,
            "Reshape": self._reshape,
            "Flatten": self._flatten,
            "Squeeze": self._squeeze,
            "Unsqueeze": self._unsqueeze,
            "Transpose": self._transpose,
            "Identity": self._identity,
            "Dropout": self._identity,
            "Constant": self._constant,
            "Softmax": self._softmax,
            "ArgMax": self._arg_max,
            **super()._operators(),
        }

    def _operators_of_several(self) -> dict[str, Callable[[onnx.NodeProto, str], dict[str, Value]]]:
        return {"Split": self._split}

    def _is_supported(self, node: onnx.NodeProto) -> bool:
        # onnxruntime's own domain has the quantisers too, from before ONNX knew all their types.
        contributed = node.op_type in (*super()._operators(), "QuantizeLinear", "DequantizeLinear")
        domains = (*DOMAINS, "com.microsoft") if contributed else DOMAINS
        return node.op_type in (*self._methods, *self._several) and node.domain in domains

    # The edges

    def _declare_input(self) -> None:
        kind, shape = self._input_type()
        where = f"input '{self._input}'"
        if kind == TensorProto.FLOAT:
            self._values[self._input] = FloatInput(self._input, shape)
            self._drafts[self._input] = Draft(shape, None, 1.0)
        elif FORMATS.get(kind) in ACTIVATIONS:
            self._values[self._input] = Codes(self._input, shape)
            self._drafts[self._input] = Draft(shape, FORMATS[kind])
        else:
            raise NetworkError(
                where,
                f"is {type_name(kind)}",
                "make it FLOAT followed by QuantizeLinear, or an integer of 8 or 4 bits",
            )

    def _finish(self) -> None:
        where = f"output '{self._output}'"
        if self._output not in self._values:
            raise NetworkError(where, "is produced by no node", EXPORT)
        value = self._values[self._output]
        if isinstance(value, Constant | QuantisedConstant):
            raise NetworkError(where, "is not computed by any matrix product", QUANTISE)
        if self._holds_codes(value):
            tensor = self._tensor(value)
            if tensor != self._output:
                self._relabel(f"{self._output}_output", tensor, self._output)
            return
        if isinstance(value, SoftmaxOf):
            self._declare(self._output, Draft(value.shape, None, 1.0), value.input)
            self._append(
                Softmax(name=value.name, input=value.input, output=self._output, arithmetic="float32")
            )
            return
        codes = self._stripped(value)
        first = next(leaves(value))
        if codes is None:
            if any(isinstance(leaf, FloatInput) for leaf in leaves(value)):
                raise NetworkError(where, "is not computed by any matrix product", QUANTISE)
            assert isinstance(first, Reals | Product | Average | SoftmaxOf)
            raise NetworkError(
                first.where,
                "its result leaves the network as floats that were never quantised",
                "quantise the output too (QuantizeLinear, DequantizeLinear)",
            )
        assert isinstance(first, Reals)
        tensor = self._tensor(codes)
        self._declare(self._output, Draft(value.shape, None, 1.0), tensor)
        self._append(Dequantize(name=first.name, input=tensor, output=self._output))

    # Quantisation

    def _quantize_linear(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        default = FORMATS[TensorProto.UINT8]
        declared = attribute(node, "output_dtype", 0, where)
        if declared:
            if declared not in FORMATS:
                raise NetworkError(where, f"quantises to {type_name(declared)}", "use INT8 or INT4")
            default = FORMATS[declared]
        quantisation = self._quantisation(node, default, value.shape, where)
        format = quantisation.format
        if isinstance(value, Constant | QuantisedConstant):
            real = self._numbers(value, "input", where)
            if real.dtype != np.float32 or not np.isfinite(real).all():
                raise NetworkError(where, "quantises constants that are no finite FLOAT numbers", EXPORT)
            scale, zero_point = (
                quantisation.along(real.ndim, values)
                for values in (quantisation.scale.astype(np.float32), quantisation.zero_point)
            )
            with np.errstate(over="ignore"):
                whole = np.rint(real / scale).astype(np.float64)
            codes = np.clip(whole + zero_point, format.min, format.max).astype(np.int64)
            return Constant(codes, format)
        if format not in ACTIVATIONS:
            raise NetworkError(where, f"quantises activations to {format}", "use 8 or 4 bits")
        if quantisation.axis is not None:
            raise NetworkError(where, "quantises activations per channel", "quantise them per tensor")
        return self._quantised(value, node.output[0], quantisation, node_name(node), where)

    def _dequantize_linear(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        if isinstance(value, Constant) and value.format is not None:
            format = value.format
            quantisation = self._quantisation(node, format, value.shape, where)
            if quantisation.format != format:
                raise NetworkError(
                    where, f"dequantises {format} with a zero point of {quantisation.format}", EXPORT
                )
            return QuantisedConstant(value.array.astype(np.int64), quantisation)
        if not self._holds_codes(value):
            raise NetworkError(where, "dequantises a tensor that does not hold integers", QUANTISE)
        assert not isinstance(value, Constant | QuantisedConstant)
        stored = self._drafts[self._first(value)].format
        assert isinstance(stored, Int)
        quantisation = self._quantisation(node, stored, value.shape, where)
        return self._dequantised(value, quantisation, node_name(node), node.output[0], where)

    @staticmethod
    def _first(value: Numbers) -> str:
        leaf = next(leaves(value))
        assert isinstance(leaf, Codes)
        return leaf.tensor

    # Matrix products and convolutions

    def _gemm(self, node: onnx.NodeProto, where: str) -> Value:
        transposed = gemm_transposes(node, where)
        codes, weights = self._operands(node, where)
        if len(codes.shape) != 2:
            raise NetworkError(where, f"its input has {len(codes.shape)} axes instead of 2", EXPORT)
        product = self._matrix_product(node, where, codes, weights, transposed)
        return self._with_bias(node, product, where)

    def _matmul(self, node: onnx.NodeProto, where: str) -> Value:
        return self._matrix_product(node, where, *self._operands(node, where), False)

    def _conv(self, node: onnx.NodeProto, where: str) -> Value:
        codes, weights = self._operands(node, where)
        return self._with_bias(node, self._convolution(node, where, codes, weights), where)

    def _operands(self, node: onnx.NodeProto, where: str) -> tuple[Numbers, QuantisedConstant]:
        left, right = self._value(node, 0, where), self._value(node, 1, where)
        if isinstance(right, Constant):
            raise NetworkError(where, "its operands are not quantised", QUANTISE)
        if isinstance(left, Constant | QuantisedConstant) or not isinstance(right, QuantisedConstant):
            raise NetworkError(
                where,
                "is not the product of a quantised activation, first, with constant weights",
                "only such products are supported",
            )
        return self._operand(left, where), right

    def _with_bias(self, node: onnx.NodeProto, product: Product, where: str) -> Product:
        bias = self._optional(node, 2, where)
        if bias is None:
            return product
        if not isinstance(bias, Constant | QuantisedConstant):
            raise NetworkError(where, "its bias is not constant", "fold constants (onnxsim)")
        if isinstance(product.window, Window):
            if bias.shape != (product.channels,):
                raise NetworkError(
                    where, f"bias of shape {bias.shape} is not for {product.channels} channels", EXPORT
                )
            shape = (1, product.channels, *(1 for _ in product.shape[2:]))
            bias = self._reshaped_constant(bias, shape, where)
        return self._shifted(product, bias, where)

    def _shifted(
        self, product: Product, value: Constant | QuantisedConstant, where: str, sign: int = 1
    ) -> Product:
        """A product to which a constant is added."""
        array = self._per_channel(
            product, value.codes if isinstance(value, QuantisedConstant) else value.array, where
        )
        scale, flat = product.scale, product.scale == 0
        scale = np.where(flat, 1.0, scale)
        if isinstance(value, QuantisedConstant):
            integers = self._per_channel(product, value.integers, where)
            quantisation = value.quantisation
            unit = self._per_channel(product, quantisation.along(len(value.shape), quantisation.scale), where)
            # The file keeps the product of two scales as a float32, which rounds it.
            exact = np.where(
                np.abs(unit - scale) <= 1e-6 * np.abs(scale), integers, integers * (unit / scale)
            )
            real = integers * unit
        else:
            if value.array.dtype != np.float32 or not np.isfinite(value.array).all():
                raise NetworkError(where, "bias is not made of finite FLOAT numbers", QUANTISE)
            real = array.astype(np.float64)
            exact = real / scale
        return replace(product, bias=product.bias + sign * exact, constant=product.constant + sign * real)

    def _per_channel(self, product: Product, array: NDArray[Any], where: str) -> NDArray[Any]:
        """A constant that broadcasts against a product, as one number for each of its channels."""
        rank, axis = len(product.shape), product.channel_axis
        shape = (1,) * (rank - array.ndim) + array.shape
        if len(shape) != rank or any(
            size != 1 and (at != axis or size != product.channels) for at, size in enumerate(shape)
        ):
            raise NetworkError(
                where,
                f"bias of shape {array.shape} does not match axis {axis} of {product.shape}, "
                f"{product.channels} channels",
                "only one number per output channel is supported",
            )
        return np.broadcast_to(array.reshape(-1), product.channels)

    def _scaled(self, product: Product, factor: NDArray[Any]) -> Product:
        """A product times a constant for each channel."""
        factor = np.asarray(factor, dtype=np.float64)
        return replace(
            product,
            scale=product.scale * factor,
            constant=product.constant * factor,
        )

    def _batch_normalization(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._computed(node, 0, where)
        if (
            not isinstance(value, Product)
            or value.clamp is not None
            or len(value.shape) < 2
            or value.channel_axis != 1
        ):
            raise NetworkError(
                where,
                "does not follow a convolution or matrix product directly",
                "fold it into the weights before quantising (onnxruntime's quant_pre_process does)",
            )
        if attribute(node, "training_mode", 0, where):
            raise NetworkError(where, "is in training mode", "export the network for inference")
        arrays = []
        for index, what in ((1, "scale"), (2, "bias"), (3, "mean"), (4, "variance")):
            array = self._numbers(self._value(node, index, where), f"its {what}", where)
            if array.shape != (value.channels,) or array.dtype.kind != "f" or not np.isfinite(array).all():
                raise NetworkError(
                    where, f"its {what} is not {value.channels} finite numbers, one per channel", EXPORT
                )
            arrays.append(array.astype(np.float64))
        gain, offset, mean, variance = arrays
        variance = variance + attribute(node, "epsilon", 1e-5, where)
        if (variance <= 0).any():
            raise NetworkError(where, "variance is not positive", EXPORT)
        gain = gain / np.sqrt(variance)
        product = self._scaled(value, gain)
        flat = product.scale == 0
        exact = (offset - mean * gain) / np.where(flat, 1.0, product.scale)
        product = replace(
            product,
            bias=product.bias + exact,
            constant=product.constant + offset - mean * gain,
            output=node.output[0],
        )
        return product

    # Means and maxima

    def _spatial(self, value: Numbers, where: str) -> tuple[int, ...]:
        if len(value.shape) not in (3, 4):
            raise NetworkError(
                where, f"its input {value.shape} is no map of one or two axes", "pool 1-D or 2-D maps"
            )
        return value.shape[2:]

    def _max_pool(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._computed(node, 0, where)
        window = pool_window(node, self._spatial(value, where), where)
        return self._pooled(node, value, window, where)

    def _global_max_pool(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._computed(node, 0, where)
        return self._pooled(node, value, Window.whole(self._spatial(value, where)), where)

    def _pooled(self, node: onnx.NodeProto, value: Numbers, window: Window, where: str) -> Value:
        shape = (*value.shape[:2], *window.size)
        return Moved(node_name(node), where, node.output[0], Pool(window), (value,), shape)

    def _average_pool(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._computed(node, 0, where)
        window = pool_window(node, self._spatial(value, where), where)
        counted = bool(attribute(node, "count_include_pad", 0, where))
        if counted and window.overhang:
            raise NetworkError(
                where, "counts padding in windows that reach beyond it (ceil_mode)", "set ceil_mode to 0"
            )
        return self._average(node, value, window, counted, where)

    def _global_average_pool(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._computed(node, 0, where)
        return self._average(node, value, Window.whole(self._spatial(value, where)), False, where)

    def _average(
        self, node: onnx.NodeProto, value: Numbers, window: Window, counted: bool, where: str, axis: int = 1
    ) -> Average:
        name = node_name(node)
        codes = value if self._holds_codes(value) else self._operand(value, where)
        tensor = self._with_channels(self._tensor(codes), axis, name)
        spatial = iter(window.size)
        shape = tuple(size if at in (0, axis) else next(spatial) for at, size in enumerate(value.shape))
        return Average(name, where, node.output[0], tensor, shape, axis, window, counted)

    def _reduce_mean(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._computed(node, 0, where)
        rank = len(value.shape)
        axes = self._axes(node, rank, where)
        if axes is None:
            axes = () if attribute(node, "noop_with_empty_axes", 0, where) else tuple(range(rank))
        keep = attribute(node, "keepdims", 1, where)
        others = [axis for axis in range(1, rank) if axis not in axes]
        codes = self._operand(value, where)
        known = self._drafts[self._tensor(codes)].channel_axis
        if known is None and len(others) == 1:
            known = others[0]
        if 0 in axes or rank not in (3, 4) or known is None or known in axes:
            raise NetworkError(
                where,
                f"takes the mean of {value.shape} over axes {list(axes)}",
                "only means over height and width are supported",
            )
        spatial = [axis for axis in range(1, rank) if axis != known]
        kernel = tuple(value.shape[axis] if axis in axes else 1 for axis in spatial)
        size = tuple(1 if axis in axes else value.shape[axis] for axis in spatial)
        window = replace(Window.whole(kernel), size=size)
        result = self._average(node, value, window, False, where, known)
        if keep:
            return result
        shape = tuple(size for axis, size in enumerate(result.shape) if axis not in axes)
        return Moved(node_name(node), where, node.output[0], Relabel(), (result,), shape)

    # Elementwise functions

    def _arithmetic(self, node: onnx.NodeProto, where: str) -> Value:
        operation = _BINARY[node.op_type]
        if len(node.input) != 2:
            raise NetworkError(where, f"has {len(node.input)} inputs", "combine two at a time")
        left, right = (self._value(node, index, where) for index in (0, 1))
        constants = [isinstance(value, Constant | QuantisedConstant) for value in (left, right)]
        if all(constants):
            raise NetworkError(where, "takes constants", "fold constants (onnxsim)")
        if any(constants):
            return self._with_constant(node, left, right, where)
        assert not isinstance(left, Constant | QuantisedConstant)
        assert not isinstance(right, Constant | QuantisedConstant)
        if left.shape != right.shape:
            raise NetworkError(
                where,
                f"combines shapes {left.shape} and {right.shape}",
                "expand them to one shape first; only constants are broadcast",
            )
        first, second = (self._function(value, where) for value in (left, right))
        tensors = tuple(dict.fromkeys((*first.tensors, *second.tensors)))
        if len(tensors) > 2:
            raise NetworkError(
                where,
                "combines more than two tensors",
                "quantise in between (QuantizeLinear, DequantizeLinear)",
            )
        with np.errstate(all="ignore"):
            values = operation(_spread(first, tensors), _spread(second, tensors))
        return Reals(node_name(node), where, node.output[0], tensors, left.shape, values)

    def _with_constant(self, node: onnx.NodeProto, left: Value, right: Value, where: str) -> Value:
        constant, value, reverse = (
            (left, right, True) if isinstance(left, Constant | QuantisedConstant) else (right, left, False)
        )
        assert isinstance(constant, Constant | QuantisedConstant)
        assert not isinstance(value, Constant | QuantisedConstant)
        operation = node.op_type
        if isinstance(value, Product) and operation in ("Add", "Sub", "Mul", "Div") and value.clamp is None:
            return self._affine(node, value, constant, reverse, where)
        array = self._numbers(constant, "its constant", where)
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise NetworkError(where, "its constant is not made of finite FLOAT numbers", QUANTISE)
        if array.size != 1 or array.ndim > len(value.shape):
            raise NetworkError(
                where,
                f"combines {value.shape} with a constant of shape {array.shape}",
                "only the result of a matrix product or convolution can take one number per channel, "
                "before an activation",
            )
        number = array.reshape(())

        def function(x: NDArray[np.float32]) -> NDArray[np.float32]:
            return _BINARY[operation](*((number, x) if reverse else (x, number)))

        return self._mapped(node, value, function, where)

    def _affine(
        self,
        node: onnx.NodeProto,
        product: Product,
        constant: Constant | QuantisedConstant,
        reverse: bool,
        where: str,
    ) -> Product:
        operation = node.op_type
        product = replace(product, output=node.output[0])
        if operation in ("Add", "Sub"):
            if operation == "Sub" and reverse:
                return self._shifted(self._scaled(product, np.array(-1.0)), constant, where)
            return self._shifted(product, constant, where, -1 if operation == "Sub" else 1)
        numbers = self._per_channel(product, self._numbers(constant, "its factor", where), where)
        if numbers.dtype != np.float32 or not np.isfinite(numbers).all():
            raise NetworkError(where, "its factor is not made of finite FLOAT numbers", QUANTISE)
        if operation == "Div":
            if reverse or not numbers.all():
                raise NetworkError(where, "divides by zero, or by what is computed", "quantise before it")
            return self._scaled(product, 1 / numbers.astype(np.float64))
        return self._scaled(product, numbers)

    def _function(self, value: Numbers, where: str) -> Reals:
        """A value as a function of codes."""
        if isinstance(value, Reals):
            return value
        codes = self._stripped(value)
        if codes is None or self._holds_codes(value):
            self._operand(value, where)
            raise NetworkError(where, "takes integers", "put a DequantizeLinear before it")
        tensor = self._tensor(codes)
        first = next(leaves(value))
        assert isinstance(first, Reals)
        name = value.output if isinstance(value, Moved) and value.output else first.output
        return Reals(first.name, where, name, (tensor,), value.shape, self._values_of(tensor), plain=True)

    def _mapped(
        self,
        node: onnx.NodeProto,
        value: Numbers,
        function: _Function,
        where: str,
        clamp: tuple[float, float] | None = None,
    ) -> Numbers:
        """A function of every element; `clamp` if it is one."""
        name, output = node_name(node), node.output[0]
        if isinstance(value, Moved) and self._stripped(value) is not None:
            value = self._function(value, where)
        match value:
            case Reals():
                with np.errstate(all="ignore"):
                    values = function(value.values)
                return replace(value, name=name, where=where, output=output, values=values, plain=False)
            case Product() | Average() if clamp is not None:
                bounds = value.clamp or (-np.inf, np.inf)
                # Clamping is monotonic: the bounds of what came before are clamped in turn.
                low, high = (min(max(bound, clamp[0]), clamp[1]) for bound in bounds)
                return replace(value, clamp=(low, high), output=output)
            case Moved(move=Relabel() | Order() | Join() | Crop() | Repeat()) | Moved(move=Pool()) if (
                clamp is not None or not isinstance(value.move, Pool)
            ):
                # Moving elements and changing each of them can be done in either order.
                parts = tuple(self._mapped(node, part, function, where, clamp) for part in value.parts)
                return replace(value, parts=parts, output=output, codes=None)
        if isinstance(value, FloatInput):
            raise NetworkError(where, "its operands are not quantised", QUANTISE)
        raise NetworkError(
            where,
            "is applied to floats that stand for no codes",
            "put a QuantizeLinear and a DequantizeLinear before it",
        )

    def _relu(self, node: onnx.NodeProto, where: str) -> Value:
        return self._clamped(node, 0.0, np.inf, where)

    def _clip(self, node: onnx.NodeProto, where: str) -> Value:
        bounds = []
        for index, key, default in ((1, "min", -np.inf), (2, "max", np.inf)):
            value = self._optional(node, index, where)
            if value is None:
                bounds.append(attribute(node, key, default, where))
                continue
            array = self._numbers(value, key, where)
            if array.size != 1 or array.dtype != np.float32:
                raise NetworkError(where, f"its {key} is not one number of type FLOAT", EXPORT)
            bounds.append(float(array.reshape(())))
        if any(bound != bound for bound in bounds):
            raise NetworkError(where, "a bound is not a number (NaN)", EXPORT)
        return self._clamped(node, bounds[0], bounds[1], where)

    def _clamped(self, node: onnx.NodeProto, low: float, high: float, where: str) -> Value:
        def function(x: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.minimum(np.maximum(x, np.float32(low)), np.float32(high))

        return self._mapped(node, self._computed(node, 0, where), function, where, (low, high))

    def _activation(self, node: onnx.NodeProto, where: str) -> Value:
        return self._mapped(node, self._computed(node, 0, where), self._activation_of(node, where), where)

    def _activation_of(self, node: onnx.NodeProto, where: str) -> _Function:
        match node.op_type:
            case "Abs":
                return np.abs
            case "Neg":
                return np.negative
            case "Sigmoid":
                return runtime.sigmoid
            case "Tanh":
                return runtime.tanh
            case "HardSwish":
                return runtime.hard_swish
            case "HardSigmoid":
                alpha = attribute(node, "alpha", 0.2, where)
                beta = attribute(node, "beta", 0.5, where)
                return lambda x: runtime.hard_sigmoid(x, alpha, beta)
            case "PRelu":
                slope = self._numbers(self._value(node, 1, where), "its slope", where)
                if slope.size != 1 or slope.dtype != np.float32:
                    raise NetworkError(
                        where, "its slope differs from channel to channel", "use one slope, as LeakyRelu"
                    )
                return lambda x: runtime.leaky_relu(x, float(slope.reshape(())))
        alpha = attribute(node, "alpha", 0.01, where)
        return lambda x: runtime.leaky_relu(x, alpha)

    def _softmax(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._computed(node, 0, where)
        codes = self._operand(value, where)
        rank = len(codes.shape)
        axis = attribute(node, "axis", -1 if self._opset >= 13 else 1, where)
        # Before opset 13 everything from that axis on was one.
        if not -rank <= axis < rank or axis % rank != rank - 1:
            raise NetworkError(
                where,
                f"is over axis {axis} of shape {value.shape}",
                "only the last axis is supported; leave it to the host",
            )
        tensor = self._tensor(codes)
        return SoftmaxOf(node_name(node), where, node.output[0], tensor, codes.shape)

    # Shapes

    def _concat(self, node: onnx.NodeProto, where: str) -> Value:
        parts = [self._computed(node, index, where) for index in range(len(node.input))]
        rank = len(parts[0].shape)
        axis = attribute(node, "axis", 0, where)
        if not -rank <= axis < rank:
            raise NetworkError(where, f"axis {axis} does not exist in shape {parts[0].shape}", EXPORT)
        axis %= rank
        shapes = [part.shape for part in parts]
        if len({shape[:axis] + shape[axis + 1 :] for shape in shapes}) > 1 or len(set(map(len, shapes))) > 1:
            raise NetworkError(where, f"shapes {shapes} do not agree beside axis {axis}", EXPORT)
        if len({self._holds_codes(part) for part in parts}) > 1:
            raise NetworkError(where, "takes integers and floats", EXPORT)
        shape = (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])
        return Moved(node_name(node), where, node.output[0], Join(axis), tuple(parts), shape)

    def _pad(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._computed(node, 0, where)
        around, number = self._padding(node, len(value.shape), where)
        if self._holds_codes(value):
            format = self._drafts[self._first(value)].format
            assert isinstance(format, Int)
            if number not in range(format.min, format.max + 1):
                raise NetworkError(where, f"its constant {number:g} is no code of {format}", EXPORT)
        shape = tuple(size + sum(pad) for size, pad in zip(value.shape, around, strict=True))
        move = Border(around, number)
        return Moved(node_name(node), where, node.output[0], move, (value,), shape)

    def _resize(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._computed(node, 0, where)
        mode = attribute(node, "mode", "nearest", where)
        if mode != "nearest":
            raise NetworkError(where, f"interpolates ({mode})", "resize by repeating pixels (mode nearest)")
        shape = value.shape
        sizes = self._sizes(node, shape, where)
        self._spatial(value, where)
        if sizes[:2] != shape[:2] or any(new % old for old, new in zip(shape, sizes, strict=True)):
            raise NetworkError(
                where,
                f"resizes {shape} to {sizes}",
                "make height and width, and nothing else, a whole number of times as large",
            )
        # Both operators first came with what is now one of several ways to round.
        old = node.op_type == "Upsample" or self._opset < 11
        coordinates, rounding = (
            ("asymmetric", "floor")
            if old
            else (
                attribute(node, "coordinate_transformation_mode", "half_pixel", where),
                attribute(node, "nearest_mode", "round_prefer_floor", where),
            )
        )
        for before, after in zip(shape, sizes, strict=True):
            nearest = runtime.nearest(before, after, coordinates, rounding)
            if nearest is None or (nearest != np.arange(after) // (after // before)).any():
                raise NetworkError(
                    where,
                    f"{coordinates} coordinates and {rounding} do not repeat each of {before} pixels as "
                    f"often, to {after}",
                    "use half_pixel with round_prefer_floor, or asymmetric with floor",
                )
        times = (1, *(new // old for old, new in zip(shape[2:], sizes[2:], strict=True)))
        factors = (times[-2], times[-1])
        if factors == (1, 1):
            return value
        return Moved(node_name(node), where, node.output[0], Repeat(factors), (value,), sizes)

    def _sizes(self, node: onnx.NodeProto, shape: tuple[int, ...], where: str) -> tuple[int, ...]:
        """The axes of a resized tensor."""
        axes = self._axes_attribute(node, len(shape), where)
        scales_at = 2 if node.op_type == "Resize" and self._opset >= 11 else 1
        if scales_at == 2 and self._optional(node, 3, where) is not None:
            values = [float(size) for size in self._integers(node, 3, where)]
        else:
            scales: Any = attribute(node, "scales", None, where)
            if scales is None:
                scales = self._numbers(self._value(node, scales_at, where), "its scales", where).reshape(-1)
            if len(scales) != len(axes):
                raise NetworkError(where, f"has {len(scales)} scales for axes {list(axes)}", EXPORT)
            values = [shape[axis] * float(scale) for axis, scale in zip(axes, scales, strict=True)]
            if any(value != value or value % 1 for value in values):
                raise NetworkError(
                    where, f"resizes {shape} by {tuple(map(float, scales))}", "use whole factors"
                )
        if len(values) != len(axes) or min(values) < 1 or max(values) > 1 << 24:
            raise NetworkError(where, f"its sizes {values} are not for axes {list(axes)} of {shape}", EXPORT)
        new = list(shape)
        for axis, value in zip(axes, values, strict=True):
            new[axis] = int(value)
        policy = attribute(node, "keep_aspect_ratio_policy", "stretch", where)
        if policy != "stretch" and len({new[axis] / shape[axis] for axis in axes}) > 1:
            raise NetworkError(where, f"keeps the aspect ratio ({policy})", "give the sizes that it makes")
        return tuple(new)

    def _axes_attribute(self, node: onnx.NodeProto, rank: int, where: str) -> tuple[int, ...]:
        """The axes that are resized; all unless given."""
        axes: tuple[int, ...] = attribute(node, "axes", tuple(range(rank)), where)
        if any(not -rank <= axis < rank for axis in axes) or len({axis % rank for axis in axes}) != len(axes):
            raise NetworkError(where, f"axes {list(axes)} do not exist", EXPORT)
        return tuple(axis % rank for axis in axes)

    def _slice(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        rank = len(value.shape)
        if len(node.input) > 1:
            starts, ends = (self._integers(node, index, where) for index in (1, 2))
            axes, steps = (
                None if self._optional(node, index, where) is None else self._integers(node, index, where)
                for index in (3, 4)
            )
        else:
            starts, ends = (attribute(node, key, (), where) for key in ("starts", "ends"))
            axes, steps = attribute(node, "axes", None, where), None
        axes = tuple(range(len(starts))) if axes is None else axes
        steps = (1,) * len(starts) if steps is None else steps
        if len({len(starts), len(ends), len(axes), len(steps)}) > 1:
            raise NetworkError(where, "its starts, ends, axes and steps are not as many", EXPORT)
        if any(not -rank <= axis < rank for axis in axes) or len({axis % rank for axis in axes}) != len(axes):
            raise NetworkError(where, f"axes {list(axes)} do not exist in shape {value.shape}", EXPORT)
        if any(step != 1 for step in steps):
            raise NetworkError(where, f"takes steps of {list(steps)}", "slice without steps")
        parts = [range(size) for size in value.shape]
        for axis, start, end in zip(axes, starts, ends, strict=True):
            parts[axis] = parts[axis][start:end]
        return self._part(node, node.output[0], value, parts, where)

    def _part(
        self, node: onnx.NodeProto, output: str, value: Value, parts: Sequence[range], where: str
    ) -> Value:
        """Some elements of every axis, that follow each other."""
        if not all(parts):
            raise NetworkError(where, f"leaves nothing of shape {value.shape}", EXPORT)
        if isinstance(value, QuantisedConstant):
            raise NetworkError(where, "takes a part of quantised weights", "store the parts")
        if isinstance(value, Constant):
            return replace(value, array=value.array[np.ix_(*parts)] if parts else value.array)
        shape = tuple(map(len, parts))
        if shape == value.shape:
            return value
        counts = tuple((part.start, size - part.stop) for part, size in zip(parts, value.shape, strict=True))
        return Moved(node_name(node), where, output, Crop(counts), (value,), shape)

    def _split(self, node: onnx.NodeProto, where: str) -> dict[str, Value]:
        value = self._value(node, 0, where)
        rank, count = len(value.shape), len(node.output)
        axis = attribute(node, "axis", 0, where)
        if not -rank <= axis < rank:
            raise NetworkError(where, f"axis {axis} does not exist in shape {value.shape}", EXPORT)
        axis %= rank
        size = value.shape[axis]
        sizes: tuple[int, ...] | None
        if len(node.input) > 1 and node.input[1]:
            sizes = self._integers(node, 1, where)
        else:
            sizes = attribute(node, "split", None, where)
        if sizes is None:
            # Equal ones, but for the last.
            most = -(-size // max(1, attribute(node, "num_outputs", count, where)))
            sizes = tuple(max(0, min(most, size - number * most)) for number in range(count))
        if len(sizes) != count or min(sizes, default=0) < 0 or sum(sizes) != size:
            raise NetworkError(
                where, f"splits {size} elements into {list(sizes)} for {count} outputs", EXPORT
            )
        made: dict[str, Value] = {}
        start = 0
        for name, part in zip(node.output, sizes, strict=True):
            if name:
                parts = [range(every) for every in value.shape]
                parts[axis] = range(start, start + part)
                made[name] = self._part(node, name, value, parts, where)
            start += part
        return made

    def _transpose(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        order = self._order(node, len(value.shape), where)
        match value:
            case Constant():
                return replace(value, array=value.array.transpose(order))
            case QuantisedConstant():
                old = value.quantisation
                axis = None if old.axis is None else order.index(old.axis)
                return QuantisedConstant(value.codes.transpose(order), replace(old, axis=axis))
        if order == tuple(range(len(order))):
            return value
        shape = tuple(value.shape[axis] for axis in order)
        return Moved(node_name(node), where, node.output[0], Order(tuple(order)), (value,), shape)

    def _reshaped(self, node: onnx.NodeProto, value: Value, shape: tuple[int, ...], where: str) -> Value:
        self._checked_shape(value, shape, where)
        if shape == value.shape:
            return value
        if isinstance(value, Constant | QuantisedConstant):
            return self._reshaped_constant(value, shape, where)
        return Moved(node_name(node), where, node.output[0], Relabel(), (value,), shape)

    def _reshaped_constant(
        self, value: Constant | QuantisedConstant, shape: tuple[int, ...], where: str
    ) -> Constant | QuantisedConstant:
        if isinstance(value, Constant):
            return replace(value, array=value.array.reshape(shape))
        old = value.quantisation
        axis = old.axis
        if axis is not None:
            before, size = prod(value.shape[:axis]), value.shape[axis]
            # More than one channel, so that at most one axis of that size has as many elements before it.
            axis = next(
                (a for a in range(len(shape)) if shape[a] == size and prod(shape[:a]) == before), None
            )
            if axis is None:
                raise NetworkError(
                    where,
                    f"reshapes weights across the axis of their scales, {value.shape} to {shape}",
                    "quantise them in their final shape",
                )
        return QuantisedConstant(value.codes.reshape(shape), replace(old, axis=axis))


def _spread(value: Reals, tensors: tuple[str, ...]) -> NDArray[np.float32]:
    """A function's values, shaped to broadcast against those of functions of all these tensors."""
    if value.tensors == tensors:
        return value.values
    if len(value.tensors) == 2:
        return value.values.T
    return value.values[:, None] if value.tensors[0] == tensors[0] else value.values[None, :]
