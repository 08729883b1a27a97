"""A bad line: drops, flips and inserts bytes, in both directions, to see what a link makes of it."""

import random
from collections import Counter

from .link import Transport

__all__ = ["FaultyTransport"]


class FaultyTransport:
    """A transport that damages what passes through it.

    Each byte, in either direction, is lost with probability ``rate``, otherwise one or more of its bits are
    flipped with probability ``rate``; and with probability ``rate`` a byte that nobody sent stands before it.

    Parameters
    ----------
    transport
        What carries the bytes.
    rate
        Probability of each fault.
    seed
        Of the faults.

    Attributes
    ----------
    injected
        How often what has happened: ``"sent dropped"``, ``"received flipped"`` and so on.
    """

    def __init__(self, transport: Transport, *, rate: float, seed: int):
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be from 0 to 1, not {rate!r}")
        self._transport = transport
        self.rate = rate
        self.injected: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._ready = bytearray()

    @property
    def timeout(self) -> float | None:
        """As of the transport."""
        return self._transport.timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._transport.timeout = seconds

    @property
    def in_waiting(self) -> int:
        """As of the transport."""
        return len(self._ready) or self._transport.in_waiting

    def read(self, size: int = 1, /) -> bytes:
        """As of the transport, damaged. Where nothing is left of what came, it is as if time had passed."""
        if not self._ready:
            self._ready += self._damage(self._transport.read(size), "received")
            if not self._ready:
                # Only a byte was lost, which is no reason to give up.
                self._ready += self._damage(self._transport.read(1), "received")
        data = bytes(self._ready[:size])
        del self._ready[:size]
        return data

    def write(self, data: bytes, /) -> int:
        """As of the transport, damaged."""
        self._transport.write(self._damage(data, "sent"))
        return len(data)

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()

    def _damage(self, data: bytes, direction: str) -> bytes:
        result = bytearray()
        for byte in data:
            if self._random.random() < self.rate:
                result.append(self._random.randrange(256))
                self.injected[f"{direction} inserted"] += 1
            if self._random.random() < self.rate:
                self.injected[f"{direction} dropped"] += 1
            elif self._random.random() < self.rate:
                result.append(byte ^ self._random.randint(1, 255))
                self.injected[f"{direction} flipped"] += 1
            else:
                result.append(byte)
        return bytes(result)
