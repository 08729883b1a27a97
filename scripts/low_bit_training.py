"""Trains networks of few bits in numpy, their quantisers in place: dense layers and convolutions.

A layer is a product, a normalisation, and a quantiser; a sum with an earlier layer's output and a pool may
follow. Gradients pass a quantiser as if it were not there (straight through). After every step parameters are
brought to a grid, so that rounding differences between machines vanish before a quantiser can make anything
of them: the same seed gives the same network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float64]

PIXEL_STEP = {8: 0.125, 4: 1.0, 2: 5.0}
"""What a code of 1 stands for at the input, by bits. Nothing is lost at 8 bits."""

ACTIVATION_STEP = {8: 2.0**-6, 4: 2.0**-2, 2: 1.0, 1: 1.0}
"""The same behind a layer, whose outputs are normalised: the greatest code stands for 3 to 4."""

THERMOMETER = (3, 7, 12)
"""A pixel becomes three inputs: +1 where it is at least 3, at least 7, at least 12, otherwise -1."""

BATCH = 64
RATE = 2e-2
LABEL_SMOOTHING = 0.1
EPSILON = 1e-5
MIN_GAIN = 0.05
TRAINING_GRID = 2.0**-14
"""What parameters are brought to after every step, in units of their own range."""

MAX_THRESHOLD_BITS = 4
"""Up to so many bits a layer's output is a matter of thresholds; beyond, it is multiplied and rounded."""

POOL = 2
"""Height and width of a pool's windows, which lie side by side."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Activations that a layer takes and its weights: 1 bit is bipolar, more activations are unsigned."""

    activation_bits: int
    weight_bits: int

    def __str__(self) -> str:
        """As the configuration of an engine names it."""
        activations = "b" if self.activation_bits == 1 else f"u{self.activation_bits}"
        return f"a{activations}w{'b' if self.weight_bits == 1 else self.weight_bits}"

    @property
    def weight_range(self) -> tuple[int, int]:
        """Least and greatest weight; from 3 bits on the range is symmetric (narrow)."""
        if self.weight_bits == 1:
            return -1, 1
        high = (1 << (self.weight_bits - 1)) - 1
        return (-high if self.narrow else -high - 1), high

    @property
    def narrow(self) -> bool:
        """Whether the least code of the weights is left out."""
        return self.weight_bits > 2

    @property
    def weight_step(self) -> float:
        """What a weight's code of 1 stands for, so that weights lie between -1 and 1."""
        return 2.0 ** (1 - self.weight_bits)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A layer to train.

    Parameters
    ----------
    outputs
        Its output channels.
    precision
        Of its operands.
    kernel
        Height and width of a convolution's kernel, an odd number; its padding keeps the map's size. 0 for a
        dense layer.
    depthwise
        Whether each channel has a kernel of its own.
    add
        Number of the earlier layer, from 1 on, whose output is added to its own, which is signed then; the
        sum is rectified and quantised again. 0 for none.
    pool
        The greatest or the mean of windows of 2 × 2; the mean is quantised again.
    """

    outputs: int
    precision: Precision
    kernel: int = 0
    depthwise: bool = False
    add: int = 0
    pool: Literal["", "max", "average"] = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network to train.

    Parameters
    ----------
    name
        What it and its file are called.
    size
        Shape of its input: features, or channels, height and width.
    plans
        Its layers, the first one first.
    epochs
        How often training goes through the images.
    """

    name: str
    size: tuple[int, ...]
    plans: tuple[Plan, ...]
    epochs: int = 80

    @property
    def thermometer(self) -> bool:
        """Whether the network takes thermometer codes in the place of pixels."""
        return self.plans[0].precision.activation_bits == 1

    @property
    def is_map(self) -> bool:
        """Whether its input has height and width."""
        return len(self.size) == 3

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of the input, and of every layer's output behind its pool."""
        sizes = [self.size]
        for plan in self.plans:
            size = (plan.outputs, *(sizes[-1][1:] if plan.kernel else ()))
            sizes.append((size[0], *(n // POOL for n in size[1:])) if plan.pool else size)
        return tuple(sizes)

    @property
    def reductions(self) -> tuple[int, ...]:
        """K of every layer: the length of its dot products."""
        return tuple(
            plan.kernel**2 * (1 if plan.depthwise else size[0]) if plan.kernel else prod(size)
            for plan, size in zip(self.plans, self.sizes, strict=False)
        )

    @property
    def macs(self) -> tuple[int, ...]:
        """Multiply-accumulate operations of every layer, for one image."""
        return tuple(
            k * plan.outputs * (prod(size[1:]) if plan.kernel else 1)
            for plan, k, size in zip(self.plans, self.reductions, self.sizes, strict=False)
        )

    @property
    def output_bits(self) -> tuple[int, ...]:
        """Bits of every layer's output; 0 for the last layer's scores."""
        return (*(plan.precision.activation_bits for plan in self.plans[1:]), 0)


def dense(name: str, widths: Sequence[int], bits: Sequence[int]) -> Recipe:
    """A network of dense layers: widths, the input's first, and for each layer the bits of its operands."""
    plans = (
        Plan(outputs=n, precision=Precision(activation_bits=b, weight_bits=b))
        for n, b in zip(widths[1:], bits, strict=True)
    )
    return Recipe(name=name, size=(widths[0],), plans=tuple(plans))


def snap(values: Array, grid: float) -> Array:
    """Values on a grid."""
    return np.rint(values / grid) * grid


def to_codes(values: Array, low: int, high: int) -> Array:
    """Clamp, then round, ties to even; ±1 of the sign where the range is that of one bit."""
    if (low, high) == (-1, 1):
        return np.where(values >= 0, 1.0, -1.0)
    return np.rint(np.clip(values, low, high))


def activation_range(bits: int, signed: bool = False) -> tuple[int, int]:
    """Least and greatest code."""
    if bits == 1:
        return -1, 1
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def thermometer(pixels: Array) -> Array:
    """Rows of 64 pixels as rows of 192 inputs: all pixels at the first level, at the second, at the third."""
    levels = np.array(THERMOMETER)[:, None]
    codes = np.where(pixels[:, None, :] >= levels, 1.0, -1.0)
    return codes.reshape(len(pixels), -1)


def network_input(recipe: Recipe, pixels: Array) -> Array:
    """What the network is given of images, channels first."""
    return (thermometer(pixels) if recipe.thermometer else pixels).reshape(len(pixels), *recipe.size)


def quantised_input(recipe: Recipe, x: Array) -> Array:
    """The network's input after its first quantiser, as real numbers; maps have their channels last."""
    x = np.moveaxis(x, 1, -1)
    bits = recipe.plans[0].precision.activation_bits
    if recipe.thermometer:
        return x
    return to_codes(x / PIXEL_STEP[bits], *activation_range(bits)) * PIXEL_STEP[bits]


def activate(z: Array, bits: int, signed: bool = False) -> tuple[Array, NDArray[np.bool_]]:
    """Quantised outputs as real numbers, and where the gradient passes."""
    if not bits:
        return z, np.ones(z.shape, np.bool_)
    step = ACTIVATION_STEP[bits]
    low, high = activation_range(bits, signed)
    # Half a code beyond the ends nothing changes any more.
    inside = np.abs(z) <= 1 if bits == 1 else (z > (low - 0.5) * step) & (z < (high + 0.5) * step)
    return to_codes(z / step, low, high) * step, inside


@dataclass(kw_only=True)
class Layer:
    """Parameters of a layer while it is trained.

    Parameters
    ----------
    plan
        What it is.
    output_bits
        Bits of its output; 0 for the last layer's scores.
    latent
        N × K floats, in codes, that the weights are rounded from.
    gain, shift
        Of the normalised output: ``gain * (acc - mean) / sqrt(var + EPSILON) + shift``.
    side
        Sign of each gain, which training leaves as it is.
    """

    plan: Plan
    output_bits: int
    latent: Array
    gain: Array
    shift: Array
    side: Array

    @property
    def precision(self) -> Precision:
        """Of its operands."""
        return self.plan.precision

    @property
    def codes(self) -> Array:
        """Weights in codes."""
        return to_codes(self.latent, *self.precision.weight_range)

    @property
    def weights(self) -> Array:
        """Weights in real numbers."""
        return self.codes * self.precision.weight_step

    @property
    def by_thresholds(self) -> bool:
        """Whether the output is a count of thresholds."""
        return 0 < self.output_bits <= MAX_THRESHOLD_BITS

    @property
    def signed(self) -> bool:
        """Whether the quantiser behind the normalisation makes signed codes."""
        return self.plan.add > 0

    def bound(self) -> None:
        """Keep parameters in their range and on their grid."""
        low, high = self.precision.weight_range
        # A weight need not go further than a little beyond the last code.
        margin = 0.0 if self.precision.weight_bits == 1 else 0.4
        self.latent[:] = np.clip(snap(self.latent / high, TRAINING_GRID) * high, low - margin, high + margin)
        self.gain[:] = snap(self.side * np.maximum(self.side * self.gain, MIN_GAIN), TRAINING_GRID)
        self.shift[:] = snap(self.shift, TRAINING_GRID)

    def columns(self, h: Array) -> Array:
        """Operands of the dot products: a row for each image, or pixel, of K, or of channels × K."""
        if not self.plan.kernel:
            return np.moveaxis(h, -1, 1).reshape(len(h), -1)
        around = self.plan.kernel // 2
        padded = np.pad(h, ((0, 0), (around, around), (around, around), (0, 0)))
        windows = sliding_window_view(padded, (self.plan.kernel,) * 2, axis=(1, 2))
        pixels, channels = prod(h.shape[:3]), h.shape[3]
        return windows.reshape(pixels, *((channels, -1) if self.plan.depthwise else (-1,)))

    def product(self, columns: Array, weights: Array) -> Array:
        """Sums of products, a row for each image or pixel."""
        if self.plan.depthwise:
            return np.einsum("pck,ck->pc", columns, weights)
        return columns @ weights.T

    def gradients(
        self, gradient: Array, columns: Array, weights: Array, shape: tuple[int, ...]
    ) -> tuple[Array, Array]:
        """Gradients of the weights, and of an input of a `shape`, from that of the product."""
        if self.plan.depthwise:
            by_weights = np.einsum("pc,pck->ck", gradient, columns)
            by_columns = gradient[:, :, None] * weights
        else:
            by_weights = gradient.T @ columns
            by_columns = gradient @ weights
        if not self.plan.kernel:
            return by_weights, np.moveaxis(by_columns.reshape(shape[0], *shape[3:], *shape[1:3]), 1, -1)
        kernel, around = self.plan.kernel, self.plan.kernel // 2
        images, height, width, channels = shape
        taps = by_columns.reshape(images, height, width, channels, kernel, kernel)
        result = np.zeros((images, height + 2 * around, width + 2 * around, channels))
        for row in range(kernel):
            for column in range(kernel):
                result[:, row : row + height, column : column + width] += taps[..., row, column]
        return by_weights, result[:, around : around + height, around : around + width]

    def finish(self, z: Array, outputs: Sequence[Array]) -> tuple[Array, list[Array]]:
        """What becomes of normalised sums, and what the gradients of each step are multiplied with.

        Parameters
        ----------
        z
            A row for each image or pixel.
        outputs
            Of the network's input and of every layer before.
        """
        h, inside = activate(z, self.output_bits, self.signed)
        factors: list[Array] = [inside.astype(np.float64)]
        if self.plan.kernel:
            h = h.reshape(*outputs[-1].shape[:3], -1)
        if self.plan.add:
            h, inside = activate(h + outputs[self.plan.add], self.output_bits)
            factors.append(inside.astype(np.float64))
        if self.plan.pool:
            images, height, width, channels = h.shape
            windows = h.reshape(images, height // POOL, POOL, width // POOL, POOL, channels)
            if self.plan.pool == "max":
                h = windows.max(axis=(2, 4))
                # Where several are the greatest, each gets a part.
                greatest = (windows == h[:, :, None, :, None]).astype(np.float64)
                greatest /= greatest.sum(axis=(2, 4), keepdims=True)
                factors.append(greatest)
            else:
                h = activate(windows.mean(axis=(2, 4)), self.output_bits)[0]
                factors.append(np.full(windows.shape, 1 / POOL**2))
        return h, factors

    def unfinish(self, gradient: Array, factors: list[Array]) -> tuple[Array, Array | None]:
        """Gradients of the normalised sums, and of what was added, from that of the output."""
        if self.plan.pool:
            windows = gradient[:, :, None, :, None] * factors[-1]
            images, height, _, width, _, channels = windows.shape
            gradient = windows.reshape(images, height * POOL, width * POOL, channels)
        added = gradient = gradient * factors[1] if self.plan.add else gradient
        return gradient.reshape(factors[0].shape) * factors[0], added if self.plan.add else None


def fresh_layers(recipe: Recipe, rng: np.random.Generator) -> list[Layer]:
    """Layers before training."""
    layers = []
    for plan, k, output_bits in zip(recipe.plans, recipe.reductions, recipe.output_bits, strict=True):
        n, precision = plan.outputs, plan.precision
        spread = {1: 0.5, 2: 0.8}.get(precision.weight_bits, precision.weight_range[1] / 2.5)
        layer = Layer(
            plan=plan,
            output_bits=output_bits,
            latent=rng.normal(0, spread, (n, k)),
            gain=np.ones(n),
            shift=np.zeros(n),
            side=np.ones(n),
        )
        if layer.by_thresholds:
            # A threshold may as well be passed downwards.
            layer.side = rng.choice([-1.0, 1.0], n)
            layer.gain *= layer.side
        layer.bound()
        layers.append(layer)
    return layers


def train_low_bit(recipe: Recipe, x: Array, labels: NDArray[np.int64]) -> list[Layer]:
    """Layers trained with Adam on rows of pixels; the last layer's outputs are the classes' scores."""
    rng = np.random.default_rng(0)
    layers = fresh_layers(recipe, rng)
    parameters = [p for layer in layers for p in (layer.latent, layer.gain, layer.shift)]
    ranges = [r for layer in layers for r in (layer.precision.weight_range[1], 1, 1)]
    mean = [np.zeros_like(p) for p in parameters]
    square = [np.zeros_like(p) for p in parameters]
    classes = recipe.plans[-1].outputs
    step = 0
    for epoch in range(recipe.epochs):
        order = rng.permutation(len(x))
        rate = RATE * (1 + np.cos(np.pi * epoch / recipe.epochs)) / 2
        for start in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            pixels = x[batch]
            if recipe.thermometer:
                # Brighter and darker images: one bit of each has little else to learn from.
                pixels = pixels + rng.integers(-1, 2, (len(batch), 1))
            outputs = [quantised_input(recipe, network_input(recipe, pixels))]
            kept = []
            for layer in layers:
                weights, columns = layer.weights, layer.columns(outputs[-1])
                acc = layer.product(columns, weights)
                deviation = np.sqrt(acc.var(axis=0) + EPSILON)
                normal = (acc - acc.mean(axis=0)) / deviation
                output, factors = layer.finish(normal * layer.gain + layer.shift, outputs)
                kept.append((columns, weights, normal, deviation, factors))
                outputs.append(output)
            exponentials = np.exp(outputs[-1] - outputs[-1].max(axis=1, keepdims=True))
            gradient = exponentials / exponentials.sum(axis=1, keepdims=True)
            target = np.full(gradient.shape, LABEL_SMOOTHING / classes)
            target[np.arange(len(batch)), labels[batch]] += 1 - LABEL_SMOOTHING
            gradient = (gradient - target) / len(batch)
            gradients: list[Array] = []
            # Of an output that is added later, what comes back from there.
            later: dict[int, Array] = {}
            for number in range(len(layers), 0, -1):
                layer, (columns, weights, normal, deviation, factors) = layers[number - 1], kept[number - 1]
                if number in later:
                    gradient = gradient + later.pop(number)
                gradient, added = layer.unfinish(gradient, factors)
                if added is not None:
                    later[layer.plan.add] = later.get(layer.plan.add, 0) + added
                by_shift, by_gain = gradient.sum(axis=0), (gradient * normal).sum(axis=0)
                gradient = gradient * layer.gain
                gradient = gradient - gradient.mean(axis=0) - normal * (gradient * normal).mean(axis=0)
                gradient = gradient / deviation
                shape = outputs[number - 1].shape
                by_weights, gradient = layer.gradients(gradient, columns, weights, shape)
                gradients = [by_weights, by_gain, by_shift, *gradients]
            step += 1
            for p, g, m, s, size in zip(parameters, gradients, mean, square, ranges, strict=True):
                m += 0.1 * (g - m)
                s += 0.001 * (g * g - s)
                p -= rate * size * (m / (1 - 0.9**step)) / (np.sqrt(s / (1 - 0.999**step)) + 1e-8)
            for layer in layers:
                layer.bound()
    return layers
