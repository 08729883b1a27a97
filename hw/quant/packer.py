"""From requantised results to the words of the output scratchpad: side by side, or as bit planes."""

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import EngineConfig
from ..storage import ACCUMULATORS

__all__ = ["Packer", "chosen"]


class Packer(wiring.Component):
    """Writes results as the next layer takes them.

    Packed::

        results ── low bits of each, by mode ── gather until a granule is full ── write

    A result is stored in as many bits as its storage says. Where results of an element are narrower than a
    granule, as many as fill one are gathered in a shift register; otherwise nothing stands between.

    Planar, for a row of units at a time::

        results ── shift in ──► row: cols results ── chunk: c of them ──► bit 0 of each: a write
                                                                          shift the chunk: bit 1, ...

    Accumulators, in either case, are written as they come.

    Chunks, of as many results as a granule has bits, follow each other, and in a chunk its planes. While one
    row is being written the next comes in; :attr:`~bitwright.hw.config.Mode.row_cycles` keeps rows
    far enough apart, and accumulators come only when the planes of an earlier instruction are written.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    values, valid : results of one element, and that there is one
    accumulators : the same, in a mode that stores them; not there where there is none
    complete : it fills a granule; planar: a row
    granule : where to write that; planar: where the row begins
    result : mode, by its place among the configuration's
    empty : it has no results after all: nothing is written
    end, post : it is the last of its instruction, and complete; tokens to give then
    write_enable, write_row, write_data : write port of the output scratchpad, enables by granule
    ended, posted : a cycle after the last write of an instruction; its tokens
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        self.modes = config.modes
        granules = config.output_depth * config.granules_per_word
        self.granule_bits = (granules - 1).bit_length()
        self.chunks = config.cols // config.granule_bits if config.planar else 1
        """Chunks of a row."""
        members = {
            "accumulators": In(data.ArrayLayout(ACCUMULATORS.bits, config.accumulator_lanes)),
        }
        self.raw = [mode.quantiser == "accumulators" for mode in self.modes]
        super().__init__(
            (members if any(self.raw) else {})
            | {
                "values": In(data.ArrayLayout(config.result_bits, config.requantisers)),
                "valid": In(1),
                "complete": In(1),
                "granule": In(self.granule_bits),
                "result": In((len(self.modes) - 1).bit_length()),
                "empty": In(1),
                "end": In(1),
                "post": In(3),
                "write_enable": Out(config.granules_per_word),
                "write_row": Out(range(config.output_depth)),
                "write_data": Out(config.bus_bits),
                "ended": Out(1),
                "posted": Out(3),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        # Where to write, how many granules, whether, what.
        place, mask, enable, word = self._planar(m) if config.planar else self._packed(m)
        select = (config.granules_per_word - 1).bit_length()
        places = (mask << place[:select])[: config.granules_per_word]
        m.d.comb += [
            self.write_row.eq(place[select:]),
            self.write_data.eq(word),
            self.write_enable.eq(places & enable.replicate(config.granules_per_word)),
        ]
        return m

    def _packed(self, m: Module) -> tuple[Value, Value, Value, Value]:
        config = self.config
        size = config.granule_bits
        words, masks = [], []
        gathered: dict[int, Value] = {}
        for mode in self.modes:
            storage = mode.storage
            if mode.quantiser == "accumulators":
                words.append(self._accumulators())
                masks.append(self._accumulator_mask())
                continue
            bits: Value = Cat(Value.cast(value)[: storage.bits] for value in self.values)
            if len(bits) < size:
                # The newest results are the highest.
                if storage.bits not in gathered:
                    kept = Signal(size - len(bits), name=f"gathered_{storage.bits}", reset_less=True)
                    gathered[storage.bits] = Cat(kept, bits)
                    with m.If(self.valid):
                        m.d.sync += kept.eq(gathered[storage.bits][len(bits) :])
                bits = gathered[storage.bits]
            words.append(bits.replicate(config.bus_bits // len(bits)))
            masks.append(Const((1 << len(bits) // size) - 1, config.granules_per_word))
        m.d.sync += [self.ended.eq(self.valid & self.end), self.posted.eq(self.post)]
        enable = self.valid & self.complete & ~self.empty
        return self.granule, chosen(masks, self.result), enable, chosen(words, self.result)

    def _planar(self, m: Module) -> tuple[Value, Value, Value, Value]:
        config = self.config
        size = config.granule_bits
        bits = config.result_bits
        group = config.requantisers
        row = [Signal(bits, name=f"row_{index}", reset_less=True) for index in range(config.cols)]
        incoming = [*row[group:], *(Value.cast(value) for value in self.values)]
        with m.If(self.valid):
            m.d.sync += [register.eq(value) for register, value in zip(row, incoming, strict=True)]

        # What waits to be written: the row but for its first chunk, and the chunk whose planes are written.
        waiting = [
            Signal(bits, name=f"waiting_{index}", reset_less=True) for index in range(size, config.cols)
        ]
        chunk = [Signal(bits, name=f"chunk_{index}", reset_less=True) for index in range(size)]
        result = Signal.like(self.result, name="format")
        empty = Signal()
        end = Signal()
        post = Signal.like(self.post)
        planes = chosen([Const(mode.storage.words) for mode in self.modes], result)
        plane = Signal(range(max(2, bits)))
        number = Signal(range(max(2, self.chunks)))
        busy = Signal()
        last_plane = Signal()
        last_chunk = number == self.chunks - 1
        raw = chosen([Const(each) for each in self.raw], self.result)
        begin = self.valid & self.complete & ~raw
        place = Signal(self.granule_bits)
        start = Signal(self.granule_bits)
        block = next(iter(config.storages.values())).block // size  # granules of a plane
        with m.If(busy):
            m.d.sync += [register.eq(register[1:]) for register in chunk]
            m.d.sync += [plane.eq(plane + 1), last_plane.eq(plane + 2 == planes), place.eq(place + block)]
            with m.If(last_plane):
                m.d.sync += [
                    *(a.eq(b) for a, b in zip([*chunk, *waiting], waiting, strict=False)),
                    plane.eq(0),
                    last_plane.eq(planes == 1),
                    number.eq(number + 1),
                ]
                # The next chunk lies in the same planes, or begins the next block behind the last of them.
                if block > 1:
                    inside = Signal(range(block), name="inside")
                    m.d.sync += inside.eq(inside + 1)
                    with m.If(inside == block - 1):
                        m.d.sync += [inside.eq(0), start.eq(place + 1), place.eq(place + 1)]
                    with m.Else():
                        m.d.sync += [start.eq(start + 1), place.eq(start + 1)]
                else:
                    m.d.sync += place.eq(place + 1)
                with m.If(last_chunk):
                    m.d.sync += [busy.eq(0), number.eq(0)]
        with m.If(begin):
            m.d.sync += [a.eq(b) for a, b in zip([*chunk, *waiting], incoming, strict=True)]
            m.d.sync += [
                busy.eq(1),
                plane.eq(0),
                last_plane.eq(chosen([Const(mode.storage.words == 1) for mode in self.modes], self.result)),
                number.eq(0),
                place.eq(self.granule),
                start.eq(self.granule),
                result.eq(self.result),
                empty.eq(self.empty),
                end.eq(self.end),
                post.eq(self.post),
            ]
            if block > 1:
                m.d.sync += inside.eq(0)
        m.d.sync += [self.ended.eq(busy & last_plane & last_chunk & end), self.posted.eq(post)]
        word = Cat(register[0] for register in chunk).replicate(config.bus_bits // size)
        mask: Value = Const(1, config.granules_per_word)
        if not any(self.raw):
            return place, mask, busy & ~empty, word
        now = self.valid & raw
        with m.If(now):
            m.d.sync += [self.ended.eq(self.end), self.posted.eq(self.post)]
        return (
            Mux(now, self.granule, place),
            Mux(now, self._accumulator_mask(), mask),
            Mux(now, ~self.empty, busy & ~empty),
            Mux(now, self._accumulators(), word),
        )

    def _accumulators(self) -> Value:
        value = Value.cast(self.accumulators)
        return value.replicate(self.config.bus_bits // len(value))

    def _accumulator_mask(self) -> Value:
        granules = ACCUMULATORS.bits * self.config.accumulator_lanes // self.config.granule_bits
        return Const((1 << granules) - 1, self.config.granules_per_word)


def chosen(values: Sequence[Value], index: Value) -> Value:
    """The value of that index; no choice where all are the same."""
    if all(repr(value) == repr(values[0]) for value in values):
        return values[0]
    return Array(values)[index]
