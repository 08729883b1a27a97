"""All or nothing."""

from pathlib import Path

import pytest

from bitwright.gen.output import staged
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


def test_optional_files_of_an_earlier_run_go(tmp_path):
    folder = tmp_path / "out"
    for names in (["a", "b"], ["a"]):
        with staged(folder, optional=["b"]) as stage:
            for name in names:
                (stage / name).write_text("")
    assert [path.name for path in folder.iterdir()] == ["a"]
