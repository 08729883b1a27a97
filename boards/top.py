"""The top of a board's design: clock, reset and pins around a system."""

from typing import Any

from amaranth.hdl import Cat, ClockDomain, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bitwright.hw.config import EngineConfig
from bitwright.hw.soc import MemoryKind, System

from .pll import Pll

__all__ = ["Top"]


class Top(wiring.Component):
    """A :class:`~bitwright.hw.soc.System` with a PLL, a reset, and LEDs.

    ::

        clk ──► PLL ──┬───────────────────────► System ──► uart_tx, LEDs
                      └─► locked ─► 2 FF ─► rst ──┘ ◄───── uart_rx

    Reset ends two cycles after the PLL is steady; without a PLL, two cycles after the device has started.
    That variant is what is simulated: it has no primitive of a device but for those of the engine's `target`.

    Parameters
    ----------
    config, memory, memory_bytes, divisor
        As for the system.
    pll
        What makes the engine's clock of the board's; None where they are the same.
    inverted
        LEDs (``led_busy``, ``led_fault``) that low lights.
    open_drain
        Whether the LEDs' pins are the open-drain ones of an iCE40 UltraPlus.
    leds
        Whether there are any.

    Members
    -------
    clk : the board's clock
    uart_rx, uart_tx : the serial line
    led_busy, led_fault : the engine is busy, or has stopped with a fault
    m_axi_*, host : the system's, where its memory is outside, and ``engine_clk``, ``engine_rst``, which these
        belong to
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        memory: MemoryKind,
        memory_bytes: int,
        divisor: int,
        pll: Pll | None = None,
        inverted: frozenset[str] = frozenset(),
        open_drain: bool = False,
        leds: bool = True,
    ):
        self.pll = pll
        self.inverted = inverted
        self.open_drain = open_drain
        self.system = System(config, memory=memory, memory_bytes=memory_bytes, divisor=divisor)
        members: dict[str, Any] = {
            "clk": In(1),
            "uart_rx": In(1, init=1),
            "uart_tx": Out(1, init=1),
        }
        if leds:
            members |= {"led_busy": Out(1), "led_fault": Out(1)}
        self.leds = leds
        self._outside = {
            name: member
            for name, member in self.system.signature.members.items()
            if name == "host" or name.startswith("m_axi_")
        }
        if self._outside:
            members |= self._outside | {"engine_clk": Out(1), "engine_rst": Out(1)}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Documented by the class."""
        m = Module()
        m.submodules.system = system = self.system
        clock = self.clk
        locked: Any = Const(1)
        if self.pll is not None:
            clock = Signal(name="engine_clock")
            locked = Signal()
            m.submodules.pll = self.pll.instance(self.clk, clock, locked)
        m.domains.start = start = ClockDomain("start", reset_less=True)
        start.clk = clock
        steady = Signal(2)
        m.d.start += steady.eq(Cat(locked, steady[0]))
        m.d.comb += [
            system.clk.eq(clock),
            system.rst.eq(~steady[1]),
            system.uart_rx.eq(self.uart_rx),
            self.uart_tx.eq(system.uart_tx),
        ]
        for name, lit in (("led_busy", system.busy), ("led_fault", system.fault)) if self.leds else ():
            level = lit ^ (name in self.inverted)
            if self.open_drain:
                m.submodules[name] = Instance(
                    "SB_IO_OD",
                    p_PIN_TYPE=Const(0b011001, 6),  # output, not registered
                    i_DOUT0=level,
                    o_PACKAGEPIN=getattr(self, name),
                )
            else:
                m.d.comb += getattr(self, name).eq(level)
        if self._outside:
            m.d.comb += [self.engine_clk.eq(clock), self.engine_rst.eq(system.rst)]
        for name, member in self._outside.items():
            if name == "host":
                wiring.connect(m, system.host, wiring.flipped(self.host))
            else:
                inside, outside = getattr(system, name), getattr(self, name)
                m.d.comb += outside.eq(inside) if member.flow == Out else inside.eq(outside)
        return m
