"""The host link: a host reads and writes the words of a bus through a stream of bytes, as a serial line is.

Both directions carry frames between flags, escaped as in HDLC (RFC 1662, section 4)::

    request   7E | sequence | operation, length | address (4) | words (4 each)          | CRC-32 (4) | 7E
    reply     7E | sequence | operation, length | address (4) | words (4 each) | status | CRC-32 (4) | 7E

``docs/host.md`` has the fields. The host sends one request and waits for its reply; what is damaged is not
answered, and the host sends it again. So each end is an alternating-bit protocol's (Bartlett, Scantlebury and
Wilkinson, 1969, Communications of the ACM 12(5)), with eight bits of sequence number instead of one.
"""

import enum

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..memory.ram import Ram
from .wishbone import WishboneSignature

__all__ = [
    "ESCAPE",
    "ESCAPED",
    "FLAG",
    "LENGTH_OFFSET",
    "MAX_WORDS",
    "REGISTER_WINDOW",
    "VERSION",
    "HostLink",
    "Operation",
    "Status",
]

FLAG = 0x7E
"""The byte between frames. Whatever went before, a frame starts behind it."""

ESCAPE = 0x7D
"""The byte before one that is sent with ``ESCAPED`` added to it, modulo 2."""

ESCAPED = 0x20
"""What the byte behind an escape differs in."""

VERSION = 1
"""Version of the protocol, in bits 7 to 4 of a reply's status."""

MAX_WORDS = 60
"""Most words of a request or of its reply."""

LENGTH_OFFSET = 2
"""The length field counts words of header and data; the header, with what is in front of it, takes two."""

REGISTER_WINDOW = 1 << 31
"""Bit of a byte address that board tops select the engine's registers by; without it, memory."""

_POLYNOMIAL = 0xEDB88320  # CRC-32 of IEEE 802.3, bits reflected
_RESIDUE = 0xDEBB20E3  # what the register has, after a frame with the CRC that belongs to it
_FRAME_BITS = 2048
_FIRST = 16  # where a frame starts in the buffer, so that its words start at multiples of 32 bits


class Operation(enum.IntEnum):
    """What a request asks for: bits 7 and 6 of its second byte."""

    IDENTIFY = 0
    """Nothing but the reply, whose status has the version of the protocol."""
    READ = 1
    """Words from the address on."""
    WRITE = 2
    """The request's words to the address and behind it."""


class Status(enum.IntEnum):
    """How a request ended: bits 3 to 0 of a reply's status."""

    OK = 0
    BUS_ERROR = 1
    """The bus answered an error; words before that were read, or written."""
    MALFORMED = 2
    """No such operation, or a write's length is not that of its frame; nothing was done."""


class _Section(enum.Enum):
    """Parts of a frame, as they are sent."""

    HEADER = 0
    WORDS = 1
    STATUS = 2
    CRC = 3


class HostLink(wiring.Component):
    """Executes requests that come as bytes on a Wishbone bus, and replies.

    A request is kept in one block RAM until its CRC has been found right; only then the bus sees anything of
    it. A write whose sequence number, operation and length are those of the request executed before is that
    request once more, as the host has not got the reply: it is answered as it was, and not executed again. So
    a word is written once, in the order of the requests, whatever is lost, or sent twice.

    A frame with a wrong CRC, of no whole number of words, longer than the buffer or interrupted for longer
    than ``timeout_cycles`` is dropped without an answer; the next flag starts a new one. While it executes
    and replies, the link takes bytes and drops them. It waits for the bus, which has to answer every cycle
    with ``ack`` or ``err``, and for nothing else but a flag.

    Everything inside is one bit wide, the buffer, the CRC, the words, the increment of the address, so that
    it is small. A bit of a reply or of a write takes two cycles, a byte of a request nine, which is less than
    on a serial line of four cycles per bit. A reply starts 98 cycles behind the request, where there is no
    write to execute.

    Parameters
    ----------
    address_bits
        Width of the bus's word address, 2 to 30. Its highest bit is always bit 31 of the byte address in a
        request, the others are bits 2 and up; those between are ignored. So memory and registers
        (:data:`REGISTER_WINDOW`) stay apart however small the memory.
    timeout_cycles
        Cycles without a byte, within a frame, after which the frame is dropped; rounded up to a power of two.

    Members
    -------
    i, o : bytes from and to the host
    bus : :class:`~bitwright.hw.bus.wishbone.WishboneSignature`, 32 bits; ``sel`` is always all ones
    """

    def __init__(self, *, address_bits: int = 30, timeout_cycles: int = 1 << 19):
        if not 2 <= address_bits <= 30:
            raise ValueError(f"address_bits must be from 2 to 30, not {address_bits!r}")
        if timeout_cycles < 1:
            raise ValueError(f"timeout_cycles must be a positive integer, not {timeout_cycles!r}")
        self.address_bits = address_bits
        self.timeout_bits = (timeout_cycles - 1).bit_length()
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
                "bus": Out(WishboneSignature(address_bits=address_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.buffer = buffer = Ram(width=1, depth=_FRAME_BITS)

        place = Signal(range(_FRAME_BITS))  # bit of the frame, in the buffer and on the line
        word = place[5:]
        byte = Signal(8)
        escape = Signal()
        clean = Signal()  # nothing has been wrong with the frame so far
        received = Signal(len(word))  # whole words but the last, the CRC
        header = Signal(16)  # sequence, length, operation
        length = header[8:14]
        reading, writing = header[14], header[15]
        again = Signal()
        status = Signal(2)
        sending = Signal()
        address = Signal(self.address_bits + 2)
        carry = Signal()
        data = Signal(32)
        crc = Signal(32, init=0xFFFF_FFFF)

        # One bit: `shift` moves it from `bit` into the byte, the CRC, and where else it belongs.
        shift = Signal()
        bit = Signal()
        feedback = Signal()
        section = Signal(_Section)
        index = place[:5]
        m.d.comb += feedback.eq((crc[0] ^ bit) & (section != _Section.CRC))
        with m.If(shift):
            m.d.sync += [
                place.eq(place + 1),
                byte.eq(Cat(byte[1:], bit)),
                crc.eq((crc >> 1) ^ Mux(feedback, _POLYNOMIAL, 0)),
            ]

        # The address goes in bit by bit, and round and round from then on: that makes it the next word's once
        # the bus has had this one.
        with m.If(shift & ((index < self.address_bits + 1) | (index == 31))):
            turned = Mux(section == _Section.HEADER, bit, address[0] ^ (carry & (index[1:] != 0)))
            m.d.sync += address.eq(Cat(address[1:], turned))
            with m.If(index[1:] != 0):
                m.d.sync += carry.eq(carry & address[0])

        m.d.comb += [
            buffer.read_address.eq(place),
            buffer.write_address.eq(place),
            buffer.write_data.eq(byte[0]),
            self.bus.adr.eq(address[2:]),
            self.bus.sel.eq(0b1111),
            self.bus.dat_w.eq(data),
            self.bus.we.eq(~sending),
            self.bus.stb.eq(self.bus.cyc),
        ]

        timer = Signal(self.timeout_bits + 1)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += timer.eq(0)
        with m.Elif(timer[-1]):
            m.d.sync += clean.eq(0)
        with m.Else():
            m.d.sync += timer.eq(timer + 1)

        special = Signal()
        done = Signal()  # nothing more to execute
        malformed = Signal()
        start = Signal()
        m.d.comb += [
            self.i.ready.eq(1),
            special.eq((byte == FLAG) | (byte == ESCAPE)),
            done.eq((word == length) | (status != Status.OK)),
            malformed.eq(writing & (reading | (received != length))),
        ]

        with m.FSM():
            # The request, into the buffer
            with m.State("RECEIVE"), m.If(self.i.valid):
                m.d.sync += escape.eq(0)
                with m.If(self.i.payload == FLAG):
                    m.d.comb += start.eq(1)
                    m.d.sync += clean.eq(1)
                    with m.If(clean & (crc == _RESIDUE) & (index == 0)):
                        # Bytes may be lost from here on.
                        m.d.sync += [again.eq(1), clean.eq(0)]
                        m.next = "NEXT"
                with m.Elif(self.i.payload == ESCAPE):
                    m.d.sync += escape.eq(1)
                with m.Else():
                    m.d.sync += byte.eq(self.i.payload ^ Mux(escape, ESCAPED, 0))
                    m.next = "STORE"
            with m.State("STORE"):
                m.d.comb += [self.i.ready.eq(0), buffer.write_enable.eq(1), shift.eq(1), bit.eq(byte[0])]
                with m.If(index == 31):
                    m.d.sync += received.eq(word)
                with m.If(place == _FRAME_BITS - 1):
                    m.d.sync += clean.eq(0)
                with m.If(place[:3] == 7):
                    m.next = "RECEIVE"

            # From the buffer twice: once to execute a write, with nothing sent, and once to reply
            with m.State("NEXT"):
                m.d.comb += buffer.read_enable.eq(1)
                m.next = "STEP"
                with m.If(index == 0), m.Switch(section):
                    with m.Case(_Section.HEADER), m.If(word == LENGTH_OFFSET):
                        m.d.sync += [carry.eq(0), section.eq(_Section.WORDS)]
                        with m.If(~sending & ~(again & writing)):
                            m.d.sync += status.eq(Mux(malformed, Status.MALFORMED, Status.OK))
                        with m.If(Mux(sending, writing | ~reading, ~writing | again)):
                            m.d.sync += section.eq(_Section.STATUS)
                        m.next = "NEXT"
                    with m.Case(_Section.WORDS):
                        with m.If(done):
                            m.d.sync += section.eq(_Section.STATUS)
                            m.next = "NEXT"
                        with m.Elif(sending):
                            m.next = "BUS"
                    with m.Default(), m.If(~sending):
                        m.next = "FLAG"
            with m.State("STEP"):
                m.d.comb += shift.eq(1)
                m.next = "NEXT"
                with m.Switch(section):
                    with m.Case(_Section.HEADER):
                        m.d.comb += bit.eq(buffer.read_data)
                        with m.If(~word[0] & ~sending):
                            m.d.sync += header.eq(Cat(header[1:], bit))
                            with m.If(header[0] != bit):
                                m.d.sync += again.eq(0)
                    with m.Case(_Section.WORDS):
                        m.d.comb += bit.eq(Mux(sending, data[0], buffer.read_data))
                        m.d.sync += data.eq(Cat(data[1:], bit))
                        with m.If((index == 31) & ~sending):
                            m.next = "BUS"
                    with m.Case(_Section.STATUS):
                        said = Cat(status, Const(0, 2), Const(VERSION, 4))
                        m.d.comb += bit.eq(Array(said)[place[:3]])
                    with m.Case(_Section.CRC):
                        m.d.comb += bit.eq(~crc[0])
                with m.If(sending & (place[:3] == 7)):
                    m.next = "BYTE"
            with m.State("BUS"):
                m.d.comb += self.bus.cyc.eq(1)
                with m.If(self.bus.ack | self.bus.err):
                    m.d.sync += carry.eq(1)
                    m.next = "STEP"
                    with m.If(sending):
                        m.d.sync += data.eq(self.bus.dat_r)
                    with m.Else():
                        m.next = "NEXT"
                with m.If(self.bus.err):
                    m.d.sync += status.eq(Status.BUS_ERROR)
                    m.next = "NEXT"

            # The reply, to the line
            with m.State("BYTE"):
                m.d.comb += [
                    self.o.valid.eq(1),
                    self.o.payload.eq(
                        Mux(special & ~escape, ESCAPE, byte ^ Mux(escape, ESCAPED, 0)),
                    ),
                ]
                with m.If(self.o.ready):
                    m.d.sync += escape.eq(special & ~escape)
                    with m.If(~special | escape):
                        m.next = "NEXT"
                        with m.If(section == _Section.STATUS):
                            m.d.sync += section.eq(_Section.CRC)
                        # Behind the status, whose eight bits are the first of a word
                        with m.If((section == _Section.CRC) & (index == 8)):
                            m.next = "FLAG"
            with m.State("FLAG"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(FLAG)]
                with m.If(self.o.ready):
                    m.d.comb += start.eq(1)
                    m.d.sync += sending.eq(~sending)
                    m.next = "NEXT"
                    with m.If(sending):
                        m.next = "RECEIVE"

        with m.If(start):
            m.d.sync += [place.eq(_FIRST), crc.eq(0xFFFF_FFFF), section.eq(_Section.HEADER)]
        return m
