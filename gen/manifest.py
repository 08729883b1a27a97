"""The JSON manifest beside a generated engine."""

import platform
from dataclasses import asdict
from typing import Any

from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.registers import COUNTER_BASE, COUNTERS, ID_VALUE, REGISTERS, Fault

from .verilog import TOP, Design, made_with

__all__ = ["manifest"]


def manifest(config: EngineConfig, design: Design) -> dict[str, Any]:
    """Contents of ``engine.json``: ports, registers, fault codes, configuration, versions.

    Parameters
    ----------
    config, design
        What was generated, and what came of it.
    """
    counters = [
        {"name": name, "offset": COUNTER_BASE + 4 * index, "access": "ro", "doc": doc}
        for index, (name, doc) in enumerate(COUNTERS)
    ]
    return {
        "top": TOP,
        "clock": "clk",
        "reset": "rst",
        "id": ID_VALUE,
        "ports": [asdict(port) for port in design.ports],
        "registers": [asdict(register) for register in REGISTERS] + counters,
        "faults": {fault.name.lower(): fault.value for fault in Fault},
        "configuration": asdict(config),
        "peak_macs_per_cycle": config.peak_macs_per_cycle,
        "accumulator_bits": config.accumulator_bits,
        "versions": made_with() | {"python": platform.python_version()},
    }
