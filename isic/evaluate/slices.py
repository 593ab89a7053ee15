"""Slices: groups of lesions on which a model is evaluated separately, the same for the report and
the gate.

Differences between slices come from how lesions were collected and lit as much as from the
patients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from isic.core.metric import auc, pauc_interval
from isic.core.schema import PATIENT
from isic.evaluate.curves import Records, both_classes

#: Automatically selected lesions are at least this wide. Smaller ones are in the data only because
#: a clinician tagged them, which hints at malignancy.
SELECTED_MM = 2.5

#: Level of a lesion whose value is missing.
_MISSING = "missing"

#: Malignant lesions needed for a slice's pAUC: with fewer, three lesions or less decide it.
MIN_POSITIVES = 15

_AGES = {"under 40": 40, "40 to 59": 60, "60 to 74": 75, "75 and over": np.inf}

#: Bands of the number of a patient's lesions, by their upper bound.
_LESIONS = {"1": 1, "2 to 3": 3, "4 to 9": 9, "10 and more": np.inf}

#: Bands of the individual typology angle by their upper bound, degrees, darkest first. Published
#: names: dark, brown, tan, intermediate, light, very light (Chardon et al., Int. J. Cosmet. Sci. 13,
#: 191, 1991; Del Bino & Bernerd, Br. J. Dermatol. 169 suppl. 3, 33, 2013).
TONES = {
    "up to −30°": -30,
    "−30° to 10°": 10,
    "10° to 28°": 28,
    "28° to 41°": 41,
    "41° to 55°": 55,
    "above 55°": np.inf,
}

#: Explanation of the skin-tone slices on the report page.
TONE_METHOD = (
    "Individual typology angle of the skin around each lesion, atan2(L* − 50, b*) in degrees from"
    " tbp_lv_Lext and tbp_lv_Bext, median over the patient's lesions; a larger angle is lighter"
    " skin. It is a proxy: no patient reported a skin tone. Sun and redness change the angle,"
    " and the two tile types differ in L*, so compare patients within a hospital rather than"
    " hospitals."
)


def skin_tone(rows: pd.DataFrame) -> pd.Series:
    """Skin-tone proxy per lesion: the band of the median angle of the skin around the patient's
    lesions.

    The median gives each patient one band; single angles vary with body site, tan and lighting.
    """
    angle = pd.Series(
        np.degrees(np.arctan2(rows["tbp_lv_Lext"] - 50, rows["tbp_lv_Bext"])), index=rows.index
    )
    return _band(angle.groupby(rows[PATIENT]).transform("median"), TONES, right=True)


def _age(rows: pd.DataFrame) -> pd.Series:
    return _band(rows["age_approx"], _AGES, right=False)


def _size(rows: pd.DataFrame) -> pd.Series:
    wide = rows["clin_size_long_diam_mm"] >= SELECTED_MM
    return wide.map({True: f"{SELECTED_MM} mm and over", False: f"under {SELECTED_MM} mm"})


def _band(values: pd.Series, bands: dict[str, float], right: bool) -> pd.Series:
    """Name of each value's band; a band includes its upper bound if `right`."""
    return pd.cut(values, [-np.inf, *bands.values()], right=right, labels=list(bands)).astype("str")


def _lesions_per_patient(rows: pd.DataFrame) -> pd.Series:
    return _band(rows.groupby(PATIENT)[PATIENT].transform("size"), _LESIONS, right=True)


_SLICE_GROUPS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "size": _size,
    "hospital": lambda rows: rows["attribution"],
    "sex": lambda rows: rows["sex"],
    "age": _age,
    "site": lambda rows: rows["anatom_site_general"],
    "tile type": lambda rows: rows["tbp_tile_type"],
    "skin tone (proxy)": skin_tone,
    "lesions per patient": _lesions_per_patient,
}


def slice_levels(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Group -> level of each lesion as text, _MISSING where the value is missing. `rows`: metadata
    with patient_id.
    """
    levels = {name: level_of(rows) for name, level_of in _SLICE_GROUPS.items()}
    return {
        name: values.fillna(_MISSING).replace("nan", _MISSING).astype("str")
        for name, values in levels.items()
    }


def diagnosis_group(rows: pd.DataFrame) -> pd.Series:
    """Diagnosis group of malignant lesions from the train-only text; missing for benign ones."""
    text = rows["iddx_full"].fillna("").str.lower()
    group = pd.Series("other malignant", index=rows.index)

    for keyword, name in (
        ("melanoma", "melanoma"),
        ("basal", "basal cell carcinoma"),
        ("squamous", "squamous cell carcinoma"),
    ):
        group[text.str.contains(keyword)] = name

    return group.where(rows["target"] == 1)


def slice_masks(rows: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    """(family, slice, boolean mask (n,)); a diagnosis group is compared with all benign lesions."""
    for family, values in slice_levels(rows).items():
        for name in sorted(values.unique()):
            yield family, str(name), (values == name).to_numpy()

    groups = diagnosis_group(rows)
    benign = (rows["target"] == 0).to_numpy()
    for name in sorted(groups.dropna().unique()):
        yield "diagnosis (against all benign)", str(name), benign | (groups == name).to_numpy()


def slice_records(
    rows: pd.DataFrame,
    target: np.ndarray,
    score: np.ndarray,
    patient: np.ndarray,
    replicates: int,
    seed: int,
) -> Records:
    """One record per slice: counts, and pAUC with interval and AUC where it has MIN_POSITIVES
    malignant lesions.
    """
    # Integer codes sort faster than patient ids in the bootstrap.
    codes = pd.factorize(patient)[0]
    return [
        {
            "family": family,
            "slice": name,
            **_record(target[mask], score[mask], codes[mask], replicates, seed),
        }
        for family, name, mask in slice_masks(rows)
    ]


def _record(
    target: np.ndarray, score: np.ndarray, patient: np.ndarray, replicates: int, seed: int
) -> dict[str, object]:
    """Counts and metrics of one slice; `note` gives the reason where the metrics are None."""
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

    if positives < MIN_POSITIVES:
        return {
            **record,
            "note": f"too few malignant lesions ({positives}, {MIN_POSITIVES} needed)",
        }
    if not both_classes(target):
        return {**record, "note": "no benign lesion to rank against"}

    value, low, high = pauc_interval(target, score, patient, replicates, seed)
    return {**record, "pauc": value, "low": low, "high": high, "auc": auc(target, score)}
