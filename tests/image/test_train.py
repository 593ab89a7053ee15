"""Training: learning, resuming to the same weights, stopping with a useful message."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from isic.core.code import STAGE_CODE, code_files
from isic.core.errors import InputError
from isic.core.io import read_json, write_parquet
from isic.core.metric import auc
from isic.core.params import ImageRecipe, load_params
from isic.core.paths import Layout
from isic.core.presets import write_overlay
from isic.core.tracker import NullTracker
from isic.data import tiles as tiles_module
from isic.data.tiles import TileStore
from isic.image import clock
from isic.image.console import TimeEstimate
from isic.image.network import cache, device
from isic.image.network.artifact import load_model
from isic.image.network.cache import DecodedTiles, decoded
from isic.image.network.embed import embed
from isic.image.network.loader import Batch, batches
from isic.image.network.pixels import normalise, pack, resize
from isic.image.training import checkpoint
from isic.image.training import step as steps
from isic.image.training.diagnosis import GROUPS, diagnosis_groups, soften
from isic.image.training.fold import train_files
from isic.image.training.run import prepare
from isic.image.training.step import take_step
from isic.image.training.train import Job, Limits, OutOfTime, train_fold
from tests.image.conftest import write_tiles

Recipe = Callable[..., ImageRecipe]

#: Every kind of state a resume has to bring back, and a last group of micro-batches that is not
#: full.
EVERYTHING = {
    "ema": 0.9,
    "dropout": 0.2,
    "accumulate": 2,
    "mixup": 0.4,
    "schedule": "onecycle",
    "layer_decay": 0.8,
    "freeze_epochs": 1,
    "augment": "light",
}


class InterruptingStore(TileStore):
    """A store that sends a signal to this process at the n-th tile."""

    def __init__(self, path: Path, reads: int, number: signal.Signals) -> None:
        super().__init__(path)
        self.reads = reads
        self.number = number

    def image(self, isic_id: str) -> np.ndarray:
        self.reads -= 1
        if self.reads == 0:
            signal.raise_signal(self.number)
        return super().image(isic_id)


class RecordingTracker(NullTracker):
    """Keeps the logged metrics."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def metrics(self, values, step=None) -> None:  # type: ignore[no-untyped-def]
        self.logged.append(dict(values))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def saves_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(clock, "SAVE_FACTOR", 0.0)


@pytest.mark.parametrize("backbone", ["convnext", "vit"])
def test_learns_and_scores_unseen_tiles(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path, backbone: str
) -> None:
    tracker = RecordingTracker()
    history = train_fold(
        tiles, folds, 0, recipe(backbone, epochs=8), tmp_path / "m", tmp_path / "r", tracker
    )
    unseen = folds[folds["fold"] == 0]
    scores = embed(tmp_path / "m", tiles, unseen["isic_id"].tolist())
    assert auc(unseen["target"], scores.logits) > 0.85
    assert scores.embeddings.dtype == np.float16
    assert scores.embeddings.shape == (30, 64)
    assert [row["epoch"] for row in history] == list(range(1, 9))
    assert len(tracker.logged) == 8
    assert pd.read_csv(tmp_path / "m" / "history.csv")["pauc"].notna().iloc[-1]
    # The state of a finished run is removed; only the lock's folder may stay.
    assert not list((tmp_path / "r").rglob("*.safetensors"))


def test_same_seed_same_weights_other_seed_others(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_fold(
            tiles, folds, 0, recipe(seed=seed), tmp_path / name, tmp_path / "r", NullTracker()
        )
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.usefixtures("saves_often")
@pytest.mark.parametrize(
    "more", [{}, {"precision": "fp16", "aux_weight": 0.3, "drop_path": 0.1, "loss": "focal"}]
)
def test_killed_anywhere_ends_with_the_same_weights(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, object],
) -> None:
    from isic.image.network import loader

    # No tile is kept in memory, so that reads count steps.
    monkeypatch.setattr(loader, "_MEMORY", 0)
    monkeypatch.setattr(loader.batches, "__defaults__", (None, 0))
    wanted = recipe(**EVERYTHING, **more)
    texts = np.where(folds["target"] == 1, "Malignant::Melanoma", "Benign::Nevus").tolist()
    train_fold(
        tiles, folds, 0, wanted, tmp_path / "whole", tmp_path / "r0", NullTracker(), diagnoses=texts
    )
    reads = np.random.default_rng(3).integers(16, 60, 12)
    interruptions = 0
    for count in reads:
        try:
            train_fold(
                InterruptingStore(tiles.path, int(count) + 1, signal.SIGINT),
                folds,
                0,
                wanted,
                tmp_path / "parts",
                tmp_path / "r1",
                NullTracker(),
                diagnoses=texts,
            )
        except KeyboardInterrupt:
            assert not (tmp_path / "parts").exists()
            interruptions += 1
            continue
        break
    assert interruptions >= 2
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    kept = ["epoch", "loss", "pauc", "auc", "lr", "positive_share"]
    histories = [pd.read_csv(tmp_path / name / "history.csv")[kept] for name in ("whole", "parts")]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


@pytest.mark.slow
def test_sigkill_at_random_moments_ends_with_the_same_weights(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    """With loader processes, and with states saved within an epoch."""
    wanted = recipe(**EVERYTHING | {"epochs": 40, "precision": "fp16", "freeze_epochs": 2})
    (tmp_path / "recipe.json").write_text(wanted.model_dump_json())
    folds.to_parquet(tmp_path / "folds.parquet")
    script = f"""
import json, pandas as pd, torch, pathlib
from isic.core.params import ImageRecipe
from isic.core.tracker import NullTracker
from isic.data.tiles import TileStore
from isic.image import clock
from isic.image.training.train import Limits, train_fold
torch.set_num_threads(1)
clock.SAVE_SECONDS = clock.SAVE_FACTOR = 0.0
here = pathlib.Path({str(tmp_path)!r})
recipe = ImageRecipe(**json.loads((here / "recipe.json").read_text()))
train_fold(TileStore({str(tiles.path)!r}), pd.read_parquet(here / "folds.parquet"), 0, recipe, here / "killed",
           here / "resume", NullTracker(), Limits(workers=2))
"""
    delays = iter(np.random.default_rng().uniform(0.05, 1.5, 6))
    printed = ""
    for delay in delays:
        before = {
            file: file.stat().st_mtime_ns for file in tmp_path.glob("resume/*/state.safetensors")
        }
        child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
        # The delay starts when the process has saved a state of its own.
        while child.poll() is None:
            now = {
                file: file.stat().st_mtime_ns
                for file in tmp_path.glob("resume/*/state.safetensors")
            }
            if now and now != before:
                break
            time.sleep(0.01)
        time.sleep(delay)
        child.kill()
        printed += child.communicate()[1]
        assert child.returncode in (-9, 0)
        if child.returncode == 0:
            break
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    resumed = [
        (int(step), int(steps))
        for step, steps in re.findall(r"resumes in .* step (\d+) of (\d+)", printed + done.stderr)
    ]
    assert len(resumed) >= 2
    assert any(step % (steps // 40) for step, steps in resumed)
    train_fold(tiles, folds, 0, wanted, tmp_path / "whole", tmp_path / "r0", NullTracker())
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


@pytest.mark.usefixtures("saves_often")
def test_budget_stops_at_a_saved_state_and_the_next_run_goes_on(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(OutOfTime, match="max_hours"):
        train_fold(
            tiles,
            folds,
            0,
            recipe(),
            tmp_path / "m",
            tmp_path / "r",
            NullTracker(),
            Limits(max_hours=1e-9),
        )
    assert not (tmp_path / "m").exists()
    train_fold(tiles, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker())
    train_fold(tiles, folds, 0, recipe(), tmp_path / "whole", tmp_path / "r0", NullTracker())
    assert same(weights(tmp_path / "m"), weights(tmp_path / "whole"))


def test_sigterm_saves_the_state_and_ends_like_ctrl_c(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No state is due by the clock: only the signal can have caused the save."""
    monkeypatch.setattr(clock, "SAVE_SECONDS", 1e6)
    before = signal.getsignal(signal.SIGTERM)
    preempted = InterruptingStore(tiles.path, 45, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train_fold(preempted, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker())
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopped by SIGTERM at step" in capsys.readouterr().err
    train_fold(tiles, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker())
    assert "resumes in epoch 1, step" in capsys.readouterr().err
    train_fold(tiles, folds, 0, recipe(), tmp_path / "whole", tmp_path / "r0", NullTracker())
    assert same(weights(tmp_path / "m"), weights(tmp_path / "whole"))


def test_another_recipe_does_not_go_on_from_this_state(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(OutOfTime):
        train_fold(
            tiles,
            folds,
            0,
            recipe(),
            tmp_path / "m",
            tmp_path / "r",
            NullTracker(),
            Limits(max_hours=1e-9),
        )
    train_fold(tiles, folds, 0, recipe(lr=0.001), tmp_path / "m", tmp_path / "r", NullTracker())
    assert "resumes" not in capsys.readouterr().err


def stopped(tiles: TileStore, folds: pd.DataFrame, recipe: ImageRecipe, folder: Path) -> Path:
    """A run stopped at its first saved state; returns that state."""
    before = set(folder.glob("*/state.safetensors"))
    with pytest.raises(OutOfTime):
        train_fold(
            tiles, folds, 0, recipe, folder / "m", folder, NullTracker(), Limits(max_hours=1e-9)
        )
    (state,) = set(folder.glob("*/state.safetensors")) - before
    return state


def auto_is(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose own number format is this one."""
    monkeypatch.setattr(
        device, "pick_precision", lambda asked, _: precision if asked == "auto" else asked
    )


@pytest.mark.parametrize("first", ["bf16", "fp16"])
def test_a_state_in_the_format_of_another_gpu_goes_on_in_it(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    first: str,
) -> None:
    wanted = recipe(precision="auto")
    other = {"bf16": "fp16", "fp16": "bf16"}[first]
    train_fold(
        tiles, folds, 0, recipe(precision=first), tmp_path / "whole", tmp_path / "r0", NullTracker()
    )
    auto_is(first, monkeypatch)
    stopped(tiles, folds, wanted, tmp_path / "r")
    auto_is(other, monkeypatch)
    train_fold(tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker())
    printed = capsys.readouterr().err
    assert f"resumes in {first}, as its state was saved, instead of {other}" in printed
    assert "resumes in epoch 1, step " in printed
    assert same(weights(tmp_path / "m"), weights(tmp_path / "whole"))
    assert read_json(tmp_path / "m" / "config.json")["precision"] == first


def test_a_state_in_a_format_that_this_gpu_lacks_stays_for_one_that_has_it(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = recipe(precision="auto")
    auto_is("bf16", monkeypatch)
    state = stopped(tiles, folds, wanted, tmp_path / "r")
    auto_is("fp16", monkeypatch)
    monkeypatch.setattr(device, "has_precision", lambda precision, _: precision != "bf16")
    train_fold(tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker())
    assert "which this GPU lacks: starts anew in fp16" in capsys.readouterr().err
    assert read_json(tmp_path / "m" / "config.json")["precision"] == "fp16"
    assert state.is_file()


def test_the_key_of_a_state_covers_weights_decoder_and_packages(
    tiles: TileStore, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(start: Path) -> str:
        return checkpoint.resume_key(recipe(weights=str(start)).model_dump(), [], tiles.path, 1)

    one, moved, other = (tmp_path / name for name in ("one.pth", "moved.pth", "other.pth"))
    for file, content in ((one, b"1"), (moved, b"1"), (other, b"2")):
        file.write_bytes(content)
    assert key(one) == key(moved) != key(other)
    assert Path(tiles_module.__file__) in code_files(STAGE_CODE["train_image"])
    usual = key(one)
    for package in ("torch", "timm", "numpy", "opencv-python-headless", "albumentations"):
        with monkeypatch.context() as patched:
            patched.setattr(
                checkpoint,
                "version",
                lambda name, new=package: "0" if name == new else version(name),
            )
            assert key(one) != usual

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(checkpoint, "version", absent)
    assert key(one) != usual


def test_out_of_memory_halves_the_micro_batch_and_goes_on(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path, monkeypatch, capsys
) -> None:  # type: ignore[no-untyped-def]
    whole, largest = steps.per_tile, []

    def hungry(logits: torch.Tensor, *rest: object) -> torch.Tensor:
        if len(logits) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        largest.append(len(logits))
        return whole(logits, *rest)  # type: ignore[arg-type]

    train_fold(tiles, folds, 0, recipe(), tmp_path / "plain", tmp_path / "r0", NullTracker())
    monkeypatch.setattr(steps, "per_tile", hungry)
    train_fold(tiles, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker())
    assert max(largest) <= 4
    assert "micro-batches of 4 instead of 8 tiles" in capsys.readouterr().err
    plain, halved = weights(tmp_path / "plain"), weights(tmp_path / "m")
    assert all(torch.allclose(plain[name], halved[name], atol=2e-3) for name in plain)


def test_a_loss_that_is_not_finite_stops_and_names_the_tiles(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = steps.per_tile

    def broken(*arguments: object) -> torch.Tensor:
        loss = plain(*arguments)  # type: ignore[arg-type]
        return torch.where(torch.arange(len(loss)) == 1, torch.nan, loss)

    monkeypatch.setattr(steps, "per_tile", broken)
    with pytest.raises(InputError, match=r"not finite in epoch 1 for ISIC_\d{7}"):
        train_fold(tiles, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker())
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("broken", [1, 100])
def test_in_fp16_one_loss_that_is_not_finite_skips_a_step_and_a_run_of_them_stops(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: int,
) -> None:
    """The scaler leaves the weights alone where a gradient is not finite; the epoch's loss leaves
    the step out.
    """
    plain, left = steps.per_tile, [3, broken]

    def overflows(*arguments: object) -> torch.Tensor:
        loss = plain(*arguments)  # type: ignore[arg-type]
        left[0] -= 1
        if left[0] >= 0 or left[1] <= 0:
            return loss
        left[1] -= 1
        return loss * torch.inf

    monkeypatch.setattr(steps, "per_tile", overflows)
    wanted = recipe(precision="fp16")
    if broken == 1:
        history = train_fold(tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker())
        assert all(np.isfinite(row["loss"]) for row in history)
        assert all(torch.isfinite(one).all() for one in weights(tmp_path / "m").values())
    else:
        with pytest.raises(
            InputError, match=r"not finite in epoch 3 for .* or set precision to bf16"
        ):
            train_fold(tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker())


def test_a_second_process_on_the_same_state_is_refused(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from isic.image.training import train

    folder = tmp_path / "r" / "key-fp32"
    monkeypatch.setattr(train, "_key", lambda *_: "key")
    with train.checkpoint.locked(folder), pytest.raises(InputError, match="another process"):
        train_fold(tiles, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker())


@pytest.mark.parametrize("target", [0, 1])
def test_one_class_is_refused(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path, target: int
) -> None:
    training = folds[(folds["fold"] == 0) | (folds["target"] == target)]
    with pytest.raises(InputError, match="one class"):
        train_fold(tiles, training, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker())


def test_early_stop_ends_before_the_last_epoch_with_the_last_weights(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    wanted = recipe(epochs=40, early_stop=2)
    history = train_fold(tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker())
    assert len(history) < 40


def test_early_stop_looks_at_a_further_fold_and_never_at_the_scored_one(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The scored fold's labels, moved on by a row, change its own figures and nothing else."""
    wanted = recipe(epochs=40, early_stop=2)
    turned = folds.assign(
        target=np.where(folds["fold"] == 0, np.roll(folds["target"], 1), folds["target"])
    )
    one, other = (
        train_fold(tiles, rows, 0, wanted, tmp_path / name, tmp_path / "r", NullTracker())
        for name, rows in (("one", folds), ("other", turned))
    )
    assert [row.get("pauc_watched") for row in one] == [row.get("pauc_watched") for row in other]
    assert [row["auc"] for row in one] != [row["auc"] for row in other]
    assert len(one) < 40
    assert same(weights(tmp_path / "one"), weights(tmp_path / "other"))
    assert read_json(tmp_path / "one" / "config.json")["watched_fold"] == 1
    assert "fold 1 is kept out of training too, for early stopping" in capsys.readouterr().err


def test_early_stop_after_many_interruptions_ends_at_the_same_epoch(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    wanted = recipe(epochs=40, early_stop=1)
    whole = train_fold(tiles, folds, 0, wanted, tmp_path / "whole", tmp_path / "r0", NullTracker())
    history, stops = None, 0
    while history is None:
        try:
            limits = Limits(max_hours=1e-9)
            history = train_fold(
                tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker(), limits
            )
        except OutOfTime:
            stops += 1
    assert stops >= len(whole)
    assert len(history) == len(whole) < 40
    assert [row.get("pauc_watched") for row in history] == [
        row.get("pauc_watched") for row in whole
    ]
    assert same(weights(tmp_path / "m"), weights(tmp_path / "whole"))


def test_the_sample_of_the_logged_scores_decides_neither_weights_nor_stop_nor_resume(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run that resumes with another sample ends as one that had it from the start."""
    few, many = (recipe(epochs=40, early_stop=1, validate_negatives=count) for count in (1, 25))
    whole = train_fold(tiles, folds, 0, few, tmp_path / "few", tmp_path / "r0", NullTracker())
    stopped(tiles, folds, few, tmp_path / "r")
    history = train_fold(tiles, folds, 0, many, tmp_path / "many", tmp_path / "r", NullTracker())

    assert "resumes in epoch 1, step " in capsys.readouterr().err
    assert same(weights(tmp_path / "few"), weights(tmp_path / "many"))
    assert len(history) == len(whole) < 40
    watched = [[row.get("pauc_watched") for row in rows] for rows in (whole, history)]
    assert watched[0] == watched[1]
    assert [row["auc"] for row in whole] != [row["auc"] for row in history]


def test_each_fold_is_watched_by_one_network_which_does_not_train_on_it(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    for seed in range(3):
        jobs = [
            Job(
                tiles,
                folds,
                fold,
                recipe(early_stop=2, seed=seed),
                tmp_path,
                "image",
                None,
                Limits(),
            )
            for fold in range(3)
        ]
        assert sorted(str(job.stopping_fold) for job in jobs) == ["0", "1", "2"]
        for job in jobs:
            trained = folds.loc[folds["isic_id"].isin(job.ids), "fold"].unique().tolist()
            assert sorted([*trained, job.fold, job.stopping_fold]) == [0, 1, 2]


def test_early_stop_with_two_folds_is_one_line(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="set three `folds` or more"):
        train_fold(
            tiles,
            folds[folds["fold"] < 2],
            0,
            recipe(early_stop=2),
            tmp_path / "m",
            tmp_path / "r",
            NullTracker(),
        )


def test_decoded_tiles_on_disk_change_nothing_and_their_size_is_printed_first(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = {}
    for name, room in (("none", 0.0), ("tight", 1e-6), ("wide", 1.0)):
        limits = Limits(cache_gb=room, workers=1)
        train_fold(
            tiles,
            folds,
            0,
            recipe(epochs=1),
            tmp_path / name,
            tmp_path / "r" / "x",
            NullTracker(),
            limits,
        )
        printed[name] = capsys.readouterr().err
        assert same(weights(tmp_path / name), weights(tmp_path / "none"))
    assert "decoded" not in printed["none"]
    assert "would take 0.00 GB" in printed["tight"]
    assert "writes decoded tiles, 0.00 GB" in printed["wide"]
    assert (tmp_path / "r" / "decoded").is_dir()


def caches(folder: Path) -> list[Path]:
    """The caches of decoded tiles in `folder`, finished or not."""
    return [file.parent for file in folder.glob("*/pixels.bin")]


def test_folds_and_backbones_share_one_cache_within_its_budget(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    room = 1.01 * sum(tiles.image(name).nbytes for name in folds["isic_id"]) / 1e9
    for fold, backbone in ((0, "convnext"), (1, "convnext"), (1, "vit")):
        name = f"{backbone}-{fold}"
        train_fold(
            tiles, folds, fold, recipe(backbone, epochs=1), tmp_path / name, tmp_path / "r" / name, NullTracker(),
            Limits(cache_gb=room, workers=1),
        )  # fmt: skip
    (folder,) = caches(tmp_path / "r" / "decoded")
    assert (folder / "pixels.bin").stat().st_size <= room * 1e9
    assert capsys.readouterr().err.count("writes decoded tiles") == 1


def test_headers_of_tiles_are_read_once(
    tiles: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the cache is written or not, the next run knows its size."""
    reads: list[str] = []

    def counted(jpeg: bytes, isic_id: str) -> tuple[int, int]:
        reads.append(isic_id)
        return tiles_module.jpeg_size(jpeg, isic_id)

    monkeypatch.setattr(cache, "jpeg_size", counted)
    ids = np.array(tiles.ids())
    lines: list[str] = []
    for room in (1e-6, 1e-6, 1.0, 1.0):
        with decoded(tiles, ids, room, tmp_path, lines.append):
            assert len(reads) == len(ids)
    assert [line.split(",")[0] for line in lines[:2]] == ["decoded tiles would take 0.00 GB"] * 2
    assert len(lines) == 3


def test_a_new_cache_replaces_those_not_in_use(tiles: TileStore, tmp_path: Path) -> None:
    lines: list[str] = []
    ids = np.array(tiles.ids())
    room = 1.01 * sum(tiles.image(name).nbytes for name in ids[:20]) / 1e9
    with decoded(tiles, ids[:20], room, tmp_path, lines.append):
        (first,) = caches(tmp_path)
    shutil.copytree(first, tmp_path / ".half-written.tmp")
    (tmp_path / "something else").mkdir()
    with decoded(tiles, ids[1:20], room, tmp_path, lines.append) as read:
        (second,) = caches(tmp_path)
        assert second != first
        assert isinstance(read, DecodedTiles)
        with decoded(tiles, ids[:20], room, tmp_path, lines.append) as other:
            assert other is tiles
        assert "0.00 GB in use by other runs" in lines[-1]
        assert (read.image(ids[1]) == tiles.image(ids[1])).all()
    with decoded(tiles, ids[19:0:-1], room, tmp_path, lines.append):
        assert caches(tmp_path) == [second]
    with decoded(tiles, ids[:20], room, tmp_path, lines.append):
        assert caches(tmp_path) == [first]
    assert (tmp_path / "something else").is_dir()


def test_a_config_names_backbone_and_fold(
    tiles: TileStore, folds: pd.DataFrame, checkout: Path
) -> None:
    layout = Layout(checkout)
    shutil.copy(tiles.path, layout.train_images)
    write_parquet(layout.folds, folds)
    write_overlay(
        layout.params,
        {"image": {"train": {"size": 32, "epochs": 1, "aux_weight": 0, "indeterminate": 0}}},
    )
    image = load_params(layout.params).image
    train_files(layout.train_files("vit", 1), image, "vit", 1, NullTracker())
    config = read_json(layout.image_model("vit", 1) / "config.json")
    assert (config["backbone"], config["fold"]) == ("vit", 1)


def test_a_finished_fold_removes_states_that_were_abandoned_and_no_others(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    states: list[Path] = []
    for lr, days in ((0.001, 31), (0.002, 31), (0.003, 29)):
        with pytest.raises(OutOfTime):
            train_fold(
                tiles,
                folds,
                0,
                recipe(lr=lr),
                tmp_path / "m",
                tmp_path / "r",
                NullTracker(),
                Limits(max_hours=1e-9),
            )
        (state,) = set((tmp_path / "r").glob("*/state.safetensors")) - set(states)
        states.append(state)
        os.utime(state, (time.time() - days * 24 * 3600,) * 2)
    abandoned, held, young = states
    with checkpoint.locked(held.parent):
        train_fold(tiles, folds, 0, recipe(epochs=1), tmp_path / "m", tmp_path / "r", NullTracker())
    assert not abandoned.parent.exists()
    assert held.is_file()
    assert young.is_file()


@pytest.mark.parametrize("mix", [0.0, 0.4])
def test_auxiliary_head_learns_groups_and_is_not_needed_to_score(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path, mix: float
) -> None:
    """With mixup as well, whose partners have groups of their own."""
    texts = np.where(folds["target"] == 1, "Malignant::Melanoma", "Benign::Nevus").tolist()
    wanted = recipe(aux_weight=1.0, mixup=mix, epochs=8)
    train_fold(
        tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker(), diagnoses=texts
    )
    assert weights(tmp_path / "m")["groups.weight"].shape == (len(GROUPS), 64)
    ids = folds["isic_id"].tolist()
    assert np.isfinite(embed(tmp_path / "m", tiles, ids[:3]).logits).all()
    loaded = load_model(tmp_path / "m")
    pixels = normalise(
        resize(*pack([tiles.image(name) for name in ids]), 32, "bicubic"), (0.5,) * 3, (0.5,) * 3
    )
    guessed = loaded.net(pixels)[1].argmax(1).numpy()
    assert (guessed == diagnosis_groups(texts)).mean() > 0.9


def test_indeterminate_lesions_have_a_target_of_their_own() -> None:
    texts = ["Benign", "Indeterminate::Solar or actinic keratosis", "Malignant::Melanoma", None]
    assert soften(np.array([0, 0, 1, 0]), texts, 0.5).tolist() == [0, 0.5, 1, 0]


def test_frozen_epochs_train_the_heads_alone(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    start = prepare(
        folds.loc[folds["fold"] != 0, "target"].to_numpy(), recipe(), 0
    ).net.state_dict()
    for epochs, moved in ((2, {"head.weight", "head.bias"}), (3, set(start))):
        wanted = recipe(freeze_epochs=2, epochs=epochs)
        train_fold(tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker())
        now = weights(tmp_path / "m")
        assert {name for name in now if not torch.equal(now[name], start[name])} == moved


def test_a_frozen_step_leaves_batch_norms_and_drop_path_at_rest(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    how = {"model": "test_efficientnet", "model_args": {}, "drop_path": 0.5}
    target = folds.loc[folds["fold"] != 0, "target"].to_numpy()
    start = prepare(target, recipe(**how), 0).net.state_dict()
    assert any(name.endswith("running_mean") for name in start)
    for epochs, backbone_moves in ((1, False), (2, True)):
        wanted = recipe(**how, freeze_epochs=1, epochs=epochs)
        train_fold(tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker())
        now = weights(tmp_path / "m")
        moved = {name for name in now if not torch.equal(now[name], start[name])}
        assert {"head.weight", "head.bias"} <= moved
        assert ("backbone.bn1.running_mean" in moved) is backbone_moves
        assert any(name.startswith("backbone.") for name in moved) is backbone_moves


def test_every_group_of_micro_batches_steps_the_last_partial_one_too(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe
) -> None:
    """One epoch of 60 rows: 40 tiles in 5 micro-batches of 8, so steps of 16, 16 and 8 tiles."""
    rows = folds[folds["fold"] != 0]
    run = prepare(rows["target"].to_numpy(np.int64), recipe(accumulate=2, epochs=1), 0)
    taken = []
    group: list[Batch] = []
    slots = run.sampling.slots(1)
    for batch in batches(tiles, rows["isic_id"].to_numpy(str), slots, 0, pin=False):
        group.append(batch)
        if batch.slot.ends_step:
            before = run.net.head.weight.detach().clone()
            taken.append(len(take_step(run, group, print).numpy()))
            assert not torch.equal(before, run.net.head.weight)
            group = []
    assert taken == [16, 16, 8]
    assert not group
    assert run.progress.step == run.steps == 3


def test_accumulated_micro_batches_make_the_gradient_of_one_batch(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe
) -> None:
    """SGD-like check on the gradient itself: clipped to nothing, AdamW would hide a wrong scale."""
    rows = folds[folds["fold"] != 0]
    ids, target = rows["isic_id"].to_numpy(str), rows["target"].to_numpy(np.int64)
    found = []
    for size, accumulate in ((16, 1), (8, 2), (4, 4)):
        run = prepare(target, recipe(batch_size=size, accumulate=accumulate, epochs=1), 0)
        slots = list(run.sampling.slots(1))[:accumulate]
        for batch in batches(tiles, ids, slots, 0, pin=False):
            list(steps._backward(run, batch))
        found.append(
            torch.cat([p.grad.flatten() for p in run.net.parameters() if p.grad is not None])
        )
    # 40 tiles: 3 batches of 13 or 14, and 5 or 10 smaller ones whose edges fall elsewhere; only
    # these two agree.
    torch.testing.assert_close(found[1], found[2], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("backbone", "knob", "tolerance"),
    [
        ("convnext", {"channels_last": True}, 1e-3),
        ("vit", {"checkpoint_gradients": True}, 1e-3),
        ("convnext", {"precision": "bf16"}, 0.1),
        pytest.param("convnext", {"compile": True}, 1e-3, marks=pytest.mark.slow),
    ],
)
def test_knobs_of_speed_and_memory_leave_the_losses_as_they_are(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    backbone: str,
    knob: dict[str, object],
    tolerance: float,
) -> None:
    plain, other = (
        train_fold(
            tiles,
            folds,
            0,
            recipe(backbone, **({"epochs": 2} | how)),
            tmp_path / "m",
            tmp_path / "r",
            NullTracker(),
        )
        for how in ({}, knob)
    )
    assert [row["loss"] for row in other] == pytest.approx(
        [row["loss"] for row in plain], rel=tolerance
    )


def test_estimates_are_said_at_the_start_and_corrected_on_the_way(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    estimate = TimeEstimate(fold=120.0, others=7200.0, other_folds=5)
    train_fold(
        tiles, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker(), estimate=estimate
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "isic: image: about 2 min for this fold, 2.0 h for the 6 left"
    # The folds here take seconds: the estimate of all must have followed.
    assert re.search(
        r"epoch 1/3 loss 0\.\d+, lr .*; \d+ s left, \d+ (s|min) for the 6 left", lines[-1]
    )
    assert "\r" not in "".join(lines)


def test_a_terminal_has_one_line_kept_current(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    estimate = TimeEstimate(fold=120.0, others=240.0, other_folds=2)
    train_fold(
        tiles,
        folds,
        0,
        recipe(),
        tmp_path / "m",
        tmp_path / "r",
        NullTracker(),
        name="vit-0",
        estimate=estimate,
    )
    live = re.findall(r"\r\x1b\[K(vit-0 epoch [^\r\n]*)", screen.getvalue())
    assert len(live) > 3
    assert all(re.match(r"vit-0 epoch \d/3 \d/5 loss \d\.\d{4}; \d+ s left", line) for line in live)
    assert "for the 3 left" in live[0]


def test_two_processes_follow_the_loss_curve_of_one(
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With frozen epochs, accumulation and averaged weights, at the same global batch; states are
    saved on the way.
    """
    monkeypatch.setattr(clock, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(clock, "SAVE_FACTOR", 0.0)
    how = {"accumulate": 2, "ema": 0.9, "freeze_epochs": 1, "epochs": 4}
    one = train_fold(
        tiles, folds, 0, recipe(batch_size=8, **how), tmp_path / "1", tmp_path / "r", NullTracker()
    )
    limits = Limits(devices=2)
    wanted = recipe(batch_size=4, **how)
    two = train_fold(tiles, folds, 0, wanted, tmp_path / "2", tmp_path / "r", NullTracker(), limits)
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=1e-4)


@pytest.mark.slow
def test_a_fault_in_another_process_is_the_one_line_of_the_first(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    """The second process alone reads every other tile: one of those is missing from the file."""
    plan = prepare(
        folds.loc[folds["fold"] != 0, "target"].to_numpy(np.int64), recipe(batch_size=4), 0
    ).sampling
    second = next(replace(plan, processes=2, rank=1).slots(1)).rows[0]
    lost = folds[folds["fold"] != 0]["isic_id"].iloc[int(second)]
    broken = write_tiles(
        tmp_path / "broken.hdf5",
        {name: tiles.image(name) for name in folds["isic_id"] if name != lost},
    )
    with pytest.raises(InputError, match=f"no image for {lost}"):
        train_fold(
            TileStore(broken), folds, 0, recipe(batch_size=4), tmp_path / "m", tmp_path / "r", NullTracker(),
            Limits(devices=2),
        )  # fmt: skip
    assert not (tmp_path / "m").exists()
