"""Asynchronous serial receiver and transmitter: 8 data bits, no parity, one stop bit."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["LEAST_DIVISOR", "UartReceiver", "UartTransmitter", "uart_divisor"]

LEAST_DIVISOR = 4
"""Fewest clock cycles of a bit: with less, a bit is not sampled near its middle."""


def uart_divisor(clock_hz: float, baud: float) -> int:
    """Clock cycles of a bit, for a line at ``baud``.

    Raises
    ------
    ValueError
        The clock is too slow for it, or cannot be divided to within 2.5 %: half of what a frame of ten bits
        bears, as the other end is off by something as well.
    """
    divisor = round(clock_hz / baud)
    if divisor < LEAST_DIVISOR:
        raise ValueError(
            f"baud = {baud:,.0f} must be at most {clock_hz / LEAST_DIVISOR:,.0f}, "
            f"as the clock is {clock_hz / 1e6:g} MHz"
        )
    error = abs(clock_hz / divisor / baud - 1)
    if error > 0.025:
        raise ValueError(
            f"baud = {baud:,.0f} is {error:.1%} off what a clock of {clock_hz / 1e6:g} MHz "
            f"can be divided to; take {clock_hz / divisor:.0f}"
        )
    return divisor


def _check_divisor(divisor: int) -> None:
    if not isinstance(divisor, int) or divisor < LEAST_DIVISOR:
        raise ValueError(f"divisor must be an integer of {LEAST_DIVISOR} or more, not {divisor!r}")


class UartReceiver(wiring.Component):
    """Bytes from a serial line, least significant bit first.

    A falling edge starts a byte. Half a bit later the line must still be low, or it was a glitch. Each of the
    following bits is sampled in its middle. Where the stop bit is not high the byte is dropped, ``error`` is
    set for a cycle, and the line has to become high before another byte can start.

    A byte is on offer from the middle of its stop bit on, and gives way to the next one where nobody takes it
    for the length of a byte.

    Parameters
    ----------
    divisor
        Clock cycles of a bit, 4 or more; see :func:`uart_divisor`. Bits of the sender may be longer or
        shorter by 2 % (with a divisor of 8 or more; by 4 % from about 100).

    Members
    -------
    rx : the line, high when idle; asynchronous, as two flip-flops bring it to the clock
    o : bytes
    error : a byte was dropped for want of a stop bit, for one cycle
    """

    def __init__(self, *, divisor: int):
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(8)), "error": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rx = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.rx, rx, init=1)

        # A one ahead of the data says when all eight are in: it has come to bit 0 then.
        shift = Signal(9)
        timer = Signal(range(self.divisor))
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        m.d.sync += self.error.eq(0)

        with m.FSM():
            with m.State("IDLE"), m.If(~rx):
                # The middle of the start bit; this cycle is the first after the edge.
                m.d.sync += timer.eq(self.divisor // 2 - 1)
                m.next = "START"
            with m.State("START"), m.If(timer == 0):
                m.d.sync += [timer.eq(self.divisor - 1), shift.eq(1 << 8)]
                m.next = "DATA"
                with m.If(rx):
                    m.next = "IDLE"
            with m.State("DATA"), m.If(timer == 0):
                m.d.sync += [timer.eq(self.divisor - 1), shift.eq(Cat(shift[1:], rx))]
                with m.If(shift[0]):
                    # This is the stop bit, and stays outside.
                    m.d.sync += shift.eq(shift)
                    m.d.sync += [self.o.valid.eq(rx), self.error.eq(~rx)]
                    m.next = "END"
            with m.State("END"), m.If(rx):
                m.next = "IDLE"
        m.d.comb += self.o.payload.eq(shift[1:])
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a serial line, least significant bit first.

    A byte takes ten bits of ``divisor`` cycles, and the next one follows without a gap.

    Parameters
    ----------
    divisor
        Clock cycles of a bit, 4 or more; see :func:`uart_divisor`.

    Members
    -------
    i : bytes
    tx : the line, high when idle, from a flip-flop
    """

    def __init__(self, *, divisor: int):
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The line is bit 0; behind the data follows the stop bit, and nothing behind that.
        shift = Signal(10, init=1)
        timer = Signal(range(self.divisor))
        last = Signal()
        m.d.comb += [
            self.tx.eq(shift[0]),
            last.eq(~shift[1:].any()),
            self.i.ready.eq(last & (timer == 0)),
        ]
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(self.i.valid | ~last):
            m.d.sync += timer.eq(self.divisor - 1)
            m.d.sync += shift.eq(Mux(last, Cat(Const(0, 1), self.i.payload, Const(1, 1)), shift >> 1))
        return m
