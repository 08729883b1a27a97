"""The golden model: executes an integer graph in numpy, exactly."""

from collections.abc import Mapping
from math import prod
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from bitwright.hw.formats import Format, Int
from bitwright.hw.quant.arithmetic import requantise

from . import fixed_point
from .graph import (
    ArgMax,
    AveragePool,
    Binary,
    Concatenate,
    Convolution,
    Dequantize,
    Elementwise,
    FullyConnected,
    Graph,
    GraphLike,
    HostRounding,
    Lookup,
    MaxPool,
    NetworkError,
    Node,
    Pad,
    Padding,
    Product,
    Quantize,
    Requantise,
    Reshape,
    RoundingMode,
    Select,
    Softmax,
    TensorInfo,
    Thresholds,
    Transpose,
    Upsample,
)

__all__ = [
    "accumulators",
    "compute",
    "dequantise",
    "elementwise",
    "prepare_input",
    "product",
    "quantise",
    "round_whole",
    "run",
    "storage_type",
    "thresholds",
]

_INT32 = Int(32)
_PATCH_ELEMENTS = 1 << 23


def storage_type(tensor: TensorInfo) -> np.dtype[Any]:
    """Numpy type that a tensor is held in: the smallest integer that holds its format, or float32."""
    if tensor.format is None:
        return np.dtype(np.float32)
    size = next(size for size in (8, 16, 32) if tensor.format.bits <= size)
    return np.dtype(f"{'i' if tensor.format.min < 0 else 'u'}{size // 8}")


def prepare_input(graph: GraphLike, array: ArrayLike) -> NDArray[Any]:
    """A batch as the graph's input takes it: type and range checked, shaped ``(n, *input shape)``.

    Accepted are one input or several along a leading axis, with the axes of one input split or merged
    in any way. Where the graph begins by quantising floats, integers are taken as codes that have been
    quantised already.

    Raises
    ------
    NetworkError
        The array does not fit; the message says what was expected.
    """
    info = graph.tensors[graph.input]
    where = f"input '{info.name}'"
    values = np.asarray(array)
    expected = f"({', '.join(['n', *map(str, info.shape)])})"
    if values.dtype.kind not in "iuf":
        raise NetworkError(where, f"data of type {values.dtype} are not numbers", "give integers or floats")
    if not _splits_into(values.shape, info.shape):
        raise NetworkError(
            where,
            f"data of shape {values.shape} are not a whole number of inputs of {info.size} elements",
            f"give an array of shape {expected}",
        )
    if values.dtype.kind in "iu":
        codes = _codes_at_input(graph)
        assert codes.format is not None
        if not codes.format.contains(values):
            raise NetworkError(
                where,
                f"integer data {values.min()}..{values.max()} are outside the range of {codes.format}",
                f"give codes {_range_of(codes.format)}"
                + (", or real numbers as floats" if info.format is None else ""),
            )
        return values.astype(storage_type(codes)).reshape(-1, *info.shape)
    if info.format is not None:
        raise NetworkError(
            where,
            f"data of type {values.dtype} given, but the network takes {info.format} codes",
            f"quantise first: round(x / {info.scale:g}) + {info.zero_point}",
        )
    with np.errstate(over="ignore"):
        real = values.astype(np.float32)
    if np.isnan(real).any():
        raise NetworkError(where, "data contain values that are not numbers (NaN)", "remove them")
    return real.reshape(-1, *info.shape)


def _splits_into(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether an array of shape `given` is a batch of inputs of that shape."""
    size, total = prod(shape), prod(given)
    if total == 0 or total % size:
        return False
    # A flat file; otherwise the batch must end between two axes, or the axes below it must be the
    # input's own: anything else is more likely a transposed array than a batch.
    if len(given) == 1:
        return True
    if any(prod(given[axis:]) == size for axis in range(len(given) + 1)):
        return True
    inner = tuple(n for n in shape if n != 1)
    return len(inner) > 1 and given[len(given) - len(inner) + 1 :] == inner[1:]


def _range_of(format: Format) -> str:
    return f"from {format.min} to {format.max}" if isinstance(format, Int) else "-1 and +1"


def _codes_at_input(graph: GraphLike) -> TensorInfo:
    """The first integer tensor: the input itself, or what it is quantised to."""
    info = graph.tensors[graph.input]
    if info.format is not None:
        return info
    quantised = [node for node in graph.nodes if graph.input in node.inputs]
    if len(quantised) != 1 or not isinstance(quantised[0], Quantize):
        raise NetworkError(
            f"input '{info.name}'",
            "integer data given, but the network does not begin by quantising its input once",
            "give floats",
        )
    return graph.tensors[quantised[0].output]


def run(graph: Graph, inputs: ArrayLike) -> dict[str, NDArray[Any]]:
    """Execute a graph for a batch.

    Parameters
    ----------
    graph
        The network.
    inputs
        What :func:`prepare_input` accepts: ``n`` inputs along a leading axis.

    Returns
    -------
    Every tensor by its name in the graph, shaped ``(n, *shape)``: integers of the smallest type that
    holds the tensor's format, float32 at float edges. Where codes were given for a float input, that
    input is left out.

    Raises
    ------
    NetworkError
        The input does not fit, the network's arithmetic on it makes something that is no number, or an
        accumulator exceeds int32.
    """
    batch = prepare_input(graph, inputs)
    tensors = graph.tensors
    source = graph.input
    if batch.dtype.kind != "f" and tensors[source].format is None:
        source = _codes_at_input(graph).name
    values = {source: batch}
    for node in graph.nodes:
        if node.output not in values:
            values[node.output] = compute(graph, node, values)
    return values


def compute(graph: GraphLike, node: Node, values: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """What one node makes of a batch.

    Parameters
    ----------
    values
        The node's inputs by name, at least, shaped ``(n, *shape)``.

    Raises
    ------
    NetworkError
        As :func:`run`.
    """
    info = graph.tensors[node.output]
    sources = [graph.tensors[name] for name in node.inputs]
    xs = [values[name] for name in node.inputs]
    source, x = sources[0], xs[0]
    match node:
        case Quantize():
            y = _quantize(node, x, info)
        case Dequantize():
            y = dequantise(x, source, node.gain, node.offset)
        case Reshape():
            y = x.reshape(len(x), *info.shape)
        case Transpose():
            y = x.transpose(0, *(1 + axis for axis in node.axes))
        case FullyConnected() | Convolution():
            y = product(node, x, source, info)
        case MaxPool():
            y = _max_pool(node, x, source, info)
        case AveragePool():
            y = _average_pool(node, x, source, info)
        case Binary():
            y = node.table[_places(xs[0], sources[0]), _places(xs[1], sources[1])]
        case Lookup():
            y = node.table[_places(x, source)]
        case Concatenate():
            y = _joined(node, xs, info)
        case Pad():
            cropped = x[
                (
                    slice(None),
                    *(
                        slice(max(-before, 0), size - max(-after, 0))
                        for size, (before, after) in zip(source.shape, node.padding, strict=True)
                    ),
                )
            ]
            around = [(max(before, 0), max(after, 0)) for before, after in node.padding]
            y = np.pad(cropped, ((0, 0), *around), constant_values=node.value)
        case Select():
            y = np.take(x, node.channels, axis=1 + source.channels_at)
        case Upsample():
            maps = source.to_canonical(x)
            for axis, factor in zip((2, 3), node.factors, strict=True):
                maps = maps.repeat(factor, axis=axis)
            y = info.from_canonical(maps)
        case Softmax():
            y = _softmax(node, x, source, info)
        case ArgMax():
            y = _arg_max(node, x, info)
    return y.astype(storage_type(info), copy=False)


def round_whole(x: NDArray[Any], mode: RoundingMode) -> NDArray[Any]:
    """Whole numbers, of the same floating-point type.

    Source: QONNX, ``resolve_rounding_mode``, whose arithmetic this is, in `x`'s own precision.

    Raises
    ------
    ValueError
        The mode is unknown.
    """
    match mode:
        case "half_even":
            rounded = np.rint(x)
        case "ceil":
            rounded = np.ceil(x)
        case "floor":
            rounded = np.floor(x)
        case "up":
            rounded = np.copysign(np.ceil(np.abs(x)), x)
        case "down":
            rounded = np.trunc(x)
        case "half_up":
            rounded = np.copysign(np.floor(np.abs(x) + x.dtype.type(0.5)), x)
        case "half_down":
            rounded = np.copysign(np.ceil(np.abs(x) - x.dtype.type(0.5)), x)
        case _:
            raise ValueError(f"Rounding mode {mode!r} is not known")
    return np.asarray(rounded, dtype=x.dtype)


def elementwise(step: Elementwise, x: NDArray[Any]) -> NDArray[Any]:
    """One step of elementwise arithmetic, in `x`'s own floating-point type.

    Parameters
    ----------
    x
        Numbers that the step's constant broadcasts against.
    """
    if step.operation == "sign":
        return np.asarray(np.where(x >= 0, 1, -1), dtype=x.dtype)
    if step.constant is None:
        return round_whole(x, cast(RoundingMode, step.operation))
    constant = step.constant.astype(x.dtype)
    if step.operation == "count":
        count = np.zeros(np.broadcast_shapes(x.shape, step.shape), dtype=x.dtype)
        # Level by level: all at once would take T times the memory.
        for level in np.moveaxis(constant, -1, 0):
            count += x >= level
        return np.asarray(count)
    operands = (constant, x) if step.reverse else (x, constant)
    with np.errstate(all="ignore"):
        return np.asarray(getattr(np, step.operation)(*operands))


def _quantize(node: Quantize, x: NDArray[Any], info: TensorInfo) -> NDArray[Any]:
    for step in node.steps:
        x = elementwise(step, x)
    if np.isnan(x).any():
        raise NetworkError(
            f"node '{node.name}'",
            "what the network does with its input first makes values that are not numbers (NaN)",
            "check the input's range",
        )
    return quantise(
        x, info, node.rounding, low=node.low, high=node.high, zero_point_first=node.zero_point_first
    )


def quantise(
    x: NDArray[Any],
    info: TensorInfo,
    rounding: HostRounding = "half_even",
    *,
    low: int | None = None,
    high: int | None = None,
    zero_point_first: bool = False,
) -> NDArray[Any]:
    """Codes of real numbers, computed in float32; see :class:`bitwright.sim.graph.Quantize`.

    Parameters
    ----------
    info
        What is known of the result.
    low, high
        Clamp in codes; that of the result's format unless given.
    zero_point_first
        Whether the zero point is added before the rounding.
    """
    assert info.format is not None
    if not isinstance(info.format, Int):
        return np.where(x >= 0, 1, -1).astype(storage_type(info))
    with np.errstate(over="ignore"):
        ratio = x.astype(np.float32) / np.float32(info.scale)
        if zero_point_first:
            ratio += np.float32(info.zero_point)
    if rounding == "tflite":
        # In float64 the half is added exactly.
        rounded = np.copysign(np.floor(np.abs(ratio.astype(np.float64)) + 0.5), ratio)
    else:
        rounded = round_whole(ratio, rounding)
    # Clipped before the zero point is added: adding it to a large float32 would round again.
    zero_point = 0 if zero_point_first else info.zero_point
    least = (info.format.min if low is None else low) - zero_point
    greatest = (info.format.max if high is None else high) - zero_point
    codes: NDArray[Any] = np.clip(rounded, least, greatest).astype(np.int64) + zero_point
    return codes.astype(storage_type(info))


def dequantise(
    q: NDArray[Any],
    info: TensorInfo,
    gain: NDArray[np.float64] | None = None,
    offset: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Real numbers of codes; see :class:`bitwright.sim.graph.Dequantize`."""
    difference = q.astype(np.int64) - info.zero_point
    if gain is None and offset is None:
        return difference.astype(np.float32) * np.float32(info.scale)
    real = difference.astype(np.float64) * info.scale
    real = real * (1.0 if gain is None else gain) + (0.0 if offset is None else offset)
    with np.errstate(over="ignore"):
        return real.astype(np.float32)


def accumulators(node: Product, x: NDArray[Any], source: TensorInfo) -> NDArray[np.int64]:
    """Sums of a matrix product or a convolution on codes, bias included.

    Returns
    -------
    Of a matrix product, ``(*x.shape[:-1], channels)``; of a convolution on ``(n, *shape)``, whatever the
    order of its axes, ``(n, batch, height, width, channels)`` of the output.

    Raises
    ------
    NetworkError
        An accumulator exceeds int32.
    """
    assert source.format is not None
    widest = max(source.format.max - source.zero_point, source.zero_point - source.format.min)
    widest *= max(abs(node.weight_format.min), node.weight_format.max)
    if isinstance(node, FullyConnected):
        # All axes before the last are rows, so that the whole batch is one product.
        rows = x.reshape(-1, node.reduction).astype(np.int64) - source.zero_point
        acc = _matmul(rows, node.weights, widest).reshape(*x.shape[:-1], node.channels)
    else:
        acc = _convolution(node, x, source, widest)
    acc += node.bias
    if not _INT32.contains(acc):
        raise NetworkError(
            f"node '{node.name}'",
            f"accumulator {acc.min()}..{acc.max()} exceeds int32",
            "the network's own runtime would overflow here too; check the bias and the input",
        )
    return acc


def _convolution(node: Convolution, x: NDArray[Any], source: TensorInfo, widest: int) -> NDArray[np.int64]:
    maps, shape = _maps(x, source)
    maps = _padded(maps.astype(np.int64) - source.zero_point, node.padding, 0)
    depth = node.weights.shape[3]
    height, width = node.positions(*shape[2:4])
    # The groups come first: to numpy they are a stack of matrices.
    weights = node.weights.reshape(node.groups, node.channels // node.groups, node.reduction)
    acc = np.empty((len(maps), height, width, node.channels), dtype=np.int64)
    # Of so many inputs at a time, so that the patches of a large batch do not fill the memory.
    chunk = max(1, _PATCH_ELEMENTS // (height * width * node.reduction * node.groups))
    for first in range(0, len(maps), chunk):
        windows = _windows(maps[first : first + chunk], node.kernel, node.stride, node.dilation)
        patches = windows.reshape(*windows.shape[:5], node.groups, depth).transpose(5, 0, 1, 2, 3, 4, 6)
        sums = _matmul(patches.reshape(node.groups, -1, node.reduction), weights, widest)
        sums = sums.transpose(1, 0, 2)  # position, group, channel of the group
        acc[first : first + chunk] = sums.reshape(-1, height, width, node.channels)
    return acc.reshape(*shape[:2], height, width, node.channels)


def _maps(x: NDArray[Any], info: TensorInfo) -> tuple[NDArray[Any], tuple[int, ...]]:
    """All maps of a batch, one behind the other, channels last; and ``(n, *canonical)``."""
    canonical = info.to_canonical(x)
    return canonical.reshape(-1, *canonical.shape[2:]), canonical.shape


def _padded(maps: NDArray[Any], padding: Padding, value: int) -> NDArray[Any]:
    return np.pad(maps, ((0, 0), *padding, (0, 0)), constant_values=value)


def _windows(
    maps: NDArray[Any], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> NDArray[Any]:
    """A view of every window: map, output row and column, kernel row and column, channel."""
    spans = [step * (size - 1) + 1 for size, step in zip(kernel, dilation, strict=True)]
    view = sliding_window_view(maps, spans, axis=(1, 2))
    view = view[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    return view.transpose(0, 1, 2, 4, 5, 3)


def _max_pool(node: MaxPool, x: NDArray[Any], source: TensorInfo, result: TensorInfo) -> NDArray[Any]:
    assert source.format is not None
    maps, _ = _maps(x, source)
    # Every window has a code of its own, and no code is less than this.
    maps = _padded(maps, node.padding, source.format.min)
    codes = _windows(maps, node.kernel, node.stride, (1, 1)).max(axis=(3, 4))
    return result.from_canonical(codes)


def _average_pool(node: AveragePool, x: NDArray[Any], source: TensorInfo, result: TensorInfo) -> NDArray[Any]:
    assert source.format is not None
    maps, shape = _maps(x, source)
    maps = _padded(maps.astype(np.int64), node.padding, source.zero_point if node.count_padding else 0)
    sums = _windows(maps, node.kernel, node.stride, (1, 1)).sum(axis=(3, 4))
    counts = node.counts(*shape[2:4])
    codes = np.empty_like(sums)
    for count in np.unique(counts).tolist():
        here = counts == count
        codes[:, here] = node.tables[count][sums[:, here] - count * source.format.min]
    return result.from_canonical(codes)


def _joined(node: Concatenate, xs: list[NDArray[Any]], info: TensorInfo) -> NDArray[Any]:
    at = 1 + node.axis
    *starts, _ = node.starts(x.shape[at] for x in xs)
    y = np.full((len(xs[0]), *info.shape), info.zero_point, xs[0].dtype)
    for start, x in zip(starts, xs, strict=True):
        np.moveaxis(y, at, 0)[start : start + x.shape[at]] = np.moveaxis(x, at, 0)
    return y


def _places(x: NDArray[Any], info: TensorInfo) -> NDArray[np.int64]:
    """Where codes stand among the values of their format."""
    assert info.format is not None
    above = x.astype(np.int64) - info.format.min
    return above if isinstance(info.format, Int) else above // 2


def _softmax(node: Softmax, x: NDArray[Any], source: TensorInfo, result: TensorInfo) -> NDArray[Any]:
    if node.arithmetic == "tflite":
        return fixed_point.softmax(x, source.scale, node.beta)
    real = np.float32(node.beta) * dequantise(x, source)
    powers = np.exp(real - real.max(axis=-1, keepdims=True))
    shares = powers / powers.sum(axis=-1, keepdims=True)
    return shares if result.format is None else quantise(shares, result, node.rounding)


def _arg_max(node: ArgMax, x: NDArray[Any], result: TensorInfo) -> NDArray[Any]:
    axis = 1 + node.axis
    # The greatest that comes first in a reversed axis came last.
    index: NDArray[np.int64] = (np.flip(x, axis) if node.last else x).argmax(axis)
    if node.last:
        index = x.shape[axis] - 1 - index
    return index.reshape(len(x), *result.shape)


def thresholds(quantiser: Thresholds, acc: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many levels of its channel, along the last axis, each accumulator has reached."""
    count = np.zeros_like(acc)
    for level in quantiser.levels.T:
        count += np.where(quantiser.descending, acc <= level, acc >= level)
    return count


def product(node: Product, x: NDArray[Any], source: TensorInfo, result: TensorInfo) -> NDArray[Any]:
    """One matrix product on codes of any leading axes, or one convolution on ``(n, *shape)``.

    Raises
    ------
    NetworkError
        An accumulator exceeds int32.
    """
    acc = accumulators(node, x, source)
    match node.quantiser:
        case None:
            codes = acc
        case Requantise() as by:
            scaled = requantise(acc, by.multiplier, by.shift, by.rounding) + result.zero_point
            codes = np.clip(scaled, by.low, by.high)
        case Thresholds() as by:
            count = thresholds(by, acc)
            # A bipolar output has no code between -1 and +1.
            codes = by.low + (count if isinstance(result.format, Int) else 2 * count)
    codes = codes.astype(storage_type(result))
    return result.from_canonical(codes) if isinstance(node, Convolution) else codes


def _matmul(rows: NDArray[np.int64], weights: NDArray[np.int64], widest: int) -> NDArray[np.int64]:
    """``rows @ weights.T`` of matrices or stacks of them; `widest` bounds the size of a single product."""
    turned = weights.swapaxes(-1, -2)
    if widest * weights.shape[-1] < 1 << 53:
        # Every partial sum is an integer that float64 holds exactly, and its product is far faster.
        sums: NDArray[np.float64] = rows.astype(np.float64) @ turned.astype(np.float64)
        return sums.astype(np.int64)
    if widest * weights.shape[-1] < 1 << 63:
        return rows @ turned
    raise OverflowError(f"Products up to {widest} cannot be summed in 64 bits")
