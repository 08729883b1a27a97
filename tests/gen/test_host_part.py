"""The host's share of a network: as the golden model's, also after it went through a file."""

from pathlib import Path

import numpy as np
import pytest

from bitwright.gen.host_part import HostPart
from bitwright.gen.importers import load
from bitwright.gen.synthetic import random_input
from bitwright.sim import golden
from bitwright.sim.graph import NetworkError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NETWORKS = sorted(EXAMPLES.glob("*/*.onnx"))


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_as_golden_model(path):
    import json

    graph = load(path)
    part = HostPart.from_json(json.loads(json.dumps(HostPart.of(graph).as_json())))
    inputs = random_input(graph, count=3)
    expected = golden.run(graph, inputs)
    assert part.needed
    codes = part.codes(inputs)
    np.testing.assert_array_equal(codes, expected[part.source])
    # Engine tensors come as wide integers.
    given = {name: expected[name].astype(np.int64) for name in part.needed}
    made = part.finish({part.source: codes, **given})
    np.testing.assert_array_equal(made[graph.output], expected[graph.output])
    assert made[graph.output].dtype == expected[graph.output].dtype
    assert set(made) <= set(expected)


def tensor(name):
    return {
        "type": "TensorInfo",
        "fields": {"name": name, "shape": {"type": "tuple", "items": [1]}, "format": None},
    }


def host(**changes):
    fields = {
        "name": "n",
        "tensors": {"type": "dict", "items": [["x", tensor("x")]]},
        "head": None,
        "tail": {"type": "tuple", "items": []},
        "input": "x",
        "output": "x",
    }
    return {"type": "HostPart", "fields": fields | changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tail": None}, "tail of HostPart: Input should be a valid tuple"),
        ({"name": 1}, "name of HostPart: Input should be a valid string"),
        ({"more": 1}, "HostPart has no 'more'"),
        ({"output": "y"}, "edge 'y' is not among its tensors"),
        ({"tensors": {"type": "dict", "items": [["x", tensor("y")]]}}, "'y': is filed under the name 'x'"),
        (
            {
                "tail": {
                    "type": "tuple",
                    "items": [{"type": "Dequantize", "fields": {"name": "d", "input": "x", "output": "y"}}],
                }
            },
            "node 'd': its tensor 'y' is not among",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    assert HostPart.from_json(host()).needed == ()
    with pytest.raises((TypeError, ValueError, NetworkError), match=message):
        HostPart.from_json(host(**changes))


def test_refuses():
    with pytest.raises(TypeError, match="TensorInfo is not the host's part"):
        HostPart.from_json(tensor("x"))
    with pytest.raises(KeyError):
        HostPart.from_json({"type": "Popen", "fields": {}})
