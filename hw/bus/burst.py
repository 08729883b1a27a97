"""Splits block transfers into AXI4 bursts."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BlockLayout", "BurstLayout", "BurstSplitter"]


class BlockLayout(data.StructLayout):
    """A two-dimensional block of memory: ``beats`` words in rows of ``row_beats``, ``stride`` words apart.

    The last row may be shorter. ``memory`` is the first word.

    Parameters
    ----------
    address_bits, beats_bits, row_bits
        Widths of word addresses, ``beats`` and ``row_beats``.
    """

    def __init__(self, *, address_bits: int = 32, beats_bits: int = 24, row_bits: int = 16):
        super().__init__(
            {"memory": address_bits, "beats": beats_bits, "row_beats": row_bits, "stride": address_bits}
        )


class BurstLayout(data.StructLayout):
    """A burst: ``length`` words from word ``memory`` on; ``last`` of its block.

    Parameters
    ----------
    burst_beats
        Longest burst.
    address_bits
        Width of a word address.
    """

    def __init__(self, burst_beats: int, *, address_bits: int = 32):
        super().__init__({"memory": address_bits, "length": range(burst_beats + 1), "last": 1})


class BurstSplitter(wiring.Component):
    """Gives the bursts of a block, in order.

    A burst does not cross a multiple of ``burst_beats`` words, so it never crosses 4 KiB either, given a
    window that starts on one. Two cycles per burst, one more per row.

    Parameters
    ----------
    burst_beats
        Longest burst, a power of two.
    block
        Widths of a block.

    Members
    -------
    i : blocks (:class:`BlockLayout`), of at least one word
    o : bursts (:class:`BurstLayout`)
    """

    def __init__(self, burst_beats: int, block: BlockLayout | None = None):
        self.burst_beats = burst_beats
        self.block = block or BlockLayout()
        burst = BurstLayout(burst_beats, address_bits=self.block["memory"].width)
        super().__init__(
            {
                "i": In(stream.Signature(self.block)),
                "o": Out(stream.Signature(burst)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low_bits = (self.burst_beats - 1).bit_length()

        address_bits = self.block["memory"].width
        beats_left = Signal(self.block["beats"].width, reset_less=True)
        row_left = Signal(self.block["row_beats"].width, reset_less=True)
        row_start = Signal(address_bits, reset_less=True)
        row_beats = Signal.like(row_left)
        stride = Signal(address_bits, reset_less=True)
        position = Signal(address_bits, reset_less=True)
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
