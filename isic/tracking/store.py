"""Which MLflow store this checkout uses, made once and completely before any process writes to it.

Five processes that meet an absent SQLite file all try to migrate it and break it for good, and a store named by a
relative path is lost with the throw-away checkout of `dvc exp run --temp`: hence a lock, a rename and absolute paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from isic.core import locks
from isic.core.errors import InputError, shown

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "isic-2024"
SQLITE = "sqlite:///"
#: Kinds of address with both runs and a registry behind them; a bare path is a folder of files.
_SCHEMES = ("", "file", "http", "https", "databricks", "sqlite", "postgresql", "mysql", "mssql")


def home(root: Path) -> Path:
    """The lasting checkout behind `root`: `dvc exp run --temp` works in a copy under its .dvc/tmp."""
    root = Path(root).resolve()
    lasting = os.environ.get("DVC_ROOT")
    if lasting and root.is_relative_to(Path(lasting).resolve() / ".dvc" / "tmp"):
        return Path(lasting).resolve()
    return root


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, else the SQLite file of the checkout; a relative SQLite path is taken from the checkout."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return local_uri(root)
    return absolute(uri, root)


def local_uri(root: Path) -> str:
    """The SQLite file of the checkout."""
    return f"{SQLITE}{home(root) / 'mlflow.db'}"


def absolute(uri: str, root: Path) -> str:
    """`uri` with the relative path of an SQLite file taken from the checkout."""
    if uri.startswith(SQLITE):
        # Path "/" keeps an absolute right side, so `sqlite:////abs` stays what it is.
        return f"{SQLITE}{home(root) / uri.removeprefix(SQLITE)}"
    return uri


def artifact_root(root: Path) -> Path:
    """Where a local store keeps artifacts; MLflow fixes it, absolute, when the experiment is made."""
    return home(root) / "mlartifacts"


@contextmanager
def locked(root: Path, name: str = ".mlflow.lock") -> Iterator[None]:
    """Hold a lock of the checkout, by default that of its MLflow store; other processes of this machine wait."""
    with locks.locked(home(root) / name):
        yield


def settle_environment(patience: int = 10) -> None:
    """Before the first import of mlflow: no telemetry, no chatter, and a silent server given up after `patience` s."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(patience))
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # Inherited from `mlflow run` or a shell, these would move our runs to another experiment.
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    os.environ.pop("MLFLOW_EXPERIMENT_NAME", None)


def connect(root: Path, uri: str | None = None, patience: int = 10) -> MlflowClient:
    """A client of the store at `uri` (default: the checkout's), tracking and registry, made first if it is absent.

    A server answers an upload only when the object store has it: who sends models needs more `patience` (seconds).
    Raises InputError for an address of another kind.
    """
    settle_environment(patience)
    uri = uri or tracking_uri(root)
    if urlparse(uri).scheme.split("+")[0] not in _SCHEMES:
        raise InputError(f"{shown(uri)} is no MLflow store: use http://…, postgresql://… or sqlite:///…")
    if uri.startswith(SQLITE):
        with locked(root):
            _create_database(Path(uri.removeprefix(SQLITE)), root)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(client: MlflowClient, root: Path) -> str:
    """The id of the one experiment, made if absent. Call with the lock held."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return str(experiment.experiment_id)
    local = client.tracking_uri.startswith(SQLITE)
    location = (artifact_root(root) / EXPERIMENT).as_uri() if local else None
    return str(client.create_experiment(EXPERIMENT, artifact_location=location))


def _create_database(path: Path, root: Path) -> None:
    """Migrate a fresh database under a temporary name, so that its final name only ever means a whole one."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    SqlAlchemyStore(f"{SQLITE}{temporary}", artifact_root(root).as_uri()).engine.dispose()
    temporary.replace(path)
