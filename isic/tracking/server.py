"""MLflow's own pages on this checkout's store."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from isic.core.errors import InputError
from isic.tracking.store import artifact_root, connect, tracking_uri


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
