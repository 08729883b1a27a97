"""Population count on carry chains."""

from collections.abc import Sequence

from .datapath import Datapath, Number
from .terms import ZERO, Term

__all__ = ["popcount", "signed_popcount"]


def popcount(datapath: Datapath, terms: Sequence[Term]) -> tuple[Number, list[Term]]:
    """How many of the terms are set.

    ::

        pairs of terms   a&b c&d  ─ + ─┐
        one more         e&f ─ carry ──┤
                                       + ─┐       every adder's carry in is one more term
        ...                       g&h ─┘  + ─ ...

    Half of the terms are added in pairs; each of the adders, one less than there are numbers, takes another
    one as its carry in. A fused slot of an ECP5 adds two products of two bits, so that a full adder of three
    products is two LUTs. The sum takes about 1.5 LUTs per term and ``ceil(log2(ceil(terms / 2)))`` cycles.

    Parameters
    ----------
    datapath
        What to build in.
    terms
        What to count, at least one.

    Returns
    -------
    The count, and the term that is left over where their number is even.
    """
    leaves = (len(terms) + 1) // 2
    return datapath.tree([Number((term,)) for term in terms[:leaves]], terms[leaves:])


def signed_popcount(datapath: Datapath, terms: Sequence[Term], negate: Term) -> tuple[Number, Term]:
    """How many of the terms are set, or minus that, as a number and a carry still to be added to it.

    The adder that joins the two halves inverts their bits where ``negate`` is set, which its slots do for
    nothing: ``-(x + y + c) - d = ~x + ~y + ~c + ~d`` in two's complement, modulo the sign.

    Parameters
    ----------
    datapath
        What to build in.
    terms
        What to count, at least four.
    negate
        Whether to negate.
    """
    both = len(terms) - (1 if len(terms) % 2 else 2)
    half = both // 2 - (both // 2 + 1) % 2  # odd, as is the rest, so that no term is left over in either
    left, _ = popcount(datapath, terms[:half])
    right, _ = popcount(datapath, terms[half:both])
    carries = [datapath.registered(Number((term ^ negate,))).bits[0] for term in [*terms[both:], ZERO][:2]]
    return datapath.add(left, right, carries[0], flip=negate), carries[1]
