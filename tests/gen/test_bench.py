"""The benchmark commands, on something small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def bench(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bitwright.gen.bench", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


def test_gemm(tmp_path: Path) -> None:
    done = bench("gemm", "--config", "tiny", "--size", "6x32x5", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["macs"] == 6 * 32 * 5
    assert result["peak_macs_per_cycle"] == 4
    assert result["utilisation"] == pytest.approx(result["macs"] / result["cycles"] / 4)
    assert result["mismatches"] == 0
    assert set(result["stalls"]) >= {"compute_wait_load", "compute_wait_drain"}


def test_mlp(tmp_path: Path) -> None:
    done = bench("mlp", "--config", "tiny", "--sizes", "16-8-4", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["macs"] == 16 * 8 + 8 * 4


@pytest.mark.parametrize("size", ["6x32", "0x1x1", "axbxc"])
def test_a_size_that_is_none(tmp_path: Path, size: str) -> None:
    done = bench("gemm", "--config", "tiny", "--size", size, cwd=tmp_path)
    assert done.returncode == 2
    assert size in done.stderr


@pytest.mark.parametrize("command", [[], ["gemm"], ["mlp"], ["pe"], ["precision"], ["planar"], ["area"]])
def test_help_shows_what_users_call(tmp_path: Path, command: list[str]) -> None:
    done = bench(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Usage: {' '.join(['scripts/bench', *command])} [OPTIONS]" in done.stdout


def test_precision(tmp_path: Path) -> None:
    options = ("--size", "8x64x8", "--simulator", "icarus", "--set", "cols=2", "--set", "precisions=['a8wb']")
    done = bench("precision", "--unit", "xnor", *options, "--json", "out.json", cwd=tmp_path)
    (record,) = json.loads((tmp_path / "out.json").read_text())
    # Waiting takes far more than 10 % of a product that small; that is said by the exit status, not hidden.
    assert done.returncode == 1, done.stderr
    assert record["precision"] == "a8wb"
    assert record["theoretical_beats"] == record["beats"] == 8 * 64 * 8 / (2 * 16)
    assert record["mismatches"] == 0
    assert record["overhead"] == pytest.approx(record["cycles"] / record["beats"] - 1)
    assert f"{record['cycles']:,}" in done.stdout


def test_planar(tmp_path: Path) -> None:
    options = ("--size", "4x64x16x8", "--simulator", "icarus", "--set", "cols=2", "--set", "lanes=32")
    done = bench("planar", "--unit", "stripes", *options, "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads((tmp_path / "out.json").read_text())
    assert [layer["precision"] for layer in record["layers"]] == ["a8w8", "a4w4"]
    assert record["stored_words"] == record["result_words"]
    assert record["mismatches"] == 0


def test_area(tmp_path: Path) -> None:
    small = ("cols=2", "lanes=16", "bus_bits=32", "activation_depth=16", "weight_depth=16", "output_depth=16")
    options = [item for key in small for item in ("--set", key)]
    done = bench(
        "area", "--unit", "xnor", "--precisions", "a4wb", *options, "--json", "out.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (record,) = json.loads((tmp_path / "out.json").read_text())
    assert (record["unit"], record["precisions"]) == ("xnor", ["a4wb"])
    assert min(record["lut"], record["ff"], record["bram"]) > 0
    assert f"{record['lut']:,}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["precision", "--unit", "stripe"], "--unit stripe: must be one of parallel"),
        (["precision", "--size", "8x8"], "--size 8x8: must be rows x terms x columns"),
        (["precision", "--unit", "bismo", "--set", "lanes=0"], "lanes = 0: must be from 1 to 256"),
        (["planar", "--unit", "xnor"], "--unit xnor: must be one of stripes, loom, bismo"),
        (["planar", "--size", "8x8x8"], "--size 8x8x8: must be four numbers"),
        (["area", "--unit", "nothing"], "--unit nothing: must be one of"),
        (["area", "--unit", "bismo", "--precisions", "a8w8,a4wb"], "precisions = 'a4wb': must be"),
    ],
)
def test_what_cannot_be_measured(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = bench(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split())


@pytest.mark.parametrize("command", ["precision", "planar", "area"])
def test_a_folder_that_is_not_there(tmp_path: Path, command: str) -> None:
    done = bench(command, "--json", "nowhere/out.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--json nowhere/out.json: there is no folder nowhere" in done.stderr


@pytest.mark.parametrize("command", ["gemm", "mlp"])
def test_a_file_that_cannot_be_written(tmp_path: Path, command: str) -> None:
    done = bench(command, "--config", "tiny", "--json", "nowhere/out.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--json nowhere/out.json: there is no folder nowhere" in done.stderr


def test_networks(tmp_path: Path) -> None:
    network = Path(__file__).parents[2] / "examples" / "digits_mlp" / "digits_mlp.onnx"
    done = bench("networks", network, "--config", "tiny", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads((tmp_path / "out.json").read_text())
    assert run["mismatches"] == 0
    assert run["engine"]["macs_per_cycle"] == {"a8w8": 4}
    assert [layer["macs"] for layer in run["layers"]] == [64 * 64, 64 * 32, 32 * 10]
    # A weight is used once.
    assert sum(layer["bytes_moved"] for layer in run["layers"]) > run["macs"]
    for layer in run["layers"]:
        assert set(layer["stalls"]) == {f"wait_{c}" for c in ("load", "store", "drain", "fetch", "words")}
        assert layer["utilisation"] == pytest.approx(layer["macs"] / layer["cycles"] / 4)
        assert layer["name"] in done.stdout
        assert f"{layer['words_loaded']:,.0f}" in done.stdout
