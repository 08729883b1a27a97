"""The emitted Verilog."""

import re
import subprocess
import sys

import pytest

from bitwright.gen import config
from bitwright.gen.manifest import manifest
from bitwright.gen.verilog import Design, convert, elaborate, emit
from bitwright.hw.engine import Engine
from bitwright.hw.errors import BitwrightError
from bitwright.hw.pe.contract import Precision
from bitwright.hw.pe.parallel import Parallel


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


# A component by itself

UNIT = Parallel(lanes=2, precisions=(Precision.parse("a2w2"),), reduction=4, multiplier="dsp")


def test_the_top_module_has_the_name_asked_for() -> None:
    default = convert(UNIT.unit())
    assert re.search(r"^module bitwright\(", default, re.MULTILINE)
    named = convert(UNIT.unit(), name="dot2")
    assert re.search(r"^module dot2\(", named, re.MULTILINE)
    assert not re.search(r"^module bitwright\(", named, re.MULTILINE)


@pytest.mark.parametrize("name", ["", "2dot", "dot 2", "dot2; write_file x", "dot-2", "dört", "a\nb"])
def test_what_is_no_name_of_a_module(name: str) -> None:
    with pytest.raises(BitwrightError, match=r"name = .*: must be the name of a Verilog module"):
        convert(UNIT.unit(), name=name)


def test_the_name_of_a_module_inside() -> None:
    with pytest.raises(BitwrightError, match="name = 'bitwright_multiply': is that of a module inside"):
        convert(UNIT.unit(), name="bitwright_multiply")
    with pytest.raises(BitwrightError, match="name = 'requantiser': is that of a module inside"):
        convert(Engine(config.load("tiny")), name="requantiser")
