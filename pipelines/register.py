"""Stage `register`: build the bundle and register it in MLflow as the challenger."""

import sys

from isic.core.errors import InputError, run
from isic.core.io import write_json
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.predict.build import build_bundle
from isic.registry.register import register, register_backbones


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    bundle = build_bundle(layout, params)
    name = params.register_.model
    version_number = None
    try:
        card = layout.report.with_name("model_card.md")
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        version, reused = register(layout.root, bundle, name, text)
        version_number = version.number
        register_backbones(layout.root, bundle)
        print(
            f"register: {version} {'is this bundle already' if reused else 'added'}, now the"
            " challenger"
        )
    except InputError as error:
        # The bundle is on disk and scores without MLflow: a store that is down does not fail the
        # stage.
        sys.stderr.write(f"isic: not registered: {error}; then `dvc repro -f -s register`\n")
    manifest = bundle.manifest
    write_json(
        layout.register_metrics,
        {
            "model": name,
            "version": version_number,
            "bundle_hash": manifest.hash,
            "pauc": manifest.metrics["pauc"],
        },
    )


if __name__ == "__main__":
    run(main)
