"""All or nothing."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from bitwright.gen import config as configs
from bitwright.gen.output import of_another_engine, staged
from bitwright.hw.errors import BitwrightError


def test_files_appear_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with staged(folder) as stage:
        (stage / "one").write_text("1")
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["one"]
    assert [path.name for path in folder.parent.iterdir()] == ["b"]


def test_what_was_there_is_replaced_or_stays(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "old").write_text("old")
    (folder / "kept").write_text("kept")
    with staged(folder) as stage:
        (stage / "sub").mkdir()
        (stage / "sub" / "new").write_text("new")
    assert sorted(path.name for path in folder.rglob("*")) == ["kept", "new", "sub"]


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        with staged(folder) as stage:
            (stage / "one").write_text("1")
            raise BitwrightError("no")

    with pytest.raises(BitwrightError, match="no"):
        fail(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def use(folder: Path) -> None:
        with staged(folder):
            pass

    with pytest.raises(BitwrightError, match="is not a folder"):
        use(tmp_path / "file")
    with pytest.raises(BitwrightError, match="cannot be written"):
        use(tmp_path / "file" / "below")


def test_what_belongs_to_another_engine(tmp_path):
    tiny, wider = configs.load("tiny"), configs.load("tiny", ["lanes=8"])
    assert of_another_engine(tmp_path / "none", tiny) == []
    meta = json.dumps({"config": asdict(tiny)})
    np.savez(tmp_path / "program.npz", meta=np.array(meta))
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "report.html").write_text("")
    (tmp_path / "mine.txt").write_text("")
    assert of_another_engine(tmp_path, tiny) == []
    assert of_another_engine(tmp_path, wider) == ["program.npz", "report.json", "report.html"]
    (tmp_path / "engine.json").write_text(json.dumps({"configuration": asdict(wider)}))
    (tmp_path / "synth").mkdir()
    assert of_another_engine(tmp_path, wider) == ["program.npz", "report.json", "report.html"]
    assert of_another_engine(tmp_path, tiny) == ["engine.json", "synth", "report.json", "report.html"]
    # What does not say whose it is stays.
    (tmp_path / "engine.json").write_text("[1")
    np.savez(tmp_path / "program.npz", other=np.zeros(1))
    assert of_another_engine(tmp_path, tiny) == []


def test_optional_folders_of_an_earlier_run_go(tmp_path):
    (tmp_path / "synth").mkdir()
    (tmp_path / "synth" / "log").write_text("")
    with staged(tmp_path, optional=["synth"]):
        pass
    assert list(tmp_path.iterdir()) == []


def test_optional_files_of_an_earlier_run_go(tmp_path):
    folder = tmp_path / "out"
    for names in (["a", "b"], ["a"]):
        with staged(folder, optional=["b"]) as stage:
            for name in names:
                (stage / name).write_text("")
    assert [path.name for path in folder.iterdir()] == ["a"]
