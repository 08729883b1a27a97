"""Any dot-product unit against integer arithmetic, on Amaranth's simulator."""

from itertools import product

import numpy as np
import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator


def as_number(bits):
    return int("".join(map(str, bits[::-1])), 2)


def run_unit(unit, beats):
    """Outputs by cycle of beats ``(a, w, control, valid, last)``, one per cycle."""
    outputs = {}

    async def bench(ctx):
        for cycle, (a, w, control, valid, last) in enumerate(beats):
            ctx.set(unit.a, a)
            ctx.set(unit.w, w)
            ctx.set(unit.valid, valid)
            ctx.set(unit.last, last)
            if unit.spec.control:
                ctx.set(Value.cast(unit.control), control)
            if ctx.get(unit.o_valid):
                outputs[cycle] = ctx.get(unit.o)
            await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    return outputs


@pytest.fixture
def exercise(rng):
    """Runs dot products through a unit, with bubbles in which everything is random, and checks every one.

    Operands are the corners of the formats first, then random; ``operands`` gives others, as pairs of arrays
    ``(steps, elements)``. Checks values, that each comes ``latency`` cycles after its last beat, and that
    nothing else comes. Returns how many dot products were checked.
    """

    def exercise(spec, precision, *, count=4, steps=3, bubbles=0.2, operands=None):
        if operands is None:
            shape = (steps, spec.elements(precision))
            corners = product(*((format.min, format.max) for format in precision))
            operands = [tuple(np.full(shape, value) for value in corner) for corner in corners]
            random = np.random.default_rng(rng.getrandbits(32))
            for _ in range(count):
                shape = (rng.randint(1, steps), spec.elements(precision))
                operands.append(tuple(random.choice(format.values, shape) for format in precision))
        beats, expected = [], {}
        idle = 0
        for a, w in operands:
            a_bits = spec.activation_bits(a, precision)
            w_bits = spec.weight_bits(w, precision)
            schedule = list(spec.schedule(len(a), precision))
            for index, (step, beat, shift) in enumerate(schedule):
                while rng.random() < bubbles:
                    words = (spec.activation_word_bits, spec.weight_word_bits, spec.control_layout.size)
                    beats.append((*(rng.getrandbits(bits) if bits else 0 for bits in words), 0, 1))
                    idle += 1
                last = index == len(schedule) - 1
                beats.append(
                    (
                        as_number(a_bits[step, beat.activation]),
                        as_number(w_bits[step, beat.weight]),
                        spec.encoded_control(beat, shift=shift),
                        1,
                        int(last),
                    )
                )
            # A step takes the declared number of beats, so that the last one goes in here and no later.
            assert len(schedule) == len(a) * len(spec.beats(precision))
            expected[len(beats) - 1 + spec.latency] = int((a * w).sum())
        beats += [(0, 0, 0, 0, 0)] * (spec.latency + 2)
        assert run_unit(spec.unit(), beats) == expected, f"{spec}, {precision}"
        return len(expected)

    return exercise
