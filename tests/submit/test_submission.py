"""From the champion or a bundle to a valid submission, or to a one-line error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.params import Params, load_params
from isic.core.paths import Layout
from isic.core.presets import write_overlay
from isic.core.schema import TEST_COLUMNS, TRAIN_COLUMNS
from isic.data.sample import write_sample
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.predict.bundle import Bundle
from isic.predict.files import LONG, predict
from isic.registry.register import register
from isic.submit.submission import check_submission
from pipelines.register import bundle_of
from tests.commands import make_submission, promote, rollback
from tests.registry.conftest import fit_stacker


@pytest.fixture
def bundle(layout: Layout, params: Params) -> Bundle:
    return bundle_of(layout, params)


def test_a_submission_has_the_sample_submissions_rows_in_its_order(
    layout: Layout, bundle: Bundle
) -> None:
    sample = pd.read_csv(layout.sample_submission)
    shuffled = sample.sample(frac=1, random_state=1)
    layout.sample_submission.unlink()
    shuffled.to_csv(layout.sample_submission, index=False)
    make_submission(layout, str(bundle.folder))
    written = pd.read_csv(layout.submission)
    assert written.columns.tolist() == ["isic_id", "target"]
    assert written["isic_id"].tolist() == shuffled["isic_id"].tolist()
    assert written["target"].between(0, 1).all()


def test_the_same_bundle_gives_the_same_bytes(layout: Layout, bundle: Bundle) -> None:
    make_submission(layout, str(bundle.folder))
    first = layout.submission.read_bytes()
    make_submission(layout, str(bundle.folder))
    assert layout.submission.read_bytes() == first


def test_predict_writes_what_the_submission_holds(
    layout: Layout, bundle: Bundle, tmp_path: Path
) -> None:
    made = make_submission(layout, str(bundle.folder)).set_index("isic_id")["target"]
    out = tmp_path / "scores.csv"
    predict(bundle.folder, layout.test_metadata, layout.raw / "test-image.hdf5", out)
    scores = pd.read_csv(out, index_col="isic_id")["target"]
    np.testing.assert_allclose(scores, made.loc[scores.index], rtol=1e-12)


def test_a_training_table_is_scored_without_its_answers(
    layout: Layout, bundle: Bundle, tmp_path: Path
) -> None:
    table = pd.read_csv(layout.train_metadata, low_memory=False)
    one = table[table["patient_id"] == table["patient_id"].iloc[0]]
    for name, answers in (("true", one["target"]), ("false", 1 - one["target"])):
        one.assign(target=answers).to_csv(tmp_path / f"{name}.csv", index=False)
        predict(
            bundle.folder,
            tmp_path / f"{name}.csv",
            layout.train_images,
            tmp_path / f"{name}-scores.csv",
        )
    assert (tmp_path / "true-scores.csv").read_bytes() == (
        tmp_path / "false-scores.csv"
    ).read_bytes()


def test_a_file_is_scored_piece_by_piece_as_its_lesions_together(
    sample_raw: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isic.predict import files as home

    table = pd.read_csv(sample_raw / "train-metadata.csv", low_memory=False).sample(
        frac=0.3, random_state=1
    )
    table.to_csv(tmp_path / "rows.csv", index=False)
    images = sample_raw / "train-image.hdf5"
    whole = bundle.predict(read_metadata(tmp_path / "rows.csv", train=True), TileStore(images))
    for long in (0, LONG):  # with and without files that are kept after a kill
        monkeypatch.setattr(home, "CHUNK_ROWS", 40)
        monkeypatch.setattr(home, "LONG", long)
        scores = predict(bundle.folder, tmp_path / "rows.csv", images, tmp_path / "scores.csv")
        assert scores["isic_id"].tolist() == table["isic_id"].tolist()
        np.testing.assert_allclose(scores["target"], whole, rtol=0, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir() if "scores" in path.name) == [
        "scores.csv"
    ]


def test_a_missing_tile_leaves_no_file(
    layout: Layout, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pd.read_csv(layout.sample_submission)["isic_id"].iloc[0]
    copied = (layout.raw / "test-image.hdf5").with_suffix(".copy")
    shutil.copy(layout.raw / "test-image.hdf5", copied)
    with h5py.File(copied, "a") as file:
        del file[first]
    copied.replace(layout.raw / "test-image.hdf5")
    with pytest.raises(InputError, match=f"{first}.*--missing-images impute"):
        make_submission(layout, str(bundle.folder))
    assert not layout.submission.exists()
    assert "no tile" not in capsys.readouterr().err
    make_submission(layout, str(bundle.folder), missing_images="impute")
    assert layout.submission.exists()
    assert "1 of 3 lesions have no tile: they get average image scores" in capsys.readouterr().err


@pytest.mark.parametrize("side", ["unscored", "unknown"])
def test_lesions_of_one_side_only_are_named_before_anything_is_scored(
    layout: Layout, bundle: Bundle, side: str
) -> None:
    sample = pd.read_csv(layout.sample_submission)
    last = sample["isic_id"].iloc[-1]
    more = pd.DataFrame({"isic_id": ["ISIC_0000000"], "target": [0.1]})
    for path in (layout.sample_submission, layout.raw / "test-image.hdf5"):
        path.unlink()  # shared with other checkouts
    (layout.raw / "test-image.hdf5").write_bytes(b"no tiles")
    changed = pd.concat([sample, more]) if side == "unscored" else sample.iloc[:-1]
    changed.to_csv(layout.sample_submission, index=False)
    message = (
        "no test row, first ISIC_0000000"
        if side == "unscored"
        else f"not in the sample submission, first {last}"
    )
    with pytest.raises(InputError, match=message):
        make_submission(layout, str(bundle.folder))
    assert not layout.submission.exists()


def test_no_champion_is_one_clear_line(layout: Layout, store: Path) -> None:
    shutil.copy(store, layout.root / "mlflow.db")
    with pytest.raises(InputError, match="champion yet: run `make promote`"):
        make_submission(layout)


@pytest.mark.slow
def test_a_killed_prediction_goes_on(
    layout: Layout, bundle: Bundle, root: Path, tmp_path: Path
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "scores.csv"
    write_sample(raw, patients=20, lesions=LONG + 200, positives=20, seed=5)
    files = [
        "--metadata",
        raw / "train-metadata.csv",
        "--images",
        raw / "train-image.hdf5",
        "--out",
        out,
    ]
    command = [sys.executable, "-m", "isic.cli", "predict", "--model", bundle.folder, *files]
    environment = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen(command, cwd=layout.root, env=environment, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".scores.csv.work/*/*.npz")):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not out.exists()
    (kept,) = tmp_path.glob(".scores.csv.work/*/*.npz")
    before = kept.stat().st_ino
    again = subprocess.Popen(command, cwd=layout.root, env=environment)
    while again.poll() is None:
        assert not kept.exists() or kept.stat().st_ino == before, "what was done is not done again"
        time.sleep(0.05)
    assert again.returncode == 0
    assert not list(tmp_path.glob(".scores.csv.work*")), "nothing is left behind"
    whole = bundle.predict(
        read_metadata(raw / "train-metadata.csv", train=True), TileStore(raw / "train-image.hdf5")
    )
    scores = pd.read_csv(out, index_col="isic_id")["target"]
    np.testing.assert_allclose(scores, whole, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_rolling_back_brings_the_same_bytes_back(
    layout: Layout, params: Params, store: Path
) -> None:
    shutil.copy(store, layout.root / "mlflow.db")
    register(layout.root, bundle_of(layout, params), "isic-2024")
    promote(layout)
    make_submission(layout)
    before = layout.submission.read_bytes()
    write_overlay(layout.params, {"stack": {"rounds": 5}})
    other = load_params(layout.params)
    fit_stacker(layout, other)
    register(layout.root, bundle_of(layout, other), "isic-2024")
    promote(layout, force=True, reason="to see the way back")
    make_submission(layout)
    assert layout.submission.read_bytes() != before
    rollback(layout)
    make_submission(layout)
    assert layout.submission.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": [0.1, np.nan, 0.2]}, "B has score nan"),
        ({"target": [0.1, np.inf, 0.2]}, "B has score inf"),
        ({"target": [0.1, 1.5, 0.2]}, "B has score 1.5"),
        ({"isic_id": ["A", "A", "C"]}, "A occurs twice"),
        ({"isic_id": ["B", "A", "C"]}, "in its order"),
        ({"score": [0.1, 0.2, 0.3]}, "columns"),
    ],
)
def test_what_is_not_submittable_is_named(change: dict, message: str) -> None:
    good = pd.DataFrame({"isic_id": ["A", "B", "C"], "target": [0.0, 0.5, 1.0]})
    check_submission(good, good["isic_id"])
    with pytest.raises(InputError, match=message):
        check_submission(good.assign(**change), good["isic_id"])


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"isic_id,age_approx\n"])
def test_metadata_that_cannot_be_read(
    content: bytes | None, tmp_path: Path, bundle: Bundle
) -> None:
    metadata, out = tmp_path / "rows.csv", tmp_path / "scores.csv"
    if content is not None:
        metadata.write_bytes(content)
    with pytest.raises(InputError, match=r"rows\.csv"):
        predict(bundle.folder, metadata, None, out)
    assert not out.exists()


@pytest.mark.parametrize("columns", [TEST_COLUMNS, TRAIN_COLUMNS], ids=["test", "train"])
def test_a_table_without_a_lesion_is_refused_and_not_scored(
    columns: tuple[str, ...], tmp_path: Path, bundle: Bundle
) -> None:
    metadata, out = tmp_path / "rows.csv", tmp_path / "scores.csv"
    metadata.write_text(",".join(columns) + "\n")
    with pytest.raises(InputError, match=r"rows\.csv has a header and no rows"):
        predict(bundle.folder, metadata, None, out, missing_images="impute")
    assert not out.exists()


def test_test_files_without_a_lesion_make_no_submission(layout: Layout, bundle: Bundle) -> None:
    for path in (layout.test_metadata, layout.sample_submission):
        path.unlink()  # shared with other checkouts
    layout.test_metadata.write_text(",".join(TEST_COLUMNS) + "\n")
    layout.sample_submission.write_text("isic_id,target\n")
    with pytest.raises(InputError, match="has a header and no rows"):
        make_submission(layout, str(bundle.folder))
    assert not layout.submission.exists()


def test_a_model_without_networks_needs_no_tiles(layout: Layout, tmp_path: Path) -> None:
    write_overlay(layout.params, {"image": {"backbones": {"__replace__": {}}}})
    params = load_params(layout.params)
    fit_stacker(layout, params)
    bundle = bundle_of(layout, params)
    predict(bundle.folder, layout.test_metadata, None, tmp_path / "without.csv")
    predict(
        bundle.folder, layout.test_metadata, layout.raw / "test-image.hdf5", tmp_path / "with.csv"
    )
    assert (tmp_path / "without.csv").read_bytes() == (tmp_path / "with.csv").read_bytes()
