"""TFLite's arithmetic: its parts against gemmlowp's definition, its functions against the real ones.

That the functions equal the runtime's, code for code, is what the tests of the importer check where
tflite-micro is installed. Here are checksums of what it gave for some scales.
"""

import zlib

import numpy as np
import pytest

from bitwright.hw.formats import Int
from bitwright.hw.quant.arithmetic import quantise_multiplier
from bitwright.sim import fixed_point
from bitwright.sim.graph import TensorInfo

EVERY = np.arange(-128, 128)
NO_CLAMP = (-np.inf, np.inf)


def info(scale, zero_point=0, format=None):
    return TensorInfo(
        name="t",
        shape=(1,),
        format=format or Int(8),
        scale=float(np.float32(scale)),
        zero_point=zero_point,
    )


def divided(a, b):
    """As C divides: towards zero."""
    return abs(a) // b * (1 if a >= 0 else -1)


def by_gemmlowp(x, real):
    """``MultiplyByQuantizedMultiplier`` as gemmlowp defines its parts."""
    m, shift = (int(value) for value in quantise_multiplier(abs(real)))
    m = m if real >= 0 else -m
    product = (x << max(shift, 0)) * m
    high = divided(product + (1 << 30 if product >= 0 else 1 - (1 << 30)), 1 << 31)
    right = max(-shift, 0)
    mask = (1 << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


@pytest.mark.parametrize("real", [0.5, 1.0, 0.37, 3.0, 0.001, 1e-9, 1e-12, 0.0, -0.25, -1.7, 500.0])
def test_scaled(real):
    rng = np.random.default_rng(0)
    x = np.concatenate([np.arange(-300, 300), rng.integers(-(2**21), 2**21, 300)])
    assert fixed_point.scaled(x, real).tolist() == [by_gemmlowp(value, real) for value in x.tolist()]


def test_factor_that_shifts_out():
    assert fixed_point.scaled([255], float(1 << 20)).item() == 255 << 20
    with pytest.raises(ValueError, match=r"A factor of about 2\*\*26 is too large"):
        fixed_point.scaled([255], float(1 << 25))


def near(codes, real, result, low=-128, high=127, within=1.0):
    """Codes are what the real numbers quantise to, but for so much of one code."""
    assert codes.min() >= low
    assert codes.max() <= high
    exact = np.clip(real / result.scale + result.zero_point, low, high)
    assert np.abs(codes - exact).max() <= within


def reals(tensor):
    return (EVERY - tensor.zero_point) * tensor.scale


@pytest.mark.parametrize("seed", range(10))
def test_near_the_real_functions(seed):
    rng = np.random.default_rng(seed)
    a, b, y = (info(10 ** rng.uniform(-2, 0), int(rng.integers(-128, 128))) for _ in range(3))
    x, x_b = reals(a), reals(b)
    near(fixed_point.add(a, b, y, NO_CLAMP), x[:, None] + x_b, y)
    near(fixed_point.add(a, b, y, NO_CLAMP, subtract=True), x[:, None] - x_b, y)
    near(fixed_point.multiply(a, b, y, NO_CLAMP), x[:, None] * x_b, y)
    near(fixed_point.requantised(a, y), x, y)
    near(fixed_point.leaky_relu(a, y, 0.3), np.where(x < 0, 0.3 * x, x), y)
    near(fixed_point.leaky_relu(a, y, -0.3), np.where(x < 0, -0.3 * x, x), y)
    # 16 bits hold less.
    coarse = info(max(x.max(), 0.1) / 100, -100)
    near(fixed_point.hard_swish(a, coarse), x * np.clip(x + 3, 0, 6) / 6, coarse, within=2.0)
    near(fixed_point.logistic(a), 1 / (1 + np.exp(-x)), info(1 / 256, -128))
    near(fixed_point.tanh(a), np.tanh(x), info(1 / 128))
    codes = rng.integers(-128, 128, (20, 12))
    powers = np.exp(0.7 * (codes - codes.max(axis=1, keepdims=True)) * a.scale)
    shares = powers / powers.sum(axis=1, keepdims=True)
    near(fixed_point.softmax(codes.astype(np.int8), a.scale, 0.7), shares, info(1 / 256, -128))


def test_clamps():
    a, y = info(0.1), info(0.05, -20)
    assert fixed_point.activation_range(y, NO_CLAMP) == (-128, 127)
    assert fixed_point.activation_range(y, (0.0, np.inf)) == (-20, 127)
    assert fixed_point.activation_range(y, (0.0, 6.0)) == (-20, 100)
    # Ties are rounded away from zero, and a bound beyond the format is the format's.
    assert fixed_point.activation_range(info(4.0), (-6.0, 6.0)) == (-2, 2)
    assert fixed_point.activation_range(info(1e-3, 100), (-1.0, 1.0)) == (-128, 127)
    for table in (
        fixed_point.add(a, a, y, (0.0, 6.0)),
        fixed_point.multiply(a, a, y, (0.0, 6.0)),
        fixed_point.requantised(a, y, (0.0, 6.0)),
    ):
        assert (table.min(), table.max()) == (-20, 100)


def test_unsigned_codes():
    table = fixed_point.requantised(info(0.1, 128, Int(8, signed=False)), info(0.1))
    np.testing.assert_array_equal(table, EVERY)


def test_averages():
    sums = np.array([-6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6])
    assert fixed_point.average(sums, 4, info(1), NO_CLAMP).tolist() == [
        -2,
        -1,
        -1,
        -1,
        -1,
        0,
        0,
        0,
        1,
        1,
        1,
        1,
        2,
    ]
    assert fixed_point.average(sums, 1, info(1), (-2.0, 3.0)).tolist() == sums.clip(-2, 3).tolist()
    source, result = info(0.1, 20), info(0.03, -50)
    sums = np.arange(35 * -128, 35 * 127 + 1)
    near(fixed_point.mean(sums, 35, source, result), (sums / 35 - 20) * source.scale, result)


def test_refused_scales():
    tiny, one = info(1e-7), info(1.0)
    with pytest.raises(ValueError, match=r"The output's scale is less than 2\*\*-19 of an input's"):
        fixed_point.add(one, one, tiny, NO_CLAMP)
    with pytest.raises(ValueError, match="is too large"):
        fixed_point.requantised(info(1.0), info(1e-9))
    with pytest.raises(ValueError, match="The output's scale is less than 1/128 of the input's"):
        fixed_point.hard_swish(one, tiny)


A, B, Y = info(0.047, -11), info(0.0313, 29), info(0.0711, -60)
SUMS_OF_THREE = np.arange(3 * -128, 3 * 127 + 1)


@pytest.mark.parametrize(
    ("make", "checksum"),
    [
        (lambda: fixed_point.add(A, B, Y, NO_CLAMP), 1807079285),
        (lambda: fixed_point.add(A, B, Y, NO_CLAMP, subtract=True), 158625604),
        (lambda: fixed_point.multiply(A, B, Y, NO_CLAMP), 4148353331),
        (lambda: fixed_point.requantised(A, Y, (0.0, np.inf)), 1085263569),
        (lambda: fixed_point.leaky_relu(A, Y, float(np.float32(0.17))), 872229409),
        (lambda: fixed_point.hard_swish(A, Y), 2462887721),
        (lambda: fixed_point.logistic(A), 1782744625),
        (lambda: fixed_point.tanh(A), 2237910580),
        (
            lambda: fixed_point.softmax(
                np.random.default_rng(3).integers(-128, 128, (50, 11)), A.scale, float(np.float32(0.7))
            ),
            1930698936,
        ),
        (lambda: fixed_point.mean(SUMS_OF_THREE, 3, A, Y), 3331688455),
        (lambda: fixed_point.average(SUMS_OF_THREE, 3, A, NO_CLAMP), 3749051653),
    ],
    ids=[
        "add",
        "subtract",
        "multiply",
        "relu",
        "leaky",
        "hard_swish",
        "logistic",
        "tanh",
        "softmax",
        "mean",
        "average",
    ],
)
def test_recorded(make, checksum):
    """From tflite-micro 0.dev20261023182759: of all codes, all pairs, or all sums of three codes."""
    codes = make()
    assert zlib.crc32(codes.astype(np.int8).tobytes()) == checksum
