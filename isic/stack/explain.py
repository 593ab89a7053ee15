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

from isic.core.errors import InputError
from isic.core.io import read_parquet
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.core.schema import ID, PATIENT
from isic.stack.design import Columns, rows
from isic.stack.evidence import Embeddings
from isic.stack.inputs import read_inputs
from isic.stack.members import library
from isic.stack.model import Stack
from isic.stack.problem import IMAGE_FAMILY
from isic.tabular import feature_families

#: Parts of a lesion's explanation that are told, in each direction.
_TOLD = 5
#: Log-odds below which a part is not worth a line (2 % of the odds).
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
    inputs = read_inputs(layout, params.folds, stack.backbones, stack.uses_embeddings)
    place = np.flatnonzero(inputs.features[ID] == isic_id)
    if not len(place):
        raise InputError(f"no lesion {isic_id} in {layout.features}: give an isic_id of the training table")
    lesion = inputs.folds.iloc[place[0]]
    score = read_parquet(layout.oof).set_index(ID)["score"]
    # Ranks within the patient need the patient's other lesions, percentiles the whole fold.
    fold = int(lesion["fold"])
    index = np.flatnonzero(inputs.folds["fold"] == fold)
    part = inputs.features.iloc[index]
    logits = {name: values[index] for name, values in inputs.logits.items()}
    vectors = {name: values[index] for name, values in inputs.embeddings.items()}
    patients = inputs.folds[PATIENT].iloc[index]
    mine = np.flatnonzero(index == place[0])
    values = contributions(stack, part, logits, fold, patients, vectors, mine).iloc[0]
    columns = stack.columns(part, logits, fold, patients, vectors)
    others = int((patients == lesion[PATIENT]).sum()) - 1
    head = (
        f"{isic_id}, patient {lesion[PATIENT]} ({others} other lesions), fold {fold}: score {score[isic_id]:.4f}, "
        f"higher than {100 * (score < score[isic_id]).mean():.1f} % of all lesions"
    )
    return "\n".join([head, *_sentences(stack, values, columns, int(mine[0]))])


def _sentences(stack: Stack, values: pd.Series, columns: Columns, place: int) -> list[str]:
    lines = []
    for title, part in (
        ("Raised by", values[values > _SMALL].sort_values(ascending=False)),
        ("Lowered by", values[values < -_SMALL].sort_values()),
    ):
        lines.append(f"{title}:")
        lines += [
            f"  {_sentence(stack, name, value, columns[name], place)}" for name, value in part.iloc[:_TOLD].items()
        ]
        rest = part.iloc[_TOLD:].sum()
        if rest:
            lines.append(f"  {_times(rest)} {len(part) - _TOLD} smaller signs together")
    return lines


def _sentence(stack: Stack, name: object, value: float, column: NDArray[np.float32], place: int) -> str:
    column_name, own = str(name), float(column[place])
    what = _meaning(stack, column_name)
    if np.isnan(own):
        return f"{_times(value)} {what}: not recorded"
    if set(np.unique(column[~np.isnan(column)])) <= {0.0, 1.0}:
        return f"{_times(value)} {what}: {'yes' if own else 'no'}"
    share = 100 * float((column < own).mean())
    return f"{_times(value)} {what}: {own:.3g}, higher than {share:.0f} % of lesions"


def _times(value: float) -> str:
    return f"odds × {np.exp(value):.2f} "


def _meaning(stack: Stack, column: str) -> str:
    if stack.families[column] == IMAGE_FAMILY:
        return _image_meaning(column)
    source = stack.design.sources()[column]
    known = {feature.name: feature.meaning for family in feature_families().values() for feature in family.features}
    what = known.get(source, source.replace("_", " "))
    level = stack.design.level(column)
    return f"{what} is {level}" if level is not None else what


def _image_meaning(column: str) -> str:
    endings = {
        "_rank": "image score, rank among the patient's lesions",
        "_ratio": "image score as a multiple of the patient's mean",
        "_above": "image score above the patient's mean",
        "_far_rank": "picture's difference from the patient's others, rank",
        "_far": "picture's difference from the patient's other lesions",
        "_apart": "picture's direction away from the patient's other lesions",
    }
    stem = column.removeprefix("image_")
    for ending, meaning in sorted(endings.items(), key=lambda item: -len(item[0])):
        if stem.endswith(ending):
            return f"{meaning} ({stem.removesuffix(ending).replace('all', 'all networks')})"
    return f"image score ({stem.replace('all', 'all networks')})"
