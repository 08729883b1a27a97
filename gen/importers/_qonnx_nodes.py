"""From the values of a QONNX network to nodes of the integer graph."""

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitwright.hw.formats import Bipolar, Int
from bitwright.sim.graph import (
    AveragePool,
    Binary,
    Elementwise,
    Lookup,
    MaxPool,
    NetworkError,
    Transpose,
    average_tables,
    printable,
)

from . import _runtime as runtime
from ._onnx import EXPORT, Constant, Draft, Walker, Window, node_name
from ._qonnx import (
    FOLD,
    MAX_ELEMENTS,
    MAX_THRESHOLD_CODES,
    Base,
    Chain,
    Grid,
    Input,
    Integers,
    Mean,
    Product,
    Stage,
    Value,
    View,
    broadcasts,
    host,
    layer,
    run_steps,
    step_of,
    table_of,
    table_of_means,
    with_multiplier,
    with_thresholds,
)

__all__ = ["QUANTISE", "Lowering", "max_pool"]

QUANTISE = "put a Quant, BipolarQuant or MultiThreshold there (Brevitas, QKeras or hls4ml export them)"
"""What to do about floats."""


class Lowering(Walker[Value]):
    """Makes nodes of chains. The operators are for its subclasses to add."""

    def __init__(self, graph: onnx.GraphProto, name: str, where: str):
        super().__init__(graph, name, where)
        self._emitted: dict[str, str] = {}
        """The graph's tensor for a quantised tensor of the file."""
        self._readers = Counter(name for node in self._live() for name in node.input)
        """How many nodes that the output depends on read a tensor."""

    @abstractmethod
    def _operators(self) -> dict[str, Callable[[onnx.NodeProto, str], Value]]: ...

    # Constants

    def _of_constant(self, constant: Constant) -> Value:
        return constant

    def _numbers(self, value: Value, what: str, where: str) -> NDArray[Any]:
        match value:
            case Constant(array=array):
                return array
            case Integers():
                return value.real
        raise NetworkError(where, f"{what} is not constant", FOLD)

    def _floats(self, node: onnx.NodeProto, index: int, what: str, where: str) -> NDArray[np.float32]:
        """An input that must be constant and finite."""
        array = self._numbers(self._value(node, index, where), what, where)
        if array.dtype != np.float32 or not array.size or not np.isfinite(array).all():
            raise NetworkError(where, f"{what} is not made of finite FLOAT numbers", EXPORT)
        return np.asarray(array, dtype=np.float32)

    # Tensors of the graph

    def _codes_name(self, node: onnx.NodeProto, value: Chain) -> str:
        """What to call codes that are moved: by the file's name, if they stand for its numbers."""
        output = node.output[0]
        # That name may belong to other numbers.
        return self._fresh(f"{output}_codes") if output == self._output or value.factor != 1 else output

    def _like(self, source: str, shape: tuple[int, ...]) -> Draft:
        root = self._root(source)
        return Draft(shape, root.format, root.scale, root.zero_point)

    def _on_grid(
        self, node: onnx.NodeProto, tensor: str, shape: tuple[int, ...], factor: float, where: str
    ) -> Chain:
        """A chain that begins at a tensor of the graph."""
        values = self._values_of(tensor)
        grid = Grid(node_name(node), where, node.output[0], (tensor,), shape, values, plain=True)
        chain = Chain(grid, shape, exact=True)
        return chain if factor == 1 else replace(chain, steps=(step_of("multiply", factor),), factor=factor)

    def _values_of(self, tensor: str) -> NDArray[np.float32]:
        """What each code of a tensor stands for, as the executor computes it."""
        root = self._root(tensor)
        assert root.format is not None
        assert root.scale is not None
        bipolar = isinstance(root.format, Bipolar)
        codes = np.array([-1, 1]) if bipolar else np.arange(root.format.min, root.format.max + 1)
        return (codes - root.zero_point).astype(np.float32) * np.float32(root.scale)

    def _mean_of(self, mean: Mean, sums: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        root = self._root(mean.tensor)
        assert root.scale is not None
        real = runtime.mean(sums, count, root.scale, root.zero_point)
        return real if mean.factor == 1 else real * np.float32(mean.factor)

    def _split(self, chain: Chain, where: str) -> tuple[str, tuple[Elementwise, ...]]:
        """The tensor of what a chain quantised last, and the steps after that."""
        source = self._materialised(chain, where, exact=False)
        return source, chain.steps[len(chain.stage.steps) if chain.stage else 0 :]

    def _as_grid(self, chain: Chain, where: str) -> Chain:
        """The same, as a function of the codes of a tensor, or of two."""
        if isinstance(chain.base, Grid) and chain.stage is None and not chain.base.plain:
            tensors, values, steps = chain.base.tensors, chain.base.values, chain.steps
        else:
            tensor, steps = self._split(chain, where)
            tensors, values = (tensor,), self._values_of(tensor)
        if _per_channel(steps):
            raise NetworkError(
                where,
                "takes what differs from channel to channel after its last quantiser",
                "quantise it again before this",
            )
        done = np.asarray(run_steps(steps, values).reshape(values.shape), dtype=np.float32)
        base = chain.base
        name = base.output if isinstance(base, Product | Grid | Mean) else self._input
        grid = Grid(name, where, name, tensors, chain.shape, done, plain=not steps)
        return Chain(grid, chain.shape, exact=not steps)

    # From chains to nodes

    def _materialised(self, chain: Chain, where: str, *, exact: bool = True) -> str:
        """The graph's tensor of a chain's last quantiser; its nodes are made if they are not there.

        Unless `exact`, arithmetic may follow, which is the caller's.
        """
        tensor = self._unviewed(chain, where, exact=exact)
        for view in self._views(chain):
            if view.output not in self._emitted:
                target = view.output
                if target == self._output or view.scaled:
                    # That name belongs to other numbers.
                    target = self._fresh(f"{target}_codes")
                self._relabel(view.name, tensor, target, view.shape)
                self._emitted[view.output] = target
            tensor = self._emitted[view.output]
        return tensor

    def _unviewed(self, chain: Chain, where: str, *, exact: bool) -> str:
        """The tensor before it was reshaped."""
        stage, base = chain.stage, chain.base
        on_grid = isinstance(base, Grid) and base.plain
        if stage is None and not on_grid:
            raise NetworkError(where, "its input is not quantised", QUANTISE)
        if exact and not chain.exact:
            raise NetworkError(
                where, "its input is not quantised: arithmetic follows the last quantiser", QUANTISE
            )
        if stage is None:
            assert isinstance(base, Grid)
            return base.tensors[0]
        key = f"{stage.output} unviewed"
        if key not in self._emitted:
            self._emitted[key] = self._emit(base, stage)
        return self._emitted[key]

    @staticmethod
    def _views(chain: Chain) -> tuple[View, ...]:
        """Shapes that what was quantised takes on, the first of them before it was quantised."""
        stage = chain.stage
        if stage is None or stage.shape == (stage.pooling or chain.base).shape:
            return chain.views
        return (View(f"{stage.name}_reshape", stage.output, stage.shape, scaled=False), *chain.views)

    def _emit(self, base: Base, stage: Stage) -> str:
        """Make the node of a quantiser; the name of its tensor, which has the shape of its base."""
        pooling = stage.pooling
        shape = (pooling or base).shape
        target = stage.output
        if stage.shape != shape:
            target = self._fresh(f"{self._input if isinstance(base, Input) else base.output}_quantized")
        elif stage.output == self._output:
            target = self._fresh(f"{stage.output}_codes")
        if pooling is not None:
            pooled, target = target, self._fresh(f"{target}_before_pooling")
        draft = Draft(base.shape, stage.format, stage.scale, stage.zero_point)
        few = stage.codes <= MAX_THRESHOLD_CODES or any(step.operation == "count" for step in stage.encode)
        if pooling is None and stage.shape == base.shape and self._is_table(base, stage, few):
            assert stage.earlier is not None
            grid = self._as_grid(stage.earlier, stage.where).base
            assert isinstance(grid, Grid)
            self._emit_table(grid, replace(stage, before=()), target, draft)
            return target
        match base:
            case Input():
                self._emit_input(base, stage, target, draft)
            case Grid():
                self._emit_table(base, stage, target, draft)
            case Mean():
                self._emit_mean(base, stage, target, draft)
            case Product():
                self._declare(target, draft, channel_axis=base.channel_axis)
                self._append((with_thresholds if few else with_multiplier)(base, stage, target))
        if pooling is not None:
            self._declare(pooled, self._like(target, pooling.shape), target)
            self._append(max_pool(pooling.name, target, pooled, pooling.window))
            return pooled
        return target

    def _is_table(self, base: Base, stage: Stage, few: bool) -> bool:
        """Whether a quantiser is made from the codes of the one before it, and not in one go with that."""
        earlier = stage.earlier
        if earlier is None or earlier.stage is None:
            return False
        if _per_channel(earlier.steps[len(earlier.stage.steps) :]):
            return False
        name = earlier.stage.output
        if self._readers[name] > 1 or f"{name} unviewed" in self._emitted:
            # Those codes are there anyway.
            return True
        first = stage
        while first.clamps and first.earlier is not None and first.earlier.stage is not None:
            first = first.earlier.stage
        # More codes than thresholds can make.
        return isinstance(base, Product) and not few and first.earlier is not None

    def _emit_input(self, base: Input, stage: Stage, target: str, draft: Draft) -> None:
        if not base.axes:
            self._declare(target, draft, self._input)
            self._append(host(stage, self._input, target))
            return
        # Quantised as it comes, and turned then.
        given = self._drafts[self._input].shape
        quantised = self._fresh(f"{self._input}_quantized")
        self._declare(quantised, replace(draft, shape=given), self._input)
        back = tuple(int(axis) for axis in np.argsort(base.axes))
        turned = replace(
            stage, before=_turned(stage.before, back), encode=_turned(stage.encode, back), shape=given
        )
        self._append(host(turned, self._input, quantised))
        self._declare(target, self._like(quantised, base.shape), quantised, axes=base.axes)
        self._append(
            Transpose(name=f"{stage.name}_transpose", input=quantised, output=target, axes=base.axes)
        )

    def _emit_table(self, base: Grid, stage: Stage, target: str, draft: Draft) -> None:
        table = table_of(stage, base.values)
        tensors = list(base.tensors)
        if len(tensors) == 1:
            root = self._root(tensors[0])
            same = (root.format, root.scale, root.zero_point) == (draft.format, draft.scale, draft.zero_point)
            if (
                same
                and isinstance(root.format, Int)
                and (table == np.arange(root.format.min, root.format.max + 1)).all()
            ):
                self._relabel(stage.name, tensors[0], target)
                return
            self._declare(target, draft, tensors[0])
            self._append(Lookup(name=stage.name, input=tensors[0], output=target, table=table))
            return
        first, second = self._side_by_side(tensors, stage.name)
        self._declare(target, draft, first, second)
        self._append(Binary(name=stage.name, inputs=(first, second), output=target, table=table))

    def _emit_mean(self, base: Mean, stage: Stage, target: str, draft: Draft) -> None:
        source = self._drafts[base.tensor]
        assert source.format is not None
        node = AveragePool(
            name=base.name,
            input=base.tensor,
            output=target,
            kernel=base.window.kernel,
            stride=base.window.stride,
            padding=base.window.padding,
            tables={},
            count_padding=base.count_padding,
        )
        if prod(node.kernel) * (source.format.max - source.format.min) >= MAX_ELEMENTS:
            raise NetworkError(base.where, f"averages windows of {node.kernel}", "pool in two steps")
        spatial = source.shape[2:]
        height, width = (1, *spatial) if len(spatial) == 1 else spatial
        ties = 0

        def codes(sums: NDArray[np.int64], count: int) -> NDArray[np.int64]:
            nonlocal ties
            root = self._root(base.tensor)
            assert root.scale is not None
            if runtime.exact_sums(root.scale):
                return table_of(stage, self._mean_of(base, sums, count))
            means = (sums - count * root.zero_point) * (root.scale / count) * base.factor
            error = runtime.sum_error(count)
            below, above = (table_of_means(stage, means * side) for side in (1 - error, 1 + error))
            ties += int((below != above).sum())
            return table_of_means(stage, means)

        tables = average_tables(node.counts(height, width), source.format, codes)
        if ties:
            warnings.warn(f"{printable(base.where)}: {ties} {runtime.TIES}", stacklevel=2)
        self._declare(target, draft, base.tensor)
        self._append(replace(node, tables=tables))

    def _emit_accumulators(self, product: Product) -> tuple[str, NDArray[np.float64]]:
        """A product that nothing quantises: its tensor, and what its real numbers are times the tensor's."""
        scale = product.scale
        uniform = bool((scale == scale[0]).all() and scale[0] > 0)
        target = product.output
        if target == self._output or not uniform:
            # That name belongs to other numbers.
            target = self._fresh(f"{target}_accumulators")
        draft = Draft(product.shape, Int(32), float(scale[0]) if uniform else 1.0)
        self._declare(target, draft, channel_axis=product.channel_axis)
        zero = np.zeros(len(scale), np.int64)
        self._append(layer(product, target, product.weights, zero, None))
        return target, np.ones(1) if uniform else scale

    # Constants beside what is computed

    def _open_to(self, chain: Chain, array: NDArray[Any], where: str) -> Chain:
        """The chain, or the same as a product, if a constant differs from channel to channel."""
        if isinstance(chain.base, Grid) and array.size > 1 and (array != array.flat[0]).any():
            return self._per_channel(chain, where)
        return chain

    def _per_channel(self, chain: Chain, where: str) -> Chain:
        """What no product made, as one: a depthwise convolution with weights of 1."""
        base = chain.base
        assert isinstance(base, Grid)
        if not base.plain or chain.stage is not None or len(base.shape) not in (3, 4):
            return chain
        tensor = self._with_channels(base.tensors[0], 1, base.name)
        root = self._root(tensor)
        assert root.format is not None
        assert root.scale is not None
        channels = base.shape[1]
        window = replace(Window.whole((1,) * (len(base.shape) - 2)), size=base.shape[2:])
        ends = [np.full(channels, code - root.zero_point) for code in (root.format.min, root.format.max)]
        product = Product(
            name=f"{base.name}_per_channel",
            where=where,
            output=f"{base.output}_per_channel",
            input=tensor,
            weights=np.ones((channels, 1, 1, 1), dtype=np.int64),
            weight_format=Int(2),
            scale=np.full(channels, root.scale),
            low=ends[0],
            high=ends[1],
            shape=base.shape,
            window=window,
            groups=channels,
        )
        return replace(chain, base=product, exact=False, factor=1.0, views=())

    def _aligned(self, chain: Chain, array: NDArray[Any], where: str) -> NDArray[Any]:
        """A constant shaped to broadcast against the chain's base: a scalar, or per channel of a product."""
        if not broadcasts(array.shape, chain.shape):
            raise NetworkError(
                where, f"a constant of shape {array.shape} does not match its input {chain.shape}", EXPORT
            )
        if array.size == 1:
            return array.reshape(())
        base = chain.base_shape
        if isinstance(chain.base, Grid | Mean):
            if (array != array.flat[0]).any():
                raise NetworkError(
                    where,
                    f"a constant of shape {array.shape} differs between the channels of what no product made",
                    "put it before the quantiser, behind the product",
                )
            return np.asarray(array.flat[0])
        matrix = isinstance(chain.base, Product) and chain.base.window is None
        if matrix and chain.shape[-1:] == base[-1:] == (array.size,) == array.shape[-1:]:
            return array.reshape(-1)
        if prod(chain.shape) > MAX_ELEMENTS:
            raise NetworkError(where, f"its input {chain.shape} is too large for such a constant", EXPORT)
        whole = np.broadcast_to(array, chain.shape).reshape(base)
        if isinstance(chain.base, Input):
            return np.asarray(whole)
        rows = np.moveaxis(whole, chain.base.channel_axis, -1).reshape(-1, len(chain.base.scale))
        if (rows != rows[0]).any():
            raise NetworkError(
                where,
                f"a constant of shape {array.shape} differs between the rows of a matrix product {base}",
                "only one number per output channel is supported",
            )
        return np.asarray(rows[0])


def max_pool(name: str, source: str, target: str, window: Window) -> MaxPool:
    return MaxPool(
        name=name,
        input=source,
        output=target,
        kernel=window.kernel,
        stride=window.stride,
        padding=window.padding,
    )


def _per_channel(steps: Sequence[Elementwise]) -> bool:
    """Whether steps differ from channel to channel."""
    return any(step.constant is not None and prod(step.shape) > 1 for step in steps)


def _turned(steps: Sequence[Elementwise], axes: tuple[int, ...]) -> tuple[Elementwise, ...]:
    """Steps for a tensor whose axes are in another order."""
    turned = []
    for step in steps:
        if step.constant is not None and step.shape:
            extra = step.constant.shape[len(step.shape) :]
            constant = step.constant.reshape((1,) * (len(axes) - len(step.shape)) + step.shape + extra)
            order = (*axes, *range(len(axes), len(axes) + len(extra)))
            step = replace(step, constant=constant.transpose(order))
        turned.append(step)
    return tuple(turned)
