"""The emitted Verilog."""

import re
import subprocess
import sys

import pytest

from bitwright.gen import config
from bitwright.gen.manifest import manifest
from bitwright.gen.verilog import Design, elaborate, emit


@pytest.fixture(scope="module")
def design() -> Design:
    return elaborate(config.load("tiny"))


@pytest.fixture(scope="module")
def tiny(design: Design) -> str:
    return design.verilog


def test_modules_and_ports(tiny: str, design: Design) -> None:
    modules = re.findall(r"^module ([^\s(]+)", tiny, re.MULTILINE)
    assert len(modules) == len(set(modules))
    assert {"bitwright", "dot_product_unit", "requantiser", "bitwright_ram"} <= set(modules)
    top = re.search(r"^module bitwright\((.*?)\);", tiny, re.MULTILINE | re.DOTALL)
    assert top
    ports = {port.strip() for port in top[1].replace("\n", " ").split(",")}
    assert ports == {port["name"] for port in manifest(config.load("tiny"), design)["ports"]}
    assert {"clk", "rst", "irq", "m_axi_rdata", "s_axil_wdata"} <= ports


def test_nothing_a_simulator_would_never_run(tiny: str) -> None:
    assert "always @*" not in tiny


def test_memories_do_not_ask_for_collision_emulation(tiny: str) -> None:
    declarations = re.findall(r"^.*reg .*\[0:DEPTH-1\];$", tiny, re.MULTILINE)
    assert declarations
    assert all("no_rw_check" in line for line in declarations)
    # No other memory is in the file.
    assert not re.findall(r"^  reg \[[^]]*\] \S+ \[[^]]*\];$", tiny, re.MULTILINE)


def test_the_same_on_any_hash_seed(tiny: str) -> None:
    script = "from bitwright.gen import config, verilog; print(verilog.emit(config.load('tiny')), end='')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**__import__("os").environ, "PYTHONHASHSEED": "12345"},
    )
    assert done.stdout == tiny


def test_one_unit_is_emitted_once() -> None:
    verilog = emit(config.load("small"))
    assert len(re.findall(r"^module dot_product_unit", verilog, re.MULTILINE)) == 1
    assert len(re.findall(r"^  dot_product_unit ", verilog, re.MULTILINE)) == 3
