"""What the tests of boards share."""

import os
import random

import pytest
from amaranth.sim import Simulator


@pytest.fixture
def rng():
    """Random numbers of the test; ``BITWRIGHT_SEED`` repeats a failed one."""
    seed = int(os.environ.get("BITWRIGHT_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def simulate_top():
    """``simulate_top(top, cycles, *signals)``: their values in each of so many cycles of its clock."""

    def run(top, cycles, *signals):
        trace = []

        async def drive(ctx):
            ctx.set(top.uart_rx, 1)
            for _ in range(cycles):
                trace.append(tuple(ctx.get(signal) for signal in signals))
                ctx.set(top.clk, 1)
                await ctx.delay(1e-6)
                ctx.set(top.clk, 0)
                await ctx.delay(1e-6)

        simulator = Simulator(top)
        simulator.add_testbench(drive)
        simulator.run()
        return trace

    return run
