"""Memory of tensors: nobody's place is taken while it is needed. What waits for what: test_mapper.py."""

import os
import random
import shutil
from itertools import pairwise

import numpy as np
import pytest

from bitwright.gen.arena import Arena, Lifetime
from bitwright.gen.execute import execute
from bitwright.gen.mapper import compile_graph
from bitwright.gen.scheduling import Pending
from bitwright.gen.synthetic import ConvolutionShape, random_cnn
from bitwright.gen.verilog import emit
from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.isa import Opcode
from bitwright.sim.graph import NetworkError

SIMULATOR = "icarus" if shutil.which("iverilog") else "verilator"
CONFIG = EngineConfig(
    cols=4,
    lanes=8,
    requantisers=2,
    forwarding=False,
    activation_depth=64,
    patch_depth=64,
    weight_depth=128,
    channel_depth=32,
    output_depth=64,
)


def chain(count, size=8):
    layers = [ConvolutionShape(channels=8, kernel=(3, 3), padding=((1, 1), (1, 1)))] * count
    return random_cnn((size, size, 8), layers, seed=1)


def test_random_lifetimes():
    seed = int(os.environ.get("BITWRIGHT_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(50):
        arena = Arena(64)
        tensors = [arena.reserve(rng.randrange(1, 500)) for _ in range(rng.randint(1, 20))]
        lifetimes = {}
        for tensor in rng.sample(tensors, rng.randint(1, len(tensors))):
            first = rng.randrange(-1, 10)
            lifetimes[tensor] = Lifetime(first, rng.randint(first, 10))
        found = arena.arrange(lifetimes)
        assert set(found.offsets) == set(lifetimes)
        overwritten = set()
        for tensor, offset in found.offsets.items():
            assert offset % 64 == 0
            assert 0 <= offset <= offset + arena.sizes[tensor] <= found.size
            for other, start in found.offsets.items():
                share = offset < start + arena.sizes[other] and start < offset + arena.sizes[tensor]
                if other != tensor and share:
                    assert not lifetimes[tensor].overlaps(lifetimes[other])
                    first = min(tensor, other, key=lambda each: lifetimes[each].first)
                    overwritten.add(first)
        assert found.overwritten == overwritten
        rooms = {tensor: -(-arena.sizes[tensor] // 64) * 64 for tensor in lifetimes}
        layers = range(-1, 11)
        needed = [
            sum(rooms[each] for each, there in lifetimes.items() if there.first <= layer <= there.last)
            for layer in layers
        ]
        assert max(needed) - 64 < found.size <= sum(rooms.values())


def test_a_chain_takes_its_two_largest_neighbours():
    arena = Arena(64)
    sizes = [64, 512, 256, 512, 64, 128]
    lifetimes = {arena.reserve(size): Lifetime(at, at + 1) for at, size in enumerate(sizes)}
    found = arena.arrange(lifetimes)
    assert found.size == 512 + 256
    assert arena.arrange({}).size == 0


def test_instructions_are_relocated():
    """Of three tensors the last lies where the first did, so its STORE waits for the last LOAD of that."""
    arena = Arena(64)
    first, second, third, on_chip = (arena.reserve(64) for _ in range(4))
    found = arena.arrange({first: Lifetime(0, 1), second: Lifetime(1, 2), third: Lifetime(2, 3)})
    assert found.offsets == {first: 0, second: 64, third: 0}
    assert found.overwritten == {first}
    pending = [
        Pending(opcode, {"memory": address // CONFIG.bus_bytes, **more})
        for opcode, address, more in (
            (Opcode.LOAD, 192, {}),
            (Opcode.LOAD, first, {}),
            (Opcode.LOAD, first + 32, {}),
            (Opcode.STORE, second, {}),
            (Opcode.LOAD, second + 8, {}),
            (Opcode.STORE, on_chip, {"only": 1}),
            (Opcode.STORE, third + 16, {}),
        )
    ]
    found.relocate(4096, CONFIG, pending)
    addresses = [each.fields["memory"] * CONFIG.bus_bytes for each in pending]
    assert addresses == [192, 4096, 4128, 4160, 4168, 0, 4112]
    assert [each.after for each in pending] == [set()] * 6 + [{2}]


def test_too_many_tensors():
    arena = Arena(64)
    arena.reserve(1 << 32)
    with pytest.raises(NetworkError, match="needs more than"):
        arena.reserve((1 << 32) + 1)


@pytest.fixture(scope="module")
def graph():
    return chain(5)


def test_everything_can_be_compared(graph):
    program = compile_graph(graph, CONFIG)
    places = sorted(program.placements.values(), key=lambda each: each.address)
    assert all(place.stored for place in places)
    assert all(a.address + a.size <= b.address for a, b in pairwise(places))


def test_places_are_shared(graph):
    """Five layers of results as large as the input, which stays: two places, besides."""
    alone = compile_graph(graph, CONFIG)
    program = compile_graph(graph, CONFIG, tensors="needed")
    assert len(program.instructions) == len(alone.instructions)
    places = program.placements
    assert {name for name, place in places.items() if place.stored} == {graph.input, "t4", graph.output}
    assert len({place.address for place in places.values()}) == 3
    assert min(place.address for place in places.values()) >= len(program.image) - 64


def test_on_the_verilog(graph):
    rng = np.random.default_rng(3)
    inputs = rng.integers(-128, 128, (2, 8, 8, 8), dtype=np.int8)
    program = compile_graph(graph, CONFIG, tensors="needed")
    done = execute(program, graph, inputs, emit(CONFIG), simulator=SIMULATOR)
    assert done.tensors_compared == 4
    assert not done.mismatches
