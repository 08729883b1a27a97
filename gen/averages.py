"""Averages whose ties go to even: rounded once down and once up, and the even one taken.

A factor that is no power of two is never exact in fixed point, so that it brings all sums on the middle
between two codes to the same side. Two averages, and a function of both, bring each to the even one.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.formats import Int
from bitwright.hw.quant.arithmetic import MAX_LEFT_SHIFT, MIN_SHIFT, requantise
from bitwright.sim.graph import AveragePool, Binary, Graph, NetworkError, Node, TensorInfo

from .lowering import average_factor

__all__ = ["in_two"]

_Codes = NDArray[np.int64]

_WEIGHT = 127
"""Sums are made of so many parts, so that a part more or less moves ties and nothing else."""


def in_two(graph: Graph) -> Graph:
    """The same network; average pools that no factor gives are two that there are factors for, and their sum.

    Where even that is impossible, the pool stays as it is, for the lowering to refuse.

    Parameters
    ----------
    graph
        The network.
    """
    tensors = dict(graph.tensors)
    nodes: list[Node] = []
    for node in graph.nodes:
        parted = _parted(graph, node) if isinstance(node, AveragePool) else None
        if parted is None:
            nodes.append(node)
            continue
        result = tensors[node.output]
        names = []
        for pool, way in zip(parted[:2], ("down", "up"), strict=True):
            # Of several tensors of that name no graph has more than one.
            name = f"{node.output} rounded {way}"
            while name in tensors:
                name += "'"
            tensors[name] = replace(result, name=name, index=None)
            nodes.append(replace(pool, name=f"{node.name}[{way}]", output=name))
            names.append(name)
        nodes.append(Binary(name=node.name, inputs=(names[0], names[1]), output=node.output, table=parted[2]))
    return replace(graph, tensors=tensors, nodes=tuple(nodes))


def _parted(graph: Graph, node: AveragePool) -> tuple[AveragePool, AveragePool, _Codes] | None:
    """The averages rounded down and up, and what is made of both; ``None`` if not needed, or not enough."""
    source, result = graph.tensors[node.input], graph.tensors[node.output]
    if not isinstance(source.format, Int) or not isinstance(result.format, Int):
        return None
    low: dict[int, _Codes] = {}
    high: dict[int, _Codes] = {}
    necessary = False
    for count in np.unique(node.counts(*source.canonical[1:3])).tolist():
        table = node.tables[count]
        try:
            average_factor(graph, node, count, table)
        except NetworkError:
            both = _both_ways(source, result, count, table)
            if both is None:
                return None
            low[count], high[count] = both
            necessary = True
        else:
            low[count] = high[count] = table
    if not necessary:
        return None
    codes = np.arange(result.format.min, result.format.max + 1)
    least = min(int(table.min()) for table in node.tables.values())
    greatest = max(int(table.max()) for table in node.tables.values())
    for parity in (0, 1):
        # A code stays as it is where its parity is that one, and goes with the one above it otherwise.
        steps = np.cumsum((codes - parity) % 2 == 0)
        steps -= (codes - parity) % 2 == 0
        made = (steps[:, None] + (codes - steps)[None, :]).clip(least, greatest)
        if all(
            (made[low[count] - codes[0], high[count] - codes[0]] == node.tables[count]).all() for count in low
        ):
            return replace(node, tables=low), replace(node, tables=high), made
    return None


def _both_ways(
    source: TensorInfo, result: TensorInfo, count: int, table: _Codes
) -> tuple[_Codes, _Codes] | None:
    """Means of so many codes with ties rounded down, and up."""
    assert isinstance(source.format, Int)
    sums = np.arange(len(table)) + count * (source.format.min - source.zero_point)
    fraction, exponent = np.frexp(source.scale / result.scale / count / _WEIGHT)
    multiplier = int(np.rint(fraction * 2.0**31))
    if not 0 < multiplier < 1 << 31 or not MIN_SHIFT <= exponent <= MAX_LEFT_SHIFT:
        return None
    down, up = (
        (requantise(sums * _WEIGHT + part, multiplier, exponent, "half_even") + result.zero_point).clip(
            table.min(), table.max()
        )
        for part in (-1, 1)
    )
    return (down, up) if ((down <= table) & (table <= up)).all() else None
