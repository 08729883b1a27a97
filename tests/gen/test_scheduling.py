"""What a mapper writes into: rings, tokens and the memory image."""

import random

import numpy as np
import pytest

from bitwright.gen.scheduling import Image, Ring, Schedule
from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.isa import Opcode, Unit
from bitwright.sim.graph import NetworkError

CONFIG = EngineConfig(cols=4, lanes=8, burst_beats=16, queue_depth=4)
UNITS = {Opcode.LOAD: Unit.LOAD, Opcode.COMPUTE: Unit.COMPUTE, Opcode.STORE: Unit.STORE}


def test_a_ring_gives_up_its_oldest() -> None:
    ring = Ring(10)
    for number, size in enumerate((4, 4, 2)):
        found = ring.allocate(number, size, set())
        assert found is not None
        region, after = found
        assert (region.end - region.start, after) == (size, set())
        region.writers.add(10 + number)
        region.readers.add(20 + number)
    # It begins again, over the first and a part of the second: both are lost, and have to be over.
    found = ring.allocate("next", 5, {2})
    assert found is not None
    region, after = found
    assert (region.start, region.end) == (0, 5)
    assert after == {10, 20, 11, 21}
    assert [ring.find(key) is not None for key in (0, 1, 2, "next")] == [False, False, True, True]
    # What is still needed is left alone, and nothing changes.
    assert ring.allocate("more", 6, {2, "next"}) is None
    assert ring.find("next") is region


def test_a_ring_never_holds_two_things_in_one_place() -> None:
    rng = random.Random(1)
    ring = Ring(37)
    for key in range(500):
        pinned = {old for old in ring.regions if rng.random() < 0.2}
        ring.allocate(key, rng.randint(1, 20), pinned)
        assert all(old in ring.regions for old in pinned)
        rows = [row for region in ring.regions.values() for row in range(region.start, region.end)]
        assert len(rows) == len(set(rows))
        assert max(rows) < 37


def played(schedule: Schedule) -> list[set[int]]:
    """For each instruction those that are certain to be over when it begins, by the tokens alone."""
    instructions = schedule.finish(CONFIG)
    over: list[set[int]] = []
    given: dict[tuple[Unit, Unit], list[int]] = {}
    last: dict[Unit, int] = {}
    for number, i in enumerate(instructions):
        if i.opcode in (Opcode.GEOMETRY, Opcode.WINDOW):
            assert not i["wait"]
            assert not i["post"]
            over.append(set())
            continue
        unit = i.opcode.unit
        before: set[int] = set()
        if unit in last:
            before |= over[last[unit]] | {last[unit]}
        for giver in Unit:
            if i["wait"] >> giver & 1:
                first = given[giver, unit].pop(0)
                before |= over[first] | {first}
            if i["post"] >> giver & 1:
                given.setdefault((unit, giver), []).append(number)
        last[unit] = number
        over.append(before)
    # Every token that is given is taken, so that none is left when the next inference begins.
    assert not any(given.values())
    return over


@pytest.mark.parametrize("seed", range(20))
def test_tokens_say_what_comes_after_what(seed: int) -> None:
    rng = random.Random(seed)
    schedule = Schedule()
    wanted: list[set[int]] = []
    for number in range(120):
        opcode = rng.choice([*UNITS, Opcode.GEOMETRY])
        timed = [other for other, pending in enumerate(schedule.pending) if pending.opcode in UNITS]
        after: set[int] = set()
        if opcode in UNITS and timed:
            after = set(rng.choices(timed[-20:], k=rng.randint(0, 3)))
            after |= set(rng.choices(timed, k=int(rng.random() < 0.2)))
        fields = {"words": 1} if opcode is Opcode.GEOMETRY else {}
        assert schedule.add(opcode, after, **fields) == number
        wanted.append(after)
    over = played(schedule)
    for number, after in enumerate(wanted):
        # Instructions of a unit come to their end in order anyway.
        unit = schedule.pending[number].opcode.unit
        assert {other for other in after if schedule.pending[other].opcode.unit is not unit} <= over[number]


def test_no_more_tokens_than_are_counted() -> None:
    """One unit far ahead of the other, which waits for something long ago."""
    schedule = Schedule()
    loads = [schedule.add(Opcode.LOAD, set()) for _ in range(200)]
    for load in loads:
        schedule.add(Opcode.COMPUTE, {load})
    instructions = schedule.finish(CONFIG)
    given = sum(i["post"] >> Unit.COMPUTE & 1 for i in instructions)
    assert given <= CONFIG.token_limit


def test_image() -> None:
    image = Image(CONFIG)
    first, room, second = image.put(b"abc"), image.reserve(5), image.put(b"defg")
    assert first == 0
    # A burst's length apart: none crosses from one block to the next.
    assert (room, second) == (128, 256)
    contents = np.frombuffer(image.contents(), np.uint8)
    assert bytes(contents[:3]) == b"abc"
    assert not contents[3:256].any()
    assert bytes(contents[256:]) == b"defg"


def test_a_window_that_is_too_large() -> None:
    image = Image(CONFIG.replace(address_bits=16))
    image.reserve(60_000)
    with pytest.raises(NetworkError, match="more than the 65536 bytes"):
        image.put(bytes(10_000))
