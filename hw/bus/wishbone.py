"""Wishbone B4, as far as this project uses it."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["WishboneSignature"]


class WishboneSignature(wiring.Signature):
    """Signals of a Wishbone bus, classic cycles, as its initiator drives them.

    A cycle is asked for by ``cyc`` and ``stb``, which stay with all else as they are until ``ack`` or ``err``
    is set for one cycle of the clock; ``dat_r`` is valid in that cycle.

    Parameters
    ----------
    address_bits
        Width of ``adr``, which counts words, not bytes.
    data_bits
        Width of a word: 32, 64 or 128.

    Members
    -------
    cyc, stb : a cycle is asked for
    we : it is a write
    adr : word
    sel : bytes of the word, bit i the one of bits 8 i to 8 i + 7
    dat_w, dat_r : the word
    ack, err : the cycle is done, or failed

    References
    ----------
    OpenCores, Wishbone B4, revision of 2010, chapter 3 (classic bus cycles)
    """

    def __init__(self, *, address_bits: int, data_bits: int = 32):
        if data_bits not in (32, 64, 128):
            raise ValueError(f"data_bits must be 32, 64 or 128, not {data_bits!r}")
        if address_bits < 1:
            raise ValueError(f"address_bits must be a positive integer, not {address_bits!r}")
        self.address_bits = address_bits
        self.data_bits = data_bits
        super().__init__(
            {
                "cyc": Out(1),
                "stb": Out(1),
                "we": Out(1),
                "adr": Out(address_bits),
                "sel": Out(data_bits // 8),
                "dat_w": Out(data_bits),
                "dat_r": In(data_bits),
                "ack": In(1),
                "err": In(1),
            }
        )
