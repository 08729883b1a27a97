"""What the tests of boards share."""

import os
import random

import pytest


@pytest.fixture
def rng():
    """Random numbers of the test; ``BITWRIGHT_SEED`` repeats a failed one."""
    seed = int(os.environ.get("BITWRIGHT_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    return random.Random(seed)
