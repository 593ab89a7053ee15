"""Who the patients are: hospital, number of lesions and of malignant ones, sex, age, and what sets
their skin apart.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtri

from isic.core.errors import InputError
from isic.data.sample.population import Population

#: Fewer malignant patients than this cannot be dealt to grouped folds, so small requests spread
#: their positives.
_HANDFUL = 6
#: At most this share of the patients is malignant (published: 25 %), so that every request has
#: benign patients too.
_LARGEST_SHARE = 0.75


def draw_patients(
    facts: Population, rng: np.random.Generator, patients: int, lesions: int, positives: int
) -> pd.DataFrame:
    """One row per patient: patient_id, hospital (index), lesions, malignant, sex, age_score,
    visits.

    Lesions and malignant ones sum exactly to what is asked. `age_score` is a normal score, `visits`
    the share of the patient's lesions seen at a second visit five years on. Raises InputError for
    impossible requests.
    """
    check_request(patients, lesions, positives)
    malignant = _malignant_counts(facts, rng, patients, positives)
    hospital = _hospitals(facts, rng, malignant > 0)
    counts = _lesion_counts(facts, rng, hospital, malignant, lesions)
    malignant = _fit_into(malignant, counts)
    is_malignant = malignant > 0
    male = rng.random(patients) < np.where(is_malignant, 0.70, 0.68)
    sex = np.where(male, "male", "female").astype(object)
    sex[rng.random(patients) < 0.029] = None
    # Patients with a malignant lesion are older (mean 61.4 years); the rest shift so that all
    # lesions keep theirs.
    age = rng.standard_normal(patients) + np.where(is_malignant, 0.10, -0.07)
    second_visit = np.where(rng.random(patients) < 0.12, rng.uniform(0.2, 0.8, patients), 0.0)
    return pd.DataFrame(
        {
            "patient_id": unique_codes(rng, patients, "IP_"),
            "hospital": hospital,
            "lesions": counts,
            "malignant": malignant,
            "sex": sex,
            "age_score": age,
            "age_missing": rng.random(patients) < 0.007,
            "visits": second_visit,
        }
    )


def check_request(patients: int, lesions: int, positives: int, seed: int = 0) -> None:
    """Raise InputError unless every patient can have a lesion and every positive can be one of
    them.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative: use 0 or more")
    if patients < 1:
        raise InputError(f"a sample needs at least 1 patient, not {patients}: raise patients")
    if lesions < patients:
        raise InputError(
            f"{lesions} lesions are too few for {patients} patients: every patient has at least one"
        )
    if positives < 0 or positives > lesions:
        raise InputError(
            f"{positives} positives do not fit into {lesions} lesions: ask for 0 to {lesions}"
        )


def unique_codes(rng: np.random.Generator, count: int, prefix: str) -> np.ndarray:
    """`count` distinct codes of a prefix and seven digits, in random order."""
    numbers = rng.choice(9_980_000, size=count, replace=False) + 16_000
    return np.array([f"{prefix}{number:07d}" for number in numbers], dtype=object)


def apportion(weights: np.ndarray, total: int) -> np.ndarray:
    """Split `total` by weights into whole numbers that sum to it (largest remainders)."""
    shares = weights / weights.sum() * total
    whole = np.floor(shares).astype(np.int64)
    order = np.argsort(whole - shares, kind="stable")
    whole[order[: total - whole.sum()]] += 1
    return whole


def _malignant_counts(
    facts: Population, rng: np.random.Generator, patients: int, positives: int
) -> np.ndarray:
    """Malignant lesions of each patient, in random order: the published histogram, stretched to the
    request.
    """
    counts = np.zeros(patients, dtype=np.int64)
    if positives == 0:
        return counts
    wanted = round(positives * facts.malignant_patients / facts.malignant)
    limit = max(1, int(patients * _LARGEST_SHARE))
    chosen = int(np.clip(max(wanted, min(_HANDFUL, positives)), 1, min(limit, positives)))
    sizes = np.array(sorted(facts.malignant_per_patient))
    published = np.array([facts.malignant_per_patient[size] for size in sizes])
    each = np.repeat(sizes, apportion(published, chosen))
    # What rounding left over or took away goes to patients with several, one at a time from the
    # fullest.
    while (gap := positives - each.sum()) != 0:
        fullest = np.argsort(-each, kind="stable")
        step = (
            fullest[: min(abs(gap), len(each))]
            if gap > 0
            else fullest[each[fullest] > 1][: abs(gap)]
        )
        each[step] += np.sign(gap)
    counts[rng.permutation(patients)[:chosen]] = each
    return counts


def _hospitals(facts: Population, rng: np.random.Generator, is_malignant: np.ndarray) -> np.ndarray:
    """Hospital of each patient: malignant patients as the malignant lesions are spread, all of them
    as published.
    """
    hospitals = facts.hospitals
    total = apportion(hospitals["patients"].to_numpy(float), len(is_malignant))
    malignant = np.minimum(
        apportion(hospitals["malignant"].to_numpy(float), int(is_malignant.sum())), total
    )
    while (short := int(is_malignant.sum() - malignant.sum())) > 0:
        free = total - malignant
        malignant[np.argsort(-free, kind="stable")[:short]] += (
            free[np.argsort(-free, kind="stable")[:short]] > 0
        )
    assigned = np.empty(len(is_malignant), dtype=np.int64)
    codes = np.arange(len(hospitals))
    assigned[is_malignant] = rng.permutation(np.repeat(codes, malignant))
    assigned[~is_malignant] = rng.permutation(np.repeat(codes, total - malignant))
    return assigned


def _lesion_counts(
    facts: Population,
    rng: np.random.Generator,
    hospital: np.ndarray,
    malignant: np.ndarray,
    lesions: int,
) -> np.ndarray:
    """Lesions of each patient, summing to `lesions`: published quantiles, dealt so that hospitals
    get their share.

    Malignant patients have more of them (published quartiles 213, 434, 758 against 95, 203, 392).
    """
    wanted = facts.hospitals["rows"].to_numpy(float) / facts.rows
    noise = rng.standard_normal(len(hospital))
    pull = np.zeros(len(wanted))
    pools = [
        (np.flatnonzero(malignant > 0), facts.lesions_of_malignant_patient),
        (np.flatnonzero(malignant == 0), facts.lesions_of_benign_patient),
    ]
    raw = np.ones(len(hospital))
    # Hospitals with busier patients draw from higher quantiles; a few rounds settle how much
    # higher.
    for _ in range(12):
        for members, (probabilities, values) in pools:
            order = members[np.argsort(noise[members] + pull[hospital[members]], kind="stable")]
            at = (np.arange(len(members)) + 0.5) / max(len(members), 1)
            raw[order] = np.exp(np.interp(at, probabilities, np.log(values)))
        share = np.bincount(hospital, raw, minlength=len(wanted)) / raw.sum()
        present = share > 0
        pull[present] += 0.5 * np.log(wanted[present] / share[present])
    return _scale_to(raw, np.maximum(malignant, 1), lesions)


def _scale_to(raw: np.ndarray, least: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near `raw` times a factor, at least `least` where the total allows, summing to
    `total`.
    """
    if least.sum() > total:
        least = np.ones_like(least)
    if raw.sum() > 0.97 * total and raw.sum() < 1.03 * total:
        # At the published size the extremes stay as they are; the middle absorbs the small
        # difference.
        middle = np.abs(ndtri((np.argsort(np.argsort(raw)) + 0.5) / len(raw))) < 1
        raw = np.where(middle, raw + (total - raw.sum()) / middle.sum(), raw)
        factor = 1.0
    else:
        factor = total / raw.sum()
    counts = np.maximum(np.rint(raw * factor).astype(np.int64), least)
    while (gap := total - counts.sum()) != 0:
        free = np.argsort(-(counts - least), kind="stable")
        free = free[: len(free) // 2 + 1] if gap > 0 else free[(counts - least)[free] > 0]
        skip = min(len(free) // 20, len(free) - 1)
        counts[free[skip:][: abs(gap)]] += np.sign(gap)
    return counts


def _fit_into(malignant: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """Malignant counts moved to patients with room, where a patient would have more of them than
    lesions.
    """
    fitted = np.minimum(malignant, lesions)
    while (excess := int(malignant.sum() - fitted.sum())) > 0:
        room = lesions - fitted
        roomiest = np.argsort(-room, kind="stable")[: min(excess, int((room > 0).sum()))]
        fitted[roomiest] += 1
    return fitted
