"""Train the example networks on scikit-learn's handwritten digits, write them as ONNX and QONNX.

    python scripts/train_digits.py [digits_mlp] [digits_cnn] [--output examples] [--check]

One network is quantised to int8 after training (ONNX in QDQ form). The others, of 1 to 8 bits, are trained
with their quantisers in place (QONNX, `low_bit_training.py` and `low_bit_export.py` beside this file).
Everything written depends on nothing but these files and the data set: the same bytes every time. With
``--check`` nothing is written: the networks are trained again and compared with those that are there.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from low_bit_export import GRID, Scale, Writer, evaluate, export, integers
from low_bit_training import (
    THERMOMETER,
    Array,
    Plan,
    Precision,
    Recipe,
    dense,
    network_input,
    snap,
    thermometer,
    train_low_bit,
)
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bitwright.gen.importers import load
from bitwright.sim import golden

# The network that is quantised after training

LAYERS = (64, 64, 32, 10)
EPOCHS = 60
BATCH = 32
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-3


def data() -> tuple[Array, NDArray[np.int64], Array, NDArray[np.int64]]:
    """Pixels 0 to 16 and labels, for training and, 450 of them, for the test."""
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.data, digits.target, test_size=450, random_state=0, stratify=digits.target
    )
    return train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64)


def forward(weights: list[Array], biases: list[Array], x: Array) -> list[Array]:
    """Every layer's output; ReLU after all but the last."""
    outputs = [x]
    for number, (w, b) in enumerate(zip(weights, biases, strict=True)):
        y = outputs[-1] @ w.T + b
        outputs.append(y if number == len(weights) - 1 else np.maximum(y, 0))
    return outputs


def train(x: Array, labels: NDArray[np.int64]) -> tuple[list[Array], list[Array]]:
    """Weights, N × K, and biases, by stochastic gradient descent with Adam's step sizes."""
    rng = np.random.default_rng(0)
    x = x / 16
    weights = [rng.normal(0, np.sqrt(2 / k), (n, k)) for k, n in pairwise(LAYERS)]
    biases = [np.zeros(n) for n in LAYERS[1:]]
    parameters = weights + biases
    mean = [np.zeros_like(p) for p in parameters]
    square = [np.zeros_like(p) for p in parameters]
    step = 0
    for epoch in range(EPOCHS):
        order = rng.permutation(len(x))
        rate = LEARNING_RATE * (1 - epoch / EPOCHS)
        for start in range(0, len(x), BATCH):
            batch = order[start : start + BATCH]
            outputs = forward(weights, biases, x[batch])
            exponentials = np.exp(outputs[-1] - outputs[-1].max(axis=1, keepdims=True))
            gradient = exponentials / exponentials.sum(axis=1, keepdims=True)
            gradient[np.arange(len(batch)), labels[batch]] -= 1
            gradient /= len(batch)
            gradients: list[Array] = [np.zeros(0)] * len(parameters)
            for layer in reversed(range(len(weights))):
                gradients[layer] = gradient.T @ outputs[layer] + WEIGHT_DECAY * weights[layer]
                gradients[len(weights) + layer] = gradient.sum(axis=0)
                gradient = gradient @ weights[layer] * (outputs[layer] > 0)
            step += 1
            for p, g, m, s in zip(parameters, gradients, mean, square, strict=True):
                m += 0.1 * (g - m)
                s += 0.001 * (g * g - s)
                p -= rate * (m / (1 - 0.9**step)) / (np.sqrt(s / (1 - 0.999**step)) + 1e-8)
    # The network is given pixels as they are.
    weights[0] = weights[0] / 16
    return [snap(w, GRID) for w in weights], [snap(b, GRID) for b in biases]


def quantise(weights: list[Array], biases: list[Array], x: Array) -> onnx.ModelProto:
    """The network in int8, its activations' ranges taken from the training images `x`."""
    writer = Writer()
    # Pixels are whole numbers: with this scale nothing of them is lost.
    scale = Scale(np.float32(1 / 8), -128)
    outputs = forward(weights, biases, x)
    current = writer.quantised("image", "pixels", scale)
    for number, (w, b, y) in enumerate(zip(weights, biases, outputs[1:], strict=True), 1):
        last = number == len(weights)
        w_scale = (np.maximum(np.abs(w).max(axis=1), GRID) / 127).astype(np.float32)
        codes = np.rint(w / w_scale[:, None].astype(np.float64)).astype(np.int8)
        unit = scale.scale * w_scale
        real = writer.node(
            "Gemm",
            [
                current,
                writer.dequantised(f"weights{number}", codes, w_scale),
                writer.dequantised(f"bias{number}", np.rint(b / unit).astype(np.int32), unit),
            ],
            f"layer{number}",
            transB=1,
        )
        if not last:
            real = writer.node("Relu", [real], f"relu{number}")
        scale = Scale.of_range(min(y.min(), 0.0), y.max())
        current = writer.quantised(real, "logits" if last else f"hidden{number}", scale)
    # The last DequantizeLinear makes the network's output.
    writer.nodes[-1].output[0] = "scores"
    graph = helper.make_graph(
        writer.nodes,
        "digits_mlp",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", LAYERS[0]))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("batch", LAYERS[-1]))],
        writer.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


# Networks of few bits: trained with their quantisers in place, written as QONNX

DENSE = (
    dense("digits_w8a8", (64, 64, 64, 10), (8, 8, 8)),
    dense("digits_w4a4", (64, 64, 64, 10), (4, 4, 4)),
    dense("digits_w2a2", (64, 128, 64, 10), (2, 2, 2)),
    dense("digits_w1a1", (192, 128, 64, 10), (1, 1, 1)),
    dense("digits_mixed", (64, 64, 64, 64, 64, 10), (8, 4, 2, 1, 8)),
)


def layer(bits: int, outputs: int, kernel: int = 0, **more: Any) -> Plan:
    """A layer with the same bits for activations and weights."""
    precision = Precision(activation_bits=bits, weight_bits=bits)
    return Plan(outputs=outputs, precision=precision, kernel=kernel, **more)


CONVOLUTIONAL = tuple(
    Recipe(name=name, size=(1, 8, 8), plans=plans, epochs=24)
    for name, plans in {
        # A residual block
        "digits_cnn_w8a8": (
            layer(8, 16, 3, pool="max"),
            layer(8, 16, 3),
            layer(8, 16, 3, add=1, pool="average"),
            layer(8, 10),
        ),
        # Depthwise convolutions, and those of one tap that mix the channels
        "digits_cnn_w4a4": (
            layer(4, 16, 3),
            layer(4, 16, 3, depthwise=True, pool="max"),
            layer(4, 32, 1),
            layer(4, 32, 3, depthwise=True),
            layer(4, 32, 1, pool="max"),
            layer(4, 10),
        ),
        "digits_cnn_w2a2": (layer(2, 32, 3, pool="max"), layer(2, 32, 3, pool="max"), layer(2, 10)),
    }.items()
)

GOLDEN_IMAGES = 40
"""Test images, the first ones, whose tensors are kept of a convolutional network: a file below 200 kB."""


def write_low_bit(
    recipe: Recipe, folder: Path, *, input_file: str, golden_images: int | None = None
) -> tuple[dict[str, Any], onnx.ModelProto | None]:
    """Train a network, write it and what it makes of test images.

    Parameters
    ----------
    recipe
        What to train.
    folder
        Where to write.
    input_file
        Where its test images are, from there.
    golden_images
        How many of the test images' tensors are kept; all of them where left out.

    Returns
    -------
    entry
        The network's part of the manifest.
    qdq
        A network of 8 bits with convolutions in QDQ form.
    """
    train_x, train_y, test_x, test_y = data()
    layers = train_low_bit(recipe, train_x, train_y)
    model = export(recipe, layers, train_x)
    save(model, folder / f"{recipe.name}.onnx")
    expected = integers(recipe, model, evaluate(model, network_input(recipe, test_x)))
    kept = {name: values[:golden_images] for name, values in expected.items()}
    np.savez(folder / f"golden_{recipe.name}.npz", allow_pickle=False, **kept)
    correct = right(expected["scores"], test_y)
    accuracy = 100 * correct / len(test_y)
    print(f"{recipe.name}: {accuracy:.2f} % of {len(test_y)} test images")
    entry = {
        "file": f"{recipe.name}.onnx",
        "input": input_file,
        "golden": f"golden_{recipe.name}.npz",
        "layers": [
            {"name": f"acc{number}", "precision": str(plan.precision), "inputs": k, "outputs": plan.outputs}
            | ({"macs": macs} if recipe.is_map else {})
            for number, (plan, k, macs) in enumerate(
                zip(recipe.plans, recipe.reductions, recipe.macs, strict=True), 1
            )
        ],
        "macs": sum(recipe.macs),
        "correct": correct,
        "accuracy": round(accuracy, 2),
    }
    eight = all(plan.precision.weight_bits == 8 for plan in recipe.plans)
    return entry, export(recipe, layers, train_x, qdq=True) if recipe.is_map and eight else None


def right(scores: NDArray[Any], labels: NDArray[np.int64]) -> int:
    """How many images are read correctly."""
    return int((scores.argmax(axis=1) == labels).sum())


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a network, the same one as the same bytes."""
    path.write_bytes(model.SerializeToString(deterministic=True))


README = """\
# digits_mlp

Small networks that read handwritten digits, all trained on scikit-learn's digits: 8 × 8 images with pixels
from 0 to 16. Between layers there is ReLU, or a sign where activations are of one bit.

| network | layers | weights, activations | MACs | float | quantised |
| --- | --- | --- | --- | --- | --- |
{table}

The last two columns say how many of {count} test images, which training has not seen, are read correctly.

| file | what |
| --- | --- |
| `digits_mlp.onnx` | int8, quantised after training: ONNX in QDQ form (opset 13) |
| `digits_w8a8.onnx` … `digits_w1a1.onnx` | trained with their quantisers in place: QONNX |
| `digits_mixed.onnx` | the same, every layer with bits of its own |
| `test.npz` | `input`, float32 {count} × 64, and `label`: the test images |
| `test_thermometer.npz` | the same for `digits_w1a1.onnx`: `input`, int8 {count} × 192 |
| `golden_*.npz` | what each QONNX network makes of them: integer tensors by name, and `scores` |
| `manifest.json` | layers, precisions and accuracy of the QONNX networks |

## digits_mlp.onnx: what the integers mean

A code `q` stands for `scale * (q - zero_point)`. Activations are int8 with one scale and zero point for
each tensor, weights int8 with one scale for each output channel and zero point 0, biases int32 in units
of input scale times weight scale. A layer computes, exactly:

```
acc    = sum((q_in - zero_point_in) * w) + bias
output = clip(round(acc * M) + zero_point_out, low, 127)
```

`M = scale_in * scale_w / scale_out` is held as a 31-bit multiplier and a shift; the rounding is to the
nearest, ties to even; `low` is `zero_point_out` where ReLU follows and -128 otherwise. The host quantises
the image, `clip(round(8 * pixel) - 128, -128, 127)`, and dequantises the scores, or takes the greatest
code for the answer.

onnxruntime, without graph optimisation, gives the same code in every tensor for every test image;
`tests/test_examples.py` checks that.

## The QONNX networks

All zero points are 0. Activations are unsigned, or ±1 at one bit; weights are signed, ±1 at one bit, without
the least code from 3 bits on. What follows a matrix product decides how a layer ends:

- Output of 1, 2 or 4 bits: BatchNormalization, then the quantiser. That is a threshold for each step of the
  output, on the accumulator; a channel with a negative gain passes them downwards. No accumulator is within
  1/64 of its step of a threshold.
- Output of 8 bits: the normalisation is folded into the weights' scale of each channel and a bias of whole
  accumulators. That is a multiplication and a rounding to the nearest, ties to even.
- The last layer: the accumulators `acc3` (`acc5` of the mixed network), then BatchNormalization on the host.

At the input, 8 bits keep the pixels as they are, 4 bits make 15 of 16, 2 bits keep `round(pixel / 5)`. With
one bit of each pixel a network gets some 94 % right, so `digits_w1a1.onnx` takes a thermometer code, which
its user makes: each pixel is three inputs. Input `64 * i + p` is +1 if pixel `p` is at least {levels} for
`i` = 0, 1, 2, otherwise -1.

The files `golden_*.npz` come from the training script, which evaluates the networks in float64, operator by
operator, and uses nothing of Bitwright for that. The executor of qonnx 1.0.0, in float32, gives the same
codes and accumulators.

## Making it again

```
python scripts/train_digits.py digits_mlp
python scripts/train_digits.py digits_mlp --check
```

The first writes all of this folder in some ten seconds, the same bytes each time. The second trains as well,
and compares with what is there. Should a machine's arithmetic lead the QONNX networks' training elsewhere,
it accepts other numbers as long as the accuracy is within a percentage point. Both need scikit-learn,
which is among the development dependencies. The data set is the test set of the *Optical Recognition of
Handwritten Digits* data set (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, CC BY 4.0).
"""

ENGINE = """\
# A bit-serial engine for all of these networks: 4 columns of 16 lanes.
pe = "stripes"
precisions = ["au8w8", "au4w4", "au2w2"]
quantisers = ["requantise", "thresholds", "accumulators"]
target = "ecp5"
cols = 4
lanes = 16
activation_depth = 512
patch_depth = 128
weight_depth = 512
channel_depth = 64
output_depth = 256
"""

CNN_README = """\
# digits_cnn

Small convolutional networks that read handwritten digits, at 8, 4 and 2 bits: the same data and the same test
images as in [digits_mlp](../digits_mlp/README.md), trained with their quantisers in place.

| network | layers | weights, activations | MACs | correct |
| --- | --- | --- | --- | --- |
{table}

The last column says how many of {count} test images, which training has not seen, are read correctly. A sum
with an earlier layer's output ends a residual block: the layer's own result is signed there, the sum is
rectified and quantised again. The networks of 4 and 2 bits do with thresholds, that of 8 bits multiplies and
rounds.

| file | what |
| --- | --- |
| `digits_cnn_w8a8.onnx`, `digits_cnn_w4a4.onnx`, `digits_cnn_w2a2.onnx` | QONNX |
| `digits_cnn_w8a8_qdq.onnx` | the first of them as ONNX in QDQ form (opset 13), its scores quantised too |
| `golden_*.npz` | what each QONNX network makes of the first {golden} test images: integers, and `scores` |
| `engine.toml` | an engine that runs all of them |
| `manifest.json` | layers, precisions and accuracy of the QONNX networks |

Images are `../digits_mlp/test.npz`, channels first where a network has its input: 1 × 8 × 8.

## Running them

From the project's folder. The first command does everything, from the network to the placed and routed
design; the others run the same engine at 4 and 8 bits:

```console
$ bitwright run examples/digits_cnn/engine.toml examples/digits_cnn/digits_cnn_w2a2.onnx \\
    --input examples/digits_mlp/test.npz --limit 2 --target ecp5-25k --frequency 70 -o build/digits_cnn
$ bitwright simulate examples/digits_cnn/engine.toml examples/digits_cnn/digits_cnn_w4a4.onnx \\
    --input examples/digits_mlp/test.npz --limit 2 -o build/digits_cnn
$ bitwright simulate examples/digits_cnn/engine.toml examples/digits_cnn/digits_cnn_w8a8.onnx \\
    --input examples/digits_mlp/test.npz --limit 2 -o build/digits_cnn
```

The configuration, `engine.toml`:

```toml
{engine}
```

Its unit takes a bit of every activation in a beat, so fewer bits are fewer beats. Every tensor of every image
is compared with the golden model.

## What the integers mean

As in [digits_mlp](../digits_mlp/README.md#the-qonnx-networks), with these additions:

- Convolutions are padded so that the map keeps its size; what is padded with is 0, the code of zero.
- A pool's windows are 2 × 2, side by side. The greatest is taken of codes. The mean is rounded to the
  nearest, ties to even, and has the scale of what went in.
- In QDQ form the last layer has its normalisation in the weights' scale and a bias too, and a code of its
  scores stands for a power of two, as those of all activations do.

The files `golden_*.npz` come from the training script, which evaluates the networks in float64, operator by
operator, and uses nothing of Bitwright for that; its convolutions there are not those of training. The
executor of qonnx 1.0.0, in float32, gives the same codes and accumulators. Of the network in QDQ form
onnxruntime, without graph optimisation, gives the codes of the golden model in every tensor for every test
image.

## Making it again

```
python scripts/train_digits.py digits_cnn
python scripts/train_digits.py digits_cnn --check
```

The first writes all of this folder in about half a minute, the same bytes each time. The second trains as
well, and compares with what is there; it accepts other numbers as long as the accuracy is within a percentage
point.
"""

TOLERANCE = 1.0
"""Percentage points of accuracy that a check accepts."""


def write_mlp(output: Path) -> None:
    """Train, quantise, measure, write the networks of dense layers."""
    train_x, train_y, test_x, test_y = data()
    weights, biases = train(train_x, train_y)
    network = output / "digits_mlp.onnx"
    save(quantise(weights, biases, train_x), network)
    np.savez(output / "test.npz", input=test_x.astype(np.float32), label=test_y)
    np.savez(output / "test_thermometer.npz", input=thermometer(test_x).astype(np.int8), label=test_y)

    graph = load(network)
    scores = golden.run(graph, test_x)[graph.output].reshape(-1, LAYERS[-1])
    float_accuracy, accuracy = (
        100 * right(each, test_y) / len(test_y) for each in (forward(weights, biases, test_x)[-1], scores)
    )
    print(f"digits_mlp: float {float_accuracy:.2f} %, int8 {accuracy:.2f} % of {len(test_y)} test images")
    rows = [table_row("digits_mlp", LAYERS, "8, 8", graph.macs, f"{float_accuracy:.2f} %", accuracy)]

    networks = {}
    for recipe in DENSE:
        input_file = "test_thermometer.npz" if recipe.thermometer else "test.npz"
        entry, _ = write_low_bit(recipe, output, input_file=input_file)
        networks[recipe.name] = entry
        widths = [*recipe.size, *(plan.outputs for plan in recipe.plans)]
        each = [plan.precision.weight_bits for plan in recipe.plans]
        bits = ["1 (±1)" if n == 1 else str(n) for n in each]
        shown = f"{bits[0]}, {bits[0]}" if len(set(bits)) == 1 else ", ".join(bits) + ", layer by layer"
        rows.append(
            table_row(recipe.name, widths, shown, entry["macs"], "–", 100 * entry["correct"] / len(test_y))
        )
    write_text(output / "manifest.json", manifest(len(test_y), networks))
    readme = README.format(
        table="\n".join(rows),
        count=len(test_y),
        levels=", ".join(map(str, THERMOMETER)),
    )
    write_text(output / "README.md", readme)


def write_cnn(output: Path) -> None:
    """Train, measure, write the convolutional networks."""
    _, _, test_x, test_y = data()
    networks, rows = {}, []
    for recipe in CONVOLUTIONAL:
        entry, qdq = write_low_bit(
            recipe, output, input_file="../digits_mlp/test.npz", golden_images=GOLDEN_IMAGES
        )
        networks[recipe.name] = entry
        bits = recipe.plans[0].precision.weight_bits
        described = ", ".join(map(describe, recipe.plans))
        rows.append(cnn_row(recipe.name, described, bits, entry["macs"], entry["accuracy"]))
        if qdq is not None:
            name = f"{recipe.name}_qdq"
            save(qdq, output / f"{name}.onnx")
            scores = evaluate(qdq, network_input(recipe, test_x))["scores"]
            accuracy = 100 * right(scores, test_y) / len(test_y)
            print(f"{name}: {accuracy:.2f} % of {len(test_y)} test images")
            rows.append(cnn_row(name, "the same, scores of 8 bits", bits, entry["macs"], accuracy))
    write_text(output / "manifest.json", manifest(len(test_y), networks, golden_images=GOLDEN_IMAGES))
    write_text(output / "engine.toml", ENGINE)
    readme = CNN_README.format(
        table="\n".join(rows), count=len(test_y), golden=GOLDEN_IMAGES, engine=ENGINE.rstrip()
    )
    write_text(output / "README.md", readme)


EXAMPLES: dict[str, Callable[[Path], None]] = {"digits_mlp": write_mlp, "digits_cnn": write_cnn}


def manifest(images: int, networks: dict[str, Any], **more: int) -> str:
    """What `manifest.json` holds."""
    return json.dumps({"images": images, **more, "networks": networks}, indent=2) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text, the same bytes on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")


def describe(plan: Plan) -> str:
    """A layer in words."""
    if not plan.kernel:
        words = f"dense {plan.outputs}"
    else:
        kind = "depthwise" if plan.depthwise else "conv"
        words = f"{kind} {plan.kernel}×{plan.kernel} {plan.outputs}"
    words += f" + output of layer {plan.add}" if plan.add else ""
    return words + {"": "", "max": ", max pool", "average": ", mean pool"}[plan.pool]


def cnn_row(name: str, layers: str, bits: int, macs: int, accuracy: float) -> str:
    """A convolutional network's row of the README."""
    return f"| `{name}` | {layers} | {bits}, {bits} | {macs} | {accuracy:.2f} % |"


def table_row(
    name: str, widths: Sequence[int], bits: str, macs: int, float_accuracy: str, accuracy: float
) -> str:
    """A network's row of the README."""
    return (
        f"| `{name}` | {'-'.join(map(str, widths))} | {bits} | {macs} | {float_accuracy} | {accuracy:.2f} % |"
    )


def differences(made: Path, kept: Path) -> list[str]:
    """What is wrong with the files in `kept`, given what training has just `made`."""
    found = []
    names = sorted(path.name for path in made.iterdir())
    for name in sorted(path.name for path in kept.iterdir() if path.is_file()):
        if name not in names:
            found.append(f"{name} is not written by this script")
    for name in names:
        if not (kept / name).is_file():
            found.append(f"{name} is missing")
        elif (made / name).read_bytes() != (kept / name).read_bytes():
            print(f"{name} differs in its bytes")
            if name == "digits_mlp.onnx":
                found.append(f"{name} has other numbers")
            elif name.endswith(".onnx"):
                ours, theirs = (outline(folder / name) for folder in (made, kept))
                if ours != theirs:
                    found.append(f"{name} has other nodes or constants of other shapes")
            elif name.startswith("test"):
                found.append(f"{name} does not hold the test images")
            elif name == "manifest.json":
                found += manifest_differences(made / name, kept / name)
    return found


def outline(path: Path) -> tuple[list[tuple[str, ...]], dict[str, tuple[int, ...]]]:
    """Nodes and shapes of a network: all of it but the numbers."""
    graph = onnx.load(path).graph
    nodes = [(node.op_type, *node.input, *node.output) for node in graph.node]
    return nodes, {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def manifest_differences(made: Path, kept: Path) -> list[str]:
    """Networks whose accuracy, or anything else that is not a trained number, has changed."""
    found = []
    ours, theirs = (json.loads(path.read_text(encoding="utf-8"))["networks"] for path in (made, kept))
    for name in ours.keys() | theirs.keys():
        new, old = dict(ours.get(name, {})), dict(theirs.get(name, {}))
        accuracies = [entry.pop("accuracy", 0.0) for entry in (new, old)]
        for entry in (new, old):
            entry.pop("correct", None)
        if new != old:
            found.append(f"manifest.json describes {name} otherwise")
        elif abs(accuracies[0] - accuracies[1]) > TOLERANCE:
            found.append(f"{name} reaches {accuracies[0]} %, not {accuracies[1]} %")
    return found


def main() -> int:
    """Write the networks, or compare them; 1 if they differ."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "examples", nargs="*", metavar="EXAMPLE", help=f"{', '.join(EXAMPLES)}; all by default"
    )
    parser.add_argument(
        "--output", type=Path, default=root / "examples", metavar="DIR", help="where they are"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; compare with what is in DIR")
    arguments = parser.parse_args()
    output: Path = arguments.output
    names = arguments.examples or list(EXAMPLES)
    for name in names:
        if name not in EXAMPLES:
            parser.error(f"{name} is no example; there are {', '.join(EXAMPLES)}")
        if arguments.check and not (output / name).is_dir():
            parser.error(f"{output / name} is not a folder")
    found = []
    for name in names:
        if not arguments.check:
            (output / name).mkdir(parents=True, exist_ok=True)
            EXAMPLES[name](output / name)
            continue
        with tempfile.TemporaryDirectory() as folder:
            EXAMPLES[name](Path(folder))
            found += [f"{name}: {line}" for line in differences(Path(folder), output / name)]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
