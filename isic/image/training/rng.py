"""Random streams by name. A stream depends on its keys alone, so order of use, process and restart
do not matter.
"""

from __future__ import annotations

import random

import numpy as np

#: First key of each use, so that two uses with the same numbers do not share a stream.
WEIGHTS, EPOCH, AUGMENT, STEP, VALIDATION = range(5)


def stream(*keys: int) -> np.random.Generator:
    """A generator that depends on `keys` (non-negative integers) only."""
    return np.random.default_rng(keys)


def number(*keys: int) -> int:
    """A seed in [0, 2**63) for libraries that want one."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)


def python_stream(*keys: int) -> random.Random:
    """The same for libraries that use Python's own generator."""
    return random.Random(number(*keys))
