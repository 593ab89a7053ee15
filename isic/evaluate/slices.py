"""The same metric on parts of the data, with counts and intervals, and silence where there is too little to say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from isic.core.metric import auc, pauc_interval
from isic.evaluate.curves import Records, both_classes
from isic.evaluate.groups import levels

#: Below this many malignant lesions a slice's pAUC is decided by three lesions or fewer: noise.
ENOUGH = 15

#: What the page says beside the skin-tone slice.
TONE_METHOD = (
    "Individual typology angle of the skin around each lesion, atan2(L* − 50, b*) in degrees from tbp_lv_Lext and "
    "tbp_lv_Bext, median over the patient's lesions, cut at 55, 41, 28, 10 and −30 degrees. It is a proxy: nobody was "
    "asked, sun and redness shift it, and the lighting of the two tile types shifts L* as a whole, so it compares "
    "patients of one hospital better than hospitals."
)


def diagnosis(rows: pd.DataFrame) -> pd.Series:
    """Malignant lesions by diagnosis group, from the train-only text; missing for benign ones."""
    text = rows["iddx_full"].fillna("").str.lower()
    group = pd.Series("other malignant", index=rows.index)
    for word, name in (
        ("melanoma", "melanoma"),
        ("basal", "basal cell carcinoma"),
        ("squamous", "squamous cell carcinoma"),
    ):
        group[text.str.contains(word)] = name
    return group.where(rows["target"] == 1)


def masks(rows: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    """(family, slice, member rows); a diagnosis group is compared with all benign lesions."""
    for family, values in levels(rows).items():
        for name in sorted(values.unique()):
            yield family, str(name), (values == name).to_numpy()
    groups = diagnosis(rows)
    benign = (rows["target"] == 0).to_numpy()
    for name in sorted(groups.dropna().unique()):
        yield "diagnosis (against all benign)", str(name), benign | (groups == name).to_numpy()


def slices(
    rows: pd.DataFrame, target: np.ndarray, score: np.ndarray, patient: np.ndarray, replicates: int, seed: int
) -> Records:
    """One record per slice: counts always; pAUC with interval and AUC where ENOUGH malignant lesions allow it."""
    # Bootstrapping names patients by their text; small integers are as good and quicker to sort.
    codes = pd.factorize(patient)[0]
    return [
        {"family": family, "slice": name, **describe(target[mask], score[mask], codes[mask], replicates, seed)}
        for family, name, mask in masks(rows)
    ]


def describe(
    target: np.ndarray, score: np.ndarray, patient: np.ndarray, replicates: int, seed: int
) -> dict[str, object]:
    """Counts and, where they suffice, the metric of one group of lesions; `note` says why a number is absent."""
    positives = int(target.sum())
    record: dict[str, object] = {
        "n": len(target),
        "positives": positives,
        "patients": len(np.unique(patient)),
        "pauc": None,
        "low": None,
        "high": None,
        "auc": None,
        "note": "",
    }
    if positives < ENOUGH:
        return {**record, "note": f"too few to say ({positives} malignant, {ENOUGH} needed)"}
    if not both_classes(target):
        return {**record, "note": "no benign lesion to rank against"}
    value, low, high = pauc_interval(target, score, patient, replicates, seed)
    return {**record, "pauc": value, "low": low, "high": high, "auc": auc(target, score)}
