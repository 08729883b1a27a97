"""Figures of the report."""

import numpy as np
import pytest

from bitwright.gen.report import accuracy, throughput


def test_accuracy_takes_the_greatest_output() -> None:
    outputs = np.array([[[1, 5, 2]], [[9, 0, 0]], [[0, 1, 2]], [[3, 2, 1]]])
    assert accuracy(outputs, np.array([1, 0, 1, 0])) == 0.75


def test_throughput() -> None:
    report = {"cycles_per_inference": 1000.0, "macs": 4000, "inferences": 2, "peak_macs_per_cycle": 16}
    speed = throughput(report, {"fmax_mhz": [90.0, 100.0, 140.0], "lut": 500})
    assert speed["fmax_mhz"] == 100
    assert speed["inferences_per_second"] == 100_000
    assert speed["gops"] == pytest.approx(2 * 2000 * 100_000 / 1e9)
    assert speed["peak_gops"] == pytest.approx(3.2)
    assert speed["gops_per_lut"] == pytest.approx(speed["gops"] / 500)


def test_no_clock_no_throughput() -> None:
    speed = throughput({"cycles_per_inference": 1.0}, {"fmax_mhz": [], "lut": 5})
    assert set(speed.values()) == {None}
