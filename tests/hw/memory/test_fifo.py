"""The queue: order, no loss, its level, when it is full, and how soon a word comes out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.hw.memory.fifo import BlockFifo


@pytest.mark.parametrize("stall", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("idle", [0.0, 0.3, 0.8])
@pytest.mark.parametrize(("depth", "registered"), [(2, True), (8, True), (2, False)])
def test_order(depth, registered, idle, stall, rng, simulate, sender, receiver):
    dut = BlockFifo(16, depth, registered=registered)
    words = [rng.getrandbits(16) for _ in range(60)]
    found = []
    simulate(
        dut,
        sender(dut.i, words, rng, idle),
        receiver(dut.o, found, rng, stall, count=len(words)),
    )
    assert found == words


# Runs of equal behaviour fill and empty the queue; single cycles would hover in the middle.
runs = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 12)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(depth=st.sampled_from([2, 4, 8]), registered=st.booleans(), runs=runs)
def test_every_cycle_against_a_model(depth, registered, runs, simulate):
    """Words in the memory, perhaps one at its output, and perhaps one in the register behind that."""
    dut = BlockFifo(8, depth, registered=registered)

    async def drive(ctx):
        stored = []
        loaded = output = None
        value = 0
        for offers, takes, cycles in runs:
            for _ in range(cycles):
                ctx.set(dut.i.valid, offers)
                ctx.set(dut.i.payload, value)
                ctx.set(dut.o.ready, takes)
                given = output if registered else loaded
                assert ctx.get(dut.i.ready) == (len(stored) < depth)
                assert ctx.get(dut.o.valid) == (given is not None)
                assert ctx.get(dut.level) == len(stored) + (loaded is not None) + (output is not None)
                if given is not None:
                    assert ctx.get(dut.o.payload) == given
                await ctx.tick()
                # A word that comes in can be read in the next cycle at the earliest.
                before = len(stored)
                if offers and before < depth:
                    stored.append(value)
                    value = (value + 1) % 256
                if not registered and takes:
                    loaded = None
                if registered and (output is None or takes):
                    output, loaded = loaded, None
                if loaded is None and before:
                    loaded = stored.pop(0)

    simulate(dut, drive)


@pytest.mark.parametrize(("registered", "latency"), [(True, 3), (False, 2)])
def test_first_word_and_then_one_in_each_cycle(registered, latency, simulate, watch):
    dut = BlockFifo(8, 4, registered=registered)

    async def drive(ctx):
        ctx.set(dut.o.ready, 1)
        ctx.set(dut.i.valid, 1)
        for value in range(10):
            ctx.set(dut.i.payload, value)
            await ctx.tick()
        ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(5)

    trace = []
    simulate(dut, drive, background=[watch(trace, dut.o.valid, dut.o.payload)])
    assert [cycle for cycle, (valid, _) in enumerate(trace) if valid] == list(range(latency, latency + 10))
    assert [value for valid, value in trace if valid] == list(range(10))


@pytest.mark.parametrize(("registered", "more"), [(True, 2), (False, 1)])
def test_holds_more_than_its_depth(registered, more, simulate, stream_put):
    """The memory's output and the register behind it come on top."""
    dut = BlockFifo(8, 4, registered=registered)

    async def drive(ctx):
        for value in range(4 + more):
            await stream_put(ctx, dut.i, value)
        await ctx.tick().repeat(2)
        assert not ctx.get(dut.i.ready)
        assert ctx.get(dut.level) == 4 + more

    simulate(dut, drive)


@pytest.mark.parametrize("depth", [-4, 0, 1, 3, 12])
def test_depth_that_is_no_power_of_two(depth, refuses):
    refuses(f"a power of two of at least 2, not {depth}", BlockFifo, 8, depth)
