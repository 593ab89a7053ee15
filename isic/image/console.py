"""What a person sees of a run: a live line on a terminal, lines that stay, warnings that mean
something.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from isic.image.clock import Clock
    from isic.image.training.run import Run
    from isic.image.training.sampler import Slot

#: pAUC of random scores is about 0.02; a network above this has begun to learn.
_LEARNT = 0.05
_LEARNT_AFTER = 5
#: Share of an epoch that may be spent waiting for tiles.
_WAIT = 0.2
#: Relative distance between the shown and the set share of positives.
_SHARE = 0.1
#: Fall of pAUC below its best, three validations in a row; the noise of one fold is about 0.01.
_FALL = 0.02


def red_flags(history: Sequence[Mapping[str, Any]], set_share: float) -> dict[str, str]:
    """Warnings by name for what usually means a broken run; empty when all is well.

    `history` has one row per epoch as in history.csv, `set_share` is the share of positives the
    recipe asks for.
    """
    last = history[-1]
    scored = [row["pauc"] for row in history if row["pauc"] is not None]
    best = max(scored, default=0.0)
    flags = {}
    if len(history) >= _LEARNT_AFTER and scored and scored[-1] < _LEARNT:
        flags["pauc_low"] = (
            f"pAUC {scored[-1]:.3f} after {last['epoch']} epochs: try another lr or longer warm-up"
        )
    if len(history) >= 4 and last["loss"] >= 0.995 * history[0]["loss"]:
        fall = f"{history[0]['loss']:.4f} to {last['loss']:.4f}"
        flags["loss_flat"] = f"training loss goes from {fall}: it does not fall, try another lr"
    if len(scored) >= 4 and max(scored[-3:]) < best - _FALL:
        flags["validation_falling"] = (
            f"pAUC was {best:.3f} and is {scored[-1]:.3f}: fewer epochs or more augmentation"
        )
    if abs(last["positive_share"] - set_share) > _SHARE * set_share:
        shares = (
            f"{last['positive_share']:.3f} of the tiles shown are positive, {set_share:.3f} were"
            " asked for"
        )
        flags["share_off"] = f"{shares}: lower negatives_per_positive or use more data"
    if last["data_wait"] > _WAIT:
        flags["data_wait"] = (
            f"{last['data_wait']:.0%} of the epoch waited for tiles: set image.workers or cache_gb"
        )
    return flags


class TimeEstimate(NamedTuple):
    """Estimated seconds of this fold and of the `number` others that are not trained yet."""

    fold: float
    others: float
    number: int

    def all_left(self, mine: float, whole: float) -> str:
        """All that is left, others corrected by how this fold goes: `mine` seconds to go of
        `whole`.
        """
        pace = whole / self.fold if self.fold else 1.0
        return f"{duration(mine + self.others * pace)} for the {self.number + 1} left"


#: Seconds between lines that stay: an epoch of seconds needs none of its own.
_SAY_SECONDS = 60.0


class Console:
    """Progress on stderr: one line kept current on a terminal; in a pipe only what a log should
    hold.
    """

    def __init__(
        self, name: str, epochs: int, outlook: TimeEstimate | None = None, quiet: bool = False
    ) -> None:
        self.name = name
        self.epochs = epochs
        self.outlook = outlook
        self.quiet = quiet
        self.live = sys.stderr.isatty() and not quiet
        self._warned: set[str] = set()
        self._said = time.monotonic()

    def start(self, share: float) -> None:
        """The estimates before the first step, `share` of which was done by earlier processes."""
        if self.outlook:
            mine = self.outlook.fold * (1 - share)
            self.say(
                f"about {duration(mine)} for this fold,"
                f" {self.outlook.all_left(mine, self.outlook.fold)}"
            )

    def step(self, run: Run, slot: Slot, clock: Clock) -> None:
        """Refresh the live line."""
        sums = run.progress.epoch_sums
        if self.live and sums:
            where = (
                f"epoch {slot.epoch + 1}/{self.epochs}"
                f" {slot.micro + 1}/{run.sampling.micro_batches}"
            )
            line = (
                f"{self.name} {where} loss {sums['loss'] / max(1.0, sums['finite']):.4f};"
                f" {self._left(run, clock)}"
            )
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()

    def epoch(self, row: Mapping[str, Any], run: Run, clock: Clock) -> None:
        """A line that stays, for the first epoch and then at most once a minute."""
        if row["epoch"] > 1 and time.monotonic() - self._said < _SAY_SECONDS:
            return
        self._said = time.monotonic()
        scores = "" if row["pauc"] is None else f" pAUC {row['pauc']:.4f} AUC {row['auc']:.4f}"
        speed = f"lr {row['lr']:.1e}, {row['images_per_second']:.0f} tiles/s"
        self.say(
            f"epoch {row['epoch']}/{self.epochs} loss {row['loss']:.4f}{scores}, {speed};"
            f" {self._left(run, clock)}"
        )

    def _left(self, run: Run, clock: Clock) -> str:
        done, steps = run.progress.step, run.steps
        mine = clock.remaining(done, steps)
        text = f"{duration(mine)} left"
        if self.outlook and self.outlook.number and done < steps:
            text += f", {self.outlook.all_left(mine, mine * steps / (steps - done))}"
        return text

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self.quiet:
            sys.stderr.write(("\r\x1b[K" if self.live else "") + f"isic: {self.name}: {line}\n")

    def warn(self, flags: Mapping[str, str]) -> dict[str, str]:
        """Say the warnings not said before, and return them."""
        fresh = {name: text for name, text in flags.items() if name not in self._warned}
        self._warned |= set(fresh)
        for text in fresh.values():
            self.say(f"warning: {text}")
        return fresh


def duration(seconds: float) -> str:
    """Seconds as a person says them: `45 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
