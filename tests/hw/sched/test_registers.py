"""The register map: what the host relies on."""

from bitwright.hw.bus.axi4lite import ADDRESS_BITS
from bitwright.hw.sched.registers import COUNTER_BASE, COUNTERS, ID_VALUE, REGISTERS, Fault


def test_offsets():
    offsets = [register.offset for register in REGISTERS]
    assert len(set(offsets)) == len(offsets)
    assert all(offset % 4 == 0 and 0 <= offset < COUNTER_BASE for offset in offsets)


def test_counters_lie_within_the_address_space():
    assert COUNTER_BASE % (4 * len(COUNTERS)) == 0
    assert COUNTER_BASE + 4 * len(COUNTERS) <= 1 << ADDRESS_BITS
    # The engine tells counters by one address bit, and takes the index from the four below.
    assert COUNTER_BASE == 1 << 6
    assert len(COUNTERS) == 16


def test_names():
    names = [register.name for register in REGISTERS] + [name for name, _ in COUNTERS]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name.islower() for name in names)


def test_every_entry_says_what_it_is():
    assert all(register.access in ("ro", "rw") for register in REGISTERS)
    assert all(register.doc.endswith(".") for register in REGISTERS)
    assert all(doc.endswith(".") for _, doc in COUNTERS)


def test_identity():
    assert ID_VALUE.to_bytes(4, "big") == b"BWG1"
    documented = next(register.doc for register in REGISTERS if register.name == "id")
    assert f"0x{ID_VALUE:08x}" in documented


def test_fault_codes():
    """They are in the host's hands; none may change its meaning."""
    assert {fault.name: fault.value for fault in Fault} == {
        "NONE": 0,
        "ILLEGAL_INSTRUCTION": 1,
        "ADDRESS": 2,
        "READ_ERROR": 3,
        "WRITE_ERROR": 4,
        "WATCHDOG": 5,
        "TOKEN_OVERFLOW": 6,
    }
