"""BitBlade's unit against integer arithmetic; what it shares with others is in ``test_bricks.py``."""

from itertools import product

import pytest

from bitwright.hw.pe.bitblade import BitBlade
from bitwright.hw.pe.contract import Precision
from bitwright.hw.reduce.carry import FABRICS

PRECISIONS = tuple(map(Precision.parse, ("a8w8", "au8w8", "a8wu4", "au4wu4", "a2w2", "a16w8")))


@pytest.mark.parametrize(
    ("lanes", "fabric"), [*product((2, 5), FABRICS), *((lanes, "generic") for lanes in (1, 3, 4, 9, 16))]
)
def test_lanes(lanes, fabric, exercise):
    """Counts of an even number of units leave a product over, which takes another way through the sums."""
    exercise(BitBlade(lanes=lanes, precisions=PRECISIONS, fabric=fabric), *PRECISIONS, count=2, steps=2)


def test_latency():
    latencies = [BitBlade(lanes=lanes, precisions=PRECISIONS[:1]).latency for lanes in (4, 16, 17)]
    assert [latency - latencies[0] for latency in latencies] == [0, 2, 3]
