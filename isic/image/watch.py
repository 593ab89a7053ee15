"""What a person sees of a run: the numbers of an epoch, a live line on a terminal, warnings that mean something."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

#: pAUC of random scores is about 0.02; a network above this has begun to learn.
_LEARNT = 0.05
_LEARNT_AFTER = 5
#: Share of an epoch that may be spent waiting for tiles.
_WAIT = 0.2
#: Distance between the shown and the set share of positives.
_SHARE = 0.1


def red_flags(history: Sequence[Mapping[str, Any]], set_share: float) -> dict[str, str]:
    """Warnings by name for what usually means a broken run; empty when all is well.

    `history` has one row per epoch as in history.csv, `set_share` is the share of positives the recipe asks for.
    """
    if not history:
        return {}
    flags = {}
    last = history[-1]
    scored = [row for row in history if row.get("pauc") is not None]
    if len(history) > _LEARNT_AFTER and scored and scored[-1]["pauc"] < _LEARNT:
        flags["pauc_low"] = (
            f"pAUC {scored[-1]['pauc']:.3f} after {last['epoch']} epochs: try another learning rate or longer warm-up"
        )
    if len(history) >= 4 and last["loss"] >= 0.995 * history[0]["loss"]:
        flags["loss_flat"] = (
            f"training loss {history[0]['loss']:.4f} -> {last['loss']:.4f}: it does not fall, try another learning rate"
        )
    best = max((row["pauc"] for row in scored), default=0.0)
    if len(scored) >= 4 and all(row["pauc"] < best - 0.02 for row in scored[-3:]):
        flags["validation_falling"] = (
            f"pAUC was {best:.3f}, the last three were below by 0.02: fewer epochs or more augmentation"
        )
    if abs(last["positive_share"] - set_share) > _SHARE * set_share + 1e-9:
        flags["share_off"] = (
            f"{last['positive_share']:.3f} of the tiles shown are positive, the recipe asks for {set_share:.3f}: too few negatives"
        )
    if last["data_wait"] > _WAIT:
        flags["data_wait"] = (
            f"{last['data_wait']:.0%} of the epoch waited for tiles: set image.workers or image.cache_gb"
        )
    return flags


class Console:
    """Progress on stderr: one line kept current on a terminal; in a pipe only what a log should hold."""

    def __init__(self, name: str, epochs: int) -> None:
        self.name = name
        self.epochs = epochs
        self.live = sys.stderr.isatty()

    def step(self, epoch: int, done: int, total: int, loss: float, remaining: float | None) -> None:
        """Refresh the live line: `done` of `total` micro-batches of an epoch."""
        if self.live:
            left = "" if remaining is None else f", {duration(remaining)} left"
            sys.stderr.write(
                f"\r\x1b[K{self.name} epoch {epoch + 1}/{self.epochs} {done}/{total} loss {loss:.4f}{left}"
            )
            sys.stderr.flush()

    def say(self, line: str) -> None:
        """A line that stays."""
        sys.stderr.write(("\r\x1b[K" if self.live else "") + f"isic: {self.name}: {line}\n")


def duration(seconds: float) -> str:
    """Seconds as a person says them: `45 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
