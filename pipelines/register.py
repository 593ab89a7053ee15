"""Stage `register`: build the bundle and register it in MLflow as the challenger."""

import sys
from typing import Any

from isic.core.errors import InputError, run
from isic.core.io import write_json
from isic.core.params import Params, load_params
from isic.core.paths import Layout
from isic.predict.build import build_bundle
from isic.predict.bundle import Bundle
from isic.registry.register import register, register_backbones
from isic.tracking.context import git


def bundle_of(layout: Layout, params: Params) -> Bundle:
    """Build the bundle of a checkout; see `build_bundle`."""
    files = layout.bundle_files(params.image.backbones, params.folds)
    tta = {backbone: params.image.recipe(backbone).tta for backbone in params.image.backbones}
    commit = git(layout.root, "rev-parse", "HEAD")
    return build_bundle(layout.bundle, files, tta, params.stack_config(), commit)


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    bundle = bundle_of(layout, params)
    name, manifest = params.register_.model, bundle.manifest
    content: dict[str, Any] = {"model": name, "version": None, "bundle_hash": manifest.hash}
    try:
        card = layout.promotion_files.card
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        version, reused = register(layout.root, bundle, name, text)
        content["version"] = version.number
        register_backbones(layout.root, bundle, version)
        state = "already has this bundle" if reused else "added"
        print(f"register: {version} {state}, now the challenger")
    except InputError as error:
        # The bundle is on disk and scores without MLflow, so an unavailable store does not fail the
        # stage.
        sys.stderr.write(f"isic: not registered: {error}; then `dvc repro -f -s register`\n")
    write_json(layout.register_metrics, content | {"pauc": manifest.metrics["pauc"]})


if __name__ == "__main__":
    run(main)
