"""Stage `robustness`: refit and rescore under other conditions, for the report and the stack's run."""

from isic.core.errors import run
from isic.core.io import write_json
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.data.tables import read_metadata
from isic.evaluate.results import read_results
from isic.robustness.conditions import conditions
from isic.robustness.robustness import pooled_metrics
from isic.stack import Stack
from isic.stack.inputs import read_inputs
from isic.tracking import parent


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    results = read_results(
        layout.oof, layout.train_metadata, layout.embeddings(params.image.backbones, params.folds)
    )
    stack = Stack.load(layout.stack_model)
    inputs = read_inputs(
        layout.stack_files(params.image.backbones, params.folds), stack.uses_embeddings
    )
    networks = layout.image_models(params.image.backbones, params.folds)
    test = (
        read_metadata(layout.test_metadata, train=False) if layout.test_metadata.is_file() else None
    )
    found = conditions(results, inputs, stack, networks, layout.train_images, test, params)
    path = layout.root / "metrics" / "robustness.json"
    write_json(path, found)
    with parent("stack", params.stack_config()) as tracker:
        tracker.metrics(pooled_metrics(found))
        tracker.artifact(path)


if __name__ == "__main__":
    run(main)
