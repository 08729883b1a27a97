"""Compares dot-product units: one network on the engine of each, one key of the configuration changed.

::

    graph ─► engine_precisions() ─► fitted() ─► run on the RTL ─┬─► table, JSON, draw()
             what each unit needs   an engine   synthesise      └─► Refusal: who cannot, and why

What is equal for all units and what follows from the unit, :func:`fitted` says.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.config import MAX_THRESHOLDS, EngineConfig
from bitwright.hw.errors import BitwrightError, ConfigError
from bitwright.hw.formats import Bipolar, Format, Int, PowerOfTwo, Ternary
from bitwright.hw.memory.scratchpad import geometries
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.contract import DotProduct, Precision
from bitwright.hw.sched.isa import Buffer, Combine
from bitwright.hw.storage import ACCUMULATORS, Storage
from bitwright.sim.graph import (
    Graph,
    NetworkError,
    Requantise,
    TensorInfo,
    Thresholds,
)
from bitwright.sim.rtl import MemoryTiming

from . import config as configs
from .execute import Execution, execute
from .layer import has_zero, packs, span_blocks
from .lowering import Operation, lower
from .mapper import compile_graph
from .pe_bench import check_plot, synthesised
from .places import View, views
from .program import Program
from .report import simulation_report, throughput
from .synthesis import TARGETS, Resources, Target
from .toolchain import versions
from .verilog import emit

__all__ = [
    "BIT_PRODUCTS",
    "CHOSEN",
    "Comparison",
    "Refusal",
    "Result",
    "base_config",
    "check_file",
    "check_lanes",
    "compare",
    "draw",
    "engine_precisions",
    "excess",
    "fitted",
    "holding",
    "layer_precisions",
    "multiplier_blocks",
    "operations",
    "pareto",
    "parse_lanes",
    "parse_units",
    "quantisers",
]

BIT_PRODUCTS = 64
"""Products of single bits that a column makes in a cycle at the widest layer, unless another number is given.

One product of 8 by 8 bits. A bit-serial unit has a lane for each of them, and more lanes than a dot product
has terms would compute with zeros.
"""

CHOSEN = ("pe", "target", "precisions", "quantisers", "lanes")
"""Keys of a configuration that follow from unit, network and device."""

_MIN_DEPTH = {"ecp5": 512, "ice40": 256}
"""Words of a block RAM at its widest; fewer save nothing."""

_LANES = 16  # of the units whose precisions are ranked


# What was asked for


def parse_units(text: str) -> tuple[str, ...]:
    """Units named on the command line: ``all``, or names with commas between.

    Raises
    ------
    BitwrightError
        One of them is not known.
    """
    if text.strip() == "all":
        return tuple(UNITS)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in UNITS:
            close = get_close_matches(name, UNITS, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise BitwrightError(f"--units {name}: must be all, or some of {', '.join(UNITS)}{hint}")
    return names


def parse_lanes(texts: Sequence[str], units: Sequence[str]) -> dict[str, int]:
    """Lanes of each unit that they are given for, as ``N`` for all units or ``unit=N``; later ones win.

    Raises
    ------
    BitwrightError
        A number or a unit is not one, or the unit is not compared.
    """
    found: dict[str, int] = {}
    for text in texts:
        unit, separator, number = text.rpartition("=")
        if separator and unit not in units:
            raise BitwrightError(f"--lanes {text}: {unit} is none of the units compared, {', '.join(units)}")
        if not (number.isascii() and number.isdigit() and 1 <= int(number) <= 256):
            raise BitwrightError(f"--lanes {text}: must be N or UNIT=N, with 1 to 256 lanes")
        found |= dict.fromkeys([unit] if separator else units, int(number))
    return found


def base_config(
    source: str | None, overrides: Sequence[str], cols: int | None
) -> tuple[EngineConfig, tuple[str, ...]]:
    """The configuration that engines differ from only in what follows from the unit, and keys that are set.

    Parameters
    ----------
    source
        TOML file or name of a shipped configuration; ``base`` with 8 columns and one requantiser otherwise.
    overrides
        ``key=value`` each.
    cols
        Columns, if given.

    Raises
    ------
    ConfigError
        A key that is chosen for each unit is set, or a value is not allowed.
    """
    keys = [override.partition("=")[0].strip() for override in overrides]
    for key, text in zip(keys, overrides, strict=True):
        if key in CHOSEN:
            instead = {"pe": "use --units", "lanes": "use --lanes", "target": "use --target"}
            raise BitwrightError(f"--set {text}: {instead.get(key, 'is chosen for each unit; leave it out')}")
    ours = [] if source else ["cols=8", "requantisers=1", "queue_depth=16"]
    if cols is not None:
        ours.append(f"cols={cols}")
        keys.append("cols")
    return configs.load(source or "base", [*ours, *overrides]), tuple(keys)


def check_file(option: str, path: Path | None) -> None:
    """Complain of a file that could not be written in the end, before anything is measured.

    Raises
    ------
    BitwrightError
        It is a folder, its folder is not there, or it cannot be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise BitwrightError(f"{option} {path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise BitwrightError(f"{option} {path}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BitwrightError(f"{option} {path}: cannot be written: permission denied")


# Precisions


@lru_cache(maxsize=8)
def operations(graph: Graph) -> tuple[Operation, ...]:
    """What an engine does for a network, in execution order.

    Raises
    ------
    NetworkError
        A node is none that an engine runs.
    """
    return tuple(lower(graph, dict(_views(graph))))


@lru_cache(maxsize=8)
def _views(graph: Graph) -> Mapping[str, View]:
    return views(graph)


def _fits(tensor: Format, stored: Format, *, halves: bool) -> bool:
    """Whether a tensor's codes can be stored in a format, shifted or, if allowed, halved."""
    if stored.contains(tensor.values):
        return True
    if isinstance(tensor, Bipolar):
        return halves and stored.contains(np.array([stored.min, stored.min + 1]))
    # An unsigned tensor is stored less an offset, which the biases make up for.
    return isinstance(tensor, Int) and isinstance(stored, Int) and tensor.bits <= stored.bits


@cache
def _rank(unit: str, precision: Precision) -> tuple[float, ...] | None:
    """What a precision costs on a unit, the least first; None where no engine can have it.

    Cycles for each term; whether weights lack a zero, which terms could be filled up with; bits.
    """
    architecture = UNITS[unit]
    if not architecture.supported(precision):
        return None
    spec = architecture(lanes=_LANES, precisions=(precision,))
    storage = Storage.of(spec, precision)
    if not storage.planar and storage.bits & (storage.bits - 1):
        return None
    a, w = precision
    no_zero = not w.contains(np.zeros(1, np.int64))
    return 1 / spec.macs_per_cycle(precision), no_zero, a.bits * w.bits, a.bits, w.min >= 0


# Signed ones hold unsigned tensors as well, by an offset; so one sign is enough.
_ACTIVATIONS: tuple[Format, ...] = (Bipolar(), *map(Int, range(1, 9)), Ternary())
_WEIGHTS: tuple[Format, ...] = (
    Bipolar(),
    *map(Int, range(1, 17)),
    *(Int(bits, signed=False) for bits in range(1, 17)),
    Ternary(),
    *map(PowerOfTwo, range(2, 7)),
)


@dataclass
class _Place:
    """Tensors that are stored in one way: who writes and who reads them.

    They lie in one place, as those that a Reshape joins, or one operation reads them, as both of a sum.
    """

    tensors: list[TensorInfo]
    writers: list[Operation]
    readers: list[Operation]

    def holds(self, stored: Format) -> bool:
        """Whether the engine can write it in that format, and the tensors are the same afterwards."""
        for writer in self.writers:
            if isinstance(writer.quantiser, Requantise) and not isinstance(stored, Int):
                return False
            if isinstance(writer.quantiser, Thresholds) and len(stored.values) - 1 > MAX_THRESHOLDS:
                return False
        # Where sums are scaled, what is stored by halves would need half a bias.
        halves = not any(isinstance(reader.quantiser, Requantise) for reader in self.readers)
        return all(_fits(tensor.format, stored, halves=halves) for tensor in self.tensors if tensor.format)


def _places(graph: Graph) -> list[_Place]:
    """Every place that holds codes, in the order in which they are made; no accumulators."""
    found = _views(graph)
    root = {view.leader: view.leader for view in found.values()}
    for operation in operations(graph):
        kept, *others = dict.fromkeys(root[found[source].leader] for source in operation.sources)
        root = {place: kept if first in others else first for place, first in root.items()}
    places = {first: _Place([], [], []) for first in root.values()}
    for name, view in found.items():
        places[root[view.leader]].tensors.append(graph.tensors[name])
    for operation in operations(graph):
        places[root[found[operation.source].leader]].readers.append(operation)
        places[root[found[operation.output].leader]].writers.append(operation)
    return [place for place in places.values() if all(writer.quantiser for writer in place.writers)]


def _multiplies(operation: Operation) -> bool:
    """Whether it has weights of the network's own; pools, sums and tables have none."""
    return operation.macs > 0


def _work(operation: Operation) -> int:
    """Products of an operation."""
    return operation.channels * operation.reduction * prod(operation.result_map) * prod(operation.window)


def layer_precisions(graph: Graph, unit: str) -> dict[str, Precision]:
    """The precision that each layer needs on a unit, by the node's name.

    Of those that the unit supports and that hold the layer's weights and activations, the one of the fewest
    cycles; among equals one with a zero weight, then the narrowest. All that read a tensor read it in one
    format, and both operands of a sum are in one. Pools, sums and tables run at a precision that a layer has,
    where one holds them, and so do layers that would be no quicker at their own. A result that no layer reads
    and that is stored in no format of these has an entry too, by the tensor's name.

    Parameters
    ----------
    graph
        The network.
    unit
        Name of the unit.

    Raises
    ------
    NetworkError
        The unit has no precision for a layer or tensor; the message names it.
    """
    found: dict[str, Precision] = {}
    others: list[_Place] = []
    unread: list[_Place] = []
    for place in _places(graph):
        layers = [reader for reader in place.readers if _multiplies(reader)]
        if not layers:
            (others if place.readers else unread).append(place)
            continue
        best: tuple[tuple[float, ...], dict[str, Precision]] | None = None
        for activation in filter(place.holds, _ACTIVATIONS):
            chosen: dict[str, Precision] = {}
            total: NDArray[np.float64] = np.zeros(5)
            for node in layers:
                options = _weight_options(unit, activation, node)
                if not options:
                    break
                cost, chosen[node.name] = min(options, key=lambda option: option[0])
                total += np.array(cost) * _work(node)
            else:
                if not all(_weight_options(unit, activation, node) for node in place.readers):
                    continue
                if best is None or tuple(total) < best[0]:
                    best = tuple(total), chosen
        if best is None:
            raise _nothing_holds(unit, place)
        found |= best[1]
        if len(layers) < len(place.readers):
            others.append(place)
    found = _without_idle(graph, unit, found)
    for place in others:
        found |= _of_the_rest(unit, place, found)
    for place in unread:
        if any(place.holds(precision.activation) for precision in found.values()):
            continue
        # Nothing is multiplied at it: a weight format that is there already costs least.
        there = tuple(dict.fromkeys(precision.weight for precision in found.values()))
        options = _storing(unit, place, there) or _storing(unit, place, _WEIGHTS)
        if not options:
            raise _nothing_holds(unit, place)
        found[place.tensors[0].name] = min(options, key=lambda option: option[0])[1]
    return found


def _without_idle(graph: Graph, unit: str, found: Mapping[str, Precision]) -> dict[str, Precision]:
    """The same, where a layer has another's wider weights if narrower ones make it no quicker."""
    kept = dict(found)
    for operation in operations(graph):
        own = found.get(operation.name)
        if own is None:
            continue
        rank = _rank(unit, own)
        assert rank is not None
        wider = [
            precision
            for precision in found.values()
            if precision.activation == own.activation
            and _has(precision.weight, operation)
            and (there := _rank(unit, precision)) is not None
            and there[:2] <= rank[:2]
        ]
        kept[operation.name] = max(wider, key=lambda precision: precision.weight.bits)
    return kept


def _of_the_rest(unit: str, place: _Place, found: Mapping[str, Precision]) -> dict[str, Precision]:
    """Precisions of pools, sums and tables: of what is there already, or else as of layers."""
    rest = [reader for reader in place.readers if reader.name not in found]
    fixed = {found[reader.name].activation for reader in place.readers if reader.name in found}
    there = set(found.values())
    best: tuple[tuple[float, ...], dict[str, Precision]] | None = None
    for activation in fixed or filter(place.holds, _ACTIVATIONS):
        chosen: dict[str, Precision] = {}
        total: NDArray[np.float64] = np.zeros(6)
        for node in rest:
            options = _weight_options(unit, activation, node)
            if not options:
                break
            new, cost, chosen[node.name] = min(
                ((precision not in there, cost, precision) for cost, precision in options),
                key=lambda option: option[:2],
            )
            total += np.array((new, *cost)) * _work(node)
        else:
            if best is None or tuple(total) < best[0]:
                best = tuple(total), chosen
    if best is None:
        raise _nothing_holds(unit, place)
    return best[1]


def _weight_options(
    unit: str, activation: Format, node: Operation
) -> list[tuple[tuple[float, ...], Precision]]:
    return [
        (rank, precision)
        for weight in _WEIGHTS
        if _has(weight, node)
        and (rank := _rank(unit, precision := Precision(activation, weight))) is not None
    ]


def _storing(
    unit: str, place: _Place, weights: Sequence[Format]
) -> list[tuple[tuple[float, ...], Precision]]:
    return [
        (rank, precision)
        for activation in filter(place.holds, _ACTIVATIONS)
        for weight in weights
        if (rank := _rank(unit, precision := Precision(activation, weight))) is not None
    ]


def _nothing_holds(unit: str, place: _Place) -> NetworkError:
    """Says which layer or tensor a unit has no precision for."""
    supports = f"{unit} supports {UNITS[unit].supports}"
    for node in place.readers:
        if not any(_weight_options(unit, activation, node) for activation in _ACTIVATIONS):
            values = np.unique(node.weights)
            apart = ", and 0 between groups of channels," if node.groups > 1 and 0 not in values else ""
            return NetworkError(
                f"node '{node.name}'",
                f"weights {values[0]}..{values[-1]} ({len(values)} values){apart} fit no format of {unit}",
                supports,
            )
    where = f"node '{place.readers[0].name}'" if place.readers else f"tensor '{place.tensors[0].name}'"
    formats = " and ".join(dict.fromkeys(str(tensor.format) for tensor in place.tensors))
    return NetworkError(where, f"activations of {formats} have no precision of {unit}", supports)


def engine_precisions(graph: Graph, unit: str) -> tuple[Precision, ...]:
    """What an engine with that unit must be built for to run a network: see :func:`layer_precisions`.

    Raises
    ------
    NetworkError
        The unit has no precision for a layer or tensor; the message names it.
    """
    return tuple(dict.fromkeys(layer_precisions(graph, unit).values()))


# Engines


def quantisers(graph: Graph) -> tuple[str, ...]:
    """What becomes of the sums of a network's layers, as a configuration names it."""
    names = {Requantise: "requantise", Thresholds: "thresholds", type(None): "accumulators"}
    needed = {names[type(operation.quantiser)] for operation in operations(graph)}
    return tuple(name for name in names.values() if name in needed)


def _widest(graph: Graph) -> tuple[str, int]:
    """The layer with the widest products, and how many products of single bits one has.

    Operands count in their own formats, weights in the narrowest that holds them.
    """
    layers = [operation for operation in operations(graph) if _multiplies(operation)] or operations(graph)
    widths = {}
    for node in layers:
        activation = graph.tensors[node.source].format
        assert activation is not None
        weight = min(format.bits for format in (Bipolar(), *map(Int, range(1, 33))) if _has(format, node))
        widths[node.name] = activation.bits * weight
    if not widths:
        raise NetworkError(f"graph '{graph.name}'", "has no layer that an engine computes")
    name = max(widths, key=lambda name: widths[name])
    return name, widths[name]


def _has(format: Format, node: Operation) -> bool:
    """Whether weights have a format, with the zeros that keep groups of channels apart."""
    return format.contains(node.weights) and (node.groups == 1 or has_zero(format))


def multiplier_blocks(config: EngineConfig) -> int:
    """Multiplier blocks that an engine asks for."""
    blocks = 0
    if getattr(config.unit, "multiplier", None) == "dsp":
        blocks = config.rows * config.cols * config.lanes * config.unit.outputs
    if "requantise" in config.quantisers:
        blocks += config.requantisers * (4 if config.requantise_cycles == 1 else 1)
    return blocks


def fitted(
    graph: Graph,
    unit: str,
    base: EngineConfig,
    *,
    target: Target | None = None,
    explicit: Sequence[str] = (),
    lanes: int | None = None,
    bit_products: int = BIT_PRODUCTS,
    needed: Mapping[str, Precision] | None = None,
    tight: bool = False,
) -> EngineConfig:
    """A configuration with that unit on which the network runs.

    From the unit follow

    - ``precisions``: :func:`engine_precisions`, in a spelling that the unit supports;
    - ``lanes``: the most with which a column makes at most ``bit_products`` products of single bits in a
      cycle at the network's widest layer, or the fewest that there can be where that is more. A product of
      an a-bit activation and a w-bit weight counts a * w, whatever the unit pads it to;
    - ``multiplier``: blocks where the device has as many, else LUTs;

    from the network ``quantisers``, ``reduction``, and the depths of the scratchpads: room for two row groups
    and two column groups of the largest layer, at least a block RAM; from the device ``target``, its family's
    carry cells. Everything else is the base's.

    A network with convolutions has ``convolution``, of ``combine`` what it needs, ``depthwise`` and
    ``packing`` where it gains by them on the unit, and scratchpads for two lines of the largest layer's
    results.

    Parameters
    ----------
    graph
        The network.
    unit
        Name of the unit.
    base
        Where all other keys come from.
    target
        The device.
    explicit
        Keys that keep the base's value in any case.
    lanes
        That width instead.
    bit_products
        Of a column and cycle.
    needed
        What :func:`layer_precisions` said of graph and unit, where that is known.
    tight
        Whether scratchpads of a network with convolutions hold two groups of pixels and not two lines, and
        one group of columns.

    Raises
    ------
    NetworkError
        The unit has no precision for a layer.
    ConfigError
        No number of lanes makes an engine.
    """
    layers = layer_precisions(graph, unit) if needed is None else needed
    precisions = tuple(dict.fromkeys(layers.values()))
    widest, bits = _widest(graph)
    changes: dict[str, Any] = {
        "pe": unit,
        "target": target.family if target else base.target,
        "precisions": tuple(map(str, precisions)),
        "quantisers": quantisers(graph),
        "reduction": max(operation.reduction for operation in operations(graph)),
    }
    if unit != "parallel":
        changes["multiplier"] = "dsp"
    # The feeder's windows cost what a network of matrix products has no use for.
    changes["convolution"] = any(map(_windowed, operations(graph)))
    if changes["convolution"]:
        kinds = {operation.combine.name.lower() for operation in operations(graph)}
        changes["combine"] = tuple(kind for kind in ("maximum", "sum") if kind in kinds)
        # Both do nothing where the unit's words are of another kind.
        changes |= {"depthwise": True, "packing": True}
    changes = {key: value for key, value in changes.items() if key not in explicit}

    def engine(lanes: int) -> EngineConfig:
        config = base.replace(lanes=lanes, **changes)
        for operation in operations(graph):
            precision = layers[operation.name]
            terms = config.unit.elements(precision)
            if operation.input_channels % terms and not has_zero(precision.weight):
                raise ConfigError(
                    "lanes",
                    lanes,
                    f"such that steps of {terms} terms fill the {operation.reduction} of a dot product",
                )
        return config

    config = (
        engine(lanes) if lanes is not None else _widened(unit, layers[widest], bits, bit_products, engine)
    )
    if target and "multiplier" not in explicit and multiplier_blocks(config) > target.available.dsp:
        config = _without_blocks(config)
    config = _without_unused(graph, config, layers, explicit)
    return _deepened(graph, config, layers, target, explicit, tight)


def _windowed(operation: Operation) -> bool:
    """Whether it is more than a matrix product."""
    return not (operation.pointwise and operation.dense and operation.combine is Combine.NONE)


def _without_unused(
    graph: Graph, config: EngineConfig, layers: Mapping[str, Precision], explicit: Sequence[str]
) -> EngineConfig:
    """The same without chains and packing where no layer runs by them."""
    changes = {}
    if config.depthwise and "depthwise" not in explicit:
        changes["depthwise"] = config.chained > 0 and any(
            operation.depthwise and operation.kernel != (1, 1) and operation.combine is Combine.NONE
            for operation in operations(graph)
        )
    if config.packing and "packing" not in explicit:
        # Of what the host writes only
        made = {view.leader for view in _written(graph)}
        changes["packing"] = any(
            _views(graph)[operation.source].leader not in made
            and packs(operation, config, config.storages[layers[operation.name].activation])
            for operation in operations(graph)
        )
    return config.replace(**changes) if changes else config


def _written(graph: Graph) -> list[View]:
    """The views of what the engine writes."""
    found = _views(graph)
    return [found[operation.output] for operation in operations(graph)]


def _without_blocks(config: EngineConfig) -> EngineConfig:
    """The same with multipliers made of LUTs, where the unit has a choice."""
    has_choice = "multiplier" in UNITS[config.pe].__dataclass_fields__
    return config.replace(multiplier="lut") if has_choice else config


def _widened(
    unit: str, precision: Precision, bits: int, bit_products: int, engine: Callable[[int], EngineConfig]
) -> EngineConfig:
    """The engine whose columns make as many products of single bits as allowed, or just more."""
    spec = _spec(unit, precision)
    # Rates grow with lanes; a unit that needs some lanes for itself is the same per lane.
    rate = bits * spec.macs_per_cycle(precision) / spec.lanes
    most = min(256, int(bit_products / rate))
    error: BitwrightError | None = None
    for lanes in (*filter(_even, range(most, 0, -1)), *filter(_even, range(most + 1, 257))):
        try:
            return engine(lanes)
        except ConfigError as problem:
            error = error or problem
    assert error is not None
    raise error


def _even(lanes: int) -> bool:
    """Whether the odd part of a number is at most 7: others hardly ever fill words, and take long to try."""
    return lanes // (lanes & -lanes) <= 7


@cache
def _spec(unit: str, precision: Precision) -> DotProduct:
    return UNITS[unit](lanes=_LANES, precisions=(precision,))


def _deepened(
    graph: Graph,
    config: EngineConfig,
    needed: Mapping[str, Precision],
    target: Target | None,
    explicit: Sequence[str],
    tight: bool,
) -> EngineConfig:
    """With scratchpads that hold two groups of the largest layer's rows and columns, or two lines."""
    least = _MIN_DEPTH[target.family if target else "ecp5"]
    geometry = geometries(config)
    keys = ("activation_depth", "patch_depth", "weight_depth", "channel_depth", "output_depth")
    depths = dict.fromkeys(keys, least)
    written = {view.leader for view in _written(graph)} if config.convolution else set()
    for node in operations(graph):
        schedule = config.schedules[config.formats.index(needed[node.name])]
        height, width = node.result_map
        # A tile of results, and how many there are at a time.
        pixels = min(width, config.rows) if tight or not config.convolution else width
        copies = min(2, height * -(-width // pixels))
        lines = min(node.map[0], node.reach[0] + 1)
        across = min(node.map[1], (pixels - 1) * node.stride[1] + node.reach[1] + 1)
        if not config.convolution:
            pixels = across = config.rows
        block = schedule.stored_steps.size
        channels = node.input_channels
        if _views(graph)[node.source].leader in written:
            # Results have room for whole groups of columns.
            channels = -(-channels // config.group_channels) * config.group_channels
        words = _rounded(
            -(-channels // block) * schedule.activation_words, geometry[Buffer.ACTIVATIONS].ratio
        )
        group = config.chained or config.group_channels
        spans = span_blocks(node, group, block)
        patch = prod(node.kernel) * spans * schedule.activation_words
        steps = prod(node.kernel) * spans * len(schedule.stored_steps)
        groups = -(-node.channels // config.group_channels)
        result, result_words = _result(config, node)
        row_words = -(-result.row_bits(groups * config.group_channels) // config.row_bits)
        asked = {
            "activation_depth": copies * lines * across * words * len(node.sources),
            "patch_depth": 2 * patch,
            "weight_depth": min(1 if tight and config.convolution else 2, groups)
            * _rounded(steps * schedule.weight_words, geometry[Buffer.WEIGHTS].ratio),
            "channel_depth": min(2, groups) * config.group_channels * result_words,
            "output_depth": copies * pixels * row_words * (config.row_bits // config.bus_bits),
        }
        depths = {key: max(depth, 1 << (asked[key] - 1).bit_length()) for key, depth in depths.items()}
    return config.replace(**{key: min(value, 65536) for key, value in depths.items() if key not in explicit})


def _rounded(words: int, ratio: int) -> int:
    return -(-words // ratio) * ratio


def _result(config: EngineConfig, node: Operation) -> tuple[Storage, int]:
    """How a layer's results may be stored, at most, and words of parameters that a channel of them takes."""
    if node.quantiser is None:
        return ACCUMULATORS, 1
    name = "requantise" if isinstance(node.quantiser, Requantise) else "thresholds"
    modes = [mode for mode in config.modes if mode.quantiser == name]
    if not modes:
        raise NetworkError(f"node '{node.name}'", f"the engine has no {name} for its results")
    storage = max((mode.storage for mode in modes), key=lambda storage: storage.bits)
    return storage, max(mode.channel_words for mode in modes)


def check_lanes(
    graph: Graph,
    texts: Sequence[str],
    lanes: Mapping[str, int],
    base: EngineConfig,
    *,
    target: str | None = None,
    explicit: Sequence[str] = (),
) -> None:
    """Complain of lanes that no engine can have, before anything is measured.

    Of a unit that is named; where all units are given as many, of a number that none of them can have.

    Parameters
    ----------
    graph, base, target, explicit
        As :func:`compare` takes them.
    texts, lanes
        What the user wrote, and what :func:`parse_lanes` made of it.

    Raises
    ------
    BitwrightError
        The message has what the user wrote.
    """
    written = {text.rpartition("=")[0]: text for text in texts}
    problems = {}
    for unit, number in lanes.items():
        try:
            fitted(
                graph,
                unit,
                base,
                target=TARGETS[target] if target else None,
                explicit=explicit,
                lanes=number,
            )
        except ConfigError as error:
            problems[unit] = BitwrightError(f"--lanes {written.get(unit, number)}: {unit}: {error}")
        except NetworkError:
            continue  # the unit cannot run the network at all, which the comparison says
    named = [unit for unit in problems if unit in written]
    if named or len(problems) == len(lanes) > 0:
        raise problems[(named or list(problems))[0]]


def holding(error: NetworkError, graph: Graph, config: EngineConfig) -> NetworkError:
    """The mapper's complaint that no precision holds a layer, with the precisions that would hold them all.

    Parameters
    ----------
    error
        What :func:`~bitwright.gen.mapper.compile_graph` raised. Any other complaint is returned as it is.
    graph, config
        What it was given.
    """
    built, separator, _ = error.hint.partition("; choose a configuration with a wider")
    if not separator:
        return error
    try:
        needed = [str(precision) for precision in engine_precisions(graph, config.pe)]
        config.replace(precisions=tuple(needed))
    except NetworkError as other:
        return NetworkError(error.where, error.what, f"{built}; {other.hint or other.what}")
    except ConfigError:
        return error
    return NetworkError(
        error.where,
        error.what,
        f"{built}; precisions = {json.dumps(needed)} holds the network on {config.pe}",
    )


# Running


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a network does on the engine with one unit.

    Parameters
    ----------
    unit
        Its name.
    config
        The engine.
    bit_products
        Products of single bits of a column and cycle at the widest layer.
    predicted_cycles, cycles
        Of one inference: by the cycle model, and as the RTL counted them, on average.
    inferences
        How many were run.
    tensors_equal, tensors_compared
        Tensors that are equal to the golden model's in every element, of how many; over all inferences.
    accuracy
        Share of inputs classified right, where labels are known.
    synthesis
        As :meth:`~bitwright.gen.synthesis.SynthesisResult.as_json`; None where it was left out.
    inferences_per_second, inferences_per_second_per_lut
        At the median clock; None where that is not known.
    """

    unit: str
    config: EngineConfig
    bit_products: float
    predicted_cycles: int
    cycles: float
    inferences: int
    tensors_equal: int
    tensors_compared: int
    accuracy: float | None
    synthesis: dict[str, Any] | None = None
    inferences_per_second: float | None = None
    inferences_per_second_per_lut: float | None = None

    @property
    def fmax_mhz(self) -> float | None:
        """Median clock of the seeds."""
        clocks = self.synthesis["fmax_mhz"] if self.synthesis else []
        return float(np.median(clocks)) if clocks else None

    @property
    def title(self) -> str:
        """The unit, and what its multipliers are made of where there is a choice."""
        return f"{self.unit}, {self.config.multiplier}" if self.unit == "parallel" else self.unit

    def as_json(self) -> dict[str, Any]:
        """The fields, the configuration key by key."""
        return asdict(self) | {"fmax_median_mhz": self.fmax_mhz}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A unit without a result.

    Parameters
    ----------
    unit
        Its name.
    reason
        Why, naming node, tensor or key.
    failed
        Whether something went wrong that should not have; the unit does not support the network otherwise.
    """

    unit: str
    reason: str
    failed: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What :func:`compare` found.

    Parameters
    ----------
    network
        Its name.
    target
        The device, if any.
    bit_products
        What lanes were chosen for.
    results, refusals
        Each unit is in one of them.
    """

    network: str
    target: str | None
    bit_products: int
    results: tuple[Result, ...]
    refusals: tuple[Refusal, ...]

    @property
    def good(self) -> bool:
        """Whether some unit ran the network, no tensor differs and nothing went wrong."""
        return (
            bool(self.results)
            and all(result.tensors_equal == result.tensors_compared for result in self.results)
            and not any(refusal.failed for refusal in self.refusals)
        )

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "network": self.network,
            "target": self.target,
            "bit_products": self.bit_products,
            "results": [result.as_json() for result in self.results],
            "refusals": [asdict(refusal) for refusal in self.refusals],
            "pareto": [result.unit for result in pareto(self.results)],
            "note": "cycles: of one inference, counted by the RTL; resources and clock: nextpnr's",
        }


def compare(
    graph: Graph,
    inputs: NDArray[Any],
    *,
    units: Sequence[str],
    base: EngineConfig,
    target: str | None = None,
    explicit: Sequence[str] = (),
    lanes: Mapping[str, int] | None = None,
    bit_products: int = BIT_PRODUCTS,
    labels: NDArray[Any] | None = None,
    simulator: str = "verilator",
    latency: int = 20,
    seeds: int = 1,
    synth: bool = True,
    jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Run a network on the engine of each unit, and synthesise it.

    Parameters
    ----------
    graph, inputs, labels
        The network, what is put in, and the class of each input where known.
    units
        Names of the units.
    base, target, explicit, bit_products
        See :func:`fitted`.
    lanes
        Width of units that do not get theirs from ``bit_products``.
    simulator, latency
        What runs the Verilog, and after how many cycles the memory answers.
    seeds
        Placements of each.
    synth
        Whether to synthesise at all.
    jobs
        Engines under way at a time; what is simulated is one of them.
    progress
        Told what is being done.

    Raises
    ------
    ToolError
        A tool that all units need is missing.
    """
    say = progress or (lambda text: None)
    device = TARGETS[target] if target else None
    if synth and device:
        versions(("yosys", f"nextpnr-{device.family}"), progress=say)
    one_at_a_time = threading.Lock()  # Amaranth is not made for threads

    def run(unit: str) -> Result | Refusal:
        try:
            config = fitted(
                graph,
                unit,
                base,
                target=device,
                explicit=explicit,
                lanes=(lanes or {}).get(unit),
                bit_products=bit_products,
            )
            say(f"{unit}: mapping")
            program = compile_graph(graph, config)
        except BitwrightError as error:
            return Refusal(unit=unit, reason=str(error), failed=False)
        try:
            with one_at_a_time:
                say(f"{unit}: elaborating the engine")
                verilog = emit(config)
                say(f"{unit}: simulating")
                execution = execute(
                    program,
                    graph,
                    inputs,
                    verilog,
                    simulator=simulator,
                    timing=MemoryTiming(latency=latency),
                )
            found = None
            if synth and target:
                say(f"{unit}: synthesising for {target}")
                found = synthesised(verilog, target, seeds)
        except BitwrightError as error:
            return Refusal(unit=unit, reason=str(error), failed=True)
        say(f"{unit}: done")
        return _result_of(unit, graph, program, execution, labels, found)

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, unit) for unit in dict.fromkeys(units)]
        try:
            outcomes = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Comparison(
        network=graph.name,
        target=target,
        bit_products=bit_products,
        results=tuple(outcome for outcome in outcomes if isinstance(outcome, Result)),
        refusals=tuple(outcome for outcome in outcomes if isinstance(outcome, Refusal)),
    )


def _result_of(
    unit: str,
    graph: Graph,
    program: Program,
    execution: Execution,
    labels: NDArray[Any] | None,
    synthesis: dict[str, Any] | None,
) -> Result:
    report = simulation_report(program, graph, execution, config=unit, labels=labels)
    differing = 0
    for name in execution.mismatches:
        wrong = execution.outputs[name] != execution.expected[name]
        differing += int(wrong.reshape(execution.inferences, -1).any(axis=1).sum())
    config = program.config
    widest, bits = _widest(graph)
    plan = next(plan for plan in program.layers if plan.name == widest)
    # A layer some of whose columns run at fewer bits has several; the slowest holds its widest products.
    precisions = map(Precision.parse, plan.precision.split(" + "))
    macs = min(config.unit.macs_per_cycle(precision) for precision in precisions)
    speed = throughput(report, synthesis)["inferences_per_second"] if synthesis else None
    return Result(
        unit=unit,
        config=config,
        bit_products=macs * bits,
        predicted_cycles=program.predicted_cycles,
        cycles=report["cycles_per_inference"],
        inferences=execution.inferences,
        tensors_equal=execution.tensors_compared - differing,
        tensors_compared=execution.tensors_compared,
        accuracy=report["accuracy"],
        synthesis=synthesis,
        inferences_per_second=speed,
        inferences_per_second_per_lut=speed / synthesis["lut"] if speed and synthesis else None,
    )


def excess(synthesis: Mapping[str, Any]) -> str:
    """What of a design that does not fit is too much, in words."""
    needs = Resources(**{key: synthesis[key] for key in asdict(Resources())})
    over = [
        f"{getattr(needs, key):,} {key.upper()} of {synthesis['available'][key]:,}"
        for key in synthesis["excess"]
    ]
    return "does not fit: " + (", ".join(over) or str(synthesis["obstacle"]))


# Drawing


def pareto(results: Sequence[Result]) -> list[Result]:
    """Those that no other one beats in LUTs and in inferences per second, the smallest first."""
    return list(_front(results))


def _front(results: Sequence[Result]) -> Iterator[Result]:
    best = 0.0
    placed = [
        (r.synthesis["lut"], -r.inferences_per_second, r)
        for r in results
        if r.synthesis and r.inferences_per_second
    ]
    for _, speed, result in sorted(placed, key=lambda item: item[:2]):
        if -speed > best:
            best = -speed
            yield result


def draw(path: Path, comparison: Comparison) -> None:
    """Draw inferences per second against LUTs; those on the Pareto front are filled, and joined by a line.

    Raises
    ------
    BitwrightError
        There is no matplotlib, it cannot draw such a file, or the file cannot be written.
    """
    figure = check_plot(path)
    axes = figure.add_subplot(
        xlabel=f"LUTs of the engine, {comparison.target}",
        ylabel="inferences per second",
        title=f"{comparison.network}: {comparison.bit_products} bit products per column and cycle",
        xscale="log",
        yscale="log",
    )
    axes.grid(visible=True, which="both", alpha=0.2)
    front = pareto(comparison.results)
    points = [
        (result.synthesis["lut"], result.inferences_per_second, result)
        for result in comparison.results
        if result.synthesis and result.inferences_per_second
    ]
    for index, (lut, speed, result) in enumerate(points):
        colour = f"C{index}"
        face = colour if result in front else "none"
        axes.scatter([lut], [speed], marker="o", s=50, edgecolors=colour, facecolors=face)
        axes.annotate(
            f"{result.title} ({result.config.lanes} lanes)",
            (lut, speed),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8,
        )
    ahead = [(lut, speed) for result in front for lut, speed, other in points if other is result]
    axes.plot(
        [lut for lut, _ in ahead],
        [speed for _, speed in ahead],
        color="black",
        alpha=0.4,
        drawstyle="steps-post",
        label="Pareto front",
    )
    axes.legend(fontsize=8)
    try:
        figure.savefig(path)
    except OSError as error:
        raise BitwrightError(f"{path}: cannot be written: {error.strerror}") from None
