"""Fixtures for every test."""

import shutil
import subprocess
from pathlib import Path

import pytest

LONG = "takes long, and shorter ones show most of what it does: run it with --long"
LONG_TESTS = Path(__file__).with_name("long.txt")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="Also run the tests that tests/long.txt names.")


def pytest_collection_modifyitems(config, items):
    """Skip what is long; a line of the list that names no test of its file is a mistake."""
    lines = LONG_TESTS.read_text(encoding="utf-8").splitlines()
    names = {line for line in lines if line and not line.startswith("#")}
    found = {item: {item.nodeid, item.nodeid.partition("[")[0]} for item in items}
    files = {item.nodeid.partition("::")[0] for item in items}
    stale = {name for name in names.difference(*found.values()) if name.partition("::")[0] in files}
    if stale and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(f"{LONG_TESTS.name} names no test: {', '.join(sorted(stale))}")
    if not config.getoption("--long"):
        for item in items:
            if found[item] & names:
                item.add_marker(pytest.mark.skip(reason=LONG))


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the reference networks, which are kept beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the reference networks (../shared/data) are not there")
    return SHARED_DATA


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory):
    """``compile_c(files, shared=False)``: C99 files by name, compiled with every warning an error."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")

    def compile_files(files, shared=False):
        folder = tmp_path_factory.mktemp("c")
        for name, text in files.items():
            (folder / name).write_text(text)
        options = ["-Wall", "-Wextra", "-Werror", "-std=c99", "-pedantic", "-O2"]
        options += ["-shared", "-fPIC"] if shared else ["-c"]
        sources = [name for name in files if name.endswith(".c")]
        done = subprocess.run(
            [compiler, *options, *sources, "-o", "compiled"], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return folder / "compiled"

    return compile_files
