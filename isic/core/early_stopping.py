"""Which fold decides when training stops: one more that is kept out of it, so that the scored fold has no say.

Choosing an epoch or a number of trees on the scored fold inflates its score (FIELD section G).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from isic.core.errors import InputError


def early_stopping_fold(folds: ArrayLike, scored: int, turn: int, key: str) -> int:
    """The fold that decides when training without the fold `scored` stops: each other one of `folds` (n,) in turn.

    The first is the one after `scored`, so that of one turn every fold is watched once.
    Raises InputError, naming the `key` of params.yaml, when no fold would be left to train on.
    """
    numbers = np.unique(np.asarray(folds)).tolist()
    others = [one for one in numbers if one > scored] + [one for one in numbers if one < scored]
    if len(others) < 2:
        raise InputError(f"{key} keeps a fold beside the scored one: set three `folds` or more")
    return int(others[turn % len(others)])
