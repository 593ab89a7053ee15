"""Which tiles an epoch shows, in which order: a function of (labels, recipe, seed, epoch) and nothing else.

The field's answer to 0.1 % prevalence (FIELD: every competition system read): each epoch takes all positives, some
times over, and a small fresh draw of negatives. Positives are spread evenly, so every batch holds the set share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.image.training.rng import EPOCH, VALIDATION, stream

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Slot:
    """One micro-batch of this process: rows to show, and where in the run it stands."""

    epoch: int
    micro: int  # number of the micro-batch within its epoch
    rows: Rows
    position: Rows  # of each row within its epoch, over all processes
    step_tiles: int  # tiles of the whole optimiser step, over all processes
    ends_step: bool
    ends_epoch: bool


@dataclass(frozen=True)
class Sampling:
    """How epochs are drawn from the labels of the training rows."""

    target: NDArray[np.int64]
    negatives_per_positive: float
    positive_repeats: int
    batch_size: int
    accumulate: int
    seed: int
    processes: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if not (self.target == 1).any() or not (self.target == 0).any():
            raise InputError("the training folds hold one class only: use more data or fewer folds")

    @property
    def positives(self) -> int:
        """Shown per epoch."""
        return int((self.target == 1).sum()) * self.positive_repeats

    @property
    def negatives(self) -> int:
        """Shown per epoch: the set ratio, as far as there are any."""
        wanted = max(1, round(self.positives * self.negatives_per_positive))
        return min(wanted, int((self.target == 0).sum()))

    @property
    def tiles(self) -> int:
        return self.positives + self.negatives

    @property
    def micro_batches(self) -> int:
        return -(-self.tiles // (self.batch_size * self.processes))

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch; the last, partial group of micro-batches steps as well."""
        return -(-self.micro_batches // self.accumulate)

    def rows(self, epoch: int) -> Rows:
        """Row numbers of one epoch in order, positives evenly spread."""
        random = stream(EPOCH, self.seed, epoch)
        positive = np.concatenate(
            [random.permutation(np.flatnonzero(self.target == 1)) for _ in range(self.positive_repeats)]
        )
        negative = random.choice(np.flatnonzero(self.target == 0), self.negatives, replace=False)
        place = ((np.arange(len(positive)) + random.random()) * self.tiles / len(positive)).astype(np.int64)
        rows = np.empty(self.tiles, dtype=np.int64)
        is_positive = np.zeros(self.tiles, dtype=bool)
        is_positive[place] = True
        rows[is_positive] = positive
        rows[~is_positive] = negative
        return rows

    def slots(self, epochs: int, epoch: int = 0, micro: int = 0) -> Iterator[Slot]:
        """All micro-batches of this process from (epoch, micro) to the end."""
        for number in range(epoch, epochs):
            yield from self._epoch_slots(number, micro if number == epoch else 0)

    def _epoch_slots(self, epoch: int, first: int) -> Iterator[Slot]:
        rows = self.rows(epoch)
        # Nearly equal parts: a last batch of one tile would make a noisy step and break batch norms.
        edges = np.linspace(0, len(rows), self.micro_batches + 1).round().astype(np.int64)
        for micro in range(first, self.micro_batches):
            group = micro // self.accumulate * self.accumulate
            end = min(group + self.accumulate, self.micro_batches)
            position = np.arange(edges[micro], edges[micro + 1])[self.rank :: self.processes]
            yield Slot(
                epoch=epoch,
                micro=micro,
                rows=rows[position],
                position=position,
                step_tiles=int(edges[end] - edges[group]),
                ends_step=micro + 1 == end,
                ends_epoch=micro + 1 == self.micro_batches,
            )


def validation_rows(target: NDArray[np.int64], negatives: int, seed: int) -> Rows:
    """All positives and a fixed draw of at most `negatives` others, ascending: the same in every epoch."""
    others = np.flatnonzero(target == 0)
    drawn = stream(VALIDATION, seed).choice(others, min(negatives, len(others)), replace=False)
    return np.sort(np.concatenate([np.flatnonzero(target == 1), drawn]))
