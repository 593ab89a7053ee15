"""Search space of `make tune`, and scores of candidates: a member per fold and seed, pruned after
any of them.

The table is binned once per feature family; a candidate composes the families it keeps. Members are
trained in the same order and on the same sampled rows for every candidate, so that candidates can
be compared pair by pair.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from isic.core.metric import Floats, pauc
from isic.core.parallel import workers
from isic.core.params import StackSettings
from isic.stack.members.lightgbm_ import bin_columns, binned, compose, train_and_score
from isic.stack.training_data import FITTED, IMAGE_FAMILY, TrainingData

if TYPE_CHECKING:
    import lightgbm as lgb
    from optuna.trial import Trial

#: LightGBM's numbers: name, lowest, highest, whether steps are multiplicative. Around the public
#: sets (greysky, the 2nd place, junaid), which agree on small slow trees and much column sampling.
_FLOAT_RANGES: tuple[tuple[str, float, float, bool], ...] = (
    ("learning_rate", 0.01, 0.15, True),
    ("feature_fraction", 0.1, 1.0, False),
    ("feature_fraction_bynode", 0.3, 1.0, False),
    ("bagging_fraction", 0.4, 1.0, False),
    ("lambda_l1", 1e-3, 10.0, True),
    ("lambda_l2", 1e-3, 30.0, True),
    ("scale_pos_weight", 1.0, 6.0, True),
)
_INTEGER_RANGES: tuple[tuple[str, int, int, bool], ...] = (
    ("num_leaves", 4, 64, True),
    ("max_depth", 3, 8, False),
    ("min_data_in_leaf", 5, 150, True),
    ("rounds", 50, 600, True),
    ("negatives", 5, 200, True),
)
#: A zero of params.yaml is outside every multiplicative range, so an end of the range replaces it;
#: 0 negatives: all.
_ZERO = {"lambda_l1": 1e-3, "lambda_l2": 1e-3, "negatives": 200}
_SWITCH = "use_"
#: Number of first members whose score after half of their rounds is reported before any complete
#: one: a poor candidate is pruned for half the cost of two members.
HALFWAY_REPORTS = 2


def switchable(data: TrainingData) -> tuple[str, ...]:
    """Feature families a search may leave out."""
    return tuple(
        dict.fromkeys(
            name for name in data.families.values() if name not in (IMAGE_FAMILY, "other")
        )
    )


def suggest(trial: Trial, current: StackSettings, families: tuple[str, ...]) -> StackSettings:
    """The candidate of a trial: `current` with the searched values, rounded as params.yaml will
    hold them.
    """
    now = as_trial(current, families)
    suggested: dict[str, Any] = {}
    # Ranges are extended to the current values, which the first trial has.
    for name, low, high, log in _FLOAT_RANGES:
        suggested[name] = _short(
            trial.suggest_float(name, min(low, now[name]), max(high, now[name]), log=log)
        )
    for name, lowest, highest, log in _INTEGER_RANGES:
        suggested[name] = trial.suggest_int(
            name, min(lowest, now[name]), max(highest, now[name]), log=log
        )
    suggested |= {
        name: 0
        for name, value in _values(current).items()
        if value == 0 and suggested[name] == now[name]
    }
    top = {name: suggested.pop(name) for name in ("rounds", "negatives")}
    suggested["num_leaves"] = min(suggested["num_leaves"], 2 ** suggested["max_depth"])
    kept = {name: trial.suggest_categorical(f"{_SWITCH}{name}", [True, False]) for name in families}
    changes = {
        **top,
        "drop": (
            tuple(name for name, keep in kept.items() if not keep)
            if any(kept.values())
            else current.drop
        ),
        "params": current.params.model_dump() | suggested,
    }
    return StackSettings.model_validate(current.model_dump() | changes)


def as_trial(settings: StackSettings, families: tuple[str, ...]) -> dict[str, Any]:
    """The values of `settings` as a trial would hold them."""
    values = {name: value or _ZERO[name] for name, value in _values(settings).items()}
    return values | {f"{_SWITCH}{name}": name not in settings.drop for name in families}


def _values(settings: StackSettings) -> dict[str, Any]:
    """The searched numbers, by name."""
    values = {
        **settings.params.model_dump(),
        "rounds": settings.rounds,
        "negatives": settings.negatives,
    }
    return {name: values[name] for name, *_ in (*_FLOAT_RANGES, *_INTEGER_RANGES)}


def changes(new: StackSettings, old: StackSettings) -> dict[str, Any]:
    """Values of the stack section in which `new` differs from `old`, nested as in params.yaml."""
    own, other = new.model_dump(mode="json"), old.model_dump(mode="json")
    flat = {name: own[name] for name in ("rounds", "negatives", "drop") if own[name] != other[name]}
    inner = {name: value for name, value in own["params"].items() if value != other["params"][name]}
    return flat | ({"params": inner} if inner else {})


class TrialEvaluator:
    """Scores candidates on one prepared problem whose pool was binned by family."""

    def __init__(self, data: TrainingData, seeds: int, first_seed: int = 0) -> None:
        self.data, self.seeds = data, range(first_seed, first_seed + seeds)
        self.folds = sorted(data.images)
        families = data.all_families()
        self._runs = [
            (family, list(names))
            for family, names in groupby(families, key=lambda name: families[name])
        ]
        # Fitted columns come last, in pools of each fold that are grouped by kind already.
        shared = [names for family, names in self._runs if not _is_fitted(family)]
        data.pool.groups = shared
        self._scored = [
            self._without_noise(names, bins)
            for names, bins in zip(shared, binned(data.pool), strict=True)
        ]
        for fold in self.folds:
            binned(data.pool_of(fold))  # once, before threads use it

    def _without_noise(self, names: list[str], bins: lgb.Dataset) -> lgb.Dataset:
        """Held-out rows are scored without the noise of training: columns that have it are binned
        once more.
        """
        clean, noisy = self.data.columns, self.data.pool.columns
        if all(clean[name] is noisy[name] for name in names):
            return bins
        return bin_columns({name: clean[name] for name in names}, self.data.pool, bins)

    @property
    def steps(self) -> list[tuple[int, int]]:
        """(seed, fold) of every member, in the order in which all candidates train them."""
        return [(seed, fold) for seed in self.seeds for fold in self.folds]

    def members(
        self, settings: StackSettings, halfway_reports: int = 0
    ) -> Iterator[tuple[int, Floats]]:
        """Yield (fold, held-out margins) for every step in order; leaving early cancels the steps
        that are left.

        Before them come (fold, held-out probabilities) of the first `halfway_reports` steps after
        half of their rounds.
        """
        cancelled = threading.Event()
        halves: list[Future[Floats]] = [Future() for _ in range(halfway_reports)]

        # One model per core; the models of the last round share the cores that would be idle.
        last = len(self.steps) % workers()
        threads = [1] * (len(self.steps) - last) + [workers() // max(last, 1)] * last

        def member(step: int, threads: int) -> Floats:
            if step >= halfway_reports:
                return self._train(settings, self.steps[step], cancelled, threads)
            half = halves[step]
            try:
                return self._train(settings, self.steps[step], cancelled, threads, half.set_result)
            except BaseException as error:
                if not half.done():
                    half.set_exception(error)  # otherwise `members` would wait for it
                raise

        with ThreadPoolExecutor(workers()) as pool:
            running = [pool.submit(member, *job) for job in enumerate(threads)]
            try:
                for (_, fold), half in zip(self.steps, halves, strict=False):
                    yield fold, half.result()
                for (_, fold), future in zip(self.steps, running, strict=True):
                    yield fold, future.result()
            finally:
                cancelled.set()
                for future in running:
                    future.cancel()

    def _train(
        self,
        settings: StackSettings,
        step: tuple[int, int],
        cancelled: threading.Event,
        threads: int,
        halfway: Callable[[Floats], None] | None = None,
    ) -> Floats:
        """The member of one step, see `train_and_score`."""
        seed, fold = step
        chosen = settings.library("lightgbm")
        kept = [run for run, (family, _) in enumerate(self._runs) if _is_chosen(family, settings)]
        index = self.data.training_rows(fold, settings.negatives, seed)
        trained = binned(self.data.pool_of(fold))
        scored = [*self._scored, *trained[len(self._scored) :]]
        data = compose([trained[run] for run in kept], index)
        held_out = compose([scored[run] for run in kept], np.flatnonzero(self.data.fold == fold))
        return train_and_score(
            data, held_out, chosen["params"], chosen["rounds"], seed, cancelled, threads, halfway
        )

    def score(self, settings: StackSettings, trial: Trial | None = None) -> float:
        """Pooled out-of-fold pAUC, averaged over seeds.

        With `trial`, the fold pAUC of `HALFWAY_REPORTS` and then of each member is reported to it,
        and optuna.TrialPruned raised when the trial should stop.
        """
        target = self.data.target
        pooled, margins = [], np.empty(len(target))
        halfway_reports = 0 if trial is None else HALFWAY_REPORTS
        for step, (fold, values) in enumerate(self.members(settings, halfway_reports)):
            mine = self.data.fold == fold
            if trial is not None:
                _report(trial, step, pauc(target[mine], values))
            if step < halfway_reports:
                continue
            margins[mine] = values + self.data.offset(
                fold, settings.negatives, settings.params.scale_pos_weight
            )
            if fold == self.folds[-1]:
                pooled.append(pauc(target, margins))
        return float(np.mean(pooled))

    def out_of_fold(self, settings: StackSettings) -> Floats:
        """Log-odds of every row by its fold's members, mean over seeds, (n,)."""
        total = np.zeros(len(self.data.target))
        for fold, values in self.members(settings):
            mine = self.data.fold == fold
            total[mine] += values + self.data.offset(
                fold, settings.negatives, settings.params.scale_pos_weight
            )
        return total / len(self.seeds)


def _is_fitted(family: str) -> bool:
    return family.startswith(f"{FITTED} ")


def _is_chosen(family: str, settings: StackSettings) -> bool:
    return (
        family.removeprefix(f"{FITTED} ") in settings.fitted
        if _is_fitted(family)
        else family not in settings.drop
    )


def _report(trial: Trial, step: int, value: float) -> None:
    from optuna import TrialPruned

    trial.report(value, step)
    if trial.should_prune():
        raise TrialPruned


def _short(value: float) -> float:
    return float(f"{value:.3g}")
