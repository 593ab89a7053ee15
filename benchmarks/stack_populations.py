"""Generated populations with the logit of a simulated network.

Real networks see in part what the columns show: within a class, the ranks of a tabular and of an
image score correlate by about .41 (benign) and .67 (malignant) on real held-out lesions. The
simulated logit has these correlations with an out-of-fold score of boosting on raw columns, and a
distance between the classes that sets its strength.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import sample
from scipy.special import ndtri
from scipy.stats import rankdata

from isic.core.folds import make_folds
from isic.core.schema import ID, TARGET
from isic.data.sample.population import population
from isic.data.sample.rows import draw_rows

#: Rank correlation of image and tabular score among benign and among malignant lesions.
SPEARMAN = (0.41, 0.67)
#: Distance of the classes in standard deviations of a network's logit.
STRENGTHS = {"weak": 1.2, "medium": 1.8, "strong": 2.3}


class GeneratedPopulation(NamedTuple):
    """Rows of the table, folds (isic_id, patient_id, target, fold), and a normal score (n,) of each
    lesion's tabular evidence within its class.
    """

    rows: pd.DataFrame
    folds: pd.DataFrame
    evidence: np.ndarray


def draw_population(
    seed: int, lesions: int, positives: int, patients: int | None = None
) -> GeneratedPopulation:
    """A population of `lesions` lesions; 385 a patient where `patients` is not given."""
    patients = patients or max(10, lesions // 385)
    return with_evidence(draw_rows(population(None), seed, patients, lesions, positives).frame)


def with_evidence(rows: pd.DataFrame) -> GeneratedPopulation:
    """The population of a table's rows, in five folds."""
    folds = make_folds(rows, 5, seed=0).set_index(ID).loc[rows[ID]].reset_index()
    target = rows[TARGET].to_numpy()
    score = sample.raw_scores(rows, bags=1)
    evidence = np.empty(len(rows))
    for label in (0, 1):
        own = target == label
        evidence[own] = ndtri(rankdata(score[own], method="ordinal") / (own.sum() + 1))
    return GeneratedPopulation(rows, folds, evidence)


def image_logit(drawn: GeneratedPopulation, strength: float, seed: int) -> np.ndarray:
    """float32 (n,): logits of one network per fold, each on a scale of its own."""
    rng = np.random.default_rng([seed, 1])
    target, fold = drawn.folds[TARGET].to_numpy(), drawn.folds["fold"].to_numpy()
    # Pearson correlation of two normal scores with this rank correlation.
    pearson = 2 * np.sin(np.pi * np.array(SPEARMAN) / 6)[target]
    noise = rng.standard_normal(len(target))
    logit = pearson * drawn.evidence + np.sqrt(1 - pearson**2) * noise + strength * target
    return (logit * (1 + 0.2 * fold) - fold).astype(np.float32)
