"""The command line: what it writes, what it prints, and how it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitwright.gen.cli import show_layers
from bitwright.gen.driver import driver_files
from bitwright.hw.sched.registers import REGISTERS

ROOT = Path(__file__).parents[2]
NETWORK = ROOT / "examples" / "digits_mlp" / "digits_mlp.onnx"
IMAGES = ROOT / "examples" / "digits_mlp" / "test.npz"


def bitwright(
    *arguments: object, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from bitwright.gen.cli import main; main()"]
    return subprocess.run(
        [*program, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True, timeout=600
    )


def test_generate(tmp_path: Path) -> None:
    done = bitwright("generate", "tiny", "--json", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert manifest == json.loads((tmp_path / "out" / "engine.json").read_text())
    assert {register["name"] for register in manifest["registers"]} >= {
        register.name for register in REGISTERS
    }
    assert manifest["configuration"]["lanes"] == 4
    assert set(manifest["versions"]) >= {"bitwright", "amaranth"}
    assert (tmp_path / "out" / "engine.v").read_text().count("module bitwright(") == 1
    for name, text in driver_files().items():
        assert (tmp_path / "out" / name).read_text() == text


def test_compile(tmp_path: Path) -> None:
    done = bitwright("compile", "tiny", NETWORK, "--json", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["macs"] == 64 * 64 + 64 * 32 + 32 * 10
    assert [(layer["name"], layer["precision"]) for layer in summary["layers"]] == [
        (f"layer{index}/Gemm", "a8w8") for index in (1, 2, 3)
    ]
    with np.load(tmp_path / "out" / "program.npz", allow_pickle=False) as program:
        assert program["instructions"].shape == (summary["instructions"], 32)
        meta = json.loads(str(program["meta"]))
    assert meta["program_address"] < summary["memory_bytes"]


def test_simulate(tmp_path: Path) -> None:
    done = bitwright(
        "simulate", "tiny", NETWORK, "--input", IMAGES, "--limit", 3, "--json", "-o", "out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Simulated 3 inferences" not in done.stderr  # --json is silent
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["network"] == "digits_mlp"
    assert report["config"] == "tiny"
    assert report["inferences"] == 3
    assert report["tensors_compared"] == 9
    assert report["mismatches"] == 0
    assert report["accuracy"] in (0, 1 / 3, 2 / 3, 1)
    assert report["macs"] == 3 * 6464
    assert report["utilisation"] == pytest.approx(
        report["macs"] / report["cycles"] / report["peak_macs_per_cycle"]
    )
    assert report["busy"] == report["counters"]["compute_beats"] / report["cycles"]
    beats = sum(layer["busy"] * layer["cycles"] for layer in report["layers"])
    assert 3 * beats == pytest.approx(report["counters"]["compute_beats"])
    assert [layer["precision"] for layer in report["layers"]] == ["a8w8"] * 3
    # A layer ends as its snapshot is taken. After the last one there is only that snapshot's way to memory: a
    # round of the counters to wait for, a round to copy, three cycles a word, and the memory's latency.
    layers = sum(layer["cycles"] for layer in report["layers"])
    assert 20 < report["cycles_per_inference"] - layers < 16 + 16 + 3 * 16 + 20 + 20
    assert all(layer["predicted_cycles"] > 0 for layer in report["layers"])
    for key, counter in [
        ("words_loaded", "load_beats"),
        ("words_fetched", "fetch_beats"),
        ("granules_written", "results"),
    ]:
        total = sum(layer[key] for layer in report["layers"])
        assert 3 * total == pytest.approx(report["counters"][counter]) != 0
    for layer in report["layers"]:
        spent = layer["beats"] + sum(layer["stalls"].values()) + layer["other_cycles"]
        assert spent == pytest.approx(layer["cycles"], abs=16)  # counters of a snapshot are taken in turn
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "digits_mlp on tiny" in page
    assert all(f"{layer['name']}</th>" in page for layer in report["layers"])
    assert "first word after 20 cycles" in page
    with np.load(tmp_path / "out" / "outputs.npz", allow_pickle=False) as outputs:
        assert outputs["output"].shape == (3, 1, 10)
        assert len(outputs.files) >= 6


def test_tables_show_each_layers_precision(tmp_path: Path) -> None:
    engine = [
        "--set",
        "multiplier=lut",
        "--set",
        'precisions=["a8w8", "a4w4"]',
        "--precision",
        "layer2*=a4w4",
    ]
    mapped = bitwright("compile", "tiny", NETWORK, *engine, "-o", "out", cwd=tmp_path)
    run = bitwright(
        *("simulate", "tiny", NETWORK, *engine, "--limit", 1, "--simulator", "icarus", "-o", "out"),
        cwd=tmp_path,
    )
    for done in (mapped, run):
        assert done.returncode == 0, done.stderr
        layers = done.stdout.split("Words of the memory port")[0]
        found = [line.split()[1:4:2] for line in layers.splitlines() if "/Gemm" in line]
        assert found == [["layer1/Gemm", "a8w8"], ["layer2/Gemm", "a4w4"], ["layer3/Gemm", "a8w8"]]
    assert "busy" in run.stdout
    assert "running 1 inference\n" in run.stderr
    assert "inference 2 of 1" not in run.stderr
    assert "utilisation" in run.stdout
    for heading in ("off by", "fetched", "on chip", "waited for"):
        assert heading in run.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["precision_overrides"] == report["precision_effective"] == {"layer2/Gemm": "a4w4"}


def test_names_are_no_markup(make_report, capsys: pytest.CaptureFixture[str]) -> None:
    show_layers(make_report(["[/bold]", "[red]conv"])["layers"])
    shown = capsys.readouterr().out
    assert shown.count(" [/bold] ") == shown.count(" [red]conv ") == 2


def test_a_precision_that_the_engine_lacks_is_warned_of(tmp_path: Path) -> None:
    done = bitwright(
        *("compile", "tiny", NETWORK, "--precision", "layer1*=a4w4", "--json", "-o", "out"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (
        "warning: layer1/Gemm: asked for a4w4, the engine has a8w8 only: it runs at a8w8; "
        'add "a4w4" to precisions\n' in done.stderr
    )
    summary = json.loads(done.stdout)
    assert summary["precision_overrides"] == {"layer1/Gemm": "a4w4"}
    assert summary["precision_effective"] == {"layer1/Gemm": "a8w8"}


def test_what_was_simulated_is_what_was_asked(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.load(IMAGES)["input"][:1])
    quick = bitwright("simulate", "tiny", NETWORK, "--input", "x.npy", "--json", cwd=tmp_path)
    slow = bitwright(
        "simulate", "tiny", NETWORK, "--input", "x.npy", "--latency", 200, "--json", cwd=tmp_path
    )
    reports = [json.loads(done.stdout) for done in (quick, slow)]
    assert reports[1]["cycles"] > reports[0]["cycles"] + 180
    assert [report["mismatches"] for report in reports] == [0, 0]
    assert reports[0]["accuracy"] is None


@pytest.mark.parametrize("command", ["compile", "compare", "suggest"])
def test_help_names_the_formats(tmp_path: Path, command: str) -> None:
    assert "QONNX" in bitwright(command, "--help", cwd=tmp_path).stdout


def check_refused(done: subprocess.CompletedProcess[str], folder: Path, *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) > 10
    for word in words:
        assert word in done.stderr, done.stderr
    assert not (folder / "out").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".out")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "bass"], ["bass", "base, icebreaker, small, tiny"]),
        (["generate", "broken.toml"], ["broken.toml", "TOML"]),
        (["generate", "tiny", "--set", "lanes=3"], ["lanes = 3"]),
        (["generate", "tiny", "--set", "colour=1"], ["colour", "cols"]),
        (
            ["generate", "tiny", "--set", 'quantisers=["treshold"]'],
            ["error: tiny: quantisers = ['treshold']: must be some of requantise, thresholds, accumulators"],
        ),
        (["compile", "tiny", "missing.onnx"], ["missing.onnx", "no such file"]),
        (["compile", "tiny", "broken.toml"], ["broken.toml"]),
        (["compile", "tiny", "truncated.onnx"], ["truncated.onnx"]),
        (["compile", "tiny", "empty.tflite"], ["empty.tflite", "empty"]),
        (["simulate", "tiny", NETWORK, "--input", "missing.npy"], ["missing.npy", "no such file"]),
        (["simulate", "tiny", NETWORK, "--input", "broken.toml"], ["broken.toml"]),
        (["simulate", "tiny", NETWORK, "--input", "wrong.npy"], ["65"]),
        (["simulate", "tiny", NETWORK, "--input", "noinput.npz"], ["noinput.npz", "'input'", "other"]),
        (["simulate", "tiny", NETWORK, "--input", "labels.npz"], ["labels.npz", "3 labels for 2 inputs"]),
        (["simulate", "tiny", NETWORK, "--simulator", "modelsim"], ["modelsim", "verilator"]),
        (["generate", "tiny", "--core", "a b"], ["core = 'a b'", "letters, digits"]),
        (["generate", "tiny", "--set", "bus=ahb"], ["bus = 'ahb'", "axi", "wishbone"]),
        (["simulate", "tiny", NETWORK, "--netlist"], ["--netlist: goes with --target"]),
        (["simulate", "tiny", NETWORK, "--target", "ice40-up5k"], ["--target: goes with --netlist"]),
        (["simulate", "tiny", NETWORK, "--netlist", "--target", "virtex"], ["virtex", "ice40-up5k"]),
        (
            ["simulate", "tiny", NETWORK, "--netlist", "--target", "ice40-up5k", "--set", "target=ecp5"],
            ["target = 'ecp5'", "generic or ice40"],
        ),
        (["synth", "tiny", "--target", "virtex"], ["virtex", "ice40-up5k"]),
        (["run", "tiny", NETWORK, "--target", "virtex"], ["virtex", "ice40-up5k"]),
        (["suggest", "missing.onnx", "--target", "ecp5-25k"], ["missing.onnx", "no such file"]),
        (["suggest", NETWORK, "--target", "virtex"], ["virtex", "ice40-up5k"]),
        (["suggest", NETWORK, "--target", "ecp5-25k", "--rate", "0"], ["--rate 0", "above 0"]),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, arguments: list[object], words: list[str]) -> None:
    (tmp_path / "broken.toml").write_text("rows = [")
    (tmp_path / "truncated.onnx").write_bytes(NETWORK.read_bytes()[:5000])
    (tmp_path / "empty.tflite").write_bytes(b"")
    np.save(tmp_path / "wrong.npy", np.zeros((2, 65), np.float32))
    np.savez(tmp_path / "noinput.npz", other=np.zeros(3))
    np.savez(tmp_path / "labels.npz", input=np.zeros((2, 64), np.float32), label=np.zeros(3))
    check_refused(bitwright(*arguments, "-o", "out", cwd=tmp_path), tmp_path, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--target", "--no-synth"]),
        (["--target", "virtex"], ["virtex", "ice40-up5k"]),
        (["--no-synth", "--units", "bismoo"], ["bismoo", "did you mean bismo"]),
        (["--no-synth", "--lanes", "xnor=x"], ["--lanes xnor=x", "UNIT=N"]),
        (["--no-synth", "--lanes", "bismo=7"], ["--lanes bismo=7: bismo: cols = 8", "7 lanes"]),
        (["--no-synth", "--precision", "no=a4w4"], ["layer 'no'", "there are layer1/Gemm"]),
        (["--no-synth", "--precision", "*=a4"], ["*=a4", "no precision"]),
        (["--no-synth", "--set", "pe=xnor"], ["pe=xnor", "--units"]),
        (["--no-synth", "--json", "no/where.json"], ["--json", "there is no folder no"]),
        (["--no-synth", "--plot", "x.svg"], ["--plot", "--no-synth"]),
        (["--no-synth", "--input", "missing.npy"], ["missing.npy", "no such file"]),
    ],
)
def test_comparison_that_is_refused(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    check_refused(bitwright("compare", NETWORK, *arguments, cwd=tmp_path), tmp_path, *words)


def test_compare(tmp_path: Path) -> None:
    """Two units and one that cannot; the lanes of one are given."""
    done = bitwright(
        *("compare", NETWORK, "--no-synth", "--simulator", "icarus", "--input", IMAGES, "--count", 1),
        *("--units", "stripes,ternary,loom", "--lanes", "loom=32", "--json", "units.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "units.json").read_text())
    stripes, loom = found["results"]
    assert (stripes["unit"], stripes["config"]["lanes"]) == ("stripes", 8)
    assert (loom["unit"], loom["config"]["lanes"]) == ("loom", 32)
    assert loom["cycles"] > stripes["cycles"]
    assert "3 of 3" in done.stdout
    assert "ternary: cannot run it: node 'layer1/Gemm': weights -127..127" in done.stdout


def test_compare_at_fewer_bits(tmp_path: Path) -> None:
    done = bitwright(
        *("compare", NETWORK, "--no-synth", "--simulator", "icarus", "--input", IMAGES, "--count", 1),
        *("--units", "bitfusion,stripes", "--precision", "*=a4w4", "--json", "units.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "warning: digits_mlp.onnx is requantised after training (*=a4w4)" in done.stderr
    found = json.loads((tmp_path / "units.json").read_text())
    assert found["precision_overrides"] == {f"layer{index}/Gemm": "a4w4" for index in (1, 2, 3)}
    assert found["accuracy_as_given"] in (0, 1)
    assert ["a4w4" in result["config"]["precisions"] for result in found["results"]] == [True, True]
    assert [result["tensors_equal"] for result in found["results"]] == [3, 3]


def test_what_was_of_another_engine_goes(tmp_path: Path) -> None:
    assert bitwright("compile", "tiny", NETWORK, "-o", "out", cwd=tmp_path).returncode == 0
    same = bitwright("generate", "tiny", "-o", "out", cwd=tmp_path)
    assert "note" not in same.stderr
    assert (tmp_path / "out" / "program.npz").exists()
    other = bitwright("generate", "tiny", "--set", "lanes=8", "-o", "out", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert "note: removed from out what was of another engine: program.npz" in other.stderr
    assert not (tmp_path / "out" / "program.npz").exists()


def test_progress_loses_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    """Where no terminal is, counts are thinned out, and everything else is shown."""
    from bitwright.gen.cli import working

    said = [f"Looking at engines of {unit}" for unit in ("log2", "parallel")]
    said += ["Mapping layer1/Gemm", "Mapping layer2/Gemm", "First run, some 30 s"]
    with working(False) as say:
        for text in [*said, *(f"Simulating inference {i} of 9: cycle {7 * i}" for i in range(1, 9)), "end"]:
            say(text)
    shown = capsys.readouterr().err.splitlines()
    assert shown == [*said, "Simulating inference 1 of 9: cycle 7", "end"]


def test_macs_of_a_cycle_are_rounded(tmp_path: Path) -> None:
    done = bitwright(
        *("generate", "tiny", "--set", "pe=unpu", "--set", "lanes=8", "--set", "cols=2"),
        *("--set", 'precisions=["a8w8","a4w4"]', "-o", "out"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "1.778 at a8w8, 3.2 at a4w4" in done.stdout


def test_suggest(tmp_path: Path) -> None:
    done = bitwright(
        *("suggest", NETWORK, "--target", "ecp5-25k", "--rate", 5000, "-o", "mine.toml"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "mine.toml").read_text()
    assert text in done.stdout
    mapped = bitwright("compile", "mine.toml", NETWORK, "--json", "-o", "out", cwd=tmp_path)
    assert mapped.returncode == 0, mapped.stderr
    assert f"{json.loads(mapped.stdout)['predicted_cycles']:,} cycles" in text
    # Every unit is in the table, or has its reason below it.
    from bitwright.hw.pe import UNITS

    for unit in UNITS:
        assert f"│ {unit} " in done.stdout or f"\n{unit}: " in done.stdout
    none = bitwright(
        *("suggest", NETWORK, "--target", "ecp5-25k", "--luts", 500, "-o", "none.toml"), cwd=tmp_path
    )
    assert none.returncode == 1
    assert " LUT of 500" in none.stderr
    assert "bismo: does not fit: " in none.stderr
    assert not (tmp_path / "none.toml").exists()


def test_a_tool_that_is_missing(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "NEXTPNR_ICE40": str(tmp_path / "nextpnr")}
    # Elsewhere Yosys would first be compiled again, which takes a minute or two.
    environment["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    done = bitwright("synth", "tiny", "--target", "ice40-up5k", "-o", "out", cwd=tmp_path, env=environment)
    check_refused(done, tmp_path, "nextpnr")


def test_config(tmp_path: Path) -> None:
    schema = json.loads(bitwright("config", "--schema", cwd=tmp_path).stdout)
    assert "cols" in schema["properties"]
    listed = json.loads(bitwright("config", "--json", cwd=tmp_path).stdout)
    assert list(listed) == ["base", "icebreaker", "small", "tiny"]
    one = json.loads(bitwright("config", "tiny", "--set", "rows=2", "--json", cwd=tmp_path).stdout)
    assert one["rows"] == 2
    assert bitwright("--version", cwd=tmp_path).stdout.startswith("bitwright 0.")
