"""Tiles of an epoch and their order: a function of (labels, recipe, seed, epoch).

As in the competition's published systems, for a prevalence of 0.1 %: each epoch has all positives,
repeated, and a small new sample of negatives. Positives are evenly spaced, so every batch has the
configured share. Pictures of other sources may be a share of an epoch, with the same share of
positives.
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
    """Sampling of epochs from the labels of the training rows.

    With `own` (n,), the counts are those of these rows, and `share` of an epoch's tiles are others.
    """

    target: NDArray[np.int64]
    negatives_per_positive: float
    positive_repeats: int
    batch_size: int
    accumulate: int
    seed: int
    processes: int = 1
    rank: int = 0
    own: NDArray[np.bool_] | None = None
    share: float = 0.0

    def __post_init__(self) -> None:
        if not len(self._own(1)) or not len(self._own(0)):
            raise InputError("the training folds hold one class only: use more data or fewer folds")

    def _own(self, label: int) -> Rows:
        rows = self.target == label
        return np.flatnonzero(rows if self.own is None else rows & self.own)

    def _others(self, label: int) -> Rows:
        """Rows that are not own, [] without a share of them."""
        if self.own is None or not self.share:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero((self.target == label) & ~self.own)

    @property
    def positives(self) -> int:
        """Shown per epoch."""
        return self._own_positives + self._other_count(1)

    @property
    def _own_positives(self) -> int:
        return len(self._own(1)) * self.positive_repeats

    def _other_count(self, label: int) -> int:
        """Rows that are not own shown per epoch, with the configured share of positives."""
        if not len(self._others(label)):
            return 0
        tiles = self._own_wanted * self.share / (1 - self.share)
        positives = tiles / (1 + self.negatives_per_positive)
        return round(positives if label else tiles - positives)

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
        return self._own_wanted + self._other_count(1) + self._other_count(0)

    @property
    def _own_wanted(self) -> int:
        negatives = max(1, round(self._own_positives * self.negatives_per_positive))
        return self._own_positives + min(negatives, len(self._own(0)))

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
        positive = _draw(random, self._own(1), self._own_positives)
        # One round of all negatives, or more if filling up needs more than there are.
        negative = _draw(random, self._own(0), self.negatives - self._other_count(0))
        if len(self._others(1)) or len(self._others(0)):
            positive, negative = (
                random.permutation(
                    np.concatenate(
                        [own, _draw(random, self._others(label), self._other_count(label))]
                    )
                )
                for own, label in ((positive, 1), (negative, 0))
            )
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


def _draw(random: np.random.Generator, rows: Rows, count: int) -> Rows:
    """`count` of the rows in random order, each once before any is drawn again."""
    if not count:
        return rows[:0]
    rounds = [random.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.concatenate(rounds)[:count]


def validation_rows(target: NDArray[np.int64], negatives: int, seed: int) -> Rows:
    """Row indices of all positives and a fixed sample of at most `negatives` others, ascending."""
    others = np.flatnonzero(target == 0)
    sample = stream(VALIDATION, seed).choice(others, min(negatives, len(others)), replace=False)
    return np.sort(np.concatenate([np.flatnonzero(target == 1), sample]))
