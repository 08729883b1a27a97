"""A simulated board: its line carries bytes both ways, and what does not compile is said."""

import random

import pytest

from bitwright.boards.link import open_port
from bitwright.boards.simulation import SimulatedBoard, reference_sources
from bitwright.gen import config
from bitwright.sim.rtl import SimulationError

# What comes in goes out, a clock cycle later; every second byte inverted would not survive this by chance.
ECHO = """\
module echo (input wire clk, input wire uart_rx, output reg uart_tx, input wire other);
  initial uart_tx = 1'b1;
  always @(posedge clk) uart_tx <= uart_rx | other;
endmodule
"""


@pytest.mark.parametrize("bit_cycles", [6, 104])
def test_echo(bit_cycles, tmp_path, seed):
    (tmp_path / "echo.v").write_text(ECHO)
    data = random.Random(seed).randbytes(300)
    with SimulatedBoard([tmp_path / "echo.v"], "echo", bit_cycles=bit_cycles) as board:
        for part in (data[:1], data[1:], data):
            # One connection after the other
            port = open_port(board.port, baud=115200)
            port.timeout = 20
            port.write(part)
            assert port.read(len(part)) == part
            port.close()
    assert board.cycles >= 10 * bit_cycles * 2 * len(data)


def test_does_not_compile(tmp_path):
    (tmp_path / "echo.v").write_text(ECHO.replace("endmodule", ""))
    with pytest.raises(SimulationError, match=r"cannot compile the Verilog:[\s\S]*syntax error"):
        SimulatedBoard([tmp_path / "echo.v"], "echo", bit_cycles=6)


def test_memory_size():
    with pytest.raises(ValueError, match="memory_bytes must be a power of two of 4096 or more, not 5000"):
        reference_sources(config.load("tiny", []), divisor=6, memory_bytes=5000)
