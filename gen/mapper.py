"""Maps an integer graph onto an engine: places tensors, cuts layers into tiles, schedules, gives tokens.

A layer is a convolution (:mod:`.lowering`), cut into tiles of output pixels, groups of columns and parts of
its terms (:mod:`.layer`); one COMPUTE instruction is one tile. Which cut is best depends on what has to be
moved when, so several are scheduled and the cycle model picks the quickest.

Scheduling keeps every scratchpad as a ring: a tile that is needed and not there is loaded behind the one
loaded last, over what is oldest. Loads are placed ahead of the COMPUTE that needs them, as far as the ring
allows without overwriting what an earlier one still needs. Which instruction must wait for which follows
from who read and wrote what, and from that the tokens.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import Literal

from bitwright.hw.config import INSTRUCTION_BITS, EngineConfig
from bitwright.hw.memory.scratchpad import geometries
from bitwright.hw.pe.contract import Precision
from bitwright.hw.sched.isa import Buffer, Opcode
from bitwright.hw.sched.registers import COUNTERS
from bitwright.hw.sched.widths import narrow_layout
from bitwright.hw.storage import Storage
from bitwright.sim.cycles import simulate
from bitwright.sim.graph import (
    AveragePool,
    Binary,
    Concatenate,
    Convolution,
    Dequantize,
    FullyConnected,
    Graph,
    Lookup,
    MaxPool,
    NetworkError,
    Pad,
    Quantize,
    Reshape,
    Select,
    Transpose,
    Upsample,
    on_host,
)

from .arena import Arena, Lifetime
from .averages import in_two
from .fusion import addable, alone, fusible, overlaps, with_sums
from .host_part import HostPart
from .joins import apart, unaligned
from .layer import Cut, Layer, Part, Tail, Tile, packs
from .lowering import Operation, lower
from .places import View, views
from .precision import affine_of, choose_precisions, mode_of, parts
from .program import LayerPlan, Placement, Program
from .residence import plan_residence
from .scheduling import Image, Kept, Region, Ring, Schedule, ceil_div, ranges

__all__ = ["SNAPSHOT_BYTES", "compile_graph"]

SNAPSHOT_BYTES = 4 * len(COUNTERS)

_LOOKAHEAD = 8  # COMPUTE instructions that loads are placed ahead of
_CANDIDATES = 8  # cuts that are scheduled
_SCHEDULED_TILES = 400  # tiles of a cut that are scheduled to see how quick it is

Load = Callable[[Region, set[int]], set[int]]
Need = tuple[object, int, Load]
"""What a tile needs of a scratchpad: key, scratchpad rows, and how to load it."""


class _Mapper:
    """Schedules layer after layer."""

    def __init__(self, config: EngineConfig, image: Image):
        self.config = config
        self.image = image
        self.schedule = Schedule()
        self.rings = {buffer: Ring(geometry.rows) for buffer, geometry in geometries(config).items()}
        self.output = Ring(config.output_depth)
        self.in_force: dict[Opcode, dict[str, int]] = {}  # what the last GEOMETRY and WINDOW have set
        self.weights: dict[bytes, int] = {}  # where in memory, by their digest
        # Of the places that have been stored, by address: first byte, end, STORE
        self.stores: dict[int, list[tuple[int, int, int]]] = {}
        self.widths = {
            opcode: {str(name): field.width for name, field in narrow_layout(config, opcode)}
            for opcode in (Opcode.COMPUTE, Opcode.GEOMETRY, Opcode.WINDOW)
        }

    def block(self, address: int, words: int) -> dict[str, int]:
        """Fields of a contiguous block."""
        banks = geometries(self.config)[Buffer.ACTIVATIONS].banks
        row = min(words, (1 << 15) // banks * banks)
        return {"memory": address // self.config.bus_bytes, "beats": words, "row_beats": row, "stride": row}

    def snapshot(self) -> int:
        """Leave the counters in memory; returns where."""
        address = self.image.reserve(SNAPSHOT_BYTES)
        self.schedule.add(
            Opcode.SNAPSHOT, set(), **self.block(address, SNAPSHOT_BYTES // self.config.bus_bytes)
        )
        return address

    def layer(self, layer: Layer, cut: Cut, most_tiles: int | None = None) -> None:
        """Schedule one layer; or no more than so many tiles of it, to see how long they take."""
        self._keep(layer)
        identity = layer.operation.name
        tiles = layer.tiles(cut)
        columns = ranges(layer.col_groups, cut.col_groups)
        channels = layer.geometry[Buffer.CHANNELS]
        all_channels = layer.col_groups * layer.channel_words * 2 <= channels.rows
        contents: dict[object, tuple[bytes, bytes]] = {}
        channel_addresses: dict[object, int] = {}

        def weights(groups: range, part: Part) -> Need:
            place = (groups, part)
            if place not in contents:
                data = layer.weight_bytes(groups, part, cut.down)
                # The same weights again, as those that leave channels as they are, are loaded once.
                contents[place] = hashlib.sha256(data).digest(), data
            digest, data = contents[place]
            size = layer.weight_rows(len(groups), part)

            def load(region: Region, after: set[int]) -> set[int]:
                if digest not in self.weights:
                    self.weights[digest] = self.image.put(data)
                words = size * layer.geometry[Buffer.WEIGHTS].banks
                return self._load(Buffer.WEIGHTS, region, after, self.weights[digest], words)

            return digest, size, load

        def parameters(groups: range) -> Need:
            if all_channels:
                groups = range(layer.col_groups)
            key = (identity, groups)
            size = len(groups) * layer.channel_words

            def load(region: Region, after: set[int]) -> set[int]:
                if key not in channel_addresses:
                    channel_addresses[key] = self.image.put(layer.channel_bytes(groups))
                return self._load(
                    Buffer.CHANNELS, region, after, channel_addresses[key], size * channels.banks
                )

            return key, size, load

        def tables() -> Need:
            def load(region: Region, after: set[int]) -> set[int]:
                data = layer.table_bytes()
                words = len(data) // self.config.bus_bytes
                return self._load(Buffer.TABLES, region, after, self.image.put(data), words)

            return identity, layer.geometry[Buffer.TABLES].rows, load

        if cut.columns_outer:
            order = [(tile, cols) for cols in columns for tile in tiles]
        else:
            order = [(tile, cols) for tile in tiles for cols in columns]
        work = [(tile, cols, part) for tile, cols in order for part in layer.divisions[cut.parts]]
        if most_tiles is not None:
            work = work[:most_tiles]
        needs = [
            {
                **(
                    {Buffer.ACTIVATIONS: self._activations(layer, tile, part)}
                    if any(reader.loaded for reader in layer.readers)
                    else {}
                ),
                **({Buffer.CHANNELS: parameters(cols)} if layer.channel_words else {}),
                **({Buffer.TABLES: tables()} if layer.operation.tables is not None else {}),
                Buffer.WEIGHTS: weights(cols, part),
            }
            for tile, cols, part in work
        ]
        # Activations that another layer makes are there last; ask for everything else before.
        late = any(source.address in self.stores for reader in layer.readers for source in reader.loaded)
        others = (Buffer.CHANNELS, Buffer.TABLES, Buffer.WEIGHTS)
        for number, (tile, cols, part) in enumerate(work):
            window = range(number, min(number + _LOOKAHEAD, len(work)))
            if number == 0 and late:
                self._prefetch(needs, window, others)
            self._prefetch(needs, window, (Buffer.ACTIVATIONS, *others))
            self._compute(layer, cut, needs[number], tile, cols, part)

    def _load(self, buffer: Buffer, region: Region, after: set[int], address: int, words: int) -> set[int]:
        """Load a contiguous block."""
        return {
            self.schedule.add(
                Opcode.LOAD, after, buffer=buffer, scratch=region.start, **self.block(address, words)
            )
        }

    def _activations(self, layer: Layer, tile: Tile, part: Part) -> Need:
        """The part of what is loaded, or of both sources one behind the other, that a tile sees."""
        maps: list[tuple[Placement, Layer, int, range, range, Part | None]] = []
        key: list[object] = []
        total = 0
        for reader in layer.readers:
            seen = reader.seen(part)
            rows, compact = reader.pixel_rows(seen.blocks)
            lines, pixels = reader.region(tile)
            for source in reader.loaded:
                key.append((source.address, lines, pixels, rows, seen.blocks if compact else None))
                maps.append((source, reader, total, lines, pixels, seen if compact else None))
                total += len(lines) * len(pixels) * rows

        def load(region: Region, after: set[int]) -> set[int]:
            loads = set()
            for source, reader, offset, lines, pixels, compact in maps:
                loads |= self._load_map(source, reader, region.start + offset, after, lines, pixels, compact)
            return loads

        return tuple(key), total, load

    def _load_map(
        self,
        source: Placement,
        layer: Layer,
        scratch: int,
        after: set[int],
        lines: range,
        pixels: range,
        part: Part | None,
    ) -> set[int]:
        """Load some lines and pixels of a source; of each pixel some blocks, or all that lies there."""
        banks = layer.geometry[Buffer.ACTIVATIONS].banks
        stride = source.stride // self.config.bus_bytes
        words = stride
        offset = 0
        if part is not None:
            words = layer.pixel_rows(part.blocks)[0] * banks
            bits = layer.schedule.activation_words * self.config.activation_word_bits
            offset = part.blocks.start * bits // 8
        # Whole lines follow each other.
        runs = [range(line, line + 1) for line in lines] if len(pixels) < layer.map_width else [lines]
        if words == stride and len(runs) > 1:
            runs = [lines]
        loads = set()
        for run in runs:
            first = run.start * layer.map_width + pixels.start
            end = (run.stop - 1) * layer.map_width + pixels.stop
            count = len(run) * len(pixels)
            block = self.block(source.address + first * source.stride + offset, count * words)
            if words != stride:
                block |= {"row_beats": words, "stride": stride} if count > 1 else {}
            elif len(run) > 1 and len(pixels) < layer.map_width:
                block |= {"row_beats": len(pixels) * words, "stride": layer.map_width * stride}
            loads.add(
                self.schedule.add(
                    Opcode.LOAD,
                    after | self._stores(source, first, end),
                    buffer=Buffer.ACTIVATIONS,
                    scratch=scratch + (run.start - lines.start) * len(pixels) * words // banks,
                    **block,
                )
            )
        return loads

    def _stores(self, source: Placement, first: int, end: int) -> set[int]:
        """The STOREs that have made some rows of a source."""
        return {
            store
            for begin, stop, store in self.stores.get(source.address, ())
            if begin < end * source.stride and first * source.stride < stop
        }

    def _keep(self, layer: Layer) -> None:
        """Room for what a layer finds and leaves on chip."""
        ring = self.rings[Buffer.ACTIVATIONS]
        ring.bound(layer.residence.low, layer.residence.high)
        result = layer.residence.result
        for kept in (*layer.residence.sources.values(), *([result] if result else ())):
            if not ring.find(kept):
                ring.claim(kept, kept.start, kept.rows)

    def _output_steps(self, layer: Layer, cut: Cut, tile: Tile, pixel: int) -> dict[str, int]:
        """Fields of a COMPUTE that say where results go, which lie pixel by pixel, so many granules each."""
        if not layer.chains:
            return {
                "output_row": pixel,
                "output_group": pixel * max(1, self.config.rows // layer.patches),
            }
        across = pixel * len(tile.pixels)
        return {
            "chain": 1,
            "lead": layer.lead(cut.down),
            "output_row": pixel if cut.down else across,
            "output_group": across if cut.down else pixel,
        }

    def _prefetch(
        self, needs: Sequence[Mapping[Buffer, Need]], window: range, buffers: Sequence[Buffer]
    ) -> None:
        """Load what the tiles of the window need and is not there, as far as it fits."""
        blocked: set[Buffer] = set()
        pinned: dict[Buffer, set[object]] = {buffer: set() for buffer in buffers}
        for number in window:
            for buffer in buffers:
                if buffer in blocked or buffer not in needs[number]:
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
                region.writers |= load(region, after)
            if len(blocked) == len(buffers):
                return

    def _set(self, opcode: Opcode, fields: dict[str, int]) -> None:
        """A GEOMETRY or WINDOW, if it is not the one in force."""
        widths = self.widths[opcode]
        fields = {name: kept for name, value in fields.items() if (kept := value & (1 << widths[name]) - 1)}
        if fields != self.in_force.get(opcode, {}):
            self.in_force[opcode] = fields
            self.schedule.add(opcode, set(), **fields)

    def _compute(
        self, layer: Layer, cut: Cut, need: Mapping[Buffer, Need], tile: Tile, cols: range, part: Part
    ) -> None:
        config = self.config
        after: set[int] = set()
        regions = {}
        for buffer, (key, _, _) in need.items():
            region = self.rings[buffer].find(key)
            assert region is not None
            regions[buffer] = region
            after |= region.writers
        starts, read, written = self._operands(layer, tile, part, regions.get(Buffer.ACTIVATIONS))
        after |= written
        groups = layer.row_groups(tile)
        width = layer.row_words if cut.store_rows else layer.output_words(len(cols))
        output_key = (layer.operation.name, tile, None if cut.store_rows else cols)
        output = self.output.find(output_key)
        if output is None:
            allocated = self.output.allocate(output_key, layer.result_rows(tile) * width, set())
            assert allocated is not None
            output, freed = allocated
            output.writers |= freed  # whoever wrote or read here before; ordered with the first COMPUTE
        after |= output.writers
        per_word = config.granules_per_word
        offset = layer.granule(cols.start) if cut.store_rows else 0
        channels = 0
        if layer.channel_words:
            region = regions[Buffer.CHANNELS]
            # The parameters of all channels may be there, or the tile's.
            all_channels = region.end - region.start != len(cols) * layer.channel_words
            channels = region.start + (cols.start * layer.channel_words if all_channels else 0)
        self._set(Opcode.GEOMETRY, layer.geometry_fields(tile, part, cut.down))
        ratio = layer.geometry[Buffer.ACTIVATIONS].ratio
        self._set(Opcode.WINDOW, layer.window_fields(tile, part, cols, starts))
        first_word = starts[0] * ratio + layer.first_word(tile, part, cols.start)
        division = layer.divisions[cut.parts]
        drain = part == division[-1]
        number = self.schedule.add(
            Opcode.COMPUTE,
            after,
            drain=int(drain),
            precision=config.formats.index(layer.precision),
            result=layer.mode,
            group=(layer.first_group + cols.start) % config.block_groups,
            steps=layer.pixel_steps(part, cut.down),
            row_groups=groups,
            col_groups=len(cols),
            activations=first_word & (1 << self.widths[Opcode.COMPUTE]["activations"]) - 1,
            weights=regions[Buffer.WEIGHTS].start * layer.geometry[Buffer.WEIGHTS].ratio,
            channels=channels,
            output=output.start * per_word + offset,
            pack=int(layer.packed),
            **self._output_steps(layer, cut, tile, width * per_word),
        )
        for region in (*regions.values(), *read):
            region.readers.add(number)
        output.writers = {number}
        if not drain or (cut.store_rows and cols.stop != layer.col_groups):
            return

        result = layer.result
        offset = layer.granule(layer.first_group) * config.granule_bits // 8
        offset += config.granule(result.storage, layer.first_channel) * config.granule_bits // 8
        if not cut.store_rows:
            offset += layer.granule(cols.start) * config.granule_bits // 8
        kept = layer.residence.result
        on_chip = self.rings[Buffer.ACTIVATIONS].find(kept) if kept is not None else None
        for lines in [tile.lines] if layer.whole_map else [range(y, y + 1) for y in tile.lines]:
            first = layer.stored_pixel(lines.start, tile.pixels.start)
            end = layer.stored_pixel(lines[-1], tile.pixels[-1]) + 1
            pixels = len(lines) * len(tile.pixels)
            block = self.block(result.address + first * result.stride + offset, pixels * width)
            pitch = (
                result.stride // config.bus_bytes * (1 if layer.whole_map else layer.operation.pixel_step[1])
            )
            if pixels > 1 and width != pitch:
                block |= {"row_beats": width, "stride": pitch}
            after = {number}
            if kept is not None and on_chip is not None:
                after |= on_chip.before
                block |= self._forwarding(kept, block, stored=layer.residence.stored)
            begin = (lines.start - tile.lines.start) * len(tile.pixels) * width
            store = self.schedule.add(Opcode.STORE, after, scratch=output.start + begin, **block)
            output.readers.add(store)
            if on_chip is not None:
                on_chip.writers.add(store)
            places = (first * result.stride, end * result.stride, store)
            self.stores.setdefault(result.address, []).append(places)

    def _operands(
        self, layer: Layer, tile: Tile, part: Part, region: Region | None
    ) -> tuple[list[int], list[Region], set[int]]:
        """Scratchpad rows where a tile's part of each source begins; of those that are on chip, the regions
        and the instructions that have written what it sees.
        """
        starts, read = [], []
        written: set[int] = set()
        loaded = 0
        for reader in layer.readers:
            blocks = reader.seen(part).blocks
            lines, pixels = reader.region(tile)
            for source in reader.operands:
                kept = layer.residence.sources.get(source.address)
                if kept is None:
                    assert region is not None
                    starts.append(region.start + loaded)
                    loaded += len(lines) * len(pixels) * reader.pixel_rows(blocks)[0]
                    continue
                starts.append(kept.start + lines.start * reader.map_width * reader.pitch)
                found = self.rings[Buffer.ACTIVATIONS].find(kept)
                assert found is not None
                read.append(found)
                written |= self._stores(source, lines.start * reader.map_width, lines.stop * reader.map_width)
        return starts, read, written

    def _forwarding(self, kept: Kept, block: Mapping[str, int], *, stored: bool) -> dict[str, int]:
        """Fields of a STORE of a block that goes to the activation scratchpad, too, or only there."""
        banks = geometries(self.config)[Buffer.ACTIVATIONS].banks
        row, bank = divmod(block["memory"] - kept.address // self.config.bus_bytes, banks)
        return {
            "forward": 1,
            "only": int(not stored),
            "place": kept.start + row,
            "bank": bank,
            "pitch": block["stride"] // banks if block["beats"] > block["row_beats"] else 0,
        }


def _best_cut(layer: Layer) -> Cut:
    """The cut that the cycle model likes best, of those that look best."""
    cuts = sorted(set(layer.cuts()), key=layer.estimate)
    if not cuts:
        raise NetworkError(
            layer.where,
            "no tile of it fits the scratchpads",
            "raise output_depth, channel_depth, activation_depth or weight_depth",
        )

    def cycles(cut: Cut) -> float:
        mapper = _Mapper(layer.config, Image(layer.config))
        mapper.layer(layer, cut, _SCHEDULED_TILES)
        share = max(1.0, layer.tile_count(cut) / _SCHEDULED_TILES)
        return simulate(layer.config, mapper.schedule.finish(layer.config)).total * share

    # Cuts into many small tiles take long to schedule and are never the best by far.
    least = min(map(layer.tile_count, cuts))
    few = [cut for cut in cuts if layer.tile_count(cut) <= 4 * least + 64]
    candidates = (few or cuts)[:_CANDIDATES]
    return candidates[0] if len(candidates) == 1 else min(candidates, key=cycles)


# Tensors


def _check_support(graph: Graph) -> None:
    """Refuse by name what no engine runs, before anything is written."""
    for node in graph.nodes:
        where = f"node '{node.name}'"
        if isinstance(node, Quantize) and node.input != graph.input:
            raise NetworkError(where, "quantises inside the network", "only the network's input may be float")
        if isinstance(node, Dequantize) and node.output != graph.output:
            raise NetworkError(
                where, "dequantises inside the network", "only the network's output may be float"
            )
        known = isinstance(
            node,
            Quantize
            | Dequantize
            | Reshape
            | Transpose
            | FullyConnected
            | Convolution
            | AveragePool
            | MaxPool
            | Binary
            | Lookup
            | Pad
            | Concatenate
            | Select
            | Upsample,
        )
        if not (known or on_host(node)):
            raise NetworkError(
                where, f"is a {type(node).__name__}, which no engine runs yet", "leave it out of the network"
            )


def _place(
    graph: Graph,
    config: EngineConfig,
    arena: Arena,
    operations: Sequence[Operation],
    found: Mapping[str, View],
    storages: Mapping[str, Storage],
) -> dict[str, Placement]:
    """Where every integer tensor lies. Tensors that only relabel another share its place."""
    # What the operations ask of each place: pixels, channels, and the bits that a pixel must have room for.
    asked: dict[str, list[tuple[str, int, int, int]]] = {}

    def ask(name: str, pixels: int, own: int, channels: int) -> None:
        place = found[name].leader
        bits = storages[place].row_bits(channels)
        room = ceil_div(bits, config.row_bits) * config.row_bits
        asked.setdefault(place, []).append((name, pixels, own, room))

    # The network's input can have lines without gaps, as the host writes it.
    written = {found[operation.output].leader for operation in operations}
    reading = [found[source].leader for operation in operations for source in operation.sources]
    lines = {
        place
        for operation in operations
        if (place := found[operation.source].leader) not in written
        and reading.count(place) == 1
        and found[operation.source].place == found[place].place
        and packs(operation, config, storages[place])
    }
    for operation in operations:
        channels = ceil_div(operation.channels, config.group_channels) * config.group_channels
        channels += operation.first_channel or 0
        if found[operation.source].leader in lines:
            height, width = operation.map
            line = width * operation.input_channels
            ask(operation.source, height, line, line)
        for reader in operation.readers:
            for source in reader.operands:
                if found[source].leader not in lines:
                    ask(source, prod(reader.map), reader.input_channels, reader.input_channels)
        whole = found[operation.output].place
        ask(operation.output, prod(whole[:3]), whole[3], channels)
    for view in found.values():
        if view.leader not in asked:
            ask(view.leader, prod(view.place[:3]), view.place[3], view.place[3])
    layouts: dict[str, tuple[int, int]] = {}
    for place, asking in asked.items():
        storage = storages[place]
        pixels, channels = prod(found[place].place[:3]), found[place].place[3]
        if place in lines:
            pixels, channels = prod(found[place].place[:2]), prod(found[place].place[2:])
        room = max(each[3] for each in asking if each[2] == channels or each[1:3] == (pixels, channels))
        if len({own for _, _, own, _ in asking}) > 1:
            # Pixels of different sizes can share a place only if none of them is padded.
            for name, _, own, asked_room in asking:
                if asked_room != own * storage.bits or found[name].axes != (0, 1, 2, 3):
                    raise NetworkError(
                        f"tensor '{name}'",
                        f"is reshaped between layers, and its rows of {own} elements would need padding",
                        f"rows must be multiples of {ceil_div(config.row_bits, storage.bits)} elements, "
                        f"and results of {config.group_channels} columns",
                    )
        layouts[place] = (arena.reserve(pixels * room // 8), room)
    placements: dict[str, Placement] = {}
    for name, view in found.items():
        tensor = graph.tensors[name]
        assert tensor.format is not None
        address, room = layouts[view.leader]
        storage = storages[view.leader]
        affine = affine_of(tensor.format, storage.format)
        assert affine is not None
        placements[name] = Placement(
            name=name,
            shape=tensor.shape,
            place=view.place,
            axes=view.axes,
            lines=view.leader in lines,
            zero=tensor.zero_point,
            address=address,
            stride=room // 8,
            scale=affine[0],
            offset=affine[1],
            storage=storage,
        )
    return placements


def _read_by_host(graph: Graph) -> set[str]:
    """Tensors that the host takes from memory: the output, and what it computes that from."""
    hosts = [node for node in graph.nodes if isinstance(node, Dequantize) or on_host(node)]
    return {graph.output, *(name for node in hosts for name in node.inputs)}


def _source(placement: Placement, operation: Operation) -> Placement:
    """The place of a source as an operation looks at it: other pixels, if nothing is padded."""
    channels = operation.input_channels
    if placement.lines or channels == placement.columns:
        return placement
    return replace(placement, stride=channels * placement.storage.bits // 8)


@dataclass(frozen=True)
class _Prepared:
    """What is to be done, and where everything lies, before it is cut into tiles."""

    graph: Graph
    config: EngineConfig
    arena: Arena
    operations: Sequence[Operation]
    views: Mapping[str, View]
    precisions: Mapping[str, Precision]
    storages: Mapping[str, Storage]
    placements: dict[str, Placement]

    def unaligned(self) -> dict[str, int]:
        """Joins that no store can make as they are; see :func:`~bitwright.gen.joins.unaligned`."""
        return unaligned(self.graph, self.config, self.operations, self.views, self.storages)

    def layer(self, operation: Operation) -> Layer:
        """An operation where its tensors lie."""
        config, placements = self.config, self.placements
        result = placements[operation.output]
        sources = [_source(placements[source], operation) for source in operation.operands]
        mode = mode_of(operation, config, result.storage)
        second = sources[1] if operation.second is not None else None
        precision = self.precisions[operation.name]
        tail = None
        if (other := operation.tail) is not None:
            tail = Tail(config, other, _source(placements[other.source], other), result, precision, mode)
        return Layer(config, operation, sources[0], result, precision, mode, second=second, tail=tail)

    def estimate(self, names: Collection[str]) -> float:
        """Cycles of some operations, roughly; infinite where one does not fit."""
        total = 0.0
        try:
            for operation in self.operations:
                if operation.name in names:
                    for layer in _layers(self.layer(operation)):
                        total += min(map(layer.estimate, layer.cuts()), default=inf)
        except NetworkError:
            return inf
        return total


def _prepared(graph: Graph, config: EngineConfig, *, sums: bool) -> _Prepared:
    """Chooses which max pools and, if asked to, which sums the convolutions in front of them do.

    A sum is where that is quicker, as estimated. Of two convolutions in front of it, the last one that can
    does it. Both operands are stored as what the convolution reads is, for which nothing may have to run at
    another precision.
    """
    prepared = _with_pools(graph, config)
    read = _read_by_host(graph)
    found = addable(config, prepared.operations, prepared.views, read) if sums else {}
    chosen: dict[str, str] = {}
    for name, makers in found.items():
        for maker in makers:
            if maker in chosen.values():
                continue
            try:
                together = _with_sums(prepared, chosen | {name: maker})
            except NetworkError:
                continue
            same = all(prepared.precisions[each] == own for each, own in together.precisions.items())
            if same and together.estimate({maker}) < prepared.estimate({maker, name}):
                chosen[name] = maker
                break
    return _with_sums(prepared, chosen) if chosen else prepared


def _with_sums(prepared: _Prepared, chosen: Mapping[str, str]) -> _Prepared:
    operations = with_sums(prepared.operations, prepared.views, chosen)
    # What something is added to at once is nowhere in memory.
    named = {operation.name: operation for operation in prepared.operations}
    gone = {prepared.views[named[maker].output].leader for maker in chosen.values()}
    there = {name: view for name, view in prepared.views.items() if view.leader not in gone}
    return _placed(prepared.graph, prepared.config, operations, there)


def _with_pools(graph: Graph, config: EngineConfig) -> _Prepared:
    """Chooses which max pools the convolutions in front of them do: the rest are passes of their own.

    Where windows do not overlap, that mostly saves a pass, and the quicker of the two is taken. It is the
    pass where the convolution alone is chained or packed, or shares patches among more columns. Where windows
    overlap, positions would be computed several times: that is for what no pass can do.
    """
    found = views(graph)
    pools = fusible(graph, found, config)
    needed = {name: pool for name, pool in pools.items() if not alone(graph, pool, config)}

    def possible(fused: Mapping[str, MaxPool]) -> _Prepared | None:
        try:
            return _prepared_with(graph, config, found, fused)
        except NetworkError:
            return None

    apart = possible(needed) if len(needed) < len(pools) else None
    if apart is None:
        return _prepared_with(graph, config, found, pools)
    together = possible(pools)
    if together is None:
        # A pool's results may be stored in a way in which the convolution's cannot.
        pools = {name: pool for name, pool in pools.items() if possible({**needed, name: pool})}
        together = _prepared_with(graph, config, found, pools)
    chosen = dict(needed)
    for name, pool in pools.items():
        separate = apart.estimate({name, pool.name})
        if overlaps(graph, pool) and separate < inf:
            continue
        if (fused := together.estimate({name})) <= separate and fused < inf:
            chosen[name] = pool
    return _prepared_with(graph, config, found, chosen)


def _prepared_with(
    graph: Graph, config: EngineConfig, found: Mapping[str, View], fused: Mapping[str, MaxPool]
) -> _Prepared:
    # What is pooled at once is nowhere in memory.
    gone = {found[pool.input].leader for pool in fused.values()}
    there = {name: view for name, view in found.items() if view.leader not in gone}
    operations = lower(graph, found, fused, requantises="requantise" in config.quantisers)
    for operation in operations:
        _check_length(operation, config)
    return _placed(graph, config, operations, there)


def _placed(
    graph: Graph, config: EngineConfig, operations: Sequence[Operation], views: Mapping[str, View]
) -> _Prepared:
    precisions, storages = choose_precisions(graph, config, operations, views)
    arena = Arena(Image(config).align)
    placements = _place(graph, config, arena, operations, views, storages)
    return _Prepared(graph, config, arena, operations, views, precisions, storages, placements)


def compile_graph(
    graph: Graph,
    config: EngineConfig,
    *,
    tensors: Literal["all", "needed"] = "all",
    fuse_sums: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Program:
    """Instructions and memory image of a network for an engine.

    Parameters
    ----------
    graph
        The network.
    config
        The engine.
    tensors
        Which tensors the engine leaves in memory, where they can be compared: `all`, or those that are
        `needed` there because the host or a layer reads them from it.
    fuse_sums
        Whether a sum of two tensors may be part of the convolution in front of it. Then what that convolution
        makes by itself is nowhere in memory.
    progress
        Called with the name of each layer as it is mapped.

    Raises
    ------
    NetworkError
        The engine cannot run the network; the message names the node or tensor.
    """
    _check_support(graph)
    halved = in_two(graph)
    try:
        return _compiled(graph, halved, config, tensors, progress, sums=fuse_sums)
    except NetworkError:
        if not config.tails or not fuse_sums:
            raise
    # A sum by itself may find more room.
    return _compiled(graph, halved, config, tensors, progress, sums=False)


def _compiled(
    graph: Graph,
    halved: Graph,
    config: EngineConfig,
    tensors: Literal["all", "needed"],
    progress: Callable[[str], None] | None,
    *,
    sums: bool,
) -> Program:
    """A network, of whose averages some are made in two, with sums that convolutions do or without."""
    prepared = _prepared(halved, config, sums=sums)
    while units := prepared.unaligned():
        prepared = _prepared(apart(prepared.graph, units), config, sums=sums)
    image, placements = Image(config), prepared.placements
    mapper = _Mapper(config, image)
    plans: list[tuple[str, int, int, str, str]] = []
    wholes = []
    for operation in prepared.operations:
        whole = prepared.layer(operation)
        wholes.append(whole)
        if operation.quantiser is None:
            # The engine leaves the bias to who reads them.
            placements[operation.output] = replace(
                whole.result, scale=whole.source.scale, bias=tuple(map(int, whole.bias()))
            )
    source = placements[HostPart.of(graph).source].address
    last = {placements[name].address for name in _read_by_host(graph) if name in placements}
    outputs = {whole.result.address for whole in wholes}
    if tensors == "needed":
        outputs &= last
    for whole, residence in zip(wholes, plan_residence(config, wholes, outputs=outputs), strict=True):
        operation = whole.operation
        whole.residence = residence
        if progress:
            progress(operation.name)
        used, tilings = [], []
        for layer in _layers(whole):
            cut = _best_cut(layer)
            mapper.layer(layer, cut)
            used.append(str(layer.precision))
            tiling = str(cut)
            if operation.pool is not None:
                tiling += f", pooled by '{operation.pool}'"
            if operation.tail is not None:
                tiling += f", added to by '{operation.tail.name}'"
            tilings.append(tiling)
        plans.append(
            (operation.name, operation.macs, mapper.snapshot(), " + ".join(used), " | ".join(tilings))
        )
    if not plans:
        raise NetworkError(f"graph '{graph.name}'", "has no layer that the engine computes")
    arrangement = prepared.arena.arrange(_lifetimes(wholes, source, outputs | last))
    # The program is as long with any addresses, and the tensors lie behind it.
    address = image.reserve(len(mapper.schedule.pending) * INSTRUCTION_BITS // 8)
    base = image.reserve(arrangement.size)
    arrangement.relocate(base, config, mapper.schedule.pending)
    instructions = mapper.schedule.finish(config)
    image.write(address, b"".join(instruction.encode() for instruction in instructions))
    placements = {
        name: replace(
            placement,
            address=base + arrangement.offsets[place] if place in arrangement.offsets else 0,
            stored=place in arrangement.offsets and place not in arrangement.overwritten,
        )
        for name, placement in placements.items()
        if name in graph.tensors  # and none of the mapper's own
        for place in (placement.address,)
    }
    ends = simulate(config, instructions).snapshots
    layers = [
        LayerPlan(
            name=name,
            macs=macs,
            snapshot=snapshot,
            predicted_cycles=end - begin,
            precision=precision,
            tiling=tiling,
        )
        for (name, macs, snapshot, precision, tiling), end, begin in zip(
            plans, ends, [0, *ends], strict=False
        )
    ]
    return Program(
        network=graph.name,
        config=config,
        instructions=instructions,
        image=image.contents(),
        memory_bytes=ceil_div(image.size, 4096) * 4096,
        program_address=address,
        placements=placements,
        layers=layers,
        host=HostPart.of(graph),
    )


def _lifetimes(wholes: Sequence[Layer], source: int, last: Collection[int]) -> dict[int, Lifetime]:
    """When the tensors that are in memory must be there, by the addresses that stand for them.

    The network's input stays, so that an inference can be repeated; so does what the host reads at the end.
    """
    used: dict[int, list[int]] = {}
    for number, layer in enumerate(wholes):
        if layer.residence.stored:
            used.setdefault(layer.result.address, []).append(number)
        for reader in layer.readers:
            for operand in reader.operands:
                if operand.address not in layer.residence.sources:
                    used.setdefault(operand.address, []).append(number)
    found = {tensor: Lifetime(numbers[0], numbers[-1]) for tensor, numbers in used.items()}
    end = len(wholes)
    for tensor in (*last, source):
        first = -1 if tensor == source or tensor not in found else found[tensor].first
        found[tensor] = Lifetime(first, end)
    return found


def _check_length(operation: Operation, config: EngineConfig) -> None:
    if operation.reduction > config.reduction:
        raise NetworkError(
            f"node '{operation.name}'",
            f"dot products of {operation.reduction} terms exceed the engine's longest, {config.reduction}",
            f"choose a configuration with reduction = {operation.reduction} or more",
        )


def _layers(whole: Layer) -> list[Layer]:
    """A layer, or its runs of columns of one precision, where these can be cut into tiles."""
    runs = parts(whole)
    if len(runs) == 1:
        return [whole]
    layers = [
        Layer(
            whole.config,
            operation,
            whole.source,
            whole.result,
            precision,
            whole.mode,
            first_group,
            residence=whole.residence,
        )
        for operation, precision, first_group in runs
    ]
    return layers if all(map(_has_cuts, layers)) else [whole]


def _has_cuts(layer: Layer) -> bool:
    try:
        return any(True for _ in layer.cuts())
    except NetworkError:
        return False
