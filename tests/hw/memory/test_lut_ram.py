"""The memory that is read without a clock."""

import pytest

from bitwright.hw.memory.lut_ram import LutRam


@pytest.mark.parametrize(("width", "depth"), [(11, 16), (1, 2), (5, 1)])
def test_reads_in_the_same_cycle_what_was_written_before(width, depth, rng, simulate):
    ram = LutRam(width=width, depth=depth)
    contents = [0] * depth

    async def bench(ctx):
        for _ in range(60):
            write, address, data = rng.random() < 0.5, rng.randrange(depth), rng.getrandbits(width)
            read = rng.randrange(depth)
            ctx.set(ram.write_enable, write)
            ctx.set(ram.write_address, address)
            ctx.set(ram.write_data, data)
            ctx.set(ram.read_address, read)
            assert ctx.get(ram.read_data) == contents[read]
            await ctx.tick()
            if write:
                contents[address] = data

    simulate(ram, bench)
