"""Whole metadata rows: patients, places, measurements and diagnoses put together in the official
columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from isic.core.schema import TEST_COLUMNS, TRAIN_COLUMNS
from isic.data.sample.diagnosis import draw_diagnoses
from isic.data.sample.measure import (
    complete,
    draw_scores,
    draw_visibility,
    evidence,
    mixture_scores,
    read_tables,
)
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
    #: Evidence that the columns of each malignant lesion or lookalike show, NaN for all others.
    visibility: np.ndarray


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
    visibility = draw_visibility(facts, rng, malignant)
    scores = draw_scores(facts, rng, people, owner, malignant, visibility, given)
    seen = evidence(facts, scores, malignant, visibility)
    rows = complete(facts, rng, read_tables(facts, rng, scores, malignant, visibility))
    rows["target"] = malignant.astype(np.int64)
    rows = rows.assign(**_identity(facts, rng, people, owner, malignant), **_site(facts, place))
    rows["age_approx"] = _ages(rng, people, owner)
    rows = rows.assign(**draw_diagnoses(facts, rng, rows, owner))
    rows["isic_id"] = unique_codes(code_rng, len(rows), "ISIC_")
    order = np.argsort(rows["isic_id"].to_numpy().astype(str), kind="stable")
    frame = rows.loc[order, list(TRAIN_COLUMNS)].reset_index(drop=True)
    return Sample(frame, owner[order], seen[order])


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
    age = people["age"].to_numpy()[owner] + rng.uniform(-1, 1, len(people))[owner]
    for is_malignant in (False, True):
        rows = np.flatnonzero(malignant == is_malignant)
        group = facts.overt if is_malignant else facts.benign
        given[rows, 0] = group.tables["age_approx"].score(age[rows])
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
    white = people["white"].to_numpy()[owner]
    # Elsewhere white tiles are single malignant lesions; together as many as published.
    for code, share in enumerate(table["white_malignant"]):
        here = np.flatnonzero(malignant & (hospital == code))
        lacking = round(share * len(here) + rng.uniform(-0.5, 0.5)) - int(white[here].sum())
        others = here[~white[here]] if lacking > 0 else here[white[here]]
        change = rng.permutation(others)[: abs(lacking)]
        white[change] = ~white[change]
    return {
        "patient_id": people["patient_id"].to_numpy()[owner],
        "sex": people["sex"].to_numpy()[owner],
        "image_type": np.full(len(owner), "TBP tile: close-up", dtype=object),
        "tbp_tile_type": (np.where(white, "3D: white", "3D: XP").astype(object)),
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


def _ages(rng: np.random.Generator, people: pd.DataFrame, owner: np.ndarray) -> np.ndarray:
    """Age in steps of five, one per patient, five years more at a second visit; missing for whole
    patients.
    """
    base = np.clip(5 * np.rint(people["age"].to_numpy() / 5), 5, 85)[owner]
    later = rng.random(len(owner)) < people["visits"].to_numpy()[owner]
    age = np.minimum(base + 5 * later, 85)
    age[people["age_missing"].to_numpy()[owner]] = np.nan
    return age
