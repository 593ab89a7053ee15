"""What is published about the 401,059 lesions, as values: the only place that reads `population.json`.

The numbers are aggregates; their sources are named in the file. No row of the challenge data is in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

#: Spreads the ends of a quantile table over a finite range of normal scores: 1 in 400,000.
_EDGE = 2.5e-6


@dataclass(frozen=True)
class Table:
    """A quantile table: values at normal scores, interpolated between them.

    Interpolation runs along normal scores, not probabilities, so that the stretch from the 99th percentile to the
    maximum thins out like a tail instead of being uniform.
    """

    scores: np.ndarray
    values: np.ndarray

    def __call__(self, score: np.ndarray) -> np.ndarray:
        """Values of any shape at normal scores."""
        return np.interp(score, self.scores, self.values)

    @classmethod
    def of(cls, published: dict[str, list[float]]) -> Table:
        """From probabilities and values as published; 0 and 1 stand for the minimum and maximum of the sample."""
        probabilities = np.clip(np.asarray(published["p"]), _EDGE, 1 - _EDGE)
        return cls(ndtri(probabilities), np.asarray(published["value"], dtype=np.float64))


@dataclass(frozen=True)
class Group:
    """Benign or malignant lesions: a table per variable and their correlation in normal scores."""

    tables: dict[str, Table]
    correlation: np.ndarray


@dataclass(frozen=True)
class Population:
    """Everything the generator knows."""

    rows: int
    malignant: int
    patients: int
    malignant_patients: int
    variables: tuple[str, ...]
    benign_group: Group
    malignant_group: Group
    #: Share of each variable's variance that lies between patients (of one hospital); exogenous ones excluded.
    patient_share: np.ndarray
    #: name, licence, rows, malignant, patients, white_benign, white_malignant, offset (per variable, normal scores)
    hospitals: pd.DataFrame
    #: name, rows, malignant, x, y, z (mean and sd in mm)
    locations: pd.DataFrame
    #: How many malignant patients have 1, 2, … malignant lesions.
    malignant_per_patient: dict[int, int]
    lesions_of_malignant_patient: tuple[np.ndarray, np.ndarray]
    lesions_of_benign_patient: tuple[np.ndarray, np.ndarray]
    #: Counts of full diagnoses, by first level in lower case.
    diagnoses: dict[str, dict[str, int]]
    mel_thick_mm: dict[str, int]
    mel_mitotic_index: dict[str, int]


@cache
def population() -> Population:
    """The published numbers, read once."""
    text = resources.files(__package__).joinpath("population.json").read_text(encoding="utf-8")
    facts = json.loads(text)
    return Population(
        rows=facts["rows"],
        malignant=facts["malignant"],
        patients=facts["patients"],
        malignant_patients=facts["malignant_patients"],
        variables=tuple(facts["variables"]),
        benign_group=_group(facts, "benign"),
        malignant_group=_group(facts, "malignant"),
        patient_share=np.asarray(facts["patient_share"]),
        hospitals=pd.DataFrame(facts["hospitals"]),
        locations=pd.DataFrame(facts["locations"]),
        malignant_per_patient={int(count): patients for count, patients in facts["malignant_per_patient"].items()},
        lesions_of_malignant_patient=_counts(facts, "malignant"),
        lesions_of_benign_patient=_counts(facts, "benign"),
        diagnoses=facts["diagnoses"],
        mel_thick_mm=facts["mel_thick_mm"],
        mel_mitotic_index=facts["mel_mitotic_index"],
    )


def _group(facts: dict[str, Any], name: str) -> Group:
    tables = {variable: Table.of(columns[name]) for variable, columns in facts["quantiles"].items()}
    return Group(tables, _normal_correlation(facts["spearman"][name]))


def _counts(facts: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    table = facts["lesions_per_patient"][name]
    return np.asarray(table["p"]), np.asarray(table["value"], dtype=np.float64)


def _normal_correlation(lower: list[list[float]]) -> np.ndarray:
    """Pearson correlation of normal scores with the given Spearman correlation (2 sin πρ/6), lower triangle by rows."""
    spearman = np.eye(len(lower))
    for index, row in enumerate(lower):
        spearman[index, :index] = spearman[:index, index] = row
    return nearest_correlation(2 * np.sin(np.pi * spearman / 6))


def nearest_correlation(matrix: np.ndarray) -> np.ndarray:
    """The matrix with negative eigenvalues lifted to 1e-4 and the diagonal back at one."""
    values, vectors = np.linalg.eigh(matrix)
    lifted = (vectors * np.clip(values, 1e-4, None)) @ vectors.T
    scale = np.sqrt(np.diag(lifted))
    return lifted / np.outer(scale, scale)
