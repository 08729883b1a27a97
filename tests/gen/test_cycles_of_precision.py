"""Cycles follow precision as theory says, counted by the RTL of one engine that has all the precisions."""

from itertools import pairwise
from typing import Any

import pytest

from bitwright.gen.bench import PRECISION_ENGINES, count_planar, count_product, theoretical_beats
from bitwright.gen.mapper import compile_graph
from bitwright.gen.synthetic import random_mlp
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError, ConfigError
from bitwright.hw.formats import Int

BASE = EngineConfig(
    cols=2,
    lanes=16,
    reduction=512,
    activation_depth=512,
    weight_depth=512,
    channel_depth=32,
    output_depth=128,
    queue_depth=8,
)

FILL = 450
"""Most cycles beside the beats of a small product, at any precision: fetch, first load, last store."""

# Configuration, size of the product, and for each precision the beats, worked out by hand.
CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int], dict[str, int]]] = {
    # 8 x 64 x 8 products, 2 x 16 at a time: 128 times a w.
    "bismo": ({}, (8, 64, 8), {"a4w4": 2048, "a3w5": 1920, "a2w2": 512, "a6w1": 768}),
    "loom": ({}, (8, 64, 8), {"a4w4": 2048, "a3w5": 1920, "a2w2": 512, "a6w1": 768}),
    # 128 times a.
    "stripes": ({}, (8, 64, 8), {"a8w8": 1024, "a4w8": 512, "a2w4": 256}),
    # Groups of 2 x 16 columns: 8 x 4 x 1 steps of 16 beats for the tables and 16 w lookups.
    "unpu": ({"requantisers": 2}, (8, 64, 32), {"a8w8": 4608, "a8w4": 2560, "a8w1": 1024}),
    # 2 x 2 units: 1, 4 and 16 products of each in a beat; 4 of 8 by 2 bits.
    "bitfusion": ({"lanes": 2}, (8, 64, 16), {"a8w8": 2048, "a4w4": 512, "a2w2": 128, "a8w2": 512}),
    "bitblade": ({"lanes": 2}, (8, 64, 16), {"a8w8": 2048, "a4w4": 512, "a2w2": 128, "a8w2": 512}),
    # Nothing is gained by narrow operands.
    "parallel": ({"lanes": 8}, (16, 64, 16), {"a8w8": 1024, "a4w4": 1024}),
}


@pytest.mark.parametrize("unit", CASES)
def test_a_product_takes_the_beats_of_its_precision(unit: str) -> None:
    changes, size, expected = CASES[unit]
    config = BASE.replace(pe=unit, precisions=tuple(expected), **changes)
    verilog = emit(config)
    counts = [
        count_product(config, precision, size, verilog=verilog, simulator="icarus") for precision in expected
    ]
    for count in counts:
        beats = expected[count.precision]
        assert count.mismatches == 0
        assert count.theoretical_beats == beats
        assert count.beats == beats
        assert count.waits["drain"] == 0
        assert count.cycles < 1.05 * beats + FILL
        assert count.predicted_cycles == pytest.approx(count.cycles, rel=0.1)
    # What one precision takes more than another is its beats, within 10 % and the words it loads more.
    for slow, quick in pairwise(sorted(counts, key=lambda each: -each.beats)):
        assert slow.cycles - quick.cycles == pytest.approx(slow.beats - quick.beats, rel=0.1, abs=200)


def test_prediction_where_outputs_leave_more_slowly_than_they_come() -> None:
    """Of 16 outputs a beat apart each takes a requantiser two cycles: 15 cycles of each step's end."""
    config = BASE.replace(pe="unpu", precisions=("a8w1",))
    count = count_product(config, "a8w1", (16, 64, 32), simulator="icarus")
    assert count.waits["drain"] == 16 * 15
    assert count.predicted_cycles == pytest.approx(count.cycles, rel=0.05)


@pytest.mark.parametrize("unit", PRECISION_ENGINES)
def test_schedules_are_what_theory_says(unit: str) -> None:
    """Beats as units declare them, at any width, with the other precisions beside."""
    named = PRECISION_ENGINES[unit]["precisions"]
    for lanes in (8, 32):
        config = EngineConfig(pe=unit, cols=4, rows=2, lanes=lanes, precisions=named)
        for precision in config.formats:
            schedule = config.schedules[config.formats.index(precision)]
            terms = 3 * schedule.stored_steps.size
            beats = schedule.steps(terms) * len(schedule.beats)
            size = (config.rows, terms, config.group_channels)
            assert beats == theoretical_beats(config, precision, size), precision


@pytest.mark.parametrize("unit", ["stripes", "loom", "bismo"])
def test_planar_activations_cost_no_pass_of_their_own(unit: str) -> None:
    config = BASE.replace(pe=unit, precisions=("a8w4", "a4w2"))
    count = count_planar(config, ("a8w4", "a4w2"), (8, 128, 32, 16), simulator="icarus")
    assert count.mismatches == 0
    assert [layer.precision for layer in count.layers] == ["a8w4", "a4w2"]
    assert count.beats == count.theoretical_beats
    assert count.overhead_beyond_fill < 0.05
    # Results leave as planes as quickly as they come, and each is stored once, as the next layer takes it.
    assert count.waits["drain"] == 0
    assert count.stored_words == count.result_words


def test_a_precision_beside_costs_a_layer_no_time() -> None:
    """A layer of 2 bits takes the same instructions on an engine that has 8 bits too, but for an index."""
    graph = random_mlp([64, 16], rows=4, activation=Int(2), weight=Int(2))
    alone, beside = (
        compile_graph(graph, BASE.replace(pe="bismo", precisions=precisions))
        for precisions in (("a2w2",), ("a8w8", "a2w2"))
    )
    assert alone.layers[0].precision == beside.layers[0].precision == "a2w2"
    for one, other in zip(alone.instructions, beside.instructions, strict=True):
        assert one.opcode is other.opcode
        assert {**other.fields, "precision": 0, "result": 0} == {**one.fields, "precision": 0, "result": 0}
    # A wider accumulator may have a stage or two more.
    assert 0 <= beside.predicted_cycles - alone.predicted_cycles <= 4


def test_a_precision_that_the_engine_lacks() -> None:
    config = BASE.replace(pe="bismo", precisions=("a4w4",))
    with pytest.raises(ConfigError, match=r"precision.*a8w8.*a4w4"):
        count_product(config, "a8w8", (4, 16, 4))


def test_a_product_that_another_precision_holds_as_quickly() -> None:
    config = BASE.replace(pe="parallel", lanes=8, precisions=("a8w8", "a8w4"))
    with pytest.raises(BitwrightError, match=r"a8w4.*mapped to a8w8"):
        count_product(config, "a8w4", (4, 16, 4))
