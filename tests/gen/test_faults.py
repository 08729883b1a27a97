"""Faults injected into a small engine: a hundred of all kinds, and that what is not handled would be seen."""

from dataclasses import replace

import pytest

from bitwright.gen import faults
from bitwright.gen.faults import CASES, KINDS, Outcome, Scenario, inject, judge, main
from bitwright.hw.errors import BitwrightError
from bitwright.hw.sched.registers import Fault

DONE = 2


def test_faults_of_every_kind_are_handled(capsys: pytest.CaptureFixture[str]) -> None:
    """The seed is in what is printed of one that is not."""
    assert main(["mlp", "--number", "120", "--seed", "7"]) == 0
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("mlp | ")]
    assert {line[1] for line in lines} == set(KINDS.values())
    assert sum(int(line[2]) for line in lines) == 120
    assert all(line[5] == "0" for line in lines)
    ended = {line[1]: line[3] for line in lines}
    positions = {line[1]: int(line[6]) for line in lines if line[6]}
    assert set(positions) == {KINDS["read error"], KINDS["write error"]}
    assert ended[KINDS["read error"]].startswith("READ_ERROR ")
    assert ended[KINDS["write error"]].startswith("WRITE_ERROR ")
    assert ended[KINDS["opcode"]].startswith("ILLEGAL_INSTRUCTION ")
    assert ended[KINDS["address"]].startswith("ADDRESS ")
    assert ended[KINDS["reset"]].startswith("reset ")
    assert "WATCHDOG" in ended[KINDS["stall"]]


def test_what_is_not_handled_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of reads, where errors of writes were expected: each one is a finding."""
    expected = faults._status(Fault.WRITE_ERROR)
    made = faults._Maker._read_error

    def wrong(self):
        for scenario in made(self):
            yield replace(scenario, allowed=frozenset((expected,)))

    monkeypatch.setattr(faults._Maker, "_read_error", wrong)
    tallies, findings = inject("mlp", 5, kinds=["read error"])
    assert tallies["read error"].ends == {"READ_ERROR": 5}
    assert [finding.reason for finding in findings] == ["it ends READ_ERROR, not WRITE_ERROR"] * 5


CLEAN = Outcome(0, DONE, 500, 0, 0, 100, 10, 0, 0, 0, 0, 0, DONE, 510, 0, 0, 0, 0)
SCENARIO = Scenario("stall", "", frozenset((DONE, faults._status(Fault.WATCHDOG))), right=True, within=50)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"status": faults._status(Fault.WATCHDOG), "wrong": 9}, None),
        ({"next_cycles": 530}, None),
        ({"outside": 1}, "outside the window"),
        ({"dirty": 1}, "outside the window"),
        ({"violations": 1}, "rule of the bus"),
        ({"status": -1}, "no end"),
        ({"status": faults._status(Fault.WATCHDOG) | 1}, "busy long after"),
        ({"status": faults._status(Fault.ADDRESS)}, "ends ADDRESS, not WATCHDOG or done"),
        ({"status": 9 << 8 | 4}, "ends with fault 9"),
        ({"wrong": 1}, "the results are wrong"),
        ({"changed": 1}, "registers were written"),
        ({"since": 51}, "51 cycles after the fault, more than 50"),
        ({"next_status": faults._status(Fault.READ_ERROR)}, "the next run ends READ_ERROR"),
        ({"next_wrong": 1}, "the next run gives wrong results"),
        ({"next_dirty": 1}, "the next run breaks"),
        ({"next_cycles": 531}, "takes 531 cycles, not 510"),
    ],
)
def test_judge(changes, reason) -> None:
    said = judge(SCENARIO, replace(CLEAN, **changes), CLEAN, slack=20)
    assert said == reason if reason is None else reason in said


def test_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BitwrightError, match="case = 'rnn': must be one of mlp, cnn"):
        inject("rnn", 1)
    assert main(["--number", str(len(CASES) - 1)]) == 2
    assert "must be at least one for each" in capsys.readouterr().err
    assert main(["mlp", "--record"]) == 2
    assert "of all networks" in capsys.readouterr().err
