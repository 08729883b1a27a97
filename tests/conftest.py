"""Fixtures for every test."""

import shutil
import subprocess
from pathlib import Path

import pytest

LONG = "takes long, and shorter ones show much of what it does: run it with --long"


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="Also run tests that take minutes each.")


def pytest_configure(config):
    config.addinivalue_line("markers", f"long: {LONG}")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
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
