"""Balanced adder tree."""

from collections.abc import Sequence
from math import ceil

from amaranth.hdl import Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["AdderTree"]


class AdderTree(wiring.Component):
    """Sum of ``count`` signed terms, two at a time, a register behind every ``stride`` levels.

    ::

        i[0] ─┐
              + ─[reg]─┐
        i[1] ─┘        + ─[reg]─ o          o(t + latency) = sum of i(t)
        i[2] ─┐        │
              + ─[reg]─┘
        i[3] ─┘

    A level widens its terms by one bit, so no sum can overflow. An odd term passes through its level.

    Parameters
    ----------
    count, width
        Terms, and bits of each.
    stride
        Levels between registers; 0 for none at all.

    Members
    -------
    i : ``count`` signed terms
    o : their signed sum, ``width + ceil(log2(count))`` bits, :attr:`latency` cycles later
    """

    def __init__(self, count: int, width: int, *, stride: int = 1):
        if count < 1:
            raise ValueError(f"An adder tree needs at least one term, not {count!r}")
        self.count = count
        self.width = width
        self.stride = stride
        self.levels = (count - 1).bit_length()
        self.latency = ceil(self.levels / stride) if stride else 0
        super().__init__(
            {
                "i": In(data.ArrayLayout(signed(width), count)),
                "o": Out(data.StructLayout({"sum": signed(width + self.levels)})),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        terms: Sequence[Value] = [self.i[index] for index in range(self.count)]
        for level in range(1, self.levels + 1):
            registered = self.stride and (level % self.stride == 0 or level == self.levels)
            domain = m.d.sync if registered else m.d.comb
            sums = []
            for index in range(0, len(terms), 2):
                total = Signal(
                    signed(self.width + level), name=f"level_{level}_{index // 2}", reset_less=True
                )
                domain += total.eq(sum(terms[index : index + 2][1:], start=terms[index]))
                sums.append(total)
            terms = sums
        m.d.comb += self.o.sum.eq(terms[0])
        return m
