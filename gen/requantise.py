"""Requantisation after training: gives layers of an integer graph other formats than the network's own.

A layer is told a precision, such as ``a4w2``. Its weights are rounded to the weights' format, and the tensor
that it reads, to the activations' format, by whoever makes that tensor. Multipliers, shifts, biases,
thresholds, tables, scales and zero points follow, so that every code stands for the real number that it stood
for before, up to the rounding. Nothing is trained and no data are looked at: accuracy may fall.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.errors import BitwrightError, ConfigError
from bitwright.hw.formats import Bipolar, Format, Int
from bitwright.hw.pe.contract import Precision
from bitwright.hw.quant.arithmetic import (
    MAX_LEFT_SHIFT,
    MULTIPLIER_BITS,
    quantise_multiplier,
    requantise,
)
from bitwright.hw.quant.combine import FRACTION
from bitwright.sim.graph import (
    LEVEL_MAX,
    LEVEL_MIN,
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
    Product,
    Quantize,
    Requantise,
    Reshape,
    Select,
    TensorInfo,
    Thresholds,
    Transpose,
    Upsample,
    printable,
)

from .lowering import separated
from .program import Program

__all__ = ["converted_input", "matched", "parse_overrides", "requantised", "unmet"]

_CLIPPING = np.linspace(0.1, 1.0, 46)
"""Shares of the greatest weight that are tried as the greatest weight of the new format."""

_Matrix = NDArray[np.int64]
_Recodings = Mapping[str, "_Recoding"]
_Reals = NDArray[np.float64]


# What the user asks for


def parse_overrides(texts: Sequence[str]) -> dict[str, Precision]:
    """Precisions by layer, as the command line is given them.

    Parameters
    ----------
    texts
        ``LAYER=a4w2`` each, or the path of a ``.toml`` file whose table ``[layers]`` has such lines. LAYER is
        a node's name or a glob. Where two are the same, the later counts.

    Raises
    ------
    BitwrightError
        A text is neither, a precision is none, or the file cannot be read or has something else in it.
    """
    overrides: dict[str, Precision] = {}
    for text in texts:
        where = f"--precision {printable(text, 200)}"
        if text.endswith(".toml"):
            pairs = _read(Path(text), where)
        else:
            # A name may contain '=', a precision does not.
            layer, separator, precision = text.rpartition("=")
            if not separator or not layer.strip():
                raise BitwrightError(f"{where}: must be LAYER=PRECISION, such as fc1=a4w2, or a .toml file")
            pairs = {layer.strip(): precision.strip()}
        for layer, precision in pairs.items():
            try:
                parsed = Precision.parse(precision)
            except ValueError as error:
                raise BitwrightError(f"{where}: {printable(str(error))}") from None
            # Moved to the end: where several match a layer, the last counts.
            overrides.pop(layer, None)
            overrides[layer] = parsed
    return overrides


def _read(path: Path, where: str) -> dict[str, str]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BitwrightError(f"{where}: there is no such file") from None
    except tomllib.TOMLDecodeError as error:
        raise BitwrightError(f"{where}: is not valid TOML: {printable(str(error))}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BitwrightError(f"{where}: cannot be read: {printable(str(error))}") from None
    layers = values.get("layers")
    if set(values) != {"layers"} or not isinstance(layers, dict):
        raise BitwrightError(f'{where}: must have one table, [layers], with lines such as fc1 = "a4w2"')
    for name, value in layers.items():
        if not isinstance(value, str):
            raise BitwrightError(
                f"{where}: the precision of '{printable(name, 100)}' must be a text such as \"a4w2\" "
                "(a name with a dot or a slash in it is written in quotes)"
            )
    return layers


def matched(graph: Graph, overrides: Mapping[str, Precision]) -> dict[str, Precision]:
    """The precision of each layer that an override names, by the node's name, in execution order.

    An override is the name of a node or a glob (``*``, ``?``, ``[abc]``). Where several match, the last
    counts.

    Raises
    ------
    NetworkError
        An override matches no layer; the message says which layers there are.
    """
    names = [node.name for node, _ in graph.products()]
    found: dict[str, Precision] = {}
    for pattern, precision in overrides.items():
        # A name may contain what means something in a glob.
        own = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
        if not own:
            close = get_close_matches(pattern, names, 1)
            raise NetworkError(
                f"layer '{pattern}'",
                "the network has none of that name",
                f"there are {', '.join(names) or 'none'}"
                + (f" (did you mean '{close[0]}'?)" if close else ""),
            )
        found |= dict.fromkeys(own, precision)
    return {name: found[name] for name in names if name in found}


def unmet(asked: Mapping[str, Precision], program: Program) -> list[str]:
    """What to warn of: layers that run at more bits than asked for, as the engine or the network needs them.

    Parameters
    ----------
    asked
        From :func:`matched`.
    program
        The requantised network, mapped.
    """
    config = program.config
    found = []
    for plan in program.layers:
        precision = asked.get(plan.name)
        if precision is None:
            continue
        used = [Precision.parse(text) for text in plan.precision.split(" + ")]
        if precision in config.formats:
            # A wider one is as quick, or the tensor is stored so: whatever a sum reads is stored in one way.
            if max(own.activation.bits for own in used) > precision.activation.bits:
                found.append(
                    f"{printable(plan.name, 200)}: asked for {precision}, it runs at {plan.precision}: "
                    "what it reads is stored like a tensor of more bits, to which it is added; "
                    "leave its activations as wide, or make both narrower"
                )
            continue
        if all(
            own.activation.bits <= precision.activation.bits and own.weight.bits <= precision.weight.bits
            for own in used
        ):
            continue
        try:
            config.replace(precisions=(*config.precisions, str(precision)))
            advice = f'add "{precision}" to precisions'
        except ConfigError:
            advice = f"it cannot be built for {precision} beside that"
        found.append(
            f"{printable(plan.name, 200)}: asked for {precision}, the engine has "
            f"{' and '.join(config.precisions)} only: it runs at {plan.precision}; {advice}"
        )
    return found


# Tensors


@dataclass(frozen=True, kw_only=True)
class _Recoding:
    """How codes of a tensor change: ``new = clip(rint((old - zero_point) / ratio) + new zero point)``.

    Parameters
    ----------
    zero_point
        Of the tensor as it was.
    new_format, new_zero_point
        Of the tensor as it becomes.
    ratio
        Its new scale in units of the old one; 1 where codes at most move.
    """

    zero_point: int
    new_format: Int
    new_zero_point: int
    ratio: float

    def __call__(self, codes: NDArray[Any]) -> _Matrix:
        scaled = np.rint((codes.astype(np.float64) - self.zero_point) / self.ratio).astype(np.int64)
        moved: _Matrix = np.clip(scaled + self.new_zero_point, self.new_format.min, self.new_format.max)
        return moved

    def tensor(self, info: TensorInfo) -> TensorInfo:
        """What is known of the tensor afterwards."""
        return replace(
            info,
            format=self.new_format,
            scale=info.scale * self.ratio,
            zero_point=self.new_zero_point,
        )


def _recoding(info: TensorInfo, low: int, high: int, asked: Int) -> _Recoding | None:
    """How a tensor whose codes are from `low` to `high` gets a format; None where it has it already.

    Codes that fit stay, those that fit when moved are moved; otherwise the whole range is scaled to the
    format's. Zero stays a code.
    """
    format, zero_point = info.format, info.zero_point
    assert isinstance(format, Int)
    if format == asked:
        return None
    low, high = min(low, zero_point), max(high, zero_point)
    room = asked.max - asked.min
    ratio = 1.0
    if asked.min <= low and high <= asked.max:
        new = zero_point
    else:
        ratio = max(1.0, (high - low) / room)
        new = asked.min + round((zero_point - low) / ratio)
    return _Recoding(zero_point=zero_point, new_format=asked, new_zero_point=new, ratio=ratio)


def _codes_made(info: TensorInfo, writer: Node | None) -> tuple[int, int]:
    """Least and greatest code that a tensor can have."""
    format = info.format
    assert format is not None
    match writer:
        case Quantize(low=low, high=high):
            return format.min if low is None else low, format.max if high is None else high
        case FullyConnected(quantiser=Requantise() as by) | Convolution(quantiser=Requantise() as by):
            return by.low, by.high
        case FullyConnected(quantiser=Thresholds() as by) | Convolution(quantiser=Thresholds() as by):
            return by.low, by.low + by.count
        case AveragePool(tables=tables):
            return min(int(t.min()) for t in tables.values()), max(int(t.max()) for t in tables.values())
        case Binary(table=table) | Lookup(table=table):
            return int(table.min()), int(table.max())
        case Pad(value=value):
            return value, value
    return format.min, format.max


_Moving = Reshape | Transpose | MaxPool | Pad | Concatenate | Select | Upsample
"""Nodes whose output holds codes of their inputs, so that all of these change in the same way."""


def _places(graph: Graph) -> dict[str, str]:
    """Of each tensor of codes the first of those that hold the same codes."""
    place = {name: name for name, tensor in graph.tensors.items() if tensor.format}
    for node in graph.nodes:
        if isinstance(node, _Moving) and node.output in place:
            joined = {place[name] for name in node.inputs if name in place} | {place[node.output]}
            first = next(name for name in place if name in joined)
            place = {name: first if own in joined else own for name, own in place.items()}
    return place


def _recodings(graph: Graph, wanted: Mapping[str, Precision]) -> dict[str, _Recoding]:
    """How each tensor changes that does.

    Raises
    ------
    NetworkError
        Layers that read one tensor disagree, or a tensor cannot have the format.
    """
    place = _places(graph)
    writers: dict[str, list[Node | None]] = {}
    readers: dict[str, list[Product]] = {}
    if graph.input in place:
        writers[place[graph.input]] = [None]
    for node in graph.nodes:
        # A pad's code is one of its own; the others make none.
        if node.output in place and (isinstance(node, Pad) or not isinstance(node, _Moving)):
            writers.setdefault(place[node.output], []).append(node)
        if isinstance(node, Product):
            readers.setdefault(place[node.input], []).append(node)
    found: dict[str, _Recoding] = {}
    for first, nodes in readers.items():
        named = [node for node in nodes if node.name in wanted]
        if not named:
            continue
        asked = wanted[named[0].name].activation
        recoding = _tensor_recoding(graph.tensors[first], writers[first], named[0], asked)
        if isinstance(graph.tensors[first].format, Bipolar):
            continue
        for node in nodes:
            own = wanted.get(node.name)
            if own is None and recoding is None:
                continue
            if own is None or own.activation != asked:
                raise NetworkError(
                    f"node '{node.name}'",
                    f"reads '{node.input}' as '{named[0].name}' does, which asks for {asked}"
                    if node.input == named[0].input
                    else f"reads '{node.input}', which holds codes that '{named[0].name}' reads as "
                    f"'{named[0].input}' and asks for {asked}",
                    f"ask for the same activations for both, not for {own or 'one only'}",
                )
        if recoding is None:
            continue
        if place.get(graph.output) == first:
            raise NetworkError(
                f"node '{named[0].name}'",
                f"reads '{named[0].input}', whose codes are the network's output as well",
                "the output does not change: ask for the activations that the layer has",
            )
        found |= {name: recoding for name, own_place in place.items() if own_place == first}
    return found


def _tensor_recoding(
    info: TensorInfo, writers: Sequence[Node | None], reader: Product, asked: Format
) -> _Recoding | None:
    def error(what: str, hint: str = "") -> NetworkError:
        return NetworkError(f"node '{reader.name}'", what, hint)

    if any(isinstance(writer, Product) and writer.quantiser is None for writer in writers):
        raise error(f"reads '{reader.input}', accumulators that are not quantised", "leave the layer out")
    if isinstance(info.format, Bipolar):
        # Two values: whatever format is asked for holds them, and the mapper stores them in it.
        return None
    if not isinstance(asked, Int):
        raise error(
            f"reads '{reader.input}' of {info.format}, which cannot be made {asked} after training",
            "ask for integer activations, such as au1, a2 or a4, or train the network with it",
        )
    lows, highs = zip(*(_codes_made(info, writer) for writer in writers), strict=True)
    return _recoding(info, min(lows), max(highs), asked)


# Weights


def _nearest(values: _Reals, format: Format) -> _Matrix:
    """The nearest value of a format to each number."""
    if isinstance(format, Int):
        return np.clip(np.rint(values), format.min, format.max).astype(np.int64)
    there = format.values
    chosen: _Matrix = there[np.searchsorted((there[:-1] + there[1:]) / 2, values, side="right")]
    return chosen


def _rounded_weights(rows: _Matrix, format: Format) -> tuple[_Matrix, _Reals]:
    """Weights of a format, and a scale for each row: ``rows ~ scale[:, None] * weights``.

    Of the scales that clip a row at a share of its greatest weight, the one whose codes, with the scale that
    suits them best, leave the least squared error. That scale is ``(w . c) / (c . c)``, and its error
    ``w . w - (w . c)**2 / (c . c)``, for weights w and codes c.
    """
    if format.contains(rows):
        return rows, np.ones(len(rows))
    real = rows.astype(np.float64)
    widest = np.abs(real).max(axis=1)
    reach = max(format.max, 0) or -format.min
    best = np.full(len(rows), np.inf)
    codes = np.zeros_like(rows)
    scales = np.ones(len(rows))
    # Scale 1 as well: a row may fit as it is.
    for step in (np.ones(len(rows)), *(np.where(widest > 0, widest, 1) / reach * c for c in _CLIPPING)):
        tried = _nearest(real / step[:, None], format)
        dot, norm = (real * tried).sum(axis=1), (tried * tried).sum(axis=1)
        scale = np.where(dot > 0, dot / np.maximum(norm, 1), 1.0)
        error = ((real - scale[:, None] * tried) ** 2).sum(axis=1)
        better = error < best
        best = np.where(better, error, best)
        codes[better], scales[better] = tried[better], scale[better]
    return codes, scales


def _new_weights(node: Product, format: Format) -> tuple[_Matrix, _Reals]:
    """A layer's weights in a format, and each channel's scale: one for all where sums are not quantised."""

    def error(what: str) -> NetworkError:
        return NetworkError(f"node '{node.name}'", f"its weights cannot be made {format}: {what}")

    weights = node.weights
    if format.contains(weights):
        return weights, np.ones(node.channels)
    if (format.min >= 0 > weights.min()) or (format.max <= 0 < weights.max()):
        raise error(
            f"they are of both signs; ask for {'wb or w2' if format.bits == 1 else 'a signed format'}"
        )
    if node.quantiser is None:
        # The tensor of sums has one scale.
        codes, scales = _rounded_weights(weights.reshape(1, -1), format)
        return codes.reshape(weights.shape), np.full(node.channels, scales[0])
    rows = weights.reshape(node.channels, -1)
    codes, scales = _rounded_weights(rows, format)
    # Where all weights are zero and the format has no zero: so small that only the bias counts.
    lost = ~rows.any(axis=1) & codes.any(axis=1)
    scales = np.where(lost, np.maximum(np.abs(node.bias), 1) * 2.0**-28, scales)
    return codes.reshape(weights.shape), scales


# Nodes


def _layer(
    node: Product, weights: Format | None, source: _Recoding | None, result: _Recoding | None
) -> tuple[Product, float]:
    """A layer as it becomes, and its sums' new scale in units of the old one, where they have one for all.

    ``sum_old ~ factor[n] * sum_new``, with the scale of the channel's weights times that of the input.
    """
    codes, scales = (node.weights, np.ones(node.channels)) if weights is None else _new_weights(node, weights)
    factor = scales * (source.ratio if source else 1.0)
    bias = np.rint(node.bias / factor).astype(np.int64)
    quantiser = node.quantiser
    match quantiser:
        case Requantise():
            quantiser = _requantise(node, quantiser, factor, result)
        case Thresholds():
            quantiser = _thresholds(node, quantiser, factor, bias, result)
    changed = replace(
        node,
        weights=codes,
        weight_format=weights or node.weight_format,
        bias=bias,
        quantiser=quantiser,
    )
    return changed, float(factor[0])


def _requantise(node: Product, quantiser: Requantise, factor: _Reals, result: _Recoding | None) -> Requantise:
    """``M_new[n] = M_old[n] * factor[n] / ratio of the result``; the clamp moves with the result's codes."""
    change = factor / (result.ratio if result else 1.0)
    real = quantiser.multiplier * 2.0 ** (quantiser.shift - MULTIPLIER_BITS)
    multiplier, shift = quantise_multiplier(real * change)
    if shift.max() > MAX_LEFT_SHIFT:
        raise _too_great(node, (real * change).max())
    # As they are where nothing changes: the same factor may be written in several ways, which round apart.
    same = change == 1
    low, high = (
        result(np.array([quantiser.low, quantiser.high])) if result else (quantiser.low, quantiser.high)
    )
    return replace(
        quantiser,
        multiplier=np.where(same, quantiser.multiplier, multiplier),
        shift=np.where(same, quantiser.shift, shift),
        low=int(low),
        high=int(high),
    )


def _too_great(node: Product | AveragePool, factor: float) -> NetworkError:
    return NetworkError(
        f"node '{node.name}'",
        f"its sums would have to be multiplied by {factor:.3g}, and {1 << MAX_LEFT_SHIFT} is the limit",
        "ask for wider weights or activations of this layer, or narrower ones of the next",
    )


def _thresholds(
    node: Product, quantiser: Thresholds, factor: _Reals, bias: _Matrix, result: _Recoding | None
) -> Thresholds:
    """Levels in new sums, a level for each step of the new codes.

    ``acc >= level`` holds of integers from ``level - 1/2`` on, which is where the level is put before it is
    scaled: ``sum_new >= (level - 1/2 - bias_old) / factor``, and the new bias on top.
    """
    levels = quantiser.levels
    falls = quantiser.descending[:, None]
    edge = levels - np.where(falls, -0.5, 0.5) - node.bias[:, None]
    scaled = edge / factor[:, None]
    whole = np.where(falls, np.floor(scaled), np.ceil(scaled)) + bias[:, None]
    whole = np.clip(whole, LEVEL_MIN, LEVEL_MAX).astype(np.int64)
    # Levels that nothing or everything reaches stay so.
    beyond = (levels <= LEVEL_MIN) | (levels >= LEVEL_MAX)
    levels = np.where((factor == 1)[:, None] | beyond, levels, whole)
    if result is None:
        return replace(quantiser, levels=levels)
    codes = result(quantiser.low + np.arange(quantiser.count + 1))
    low, high = int(codes[0]), int(codes[-1])
    # The first of the old counts whose new code is that high. A descending channel counts the same way: its
    # code grows with the count, too, but its levels are reached from the last.
    steps = np.searchsorted(codes, np.arange(low + 1, high + 1)) - 1
    rising = levels[:, steps]
    # From above, the count of `acc <= level` grows past level T - 1 first, and past level 0 last.
    falling = levels[:, quantiser.count - 1 - steps][:, ::-1]
    return Thresholds(levels=np.where(falls, falling, rising), descending=quantiser.descending, low=low)


def _sums(graph: Graph, node: Product, place: Mapping[str, str], factor: float) -> dict[str, TensorInfo]:
    """Sums that are not quantised, under all their names, with their new scale."""
    names = [name for name, first in place.items() if first == place[node.output]]
    if any(isinstance(other, Concatenate | Pad) and other.output in names for other in graph.nodes):
        raise NetworkError(
            f"node '{node.name}'",
            "its sums, which are not quantised, are joined with others, and would get a scale of their own",
            "leave its weights and activations as they are",
        )
    return {
        name: replace(info, scale=info.scale * factor) for name in names for info in (graph.tensors[name],)
    }


# Tables


def _places_before(info: TensorInfo, recoding: _Recoding | None) -> _Reals:
    """Of each code that a tensor can have afterwards, where it stood among those it could have before."""
    format = info.format
    assert format is not None
    count = len(format.values)
    if recoding is None:
        return np.arange(count, dtype=np.float64)
    new = recoding.new_format
    codes = np.arange(new.min, new.max + 1, dtype=np.float64)
    before = recoding.zero_point + recoding.ratio * (codes - recoding.new_zero_point)
    return np.clip(before - format.min, 0, count - 1)


def _between(table: NDArray[Any], places: _Reals) -> _Reals:
    """Entries of a table along its first axis, linear between two of them."""
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, len(table) - 1)
    share = (places - below).reshape(-1, *(1,) * (table.ndim - 1))
    between: _Reals = (1 - share) * table[below] + share * table[above]
    return between


def _result_codes(values: _Reals, info: TensorInfo, result: _Recoding | None) -> _Matrix:
    """Codes of a result as it becomes, of codes as it was."""
    if result is not None:
        return result(values)
    if isinstance(info.format, Int):
        return np.rint(values).astype(np.int64)
    return np.where(values >= 0, 1, -1)


def _lookup(node: Lookup, graph: Graph, recodings: _Recodings) -> Lookup:
    places = _places_before(graph.tensors[node.input], recodings.get(node.input))
    table = _between(node.table, places)
    return replace(node, table=_result_codes(table, graph.tensors[node.output], recodings.get(node.output)))


def _binary(node: Binary, graph: Graph, recodings: _Recodings) -> Binary:
    """A sum of something of each operand stays one, exactly; of other tables what lies between their entries.

    Of a sum ``round(f(a) + g(b))`` the new one is ``round((f(a) + g(b) - zero_point) / ratio)`` and the new
    zero point, with f and g between what they are at codes; rounding twice would be no rounded sum any more.
    """
    info, result = graph.tensors[node.output], recodings.get(node.output)
    first, second = (_places_before(graph.tensors[name], recodings.get(name)) for name in node.inputs)
    whole = all((places == np.rint(places)).all() for places in (first, second))
    if not whole or (result is not None and result.ratio != 1):
        try:
            tables, _ = separated(node.table, f"node '{node.name}'")
        except NetworkError:
            pass
        else:
            ratio, moved = (1.0, 0.0) if result is None else (result.ratio, result.new_zero_point)
            zero = 0 if result is None else result.zero_point
            centre = (moved - zero / ratio) * 2.0**FRACTION
            rows = np.rint(_between(tables[0], first) / ratio + centre).astype(np.int64)
            columns = np.rint(_between(tables[1], second) / ratio).astype(np.int64)
            sums = rows[:, None] + columns[None, :]
            bounds = np.array([node.table.min(), node.table.max()])
            low, high = bounds if result is None else result(bounds)
            table = (sums + (1 << FRACTION - 1) >> FRACTION).clip(low, high)
            return replace(node, table=table)
    between = _between(_between(node.table, first).T, second).T
    return replace(node, table=_result_codes(between, info, result))


def _average(
    node: AveragePool, graph: Graph, tensors: Mapping[str, TensorInfo], recodings: _Recodings
) -> AveragePool:
    """Averages of the new codes: of real numbers where the old ones are that, else between the old ones.

    Where codes only move, results are the old ones, rounded as the network's own arithmetic does.
    """
    before, after = ([each[name] for name in (node.input, node.output)] for each in (graph.tensors, tensors))
    source, result = recodings.get(node.input), recodings.get(node.output)
    tables = {}
    for count, table in node.tables.items():
        old, new = (
            count * info.zero_point - count * info.format.min for info in (before[0], after[0]) if info.format
        )
        assert after[0].format is not None
        sums = np.arange(count * (after[0].format.max - after[0].format.min) + 1) - new
        bounds = np.array([table.min(), table.max()])
        factor = before[0].scale / before[1].scale / count
        real = (np.arange(len(table)) - old) * factor + before[1].zero_point
        ratio = source.ratio if source else 1.0
        moved = ratio == 1 and (result is None or result.ratio == 1)
        if moved or np.abs(real.clip(*bounds) - table).max() > 1:
            places = np.clip(old + ratio * sums, 0, len(table) - 1)
            tables[count] = _result_codes(_between(table, places), before[1], result)
            continue
        factor = after[0].scale / after[1].scale / count
        multiplier, shift = quantise_multiplier(factor)
        if shift > MAX_LEFT_SHIFT:
            raise _too_great(node, factor)
        low, high = result(bounds) if result else bounds
        # As an engine computes it, so that it finds this very factor.
        made = requantise(sums, multiplier, shift, "half_even") + after[1].zero_point
        tables[count] = made.clip(low, high)
    return replace(node, tables=tables)


def requantised(graph: Graph, overrides: Mapping[str, Precision]) -> Graph:
    """A network whose layers have other precisions, without training.

    Parameters
    ----------
    graph
        The network.
    overrides
        Precision of each layer that gets one, by its node's name or a glob; see :func:`matched`.

    Returns
    -------
    A graph with the same names. A layer that an override matches has weights of its precision's format; the
    tensor that it reads has the format of its activations, unless it is bipolar, which every format holds.
    Everything else keeps its formats. Sums that are not quantised get another scale.

    Raises
    ------
    NetworkError
        An override matches no layer; layers that read the same tensor would disagree about it; or a layer
        cannot have what is asked for. The message names the node.
    """
    wanted = matched(graph, overrides)
    recodings = _recodings(graph, wanted)
    tensors = {
        name: recodings[name].tensor(info) if name in recodings else info
        for name, info in graph.tensors.items()
    }
    place = _places(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        changes = any(name in recodings for name in (*node.inputs, node.output))
        match node:
            case Quantize() if node.output in recodings:
                low, high = _codes_made(graph.tensors[node.output], node)
                low, high = map(int, recodings[node.output](np.array([low, high])))
                # The zero point has moved, and rounding must not depend on where it is.
                node = replace(node, low=low, high=high, zero_point_first=False)
            case FullyConnected() | Convolution():
                precision = wanted.get(node.name)
                weights = precision.weight if precision else None
                source, result = recodings.get(node.input), recodings.get(node.output)
                if weights or source or result:
                    node, factor = _layer(node, weights, source, result)
                    if node.quantiser is None and factor != 1:
                        tensors |= _sums(graph, node, place, factor)
            case AveragePool() if changes:
                node = _average(node, graph, tensors, recodings)
            case Binary() if changes:
                node = _binary(node, graph, recodings)
            case Lookup() if changes:
                node = _lookup(node, graph, recodings)
            case Pad() if changes:
                node = replace(node, value=int(recodings[node.output](np.array(node.value))))
        nodes.append(node)
    return replace(graph, tensors=tensors, nodes=tuple(nodes))


def converted_input(graph: Graph, changed: Graph, batch: NDArray[Any]) -> NDArray[Any]:
    """Inputs of a network as its requantised form takes them.

    Parameters
    ----------
    graph
        The network as it was.
    changed
        What :func:`requantised` made of it.
    batch
        What :func:`bitwright.sim.golden.prepare_input` made for `graph`. Floats stay; codes, whose format may
        have changed, are rounded to the new ones.
    """
    if batch.dtype.kind == "f":
        return batch
    name = graph.input
    if graph.tensors[name].format is None:
        name = next(node.output for node in graph.nodes if name in node.inputs)
    before, after = graph.tensors[name], changed.tensors[name]
    if before == after:
        return batch
    assert isinstance(after.format, Int)  # a bipolar tensor does not change
    recoding = _Recoding(
        zero_point=before.zero_point,
        new_format=after.format,
        new_zero_point=after.zero_point,
        ratio=after.scale / before.scale,
    )
    return recoding(batch)
