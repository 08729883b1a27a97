"""The top: every board's elaborates, with its clock, its pins and its reset."""

import pytest
from amaranth.sim import Simulator

from bitwright.boards.board import BOARDS
from bitwright.boards.build import plan, portable
from bitwright.boards.top import Top
from bitwright.gen import config as configs
from bitwright.gen.verilog import convert


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_board_elaborates(board):
    # On 32 block RAMs of 4 kbit no engine leaves room for a memory.
    outside = board.name == "ice40-hx8k-b-evn"
    found = plan(board, configs.load("icebreaker"), memory="external" if outside else 4096)
    verilog = convert(found.top(), name="top")
    ports = verilog[verilog.index("module top(") :].split(");")[0]
    names = {
        name
        for name in ports.removeprefix("module top(").replace(",", " ").split()
        if not name.startswith(("m_axi_", "host__", "engine_"))
    }
    assert names == {pin.port for pin in board.pins()}
    assert ("m_axi_araddr" in verilog.split("module top(")[1].split(");")[0]) == outside
    primitive = {"SB_PLL40": "SB_PLL40_", "EHXPLLL": "EHXPLLL"}[board.pll.name]
    assert (f"  {primitive}" in verilog) == (board.clock_mhz != board.input_mhz)
    assert ("SB_RGBA_DRV" in verilog) == board.rgb_driver
    assert ("module bitwright_single_port_ram" in verilog) == (board.memory == "single")


def test_the_portable_one_has_no_primitive():
    verilog = convert(portable(configs.load("icebreaker"), memory_bytes=8192), name="top")
    assert not any(name in verilog for name in ("SB_", "EHXPLLL"))


def values(top, cycles, *signals):
    """Of signals, in each of so many cycles of the top's clock."""
    trace = []

    async def drive(ctx):
        ctx.set(top.uart_rx, 1)
        for _ in range(cycles):
            trace.append(tuple(ctx.get(signal) for signal in signals))
            ctx.set(top.clk, 1)
            await ctx.delay(1e-6)
            ctx.set(top.clk, 0)
            await ctx.delay(1e-6)

    simulator = Simulator(top)
    simulator.add_testbench(drive)
    simulator.run()
    return trace


def test_leds_and_reset():
    """LEDs that low lights are off in the beginning; the reset ends two cycles after the start."""
    dut = Top(
        configs.load("icebreaker"),
        memory="single",
        memory_bytes=4096,
        divisor=16,
        inverted=frozenset({"led_fault"}),
    )
    trace = values(dut, 6, dut.led_busy, dut.led_fault, dut.system.rst, dut.uart_tx)
    assert [row[:2] for row in trace] == [(0, 1)] * 6
    assert [rst for _, _, rst, _ in trace] == [1, 1, 0, 0, 0, 0]
    assert all(tx for *_, tx in trace)
