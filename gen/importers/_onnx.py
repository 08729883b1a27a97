"""What the importers of ONNX files share: reading the file, walking its nodes, constants and shapes.

The nodes are walked once, in order, each making a value out of its inputs' values. What a value is, each
importer says for itself; the names and shapes of tensors are looked after here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bitwright.hw.formats import Format, Int
from bitwright.sim.graph import Graph, NetworkError, Node, Padding, Reshape, TensorInfo, Transpose

__all__ = [
    "DOMAINS",
    "EXPORT",
    "FORMATS",
    "Constant",
    "Draft",
    "Walker",
    "Window",
    "attribute",
    "axes_of_reshape",
    "convolution_of",
    "gemm_transposes",
    "node_name",
    "operator_of",
    "pool_window",
    "read",
    "stored",
    "type_name",
    "where_of",
]

FORMATS: dict[int, Int] = {
    TensorProto.INT4: Int(4),
    TensorProto.UINT4: Int(4, signed=False),
    TensorProto.INT8: Int(8),
    TensorProto.UINT8: Int(8, signed=False),
    TensorProto.INT16: Int(16),
    TensorProto.UINT16: Int(16, signed=False),
    TensorProto.INT32: Int(32),
}
"""Formats of ONNX's integer types."""

DOMAINS = ("", "ai.onnx")
"""Names of ONNX's own domain of operators."""

EXPORT = "export the network again"
"""What to do about a file that contradicts itself."""


def read(data: bytes, where: str) -> onnx.ModelProto:
    """Model of an ONNX file; no other file is opened.

    Parameters
    ----------
    data
        Content of the file.
    where
        How messages about the file as a whole begin.

    Raises
    ------
    NetworkError
        The file is damaged or no ONNX file.
    """
    model = onnx.ModelProto()
    try:
        # Not onnx.load: that would also open files which the model names.
        model.ParseFromString(data)
    except Exception:  # DecodeError comes from whichever protobuf implementation is in use
        raise NetworkError(where, "is no TFLite or ONNX file, or a truncated one", EXPORT) from None
    if model.ir_version < 1 or not model.HasField("graph"):
        raise NetworkError(where, "is no TFLite or ONNX file", "give a .tflite or .onnx file")
    _check_text(model.graph, where)
    return model


def _check_text(graph: onnx.GraphProto, where: str) -> None:
    # Protobuf checks none of its strings, and hands over as bytes what is not UTF-8.
    texts: list[object] = [named.name for named in (*graph.initializer, *graph.input, *graph.output)]
    for node in graph.node:
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output]
    for text in texts:
        if not isinstance(text, str):
            raise NetworkError(where, f"holds a name that is not UTF-8, {text!r}", EXPORT)


@dataclass(frozen=True)
class Constant:
    """Numbers known now; `format` is that of integers which can be dequantised."""

    array: NDArray[Any]
    format: Int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the numbers."""
        return self.array.shape


@dataclass
class Draft:
    """A tensor of the graph being made. An integer input's scale is known only once it is dequantised."""

    shape: tuple[int, ...]
    format: Format | None
    scale: float | None = None
    zero_point: int = 0
    source: str | None = None
    """The tensor that this one is a reshaped copy of, and that holds its scale."""
    channel_axis: int | None = None
    """Which axis counts channels, once something has said so."""
    links: tuple[tuple[str, tuple[int | None, ...]], ...] = ()
    """Tensors whose axes live on in this one, and for each axis of this one, that of theirs, if any."""


def axes_of_reshape(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int | None, ...]:
    """For each axis of a reshaped tensor, which of the old axes it is, if any.

    It is the old one where it has as many elements, and as many before it.
    """
    places = {(prod(old[:axis]), size): axis for axis, size in enumerate(old) if size > 1}
    return tuple(places.get((prod(new[:axis]), size)) for axis, size in enumerate(new))


@dataclass(frozen=True)
class Window:
    """Where a kernel is laid over height and width; a signal with one axis has the height 1.

    Parameters
    ----------
    kernel, stride, dilation, padding
        As the integer graph has them. Padding at the end is what makes the output as large as `size`.
    size
        Axes of the output after batch and channels: one or two.
    overhang
        Whether windows reach beyond what the file itself pads, because sizes are rounded up.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: Padding
    size: tuple[int, ...]
    overhang: bool = False

    @staticmethod
    def whole(spatial: tuple[int, ...]) -> "Window":
        """The window that covers a whole map."""
        height, width = (1, *spatial) if len(spatial) == 1 else spatial
        return Window((height, width), (1, 1), (1, 1), ((0, 0), (0, 0)), (1,) * len(spatial))


def gemm_transposes(node: onnx.NodeProto, where: str) -> bool:
    """Whether a Gemm's weights are transposed.

    Raises
    ------
    NetworkError
        An attribute says what weights and bias could say.
    """
    transposed: int = attribute(node, "transB", 0, where)
    for key, allowed, given in (
        ("alpha", (1.0,), attribute(node, "alpha", 1.0, where)),
        ("beta", (1.0,), attribute(node, "beta", 1.0, where)),
        ("transA", (0,), attribute(node, "transA", 0, where)),
        ("transB", (0, 1), transposed),
    ):
        if given not in allowed:
            raise NetworkError(
                where,
                f"{key} = {given} is not supported",
                f"fold it into the weights so that {key} is {allowed[0]}",
            )
    return bool(transposed)


def convolution_of(
    node: onnx.NodeProto, source: tuple[int, ...], weights: tuple[int, ...], where: str
) -> tuple[int, Window]:
    """Groups and window of a convolution.

    Parameters
    ----------
    source
        Axes of the input: batch, channels, one or two of space.
    weights
        Those of the weights: output channels, input channels of a group, and space.

    Raises
    ------
    NetworkError
        The shapes, or an attribute and the shapes, contradict each other, or there are more axes.
    """
    if len(source) not in (3, 4) or len(weights) != len(source) or 0 in weights:
        raise NetworkError(
            where,
            f"input {source} and weights {weights} are not those of a convolution over one or two axes",
            "only 1-D and 2-D convolutions are supported",
        )
    groups: int = attribute(node, "group", 1, where)
    if groups < 1 or weights[0] % groups or weights[1] * groups != source[1]:
        raise NetworkError(
            where, f"input {source}, weights {weights} and {groups} groups do not agree", EXPORT
        )
    kernel = weights[2:]
    given = attribute(node, "kernel_shape", kernel, where)
    if given != kernel:
        raise NetworkError(where, f"kernel_shape {given} is not that of its weights, {kernel}", EXPORT)
    return groups, _window(node, source[2:], kernel, False, where)


def pool_window(node: onnx.NodeProto, spatial: tuple[int, ...], where: str) -> Window:
    """Window of a pooling operator; see :func:`convolution_of`."""
    kernel = attribute(node, "kernel_shape", (), where)
    window = _window(node, spatial, kernel, bool(attribute(node, "ceil_mode", 0, where)), where)
    if window.dilation != (1, 1):
        raise NetworkError(where, f"dilates its window by {window.dilation}", "pool without dilation")
    for size, pads in zip(window.kernel, window.padding, strict=True):
        if max(pads) >= size:
            raise NetworkError(where, f"padding {window.padding} is not below kernel {window.kernel}", EXPORT)
    return window


def _window(
    node: onnx.NodeProto, spatial: tuple[int, ...], kernel: tuple[int, ...], ceil: bool, where: str
) -> Window:
    count = len(spatial)
    if count not in (1, 2):
        raise NetworkError(
            where, f"has {count} axes beside batch and channels", "only one or two are supported"
        )
    strides = attribute(node, "strides", (1,) * count, where)
    dilations = attribute(node, "dilations", (1,) * count, where)
    pads = attribute(node, "pads", (0,) * (2 * count), where)
    if any(len(values) != count for values in (kernel, strides, dilations)) or len(pads) != 2 * count:
        raise NetworkError(where, f"kernel, strides, dilations or pads are not for {count} axes", EXPORT)
    if min(*kernel, *strides, *dilations) < 1:
        raise NetworkError(where, "kernel, strides or dilations are not positive", EXPORT)
    if min(pads) < 0:
        raise NetworkError(where, f"pads {list(pads)} are negative", "slice before it, on the host")
    if max(*spatial, *kernel, *strides, *dilations, *pads) > 1 << 24:
        raise NetworkError(where, "kernel, strides, dilations or pads are beyond all measure", EXPORT)
    auto = attribute(node, "auto_pad", "NOTSET", where)
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise NetworkError(where, f"auto_pad {auto} is not known", EXPORT)
    axes = [
        _along(*numbers, auto=auto, ceil=ceil)
        for numbers in zip(spatial, kernel, strides, dilations, pads[:count], pads[count:], strict=True)
    ]
    sizes, paddings, overhangs = zip(*axes, strict=True)
    if min(sizes) < 1:
        raise NetworkError(where, f"kernel {kernel} does not fit its input {spatial}", EXPORT)

    def pair(values: Sequence[Any], missing: Any) -> tuple[Any, Any]:
        return (missing, *values) if count == 1 else tuple(values)

    return Window(
        kernel=pair(kernel, 1),
        stride=pair(strides, 1),
        dilation=pair(dilations, 1),
        padding=pair(paddings, (0, 0)),
        size=sizes,
        overhang=any(overhangs),
    )


def _along(
    size: int, kernel: int, stride: int, dilation: int, before: int, behind: int, *, auto: str, ceil: bool
) -> tuple[int, tuple[int, int], bool]:
    """Number of windows, padding and overhang along one axis."""
    reach = (kernel - 1) * dilation + 1
    if auto.startswith("SAME"):
        count = -(-size // stride)
        total = max((count - 1) * stride + reach - size, 0)
        before = total // 2 if auto == "SAME_UPPER" else total - total // 2
        return count, (before, total - before), False
    if auto == "VALID":
        before = behind = 0
    free = size + before + behind - reach
    if free < 0:
        return 0, (before, behind), False
    count = free // stride + 1
    # Rounded up, unless that window would begin behind the input and its padding before it.
    if ceil and free % stride and count * stride < size + before:
        behind = count * stride + reach - size - before
        return count + 1, (before, behind), True
    return count, (before, behind), False


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


V = TypeVar("V", bound=_Shaped)


class Walker(ABC, Generic[V]):
    """Walks the nodes of an ONNX graph that the output depends on, and makes an integer graph of them.

    Parameters
    ----------
    graph
        The file's graph.
    name
        What to call the graph.
    where
        How messages about the file as a whole begin.

    Raises
    ------
    NetworkError
        The graph does not have one input and one output.
    """

    def __init__(self, graph: onnx.GraphProto, name: str, where: str):
        self._graph = graph
        self._name = name
        self._where = where
        self._initialisers = {tensor.name: tensor for tensor in graph.initializer}
        self._values: dict[str, V] = {}
        self._drafts: dict[str, Draft] = {}
        self._nodes: list[Node] = []
        self._node_names: set[str] = set()
        self._rows: dict[tuple[str, tuple[int, ...]], str] = {}
        self._methods = self._operators()
        self._several = self._operators_of_several()
        self._taken = {name for node in graph.node for name in node.output}
        self._input = self._edge("input", [i for i in graph.input if i.name not in self._initialisers])
        self._output = self._edge("output", list(graph.output))
        self._taken.add(self._input)

    def graph(self) -> Graph:
        """The integer graph.

        Raises
        ------
        NetworkError
            The network holds something that cannot be lowered; the message names the node.
        """
        self._declare_input()
        live = self._live()
        # Operators first: one that is not supported says more than what its neighbours lack.
        self._check_supported(live)
        for node in live:
            self._values.update(self._lowered(node))
        self._finish()
        self._settle_channels()
        return Graph(
            name=self._name,
            tensors={name: self._info(name) for name in self._drafts},
            nodes=tuple(self._nodes),
            input=self._input,
            output=self._output,
        )

    # What an importer adds

    @abstractmethod
    def _operators(self) -> dict[str, Callable[[onnx.NodeProto, str], V]]:
        """How each operator is lowered."""

    def _operators_of_several(self) -> dict[str, Callable[[onnx.NodeProto, str], dict[str, V]]]:
        """How each operator that may have several outputs is lowered, to all of them by name."""
        return {}

    @abstractmethod
    def _is_supported(self, node: onnx.NodeProto) -> bool:
        """Whether a node can be lowered, as far as its operator and domain tell."""

    @abstractmethod
    def _declare_input(self) -> None:
        """Make the value and the draft of the graph's input."""

    @abstractmethod
    def _finish(self) -> None:
        """Make the graph's output of its value."""

    @abstractmethod
    def _of_constant(self, constant: Constant) -> V:
        """A constant as a value."""

    @abstractmethod
    def _numbers(self, value: V, what: str, where: str) -> NDArray[Any]:
        """A constant that is not an operand of a product, as plain numbers."""

    @abstractmethod
    def _reshaped(self, node: onnx.NodeProto, value: V, shape: tuple[int, ...], where: str) -> V:
        """A value under another shape, with as many elements."""

    # The edges

    def _edge(self, kind: str, values: Sequence[onnx.ValueInfoProto]) -> str:
        if len(values) != 1:
            names = ", ".join(f"'{value.name}'" for value in values) or "none"
            raise NetworkError(
                self._where,
                f"must have one {kind}, but has {len(values)}: {names}",
                f"cut the network to one {kind}",
            )
        return values[0].name

    def _input_type(self) -> tuple[int, tuple[int, ...]]:
        """Element type and shape of the graph's input."""
        info = next(value for value in self._graph.input if value.name == self._input)
        where = f"input '{self._input}'"
        tensor = info.type.tensor_type
        if not tensor.HasField("shape"):
            raise NetworkError(where, "has no shape", "export the network with fixed shapes")
        shape = []
        for axis, size in enumerate(tensor.shape.dim):
            if size.HasField("dim_value") and size.dim_value > 0:
                shape.append(size.dim_value)
            elif axis == 0 and not (size.HasField("dim_value") and size.dim_value == 0):
                # A symbolic batch: the graph computes one input at a time.
                shape.append(1)
            else:
                raise NetworkError(
                    where, f"axis {axis} has no fixed size", "export the network with fixed shapes"
                )
        return tensor.elem_type, tuple(shape)

    def _info(self, name: str) -> TensorInfo:
        draft = self._drafts[name]
        root = self._root(name)
        return TensorInfo(
            name=name,
            shape=draft.shape,
            format=draft.format,
            scale=1.0 if root.scale is None else root.scale,
            zero_point=root.zero_point,
            channel_axis=None if draft.channel_axis == len(draft.shape) - 1 else draft.channel_axis,
        )

    def _root(self, name: str) -> Draft:
        draft = self._drafts[name]
        while draft.source is not None:
            draft = self._drafts[draft.source]
        return draft

    # Which axis counts channels

    def _declare(
        self,
        name: str,
        draft: Draft,
        *sources: str,
        axes: tuple[int | None, ...] | None = None,
        channel_axis: int | None = None,
    ) -> None:
        """Add a tensor.

        Parameters
        ----------
        sources
            Tensors that it is made of, element by element unless `axes` says otherwise.
        axes
            For each axis, that of the sources which lives on in it.
        channel_axis
            Where the channels are, if the node that makes it says so; otherwise it is what the sources
            say, or what a node that reads it will say.
        """
        draft.links = tuple((name, axes or tuple(range(len(draft.shape)))) for name in sources)
        draft.channel_axis = channel_axis if channel_axis is not None else self._inherited(draft)
        self._drafts[name] = draft

    def _inherited(self, draft: Draft) -> int | None:
        for source, axes in draft.links:
            known = self._drafts[source].channel_axis
            if known is not None and known in axes:
                return axes.index(known)
        return None

    def _settle_channels(self) -> None:
        for draft in self._drafts.values():
            if draft.channel_axis is None:
                draft.channel_axis = self._inherited(draft)

    def _with_channels(self, name: str, axis: int, what: str) -> str:
        """The tensor, or a copy of it, whose channels are on that axis."""
        draft = self._drafts[name]
        if draft.channel_axis is None:
            self._learn(name, axis)
        if draft.channel_axis != axis:
            copy = self._fresh(f"{name}_by_axis_{axis}")
            self._drafts[copy] = Draft(draft.shape, draft.format, source=name, channel_axis=axis)
            self._append(Reshape(name=f"{what}_input", input=name, output=copy))
            return copy
        return name

    def _learn(self, name: str, axis: int) -> None:
        """Note where a tensor's channels are, and those of the tensors that it was made of."""
        draft = self._drafts[name]
        if draft.channel_axis is not None:
            return
        draft.channel_axis = axis
        for source, axes in draft.links:
            old = axes[axis]
            if old is not None:
                self._learn(source, old)

    def _side_by_side(self, tensors: list[str], what: str) -> list[str]:
        """The same tensors with their channels on one axis, if any of them knows on which."""
        axes = [self._drafts[name].channel_axis for name in tensors]
        known = next((axis for axis in axes if axis is not None), None)
        return tensors if known is None else [self._with_channels(name, known, what) for name in tensors]

    def _as_row(
        self, name: str, shape: tuple[int, ...], count: int, given: NDArray[np.int64] | None = None
    ) -> tuple[str, NDArray[np.int64]] | None:
        """A map of so many elements as one row of that shape, channels last.

        A map with channels first that was flattened holds its elements in an order that no memory with
        channels last has. What reads the row may take them in the other order.

        Parameters
        ----------
        given
            The elements, numbered in the order of the map's own axes, as they stand in the row of the file;
            in that same order unless given.

        Returns
        -------
        The row, and for each of its elements, the place it has in that of the file; ``None`` if both are
        the same, or where it is not known on which axis the channels are.
        """
        draft = self._drafts[name]
        axis = draft.channel_axis
        if axis is None or prod(draft.shape) != count:
            return None
        elements = np.arange(count)
        given = elements if given is None else given
        wanted = np.moveaxis(elements.reshape(draft.shape), axis, -1).reshape(-1)
        if (given == wanted).all():
            return None
        if (name, shape) not in self._rows:
            others = tuple(at for at in range(len(draft.shape)) if at != axis)
            turned = self._fresh(f"{name}_channels_last")
            axes = (*others, axis)
            size = tuple(draft.shape[at] for at in axes)
            self._declare(turned, Draft(size, draft.format, source=name), name, axes=axes)
            self._append(Transpose(name=turned, input=name, output=turned, axes=axes))
            row = self._fresh(f"{name}_flat")
            self._relabel(row, turned, row, shape)
            self._drafts[row].channel_axis = len(shape) - 1
            self._rows[name, shape] = row
        place = np.empty_like(wanted)
        place[given] = elements
        return self._rows[name, shape], place[wanted]

    # Walking the nodes

    def _live(self) -> list[onnx.NodeProto]:
        """The nodes that the output depends on, in the file's order."""
        producer: dict[str, int] = {}
        for index, node in enumerate(self._graph.node):
            for name in node.output:
                if name in producer or name in self._initialisers or name == self._input:
                    raise NetworkError(where_of(node), f"produces '{name}', which exists already", EXPORT)
                if name:
                    producer[name] = index
        live: set[int] = set()
        wanted = [self._output]
        while wanted:
            index_or_none = producer.get(wanted.pop())
            if index_or_none is not None and index_or_none not in live:
                live.add(index_or_none)
                wanted.extend(self._graph.node[index_or_none].input)
        return [self._graph.node[index] for index in sorted(live)]

    def _check_supported(self, nodes: Sequence[onnx.NodeProto]) -> None:
        unsupported = [node for node in nodes if not self._is_supported(node)]
        if unsupported:
            first, *others = dict.fromkeys(map(operator_of, unsupported))
            raise NetworkError(
                where_of(unsupported[0]),
                f"operator {first} is not supported" + (f", nor {', '.join(others)}" if others else ""),
                f"supported are {', '.join((*self._methods, *self._several))}; "
                "fold constants (onnxsim) or leave the rest to the host",
            )

    def _lowered(self, node: onnx.NodeProto) -> dict[str, V]:
        """What a node makes, by name."""
        method = self._several.get(node.op_type)
        return method(node, where_of(node)) if method else {node.output[0]: self._lower(node)}

    def _lower(self, node: onnx.NodeProto) -> V:
        where = where_of(node)
        if sum(map(bool, node.output)) != 1 or not node.output[0]:
            raise NetworkError(where, f"has {len(node.output)} outputs instead of one", EXPORT)
        return self._methods[node.op_type](node, where)

    def _value(self, node: onnx.NodeProto, index: int, where: str) -> V:
        if index >= len(node.input) or not node.input[index]:
            raise NetworkError(where, f"has no input {index}", EXPORT)
        name = node.input[index]
        if name not in self._values:
            if name not in self._initialisers:
                raise NetworkError(where, f"reads '{name}' before any node has produced it", EXPORT)
            constant = stored(self._initialisers[name], f"initialiser '{name}'")
            self._values[name] = self._of_constant(constant)
        return self._values[name]

    def _optional(self, node: onnx.NodeProto, index: int, where: str) -> V | None:
        if index >= len(node.input) or not node.input[index]:
            return None
        return self._value(node, index, where)

    def _integers(self, node: onnx.NodeProto, index: int, where: str) -> tuple[int, ...]:
        array = self._numbers(self._value(node, index, where), f"input {index}", where)
        if array.ndim > 1 or array.dtype.kind != "i" or array.size > 64:
            raise NetworkError(where, f"input {index} is not a list of integers", EXPORT)
        return tuple(int(value) for value in array.reshape(-1))

    def _fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _append(self, node: Node) -> None:
        """Add a node, under a name that no other has: ONNX does not ask for that."""
        name = node.name
        while name in self._node_names:
            name += "_"
        self._node_names.add(name)
        self._nodes.append(replace(node, name=name))

    def _relabel(self, name: str, source: str, output: str, shape: tuple[int, ...] | None = None) -> None:
        """Add a node that gives a tensor another name, and perhaps another shape."""
        draft = self._drafts[source]
        shape = draft.shape if shape is None else shape
        axes = axes_of_reshape(draft.shape, shape) if shape != draft.shape else None
        self._declare(output, Draft(shape, draft.format, source=source), source, axes=axes)
        self._append(Reshape(name=name, input=source, output=output))

    # Shapes and constants

    def _reshape(self, node: onnx.NodeProto, where: str) -> V:
        value = self._value(node, 0, where)
        wanted = list(self._integers(node, 1, where))
        if not attribute(node, "allowzero", 0, where):
            wanted = [
                value.shape[axis] if size == 0 and axis < len(value.shape) else size
                for axis, size in enumerate(wanted)
            ]
        if wanted.count(-1) == 1:
            known = prod(size for size in wanted if size != -1)
            wanted[wanted.index(-1)] = prod(value.shape) // known if known else 0
        return self._reshaped(node, value, tuple(wanted), where)

    def _flatten(self, node: onnx.NodeProto, where: str) -> V:
        value = self._value(node, 0, where)
        axis = attribute(node, "axis", 1, where)
        if not -len(value.shape) <= axis <= len(value.shape):
            raise NetworkError(where, f"axis {axis} does not exist in shape {value.shape}", EXPORT)
        axis += len(value.shape) if axis < 0 else 0
        return self._reshaped(node, value, (prod(value.shape[:axis]), prod(value.shape[axis:])), where)

    def _axes(self, node: onnx.NodeProto, rank: int, where: str) -> tuple[int, ...] | None:
        axes: tuple[int, ...] | None
        if len(node.input) > 1 and node.input[1]:
            axes = self._integers(node, 1, where)
        else:
            axes = attribute(node, "axes", None, where)
        if axes is None:
            return None
        if any(not -rank <= axis < rank for axis in axes) or len({a % rank for a in axes}) != len(axes):
            raise NetworkError(where, f"axes {list(axes)} do not exist", EXPORT)
        return tuple(axis % rank for axis in axes)

    def _squeeze(self, node: onnx.NodeProto, where: str) -> V:
        value = self._value(node, 0, where)
        axes = self._axes(node, len(value.shape), where)
        if axes is None:
            axes = tuple(axis for axis, size in enumerate(value.shape) if size == 1)
        if any(value.shape[axis] != 1 for axis in axes):
            raise NetworkError(where, f"cannot remove axes {list(axes)} of shape {value.shape}", EXPORT)
        shape = tuple(size for axis, size in enumerate(value.shape) if axis not in axes)
        return self._reshaped(node, value, shape, where)

    def _unsqueeze(self, node: onnx.NodeProto, where: str) -> V:
        value = self._value(node, 0, where)
        given = attribute(node, "axes", None, where) if len(node.input) < 2 else None
        count = len(self._integers(node, 1, where)) if given is None else len(given)
        axes = self._axes(node, len(value.shape) + count, where)
        assert axes is not None
        sizes = iter(value.shape)
        shape = tuple(1 if axis in axes else next(sizes) for axis in range(len(value.shape) + count))
        return self._reshaped(node, value, shape, where)

    def _identity(self, node: onnx.NodeProto, where: str) -> V:
        return self._value(node, 0, where)

    def _order(self, node: onnx.NodeProto, rank: int, where: str) -> tuple[int, ...]:
        """The order of axes that a Transpose makes."""
        order: tuple[int, ...] = attribute(node, "perm", tuple(reversed(range(rank))), where)
        if sorted(order) != list(range(rank)):
            raise NetworkError(where, f"perm {list(order)} is no order of {rank} axes", EXPORT)
        return order

    def _padding(
        self, node: onnx.NodeProto, rank: int, where: str
    ) -> tuple[tuple[tuple[int, int], ...], float]:
        """What a Pad adds before and behind, for each axis, and the number that it adds."""
        mode = attribute(node, "mode", "constant", where)
        if mode != "constant":
            raise NetworkError(where, f"pads by {mode}", "pad with a constant")
        axes = tuple(range(rank))
        if len(node.input) > 1:
            pads = self._integers(node, 1, where)
            element = self._optional(node, 2, where)
            if self._optional(node, 3, where) is not None:
                axes = self._integers(node, 3, where)
            number = 0.0
            if element is not None:
                array = self._numbers(element, "its constant", where)
                if array.size != 1 or not np.isfinite(array).all():
                    raise NetworkError(where, "its constant is not one finite number", EXPORT)
                number = float(array.reshape(()))
        else:
            pads = attribute(node, "pads", (), where)
            number = attribute(node, "value", 0.0, where)
        count = len(axes)
        different = len({axis % rank for axis in axes}) if rank else 0
        if len(pads) != 2 * count or different != count or min(pads, default=0) < 0:
            raise NetworkError(where, f"pads {list(pads)} of axes {list(axes)} are not possible", EXPORT)
        if any(not -rank <= axis < rank for axis in axes) or max(pads, default=0) > 1 << 24:
            raise NetworkError(
                where, f"pads {list(pads)} of axes {list(axes)} are beyond all measure", EXPORT
            )
        around = [(0, 0)] * rank
        for at, axis in enumerate(axes):
            around[axis] = (pads[at], pads[count + at])
        return tuple(around), number

    def _checked_shape(self, value: V, shape: tuple[int, ...], where: str) -> None:
        if any(size < 1 for size in shape) or prod(shape) != prod(value.shape):
            raise NetworkError(where, f"cannot reshape {value.shape} to {shape}", EXPORT)

    def _constant(self, node: onnx.NodeProto, where: str) -> V:
        for given in node.attribute:
            if given.name == "value" and given.type == onnx.AttributeProto.TENSOR:
                return self._of_constant(stored(given.t, where))
        for key, kind in (("value_float", np.float32), ("value_floats", np.float32)):
            value = attribute(node, key, None, where)
            if value is not None:
                return self._of_constant(Constant(np.array(value, dtype=kind), None))
        for key in ("value_int", "value_ints"):
            value = attribute(node, key, None, where)
            if value is not None:
                return self._of_constant(Constant(np.array(value, dtype=np.int64), None))
        raise NetworkError(where, "holds no dense numbers", EXPORT)


def node_name(node: onnx.NodeProto) -> str:
    return node.name or (node.output[0] if node.output else "")


def operator_of(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in DOMAINS else f"{node.op_type} of {node.domain}"


def where_of(node: onnx.NodeProto) -> str:
    return f"node '{node_name(node)}' ({node.op_type})"


def type_name(number: int) -> str:
    try:
        return str(TensorProto.DataType.Name(number))
    except ValueError:
        return f"type number {number}"


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


_ATTRIBUTES: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "allowzero": (onnx.AttributeProto.INT, int),
    "alpha": (onnx.AttributeProto.FLOAT, float),
    "auto_pad": (onnx.AttributeProto.STRING, _text),
    "axes": (onnx.AttributeProto.INTS, tuple),
    "axis": (onnx.AttributeProto.INT, int),
    "beta": (onnx.AttributeProto.FLOAT, float),
    "block_size": (onnx.AttributeProto.INT, int),
    "ceil_mode": (onnx.AttributeProto.INT, int),
    "channels_last": (onnx.AttributeProto.INT, int),
    "coordinate_transformation_mode": (onnx.AttributeProto.STRING, _text),
    "count_include_pad": (onnx.AttributeProto.INT, int),
    "data_layout": (onnx.AttributeProto.STRING, _text),
    "dilations": (onnx.AttributeProto.INTS, tuple),
    "end": (onnx.AttributeProto.INT, int),
    "ends": (onnx.AttributeProto.INTS, tuple),
    "epsilon": (onnx.AttributeProto.FLOAT, float),
    "gamma": (onnx.AttributeProto.FLOAT, float),
    "group": (onnx.AttributeProto.INT, int),
    "keepdims": (onnx.AttributeProto.INT, int),
    "keep_aspect_ratio_policy": (onnx.AttributeProto.STRING, _text),
    "kernel_shape": (onnx.AttributeProto.INTS, tuple),
    "max": (onnx.AttributeProto.FLOAT, float),
    "min": (onnx.AttributeProto.FLOAT, float),
    "mode": (onnx.AttributeProto.STRING, _text),
    "narrow": (onnx.AttributeProto.INT, int),
    "nearest_mode": (onnx.AttributeProto.STRING, _text),
    "noop_with_empty_axes": (onnx.AttributeProto.INT, int),
    "num_outputs": (onnx.AttributeProto.INT, int),
    "out_bias": (onnx.AttributeProto.FLOAT, float),
    "out_dtype": (onnx.AttributeProto.STRING, _text),
    "out_scale": (onnx.AttributeProto.FLOAT, float),
    "output_dtype": (onnx.AttributeProto.INT, int),
    "pads": (onnx.AttributeProto.INTS, tuple),
    "perm": (onnx.AttributeProto.INTS, tuple),
    "rounding_mode": (onnx.AttributeProto.STRING, _text),
    "scales": (onnx.AttributeProto.FLOATS, tuple),
    "select_last_index": (onnx.AttributeProto.INT, int),
    "signed": (onnx.AttributeProto.INT, int),
    "split": (onnx.AttributeProto.INTS, tuple),
    "start": (onnx.AttributeProto.INT, int),
    "starts": (onnx.AttributeProto.INTS, tuple),
    "strides": (onnx.AttributeProto.INTS, tuple),
    "to": (onnx.AttributeProto.INT, int),
    "training_mode": (onnx.AttributeProto.INT, int),
    "transA": (onnx.AttributeProto.INT, int),
    "transB": (onnx.AttributeProto.INT, int),
    "value": (onnx.AttributeProto.FLOAT, float),
    "value_float": (onnx.AttributeProto.FLOAT, float),
    "value_floats": (onnx.AttributeProto.FLOATS, tuple),
    "value_int": (onnx.AttributeProto.INT, int),
    "value_ints": (onnx.AttributeProto.INTS, tuple),
}


def attribute(node: onnx.NodeProto, key: str, default: Any, where: str) -> Any:
    """An attribute of the type that the operator specification gives it."""
    for given in node.attribute:
        if given.name == key:
            kind, convert = _ATTRIBUTES[key]
            if given.type != kind or given.ref_attr_name:
                raise NetworkError(where, f"attribute {key} has the wrong type", EXPORT)
            return convert(helper.get_attribute_value(given))
    return default


def stored(tensor: TensorProto, where: str) -> Constant:
    """Numbers of a tensor that is stored in the file."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise NetworkError(
            where, "keeps its data in another file", "save the network as one file, without external data"
        )
    kind = tensor.data_type
    format = FORMATS.get(kind)
    if format is None and kind not in (TensorProto.FLOAT, TensorProto.INT64):
        raise NetworkError(where, f"{type_name(kind)} is not supported", "use FLOAT or integers")
    shape = tuple(tensor.dims)
    try:
        if any(size < 0 for size in shape):
            raise ValueError(f"shape {shape}")
        if format is not None and format.bits == 4:
            return Constant(_four_bits(tensor, format, shape), format)
        return Constant(numpy_helper.to_array(tensor), format)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise NetworkError(where, f"its data are damaged ({error})", EXPORT) from None


def _four_bits(tensor: TensorProto, format: Int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    # Unpacked here: what onnx makes of these types has changed between its versions.
    if tensor.HasField("raw_data"):
        packed = np.frombuffer(tensor.raw_data, dtype=np.uint8)
    else:
        packed = np.array(tensor.int32_data, dtype=np.int64).astype(np.uint8)
    count = prod(shape)
    if len(packed) != (count + 1) // 2:
        raise ValueError(f"{len(packed)} bytes for {count} elements")
    return format.unpack(packed)[:count].reshape(shape)
