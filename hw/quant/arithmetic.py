"""Requantisation on integers: what the golden model computes and the hardware must equal, bit for bit.

A layer's accumulator is brought to the scale of its output by a real factor ``M``, held as a 31-bit
multiplier ``m`` and a binary exponent ``shift``::

    M = m / 2**31 * 2**shift

Source: TensorFlow Lite, ``QuantizeMultiplier`` and ``MultiplyByQuantizedMultiplier``, which round as
gemmlowp does (``fixedpoint/fixedpoint.h``); ONNX, ``QuantizeLinear``, for the rounding to even.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "MAX_LEFT_SHIFT",
    "MIN_SHIFT",
    "MULTIPLIER_BITS",
    "Rounding",
    "quantise_multiplier",
    "requantise",
]

Rounding = Literal["tflite", "half_even"]
"""Rounding rule: gemmlowp's two roundings, or one rounding to the nearest, ties to even."""

MULTIPLIER_BITS = 31
"""Fraction bits of the multiplier, and its width."""

MAX_LEFT_SHIFT = 6
"""Greatest ``shift``: the hardware takes real factors below 2**6."""

MIN_SHIFT = -31
"""Least ``shift``: with any smaller one, every int32 accumulator becomes 0."""

_INT32 = np.iinfo(np.int32)


def quantise_multiplier(real: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Multiplier and shift of real factors.

    ``fraction, shift = frexp(real)``, ``m = round(fraction * 2**31)``, ties up; if that carries to
    ``2**31``, it is halved and ``shift`` grows by 1. A factor with ``shift < MIN_SHIFT`` becomes
    ``(0, 0)``. A ``shift`` above `MAX_LEFT_SHIFT` is returned as it is; :func:`requantise` refuses it.

    Returns
    -------
    multiplier
        From 0 to 2**31 - 1.
    shift
        From `MIN_SHIFT` up.

    Raises
    ------
    ValueError
        A factor is negative, infinite or not a number.
    """
    factors = np.asarray(real, dtype=np.float64)
    bad = ~(np.isfinite(factors) & (factors >= 0))
    if bad.any():
        raise ValueError(f"Requantisation factor must be finite and not negative, not {factors[bad][0]}")
    fraction, exponent = np.frexp(factors)
    # Exact: a float64 holds the 53 bits of the fraction and the half.
    multiplier = np.floor(fraction * 2.0**MULTIPLIER_BITS + 0.5).astype(np.int64)
    shift = exponent.astype(np.int64)
    carry = multiplier == 1 << MULTIPLIER_BITS
    multiplier = np.where(carry, multiplier >> 1, multiplier)
    shift = np.where(carry, shift + 1, shift)
    vanishes = (shift < MIN_SHIFT) | (multiplier == 0)
    return np.where(vanishes, 0, multiplier), np.where(vanishes, 0, shift)


def requantise(
    acc: ArrayLike, multiplier: ArrayLike, shift: ArrayLike, rounding: Rounding
) -> NDArray[np.int64]:
    """``acc * M``, rounded to an integer; the arguments broadcast against each other.

    With ``p = acc * m``, which is below 2**62:

    ``"half_even"``
        ``p / 2**(31 - shift)``, rounded once, ties to even.
    ``"tflite"``, ``shift >= 1``
        ``(p + 2**(30 - shift)) >> (31 - shift)``. This is gemmlowp's doubling high multiplication of
        ``acc << shift``, as long as that fits 32 bits; where it would not, the result here is the
        true one, which lies far outside any 8-bit range.
    ``"tflite"``, ``shift <= 0``
        ``h = (p + 2**30) >> 31``, then ``h / 2**-shift`` rounded to the nearest, ties away from zero.
        ``h`` is gemmlowp's ``SaturatingRoundingDoublingHighMul`` for ``m >= 0``: its truncating
        division with the nudge ``1 - 2**30`` below zero equals the floor with ``2**30`` everywhere.

    Raises
    ------
    ValueError
        An argument is out of range, or the rounding is unknown.
    """
    accumulators = np.asarray(acc, dtype=np.int64)
    m = np.asarray(multiplier, dtype=np.int64)
    s = np.asarray(shift, dtype=np.int64)
    _check("Accumulator", accumulators, _INT32.min, _INT32.max)
    _check("Multiplier", m, 0, (1 << MULTIPLIER_BITS) - 1)
    _check("Shift", s, MIN_SHIFT, MAX_LEFT_SHIFT)
    product = accumulators * m
    one = np.int64(1)
    if rounding == "half_even":
        places = MULTIPLIER_BITS - s
        floor = product >> places
        remainder = product & ((one << places) - 1)
        half = one << (places - 1)
        up = (remainder > half) | ((remainder == half) & (floor & 1 == 1))
        return np.asarray(floor + up, dtype=np.int64)
    if rounding == "tflite":
        left = np.maximum(s, 0)
        right = np.maximum(-s, 0)
        high = (product + (one << (MULTIPLIER_BITS - 1 - left))) >> (MULTIPLIER_BITS - left)
        remainder = high & ((one << right) - 1)
        # With right == 0 the remainder is 0 and nothing is added.
        threshold = (((one << right) - 1) >> 1) + (high < 0)
        return np.asarray((high >> right) + (remainder > threshold), dtype=np.int64)
    raise ValueError(f"Rounding must be 'tflite' or 'half_even', not {rounding!r}")


def _check(what: str, values: NDArray[np.int64], low: int, high: int) -> None:
    if values.size and (values.min() < low or values.max() > high):
        raise ValueError(f"{what} must be from {low} to {high}, not {values.min()}..{values.max()}")
