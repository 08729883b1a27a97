"""The integer graph: what an importer makes of a network, and what everything after it works on.

Tensors hold integer codes; a code ``q`` stands for the real number ``scale * (q - zero_point)``. Float
tensors occur only at the edges, where the host quantises the input and dequantises the output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitwright.hw.errors import BitwrightError
from bitwright.hw.formats import Format, Int
from bitwright.hw.quant.arithmetic import MAX_LEFT_SHIFT, MIN_SHIFT, MULTIPLIER_BITS, Rounding

__all__ = [
    "Dequantize",
    "FullyConnected",
    "Graph",
    "NetworkError",
    "Node",
    "Quantize",
    "Reshape",
    "TensorInfo",
    "printable",
]

_INT32 = Int(32)


class NetworkError(BitwrightError):
    """A network, or data for it, that cannot be used.

    Parameters
    ----------
    where
        The node, tensor or file. Characters that would break the line or the terminal are replaced.
    what
        What is wrong with it.
    hint
        What to do about it.
    """

    def __init__(self, where: str, what: str, hint: str = ""):
        self.where = printable(where, 200)
        self.what = printable(what)
        self.hint = printable(hint)
        super().__init__(f"{self.where}: {self.what}" + (f"; {self.hint}" if hint else ""))


def printable(text: str, limit: int = 400) -> str:
    """Text from a file, safe to print on one line."""
    text = "".join(c if c.isprintable() else "�" for c in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What is known of a tensor.

    Parameters
    ----------
    name
        Name, unique in the graph.
    shape
        As in the network's file, batch included.
    format
        Format of the codes; ``None`` for float32 at the graph's edge.
    scale, zero_point
        A code ``q`` stands for ``scale * (q - zero_point)``. Unused where `format` is ``None``.
    index
        Number of the tensor in the network's file, where the file format numbers them.
    """

    name: str
    shape: tuple[int, ...]
    format: Int | None
    scale: float = 1.0
    zero_point: int = 0
    index: int | None = None

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.shape):
            raise NetworkError(f"tensor '{self.name}'", f"shape {self.shape} has an axis without elements")
        if not (isfinite(self.scale) and self.scale > 0):
            raise NetworkError(f"tensor '{self.name}'", f"scale {self.scale} is not a positive number")
        if self.format is not None and not self.format.min <= self.zero_point <= self.format.max:
            raise NetworkError(
                f"tensor '{self.name}'", f"zero point {self.zero_point} is outside the range of {self.format}"
            )

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """``output = saturate(round(input / scale) + zero_point)``, in float32, on the host.

    `rounding` is the network's own rule: ties to even (ONNX) or away from zero (TFLite).
    """

    name: str
    input: str
    output: str
    rounding: Rounding = "half_even"


@dataclass(frozen=True, kw_only=True)
class Dequantize:
    """``output = scale * (input - zero_point)``, in float32, on the host."""

    name: str
    input: str
    output: str


@dataclass(frozen=True, kw_only=True)
class Reshape:
    """The same codes in the same order under another shape, or only under another name."""

    name: str
    input: str
    output: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FullyConnected:
    """A matrix product over the last axis, requantised::

        acc    = sum_k (input[..., k] - z_input) * weights[n, k] + bias[n]
        output = clip(requantise(acc, multiplier[n], shift[n]) + z_output, low, high)

    Parameters
    ----------
    weights
        N × K integers, zero point already removed.
    weight_format
        Format that the weights are stored in.
    bias
        N integers in the scale of the accumulator; int32.
    multiplier, shift, rounding
        See :func:`bitwright.hw.quant.arithmetic.requantise`; one multiplier and shift per output channel.
    low, high
        Clamp, in codes of the output tensor.
    """

    name: str
    input: str
    output: str
    weights: NDArray[np.int64]
    weight_format: Format
    bias: NDArray[np.int64]
    multiplier: NDArray[np.int64]
    shift: NDArray[np.int64]
    rounding: Rounding
    low: int
    high: int

    def __post_init__(self) -> None:
        for key in ("weights", "bias", "multiplier", "shift"):
            object.__setattr__(self, key, _frozen(getattr(self, key)))
        if self.weights.ndim != 2 or not self.weights.size:
            raise self._error(f"weights of shape {self.weights.shape} are not a matrix")
        for key in ("bias", "multiplier", "shift"):
            shape = getattr(self, key).shape
            if shape != (self.channels,):
                raise self._error(f"{key} of shape {shape} does not match {self.channels} output channels")
        if not self.weight_format.contains(self.weights):
            raise self._error(
                f"weights {self.weights.min()}..{self.weights.max()} do not fit {self.weight_format}"
            )
        if not _INT32.contains(self.bias):
            raise self._error(f"bias {self.bias.min()}..{self.bias.max()} does not fit {_INT32}")
        if not Int(MULTIPLIER_BITS, signed=False).contains(self.multiplier):
            raise self._error(f"multiplier does not fit {MULTIPLIER_BITS} bits")
        if self.shift.min() < MIN_SHIFT or self.shift.max() > MAX_LEFT_SHIFT:
            raise self._error(
                f"shift {self.shift.min()}..{self.shift.max()} is not from {MIN_SHIFT} to {MAX_LEFT_SHIFT}",
                f"the product of input and weight scale must stay below {1 << MAX_LEFT_SHIFT} "
                "times the output scale; calibrate the quantisation again",
            )
        if self.rounding not in ("tflite", "half_even"):
            raise self._error(f"rounding {self.rounding!r} is neither 'tflite' nor 'half_even'")

    def _error(self, what: str, hint: str = "") -> NetworkError:
        return NetworkError(f"node '{self.name}'", what, hint)

    @property
    def channels(self) -> int:
        """N: output channels."""
        return int(self.weights.shape[0])

    @property
    def reduction(self) -> int:
        """K: length of the dot product."""
        return int(self.weights.shape[1])

    def macs(self, rows: int) -> int:
        """Multiply-accumulate operations for that many rows."""
        return rows * self.weights.size


Node = Quantize | Dequantize | FullyConnected | Reshape


def _frozen(values: ArrayLike) -> NDArray[np.int64]:
    array = np.array(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"Integers expected, not {array.dtype}")
    array = array.astype(np.int64)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A network in integers.

    Parameters
    ----------
    name
        What to call the network.
    tensors
        Every tensor by name.
    nodes
        In execution order.
    input, output
        Names of the tensors at the edges.

    Raises
    ------
    NetworkError
        The parts do not fit together; the message names the node.
    """

    name: str
    tensors: dict[str, TensorInfo]
    nodes: tuple[Node, ...]
    input: str
    output: str

    def __post_init__(self) -> None:
        for key, tensor in self.tensors.items():
            if key != tensor.name:
                raise NetworkError(f"tensor '{tensor.name}'", f"is filed under the name '{key}'")
        for edge in (self.input, self.output):
            if edge not in self.tensors:
                raise NetworkError(f"graph '{self.name}'", f"its edge '{edge}' is not among its tensors")
        if not self.nodes:
            raise NetworkError(f"graph '{self.name}'", "has no nodes")
        names: set[str] = set()
        ready = {self.input}
        for node in self.nodes:
            where = f"node '{node.name}'"
            if node.name in names:
                raise NetworkError(where, "has the same name as another node")
            names.add(node.name)
            for tensor_name in (node.input, node.output):
                if tensor_name not in self.tensors:
                    raise NetworkError(where, f"its tensor '{tensor_name}' is not among the graph's tensors")
            if node.input not in ready:
                raise NetworkError(where, f"reads '{node.input}' before any node has produced it")
            if node.output in ready:
                raise NetworkError(where, f"produces '{node.output}', which exists already")
            ready.add(node.output)
            self._check(node, self.tensors[node.input], self.tensors[node.output])
        for tensor_name in self.tensors:
            if tensor_name not in ready:
                raise NetworkError(f"tensor '{tensor_name}'", "is produced by no node")

    @staticmethod
    def _check(node: Node, source: TensorInfo, result: TensorInfo) -> None:
        def require(condition: bool, what: str) -> None:
            if not condition:
                raise NetworkError(f"node '{node.name}'", what)

        match node:
            case Quantize() | Dequantize():
                edge, codes = (source, result) if isinstance(node, Quantize) else (result, source)
                require(edge.format is None, f"'{edge.name}' is not a float tensor")
                require(codes.format is not None, f"'{codes.name}' has no integer format")
                require(
                    source.shape == result.shape, f"changes the shape from {source.shape} to {result.shape}"
                )
            case Reshape():
                require(
                    source.size == result.size,
                    f"cannot reshape {source.shape} to {result.shape}: the number of elements differs",
                )
                require(
                    (source.format, source.scale, source.zero_point)
                    == (result.format, result.scale, result.zero_point),
                    "changes the format, scale or zero point; only the shape may change",
                )
            case FullyConnected():
                for tensor in (source, result):
                    require(tensor.format is not None, f"'{tensor.name}' has no integer format")
                require(len(source.shape) > 0, f"its input '{source.name}' has no axes")
                require(
                    source.shape[-1] == node.reduction,
                    f"the last axis of its input {source.shape} does not have {node.reduction} elements",
                )
                expected = (*source.shape[:-1], node.channels)
                require(
                    result.shape == expected, f"makes shape {expected}, but its output has {result.shape}"
                )
                assert result.format is not None
                require(
                    result.format.min <= node.low <= node.high <= result.format.max,
                    f"clamp {node.low}..{node.high} is not a range of {result.format}",
                )

    def fully_connected(self) -> Iterator[tuple[FullyConnected, int]]:
        """Every matrix product, with the number of its rows."""
        for node in self.nodes:
            if isinstance(node, FullyConnected):
                yield node, prod(self.tensors[node.input].shape[:-1])

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference."""
        return sum(node.macs(rows) for node, rows in self.fully_connected())
