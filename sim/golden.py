"""The golden model: executes an integer graph in numpy, exactly."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitwright.hw.formats import Int
from bitwright.hw.quant.arithmetic import requantise

from .graph import Dequantize, FullyConnected, Graph, NetworkError, Quantize, Reshape, TensorInfo

__all__ = ["dequantise", "fully_connected", "prepare_input", "quantise", "run", "storage_type"]

_INT32 = Int(32)


def storage_type(tensor: TensorInfo) -> np.dtype[Any]:
    """Numpy type that a tensor is held in: the smallest integer that holds its format, or float32."""
    if tensor.format is None:
        return np.dtype(np.float32)
    size = next(size for size in (8, 16, 32) if tensor.format.bits <= size)
    return np.dtype(f"{'i' if tensor.format.signed else 'u'}{size // 8}")


def prepare_input(graph: Graph, array: ArrayLike) -> NDArray[Any]:
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
                f"give codes from {codes.format.min} to {codes.format.max}"
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


def _codes_at_input(graph: Graph) -> TensorInfo:
    """The first integer tensor: the input itself, or what it is quantised to."""
    info = graph.tensors[graph.input]
    if info.format is not None:
        return info
    quantised = [node for node in graph.nodes if node.input == graph.input]
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
        The input does not fit, or an accumulator exceeds int32.
    """
    batch = prepare_input(graph, inputs)
    tensors = graph.tensors
    source = graph.input
    if batch.dtype.kind != "f" and tensors[source].format is None:
        source = _codes_at_input(graph).name
    values = {source: batch}
    for node in graph.nodes:
        if node.output in values:
            continue
        info = tensors[node.output]
        x = values[node.input]
        match node:
            case Quantize():
                y = quantise(x, info, node.rounding)
            case Dequantize():
                y = dequantise(x, tensors[node.input])
            case Reshape():
                y = x.reshape(len(x), *info.shape)
            case FullyConnected():
                y = fully_connected(node, x, tensors[node.input], info)
        values[node.output] = y.astype(storage_type(info), copy=False)
    return values


def quantise(x: NDArray[Any], info: TensorInfo, rounding: str = "half_even") -> NDArray[Any]:
    """``saturate(round(x / scale) + zero_point)`` in float32; ties to even, or away from zero for TFLite."""
    assert info.format is not None
    with np.errstate(over="ignore"):
        ratio = x.astype(np.float32) / np.float32(info.scale)
    if rounding == "tflite":
        # In float64 the half is added exactly.
        rounded = np.copysign(np.floor(np.abs(ratio.astype(np.float64)) + 0.5), ratio)
    else:
        rounded = np.rint(ratio)
    # Clipped before the zero point is added: adding it to a large float32 would round again.
    low, high = info.format.min - info.zero_point, info.format.max - info.zero_point
    codes: NDArray[Any] = np.clip(rounded, low, high).astype(np.int64) + info.zero_point
    return codes.astype(storage_type(info))


def dequantise(q: NDArray[Any], info: TensorInfo) -> NDArray[np.float32]:
    """``scale * (q - zero_point)`` in float32."""
    difference = (q.astype(np.int64) - info.zero_point).astype(np.float32)
    return difference * np.float32(info.scale)


def fully_connected(
    node: FullyConnected, x: NDArray[Any], source: TensorInfo, result: TensorInfo
) -> NDArray[Any]:
    """One matrix product on codes of any leading axes.

    Raises
    ------
    NetworkError
        An accumulator exceeds int32.
    """
    assert source.format is not None
    # All axes before the last are rows, so that the whole batch is one product.
    rows = x.reshape(-1, node.reduction).astype(np.int64) - source.zero_point
    widest = max(source.format.max - source.zero_point, source.zero_point - source.format.min)
    acc = _matmul(rows, node.weights, widest * max(abs(node.weight_format.min), node.weight_format.max))
    acc += node.bias
    if not _INT32.contains(acc):
        raise NetworkError(
            f"node '{node.name}'",
            f"accumulator {acc.min()}..{acc.max()} exceeds int32",
            "the network's own runtime would overflow here too; check the bias and the input",
        )
    scaled = requantise(acc, node.multiplier, node.shift, node.rounding) + result.zero_point
    codes = np.clip(scaled, node.low, node.high)
    return codes.reshape(*x.shape[:-1], node.channels).astype(storage_type(result))


def _matmul(rows: NDArray[np.int64], weights: NDArray[np.int64], widest: int) -> NDArray[np.int64]:
    """``rows @ weights.T``; `widest` bounds the magnitude of a single product."""
    if widest * weights.shape[1] < 1 << 53:
        # Every partial sum is an integer that float64 holds exactly, and its product is far faster.
        product: NDArray[np.float64] = rows.astype(np.float64) @ weights.T.astype(np.float64)
        return product.astype(np.int64)
    if widest * weights.shape[1] < 1 << 63:
        return rows @ weights.T
    raise OverflowError(f"Products up to {widest} cannot be summed in 64 bits")
