"""Which precision each operation runs at, and how each place is stored."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Bipolar, Format, Int
from bitwright.hw.pe.contract import Precision
from bitwright.hw.sched.isa import Combine
from bitwright.hw.storage import ACCUMULATORS, Storage
from bitwright.sim.graph import Graph, NetworkError, Requantise, TensorInfo, Thresholds

from .layer import Layer, has_zero, span_blocks
from .lowering import Operation
from .places import View

__all__ = ["affine_of", "choose_precisions", "mode_of", "parts", "quickest"]


def affine_of(tensor: Format, stored: Format) -> tuple[int, int] | None:
    """Scale and offset by which a tensor's codes are stored in a format; None where they do not fit it."""
    if stored.contains(np.array([tensor.min, tensor.max]) if isinstance(stored, Int) else tensor.values):
        return 1, 0
    if isinstance(tensor, Bipolar) and stored.contains(np.array([stored.min, stored.min + 1])):
        return 2, -1 - 2 * stored.min
    if isinstance(tensor, Int) and isinstance(stored, Int) and tensor.bits <= stored.bits:
        offset = tensor.min - stored.min
        return (1, offset) if tensor.max - offset <= stored.max else None
    return None


def choose_precisions(
    graph: Graph, config: EngineConfig, operations: Sequence[Operation], views: Mapping[str, View]
) -> tuple[dict[str, Precision], dict[str, Storage]]:
    """Precision of each operation, and how each place is stored: the quickest that hold.

    All that read a place read it in one format.

    Raises
    ------
    NetworkError
        No precision of the engine holds a tensor or a node's weights; it is named.
    """
    # Places that one operation reads both of are stored in the same way: they are one class.
    root = {view.leader: view.leader for view in views.values()}
    for operation in operations:
        kept, *others = {root[views[source].leader] for source in operation.sources}
        root = {place: kept if first in others else first for place, first in root.items()}
    readers: dict[str, list[Operation]] = {first: [] for first in root.values()}
    writers: dict[str, list[Operation]] = {first: [] for first in root.values()}
    for operation in operations:
        readers[root[views[operation.source].leader]].append(operation)
        writers[root[views[operation.output].leader]].append(operation)
    precisions: dict[str, Precision] = {}
    chosen_storage: dict[str, Storage] = {}
    for place, reading in readers.items():
        writing = writers[place]
        raw = [writer for writer in writing if writer.quantiser is None]
        if raw:
            if reading:
                raise NetworkError(f"node '{reading[0].name}'", "reads accumulators that are not quantised")
            mode_of(raw[0], config, ACCUMULATORS)
            chosen_storage[place] = ACCUMULATORS
            continue
        sharing = [graph.tensors[name] for name, view in views.items() if root[view.leader] == place]
        best: tuple[int, int, Storage, dict[str, Precision]] | None = None
        for stored, storage in config.storages.items():
            affine = [affine_of(tensor.format, stored) for tensor in sharing if tensor.format]
            if None in affine or any(_mode_index(writer, config, storage) is None for writer in writing):
                continue
            if not all(_padding_fits(each, graph.tensors[each.source], stored) for each in reading):
                continue
            # What is stored by halves cannot be multiplied by a factor and rounded: the bias may be odd.
            halved = any(found is not None and found[0] > 1 for found in affine)
            if halved and any(isinstance(each.quantiser, Requantise) for each in reading):
                continue
            chosen = {each.name: quickest(each, config, stored) for each in reading}
            found = {name: precision for name, precision in chosen.items() if precision is not None}
            if len(found) < len(chosen):
                continue
            cycles = sum(_beats(each, config, found[each.name]) for each in reading)
            if best is None or (cycles, stored.bits) < best[:2]:
                best = cycles, stored.bits, storage, found
        if best is None:
            for writer in writing:
                mode_of(writer, config, None)
            raise _no_precision(config, sharing, reading)
        chosen_storage[place] = best[2]
        precisions |= best[3]
    storages = {place: chosen_storage[first] for place, first in root.items()}
    return precisions, storages


def _padding_fits(operation: Operation, tensor: TensorInfo, stored: Format) -> bool:
    """Whether what an operation pads with can be stored; it need not be one of the tensor's codes."""
    if not operation.pads or tensor.format is None:
        return True
    affine = affine_of(tensor.format, stored)
    if affine is None:
        return False
    code, rest = divmod(operation.pad_value - affine[1], affine[0])
    return rest == 0 and stored.contains(np.array([code]))


_QUANTISERS = {Requantise: "requantise", Thresholds: "thresholds", type(None): "accumulators"}


def _mode_index(operation: Operation, config: EngineConfig, storage: Storage) -> int | None:
    """The mode that makes a layer's results; None where the engine has none."""
    quantiser = _QUANTISERS[type(operation.quantiser)]
    for index, mode in enumerate(config.modes):
        if (mode.quantiser, mode.storage) == (quantiser, storage):
            return index
    return None


def mode_of(operation: Operation, config: EngineConfig, storage: Storage | None) -> int:
    """The same, for any storage if none is given; refused by name where there is none."""
    quantiser = _QUANTISERS[type(operation.quantiser)]
    storages = [storage] if storage else [mode.storage for mode in config.modes]
    found = [index for each in storages if (index := _mode_index(operation, config, each)) is not None]
    if not found:
        what = {
            "requantise": "its sums are scaled",
            "thresholds": "its sums are compared with thresholds",
            "accumulators": "its sums are results as they are",
        }[quantiser]
        raise NetworkError(
            f"node '{operation.name}'",
            f"{what}, which the engine cannot do",
            f"choose a configuration that has {quantiser} among its quantisers"
            + (", and precisions of at most 4 bits" if quantiser == "thresholds" else ""),
        )
    return found[0]


def _beats(operation: Operation, config: EngineConfig, precision: Precision) -> int:
    order = config.schedules[config.formats.index(precision)].stored_steps
    blocks = span_blocks(operation, config.group_channels, order.size)
    return (
        blocks * prod(operation.kernel) * len(order) * len(config.unit.beats(precision)) * operation.channels
    )


def quickest(operation: Operation, config: EngineConfig, stored: Format) -> Precision | None:
    """The precision of the fewest cycles that holds the weights, for activations of that format."""
    fitting = [
        precision
        for precision in config.formats
        if precision.activation == stored and _unfit(operation, config, precision) is None
    ]
    return min(fitting, key=lambda precision: _beats(operation, config, precision), default=None)


def parts(layer: Layer) -> list[tuple[Operation, Precision, int]]:
    """Runs of columns, each at the quickest precision that holds its weights; and where each begins.

    A run is whole groups of columns, as many as begin a bus word and a block of the results.
    """
    config, operation = layer.config, layer.operation
    whole = [(operation, layer.precision, 0)]
    if not operation.dense or operation.combine is Combine.SUM:
        return whole
    unit = next(
        (
            groups
            for groups in range(config.block_groups, layer.col_groups, config.block_groups)
            if layer.granule(groups) % config.granules_per_word == 0
        ),
        None,
    )
    stored = layer.precision.activation
    if unit is None or sum(precision.activation == stored for precision in config.formats) == 1:
        return whole
    runs: list[tuple[int, Precision]] = []  # first group, precision
    for first in range(0, layer.col_groups, unit):
        channels = slice(first * config.group_channels, (first + unit) * config.group_channels)
        precision = quickest(operation.part(channels, operation.name), config, stored)
        assert precision is not None  # that of the layer holds its weights
        if not runs or runs[-1][1] != precision:
            runs.append((first, precision))
    if len(runs) == 1:
        return whole
    parts = []
    for (first, precision), end in zip(
        runs, [*(first for first, _ in runs[1:]), layer.col_groups], strict=True
    ):
        start, stop = first * config.group_channels, min(end * config.group_channels, operation.channels)
        parts.append(
            (operation.part(slice(start, stop), f"{operation.name}[{start}:{stop}]"), precision, first)
        )
    return parts


def _unfit(operation: Operation, config: EngineConfig, precision: Precision) -> tuple[str, str] | None:
    """Why a layer's weights cannot have a precision, and what to do about it."""
    format = precision.weight
    if operation.tail is not None and not format.contains(np.array([0, 1])):
        return f"{format} weights have no 0 and 1 to add another tensor", "choose a wider precision"
    if not format.contains(operation.weights):
        return (
            f"weights {operation.weights.min()}..{operation.weights.max()} do not fit {format}",
            "choose a configuration with a wider precision",
        )
    if has_zero(format):
        return None
    elements = config.unit.stored_steps(precision).size
    if not operation.dense:
        return f"{format} weights have no zero to keep groups of channels apart", "choose a wider precision"
    # What the host has filled a word up with is 0, and 0 times any weight is none.
    nothing = operation.zeros_behind and isinstance(precision.activation, Int)
    if operation.input_channels % elements and not (nothing and not operation.pads):
        return (
            f"{format} weights have no zero to fill up dot products of {operation.input_channels} terms",
            f"they must be a multiple of {elements}: choose another number of lanes",
        )
    return None


def _no_precision(
    config: EngineConfig, sharing: Sequence[TensorInfo], reading: Sequence[Operation]
) -> NetworkError:
    """Says what of a place or of the layers that read it no precision of the engine holds."""
    built = f"the engine is built for {', '.join(config.precisions)}"
    for tensor in sharing:
        assert tensor.format is not None
        if all(affine_of(tensor.format, stored) is None for stored in config.storages):
            return NetworkError(
                f"tensor '{tensor.name}'",
                f"its {tensor.format} fits no activations of the engine",
                f"{built}; choose a configuration with a wider precision",
            )
    for operation in reading:
        source = next((tensor for tensor in sharing if tensor.name == operation.source), sharing[0])
        if not any(_padding_fits(operation, source, stored) for stored in config.storages):
            return NetworkError(
                f"node '{operation.name}'",
                f"pads {source.format} activations with {operation.pad_value}, which the engine cannot store",
                f"{built}; choose a configuration with signed activations of 2 bits or more",
            )
        reasons = [_unfit(operation, config, precision) for precision in config.formats]
        if all(reasons):
            assert reasons[-1] is not None
            what, hint = reasons[-1]
            return NetworkError(f"node '{operation.name}'", what, f"{built}; {hint}")
    names = [operation.name for operation in reading] or [tensor.name for tensor in sharing]
    return NetworkError(
        f"node '{names[0]}'",
        "no precision holds both its activations and its weights",
        f"{built}; choose a configuration with a wider one",
    )
