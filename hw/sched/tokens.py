"""Tokens between the units: one counter for each ordered pair."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .isa import Unit

__all__ = ["TokenBank"]


class TokenBank(wiring.Component):
    """Counts the tokens that each unit has given to each other one and that have not been taken.

    A unit may start when every unit it waits for has given it a token. Giving and taking in the same cycle
    leaves the count as it is. A token beyond ``limit`` raises ``overflow``.

    Parameters
    ----------
    limit
        Tokens that one unit can be ahead of another.

    Members, one element per unit
    -----------------------------
    wait_for : units whose tokens the next instruction needs
    waited : all of them are there, among those seen up to the previous cycle
    take : the instruction starts: take them
    give, post : an instruction has ended: units to give a token to
    lacking : units whose token is needed and not there
    overflow : a token was lost in the cycle before
    """

    def __init__(self, limit: int):
        self.limit = limit
        units = len(Unit)
        super().__init__(
            {
                "wait_for": In(units).array(units),
                "waited": Out(1).array(units),
                "take": In(1).array(units),
                "give": In(1).array(units),
                "post": In(units).array(units),
                "lacking": Out(units).array(units),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        overflows = []
        for taker in Unit:
            for giver in Unit:
                if giver == taker:
                    continue
                count = Signal(range(self.limit + 1), name=f"count_{giver.name}_{taker.name}".lower())
                present = Signal(name=f"present_{giver.name}_{taker.name}".lower())
                up = self.give[giver] & self.post[giver][taker]
                down = self.take[taker] & self.wait_for[taker][giver]
                with m.If(up & ~down):
                    m.d.sync += [count.eq(count + 1), present.eq(1)]
                with m.Elif(down & ~up):
                    m.d.sync += [count.eq(count - 1), present.eq(count != 1)]
                m.d.comb += self.lacking[taker][giver].eq(self.wait_for[taker][giver] & ~present)
                # Whether one is taken is known late in the cycle.
                excess = Signal(name=f"excess_{giver.name}_{taker.name}".lower())
                taken = Signal(name=f"taken_{giver.name}_{taker.name}".lower())
                m.d.sync += [excess.eq(up & (count == self.limit)), taken.eq(down)]
                overflows.append(excess & ~taken)
            m.d.comb += self.waited[taker].eq(~self.lacking[taker].any())
        m.d.comb += self.overflow.eq(Cat(overflows).any())
        return m
