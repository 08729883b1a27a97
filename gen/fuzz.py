"""Random networks on random engines: ``python -m bitwright.gen.fuzz``. What nobody has tried must work.

Networks are integer graphs of everything that engines run, with shapes that fit nothing; engines are small
ones of all units. Each network that an engine does not refuse runs on its Verilog, and every tensor is
compared with the golden model's. A failure prints the seed that makes the same pair again.
"""

import argparse
import datetime
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import ConfigError
from bitwright.hw.formats import Format, Int
from bitwright.sim.graph import (
    AveragePool,
    Binary,
    Concatenate,
    Convolution,
    FullyConnected,
    Graph,
    Lookup,
    MaxPool,
    NetworkError,
    Node,
    Pad,
    Requantise,
    Reshape,
    Select,
    TensorInfo,
    Thresholds,
    Upsample,
)
from bitwright.sim.rtl import MemoryTiming
from bitwright.sim.tools import find_simulator

from .execute import execute
from .mapper import compile_graph
from .record import Record, write
from .synthetic import mean_away, random_input, spread
from .verilog import emit, made_with

__all__ = ["Outcome", "random_engine", "random_graph", "trial"]

_PRECISIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "parallel": (("a8w8",), ("a8w8",), ("a4w4",), ("a8w4",), ("a8w8", "a8w4", "a4w4")),
    "bitfusion": (("a8w8",), ("a8w8", "a8w4"), ("a8w8", "a4w4", "a2w2")),
    "bitblade": (("a8w8", "a8w4"), ("a8w8", "a8w2")),
    "stripes": (("a4w4",), ("a8w8",), ("a8w8", "a8w4")),
    "unpu": (("a8w8", "a8w4"), ("a8w3",)),
    "loom": (("a4w4",), ("a8w4",)),
    "bismo": (("a4w4",), ("a8w2",), ("a3w3", "a3w2")),
    "xnor": (("a8wb",), ("a4wb",)),
    "ternary": (("a8wt",), ("a4wt",)),
    "log2": (("a8wp4",), ("a4wp4",)),
}
_LANES = {
    "parallel": (1, 2, 4, 8, 16),
    "bitfusion": (4, 8),
    "bitblade": (4, 8),
    "stripes": (32, 64),
    "unpu": (4, 8),
    "loom": (32, 64),
    "bismo": (32, 64),
    "xnor": (4, 8, 16),
    "ternary": (4, 8),
    "log2": (4, 8),
}
_MOST_LANES = {"parallel": 32, "bitfusion": 16, "bitblade": 16, "unpu": 32, "log2": 32}
"""Of all units together, so that a simulation takes seconds; 128 unless given."""


def random_engine(rng: np.random.Generator) -> EngineConfig:
    """A small engine of any unit; with little memory, mostly, so that layers are cut.

    Parameters
    ----------
    rng
        Random numbers.
    """

    def pick(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    while True:
        pe = pick("parallel", "parallel", *_PRECISIONS)
        precisions = pick(*_PRECISIONS[pe])
        few = all(precision.startswith(("a3", "a4")) for precision in precisions)
        lanes, cols, rows = pick(*_LANES[pe]), pick(1, 2, 4, 4, 8, 16), pick(1, 1, 2, 3, 4)
        if lanes * cols * rows > _MOST_LANES.get(pe, 128):
            continue
        try:
            return EngineConfig(
                pe=pe,
                precisions=precisions,
                lanes=lanes,
                cols=cols,
                rows=rows,
                requantisers=pick(1, 2, 4),
                requantise_cycles=pick(1, 1, 4),
                quantisers=pick(("requantise",), ("requantise", "thresholds")) if few else ("requantise",),
                depthwise=bool(pick(True, False)),
                packing=bool(pick(True, False)),
                forwarding=bool(pick(True, False)),
                bus_bits=pick(32, 64, 128),
                burst_beats=pick(4, 16, 64),
                activation_depth=pick(128, 256, 512, 2048),
                patch_depth=pick(32, 64, 256),
                weight_depth=pick(128, 256, 1024),
                channel_depth=pick(32, 128),
                output_depth=pick(64, 128, 512),
                queue_depth=pick(2, 4, 16),
                loads_under_way=pick(2, 4),
                reduction=pick(2048, 4096),
            )
        except ConfigError:
            continue


def random_graph(
    rng: np.random.Generator, config: EngineConfig, *, size: int = 6, channels: int = 12, nodes: int = 6
) -> Graph:
    """A network of up to so many nodes, of all kinds that engines run, with branches, joins and sums.

    Parameters
    ----------
    rng
        Random numbers.
    config
        The engine that it is for: its formats, and whether it counts thresholds.
    size, channels
        Height and width of the input at most, and its channels.
    nodes
        How many are added before the last.
    """
    return _Maker(rng, config).graph(size, channels, nodes)


class _Maker:
    """Adds nodes to the tensors that there are."""

    def __init__(self, rng: np.random.Generator, config: EngineConfig):
        self.rng = rng
        self.config = config
        self.formats: list[Int] = [each for each in config.storages if isinstance(each, Int)]
        self.channels_first = bool(rng.random() < 0.3)
        self.tensors: dict[str, TensorInfo] = {}
        self.nodes: list[Node] = []

    def graph(self, size: int, channels: int, nodes: int) -> Graph:
        rng = self.rng
        shape = int(rng.integers(1, size + 1)), int(rng.integers(1, size + 1))
        x = self._tensor(*shape, self._pick(1, 3, int(rng.integers(1, channels + 1))))
        kinds: list[Callable[[TensorInfo], TensorInfo | None]] = [
            self._convolution,
            self._convolution,
            self._depthwise,
            self._max_pool,
            self._average_pool,
            self._lookup,
            self._binary,
            self._residual,
            self._residual,
            self._join,
            self._join,
            self._pad,
            self._select,
            self._upsample,
            self._relabel,
        ]
        for _ in range(int(rng.integers(1, nodes + 1))):
            # Mostly the last tensor; sometimes an older one, so that there are branches.
            maps = list(self.tensors.values())
            source = maps[-1] if rng.random() < 0.75 else self._pick(*maps)
            self._pick(*kinds)(source)
        last = list(self.tensors.values())[-1]
        if not any(not isinstance(node, Reshape) for node in self._needed(last)):
            last = self._convolution(x)
        if rng.random() < 0.4:
            last = self._full(last)
        used = self._needed(last)
        return Graph(
            name="random",
            tensors={
                name: info
                for name, info in self.tensors.items()
                if name == x.name or name in {node.output for node in used}
            },
            nodes=tuple(used),
            input=x.name,
            output=last.name,
        )

    def _needed(self, last: TensorInfo) -> list[Node]:
        needed = {last.name}
        kept = []
        for node in reversed(self.nodes):
            if node.output in needed:
                kept.append(node)
                needed.update(node.inputs)
        return kept[::-1]

    def _pick(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def _tensor(
        self,
        height: int,
        width: int,
        channels: int,
        like: TensorInfo | None = None,
        *,
        positive: bool = False,
    ) -> TensorInfo:
        """A new map, of the same codes as another one or of any."""
        if like is None:
            format = self._pick(*self.formats)
            if positive and self.rng.random() < 0.3:
                format = Int(format.bits, signed=False)
            zero = int(self.rng.integers(format.min, format.max + 1))
        else:
            assert isinstance(like.format, Int)
            format, zero = like.format, like.zero_point
        shape = (1, channels, height, width) if self.channels_first else (1, height, width, channels)
        return self._add(
            TensorInfo(
                name=f"t{len(self.tensors)}",
                shape=shape,
                format=format,
                zero_point=zero,
                channel_axis=1 if self.channels_first else None,
            )
        )

    def _add(self, info: TensorInfo) -> TensorInfo:
        self.tensors[info.name] = info
        return info

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self.nodes)}"

    def _weight_format(self, source: TensorInfo) -> Format:
        # What the engine holds for these activations, or less.
        assert source.format is not None
        bits = source.format.bits
        found: Format = self._pick(
            *(each.weight for each in self.config.formats if each.activation.bits >= bits)
        )
        return found

    def _windows(self, size: tuple[int, int], most: int, *, dilates: bool) -> dict[str, Any]:
        rng = self.rng
        kernel, stride, dilation, padding = [], [], [], []
        for length in size:
            around = (int(rng.integers(0, 3)), int(rng.integers(0, 3))) if rng.random() < 0.5 else (0, 0)
            k = int(rng.integers(1, min(most, length + sum(around)) + 1))
            # No window may be outside of the map.
            around = (min(around[0], k - 1), min(around[1], k - 1))
            step = int(rng.integers(1, 3)) if dilates and length + sum(around) > 2 * (k - 1) else 1
            if length + sum(around) <= step * (k - 1):
                k, around = 1, (0, 0)
            kernel.append(k)
            padding.append(around)
            dilation.append(step)
            stride.append(int(rng.integers(1, 4)))
        found: dict[str, Any] = {"stride": tuple(stride), "padding": tuple(padding), "kernel": tuple(kernel)}
        if dilates:
            found["dilation"] = tuple(dilation)
        return found

    def _quantised(
        self, weights: NDArray[np.int64], source: TensorInfo, result: TensorInfo
    ) -> tuple[NDArray[np.int64], Requantise | Thresholds]:
        bias, quantiser = spread(
            self.rng,
            weights.reshape(len(weights), -1),
            source,
            result,
            rounding=self._pick("tflite", "half_even"),
            relu=bool(self.rng.random() < 0.3),
        )
        format = result.format
        assert isinstance(format, Int)
        if "thresholds" in self.config.quantisers and format.bits <= 4 and self.rng.random() < 0.5:
            count = int(self.rng.integers(1, format.max - format.min + 1))
            wide = np.abs(weights.reshape(len(weights), -1)).sum(axis=1).clip(1) * (1 << format.bits - 1)
            levels = np.sort(self.rng.normal(0, 0.3, (len(weights), count)) * wide[:, None], axis=1)
            return bias // 8, Thresholds(
                levels=np.rint(levels).astype(np.int64),
                descending=self.rng.random(len(weights)) < 0.3,
                low=int(self.rng.integers(format.min, format.max - count + 1)),
            )
        return bias, quantiser

    def _convolved(self, source: TensorInfo, groups: int, channels: int, *, same: bool = False) -> TensorInfo:
        _, height, width, inputs = source.canonical
        windows = self._windows((height, width), 4, dilates=True)
        if same:
            windows = self._pick(
                {"kernel": (1, 1)},
                {"kernel": (3, 3), "padding": ((1, 1), (1, 1))},
                {"kernel": (2, 3), "padding": ((0, 1), (2, 2)), "dilation": (1, 2)},
            )
        kernel = windows.pop("kernel")
        format = self._weight_format(source)
        weights = self.rng.choice(format.values, (channels, *kernel, inputs // groups))
        blank = Convolution(
            name=self._name("conv"),
            input=source.name,
            output="",
            weights=weights,
            weight_format=format,
            bias=np.zeros(channels, np.int64),
            quantiser=None,
            groups=groups,
            **windows,
        )
        result = self._tensor(*blank.positions(height, width), channels, positive=True)
        bias, quantiser = self._quantised(weights, source, result)
        self.nodes.append(replace(blank, output=result.name, bias=bias, quantiser=quantiser))
        return result

    def _convolution(self, source: TensorInfo) -> TensorInfo:
        inputs = source.canonical[3]
        groups = self._pick(*(each for each in range(1, inputs + 1) if inputs % each == 0))
        if self.rng.random() < 0.6:
            groups = 1
        return self._convolved(source, groups, groups * int(self.rng.integers(1, max(1, 16 // groups) + 1)))

    def _depthwise(self, source: TensorInfo) -> TensorInfo:
        inputs = source.canonical[3]
        return self._convolved(source, inputs, inputs * self._pick(1, 1, 1, 2))

    def _residual(self, source: TensorInfo) -> TensorInfo:
        """A convolution whose results have the source's size, and a sum with anything that has."""
        channels = source.canonical[3]
        groups = self._pick(1, 1, 1, channels)
        made = self._convolved(source, groups, channels, same=True)
        others = [each for each in self._beside(made, (1, 2, 3), codes=False) if each is not made]
        pair = [made, self._pick(*others)]
        self.rng.shuffle(pair)
        return self._added(*pair)

    def _max_pool(self, source: TensorInfo) -> TensorInfo:
        _, height, width, channels = source.canonical
        node = MaxPool(
            name=self._name("max"),
            input=source.name,
            output="",
            **self._windows((height, width), 4, dilates=False),
        )
        if not node.coverage(height, width).all():
            return source
        result = self._tensor(*node.positions(height, width), channels, source)
        self.nodes.append(replace(node, output=result.name))
        return result

    def _average_pool(self, source: TensorInfo) -> TensorInfo:
        _, height, width, channels = source.canonical
        windows = self._windows((height, width), 5, dilates=False)
        if self.rng.random() < 0.2:
            windows = {"kernel": (height, width)}
        node = AveragePool(
            name=self._name("average"),
            input=source.name,
            output="",
            count_padding=bool(self.rng.random() < 0.3),
            **windows,
        )
        if not node.coverage(height, width).all():
            return source
        result = self._tensor(*node.positions(height, width), channels, source)
        self.nodes.append(replace(node, output=result.name).tabulated(source, mean_away))
        return result

    def _codes(self, info: TensorInfo) -> NDArray[np.int64]:
        assert isinstance(info.format, Int)
        return np.arange(info.format.min, info.format.max + 1)

    def _lookup(self, source: TensorInfo, like: TensorInfo | None = None) -> TensorInfo:
        _, height, width, channels = source.canonical
        result = self._tensor(height, width, channels, like)
        codes = self._codes(result)
        table = self.rng.choice(codes, len(self._codes(source)))
        node = Lookup(name=self._name("lookup"), input=source.name, output=result.name, table=table)
        self.nodes.append(node)
        return result

    def _beside(self, source: TensorInfo, axes: Sequence[int], *, codes: bool) -> list[TensorInfo]:
        """Tensors of the same size along these axes of the canonical shape, and perhaps of the same codes."""
        return [
            each
            for each in self.tensors.values()
            if all(each.canonical[axis] == source.canonical[axis] for axis in axes)
            and (not codes or (each.format, each.zero_point) == (source.format, source.zero_point))
        ]

    def _binary(self, source: TensorInfo) -> TensorInfo:
        others = self._beside(source, (1, 2, 3), codes=False)
        other = self._pick(*others)
        if len(others) == 1:
            other = self._lookup(source)
        return self._added(source, other)

    def _added(self, source: TensorInfo, other: TensorInfo) -> TensorInfo:
        _, height, width, channels = source.canonical
        result = self._tensor(height, width, channels)
        left, right = self._codes(source) - source.zero_point, self._codes(other) - other.zero_point
        a, b = self.rng.uniform(-1.2, 1.2, 2)
        real = a * left[:, None] + b * right[None, :] + result.zero_point
        codes = self._codes(result)
        table = (np.rint(real) if self.rng.random() < 0.5 else np.floor(real + 0.5)).clip(codes[0], codes[-1])
        self.nodes.append(
            Binary(
                name=self._name("binary"),
                inputs=(source.name, other.name),
                output=result.name,
                table=table.astype(np.int64),
            )
        )
        return result

    def _join(self, source: TensorInfo) -> TensorInfo:
        axis = self._pick(1, 2, 3, 3, 3)
        others = self._beside(source, [each for each in (1, 2, 3) if each != axis], codes=True)
        parts = [source, *(self._pick(*others) for _ in range(int(self.rng.integers(1, 3))))]
        if self.rng.random() < 0.5:
            # One that has been made like it.
            others = self._beside(source, [each for each in (1, 2, 3) if each != axis], codes=False)
            parts.append(self._lookup(self._pick(*others), source))
        self.rng.shuffle(parts)
        sizes = list(source.canonical[1:])
        sizes[axis - 1] = sum(part.canonical[axis] for part in parts)
        if prod(sizes) > 1000:
            return source
        result = self._tensor(sizes[0], sizes[1], sizes[2], source)
        node = Concatenate(
            name=self._name("join"),
            inputs=tuple(part.name for part in parts),
            output=result.name,
            axis=self._axis(axis),
        )
        self.nodes.append(node)
        return result

    def _axis(self, canonical: int) -> int:
        """The axis of a tensor's shape."""
        return (0, 2, 3, 1)[canonical] if self.channels_first else canonical

    def _pad(self, source: TensorInfo) -> TensorInfo:
        sizes = list(source.canonical[1:])
        around = [(0, 0)] * 4
        axes = self._pick((1, 2), (1,), (2,), (3,), (1, 2, 3))
        for axis in axes:
            low, high = (int(each) for each in self.rng.integers(-2, 4, 2))
            if sizes[axis - 1] + min(low, high, low + high) < 1:
                continue
            around[axis] = low, high
            sizes[axis - 1] += low + high
        value = int(self.rng.choice(self._codes(source)))
        if len(axes) > 2 or self.rng.random() < 0.3:
            value = source.zero_point
        result = self._tensor(sizes[0], sizes[1], sizes[2], source)
        order = sorted(range(4), key=self._axis)
        padding = tuple(around[axis] for axis in order)
        self.nodes.append(
            Pad(name=self._name("pad"), input=source.name, output=result.name, padding=padding, value=value)
        )
        return result

    def _select(self, source: TensorInfo) -> TensorInfo:
        _, height, width, inputs = source.canonical
        channels = self.rng.integers(0, inputs, int(self.rng.integers(1, 2 * inputs + 1)))
        if self.rng.random() < 0.5:
            channels.sort()
        result = self._tensor(height, width, len(channels), source)
        self.nodes.append(
            Select(
                name=self._name("select"),
                input=source.name,
                output=result.name,
                channels=tuple(channels.tolist()),
            )
        )
        return result

    def _upsample(self, source: TensorInfo) -> TensorInfo:
        _, height, width, channels = source.canonical
        factors = int(self.rng.integers(1, 4)), int(self.rng.integers(1, 4))
        if prod(source.shape) * prod(factors) > 600:
            return source
        result = self._tensor(height * factors[0], width * factors[1], channels, source)
        self.nodes.append(
            Upsample(name=self._name("up"), input=source.name, output=result.name, factors=factors)
        )
        return result

    def _relabel(self, source: TensorInfo) -> TensorInfo:
        """Height and width of other sizes, pixels in the same order; only of channels last."""
        if self.channels_first:
            return source
        _, height, width, channels = source.canonical
        pixels = height * width
        lines = self._pick(*(each for each in range(1, pixels + 1) if pixels % each == 0))
        result = self._tensor(lines, pixels // lines, channels, source)
        self.nodes.append(Reshape(name=self._name("reshape"), input=source.name, output=result.name))
        return result

    def _full(self, source: TensorInfo) -> TensorInfo:
        """The whole map, flattened, into a matrix product, or two."""
        flat = self._add(
            replace(source, name=f"t{len(self.tensors)}", shape=(1, source.size), channel_axis=None)
        )
        self.nodes.append(Reshape(name=self._name("flatten"), input=source.name, output=flat.name))
        sizes = [source.size, *(int(each) for each in self.rng.integers(1, 20, int(self.rng.integers(1, 3))))]
        last = flat
        for terms, columns in pairwise(sizes):
            format = self._weight_format(last)
            weights = self.rng.choice(format.values, (columns, terms))
            blank = self._tensor(1, 1, columns)
            result = self._add(replace(blank, shape=(1, columns), channel_axis=None))
            bias, quantiser = self._quantised(weights, last, result)
            self.nodes.append(
                FullyConnected(
                    name=self._name("full"),
                    input=last.name,
                    output=result.name,
                    weights=weights,
                    weight_format=format,
                    bias=bias,
                    quantiser=quantiser,
                )
            )
            last = result
        return last


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one network on one engine.

    Parameters
    ----------
    refused
        Why the mapper did not take it; empty if it did.
    compared
        Tensors that were compared with the golden model.
    sums, fused
        Sums of two tensors, and how many of them were part of a convolution.
    mismatches
        Elements that differ, by tensor.
    """

    refused: str = ""
    compared: int = 0
    sums: int = 0
    fused: int = 0
    mismatches: dict[str, int]


def trial(
    graph: Graph, config: EngineConfig, verilog: str, rng: np.random.Generator, simulator: str
) -> Outcome:
    """Run a network, with a memory of any speed, and compare every tensor that is in memory at the end.

    Parameters
    ----------
    graph, config, verilog
        The network and the engine.
    rng
        Random numbers, for the input, the memory and which tensors are to be in memory.
    simulator
        See :class:`~bitwright.sim.rtl.Simulation`.

    Raises
    ------
    EngineError
        The engine stopped with a fault, or not at all, or broke the bus protocol.
    """
    try:
        program = compile_graph(graph, config, tensors="all" if rng.random() < 0.6 else "needed")
    except NetworkError as error:
        return Outcome(refused=str(error), mismatches={})
    inputs = random_input(graph, count=1, seed=int(rng.integers(1 << 32)))
    timing = MemoryTiming(
        latency=int(rng.integers(2, 41)),
        stall=int(rng.choice([0, 90])),
        seed=int(rng.integers(1, 100)),
    )
    done = execute(program, graph, inputs, verilog, simulator=simulator, timing=timing)
    passes = {layer.name for layer in program.layers}
    sums = [node.name in passes for node in graph.nodes if isinstance(node, Binary)]
    return Outcome(
        compared=done.tensors_compared,
        mismatches=done.mismatches,
        sums=len(sums),
        fused=sums.count(False),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Trials for so long, or of one seed; exit status 1 if any failed.

    Parameters
    ----------
    arguments
        Of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m bitwright.gen.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long; 60 unless given")
    parser.add_argument("--seed", type=int, default=None, help="of the first engine; random unless given")
    parser.add_argument("--engines", type=int, default=0, help="how many engines, instead of a time")
    parser.add_argument("--networks", type=int, default=6, help="networks on each engine")
    parser.add_argument("--record", action="store_true", help="write docs/verification/random-engines.json")
    options = parser.parse_args(arguments)
    simulator = "icarus" if shutil.which("iverilog") else "verilator"
    first = options.seed if options.seed is not None else int(np.random.default_rng().integers(1 << 31))
    seed, began = first, time.monotonic()
    counts: dict[str, _Count] = {}
    reasons: dict[str, int] = {}
    engines = sums = fused = 0
    while engines < options.engines if options.engines else time.monotonic() < began + options.seconds:
        rng = np.random.default_rng(seed)
        config = random_engine(rng)
        verilog = emit(config)
        count = counts.setdefault(config.pe, _Count())
        count.engines += 1
        for number in range(options.networks):
            own = np.random.default_rng((seed, number))
            problem = ""
            try:
                graph = random_graph(own, config)
                outcome = trial(graph, config, verilog, own, simulator)
                if outcome.refused:
                    count.refused += 1
                    _, _, reason = outcome.refused.partition("': ")
                    reasons[reason] = reasons.get(reason, 0) + 1
                    continue
                count.tensors += outcome.compared
                sums, fused = sums + outcome.sums, fused + outcome.fused
                if outcome.mismatches:
                    problem = f"differs: {outcome.mismatches}"
            except Exception:
                # Whatever goes wrong is what is looked for.
                problem = traceback.format_exc()
            count.run += 1
            if problem:
                count.failed += 1
                print(f"seed {seed}, network {number}, on {config}:\n{problem}", flush=True)
        engines += 1
        seed += 1
    run, refused, failed = (
        sum(getattr(count, key) for count in counts.values()) for key in ("run", "refused", "failed")
    )
    print(f"{engines} engines, {run} networks run, {refused} refused, {failed} failed; last seed {seed - 1}")
    print(f"{sums} sums, {fused} of them part of a convolution")
    for reason, number in sorted(reasons.items(), key=lambda item: -item[1]):
        print(f"{number:5} refused: {reason}")
    if options.record:
        made = _record(counts, first, options.networks, simulator, time.monotonic() - began)
        print(f"written to {write(made, Path('docs/verification'))}")
    return 1 if failed else 0


@dataclass
class _Count:
    """Of the engines of one unit: how many, and what became of their networks."""

    engines: int = 0
    run: int = 0
    refused: int = 0
    failed: int = 0
    tensors: int = 0


def _record(counts: dict[str, _Count], seed: int, networks: int, simulator: str, seconds: float) -> Record:
    engines = sum(count.engines for count in counts.values())
    tool = find_simulator(simulator).version
    return Record(
        name="random-engines",
        title="Random networks on random engines",
        method="fuzzed",
        claim=(
            f"{engines} engines, each with a configuration of random numbers, were emitted as Verilog and "
            f"simulated; {networks} random networks were made for each, of convolutions, pools, sums, "
            "joins, tables and matrix products with branches. Those that the mapper takes ran with a memory "
            "of random latency and pauses, and every tensor in memory was compared with the golden model's, "
            "bit for bit."
        ),
        command=(
            f"python -m bitwright.gen.fuzz --seed {seed} --engines {engines} --networks {networks} --record"
        ),
        date=datetime.date.today().isoformat(),
        seconds=round(seconds, 1),
        versions=made_with() | {simulator: tool},
        columns=("unit", "engines", "networks run", "refused", "tensors compared", "failed"),
        rows=tuple(
            (unit, count.engines, count.run, count.refused, count.tensors, count.failed)
            for unit, count in sorted(counts.items())
        ),
        not_covered=(
            "Engines of more lanes, columns and rows than simulate in seconds.",
            "Activations that are bipolar or ternary; `xnor` and `ternary` have integer ones here.",
            "Networks that the mapper refuses, which say why.",
        ),
    )


if __name__ == "__main__":
    raise SystemExit(main())
