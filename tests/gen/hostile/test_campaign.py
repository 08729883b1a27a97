"""Campaigns: what is counted, what is found, and a short one of every kind of file."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from random import Random

import numpy as np
import pytest

from bitwright.gen.hostile import __main__ as command
from bitwright.gen.hostile import campaign
from bitwright.gen.hostile.campaign import Finding, keep, make, run, try_one
from bitwright.gen.hostile.targets import TARGETS, Target
from bitwright.gen.record import read
from bitwright.hw.errors import BitwrightError
from bitwright.sim.graph import NetworkError


def target(read, name="own", share=1):
    return Target(name, "file.bin", share, lambda rng: rng.randbytes(8), read)


def refuse(path):
    raise BitwrightError(f"{path}: is not good")


@pytest.mark.parametrize(
    ("error", "finding"),
    [
        (BitwrightError("it is not good"), "names neither file nor node"),
        (BitwrightError("file.bin: \x1b[2J"), "has control characters"),
        (BitwrightError("file.bin: " + "x" * 5000), "5010 characters"),
        (NetworkError("node 'x'", "is not good"), None),
        (ValueError("x"), "ValueError: x"),
    ],
)
def test_a_refusal_must_help(tmp_path, error, finding):
    def read(path):
        raise error

    outcome, _, report = try_one(target(read), b"x", tmp_path)
    assert outcome == ("failed" if finding else "refused")
    assert finding is None or finding in report


def test_memory_that_was_asked_for_in_vain_is_no_refusal(tmp_path):
    def read(path):
        try:
            raise MemoryError
        except MemoryError:
            raise BitwrightError(f"{path}: is damaged") from None

    assert try_one(target(read), b"x", tmp_path)[:2] == (
        "failed",
        "MemoryError in hostile/test_campaign.py, read",
    )


def test_an_input_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    def read(path):
        while True:
            with suppress(Exception):  # what the time limit must get through
                sum(range(1000))

    monkeypatch.setattr(campaign, "SECONDS", 0.2)
    began = time.process_time()
    outcome, key, _ = try_one(target(read), b"x", tmp_path)
    assert outcome == "failed"
    assert key.startswith("took more than 0.2 s")
    assert time.process_time() - began < 2


def test_inputs_are_made_again_from_two_numbers():
    for index in range(40):
        first, second = make(3, index), make(3, index)
        assert first == second
    assert make(3, 1)[1] != make(4, 1)[1]


def test_everything_is_counted_whatever_happens_to_a_worker():
    """A worker that is killed by an input is replaced, and goes on behind it."""

    def die(path):
        if path.read_bytes()[0] < 16:  # one in sixteen
            os._exit(3)

    targets = (target(die, "deadly"), target(refuse, "refused"), target(lambda path: None, "good"))
    found = run(seed=5, inputs=60, workers=2, targets=targets)
    assert found.inputs == 60
    made = [make(5, index, targets) for index in range(60)]
    deadly = [data for each, data in made if each.name == "deadly" and data[0] < 16]
    assert deadly
    assert found.tallies["deadly"].failed == len(deadly)
    assert found.tallies["refused"].refused == sum(each.name == "refused" for each, _ in made)
    assert found.tallies["refused"].messages == {f"/{'refused'}/file_bin: is not good"}
    assert found.tallies["good"].accepted == sum(each.name == "good" for each, _ in made)
    (finding,) = found.findings
    assert finding.key == "the process ended with 3"
    assert make(5, finding.index, targets)[1] in deadly


def test_a_worker_cannot_take_more_memory_than_it_may():
    found = run(
        seed=1,
        inputs=1,
        targets=(target(lambda path: np.ones(campaign.MEMORY_BYTES // 4).sum()),),
    )
    (finding,) = found.findings
    assert finding.key.startswith("MemoryError in ")


def test_growth_is_measured():
    found = run(seed=1, inputs=2, targets=(target(lambda path: np.ones(1 << 24).sum()),))
    assert 1 << 26 < found.peak_bytes < 1 << 29
    assert not found.findings


def test_a_campaign_ends_in_time():
    began = time.monotonic()
    found = run(seed=1, seconds=1.5, targets=(target(lambda path: time.sleep(0.01)),))
    assert time.monotonic() - began < 10
    assert found.inputs > 5


def test_workers_end_with_their_campaign():
    """However it ends: nobody is left to stop them."""
    script = (
        "from bitwright.gen.hostile.campaign import run\n"
        "import os\n"
        "run(seed=1, workers=2, progress=lambda found: os._exit(9))"
    )
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        # The pipe is closed when the last of them has gone.
        assert process.communicate(timeout=60)[0] == b""
        assert process.returncode == 9
    assert time.monotonic() - started < 60


def test_findings_are_kept(tmp_path):
    found = campaign.Campaign(9, {}, [Finding(4, "own", "ValueError in x", "the traceback")])
    own = (target(refuse),)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    (path,) = keep(found, tmp_path / "out", own)
    assert path.read_bytes() == make(9, 4, own)[1]
    assert "seed 9, input 4" in path.with_name(path.name + ".txt").read_text()
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, path.name + ".txt"]


def test_every_target_reads_what_is_not_broken(tmp_path):
    """Each accepts some of what is made for it, and so does not refuse for a reason of its own."""
    for each in TARGETS:
        outcomes = [try_one(each, each.make(Random(seed)), tmp_path)[0] for seed in range(150)]
        assert "failed" not in outcomes
        if each.name != "precisions (TOML)":  # where one in a thousand is
            assert "accepted" in outcomes, each.name


def test_the_command_finds_nothing(tmp_path, monkeypatch, capsys):
    """A short campaign of all of them, another one every time, and its record."""
    monkeypatch.chdir(tmp_path)
    cases = tmp_path / command.CASES
    cases.mkdir(parents=True)
    (cases / "cases.toml").write_text('[[case]]\nfile = "x.toml"\nwas = "It was bad"\n')
    status = command.main(["--seconds", "8", "--workers", "2", "--record"])
    printed = capsys.readouterr().out
    assert status == 0, printed
    (made,) = read(tmp_path / "docs" / "verification")
    assert made.name == "hostile-files"
    assert made.findings == (f"It was bad (`{command.CASES}/x.toml`)",)
    assert [row[0] for row in made.rows] == [each.name for each in TARGETS]
    assert all(row[1] == row[2] + row[3] and row[5] == 0 for row in made.rows)
    assert sum(row[1] for row in made.rows) > 300, printed
    assert f"--inputs {sum(row[1] for row in made.rows)} --seed" in made.command
