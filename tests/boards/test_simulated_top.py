"""The top of the iCEBreaker over its serial line: as Verilog, and as the netlist that Yosys makes of it."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bitwright.boards.build import portable
from bitwright.boards.host import Accelerator
from bitwright.boards.simulation import SimulatedBoard
from bitwright.gen import config as configs
from bitwright.gen.importers import load
from bitwright.gen.mapper import compile_graph
from bitwright.gen.netlist import cell_models, netlist
from bitwright.gen.verilog import convert
from bitwright.sim import golden

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_mlp"
DIVISOR = 6
TARGET = "ice40-up5k"


@pytest.fixture(scope="module")
def config():
    return configs.load("icebreaker")


@pytest.fixture(scope="module")
def verilog(config):
    top = portable(config, memory="single", memory_bytes=128 << 10, divisor=DIVISOR)
    return convert(top, name="top")


@pytest.fixture(scope="module")
def cells(verilog):
    return netlist(verilog, "top", TARGET)


@pytest.fixture(scope="module")
def classify(config):
    """Runs images on a board in a simulation; they must be as the golden model has them."""
    graph = load(EXAMPLE / "digits_mlp.onnx")
    program = compile_graph(graph, config, tensors="needed")
    with np.load(EXAMPLE / "test.npz") as file:
        images = file["input"]

    def run(sources, count):
        with (
            SimulatedBoard(sources, "top", bit_cycles=DIVISOR) as board,
            Accelerator.open(board.port, program=program, link_timeout=30, timeout=300) as accelerator,
        ):
            found = accelerator.run(images[:count, np.newaxis])
            assert accelerator.counters()["cycles"] < 1.1 * program.predicted_cycles
        expected = golden.run(graph, images[:count])[graph.output]
        np.testing.assert_array_equal(found, expected)

    return run


def test_verilog(verilog, classify):
    classify({"top.v": verilog}, 10)


def test_primitives(cells):
    """What memory and multipliers become; and nothing emulates what a memory does not define."""
    found = Counter(re.findall(r"^  (SB_\w+) ", cells, re.MULTILINE))
    assert {name: found[name] for name in ("SB_SPRAM256KA", "SB_MAC16", "SB_RAM40_4K")} == {
        "SB_SPRAM256KA": 4,
        "SB_MAC16": 5,
        "SB_RAM40_4K": 27,
    }
    assert found["SB_LUT4"] < 3600


def test_netlist(cells, classify):
    classify({"top.v": cells, "cells.v": cell_models(cells, TARGET)}, 1)
