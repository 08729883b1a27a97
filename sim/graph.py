"""The integer graph: what an importer makes of a network, and what everything after it works on.

Tensors hold integer codes; a code ``q`` stands for the real number ``scale * (q - zero_point)``. Float
tensors occur only at the edges, where the host quantises the input and dequantises the output.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, prod
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitwright.hw.errors import BitwrightError, printable
from bitwright.hw.formats import Bipolar, Format, Int
from bitwright.hw.quant.arithmetic import MAX_LEFT_SHIFT, MIN_SHIFT, MULTIPLIER_BITS, Rounding

__all__ = [
    "LEVEL_MAX",
    "LEVEL_MIN",
    "MAP_MAX",
    "TABLE_MAX",
    "ArgMax",
    "AveragePool",
    "Binary",
    "Concatenate",
    "Convolution",
    "Dequantize",
    "Elementwise",
    "FullyConnected",
    "Graph",
    "GraphLike",
    "HostRounding",
    "Lookup",
    "MaxPool",
    "NetworkError",
    "Node",
    "Operation",
    "Pad",
    "Padding",
    "Product",
    "Quantize",
    "Requantise",
    "Reshape",
    "RoundingMode",
    "Select",
    "Softmax",
    "SoftmaxArithmetic",
    "TensorInfo",
    "Thresholds",
    "Transpose",
    "Upsample",
    "average_tables",
    "on_host",
    "printable",
    "same_order",
]

LEVEL_MIN = -(1 << 31) - 1
"""Level below every int32: an ascending channel always reaches it, a descending one never."""

LEVEL_MAX = 1 << 31
"""Level above every int32: an ascending channel never reaches it, a descending one always."""

MAP_MAX = 1 << 24
"""Most positions of a map that a window moves over, padding included, or of what it makes."""

TABLE_MAX = 1 << 24
"""Most entries of a table: 12-bit codes by 12-bit codes, or a window of 65536 positions of 8-bit codes."""

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Positions added above and below, and to the left and right."""

SoftmaxArithmetic = Literal["tflite", "float32"]
"""How softmax is computed: TFLite's fixed point, or float32."""

RoundingMode = Literal["half_even", "ceil", "floor", "up", "down", "half_up", "half_down"]
"""QONNX's rounding modes. `up` and `half_up` are away from zero, `down` and `half_down` towards it."""

HostRounding = Rounding | RoundingMode
"""How the host rounds: as QONNX names it, or as TFLite does, ties away from zero."""

Operation = (
    Literal["add", "subtract", "multiply", "divide", "power", "minimum", "maximum", "count", "sign"]
    | RoundingMode
)
"""What a step of elementwise arithmetic may be; see :class:`Elementwise`."""

_INT32 = Int(32)
_UNARY = ("sign", *get_args(RoundingMode))
_HOST_ROUNDINGS = (*get_args(Rounding), *get_args(RoundingMode))


class GraphLike(Protocol):
    """As much of a graph as it takes to compute nodes: a :class:`Graph`, or a part of one."""

    @property
    def tensors(self) -> "dict[str, TensorInfo]":
        """Every tensor by name."""

    @property
    def nodes(self) -> "tuple[Node, ...]":
        """In execution order."""

    @property
    def input(self) -> str:
        """Name of the tensor at the beginning."""


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
        Format of the codes: `Int`, or `Bipolar` with the zero point 0. ``Int(32)`` for accumulators that are
        not requantised. ``None`` for float32 at the graph's edge.
    scale, zero_point
        A code ``q`` stands for ``scale * (q - zero_point)``. Unused where `format` is ``None``.
    index
        Number of the tensor in the network's file, where the file format numbers them.
    channel_axis
        Which axis of `shape` counts channels: 1 where they come before height and width (NCHW). The last
        one unless given.

    Raises
    ------
    NetworkError
        The values do not fit together; the message names the tensor.
    """

    name: str
    shape: tuple[int, ...]
    format: Format | None
    scale: float = 1.0
    zero_point: int = 0
    index: int | None = None
    channel_axis: int | None = None

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.shape):
            raise NetworkError(f"tensor '{self.name}'", f"shape {self.shape} has an axis without elements")
        if self.channel_axis is not None and self.channel_axis not in range(len(self.shape)):
            raise NetworkError(
                f"tensor '{self.name}'", f"channel axis {self.channel_axis} is none of shape {self.shape}"
            )
        if not (isfinite(self.scale) and self.scale > 0):
            raise NetworkError(f"tensor '{self.name}'", f"scale {self.scale} is not a positive number")
        if self.format is None:
            return
        if not isinstance(self.format, Int | Bipolar):
            raise NetworkError(f"tensor '{self.name}'", f"is {self.format}; a tensor is integer or bipolar")
        # Bipolar codes are their own values: there is no zero that could stand elsewhere.
        allowed = range(self.format.min, self.format.max + 1) if isinstance(self.format, Int) else range(1)
        if self.zero_point not in allowed:
            raise NetworkError(
                f"tensor '{self.name}'", f"zero point {self.zero_point} is outside the range of {self.format}"
            )

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def canonical(self) -> tuple[int, int, int, int]:
        """Shape with the channels moved last: batch, height, width, channels.

        Of the other axes the first is the batch, and the last two of further ones are height and width; one
        alone is the width. What is missing has one element, and what is left over counts as batch.
        """
        if not self.shape:
            return 1, 1, 1, 1
        others = _without(self.shape, self.channels_at)
        first = max(len(others) - 2, min(len(others), 1))
        height, width = (1,) * (2 - len(others) + first) + others[first:]
        return prod(others[:first]), height, width, self.shape[self.channels_at]

    @property
    def channels_at(self) -> int:
        """Which axis counts channels; -1 if there are no axes."""
        return len(self.shape) - 1 if self.channel_axis is None else self.channel_axis

    def to_canonical(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of several tensors ``(n, *shape)`` as ``(n, *canonical)``."""
        if self.shape:
            values = np.moveaxis(values, 1 + self.channels_at, -1)
        return values.reshape(-1, *self.canonical)

    def from_canonical(self, values: NDArray[Any]) -> NDArray[Any]:
        """Inverse of :meth:`to_canonical`."""
        if not self.shape:
            return values.reshape(-1)
        at = self.channels_at
        moved = values.reshape(-1, *_without(self.shape, at), self.shape[at])
        return np.moveaxis(moved, -1, 1 + at)


class _OneInput:
    """What nodes of one input have in common."""

    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors that it reads."""
        return (self.input,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Elementwise:
    """One step of floating-point arithmetic, element by element: ``operation(x, constant)``.

    Besides arithmetic: ``sign`` is +1 where ``x >= 0`` and -1 elsewhere; ``count`` is how many levels, along
    the last axis of `constant`, are at most ``x``; the names of rounding modes round to whole numbers.

    Parameters
    ----------
    operation
        What is done.
    constant
        Second operand, which broadcasts against the tensor; ``None`` where `operation` has none.
    reverse
        Whether the constant is the first operand instead.

    Raises
    ------
    ValueError
        The constant is missing, superfluous, or not finite.
    """

    operation: Operation
    constant: NDArray[np.floating[Any]] | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        if (self.constant is None) != (self.operation in _UNARY):
            raise ValueError(f"'{self.operation}' takes {'no' if self.operation in _UNARY else 'a'} constant")
        if self.constant is not None:
            constant = np.array(self.constant)
            if constant.dtype.kind != "f" or not np.isfinite(constant).all():
                raise ValueError(
                    f"Constant of '{self.operation}' must be finite floats, not {constant.dtype}"
                )
            constant.setflags(write=False)
            object.__setattr__(self, "constant", constant)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape that the constant broadcasts with."""
        if self.constant is None:
            return ()
        return self.constant.shape[:-1] if self.operation == "count" else self.constant.shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantize(_OneInput):
    """Makes codes of floats, in float32, on the host::

        y      = steps(input)
        output = clip(round(y / scale) + zero_point, low, high)     # or round(y / scale + zero_point)

    A bipolar `output` is +1 where ``y >= 0`` and -1 elsewhere, whatever its scale.

    Parameters
    ----------
    rounding
        The network's own rule: ties to even (ONNX), away from zero (TFLite), or any of QONNX's modes.
    low, high
        Clamp in codes; that of the output's format unless given.
    steps
        What the network does with its input before it quantises it, in its order.
    zero_point_first
        Whether the zero point is added before the rounding, as QONNX does, and not after it, as ONNX does.
    """

    name: str
    input: str
    output: str
    rounding: HostRounding = "half_even"
    low: int | None = None
    high: int | None = None
    steps: tuple[Elementwise, ...] = ()
    zero_point_first: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Dequantize(_OneInput):
    """Makes floats of codes, on the host: ``output = scale * (input - zero_point)``, in float32.

    With `gain` or `offset`, ``output = scale * (input - zero_point) * gain + offset``, in float64 and
    rounded to float32 once.

    Parameters
    ----------
    gain, offset
        One number, or one for each element of the last axis; 1 and 0 unless given.
    """

    name: str
    input: str
    output: str
    gain: NDArray[np.float64] | None = None
    offset: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        for key in ("gain", "offset"):
            value = getattr(self, key)
            if value is not None:
                array = np.array(value, dtype=np.float64)
                if array.ndim > 1 or not np.isfinite(array).all():
                    raise NetworkError(f"node '{self.name}'", f"{key} is not a list of finite numbers")
                array.setflags(write=False)
                object.__setattr__(self, key, array)


@dataclass(frozen=True, kw_only=True)
class Reshape(_OneInput):
    """The same codes in the same order under another shape, or only under another name."""

    name: str
    input: str
    output: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Requantise:
    """``output = clip(requantise(acc, multiplier[n], shift[n]) + z_output, low, high)``.

    Parameters
    ----------
    multiplier, shift, rounding
        See :func:`bitwright.hw.quant.arithmetic.requantise`; one multiplier and shift per output channel.
    low, high
        Clamp, in codes of the output tensor.
    """

    multiplier: NDArray[np.int64]
    shift: NDArray[np.int64]
    rounding: Rounding
    low: int
    high: int

    def __post_init__(self) -> None:
        for key in ("multiplier", "shift"):
            object.__setattr__(self, key, _frozen(getattr(self, key)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Thresholds:
    """How many of a channel's levels the accumulator has reached::

        count  = #{j: acc >= levels[n, j]}      or, where descending[n], #{j: acc <= levels[n, j]}
        output = low + count                    or, for a bipolar output, -1 + 2 * count

    Parameters
    ----------
    levels
        N × T integers from `LEVEL_MIN` to `LEVEL_MAX`, each row ascending, duplicates allowed.
    descending
        N truth values: whether the output falls as the accumulator grows.
    low
        Code of the output where no level is reached; -1 for a bipolar output, whose T is 1.
    """

    levels: NDArray[np.int64]
    descending: NDArray[np.bool_]
    low: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", _frozen(self.levels))
        descending = np.array(self.descending)
        if descending.dtype != np.bool_:
            raise TypeError(f"Truth values expected, not {descending.dtype}")
        descending.setflags(write=False)
        object.__setattr__(self, "descending", descending)

    @property
    def count(self) -> int:
        """T: levels of a channel."""
        return int(self.levels.shape[-1])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Product(_OneInput):
    """Dot products with constant weights, output channel by output channel, quantised."""

    name: str
    input: str
    output: str
    weights: NDArray[np.int64]
    weight_format: Format
    bias: NDArray[np.int64]
    quantiser: Requantise | Thresholds | None

    def __post_init__(self) -> None:
        for key in ("weights", "bias"):
            object.__setattr__(self, key, _frozen(getattr(self, key)))
        self._check_weights()
        self._check_length("bias", self.bias)
        if not self.weight_format.contains(self.weights):
            raise self._error(
                f"weights {self.weights.min()}..{self.weights.max()} do not fit {self.weight_format}"
            )
        if not _INT32.contains(self.bias):
            raise self._error(f"bias {self.bias.min()}..{self.bias.max()} does not fit {_INT32}")
        match self.quantiser:
            case Requantise():
                self._check_requantise(self.quantiser)
            case Thresholds():
                self._check_thresholds(self.quantiser)

    def _check_weights(self) -> None:
        raise NotImplementedError

    def _check_length(self, what: str, values: NDArray[Any]) -> None:
        if values.shape != (self.channels,):
            raise self._error(
                f"{what} of shape {values.shape} does not match {self.channels} output channels"
            )

    def _check_requantise(self, quantiser: Requantise) -> None:
        self._check_length("multiplier", quantiser.multiplier)
        self._check_length("shift", quantiser.shift)
        if not Int(MULTIPLIER_BITS, signed=False).contains(quantiser.multiplier):
            raise self._error(f"multiplier does not fit {MULTIPLIER_BITS} bits")
        low, high = quantiser.shift.min(), quantiser.shift.max()
        if low < MIN_SHIFT or high > MAX_LEFT_SHIFT:
            raise self._error(
                f"shift {low}..{high} is not from {MIN_SHIFT} to {MAX_LEFT_SHIFT}",
                f"the product of input and weight scale must stay below {1 << MAX_LEFT_SHIFT} "
                "times the output scale; calibrate the quantisation again",
            )
        if quantiser.rounding not in get_args(Rounding):
            raise self._error(f"rounding {quantiser.rounding!r} is neither 'tflite' nor 'half_even'")

    def _check_thresholds(self, quantiser: Thresholds) -> None:
        levels = quantiser.levels
        if levels.ndim != 2 or levels.shape[0] != self.channels or not levels.size:
            raise self._error(
                f"levels of shape {levels.shape} are not a matrix of {self.channels} output channels"
            )
        self._check_length("descending", quantiser.descending)
        if levels.min() < LEVEL_MIN or levels.max() > LEVEL_MAX:
            raise self._error(
                f"levels {levels.min()}..{levels.max()} are not from {LEVEL_MIN} to {LEVEL_MAX}"
            )
        if (np.diff(levels, axis=1) < 0).any():
            raise self._error("levels of a channel are not in ascending order")

    def _error(self, what: str, hint: str = "") -> NetworkError:
        return NetworkError(f"node '{self.name}'", what, hint)

    @property
    def channels(self) -> int:
        """N: output channels."""
        return int(self.weights.shape[0])

    @property
    def reduction(self) -> int:
        """K: length of the dot product."""
        return prod(self.weights.shape[1:])

    def macs(self, rows: int) -> int:
        """Multiply-accumulate operations for that many rows."""
        return rows * self.weights.size


@dataclass(frozen=True, kw_only=True, eq=False)
class FullyConnected(_Product):
    """A matrix product over the last axis, quantised::

        acc    = sum_k (input[..., k] - z_input) * weights[n, k] + bias[n]
        output = quantiser(acc)

    Parameters
    ----------
    weights
        N × K integers, zero point already removed.
    weight_format
        Format that the weights are stored in.
    bias
        N integers in the scale of the accumulator; int32.
    quantiser
        How an accumulator becomes a code; ``None`` leaves it as it is: the output is ``Int(32)`` then.
    """

    def _check_weights(self) -> None:
        if self.weights.ndim != 2 or not self.weights.size:
            raise self._error(f"weights of shape {self.weights.shape} are not a matrix")


class _Windows:
    """What nodes have in common whose outputs each see a window of the input."""

    name: str
    stride: tuple[int, int]
    padding: Padding

    @property
    def _window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Size of the kernel and dilation."""
        raise NotImplementedError

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output; less than 1 where the kernel exceeds the padded input."""
        rows, columns = (
            (size + sum(pad) - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, dilation, stride, pad in self._axes(height, width)
        )
        return rows, columns

    def coverage(self, height: int, width: int) -> NDArray[np.int64]:
        """How many positions of the input, without padding, the window of each output covers.

        Raises
        ------
        NetworkError
            The maps are larger than any network's.
        """
        positions = self.positions(height, width)
        padded = prod(size + sum(pad) for size, pad in zip((height, width), self.padding, strict=True))
        if max(padded, prod(positions)) > MAP_MAX:
            raise NetworkError(f"node '{self.name}'", f"has maps of more than {MAP_MAX} positions")
        counts = []
        for count, axis in zip(positions, self._axes(height, width), strict=True):
            size, kernel, dilation, stride, pad = axis
            # Where the window begins, and which of its taps are the first and the last inside.
            start = np.arange(count) * stride - pad[0]
            first = np.maximum(-(start // dilation), 0)
            last = np.minimum((size - 1 - start) // dilation, kernel - 1)
            counts.append(np.maximum(last - first + 1, 0))
        return np.outer(*counts)

    def _axes(self, height: int, width: int) -> Iterator[tuple[int, int, int, int, tuple[int, int]]]:
        kernel, dilation = self._window
        return zip((height, width), kernel, dilation, self.stride, self.padding, strict=True)

    def _check_windows(self) -> None:
        kernel, dilation = self._window
        for what, values, least in (
            ("kernel", kernel, 1),
            ("stride", self.stride, 1),
            ("dilation", dilation, 1),
            ("padding", sum(self.padding, ()), 0),
        ):
            if len(values) != (4 if what == "padding" else 2) or min(values) < least:
                shown = self.padding if what == "padding" else values
                raise NetworkError(f"node '{self.name}'", f"{what} {shown} is not possible")


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution(_Product, _Windows):
    """A convolution over height and width, quantised, of any number of groups::

        acc[y, x, n] = bias[n] + sum_(i, j, c) weights[n, i, j, c] * (input[v, u, g * C/groups + c] - z_input)
        v = y * stride[0] - padding[0][0] + i * dilation[0]
        u = x * stride[1] - padding[1][0] + j * dilation[1]
        g = n // (N / groups)
        output = quantiser(acc)

    Outside the input stands its zero point, real 0, also where the input's codes are -1 and +1. With as many
    groups as input channels it is depthwise, of any multiplier. A 1-D convolution has the kernel height 1.

    Parameters
    ----------
    weights
        N × kernel height × kernel width × C/groups integers, zero point already removed.
    weight_format, bias, quantiser
        As of :class:`FullyConnected`.
    stride, dilation, padding
        Over height and width.
    groups
        Into how many parts input and output channels are divided.
    """

    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    groups: int = 1

    def _check_weights(self) -> None:
        if self.weights.ndim != 4 or not self.weights.size:
            raise self._error(f"weights of shape {self.weights.shape} have not four axes")
        self._check_windows()
        if self.groups < 1 or self.channels % self.groups:
            raise self._error(f"{self.channels} output channels are not {self.groups} groups")

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        height, width = self.weights.shape[1:3]
        return height, width

    @property
    def _window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return self.kernel, self.dilation

    @property
    def input_channels(self) -> int:
        """C: channels of the input, of all groups."""
        return int(self.weights.shape[3]) * self.groups

    @property
    def depthwise(self) -> bool:
        """Whether every output channel sees one input channel, and there are several of these."""
        return self.groups > 1 and self.weights.shape[3] == 1


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(_OneInput, _Windows):
    """The greatest code of each window over height and width; padding never wins.

    Parameters
    ----------
    kernel, stride, padding
        Over height and width. Every window covers some of the input.
    """

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: Padding = ((0, 0), (0, 0))

    def __post_init__(self) -> None:
        self._check_windows()

    @property
    def _window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return self.kernel, (1, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class AveragePool(_OneInput, _Windows):
    """The mean of each window over height and width, by the network's own arithmetic::

        output = tables[n][sum of the n raw codes - n * least code of the input's format]

    ``n`` is how many positions of the input the window covers; with `count_padding` it is the size of the
    kernel, and padding adds the zero point. A kernel of the whole input pools globally.

    Parameters
    ----------
    kernel, stride, padding
        Over height and width. Every window covers some of the input.
    tables
        For every ``n`` that occurs, the output code of every sum; :meth:`tabulated` fills them in.
    count_padding
        Whether padding counts.
    """

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    tables: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)
    count_padding: bool = False

    def __post_init__(self) -> None:
        self._check_windows()
        tables = {int(count): _frozen(table) for count, table in self.tables.items()}
        object.__setattr__(self, "tables", MappingProxyType(tables))

    @property
    def _window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return self.kernel, (1, 1)

    def counts(self, height: int, width: int) -> NDArray[np.int64]:
        """``n`` of each output position, for an input of that size."""
        covered = self.coverage(height, width)
        return np.full_like(covered, prod(self.kernel)) if self.count_padding else covered

    def tabulated(
        self, source: TensorInfo, mean: Callable[[NDArray[np.int64], int], ArrayLike]
    ) -> "AveragePool":
        """The same node with its tables.

        Parameters
        ----------
        source
            Its input.
        mean
            The network's arithmetic: output codes for sums of so many raw codes.

        Raises
        ------
        NetworkError
            A table would be too large.
        """
        assert source.format is not None
        counts = self.counts(*source.canonical[1:3])
        return replace(self, tables=average_tables(counts, source.format, mean, where=f"node '{self.name}'"))


_ENTRIES_AT_ONCE = 1 << 20
"""Of a table, those that are computed together."""


def average_tables(
    counts: NDArray[np.int64],
    format: Format,
    mean: Callable[[NDArray[np.int64], int], ArrayLike],
    where: str = "average pooling",
) -> dict[int, NDArray[np.int64]]:
    """Tables of an :class:`AveragePool`.

    Parameters
    ----------
    counts
        From :meth:`AveragePool.counts`, or any numbers of positions.
    format
        That of the input's codes.
    mean
        The network's arithmetic: output codes for sums of so many raw codes.
    where
        How messages begin.

    Raises
    ------
    NetworkError
        A table would be too large.
    """
    tables = {}
    for count in np.unique(counts).tolist():
        entries = _average_entries(format, count, where)
        table = tables[count] = np.empty(entries, np.int64)
        # In parts, as the arithmetic takes several times the memory of its results.
        for start in range(0, entries, _ENTRIES_AT_ONCE):
            sums = np.arange(start, min(start + _ENTRIES_AT_ONCE, entries)) + count * format.min
            table[start : start + len(sums)] = mean(sums, count)
    return tables


def _average_entries(format: Format, count: int, where: str) -> int:
    entries = count * (format.max - format.min) + 1
    if entries > TABLE_MAX:
        raise NetworkError(where, f"would need a table of {entries} entries, more than {TABLE_MAX}")
    return entries


@dataclass(frozen=True, kw_only=True, eq=False)
class Binary:
    """Element by element, a code for each pair of codes: addition, subtraction, multiplication, ...::

        output = table[index of a, index of b]

    The index of a code is its place among the values of its format: ``code - min`` for an integer.

    Parameters
    ----------
    inputs
        Two tensors of the output's shape, or one twice.
    table
        A × B codes of the output, which the network's own arithmetic gives.
    """

    name: str
    inputs: tuple[str, str]
    output: str
    table: NDArray[np.int64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", _frozen(self.table))
        if len(self.inputs) != 2:
            raise NetworkError(f"node '{self.name}'", f"must have two inputs, not {len(self.inputs)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookup(_OneInput):
    """Element by element, a code for each code: ``output = table[index of input]``.

    The index is that of :class:`Binary`.

    Parameters
    ----------
    table
        A codes of the output, which the network's own arithmetic gives.
    """

    name: str
    input: str
    output: str
    table: NDArray[np.int64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", _frozen(self.table))


@dataclass(frozen=True, kw_only=True)
class Concatenate:
    """Tensors of one quantisation behind each other.

    Parameters
    ----------
    inputs
        Tensors with the format, scale and zero point of the output.
    axis
        Which axis of the shape they follow each other along; not negative.
    align
        Each input but the first begins at a multiple of so many elements; what lies between them is the zero
        point.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    axis: int
    align: int = 1

    def __post_init__(self) -> None:
        if not self.inputs:
            raise NetworkError(f"node '{self.name}'", "has no inputs")
        if self.align < 1:
            raise NetworkError(f"node '{self.name}'", f"cannot begin inputs at multiples of {self.align}")

    def starts(self, sizes: Iterable[int]) -> list[int]:
        """Where on the axis each input begins, given their sizes there, and last where the output ends."""
        found, end = [], 0
        for size in sizes:
            start = -(-end // self.align) * self.align
            found.append(start)
            end = start + size
        return [*found, end]


@dataclass(frozen=True, kw_only=True)
class Select(_OneInput):
    """Some channels, in any order, also several times: ``output[..., n] = input[..., channels[n]]``.

    Parameters
    ----------
    channels
        For each channel of the output, that of the input.
    """

    name: str
    input: str
    output: str
    channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Upsample(_OneInput):
    """Every position several times, along height and width: ``output[y, x] = input[y // f, x // g]``.

    Parameters
    ----------
    factors
        f and g.
    """

    name: str
    input: str
    output: str
    factors: tuple[int, int]

    def __post_init__(self) -> None:
        if len(self.factors) != 2 or min(self.factors) < 1:
            raise NetworkError(f"node '{self.name}'", f"repeats positions {self.factors} times")


@dataclass(frozen=True, kw_only=True)
class Pad(_OneInput):
    """A constant code around the input, or a part of the input.

    Parameters
    ----------
    padding
        Positions added before and behind, for each axis of the shape; so many are left out if negative.
    value
        The code.
    """

    name: str
    input: str
    output: str
    padding: tuple[tuple[int, int], ...]
    value: int


@dataclass(frozen=True, kw_only=True)
class Transpose(_OneInput):
    """The same codes with the axes in another order.

    Parameters
    ----------
    axes
        For each axis of the output, that of the input.
    """

    name: str
    input: str
    output: str
    axes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Softmax(_OneInput):
    """``exp(beta * x) / sum exp(beta * x)`` along the last axis, on the host.

    The output is codes, or float32 where it has no format.

    Parameters
    ----------
    arithmetic
        ``"tflite"``: int8 codes to int8 codes in TFLite's fixed point, exactly. ``"float32"``: of the real
        numbers, in float32; codes are rounded as `rounding` says.
    """

    name: str
    input: str
    output: str
    arithmetic: SoftmaxArithmetic
    beta: float = 1.0
    rounding: HostRounding = "half_even"

    def __post_init__(self) -> None:
        where = f"node '{self.name}'"
        if self.arithmetic not in get_args(SoftmaxArithmetic):
            raise NetworkError(where, f"arithmetic {self.arithmetic!r} is neither 'tflite' nor 'float32'")
        if not (isfinite(self.beta) and self.beta > 0):
            raise NetworkError(where, f"beta {self.beta} is not a positive number")
        if self.rounding not in _HOST_ROUNDINGS:
            raise NetworkError(where, f"rounding {self.rounding!r} is not known")


@dataclass(frozen=True, kw_only=True)
class ArgMax(_OneInput):
    """Index of the greatest code along an axis, on the host, as ``Int(32)``.

    Parameters
    ----------
    axis
        Which axis of the shape; not negative. The output has no such axis, or one of one element.
    last
        Of equal codes, whether the last one counts and not the first.
    """

    name: str
    input: str
    output: str
    axis: int
    last: bool = False


Product: TypeAlias = FullyConnected | Convolution
"""A node with weights."""

Node: TypeAlias = (
    Quantize
    | Dequantize
    | FullyConnected
    | Convolution
    | MaxPool
    | AveragePool
    | Binary
    | Lookup
    | Concatenate
    | Pad
    | Reshape
    | Select
    | Softmax
    | ArgMax
    | Transpose
    | Upsample
)


def on_host(node: Node) -> bool:
    """Whether the host runs it and not the engine, wherever it stands."""
    return isinstance(node, Quantize | Dequantize | Softmax | ArgMax)


def same_order(node: Reshape | Transpose, source: TensorInfo, result: TensorInfo) -> bool:
    """Whether it only relabels: the channels-last views hold the same elements in the same order."""
    elements = np.arange(source.size).reshape(1, *source.shape)
    if isinstance(node, Transpose):
        moved = elements.transpose(0, *(1 + axis for axis in node.axes))
    else:
        moved = elements.reshape(1, *result.shape)
    return bool((source.to_canonical(elements).ravel() == result.to_canonical(moved).ravel()).all())


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
            for tensor_name in node.inputs:
                if tensor_name in self.tensors and tensor_name not in ready:
                    raise NetworkError(where, f"reads '{tensor_name}' before any node has produced it")
            if node.output in ready:
                raise NetworkError(where, f"produces '{node.output}', which exists already")
            ready.add(node.output)
            self.check_node(node, self.tensors)
        for tensor_name in self.tensors:
            if tensor_name not in ready:
                raise NetworkError(f"tensor '{tensor_name}'", "is produced by no node")

    @staticmethod
    def _check(node: Node, sources: Sequence[TensorInfo], result: TensorInfo) -> None:
        def require(condition: bool, what: str) -> None:
            if not condition:
                raise NetworkError(f"node '{node.name}'", what)

        source = sources[0]
        if not isinstance(node, Quantize | Dequantize):
            for tensor in (*sources, result):
                exempt = isinstance(node, Reshape) or (isinstance(node, Softmax) and tensor is result)
                require(tensor.format is not None or exempt, f"'{tensor.name}' has no integer format")
        match node:
            case Quantize() | Dequantize():
                _check_edge(node, source, result, require)
            case FullyConnected() | Convolution():
                _check_product(node, source, result, require)
            case MaxPool() | AveragePool():
                _check_pool(node, source, result, require)
            case Binary() | Lookup():
                _check_tabulated(node, sources, result, require)
            case Reshape() | Transpose() | Pad() | Select() | Upsample():
                _check_moved(node, source, result, require)
            case Concatenate():
                _check_concatenate(node, sources, result, require)
            case Softmax() | ArgMax():
                _check_host(node, source, result, require)

    @classmethod
    def check_node(cls, node: Node, tensors: Mapping[str, TensorInfo]) -> None:
        """Check that a node and its tensors fit together.

        Raises
        ------
        NetworkError
            They do not, or one of them is missing; the message names the node.
        """
        for name in (*node.inputs, node.output):
            if name not in tensors:
                raise NetworkError(
                    f"node '{node.name}'", f"its tensor '{name}' is not among the graph's tensors"
                )
        cls._check(node, [tensors[name] for name in node.inputs], tensors[node.output])

    def fully_connected(self) -> Iterator[tuple[FullyConnected, int]]:
        """Every matrix product, with the number of its rows."""
        for node, rows in self.products():
            if isinstance(node, FullyConnected):
                yield node, rows

    def products(self) -> Iterator[tuple[Product, int]]:
        """Every node with weights, with the number of its rows: of a convolution, its output positions."""
        for node in self.nodes:
            match node:
                case FullyConnected():
                    yield node, prod(self.tensors[node.input].shape[:-1])
                case Convolution():
                    yield node, prod(self.tensors[node.output].canonical[:3])

    @property
    def tail(self) -> tuple[Node, ...]:
        """What the host runs on what the engine leaves.

        These are softmax, the index of the greatest, dequantising, and all that reads what these make.
        """
        nodes: list[Node] = []
        made: set[str] = set()
        for node in self.nodes:
            first = isinstance(node, Quantize) and not made.intersection(node.inputs)
            if (on_host(node) and not first) or made.intersection(node.inputs):
                nodes.append(node)
                made.add(node.output)
        return tuple(nodes)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference; those with padding count as well."""
        return sum(node.macs(rows) for node, rows in self.products())


_Require = Callable[[bool, str], None]


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _check_edge(
    node: Quantize | Dequantize, source: TensorInfo, result: TensorInfo, require: _Require
) -> None:
    edge, codes = (source, result) if isinstance(node, Quantize) else (result, source)
    require(edge.format is None, f"'{edge.name}' is not a float tensor")
    require(codes.format is not None, f"'{codes.name}' has no integer format")
    require(source.shape == result.shape, f"changes the shape from {source.shape} to {result.shape}")
    if isinstance(node, Quantize):
        _check_quantize(node, result, require)
    else:
        for key, values in (("gain", node.gain), ("offset", node.offset)):
            require(
                values is None or values.shape in ((), source.shape[-1:]),
                f"{key} does not match the last axis of {source.shape}",
            )


def _check_product(node: Product, source: TensorInfo, result: TensorInfo, require: _Require) -> None:
    if isinstance(node, FullyConnected):
        require(len(source.shape) > 0, f"its input '{source.name}' has no axes")
        require(
            source.shape[-1] == node.reduction,
            f"the last axis of its input {source.shape} does not have {node.reduction} elements",
        )
        expected = (*source.shape[:-1], node.channels)
        require(result.shape == expected, f"makes shape {expected}, but its output has {result.shape}")
    else:
        channels = source.canonical[3]
        require(
            channels == node.input_channels,
            f"its input '{source.name}' has {channels} channels, not {node.input_channels}",
        )
        _check_windows(node, source, result, node.channels, require)
    _check_quantiser(node.quantiser, result, require)


def _check_pool(
    node: MaxPool | AveragePool, source: TensorInfo, result: TensorInfo, require: _Require
) -> None:
    height, width = _check_windows(node, source, result, source.canonical[3], require)
    require(bool(node.coverage(height, width).all()), "has a window that covers nothing but padding")
    if isinstance(node, MaxPool):
        _check_same_codes(source, result, "size", require)
    else:
        _check_averages(node, np.unique(node.counts(height, width)), source, result, require)


def _check_tabulated(
    node: Binary | Lookup, sources: Sequence[TensorInfo], result: TensorInfo, require: _Require
) -> None:
    for tensor in sources:
        _check_same_axes(tensor, result, require)
    expected = tuple(_codes(tensor) for tensor in sources)
    require(
        prod(expected) <= TABLE_MAX,
        f"would need a table of {' x '.join(map(str, expected))} entries, more than {TABLE_MAX}",
    )
    _check_table(node.table, expected, result, require)


def _check_moved(
    node: Reshape | Transpose | Pad | Select | Upsample,
    source: TensorInfo,
    result: TensorInfo,
    require: _Require,
) -> None:
    match node:
        case Select():
            _check_same_codes(source, result, "channels", require)
            *outer, count = source.canonical
            require(
                all(channel in range(count) for channel in node.channels),
                f"selects channels {node.channels} of {count}",
            )
            expected = (*outer, len(node.channels))
            require(
                result.canonical == expected,
                f"makes {expected} of batch, height, width and channels, "
                f"but its output has {result.canonical}",
            )
        case Upsample():
            _check_same_codes(source, result, "size", require)
            batch, height, width, count = source.canonical
            expected = (batch, height * node.factors[0], width * node.factors[1], count)
            require(
                result.canonical == expected,
                f"makes {expected} of batch, height, width and channels, "
                f"but its output has {result.canonical}",
            )
        case Reshape():
            require(
                source.size == result.size,
                f"cannot reshape {source.shape} to {result.shape}: the number of elements differs",
            )
            _check_same_codes(source, result, "shape", require)
        case Transpose():
            _check_same_codes(source, result, "order", require)
            require(
                sorted(node.axes) == list(range(len(source.shape))),
                f"axes {node.axes} are not those of {source.shape} in another order",
            )
            expected = tuple(source.shape[axis] for axis in node.axes)
            require(result.shape == expected, f"makes shape {expected}, but its output has {result.shape}")
        case Pad():
            _check_same_codes(source, result, "shape", require)
            require(
                len(node.padding) == len(source.shape)
                and all(
                    len(pad) == 2 and size + min(*pad, sum(pad)) > 0
                    for size, pad in zip(source.shape, node.padding, strict=False)
                ),
                f"padding {node.padding} is not two counts for each axis of {source.shape}",
            )
            expected = tuple(size + sum(pad) for size, pad in zip(source.shape, node.padding, strict=True))
            require(result.shape == expected, f"makes shape {expected}, but its output has {result.shape}")
            assert source.format is not None
            require(
                source.format.contains(np.array([node.value])),
                f"its value {node.value} is not one of {source.format}",
            )


def _check_concatenate(
    node: Concatenate, sources: Sequence[TensorInfo], result: TensorInfo, require: _Require
) -> None:
    axis = node.axis
    require(axis in range(len(result.shape)), f"axis {axis} is none of shape {result.shape}")
    for tensor in sources:
        _check_same_codes(tensor, result, "shape", require)
        require(
            len(tensor.shape) == len(result.shape)
            and _without(tensor.shape, axis) == _without(result.shape, axis),
            f"cannot join {tensor.shape} to {result.shape} along axis {axis}",
        )
    require(
        node.starts(tensor.shape[axis] for tensor in sources)[-1] == result.shape[axis],
        f"its inputs do not add up to {result.shape} along axis {axis}",
    )
    require(
        all(tensor.channels_at == result.channels_at for tensor in sources),
        "its tensors do not have their channels on the same axis",
    )


def _check_host(node: Softmax | ArgMax, source: TensorInfo, result: TensorInfo, require: _Require) -> None:
    match node:
        case Softmax():
            require(source.shape == result.shape, f"changes the shape from {source.shape} to {result.shape}")
            require(len(source.shape) > 0, f"its input '{source.name}' has no axes")
            if node.arithmetic == "tflite":
                require(
                    (source.format, result.format) == (Int(8), Int(8))
                    and (result.scale, result.zero_point) == (1 / 256, -128),
                    "TFLite's softmax is from int8 to int8 with the scale 1/256 and the zero point -128",
                )
                require(
                    source.scale * node.beta * (1 << 26) > 1,
                    f"scale {source.scale} times beta {node.beta} is too small for TFLite's softmax",
                )
        case ArgMax():
            axis = node.axis
            require(axis in range(len(source.shape)), f"axis {axis} is none of shape {source.shape}")
            expected = _without(source.shape, axis)
            kept = (*source.shape[:axis], 1, *source.shape[axis + 1 :])
            require(
                result.shape in (expected, kept),
                f"makes shape {expected}, but its output has {result.shape}",
            )
            require(
                (result.format, result.scale, result.zero_point) == (_INT32, 1.0, 0),
                f"makes indices, but its output is not {_INT32} with the scale 1 and the zero point 0",
            )


def _check_same_codes(source: TensorInfo, result: TensorInfo, what: str, require: _Require) -> None:
    require(
        (source.format, source.scale, source.zero_point) == (result.format, result.scale, result.zero_point),
        f"changes the format, scale or zero point; only the {what} may change",
    )


def _check_same_axes(source: TensorInfo, result: TensorInfo, require: _Require) -> None:
    require(
        source.shape == result.shape,
        f"its input '{source.name}' has shape {source.shape}, but its output has {result.shape}",
    )
    require(
        source.channels_at == result.channels_at,
        f"its input '{source.name}' does not have its channels on the axis of its output",
    )


def _check_windows(
    node: Convolution | MaxPool | AveragePool,
    source: TensorInfo,
    result: TensorInfo,
    channels: int,
    require: _Require,
) -> tuple[int, int]:
    """Checks the output's shape; returns height and width of the input."""
    batch, height, width, _ = source.canonical
    positions = node.positions(height, width)
    require(
        min(positions) >= 1, f"its kernel is larger than its input of {height} x {width} with the padding"
    )
    node.coverage(height, width)  # refuses maps that are too large
    expected = batch, *positions, channels
    require(
        result.canonical == expected,
        f"makes {expected} of batch, height, width and channels, but its output has {result.canonical}",
    )
    return height, width


def _check_averages(
    node: AveragePool, counts: NDArray[np.int64], source: TensorInfo, result: TensorInfo, require: _Require
) -> None:
    assert source.format is not None
    padded = node.count_padding and any(sum(node.padding, ()))
    require(not padded or isinstance(source.format, Int), f"pads {source.format}, which has no zero")
    for count in counts.tolist():
        require(count in node.tables, f"has no table for windows of {count} positions")
        entries = _average_entries(source.format, count, f"node '{node.name}'")
        _check_table(node.tables[count], (entries,), result, require)


def _check_table(
    table: NDArray[np.int64], shape: tuple[int, ...], result: TensorInfo, require: _Require
) -> None:
    require(table.shape == shape, f"its table has shape {table.shape}, not {shape}")
    assert result.format is not None
    require(
        result.format.contains(table),
        f"its table of {table.min()}..{table.max()} does not fit {result.format}",
    )


def _codes(tensor: TensorInfo) -> int:
    """How many codes there are."""
    match tensor.format:
        case Int() as format:
            return 1 << format.bits
        case _:
            return 2


def _check_quantize(node: Quantize, result: TensorInfo, require: _Require) -> None:
    require(node.rounding in _HOST_ROUNDINGS, f"rounding {node.rounding!r} is not known")
    assert result.format is not None
    low = result.format.min if node.low is None else node.low
    high = result.format.max if node.high is None else node.high
    require(
        result.format.min <= low <= high <= result.format.max,
        f"clamp {low}..{high} is not a range of {result.format}",
    )
    if not isinstance(result.format, Int):
        require(node.low is None and node.high is None, f"clamps {result.format}, which has two codes")
    for step in node.steps:
        try:
            fits = np.broadcast_shapes(step.shape, result.shape) == result.shape
        except ValueError:
            fits = False
        require(fits, f"a constant of shape {step.shape} does not match the input {result.shape}")


def _check_quantiser(
    quantiser: Requantise | Thresholds | None, result: TensorInfo, require: _Require
) -> None:
    format = result.format
    assert format is not None
    match quantiser:
        case None:
            require(
                (format, result.zero_point) == (_INT32, 0),
                f"makes accumulators, but its output is {format} with zero point {result.zero_point}",
            )
        case Requantise(low=low, high=high):
            require(isinstance(format, Int), f"requantises to {format}; thresholds make that")
            require(
                format.min <= low <= high <= format.max, f"clamp {low}..{high} is not a range of {format}"
            )
        case Thresholds(low=low, count=count) if isinstance(format, Int):
            require(
                format.min <= low <= low + count <= format.max,
                f"codes {low}..{low + count} are not a range of {format}",
            )
        case Thresholds(low=low, count=count):
            require(
                (low, count) == (-1, 1),
                f"makes {count + 1} codes from {low} up; {format} are two, from -1",
            )
