"""The score of an epoch: all held-out positives and a fixed draw of negatives, cheap enough to
repeat.

The full fold is scored once, by `embed`. Nothing is chosen by these scores; where the recipe says
`early_stop`, a further fold that is kept out of training decides by its own.
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

#: A validation costs at most this share of the epochs it stands for; a forward pass is a third of a
#: training step.
SHARE = 0.1
#: Tiles per forward pass.
PART = 256


class ValidationSet(NamedTuple):
    """Held-out labels (n,) and their tiles as the network's size, uint8 (n, 3, size, size) on the
    CPU.

    The tiles lie in page-locked memory beside a GPU, which then fetches them itself.
    """

    target: NDArray[np.int64]
    levels: Tensor

    def score(self, run: Run) -> dict[str, float]:
        """pAUC and AUC of the run's network as it stands."""
        logits = self._logits(run, run.precision)
        return {"pauc": pauc(self.target, logits), "auc": auc(self.target, logits)}

    def scoring_precision(self, run: Run) -> str:
        """Number format for the trained network's scores: fp16 where all of these tiles have a
        finite one.

        bf16 has less than a tenth of its precision and goes where fp16 overflows; fp32 is a CPU's.
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
            said, _ = machine.split_until_it_fits(forward, len(self.levels), PART)
        return torch.cat(said).double().cpu().numpy()


class Exams(NamedTuple):
    """That of the scored fold, for information, and that of the fold that decides when to stop, if
    one does.
    """

    scored: ValidationSet
    watched: ValidationSet | None

    def every(self, tiles_per_epoch: int) -> int:
        """Epochs between validations."""
        count = len(self.scored.target) + (len(self.watched.target) if self.watched else 0)
        return max(1, -(-count // max(1, int(3 * SHARE * tiles_per_epoch))))

    def score(self, run: Run) -> dict[str, float]:
        """pAUC and AUC of the run's network as it stands; those of the watched fold end in
        `_watched`.
        """
        watched = self.watched.score(run) if self.watched else {}
        return self.scored.score(run) | {
            f"{name}_watched": value for name, value in watched.items()
        }


def make_exam(
    tiles: TileStore, held_out: pd.DataFrame, negatives: int, seed: int, spec: Spec
) -> ValidationSet:
    """Read the tiles to be scored; `held_out` has isic_id and target. InputError when it holds one
    class only.
    """
    target = held_out[TARGET].to_numpy(np.int64)
    if len(np.unique(target)) < 2:
        raise InputError(
            "the held-out fold needs malignant and benign lesions: use fewer folds or more data"
        )
    rows = validation_rows(target, negatives, seed)
    ids = held_out[ID].to_numpy(str)[rows]
    levels = [
        resize(*pack([tiles.image(name) for name in part]), spec.size, spec.interpolation)
        for part in np.array_split(ids, -(-len(ids) // 128))
    ]
    every = torch.cat(levels)
    return ValidationSet(
        target[rows], every.pin_memory() if machine.pick().type == "cuda" else every
    )
