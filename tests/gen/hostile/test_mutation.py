"""Mutations: the same for the same numbers, different for others, and mostly still files of their kind."""

import io
import json
import struct
import tomllib
import zipfile
from random import Random

import numpy as np
import onnx
import pytest

from bitwright.gen.hostile import mutation, seeds
from bitwright.gen.importers import _tflite

ARRAYS = {"input": np.arange(6, dtype=np.float32).reshape(2, 3), "label": np.arange(2)}
VALUE = {"a": [1, 2, {"b": "text"}], "c": True, "d": 1.5}
DATA = seeds.onnx_networks("qdq")[0]
TRACE = mutation.traced(seeds.tflite_networks()[0], lambda data: _tflite.File(data, "seed"))
KINDS = {
    "raw": lambda rng: mutation.raw(rng, bytes(range(100))),
    "flatbuffer": lambda rng: mutation.flatbuffer(rng, TRACE),
    "protobuf": lambda rng: mutation.protobuf(rng, DATA, seeds.onnx_networks("qdq"), ("Conv", "Relu")),
    "text": lambda rng: mutation.text(rng, ["a = 1", "b = 2"], ["3", '"x"']),
    "json": lambda rng: json.dumps(mutation.json_value(rng, VALUE)).encode(),
    "npz": lambda rng: mutation.npz(rng, ARRAYS),
    "npy": lambda rng: mutation.npz(rng, ARRAYS, single=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_gives_one_file_and_others_give_others(kind):
    make = KINDS[kind]
    assert [make(Random(seed)) for seed in range(30)] == [make(Random(seed)) for seed in range(30)]
    assert len({make(Random(seed)) for seed in range(200)}) > 60


def share(sound, kind, count=300):
    """Of so many files, how many the function takes without complaint."""
    good = 0
    for seed in range(count):
        try:
            sound(KINDS[kind](Random(seed)))
        except Exception:
            continue
        good += 1
    return good / count


def test_most_files_are_still_of_their_kind():
    assert share(onnx.ModelProto.FromString, "protobuf") == 1
    assert share(lambda data: tomllib.loads(data.decode()), "text") > 0.3
    assert share(lambda data: zipfile.ZipFile(io.BytesIO(data)).testzip(), "npz") > 0.6
    assert share(json.loads, "json") == 1
    assert 0.05 < share(lambda data: _tflite.File(data, "x"), "flatbuffer") < 0.95
    # Some arrays are sound, and some are not.
    assert 0.05 < share(lambda data: np.load(io.BytesIO(data), allow_pickle=False), "npy") < 0.9


def test_values_are_left_as_they_were():
    before = json.dumps(VALUE)
    for seed in range(100):
        mutation.json_value(Random(seed), VALUE)
    assert json.dumps(VALUE) == before


def test_flatbuffers_keep_their_length():
    for seed in range(100):
        assert len(mutation.flatbuffer(Random(seed), TRACE)) == len(TRACE.data)


def test_headers_lie_about_shapes():
    """At least some files promise far more than they hold."""
    large = 0
    for seed in range(500):
        data = mutation.npz(Random(seed), ARRAYS, single=True)
        if len(data) > 10 and data[6:7] == b"\1":
            (length,) = struct.unpack("<H", data[8:10])
            large += b"9223372036854775807" in data[10 : 10 + length]
    assert large > 5
