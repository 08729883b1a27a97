"""What the mapper makes of a network for one engine: instructions, memory image, and where everything is."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.config import INSTRUCTION_BITS, EngineConfig
from bitwright.hw.errors import BitwrightError
from bitwright.hw.formats import parse_format, short_name
from bitwright.hw.sched.isa import Instruction
from bitwright.hw.storage import Storage
from bitwright.sim.graph import NetworkError

from .arrays import read_arrays
from .config import validated
from .host_part import HostPart
from .typed import typed

__all__ = ["LayerPlan", "Placement", "Program"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a tensor lies in memory.

    A place is a map of batch, height, width and channels: a matrix of ``rows`` pixels x ``columns`` channels,
    each row stored as ``storage`` says and padded to ``stride`` bytes. The tensor is
    ``map.transpose(axes).reshape(shape)``. An element's code is ``scale * stored + offset + bias``: an
    unsigned tensor is shifted into a signed range, and one of -1 and +1 may be one bit of an integer. That
    costs the hardware nothing, as bias and thresholds make up for it. Accumulators are stored without their
    bias, which is one for each column.

    Parameters
    ----------
    name, shape
        The tensor's, as in the graph.
    place, axes
        The map, and the order of its axes in the tensor.
    address, stride
        Bytes, from the start of the window.
    lines
        Whether a row of the matrix is a line of the map, all its pixels' channels one behind the other,
        without gaps. What fills up a line is real 0 then, as what stands outside the map is.
    zero
        The code of real 0.
    stored
        Whether it is there when the program has run; otherwise it has stayed on chip, or something else lies
        there by then.
    scale, offset, bias, storage
        As above.
    """

    name: str
    shape: tuple[int, ...]
    place: tuple[int, int, int, int]
    axes: tuple[int, int, int, int]
    address: int
    stride: int
    storage: Storage
    lines: bool = False
    zero: int = 0
    scale: int = 1
    offset: int = 0
    bias: tuple[int, ...] = ()
    stored: bool = True

    @property
    def rows(self) -> int:
        """Rows of the matrix."""
        return prod(self.place[: 2 if self.lines else 3])

    @property
    def columns(self) -> int:
        """Elements of a row."""
        return prod(self.place[2:]) if self.lines else self.place[3]

    @property
    def size(self) -> int:
        """Bytes taken."""
        return self.rows * self.stride

    def encode(self, codes: NDArray[np.integer]) -> bytes:
        """Bytes at ``address`` for a tensor's codes; padding is zero."""
        ordered = codes.reshape([self.place[axis] for axis in self.axes]).transpose(np.argsort(self.axes))
        values = ordered.reshape(self.rows, self.columns).astype(np.int64)
        if self.lines:
            room = self.stride * 8 // self.storage.bits - self.columns
            values = np.pad(values, ((0, 0), (0, room)), constant_values=self.zero)
        stored = values - self._offsets
        bits = self.storage.encode(stored // self.scale)
        padding = self.stride * 8 - bits.shape[1]
        return np.packbits(np.pad(bits, ((0, 0), (0, padding))), axis=-1, bitorder="little").tobytes()

    def decode(self, data: bytes) -> NDArray[np.int64]:
        """A tensor's codes from the ``size`` bytes at ``address``."""
        raw = np.frombuffer(data, np.uint8).reshape(self.rows, self.stride)
        bits = np.unpackbits(raw, axis=-1, bitorder="little")
        values = self.scale * self.storage.decode(bits, self.columns) + self._offsets
        return values.reshape(self.place).transpose(self.axes).reshape(self.shape)

    @property
    def _offsets(self) -> NDArray[np.int64]:
        return np.array(self.bias or 0, np.int64) + self.offset

    def as_json(self) -> dict[str, Any]:
        """The fields, the format by its name."""
        storage = asdict(self.storage) | {"format": short_name(self.storage.format)}
        return asdict(self) | {"storage": storage}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Placement":
        """Inverse of :meth:`as_json`."""
        storage = fields["storage"]
        storage = typed(Storage, {**storage, "format": parse_format(storage["format"])})
        tuples = {key: tuple(fields[key]) for key in ("shape", "place", "axes", "bias")}
        return typed(cls, {**fields, **tuples, "storage": storage})


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """One layer of a program.

    Parameters
    ----------
    name
        The graph node's.
    macs
        Multiply-accumulate operations of one inference.
    snapshot
        Byte address at which the engine leaves its event counters when the layer is through.
    predicted_cycles
        Of the layer, by the cycle model.
    precision
        Formats in force, as ``a8w8``.
    tiling
        How the mapper cut it, for the report.
    """

    name: str
    macs: int
    snapshot: int
    predicted_cycles: int
    precision: str
    tiling: str


@dataclass(frozen=True, kw_only=True)
class Program:
    """A network, compiled for one engine.

    Parameters
    ----------
    network
        Its name.
    config
        The engine that it runs on.
    instructions
        In program order.
    image
        Initial contents of the window, as far as they matter.
    memory_bytes
        Size of the window.
    program_address
        Byte address of the first instruction.
    placements
        Every integer tensor, by name.
    layers
        In execution order.
    host
        What the host computes of the network; ``None`` for instructions without one.
    """

    network: str
    config: EngineConfig
    instructions: Sequence[Instruction]
    image: bytes
    memory_bytes: int
    program_address: int
    placements: dict[str, Placement]
    layers: Sequence[LayerPlan]
    host: HostPart | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference."""
        return sum(layer.macs for layer in self.layers)

    @property
    def predicted_cycles(self) -> int:
        """Of one inference, by the cycle model."""
        return sum(layer.predicted_cycles for layer in self.layers)

    def save(self, path: Path) -> None:
        """Write arrays ``instructions`` (n x 32 bytes) and ``image``, and ``meta``, JSON text.

        The same program gives the same bytes; nothing says where or when it was written.
        """
        encoded = b"".join(instruction.encode() for instruction in self.instructions)
        meta = {
            "network": self.network,
            "config": asdict(self.config),
            "memory_bytes": self.memory_bytes,
            "program_address": self.program_address,
            "instructions": len(self.instructions),
            "tensors": [placement.as_json() for placement in self.placements.values()],
            "layers": [asdict(layer) for layer in self.layers],
            "host": self.host and self.host.as_json(),
            "versions": {name: version(name) for name in ("bitwright", "numpy")},
        }
        np.savez_compressed(
            path,
            instructions=np.frombuffer(encoded, np.uint8).reshape(-1, INSTRUCTION_BITS // 8),
            image=np.frombuffer(self.image, np.uint8),
            meta=np.array(json.dumps(meta)),
        )

    @classmethod
    def load(cls, path: Path) -> "Program":
        """Inverse of :meth:`save`.

        Raises
        ------
        NetworkError
            The file is not a program.
        """
        try:
            arrays = read_arrays(
                path, ("meta", "instructions", "image"), required=("meta", "instructions", "image")
            )
            meta = json.loads(str(arrays["meta"]))
            program = cls(
                network=meta["network"],
                config=validated("config", meta["config"]),
                instructions=[Instruction.decode(row.tobytes()) for row in _bytes(arrays["instructions"], 2)],
                image=_bytes(arrays["image"], 1).tobytes(),
                memory_bytes=meta["memory_bytes"],
                program_address=meta["program_address"],
                placements={tensor["name"]: Placement.from_json(tensor) for tensor in meta["tensors"]},
                layers=[typed(LayerPlan, layer) for layer in meta["layers"]],
                host=None if meta["host"] is None else HostPart.from_json(meta["host"]),
            )
            _check(program)
        except (
            OSError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            RecursionError,
            BitwrightError,
        ) as error:
            raise NetworkError(
                f"program '{path}'", f"is not a program written by 'bitwright compile' ({error})"
            ) from error
        return program


def _bytes(array: NDArray[Any], axes: int) -> NDArray[np.uint8]:
    if (
        array.dtype != np.uint8
        or array.ndim != axes
        or (axes == 2 and array.shape[1] != INSTRUCTION_BITS // 8)
    ):
        raise ValueError(
            f"{array.shape} elements of type {array.dtype} are neither instructions nor an image"
        )
    return array


def _check(program: Program) -> None:
    """Check what a host relies on: everything lies in the window, and holds what it is said to hold.

    Raises
    ------
    ValueError
        It does not.
    """

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise ValueError(what)

    size = program.memory_bytes
    require(isinstance(program.network, str), "the network's name is no text")
    require(
        type(size) is int and type(program.program_address) is int,
        "memory_bytes and program_address are no numbers",
    )
    require(0 < size <= 1 << program.config.address_bits, f"a window of {size} bytes")
    end = program.program_address + len(program.instructions) * INSTRUCTION_BITS // 8
    require(0 <= program.program_address <= end <= size, "instructions outside of the window")
    require(len(program.image) <= size, "an image larger than the window")
    for layer in program.layers:
        require(0 <= layer.snapshot < size, f"layer {layer.name!r}: counters outside of the window")
    for name, place in program.placements.items():
        storage = place.storage
        require(
            all(length > 0 for length in (*place.place, *place.shape, place.stride, storage.block))
            and sorted(place.axes) == list(range(4))
            and prod(place.place) == prod(place.shape),
            f"tensor {name!r}: its shape and its place do not agree",
        )
        require(
            storage.format.bits <= storage.bits <= 32
            and storage.row_bits(place.columns) <= place.stride * 8
            and len(place.bias) in (0, place.columns),
            f"tensor {name!r}: its rows do not hold their elements",
        )
        require(
            0 <= place.address <= place.address + place.size * place.stored <= size,
            f"tensor {name!r}: outside of the window",
        )
        numbers = (place.scale, place.offset, place.zero, *place.bias)
        require(
            place.scale != 0 and all(abs(number) < 1 << 40 for number in numbers),
            f"tensor {name!r}: its codes are beyond all measure",
        )
    host = program.host
    if host is None:
        return
    for name in (host.source, *host.needed):
        info = host.tensors[name]
        require(info.format is not None, f"tensor {name!r}: has no codes")
        # What has stayed on chip has no place, which whoever wants it is told.
        if name in program.placements:
            require(program.placements[name].shape == info.shape, f"tensor {name!r}: has two shapes")
    require(host.source in program.placements, f"tensor {host.source!r}: has no place in memory")
    place = program.placements[host.source]
    format = host.tensors[host.source].format
    assert format is not None
    offsets = [place.offset + bias for bias in place.bias or (0,)]
    bounds = [(code - offset) // place.scale for code in (format.min, format.max) for offset in offsets]
    require(
        place.storage.format.min <= min(bounds) and max(bounds) <= place.storage.format.max,
        f"tensor {host.source!r}: its codes do not fit where they are put",
    )
