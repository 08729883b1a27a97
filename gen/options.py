"""Every key of a configuration beside every other, on small engines that run a network: ``scripts/options``.

Of each two keys every two values that go together are in one of the engines at least (pairwise, by
allpairspy). Each engine runs a network that makes use of what it has, as far as the mapper takes one, on its
Verilog, with a memory of random speed, and every tensor is compared with the golden model's.

Source: Kuhn, Kacker, Lei: "Practical combinatorial testing", NIST SP 800-142, 2010.
"""

import argparse
import datetime
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError, ConfigError
from bitwright.hw.formats import Int
from bitwright.sim.graph import FullyConnected, Graph, NetworkError, TensorInfo, Thresholds
from bitwright.sim.rtl import MemoryTiming
from bitwright.sim.tools import find_simulator

from .execute import EngineError, execute
from .fuzz import random_graph
from .layer import has_zero
from .mapper import compile_graph
from .program import Program
from .record import Record, write
from .record import main as record_page
from .synthetic import ConvolutionShape, random_cnn, random_input, random_mlp, random_residual
from .toolchain import find_tool
from .verilog import emit

__all__ = ["CHOICES", "Trial", "configurations", "coverage", "network", "trial"]

_UNITS: Mapping[str, tuple[str, tuple[str, ...], int]] = {
    "parallel a8w8": ("parallel", ("a8w8",), 4),
    "parallel a4w4": ("parallel", ("a4w4",), 8),
    "parallel two": ("parallel", ("a8w8", "a4w4"), 8),
    "bitfusion": ("bitfusion", ("a8w8", "a4w4"), 4),
    "bitblade": ("bitblade", ("a8w8", "a8w4"), 4),
    "stripes": ("stripes", ("a4w8", "a3w4"), 32),
    "unpu": ("unpu", ("a8w4", "a8w2"), 8),
    "loom": ("loom", ("a4w4", "a2w3"), 32),
    "bismo": ("bismo", ("a8w2", "a3w3"), 32),
    "xnor": ("xnor", ("a4wb",), 8),
    "ternary": ("ternary", ("a8wt",), 8),
    "log2": ("log2", ("a8wp4",), 8),
}
"""Dot-product unit, precisions and lanes: what one is decides what the others may be."""

CHOICES: Mapping[str, tuple[Any, ...]] = {
    "unit": tuple(_UNITS),
    "target": ("generic", "ecp5", "ice40"),
    "rows": (1, 2, 3),
    "cols": (4, 8),
    "quantisers": (
        ("requantise",),
        ("thresholds",),
        ("requantise", "accumulators"),
        ("requantise", "thresholds", "accumulators"),
    ),
    "combine": (("maximum", "sum"), ("maximum",), ("sum",), ()),
    "multiplier": ("dsp", "lut"),
    "depthwise": (False, True),
    "convolution": (True, False),
    "packing": (False, True),
    "forwarding": (True, False),
    "reduction": (1024, 4096, 16384),
    "requantisers": (1, 2, 4),
    "requantise_cycles": (1, 4),
    "bus_bits": (64, 32, 128),
    "bus": ("axi", "wishbone"),
    "burst_beats": (16, 4, 256),
    "activation_depth": (256, 1024),
    "patch_depth": (64, 256),
    "weight_depth": (512, 2048),
    "channel_depth": (64, 256),
    "output_depth": (128, 512),
    "queue_depth": (4, 2, 16),
    "loads_under_way": (4, 2, 8),
    "address_bits": (32, 20),
}
"""Values of each key that are tried; ``unit`` stands for ``pe``, ``precisions`` and ``lanes``."""

Row = dict[str, Any]


def engine(row: Mapping[str, Any]) -> EngineConfig:
    """The configuration that a row of choices is.

    Raises
    ------
    ConfigError
        Some of them do not go together.
    """
    values = dict(row)
    pe, precisions, lanes = _UNITS[values.pop("unit")]
    return EngineConfig(pe=pe, precisions=precisions, lanes=lanes, **values)  # type: ignore[arg-type]


@cache
def _possible(chosen: tuple[tuple[str, Any], ...]) -> bool:
    """Whether some choices may stand together, the other keys being as they had best be for that."""
    for others in (
        {},
        {"requantisers": 1, "bus_bits": 128},
        {"channel_depth": 256},
        {"unit": "parallel a4w4", "reduction": 1024},
        {"quantisers": ("requantise",), "reduction": 1024},
        {"unit": "parallel a4w4", "requantisers": 1, "bus_bits": 128, "reduction": 1024},
        {"unit": "loom", "requantisers": 1, "reduction": 1024},
    ):
        row = {key: values[0] for key, values in CHOICES.items()} | others | dict(chosen)
        try:
            engine(row)
        except ConfigError:
            continue
        return True
    return False


@cache
def _pairs() -> set[frozenset[tuple[str, Any]]]:
    """Every two values of two keys that go together."""
    return {
        frozenset(pair)
        for first, second in combinations(CHOICES, 2)
        for one in CHOICES[first]
        for other in CHOICES[second]
        if _possible(pair := ((first, one), (second, other)))
    }


def configurations(seed: int = 1) -> list[Row]:
    """Rows of choices that have every two values that go together, in one of them at least.

    Parameters
    ----------
    seed
        Of what fills up rows for the pairs that allpairspy leaves out.

    Raises
    ------
    BitwrightError
        allpairspy is not installed.
    """
    return [dict(row) for row in _rows(seed)]


@cache
def _rows(seed: int) -> list[Row]:
    """See :func:`configurations`."""
    try:
        from allpairspy import AllPairs
    except ImportError:
        raise BitwrightError("allpairspy is not installed: pip install allpairspy") from None
    keys = list(CHOICES)

    possible = _pairs()

    def fits(values: Sequence[Any]) -> bool:
        # The last value beside each of those before it; whether all go together shows at the end.
        *before, last = zip(keys, values, strict=False)
        return all(frozenset((each, last)) in possible for each in before)

    rows = []
    for values in AllPairs([list(CHOICES[key]) for key in keys], filter_func=fits):
        row = dict(zip(keys, values, strict=True))
        try:
            engine(row)
        except ConfigError:
            continue
        rows.append(row)
    missing = possible - coverage(rows)
    rng = random.Random(seed)
    while missing:
        row = _around(min(missing, key=_order), missing, rng)
        rows.append(row)
        missing -= coverage([row])
    return rows


def _order(pair: frozenset[tuple[str, Any]]) -> str:
    """An order of pairs that does not depend on the hash seed."""
    return str(sorted(map(str, pair)))


def _around(
    pair: frozenset[tuple[str, Any]], missing: set[frozenset[tuple[str, Any]]], rng: random.Random
) -> Row:
    """The best of some random rows with that pair: it has the most of the missing ones."""
    best: tuple[int, Row] | None = None
    tried = 0
    while tried < 200 or best is None:
        tried += 1
        row = {key: rng.choice(values) for key, values in CHOICES.items()} | dict(pair)
        if tried > 2000:
            # Little goes with it: keep to the usual values more and more.
            row = (
                {key: values[0] for key, values in CHOICES.items()}
                | dict(rng.sample(list(row.items()), rng.randint(0, 4)))
                | dict(pair)
            )
        try:
            engine(row)
        except ConfigError:
            continue
        count = len(coverage([row]) & missing)
        if best is None or count > best[0]:
            best = (count, row)
    return best[1]


def coverage(rows: Sequence[Row]) -> set[frozenset[tuple[str, Any]]]:
    """The pairs of choices that rows have."""
    return {frozenset(pair) for row in rows for pair in combinations(row.items(), 2)}


# Networks


def _layers(config: EngineConfig, rng: np.random.Generator) -> Graph:
    """A matrix product for each precision of the engine, and for each thing that may become of its sums."""
    few = [each for each in config.formats if each.activation.bits <= 4]
    # What thresholds make has few bits.
    left_out = {"accumulators"} if few else {"accumulators", "thresholds"}
    kinds: list[str] = [each for each in config.quantisers if each not in left_out] or ["accumulators"]
    if "accumulators" in config.quantisers and kinds != ["accumulators"]:
        kinds.append("accumulators")
    precisions = list(config.formats)
    while len(precisions) < len(kinds):
        precisions.append(precisions[-1])
    kinds = [kinds[0]] * (len(precisions) - len(kinds)) + kinds
    for index, kind in enumerate(kinds[:-1]):
        if kind == "thresholds":
            precisions[index + 1] = few[0]
    sizes = [int(rng.integers(5, 40)) for _ in range(len(precisions) + 1)]
    for index, precision in enumerate(precisions):
        if not has_zero(precision.weight):
            # Nothing fills up the last word of a dot product.
            elements = config.unit.stored_steps(precision).size
            sizes[index] = -(-sizes[index] // elements) * elements
    activations = [each.activation for each in precisions]
    last = few[0].activation if kinds[-1] == "thresholds" else activations[-1]
    graph = random_mlp(
        sizes,
        rows=int(rng.integers(1, 4)),
        activation=[*activations, last],  # type: ignore[list-item]
        weight=[each.weight for each in precisions],
        seed=int(rng.integers(1 << 30)),
    )
    nodes, tensors = [], dict(graph.tensors)
    for node, kind in zip(graph.nodes, kinds, strict=True):
        assert isinstance(node, FullyConnected)
        info = tensors[node.output]
        if kind == "thresholds":
            format = info.format
            assert isinstance(format, Int)
            wide = np.abs(node.weights).sum(axis=1).clip(1) * node.weight_format.bits
            levels = np.sort(
                rng.normal(0, 1, (len(node.weights), format.max - format.min)) * wide[:, None], axis=1
            )
            quantiser = Thresholds(
                levels=np.rint(levels).astype(np.int64),
                descending=rng.random(len(node.weights)) < 0.3,
                low=format.min,
            )
            node = replace(node, quantiser=quantiser)
        elif kind == "accumulators":
            node = replace(node, quantiser=None)
            tensors[node.output] = TensorInfo(name=info.name, shape=info.shape, format=Int(32))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), tensors=tensors)


def _convolutions(config: EngineConfig, rng: np.random.Generator) -> Graph:
    """Convolutions, one of them depthwise."""
    precision = config.formats[0]
    return random_cnn(
        (5, 4, int(rng.integers(1, 4))),
        [
            ConvolutionShape(channels=4, kernel=(3, 3), padding=((1, 1), (1, 1))),
            ConvolutionShape(kernel=(2, 2), groups=4),
            ConvolutionShape(channels=5, kernel=(2, 1), stride=(1, 2)),
        ],
        activation=precision.activation,  # type: ignore[arg-type]
        weight=precision.weight,
        seed=int(rng.integers(1 << 30)),
    )


def _everything(config: EngineConfig, rng: np.random.Generator) -> Graph:
    """Convolutions, pools, sums."""
    return random_residual((4, 4, 2), channels=4, classes=3, seed=int(rng.integers(1 << 30)))


def _anything(config: EngineConfig, rng: np.random.Generator) -> Graph:
    return random_graph(rng, config, size=4, channels=6, nodes=4)


def network(config: EngineConfig, seed: int) -> Iterator[tuple[str, Graph, Program]]:
    """Networks that make use of what an engine has, those that the mapper takes: a description, graph,
    program.

    Matrix products with every quantiser and precision come first; then one of what else the engine can do:
    convolutions, pools and sums, whichever of a few tries is taken first.

    Parameters
    ----------
    config
        The engine.
    seed
        Of the networks' random numbers.
    """
    rng = np.random.default_rng(seed)
    tries: list[tuple[str, list[Callable[[EngineConfig, np.random.Generator], Graph]]]] = [
        ("layers", [_layers] * 4)
    ]
    if config.convolution and "requantise" in config.quantisers:
        tries.append(("maps", [_everything, _convolutions, *[_anything] * 20]))
    for name, makers in tries:
        for make in makers:
            try:
                graph = make(config, rng)
                program = compile_graph(graph, config)
            except (NetworkError, IndexError, ValueError):
                continue
            yield f"{name} ({make.__name__.strip('_')})", graph, program
            break


@dataclass(frozen=True)
class Trial:
    """What came of one engine.

    Parameters
    ----------
    networks
        What it ran.
    tensors
        Compared with the golden model.
    problem
        What was wrong; empty if nothing.
    """

    networks: tuple[str, ...]
    tensors: int
    problem: str = ""


def trial(row: Row, *, seed: int, simulator: str) -> Trial:
    """Make an engine and run networks on it.

    Parameters
    ----------
    row
        Its choices.
    seed
        Of all that is random.
    simulator
        See :class:`~bitwright.sim.rtl.Simulation`.
    """
    config = engine(row)
    verilog = emit(config)
    names: list[str] = []
    tensors = 0
    for name, graph, program in network(config, seed):
        timing = MemoryTiming(latency=4 + seed % 30, stall=60 * (seed % 2), seed=1 + seed % 99)
        try:
            done = execute(
                program,
                graph,
                random_input(graph, count=1, seed=seed),
                verilog,
                simulator=simulator,
                timing=timing,
            )
        except EngineError as error:
            return Trial((*names, name), tensors, f"{name}: {error}")
        names.append(name)
        tensors += done.tensors_compared
        if done.mismatches:
            return Trial(tuple(names), tensors, f"{name}: elements differ: {done.mismatches}")
    return Trial(tuple(names), tensors, "" if names else "the mapper takes none of the networks")


def _record(
    rows: Sequence[Row], trials: Sequence[Trial], seed: int, seconds: float, simulator: str
) -> Record:
    pairs = _pairs()
    covered = len(coverage(rows) & pairs)
    table = [
        (
            key,
            ", ".join(
                "+".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
                for value in values
            ),
            sum(1 for pair in pairs if key in {name for name, _ in pair}),
        )
        for key, values in CHOICES.items()
    ]
    failed = sum(bool(trial.problem) for trial in trials)
    return Record(
        name="options",
        title="Keys of a configuration, pairwise",
        method="simulated",
        claim=(
            f"{len(rows)} engines have {covered} of the {len(pairs)} pairs of values of two keys that go "
            f"together; {len(pairs)} of {_combinations()} do. Each ran one or two networks, "
            f"{sum(len(t.networks) for t in trials)} in all, on its Verilog; "
            f"{sum(t.tensors for t in trials)} tensors were compared with the golden model's, and "
            f"{failed} engines failed."
        ),
        command=f"scripts/options --seed {seed} --record",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        seconds=round(seconds, 1),
        versions={
            "bitwright": version("bitwright"),
            simulator: find_simulator(simulator).version,
            "yosys": find_tool("yosys").version,
        },
        columns=("key", "values", "pairs"),
        rows=tuple(table),
        not_covered=(
            "Three keys at a time; values between those that are listed, and larger engines.",
            "A pair being in an engine does not say that its network made use of both.",
        ),
    )


def _combinations() -> int:
    return sum(len(CHOICES[one]) * len(CHOICES[other]) for one, other in combinations(CHOICES, 2))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the engines; exit status 1 if one failed, 2 if it could not be tried.

    Parameters
    ----------
    arguments
        Of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="scripts/options", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of all that is random")
    parser.add_argument(
        "--only", type=int, nargs="*", default=None, help="numbers of engines; all unless given"
    )
    parser.add_argument("--list", action="store_true", help="show the engines and run none")
    parser.add_argument(
        "--record", action="store_true", help="write docs/verification/options.json and the page"
    )
    options = parser.parse_args(arguments)
    simulator = "icarus" if shutil.which("iverilog") else "verilator"
    started = time.monotonic()
    try:
        rows = configurations(options.seed)
        numbers = range(len(rows)) if options.only is None else options.only
        if any(not 0 <= number < len(rows) for number in numbers):
            raise BitwrightError(f"--only {list(numbers)}: there are engines 0 to {len(rows) - 1}")
        if options.record and (options.only is not None or options.list or not Path("docs").is_dir()):
            raise BitwrightError("--record: is of all engines, and from the root of a clone")
        trials: list[Trial] = []
        for number in numbers:
            shown = " ".join(f"{key}={value}" for key, value in rows[number].items())
            if options.list:
                print(f"{number}: {shown}")
                continue
            trials.append(trial(rows[number], seed=options.seed + number, simulator=simulator))
            print(f"{number}: {', '.join(trials[-1].networks)}: {trials[-1].problem or 'equal'}", flush=True)
            if trials[-1].problem:
                print(f"  {shown}", flush=True)
        if options.record:
            write(
                _record(rows, trials, options.seed, time.monotonic() - started, simulator),
                Path("docs/verification"),
            )
            record_page([])
    except BitwrightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = sum(bool(trial.problem) for trial in trials)
    print(f"{len(trials)} of {len(rows)} engines, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
