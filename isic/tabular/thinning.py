"""Small groups of a patient's lesions, as if fewer of them had been photographed.

A lesion's relative features compare it with its patient's other lesions. Trained on patients with
hundreds of lesions, a model trusts them as much for a patient with three. Training rows described
against a random part of their patient teach it how far they hold.
"""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import ID, PATIENT


def thin_patients(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """`frame` with each patient's lesions dealt into random groups, named as patients of their own.

    The size of a lesion's group is log-uniform from 1 to the number of the patient's lesions: sizes
    are drawn with probability proportional to 1/s², and a group of s holds s lesions. A patient's
    groups depend on `seed`, the patient's id and its isic_ids alone.
    """
    ids, patients = frame[ID].to_numpy(), frame[PATIENT].to_numpy()
    group = np.empty(len(frame), dtype=np.int64)
    number = 0
    for patient, rows in frame.groupby(PATIENT, observed=True).indices.items():
        rng = np.random.default_rng([seed, zlib.crc32(str(patient).encode())])
        dealt = rng.permutation(rows[np.argsort(ids[rows], kind="stable")])
        for size in _sizes(len(rows), rng):
            group[dealt[:size]], dealt = number, dealt[size:]
            number += 1
    names = [f"{patient}/{index}" for patient, index in zip(patients, group, strict=True)]
    return frame.assign(**{PATIENT: pd.array(names, dtype="str")})


def _sizes(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sizes of groups that add up to `count`; the last is cut off."""
    weights = 1.0 / np.arange(1, count + 1) ** 2
    drawn = 1 + rng.choice(count, size=count, p=weights / weights.sum())
    ends = np.minimum(np.cumsum(drawn), count)
    sizes = np.diff(ends, prepend=0)
    return sizes[sizes > 0]
