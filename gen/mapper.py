"""Maps an integer graph onto an engine: places tensors, cuts layers into tiles, schedules, gives tokens.

A layer is a matrix product of R rows, K terms and N columns. It is cut into tiles of so many groups of rows,
groups of columns and steps; one COMPUTE instruction is one tile. Which cut is best depends on what has to
be moved when, so several are scheduled and the cycle model picks the quickest.

Scheduling keeps every scratchpad as a ring: a tile that is needed and not there is loaded behind the one
loaded last, over what is oldest. Loads are placed ahead of the COMPUTE that needs them, as far as the ring
allows without overwriting what an earlier one still needs. Which instruction must wait for which follows
from who read and wrote what, and from that the tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.config import CHANNEL_BITS, EngineConfig
from bitwright.hw.formats import Int
from bitwright.hw.memory.scratchpad import Geometry, geometries
from bitwright.hw.pe.contract import Order
from bitwright.hw.quant.requantise import encode_channel
from bitwright.hw.sched.isa import Buffer, Instruction, Opcode, Unit
from bitwright.hw.sched.registers import COUNTERS
from bitwright.sim.cycles import simulate
from bitwright.sim.graph import Dequantize, FullyConnected, Graph, NetworkError, Quantize, Reshape, TensorInfo

from .program import LayerPlan, Placement, Program

__all__ = ["SNAPSHOT_BYTES", "compile_graph"]

SNAPSHOT_BYTES = 4 * len(COUNTERS)

_LOOKAHEAD = 8  # COMPUTE instructions that loads are placed ahead of
_CANDIDATES = 8  # cuts that are scheduled


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


# Instructions and what they wait for


@dataclass
class _Pending:
    opcode: Opcode
    fields: dict[str, int]
    after: set[int] = field(default_factory=set)


class _Schedule:
    """Instructions in program order, with what each has to wait for."""

    def __init__(self) -> None:
        self.pending: list[_Pending] = []

    def add(self, opcode: Opcode, after: set[int], **fields: int) -> int:
        """Append an instruction; returns its number."""
        self.pending.append(_Pending(opcode, fields, set(after)))
        return len(self.pending) - 1

    def finish(self, config: EngineConfig) -> list[Instruction]:
        """Give and take tokens.

        The instructions of a unit end in order. So an instruction waits only for the last one that it
        depends on in each other unit, and not at all if an earlier one of its unit waited for that.
        """
        wait = [0] * len(self.pending)
        post = [0] * len(self.pending)
        seen: dict[tuple[Unit, Unit], int] = {}
        # Beside the tokens that a full queue waits for, so many may be under way. So who depends on something
        # further back waits for something later instead, which is over no earlier.
        reach = config.token_limit - config.queue_depth - 2
        givers: dict[Unit, list[int]] = {unit: [] for unit in Unit}
        for number, pending in enumerate(self.pending):
            taker = pending.opcode.unit
            givers[taker].append(number)
            last: dict[Unit, int] = {}
            for other in pending.after:
                giver = self.pending[other].opcode.unit
                if giver is not taker:
                    last[giver] = max(last.get(giver, -1), other)
            for giver, other in last.items():
                if len(givers[giver]) > reach:
                    other = max(other, givers[giver][-reach])
                if other > seen.get((giver, taker), -1):
                    seen[giver, taker] = other
                    wait[number] |= 1 << giver
                    post[other] |= 1 << taker
        return [
            Instruction(
                pending.opcode,
                {
                    name: value
                    for name, value in {**pending.fields, "wait": wait[number], "post": post[number]}.items()
                    if value
                },
            )
            for number, pending in enumerate(self.pending)
        ]


@dataclass
class _Region:
    key: object
    start: int
    end: int
    writers: set[int] = field(default_factory=set)
    readers: set[int] = field(default_factory=set)

    def overlaps(self, other: "_Region") -> bool:
        return self.start < other.end and other.start < self.end


class _Ring:
    """Allocation in a scratchpad, oldest first out."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.position = 0
        self.regions: dict[object, _Region] = {}

    def find(self, key: object) -> _Region | None:
        """The region of that key, if it is still there."""
        return self.regions.get(key)

    def allocate(self, key: object, size: int, pinned: set[object]) -> tuple[_Region, set[int]] | None:
        """A region, and the instructions that must be over before it is written; None if pinned ones are in
        the way.
        """
        start = self.position if self.position + size <= self.capacity else 0
        region = _Region(key, start, start + size)
        over = [old for old in self.regions.values() if old.overlaps(region)]
        if any(old.key in pinned for old in over):
            return None
        after: set[int] = set()
        for old in over:
            after |= old.readers | old.writers
            del self.regions[old.key]
        self.regions[key] = region
        self.position = region.end
        return region, after


# Memory


class _Image:
    """The window's contents: blocks one behind the other."""

    def __init__(self, config: EngineConfig):
        self.align = min(config.burst_beats, 64) * config.bus_bytes
        self.limit = 1 << config.address_bits
        self.size = 0
        self.blocks: list[tuple[int, bytes]] = []

    def reserve(self, size: int) -> int:
        address = self.size
        self.size = _ceil_div(address + size, self.align) * self.align
        if self.size > self.limit:
            raise NetworkError(
                "network",
                f"needs more than the {self.limit} bytes that the engine can address",
                "raise address_bits, at most 32",
            )
        return address

    def put(self, data: bytes) -> int:
        address = self.reserve(len(data))
        self.blocks.append((address, data))
        return address

    def contents(self) -> bytes:
        end = max((address + len(data) for address, data in self.blocks), default=0)
        image = bytearray(end)
        for address, data in self.blocks:
            image[address : address + len(data)] = data
        return bytes(image)


# Layers


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """How a layer is cut: groups of rows, groups of columns and steps of a tile, and which loop is outer."""

    row_groups: int
    col_groups: int
    steps: int
    columns_outer: bool
    store_rows: bool  # one STORE for all columns of a tile's rows

    def __str__(self) -> str:
        order = "columns, rows" if self.columns_outer else "rows, columns"
        return f"{self.row_groups} row groups x {self.col_groups} column groups x {self.steps} steps; {order}"


class _Layer:
    """A matrix product on an engine: sizes in the engine's units, and its parameters packed."""

    def __init__(
        self,
        config: EngineConfig,
        node: FullyConnected,
        source: Placement,
        result: Placement,
        zero_points: tuple[int, int],
    ):
        self.zero_points = zero_points  # of source and result
        self.config = config
        self.node = node
        self.source = source
        self.result = result
        self.geometry = geometries(config)
        self.rows = source.rows
        self.steps = _ceil_div(node.reduction, config.elements)
        self.row_groups = _ceil_div(self.rows, config.rows)
        self.col_groups = _ceil_div(node.channels, config.group_channels)
        self.macs = node.macs(self.rows)
        self.result_words = result.stride // config.bus_bytes

    # Sizes

    def activation_rows(self, steps: int) -> int:
        """Scratchpad rows that so many steps of one matrix row take."""
        return _ceil_div(steps, self.geometry[Buffer.ACTIVATIONS].ratio)

    def weight_rows(self, groups: int, steps: int) -> int:
        """Scratchpad rows of a tile of weights."""
        return _ceil_div(groups * self.weight_words(steps), self.geometry[Buffer.WEIGHTS].ratio)

    def weight_words(self, steps: int) -> int:
        """Weight words of so many steps of a group of columns: one for each beat."""
        return steps * len(self.config.beats)

    def output_words(self, groups: int) -> int:
        """Bus words of one row of so many groups of columns."""
        return _ceil_div(groups * self.config.granules_per_group, self.config.granules_per_word)

    # Contents

    def weight_bytes(self, groups: range, steps: range) -> bytes:
        """Weights as the scratchpad holds them: of each group the beats in their order, one word for each."""
        config = self.config
        unit, precision = config.unit, config.precision
        channels = slice(groups.start * config.group_channels, groups.stop * config.group_channels)
        terms = slice(steps.start * config.elements, steps.stop * config.elements)
        part = self.node.weights[channels, terms]
        # What is not there is zero; where the format has none, the layer's terms fill whole steps.
        nothing = 0 if config.weight.contains(np.zeros(1, np.int64)) else config.weight.min
        shape = (len(groups) * config.group_channels, len(steps) * config.elements)
        padded = np.full(shape, nothing, np.int64)
        padded[: part.shape[0], : part.shape[1]] = part
        # A unit computes `outputs` channels, which are a group of columns apart.
        values = padded.reshape(len(groups), unit.outputs, config.cols, len(steps), config.elements)
        words = unit.weight_bits(values, precision)  # group, output, column, step, word, bit
        beats = np.stack([words[:, beat.output, :, :, beat.weight] for beat in config.beats], axis=1)
        # group, beat, column, step, bit
        if unit.order is Order.BEATS_OUTSIDE:
            ordered = beats.transpose(0, 1, 3, 2, 4)
        else:
            ordered = beats.transpose(0, 3, 1, 2, 4)
        return _pack_words(ordered.reshape(-1, config.weight_word_bits), self.geometry[Buffer.WEIGHTS])

    def channel_bytes(self, groups: range) -> bytes:
        """Quantisation parameters as the scratchpad holds them."""
        node, config = self.node, self.config
        # sum((q - z) * w) + b = sum((q - offset) * w) + (b - (z - offset) * sum(w))
        zero_point = self.zero_points[0] - self.source.offset
        bias = node.bias - zero_point * node.weights.sum(axis=1)
        # Only the sum of accumulator and bias has to fit 32 bits; the bias alone may wrap.
        bias = Int(32).decode(bias)
        words = []
        size = self.geometry[Buffer.CHANNELS].banks * config.bus_bytes
        for first in range(
            groups.start * config.group_channels, groups.stop * config.group_channels, config.requantisers
        ):
            word = 0
            for position in range(config.requantisers):
                channel = first + position
                if channel < node.channels:
                    word |= (
                        encode_channel(
                            bias=int(bias[channel]),
                            multiplier=int(node.multiplier[channel]),
                            shift=int(node.shift[channel]),
                            rounding=node.rounding,
                            zero_point=self.zero_points[1] - self.result.offset,
                            low=node.low - self.result.offset,
                            high=node.high - self.result.offset,
                        )
                        << position * CHANNEL_BITS
                    )
            words.append(word.to_bytes(size, "little"))
        return b"".join(words)

    # Cuts

    def cuts(self) -> Iterator[_Cut]:
        """Every cut worth a look that fits the scratchpads."""
        config = self.config
        activations = self.geometry[Buffer.ACTIVATIONS]
        weights = self.geometry[Buffer.WEIGHTS]
        channels = self.geometry[Buffer.CHANNELS]
        if (
            self.activation_rows(self.steps) > activations.rows
            or self.weight_rows(1, self.steps) > weights.rows
        ):
            # Not even one group of rows and columns fits: accumulate over several tiles.
            if not config.unit.resumes(config.precision):
                raise NetworkError(
                    f"node '{self.node.name}'",
                    f"a dot product of {self.node.reduction} terms does not fit the scratchpads, and "
                    f"{config.pe} cannot compute it in parts",
                    "raise activation_depth or weight_depth",
                )
            unit = activations.ratio * weights.ratio // gcd(activations.ratio, weights.ratio)
            room = weights.rows * weights.ratio // len(config.beats)
            half = min(activations.rows * activations.ratio, room) // 2
            step_choices = [max(unit, half // unit * unit)]
            row_choices = col_choices = [1]
        else:
            step_choices = [self.steps]
            row_choices = _sizes(self.row_groups, activations.rows // self.activation_rows(self.steps))
            col_limit = weights.rows * weights.ratio // self.weight_words(self.steps)
            per_group = config.granules_per_group
            col_choices = _sizes(self.col_groups, min(col_limit, channels.rows // per_group))
        for steps in step_choices:
            for rows in row_choices:
                for cols in col_choices:
                    whole_rows = rows * config.rows * self.result_words
                    part = rows * config.rows * self.output_words(cols)
                    tiles = _ceil_div(self.row_groups, rows)
                    aligned = cols * config.granules_per_group % config.granules_per_word == 0
                    for columns_outer in (False, True):
                        if columns_outer and (rows >= self.row_groups or cols >= self.col_groups):
                            continue
                        if not columns_outer and whole_rows * min(tiles, 2) <= config.output_depth:
                            yield _Cut(
                                row_groups=rows,
                                col_groups=cols,
                                steps=steps,
                                columns_outer=False,
                                store_rows=True,
                            )
                        elif part * 2 <= config.output_depth and (aligned or cols >= self.col_groups):
                            yield _Cut(
                                row_groups=rows,
                                col_groups=cols,
                                steps=steps,
                                columns_outer=columns_outer,
                                store_rows=False,
                            )

    def estimate(self, cut: _Cut) -> float:
        """Cycles, roughly: to choose which cuts to schedule."""
        row_tiles = _ceil_div(self.row_groups, cut.row_groups)
        col_tiles = _ceil_div(self.col_groups, cut.col_groups)
        step_tiles = _ceil_div(self.steps, cut.steps)
        drain = self.config.drain_cycles * self.config.unit.outputs
        compute = self.row_groups * self.col_groups * max(self.weight_words(self.steps), drain)
        weights = self.geometry[Buffer.WEIGHTS]
        activations = self.geometry[Buffer.ACTIVATIONS]
        weight_beats = self.weight_rows(self.col_groups, self.steps) * weights.banks
        activation_beats = self.rows * self.activation_rows(self.steps) * activations.banks
        if cut.columns_outer or step_tiles > 1:
            activation_beats *= col_tiles
        elif self.weight_rows(self.col_groups, self.steps) > weights.rows:
            weight_beats *= row_tiles
        first = activation_beats / row_tiles + weight_beats / col_tiles
        tiles = row_tiles * col_tiles * step_tiles
        last = compute / tiles
        return max(compute + first, activation_beats + weight_beats + last) + 12 * tiles


def _sizes(count: int, limit: int) -> list[int]:
    """Powers of two up to both, and the whole if it fits."""
    limit = min(count, limit)
    sizes = {1 << power for power in range(limit.bit_length()) if 1 << power <= limit}
    return sorted(sizes | ({count} if count <= limit else {limit}))


def _pack_words(words: NDArray[np.uint8], geometry: Geometry) -> bytes:
    """Words, as bits, as they lie in a scratchpad's rows, whole rows."""
    per_row = geometry.banks * geometry.write_bits
    flat = words.reshape(1, -1) if geometry.ratio > 1 else words
    padding = -flat.shape[1] % per_row
    return np.packbits(np.pad(flat, ((0, 0), (0, padding))), axis=-1, bitorder="little").tobytes()


class _Mapper:
    """Schedules layer after layer."""

    def __init__(self, config: EngineConfig, image: _Image):
        self.config = config
        self.image = image
        self.schedule = _Schedule()
        self.rings = {buffer: _Ring(geometry.rows) for buffer, geometry in geometries(config).items()}
        self.output = _Ring(config.output_depth)
        self.stores: dict[str, list[tuple[int, int, int]]] = {}  # tensor: first row, end, STORE

    def block(self, address: int, words: int) -> dict[str, int]:
        """Fields of a contiguous block."""
        row = min(words, 1 << 15)
        return {"memory": address // self.config.bus_bytes, "beats": words, "row_beats": row, "stride": row}

    def snapshot(self) -> int:
        """Leave the counters in memory; returns where."""
        address = self.image.reserve(SNAPSHOT_BYTES)
        self.schedule.add(
            Opcode.SNAPSHOT, set(), **self.block(address, SNAPSHOT_BYTES // self.config.bus_bytes)
        )
        return address

    def layer(self, layer: _Layer, cut: _Cut) -> None:
        """Schedule one layer."""
        config, schedule = self.config, self.schedule
        identity = layer.node.name
        row_tiles = _tiles(layer.row_groups, cut.row_groups)
        col_tiles = _tiles(layer.col_groups, cut.col_groups)
        step_tiles = _tiles(layer.steps, cut.steps)
        channels = layer.geometry[Buffer.CHANNELS]
        all_channels = layer.col_groups * config.granules_per_group * 2 <= channels.rows
        weight_addresses: dict[object, int] = {}
        channel_addresses: dict[object, int] = {}

        # What a tile needs: key, scratchpad rows, and how to load it
        def activations(rows: range, steps: range) -> tuple[object, int, Callable[[_Region, set[int]], int]]:
            geometry = layer.geometry[Buffer.ACTIVATIONS]
            per_row = layer.activation_rows(len(steps))
            first = rows.start * config.rows
            count = min(len(rows) * config.rows, layer.rows - first)

            def load(region: _Region, after: set[int]) -> int:
                source = layer.source
                words = per_row * geometry.banks
                address = source.address + first * source.stride
                address += steps.start // geometry.ratio * geometry.banks * config.bus_bytes
                after = after | {
                    store
                    for begin, end, store in self.stores.get(source.name, ())
                    if begin < first + count and first < end
                }
                block = self.block(address, count * words)
                if count > 1 and words * config.bus_bytes != source.stride:
                    block |= {"row_beats": words, "stride": source.stride // config.bus_bytes}
                return schedule.add(
                    Opcode.LOAD,
                    after,
                    buffer=Buffer.ACTIVATIONS,
                    scratch=region.start,
                    scratch_row=per_row,
                    **block,
                )

            return (identity, rows, steps), len(rows) * per_row, load

        def weights(groups: range, steps: range) -> tuple[object, int, Callable[[_Region, set[int]], int]]:
            key = (identity, groups, steps)
            size = layer.weight_rows(len(groups), len(steps))

            def load(region: _Region, after: set[int]) -> int:
                if key not in weight_addresses:
                    weight_addresses[key] = self.image.put(layer.weight_bytes(groups, steps))
                words = size * layer.geometry[Buffer.WEIGHTS].banks
                return schedule.add(
                    Opcode.LOAD,
                    after,
                    buffer=Buffer.WEIGHTS,
                    scratch=region.start,
                    **self.block(weight_addresses[key], words),
                )

            return key, size, load

        def parameters(groups: range) -> tuple[object, int, Callable[[_Region, set[int]], int]]:
            if all_channels:
                groups = range(layer.col_groups)
            key = (identity, groups)
            size = len(groups) * config.granules_per_group

            def load(region: _Region, after: set[int]) -> int:
                if key not in channel_addresses:
                    channel_addresses[key] = self.image.put(layer.channel_bytes(groups))
                return schedule.add(
                    Opcode.LOAD,
                    after,
                    buffer=Buffer.CHANNELS,
                    scratch=region.start,
                    **self.block(channel_addresses[key], size * channels.banks),
                )

            return key, size, load

        if cut.columns_outer:
            order = [(rows, cols) for cols in col_tiles for rows in row_tiles]
        else:
            order = [(rows, cols) for rows in row_tiles for cols in col_tiles]
        tiles = [(rows, cols, steps) for rows, cols in order for steps in step_tiles]
        needs = [
            {
                Buffer.ACTIVATIONS: activations(rows, steps),
                Buffer.CHANNELS: parameters(cols),
                Buffer.WEIGHTS: weights(cols, steps),
            }
            for rows, cols, steps in tiles
        ]
        # Activations that another layer makes are there last; ask for everything else before.
        late = layer.source.name in self.stores
        for number, (rows, cols, steps) in enumerate(tiles):
            window = range(number, min(number + _LOOKAHEAD, len(tiles)))
            if number == 0 and late:
                self._prefetch(needs, window, (Buffer.CHANNELS, Buffer.WEIGHTS))
            self._prefetch(needs, window, (Buffer.ACTIVATIONS, Buffer.CHANNELS, Buffer.WEIGHTS))
            self._compute(layer, cut, needs[number], rows, cols, steps)

    def _prefetch(
        self,
        needs: Sequence[dict[Buffer, tuple[object, int, Callable[[_Region, set[int]], int]]]],
        window: range,
        buffers: Sequence[Buffer],
    ) -> None:
        """Load what the tiles of the window need and is not there, as far as it fits."""
        blocked: set[Buffer] = set()
        pinned: dict[Buffer, set[object]] = {buffer: set() for buffer in buffers}
        for number in window:
            for buffer in buffers:
                if buffer in blocked:
                    continue
                key, size, load = needs[number][buffer]
                pinned[buffer].add(key)
                ring = self.rings[buffer]
                if ring.find(key):
                    continue
                allocated = ring.allocate(key, size, pinned[buffer])
                if allocated is None:
                    blocked.add(buffer)
                    continue
                region, after = allocated
                region.writers.add(load(region, after))
            if len(blocked) == len(buffers):
                return

    def _compute(
        self,
        layer: _Layer,
        cut: _Cut,
        need: dict[Buffer, tuple[object, int, Callable[[_Region, set[int]], int]]],
        rows: range,
        cols: range,
        steps: range,
    ) -> None:
        config = self.config
        after: set[int] = set()
        regions = {}
        for buffer, (key, _, _) in need.items():
            region = self.rings[buffer].find(key)
            assert region is not None
            regions[buffer] = region
            after |= region.writers
        width = layer.result_words if cut.store_rows else layer.output_words(len(cols))
        key = (layer.node.name, rows, None if cut.store_rows else cols)
        output = self.output.find(key)
        if output is None:
            allocated = self.output.allocate(key, len(rows) * config.rows * width, set())
            assert allocated is not None
            output, freed = allocated
            output.writers |= freed  # whoever wrote or read here before; ordered with the first COMPUTE
        after |= output.writers
        per_word = config.granules_per_word
        offset = cols.start * config.granules_per_group if cut.store_rows else 0
        whole = regions[Buffer.CHANNELS].end - regions[Buffer.CHANNELS].start
        skip = cols.start * config.granules_per_group if whole != len(cols) * config.granules_per_group else 0
        drain = steps.stop == layer.steps
        number = self.schedule.add(
            Opcode.COMPUTE,
            after,
            drain=int(drain),
            steps=len(steps),
            row_groups=len(rows),
            col_groups=len(cols),
            activations=regions[Buffer.ACTIVATIONS].start * layer.geometry[Buffer.ACTIVATIONS].ratio,
            activation_stride=layer.activation_rows(len(steps)) * layer.geometry[Buffer.ACTIVATIONS].ratio,
            weights=regions[Buffer.WEIGHTS].start * layer.geometry[Buffer.WEIGHTS].ratio,
            channels=regions[Buffer.CHANNELS].start + skip,
            output=output.start * per_word + offset,
            output_row=width * per_word,
            output_group=width * per_word * config.rows,
        )
        for region in regions.values():
            region.readers.add(number)
        output.writers = {number}
        if not drain or (cut.store_rows and cols.stop != layer.col_groups):
            return

        first = rows.start * config.rows
        count = min(len(rows) * config.rows, layer.rows - first)
        result = layer.result
        address = result.address + first * result.stride
        if not cut.store_rows:
            address += cols.start * config.group_channels * config.activation_bits // 8
        block = self.block(address, count * width)
        if count > 1 and width * config.bus_bytes != result.stride:
            block |= {"row_beats": width, "stride": result.stride // config.bus_bytes}
        store = self.schedule.add(Opcode.STORE, {number}, scratch=output.start, **block)
        output.readers.add(store)
        self.stores.setdefault(result.name, []).append((first, first + count, store))


def _tiles(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _best_cut(layer: _Layer) -> _Cut:
    """The cut that the cycle model likes best, of those that look best."""
    cuts = sorted(set(layer.cuts()), key=layer.estimate)
    if not cuts:
        raise NetworkError(
            f"node '{layer.node.name}'",
            "no tile of it fits the scratchpads",
            "raise output_depth, channel_depth, activation_depth or weight_depth",
        )

    def cycles(cut: _Cut) -> int:
        mapper = _Mapper(layer.config, _Image(layer.config))
        mapper.layer(layer, cut)
        return simulate(layer.config, mapper.schedule.finish(layer.config)).total

    # Cuts into many small tiles take long to schedule and are never the best by far.
    few = [
        cut for cut in cuts if _tile_count(layer, cut) <= 4 * min(_tile_count(layer, c) for c in cuts) + 64
    ]
    return min((few or cuts)[:_CANDIDATES], key=cycles)


def _tile_count(layer: _Layer, cut: _Cut) -> int:
    return prod(
        _ceil_div(whole, part)
        for whole, part in (
            (layer.row_groups, cut.row_groups),
            (layer.col_groups, cut.col_groups),
            (layer.steps, cut.steps),
        )
    )


# Tensors


def _matrix(tensor: TensorInfo) -> tuple[int, int]:
    columns = tensor.shape[-1] if tensor.shape else 1
    return prod(tensor.shape[:-1]), columns


def _check_support(graph: Graph, config: EngineConfig) -> None:
    """Refuse by name what the engine cannot run, before anything is written."""
    for node in graph.nodes:
        where = f"node '{node.name}'"
        if isinstance(node, Quantize) and node.input != graph.input:
            raise NetworkError(where, "quantises inside the network", "only the network's input may be float")
        if isinstance(node, Dequantize) and node.output != graph.output:
            raise NetworkError(
                where, "dequantises inside the network", "only the network's output may be float"
            )
        if not isinstance(node, FullyConnected):
            continue
        if not config.weight.contains(node.weights):
            raise NetworkError(
                where,
                f"weights {node.weights.min()}..{node.weights.max()} do not fit the engine's {config.weight}",
                "choose a configuration with a greater weight_bits, or another weight_format",
            )
        if not config.weight.contains(np.zeros(1, np.int64)) and node.reduction % config.elements:
            raise NetworkError(
                where,
                f"{config.weight} weights have no zero to fill up dot products of {node.reduction} terms",
                f"they must be a multiple of {config.elements}: choose another number of lanes",
            )
        if node.reduction > config.reduction:
            raise NetworkError(
                where,
                f"dot products of {node.reduction} terms exceed the engine's longest, {config.reduction}",
                f"choose a configuration with reduction = {node.reduction} or more",
            )
        for name in (node.input, node.output):
            tensor_format = graph.tensors[name].format
            assert tensor_format is not None
            if tensor_format.bits > config.activation_bits:
                raise NetworkError(
                    f"tensor '{name}'",
                    f"its {tensor_format} does not fit the engine's {config.activation}",
                    "choose a configuration with a greater activation_bits",
                )


def _place(graph: Graph, config: EngineConfig, image: _Image) -> dict[str, Placement]:
    """Where every integer tensor lies. Tensors that a Reshape joins share their place."""
    leader: dict[str, str] = {name: name for name, tensor in graph.tensors.items() if tensor.format}
    for node in graph.nodes:
        if isinstance(node, Reshape):
            leader[node.output] = leader[node.input]
    align = config.row_align
    # What the layers ask of each place: columns, and the elements that a row must have room for.
    asked: dict[str, list[tuple[str, int, int, int]]] = {}
    for node in graph.nodes:
        if isinstance(node, FullyConnected):
            rows, columns = _matrix(graph.tensors[node.input])
            room = _ceil_div(columns, align) * align
            asked.setdefault(leader[node.input], []).append((node.input, rows, columns, room))
            rows, columns = _matrix(graph.tensors[node.output])
            whole = _ceil_div(columns, config.group_channels) * config.group_channels
            room = _ceil_div(max(columns, whole), align) * align
            asked.setdefault(leader[node.output], []).append((node.output, rows, columns, room))
    placements: dict[str, Placement] = {}
    layouts: dict[str, tuple[int, int, int, int]] = {}
    for name in leader.values():
        if name in layouts:
            continue
        views = asked.get(name, [(name, *_matrix(graph.tensors[name]), 0)])
        if len({columns for _, _, columns, _ in views}) == 1:
            _, rows, columns, room = max(views, key=lambda view: view[3])
            room = room or _ceil_div(columns, align) * align
        else:
            # Rows of different lengths can share a place only if none of them is padded.
            for view, _, columns, room in views:
                if room != columns:
                    raise NetworkError(
                        f"tensor '{view}'",
                        f"is reshaped between layers, and its rows of {columns} elements would need padding",
                        f"rows must be multiples of {align} elements, "
                        f"and results of {config.group_channels} columns",
                    )
            _, rows, columns, room = views[0]
        stride = room * config.activation_bits // 8
        layouts[name] = (image.reserve(rows * stride), rows, columns, stride)
    for name, first in leader.items():
        tensor = graph.tensors[name]
        assert tensor.format is not None
        address, rows, columns, stride = layouts[first]
        fits = Int(config.activation_bits).contains(np.array([tensor.format.min, tensor.format.max]))
        own_rows, own_columns = _matrix(tensor)
        if stride * 8 == columns * config.activation_bits and own_columns * config.activation_bits % 8 == 0:
            # Nothing is padded, so the tensor's own shape describes the same bytes.
            rows, columns, stride = own_rows, own_columns, own_columns * config.activation_bits // 8
        placements[name] = Placement(
            name=name,
            shape=tensor.shape,
            address=address,
            rows=rows,
            columns=columns,
            stride=stride,
            bits=config.activation_bits,
            offset=0 if fits else 1 << (tensor.format.bits - 1),
        )
    return placements


def compile_graph(
    graph: Graph, config: EngineConfig, *, progress: Callable[[str], None] | None = None
) -> Program:
    """Instructions and memory image of a network for an engine.

    Parameters
    ----------
    graph
        The network.
    config
        The engine.
    progress
        Called with the name of each layer as it is mapped.

    Raises
    ------
    NetworkError
        The engine cannot run the network; the message names the node or tensor.
    """
    _check_support(graph, config)
    image = _Image(config)
    placements = _place(graph, config, image)
    mapper = _Mapper(config, image)
    plans: list[tuple[FullyConnected, int, int, str]] = []
    for node, _ in graph.fully_connected():
        if progress:
            progress(node.name)
        zero_points = (graph.tensors[node.input].zero_point, graph.tensors[node.output].zero_point)
        layer = _Layer(config, node, placements[node.input], placements[node.output], zero_points)
        cut = _best_cut(layer)
        mapper.layer(layer, cut)
        plans.append((node, layer.macs, mapper.snapshot(), str(cut)))
    if not plans:
        raise NetworkError(f"graph '{graph.name}'", "has no layer that the engine computes")
    instructions = mapper.schedule.finish(config)
    address = image.put(b"".join(instruction.encode() for instruction in instructions))
    ends = simulate(config, instructions).snapshots
    layers = [
        LayerPlan(name=node.name, macs=macs, snapshot=snapshot, predicted_cycles=end - begin, tiling=tiling)
        for (node, macs, snapshot, tiling), end, begin in zip(plans, ends, [0, *ends], strict=False)
    ]
    return Program(
        network=graph.name,
        config=config,
        instructions=instructions,
        image=image.contents(),
        memory_bytes=_ceil_div(image.size, 4096) * 4096,
        program_address=address,
        placements=placements,
        layers=layers,
    )
