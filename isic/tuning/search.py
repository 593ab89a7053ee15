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
from itertools import groupby, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from isic.core.metric import Floats, pauc
from isic.core.parallel import workers
from isic.core.params import StackSettings
from isic.stack.blend import by_patient_size
from isic.stack.combination import combine, fit_combinations
from isic.stack.members.lightgbm_ import bin_columns, binned, compose, train_and_score
from isic.stack.training_data import (
    FITTED,
    IMAGE_FAMILY,
    Part,
    TrainingData,
    without_images,
)

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
        "combine": trial.suggest_categorical("combine", ["late", "columns"]),
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
    switches = {f"{_SWITCH}{name}": name not in settings.drop for name in families}
    return values | {"combine": settings.combine} | switches


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
    names = ("rounds", "negatives", "drop", "combine")
    flat = {name: own[name] for name in names if own[name] != other[name]}
    inner = {name: value for name, value in own["params"].items() if value != other["params"][name]}
    return flat | ({"params": inner} if inner else {})


class Step(NamedTuple):
    """One member of a candidate: with or without image columns, its part of the patients, seed and
    fold.
    """

    images: bool
    part: Part
    seed: int
    fold: int


class TrialEvaluator:
    """Scores candidates on one prepared problem whose pools are binned by family.

    A candidate's members are those that the stage would train with `seeds` seeds, and its score is
    that of their blend over seeds, parts of patients and the combination.
    """

    def __init__(self, data: TrainingData, seeds: int, first_seed: int = 0) -> None:
        self.data, self.seeds = data, range(first_seed, first_seed + seeds)
        self.folds = sorted(data.images)
        self._with_images = bool(data.image_names)
        # By whether image columns are read.
        self._designs = {self._with_images: data}
        if self._with_images:
            self._designs[False] = without_images(data)
        families = data.all_families()
        by_family = [
            (family, list(names))
            for family, names in groupby(families, key=lambda name: families[name])
        ]
        for pool in data.pools.values():
            own = [[name for name in names if name in pool.columns] for _, names in by_family]
            pool.groups = [names for names in own if names]
        # The families of the binned tables, and the tables of the columns to score.
        self._families: dict[tuple[bool, Part], list[str]] = {}
        self._scored: dict[tuple[bool, Part, int], list[lgb.Dataset]] = {}
        for images, part, seed in product(self._designs, data.pools, self.seeds):
            for fold in self.folds:
                binned(self._designs[images].pool_of(fold, part, seed))  # before threads use it
            self._families[images, part] = [
                family
                for family, names in by_family
                if _is_fitted(family)
                or (images and family == IMAGE_FAMILY)
                or any(name in data.pools[part].columns for name in names)
            ]
            self._scored[images, part, seed] = self._clean_bins(images, part, seed)

    def _clean_bins(self, images: bool, part: Part, seed: int) -> list[lgb.Dataset]:
        """Tables of the columns to score, by the bins of training: whole patients, no noise.

        Fitted columns come last, in the pools of each fold, and are the same in both.
        """
        data = self._designs[images]
        groups = [*data.pools[part].groups, *([data.image_names_of(part)] if images else [])]
        pool = data.pool_of(self.folds[0], part, seed)
        return [
            bins
            if all(data.columns[name] is pool.columns[name] for name in names)
            else bin_columns({name: data.columns[name] for name in names}, pool, bins)
            for names, bins in zip(groups, binned(pool), strict=False)
        ]

    def steps(self, settings: StackSettings) -> list[Step]:
        """Every member of a candidate, in the order in which all candidates train them."""
        designs = [self._with_images]
        if self._with_images and settings.combine == "late":
            designs.append(False)
        return [
            Step(images, part, seed, fold)
            for images in designs
            for part in self.data.pools
            for seed in self.seeds
            for fold in self.folds
        ]

    def members(
        self, settings: StackSettings, halfway_reports: int = 0
    ) -> Iterator[tuple[Step, Floats]]:
        """Yield (step, held-out margins) for every step in order; leaving early cancels the steps
        that are left.

        Before them come (step, held-out probabilities) of the first `halfway_reports` steps after
        half of their rounds.
        """
        cancelled = threading.Event()
        steps = self.steps(settings)
        halves: list[Future[Floats]] = [Future() for _ in range(halfway_reports)]

        # One model per core; the models of the last round share the cores that would be idle.
        last = len(steps) % workers()
        threads = [1] * (len(steps) - last) + [workers() // max(last, 1)] * last

        def member(index: int, threads: int) -> Floats:
            if index >= halfway_reports:
                return self._train(settings, steps[index], cancelled, threads)
            half = halves[index]
            try:
                return self._train(settings, steps[index], cancelled, threads, half.set_result)
            except BaseException as error:
                if not half.done():
                    half.set_exception(error)  # otherwise `members` would wait for it
                raise

        with ThreadPoolExecutor(workers()) as pool:
            running = [pool.submit(member, *job) for job in enumerate(threads)]
            try:
                for step, half in zip(steps, halves, strict=False):
                    yield step, half.result()
                for step, future in zip(steps, running, strict=True):
                    yield step, future.result()
            finally:
                cancelled.set()
                for future in running:
                    future.cancel()

    def _train(
        self,
        settings: StackSettings,
        step: Step,
        cancelled: threading.Event,
        threads: int,
        halfway: Callable[[Floats], None] | None = None,
    ) -> Floats:
        """The member of one step, see `train_and_score`."""
        data, chosen = self._designs[step.images], settings.library("lightgbm")
        families = self._families[step.images, step.part]
        kept = [table for table, family in enumerate(families) if _is_chosen(family, settings)]
        index = data.training_rows(step.fold, settings.negatives, step.seed)
        trained = binned(data.pool_of(step.fold, step.part, step.seed))
        clean = self._scored[step.images, step.part, step.seed]
        scored = [*clean, *trained[len(clean) :]]
        held_out = compose(
            [scored[table] for table in kept], np.flatnonzero(data.fold == step.fold)
        )
        return train_and_score(
            compose([trained[table] for table in kept], index),
            held_out,
            chosen["params"],
            chosen["rounds"],
            step.seed,
            cancelled,
            threads,
            halfway,
        )

    def score(self, settings: StackSettings, trial: Trial | None = None) -> float:
        """Pooled out-of-fold pAUC of the candidate's blend.

        With `trial`, the fold pAUC of `HALFWAY_REPORTS` and then of each member is reported to it,
        and optuna.TrialPruned raised when the trial should stop.
        """
        return pauc(self.data.target, self.out_of_fold(settings, trial))

    def out_of_fold(self, settings: StackSettings, trial: Trial | None = None) -> Floats:
        """Log-odds of every row (n,) as the stage would make them; `trial` as for `score`."""
        data, halfway_reports = self.data, 0 if trial is None else HALFWAY_REPORTS
        totals: dict[bool, dict[Part, Floats]] = {}
        for index, (step, values) in enumerate(self.members(settings, halfway_reports)):
            mine = data.fold == step.fold
            if trial is not None:
                _report(trial, index, pauc(data.target[mine], values))
            if index < halfway_reports:
                continue
            parts = totals.setdefault(step.images, {})
            parts.setdefault(step.part, np.zeros(len(data.fold)))[mine] += values
        blended = {}
        for images, parts in totals.items():
            means = {part: total / len(self.seeds) for part, total in parts.items()}
            blended[images] = by_patient_size(means, data.patient_sizes) + self._offsets(settings)
        if len(blended) == 1:
            return next(iter(blended.values()))
        design = data.combination_design(blended[False], blended[True])
        return combine(fit_combinations(data.target, data.fold, design), data.fold, design)

    def _offsets(self, settings: StackSettings) -> Floats:
        """Offset of each row's chain (n,)."""
        offsets = np.zeros(len(self.data.fold))
        for fold in self.folds:
            offsets[self.data.fold == fold] = self.data.offset(
                fold, settings.negatives, settings.params.scale_pos_weight
            )
        return offsets


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
