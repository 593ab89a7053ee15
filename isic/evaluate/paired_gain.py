"""The gain of one model over another, with the variance over patients and over training seeds."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from isic.core.metric import pauc, pauc_replicates
from isic.core.schema import SEED_COLUMN


class PairedGain(NamedTuple):
    """pAUC of one model minus pAUC of another on the same rows.

    `sd_patients` is the standard deviation over resamples of the patients, `sd_seeds` that over
    training seeds of both models; None where no model stored its seeds.
    """

    value: float
    sd_patients: float
    sd_seeds: float | None

    @property
    def sd(self) -> float:
        """Standard deviation of the gain over patients and seeds, taken as independent."""
        return float(np.hypot(self.sd_patients, self.sd_seeds or 0.0))

    def low(self, chance: float) -> float:
        """One-sided lower bound: under a normal law it exceeds the true gain with probability
        `chance`.
        """
        return self.value - NormalDist().inv_cdf(1 - chance) * self.sd

    def high(self, chance: float) -> float:
        """One-sided upper bound, below the true gain with probability `chance`."""
        return self.value + NormalDist().inv_cdf(1 - chance) * self.sd


def paired_gain(
    target: ArrayLike,
    new: ArrayLike,
    old: ArrayLike,
    patient: ArrayLike,
    replicates: int,
    seed: int,
    new_seeds: ArrayLike | None = None,
    old_seeds: ArrayLike | None = None,
) -> PairedGain:
    """Gain of scores `new` (n,) over scores `old` (n,).

    `new_seeds` and `old_seeds` (n, seeds) are the log-odds of each seed's members, None where they
    were not stored: the variance of the other model is used for such a model. The patients' share
    comes from `replicates` paired resamples of whole patients, the seeds' share from
    `seed_variance` of each model. Two models of one recipe differ by their seeds only, so the sum
    overstates their variance: the bound errs on the side of no gain.
    """
    spread = pauc_replicates(target, [new, old], patient, replicates, seed)
    variances = [
        seed_variance(target, values)
        for values in (new_seeds, old_seeds)
        if values is not None and np.shape(values)[1] > 1
    ]
    sd_seeds = float(np.sqrt(2 * np.mean(variances))) if variances else None
    value = pauc(target, new) - pauc(target, old)
    return PairedGain(value, float(np.std(spread[0] - spread[1], ddof=1)), sd_seeds)


def seed_variance(target: ArrayLike, log_odds: ArrayLike) -> float:
    """Variance over seeds of the pAUC of the mean of `log_odds` (n, seeds), seeds >= 2.

    The jackknife estimate, (S - 1) / S times the sum of squares of the S values without one seed
    around their mean; biased upwards (Efron & Stein, Ann. Stat. 9, 586, 1981).
    """
    values = np.asarray(log_odds, dtype=np.float64)
    seeds = values.shape[1]
    total = values.sum(axis=1)
    without = [pauc(target, (total - values[:, item]) / (seeds - 1)) for item in range(seeds)]
    return float((seeds - 1) / seeds * np.square(np.array(without) - np.mean(without)).sum())


def seed_scores(rows: pd.DataFrame, suffix: str = "") -> np.ndarray | None:
    """Columns seed_0, seed_1, … (with `suffix`) of `rows` as (n, seeds); None without any."""
    names = [
        name
        for name in rows
        if str(name).removesuffix(suffix).removeprefix(SEED_COLUMN).isdigit()
        and str(name).startswith(SEED_COLUMN)
        and str(name).endswith(suffix)
    ]
    return rows[names].to_numpy(np.float64) if names else None


def chance_of(attempt: int, first: float) -> float:
    """Chance of a false promotion allowed to the `attempt`-th challenger (from 1) of one champion.

    first / attempt²: over any number of attempts the sum stays below first · π² / 6, by the union
    bound (Bonferroni with unequal weights, as in alpha spending; Foster & Stine, J. R. Stat. Soc. B
    70, 429, 2008).
    """
    return first / attempt**2
