"""Max pools and sums that the convolution in front of them can do: which they are, and which need it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Bipolar
from bitwright.hw.sched.isa import Combine
from bitwright.sim.graph import Convolution, Graph, MaxPool, Requantise, Reshape, Transpose

from .lowering import Operation
from .places import View
from .precision import affine_of

__all__ = ["addable", "alone", "fusible", "overlaps", "with_sums"]

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


def addable(
    config: EngineConfig,
    operations: Sequence[Operation],
    views: Mapping[str, View],
    read: Collection[str],
) -> dict[str, list[str]]:
    """Of each sum of two tensors, by its name, the operations that can make it beside one of its operands.

    Nothing else reads what such an operation makes; it makes all of it, requantised and not combined. The one
    that comes last is first: behind it nothing has to be computed before it.

    Parameters
    ----------
    config
        The engine.
    operations
        What it does, in order.
    views
        How tensors look at the places where they lie.
    read
        Tensors that the host reads.
    """
    if not config.tails:
        return {}
    leaders = [[views[source].leader for source in operation.sources] for operation in operations]
    readers = [leader for each in leaders for leader in each]
    writers = [views[operation.output].leader for operation in operations]
    by_host = {views[name].leader for name in read if name in views}
    found = {}
    for operation, places in zip(operations, leaders, strict=True):
        if operation.combine is not Combine.SUM or operation.second is None:
            continue
        makers = [
            maker
            for maker, place in zip(operations, writers, strict=True)
            if place in places
            and readers.count(place) == writers.count(place) == 1
            and place not in by_host
            and _makes_operand(maker, operation)
        ]
        if makers:
            found[operation.name] = [maker.name for maker in reversed(makers)]
    return found


def _makes_operand(maker: Operation, operation: Operation) -> bool:
    """Whether each patch of an operation can be followed by the pixel that a sum adds to its result."""
    return (
        maker.combine is Combine.NONE
        and isinstance(maker.quantiser, Requantise)
        and maker.first_channel is None
        and (maker.first_pixel, maker.pixel_step) == ((0, 0), (1, 1))
        and (maker.result_map, maker.channels) == (operation.map, operation.channels)
    )


def with_sums(
    operations: Sequence[Operation], views: Mapping[str, View], chosen: Mapping[str, str]
) -> list[Operation]:
    """The same operations, where some make sums at once.

    Each of these is where the sum was, as only then both operands are there.

    Parameters
    ----------
    operations
        In order.
    views
        How tensors look at the places where they lie.
    chosen
        Of each sum that is no pass of its own, by its name, the operation that makes it.
    """
    named = {operation.name: operation for operation in operations}
    makers = set(chosen.values())
    return [
        _summed(named[chosen[operation.name]], operation, views) if operation.name in chosen else operation
        for operation in operations
        if operation.name not in makers
    ]


def _summed(maker: Operation, operation: Operation, views: Mapping[str, View]) -> Operation:
    """An operation whose results are an operand of a sum, and the sum."""
    assert operation.second is not None
    assert operation.tables is not None
    operands = [operation.source, operation.second]
    # Of the two tables, the first is for what is computed.
    own = [views[name].leader for name in operands].index(views[maker.output].leader)
    order = [own, 1 - own]
    other = replace(operation, source=operands[1 - own], second=None, window=(1, 1))
    return replace(
        maker,
        output=operation.output,
        bipolar=operation.bipolar,
        combine=Combine.SUM,
        tables=operation.tables[order],
        formats=tuple(operation.formats[place] for place in order),
        half_even=operation.half_even,
        bounds=operation.bounds,
        tail=other,
    )
