"""An Optuna study shared by processes and machines, each of which may stop at any time.

A worker holds a lock file while it runs. A trial whose worker ended (killed, machine rebooted) is
marked failed and its values are queued again, so only that trial runs twice. On a shared journal
file, trials of other hosts are not touched; on a database, a trial is taken over when its heartbeat
expires.
"""

from __future__ import annotations

import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from isic.core.locks import locked
from isic.tuning.storage import (
    CONNECTION_ERRORS,
    ask,
    exclusive,
    fail,
    has_heartbeat,
    heartbeat,
    heartbeat_seconds,
    open_storage,
    requeue_stale,
    retry,
)

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
_WORKER, _HOST = "worker", "host"
#: Seconds within which a worker writes its name to a new trial.
_SIGNING = 20


@dataclass(frozen=True)
class Worker:
    """A process that runs trials of a study."""

    study: optuna.Study
    folder: Path
    identity: str

    def run(
        self,
        objective: Callable[[optuna.Trial], float],
        trials: int,
        after: Callable[[FrozenTrial], None] = lambda trial: None,
    ) -> None:
        """Run trials until the study holds `trials` finished ones, counting those that live workers
        are running.

        `after` is called with every trial this process finished. On Ctrl-C the running trial is
        queued again before KeyboardInterrupt propagates. On a database the worker waits for the
        others' trials, to take over from one that dies. The trial that was running when the
        database restarted is queued again.
        """
        while self.finished() < trials:
            if retry(self._taken) < trials:
                self._one(objective, after)
            elif has_heartbeat(self.study):
                time.sleep(min(5, heartbeat_seconds()))
            else:
                return

    def _one(
        self, objective: Callable[[optuna.Trial], float], after: Callable[[FrozenTrial], None]
    ) -> None:
        trial = retry(lambda: ask(self.study))
        with heartbeat(self.study, trial):
            try:
                retry(lambda: self._sign(trial))
                value = objective(trial)
            except optuna.TrialPruned:
                finished = retry(
                    lambda: self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
                )
            except CONNECTION_ERRORS:
                return  # its heartbeat expires, and another worker queues it again
            except BaseException:
                if retry(lambda: fail(self.study, trial._trial_id)):
                    retry(lambda: _requeue(self.study, self.study.trials[trial.number]))
                raise
            else:
                finished = retry(lambda: self.study.tell(trial, value, skip_if_finished=True))
        # Otherwise the heartbeat expired: another worker owns the trial, and the score is not
        # counted here.
        if finished.state in DONE:
            with suppress(*CONNECTION_ERRORS):  # a failed progress line must not stop the worker
                after(finished)

    def _sign(self, trial: optuna.Trial) -> None:
        trial.set_user_attr(_WORKER, self.identity)
        trial.set_user_attr(_HOST, socket.gethostname())  # last: marks the trial as signed

    def finished(self) -> int:
        """Finished trials of the study, of all workers together."""
        return len(retry(lambda: self.study.get_trials(deepcopy=False, states=DONE)))

    def _taken(self) -> int:
        if has_heartbeat(self.study):
            _requeue_dead(self.study, self.folder)
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return self.finished() + sum(_alive(self.study, self.folder, trial) for trial in running)


@contextmanager
def join_study(name: str, folder: Path, first: dict[str, Any]) -> Iterator[Worker]:
    """Join the study `name`, creating it with the values `first` as its first trial; yields this
    process's worker.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    identity = uuid.uuid4().hex
    own = folder / "live" / identity

    open_storage(folder)  # fail at once on a wrong address, without retries

    def enter() -> optuna.Study:
        with locked(folder / "join.lock"), exclusive(name):
            return _open(name, folder, first)

    with locked(own):
        try:
            yield Worker(retry(enter), folder, identity)
        finally:
            own.unlink(missing_ok=True)


def _open(name: str, folder: Path, first: dict[str, Any]) -> optuna.Study:
    storage = open_storage(folder)
    study = optuna.create_study(
        study_name=name, storage=storage, direction="maximize", load_if_exists=True
    )
    joined = int(study.user_attrs.get("joined", 0))
    study.set_user_attr("joined", joined + 1)
    # Equal seeds would make workers propose equal candidates.
    study.sampler = optuna.samplers.TPESampler(seed=joined)
    study.pruner = pruner()
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(first)
    _requeue_dead(study, folder)
    return study


def _requeue_dead(study: optuna.Study, folder: Path) -> None:
    """Queue the trials of dead workers again."""
    if has_heartbeat(study):
        requeue_stale(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        # Several workers may do this at once; only one of them can mark the trial failed.
        if not _alive(study, folder, trial) and fail(study, trial._trial_id):
            _requeue(study, trial)


def pruner() -> optuna.pruners.BasePruner:
    """Stops a candidate that loses against the best one, fold by fold and seed by seed.

    A candidate no better than the best is not worth finishing, so the test may be quick to judge:
    of two that are equal, one is stopped after two steps (the first members halfway) in a quarter
    of cases, and one that is clearly better hardly ever.
    """
    with warnings.catch_warnings():
        # Marked experimental since 3.6; the pinned range of versions has it.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.pruners.WilcoxonPruner(p_threshold=0.26, n_startup_steps=2)


def _requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    # A trial killed before its first suggestion has no values unless it was queued: the sampler
    # will suggest new ones.
    values = trial.params or trial.system_attrs.get("fixed_params")
    queued = any(
        other.user_attrs.get("retry_of") == trial.number
        for other in study.get_trials(deepcopy=False)
    )
    if values and not queued:
        study.enqueue_trial(values, user_attrs={"retry_of": trial.number})


def _alive(study: optuna.Study, folder: Path, trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial still holds its lock; the kernel drops it when a
    process dies.

    On a database the heartbeat has decided before: what is left is a trial that was never signed.
    """
    if _HOST not in trial.user_attrs:
        # A new trial, whose worker has not written its name yet or was killed before.
        started = trial.datetime_start
        return started is not None and (datetime.now() - started).total_seconds() < _SIGNING
    if has_heartbeat(study) or trial.user_attrs[_HOST] != socket.gethostname():
        return True
    lock = folder / "live" / str(trial.user_attrs[_WORKER])
    if not lock.is_file():
        return False
    with locked(lock, patience=0) as dead:
        if dead:
            lock.unlink(missing_ok=True)
    return not dead
