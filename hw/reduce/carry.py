"""Additions on carry chains: portable, or fused into the carry slots of an FPGA family.

A :class:`Row` is an addition of two numbers, bit by bit, with a carry in. Every bit of them is a
:class:`~bitwright.hw.reduce.terms.Term`: a function of signals, such as a product of two bits. What it takes:

``generic``
    ``x + y + carry``, which synthesis maps as it sees fit.

``ecp5``
    One slot of a CCU2C per bit, which computes the terms as well as their sum::

        P = LUT4(A, B, C, D)      S = P ^ cin      cout = P ? cin : G(A, B)

    with ``P = x ^ y``, and ``G`` whichever of x and y depends on two signals at most: it counts only where
    x = y. The table of G is the lowest quarter of that of P, so that all four pins can be used only where
    both agree (:func:`fuse`); with three signals or fewer D is tied to 1 and they are independent. Yosys
    never makes this form: it spends a LUT on each product in front of the adder.

    In front of each row goes a slot that takes the carry out of the row before as its sum (P = 0), and puts
    the row's own carry in (G). So many short rows share one chain, and a carry in costs nothing.

``ice40``
    A row has a chain of its own, of pairs of SB_CARRY and SB_LUT4, one per bit, and one more for the carry in
    and for the carry out. A carry takes its operands from the LUT's own pins I1 and I2, so that terms of more
    than one signal need a LUT in front. Pin I0 saves some of them::

        S = I0 ^ I1 ^ I2 ^ cin                      ~(x + y), of which all bits are inverted by one signal
        S = I0 ? I1 ^ I2 ^ cin : I1                 x + (gate ? y : 0), whatever the carries are where it is 0

    With no carry in, that of the first slot is a product. A row of one bit is two LUTs, which have room for a
    product each.

    Rows do not share chains: between them a slot would put in a carry by both of its operands, and router1 of
    nextpnr 0.11 can go on forever when a signal goes to two pins of a logic cell, pulling it from one to the
    other. It would save 2 to 4 % of the logic cells.

Source: the CCU2C and SB_CARRY cells as Yosys simulates them (`techlibs/ecp5/cells_sim.v`,
`techlibs/ice40/cells_sim.v`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Literal, cast, get_args

from amaranth.hdl import Cat, Const, Elaboratable, Instance, Module, Signal, Value

from ..emission import Emission
from .terms import ZERO, Atom, Term

__all__ = ["FABRICS", "LONGEST_CHAIN", "Fabric", "Row", "add_rows", "fuse"]

Fabric = Literal["generic", "ecp5", "ice40"]
"""What the hardware is made for: any FPGA or ASIC, or the carry chains of one family."""

FABRICS: tuple[Fabric, ...] = get_args(Fabric)

LONGEST_CHAIN = 18
"""Slots of a chain that several rows share. Measured on ECP5 with Yosys 0.70 and nextpnr 0.11: chains of 8
slots take 14 % more LUTs, chains of 32 save 3 % and lose 10 % of the clock."""


@dataclass(frozen=True)
class Row:
    """``x + y + carry``, unsigned.

    Parameters
    ----------
    x, y
        Bits, lowest first, the same number of each.
    carry
        Carry in.
    total
        Where the sum goes: as many bits as the operands, or one more for the carry out.
    """

    x: Sequence[Term]
    y: Sequence[Term]
    carry: Term
    total: Value


@cache
def _fused(atoms: int, x: int, y: int) -> tuple[tuple[int, ...], int] | None:
    """Pins and INIT of a slot for the truth tables x and y over so many atoms; -1 is a pin tied to 1."""
    for g in (x, y):
        support = [
            bit
            for bit in range(atoms)
            if any((g >> index ^ g >> (index ^ 1 << bit)) & 1 for index in range(1 << atoms))
        ]
        if len(support) > 2:
            continue
        for rest in permutations(bit for bit in range(atoms) if bit not in support):
            pins = (*support, *rest, *[-1] * (4 - atoms))
            index = [
                sum((address >> place & 1) << bit for place, bit in enumerate(pins) if bit >= 0)
                for address in range(16)
            ]
            propagate = [(x ^ y) >> index[address] & 1 for address in range(16)]
            generate = [g >> index[address] & 1 for address in range(4)]
            if atoms < 4:
                propagate[:4] = generate  # D is 1, so that the lowest half is not looked at for P
            elif any(
                propagate[address] != generate[address] and not all(propagate[address::4])
                for address in range(4)
            ):
                continue
            return pins, sum(bit << address for address, bit in enumerate(propagate))
    return None


def fuse(x: Term, y: Term) -> tuple[list[Value], int] | None:
    """Pins A, B, C, D and INIT of the slot that adds two terms, or None where no slot does."""
    atoms = tuple(dict.fromkeys(x.atoms + y.atoms))
    if len(atoms) > 4:
        return None
    found = _fused(len(atoms), x.over(atoms), y.over(atoms))
    if found is None:
        return None
    pins, init = found
    return [Const(1, 1) if pin < 0 else atoms[pin].value for pin in pins], init


def add_rows(
    m: Module,
    rows: Sequence[Row],
    *,
    fabric: Fabric,
    platform: object,
    name: str,
    longest: int = LONGEST_CHAIN,
) -> None:
    """Drive the total of every row.

    Parameters
    ----------
    m
        Where the logic goes, domain ``comb``.
    rows
        What to add; neighbours may share chains.
    fabric
        What the chains are made of.
    platform
        What ``elaborate`` was given: in Verilog primitives are instantiated, in simulation and proofs their
        equations take their place.
    name
        Prefix of the names of signals and submodules.
    longest
        Slots of a chain of several rows; a longer row has a chain of its own.
    """
    if fabric == "generic":
        for row in rows:
            x, y = (Cat(term.value for term in terms) for terms in (row.x, row.y))
            m.d.comb += row.total.eq(x + y + row.carry.value)
        return
    if fabric == "ice40":
        for index, row in enumerate(rows):
            _ice40_row(m, row, platform, f"{name}_{index}")
        return
    chains: list[list[Row]] = []
    left = 0
    for row in rows:
        if len(row.x) + 1 > left or not chains:
            chains.append([])
            left = longest - 1  # the last row's carry out
        chains[-1].append(row)
        left -= len(row.x) + 1
    for index, group in enumerate(chains):
        _ccu2c_chain(m, group, platform, f"{name}_{index}")


@dataclass(frozen=True)
class _Slot:
    pins: Sequence[Value]
    init: int
    total: Value | None


def _plain(m: Module, term: Term, name: str) -> Term:
    """The term as a signal of its own, behind as many LUTs as it takes."""
    if term.atoms == () or (len(term.atoms) == 1 and term.table == 0b10):
        return term
    signal = Signal(name=name)
    m.d.comb += signal.eq(term.value)
    return Term.of(signal, term.time)


def _ccu2c_chain(m: Module, rows: Sequence[Row], platform: object, name: str) -> None:
    one = Const(1, 1)
    slots: list[_Slot] = []
    carry_out: Value | None = None
    for number, row in enumerate(rows):
        carry = row.carry if len(row.carry.atoms) <= 2 else _plain(m, row.carry, f"{name}_carry_{number}")
        pins = [*(atom.value for atom in carry.atoms), one, one][:2]
        put = carry.over((*carry.atoms, *[None] * (2 - len(carry.atoms))))
        slots.append(_Slot([*pins, one, one], put, carry_out))
        for index, (x, y) in enumerate(zip(row.x, row.y, strict=True)):
            fused = fuse(x, y)
            if fused is None:
                # The wider of the two gets a LUT of its own.
                if len(x.atoms) >= len(y.atoms):
                    x = _plain(m, x, f"{name}_term_{number}_{index}")
                else:
                    y = _plain(m, y, f"{name}_term_{number}_{index}")
                fused = fuse(x, y) or fuse(x, _plain(m, y, f"{name}_other_{number}_{index}"))
                assert fused is not None
            slots.append(_Slot(*fused, row.total[index]))
        carry_out = row.total[len(row.x)] if len(row.total) > len(row.x) else None
    if carry_out is not None:
        slots.append(_Slot([one] * 4, 0, carry_out))
    if isinstance(platform, Emission):
        _instantiate_ccu2c(m, slots, name)
        return
    carry_in: Value = Const(0, 1)
    for index, slot in enumerate(slots):
        propagate = Signal(name=f"{name}_p{index}")
        generate = Signal(name=f"{name}_g{index}")
        carry = Signal(name=f"{name}_c{index}")
        m.d.comb += [
            propagate.eq(_lut(slot.init, slot.pins)),
            generate.eq(_lut(slot.init & 15, slot.pins[:2])),
            carry.eq((propagate & carry_in) | (~propagate & generate)),
        ]
        if slot.total is not None:
            m.d.comb += slot.total.eq(propagate ^ carry_in)
        carry_in = carry


def _lut(init: int, pins: Sequence[Value]) -> Value:
    return (Const(init, 1 << len(pins)) >> Cat(pins))[0]


def _instantiate_ccu2c(m: Module, slots: Sequence[_Slot], name: str) -> None:
    """The head has no carry in and the end no carry out: nextpnr spends two LUTs on each that is connected.

    The head needs none: its slot takes nothing out (P = 0), so that its carry out is G.
    """
    empty = _Slot([Const(1, 1)] * 4, 0, None)
    carry: Value | None = None
    for index in range(0, len(slots), 2):
        pair = [*slots[index : index + 2], empty][:2]
        ports: dict[str, object] = {} if carry is None else {"i_CIN": carry}
        for place, slot in enumerate(pair):
            ports |= {f"i_{pin}{place}": value for pin, value in zip("ABCD", slot.pins, strict=True)}
            ports |= {f"p_INIT{place}": Const(slot.init, 16), f"p_INJECT1_{place}": "NO"}
            if slot.total is not None:
                ports[f"o_S{place}"] = slot.total
        if index + 2 < len(slots):
            carry = Signal(name=f"{name}_c{index // 2}")
            ports["o_COUT"] = carry
        m.submodules[f"{name}_ccu2c_{index // 2}"] = cast(Elaboratable, Instance("CCU2C", **ports))


def _is_plain(term: Term) -> bool:
    return not term.atoms or (len(term.atoms) == 1 and term.table == 0b10)


def _luts_in_front(row: Row) -> int:
    return len({term for term in (*row.x, *row.y, row.carry) if not _is_plain(term)})


@dataclass(frozen=True)
class _Pinned:
    """``x + (y + carry if gate else 0)``, or its complement if flip: one of the two at most, on pin I0."""

    row: Row
    gate: Atom | None = None
    flip: Atom | None = None

    @property
    def init(self) -> int:
        """Table of a bit of the sum over I0, x, y and the carry in; with x = y = 0 that is the carry out."""
        init = 0
        for address in range(16):
            pin, x, y, carry = (address >> place & 1 for place in range(4))
            adds = self.gate is None or pin
            inverts = self.flip is not None and pin
            init |= (x ^ (adds & (y ^ carry)) ^ inverts) << address
        return init


def _pinned(row: Row) -> _Pinned:
    """The form of the row with fewest LUTs in front."""
    candidates = [_Pinned(row)]
    for atom in dict.fromkeys(atom for term in (*row.x, *row.y) for atom in term.atoms):
        pin = Term((atom,), 0b10)
        # ~x + ~y + carry = ~(x + y + ~carry), the carry out included.
        inverted = Row([x ^ pin for x in row.x], [y ^ pin for y in row.y], row.carry ^ pin, row.total)
        if not any(atom in term.atoms for term in (*inverted.x, *inverted.y)):
            candidates.append(_Pinned(inverted, flip=atom))
        for x, y in ((row.x, row.y), (row.y, row.x)):
            if all(term & ~pin == ZERO for term in (*y, row.carry)):
                gated = Row(x, [term.where(atom) for term in y], row.carry.where(atom), row.total)
                candidates.append(_Pinned(gated, gate=atom))
    return min(candidates, key=lambda candidate: _luts_in_front(candidate.row))


def _full_adder(m: Module, row: Row, name: str) -> None:
    """A row of one bit in two LUTs, which have room for a product that a carry would need a LUT for."""
    terms = [row.x[0], row.y[0], row.carry]
    while len({atom for term in terms for atom in term.atoms}) > 4:
        widest = max(range(3), key=lambda index: len(terms[index].atoms))
        terms[widest] = _plain(m, terms[widest], f"{name}_{widest}")
    x, y, carry = terms
    m.d.comb += row.total.eq(Cat((x ^ y ^ carry).value, ((x & y) | (carry & (x | y))).value))


def _ice40_row(m: Module, whole: Row, platform: object, name: str) -> None:
    """A row's full adder, or its chain: the carry in, the bits, the carry out."""
    if len(whole.x) == 1:
        _full_adder(m, whole, name)
        return
    pinned = _pinned(whole)
    row = pinned.row
    atom = pinned.flip if pinned.gate is None else pinned.gate
    pin = Const(0, 1) if atom is None else atom.value
    carry_in: Value = Const(0, 1)
    slots: list[tuple[Value, Value, Value | None]] = []  # operands, sum
    if not row.carry.atoms:
        carry_in = row.carry.value
    elif len(row.carry.atoms) == 2 and row.carry.table == 0b1000:
        slots.append((row.carry.atoms[0].value, row.carry.atoms[1].value, None))
    else:
        carry_in = Const(1, 1)  # so that the carry takes one pin
        slots.append((_plain(m, row.carry, f"{name}_carry").value, Const(0, 1), None))
    for index, (x, y) in enumerate(zip(row.x, row.y, strict=True)):
        operands = _plain(m, x, f"{name}_x_{index}").value, _plain(m, y, f"{name}_y_{index}").value
        slots.append((*operands, row.total[index]))
    if len(row.total) > len(row.x):
        slots.append((Const(0, 1), Const(0, 1), row.total[len(row.x)]))
    for index, (x, y, total) in enumerate(slots):
        carry_out = Signal(name=f"{name}_c{index}")
        if total is not None:
            pins = [pin, x, y, carry_in]
            if isinstance(platform, Emission):
                ports = {f"i_I{place}": value for place, value in enumerate(pins)}
                lut = Instance("SB_LUT4", p_LUT_INIT=Const(pinned.init, 16), o_O=total, **ports)
                m.submodules[f"{name}_lut_{index}"] = cast(Elaboratable, lut)
            else:
                m.d.comb += total.eq(_lut(pinned.init, pins))
        if index < len(slots) - 1:
            if isinstance(platform, Emission):
                carry = Instance("SB_CARRY", i_I0=x, i_I1=y, i_CI=carry_in, o_CO=carry_out)
                m.submodules[f"{name}_carry_{index}"] = cast(Elaboratable, carry)
            else:
                m.d.comb += carry_out.eq((x & y) | (carry_in & (x | y)))
        carry_in = carry_out
