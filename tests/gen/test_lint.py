"""The emitted Verilog under the linters of its users: Verilator's with every warning, and Icarus'."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from bitwright.gen import config
from bitwright.gen.verilog import emit, simulation_cells
from bitwright.sim.tools import ToolError, find_simulator

ENGINES = {
    "tiny": ("tiny", ()),
    "small": ("small", ()),
    "base": ("base", ()),
    "ecp5": ("small", ("target=ecp5",)),
    "ice40": ("tiny", ("target=ice40", 'precisions=["a4w4"]')),
    "wishbone": ("tiny", ("bus=wishbone",)),
    "unpu": ("tiny", ("pe=unpu", "lanes=8")),
}


@pytest.fixture(scope="module", params=ENGINES)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The engine, and models of its cells where it has any."""
    name, overrides = ENGINES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    verilog = emit(config.load(name, overrides))
    (folder / "engine.v").write_text(verilog)
    if cells := simulation_cells(verilog):
        (folder / "engine_cells.v").write_text(cells)
    return sorted(folder.iterdir())


def verilator_lint(files: list[Path], top: str = "bitwright") -> list[str]:
    """Warnings and errors of Verilator, with every warning there is."""
    tool = find_simulator("verilator")
    command = [tool.executable, "--lint-only", "-Wall", "--top-module", top, *files]
    environment = dict(os.environ)
    tool.extend(environment)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return re.findall(r"^%(?:Warning|Error).*", done.stderr, re.MULTILINE)


def icarus_lint(files: list[Path], top: str = "bitwright") -> list[str]:
    """Everything that Icarus says, all of it being warnings or errors."""
    try:
        tool = find_simulator("icarus")
    except ToolError as error:
        pytest.skip(str(error))
    command = [tool.executable, "-g2005", "-Wall", "-t", "null", "-s", top, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stderr.splitlines()


def test_verilator_has_no_warnings(files: list[Path]) -> None:
    assert verilator_lint(files) == []


def test_icarus_has_no_warnings(files: list[Path]) -> None:
    # The first cell of a carry chain takes no carry in: see hw/reduce/carry.py.
    deliberate = "CCU2C with dangling input port 1 (CIN) floating."
    assert [line for line in icarus_lint(files) if not line.endswith(deliberate)] == []


def test_waivers_are_these_only(files: list[Path]) -> None:
    text = next(file for file in files if file.name == "engine.v").read_text()
    waivers = re.findall(r"lint_off (\w+) \*/  // \w", text)
    allowed = ["DECLFILENAME", "UNUSEDSIGNAL", "CASEOVERLAP"]
    if "CCU2C" in text:
        allowed.append("PINMISSING")
    assert waivers == allowed
    assert text.count("lint_off") == len(allowed)


def test_a_mistake_is_found(tmp_path: Path) -> None:
    """A driver that is too narrow, in a register's place."""
    verilog = emit(config.load("tiny"))
    wrong, count = re.subn(r"^  assign irq = ", "  assign irq = 2'h0 + ", verilog, flags=re.MULTILINE)
    assert count == 1
    (tmp_path / "engine.v").write_text(wrong)
    assert any("WIDTH" in line for line in verilator_lint([tmp_path / "engine.v"]))
