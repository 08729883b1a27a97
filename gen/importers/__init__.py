"""Network files in, integer graphs out; one module per file format, none of which knows any hardware."""

from os import PathLike
from pathlib import Path

from bitwright.sim.graph import Graph, NetworkError

__all__ = ["MAX_BYTES", "load"]

MAX_BYTES = 1 << 28
"""Largest network file that is read: far more than any network these engines are built for."""


def load(path: str | PathLike[str]) -> Graph:
    """Read a quantised network; the file format is recognised by the content.

    Raises
    ------
    NetworkError
        The file cannot be read, is no network, or holds something that cannot be lowered.
    """
    path = Path(path)
    where = f"network '{path}'"
    data = _read(path, where)
    # Imported here because each brings a reader that takes a moment to load.
    if data[4:8] == b"TFL3":
        from .tflite import load as load_tflite

        return load_tflite(data, path.stem, where)
    from ._onnx import read
    from .qonnx import is_qonnx
    from .qonnx import load as load_qonnx

    model = read(data, where)
    if is_qonnx(model):
        return load_qonnx(model, path.stem, where)
    from .onnx import load as load_onnx

    return load_onnx(model, path.stem, where)


def _read(path: Path, where: str) -> bytes:
    try:
        if path.is_dir():
            raise NetworkError(where, "is a directory", "give a .tflite or .onnx file")
        if path.exists() and not path.is_file():
            raise NetworkError(where, "is not a regular file", "give a .tflite or .onnx file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NetworkError(where, "there is no such file", "check the path") from None
    except (OSError, ValueError) as error:
        # ValueError: a null character in the path.
        raise NetworkError(where, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not data:
        raise NetworkError(where, "is empty", "export the network again")
    if len(data) > MAX_BYTES:
        raise NetworkError(where, f"is larger than {MAX_BYTES >> 20} MiB", "give a smaller network")
    return data
