"""The core file, with FuseSoC itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitwright.gen import config
from bitwright.gen.cli import app
from bitwright.gen.fusesoc import core_file
from bitwright.hw.errors import ConfigError
from bitwright.sim.tools import ToolError, find_simulator

ENGINES = {"axi": (), "wishbone": ("--set", "bus=wishbone"), "ecp5": ("--set", "target=ecp5")}


@pytest.fixture(scope="module", params=ENGINES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp(request.param) / "engine"
    arguments = ["generate", "tiny", "--core", "tiny_engine", "-o", str(folder), *ENGINES[request.param]]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return folder


def fusesoc(folder: Path, *arguments: str) -> str:
    """What it prints, and the tools that it calls; Verilator on PATH."""
    environment = dict(os.environ)
    tool = find_simulator("verilator")
    tool.extend(environment)
    # FuseSoC looks for its own configuration there.
    environment["XDG_CONFIG_HOME"] = str(folder.parent)
    command = [str(Path(sys.executable).parent / "fusesoc"), "--cores-root", str(folder), *arguments]
    done = subprocess.run(
        command,
        cwd=folder.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_show(folder: Path) -> None:
    from importlib.metadata import version

    text = fusesoc(folder, "core", "show", "bitwright::tiny_engine")
    assert f"bitwright::tiny_engine:{version('bitwright')}" in text
    assert "1 x 1 units of 4 lanes, parallel" in text


def test_lint_runs_verilator_without_warnings(folder: Path) -> None:
    text = fusesoc(folder, "run", "--target=lint", "bitwright::tiny_engine")
    assert "verilator -f" in text
    assert "%Warning" not in text
    (options,) = folder.parent.glob("build/*/lint/*.vc")
    assert {"--lint-only", "-Wall"} <= set(options.read_text().split())


def test_simulation_finds_the_engine(folder: Path) -> None:
    try:
        find_simulator("icarus")
    except ToolError as error:
        pytest.skip(str(error))
    text = fusesoc(folder, "run", "--target=sim", "bitwright::tiny_engine")
    assert "PASS: id 42574731" in text
    # And it does not find another.
    bench = folder / "engine_tb.v"
    right = bench.read_text()
    bench.write_text(right.replace("=== 32'h42574731", "=== 32'h42574730"))
    try:
        assert "FAIL: id 42574731" in fusesoc(folder, "run", "--target=sim", "bitwright::tiny_engine")
    finally:
        bench.write_text(right)


@pytest.mark.parametrize("name", ["", "1st", "a b", "a:b", "ü"])
def test_names(name: str) -> None:
    with pytest.raises(ConfigError, match=r"core = .*: must be letters, digits"):
        core_file(name, config.load("tiny"), cells=False)


def test_a_bad_name_writes_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["generate", "tiny", "--core", "a b", "-o", str(tmp_path / "out")])
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "out").exists()
