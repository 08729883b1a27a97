"""The compute unit against its three loops, written in Python, cycle by cycle."""

import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.memory.scratchpad import Scratchpad
from bitwright.hw.quant.pipeline import DrainJob, QuantPipeline
from bitwright.hw.sched.compute import ComputeUnit
from bitwright.hw.sched.isa import Opcode


def config(**changes):
    values = {
        "cols": 4,
        "lanes": 4,
        "bus_bits": 32,
        "activation_depth": 64,
        "weight_depth": 128,
        "channel_depth": 32,
        "output_depth": 64,
    }
    return EngineConfig(**{**values, **changes})


CONFIGS = [
    {},
    {"rows": 2, "requantise_cycles": 4},
    {"cols": 1, "rows": 1},  # results leave in one cycle
    {"rows": 3, "cols": 12, "requantisers": 4},
]

LEGAL = {"opcode": Opcode.COMPUTE, "steps": 1, "row_groups": 1, "col_groups": 1, "drain": 1}


def random_instruction(layout, rng):
    """Addresses, strides and output places of any value that their fields hold."""
    drain = int(rng.random() < 0.8)

    def any_of(name):
        return rng.randrange(1 << layout[name].width)

    return {
        "opcode": Opcode.COMPUTE,
        "wait": rng.choice([0, 1, 4, 5]),
        "post": rng.choice([0, 1, 4, 5]),
        "drain": drain,
        "steps": rng.choice([1, 2, 3, rng.randint(1, 20)]),
        "row_groups": rng.randint(1, 3) if drain else 1,
        "col_groups": rng.randint(1, 3) if drain else 1,
        "activations": any_of("activations"),
        "activation_stride": any_of("activation_stride"),
        "weights": any_of("weights"),
        "channels": any_of("channels"),
        "output": any_of("output"),
        "output_row": any_of("output_row"),
        "output_group": any_of("output_group"),
    }


def beats(c, layout, i):
    """Of each beat: addresses, and the job if it is the last of its dot product."""
    found = []
    for m in range(i["row_groups"]):
        weight = i["weights"]
        for n in range(i["col_groups"]):
            for k in range(i["steps"]):
                job = None
                if k == i["steps"] - 1:
                    end = m == i["row_groups"] - 1 and n == i["col_groups"] - 1
                    job = {
                        "output": i["output"] + m * i["output_group"] + n * c.granules_per_group,
                        "row": i["output_row"],
                        "channel": i["channels"] + n * c.granules_per_group,
                        "empty": int(not i["drain"]),
                        "end": int(end),
                        "post": i["post"] if end else 0,
                    }
                    job = {name: value % (1 << layout[name].width) for name, value in job.items()}
                activation = (i["activations"] + m * i["activation_stride"] + k) % c.activation_depth
                found.append((activation, weight % c.weight_depth, job))
                weight += 1
    return found


@pytest.mark.parametrize(("idle", "absent"), [(0, 0), (0.6, 0), (0.2, 0.8)])
@pytest.mark.parametrize("changes", CONFIGS)
def test_random_instructions(changes, idle, absent, rng, simulate, sender, watch):
    c = config(**changes)
    array_latency = rng.randint(3, 9)
    dut = ComputeUnit(c, array_latency=array_latency)
    layout = DrainJob(c)
    instructions = [random_instruction(dut.layout, rng) for _ in range(12)]
    trace, taken = [], []
    writing = 20  # cycles from a job to its last result

    async def drive(ctx):
        assert ctx.get(dut.idle)
        await sender(dut.i, instructions, rng, idle)(ctx)
        while not ctx.get(dut.idle):
            await ctx.tick()
        await ctx.tick()

    async def around(ctx):
        """Tokens that come and go, and the quant pipeline's ends."""
        ends = []
        cycle = 0
        while True:
            there = rng.random() >= absent
            ctx.set(dut.waited, there)
            ctx.set(dut.ended, cycle in ends)
            _, _, take, wait_for, job_valid, job = await ctx.tick().sample(
                dut.take, dut.wait_for, dut.job_valid, dut.job
            )
            if take:
                assert there
                taken.append((cycle, wait_for))
            if job_valid and job["end"]:
                ends.append(cycle + writing)
            cycle += 1

    signals = (
        dut.read_enable,
        dut.activation_address,
        dut.weight_address,
        dut.beat,
        dut.last,
        dut.job_valid,
        dut.job,
        dut.beating,
        dut.draining,
        dut.illegal,
        dut.idle,
    )
    simulate(dut, drive, background=[around, watch(trace, *signals)])

    assert [wait_for for _, wait_for in taken] == [i["wait"] for i in instructions]
    assert not any(illegal for *_, illegal, _ in trace)

    # Exactly when: a beat per cycle from the cycle after the start, but a last beat no sooner than the
    # results of the last one before it have left.
    expected = {}
    waits = set()
    handed_over = -c.drain_cycles
    end = -1
    for (start, _), i in zip(taken, instructions, strict=True):
        assert start > end
        cycle = start
        for activation, weight, job in beats(c, layout, i):
            cycle += 1
            if job is not None:
                waits.update(range(cycle, handed_over + c.drain_cycles))
                cycle = max(cycle, handed_over + c.drain_cycles)
                handed_over = cycle
            expected[cycle] = (activation, weight, job, i["drain"])
        end = cycle

    issued = {
        cycle: (activation, weight) for cycle, (enable, activation, weight, *_) in enumerate(trace) if enable
    }
    assert issued == {cycle: beat[:2] for cycle, beat in expected.items()}
    assert {cycle for cycle, row in enumerate(trace) if row[7]} == set(issued)
    assert {cycle for cycle, row in enumerate(trace) if row[8]} == waits

    # The array gets a beat with its operands, the quant pipeline the job when it needs it.
    wait = Scratchpad.LATENCY
    assert {cycle for cycle, row in enumerate(trace) if row[3]} == {cycle + wait for cycle in expected}
    assert {cycle for cycle, row in enumerate(trace) if row[4]} == {
        cycle + wait for cycle, (*_, job, drain) in expected.items() if job is not None and drain
    }
    to_job = wait + array_latency - QuantPipeline.LEAD
    assert {cycle: row[6] for cycle, row in enumerate(trace) if row[5]} == {
        cycle + to_job: job for cycle, (*_, job, _) in expected.items() if job is not None
    }

    # Not idle from the start of an instruction to the end of its last result.
    idle_cycles = {cycle for cycle, row in enumerate(trace) if row[10]}
    for start, _ in taken:
        assert start + 1 not in idle_cycles
    assert end + to_job + writing not in idle_cycles
    assert end + to_job + writing + 1 in idle_cycles


def test_waits_and_starves(simulate):
    dut = ComputeUnit(config(), array_latency=4)

    async def drive(ctx):
        assert ctx.get(dut.starving)
        ctx.set(dut.i.payload, {**LEGAL, "steps": 3, "wait": 5})
        ctx.set(dut.i.valid, 1)
        assert not ctx.get(dut.starving)
        for _ in range(8):
            await ctx.tick()
            assert ctx.get(dut.wait_for) == 5
            assert ctx.get(dut.waiting)
            assert not ctx.get(dut.take)
            assert not ctx.get(dut.beating)
        ctx.set(dut.waited, 1)
        assert ctx.get(dut.take)
        assert not ctx.get(dut.waiting)
        await ctx.tick()
        ctx.set(dut.waited, 0)
        for step in range(3):
            assert ctx.get(dut.beating)
            assert not ctx.get(dut.waiting)
            # The instruction is held until its last beat.
            assert ctx.get(dut.i.ready) == (step == 2)
            await ctx.tick()
        ctx.set(dut.i.valid, 0)
        assert ctx.get(dut.starving)
        assert not ctx.get(dut.idle)

    simulate(dut, drive)


def test_unwritten_instructions_are_bounded(simulate):
    """The count of instructions whose results are on their way does not overflow."""
    dut = ComputeUnit(config(cols=1), array_latency=4)
    starts = []

    async def drive(ctx):
        ctx.set(dut.waited, 1)
        for _ in range(200):
            _, _, take = await ctx.tick().sample(dut.take)
            starts.append(take)
        assert sum(starts) == 15
        assert not ctx.get(dut.idle)
        # One has been written, so one more may start.
        ctx.set(dut.ended, 1)
        await ctx.tick()
        ctx.set(dut.ended, 0)
        for _ in range(50):
            _, _, take = await ctx.tick().sample(dut.take)
            starts.append(take)
        assert sum(starts) == 16

    async def endless(ctx):
        ctx.set(dut.i.payload, LEGAL)
        ctx.set(dut.i.valid, 1)
        while True:
            await ctx.tick()

    simulate(dut, drive, background=[endless])


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"row_groups": 0},
        {"col_groups": 0},
        {"drain": 0, "row_groups": 2},
        {"drain": 0, "col_groups": 2},
        {"wait": 2},
        {"post": 2},
    ],
)
def test_illegal(changes, simulate, watch):
    dut = ComputeUnit(config(), array_latency=4)
    trace = []

    async def drive(ctx):
        ctx.set(dut.waited, 1)
        fields = {**LEGAL, **changes}
        ctx.set(dut.i.payload, fields)
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(20)

    simulate(dut, drive, background=[watch(trace, dut.illegal, dut.take, dut.read_enable, dut.job_valid)])
    assert [illegal for illegal, *_ in trace] == [0] + [1] * 19
    assert not any(any(others) for _, *others in trace)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"drain": 0},
        {"activations": 63, "weights": 127, "channels": 31, "output": 255},
        {"wait": 5, "post": 5},
        {"steps": 64, "row_groups": 64, "col_groups": 128},
    ],
)
def test_just_legal(changes, simulate, watch):
    dut = ComputeUnit(config(), array_latency=4)
    trace = []

    async def drive(ctx):
        ctx.set(dut.waited, 1)
        ctx.set(dut.i.payload, {**LEGAL, **changes})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().until(dut.take)
        ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(10)

    simulate(dut, drive, background=[watch(trace, dut.illegal, dut.take)])
    assert not any(illegal for illegal, _ in trace)
    assert sum(take for _, take in trace) == 1
