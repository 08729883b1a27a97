"""Networks made of random numbers, for benchmarks and tests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.formats import Format, Int
from bitwright.hw.quant.arithmetic import Rounding, quantise_multiplier
from bitwright.sim.graph import (
    AveragePool,
    Binary,
    Convolution,
    FullyConnected,
    Graph,
    MaxPool,
    Node,
    Padding,
    Quantize,
    Requantise,
    Reshape,
    TensorInfo,
)

__all__ = [
    "ConvolutionShape",
    "mean_away",
    "random_cnn",
    "random_input",
    "random_mlp",
    "random_residual",
    "spread",
]


def random_mlp(
    sizes: Sequence[int],
    *,
    rows: int = 1,
    activation: Int | Sequence[Int] | None = None,
    weight: Format | Sequence[Format] | None = None,
    rounding: Rounding = "tflite",
    seed: int = 0,
) -> Graph:
    """Fully connected layers with random weights, scaled so that results spread over the output's range.

    Parameters
    ----------
    sizes
        Terms of the first layer, then columns of each.
    rows
        Rows of every matrix.
    activation, weight
        Formats, int8 unless given: one for all, or one for each tensor (one more than layers) and each layer.
    rounding
        Of the requantisation.
    seed
        Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    layers = len(sizes) - 1
    formats = activation if isinstance(activation, Sequence) else [activation or Int(8)] * (layers + 1)
    weight_formats = weight if isinstance(weight, Sequence) else [weight or Int(8)] * layers

    def tensor(index: int, size: int) -> TensorInfo:
        format = formats[index]
        zero_point = int(rng.integers(format.min, format.max + 1))
        return TensorInfo(
            name=f"t{index}", shape=(rows, size), format=format, scale=1.0, zero_point=zero_point
        )

    tensors = [tensor(index, size) for index, size in enumerate(sizes)]
    nodes = []
    for index, (terms, columns) in enumerate(pairwise(sizes)):
        format = weight_formats[index]
        weights = rng.choice(format.values, (columns, terms))
        bias, quantiser = spread(
            rng, weights, tensors[index], tensors[index + 1], rounding=rounding, relu=index % 2 == 1
        )
        nodes.append(
            FullyConnected(
                name=f"fc{index}",
                input=f"t{index}",
                output=f"t{index + 1}",
                weights=weights,
                weight_format=format,
                bias=bias,
                quantiser=quantiser,
            )
        )
    name = "x".join(map(str, (rows, *sizes)))
    return Graph(
        name=name,
        tensors={info.name: info for info in tensors},
        nodes=tuple(nodes),
        input="t0",
        output=f"t{len(nodes)}",
    )


@dataclass(frozen=True, kw_only=True)
class ConvolutionShape:
    """Shape of a random convolution: output channels and what :class:`~bitwright.sim.graph.Convolution` has.

    `channels` of 0 are as many as there are in the input.
    """

    channels: int = 0
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    groups: int = 1


def random_cnn(
    shape: tuple[int, int, int],
    layers: Sequence[ConvolutionShape],
    *,
    activation: Int | Sequence[Int] | None = None,
    weight: Format | Sequence[Format] | None = None,
    rounding: Rounding = "tflite",
    channels_first: bool = False,
    seed: int = 0,
) -> Graph:
    """Convolutions with random weights, scaled as :func:`random_mlp` does.

    Parameters
    ----------
    shape
        Height, width and channels of the input.
    layers
        Their shapes.
    activation, weight, rounding, seed
        As of :func:`random_mlp`.
    channels_first
        Whether tensors have their channels before height and width, as in ONNX.
    """
    rng = np.random.default_rng(seed)
    formats = activation if isinstance(activation, Sequence) else [activation or Int(8)] * (len(layers) + 1)
    weight_formats = weight if isinstance(weight, Sequence) else [weight or Int(8)] * len(layers)

    def tensor(index: int, height: int, width: int, channels: int) -> TensorInfo:
        format = formats[index]
        sizes = (1, channels, height, width) if channels_first else (1, height, width, channels)
        return TensorInfo(
            name=f"t{index}",
            shape=sizes,
            format=format,
            zero_point=int(rng.integers(format.min, format.max + 1)),
            channel_axis=1 if channels_first else None,
        )

    tensors = [tensor(0, *shape)]
    nodes: list[Convolution] = []
    for index, layer in enumerate(layers):
        source = tensors[-1]
        _, height, width, inputs = source.canonical
        channels = layer.channels or inputs
        weights = rng.choice(weight_formats[index].values, (channels, *layer.kernel, inputs // layer.groups))
        fields = {
            "stride": layer.stride,
            "dilation": layer.dilation,
            "padding": layer.padding,
            "groups": layer.groups,
        }
        blank = Convolution(
            name=f"conv{index}",
            input=f"t{index}",
            output=f"t{index + 1}",
            weights=weights,
            weight_format=weight_formats[index],
            bias=np.zeros(channels, np.int64),
            quantiser=None,
            **fields,  # type: ignore[arg-type]
        )
        tensors.append(tensor(index + 1, *blank.positions(height, width), channels))
        bias, quantiser = spread(
            rng, weights.reshape(channels, -1), source, tensors[-1], rounding=rounding, relu=index % 2 == 1
        )
        nodes.append(replace(blank, bias=bias, quantiser=quantiser))
    return Graph(
        name="x".join(map(str, shape)),
        tensors={info.name: info for info in tensors},
        nodes=tuple(nodes),
        input="t0",
        output=tensors[-1].name,
    )


def random_residual(
    shape: tuple[int, int, int],
    *,
    channels: int = 8,
    classes: int = 5,
    depthwise: bool = True,
    rounding: Rounding = "tflite",
    seed: int = 0,
) -> Graph:
    """A residual network with random weights, int8::

        x ─► first ─► pool ─┬─► left ─► right ─► sum ─┬─► down ────────────► sum_down
                            └────────────────────┘    └─► shortcut ──────────┘  │
                                                                                ▼
                          y ◄─ classes ◄─ flat ◄─ mean ◄─ point ◄─ depth ◄──────┘

    `depth` and `point` are there with `depthwise` only.

    Parameters
    ----------
    shape
        Height, width and channels of the input; height and width are at least 4.
    channels
        Of the first layer's results; twice as many from `down` on.
    classes
        Columns of the last layer.
    rounding, seed
        As of :func:`random_mlp`.
    """
    rng = np.random.default_rng(seed)
    format = Int(8)
    tensors: dict[str, TensorInfo] = {}
    nodes: list[Node] = []

    def tensor(name: str, sizes: tuple[int, ...], like: TensorInfo | None = None) -> TensorInfo:
        scale, zero_point = (
            (1.0, int(rng.integers(-128, -20))) if like is None else (like.scale, like.zero_point)
        )
        tensors[name] = TensorInfo(
            name=name, shape=(1, *sizes), format=format, scale=scale, zero_point=zero_point
        )
        return tensors[name]

    def convolve(source: TensorInfo, name: str, layer: ConvolutionShape, *, relu: bool = False) -> TensorInfo:
        _, height, width, inputs = source.canonical
        count = layer.channels or inputs
        # As trained weights are: few are great.
        weights = rng.normal(0, 36, (count, *layer.kernel, inputs // layer.groups))
        node = Convolution(
            name=name,
            input=source.name,
            output=f"{name}_out",
            weights=np.rint(weights).clip(-127, 127).astype(np.int64),
            weight_format=format,
            bias=np.zeros(count, np.int64),
            quantiser=None,
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
        )
        result = tensor(node.output, (*node.positions(height, width), count))
        flat = node.weights.reshape(count, -1)
        bias, quantiser = spread(rng, flat, source, result, rounding=rounding, relu=relu)
        nodes.append(replace(node, bias=bias, quantiser=quantiser))
        return result

    def add(first: TensorInfo, second: TensorInfo, name: str) -> TensorInfo:
        result = tensor(f"{name}_out", first.shape[1:])
        codes = np.arange(format.min, format.max + 1)
        left, right = (codes - operand.zero_point for operand in (first, second))
        # Half up, of tenths.
        table = (7 * left[:, None] + 6 * right[None, :] + 5) // 10
        table = table.clip(0, None) + result.zero_point
        table = table.clip(format.min, format.max)
        nodes.append(Binary(name=name, inputs=(first.name, second.name), output=result.name, table=table))
        return result

    around = ((1, 1), (1, 1))
    x = convolve(
        tensor("x", shape),
        "first",
        ConvolutionShape(channels=channels, kernel=(3, 3), padding=around),
        relu=True,
    )
    pool = MaxPool(name="pool", input=x.name, output="pool_out", kernel=(2, 2), stride=(2, 2))
    x = tensor(pool.output, (*pool.positions(*x.canonical[1:3]), channels), x)
    nodes.append(pool)
    same = ConvolutionShape(kernel=(3, 3), padding=around)
    right = convolve(convolve(x, "left", same, relu=True), "right", same)
    x = add(x, right, "sum")
    half = ConvolutionShape(channels=2 * channels, kernel=(3, 3), stride=(2, 2), padding=around)
    down = convolve(x, "down", half)
    x = add(convolve(x, "shortcut", replace(half, kernel=(1, 1), padding=((0, 0), (0, 0)))), down, "sum_down")
    if depthwise:
        x = convolve(x, "depth", replace(same, groups=2 * channels))
        x = convolve(x, "point", ConvolutionShape())
    mean = tensor("mean_out", (1, 1, 2 * channels), x)
    average = AveragePool(name="mean", input=x.name, output=mean.name, kernel=x.canonical[1:3])
    nodes.append(average.tabulated(x, mean_away))
    flat = tensor("flat_out", (2 * channels,), mean)
    nodes.append(Reshape(name="flat", input=mean.name, output=flat.name))
    last = tensor("y", (classes,))
    weights = rng.integers(-127, 128, (classes, 2 * channels))
    bias, quantiser = spread(rng, weights, flat, last, rounding=rounding, relu=False)
    nodes.append(
        FullyConnected(
            name="classes",
            input=flat.name,
            output=last.name,
            weights=weights,
            weight_format=format,
            bias=bias,
            quantiser=quantiser,
        )
    )
    name = "residual_" + "x".join(map(str, (*shape, channels)))
    return Graph(name=name, tensors=tensors, nodes=tuple(nodes), input="x", output="y")


def mean_away(sums: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Sums divided by how many numbers they are of, halves away from zero, as TFLite does."""
    size: NDArray[np.int64] = (np.abs(sums) + count // 2) // count
    return np.where(sums < 0, -size, size)


def spread(
    rng: np.random.Generator,
    weights: NDArray[np.int64],
    source: TensorInfo,
    result: TensorInfo,
    *,
    rounding: Rounding,
    relu: bool,
) -> tuple[NDArray[np.int64], Requantise]:
    """Bias and quantiser by which results of uniform inputs spread over the output's range.

    Parameters
    ----------
    rng
        Random numbers.
    weights
        N × K.
    source, result
        What is read and made.
    rounding
        Of the requantisation.
    relu
        Whether results below real 0 are clipped.
    """
    before, after = source.format, result.format
    assert before is not None
    assert after is not None
    # Centre the sums, and scale their deviation to half of the output's range.
    mean = (before.min + before.max) / 2 - source.zero_point
    deviation = (before.max - before.min + 1) / np.sqrt(12)
    spread = np.sqrt((weights.astype(float) ** 2).sum(axis=1)).clip(1) * deviation
    centre = (after.min + after.max) / 2 - result.zero_point
    real = rng.uniform(0.3, 1.2, len(weights)) * (after.max - after.min + 1) / 2 / spread
    bias = rng.normal(0, spread) - mean * weights.sum(axis=1) + centre / real
    multiplier, shift = quantise_multiplier(real)
    low = result.zero_point if relu else after.min
    return np.rint(bias).astype(np.int64), Requantise(
        multiplier=multiplier, shift=shift, rounding=rounding, low=low, high=after.max
    )


def random_input(graph: Graph, *, count: int, seed: int = 0) -> NDArray[Any]:
    """Random codes for a graph's input, quantised already, shaped ``(count, *shape)``."""
    rng = np.random.default_rng(seed)
    name = next((node.output for node in graph.nodes if isinstance(node, Quantize)), graph.input)
    info = graph.tensors[name]
    assert info.format is not None
    shape = graph.tensors[graph.input].shape
    if isinstance(info.format, Int):
        return rng.integers(info.format.min, info.format.max + 1, (count, *shape))
    return rng.choice(info.format.values, (count, *shape))
