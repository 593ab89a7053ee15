"""The MLflow store of a checkout, created completely before any process writes to it.

Without a lock, processes that start at the same time would all create and migrate the SQLite file.
A store with a relative path is lost with the temporary checkout of `dvc exp run --temp`. So
creation uses a lock and a rename, and paths are absolute.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from isic.core import locks
from isic.core.errors import InputError, printable, redact
from isic.tracking.pipe import warn
from isic.tracking.relocate import relocate

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

#: Experiment of the work: networks, stackers, searches.
EXPERIMENT = "isic-2024"
#: Experiment of runs that hold checks only. Stores made before it have them in `EXPERIMENT`.
REGISTRY_EXPERIMENT = "isic-2024-registry"
#: Prefixes of URIs of SQLite files, the driver not named and named.
_SQLITE = ("sqlite:///", "sqlite+pysqlite:///")
#: URI schemes of stores with both runs and a registry; a bare path is a folder of files.
_SCHEMES = ("", "file", "http", "https", "databricks", "sqlite", "postgresql", "mysql", "mssql")


def home(root: Path) -> Path:
    """The original checkout of `root`: `dvc exp run --temp` runs in a copy below .dvc/tmp."""
    root = Path(root).resolve()
    lasting = os.environ.get("DVC_ROOT")
    if lasting and root.is_relative_to(Path(lasting).resolve() / ".dvc" / "tmp"):
        return Path(lasting).resolve()
    return root


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, else the SQLite file of the checkout; a relative SQLite path is taken
    from the checkout.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return local_uri(root)
    return absolute(uri, root)


def local_uri(root: Path) -> str:
    """The SQLite file of the checkout."""
    return sqlite_uri(home(root) / "mlflow.db")


def absolute(uri: str, root: Path) -> str:
    """`uri` with the relative path of an SQLite file taken from the checkout."""
    file = sqlite_file(uri)
    # `Path / absolute` is the absolute path, so `sqlite:////abs` is unchanged.
    return uri if file is None or "?" in uri else sqlite_uri(home(root) / file)


def sqlite_file(uri: str) -> Path | None:
    """The database file of an SQLite URI, None for another store."""
    for prefix in _SQLITE:
        if uri.startswith(prefix):
            return Path(unquote(uri.removeprefix(prefix)))
    return None


def sqlite_uri(path: Path) -> str:
    """`path` with the characters encoded that SQLAlchemy decodes or takes for options.

    For a URI of the first prefix, MLflow would create the folders of the encoded path.
    """
    encoded = str(path).replace("%", "%25").replace("?", "%3F")
    return f"{_SQLITE[encoded != str(path)]}{encoded}"


def artifact_root(root: Path) -> Path:
    """Artifact folder of a local store; MLflow stores its absolute path in a new experiment."""
    return home(root) / "mlartifacts"


@contextmanager
def checkout_lock(root: Path, name: str = ".mlflow.lock") -> Iterator[None]:
    """Hold a lock of the checkout, by default of its MLflow store; other processes of this machine
    wait.
    """
    with locks.locked(home(root) / name):
        yield


def settle_environment(patience: int = 10) -> None:
    """Call before the first import of mlflow: no telemetry, few messages, requests time out after
    `patience` s.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(patience))
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # Inherited from `mlflow run` or a shell, these would put runs into another experiment.
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    os.environ.pop("MLFLOW_EXPERIMENT_NAME", None)
    # Each error of the database would be printed with its traceback; it is raised too.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def connect(root: Path, uri: str | None = None, patience: int = 10) -> MlflowClient:
    """A client of the store at `uri` (default: the checkout's), tracking and registry, created
    first if absent.

    `patience` is the timeout in seconds; a server responds to an upload only after the object store
    has it, so uploads of models need more. Raises InputError for an address of another kind.
    """
    settle_environment(patience)
    uri = uri or tracking_uri(root)
    if urlparse(uri).scheme.split("+")[0] not in _SCHEMES:
        raise InputError(
            f"{redact(uri)} is no MLflow store: use http://…, postgresql://… or sqlite:///…"
        )
    file = sqlite_file(uri)
    if file is not None and "?" in uri:
        raise InputError(f"{redact(uri)}: an SQLite store has no options (?…): leave them out")
    try:
        if file is not None:
            with checkout_lock(root):
                _create_database(file, root)
                if uri == local_uri(root):
                    relocate(home(root) / "mlflow.db", artifact_root(root))
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (InputError, OSError):
        raise
    except Exception as error:  # each kind of store raises its own errors
        raise unusable_store(uri, error) from error


def unusable_store(uri: str, error: Exception) -> InputError:
    """The error of a store that cannot be used, and what to do."""
    reason = short_reason(error)
    if isinstance(error, ImportError):
        remedy = "pip install 'isic[server]' brings PostgreSQL's driver"
    elif "MLFLOW_" in str(error):  # values of another project, left in the shell
        remedy = "unset the variables that it names"
    elif "schema" in reason or "revision" in reason:
        remedy = "it is of another version of MLflow: mlflow db upgrade, or move the file away"
    elif "disk is full" in reason:
        remedy = "free some disk space, and run the same command again"
    elif "readonly" in reason:
        remedy = "make the file and its folder writable, and run the same command again"
    elif "locked" in reason:
        remedy = "end the program that uses it, and run the same command again"
    elif sqlite_file(uri) is not None:
        remedy = "restore it, or move it away, and `dvc repro -f -s register` makes a new one"
    else:
        remedy = "start it, or unset MLFLOW_TRACKING_URI"
    return InputError(f"the MLflow store at {redact(uri)} cannot be used ({reason}): {remedy}")


def short_reason(error: BaseException) -> str:
    """The first line of an error that states its cause, without passwords, at most 200 characters
    long.
    """
    lines = str(error).strip().splitlines()
    # SQLAlchemy puts this before the database's own message.
    causes = [line for line in lines if not line.startswith("(raised as a result of")]
    return printable(redact(causes[0] if causes else type(error).__name__), 200)


def experiment_id(client: MlflowClient, root: Path, name: str = EXPERIMENT) -> str:
    """The id of experiment `name`, created if absent. Call with the lock held."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        if experiment.lifecycle_stage == "deleted":
            # Its name stays taken: nothing could be logged any more.
            client.restore_experiment(experiment.experiment_id)
            warn(f"experiment {name} was deleted in MLflow's UI: restored")
        return str(experiment.experiment_id)
    local = sqlite_file(client.tracking_uri) is not None
    location = (artifact_root(root) / name).as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=location))


def experiment_ids(client: MlflowClient) -> list[str]:
    """Ids of the experiments that exist: first the work, then the checks."""
    found = map(client.get_experiment_by_name, (EXPERIMENT, REGISTRY_EXPERIMENT))
    return [str(experiment.experiment_id) for experiment in found if experiment is not None]


def _create_database(path: Path, root: Path) -> None:
    """Migrate a new database under a temporary name, so that the final name is always a complete
    one.
    """
    if path.exists():
        # A damaged file and one that another program holds are told apart now, in seconds.
        with closing(sqlite3.connect(path, timeout=20)) as store:
            store.execute("select version_num from alembic_version").fetchone()
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.touch()  # where that fails, MLflow would retry for minutes
    SqlAlchemyStore(sqlite_uri(temporary), artifact_root(root).as_uri()).engine.dispose()
    temporary.replace(path)
