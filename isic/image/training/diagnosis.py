"""Training targets from the diagnosis: groups for the auxiliary head, soft targets of indeterminate
lesions.

The test files have no diagnosis columns, so the network cannot read them. Second place used such a
head with weight 0.1 to 0.3; fifth place gave indeterminate lesions half a weight or a label of
their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: Groups and their words. A row is in the first group with a word in its full diagnosis, else in
#: -1.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("melanoma", ("Melanoma",)),
    ("basal cell carcinoma", ("Basal cell carcinoma",)),
    ("squamous cell carcinoma", ("Squamous cell carcinoma",)),
    ("nevus", ("Nevus", "melanocytic proliferation")),
    ("keratosis", ("keratosis", "lentigo", "Lichen planus")),
)


def diagnosis_groups(full: Sequence[object] | pd.Series) -> NDArray[np.int64]:
    """Group index (n,) of each `iddx_full`; -1 for other diagnoses and for plain "Benign"."""
    texts = pd.Series(full).astype("str").str.lower()
    groups = np.full(len(texts), -1, dtype=np.int64)
    for index, (_, words) in enumerate(GROUPS):
        match = np.logical_or.reduce(
            [texts.str.contains(word.lower(), regex=False).to_numpy(bool) for word in words]
        )
        groups[(groups == -1) & match] = index
    return groups


def soften(
    target: NDArray[np.int64], full: Sequence[object] | pd.Series, value: float
) -> NDArray[np.float32]:
    """Targets (n,) with `value` for benign rows whose `iddx_full` begins with Indeterminate."""
    indeterminate = pd.Series(full).astype("str").str.startswith("Indeterminate").to_numpy(bool)
    return np.where(indeterminate & (target == 0), value, target).astype(np.float32)
