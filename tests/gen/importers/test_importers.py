"""Reading network files: how the format is recognised, and files that are none."""

import os

import numpy as np
import pytest
from onnx import TensorProto, helper

import bitwright.gen.importers as importers
from bitwright.sim.graph import NetworkError


def refused(path, message):
    with pytest.raises(NetworkError, match=message) as caught:
        importers.load(path)
    assert str(caught.value).isprintable()


def tiny_onnx():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4)) for name in "xy"]
    constants = [
        helper.make_tensor("s", TensorProto.FLOAT, (), [0.5]),
        helper.make_tensor("z", TensorProto.INT8, (), [0]),
    ]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], constants)
    return helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize("name", ["net.onnx", "net.tflite", "net", "net.onnx.txt"])
def test_the_content_decides(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(tiny_onnx())
    assert importers.load(path).output == "y"
    assert importers.load(str(path)).name == path.stem
    path.write_bytes(b"\0\0\0\0TFL3" + bytes(100))
    refused(path, "is a damaged or truncated TFLite file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; export the network again"),
        (b"\0", "is no TFLite or ONNX file"),
        (b"hello, world\n" * 10, "is no TFLite or ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is no TFLite or ONNX file"),
        (b'{"nodes": []}', "is no TFLite or ONNX file"),
        (b"TFL3", "is no TFLite or ONNX file"),
        # A message of protobuf that is not ONNX's.
        (b"\x0a\x03abc", "is no TFLite or ONNX file"),
        # An ONNX file without a graph, and one with an empty graph.
        (b"\x08\x08", "is no TFLite or ONNX file"),
        (b"\x08\x08\x3a\x00", "must have one input, but has 0: none"),
    ],
)
def test_not_a_network(tmp_path, content, message):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    refused(path, message)


def test_random_bytes(tmp_path):
    path = tmp_path / "net.onnx"
    rng = np.random.default_rng(0)
    for length in range(1, 300):
        path.write_bytes(rng.bytes(length))
        refused(path, "is no TFLite or ONNX file")


def test_not_a_file(tmp_path):
    refused(tmp_path, "is a directory; give a .tflite or .onnx file")
    refused(tmp_path / "missing.onnx", r"network '.*missing.onnx': there is no such file")
    refused("nul\0.onnx", "cannot be read")
    refused(tmp_path / ("long" * 1000), "cannot be read: File name too long")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is not a regular file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "cannot be read")


def test_too_large(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_bytes(tiny_onnx())
    monkeypatch.setattr(importers, "MAX_BYTES", path.stat().st_size - 1)
    refused(path, "is larger than")
