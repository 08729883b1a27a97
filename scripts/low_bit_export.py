"""Writes trained networks as ONNX, in QDQ form or as QONNX, and evaluates QONNX operator by operator."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from low_bit_training import (
    ACTIVATION_STEP,
    EPSILON,
    MAX_THRESHOLD_BITS,
    PIXEL_STEP,
    POOL,
    Layer,
    Precision,
    Recipe,
    activation_range,
    network_input,
    quantised_input,
    snap,
)
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float64]

GRID = 2.0**-16
"""Trained numbers are brought to this grid: how one machine's sums differ from another's vanishes in it."""

SCALE_GRID = 2.0**-14
"""The same for the scales of activations."""

THRESHOLD_MARGIN = 1 / 64
"""No accumulator lies nearer to a threshold, in steps of the accumulator."""

QONNX_DOMAIN = "qonnx.custom_op.general"


@dataclass(frozen=True)
class Scale:
    """Quantisation of a tensor of activations: int8, asymmetric."""

    scale: np.float32
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float) -> "Scale":
        """Spread 256 codes over a range that holds 0."""
        scale = np.float32(np.ceil((high - low) / 255 / SCALE_GRID) * SCALE_GRID)
        return cls(scale, int(np.clip(np.rint(-128 - low / scale), -128, 127)))


class Writer:
    """Collects the nodes and constants of an ONNX network in QDQ form."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, values: ArrayLike) -> str:
        """Store a constant."""
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node named after its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes))
        return output

    def quantised(self, x: str, name: str, s: Scale, kind: type[np.integer[Any]] = np.int8) -> str:
        """Quantise and dequantise; the integers, of 8 bits, are the tensor called `name`."""
        parameters = [
            self.constant(f"{name}_scale", s.scale),
            self.constant(f"{name}_zero_point", kind(s.zero_point)),
        ]
        self.node("QuantizeLinear", [x, *parameters], name)
        return self.node("DequantizeLinear", [name, *parameters], f"{name}_real")

    def dequantised(self, name: str, codes: NDArray[np.generic], scale: NDArray[np.float32]) -> str:
        """Integers with one scale for each output channel."""
        parameters = [
            self.constant(f"{name}_scale", scale),
            self.constant(f"{name}_zero_point", np.zeros(len(scale), codes.dtype)),
        ]
        stored = self.constant(name, codes)
        return self.node("DequantizeLinear", [stored, *parameters], f"{name}_real", axis=0)

    # What export() needs, here in 8 bits

    def activation(self, x: str, name: str, step: float, bits: int, *, signed: bool = False) -> str:
        """Quantise activations to a number of bits; the tensor of their values."""
        if bits != 8:
            raise RuntimeError(f"'{name}' has {bits} bits, and not 8")
        return self.quantised(x, name, Scale(np.float32(step), 0), np.int8 if signed else np.uint8)

    def moved(self, x: str, name: str, step: float, bits: int) -> str:
        """Name what a node has only chosen, or moved, of quantised activations."""
        return self.activation(x, name, step, bits)

    def weights(self, name: str, codes: Array, scale: Array, precision: Precision) -> str:
        """Store weights, whose scale is one for each output channel."""
        per_channel = np.broadcast_to(scale.reshape(-1), len(codes)).astype(np.float32)
        return self.dequantised(name, codes.astype(np.int8), per_channel)

    def bias(self, name: str, codes: Array, unit: Array) -> str:
        """Store a bias of whole accumulators, each of which stands for a `unit`."""
        return self.dequantised(name, codes.astype(np.int32), unit.reshape(-1).astype(np.float32))


class LowBitWriter(Writer):
    """Writes QONNX."""

    def custom(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node of QONNX's own domain."""
        return self.node(op, inputs, output, domain=QONNX_DOMAIN, **attributes)

    def quant(
        self, x: str, name: str, scale: ArrayLike, bits: int, *, signed: bool, narrow: bool = False
    ) -> str:
        """Quantise to a number of bits; 1 bit is bipolar."""
        stored = self.constant(f"{name}_scale", np.asarray(scale, np.float32))
        if bits == 1:
            return self.custom("BipolarQuant", [x, stored], name)
        return self.custom(
            "Quant",
            [
                x,
                stored,
                self.constant(f"{name}_zero_point", np.float32(0)),
                self.constant(f"{name}_bits", np.float32(bits)),
            ],
            name,
            signed=int(signed),
            narrow=int(narrow),
            rounding_mode="ROUND",
        )

    def activation(self, x: str, name: str, step: float, bits: int, *, signed: bool = False) -> str:
        return self.quant(x, name, step, bits, signed=signed)

    def moved(self, x: str, name: str, step: float, bits: int) -> str:
        # The node's own output has that name.
        return x

    def weights(self, name: str, codes: Array, scale: Array, precision: Precision) -> str:
        return self.quant(
            self.constant(name, (codes * scale).astype(np.float32)),
            f"{name}_quantised",
            scale,
            precision.weight_bits,
            signed=True,
            narrow=precision.narrow,
        )

    def bias(self, name: str, codes: Array, unit: Array) -> str:
        exact = codes * unit.reshape(-1)
        stored = exact.astype(np.float32)
        if (stored != exact).any():
            raise RuntimeError(f"'{name}' is not exact in float32")
        return self.constant(name, stored)


def significant(values: Array, bits: int) -> Array:
    """Values rounded to so many significant bits."""
    fraction, exponent = np.frexp(values)
    result: Array = np.ldexp(np.rint(np.ldexp(fraction, bits)), exponent - bits)
    return result


def settle(
    gain: Array,
    mean: Array,
    deviation: Array,
    shift: Array,
    unit: float,
    bits: int,
    signed: bool = False,
) -> Array:
    """Shifts moved by at most half an accumulator's step, so that no accumulator lies close to a threshold.

    Which side of a threshold an accumulator is on is then not a matter of how the normalisation is rounded.

    Parameters
    ----------
    gain, mean, deviation, shift
        Of the normalisation, for each channel.
    unit
        What an accumulator of 1 stands for.
    bits, signed
        Of the output.
    """
    # Between any two codes there is a boundary.
    low, high = activation_range(bits, signed)
    boundaries = np.zeros(1) if bits == 1 else np.arange(low + 0.5, high) * ACTIVATION_STEP[bits]
    pace = np.abs(gain) / deviation * unit
    best, chosen = np.full(len(gain), -1.0), shift
    for fraction in np.linspace(-0.5, 0.5, 129):
        candidate = (shift + pace * fraction).astype(np.float32).astype(np.float64)
        crossings = ((boundaries[:, None] - candidate) / gain * deviation + mean) / unit
        distance = np.abs(crossings - np.rint(crossings)).min(axis=0)
        chosen = np.where(distance > best, candidate, chosen)
        best = np.maximum(best, distance)
    if best.min() < THRESHOLD_MARGIN:
        raise RuntimeError(f"An accumulator lies within {best.min():.3f} steps of a threshold")
    return chosen


def export(recipe: Recipe, layers: Sequence[Layer], x: Array, *, qdq: bool = False) -> onnx.ModelProto:
    """The network as QONNX, or in QDQ form where it has 8 bits; normalised as the training images `x` are."""
    writer = Writer() if qdq else LowBitWriter()
    bits = recipe.plans[0].precision.activation_bits
    step = 1.0 if recipe.thermometer else PIXEL_STEP[bits]
    current = writer.activation("image", "pixels", step, bits)
    outputs = [quantised_input(recipe, network_input(recipe, x))]
    names = [current]
    shapes: dict[str, tuple[int, ...]] = {"pixels": recipe.size}
    for number, (layer, size) in enumerate(zip(layers, recipe.sizes, strict=False), 1):
        plan, precision, output_bits = layer.plan, layer.precision, layer.output_bits
        weight_step = np.array(precision.weight_step)
        columns = layer.columns(outputs[-1])
        acc = layer.product(columns, layer.weights)
        mean, variance = snap(acc.mean(axis=0), GRID), snap(acc.var(axis=0), GRID)
        deviation = np.sqrt(variance.astype(np.float32).astype(np.float64) + EPSILON)
        # The normalisation of an output of more bits is folded: its gain into the weights' scale, channel by
        # channel, the rest into a bias of whole accumulators. With few significant bits both are exact in
        # float32.
        folded = qdq or output_bits > MAX_THRESHOLD_BITS
        scale = significant(layer.gain / deviation, 8)[:, None] * weight_step if folded else weight_step
        unit = step * scale
        bias = np.rint((layer.shift * deviation / layer.gain - mean) / (step * weight_step))
        if plan.kernel:
            sums = (plan.outputs, *size[1:])
        else:
            sums = (plan.outputs,)
            if len(size) > 1:
                shapes["flat"] = (prod(size),)
                current = writer.node("Flatten", [current], "flat", axis=1)
                current = writer.moved(current, "flat_codes", step, precision.activation_bits)
        shapes[f"acc{number}"] = sums
        current = _product(writer, recipe, number, layer, size, current, scale, bias, unit, folded)
        if folded:
            z = layer.product(columns, layer.codes * scale) + bias * unit.reshape(-1)
        else:
            shift = layer.shift
            if layer.by_thresholds:
                shift = settle(layer.gain, mean, deviation, shift, float(unit), output_bits, layer.signed)
            current = writer.node(
                "BatchNormalization",
                [
                    current,
                    *(
                        writer.constant(f"norm{number}_{key}", values.astype(np.float32))
                        for key, values in zip(
                            ("gain", "shift", "mean", "variance"),
                            (layer.gain, shift, mean, variance),
                            strict=True,
                        )
                    ),
                ],
                f"normal{number}" if output_bits else "scores",
                epsilon=EPSILON,
            )
            z = (acc - mean) / deviation * layer.gain + shift
        shapes[current] = sums
        outputs.append(layer.finish(z, outputs)[0])
        if not output_bits:
            if qdq:
                # A code stands for a power of two here as everywhere: dividing by it rounds nothing. The real
                # numbers that codes stand for are the network's output.
                writer.activation(
                    current, "logits", 2.0 ** np.ceil(np.log2(np.abs(z).max() / 127)), 8, signed=True
                )
                writer.nodes[-1].output[0] = "scores"
            break
        step = ACTIVATION_STEP[output_bits]
        if plan.add:
            current = writer.activation(current, f"branch{number}", step, output_bits, signed=True)
            shapes[current] = sums
            current = writer.node("Add", [current, names[plan.add]], f"sum{number}")
            shapes[current] = sums
        if output_bits > 1:
            current = writer.node("Relu", [current], f"relu{number}")
            shapes[current] = sums
        current = writer.activation(current, f"hidden{number}", step, output_bits)
        shapes[current] = sums
        if plan.pool:
            pooled = (plan.outputs, *(n // POOL for n in sums[1:]))
            window = {"kernel_shape": [POOL, POOL], "strides": [POOL, POOL]}
            if plan.pool == "max":
                current = writer.node("MaxPool", [current], f"pooled{number}", **window)
                current = writer.moved(current, f"pooled{number}_codes", step, output_bits)
            else:
                current = writer.node("AveragePool", [current], f"mean{number}", **window)
                shapes[current] = pooled
                current = writer.activation(current, f"pooled{number}", step, output_bits)
            shapes[current] = pooled
        names.append(current)
    classes = (recipe.plans[-1].outputs,)
    float_input, float_output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", *shape))
        for name, shape in (("image", recipe.size), ("scores", classes))
    )
    graph = helper.make_graph(
        writer.nodes,
        f"{recipe.name}_qdq" if qdq else recipe.name,
        [float_input],
        [float_output],
        writer.constants,
        value_info=[
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", *shape))
            for name, shape in shapes.items()
            if name != "scores" and not qdq
        ],
    )
    opsets = [helper.make_opsetid("", 13), *([] if qdq else [helper.make_opsetid(QONNX_DOMAIN, 1)])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=qdq)
    return model


def _product(
    writer: Writer,
    recipe: Recipe,
    number: int,
    layer: Layer,
    size: tuple[int, ...],
    current: str,
    scale: Array,
    bias: Array,
    unit: Array,
    folded: bool,
) -> str:
    """Write a layer's product, with a bias where the normalisation is folded."""
    plan, target = layer.plan, f"acc{number}"
    codes = layer.codes
    if plan.kernel:
        codes = codes.reshape(plan.outputs, -1, plan.kernel, plan.kernel)
        scale = scale.reshape(-1, 1, 1, 1) if scale.ndim else scale
    weights = writer.weights(f"weights{number}", codes, scale, layer.precision)
    if not recipe.is_map:
        transposed = writer.node("Transpose", [weights], f"weights{number}_transposed", perm=[1, 0])
        current = writer.node("MatMul", [current, transposed], target)
        if folded:
            current = writer.node(
                "Add", [current, writer.bias(f"bias{number}", bias, unit)], f"biased{number}"
            )
        return current
    operands = [current, weights]
    if folded:
        operands.append(writer.bias(f"bias{number}", bias, unit))
    if not plan.kernel:
        return writer.node("Gemm", operands, target, transB=1)
    return writer.node(
        "Conv",
        operands,
        target,
        kernel_shape=[plan.kernel] * 2,
        pads=[plan.kernel // 2] * 4,
        group=size[0] if plan.depthwise else 1,
    )


def evaluate(model: onnx.ModelProto, x: Array) -> dict[str, Array]:
    """Every tensor of a network that :func:`export` wrote, in float64, as its operators are defined."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values = {"image": x} | {name: array.astype(np.float64) for name, array in stored.items()}
    for node in model.graph.node:
        first, *others = (values[name] for name in node.input)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        match node.op_type:
            case "Quant":
                scale, zero_point, bits = others
                signed, narrow = attributes["signed"], attributes["narrow"]
                low = -(2 ** (bits - 1)) + narrow if signed else 0
                high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
                result = (np.rint(np.clip(first / scale + zero_point, low, high)) - zero_point) * scale
            case "QuantizeLinear":
                ends = np.iinfo(stored[node.input[2]].dtype)
                result = np.clip(np.rint(first / others[0]) + others[1], ends.min, ends.max)
            case "DequantizeLinear":
                scale, zero_point = (p.reshape(-1, *(1,) * (first.ndim - 1)) for p in others)
                result = (first - zero_point) * scale
            case "BipolarQuant":
                result = np.where(first >= 0, others[0], -others[0])
            case "Transpose":
                result = first.T
            case "MatMul":
                result = first @ others[0]
            case "Gemm":
                result = first @ others[0].T + (others[1] if len(others) > 1 else 0)
            case "Conv":
                result = _convolution(first, *others, groups=attributes["group"])
            case "MaxPool":
                result = np.max(_corners(first), axis=0)
            case "AveragePool":
                result = np.sum(_corners(first), axis=0) / POOL**2
            case "Flatten":
                result = first.reshape(len(first), -1)
            case "Add":
                result = first + others[0]
            case "Relu":
                result = np.maximum(first, 0)
            case "BatchNormalization":
                gain, shift, mean, variance = (p.reshape(-1, *(1,) * (first.ndim - 2)) for p in others)
                result = (first - mean) / np.sqrt(variance + attributes["epsilon"]) * gain + shift
            case op:
                raise RuntimeError(f"{op} is no operator that this script writes")
        values[node.output[0]] = result
    return values


def _convolution(x: Array, weights: Array, bias: Array | None = None, *, groups: int) -> Array:
    """A convolution that keeps the map's size, tap by tap."""
    images, channels, height, width = x.shape
    count, _, kernel, _ = weights.shape
    around = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (around, around), (around, around)))
    padded = padded.reshape(images, groups, channels // groups, height + 2 * around, width + 2 * around)
    split = weights.reshape(groups, count // groups, channels // groups, kernel, kernel)
    result = np.zeros((images, groups, count // groups, height, width))
    for row in range(kernel):
        for column in range(kernel):
            part = padded[..., row : row + height, column : column + width]
            result += np.einsum("bgchw,gnc->bgnhw", part, split[..., row, column], optimize=True)
    result = result.reshape(images, count, height, width)
    return result if bias is None else result + bias[:, None, None]


def _corners(x: Array) -> list[Array]:
    """The elements of every pool's window, one array for each place in it."""
    return [x[..., row::POOL, column::POOL] for row in range(POOL) for column in range(POOL)]


def integers(recipe: Recipe, model: onnx.ModelProto, values: dict[str, Array]) -> dict[str, NDArray[Any]]:
    """Codes of all activations and the last accumulators, under the tensors' names, and the float scores."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    result: dict[str, NDArray[Any]] = {}
    # Of every tensor of activations: what a code of 1 stands for.
    scales: dict[str, NDArray[Any]] = {}
    for node in model.graph.node:
        name = node.output[0]
        if node.op_type in ("Quant", "BipolarQuant") and node.input[0] not in stored:
            scales[name] = stored[node.input[1]]
            signed = node.op_type == "BipolarQuant" or helper.get_node_attr_value(node, "signed")
            result[name] = _whole(recipe, name, values[name] / scales[name], np.int8 if signed else np.uint8)
        elif node.op_type == "MaxPool":
            scales[name] = scales[node.input[0]]
            result[name] = _whole(recipe, name, values[name] / scales[name], result[node.input[0]].dtype)
        elif node.op_type == "Flatten":
            # The same codes, which need not be kept twice.
            scales[name] = scales[node.input[0]]
    number = len(recipe.plans)
    product = next(node for node in model.graph.node if node.output[0] == f"acc{number}")
    scale = scales[product.input[0]] * stored[f"weights{number}_quantised_scale"].reshape(-1)
    last = values[f"acc{number}"] / scale
    result[f"acc{number}"] = _whole(recipe, f"acc{number}", last, np.int32)
    return result | {"scores": values["scores"].astype(np.float32)}


def _whole(recipe: Recipe, name: str, codes: Array, kind: Any) -> NDArray[Any]:
    """Codes as integers, which they must be."""
    whole = codes.astype(kind)
    if (whole != codes).any():
        raise RuntimeError(f"'{name}' of {recipe.name} is not made of whole codes")
    return whole
