"""The complete pipeline by DVC, from the official files to a submission of the promoted model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

from isic.core.params import load_params
from isic.tracking.inputs import recorded_inputs
from isic.tracking.store import EXPERIMENT, connect
from tests.conftest import rows_of
from tests.pipeline import SHRUNK, call, environment, make_checkout, network_attempts


def _metrics(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "metrics" / "evaluate.json").read_text()))


def test_metrics_hold_what_is_promised(done: Path) -> None:
    found = _metrics(done)
    promised = {
        "pauc",
        "pauc_low",
        "pauc_high",
        "pauc_fold_mean",
        "pauc_fold_sd",
        "auc",
        "top15_sensitivity",
        "n",
    }
    assert promised | {"positives", "patients", "folds"} <= set(found)
    assert (found["n"], found["positives"], found["patients"]) == (600, 30, 40)
    assert len(found["folds"]) == 2  # type: ignore[arg-type]
    assert 0 <= found["pauc_low"] <= found["pauc"] <= found["pauc_high"] <= 0.2  # type: ignore[operator]
    assert found["auc"] > 0.6  # type: ignore[operator]


def test_scores_are_out_of_fold_for_every_row(done: Path) -> None:
    oof = pd.read_parquet(done / "data" / "oof" / "stack.parquet")
    folds = pd.read_parquet(done / "data" / "folds.parquet")
    seeds = [f"seed_{seed}" for seed in range(load_params(done / "params.yaml").stack.seeds)]
    known = ["isic_id", "patient_id", "target", "fold", "score"]
    assert list(oof.columns) == [*known, *seeds, "features_only"]
    merged = oof.merge(folds, on="isic_id", suffixes=("", "_recorded"), validate="1:1")
    assert len(merged) == 600
    assert (merged["fold"] == merged["fold_recorded"]).all()
    assert np.isfinite(oof["score"]).all()
    for fold in (0, 1):
        rows = pd.read_parquet(done / "data" / "embeddings" / "convnext" / f"fold{fold}.parquet")
        width = np.load(done / "data" / "embeddings" / "convnext" / f"fold{fold}.npy")
        anchors = np.load(done / "data" / "embeddings" / "convnext" / f"fold{fold}.anchors.npy")
        assert anchors.shape == (256, width.shape[1])
        assert set(rows["isic_id"]) == set(folds.loc[folds["fold"] == fold, "isic_id"])
        assert width.shape[0] == len(rows)
        assert width.dtype == np.float16


def test_nothing_reached_for_the_network(done: Path) -> None:
    assert network_attempts(done) == ""


def test_an_attempt_would_have_been_seen(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / ".deny", tmp_path / ".deny")
    attempt = "import socket; socket.create_connection(('example.org', 80), timeout=5)"
    assert call(tmp_path, "python", "-c", attempt, check=False).returncode != 0
    assert "example.org" in network_attempts(tmp_path)


def test_second_repro_does_nothing(done: Path) -> None:
    again = call(done, "dvc", "repro")
    assert "Running stage" not in again.stdout
    assert "up to date" in again.stdout


def test_bundle_reproduces_out_of_fold_scores(done: Path) -> None:
    oof = pd.read_parquet(done / "data" / "oof" / "stack.parquet")
    script = (
        "import sys; from pathlib import Path; from isic.data.tables import read_metadata; "
        "from isic.data.tiles import TileStore; from isic.predict.bundle import load_bundle; "
        "bundle = load_bundle(Path('models/bundle')); "
        "rows = read_metadata(Path('data/raw/train-metadata.csv'), train=True); "
        "scores = bundle.predict(rows, TileStore(Path('data/raw/train-image.hdf5')), folds=[1]); "
        "scores.rename('score').reset_index().to_csv('fold1.csv', index=False); "
        "assert not {'mlflow', 'dvc'} & set(sys.modules), 'the bundle pulled in a tracker'"
    )
    call(done, "python", "-c", script)
    scores = pd.read_csv(done / "fold1.csv").set_index("isic_id")["score"]
    held_out = oof[oof["fold"] == 1].set_index("isic_id")["score"]
    assert np.abs(scores.reindex(held_out.index) - held_out).max() <= 1e-5


def test_promotion_then_submission_for_the_official_three_rows(done: Path) -> None:
    call(done, "isic", "promote")
    call(done, "isic", "submission")
    submission = pd.read_csv(done / "submission" / "submission.csv")
    sample = pd.read_csv(done / "data" / "raw" / "sample_submission.csv")
    assert list(submission.columns) == ["isic_id", "target"]
    assert submission["isic_id"].tolist() == sample["isic_id"].tolist()
    assert np.isfinite(submission["target"]).all()


@pytest.mark.slow
def test_champion_and_bundle_are_the_same_model(done: Path) -> None:
    call(done, "isic", "promote")
    call(done, "isic", "submission")
    submission = pd.read_csv(done / "submission" / "submission.csv")
    files = ("--metadata", "data/raw/test-metadata.csv", "--images", "data/raw/test-image.hdf5")
    for model, out in (("models:/isic-2024@champion", "a.csv"), ("models/bundle", "b.csv")):
        call(done, "isic", "predict", "--model", model, *files, "--out", out)
    assert (done / "a.csv").read_bytes() == (done / "b.csv").read_bytes()
    scores = pd.read_csv(done / "a.csv").set_index("isic_id").iloc[:, 0]
    assert np.allclose(scores.reindex(submission["isic_id"]), submission["target"], atol=1e-12)


def test_runs_name_the_inputs_and_data_that_dvc_records(done: Path) -> None:
    lock = yaml.safe_load((done / "dvc.lock").read_text())["stages"]
    # By its address: other tests of this process may have left another store in the environment.
    client = connect(done, f"sqlite:///{done}/mlflow.db")
    work = client.get_experiment_by_name(EXPERIMENT).experiment_id
    found: dict[str, set[str]] = {}
    for run in client.search_runs([work]):
        assert "dvc_lock" not in run.data.tags
        found.setdefault(run.data.tags["family"], set()).add(run.data.tags.get("stage_inputs", ""))
    assert found == {
        "stack": {recorded_inputs(lock["stack"])},
        "train_image-convnext": {recorded_inputs(lock["train_image@convnext-0"])},
    }, "of parent and folds alike"

    recorded = {
        item["path"]: item["md5"] for stage in lock.values() for item in stage.get("outs", ())
    }
    recorded |= {
        item["path"]: item["md5"] for stage in lock.values() for item in stage.get("deps", ())
    }
    (stack,) = client.search_runs([work], "tags.family = 'stack' and tags.role = 'parent'")
    data = {item.dataset.name: item for item in stack.inputs.dataset_inputs}
    assert {name: item.tags[0].value for name, item in data.items()} == {
        "data/raw/train-metadata.csv": "train",
        "data/oof/stack.parquet": "oof",
    }
    for name, item in data.items():
        assert item.dataset.digest == recorded[name]
    assert len(client.search_logged_models([work], "metrics.pauc >= 0")) == 4, (
        "two fold networks, all of a backbone, the bundle"
    )


@pytest.mark.slow  # the bundle's tests do the same in one process
def test_missing_image_names_the_id_unless_imputed(done: Path) -> None:
    import h5py

    images = done / "few.hdf5"
    shutil.copy(done / "data" / "raw" / "test-image.hdf5", images)
    images.chmod(0o644)
    with h5py.File(images, "a") as file:
        name = next(iter(file))
        del file[name]
    files = ("--metadata", "data/raw/test-metadata.csv", "--images", "few.hdf5", "--out", "few.csv")
    refused = call(done, "isic", "predict", "--model", "models/bundle", *files, check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert name in refused.stderr
    assert not (done / "few.csv").exists()
    call(done, "isic", "predict", "--model", "models/bundle", *files, "--missing-images", "impute")
    assert pd.read_csv(done / "few.csv").iloc[:, 1].notna().all()


@pytest.mark.slow
def test_change_of_stacker_parameters_reruns_from_stack(root: Path, done: Path) -> None:
    dry = call(done, "dvc", "repro", "--dry", "--force", "-s", "stack")
    assert "stack" in dry.stdout
    text = (done / "params.yaml").read_text()
    try:
        (done / "params.yaml").write_text(
            text.replace("learning_rate: ", "learning_rate: 0.0123 # ", 1)
        )
        status = call(done, "dvc", "status")
    finally:
        (done / "params.yaml").write_text(text)
    assert "stack" in status.stdout


@pytest.mark.slow
def test_killed_repro_ends_with_the_same_metrics(root: Path, done: Path, tmp_path: Path) -> None:
    folder = make_checkout(root, tmp_path / "killed", SHRUNK)
    for stage in ("pipelines.train_image", "pipelines.stack"):
        _kill_repro_in(folder, stage)
        assert not (folder / "metrics" / "evaluate.json").exists()
    call(folder, "dvc", "repro", timeout=1800)
    assert (folder / "metrics" / "evaluate.json").read_bytes() == (
        done / "metrics" / "evaluate.json"
    ).read_bytes()


def _kill_repro_in(folder: Path, stage: str) -> None:
    """SIGKILL a `dvc repro` and all its processes once `stage` has finished its imports."""
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not _is_at_work(process.pid, stage):
        assert process.poll() is None, f"dvc repro ended before {stage} was seen"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _is_at_work(pid: int, stage: str) -> bool:
    """Whether a descendant of `pid` runs `stage` and has loaded its libraries."""
    try:
        for child in psutil.Process(pid).children(recursive=True):
            if stage in child.cmdline():
                loaded = Path(f"/proc/{child.pid}/maps").read_text()
                return "lightgbm" in loaded if stage == "pipelines.stack" else "libtorch" in loaded
    except (psutil.NoSuchProcess, psutil.ZombieProcess, OSError):
        return False
    return False


@pytest.mark.slow
def test_a_dead_tracking_server_costs_only_lines(done: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deaf"
    shutil.copytree(done, folder, symlinks=True)
    for stage in ("train_image@convnext-0", "stack", "register"):
        heard = call(
            folder, "dvc", "repro", "-f", "-s", stage, MLFLOW_TRACKING_URI="http://127.0.0.1:9"
        )
        assert "http://127.0.0.1:9" in heard.stderr
        assert "Traceback" not in heard.stdout + heard.stderr
    for name in ("data/oof/stack.parquet", "models/image/convnext/fold0/model.safetensors"):
        assert (folder / name).read_bytes() == (done / name).read_bytes()
    assert json.loads((folder / "metrics" / "register.json").read_text())["version"] is None


@pytest.mark.slow
def test_real_files_run_to_a_submission(root: Path, real_data: Path, tmp_path: Path) -> None:
    official = real_data / "competition"
    source = {"source": "folder", "folder": str(official)}
    folder = make_checkout(root, tmp_path / "real", {**SHRUNK, "data": source})
    call(folder, "dvc", "repro")
    checked = json.loads((folder / "metrics" / "validate.json").read_text())
    assert (checked["rows"], checked["positives"]) == rows_of(real_data)
    assert checked["test_hospitals_unseen"] == ["FNQH Cairns"]
    found = _metrics(folder)
    assert found["n"] == rows_of(real_data)[0]
    # Too few benign rows to evaluate the model, enough to test that it learns from real rows and
    # tiles.
    assert found["auc"] > 0.7  # type: ignore[operator]
    call(folder, "isic", "promote")
    call(folder, "isic", "submission")
    submission = pd.read_csv(folder / "submission" / "submission.csv")
    expected = pd.read_csv(official / "sample_submission.csv")
    assert submission["isic_id"].tolist() == expected["isic_id"].tolist()
    assert submission["target"].between(0, 1).all()
    assert submission["target"].nunique() > 1


@pytest.mark.slow
def test_without_image_networks_everything_else_runs(root: Path, tmp_path: Path) -> None:
    folder = make_checkout(
        root, tmp_path / "blind", {**SHRUNK, "image": {"backbones": {"__replace__": {}}}}
    )
    call(folder, "dvc", "repro")
    assert _metrics(folder)["n"] == 600
    assert "the run has no images" in (folder / "reports" / "index.html").read_text()
    call(folder, "isic", "promote")
    call(folder, "isic", "submission")
    submission = pd.read_csv(folder / "submission" / "submission.csv")
    assert submission["target"].between(0, 1).all()
