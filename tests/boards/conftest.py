"""What the tests of the host's software share: a device without hardware, and a simulated board."""

import os
import random
import zlib
from collections import deque
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits_mlp"
DIVISOR = 6


@pytest.fixture
def seed():
    """Of the test's faults; ``BITWRIGHT_SEED`` repeats a failed one."""
    value = int(os.environ.get("BITWRIGHT_SEED", random.randrange(1 << 31)))
    print(f"seed {value}")
    return value


class Device:
    """The other end of a link, and the transport to it: written from the description in docs/host.md alone.

    Parameters
    ----------
    bad
        Byte addresses that answer an error.
    """

    def __init__(self, bad=(), version=1):
        self.bad, self.version = bad, version
        self.words = {}
        self.writes = []
        self.timeout = None
        self.closed = False
        self.mute = False
        self._frame = None
        self._escape = False
        self._last = None
        self._status = 0
        self._out = deque()

    @property
    def in_waiting(self):
        return len(self._out)

    def read(self, size=1):
        # What is not there never comes: time passes at once.
        return bytes(self._out.popleft() for _ in range(min(size, len(self._out))))

    def write(self, data):
        for byte in data:
            if byte == 0x7E:
                if self._frame:
                    self._execute(bytes(self._frame))
                self._frame, self._escape = bytearray(), False
            elif self._frame is not None:
                if byte == 0x7D and not self._escape:
                    self._escape = True
                else:
                    self._frame.append(byte ^ 0x20 if self._escape else byte)
                    self._escape = False
        return len(data)

    def close(self):
        self.closed = True

    def _execute(self, frame):
        content, crc = frame[:-4], frame[-4:]
        if self.mute or len(content) < 6 or zlib.crc32(content) != int.from_bytes(crc, "little"):
            return
        kind, length = content[1] >> 6, content[1] & 63
        address, data = int.from_bytes(content[2:6], "little"), content[6:]
        answer = b""
        if kind == 2:
            if content[:2] != self._last:
                self._status = 0 if len(data) == 4 * (length - 2) else 2
                for index in range(0, len(data), 4):
                    if self._status:
                        break
                    if address + index in self.bad:
                        self._status = 1
                    else:
                        self.words[address + index] = data[index : index + 4]
                        self.writes.append(address + index)
        else:
            self._status = 0
            for index in range(length - 2 if kind == 1 else 0):
                if address + 4 * index in self.bad:
                    self._status = 1
                    break
                answer += self.words.get(address + 4 * index, b"\x00\x7e\x7d\x20")
        self._last = content[:2]
        reply = content[:6] + answer + bytes([self.version << 4 | self._status])
        reply += zlib.crc32(reply).to_bytes(4, "little")
        escaped = reply.replace(b"\x7d", b"\x7d\x5d").replace(b"\x7e", b"\x7d\x5e")
        self._out += b"\x7e" + escaped + b"\x7e"


@pytest.fixture(scope="session")
def device():
    """The class :class:`Device`."""
    return Device


@pytest.fixture(scope="session")
def digits():
    """The engine, the example's program for it, its images, and what the golden model makes of them."""
    from bitwright.gen import config
    from bitwright.gen.importers import load
    from bitwright.gen.mapper import compile_graph
    from bitwright.sim import golden

    engine = config.load("tiny", [])
    graph = load(EXAMPLE / "digits_mlp.onnx")
    images = np.load(EXAMPLE / "test.npz")["input"]
    return engine, compile_graph(graph, engine), images, golden.run(graph, images)[graph.output]


@pytest.fixture(scope="module")
def board(digits):
    """A simulated board with that engine."""
    from bitwright.boards.simulation import REFERENCE_TOP, SimulatedBoard, reference_sources

    sources = reference_sources(digits[0], divisor=DIVISOR, memory_bytes=1 << 18)
    with SimulatedBoard(sources, REFERENCE_TOP, bit_cycles=DIVISOR) as board:
        yield board
