"""Records and the page made of them: complete, the same every time, and up to date."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from bitwright.gen.record import METHODS, Record, RecordError, main, page, read, write

DOCS = Path(__file__).parents[2] / "docs"
FIELDS = {
    "name": "buses",
    "title": "Buses, both",
    "method": "proved",
    "claim": "No word is lost.",
    "command": "scripts/formal --record",
    "date": "2026-01-31",
    "seconds": 90.0,
    "versions": {"yosys": "0.60", "bitwright": "0.1.0"},
    "columns": ("part", "depth", "seconds"),
    "rows": (("a | b", 12345, 0.125), ("c", 7, 1234.56)),
}


def record(**changes):
    return Record(**(FIELDS | changes))


def test_a_record_is_read_as_it_was_written(tmp_path):
    written = record(findings=("Zähler: test_x",), not_covered=("time",))
    path = write(written, tmp_path / "docs" / "verification")
    assert path == tmp_path / "docs" / "verification" / "buses.json"
    assert read(path.parent) == [written]
    assert json.loads(path.read_text(encoding="utf-8"))["rows"][0] == ["a | b", 12345, 0.125]


def test_a_record_replaces_the_one_of_its_name_and_leaves_the_others(tmp_path):
    for each in (record(), record(name="other"), record(claim="None at all is lost.")):
        write(each, tmp_path)
    assert [each.claim for each in read(tmp_path)] == ["None at all is lost.", "No word is lost."]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["buses.json", "other.json"]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"name": "../buses"}, "name"),
        ({"method": "believed"}, "method"),
        ({"date": "31.1.2026"}, "date"),
        ({"seconds": -1}, "seconds"),
        ({"columns": ()}, "columns"),
        ({"rows": (("a", 1),)}, "row 0 has 2 cells for 3 columns"),
        ({"author": "me"}, "author"),
    ],
)
def test_what_is_no_record_is_refused(changes, place):
    with pytest.raises(ValidationError, match=place):
        record(**changes)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "buses.json").write_text("{}")
    with pytest.raises(RecordError, match=r"buses\.json: is not a record: name: Field required"):
        read(tmp_path)
    (tmp_path / "buses.json").write_bytes(b"\xff")
    with pytest.raises(RecordError, match=r"buses\.json: is not a record: the whole"):
        read(tmp_path)
    write(record(), tmp_path)
    (tmp_path / "buses.json").rename(tmp_path / "moved.json")
    with pytest.raises(RecordError, match=r"moved\.json: .*name is 'buses'"):
        read(tmp_path)


def test_the_page_has_everything_that_a_record_says():
    text = page([record(findings=("A word was lost: test_loss",), not_covered=("Two clocks.",))])
    assert "| proved | [Buses, both](#buses-both) | 1 | 1 | 90 s | 2026-01-31 |" in text
    assert "\n## Proved\n\nA solver found" in text
    assert (
        "\n### Buses, both\n\nNo word is lost.\n\n| part | depth | seconds |\n| --- | --- | --- |\n"
        "| a \\| b | 12 345 | 0.125 |\n| c | 7 | 1234.6 |\n\n"
        "Found by it, and mended:\n\n- A word was lost: test_loss\n\n"
        "`scripts/formal --record`: 90 s on 2026-01-31, with bitwright 0.1.0, yosys 0.60.\n"
    ) in text
    assert text.endswith("## Not covered\n\n[Buses, both](#buses-both):\n\n- Two clocks.\n")


def test_stages_come_strongest_first_in_whichever_order_records_do():
    records = [
        record(name=f"r{index}", title=f"R{index}", method=method) for index, method in enumerate(METHODS)
    ]
    text = page(records)
    assert page(reversed(records)) == text
    places = [text.index(f"\n## {method.capitalize()}\n") for method in METHODS]
    assert places == sorted(places)
    assert "Found by it" not in text
    assert "The records name no gaps." in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_durations(seconds, text):
    assert f"`scripts/formal --record`: {text} on" in page([record(seconds=seconds)])


def test_the_command_makes_the_page_and_sees_when_it_is_stale(tmp_path, capsys):
    write(record(), tmp_path / "verification")
    options = ["--docs", str(tmp_path)]
    assert main([*options, "--check"]) == 1
    assert main(options) == 0
    assert (tmp_path / "verification.md").read_text(encoding="utf-8") == page([record()])
    assert main([*options, "--check"]) == 0
    write(record(seconds=200), tmp_path / "verification")
    assert main([*options, "--check"]) == 1
    assert "is not what the records give" in capsys.readouterr().err
    (tmp_path / "verification" / "x.json").write_text("[")
    assert main(options) == 2
    assert "x.json: is not a record" in capsys.readouterr().err


def test_the_committed_page_is_up_to_date():
    assert main(["--docs", str(DOCS), "--check"]) == 0
