"""Check that the store is reachable, and serve MLflow's UI."""

from __future__ import annotations

import errno
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from contextlib import closing
from pathlib import Path

from isic.core.errors import InputError, redact
from isic.tracking.files import repository
from isic.tracking.store import EXPERIMENT, artifact_root, connect, sqlite_file, tracking_uri
from isic.tracking.view import publish_view


def count_runs(root: Path) -> str:
    """Address of the store and its number of runs, as text. An absent local store is not created.

    Raises InputError when it cannot be reached or refuses access.
    """
    uri = tracking_uri(root)
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        return "no runs yet (the first stage makes the store)"
    try:
        if file is not None:
            return f"{_count_in_file(file)} runs in {redact(uri)}"
        client = connect(root)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = (
            client.search_runs([experiment.experiment_id], max_results=1000) if experiment else []
        )
    except Exception as error:  # each kind of store raises its own errors
        raise InputError(_explain(uri, error)) from error
    return f"{len(runs)} runs in {redact(uri)}"


def _count_in_file(path: Path) -> int:
    """Number of runs in a store on disk. Read from its tables: importing MLflow takes seconds."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=20)) as store:
        query = (
            "select count(*) from runs join experiments using (experiment_id)"
            " where experiments.name = ? and runs.lifecycle_stage = 'active'"
        )
        return int(store.execute(query, (EXPERIMENT,)).fetchone()[0])


def probe_artifacts(root: Path) -> str | None:
    """Write a file to a server's artifact store, read it back and delete it; None when the store is
    local.

    Raises InputError when a step fails: a server serves runs even when its object store is
    unavailable.
    """
    uri = tracking_uri(root)
    if not uri.startswith(("http://", "https://")):
        return None
    client = connect(root)
    name = f"doctor-{uuid.uuid4().hex}"
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT) or client.get_experiment("0")
        store = repository(experiment.artifact_location, uri)
        with tempfile.TemporaryDirectory() as scratch:
            note = Path(scratch) / name
            note.write_text(name)
            store.log_artifact(str(note))
            note.unlink()
            found = Path(store.download_artifacts(name, dst_path=scratch)).read_text()
        store.delete_artifacts(name)
    except Exception as error:
        raise InputError(
            f"{redact(uri)} cannot store files ({_reason(error)}): check the server's log and its"
            " object store"
        ) from error
    if found != name:
        raise InputError(
            f"{redact(uri)} returned other bytes than were written: check its object store"
        )
    return f"a file was written to {experiment.artifact_location} and read back"


def _explain(uri: str, error: Exception) -> str:
    reason = _reason(error)
    if "401" in reason or "authenticat" in reason.lower():
        return (
            f"{redact(uri)} refuses access ({reason}): set MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD, or write ~/.mlflow/credentials"
        )
    return f"{redact(uri)} cannot be reached ({reason}): start it, or unset MLFLOW_TRACKING_URI"


def _reason(error: Exception) -> str:
    return redact(" ".join(str(error).split()))[:120]


def refuse_port(port: int) -> None:
    """Raise InputError when no server can listen on `port` of this machine."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OverflowError:
        raise InputError(f"{port} is no port: choose one from 1024 to 65535") from None
    except OSError as error:
        why = (
            f"port {port} is taken"
            if error.errno == errno.EADDRINUSE
            else f"port {port}: {error.strerror}"
        )
        raise InputError(
            f"{why}: stop the program that uses it, or choose another (PORT=…)"
        ) from None


def serve(root: Path, port: int) -> None:
    """Serve the MLflow UI of the checkout at `root` on 127.0.0.1 until Ctrl-C; print its address once
    it answers.

    Raises InputError when MLFLOW_TRACKING_URI names a server, which has its own pages, the port is
    taken, or the server ends by itself.
    """
    uri = tracking_uri(root)
    if uri.startswith(("http://", "https://")):
        raise InputError(
            f"the runs are at {redact(uri)}: open it in a browser, or unset MLFLOW_TRACKING_URI"
        )
    refuse_port(port)
    page = publish_view(connect(root))

    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", uri]
    command += ["--default-artifact-root", artifact_root(root).as_uri()]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            _await_answer(server, f"http://127.0.0.1:{port}/health")
            if server.poll() is None:
                sys.stdout.write(f"http://127.0.0.1:{port}{page}\n")
                sys.stdout.flush()
            if server.wait():
                log.seek(0)
                raise InputError(f"the MLflow server ended: {' '.join(log.read().split())[-300:]}")
        except KeyboardInterrupt:
            pass
        finally:
            server.terminate()
            server.wait()


def _await_answer(server: subprocess.Popen[bytes], url: str) -> None:
    """Return once `url` answers or the server has ended."""
    while server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
