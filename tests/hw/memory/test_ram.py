"""The memory: write enables per granule, one cycle of latency or two, and no read enable, no change."""

import pytest

from bitwright.hw.memory.ram import Ram


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize(
    ("width", "depth", "granule"), [(8, 16, None), (32, 8, 8), (32, 4, 16), (5, 2, None), (7, 1, None)]
)
def test_against_a_list(width, depth, granule, registered, rng, simulate):
    dut = Ram(width=width, depth=depth, granule=granule, registered=registered)
    step = granule or width
    contents = [0] * depth
    # What is read in the cycles that follow; registered, the first of them is of the cycle before.
    expected = [None] * (2 if registered else 1)

    async def drive(ctx):
        for _ in range(300):
            enable = rng.randrange(1 << width // step)
            to, value = rng.randrange(depth), rng.getrandbits(width)
            source, read = rng.randrange(depth), rng.random() < 0.6
            if source == to and enable:
                read = False  # undefined
            for port, setting in (
                (dut.write_enable, enable),
                (dut.write_address, to),
                (dut.write_data, value),
                (dut.read_enable, read),
                (dut.read_address, source),
            ):
                ctx.set(port, setting)
            await ctx.tick()
            expected.append(contents[source] if read else expected[-1])
            seen = expected[-2] if registered else expected[-1]
            for index in range(width // step):
                if enable >> index & 1:
                    mask = (1 << step) - 1 << step * index
                    contents[to] = contents[to] & ~mask | value & mask
            if seen is not None:
                assert ctx.get(dut.read_data) == seen

    simulate(dut, drive)


def test_granules_that_do_not_fill_a_word(refuses):
    refuses("Granules of 12 bits do not fill a word of 32 bits", Ram, width=32, depth=16, granule=12)
