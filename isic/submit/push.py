"""Push the package with the Kaggle client, which reads the token itself; the token is never
printed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from isic.core.errors import InputError
from isic.core.io import require
from isic.submit.kaggle import COMPETITION, NO_OWNER, Package

#: Starts of the client's error lines: it exits 0 even when it fails, and pushes a notebook without
#: its invalid sources.
_FAILURE = re.compile(
    r"\w[\w ]* error: |Could not (submit|find) |Upload unsuccessful|Invalid credentials|User"
    r" cancelled"
    r"|The following are not valid \w+ sources"
)
#: Seconds: Kaggle unpacks a dataset of some gigabytes within minutes of the upload.
_READY_WITHIN, _POLL_EVERY = 1800.0, 10.0


def push(package: Package, message: str, submit_version: int | None = None) -> list[str]:
    """Upload the dataset and the notebook; with `submit_version`, submit that version of the
    notebook instead.

    Kaggle runs a notebook for minutes after a push; submit it after that run. Returns the client's
    output lines. Raises InputError when token, client or package is missing, the client fails, or
    the dataset is not ready in time.
    """
    require(package.notebook, "Kaggle package", "run `isic submission build`")
    require_token()
    client = shutil.which("kaggle")
    if client is None:
        raise InputError("the Kaggle client is not installed: .venv/bin/pip install kaggle")
    kernel = json.loads((package.notebook / "kernel-metadata.json").read_text(encoding="utf-8"))[
        "id"
    ]
    if kernel.startswith(NO_OWNER):
        raise InputError(
            "the package has no owner: run `isic submission build --user NAME` with your Kaggle"
            " name"
        )
    if submit_version is not None:
        numbered = ["-k", kernel, "-v", str(submit_version), "-f", "submission.csv", "-m", message]
        return [_call([client, "competitions", "submit", COMPETITION, *numbered])]
    dataset = json.loads((package.dataset / "dataset-metadata.json").read_text(encoding="utf-8"))[
        "id"
    ]
    known = (
        subprocess.run(
            [client, "datasets", "status", dataset], capture_output=True, check=False
        ).returncode
        == 0
    )
    upload = ["datasets", "version", "-m", message] if known else ["datasets", "create"]
    # Folders are uploaded as archives, which Kaggle unpacks.
    uploaded = _call([client, *upload, "-p", str(package.dataset), "-r", "zip"])
    _wait_until_ready(client, dataset)
    return [uploaded, _call([client, "kernels", "push", "-p", str(package.notebook)])]


def require_token() -> None:
    """Raise InputError, with the variable to set, when there is no Kaggle token."""
    known = os.environ.get("KAGGLE_API_TOKEN") or (
        os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY")
    )
    files = [Path.home() / ".kaggle" / name for name in ("access_token", "kaggle.json")]
    if not known and not any(file.is_file() for file in files):
        raise InputError(
            "no Kaggle token: set KAGGLE_API_TOKEN (kaggle.com, Settings, API, Create token) and"
            f" accept the competition's rules at kaggle.com/c/{COMPETITION}"
        )


def _wait_until_ready(client: str, dataset: str) -> None:
    """Wait for Kaggle to unpack the dataset: a notebook pushed earlier gets none, or the version
    before.
    """
    until, printed = time.monotonic() + _READY_WITHIN, ""
    while (state := _dataset_state(client, dataset)) != "ready":
        if state in ("failed", "deleted"):
            raise InputError(
                f"Kaggle could not unpack {dataset} ({state}): see kaggle.com/datasets/{dataset}"
            )
        if time.monotonic() >= until:
            raise InputError(
                f"{dataset} is not ready after {_READY_WITHIN / 60:.0f} minutes ({state}): run this"
                " command again later"
            )
        if state != printed:
            sys.stderr.write(f"isic: note: waiting until Kaggle has unpacked {dataset} ({state})\n")
            printed = state
        time.sleep(_POLL_EVERY)


def _dataset_state(client: str, dataset: str) -> str:
    """Kaggle's status word, or an error line right after the creation of a dataset or on a bad
    connection.
    """
    done = subprocess.run(
        [client, "datasets", "status", dataset], capture_output=True, text=True, check=False
    )
    lines = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
    return _without_secrets(lines[-1].strip())


def _call(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [
        _without_secrets(line) for line in (done.stdout + done.stderr).strip().splitlines()
    ] or ["no message"]
    errors = [line for line in lines if _FAILURE.match(line)]
    if done.returncode or errors:
        raise InputError(
            f"kaggle {' '.join(command[1:3])} failed: {errors[0] if errors else lines[-1]}"
        )
    return lines[-1]


def _without_secrets(line: str) -> str:
    """Remove the token: the client may print its arguments in an error."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY"):
        secret = os.environ.get(name)
        line = line.replace(secret, "***") if secret else line
    return line
