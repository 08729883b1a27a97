"""The whole flow on small designs, for every device."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from amaranth.back import verilog
from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from bitwright.gen import synthesis
from bitwright.gen.synthesis import TARGETS, Flow, SynthesisResult, check_target, synthesise
from bitwright.gen.toolchain import Finished, ToolTimeoutError, run_tool, verilog_environment
from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError, ConfigError
from bitwright.sim.tools import ToolError


class Counter(wiring.Component):
    o: Out(unsigned(16))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.o.eq(self.o + 1)
        return m


class Mixed(wiring.Component):
    """A memory with write enables that a counter reads, an 8x8 multiplier, an accumulator."""

    data: In(32)
    enable: In(4)
    o: Out(signed(24))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=unsigned(32), depth=256, init=[], attrs={"no_rw_check": 1}
        )
        write, read = memory.write_port(granularity=8), memory.read_port()
        address, word = Signal(8), Signal(32)
        product = Signal(signed(16))
        m.d.comb += [
            read.en.eq(1),
            read.addr.eq(address),
            write.addr.eq(~address),
            write.data.eq(self.data),
            write.en.eq(self.enable),
        ]
        m.d.sync += [
            address.eq(address + 1),
            word.eq(read.data),
            product.eq(word[:8].as_signed() * word[8:16].as_signed()),
            self.o.eq(self.o + product + word[16:]),
        ]
        return m


@pytest.fixture(scope="module")
def designs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("designs")
    with verilog_environment():
        for name, component in (("counter", Counter()), ("mixed", Mixed())):
            (folder / f"{name}.v").write_text(verilog.convert(component, name=name))
    return folder


@pytest.mark.parametrize("target", TARGETS)
def test_counter_on_every_device(target: str, designs: Path, tmp_path: Path) -> None:
    said: list[str] = []
    result = synthesise(
        designs / "counter.v", "counter", target, tmp_path / "out" / "synth", progress=said.append
    )
    assert result.fits
    assert result.timing_met
    assert result.excess == {}
    assert result.frequency_mhz == TARGETS[target].frequency_mhz
    assert result.used.ff == 16
    # Entering and leaving a carry chain takes some.
    assert 16 <= result.used.lut <= 24
    assert (result.used.dsp, result.used.bram, result.used.spram) == (0, 0, 0)
    assert len(result.fmax_mhz) == 1
    assert result.critical_path is not None
    assert (result.critical_path.start, result.critical_path.end) == ("o", "o")
    assert result.critical_path.delay_ns == pytest.approx(1000 / result.fmax_mhz[0], rel=0.05)
    assert any("placing and routing" in text for text in said)
    # Only what was made is there, and no temporary folder beside it.
    assert sorted(path.name for path in (tmp_path / "out" / "synth").iterdir()) == [
        "nextpnr-pack.log",
        "nextpnr-seed1.json",
        "nextpnr-seed1.log",
        "yosys.json",
        "yosys.log",
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["synth"]
    # What the table says that a device has is what nextpnr says.
    report = json.loads((tmp_path / "out" / "synth" / "nextpnr-seed1.json").read_text())
    available = {name: counts["available"] for name, counts in report["utilization"].items()}
    expected = TARGETS[target].available
    if target.startswith("ecp5"):
        names = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "bram": "DP16KD"}
    else:
        names = {
            "lut": "ICESTORM_LC",
            "ff": "ICESTORM_LC",
            "dsp": "ICESTORM_DSP",
            "bram": "ICESTORM_RAM",
            "spram": "ICESTORM_SPRAM",
        }
    for key, name in names.items():
        assert getattr(expected, key) == available.get(name, 0)


def test_ecp5_resources_and_seeds(designs: Path, tmp_path: Path) -> None:
    (tmp_path / "nextpnr-seed3.json").write_text("left by an earlier run")
    (tmp_path / "engine.v").write_text("somebody else's")
    result = synthesise(designs / "mixed.v", "mixed", "ecp5-25k", tmp_path, seeds=2)
    assert (result.used.dsp, result.used.bram) == (1, 1)
    # Adders and the counter, and some to enter and leave carry chains.
    assert 2 * 24 + 8 <= result.used.lut <= 110
    # The memory takes none beside its block, as it would to define what a collision reads.
    assert result.used.ff == 24 + 8 + 32 + 16
    assert len(result.fmax_mhz) == 2
    assert result.cells["MULT18X18D"] == 1
    assert set(result.versions) == {"yosys", "nextpnr-ecp5"}
    files = {path.name for path in tmp_path.iterdir()}
    assert {"nextpnr-seed1.json", "nextpnr-seed2.log", "engine.v"} <= files
    assert "nextpnr-seed3.json" not in files

    text = json.loads(json.dumps(result.as_json()))
    assert text["target"] == "ecp5-25k"
    assert (text["dsp"], text["bram"], text["spram"]) == (1, 1, 0)
    assert text["available"]["lut"] == 24288
    assert text["fits"] is True
    assert text["timing_met"] is True
    assert len(text["fmax_mhz"]) == 2
    assert set(text["critical_path"]) == {"from", "to", "delay_ns", "logic_ns", "routing_ns"}


def test_ice40_resources_and_impossible_clock(designs: Path, tmp_path: Path) -> None:
    result = synthesise(designs / "mixed.v", "mixed", "ice40-up5k", tmp_path, frequency=2000)
    assert result.fits
    assert not result.timing_met
    assert result.as_json()["frequency_mhz"] == 2000
    assert result.fmax_mhz[0] < 2000
    assert (result.used.dsp, result.used.bram, result.used.spram) == (1, 2, 0)
    assert result.used.ff == sum(count for name, count in result.cells.items() if name.startswith("SB_DFF"))


def test_ice40_without_ports_counts_as_with_them(designs: Path, tmp_path: Path) -> None:
    result = synthesise(designs / "mixed.v", "mixed", "ice40-hx8k", tmp_path)
    (tmp_path / "mixed.v").write_bytes((designs / "mixed.v").read_bytes())
    script = f"read_verilog mixed.v; {TARGETS['ice40-hx8k'].yosys} -top mixed -json with-ports.json"
    run_tool("yosys", ["-p", script], tmp_path)
    arguments = [*TARGETS["ice40-hx8k"].nextpnr, "--pcf-allow-unconstrained", "--json", "with-ports.json"]
    run_tool("nextpnr-ice40", [*arguments, "--report", "with-ports-report.json"], tmp_path)
    report = json.loads((tmp_path / "with-ports-report.json").read_text())["utilization"]
    assert report["SB_IO"]["used"] == 62
    assert report["ICESTORM_LC"]["used"] == result.used.lut


def test_too_many_multipliers(tmp_path: Path) -> None:
    products = "\n".join(
        f"always @(posedge clk) o[{i}] <= ^(a[{i} +: 16] * a[{i + 1} +: 16]);" for i in range(30)
    )
    path = tmp_path / "many.v"
    path.write_text(f"module many(input clk, input [63:0] a, output reg [29:0] o);\n{products}\nendmodule\n")
    result = synthesise(path, "many", "ecp5-25k", tmp_path / "synth", seeds=3)
    assert not result.fits
    assert not result.timing_met
    assert result.excess == {"dsp": 2}
    assert result.used.dsp == 30
    assert result.fmax_mhz == ()
    assert result.as_json()["fmax_mhz"] == []
    assert result.as_json()["critical_path"] is None
    assert (tmp_path / "synth" / "nextpnr-pack.log").is_file()


def replace_nextpnr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    """A nextpnr that packs, and when it has to place says this."""
    script = tmp_path / "nextpnr"
    script.write_text(
        f"""#!{sys.executable}
import pathlib, sys
arguments = sys.argv[1:]
if arguments == ["--version"]:
    print("(Version nextpnr-0.9)")
elif "--pack-only" in arguments:
    report = '{{"utilization": {{"ICESTORM_LC": {{"used": 18, "available": 5280}}}}}}'
    pathlib.Path(arguments[arguments.index("--report") + 1]).write_text(report)
else:
    pathlib.Path(arguments[arguments.index("-l") + 1]).write_text({f"Info: go{chr(10)}ERROR: {error}"!r})
    sys.exit(1)
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("NEXTPNR_ICE40", str(script))


@pytest.mark.parametrize(
    "error",
    [
        "Unable to find legal placement for all cells, design is probably at utilisation limit.",
        "Unable to place cell 'x', no BELs remaining to implement cell type 'ICESTORM_LC'",
        "Failed to place cell 'x' of type 'ICESTORM_LC'",
    ],
)
def test_no_legal_placement(
    error: str, designs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_nextpnr(tmp_path, monkeypatch, error)
    result = synthesise(designs / "counter.v", "counter", "ice40-up5k", tmp_path / "synth")
    assert not result.fits
    assert result.obstacle == error
    assert result.excess == {}
    assert result.used.ff == 16


def test_a_router_that_does_not_end_is_replaced(
    designs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def run(name: str, arguments: list[str], *more: Any, **options: Any) -> Finished:
        if "--seed" in arguments:
            started.append(arguments)
            if "--router" not in arguments:
                raise ToolTimeoutError("nextpnr did not finish")
        return run_tool(name, arguments, *more, **options)

    monkeypatch.setattr(synthesis, "run_tool", run)
    result = synthesise(designs / "counter.v", "counter", "ice40-up5k", tmp_path / "synth")
    assert len(result.fmax_mhz) == 1
    assert started[1] == [*started[0], "--router", "router2"]
    # That of ECP5 ends.
    with pytest.raises(ToolTimeoutError):
        synthesise(designs / "counter.v", "counter", "ecp5-25k", tmp_path / "synth")


def test_failure_leaves_nothing(designs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_nextpnr(tmp_path, monkeypatch, "Assertion failure: oops")
    with pytest.raises(
        ToolError, match=r"nextpnr-ice40 failed, seed 1 \(exit status 1\):\n(.*\n)*ERROR: Assertion failure"
    ):
        synthesise(designs / "counter.v", "counter", "ice40-up5k", tmp_path / "synth")
    assert [path.name for path in tmp_path.iterdir()] == ["nextpnr"]


def test_unknown_top_module(designs: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ToolError, match=r"yosys .* failed \(exit status 1\):\n(.*\n)*.*Module `nothing' not found"
    ):
        synthesise(designs / "counter.v", "nothing", "ice40-up5k", tmp_path / "synth")
    assert list(tmp_path.iterdir()) == []


def test_wrong_parameters(designs: Path, tmp_path: Path) -> None:
    source = designs / "counter.v"
    with pytest.raises(ConfigError, match="target = 'ecp6-1k': must be one of ecp5-85k, "):
        check_target("ecp6-1k")
    with pytest.raises(ConfigError, match="target"):
        synthesise(source, "counter", "ecp6-1k", tmp_path)
    with pytest.raises(ConfigError, match="seeds"):
        synthesise(source, "counter", "ecp5-25k", tmp_path, seeds=0)
    for frequency in (0, -5, float("nan")):
        with pytest.raises(ConfigError, match="frequency"):
            synthesise(source, "counter", "ecp5-25k", tmp_path, frequency=frequency)
    with pytest.raises(ConfigError, match="top"):
        synthesise(source, "a; shell", "ecp5-25k", tmp_path)
    with pytest.raises(BitwrightError, match=r"none\.v: No such file"):
        synthesise(tmp_path / "none.v", "counter", "ecp5-25k", tmp_path)


def test_timing_is_judged_by_the_median() -> None:
    def result(*clocks: float) -> SynthesisResult:
        target = TARGETS["ecp5-25k"]
        return SynthesisResult(
            target=target.name,
            used=target.available,
            available=target.available,
            fmax_mhz=clocks,
            frequency_mhz=100,
            cells={},
            versions={},
        )

    assert result(90, 101, 120).timing_met
    assert not result(90, 99, 120).timing_met
    assert not result(99.9).timing_met
    assert result().timing_met


def test_an_engine_of_another_family_is_refused():
    config = EngineConfig(cols=4, lanes=8, target="ecp5")
    assert check_target("ecp5-25k", config).family == "ecp5"
    with pytest.raises(
        ConfigError, match="generic or ice40 in the configuration, to be synthesised for ice40-hx8k"
    ):
        check_target("ice40-hx8k", config)


@pytest.mark.parametrize(
    ("target", "luts", "given", "expected"),
    [
        ("ecp5-85k", 20_000, None, (None, ["--router", "router2"])),
        ("ecp5-85k", 2_000, None, (30, [])),
        ("ecp5-85k", 20_000, 7, (7, ["--router", "router2"])),
        ("ice40-up5k", 20_000, None, (10, [])),
        ("ice40-up5k", 20_000, 15, (15, [])),
    ],
)
def test_tuning(target, luts, given, expected, tmp_path):
    packed = {"utilization": {"TRELLIS_COMB": {"used": luts, "available": 83640}}}
    (tmp_path / "packed.json").write_text(json.dumps(packed))
    flow = Flow(TARGETS[target], tmp_path, 100, 60, print, given)
    weight, router = expected
    placer = ["--placer", "static"] if weight is None else ["--placer-heap-timingweight", str(weight)]
    assert flow.tuning() == [*placer, *router]
