"""Looking at the store: is it reachable, and MLflow's own UI on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from isic.core.errors import InputError
from isic.tracking.store import EXPERIMENT, artifact_root, connect, settle_environment, tracking_uri


def probe(root: Path) -> str:
    """One phrase on the store: where it is and how many runs it holds.

    Raises InputError when it cannot be reached. An absent local store is not made.
    """
    uri = tracking_uri(root)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return "no runs yet (the first stage makes the store)"
    try:
        client = connect(root)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = client.search_runs([experiment.experiment_id], max_results=1000) if experiment else []
    except Exception as error:  # every store has its own errors; all mean the same here
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{uri} cannot be reached ({reason}): start it, or unset MLFLOW_TRACKING_URI") from error
    return f"{len(runs)} runs in {uri}"


def serve(root: Path, port: int) -> None:
    """Run MLflow's UI on this checkout's store until it is interrupted; only this machine can reach it.

    Raises InputError when MLFLOW_TRACKING_URI names a server, which has a UI of its own.
    """
    settle_environment()
    uri = tracking_uri(root)
    if not uri.startswith("sqlite:///"):
        raise InputError(f"runs are on a server: open {uri} in a browser")
    connect(root)
    sys.stderr.write(f"http://127.0.0.1:{port} (Ctrl-C ends it)\n")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--default-artifact-root", artifact_root(root).as_uri(), "--workers", "1"]
    subprocess.run(command, check=False, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"})
