"""Tiles of an epoch and their order: a function of (labels, recipe, seed, epoch).

As in the competition's published systems (FIELD), for a prevalence of 0.1 %: each epoch has all
positives, repeated, and a small new sample of negatives. Positives are evenly spaced, so every
batch has the configured share.
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
    """One micro-batch of this process: its rows and its position in the run."""

    epoch: int
    micro: int  # index of the micro-batch within its epoch
    rows: Rows
    position: Rows  # of each row within its epoch, over all processes
    step_tiles: int  # tiles of the whole optimiser step, over all processes
    ends_step: bool
    ends_epoch: bool


@dataclass(frozen=True)
class Sampling:
    """Sampling of epochs from the labels of the training rows."""

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
        """Shown per epoch: the configured ratio or all there are, and a few more to fill up the
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
        """Per epoch and process, all of one size: another size is compiled and tuned again on a
        GPU.
        """
        return -(-self._wanted // (self.batch_size * self.processes))

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch, with one for the last, partial group of micro-batches."""
        return -(-self.micro_batches // self.accumulate)

    def rows(self, epoch: int) -> Rows:
        """Row indices of one epoch in order, positives evenly spaced."""
        random = stream(EPOCH, self.seed, epoch)
        positive = np.concatenate(
            [
                random.permutation(np.flatnonzero(self.target == 1))
                for _ in range(self.positive_repeats)
            ]
        )
        # One round of all negatives, or more if filling up needs more than there are.
        others = np.flatnonzero(self.target == 0)
        rounds = [random.permutation(others) for _ in range(-(-self.negatives // len(others)))]
        negative = np.concatenate(rounds)[: self.negatives]
        position = (
            (np.arange(len(positive)) + random.random()) * self.tiles / len(positive)
        ).astype(np.int64)
        rows = np.empty(self.tiles, dtype=np.int64)
        is_positive = np.zeros(self.tiles, dtype=bool)
        is_positive[position] = True
        rows[is_positive] = positive
        rows[~is_positive] = negative
        return rows

    def slots(self, epochs: int, epoch: int = 0, micro: int = 0) -> Iterator[Slot]:
        """All micro-batches of this process from (epoch, micro) to the end."""
        for current in range(epoch, epochs):
            yield from self._epoch_slots(current, micro if current == epoch else 0)

    def _epoch_slots(self, epoch: int, first: int) -> Iterator[Slot]:
        rows = self.rows(epoch)
        size = len(rows) // self.micro_batches
        for micro in range(first, self.micro_batches):
            group = micro // self.accumulate * self.accumulate
            end = min(group + self.accumulate, self.micro_batches)
            position = self._share(rows, np.arange(micro * size, (micro + 1) * size), micro)
            yield Slot(
                epoch=epoch,
                micro=micro,
                rows=rows[position],
                position=position,
                step_tiles=(end - group) * size,
                ends_step=micro + 1 == end,
                ends_epoch=micro + 1 == self.micro_batches,
            )

    def _share(self, rows: Rows, position: Rows, micro: int) -> Rows:
        """This process' share of a micro-batch, ascending.

        Positives are dealt out in turn before the negatives. Their even spacing may be a multiple
        of the number of processes, and one process would get all of them. The first process to get
        one changes with the micro-batch.
        """
        positive = self.target[rows[position]] == 1
        dealt = np.concatenate([position[positive], position[~positive]])
        return np.sort(dealt[(self.rank + micro) % self.processes :: self.processes])


def validation_rows(target: NDArray[np.int64], negatives: int, seed: int) -> Rows:
    """Row indices of all positives and a fixed sample of at most `negatives` others, ascending."""
    others = np.flatnonzero(target == 0)
    sample = stream(VALIDATION, seed).choice(others, min(negatives, len(others)), replace=False)
    return np.sort(np.concatenate([np.flatnonzero(target == 1), sample]))
