"""Folds on a two-node Ray: trained, recorded as by `dvc repro`, and resumed after the loss of a
node.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from isic.core.errors import InputError
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.core.presets import write_overlay
from tests.commands import missing_folds, run_folds
from tests.pipeline import SHRUNK, environment, make_checkout

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def start(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with everything that the image folds read."""
    folder = make_checkout(root, tmp_path_factory.mktemp("folds") / "checkout", SHRUNK)
    subprocess.run(["dvc", "repro", "-q", "folds"], cwd=folder, env=environment(folder), check=True)
    return folder


def _checkout(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: dict[str, Any]
) -> Layout:
    folder = tmp_path / "checkout"
    subprocess.run(["cp", "-a", str(start), str(folder)], check=True)
    write_overlay(folder / "params.yaml", {"image": image})
    monkeypatch.chdir(folder)
    for name in ("DVC_ROOT", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return Layout(folder)


def _would_run(layout: Layout) -> str:
    names = [f"{stage}@convnext-{fold}" for fold in (0, 1) for stage in ("train_image", "embed")]
    command = ["dvc", "repro", "--dry", "--single-item", *names]
    return subprocess.run(
        command,
        cwd=layout.root,
        env=environment(layout.root),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_folds_go_through_the_death_of_a_node_and_dvc_finds_them_done(
    two_nodes: Any,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout = _checkout(start, tmp_path, monkeypatch, {"train": {"epochs": 60}})
    resume = layout.root / ".resume" / "train_image"

    def kill() -> None:
        # As soon as both folds have a saved state: one of them trains on the node to be killed.
        while len(list(resume.rglob("state.safetensors"))) < 2:
            time.sleep(0.1)
        two_nodes.remove_node(next(iter(two_nodes.worker_nodes)), allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    done = run_folds(layout)
    assert sorted(done) == [
        f"{stage}@convnext-{fold}" for stage in ("embed", "train_image") for fold in (0, 1)
    ]
    assert "resumes from its last saved state" in capsys.readouterr().err
    logs = [
        (layout.root / ".resume" / "ray" / f"train_image-convnext-{fold}.log").read_text()
        for fold in (0, 1)
    ]
    assert sum("resumes in epoch" in log for log in logs) == 1
    assert "Running stage" not in _would_run(layout)
    assert missing_folds(layout) == []
    assert run_folds(layout) == []


def test_a_fold_that_cannot_be_trained_is_one_line_and_the_other_is_kept(
    two_nodes: Any, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = _checkout(start, tmp_path, monkeypatch, {"train": {"epochs": 2}})
    # A file where fold 1's folder of models belongs.
    layout.image_model("convnext", 1).parent.mkdir(parents=True)
    (layout.root / ".resume" / "train_image").mkdir(parents=True)
    (layout.root / ".resume" / "train_image" / "convnext-1").write_text("in the way")
    with pytest.raises(
        InputError, match=r"^convnext-1: train_image ended with status \d"
    ) as caught:
        run_folds(layout)
    assert "\n" not in str(caught.value)
    assert [fold.name for fold in missing_folds(layout)] == ["convnext-1"]


def test_a_changed_checkout_is_not_recorded(
    two_nodes: Any, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = _checkout(start, tmp_path, monkeypatch, {"train": {"epochs": 2}})
    timer = threading.Timer(
        3, lambda: os.utime(layout.root / "isic" / "image" / "training" / "step.py")
    )
    timer.start()
    with pytest.raises(InputError, match="changed while folds were trained"):
        run_folds(layout)
    timer.join()
    assert len(missing_folds(layout)) == 2


def test_one_network_over_two_nodes_is_that_of_two_processes(
    two_nodes: Any, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightning_fabric")
    layout = _checkout(start, tmp_path, monkeypatch, {"devices": 2, "train": {"epochs": 2}})
    weights = layout.image_model("convnext", 0) / "model.safetensors"
    run_folds(layout)
    assert load_params(layout.params).image.devices == 2
    over_nodes = load_file(weights)
    weights.unlink()
    command = [
        sys.executable,
        "-m",
        "pipelines.train_image",
        "--backbone",
        "convnext",
        "--fold",
        "0",
    ]
    subprocess.run(
        command, cwd=layout.root, env=environment(layout.root), check=True, capture_output=True
    )
    local = load_file(weights)
    assert over_nodes.keys() == local.keys()
    assert all(abs(over_nodes[name] - local[name]).max() < 1e-6 for name in over_nodes)
