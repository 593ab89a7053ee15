"""Looking at the store: is it reachable, and MLflow's own pages on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from isic.core.errors import InputError
from isic.tracking.store import EXPERIMENT, artifact_root, connect, tracking_uri


def probe(root: Path) -> str:
    """One phrase on the store: where it is and how many runs it holds. An absent local store is not made.

    Raises InputError when it cannot be reached.
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
    """Become the MLflow UI of the checkout at `root` on 127.0.0.1; ends with the process.

    Raises InputError when MLFLOW_TRACKING_URI names a server, which has its own pages.
    """
    uri = tracking_uri(root)
    if uri.startswith(("http://", "https://")):
        raise InputError(f"the runs are at {uri}: open it in a browser, or unset MLFLOW_TRACKING_URI")
    connect(root)
    sys.stdout.write(f"http://127.0.0.1:{port}\n")
    sys.stdout.flush()
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    stores = ["--backend-store-uri", uri, "--default-artifact-root", artifact_root(root).as_uri()]
    os.execv(sys.executable, [*command, *stores])
