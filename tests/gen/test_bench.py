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
