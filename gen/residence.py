"""Which activations stay on chip: results that go straight to where the next layer reads them.

A tensor that has one layer to make it, and is read by the next, is kept in the activation scratchpad as it
would lie in memory, the whole of it, if there is room beside what else these layers need there. What is left
between such tensors is the ring that others are loaded into::

    rows 0 ┌────────────────┐
           │ source, kept   │
           ├────────────────┤ low
           │ ring: loaded   │ tiles of other sources
           ├────────────────┤ high
           │ result, kept   │
           └────────────────┘

Further readers find it there as long as no other tensor takes its room; those that come later read it from
memory, and only then must it be in memory at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.hw.config import EngineConfig
from bitwright.hw.memory.scratchpad import geometries
from bitwright.hw.sched.isa import Buffer

from .layer import Layer
from .scheduling import Kept, Residence

__all__ = ["plan_residence"]


@dataclass
class _Tensor:
    """A result that may stay on chip."""

    address: int
    rows: int
    readers: list[int]  # layers that can read it there
    others: bool  # whether it has readers that cannot


def plan_residence(config: EngineConfig, layers: Sequence[Layer], *, outputs: set[int]) -> list[Residence]:
    """Decide for each layer which of its operands are on chip, and whether its result stays there.

    Parameters
    ----------
    config
        The engine.
    layers
        In the order in which they are computed, whole.
    outputs
        Addresses of results that must be in memory, whoever reads them.
    """
    capacity = geometries(config)[Buffer.ACTIVATIONS].rows
    if not config.forwards:
        return [Residence(0, capacity) for _ in layers]
    tensors = [_tensor(layers, index) for index in range(len(layers))]
    planner = _Planner(capacity, layers)
    found = [planner.layer(index, tensor) for index, tensor in enumerate(tensors)]
    plan = []
    for index, (residence, tensor) in enumerate(zip(found, tensors, strict=True)):
        address = layers[index].result.address
        stored = (
            residence.result is None
            or tensor is None
            or tensor.others
            or address in outputs
            or any(address not in found[reader].sources for reader in tensor.readers)
        )
        plan.append(Residence(residence.low, residence.high, residence.sources, residence.result, stored))
    return plan


def _tensor(layers: Sequence[Layer], index: int) -> _Tensor | None:
    """The result of a layer, if it can stay on chip and the next layer would read it there."""
    layer = layers[index]
    address = layer.result.address
    whole = (
        layer.operation.quantiser is not None
        and layer.operation.first_channel is None
        and layer.whole_map
        and not layer.result.lines
        # What is written is all that a pixel has room for: nobody reads what was there before.
        and layer.result_words == layer.output_words(layer.col_groups)
        and sum(other.result.address == address for other in layers) == 1
    )
    if not whole:
        return None
    banks = layer.geometry[Buffer.ACTIVATIONS].banks
    rows, rest = divmod(layer.out_height * layer.out_width * layer.result_words, banks)
    if rest or layer.result_words % banks:
        return None
    able, others = [], False
    for number, reader in enumerate(layers):
        if all(source.address != address for source in reader.sources):
            continue
        if number > index and _reads_whole(reader, address, rows):
            able.append(number)
        else:
            others = True
    return _Tensor(address, rows, able, others) if index + 1 in able else None


def _reads_whole(layer: Layer, address: int, rows: int) -> bool:
    """Whether a layer can read an operand at an address, of so many rows, as it lies in memory."""
    for reader in layer.readers:
        strides = {source.stride for source in reader.operands}
        if any(source.address == address for source in reader.operands) and (
            reader.packed or len(strides) > 1 or reader.source_rows() != rows
        ):
            return False
    return True


class _Planner:
    """Goes through the layers and remembers what is on chip."""

    def __init__(self, capacity: int, layers: Sequence[Layer]):
        self.capacity = capacity
        self.layers = layers
        self.kept: list[tuple[Kept, list[int]]] = []  # and those that read it

    def layer(self, index: int, tensor: _Tensor | None) -> Residence:
        """Where layer number ``index`` finds and leaves its activations."""
        self.kept = [each for each in self.kept if each[1][-1] >= index]
        sources = {
            kept.address: kept
            for kept, readers in self.kept
            if index in readers and kept.address in {source.address for source in self.layers[index].sources}
        }
        wanted = self._wanted(index, sources)
        result = None
        if tensor is not None:
            result = self._place(index, tensor, sources, wanted)
        while self.kept and result is None and self._gap()[1] - self._gap()[0] < wanted:
            # What is not needed now makes room for what is loaded.
            idle = [each for each in self.kept if each[0].address not in sources]
            if idle:
                self.kept.remove(max(idle, key=lambda each: each[1][-1]))
                continue
            # Or an operand, which is loaded then.
            gone = max(self.kept, key=lambda each: each[0].rows)
            self.kept.remove(gone)
            del sources[gone[0].address]
            wanted = self._wanted(index, sources)
        if tensor is not None and result is not None:
            self.kept.append((result, tensor.readers))
        low, high = self._gap()
        return Residence(low, high, sources, result)

    def _wanted(self, index: int, on_chip: dict[int, Kept]) -> int:
        """Rows that a layer should have for operands that are loaded."""
        wanted = 0
        for reader in self.layers[index].readers:
            loaded = [source for source in reader.operands if source.address not in on_chip]
            if loaded:
                least = max(2 * reader.line_rows(), self.capacity // 4)
                wanted += min(len(loaded) * reader.source_rows(), len(loaded) * least)
        return wanted

    def _gap(self, *more: Kept) -> tuple[int, int]:
        """The most rows that nothing is kept in."""
        borders = sorted([*(kept for kept, _ in self.kept), *more], key=lambda kept: kept.start)
        starts = [0, *(kept.end for kept in borders)]
        ends = [*(kept.start for kept in borders), self.capacity]
        return max(zip(starts, ends, strict=True), key=lambda gap: gap[1] - gap[0])

    def _place(self, index: int, tensor: _Tensor, sources: dict[int, Kept], wanted: int) -> Kept | None:
        """Room for a result; what is not read by its layer may have to go."""
        before = list(self.kept)
        while True:
            low, high = self._gap()
            found = []
            if high - low >= tensor.rows:
                for start in (low, high - tensor.rows):
                    kept = Kept(tensor.address, start, tensor.rows)
                    left = self._gap(kept)
                    if left[1] - left[0] >= wanted and self._next_fits(index, kept):
                        found.append((left[1] - left[0], kept))
            if found:
                return max(found, key=lambda each: each[0])[1]
            idle = [each for each in self.kept if each[0].address not in sources]
            if not idle:
                self.kept = before
                return None
            self.kept.remove(max(idle, key=lambda each: each[1][-1]))

    def _next_fits(self, index: int, result: Kept) -> bool:
        """Whether the next layer has room for what it loads beside the result."""
        kept = {kept.address: kept for kept, readers in self.kept if index + 1 in readers}
        wanted = self._wanted(index + 1, kept | {result.address: result})
        # What only this layer reads is gone by then.
        before = self.kept
        self.kept = [each for each in self.kept if each[0].address in kept]
        low, high = self._gap(result)
        self.kept = before
        return high - low >= wanted
