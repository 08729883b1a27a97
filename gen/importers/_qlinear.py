"""The QLinear operators: integers in, integers out, with scales and zero points as further inputs.

They round as onnxruntime does, which accumulates in int32, multiplies by a float32 and rounds half to even.
Operators of onnxruntime's own domain are among them; where it computes a table, so does this.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitwright.hw.formats import Int
from bitwright.sim.graph import NetworkError, Softmax

from . import _runtime as runtime
from ._lowering import ACTIVATIONS, QUANTISE, Lowering
from ._onnx import EXPORT, Constant, Draft, Window, attribute, convolution_of, node_name, pool_window
from ._values import (
    Average,
    Codes,
    Join,
    Moved,
    Numbers,
    Product,
    Quantisation,
    QuantisedConstant,
    Value,
)

__all__ = ["QLinear"]

_WEIGHT_BITS = (4, 8)


class QLinear(Lowering):
    """Lowers QLinear operators, and makes the products that they share with the QDQ form."""

    def _operators(self) -> dict[str, Callable[[onnx.NodeProto, str], Value]]:
        return {
            "QLinearConv": self._qlinear_conv,
            "QLinearMatMul": self._qlinear_matmul,
            "QGemm": self._qgemm,
            "QLinearAdd": self._qlinear_binary,
            "QLinearMul": self._qlinear_binary,
            "QLinearAveragePool": self._qlinear_average_pool,
            "QLinearGlobalAveragePool": self._qlinear_global_average_pool,
            "QLinearConcat": self._qlinear_concat,
            "QLinearLeakyRelu": self._qlinear_activation,
            "QLinearSigmoid": self._qlinear_activation,
            "QLinearSoftmax": self._qlinear_softmax,
        }

    # Scales and zero points

    def _parameters(
        self,
        scale: Value,
        zero_point: Value | None,
        default: Int | None,
        shape: tuple[int, ...],
        axis: int,
        where: str,
    ) -> Quantisation:
        """Scale and zero point for a tensor of that shape; `default` is the format without a zero point."""
        if not isinstance(scale, Constant) or scale.array.dtype != np.float32:
            raise NetworkError(where, "its scale is not a constant of type FLOAT", QUANTISE)
        scales = scale.array.astype(np.float64)
        if not (scales.size and np.isfinite(scales).all() and (scales > 0).all()):
            raise NetworkError(where, "its scale is not a positive number", "calibrate again")
        format = default
        if zero_point is not None:
            if not isinstance(zero_point, Constant) or zero_point.format is None:
                raise NetworkError(where, "its zero point is not a constant integer", QUANTISE)
            if zero_point.array.size != scales.size:
                raise NetworkError(
                    where, f"has {scales.size} scales and {zero_point.array.size} zero points", EXPORT
                )
            format = zero_point.format
            zero_points = zero_point.array.astype(np.int64)
        else:
            zero_points = np.zeros(scales.shape, dtype=np.int64)
        assert format is not None
        if scales.size == 1:
            return Quantisation(scales.reshape(()), zero_points.reshape(()), format, None)
        if not -len(shape) <= axis < len(shape):
            raise NetworkError(where, f"axis {axis} does not exist in shape {shape}", EXPORT)
        axis %= len(shape)
        if scales.shape != (shape[axis],):
            raise NetworkError(
                where,
                f"scales of shape {scales.shape} do not match axis {axis} of shape {shape}",
                "quantise per tensor or per channel, not per block",
            )
        return Quantisation(scales, zero_points.reshape(-1), format, axis)

    def _quantisation(
        self, node: onnx.NodeProto, default: Int | None, shape: tuple[int, ...], where: str
    ) -> Quantisation:
        if attribute(node, "block_size", 0, where):
            raise NetworkError(where, "quantises per block", "quantise per tensor or per channel")
        return self._parameters(
            self._value(node, 1, where),
            self._optional(node, 2, where),
            default,
            shape,
            attribute(node, "axis", 1, where),
            where,
        )

    def _beside(
        self, node: onnx.NodeProto, index: int, shape: tuple[int, ...], axis: int, where: str
    ) -> Quantisation:
        """The parameters at an input and the one after it."""
        scale, zero_point = self._value(node, index, where), self._optional(node, index + 1, where)
        return self._parameters(scale, zero_point, Int(8, signed=False), shape, axis, where)

    def _integer_input(
        self, node: onnx.NodeProto, index: int, where: str, parameters: int | None = None
    ) -> tuple[Numbers, str]:
        """An input that holds integers, and its tensor; its scale is at `parameters`, or behind it."""
        value = self._value(node, index, where)
        if isinstance(value, Constant | QuantisedConstant) or not self._holds_codes(value):
            raise NetworkError(
                where, f"input {index} is no quantised activation", "only weights may be constant"
            )
        at = index + 1 if parameters is None else parameters
        tensor = self._tensor(value)
        self._agree(tensor, self._beside(node, at, value.shape, 0, where), where)
        return value, tensor

    def _result(self, node: onnx.NodeProto, index: int, shape: tuple[int, ...], where: str) -> Draft:
        """The tensor that such an operator makes."""
        quantisation = self._beside(node, index, shape, 0, where)
        if quantisation.format not in ACTIVATIONS or quantisation.axis is not None:
            raise NetworkError(
                where, "its result is not quantised per tensor to 8 or 4 bits", "quantise it so"
            )
        scale, zero_point = float(quantisation.scale), int(quantisation.zero_point)
        return Draft(shape, quantisation.format, scale, zero_point)

    def _constant_weights(self, node: onnx.NodeProto, index: int, axis: int, where: str) -> QuantisedConstant:
        value = self._value(node, index, where)
        if not isinstance(value, Constant) or value.format is None:
            raise NetworkError(
                where,
                "is not the product of a quantised activation, first, with constant weights",
                "only such products are supported",
            )
        quantisation = self._beside(node, index + 1, value.shape, axis, where)
        if quantisation.format != value.format:
            raise NetworkError(
                where, f"weights are {value.format}, their zero point {quantisation.format}", EXPORT
            )
        return QuantisedConstant(value.array.astype(np.int64), quantisation)

    # Products

    def _matrix_product(
        self,
        node: onnx.NodeProto,
        where: str,
        codes: Numbers,
        constant: QuantisedConstant,
        transposed: bool,
    ) -> Product:
        if constant.codes.ndim != 2 or not constant.codes.size:
            raise NetworkError(where, f"weights of shape {constant.shape} are not a matrix", "reshape them")
        weights, format = self._checked_weights(constant, 0 if transposed else 1, where)
        weights = weights if transposed else weights.T
        channels, reduction = weights.shape
        shape = codes.shape
        if not shape or shape[-1] != reduction:
            raise NetworkError(
                where, f"input {shape} and weights for {reduction} inputs do not agree", EXPORT
            )
        tensor, weights = self._flattened(codes, weights)
        return self._product(node, where, tensor, weights, format, constant, (*shape[:-1], channels))

    def _convolution(
        self, node: onnx.NodeProto, where: str, codes: Numbers, constant: QuantisedConstant
    ) -> Product:
        shape, size = codes.shape, constant.shape
        groups, window = convolution_of(node, shape, size, where)
        weights, format = self._checked_weights(constant, 0, where)
        # Rows, columns, channels: as they lie in memory.
        weights = np.moveaxis(weights.reshape(*size[:2], *window.kernel), 1, -1)
        tensor = self._with_channels(self._tensor(codes), 1, node_name(node))
        result = (shape[0], size[0], *window.size)
        return self._product(node, where, tensor, weights, format, constant, result, window, groups)

    def _checked_weights(
        self, constant: QuantisedConstant, channels: int, where: str
    ) -> tuple[NDArray[np.int64], Int]:
        """Weights less their zero point, and the format that holds them."""
        quantisation = constant.quantisation
        if quantisation.axis is not None and quantisation.axis != channels:
            raise NetworkError(
                where, "weights have a scale per input channel", "quantise them per output channel"
            )
        declared = quantisation.format
        if declared.bits > 8:
            raise NetworkError(where, f"weights are {declared}", "quantise them to 8 or 4 bits")
        weights = constant.integers
        formats = (Int(bits) for bits in _WEIGHT_BITS if bits >= declared.bits)
        format = next((format for format in formats if format.contains(weights)), None)
        if format is None:
            raise NetworkError(
                where,
                f"weights less their zero point are {weights.min()}..{weights.max()}, more than 8 bits",
                "quantise them symmetrically (INT8, zero point 0)",
            )
        return weights, format

    def _product(
        self,
        node: onnx.NodeProto,
        where: str,
        tensor: str,
        weights: NDArray[np.int64],
        format: Int,
        constant: QuantisedConstant,
        shape: tuple[int, ...],
        window: Window | None = None,
        groups: int = 1,
    ) -> Product:
        scale = self._root(tensor).scale
        assert scale is not None
        channels = len(weights)
        return Product(
            name=node_name(node),
            where=where,
            output=node.output[0],
            input=tensor,
            shape=shape,
            weights=weights,
            weight_format=format,
            scale=np.broadcast_to(scale * constant.quantisation.scale, channels).copy(),
            bias=np.zeros(channels),
            constant=np.zeros(channels),
            window=window,
            groups=groups,
        )

    def _qlinear_conv(self, node: onnx.NodeProto, where: str) -> Value:
        if attribute(node, "channels_last", 0, where):
            raise NetworkError(where, "has its channels last", "export it with channels first")
        codes, _ = self._integer_input(node, 0, where)
        constant = self._constant_weights(node, 3, 0, where)
        product = self._convolution(node, where, codes, constant)
        return self._finished(node, product, constant, 6, 8, where)

    def _qlinear_matmul(self, node: onnx.NodeProto, where: str) -> Value:
        constant = self._constant_weights(node, 3, -1, where)
        codes, _ = self._integer_input(node, 0, where)
        product = self._matrix_product(node, where, codes, constant, False)
        return self._finished(node, product, constant, 6, None, where)

    def _qgemm(self, node: onnx.NodeProto, where: str) -> Value:
        transposed = attribute(node, "transB", 0, where)
        if attribute(node, "transA", 0, where) or attribute(node, "alpha", 1.0, where) != 1:
            raise NetworkError(where, "transA or alpha is not the default", "fold it into the weights")
        constant = self._constant_weights(node, 3, 0 if transposed else 1, where)
        codes, _ = self._integer_input(node, 0, where)
        product = self._matrix_product(node, where, codes, constant, bool(transposed))
        return self._finished(node, product, constant, 7, 6, where)

    def _finished(
        self,
        node: onnx.NodeProto,
        product: Product,
        constant: QuantisedConstant,
        parameters: int,
        bias: int | None,
        where: str,
    ) -> Codes:
        """Make the node of a product whose result's scale and bias are at these inputs."""
        draft = self._result(node, parameters, product.shape, where)
        value = None if bias is None else self._optional(node, bias, where)
        if value is not None:
            if (
                not isinstance(value, Constant)
                or value.format != Int(32)
                or value.array.size
                not in (
                    1,
                    product.channels,
                )
            ):
                raise NetworkError(
                    where, f"its bias is not {product.channels} constants of type INT32", EXPORT
                )
            product.bias[:] = value.array.reshape(-1)
        assert draft.scale is not None
        source = self._root(product.input).scale
        assert source is not None
        # In this order, as the runtime does.
        scale = np.float32(source) * constant.quantisation.scale.astype(np.float32)
        factor = np.broadcast_to(scale / np.float32(draft.scale), product.channels).copy()
        self._emit_product(product, node.output[0], draft, factor)
        return Codes(node.output[0], product.shape)

    # Everything else

    def _qlinear_binary(self, node: onnx.NodeProto, where: str) -> Value:
        (first, a), (second, b) = (self._integer_input(node, index, where) for index in (0, 3))
        if first.shape != second.shape:
            raise NetworkError(
                where, f"combines shapes {first.shape} and {second.shape}", "expand them to one shape first"
            )
        draft = self._result(node, 6, first.shape, where)
        roots = [self._root(a), self._root(b), draft]
        scales: Any = tuple(root.scale for root in roots)
        zero_points: Any = tuple(root.zero_point for root in roots)
        codes: Any = tuple(_codes(root) for root in roots[:2])
        function = runtime.qlinear_add if node.op_type == "QLinearAdd" else runtime.qlinear_multiply
        assert isinstance(draft.format, Int)
        table = function(codes, scales, zero_points, draft.format)
        if a == b:
            self._emit_table(node_name(node), (a,), node.output[0], draft, np.diagonal(table))
        else:
            self._emit_table(node_name(node), (a, b), node.output[0], draft, table)
        return Codes(node.output[0], first.shape)

    def _pool_input(self, node: onnx.NodeProto, where: str) -> tuple[Numbers, str]:
        if attribute(node, "channels_last", 0, where):
            raise NetworkError(where, "has its channels last", "export it with channels first")
        value, tensor = self._integer_input(node, 0, where)
        if len(value.shape) not in (3, 4):
            raise NetworkError(where, f"its input {value.shape} is no map", "pool 1-D or 2-D maps")
        return value, self._with_channels(tensor, 1, node_name(node))

    def _qlinear_average_pool(self, node: onnx.NodeProto, where: str) -> Value:
        value, tensor = self._pool_input(node, where)
        window = pool_window(node, value.shape[2:], where)
        counted = bool(attribute(node, "count_include_pad", 0, where))
        if counted and window.overhang:
            raise NetworkError(
                where, "counts padding in windows that reach beyond it (ceil_mode)", "set ceil_mode to 0"
            )
        draft = self._result(node, 3, (*value.shape[:2], *window.size), where)
        name, output = node_name(node), node.output[0]
        self._emit_average(
            Average(name, where, output, tensor, draft.shape, 1, window, counted), output, draft
        )
        return Codes(output, draft.shape)

    def _qlinear_global_average_pool(self, node: onnx.NodeProto, where: str) -> Value:
        value, tensor = self._pool_input(node, where)
        window = Window.whole(value.shape[2:])
        draft = self._result(node, 3, (*value.shape[:2], *window.size), where)
        root = self._root(tensor)
        scales, zero_points = (root.scale, draft.scale), (root.zero_point, draft.zero_point)
        format = draft.format

        def codes(sums: NDArray[np.int64], count: int) -> NDArray[np.int64]:
            return runtime.global_mean(sums, count, scales, zero_points, format)  # type: ignore[arg-type]

        name, output = node_name(node), node.output[0]
        mean = Average(name, where, output, tensor, draft.shape, 1, window, False)
        self._emit_mean(mean, output, draft, codes)
        return Codes(output, draft.shape)

    def _qlinear_concat(self, node: onnx.NodeProto, where: str) -> Value:
        if len(node.input) < 5 or len(node.input) % 3 != 2:
            raise NetworkError(
                where, f"has {len(node.input)} inputs, not two and three for each tensor", EXPORT
            )
        inputs = [self._integer_input(node, index, where) for index in range(2, len(node.input), 3)]
        shapes = [value.shape for value, _ in inputs]
        rank = len(shapes[0])
        axis = attribute(node, "axis", 0, where)
        if not -rank <= axis < rank:
            raise NetworkError(where, f"axis {axis} does not exist in shape {shapes[0]}", EXPORT)
        axis %= rank
        if len({(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in shapes}) > 1:
            raise NetworkError(where, f"shapes {shapes} do not agree beside axis {axis}", EXPORT)
        draft = self._result(node, 0, (), where)
        assert draft.scale is not None
        assert isinstance(draft.format, Int)
        name, output = node_name(node), node.output[0]
        parts = []
        for value, tensor in inputs:
            root = self._root(tensor)
            if (root.format, root.scale, root.zero_point) != (draft.format, draft.scale, draft.zero_point):
                real = self._values_of(tensor)
                table = runtime.codes_of(real, draft.scale, draft.zero_point, draft.format)
                target = self._fresh(f"{tensor}_rescaled")
                own = Draft(value.shape, draft.format, draft.scale, draft.zero_point)
                self._emit_table(f"{name}_input", (tensor,), target, own, table)
                tensor = target
            parts.append(Codes(tensor, value.shape))
        shape = (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])
        joined = Moved(name, where, output, Join(axis), tuple(parts), shape)
        return Codes(self._tensor(joined), shape)

    def _qlinear_activation(self, node: onnx.NodeProto, where: str) -> Value:
        value, tensor = self._integer_input(node, 0, where)
        draft = self._result(node, 3, value.shape, where)
        assert draft.scale is not None
        assert isinstance(draft.format, Int)
        real = self._values_of(tensor)
        if node.op_type == "QLinearSigmoid":
            real = runtime.sigmoid(real)
        else:
            real = runtime.leaky_relu(real, attribute(node, "alpha", 0.01, where))
        table = runtime.codes_of(real, draft.scale, draft.zero_point, draft.format)
        self._emit_table(node_name(node), (tensor,), node.output[0], draft, table)
        return Codes(node.output[0], value.shape)

    def _qlinear_softmax(self, node: onnx.NodeProto, where: str) -> Value:
        value, tensor = self._integer_input(node, 0, where)
        draft = self._result(node, 3, value.shape, where)
        rank = len(value.shape)
        axis = attribute(node, "axis", -1, where)
        if not -rank <= axis < rank or axis % rank != rank - 1:
            raise NetworkError(
                where,
                f"is over axis {axis} of shape {value.shape}",
                "only the last axis is supported; leave it to the host",
            )
        output = node.output[0]
        self._declare(output, draft, tensor)
        self._append(Softmax(name=node_name(node), input=tensor, output=output, arithmetic="float32"))
        return Codes(output, value.shape)


def _codes(draft: Draft) -> NDArray[np.int64]:
    """Every code of a tensor."""
    assert isinstance(draft.format, Int)
    return np.arange(draft.format.min, draft.format.max + 1)
