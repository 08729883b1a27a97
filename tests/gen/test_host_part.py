"""The host's share of a network: as the golden model's, also after it went through a file."""

from pathlib import Path

import numpy as np
import pytest

from bitwright.gen.host_part import HostPart
from bitwright.gen.importers import load
from bitwright.gen.synthetic import random_input
from bitwright.sim import golden

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


def test_refuses():
    with pytest.raises(TypeError, match="TensorInfo is not the host's part"):
        HostPart.from_json({"type": "TensorInfo", "fields": {"name": "x", "shape": [1], "format": None}})
    with pytest.raises(KeyError):
        HostPart.from_json({"type": "Popen", "fields": {}})
