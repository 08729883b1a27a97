"""What the host computes of a network: quantising the input, and all that follows the last engine tensor."""

import base64
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitwright.hw.formats import Bipolar, Int, PowerOfTwo, Ternary, parse_format, short_name
from bitwright.hw.sched.registers import REGISTERS
from bitwright.sim import golden
from bitwright.sim import graph as graphs
from bitwright.sim.graph import Graph, NetworkError, Node, Quantize, TensorInfo

from .typed import typed

__all__ = ["OFFSETS", "HostPart", "start_registers"]

OFFSETS: Mapping[str, int] = {register.name: register.offset for register in REGISTERS}
"""Byte offset of each control register."""


def start_registers(
    *, memory_base: int, memory_bytes: int, program_address: int, instructions: int, watchdog: int, irq: bool
) -> tuple[tuple[int, int], ...]:
    """Offsets and values of the registers that a program needs, without `control`, which starts it.

    Parameters
    ----------
    memory_base, memory_bytes
        The window.
    program_address, instructions
        The program in it; see :class:`~bitwright.gen.program.Program`.
    watchdog
        Cycles without progress that are a fault.
    irq
        Whether `irq` is to say when it ends.
    """
    values = {
        "memory_base": memory_base,
        "memory_size": memory_bytes,
        "program": program_address,
        "instructions": instructions,
        "watchdog": watchdog,
        "irq_enable": int(irq),
    }
    return tuple((OFFSETS[name], value) for name, value in values.items())


@dataclass(frozen=True, kw_only=True, eq=False)
class HostPart:
    """The host's share of a network: one piece of code for the simulation and for a board.

    Parameters
    ----------
    name
        The network's.
    tensors
        What is known of each tensor that the host touches, by name.
    head
        What makes codes of the network's input; ``None`` where the input is codes.
    tail
        What runs on the tensors that the engine leaves, in order.
    input, output
        Names of the tensors at the network's edges.

    Raises
    ------
    NetworkError
        The parts do not fit together; the message names the node or the tensor.
    """

    name: str
    tensors: dict[str, TensorInfo]
    head: Quantize | None
    tail: tuple[Node, ...]
    input: str
    output: str

    def __post_init__(self) -> None:
        for key, tensor in self.tensors.items():
            if key != tensor.name:
                raise NetworkError(f"tensor '{tensor.name}'", f"is filed under the name '{key}'")
        for edge in (self.input, self.output):
            if edge not in self.tensors:
                raise NetworkError(f"network '{self.name}'", f"its edge '{edge}' is not among its tensors")
        if self.head is not None and self.head.input != self.input:
            raise NetworkError(f"node '{self.head.name}'", "does not read the network's input")
        made: set[str] = set()
        for node in self.nodes:
            Graph.check_node(node, self.tensors)
            if node.output in (self.input, *made):
                raise NetworkError(f"node '{node.name}'", f"produces '{node.output}', which exists already")
            made.add(node.output)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostPart) and self.as_json() == other.as_json()

    def __hash__(self) -> int:
        return hash((self.name, self.input, self.output))

    @classmethod
    def of(cls, graph: Graph) -> "HostPart":
        """The host's share of a graph."""
        head = next((node for node in graph.nodes if isinstance(node, Quantize)), None)
        nodes = [*([head] if head else []), *graph.tail]
        names = {graph.input, graph.output}
        names |= {name for node in nodes for name in (*node.inputs, node.output)}
        return cls(
            name=graph.name,
            tensors={name: graph.tensors[name] for name in graph.tensors if name in names},
            head=head,
            tail=graph.tail,
            input=graph.input,
            output=graph.output,
        )

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All of them, in execution order."""
        return (*([self.head] if self.head else []), *self.tail)

    @property
    def source(self) -> str:
        """The tensor that goes to the engine."""
        return self.head.output if self.head else self.input

    @property
    def needed(self) -> tuple[str, ...]:
        """The tensors that the engine has to leave in memory for it, or for the user."""
        made = {node.output for node in self.nodes}
        wanted = [name for node in self.tail for name in node.inputs] + [self.output]
        return tuple(dict.fromkeys(name for name in wanted if name not in made and name != self.input))

    def codes(self, inputs: ArrayLike) -> NDArray[Any]:
        """Codes of :attr:`source` for a batch, ``(n, *shape)``.

        Raises
        ------
        NetworkError
            As :func:`bitwright.sim.golden.prepare_input`.
        """
        batch = golden.prepare_input(self, inputs)
        if self.head is None or batch.dtype.kind != "f":
            return batch
        return golden.compute(self, self.head, {self.input: batch})

    def finish(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What the tail makes of a batch, by tensor; and the tensors given, of the types that hold them.

        Parameters
        ----------
        values
            :attr:`needed`, and :attr:`source`, shaped ``(n, *shape)``, of any integer type.
        """
        made: dict[str, NDArray[Any]] = {
            name: values[name].astype(golden.storage_type(self.tensors[name]))
            for name in self.tensors
            if name in values
        }
        for node in self.tail:
            made[node.output] = golden.compute(self, node, made)
        return made

    def as_json(self) -> dict[str, Any]:
        """The fields, with their types."""
        encoded: dict[str, Any] = _encode(self)
        return encoded

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "HostPart":
        """Inverse of :meth:`as_json`.

        Raises
        ------
        KeyError, TypeError, ValueError
            It is none.
        NetworkError
            Its parts do not fit together.
        """
        part = _decode(fields)
        if not isinstance(part, cls):
            raise TypeError(f"{type(part).__name__} is not the host's part of a network")
        return part


# Dataclasses of the graph as JSON, each with the name of its type

_TYPES: dict[str, type[Any]] = {
    name: kind
    for name, kind in {**vars(graphs), "HostPart": HostPart}.items()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and name != "Graph"
}


def _encode(value: Any) -> Any:
    match value:
        case Int() | Bipolar() | Ternary() | PowerOfTwo():
            return {"type": "format", "name": short_name(value)}
        case np.ndarray():
            raw = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
            return {"type": "array", "dtype": value.dtype.str, "shape": value.shape, "data": raw}
        case np.generic():
            return value.item()
        case tuple() | list():
            return {"type": "tuple", "items": [_encode(item) for item in value]}
        case dict():
            return {"type": "dict", "items": [[_encode(key), _encode(item)] for key, item in value.items()]}
        case None | bool() | int() | float() | str():
            return value
        case _ if type(value).__name__ in _TYPES:
            fields = {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
            return {"type": type(value).__name__, "fields": fields}
    raise TypeError(f"{type(value).__name__} cannot be written to a program")


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    match value["type"]:
        case "format":
            return parse_format(value["name"])
        case "array":
            raw = np.frombuffer(base64.b64decode(value["data"]), np.dtype(value["dtype"]))
            return raw.reshape(value["shape"])
        case "tuple":
            return tuple(_decode(item) for item in value["items"])
        case "dict":
            return {_decode(key): _decode(item) for key, item in value["items"]}
        case name:
            return typed(_TYPES[name], {key: _decode(item) for key, item in value["fields"].items()})
