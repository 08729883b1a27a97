"""Rows on carry chains, in every form that a fabric has for them."""

from itertools import product

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator, SimulatorContext

from bitwright.hw.reduce.carry import FABRICS, Fabric, Row, add_rows
from bitwright.hw.reduce.terms import ONE, ZERO, Term, bits_of

WIDTH = 2


def row(form: str, carry: str, width: int) -> tuple[Row, Signal]:
    """A row, and the signal with all of its atoms."""
    atoms = Signal(2 * width + 4)
    *bits, g, n, c, d = bits_of(atoms)
    x, y = bits[:width], bits[width:]
    put = {"none": ZERO, "one": ONE, "plain": c, "product": c & d, "gated": c & g, "inverted": c ^ n}[carry]
    rows: dict[str, tuple[list[Term], list[Term]]] = {
        "plain": (x, y),
        "products": ([bit & c for bit in x], [bit & d for bit in y]),
        "gate": (x, [bit & g for bit in y]),
        "flip": ([bit ^ n for bit in x], [bit ^ n for bit in y]),
        "negate": (x, [bit ^ n for bit in y]),
    }
    return Row(*rows[form], put, Signal(width + 1)), atoms


@pytest.mark.parametrize("fabric", FABRICS)
def test_every_form_of_a_row(fabric: Fabric) -> None:
    m = Module()
    kinds = list(
        product(
            ("plain", "products", "gate", "flip", "negate"),
            ("none", "one", "plain", "product", "gated", "inverted"),
            (1, WIDTH),
        )
    )
    made = [row(*kind) for kind in kinds]
    add_rows(m, [found for found, _ in made], fabric=fabric, platform=None, name="chain")
    expected = []
    for found, _ in made:
        total = Signal(len(found.total))
        x, y = (sum(term.value << place for place, term in enumerate(terms)) for terms in (found.x, found.y))
        m.d.comb += total.eq(x + y + found.carry.value)
        expected.append(total)
    stimulus = Signal(2 * WIDTH + 4)
    m.d.comb += [atoms.eq(stimulus) for _, atoms in made]

    async def testbench(ctx: SimulatorContext) -> None:
        for value in range(1 << len(stimulus)):
            ctx.set(stimulus, value)
            for kind, (found, _), total in zip(kinds, made, expected, strict=True):
                assert ctx.get(found.total) == ctx.get(total), kind

    simulator = Simulator(m)
    simulator.add_testbench(testbench)
    simulator.run()
