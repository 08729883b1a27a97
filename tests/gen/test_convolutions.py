"""Convolutions, pools and sums on the emitted Verilog against the golden model, over engines and shapes."""

import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bitwright.gen.execute import execute
from bitwright.gen.mapper import compile_graph
from bitwright.gen.synthetic import ConvolutionShape, random_cnn, random_input
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Int
from bitwright.sim.graph import (
    AveragePool,
    Binary,
    FullyConnected,
    Graph,
    Lookup,
    MaxPool,
    NetworkError,
    Node,
    Requantise,
    Reshape,
    TensorInfo,
)
from bitwright.sim.rtl import MemoryTiming

SIMULATOR = "icarus" if shutil.which("iverilog") else "verilator"

BASE = EngineConfig(
    cols=4,
    lanes=8,
    requantisers=2,
    activation_depth=512,
    patch_depth=64,
    weight_depth=256,
    channel_depth=32,
    output_depth=128,
    queue_depth=4,
    burst_beats=16,
)
CONFIGS = {
    "plain": BASE,
    # Little of everything: tiles of parts of a line, dot products in parts
    "small": BASE.replace(activation_depth=64, patch_depth=16, weight_depth=32, output_depth=32),
    "several_rows": BASE.replace(rows=2, cols=2, output_depth=256),
    "narrow_words": BASE.replace(lanes=2, rows=4, cols=2, requantisers=1, bus_bits=128),
    "wide_words": BASE.replace(lanes=16, bus_bits=32),
    "four_bits": BASE.replace(precisions=("a4w4",), lanes=16),
    "bismo": BASE.replace(pe="bismo", lanes=64, rows=2, precisions=("a4w4",), weight_depth=512),
    "bismo_small": BASE.replace(
        pe="bismo", lanes=64, precisions=("a4w4",), patch_depth=16, weight_depth=1024
    ),
    "stripes": BASE.replace(pe="stripes", lanes=64, cols=2, activation_depth=1024),
    "chains": BASE.replace(cols=8, depthwise=True),
    "packing": BASE.replace(packing=True, rows=2),
    "both": BASE.replace(lanes=4, cols=8, depthwise=True, packing=True),
}


def seeded() -> random.Random:
    seed = int(os.environ.get("BITWRIGHT_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    return random.Random(seed)


def random_shape(size: tuple[int, int], channels: int, rng: random.Random, most: int) -> ConvolutionShape:
    """A convolution that has at least one pixel of results."""
    kernel = rng.randint(1, min(4, size[0] + 2)), rng.randint(1, min(4, size[1] + 2))
    padding = tuple((rng.randint(0, k // 2), rng.randint(0, k // 2)) for k in kernel)
    dilation = tuple(
        rng.randint(1, 2) if k == 1 or s + sum(p) > 2 * (k - 1) else 1
        for k, s, p in zip(kernel, size, padding, strict=True)
    )
    kernel = tuple(
        k if s + sum(p) > d * (k - 1) else 1
        for k, s, p, d in zip(kernel, size, padding, dilation, strict=True)
    )
    divisors = [each for each in range(1, channels + 1) if channels % each == 0]
    groups = rng.choice([1, 1, channels, rng.choice(divisors)])
    out = groups * rng.randint(1, max(1, most // groups))
    return ConvolutionShape(
        channels=rng.choice([channels, out]) if groups == channels else out,
        kernel=(kernel[0], kernel[1]),
        stride=(rng.randint(1, 3), rng.randint(1, 3)),
        dilation=(dilation[0], dilation[1]),
        padding=(padding[0], padding[1]),
        groups=groups,
    )


def random_network(config: EngineConfig, rng: random.Random) -> Graph:
    """A few convolutions, one behind the other; channels last or first."""
    shape = rng.randint(1, 9), rng.randint(1, 9), rng.choice([1, 3, rng.randint(1, 20)])
    layers: list[ConvolutionShape] = []
    size, channels = shape[:2], shape[2]
    for _ in range(rng.randint(1, 3)):
        layer = random_shape(size, channels, rng, 8 if layers else 24)
        layers.append(layer)
        height, width = (
            (s + sum(p) - d * (k - 1) - 1) // t + 1
            for s, p, d, k, t in zip(
                size, layer.padding, layer.dilation, layer.kernel, layer.stride, strict=True
            )
        )
        size, channels = (height, width), layer.channels
    format = config.formats[0]
    assert isinstance(format.activation, Int)
    return random_cnn(
        shape,
        layers,
        activation=format.activation,
        weight=format.weight,
        rounding=rng.choice(["tflite", "half_even"]),
        channels_first=rng.random() < 0.3,
        seed=rng.randrange(1 << 32),
    )


def check(graph: Graph, config: EngineConfig, verilog: str, rng: random.Random) -> None:
    program = compile_graph(graph, config, tensors=rng.choice(["all", "needed"]))
    inputs = random_input(graph, count=1, seed=rng.randrange(1 << 32))
    timing = MemoryTiming(latency=rng.randint(2, 40), stall=rng.choice([0, 90]), seed=rng.randint(1, 99))
    done = execute(program, graph, inputs, verilog, simulator=SIMULATOR, timing=timing)
    assert done.mismatches == {}, [vars(node) for node in graph.nodes]
    assert done.tensors_compared == sum(place.stored for place in program.placements.values()) - 1


def checked(graph: Graph, config: EngineConfig, verilog: str, rng: random.Random) -> str:
    """The same; or what is said where the engine cannot run it."""
    try:
        check(graph, config, verilog, rng)
    except NetworkError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", CONFIGS)
def test_random_networks(name: str) -> None:
    rng = seeded()
    verilog = emit(CONFIGS[name])
    run = refused = 0
    while run < 3:
        graph = random_network(CONFIGS[name], rng)
        refusal = checked(graph, CONFIGS[name], verilog, rng)
        run += not refusal
        refused += bool(refusal)
        # A window that does not fit a small engine is refused, and named.
        assert refused < 20
        assert not refusal or "fit" in refusal


# Other nodes


def tensor(name: str, shape: tuple[int, ...], zero_point: int = 0, scale: float = 1.0) -> TensorInfo:
    return TensorInfo(name=name, shape=shape, format=Int(8), scale=scale, zero_point=zero_point)


def graph_of(tensors: list[TensorInfo], nodes: list[Node]) -> Graph:
    return Graph(
        name="nodes",
        tensors={info.name: info for info in tensors},
        nodes=tuple(nodes),
        input=tensors[0].name,
        output=tensors[-1].name,
    )


CODES = np.arange(-128, 128)


def max_pool(rng: random.Random) -> Graph:
    kernel, padding = rng.choice(
        [((2, 2), ((0, 0), (0, 0))), ((3, 3), ((1, 1), (1, 0))), ((1, 4), ((0, 0), (2, 1)))]
    )
    height, width, channels = rng.randint(3, 8), rng.randint(4, 8), rng.randint(1, 20)
    stride = rng.randint(1, 2), rng.randint(1, 3)
    node = MaxPool(name="pool", input="x", output="y", kernel=kernel, stride=stride, padding=padding)
    zero = rng.randint(-20, 20)
    x = tensor("x", (1, height, width, channels), zero)
    return graph_of([x, tensor("y", (1, *node.positions(height, width), channels), zero)], [node])


def lookup(rng: random.Random) -> Graph:
    shape = (1, rng.randint(1, 5), rng.randint(1, 5), rng.randint(1, 20))
    table = np.array([rng.randint(-128, 127) for _ in CODES])
    node = Lookup(name="lookup", input="x", output="y", table=table)
    return graph_of([tensor("x", shape, 3), tensor("y", shape, -9)], [node])


def addition(rng: random.Random) -> Graph:
    """Of a convolution's input and its output, as in a residual network."""
    height, width, channels = rng.randint(1, 6), rng.randint(1, 6), rng.choice([4, 12, rng.randint(1, 40)])
    convolution = random_cnn(
        (height, width, channels), [ConvolutionShape(kernel=(1, 1))], seed=rng.randrange(1 << 32)
    )
    first, second = (convolution.tensors[name] for name in ("t0", "t1"))
    left, right = rng.uniform(0.2, 1.3), rng.uniform(-1.3, 1.3)
    real = (CODES[:, None] - first.zero_point) * left + (CODES[None, :] - second.zero_point) * right
    rounded = np.rint(real) if rng.random() < 0.5 else np.floor(real + 0.5)
    table = np.clip(rounded - 9, -128, rng.choice([127, 50])).astype(np.int64)
    inputs = ("t0", "t1")
    if rng.random() < 0.5:
        inputs, table = ("t1", "t0"), table.T
    node = Binary(name="add", inputs=inputs, output="y", table=table)
    tensors = [*convolution.tensors.values(), tensor("y", (1, height, width, channels), -9)]
    return graph_of(tensors, [*convolution.nodes, node])


def average_pool(rng: random.Random) -> Graph:
    """Of the whole map, and then a matrix product."""
    height, width, channels = rng.randint(1, 8), rng.randint(1, 8), rng.randint(1, 20)
    x, y = tensor("x", (1, height, width, channels), 3), tensor("y", (1, 1, 1, channels), 3)

    def mean(sums: np.ndarray, count: np.ndarray) -> np.ndarray:
        half = count // 2
        return np.clip(np.trunc((sums + np.where(sums >= 0, half, -half)) / count), -128, 127).astype(int)

    node = AveragePool(name="pool", input="x", output="y", kernel=(height, width)).tabulated(x, mean)
    return graph_of([x, y], [node])


def flatten(rng: random.Random) -> Graph:
    """A map into a fully connected layer; in memory its channels may lie in another order."""
    first = rng.random() < 0.5
    shape = (rng.randint(1, 5), rng.randint(1, 5), rng.randint(1, 10))
    body = random_cnn(
        shape,
        [ConvolutionShape(channels=rng.randint(1, 12))],
        channels_first=first,
        seed=rng.randrange(1 << 32),
    )
    last = body.tensors["t1"]
    columns = rng.randint(1, 10)
    weights = np.random.default_rng(rng.getrandbits(32)).integers(-128, 128, (columns, last.size))
    flat = replace(last, name="flat", shape=(1, last.size), channel_axis=None)
    reshape = Reshape(name="flatten", input="t1", output="flat")
    full = FullyConnected(
        name="full",
        input="flat",
        output="y",
        weights=weights,
        weight_format=Int(8),
        bias=np.arange(columns) * 100,
        quantiser=Requantise(
            multiplier=np.full(columns, 3 << 29),
            shift=np.full(columns, -8),
            rounding="tflite",
            low=-128,
            high=127,
        ),
    )
    tensors = [*body.tensors.values(), flat, tensor("y", (1, columns), 5)]
    return graph_of(tensors, [*body.nodes, reshape, full])


NODES: dict[str, Callable[[random.Random], Graph]] = {
    each.__name__: each for each in (max_pool, lookup, addition, average_pool, flatten)
}


@pytest.mark.parametrize("name", ["plain", "small", "several_rows", "both"])
@pytest.mark.parametrize("make", NODES.values(), ids=NODES)
def test_nodes(make: Callable[[random.Random], Graph], name: str) -> None:
    rng = seeded()
    config = CONFIGS[name]
    refusal = checked(make(rng), config, emit(config), rng)
    # What an engine refuses by intent, and says so.
    assert not refusal or re.search("no multiple|no factor|fit", refusal)


def test_sums_of_pixels_of_different_sizes() -> None:
    """The input has room for its channels, the convolution's results for whole groups of columns."""
    rng = seeded()
    config = BASE.replace(lanes=2, cols=32, requantisers=4)
    convolution = random_cnn((2, 3, 36), [ConvolutionShape(kernel=(1, 1))], seed=1)
    table = np.clip(np.floor(CODES[:, None] * 0.51234 + CODES[None, :] * 0.70123), -128, 127).astype(np.int64)
    node = Binary(name="add", inputs=("t0", "t1"), output="y", table=table)
    tensors = [*convolution.tensors.values(), tensor("y", (1, 2, 3, 36))]
    graph = graph_of(tensors, [*convolution.nodes, node])
    places = compile_graph(graph, config).placements
    assert places["t0"].stride != places["t1"].stride
    check(graph, config, emit(config), rng)


@pytest.mark.parametrize("bits", [4, 3])
def test_sums_on_an_engine_of_few_bits(bits: int) -> None:
    """Negative codes of few bits are looked up where the tables have them."""
    rng = seeded()
    config = BASE.replace(pe="bismo", lanes=32, precisions=(f"a{bits}w4",), weight_depth=512)
    convolution = random_cnn(
        (2, 3, 6), [ConvolutionShape(kernel=(1, 1))], activation=Int(bits), weight=Int(4), seed=1
    )
    least, most = -(1 << bits - 1), (1 << bits - 1) - 1
    codes = np.arange(least, most + 1)
    table = np.clip(np.floor(codes[:, None] * 0.512 + codes[None, :] * -0.701), least, most).astype(np.int64)
    node = Binary(name="add", inputs=("t0", "t1"), output="y", table=table)
    result = replace(convolution.tensors["t1"], name="y", zero_point=0)
    graph = graph_of([*convolution.tensors.values(), result], [*convolution.nodes, node])
    check(graph, config, emit(config), rng)


def test_what_is_played_again_must_fit_its_buffer() -> None:
    """Bits of operands are played one after the other, so a patch is there until the last of them."""
    rng = seeded()
    config = CONFIGS["bismo_small"]
    layers = [ConvolutionShape(channels=6, kernel=(2, 3))]
    graph = random_cnn((2, 3, 64), layers, activation=Int(4), weight=Int(4))
    with pytest.raises(NetworkError, match="does not fit"):
        check(graph, config, emit(config), rng)
    config = config.replace(patch_depth=32)
    check(graph, config, emit(config), rng)
