"""The C driver, compiled for this machine, runs a simulated engine: its accesses go over the link."""

import ctypes

import numpy as np
import pytest

from bitwright.boards.host import Accelerator
from bitwright.boards.link import Link, open_port
from bitwright.gen.driver import driver_files
from bitwright.hw.bus.link import REGISTER_WINDOW
from bitwright.hw.sched.registers import COUNTERS, Fault

READ = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t)
WRITE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32)
PAUSE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
OK, RUNNING, IDLE, FAULTED, TIMED_OUT, NOT_FOUND = 0, 1, 2, -1, -2, -3


class Engine(ctypes.Structure):
    _fields_ = (
        ("read", READ),
        ("write", WRITE),
        ("pause", PAUSE),
        ("context", ctypes.c_void_p),
        ("base", ctypes.c_size_t),
    )


class Program(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint32)
        for name in ("memory_base", "memory_size", "program", "instructions", "watchdog")
    )


@pytest.fixture(scope="module")
def driver(compile_c):
    library = ctypes.CDLL(str(compile_c(driver_files(), shared=True)))
    library.bitwright_fault_name.restype = library.bitwright_counter_name.restype = ctypes.c_char_p
    library.bitwright_fault.restype = library.bitwright_counter.restype = ctypes.c_uint32
    return library


class Registers:
    """Memory of 32-bit words behind the driver's two functions."""

    def __init__(self, driver, read, write, base=0):
        self.driver, self.pauses = driver, 0

        def pause(context):
            self.pauses += 1

        self.engine = Engine(
            READ(lambda context, address: read(address)),
            WRITE(lambda context, address, value: write(address, value)),
            PAUSE(pause),
            None,
            base,
        )

    def __getattr__(self, name):
        return lambda *arguments: getattr(self.driver, f"bitwright_{name}")(
            ctypes.byref(self.engine), *arguments
        )


def test_runs_the_simulated_engine(driver, board, digits):
    _, program, images, expected = digits
    link = Link(open_port(board.port, baud=115200), timeout=3.0)
    engine = Registers(driver, link.read_register, link.write_register, base=REGISTER_WINDOW)
    assert engine.probe() == OK
    host = program.host
    image = program.image
    link.write(0, image + bytes(-len(image) % 4))
    engine.configure(
        ctypes.byref(
            Program(0, program.memory_bytes, program.program_address, len(program.instructions), 100_000)
        )
    )
    assert link.read_register(REGISTER_WINDOW + 0x10) == program.memory_bytes
    (name,) = host.needed
    place = program.placements[name]
    for index in range(3):
        codes = host.codes(images[index])
        source = program.placements[host.source]
        link.write(source.address, source.encode(codes[0]))
        engine.start()
        assert engine.wait(1000) == OK
        values = place.decode(link.read(place.address, place.size))[np.newaxis]
        made = host.finish({host.source: codes, name: values})
        np.testing.assert_array_equal(made[host.output][0], expected[index])
    assert engine.fault() == 0
    counters = (ctypes.c_uint32 * len(COUNTERS))()
    engine.counters(counters)
    assert counters[0] == engine.counter(0) > 1000
    assert engine.counter(len(COUNTERS)) == 0

    # Without a program that it can execute
    link.write(program.program_address, bytes(64))
    engine.interrupt(1)
    assert link.read_register(REGISTER_WINDOW + 0x20) == 1
    engine.start()
    assert engine.wait(1000) == FAULTED
    assert driver.bitwright_fault_name(engine.fault()) == b"ILLEGAL_INSTRUCTION"
    link.close()
    with Accelerator.open(board.port, program=program, link_timeout=3.0, timeout=60) as accelerator:
        np.testing.assert_array_equal(accelerator.run(images[0]), expected[0])


def test_states(driver):
    memory = {0x100: 0x42574731}
    engine = Registers(driver, lambda address: memory.get(address, 0), memory.__setitem__, base=0x100)
    assert engine.probe() == OK
    memory[0x100] += 1
    assert engine.probe() == NOT_FOUND
    for status, state in ((0, IDLE), (1, RUNNING), (2, OK), (4 | 5 << 8, FAULTED), (5, RUNNING)):
        memory[0x108] = status
        assert engine.poll() == state
    assert engine.pauses == 0
    assert engine.wait(7) == TIMED_OUT
    assert engine.pauses == 7
    memory[0x108] = 4 | 5 << 8
    assert engine.wait(1) == FAULTED
    assert engine.fault() == Fault.WATCHDOG
    assert engine.wait(0) == TIMED_OUT
    engine.start()
    assert memory[0x104] == 1


def test_names(driver):
    for fault in Fault:
        assert driver.bitwright_fault_name(fault.value) == fault.name.encode()
    assert driver.bitwright_fault_name(200) == b"UNKNOWN"
    for index, (name, _) in enumerate(COUNTERS):
        assert driver.bitwright_counter_name(index) == name.encode()
    assert driver.bitwright_counter_name(len(COUNTERS)) == b"unknown"


def test_mapped(driver):
    """Registers in this process's own memory."""
    driver.bitwright_at.restype = Engine
    driver.bitwright_at.argtypes = [ctypes.c_size_t]
    words = (ctypes.c_uint32 * 64)()
    words[0] = 0x42574731
    engine = driver.bitwright_at(ctypes.addressof(words))
    assert driver.bitwright_probe(ctypes.byref(engine)) == OK
    driver.bitwright_start(ctypes.byref(engine))
    assert words[1] == 1
    words[2] = 1
    assert driver.bitwright_wait(ctypes.byref(engine), 3) == TIMED_OUT
