"""BitFusion's unit against integer arithmetic; what it shares with others is in ``test_bricks.py``."""

from itertools import product

import pytest

from bitwright.hw.pe.bitfusion import BitFusion
from bitwright.hw.pe.contract import Precision
from bitwright.hw.reduce.carry import FABRICS

PRECISIONS = tuple(map(Precision.parse, ("a8w8", "au8w8", "a8wu4", "au4wu4", "a2w2", "a16w8")))


@pytest.mark.parametrize(
    ("lanes", "fabric"), [*product((2, 3), FABRICS), *((lanes, "generic") for lanes in (1, 5, 8))]
)
def test_lanes(lanes, fabric, exercise):
    exercise(BitFusion(lanes=lanes, precisions=PRECISIONS, fabric=fabric), *PRECISIONS, count=2, steps=2)


def test_latency():
    latencies = [BitFusion(lanes=lanes, precisions=PRECISIONS[:1]).latency for lanes in (1, 4, 5)]
    assert [latency - latencies[0] for latency in latencies] == [0, 2, 3]
