"""What a diagnosis adds to the training target: a group for the auxiliary head, a soft target where
nobody is sure.

The diagnosis columns are train-only: they shape the target and never an input (FIELD A.5). Second
place used such a head with weight 0.1 to 0.3; fifth place gave indeterminate lesions half a weight
or a label of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: A row belongs to the first group one of whose words is in its full diagnosis; -1 where none is.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("melanoma", ("Melanoma",)),
    ("basal cell carcinoma", ("Basal cell carcinoma",)),
    ("squamous cell carcinoma", ("Squamous cell carcinoma",)),
    ("nevus", ("Nevus", "melanocytic proliferation")),
    ("keratosis", ("keratosis", "lentigo", "Lichen planus")),
)


def diagnosis_groups(full: Sequence[object] | pd.Series) -> NDArray[np.int64]:
    """Group number (n,) of each `iddx_full`, -1 for a diagnosis nobody made (plain "Benign") or of
    another kind.
    """
    texts = pd.Series(full).astype("str").str.lower()
    found = np.full(len(texts), -1, dtype=np.int64)
    for number, (_, words) in enumerate(GROUPS):
        hit = np.logical_or.reduce(
            [texts.str.contains(word.lower(), regex=False).to_numpy(bool) for word in words]
        )
        found[(found == -1) & hit] = number
    return found


def soften(
    target: NDArray[np.int64], full: Sequence[object] | pd.Series, value: float
) -> NDArray[np.float32]:
    """Targets (n,) with `value` for benign rows whose `iddx_full` begins with Indeterminate."""
    unsure = pd.Series(full).astype("str").str.startswith("Indeterminate").to_numpy(bool)
    return np.where(unsure & (target == 0), value, target).astype(np.float32)
