"""Number formats: what a stored number means, for hardware, golden model and compiler alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Int"]


@dataclass(frozen=True)
class Int:
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

    def encode(self, values: NDArray[np.integer]) -> NDArray[np.uint32]:
        """Bit pattern of each value, in the low ``bits`` bits.

        Raises
        ------
        ValueError
            A value is out of the format's range.
        """
        if not self.contains(values):
            raise ValueError(f"Values {values.min()}..{values.max()} do not fit {self}")
        return (values.astype(np.int64) & ((1 << self.bits) - 1)).astype(np.uint32)

    def decode(self, codes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Value of each bit pattern; bits above the format's width are ignored."""
        raw = codes.astype(np.int64) & ((1 << self.bits) - 1)
        if not self.signed:
            return raw
        sign = np.int64(1) << (self.bits - 1)
        return (raw ^ sign) - sign

    def pack(self, values: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Packed layout of the last axis: elements side by side, first element in the low bits.

        The last axis must fill whole bytes: its length times ``bits`` is a multiple of 8.

        Returns an array of bytes with the same leading axes.
        """
        if (values.shape[-1] * self.bits) % 8:
            raise ValueError(f"{values.shape[-1]} elements of {self} do not fill whole bytes")
        codes = self.encode(values)
        bits = (codes[..., None] >> np.arange(self.bits, dtype=np.uint32)) & 1
        flat = bits.astype(np.uint8).reshape(*values.shape[:-1], values.shape[-1] * self.bits)
        return np.packbits(flat, axis=-1, bitorder="little")

    def unpack(self, data: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Inverse of :meth:`pack`: as many elements of the last axis as the bytes hold."""
        bits = np.unpackbits(data, axis=-1, bitorder="little")
        count = bits.shape[-1] // self.bits
        bits = bits[..., : count * self.bits].reshape(*data.shape[:-1], count, self.bits)
        codes = (bits.astype(np.int64) << np.arange(self.bits)).sum(axis=-1)
        return self.decode(codes)
