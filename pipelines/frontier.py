"""`isic frontier`: pAUC against parameters, GFLOPs, time and size of every registered version and
fold network.
"""

import time
from typing import Any

import pandas as pd

from isic.core.errors import InputError, run
from isic.core.io import read_json, write_json
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.core.schema import PATIENT
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.evaluate.figures import save_figure
from isic.evaluate.model_figures import COSTS, draw_frontier
from isic.image.cost import network_cost
from isic.predict.bundle import Bundle, load_bundle
from isic.registry.source import fold_models
from isic.registry.versions import Registry, Version
from isic.tracking import open_run

#: Lesions that a version scores to be timed, at least: those of whole patients.
_LESIONS = 64


def main() -> None:
    layout = Layout.find()
    model = load_params(layout.params).register_.model
    registry = Registry(layout.root)
    rows, tiles = timed_rows(read_metadata(layout.train_metadata, train=True)), layout.train_images
    path = layout.frontier
    known = {row["hash"]: row for row in read_json(path)["records"]} if path.is_file() else {}

    records: dict[str, dict[str, Any]] = {}
    for version in registry.versions(model):
        try:
            bundle = load_bundle(registry.folder(version))
            networks = network_records(registry, bundle, known)
            records |= {row["hash"]: row for row in networks}
            records[bundle.manifest.hash] = known.get(bundle.manifest.hash) or version_record(
                version, bundle, networks, rows, TileStore(tiles)
            )
        except InputError as error:
            print(f"{version} is left out: {error}", flush=True)
    if not records:
        raise InputError(f"{model} has no version yet: run `dvc repro`")

    found = list(records.values())
    write_json(path, {"records": found})
    figure = layout.report.with_name("frontier.svg")
    save_figure(draw_frontier({"frontier": found}), figure)
    print(pd.DataFrame(found)[["kind", "name", "pauc", *COSTS]].to_string(index=False))
    with open_run(
        "frontier", {"versions": [str(v) for v in registry.versions(model)]}, "frontier"
    ) as r:
        r.artifact(path)
        r.artifact(figure)


def timed_rows(table: pd.DataFrame) -> pd.DataFrame:
    """All lesions of the first patients that together have at least _LESIONS."""
    counts = table.groupby(PATIENT, sort=False).size().cumsum()
    chosen = counts.index[: int((counts < _LESIONS).sum()) + 1]
    return table[table[PATIENT].isin(chosen)].reset_index(drop=True)


def network_records(
    registry: Registry, bundle: Bundle, known: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Cost of every fold network in a bundle, and the pAUC of its own fold as MLflow has it."""
    records = []
    for backbone in bundle.manifest.backbones:
        scores = {
            model.name: next((m.value for m in model.metrics if m.key == "pauc"), None)
            for model in fold_models(registry.client, bundle, backbone)
        }
        for fold in bundle.manifest.folds:
            name, folder = f"{backbone}-{fold}", f"image/{backbone}/fold{fold}"
            digest = bundle.manifest.files[f"{folder}/model.safetensors"]
            cost = known.get(digest) or network_cost(bundle.folder / folder)
            row = {"kind": "network", "name": name, "hash": digest, "pauc": scores.get(name)}
            records.append(row | {key: cost[key] for key in COSTS})
    return records


def version_record(
    version: Version,
    bundle: Bundle,
    networks: list[dict[str, Any]],
    rows: pd.DataFrame,
    tiles: TileStore,
) -> dict[str, Any]:
    """Cost of a version: all its networks together, the time of whole scoring, all its files."""
    start = time.perf_counter()
    bundle.predict(rows, tiles, missing_images="impute")
    seconds = time.perf_counter() - start
    files = [file.stat().st_size for file in bundle.folder.rglob("*") if file.is_file()]
    return {
        "kind": "version",
        "name": f"{version.name}/{version.number}",
        "hash": bundle.manifest.hash,
        "pauc": bundle.manifest.metrics["pauc"],
        "parameters": sum(row["parameters"] for row in networks),
        "gflops": sum(row["gflops"] for row in networks),
        "milliseconds": 1000 * seconds / len(rows),
        "megabytes": sum(files) / 2**20,
    }


if __name__ == "__main__":
    run(main)
