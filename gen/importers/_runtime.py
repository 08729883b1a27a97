"""Arithmetic of onnxruntime, operator by operator, as far as integer graphs need it in tables.

Everything is float32, as its kernels for x86-64 compute it; where these fuse a multiplication with an
addition, the product is not rounded. Other processors may differ in the last bit of a float, which changes
a code only where a result lies that close to the middle between two.

Source: onnxruntime, ``core/mlas/lib`` (``logistic.cpp``, ``tanh.cpp``, ``qladd.cpp``, ``qlmul.cpp``,
``qlgavgpool.cpp``, ``quantize.cpp``) and ``core/providers/cpu/activation/activations.h``.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitwright.hw.formats import Format
from bitwright.hw.quant.arithmetic import MAX_LEFT_SHIFT, MULTIPLIER_BITS, quantise_multiplier, requantise

__all__ = [
    "TIES",
    "Floats",
    "codes_of",
    "exact_sums",
    "fit_multiplier",
    "global_mean",
    "hard_sigmoid",
    "hard_swish",
    "leaky_relu",
    "mean",
    "mean_codes",
    "nearest",
    "qlinear_add",
    "qlinear_multiply",
    "sigmoid",
    "sum_error",
    "tanh",
]

Floats = NDArray[np.float32]

TIES = (
    "of its sums lie in the middle between two codes, where the order in which onnxruntime adds float32 "
    "numbers decides; there halves go to even, which may be one code off"
)
"""What to warn of, behind how many of a mean's sums are so."""

# Of odd powers, then of even ones, the highest first.
_LOGISTIC = (
    (
        4.37031012579801e-11,
        1.15627324459942e-07,
        6.08574864600143e-05,
        8.51377133304701e-03,
        2.48287947061529e-01,
    ),
    (
        6.10247389755681e-13,
        5.76102136993427e-09,
        6.29106785017040e-06,
        1.70198817374094e-03,
        1.16817656904453e-01,
        9.93151921023180e-01,
    ),
)
_TANH = (
    (
        -2.76076847742355e-16,
        2.00018790482477e-13,
        -8.60467152213735e-11,
        5.12229709037114e-08,
        1.48572235717979e-05,
        6.37261928875436e-04,
        4.89352455891786e-03,
    ),
    (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03),
)


def codes_of(real: ArrayLike, scale: float, zero_point: int, format: Format) -> NDArray[np.int64]:
    """``saturate(round_half_even(real / scale) + zero_point)``, divided in float32."""
    with np.errstate(over="ignore"):
        whole = np.rint(np.asarray(real, dtype=np.float32) / np.float32(scale))
    # Clipped before the zero point is added: adding it to a large float32 would round again.
    low, high = format.min - zero_point, format.max - zero_point
    codes: NDArray[np.int64] = np.clip(whole, low, high).astype(np.int64) + zero_point
    return codes


def _fused(a: Floats, b: Floats | np.float32, c: Floats | np.float32) -> Floats:
    """``a * b + c``, rounded once."""
    return np.asarray(a.astype(np.float64) * b + c).astype(np.float32)


def _polynomial(x: Floats, coefficients: tuple[float, ...]) -> Floats:
    first, *others = (np.float32(c) for c in coefficients)
    result = np.full_like(x, first)
    for coefficient in others:
        result = _fused(result, x, coefficient)
    return result


def _rational(x: Floats, odd: tuple[float, ...], even: tuple[float, ...]) -> Floats:
    square = x * x
    return np.asarray(_polynomial(square, odd) * x / _polynomial(square, even))


def sigmoid(x: Floats) -> Floats:
    """``1 / (1 + exp(-x))``, by a rational function."""
    bounded = np.clip(x, np.float32(-18), np.float32(18))
    return np.asarray(np.clip(_rational(bounded, *_LOGISTIC) + np.float32(0.5), np.float32(0), np.float32(1)))


def tanh(x: Floats) -> Floats:
    """``tanh(x)``, by a rational function."""
    return _rational(np.clip(x, np.float32(-9), np.float32(9)), *_TANH)


def leaky_relu(x: Floats, alpha: float) -> Floats:
    """``x`` where it is not negative, ``alpha * x`` elsewhere."""
    return np.where(x >= 0, x, np.float32(alpha) * x)


def hard_sigmoid(x: Floats, alpha: float, beta: float) -> Floats:
    """``clip(alpha * x + beta, 0, 1)``."""
    return np.asarray(np.clip(np.float32(alpha) * x + np.float32(beta), np.float32(0), np.float32(1)))


def hard_swish(x: Floats) -> Floats:
    """``x * hard_sigmoid(x)`` with ``alpha = 1/6``, ``beta = 1/2``."""
    return x * hard_sigmoid(x, 1 / 6, 0.5)


def mean(sums: NDArray[np.int64], count: int, scale: float, zero_point: int) -> Floats:
    """Mean of so many dequantised codes, of whose raw sums; the sum of floats is taken to be exact."""
    exact = (sums - count * zero_point) * (float(scale) / count)
    return exact.astype(np.float32)


def mean_codes(
    sums: NDArray[np.int64],
    count: int,
    scales: tuple[float, float],
    zero_points: tuple[int, int],
    format: Format,
    clamp: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[NDArray[np.int64], int]:
    """Codes of the means of so many dequantised codes, of whose raw sums.

    The runtime adds float32 numbers one after the other, so that a mean near the middle between two codes
    falls to either of them, depending on the order of the same codes. There it is the mean itself that is
    rounded, half to even, which is what float32 makes of it wherever it is exact, as for scales that are
    powers of two.

    Parameters
    ----------
    sums
        Sums of raw codes.
    count
        How many codes each is of.
    scales, zero_points
        Of input and output.
    format
        Of the output.
    clamp
        Bounds of the mean, before it is quantised.

    Returns
    -------
    codes
        One for each sum.
    count
        How many of them the order of float32 numbers decides.
    """
    above = sums - count * zero_points[0]
    real = mean(sums, count, scales[0], zero_points[0])
    codes = codes_of(np.clip(real, *clamp), scales[1], zero_points[1], format)
    near = _ambiguous(above, count, scales) & (clamp[0] < real) & (real < clamp[1])
    ratio = Fraction(float(scales[0])) / Fraction(float(scales[1])) / count
    for at in np.flatnonzero(near).tolist():
        # Python rounds fractions half to even.
        whole = round(int(above[at]) * ratio)
        codes[at] = min(max(whole + zero_points[1], format.min), format.max)
    return codes, int(near.sum())


def exact_sums(scale: float) -> bool:
    """Whether float32 adds dequantised codes exactly: where their scale is a power of two."""
    return bool(np.frexp(scale)[0] == 0.5)


def sum_error(count: int) -> float:
    """How far off a float32 mean of so many numbers is, of itself: each addition rounds, this way or that."""
    return float((np.sqrt(count) + 2) * 2.0**-24)


def _ambiguous(above: NDArray[np.int64], count: int, scales: tuple[float, float]) -> NDArray[np.bool_]:
    """Which means lie so close to the middle between two codes that the order of a float32 sum decides.

    None do where every sum is exact.
    """
    if exact_sums(scales[0]):
        return np.zeros(above.shape, dtype=bool)
    steps = above * (float(scales[0]) / count / float(scales[1]))
    error = sum_error(count) * np.abs(steps)
    near = np.abs(steps - np.floor(steps) - 0.5) <= error
    return np.asarray(near & (np.abs(steps) <= 256))


def nearest(before: int, after: int, coordinates: str, rounding: str) -> NDArray[np.int64] | None:
    """Which pixel of `before` each of `after` is a copy of, as ``Resize`` computes it.

    Parameters
    ----------
    before, after
        How many there are along an axis.
    coordinates, rounding
        The operator's ``coordinate_transformation_mode`` and ``nearest_mode``.

    Returns
    -------
    ``None`` where one of them is not known.
    """
    scale = np.float32(after) / np.float32(before)
    index = np.arange(after, dtype=np.float32)
    half = np.float32(0.5)
    match coordinates:
        case "asymmetric":
            at = index / scale
        case "half_pixel":
            at = (index + half) / scale - half
        case "pytorch_half_pixel":
            at = (index + half) / scale - half if after > 1 else index * 0
        case "align_corners":
            at = index * np.float32(before - 1) / np.float32(max(1, after - 1))
        case _:
            return None
    match rounding:
        case "floor":
            whole = np.floor(at)
        case "ceil":
            whole = np.ceil(at)
        case "round_prefer_floor":
            whole = np.ceil(at - half)
        case "round_prefer_ceil":
            whole = np.floor(at + half)
        case _:
            return None
    return np.asarray(np.clip(whole, 0, before - 1), dtype=np.int64)


def global_mean(
    sums: NDArray[np.int64],
    count: int,
    scales: tuple[float, float],
    zero_points: tuple[int, int],
    format: Format,
) -> NDArray[np.int64]:
    """Codes of ``QLinearGlobalAveragePool``; scales and zero points of input and output."""
    factor = np.float32(scales[0]) / (np.float32(scales[1]) * np.float32(count))
    whole = np.rint((sums - count * zero_points[0]).astype(np.float32) * factor).astype(np.int64)
    return np.asarray(np.clip(whole + zero_points[1], format.min, format.max))


def qlinear_add(
    codes: tuple[NDArray[np.int64], NDArray[np.int64]],
    scales: tuple[float, float, float],
    zero_points: tuple[int, int, int],
    format: Format,
) -> NDArray[np.int64]:
    """Codes of ``QLinearAdd`` for every pair of codes; scales and zero points of both and the result."""
    a, b = (values.astype(np.float32) for values in codes)
    s_a, s_b = (np.float32(scale) / np.float32(scales[2]) for scale in scales[:2])
    z_a, z_b, z_c = (np.float32(zero) for zero in zero_points)
    fixed = z_c - _fused(np.asarray(s_a), z_a, s_b * z_b)
    sums = _fused(a[:, None], s_a, _fused(b[None, :], s_b, np.float32(fixed)))
    return np.asarray(np.clip(np.rint(sums), format.min, format.max), dtype=np.int64)


def qlinear_multiply(
    codes: tuple[NDArray[np.int64], NDArray[np.int64]],
    scales: tuple[float, float, float],
    zero_points: tuple[int, int, int],
    format: Format,
) -> NDArray[np.int64]:
    """Codes of ``QLinearMul``, as :func:`qlinear_add` has them."""
    a, b = (values - zero for values, zero in zip(codes, zero_points, strict=False))
    factor = np.float32(scales[0]) * np.float32(scales[1]) / np.float32(scales[2])
    real = np.outer(a, b).astype(np.float32) * factor + np.float32(zero_points[2])
    return np.asarray(np.clip(np.rint(real), format.min, format.max), dtype=np.int64)


def fit_multiplier(
    factor: Floats, least: NDArray[np.int64], greatest: NDArray[np.int64], low: int, high: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Multiplier and shift that round as the runtime's ``round_half_even(float32(acc) * factor)`` does.

    That product is itself rounded to float32, so that the exact one may lie on the other side of the middle
    between two codes. The multiplier has more bits than a float32, and there is often one for which no
    accumulator differs.

    Parameters
    ----------
    factor
        One for each output channel.
    least, greatest
        The least and the greatest accumulator of each.
    low, high
        Clamp of the result, without the zero point.

    Returns
    -------
    multiplier, shift
        One for each output channel.
    count
        Accumulators, of all channels, that still differ, by one code.
    """
    multiplier, shift = quantise_multiplier(factor.astype(np.float64))
    multiplier = multiplier.copy()
    if (shift > MAX_LEFT_SHIFT).any():
        # Refused where the graph is made, by the name of its node.
        return multiplier, shift, 0

    def rounded(acc: NDArray[np.int64]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            return np.asarray(np.rint(acc.astype(np.float32) * factor))

    # The first accumulator of each code but the least, by bisection of every channel at once.
    wanted = np.arange(low + 1, high + 1)[:, None]
    first = np.broadcast_to(least, (len(wanted), len(factor))).copy()
    end = np.broadcast_to(greatest + 1, first.shape).copy()
    while (first < end).any():
        middle = np.minimum((first + end) >> 1, greatest)
        reached = rounded(middle) >= wanted
        going = first < end
        end = np.where(going & reached, middle, end)
        first = np.where(going & ~reached, middle + 1, first)
    inside = (first > least) & (first <= greatest)
    left = 0
    for channel in np.flatnonzero(multiplier):
        steps = first[inside[:, channel], channel]
        codes = wanted[inside[:, channel], 0]
        ours = [requantise(steps - back, multiplier[channel], shift[channel], "half_even") for back in (0, 1)]
        if (ours[0] >= codes).all() and (ours[1] < codes).all():
            continue
        multiplier[channel], wrong = _multiplier_for(
            steps.tolist(), codes.tolist(), int(multiplier[channel]), int(shift[channel])
        )
        left += wrong
    return multiplier, shift, left


def _multiplier_for(steps: list[int], codes: list[int], nominal: int, shift: int) -> tuple[int, int]:
    """The multiplier for which most of ``steps[i]`` are the first accumulators of ``codes[i]``.

    Of those that serve as well, it is the nearest to the nominal one. Also how many of the accumulators on
    either side of a step it rounds to the other code.
    """
    unit = 1 << (MULTIPLIER_BITS - shift)
    lows, highs, never = [], [], 0
    for step, code in zip(steps, codes, strict=True):
        middle = (2 * code - 1) * unit
        # On the middle itself the even code wins.
        above, below = (middle, middle - 1) if code % 2 == 0 else (middle + 1, middle)
        for acc, at_least, bound in ((step, True, above), (step - 1, False, below)):
            # 2 * acc * m >= bound, or <= bound.
            if acc == 0:
                never += bound > 0 if at_least else bound < 0
            elif at_least == (acc > 0):
                lows.append(-(-bound // (2 * acc)))
            else:
                highs.append(bound // (2 * acc))
    least, greatest = 1 << (MULTIPLIER_BITS - 1), (1 << MULTIPLIER_BITS) - 1
    candidates = {m for m in (nominal, *lows, *highs) if least <= m <= greatest}

    def wrong(m: int) -> int:
        return never + sum(low > m for low in lows) + sum(high < m for high in highs)

    best = min(candidates, key=lambda m: (wrong(m), abs(m - nominal)))
    return best, wrong(best)
