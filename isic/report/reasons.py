"""What moved a lesion's score, in sentences: the stacker's SHAP values, summed up for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.params import Params
from isic.core.paths import Layout
from isic.core.schema import ID, PATIENT
from isic.report.failures import Reasons

#: Columns named per lesion, strongest first.
NAMED = 5


def reasons(layout: Layout, params: Params) -> Callable[[Sequence[str]], Reasons]:
    """A function from ids to a lookup of their sentences; every lesion is explained by the chain that scored it.

    Raises InputError when the stacker or its inputs are missing.
    """
    from isic.stack import Stack
    from isic.stack.inputs import read_inputs

    stack = Stack.load(layout.stack_model)
    inputs = read_inputs(layout, params.folds, stack.backbones, stack.uses_embeddings)

    def look_up(ids: Sequence[str]) -> Reasons:
        found: dict[str, list[dict[str, Any]]] = {}
        place = np.flatnonzero(inputs.features[ID].isin(list(ids)))
        folds = inputs.folds["fold"].to_numpy()
        for fold in np.unique(folds[place]):
            # Ranks within the patient need the patient's other lesions, percentiles the whole fold.
            index = np.flatnonzero(folds == fold)
            found |= _explain(stack, inputs, int(fold), index, np.flatnonzero(np.isin(index, place)))
        return lambda isic_id: found.get(isic_id, [])

    return look_up


def _explain(
    stack: Any, inputs: Any, fold: int, index: NDArray[np.int64], keep: NDArray[np.int64]
) -> dict[str, list[dict[str, Any]]]:
    from isic.stack.explain import contributions

    part, patients = inputs.features.iloc[index], inputs.folds[PATIENT].iloc[index]
    logits = {name: values[index] for name, values in inputs.logits.items()}
    vectors = {name: values[index] for name, values in inputs.embeddings.items()}
    values = contributions(stack, part, logits, fold, patients, vectors, keep)
    columns = stack.columns(part, logits, fold, patients, vectors)
    return {
        str(isic_id): [{"text": text} for text in sentences(values.iloc[number], columns, int(keep[number]))]
        for number, isic_id in enumerate(values.index)
    }


def sentences(values: pd.Series, columns: Any, place: int) -> list[str]:
    """The strongest columns of one lesion: direction, size as a factor of the odds, and where its value stands."""
    strongest = values.reindex(values.abs().sort_values(ascending=False).index).iloc[:NAMED]
    return [_sentence(str(name), float(value), np.asarray(columns[name]), place) for name, value in strongest.items()]


def _sentence(name: str, value: float, column: NDArray[np.float32], place: int) -> str:
    verb = "raised" if value > 0 else "lowered"
    factor = np.exp(abs(value))
    head = f"{_readable(name)} {verb} the odds by a factor of {factor:.2f}"
    own = float(column[place])
    if np.isnan(own):
        return f"{head} (value missing)"
    below = float(np.mean(column[~np.isnan(column)] < own))
    return f"{head} (value {own:.3g}, above {100 * below:.0f} % of lesions)"


def _readable(name: str) -> str:
    return name.replace("tbp_lv_", "").replace("_", " ")
