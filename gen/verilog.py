"""Elaborates a configuration to Verilog."""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import UnusedElaboratable
from amaranth.lib import wiring

from bitwright.hw.config import EngineConfig
from bitwright.hw.emission import Emission
from bitwright.hw.engine import Engine

from .toolchain import run_tool

__all__ = ["TOP", "Design", "Port", "convert", "elaborate", "emit"]

TOP = "bitwright"
"""Name of the top module."""

# Amaranth's own Verilog back end keeps processes. Where a process drives a part of a signal and a constant
# the rest, Yosys writes `always @*` around the constant, which a simulator never runs. Multiplexers instead
# of processes avoid that, simulate faster, and leave out what is written twice.
_SCRIPT = (
    f"read_rtlil engine.il; hierarchy -top {TOP}; proc; opt_expr; opt_merge; opt_dff; opt_clean; "
    "write_verilog -noattr engine.v"
)


@dataclass(frozen=True)
class Port:
    """A port of the top module.

    Parameters
    ----------
    name, direction, width
        Direction is ``"input"`` or ``"output"``; width in bits.
    """

    name: str
    direction: str
    width: int


@dataclass(frozen=True)
class Design:
    """A generated engine.

    Parameters
    ----------
    verilog
        Verilog-2005; the top module is :data:`TOP`.
    ports
        Of the top module.
    """

    verilog: str
    ports: Sequence[Port]


def elaborate(config: EngineConfig, *, progress: Callable[[str], None] | None = None) -> Design:
    """Generate an engine.

    Parameters
    ----------
    config
        What to generate.
    progress
        Told when there is something to wait for.

    Raises
    ------
    ToolError
        There is no Yosys, or it failed.
    """
    engine = Engine(config)
    ports = [
        Port(
            name="__".join(map(str, path)),
            direction="output" if member.flow == wiring.Out else "input",
            width=len(value),
        )
        for path, member, value in engine.signature.flatten(engine)
    ]
    return Design(convert(engine, progress=progress), ports)


def convert(component: wiring.Component, *, progress: Callable[[str], None] | None = None) -> str:
    """Verilog of a component, which becomes module :data:`TOP`, and of the modules that it shares.

    Parameters
    ----------
    component
        What to convert.
    progress
        Told when there is something to wait for.

    Raises
    ------
    ToolError
        There is no Yosys, or it failed.
    """
    emission = Emission()
    with warnings.catch_warnings():
        # Of what is emitted once and instantiated many times, most are never elaborated.
        warnings.simplefilter("ignore", UnusedElaboratable)
        text = rtlil.convert(component, name=TOP, platform=emission, emit_src=False)
        for name, shared in list(emission.modules.items()):
            text += rtlil.convert(shared, name=name, platform=emission, emit_src=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "engine.il").write_text(text)
        run_tool("yosys", ["-q", "-p", _SCRIPT], folder, progress=progress)
        body = (folder / "engine.v").read_text()
    return "\n".join([body, *emission.verilog.values()])


def emit(config: EngineConfig) -> str:
    """The Verilog alone; see :func:`elaborate`."""
    return elaborate(config).verilog
