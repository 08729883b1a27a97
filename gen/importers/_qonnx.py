"""Values of a QONNX network, and the nodes that they become."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.formats import Bipolar, Format, Int, Ternary
from bitwright.hw.quant.arithmetic import quantise_multiplier
from bitwright.sim.golden import elementwise, round_whole
from bitwright.sim.graph import (
    LEVEL_MAX,
    LEVEL_MIN,
    Convolution,
    Elementwise,
    FullyConnected,
    NetworkError,
    Operation,
    Quantize,
    Requantise,
    RoundingMode,
    Thresholds,
    printable,
)

from ._onnx import EXPORT, Constant, Window

__all__ = [
    "FOLD",
    "MAX_ACTIVATION_BITS",
    "MAX_ELEMENTS",
    "MAX_THRESHOLD_CODES",
    "MAX_WEIGHT_BITS",
    "Base",
    "Chain",
    "Grid",
    "Input",
    "Integers",
    "Mean",
    "Pooling",
    "Product",
    "Stage",
    "Value",
    "View",
    "activation_format",
    "affine",
    "broadcasts",
    "code_range",
    "folded",
    "host",
    "integers_as_they_are",
    "layer",
    "one_if_same",
    "quantised_constant",
    "rises",
    "run_steps",
    "smallest",
    "step_of",
    "table_of",
    "table_of_means",
    "thresholds_of",
    "with_multiplier",
    "with_thresholds",
]

MAX_ACTIVATION_BITS = 8
MAX_WEIGHT_BITS = 16
MAX_THRESHOLD_CODES = 16
MAX_ELEMENTS = 1 << 24
"""Elements of a folded constant: a few small initialisers can stand for any number of them."""

FOLD = "fold constants (qonnx-cleanup, onnxsim)"
"""What to do about constants that are computed."""


# What a tensor of the network is, while the nodes are walked


@dataclass(frozen=True)
class Integers:
    """Constant integers times a scale that broadcasts against them and has as many axes."""

    integers: NDArray[np.int64]
    scale: NDArray[np.float32]
    format: Format

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape

    @property
    def real(self) -> NDArray[np.float32]:
        return self.integers.astype(np.float32) * self.scale


@dataclass(frozen=True)
class Input:
    """The graph's float input, its axes perhaps in another order: for each axis, that of the input."""

    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Product:
    """A matrix product or convolution: ``scale[n]`` times the accumulator of channel n, which lies in
    ``low..high``. Without a `window` it is a product over the last axis.
    """

    name: str
    where: str
    output: str
    input: str
    weights: NDArray[np.int64]
    weight_format: Format
    scale: NDArray[np.float64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    shape: tuple[int, ...]
    window: Window | None = None
    groups: int = 1

    @property
    def channel_axis(self) -> int:
        return len(self.shape) - 1 if self.window is None else 1


@dataclass(frozen=True)
class Grid:
    """What the codes of one or two tensors of the graph make, element by element, in float32.

    `values` holds it for every code, or every pair. If `plain`, it is what the codes stand for.
    """

    name: str
    where: str
    output: str
    tensors: tuple[str, ...]
    shape: tuple[int, ...]
    values: NDArray[np.float32]
    plain: bool


@dataclass(frozen=True)
class Mean:
    """Means of windows over the axes of height and width of a tensor of the graph, times a factor."""

    name: str
    where: str
    output: str
    tensor: str
    shape: tuple[int, ...]
    window: Window
    count_padding: bool
    factor: float


Base = Input | Product | Grid | Mean


@dataclass(frozen=True)
class Pooling:
    """The greatest of each window, taken after so many steps; `shape` is what is left."""

    name: str
    where: str
    window: Window
    shape: tuple[int, ...]
    after: int


@dataclass(frozen=True)
class Stage:
    """A quantiser at the end of `before` steps.

    `encode` makes codes, from `low` to `high`, of what comes out of them, and `decode` makes real numbers
    of codes. Where `plain`, the codes are ``clip(round(x / scale + zero_point), low, high)`` or, for a
    bipolar format, the sign; where not, something else that only `encode` says.
    """

    name: str
    where: str
    output: str
    shape: tuple[int, ...]
    before: tuple[Elementwise, ...]
    encode: tuple[Elementwise, ...]
    format: Int | Bipolar
    scale: float
    zero_point: int
    low: int
    high: int
    rounding: RoundingMode
    plain: bool
    pooling: Pooling | None = None
    earlier: "Chain | None" = None
    """What it quantises, if that was quantised before."""
    clamps: bool = False
    """Whether it only narrows the range of the codes that were there before."""

    @property
    def decode(self) -> tuple[Elementwise, ...]:
        shift = (step_of("subtract", self.zero_point),) if self.zero_point else ()
        return (*shift, step_of("multiply", self.scale))

    @property
    def steps(self) -> tuple[Elementwise, ...]:
        return (*self.before, *self.encode, *self.decode)

    @property
    def codes(self) -> int:
        return 2 if isinstance(self.format, Bipolar) else self.high - self.low + 1


@dataclass(frozen=True)
class View:
    """Another name and shape of a quantised tensor.

    If `scaled`, the file's tensor `output` is not what the codes stand for, but some factor times that.
    """

    name: str
    output: str
    shape: tuple[int, ...]
    scaled: bool


@dataclass(frozen=True)
class Chain:
    """What is computed: `steps` after `base`, perhaps reshaped.

    `stage` is the last quantiser among the steps. If `exact`, the value is `factor` times what it made, or
    what the codes of a `Grid` stand for. A `pooling` waits for the next quantiser.
    """

    base: Base
    shape: tuple[int, ...]
    steps: tuple[Elementwise, ...] = ()
    stage: Stage | None = None
    exact: bool = False
    factor: float = 1.0
    views: tuple[View, ...] = ()
    pooling: Pooling | None = None

    @property
    def base_shape(self) -> tuple[int, ...]:
        """Shape of what the steps are applied to."""
        return self.pooling.shape if self.pooling else self.base.shape

    def then(self, *steps: Elementwise) -> "Chain":
        return replace(self, steps=(*self.steps, *steps), exact=False)


Value = Constant | Integers | Chain


def step_of(operation: Operation, constant: Any = None, reverse: bool = False) -> Elementwise:
    array = None if constant is None else np.asarray(constant, dtype=np.float64)
    return Elementwise(operation=operation, constant=array, reverse=reverse)


def run_steps(steps: Sequence[Elementwise], x: NDArray[Any]) -> NDArray[Any]:
    for step in steps:
        x = elementwise(step, x)
    return x


def thresholds_of(
    function: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    codes: int,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Levels at which a monotone function of the accumulator steps, by bisection; every channel at once.

    Parameters
    ----------
    function
        Of accumulators, any number × N, the code of each, from 0 to ``codes - 1``; monotone in each channel,
        rising in some and falling in others.
    low, high
        N accumulators each, in int32: the least and the greatest of each channel.
    codes
        Number of codes, 2 or more.

    Returns
    -------
    levels
        N × (codes - 1), each row ascending, as :class:`bitwright.sim.graph.Thresholds` has them. What holds
        for all of ``low..high``, or for none of it, is `LEVEL_MIN` or `LEVEL_MAX`.
    descending
        N truth values: whether the function falls.
    """
    ends = function(np.stack([low, high]))
    descending = ends[0] > ends[1]
    # A falling function rises with -acc.
    sign = np.where(descending, -1, 1)
    first, last = np.minimum(sign * low, sign * high), np.maximum(sign * low, sign * high)
    wanted = np.arange(1, codes)[:, None]
    lower = np.broadcast_to(first, (codes - 1, len(low))).copy()
    upper = np.broadcast_to(last + 1, lower.shape).copy()
    while (lower < upper).any():
        middle = np.minimum((lower + upper) >> 1, last)
        reached = function(sign * middle) >= wanted
        open_ = lower < upper
        upper = np.where(open_ & reached, middle, upper)
        lower = np.where(open_ & ~reached, middle + 1, lower)
    levels = np.where(lower > last, LEVEL_MAX, sign * lower)
    levels = np.where(lower == first, LEVEL_MIN, levels)
    # Seen from the falling side, what is never reached lies below everything.
    ends_of = {LEVEL_MIN: LEVEL_MAX, LEVEL_MAX: LEVEL_MIN}
    falling = levels[::-1].copy()
    for old, new in ends_of.items():
        falling[levels[::-1] == old] = new
    return np.where(descending, falling, levels).T.copy(), descending


# Lowering


def layer(
    product: Product,
    target: str,
    weights: NDArray[np.int64],
    bias: NDArray[np.int64],
    quantiser: Requantise | Thresholds | None,
) -> FullyConnected | Convolution:
    if product.window is None:
        return FullyConnected(
            name=product.name,
            input=product.input,
            output=target,
            weights=weights,
            weight_format=product.weight_format,
            bias=bias,
            quantiser=quantiser,
        )
    return Convolution(
        name=product.name,
        input=product.input,
        output=target,
        weights=weights,
        weight_format=product.weight_format,
        bias=bias,
        quantiser=quantiser,
        stride=product.window.stride,
        dilation=product.window.dilation,
        padding=product.window.padding,
        groups=product.groups,
    )


def table_of(stage: Stage, values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Codes of a quantiser for numbers, in float32 as the executor computes them."""
    codes = run_steps((*stage.before, *stage.encode), values)
    if not np.isfinite(codes).all():
        raise NetworkError(stage.where, "its input grows beyond all numbers", "check the constants before it")
    return codes.astype(np.int64)


def table_of_means(stage: Stage, means: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Codes of a quantiser for means in float64, of which what is a half comes to exactly that.

    For means that float32 does not add up exactly; see :func:`._runtime.mean_codes`.
    """
    x = means
    for step in (*stage.before, *stage.encode):
        if step.constant is None:
            halves = np.rint(2 * x)
            x = np.where(np.abs(2 * x - halves) <= 2.0**-40 * np.abs(halves), halves / 2, x)
        x = elementwise(step, x)
    if not np.isfinite(x).all():
        raise NetworkError(stage.where, "its input grows beyond all numbers", "check the constants before it")
    return x.astype(np.int64)


def rises(steps: Sequence[Elementwise]) -> bool:
    """Whether what comes out of steps never falls as what goes in grows."""
    for step in steps:
        if step.operation in ("multiply", "divide"):
            assert step.constant is not None
            if step.reverse or (step.constant < 0).any():
                return False
        elif (step.operation == "subtract" and step.reverse) or step.operation == "power":
            return False
    return True


def quantised_constant(
    real: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.float32],
    codes: tuple[int, bool, int, int],
    rounding: RoundingMode,
    where: str,
) -> Integers:
    """Weights: the executor's arithmetic, in float32, up to where it multiplies by the scale again."""
    bits, signed, low, high = codes
    with np.errstate(over="ignore"):
        ratio = real / scale + zero_point
    if bits == 1 and signed:
        return Integers(np.where(ratio >= 0, 1, -1).astype(np.int64), scale, Bipolar())
    rounded = round_whole(np.clip(ratio, np.float32(low), np.float32(high)), rounding)
    integers = (rounded - zero_point).astype(np.int64)
    format: Format = Int(bits, signed)
    if zero_point.any():
        # What the codes may become without their zero point, or, if that is too wide, what they do.
        reach = np.array([low - int(zero_point.max()), high - int(zero_point.min())])
        format = smallest(reach if Int(MAX_WEIGHT_BITS).contains(reach) else integers, where)
    elif bits == 2 and signed and Ternary().contains(integers):
        format = Ternary()
    return Integers(integers, scale, format)


def host(stage: Stage, input: str, output: str) -> Quantize:
    if isinstance(stage.format, Bipolar) and stage.encode[-1].operation == "sign":
        # Only the sign counts; a division before it is kept for what it makes of the smallest numbers.
        steps = (*stage.before, *stage.encode[:-1])
        return Quantize(name=stage.name, input=input, output=output, steps=single(steps))
    if not stage.plain:
        return Quantize(name=stage.name, input=input, output=output, steps=single(stage.steps))
    return Quantize(
        name=stage.name,
        input=input,
        output=output,
        rounding=stage.rounding,
        low=stage.low,
        high=stage.high,
        steps=single(stage.before),
        zero_point_first=stage.zero_point != 0,
    )


def single(steps: Sequence[Elementwise]) -> tuple[Elementwise, ...]:
    """The same steps with constants as the file has them: float32."""
    return tuple(
        step if step.constant is None else replace(step, constant=step.constant.astype(np.float32))
        for step in steps
    )


def codes_of(product: Product, stage: Stage, acc: NDArray[np.int64]) -> NDArray[np.int64]:
    real = acc.astype(np.float64) * product.scale
    codes = run_steps((*stage.before, *stage.encode), real)
    if not np.isfinite(codes).all():
        raise NetworkError(stage.where, "its input grows beyond all numbers", "check the constants before it")
    return codes.astype(np.int64)


def with_thresholds(product: Product, stage: Stage, target: str) -> FullyConnected | Convolution:
    step = 2 if isinstance(stage.format, Bipolar) else 1

    def function(acc: NDArray[np.int64]) -> NDArray[np.int64]:
        return (codes_of(product, stage, acc) - stage.low) // step

    levels, descending = thresholds_of(function, product.low, product.high, stage.codes)
    quantiser = Thresholds(levels=levels, descending=descending, low=stage.low)
    return layer(product, target, product.weights, np.zeros(len(levels), np.int64), quantiser)


def with_multiplier(product: Product, stage: Stage, target: str) -> FullyConnected | Convolution:
    if not stage.plain or stage.rounding != "half_even":
        raise NetworkError(
            stage.where,
            f"makes {stage.codes} codes with rounding {stage.rounding.upper()}",
            f"use ROUND, or no more than {MAX_THRESHOLD_CODES} codes",
        )
    gain, offset, low, high = (
        np.broadcast_to(values, product.scale.shape).copy()
        for values in affine(stage.before, product.scale, stage.where)
    )
    weights = product.weights.copy()
    falling = gain < 0
    weights[falling] = -weights[falling]
    gain = np.abs(gain)
    if not product.weight_format.contains(weights):
        raise NetworkError(
            stage.where,
            f"falls as the result of '{product.name}' grows, and that node's weights, negated, "
            f"do not fit {product.weight_format}",
            "quantise the weights with a narrow range, or negate them",
        )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exact = offset / gain
        # A bias beyond int32 outweighs everything: the channel is constant, as one without a gain is.
        constant = (gain / stage.scale < 2.0**-31) | ~(np.abs(exact) < 1 << 30)
    ends = codes_of(product, stage, np.stack([product.low, product.high]))
    if (ends[0] != ends[1])[constant].any():
        raise NetworkError(
            stage.where, "its bias does not fit int32 in units of the accumulator", "calibrate again"
        )
    weights[constant] = 0
    if not product.weight_format.contains(weights):
        raise NetworkError(
            stage.where,
            f"a channel of '{product.name}' is constant, and {product.weight_format} weights cannot be 0",
            "leave out that channel",
        )
    bias = np.where(constant, ends[0] - stage.zero_point, np.rint(np.where(constant, 0, exact)))
    factor = np.where(constant, 1.0, gain / stage.scale)
    moved = float((np.abs(bias - exact) * factor)[~constant].max(initial=0))
    if moved > 0.05:
        warnings.warn(
            f"{printable(stage.where)}: bias is rounded to the scale of the accumulator, which moves "
            f"results by up to {moved:.2f} codes",
            stacklevel=2,
        )
    lows, highs = (
        np.clip(np.rint(bounds / stage.scale + stage.zero_point), stage.low, stage.high)[~constant]
        for bounds in (low, high)
    )
    if np.unique(lows).size > 1 or np.unique(highs).size > 1:
        raise NetworkError(
            stage.where,
            "an activation before it clamps each channel differently",
            "put the activation directly before the quantiser",
        )
    multiplier, shift = quantise_multiplier(factor)
    # Constant channels keep to the quantiser's range, which is all there is if no other channel is left.
    quantiser = Requantise(
        multiplier=multiplier,
        shift=shift,
        rounding="half_even",
        low=int(lows[0]) if lows.size else stage.low,
        high=int(highs[0]) if highs.size else stage.high,
    )
    return layer(product, target, weights, bias.astype(np.int64), quantiser)


def affine(
    steps: Sequence[Elementwise], scale: NDArray[np.float64], where: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Steps after ``scale * x`` as ``clip(gain * x + offset, low, high)``, each scalar or per channel."""
    gain = np.array(scale, dtype=np.float64)
    # What is added, and the bounds of the clamp, go through every step alike.
    others = np.stack([np.zeros_like(gain), np.full_like(gain, -np.inf), np.full_like(gain, np.inf)])
    for step in steps:
        operation, c = step.operation, step.constant
        if operation in ("multiply", "divide") and c is not None:
            factor = c if operation == "multiply" else 1 / c
            gain = gain * factor
            with np.errstate(invalid="ignore"):
                others = others * factor
            # Infinity times zero: there was no bound, and there still is none.
            others[1:] = np.where(np.isnan(others[1:]), [[-np.inf], [np.inf]], others[1:])
            swapped = others[1] > others[2]
            others[1:] = np.where(swapped, others[:0:-1], others[1:])
        elif operation in ("add", "subtract") and c is not None:
            if step.reverse:
                gain, others = -gain, c - others
                others[1:] = others[:0:-1].copy()
            else:
                others = others + (c if operation == "add" else -c)
        elif operation == "maximum" and c is not None:
            others[1:] = np.maximum(others[1:], c)
        elif operation == "minimum" and c is not None:
            others[1:] = np.minimum(others[1:], c)
        else:
            raise NetworkError(
                where, "quantises what is quantised already, on another grid", "leave out one of the two"
            )
        gain = np.broadcast_to(gain, np.broadcast_shapes(gain.shape, others.shape[1:]))
        others = np.broadcast_to(others, (3, *gain.shape)).copy()
    return gain, others[0], others[1], others[2]


def one_if_same(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """One number where all are the same."""
    return values.reshape(-1)[:1].reshape(()) if (values == values.flat[0]).all() else values


def code_range(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    if signed:
        return -(1 << (bits - 1)) + narrow, (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1 - narrow


def activation_format(low: int, high: int, declared: str) -> Int | None:
    """Format of codes ``low..high``: what the file declares, if they fit it, or the smallest."""
    formats = [Int(bits, low < 0) for bits in range(1, MAX_ACTIVATION_BITS + 1)]
    named = [format for format in formats if str(format).upper() == declared]
    return next((format for format in (*named, *formats) if format.min <= low <= high <= format.max), None)


def smallest(values: NDArray[np.int64], where: str) -> Int:
    for bits in range(2, MAX_WEIGHT_BITS + 1):
        if Int(bits).contains(values):
            return Int(bits)
    raise NetworkError(
        where,
        f"weights less their zero point are {values.min()}..{values.max()}, more than {MAX_WEIGHT_BITS} bits",
        "quantise them symmetrically, with the zero point 0",
    )


def integers_as_they_are(constant: Constant, where: str) -> Integers:
    """Weights that no quantiser stands before: whole numbers, as streamlined networks have them."""
    array = constant.array
    if array.dtype != np.float32 or (array != np.rint(array)).any() or not np.isfinite(array).all():
        raise NetworkError(where, "weights are not quantised", "put a Quant or BipolarQuant before them")
    if array.size and np.abs(array).max() > 1 << MAX_WEIGHT_BITS:
        raise NetworkError(where, f"weights have more than {MAX_WEIGHT_BITS} bits", "use fewer bits")
    integers = array.astype(np.int64)
    narrow = (format for format in (Bipolar(), Ternary()) if format.contains(integers))
    format = next(narrow, None) or smallest(integers, where)
    return Integers(integers, np.ones((1,) * array.ndim, np.float32), format)


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of a shape broadcasts against another and leaves that as it is."""
    return len(shape) <= len(to) and all(
        size in (1, other) for size, other in zip(reversed(shape), reversed(to), strict=False)
    )


def folded(compute: Callable[[], NDArray[Any]], where: str) -> Constant:
    try:
        with np.errstate(all="ignore"):
            return Constant(compute(), None)
    except (ValueError, IndexError, TypeError, OverflowError, MemoryError, ZeroDivisionError) as error:
        raise NetworkError(where, f"cannot be computed ({error})", EXPORT) from None
