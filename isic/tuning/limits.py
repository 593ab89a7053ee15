"""The gate's limit on the growth of a bundle, as a constraint of a search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import optuna

from isic.core.params import StackSettings
from isic.core.schema import FEATURES_ONLY


@dataclass(frozen=True)
class SizeLimit:
    """`share` of a bundle's bytes are its stackers'; it may become `growth` times as large.

    A stacker's text is proportional to its leaves. Seconds follow them too, and its trees take a
    small part of a lesion's time beside the networks. Slices are left to the gate: it judges them by
    intervals, which cost more than a trial, and their points are noise at 15 malignant lesions.
    """

    share: float
    growth: float

    def excess(self, new: StackSettings, current: StackSettings) -> float:
        """Growth of the bundle beyond the limit; zero or less is within it."""
        return 1 + self.share * (_leaves(new) / _leaves(current) - 1) - self.growth

    def check(self, trial: optuna.Trial, new: StackSettings, current: StackSettings) -> None:
        """Store the constraint, and prune a trial beyond it before anything is trained."""
        excess = self.excess(new, current)
        trial.set_constraint("bundle_size", excess)
        if excess > 0:
            raise optuna.TrialPruned


def size_limit(bundle: Path, growth: float) -> SizeLimit | None:
    """The limit against the bundle in this folder, None without one."""
    stackers = sum(_bytes(bundle / name) for name in ("stack", FEATURES_ONLY))
    return SizeLimit(stackers / _bytes(bundle), growth) if stackers else None


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _leaves(settings: StackSettings) -> int:
    return settings.rounds * min(settings.params.num_leaves, 2**settings.params.max_depth)
