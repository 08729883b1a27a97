"""The price bench: what it measures, its figures, cache, files and comparison; the committed baseline."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bitwright.gen import pe_bench
from bitwright.gen.pe_bench import (
    Case,
    Record,
    cases,
    check_comparable,
    draw,
    load,
    measure,
    regressions,
    save,
)
from bitwright.gen.synthesis import TARGETS, Resources, SynthesisResult
from bitwright.hw.errors import BitwrightError
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.bismo import Bismo
from bitwright.hw.pe.contract import Precision, PriceCase
from bitwright.sim.tools import ToolError

Calls = list[tuple[str, int]]
BASELINE = Path(__file__).parents[2] / "gen" / "prices.json"


@dataclass(frozen=True, kw_only=True)
class Planes(Bismo):
    """A unit with one hardware in the table, for four precisions."""

    @classmethod
    def priced(cls) -> tuple[PriceCase, ...]:
        precisions = tuple(map(Precision.parse, ("au1wu1", "a2w2", "a4w4", "a8w8")))
        return (PriceCase(64, precisions, built=precisions),)


@dataclass(frozen=True, kw_only=True)
class Blocks(Bismo):
    """A unit that could use multiplier blocks."""

    name: ClassVar[str] = "blocks"

    multiplier: str = "rows"

    @classmethod
    def priced(cls) -> tuple[PriceCase, ...]:
        a2w2, a4w4 = map(Precision.parse, ("a2w2", "a4w4"))
        return PriceCase(8, (a2w2, a4w4)), PriceCase(16, (a2w2,), built=(a2w2, a4w4))

    @classmethod
    def variants(cls, *, dsp: bool) -> tuple[Mapping[str, Any], ...]:
        return ({"multiplier": "dsp"},) if dsp else ({"multiplier": "rows"}, {"multiplier": "tree"})


@pytest.fixture(autouse=True)
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe_bench, "UNITS", {"bismo": Planes, "blocks": Blocks})


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """No tools, and a cache of the test's own; a list of the devices and seeds that were synthesised for."""
    calls: Calls = []

    def synthesise(verilog: Path, top: str, device: str, workdir: Path, **options: Any) -> SynthesisResult:
        calls.append((device, options["seeds"]))
        available = TARGETS[device].available
        return SynthesisResult(
            target=device,
            used=Resources(lut=100, ff=50),
            available=available,
            fmax_mhz=(200.0, 240.0, 220.0)[: options["seeds"]],
            frequency_mhz=400,
            cells={},
            versions={"yosys": "1"},
        )

    monkeypatch.setattr(pe_bench, "synthesise", synthesise)
    monkeypatch.setattr(pe_bench, "versions", lambda names, **options: dict.fromkeys(names, "1"))
    monkeypatch.setattr(pe_bench, "harness_verilog", lambda spec, array: f"{spec} {array}")
    monkeypatch.setenv("BITWRIGHT_CACHE", str(tmp_path / "cache"))
    return calls


def described(found: list[Case]) -> list[tuple[Any, ...]]:
    """Lanes, precisions built for and priced, own parameters."""
    return [
        (
            case.spec.lanes,
            " ".join(map(str, case.spec.precisions)),
            " ".join(map(str, case.precisions)),
            *case.variant.values(),
        )
        for case in found
    ]


# What is measured


def test_cases_are_what_the_unit_declares() -> None:
    assert described(cases(["blocks"], targets=["ecp5"])) == [
        (8, "a2w2", "a2w2", "dsp"),
        (8, "a4w4", "a4w4", "dsp"),
        (16, "a2w2 a4w4", "a2w2", "dsp"),
    ]


def test_every_variant_on_every_target() -> None:
    found = cases(["blocks"], ["a4w4"])
    assert [(case.target, case.variant["multiplier"]) for case in found] == [
        ("ecp5", "dsp"),
        ("ecp5-nodsp", "rows"),
        ("ecp5-nodsp", "tree"),
        ("ice40", "rows"),
        ("ice40", "tree"),
    ]
    assert [case.spec.fabric for case in found] == ["ecp5", "ecp5", "ecp5", "ice40", "ice40"]
    assert {case.spec.fabric for case in cases(["blocks"], generic=True)} == {"generic"}
    assert {case.spec.reduction for case in found} == {pe_bench.REDUCTION}


def test_multiplier_blocks_only_for_who_uses_them() -> None:
    assert {case.target for case in cases(["bismo"])} == {"ecp5-nodsp", "ice40"}
    assert {case.target for case in cases(["bismo"], targets=["ecp5"])} == {"ecp5"}


def test_precisions_asked_for() -> None:
    # One of several that a hardware is priced at leaves the hardware as it is.
    assert described(cases(["bismo"], ["a4w4"], ["ice40"])) == [(64, "au1wu1 a2w2 a4w4 a8w8", "a4w4")]
    # One that is not in the table gets hardware of its own.
    assert described(cases(["bismo"], ["au3w5"], ["ice40"])) == [(64, "au3w5", "au3w5")]
    assert described(cases(["bismo"], ["a4w4"], ["ice40"], alone=True)) == [(64, "a4w4", "a4w4")]
    assert described(cases(["bismo"], ["a4w4", "abwb"], ["ice40"], lanes=8))[0][0] == 8


def test_a_width_for_all_makes_some_the_same() -> None:
    # The second hardware is for two precisions, so that it is another one.
    assert described(cases(["blocks"], targets=["ecp5"], lanes=32)) == [
        (32, "a2w2", "a2w2", "dsp"),
        (32, "a4w4", "a4w4", "dsp"),
        (32, "a2w2 a4w4", "a2w2", "dsp"),
    ]
    assert described(cases(["blocks"], targets=["ecp5"], lanes=32, alone=True)) == [
        (32, "a2w2", "a2w2", "dsp"),
        (32, "a4w4", "a4w4", "dsp"),
    ]


def test_one_hardware_has_all_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    a2w2, a4w4 = map(Precision.parse, ("a2w2", "a4w4"))
    priced = (PriceCase(8, (a2w2,), built=(a2w2, a4w4)), PriceCase(16, (a2w2, a4w4), built=(a2w2, a4w4)))
    monkeypatch.setattr(Blocks, "priced", lambda: priced)
    assert len(cases(["blocks"], targets=["ecp5"])) == 2
    assert described(cases(["blocks"], targets=["ecp5"], lanes=8)) == [(8, "a2w2 a4w4", "a2w2 a4w4", "dsp")]


def test_nothing_is_measured_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe_bench, "UNITS", UNITS)
    for lanes in (None, 32):
        found = [(case.spec, case.target) for case in cases(lanes=lanes)]
        assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": ["bismi"]}, "--unit bismi: must be one of bismo, blocks (did you mean bismo?)"),
        ({"units": ["zzz"]}, "--unit zzz: must be one of bismo, blocks"),
        ({"targets": ["ecp6"]}, "--target ecp6: must be one of ecp5, ecp5-nodsp, ice40 (did you mean ecp5?)"),
        ({"precisions": ["8x8"]}, "--precision: '8x8' is no precision"),
        (
            {"precisions": ["abwb"]},
            "no unit supports abwb:\n  bismo takes integers of 1 to 16 bits, signed or unsigned\n  blocks ta",
        ),
        (
            {"units": ["bismo"], "precisions": ["abwb", "a8wt"]},
            "bismo does not support abwb or a8wt; it takes integers of 1 to 16 bits, signed or unsigned",
        ),
        (
            {"units": ["bismo", "blocks"], "precisions": ["abwb"]},
            "bismo and blocks do not support abwb:\n  bismo takes integers",
        ),
        ({"lanes": 2}, "bismo: lanes = 2: must be at least 4"),
        ({"array": (0, 2)}, "--rows 0 --cols 2: must be at least 1"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BitwrightError, match=re.escape(message)):
        cases(**arguments)


def test_every_unit_can_be_priced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe_bench, "UNITS", UNITS)
    assert {case.spec.name for case in cases()} == set(UNITS)


# Figures


def test_record(tools: Calls) -> None:
    (record,) = measure(cases(["bismo"], ["a4w4"], ["ice40"], array=(2, 3)), seeds=3)
    assert (record.unit, record.precision, record.lanes, record.target) == ("bismo", "a4w4", 64, "ice40")
    assert (record.device, record.fabric, record.rows, record.cols) == ("ice40-hx8k", "ice40", 2, 3)
    assert record.built_for == ["au1wu1", "a2w2", "a4w4", "a8w8"]
    assert (record.beats, record.elements) == (16, 64)
    assert (record.lut, record.ff, record.dsp, record.bram) == (100, 50, 0, 0)
    assert record.fmax_mhz == [200, 240, 220]
    assert record.fmax_median_mhz == 220
    assert record.macs_per_cycle == 2 * 3 * 64 / 16
    assert record.lut_per_mac == pytest.approx(100 / 24, abs=1e-3)
    assert record.lut_per_binary_op == pytest.approx(100 / 24 / 32, abs=1e-4)
    assert record.gops == pytest.approx(2 * 24 * 220 / 1000)
    assert record.activation_signed
    assert not measure(cases(["bismo"], ["au1wu1"], ["ice40"]))[0].activation_signed


def test_one_hardware_many_precisions(tools: Calls) -> None:
    records = measure(cases(["bismo"], targets=["ice40"]), jobs=2)
    assert [record.precision for record in records] == ["au1wu1", "a2w2", "a4w4", "a8w8"]
    assert [record.macs_per_cycle for record in records] == [64, 16, 4, 1]
    assert len({record.lut_per_binary_op for record in records}) == 1
    assert tools == [("ice40-hx8k", 3)]


def test_multiplier_blocks_where_none_are_allowed(tools: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    synthesise = pe_bench.synthesise
    monkeypatch.setattr(
        pe_bench,
        "synthesise",
        lambda *args, **options: replace(synthesise(*args, **options), used=Resources(dsp=2)),
    )
    with pytest.raises(
        BitwrightError, match=r"bismo of 64 lanes, a4w4, ecp5-nodsp, .*has 2 multiplier blocks"
    ):
        measure(cases(["bismo"], ["a4w4"], ["ecp5-nodsp"]))


# Cache


def test_results_are_kept(tools: Calls) -> None:
    first = measure(cases(["bismo"], targets=["ice40"]))
    assert measure(cases(["bismo"], targets=["ice40"])) == first
    assert len(tools) == 1
    # Another number of seeds, another hardware or another device is another result.
    measure(cases(["bismo"], targets=["ice40"]), seeds=2)
    measure(cases(["bismo"], targets=["ice40"], lanes=32))
    measure(cases(["bismo"], targets=["ecp5"]))
    assert len(tools) == 4


def test_other_tools_are_asked_again(tools: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(cases(["bismo"], targets=["ice40"]))
    monkeypatch.setattr(pe_bench, "versions", lambda names, **options: dict.fromkeys(names, "2"))
    measure(cases(["bismo"], targets=["ice40"]))
    assert len(tools) == 2


def test_failures_are_not_kept(tools: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*args: Any, **options: Any) -> SynthesisResult:
        raise ToolError("oops")

    with monkeypatch.context() as patch:
        patch.setattr(pe_bench, "synthesise", fail)
        with pytest.raises(ToolError, match="oops"):
            measure(cases(["bismo"], targets=["ice40"]))
    synthesise = pe_bench.synthesise
    with monkeypatch.context() as patch:
        patch.setattr(
            pe_bench,
            "synthesise",
            lambda *args, **options: replace(synthesise(*args, **options), excess={"lut": 1}, fmax_mhz=()),
        )
        records = measure(cases(["bismo"], targets=["ice40"]))
    assert {record.gops for record in records} == {None}
    assert not list((tmp_path / "cache").rglob("*.json"))
    assert measure(cases(["bismo"], targets=["ice40"]))[0].fmax_mhz


def test_damaged_result_is_made_again(tools: Calls, tmp_path: Path) -> None:
    measure(cases(["bismo"], targets=["ice40"]))
    (kept,) = (tmp_path / "cache" / "synth").iterdir()
    kept.write_text("{")
    measure(cases(["bismo"], targets=["ice40"]))
    assert len(tools) == 2
    assert json.loads(kept.read_text())["lut"] == 100


# Files and comparison


@pytest.fixture
def records(tools: Calls) -> list[Record]:
    return measure(cases(["bismo"], targets=["ice40", "ecp5-nodsp"]))


def test_file(records: list[Record], tmp_path: Path) -> None:
    save(tmp_path / "prices.json", records)
    assert load(tmp_path / "prices.json") == records
    entry = json.loads((tmp_path / "prices.json").read_text())[0]
    assert set(entry) >= {"unit", "precision", "target", "lut", "ff", "dsp", "bram", "fmax_mhz", "gops"}
    with pytest.raises(BitwrightError, match=r"none\.json: cannot be read: No such file"):
        load(tmp_path / "none.json")
    with pytest.raises(BitwrightError, match=r"nowhere/prices\.json: cannot be written"):
        save(tmp_path / "nowhere" / "prices.json", records)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda entry: "{", "Invalid JSON"),
        (lambda entry: "\x80", "Invalid JSON"),
        (lambda entry: "[" * 100_000, "Invalid JSON"),
        (lambda entry: {"config": "base", "cycles": 1}, "Input should be a valid array"),
        (lambda entry: [entry, 1], "1: "),
        (lambda entry: [{"unit": "bismo"}], "0: precision: Field required"),
        (lambda entry: [entry | {"colour": 1}], "0: colour: "),
        (lambda entry: [entry | {"lut": "many"}], "0: lut: Input should be a valid integer"),
        (lambda entry: [entry | {"fmax_mhz": 200.0}], "0: fmax_mhz: "),
        (lambda entry: [entry | {"variant": {"outputs": [1]}}], "0: variant: "),
    ],
)
def test_a_file_of_another_kind(
    records: list[Record], change: Callable[[dict], Any], complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    made = change(json.loads(json.dumps(asdict(records[0]))))
    path.write_text(made if isinstance(made, str) else json.dumps(made), encoding="latin-1")
    with pytest.raises(BitwrightError) as caught:
        load(path)
    assert str(caught.value).startswith(
        f"{path}: is not what `scripts/bench pe --json` writes, a list of rec"
    )
    assert complaint in str(caught.value)


def test_a_record_of_a_target_that_is_no_more(records: list[Record]) -> None:
    gone = replace(records[0], target="ecp4", fabric="ecp4")
    assert regressions(records, [gone]) == ["bismo 64 lanes au1wu1 ecp4 ecp4: was not measured"]


@pytest.mark.parametrize(
    ("worse", "allowed", "text"),
    [
        ({"lut": 102}, {"lut": 101}, "lut was 100, is 102"),
        ({"ff": 53}, {"ff": 52}, "ff was 50, is 53"),
        ({"dsp": 1}, {"dsp": 0}, "dsp was 0, is 1"),
        ({"bram": 1}, {"lut": 50}, "bram was 0, is 1"),
        ({"fmax_mhz": [197.0]}, {"fmax_mhz": [199.0, 100.0, 300.0]}, "fmax_median_mhz was 220, is 197"),
        ({"fmax_mhz": []}, {"fmax_mhz": [900.0]}, "fmax_median_mhz was 220, and now it does not fit"),
        ({"macs_per_cycle": 3.0}, {"macs_per_cycle": 5.0}, "macs_per_cycle was 4, is 3"),
    ],
)
def test_regressions(records: list[Record], worse: dict, allowed: dict, text: str) -> None:
    a4w4 = [record for record in records if record.precision == "a4w4"]
    assert regressions(a4w4, a4w4) == []
    title = "bismo 64 lanes a4w4"
    found = regressions([replace(record, **worse) for record in a4w4], a4w4)
    assert found == [f"{title} ice40: {text}", f"{title} ecp5-nodsp: {text}"]
    assert regressions([replace(record, **allowed) for record in a4w4], a4w4) == []


def test_what_is_missing_is_a_regression(records: list[Record]) -> None:
    assert regressions(records, records[:1]) == []
    assert regressions(records[1:], records) == ["bismo 64 lanes au1wu1 ice40: was not measured"]


def test_nothing_to_compare(records: list[Record]) -> None:
    path = Path("old.json")
    check_comparable(cases(["bismo"], ["a4w4"], ["ice40"]), records, path)
    for chosen in (cases(["bismo"], targets=["ecp5"]), cases(["bismo"], lanes=32), cases(["blocks"])):
        with pytest.raises(
            BitwrightError,
            match=r"--check old\.json: nothing of it is among .*; it has targets ice40, ecp5-nodsp; fabrics "
            r"ice40, ecp5; units bismo; precisions au1wu1, a2w2, a4w4, a8w8",
        ):
            check_comparable(chosen, records, path)
    with pytest.raises(BitwrightError, match="it has no records"):
        check_comparable(cases(["bismo"]), [], path)


def test_keys_are_those_of_the_records(tools: Calls) -> None:
    for chosen in (cases(), cases(generic=True, lanes=8), cases(["blocks"], array=(2, 3), alone=True)):
        assert [key for case in chosen for key in case.keys] == [record.key for record in measure(chosen)]


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_plot(records: list[Record], suffix: str, start: bytes, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"prices.{suffix}"
    draw(path, [*records, replace(records[0], fmax_mhz=[], gops=None)])
    assert path.read_bytes().startswith(start)


def test_what_is_written_beside_points(records: list[Record], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import rc_context

    path = tmp_path / "prices.svg"
    # The second has the place of the first, the third is an array, the last is at a place of its own.
    first = records[0]
    shown = [
        first,
        replace(first, precision="abwb"),
        replace(first, rows=2, cols=3, lut_per_mac=9.0),
        records[3],
    ]
    with rc_context({"svg.fonttype": "none"}):
        draw(path, shown)
    texts = set(re.findall(r"<text[^>]*>([^<]+)</text>", path.read_text()))
    assert {"au1wu1 abwb (64)", "au1wu1 (2x3 of 64)", "a8w8 (64)", "bismo", "ice40, fabric ice40"} <= texts
    assert "at each point: precision (lanes)" in texts


def test_plot_errors(records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(BitwrightError, match=r"prices\.txt: must end in one of .*png.*svg"):
        draw(tmp_path / "prices.txt", records)
    with pytest.raises(BitwrightError, match=r"nowhere/prices\.svg: cannot be written"):
        draw(tmp_path / "nowhere" / "prices.svg", records)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BitwrightError, match=r"pip install 'bitwright\[plot\]'"):
        draw(tmp_path / "prices.svg", records)


# The command, with the tools


def bench(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bitwright.gen.bench", "pe", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


def test_a_small_part_of_the_baseline(tmp_path: Path) -> None:
    part = ("--unit", "bismo", "--target", "ecp5-nodsp")
    done = bench(*part, "--check", BASELINE, "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    records = load(tmp_path / "out.json")
    assert f"{len(records)} compared with" in done.stdout
    assert f"{records[0].lut_per_binary_op:.3f}" in done.stdout  # nothing is cut off

    # A baseline that was better; the second run finds everything in the cache.
    save(
        tmp_path / "better.json",
        [replace(record, lut=record.lut // 2, versions={"yosys": "0"}) for record in records],
    )
    done = bench(*part, "--precision", "a4w4", "--check", "better.json", cwd=tmp_path)
    assert done.returncode == 1
    assert f"lut was {records[0].lut // 2}, is {records[0].lut}" in done.stdout
    assert "2 compared with better.json, 0 not in it, 2 figures are worse" in done.stdout
    assert f"note: yosys was 0, is {records[0].versions['yosys']}" in done.stdout


def test_errors_of_the_command(tmp_path: Path) -> None:
    done = bench("--unit", "bismi", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--unit bismi: must be one of" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--json", "nowhere/out.json"), "--json nowhere/out.json: there is no folder nowhere"),
        (("--plot", "nowhere/out.svg"), "--plot nowhere/out.svg: there is no folder nowhere"),
        (("--json", "."), "--json .: is a folder; give the name of a file"),
        (("--plot", "out.txt"), "--plot out.txt: must end in one of"),
        (
            ("--target", "ecp5", "--check", BASELINE),
            "nothing of it is among what was asked to be measured; it has",
        ),
        (("--check", __file__), "is not what `scripts/bench pe --json` writes"),
    ],
)
def test_what_is_found_wrong_before_anything_is_measured(
    arguments: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    done = bench("--unit", "bismo", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Measuring" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_one_design_is_one(tools: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    measure(cases(["bismo"], targets=["ice40"]), progress=said.append)
    assert said[0] == "Measuring 1 design"
    measure(cases(["bismo"]), progress=said.append)
    assert "Measuring 2 designs" in said
