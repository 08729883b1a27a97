"""Joined channels that would begin in the middle of a word: joined apart, and brought together then."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import lcm

from bitwright.hw.config import EngineConfig
from bitwright.hw.storage import Storage
from bitwright.sim.graph import Concatenate, Graph, Node, Select

from .lowering import Operation
from .places import View

__all__ = ["apart", "unaligned"]


def unaligned(
    graph: Graph,
    config: EngineConfig,
    operations: Sequence[Operation],
    views: Mapping[str, View],
    storages: Mapping[str, Storage],
) -> dict[str, int]:
    """Nodes that join channels where no word begins, and at multiples of how many channels one does.

    Parameters
    ----------
    graph
        The network.
    config
        The engine, which stores whole words.
    operations
        What it does.
    views, storages
        Where tensors lie, and how places are stored.
    """
    found = {}
    joins = {node.output: node.name for node in graph.nodes if isinstance(node, Concatenate)}
    for operation in operations:
        storage = storages[views[operation.output].leader]
        unit = lcm(config.bus_bits, storage.block_bits if storage.planar else 1) // storage.bits
        if (operation.first_channel or 0) % unit:
            found[joins[operation.output]] = unit
    return found


def apart(graph: Graph, units: Mapping[str, int]) -> Graph:
    """The same network where some joins leave gaps: each input begins at a multiple of so many channels.

    What reads the joined tensor gets it without: its channels are selected from the other one.

    Parameters
    ----------
    graph
        The network.
    units
        Of each join, by its name, the channels.
    """
    tensors = dict(graph.tensors)
    nodes: list[Node] = []
    for node in graph.nodes:
        if not isinstance(node, Concatenate) or node.name not in units:
            nodes.append(node)
            continue
        join = replace(node, align=units[node.name])
        result = tensors[node.output]
        sizes = [tensors[name].shape[node.axis] for name in node.inputs]
        *starts, end = join.starts(sizes)
        shape = list(result.shape)
        shape[node.axis] = end
        # Of several tensors of that name no graph has more than one.
        name = f"{node.output} apart"
        while name in tensors:
            name += "'"
        tensors[name] = replace(result, name=name, shape=tuple(shape), index=None)
        channels = [start + index for start, size in zip(starts, sizes, strict=True) for index in range(size)]
        nodes.append(replace(join, output=name))
        nodes.append(
            Select(name=f"{node.name}[together]", input=name, output=node.output, channels=tuple(channels))
        )
    return replace(graph, tensors=tensors, nodes=tuple(nodes))
