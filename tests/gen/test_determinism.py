"""The same input gives the same bytes, wherever and whenever; nothing that is written says where it was.

Commands run twice, in two places that differ in what a machine has of its own: the order of hashes, working
and output folder, home and temporary folder, time zone, locale, width of the terminal, rights of new files.
"""

import getpass
import json
import os
import platform
import socket
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import bitwright

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ROOT / "examples" / "digits_mlp" / "digits_mlp.onnx"
MAIN = "import sys; from bitwright.boards.cli import main; sys.argv[0] = 'bitwright'; main()"
SHIPPED = """
import hashlib, json
from bitwright.gen import config
from bitwright.gen.verilog import emit

engines = {name: config.load(name) for name in config.shipped()}
tiny = engines["tiny"]
engines |= {
    "wishbone": tiny.replace(bus="wishbone"),
    "bismo": tiny.replace(pe="bismo", lanes=32, precisions=("a4w4", "a2w2"), quantisers=("thresholds",),
        reduction=1024),
}
digests = {name: hashlib.sha256(emit(engine).encode()).hexdigest() for name, engine in engines.items()}
print(json.dumps(digests))
"""
TOML = """\
cols = 4
lanes = 4
reduction = 1024
precisions = ["a8w8", "a4w4"]
quantisers = ["requantise", "thresholds"]
target = "ice40"
"""


class Place:
    """Somewhere to run commands, with surroundings of its own."""

    def __init__(self, folder: Path, number: int):
        self.folder = folder
        self.work = folder / ("w" * (1 + 20 * number))
        self.home = folder / f"home{number}"
        self.out = folder / "out" if number else folder / "deep" / "er" / "ÖUT put"
        self.umask = 0o077 if number else 0o022
        for each in (self.work, self.home):
            each.mkdir(parents=True)
        (self.work / "mine.toml").write_text(TOML)
        package = str(Path(bitwright.__file__).parents[1])
        self.environment = {
            # Compiled YoWASP tools are kept where they are; they take half a minute to make.
            **{key: value for key, value in os.environ.items() if key.startswith(("YOWASP", "XDG_CACHE"))},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": package,
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "PYTHONHASHSEED": str(1 + number * 4711),
            "TZ": ("UTC", "Pacific/Kiritimati")[number],
            "LC_ALL": ("C", "C.UTF-8")[number],
            "PYTHONUTF8": "1",
            "COLUMNS": ("80", "300")[number],
        }

    def python(self, script: str, *arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            cwd=self.work,
            env=self.environment,
            umask=self.umask,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def written(self) -> dict[str, bytes]:
        """Every file under the output folder, by its path there."""
        return {
            str(path.relative_to(self.out)): path.read_bytes()
            for path in sorted(self.out.rglob("*"))
            if path.is_file()
        }


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Place]:
    """Both, with the files of `generate`, `compile` and `build`."""
    both = tuple(Place(tmp_path_factory.mktemp(f"place{number}"), number) for number in (0, 1))
    for place in both:
        # The configuration by its whole path in one, by a relative one in the other.
        mine = place.work / "mine.toml" if place is both[0] else "mine.toml"
        place.python(MAIN, "generate", mine, "--core", "engine", "-o", place.out / "generated")
        place.python(MAIN, "compile", mine, NETWORK, "-o", place.out / "compiled")
        place.python(
            MAIN,
            *("build", "icebreaker", NETWORK, "--board", "icebreaker", "--memory", "external"),
            *("-o", place.out / "built"),
        )
    return both


def test_the_same_bytes(places):
    first, second = (place.written() for place in places)
    assert set(first) == set(second)
    assert {
        *(f"generated/{name}" for name in ("engine.v", "engine.json", "engine.core", "engine_tb.v")),
        *(f"generated/{name}" for name in ("bitwright.h", "bitwright.c", "registers.md")),
        *("generated/engine_cells.v", "compiled/program.npz", "built/top.v", "built/build.json"),
    } <= set(first)
    assert [name for name in first if first[name] != second[name]] == []


def test_verilog_of_all_shipped_configurations(places):
    first, second = (json.loads(place.python(SHIPPED)) for place in places)
    assert first == second
    assert len(set(first.values())) == len(first) >= 6


def texts(content: bytes, name: str) -> list[bytes]:
    """What a file says: itself, or what is inside an archive."""
    if not name.endswith(".npz"):
        return [content]
    import io

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        times = {info.date_time for info in archive.infolist()}
        assert times == {(1980, 1, 1, 0, 0, 0)}
        found = [archive.read(info) for info in archive.infolist()]
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return [*found, str(file["meta"]).encode()]


def test_nothing_says_where_or_when(places):
    now = datetime.now(UTC)
    for place in places:
        private = {
            *map(str, (place.folder, place.work, place.home, place.out, ROOT, Path.home(), sys.prefix)),
            *(now.strftime(form) for form in ("%Y-%m-%d", "%d/%m/%Y", "%b %d", "%H:%M:")),
            *(socket.gethostname(), platform.release(), "/workspace/", "/tmp/", "/home/"),
        }
        if len(getpass.getuser()) > 4:
            private.add(getpass.getuser())
        for name, content in place.written().items():
            for text in texts(content, name):
                assert [each for each in private if len(each) > 4 and each.encode() in text] == [], name


def test_what_is_written_says_what_made_it(places):
    from importlib.metadata import version

    from bitwright.gen.toolchain import find_tool

    made = {name: version(name) for name in ("bitwright", "amaranth")} | {"yosys": find_tool("yosys").version}
    files = places[0].written()
    assert made.items() <= json.loads(files["generated/engine.json"])["versions"].items()
    assert json.loads(files["built/build.json"])["versions"] == made
    for name in ("generated/engine.v", "built/top.v"):
        lines = files[name].decode().splitlines()[:2]
        assert lines == [
            f"// Generated by Bitwright {made['bitwright']}: Verilog-2005.",
            f"// With Amaranth {made['amaranth']}, Yosys {made['yosys']}.",
        ]
    for name in ("bitwright.h", "registers.md"):
        assert f"Written by `bitwright generate` {made['bitwright']}" in files[f"generated/{name}"].decode()
    (meta,) = (text for text in texts(files["compiled/program.npz"], "x.npz") if text.startswith(b"{"))
    assert json.loads(meta)["versions"] == {name: version(name) for name in ("bitwright", "numpy")}


def test_places_differ(places):
    """The hashes of texts do; otherwise the tests above would show nothing."""
    orders = {place.python("print(list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}))") for place in places}
    assert len(orders) == 2
