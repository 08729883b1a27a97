"""Any dot-product unit against integer arithmetic, on Amaranth's simulator."""

from itertools import product

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal, Value
from amaranth.sim import Simulator

from bitwright.hw.pe.contract import Order


def as_number(bits):
    return int("".join(map(str, bits[::-1])), 2)


def run_unit(unit, beats, recorder, resets=()):
    """Outputs by cycle of beats ``(a, w, control, valid, last)``, one per cycle; some cycles reset it."""
    outputs = {}
    reset = Signal()
    recording = recorder(unit, reset)

    async def bench(ctx):
        for cycle, (a, w, control, valid, last) in enumerate(beats):
            if resets:
                ctx.set(reset, cycle in resets)
            ctx.set(unit.a, a)
            ctx.set(unit.w, w)
            ctx.set(unit.valid, valid)
            ctx.set(unit.last, last)
            if unit.spec.control:
                ctx.set(Value.cast(unit.control), control)
            if ctx.get(unit.o_valid):
                several = unit.spec.outputs_per_beat > 1
                outputs[cycle] = tuple(map(ctx.get, unit.o)) if several else ctx.get(unit.o)
            await ctx.tick()

    simulator = Simulator(ResetInserter(reset)(unit) if resets or recording.folder else unit)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.add_testbench(recording.bench, background=True)
    simulator.run()
    recording.save()
    return outputs


@pytest.fixture
def exercise(rng, recorder):
    """Runs dot products through a unit, with bubbles in which everything is random, and checks every one.

    Operands are the corners of the formats first, then random; ``operands`` gives others, as pairs of arrays
    ``(steps, elements)``; of weights ``(steps, outputs, elements)`` where there are several outputs. Checks
    values, that each comes ``latency`` cycles after its last beat, and that nothing else comes. Dot products
    of several precisions come in random order. So many of them are cut off by a reset (``resets``), and never
    come. Returns how many were checked.
    """

    def drawn(spec, precision, count, steps):
        several = [spec.outputs] if spec.outputs > 1 else []

        def shapes(steps):
            elements = spec.elements(precision)
            return (steps, elements), (steps, *several, elements)

        for corner in product(*((format.min, format.max) for format in precision)):
            yield tuple(map(np.full, shapes(steps), corner))
        random = np.random.default_rng(rng.getrandbits(32))
        for _ in range(count):
            formats = zip(precision, shapes(rng.randint(1, steps)), strict=True)
            yield tuple(random.choice(format.values, shape) for format, shape in formats)

    def exercise(spec, *precisions, count=4, steps=3, bubbles=0.2, operands=None, resets=0):
        dot_products = [
            (precision, a, w)
            for precision in precisions
            for a, w in (drawn(spec, precision, count, steps) if operands is None else operands)
        ]
        if len(precisions) > 1:
            rng.shuffle(dot_products)
        beats, expected, cuts = [], {}, set()
        cut = set(rng.sample(range(len(dot_products)), resets))
        idle = 0
        in_turn = spec.outputs > 1 and spec.outputs_per_beat == 1
        for number, (precision, a, w) in enumerate(dot_products):
            ends = spec.ends(precision)
            sums = np.einsum("se,s...e->...", a, w)
            a_bits = spec.activation_bits(a, precision)
            w_bits = spec.weight_bits(w, precision)
            schedule = list(spec.schedule(len(a), precision))
            for index, (step, beat, shift) in enumerate(schedule):
                while rng.random() < bubbles:
                    words = (spec.activation_word_bits, spec.weight_word_bits, spec.control_layout.size)
                    beats.append((*(rng.getrandbits(bits) if bits else 0 for bits in words), 0, 0))
                    idle += 1
                if spec.order is Order.BEATS_OUTSIDE:
                    last = ends[index // len(a)] and step == len(a) - 1
                else:
                    last = ends[index % len(ends)] and step == len(a) - 1
                if last:
                    # A step takes the declared number of beats, so that this goes in here and no later.
                    result = sums[beat.output] if in_turn else sums
                    expected[len(beats) + spec.latency] = tuple(result) if result.ndim else int(result)
                beats.append(
                    (
                        as_number(a_bits[step, beat.activation]),
                        as_number((w_bits[step, beat.output] if in_turn else w_bits[step])[beat.weight]),
                        spec.encoded_control(beat, shift=shift),
                        1,
                        int(last),
                    )
                )
            assert len(schedule) == len(a) * len(spec.beats(precision))
            if number in cut:
                # Behind some of its beats, or later, as its result is on its way; with or without a beat.
                now = len(beats) + rng.randint(-len(schedule), spec.latency)
                beats = beats[:now]
                words = (spec.activation_word_bits, spec.weight_word_bits, spec.control_layout.size)
                while len(beats) <= now:
                    valid = rng.getrandbits(1) if len(beats) == now else 0
                    last = valid and rng.getrandbits(1)
                    beats.append((*(rng.getrandbits(bits) if bits else 0 for bits in words), valid, last))
                cuts.add(now)
                expected = {cycle: result for cycle, result in expected.items() if cycle <= now}
        beats += [(0, 0, 0, 0, 0)] * (spec.latency + 2)
        assert run_unit(spec.unit(), beats, recorder, cuts) == expected, (
            f"{spec}, {', '.join(map(str, precisions))}"
        )
        return len(expected)

    return exercise
