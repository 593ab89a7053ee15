"""Stage `embed@B-F`: logits and embeddings of fold F's lesions by the network that never saw them."""

import argparse

import numpy as np

from isic.core.errors import run
from isic.core.io import atomic_file, read_parquet, write_parquet
from isic.core.paths import Layout
from isic.core.schema import ID


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True, help="a key of image.backbones in params.yaml")
    parser.add_argument("--fold", required=True, type=int, help="the fold to describe")
    wanted = parser.parse_args()
    layout = Layout.find()
    folds = read_parquet(layout.folds, columns=[ID, "fold"])
    rows = folds.loc[folds["fold"] == wanted.fold, [ID]].reset_index(drop=True)

    from isic.data.tiles import TileStore
    from isic.image.embed import embed

    said = embed(layout.image_model(wanted.backbone, wanted.fold), TileStore(layout.train_images), rows[ID].tolist())
    target = layout.embedding(wanted.backbone, wanted.fold)
    with atomic_file(target.with_suffix(".npy")) as temporary, temporary.open("wb") as stream:
        np.save(stream, said.embeddings)
    write_parquet(target, rows.assign(logit=said.logits))


if __name__ == "__main__":
    run(main)
