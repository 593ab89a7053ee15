"""Reading the stage's inputs: rows are matched by id, and logits of other lesions raise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.io import write_parquet
from isic.core.paths import Layout
from isic.stack.inputs import read_anchors, read_features, read_inputs
from tests.stack.population import Population, make


@pytest.fixture
def written(tmp_path: Path) -> tuple[Layout, Population]:
    layout, people = Layout(tmp_path), make(lesions=120, positives=12)
    write_parquet(layout.features, people.features)
    write_parquet(layout.folds, people.folds.sample(frac=1, random_state=0))
    for name, logits in people.logits.items():
        for fold, part in people.folds.groupby("fold"):
            frame = pd.DataFrame({"isic_id": part["isic_id"], "logit": logits[part.index]})
            mixed = frame.sample(frac=1, random_state=1)
            path = layout.embedding(name, int(str(fold)))
            write_parquet(path, mixed)
            np.save(
                layout.anchors(name, int(str(fold))), np.full((7, 4), int(str(fold)), np.float16)
            )
            np.save(
                path.with_suffix(".npy"),
                np.repeat(mixed[["logit"]].to_numpy(np.float16), 4, axis=1),
            )
    return layout, people


def test_rows_are_matched_by_id(written: tuple[Layout, Population]) -> None:
    layout, people = written
    features, logits, folds, embeddings, thinned = read_inputs(
        layout.stack_files(("vit", "convnext"), (0, 1, 2)), embeddings=True
    )
    assert thinned is None
    pd.testing.assert_frame_equal(folds, people.folds, check_dtype=False)
    assert (features["isic_id"] == people.features["isic_id"]).all()
    for name, values in people.logits.items():
        np.testing.assert_array_equal(logits[name], values)
        np.testing.assert_array_equal(embeddings[name][:, 0], values.astype(np.float16))


def test_thinned_features_are_those_of_the_same_lesions(
    written: tuple[Layout, Population],
) -> None:
    layout, people = written
    files = layout.stack_files(("vit", "convnext"), (0, 1, 2))
    with pytest.raises(InputError, match="dvc repro features"):
        read_inputs(files, embeddings=False, thinned=True)
    write_parquet(files.thinned, people.features)
    thinned = read_inputs(files, embeddings=False, thinned=True).thinned
    assert thinned is not None
    assert (thinned["isic_id"] == people.features["isic_id"]).all()
    write_parquet(files.thinned, people.features.iloc[::-1])
    with pytest.raises(InputError, match="does not hold the lesions"):
        read_inputs(files, embeddings=False, thinned=True)


def test_logits_of_other_lesions_are_refused(written: tuple[Layout, Population]) -> None:
    layout, _ = written
    path = layout.embedding("vit", 1)
    write_parquet(path, pd.read_parquet(path).iloc[1:])
    with pytest.raises(InputError, match="embed@vit-1"):
        read_inputs(layout.stack_files(("vit", "convnext"), (0, 1, 2)), embeddings=False)
    path.unlink()
    with pytest.raises(InputError, match="not found"):
        read_inputs(layout.stack_files(("vit", "convnext"), (0, 1, 2)), embeddings=False)


def test_features_read_by_column_are_those_written(written: tuple[Layout, Population]) -> None:
    layout, people = written
    read = read_features(layout.features)
    assert read["site"].dtype == "category"
    pd.testing.assert_frame_equal(read.astype({"site": "str"}), people.features)
    layout.features.write_bytes(layout.features.read_bytes()[:-40])
    with pytest.raises(InputError, match="parquet"):
        read_features(layout.features)


def test_missing_embeddings_say_which_stage_makes_them(written: tuple[Layout, Population]) -> None:
    layout, _ = written
    layout.embedding("convnext", 2).with_suffix(".npy").unlink()
    with pytest.raises(InputError, match="embed@convnext-2"):
        read_inputs(layout.stack_files(("vit", "convnext"), (0, 1, 2)), embeddings=True)


def test_anchors_are_read_by_fold_and_their_absence_says_which_stage_makes_them(
    written: tuple[Layout, Population],
) -> None:
    layout, _ = written
    found = read_anchors(layout.embeddings(("vit", "convnext"), (0, 1, 2)))
    assert found["vit"][2].tolist() == [[2.0] * 4] * 7
    np.save(layout.anchors("vit", 1), np.zeros((6, 4), np.float16))
    with pytest.raises(InputError, match="differ in shape"):
        read_anchors(layout.embeddings(("vit",), (0, 1, 2)))
    layout.anchors("vit", 1).unlink()
    with pytest.raises(InputError, match="embed@vit-1"):
        read_anchors(layout.embeddings(("vit",), (0, 1, 2)))
