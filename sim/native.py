"""Compiles Verilog and a C++ main program with Verilator: for when cocotb takes too long per cycle."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .rtl import (
    _MAKE_ARGUMENTS,
    _MAKE_JOBS,
    _VERILATOR_ARGUMENTS,
    SimulationError,
    _key,
    _prune,
    _tail,
    _tool_key,
    cache_root,
)
from .tools import ToolError, find_simulator

__all__ = ["compile_native"]


def compile_native(sources: Mapping[str, str], top: str, main: str) -> Path:
    """The program, compiled or found compiled before in :func:`~bitwright.sim.rtl.cache_root`.

    Parameters
    ----------
    sources
        Contents of the Verilog files, by their names.
    top
        Name of the top module; its class is ``Vtop``.
    main
        The main program, in C++.

    Raises
    ------
    ToolError
        A program is missing.
    SimulationError
        It does not compile; the message has the end of the log.
    """
    tool = find_simulator("verilator")
    root = cache_root()
    if len(str(root).split()) > 1:
        raise ToolError(f"{root}: make cannot build in folders with spaces; set BITWRIGHT_CACHE")
    # The program has its own loop over the clock, so nothing waits for time within the Verilog.
    arguments = [argument for argument in _VERILATOR_ARGUMENTS if argument != "--timing"] + ["--no-timing"]
    key = _key(["native", dict(sources), top, main, _tool_key(tool), arguments, _MAKE_ARGUMENTS])
    final = root / key
    if (final / "simulation").exists():
        with contextlib.suppress(OSError):
            os.utime(final)
        return final / "simulation"
    root.mkdir(parents=True, exist_ok=True)
    _prune(root, "building-*")
    folder = Path(tempfile.mkdtemp(prefix="building-", dir=root))
    log = folder / "build.log"
    environment = dict(os.environ)
    tool.extend(environment)
    for name, text in {**sources, "main.cpp": main}.items():
        (folder / name).write_text(text)
    # As in :mod:`bitwright.sim.rtl`, objects of Verilator's own library are kept.
    library = root / f"library-{_key(['native', _tool_key(tool), _MAKE_ARGUMENTS])}"
    commands = [
        [
            *(str(tool.executable), "--cc", "--exe", "--Mdir", ".", "--prefix", "Vtop", "--top-module", top),
            *(*arguments, "-o", "simulation", *sources, "main.cpp"),
        ],
        ["make", "-j", str(_MAKE_JOBS), "-f", "Vtop.mk", *_MAKE_ARGUMENTS, *tool.make_variables],
    ]
    with log.open("w") as output:
        for command in commands:
            if command[0] == "make" and library.is_dir():
                for path in library.iterdir():
                    shutil.copyfile(path, folder / path.name)
            done = subprocess.run(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            if done.returncode:
                raise SimulationError(
                    f"verilator cannot compile the Verilog:\n{_tail(log)}\n(all of it: {log})"
                )
    if not library.is_dir():
        partial = folder / "library"
        partial.mkdir()
        for path in folder.glob("verilated*.o"):
            path.rename(partial / path.name)
        with contextlib.suppress(OSError):
            partial.rename(library)
        shutil.rmtree(partial, ignore_errors=True)
    for path in folder.iterdir():
        if path.name not in ("simulation", "build.log", *sources):
            path.unlink()
    try:
        folder.rename(final)
    except OSError:  # another process was first
        if not (final / "simulation").exists():
            raise
        shutil.rmtree(folder, ignore_errors=True)
    return final / "simulation"
