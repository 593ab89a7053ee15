"""Why a score is what it is: gain in training, and each lesion's SHAP values, by column and by feature family.

SHAP values are log-odds that add up to the score, so that "raised by half" and "twice as likely" mean something. With
several libraries, each one's values are averaged with the blend's weights; the blend ranks first, so the sum is then
approximate.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from isic.core.errors import InputError
from isic.core.io import read_parquet
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.core.schema import ID, PATIENT
from isic.report.shap_text import Sign, signs
from isic.stack.encoder import rows
from isic.stack.image_columns import Embeddings
from isic.stack.inputs import read_inputs
from isic.stack.members import library
from isic.stack.model import Stack

#: Log-odds below which a sign is not worth a line (2 % of the odds).
_SMALL = 0.02


def gain(stack: Stack) -> pd.DataFrame:
    """column, family, gain: share of all gain in training, mean over every member, highest first."""
    shares = []
    for chain in stack.chains.values():
        for name, models in chain.members.items():
            for model in models:
                raw = library(name).gain(model, stack.names)
                shares.append(raw / max(raw.sum(), 1e-12))
    table = pd.DataFrame(
        {"column": stack.names, "family": list(stack.families.values()), "gain": np.mean(shares, axis=0)}
    )
    return table.sort_values("gain", ascending=False, ignore_index=True)


def contributions(
    stack: Stack,
    features: pd.DataFrame,
    logits: Mapping[str, ArrayLike],
    fold: int,
    patients: ArrayLike,
    embeddings: Embeddings | None = None,
    keep: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """SHAP values in log-odds, one row per lesion of `keep` (all), one column per stacker column; arguments as `score`.

    Attribute `attrs["average"]` is the log-odds of the average lesion, to which each row's values add.
    """
    columns = stack.columns(features, logits, fold, patients, embeddings)
    chosen = np.arange(len(features)) if keep is None else keep
    matrix = rows(columns, chosen)
    chain = stack.chain(fold)
    total = np.zeros((len(chosen), len(stack.names) + 1))
    for name, models in chain.members.items():
        home = library(name)
        total += chain.blend.weights[name] * np.mean([home.contributions(model, matrix) for model in models], axis=0)
    table = pd.DataFrame(total[:, :-1], columns=list(stack.names), index=features[ID].iloc[chosen])
    table.attrs["average"] = float(total[:, -1].mean()) + chain.offset
    return table


def by_family(stack: Stack, values: pd.DataFrame) -> pd.DataFrame:
    """Contributions summed over the columns of each family."""
    summed = values.T.groupby([stack.families[name] for name in values.columns]).sum().T
    return summed[summed.abs().mean().sort_values(ascending=False).index]


def explain(layout: Layout, isic_id: str) -> str:
    """What raised and lowered the out-of-fold score of a training lesion, in sentences.

    Raises InputError when the lesion is unknown or the stacker has not been fitted.
    """
    params = load_params(layout.params)
    stack = Stack.load(layout.stack_model)
    inputs = read_inputs(layout.stack_files(stack.backbones, params.folds), stack.uses_embeddings)
    place = np.flatnonzero(inputs.features[ID] == isic_id)
    if not len(place):
        raise InputError(f"no lesion {isic_id} in {layout.features}: give an isic_id of the training table")
    lesion = inputs.folds.iloc[place[0]]
    scores = read_parquet(layout.oof, columns=[ID, PATIENT, "score"]).set_index(ID)
    # Ranks within the patient need the patient's other lesions, comparisons the whole fold.
    index = np.flatnonzero(inputs.folds["fold"] == lesion["fold"])
    patients = inputs.folds[PATIENT].iloc[index]
    given = (
        inputs.features.iloc[index],
        {name: values[index] for name, values in inputs.logits.items()},
        int(lesion["fold"]),
        patients,
        {name: values[index] for name, values in inputs.embeddings.items()},
    )
    mine = np.flatnonzero(index == place[0])
    values = contributions(stack, *given, mine)
    told = signs(stack, values.iloc[0], stack.columns(*given), patients, int(mine[0]))
    start, moved = float(expit(values.attrs["average"])), float(values.iloc[0].sum())
    families = _families(by_family(stack, values).iloc[0])
    return "\n".join([_head(isic_id, lesion, scores), *_two_lists(told), *families, _sum(start, moved)])


def _head(isic_id: str, lesion: pd.Series, scores: pd.DataFrame) -> str:
    own = float(scores["score"][isic_id])
    everyone, patient = scores["score"], scores.loc[scores[PATIENT] == lesion[PATIENT], "score"]
    return (
        f"{isic_id} of patient {lesion[PATIENT]}: score {own:.4f}, number {int((everyone > own).sum()) + 1:,} of all "
        f"{len(everyone):,} lesions and number {int((patient > own).sum()) + 1} of the patient's {len(patient)} "
        "(1 is the most suspicious)"
    )


def _two_lists(told: list[Sign]) -> list[str]:
    lines = []
    for title, part in (
        ("Raised by", [sign for sign in told if sign.log_odds > _SMALL]),
        ("Lowered by", [sign for sign in told if sign.log_odds < -_SMALL]),
    ):
        lines += [f"{title}:", *(f"  {sign}" for sign in part)] if part else [f"{title}: nothing of weight"]
    return lines


def _families(summed: pd.Series) -> list[str]:
    heavy = [f"{family} × {np.exp(moved):.2f}" for family, moved in summed.items() if abs(moved) > _SMALL]
    return [f"By family of columns, odds: {', '.join(heavy)}"] if heavy else []


def _sum(start: float, moved: float) -> str:
    factor = np.exp(moved)
    times = f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"
    return f"Together: the average lesion's odds, 1 in {1 / start:,.0f}, × {times}"
