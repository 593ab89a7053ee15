"""Stage `report`: one self-contained page about the run, and the model and data cards."""

from isic.core.errors import run
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.evaluate.results import read_results
from isic.registry.champion import read_champion
from isic.report.build import build_report, page_identity
from isic.report.champion import Champion
from isic.report.reasons import score_reasons
from isic.stack.inputs import read_inputs
from isic.stack.model import Stack
from isic.tracking import parent
from isic.tracking.context import run_tags


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    backbones, folds = params.image.backbones, params.folds
    results = read_results(layout.oof, layout.train_metadata, layout.embeddings(backbones, folds))
    files = layout.report_files(backbones, folds)
    reasons = None
    if layout.stack_model.is_dir():
        stack = Stack.load(layout.stack_model)
        inputs = read_inputs(layout.stack_files(stack.backbones, folds), stack.uses_embeddings)
        reasons = score_reasons(stack, inputs)
    values = params.model_dump(mode="json", by_alias=True)
    model = params.register_.model
    bundle = read_champion(layout.root, layout.promotions, model)
    champion = None
    if bundle:
        manifest = bundle.manifest
        hashes = {"data_hash": manifest.data_hash, "folds_hash": manifest.folds_hash}
        champion = Champion(
            f"{model}@champion ({manifest.hash[:8]})", bundle.oof(), manifest.params, hashes
        )
    provenance = run_tags(layout.root) | page_identity(params.stack_config())
    build_report(layout.report, results, files, values, provenance, reasons, champion)

    with parent("stack", params.stack_config()) as tracker:
        for name in ("index.html", "model_card.md", "data_card.md"):
            tracker.artifact(layout.report.parent / name, "report")


if __name__ == "__main__":
    run(main)
