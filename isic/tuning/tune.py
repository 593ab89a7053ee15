"""`make tune`: search the stacker's parameters, and change params.yaml only if the gain is real.

The search maximises pooled out-of-fold pAUC averaged over seeds. The score of the best of many
trials is partly chance, of its members and of these lesions. So the gain is judged on seeds that no
trial saw, and each fold by the trial that is best on the other folds, against the current values by
a paired bootstrap over patients. That is the gain of searching so, not of the values that are
written, which all folds have chosen together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from isic.core.locks import locked
from isic.core.metric import Interval, paired_difference
from isic.core.params import StackSettings
from isic.core.schema import PATIENT
from isic.core.tracker import Tracker
from isic.stack.fit import fit_training_data
from isic.stack.training_data import TrainingData
from isic.tuning.limits import SizeLimit
from isic.tuning.search import (
    HALFWAY_REPORTS,
    TrialEvaluator,
    as_trial,
    changes,
    suggest,
    switchable,
)
from isic.tuning.storage import retry
from isic.tuning.study import DONE, join_study

#: First seed of the comparison: none that a trial used.
_FRESH = 1000
#: Members of a trial for each fold.
SEEDS = 2
_OpenChild = Callable[[int], AbstractContextManager[Tracker]]


class Candidate(NamedTuple):
    """A trial that ran to its end: its values, and its pAUC of each fold, mean over seeds."""

    number: int
    values: dict[str, Any]
    folds: dict[int, float]


@dataclass(frozen=True)
class TuningResult:
    """Result of a search: the change to the stack section ({} for none), and the reason."""

    change: dict[str, Any]
    line: str
    difference: Interval | None = None

    def advice(self, trials: int) -> str:
        """What to do next, after a search of `trials`."""
        if self.change:
            return (
                "next: dvc repro stack evaluate robustness report register, then make promote (the"
                " gate judges the new model again); git checkout params.yaml undoes the change"
            )
        return (
            f"next: make tune N={2 * trials} continues this search; with few malignant lesions"
            " better features (isic features measure) or networks gain more than parameters"
        )


class _TrialProgress:
    """One line per trial of this process: best, the pace of all processes together, time left."""

    def __init__(self, trials: int, say: Callable[[str], None]) -> None:
        self._trials, self._say, self._start = trials, say, time.monotonic()
        self._before = -1

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        done = study.get_trials(deepcopy=False, states=DONE)
        if self._before < 0:
            self._before = len(done) - 1
        pruned = sum(trial.state == TrialState.PRUNED for trial in done)
        pace = (len(done) - self._before) / (time.monotonic() - self._start) * 60
        left = max(0, self._trials - len(done)) / pace
        best = (
            f"best {study.best_value:.4f} (trial {study.best_trial.number})"
            if len(done) > pruned
            else "no score yet"
        )
        time_left = f"{60 * left:.0f} s" if left < 2 else f"{left:.0f} min"
        text = "pruned" if trial.state == TrialState.PRUNED else f"{trial.value:.4f}"
        self._say(
            f"{len(done)}/{self._trials} trials · trial {trial.number}: {text} · {best} · {pruned}"
            f" pruned · {pace:.1f} trials/min · {time_left} left"
        )


def tune(
    data: TrainingData,
    current: StackSettings,
    name: str,
    folder: Path,
    trials: int,
    open_child: _OpenChild | None = None,
    say: Callable[[str], None] = lambda line: None,
    seeds: int = SEEDS,
    limit: SizeLimit | None = None,
) -> TuningResult | None:
    """Run trials until the study `name` has `trials` of them, and assess the best one.

    None when another process assesses it: the process whose trial ends last does.

    `data` must have been prepared with every family (`drop` empty). `open_child(number)` opens a
    run for a trial that ended. A trial beyond `limit` is pruned untrained. Ctrl-C raises
    KeyboardInterrupt with every finished trial stored.
    """
    families = switchable(data)
    evaluator = TrialEvaluator(data, seeds)
    progress = _TrialProgress(trials, say)
    with join_study(name, folder, as_trial(current, families)) as worker:
        study = worker.study

        def after(trial: FrozenTrial) -> None:
            progress(study, trial)
            if open_child is not None and trial.state in DONE:
                with open_child(trial.number) as tracker:
                    log_trial(tracker, trial)

        def objective(trial: optuna.Trial) -> float:
            settings = suggest(trial, current, families)
            if limit is not None:
                limit.check(trial, settings, current)
            return evaluator.score(settings, trial)

        worker.run(objective, trials, after)
        if worker.finished() < trials:
            say(
                "the last trials are still running in other processes: the one that ends last"
                " judges"
            )
            return None
        with locked(folder / f"{name}.judge.lock", patience=0) as mine:
            if not mine:
                return None
            ended = retry(lambda: study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
            candidates = [
                Candidate(
                    trial.number,
                    trial.params,
                    by_fold(trial, [step.fold for step in evaluator.steps(current)]),
                )
                for trial in ended
            ]
            say("no more trials: the best ones and the current values are fitted on fresh seeds")
            return assess_gain(
                data, current, retry(lambda: study.best_trial).number, candidates, families
            )


def log_trial(tracker: Tracker, trial: FrozenTrial) -> None:
    """Log the values a trial searched, and its pAUC; a pruned trial has only the mean of its steps,
    without which MLflow's plots would leave all trials out.
    """
    tracker.params(trial.params)
    tracker.tags({"trial_state": trial.state.name.lower()})
    steps = list(trial.intermediate_values.values())
    values = {"trial_steps": float(len(steps))}
    if steps:
        values["trial_pauc_so_far"] = float(np.mean(steps))
    if trial.state == TrialState.COMPLETE:
        values["trial_pauc"] = float(trial.value or 0.0)
    tracker.metrics(values)


def by_fold(trial: FrozenTrial, steps: Sequence[int]) -> dict[int, float]:
    """A finished trial's pAUC of each fold, mean over its members; `steps` are their folds."""
    folds: dict[int, list[float]] = {}
    for step, fold in enumerate(steps, HALFWAY_REPORTS):
        if step in trial.intermediate_values:  # fewer with combine: columns
            folds.setdefault(fold, []).append(trial.intermediate_values[step])
    return {fold: float(np.mean(values)) for fold, values in folds.items()}


def winners(candidates: Sequence[Candidate]) -> dict[int, Candidate]:
    """For each fold the candidate of the highest mean pAUC on the other folds."""
    return {
        fold: max(
            candidates,
            key=lambda candidate: np.mean(
                [value for other, value in candidate.folds.items() if other != fold]
            ),
        )
        for fold in candidates[0].folds
    }


def assess_gain(
    data: TrainingData,
    current: StackSettings,
    best: int,
    candidates: Sequence[Candidate],
    families: tuple[str, ...],
) -> TuningResult:
    """Gain of the search: each fold's winner on the others against the current values, on fresh
    seeds.

    If so, the change is to the values of trial `best`, which is one of the candidates.
    """
    settings = {
        candidate.number: suggest(optuna.trial.FixedTrial(candidate.values), current, families)
        for candidate in candidates
    }
    change = changes(settings[best], current)
    if not change:
        return TuningResult(
            {}, "the current values are the best ones found: params.yaml stays as it is"
        )
    chosen = {fold: winner.number for fold, winner in winners(candidates).items()}
    fitted = {
        number: refit_oof(data, settings[number])["score"].to_numpy()
        for number in set(chosen.values())
    }
    now = refit_oof(data, current)["score"].to_numpy()
    searched = np.select(
        [data.fold == fold for fold in chosen], [fitted[number] for number in chosen.values()]
    )
    gain = paired_difference(data.target, searched, now, data.folds[PATIENT], 1000)
    text = (
        f"{gain.value:+.4f} pAUC (95 % {gain.low:+.4f} to {gain.high:+.4f}, paired by patient,"
        " fresh seeds, each fold by the trial that is best on the others)"
    )
    if gain.low <= 0:
        return TuningResult(
            {},
            f"trial {best} is the best, but searching gains {text}: params.yaml stays as it is",
            gain,
        )
    return TuningResult(change, f"trial {best} is the best, and searching gains {text}", gain)


def refit_oof(data: TrainingData, settings: StackSettings) -> pd.DataFrame:
    """Out-of-fold scores as the stage would make them, from seeds that no trial used."""
    return fit_training_data(data, settings, first_seed=_FRESH).oof
