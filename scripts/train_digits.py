"""Train the example network on scikit-learn's handwritten digits, quantise it, write it as ONNX.

    python scripts/train_digits.py [--output examples/digits_mlp]

Everything that it writes depends on nothing but this file and the data set: the same bytes every time.
"""

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bitwright.gen.importers import load
from bitwright.sim import golden

LAYERS = (64, 64, 32, 10)
EPOCHS = 60
BATCH = 32
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-3

GRID = 2.0**-16
"""Trained numbers are brought to this grid: how one machine's sums differ from another's vanishes in it."""

SCALE_GRID = 2.0**-14
"""The same for the scales of activations."""

Array = NDArray[np.float64]


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
    return [snap(w) for w in weights], [snap(b) for b in biases]


def snap(values: Array) -> Array:
    """Values on the grid."""
    return np.rint(values / GRID) * GRID


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
    """Collects the nodes and constants of an ONNX network."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, values: ArrayLike) -> str:
        """Store a constant."""
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node named after its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes))
        return output

    def quantised(self, x: str, name: str, s: Scale) -> str:
        """Quantise and dequantise; the integers are the tensor called `name`."""
        parameters = [
            self.constant(f"{name}_scale", s.scale),
            self.constant(f"{name}_zero_point", np.int8(s.zero_point)),
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


README = """\
# digits_mlp

A small network that reads handwritten digits: 64 pixels, two hidden layers of 64 and 32 with ReLU, 10
scores ({macs} multiply-accumulate operations). It was trained on scikit-learn's digits, 8 × 8 images with
pixels from 0 to 16, and quantised to int8 after training.

| | of {count} test images |
| --- | --- |
| float | {float_accuracy:.2f} % |
| int8 | {int8_accuracy:.2f} % |

| file | what |
| --- | --- |
| `digits_mlp.onnx` | the network, ONNX in QDQ form (opset 13) |
| `test.npz` | `input`, float32 {count} × 64, and `label`: the test images, which training has not seen |

## What the integers mean

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

## Making it again

```
python scripts/train_digits.py
```

writes all of this folder in a few seconds, the same bytes each time. It needs scikit-learn, which is
among the development dependencies. The data set is the test set of the *Optical Recognition of
Handwritten Digits* data set (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, CC BY 4.0).
"""


def main() -> None:
    """Train, quantise, measure, write."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=root / "examples" / "digits_mlp", metavar="DIR")
    output: Path = parser.parse_args().output

    train_x, train_y, test_x, test_y = data()
    weights, biases = train(train_x, train_y)
    model = quantise(weights, biases, train_x)

    output.mkdir(parents=True, exist_ok=True)
    network = output / "digits_mlp.onnx"
    network.write_bytes(model.SerializeToString(deterministic=True))
    np.savez(output / "test.npz", input=test_x.astype(np.float32), label=test_y)

    scores = forward(weights, biases, test_x)[-1]
    graph = load(network)
    answers = golden.run(graph, test_x)[graph.output].reshape(-1, LAYERS[-1]).argmax(axis=1)
    figures = {
        "count": len(test_y),
        "macs": graph.macs,
        "float_accuracy": 100 * np.mean(scores.argmax(axis=1) == test_y),
        "int8_accuracy": 100 * np.mean(answers == test_y),
    }
    (output / "README.md").write_text(README.format(**figures), encoding="utf-8", newline="\n")
    print(
        f"{output}: float {figures['float_accuracy']:.2f} %, int8 {figures['int8_accuracy']:.2f} % "
        f"of {figures['count']} test images"
    )


if __name__ == "__main__":
    main()
