"""From the values of a QDQ network to nodes of the integer graph."""

import warnings
from abc import abstractmethod
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitwright.hw.formats import Int
from bitwright.hw.quant.arithmetic import quantise_multiplier
from bitwright.sim.golden import quantise
from bitwright.sim.graph import (
    ArgMax,
    AveragePool,
    Binary,
    Concatenate,
    Convolution,
    FullyConnected,
    Lookup,
    MaxPool,
    NetworkError,
    Node,
    Pad,
    Quantize,
    Requantise,
    Softmax,
    TensorInfo,
    Transpose,
    Upsample,
    average_tables,
    printable,
)

from ._onnx import EXPORT, Constant, Draft, Walker, attribute, node_name
from ._runtime import TIES, codes_of, fit_multiplier, mean_codes
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
    Quantisation,
    QuantisedConstant,
    Reals,
    Relabel,
    Repeat,
    SoftmaxOf,
    Value,
    leaves,
)

__all__ = ["ACTIVATIONS", "QUANTISE", "Lowering", "same_quantisation"]

ACTIVATIONS = (Int(4), Int(4, signed=False), Int(8), Int(8, signed=False))
"""Formats that activations may have."""

QUANTISE = "quantise the network to QDQ form first, for example with onnxruntime.quantization.quantize_static"
"""What to do about floats."""

_INT32 = Int(32)
_CONSTANT = "fold constants (onnxsim)"


def same_quantisation(draft: Draft, quantisation: Quantisation) -> bool:
    return (draft.scale, draft.zero_point) == (float(quantisation.scale), int(quantisation.zero_point))


class Lowering(Walker[Value]):
    """Makes nodes of values. The operators are for its subclasses to add."""

    def __init__(self, graph: onnx.GraphProto, name: str, where: str):
        super().__init__(graph, name, where)
        self._made: dict[str | int, tuple[Moved, str]] = {}
        """The graph's tensor for a value that moves codes, by its name in the file or its identity."""

    @abstractmethod
    def _operators(self) -> dict[str, Any]: ...

    def _of_constant(self, constant: Constant) -> Value:
        return constant

    def _numbers(self, value: Value, what: str, where: str) -> NDArray[Any]:
        """A constant that is not an operand of a product, as plain numbers."""
        match value:
            case Constant(array=array):
                return array
            case QuantisedConstant():
                return value.real
        raise NetworkError(where, f"{what} is not constant", _CONSTANT)

    def _computed(self, node: onnx.NodeProto, index: int, where: str) -> Numbers:
        """An input that is no constant."""
        value = self._value(node, index, where)
        if isinstance(value, Constant | QuantisedConstant):
            raise NetworkError(where, f"input {index} is constant", _CONSTANT)
        return value

    # Trees of codes

    @staticmethod
    def _holds_codes(value: Value) -> bool:
        if isinstance(value, Constant | QuantisedConstant):
            return False
        return all(isinstance(leaf, Codes) for leaf in leaves(value))

    def _tensor(self, value: Numbers) -> str:
        """The graph's tensor for a tree of codes; its nodes are made if they are not there."""
        if isinstance(value, Codes):
            return value.tensor
        assert isinstance(value, Moved)
        key = id(value) if value.output is None else value.output
        if key not in self._made:
            # Held together with the value, whose identity is not given away again.
            self._made[key] = (value, self._make_move(value))
        return self._made[key][1]

    def _make_move(self, value: Moved) -> str:
        parts = [self._tensor(part) for part in value.parts]
        output = self._fresh(f"{value.stem}_quantized") if value.output is None else value.output
        if isinstance(value.move, Relabel):
            self._relabel(value.name, parts[0], output, value.shape)
            return output
        axes: tuple[int | None, ...] | None = None
        node: Node
        match value.move:
            case Order(axes=order):
                axes = order
                node = Transpose(name=value.name, input=parts[0], output=output, axes=order)
            case Pool(window=window):
                parts = [self._with_channels(parts[0], 1, value.name)]
                node = MaxPool(
                    name=value.name,
                    input=parts[0],
                    output=output,
                    kernel=window.kernel,
                    stride=window.stride,
                    padding=window.padding,
                )
            case Border(padding=padding, element=element):
                code = int(element)
                node = Pad(name=value.name, input=parts[0], output=output, padding=padding, value=code)
            case Crop(counts=counts):
                padding = tuple((-before, -behind) for before, behind in counts)
                # Nothing is added, so any code will do.
                code = self._root(parts[0]).zero_point
                node = Pad(name=value.name, input=parts[0], output=output, padding=padding, value=code)
            case Repeat(factors=factors):
                parts = [self._with_channels(parts[0], 1, value.name)]
                node = Upsample(name=value.name, input=parts[0], output=output, factors=factors)
            case Join(axis=axis):
                parts = self._side_by_side(parts, value.name)
                node = Concatenate(name=value.name, inputs=tuple(parts), output=output, axis=axis)
        draft = Draft(value.shape, self._drafts[parts[0]].format, source=parts[0])
        self._declare(output, draft, *parts, axes=axes)
        self._append(node)
        return output

    def _stripped(self, value: Numbers) -> Numbers | None:
        """The tree of codes of what only dequantises and moves them; ``None`` if it does anything else."""
        match value:
            case Codes():
                return value
            case Reals(plain=True, tensors=(tensor,), shape=shape):
                return Codes(tensor, shape)
            case Moved(codes=Moved() as origin):
                return origin
            case Moved():
                return self._stripped_moves(value)
        return None

    def _stripped_moves(self, value: Moved) -> Moved | None:
        stripped = [self._stripped(part) for part in value.parts]
        parts = tuple(part for part in stripped if part is not None)
        if len(parts) < len(stripped):
            return None
        roots = [
            self._root(leaf.tensor) for part in parts for leaf in leaves(part) if isinstance(leaf, Codes)
        ]
        first = roots[0]
        same = (first.format, first.scale, first.zero_point)
        if any((root.format, root.scale, root.zero_point) != same for root in roots):
            return None
        move = value.move
        if isinstance(move, Border):
            code = self._code_of(move.element, first)
            if code is None:
                return None
            move = replace(move, element=code)
        # That name belongs to the floats.
        output = None if value.output == self._output else value.output
        return replace(value, parts=parts, move=move, output=output)

    @staticmethod
    def _code_of(real: float, root: Draft) -> int | None:
        """The code that stands for exactly that number, if there is one."""
        assert root.scale is not None
        assert isinstance(root.format, Int)
        code = int(codes_of(real, root.scale, root.zero_point, root.format))
        return code if np.float32(code - root.zero_point) * np.float32(root.scale) == real else None

    def _operand(self, value: Value, where: str) -> Numbers:
        """The codes that an operand's floats stand for."""
        if isinstance(value, Constant | QuantisedConstant):
            raise NetworkError(where, "its input is constant", _CONSTANT)
        codes = self._stripped(value)
        if codes is not None:
            return codes
        kinds = {type(leaf) for leaf in leaves(value)}
        if FloatInput in kinds:
            raise NetworkError(where, "its operands are not quantised", QUANTISE)
        if Product in kinds:
            raise NetworkError(
                where, "takes the result of another product, which was never quantised", QUANTISE
            )
        raise NetworkError(
            where,
            "takes floats that stand for no codes",
            "put a QuantizeLinear and a DequantizeLinear before it",
        )

    # Dequantising

    def _values_of(self, tensor: str) -> NDArray[np.float32]:
        """What each code of a tensor stands for."""
        root = self._root(tensor)
        assert isinstance(root.format, Int)
        assert root.scale is not None
        codes = np.arange(root.format.min, root.format.max + 1) - root.zero_point
        return codes.astype(np.float32) * np.float32(root.scale)

    def _dequantised(
        self, value: Numbers, quantisation: Quantisation, name: str, output: str, where: str
    ) -> Numbers:
        if isinstance(value, Codes):
            self._agree(value.tensor, quantisation, where)
            values = self._values_of(value.tensor)
            return Reals(name, where, output, (value.tensor,), value.shape, values, plain=True)
        assert isinstance(value, Moved)
        move = value.move
        if isinstance(move, Border):
            element = (move.element - int(quantisation.zero_point)) * np.float32(quantisation.scale)
            move = replace(move, element=float(element))
        parts = tuple(self._dequantised(part, quantisation, name, output, where) for part in value.parts)
        return replace(value, parts=parts, move=move, output=output, codes=value)

    def _agree(self, tensor: str, quantisation: Quantisation, where: str) -> None:
        """Check that a tensor is read with the numbers that it was quantised with."""
        root = self._root(tensor)
        if quantisation.format != root.format:
            raise NetworkError(
                where, f"reads {root.format} with a zero point of {quantisation.format}", EXPORT
            )
        if quantisation.axis is not None:
            raise NetworkError(where, "dequantises activations per channel", "quantise them per tensor")
        if root.scale is None:
            root.scale, root.zero_point = float(quantisation.scale), int(quantisation.zero_point)
        elif not same_quantisation(root, quantisation):
            raise NetworkError(
                where,
                f"reads '{tensor}' with scale {float(quantisation.scale):g} and zero point "
                f"{int(quantisation.zero_point)}, but its scale is {root.scale:g} and its zero point "
                f"{root.zero_point}",
                "use one scale and zero point throughout",
            )

    # Quantising

    def _quantised(
        self, value: Numbers, output: str | None, quantisation: Quantisation, name: str, where: str
    ) -> Numbers:
        """The tree of codes that a tree of floats becomes; `output` is ``None`` where any name will do."""
        if isinstance(value, Codes):
            raise NetworkError(where, "quantises a tensor that holds integers already", EXPORT)
        if isinstance(value, Moved):
            return self._quantised_moves(value, output, quantisation, name, where)
        if isinstance(value, Reals) and value.plain:
            root = self._root(value.tensors[0])
            if same_quantisation(root, quantisation) and root.format == quantisation.format:
                # Quantising what was dequantised with the same numbers gives the same codes.
                if output is None:
                    return Codes(value.tensors[0], value.shape)
                self._relabel(name, value.tensors[0], output)
                return Codes(output, value.shape)
        target = self._fresh(f"{value.output}_quantized") if output is None else output
        draft = Draft(
            value.shape, quantisation.format, float(quantisation.scale), int(quantisation.zero_point)
        )
        match value:
            case FloatInput():
                self._declare(target, draft, self._input)
                self._append(Quantize(name=name, input=self._input, output=target))
            case Reals():
                self._emit_function(value, target, draft, where)
            case Product():
                self._emit_product(value, target, draft)
            case Average():
                self._emit_average(value, target, draft)
            case SoftmaxOf():
                self._declare(target, draft, value.input)
                self._append(Softmax(name=value.name, input=value.input, output=target, arithmetic="float32"))
        return Codes(target, value.shape)

    def _quantised_moves(
        self, value: Moved, output: str | None, quantisation: Quantisation, name: str, where: str
    ) -> Numbers:
        move = value.move
        if isinstance(move, Border):
            scale, zero_point = float(quantisation.scale), int(quantisation.zero_point)
            code = int(codes_of(move.element, scale, zero_point, quantisation.format))
            move = replace(move, element=code)
        parts = tuple(self._quantised(part, None, quantisation, name, where) for part in value.parts)
        stem = value.output or value.stem
        codes = replace(value, parts=parts, move=move, output=output, stem=stem, codes=None)
        if not isinstance(move, Relabel | Order):
            return Codes(self._tensor(codes), value.shape)
        # What only relabels may turn out to be part of a matrix product's weights.
        return codes

    def _emit_function(self, value: Reals, target: str, draft: Draft, where: str) -> None:
        if np.isnan(value.values).any():
            raise NetworkError(
                where, "quantises what is no number (NaN) for some codes", "check the constants before it"
            )
        assert draft.scale is not None
        assert isinstance(draft.format, Int)
        table = codes_of(value.values, draft.scale, draft.zero_point, draft.format)
        self._emit_table(value.name, value.tensors, target, draft, table)

    def _emit_table(
        self, name: str, tensors: tuple[str, ...], target: str, draft: Draft, table: NDArray[np.int64]
    ) -> None:
        """Make the node that looks codes, or pairs of codes, up in a table."""
        if len(tensors) == 1:
            self._declare(target, draft, *tensors)
            self._append(Lookup(name=name, input=tensors[0], output=target, table=table))
            return
        first, second = self._side_by_side(list(tensors), name)
        self._declare(target, draft, first, second)
        self._append(Binary(name=name, inputs=(first, second), output=target, table=table))

    def _emit_average(self, value: Average, target: str, draft: Draft) -> None:
        root = self._root(value.input)
        assert root.scale is not None
        assert draft.scale is not None
        assert isinstance(root.format, Int)
        assert isinstance(draft.format, Int)
        scales, zero_points, format = (
            (root.scale, draft.scale),
            (root.zero_point, draft.zero_point),
            draft.format,
        )
        clamp = value.clamp or (-np.inf, np.inf)
        ties = 0

        def codes(sums: NDArray[np.int64], count: int) -> NDArray[np.int64]:
            nonlocal ties
            made, near = mean_codes(sums, count, scales, zero_points, format, clamp)
            ties += near
            return made

        self._emit_mean(value, target, draft, codes)
        if ties:
            warnings.warn(f"{printable(value.where)}: {ties} {TIES}", stacklevel=2)

    def _emit_mean(self, value: Average, target: str, draft: Draft, codes: Any) -> None:
        """Make the node for means; `codes` makes codes of sums of so many raw codes."""
        source = self._drafts[value.input]
        assert source.format is not None
        axis = value.channel_axis
        node = AveragePool(
            name=value.name,
            input=value.input,
            output=target,
            kernel=value.window.kernel,
            stride=value.window.stride,
            padding=value.window.padding,
            tables={},
            count_padding=value.count_padding,
        )
        spatial = [size for at, size in enumerate(source.shape) if at not in (0, axis)]
        height, width = (1, *spatial) if len(spatial) == 1 else spatial
        if prod(node.kernel) * (source.format.max - source.format.min) >= 1 << 24:
            raise NetworkError(value.where, f"averages windows of {node.kernel}", "pool in two steps")
        tables = average_tables(node.counts(height, width), source.format, codes)
        self._declare(target, draft, value.input, channel_axis=axis)
        self._append(replace(node, tables=tables))

    def _emit_product(
        self, value: Product, target: str, draft: Draft, factor: NDArray[np.float32] | None = None
    ) -> None:
        """Make the node of a product.

        If `factor` is given, the runtime rounds ``float32(accumulator) * factor``, and the node must too.
        """
        assert draft.scale is not None
        assert isinstance(draft.format, Int)
        weights, scale, bias = value.weights.copy(), value.scale.copy(), value.bias.copy()
        if not np.isfinite(scale if factor is None else factor).all():
            raise NetworkError(
                value.where, "its scales grow beyond all numbers", "calibrate the quantisation again"
            )
        falling, flat = scale < 0, scale == 0
        weights[falling] *= -1
        bias[falling] *= -1
        weights[flat] = 0
        scale = np.where(flat, draft.scale, np.abs(scale))
        if not value.weight_format.contains(weights):
            raise NetworkError(
                value.where,
                "a channel falls as its sum grows, and its weights, negated, do not fit "
                f"{value.weight_format}",
                "quantise the weights with a narrow range (-127..127)",
            )
        with np.errstate(over="ignore"):
            bias[flat] = np.clip(value.constant[flat] / draft.scale, -(1 << 16), 1 << 16)
        whole = np.rint(bias)
        lost = float(np.abs(bias - whole)[~flat].max(initial=0))
        # What float32 arithmetic makes of a whole number is not worth a word.
        if lost > 1e-3:
            warnings.warn(
                f"{printable(value.where)}: bias is rounded to the scale of the accumulator, "
                f"by up to {lost:.3f} units",
                stacklevel=2,
            )
        if not np.abs(whole).max() <= _INT32.max:
            raise NetworkError(
                value.where,
                "bias does not fit int32 in units of input scale times weight scale",
                "quantise with a larger weight scale for that channel",
            )
        if factor is None:
            multiplier, shift = quantise_multiplier(scale / draft.scale)
        else:
            multiplier, shift = self._fitted(value, whole, factor, draft)
        info = TensorInfo(
            name=target,
            shape=value.shape,
            format=draft.format,
            scale=draft.scale,
            zero_point=draft.zero_point,
        )
        clamp = np.array(value.clamp or (-np.inf, np.inf), dtype=np.float32)
        low, high = quantise(clamp, info)
        quantiser = Requantise(
            multiplier=multiplier, shift=shift, rounding="half_even", low=int(low), high=int(high)
        )
        self._declare(target, draft, channel_axis=value.channel_axis)
        if value.window is None:
            self._append(
                FullyConnected(
                    name=value.name,
                    input=value.input,
                    output=target,
                    weights=weights,
                    weight_format=value.weight_format,
                    bias=whole.astype(np.int64),
                    quantiser=quantiser,
                )
            )
            return
        self._append(
            Convolution(
                name=value.name,
                input=value.input,
                output=target,
                weights=weights,
                weight_format=value.weight_format,
                bias=whole.astype(np.int64),
                quantiser=quantiser,
                stride=value.window.stride,
                dilation=value.window.dilation,
                padding=value.window.padding,
                groups=value.groups,
            )
        )

    def _fitted(
        self, value: Product, bias: NDArray[np.float64], factor: NDArray[np.float32], draft: Draft
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        assert isinstance(draft.format, Int)
        root = self._root(value.input)
        assert root.format is not None
        rows = value.weights.reshape(value.channels, -1)
        ends = [rows * (code - root.zero_point) for code in (root.format.min, root.format.max)]
        if value.window is not None and any(sum(value.window.padding, ())):
            # Over padding, a sum has fewer terms.
            ends.append(np.zeros_like(rows))
        least, greatest = (
            (choose.reduce(ends).sum(axis=1) + bias.astype(np.int64)).clip(_INT32.min, _INT32.max)
            for choose in (np.minimum, np.maximum)
        )
        low, high = (bound - draft.zero_point for bound in (draft.format.min, draft.format.max))
        multiplier, shift, left = fit_multiplier(factor, least, greatest, low, high)
        if left:
            warnings.warn(
                f"{printable(value.where)}: for {left} of all possible accumulators the result is one code "
                "beside that of onnxruntime, whose float32 product lands on the middle between two",
                stacklevel=2,
            )
        return multiplier, shift

    # What reads codes

    def _flattened(self, codes: Numbers, weights: NDArray[np.int64]) -> tuple[str, NDArray[np.int64]]:
        """Tensor that a matrix product reads, and its weights, N × K, in the order of that tensor.

        A map with channels first that was flattened holds its elements in an order that no memory with
        channels last has. The weights are put in the other order instead.
        """
        base, moves = codes, []
        while isinstance(base, Moved) and isinstance(base.move, Relabel | Order):
            moves.append(base)
            base = base.parts[0]
        source = self._tensor(base)
        draft = self._drafts[source]
        if moves and prod(draft.shape) == weights.shape[1]:
            # Which element stands where in the file.
            given = np.arange(prod(draft.shape)).reshape(draft.shape)
            for move in reversed(moves):
                if isinstance(move.move, Order):
                    given = given.transpose(move.move.axes)
                given = given.reshape(move.shape)
            row = self._as_row(source, codes.shape, weights.shape[1], given.reshape(-1))
            if row is not None:
                return row[0], weights[:, row[1]]
        tensor = self._tensor(codes)
        last = len(self._drafts[tensor].shape) - 1
        return self._with_channels(tensor, last, tensor), weights

    def _arg_max(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._computed(node, 0, where)
        if isinstance(value, SoftmaxOf):
            # The greatest probability is that of the greatest code.
            codes: Numbers = Codes(value.input, value.shape)
        else:
            codes = value if self._holds_codes(value) else self._operand(value, where)
        axis = attribute(node, "axis", 0, where)
        rank = len(codes.shape)
        if not -rank <= axis < rank:
            raise NetworkError(where, f"axis {axis} does not exist in shape {codes.shape}", EXPORT)
        axis %= rank
        keep = attribute(node, "keepdims", 1, where)
        source = self._tensor(codes)
        shape = (*codes.shape[:axis], *([1] if keep else []), *codes.shape[axis + 1 :])
        output = node.output[0]
        axes = tuple(range(rank)) if keep else tuple(at for at in range(rank) if at != axis)
        self._declare(output, Draft(shape, Int(32), 1.0), source, axes=axes)
        last = bool(attribute(node, "select_last_index", 0, where))
        self._append(ArgMax(name=node_name(node), input=source, output=output, axis=axis, last=last))
        return Codes(output, shape)
