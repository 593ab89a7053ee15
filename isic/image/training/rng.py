"""Random streams by keys. A stream depends on its keys alone, not on the order of use, the process
or a restart.
"""

from __future__ import annotations

import random

import numpy as np

#: First key of each use, so that uses with equal other keys have different streams.
WEIGHTS, EPOCH, AUGMENT, STEP, VALIDATION = range(5)


def stream(*keys: int) -> np.random.Generator:
    """A generator by `keys` (non-negative integers)."""
    return np.random.default_rng(keys)


def seed(*keys: int) -> int:
    """A seed in [0, 2**63) by `keys`, for other libraries."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)


def python_stream(*keys: int) -> random.Random:
    """As `stream`, for libraries with Python's own generator."""
    return random.Random(seed(*keys))
