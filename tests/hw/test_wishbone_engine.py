"""A network on the engine with Wishbone buses: the emitted Verilog, a memory that checks its initiator."""

import os
import random

import numpy as np
import pytest

from bitwright.gen.execute import EngineError, Execution, execute
from bitwright.gen.mapper import compile_graph
from bitwright.gen.synthetic import random_input, random_mlp
from bitwright.gen.verilog import elaborate
from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.registers import Fault
from bitwright.sim.rtl import MemoryTiming

CONFIG = EngineConfig(cols=4, lanes=4, bus_bits=32, bus="wishbone", burst_beats=16)


@pytest.fixture(scope="module")
def verilog() -> str:
    return elaborate(CONFIG).verilog


def run(verilog: str, timing: MemoryTiming, config: EngineConfig = CONFIG) -> Execution:
    seed = int(os.environ.get("BITWRIGHT_SEED", random.randrange(1 << 31)))
    print(f"seed {seed}")
    graph = random_mlp([40, 24, 10], seed=seed)
    program = compile_graph(graph, config)
    inputs = random_input(graph, count=2, seed=seed)
    return execute(program, graph, inputs, verilog, simulator="icarus", timing=timing)


def test_ports() -> None:
    ports = {port.name: (port.direction, port.width) for port in elaborate(CONFIG).ports}
    assert ports == {
        **{"clk": ("input", 1), "rst": ("input", 1), "irq": ("output", 1)},
        **{f"s_wb_{name}": ("input", 1) for name in ("cyc", "stb", "we")},
        **{"s_wb_adr": ("input", 6), "s_wb_sel": ("input", 4), "s_wb_dat_w": ("input", 32)},
        **{"s_wb_dat_r": ("output", 32), "s_wb_ack": ("output", 1), "s_wb_err": ("output", 1)},
        **{f"wb_{name}": ("output", 1) for name in ("cyc", "stb", "we")},
        **{"wb_adr": ("output", 30), "wb_sel": ("output", 4), "wb_dat_w": ("output", 32)},
        **{"wb_dat_r": ("input", 32), "wb_ack": ("input", 1), "wb_err": ("input", 1)},
        **{"wb_cti": ("output", 3), "wb_bte": ("output", 2)},
    }


@pytest.mark.parametrize("timing", [MemoryTiming(latency=2), MemoryTiming(latency=9, stall=90, extra=5)])
def test_every_tensor_of_a_network(verilog: str, timing: MemoryTiming) -> None:
    execution = run(verilog, timing)
    assert execution.tensors_compared == 4
    assert execution.mismatches == {}
    assert np.any(execution.outputs[list(execution.outputs)[-1]])


def test_the_bus_holds_bursts_together(verilog: str) -> None:
    """One wait for each burst, not for each beat: cycles grow by bursts when latency does."""
    quick, slow = (run(verilog, MemoryTiming(latency=latency)).counters for latency in (2, 22))
    words = quick["load_beats"] + quick["fetch_beats"] + quick["store_beats"]
    assert slow["cycles"] - quick["cycles"] < 20 * words / 4


@pytest.mark.parametrize(
    ("timing", "fault"),
    [
        (MemoryTiming(latency=2, read_error_at=30), Fault.READ_ERROR),
        (MemoryTiming(latency=2, write_error_at=2), Fault.WRITE_ERROR),
    ],
)
def test_errors_of_the_bus_are_faults(verilog: str, timing: MemoryTiming, fault: Fault) -> None:
    with pytest.raises(EngineError, match=fault.name):
        run(verilog, timing)
