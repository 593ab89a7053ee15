"""SHAP values of the stacker by column and by feature family.

SHAP values are log-odds that add up to the score. With several libraries, their values are averaged
with the weights of the blend; the blend combines ranks, so the sum is then approximate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import ID, PATIENT
from isic.report.shap_text import ShapGroup, group_shap
from isic.stack.encoder import Columns, rows
from isic.stack.inputs import Inputs
from isic.stack.members import library
from isic.stack.model import Stack


def shap_values(
    stack: Stack, columns: Columns, fold: int, ids: pd.Series, keep: NDArray[np.int64]
) -> pd.DataFrame:
    """SHAP values in log-odds, one row per lesion of `keep`, one column per stacker column.

    `columns` are those of chain `fold`, `ids` names their rows. Attribute `attrs["average"]` is the
    log-odds of the average lesion, to which each row's values add.
    """
    matrix = rows(columns, keep)
    chain = stack.chain(fold)

    total = np.zeros((len(keep), len(stack.names) + 1))
    for name, models in chain.members.items():
        member = library(name)
        values = [member.contributions(model, matrix) for model in models]
        total += chain.blend.weights[name] * np.mean(values, axis=0)

    table = pd.DataFrame(total[:, :-1], columns=list(stack.names), index=ids.iloc[keep])
    table.attrs["average"] = float(total[:, -1].mean()) + chain.offset
    return table


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
    values = shap_values(stack, columns, fold, features[ID], keep)
    return {
        str(isic_id): LesionShap(
            values.iloc[i],
            group_shap(stack, values.iloc[i], columns, patients, int(keep[i])),
            values.attrs["average"],
        )
        for i, isic_id in enumerate(values.index)
    }
