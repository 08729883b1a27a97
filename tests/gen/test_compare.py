"""Units compared: what each needs, fair engines, what is counted, and who is left out and why."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitwright.gen import compare as comparing
from bitwright.gen.compare import (
    Comparison,
    Result,
    base_config,
    check_file,
    check_lanes,
    compare,
    draw,
    engine_precisions,
    fitted,
    holding,
    layer_precisions,
    pareto,
    parse_lanes,
    parse_units,
)
from bitwright.gen.importers import load
from bitwright.gen.mapper import compile_graph
from bitwright.gen.requantise import requantised
from bitwright.gen.synthesis import TARGETS
from bitwright.gen.synthetic import ConvolutionShape, random_cnn, random_input, random_mlp, random_residual
from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError, ConfigError
from bitwright.hw.formats import Bipolar, Int
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.contract import Precision
from bitwright.sim.graph import NetworkError
from bitwright.sim.tools import ToolError

EXAMPLES = Path(__file__).parents[2] / "examples" / "digits_mlp"
NETWORKS = ("digits_mlp", "digits_w8a8", "digits_w4a4", "digits_w2a2", "digits_w1a1", "digits_mixed")
RUNS = {(net, unit) for net in ("digits_w1a1",) for unit in ("xnor", "ternary", "log2")} | {
    ("digits_w2a2", "log2")
}
"""Networks on the units that take few kinds of weights."""
BASE, _ = base_config(None, (), None)


def names(graph, unit):
    return list(map(str, engine_precisions(graph, unit)))


@pytest.mark.parametrize(
    ("network", "unit", "expected"),
    [
        ("digits_mlp", "parallel", ["a8w8"]),
        ("digits_w1a1", "xnor", ["abwb"]),
        ("digits_w1a1", "bismo", ["a1w2"]),
        ("digits_w1a1", "loom", ["a1w2"]),
        ("digits_w1a1", "bitfusion", ["abw2"]),  # as large as abwb, with a zero to fill up steps with
        ("digits_w1a1", "ternary", ["abwt"]),
        ("digits_w1a1", "log2", ["a1wp2"]),
        ("digits_w2a2", "log2", ["a2wp3"]),
        ("digits_w4a4", "unpu", ["a4w4"]),
        ("digits_mixed", "bitblade", ["a8w8", "a4w4", "a2w2", "abw2"]),
        ("digits_mixed", "stripes", ["a8w8", "a4w4", "a2w2"]),
    ],
)
def test_precisions_that_a_unit_needs(network, unit, expected):
    assert names(load(EXAMPLES / f"{network}.onnx"), unit) == expected


def test_three_bits():
    """Units that take bits one by one have three, those of packed words four, bricks theirs in four."""
    graph = random_mlp([40, 16, 8], activation=[Int(3), Int(3, signed=False), Int(3)], weight=Int(3))
    spellings = {unit: names(graph, unit) for unit in ("bismo", "stripes", "bitfusion", "parallel", "unpu")}
    three, four = ["a3w3"], ["a4w3"]
    assert spellings == {
        "bismo": three,
        "stripes": three,
        "bitfusion": three,
        "parallel": four,
        "unpu": four,
    }


def test_result_that_no_layer_reads():
    graph = random_mlp([40, 16], activation=[Int(2), Int(8)], weight=Int(2))
    assert names(graph, "bismo") == ["a2w2", "a8w2"]
    config = fitted(graph, "bismo", BASE)
    assert compile_graph(graph, config).placements["t1"].storage.format == Int(8)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_unit_maps_what_it_needs(network):
    """The mapper takes the precisions that were meant for each layer; who is refused lacks a format."""
    graph = load(EXAMPLES / f"{network}.onnx")
    for unit in UNITS:
        if (network, unit) not in RUNS and unit in ("xnor", "ternary", "log2"):
            with pytest.raises(NetworkError, match=rf"node '\w+/\w+': weights .* fit no format of {unit}"):
                layer_precisions(graph, unit)
            continue
        needed = layer_precisions(graph, unit)
        config = fitted(graph, unit, BASE, target=TARGETS["ecp5-25k"])
        program = compile_graph(graph, config)
        assert {layer.name: layer.precision for layer in program.layers} == {
            name: str(precision) for name, precision in needed.items()
        }
        assert (config.pe, config.cols, config.target) == (unit, 8, "ecp5")


@pytest.mark.parametrize("bit_products", [64, 256])
def test_units_of_equal_rate(bit_products):
    graph = load(EXAMPLES / "digits_w2a2.onnx")
    for unit in set(UNITS) - {"xnor", "ternary"}:
        config = fitted(graph, unit, BASE, bit_products=bit_products)
        (precision,) = config.formats
        rate = 4 * config.unit.macs_per_cycle(precision)
        assert bit_products / 2 < rate <= bit_products, unit


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["bismo=7"], r"^--lanes bismo=7: bismo: cols = 8: must be .* the 7 lanes of a bit plane"),
        (["8", "xnor=9"], r"^--lanes xnor=9: xnor: lanes = 9: must be"),
        (["7"], r"^--lanes 7: bismo: "),
    ],
)
def test_lanes_that_no_engine_has(texts, message):
    graph = load(EXAMPLES / "digits_w1a1.onnx")
    with pytest.raises(BitwrightError, match=message):
        check_lanes(graph, texts, parse_lanes(texts, ["bismo", "xnor"]), BASE)
    good = ["9", "bismo=8", "xnor=32"]
    check_lanes(graph, good, parse_lanes(good, ["bismo", "xnor"]), BASE)
    # One of all is a matter for the comparison, and so is a unit that cannot run the network.
    check_lanes(graph, ["2"], parse_lanes(["2"], ["bismo", "parallel"]), BASE)
    mlp = load(EXAMPLES / "digits_mlp.onnx")
    check_lanes(mlp, ["xnor=9"], parse_lanes(["xnor=9"], ["xnor"]), BASE)


@pytest.mark.parametrize(
    ("network", "unit", "precision", "hint"),
    [
        ("digits_w1a1", "parallel", "a1w1", 'precisions = ["a1w2"] holds the network on parallel'),
        ("digits_mlp", "bismo", "a4w4", 'precisions = ["a8w8"] holds the network on bismo'),
        ("digits_mlp", "xnor", "a8wb", "xnor supports bipolar weights"),
    ],
)
def test_what_would_hold_a_network_is_said(network, unit, precision, hint):
    graph = load(EXAMPLES / f"{network}.onnx")
    config = BASE.replace(
        pe=unit, lanes=64, precisions=(precision,), quantisers=("requantise", "thresholds", "accumulators")
    )
    with pytest.raises(NetworkError) as caught:
        compile_graph(graph, config)
    found = holding(caught.value, graph, config)
    assert str(found).startswith(str(caught.value).partition("; choose")[0])
    assert hint in found.hint
    other = NetworkError("node 'x'", "is wrong", "mend it")
    assert holding(other, graph, config) is other


def test_equal_rate_counts_the_widest_layer():
    graph = load(EXAMPLES / "digits_mixed.onnx")
    assert fitted(graph, "parallel", BASE).lanes == 1
    assert fitted(graph, "bismo", BASE).lanes == 64
    assert fitted(graph, "bismo", BASE, bit_products=128).lanes == 128


def test_lanes_that_leave_no_gap():
    """Bipolar weights have no zero: steps must fill the dot products of 192, 128 and 64 terms."""
    graph = load(EXAMPLES / "digits_w1a1.onnx")
    assert fitted(graph, "xnor", BASE, bit_products=256).lanes == 64
    with pytest.raises(ConfigError, match="lanes = 128: must be such that steps of 128 terms fill the 192"):
        fitted(graph, "xnor", BASE, lanes=128)


def test_multipliers_of_what_there_is():
    graph = load(EXAMPLES / "digits_mlp.onnx")
    for target, multiplier in (("ecp5-85k", "dsp"), ("ice40-hx8k", "lut")):
        assert fitted(graph, "parallel", BASE, target=TARGETS[target]).multiplier == multiplier
    base, explicit = base_config(None, ["multiplier=lut"], None)
    config = fitted(graph, "parallel", base, target=TARGETS["ecp5-85k"], explicit=explicit)
    assert config.multiplier == "lut"


def test_depths_hold_the_network():
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(8):
        sizes = [rng.randint(1, 2000), rng.randint(1, 300), rng.randint(1, 40)]
        graph = random_mlp(sizes, rows=rng.choice([1, 5]), weight=Int(4), seed=seed)
        base = BASE.replace(rows=rng.choice([1, 2]), cols=rng.choice([2, 4, 16]))
        for unit in ("parallel", "stripes", "unpu", "bitfusion"):
            assert compile_graph(graph, fitted(graph, unit, base)).predicted_cycles > 0


def test_depth_that_is_set_is_kept():
    base, explicit = base_config(None, ["weight_depth=2048", "cols=4"], None)
    config = fitted(load(EXAMPLES / "digits_mlp.onnx"), "bismo", base, explicit=explicit)
    assert (config.weight_depth, config.activation_depth, config.cols) == (2048, 512, 4)


# Running


def run(units: str, network: str = "digits_w2a2", **more: Any) -> Comparison:
    graph = load(EXAMPLES / f"{network}.onnx")
    inputs = np.load(EXAMPLES / "test.npz")["input"][:2]
    return compare(graph, inputs, units=parse_units(units), base=BASE, simulator="icarus", **more)


def test_a_network_on_several_units():
    found = run("parallel,xnor,bismo", synth=False)
    assert [result.unit for result in found.results] == ["parallel", "bismo"]
    for result in found.results:
        assert result.inferences == 2
        assert (result.tensors_equal, result.tensors_compared) == (6, 6)
        assert result.cycles == pytest.approx(result.predicted_cycles, rel=0.2)
        assert result.bit_products == 64
        assert result.synthesis is None
    (refusal,) = found.refusals
    assert refusal.unit == "xnor"
    assert not refusal.failed
    assert "node 'acc1/MatMul': weights -2..1 (4 values) fit no format of xnor" in refusal.reason
    assert found.good
    json_text = found.as_json()
    assert json_text["results"][1]["config"]["pe"] == "bismo"
    assert json_text["refusals"][0]["unit"] == "xnor"


def test_a_tensor_that_differs(monkeypatch):
    execute = comparing.execute

    def tampered(*arguments, **more):
        done = execute(*arguments, **more)
        name = next(iter(reversed(done.mismatches or done.outputs)))
        name = next(key for key in done.outputs if key in done.expected and key != name)
        done.outputs[name] = done.outputs[name].copy()
        done.outputs[name][1].flat[0] += 1
        done.mismatches[name] = 1
        return done

    monkeypatch.setattr(comparing, "execute", tampered)
    found = run("bismo", synth=False)
    (result,) = found.results
    assert (result.tensors_equal, result.tensors_compared) == (5, 6)
    assert not found.good


def test_a_unit_that_fails_does_not_stop_the_others(monkeypatch):
    emit = comparing.emit

    def failing(config: EngineConfig) -> str:
        if config.pe == "parallel":
            raise ToolError("out of luck")
        return emit(config)

    monkeypatch.setattr(comparing, "emit", failing)
    found = run("parallel,bismo", synth=False, jobs=2)
    assert [result.unit for result in found.results] == ["bismo"]
    assert [(refusal.unit, refusal.failed) for refusal in found.refusals] == [("parallel", True)]
    assert "out of luck" in found.refusals[0].reason
    assert not found.good


def test_synthesis_is_asked_for_and_used(monkeypatch):
    asked = []

    def synthesised(verilog: str, device: str, seeds: int) -> dict[str, Any]:
        asked.append((device, seeds, verilog.count("module bitwright(")))
        available = {"lut": 24288, "ff": 24288, "dsp": 28, "bram": 56, "spram": 0}
        fits = len(asked) == 1
        return {
            **{"lut": 5000, "ff": 4000, "dsp": 1, "bram": 2, "spram": 0},
            **{"fmax_mhz": [90.0, 80.0, 100.0] if fits else [], "fits": fits},
            **{"excess": {} if fits else {"dsp": 3}, "obstacle": None, "available": available},
        }

    monkeypatch.setattr(comparing, "synthesised", synthesised)
    monkeypatch.setattr(comparing, "versions", lambda *arguments, **more: {})
    found = run("bismo,loom", target="ecp5-25k", seeds=3)
    assert asked == [("ecp5-25k", 3, 1)] * 2
    fits, large = found.results
    assert fits.fmax_mhz == 90
    assert fits.inferences_per_second == pytest.approx(90e6 / fits.cycles)
    assert fits.inferences_per_second_per_lut == pytest.approx(90e6 / fits.cycles / 5000)
    assert large.fmax_mhz is None
    assert large.inferences_per_second is None
    assert comparing.excess(large.synthesis) == "does not fit: 1 DSP of 28"
    assert pareto(found.results) == [fits]


def parsed(**layers):
    return {name: Precision.parse(text) for name, text in layers.items()}


def test_convolutions_on_every_unit():
    """Precisions of layers, and of pools and sums what is there; depths that hold it; keys that it needs."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    graph = random_residual((9, 8, 3), channels=4, seed=seed)
    few = requantised(graph, parsed(left="a8w4", down="a4w4", shortcut="a4w4"))
    for unit in sorted(set(UNITS) - {"xnor", "ternary", "log2"}):
        needed = layer_precisions(few, unit)
        # Of the same activations, the others' where fewer bits of weights save nothing.
        serial = unit not in ("parallel", "stripes")
        assert str(needed["left"]) == ("a8w4" if serial else "a8w8"), unit
        assert str(needed["down"]) == str(needed["shortcut"]) == "a4w4"
        layers = {str(needed[node.name]) for node, _ in few.products()}
        assert {str(needed[name]) for name in ("pool", "sum", "mean")} <= layers
        for base in (BASE, BASE.replace(rows=2)):
            config = fitted(few, unit, base, target=TARGETS["ecp5-85k"])
            tight = fitted(few, unit, base, target=TARGETS["ecp5-85k"], tight=True)
            assert (config.convolution, config.combine) == (True, ("maximum", "sum"))
            assert config.depthwise == (config.chained > 0)
            for each in (config, tight):
                assert compile_graph(few, each).predicted_cycles > 0
    for unit in ("xnor", "ternary"):
        with pytest.raises(NetworkError, match=rf"node 'first': weights .* fit no format of {unit}"):
            layer_precisions(graph, unit)
    bipolar = random_cnn((4, 4, 4), [ConvolutionShape(groups=4)], weight=Bipolar(), seed=seed)
    with pytest.raises(NetworkError, match=r"0 between groups of channels, fit no format of xnor"):
        layer_precisions(bipolar, "xnor")


def test_keys_that_convolutions_need():
    wide = BASE.replace(cols=16)
    plain = random_cnn((8, 8, 3), [ConvolutionShape(channels=8, kernel=(3, 3))])
    config = fitted(plain, "parallel", wide, lanes=8)
    assert (config.combine, config.depthwise, config.packing) == ((), False, True)
    assert fitted(random_mlp([8, 8]), "parallel", BASE).convolution is False
    depth = random_cnn((8, 8, 8), [ConvolutionShape(kernel=(3, 3), groups=8)])
    config = fitted(depth, "parallel", wide, lanes=8)
    assert (config.depthwise, config.packing) == (True, False)
    assert config.chained == 8
    # What is set stays.
    base, explicit = base_config(None, ["packing=true", "depthwise=false"], 16)
    config = fitted(depth, "parallel", base, lanes=8, explicit=explicit)
    assert (config.depthwise, config.packing) == (False, True)


def test_a_residual_network_on_several_units():
    seed = random.randrange(1 << 30)
    print("seed", seed)
    graph = requantised(random_residual((4, 4, 3), channels=4, seed=seed), parsed(left="a8w4", down="a8w4"))
    inputs = random_input(graph, count=1, seed=seed)
    found = compare(
        graph,
        inputs,
        units=("parallel", "bitfusion", "stripes", "xnor"),
        base=BASE,
        simulator="icarus",
        synth=False,
    )
    assert [result.unit for result in found.results] == ["parallel", "bitfusion", "stripes"]
    assert found.good
    for result in found.results:
        # All but the input, and what is pooled as it is made.
        assert result.tensors_compared == len(compile_graph(graph, result.config).placements) - 1
        assert result.cycles == pytest.approx(result.predicted_cycles, rel=0.2)
        assert result.bit_products == 64


def test_columns_of_several_precisions():
    """A layer half of whose columns need fewer bits, which the engine has for another layer."""
    graph = random_mlp([20, 128, 10], activation=Int(4), weight=[Int(8), Int(4)])
    first, second = graph.nodes
    weights = first.weights.copy()
    weights[:64] = weights[:64].clip(-8, 7)
    graph = replace(graph, nodes=(replace(first, weights=weights), second))
    found = compare(
        graph, random_input(graph, count=1), units=("bismo",), base=BASE, simulator="icarus", synth=False
    )
    assert found.good
    (result,) = found.results
    layers = compile_graph(graph, result.config).layers
    assert [layer.precision for layer in layers] == ["a4w4 + a4w8", "a4w4"]
    assert result.bit_products == 64


# Reports


def result(unit: str, lut: int, speed: float | None) -> Result:
    return Result(
        unit=unit,
        config=BASE,
        bit_products=64,
        predicted_cycles=100,
        cycles=100.0,
        inferences=1,
        tensors_equal=1,
        tensors_compared=1,
        accuracy=None,
        synthesis={"lut": lut, "fmax_mhz": [100.0]},
        inferences_per_second=speed,
    )


RESULTS = (
    result("bismo", 900, 5000.0),
    result("loom", 800, 3000.0),
    result("unpu", 1000, 5000.0),
    result("xnor", 1200, 9000.0),
    result("log2", 700, None),
    result("stripes", 900, 4000.0),
)


def test_pareto_front():
    assert [each.unit for each in pareto(RESULTS)] == ["loom", "bismo", "xnor"]


def test_drawing(tmp_path):
    pytest.importorskip("matplotlib")
    found = Comparison(network="net", target="ecp5-25k", bit_products=64, results=RESULTS, refusals=())
    draw(tmp_path / "units.svg", found)
    text = (tmp_path / "units.svg").read_text()
    assert all(f"<!-- {each.title} (8 lanes) -->" in text for each in RESULTS if each.inferences_per_second)
    assert "log2" not in text
    with pytest.raises(BitwrightError, match="must end in one of"):
        draw(tmp_path / "units.xyz", found)


# What is asked for


def test_units_and_lanes():
    assert parse_units("all") == tuple(UNITS)
    assert parse_units("bismo, xnor,bismo") == ("bismo", "xnor")
    with pytest.raises(BitwrightError, match=r"--units bismoo: .* \(did you mean bismo\?\)"):
        parse_units("bismoo")
    assert parse_lanes(["16", "xnor=32"], ["bismo", "xnor"]) == {"bismo": 16, "xnor": 32}
    for text, message in (
        ("loom=8", "loom is none of the units compared"),
        ("xnor=0", "1 to 256"),
        ("x", "N or UNIT=N"),
        ("257", "1 to 256"),
    ):
        with pytest.raises(BitwrightError, match=message):
            parse_lanes([text], ["bismo", "xnor"])


def test_base():
    base, explicit = base_config(None, ["requantisers=2"], 4)
    assert (base.cols, base.requantisers, explicit) == (4, 2, ("requantisers", "cols"))
    assert base_config("tiny", (), None)[0].bus_bits == 32
    for text, hint in (("pe=bismo", "--units"), ("lanes=4", "--lanes"), ('precisions=["a8w8"]', "chosen")):
        with pytest.raises(BitwrightError, match=hint):
            base_config(None, [text], None)


def test_files_are_looked_at_first(tmp_path):
    check_file("--json", tmp_path / "new.json")
    with pytest.raises(BitwrightError, match="is a folder"):
        check_file("--json", tmp_path)
    with pytest.raises(BitwrightError, match="there is no folder"):
        check_file("--plot", tmp_path / "no" / "x.svg")


def test_random_inputs_agree_too():
    """Random layers of random widths, on units of every kind of word."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    sizes = [rng.randint(2, 60), rng.randint(2, 20), rng.randint(2, 12)]
    formats = [Int(rng.randint(2, 8), signed=rng.random() < 0.5) for _ in sizes]
    graph = random_mlp(sizes, activation=formats, weight=Int(rng.randint(2, 8)), seed=seed)
    inputs = random_input(graph, count=1, seed=seed)
    found = compare(graph, inputs, units=("parallel", "loom"), base=BASE, simulator="icarus", synth=False)
    assert not found.refusals
    assert found.good
