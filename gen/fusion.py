"""Max pools that the convolution in front of them can do: which they are, and which need it."""

from collections.abc import Mapping
from math import prod

import numpy as np

from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Bipolar
from bitwright.sim.graph import Convolution, Graph, MaxPool, Reshape, Transpose

from .places import View
from .precision import affine_of

__all__ = ["alone", "fusible", "overlaps"]

_MOST = 255  # of what the engine counts in 8 bits
_MOST_PATCHES = 256


def fusible(graph: Graph, views: Mapping[str, View], config: EngineConfig) -> dict[str, MaxPool]:
    """Max pools that can be computed with the convolution in front of them, by the convolution's name.

    Nothing else reads the convolution's results, no window reaches outside of them, and the engine can take
    the greatest of as many.

    Parameters
    ----------
    graph
        The network.
    views
        How its tensors look at the places where they lie.
    config
        The engine.
    """
    if "maximum" not in config.combined:
        return {}
    found = {}
    for node in graph.nodes:
        if not isinstance(node, Convolution) or node.quantiser is None:
            continue
        # Tensors that only relabel the results.
        place = views[node.output].leader
        sharing = {name for name, view in views.items() if view.leader == place}
        readers = [
            each
            for each in graph.nodes
            if sharing.intersection(each.inputs)
            and not (isinstance(each, Reshape | Transpose) and each.output in sharing)
        ]
        if graph.output in sharing or len(readers) != 1:
            continue
        (pool,) = readers
        if isinstance(pool, MaxPool) and _fits(graph, views, config, node, pool):
            found[node.name] = pool
    return found


def _fits(
    graph: Graph, views: Mapping[str, View], config: EngineConfig, node: Convolution, pool: MaxPool
) -> bool:
    source, own = graph.tensors[pool.input], views[pool.input]
    batch, height, width, _ = source.canonical
    same = batch == 1 and source.canonical == own.place == graph.tensors[node.output].canonical
    inside = pool.coverage(height, width).min() == prod(pool.kernel)
    steps = (a * b for a, b in zip(node.stride, pool.stride, strict=True))
    patches = prod(pool.kernel)
    rows = patches >= config.rows or config.rows % patches == 0
    return same and bool(inside) and max(steps) <= _MOST and patches <= _MOST_PATCHES and rows


def overlaps(graph: Graph, pool: MaxPool) -> bool:
    """Whether windows share positions, which a convolution would have to compute again for each."""
    counts = graph.tensors[pool.output].canonical[1:3]
    return any(
        count > 1 and stride < kernel
        for count, stride, kernel in zip(counts, pool.stride, pool.kernel, strict=True)
    )


def alone(graph: Graph, pool: MaxPool, config: EngineConfig) -> bool:
    """Whether a max pool can be a pass of its own: the engine has an identity for what it reads.

    That takes weights of 1, and of 0 for the other channels, and what leaves codes as they are: thresholds,
    or, of integers, requantisation.
    """
    format = graph.tensors[pool.input].format
    kinds = {"thresholds"} if isinstance(format, Bipolar) else {"requantise", "thresholds"}
    made = {mode.storage.format for mode in config.modes if mode.quantiser in kinds}
    return format is not None and any(
        precision.weight.contains(np.array([0, 1]))
        and precision.activation in made
        and affine_of(format, precision.activation) is not None
        for precision in config.formats
    )
