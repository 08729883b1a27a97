"""Writes a command's results: aside first, then moved into place, all or nothing."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError

from .arrays import read_arrays

__all__ = ["of_another_engine", "staged"]

_OF_PROGRAM = ("program.npz", "outputs.npz", "report.json", "report.html")
_OF_ENGINE = (
    "engine.v",
    "engine.json",
    "engine_cells.v",
    "netlist.v",
    "engine.core",
    "engine_tb.v",
    "synth.json",
    "synth",
    "outputs.npz",
    "report.json",
    "report.html",
)
_NOT_OURS = (OSError, KeyError, IndexError, TypeError, ValueError, RecursionError)
"""What comes of reading a file that something else has written under one of our names."""


def of_another_engine(folder: Path, config: EngineConfig) -> list[str]:
    """Files that earlier commands left in a folder for another engine, which one of this would contradict.

    What a program was made for, or an engine from, stands in it. Files that do not say it are not ours.

    Parameters
    ----------
    folder
        Where a command writes.
    config
        The engine that it writes for.
    """
    ours = json.loads(json.dumps(asdict(config)))
    names: list[str] = []
    try:
        meta = read_arrays(folder / "program.npz", ("meta",), required=("meta",))["meta"]
        if json.loads(str(meta))["config"] != ours:
            names += _OF_PROGRAM
    except _NOT_OURS:
        pass
    try:
        if json.loads((folder / "engine.json").read_text())["configuration"] != ours:
            names += _OF_ENGINE
    except _NOT_OURS:
        pass
    return [name for name in dict.fromkeys(names) if (folder / name).exists()]


@contextmanager
def staged(folder: Path, *, optional: Sequence[str] = ()) -> Iterator[Path]:
    """A temporary folder beside ``folder`` whose contents are moved into it when the block ends well.

    When the block raises, nothing in ``folder`` has changed, and it is not created.

    Parameters
    ----------
    folder
        Where the files go.
    optional
        Files and folders that an earlier run may have left and this one may not make: they are removed then.

    Raises
    ------
    BitwrightError
        The folder cannot be written.
    """
    folder = folder.absolute()
    created: list[Path] = []
    try:
        if folder.exists() and not folder.is_dir():
            raise BitwrightError(f"{folder}: is not a folder; -o names the folder to write into")
        parent = folder.parent
        missing = [path for path in (parent, *parent.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir()
            created.append(path)
        stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
        stage.chmod(0o777 & ~_umask())
    except OSError as error:
        raise BitwrightError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        yield stage
        try:
            folder.mkdir(exist_ok=True)
            made = {item.name for item in stage.iterdir()}
            for item in sorted(stage.iterdir()):
                target = folder / item.name
                if target.is_dir() and not target.is_symlink():
                    shutil.rmtree(target)
                os.replace(item, target)
            for name in optional:
                if name in made:
                    continue
                if (folder / name).is_dir() and not (folder / name).is_symlink():
                    shutil.rmtree(folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise BitwrightError(f"{folder}: cannot be written: {error.strerror}") from None
        created.clear()
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        for path in reversed(created):
            path.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
