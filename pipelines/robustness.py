"""Stage `robustness`: refit and score under other conditions, for the report and the run."""

from typing import Any

from isic.core.errors import run
from isic.core.io import write_json
from isic.core.params import Params, load_params
from isic.core.paths import Layout
from isic.data.tables import read_metadata
from isic.evaluate.results import RunResults, read_results
from isic.robustness.conditions import conditions
from isic.robustness.robustness import pooled_metrics
from isic.stack import Stack
from isic.stack.inputs import read_inputs
from isic.tracking import parent


def conditions_of(layout: Layout, params: Params, results: RunResults) -> dict[str, Any]:
    """Scores of a checkout's models under other conditions."""
    backbones, stack = params.image.backbones, Stack.load(layout.stack_model)
    folds, test = params.folds, layout.test_metadata
    return conditions(
        results,
        read_inputs(layout.stack_files(backbones, folds), stack.uses_embeddings),
        stack,
        layout.image_models(backbones, folds),
        layout.train_images,
        read_metadata(test, train=False) if test.is_file() else None,
        tta={backbone: params.image.recipe(backbone).tta for backbone in backbones},
        settings=params.stack,
        families=params.features.families,
        intervals=params.evaluate,
    )


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    embeddings = layout.embeddings(params.image.backbones, params.folds)
    results = read_results(layout.oof, layout.train_metadata, embeddings)
    content = conditions_of(layout, params, results)
    write_json(layout.robustness_metrics, content)
    with parent("stack", params.stack_config()) as tracker:
        tracker.metrics(pooled_metrics(content))
        tracker.artifact(layout.robustness_metrics)


if __name__ == "__main__":
    run(main)
