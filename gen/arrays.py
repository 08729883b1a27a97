"""Reads `.npy` and `.npz` files that anybody may have made.

`numpy.load` believes a header: it asks for as much memory as the header speaks of before it looks whether the
data are there, and what is compressed may become a thousand times as much. Here both are checked first, and
nothing that is pickled is looked at.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.errors import printable

__all__ = ["MAX_ARRAY_BYTES", "ArraysError", "read_arrays"]

MAX_ARRAY_BYTES = 1 << 28
"""Most that an array may take, 256 MiB: the inputs of any test set that one would simulate."""

_MAGIC = b"\x93NUMPY"


class ArraysError(ValueError):
    """A file without arrays, or with one that is damaged or too large; the message says what is wrong."""


def read_arrays(path: Path, names: Sequence[str], *, required: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Arrays of a `.npz` file by name; that of a `.npy` file under the first of the names.

    Parameters
    ----------
    path
        The file; its content says which of the two it is.
    names
        Which of a `.npz` file's arrays to read, where they are there. Others are not looked at, whatever they
        are.
    required
        Those of them without which the file is of no use.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ArraysError
        It cannot be read, is neither of the two, lacks a required array, or one holds something else than
        numbers, truth values or text, or takes more than :data:`MAX_ARRAY_BYTES`.
    """
    try:
        if path.exists() and not path.is_file():
            raise ArraysError("is not a regular file")
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
            file.seek(0)
            if start == _MAGIC:
                return {names[0]: _read(file, path.stat().st_size)}
            with ZipFile(file) as archive:
                # Of several members of a name the last, as zipfile has it.
                found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                for name in required:
                    if name not in found:
                        others = ", ".join(printable(other, 40) for other in list(found)[:10])
                        raise ArraysError(f"has no array '{name}', but {others or 'none'}")
                return {name: _member(archive, found[name]) for name in names if name in found}
    except (FileNotFoundError, ArraysError):
        raise
    except OSError as error:
        raise ArraysError(f"cannot be read: {error.strerror or error}") from None
    except Exception as error:
        # zipfile, its decompressors and numpy's reader of headers between them raise a dozen types.
        raise ArraysError(
            f"is not a .npy or .npz file of numbers ({printable(str(error) or type(error).__name__)})"
        ) from None


def _member(archive: ZipFile, info: ZipInfo) -> NDArray[Any]:
    if info.file_size > MAX_ARRAY_BYTES:
        raise ValueError(
            f"'{printable(info.filename, 40)}' has {info.file_size} bytes, more than {MAX_ARRAY_BYTES}"
        )
    with archive.open(info) as member:
        # What the archive says of its size is the most that comes of it.
        data = member.read(info.file_size)
    return _read(io.BytesIO(data), len(data))


def _read(file: IO[bytes], size: int) -> NDArray[Any]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not known")
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    # Room for a header is made before it is read: first see that it is there.
    start = file.tell()
    length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if length > size:
        raise ValueError(f"a header of {length} bytes, but only {size} in all")
    file.seek(start)
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "iufbUS" or dtype.hasobject:
        raise ValueError(f"elements of type {dtype} are neither numbers nor text")
    count = 1
    for length in shape:
        if length < 0:
            raise ValueError(f"shape {shape}")
        count *= int(length)
    if count * dtype.itemsize > MAX_ARRAY_BYTES:
        raise ValueError(f"an array of {count * dtype.itemsize} bytes, more than {MAX_ARRAY_BYTES}")
    if count * dtype.itemsize > size - file.tell():
        raise ValueError(f"shape {shape} of {dtype}, but only {size - file.tell()} bytes")
    data = file.read(count * dtype.itemsize)
    # A copy, as what comes of bytes cannot be written to.
    flat: NDArray[Any] = np.frombuffer(data, dtype, count).copy()
    return flat.reshape(shape, order="F" if fortran else "C")
