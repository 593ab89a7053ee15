"""Thinned patients: sizes, what they depend on, and that scores of small patients gain by them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from isic.data.tables import read_metadata
from isic.tabular import build_features
from isic.tabular.thinning import thin_patients


def _people(sizes: list[int]) -> pd.DataFrame:
    patients = np.repeat([f"IP_{index:07d}" for index in range(len(sizes))], sizes)
    ids = [f"ISIC_{index:07d}" for index in range(len(patients))]
    return pd.DataFrame({"isic_id": ids, "patient_id": patients})


def test_every_group_holds_lesions_of_one_patient() -> None:
    frame = _people([1, 2, 5, 40, 300])
    thinned = thin_patients(frame)
    assert thinned["isic_id"].tolist() == frame["isic_id"].tolist()
    owners = frame["patient_id"].groupby(thinned["patient_id"]).nunique()
    assert (owners == 1).all()
    assert thinned["patient_id"].nunique() > frame["patient_id"].nunique()
    assert not set(thinned["patient_id"]) & set(frame["patient_id"])


def test_a_lesions_group_size_is_log_uniform() -> None:
    # A share 1 / (s · H_n) of the lesions in groups of s, for s = 1 … n.
    count = 200
    thinned = thin_patients(_people([count] * 400), seed=3)
    size = thinned.groupby("patient_id")["isic_id"].transform("size").to_numpy()
    harmonic = np.log(count) + 0.5772
    for low, high in ((1, 1), (2, 5), (6, 20), (21, 80)):
        expected = sum(1 / s for s in range(low, high + 1)) / harmonic
        found = np.mean((size >= low) & (size <= high))
        # The last group of a patient is cut off, which makes large ones a little rarer.
        assert abs(found - expected) < 0.05, (low, high, found, expected)


def test_groups_depend_on_the_patient_and_the_seed_alone() -> None:
    frame = _people([7, 60, 20])
    thinned = thin_patients(frame, 5)
    shuffled = frame.sample(frac=1, random_state=1)
    one = shuffled[shuffled["patient_id"] == "IP_0000001"]

    def groups(table: pd.DataFrame) -> set[frozenset[str]]:
        mine = table[table["patient_id"].str.startswith("IP_0000001")]
        return {frozenset(part["isic_id"]) for _, part in mine.groupby("patient_id")}

    assert groups(thinned) == groups(thin_patients(shuffled, 5)) == groups(thin_patients(one, 5))
    assert groups(thinned) != groups(thin_patients(frame, 6))


def test_features_of_thinned_patients_are_those_of_the_part(sample_raw: object) -> None:
    frame = read_metadata(sample_raw / "train-metadata.csv", train=True)  # type: ignore[operator]
    thinned = thin_patients(frame)
    table = build_features(thinned, ["raw", "patient_z"]).set_index("isic_id")
    group = thinned["patient_id"].value_counts().loc[lambda sizes: sizes > 2].index[0]
    part = frame[(thinned["patient_id"] == group).to_numpy()]
    alone = build_features(part, ["raw", "patient_z"]).set_index("isic_id")
    for name in alone.select_dtypes("float32"):
        np.testing.assert_array_equal(alone[name], table.loc[alone.index, name], err_msg=name)
