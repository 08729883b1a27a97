"""Breaks files, knowing how they are built: what is left is mostly well-formed and gets far into a reader.

Each function takes the random numbers first. They are Python's own, of which thousands are made in a second
from a seed each; so any input of a campaign can be made again from two numbers.
"""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import flatbuffers
import numpy as np
import onnx

__all__ = ["Trace", "flatbuffer", "json_value", "npz", "protobuf", "raw", "text", "traced"]

_INTEGERS = (
    -(1 << 31),
    -128,
    -2,
    -1,
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    64,
    127,
    128,
    255,
    256,
    65535,
    1 << 24,
    (1 << 31) - 1,
)
_LONG = (*_INTEGERS, -(1 << 63), 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1)
_FLOATS = (
    *(0.0, -0.0, 0.5, 1.0, -1.0, 2.0, 127.5, 1e-45, 1e-30, 1e-8, 1e8, 3e38),
    *(float("nan"), float("inf"), float("-inf")),
)
_TEXTS = ("", "x", "\0", "\x1b[2J", "../../etc/passwd", "/etc/passwd", "é" * 60, "%s{0}", "\n", "a" * 5000)


def raw(rng: Random, data: bytes) -> bytes:
    """A file as bytes: some changed, cut off, doubled or left out."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0 if changed:
                changed[at - 1] ^= 1 << rng.randrange(8)
            case 1 if changed:
                changed[at - 1] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                del changed[at:]
            case 3:
                del changed[at : at + rng.randrange(1, 17)]
            case 4:
                changed[at:at] = changed[at : at + rng.randrange(1, 65)]
            case _:
                width = rng.choice((2, 4, 8))
                value = rng.choice(_LONG) & ((1 << 8 * width) - 1)
                changed[at : at + width] = value.to_bytes(width, "little")
    return bytes(changed)


# Flatbuffers


@dataclass(frozen=True)
class Trace:
    """A flatbuffer and where a reader looked in it: offset and `struct` format of each number, once.

    A flatbuffer does not say what it holds; watching a reader finds every number that matters, vectors'
    elements and offsets between tables included.
    """

    data: bytes
    places: tuple[tuple[int, str], ...]


def traced(data: bytes, read: Callable[[bytes], object]) -> Trace:
    """Watch `read`, which must take the whole file without complaint."""
    places: dict[tuple[int, str], None] = {}
    with _watched(places):
        read(data)
    return Trace(data, tuple(place for place in places if 0 <= place[0] < len(data)))


@contextmanager
def _watched(places: dict[tuple[int, str], None]) -> Iterator[None]:
    get, get_vector = flatbuffers.encode.Get, flatbuffers.encode.GetVectorAsNumpy

    def one(packer: struct.Struct, buffer: bytes, head: int) -> Any:
        places[head, packer.format] = None
        return get(packer, buffer, head)

    def several(kind: Any, buffer: bytes, count: int, offset: int) -> Any:
        dtype = np.dtype(kind)
        # Of long vectors the first elements: the others are read in the same way.
        for index in range(min(count, 16)):
            places[offset + index * dtype.itemsize, "<" + dtype.char] = None
        return get_vector(kind, buffer, count, offset)

    flatbuffers.encode.Get, flatbuffers.encode.GetVectorAsNumpy = one, several
    try:
        yield
    finally:
        flatbuffers.encode.Get, flatbuffers.encode.GetVectorAsNumpy = get, get_vector


def flatbuffer(rng: Random, trace: Trace) -> bytes:
    """A flatbuffer with a few of its numbers changed, some to those of other places."""
    changed = bytearray(trace.data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at, form = rng.choice(trace.places)
        packer = struct.Struct(form)
        kind = form[-1]
        if rng.random() < 0.25:
            other = rng.choice([place for place, same in trace.places if same == form])
            changed[at : at + packer.size] = trace.data[other : other + packer.size]
        elif kind in "efd":
            value = rng.choice((*_FLOATS, rng.uniform(-2, 2), rng.gauss(0, 1) * 1e-3))
            if kind != "e" or abs(value) < 6e4:
                packer.pack_into(changed, at, value)
        elif kind == "?":
            changed[at] ^= 1
        else:
            (old,) = packer.unpack_from(changed, at)
            number = rng.choice(
                (*_LONG, old + 1, old - 1, old * 2, -old, rng.randrange(16), rng.randrange(160))
            )
            number &= (1 << 8 * packer.size) - 1
            changed[at : at + packer.size] = number.to_bytes(packer.size, "little")
    return bytes(changed)


# Protobuf


def protobuf(rng: Random, data: bytes, others: Sequence[bytes], texts: Sequence[str]) -> bytes:
    """An ONNX file with a few fields changed, left out, doubled, or taken from another file.

    Parameters
    ----------
    data
        The file.
    others
        Where parts may come from.
    texts
        What a text may become: names of operators, attributes and tensors.
    """
    model = onnx.ModelProto.FromString(data)
    donor: Any = None
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        message = _part(rng, model)
        if rng.random() < 0.1:
            donor = donor or onnx.ModelProto.FromString(rng.choice(others))
            found = next((p for p in (_part(rng, donor) for _ in range(4)) if type(p) is type(message)), None)
            if found is not None:
                message.CopyFrom(found)
                continue
        _change(rng, message, texts)
    return bytes(model.SerializeToString())


def _part(rng: Random, model: Any) -> Any:
    """A part of a message, nodes and tensors more often than what is around them."""
    message = model.graph if rng.random() < 0.9 else model
    while True:
        children = [
            (field, value)
            for field, value in message.ListFields()
            if field.type == field.TYPE_MESSAGE and (len(value) if _repeated(field) else True)
        ]
        if not children or rng.random() < 0.25:
            return message
        field, value = rng.choice(children)
        message = rng.choice(value) if _repeated(field) else value


def _repeated(field: Any) -> bool:
    # Newer versions of protobuf have it as a property and warn of the label.
    repeated = getattr(field, "is_repeated", None)
    return field.label == field.LABEL_REPEATED if repeated is None else bool(repeated)


def _change(rng: Random, message: Any, texts: Sequence[str]) -> None:
    present = [field for field, _ in message.ListFields()]
    fields = present if present and rng.random() < 0.85 else list(message.DESCRIPTOR.fields)
    field = rng.choice(fields)
    name = field.name
    if not _repeated(field):
        if field.type == field.TYPE_MESSAGE or rng.random() < 0.15:
            message.ClearField(name)
        else:
            setattr(message, name, _scalar(rng, field, getattr(message, name), texts))
        return
    values = getattr(message, name)
    count = len(values)
    match rng.randrange(5):
        case 0 if count:
            del values[rng.randrange(count)]
        case 1 if count:
            values.append(values[rng.randrange(count)])
        case 2 if count > 1:
            first, second = rng.randrange(count), rng.randrange(count)
            copies = list(values)
            copies[first], copies[second] = copies[second], copies[first]
            copies = (
                [type(copy).FromString(copy.SerializeToString()) for copy in copies]
                if (field.type == field.TYPE_MESSAGE)
                else copies
            )
            del values[:]
            values.extend(copies)
        case _ if field.type == field.TYPE_MESSAGE:
            if count:
                _change(rng, rng.choice(values), texts)
            else:
                values.add()
        case _ if count and rng.random() < 0.8:
            at = rng.randrange(count)
            values[at] = _scalar(rng, field, values[at], texts)
        case _:
            values.append(_scalar(rng, field, None, texts))


def _scalar(rng: Random, field: Any, old: Any, texts: Sequence[str]) -> Any:
    match field.cpp_type:
        case field.CPPTYPE_STRING if field.type == field.TYPE_BYTES:
            old = old or b""
            if old and rng.random() < 0.4:  # the numbers of a tensor, as likely as not
                special = struct.pack("<f", rng.choice(_FLOATS)) if rng.random() < 0.7 else rng.randbytes(4)
                at = rng.randrange(len(old)) & ~3
                return (old[:at] + special + old[at + 4 :])[: len(old)]
            return raw(rng, old) if rng.random() < 0.7 else rng.choice(_TEXTS).encode()
        case field.CPPTYPE_STRING:
            return rng.choice(texts) if rng.random() < 0.8 else rng.choice(_TEXTS)
        case field.CPPTYPE_FLOAT | field.CPPTYPE_DOUBLE:
            return rng.choice((*_FLOATS, rng.uniform(-2, 2)))
        case field.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case field.CPPTYPE_ENUM:
            return rng.choice(field.enum_type.values).number
    old = old or 0
    value = rng.choice((*_LONG, old + 1, old - 1, old * 2, rng.randrange(24)))
    low, high = {
        field.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
        field.CPPTYPE_UINT32: (0, (1 << 32) - 1),
        field.CPPTYPE_UINT64: (0, (1 << 64) - 1),
    }.get(field.cpp_type, (-(1 << 63), (1 << 63) - 1))
    return min(max(value, low), high)


# Text and JSON


def text(rng: Random, lines: Sequence[str], values: Sequence[str]) -> bytes:
    """A file of lines `key = value`: some left out, doubled, exchanged, or with other values.

    Parameters
    ----------
    lines
        Of a sound file.
    values
        What a value may become, as it is written.
    """
    changed = list(lines)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed)) if changed else 0
        match rng.randrange(7):
            case 0 if changed:
                del changed[at]
            case 1 if changed:
                changed.insert(at, rng.choice(changed))
            case 2 | 3 | 4 if changed and "=" in changed[at]:
                key = changed[at].split("=")[0]
                changed[at] = f"{key}= {rng.choice(values)}"
            case 5:
                depth = rng.choice((1, 5, 2000))
                opening, closing = rng.choice(("[]", "{}", '""', "''", "()"))
                changed.insert(at, f"nested = {opening * depth}{closing * depth}")
            case _:
                key = rng.choice(("cols", "x", "a.b", "[x]", "[[x]]", '""'))
                changed.insert(at, f"{key} = {rng.choice(values)}")
    data = "\n".join(changed).encode()
    return raw(rng, data) if rng.random() < 0.3 else data


def json_value(rng: Random, value: Any, depth: int = 0) -> Any:
    """A value as JSON has them, with one or a few parts changed."""
    if isinstance(value, dict | list) and value and (depth == 0 or rng.random() < 0.85):
        copy: Any = value.copy()
        keys: Any = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(keys)
        match rng.randrange(10):
            case 0:
                del copy[key]
            case 1 if isinstance(copy, list):
                copy.insert(key, copy[rng.randrange(len(copy))])
            case 1:
                copy[rng.choice(_TEXTS)] = copy[key]
            case 2:
                copy[key] = copy[rng.choice(keys)]
            case _:
                copy[key] = json_value(rng, copy[key], depth + 1)
        return copy
    if rng.random() < 0.5:
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return rng.choice((*_LONG, value + 1, value - 1, value * 2, 10**30))
        if isinstance(value, str):
            return raw(rng, value.encode()).decode("utf-8", "replace") if value else rng.choice(_TEXTS)
    return rng.choice(
        (None, True, 0, -1, 1.5, 1e300, "", "x", [], {}, [[]], [None], {"type": "x"}, *_LONG, *_FLOATS)
    )


# Arrays


_DTYPES = (
    "|i1",
    "<i8",
    "<f4",
    "|O",
    "|V8",
    "<U9",
    "|S3",
    "<c16",
    "<M8[s]",
    "|b1",
    "<f2",
    "x",
    "",
    [("a", "<i4")],
)


def npz(rng: Random, arrays: Mapping[str, Any], *, single: bool = False) -> bytes:
    """A `.npz` file, or a `.npy` file of its first array: headers that lie, members that are broken.

    Parameters
    ----------
    arrays
        Of a sound file.
    single
        Whether to write a `.npy` file.
    """
    members: dict[str, bytes] = {}
    touched = rng.choice(list(arrays))
    for name, array in arrays.items():
        data = _npy(rng, np.asarray(array), broken=name == touched and rng.random() < 0.8)
        members[f"{name}.npy"] = raw(rng, data) if name == touched and rng.random() < 0.2 else data
    if single:
        return next(iter(members.values()))
    if rng.random() < 0.1:
        members.pop(rng.choice(list(members)))
    if rng.random() < 0.1:
        members[rng.choice(("../x.npy", "/etc/x.npy", "x", "input.npy", "meta"))] = rng.randbytes(20)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return raw(rng, file.getvalue()) if rng.random() < 0.3 else file.getvalue()


def _npy(rng: Random, array: Any, *, broken: bool) -> bytes:
    header: Any = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    payload = np.ascontiguousarray(array).tobytes()
    version = (1, 0)
    literal = repr(header)
    if broken:
        match rng.randrange(6):
            case 0:
                header["descr"] = rng.choice(_DTYPES)
            case 1:
                header["shape"] = tuple(rng.choice(_LONG) for _ in range(rng.choice((0, 1, 2, 40))))
            case 2:
                payload = payload[: rng.randrange(len(payload) + 1)] if rng.random() < 0.5 else payload * 2
            case 3:
                del header[rng.choice(list(header))]
            case 4:
                version = (rng.choice((0, 1, 2, 3, 4, 255)), rng.choice((0, 1)))
            case _:
                header[rng.choice(("shape", "descr", "x"))] = json_value(rng, [1, "x", {"a": [2]}])
        literal = repr(header) if rng.random() < 0.9 else "(" * rng.choice((1, 50, 5000)) + repr(header)
    text = literal.encode() + b"\n"
    length = struct.pack("<H" if version[0] < 2 else "<I", len(text) & 0xFFFF)
    return b"\x93NUMPY" + bytes(version) + length + text + payload
