"""What an engine is not built for costs nothing: no cells, no bits of an instruction, no tables."""

import json
import re
from pathlib import Path

import pytest
from amaranth.lib import wiring

from bitwright.gen.toolchain import run_tool
from bitwright.gen.verilog import TOP, convert, emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.emission import never_elaborated
from bitwright.hw.engine import Engine
from bitwright.hw.quant.pipeline import QuantPipeline
from bitwright.hw.sched.isa import LAYOUTS, Opcode
from bitwright.hw.sched.widths import kept_bits, narrow_layout

BASE = EngineConfig(
    cols=1,
    lanes=4,
    reduction=256,
    bus_bits=32,
    activation_depth=16,
    weight_depth=16,
    channel_depth=16,
    output_depth=16,
    queue_depth=2,
    loads_under_way=2,
)
"""As little as possible beside the array: what is compared is what precisions add."""

UNITS = {
    "parallel": (4, "a8w8", "a4w4"),
    "bitfusion": (1, "a8w8", "a4w4"),
    "bitblade": (1, "a8w8", "a4w4"),
    "stripes": (4, "a8w8", "a4w4"),
    "unpu": (8, "a8w8", "a4w4"),
    "loom": (4, "a8w8", "a4w4"),
    "bismo": (4, "a8w8", "a4w4"),
    "xnor": (4, "a8wb", "a4wb"),
    "ternary": (4, "a8wt", "a4wt"),
    "log2": (4, "a8wp4", "a4wp4"),
}
"""Lanes, a wide precision and a narrow one."""


def gates(component: wiring.Component, folder: Path) -> int:
    """Gates and flip-flops, as Yosys makes them for no device; memories and multiplier blocks aside."""
    verilog = convert(component)
    (folder / "design.v").write_text(verilog)
    memories = [
        name
        for name in ("bitwright_ram", "bitwright_lut_ram", "bitwright_multiply")
        if f"module {name}" in verilog
    ]
    script = "; ".join(
        [
            "read_verilog design.v",
            *(f"blackbox {name}" for name in memories),
            f"synth -flatten -noabc -top {TOP}",
            "tee -q -o cells.json stat -json",
        ]
    )
    run_tool("yosys", ["-q", "-p", script], folder)
    counts = json.loads((folder / "cells.json").read_text())["design"]["num_cells_by_type"]
    return sum(count for name, count in counts.items() if name.startswith("$_"))


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_for_one_precision_is_no_larger(unit: str, tmp_path: Path) -> None:
    """Unit and feeder, of which a row of an array has one."""
    lanes, wide, narrow = UNITS[unit]

    def size(*precisions: str) -> int:
        spec = BASE.replace(
            pe=unit, lanes=lanes, precisions=precisions, multiplier="lut" if unit == "parallel" else "dsp"
        ).unit
        feeder = spec.feeder()
        return gates(spec.unit(), tmp_path) + (0 if feeder is None else gates(feeder, tmp_path))

    both = size(wide, narrow)
    assert size(wide) <= both
    assert size(narrow) < both


def test_an_engine_for_one_precision_is_smaller(tmp_path: Path) -> None:
    def size(*precisions: str) -> int:
        return gates(Engine(BASE.replace(pe="bismo", precisions=precisions)), tmp_path)

    both = size("a8w8", "a4w4")
    assert size("a8w8") < both
    assert size("a4w4") < both


def test_fewer_quantisers_are_a_smaller_pipeline(tmp_path: Path) -> None:
    def size(*quantisers: str) -> int:
        config = BASE.replace(pe="bismo", precisions=("a2w2",), quantisers=quantisers)
        return gates(QuantPipeline(config), tmp_path)

    both = size("thresholds", "accumulators")
    assert size("thresholds") < both
    assert size("accumulators") < both


@pytest.mark.parametrize(
    ("unit", "lanes", "one", "several"),
    [
        ("bismo", 8, ("a4w4",), ("a8w8", "a4w4", "a2w2")),
        ("bitfusion", 1, ("a8w8",), ("a8w8", "a2w2")),
        ("unpu", 8, ("a8w4",), ("a8w8", "a8w4")),
        ("ternary", 4, ("a4wt",), ("a8wt", "a4wt")),
    ],
)
def test_one_precision_has_no_index(
    unit: str, lanes: int, one: tuple[str, ...], several: tuple[str, ...]
) -> None:
    alone, beside = (BASE.replace(pe=unit, lanes=lanes, precisions=each) for each in (one, several))
    layout = LAYOUTS[Opcode.COMPUTE]
    for name in ("precision", "result"):
        assert narrow_layout(alone, Opcode.COMPUTE)[name].width == 0
    assert narrow_layout(beside, Opcode.COMPUTE)["precision"].width == (len(several) - 1).bit_length()
    # The bits of the field must be zero in a program.
    field = ((1 << layout["precision"].width) - 1) << layout["precision"].offset
    assert kept_bits(alone, Opcode.COMPUTE) & field == 0
    assert kept_bits(beside, Opcode.COMPUTE) & field != 0
    assert not re.search(r"\bprecision\b", emit(alone))
    assert re.search(r"\bprecision\b", emit(beside))


@pytest.mark.parametrize("unit", ["bitfusion", "bitblade"])
def test_bricks_of_one_precision_choose_nothing(unit: str) -> None:
    """No modes, no signs, no feeder, and each bit of an operand once in its word."""
    alone = BASE.replace(pe=unit, precisions=("a8w8",))
    beside = alone.replace(precisions=("a8w8", "a2w2"))
    assert alone.unit.control == {}
    assert never_elaborated(alone.unit.feeder()) is None
    assert alone.activation_word_bits == alone.unit.weight_word_bits == 8 * alone.lanes
    assert beside.unit.control
    assert never_elaborated(beside.unit.feeder()) is not None
    assert beside.unit.weight_word_bits == 32 * beside.lanes


@pytest.mark.parametrize(
    ("quantisers", "multiplies", "compares"),
    [
        (("thresholds",), False, True),
        (("accumulators",), False, False),
        (("thresholds", "accumulators"), False, True),
        (("requantise",), True, False),
        (("requantise", "thresholds"), True, True),
    ],
)
def test_a_quantiser_that_is_not_asked_for_is_not_there(
    quantisers: tuple[str, ...], multiplies: bool, compares: bool
) -> None:
    """Of an array that has no multipliers: those that are there are of the requantiser."""
    config = BASE.replace(pe="bismo", precisions=("a2w2",), quantisers=quantisers)
    verilog = emit(config)
    assert ("bitwright_multiply " in verilog) == multiplies
    assert ("thresholder" in verilog) == compares
