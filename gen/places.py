"""Which tensors share a place in memory, and how each of them looks at it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.sim.graph import Graph, NetworkError, Reshape, TensorInfo, Transpose, on_host

__all__ = ["View", "views"]

Axes = tuple[int, int, int, int]


@dataclass(frozen=True)
class View:
    """How a tensor looks at the place where it lies: ``values.transpose(axes).reshape(shape)``.

    A place is a map: batch, height, width and channels, pixel after pixel. Tensors that only relabel another
    one lie where that lies.

    Parameters
    ----------
    leader
        The tensor that the place was made for.
    place
        Batch, height, width, channels.
    axes
        Order of these four in the tensor, before it was given its shape.
    """

    leader: str
    place: tuple[int, int, int, int]
    axes: Axes

    def restore(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values in the tensor's order, behind an axis of any length, as the place has them."""
        ordered = values.reshape(-1, *(self.place[axis] for axis in self.axes))
        return ordered.transpose(0, *(1 + int(axis) for axis in np.argsort(self.axes)))


def _axes(tensor: TensorInfo) -> Axes | None:
    """The order of a tensor's own canonical axes; None where four of them do not describe it."""
    at, last = tensor.channels_at, max(0, len(tensor.shape) - 1)
    if at == last or tensor.size == 1:
        return 0, 1, 2, 3
    if at == 1 and len(tensor.shape) <= 4:
        return 0, 3, 1, 2
    return (3, 0, 1, 2) if at == 0 else None


def views(graph: Graph) -> dict[str, View]:
    """The view of each integer tensor that the engine holds.

    Raises
    ------
    NetworkError
        A node moves data in a way that is more than another name for them; it is named.
    """
    found: dict[str, View] = {}
    host = {node.output for node in graph.tail}
    nodes = {node.output: node for node in graph.nodes}
    for name, tensor in graph.tensors.items():
        if tensor.format is None or name in host:
            continue
        node = nodes.get(name)
        if not isinstance(node, Reshape | Transpose) or node.input not in found:
            axes = _axes(tensor)
            if axes is None:
                raise NetworkError(
                    f"tensor '{name}'",
                    f"has its channels on axis {tensor.channels_at} of {tensor.shape}",
                    "the engine knows them on the first, second or last axis",
                )
            found[name] = View(name, tensor.canonical, axes)
            continue
        source = found[node.input]
        axes = _axes(tensor)
        if axes is not None and _stays(graph, node, source):
            # The same pixels, perhaps in lines of another length.
            found[name] = View(source.leader, tensor.canonical, axes)
        elif isinstance(node, Reshape):
            found[name] = View(source.leader, source.place, source.axes)
        else:
            raise NetworkError(
                f"node '{node.name}'",
                f"brings axes into the order {node.axes}, which moves data",
                "the engine takes transpositions that only name the axes differently",
            )
    _look_as_read(graph, found)
    return found


def _look_as_read(graph: Graph, found: dict[str, View]) -> None:
    """Gives what the host writes the axes that its readers see, where these have it under another shape."""
    made = {node.output for node in graph.nodes if not on_host(node) and not isinstance(node, Reshape)}
    for place in {view.leader for view in found.values()} - made:
        sharing = [name for name, view in found.items() if view.leader == place]
        readers = [node for node in graph.nodes if set(node.inputs) & set(sharing)]
        seen = {
            (graph.tensors[name].canonical, _axes(graph.tensors[name]))
            for node in readers
            if not isinstance(node, Reshape)
            for name in node.inputs
            if name in sharing
        }
        if len(seen) != 1 or any(isinstance(node, Transpose) for node in readers):
            continue
        ((canonical, axes),) = seen
        if axes is not None:
            found.update({name: View(place, canonical, axes) for name in sharing})


def _stays(graph: Graph, node: Reshape | Transpose, view: View) -> bool:
    """Whether what a node makes has its source's channels, and its elements in the order of the memory."""
    source, result = graph.tensors[node.input], graph.tensors[node.output]
    if result.canonical[3] != view.place[3]:
        return False
    elements = np.arange(source.size).reshape(1, *source.shape)
    if isinstance(node, Transpose):
        moved = elements.transpose(0, *(1 + axis for axis in node.axes))
    else:
        moved = elements.reshape(1, *result.shape)
    return bool((view.restore(elements).ravel() == result.to_canonical(moved).ravel()).all())
