"""The same metric on parts of the data, with counts and intervals, and silence where there is too little to say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from isic.core.metric import auc, pauc_interval
from isic.report.curves import Records, both_classes

#: Below this many malignant lesions a slice's pAUC is decided by three lesions or fewer: noise.
ENOUGH = 15

#: Lower bounds of the individual typology angle, degrees, lightest first (Chardon 1991; Del Bino & Bernerd 2013).
TONES = (
    (55.0, "very light"),
    (41.0, "light"),
    (28.0, "intermediate"),
    (10.0, "tan"),
    (-30.0, "brown"),
    (-np.inf, "dark"),
)

#: What the page says beside the skin-tone slice.
TONE_METHOD = (
    "Individual typology angle of the skin around each lesion, atan2(L* − 50, b*) in degrees from tbp_lv_Lext and "
    "tbp_lv_Bext, median over the patient's lesions, cut at 55, 41, 28, 10 and −30 degrees. It is a proxy: nobody was "
    "asked, sun and redness shift it, and the lighting of the two tile types shifts L* as a whole, so it compares "
    "patients of one hospital better than hospitals."
)


def skin_tone(rows: pd.DataFrame) -> pd.Series:
    """Skin-tone proxy per lesion, one value per patient (see TONE_METHOD)."""
    angle = pd.Series(np.degrees(np.arctan2(rows["tbp_lv_Lext"] - 50, rows["tbp_lv_Bext"])), index=rows.index)
    typical = angle.groupby(rows["patient_id"]).transform("median").to_numpy()
    bounds = np.array([bound for bound, _ in TONES])
    names = np.array([name for _, name in TONES])
    # The first bound that the angle exceeds; argmax finds the first True.
    return pd.Series(names[(typical[:, None] > bounds).argmax(axis=1)], index=rows.index)


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


def _age_band(age: pd.Series) -> pd.Series:
    bands = pd.cut(age, [-np.inf, 39, 59, 74, np.inf], labels=["under 40", "40 to 59", "60 to 74", "75 and over"])
    return bands.astype("str")


def slice_values(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Slice family -> value of each lesion; missing values become "missing"."""
    families = {
        "size": pd.Series(
            np.where(rows["clin_size_long_diam_mm"] >= 2.5, "2.5 mm and over", "under 2.5 mm"), index=rows.index
        ),
        "hospital": rows["attribution"],
        "sex": rows["sex"],
        "age": _age_band(rows["age_approx"]),
        "site": rows["anatom_site_general"],
        "tile type": rows["tbp_tile_type"],
        "skin tone (proxy)": skin_tone(rows),
    }
    return {name: values.fillna("missing").replace("nan", "missing") for name, values in families.items()}


def masks(rows: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    """(family, slice, member rows); a diagnosis group is compared with all benign lesions."""
    for family, values in slice_values(rows).items():
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
