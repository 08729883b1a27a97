"""The engine as a core of FuseSoC, with a test bench that asks for its identity."""

import re
from importlib.metadata import version

from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import ConfigError
from bitwright.hw.sched.registers import ID_VALUE, REGISTERS

from .verilog import TOP, Design

__all__ = ["BENCH", "check_name", "core_file", "smoke_test"]

BENCH = "engine_tb"
"""Module that :func:`smoke_test` writes."""

_CORE = """\
CAPI=2:
# FuseSoC: https://fusesoc.readthedocs.io; by Bitwright {version}
name: bitwright::{name}:{version}
description: "Neural-network accelerator: {description}"

filesets:
  rtl:
    files:
      - engine.v
    file_type: verilogSource-2005
{cells}  bench:
    files:
      - engine_tb.v
    file_type: verilogSource-2005

targets:
  default:
    filesets: [rtl]
    toplevel: {top}
  lint:
    description: Verilator with every warning
    filesets: [{rtl}]
    toplevel: {top}
    flow: lint
    flow_options:
      tool: verilator
      verilator_options: ["-Wall"]
  sim:
    description: Asks the engine who it is
    filesets: [{rtl}, bench]
    toplevel: engine_tb
    flow: sim
    flow_options:
      tool: icarus
      iverilog_options: ["-g2005"]
"""

_CELLS = """\
  cells:
    files:
      - engine_cells.v
    file_type: verilogSource-2005
"""


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a core.

    Parameters
    ----------
    name
        Letters, digits, ``_`` and ``-``, and no digit first.

    Raises
    ------
    ConfigError
        It is something else.
    """
    if not re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII):
        raise ConfigError("core", name, "letters, digits, _ and -, and no digit first")


def core_file(name: str, config: EngineConfig, *, cells: bool) -> str:
    """Text of a core description, CAPI2, of the files that `generate` writes.

    Targets: ``default`` (the engine alone), ``lint`` (Verilator), ``sim`` (:func:`smoke_test` in Icarus).
    There are no parameters: an engine is generated for its configuration.

    Parameters
    ----------
    name
        Of the core; see :func:`check_name`.
    config
        The engine.
    cells
        Whether there are models of a family's cells, which lint and simulation take and synthesis does not.

    Raises
    ------
    ConfigError
        The name cannot be that of a core.

    References
    ----------
    FuseSoC, CAPI2 reference
    """
    check_name(name)
    return _CORE.format(
        name=name,
        version=version("bitwright"),
        description=f"{config.rows} x {config.cols} units of {config.lanes} lanes, {config.pe}",
        cells=_CELLS if cells else "",
        rtl="rtl, cells" if cells else "rtl",
        top=TOP,
    )


_AXI = """\
    s_axil_araddr = {offset};
    s_axil_arvalid = 1;
    s_axil_rready = 1;
    while (!s_axil_arready) @(negedge clk);
    @(negedge clk) s_axil_arvalid = 0;
    while (!s_axil_rvalid) @(negedge clk);
    found = s_axil_rdata;
"""

_WISHBONE = """\
    s_wb_adr = {offset} >> 2;
    s_wb_sel = 15;
    s_wb_cyc = 1;
    s_wb_stb = 1;
    #1 while (!s_wb_ack) @(negedge clk);
    found = s_wb_dat_r;
"""

_BENCH = """\
// Resets the engine and reads the register that says what it is. Ends with PASS, or FAIL and an error.
`timescale 1ns/1ps
module {bench};
{declarations}
  reg [31:0] found;
  {top} engine (
{connections}
  );
  always #5 clk = !clk;
  initial begin
    {inputs} = 0;
    rst = 1;
    repeat (4) @(negedge clk);
    rst = 0;
    @(negedge clk);
{access}    if (found === 32'h{identity:08x})
      $display("PASS: id %h", found);
    else
      $display("FAIL: id %h, not {identity:08x}", found);
    $finish;
  end
  initial begin
    #10000 $display("FAIL: no answer");
    $finish;
  end
endmodule
"""


def smoke_test(config: EngineConfig, design: Design) -> str:
    """Verilog-2005 of module :data:`BENCH`: reads the engine's `id` register, and prints PASS or FAIL.

    Parameters
    ----------
    config, design
        The engine, and what was generated from it.
    """
    offset = next(register.offset for register in REGISTERS if register.name == "id")

    def declaration(name: str, direction: str, width: int) -> str:
        kind = "reg" if direction == "input" else "wire"
        return f"  {kind} {f'[{width - 1}:0] ' if width > 1 else ''}{name};"

    ports = [(port.name, port.direction, port.width) for port in design.ports]
    return _BENCH.format(
        bench=BENCH,
        top=TOP,
        declarations="\n".join(declaration(*port) for port in ports),
        connections=",\n".join(f"    .{name}({name})" for name, _, _ in ports),
        inputs="{" + ", ".join(name for name, direction, _ in ports if direction == "input") + "}",
        access=(_WISHBONE if config.bus == "wishbone" else _AXI).format(offset=offset),
        identity=ID_VALUE,
    )
