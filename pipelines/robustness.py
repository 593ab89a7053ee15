"""Stage `robustness`: refit and score under other conditions, for the report and the run."""

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


def conditions_of(layout: Layout, params: Params, results: RunResults) -> dict[str, object]:
    """Scores of a checkout's models under other conditions."""
    backbones, folds = params.image.backbones, params.folds
    stack, test = Stack.load(layout.stack_model), layout.test_metadata
    files = layout.stack_files(backbones, folds)
    return conditions(
        results,
        read_inputs(files, stack.uses_embeddings, params.stack.thinned),
        stack,
        layout.image_models(backbones, folds),
        layout.train_images,
        read_metadata(test, train=False) if test.is_file() else None,
        tta={name: params.image.recipe(name).tta for name in backbones},
        settings=params.stack,
        families=params.features.families,
        intervals=params.evaluate,
    )


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    logits = layout.embeddings(params.image.backbones, params.folds)
    results = read_results(layout.oof, layout.train_metadata, logits)
    content = conditions_of(layout, params, results)
    write_json(layout.robustness_metrics, content)
    with parent("stack", params.stack_config()) as tracker:
        tracker.metrics(pooled_metrics(content))
        tracker.artifact(layout.robustness_metrics)


if __name__ == "__main__":
    run(main)
