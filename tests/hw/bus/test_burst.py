"""Bursts of a block: all of its words in order, and none across a burst's natural boundary."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.hw.bus.burst import BlockLayout, BurstSplitter


@st.composite
def some_blocks(draw):
    """Widths of a splitter's blocks, and some blocks."""
    address_bits = draw(st.sampled_from([10, 28, 32]))
    layout = draw(
        st.sampled_from(
            [
                BlockLayout(address_bits=address_bits),
                BlockLayout(address_bits=address_bits, beats_bits=7, row_bits=7),
            ]
        )
    )
    end = 1 << address_bits
    most = (1 << layout["row_beats"].width) - 1

    def block():
        return {
            "memory": draw(
                st.one_of(st.integers(0, 300), st.integers(0, end - 1), st.integers(end - 40, end - 1))
            ),
            "beats": draw(st.integers(1, 40)),
            "row_beats": draw(st.one_of(st.integers(1, 50), st.integers(most - 3, most))),
            "stride": draw(st.one_of(st.integers(0, 200), st.integers(end - 50, end - 1))),
        }

    return layout, [block() for _ in range(draw(st.integers(1, 3)))]


def words(block, address_bits):
    """Word addresses of a block, row by row."""
    return [
        [
            (block["memory"] + row * block["stride"] + index) % 2**address_bits
            for index in range(min(block["row_beats"], block["beats"] - row * block["row_beats"]))
        ]
        for row in range(-(-block["beats"] // block["row_beats"]))
    ]


def bursts(block, address_bits, burst_beats):
    """The fewest bursts that do not cross a multiple of ``burst_beats``."""
    found = []
    for row in words(block, address_bits):
        start = len(found)
        for address in row:
            if len(found) > start and address % burst_beats and address == sum(found[-1][:2]):
                found[-1][1] += 1
            else:
                found.append([address, 1, 0])
    found[-1][2] = 1
    return [tuple(burst) for burst in found]


@settings(max_examples=60, deadline=None)
@given(
    burst_beats=st.sampled_from([4, 8, 16, 64, 256]),
    layout_and_blocks=some_blocks(),
    idle=st.sampled_from([0.0, 0.5]),
    stall=st.sampled_from([0.0, 0.5]),
    rng=st.randoms(use_true_random=False),
)
def test_blocks(burst_beats, layout_and_blocks, idle, stall, rng, simulate, sender, receiver):
    layout, blocks = layout_and_blocks
    address_bits = layout["memory"].width
    dut = BurstSplitter(burst_beats, layout)
    expected = [burst for block in blocks for burst in bursts(block, address_bits, burst_beats)]
    taken = []
    receive = receiver(dut.o, taken, rng, stall, count=len(expected))

    async def empty(ctx):
        """There is no burst of no words; looked at early, as one may come of another for ever."""
        while True:
            _, _, valid, length = await ctx.tick().sample(dut.o.valid, dut.o.payload.length)
            assert length > 0 or not valid

    simulate(
        dut, sender(dut.i, blocks, rng, idle), receive, background=[empty], cycles=100 + 20 * len(expected)
    )
    found = [(burst["memory"], burst["length"], burst["last"]) for burst in taken]
    # The union, in order, is the block ...
    assert [address + index for address, length, _ in found for index in range(length)] == [
        address for block in blocks for row in words(block, address_bits) for address in row
    ]
    # ... no burst crosses a boundary ...
    for address, length, _ in found:
        assert address // burst_beats == (address + length - 1) // burst_beats
    # ... and there are no more than needed.
    assert found == expected


@pytest.mark.parametrize(
    ("block", "gaps"),
    [
        # Two cycles per burst
        ({"memory": 0, "beats": 16, "row_beats": 16}, [2, 2, 2]),
        # One more per row
        ({"memory": 0, "beats": 12, "row_beats": 4, "stride": 8}, [3, 3]),
        ({"memory": 2, "beats": 8, "row_beats": 4, "stride": 4}, [2, 3, 2]),
    ],
)
def test_pace(block, gaps, simulate, stream_put, watch):
    dut = BurstSplitter(4)
    trace = []

    async def drive(ctx):
        ctx.set(dut.o.ready, 1)
        await stream_put(ctx, dut.i, block)
        await ctx.tick().repeat(20)
        assert ctx.get(dut.i.ready)

    simulate(dut, drive, background=[watch(trace, dut.o.valid)])
    given = [cycle for cycle, (valid,) in enumerate(trace) if valid]
    # The block is taken in cycle 0; its first burst comes after a cycle for its row and one for itself.
    assert given[0] == 3
    assert [after - before for before, after in pairwise(given)] == gaps


def test_longest_block(simulate, stream_put, watch):
    """The counters hold the longest block and row that an instruction can ask for."""
    dut = BurstSplitter(256)
    trace = []

    async def drive(ctx):
        ctx.set(dut.o.ready, 1)
        await stream_put(
            ctx, dut.i, {"memory": 255, "beats": 2**24 - 1, "row_beats": 2**16 - 1, "stride": 2**17}
        )
        # One row: a word, 255 bursts of 256, and 254 words
        await ctx.tick().repeat(2 + 2 * 257 + 3)

    simulate(dut, drive, background=[watch(trace, dut.o.valid, dut.o.payload)])
    found = [(burst["memory"], burst["length"], burst["last"]) for valid, burst in trace if valid]
    assert found[:2] == [(255, 1, 0), (256, 256, 0)]
    assert found[255:258] == [(255 * 256, 256, 0), (256 * 256, 254, 0), (255 + 2**17, 1, 0)]
