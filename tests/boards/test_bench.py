"""Benchmarks of boards."""

import numpy as np
import pytest
from typer.testing import CliRunner

from bitwright.boards import bench
from bitwright.sim import golden

MLP = ["examples/digits_mlp/digits_mlp.onnx", "--input", "examples/digits_mlp/test.npz"]


@pytest.fixture(autouse=True)
def _root(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)


def test_board():
    result = CliRunner().invoke(bench.app, ["board", *MLP, "--limit", "3"])
    assert result.exit_code == 0, result.output
    rows = dict(line.strip("│ ").split("│") for line in result.output.splitlines() if line.count("│") == 3)
    found = {key.strip(): value.strip() for key, value in rows.items()}
    assert (found["inferences"], found["wrong"]) == ("3", "0")
    assert 2000 < int(found["cycles of an inference"]) < 4000


def test_a_wrong_result_fails(monkeypatch):
    run = golden.run

    def one_off(graph, images):
        values = run(graph, images)
        return values | {graph.output: values[graph.output] + (np.arange(len(images)) == 1)[:, np.newaxis]}

    monkeypatch.setattr(golden, "run", one_off)
    result = CliRunner().invoke(bench.app, ["board", *MLP, "--limit", "3"])
    assert result.exit_code == 1
    assert "wrong" in result.output
