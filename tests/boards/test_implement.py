"""The flow from Verilog to bitstream on every board, with a design that takes seconds: pins, PLL, packer."""

import pytest
from amaranth.hdl import ClockDomain, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bitwright.boards.board import BOARDS
from bitwright.boards.build import implement
from bitwright.boards.top import rgb_driver
from bitwright.gen.verilog import convert

# One of each family and package, and of each way to connect LEDs
BUILT = [
    BOARDS[name] for name in ("icebreaker", "upduino", "ulx3s-25f", "colorlight-5a-75b", "orangecrab-85f")
]


class Echo(wiring.Component):
    """What comes in goes out a cycle later, and LEDs count."""

    def __init__(self, board):
        self.board = board
        leds = {"led_busy": Out(1), "led_fault": Out(1)} if board.leds else {}
        super().__init__({"clk": In(1), "uart_rx": In(1), "uart_tx": Out(1), **leds})

    def elaborate(self, platform):
        m = Module()
        board = self.board
        m.domains.sync = sync = ClockDomain("sync", reset_less=True)
        sync.clk = Signal(name="clock")
        locked = Signal()
        pll = board.pll.make(board.input_mhz, board.clock_mhz)
        if board.pll_arguments:
            pll = type(pll)(**{**vars(pll), **dict(board.pll_arguments)})
        m.submodules.pll = pll.instance(self.clk, sync.clk, locked)
        count = Signal(24)
        m.d.sync += [self.uart_tx.eq(self.uart_rx & locked), count.eq(count + 1)]
        if board.rgb_driver:
            m.submodules.leds = rgb_driver(count[-1], count[-2], self.led_busy, self.led_fault)
        elif board.leds:
            m.d.comb += [self.led_busy.eq(count[-1]), self.led_fault.eq(count[-2])]
        return m


@pytest.mark.parametrize("board", BUILT, ids=lambda board: board.name)
def test_bitstream(board, tmp_path):
    verilog = convert(Echo(board), name="top")
    result, bitstream = implement(board, verilog, tmp_path, clock_mhz=board.clock_mhz)
    assert result.fits
    assert result.timing_met
    assert result.frequency_mhz == board.clock_mhz
    assert bitstream == f"{board.name}.{'bin' if board.target.startswith('ice40') else 'bit'}"
    assert (tmp_path / bitstream).stat().st_size > 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [bitstream, "logs", "top.pcf" if bitstream.endswith("bin") else "top.lpf"]
    )
