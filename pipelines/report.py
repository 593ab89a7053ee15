"""Stage `report`: one self-contained page about the run, and the model and data cards."""

import sys

from isic.core.errors import InputError, run
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.evaluate.results import read_results
from isic.report.build import ReportFiles, build_report
from isic.report.champion import Champion
from isic.report.reasons import score_reasons
from isic.stack.inputs import read_inputs
from isic.stack.model import Stack
from isic.tracking import parent
from isic.tracking.context import run_tags


def champion(layout: Layout, model: str) -> Champion | None:
    """Scores and parameters of the champion, None without one or when it cannot be read."""
    # Without a promotion there is no champion.
    if not layout.promotions.is_file():
        return None
    from isic.predict.bundle import load_bundle
    from isic.registry.versions import resolve

    try:
        bundle = load_bundle(resolve(f"models:/{model}@champion", layout.root))
    except InputError as error:
        sys.stderr.write(f"isic: note: the report has no comparison with the champion: {error}\n")
        return None
    manifest = bundle.manifest
    hashes = {"data_hash": manifest.data_hash, "folds_hash": manifest.folds_hash}
    return Champion(f"{model}@champion ({manifest.hash[:8]})", bundle.oof(), manifest.params, hashes)


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    backbones, folds = params.image.backbones, params.folds
    results = read_results(layout.oof, layout.train_metadata, layout.embeddings(backbones, folds))
    files = ReportFiles(
        metrics=layout.evaluate_metrics,
        plots=layout.plots,
        robustness=layout.evaluate_metrics.with_name("robustness.json"),
        families=layout.evaluate_metrics.with_name("features.json"),
        tiles=layout.train_images,
        models=layout.image_models(backbones, folds),
    )
    reasons = None
    if layout.stack_model.is_dir():
        stack = Stack.load(layout.stack_model)
        inputs = read_inputs(layout.stack_files(stack.backbones, folds), stack.uses_embeddings)
        reasons = score_reasons(stack, inputs)
    values = params.model_dump(mode="json", by_alias=True)
    current = champion(layout, params.register_.model)
    build_report(layout.report, results, files, values, run_tags(layout), reasons, current)

    with parent("stack", params.stack_config()) as tracker:
        for name in ("index.html", "model_card.md", "data_card.md"):
            tracker.artifact(layout.report.parent / name, "report")


if __name__ == "__main__":
    run(main)
