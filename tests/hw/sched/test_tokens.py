"""Tokens against a table of counts."""

import pytest

from bitwright.hw.sched.isa import Unit
from bitwright.hw.sched.tokens import TokenBank

PAIRS = [(giver, taker) for giver in Unit for taker in Unit if giver != taker]


@pytest.mark.parametrize("generosity", [0.2, 0.5, 0.9])
def test_random_traffic(generosity, rng, simulate):
    dut = TokenBank(255)
    counts = dict.fromkeys(PAIRS, 0)

    async def drive(ctx):
        for _ in range(400):
            waits, posts = [], []
            for unit in Unit:
                others = 7 & ~(1 << unit)
                waits.append(rng.randrange(8) & others)
                posts.append(rng.randrange(8) & others)
                ctx.set(dut.wait_for[unit], waits[unit])
                ctx.set(dut.post[unit], posts[unit])
                lacking = [giver for giver in Unit if waits[unit] >> giver & 1 and not counts[giver, unit]]
                assert ctx.get(dut.lacking[unit]) == sum(1 << giver for giver in lacking)
                assert ctx.get(dut.waited[unit]) == (not lacking)
                takes = not lacking and rng.random() < 0.7
                gives = rng.random() < generosity
                ctx.set(dut.take[unit], takes)
                ctx.set(dut.give[unit], gives)
                waits[unit] *= takes
                posts[unit] *= gives
            assert not ctx.get(dut.overflow)
            await ctx.tick()
            for giver, taker in PAIRS:
                counts[giver, taker] += posts[giver] >> taker & 1
                counts[giver, taker] -= waits[taker] >> giver & 1

    simulate(dut, drive)


def test_needs_all_it_waits_for(simulate):
    dut = TokenBank(255)

    async def drive(ctx):
        ctx.set(dut.wait_for[Unit.COMPUTE], 0b101)
        assert not ctx.get(dut.waited[Unit.COMPUTE])
        ctx.set(dut.post[Unit.LOAD], 0b010)
        ctx.set(dut.give[Unit.LOAD], 1)
        await ctx.tick()
        ctx.set(dut.give[Unit.LOAD], 0)
        assert ctx.get(dut.lacking[Unit.COMPUTE]) == 0b100
        assert not ctx.get(dut.waited[Unit.COMPUTE])
        ctx.set(dut.post[Unit.STORE], 0b010)
        ctx.set(dut.give[Unit.STORE], 1)
        # Seen in the next cycle, not in this one.
        assert not ctx.get(dut.waited[Unit.COMPUTE])
        await ctx.tick()
        assert ctx.get(dut.waited[Unit.COMPUTE])
        # Nobody waits for nothing.
        assert ctx.get(dut.waited[Unit.LOAD])

    simulate(dut, drive)


def test_give_and_take_in_one_cycle(simulate):
    dut = TokenBank(255)

    async def drive(ctx):
        ctx.set(dut.post[Unit.LOAD], 0b010)
        ctx.set(dut.give[Unit.LOAD], 1)
        ctx.set(dut.wait_for[Unit.COMPUTE], 0b001)
        await ctx.tick()
        ctx.set(dut.take[Unit.COMPUTE], 1)
        for _ in range(300):
            assert ctx.get(dut.waited[Unit.COMPUTE])
            assert not ctx.get(dut.overflow)
            await ctx.tick()
        ctx.set(dut.give[Unit.LOAD], 0)
        await ctx.tick()
        assert not ctx.get(dut.waited[Unit.COMPUTE])

    simulate(dut, drive)


@pytest.mark.parametrize("limit", [31, 63])
@pytest.mark.parametrize(("giver", "taker"), PAIRS, ids=lambda unit: unit.name)
def test_overflow(giver, taker, limit, simulate):
    dut = TokenBank(limit)

    async def drive(ctx):
        ctx.set(dut.post[giver], 1 << taker)
        ctx.set(dut.wait_for[taker], 1 << giver)
        ctx.set(dut.give[giver], 1)
        for _ in range(limit):
            await ctx.tick()
        # One more where one is taken at the same time; what is lost is said a cycle later.
        ctx.set(dut.take[taker], 1)
        await ctx.tick()
        ctx.set(dut.give[giver], 0)
        assert not ctx.get(dut.overflow)
        # And all of them are there.
        for _ in range(limit):
            assert ctx.get(dut.waited[taker])
            await ctx.tick()
            assert not ctx.get(dut.overflow)
        assert not ctx.get(dut.waited[taker])
        # One too many
        ctx.set(dut.take[taker], 0)
        ctx.set(dut.give[giver], 1)
        for _ in range(limit + 1):
            assert not ctx.get(dut.overflow)
            await ctx.tick()
        assert ctx.get(dut.overflow)
        ctx.set(dut.give[giver], 0)
        await ctx.tick()
        assert not ctx.get(dut.overflow)

    simulate(dut, drive)
