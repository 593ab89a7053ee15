"""What each of two processes is trained on, with mixup, where positives lie at an even distance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from isic.core.params import ImageRecipe
from isic.data.tiles import TileStore
from isic.image.network.loader import batches
from isic.image.training import step
from isic.image.training.augment import Augmenter
from isic.image.training.parallel import ProcessGroup, join, process_group
from isic.image.training.run import prepare
from isic.image.training.train import Job, Limits


def train_and_count(job: Job, group: ProcessGroup) -> Tensor:
    """Tiles with a share of a malignant one in each micro-batch's loss, (processes, micro-batches)
    over all processes.
    """
    run = prepare(
        job.folds.loc[job.training, "target"].to_numpy(np.int64), job.recipe, job.fold, None, group
    )
    own = step.per_tile
    malignant: list[int] = []

    def counted(logits: Tensor, wanted: Tensor, *rest: Any) -> Tensor:
        malignant.append(int((wanted > 0).sum()))
        return own(logits, wanted, *rest)

    step.per_tile = counted
    try:
        augment = Augmenter(job.recipe.augment, 0)
        slots = run.sampling.slots(job.recipe.epochs)
        for batch in batches(job.tiles, job.ids, slots, 0, False, augment.augment_slot):
            step.take_step(run, [batch], print)
    finally:
        step.per_tile = own
    counts = torch.zeros(group.size, len(malignant))
    counts[group.rank] = torch.tensor(malignant, dtype=torch.float32)
    return group.sum(counts)


def train_beside(job: Job) -> None:
    """The other process's part."""
    train_and_count(job, join(2))


def test_malignant_tiles_reach_every_process(
    tiles: TileStore, folds: pd.DataFrame, recipe: Callable[..., ImageRecipe], tmp_path: Path
) -> None:
    """One malignant tile in four of a micro-batch of eight: dealt by position, one process gets
    all.
    """
    wanted = recipe(
        batch_size=4,
        accumulate=1,
        negatives_per_positive=3.0,
        mixup=0.2,
        epochs=3,
        precision="fp32",
    )
    job = Job(tiles, folds, 0, wanted, tmp_path / "r", "vit", None, Limits(devices=2))
    with process_group(2, train_beside, (job,)) as group:
        counts = train_and_count(job, group)
    assert counts.shape[0] == 2
    assert counts.shape[1] >= 6
    assert (counts >= 1).all(), counts
    # Mixup blends each tile with another: a malignant tile reaches up to two.
    assert (counts <= 4).all()
    assert counts.mean() > 1
