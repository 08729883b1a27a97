"""What a tensor of a QDQ network is, while the importer walks the nodes.

A value is a tree. Its leaves are codes that exist already or numbers that are not quantised yet: functions
of codes, matrix products, means. Above them stand nodes that only move elements about, which quantising
commutes with: ``quantise(reshape(x)) = reshape(quantise(x))``, and the same for a transposition, a
concatenation, a constant border, a part, repeated pixels and the greatest of a window. So wherever the file
puts its quantiser, the leaves are what is quantised, and what is moved are codes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.formats import Int

from ._onnx import Constant, Window

__all__ = [
    "Average",
    "Border",
    "Codes",
    "Crop",
    "FloatInput",
    "Join",
    "Move",
    "Moved",
    "Numbers",
    "Order",
    "Pool",
    "Product",
    "Quantisation",
    "QuantisedConstant",
    "Reals",
    "Relabel",
    "Repeat",
    "SoftmaxOf",
    "Value",
    "leaves",
]


@dataclass(frozen=True)
class Quantisation:
    """Scale and zero point; arrays along `axis` where there is one per channel."""

    scale: NDArray[np.float64]
    zero_point: NDArray[np.int64]
    format: Int
    axis: int | None

    def along(self, rank: int, values: NDArray[Any]) -> NDArray[Any]:
        """`values` shaped to broadcast against a tensor of that rank."""
        if self.axis is None:
            return values.reshape(())
        return values.reshape([-1 if axis == self.axis else 1 for axis in range(rank)])


@dataclass(frozen=True)
class QuantisedConstant:
    """Constant integers, dequantised."""

    codes: NDArray[np.int64]
    quantisation: Quantisation

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def integers(self) -> NDArray[np.int64]:
        """Codes without their zero point."""
        zero_point = self.quantisation.along(self.codes.ndim, self.quantisation.zero_point)
        return np.asarray(self.codes - zero_point, dtype=np.int64)

    @property
    def real(self) -> NDArray[np.float32]:
        scale = self.quantisation.along(self.codes.ndim, self.quantisation.scale)
        return self.integers.astype(np.float32) * scale.astype(np.float32)


@dataclass(frozen=True)
class FloatInput:
    """The graph's float input."""

    output: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Codes:
    """An integer tensor of the graph being made."""

    tensor: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Reals:
    """Floats that depend on the codes of one or two tensors, element by element.

    `values` holds them for every code, or every pair of codes. If `plain`, they are what the codes of one
    tensor stand for.
    """

    name: str
    where: str
    output: str
    tensors: tuple[str, ...]
    shape: tuple[int, ...]
    values: NDArray[np.float32]
    plain: bool = False


@dataclass(frozen=True)
class Product:
    """A matrix product or convolution: ``clip(scale[n] * (sum + bias[n]), *clamp)``, or, for a channel
    without a gain, only ``constant[n]``.

    `bias` need not be whole yet. Without a `window` the sum is over the last axis.
    """

    name: str
    where: str
    output: str
    input: str
    shape: tuple[int, ...]
    weights: NDArray[np.int64]
    weight_format: Int
    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    constant: NDArray[np.float64]
    window: Window | None = None
    groups: int = 1
    clamp: tuple[float, float] | None = None

    @property
    def channels(self) -> int:
        return len(self.scale)

    @property
    def channel_axis(self) -> int:
        return len(self.shape) - 1 if self.window is None else 1


@dataclass(frozen=True)
class Average:
    """Means of windows over the axes of height and width."""

    name: str
    where: str
    output: str
    input: str
    shape: tuple[int, ...]
    channel_axis: int
    window: Window
    count_padding: bool
    clamp: tuple[float, float] | None = None


@dataclass(frozen=True)
class SoftmaxOf:
    """Softmax of codes along the last axis."""

    name: str
    where: str
    output: str
    input: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Relabel:
    """The same elements in the same order under another shape."""


@dataclass(frozen=True)
class Order:
    """Axes in another order: for each of the new ones, the old one."""

    axes: tuple[int, ...]


@dataclass(frozen=True)
class Pool:
    """The greatest element of each window."""

    window: Window


@dataclass(frozen=True)
class Border:
    """Constant elements around the others, for each axis before and behind; of codes, if they are moved."""

    padding: tuple[tuple[int, int], ...]
    element: float


@dataclass(frozen=True)
class Join:
    """Tensors behind each other along an axis."""

    axis: int


@dataclass(frozen=True)
class Crop:
    """Elements that are left out, for each axis before and behind."""

    counts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Repeat:
    """Every pixel several times, along height and width."""

    factors: tuple[int, int]


Move = Relabel | Order | Pool | Border | Join | Crop | Repeat


@dataclass(frozen=True)
class Moved:
    """Elements of other values, moved.

    `output` is ``None`` where any name will do, which then begins with `stem`. `codes` are those that the
    floats of the tree stand for, where a node says so.
    """

    name: str
    where: str
    output: str | None
    move: Move
    parts: "tuple[Numbers, ...]"
    shape: tuple[int, ...]
    stem: str = ""
    codes: "Moved | None" = None


Numbers = FloatInput | Codes | Reals | Product | Average | SoftmaxOf | Moved
"""What is computed."""

Value = Constant | QuantisedConstant | Numbers
"""What is computed, or known already."""


def leaves(value: Numbers) -> "Iterator[FloatInput | Codes | Reals | Product | Average | SoftmaxOf]":
    """What a tree moves about."""
    if isinstance(value, Moved):
        for part in value.parts:
            yield from leaves(part)
    else:
        yield value
