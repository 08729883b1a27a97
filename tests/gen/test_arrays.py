"""Arrays of files that lie: refused before memory is asked for."""

import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from bitwright.gen import arrays
from bitwright.gen.arrays import ArraysError, read_arrays

VALUES = {
    "a": np.arange(6, dtype=np.int8).reshape(2, 3),
    "b": np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)),
    "c": np.array("text"),
    "d": np.zeros((0, 3), np.float32),
    "e": np.array(1.5),
}


def npy(shape, data=b"", descr="'|i1'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_as_numpy_reads_them(tmp_path, save):
    path = tmp_path / "x.npz"
    save(path, **VALUES)
    found = read_arrays(path, (*VALUES, "absent"))
    assert set(found) == set(VALUES)
    for name, array in VALUES.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert found["a"].flags.writeable
    np.save(tmp_path / "x.npy", VALUES["b"])
    np.testing.assert_array_equal(read_arrays(tmp_path / "x.npy", ("first", "second"))["first"], VALUES["b"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "File is not a zip file"),
        (npy((1 << 40,)), "1099511627776 bytes, more than"),
        (npy((1 << 20,)), "only 0 bytes"),
        (npy((-1,)), "shape"),
        (npy((2,), bytes(2), "'|O'"), "neither numbers nor text"),
        (npy((2,), bytes(2), "'|V1'"), "neither numbers nor text"),
        (npy("(" * 3000), "Cannot parse header|EOF in multi-line"),
        (npy((2,))[:20], "a header of 56 bytes"),
        (b"\x93NUMPY\7\0" + npy((2,))[8:], "version 7.0|we only support"),
    ],
)
def test_what_is_refused(tmp_path, content, message):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(ArraysError, match=rf"(?s)is not a \.npy or \.npz file of numbers \(.*({message})"):
        read_arrays(path, ("x",))


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "x.npz", ("x",))
    with pytest.raises(ArraysError, match="is not a regular file"):
        read_arrays(tmp_path, ("x",))
    np.savez(tmp_path / "x.npz", a=1, b=2)
    with pytest.raises(ArraysError, match="has no array 'x', but a, b"):
        read_arrays(tmp_path / "x.npz", ("x",), required=("x",))


def test_what_is_compressed_may_not_swell(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_ARRAY_BYTES", 1 << 20)
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy((1 << 25,), bytes(1 << 25)))
        archive.writestr("y.npy", npy((3,), bytes(3)))
    assert path.stat().st_size < 1 << 16
    tracemalloc.start()
    with pytest.raises(ArraysError, match="more than 1048576"):
        read_arrays(path, ("x",))
    # What is not asked for is not looked at.
    assert read_arrays(path, ("y",))["y"].size == 3
    assert tracemalloc.get_traced_memory()[1] < 1 << 21
    tracemalloc.stop()


def test_nothing_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    np.savez(tmp_path / "x.npz", x=np.array([Evil()], dtype=object))
    with pytest.raises(ArraysError):
        read_arrays(tmp_path / "x.npz", ("x",))
    assert not (tmp_path / "made").exists()
