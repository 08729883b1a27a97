"""Joins that begin in the middle of a word."""

from dataclasses import replace

import numpy as np
import pytest

from bitwright.gen.joins import apart
from bitwright.gen.mapper import compile_graph
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Int
from bitwright.sim import golden
from bitwright.sim.graph import Concatenate, Graph, Pad, Select, TensorInfo

CONFIG = EngineConfig(cols=4, lanes=8, requantisers=2, bus_bits=64, activation_depth=256)


def joined(*sizes: int, channels_first: bool = False) -> Graph:
    """Cut from one tensor, and joined."""

    def info(name: str, channels: int) -> TensorInfo:
        shape = (1, channels, 2, 3) if channels_first else (1, 2, 3, channels)
        axis = 1 if channels_first else None
        return TensorInfo(name=name, shape=shape, format=Int(8), zero_point=4, channel_axis=axis)

    axis = 1 if channels_first else 3
    x = info("x", 40)
    parts = [info(f"p{number}", size) for number, size in enumerate(sizes)]
    cuts = [
        Pad(
            name=f"cut{number}",
            input="x",
            output=f"p{number}",
            padding=tuple((-number, number + size - 40) if at == axis else (0, 0) for at in range(4)),
            value=0,
        )
        for number, size in enumerate(sizes)
    ]
    join = Concatenate(name="join", inputs=tuple(part.name for part in parts), output="y", axis=axis)
    tensors = [x, *parts, info("y", sum(sizes))]
    return Graph(
        name="joined",
        tensors={each.name: each for each in tensors},
        nodes=(*cuts, join),
        input="x",
        output="y",
    )


@pytest.mark.parametrize("channels_first", [False, True])
def test_apart(channels_first: bool) -> None:
    """The same network, by way of a tensor that has gaps."""
    graph = joined(12, 20, 3, channels_first=channels_first)
    taken = apart(graph, {"join": 8})
    *_, join, select = taken.nodes
    assert isinstance(join, Concatenate)
    assert isinstance(select, Select)
    assert (join.align, select.input, select.output) == (8, "y apart", "y")
    assert taken.tensors["y apart"].canonical == (1, 2, 3, 43)
    assert select.channels == (*range(12), *range(16, 36), *range(40, 43))
    x = np.random.default_rng(0).integers(-128, 128, (3, *graph.tensors["x"].shape))
    np.testing.assert_array_equal(golden.run(taken, x)["y"], golden.run(graph, x)["y"])


def test_names_that_are_taken() -> None:
    graph = joined(12, 20)
    x = graph.tensors["p0"]
    graph = replace(
        graph,
        tensors={
            name.replace("p0", "y apart"): replace(each, name=each.name.replace("p0", "y apart"))
            for name, each in graph.tensors.items()
        },
        nodes=tuple(
            replace(node, output="y apart")
            if node.output == "p0"
            else replace(node, inputs=("y apart", "p1"))
            if isinstance(node, Concatenate)
            else node
            for node in graph.nodes
        ),
    )
    assert apart(graph, {"join": 8}).tensors["y apart'"].canonical == (1, 2, 3, 36)
    assert x.canonical == (1, 2, 3, 12)


@pytest.mark.parametrize(
    ("sizes", "bus_bits", "steps"), [((8, 16), 64, 2), ((12, 16), 32, 2), ((12, 20), 64, 3), ((8, 3), 64, 2)]
)
def test_only_where_no_word_begins(sizes: tuple[int, ...], bus_bits: int, steps: int) -> None:
    program = compile_graph(joined(*sizes), CONFIG.replace(bus_bits=bus_bits))
    names = [layer.name for layer in program.layers if layer.name.startswith("join")]
    assert names == ["join[0]", "join[1]", "join[together]"][:steps]
    # The tensor with gaps is none of the network's.
    assert set(program.placements) == {"x", "p0", "p1", "y"}
