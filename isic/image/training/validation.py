"""Validation scores of an epoch: all positives of a held-out fold and a fixed sample of negatives.

They are logged and select nothing; `embed` scores the whole fold once. With `early_stop`, the score
of a further held-out fold ends training.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from isic.core.errors import InputError
from isic.core.metric import auc, pauc
from isic.core.schema import ID, TARGET
from isic.data.tiles import TileStore
from isic.image.network import device as machine
from isic.image.network.backbone import Spec
from isic.image.network.pixels import normalise, pack, resize
from isic.image.training.run import Run
from isic.image.training.sampler import validation_rows

#: Negatives of a sample that decides something: when training stops, and the number format of the
#: scores. Not `image.validate_negatives`, so that this key only changes what is logged.
DECIDING_NEGATIVES = 1500
#: Largest cost of the validations of one fold, as a share of the epochs between them. A forward
#: pass costs a third of a training step.
SHARE = 0.1
#: Tiles per forward pass.
PART = 256


class ValidationSet(NamedTuple):
    """Labels (n,) of held-out lesions and their resized tiles, uint8 (n, 3, size, size) on the CPU.

    With a GPU the tiles lie in page-locked memory, from which the GPU copies without the CPU.
    """

    target: NDArray[np.int64]
    levels: Tensor

    def interval(self, tiles_per_epoch: int) -> int:
        """Epochs between validations."""
        return max(1, -(-len(self.target) // max(1, int(3 * SHARE * tiles_per_epoch))))

    def score(self, run: Run) -> dict[str, float]:
        """pAUC and AUC of the run's network in its current state."""
        logits = self._logits(run, run.precision)
        return {"pauc": pauc(self.target, logits), "auc": auc(self.target, logits)}

    def scoring_precision(self, run: Run) -> str:
        """Number format for the trained network's scores: fp16 if all logits are finite in it.

        Else bf16, which has less than a tenth of the precision but does not overflow. fp32 on a
        CPU.
        """
        for precision in ("fp16", "bf16"):
            usable = machine.scoring_precision(precision, run.device) == precision
            if usable and np.isfinite(self._logits(run, precision)).all():
                return precision
        return "fp32"

    def _logits(self, run: Run, precision: str) -> NDArray[np.float64]:
        net = run.scored
        net.eval()

        def forward(start: int, most: int) -> Tensor:
            levels = machine.to_device(self.levels[start : start + most], run.device)
            return net(normalise(levels, run.spec.mean, run.spec.std))[0]

        with torch.inference_mode(), machine.autocast(precision, run.device):
            logits, _ = machine.split_until_it_fits(forward, len(self.levels), PART)
        return torch.cat(logits).double().cpu().numpy()


class Validation(NamedTuple):
    """Validation sets of a run: that of the left-out fold, which is logged, and that of the
    early-stopping fold, if any.
    """

    logged: ValidationSet
    stopping: ValidationSet | None

    def score(self, run: Run, epoch: int) -> dict[str, float]:
        """pAUC and AUC of the sets due after `epoch` (from 1); all are due after the last one.

        Names of the early-stopping fold's scores end in `_watched`. None is due in pre-training.
        """
        scores: dict[str, float] = {}
        epoch -= run.recipe.pretraining_epochs
        if epoch < 1:
            return scores
        for validation_set, ending in ((self.logged, ""), (self.stopping, "_watched")):
            if validation_set is None:
                continue
            interval = validation_set.interval(run.sampling.tiles)
            if epoch % interval == 0 or epoch == run.recipe.epochs:
                for name, value in validation_set.score(run).items():
                    scores[name + ending] = value
        return scores


def make_validation_set(
    tiles: TileStore, held_out: pd.DataFrame, negatives: int, seed: int, spec: Spec
) -> ValidationSet:
    """Read and resize the tiles of a sample of `held_out` (isic_id, target).

    Raises InputError when it holds one class only.
    """
    target = held_out[TARGET].to_numpy(np.int64)
    if len(np.unique(target)) < 2:
        raise InputError(
            "the held-out fold needs malignant and benign lesions: use fewer folds or more data"
        )

    rows = validation_rows(target, negatives, seed)
    ids = held_out[ID].to_numpy(str)[rows]
    parts = [
        resize(*pack([tiles.image(isic_id) for isic_id in part]), spec.size, spec.interpolation)
        for part in np.array_split(ids, -(-len(ids) // 128))
    ]
    levels = torch.cat(parts)
    on_gpu = machine.pick().type == "cuda"
    return ValidationSet(target[rows], levels.pin_memory() if on_gpu else levels)
