"""What tests of reports share."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from bitwright.gen.execute import Execution, LayerCount
from bitwright.gen.program import LayerPlan, Program
from bitwright.gen.report import simulation_report
from bitwright.gen.synthetic import random_mlp
from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.registers import COUNTERS

MakeReport = Callable[..., dict[str, Any]]


@pytest.fixture
def make_report() -> MakeReport:
    """A function that makes a report of layers with random counters, as an engine could have counted them."""

    def make(
        names: Sequence[str],
        *,
        config: EngineConfig | None = None,
        precisions: Sequence[str] = (),
        network: str = "made-up",
        mismatches: dict[str, int] | None = None,
        seed: int = 1,
    ) -> dict[str, Any]:
        config = config or EngineConfig(cols=8, lanes=8)
        rng = random.Random(seed)
        plans, counts = [], []
        for index, name in enumerate(names):
            counters: dict[str, float] = {key: float(rng.randrange(2000)) for key, _ in COUNTERS}
            counters["compute_beats"] = float(rng.randrange(1, 50_000))
            spent = [value for key, value in counters.items() if key.startswith("compute_")]
            counters["cycles"] = sum(spent) + rng.randrange(100)
            plans.append(
                LayerPlan(
                    name=name,
                    macs=rng.randrange(1, 10**6) if index % 5 != 4 else 0,
                    snapshot=64 * index,
                    predicted_cycles=round(counters["cycles"] * rng.uniform(0.9, 1.1)),
                    precision=precisions[index % len(precisions)] if precisions else config.precisions[0],
                    tiling="",
                )
            )
            counts.append(LayerCount(name=name, counters=counters))
        program = Program(
            network=network,
            config=config,
            instructions=[],
            image=b"",
            memory_bytes=4096,
            program_address=0,
            placements={},
            layers=plans,
        )
        graph = random_mlp([8, 8])
        object.__setattr__(graph, "name", network)
        totals = {key: int(2 * sum(count.counters[key] for count in counts)) for key, _ in COUNTERS}
        output = np.zeros((2, 1, 8), np.int8)
        execution = Execution(
            outputs={graph.output: output},
            expected={graph.output: output},
            counters=totals,
            layers=counts,
            mismatches=mismatches or {},
            tensors_computed=len(names),
        )
        return simulation_report(program, graph, execution, config="mine", labels=None)

    return make
