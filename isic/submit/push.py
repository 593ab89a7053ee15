"""Sending the package to Kaggle with its own client, which reads the token itself; it is never shown here."""

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
from isic.core.paths import Layout
from isic.submit.kaggle import COMPETITION, NOBODY, package_of

#: How the client begins a line about what went wrong before it ends with status 0. A source that is not valid is left
#: out of the notebook, which is pushed all the same.
_FAILURE = re.compile(
    r"\w[\w ]* error: |Could not (submit|find) |Upload unsuccessful|Invalid credentials|User cancelled"
    r"|The following are not valid \w+ sources"
)
#: Kaggle unpacks a dataset of some gigabytes within minutes after it has answered.
_READY_WITHIN, _ASK_EVERY = 1800.0, 10.0


def push(layout: Layout, message: str, submit_version: int | None = None) -> list[str]:
    """Upload the dataset and the notebook; with `submit_version`, submit that version of the notebook instead.

    Kaggle runs a notebook for minutes after it is pushed; submit it when that run has ended. Returns the client's
    lines. Raises InputError when there is no token, no client, no package, the client refuses, or Kaggle does not get
    the dataset ready.
    """
    package = package_of(layout)
    require(package.notebook, "Kaggle package", "run `isic submission build`")
    require_token()
    client = shutil.which("kaggle")
    if client is None:
        raise InputError("the Kaggle client is not installed: .venv/bin/pip install kaggle")
    kernel = json.loads((package.notebook / "kernel-metadata.json").read_text(encoding="utf-8"))["id"]
    if kernel.startswith(NOBODY):
        raise InputError("the package has no owner: run `isic submission build --user NAME` with your Kaggle name")
    if submit_version is not None:
        numbered = ["-k", kernel, "-v", str(submit_version), "-f", "submission.csv", "-m", message]
        return [_call([client, "competitions", "submit", COMPETITION, *numbered])]
    dataset = json.loads((package.dataset / "dataset-metadata.json").read_text(encoding="utf-8"))["id"]
    known = subprocess.run([client, "datasets", "status", dataset], capture_output=True, check=False).returncode == 0
    upload = ["datasets", "version", "-m", message] if known else ["datasets", "create"]
    # Folders travel as archives, which Kaggle unpacks again.
    uploaded = _call([client, *upload, "-p", str(package.dataset), "-r", "zip"])
    _wait_until_ready(client, dataset)
    return [uploaded, _call([client, "kernels", "push", "-p", str(package.notebook)])]


def require_token() -> None:
    """Raise InputError saying what to set when the client would find no token."""
    known = os.environ.get("KAGGLE_API_TOKEN") or (os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"))
    files = [Path.home() / ".kaggle" / name for name in ("access_token", "kaggle.json")]
    if not known and not any(file.is_file() for file in files):
        raise InputError(
            "no Kaggle token: set KAGGLE_API_TOKEN (kaggle.com, Settings, API, Create token) and accept the "
            f"competition's rules at kaggle.com/c/{COMPETITION}"
        )


def _wait_until_ready(client: str, dataset: str) -> None:
    """Until Kaggle has unpacked the dataset: a notebook pushed before gets none, or the one of the time before."""
    until, said = time.monotonic() + _READY_WITHIN, ""
    while (state := _dataset_state(client, dataset)) != "ready":
        if state in ("failed", "deleted"):
            raise InputError(f"Kaggle could not unpack {dataset} ({state}): see kaggle.com/datasets/{dataset}")
        if time.monotonic() >= until:
            raise InputError(
                f"{dataset} is not ready after {_READY_WITHIN / 60:.0f} minutes ({state}): run this command again later"
            )
        if state != said:
            sys.stderr.write(f"isic: note: waiting until Kaggle has unpacked {dataset} ({state})\n")
            said = state
        time.sleep(_ASK_EVERY)


def _dataset_state(client: str, dataset: str) -> str:
    """Kaggle's word for it; why there is none right after a dataset was made, or when the line is bad."""
    done = subprocess.run([client, "datasets", "status", dataset], capture_output=True, text=True, check=False)
    lines = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
    return _without_secrets(lines[-1].strip())


def _call(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [_without_secrets(line) for line in (done.stdout + done.stderr).strip().splitlines()] or ["no message"]
    complaints = [line for line in lines if _FAILURE.match(line)]
    if done.returncode or complaints:
        raise InputError(f"kaggle {' '.join(command[1:3])} failed: {complaints[0] if complaints else lines[-1]}")
    return lines[-1]


def _without_secrets(line: str) -> str:
    """A client in trouble may repeat what it was given."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY"):
        secret = os.environ.get(name)
        line = line.replace(secret, "***") if secret else line
    return line
