"""The boards' descriptions against the platforms and the tools that they name."""

import re

import pytest
from amaranth.vendor import LatticeECP5Platform

from bitwright.boards.board import BOARDS, check_board
from bitwright.boards.build import constraints
from bitwright.gen.synthesis import TARGETS
from bitwright.hw.errors import ConfigError

PORTS = ["clk", "uart_rx", "uart_tx", "led_busy", "led_fault"]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_pins(board):
    pins = board.pins()
    assert [pin.port for pin in pins] == (PORTS if board.leds else PORTS[:3])
    assert len({pin.site for pin in pins}) == len(pins)
    assert [pin.port for pin in board.pins(["uart_tx"])] == ["uart_tx"]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_clock_is_the_platforms(board):
    resource = board.platform().lookup(*board.clock)
    assert resource.clock.frequency == board.input_mhz * 1e6


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_own_clock_and_speed_can_be_had(board):
    if board.clock_mhz != board.input_mhz:
        assert board.pll.make(board.input_mhz, board.clock_mhz).output_mhz == pytest.approx(board.clock_mhz)
    cycles = board.clock_mhz * 1e6 / board.baud
    assert abs(round(cycles) / cycles - 1) < 0.025


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_device_is_the_platforms(board):
    """The part number, the target and nextpnr's arguments name one and the same device."""
    platform = board.platform()
    assert board.device.startswith(platform.device)
    if isinstance(platform, LatticeECP5Platform):
        size = re.search(r"-(\d+)F", platform.device)[1]
        assert board.target == f"ecp5-{size}k"
        assert board.nextpnr[0].endswith(f"{size}k")
        assert board.device == f"{platform.device}-{platform.speed}{platform.package}"
        assert board.nextpnr[board.nextpnr.index("--speed") + 1] == platform.speed
    else:
        assert TARGETS[board.target].device == board.device


def test_known_sites():
    """Read off the boards' own documents, not off the platforms."""
    sites = {
        name: {pin.port: (pin.site, pin.inverted) for pin in BOARDS[name].pins()}
        for name in ("icebreaker", "ulx3s-85f", "upduino", "orangecrab-85f")
    }
    assert sites["icebreaker"] == {
        "clk": ("35", False),
        "uart_rx": ("6", False),
        "uart_tx": ("9", False),
        "led_busy": ("37", True),
        "led_fault": ("11", True),
    }
    assert sites["ulx3s-85f"]["clk"] == ("G2", False)
    assert (sites["ulx3s-85f"]["uart_rx"], sites["ulx3s-85f"]["uart_tx"]) == (("M1", False), ("L4", False))
    assert (sites["upduino"]["uart_rx"], sites["upduino"]["uart_tx"]) == (("38", False), ("28", False))
    assert (sites["orangecrab-85f"]["uart_rx"][0], sites["orangecrab-85f"]["uart_tx"][0]) == ("N17", "M18")


def test_constraints():
    board = BOARDS["icebreaker"]
    name, text = constraints(board, board.pins())
    assert name == "top.pcf"
    assert text.splitlines() == [
        "set_io clk 35",
        "set_io -pullup yes uart_rx 6",
        "set_io -pullup yes uart_tx 9",
        "set_io led_busy 37",
        "set_io led_fault 11",
    ]
    board = BOARDS["ecpix5-85f"]
    name, text = constraints(board, board.pins(["uart_rx"]))
    assert name == "top.lpf"
    assert text.splitlines() == [
        'LOCATE COMP "uart_rx" SITE "R26";',
        'IOBUF PORT "uart_rx" IO_TYPE=LVCMOS33 PULLMODE=UP;',
    ]


def test_no_such_board():
    with pytest.raises(ConfigError, match=r"board = 'de0': must be one of icebreaker, upduino"):
        check_board("de0")
    assert check_board("icebreaker") is BOARDS["icebreaker"]
