"""The quant pipeline: jobs as close as they may come, against the requantisation of the golden model."""

import numpy as np
import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.memory.scratchpad import Scratchpad
from bitwright.hw.quant.arithmetic import requantise
from bitwright.hw.quant.pipeline import QuantPipeline
from bitwright.hw.quant.requantise import Requantiser, encode_channel


def config(**changes):
    values = {
        "cols": 4,
        "lanes": 4,
        "bus_bits": 32,
        "reduction": 256,
        "activation_depth": 16,
        "weight_depth": 16,
        "channel_depth": 32,
        "output_depth": 64,
    }
    return EngineConfig(**{**values, **changes})


CONFIGS = [
    {},
    {"requantise_cycles": 4},
    {"rows": 3, "cols": 2},
    {"rows": 2, "requantisers": 2, "requantise_cycles": 4},
    {"rows": 3, "cols": 12, "requantisers": 4},
    {"rows": 1, "cols": 1},
    {"rows": 1, "cols": 1, "requantise_cycles": 4},
    # One granule per group: columns need no counting
    {"rows": 2, "cols": 4, "requantisers": 4, "requantise_cycles": 1},
    {"rows": 2, "activation_bits": 4, "lanes": 8, "requantisers": 4},
]


def random_channel(bits, rng):
    low, high = sorted(rng.randint(-(1 << bits - 1), (1 << bits - 1) - 1) for _ in range(2))
    return {
        "bias": rng.randint(-(2**20), 2**20),
        "multiplier": rng.randint(2**30, 2**31 - 1),
        "shift": rng.randint(-14, -4),
        "rounding": rng.choice(["tflite", "half_even"]),
        "zero_point": rng.randint(-(1 << bits - 1), (1 << bits - 1) - 1),
        "low": low,
        "high": high,
    }


def output_of(acc, channel, bits):
    """The stored code of one element."""
    scaled = requantise(
        np.array([acc + channel["bias"]]), channel["multiplier"], channel["shift"], channel["rounding"]
    )
    value = np.clip(scaled[0] + channel["zero_point"], channel["low"], channel["high"])
    return int(value) & (1 << bits) - 1


@pytest.mark.parametrize("slack", [0, 3])
@pytest.mark.parametrize("changes", CONFIGS)
def test_jobs(changes, slack, rng, simulate):
    c = config(**changes)
    dut = QuantPipeline(c)
    granules, cycles = c.granules_per_group, c.requantise_cycles
    latency = Requantiser.latency_of(cycles)
    channels = [random_channel(c.activation_bits, rng) for _ in range(c.channel_depth)]
    words = c.channel_depth // c.requantisers
    half = 1 << c.accumulator_bits - 1

    jobs = {}  # by cycle
    cycle = 0
    for _ in range(16):
        results = [rng.randrange(-half, half) for _ in range(c.rows * c.cols)]
        job = {
            "output": rng.randrange(c.output_depth * c.granules_per_word),
            "row": rng.randrange(c.output_depth * c.granules_per_word),
            "channel": rng.randrange(words - granules + 1),
            "empty": int(rng.random() < 0.25),
            "end": int(rng.random() < 0.5),
            "post": rng.randrange(8),
        }
        jobs[cycle] = (job, results)
        cycle += c.drain_cycles + rng.randint(0, slack)
    total = cycle + 40

    trace = []

    async def drive(ctx):
        chain = [0] * (c.rows * c.cols)
        reading = [None] * Scratchpad.LATENCY
        shift = 0
        for cycle in range(total):
            job, _ = jobs.get(cycle, (None, None))
            ctx.set(dut.job_valid, job is not None)
            if job is not None:
                ctx.set(dut.job, job)
            captured = jobs.get(cycle - dut.LEAD)
            if captured is not None and not captured[0]["empty"]:
                chain = list(captured[1])
            elif shift:
                chain = chain[c.requantisers :] + [rng.randrange(-half, half)] * c.requantisers
            ctx.set(dut.results, chain[: c.requantisers])
            row = reading[-Scratchpad.LATENCY]
            if row is not None:
                ctx.set(
                    dut.channel_data,
                    sum(
                        encode_channel(**channels[row * c.requantisers + index]) << 96 * index
                        for index in range(c.requantisers)
                    ),
                )
            _, _, shift, enable, row, write, granule, data, end, post = await ctx.tick().sample(
                dut.shift,
                dut.channel_enable,
                dut.channel_row,
                dut.write_enable,
                dut.write_granule,
                dut.write_data,
                dut.end,
                dut.post,
            )
            reading.append(row if enable else None)
            trace.append((write, granule, data, end, post))

    simulate(dut, drive)

    expected, ends = [], []
    for cycle, (job, results) in jobs.items():
        elements = c.rows * granules
        if job["empty"]:
            elements = 1
        else:
            for element in range(elements):
                row, granule = divmod(element, granules)
                value = 0
                for index in range(c.requantisers):
                    column = granule * c.requantisers + index
                    channel = channels[job["channel"] * c.requantisers + column]
                    code = output_of(results[row * c.cols + column], channel, c.activation_bits)
                    value |= code << c.activation_bits * index
                place = (job["output"] + row * job["row"] + granule) % (c.output_depth * c.granules_per_word)
                expected.append((cycle + dut.LEAD + element * cycles + latency, place, value))
        if job["end"]:
            # A cycle after the last write, so that whoever takes the token finds the data.
            ends.append((cycle + dut.LEAD + (elements - 1) * cycles + latency + 1, job["post"]))
    found = [(cycle, granule, data) for cycle, (write, granule, data, _, _) in enumerate(trace) if write]
    assert found == expected
    assert [(cycle, post) for cycle, (*_, end, post) in enumerate(trace) if end] == ends


def test_nothing_without_a_job(rng, simulate, watch):
    c = config()
    dut = QuantPipeline(c)
    trace = []

    async def drive(ctx):
        for _ in range(30):
            ctx.set(dut.job.as_value(), rng.getrandbits(len(dut.job.as_value())))
            await ctx.tick()

    simulate(dut, drive, background=[watch(trace, dut.write_enable, dut.end, dut.shift, dut.channel_enable)])
    assert not any(any(values) for values in trace)
