"""An engine in a LiteX SoC: elaborated by LiteX to Verilog, and looked at by Verilator."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bitwright.gen import config
from bitwright.gen.manifest import manifest
from bitwright.gen.verilog import elaborate
from bitwright.sim.tools import find_simulator

pytest.importorskip("litex")

# A process of its own: LiteX and migen keep what they know of a build in globals.
_SOC = """
import sys
from litex.build.generic_platform import Pins
from litex.build.sim import SimPlatform
from litex.soc.integration.soc_core import SoCCore
from migen.genlib.io import CRG
from bitwright.boards.litex.bitwright_litex import add_bitwright

folder, standard = sys.argv[1:]
platform = SimPlatform("SIM", [("sys_clk", 0, Pins(1)), ("sys_rst", 0, Pins(1))])

class Soc(SoCCore):
    def __init__(self):
        SoCCore.__init__(
            self, platform, 1e6, cpu_type=None, integrated_sram_size=0, integrated_main_ram_size=0x10000,
            with_uart=False, with_timer=False, bus_standard=standard, ident="",
        )
        self.crg = CRG(platform.request("sys_clk"))
        add_bitwright(self, folder, origin=0x30000000)

soc = Soc()
soc.finalize()
platform.get_verilog(soc, name="soc").write(folder + "/soc.v")
regions = {name: (region.origin, region.size) for name, region in soc.bus.regions.items()}
print("RESULT", regions["bitwright_registers"], "bitwright_memory" in soc.bus.masters)
"""


@pytest.mark.parametrize(
    ("buses", "standard"), [("wishbone", "wishbone"), ("axi", "axi-lite"), ("axi", "wishbone")]
)
def test_soc(buses: str, standard: str, tmp_path: Path) -> None:
    engine = config.load("tiny", [f"bus={buses}"])
    design = elaborate(engine)
    (tmp_path / "engine.v").write_text(design.verilog)
    (tmp_path / "engine.json").write_text(json.dumps(manifest(engine, design)))
    done = subprocess.run(
        [sys.executable, "-c", _SOC, str(tmp_path), standard], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"RESULT ({0x3000_0000}, 256) True" in done.stdout

    # Every port of the engine is there, and of its own width.
    verilog = (tmp_path / "soc.v").read_text()
    instance = re.search(r"^bitwright bitwright\((.*?)^\);", verilog, re.MULTILINE | re.DOTALL)
    assert instance
    connected = set(re.findall(r"\.(\w+)\s*\(", instance[1]))
    assert connected == {port.name for port in design.ports}
    tool = find_simulator("verilator")
    environment = dict(os.environ)
    tool.extend(environment)
    command = [tool.executable, "--lint-only", "-Wno-fatal", "--top-module", "soc", "soc.v", "engine.v"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    # LiteX' own Verilog is not written for linters; what it has of ours is an instance and its wires.
    warnings = re.findall(
        r"^%(?:Error|Warning-PIN|Warning-\w*: engine|.*bitwright).*", done.stderr, re.MULTILINE
    )
    assert done.returncode == 0
    assert [line for line in warnings if "builder_csrbank" not in line] == []


def test_no_engine_in_the_folder(tmp_path: Path) -> None:
    from bitwright.boards.litex.bitwright_litex import Bitwright

    with pytest.raises(ValueError, match=r"has no engine of `bitwright generate`"):
        Bitwright(None, tmp_path)
