"""What moved a lesion's score, in sentences: the stacker's SHAP values, summed up for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isic.core.params import Params
from isic.core.paths import Layout
from isic.core.schema import ID, PATIENT
from isic.report.failures import Reasons

#: Signs told per lesion, strongest first.
NAMED = 5


def reasons(layout: Layout, params: Params) -> Callable[[Sequence[str]], Reasons]:
    """A function from ids to a lookup of their sentences; every lesion is explained by the chain that scored it.

    Raises InputError when the stacker or its inputs are missing.
    """
    from isic.stack import Stack
    from isic.stack.inputs import read_inputs

    stack = Stack.load(layout.stack_model)
    inputs = read_inputs(layout.stack_files(stack.backbones, params.folds), stack.uses_embeddings)

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
    from isic.report.shap import contributions
    from isic.report.shap_text import signs

    part, patients = inputs.features.iloc[index], inputs.folds[PATIENT].iloc[index]
    logits = {name: values[index] for name, values in inputs.logits.items()}
    vectors = {name: values[index] for name, values in inputs.embeddings.items()}
    values = contributions(stack, part, logits, fold, patients, vectors, keep)
    columns = stack.columns(part, logits, fold, patients, vectors)
    return {
        str(isic_id): [
            {"text": str(sign)}
            for sign in signs(stack, values.iloc[number], columns, patients, int(keep[number]))[:NAMED]
        ]
        for number, isic_id in enumerate(values.index)
    }
