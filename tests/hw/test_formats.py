"""Integer formats: ranges, bit patterns and the packed layout."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.hw.formats import Int

formats = st.builds(Int, st.integers(1, 32), st.booleans())


@pytest.mark.parametrize(
    ("format", "low", "high", "name"),
    [
        (Int(8), -128, 127, "int8"),
        (Int(8, signed=False), 0, 255, "uint8"),
        (Int(1), -1, 0, "int1"),
        (Int(1, signed=False), 0, 1, "uint1"),
        (Int(32), -(2**31), 2**31 - 1, "int32"),
        (Int(32, signed=False), 0, 2**32 - 1, "uint32"),
    ],
)
def test_range_and_name(format, low, high, name):
    assert (format.min, format.max, str(format)) == (low, high, name)


@pytest.mark.parametrize("bits", [0, -1, 33])
def test_width_out_of_range(bits):
    with pytest.raises(ValueError, match=f"1 to 32 bits, not {bits}"):
        Int(bits)


def test_equal_formats_are_one_key():
    assert {Int(4): "a"}[Int(4, True)] == "a"
    assert Int(4) != Int(4, False)


def test_contains():
    assert Int(4).contains(np.array([-8, 7]))
    assert not Int(4).contains(np.array([0, 8]))
    assert not Int(4).contains(np.array([-9, 0]))
    assert not Int(4, signed=False).contains(np.array([-1]))
    assert Int(4).contains(np.array([], np.int8))
    # The values' own type may be narrower than the format's range, or unsigned.
    assert Int(16).contains(np.array([-128, 127], np.int8))
    assert not Int(8).contains(np.array([128], np.uint8))


@settings(deadline=None)
@given(formats, st.data())
def test_encode_and_decode(format, data):
    values = np.array(data.draw(st.lists(st.integers(format.min, format.max), max_size=8)), np.int64)
    codes = format.encode(values)
    assert codes.dtype == np.uint32
    assert [int(code) for code in codes] == [int(value) % 2**format.bits for value in values]
    np.testing.assert_array_equal(format.decode(codes), values)


@pytest.mark.parametrize("value", [-9, 8])
def test_encode_what_does_not_fit(value):
    with pytest.raises(ValueError, match=f"{value}.*int4"):
        Int(4).encode(np.array([value]))


def test_decode_ignores_higher_bits():
    np.testing.assert_array_equal(Int(4).decode(np.array([0xF8, 0x17], np.uint32)), [-8, 7])
    np.testing.assert_array_equal(Int(4, signed=False).decode(np.array([0xF8, 0x17], np.uint32)), [8, 7])


def test_first_element_is_lowest():
    np.testing.assert_array_equal(Int(4).pack(np.array([1, -2, 3, 4])), [0xE1, 0x43])
    np.testing.assert_array_equal(Int(2).pack(np.array([1, 0, -1, -2])), [0b10_11_00_01])
    np.testing.assert_array_equal(Int(16).pack(np.array([0x1234])), [0x34, 0x12])


def test_pack_what_does_not_fill_bytes():
    with pytest.raises(ValueError, match="3 elements of int4"):
        Int(4).pack(np.zeros((2, 3), int))


@settings(deadline=None)
@given(
    st.sampled_from([1, 2, 3, 4, 8, 12, 32]), st.booleans(), st.integers(0, 3), st.integers(0, 3), st.data()
)
def test_pack_and_unpack(bits, signed, rows, bytes_8, data):
    format = Int(bits, signed)
    columns = 8 * bytes_8
    flat = data.draw(
        st.lists(st.integers(format.min, format.max), min_size=rows * columns, max_size=rows * columns)
    )
    values = np.array(flat, np.int64).reshape(rows, columns)
    packed = format.pack(values)
    assert packed.dtype == np.uint8
    assert packed.shape == (rows, columns * bits // 8)
    np.testing.assert_array_equal(format.unpack(packed), values)
    for row, line in zip(values, packed, strict=True):
        number = sum(int(value) % 2**bits << bits * index for index, value in enumerate(row))
        assert int.from_bytes(line.tobytes(), "little") == number
