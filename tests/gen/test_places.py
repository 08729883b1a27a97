"""Which tensors share a place, and how they look at it."""

from dataclasses import replace

import numpy as np
import pytest

from bitwright.gen.places import views
from bitwright.gen.synthetic import ConvolutionShape, random_cnn
from bitwright.hw.formats import Int
from bitwright.sim.graph import Graph, NetworkError, Node, Reshape, TensorInfo, Transpose


def tensor(name: str, *shape: int, channel_axis: int | None = None) -> TensorInfo:
    return TensorInfo(name=name, shape=shape, format=Int(8), scale=1.0, channel_axis=channel_axis)


def graph(tensors: list[TensorInfo], *nodes: Node) -> Graph:
    return Graph(
        name="places",
        tensors={info.name: info for info in tensors},
        nodes=nodes,
        input=tensors[0].name,
        output=tensors[-1].name,
    )


def reshape(source: str, output: str) -> Reshape:
    return Reshape(name=f"{source}_{output}", input=source, output=output)


def test_a_place_of_its_own_has_channels_last() -> None:
    found = views(random_cnn((5, 4, 3), [ConvolutionShape(channels=6)]))
    assert {name: (view.leader, view.place, view.axes) for name, view in found.items()} == {
        "t0": ("t0", (1, 5, 4, 3), (0, 1, 2, 3)),
        "t1": ("t1", (1, 5, 4, 6), (0, 1, 2, 3)),
    }


def test_channels_first() -> None:
    found = views(random_cnn((5, 4, 3), [ConvolutionShape(channels=6)], channels_first=True))
    assert (found["t0"].place, found["t0"].axes) == ((1, 5, 4, 3), (0, 3, 1, 2))


@pytest.mark.parametrize("first", [False, True])
def test_a_flattened_map_lies_where_the_map_lies(first: bool) -> None:
    base = random_cnn((5, 4, 3), [ConvolutionShape(channels=6)], channels_first=first)
    flat = replace(base.tensors["t1"], name="flat", shape=(1, 120), channel_axis=None)
    g = Graph(
        name="flat",
        tensors={**base.tensors, "flat": flat},
        nodes=(*base.nodes, reshape("t1", "flat")),
        input="t0",
        output="flat",
    )
    found = views(g)
    view = found["flat"]
    assert view.leader == "t1"
    assert view.place == (1, 5, 4, 6)
    # Its weights are brought into the order of the place.
    values = np.arange(120)
    place = view.restore(values)[0]
    assert (place.transpose(view.axes).reshape(120) == values).all()
    there = values.reshape(6, 5, 4)[:, 2, 3] if first else values.reshape(5, 4, 6)[2, 3]
    assert (place[0, 2, 3] == there).all()


def test_a_transposition_that_only_names_axes() -> None:
    base = random_cnn((5, 4, 3), [ConvolutionShape(channels=6)], channels_first=True)
    last = replace(base.tensors["t1"], name="last", shape=(1, 5, 4, 6), channel_axis=None)
    node = Transpose(name="t", input="t1", output="last", axes=(0, 2, 3, 1))
    found = views(
        Graph(
            name="named",
            tensors={**base.tensors, "last": last},
            nodes=(*base.nodes, node),
            input="t0",
            output="last",
        )
    )
    assert (found["last"].leader, found["last"].axes) == ("t1", (0, 1, 2, 3))


def test_a_transposition_that_moves_data() -> None:
    base = random_cnn((5, 4, 3), [ConvolutionShape(channels=6)])
    moved = replace(base.tensors["t1"], name="moved", shape=(1, 4, 5, 6))
    node = Transpose(name="turn", input="t1", output="moved", axes=(0, 2, 1, 3))
    g = Graph(
        name="moved",
        tensors={**base.tensors, "moved": moved},
        nodes=(*base.nodes, node),
        input="t0",
        output="moved",
    )
    with pytest.raises(NetworkError, match=r"node 'turn'.*moves data"):
        views(g)


def test_channels_in_the_middle() -> None:
    with pytest.raises(NetworkError, match=r"channels on axis 2"):
        views(graph([tensor("x", 1, 2, 3, 4, channel_axis=2), tensor("y", 1, 24)], reshape("x", "y")))


def test_lines_of_another_length() -> None:
    """The same pixels, so a convolution can read them as they lie."""
    base = random_cnn((4, 6, 5), [ConvolutionShape(channels=3)])
    shaped = replace(base.tensors["t1"], name="shaped", shape=(1, 8, 3, 3))
    graph = replace(
        base,
        tensors={**base.tensors, "shaped": shaped},
        nodes=(*base.nodes, Reshape(name="shape", input="t1", output="shaped")),
        output="shaped",
    )
    view = views(graph)["shaped"]
    assert (view.leader, view.place, view.axes) == ("t1", (1, 8, 3, 3), (0, 1, 2, 3))
