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
#: Male among lesions of known sex, and lesions of unknown sex: 383 malignant ones known, 274 male;
#: all but what patients with a malignant lesion take of 389,542 known, 265,546 male.
_SEX_OF_MALIGNANT, _SEX = (274 / 383, 10 / 393), (0.66, 0.031)
_AGE_MISSING = 2_798 / 401_059


def draw_patients(
    facts: Population, rng: np.random.Generator, patients: int, lesions: int, positives: int
) -> pd.DataFrame:
    """One row per patient: patient_id, hospital (index), white, lesions, malignant, sex, age,
    age_missing, visits.

    Lesions and malignant ones sum exactly to what is asked; shares of hospitals, white light, sexes
    and ages are those of lesions, so that a patient of thousands does not move them. `age` is in
    years at the first visit, `visits` the share of the patient's lesions seen at a second one five
    years on. Raises InputError for impossible requests.
    """
    check_request(patients, lesions, positives)
    malignant = _malignant_counts(facts, rng, patients, positives)
    hospital = _hospitals(facts, rng, malignant)
    counts = _lesion_counts(facts, rng, hospital, malignant, lesions)
    malignant = _fit_into(malignant, counts)
    second_visit = np.where(rng.random(patients) < 0.12, rng.uniform(0.2, 0.8, patients), 0.0)
    return pd.DataFrame(
        {
            "patient_id": unique_codes(rng, patients, "IP_"),
            "hospital": hospital,
            "lesions": counts,
            "malignant": malignant,
            "white": _white(facts, rng, hospital, counts),
            "sex": _sexes(rng, counts, malignant),
            "age": _ages(facts, rng, counts, malignant) - 5 * second_visit,
            "age_missing": portion(rng, counts, _AGE_MISSING),
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


def portion(rng: np.random.Generator, weights: np.ndarray, share: float) -> np.ndarray:
    """Randomly chosen members (bool) that hold `share` of the total weight, or a little less."""
    chosen = np.zeros(len(weights), dtype=bool)
    room = share * weights.sum() + 0.5 * rng.random()
    for member in rng.permutation(len(weights)):
        if weights[member] <= room:
            chosen[member] = True
            room -= weights[member]
    return chosen


def _white(
    facts: Population, rng: np.random.Generator, hospital: np.ndarray, lesions: np.ndarray
) -> np.ndarray:
    """Patients photographed in white light (bool): at each hospital its share of the lesions."""
    white = np.zeros(len(hospital), dtype=bool)
    for code, share in enumerate(facts.hospitals["white_benign"]):
        members = np.flatnonzero(hospital == code)
        if share > 0 and len(members):
            white[members] = ~portion(rng, lesions[members], 1 - share)
    return white


def _sexes(rng: np.random.Generator, lesions: np.ndarray, malignant: np.ndarray) -> np.ndarray:
    """male, female or None per patient: the published shares of malignant lesions and of all."""
    sex = np.full(len(lesions), "female", dtype=object)
    for members, weights, (male, missing) in (
        (np.flatnonzero(malignant > 0), malignant, _SEX_OF_MALIGNANT),
        (np.flatnonzero(malignant == 0), lesions, _SEX),
    ):
        unknown = portion(rng, weights[members], missing)
        sex[members[unknown]] = None
        known = members[~unknown]
        sex[known[portion(rng, weights[known], male)]] = "male"
    return sex


def _ages(
    facts: Population, rng: np.random.Generator, lesions: np.ndarray, malignant: np.ndarray
) -> np.ndarray:
    """Years per patient: over lesions the benign table; malignant patients older by as much as
    gives malignant lesions their mean.
    """
    table = facts.benign.tables["age_approx"]
    wanted = facts.malignant_age
    noise = rng.standard_normal(len(lesions))

    def drawn(older: float) -> np.ndarray:
        order = np.argsort(noise + older * (malignant > 0), kind="stable")
        position = np.empty(len(lesions))
        position[order] = np.cumsum(lesions[order]) - 0.5 * lesions[order]
        return table(ndtri(position / lesions.sum()))

    low, high = -0.5, 1.5
    for _ in range(20 if malignant.any() else 0):
        middle = (low + high) / 2
        younger = np.average(drawn(middle), weights=malignant) < wanted
        low, high = (middle, high) if younger else (low, middle)
    return drawn((low + high) / 2 if malignant.any() else 0.0)


def _hospitals(facts: Population, rng: np.random.Generator, malignant: np.ndarray) -> np.ndarray:
    """Hospital of each patient: patients as published, malignant lesions as near to the published
    shares as patients with several of them allow.
    """
    hospitals = facts.hospitals
    free = apportion(hospitals["patients"].to_numpy(float), len(malignant))
    open_ = apportion(hospitals["malignant"].to_numpy(float), int(malignant.sum())).astype(float)
    assigned = np.full(len(malignant), -1)
    shuffled = rng.permutation(np.flatnonzero(malignant > 0))
    # The fullest first, each to a hospital by how many malignant lesions it still lacks.
    for patient in shuffled[np.argsort(-malignant[shuffled], kind="stable")]:
        fits = np.where((free > 0) & (open_ >= malignant[patient]), open_, 0)
        if not fits.any():
            fits = np.where(free > 0, np.maximum(open_, 1e-3), 0)
        assigned[patient] = rng.choice(len(open_), p=fits / fits.sum())
        open_[assigned[patient]] -= malignant[patient]
        free[assigned[patient]] -= 1
    assigned[assigned < 0] = rng.permutation(np.repeat(np.arange(len(free)), free))
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
