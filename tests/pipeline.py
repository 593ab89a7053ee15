"""The real pipeline, shrunk: `dvc` in a checkout of its own, without a network."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from isic.core.presets import write_overlay

#: Two folds of one backbone on a few hundred tiles, a small stacker, few replicates: every stage
#: runs, as a process of its own.
SHRUNK: dict[str, Any] = {
    "data": {"sample": {"patients": 40, "lesions": 600, "positives": 30, "seed": 3}},
    "folds": [0, 1],
    "image": {
        "train": {"epochs": 8},
        "backbones": {"__replace__": {"convnext": {"model": "demo_convnext"}}},
    },
    "stack": {"seeds": 2, "rounds": 50},
    "evaluate": {"replicates": 200},
    "gate": {"replicates": 200, "reload_rows": 64},
}

_CODE = ("dvc.yaml", "params.yaml", ".dvcignore", "isic", "pipelines")
#: Stages depend on these folders, which do not exist without image networks.
_KEPT = ("data/archive/.gitkeep", "data/embeddings/.gitkeep", "models/image/.gitkeep")

#: Refuses and records attempts to reach another machine, also when a library ignores the refusal.
_DENY = """
import os, socket
_connect = socket.socket.connect
def connect(self, address):
    host = address[0] if isinstance(address, tuple) else ""
    internet = self.family in (socket.AF_INET, socket.AF_INET6)
    if internet and host not in ("127.0.0.1", "localhost", "::1"):
        with open(os.environ["ISIC_TEST_NETWORK_LOG"], "a") as log:
            log.write(f"connect {address}\\n")
        raise OSError("network denied by the test")
    return _connect(self, address)
socket.socket.connect = connect
_lookup = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    if host not in (None, "127.0.0.1", "localhost", "::1", "0.0.0.0", socket.gethostname()):
        with open(os.environ["ISIC_TEST_NETWORK_LOG"], "a") as log:
            log.write(f"lookup {host}\\n")
        raise socket.gaierror("network denied by the test")
    return _lookup(host, *args, **kwargs)
socket.getaddrinfo = getaddrinfo
"""

#: Every process of a stage records the modules of this project that it loaded.
_NOTE_MODULES = """
import atexit, pathlib, sys
def note():
    names = [name for name in list(sys.modules) if name.split(".")[0] in ("isic", "pipelines")]
    file = pathlib.Path(__file__).parent / "modules" / f"{os.environ['DVC_STAGE']}-{os.getpid()}"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\\n".join(names))
if "DVC_STAGE" in os.environ:
    atexit.register(note)
"""


def make_checkout(root: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """Copy the code of `root` to `folder`, make it a git and DVC repository, lay `changes` over its
    params.yaml.
    """
    folder.mkdir(parents=True)
    for name in _CODE:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    for name in _KEPT:
        (folder / name).parent.mkdir(parents=True)
        shutil.copy(root / name, folder / name)
    shutil.copy(root / ".gitignore", folder / ".gitignore")
    (folder / ".dvc").mkdir()
    shutil.copy(root / ".dvc" / "config", folder / ".dvc" / "config")
    write_overlay(folder / "params.yaml", changes)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", *command], cwd=folder, check=True
        )
    (folder / ".deny").mkdir()
    (folder / ".deny" / "sitecustomize.py").write_text(_DENY + _NOTE_MODULES)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Variables of a process in the checkout `folder`: its own code first, no network, one thread a
    library.
    """
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{folder / '.deny'}{os.pathsep}{folder}",
        "ISIC_TEST_NETWORK_LOG": str(folder / ".deny" / "log"),
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "user.name",
        "GIT_CONFIG_VALUE_0": "A Tester",
        "GIT_CONFIG_KEY_1": "user.email",
        "GIT_CONFIG_VALUE_1": "tester@example.org",
    }
    # Variables of `make` or a developer's shell that silence libraries are dropped too: `dvc repro`
    # alone must be quiet.
    dropped = ("MLFLOW_", "DVC_", "OPTUNA_", "NO_ALBUMENTATIONS_UPDATE", "DO_NOT_TRACK")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)} | own


def call(
    folder: Path, *command: str, check: bool = True, timeout: int = 600, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout without a network; a failure shows its output."""
    full = ["unshare", "-rn", *command] if _can_unshare() else list(command)
    done = subprocess.run(
        full,
        cwd=folder,
        env=environment(folder) | variables,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(command)} exited"
            f" {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return done


def move_store(checkout: Path, before: Path) -> None:
    """Let the MLflow store of a copied checkout point at the copy's files."""
    with closing(sqlite3.connect(checkout / "mlflow.db")) as store:
        tables = [
            name for (name,) in store.execute("select name from sqlite_master where type='table'")
        ]
        for table in tables:
            for _, column, kind, *_ in store.execute(f"pragma table_info({table})").fetchall():
                if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                    store.execute(
                        f'update "{table}" set "{column}" = replace("{column}", ?, ?)'
                        f' where instr("{column}", ?)',
                        (str(before), str(checkout), str(before)),
                    )
        store.commit()


def network_attempts(folder: Path) -> str:
    """Addresses that processes of the checkout tried to reach, "" if none."""
    log = folder / ".deny" / "log"
    return log.read_text() if log.exists() else ""


def loaded_modules(folder: Path) -> dict[str, set[str]]:
    """Modules of this project by stage (one name for all items of a matrix) that its processes
    loaded.
    """
    loaded: dict[str, set[str]] = {}
    for file in (folder / ".deny" / "modules").iterdir():
        stage = file.name.rsplit("-", 1)[0].split("@")[0]
        loaded.setdefault(stage, set()).update(file.read_text().split())
    return loaded


def _can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0
    )
