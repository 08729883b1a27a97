"""The files that others are made of are sound, and hold what the importers lower."""

import numpy as np
import onnx
import pytest
import tflite

from bitwright.gen.hostile import mutation, seeds
from bitwright.gen.importers import _tflite, load
from bitwright.sim import golden

FILES = [
    *((f"tflite-{number}", data) for number, data in enumerate(seeds.tflite_networks())),
    *(
        (f"{dialect}-{number}", data)
        for dialect in ("qdq", "qlinear", "qonnx")
        for number, data in enumerate(seeds.onnx_networks(dialect))
    ),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("data", [data for _, data in FILES], ids=[name for name, _ in FILES])
def test_seed_is_read_and_runs(data, tmp_path):
    path = tmp_path / "network"
    path.write_bytes(data)
    graph = load(path)
    info = graph.tensors[graph.input]
    kind = np.float32 if info.format is None else np.int64
    assert golden.run(graph, np.zeros((1, *info.shape), kind))[graph.output].size


def test_tflite_seeds_have_the_operators_of_the_importer():
    names = set()
    for data in seeds.tflite_networks():
        names |= {operator.op for operator in _tflite.File(data, "seed").operators}
    # The others are lowered as one of these.
    alike = {"EXPAND_DIMS", "SQUEEZE", "RELU6", "RELU_N1_TO_1"}
    from bitwright.gen.importers.tflite import _Importer

    assert set(_Importer(_tflite.File(seeds.tflite_networks()[0], "seed"), "x")._methods) - alike == names


def test_traces_find_the_numbers_of_a_flatbuffer():
    data = seeds.tflite_networks()[0]
    trace = mutation.traced(data, lambda data: _tflite.File(data, "seed"))
    found = [np.frombuffer(data, form, 1, at)[0] for at, form in trace.places if not form.endswith("?")]
    # Shapes, scales, and the operator's code, which is in a file as a byte and as a number.
    assert {1, 4, 3, 2.0**-6, 2.0**-7, tflite.BuiltinOperator.FULLY_CONNECTED} <= set(found)
    assert len(trace.places) > 100


def test_onnx_seeds_are_valid_and_differ():
    for dialect in ("qdq", "qlinear", "qonnx"):
        files = seeds.onnx_networks(dialect)
        assert len(set(files)) == len(files)
        for data in files:
            onnx.ModelProto.FromString(data)
