"""The train-only columns: who was tagged, what was biopsied, and what the pathologist said."""

from __future__ import annotations

import numpy as np
import pandas as pd

from isic.data.sample.measure import is_small
from isic.data.sample.patients import apportion, unique_codes
from isic.data.sample.population import Population

#: Share of lesions with a lesion_id (published: 22,058 of 401,059).
_TAGGED = 0.055
#: Published counts of benign and indeterminate lesions with a full diagnosis.
_BENIGN, _INDETERMINATE = 561, 114
#: Published malignant diagnoses: melanoma 157, basal cell 163, squamous cell 73.
CANCERS = ("melanoma", "basal", "squamous")


def family(diagnosis: str) -> str:
    """Melanoma, basal or squamous, from the full text of a malignant diagnosis."""
    if "Melanoma" in diagnosis:
        return "melanoma"
    return "basal" if "Basal" in diagnosis else "squamous"


def draw_diagnoses(
    facts: Population, rng: np.random.Generator, rows: pd.DataFrame, owner: np.ndarray
) -> pd.DataFrame:
    """The train-only columns but target and dnn confidence, for measured `rows` with a `target`
    column.
    """
    malignant = rows["target"].to_numpy() == 1
    tagged = _tagged(rng, rows, owner, malignant)
    full = np.full(len(rows), "Benign", dtype=object)
    full[malignant] = _malignant(facts, rng, rows[malignant])
    _biopsies(facts, rng, rows, tagged & ~malignant, full)
    levels = np.array([_levels(text) for text in full], dtype=object)
    thickness, mitoses = _invasion(facts, rng, full)
    codes = np.full(len(rows), None, dtype=object)
    codes[tagged] = unique_codes(rng, int(tagged.sum()), "IL_")
    return pd.DataFrame(
        {
            "lesion_id": codes,
            "iddx_full": full,
            **{f"iddx_{level + 1}": levels[:, level] for level in range(5)},
            "mel_mitotic_index": mitoses,
            "mel_thick_mm": thickness,
        },
        index=rows.index,
    )


def _tagged(
    rng: np.random.Generator, rows: pd.DataFrame, owner: np.ndarray, malignant: np.ndarray
) -> np.ndarray:
    """Who has a lesion_id: all malignant lesions, all below 2.5 mm, and others, unevenly among
    patients.
    """
    certain = malignant | is_small(rows["clin_size_long_diam_mm"].to_numpy())
    habit = rng.gamma(0.5, 2.0, owner.max() + 1)[owner]
    wanted = _TAGGED * len(rows) - certain.sum()
    chance = np.clip(habit * max(wanted, 0) / max(habit[~certain].sum(), 1e-9), 0, 1)
    return certain | (rng.random(len(rows)) < chance)


def _draw(rng: np.random.Generator, counts: dict[str, int], size: int) -> np.ndarray:
    names = np.array(list(counts), dtype=object)
    weights = np.array(list(counts.values()), dtype=float)
    return rng.choice(names, size=size, p=weights / weights.sum())


def _deal(rng: np.random.Generator, counts: dict[str, int], size: int) -> np.ndarray:
    """Names in random order, each as often as its share of `counts` allows."""
    names = np.array(list(counts), dtype=object)
    return rng.permutation(
        np.repeat(names, apportion(np.array(list(counts.values()), dtype=float), size))
    )


def _malignant(facts: Population, rng: np.random.Generator, rows: pd.DataFrame) -> np.ndarray:
    """Full diagnoses: drawn as published, then dealt by looks, dark and even brown to melanoma, red
    to carcinoma.
    """
    drawn = _deal(rng, facts.diagnoses["malignant"], len(rows))
    brown = (
        rows["tbp_lv_H"] / 7.6 - rows["tbp_lv_deltaL"] / 5 + 0.01 * rows["tbp_lv_nevi_confidence"]
    )
    looks = brown.to_numpy() + rng.standard_normal(len(rows))
    is_melanoma = np.array([family(text) == "melanoma" for text in drawn], dtype=bool)
    order = np.argsort(-looks, kind="stable")
    dealt = np.empty(len(rows), dtype=object)
    dealt[order[: is_melanoma.sum()]] = drawn[is_melanoma]
    dealt[order[is_melanoma.sum() :]] = drawn[~is_melanoma]
    return dealt


def _biopsies(
    facts: Population,
    rng: np.random.Generator,
    rows: pd.DataFrame,
    open_: np.ndarray,
    full: np.ndarray,
) -> None:
    """Benign and indeterminate lesions with a pathologist's diagnosis: the most suspicious of the
    tagged ones.
    """
    candidates = np.flatnonzero(open_)
    scale = len(rows) / facts.rows
    benign, unsure = rng.poisson(_BENIGN * scale), rng.poisson(_INDETERMINATE * scale)
    size = rows["clin_size_long_diam_mm"].to_numpy()[candidates]
    suspicion = (
        np.log(size)
        - 0.08 * rows["tbp_lv_deltaL"].to_numpy()[candidates]
        + rng.gumbel(size=len(candidates))
    )
    chosen = candidates[np.argsort(-suspicion, kind="stable")][: benign + unsure]
    cut = min(unsure, len(chosen))
    chosen = rng.permutation(chosen)
    full[chosen[:cut]] = _draw(rng, facts.diagnoses["indeterminate"], cut)
    full[chosen[cut:]] = _draw(rng, facts.diagnoses["benign"], len(chosen) - cut)


def _levels(text: str) -> list[str | None]:
    parts: list[str | None] = list(text.split("::")[:5])
    return parts + [None] * (5 - len(parts))


def _invasion(
    facts: Population, rng: np.random.Generator, full: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Thickness of invasive melanomas, and mitoses of most of them (published: 53 of 63)."""
    invasive = np.array(["Melanoma Invasive" in text for text in full], dtype=bool)
    count = int(invasive.sum())
    thickness = np.full(len(full), np.nan)
    thickness[invasive] = _draw(rng, facts.mel_thick_mm, count).astype(float)
    mitoses = np.full(len(full), None, dtype=object)
    counted = np.flatnonzero(invasive)[rng.random(count) < 53 / 63]
    mitoses[counted] = _draw(rng, facts.mel_mitotic_index, len(counted))
    return thickness, mitoses
