"""Networks made of random numbers, for benchmarks and tests."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.formats import Format, Int
from bitwright.hw.quant.arithmetic import Rounding, quantise_multiplier
from bitwright.sim.graph import FullyConnected, Graph, Quantize, TensorInfo

__all__ = ["random_input", "random_mlp"]


def random_mlp(
    sizes: Sequence[int],
    *,
    rows: int = 1,
    activation: Int | None = None,
    weight: Format | None = None,
    rounding: Rounding = "tflite",
    seed: int = 0,
) -> Graph:
    """Fully connected layers with random weights, scaled so that results spread over the output's range.

    Parameters
    ----------
    sizes
        Terms of the first layer, then columns of each.
    rows
        Rows of every matrix.
    activation, weight
        Formats; int8 unless given.
    rounding
        Of the requantisation.
    seed
        Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    activation = activation or Int(8)
    weight = weight or Int(8)

    def tensor(index: int, size: int) -> TensorInfo:
        zero_point = int(rng.integers(activation.min, activation.max + 1))
        return TensorInfo(
            name=f"t{index}", shape=(rows, size), format=activation, scale=1.0, zero_point=zero_point
        )

    tensors = [tensor(index, size) for index, size in enumerate(sizes)]
    nodes = []
    for index, (terms, columns) in enumerate(pairwise(sizes)):
        weights = rng.choice(weight.values, (columns, terms))
        # Inputs are uniform: centre the sums, and scale their deviation to half of the output's range.
        mean = (activation.min + activation.max) / 2 - tensors[index].zero_point
        deviation = (activation.max - activation.min + 1) / np.sqrt(12)
        spread = np.sqrt((weights.astype(float) ** 2).sum(axis=1)).clip(1) * deviation
        centre = (activation.min + activation.max) / 2 - tensors[index + 1].zero_point
        real = rng.uniform(0.3, 1.2, columns) * (activation.max - activation.min + 1) / 2 / spread
        bias = rng.normal(0, spread) - mean * weights.sum(axis=1) + centre / real
        multiplier, shift = quantise_multiplier(real)
        low, high = activation.min, activation.max
        if index % 2:
            low = tensors[index + 1].zero_point  # as ReLU has it
        nodes.append(
            FullyConnected(
                name=f"fc{index}",
                input=f"t{index}",
                output=f"t{index + 1}",
                weights=weights,
                weight_format=weight,
                bias=np.rint(bias).astype(np.int64),
                multiplier=multiplier,
                shift=shift,
                rounding=rounding,
                low=low,
                high=high,
            )
        )
    name = "x".join(map(str, (rows, *sizes)))
    return Graph(
        name=name,
        tensors={info.name: info for info in tensors},
        nodes=tuple(nodes),
        input="t0",
        output=f"t{len(nodes)}",
    )


def random_input(graph: Graph, *, count: int, seed: int = 0) -> NDArray[Any]:
    """Random codes for a graph's input, quantised already, shaped ``(count, *shape)``."""
    rng = np.random.default_rng(seed)
    name = next((node.output for node in graph.nodes if isinstance(node, Quantize)), graph.input)
    info = graph.tensors[name]
    assert info.format is not None
    shape = graph.tensors[graph.input].shape
    return rng.integers(info.format.min, info.format.max + 1, (count, *shape))
