"""What the hardware of each unit is put to where mutants of it have to be told from it (``scripts/mutate``).

One netlist for each subject: random dot products, some cut off by a reset; the shortest, one behind another;
the longest, of values at the corners and near them, whose sums take every bit of the accumulators.
"""

from itertools import product

import numpy as np
import pytest

from bitwright.gen.mutation import MUTATED, SUBJECTS
from bitwright.hw.pe import UNITS

NAMES = [name for name, subject in SUBJECTS.items() if subject.unit]


def test_every_unit_is_here():
    assert {name for name, *_ in MUTATED.values()} == set(UNITS)


def long(spec, precision, random, share):
    """Operands of the longest dot products: so many of the values at a corner, the others random."""
    elements = spec.elements(precision)
    steps = max(1, spec.reduction // elements)
    several = [spec.outputs] if spec.outputs > 1 else []
    for corner in product(*((format.min, format.max) for format in precision)):
        shapes = (steps, elements), (steps, *several, elements)
        yield tuple(
            np.where(random.random(shape) < share, value, random.choice(format.values, shape))
            for value, format, shape in zip(corner, precision, shapes, strict=True)
        )


@pytest.mark.parametrize("name", NAMES)
def test_vectors(name, exercise, rng):
    spec = SUBJECTS[name].unit
    precisions = spec.precisions
    exercise(spec, *precisions, count=16, resets=12)
    # Fewer where a step has many beats, which mostly are the slower ones to simulate.
    share = 8 / (7 + max(len(spec.beats(precision)) for precision in precisions))
    count = round(60 * share)
    exercise(spec, *precisions, count=count, steps=1, bubbles=0, resets=count * len(precisions) // 2)
    # Cut off after everything that came has been added up, too.
    exercise(spec, *precisions, count=count, steps=2, bubbles=0.6, resets=count * len(precisions) // 2)
    random = np.random.default_rng(rng.getrandbits(32))
    for precision in precisions:
        exercise(spec, precision, count=200 // len(spec.beats(precision)), steps=1, bubbles=0)
        for share in (1, 0.9, 0.6):
            exercise(spec, precision, operands=list(long(spec, precision, random, share)), bubbles=0.02)
