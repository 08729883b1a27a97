"""Which activations stay on chip: nothing is overwritten that is still read, and nothing is kept in vain."""

import os
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from bitwright.gen.mapper import compile_graph
from bitwright.gen.scheduling import Kept, Residence
from bitwright.gen.synthetic import ConvolutionShape, random_cnn, random_mlp
from bitwright.hw.config import EngineConfig
from bitwright.hw.memory.scratchpad import geometries
from bitwright.hw.sched.isa import Buffer, Opcode
from bitwright.sim.graph import Binary

CONFIG = EngineConfig(
    cols=8,
    lanes=8,
    requantisers=2,
    activation_depth=512,
    patch_depth=64,
    weight_depth=256,
    channel_depth=64,
    output_depth=256,
)


def planned(graph, config, monkeypatch, **options):
    """The program, and the layers with what was planned for each."""
    from bitwright.gen import mapper

    seen = []
    plan = mapper.plan_residence

    def watched(config, layers, *, outputs):
        found = plan(config, layers, outputs=outputs)
        seen.extend(zip(layers, found, strict=True))
        return found

    monkeypatch.setattr(mapper, "plan_residence", watched)
    return compile_graph(graph, config, **options), seen


def chain(channels, count, size=8):
    layers = [ConvolutionShape(channels=channels, kernel=(3, 3), padding=((1, 1), (1, 1)))] * count
    return random_cnn((size, size, channels), layers, seed=1)


def stores(program):
    return [each for each in program.instructions if each.opcode is Opcode.STORE]


def test_between_layers_nothing_is_loaded(monkeypatch):
    program, seen = planned(chain(8, 3), CONFIG, monkeypatch)
    places = [residence for _, residence in seen]
    assert [bool(place.sources) for place in places] == [False, True, True]
    assert [place.result is not None for place in places] == [True, True, False]
    assert all(place.stored for place in places)
    # Only the network's input comes over the bus.
    assert all(instruction["forward"] and not instruction["only"] for instruction in stores(program)[:2])
    loads = [each for each in program.instructions if each.opcode is Opcode.LOAD]
    first = program.placements[seen[0][0].operation.source]
    words = {each["memory"] * CONFIG.bus_bytes for each in loads if each["buffer"] == Buffer.ACTIVATIONS}
    assert words
    assert all(first.address <= word < first.address + first.size for word in words)


def test_only_what_is_needed_is_stored(monkeypatch):
    program, seen = planned(chain(8, 3), CONFIG, monkeypatch, tensors="needed")
    assert [residence.stored for _, residence in seen] == [False, False, True]
    stored = {layer.operation.output: residence.stored for layer, residence in seen}
    for name, placement in program.placements.items():
        assert placement.stored == stored.get(name, True)
    for instruction in stores(program):
        assert instruction["only"] == instruction["forward"]


@pytest.mark.parametrize("changes", [{"forwarding": False}, {"activation_depth": 64}])
def test_without_room_or_hardware_all_go_through_memory(changes, monkeypatch):
    config = CONFIG.replace(**changes)
    _, seen = planned(chain(8, 3), config, monkeypatch, tensors="needed")
    rows = geometries(config)[Buffer.ACTIVATIONS].rows
    assert all(residence == Residence(0, rows) for _, residence in seen)


def test_what_the_host_reads_is_stored(monkeypatch):
    graph = random_mlp([16, 16, 16])
    program, _ = planned(graph, CONFIG, monkeypatch, tensors="needed")
    assert program.placements[graph.output].stored


def test_random_networks(monkeypatch):
    seed = int(os.environ.get("BITWRIGHT_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    rng = random.Random(seed)
    kept = 0
    for _ in range(12):
        size, channels = (rng.randint(2, 10), rng.randint(2, 10)), rng.choice([3, 8, 12, 16])
        layers = [
            ConvolutionShape(
                channels=rng.choice([4, 8, 16, 24]),
                kernel=(rng.randint(1, 2), rng.randint(1, 2)),
                padding=((0, 1), (1, 0)),
            )
            for _ in range(rng.randint(2, 5))
        ]
        graph = random_cnn((*size, channels), layers, seed=rng.randrange(1 << 32))
        config = CONFIG.replace(activation_depth=rng.choice([128, 256, 512]), bus_bits=rng.choice([32, 64]))
        rows = geometries(config)[Buffer.ACTIVATIONS].rows
        _, seen = planned(graph, config, monkeypatch, tensors=rng.choice(["all", "needed"]))
        there: dict[int, Kept] = {}
        stored = set()
        for layer, residence in seen:
            ring = Kept(-1, residence.low, residence.high - residence.low)
            used = [*residence.sources.values(), ring, *([residence.result] if residence.result else [])]
            ordered = sorted(used, key=lambda each: (each.start, each.end))
            assert ordered[0].start >= 0
            assert ordered[-1].end <= rows
            assert all(a.end <= b.start for a, b in pairwise(ordered))
            for source in layer.sources:
                on_chip = residence.sources.get(source.address)
                if on_chip:
                    assert there[source.address] == on_chip
                    kept += 1
                else:
                    assert source.address in stored or source is seen[0][0].source
            written = [ring] if layer.loaded else []
            written += [residence.result] if residence.result else []
            for address, place in list(there.items()):
                if any(place.start < each.end and each.start < place.end for each in written):
                    del there[address]
            if residence.result:
                there[layer.result.address] = residence.result
            if residence.stored:
                stored.add(layer.result.address)
        # The plan of the next network begins anew.
        monkeypatch.undo()
    assert kept > 12


@pytest.mark.parametrize(("sum_of", "on_chip"), [(("t1", "t3"), {"t1", "t2"}), (("t0", "t3"), {"t2"})])
def test_a_sum_that_a_convolution_makes(sum_of, on_chip, monkeypatch):
    """What the convolution reads and what is added lie in different ways, each on chip or loaded."""
    graph = chain(8, 3)
    codes = np.arange(-128, 128)
    table = np.clip((codes[:, None] + codes[None, :]) // 2, -128, 127)
    node = Binary(name="add", inputs=sum_of, output="y", table=table)
    result = replace(graph.tensors["t3"], name="y")
    graph = replace(graph, tensors={**graph.tensors, "y": result}, nodes=(*graph.nodes, node), output="y")
    program, seen = planned(graph, CONFIG, monkeypatch, tensors="needed")
    assert len(seen) == 3
    layer, residence = seen[-1]
    assert layer.tail is not None
    assert layer.tail.residence == residence
    operands = (*layer.sources, *layer.tail.sources)
    assert {each.name for each in operands if each.address in residence.sources} == on_chip
    assert not layer.loaded
    assert bool(layer.tail.loaded) == ("t0" in sum_of)
    assert program.placements["t2"].stored is False
