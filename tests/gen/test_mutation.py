"""Mutants of one small unit; the tests of all of them are ``tests/hw/pe/test_mutants.py``."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bitwright.gen.equivalence import Equivalent
from bitwright.gen.mutation import (
    SUBJECTS,
    OutOfRange,
    _out_of_range,
    bits_equal_when_shifted,
    main,
    mutate,
    unit_of,
)
from bitwright.hw.errors import BitwrightError
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.contract import Precision

ROOT = Path(__file__).parents[2]


def test_every_unit_and_what_follows_is_a_subject() -> None:
    assert {subject.unit.name for subject in SUBJECTS.values() if subject.unit} == set(UNITS)
    assert {name for name, subject in SUBJECTS.items() if not subject.unit} == {
        "requantise-1",
        "requantise-4",
        "combine",
    }


def test_mutants_of_a_unit_are_killed_or_the_same() -> None:
    result = mutate(SUBJECTS["xnor"], ROOT, count=30)
    assert len(result.killed) + len(result.survivors) == 30
    assert len({*result.killed, *(mutation for mutation, _ in result.survivors)}) == 30
    assert all(isinstance(outcome, Equivalent) for _, outcome in result.survivors), result.survivors
    assert result.share == 1
    assert result.proved == len(result.survivors)


def test_tests_that_look_at_nothing_kill_nothing() -> None:
    """Where results count only behind what never comes, as outputs are observed when a constant is set."""
    subject = SUBJECTS["xnor"]
    blind = replace(subject, observed={"o": ("rst", 0, 10_000), "o_valid": ("rst", 0, 10_000)})
    result = mutate(blind, ROOT, count=5, explain=False)
    assert not result.killed
    assert [outcome for _, outcome in result.survivors] == [None] * 5
    assert (result.proved, result.unexplained, result.share) == (0, 5, 0)


def test_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BitwrightError, match="has no folder tests; run this from a clone"):
        mutate(SUBJECTS["xnor"], tmp_path)
    with pytest.raises(BitwrightError, match="nobody: its tests fail"):
        mutate(replace(SUBJECTS["xnor"], name="nobody", tests=("tests/none.py",)), ROOT)
    assert main(["parallel"]) == 2
    assert "parallel: must be one of parallel-lut, " in capsys.readouterr().err
    assert main(["xnor", "--number", "0"]) == 2
    assert "--number = 0: must be at least 1" in capsys.readouterr().err
    assert main(["xnor", "--record"]) == 2
    assert "is of all subjects" in capsys.readouterr().err


def test_bits_equal_when_shifted() -> None:
    """Of the bits of an accumulator, those that the greatest sum in front of a shift takes."""
    expected = {
        "stripes": 13 - 11 + 1,  # au2wu4, 64 terms: 64 * 15
        "bismo": 12 - 11 + 1,  # au2wu3: 64 * (3 * 7 - 1) / 2
        "parallel-lut": 0,
    }
    assert {name: bits_equal_when_shifted(unit_of(name)) for name in expected} == expected
    # Behind the plane of signs alone it is minus the sum of 64 weights from -2 to 1.
    unit = UNITS["stripes"](precisions=(Precision.parse("a2w2"),), reduction=64, lanes=4)
    assert unit.accumulator_bits == 10
    assert bits_equal_when_shifted(unit) == 10 - 9 + 1


def test_what_shifts_the_highest_bits(tmp_path: Path) -> None:
    module = {
        "cells": {
            "$1": {"connections": {"A": [12], "B": [3], "Y": [40]}},
            "$2": {"connections": {"A": [9], "Y": [41]}},
        },
        "netnames": {"accumulator": {"bits": list(range(13))}, "other": {"bits": [12, 3]}},
    }
    (tmp_path / "netlist.json").write_text(json.dumps({"modules": {"dut": module}}))
    subject = SUBJECTS["stripes"]
    found = _out_of_range(subject, "-mode inv -module \\dut -cell $1 -port \\A -portbit 0", tmp_path)
    assert found == OutOfRange(bit=12, equal=3)
    assert _out_of_range(subject, "-mode inv -module \\dut -cell $2 -port \\A -portbit 0", tmp_path) is None
