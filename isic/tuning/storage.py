"""Storage of a study: a journal file of this checkout, or a database shared by the workers of many
machines.

On a database a running trial sends heartbeats. A trial whose heartbeat expires is queued again, on
any machine. Optuna's own heartbeat works in `Study.optimize` only and stops at the first lost
connection; this one survives a restart of the database.
"""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import optuna
import sqlalchemy
from optuna.storages import (
    BaseStorage,
    JournalStorage,
    RDBStorage,
    RetryHeartbeatStaleTrialCallback,
    fail_stale_trials,
)
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from isic.core.errors import InputError, redact

#: Errors of a database that is down, restarting or refusing connections.
CONNECTION_ERRORS = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DBAPIError)
#: Retries of a trial whose worker died: the trial itself may be the cause (memory).
_RETRIES = 2

_T = TypeVar("_T")


def heartbeat_seconds() -> int:
    """Seconds between heartbeats: OPTUNA_HEARTBEAT, else 15. A worker is dead after four without
    one.
    """
    text = os.environ.get("OPTUNA_HEARTBEAT", "15")
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"OPTUNA_HEARTBEAT is {text!r}: give whole seconds, 1 or more")
    return int(text)


def open_storage(folder: Path) -> BaseStorage | str:
    """Storage of OPTUNA_STORAGE (any Optuna URL), else a journal file in `folder`.

    Raises InputError, without the URL's password, when the database cannot be used.
    """
    url = os.environ.get("OPTUNA_STORAGE", "").strip()
    if not url:
        folder.mkdir(parents=True, exist_ok=True)
        return _open_journal(folder / "journal.log")
    if url.startswith("redis"):
        return url
    beat = heartbeat_seconds()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            with _exclusive(url, "tables"):
                return RDBStorage(
                    url,
                    # Detects connections cut by a restart of the database and replaces them at the
                    # next use.
                    engine_kwargs={"pool_pre_ping": True},
                    heartbeat_interval=beat,
                    grace_period=4 * beat,
                    heartbeat_stale_trial_callback=_RequeueStaleTrial(max_retry=_RETRIES),
                )
    except (ImportError, sqlalchemy.exc.NoSuchModuleError):
        raise InputError(
            f"no driver for {redact(url)}: pip install 'isic[server]' brings PostgreSQL's"
        ) from None
    except sqlalchemy.exc.ArgumentError:
        raise InputError(
            "OPTUNA_STORAGE is no database URL: it looks like"
            " postgresql+psycopg://user:password@host:5432/name"
        ) from None
    except (*CONNECTION_ERRORS, sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        raise InputError(f"OPTUNA_STORAGE {redact(url)} cannot be used: {_reason(error)}") from None


def count_studies(folder: Path) -> str | None:
    """One phrase on the database of OPTUNA_STORAGE, None when it is not set. Raises InputError when
    it is unusable.
    """
    url = os.environ.get("OPTUNA_STORAGE", "").strip()
    if not url:
        return None
    studies = optuna.get_all_study_names(open_storage(folder))
    return f"{len(studies)} studies in {redact(url)}"


def _open_journal(path: Path) -> JournalStorage:
    """The journal, without a last line that a killed worker left half written: the next line would
    be appended to it. Raises InputError for damage elsewhere.
    """
    if path.exists():
        lock = JournalFileSymlinkLock(str(path))  # the one that Optuna takes to append
        lock.acquire()
        try:
            with path.open("r+b") as stream:
                content = stream.read()
                if content and not content.endswith(b"\n"):
                    stream.truncate(content.rfind(b"\n") + 1)
        finally:
            lock.release()
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except Exception as error:  # Optuna replays whatever a line holds
        raise InputError(
            f"{path}{_damaged_line(path)} is not a record of Optuna's: remove that line, or the file"
            " to search anew"
        ) from error


def _damaged_line(path: Path) -> str:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            if isinstance(json.loads(line), dict):
                continue
        except (ValueError, RecursionError):
            pass
        return f" line {number}"
    return ""


class _RequeueStaleTrial(RetryHeartbeatStaleTrialCallback):
    """Queue a dead worker's trial again, without its worker; retry while the database restarts."""

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        trial.user_attrs = {}
        queue = super().__call__

        def once() -> None:
            others = study.get_trials(deepcopy=False)
            if not any(
                trial.number in other.system_attrs.get("retry_history", ()) for other in others
            ):
                queue(study, trial)

        retry(once)


def has_heartbeat(study: optuna.Study) -> bool:
    """Whether the study's storage records heartbeats."""
    return isinstance(database(study), RDBStorage)


def database(study: optuna.Study) -> BaseStorage:
    """The storage behind Optuna's cache of finished trials."""
    storage = study._storage
    return getattr(storage, "_backend", storage)


def fail(study: optuna.Study, trial_id: int) -> bool:
    """Mark a running trial failed; False when another worker has finished it first."""
    try:
        return bool(study._storage.set_trial_state_values(trial_id, state=TrialState.FAIL))
    except optuna.exceptions.UpdateFinishedTrialError:
        return False


def requeue_stale(study: optuna.Study) -> None:
    """Queue the trials whose heartbeat expired."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        fail_stale_trials(study)


def ask(study: optuna.Study) -> optuna.Trial:
    """A new trial, without Optuna's warning that `ask` sends no heartbeats: `heartbeat` does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        return study.ask()


@contextmanager
def heartbeat(study: optuna.Study, trial: optuna.Trial) -> Iterator[None]:
    """Send heartbeats while the trial runs; does nothing for a journal file."""
    storage = database(study)
    if not isinstance(storage, RDBStorage):
        yield
        return
    number = trial._trial_id
    retry(lambda: storage.record_heartbeat(number))
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(float(storage.heartbeat_interval or 1)):
            try:
                storage.record_heartbeat(number)
            except CONNECTION_ERRORS:
                continue  # the database may be back at the next heartbeat

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)


def retry(act: Callable[[], _T]) -> _T:
    """Retry the idempotent `act` while the database does not answer.

    Raises InputError after eight heartbeats: by then other workers have taken over this one's
    trial.
    """
    patience = 8 * heartbeat_seconds()
    until = time.monotonic() + patience
    while True:
        try:
            return act()
        except CONNECTION_ERRORS as error:
            if time.monotonic() > until:
                raise InputError(
                    f"the study's database did not respond for {patience} s ({_reason(error)}):"
                    " finished trials are stored; start it and run the same command again"
                ) from None
            time.sleep(0.5)


@contextmanager
def _exclusive(url: str, name: str) -> Iterator[None]:
    """Hold a PostgreSQL advisory lock, which ends with the connection; other databases have no
    lock.
    """
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect() as connection:
        connection.execute(
            sqlalchemy.text("select pg_advisory_lock(:key)"), {"key": zlib.crc32(name.encode())}
        )
        yield


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Allow one worker of all machines at a time to set up the study `name`."""
    url = os.environ.get("OPTUNA_STORAGE", "").strip()
    if not url or url.startswith("redis"):
        yield
        return
    with _exclusive(url, name):
        yield


def _reason(error: BaseException) -> str:
    """The first line of the root cause, without secrets: Optuna and SQLAlchemy wrap the driver's
    message.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return redact(lines[0])[:200] if lines else type(error).__name__
