"""Whole layers on the emitted Verilog against the golden model, over configurations and shapes."""

import random
import shutil

import pytest

from bitwright.gen.execute import EngineError, execute
from bitwright.gen.mapper import compile_graph
from bitwright.gen.synthetic import random_input, random_mlp
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.sim.rtl import MemoryTiming

# Icarus is ready sooner on small designs.
SIMULATOR = "icarus" if shutil.which("iverilog") else "verilator"

BASE = EngineConfig(
    cols=4,
    lanes=8,
    requantisers=2,
    activation_depth=256,
    weight_depth=64,
    channel_depth=32,
    output_depth=64,
    queue_depth=4,
    burst_beats=16,
)

CONFIGS = {
    "plain": BASE,
    "several_rows": BASE.replace(rows=3, cols=2, output_depth=128),
    "odd_columns": BASE.replace(cols=5, requantisers=1, weight_depth=128),
    "wide_words": BASE.replace(lanes=16, bus_bits=32, requantise_cycles=4),
    "narrow_words": BASE.replace(lanes=2, cols=2, rows=2, bus_bits=128, requantisers=1, output_depth=16),
    "four_bits": BASE.replace(precisions=("a4w4",), lanes=16, multiplier="lut"),
    "two_bits": BASE.replace(precisions=("a2w2",), lanes=32, requantisers=4, multiplier="lut"),
    "mixed_bits": BASE.replace(precisions=("a8w2",), lanes=4, rows=2, bus_bits=32),
    "one_lane": BASE.replace(lanes=1, cols=8, requantisers=8, bus_bits=64, multiplier="lut"),
}


def shapes(config: EngineConfig, rng: random.Random) -> list[tuple[int, list[int]]]:
    """Rows and layer sizes: one that divides nothing, one with a long reduction, one with many columns."""
    return [
        (rng.randint(1, 3 * config.rows + 1), [rng.randint(1, 40), rng.randint(1, 40), rng.randint(1, 12)]),
        (rng.randint(1, 2), [config.lanes * config.weight_depth + rng.randint(1, 50), rng.randint(1, 9)]),
        (rng.randint(1, 9), [rng.randint(1, 9), config.channel_depth * 2 + rng.randint(1, 20)]),
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_layers(name: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    config = CONFIGS[name]
    verilog = emit(config)
    for rows, sizes in shapes(config, rng):
        graph = random_mlp(
            sizes,
            rows=rows,
            activation=config.formats[0].activation,
            weight=config.formats[0].weight,
            rounding=rng.choice(["tflite", "half_even"]),
            seed=rng.randrange(1 << 32),
        )
        program = compile_graph(graph, config)
        timing = MemoryTiming(
            latency=rng.randint(2, 40),
            stall=rng.choice([0, 90]),
            extra=rng.choice([0, 30]),
            seed=rng.randint(1, 99),
        )
        inputs = random_input(graph, count=2, seed=rng.randrange(1 << 32))
        done = execute(program, graph, inputs, verilog, simulator=SIMULATOR, timing=timing)
        assert done.mismatches == {}, (rows, sizes, timing)
        assert done.tensors_compared == 2 * (len(sizes) - 1)
        assert done.counters["fetch_beats"] == 2 * len(program.instructions) * config.instruction_beats


def test_verilator_agrees() -> None:
    graph = random_mlp([40, 12, 5], rows=2)
    program = compile_graph(graph, BASE)
    inputs = random_input(graph, count=1)
    verilog = emit(BASE)
    runs = [execute(program, graph, inputs, verilog, simulator=s) for s in {"verilator", SIMULATOR}]
    assert all(run.mismatches == {} for run in runs)
    assert runs[0].counters == runs[-1].counters


def test_prediction_is_close() -> None:
    graph = random_mlp([256, 64, 64], rows=8)
    config = BASE.replace(weight_depth=512)
    program = compile_graph(graph, config)
    done = execute(program, graph, random_input(graph, count=1), emit(config), simulator=SIMULATOR)
    assert done.counters["cycles"] == pytest.approx(program.predicted_cycles, rel=0.05)
    assert done.counters["compute_beats"] == 8 * (16 * 32 + 16 * 8)
    for layer, plan in zip(done.layers, program.layers, strict=True):
        assert layer.counters["cycles"] == pytest.approx(plan.predicted_cycles, rel=0.1)


@pytest.mark.parametrize(
    ("timing", "fault"),
    [
        (MemoryTiming(read_error_at=150), "READ_ERROR"),
        (MemoryTiming(write_error_at=2), "WRITE_ERROR"),
        (MemoryTiming(hang_after=100), "WATCHDOG"),
    ],
)
def test_a_fault_is_named(timing: MemoryTiming, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitwright.gen.execute.WATCHDOG_CYCLES", 2000)
    graph = random_mlp([40, 12, 5], rows=2)
    program = compile_graph(graph, BASE)
    with pytest.raises(EngineError, match=fault):
        execute(program, graph, random_input(graph, count=1), emit(BASE), simulator=SIMULATOR, timing=timing)


def test_a_wrong_weight_is_found() -> None:
    graph = random_mlp([16, 4])
    program = compile_graph(graph, BASE)
    image = bytearray(program.image)
    where = image.find(graph.nodes[0].weights[0, :8].astype("int8").tobytes())
    assert where >= 0
    image[where] ^= 0x55
    changed = type(program)(**{**vars(program), "image": bytes(image)})
    inputs = random_input(graph, count=4)
    inputs[:, 0, 0] = 101
    assert execute(changed, graph, inputs, emit(BASE), simulator=SIMULATOR).mismatches.keys() == {"t1"}
