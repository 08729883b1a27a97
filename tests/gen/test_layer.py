"""An operation on an engine: what its tiles see, how its weights lie, and that its cuts fit."""

import random
from dataclasses import replace

import numpy as np
import pytest

from bitwright.gen.layer import Layer, Part, Tile, packs
from bitwright.gen.lowering import lower
from bitwright.gen.mapper import compile_graph
from bitwright.gen.places import views
from bitwright.gen.synthetic import ConvolutionShape, random_cnn, random_mlp
from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.isa import Buffer, Combine
from bitwright.sim.graph import Graph, NetworkError

BASE = EngineConfig(
    cols=4,
    lanes=8,
    requantisers=2,
    activation_depth=256,
    patch_depth=64,
    weight_depth=128,
    channel_depth=32,
    output_depth=64,
)


def layer_of(graph: Graph, config: EngineConfig) -> Layer:
    """The first operation of a network, where the mapper would place it."""
    operation = lower(graph, views(graph))[0]
    large = config.replace(activation_depth=65536, weight_depth=65536, patch_depth=1024)
    places = compile_graph(graph, large).placements
    return Layer(config, operation, places[operation.source], places[operation.output], config.formats[0], 0)


def random_layer(rng: random.Random, config: EngineConfig = BASE) -> Layer:
    groups = rng.choice([1, 1, 2, 4])
    kernel = rng.randint(1, 3), rng.randint(1, 4)
    shape = ConvolutionShape(
        channels=groups * rng.randint(1, 6),
        kernel=kernel,
        stride=(rng.randint(1, 3), rng.randint(1, 3)),
        dilation=(rng.randint(1, 2), rng.randint(1, 2)),
        padding=((rng.randint(0, 1), rng.randint(0, 1)), (rng.randint(0, 2), rng.randint(0, 1))),
        groups=groups,
    )
    size = rng.randint(6, 12), rng.randint(8, 14), groups * rng.randint(1, 12)
    return layer_of(random_cnn(size, [shape], seed=rng.randrange(1 << 32)), config)


def pooled(layer: Layer, rng: random.Random) -> Layer:
    """The same with the greatest of a few results each, as many as there are."""
    operation = layer.operation
    height, width = operation.result_map
    operation = replace(
        operation,
        stride=tuple(stride * rng.randint(1, 3) for stride in operation.stride),
        window=(rng.randint(1, min(3, height)), rng.randint(1, min(3, width))),
        window_step=operation.stride,
        combine=Combine.MAXIMUM,
        pool="pool",
    )
    return Layer(layer.config, operation, layer.source, layer.result, layer.precision, layer.mode)


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_regions_have_all_that_tiles_need(seed: int, windows: bool) -> None:
    rng = random.Random(seed)
    layer = random_layer(rng)
    if windows:
        layer = pooled(layer, rng)
    operation = layer.operation
    lines = sorted(rng.sample(range(layer.out_height + 1), 2))
    pixels = sorted(rng.sample(range(layer.out_width + 1), 2))
    tile = Tile(range(*lines), range(*pixels))
    seen = layer.region(tile)
    for axis, (out, region, size) in enumerate(
        zip((tile.lines, tile.pixels), seen, layer.operation.map, strict=True)
    ):
        needed = {
            position
            for index in out
            for patch in range(operation.window[axis])
            for tap in range(operation.kernel[axis])
            if 0
            <= (
                position := index * operation.stride[axis]
                + patch * operation.window_step[axis]
                + tap * operation.dilation[axis]
                - operation.padding[axis][0]
            )
            < size
        }
        assert needed <= set(region)
        assert 0 <= region.start < region.stop <= size
        # No more than lies between.
        if needed:
            assert (region.start, region.stop) == (min(needed), max(needed) + 1) or len(needed) < len(region)


def played_order(layer: Layer, part: Part) -> list[tuple[int, int, int]]:
    """Of each step of a part: kernel column, kernel row, block of the span."""
    return [(column, row, block) for column in part.columns for row in part.rows for block in part.blocks]


@pytest.mark.parametrize("seed", range(10))
def test_weights_in_the_order_they_are_played(seed: int) -> None:
    rng = random.Random(seed)
    layer = random_layer(rng, BASE.replace(cols=4, lanes=8))
    config, operation = layer.config, layer.operation
    division = rng.choice(layer.divisions)
    part = rng.choice(division)
    groups = range(layer.col_groups)
    data = np.frombuffer(layer.weight_bytes(groups, part), np.int8)
    words = data.reshape(len(groups), -1, config.cols, config.lanes)[:, : layer.steps(part)]
    each = operation.weights.shape[3]
    per_group = operation.channels // operation.groups
    for group in groups:
        for step, (column, row, block) in enumerate(played_order(layer, part)):
            for col in range(config.cols):
                channel = group * config.cols + col
                expected = np.zeros(config.lanes, int)
                for lane in range(config.lanes):
                    source = (layer.spans[group] + block) * config.lanes + lane
                    if channel < operation.channels and source // each == channel // per_group:
                        expected[lane] = operation.weights[channel, row, column, source % each]
                assert (words[group, step, col] == expected).all(), (group, step, col)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("changes", [{}, {"lanes": 2, "bus_bits": 128}, {"rows": 3}], ids=str)
def test_divisions_have_every_term_once(changes: dict[str, int], seed: int) -> None:
    layer = random_layer(random.Random(seed), BASE.replace(**changes))
    rows, columns = layer.operation.kernel
    ratio = layer.geometry[Buffer.ACTIVATIONS].ratio
    everything = sorted(played_order(layer, Part(range(columns), range(rows), range(layer.span_blocks))))
    for division in layer.divisions:
        assert sorted(term for part in division for term in played_order(layer, part)) == everything
        for part in division:
            # What is loaded alone begins with a scratchpad row.
            assert part.blocks.start * layer.schedule.activation_words % ratio == 0


@pytest.mark.parametrize("seed", range(10))
def test_cuts_fit(seed: int) -> None:
    rng = random.Random(seed)
    config = BASE.replace(activation_depth=rng.choice([64, 128, 256]), weight_depth=rng.choice([32, 128]))
    layer = random_layer(rng, config)
    if seed % 2:
        layer = pooled(layer, rng)
    try:
        cuts = list(layer.cuts())
    except NetworkError as error:
        assert "does not fit" in str(error)  # noqa: PT017
        return
    for cut in cuts:
        tiles = layer.tiles(cut)
        pixels = [(line, pixel) for tile in tiles for line in tile.lines for pixel in tile.pixels]
        assert sorted(pixels) == [(y, x) for y in range(layer.out_height) for x in range(layer.out_width)]
        assert layer.tile_count(cut) >= len(tiles)
        for part in layer.divisions[cut.parts]:
            for tile in tiles:
                assert layer.region_rows(tile, part) <= layer.geometry[Buffer.ACTIVATIONS].rows
            assert layer.weight_rows(cut.col_groups, part) <= layer.geometry[Buffer.WEIGHTS].rows
            if config.rows > 1 or cut.col_groups > 1:
                assert layer.patch_words(part) <= config.patch_depth
        words = layer.result_words if cut.store_rows else layer.output_words(cut.col_groups)
        assert max(map(layer.result_rows, tiles)) * words <= config.output_depth


def test_a_dot_product_that_cannot_be_divided() -> None:
    layer = layer_of(random_mlp([1000, 4]), BASE.replace(pe="bismo", lanes=64, weight_depth=16))
    with pytest.raises(NetworkError, match="cannot compute it in parts"):
        list(layer.cuts())


def test_one_channel_is_packed_and_not_chained() -> None:
    """It is depthwise as well, of one channel; but its lines have no gaps, in which a chain finds nothing."""
    config = BASE.replace(lanes=4, cols=8, depthwise=True, packing=True)
    graph = random_cnn((6, 7, 1), [ConvolutionShape(channels=1, kernel=(3, 3))])
    layer = layer_of(graph, config)
    assert packs(layer.operation, config, layer.source.storage) == layer.source.lines
    assert layer.source.lines
    assert layer.chains == []


@pytest.mark.parametrize(("dilation", "stride"), [((1, 2), (1, 1)), ((2, 2), (3, 3)), ((1, 1), (4, 4))])
def test_what_is_no_chain(dilation: tuple[int, int], stride: tuple[int, int]) -> None:
    """Taps of a line that do not follow each other, one after the other."""
    config = BASE.replace(lanes=4, cols=8, depthwise=True)
    shape = ConvolutionShape(kernel=(3, 3), dilation=dilation, stride=stride, groups=6)
    layer = layer_of(random_cnn((9, 9, 6), [shape]), config)
    assert False not in layer.chains


@pytest.mark.parametrize(
    ("rows", "window", "columns", "pixels"),
    # A window of several groups of rows is over before the next columns begin; otherwise they share patches.
    [(1, (2, 2), 1, 1), (2, (2, 2), 1, 1), (4, (2, 2), 4, 1), (4, (1, 2), 4, 2), (3, (3, 3), 1, 1)],
)
def test_what_rows_make_of_windows(rows: int, window: tuple[int, int], columns: int, pixels: int) -> None:
    layer = layer_of(random_cnn((9, 9, 8), [ConvolutionShape(channels=16)]), BASE.replace(rows=rows))
    operation = replace(layer.operation, stride=window, window=window, combine=Combine.MAXIMUM)
    layer = Layer(layer.config, operation, layer.source, layer.result, layer.precision, 0)
    assert layer.group_pixels == pixels
    assert max(cut.col_groups for cut in layer.cuts()) == columns


@pytest.mark.parametrize(("precision", "code", "expected"), [("a1w2", -1, 0xFF), ("a4w4", -8, 0x08)])
def test_what_stands_for_padding_in_bit_planes(precision: str, code: int, expected: int) -> None:
    """A single plane may be all that an engine has: then its words are the byte, over and over."""
    config = BASE.replace(pe="bismo", lanes=64, precisions=(precision,), weight_depth=256)
    format = config.formats[0]
    shape = ConvolutionShape(channels=2, kernel=(3, 3), padding=((1, 1), (1, 1)))
    activation, weight = format.activation, format.weight
    layer = layer_of(random_cnn((4, 4, 2), [shape], activation=activation, weight=weight), config)
    operation = replace(layer.operation, pad_value=code)
    layer = Layer(config, operation, layer.source, layer.result, layer.precision, 0)
    assert layer.pad_code == expected


def test_padding_that_has_no_code() -> None:
    shape = ConvolutionShape(channels=2, kernel=(3, 3), padding=((1, 1), (1, 1)))
    layer = layer_of(random_cnn((4, 4, 2), [shape]), BASE)
    source = replace(layer.source, scale=2, offset=layer.operation.pad_value + 1)
    with pytest.raises(NetworkError, match="no such value"):
        Layer(layer.config, layer.operation, source, layer.result, layer.precision, 0)
