"""Splits block transfers into AXI4 bursts."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BlockLayout", "BurstLayout", "BurstSplitter"]


class BlockLayout(data.StructLayout):
    """A two-dimensional block of memory: ``beats`` words in rows of ``row_beats``, ``stride`` words apart.

    The last row may be shorter. ``memory`` is the first word.
    """

    def __init__(self) -> None:
        super().__init__({"memory": 32, "beats": 24, "row_beats": 16, "stride": 32})


class BurstLayout(data.StructLayout):
    """A burst: ``length`` words from word ``memory`` on; ``last`` of its block."""

    def __init__(self, burst_beats: int):
        super().__init__({"memory": 32, "length": range(burst_beats + 1), "last": 1})


class BurstSplitter(wiring.Component):
    """Gives the bursts of a block, in order.

    A burst does not cross a multiple of ``burst_beats`` words, so it never crosses 4 KiB either, given a
    window that starts on one. Two cycles per burst, one more per row.

    Parameters
    ----------
    burst_beats
        Longest burst, a power of two.

    Members
    -------
    i : blocks (:class:`BlockLayout`), of at least one word
    o : bursts (:class:`BurstLayout`)
    """

    def __init__(self, burst_beats: int):
        self.burst_beats = burst_beats
        super().__init__(
            {
                "i": In(stream.Signature(BlockLayout())),
                "o": Out(stream.Signature(BurstLayout(burst_beats))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low_bits = (self.burst_beats - 1).bit_length()

        beats_left = Signal(24, reset_less=True)
        row_left = Signal(16, reset_less=True)
        row_start = Signal(32, reset_less=True)
        row_beats = Signal(16, reset_less=True)
        stride = Signal(32, reset_less=True)
        position = Signal(32, reset_less=True)
        length = Signal(range(self.burst_beats + 1), reset_less=True)
        row_end = Signal()
        block_end = Signal()

        room = self.burst_beats - position[:low_bits]
        m.d.comb += [
            self.o.payload.memory.eq(position),
            self.o.payload.length.eq(length),
            self.o.payload.last.eq(row_end & block_end),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [
                    beats_left.eq(self.i.payload.beats),
                    row_beats.eq(self.i.payload.row_beats),
                    row_start.eq(self.i.payload.memory),
                    stride.eq(self.i.payload.stride),
                ]
                with m.If(self.i.valid):
                    m.next = "ROW"
            with m.State("ROW"):
                m.d.sync += [
                    row_left.eq(Mux(beats_left < row_beats, beats_left, row_beats)),
                    block_end.eq(beats_left <= row_beats),
                    position.eq(row_start),
                    row_start.eq(row_start + stride),
                ]
                m.next = "SPLIT"
            with m.State("SPLIT"):
                m.d.sync += [
                    length.eq(Mux(row_left <= room, row_left, room)),
                    row_end.eq(row_left <= room),
                ]
                m.next = "GIVE"
            with m.State("GIVE"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += [
                        position.eq(position + length),
                        row_left.eq(row_left - length),
                        beats_left.eq(beats_left - length),
                    ]
                    m.next = "SPLIT"
                    with m.If(row_end):
                        m.next = "ROW"
                        with m.If(block_end):
                            m.next = "IDLE"
        return m
