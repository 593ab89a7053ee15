"""One Optuna study that several processes and machines fill together, and that any of them may leave at any time.

A worker holds a lock file while it lives. A trial whose worker is gone (killed, machine rebooted) is marked failed and
its values are queued again, so that nothing is lost and nothing but the killed trial runs twice. Workers on other
machines are recognised by host name and left alone.
"""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
_WORKER, _HOST = "worker", "host"
#: Seconds within which a worker signs a trial it has asked for.
_SIGNING = 20


def open_storage(folder: Path) -> BaseStorage | str:
    """Storage of OPTUNA_STORAGE (any Optuna URL), else a journal file in `folder`."""
    url = os.environ.get("OPTUNA_STORAGE", "")
    if url:
        return url
    folder.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(folder / "journal.log")))


@dataclass(frozen=True)
class Worker:
    """This process's part in a study."""

    study: optuna.Study
    folder: Path
    identity: str

    def run(
        self,
        objective: Callable[[optuna.Trial], float],
        trials: int,
        after: Callable[[FrozenTrial], None] = lambda trial: None,
    ) -> None:
        """Work until the study holds `trials` finished trials, counting those that live workers are at.

        `after` sees every trial this process finished. On Ctrl-C the running trial is queued again before
        KeyboardInterrupt goes on.
        """
        while self._taken() < trials:
            trial = self.study.ask()
            trial.set_user_attr(_WORKER, self.identity)
            trial.set_user_attr(_HOST, socket.gethostname())  # last: it says that the trial is signed
            try:
                value = objective(trial)
            except optuna.TrialPruned:
                after(self.study.tell(trial, state=TrialState.PRUNED))
            except BaseException:
                self.study.tell(trial, state=TrialState.FAIL)
                _queue_again(self.study, self.study.trials[trial.number])
                raise
            else:
                after(self.study.tell(trial, value))

    def _taken(self) -> int:
        done = self.study.get_trials(deepcopy=False, states=DONE)
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return len(done) + sum(_alive(self.folder, trial) for trial in running)


@contextmanager
def join(name: str, folder: Path, first: dict[str, Any]) -> Iterator[Worker]:
    """Join the study `name`, creating it with the values `first` as its first trial; yields this process's worker."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (folder / "live").mkdir(parents=True, exist_ok=True)
    identity = uuid.uuid4().hex
    own = folder / "live" / identity
    with own.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with locked(folder / "join.lock"):
                study = _open(name, folder, first)
            yield Worker(study, folder, identity)
        finally:
            own.unlink(missing_ok=True)


def _open(name: str, folder: Path, first: dict[str, Any]) -> optuna.Study:
    storage = open_storage(folder)
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    joined = int(study.user_attrs.get("joined", 0))
    study.set_user_attr("joined", joined + 1)
    # Equal seeds would make workers propose equal candidates.
    study.sampler = optuna.samplers.TPESampler(seed=joined)
    with warnings.catch_warnings():
        # Marked experimental since 3.6; the pinned range of versions has it.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=2)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(first)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _alive(folder, trial):
            study.tell(trial.number, state=TrialState.FAIL)
            _queue_again(study, trial)
    return study


def _queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    # A trial killed before its first suggestion has no values: the sampler will think again.
    if trial.params:
        study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})


def _alive(folder: Path, trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial still holds its lock; the kernel drops it when a process dies."""
    if _HOST not in trial.user_attrs:
        # Just asked for, by a worker that has not signed it yet or died before it could.
        started = trial.datetime_start
        return started is not None and (datetime.now() - started).total_seconds() < _SIGNING
    if trial.user_attrs[_HOST] != socket.gethostname():
        return True
    lock = folder / "live" / str(trial.user_attrs[_WORKER])
    if not lock.is_file():
        return False
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    lock.unlink(missing_ok=True)
    return False


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`; with `wait` False, yield False at once when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
