"""Max pools and sums with the convolution in front of them, or as passes of their own, on the Verilog."""

import os
import random
import re
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from bitwright.gen.execute import execute
from bitwright.gen.fusion import addable, alone, fusible, overlaps, with_sums
from bitwright.gen.lowering import lower
from bitwright.gen.mapper import compile_graph
from bitwright.gen.places import views
from bitwright.gen.program import Program
from bitwright.gen.synthetic import random_input
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Bipolar, Format, Int
from bitwright.hw.quant.arithmetic import quantise_multiplier
from bitwright.sim.graph import (
    Binary,
    Convolution,
    Graph,
    Lookup,
    MaxPool,
    NetworkError,
    Node,
    Requantise,
    TensorInfo,
    Thresholds,
)
from bitwright.sim.rtl import MemoryTiming

SIMULATOR = "icarus" if shutil.which("iverilog") else "verilator"
INT8 = Int(8)
NONE = ((0, 0), (0, 0))
HALVES = {"kernel": (2, 2), "stride": (2, 2)}

BASE = EngineConfig(
    cols=4,
    lanes=8,
    activation_depth=512,
    patch_depth=64,
    weight_depth=512,
    channel_depth=32,
    output_depth=128,
    queue_depth=4,
    burst_beats=16,
    combine=("maximum",),
)
LOW = ("thresholds", "accumulators")
LARGE = {"activation_depth": 2048, "patch_depth": 256, "weight_depth": 1024, "output_depth": 512}
COLUMNS = BASE.replace(
    pe="bismo",
    lanes=32,
    precisions=("a4w4", "a4w2"),
    quantisers=LOW,
    weight_depth=4096,
    output_depth=256,
)
CONFIGS = {
    "parallel": BASE.replace(**LARGE),
    "parallel_rows": BASE.replace(rows=4, cols=2, lanes=2, output_depth=256),
    "parallel_small": BASE.replace(
        rows=2, cols=2, activation_depth=64, patch_depth=16, weight_depth=32, output_depth=64
    ),
    "parallel_packing": BASE.replace(packing=True),
    "parallel_chains": BASE.replace(cols=8, depthwise=True),
    "parallel_counts": BASE.replace(precisions=("a4w4",), lanes=16, quantisers=LOW),
    "bismo": BASE.replace(pe="bismo", lanes=64, precisions=("a4w4", "a2w2", "a1w2"), quantisers=LOW),
    "bismo_rows": BASE.replace(
        pe="bismo", rows=4, lanes=64, precisions=("a4w4", "a1w2"), quantisers=LOW, channel_depth=64, **LARGE
    ),
    "bismo_bipolar": BASE.replace(pe="bismo", rows=2, lanes=64, precisions=("a1w2",), quantisers=LOW),
    "bismo_columns": COLUMNS,
    "bismo_columns_rows": COLUMNS.replace(rows=4, channel_depth=1024),
    "xnor": BASE.replace(pe="xnor", cols=8, precisions=("abwb",), quantisers=LOW),
    "xnor_rows": BASE.replace(
        pe="xnor", rows=4, cols=8, precisions=("abwb", "a8wb"), quantisers=LOW, channel_depth=64, **LARGE
    ),
}
SUMS = BASE.replace(combine=("maximum", "sum"), channel_depth=64, output_depth=256)
CONFIGS |= {
    # Groups of columns that fill blocks of channels, and such as have parts of them, or one and a half
    "sums": SUMS.replace(cols=8, **LARGE),
    "sums_parts": SUMS.replace(requantisers=2, requantise_cycles=4),
    "sums_odd": SUMS.replace(cols=12, lanes=8, requantisers=4, channel_depth=128),
    "sums_rows": SUMS.replace(rows=3, cols=4, lanes=4, requantisers=4),
    "sums_rows_of_one": SUMS.replace(rows=2, cols=1, lanes=2, channel_depth=128, **LARGE),
    "sums_small": SUMS.replace(
        lanes=2, cols=2, activation_depth=128, patch_depth=16, weight_depth=64, output_depth=64
    ),
    "sums_bismo": SUMS.replace(pe="bismo", lanes=32, cols=8, precisions=("a4w4", "a4w2"), **LARGE),
    "sums_bismo_rows": SUMS.replace(
        pe="bismo", rows=2, lanes=32, cols=32, precisions=("a4w4",), channel_depth=128, **LARGE
    ),
    "sums_bitfusion": SUMS.replace(pe="bitfusion", lanes=4, cols=4, precisions=("a8w8", "a4w4")),
    "sums_stripes": SUMS.replace(pe="stripes", lanes=32, cols=2, precisions=("a8w8",), **LARGE),
    "sums_unpu": SUMS.replace(pe="unpu", rows=2, lanes=8, cols=2, precisions=("a8w3",), **LARGE),
    "sums_chains": SUMS.replace(cols=8, depthwise=True, packing=True),
}


@cache
def verilog(name: str) -> str:
    """One engine runs many networks."""
    return emit(CONFIGS[name])


def seeded() -> random.Random:
    seed = int(os.environ.get("BITWRIGHT_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    return random.Random(seed)


class Network:
    """Writes a network, node by node."""

    def __init__(self, shape: tuple[int, int, int], format: Format, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.tensors = [self._tensor("x", (1, *shape), format)]

    def _tensor(self, name: str, shape: tuple[int, ...], format: Format) -> TensorInfo:
        zero = int(self.rng.integers(format.min, format.max + 1)) if isinstance(format, Int) else 0
        return TensorInfo(name=name, shape=shape, format=format, zero_point=zero)

    def conv(
        self,
        channels: int,
        kernel: tuple[int, int],
        weight: Format,
        result: Format,
        source: str | None = None,
        scaled: bool = False,
        **how,
    ) -> "Network":
        """Random weights, and a quantiser by which results spread over their format: thresholds for a few
        bits, unless they are to be scaled."""
        source, rng = self._of(source), self.rng
        _, height, width, inputs = source.shape
        depth = inputs // how.get("groups", 1)
        weights = rng.choice(weight.values, (channels, *kernel, depth))
        name = f"conv{len(self.nodes)}"
        made = self._tensor(name, (), result)
        values = np.array(source.format.values) - source.zero_point
        sums = weights.reshape(channels, -1).sum(axis=1) * values.mean()
        spread = (
            np.sqrt((weights.astype(float) ** 2).reshape(channels, -1).sum(axis=1)).clip(1) * values.std()
        )
        if isinstance(result, Int) and (result.bits > 4 or scaled):
            real = rng.uniform(0.3, 1.2, channels) * (1 << result.bits - 1) / spread
            multiplier, shift = quantise_multiplier(real)
            quantiser = Requantise(
                multiplier=multiplier, shift=shift, rounding="half_even", low=result.min, high=result.max
            )
        else:
            levels = rng.normal(sums[:, None], spread[:, None], (channels, len(result.values) - 1))
            quantiser = Thresholds(
                levels=np.sort(np.rint(levels).astype(np.int64), axis=1),
                descending=rng.random(channels) < 0.3,
                low=result.min,
            )
        node = Convolution(
            name=name,
            input=source.name,
            output=name,
            weights=weights,
            weight_format=weight,
            bias=np.rint(-sums).astype(np.int64)
            if isinstance(quantiser, Requantise)
            else np.zeros(channels, int),
            quantiser=quantiser,
            **how,
        )
        return self._append(node, replace(made, shape=(1, *node.positions(height, width), channels)))

    def pool(self, **how) -> "Network":
        source = self.tensors[-1]
        _, height, width, channels = source.shape
        name = f"pool{len(self.nodes)}"
        node = MaxPool(name=name, input=source.name, output=name, **how)
        return self._append(
            node, replace(source, name=name, shape=(1, *node.positions(height, width), channels))
        )

    def _of(self, name: str | None) -> TensorInfo:
        """The tensor of that name, or the last."""
        return next(info for info in reversed(self.tensors) if name in (None, info.name))

    def lookup(self, source: str) -> "Network":
        info = self._of(source)
        table = self.rng.permutation(info.format.values)
        node = Lookup(name=f"lookup{len(self.nodes)}", input=source, output="looked", table=table)
        return self._append(node, replace(info, name="looked"))

    def add(self, first: str, second: str, result: Format) -> "Network":
        """The sum of two tensors, each with a factor of its own."""
        rng, name = self.rng, f"add{len(self.nodes)}"
        terms = []
        for source in (first, second):
            info = self._of(source)
            codes = np.array(info.format.values) - info.zero_point
            terms.append(codes * rng.uniform(-1, 1) * (1 << result.bits - info.format.bits))
        made = self._tensor(name, self._of(first).shape, result)
        real = terms[0][:, None] + terms[1][None, :] + made.zero_point
        rounded = np.rint(real) if rng.random() < 0.5 else np.floor(real + 0.5)
        table = rounded.clip(result.min, result.max).astype(np.int64)
        return self._append(Binary(name=name, inputs=(first, second), output=name, table=table), made)

    def _append(self, node: Node, tensor: TensorInfo) -> "Network":
        self.nodes.append(node)
        self.tensors.append(tensor)
        return self

    @property
    def size(self) -> tuple[int, int]:
        return self.tensors[-1].shape[1:3]

    @property
    def graph(self) -> Graph:
        return Graph(
            name="fused",
            tensors={info.name: info for info in self.tensors},
            nodes=tuple(self.nodes),
            input="x",
            output=self.tensors[-1].name,
        )


def random_windows(size: tuple[int, int], rng: random.Random, most: int) -> dict:
    """Kernel, stride and, at times, padding of a pool that has at least one result."""
    kernel = tuple(rng.randint(1, min(most, each)) for each in size)
    padding = tuple((rng.randint(0, k // 2), rng.randint(0, k // 2)) for k in kernel)
    return {
        "kernel": kernel,
        "stride": tuple(rng.choice([k, rng.randint(1, 3)]) for k in kernel),
        "padding": padding if rng.random() < 0.3 else NONE,
    }


def random_network(config: EngineConfig, rng: random.Random) -> Graph:
    """Convolution, pool, and a convolution that reads its results; maps of one dimension too."""
    bipolar = [p for p in config.formats if isinstance(p.weight, Bipolar) or p.activation == Int(1)]
    precision = config.formats[0]
    binary = bool(bipolar) and rng.random() < (0.6 if len(bipolar) < len(config.formats) else 1)
    weight: Format = Bipolar() if binary else precision.weight
    inner: Format = Bipolar() if binary else precision.activation
    # Weights without a zero must fill whole words.
    unit = config.lanes if config.pe == "xnor" else 1
    shape = rng.choice([1, rng.randint(3, 9)]), rng.randint(3, 10)
    net = Network((*shape, unit * rng.randint(1, 12 // unit + 1)), inner, rng.randrange(1 << 32))
    kernel = tuple(rng.randint(1, min(3, each)) for each in shape)
    how = {
        "stride": (rng.randint(1, 2), rng.randint(1, 2)),
        "dilation": tuple(
            rng.randint(1, 2) if 2 * (k - 1) < s else 1 for k, s in zip(kernel, shape, strict=True)
        ),
        "padding": NONE
        if binary
        else tuple((rng.randint(0, k // 2), rng.randint(0, k // 2)) for k in kernel),
    }
    channels = unit * rng.randint(1, 12 // unit + 1)
    if config.chained and rng.random() < 0.5:
        how["groups"] = channels = net.tensors[0].shape[3]
    net.conv(channels, kernel, weight, inner, **how)
    net.pool(**random_windows(net.size, rng, 3))
    return net.conv(rng.randint(1, 12), (1, 1), weight, inner).graph


def check(graph: Graph, name: str, rng: random.Random) -> Program:
    program = compile_graph(graph, CONFIGS[name])
    inputs = random_input(graph, count=1, seed=rng.randrange(1 << 32))
    timing = MemoryTiming(latency=rng.randint(2, 40), stall=rng.choice([0, 90]), seed=rng.randint(1, 99))
    done = execute(program, graph, inputs, verilog(name), simulator=SIMULATOR, timing=timing)
    assert done.mismatches == {}, [vars(node) for node in graph.nodes]
    return program


def refused(graph: Graph, config: EngineConfig) -> str:
    """What is said where the engine cannot run it."""
    try:
        compile_graph(graph, config)
    except NetworkError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.startswith("sums")])
def test_random_networks(name: str) -> None:
    rng = seeded()
    config = CONFIGS[name]
    run = skipped = 0
    while run < 3:
        graph = random_network(config, rng)
        if refusal := refused(graph, config):
            # What a pool would be as a pass of its own, where it has to be one; rows; what is too large.
            assert re.search(r"no zero to keep groups|no multiple|fit", refusal)
            skipped += 1
            assert skipped < 40
            continue
        program = check(graph, name, rng)
        run += 1
        # What is computed at once is nowhere in memory, and everything else is.
        gone = set(graph.tensors) - set(program.placements)
        assert len(program.layers) == len(graph.nodes) - len(gone)


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3)])
@pytest.mark.parametrize("name", ["bismo_rows", "xnor_rows", "xnor", "bismo"])
def test_bipolar(name: str, kernel: tuple[int, int]) -> None:
    """As in a binary network: what has windows side by side, and what has windows one in another."""
    rng = seeded()
    config = CONFIGS[name]
    if config.rows % 4 == 0 and kernel == (3, 3):
        pytest.skip("nine results are not taken together by four rows")
    net = Network((9, 11, 16), Bipolar(), rng.randrange(1 << 32))
    net.conv(16, (3, 3), Bipolar(), Bipolar()).pool(kernel=kernel, stride=(2, 2))
    graph = net.conv(16, (1, 1), Bipolar(), Bipolar()).graph
    program = check(graph, name, rng)
    # The array has an identity for bipolar codes where weights may be 0, but for the rest it has not.
    together = config.pe == "xnor" or kernel == (2, 2)
    assert ("conv0" not in program.placements) == together
    assert program.layers[0].tiling.endswith("pooled by 'pool1'") == together


# What is fused


def pooled(format: Format = INT8, weight: Format = INT8, channels: int = 16, **pool) -> Network:
    return Network((12, 12, 16), format).conv(channels, (3, 3), weight, format).pool(**(HALVES | pool))


def fused(graph: Graph, config: EngineConfig = BASE) -> bool:
    return "conv0" not in compile_graph(graph, config).placements


def test_windows_side_by_side_save_a_pass() -> None:
    assert fused(pooled().graph)
    assert fused(pooled(kernel=(2, 1), stride=(3, 1)).graph)
    # A single window, whatever its stride would be.
    assert fused(pooled(kernel=(10, 10), stride=(1, 1)).graph)


@pytest.mark.parametrize("pool", [{"kernel": (3, 3)}, {"stride": (1, 2)}])
def test_windows_one_in_another_are_a_pass(pool: dict) -> None:
    """They would have the same positions computed several times."""
    graph = pooled(**pool).graph
    (node,) = fusible(graph, views(graph), BASE).values()
    assert overlaps(graph, node)
    assert not fused(graph)


def test_windows_that_reach_outside_are_a_pass() -> None:
    assert not fused(pooled(padding=((1, 0), (0, 0))).graph)
    # Padding that no window covers changes nothing.
    assert fused(pooled(padding=((0, 1), (0, 1))).graph)


def test_what_others_read_is_a_pass() -> None:
    net = pooled()
    read = MaxPool(name="other", input="conv0", output="other", kernel=(1, 1))
    graph = net._append(read, replace(net.tensors[1], name="other")).graph
    assert fusible(graph, views(graph), BASE) == {}
    graph = replace(pooled().graph, output="conv0")
    assert fusible(graph, views(graph), BASE) == {}


def test_what_the_engine_does_not_combine() -> None:
    graph = pooled().graph
    assert fusible(graph, views(graph), BASE.replace(combine=("sum",))) == {}
    # 3 results are not taken together by 4 rows.
    graph = pooled(kernel=(3, 1), stride=(3, 1)).graph
    assert fusible(graph, views(graph), BASE.replace(rows=4)) == {}
    graph = pooled(stride=(200, 1)).graph
    assert len(fusible(graph, views(graph), BASE)) == 1
    graph = pooled(stride=(256, 1)).graph
    assert fusible(graph, views(graph), BASE) == {}


def test_what_is_quicker_alone() -> None:
    """Taps that are packed, or kept by columns, are worth more than a pass."""
    net = Network((32, 32, 3), Int(8)).conv(8, (3, 3), Int(8), Int(8)).pool(**HALVES)
    assert fused(net.graph)
    assert not fused(net.graph, BASE.replace(packing=True, output_depth=512))
    net = Network((16, 16, 16), Int(8)).conv(16, (3, 3), Int(8), Int(8), groups=16).pool(**HALVES)
    assert fused(net.graph)
    assert not fused(net.graph, BASE.replace(cols=8, requantisers=8, depthwise=True))


def test_a_window_that_does_not_fit_is_a_pass() -> None:
    """The patches of a window come from more lines, and their terms are not computed in parts."""
    graph = pooled(channels=4).graph
    small = BASE.replace(weight_depth=16)
    assert fused(graph)
    assert not fused(graph, small)
    with pytest.raises(NetworkError, match=r"node 'conv0', with the max pool 'pool1': .* not fit.*raise"):
        compile_graph(
            pooled(Bipolar(), Bipolar()).graph,
            CONFIGS["xnor"].replace(weight_depth=16, lanes=4),
        )


def test_results_that_only_a_pass_can_store() -> None:
    """Thresholds make four bits; who reads the pool has weights of eight, and activations of eight then."""
    config = BASE.replace(precisions=("a8w8", "a4w4"), quantisers=("requantise", "thresholds"), **LARGE)
    net = Network((8, 8, 16), INT8).conv(8, (3, 3), INT8, Int(4)).pool(**HALVES)
    assert not fused(net.conv(8, (1, 1), INT8, INT8).pool(kernel=(3, 3), stride=(3, 3)).graph, config)
    assert "conv2" not in compile_graph(net.graph, config).placements
    net = Network((8, 8, 16), INT8).conv(8, (3, 3), INT8, Int(4)).pool(**HALVES)
    assert fused(net.conv(8, (1, 1), Int(4), INT8).graph, config)


def test_refused_by_name() -> None:
    """A bipolar pool that has to be a pass of its own, on an engine whose weights are -1 and +1."""
    graph = pooled(Bipolar(), Bipolar(), padding=((1, 1), (0, 0))).graph
    with pytest.raises(NetworkError, match="node 'pool1': bipolar weights have no zero to keep groups"):
        compile_graph(graph, CONFIGS["xnor"])
    assert "conv0" in compile_graph(graph, CONFIGS["bismo_bipolar"]).placements


def test_alone() -> None:
    """Which engines have an identity."""
    bipolar, four = (pooled(format).graph for format in (Bipolar(), Int(4)))
    for graph, name, expected in (
        (bipolar, "xnor", False),
        (bipolar, "bismo", True),
        (bipolar, "parallel", False),  # no thresholds
        (four, "parallel", True),
        (four, "parallel_counts", True),
        (four, "bismo_bipolar", False),  # one bit
        (four, "xnor_rows", False),  # weights without 0
    ):
        pool = next(node for node in graph.nodes if isinstance(node, MaxPool))
        assert alone(graph, pool, CONFIGS[name]) == expected, (name, graph.tensors["x"].format)


def test_padding_of_bipolar_codes() -> None:
    """Around codes of -1 and +1 lies real 0, which two bits hold and one does not."""
    rng = seeded()
    net = Network((4, 5, 8), Bipolar(), rng.randrange(1 << 32))
    graph = net.conv(8, (3, 3), Bipolar(), Bipolar(), padding=((1, 1), (1, 1))).pool(**HALVES).graph
    program = check(graph, "bismo", rng)
    assert program.layers[0].precision == "a2w2"
    for name in ("xnor", "bismo_bipolar"):
        with pytest.raises(
            NetworkError, match=r"node 'conv0': pads bipolar activations with 0.*2 bits or more"
        ):
            compile_graph(graph, CONFIGS[name])


@pytest.mark.parametrize("name", ["bismo_columns", "bismo_columns_rows"])
def test_columns_of_several_precisions(name: str) -> None:
    """Runs of columns that need fewer bits are pooled at fewer."""
    rng = seeded()
    net = Network((4, 6, 16), Int(4), rng.randrange(1 << 32)).conv(64, (3, 3), Int(4), Int(4)).pool(**HALVES)
    (conv, pool), tensors = net.nodes, net.tensors
    weights = conv.weights.copy()
    weights[:32] = np.random.default_rng(rng.getrandbits(32)).integers(-2, 2, weights[:32].shape)
    net.nodes, net.tensors = [replace(conv, weights=weights), pool], tensors
    program = check(net.graph, name, rng)
    assert program.layers[0].precision == "a4w2 + a4w4"
    assert "conv0" not in program.placements


@pytest.mark.parametrize("name", ["parallel", "bismo_rows", "xnor_rows"])
def test_prediction(name: str) -> None:
    rng = seeded()
    config = CONFIGS[name]
    if name == "parallel":
        net = Network((14, 14, 16), Int(8), 1).conv(8, (3, 3), Int(8), Int(8))
    else:
        net = Network((10, 10, 32), Bipolar(), 1).conv(32, (3, 3), Bipolar(), Bipolar())
    graph = net.pool(**HALVES).graph
    program = compile_graph(graph, config)
    inputs = random_input(graph, count=1, seed=rng.randrange(1 << 32))
    done = execute(
        program, graph, inputs, verilog(name), simulator=SIMULATOR, timing=MemoryTiming(latency=20)
    )
    assert done.mismatches == {}
    (layer,) = done.layers
    assert layer.counters["cycles"] > 1500
    assert program.predicted_cycles == pytest.approx(layer.counters["cycles"], rel=0.05)


# Sums


def random_residual(config: EngineConfig, rng: random.Random, most: int = 40) -> Graph:
    """A convolution and a sum with what it reads, with another convolution's results or with a table's, in
    any order; and a convolution that reads the sum."""
    precision = config.formats[0]
    weight, format = precision.weight, precision.activation
    assert isinstance(format, Int)
    shape = rng.choice([1, rng.randint(2, 6)]), rng.randint(1, 7)
    channels = rng.choice([rng.randint(1, most), 8, 16, 32][: 1 + sum(c <= most for c in (8, 16, 32))])
    net = Network((*shape, channels), format, rng.randrange(1 << 32))
    same = rng.choice(
        [
            {"kernel": (1, 1)},
            {"kernel": (3, 3), "padding": ((1, 1), (1, 1))},
            {"kernel": (2, 3), "padding": ((0, 1), (1, 1))},
            {"kernel": (1, 3), "padding": ((0, 0), (2, 2)), "dilation": (1, 2)},
        ]
    )
    kind = rng.choice(["source", "source", "before", "behind", "lookup"])
    pair = ["x", "conv0"]
    if kind == "source":
        groups = rng.choice([1, 1, 1, channels])
        net.conv(channels, weight=weight, result=format, groups=groups, scaled=True, **same)
    elif kind == "lookup":
        net.conv(channels, weight=weight, result=format, scaled=True, **same).lookup("x")
        pair = ["looked", "conv0"]
    else:
        # As where a residual network halves its map; the wide kernel comes first or last.
        stride = {"stride": (2, rng.randint(1, 2))}
        results = rng.randint(1, most)
        kernels = [{"kernel": (1, 1)}, {"kernel": (3, 3), "padding": ((1, 1), (1, 1))}]
        if kind == "behind":
            kernels.reverse()
        for each in kernels:
            net.conv(results, weight=weight, result=format, source="x", scaled=True, **stride, **each)
        pair = ["conv0", "conv1"]
    rng.shuffle(pair)
    net.add(*pair, format)
    return net.conv(rng.randint(1, 12), (1, 1), weight, format, scaled=True).graph


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("sums")])
def test_random_sums(name: str) -> None:
    """Two networks at least in which the sum is no pass of its own."""
    rng = seeded()
    config = CONFIGS[name]
    run = skipped = 0
    while run < 2:
        graph = random_residual(config, rng)
        if refused(graph, config):
            skipped += 1
            assert skipped < 40
            continue
        layers = compile_graph(graph, config).layers
        if len(layers) == len(graph.nodes) and skipped < 39:
            skipped += 1
            continue
        program = check(graph, name, rng)
        run += 1
        (sum_,) = (node for node in graph.nodes if isinstance(node, Binary))
        (layer,) = (layer for layer in program.layers if "added to by" in layer.tiling)
        assert layer.tiling.endswith(f"added to by '{sum_.name}'")
        # What it is added to is nowhere in memory, and everything else is.
        assert set(graph.tensors) - set(program.placements) == {layer.name}
        assert len(program.layers) == len(graph.nodes) - 1


def residual(channels: int = 16, **how) -> Network:
    net = Network((6, 6, channels), INT8)
    return net.conv(channels, (3, 3), INT8, INT8, padding=((1, 1), (1, 1)), **how)


def summed(graph: Graph, config: EngineConfig) -> list[str]:
    """The layers that make a sum, too."""
    return [each.name for each in compile_graph(graph, config).layers if "added to by" in each.tiling]


def test_a_sum_saves_a_pass() -> None:
    config = CONFIGS["sums"]
    graph = residual().add("x", "conv0", INT8).graph
    assert summed(graph, config) == ["conv0"]
    program = compile_graph(graph, config)
    apart = compile_graph(graph, config, tensors="needed")
    assert set(program.placements) == set(apart.placements) == {"x", "add1"}
    # No second operand: the engine is the same but for what it cannot do.
    assert summed(graph, config.replace(combine=("sum",))) == ["conv0"]
    with pytest.raises(NetworkError, match="does not combine"):
        compile_graph(graph, config.replace(combine=("maximum",)))


def test_what_is_added_to_is_read_by_the_sum_alone() -> None:
    config = CONFIGS["sums"]
    net = residual().add("x", "conv0", INT8)
    assert summed(replace(net.graph, output="conv0"), config) == []
    net = residual().add("conv0", "conv0", INT8)
    assert summed(net.graph, config) == []
    net = residual().conv(16, (1, 1), INT8, INT8).add("conv0", "conv1", INT8)
    # The second convolution reads the first one's results, and its own are read by the sum only.
    assert summed(net.graph, config) == ["conv1"]


def test_the_last_convolution_makes_the_sum() -> None:
    """Everything else is there by then, and what it reads has just been made."""
    config = CONFIGS["sums"]
    net = residual().conv(16, (1, 1), INT8, INT8, source="x").add("conv0", "conv1", INT8)
    assert summed(net.graph, config) == ["conv1"]
    # Its results have other readers: the one before it waits for them.
    net.conv(16, (1, 1), INT8, INT8, source="conv1").add("add2", "conv3", INT8)
    program = compile_graph(net.graph, config)
    assert summed(net.graph, config) == ["conv0", "conv3"]
    assert [layer.name for layer in program.layers] == ["conv1", "conv0", "conv3"]


def test_thresholds_are_no_codes_to_look_up() -> None:
    config = CONFIGS["sums"].replace(
        precisions=("a4w4",), lanes=16, quantisers=("requantise", "thresholds"), channel_depth=128
    )
    net = Network((6, 6, 16), Int(4)).conv(16, (1, 1), Int(4), Int(4)).add("x", "conv0", Int(4))
    assert summed(net.graph, config) == []


def test_nothing_runs_at_more_bits_for_a_sum() -> None:
    """What a convolution reads and what is added are stored in one way: in 8 bits, if one has them."""
    config = CONFIGS["sums"].replace(precisions=("a8w8", "a4w4"), channel_depth=128)
    for format, expected in ((Int(4), []), (INT8, ["conv1"])):
        net = Network((6, 6, 16), INT8).conv(16, (1, 1), INT8, format, scaled=True)
        net.conv(16, (3, 3), Int(4), INT8, padding=((1, 1), (1, 1))).add("x", "conv1", INT8)
        program = compile_graph(net.graph, config)
        assert summed(net.graph, config) == expected
        assert program.layers[1].precision == ("a8w8" if expected else "a4w4")


def test_a_sum_that_has_no_room_is_a_pass() -> None:
    """Of a patch buffer that holds the taps and not the tail, of weights, and of parameters."""
    config = CONFIGS["sums"].replace(rows=2)
    graph = residual().add("x", "conv0", INT8).graph
    net = Network((6, 6, 16), INT8).conv(16, (2, 4), INT8, INT8, padding=((0, 1), (1, 2)))
    eight = net.add("x", "conv0", INT8).graph
    assert summed(eight, config.replace(patch_depth=32)) == ["conv0"]
    assert summed(eight, config.replace(patch_depth=16)) == []
    assert summed(graph, config.replace(weight_depth=32)) == ["conv0"]
    assert summed(graph, config.replace(weight_depth=16)) == []
    assert summed(graph, config.replace(channel_depth=32)) == ["conv0"]
    assert summed(graph, config.replace(cols=16, channel_depth=16)) == []


def test_addable() -> None:
    """By name: the operations of each sum, and none on an engine that makes none."""
    graph = residual().conv(16, (1, 1), INT8, INT8, source="x").add("conv0", "conv1", INT8).graph
    found = views(graph)
    operations = lower(graph, found)
    assert addable(SUMS, operations, found, {"add2"}) == {"add2": ["conv1", "conv0"]}
    assert addable(SUMS, operations, found, {"add2", "conv1"}) == {"add2": ["conv0"]}
    assert addable(BASE, operations, found, {"add2"}) == {}
    first, second = with_sums(operations, found, {"add2": "conv0"})
    assert (first.name, second.name, second.output) == ("conv1", "conv0", "add2")
    assert second.sources == ("x", "conv1")
    assert second.tail is not None
    assert (second.tail.source, second.tail.second) == ("conv1", None)
    (_, _, alone_) = operations
    assert (second.tables == alone_.tables).all()
    (_, other) = with_sums(operations, found, {"add2": "conv1"})
    assert (other.tables == alone_.tables[::-1]).all()


# A patch buffer of `sums_rows` holds less than two patches; for those the prediction is 10 % low.
@pytest.mark.parametrize("name", ["sums", "sums_parts", "sums_bismo"])
def test_prediction_of_sums(name: str) -> None:
    rng = seeded()
    config = CONFIGS[name]
    format, weight = config.formats[0].activation, config.formats[0].weight
    net = Network((9, 9, 16), format, 1)
    net.conv(16, (3, 3), weight, format, scaled=True, padding=((1, 1), (1, 1))).add("conv0", "x", format)
    program = compile_graph(net.graph, config)
    inputs = random_input(net.graph, count=1, seed=rng.randrange(1 << 32))
    done = execute(
        program, net.graph, inputs, verilog(name), simulator=SIMULATOR, timing=MemoryTiming(latency=20)
    )
    assert done.mismatches == {}
    (layer,) = done.layers
    assert layer.counters["cycles"] > 1000
    assert program.predicted_cycles == pytest.approx(layer.counters["cycles"], rel=0.05)
