"""Elaborates a configuration to Verilog."""

import re
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
from bitwright.hw.errors import BitwrightError

from .toolchain import run_tool

__all__ = ["TOP", "Design", "Port", "convert", "elaborate", "emit"]

TOP = "bitwright"
"""Name of the top module."""

# Amaranth's own Verilog back end keeps processes. Where a process drives a part of a signal and a constant
# the rest, Yosys writes `always @*` around the constant, which a simulator never runs. Multiplexers instead
# of processes avoid that, simulate faster, and leave out what is written twice.
_SCRIPT = (
    "read_rtlil engine.il; hierarchy -top {top}; proc; opt_expr; opt_merge; opt_dff; opt_clean; "
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


def convert(
    component: wiring.Component, *, name: str = TOP, progress: Callable[[str], None] | None = None
) -> str:
    """Verilog of a component, the top module, and of the modules that it shares.

    Parameters
    ----------
    component
        What to convert.
    name
        Of the top module; those of submodules begin with it.
    progress
        Told when there is something to wait for.

    Raises
    ------
    BitwrightError
        The name cannot be that of the top module.
    ToolError
        There is no Yosys, or it failed.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise BitwrightError(
            f"name = {name!r}: must be the name of a Verilog module: letters, digits and _, no digit first"
        )
    emission = Emission()
    with warnings.catch_warnings():
        # Of what is emitted once and instantiated many times, most are never elaborated.
        warnings.simplefilter("ignore", UnusedElaboratable)
        text = rtlil.convert(component, name=name, platform=emission, emit_src=False)
        for module, shared in list(emission.modules.items()):
            text += rtlil.convert(shared, name=module, platform=emission, emit_src=False)
    if name in {*emission.modules, *emission.verilog}:
        raise BitwrightError(f"name = {name!r}: is that of a module inside; take another")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "engine.il").write_text(text)
        run_tool("yosys", ["-q", "-p", _SCRIPT.format(top=name)], folder, progress=progress)
        body = (folder / "engine.v").read_text()
    return "\n".join([body, *emission.verilog.values()])


def emit(config: EngineConfig) -> str:
    """The Verilog alone; see :func:`elaborate`."""
    return elaborate(config).verilog
