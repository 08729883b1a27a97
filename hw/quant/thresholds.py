"""Thresholds: results of few bits, by counting which of a channel's levels a sum has reached."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import CHANNEL_BITS, THRESHOLDS_PER_WORD
from ..storage import Storage
from .packer import chosen

__all__ = ["LEVEL", "Thresholder", "encode_level"]

LEVEL = data.StructLayout({"level": signed(31), "flip": unsigned(1)})
"""One of a channel's levels, 32 bits."""
assert LEVEL.size * THRESHOLDS_PER_WORD == CHANNEL_BITS


def encode_level(level: int, *, flip: bool) -> int:
    """Bit pattern of a level: reached where ``acc >= level``, or ``~acc >= level`` if it flips.

    So ``acc <= limit`` is level ``~limit``, flipped.

    Raises
    ------
    ValueError
        The level does not fit 31 bits.
    """
    if not -(1 << 30) <= level < 1 << 30:
        raise ValueError(f"Threshold {level} does not fit 31 bits")
    return level & (1 << 31) - 1 | flip << 31


class Thresholder(wiring.Component):
    """``o = code[#{levels reached}]``: the code of the format's value of that place, counted from the least.

    ::

        cycle    0 (each phase)       1                     2
        does     three comparisons    count, from phase 0   code
                                      on

    A channel has as many levels as its format has values, less one, three in each word of parameters; a word
    is taken per phase. Levels that are missing are too great to be reached.

    Source: Umuroglu et al., "FINN: A Framework for Fast, Scalable Binarized Neural Network Inference",
    FPGA 2017, section 4.2.2.

    Parameters
    ----------
    accumulator_bits
        Width of a sum, at most 30.
    storages
        How results are stored, by format.

    Members
    -------
    begin : the first phase of an element
    acc : the sum, in all of its phases
    levels : the phase's word of parameters
    result : the format, by its place, a cycle after the last phase
    o : the result, :attr:`LATENCY` cycles after the last phase
    """

    LATENCY = 3

    def __init__(self, *, accumulator_bits: int, storages: Sequence[Storage]):
        self.accumulator_bits = accumulator_bits
        self.storages = tuple(storages)
        super().__init__(
            {
                "begin": In(1),
                "acc": In(data.StructLayout({"value": signed(accumulator_bits)})),
                "levels": In(data.ArrayLayout(LEVEL, THRESHOLDS_PER_WORD)),
                "result": In((len(self.storages) - 1).bit_length()),
                "o": Out(max(storage.bits for storage in self.storages)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """As the class says."""
        m = Module()
        reached = Signal(THRESHOLDS_PER_WORD, reset_less=True)
        # The levels of a channel are flipped all, or none of them.
        flip = self.levels[0].flip.replicate(self.accumulator_bits)
        acc = (self.acc.value.as_unsigned() ^ flip).as_signed()
        bits = self.accumulator_bits + 1  # a level may lie just outside of what sums reach
        m.d.sync += reached.eq(
            Cat(acc >= level.level.as_unsigned()[:bits].as_signed() for level in self.levels)
        )
        begin = Signal(reset_less=True)
        most = max(len(storage.format.values) for storage in self.storages) - 1
        count = Signal(range(most + 1), reset_less=True)
        m.d.sync += [
            begin.eq(self.begin),
            count.eq(Mux(begin, 0, count) + sum(reached[index] for index in range(THRESHOLDS_PER_WORD))),
        ]
        result = Signal.like(self.result, name="result_1", reset_less=True)
        codes = []
        for storage in self.storages:
            values = storage.codes(storage.format.values)
            codes.append(chosen([Const(int(value), storage.bits) for value in values], count))
        m.d.sync += [result.eq(self.result), self.o.eq(chosen(codes, result))]
        return m
