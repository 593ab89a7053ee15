"""Load CatBoost models in a process of its own, since a damaged one may end the process:
`python catboost_check.py COUNT MODEL… COLUMN…` prints a line a model, empty where it is one of these
columns.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import catboost
import numpy as np


def fault(path: str, columns: list[str]) -> str:
    """What is wrong with the model, "" if nothing is."""
    try:
        model = catboost.CatBoost().load_model(path)
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "model.json"
            model.save_model(str(copy), format="json")
            wrong = _fault(json.loads(copy.read_bytes()), columns)
        if wrong:
            return wrong
        rows = np.random.default_rng(0).normal(size=(64, len(columns))).astype(np.float32)
        rows[::3] = np.nan
        margins = model.predict(rows, prediction_type="RawFormulaVal", thread_count=1)
        data = catboost.Pool(rows, feature_names=columns, thread_count=1)
        shares = model.get_feature_importance(data, type="ShapValues", thread_count=1)
    except Exception as error:  # of the library, of many types
        return " ".join(str(error).split()) or type(error).__name__
    if not np.isfinite(margins).all() or not np.isfinite(shares).all():
        return "its scores are not finite"
    if shares.shape != (len(rows), len(columns) + 1) or margins.shape != (len(rows),):
        return "it has several classes"
    return ""


def _fault(content: dict[str, Any], columns: list[str]) -> str:
    info = content["features_info"]
    if [feature["feature_id"] for feature in info["float_features"]] != columns:
        return "it was trained on other columns"
    if info.keys() != {"float_features"} or "trees" in content:
        return "it splits by category or is not symmetric"
    for tree in content["oblivious_trees"]:
        leaves = tree["leaf_values"]
        if len(leaves) != 2 ** len(tree["splits"] or ()) or not all(map(math.isfinite, leaves)):
            return "it is no tree"
        for split in tree["splits"] or ():
            if not 0 <= split["float_feature_index"] < len(columns):
                return "it splits by a column that there is not"
    scale, (bias,) = content["scale_and_bias"]
    return "" if math.isfinite(scale) and math.isfinite(bias) else "its bias is not finite"


if __name__ == "__main__":
    end = 2 + int(sys.argv[1])
    for path in sys.argv[2:end]:
        sys.stdout.write(f"{fault(path, sys.argv[end:])[:300]}\n")
        sys.stdout.flush()
