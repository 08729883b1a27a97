"""What docs/units.md shows works as it stands there: a unit by itself, a proof, your own unit, tables."""

import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

from bitwright.hw.pe import UNITS
from bitwright.hw.pe.contract import DotProduct, Precision
from bitwright.hw.reduce.carry import FABRICS

# Ruff takes a module for the project's own where it finds its file; that of the example is not there.
FIRST_PARTY = {"check": ["--config", 'lint.isort.known-first-party=["bitwright"]'], "format": []}

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "units.md"
TEXT = DOCUMENT.read_text()


def block(marker: str) -> str:
    """The one Python block that has this in it."""
    blocks = re.findall(r"^( *)```python\n(.*?)^\1```$", TEXT, re.DOTALL | re.MULTILINE)
    (source,) = [dedent(code) for _, code in blocks if marker in code]
    return source


def module(name: str, source: str) -> ModuleType:
    made = ModuleType(name)
    made.__package__ = name.rpartition(".")[0]
    exec(compile(source, str(DOCUMENT), "exec"), made.__dict__)
    return made


def table(heading: str) -> list[dict[str, str]]:
    """Rows of the table whose first line begins like that."""
    found = re.search(rf"^ *{re.escape(heading)}.*\n(?: *\|.*\n)+", TEXT, re.MULTILINE)
    assert found
    lines = [line.strip().strip("|") for line in found[0].splitlines()]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


@pytest.fixture
def binary(monkeypatch: pytest.MonkeyPatch) -> type[DotProduct]:
    name = "bitwright.hw.pe.binary"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    made = module(name, block("class Binary(DotProduct)"))
    monkeypatch.setitem(sys.modules, name, made)
    return made.Binary


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("lanes", [1, 2, 5, 8])
def test_a_unit_of_your_own_with_its_test(lanes, fabric, exercise, binary):
    tests = module("test_binary", block("def test_every_precision"))
    assert tests.Binary is binary
    tests.test_every_precision(lanes, fabric, exercise)


@pytest.mark.parametrize(
    ("file", "marker"),
    [
        ("hw/pe/binary.py", "class Binary(DotProduct)"),
        ("tests/hw/pe/test_binary.py", "def test_every_precision"),
    ],
)
def test_the_linter_has_nothing_to_say(file, marker):
    source = block(marker)
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", file, *FIRST_PARTY[command[0]], "-"],
            cwd=ROOT,
            input=source,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_list_is_named():
    """Those whose tests fail without a case of every unit."""
    named = {(row["list"].strip("`"), row["file"].strip("`")) for row in table("| list | file |")}
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        if re.search(r"^def test_every_unit_is_here", path.read_text(), re.MULTILINE):
            (name,) = re.findall(
                r"assert .*\b(SMALL|CASES|CONFIGS|MUTATED)\b.* == set\(UNITS\)", path.read_text()
            )
            imported = re.search(
                rf"^from bitwright\.([\w.]+) import (?:.*, )?{name}\b", path.read_text(), re.MULTILINE
            )
            file = f"{imported[1].replace('.', '/')}.py" if imported else str(path.relative_to(ROOT))
            found.add((name, file))
    assert named == found


def test_one_unit_by_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module("one_unit", block("simulator.run()"))
    said = re.fullmatch(r"24 beats, \d+ cycles later (-?\d+); numpy says (-?\d+)\n", capsys.readouterr().out)
    assert said
    assert said[1] == said[2] != "0"
    assert re.search(r"^module dot8\(", (tmp_path / "build" / "dot8.v").read_text(), re.MULTILINE)


# Those of several outputs have them in turn.
OTHERS = [
    ("parallel", "a4w2", "lanes=4"),
    ("xnor", "a4wb", "lanes=4"),
    ("unpu", "a4w2", "lanes=5, outputs=1"),
]


@pytest.mark.parametrize(("name", "precision", "parameters"), OTHERS)
def test_any_other_unit_by_itself(name, precision, parameters, tmp_path, monkeypatch, capsys):
    source = block("simulator.run()").replace('UNITS["bismo"](lanes=8', f'UNITS["{name}"]({parameters}')
    source = source.replace('"a4w2"', f'"{precision}"')
    assert name in source
    monkeypatch.chdir(tmp_path)
    module("one_unit", source)
    said = re.search(r"later (-?\d+); numpy says (-?\d+)\n", capsys.readouterr().out)
    assert said
    assert said[1] == said[2]


def test_the_proof(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module("proof", block("prove(unit, "))
    assert capsys.readouterr().out == "bismo of 4 lanes at a2w2: proved\n"
    assert not list(tmp_path.iterdir())


def test_names_of_precisions():
    rows = table("| name | an activation is |")
    assert len(rows) == 6
    for row in rows:
        precision = Precision.parse(row["name"].strip("`"))
        for format, text in zip(precision, (row["an activation is"], row["a weight is"]), strict=True):
            numbers = [int(number) for number in re.findall(r"(?<!\w)[-+]?\d+", text.split("(")[0])]
            assert (min(numbers), max(numbers)) == (format.min, format.max)


def test_prices_to_choose_by_are_those_measured():
    baseline = json.loads((ROOT / "gen" / "prices.json").read_text())
    compared = 0
    for row in table("| `pe` | lanes |"):
        name = re.findall(r"`(\w+)`", row["`pe`"])[0]
        for column, precision in (*((p, p) for p in ("a8w8", "a4w4", "a2w2")), ("1x1", "au1wu1")):
            if name == "xnor" and column == "1x1":
                precision = "abwb"
            lanes = next(
                (n for n, p in re.findall(r"(\d+) at (\w+)", row["lanes"]) if p == precision),
                row["lanes"].split(";")[0],
            )
            found = {
                record["lut_per_mac"]
                for record in baseline
                if (record["unit"], record["precision"], record["target"]) == (name, precision, "ecp5-nodsp")
                and record["lanes"] == int(lanes)
                and record["rows"] == 0
                and record["variant"].get("outputs", 16) == 16
                and (record["built_for"] == [precision] or len(record["built_for"]) > 1)
            }
            if row[column] == "–":
                assert not found, (name, precision)
            else:
                assert {f"{price:.2f}" for price in found} == {row[column]}
                compared += 1
    assert compared == 22


def test_the_tables_have_every_unit():
    section = TEXT[TEXT.index("## The ten units") : TEXT.index("## Which one to choose")]
    for heading in ("| `pe` | operands |", "| `pe` | idea |"):
        assert heading in section
        assert {name for row in table(heading) for name in re.findall(r"\w+", row["`pe`"])} == set(UNITS)
