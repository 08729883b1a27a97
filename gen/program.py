"""What the mapper makes of a network for one engine: instructions, memory image, and where everything is."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from bitwright.hw.config import INSTRUCTION_BITS, EngineConfig
from bitwright.hw.formats import Int
from bitwright.hw.sched.isa import Instruction
from bitwright.sim.graph import NetworkError

__all__ = ["LayerPlan", "Placement", "Program"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a tensor lies in memory.

    A tensor is a matrix of ``rows`` x ``columns`` elements (its last axis is the column), each row padded
    to ``stride`` bytes. An element's code is stored less ``offset``, in ``bits`` two's-complement bits: an
    unsigned tensor is shifted into the signed range, which costs the hardware nothing as the bias makes up
    for it.

    Parameters
    ----------
    name, shape
        The tensor's, as in the graph.
    address, stride
        Bytes, from the start of the window.
    rows, columns, bits, offset
        As above.
    """

    name: str
    shape: tuple[int, ...]
    address: int
    rows: int
    columns: int
    stride: int
    bits: int
    offset: int

    @property
    def size(self) -> int:
        """Bytes taken."""
        return self.rows * self.stride

    def encode(self, codes: NDArray[np.integer]) -> bytes:
        """Bytes at ``address`` for a tensor's codes; padding is zero."""
        per_row = self.stride * 8 // self.bits
        padded = np.zeros((self.rows, per_row), np.int64)
        padded[:, : self.columns] = codes.reshape(self.rows, self.columns).astype(np.int64) - self.offset
        return Int(self.bits).pack(padded).tobytes()

    def decode(self, data: bytes) -> NDArray[np.int64]:
        """A tensor's codes from the ``size`` bytes at ``address``."""
        raw = np.frombuffer(data, np.uint8).reshape(self.rows, self.stride)
        values = Int(self.bits).unpack(raw)[:, : self.columns] + self.offset
        return values.reshape(self.shape)


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
    tiling
        How the mapper cut it, for the report.
    """

    name: str
    macs: int
    snapshot: int
    predicted_cycles: int
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
    """

    network: str
    config: EngineConfig
    instructions: Sequence[Instruction]
    image: bytes
    memory_bytes: int
    program_address: int
    placements: dict[str, Placement]
    layers: Sequence[LayerPlan]

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference."""
        return sum(layer.macs for layer in self.layers)

    @property
    def predicted_cycles(self) -> int:
        """Of one inference, by the cycle model."""
        return sum(layer.predicted_cycles for layer in self.layers)

    def save(self, path: Path) -> None:
        """Write arrays ``instructions`` (n x 32 bytes) and ``image``, and ``meta``, JSON text."""
        encoded = b"".join(instruction.encode() for instruction in self.instructions)
        meta = {
            "network": self.network,
            "config": asdict(self.config),
            "memory_bytes": self.memory_bytes,
            "program_address": self.program_address,
            "instructions": len(self.instructions),
            "tensors": [asdict(placement) for placement in self.placements.values()],
            "layers": [asdict(layer) for layer in self.layers],
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
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                instructions = [Instruction.decode(row.tobytes()) for row in file["instructions"]]
                image = file["image"].tobytes()
            return cls(
                network=meta["network"],
                config=EngineConfig(**meta["config"]),
                instructions=instructions,
                image=image,
                memory_bytes=meta["memory_bytes"],
                program_address=meta["program_address"],
                placements={
                    tensor["name"]: Placement(**{**tensor, "shape": tuple(tensor["shape"])})
                    for tensor in meta["tensors"]
                },
                layers=[LayerPlan(**layer) for layer in meta["layers"]],
            )
        except (OSError, KeyError, TypeError, ValueError, BadZipFile) as error:
            raise NetworkError(
                str(path), f"is not a program written by 'bitwright compile' ({error})"
            ) from error
