"""Suggested engines: that they load, map and fit; what is said where none does; and the estimates."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bitwright.gen import config as configs
from bitwright.gen import engine_bench, pe_bench
from bitwright.gen import suggest as suggesting
from bitwright.gen.compare import base_config, fitted, layer_precisions
from bitwright.gen.importers import load
from bitwright.gen.mapper import compile_graph
from bitwright.gen.suggest import (
    UNIT_TOLERANCE,
    _memories,
    _roughly,
    _unit_price,
    estimate,
    features,
    overheads,
    prices,
    suggest,
)
from bitwright.gen.synthesis import TARGETS
from bitwright.gen.synthetic import random_residual
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.contract import Precision

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "digits_mlp"


def test_prices_ship_with_the_package():
    assert set(UNITS) == {record.unit for record in prices()}
    assert list(prices()) == pe_bench.load(ROOT / "gen" / "prices.json")


@pytest.mark.parametrize(("network", "target"), [("digits_w1a1", "ecp5-25k"), ("digits_mlp", "ice40-up5k")])
def test_proposal(network, target, tmp_path):
    graph = load(EXAMPLES / f"{network}.onnx")
    found = suggest(graph, target)
    assert found.obstacle is None
    available = TARGETS[target].available
    for proposal in found.proposals:
        needs = proposal.estimate
        assert needs.lut < needs.most_lut <= available.lut
        assert needs.dsp <= available.dsp
        assert needs.bram <= available.bram
        assert not needs.excess(available)
    units = [proposal.config.pe for proposal in found.proposals]
    assert len(set(units)) == len(units)
    assert not set(units) & set(found.refusals)
    assert set(units) | set(found.refusals) == set(UNITS)
    # What is printed is a configuration, on which the network takes as many cycles.
    best = found.proposals[0]
    (tmp_path / "mine.toml").write_text(found.toml)
    config = configs.load(tmp_path / "mine.toml")
    assert config == best.config
    assert compile_graph(graph, config).predicted_cycles == best.cycles
    # It is among the quickest, and no larger one of its rate was preferred.
    top = max(proposal.inferences_per_second for proposal in found.proposals)
    assert best.inferences_per_second >= 0.95 * top
    json.dumps(found.as_json())


def test_a_rate_that_is_enough():
    graph = load(EXAMPLES / "digits_w2a2.onnx")
    found = suggest(graph, "ecp5-25k", rate=5000)
    assert found.obstacle is None
    assert {proposal.config.pe for proposal in found.proposals} | set(found.refusals) == set(UNITS)
    best = found.proposals[0]
    assert all(proposal.inferences_per_second >= found.rate for proposal in found.proposals)
    assert best.estimate.lut == min(proposal.estimate.lut for proposal in found.proposals)
    more = suggest(graph, "ecp5-25k", rate=1.5 * best.inferences_per_second)
    assert more.proposals[0].inferences_per_second >= 1.5 * best.inferences_per_second
    assert more.proposals[0].estimate.lut > best.estimate.lut


def test_a_rate_that_nothing_reaches():
    found = suggest(load(EXAMPLES / "digits_w1a1.onnx"), "ecp5-25k", rate=1e9)
    assert found.proposals == ()
    assert "makes 1,000,000,000 inferences per second; the quickest is" in found.obstacle
    assert set(found.refusals) == set(UNITS)
    assert all("the quickest that was mapped makes " in reason for reason in found.refusals.values())


def test_nothing_fits():
    found = suggest(load(EXAMPLES / "digits_w1a1.onnx"), "ecp5-25k", luts=1500)
    assert found.proposals == ()
    assert found.obstacle.startswith("nothing fits ecp5-25k: the smallest, ")
    assert " LUT of 1,500" in found.obstacle
    assert set(found.refusals) == set(UNITS)


@pytest.mark.parametrize("options", [{"rate": 0}, {"rate": float("nan")}, {"luts": -1}])
def test_numbers_that_are_none(options):
    with pytest.raises(BitwrightError, match="must be above 0"):
        suggest(load(EXAMPLES / "digits_w1a1.onnx"), "ecp5-25k", **options)


# LUTs of units of other sizes than those in the table, as `scripts/bench pe --lanes N` measures them: for one
# precision, with --alone, or for all that the unit is priced with.
UNITS_MEASURED = [
    ("bitblade", 1, "ecp5", ("a8w8",), 226),
    ("bitblade", 1, "ecp5", ("a2w2",), 213),
    ("bitblade", 1, "ecp5", None, 331),
    ("bitblade", 4, "ecp5", ("a8w8",), 519),
    ("bitblade", 4, "ecp5", None, 670),
    ("bitblade", 1, "ice40", ("a8w8",), 520),
    ("bitblade", 4, "ice40", ("a2w2",), 1369),
    ("bitfusion", 1, "ecp5", ("a8w8",), 206),
    ("bitfusion", 1, "ecp5", None, 311),
    ("bitfusion", 4, "ecp5", ("a2w2",), 713),
    ("bitfusion", 4, "ecp5", None, 1019),
    ("bitfusion", 1, "ice40", ("a8w8",), 397),
    ("bitfusion", 4, "ice40", ("a8w8",), 1138),
    ("loom", 64, "ecp5", ("a8w8",), 183),
    ("loom", 64, "ecp5", ("a2w2",), 147),
    ("loom", 64, "ice40", ("a8w8",), 620),
    ("loom", 64, "ice40", ("a2w2",), 465),
    ("unpu", 8, "ecp5", ("a8w8",), 167),
    ("unpu", 8, "ice40", ("a8w8",), 543),
]


@pytest.mark.parametrize(("unit", "lanes", "family", "precisions", "lut"), UNITS_MEASURED)
def test_units_of_other_sizes(unit, lanes, family, precisions, lut):
    spec = UNITS[unit](
        lanes=lanes,
        precisions=tuple(map(Precision.parse, precisions)) if precisions else UNITS[unit].priced()[0].built,
        reduction=pe_bench.REDUCTION,
        fabric=family,
    )
    found, _ = _unit_price(spec, family)
    assert found == pytest.approx(lut, rel=0.22)
    assert lut <= found * (1 + UNIT_TOLERANCE)


# Engines as Yosys and nextpnr packed them: gen/engines.json, which `scripts/bench suggest --write` makes.
OVERHEADS, ENGINES = engine_bench.read()
MEASURED = [row for row in ENGINES if row["lut"] is not None]


def name_of(row):
    return " ".join(map(str, (row["target"], row["network"], row["unit"], *row["set"], row["bit_products"])))


@pytest.mark.parametrize("row", MEASURED, ids=map(name_of, MEASURED))
def test_estimates_are_as_measured(row):
    found = estimate(engine_bench.row_config(row), TARGETS[row["target"]])
    assert found is not None
    assert found.lut == pytest.approx(row["lut"], rel=0.07)
    assert row["lut"] <= found.most_lut
    assert found.dsp == row["dsp"]
    if row["current"]:
        # Synthesis drops a memory that nothing reads: parameters of channels beyond the bits of a threshold.
        spare = 2 if row["target"].startswith("ice40") else 0
        assert row["bram"] <= found.bram <= row["bram"] + spare


def test_every_engine_of_the_table_can_be_built():
    assert overheads() == OVERHEADS
    for row in ENGINES:
        needs = estimate(engine_bench.row_config(row), TARGETS[row["target"]])
        assert needs is not None
        # Each constant is one that there is, and the other way round.
        assert set(features(engine_bench.row_config(row))) == set(
            OVERHEADS[TARGETS[row["target"]].family].lut
        )


def test_constants_are_found_again(tmp_path):
    """Engines that take what some constants say, exactly: those are fitted, from others."""
    there = {
        family: replace(each, lut={name: 1.3 * value + 2 for name, value in each.lut.items()})
        for family, each in OVERHEADS.items()
    }
    rows = []
    for row in ENGINES:
        config, target = engine_bench.row_config(row), TARGETS[row["target"]]
        rows.append(row | {"lut": estimate(config, target, there).lut, "current": True})
    found = engine_bench.fit(rows, OVERHEADS)
    for row in rows:
        needs = estimate(engine_bench.row_config(row), TARGETS[row["target"]], found)
        assert needs.lut == pytest.approx(row["lut"], rel=0.04), name_of(row)
    # What is not current says nothing.
    assert engine_bench.fit([row | {"current": False} for row in rows], OVERHEADS) == OVERHEADS
    engine_bench.write(found, rows, tmp_path / "engines.json")
    assert engine_bench.read(tmp_path / "engines.json") == (found, rows)


def memories_of(verilog):
    """Width and depth of each block RAM of an engine, from its Verilog."""
    modules = {
        name.lstrip("\\"): body
        for name, body in re.findall(
            r"^module (\\\S+|\w+) ?\((.*?)^endmodule", verilog, re.MULTILINE | re.DOTALL
        )
    }
    instance = re.compile(r"^  (\\\S+|\w+) +(?:#\(\n((?:    .*\n)*)  \) +)?(?:\\\S+|\w+) +\($", re.MULTILINE)

    def within(name):
        for kind, parameters in instance.findall(modules[name]):
            kind = kind.lstrip("\\")
            if kind == "bitwright_ram":
                yield tuple(
                    int(re.search(rf"\.{key}\(32'd(\d+)\)", parameters)[1]) for key in ("WIDTH", "DEPTH")
                )
            elif kind in modules:
                yield from within(kind)

    return sorted(within("bitwright"))


CONVOLUTIONAL = {"combine": ("maximum", "sum"), "requantisers": 2}


@pytest.mark.parametrize(
    "changes",
    [
        {"convolution": False},
        CONVOLUTIONAL,
        CONVOLUTIONAL | {"rows": 2, "bus_bits": 32},
        CONVOLUTIONAL | {"pe": "bismo", "lanes": 64, "rows": 2},
    ],
)
def test_memories_are_those_of_the_engine(changes):
    config = EngineConfig(**({"cols": 4, "lanes": 8} | changes))
    assert sorted((width, depth) for width, depth, _ in _memories(config)) == memories_of(emit(config))


def test_a_network_of_convolutions(monkeypatch):
    for name, few in {
        "_ROWS": (1,),
        "_COLS": (4,),
        "_BIT_PRODUCTS": (64, 128),
        "_REQUANTISERS": (1,),
    }.items():
        monkeypatch.setattr(suggesting, name, few)
    graph = random_residual((8, 8, 3), channels=4)
    found = suggest(graph, "ecp5-25k")
    assert found.obstacle is None
    available = TARGETS["ecp5-25k"].available
    assert {proposal.config.pe for proposal in found.proposals} | set(found.refusals) == set(UNITS)
    assert {"parallel", "bismo"} <= {proposal.config.pe for proposal in found.proposals}
    assert "fit no format of xnor" in found.refusals["xnor"]
    for proposal in found.proposals:
        config = proposal.config
        assert config.convolution
        assert set(config.combine) == {"maximum", "sum"}
        assert not proposal.estimate.excess(available)
        assert compile_graph(graph, config).predicted_cycles == proposal.cycles


@pytest.mark.parametrize("unit", ["parallel", "bismo", "stripes", "bitfusion"])
def test_rough_cycles_of_convolutions(unit):
    """What decides which engines are mapped is near what the cycle model says of them."""
    graph = random_residual((16, 16, 3), channels=8)
    base, _ = base_config(None, ["rows=2"] if unit == "stripes" else [], None)
    needed = layer_precisions(graph, unit)
    for bit_products in (64, 256):
        config = fitted(graph, unit, base, bit_products=bit_products, needed=needed)
        rough = _roughly(graph, config, needed)
        assert rough == pytest.approx(compile_graph(graph, config).predicted_cycles, rel=0.35), config
