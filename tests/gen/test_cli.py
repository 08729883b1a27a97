"""The command line: what it writes, what it prints, and how it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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


def test_compile(tmp_path: Path) -> None:
    done = bitwright("compile", "tiny", NETWORK, "--json", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["macs"] == 64 * 64 + 64 * 32 + 32 * 10
    with np.load(tmp_path / "out" / "program.npz", allow_pickle=False) as program:
        assert program["instructions"].shape == (summary["instructions"], 32)
        meta = json.loads(str(program["meta"]))
    assert meta["program_address"] < summary["memory_bytes"]


def test_simulate(tmp_path: Path) -> None:
    done = bitwright(
        "simulate", "tiny", NETWORK, "--input", IMAGES, "--limit", 3, "--json", "-o", "out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
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
    # A layer ends as its snapshot is taken. After the last one there is only that snapshot's way to memory: a
    # round of the counters to wait for, a round to copy, three cycles a word, and the memory's latency.
    layers = sum(layer["cycles"] for layer in report["layers"])
    assert 20 < report["cycles_per_inference"] - layers < 16 + 16 + 3 * 16 + 20 + 20
    assert all(layer["predicted_cycles"] > 0 for layer in report["layers"])
    with np.load(tmp_path / "out" / "outputs.npz", allow_pickle=False) as outputs:
        assert outputs["output"].shape == (3, 1, 10)
        assert len(outputs.files) >= 6


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
        (["generate", "bass"], ["bass", "base, small, tiny"]),
        (["generate", "broken.toml"], ["broken.toml", "TOML"]),
        (["generate", "tiny", "--set", "lanes=3"], ["lanes = 3"]),
        (["generate", "tiny", "--set", "colour=1"], ["colour", "cols"]),
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
        (["synth", "tiny", "--target", "virtex"], ["virtex", "ice40-up5k"]),
        (["run", "tiny", NETWORK, "--target", "virtex"], ["virtex", "ice40-up5k"]),
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


def test_a_tool_that_is_missing(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "NEXTPNR_ICE40": str(tmp_path / "nextpnr")}
    done = bitwright("synth", "tiny", "--target", "ice40-up5k", "-o", "out", cwd=tmp_path, env=environment)
    check_refused(done, tmp_path, "nextpnr")


def test_config(tmp_path: Path) -> None:
    schema = json.loads(bitwright("config", "--schema", cwd=tmp_path).stdout)
    assert "cols" in schema["properties"]
    listed = json.loads(bitwright("config", "--json", cwd=tmp_path).stdout)
    assert list(listed) == ["base", "small", "tiny"]
    one = json.loads(bitwright("config", "tiny", "--set", "rows=2", "--json", cwd=tmp_path).stdout)
    assert one["rows"] == 2
    assert bitwright("--version", cwd=tmp_path).stdout.startswith("bitwright 0.")
