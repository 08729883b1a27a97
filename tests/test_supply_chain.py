"""What is installed is pinned, hashed, allowed by pyproject.toml, and its licence is listed."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DIRECT = [
    Requirement(text)
    for text in (
        *PROJECT["build-system"]["requires"],
        *PROJECT["project"]["dependencies"],
        *PROJECT["dependency-groups"]["dev"],
    )
]


def pins():
    """Blocks of requirements.lock, by the name of the package: its versions, and how many hashes each has."""
    text = (ROOT / "requirements.lock").read_text()
    found: dict[str, list[tuple[str, int]]] = {}
    for block in re.split(r"\n(?=\w)", text.split("\n", 1)[1]):
        name, pinned = re.match(r"([\w.-]+)==([^\s;]+)", block).groups()
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block)
        assert len(set(hashes)) == len(hashes)
        found.setdefault(canonicalize_name(name), []).append((pinned, len(hashes)))
    return found


def test_every_package_has_hashes():
    assert len(pins()) > 50
    assert [name for name, each in pins().items() if not all(count for _, count in each)] == []


def test_no_other_source():
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|^-e|^-i|--(extra-)?index|@ ", text, re.MULTILINE)
    assert "--require-hashes" in (ROOT / "scripts" / "setup").read_text()


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_what_is_asked_for_is_locked(requirement):
    locked = pins()[canonicalize_name(requirement.name)]
    assert all(requirement.specifier.contains(pinned) for pinned, _ in locked)


def test_every_requirement_has_a_lower_bound_and_a_reason():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for requirement in DIRECT:
        assert any(each.operator == ">=" for each in requirement.specifier), requirement
        if requirement.name != "setuptools":
            assert any(re.match(rf' +"{re.escape(requirement.name)}>=[^#]*# \w', line) for line in lines)


def test_licences_are_up_to_date():
    for name, locked in pins().items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue  # of another system
        if installed not in {pinned for pinned, _ in locked}:
            pytest.skip(f"{name} {installed} is not what is locked")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "licences.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_script_for_lowest_versions_is_there():
    script = ROOT / "scripts" / "test-lowest"
    assert os.access(script, os.X_OK)
    paths = re.findall(r"tests/[\w/.]+", script.read_text())
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
