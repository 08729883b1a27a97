"""The mapper: what it refuses, what it places, and that its schedules are in order."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from bitwright.gen.mapper import compile_graph
from bitwright.gen.program import Program
from bitwright.gen.synthetic import random_mlp
from bitwright.hw.config import EngineConfig
from bitwright.hw.formats import Int
from bitwright.hw.sched.isa import Buffer, Opcode, Unit
from bitwright.hw.sched.widths import narrow_layout
from bitwright.sim.graph import Graph, NetworkError, Reshape, TensorInfo

CONFIG = EngineConfig(
    cols=4, lanes=8, requantisers=2, activation_depth=256, weight_depth=64, channel_depth=32, output_depth=64
)


def check_tokens(program: Program) -> None:
    """Every token is given before it is taken, in program order, and none is left over."""
    tokens: dict[tuple[Unit, Unit], int] = defaultdict(int)
    for instruction in program.instructions:
        unit = instruction.opcode.unit
        for other in Unit:
            if instruction["wait"] >> other & 1:
                tokens[other, unit] -= 1
                assert tokens[other, unit] >= 0
        for other in Unit:
            tokens[unit, other] += instruction["post"] >> other & 1
    assert not any(tokens.values())


def check_hazards(program: Program) -> None:
    """No LOAD overwrites what an unfinished COMPUTE reads, nor a COMPUTE what an unfinished STORE reads.

    Follows the program with every unit as far ahead as its tokens let it: a conflict is two accesses of one
    place, one of them a write, with nothing that orders them.
    """
    config = program.config
    given: dict[tuple[Unit, Unit], list[int]] = defaultdict(list)
    taken: dict[tuple[Unit, Unit], int] = defaultdict(int)
    before: list[dict[Unit, int]] = []  # the last instruction of each unit that is surely over
    latest: dict[Unit, dict[Unit, int]] = {unit: dict.fromkeys(Unit, -1) for unit in Unit}
    accesses: list[tuple[int, Unit, str, int, int, bool]] = []
    geometry = None
    for number, instruction in enumerate(program.instructions):
        if instruction.opcode is Opcode.GEOMETRY:
            geometry = instruction
        unit = instruction.opcode.unit
        known = dict(latest[unit])
        for other in Unit:
            if instruction["wait"] >> other & 1:
                giver = given[other, unit][taken[other, unit]]
                taken[other, unit] += 1
                known[other] = max(known[other], giver)
                for third, last in before[giver].items():
                    known[third] = max(known[third], last)
        latest[unit] = known
        before.append(known)
        for other in Unit:
            if instruction["post"] >> other & 1:
                given[unit, other].append(number)
        for space, start, end, writes in spans(instruction, config, geometry):
            for earlier, owner, other_space, other_start, other_end, other_writes in accesses:
                if owner == unit or space != other_space or not (writes or other_writes):
                    continue
                if start < other_end and other_start < end:
                    assert known[owner] >= earlier, f"{number} and {earlier} meet in {space}"
            accesses.append((number, unit, space, start, end, writes))


def spans(instruction, config, geometry):  # type: ignore[no-untyped-def]
    """What an instruction touches on chip and in memory: space, first, end, and whether it writes."""
    from bitwright.hw.memory.scratchpad import geometries

    shapes = geometries(config)
    if instruction.opcode in (Opcode.LOAD, Opcode.STORE) and not instruction["only"]:
        rows = -(-instruction["beats"] // instruction["row_beats"])
        start = instruction["memory"]
        end = start + (rows - 1) * instruction["stride"] + instruction["row_beats"]
        yield "memory", start, end, instruction.opcode is Opcode.STORE
    if instruction.opcode is Opcode.LOAD:
        buffer = Buffer(instruction["buffer"])
        rows = -(-instruction["beats"] // shapes[buffer].banks)
        yield buffer.name, instruction["scratch"], instruction["scratch"] + rows, True
    elif instruction.opcode is Opcode.COMPUTE:
        schedule = config.schedules[instruction["precision"]]
        storage = config.modes[instruction["result"]].storage
        words = fed(instruction, geometry, config)
        shape = shapes[Buffer.ACTIVATIONS]
        if len(words):
            yield Buffer.ACTIVATIONS.name, words.min() // shape.ratio, words.max() // shape.ratio + 1, False
        for buffer, key, words in (
            (
                Buffer.WEIGHTS,
                "weights",
                instruction["col_groups"] * instruction["steps"] * schedule.weight_words,
            ),
            (Buffer.CHANNELS, "channels", instruction["col_groups"] * config.channel_words_per_group),
        ):
            ratio = shapes[buffer].ratio
            start = instruction[key]
            yield buffer.name, start // ratio, -(-(start + words) // ratio), False
        if instruction["drain"]:
            start = instruction["output"]
            last_row = (instruction["row_groups"] * config.rows - 1) * instruction["output_row"]
            end = (
                start + last_row + config.granule(storage, instruction["col_groups"] * config.group_channels)
            )
            assert end <= config.output_depth * config.granules_per_word
            yield "output", start, end, True
    elif instruction.opcode is Opcode.STORE:
        per_word = config.granules_per_word
        start = instruction["scratch"] * per_word
        yield "output", start, start + instruction["beats"] * per_word, False


def fed(instruction, geometry, config):  # type: ignore[no-untyped-def]
    """The words that the feeder reads for a COMPUTE."""
    widths = {str(name): field.width for name, field in narrow_layout(config, Opcode.GEOMETRY)}

    def signed(name: str) -> int:
        value, limit = geometry[name], 1 << widths[name]
        return value - limit if value >= limit // 2 else value

    g = geometry
    pixels = np.arange(instruction["row_groups"] * config.rows)
    inner, outer = pixels % g["pixels_inner"], pixels // g["pixels_inner"]
    i, o, word = np.meshgrid(
        np.arange(g["taps_inner"]), np.arange(g["taps_outer"]), np.arange(g["words"]), indexing="ij"
    )
    x = signed("start_inner") + inner[:, None] * g["stride_inner"] + i.ravel() * g["dilation_inner"]
    y = signed("start_outer") + outer[:, None] * g["stride_outer"] + o.ravel() * g["dilation_outer"]
    inside = (x >= 0) & (x < g["limit_inner"]) & (y >= 0) & (y < g["limit_outer"])
    words = (
        instruction["activations"]
        + inner[:, None] * g["pixel_inner"]
        + outer[:, None] * g["pixel_outer"]
        + i.ravel() * g["tap_inner"]
        + o.ravel() * g["tap_outer"]
        + word.ravel()
    )
    return words[inside] % config.activation_depth


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (1, [200, 100, 10]),
        (40, [64, 64]),
        (7, [37, 19, 5]),
        (3, [8 * 64 + 9, 11]),
        (1, [5000, 3]),
        (2, [5, 300]),
        (100, [8, 4, 4, 4]),
    ],
)
@pytest.mark.parametrize("array_rows", [1, 3])
def test_schedules_are_in_order(rows: int, sizes: list[int], array_rows: int) -> None:
    config = CONFIG.replace(rows=array_rows)
    program = compile_graph(random_mlp(sizes, rows=rows), config)
    check_tokens(program)
    check_hazards(program)
    beats = sum(
        instruction["steps"] * instruction["row_groups"] * instruction["col_groups"]
        for instruction in program.instructions
        if instruction.opcode is Opcode.COMPUTE
    )
    assert beats == sum(-(-k // 8) * -(-n // 4) * -(-rows // array_rows) for k, n in pairwise(sizes))


def test_next_layers_weights_are_loaded_before_its_activations() -> None:
    program = compile_graph(random_mlp([64, 16, 16]), CONFIG.replace(forwarding=False))
    buffers = [
        Buffer(instruction["buffer"])
        for instruction in program.instructions
        if instruction.opcode is Opcode.LOAD
    ]
    second = buffers.index(Buffer.ACTIVATIONS, 1)
    assert buffers[second - 1] is Buffer.WEIGHTS
    assert Buffer.WEIGHTS not in buffers[second + 1 :]


def test_weights_that_stay_are_loaded_once() -> None:
    graph = random_mlp([16, 16], rows=200)
    program = compile_graph(graph, CONFIG)
    words = sum(
        instruction["beats"]
        for instruction in program.instructions
        if instruction.opcode is Opcode.LOAD and instruction["buffer"] == Buffer.WEIGHTS
    )
    assert words * 8 == 16 * 16


def test_a_program_survives_its_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    program = compile_graph(random_mlp([40, 12, 5], rows=2), CONFIG)
    program.save(tmp_path / "program.npz")
    loaded = Program.load(tmp_path / "program.npz")
    assert vars(loaded) == vars(program)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(NetworkError, match=r"broken\.npz"):
        Program.load(tmp_path / "broken.npz")


def test_placements_encode_what_they_decode() -> None:
    program = compile_graph(random_mlp([13, 6], rows=3), CONFIG)
    place = program.placements["t0"]
    codes = np.random.default_rng(0).integers(-128, 128, (3, 13))
    data = place.encode(codes)
    assert len(data) == place.size == 3 * 16
    assert (place.decode(data) == codes).all()


def reshaped(first: tuple[int, ...], second: tuple[int, ...]) -> Graph:
    """A layer, a reshape of its result, and another layer."""
    one = random_mlp([8, first[-1]], rows=first[0])
    two = random_mlp([second[-1], 4], rows=second[0])
    info = one.tensors["t1"]
    middle = TensorInfo(
        name="m", shape=second, format=info.format, scale=info.scale, zero_point=info.zero_point
    )
    last = TensorInfo(name="last", shape=(second[0], 4), format=Int(8))
    node = two.nodes[0]
    after = type(node)(**{**vars(node), "name": "after", "input": "m", "output": "last"})
    return Graph(
        name="reshaped",
        tensors={**one.tensors, "m": middle, "last": last},
        nodes=(*one.nodes, Reshape(name="reshape", input="t1", output="m"), after),
        input="t0",
        output="last",
    )


def test_a_reshape_without_padding_costs_nothing() -> None:
    program = compile_graph(reshaped((2, 32), (4, 16)), CONFIG)
    assert program.placements["m"].address == program.placements["t1"].address
    check_hazards(program)


def test_a_reshape_that_would_move_data_is_refused() -> None:
    with pytest.raises(NetworkError, match="is reshaped between layers"):
        compile_graph(reshaped((2, 6), (4, 3)), CONFIG)


@pytest.mark.parametrize(
    ("graph", "config", "message"),
    [
        (random_mlp([300, 4]), CONFIG.replace(reduction=256), "dot products of 300 terms"),
        (
            random_mlp([8, 4]),
            CONFIG.replace(precisions=("a8w4",)),
            "weights .* do not fit int4; the engine is built for a8w4",
        ),
        (
            random_mlp([8, 4], weight=Int(4)),
            CONFIG.replace(precisions=("a4w8",), lanes=16),
            "its int8 fits no activations of the engine; the engine is built for a4w8",
        ),
    ],
)
def test_what_the_engine_cannot_hold_is_refused(graph: Graph, config: EngineConfig, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        compile_graph(graph, config)


def test_too_large_for_the_address_space() -> None:
    graph = random_mlp([8, 4], rows=1)
    shape = (1 << 30, 8)
    tensors = {
        "t0": TensorInfo(name="t0", shape=shape, format=Int(8)),
        "t1": TensorInfo(name="t1", shape=(1 << 30, 4), format=Int(8)),
    }
    huge = Graph(name="huge", tensors=tensors, nodes=graph.nodes, input="t0", output="t1")
    with pytest.raises(NetworkError, match="needs more than"):
        compile_graph(huge, CONFIG)


def test_tensors_that_share_a_place() -> None:
    config = CONFIG.replace(forwarding=False)
    program = compile_graph(random_mlp([32] * 6, rows=9), config, tensors="needed")
    assert len({place.address for place in program.placements.values()}) == 3
    check_tokens(program)
    check_hazards(program)


def test_tokens_under_way_are_bounded() -> None:
    """A deep scratchpad full of small tiles: what frees a tile was computed long before."""
    config = CONFIG.replace(weight_depth=1024, queue_depth=4)
    program = compile_graph(random_mlp([8, 3000]), config)
    check_hazards(program)
    ahead: dict[tuple[Unit, Unit], int] = defaultdict(int)
    for instruction in program.instructions:
        unit = instruction.opcode.unit
        for other in Unit:
            ahead[other, unit] -= instruction["wait"] >> other & 1
            ahead[unit, other] += instruction["post"] >> other & 1
            assert ahead[unit, other] <= config.token_limit - config.queue_depth - 2
