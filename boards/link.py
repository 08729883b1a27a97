"""The host's end of the host link: reads and writes the words of a bus through a serial line.

The other end is :class:`bitwright.hw.bus.link.HostLink`; ``docs/host.md`` describes the frames.
"""

import random
import time
import zlib
from dataclasses import dataclass
from typing import Protocol

import serial

from bitwright.hw.bus.link import (
    ESCAPE,
    ESCAPED,
    FLAG,
    LENGTH_OFFSET,
    MAX_WORDS,
    VERSION,
    Operation,
    Status,
)
from bitwright.hw.errors import BitwrightError

__all__ = [
    "BusError",
    "Link",
    "LinkError",
    "Statistics",
    "Transport",
    "decode_frames",
    "encode_frame",
    "open_port",
]

_HEADER_BYTES = 6
_ATTEMPTS = 60
_SILENCES = 20
_LONGER = 1.25
_LONGEST = 16


class LinkError(BitwrightError):
    """The device does not answer, or not what it was asked; the message says what was tried."""


class BusError(LinkError):
    """The device's bus answered an error.

    Parameters
    ----------
    address
        Byte address of the word that failed.
    operation
        What was done with it.
    """

    def __init__(self, address: int, operation: Operation):
        self.address = address
        super().__init__(
            f"address {address:#010x}: the device's bus answered an error to the {operation.name.lower()}; "
            "there is no memory or register"
        )


class Transport(Protocol):
    """What carries bytes, as far as a link uses it; ``serial.Serial`` is one."""

    timeout: float | None
    """Seconds that :meth:`read` waits."""

    @property
    def in_waiting(self) -> int:
        """Bytes that can be read at once; where that cannot be told, 1 if there are any."""

    def read(self, size: int = 1, /) -> bytes:
        """Up to ``size`` bytes, fewer where they do not come within ``timeout``."""

    def write(self, data: bytes, /) -> int | None:
        """Send bytes."""

    def close(self) -> None:
        """Give the port back."""


@dataclass
class Statistics:
    """What a link has been through.

    Parameters
    ----------
    requests
        Requests answered.
    retries
        Requests sent again.
    damaged
        Frames received whose CRC was wrong.
    strange
        Frames received with a right CRC that were not the reply to the request sent last.
    bytes_sent, bytes_received
        With flags and escapes.
    """

    requests: int = 0
    retries: int = 0
    damaged: int = 0
    strange: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


def open_port(port: str, *, baud: int) -> Transport:
    """Open a port of any kind that pyserial knows.

    Parameters
    ----------
    port
        A device (``/dev/ttyUSB1``, ``COM3``) or a URL (``socket://host:port``).
    baud
        Bits per second; no matter for a URL.

    Raises
    ------
    LinkError
        It cannot be opened.
    """
    try:
        opened: Transport = serial.serial_for_url(port, baudrate=baud, timeout=1)
    except (serial.SerialException, OSError, ValueError) as error:
        raise LinkError(f"port {port!r}: cannot be opened ({error})") from None
    return opened


def encode_frame(content: bytes) -> bytes:
    """Bytes on the line for a frame: its CRC behind the content, all of it escaped, between two flags."""
    content += zlib.crc32(content).to_bytes(4, "little")
    line = bytearray([FLAG])
    for byte in content:
        if byte in (FLAG, ESCAPE):
            line += bytes([ESCAPE, byte ^ ESCAPED])
        else:
            line.append(byte)
    line.append(FLAG)
    return bytes(line)


def decode_frames(pending: bytearray) -> list[bytes | None]:
    """Contents of the frames that end in ``pending``, which keeps what is behind the last flag.

    A frame with a wrong CRC is None. What is between two flags and too short for a CRC is not even a frame.
    """
    *ended, rest = bytes(pending).split(bytes([FLAG]))
    pending[:] = rest
    frames: list[bytes | None] = []
    for raw in ended:
        content = bytearray()
        escape = False
        for byte in raw:
            if byte == ESCAPE and not escape:
                escape = True
            else:
                content.append(byte ^ ESCAPED if escape else byte)
                escape = False
        if not raw:
            continue
        right = (
            not escape
            and len(content) > 4
            and zlib.crc32(content[:-4]) == int.from_bytes(content[-4:], "little")
        )
        frames.append(bytes(content[:-4]) if right else None)
    return frames


class Link:
    """Reads and writes memory and registers of a device.

    A request that is not answered in time, or whose answer is damaged, is sent again with the same sequence
    number, so that the device executes a write once. Where answers fail, requests become shorter, down to one
    word, as a short one comes through a bad line more often; where all is well they become longer again.

    What is returned has had a right CRC-32, and repeats sequence number, operation, length and address of the
    request. A damaged frame passes the CRC with a probability of 2**-32 and then has to repeat those
    48 bits as well.

    Parameters
    ----------
    transport
        What carries the bytes.
    baud
        Bits per second, for how long a frame takes.
    timeout
        Seconds that the device, the operating system and whatever lies between add to that. With each attempt
        that fails it is a quarter more, up to 16 times as much.
    """

    def __init__(self, transport: Transport, *, baud: int = 115200, timeout: float = 0.25):
        self.transport = transport
        self.baud = baud
        self.timeout = timeout
        self.statistics = Statistics()
        self._sequence = random.randrange(256)
        self._pending = bytearray()
        self._words = MAX_WORDS
        self._streak = 0
        self._failures = 0
        self._silences = 0
        self._lost = True  # what the device has seen last is not known

    def identify(self) -> int:
        """Make sure that a device answers, and that it speaks this protocol; returns its version.

        The link does that by itself before its first request, and after it has given up: a write with the
        number and length of the last one that the device has seen would not be executed, and this comes
        between.

        Raises
        ------
        LinkError
            It does not.
        """
        self._lost = False
        self._insist(Operation.IDENTIFY, 0, 0, b"")
        return VERSION

    def read(self, address: int, size: int) -> bytes:
        """Bytes of memory.

        Parameters
        ----------
        address, size
            In bytes, multiples of 4.

        Raises
        ------
        BusError
            There is nothing at one of the addresses.
        LinkError
            The device does not answer.
        """
        _check_range(address, size)
        data = bytearray()
        while len(data) < size:
            data += self._some(Operation.READ, address + len(data), (size - len(data)) // 4, b"")[1]
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes to memory; parameters and errors as of :meth:`read`."""
        _check_range(address, len(data))
        done = 0
        while done < len(data):
            done += 4 * self._some(Operation.WRITE, address + done, (len(data) - done) // 4, data[done:])[0]

    def read_register(self, address: int) -> int:
        """One word; errors as of :meth:`read`."""
        return int.from_bytes(self._insist(Operation.READ, address, 1, b""), "little")

    def write_register(self, address: int, value: int) -> None:
        """Write one word, exactly once; errors as of :meth:`read`."""
        self._insist(Operation.WRITE, address, 1, value.to_bytes(4, "little"))

    def close(self) -> None:
        """Close the transport."""
        self.transport.close()

    def _some(self, operation: Operation, address: int, words: int, data: bytes) -> tuple[int, bytes]:
        """As many of some words as come through at once: how many, and the answer."""
        sequence, before = 0, 0
        while True:
            now = min(self._words, words)
            if now != before:
                # Another length is another request.
                sequence, before = self._next_sequence(), now
            part = data[: 4 * now] if operation is Operation.WRITE else b""
            answer = self._attempt(operation, address, now, part, sequence)
            if answer is not None:
                return now, answer

    def _insist(self, operation: Operation, address: int, words: int, data: bytes) -> bytes:
        """The answer to this very request, sent as often as it takes."""
        sequence = self._next_sequence()
        while True:
            answer = self._attempt(operation, address, words, data, sequence)
            if answer is not None:
                return answer

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) % 256
        return self._sequence

    def _attempt(
        self, operation: Operation, address: int, words: int, data: bytes, sequence: int
    ) -> bytes | None:
        """The answer to a request sent once, or None where there was none or a damaged one."""
        if self._lost:
            self.identify()
        content = bytes([sequence, operation << 6 | words + LENGTH_OFFSET, *address.to_bytes(4, "little")])
        found = self._exchange(content + data, 4 * words if operation is Operation.READ else 0)
        if found is None:
            self._fail(operation, address)
            return None
        self._failures = self._silences = 0
        self._streak += 1
        if self._streak >= 8:
            self._streak = 0
            self._words = min(MAX_WORDS, 2 * self._words)
        self.statistics.requests += 1
        answer, state = found[:-1], found[-1]
        if state >> 4 != VERSION:
            raise LinkError(
                f"the device speaks version {state >> 4} of the link's protocol, this is version {VERSION}; "
                "take the bitstream and the software of one release"
            )
        status = state & 15
        if status == Status.BUS_ERROR:
            # A write does not say where; what it is divided into does.
            if operation is Operation.WRITE and words > 1:
                for index in range(words):
                    self._insist(operation, address + 4 * index, 1, data[4 * index : 4 * index + 4])
            raise BusError(address + len(answer), operation)
        if status != Status.OK or len(answer) != (4 * words if operation is Operation.READ else 0):
            raise LinkError(
                f"address {address:#010x}: the device does not take the {operation.name.lower()} of {words} "
                f"words (status {status}, {len(answer)} bytes); take bitstream and software of one release"
            )
        return answer

    def _fail(self, operation: Operation, address: int) -> None:
        self.statistics.retries += 1
        self._failures += 1
        self._streak = 0
        self._words = max(1, self._words // 2)
        if self._silences >= _SILENCES or self._failures >= _ATTEMPTS:
            what = "no answer" if self._silences == self._failures else "no undamaged answer"
            count = self._failures
            self._failures = self._silences = 0
            self._lost = True
            raise LinkError(
                f"address {address:#010x}: {what} to {count} attempts to {operation.name.lower()} within "
                f"{self.timeout:g} s and more; is the board configured, is this its port, is its speed "
                f"{self.baud} baud?"
            )

    def _exchange(self, content: bytes, expected: int) -> bytes | None:
        """Send a request; what its reply has behind the header, or None."""
        line = encode_frame(content)
        self.statistics.bytes_sent += len(line)
        header = content[:_HEADER_BYTES]
        # With every byte of the answer escaped, at worst
        on_line = 10 * (len(line) + 2 * (_HEADER_BYTES + expected + 5) + 2) / self.baud
        # More each time: what answers late would otherwise never answer in time.
        patience = self.timeout * min(_LONGEST, _LONGER**self._failures)
        deadline = time.monotonic() + on_line + patience
        silent = True
        try:
            self.transport.write(line)
            while (left := deadline - time.monotonic()) > 0:
                self.transport.timeout = left
                data = self.transport.read(max(1, self.transport.in_waiting))
                if not data:
                    break
                silent = False
                self.statistics.bytes_received += len(data)
                self._pending += data
                damaged = False
                for frame in decode_frames(self._pending):
                    if frame is None:
                        damaged = True
                        self.statistics.damaged += 1
                    elif frame[:_HEADER_BYTES] == header and len(frame) > _HEADER_BYTES:
                        return frame[_HEADER_BYTES:]
                    else:
                        self.statistics.strange += 1
                if damaged:
                    # Its rest, and whatever is behind it, is waited for a moment only.
                    deadline = min(deadline, time.monotonic() + self.timeout / 8)
        except (serial.SerialException, OSError) as error:
            raise LinkError(f"the port failed: {error}") from None
        self._silences = self._silences + 1 if silent else 0
        return None


def _check_range(address: int, size: int) -> None:
    if address % 4 or size % 4 or not 0 <= address <= address + size <= 1 << 32:
        raise ValueError(f"address {address:#x} and size {size:#x} must be multiples of 4 within 32 bits")
