"""Pairs of options: that all are there, and some of the engines that have them."""

import shutil
from dataclasses import fields
from itertools import combinations
from types import SimpleNamespace

import pytest

from bitwright.gen import options
from bitwright.gen.options import CHOICES, configurations, coverage, engine, main, network, trial
from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import ConfigError
from bitwright.hw.pe import UNITS

SIMULATOR = "icarus" if shutil.which("iverilog") else "verilator"


@pytest.fixture(scope="module")
def rows():
    return configurations()


def test_every_key_and_unit_has_values() -> None:
    keys = {each.name for each in fields(EngineConfig)}
    assert keys == {*CHOICES, "pe", "precisions", "lanes"} - {"unit"}
    assert {pe for pe, *_ in options._UNITS.values()} == set(UNITS)
    assert all(len(set(values)) == len(values) > 1 for values in CHOICES.values())


def test_every_pair_that_goes_together_is_in_an_engine(rows) -> None:
    """Which those are, is found by trying: what is left out fits none of the engines."""
    covered = coverage(rows)
    everything = {
        frozenset(((one, x), (other, y)))
        for one, other in combinations(CHOICES, 2)
        for x in CHOICES[one]
        for y in CHOICES[other]
    }
    assert covered == options._pairs()
    left = everything - covered
    assert len(left) < 20
    for pair in left:
        for row in rows:
            with pytest.raises(ConfigError):
                engine({**row, **dict(pair)})
    for row in rows:
        engine(row)


def test_an_engine_runs_networks(rows) -> None:
    done = trial(rows[0], seed=1, simulator=SIMULATOR)
    assert done.problem == ""
    assert done.networks
    assert done.tensors >= len(done.networks)


def test_networks_have_every_quantiser_and_precision() -> None:
    config = engine(
        {key: values[0] for key, values in CHOICES.items()}
        | {"unit": "parallel two", "quantisers": ("requantise", "thresholds", "accumulators")}
    )
    _, graph, program = next(network(config, 1))
    kinds = [type(node.quantiser).__name__ for node in graph.nodes]
    assert kinds == ["Requantise", "Thresholds", "NoneType"]
    assert {layer.precision for layer in program.layers} == {"a8w8", "a4w4"}


def test_a_wrong_result_is_a_problem(rows, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = SimpleNamespace(tensors_compared=1, mismatches={"t1": 3})
    monkeypatch.setattr(options, "execute", lambda *arguments, **named: wrong)
    monkeypatch.setattr(options, "emit", lambda config: "")
    done = trial(rows[0], seed=1, simulator=SIMULATOR)
    assert "elements differ: {'t1': 3}" in done.problem


def test_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "999"]) == 2
    assert "there are engines 0 to" in capsys.readouterr().err
    assert main(["--only", "0", "--record"]) == 2
    assert "is of all engines" in capsys.readouterr().err
