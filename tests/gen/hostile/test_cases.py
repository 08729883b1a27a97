"""Files that were a finding once, each with what becomes of it now: accepted, or refused helpfully."""

import re
import time
import tomllib
from pathlib import Path

import pytest

from bitwright.gen.hostile.campaign import SECONDS, try_one
from bitwright.gen.hostile.targets import TARGETS

FOLDER = Path(__file__).parent / "cases"
CASES = tomllib.loads((FOLDER / "cases.toml").read_text())["case"]
REFUSED = {
    "engine-long-text.toml": r"engine\.toml: channel_depth = 'x{100,200}…: must be",
    "engine-many-brackets.toml": r"engine\.toml: is not valid TOML",
    "engine-many-digits.toml": r"engine\.toml: is not valid TOML: Exceeds the limit",
    "inputs-of-16-tebibytes.npy": r"inputs\.npz: is not .* of numbers \(.* bytes, more than",
    "inputs-of-a-long-header.npz": r"inputs\.npz: is not .* of numbers \(a header of .* bytes, but only",
    "network-concatenates-a-shorter-shape.tflite": r"cannot join \(1, 4, 4\) to \(1, 4, 4, 4\) along axis 3",
    "program-config-is-a-list.npz": r"program '.*program\.npz': is not a program written by",
    "program-config-names-no-file.npz": r"program '.*program\.npz': .*loads_under_way = -inf",
    "program-header-that-no-tokenizer-ends.npz": r"program '.*program\.npz': is not a program",
    "program-scale-beyond-64-bits.npz": r"program '.*program\.npz': .*beyond all measure",
    "program-size-is-a-fraction.npz": r"program '.*program\.npz': .*should be a valid integer",
    "program-tail-is-null.npz": r"program '.*program\.npz': .*tail of HostPart",
}


def test_every_file_is_listed():
    assert sorted(case["file"] for case in CASES) == sorted(
        path.name for path in FOLDER.iterdir() if path.name != "cases.toml"
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"])
def test_case(case, tmp_path):
    (target,) = (target for target in TARGETS if target.name == case["target"])
    outcome, message, report = try_one(target, (FOLDER / case["file"]).read_bytes(), tmp_path)
    assert outcome != "failed", f"{message}\n{report}"
    expected = REFUSED.get(case["file"])
    assert outcome == ("accepted" if expected is None else "refused")
    if expected:
        assert re.search(expected, message), message


def test_a_pool_of_many_positions_is_mapped_quickly():
    from bitwright.gen.averages import in_two
    from bitwright.gen.importers import load

    graph = load(FOLDER / "network-large-pool.onnx")
    began = time.process_time()
    in_two(graph)
    assert time.process_time() - began < SECONDS / 2
