"""The host's software, on the Verilog of an engine behind a serial line."""

import time

import numpy as np
import pytest

from bitwright.boards.faults import FaultyTransport
from bitwright.boards.host import Accelerator, EngineFault, EngineTimeout
from bitwright.boards.link import LinkError, open_port
from bitwright.gen.program import Program
from bitwright.hw.errors import BitwrightError
from bitwright.hw.sched.registers import Fault
from bitwright.sim.graph import NetworkError

COUNT = 20
FAULTY = 8
PATIENCE = 3.0  # the simulation shares its processor


@pytest.fixture(scope="module")
def accelerator(board, digits, tmp_path_factory):
    """The example on the board, from the program's file."""
    path = tmp_path_factory.mktemp("program") / "program.npz"
    digits[1].save(path)
    with Accelerator.open(board.port, program=path, link_timeout=PATIENCE, timeout=60) as accelerator:
        yield accelerator


def test_as_golden_model(accelerator, digits):
    _, _, images, expected = digits
    results = accelerator.run(images[:COUNT])
    assert results.dtype == np.float32
    np.testing.assert_array_equal(results, expected[:COUNT])
    assert accelerator.link.statistics.retries == 0


def test_one_input(accelerator, digits):
    _, _, images, expected = digits
    np.testing.assert_array_equal(accelerator.run(images[7]), expected[7])
    np.testing.assert_array_equal(accelerator.run(images[7:8].reshape(1, 1, 64)), expected[7:8])
    with pytest.raises(NetworkError, match="not a whole number of inputs"):
        accelerator.run(np.zeros(63, np.float32))


def test_counters(accelerator, digits):
    accelerator.run(digits[2][0])
    counters = accelerator.counters()
    # The memory of the simulated board answers sooner than the one that the cycle model assumes.
    assert 0.8 < counters["cycles"] / digits[1].predicted_cycles < 1.2
    assert counters["compute_beats"] == accelerator.registers["compute_beats"] > 0


def test_registers(accelerator):
    registers = accelerator.registers
    assert registers["id"] == 0x42574731
    assert registers["status"] & 7 == 2
    registers["watchdog"] = 123456
    assert registers["watchdog"] == 123456
    registers["watchdog"] = 1_000_000
    assert "cycles" in registers
    assert len(registers) == len(list(registers)) == 25
    with pytest.raises(BitwrightError, match="register 'statuss': there is none; there are id, control,"):
        registers["statuss"]
    with pytest.raises(BitwrightError, match="register 'status': cannot be written"):
        registers["status"] = 1
    with pytest.raises(BitwrightError, match="register 'cycles': cannot be written"):
        registers["cycles"] = 1
    with pytest.raises(BitwrightError, match=r"register 'watchdog' = -1: must be an integer from 0"):
        registers["watchdog"] = -1


def test_fault(accelerator, digits):
    _, program, images, expected = digits
    accelerator.link.write(program.program_address, bytes(32 * 2))
    with pytest.raises(EngineFault, match="the engine stopped with fault ILLEGAL_INSTRUCTION") as caught:
        accelerator.run(images[0])
    assert caught.value.fault is Fault.ILLEGAL_INSTRUCTION
    # Loaded again, it runs.
    accelerator.load()
    np.testing.assert_array_equal(accelerator.run(images[0]), expected[0])


def test_does_not_end(accelerator, digits, monkeypatch):
    class Busy(dict):
        def __setitem__(self, name, value):
            pass

    monkeypatch.setattr(accelerator, "registers", Busy(status=1))
    monkeypatch.setattr(accelerator, "timeout", 0.01)
    with pytest.raises(EngineTimeout, match=r"the engine has not ended after 0\.01 s"):
        accelerator.run(digits[2][0])
    monkeypatch.setattr(accelerator, "registers", Busy(status=0))
    with pytest.raises(LinkError, match="the board has been reset meanwhile"):
        accelerator.run(digits[2][0])


def test_bad_line(accelerator, digits, board, seed):
    """1 % of the bytes dropped, flipped and inserted, both ways: every result is right, or there is none."""
    _, program, images, expected = digits
    accelerator.close()
    line = FaultyTransport(open_port(board.port, baud=115200), rate=0.01, seed=seed)
    started = time.monotonic()
    with Accelerator.open(line, program=program, link_timeout=0.02, timeout=60, load=False) as worse:
        results = worse.run(images[:FAULTY])
        statistics = worse.link.statistics
    print(f"{time.monotonic() - started:.1f} s, {dict(line.injected)}, {statistics}")
    np.testing.assert_array_equal(results, expected[:FAULTY])
    assert sum(line.injected.values()) > 50
    assert statistics.retries > 20
    # The line is mended, and the board has needed no reset.
    with Accelerator.open(board.port, program=program, link_timeout=PATIENCE, timeout=60) as better:
        np.testing.assert_array_equal(better.run(images[0]), expected[0])
        assert better.link.statistics.damaged == 0


def test_not_an_engine(device, digits):
    there = device()
    with pytest.raises(LinkError, match="register 'id' is 0x207d7e00, not 0x42574731"):
        Accelerator.open(there, program=digits[1], link_timeout=0.001)
    assert there.closed


def test_programs(device, digits, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"no")
    with pytest.raises(NetworkError, match=r"x\.npz': is not a program"):
        Accelerator.open(device(), program=tmp_path / "x.npz")
    with pytest.raises(BitwrightError, match="memory_base = 0x1: must be a multiple of 4096"):
        Accelerator.open(device(), program=digits[1], memory_base=1)
    program = digits[1]
    bare = Program(**{**vars(program), "host": None})
    with pytest.raises(BitwrightError, match="has no part of a network for the host"):
        Accelerator.open(device(), program=bare)
