"""Averages whose ties go to even, which no one factor gives."""

import numpy as np
import pytest

from bitwright.gen.averages import in_two
from bitwright.gen.mapper import compile_graph
from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError
from bitwright.hw.formats import Int
from bitwright.sim import golden
from bitwright.sim.graph import AveragePool, Binary, Graph, TensorInfo

CONFIG = EngineConfig(cols=4, lanes=8, requantisers=2, bus_bits=64, activation_depth=256)


def average(
    kernel: tuple[int, int],
    padding: int = 0,
    formats: tuple[Int, Int] = (Int(8), Int(8)),
    zeros: tuple[int, int] = (3, 3),
    scales: tuple[float, float] = (0.5, 0.5),
    clamp: tuple[int, int] = (-128, 255),
    odd: bool = False,
) -> Graph:
    """One average pool; halves go to even, or to odd, of what codes stand for."""
    around = (padding, padding)
    node = AveragePool(name="pool", input="x", output="y", kernel=kernel, padding=(around, around))
    x = TensorInfo(name="x", shape=(1, 6, 6, 4), format=formats[0], scale=scales[0], zero_point=zeros[0])
    shape = (1, *node.positions(6, 6), 4)
    y = TensorInfo(name="y", shape=shape, format=formats[1], scale=scales[1], zero_point=zeros[1])

    def mean(sums: np.ndarray, count: int) -> np.ndarray:
        real = (sums - count * zeros[0]) * (scales[0] / scales[1]) / count
        whole = np.rint(real + 1) - 1 if odd else np.rint(real)
        return (whole.astype(int) + zeros[1]).clip(
            max(clamp[0], formats[1].min), min(clamp[1], formats[1].max)
        )

    node = node.tabulated(x, mean)
    return Graph(name="pool", tensors={"x": x, "y": y}, nodes=(node,), input="x", output="y")


@pytest.mark.parametrize(
    "graph",
    [
        average((2, 3)),
        average((6, 6)),
        average((3, 3), padding=1),
        average((3, 2), odd=True),
        average((2, 5), formats=(Int(8, signed=False), Int(8, signed=False)), zeros=(200, 200)),
        average((2, 3), formats=(Int(8), Int(4)), zeros=(-7, 1), scales=(0.5, 4.0)),
        average((2, 3), zeros=(-128, -128), clamp=(-128, -30)),
    ],
    ids=["6", "36", "border", "odd", "uint8", "int4", "clamp"],
)
def test_two_averages_for_one(graph: Graph) -> None:
    """Both have factors, and what is made of both is the one."""
    taken = in_two(graph)
    down, up, both = taken.nodes
    assert isinstance(down, AveragePool)
    assert isinstance(up, AveragePool)
    assert isinstance(both, Binary)
    assert (both.name, both.inputs, both.output) == ("pool", (down.output, up.output), "y")
    x = graph.tensors["x"]
    rng = np.random.default_rng(0)
    assert isinstance(x.format, Int)
    codes = rng.integers(x.format.min, x.format.max + 1, (200, *x.shape))
    tensors = golden.run(taken, codes)
    np.testing.assert_array_equal(tensors["y"], golden.run(graph, codes)["y"])
    # Halves are what the two differ in.
    apart = tensors[up.output].astype(int) - tensors[down.output]
    assert set(np.unique(apart)) == {0, 1}
    program = compile_graph(graph, CONFIG)
    assert set(program.placements) == {"x", "y"}


@pytest.mark.parametrize("graph", [average((2, 2)), average((3, 5))], ids=["4", "15"])
def test_where_one_does(graph: Graph) -> None:
    """A power of two is exact, and odd numbers have no halves."""
    assert in_two(graph).nodes == graph.nodes


def test_refused_where_two_do_not_either() -> None:
    graph = average((2, 3))
    (node,) = graph.nodes
    assert isinstance(node, AveragePool)
    table = node.tables[6].copy()
    table[300:400] = 5
    bent = AveragePool(name="pool", input="x", output="y", kernel=(2, 3), tables={6: table})
    bent_graph = Graph(name="bent", tensors=graph.tensors, nodes=(bent,), input="x", output="y")
    assert in_two(bent_graph).nodes == (bent,)
    with pytest.raises(BitwrightError, match=r"node 'pool'.*no factor of the engine"):
        compile_graph(bent_graph, CONFIG)
