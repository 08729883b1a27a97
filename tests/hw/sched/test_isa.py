"""The instruction set: bits, and what does not fit them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.hw.sched.isa import (
    COMPUTE,
    GEOMETRY,
    HEADER,
    LAYOUTS,
    LOAD,
    STORE,
    WINDOW,
    Buffer,
    Combine,
    Instruction,
    Opcode,
    Unit,
)


@st.composite
def instructions(draw):
    opcode = draw(st.sampled_from(Opcode))
    fields = {}
    for name, field in LAYOUTS[opcode]:
        if name.startswith("_") or name == "opcode" or draw(st.booleans()):
            continue
        most = (1 << field.width) - 1
        fields[name] = draw(st.one_of(st.integers(1, most), st.just(most)))
    return Instruction(opcode, fields)


@settings(deadline=None)
@given(instructions())
def test_encode_and_decode(instruction):
    encoded = instruction.encode()
    assert len(encoded) == 32
    assert Instruction.decode(encoded) == instruction
    # The hardware sees the same.
    layout = LAYOUTS[instruction.opcode]
    seen = layout.from_bits(int.from_bytes(encoded, "little"))
    for name, _ in layout:
        assert seen[name] == (instruction.opcode if name == "opcode" else instruction[name])


def test_fields_left_out_are_zero():
    instruction = Instruction(Opcode.LOAD, {"beats": 3})
    assert instruction["beats"] == 3
    assert instruction["memory"] == 0
    assert Instruction(Opcode.STORE, {}).encode() == bytes([3]) + bytes(31)


@pytest.mark.parametrize(
    ("opcode", "name"),
    [
        (Opcode.LOAD, "steps"),
        (Opcode.COMPUTE, "memory"),
        (Opcode.STORE, "nonsense"),
        # What is not for the compiler to set
        (Opcode.LOAD, "opcode"),
        (Opcode.LOAD, "_0"),
        (Opcode.COMPUTE, "_rest"),
    ],
)
def test_field_that_does_not_exist(opcode, name):
    with pytest.raises(ValueError, match=f"{opcode.name} has no field '{name}'"):
        Instruction(opcode, {name: 1})


@settings(deadline=None)
@given(st.sampled_from(Opcode), st.data())
def test_value_that_does_not_fit(opcode, data):
    layout = LAYOUTS[opcode]
    names = [name for name, _ in layout if not name.startswith("_") and name != "opcode"]
    name = data.draw(st.sampled_from(names))
    width = layout[name].width
    value = data.draw(st.one_of(st.integers(max_value=-1), st.integers(min_value=1 << width)))
    with pytest.raises(ValueError, match=rf"{opcode.name}\.{name} = {value}: must fit {width} bits"):
        Instruction(opcode, {name: value})


def test_decode_what_is_no_instruction():
    with pytest.raises(ValueError, match="9 is not a valid Opcode"):
        Instruction.decode(bytes([9]) + bytes(31))
    # An unused bit must be zero.
    with pytest.raises(ValueError, match="STORE has no field '_rest'"):
        Instruction.decode(bytes([3]) + bytes(30) + b"\x80")


@pytest.mark.parametrize("layout", [HEADER, LOAD, STORE, COMPUTE, GEOMETRY, WINDOW])
def test_layouts(layout):
    """256 bits, without gaps or overlaps, and the header in its place."""
    assert layout.size == 256
    end = 0
    for _, field in layout:
        assert field.offset == end
        end += field.width
    assert end == 256
    assert [layout[name].offset for name in ("opcode", "wait", "post")] == [0, 4, 7]


def test_no_field_lies_across_two_bus_words():
    """The decoder takes each field from one word, however narrow the bus."""
    for layout in (LOAD, STORE, COMPUTE, GEOMETRY, WINDOW):
        for name, field in layout:
            if not name.startswith("_"):
                assert field.offset // 32 == (field.offset + field.width - 1) // 32, name


def test_units():
    assert {opcode: opcode.unit for opcode in Opcode} == {
        Opcode.LOAD: Unit.LOAD,
        Opcode.COMPUTE: Unit.COMPUTE,
        Opcode.STORE: Unit.STORE,
        Opcode.SNAPSHOT: Unit.STORE,
        Opcode.GEOMETRY: Unit.COMPUTE,
        Opcode.WINDOW: Unit.COMPUTE,
    }
    assert [unit.value for unit in Unit] == [0, 1, 2]
    assert [buffer.value for buffer in Buffer] == [0, 1, 2, 3]
    assert {each.name: each.value for each in Combine} == {"NONE": 0, "MAXIMUM": 1, "SUM": 2}
    # An opcode of zero is none, so that a program that is not there is a fault.
    assert 0 not in list(Opcode)
    assert set(LAYOUTS) == set(Opcode)
