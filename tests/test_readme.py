"""Every command of the README's tutorial works as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the checkout to a user, whose build/ is its own."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def test_the_tutorial_shows_the_commands() -> None:
    assert COMMANDS[0] == "source .venv/bin/activate"
    shown = {command.split()[1] for command in COMMANDS[1:]}
    assert shown == {"config", "generate", "compile", "simulate", "synth"}


# One test, as each command builds on those before it.
def test_the_tutorial(folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in COMMANDS[1:]:
        done = subprocess.run(
            command, shell=True, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    files = {file.name for file in (folder / "build" / "tiny").iterdir()}
    assert {"engine.v", "engine.json", "program.npz", "outputs.npz", "report.json", "synth.json"} <= files
    assert "report.html" in files


def test_the_two_commands_exist() -> None:
    block = re.search(r"^## Two commands\n\n```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert block
    scripts = [line.split()[0] for line in block[1].splitlines()]
    assert scripts == ["scripts/demo", "scripts/test"]
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK)
