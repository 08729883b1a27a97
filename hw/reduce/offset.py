"""Sums of signed numbers without sign extension."""

from collections.abc import Sequence

from .datapath import Datapath, Number
from .terms import ONE, ZERO, Term

__all__ = ["centred", "constant_number", "offset_tree", "signed_tree"]


def constant_number(value: int) -> Number:
    """A constant that is not negative."""
    return Number(tuple(ONE if value >> bit & 1 else ZERO for bit in range(value.bit_length())))


def centred(total: Number, width: int) -> Number:
    """``total - 2**(width - 1)`` for an unsigned total below ``2**width``: the top bit inverted is a sign."""
    bits = total.extended(width)
    return Number((*bits[:-1], ~bits[-1]), signed=True, depth=total.depth)


def signed_tree(
    datapath: Datapath, numbers: Sequence[Number], extras: Sequence[Term] = ()
) -> tuple[Number, list[Term]]:
    """Sum of signed numbers of one width and cycle, as :meth:`~bitwright.hw.reduce.datapath.Datapath.tree`.

    An adder of signed numbers takes a slot more than one of unsigned ones, for the sign: a carry out comes
    for nothing, a sign does not. So only the first level is signed. Its sums, of w bits, are taken as
    unsigned with their top bit inverted, which is ``sum + 2**(w - 1)``; what that adds up to is a constant.
    With as many first sums as a power of two, inverting the total's top bit takes it away again; otherwise a
    constant is added that makes up for it.

    Parameters
    ----------
    datapath
        What to build in.
    numbers
        At least two.
    extras
        As of a tree.
    """
    left = list(extras)
    first = []
    for index in range(0, len(numbers) - 1, 2):
        first.append(datapath.add(numbers[index], numbers[index + 1], left.pop(0) if left else ZERO))
    width = len(first[0].bits)
    level = [Number((*number.bits[:-1], ~number.bits[-1])) for number in first]
    if len(numbers) % 2:
        alone = numbers[-1].extended(width)
        level.append(Number((*alone[:-1], ~alone[-1])))
    offset = len(level) << (width - 1)
    reach = (2 * offset - 1).bit_length()  # the total, offset included, is below twice the offset
    missing = (1 << (reach - 1)) - offset
    if missing:
        level.append(constant_number(missing))
    total, left = datapath.tree(level, left)
    # The bits of the total may be one more than it ever needs.
    return centred(Number(total.bits[:reach], depth=total.depth), reach), left


def offset_tree(
    datapath: Datapath, numbers: Sequence[Number], extras: Sequence[Term] = ()
) -> tuple[Number, list[Term]]:
    """Sum of numbers of one width, all of them signed or none, as that of a tree.

    Signed ones are added unsigned: with its highest bit inverted, ``x`` is ``x + 2**(bits - 1)``. What that
    adds up to is taken off the sum by inverting its highest bit, after a constant has made it a power of two.
    An adder of signed numbers would take a slot more.

    Parameters
    ----------
    datapath
        What to build in.
    numbers, extras
        As of :meth:`~bitwright.hw.reduce.datapath.Datapath.tree`; the bits of numbers are signals, so that
        inverting them takes no LUT.
    """
    if not numbers[0].signed:
        return datapath.tree(numbers, extras)
    bits = len(numbers[0].bits)
    total, left = datapath.tree([Number((*x.bits[:-1], ~x.bits[-1])) for x in numbers], extras)
    width = bits + (len(numbers) - 1).bit_length()
    missing = (1 << width - bits) - len(numbers)
    if missing:
        total = datapath.add(total, constant_number(missing), shift=bits - 1, width=width)
    return centred(total, width), left
