"""Stage `report`: one self-contained page about the run, and the model and data cards."""

import sys

from isic.core.errors import InputError, run
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.evaluate.results import read_results
from isic.report.build import build
from isic.report.champion import Champion
from isic.report.reasons import reasons
from isic.tracking import parent
from isic.tracking.context import run_tags


def champion(layout: Layout, model: str) -> Champion | None:
    """The champion's scores and parameters; None if there is none or it cannot be read."""
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
    results = read_results(layout.oof, layout.train_metadata, layout.embeddings(params.image.backbones, params.folds))
    values = params.model_dump(mode="json", by_alias=True)
    lesion_reasons = reasons(layout, params) if layout.stack_model.is_dir() else None
    build(layout, results, values, run_tags(layout), lesion_reasons, champion(layout, params.register_.model))
    with parent("stack", params.stack_config()) as tracker:
        for name in ("index.html", "model_card.md", "data_card.md"):
            tracker.artifact(layout.report.parent / name, "report")


if __name__ == "__main__":
    run(main)
