"""Requantisation against direct transcriptions of the rules it condenses."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.hw.quant.arithmetic import (
    MAX_LEFT_SHIFT,
    MIN_SHIFT,
    quantise_multiplier,
    requantise,
)

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

accumulators = st.one_of(
    st.integers(INT32_MIN, INT32_MAX),
    st.integers(-4096, 4096),
    st.sampled_from([INT32_MIN, INT32_MIN + 1, -1, 0, 1, INT32_MAX]),
)
multipliers = st.one_of(
    st.integers(0, 2**31 - 1),
    st.sampled_from([0, 1, 2**30 - 1, 2**30, 2**30 + 1, 3 << 29, 2**31 - 1]),
)


def truncating_divide(a: int, b: int) -> int:
    """C's integer division."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def gemmlowp(x: int, m: int, shift: int) -> int:
    """MultiplyByQuantizedMultiplier, line by line, in C's integers."""
    left, right = max(shift, 0), max(-shift, 0)
    a = x * (1 << left)
    if a == INT32_MIN and m == INT32_MIN:
        high = INT32_MAX
    else:
        ab = a * m
        nudge = (1 << 30) if ab >= 0 else (1 - (1 << 30))
        high = truncating_divide(ab + nudge, 1 << 31)
    mask = (1 << right) - 1
    remainder = high & mask
    threshold = (mask >> 1) + (1 if high < 0 else 0)
    return (high >> right) + (1 if remainder > threshold else 0)


@settings(max_examples=2000, deadline=None)
@given(x=accumulators, m=multipliers, shift=st.integers(MIN_SHIFT, MAX_LEFT_SHIFT))
def test_tflite_rounding_equals_gemmlowp(x, m, shift):
    if INT32_MIN <= x << max(shift, 0) <= INT32_MAX:
        assert requantise(x, m, shift, "tflite") == gemmlowp(x, m, shift)


@settings(max_examples=2000, deadline=None)
@given(x=accumulators, m=multipliers, shift=st.integers(MIN_SHIFT, MAX_LEFT_SHIFT))
def test_half_even_equals_exact_fraction(x, m, shift):
    exact = Fraction(x * m, 2 ** (31 - shift))
    assert requantise(x, m, shift, "half_even") == round(exact)


@pytest.mark.parametrize("rounding", ["tflite", "half_even"])
@pytest.mark.parametrize("x", [INT32_MIN, INT32_MAX])
def test_saturating_products_stay_true(rounding, x):
    """Beyond gemmlowp's 32 bits the result is the true product, so that a clamp after it saturates."""
    result = int(requantise(x, 2**31 - 1, MAX_LEFT_SHIFT, rounding))
    assert abs(result - Fraction(x * (2**31 - 1), 2**25)) <= 1


def test_exhaustive_around_ties():
    """Every small accumulator with factors that put many of them on a tie, in both rules."""
    x = np.arange(-1100, 1101)
    for m in (2**30, 2**30 + 1, 3 << 29, 2**31 - 1):
        for shift in range(-11, 4):
            assert requantise(x, m, shift, "tflite").tolist() == [gemmlowp(int(v), m, shift) for v in x]
            assert requantise(x, m, shift, "half_even").tolist() == [
                round(Fraction(int(v) * m, 2 ** (31 - shift))) for v in x
            ]


def test_the_rules_differ_on_ties():
    x = np.array([-6, -2, 2, 6])
    # A factor of 1/4.
    assert requantise(x, 2**30, -1, "tflite").tolist() == [-2, -1, 1, 2]
    assert requantise(x, 2**30, -1, "half_even").tolist() == [-2, 0, 0, 2]


def test_two_roundings_are_not_one():
    """1.25 is first rounded to 1.5, then to 2; -1.25 first to -1, which stays."""
    m, shift = 2**30, -1
    assert requantise(-5, m, shift, "tflite") == -1
    assert requantise(5, m, shift, "tflite") == 2
    assert requantise(5, m, shift, "half_even") == 1


def test_channels_broadcast():
    acc = np.array([[100, 200, 300], [-100, -200, -300]])
    m, shift = quantise_multiplier(np.array([0.5, 0.25, 2.0]))
    assert requantise(acc, m, shift, "half_even").tolist() == [[50, 50, 600], [-50, -50, -600]]


@given(st.floats(min_value=0, max_value=64, exclude_max=True))
def test_multiplier_is_the_nearest(real):
    m, shift = quantise_multiplier(real)
    assert 0 <= m < 2**31
    if m == 0:
        assert shift == 0
        assert real <= 2.0**-32
    else:
        assert m >= 2**30
        assert MIN_SHIFT <= shift <= MAX_LEFT_SHIFT + 1
        error = abs(Fraction(real) - Fraction(int(m)) * Fraction(2) ** (int(shift) - 31))
        assert error <= Fraction(2) ** (int(shift) - 32)


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (0.0, (0, 0)),
        (1.0, (2**30, 1)),
        (0.5, (2**30, 0)),
        (0.75, (3 << 29, 0)),
        (63.0, (63 << 25, 6)),
        # The fraction rounds up to 1: carried into the exponent.
        (1 - 2.0**-40, (2**30, 1)),
        (2.0**-32 * (1 - 2.0**-40), (2**30, -31)),
        # The tie between two multipliers goes up, as C's round() does.
        (0.5 + 2.0**-32, (2**30 + 1, 0)),
        (2.0**-32, (2**30, -31)),
        (2.0**-32 * 0.999, (0, 0)),
        (1e-30, (0, 0)),
        (5e-324, (0, 0)),
    ],
)
def test_multiplier_values(real, expected):
    m, shift = quantise_multiplier(real)
    assert (int(m), int(shift)) == expected


def test_multiplier_keeps_the_shape():
    m, shift = quantise_multiplier(np.full((2, 3), 0.3))
    assert m.shape == shift.shape == (2, 3)
    assert m.dtype == shift.dtype == np.int64


@pytest.mark.parametrize("real", [-1.0, -5e-324, np.inf, -np.inf, np.nan])
def test_multiplier_refuses(real):
    with pytest.raises(ValueError, match="finite and not negative"):
        quantise_multiplier([0.5, real])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2**31, 1, 0, "tflite"), "Accumulator must be from"),
        ((-(2**31) - 1, 1, 0, "half_even"), "Accumulator must be from"),
        ((0, 2**31, 0, "tflite"), "Multiplier must be from 0"),
        ((0, -1, 0, "tflite"), "Multiplier must be from 0"),
        ((0, 1, 7, "tflite"), "Shift must be from -31 to 6"),
        ((0, 1, -32, "half_even"), "Shift must be from -31 to 6"),
        ((0, 1, 0, "up"), "Rounding must be"),
    ],
)
def test_requantise_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        requantise(*arguments)
