"""Whole metadata rows: patients, places, measurements and diagnoses put together in the official
columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from isic.core.schema import TEST_COLUMNS, TRAIN_COLUMNS
from isic.data.sample.diagnosis import draw_diagnoses
from isic.data.sample.measure import complete, draw_scores, mixture_scores, read_tables
from isic.data.sample.patients import draw_patients, unique_codes
from isic.data.sample.population import Population

#: How the finer locations of the file map to the general site; Unknown has none.
_SITES = {
    "Head & Neck": "head/neck",
    "Left Arm": "upper extremity",
    "Right Arm": "upper extremity",
    "Left Leg": "lower extremity",
    "Right Leg": "lower extremity",
    "Torso Back": "posterior torso",
    "Torso Front": "anterior torso",
}
#: How strongly patients differ in where their lesions sit (sd of log weights); a guess.
_PLACE_SPREAD = 0.4


@dataclass(frozen=True)
class Sample:
    """Rows in file order, and what the tiles need to know beyond them."""

    #: The 55 official columns, sorted by isic_id.
    frame: pd.DataFrame
    #: Index of each row's patient, for traits of skin that only images show.
    owner: np.ndarray


def draw_rows(facts: Population, seed: int, patients: int, lesions: int, positives: int) -> Sample:
    """Training rows. Raises InputError for impossible requests."""
    people_rng, row_rng, code_rng = (
        np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(3)
    )
    people = draw_patients(facts, people_rng, patients, lesions, positives)
    return draw_rows_of(facts, row_rng, code_rng, people)


def draw_rows_of(
    facts: Population, rng: np.random.Generator, code_rng: np.random.Generator, people: pd.DataFrame
) -> Sample:
    """Rows of given patients (see `draw_patients`), sorted by isic_id as the official file is."""
    owner = np.repeat(np.arange(len(people)), people["lesions"])
    first = np.repeat(
        np.cumsum(people["lesions"].to_numpy()) - people["lesions"].to_numpy(), people["lesions"]
    )
    malignant = np.arange(len(owner)) - first < people["malignant"].to_numpy()[owner]
    place, given = _places(facts, rng, people, owner, malignant)
    scores = draw_scores(facts, rng, people, owner, malignant, given)
    rows = complete(rng, read_tables(facts, rng, scores, malignant))
    rows["target"] = malignant.astype(np.int64)
    rows = rows.assign(**_identity(facts, rng, people, owner, malignant), **_site(facts, place))
    rows["age_approx"] = _ages(rng, people, owner, rows["age_approx"].to_numpy())
    rows = rows.assign(**draw_diagnoses(facts, rng, rows, owner))
    rows["isic_id"] = unique_codes(code_rng, len(rows), "ISIC_")
    order = np.argsort(rows["isic_id"].to_numpy().astype(str), kind="stable")
    return Sample(rows.loc[order, list(TRAIN_COLUMNS)].reset_index(drop=True), owner[order])


def test_rows(sample: Sample) -> pd.DataFrame:
    """The 44 columns of the test file."""
    return sample.frame[list(TEST_COLUMNS)]


def _places(
    facts: Population,
    rng: np.random.Generator,
    people: pd.DataFrame,
    owner: np.ndarray,
    malignant: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Location index (n,) and the normal scores of age, x, y, z (n, 4)."""
    table = facts.locations
    habit = (_PLACE_SPREAD * rng.standard_normal((len(people), len(table)))).astype(np.float32)
    place = np.empty(len(owner), dtype=np.int64)
    given = np.empty((len(owner), 4))
    given[:, 0] = people["age_score"].to_numpy()[owner]
    for is_malignant in (False, True):
        rows = np.flatnonzero(malignant == is_malignant)
        weights = table["malignant" if is_malignant else "benign"].to_numpy(float)
        with np.errstate(divide="ignore"):
            logits = np.log(weights).astype(np.float32)
        noise = rng.gumbel(size=(len(rows), len(table))).astype(np.float32)
        place[rows] = np.argmax(logits + habit[owner[rows]] + noise, axis=1)
        for column, axis in enumerate("xyz", start=1):
            spots = np.stack(table[axis].to_list())
            mean, sd = spots[place[rows]].T
            given[rows, column] = mixture_scores(
                weights, spots, mean + sd * rng.standard_normal(len(rows))
            )
    return place, given


def _identity(
    facts: Population,
    rng: np.random.Generator,
    people: pd.DataFrame,
    owner: np.ndarray,
    malignant: np.ndarray,
) -> dict[str, np.ndarray]:
    """Columns that follow from the patient and the hospital, and the lighting."""
    hospital = people["hospital"].to_numpy()[owner]
    table = facts.hospitals
    # One hospital photographs most patients in white light; elsewhere white tiles are single
    # lesions.
    white = rng.random(len(people))[owner] < table["white_benign"].to_numpy()[hospital]
    single = rng.random(len(owner)) < table["white_malignant"].to_numpy()[hospital]
    return {
        "patient_id": people["patient_id"].to_numpy()[owner],
        "sex": people["sex"].to_numpy()[owner],
        "image_type": np.full(len(owner), "TBP tile: close-up", dtype=object),
        "tbp_tile_type": (
            np.where(white | (single & malignant), "3D: white", "3D: XP").astype(object)
        ),
        "attribution": table["name"].to_numpy(dtype=object)[hospital],
        "copyright_license": table["licence"].to_numpy(dtype=object)[hospital],
    }


def _site(facts: Population, place: np.ndarray) -> dict[str, np.ndarray]:
    names = facts.locations["name"].to_list()
    simple = [_simple(name) for name in names]
    sites = [_SITES.get(name) for name in simple]
    columns = {
        "tbp_lv_location": names,
        "tbp_lv_location_simple": simple,
        "anatom_site_general": sites,
    }
    return {column: np.array(values, dtype=object)[place] for column, values in columns.items()}


def _simple(location: str) -> str:
    """The location without its finer part: `Left Arm - Lower` and `Torso Back Top Third` lose the
    end.
    """
    return next((name for name in _SITES if location.startswith(name)), "Unknown")


def _ages(
    rng: np.random.Generator, people: pd.DataFrame, owner: np.ndarray, drawn: np.ndarray
) -> np.ndarray:
    """Age in steps of five, one per patient, five years more at a second visit; missing for whole
    patients.
    """
    # The benign and malignant tables would give a patient two ages: the first lesion's holds for
    # all of them.
    first = np.unique(owner, return_index=True)[1]
    base = np.clip(5 * np.rint(drawn[first] / 5), 5, 85)
    later = rng.random(len(owner)) < people["visits"].to_numpy()[owner]
    age = np.minimum(base[owner] + 5 * later, 85)
    age[people["age_missing"].to_numpy()[owner]] = np.nan
    return age
