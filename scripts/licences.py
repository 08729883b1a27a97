"""Lists the licences of everything that Bitwright needs: ``python scripts/licences.py [--check]``.

What is needed is followed from pyproject.toml through the metadata of what is installed; the licences are
what the packages themselves say there. Made of that is docs/licences.md.
"""

import argparse
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"

HEADER = """\
# Licences of dependencies

<!-- Made by `python scripts/licences.py` from the packages' own metadata; do not edit. -->

Bitwright itself is licensed under Apache-2.0. It contains none of these packages: they are installed from
PyPI, in the versions of `requirements.lock`. A package that only other systems need is not listed.
"""


def needed(requirements: list[str]) -> list[str]:
    """Names of all packages that these need, themselves included, as far as they are for this system."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in found:
            continue
        found.add(key)
        for text in distribution(key[0]).requires or ():
            other = Requirement(text)
            extras = requirement.extras or {""}
            if other.marker is None or any(other.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(other)
    return sorted({name for name, _ in found})


def licence(name: str) -> str:
    """What a package says of its licence: an SPDX expression, a classifier, or a line of text."""
    metadata = distribution(name).metadata
    if expression := metadata.get("License-Expression"):
        return expression
    prefix = "License :: "
    classifiers = [
        text.split(" :: ")[-1] for text in metadata.get_all("Classifier", []) if text.startswith(prefix)
    ]
    named = [text for text in classifiers if text != "OSI Approved"]
    if named:
        return ", ".join(named)
    text = (metadata.get("License") or "").strip()
    if text and "\n" not in text and len(text) < 80 and text.upper() != "UNKNOWN":
        return text
    for file in distribution(name).files or ():
        if re.match(r"(licen[cs]e|copying)", file.name, re.IGNORECASE):
            lines = (
                line.strip() for line in Path(str(file.locate())).read_text(errors="replace").splitlines()
            )
            return (
                f"{next((line for line in lines if line), 'an empty file')} (first line of its {file.name})"
            )
    return "not stated in its metadata"


def page() -> str:
    """The whole page."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    running = needed(project["project"]["dependencies"])
    testing = [name for name in needed(project["dependency-groups"]["dev"]) if name not in running]
    parts = [HEADER]
    for title, names in (("To run it", running), ("To test it", testing)):
        rows = [f"| {name} | {licence(name).replace('|', '/')} |" for name in names]
        parts.append("\n".join([f"## {title}", "", "| package | licence |", "| --- | --- |", *rows, ""]))
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if it is stale")
    options = parser.parse_args()
    try:
        text = page()
    except PackageNotFoundError as error:
        print(f"{error.name} is not installed: scripts/setup", file=sys.stderr)
        return 2
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE} is stale: python scripts/licences.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
