import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

from bitwright.sim import rtl
from bitwright.sim.rtl import compile_bench, run_bench

HERE = Path(__file__).parent
SOURCE = Path(rtl.__file__).parent / "verilog" / "axi_memory.v"
BASE = 0x4000_0000
WORDS = 4_609  # not a power of two, and not whole pages

needs_icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")


@pytest.fixture(scope="session")
def bench_of():
    """Compiles the memory alone; all its signals can be reached."""
    made = {}

    def make(simulator, bus_bits):
        if (simulator, bus_bits) not in made:
            text = SOURCE.read_text()
            for name, value in {"DATA_BITS": bus_bits, "DEPTH": 8192}.items():
                head, _, tail = text.partition(f"{name} ")
                rest = tail.partition(",")[2]
                text = f"{head}{name} = {value},{rest}"
            text = "/*verilator public_flat_rw_on*/\n" + text
            made[simulator, bus_bits] = compile_bench({"axi_memory.v": text}, "axi_memory", simulator)
        return made[simulator, bus_bits]

    return make


SIMULATORS = ("verilator", pytest.param("icarus", marks=needs_icarus))


def run(bench, folder, bus_bits, tests, *, pauses=0.0, count=20, **options):
    plusargs = {"latency": 20, "seed": 5} | options
    image = random.Random(3).randbytes(64 * bus_bits // 8)
    (folder / "image.hex").write_text(
        "\n".join(image[at : at + bus_bits // 8][::-1].hex() for at in range(0, len(image), bus_bits // 8))
    )
    setting = {
        "bus_bits": bus_bits,
        "base": BASE,
        "words": WORDS,
        "latency": plusargs["latency"],
        "write_latency": plusargs.get("write_latency", plusargs["latency"]),
        "seed": plusargs["seed"],
        "pauses": pauses,
        "count": count,
        "image": image.hex(),
    }
    return run_bench(
        bench,
        "axi_memory_bench",
        folder,
        plusargs=[f"+{key}={value}" for key, value in plusargs.items()]
        + [f"+base={BASE:x}", f"+words={WORDS}", "+image=image.hex"],
        environment={
            "BENCH": json.dumps(setting),
            "COCOTB_TEST_FILTER": tests,
            "PYTHONWARNINGS": "ignore::DeprecationWarning",  # cocotbext-axi uses what cocotb 2 will drop
            "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
        },
    )


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("bus_bits", [64, 32, 128])
def test_idle(bench_of, tmp_path, simulator, bus_bits):
    if simulator == "verilator" and bus_bits != 64:
        pytest.skip("other widths are tried with Icarus, which compiles faster")
    tests = "master_|hand_(outstanding|violations|hazards)"
    log = run(bench_of(simulator, bus_bits), tmp_path, bus_bits, tests).read_text()
    for reason in (
        "burst crosses 4 KiB",
        "burst type is not INCR",
        "size of a beat is not the width of the bus",
        "WLAST is not at the last beat",
        "more write data than addresses",
    ):
        assert f": {reason}\n" in log


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("latency", [2, 77])
def test_latency(bench_of, tmp_path, simulator, latency):
    run(
        bench_of(simulator, 64),
        tmp_path,
        64,
        "latency|throughput",
        latency=latency,
        write_latency=latency + 5,
    )


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize(("stall", "extra", "pauses"), [(0, 0, 0.5), (100, 0, 0), (200, 30, 0.3)])
def test_stalls(bench_of, tmp_path, simulator, stall, extra, pauses):
    options = {"stall": stall, "extra": extra, "pauses": pauses, "count": 15}
    run(bench_of(simulator, 64), tmp_path, 64, "master_(random|parallel)", **options)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_waiting(bench_of, tmp_path, simulator):
    run(bench_of(simulator, 64), tmp_path, 64, "hand_waiting", stall=255)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_faults(bench_of, tmp_path, simulator):
    run(bench_of(simulator, 64), tmp_path, 64, "faults", read_error_at=3, write_error_at=2, hang_after=6)


@needs_icarus
def test_undefined(bench_of, tmp_path):
    run(bench_of("icarus", 64), tmp_path, 64, "undefined")
