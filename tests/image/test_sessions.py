"""Training in sessions on several machines: single folds, then joined."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from isic.core.presets import write_overlay
from tests.pipeline import SHRUNK, call, make_checkout

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CHANGES = {**SHRUNK, "image": {**SHRUNK["image"], "train": {"epochs": 3}}}


class Clones(NamedTuple):
    """The clone with all folds joined, one with all folds trained by a launcher, printed texts."""

    joined: Path
    launched: Path
    said: dict[str, str]


def fold(clone: Path, number: int, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`make fold` with the environment of the tests in place of the clone's own."""
    words = ("-o", ".venv/.ready", "fold", "B=convnext", f"F={number}")
    return call(clone, "make", "--no-print-directory", *words, check=check)


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> Clones:
    folder = tmp_path_factory.mktemp("sessions")
    environ = pytest.MonkeyPatch()
    environ.setenv("OMP_NUM_THREADS", "1")
    origin = make_checkout(ROOT, folder / "origin", CHANGES)
    shutil.copy(ROOT / "Makefile", origin)
    call(origin, "dvc", "remote", "add", "-d", "store", str(folder / "remote"))
    call(origin, "git", "add", "-A")
    call(origin, "git", "commit", "-qm", "a remote")
    one, two, three = (folder / name for name in ("one", "two", "three"))
    for clone in (one, two, three):
        call(folder, "git", "clone", "-q", str(origin), str(clone))
        shutil.copytree(origin / ".deny", clone / ".deny", dirs_exist_ok=True)
    said = {}
    call(one, "dvc", "repro", "folds")
    said["first"] = fold(one, 0).stderr
    call(one, "dvc", "push", "--run-cache")

    call(two, "dvc", "fetch", "--run-cache")
    said["folds"] = call(two, "dvc", "repro", "--pull", "folds").stdout
    write_overlay(two / "params.yaml", {"image": {"max_hours": 0.0001}})
    stopped = fold(two, 1, check=False)
    assert stopped.returncode
    said["stopped"] = stopped.stderr
    call(two, "git", "checkout", "-q", "params.yaml")
    said["second"] = fold(two, 1).stderr
    call(two, "dvc", "push", "--run-cache")

    call(one, "dvc", "fetch", "--run-cache")
    said["join"] = call(one, "dvc", "repro", "--pull", "stack").stdout
    said["plain"] = call(one, "dvc", "repro", "stack").stdout
    said["launch"] = call(three, sys.executable, "-m", "isic.scale.local", "--gpus", "2").stderr
    environ.undo()
    return Clones(one, three, said)


def test_a_plain_repro_after_joining_trains_nothing(clones: Clones) -> None:
    assert "Running stage 'train_image" not in clones.said["join"]
    assert "Running stage 'embed" not in clones.said["join"]
    assert "Running stage 'stack'" in clones.said["join"]
    assert "Running stage" not in clones.said["plain"].replace("Running stage 'validate'", "")
    assert (clones.joined / "data" / "oof" / "stack.parquet").is_file()


def test_the_second_machine_takes_data_and_folds_from_the_first(clones: Clones) -> None:
    assert "Running stage 'data'" not in clones.said["folds"]


def test_a_used_up_budget_is_one_line_and_the_same_command_goes_on(clones: Clones) -> None:
    lines = [line for line in clones.said["stopped"].splitlines() if line.startswith("isic: error")]
    assert len(lines) == 1
    assert "max_hours" in lines[0]
    assert "Traceback" not in clones.said["stopped"]
    assert "resumes in epoch" in clones.said["second"]


def test_a_session_says_how_long_it_and_all_the_rest_will_take(clones: Clones) -> None:
    assert "for this fold" in clones.said["first"]
    assert "for the 2 left" in clones.said["first"]
    assert "2 of 2 image folds to train" in clones.said["launch"]
    # A pipe gets complete lines, no line that is updated in place.
    assert "\r" not in "".join(clones.said.values())


@pytest.mark.parametrize("number", [0, 1])
def test_folds_of_a_launcher_are_those_of_single_sessions(clones: Clones, number: int) -> None:
    """Two processes at a time, each with its own cores: the same weights and loss curve."""
    here, there = (
        clone / "models" / "image" / "convnext" / f"fold{number}" for clone in clones[:2]
    )
    losses = [pd.read_csv(folder / "history.csv")["loss"].tolist() for folder in (here, there)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert (here / "model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()
    assert (clones.launched / "data" / "embeddings" / "convnext" / f"fold{number}.npy").is_file()
