"""Progress of a training run on stderr: lines, an updated line on a terminal, warnings."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from isic.image.clock import Clock
    from isic.image.training.run import Run
    from isic.image.training.sampler import Slot

#: A network that learns has one of these from this epoch and validation on; random scores have
#: pAUC 0.02 and AUC 0.5. With few malignant lesions the pAUC alone is noise.
_LEARNT_PAUC, _LEARNT_AUC = 0.05, 0.6
_LEARNT_AFTER, _VALIDATIONS = 5, 3
#: Largest share of an epoch spent waiting for tiles, and seconds below which that does not matter.
_WAIT, _WAIT_SECONDS = 0.2, 5.0
#: Largest relative difference between the actual and the configured share of positives.
_SHARE = 0.1
#: Fall of pAUC below its best, three validations in a row; the noise of one fold is about 0.01.
_FALL = 0.02


def red_flags(history: Sequence[Mapping[str, Any]], set_share: float) -> dict[str, str]:
    """Warnings by name for the usual signs of a broken run; empty without any.

    `history` has one row per epoch as in history.csv; `set_share` is the recipe's share of
    positives.
    """
    last = history[-1]
    validated = [row for row in history if row["pauc"] is not None]
    scored = [row["pauc"] for row in validated]
    best = max(scored, default=0.0)
    flags = {}
    if (
        len(history) >= _LEARNT_AFTER
        and len(validated) >= _VALIDATIONS
        and scored[-1] < _LEARNT_PAUC
        and validated[-1]["auc"] < _LEARNT_AUC
    ):
        flags["pauc_low"] = (
            f"pAUC {scored[-1]:.3f} after {last['epoch']} epochs: try another lr or longer warm-up"
        )
    if len(history) >= 4 and last["loss"] >= 0.995 * history[0]["loss"]:
        change = f"{history[0]['loss']:.4f} to {last['loss']:.4f}"
        flags["loss_flat"] = f"training loss does not fall ({change}): try another lr"
    if len(scored) >= 4 and max(scored[-3:]) < best - _FALL:
        flags["validation_falling"] = (
            f"pAUC was {best:.3f} and is {scored[-1]:.3f}: fewer epochs or more augmentation"
        )
    if abs(last["positive_share"] - set_share) > _SHARE * set_share:
        shares = (
            f"{last['positive_share']:.3f} of the tiles shown are positive, not the configured"
            f" {set_share:.3f}"
        )
        flags["share_off"] = f"{shares}: lower negatives_per_positive or use more data"
    if last["data_wait"] > _WAIT and last["data_wait"] * last["seconds"] > _WAIT_SECONDS:
        flags["data_wait"] = (
            f"{last['data_wait']:.0%} of the epoch waited for tiles: set image.workers or cache_gb"
        )
    return flags


class TimeEstimate(NamedTuple):
    """Estimated seconds of this fold, and of the `other_folds` untrained others together."""

    fold: float
    others: float
    other_folds: int

    def remaining(self, left: float, total: float) -> str:
        """Time for all untrained folds. This fold has `left` of `total` seconds left; the others
        are scaled by its speed.
        """
        scale = total / self.fold if self.fold else 1.0
        return f"{duration(left + self.others * scale)} for the {self.other_folds + 1} left"


#: Seconds between epoch lines.
_LINE_SECONDS = 60.0


class Console:
    """Progress on stderr: on a terminal with an updated line, elsewhere only lines of a log."""

    def __init__(
        self, name: str, epochs: int, estimate: TimeEstimate | None = None, quiet: bool = False
    ) -> None:
        self.name = name
        self.epochs = epochs
        self.estimate = estimate
        self.quiet = quiet
        self.live = sys.stderr.isatty() and not quiet
        self._warned: set[str] = set()
        self._last_line = time.monotonic()

    def start(self, share: float) -> None:
        """Print the estimates; earlier processes trained `share` of this fold."""
        if self.estimate:
            left = self.estimate.fold * (1 - share)
            total = self.estimate.remaining(left, self.estimate.fold)
            self.write(f"about {duration(left)} for this fold, {total}")

    def step(self, run: Run, slot: Slot, clock: Clock) -> None:
        """Update the line on a terminal."""
        sums = run.progress.epoch_sums
        if self.live and sums:
            done = (
                f"epoch {slot.epoch + 1}/{self.epochs}"
                f" {slot.micro + 1}/{run.sampling_of(slot.epoch).micro_batches}"
            )
            loss = sums["loss"] / max(1.0, sums["finite"])
            line = f"{self.name} {done} loss {loss:.4f}; {self._left(run, clock)}"
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()

    def epoch(self, row: Mapping[str, Any], run: Run, clock: Clock) -> None:
        """Print a line after the first epoch, then at most one a minute."""
        if row["epoch"] > 1 and time.monotonic() - self._last_line < _LINE_SECONDS:
            return

        self._last_line = time.monotonic()
        scores = "" if row["pauc"] is None else f" pAUC {row['pauc']:.4f} AUC {row['auc']:.4f}"
        speed = f"lr {row['lr']:.1e}, {row['images_per_second']:.0f} tiles/s"
        self.write(
            f"epoch {row['epoch']}/{self.epochs} loss {row['loss']:.4f}{scores}, {speed};"
            f" {self._left(run, clock)}"
        )

    def _left(self, run: Run, clock: Clock) -> str:
        done, steps = run.progress.step, run.steps
        left = clock.remaining(done, steps)
        text = f"{duration(left)} left"
        if self.estimate and self.estimate.other_folds and done < steps:
            text += f", {self.estimate.remaining(left, left * steps / (steps - done))}"
        return text

    def write(self, line: str) -> None:
        """Print a line."""
        if not self.quiet:
            sys.stderr.write(("\r\x1b[K" if self.live else "") + f"isic: {self.name}: {line}\n")

    def warn(self, flags: Mapping[str, str]) -> dict[str, str]:
        """Print the warnings not printed before, and return them."""
        fresh = {name: text for name, text in flags.items() if name not in self._warned}
        self._warned |= set(fresh)
        for text in fresh.values():
            self.write(f"warning: {text}")
        return fresh


def duration(seconds: float) -> str:
    """Seconds in a readable unit: `45 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
