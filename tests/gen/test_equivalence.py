"""Mutants of a small circuit, whose differences are known, and the reader of its graph."""

import pytest

from bitwright.gen.equivalence import Aiger, Condition, Difference, Equivalent, Machine, Undecided
from bitwright.hw.errors import BitwrightError

# A register that counts how often `i` was set, modulo 2, and what a selector does to it:
#   1: nothing (i and (i or i) is i)   2: it counts nothing   3: the output is inverted where `i` is not set
# Variables: 1 i, 2 and 3 the selector's bits, 4 the register.
CIRCUIT = """aag 20 3 1 2 16
2
4
6
8 33
41
8
10 4 7
12 6 5
14 4 6
16 3 3
18 2 17
20 10 18
22 11 2
24 21 23
26 25 13
28 8 27
30 9 26
32 29 31
34 14 3
36 8 35
38 9 34
40 37 39
"""
NAMES = "input 0 0 i\ninput 1 0 mutant\ninput 2 1 mutant\noutput 0 0 o\noutput 1 0 state\n"


def circuit() -> Aiger:
    """The circuit above, with the gates in an order that is none to compute them in."""
    lines = CIRCUIT.splitlines()
    return Aiger.read("\n".join([*lines[:7], *reversed(lines[7:])]), NAMES)


def machine(**changes) -> Machine:
    return Machine(circuit(), **{"selector": "mutant", "observed": {}, "depth": 2, **changes})


def test_what_is_the_same_is_proved():
    assert machine().compare(1) == Equivalent(1)


def test_a_difference_is_one():
    """It has to set `i`, and then to look a cycle later."""
    found = machine().compare(2)
    assert isinstance(found, Difference)
    assert [now["i"] for now in found.cycles].index(1) == len(found.cycles) - 2


def test_outputs_count_when_they_are_observed():
    """What is inverted without `i` does not matter if nobody looks then."""
    inverted = machine().compare(3)
    assert isinstance(inverted, Difference)
    assert inverted.cycles[-1]["i"] == 0
    with_i = Condition((("i", 0),))
    assert machine(observed={("o", 0): with_i}).compare(3) == Equivalent(1)
    late = Condition((("i", 0),), ago=1)
    assert isinstance(machine(observed={("o", 0): late}).compare(3), Difference)


def test_inputs_that_are_not_legal_tell_nothing():
    always = [[(("i", 0), True)]]
    assert machine(legal=always).compare(3) == Equivalent(1)
    never = [[(("i", 0), False)]]
    assert machine(legal=never).compare(2) == Equivalent(1)


def test_sequences_that_are_not_legal_tell_nothing():
    """`i` in every other cycle only, and first not; a choice remembers which cycle it is."""
    turn, following, i = ("turn", 0), ("turn'", 0), ("i", 0)
    alternate = [
        [(turn, True), (following, True)],
        [(turn, False), (following, False)],
        [(turn, True), (i, False)],
    ]
    found = machine(legal=alternate, initial=[[(turn, False)]]).compare(2)
    assert isinstance(found, Difference)
    assert [now["i"] for now in found.cycles] == [0, 1, 0]


def test_what_is_too_long_to_be_found_is_undecided():
    never_at_first = [[(("late", 0), True), (("i", 0), False)], [(("late", 0), True), (("late'", 0), False)]]
    found = machine(legal=never_at_first, initial=[[(("late", 0), False)]]).compare(2)
    assert isinstance(found, Undecided)
    assert "no difference within 5 cycles" in found.reason


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("aig 1 0 0 0 0\n", "is not the header"), ("aag 1 0 1 0 0\n2 2 1\n", "a register is not 0 at power-on")],
)
def test_refuses(text, complaint):
    with pytest.raises(BitwrightError, match=complaint):
        Aiger.read(text, "")
