"""The cycle model: what must hold whatever the constants are."""

import pytest

from bitwright.gen.mapper import compile_graph
from bitwright.gen.synthetic import random_mlp
from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.isa import Buffer, Instruction, Opcode, Unit
from bitwright.sim.cycles import simulate

CONFIG = EngineConfig(
    cols=4, lanes=8, requantisers=2, activation_depth=256, weight_depth=64, channel_depth=32, output_depth=64
)
LOAD = {"beats": 200, "row_beats": 200, "stride": 200}


def test_the_bus_gives_a_word_per_cycle() -> None:
    loads = [Instruction(Opcode.LOAD, LOAD)] * 8
    one, eight = simulate(CONFIG, loads[:1]).total, simulate(CONFIG, loads).total
    # The words of the program come over the same bus.
    assert 7 * 200 <= eight - one <= 7 * 200 + 8 * CONFIG.instruction_beats


def test_latency_counts_once_where_loads_overlap() -> None:
    loads = [Instruction(Opcode.LOAD, LOAD)] * 8
    quick, slow = (simulate(CONFIG, loads, latency=latency).total for latency in (20, 120))
    assert slow - quick == 2 * 100  # of the program, and of the first load


def test_tokens_order_the_units() -> None:
    program = [
        Instruction(Opcode.LOAD, {**LOAD, "post": 1 << Unit.COMPUTE}),
        Instruction(
            Opcode.COMPUTE,
            {"wait": 1 << Unit.LOAD, "steps": 50, "row_groups": 2, "col_groups": 3, "drain": 1},
        ),
    ]
    timeline = simulate(CONFIG, program)
    assert timeline.ends[1] > timeline.ends[0] + 300
    free = [Instruction(Opcode.COMPUTE, {**program[1].fields, "wait": 0})]
    assert simulate(CONFIG, free).total < timeline.ends[1]


@pytest.mark.parametrize(("steps", "cycles"), [(50, 50), (1, CONFIG.drain_cycles)])
def test_results_take_their_time_to_leave(steps: int, cycles: int) -> None:
    def total(dots: int) -> int:
        fields = {"steps": steps, "row_groups": dots, "col_groups": 2, "drain": 1}
        return simulate(CONFIG, [Instruction(Opcode.COMPUTE, fields)]).total

    assert total(20) - total(10) == 10 * 2 * cycles


def test_results_leave_before_those_of_the_next_tile() -> None:
    """Tiles of one dot product each take as long as one tile of as many."""
    fields = {"steps": 1, "row_groups": 1, "col_groups": 1, "drain": 1}
    config = CONFIG.replace(cols=64, requantisers=1, channel_depth=64)
    assert config.drain_cycles == 64

    def total(count: int) -> int:
        return simulate(config, [Instruction(Opcode.COMPUTE, fields)] * count).total

    assert total(20) - total(10) == 10 * 64


def test_snapshots_are_in_order() -> None:
    program = compile_graph(random_mlp([64, 32, 16, 8]), CONFIG)
    timeline = simulate(CONFIG, program.instructions)
    assert len(timeline.snapshots) == 3
    assert list(timeline.snapshots) == sorted(timeline.snapshots)
    assert timeline.snapshots[-1] == timeline.total == program.predicted_cycles


@pytest.mark.parametrize(("buffer", "slower"), [(Buffer.ACTIVATIONS, True), (Buffer.WEIGHTS, False)])
def test_forwarded_words_take_turns_with_loads_of_activations(buffer: Buffer, slower: bool) -> None:
    store = {"beats": 400, "row_beats": 400, "stride": 400}
    load = Instruction(Opcode.LOAD, {**LOAD, "beats": 1000, "row_beats": 1000, "buffer": buffer})

    def ends(forward: int) -> list[int]:
        return list(simulate(CONFIG, [Instruction(Opcode.STORE, {**store, "forward": forward}), load]).ends)

    (stored, loaded), (both_stored, both_loaded) = ends(0), ends(1)
    # While both want the port, each has half of it: from the load's first word to the store's last.
    waited = both_stored - stored
    assert (300 < waited < 400) is slower
    assert both_loaded - loaded == pytest.approx(waited, abs=8)
    if not slower:
        assert waited == 0


def test_a_full_queue_holds_up_the_other_units() -> None:
    """Behind as many COMPUTEs as fit the queue and the decoder, a LOAD waits until one has left."""
    compute = Instruction(Opcode.COMPUTE, {"steps": 1000, "row_groups": 1, "col_groups": 1, "drain": 1})

    def end_of_load(computes: int) -> int:
        return simulate(CONFIG, [compute] * computes + [Instruction(Opcode.LOAD, LOAD)]).ends[-1]

    # The first has left at once, the second when the first one's beats are through.
    fitting = CONFIG.queue_depth + 2
    assert end_of_load(fitting) < 1000 < end_of_load(fitting + 1)
    assert end_of_load(fitting + 2) - end_of_load(fitting + 1) == pytest.approx(1000, abs=2)
