"""The three servers: ports, secrets, start in order, stop in reverse order."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import deploy
import isic
from deploy.local.postgres import Postgres
from isic.core.errors import InputError
from isic.tracking.server import refuse_port

BUCKET = "isic"
ADMIN = "isic"
#: Seconds within which a server must respond; MLflow migrates its databases first.
START_SECONDS = 180.0


class Servers:
    """MLflow on `port`, PostgreSQL on the next one, S3 on the one after; data and secrets in
    `folder`.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        # Other users can enter the folder (under root, PostgreSQL's user must) but not list it.
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._secrets = _secrets(folder / "secrets.json")
        self.postgres = Postgres(folder / "postgres", port + 1, self._secrets["postgres"])
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def s3(self) -> str:
        return f"http://127.0.0.1:{self.port + 2}"

    def start(self, s3: str = "") -> None:
        """Start all three; `s3` is the store's address for MLflow (default: the store's own).

        Raises InputError when a port is taken or a server does not start; then all are stopped.
        """
        for port in range(self.port, self.port + 3):
            refuse_port(port)
        try:
            self.postgres.start(("mlflow", "mlflow_auth", "optuna"))
            self._start(
                "s3",
                [
                    sys.executable,
                    "-m",
                    "deploy.local.objects",
                    str(self.folder / "s3"),
                    str(self.port + 2),
                    BUCKET,
                ],
            )
            _wait_for(f"{self.s3}/", self._processes[-1], self.folder / "s3.log")
            self.start_mlflow(s3)
        except BaseException:
            self.stop()
            raise

    def start_mlflow(self, s3: str = "") -> None:
        """Start only the MLflow server; the others must run."""
        script = Path(deploy.__file__).parent / "mlflow.sh"
        self._start(
            "mlflow",
            ["/bin/sh", str(script)],
            {
                "PYTHON": sys.executable,
                "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "auth.ini"),
                "MLFLOW_BACKEND_STORE_URI": self.postgres.url("mlflow"),
                "AUTH_DATABASE_URI": self.postgres.url("mlflow_auth"),
                "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
                "MLFLOW_S3_ENDPOINT_URL": s3 or self.s3,
                "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
                "MLFLOW_AUTH_ADMIN_PASSWORD": self._secrets["mlflow"],
                "MLFLOW_FLASK_SERVER_SECRET_KEY": self._secrets["flask"],
                "MLFLOW_HOST": "127.0.0.1",
                "MLFLOW_PORT": str(self.port),
                "MLFLOW_WORKERS": "1",
                # Disables the server's evaluation jobs, which are unused here and take a process
                # each.
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        )
        _wait_for(f"{self.address}/health", self._processes[-1], self.folder / "mlflow.log")

    def stop_mlflow(self) -> None:
        """Stop only the MLflow server."""
        _end(self._processes.pop())

    def stop(self) -> None:
        """Stop all, MLflow first, PostgreSQL last."""
        while self._processes:
            _end(self._processes.pop())
        self.postgres.stop()

    def environment(self) -> dict[str, str]:
        """Environment variables of a client: addresses and credentials of the three servers."""
        return {
            "MLFLOW_TRACKING_URI": self.address,
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": self._secrets["mlflow"],
            "OPTUNA_STORAGE": self.postgres.url("optuna"),
            "AWS_ACCESS_KEY_ID": self._secrets["s3_key"],
            "AWS_SECRET_ACCESS_KEY": self._secrets["s3_secret"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": self.s3,
        }

    def write_environment(self) -> Path:
        """Write `environment` as a file to source in a shell, readable by its owner only."""
        path = self.folder / "env"
        lines = [f"export {name}='{value}'" for name, value in self.environment().items()]
        _write_private(path, "\n".join(lines) + "\n")
        return path

    def exited(self) -> str:
        """Name of a server that has exited, "" while all run."""
        if self.postgres.exited():
            return "PostgreSQL"
        stopped = [
            name
            for name, process in zip(("S3", "MLflow"), self._processes, strict=True)
            if process.poll() is not None
        ]
        return next(iter(stopped), "")

    def _start(self, name: str, command: list[str], extra: Mapping[str, str] | None = None) -> None:
        home = str(Path(isic.__file__).resolve().parent.parent)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW_", "AWS_"))
        }
        environment |= {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONPATH": home,
            **self.environment(),
            **(extra or {}),
        }
        environment.pop(
            "MLFLOW_TRACKING_URI"
        )  # the server must not use itself as a tracking server
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self._processes.append(process)


def _secrets(path: Path) -> dict[str, str]:
    """Passwords of these servers, generated once and stored."""
    if path.is_file():
        return dict(json.loads(path.read_text()))
    passwords = {
        name: secrets.token_urlsafe(24) for name in ("postgres", "mlflow", "flask", "s3_secret")
    }
    passwords["s3_key"] = secrets.token_hex(10).upper()
    _write_private(path, json.dumps(passwords))
    return passwords


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    temporary.replace(path)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                return
            except urllib.error.HTTPError:
                return  # the server responds; without credentials an error is expected
        if process.poll() is not None or time.monotonic() > until:
            raise InputError(f"the server at {address} did not start: see {log}")
        time.sleep(0.3)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    # Remaining processes of its session: uvicorn's workers, if the parent exited without them.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()
