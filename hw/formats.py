"""Number formats: what a stored number means, for hardware, golden model and compiler alike."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bipolar", "Format", "Int", "PowerOfTwo", "Ternary", "parse_format", "short_name"]


class Format(ABC):
    """What a stored number means.

    Attributes
    ----------
    bits : int
        Width of its code.
    min, max : int
        Least and greatest value.
    """

    bits: int

    @property
    @abstractmethod
    def min(self) -> int:
        """Least value."""

    @property
    @abstractmethod
    def max(self) -> int:
        """Greatest value."""

    @abstractmethod
    def contains(self, values: NDArray[np.integer]) -> bool:
        """Whether every value can be represented."""

    @abstractmethod
    def _codes(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes of values that can be represented."""

    @abstractmethod
    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Value of each bit pattern; bits above the format's width are ignored."""

    @property
    def values(self) -> NDArray[np.int64]:
        """Every value, once, in ascending order."""
        return np.unique(self.decode(np.arange(1 << self.bits)))

    def encode(self, values: NDArray[np.integer]) -> NDArray[np.uint32]:
        """Bit pattern of each value, in the low ``bits`` bits.

        Raises
        ------
        ValueError
            A value cannot be represented.
        """
        if not self.contains(values):
            raise ValueError(f"Values {values.min()}..{values.max()} do not fit {self}")
        return (self._codes(values.astype(np.int64)) & ((1 << self.bits) - 1)).astype(np.uint32)

    def planes(self, values: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The bits of each value's code, lowest first, along a new last axis."""
        return ((self.encode(values)[..., None] >> np.arange(self.bits, dtype=np.uint32)) & 1).astype(
            np.uint8
        )

    def pack(self, values: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Packed layout of the last axis: elements side by side, first element in the low bits.

        The last axis must fill whole bytes: its length times ``bits`` is a multiple of 8.

        Returns an array of bytes with the same leading axes.
        """
        if (values.shape[-1] * self.bits) % 8:
            raise ValueError(f"{values.shape[-1]} elements of {self} do not fill whole bytes")
        flat = self.planes(values).reshape(*values.shape[:-1], values.shape[-1] * self.bits)
        return np.packbits(flat, axis=-1, bitorder="little")

    def unpack(self, data: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Inverse of :meth:`pack`: as many elements of the last axis as the bytes hold."""
        bits = np.unpackbits(data, axis=-1, bitorder="little")
        count = bits.shape[-1] // self.bits
        bits = bits[..., : count * self.bits].reshape(*data.shape[:-1], count, self.bits)
        codes = (bits.astype(np.int64) << np.arange(self.bits)).sum(axis=-1)
        return self.decode(codes)


@dataclass(frozen=True)
class Int(Format):
    """Two's complement (signed) or plain binary (unsigned) integer.

    Parameters
    ----------
    bits
        Width, 1 to 32.
    signed
        Whether the top bit counts ``-2**(bits - 1)``.

    Raises
    ------
    ValueError
        The width is out of range.
    """

    bits: int
    signed: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 32:
            raise ValueError(f"Integer format must have 1 to 32 bits, not {self.bits!r}")

    @property
    def min(self) -> int:
        """Least value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Greatest value."""
        return (1 << (self.bits - self.signed)) - 1

    def __str__(self) -> str:
        return f"{'' if self.signed else 'u'}int{self.bits}"

    def contains(self, values: NDArray[np.integer]) -> bool:
        """Whether every value can be represented."""
        return bool(values.size == 0 or (values.min() >= self.min and values.max() <= self.max))

    def _codes(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        return values

    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Value of each bit pattern; bits above the format's width are ignored."""
        raw = codes.astype(np.int64) & ((1 << self.bits) - 1)
        if not self.signed:
            return raw
        sign = np.int64(1) << (self.bits - 1)
        return (raw ^ sign) - sign


@dataclass(frozen=True)
class Bipolar(Format):
    """One bit: 0 means -1, 1 means +1. There is no zero."""

    bits = 1

    @property
    def min(self) -> int:
        """Least value."""
        return -1

    @property
    def max(self) -> int:
        """Greatest value."""
        return 1

    def __str__(self) -> str:
        return "bipolar"

    def contains(self, values: NDArray[np.integer]) -> bool:
        """Whether every value can be represented."""
        return bool((np.abs(values.astype(np.int64)) == 1).all())

    def _codes(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        return (values + 1) >> 1

    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Value of each bit pattern; bits above the format's width are ignored."""
        return 2 * (codes.astype(np.int64) & 1) - 1


@dataclass(frozen=True)
class Ternary(Format):
    """-1, 0 and +1 in two bits: the lower says that it is not zero, the upper that it is negative.

    The code that would be minus zero decodes as zero; it is never made.
    """

    bits = 2

    @property
    def min(self) -> int:
        """Least value."""
        return -1

    @property
    def max(self) -> int:
        """Greatest value."""
        return 1

    def __str__(self) -> str:
        return "ternary"

    def contains(self, values: NDArray[np.integer]) -> bool:
        """Whether every value can be represented."""
        return bool((np.abs(values.astype(np.int64)) <= 1).all())

    def _codes(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        return (values & 1) | ((values < 0).astype(np.int64) << 1)

    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Value of each bit pattern; bits above the format's width are ignored."""
        raw = codes.astype(np.int64)
        return (raw & 1) * (1 - (raw & 2))


@dataclass(frozen=True)
class PowerOfTwo(Format):
    """Zero, or a power of two with a sign: the top bit is the sign, the others the exponent plus one.

    An exponent field of zero means the value 0, whatever the sign.

    Parameters
    ----------
    bits
        Width, 2 to 6: exponents 0 to ``2**(bits - 1) - 2``.

    Raises
    ------
    ValueError
        The width is out of range.
    """

    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 6:
            raise ValueError(f"Power-of-two format must have 2 to 6 bits, not {self.bits!r}")

    @property
    def max_exponent(self) -> int:
        """Greatest exponent."""
        return (1 << (self.bits - 1)) - 2

    @property
    def min(self) -> int:
        """Least value."""
        return -self.max

    @property
    def max(self) -> int:
        """Greatest value."""
        return 1 << self.max_exponent

    def __str__(self) -> str:
        return f"pow2_{self.bits}"

    def contains(self, values: NDArray[np.integer]) -> bool:
        """Whether every value can be represented."""
        size = np.abs(values.astype(np.int64))
        return bool(((size <= self.max) & (size & (size - 1) == 0)).all())

    def _codes(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        size = np.abs(values)
        field = np.zeros_like(size)
        for exponent in range(self.max_exponent + 1):
            field[size == 1 << exponent] = exponent + 1
        sign: NDArray[np.int64] = (values < 0).astype(np.int64) << (self.bits - 1)
        return field | sign

    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Value of each bit pattern; bits above the format's width are ignored."""
        raw = codes.astype(np.int64) & ((1 << self.bits) - 1)
        field = raw & ((1 << (self.bits - 1)) - 1)
        size = np.where(field == 0, 0, np.int64(1) << np.maximum(field - 1, 0))
        return np.where(raw >> (self.bits - 1), -size, size)


_FORMAT = re.compile(r"(?:(?P<unsigned>u)?(?P<int>\d+)|(?P<bipolar>b)|(?P<ternary>t)|p(?P<power>\d+))")


def parse_format(text: str) -> Format:
    """The format of a short name: ``8``, ``u8``, ``b`` (bipolar), ``t`` (ternary), ``p4`` (power of two).

    Raises
    ------
    ValueError
        There is none of that name.
    """
    match = _FORMAT.fullmatch(text)
    if not match:
        raise ValueError(
            f"{text!r} is no number format: 8, u8, b (bipolar), t (ternary) or p4 (power of two)"
        )
    if match["bipolar"]:
        return Bipolar()
    if match["ternary"]:
        return Ternary()
    if match["power"]:
        return PowerOfTwo(int(match["power"]))
    return Int(int(match["int"]), signed=not match["unsigned"])


def short_name(format: Format) -> str:
    """Inverse of :func:`parse_format`."""
    match format:
        case Int():
            return f"{'' if format.signed else 'u'}{format.bits}"
        case PowerOfTwo():
            return f"p{format.bits}"
        case Bipolar():
            return "b"
        case Ternary():
            return "t"
    raise TypeError(format)
