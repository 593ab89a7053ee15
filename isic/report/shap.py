"""SHAP values of the stacker by column and by feature family.

SHAP values are log-odds that add up to the score. With several libraries, their values are averaged
with the weights of the blend; the blend combines ranks, so the sum is then approximate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.metric import Floats
from isic.core.schema import ID, PATIENT
from isic.report.shap_text import ShapGroup, group_shap
from isic.stack.blend import by_patient_size
from isic.stack.encoder import Columns, plain, rows
from isic.stack.inputs import Inputs
from isic.stack.members import library
from isic.stack.model import Stack
from isic.stack.training_data import Part, patient_sizes

#: Column of a library's SHAP values for the average lesion's log-odds.
_AVERAGE = "average lesion"


def shap_values(
    stack: Stack,
    columns: Columns,
    fold: int,
    ids: pd.Series,
    patients: pd.Series,
    logits: Mapping[str, NDArray],
    keep: NDArray[np.int64],
) -> tuple[pd.DataFrame, Floats]:
    """SHAP values in log-odds, one row per lesion of `keep`, one column per stacker column, and the
    log-odds (keep,) of the average lesion, to which each row's values add.

    `columns` are those of chain `fold`, `ids` and `patients` (n,) name their rows and the rows'
    patients, `logits` (n,) are the raw ones by backbone, `keep` indexes rows.
    """
    sizes = patient_sizes(patients)
    total, average = _contributions(stack, columns, fold, sizes, keep)
    combination = stack.chain(fold).combination
    if combination is not None and stack.features_only is not None:
        alone, average_alone = _contributions(stack.features_only, columns, fold, sizes, keep)
        total *= combination.columns
        total[list(alone)] += combination.features * alone
        for name, scale in stack.chain(fold).images.scales.items():
            own = scale.standardise(logits[name])[keep] / len(stack.backbones)
            total[f"image_{plain(name)}"] += combination.image * own
        average = combination.columns * average + combination.features * average_alone
    return total.set_axis(ids.iloc[keep], axis=0), average


def _contributions(
    stack: Stack, columns: Columns, fold: int, sizes: NDArray[np.int64], keep: NDArray[np.int64]
) -> tuple[pd.DataFrame, Floats]:
    """SHAP values (keep, columns of `stack`) of its members, and what they add to (keep,)."""
    chain, names = stack.chain(fold), [*stack.names, _AVERAGE]
    total = np.zeros((len(keep), len(names)))
    for name, by_part in chain.members.items():
        values: dict[Part, NDArray] = {}
        for part, models in by_part.items():
            own = stack.names_of(part)
            matrix = rows({column: columns[column] for column in own}, keep)
            found = np.mean(
                [library(name).contributions(model, matrix) for model in models], axis=0
            )
            table = pd.DataFrame(found, columns=[*own, _AVERAGE])
            values[part] = table.reindex(columns=names, fill_value=0.0).to_numpy().T
        total += chain.blend.weights[name] * by_patient_size(values, sizes[keep]).T
    return pd.DataFrame(total[:, :-1], columns=list(stack.names)), total[:, -1] + chain.offset


def shap_by_family(stack: Stack, values: pd.DataFrame) -> pd.DataFrame:
    """SHAP values summed over the columns of each family, the largest mean magnitude first."""
    summed = values.T.groupby([stack.families[name] for name in values.columns]).sum().T
    return summed[summed.abs().mean().sort_values(ascending=False).index]


class LesionShap(NamedTuple):
    """SHAP values of one lesion by column, its groups with texts, and the log-odds of the average
    lesion.
    """

    values: pd.Series
    groups: list[ShapGroup]
    average: float


def explain_lesions(
    stack: Stack, inputs: Inputs, fold: int, isic_ids: list[str]
) -> dict[str, LesionShap]:
    """isic_id -> explanation of its out-of-fold score by the chain of `fold`, the fold of all
    `isic_ids`.
    """
    # Ranks within the patient need the patient's other lesions, percentiles the whole fold.
    index = np.flatnonzero(inputs.folds["fold"] == fold)
    features, patients = inputs.features.iloc[index], inputs.folds[PATIENT].iloc[index]
    logits = {name: values[index] for name, values in inputs.logits.items()}
    embeddings = {name: values[index] for name, values in inputs.embeddings.items()}

    columns = stack.columns(features, logits, fold, patients, embeddings)
    keep = np.flatnonzero(features[ID].isin(isic_ids))
    values, averages = shap_values(stack, columns, fold, features[ID], patients, logits, keep)
    return {
        str(isic_id): LesionShap(
            values.iloc[i],
            group_shap(stack, values.iloc[i], columns, patients, int(keep[i])),
            float(averages[i]),
        )
        for i, isic_id in enumerate(values.index)
    }
