"""Stage `embed@B-F`: logits and embeddings of fold F's lesions, and embeddings of the anchors."""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isic.core.errors import InputError, run
from isic.core.io import atomic_file, read_parquet, write_parquet
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.core.schema import ID


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True, help="a key of image.backbones in params.yaml")
    parser.add_argument("--fold", required=True, type=int, help="the fold to embed")
    options = parser.parse_args()
    layout = Layout.find()
    folds = read_parquet(layout.folds, columns=[ID, "fold"])
    rows = folds.loc[folds["fold"] == options.fold, [ID]].reset_index(drop=True)
    if rows.empty:
        raise InputError(f"{layout.folds} has no fold {options.fold}: see `folds` in params.yaml")
    from isic.data.anchors import anchor_tiles
    from isic.data.tiles import TileStore
    from isic.image.network.artifact import load_model
    from isic.image.network.embed import embed, scoring_origin

    image = load_params(layout.params).image
    model = load_model(layout.image_model(options.backbone, options.fold))
    model = model._replace(tta=image.recipe(options.backbone).tta)
    scores = embed(model, TileStore(layout.train_images), rows[ID].tolist(), image.workers)
    tiles = anchor_tiles()
    anchors = embed(model, tiles, tiles.ids())
    target = layout.embedding(options.backbone, options.fold)
    _save(target.with_suffix(".npy"), scores.embeddings)
    _save(layout.anchors(options.backbone, options.fold), anchors.embeddings)
    write_parquet(target, rows.assign(logit=scores.logits), scoring_origin(model))


def _save(path: Path, values: NDArray[np.float16]) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, values)


if __name__ == "__main__":
    run(main)
