"""The generated header, driver and page of registers say what the hardware's description says."""

import re

from bitwright.gen.driver import FILES, driver_files
from bitwright.hw.sched.registers import COUNTER_BASE, COUNTERS, REGISTERS, Fault


def test_compiles(compile_c):
    compile_c(driver_files())


def test_header():
    header = driver_files()["bitwright.h"]
    defined = {name: int(value, 0) for name, value in re.findall(r"#define BITWRIGHT_(\w+) (\w+)", header)}
    for register in REGISTERS:
        assert defined.pop(register.name.upper()) == register.offset
        for field in register.fields:
            name = f"{register.name}_{field.name}".upper()
            assert defined.pop(name) == field.mask
            if field.bits > 1:
                assert defined.pop(name + "_SHIFT") == field.low
    assert defined == {"ID_VALUE": 0x42574731, "COUNTER_BASE": COUNTER_BASE}
    faults = {name: int(code) for name, code in re.findall(r"BITWRIGHT_FAULT_(\w+) = (\d+)", header)}
    assert faults == {fault.name: fault.value for fault in Fault}
    names = re.findall(r"BITWRIGHT_COUNTER_(\w+),", header)
    assert names == [name.upper() for name, _ in COUNTERS]


def test_fields():
    """Masks as the descriptions in words have them."""
    status = next(register for register in REGISTERS if register.name == "status")
    assert {field.name: field.mask for field in status.fields} == {
        "busy": 1,
        "done": 2,
        "fault": 4,
        "code": 0xFF00,
    }


def test_page():
    page = driver_files()["registers.md"]
    for register in REGISTERS:
        assert (
            f"| `0x{register.offset:02x}` | `{register.name}` | {register.access} | {register.doc} |" in page
        )
    for index, (name, doc) in enumerate(COUNTERS):
        assert f"| `0x{0x40 + 4 * index:02x}` | `{name}` | {doc} |" in page
    assert "| `status` | 15..8 | `code` |" in page
    assert set(driver_files()) == set(FILES)
