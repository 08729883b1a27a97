"""TFLite's arithmetic on int8 codes, of everything that is no matrix product: what its kernels compute.

A function of one or two tensors gives the output code of every code, or of every pair of codes, for
:class:`~bitwright.sim.graph.Lookup` and :class:`~bitwright.sim.graph.Binary`. They are exact because the
kernels are integer arithmetic, whose constants come from the scales in float32 or float64; where a kernel
takes float32, so does the function here.

Source: TensorFlow Lite for Microcontrollers, ``kernels/internal/reference`` and ``micro/kernels``;
gemmlowp, ``fixedpoint/fixedpoint.h``, for the exponential function and the reciprocal.
"""

from math import floor
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitwright.hw.formats import Int
from bitwright.hw.quant.arithmetic import quantise_multiplier

from .graph import TensorInfo

__all__ = [
    "activation_range",
    "add",
    "average",
    "hard_swish",
    "leaky_relu",
    "logistic",
    "mean",
    "multiply",
    "nearest",
    "requantised",
    "scaled",
    "softmax",
    "tanh",
]

_Codes: TypeAlias = NDArray[np.int64]

_MAX = (1 << 31) - 1
_MIN = -(1 << 31)
_ADD_SHIFT = 20


# Parts


def scaled(x: ArrayLike, real: float) -> _Codes:
    """Integers times a real factor: ``MultiplyByQuantizedMultiplier`` of what ``QuantizeMultiplier`` gives.

    Unlike :func:`bitwright.hw.quant.arithmetic.requantise`, it takes negative and large factors.

    Raises
    ------
    ValueError
        The kernel would shift an integer out of 32 bits.
    """
    m, s = quantise_multiplier(abs(real))
    return _multiply_by(np.asarray(x, dtype=np.int64), int(m) if real >= 0 else -int(m), int(s))


def _multiply_by(x: _Codes, multiplier: int, shift: int) -> _Codes:
    left = max(shift, 0)
    if x.size and int(np.abs(x).max()) << left > _MAX:
        raise ValueError(f"A factor of about 2**{shift} is too large")
    return _rounding_shift(_high_product(np.left_shift(x, left), multiplier), max(-shift, 0))


def _high_product(a: _Codes, b: ArrayLike) -> _Codes:
    """``SaturatingRoundingDoublingHighMul``: ``a * b / 2**31``."""
    # Its truncating division with a nudge that depends on the sign equals this floor.
    product: _Codes = (a * np.asarray(b, dtype=np.int64) + (1 << 30)) >> 31
    return np.minimum(product, _MAX)


def _rounding_shift(x: _Codes, places: ArrayLike) -> _Codes:
    """``RoundingDivideByPOT``: ``x / 2**places``, ties away from zero."""
    places = np.asarray(places, dtype=np.int64)
    mask = (np.int64(1) << places) - 1
    up = (x & mask) > (mask >> 1) + (x < 0)
    return np.asarray((x >> places) + up, dtype=np.int64)


def _saturating_shift(x: _Codes, places: int) -> _Codes:
    """``SaturatingRoundingMultiplyByPOT`` with a positive exponent."""
    threshold = (1 << (31 - places)) - 1
    return np.where(x > threshold, _MAX, np.where(x < -threshold, _MIN, x << places))


_EXPONENTIALS = (
    (-2, 1672461947),
    (-1, 1302514674),
    (0, 790015084),
    (1, 290630308),
    (2, 39332535),
    (3, 720401),
    (4, 242),
)
"""``exp(-2**e) * 2**31``."""


def _exponential(a: _Codes, integer_bits: int) -> _Codes:
    """``exp(a)`` of 0 or less with so many integer bits, at most 5; the result has none."""
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    low = (a & (quarter - 1)) - quarter
    # A series around -1/8 for what lies between -1/4 and 0.
    x = (low << integer_bits) + (1 << 28)
    x2 = _high_product(x, x)
    x3 = _high_product(x2, x)
    x4 = _high_product(x2, x2)
    inner = _high_product(_rounding_shift(x4, 2) + x3, 715827883) + x2
    result = 1895147668 + _high_product(x + _rounding_shift(inner, 1), 1895147668)
    rest = low - a
    for exponent, factor in _EXPONENTIALS:
        if integer_bits > exponent:
            has = (rest >> (fraction_bits + exponent)) & 1
            result = np.where(has == 1, _high_product(result, factor), result)
    return np.where(a == 0, _MAX, result)


def _newton(a: _Codes) -> _Codes:
    """``2 / (1 + a)`` for ``a`` from 0 to 1 without integer bits; the result has 2 of them."""
    half = (a + _MAX + 1) // 2
    x = 1515870810 + _high_product(half, -1010580540)
    for _ in range(3):
        rest = (1 << 29) - _high_product(half, x)
        x = x + _saturating_shift(_high_product(x, rest), 2)
    return x


def _half_newton(a: _Codes) -> _Codes:
    """``1 / (1 + a)`` for ``a`` from 0 to 1, without integer bits."""
    return _saturating_shift(_newton(a), 1)


# Elementwise


def _all_codes(tensor: TensorInfo) -> _Codes:
    assert isinstance(tensor.format, Int)
    return np.arange(tensor.format.min, tensor.format.max + 1, dtype=np.int64)


def _clamped(values: _Codes, result: TensorInfo, clamp: tuple[float, float]) -> _Codes:
    return np.clip(values + result.zero_point, *activation_range(result, clamp))


def activation_range(result: TensorInfo, clamp: tuple[float, float]) -> tuple[int, int]:
    """Codes that a fused activation clamps to.

    Parameters
    ----------
    clamp
        The activation's range in real numbers; infinite where it has no bound.
    """
    assert result.format is not None
    low, high = result.format.min, result.format.max
    # In float32; roundf() rounds ties away from zero.
    bounds = [float(np.float32(bound) / np.float32(result.scale)) for bound in clamp]
    if np.isfinite(bounds[0]):
        low = max(low, result.zero_point + _round_away(bounds[0]))
    if np.isfinite(bounds[1]):
        high = min(high, result.zero_point + _round_away(bounds[1]))
    return low, high


def _round_away(x: float) -> int:
    return floor(abs(x) + 0.5) * (1 if x >= 0 else -1)


def add(
    a: TensorInfo, b: TensorInfo, result: TensorInfo, clamp: tuple[float, float], *, subtract: bool = False
) -> _Codes:
    """``a + b`` or ``a - b`` of every pair of codes.

    Parameters
    ----------
    clamp
        Range of the fused activation, in real numbers.

    Raises
    ------
    ValueError
        The kernel does not take the scales.
    """
    unit = 2 * max(a.scale, b.scale)
    factors = a.scale / unit, b.scale / unit
    output = unit / ((1 << _ADD_SHIFT) * result.scale)
    if output >= 1:
        raise ValueError(f"The output's scale is less than 2**-{_ADD_SHIFT - 1} of an input's")
    x, y = (
        scaled((_all_codes(tensor) - tensor.zero_point) << _ADD_SHIFT, factor)
        for tensor, factor in zip((a, b), factors, strict=True)
    )
    total = x[:, None] - y[None, :] if subtract else x[:, None] + y[None, :]
    return _clamped(scaled(total, output), result, clamp)


def multiply(a: TensorInfo, b: TensorInfo, result: TensorInfo, clamp: tuple[float, float]) -> _Codes:
    """``a * b`` of every pair of codes; parameters and errors as of :func:`add`."""
    x, y = (_all_codes(tensor) - tensor.zero_point for tensor in (a, b))
    return _clamped(scaled(np.outer(x, y), a.scale * b.scale / result.scale), result, clamp)


def requantised(
    source: TensorInfo, result: TensorInfo, clamp: tuple[float, float] = (-np.inf, np.inf)
) -> _Codes:
    """Another quantisation of every code, clamped: what QUANTIZE and the ReLUs do.

    Raises
    ------
    ValueError
        The scales are too far apart.
    """
    return _clamped(
        scaled(_all_codes(source) - source.zero_point, source.scale / result.scale), result, clamp
    )


def leaky_relu(source: TensorInfo, result: TensorInfo, alpha: float) -> _Codes:
    """``max(x, 0) + alpha * min(x, 0)`` of every code.

    Raises
    ------
    ValueError
        The scales are too far apart.
    """
    x = _all_codes(source) - source.zero_point
    values = np.where(
        x >= 0,
        scaled(np.maximum(x, 0), source.scale / result.scale),
        scaled(np.minimum(x, 0), source.scale * alpha / result.scale),
    )
    return _clamped(values, result, (-np.inf, np.inf))


def hard_swish(source: TensorInfo, result: TensorInfo) -> _Codes:
    """``x * clamp(x + 3, 0, 6) / 6`` of every code, in the kernel's 16-bit fixed point.

    Raises
    ------
    ValueError
        The kernel does not take the scales.
    """
    fine = np.float32(1 / 128) * np.float32(source.scale)
    output, output_shift = _multiplier16(float(fine / np.float32(result.scale)))
    relu, relu_shift = _multiplier16(float(fine / (np.float32(3) / np.float32(32768))))
    if output_shift > 0:
        raise ValueError("The output's scale is less than 1/128 of the input's")
    x = (_all_codes(source) - source.zero_point) << 7
    preshift = _high_product16(x, output)
    gate = x
    if relu_shift > 0:
        gate = _clip16(gate << min(relu_shift - 1, 31))
    gate = _high_product16(gate, relu)
    if relu_shift > 0:
        gate = _clip16(gate << 1)
    if relu_shift < 0:
        gate = _rounding_shift(gate, -relu_shift)
    gate = (gate + (1 << 15)) >> 1
    product = gate * preshift
    # Rounded towards zero, as C divides.
    product = np.sign(product) * (np.abs(product) >> 15)
    return _clamped(_rounding_shift(product, -output_shift), result, (-np.inf, np.inf))


def _multiplier16(real: float) -> tuple[int, int]:
    m, shift = quantise_multiplier(real)
    # DownScaleInt32ToInt16Multiplier
    return min((int(m) + (1 << 15)) >> 16, (1 << 15) - 1), int(shift)


def _high_product16(a: _Codes, b: int) -> _Codes:
    product: _Codes = (a * b + (1 << 14)) >> 15
    return np.minimum(product, (1 << 15) - 1)


def _clip16(x: _Codes) -> _Codes:
    return np.clip(x, -(1 << 15), (1 << 15) - 1)


def logistic(source: TensorInfo) -> _Codes:
    """``1 / (1 + exp(-x))`` of every code, with the scale 1/256 and the zero point -128."""
    x, saturated = _sigmoid_input(source)
    positive = _half_newton(_exponential(-np.abs(x), 4))
    value = np.where(x > 0, positive, np.where(x < 0, _MAX - positive, 1 << 30))
    codes = np.clip(_rounding_shift(value, 23) - 128, -128, 127)
    return np.select([saturated < 0, saturated > 0], [-128, 127], codes)


def tanh(source: TensorInfo) -> _Codes:
    """``tanh(x)`` of every code, with the scale 1/128 and the zero point 0."""
    x, saturated = _sigmoid_input(source)
    # (1 - e) / (1 + e) of e = exp(-2x), whose raw value with one more integer bit is that of -x.
    positive = _saturating_shift(_newton(_exponential(-np.abs(x), 5)) - (1 << 29), 2)
    codes = np.clip(_rounding_shift(np.sign(x) * positive, 24), -128, 127)
    return np.select([saturated < 0, saturated > 0], [-128, 127], codes)


def _sigmoid_input(source: TensorInfo) -> tuple[_Codes, _Codes]:
    """Every code with 4 integer bits, or 0 and the sign of one that is beyond them."""
    m, shift = quantise_multiplier(source.scale * (1 << 27))
    x = _all_codes(source) - source.zero_point
    saturated = np.sign(x) * (np.abs(x) >= floor(15 * 2.0 ** (27 - int(shift))))
    return _multiply_by(np.where(saturated == 0, x, 0), int(m), int(shift)), saturated


# Reductions


def average(sums: _Codes, count: int, result: TensorInfo, clamp: tuple[float, float]) -> _Codes:
    """Codes of average pooling, for sums of so many raw codes: rounded, ties away from zero."""
    rounded: _Codes = np.sign(sums) * ((np.abs(sums) + count // 2) // count)
    low, high = activation_range(result, clamp)
    return np.clip(rounded, low, high)


def mean(sums: _Codes, count: int, source: TensorInfo, result: TensorInfo) -> _Codes:
    """Codes of MEAN, for sums of so many raw codes."""
    m, s = quantise_multiplier(source.scale / result.scale)
    places = min(count.bit_length() - 1, 32, 31 + int(s))
    multiplier = (int(m) << places) // count
    values = _multiply_by(sums - count * source.zero_point, multiplier, int(s) - places)
    return _clamped(values, result, (-np.inf, np.inf))


def nearest(before: int, after: int, *, align_corners: bool, half_pixel_centres: bool) -> _Codes:
    """Which pixel of `before` each of `after` along an axis is a copy of; in float32, as the kernel.

    Parameters
    ----------
    before, after
        How many pixels there are.
    align_corners, half_pixel_centres
        The operator's options: whether the first and the last of both are the same, and whether positions are
        those of pixels' centres.
    """
    corners = align_corners and after > 1
    scale = (
        np.float32(before - 1) / np.float32(after - 1) if corners else np.float32(before) / np.float32(after)
    )
    at = (np.arange(after, dtype=np.float32) + np.float32(0.5 if half_pixel_centres else 0)) * scale
    whole = np.floor(at + np.float32(0.5)) if align_corners else np.floor(at)
    return np.asarray(np.clip(whole, 0, before - 1), dtype=np.int64)


def softmax(x: NDArray[np.integer], scale: float, beta: float) -> NDArray[np.int8]:
    """Softmax along the last axis, from int8 codes to those of the scale 1/256 and the zero point -128.

    Parameters
    ----------
    x
        Codes.
    scale
        That of the codes.
    beta
        Factor of the exponents.
    """
    m, s = quantise_multiplier(min(beta * scale * (1 << 26), float(_MAX)))
    multiplier, shift = int(m), int(s)
    least = -floor(31 * 2.0 ** (26 - shift))
    codes = x.astype(np.int64)
    difference = codes - codes.max(axis=-1, keepdims=True)
    counts = difference >= least
    exponents = _high_product(np.left_shift(np.where(counts, difference, 0), shift), multiplier)
    powers = np.where(counts, _exponential(exponents, 5), 0)
    # Sums with 12 integer bits, and their reciprocals.
    total = _rounding_shift(powers, 12).sum(axis=-1, keepdims=True)
    _, bits = np.frexp(total.astype(np.float64))
    zeros = 32 - bits.astype(np.int64)
    reciprocal = _half_newton((total << zeros) - (1 << 31))
    shares = _rounding_shift(_high_product(reciprocal, powers), 12 - zeros + 23)
    codes_out = np.clip(shares - 128, -128, 127)
    return np.where(counts, codes_out, -128).astype(np.int8)
