"""The record of what was tried: results of long runs, and the page made of them.

A run that takes too long for every change writes a :class:`Record` to `docs/verification/`; these files are
committed. ``python -m bitwright.gen.record`` makes `docs/verification.md` of them, so that every figure on
that page is one that a program printed.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, Field, ValidationError, model_validator

from bitwright.hw.errors import BitwrightError, printable

from .output import staged

__all__ = ["METHODS", "Record", "RecordError", "page", "read", "write"]

Method = Literal["proved", "simulated", "fuzzed", "mutated", "checked"]

METHODS: dict[Method, str] = {
    "proved": "A solver found that it holds for every input, within the bounds that the claim names.",
    "simulated": "It held in the runs that are counted here, on the Verilog that a user gets.",
    "fuzzed": "Random inputs, many of them broken on purpose, all ended as they should.",
    "mutated": "The design was broken on purpose, and the tests noticed; so the tests can fail.",
    "checked": "A program compared or listed it; nothing was run at random.",
}
"""The stages, strongest first, and what each one means."""

_FOLDER = "verification"
_PAGE = "verification.md"
_GROUPED = 10_000
"""Whole numbers from here on have their digits in groups of three."""


class RecordError(BitwrightError):
    """A file in the folder of records that is not one.

    Parameters
    ----------
    path
        The file.
    reason
        What is wrong with it.
    """

    def __init__(self, path: Path, reason: str):
        self.path = path
        super().__init__(f"{path}: is not a record: {printable(reason)}")


class Record(BaseModel, extra="forbid", frozen=True):
    """What one run showed, and how to run it again.

    Parameters
    ----------
    name
        Stem of its file: small letters, digits and hyphens.
    title
        Heading of its section.
    method
        Which stage it belongs to; one of :data:`METHODS`.
    claim
        One paragraph: what is shown, and within which bounds.
    command
        What runs it again, from the root of a clone.
    date
        Of the run, as YYYY-MM-DD.
    seconds
        How long it took, by the clock on the wall.
    versions
        Of every program that took part, by name.
    columns, rows
        The results, a cell for each column in every row.
    findings
        Each real fault that was found by it, with the test that keeps it from coming back.
    not_covered
        What this does not show.
    """

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    title: str = Field(min_length=1)
    method: Method
    claim: str = Field(min_length=1)
    command: str = Field(min_length=1)
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    seconds: float = Field(ge=0)
    versions: dict[str, str]
    columns: tuple[str, ...] = Field(min_length=1)
    rows: tuple[tuple[str | int | float, ...], ...]
    findings: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} has {len(row)} cells for {len(self.columns)} columns")
        return self


def write(record: Record, folder: Path) -> Path:
    """Write a record to a folder, in place of the one of that name; the file's path.

    Parameters
    ----------
    record
        What to write.
    folder
        `docs/verification` of a clone; made where it is missing.

    Raises
    ------
    BitwrightError
        The folder cannot be written.
    """
    name = f"{record.name}.json"
    with staged(folder) as stage:
        (stage / name).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder / name


def read(folder: Path) -> list[Record]:
    """Every record of a folder, by stage and name; none where there is no such folder.

    Parameters
    ----------
    folder
        As for :func:`write`.

    Raises
    ------
    RecordError
        A file there is not a record, or has another one's name.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = Record.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the whole"
            raise RecordError(path, f"{place}: {first['msg']}") from None
        except OSError as error:
            raise RecordError(path, f"it cannot be read: {error.strerror}") from None
        if record.name != path.stem:
            raise RecordError(path, f"it says that its name is {record.name!r}")
        found.append(record)
    stages = list(METHODS)
    return sorted(found, key=lambda record: (stages.index(record.method), record.name))


def page(records: Iterable[Record]) -> str:
    """`docs/verification.md`: a summary, each stage with its records, and what they do not cover.

    The same records give the same page, in whichever order they come.

    Parameters
    ----------
    records
        What it is made of.
    """
    # Markdown has no use for HTML's escapes; what would end a table's cell is escaped by `cell`.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"cell": _cell, "duration": _duration, "anchor": _anchor}
    ordered = sorted(records, key=lambda record: record.name)
    stages = {
        method: [record for record in ordered if record.method == method]
        for method in METHODS
        if any(record.method == method for record in ordered)
    }
    template = environment.get_template(f"{_PAGE}.jinja")
    return template.render(
        stages=stages,
        meanings=METHODS,
        gaps=[record for records in stages.values() for record in records if record.not_covered],
    )


def _cell(value: str | int | float) -> str:
    """A value in a cell of a Markdown table."""
    if isinstance(value, str):
        return " ".join(value.split()).replace("|", "\\|")
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"
    return f"{int(value):,}".replace(",", " ") if abs(value) >= _GROUPED else str(int(value))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _anchor(title: str) -> str:
    """What a heading is linked to by, as code hosts make it: no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the page, or check that it is up to date: exit status 1 if it is not, 2 if a record is broken.

    Parameters
    ----------
    arguments
        Of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m bitwright.gen.record", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if it is stale")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page; docs by default")
    options = parser.parse_args(arguments)
    path = options.docs / _PAGE
    try:
        text = page(read(options.docs / _FOLDER))
        if options.check:
            if path.is_file() and path.read_text(encoding="utf-8") == text:
                return 0
            print(f"{path} is not what the records give: python -m bitwright.gen.record", file=sys.stderr)
            return 1
        with staged(options.docs) as stage:
            (stage / _PAGE).write_text(text, encoding="utf-8")
    except BitwrightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
