"""The single-port memory: bytes written or a word read, a cycle of latency, and no enable, no change."""

import pytest

from bitwright.hw.memory.single_port import SinglePortRam


@pytest.mark.parametrize(("width", "depth"), [(8, 16), (32, 8), (64, 2)])
def test_against_a_list(width, depth, rng, simulate):
    dut = SinglePortRam(width=width, depth=depth)
    contents = [0] * depth
    expected = None

    async def drive(ctx):
        nonlocal expected
        for _ in range(400):
            enable, place, value = rng.random() < 0.7, rng.randrange(depth), rng.getrandbits(width)
            write = rng.getrandbits(width // 8) if rng.random() < 0.5 else 0
            for port, setting in (
                (dut.enable, enable),
                (dut.address, place),
                (dut.write, write),
                (dut.write_data, value),
            ):
                ctx.set(port, setting)
            await ctx.tick()
            if enable and not write:
                expected = contents[place]
            if enable:
                for byte in range(width // 8):
                    if write >> byte & 1:
                        mask = 0xFF << 8 * byte
                        contents[place] = contents[place] & ~mask | value & mask
            if expected is not None:
                assert ctx.get(dut.read_data) == expected

    simulate(dut, drive)
    assert expected is not None


@pytest.mark.parametrize(
    ("match", "width", "depth"), [("multiple of 8", 12, 16), ("multiple of 8", 0, 16), ("at least 2", 8, 1)]
)
def test_refuses(match, width, depth, refuses):
    refuses(match, SinglePortRam, width=width, depth=depth)
