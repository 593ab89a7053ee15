"""The score of an epoch: all held-out positives and a fixed draw of negatives, cheap enough to repeat.

The full fold is scored once, by `embed`. Nothing is chosen by these scores; where the recipe says `early_stop`, a
further fold that is kept out of training decides by its own.
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

#: A validation costs at most this share of the epochs it stands for; a forward pass is a third of a training step.
SHARE = 0.1


class ValidationSet(NamedTuple):
    """Held-out labels (n,) and their tiles as the network's size, uint8 (n, 3, size, size)."""

    target: NDArray[np.int64]
    levels: Tensor

    def score(self, run: Run) -> dict[str, float]:
        """pAUC and AUC of the run's network as it stands."""
        net = run.scored
        net.eval()
        said = []
        with torch.inference_mode(), machine.autocast(run.precision, run.device):
            for part in self.levels.split(256):
                pixels = normalise(part.to(run.device, non_blocking=True), run.spec.mean, run.spec.std)
                said.append(net(pixels)[0].float().cpu())
        logits = torch.cat(said).double().numpy()
        return {"pauc": pauc(self.target, logits), "auc": auc(self.target, logits)}


class Exams(NamedTuple):
    """That of the scored fold, for information, and that of the fold that decides when to stop, if one does."""

    scored: ValidationSet
    watched: ValidationSet | None

    def every(self, tiles_per_epoch: int) -> int:
        """Epochs between validations."""
        count = len(self.scored.target) + (len(self.watched.target) if self.watched else 0)
        return max(1, -(-count // max(1, int(3 * SHARE * tiles_per_epoch))))

    def score(self, run: Run) -> dict[str, float]:
        """pAUC and AUC of the run's network as it stands; those of the watched fold end in `_watched`."""
        watched = self.watched.score(run) if self.watched else {}
        return self.scored.score(run) | {f"{name}_watched": value for name, value in watched.items()}


def make_exam(tiles: TileStore, held_out: pd.DataFrame, negatives: int, seed: int, spec: Spec) -> ValidationSet:
    """Read the tiles to be scored; `held_out` has isic_id and target. InputError when it holds one class only."""
    target = held_out[TARGET].to_numpy(np.int64)
    if len(np.unique(target)) < 2:
        raise InputError("the held-out fold needs malignant and benign lesions: use fewer folds or more data")
    rows = validation_rows(target, negatives, seed)
    ids = held_out[ID].to_numpy(str)[rows]
    levels = [
        resize(*pack([tiles.image(name) for name in part]), spec.size, spec.interpolation)
        for part in np.array_split(ids, -(-len(ids) // 128))
    ]
    return ValidationSet(target[rows], torch.cat(levels))
