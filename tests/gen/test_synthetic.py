"""Random networks."""

import numpy as np
import pytest

from bitwright.gen.synthetic import random_input, random_mlp
from bitwright.hw.formats import Int
from bitwright.sim import golden


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("rounding", ["tflite", "half_even"])
def test_results_spread_over_the_range(bits: int, rounding: str) -> None:
    graph = random_mlp([100, 50], rows=20, activation=Int(bits), weight=Int(bits), rounding=rounding)
    values = golden.run(graph, random_input(graph, count=3))["t1"]
    assert len(np.unique(values)) >= min(2**bits, 64)


def test_the_seed_decides() -> None:
    one, two, three = (random_mlp([9, 4], seed=seed) for seed in (1, 1, 2))
    assert (one.nodes[0].weights == two.nodes[0].weights).all()
    assert (one.nodes[0].weights != three.nodes[0].weights).any()
