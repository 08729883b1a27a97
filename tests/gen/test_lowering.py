"""From nodes to convolutions: what becomes of each kind, and what is refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from bitwright.gen.lowering import Operation, lower, separated
from bitwright.gen.places import views
from bitwright.gen.synthetic import ConvolutionShape, mean_away, random_cnn, random_mlp
from bitwright.hw.formats import Bipolar, Int
from bitwright.hw.quant.arithmetic import requantise
from bitwright.hw.quant.combine import FRACTION
from bitwright.hw.sched.isa import Combine
from bitwright.sim.graph import (
    AveragePool,
    Binary,
    Concatenate,
    FullyConnected,
    Graph,
    Lookup,
    MaxPool,
    NetworkError,
    Node,
    Pad,
    Padding,
    Requantise,
    Reshape,
    Select,
    TensorInfo,
    Thresholds,
    Upsample,
)

CODES = np.arange(-128, 128)


def tensor(name: str, *shape: int, zero_point: int = 0, bits: int = 8, scale: float = 1.0) -> TensorInfo:
    return TensorInfo(name=name, shape=shape, format=Int(bits), scale=scale, zero_point=zero_point)


def lowered(tensors: list[TensorInfo], *nodes: Node) -> list[Operation]:
    graph = Graph(
        name="nodes",
        tensors={info.name: info for info in tensors},
        nodes=nodes,
        input=tensors[0].name,
        output=tensors[-1].name,
    )
    return lower(graph, views(graph))


# Sums


def sums(tables: np.ndarray, half_even: bool, low: int, high: int, shape: tuple[int, int]) -> np.ndarray:
    total = tables[0, : shape[0], None] + tables[1, None, : shape[1]]
    real = total / 2**FRACTION
    return np.clip(np.rint(real) if half_even else np.floor(real + 0.5), low, high).astype(np.int64)


@pytest.mark.parametrize("seed", range(12))
def test_separated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right, zero = *rng.uniform(-1.5, 1.5, 2), rng.integers(-30, 30, 3)
    real = (CODES[:, None] - zero[0]) * left + (CODES[None, :] - zero[1]) * right + zero[2]
    low, high = (-128, 127) if seed % 2 else (int(rng.integers(-100, 0)), int(rng.integers(10, 100)))
    table = np.clip(np.floor(real + 0.5), low, high).astype(np.int64)
    tables, half_even = separated(table, "node 'add'")
    assert tables.shape == (2, 256)
    assert np.abs(tables).max() < 1 << 31
    np.testing.assert_array_equal(
        sums(tables, half_even, table.min(), table.max(), (256, 256)), table, f"seed {seed}"
    )


def test_halves_to_even() -> None:
    """A mean of two codes has as many halves as there are."""
    even = np.rint((CODES[:, None] + CODES[None, :]) / 2).astype(np.int64)
    up = np.floor((CODES[:, None] + CODES[None, :]) / 2 + 0.5).astype(np.int64)
    for table, expected in ((even, True), (up, False)):
        tables, half_even = separated(table, "node 'mean'")
        assert half_even is expected
        np.testing.assert_array_equal(sums(tables, half_even, -128, 127, (256, 256)), table)


def test_tables_of_different_lengths() -> None:
    table = np.clip(np.arange(-8, 8)[:, None] * 3 + CODES[None, :], -128, 127)
    tables, half_even = separated(table, "node 'add'")
    np.testing.assert_array_equal(sums(tables, half_even, -128, 127, (16, 256)), table)


@pytest.mark.parametrize(
    "table",
    [
        CODES[:, None] * CODES[None, :] // 128,
        np.maximum(CODES[:, None], CODES[None, :]),
        np.random.default_rng(1).integers(-128, 128, (256, 256)),
    ],
    ids=["product", "maximum", "noise"],
)
def test_what_is_no_sum(table: np.ndarray) -> None:
    with pytest.raises(NetworkError, match=r"node 'mul'.*no rounded sum"):
        separated(table, "node 'mul'")


def test_sum_of_two_tensors() -> None:
    x, y, z = tensor("x", 1, 2, 3, 5), tensor("y", 1, 2, 3, 5), tensor("z", 1, 2, 3, 5)
    table = np.clip(CODES[:, None] - CODES[None, :], -100, 127)
    copy = Lookup(name="copy", input="x", output="y", table=CODES)
    _, operation = lowered([x, y, z], copy, Binary(name="sub", inputs=("x", "y"), output="z", table=table))
    assert operation.sources == ("x", "y")
    assert (operation.combine, operation.window) == (Combine.SUM, (1, 2))
    assert operation.bounds == (-100, 127)
    assert operation.groups == operation.channels == operation.input_channels == 5
    # Both tensors are the window: the map is the result's.
    assert operation.result_map == (2, 3)


# Pools and elementwise functions


def test_lookup() -> None:
    table = CODES[::-1].copy()
    (operation,) = lowered(
        [tensor("x", 1, 4, 4, 3), tensor("y", 1, 4, 4, 3)],
        Lookup(name="flip", input="x", output="y", table=table),
    )
    assert operation.tables is not None
    assert (operation.tables[0] == table << FRACTION).all()
    assert not operation.tables[1].any()
    assert (operation.second, operation.window, operation.kernel) == (None, (1, 1), (1, 1))


def test_max_pool() -> None:
    node = MaxPool(name="pool", input="x", output="y", kernel=(3, 2), stride=(2, 1), padding=((1, 0), (0, 1)))
    (operation,) = lowered([tensor("x", 1, 7, 5, 3), tensor("y", 1, 3, 5, 3)], node)
    assert (operation.combine, operation.window, operation.kernel) == (Combine.MAXIMUM, (3, 2), (1, 1))
    assert operation.result_map == node.positions(7, 5) == (3, 5)
    assert operation.reach == (2, 1)
    # Nothing outside is ever the greatest.
    assert operation.pad_value == -128


def test_a_convolution_and_its_pool() -> None:
    """A pixel's patches are a convolution's stride apart, and pixels both strides."""
    shape = ConvolutionShape(
        channels=4, kernel=(3, 2), stride=(2, 1), dilation=(1, 2), padding=((1, 0), (1, 1))
    )
    graph = random_cnn((15, 14, 3), [shape])
    convolved = graph.tensors["t1"]
    pool = MaxPool(name="pool", input="t1", output="y", kernel=(2, 3), stride=(2, 4))
    positions = pool.positions(*convolved.canonical[1:3])
    result = replace(convolved, name="y", shape=(1, *positions, 4))
    graph = replace(graph, tensors={**graph.tensors, "y": result}, nodes=(*graph.nodes, pool), output="y")
    apart, second = lower(graph, views(graph))
    assert (apart.output, second.output, second.pool) == ("t1", "y", None)
    (operation,) = lower(graph, views(graph), {"conv0": pool})
    assert (operation.name, operation.output, operation.pool) == ("conv0", "y", "pool")
    assert (operation.stride, operation.window, operation.window_step) == ((4, 4), (2, 3), (2, 1))
    assert (operation.kernel, operation.padding) == (apart.kernel, apart.padding)
    assert operation.reach == (2 + 2, 2 + 2)
    assert operation.result_map == positions
    assert operation.macs == apart.macs == graph.macs


@pytest.mark.parametrize("bits", [1, 3, 4])
def test_identity_by_thresholds(bits: int) -> None:
    """Codes are what they were, whatever the zero point: of -1 and +1, and where nothing else is there."""
    formats = [(Int(bits), Int(bits).max, False), (Int(bits, signed=False), 1, False), (Bipolar(), 0, True)]
    for format, zero, always in formats:
        x = TensorInfo(name="x", shape=(1, 2, 2, 3), format=format, zero_point=zero)
        node = MaxPool(name="pool", input="x", output="y", kernel=(1, 1))
        graph = Graph(
            name="pool", tensors={"x": x, "y": replace(x, name="y")}, nodes=(node,), input="x", output="y"
        )
        (usual,) = lower(graph, views(graph))
        assert isinstance(usual.quantiser, Thresholds if always else Requantise)
        (operation,) = lower(graph, views(graph), requantises=False)
        quantiser = operation.quantiser
        assert isinstance(quantiser, Thresholds)
        assert not quantiser.descending.any()
        step = 2 if always else 1
        for code in format.values:
            count = (code - zero >= quantiser.levels).sum(axis=1)
            assert (quantiser.low + step * count == code).all()


def test_identity_of_eight_bits_requantises() -> None:
    node = MaxPool(name="pool", input="x", output="y", kernel=(1, 1))
    graph = Graph(
        name="pool",
        tensors={name: tensor(name, 1, 2, 2, 3) for name in "xy"},
        nodes=(node,),
        input="x",
        output="y",
    )
    (operation,) = lower(graph, views(graph), requantises=False)
    assert isinstance(operation.quantiser, Requantise)


def test_what_the_host_fills_up_with_zeros() -> None:
    first, second = lower(graph := random_cnn((4, 4, 3), [ConvolutionShape()] * 2), views(graph))
    assert (first.zeros_behind, second.zeros_behind) == (True, False)


def test_what_fills_up_either_of_two_sources() -> None:
    """The host writes the first operand of a sum, a layer the second: nothing may rely on zeros there."""
    x, y, z = (tensor(name, 1, 2, 2, 3) for name in "xyz")
    table = np.add.outer(np.arange(256), np.arange(256)) // 2 - 128
    convolution = random_cnn((2, 2, 3), [ConvolutionShape(channels=3)]).nodes[0]
    graph = Graph(
        name="sum",
        tensors={"x": x, "y": y, "z": z},
        nodes=(
            replace(convolution, input="x", output="y"),
            Binary(name="sum", inputs=("x", "y"), output="z", table=table),
        ),
        input="x",
        output="z",
    )
    assert [operation.zeros_behind for operation in lower(graph, views(graph))] == [True, False]


def average(height: int, width: int, zeros: tuple[int, int] = (3, 3)) -> tuple[AveragePool, list[TensorInfo]]:
    x = tensor("x", 1, height, width, 4, zero_point=zeros[0])
    y = tensor("y", 1, 1, 1, 4, zero_point=zeros[1])

    def mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
        half = count // 2
        return np.clip(np.trunc((total + np.where(total >= 0, half, -half)) / count), -128, 127).astype(int)

    node = AveragePool(name="pool", input="x", output="y", kernel=(height, width))
    return node.tabulated(x, mean), [x, y]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 5), (8, 8), (25, 5)])
def test_average(height: int, width: int) -> None:
    """The factor, applied to every sum, gives every entry of the node's own table."""
    node, tensors = average(height, width)
    (operation,) = lowered(tensors, node)
    assert (operation.kernel, operation.groups) == ((height, width), 4)
    weight = int(operation.weights.flat[0])
    assert (operation.weights == weight).all()
    ((count, table),) = node.tables.items()
    quantiser = operation.quantiser
    assert isinstance(quantiser, Requantise)
    total = count * -128 + np.arange(len(table)) - count * operation.zero_point
    scaled = requantise(
        total * weight + int(operation.bias[0]),
        int(quantiser.multiplier[0]),
        int(quantiser.shift[0]),
        quantiser.rounding,
    )
    found = np.clip(scaled + operation.result_zero_point, quantiser.low, quantiser.high)
    np.testing.assert_array_equal(found, table)


def test_averages_that_no_factor_gives() -> None:
    node, tensors = average(2, 2)
    ((count, table),) = node.tables.items()
    bent = table.copy()
    bent[len(bent) // 2 :: 2] = -128
    with pytest.raises(NetworkError, match=r"node 'pool'.*no factor"):
        lowered(tensors, replace(node, tables={count: bent}))


def border(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: Padding, **changes: bool
) -> tuple[AveragePool, list[TensorInfo]]:
    node = AveragePool(
        name="pool", input="x", output="y", kernel=kernel, stride=stride, padding=padding, **changes
    )
    x = tensor("x", 1, *size, 2, zero_point=3)
    y = tensor("y", 1, *node.positions(*size), 2, zero_point=3)
    return node.tabulated(x, mean_away), [x, y]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "parts"),
    [
        ((5, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), 9),
        # TFLite's SAME, where all that is left over lies behind
        ((6, 6), (3, 2), (2, 2), ((0, 1), (0, 0)), 2),
        # Windows that cover equally many positions, but other ones
        ((2, 4), (5, 1), (1, 1), ((2, 2), (0, 0)), 1),
        ((7, 1), (4, 1), (3, 1), ((2, 3), (0, 0)), 3),
    ],
)
def test_averages_at_the_border(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Padding,
    parts: int,
) -> None:
    """Every output is made once, of the positions that its window covers, and divided by their number."""
    node, tensors = border(size, kernel, stride, padding)
    operations = lowered(tensors, node)
    assert len(operations) == parts
    counts = node.counts(*size)
    made = np.zeros(counts.shape, np.int64)
    inside = np.pad(np.ones(size, np.int64), 20)
    for operation in operations:
        # Raw sums: what is beside the map adds nothing.
        assert operation.pad_value == operation.zero_point
        for index in np.ndindex(*operation.result_map):
            at = tuple(np.add(operation.first_pixel, index))
            made[at] += 1
            first = [
                20 + index[axis] * operation.stride[axis] - operation.padding[axis][0] for axis in (0, 1)
            ]
            seen = inside[
                first[0] : first[0] + operation.kernel[0], first[1] : first[1] + operation.kernel[1]
            ]
            assert seen.sum() == counts[at]
            # The table of that count, for a sum of the greatest codes
            quantiser = operation.quantiser
            assert isinstance(quantiser, Requantise)
            total = counts[at] * (127 - operation.zero_point) * int(operation.weights.flat[0])
            made_code = requantise(
                total + int(operation.bias[0]),
                int(quantiser.multiplier[0]),
                int(quantiser.shift[0]),
                quantiser.rounding,
            )
            assert made_code + operation.result_zero_point == node.tables[int(counts[at])][-1]
    assert (made == 1).all()


def test_padding_that_counts_needs_no_parts() -> None:
    node, tensors = border((5, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), count_padding=True)
    (operation,) = lowered(tensors, node)
    assert (operation.kernel, operation.padding, operation.pad_value) == ((3, 3), ((1, 1), (1, 1)), 3)


@pytest.mark.parametrize("count", [*range(1, 26), 36, 49, 64, 98, 120])
def test_means_as_tflite_rounds_them(count: int) -> None:
    """There is a factor for every number of positions that windows usually have."""
    node, tensors = border((1, count), (1, count), (1, 1), ((0, 0), (0, 0)))
    assert len(lowered(tensors, node)) == 1


# What only moves


def test_selected_channels() -> None:
    x, y = tensor("x", 1, 2, 3, 4, zero_point=5), tensor("y", 1, 2, 3, 5, zero_point=5)
    (operation,) = lowered([x, y], Select(name="n", input="x", output="y", channels=(3, 0, 0, 2, 1)))
    assert (operation.channels, operation.input_channels, operation.reduction) == (5, 4, 1)
    assert operation.first_seen.tolist() == [3, 0, 0, 2, 1]
    assert (operation.weights == 1).all()
    assert not operation.dense
    assert not operation.depthwise


def test_padded_channels() -> None:
    """Channels that are not there have no weight, and a bias; others may be left out."""
    x, y = tensor("x", 1, 2, 3, 4, zero_point=5), tensor("y", 1, 2, 3, 6, zero_point=5)
    padding = ((0, 0), (0, 0), (0, 0), (3, -1))
    (operation,) = lowered([x, y], Pad(name="n", input="x", output="y", padding=padding, value=-9))
    assert operation.weights.ravel().tolist() == [0, 0, 0, 1, 1, 1]
    assert operation.bias.tolist() == [-14, -14, -14, 0, 0, 0]
    assert operation.first_seen[3:].tolist() == [0, 1, 2]
    padding = ((0, 0), (1, 0), (0, 0), (1, 1))
    y = replace(y, shape=(1, 3, 3, 6))
    with pytest.raises(NetworkError, match=r"node 'n'.*pads both the map and its channels with -9"):
        lowered([x, y], Pad(name="n", input="x", output="y", padding=padding, value=-9))


def test_a_part_of_a_map() -> None:
    x, y = tensor("x", 1, 6, 5, 4), tensor("y", 1, 3, 7, 4)
    padding = ((0, 0), (-2, -1), (1, 1), (0, 0))
    (operation,) = lowered([x, y], Pad(name="n", input="x", output="y", padding=padding, value=7))
    assert operation.padding == ((-2, -1), (1, 1))
    assert operation.result_map == (3, 7)
    assert operation.pads
    assert not operation.pointwise


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_joined(axis: int) -> None:
    x = tensor("x", 1, 2, 3, 4)
    part = replace(
        tensor("z", 1, 2, 3, 4), shape=tuple(2 if at == axis else n for at, n in enumerate(x.shape))
    )
    whole = list(x.shape)
    whole[axis] += 2
    joined = tensor("w", *whole)
    crop = Pad(
        name="crop",
        input="x",
        output="z",
        padding=tuple((2 - n, 0) if at == axis else (0, 0) for at, n in enumerate(x.shape)),
        value=0,
    )
    _, first, second = lowered(
        [x, part, joined], crop, Concatenate(name="n", inputs=("x", "z"), output="w", axis=axis)
    )
    assert (first.name, second.name) == ("n[0]", "n[1]")
    if axis == 3:
        assert (first.first_channel, second.first_channel) == (0, 4)
    else:
        assert first.first_pixel == (0, 0)
        assert second.first_pixel == ((2, 0) if axis == 1 else (0, 3))


def test_a_joined_batch_is_refused() -> None:
    x, y = tensor("x", 1, 2, 3, 4), tensor("y", 2, 2, 3, 4)
    with pytest.raises(NetworkError, match=r"node 'n'.*along axis 0, the batch"):
        lowered([x, y], Concatenate(name="n", inputs=("x", "x"), output="y", axis=0))


def test_upsampled() -> None:
    x, y = tensor("x", 1, 2, 3, 4), tensor("y", 1, 4, 9, 4)
    operations = lowered([x, y], Upsample(name="n", input="x", output="y", factors=(2, 3)))
    assert [each.first_pixel for each in operations] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert {each.pixel_step for each in operations} == {(2, 3)}


# Products


def test_convolution() -> None:
    shape = ConvolutionShape(
        channels=8, kernel=(3, 2), stride=(2, 1), dilation=(1, 2), padding=((1, 0), (0, 1)), groups=2
    )
    graph = random_cnn((9, 8, 6), [shape], seed=1)
    (operation,) = lower(graph, views(graph))
    assert (operation.channels, operation.input_channels, operation.reduction) == (8, 6, 18)
    height, width = graph.tensors["t1"].canonical[1:3]
    assert operation.result_map == (height, width)
    assert operation.macs == height * width * 8 * 18
    # Padding is real zero.
    assert operation.pad_value == operation.zero_point == graph.tensors["t0"].zero_point


def test_matrix_product() -> None:
    graph = random_mlp([12, 5], rows=7)
    (operation,) = lower(graph, views(graph))
    assert (operation.map, operation.kernel, operation.result_map) == ((1, 7), (1, 1), (1, 7))


@pytest.mark.parametrize("first", [False, True])
def test_a_flattened_map_is_one_window(first: bool) -> None:
    base = random_cnn((3, 4, 2), [ConvolutionShape(channels=5)], channels_first=first)
    last = base.tensors["t1"]
    flat = replace(last, name="flat", shape=(1, 60), channel_axis=None)
    y = tensor("y", 1, 2)
    weights = np.arange(120).reshape(2, 60) - 60
    node = FullyConnected(
        name="full",
        input="flat",
        output="y",
        weights=weights,
        weight_format=Int(8),
        bias=np.zeros(2, np.int64),
        quantiser=None,
    )
    y = replace(y, format=Int(32))
    operations = lowered(
        [*base.tensors.values(), flat, y],
        *base.nodes,
        Reshape(name="flatten", input="t1", output="flat"),
        node,
    )
    operation = operations[-1]
    assert (operation.map, operation.kernel, operation.result_map) == ((3, 4), (3, 4), (1, 1))
    assert operation.weights.shape == (2, 3, 4, 5)
    order = weights.reshape(2, 5, 3, 4).transpose(0, 2, 3, 1) if first else weights.reshape(2, 3, 4, 5)
    assert (operation.weights == order).all()


def test_a_batch_of_maps() -> None:
    graph = random_cnn((4, 4, 3), [ConvolutionShape(channels=2)])
    tensors = [replace(info, shape=(3, *info.shape[1:])) for info in graph.tensors.values()]
    with pytest.raises(NetworkError, match=r"node 'conv0'.*batch of 3"):
        lowered(tensors, *graph.nodes)


def test_wide_codes_are_not_combined() -> None:
    node = MaxPool(name="pool", input="x", output="y", kernel=(2, 2), stride=(2, 2))
    with pytest.raises(NetworkError, match=r"node 'pool'.*at most 8 bits"):
        lowered([tensor("x", 1, 4, 4, 3, bits=16), tensor("y", 1, 2, 2, 3, bits=16)], node)
