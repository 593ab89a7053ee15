"""Tests that need a GPU; skipped without one. None has a time limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from isic.core.io import read_json
from isic.core.params import ImageRecipe
from isic.core.tracker import NullTracker
from isic.data.tiles import TileStore
from isic.image.network import device as machine
from isic.image.network.artifact import Model, load_model
from isic.image.network.embed import embed
from isic.image.network.loader import Batch, batches
from isic.image.network.pixels import pack, resize, resize_by_matrices
from isic.image.training.augment import Augmenter
from isic.image.training.run import Run, prepare
from isic.image.training.step import take_step
from isic.image.training.train import Limits, OutOfTime, train_fold
from isic.image.training.validation import ValidationSet, make_validation_set
from tests.image.conftest import preset_recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

Recipe = Callable[..., ImageRecipe]
PRESETS = [
    (preset, backbone) for preset in ("full", "kaggle_t4") for backbone in ("eva02", "convnext")
]


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Context in which a call of torch that makes the CPU wait for the GPU raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def steps_of(run: Run, tiles: TileStore, folds: pd.DataFrame) -> Iterator[list[Batch]]:
    group = []
    augment = Augmenter("flips", 0).augment_slot
    ids = folds["isic_id"].to_numpy(str)
    for batch in batches(tiles, ids, run.sampling.slots(10**6), 0, True, augment):
        group.append(batch)
        if batch.slot.ends_step:
            yield group
            group = []


@pytest.mark.parametrize(("preset", "backbone"), PRESETS)
def test_no_step_waits_for_the_gpu(
    tiles: TileStore, folds: pd.DataFrame, preset: str, backbone: str
) -> None:
    """The presets' own recipes: averaged weights, mixup, clipping, fp16's scaler. The first steps
    fill caches.
    """
    wanted = preset_recipe(preset, backbone, epochs=10**6)
    run = prepare(folds["target"].to_numpy(np.int64), wanted, 0)
    groups = steps_of(run, tiles, folds)
    for group in islice(groups, 3):
        take_step(run, group, print)
    ready = list(islice(groups, 3))
    with waiting_is_an_error():
        losses = [take_step(run, group, print) for group in ready]
    assert all(np.isfinite(one.numpy()).all() for one in losses)


def test_the_tool_notices_a_wait() -> None:
    with waiting_is_an_error(), pytest.raises(RuntimeError):
        torch.ones(1, device="cuda").item()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_embedding_does_not_wait_within_a_batch(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, precision: str
) -> None:
    run = prepare(folds["target"].to_numpy(np.int64), recipe(), 0)
    model = Model(run.net.eval().requires_grad_(False), run.spec, "none", precision)
    names = folds["isic_id"].tolist() * 8
    first = embed(model, tiles, names, workers=0)
    with waiting_is_an_error():
        again = embed(model, tiles, names, workers=0)
    assert np.array_equal(first.logits, again.logits)
    assert (again.precision, again.device != "CPU") == (precision, True)


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [48, 224])
def test_pixels_are_those_of_a_cpu_to_the_last_bit(size: int, kind: str, tf32: bool) -> None:
    random = np.random.default_rng(0)
    sides = [*random.integers(51, 240, (64, 2)).tolist(), [300, 77]]
    images = [random.integers(0, 256, (*side, 3), dtype=np.uint8) for side in sides]
    images += [image // 128 * 255 for image in images[:16]]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        for part in (images, images[:16]):
            canvas, sizes = pack(part)
            there = resize_by_matrices(canvas.cuda(), sizes.cuda(), size, kind).cpu()
            assert torch.equal(there, resize(canvas, sizes, size, kind))
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("backbone", ["eva02", "convnext"])
def test_a_network_trained_on_a_gpu_scores_alike_in_every_format_and_at_home(
    tiles: TileStore,
    folds: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backbone: str,
) -> None:
    wanted = preset_recipe("full", backbone, epochs=6, lr=0.002, ema=0.9)
    train_fold(tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker())
    assert read_json(tmp_path / "m" / "config.json")["scoring_precision"] == "fp16"
    ids = folds["isic_id"].tolist()
    found = {}
    for precision in ("fp32", "fp16", "bf16"):
        found[precision] = embed(
            load_model(tmp_path / "m")._replace(precision=precision), tiles, ids
        ).logits
    monkeypatch.setattr(machine, "pick", lambda: torch.device("cpu"))
    home = embed(tmp_path / "m", tiles, ids)
    assert home.precision == "fp32"
    assert np.std(home.logits) > 0.05
    for precision, median, most in (
        ("fp32", 1e-5, 1e-4),
        ("fp16", 3e-3, 2e-2),
        ("bf16", 3e-2, 0.1),
    ):
        difference = np.abs(found[precision] - home.logits)
        assert np.median(difference) <= median, precision
        assert difference.max() <= most, precision


@pytest.mark.parametrize(("preset", "backbone"), PRESETS)
def test_a_preset_stopped_on_a_gpu_goes_on_to_the_same_weights(
    tiles: TileStore, folds: pd.DataFrame, tmp_path: Path, preset: str, backbone: str
) -> None:
    """Fused AdamW with channels last, as in the presets; kernels with a fixed summation order."""
    wanted = preset_recipe(preset, backbone, batch_size=16)
    limits = Limits(workers=0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        short = Limits(workers=0, max_hours=1e-9)
        with pytest.raises(OutOfTime):
            train_fold(
                tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker(), short
            )
        for name, state in (("m", "r"), ("whole", "r0")):
            folder = tmp_path / name
            train_fold(tiles, folds, 0, wanted, folder, tmp_path / state, NullTracker(), limits)
    finally:
        torch.use_deterministic_algorithms(False)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("m", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_memory_that_runs_out_halves_training_validation_and_embedding(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GPU with memory for weights, moments and part of the batch."""
    how = {
        "model": "vit_tiny",
        "model_args": {},
        "size": 224,
        "batch_size": 40,
        "precision": "fp32",
    }
    wanted = recipe(**how)
    target = folds["target"].to_numpy(np.int64)
    run = prepare(target, wanted, 0)
    (group,) = islice(steps_of(run, tiles, folds), 1)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    whole = take_step(run, group, print).numpy()
    peak = torch.cuda.max_memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    run = prepare(target, wanted, 0)
    exam = make_validation_set(tiles, folds, 75, 0, run.spec)
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction((held + 0.6 * (peak - held)) / total)
        parts = take_step(run, group, print).numpy()
        assert run.progress.chunks > 1
        assert "out of memory" in capsys.readouterr().out
        np.testing.assert_allclose(parts, whole, atol=1e-2)
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 60e6) / total)
        assert np.isfinite(list(exam.score(run).values())).all()
        model = Model(run.net.eval().requires_grad_(False), run.spec, "none")
        assert np.isfinite(embed(model, tiles, folds["isic_id"].tolist(), workers=0).logits).all()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_tiles_of_a_validation_wait_in_page_locked_memory(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe
) -> None:
    run = prepare(folds["target"].to_numpy(np.int64), recipe(), 0)
    exam: ValidationSet = make_validation_set(tiles, folds, 40, 0, run.spec)
    assert exam.levels.is_pinned()
