"""Plans and refusals of `bitwright build`; the flow itself on the smallest engine, as far as Yosys."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bitwright.boards.board import BOARDS
from bitwright.boards.build import compile_for, largest_memory, plan, write_verilog
from bitwright.gen import config as configs
from bitwright.gen.importers import load
from bitwright.gen.suggest import engine_blocks
from bitwright.gen.synthesis import TARGETS
from bitwright.hw.errors import BitwrightError, ConfigError

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = EXAMPLES / "digits_mlp" / "digits_mlp.onnx"
CNN = EXAMPLES / "digits_cnn" / "digits_cnn_w8a8_qdq.onnx"

ICEBREAKER = BOARDS["icebreaker"]
ULX3S = BOARDS["ulx3s-85f"]


def test_plan_of_the_icebreaker():
    config = configs.load("icebreaker")
    found = plan(ICEBREAKER, config, clock_mhz=20)
    # As near as it comes: 12 MHz * 53 / 32
    assert (found.clock_mhz, found.baud, found.divisor) == (19.875, 1_000_000, 20)
    assert found.pll is not None
    assert found.pll.pad
    assert (found.memory, found.memory_bytes) == ("single", 128 << 10)
    # The board's own clock needs no PLL.
    assert plan(ICEBREAKER, config, clock_mhz=12).pll is None


def test_memory_is_what_the_network_needs():
    config = configs.load("small")
    program = compile_for(ULX3S, config, load(CNN))
    found = plan(ULX3S, config, program=program)
    assert (found.memory, found.memory_bytes) == ("block", program.memory_bytes)
    assert plan(ULX3S, config, memory=1 << 16, program=program).memory_bytes == 1 << 16
    with pytest.raises(
        ConfigError, match=f"memory = 4096: must be at least the {program.memory_bytes} bytes"
    ):
        plan(ULX3S, config, memory=4096, program=program)


@pytest.mark.parametrize("name", ["base", "small"])
def test_largest_memory_fills_the_device(name):
    """A unit more and there are too few block RAMs: those of a byte lane are 2 KiB each."""
    config = configs.load(name)
    most = largest_memory(ULX3S, config)
    left = TARGETS[ULX3S.target].available.bram - engine_blocks(config, "ecp5") - 1
    assert most % 4096 == 0
    # Nothing but whole blocks for each of the eight bytes of a word
    assert 8 * 2048 * (left // 8) - 4096 < most <= 2048 * left


@pytest.mark.parametrize(
    ("board", "config", "options", "match"),
    [
        ("icebreaker", "icebreaker", {"clock_mhz": 14}, "clock = 14: must be from 16 to 275 MHz"),
        (
            "icebreaker",
            "icebreaker",
            {"baud": 20_000_000},
            "baud = 20000000: must be a speed that a clock of 24",
        ),
        (
            "icebreaker",
            "icebreaker",
            {"memory": 1 << 18},
            "memory = 262144: must be at most 131072: 131072 bytes",
        ),
        (
            "ulx3s-25f",
            "small",
            {"memory": 5000},
            "memory = 5000: must be bytes, a multiple of 4096, or external",
        ),
        (
            "ulx3s-25f",
            "small",
            {"memory": 128 << 10},
            r"131072 bytes take 64 block RAMs beside the 33 .* too few",
        ),
        ("ulx3s-25f", "base", {}, "has no room for a memory: .* beside the 118 of the engine"),
        ("ice40-hx8k-b-evn", "icebreaker", {}, "has no room for a memory: .* has 32, 5 too few"),
    ],
)
def test_refusals(board, config, options, match):
    with pytest.raises(BitwrightError, match=match):
        plan(BOARDS[board], configs.load(config), **options)


def test_fabric_of_another_family():
    with pytest.raises(ConfigError, match="target = 'ecp5': must be generic or ice40"):
        plan(ICEBREAKER, configs.load("icebreaker", ["target=ecp5"]))


def test_a_network_that_needs_too_much():
    """By how much, and what would fit: here the same engine with smaller scratchpads."""
    board = BOARDS["colorlight-5a-75b"]
    config = configs.load("small", ["weight_depth=2048", "activation_depth=4096"])
    graph = load(CNN)
    with pytest.raises(BitwrightError) as caught:
        compile_for(board, config, graph)
    text = str(caught.value)
    assert f"{graph.name}: needs " in text
    assert " too few" in text
    assert "--set activation_depth=" in text
    # It does.
    changes = [word for word in text.split() if "_depth=" in word]
    smaller = configs.load("small", ["weight_depth=2048", "activation_depth=4096", *changes])
    assert compile_for(board, smaller, graph).memory_bytes <= largest_memory(board, smaller)


def test_external_memory(tmp_path):
    found = plan(BOARDS["ulx3s-25f"], configs.load("small"), memory="external")
    assert found.memory == "external"
    write_verilog(found, tmp_path)
    verilog = (tmp_path / "top.v").read_text()
    top = verilog[verilog.index("module top(") :].split(");")[0]
    assert {"m_axi_araddr", "m_axi_wdata", "host__adr", "engine_clk"} <= set(top.replace(",", " ").split())


def bitwright(*arguments, cwd):
    program = [sys.executable, "-c", "from bitwright.boards.cli import main; main()"]
    return subprocess.run(
        [*program, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=600
    )


def test_command_refuses_and_writes_nothing(tmp_path):
    done = bitwright("build", "icebreaker", "--board", "nowhere", "-o", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "board = 'nowhere': must be one of" in done.stderr
    done = bitwright(
        "build", "small", CNN, "--board", "ulx3s-25f", "--memory", "8192", "-o", "out", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "memory = 8192: must be at least the" in done.stderr
    done = bitwright("build", "small", "--board", "ulx3s-25f", "--memory", "much", "-o", "out", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --memory much: must be a number of bytes, or external\n",
    )
    assert not list(tmp_path.iterdir())


def test_command_with_external_memory(tmp_path):
    arguments = ("--board", "ulx3s-25f", "--memory", "external", "--json", "-o", "out")
    done = bitwright("build", "small", CNN, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts == json.loads((tmp_path / "out" / "build.json").read_text())
    assert (facts["board"], facts["memory"], facts["clock_mhz"]) == ("ulx3s-25f", "external", 80)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "build.json",
        "program.npz",
        "top.v",
    ]


def test_other_commands_are_there(tmp_path):
    done = bitwright("--help", cwd=tmp_path)
    assert {"build", "generate", "synth"} <= set(done.stdout.split())


@pytest.mark.parametrize("memory", [None, "external"])
def test_wishbone_engine_is_refused(memory):
    with pytest.raises(ConfigError, match="bus = 'wishbone': must be axi, or left out, on a board"):
        plan(ICEBREAKER, configs.load("icebreaker", ["bus=wishbone"]), memory=memory)
