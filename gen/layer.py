"""An operation on an engine: its sizes in the engine's units, its parameters packed, the ways to cut it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.config import CHANNEL_BITS, TABLE_ENTRIES, THRESHOLDS_PER_WORD, EngineConfig
from bitwright.hw.formats import Format, Int
from bitwright.hw.memory.scratchpad import Geometry, geometries
from bitwright.hw.pe.contract import Order, Precision
from bitwright.hw.quant.combine import FRACTION
from bitwright.hw.quant.requantise import encode_channel
from bitwright.hw.quant.thresholds import LEVEL, encode_level
from bitwright.hw.sched.isa import Buffer, Combine
from bitwright.hw.storage import Storage
from bitwright.sim.graph import NetworkError, Requantise, Thresholds

from .lowering import Operation
from .program import Placement
from .scheduling import Residence, ceil_div, ranges

__all__ = ["Cut", "Layer", "Part", "Tail", "Tile", "has_zero", "packs", "span_blocks"]


@dataclass(frozen=True)
class Part:
    """Some terms of every dot product: taps of some columns and rows of the kernel, some channels of each.

    A part of several taps has all blocks; one of several columns all rows.
    """

    columns: range
    rows: range
    blocks: range

    @property
    def count(self) -> int:
        """Blocks of all its taps."""
        return len(self.columns) * len(self.rows) * len(self.blocks)


@dataclass(frozen=True)
class Tile:
    """Some output pixels: whole lines, or a part of one."""

    lines: range
    pixels: range

    @property
    def count(self) -> int:
        """How many pixels."""
        return len(self.lines) * len(self.pixels)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a layer is cut: tiles of pixels, groups of columns, parts of the terms, and which loop is outer."""

    lines: int
    pixels: int
    col_groups: int
    parts: int  # place among the layer's divisions of its terms
    columns_outer: bool
    down: bool  # of a chain: whether its lines run along the height
    store_rows: bool  # one STORE for all columns of a tile's pixels

    def __str__(self) -> str:
        order = "columns, pixels" if self.columns_outer else "pixels, columns"
        down = ", down" if self.down else ""
        return f"{self.lines} x {self.pixels} pixels{down} x {self.col_groups} column groups; {order}"


class Layer:
    """An operation on an engine, or some of its columns.

    Terms of a dot product are taken tap by tap, columns of the kernel outside, rows inside, and in a tap
    block by block of channels. The output channels of a group of columns see the same blocks, those of all
    groups of the convolution that they belong to; where a channel has no weight there, it is 0.

    Where the source's lines have no gaps the terms lie side by side instead, rows of the kernel outside. In a
    chain a group of columns is one of channels, and what a pixel shares with the one before is not played
    again.

    Where another tensor is added to the results before they are stored, its pixel is the tail of each patch
    (:class:`Tail`).
    """

    def __init__(
        self,
        config: EngineConfig,
        operation: Operation,
        source: Placement,
        result: Placement,
        precision: Precision,
        mode: int,
        first_group: int | None = None,
        second: Placement | None = None,
        residence: Residence | None = None,
        tail: "Tail | None" = None,
    ):
        self.second = second
        self.tail = tail
        # Of a part of a layer's columns, the group of columns that comes first
        self.first_group = first_group or 0
        self.is_part = first_group is not None or operation.first_channel is not None
        self.first_channel = operation.first_channel or 0
        self.config = config
        self.operation = operation
        self.source = source
        self.result = result
        self.geometry = geometries(config)
        self.residence = residence or Residence(0, self.geometry[Buffer.ACTIVATIONS].rows)
        self.precision = precision
        self.mode = mode
        self.quantiser = config.modes[mode].quantiser
        self.schedule = config.schedules[config.formats.index(precision)]
        self.chains = [down for down in (False, True) if self._lead(down) is not None]
        """Directions of the lines of chains that it can be computed by; none if by none."""
        self.group_channels = config.chained if self.chains else config.group_channels
        """Output channels of a group of columns: in a chain one for each lane."""
        self.channel_words = self.group_channels // config.requantisers * config.modes[mode].channel_words
        if tail is not None:
            self.channel_words += tail.channel_words
        self.height, self.width = operation.map
        self.out_height, self.out_width = operation.result_map
        self.packed = source.lines
        """Whether taps lie side by side in the lanes, as the source's lines have no gaps."""
        self.map_width = 1 if self.packed else self.width
        """Pixels of a line of the source, or its line if it is not divided."""
        self.col_groups = ceil_div(operation.channels, self.group_channels)
        self.result_words = result.stride // config.bus_bytes
        self.whole_map = operation.result_map == result.place[1:3] or prod(operation.result_map) == prod(
            result.place[:3]
        )
        """Whether it makes all pixels of the output."""
        self.where = f"node '{operation.name}'"
        if operation.pool is not None:
            self.where += f", with the max pool '{operation.pool}'"
        if tail is not None:
            self.where += f", with the sum '{tail.operation.name}'"
        block = self.schedule.stored_steps.size
        self.spans = spans(operation, self.group_channels, block)
        """Of each group of columns the first block of channels that it sees."""
        self.span_blocks = span_blocks(operation, self.group_channels, block)
        """How many it sees."""
        self.dense = len(set(self.spans)) == 1
        self.patches = prod(operation.window)
        """Patches of a pixel."""
        self.taps = prod(operation.kernel)
        rows, columns = operation.kernel
        if self.packed:
            rows = columns = 1
            self.span_blocks = ceil_div(operation.reduction, block)
        self.divisions = list(self._divisions(range(columns), range(rows), range(self.span_blocks)))
        """Ways to divide the terms, coarser ones first."""
        self._check()

    def _check(self) -> None:
        operation, config = self.operation, self.config
        if operation.pads and self.pad_code is None:
            raise NetworkError(
                self.where,
                f"pads activations of {self.source.storage.format}, which have no such value",
                "choose a wider precision",
            )
        if not config.convolution and (
            not operation.pointwise or operation.combine is not Combine.NONE or not self.dense
        ):
            raise NetworkError(
                self.where,
                "is more than a matrix product, and the engine was built for these",
                "choose a configuration with convolution = true",
            )
        granule = config.granule(self.result.storage, self.first_channel)
        in_block = self.first_channel % self.result.storage.block if self.result.storage.planar else 0
        if granule % config.granules_per_word or in_block:
            raise NetworkError(
                self.where,
                f"is joined from channel {self.first_channel} on, in the middle of a word",
                "all but the last of what is joined must have a multiple of "
                f"{config.bus_bits // self.result.storage.bits} channels",
            )
        if operation.combine is Combine.NONE:
            return
        kind = operation.combine.name.lower()
        if kind not in config.combined:
            raise NetworkError(
                self.where,
                f"is made of several results ({kind}), which the engine does not combine",
                f"choose a configuration that has {kind} among `combine`",
            )
        if self.patches > 256:
            raise NetworkError(
                self.where, f"has windows of {self.patches} positions", "at most 256 are combined"
            )
        if self.patches < config.rows and config.rows % self.patches:
            raise NetworkError(
                self.where,
                f"combines {self.patches} results, and its {config.rows} rows are no multiple of that",
                "choose another number of rows",
            )

    def _divisions(self, columns: range, rows: range, blocks: range) -> Iterator[list[Part]]:
        yield [Part(columns, rows, blocks)]
        # What is combined, chained or packed is computed at once.
        if not self.config.unit.resumes(self.precision) or self.patches > 1 or self.chains or self.packed:
            return
        if self.tail is not None:
            return
        if len(columns) > 1:
            yield [Part(range(column, column + 1), rows, blocks) for column in columns]
        if len(rows) > 1:
            yield [
                Part(range(column, column + 1), range(row, row + 1), blocks)
                for column in columns
                for row in rows
            ]
        # Each part may be loaded alone, so it begins with a scratchpad row.
        ratio = self.geometry[Buffer.ACTIVATIONS].ratio
        unit = ratio // gcd(ratio, self.schedule.activation_words)
        size = len(blocks) // 2 // unit * unit
        while size:
            yield [
                Part(
                    range(column, column + 1),
                    range(row, row + 1),
                    range(first, min(first + size, blocks.stop)),
                )
                for column in columns
                for row in rows
                for first in range(0, blocks.stop, size)
            ]
            size = size // 2 // unit * unit

    # Chains

    def _lead(self, down: bool) -> int | None:
        """Words more of a line's first pixel than of others; None where lanes cannot keep enough taps.

        A pixel needs of a window of `reach` columns those that the one before it has not seen; the lanes must
        still have the others when the last of them comes.
        """
        operation, config = self.operation, self.config
        if (
            not config.chained
            or self.source.lines
            or operation.combine is not Combine.NONE
            or not operation.depthwise
        ):
            return None
        inner = 0 if down else 1
        if operation.stride[inner] > operation.kernel[inner] or operation.dilation[inner] > 1:
            return None
        words = prod(operation.kernel) * self.schedule.weight_words
        if words > config.weight_depth:
            return None
        lead = (operation.kernel[inner] - operation.stride[inner]) * operation.kernel[1 - inner]
        return lead if lead < config.chained else None

    def lead(self, down: bool) -> int:
        """The same, where there is a chain; 0 otherwise."""
        return (self._lead(down) or 0) if self.chains else 0

    def _chain_values(self, group: int, down: bool) -> NDArray[np.int64]:
        """Weights of a chain: column, step of a line's first pixel, lane.

        With step j of a pixel, lane `lanes - 1 - d` has the tap that came d words before. Each tap counts in
        the last step in which it is there. In the steps that other pixels do not have, all are 0.
        """
        config, operation = self.config, self.operation
        lanes = config.chained
        weights = operation.weights[group * lanes : (group + 1) * lanes, :, :, 0]
        # Taps come inner dimension by inner dimension, in each along the outer one.
        taps = (weights.transpose(0, 1, 2) if down else weights.transpose(0, 2, 1)).reshape(len(weights), -1)
        count = taps.shape[1]
        values = np.zeros((config.cols, count, lanes), np.int64)
        for tap in range(count):
            step = min(count - 1, tap + lanes - 1)
            values[: len(taps), step, lanes - 1 - (step - tap)] = taps[:, tap]
        return values

    # Sizes

    @property
    def group_pixels(self) -> int:
        """Pixels of a group of rows; 1 where a window takes several groups."""
        return max(1, self.config.rows // self.patches)

    @property
    def residence(self) -> Residence:
        """Which of its activations are on chip, and how much of the scratchpad is left for others."""
        return self._residence

    @residence.setter
    def residence(self, residence: Residence) -> None:
        self._residence = residence
        if self.tail is not None:
            self.tail.residence = residence

    @property
    def operands(self) -> tuple[Placement, ...]:
        """Where its operands lie, but for that of the tail."""
        return (self.source,) if self.second is None else (self.source, self.second)

    @property
    def readers(self) -> tuple["Layer", ...]:
        """Itself and its tail: each reads its operands in its own way."""
        return (self,) if self.tail is None else (self, self.tail)

    def seen(self, part: Part) -> Part:
        """What of a pixel a part sees."""
        return part

    @property
    def sources(self) -> tuple[Placement, ...]:
        """Where all its operands lie."""
        return tuple(source for reader in self.readers for source in reader.operands)

    @property
    def loaded(self) -> tuple[Placement, ...]:
        """Its operands that are loaded from memory, but for that of the tail."""
        return tuple(source for source in self.operands if source.address not in self.residence.sources)

    @property
    def _on_chip(self) -> bool:
        """Whether any of them is on chip."""
        return len(self.loaded) < len(self.operands)

    def steps(self, part: Part) -> int:
        """Steps of a dot product's part; of a chain, those of a line's first pixel."""
        return part.count * len(self.schedule.stored_steps)

    def pixel_steps(self, part: Part, down: bool) -> int:
        """Steps of a pixel that is not its line's first."""
        return self.steps(part) - self.lead(down)

    def patch_words(self, part: Part, groups: int = 1) -> int:
        """Words that the feeder brings for a pixel of a tile of so many groups of columns."""
        words = part.count * self.schedule.activation_words
        return words if self.tail is None else words + self.tail.words(groups)

    @cached_property
    def pitch(self) -> int:
        """Scratchpad rows from a pixel to the next, as they lie in memory."""
        geometry = self.geometry[Buffer.ACTIVATIONS]
        return self.source.stride * 8 // (geometry.banks * geometry.write_bits)

    def pixel_rows(self, blocks: range) -> tuple[int, bool]:
        """Scratchpad rows of a pixel, and whether only these blocks of it are loaded."""
        if self.second is not None:
            # Of pixels of different sizes what both have: all blocks.
            blocks = range(self.source_blocks)
        if self._on_chip:
            return self.pitch, False
        words = len(blocks) * self.schedule.activation_words
        rows = ceil_div(words, self.geometry[Buffer.ACTIVATIONS].ratio)
        # Bursts of a few words are slower than words that nobody reads.
        if self.packed:
            return self.pitch, False
        few = 2 * rows <= self.pitch or len(blocks) < self.source_blocks
        if self.second is not None:
            return (rows, True) if self.second.stride != self.source.stride else (self.pitch, False)
        return (rows, True) if few and self.taps == 1 and self.dense else (self.pitch, False)

    @property
    def _replays(self) -> bool:
        """Whether the words of a patch are played again for each beat."""
        return self.config.unit.order is Order.BEATS_OUTSIDE and len(self.schedule.beats) > 1

    @property
    def source_blocks(self) -> int:
        """Blocks of channels of the source."""
        return ceil_div(self.operation.input_channels, self.schedule.stored_steps.size)

    def region(self, tile: Tile) -> tuple[range, range]:
        """Lines and pixels of the source that a tile sees; whole lines where a source is on chip."""
        operation = self.operation
        found = []
        for axis, (out, size) in enumerate(((tile.lines, self.height), (tile.pixels, self.width))):
            stride, before = operation.stride[axis], operation.padding[axis][0]
            first = out.start * stride - before
            last = (out.stop - 1) * stride - before + operation.reach[axis]
            found.append(range(min(max(first, 0), size - 1), max(min(last + 1, size), 1)))
        if self.packed:
            return found[0], range(1)
        return found[0], range(self.width) if self._on_chip else found[1]

    def region_rows(self, tile: Tile, part: Part) -> int:
        """Scratchpad rows that those take that are loaded."""
        lines, pixels = self.region(tile)
        rows = len(self.loaded) * len(lines) * len(pixels) * self.pixel_rows(part.blocks)[0]
        return rows if self.tail is None else rows + self.tail.region_rows(tile, self.tail.whole)

    def source_rows(self) -> int:
        """Scratchpad rows of a whole source, as it lies in memory."""
        return self.height * self.map_width * self.pitch

    def stored_pixel(self, line: int, pixel: int) -> int:
        """Which pixel of the output one of its own is."""
        if self.whole_map:
            return line * self.out_width + pixel
        (first_line, first), (lines, step) = self.operation.first_pixel, self.operation.pixel_step
        return (first_line + line * lines) * self.result.place[2] + first + pixel * step

    def line_rows(self) -> int:
        """Scratchpad rows that a line of results needs of a source."""
        return max(len(self.region(tile)[0]) for tile in self.samples(1, self.out_width)) * (
            self.map_width * self.pitch
        )

    def weight_rows(self, groups: int, part: Part) -> int:
        """Scratchpad rows of weights."""
        return ceil_div(groups * self.weight_words(part), self.geometry[Buffer.WEIGHTS].ratio)

    def weight_words(self, part: Part) -> int:
        """Weight words of a group of columns."""
        words = self.steps(part) * self.schedule.weight_words
        return words if self.tail is None else words + self.tail.weight_words(self.tail.part)

    def granule(self, group: int) -> int:
        """Granules from the start of a row of results to a group of columns."""
        return self.config.granule(self.result.storage, group * self.group_channels)

    def output_words(self, groups: int) -> int:
        """Bus words of one row of so many groups of columns."""
        storage, channels = self.result.storage, groups * self.group_channels
        # Packed results are written as far as there are any, planes for whole blocks.
        bits = storage.row_bits(channels) if storage.planar else channels * storage.bits
        return ceil_div(bits, self.config.bus_bits)

    @property
    def row_words(self) -> int:
        """Bus words of one row of all its columns: a pixel, or what it makes of one."""
        return self.output_words(self.col_groups) if self.is_part else self.result_words

    def row_groups(self, tile: Tile) -> int:
        """Groups of as many patches as the array has rows; the last one ends a window."""
        unit = self.patches // gcd(self.patches, self.config.rows)
        return ceil_div(ceil_div(tile.count * self.patches, self.config.rows), unit) * unit

    def result_rows(self, tile: Tile) -> int:
        """Results of a tile, with those of the last group that are none of its pixels."""
        return self.row_groups(tile) * self.config.rows // self.patches

    # Contents

    @property
    def pad_code(self) -> int | None:
        """The byte that stands for padding; None where none does."""
        source, storage = self.source, self.source.storage
        stored, rest = divmod(self.operation.pad_value - source.offset, source.scale)
        if rest or not storage.format.contains(np.array([stored])):
            return None
        code = int(storage.codes(np.array([stored]))[0])
        if storage.planar and storage.bits > 1:
            return code
        # Also of a single plane, whose word an engine that has no other fills with the byte.
        return sum(code << place for place in range(0, 8, storage.bits)) & 0xFF

    def geometry_fields(self, tile: Tile, part: Part, down: bool = False) -> dict[str, int]:
        """Fields of the GEOMETRY of a tile, without those that are taken modulo anything."""
        operation = self.operation
        lines, pixels = self.region(tile)
        word = self.pixel_rows(part.blocks)[0] * self.geometry[Buffer.ACTIVATIONS].ratio
        line = len(pixels) * word
        (stride_y, stride_x), (dilation_y, dilation_x) = operation.stride, operation.dilation
        start_y = tile.lines.start * stride_y - operation.padding[0][0] - lines.start
        start_x = tile.pixels.start * stride_x - operation.padding[1][0] - pixels.start
        if self.packed:
            return self._packed_fields(tile, start_y, len(lines), word)
        inner = {
            "pixels": len(tile.pixels),
            "taps": len(part.columns),
            "dilation": dilation_x,
            "start": start_x + part.columns.start * dilation_x,
            "stride": stride_x,
            "limit": len(pixels),
            "pixel": stride_x * word,
            "tap": dilation_x * word,
        }
        outer = {
            "taps": len(part.rows),
            "dilation": dilation_y,
            "start": start_y + part.rows.start * dilation_y,
            "stride": stride_y,
            "limit": len(lines),
            "pixel": stride_y * line,
            "tap": dilation_y * line,
        }
        if down:
            outer["pixels"] = len(tile.lines)
            inner, outer = outer, inner
        pixels_inner = inner.pop("pixels")
        outer.pop("pixels", None)
        return {
            "words": len(part.blocks) * self.schedule.activation_words,
            "pixels_inner": pixels_inner,
            "pad": self.pad_code or 0,
            **({"taps_more": inner["stride"]} if self.chains else {}),
            **{f"{name}_inner": value for name, value in inner.items()},
            **{f"{name}_outer": value for name, value in outer.items()},
        }

    def _packed_fields(self, tile: Tile, start: int, lines: int, line: int) -> dict[str, int]:
        """The same where taps are runs of elements of lines of so many words."""
        operation = self.operation
        lanes, channels = self.schedule.stored_steps.size, operation.input_channels
        step = operation.stride[1] * channels
        word, element = divmod(tile.pixels.start * step - operation.padding[1][0] * channels, lanes)
        return {
            "words": operation.kernel[1] * channels,
            "pixels_inner": len(tile.pixels),
            "pad": self.pad_code or 0,
            "taps_inner": 1,
            "taps_outer": operation.kernel[0],
            "taps_more": step % lanes,
            "dilation_inner": element,
            "dilation_outer": operation.dilation[0],
            "start_inner": word,
            "start_outer": start,
            "stride_inner": step // lanes,
            "stride_outer": operation.stride[0],
            "limit_inner": ceil_div(self.width * channels, lanes),
            "limit_outer": lines,
            "pixel_inner": step // lanes,
            "pixel_outer": operation.stride[0] * line,
            "tap_outer": operation.dilation[0] * line,
        }

    def window_fields(self, tile: Tile, part: Part, cols: range, starts: Sequence[int]) -> dict[str, int]:
        """Fields of the WINDOW of a tile and some groups of columns, as :meth:`geometry_fields`; `starts` are
        the scratchpad rows where the tile's part of each source begins.
        """
        operation = self.operation
        if operation.combine is Combine.NONE:
            return {}
        _, pixels = self.region(tile)
        ratio = self.geometry[Buffer.ACTIVATIONS].ratio
        word = self.pixel_rows(part.blocks)[0] * ratio
        line = len(pixels) * word
        fields = {"combine": int(operation.combine), "size": self.patches - 1}
        fields |= {"outer": operation.window[0] - 1, "inner": operation.window[1] - 1}
        if self.tail is not None:
            fields |= {"size": 1, **self.tail.fields(tile, cols, starts[1] * ratio)}
        elif self.second is not None:
            fields["words_inner"] = (starts[1] - starts[0]) * ratio
        else:
            (step_y, step_x) = operation.window_step
            fields |= {
                "step_inner": step_x,
                "step_outer": step_y,
                "words_inner": step_x * word,
                "words_outer": step_y * line,
            }
        if operation.bounds is not None:
            low, high = (bound - self.result.offset for bound in operation.bounds)
            fields |= {"low": low & 0xFF, "high": high & 0xFF, "half_even": int(operation.half_even)}
        return fields

    def table_bytes(self) -> bytes:
        """What a sum adds, for every code of each source as it is stored, as the tables hold it."""
        tables = self.operation.tables
        assert tables is not None
        words = np.zeros((2, TABLE_ENTRIES), np.int64)
        # Codes that are stored are the source's less its offset, of those that its tensor may have; what is
        # computed is nowhere stored.
        offsets = [source.offset for source in self.sources]
        if self.tail is not None:
            offsets[0] = 0
        for number, offset in enumerate(offsets):
            format = self.operation.formats[number]
            stored = np.arange(format.min, format.max + 1) - offset
            # Looked up are all bits of what is requantised, and the codes that thresholds give.
            bits = self.result.storage.bits if self.quantiser == "thresholds" else self.config.result_bits
            words[number, stored & (1 << bits) - 1] = tables[number, : len(stored)]
        words[0] -= self.result.offset << FRACTION
        return words.astype("<i4").tobytes()

    def first_word(self, tile: Tile, part: Part, group: int) -> int:
        """Word of the first tap of a tile's first pixel, from the start of its region; may be negative."""
        fields = self.geometry_fields(tile, part)
        _, pixels = self.region(tile)
        word = self.pixel_rows(part.blocks)[0] * self.geometry[Buffer.ACTIVATIONS].ratio
        compact = self.pixel_rows(part.blocks)[1]
        block = self.spans[group] + (0 if compact else part.blocks.start)
        if self.packed:
            return fields["start_outer"] * word + fields["start_inner"]
        place = (fields["start_outer"] * len(pixels) + fields["start_inner"]) * word
        return place + block * self.schedule.activation_words

    @cached_property
    def _terms(self) -> NDArray[np.int64]:
        """Weights of the groups of columns: channel, kernel column, kernel row, term of a tap."""
        operation = self.operation
        format = self.precision.weight
        # What is not there is zero; where the format has none, the layer's terms fill whole steps.
        nothing = 0 if has_zero(format) else format.min
        block = self.schedule.stored_steps.size
        rows, columns = operation.kernel
        if self.packed:
            terms = np.full((self.col_groups * self.group_channels, 1, 1, self.span_blocks * block), nothing)
            terms[: operation.channels, 0, 0, : operation.reduction] = operation.weights.reshape(
                operation.channels, -1
            )
            return terms
        shape = (self.col_groups * self.group_channels, columns, rows, self.span_blocks * block)
        terms = np.full(shape, nothing, np.int64)
        weights = operation.weights.transpose(0, 2, 1, 3)
        each = operation.weights.shape[3]
        if operation.dense:
            terms[: operation.channels, :, :, :each] = weights
            return terms
        for channel, seen in enumerate(operation.first_seen):
            first = seen - self.spans[channel // self.group_channels] * block
            terms[channel, :, :, first : first + each] = weights[channel]
        return terms

    def weight_bytes(self, groups: range, part: Part, down: bool = False) -> bytes:
        """Weights as the scratchpad holds them: group by group, step by step, in the schedule's order; behind
        each group's those of its tail.
        """
        words = [self._group_weights(groups, part, down)]
        if self.tail is not None:
            words.append(self.tail._group_weights(groups, self.tail.part))
        joined = np.concatenate(words, axis=1)
        return _pack_words(joined.reshape(-1, self.config.weight_word_bits), self.geometry[Buffer.WEIGHTS])

    def _group_weights(self, groups: range, part: Part, down: bool = False) -> NDArray[np.uint8]:
        """Weight words of each group of columns: group, word, bit."""
        config, schedule = self.config, self.schedule
        unit, order = config.unit, schedule.stored_steps
        if self.chains:
            values = np.stack([self._chain_values(group, down) for group in groups])
            return self._packed_weights(values[:, None], self.steps(part))
        channels = slice(groups.start * config.group_channels, groups.stop * config.group_channels)
        blocks = slice(part.blocks.start * order.size, part.blocks.stop * order.size)
        terms = self._terms[
            channels, part.columns.start : part.columns.stop, part.rows.start : part.rows.stop, blocks
        ]
        steps = self.steps(part)
        # Each step takes its own part of the elements that are stored together.
        terms = terms.reshape(len(groups) * config.group_channels, part.count, order.size)[:, :, order]
        # A unit computes `outputs` channels, which are a group of columns apart.
        values = terms.reshape(len(groups), unit.outputs, config.cols, steps, schedule.elements)
        return self._packed_weights(values, steps)

    def _packed_weights(self, values: NDArray[np.int64], steps: int) -> NDArray[np.uint8]:
        """Weight words of groups, outputs, columns, steps and elements."""
        config, unit, schedule = self.config, self.config.unit, self.schedule
        assert values.shape[3] == steps
        words = unit.weight_bits(values, self.precision)  # group, output, column, step, word, bit
        ordered = np.stack([words[:, output, :, :, word] for output, word in schedule.weight_order], axis=1)
        # group, word, column, step, bit
        return ordered.transpose(0, 3, 1, 2, 4).reshape(len(values), -1, config.weight_word_bits)

    def bias(self) -> NDArray[np.int64]:
        """What has to be added to the engine's sums, times the scale of what is stored."""
        # sum((q - z) * w) + b, for q = scale * stored + offset
        offset = self.source.offset - self.operation.zero_point
        weights = self.operation.weights
        bias: NDArray[np.int64] = self.operation.bias + offset * weights.reshape(len(weights), -1).sum(axis=1)
        return bias

    def channel_bytes(self, groups: range) -> bytes:
        """Quantisation parameters as the scratchpad holds them: of each group of columns, and of its tail."""
        config = self.config
        size = self.geometry[Buffer.CHANNELS].banks * config.bus_bytes
        counts = self.quantiser == "thresholds"
        parameters = [reader._levels() if counts else reader._factors() for reader in self.readers]
        words = []
        for group, of_reader in product(groups, parameters):
            channels = of_reader[group * self.group_channels :][: self.group_channels]
            for first in range(0, self.group_channels, config.requantisers):
                # They lie side by side, as many as there are requantisers, in as many words as each takes.
                beside = channels[first : first + config.requantisers]
                for number in range(config.modes[self.mode].channel_words):
                    word = sum(each[number] << index * CHANNEL_BITS for index, each in enumerate(beside))
                    words.append(word.to_bytes(size, "little"))
        return b"".join(words)

    def _factors(self) -> list[list[int]]:
        """The parameters of requantisation of each channel, a word."""
        quantiser, result = self.operation.quantiser, self.result
        assert isinstance(quantiser, Requantise)
        if self.operation.combine is Combine.SUM and self.tail is None:
            # What is looked up are codes as they are stored.
            stored = self.source.storage.format
            as_it_is = encode_channel(
                bias=0,
                multiplier=int(quantiser.multiplier[0]),
                shift=int(quantiser.shift[0]),
                rounding=quantiser.rounding,
                zero_point=0,
                low=max(int(stored.min), -128),
                high=min(int(stored.max), 255),
            )
            return [[as_it_is]] * self.operation.channels
        # Only the sum of accumulator and bias has to fit 32 bits; the bias alone may wrap.
        bias = Int(32).decode(self.bias())
        # What something is added to is looked up as it is.
        offset = result.offset if self.tail is None else 0
        return [
            [
                encode_channel(
                    bias=int(bias[channel]),
                    multiplier=int(quantiser.multiplier[channel]),
                    shift=int(quantiser.shift[channel]),
                    rounding=quantiser.rounding,
                    zero_point=self.operation.result_zero_point - offset,
                    low=quantiser.low - offset,
                    high=quantiser.high - offset,
                )
            ]
            for channel in range(self.operation.channels)
        ]

    def _levels(self) -> list[list[int]]:
        """The thresholds of each channel, three in a word."""
        quantiser, result = self.operation.quantiser, self.result
        assert isinstance(quantiser, Thresholds)
        # What is stored for each count, as its place among the format's values.
        if self.operation.bipolar:
            codes = np.array([-1, 1])
        else:
            codes = quantiser.low + np.arange(quantiser.count + 1)
        values = result.storage.format.values
        places = np.searchsorted(values, (codes - result.offset) // result.scale)
        # In the engine's sums; rounded to the side that keeps every sum where it is.
        levels = quantiser.levels - self.bias()[:, None]
        flip = quantiser.descending
        scale = self.source.scale
        levels = np.where(flip[:, None], ~(levels // scale), -(-levels // scale))
        reach = 1 << self.config.accumulator_bits - 1
        levels = levels.clip(-reach, reach)
        slots = self.config.modes[self.mode].channel_words * THRESHOLDS_PER_WORD
        table = np.full((self.operation.channels, slots), reach, np.int64)  # never reached
        table[:, : places[0]] = -reach  # always
        for number, (here, there) in enumerate(pairwise(places)):
            table[:, here:there] = levels[:, number, None]
        bits = LEVEL.size
        return [
            [
                sum(
                    encode_level(int(level), flip=bool(flip[channel])) << index * bits
                    for index, level in enumerate(row[first : first + THRESHOLDS_PER_WORD])
                )
                for first in range(0, slots, THRESHOLDS_PER_WORD)
            ]
            for channel, row in enumerate(table)
        ]

    # Cuts

    def cuts(self) -> Iterator[Cut]:
        """Every cut worth a look that fits the scratchpads."""
        config = self.config
        room = self.residence.high - self.residence.low
        weights = self.geometry[Buffer.WEIGHTS]
        channels = self.geometry[Buffer.CHANNELS]
        few = min(self.group_pixels, self.out_width)
        for division in self.divisions:
            part = division[0]
            words = self.patch_words(part)
            fits = (
                max(self.region_rows(tile, part) for tile in self.samples(1, few)) <= room
                and self.weight_rows(1, part) * min(len(division), 2) <= weights.rows
                # Several rows' patches are brought one after the other.
                and (words <= config.patch_depth or (config.rows == 1 and not self._replays))
                # A tail is given back as a whole.
                and (self.tail is None or self.tail.words(1) <= config.patch_depth)
            )
            if fits:
                break
        else:
            raise NetworkError(
                self.where,
                f"a dot product of {self.operation.reduction} terms does not fit the scratchpads"
                + (
                    ""
                    if config.unit.resumes(self.precision)
                    else f", and {config.pe} cannot compute it in parts"
                )
                + (", and what is pooled is not computed in parts" if self.operation.pool else ""),
                "raise activation_depth, weight_depth or patch_depth",
            )
        if len(division) > 1:
            tiles = [(1, few)]
            col_choices = [1]
        else:
            tiles = self._tile_sizes(part, room)
            col_limit = weights.rows * weights.ratio // self.weight_words(part)
            # A window of several groups of rows is over before the next columns may begin.
            apart = config.rows % self.patches != 0
            if words > config.patch_depth or not self.dense or apart or self.chains:
                col_limit = 1
            while self.tail is not None and col_limit > 1:
                if self.patch_words(part, col_limit) <= config.patch_depth:
                    break
                col_limit -= 1
            if self.channel_words:
                col_limit = min(col_limit, channels.rows // self.channel_words)
            if not col_limit:
                raise NetworkError(
                    self.where,
                    f"the {self.quantiser} parameters of {self.group_channels} channels do not fit the "
                    "scratchpad",
                    f"raise channel_depth to {self.config.requantisers * self.channel_words} or more",
                )
            col_choices = _sizes(self.col_groups, col_limit)
        for lines, pixels in tiles:
            results = self.result_rows(Tile(range(lines), range(pixels)))
            count = ceil_div(self.out_height, lines) * ceil_div(self.out_width, pixels)
            whole = results * self.row_words
            for cols in col_choices:
                some = results * self.output_words(cols)
                # Where the next tile's results begin a bus word and a block.
                aligned = (
                    cols % config.groups_per_block(self.result.storage) == 0
                    and self.granule(cols) % config.granules_per_word == 0
                )
                for columns_outer, down in product((False, True), self.chains or (False,)):
                    if columns_outer and (count == 1 or cols >= self.col_groups):
                        continue
                    fits = whole * min(count, 2) <= config.output_depth
                    cut = {
                        "lines": lines,
                        "pixels": pixels,
                        "col_groups": cols,
                        "parts": self.divisions.index(division),
                        "columns_outer": columns_outer,
                        "down": down,
                    }
                    if not columns_outer and fits:
                        yield Cut(**cut, store_rows=True)  # type: ignore[arg-type]
                    elif some * 2 <= config.output_depth and (aligned or cols >= self.col_groups):
                        yield Cut(**cut, store_rows=False)  # type: ignore[arg-type]

    def samples(self, lines: int, pixels: int) -> list[Tile]:
        """Tiles of a size that see as much of the source as any: the first, one inside, the last."""
        found = []
        for first in {0, (self.out_height - lines) // 2, max(0, self.out_height - lines)}:
            for start in {0, (self.out_width - pixels) // 2, max(0, self.out_width - pixels)}:
                found.append(
                    Tile(
                        range(first, min(first + lines, self.out_height)),
                        range(start, min(start + pixels, self.out_width)),
                    )
                )
        return found

    def _tile_sizes(self, part: Part, rows: int) -> list[tuple[int, int]]:
        """Lines and pixels of tiles whose source fits the scratchpad: whole lines, or parts of one."""

        def fits(lines: int, pixels: int) -> bool:
            return max(self.region_rows(tile, part) for tile in self.samples(lines, pixels)) <= rows

        found = []
        for lines in _sizes(self.out_height, self.out_height):
            if fits(lines, self.out_width):
                found.append((lines, self.out_width))
        # As many lines as fit
        low, high = 0, self.out_height
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle, self.out_width) else (low, middle - 1)
        if low and (low, self.out_width) not in found:
            found.append((low, self.out_width))
        for groups in _sizes(ceil_div(self.out_width, self.group_pixels), 1 << 20):
            pixels = min(groups * self.group_pixels, self.out_width)
            if pixels < self.out_width and fits(1, pixels):
                found.append((1, pixels))
        return found

    def tiles(self, cut: Cut) -> list[Tile]:
        """The tiles of a cut, in order."""
        return [
            Tile(lines, pixels)
            for lines in ranges(self.out_height, cut.lines)
            for pixels in ranges(self.out_width, cut.pixels)
        ]

    def beat_cycles(self, part: Part) -> tuple[int, int]:
        """Cycles of a dot product's part on the array, with its tail, and those that it waits for the results
        before it.
        """
        drain = self.config.modes[self.mode].drain_cycles
        busy, wait = self.schedule.cycles(self.steps(part), drain)
        if self.tail is not None:
            more = self.tail.beat_cycles(self.tail.part)
            busy, wait = busy + more[0], wait + more[1]
        return busy, wait

    def _group_cycles(self, cut: Cut, part: Part) -> float:
        """Cycles of a group of rows and one of columns, on average."""
        if not self.chains:
            return sum(self.beat_cycles(part))
        line = cut.lines if cut.down else cut.pixels
        mode = self.config.modes[self.mode]
        return max(self.pixel_steps(part, cut.down), mode.chain_cycles) + self.lead(cut.down) / line

    def estimate(self, cut: Cut) -> float:
        """Cycles, roughly: to choose which cuts to schedule."""
        division = self.divisions[cut.parts]
        tiles = ceil_div(self.out_height, cut.lines) * ceil_div(self.out_width, cut.pixels)
        col_tiles = ceil_div(self.col_groups, cut.col_groups)
        groups = ceil_div(cut.lines * cut.pixels * self.patches, self.config.rows) * tiles
        compute = fill = 0.0
        for part in division:
            compute += groups * self.col_groups * self._group_cycles(cut, part)
            words: float = self.patch_words(part, min(cut.col_groups, self.col_groups))
            if self.chains:
                words = self.pixel_steps(part, cut.down)
            if self.packed:
                # A run lies across a word more than it has, often.
                rows, columns = self.operation.kernel
                lanes = self.schedule.stored_steps.size
                words = rows * (1 + (columns * self.operation.input_channels - 1) / lanes) + 0.5
            fill += groups * col_tiles * words * self.config.rows
        weights = self.geometry[Buffer.WEIGHTS]
        activations = self.geometry[Buffer.ACTIVATIONS]
        weight_rows = sum(self.weight_rows(self.col_groups, part) for part in division)
        weight_beats = weight_rows * weights.banks
        sample = self.samples(min(cut.lines, self.out_height), cut.pixels)[0]
        activation_beats = tiles * self.region_rows(sample, division[0]) * activations.banks
        if cut.columns_outer or len(division) > 1:
            activation_beats *= col_tiles
        elif weight_rows > weights.rows:
            weight_beats *= tiles
        first = activation_beats / tiles + weight_beats / col_tiles
        count = tiles * col_tiles * len(division)
        busy = max(compute, fill)
        return max(busy + first, activation_beats + weight_beats + busy / count) + 16 * count

    def tile_count(self, cut: Cut) -> int:
        """COMPUTE instructions of a cut."""
        return (
            ceil_div(self.out_height, cut.lines)
            * ceil_div(self.out_width, cut.pixels)
            * ceil_div(self.col_groups, cut.col_groups)
            * len(self.divisions[cut.parts])
        )


class Tail(Layer):
    """What is added to a convolution's results before they are stored: an operand of a sum, pixel by pixel.

    The feeder brings, behind a pixel's taps, the blocks of channels that the tile's groups of columns see.
    Each group plays its own, or all of them where the channels of a group are no whole blocks.

    Parameters
    ----------
    config, operation, source, result, precision, mode
        As of a :class:`Layer`; the operation is the identity of one tensor, and makes all of the results.
    """

    def __init__(
        self,
        config: EngineConfig,
        operation: Operation,
        source: Placement,
        result: Placement,
        precision: Precision,
        mode: int,
    ):
        super().__init__(config, operation, source, result, precision, mode)
        each, rest = divmod(self.group_channels, self.schedule.stored_steps.size)
        stored = source.stride * 8 // (self.schedule.activation_words * config.activation_word_bits)
        # The last group must find as many blocks as the others.
        self.apart = self.col_groups > 1 and rest == 0 and self.col_groups * each <= stored
        """Whether groups of columns see blocks of their own."""
        self.span_blocks = each if self.apart else self.source_blocks
        self.spans = [group * each if self.apart else 0 for group in range(self.col_groups)]
        self.dense = not self.apart
        one = range(1)
        self.part = Part(one, one, range(self.span_blocks))
        """What a group of columns plays."""
        self.whole = Part(one, one, range(self.source_blocks))
        """A pixel."""
        self.divisions = [[self.part]]

    def seen(self, part: Part) -> Part:
        """All of it: no part but the whole has a tail."""
        return self.whole

    def words(self, groups: int) -> int:
        """Words that the feeder brings for a pixel of a tile of so many groups of columns."""
        return (groups if self.apart else 1) * self.span_blocks * self.schedule.activation_words

    def fields(self, tile: Tile, cols: range, start: int) -> dict[str, int]:
        """Fields of the WINDOW of a tile and some groups of columns, without those that are taken modulo
        anything; `start` is the word where the tile's part of the source begins.
        """
        geometry = self.geometry_fields(tile, self.whole)
        return {
            "own": int(self.apart),
            "tail": self.words(len(cols)),
            "tail_steps": self.steps(self.part),
            "tail_base": start + self.first_word(tile, self.whole, cols.start),
            "tail_inner": geometry["pixel_inner"],
            "tail_outer": geometry["pixel_outer"],
        }


def spans(operation: Operation, group_channels: int, block: int) -> Sequence[int]:
    """For each group of columns the first block of the source's channels that it sees."""
    count = ceil_div(operation.channels, group_channels)
    if operation.dense:
        return [0] * count
    size = span_blocks(operation, group_channels, block)
    last = ceil_div(operation.input_channels, block) - size
    return [min(_seen(operation, group, group_channels).start // block, last) for group in range(count)]


def span_blocks(operation: Operation, group_channels: int, block: int) -> int:
    """Blocks of the source's channels that a group of columns sees."""
    if operation.dense:
        return ceil_div(operation.input_channels, block)
    count = ceil_div(operation.channels, group_channels)
    return max(
        ceil_div(seen.stop, block) - seen.start // block
        for seen in (_seen(operation, group, group_channels) for group in range(count))
    )


def _seen(operation: Operation, group: int, group_channels: int) -> range:
    """The source's channels that a group of columns sees."""
    seen = operation.first_seen[group * group_channels : (group + 1) * group_channels]
    return range(int(seen.min()), int(seen.max()) + operation.weights.shape[3])


def packs(operation: Operation, config: EngineConfig, storage: Storage) -> bool:
    """Whether taps that lie side by side in the lanes take fewer words than each in words of its own."""
    block = storage.block
    rows, columns = operation.kernel
    apart = rows * columns * ceil_div(operation.input_channels, block)
    limits = (block, operation.stride[1] * operation.input_channels // block)
    # What is beside the terms in the last word counts nothing: its weights are 0.
    filled = all(has_zero(precision.weight) for precision in config.formats)
    return (
        config.packs > 0
        and (filled or operation.reduction % block == 0)
        and operation.dense
        and operation.combine is Combine.NONE
        and operation.dilation[1] == 1
        and max(limits) <= 255
        and ceil_div(operation.reduction, block) < apart
        and ceil_div(operation.reduction, block) <= min(config.patch_depth, config.weight_depth)
    )


def has_zero(format: Format) -> bool:
    """Whether 0 is one of its values."""
    return format.contains(np.zeros(1, np.int64))


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
