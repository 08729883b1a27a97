"""What reads files, and what becomes of a broken one: accepted, refused in our own words, or a finding."""

import io
import json
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from bitwright.gen import cli, config, output, record, requantise
from bitwright.gen.importers import _tflite, load
from bitwright.gen.mapper import compile_graph
from bitwright.gen.program import Program
from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError
from bitwright.sim.graph import Graph, NetworkError

from . import mutation, seeds

__all__ = ["TARGETS", "Target", "UnclearMessageError", "attempt"]

MESSAGE_CHARACTERS = 4000
"""Longest message that a refusal may have; names from files must be cut."""


class UnclearMessageError(Exception):
    """A file was refused, but the message does not say which, or would upset a terminal."""


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Parameters
    ----------
    name
        What the record calls it.
    file
        Name of the file that is broken; its ending may matter.
    share
        How many inputs of 100 go to it.
    make
        A broken file, from random numbers.
    read
        Reads the file at a path, as the command line would.
    """

    name: str
    file: str
    share: int
    make: Callable[[Random], bytes]
    read: Callable[[Path], object]


def attempt(target: Target, path: Path) -> str:
    """Read a file: ``""`` where it was accepted, otherwise the message with which it was refused.

    Parameters
    ----------
    target, path
        The reader, and what to read.

    Raises
    ------
    UnclearMessageError
        The message is not one that helps.
    Exception
        Whatever else the reader lets through: a finding.
    """
    try:
        # Warnings of accepted files, and notes on standard error, are none of what is looked for.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            target.read(path)
    except BitwrightError as error:
        message = str(error)
        if starved := _starved(error):
            raise starved from error
        named = error.where if isinstance(error, NetworkError) else path.name in message
        if not named:
            raise UnclearMessageError(f"names neither file nor node: {message[:300]}") from error
        if len(message) > MESSAGE_CHARACTERS:
            raise UnclearMessageError(f"{len(message)} characters: {message[:300]}") from error
        if not message.replace("\n", "").isprintable():
            raise UnclearMessageError(f"has control characters: {message[:300]!r}") from error
        return message
    return ""


def _starved(error: BaseException) -> MemoryError | None:
    """Want of memory that something on the way to an error has handled: it had asked for too much."""
    context: BaseException | None = error
    while context is not None:
        if isinstance(context, MemoryError):
            return context
        context = context.__cause__ or context.__context__
    return None


# Networks


@cache
def _texts() -> tuple[str, ...]:
    """Texts of all ONNX seeds: names of operators, domains, attributes, tensors."""
    found: dict[str, None] = {}
    for data in _all_onnx():
        graph = onnx.ModelProto.FromString(data).graph
        for node in graph.node:
            found |= dict.fromkeys((node.op_type, node.domain, node.name, *node.input, *node.output))
            found |= dict.fromkeys(attribute.name for attribute in node.attribute)
    return (*found, "SAME_UPPER", "SAME_LOWER", "VALID", "NHWC", "constant", "linear", "INT4", "UINT8")


@cache
def _all_onnx() -> tuple[bytes, ...]:
    return tuple(data for dialect in ("qdq", "qlinear", "qonnx") for data in seeds.onnx_networks(dialect))


def _onnx(dialect: str) -> Callable[[Random], bytes]:
    def make(rng: Random) -> bytes:
        data = rng.choice(seeds.onnx_networks(dialect))
        return (
            mutation.raw(rng, data)
            if rng.random() < 0.1
            else mutation.protobuf(rng, data, _all_onnx(), _texts())
        )

    return make


@cache
def _traces() -> tuple[mutation.Trace, ...]:
    def read(data: bytes) -> None:
        file = _tflite.File(data, "seed")
        for tensor in file.tensors:
            file.content(tensor)

    return tuple(mutation.traced(data, read) for data in seeds.tflite_networks())


def _tflite_file(rng: Random) -> bytes:
    trace = rng.choice(_traces())
    return mutation.raw(rng, trace.data) if rng.random() < 0.1 else mutation.flatbuffer(rng, trace)


_LARGEST = 1 << 16
"""Elements of an input, and MACs, up to which an accepted network is also compiled."""

_COMPILED = 50
"""One in so many of them is: mapping takes ten times as long as reading."""


@cache
def _engine() -> EngineConfig:
    return EngineConfig(
        cols=2,
        lanes=4,
        precisions=("a8w8", "a4w4"),
        quantisers=("requantise", "thresholds"),
        activation_depth=256,
        weight_depth=128,
        patch_depth=64,
    )


def _compiled(path: Path) -> object:
    """What `bitwright compile` does; most networks are only read, and those that are large on purpose."""
    graph = load(path)
    sizes = [info.size for info in graph.tensors.values()]
    if max(sizes) > _LARGEST or graph.macs > _LARGEST or zlib.crc32(path.read_bytes()) % _COMPILED:
        return graph
    return compile_graph(graph, _engine())


# Texts


@cache
def _values() -> tuple[str, ...]:
    """What may stand behind a key of a TOML file."""
    names = [*config.schema()["properties"], *config.shipped()]
    numbers = (*range(-1, 18), 32, 48, 64, 127, 128, 255, 256, 1024, 65536, 65537, 1 << 31, 1 << 63, 1 << 64)
    texts = ("a8w8", "a4w4", "au4w4", "abwb", "a8wt", "a8wp4", "a16w16", "a0w0", "a8w99999999999999", "")
    lists = ("[]", "[1]", '[["a8w8"]]', '["a8w8", "a4w4", "a2w2"]', '["a4w4", "a4w4"]', '["thresholds"]')
    others = ("true", "1.5", "inf", "nan", "1979-05-27T07:32:00Z", "00:00:00", "{a = 1}", '"""', "9" * 5000)
    odd = ("'\x1b[31m'", '"\\u0000"', '"' + "x" * 9000 + '"', "[" * 3000 + "]" * 3000)
    words = tuple(
        json.dumps(word) for word in (*names, *texts, "parallel", "bismo", "xnor", "wishbone", "sum")
    )
    return (*map(str, numbers), *words, *lists, *others, *odd)


@cache
def _configurations() -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(line for line in config.toml(config.load(name)).splitlines() if line and line[0] != "#")
        for name in config.shipped()
    )


def _configuration(rng: Random) -> bytes:
    return mutation.text(rng, rng.choice(_configurations()), _values())


_PRECISIONS = ("[layers]", '"conv*" = "a4w4"', 'n1 = "a8w2"', '"fc?" = "abwb"', "'n[12]' = 'a2w8'")


@cache
def _network() -> Graph:
    with TemporaryDirectory() as name:
        path = Path(name) / "network.onnx"
        path.write_bytes(seeds.onnx_networks("qonnx")[0])
        return load(path)


def _precisions(path: Path) -> object:
    # The path is given as it is to --precision; what matches no layer is refused by the layer's name.
    overrides = requantise.parse_overrides([str(path)])
    return requantise.requantised(_network(), requantise.matched(_network(), overrides))


# Arrays


def _inputs(path: Path) -> object:
    return cli.load_inputs(path, 4, _network())


def _input_file(rng: Random) -> bytes:
    data = np.random.default_rng(rng.randrange(4)).normal(0, 1, (3, 4)).astype(np.float32)
    arrays = {"input": data, "label": np.arange(3)}
    return mutation.npz(rng, arrays, single=rng.random() < 0.3)


@cache
def _program() -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays of a program, and its description."""
    with TemporaryDirectory() as name:
        path = Path(name) / "program.npz"
        compile_graph(_network(), _engine()).save(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(str(arrays["meta"]))


def _program_file(rng: Random) -> bytes:
    arrays, meta = _program()
    if rng.random() < 0.3:
        return mutation.npz(rng, arrays)
    for _ in range(rng.choice((1, 1, 2, 4))):
        meta = mutation.json_value(rng, meta)
    buffer = io.BytesIO()
    np.savez(buffer, **{**arrays, "meta": np.array(json.dumps(meta))})
    return buffer.getvalue()


def _run_program(path: Path) -> object:
    """What a host does with a program before and after it talks to a board."""
    program = Program.load(path)
    host = program.host
    if host is None:
        return program
    info = host.tensors[host.input]
    codes = host.codes(np.zeros((1, *info.shape), np.float32 if info.format is None else np.int64))
    place = program.placements[host.source]
    place.encode(codes[0])
    left = {}
    for name in host.needed:
        if name not in program.placements:
            return program  # an accelerator refuses to open it
        place = program.placements[name]
        left[name] = place.decode(bytes(place.size))[None]
    return host.finish({host.source: codes, **left})


@cache
def _manifest() -> dict[str, Any]:
    return {"top": "engine", "configuration": asdict(_engine()), "versions": {"bitwright": "0"}}


def _manifest_file(rng: Random) -> bytes:
    data = json.dumps(mutation.json_value(rng, _manifest())).encode()
    return mutation.raw(rng, data) if rng.random() < 0.4 else data


def _record_file(rng: Random) -> bytes:
    sound = record.Record(
        name="record",
        title="T",
        method="checked",
        claim="C",
        command="c",
        date="2026-01-01",
        seconds=1.5,
        versions={"a": "1"},
        columns=("a", "b"),
        rows=(("x", 1), ("y", 2.5)),
        findings=("f",),
    )
    data = json.dumps(mutation.json_value(rng, sound.model_dump(mode="json"))).encode()
    return mutation.raw(rng, data) if rng.random() < 0.3 else data


TARGETS: Sequence[Target] = (
    Target("TFLite", "network.tflite", 22, _tflite_file, _compiled),
    Target("ONNX with QDQ", "network.onnx", 18, _onnx("qdq"), _compiled),
    Target("ONNX with QLinear", "network.onnx", 8, _onnx("qlinear"), _compiled),
    Target("QONNX", "network.onnx", 14, _onnx("qonnx"), _compiled),
    Target("configuration (TOML)", "engine.toml", 22, _configuration, lambda path: config.load(path)),
    Target(
        "precisions (TOML)",
        "layers.toml",
        6,
        lambda rng: mutation.text(rng, _PRECISIONS, _values()),
        _precisions,
    ),
    Target("inputs (.npy, .npz)", "inputs.npz", 6, _input_file, _inputs),
    Target("program (.npz)", "program.npz", 6, _program_file, _run_program),
    Target(
        "manifest (JSON)",
        "engine.json",
        2,
        _manifest_file,
        lambda path: output.of_another_engine(path.parent, _engine()),
    ),
    Target("record (JSON)", "record.json", 2, _record_file, lambda path: record.read(path.parent)),
)
"""Every kind of file that a command reads."""
