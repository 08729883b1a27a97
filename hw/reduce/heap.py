"""Sums of many bits of many weights on carry chains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .datapath import Datapath, Number
from .terms import ZERO, Term

__all__ = ["heap_sum"]


def heap_sum(datapath: Datapath, columns: Mapping[int, Sequence[Term]]) -> Number:
    """``sum(2**weight * bit)`` over the bits of every column.

    ::

        weight  3 2 1 0          number          extra
                . . . .     ─►   . . . .   +         .      the lowest column's bits: half begin numbers,
                . . . .                                     half become carries of the tree that adds these
                  . . .     ─►     . . .   +       .        then the same with what is left
                    . .

    An adder takes two numbers of w bits and a carry to one of w + 1 bits; its w + 1 slots take away w bits,
    whatever w is, so that wide and few adders are best. The lowest column that is left is therefore used up
    by as few numbers as can take it, each of which goes on to the highest column: for n bits, n / 2 numbers,
    the other bits coming as carries of the adders. The sums of these are added last, each shifted by its
    weight.

    The products ``a_i & w_j`` of 16 lanes of 8 by 8 bits so take 1.3 LUTs each on ECP5, with an accumulator;
    no less than one is possible, as a slot takes away one bit at most.

    Parameters
    ----------
    datapath
        What to build in.
    columns
        Bits by weight. Constants may be among them.

    Returns
    -------
    The sum, unsigned.
    """
    left = {weight: list(bits) for weight, bits in columns.items() if bits}
    sums: list[_Shifted] = []
    while left:
        weight = min(left)
        bits = left.pop(weight)
        # A tree of n numbers takes n - 1 carries; to add its sum to that of a lower weight takes one more.
        count = (len(bits) + 1) // 2 if sums else len(bits) // 2 + 1
        numbers = [[bit] for bit in bits[:count]]
        most = len(bits)
        for above in range(weight + 1, max(left, default=weight) + 1):
            column = left.get(above, [])
            longest = [number for number in numbers if len(number) == above - weight][: len(column)]
            for number, bit in zip(longest, column, strict=False):
                number.append(bit)
            most += len(longest) << above - weight
            del column[: len(longest)]
            if not column:
                left.pop(above, None)
        total, rest = datapath.tree([Number(tuple(number)) for number in numbers], bits[count:])
        sums.append(_Shifted(weight, total, rest[0] if rest else ZERO, most))
    if not sums:
        return Number((ZERO,))
    while len(sums) > 1:
        pairs = zip(sums[::2], sums[1::2], strict=False)
        sums = [_joined(datapath, low, high) for low, high in pairs] + sums[len(sums) // 2 * 2 :]
    return Number((*[ZERO] * sums[0].weight, *sums[0].total.bits))


@dataclass(frozen=True)
class _Shifted:
    """``2**weight * (total + carry)``, which is ``2**weight * most`` at most."""

    weight: int
    total: Number
    carry: Term
    most: int


def _joined(datapath: Datapath, low: _Shifted, high: _Shifted) -> _Shifted:
    shift = high.weight - low.weight
    most = low.most + (high.most << shift)
    total = datapath.add(low.total, high.total, high.carry, shift=shift, width=most.bit_length())
    return _Shifted(low.weight, total, low.carry, most)
