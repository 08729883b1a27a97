"""The top of a board's design: clock, reset and pins around a system."""

from typing import Any

from amaranth.hdl import Cat, ClockDomain, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bitwright.hw.config import EngineConfig
from bitwright.hw.soc import MemoryKind, System

from .pll import Pll

__all__ = ["Top", "rgb_driver"]


def rgb_driver(first: Signal, third: Signal, first_pin: Signal, third_pin: Signal) -> Instance:
    """The RGB driver of an iCE40 UltraPlus, 4 mA at its outputs 0 and 2.

    Its pins have no other output that the open tools know of.

    Parameters
    ----------
    first, third
        What lights the LEDs.
    first_pin, third_pin
        The pins.

    References
    ----------
    Lattice FPGA-TN-1288, iCE40 LED Driver Usage Guide
    """
    return Instance(
        "SB_RGBA_DRV",
        p_CURRENT_MODE="0b1",
        p_RGB0_CURRENT="0b000001",
        p_RGB1_CURRENT="0b000000",
        p_RGB2_CURRENT="0b000001",
        i_CURREN=Const(1, 1),
        i_RGBLEDEN=Const(1, 1),
        i_RGB0PWM=first,
        i_RGB1PWM=Const(0, 1),
        i_RGB2PWM=third,
        o_RGB0=first_pin,
        o_RGB2=third_pin,
    )


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
    rgb_driver
        Whether the LEDs hang on the RGB driver of an iCE40 UltraPlus; `inverted` says nothing of them then.
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
        rgb_driver: bool = False,
        leds: bool = True,
    ):
        self.pll = pll
        self.inverted = inverted
        self.rgb_driver = rgb_driver
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
        if self.rgb_driver:
            m.submodules.leds = rgb_driver(system.busy, system.fault, self.led_busy, self.led_fault)
        elif self.leds:
            for name, lit in (("led_busy", system.busy), ("led_fault", system.fault)):
                m.d.comb += getattr(self, name).eq(lit ^ (name in self.inverted))
        if self._outside:
            m.d.comb += [self.engine_clk.eq(clock), self.engine_rst.eq(system.rst)]
        for name, member in self._outside.items():
            if name == "host":
                wiring.connect(m, system.host, wiring.flipped(self.host))
            else:
                inside, outside = getattr(system, name), getattr(self, name)
                m.d.comb += outside.eq(inside) if member.flow == Out else inside.eq(outside)
        return m
