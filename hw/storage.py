"""How activations lie in memory: packed or planar, in blocks that a dot-product unit takes a step of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .emission import never_elaborated
from .formats import Format, Int
from .pe.contract import DotProduct, Layout, Precision

__all__ = ["ACCUMULATORS", "Storage"]


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Where the bits of a row of activations, or of results, are.

    A row is cut into blocks. Bit j of element e of a block is, counted from the block's first bit::

        packed   e * bits + j        element 0 | element 1 | ...
        planar   j * block + e       bit 0 of every element | bit 1 of every element | ...

    The last block is filled up with zero bits.

    Parameters
    ----------
    format
        Of the values.
    bits
        Bits that an element takes: at least the format's. Of a packed element that takes more, the value is
        stored as an integer of so many bits.
    block
        Elements of a block.
    planar
        Which of the two.
    """

    format: Format
    bits: int
    block: int
    planar: bool

    @property
    def block_bits(self) -> int:
        """Bits of a block."""
        return self.block * self.bits

    @property
    def words(self) -> int:
        """Scratchpad words of a block: one, or one for each plane."""
        return self.bits if self.planar else 1

    def blocks(self, elements: int) -> int:
        """Blocks that a row of so many elements takes."""
        return -(-elements // self.block)

    def row_bits(self, elements: int) -> int:
        """Bits that a row of so many elements takes."""
        return self.blocks(elements) * self.block_bits

    @property
    def _stored(self) -> Format:
        """What the bits of an element are."""
        if self.bits == self.format.bits:
            return self.format
        return Int(self.bits, signed=self.format.min < 0)

    def codes(self, values: NDArray[np.integer]) -> NDArray[np.uint32]:
        """What is stored of each value, without an order.

        Raises
        ------
        ValueError
            A value does not fit the format.
        """
        if not self.format.contains(values):
            raise ValueError(f"Values {values.min()}..{values.max()} do not fit {self.format}")
        return self._stored.encode(values)

    def encode(self, values: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Bits of rows, ``(..., elements)`` to ``(..., row_bits)``.

        Raises
        ------
        ValueError
            A value does not fit the format.
        """
        shape = values.shape[:-1]
        codes = self.codes(values).astype(np.int64)
        bits = (codes[..., None] >> np.arange(self.bits) & 1).astype(np.uint8)
        padding = -values.shape[-1] % self.block
        bits = np.pad(bits, [(0, 0)] * len(shape) + [(0, padding), (0, 0)])
        bits = bits.reshape(*shape, -1, self.block, self.bits)
        if self.planar:
            bits = np.moveaxis(bits, -1, -2)
        return bits.reshape(*shape, self.row_bits(values.shape[-1]))

    def decode(self, bits: NDArray[np.uint8], elements: int) -> NDArray[np.int64]:
        """Inverse of :meth:`encode`; bits behind those of the row are left out."""
        shape = bits.shape[:-1]
        bits = bits[..., : self.row_bits(elements)]
        order = (self.bits, self.block) if self.planar else (self.block, self.bits)
        bits = bits.reshape(*shape, -1, *order)
        if self.planar:
            bits = np.moveaxis(bits, -1, -2)
        codes = (bits.astype(np.int64) << np.arange(self.bits)).sum(axis=-1)
        return self._stored.decode(codes.reshape(*shape, -1)[..., :elements])

    @classmethod
    def of(cls, unit: DotProduct, precision: Precision) -> "Storage":
        """What a unit, or the feeder in front of it, takes at a precision.

        Raises
        ------
        ValueError
            The unit takes activations in another way.
        """
        format = precision.activation
        elements = unit.stored_steps(precision).size
        feeder = unit.feeder()
        if feeder is None:
            width = unit.activation_word_bits
        else:
            feeder = never_elaborated(feeder)
            width = len(feeder.i)
        planar = unit.activation_layout is Layout.PLANAR
        storage = cls(
            format=format,
            bits=format.bits if planar else width // elements,
            block=elements,
            planar=planar,
        )
        values = np.random.default_rng(0).choice(format.values, (4, elements))
        if feeder is None:
            words = unit.activation_bits(values, precision).reshape(4, -1)
        else:
            words = feeder.stored_bits(values, precision)
        found = storage.encode(values)
        if found.shape != words.shape or (found != words).any():
            raise ValueError(f"{unit.name} takes {precision} in words of another kind")
        return storage


ACCUMULATORS = Storage(format=Int(32), bits=32, block=1, planar=False)
"""How results are stored that are left as they are."""
