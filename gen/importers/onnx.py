"""ONNX networks in QDQ form: every matrix product between DequantizeLinear and QuantizeLinear.

The nodes are walked once, in order, each making a value out of its inputs' values; integers are
followed through the floats that stand between them. What a `QuantizeLinear` then receives is a pending
matrix product, and it becomes one node of the integer graph.

The numbers mean what the ONNX operator specification says of `QuantizeLinear` and `DequantizeLinear`:
``saturate(round_half_even(x / scale) + zero_point)``.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

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
    printable,
)

__all__ = ["load"]

_FORMATS: dict[int, Int] = {
    TensorProto.INT4: Int(4),
    TensorProto.UINT4: Int(4, signed=False),
    TensorProto.INT8: Int(8),
    TensorProto.UINT8: Int(8, signed=False),
    TensorProto.INT16: Int(16),
    TensorProto.UINT16: Int(16, signed=False),
    TensorProto.INT32: Int(32),
}
_ACTIVATIONS = (Int(4), Int(4, signed=False), Int(8), Int(8, signed=False))
_WEIGHT_BITS = (4, 8)
_DOMAINS = ("", "ai.onnx")

_QUANTISE = (
    "quantise the network to QDQ form first, for example with onnxruntime.quantization.quantize_static"
)
_EXPORT = "export the network again"


def load(data: bytes, name: str, where: str) -> Graph:
    """Graph of an ONNX file.

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
        The file is damaged or holds something that cannot be lowered; the message names the node.
    """
    model = onnx.ModelProto()
    try:
        # Not onnx.load: that would also open files which the model names.
        model.ParseFromString(data)
    except Exception:  # DecodeError comes from whichever protobuf implementation is in use
        raise NetworkError(where, "is no TFLite or ONNX file, or a truncated one", _EXPORT) from None
    if model.ir_version < 1 or not model.HasField("graph"):
        raise NetworkError(where, "is no TFLite or ONNX file", "give a .tflite or .onnx file")
    _check_text(model.graph, where)
    return _Importer(model.graph, name, where).graph()


def _check_text(graph: onnx.GraphProto, where: str) -> None:
    # Protobuf checks none of its strings, and hands over as bytes what is not UTF-8.
    texts: list[object] = [named.name for named in (*graph.initializer, *graph.input, *graph.output)]
    for node in graph.node:
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output]
    for text in texts:
        if not isinstance(text, str):
            raise NetworkError(where, f"holds a name that is not UTF-8, {text!r}", _EXPORT)


# What a tensor of the network is, while the nodes are walked


@dataclass(frozen=True)
class _Constant:
    """Numbers known now; `format` is that of integers which can be dequantised."""

    array: NDArray[Any]
    format: Int | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


@dataclass(frozen=True)
class _Quantisation:
    """Scale and zero point; arrays along `axis` where there is one per channel."""

    scale: NDArray[np.float64]
    zero_point: NDArray[np.int64]
    format: Int
    axis: int | None

    def along(self, rank: int, values: NDArray[Any]) -> NDArray[Any]:
        """`values` shaped to broadcast against a tensor of that rank."""
        if self.axis is None:
            return values.reshape(())
        return values.reshape([-1 if axis == self.axis else 1 for axis in range(rank)])


@dataclass(frozen=True)
class _QuantisedConstant:
    """Constant integers, dequantised."""

    codes: NDArray[np.int64]
    quantisation: _Quantisation

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def integers(self) -> NDArray[np.int64]:
        """Codes without their zero point."""
        zero_point = self.quantisation.along(self.codes.ndim, self.quantisation.zero_point)
        return np.asarray(self.codes - zero_point, dtype=np.int64)

    @property
    def real(self) -> NDArray[np.float32]:
        scale = self.quantisation.along(self.codes.ndim, self.quantisation.scale)
        return self.integers.astype(np.float32) * scale.astype(np.float32)


@dataclass(frozen=True)
class _FloatInput:
    """The graph's float input, perhaps reshaped."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Codes:
    """An integer tensor of the graph being made."""

    tensor: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Real:
    """An integer tensor of the graph being made, dequantised by `node`."""

    tensor: str
    shape: tuple[int, ...]
    node: str


@dataclass(frozen=True)
class _Product:
    """A matrix product that is not quantised yet: ``clip(scale * (input · weights + bias))``."""

    node: str
    where: str
    output: str
    input: str
    weights: NDArray[np.int64]
    weight_format: Int
    scale: NDArray[np.float64]
    bias: NDArray[np.int64]
    product_shape: tuple[int, ...]
    shape: tuple[int, ...]
    clamp: tuple[float, float] | None = None


_Value = _Constant | _QuantisedConstant | _FloatInput | _Codes | _Real | _Product


@dataclass
class _Draft:
    """A tensor of the graph being made. An integer input's scale is known only once it is dequantised."""

    shape: tuple[int, ...]
    format: Int | None
    scale: float | None = None
    zero_point: int = 0
    source: str | None = None
    """The tensor that this one is a reshaped copy of, and that holds its scale."""


class _Importer:
    def __init__(self, graph: onnx.GraphProto, name: str, where: str):
        self._graph = graph
        self._name = name
        self._where = where
        self._initialisers = {tensor.name: tensor for tensor in graph.initializer}
        self._values: dict[str, _Value] = {}
        self._drafts: dict[str, _Draft] = {}
        self._nodes: list[Node] = []
        self._node_names: set[str] = set()
        self._methods: dict[str, Callable[[onnx.NodeProto, str], _Value]] = {
            "QuantizeLinear": self._quantize_linear,
            "DequantizeLinear": self._dequantize_linear,
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "QLinearMatMul": self._qlinear_matmul,
            "Add": self._add,
            "Relu": self._relu,
            "Clip": self._clip,
            "Reshape": self._reshape,
            "Flatten": self._flatten,
            "Squeeze": self._squeeze,
            "Unsqueeze": self._unsqueeze,
            "Transpose": self._transpose,
            "Identity": self._identity,
            "Constant": self._constant,
        }
        self._taken = {name for node in graph.node for name in node.output}
        self._input = self._edge("input", [i for i in graph.input if i.name not in self._initialisers])
        self._output = self._edge("output", list(graph.output))
        self._taken.add(self._input)

    def graph(self) -> Graph:
        self._declare_input()
        live = self._live()
        # Operators first: one that is not supported says more than what its neighbours lack.
        self._check_supported(live)
        for node in live:
            self._values[node.output[0]] = self._lower(node)
        self._finish()
        return Graph(
            name=self._name,
            tensors={name: self._info(name) for name in self._drafts},
            nodes=tuple(self._nodes),
            input=self._input,
            output=self._output,
        )

    # The edges

    def _edge(self, kind: str, values: Sequence[onnx.ValueInfoProto]) -> str:
        if len(values) != 1:
            names = ", ".join(f"'{value.name}'" for value in values) or "none"
            raise NetworkError(
                self._where,
                f"must have one {kind}, but has {len(values)}: {names}",
                f"cut the network to one {kind}",
            )
        return values[0].name

    def _declare_input(self) -> None:
        info = next(value for value in self._graph.input if value.name == self._input)
        where = f"input '{self._input}'"
        tensor = info.type.tensor_type
        if not tensor.HasField("shape"):
            raise NetworkError(where, "has no shape", "export the network with fixed shapes")
        shape = []
        for axis, size in enumerate(tensor.shape.dim):
            if size.HasField("dim_value") and size.dim_value > 0:
                shape.append(size.dim_value)
            elif axis == 0 and not (size.HasField("dim_value") and size.dim_value == 0):
                # A symbolic batch: the graph computes one input at a time.
                shape.append(1)
            else:
                raise NetworkError(
                    where, f"axis {axis} has no fixed size", "export the network with fixed shapes"
                )
        if tensor.elem_type == TensorProto.FLOAT:
            self._values[self._input] = _FloatInput(tuple(shape))
            self._drafts[self._input] = _Draft(tuple(shape), None, 1.0)
        elif _FORMATS.get(tensor.elem_type) in _ACTIVATIONS:
            self._values[self._input] = _Codes(self._input, tuple(shape))
            self._drafts[self._input] = _Draft(tuple(shape), _FORMATS[tensor.elem_type])
        else:
            raise NetworkError(
                where,
                f"is {_type_name(tensor.elem_type)}",
                "make it FLOAT followed by QuantizeLinear, or an integer of 8 or 4 bits",
            )

    def _finish(self) -> None:
        where = f"output '{self._output}'"
        if self._output not in self._values:
            raise NetworkError(where, "is produced by no node", _EXPORT)
        match self._values[self._output]:
            case _Codes(tensor=tensor):
                if tensor != self._output:
                    self._relabel(f"{self._output}_output", tensor, self._output)
            case _Real(tensor=tensor, shape=shape, node=node):
                self._drafts[self._output] = _Draft(shape, None, 1.0)
                self._append(Dequantize(name=node, input=tensor, output=self._output))
            case _Product(where=where):
                raise NetworkError(
                    where,
                    "its result leaves the network as floats that were never quantised",
                    "quantise the output too (QuantizeLinear, DequantizeLinear)",
                )
            case _:
                raise NetworkError(where, "is not computed by any matrix product", _QUANTISE)

    def _info(self, name: str) -> TensorInfo:
        draft = self._drafts[name]
        root = self._root(name)
        return TensorInfo(
            name=name,
            shape=draft.shape,
            format=draft.format,
            scale=1.0 if root.scale is None else root.scale,
            zero_point=root.zero_point,
        )

    def _root(self, name: str) -> _Draft:
        draft = self._drafts[name]
        while draft.source is not None:
            draft = self._drafts[draft.source]
        return draft

    # Walking the nodes

    def _live(self) -> list[onnx.NodeProto]:
        """The nodes that the output depends on, in the file's order."""
        producer: dict[str, int] = {}
        for index, node in enumerate(self._graph.node):
            for name in node.output:
                if name in producer or name in self._initialisers or name == self._input:
                    raise NetworkError(_where(node), f"produces '{name}', which exists already", _EXPORT)
                if name:
                    producer[name] = index
        live: set[int] = set()
        wanted = [self._output]
        while wanted:
            index_or_none = producer.get(wanted.pop())
            if index_or_none is not None and index_or_none not in live:
                live.add(index_or_none)
                wanted.extend(self._graph.node[index_or_none].input)
        return [self._graph.node[index] for index in sorted(live)]

    def _check_supported(self, nodes: Sequence[onnx.NodeProto]) -> None:
        unsupported = [node for node in nodes if not self._is_supported(node)]
        if unsupported:
            first, *others = dict.fromkeys(map(_operator, unsupported))
            raise NetworkError(
                _where(unsupported[0]),
                f"operator {first} is not supported" + (f", nor {', '.join(others)}" if others else ""),
                f"supported are {', '.join(self._methods)}; "
                "fold constants (onnxsim) or leave the rest to the host",
            )

    def _is_supported(self, node: onnx.NodeProto) -> bool:
        # onnxruntime's own domain has the quantisers too, from before ONNX knew all their types.
        quantiser = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        domains = (*_DOMAINS, "com.microsoft") if quantiser else _DOMAINS
        return node.op_type in self._methods and node.domain in domains

    def _lower(self, node: onnx.NodeProto) -> _Value:
        where = _where(node)
        if sum(map(bool, node.output)) != 1 or not node.output[0]:
            raise NetworkError(where, f"has {len(node.output)} outputs instead of one", _EXPORT)
        return self._methods[node.op_type](node, where)

    def _value(self, node: onnx.NodeProto, index: int, where: str) -> _Value:
        if index >= len(node.input) or not node.input[index]:
            raise NetworkError(where, f"has no input {index}", _EXPORT)
        name = node.input[index]
        if name not in self._values:
            if name not in self._initialisers:
                raise NetworkError(where, f"reads '{name}' before any node has produced it", _EXPORT)
            self._values[name] = _constant(self._initialisers[name], f"initialiser '{name}'")
        return self._values[name]

    def _optional(self, node: onnx.NodeProto, index: int, where: str) -> _Value | None:
        if index >= len(node.input) or not node.input[index]:
            return None
        return self._value(node, index, where)

    def _numbers(self, value: _Value, what: str, where: str) -> NDArray[Any]:
        """A constant that is not an operand of a product, as plain numbers."""
        match value:
            case _Constant(array=array):
                return array
            case _QuantisedConstant():
                return value.real
        raise NetworkError(where, f"{what} is not constant", "fold constants (onnxsim)")

    def _integers(self, node: onnx.NodeProto, index: int, where: str) -> tuple[int, ...]:
        array = self._numbers(self._value(node, index, where), f"input {index}", where)
        if array.ndim > 1 or array.dtype.kind != "i" or array.size > 64:
            raise NetworkError(where, f"input {index} is not a list of integers", _EXPORT)
        return tuple(int(value) for value in array.reshape(-1))

    def _fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _append(self, node: Node) -> None:
        """Add a node, under a name that no other has: ONNX does not ask for that."""
        name = node.name
        while name in self._node_names:
            name += "_"
        self._node_names.add(name)
        self._nodes.append(replace(node, name=name))

    # Quantisation

    def _parameters(
        self,
        scale: _Value,
        zero_point: _Value | None,
        default: Int | None,
        shape: tuple[int, ...],
        axis: int,
        where: str,
    ) -> _Quantisation:
        """Scale and zero point for a tensor of that shape; `default` is the format without a zero point."""
        if not isinstance(scale, _Constant) or scale.array.dtype != np.float32:
            raise NetworkError(where, "its scale is not a constant of type FLOAT", _QUANTISE)
        scales = scale.array.astype(np.float64)
        if not (scales.size and np.isfinite(scales).all() and (scales > 0).all()):
            raise NetworkError(where, "its scale is not a positive number", "calibrate again")
        format = default
        if zero_point is not None:
            if not isinstance(zero_point, _Constant) or zero_point.format is None:
                raise NetworkError(where, "its zero point is not a constant integer", _QUANTISE)
            if zero_point.array.size != scales.size:
                raise NetworkError(
                    where, f"has {scales.size} scales and {zero_point.array.size} zero points", _EXPORT
                )
            format = zero_point.format
            zero_points = zero_point.array.astype(np.int64)
        else:
            zero_points = np.zeros(scales.shape, dtype=np.int64)
        assert format is not None
        if scales.size == 1:
            return _Quantisation(scales.reshape(()), zero_points.reshape(()), format, None)
        if not -len(shape) <= axis < len(shape):
            raise NetworkError(where, f"axis {axis} does not exist in shape {shape}", _EXPORT)
        axis %= len(shape)
        if scales.shape != (shape[axis],):
            raise NetworkError(
                where,
                f"scales of shape {scales.shape} do not match axis {axis} of shape {shape}",
                "quantise per tensor or per channel, not per block",
            )
        return _Quantisation(scales, zero_points.reshape(-1), format, axis)

    def _quantisation(
        self, node: onnx.NodeProto, default: Int | None, shape: tuple[int, ...], where: str
    ) -> _Quantisation:
        if _attribute(node, "block_size", 0, where):
            raise NetworkError(where, "quantises per block", "quantise per tensor or per channel")
        return self._parameters(
            self._value(node, 1, where),
            self._optional(node, 2, where),
            default,
            shape,
            _attribute(node, "axis", 1, where),
            where,
        )

    def _quantize_linear(self, node: onnx.NodeProto, where: str) -> _Value:
        value = self._value(node, 0, where)
        default = _FORMATS[TensorProto.UINT8]
        declared = _attribute(node, "output_dtype", 0, where)
        if declared:
            if declared not in _FORMATS:
                raise NetworkError(where, f"quantises to {_type_name(declared)}", "use INT8 or INT4")
            default = _FORMATS[declared]
        quantisation = self._quantisation(node, default, value.shape, where)
        format = quantisation.format
        if isinstance(value, _Constant | _QuantisedConstant):
            real = self._numbers(value, "input", where)
            if real.dtype != np.float32 or not np.isfinite(real).all():
                raise NetworkError(where, "quantises constants that are no finite FLOAT numbers", _EXPORT)
            scale, zero_point = (
                quantisation.along(real.ndim, values)
                for values in (quantisation.scale.astype(np.float32), quantisation.zero_point)
            )
            with np.errstate(over="ignore"):
                whole = np.rint(real / scale).astype(np.float64)
            codes = np.clip(whole + zero_point, format.min, format.max).astype(np.int64)
            return _Constant(codes, format)
        if format not in _ACTIVATIONS:
            raise NetworkError(where, f"quantises activations to {format}", "use 8 or 4 bits")
        if quantisation.axis is not None:
            raise NetworkError(where, "quantises activations per channel", "quantise them per tensor")
        match value:
            case _FloatInput():
                return self._quantise_input(node, value, quantisation)
            case _Product():
                return self._emit(value, node.output[0], quantisation)
            case _Real(tensor=tensor, shape=shape):
                root = self._root(tensor)
                if not _same(root, quantisation) or self._drafts[tensor].format != format:
                    raise NetworkError(
                        where,
                        "changes one quantisation into another, which is not supported",
                        "use one scale and zero point throughout",
                    )
                # Quantising what was dequantised with the same numbers gives the same codes.
                self._relabel(_name(node), tensor, node.output[0])
                return _Codes(node.output[0], shape)
        raise NetworkError(where, "quantises a tensor that holds integers already", _EXPORT)

    def _quantise_input(
        self, node: onnx.NodeProto, value: _FloatInput, quantisation: _Quantisation
    ) -> _Codes:
        output = node.output[0]
        shape = self._drafts[self._input].shape
        # Quantised before it is reshaped, so that the host's part comes first.
        target = output if value.shape == shape else self._fresh(f"{self._input}_quantized")
        self._drafts[target] = _Draft(
            shape, quantisation.format, float(quantisation.scale), int(quantisation.zero_point)
        )
        name = _name(node)
        self._append(Quantize(name=name, input=self._input, output=target))
        if target != output:
            self._relabel(f"{name}_reshape", target, output, value.shape)
        return _Codes(output, value.shape)

    def _dequantize_linear(self, node: onnx.NodeProto, where: str) -> _Value:
        match self._value(node, 0, where):
            case _Constant(array=codes, format=Int() as format):
                quantisation = self._quantisation(node, format, codes.shape, where)
                if quantisation.format != format:
                    raise NetworkError(
                        where, f"dequantises {format} with a zero point of {quantisation.format}", _EXPORT
                    )
                return _QuantisedConstant(codes.astype(np.int64), quantisation)
            case _Codes(tensor=tensor, shape=shape):
                quantisation = self._quantisation(node, self._drafts[tensor].format, shape, where)
                self._agree(tensor, quantisation, where)
                return _Real(tensor, shape, _name(node))
        raise NetworkError(where, "dequantises a tensor that does not hold integers", _QUANTISE)

    def _agree(self, tensor: str, quantisation: _Quantisation, where: str) -> None:
        """Check that a tensor is read with the numbers that it was quantised with."""
        root = self._root(tensor)
        if quantisation.format != root.format:
            raise NetworkError(
                where, f"reads {root.format} with a zero point of {quantisation.format}", _EXPORT
            )
        if quantisation.axis is not None:
            raise NetworkError(where, "dequantises activations per channel", "quantise them per tensor")
        if root.scale is None:
            root.scale, root.zero_point = float(quantisation.scale), int(quantisation.zero_point)
        elif not _same(root, quantisation):
            raise NetworkError(
                where,
                f"reads '{tensor}' with scale {float(quantisation.scale):g} and zero point "
                f"{int(quantisation.zero_point)}, but its scale is {root.scale:g} and its zero point "
                f"{root.zero_point}",
                "use one scale and zero point throughout",
            )

    # Matrix products

    def _gemm(self, node: onnx.NodeProto, where: str) -> _Value:
        transposed = _attribute(node, "transB", 0, where)
        for key, allowed, given in (
            ("alpha", (1.0,), _attribute(node, "alpha", 1.0, where)),
            ("beta", (1.0,), _attribute(node, "beta", 1.0, where)),
            ("transA", (0,), _attribute(node, "transA", 0, where)),
            ("transB", (0, 1), transposed),
        ):
            if given not in allowed:
                raise NetworkError(
                    where,
                    f"{key} = {given} is not supported",
                    f"fold it into the weights so that {key} is {allowed[0]}",
                )
        product = self._product(node, where, bool(transposed))
        if len(product.shape) != 2:
            raise NetworkError(where, f"its input has {len(product.shape)} axes instead of 2", _EXPORT)
        bias = self._optional(node, 2, where)
        return product if bias is None else self._biased(product, bias, where)

    def _matmul(self, node: onnx.NodeProto, where: str) -> _Value:
        return self._product(node, where, False)

    def _product(self, node: onnx.NodeProto, where: str, transposed: bool) -> _Product:
        left, right = self._value(node, 0, where), self._value(node, 1, where)
        if isinstance(left, _FloatInput) or isinstance(right, _Constant):
            raise NetworkError(where, "its operands are not quantised", _QUANTISE)
        if isinstance(left, _Product):
            raise NetworkError(
                where, "takes the result of another product, which was never quantised", _QUANTISE
            )
        if not isinstance(left, _Real) or not isinstance(right, _QuantisedConstant):
            raise NetworkError(
                where,
                "is not the product of a quantised activation, first, with constant weights",
                "only such products are supported",
            )
        return self._make_product(
            node, where, left.tensor, left.shape, right.codes, right.quantisation, transposed
        )

    def _make_product(
        self,
        node: onnx.NodeProto,
        where: str,
        tensor: str,
        shape: tuple[int, ...],
        codes: NDArray[np.int64],
        quantisation: _Quantisation,
        transposed: bool,
    ) -> _Product:
        if codes.ndim != 2 or not codes.size:
            raise NetworkError(where, f"weights of shape {codes.shape} are not a matrix", "reshape them")
        if quantisation.axis is not None and quantisation.axis != (0 if transposed else 1):
            raise NetworkError(
                where, "weights have a scale per input channel", "quantise them per output channel"
            )
        declared = quantisation.format
        if declared.bits > 8:
            raise NetworkError(where, f"weights are {declared}", "quantise them to 8 or 4 bits")
        weights = codes - quantisation.along(2, quantisation.zero_point)
        weights = weights if transposed else weights.T
        channels, reduction = weights.shape
        if not shape or shape[-1] != reduction:
            raise NetworkError(
                where, f"input {shape} and weights for {reduction} inputs do not agree", _EXPORT
            )
        formats = (Int(bits) for bits in _WEIGHT_BITS if bits >= declared.bits)
        weight_format = next((format for format in formats if format.contains(weights)), None)
        if weight_format is None:
            raise NetworkError(
                where,
                f"weights less their zero point are {weights.min()}..{weights.max()}, more than 8 bits",
                "quantise them symmetrically (INT8, zero point 0)",
            )
        scale = self._root(tensor).scale
        assert scale is not None
        result = (*shape[:-1], channels)
        return _Product(
            node=_name(node),
            where=where,
            output=node.output[0],
            input=tensor,
            weights=weights,
            weight_format=weight_format,
            scale=np.broadcast_to(scale * quantisation.scale, channels),
            bias=np.zeros(channels, dtype=np.int64),
            product_shape=result,
            shape=result,
        )

    def _biased(self, product: _Product, value: _Value, where: str) -> _Product:
        channels = len(product.bias)
        if not isinstance(value, _Constant | _QuantisedConstant):
            raise NetworkError(
                where, "adds something that is not constant", "only a constant bias is supported"
            )
        shape = value.shape
        if (
            product.shape[-1] != channels
            or len(shape) > len(product.shape)
            or prod(shape[:-1]) != 1
            or (shape and shape[-1] not in (1, channels))
        ):
            raise NetworkError(
                where,
                f"bias of shape {shape} does not match the last axis of {product.shape}, {channels} channels",
                "only one number per output channel is supported",
            )
        scale = product.scale
        if isinstance(value, _QuantisedConstant):
            integers = np.broadcast_to(value.integers.reshape(-1), channels)
            unit = np.broadcast_to(value.quantisation.scale.reshape(-1), channels)
            # The file keeps the product of two scales as a float32, which rounds it.
            exact = np.where(np.abs(unit - scale) <= 1e-6 * scale, integers, integers * (unit / scale))
        else:
            if value.array.dtype != np.float32 or not np.isfinite(value.array).all():
                raise NetworkError(where, "bias is not made of finite FLOAT numbers", _QUANTISE)
            exact = np.broadcast_to(value.array.reshape(-1).astype(np.float64), channels) / scale
        rounded = np.rint(exact)
        lost = float(np.abs(exact - rounded).max())
        # What float32 arithmetic makes of a whole number is not worth a word.
        if lost > 1e-3:
            warnings.warn(
                f"{printable(where)}: bias is rounded to the scale of the accumulator, "
                f"by up to {lost:.3f} units",
                stacklevel=2,
            )
        bias = product.bias.astype(np.float64) + rounded
        if np.abs(bias).max() > 2**31 - 1:
            raise NetworkError(
                where,
                "bias does not fit int32 in units of input scale times weight scale",
                "quantise with a larger weight scale for that channel",
            )
        return replace(product, bias=bias.astype(np.int64))

    def _qlinear_matmul(self, node: onnx.NodeProto, where: str) -> _Value:
        left, right = self._value(node, 0, where), self._value(node, 3, where)
        if not isinstance(left, _Codes) or not isinstance(right, _Constant) or right.format is None:
            raise NetworkError(
                where,
                "is not the product of a quantised activation, first, with constant weights",
                "only such products are supported",
            )

        def parameters(index: int, shape: tuple[int, ...]) -> _Quantisation:
            scale, zero_point = (self._value(node, i, where) for i in (index, index + 1))
            return self._parameters(scale, zero_point, None, shape, -1, where)

        self._agree(left.tensor, parameters(1, left.shape), where)
        weights = parameters(4, right.shape)
        if weights.format != right.format:
            raise NetworkError(
                where, f"weights are {right.format}, their zero point {weights.format}", _EXPORT
            )
        product = self._make_product(
            node, where, left.tensor, left.shape, right.array.astype(np.int64), weights, False
        )
        result = parameters(6, product.shape)
        if result.format not in _ACTIVATIONS or result.axis is not None:
            raise NetworkError(
                where, "its result is not quantised per tensor to 8 or 4 bits", "quantise it so"
            )
        return self._emit(product, node.output[0], result)

    def _emit(self, product: _Product, output: str, quantisation: _Quantisation) -> _Codes:
        """Turn a pending product, now quantised, into a node."""
        # The product's own name in the file is free: it named floats.
        direct = product.shape == product.product_shape
        target = output if direct else self._fresh(f"{product.output}_quantized")
        info = TensorInfo(
            name=target,
            shape=product.product_shape,
            format=quantisation.format,
            scale=float(quantisation.scale),
            zero_point=int(quantisation.zero_point),
        )
        self._drafts[target] = _Draft(info.shape, info.format, info.scale, info.zero_point)
        multiplier, shift = quantise_multiplier(product.scale / info.scale)
        clamp = np.array(product.clamp or (-np.inf, np.inf), dtype=np.float32)
        low, high = quantise(clamp, info)
        self._append(
            FullyConnected(
                name=product.node,
                input=product.input,
                output=target,
                weights=product.weights,
                weight_format=product.weight_format,
                bias=product.bias,
                multiplier=multiplier,
                shift=shift,
                rounding="half_even",
                low=int(low),
                high=int(high),
            )
        )
        if not direct:
            self._relabel(f"{product.node}_reshape", target, output, product.shape)
        return _Codes(output, product.shape)

    # Around the products

    def _add(self, node: onnx.NodeProto, where: str) -> _Value:
        operands = [self._value(node, index, where) for index in (0, 1)]
        products = [operand for operand in operands if isinstance(operand, _Product)]
        if len(products) != 1 or products[0].clamp is not None:
            raise NetworkError(
                where,
                "adds something other than a constant bias to a matrix product",
                "only that is supported",
            )
        other = operands[1] if operands[0] is products[0] else operands[0]
        return self._biased(products[0], other, where)

    def _relu(self, node: onnx.NodeProto, where: str) -> _Value:
        return self._clamped(self._value(node, 0, where), 0.0, np.inf, where)

    def _clip(self, node: onnx.NodeProto, where: str) -> _Value:
        bounds = []
        for index, key, default in ((1, "min", -np.inf), (2, "max", np.inf)):
            value = self._optional(node, index, where)
            if value is None:
                bounds.append(_attribute(node, key, default, where))
                continue
            array = self._numbers(value, key, where)
            if array.size != 1 or array.dtype != np.float32:
                raise NetworkError(where, f"its {key} is not one number of type FLOAT", _EXPORT)
            bounds.append(float(array.reshape(())))
        if any(bound != bound for bound in bounds):
            raise NetworkError(where, "a bound is not a number (NaN)", _EXPORT)
        return self._clamped(self._value(node, 0, where), bounds[0], bounds[1], where)

    def _clamped(self, value: _Value, low: float, high: float, where: str) -> _Value:
        if not isinstance(value, _Product):
            raise NetworkError(
                where,
                "does not follow a matrix product directly",
                "put the activation between the product and its QuantizeLinear",
            )
        bounds = value.clamp or (-np.inf, np.inf)
        # Clamping is monotonic: the bounds of what came before are clamped in turn.
        lower, upper = (min(max(bound, low), high) for bound in bounds)
        return replace(value, clamp=(lower, upper))

    # Shapes

    def _reshape(self, node: onnx.NodeProto, where: str) -> _Value:
        value = self._value(node, 0, where)
        wanted = list(self._integers(node, 1, where))
        if not _attribute(node, "allowzero", 0, where):
            wanted = [
                value.shape[axis] if size == 0 and axis < len(value.shape) else size
                for axis, size in enumerate(wanted)
            ]
        if wanted.count(-1) == 1:
            known = prod(size for size in wanted if size != -1)
            wanted[wanted.index(-1)] = prod(value.shape) // known if known else 0
        return self._reshaped(node, value, tuple(wanted), where)

    def _flatten(self, node: onnx.NodeProto, where: str) -> _Value:
        value = self._value(node, 0, where)
        axis = _attribute(node, "axis", 1, where)
        if not -len(value.shape) <= axis <= len(value.shape):
            raise NetworkError(where, f"axis {axis} does not exist in shape {value.shape}", _EXPORT)
        axis += len(value.shape) if axis < 0 else 0
        return self._reshaped(node, value, (prod(value.shape[:axis]), prod(value.shape[axis:])), where)

    def _axes(self, node: onnx.NodeProto, rank: int, where: str) -> tuple[int, ...] | None:
        axes: tuple[int, ...] | None
        if len(node.input) > 1 and node.input[1]:
            axes = self._integers(node, 1, where)
        else:
            axes = _attribute(node, "axes", None, where)
        if axes is None:
            return None
        if any(not -rank <= axis < rank for axis in axes) or len({a % rank for a in axes}) != len(axes):
            raise NetworkError(where, f"axes {list(axes)} do not exist", _EXPORT)
        return tuple(axis % rank for axis in axes)

    def _squeeze(self, node: onnx.NodeProto, where: str) -> _Value:
        value = self._value(node, 0, where)
        axes = self._axes(node, len(value.shape), where)
        if axes is None:
            axes = tuple(axis for axis, size in enumerate(value.shape) if size == 1)
        if any(value.shape[axis] != 1 for axis in axes):
            raise NetworkError(where, f"cannot remove axes {list(axes)} of shape {value.shape}", _EXPORT)
        shape = tuple(size for axis, size in enumerate(value.shape) if axis not in axes)
        return self._reshaped(node, value, shape, where)

    def _unsqueeze(self, node: onnx.NodeProto, where: str) -> _Value:
        value = self._value(node, 0, where)
        given = _attribute(node, "axes", None, where) if len(node.input) < 2 else None
        count = len(self._integers(node, 1, where)) if given is None else len(given)
        axes = self._axes(node, len(value.shape) + count, where)
        assert axes is not None
        sizes = iter(value.shape)
        shape = tuple(1 if axis in axes else next(sizes) for axis in range(len(value.shape) + count))
        return self._reshaped(node, value, shape, where)

    def _identity(self, node: onnx.NodeProto, where: str) -> _Value:
        return self._value(node, 0, where)

    def _transpose(self, node: onnx.NodeProto, where: str) -> _Value:
        value = self._value(node, 0, where)
        rank = len(value.shape)
        order = _attribute(node, "perm", tuple(reversed(range(rank))), where)
        if sorted(order) != list(range(rank)):
            raise NetworkError(where, f"perm {list(order)} is no order of {rank} axes", _EXPORT)
        match value:
            case _Constant():
                return replace(value, array=value.array.transpose(order))
            case _QuantisedConstant():
                old = value.quantisation
                axis = None if old.axis is None else order.index(old.axis)
                return _QuantisedConstant(value.codes.transpose(order), replace(old, axis=axis))
        moved = [axis for axis in order if value.shape[axis] != 1]
        if moved != sorted(moved):
            raise NetworkError(
                where, f"moves elements of shape {value.shape}", "only weights may be transposed"
            )
        return self._reshaped(node, value, tuple(value.shape[axis] for axis in order), where)

    def _reshaped(self, node: onnx.NodeProto, value: _Value, shape: tuple[int, ...], where: str) -> _Value:
        if any(size < 1 for size in shape) or prod(shape) != prod(value.shape):
            raise NetworkError(where, f"cannot reshape {value.shape} to {shape}", _EXPORT)
        if shape == value.shape:
            return value
        match value:
            case _Constant():
                return replace(value, array=value.array.reshape(shape))
            case _QuantisedConstant():
                return self._reshaped_constant(value, shape, where)
            case _FloatInput() | _Product():
                return replace(value, shape=shape)
            case _Codes() | _Real():
                output = node.output[0]
                if isinstance(value, _Real) and output == self._output:
                    # That name belongs to the floats.
                    output = self._fresh(f"{output}_quantized")
                self._relabel(_name(node), value.tensor, output, shape)
                return replace(value, tensor=output, shape=shape)

    def _reshaped_constant(
        self, value: _QuantisedConstant, shape: tuple[int, ...], where: str
    ) -> _QuantisedConstant:
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
        return _QuantisedConstant(value.codes.reshape(shape), replace(old, axis=axis))

    def _relabel(self, name: str, source: str, output: str, shape: tuple[int, ...] | None = None) -> None:
        """Add a node that gives a tensor another name, and perhaps another shape."""
        draft = self._drafts[source]
        shape = draft.shape if shape is None else shape
        self._drafts[output] = _Draft(shape, draft.format, source=source)
        self._append(Reshape(name=name, input=source, output=output))

    def _constant(self, node: onnx.NodeProto, where: str) -> _Value:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.type == onnx.AttributeProto.TENSOR:
                return _constant(attribute.t, where)
        for key, kind in (("value_float", np.float32), ("value_floats", np.float32)):
            value = _attribute(node, key, None, where)
            if value is not None:
                return _Constant(np.array(value, dtype=kind), None)
        for key in ("value_int", "value_ints"):
            value = _attribute(node, key, None, where)
            if value is not None:
                return _Constant(np.array(value, dtype=np.int64), None)
        raise NetworkError(where, "holds no dense numbers", _EXPORT)


def _name(node: onnx.NodeProto) -> str:
    return node.name or (node.output[0] if node.output else "")


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in _DOMAINS else f"{node.op_type} of {node.domain}"


def _where(node: onnx.NodeProto) -> str:
    return f"node '{_name(node)}' ({node.op_type})"


def _type_name(number: int) -> str:
    try:
        return str(TensorProto.DataType.Name(number))
    except ValueError:
        return f"type number {number}"


def _same(draft: _Draft, quantisation: _Quantisation) -> bool:
    return (draft.scale, draft.zero_point) == (float(quantisation.scale), int(quantisation.zero_point))


_ATTRIBUTES: dict[str, tuple[int, type]] = {
    "allowzero": (onnx.AttributeProto.INT, int),
    "alpha": (onnx.AttributeProto.FLOAT, float),
    "axes": (onnx.AttributeProto.INTS, tuple),
    "axis": (onnx.AttributeProto.INT, int),
    "beta": (onnx.AttributeProto.FLOAT, float),
    "block_size": (onnx.AttributeProto.INT, int),
    "max": (onnx.AttributeProto.FLOAT, float),
    "min": (onnx.AttributeProto.FLOAT, float),
    "output_dtype": (onnx.AttributeProto.INT, int),
    "perm": (onnx.AttributeProto.INTS, tuple),
    "transA": (onnx.AttributeProto.INT, int),
    "transB": (onnx.AttributeProto.INT, int),
    "value_float": (onnx.AttributeProto.FLOAT, float),
    "value_floats": (onnx.AttributeProto.FLOATS, tuple),
    "value_int": (onnx.AttributeProto.INT, int),
    "value_ints": (onnx.AttributeProto.INTS, tuple),
}


def _attribute(node: onnx.NodeProto, key: str, default: Any, where: str) -> Any:
    """An attribute of the type that the operator specification gives it."""
    for attribute in node.attribute:
        if attribute.name == key:
            kind, convert = _ATTRIBUTES[key]
            if attribute.type != kind or attribute.ref_attr_name:
                raise NetworkError(where, f"attribute {key} has the wrong type", _EXPORT)
            return convert(helper.get_attribute_value(attribute))
    return default


def _constant(tensor: TensorProto, where: str) -> _Constant:
    """Numbers of a tensor that is stored in the file."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise NetworkError(
            where, "keeps its data in another file", "save the network as one file, without external data"
        )
    kind = tensor.data_type
    format = _FORMATS.get(kind)
    if format is None and kind not in (TensorProto.FLOAT, TensorProto.INT64):
        raise NetworkError(where, f"{_type_name(kind)} is not supported", "use FLOAT or integers")
    shape = tuple(tensor.dims)
    try:
        if any(size < 0 for size in shape):
            raise ValueError(f"shape {shape}")
        if format is not None and format.bits == 4:
            return _Constant(_four_bits(tensor, format, shape), format)
        return _Constant(numpy_helper.to_array(tensor), format)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise NetworkError(where, f"its data are damaged ({error})", _EXPORT) from None


def _four_bits(tensor: TensorProto, format: Int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    # Unpacked here: what onnx makes of these types has changed between its versions.
    if tensor.HasField("raw_data"):
        packed = np.frombuffer(tensor.raw_data, dtype=np.uint8)
    else:
        packed = np.array(tensor.int32_data, dtype=np.int64).astype(np.uint8)
    count = prod(shape)
    if len(packed) != (count + 1) // 2:
        raise ValueError(f"{len(packed)} bytes for {count} elements")
    return format.unpack(packed)[:count].reshape(shape)
