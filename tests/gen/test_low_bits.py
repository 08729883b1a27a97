"""The low-bit example networks on every dot-product unit: emitted Verilog against the committed tensors."""

import random
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bitwright.gen.execute import EngineError, execute
from bitwright.gen.importers import load
from bitwright.gen.mapper import compile_graph
from bitwright.gen.synthetic import random_input, random_mlp
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import ConfigError
from bitwright.hw.formats import Int
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.contract import Precision
from bitwright.hw.sched.isa import Instruction, Opcode
from bitwright.sim.graph import NetworkError

DIGITS = Path(__file__).parents[2] / "examples" / "digits_mlp"

BASE = EngineConfig(
    cols=4,
    lanes=8,
    reduction=256,
    activation_depth=256,
    weight_depth=1024,
    channel_depth=256,
    output_depth=128,
    queue_depth=8,
    burst_beats=16,
    quantisers=("requantise", "thresholds", "accumulators"),
)
LOW = ("thresholds", "accumulators")
SIGNED = ("a8w8", "a4w4", "a2w2", "a1w2")
UNSIGNED = ("au8w8", "au4w4", "au2w2", "a2w2", "a1w2")

# One engine of each unit: what it differs in, and its precisions.
ENGINES = {
    "parallel": ({"multiplier": "lut"}, SIGNED),
    "bitfusion": ({"lanes": 2}, ("au8w8", "au4w4", "au2w2", "abwb")),
    "bitblade": ({"lanes": 2}, ("a8w8", "a4w4", "a2w2", "abwb")),
    "stripes": ({"lanes": 32}, UNSIGNED),
    "unpu": ({"lanes": 16, "cols": 2, "weight_depth": 4096}, SIGNED),
    "loom": ({"lanes": 64}, UNSIGNED),
    "bismo": ({"lanes": 64}, UNSIGNED),
    "xnor": ({"quantisers": LOW}, ("abwb",)),
    "ternary": ({"quantisers": LOW}, ("abwt",)),
    "log2": ({"quantisers": LOW}, ("a2wp3", "a1wp2")),
}

# What each network's layers come to on it. Bipolar tensors are stored in one bit of an integer, but in two
# where the layer that reads them rescales its sums (the mixed network's third tensor). Where an engine can
# not hold a network, what it says.
EIGHT, FOUR, TWO = ["a8w8"] * 3, ["a4w4"] * 3, ["a2w2"] * 3
UEIGHT, UFOUR, UTWO = ["au8w8"] * 3, ["au4w4"] * 3, ["au2w2"] * 3
MIXED = ["a8w8", "a4w4", "a2w2", "a2w2", "a8w8"]
UMIXED = ["au8w8", "au4w4", "au2w2", "a2w2", "au8w8"]
SERIAL = {
    "digits_w8a8": UEIGHT,
    "digits_w4a4": UFOUR,
    "digits_w2a2": UTWO,
    "digits_w1a1": ["a1w2"] * 3,
    "digits_mixed": UMIXED,
}
INTEGERS = {
    "digits_w8a8": EIGHT,
    "digits_w4a4": FOUR,
    "digits_w2a2": TWO,
    "digits_w1a1": ["a1w2"] * 3,
    "digits_mixed": MIXED,
}
NO_ROOM = dict.fromkeys(INTEGERS, "tensor 'pixels': its uint. fits no activations")
EXPECTED = {
    "parallel": INTEGERS,
    "bitfusion": SERIAL
    | {"digits_w1a1": ["abwb"] * 3, "digits_mixed": ["au8w8", "au4w4", "au2w2", "abwb", "au8w8"]},
    "bitblade": INTEGERS
    | {"digits_w1a1": ["abwb"] * 3, "digits_mixed": ["a8w8", "a4w4", "a2w2", "abwb", "a8w8"]},
    "stripes": SERIAL,
    "unpu": INTEGERS,
    "loom": SERIAL,
    "bismo": SERIAL,
    "xnor": NO_ROOM | {"digits_w1a1": ["abwb"] * 3},
    "ternary": NO_ROOM | {"digits_w1a1": ["abwt"] * 3},
    # Two bits from -2 to 1 are powers of two, all of them.
    "log2": NO_ROOM | {"digits_w2a2": ["a2wp3"] * 3, "digits_w1a1": ["a1wp2"] * 3},
}


def configuration(pe):
    changes, precisions = ENGINES[pe]
    return BASE.replace(pe=pe, precisions=precisions, **changes)


@cache
def verilog(pe):
    """One engine runs all networks."""
    return emit(configuration(pe))


def images(name):
    """A random test image of a network, and every tensor of it."""
    seed = random.randrange(450)
    print(f"image {seed}")
    data = np.load(DIGITS / ("test_thermometer.npz" if name == "digits_w1a1" else "test.npz"))
    kept = np.load(DIGITS / f"golden_{name}.npz")
    return data["input"][seed : seed + 1], {key: kept[key][seed : seed + 1] for key in kept}


def test_every_unit_and_every_network_is_here():
    assert set(ENGINES) == set(EXPECTED) == set(UNITS)
    networks = {path.stem for path in DIGITS.glob("digits_*.onnx")} - {"digits_mlp"}
    assert all(set(expected) == networks for expected in EXPECTED.values())


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("pe", ENGINES)
def test_network_on_unit(pe, name):
    graph, config, expected = load(DIGITS / f"{name}.onnx"), configuration(pe), EXPECTED[pe][name]
    if isinstance(expected, str):
        with pytest.raises(NetworkError, match=expected) as refused:
            compile_graph(graph, config)
        assert f"the engine is built for {', '.join(config.precisions)}" in str(refused.value)
        return
    program = compile_graph(graph, config)
    assert [layer.precision for layer in program.layers] == expected
    inputs, kept = images(name)
    done = execute(program, graph, inputs, verilog(pe), simulator="icarus")
    assert done.mismatches == {}
    assert done.tensors_computed == len(expected)
    for key, info in graph.tensors.items():
        if info.format is not None:
            np.testing.assert_array_equal(done.outputs[key].reshape(kept[key].shape), kept[key], key)
    np.testing.assert_allclose(done.outputs["scores"].reshape(1, 10), kept["scores"], rtol=1e-5, atol=1e-5)


# Refusals


@pytest.mark.parametrize(
    ("pe", "precision", "supports"),
    [
        ("xnor", "au4w4", "bipolar weights"),
        ("ternary", "au2w2", "ternary weights"),
        ("log2", "au8w8", "weights powers of two"),
        ("bismo", "abwb", "integers of 1 to 16 bits"),
        ("loom", "a8wt", "integers of 1 to 16 bits"),
        ("stripes", "a8wb", "integers of 1 to 16 bits"),
        ("unpu", "a8wp4", "integers of 1 to 16 bits"),
        ("parallel", "abwb", "integers of 1 to 16 bits"),
        ("bitfusion", "a8wp4", "bipolar; ternary"),
        ("bitblade", "a8wp4", "bipolar; ternary"),
    ],
)
def test_a_precision_that_a_unit_has_not(pe, precision, supports):
    assert not UNITS[pe].supported(Precision.parse(precision))
    with pytest.raises(ConfigError, match=f"'{precision}': must be one that pe = {pe} supports.*{supports}"):
        BASE.replace(pe=pe, precisions=(precision,))


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        (
            {"pe": "ternary", "precisions": ("au2wt",), "quantisers": LOW},
            "digits_w2a2",
            r"node 'acc1/MatMul': weights -2..1 do not fit ternary; the engine is built for au2wt",
        ),
        (
            {"pe": "xnor", "precisions": ("au4wb",), "quantisers": LOW},
            "digits_w4a4",
            r"node 'acc1/MatMul': weights -7..7 do not fit bipolar; the engine is built for au4wb",
        ),
        (
            {"pe": "log2", "precisions": ("a8wp4",), "quantisers": ("requantise", "accumulators")},
            "digits_w8a8",
            r"node 'acc1/MatMul': weights -127..127 do not fit pow2_4",
        ),
        (
            {"precisions": ("a8w8", "a4w4")},
            "digits_mixed",
            # Bipolar codes, doubled, of a layer that rescales: four bits do.
            None,
        ),
        (
            {"precisions": ("a8w8", "a4w4"), "quantisers": ("requantise", "accumulators")},
            "digits_w4a4",
            r"node 'acc1/MatMul': its sums are compared with thresholds, which the engine cannot do",
        ),
        (
            {"precisions": ("a4w4",), "quantisers": ("thresholds",)},
            "digits_w4a4",
            r"node 'acc3/MatMul': its sums are results as they are, which the engine cannot do",
        ),
        (
            {"pe": "bitfusion", "lanes": 16, "precisions": ("abwb",), "quantisers": LOW},
            "digits_w1a1",
            r"node 'acc1/MatMul': bipolar weights have no zero.*must be a multiple of 256",
        ),
    ],
)
def test_a_network_that_an_engine_cannot_hold(changes, name, words):
    graph, config = load(DIGITS / f"{name}.onnx"), BASE.replace(**changes)
    if words is None:
        assert [layer.precision for layer in compile_graph(graph, config).layers][3] == "a4w4"
        return
    with pytest.raises(NetworkError, match=words):
        compile_graph(graph, config)


@pytest.mark.parametrize(
    ("precisions", "name", "words"),
    [
        ('["au8w4"]', "digits_w8a8", ["node 'acc1/MatMul'", "-127..127 do not fit int4", "au8w4"]),
        ('["a4w4"]', "digits_w8a8", ["tensor 'pixels'", "uint8", "a4w4", "a8w8"]),
        ('["a8w8"]', "digits_w2a2", ["node 'acc1/MatMul'", "thresholds", "at most 4 bits"]),
    ],
)
def test_command_line_refuses_and_writes_nothing(tmp_path, precisions, name, words):
    program = [sys.executable, "-c", "from bitwright.gen.cli import main; main()"]
    arguments = ["compile", "tiny", DIGITS / f"{name}.onnx", "-o", "out", "--set", f"precisions={precisions}"]
    arguments += ["--set", 'quantisers=["requantise","thresholds","accumulators"]']
    done = subprocess.run(
        [*program, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert list(tmp_path.iterdir()) == []


# Instructions


@pytest.fixture(scope="module")
def three_precisions():
    """An engine of three precisions, whose number is no power of two, and a network that uses all."""
    config = BASE.replace(
        pe="bismo", lanes=32, precisions=("a8w8", "a4w4", "a2w2"), quantisers=("requantise",), cols=2
    )
    graph = random_mlp(
        [40, 20, 10, 4], activation=[Int(8), Int(4), Int(2), Int(8)], weight=[Int(8), Int(4), Int(2)]
    )
    program = compile_graph(graph, config)
    assert [layer.precision for layer in program.layers] == list(config.precisions)
    return program, graph, emit(config)


@pytest.mark.parametrize(
    ("layer", "field", "value"),
    [(0, "precision", 3), (1, "precision", 3), (0, "precision", 255), (2, "result", 3), (0, "result", 255)],
)
def test_a_precision_that_is_none_stops_the_engine(three_precisions, layer, field, value):
    """One layer's COMPUTE names a precision, or a mode of results, that the engine was built without."""
    program, graph, text = three_precisions
    inputs = random_input(graph, count=1)
    numbers = [
        number
        for number, instruction in enumerate(program.instructions)
        if instruction.opcode is Opcode.COMPUTE and instruction["precision"] == layer
    ]
    assert numbers
    instruction = program.instructions[numbers[0]]
    changed = Instruction(Opcode.COMPUTE, {**instruction.fields, field: value})
    start = program.program_address + 32 * numbers[0]
    image = bytearray(program.image)
    assert image[start : start + 32] == instruction.encode()
    image[start : start + 32] = changed.encode()
    with pytest.raises(EngineError, match="the engine stopped with fault ILLEGAL_INSTRUCTION"):
        execute(replace(program, image=bytes(image)), graph, inputs, text, simulator="icarus")


def test_precisions_that_are_some_do_not(three_precisions):
    program, graph, text = three_precisions
    done = execute(program, graph, random_input(graph, count=1), text, simulator="icarus")
    assert done.mismatches == {}
