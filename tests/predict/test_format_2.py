"""A whole bundle stored by isic 0.1.0 (LightGBM and XGBoost, aligned embeddings) scores as it did
then.

`format_2/` holds the bundle, 40 lesions of 5 patients of generated data with their tiles, and the
scores by commit 59f9327: all chains, each chain, without images, and by the features-only stacker.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.io import read_json, write_json
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.predict.bundle import load_bundle
from isic.predict.manifest import identity
from isic.tabular import build_features

STORED = Path(__file__).parent / "format_2"


def test_a_stored_bundle_of_format_2_scores_as_it_did() -> None:
    pytest.importorskip("xgboost")
    bundle, tiles = load_bundle(STORED / "bundle"), TileStore(STORED / "tiles.hdf5")
    rows = read_metadata(STORED / "rows.csv", train=False)
    features = build_features(rows, list(bundle.manifest.families), older_ranks=True)
    bare = bundle.features_only
    assert bare is not None
    scores = {
        "all": bundle.predict(rows, tiles),
        "fold0": bundle.predict(rows, tiles, folds=[0]),
        "fold1": bundle.predict(rows, tiles, folds=[1]),
        "no_images": bundle.predict(rows, None, missing_images="impute"),
        "features_only": np.mean(
            [bare.score(features, {}, fold, rows["patient_id"]) for fold in bare.folds], axis=0
        ),
    }

    expected = pd.read_csv(STORED / "scores.csv", index_col="isic_id")

    assert list(scores["all"].index) == list(expected.index)
    np.testing.assert_allclose(pd.DataFrame(scores), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("section", ["evidence", "images"])
@pytest.mark.parametrize("mode", ["distance", "reduced"])
def test_a_bundle_of_a_removed_embedding_mode_names_its_last_reader(
    tmp_path: Path, section: str, mode: str
) -> None:
    folder = Path(shutil.copytree(STORED / "bundle", tmp_path / "bundle"))
    content = read_json(folder / "bundle.json")
    settings = content["params"]["stack"].pop("evidence")
    content["params"]["stack"][section] = settings | {"embeddings": mode}
    write_json(folder / "bundle.json", content | {"hash": identity(content)})

    with pytest.raises(
        InputError, match=f"embedding mode `{mode}`: isic 0.1.0 is the last"
    ) as refused:
        load_bundle(folder)

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("family", ["restated", "no_longer_here"])
def test_a_bundle_of_a_removed_family_names_its_last_reader(tmp_path: Path, family: str) -> None:
    folder = Path(shutil.copytree(STORED / "bundle", tmp_path / "bundle"))
    content = read_json(folder / "bundle.json")
    content["families"].append(family)
    write_json(folder / "bundle.json", content | {"hash": identity(content)})

    with pytest.raises(
        InputError, match=f"feature family `{family}`: isic 0.1.0 is the last"
    ) as refused:
        load_bundle(folder)

    assert "\n" not in str(refused.value)
