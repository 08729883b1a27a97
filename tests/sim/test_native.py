"""Verilog and a C++ main program, compiled to one program."""

import subprocess

import pytest

from bitwright.sim.native import compile_native
from bitwright.sim.rtl import SimulationError

VERILOG = "module counter (input wire clk, output reg [7:0] count); initial count = 0;\n" + (
    "always @(posedge clk) count <= count + 1; endmodule\n"
)
MAIN = """\
#include <cstdio>
#include "Vtop.h"
int main() {
    Vtop top;
    for (int cycle = 0; cycle < 300; ++cycle) {
        top.clk = 0; top.eval(); top.clk = 1; top.eval();
    }
    std::printf("%d", top.count + 1000);
}
"""


def test_runs():
    program = compile_native({"counter.v": VERILOG}, "counter", MAIN)
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "1044"
    # Found again
    changed = program.stat().st_mtime_ns
    assert compile_native({"counter.v": VERILOG}, "counter", MAIN) == program
    assert program.stat().st_mtime_ns == changed
    with pytest.raises(SimulationError, match="cannot compile the Verilog"):
        compile_native({"counter.v": VERILOG}, "counter", MAIN.replace("count", "number"))
