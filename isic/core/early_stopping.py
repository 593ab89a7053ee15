"""Choice of the early-stopping fold: a second fold kept out of training, never the scored one.

Choosing an epoch or a number of trees on the scored fold inflates its score, by about 0.003
pAUC in the competition's published systems.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from isic.core.errors import InputError


def early_stopping_fold(folds: ArrayLike, scored: int, turn: int, key: str) -> int:
    """The early-stopping fold of a training run without fold `scored`; `folds` (n,) is the fold of
    each row.

    Turn 0 gives the fold after `scored`, turn 1 the one after that. Over all scored folds, one
    `turn` gives every fold once. Raises InputError, naming the `key` of params.yaml, when no fold
    would be left to train on.
    """
    labels = np.unique(np.asarray(folds)).tolist()
    others = [fold for fold in labels if fold > scored] + [fold for fold in labels if fold < scored]
    if len(others) < 2:
        raise InputError(f"{key} needs a second fold outside training: set three `folds` or more")
    return int(others[turn % len(others)])
