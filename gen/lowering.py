"""From a graph's nodes to what an engine does: convolutions, whose results may be combined.

Everything that an engine computes is one operation: a convolution of any number of groups. A matrix product
is one of a single tap; pooling and elementwise functions are convolutions with the identity, of one tap and
one channel each, whose results are combined before they are stored. So hardware and mapper know one thing
only. A max pool or a sum may also be part of the convolution in front of it (:mod:`.fusion`), whose results
are combined then.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.config import MAX_THRESHOLDS
from bitwright.hw.formats import Bipolar, Format, Int
from bitwright.hw.quant.arithmetic import MAX_LEFT_SHIFT, MIN_SHIFT, Rounding, requantise
from bitwright.hw.quant.combine import FRACTION
from bitwright.hw.sched.isa import Combine
from bitwright.sim.graph import (
    AveragePool,
    Binary,
    Concatenate,
    Convolution,
    FullyConnected,
    Graph,
    Lookup,
    MaxPool,
    NetworkError,
    Pad,
    Padding,
    Requantise,
    Select,
    TensorInfo,
    Thresholds,
    Upsample,
)

from .places import View

__all__ = ["Operation", "lower"]

_Moving = MaxPool | Pad | Concatenate | Select | Upsample
"""Nodes that are the identity, elsewhere."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """A convolution as an engine does it.

    Parameters
    ----------
    name
        The graph node's.
    source, output
        Places of its input and its output.
    map
        Height and width of the source; the pixels of a matrix product are one line.
    weights
        N × kernel height × kernel width × C/groups.
    weight_format
        What the weights are declared to be.
    bias, quantiser
        As of :class:`~bitwright.sim.graph.Convolution`.
    stride, dilation, padding, groups
        The same.
    zero_point
        Of the source.
    pad_value
        The code that padding holds.
    result_zero_point
        Of the output.
    bipolar
        Whether the output's codes are -1 and +1.
    macs
        Multiply-accumulate operations of the network's own node.
    combine, window, window_step
        What is made of the results of several patches: the greatest of a window of so many along height and
        width, so many positions apart, or the sum of what `tables` have for them.
    second
        Of a sum of two tensors, the place of the other one; `source` and it are the window.
    first_channel
        Of the output's channels the first that it makes, where others make the rest of them.
    first_pixel, pixel_step
        Of the output's pixels, along height and width, the first that it makes and how far the next one is,
        where others make the rest of them.
    starts, source_channels
        Of a convolution whose output channels see inputs in no groups, the first input channel that each of
        them sees, and how many the source has.
    tables, half_even, bounds, formats
        Of a sum: of each code of each source, in the order of its format's values, what it adds, with
        :data:`~bitwright.hw.quant.combine.FRACTION` bits behind the point; how the sum is rounded; the least
        and the greatest code of the output; the formats of the sources' codes.
    pool
        Of a convolution whose results are pooled before they are stored, the name of the pool.
    tail
        Of a convolution to whose results those of another tensor are added before they are stored, the
        identity of that tensor; `tables` and `formats` have the convolution's results first.
    zeros_behind
        Whether what fills up the last words of the source, and of the second one, is 0 as it is stored: the
        host writes it so, others may leave anything there.
    """

    name: str
    source: str
    output: str
    map: tuple[int, int]
    weights: NDArray[np.int64]
    weight_format: Format
    bias: NDArray[np.int64]
    quantiser: Requantise | Thresholds | None
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    groups: int = 1
    zero_point: int
    pad_value: int
    result_zero_point: int
    bipolar: bool
    macs: int
    first_channel: int | None = None
    first_pixel: tuple[int, int] = (0, 0)
    pixel_step: tuple[int, int] = (1, 1)
    starts: NDArray[np.int64] | None = None
    source_channels: int | None = None
    second: str | None = None
    window: tuple[int, int] = (1, 1)
    window_step: tuple[int, int] = (1, 1)
    combine: Combine = Combine.NONE
    tables: NDArray[np.int64] | None = None
    half_even: bool = False
    bounds: tuple[int, int] | None = None
    formats: tuple[Int, ...] = ()
    pool: str | None = None
    tail: "Operation | None" = None
    zeros_behind: bool = False

    @property
    def channels(self) -> int:
        """N: output channels."""
        return int(self.weights.shape[0])

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return int(self.weights.shape[1]), int(self.weights.shape[2])

    @property
    def input_channels(self) -> int:
        """C: channels of the source."""
        if self.source_channels is not None:
            return self.source_channels
        return int(self.weights.shape[3]) * self.groups

    @property
    def dense(self) -> bool:
        """Whether every output channel sees all of the source's."""
        return self.groups == 1 and self.starts is None

    @property
    def depthwise(self) -> bool:
        """Whether every output channel sees the source's channel of its number."""
        return self.channels == self.groups == self.input_channels and self.starts is None

    @property
    def first_seen(self) -> NDArray[np.int64]:
        """Of each output channel the first channel of the source that it sees."""
        if self.starts is not None:
            return self.starts
        groups: NDArray[np.int64] = np.arange(self.channels) // (self.channels // self.groups)
        return groups * int(self.weights.shape[3])

    @property
    def pads(self) -> bool:
        """Whether a window reaches outside of the source."""
        return any(side > 0 for sides in self.padding for side in sides)

    @property
    def pointwise(self) -> bool:
        """Whether each pixel sees that of its number only, as in a matrix product."""
        return self.kernel == self.stride == (1, 1) and not any(map(any, self.padding))

    @property
    def reduction(self) -> int:
        """K: length of the dot product."""
        return prod(self.weights.shape[1:])

    @property
    def result_map(self) -> tuple[int, int]:
        """Height and width of the output."""
        height, width = (
            (size + sum(pad) - reach - 1) // stride + 1
            for size, pad, reach, stride in zip(self.map, self.padding, self.reach, self.stride, strict=True)
        )
        return height, width

    @property
    def reach(self) -> tuple[int, int]:
        """Positions from the first that a pixel sees to the last, along height and width."""
        window = (1, 1) if self.second else self.window
        height, width = (
            dilation * (kernel - 1) + step * (patches - 1)
            for dilation, kernel, step, patches in zip(
                self.dilation, self.kernel, self.window_step, window, strict=True
            )
        )
        return height, width

    @property
    def operands(self) -> tuple[str, ...]:
        """The places that it reads, but for that of its tail."""
        return (self.source,) if self.second is None else (self.source, self.second)

    @property
    def readers(self) -> tuple["Operation", ...]:
        """Itself and its tail: each reads its operands in its own way."""
        return (self,) if self.tail is None else (self, self.tail)

    @property
    def sources(self) -> tuple[str, ...]:
        """All the places that it reads."""
        return tuple(source for reader in self.readers for source in reader.operands)

    def part(self, channels: slice, name: str) -> "Operation":
        """Some output channels of an operation of one group."""
        quantiser = self.quantiser
        if isinstance(quantiser, Requantise):
            quantiser = replace(
                quantiser, multiplier=quantiser.multiplier[channels], shift=quantiser.shift[channels]
            )
        elif isinstance(quantiser, Thresholds):
            quantiser = replace(
                quantiser, levels=quantiser.levels[channels], descending=quantiser.descending[channels]
            )
        return replace(
            self,
            name=name,
            weights=self.weights[channels],
            bias=self.bias[channels],
            quantiser=quantiser,
        )


def lower(
    graph: Graph,
    views: Mapping[str, View],
    fused: Mapping[str, MaxPool] = MappingProxyType({}),
    *,
    requantises: bool = True,
) -> list[Operation]:
    """What the engine does, in execution order.

    Parameters
    ----------
    graph
        The network.
    views
        How its tensors look at the places where they lie.
    fused
        Max pools that are computed with the convolution in front of them, by that convolution's name.
    requantises
        Whether the engine requantises; an identity counts thresholds where it does not, or cannot.

    Raises
    ------
    NetworkError
        A node is none that an engine runs; it is named.
    """
    found = []
    absorbed = {pool.name for pool in fused.values()}
    for node in graph.nodes:
        match node:
            case FullyConnected() | Convolution():
                operation = _product(graph, node, views)
                if pool := fused.get(node.name):
                    operation = _pooled(operation, pool)
                found.append(operation)
            case AveragePool():
                found += _average(graph, node, views)
            case MaxPool() if node.name not in absorbed:
                found.append(
                    replace(
                        _identity(graph, node, node.input, views, requantises),
                        padding=node.padding,
                        stride=node.stride,
                        window=node.kernel,
                        combine=Combine.MAXIMUM,
                    )
                )
            case Pad():
                found.append(_padded(graph, node, views, requantises))
            case Concatenate():
                found += _joined(graph, node, views, requantises)
            case Select():
                _, _, _, channels = graph.tensors[node.input].canonical
                identity = _identity(graph, node, node.input, views, requantises)
                found.append(_selected(identity, np.array(node.channels), channels))
            case Upsample():
                found += _upsampled(graph, node, views, requantises)
            case Binary():
                first, second = (graph.tensors[name] for name in node.inputs)
                if (views[first.name].place, views[first.name].axes) != (
                    views[second.name].place,
                    views[second.name].axes,
                ):
                    raise NetworkError(
                        f"node '{node.name}'", "reads tensors whose axes differ in their order"
                    )
                tables, half_even = separated(node.table, f"node '{node.name}'")
                found.append(
                    replace(
                        _identity(graph, node, first.name, views),
                        second=second.name,
                        formats=(_integers(first, node), _integers(second, node)),
                        window=(1, 2),
                        combine=Combine.SUM,
                        tables=tables,
                        half_even=half_even,
                        bounds=(int(node.table.min()), int(node.table.max())),
                    )
                )
            case Lookup():
                found.append(
                    replace(
                        _identity(graph, node, node.input, views),
                        combine=Combine.SUM,
                        tables=np.stack([node.table << FRACTION, np.zeros_like(node.table)]),
                        formats=(_integers(graph.tensors[node.input], node),),
                        bounds=(int(node.table.min()), int(node.table.max())),
                    )
                )
    written = {views[operation.output].leader for operation in found}
    # Of two sources, both: the second is read as the first is.
    sources = [[each.source, *([each.second] if each.second else [])] for each in found]
    return [
        replace(each, zeros_behind=not any(views[name].leader in written for name in names))
        for each, names in zip(found, sources, strict=True)
    ]


def _pooled(operation: Operation, pool: MaxPool) -> Operation:
    """A convolution and the greatest of each window of its results.

    A pixel's patches are those of the results in its window: their distance is the convolution's stride.
    """
    (down, across), (stride_y, stride_x) = operation.stride, pool.stride
    return replace(
        operation,
        output=pool.output,
        stride=(down * stride_y, across * stride_x),
        window=pool.kernel,
        window_step=operation.stride,
        combine=Combine.MAXIMUM,
        pool=pool.name,
    )


def _identity(
    graph: Graph,
    node: _Moving | Binary | Lookup,
    source: str,
    views: Mapping[str, View],
    requantises: bool = True,
) -> Operation:
    """Every channel as it is: a convolution of one tap, of as many groups as there are channels.

    Sums look codes up as they are stored, which only requantisation leaves as they are.
    """
    tensor, result = graph.tensors[source], graph.tensors[node.output]
    sums = isinstance(node, Binary | Lookup)
    alone = (
        sums
        or isinstance(node, Select)
        or (isinstance(node, Concatenate) and node.axis == result.channels_at)
    )
    format = tensor.format
    if sums or not isinstance(format, Bipolar):
        format = _integers(tensor, node)
    batch, height, width, channels = tensor.canonical
    where = f"node '{node.name}'"
    if not sums and tensor.canonical != views[source].place:
        raise NetworkError(where, f"reads '{source}', whose axes are not those it was made with")
    if batch > 1 and alone:
        # Pixel by pixel, all of them are one line.
        batch, height, width = 1, 1, batch * height * width
    if batch > 1:
        raise NetworkError(where, f"reads a batch of {batch} maps", "the engine takes one at a time")
    quantiser: Requantise | Thresholds
    if isinstance(format, Int) and (sums or requantises or len(format.values) - 1 > MAX_THRESHOLDS):
        quantiser = Requantise(
            multiplier=np.full(channels, 1 << 30),
            shift=np.ones(channels, np.int64),
            rounding="tflite",
            low=format.min,
            high=format.max,
        )
    else:
        # As many levels are reached as there are lower values.
        levels = np.array(format.values)[1:] - tensor.zero_point
        quantiser = Thresholds(
            levels=np.tile(levels, (channels, 1)), descending=np.zeros(channels, np.bool_), low=format.min
        )
    return Operation(
        name=node.name,
        source=source,
        output=node.output,
        map=(height, width),
        weights=np.ones((channels, 1, 1, 1), np.int64),
        weight_format=Int(2),
        bias=np.zeros(channels, np.int64),
        quantiser=quantiser,
        groups=channels,
        zero_point=tensor.zero_point,
        pad_value=format.min,
        # What is combined are codes of the source.
        result_zero_point=tensor.zero_point,
        bipolar=isinstance(result.format, Bipolar),
        macs=0,
    )


def _selected(operation: Operation, channels: NDArray[np.int64], source_channels: int) -> Operation:
    """Of an identity those channels, in that order; where a number is negative, of none of them."""
    count = len(channels)
    there = channels >= 0
    # What sees nothing may look anywhere; what is near costs no further words.
    nearest = np.maximum.accumulate(np.where(there, np.arange(count), -1))
    nearest = np.where(nearest < 0, int(there.argmax()), nearest)
    quantiser = operation.quantiser
    if isinstance(quantiser, Requantise):
        quantiser = replace(
            quantiser,
            multiplier=quantiser.multiplier[:1].repeat(count),
            shift=quantiser.shift[:1].repeat(count),
        )
    elif isinstance(quantiser, Thresholds):
        quantiser = replace(
            quantiser,
            levels=quantiser.levels[:1].repeat(count, axis=0),
            descending=quantiser.descending[:1].repeat(count),
        )
    return replace(
        operation,
        weights=there.astype(np.int64)[:, None, None, None],
        bias=np.zeros(count, np.int64),
        quantiser=quantiser,
        groups=1,
        starts=channels[nearest],
        source_channels=source_channels,
    )


def _canonical_axis(tensor: TensorInfo, axis: int) -> int:
    """Which axis of the canonical shape an axis of a tensor is."""
    if axis == tensor.channels_at:
        return 3
    # Of the others the last two are height and width; the first is the batch.
    others = [each for each in range(len(tensor.shape)) if each != tensor.channels_at]
    behind = len(others) - others.index(axis)
    return 3 - behind if behind <= 2 and others[0] != axis else 0


def _padded(graph: Graph, node: Pad, views: Mapping[str, View], requantises: bool) -> Operation:
    """The identity, of a larger map, or of a part of one; of other channels, too."""
    source, result = graph.tensors[node.input], graph.tensors[node.output]
    where = f"node '{node.name}'"
    around = [(0, 0)] * 4
    for axis, sides in enumerate(node.padding):
        if any(sides):
            around[_canonical_axis(source, axis)] = sides
    if any(around[0]):
        raise NetworkError(where, "pads the batch", "the engine pads height, width and channels")
    operation = _identity(graph, node, node.input, views, requantises)
    operation = replace(operation, padding=(around[1], around[2]), pad_value=node.value)
    if not any(around[3]):
        return operation
    if operation.pads and node.value != source.zero_point:
        # What is beside the map is that code, what is beside the channels the zero point and a bias.
        raise NetworkError(
            where,
            f"pads both the map and its channels with {node.value}, which is not 0",
            "pad them one after the other",
        )
    count = result.canonical[3]
    inside = np.arange(count) - around[3][0]
    inside[(inside < 0) | (inside >= source.canonical[3])] = -1
    operation = _selected(operation, inside, source.canonical[3])
    return replace(operation, bias=np.where(inside < 0, node.value - source.zero_point, 0))


def _joined(graph: Graph, node: Concatenate, views: Mapping[str, View], requantises: bool) -> list[Operation]:
    """Of each input the identity, to channels, lines or pixels of its own."""
    result = graph.tensors[node.output]
    axis = _canonical_axis(result, node.axis)
    if axis == 0:
        raise NetworkError(
            f"node '{node.name}'",
            f"joins along axis {node.axis}, the batch",
            "the engine joins channels, height or width",
        )
    found: list[Operation] = []
    starts = node.starts(graph.tensors[name].shape[node.axis] for name in node.inputs)
    for number, (name, start) in enumerate(zip(node.inputs, starts, strict=False)):
        operation = replace(_identity(graph, node, name, views, requantises), name=f"{node.name}[{number}]")
        if axis == 3:
            found.append(replace(operation, first_channel=start))
        else:
            found.append(replace(operation, first_pixel=(start, 0) if axis == 1 else (0, start)))
    return found


def _upsampled(graph: Graph, node: Upsample, views: Mapping[str, View], requantises: bool) -> list[Operation]:
    """The identity as often as there are copies, each to every so manyth pixel."""
    operation = _identity(graph, node, node.input, views, requantises)
    copies = list(np.ndindex(*node.factors))
    return [
        replace(
            operation,
            name=f"{node.name}[{number}]" if len(copies) > 1 else node.name,
            first_pixel=(int(line), int(pixel)),
            pixel_step=node.factors,
        )
        for number, (line, pixel) in enumerate(copies)
    ]


def _integers(tensor: TensorInfo, node: _Moving | Binary | Lookup) -> Int:
    format = tensor.format
    if not isinstance(format, Int) or format.bits > 8:
        raise NetworkError(
            f"node '{node.name}'", f"reads {format}", "the engine combines integers of at most 8 bits"
        )
    return format


# Sums


def separated(table: NDArray[np.int64], where: str) -> tuple[NDArray[np.int64], bool]:
    """Two tables whose sums, rounded and clipped, are the codes of a table of both; and how they are rounded.

    ``clip(round((tables[0, i] + tables[1, j]) / 2**FRACTION), table.min(), table.max()) == table[i, j]`` for
    all i and j. Each code bounds a sum of one entry of each from below and from above: a system of difference
    constraints, whose solution is a set of shortest paths (Bellman and Ford), found here for all rows and all
    columns at a time.

    Returns
    -------
    2 × entries integers, and whether halves are rounded to even and not up.

    Raises
    ------
    NetworkError
        There are none: the operation is not of that kind.
    """
    one, half = 1 << FRACTION, 1 << FRACTION - 1
    low, high = int(table.min()), int(table.max())
    far = np.int64(1 << 40)
    for half_even in (False, True):
        # To even: an even code has both of its halves, an odd one none.
        odd = (table & 1).astype(bool)
        least = table * one - half + (odd if half_even else 0)
        greatest = table * one + half - (odd if half_even else 1)
        least = np.where(table == low, -far, least)
        greatest = np.where(table == high, far, greatest)
        rows = np.zeros(table.shape[0], np.int64)
        columns = np.zeros(table.shape[1], np.int64)  # less than nothing: rows - columns
        for _ in range(sum(table.shape)):
            next_rows = np.minimum(rows, (columns[None, :] + greatest).min(axis=1))
            next_columns = np.minimum(columns, (next_rows[:, None] - least).min(axis=0))
            if (next_rows == rows).all() and (next_columns == columns).all():
                break
            rows, columns = next_rows, next_columns
        # Only differences count: bring both near zero.
        shift = (rows.max() + rows.min()) // 2
        found = [rows - shift, -(columns - shift)]
        sums = found[0][:, None] + found[1][None, :]
        reach = np.iinfo(np.int32)
        if (
            ((sums >= least) & (sums <= greatest)).all()
            and min(map(np.min, found)) >= reach.min
            and max(map(np.max, found)) <= reach.max
        ):
            both = np.zeros((2, max(table.shape)), np.int64)
            both[0, : len(found[0])], both[1, : len(found[1])] = found
            return both, half_even
    raise NetworkError(
        where,
        "its results are no rounded sum of something of each operand",
        "the engine adds and subtracts two tensors, each scaled; it multiplies none",
    )


def _product(graph: Graph, node: FullyConnected | Convolution, views: Mapping[str, View]) -> Operation:
    where = f"node '{node.name}'"
    source, result = graph.tensors[node.input], graph.tensors[node.output]
    view = views[node.input]
    rows = source.size // source.shape[source.channels_at]
    geometry: dict[str, Any] = {}
    weights = node.weights
    if isinstance(node, Convolution):
        batch, height, width, _ = source.canonical
        if batch > 1:
            raise NetworkError(where, f"convolves a batch of {batch} maps", "the engine takes one at a time")
        if source.canonical != view.place:
            raise NetworkError(where, f"reads '{node.input}', whose axes are not those it was made with")
        map_ = height, width
        geometry = {
            "stride": node.stride,
            "dilation": node.dilation,
            "padding": node.padding,
            "groups": node.groups,
        }
        limits = (*node.kernel, *node.stride, *node.dilation)
        if max(limits) > 255:
            raise NetworkError(
                where, "has a kernel, stride or dilation above 255", "the engine counts so far"
            )
        macs = prod(result.shape) * node.reduction
    else:
        macs = node.macs(rows)
        _, height, width, channels = view.place
        if rows == 1 and height * width > 1 and height * width * channels == node.reduction:
            # A flattened map: the window of the convolution is the whole of it.
            weights = view.restore(weights)[:, 0]
            map_ = height, width
            if max(map_) > 255:
                raise NetworkError(
                    where,
                    f"reads a map of {height} x {width}, flattened",
                    "the engine takes at most 255 x 255",
                )
        else:
            map_ = 1, rows
            weights = weights[:, None, None, :]
    return Operation(
        name=node.name,
        source=node.input,
        output=node.output,
        map=map_,
        weights=weights,
        weight_format=node.weight_format,
        bias=node.bias,
        quantiser=node.quantiser,
        zero_point=source.zero_point,
        pad_value=source.zero_point,
        result_zero_point=result.zero_point,
        bipolar=isinstance(result.format, Bipolar),
        macs=macs,
        **geometry,
    )


# Averages


def _average(graph: Graph, node: AveragePool, views: Mapping[str, View]) -> list[Operation]:
    """Convolutions of every channel with one weight, if factors and biases give the same codes.

    One for each rectangle of windows that cover equally many positions: a sum is divided by their number.
    """
    where = f"node '{node.name}'"
    source = graph.tensors[node.input]
    batch, height, width, _ = source.canonical
    if batch > 1 or source.canonical != views[node.input].place:
        raise NetworkError(where, "pools a batch, or axes that are not those its input was made with")
    if max(*node.kernel, *node.stride) > 255:
        raise NetworkError(where, "has a kernel or stride above 255", "the engine counts so far")
    counts = node.counts(height, width)
    factors = {
        count: average_factor(graph, node, count, node.tables[count]) for count in np.unique(counts).tolist()
    }
    lines, columns = _runs(counts), _runs(counts.T)
    found: list[Operation] = []
    for line in lines:
        for column in columns:
            part = factors[int(counts[line.start, column.start])]
            rows = _seen_taps(node, 0, line, height)
            taps = _seen_taps(node, 1, column, width)
            kernel = len(rows[0]), len(taps[0])
            weight = int(part.weights[0, 0, 0, 0])
            number = len(found)
            found.append(
                replace(
                    part,
                    name=node.name if len(lines) * len(columns) == 1 else f"{node.name}[{number}]",
                    map=(height, width),
                    weights=np.full((part.channels, *kernel, 1), weight),
                    stride=node.stride,
                    padding=(rows[1], taps[1]),
                    first_pixel=(line.start, column.start),
                )
            )
    return found


def _runs(counts: NDArray[np.int64]) -> list[range]:
    """Rows that follow each other and are equal."""
    breaks = np.flatnonzero((counts[1:] != counts[:-1]).any(axis=1)) + 1
    return [range(a, b) for a, b in pairwise([0, *breaks.tolist(), len(counts)])]


def _seen_taps(node: AveragePool, axis: int, outputs: range, size: int) -> tuple[range, tuple[int, int]]:
    """Of some outputs' windows along an axis the taps that any of them needs, and the padding that is left.

    Padding is negative where they do not see all of the input.
    """
    kernel, stride = node.kernel[axis], node.stride[axis]
    first = outputs.start * stride - node.padding[axis][0]
    last = outputs[-1] * stride - node.padding[axis][0]
    taps = range(kernel)
    if not node.count_padding:
        # What is outside in every one of them counts for nothing.
        taps = range(max(0, -last), min(kernel, size - first))
    return taps, (-first - taps.start, last + taps.stop - size)


def average_factor(graph: Graph, node: AveragePool, count: int, table: NDArray[np.int64]) -> Operation:
    """A mean of so many codes, as of a window of one position.

    Parameters
    ----------
    graph, node
        The network, and the pool in it.
    count
        Positions of the input that its windows cover.
    table
        Codes of the result for every sum of so many raw codes.

    Raises
    ------
    NetworkError
        No factor gives them.
    """
    where = f"node '{node.name}'"
    source, result = graph.tensors[node.input], graph.tensors[node.output]
    channels = source.canonical[3]
    format = source.format
    if not isinstance(format, Int) or not isinstance(result.format, Int):
        raise NetworkError(where, f"averages {format}", "the engine averages integers")
    first = count * format.min
    # Networks round sums of codes, or of what codes stand for.
    for zero, result_zero in dict.fromkeys(((0, 0), (source.zero_point, result.zero_point))):
        found = _factor(first - count * zero, table - result_zero, source.scale / result.scale / count)
        if found is not None:
            break
    else:
        raise NetworkError(
            where,
            "no factor of the engine gives the averages of the network's own arithmetic",
            f"of {count} positions; pool windows of another size",
        )
    weight, quantiser, bias = found
    return Operation(
        name=node.name,
        source=node.input,
        output=node.output,
        map=(1, 1),
        weights=np.full((channels, 1, 1, 1), weight),
        weight_format=Int(8),
        bias=np.full(channels, bias),
        quantiser=replace(
            quantiser,
            multiplier=quantiser.multiplier.repeat(channels),
            shift=quantiser.shift.repeat(channels),
            low=quantiser.low + result_zero,
            high=quantiser.high + result_zero,
        ),
        groups=channels,
        zero_point=zero,
        # Padding that counts is real 0; otherwise it must add nothing.
        pad_value=source.zero_point if node.count_padding else zero,
        result_zero_point=result_zero,
        bipolar=False,
        macs=0,
    )


def _factor(first: int, table: NDArray[np.int64], scale: float) -> tuple[int, Requantise, int] | None:
    """A weight, a requantisation and a bias that make a table's entries of `first`, `first` + 1, ...

    Tried one after the other, and compared with the table where it rises, as both rise only, and what agrees
    there with the whole table: the factor a little above, below and as near as can be to `scale` and to the
    slope of the table; the bias up to half a step.
    """
    sums = first + np.arange(len(table))
    # Tables of large windows have a million entries, but at most 255 steps.
    steps = np.flatnonzero(np.diff(table))
    edges = np.unique(np.concatenate(([0, len(table) - 1], steps, steps + 1)))
    at_edges, edge_sums = table[edges], sums[edges]
    low, high = int(table.min()), int(table.max())
    # The slope, from where the table begins to rise to where it ends.
    inner = np.flatnonzero((table > low) & (table < high))
    start, end = (inner[0], inner[-1]) if len(inner) > 1 else (0, len(table) - 1)
    slope = (int(table[end]) - int(table[start])) / max(1, int(end - start))
    roundings: tuple[Rounding, ...] = ("tflite", "half_even")
    for weight in (1, 16, 127):
        for real in (scale / weight, slope / weight):
            if not 0 < real < 64:
                continue
            fraction, exponent = np.frexp(real)
            for step in (1, 0, -1, 2, -2):
                multiplier = int(np.floor(fraction * 2.0**31)) + step
                if not 0 < multiplier < 1 << 31 or not MIN_SHIFT <= exponent <= MAX_LEFT_SHIFT:
                    continue
                for rounding in roundings:
                    for bias in (0, *range(-(weight // 2), 0), *range(1, weight // 2 + 1)):
                        made = requantise(edge_sums * weight + bias, multiplier, exponent, rounding)
                        if (made.clip(low, high) != at_edges).any():
                            continue
                        made = requantise(sums * weight + bias, multiplier, exponent, rounding)
                        if (made.clip(low, high) == table).all():
                            quantiser = Requantise(
                                multiplier=np.array([multiplier]),
                                shift=np.array([int(exponent)]),
                                rounding=rounding,
                                low=low,
                                high=high,
                            )
                            return weight, quantiser, bias
    return None
