"""Which tiles an epoch shows, in which order: a function of (labels, recipe, seed, epoch) and
nothing else.

The field's answer to 0.1 % prevalence (FIELD: every competition system read): each epoch takes all
positives, some times over, and a small fresh draw of negatives. Positives are spread evenly, so
every batch holds the set share.
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
        """Shown per epoch: the set ratio as far as there are any, and a few more that fill up the
        micro-batches.
        """
        return self.tiles - self.positives

    @property
    def tiles(self) -> int:
        """Shown per epoch over all processes: a multiple of the micro-batches."""
        shares = self.micro_batches * self.processes
        return -(-self._wanted // shares) * shares

    @property
    def _wanted(self) -> int:
        """Tiles of an epoch before micro-batches are filled up."""
        negatives = max(1, round(self.positives * self.negatives_per_positive))
        return self.positives + min(negatives, int((self.target == 0).sum()))

    @property
    def micro_batches(self) -> int:
        """Per epoch and process, all of one size: another would be compiled and tuned for anew on a
        GPU.
        """
        return -(-self._wanted // (self.batch_size * self.processes))

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch; the last, partial group of micro-batches steps as well."""
        return -(-self.micro_batches // self.accumulate)

    def rows(self, epoch: int) -> Rows:
        """Row numbers of one epoch in order, positives evenly spread."""
        random = stream(EPOCH, self.seed, epoch)
        positive = np.concatenate(
            [
                random.permutation(np.flatnonzero(self.target == 1))
                for _ in range(self.positive_repeats)
            ]
        )
        # As many rounds of all negatives as the epoch needs: one, but where filling up takes more
        # than there are.
        benign = np.flatnonzero(self.target == 0)
        rounds = [random.permutation(benign) for _ in range(-(-self.negatives // len(benign)))]
        negative = np.concatenate(rounds)[: self.negatives]
        place = ((np.arange(len(positive)) + random.random()) * self.tiles / len(positive)).astype(
            np.int64
        )
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
        size = len(rows) // self.micro_batches
        for micro in range(first, self.micro_batches):
            group = micro // self.accumulate * self.accumulate
            end = min(group + self.accumulate, self.micro_batches)
            position = self._dealt(rows, np.arange(micro * size, (micro + 1) * size), micro)
            yield Slot(
                epoch=epoch,
                micro=micro,
                rows=rows[position],
                position=position,
                step_tiles=(end - group) * size,
                ends_step=micro + 1 == end,
                ends_epoch=micro + 1 == self.micro_batches,
            )

    def _dealt(self, rows: Rows, position: Rows, micro: int) -> Rows:
        """This process' share of a micro-batch of all, ascending.

        Positives are dealt before the others, as cards are: at their even distance, which may be a
        multiple of the number of processes, one process would get all of them. Who is dealt the
        first changes with the micro-batch.
        """
        positive = self.target[rows[position]] == 1
        dealt = np.concatenate([position[positive], position[~positive]])
        return np.sort(dealt[(self.rank + micro) % self.processes :: self.processes])


def validation_rows(target: NDArray[np.int64], negatives: int, seed: int) -> Rows:
    """All positives and a fixed draw of at most `negatives` others, ascending: the same in every
    epoch.
    """
    others = np.flatnonzero(target == 0)
    drawn = stream(VALIDATION, seed).choice(others, min(negatives, len(others)), replace=False)
    return np.sort(np.concatenate([np.flatnonzero(target == 1), drawn]))
