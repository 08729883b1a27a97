"""QONNX networks: floats that `Quant`, `BipolarQuant`, `MultiThreshold` and `Trunc` keep on a grid.

The nodes are walked once, in order. What is computed is a chain: the network's input or a matrix product,
and after it elementwise steps; a quantiser is steps like any other, and the chain remembers where it was.
Only when a matrix product or the network's end takes a quantised chain does it become a node of the integer
graph. So whatever stands between a product and its last quantiser is one function of the accumulator:

- up to 16 codes: thresholds, found by bisection of that function;
- more: a multiplier, a shift and a bias, where the function is affine up to a clamp;
- none, at the network's end: the accumulators themselves, and the function is the host's.

The numbers mean what the QONNX operator definitions say; their executor computes in float32, which this
follows where the host quantises the input and where weights are quantised. Functions of an accumulator
are evaluated in float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite, log2, prod
from typing import Any, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from bitwright.hw.formats import Bipolar, Int
from bitwright.sim.graph import (
    Dequantize,
    Elementwise,
    Graph,
    NetworkError,
    Operation,
    RoundingMode,
)

from ._onnx import (
    DOMAINS,
    EXPORT,
    Constant,
    Draft,
    attribute,
    node_name,
    type_name,
    where_of,
)
from ._qonnx import (
    FOLD,
    MAX_ACTIVATION_BITS,
    MAX_ELEMENTS,
    MAX_WEIGHT_BITS,
    Chain,
    Grid,
    Input,
    Integers,
    Mean,
    Product,
    Stage,
    Value,
    View,
    activation_format,
    affine,
    broadcasts,
    code_range,
    folded,
    one_if_same,
    quantised_constant,
    rises,
    run_steps,
    step_of,
    thresholds_of,
)
from ._qonnx_maps import Maps
from ._qonnx_nodes import QUANTISE

__all__ = ["is_qonnx", "load", "thresholds_of"]

_DOMAINS = ("qonnx", "finn", "onnx.brevitas")
_CUSTOM = ("Quant", "IntQuant", "BipolarQuant", "Trunc", "MultiThreshold")
_ROUNDINGS: dict[str, RoundingMode] = {
    "ROUND": "half_even",
    **{mode.upper(): mode for mode in get_args(RoundingMode)},
}
_ARITHMETIC: dict[str, Operation] = {
    "Add": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Div": "divide",
    "Pow": "power",
}


def is_qonnx(model: onnx.ModelProto) -> bool:
    """Whether a model holds operators of QONNX, FINN or Brevitas."""
    return any(_in_family(node.domain) or _is_custom(node) for node in model.graph.node)


def _in_family(domain: str) -> bool:
    return any(domain == family or domain.startswith(f"{family}.") for family in _DOMAINS)


def _is_custom(node: onnx.NodeProto) -> bool:
    # Early exports name no domain. ONNX itself has no operator of these names.
    return node.op_type in _CUSTOM and (node.domain in DOMAINS or _in_family(node.domain))


def load(model: onnx.ModelProto, name: str, where: str) -> Graph:
    """Graph of a QONNX model.

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
    return _Importer(model.graph, name, where).graph()


class _Importer(Maps):
    def _operators(self) -> dict[str, Callable[[onnx.NodeProto, str], Value]]:
        return {
            "Quant": self._quant,
            "IntQuant": self._quant,
            "BipolarQuant": self._bipolar_quant,
            "MultiThreshold": self._multi_threshold,
            "Trunc": self._trunc,
            "Conv": self._conv,
            "MatMul": self._matmul,
            "Gemm": self._gemm,
            "MaxPool": self._max_pool,
            "GlobalMaxPool": self._global_max_pool,
            "AveragePool": self._average_pool,
            "GlobalAveragePool": self._global_average_pool,
            "ReduceMean": self._reduce_mean,
            "BatchNormalization": self._batch_normalization,
            **dict.fromkeys(_ARITHMETIC, self._arithmetic),
            "Sqrt": self._sqrt,
            "Relu": self._relu,
            "Clip": self._clip,
            "Reshape": self._reshape,
            "Flatten": self._flatten,
            "Squeeze": self._squeeze,
            "Unsqueeze": self._unsqueeze,
            "Transpose": self._transpose,
            "Pad": self._pad,
            "Identity": self._identity,
            "Dropout": self._identity,
            "Cast": self._cast,
            "Constant": self._constant,
            "Shape": self._shape,
            "Gather": self._gather,
            "Concat": self._concat,
            "Slice": self._slice,
        }

    def _is_supported(self, node: onnx.NodeProto) -> bool:
        return _is_custom(node) or (node.op_type in self._methods and node.domain in DOMAINS)

    def _number(self, node: onnx.NodeProto, index: int, what: str, where: str) -> float:
        """An input that must be one number, or the same one throughout."""
        array = self._floats(node, index, what, where)
        if (array != array.flat[0]).any():
            raise NetworkError(
                where, f"{what} differs from channel to channel", "quantise activations per tensor"
            )
        return float(array.flat[0])

    def _scale(self, node: onnx.NodeProto, index: int, where: str) -> float:
        scale = self._number(node, index, "its scale", where)
        if scale <= 0:
            raise NetworkError(where, f"scale {scale:g} is not positive", "calibrate again")
        return scale

    def _bits(self, node: onnx.NodeProto, index: int, limit: int, where: str) -> int:
        if index >= len(node.input) or not node.input[index]:
            raise NetworkError(where, "has no bit width", EXPORT)
        bits = self._number(node, index, "its bit width", where)
        if bits != int(bits) or not 1 <= bits <= limit:
            raise NetworkError(
                where, f"bit width {bits:g} is not a whole number from 1 to {limit}", "quantise it so"
            )
        return int(bits)

    def _rounding(self, node: onnx.NodeProto, default: str, where: str) -> RoundingMode:
        given = attribute(node, "rounding_mode", default, where)
        if given.upper() not in _ROUNDINGS:
            raise NetworkError(where, f"rounding mode {given} is not known", f"use {', '.join(_ROUNDINGS)}")
        return _ROUNDINGS[given.upper()]

    # The edges

    def _declare_input(self) -> None:
        kind, shape = self._input_type()
        if kind != TensorProto.FLOAT:
            raise NetworkError(
                f"input '{self._input}'", f"is {type_name(kind)}", "make it FLOAT, followed by a Quant"
            )
        self._values[self._input] = Chain(Input(shape), shape)
        self._drafts[self._input] = Draft(shape, None, 1.0)

    def _finish(self) -> None:
        where = f"output '{self._output}'"
        if self._output not in self._values:
            raise NetworkError(where, "is produced by no node", EXPORT)
        value = self._values[self._output]
        if not isinstance(value, Chain) or (value.stage is None and isinstance(value.base, Input)):
            raise NetworkError(where, "is not computed by any matrix product", QUANTISE)
        last = next(node for node in self._graph.node if self._output in node.output)
        if value.pooling is not None:
            raise NetworkError(value.pooling.where, "its result is not quantised", QUANTISE)
        if isinstance(value.base, Product) and value.stage is None:
            source, scale = self._emit_accumulators(value.base)
            steps = value.steps
        else:
            source, steps = self._split(value, where_of(last))
            scale = np.ones(1)
        base = value.base
        channels = base.shape[base.channel_axis if isinstance(base, Product) else -1] if base.shape else 1
        gain, offset, low, high = affine(_for_channels(steps, where_of(last)), scale, where_of(last))
        if np.isfinite(low).any() or np.isfinite(high).any():
            raise NetworkError(
                where_of(last),
                "an activation at the network's end is not quantised",
                "quantise the output too, or leave the activation to the host",
            )
        if max(gain.size, offset.size) > 1 and (
            value.shape[-1:] != (channels,) or prod(base.shape) != channels * prod(value.shape[:-1])
        ):
            raise NetworkError(
                where_of(last),
                "reshapes the output after arithmetic per channel, or has its channels first",
                "leave out the reshape, or flatten the output",
            )
        if value.shape != self._drafts[source].shape:
            view = self._fresh(f"{self._output}_{'codes' if value.stage else 'accumulators'}")
            self._relabel(f"{node_name(last)}_reshape", source, view, value.shape)
            source = view
        self._declare(self._output, Draft(value.shape, None, 1.0), source)
        name = node_name(last)
        self._append(
            Dequantize(
                name=f"{name}_dequantize" if name in self._node_names else name,
                input=source,
                output=self._output,
                gain=None if (gain == 1).all() and not offset.any() else one_if_same(gain),
                offset=one_if_same(offset) if offset.any() else None,
            )
        )

    # Quantisers

    def _quant(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        signed = bool(attribute(node, "signed", 1, where))
        narrow = bool(attribute(node, "narrow", 0, where))
        rounding = self._rounding(node, "ROUND", where)
        constant = not isinstance(value, Chain)
        bits = self._bits(node, 3, MAX_WEIGHT_BITS if constant else MAX_ACTIVATION_BITS, where)
        low, high = code_range(bits, signed, narrow)
        if not isinstance(value, Chain):
            return self._quantised_constant(node, value, (bits, signed, low, high), rounding, where)
        scale = self._scale(node, 1, where)
        zero_point = self._number(node, 2, "its zero point", where)
        if bits == 1 and signed:
            if zero_point:
                raise NetworkError(where, "is bipolar with a zero point", "use the zero point 0")
            # Where the scale is tiny, dividing by it decides what is a negative zero.
            encode: tuple[Elementwise, ...] = (step_of("divide", scale), step_of("sign"))
            return self._quantised(node, value, where, encode, Bipolar(), scale, 0, -1, 1)
        format = Int(bits, signed)
        if zero_point != int(zero_point) or not format.min <= zero_point <= format.max:
            raise NetworkError(
                where,
                f"zero point {zero_point:g} is not a whole number from {format.min} to {format.max}",
                "quantise symmetrically, with the zero point 0",
            )
        if low == high:
            raise NetworkError(where, f"has no code but {low}", "quantise to more bits, or without narrow")
        encode = (
            step_of("divide", scale),
            *((step_of("add", zero_point),) if zero_point else ()),
            step_of("minimum", high),
            step_of("maximum", low),
            step_of(rounding),
        )
        same = self._same_grid(value, scale, int(zero_point))
        if same is not None:
            # The values are on this grid already, and rounding leaves them: only the range may change.
            least, greatest = max(low, same.low), min(high, same.high)
            if least < greatest:
                clamp = (step_of("minimum", greatest), step_of("maximum", least))
                stage = replace(
                    same,
                    name=node_name(node),
                    where=where,
                    output=node.output[0],
                    shape=value.shape,
                    encode=(*same.encode, *clamp),
                    format=format,
                    low=least,
                    high=greatest,
                    earlier=value,
                    clamps=True,
                )
                return Chain(value.base, value.shape, stage.steps, stage, exact=True)
        return self._quantised(
            node, value, where, encode, format, scale, int(zero_point), low, high, rounding, plain=True
        )

    def _same_grid(self, value: Chain, scale: float, zero_point: int) -> Stage | None:
        stage = value.stage
        same = stage is not None and isinstance(stage.format, Int) and value.exact and value.factor == 1
        if stage is None or not same or (stage.scale, stage.zero_point) != (scale, zero_point):
            return None
        return stage

    def _quantised(
        self,
        node: onnx.NodeProto,
        value: Chain,
        where: str,
        encode: tuple[Elementwise, ...],
        format: Int | Bipolar,
        scale: float,
        zero_point: int,
        low: int,
        high: int,
        rounding: RoundingMode = "half_even",
        plain: bool = False,
    ) -> Chain:
        if value.pooling is not None and not rises(value.steps[value.pooling.after :]):
            raise NetworkError(
                value.pooling.where,
                "takes the greatest of what then falls as it grows, before it is quantised",
                "put the pooling behind the quantiser",
            )
        stage = Stage(
            name=node_name(node),
            where=where,
            output=node.output[0],
            shape=value.shape,
            before=value.steps,
            encode=encode,
            format=format,
            scale=scale,
            zero_point=zero_point,
            low=low,
            high=high,
            rounding=rounding,
            plain=plain,
            pooling=value.pooling,
            earlier=value if value.stage is not None else None,
        )
        return Chain(value.base, value.shape, stage.steps, stage, exact=True)

    def _quantised_constant(
        self,
        node: onnx.NodeProto,
        value: Constant | Integers,
        codes: tuple[int, bool, int, int],
        rounding: RoundingMode,
        where: str,
    ) -> Integers:
        bits, signed, _, _ = codes
        real = self._floats(node, 0, "its input", where)
        scale = self._floats(node, 1, "its scale", where)
        zero_point = self._floats(node, 2, "its zero point", where)
        if (scale <= 0).any():
            raise NetworkError(where, f"scale {scale.min():g} is not positive", "calibrate again")
        if (zero_point != np.rint(zero_point)).any() or np.abs(zero_point).max() >= 1 << bits:
            raise NetworkError(where, "zero point is not a code", "quantise with the zero point 0")
        scale, zero_point = (self._beside(values, real.shape, where) for values in (scale, zero_point))
        if bits == 1 and signed and zero_point.any():
            raise NetworkError(where, "is bipolar with a zero point", "use the zero point 0")
        return quantised_constant(real, scale, zero_point, codes, rounding, where)

    def _beside(self, values: NDArray[np.float32], shape: tuple[int, ...], where: str) -> NDArray[np.float32]:
        """Values that broadcast against a shape, with as many axes."""
        if not broadcasts(values.shape, shape):
            raise NetworkError(
                where, f"parameters of shape {values.shape} do not match its input {shape}", EXPORT
            )
        shape = (1,) * (len(shape) - values.ndim) + values.shape
        return np.asarray(values.reshape(shape), dtype=np.float32)

    def _bipolar_quant(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        if isinstance(value, Chain):
            scale = self._scale(node, 1, where)
            return self._quantised(node, value, where, (step_of("sign"),), Bipolar(), scale, 0, -1, 1)
        real = self._floats(node, 0, "its input", where)
        scales = self._floats(node, 1, "its scale", where)
        if (scales <= 0).any():
            raise NetworkError(where, f"scale {scales.min():g} is not positive", "calibrate again")
        scales = self._beside(scales, real.shape, where)
        return Integers(np.where(real >= 0, 1, -1).astype(np.int64), scales, Bipolar())

    def _multi_threshold(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        if not isinstance(value, Chain):
            raise NetworkError(where, "takes constants", FOLD)
        levels = self._floats(node, 1, "its thresholds", where)
        scale = attribute(node, "out_scale", 1.0, where)
        bias = attribute(node, "out_bias", 0.0, where)
        if not (isfinite(scale) and scale > 0 and isfinite(bias)):
            raise NetworkError(where, f"out_scale {scale:g} is not a positive number", "calibrate again")
        if levels.ndim != 2 or levels.shape[1] >= 1 << MAX_ACTIVATION_BITS:
            raise NetworkError(
                where,
                f"thresholds of shape {levels.shape} are not a matrix of channels and up to "
                f"{(1 << MAX_ACTIVATION_BITS) - 1} levels",
                "use no more than 8 bits",
            )
        count = levels.shape[1]
        if isinstance(value.base, Grid) and len(levels) > 1:
            value = self._per_channel(value, where)
        step = step_of("count", self._levels_beside(node, value, np.sort(levels, axis=1), where))
        declared = attribute(node, "out_dtype", "", where)
        if count == 1 and bias == -scale / 2:
            # One threshold, and -s or +s: codes are twice the count, less one.
            encode = (step, step_of("multiply", 2), step_of("subtract", 1))
            return self._quantised(node, value, where, encode, Bipolar(), scale / 2, 0, -1, 1)
        low = bias / scale
        if not abs(low) < 1 << MAX_ACTIVATION_BITS or low != int(low):
            raise NetworkError(
                where,
                f"out_bias {bias:g} is no code of 8 bits in units of out_scale {scale:g}",
                "make it a whole number of output steps",
            )
        format = activation_format(int(low), int(low) + count, declared)
        if format is None:
            raise NetworkError(
                where, f"its results {int(low)}..{int(low) + count} need more than 8 bits", "use fewer levels"
            )
        encode = (step, *((step_of("add", low),) if low else ()))
        return self._quantised(node, value, where, encode, format, scale, 0, int(low), int(low) + count)

    def _levels_beside(
        self, node: onnx.NodeProto, value: Chain, levels: NDArray[np.float32], where: str
    ) -> NDArray[Any]:
        """Levels, channels × T, shaped to broadcast against the chain's base, T last."""
        if levels.shape[0] == 1:
            return np.asarray(levels[0])
        rank = len(value.shape)
        layout = attribute(node, "data_layout", "", where) or {2: "NC", 3: "NWC", 4: "NCHW"}.get(rank, "")
        axis = layout.index("C") if "C" in layout else 1
        if axis >= rank or value.shape[axis] != levels.shape[0]:
            raise NetworkError(
                where,
                f"thresholds for {levels.shape[0]} channels do not match its input {value.shape}",
                "check data_layout",
            )
        shape = [1] * rank
        shape[axis] = levels.shape[0]
        columns = [self._aligned(value, column.reshape(shape), where) for column in levels.T]
        return np.stack(np.broadcast_arrays(*columns), axis=-1)

    def _trunc(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        if not isinstance(value, Chain) or (value.stage is None and isinstance(value.base, Input)):
            raise NetworkError(
                where, "does not truncate integers", "put it behind a matrix product or a Quant"
            )
        scale = self._scale(node, 1, where)
        zero_point = self._number(node, 2, "its zero point", where)
        rounding = self._rounding(node, "FLOOR", where)
        second = len(node.input) > 5
        bits = self._bits(node, 5 if second else 4, MAX_ACTIVATION_BITS, where)
        if second:
            result_scale = self._scale(node, 4, where)
            places = float(np.rint(log2(result_scale / scale)))
        else:
            result_scale = scale
            places = float(self._bits(node, 3, 32, where) - bits)
        if abs(places) > 64:
            raise NetworkError(where, f"truncates {places:g} bits", EXPORT)
        result_zero = zero_point / 2**places if second else zero_point
        steps = [step_of("divide", scale), *((step_of("add", zero_point),) if zero_point else ())]
        steps += [step_of("half_even"), step_of("divide", 2**places)]
        if second:
            signed = bool(attribute(node, "signed", 1, where))
            low, high = code_range(bits, signed, bool(attribute(node, "narrow", 0, where)))
            if low == high:
                raise NetworkError(where, f"has no code but {low}", "truncate to more bits")
            steps += [step_of("minimum", high), step_of("maximum", low), step_of(rounding)]
            format = Int(bits, signed)
        else:
            steps.append(step_of(rounding))
            reached = self._extremes(value, tuple(steps))
            if not np.isfinite(reached).all():
                raise NetworkError(
                    where, "its input grows beyond all numbers", "check the constants before it"
                )
            low, high = int(reached.min()), int(reached.max())
            format = Int(bits, signed=low < 0)
            if not format.min <= low <= high <= format.max:
                raise NetworkError(
                    where, f"makes {low}..{high}, which do not fit {format}", "give it a greater bit width"
                )
            low, high = format.min, format.max
            # What is reached lies inside: the clamp only says so.
            steps += [step_of("minimum", high), step_of("maximum", low)]
        if result_zero != int(result_zero) or not format.min <= result_zero <= format.max:
            raise NetworkError(where, f"its zero point becomes {result_zero:g}", "use the zero point 0")
        return self._quantised(
            node, value, where, tuple(steps), format, result_scale, int(result_zero), low, high, rounding
        )

    def _extremes(self, value: Chain, steps: tuple[Elementwise, ...]) -> NDArray[np.float64]:
        """What steps make of the least and the greatest value of a chain, in each channel."""
        stage = value.stage
        if isinstance(value.base, Product):
            ends = np.stack([value.base.low, value.base.high]).astype(np.float64) * value.base.scale
            return run_steps((*value.steps, *steps), ends)
        if isinstance(value.base, Grid):
            return run_steps((*value.steps, *steps), value.base.values)
        if isinstance(value.base, Mean):
            root = self._root(value.base.tensor)
            assert root.format is not None
            reals = self._mean_of(value.base, np.array([root.format.min, root.format.max]), 1)
            return run_steps((*value.steps, *steps), reals)
        assert stage is not None
        after = value.steps[len(stage.before) + len(stage.encode) :]
        ends = np.array([stage.low, stage.high], dtype=np.float64)
        ends = ends.reshape(2, *(1 for _ in value.base.shape))
        return run_steps((*after, *steps), ends)

    # Elementwise arithmetic

    def _arithmetic(self, node: onnx.NodeProto, where: str) -> Value:
        operation = _ARITHMETIC[node.op_type]
        left, right = self._value(node, 0, where), self._value(node, 1, where)
        if isinstance(left, Chain) and isinstance(right, Chain):
            return self._combined(node, operation, left, right, where)
        if not isinstance(left, Chain) and not isinstance(right, Chain):
            return self._folded_arithmetic(operation, left, right, where)
        chain, index = (left, 1) if isinstance(left, Chain) else (right, 0)
        assert isinstance(chain, Chain)
        chain = self._open_to(chain, self._floats(node, index, "its constant", where), where)
        constant = self._aligned(chain, self._floats(node, index, "its constant", where), where)
        reverse = index == 0 and operation not in ("add", "multiply")
        if operation == "divide" and not reverse and not constant.all():
            raise NetworkError(where, "divides by zero", EXPORT)
        if isinstance(chain.base, Product) and (operation == "power" or (operation == "divide" and reverse)):
            raise NetworkError(
                where, "is not monotone in the result of a matrix product", "leave it out, or to the host"
            )
        step = step_of(operation, constant, reverse)
        result = chain.then(step)
        if operation in ("multiply", "divide") and not reverse and not constant.ndim and constant != 0:
            # Codes stay codes under another scale.
            factor = chain.factor * float(constant) ** (1 if operation == "multiply" else -1)
            result = replace(result, exact=chain.exact, factor=factor)
        return result

    def _combined(
        self, node: onnx.NodeProto, operation: Operation, left: Chain, right: Chain, where: str
    ) -> Chain:
        """Two computed tensors, element by element: a function of the codes of both."""
        if left.shape != right.shape:
            raise NetworkError(
                where, f"combines shapes {left.shape} and {right.shape}", "expand them to one shape first"
            )
        grids = [self._as_grid(chain, where).base for chain in (left, right)]
        first, second = (grid for grid in grids if isinstance(grid, Grid))
        tensors = tuple(dict.fromkeys((*first.tensors, *second.tensors)))
        if len(tensors) > 2:
            raise NetworkError(where, "combines more than two tensors", "quantise in between")
        with np.errstate(all="ignore"):
            values = getattr(np, operation)(_spread(first, tensors), _spread(second, tensors))
        grid = Grid(node_name(node), where, node.output[0], tensors, left.shape, values, plain=False)
        return Chain(grid, left.shape)

    def _folded_arithmetic(
        self, operation: Operation, left: Constant | Integers, right: Constant | Integers, where: str
    ) -> Value:
        quantised, other = (left, right) if isinstance(left, Integers) else (right, left)
        scales = operation == "multiply" or (operation == "divide" and quantised is left)
        if isinstance(quantised, Integers) and isinstance(other, Constant) and scales:
            array = other.array
            if array.dtype == np.float32 and broadcasts(array.shape, quantised.shape) and array.all():
                factor = self._beside(array, quantised.shape, where)
                with np.errstate(all="ignore"):
                    scale = quantised.scale * factor if operation == "multiply" else quantised.scale / factor
                if np.isfinite(scale).all() and scale.all():
                    return replace(quantised, scale=scale)
        arrays = [self._numbers(value, "its operand", where) for value in (left, right)]
        first, second = arrays
        if first.dtype != second.dtype:
            raise NetworkError(where, f"combines {first.dtype} and {second.dtype}", EXPORT)

        def compute() -> NDArray[Any]:
            if prod(np.broadcast_shapes(first.shape, second.shape)) > MAX_ELEMENTS:
                raise ValueError("too many elements")
            if first.dtype.kind in "iu" and operation == "divide":
                # Towards zero, as the operator says.
                if not second.all():
                    raise ValueError("division by zero")
                return np.asarray(np.sign(first) * np.sign(second) * (abs(first) // abs(second)))
            return np.asarray(getattr(np, operation)(first, second))

        return folded(compute, where)

    def _sqrt(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        if isinstance(value, Chain):
            raise NetworkError(where, "is supported of constants only", "leave it out, or to the host")
        array = self._floats(node, 0, "its input", where)
        return folded(lambda: np.sqrt(array), where)

    def _batch_normalization(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        if not isinstance(value, Chain):
            raise NetworkError(where, "takes constants", FOLD)
        if attribute(node, "training_mode", 0, where):
            raise NetworkError(where, "is in training mode", "export the network for inference")
        if len(value.shape) < 2:
            raise NetworkError(where, f"its input {value.shape} has no channels", EXPORT)
        if isinstance(value.base, Grid):
            value = self._per_channel(value, where)
        shape = (1, value.shape[1], *(1 for _ in value.shape[2:]))
        arrays = []
        for index, what in ((1, "its scale"), (2, "its bias"), (3, "its mean"), (4, "its variance")):
            array = self._floats(node, index, what, where)
            if array.size != value.shape[1]:
                raise NetworkError(
                    where, f"{what} has {array.size} elements for {value.shape[1]} channels", EXPORT
                )
            arrays.append(self._aligned(value, array.reshape(shape), where).astype(np.float64))
        gain, bias, mean, variance = arrays
        variance = variance + attribute(node, "epsilon", 1e-5, where)
        if not (np.isfinite(variance).all() and (variance > 0).all()):
            raise NetworkError(where, "variance is not positive", EXPORT)
        return value.then(
            step_of("subtract", mean),
            step_of("divide", np.sqrt(variance)),
            step_of("multiply", gain),
            step_of("add", bias),
        )

    def _relu(self, node: onnx.NodeProto, where: str) -> Value:
        return self._clamped(node, self._value(node, 0, where), 0.0, np.inf, where)

    def _clip(self, node: onnx.NodeProto, where: str) -> Value:
        bounds = []
        for index, key, default in ((1, "min", -np.inf), (2, "max", np.inf)):
            if self._optional(node, index, where) is None:
                bounds.append(attribute(node, key, default, where))
            else:
                array = self._numbers(self._value(node, index, where), f"its {key}", where)
                if array.size != 1 or array.dtype != np.float32:
                    raise NetworkError(where, f"its {key} is not one number of type FLOAT", EXPORT)
                bounds.append(float(array.reshape(())))
        if any(bound != bound for bound in bounds):
            raise NetworkError(where, "a bound is not a number (NaN)", EXPORT)
        return self._clamped(node, self._value(node, 0, where), bounds[0], bounds[1], where)

    def _clamped(self, node: onnx.NodeProto, value: Value, low: float, high: float, where: str) -> Value:
        if not isinstance(value, Chain):
            raise NetworkError(where, "clamps constants", FOLD)
        stage = self._same_grid(value, value.stage.scale, value.stage.zero_point) if value.stage else None
        if stage is not None and (low, high) == (0.0, np.inf) and stage.zero_point < stage.high:
            # ReLU of what is quantised: codes from the zero point up.
            least = max(stage.low, stage.zero_point)
            clamped = replace(
                stage,
                name=node_name(node),
                where=where,
                output=node.output[0],
                shape=value.shape,
                encode=(*stage.encode, step_of("maximum", least)),
                low=least,
                earlier=value,
                clamps=True,
            )
            return Chain(value.base, value.shape, clamped.steps, clamped, exact=True)
        if low == np.inf or high == -np.inf:
            raise NetworkError(where, f"clamps to {low:g}..{high:g}, which is no number", EXPORT)
        # The upper bound last, as ONNX has it where they cross.
        steps = [step_of("maximum", low)] if low > -np.inf else []
        steps += [step_of("minimum", high)] if high < np.inf else []
        return value.then(*steps) if steps else value

    # Shapes and constants

    def _cast(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        to = attribute(node, "to", 0, where)
        if to == TensorProto.FLOAT and not isinstance(value, Constant):
            return value
        kinds = {TensorProto.FLOAT: np.float32, TensorProto.INT64: np.int64, TensorProto.INT32: np.int32}
        if not isinstance(value, Constant) or to not in kinds:
            raise NetworkError(where, f"casts to {type_name(to)}", "leave it out")
        return folded(lambda: value.array.astype(kinds[to]), where)

    def _shape(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        start, end = attribute(node, "start", 0, where), attribute(node, "end", None, where)
        return Constant(np.array(value.shape[start:end], dtype=np.int64), None)

    def _gather(self, node: onnx.NodeProto, where: str) -> Value:
        array = self._numbers(self._value(node, 0, where), "its input", where)
        indices = np.array(self._numbers(self._value(node, 1, where), "its index", where))
        axis = attribute(node, "axis", 0, where)
        if indices.dtype.kind != "i" or prod(indices.shape) * max(array.size, 1) > MAX_ELEMENTS:
            raise NetworkError(where, "its index is not made of integers, or there are too many", EXPORT)
        return folded(lambda: np.take(array, indices, axis=axis), where)

    def _concat(self, node: onnx.NodeProto, where: str) -> Value:
        values = [self._value(node, index, where) for index in range(len(node.input))]
        if any(isinstance(value, Chain) for value in values):
            return self._joined(node, values, where)
        arrays = [self._numbers(value, f"input {index}", where) for index, value in enumerate(values)]
        axis = attribute(node, "axis", 0, where)

        def compute() -> NDArray[Any]:
            if sum(array.size for array in arrays) > MAX_ELEMENTS or len({a.dtype for a in arrays}) > 1:
                raise ValueError("too many elements, or of several types")
            return np.concatenate(arrays, axis=axis)

        return folded(compute, where)

    def _slice(self, node: onnx.NodeProto, where: str) -> Value:
        array = self._numbers(self._value(node, 0, where), "its input", where)
        if len(node.input) > 1:
            starts, ends = (self._integers(node, index, where) for index in (1, 2))
            axes, steps = (
                None if self._optional(node, index, where) is None else self._integers(node, index, where)
                for index in (3, 4)
            )
        else:
            starts, ends, axes = (attribute(node, key, None, where) for key in ("starts", "ends", "axes"))
            steps = None

        def compute() -> NDArray[Any]:
            count = len(starts or ())
            result = array
            given = (starts or (), ends or (), axes or tuple(range(count)), steps or (1,) * count)
            for start, end, axis, step in zip(*given, strict=True):
                part = [slice(None)] * array.ndim
                # Going down, only None stands for the place before the first element.
                stop = None if step < 0 and end < -array.shape[axis] else end
                part[axis] = slice(start, stop, step)
                result = result[tuple(part)]
            return result

        return folded(compute, where)

    def _transpose(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        order = self._order(node, len(value.shape), where)
        match value:
            case Constant():
                return replace(value, array=value.array.transpose(order))
            case Integers():
                return replace(
                    value, integers=value.integers.transpose(order), scale=value.scale.transpose(order)
                )
        moved = [axis for axis in order if value.shape[axis] != 1]
        if moved == sorted(moved):
            return self._reshaped(node, value, tuple(value.shape[axis] for axis in order), where)
        return self._turned(node, value, tuple(order), where)

    def _reshaped(self, node: onnx.NodeProto, value: Value, shape: tuple[int, ...], where: str) -> Value:
        self._checked_shape(value, shape, where)
        if shape == value.shape:
            return value
        match value:
            case Constant():
                return replace(value, array=value.array.reshape(shape))
            case Integers(scale=scale):
                if scale.size > 1:
                    scale = np.broadcast_to(scale, value.shape)
                    return replace(value, integers=value.integers.reshape(shape), scale=scale.reshape(shape))
                return replace(
                    value, integers=value.integers.reshape(shape), scale=scale.reshape((1,) * len(shape))
                )
            case Chain():
                views = value.views
                if value.pooling is not None:
                    raise NetworkError(where, "reshapes what is pooled before it is quantised", QUANTISE)
                if value.exact:
                    views = (*views, View(node_name(node), node.output[0], shape, value.factor != 1))
                return replace(value, shape=shape, views=views)


def _for_channels(steps: Sequence[Elementwise], where: str) -> tuple[Elementwise, ...]:
    """Steps whose constants, which may have the shape of the tensor, have one number for each channel."""
    found = []
    for step in steps:
        if step.constant is not None and step.constant.ndim > 1:
            rows = step.constant.reshape(-1, step.constant.shape[-1])
            if (rows != rows[0]).any():
                raise NetworkError(
                    where,
                    f"a constant of shape {step.constant.shape} differs between elements of one channel",
                    "leave it to the host",
                )
            step = replace(step, constant=rows[0])
        found.append(step)
    return tuple(found)


def _spread(grid: Grid, tensors: tuple[str, ...]) -> NDArray[np.float32]:
    """A function's values, shaped to broadcast against those of functions of all these tensors."""
    if grid.tensors == tensors:
        return grid.values
    if len(grid.tensors) == 2:
        return grid.values.T
    return grid.values[:, None] if grid.tensors[0] == tensors[0] else grid.values[None, :]
