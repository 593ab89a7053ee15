"""`isic features measure`: the gain of each feature family on this checkout's rows and folds,
without images.
"""

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
from isic.tabular.fitted import fitted_families
from isic.tabular.thinning import thin_patients
from isic.tuning.search import TrialEvaluator


def main() -> None:
    layout, log = Layout.find(), partial(print, flush=True)
    params = load_params(layout.params)
    frame = read_metadata(layout.train_metadata, train=True)
    ablation = measure_families(frame, read_folds(layout.folds, len(params.folds)), params, log)
    write_json(layout.evaluate_metrics.with_name("features.json"), ablation)
    figure = layout.report.with_name("features.svg")
    save_figure(draw_families({"families": ablation_points(ablation)}), figure)
    log(
        f"metrics/features.json, {figure.relative_to(layout.root)}; `dvc repro -s -f report` adds"
        " them to the page"
    )


def measure_families(
    frame: pd.DataFrame, folds: pd.DataFrame, params: Params, log: Callable[[str], None]
) -> dict[str, Any]:
    """The ablation of the feature families with the stacker's LightGBM members, without images."""
    stack, fitted_names = params.stack, tuple(fitted_families())
    no_images = stack.images.model_copy(update={"embeddings": "none"})
    data = build_training_data(
        build_features(frame),
        {},
        folds,
        no_images,
        stack.params.max_bin,
        fitted=fitted_names,
        thinned=build_features(thin_patients(frame)) if stack.thinned else None,
    )
    evaluator = TrialEvaluator(data, stack.seeds)
    families = [*feature_families(), *(f"{FITTED} {name}" for name in fitted_names)]
    used = [name for name in params.features.families if name not in stack.drop]
    used += [f"{FITTED} {name}" for name in stack.fitted]

    def score(names: Sequence[str]) -> ArrayLike:
        fitted = tuple(name for name in fitted_names if f"{FITTED} {name}" in names)
        drop = tuple(name for name in families if name not in names)
        return evaluator.out_of_fold(stack.model_copy(update={"drop": drop, "fitted": fitted}))

    log(f"{len(families)} families on {len(frame)} lesions, scored by LightGBM without images")
    replicates, seed = params.evaluate.replicates, params.evaluate.seed
    return family_ablation(score, data.folds, families, used, ["raw"], replicates, seed, log)


if __name__ == "__main__":
    run(main)
