"""Products, pools and what moves codes about, of QONNX networks."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from bitwright.hw.formats import Bipolar, Int
from bitwright.sim.graph import Concatenate, Lookup, NetworkError, Pad, Transpose

from ._onnx import (
    EXPORT,
    Constant,
    Window,
    attribute,
    convolution_of,
    gemm_transposes,
    node_name,
    pool_window,
)
from ._qonnx import (
    FOLD,
    Chain,
    Input,
    Integers,
    Mean,
    Pooling,
    Product,
    Value,
    activation_format,
    integers_as_they_are,
    step_of,
)
from ._qonnx_nodes import QUANTISE, Lowering, max_pool

__all__ = ["Maps"]

_INT32 = Int(32)


class Maps(Lowering):
    """Lowers the operators that have more than one number of their input in sight."""

    # Matrix products

    def _gemm(self, node: onnx.NodeProto, where: str) -> Value:
        chain = self._product(node, where, gemm_transposes(node, where))
        if len(chain.shape) != 2:
            raise NetworkError(where, f"its input has {len(chain.shape)} axes instead of 2", EXPORT)
        if self._optional(node, 2, where) is None:
            return chain
        bias = self._floats(node, 2, "its bias", where)
        return chain.then(step_of("add", self._aligned(chain, bias, where)))

    def _matmul(self, node: onnx.NodeProto, where: str) -> Value:
        return self._product(node, where, False)

    def _product(self, node: onnx.NodeProto, where: str, transposed: bool) -> Chain:
        left, right = self._operands(node, where)
        if right.integers.ndim != 2 or not right.integers.size:
            raise NetworkError(where, f"weights of shape {right.shape} are not a matrix", "reshape them")
        weights, scale = self._scale_per_channel(right, 0 if transposed else 1, where)
        weights = weights if transposed else weights.T
        channels, reduction = weights.shape
        self._unviewed(left, where, exact=True)
        if not left.shape or left.shape[-1] != reduction:
            raise NetworkError(
                where, f"input {left.shape} and weights for {reduction} inputs do not agree", EXPORT
            )
        source, weights = self._flattened(left, weights, where)
        shape = (*left.shape[:-1], channels)
        return self._made_product(node, where, left, source, right, weights, scale, shape)

    def _conv(self, node: onnx.NodeProto, where: str) -> Value:
        left, right = self._operands(node, where)
        shape, size = left.shape, right.shape
        groups, window = convolution_of(node, shape, size, where)
        weights, scale = self._scale_per_channel(right, 0, where)
        # Rows, columns, channels: as they lie in memory.
        weights = np.moveaxis(weights.reshape(*size[:2], *window.kernel), 1, -1)
        source = self._with_channels(self._materialised(left, where), 1, node_name(node))
        result = (shape[0], size[0], *window.size)
        chain = self._made_product(node, where, left, source, right, weights, scale, result, window, groups)
        if self._optional(node, 2, where) is None:
            return chain
        bias = self._floats(node, 2, "its bias", where)
        if bias.shape != size[:1]:
            raise NetworkError(where, f"bias of shape {bias.shape} is not for {size[0]} channels", EXPORT)
        return chain.then(step_of("add", bias))

    def _operands(self, node: onnx.NodeProto, where: str) -> tuple[Chain, Integers]:
        left, right = self._value(node, 0, where), self._value(node, 1, where)
        if not isinstance(left, Chain) or isinstance(right, Chain):
            raise NetworkError(
                where,
                "is not the product of a quantised activation, first, with constant weights",
                "only such products are supported",
            )
        return left, integers_as_they_are(right, where) if isinstance(right, Constant) else right

    def _scale_per_channel(
        self, constant: Integers, axis: int, where: str
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Weights, and one scale for each output channel, which are on that axis."""
        scale = np.broadcast_to(constant.scale, constant.shape).astype(np.float64)
        rows = np.moveaxis(scale, axis, 0).reshape(constant.shape[axis], -1)
        if (rows != rows[:, :1]).any():
            raise NetworkError(
                where, "weights have a scale per input channel", "quantise them per output channel"
            )
        return constant.integers, rows[:, 0]

    def _made_product(
        self,
        node: onnx.NodeProto,
        where: str,
        left: Chain,
        source: str,
        constant: Integers,
        weights: NDArray[np.int64],
        scale: NDArray[np.float64],
        shape: tuple[int, ...],
        window: Window | None = None,
        groups: int = 1,
    ) -> Chain:
        root = self._root(source)
        assert root.format is not None
        assert root.scale is not None
        # Every code of the format, so that thresholds hold for each of them.
        terms = [weights * (code - root.zero_point) for code in (root.format.min, root.format.max)]
        if window is not None and any(sum(window.padding, ())):
            # Over padding, a sum has fewer terms.
            terms.append(np.zeros_like(weights))
        least, greatest = (
            choose.reduce(terms).reshape(len(weights), -1).sum(axis=1) for choose in (np.minimum, np.maximum)
        )
        product = Product(
            name=node_name(node),
            where=where,
            output=node.output[0],
            input=source,
            weights=weights,
            weight_format=constant.format,
            scale=root.scale * left.factor * scale,
            low=least.clip(_INT32.min, _INT32.max),
            high=greatest.clip(_INT32.min, _INT32.max),
            shape=shape,
            window=window,
            groups=groups,
        )
        return Chain(product, shape)

    def _flattened(
        self, chain: Chain, weights: NDArray[np.int64], where: str
    ) -> tuple[str, NDArray[np.int64]]:
        """Tensor that a matrix product reads, and its weights, N × K, in the order of that tensor."""
        views = self._views(chain)
        if views:
            base = self._unviewed(chain, where, exact=True)
            row = self._as_row(base, chain.shape, weights.shape[1])
            if row is not None:
                return row[0], weights[:, row[1]]
        tensor = self._materialised(chain, where)
        return self._with_channels(tensor, len(self._drafts[tensor].shape) - 1, tensor), weights

    # Maxima and means

    def _map(self, node: onnx.NodeProto, where: str) -> Chain:
        value = self._value(node, 0, where)
        if not isinstance(value, Chain):
            raise NetworkError(where, "takes constants", FOLD)
        if len(value.shape) not in (3, 4):
            raise NetworkError(
                where, f"its input {value.shape} is no map of one or two axes", "pool 1-D or 2-D maps"
            )
        return value

    def _max_pool(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._map(node, where)
        return self._pooled(node, value, pool_window(node, value.shape[2:], where), where)

    def _global_max_pool(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._map(node, where)
        return self._pooled(node, value, Window.whole(value.shape[2:]), where)

    def _pooled(self, node: onnx.NodeProto, value: Chain, window: Window, where: str) -> Chain:
        shape = (*value.shape[:2], *window.size)
        if not value.exact:
            if not isinstance(value.base, Product) or value.base.shape != value.shape or value.pooling:
                raise NetworkError(where, "its input is not quantised", QUANTISE)
            pooling = Pooling(node_name(node), where, window, shape, len(value.steps))
            return replace(value, shape=shape, stage=None, pooling=pooling)
        if value.factor < 0:
            raise NetworkError(where, "takes the greatest of negated codes", "negate behind the pooling")
        source = self._with_channels(self._materialised(value, where), 1, node_name(node))
        target = self._codes_name(node, value)
        self._declare(target, self._like(source, shape), source)
        self._append(max_pool(node_name(node), source, target, window))
        return self._on_grid(node, target, shape, value.factor, where)

    def _average_pool(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._map(node, where)
        window = pool_window(node, value.shape[2:], where)
        counted = bool(attribute(node, "count_include_pad", 0, where))
        if counted and window.overhang:
            raise NetworkError(
                where, "counts padding in windows that reach beyond it (ceil_mode)", "set ceil_mode to 0"
            )
        return self._average(node, value, window, counted, where)

    def _global_average_pool(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._map(node, where)
        return self._average(node, value, Window.whole(value.shape[2:]), False, where)

    def _reduce_mean(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._map(node, where)
        rank = len(value.shape)
        axes = self._axes(node, rank, where)
        if axes is None or set(axes) != set(range(2, rank)):
            raise NetworkError(
                where,
                f"takes the mean of {value.shape} over axes {None if axes is None else list(axes)}",
                "only means over height and width are supported",
            )
        result = self._average(node, value, Window.whole(value.shape[2:]), False, where)
        return result if attribute(node, "keepdims", 1, where) else replace(result, shape=value.shape[:2])

    def _average(
        self, node: onnx.NodeProto, value: Chain, window: Window, counted: bool, where: str
    ) -> Chain:
        source = self._with_channels(self._materialised(value, where), 1, node_name(node))
        if isinstance(self._drafts[source].format, Bipolar) and counted and any(sum(window.padding, ())):
            raise NetworkError(where, "pads a bipolar tensor, which has no zero", "do not count padding")
        shape = (*value.shape[:2], *window.size)
        mean = Mean(node_name(node), where, node.output[0], source, shape, window, counted, value.factor)
        return Chain(mean, shape)

    # What moves codes

    def _joined(self, node: onnx.NodeProto, values: Sequence[Value], where: str) -> Chain:
        """Quantised tensors behind each other."""
        chains = [value for value in values if isinstance(value, Chain)]
        if len(chains) < len(values):
            raise NetworkError(where, "joins computed tensors with constants", "leave the constants out")
        shapes = [chain.shape for chain in chains]
        rank = len(shapes[0])
        axis = attribute(node, "axis", 0, where)
        if not -rank <= axis < rank:
            raise NetworkError(where, f"axis {axis} does not exist in shape {shapes[0]}", EXPORT)
        axis %= rank
        if len({(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in shapes}) > 1:
            raise NetworkError(where, f"shapes {shapes} do not agree beside axis {axis}", EXPORT)
        sources = [self._materialised(chain, where) for chain in chains]
        roots = [self._root(source) for source in sources]
        scales = {
            (root.scale, root.zero_point, chain.factor) for root, chain in zip(roots, chains, strict=True)
        }
        formats = {root.format for root in roots}
        whole = [format for format in formats if isinstance(format, Int)]
        if len(scales) > 1 or (len(formats) > 1 and len(whole) < len(formats)):
            raise NetworkError(
                where, "joins tensors of different scales", "quantise them with one scale before it"
            )
        name, target = node_name(node), self._codes_name(node, chains[0])
        if len(formats) > 1:
            low, high = min(format.min for format in whole), max(format.max for format in whole)
            common = activation_format(low, high, "")
            if common is None:
                raise NetworkError(where, f"joins codes {low}..{high}, more than 8 bits", "use one type")
            sources = [self._widened(source, common, name) for source in sources]
        sources = self._side_by_side(sources, name)
        shape = (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])
        self._declare(target, self._like(sources[0], shape), *sources, axes=tuple(range(rank)))
        self._append(Concatenate(name=name, inputs=tuple(sources), output=target, axis=axis))
        return self._on_grid(node, target, shape, chains[0].factor, where)

    def _widened(self, source: str, format: Int, name: str) -> str:
        """The same codes in a format that holds more of them."""
        draft = self._like(source, self._drafts[source].shape)
        if draft.format == format:
            return source
        assert isinstance(draft.format, Int)
        target = self._fresh(f"{source}_widened")
        table = np.arange(draft.format.min, draft.format.max + 1)
        self._declare(target, replace(draft, format=format), source)
        self._append(Lookup(name=f"{name}_input", input=source, output=target, table=table))
        return target

    def _pad(self, node: onnx.NodeProto, where: str) -> Value:
        value = self._value(node, 0, where)
        if not isinstance(value, Chain):
            raise NetworkError(where, "takes constants", FOLD)
        around, element = self._padding(node, len(value.shape), where)
        if element:
            raise NetworkError(where, f"pads with {element:g}", "pad with 0")
        source = self._materialised(value, where)
        if isinstance(self._drafts[source].format, Bipolar):
            raise NetworkError(
                where, "pads a bipolar tensor, which has no zero", "pad before it is quantised"
            )
        target = self._codes_name(node, value)
        shape = tuple(size + sum(pad) for size, pad in zip(value.shape, around, strict=True))
        self._declare(target, self._like(source, shape), source)
        zero = self._root(source).zero_point
        self._append(Pad(name=node_name(node), input=source, output=target, padding=around, value=zero))
        return self._on_grid(node, target, shape, value.factor, where)

    def _turned(self, node: onnx.NodeProto, value: Chain, order: tuple[int, ...], where: str) -> Chain:
        """What is computed, its axes in another order."""
        shape = tuple(value.shape[axis] for axis in order)
        base = value.base
        alike = value.stage is None and base.shape == value.shape and not any(s.shape for s in value.steps)
        if isinstance(base, Input) and alike:
            axes = tuple(base.axes[axis] for axis in order) if base.axes else order
            return replace(value, base=Input(shape, axes), shape=shape)
        source = self._materialised(value, where)
        target = self._codes_name(node, value)
        self._declare(target, self._like(source, shape), source, axes=order)
        self._append(Transpose(name=node_name(node), input=source, output=target, axes=order))
        return self._on_grid(node, target, shape, value.factor, where)
