"""`isic features measure`: what each feature family gains on this checkout's rows and folds, by the features alone."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from isic.core.errors import run
from isic.core.folds import read_folds
from isic.core.io import write_json
from isic.core.params import Params, load_params
from isic.core.paths import Layout
from isic.data.tables import read_metadata
from isic.evaluate.ablation import ablation_points, family_ablation
from isic.evaluate.figures import save_figure
from isic.evaluate.interval_figures import draw_families
from isic.stack.training_data import FITTED, build_training_data
from isic.tabular import build_features, feature_families
from isic.tabular.fitted import fitted_kinds
from isic.tuning.search import TrialEvaluator


def main() -> None:
    layout, say = Layout.find(), partial(print, flush=True)
    params = load_params(layout.params)
    frame = read_metadata(layout.train_metadata, train=True)
    found = judge(frame, read_folds(layout.folds, len(params.folds)), params, say)
    write_json(layout.evaluate_metrics.with_name("features.json"), found)
    picture = layout.report.with_name("features.svg")
    save_figure(draw_families({"families": ablation_points(found)}), picture)
    say(f"metrics/features.json, {picture.relative_to(layout.root)}; `dvc repro -s -f report` puts them into the page")


def judge(frame: pd.DataFrame, folds: pd.DataFrame, params: Params, say: Callable[[str], None]) -> dict[str, Any]:
    """The family report of the stacker's LightGBM members, without images, on these rows and folds."""
    stack, kinds = params.stack, tuple(fitted_kinds())
    alone = stack.images.model_copy(update={"embeddings": "none"})
    data = build_training_data(build_features(frame), {}, folds, alone, stack.params.max_bin, fitted=kinds)
    bench = TrialEvaluator(data, stack.seeds)
    families = [*feature_families(), *(f"{FITTED} {name}" for name in kinds)]
    used = [name for name in params.features.families if name not in stack.drop]
    used += [f"{FITTED} {name}" for name in stack.fitted]

    def score(names: Sequence[str]) -> ArrayLike:
        fitted = tuple(name for name in kinds if f"{FITTED} {name}" in names)
        drop = tuple(name for name in families if name not in names)
        return bench.out_of_fold(stack.model_copy(update={"drop": drop, "fitted": fitted}))

    say(f"{len(families)} families on {len(frame)} lesions, scored by LightGBM without images")
    replicates, seed = params.evaluate.replicates, params.evaluate.seed
    return family_ablation(score, data.folds, families, used, ["raw"], replicates, seed, say)


if __name__ == "__main__":
    run(main)
