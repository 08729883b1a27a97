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
    A pair of SB_CARRY and SB_LUT4 per bit, joined by the same slots. The carry takes its operands from the
    LUT's own pins I1 and I2, so that terms of more than one signal need a LUT in front.

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
        What to add; neighbours share chains.
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
    chain = {"ecp5": _ccu2c_chain, "ice40": _ice40_chain}[fabric]
    if fabric == "ice40":
        for index, row in enumerate(rows):
            if len(row.x) == 1:
                _full_adder(m, row, f"{name}_adder_{index}")
        rows = [row for row in rows if len(row.x) > 1]
    chains: list[list[Row]] = []
    left = 0
    for row in rows:
        if len(row.x) + 1 > left or not chains:
            chains.append([])
            left = longest - 1  # the last row's carry out
        chains[-1].append(row)
        left -= len(row.x) + 1
    for index, group in enumerate(chains):
        chain(m, group, platform, f"{name}_{index}")


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


@dataclass(frozen=True)
class _CarrySlot:
    """An iCE40's slot: ``total = x ^ (y ^ cin if gate else 0) ^ flip``, ``cout`` the majority of x, y, cin.

    Of ``gate`` and ``flip`` one at most is a signal, on pin I0.
    """

    x: Value
    y: Value
    total: Value | None
    gate: Value | None = None
    flip: Value | None = None
    takes: bool = False
    """Whether the total is without x and y: these are the carry that the slot puts in."""

    @property
    def pins(self) -> list[Value]:
        """I0, I1, I2."""
        pin = self.flip if self.gate is None else self.gate
        return [Const(0, 1) if pin is None else pin, self.x, self.y]

    @property
    def init(self) -> int:
        """Table of the total, over the pins and the carry in."""
        init = 0
        for address in range(16):
            pin, x, y, carry = (address >> place & 1 for place in range(4))
            adds = self.gate is None or pin
            inverts = self.flip is not None and pin
            terms = carry if self.takes else y ^ carry
            init |= ((x & (not self.takes)) ^ (adds & terms) ^ inverts) << address
        return init


def _is_plain(term: Term) -> bool:
    return not term.atoms or (len(term.atoms) == 1 and term.table == 0b10)


def _luts_in_front(row: Row) -> int:
    return len({term for term in (*row.x, *row.y, row.carry) if not _is_plain(term)})


def _with_pin(row: Row) -> tuple[Row, Atom | None, Atom | None]:
    """The row with fewest LUTs in front: what is left of it behind a gate or a flip, and these."""
    best: tuple[Row, Atom | None, Atom | None] = row, None, None
    for atom in dict.fromkeys(atom for term in (*row.x, *row.y) for atom in term.atoms):
        pin = Term((atom,), 0b10)
        candidates: list[tuple[Row, Atom | None, Atom | None]] = []
        # ~x + ~y + carry = ~(x + y + ~carry), all bits of the sum included.
        flipped = Row([x ^ pin for x in row.x], [y ^ pin for y in row.y], row.carry ^ pin, row.total)
        if not any(atom in term.atoms for term in (*flipped.x, *flipped.y)):
            candidates.append((flipped, None, atom))
        for x, y in ((row.x, row.y), (row.y, row.x)):
            if all(term & ~pin == ZERO for term in (*y, row.carry)):
                gated = Row(x, [term.where(atom) for term in y], row.carry.where(atom), row.total)
                candidates.append((gated, atom, None))
        best = min((best, *candidates), key=lambda found: _luts_in_front(found[0]))
    return best


def _full_adder(m: Module, row: Row, name: str) -> None:
    """A row of one bit in two LUTs, which have room for a product that a carry would need a LUT for."""
    terms = [row.x[0], row.y[0], row.carry]
    while len({atom for term in terms for atom in term.atoms}) > 4:
        widest = max(range(3), key=lambda index: len(terms[index].atoms))
        terms[widest] = _plain(m, terms[widest], f"{name}_{widest}")
    x, y, carry = terms
    m.d.comb += row.total.eq(Cat((x ^ y ^ carry).value, ((x & y) | (carry & (x | y))).value))


def _ice40_chain(m: Module, rows: Sequence[Row], platform: object, name: str) -> None:
    slots: list[_CarrySlot] = []
    carry_out: Value | None = None
    first: Value = Const(0, 1)
    pin: dict[str, Value] = {}  # of the row before
    for number, whole in enumerate(rows):
        row, gate, flip = _with_pin(whole)
        if slots or row.carry != ZERO:
            if slots:
                x = y = _plain(m, row.carry, f"{name}_carry_{number}").value
            elif len(row.carry.atoms) == 2 and row.carry.table == 0b1000:
                x, y = (atom.value for atom in row.carry.atoms)  # with no carry in, it is their product
            else:
                # One pin where two would do: router1 of nextpnr can pull a signal from one to the other forever.
                x, y = _plain(m, row.carry, f"{name}_carry_{number}").value, Const(0, 1)
                first = Const(1, 1)
            slots.append(_CarrySlot(x, y, carry_out, **pin, takes=True))
        pin = {key: atom.value for key, atom in (("gate", gate), ("flip", flip)) if atom is not None}
        for index, terms in enumerate(zip(row.x, row.y, strict=True)):
            x, y = (
                _plain(m, term, f"{name}_{operand}_{number}_{index}").value
                for operand, term in zip("xy", terms, strict=True)
            )
            slots.append(_CarrySlot(x, y, row.total[index], **pin))
        carry_out = row.total[len(row.x)] if len(row.total) > len(row.x) else None
    if carry_out is not None:
        slots.append(_CarrySlot(Const(0, 1), Const(0, 1), carry_out, **pin, takes=True))
    carry_in = first
    for index, slot in enumerate(slots):
        _, x, y = slot.pins
        carry_next = Signal(name=f"{name}_c{index}")
        if isinstance(platform, Emission):
            if slot.total is not None:
                pins = dict(zip(("i_I0", "i_I1", "i_I2", "i_I3"), (*slot.pins, carry_in), strict=True))
                lut = Instance("SB_LUT4", p_LUT_INIT=Const(slot.init, 16), o_O=slot.total, **pins)
                m.submodules[f"{name}_lut_{index}"] = cast(Elaboratable, lut)
            if index < len(slots) - 1:
                carry = Instance("SB_CARRY", i_I0=x, i_I1=y, i_CI=carry_in, o_CO=carry_next)
                m.submodules[f"{name}_carry_{index}"] = cast(Elaboratable, carry)
        else:
            if slot.total is not None:
                m.d.comb += slot.total.eq(_lut(slot.init, [*slot.pins, carry_in]))
            m.d.comb += carry_next.eq((x & y) | (carry_in & (x | y)))
        carry_in = carry_next
