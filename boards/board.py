"""The boards: what is on each, where its pins are, and how it is programmed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from amaranth.build import Attrs, Platform, Resource
from amaranth_boards.colorlight_5a75b_r7_0 import Colorlight_5A75B_R70Platform
from amaranth_boards.ecpix5 import ECPIX585Platform
from amaranth_boards.ice40_hx8k_b_evn import ICE40HX8KBEVNPlatform
from amaranth_boards.icebreaker import ICEBreakerPlatform
from amaranth_boards.orangecrab_r0_2 import OrangeCrabR0_2_85FPlatform
from amaranth_boards.resources import UARTResource
from amaranth_boards.ulx3s import ULX3S_25F_Platform, ULX3S_85F_Platform
from amaranth_boards.upduino_v3 import UpduinoV3Platform

from bitwright.hw.errors import ConfigError

from .pll import Ecp5Pll, Ice40Pll, Pll

__all__ = ["BOARDS", "Board", "Pin", "check_board"]


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Where a port of the top goes.

    Parameters
    ----------
    port
        Its name in the top.
    site
        Name of the pin in the package.
    attributes
        What the pin is told, as the board's platform has it: standard, pull-up and the like.
    inverted
        Whether low means 1.
    """

    port: str
    site: str
    attributes: dict[str, str]
    inverted: bool


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board.

    Parameters
    ----------
    name, title
        Name on the command line; name in full.
    platform
        Its description in amaranth-boards, which has the pins.
    device
        Part number of the FPGA, with its speed.
    target
        What its engine is synthesised for: one of :data:`~bitwright.gen.synthesis.TARGETS`.
    nextpnr
        Arguments of nextpnr that name device, speed and package.
    clock
        Resource of the clock pin.
    input_mhz
        Frequency of that clock.
    pll, pll_arguments
        What makes another clock of it.
    clock_mhz
        The engine's clock unless another is asked for.
    uart
        Resource of the serial line.
    uart_note
        Where the line comes out.
    memory
        What main memory is made of: block RAM, or the large RAMs with a single port.
    memory_bytes
        Most main memory that it is possible to have, whatever the engine leaves.
    baud
        Speed of the serial line unless another is asked for.
    leds
        Resources and members of the LEDs that show busy and fault; None where there is no LED to spare.
    rgb_driver
        Whether the LEDs hang on the RGB driver of an iCE40 UltraPlus, busy at its output 0 and fault at 2.
    extra
        Resources that the platform does not have.
    program
        Command that loads the bitstream, ``{file}`` being its name.
    packer
        Arguments of the packer.
    """

    name: str
    title: str
    platform: type[Any]
    device: str
    target: str
    nextpnr: tuple[str, ...]
    clock: tuple[str, int]
    input_mhz: float
    pll: type[Pll]
    pll_arguments: tuple[tuple[str, bool], ...] = ()
    clock_mhz: float
    uart: tuple[str, int] = ("uart", 0)
    uart_note: str
    memory: Literal["block", "single"]
    memory_bytes: int
    baud: int = 1_000_000
    leds: tuple[tuple[str, int, str | None], tuple[str, int, str | None]] | None = None
    rgb_driver: bool = False
    extra: tuple[Resource, ...] = ()
    program: str
    packer: tuple[str, ...] = ()

    def pins(
        self, ports: Sequence[str] = ("clk", "uart_rx", "uart_tx", "led_busy", "led_fault")
    ) -> list[Pin]:
        """Where the top's ports go, as far as the board has them.

        Parameters
        ----------
        ports
            Names of ports.
        """
        platform: Platform = self.platform()
        platform.add_resources(self.extra)
        places: dict[str, tuple[tuple[str, int], str | None]] = {
            "clk": (self.clock, None),
            "uart_rx": (self.uart, "rx"),
            "uart_tx": (self.uart, "tx"),
        }
        for port, led in zip(("led_busy", "led_fault"), self.leds or (), strict=False):
            places[port] = (led[:2], led[2])
        requested: dict[tuple[str, int], Any] = {}
        found = []
        for port, (resource, member) in places.items():
            if port not in ports:
                continue
            if resource not in requested:
                requested[resource] = platform.request(*resource, dir="-")
            group = requested[resource]
            ends = getattr(group, member) if member else group
            (metadata,) = ends.io.metadata
            found.append(
                Pin(
                    port=port,
                    site=metadata.name,
                    attributes={key: str(value) for key, value in metadata.attrs.items()},
                    inverted=any(ends.invert),
                )
            )
        return found


def _up5k(**facts: Any) -> Board:
    return Board(
        target="ice40-up5k",
        device="iCE40UP5K-SG48",
        nextpnr=("--up5k", "--package", "sg48"),
        input_mhz=12,
        pll=Ice40Pll,
        clock_mhz=24,
        memory="single",
        memory_bytes=128 << 10,
        program="iceprog {file}",
        **facts,
    )


def _ulx3s(size: int, platform: type[Any], memory_bytes: int) -> Board:
    return Board(
        name=f"ulx3s-{size}f",
        title=f"ULX3S with LFE5U-{size}F",
        platform=platform,
        device=f"LFE5U-{size}F-6BG381",
        target=f"ecp5-{size}k",
        nextpnr=(f"--{size}k", "--speed", "6", "--package", "CABGA381"),
        clock=("clk25", 0),
        input_mhz=25,
        pll=Ecp5Pll,
        clock_mhz=80,
        uart_note="USB connector US1, by the FT231X",
        memory="block",
        memory_bytes=memory_bytes,
        leds=(("led", 0, None), ("led", 1, None)),
        program="openFPGALoader -b ulx3s {file}",
        packer=("--compress",),
    )


BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        _up5k(
            name="icebreaker",
            title="iCEBreaker",
            platform=ICEBreakerPlatform,
            clock=("clk12", 0),
            # The clock's pin is the PLL's own.
            pll_arguments=(("pad", True),),
            uart_note="USB connector, second channel of the FT2232H",
            leds=(("led_g", 0, None), ("led_r", 0, None)),
        ),
        _up5k(
            name="upduino",
            title="UPduino v3",
            platform=UpduinoV3Platform,
            # The oscillator inside the device is off by up to 10 %, too much for a serial line.
            clock=("clk12", 0),
            uart=("uart", 0),
            uart_note="adapter of 3.3 V: receives at pin 38 (19th of the left row), sends at pin 28 (20th); "
            "the jumper OSC must be closed, which brings 12 MHz to pin 20",
            extra=(UARTResource(0, rx="38", tx="28", attrs=Attrs(IO_STANDARD="SB_LVCMOS")),),
            leds=(("rgb_led", 0, "g"), ("rgb_led", 0, "r")),
            rgb_driver=True,
        ),
        Board(
            name="ice40-hx8k-b-evn",
            title="iCE40-HX8K Breakout Board",
            platform=ICE40HX8KBEVNPlatform,
            device="iCE40HX8K-CT256",
            target="ice40-hx8k",
            nextpnr=("--hx8k", "--package", "ct256"),
            clock=("clk12", 0),
            input_mhz=12,
            pll=Ice40Pll,
            clock_mhz=24,
            uart_note="USB connector, second channel of the FT2232H",
            memory="block",
            memory_bytes=16 << 10,
            leds=(("led", 0, None), ("led", 1, None)),
            program="iceprog -S {file}",
        ),
        _ulx3s(85, ULX3S_85F_Platform, 416 << 10),
        _ulx3s(25, ULX3S_25F_Platform, 112 << 10),
        Board(
            name="ecpix5-85f",
            title="ECPIX-5 with LFE5UM5G-85F",
            platform=ECPIX585Platform,
            device="LFE5UM5G-85F-8BG554",
            target="ecp5-85k",
            nextpnr=("--um5g-85k", "--speed", "8", "--package", "CABGA554"),
            clock=("clk100", 0),
            input_mhz=100,
            pll=Ecp5Pll,
            clock_mhz=80,
            uart_note="USB connector of the debugger, second channel of the FT2232H",
            memory="block",
            memory_bytes=416 << 10,
            leds=(("rgb_led", 0, "g"), ("rgb_led", 0, "r")),
            program="openFPGALoader -b ecpix5 {file}",
            packer=("--compress",),
        ),
        Board(
            name="orangecrab-85f",
            title="OrangeCrab 0.2 with LFE5U-85F",
            platform=OrangeCrabR0_2_85FPlatform,
            device="LFE5U-85F-8MG285",
            target="ecp5-85k",
            nextpnr=("--85k", "--speed", "8", "--package", "CSFBGA285"),
            clock=("clk", 0),
            input_mhz=48,
            pll=Ecp5Pll,
            clock_mhz=80,
            uart=("uart", 0),
            uart_note="adapter of 3.3 V: receives at pin 0 (RX), sends at pin 1 (TX)",
            extra=(UARTResource(0, rx="0", tx="1", conn=("io", 0), attrs=Attrs(IO_TYPE="LVCMOS33")),),
            memory="block",
            memory_bytes=416 << 10,
            leds=(("rgb_led", 0, "g"), ("rgb_led", 0, "r")),
            program="dfu-suffix -v 1209 -p 5af0 -a {file} && dfu-util -a 0 -D {file}",
            packer=("--compress", "--freq", "38.8"),
        ),
        Board(
            name="colorlight-5a-75b",
            title="Colorlight 5A-75B v7.0",
            platform=Colorlight_5A75B_R70Platform,
            device="LFE5U-25F-6BG256",
            target="ecp5-25k",
            nextpnr=("--25k", "--speed", "6", "--package", "CABGA256"),
            clock=("clk25", 0),
            input_mhz=25,
            pll=Ecp5Pll,
            clock_mhz=80,
            uart_note="adapter of 3.3 V at connector J19: receives at KEY+, sends at DATA_LED-",
            memory="block",
            memory_bytes=112 << 10,
            program="openFPGALoader -c ft232 -m {file}",
            packer=("--compress",),
        ),
    )
}
"""The boards, by name."""


def check_board(name: str) -> Board:
    """The board of that name.

    Raises
    ------
    ConfigError
        There is none.
    """
    if name not in BOARDS:
        raise ConfigError("board", name, "one of " + ", ".join(BOARDS))
    return BOARDS[name]
