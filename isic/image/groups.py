"""Diagnosis groups for the auxiliary head: what kind of lesion, where somebody looked.

The diagnosis columns are train-only: they shape the training target and never an input (FIELD A.5). Second place used
such a head with weight 0.1 to 0.3.
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
    """Group number (n,) of each `iddx_full`, -1 for a diagnosis nobody made (plain "Benign") or of another kind."""
    texts = pd.Series(full).astype("str").str.lower()
    found = np.full(len(texts), -1, dtype=np.int64)
    for number, (_, words) in enumerate(GROUPS):
        hit = np.logical_or.reduce([texts.str.contains(word.lower(), regex=False).to_numpy(bool) for word in words])
        found[(found == -1) & hit] = number
    return found
