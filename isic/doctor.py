"""What is right and wrong with the set-up, a line per check, each with what to do about it.

Reads, never mends, and never fails itself: a check that cannot be made says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from isic.core.errors import InputError
from isic.core.io import read_json
from isic.core.params import Params, load_params
from isic.core.paths import Layout

State = Literal["ok", "note", "fail"]

#: Bytes a checkout of the full data needs: 1.2 GB of tiles in data/official, data/raw and the cache, models and
#: embeddings of ten folds.
_ROOM_NEEDED = 12 << 30


class Line(NamedTuple):
    """One check: its name, how it stands, what was found, and what to do."""

    name: str
    state: State
    found: str
    remedy: str = ""

    def text(self) -> str:
        """The line as printed; the remedy follows only where something is to do."""
        advice = f" -> {self.remedy}" if self.remedy and self.state != "ok" else ""
        return f"{self.state:<5}{self.name:<14}{self.found}{advice}"


def checks() -> Iterator[Line]:
    """All checks, cheap ones first."""
    yield _python()
    yield _guard("packages", _packages)
    yield _guard("torch", _torch)
    try:
        layout = Layout.find()
    except InputError as error:
        yield Line("checkout", "fail", str(error))
        return
    yield _guard("disk", lambda: _disk(layout))
    params = _guard("params", lambda: _params(layout))
    yield params
    readable = params.state == "ok"
    yield _guard("data", lambda: _data(layout)) if readable else _untold("data")
    yield _guard("mlflow", lambda: _mlflow(layout))
    yield from _servers(layout)
    yield _guard("dvc", lambda: _dvc(layout))
    yield _kaggle()
    yield _guard("time", lambda: _time(layout)) if readable else _untold("time")


def _untold(name: str) -> Line:
    return Line(name, "note", "cannot be told", "mend params.yaml")


def _guard(name: str, check: Callable[[], Line]) -> Line:
    try:
        return check()
    except InputError as error:
        return Line(name, "fail", " ".join(str(error).split()))
    except Exception as error:  # a broken installation may fail in any way; the other checks still matter
        return Line(name, "fail", f"{type(error).__name__}: {' '.join(str(error).split())[:160]}", "make setup")


def _python() -> Line:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    state: State = "ok" if sys.version_info >= (3, 11) else "fail"
    return Line("python", state, found, "make PYTHON=python3.11 setup")


def _packages() -> Line:
    root = Path(__file__).resolve().parent.parent
    pinned = dict(_pins(root / "constraints.txt"))
    wrong = [
        f"{name} {found or 'absent'} (pinned {pin})"
        for name, pin in pinned.items()
        if (found := _installed(name)) != pin
    ]
    # Only what is imported directly decides; a pin for another platform may well be absent.
    needed = [entry for entry in wrong if entry.split()[0] in _DIRECT]
    if needed:
        return Line("packages", "fail", ", ".join(needed), "make setup")
    return Line("packages", "ok", f"{len(pinned) - len(wrong)} of {len(pinned)} pinned packages installed as pinned")


_DIRECT = (
    "torch",
    "torchvision",
    "timm",
    "albumentations",
    "lightgbm",
    "optuna",
    "mlflow",
    "dvc",
    "scikit-learn",
    "pandas",
)


def _pins(path: Path) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        name, _, pin = line.partition("==")
        if pin:
            yield name.strip(), pin.split(";")[0].split("#")[0].strip()


def _installed(name: str) -> str | None:
    try:
        # "+cpu" and the like name a build of the same version.
        return version(name).split("+")[0]
    except PackageNotFoundError:
        return None


def _torch() -> Line:
    from isic.image.network.device import describe_devices

    devices = describe_devices()
    if devices:
        return Line("torch", "ok", f"{version('torch')}, {'; '.join(devices)}")
    return Line("torch", "note", f"{version('torch')}, no GPU: the demo runs on the CPU", "the full preset wants a GPU")


def _disk(layout: Layout) -> Line:
    free = shutil.disk_usage(layout.root).free
    found = f"{free / 2**30:.1f} GiB free"
    if free < 1 << 30:
        return Line("disk", "fail", found, "the demo needs 1 GiB: free some")
    if free < _ROOM_NEEDED:
        return Line("disk", "note", found, f"enough for the demo; the full data needs {_ROOM_NEEDED >> 30} GiB")
    return Line("disk", "ok", found)


def _params(layout: Layout) -> Line:
    params = load_params(layout.params)
    strange = list(_unknown_names(params))
    if strange:
        return Line("params", "fail", f"unknown {', '.join(strange)}", "check the spelling; isic features list")
    if params.data.source == "sample":
        from isic.data.sample.patients import check_request

        sample = params.data.sample
        check_request(sample.patients, sample.lesions, sample.positives, sample.seed)
    return Line("params", "ok", f"{len(params.image.backbones)} backbones x {len(params.folds)} folds")


def _unknown_names(params: Params) -> Iterator[str]:
    """Names in params.yaml that a stage would look for in vain, after hours perhaps."""
    from isic.image.network.backbone import exists
    from isic.image.network.catalogue import resolve
    from isic.tabular import feature_families
    from isic.tabular.fitted import fitted_kinds

    families, kinds = set(feature_families()), set(fitted_kinds())
    for where, names, known in (
        ("features.families", params.features.families, families),
        ("stack.drop", params.stack.drop, families),
        ("stack.fitted", params.stack.fitted, kinds),
    ):
        yield from (f"{name} in {where}" for name in names if name not in known)
    for backbone in params.image.backbones:
        model, _ = resolve(params.image.recipe(backbone).model, {})
        if not exists(model):
            yield f"{model} in image.backbones.{backbone}.model"


def _data(layout: Layout) -> Line:
    from isic.data.source import FILES

    chosen = load_params(layout.params).data
    folder = layout.root / str(chosen.folder)
    if chosen.source == "folder" and folder.resolve().is_relative_to(layout.raw.resolve()):
        return Line("data", "fail", f"{chosen.folder} is what DVC empties and fills", "keep the files elsewhere")
    missing = [name for name in FILES if chosen.source == "folder" and not (folder / name).is_file()]
    if missing:
        return Line("data", "fail", f"{chosen.folder} lacks {', '.join(missing)}", "make data, or set data.folder")
    if not layout.validate_metrics.is_file() or not all((layout.raw / name).is_file() for name in FILES):
        return Line("data", "note", f"source {chosen.source}, data/raw not made or not checked", "dvc repro validate")
    found = read_json(layout.validate_metrics)
    text = f"valid: {found['rows']:,} rows, {found['positives']} malignant, {found['patients']:,} patients"
    return Line("data", "ok", f"source {chosen.source}, {text}")


def _mlflow(layout: Layout) -> Line:
    from isic.tracking.server import probe

    found = probe(layout.root)
    return Line("mlflow", "ok", found)


def _servers(layout: Layout) -> Iterator[Line]:
    """A team's servers, each only where this checkout is set up to use it."""
    from isic.tracking.remote import probe_remote
    from isic.tracking.server import probe_artifacts

    def studies() -> str | None:
        if not os.environ.get("OPTUNA_STORAGE"):
            return None
        from isic.tuning.storage import probe

        return probe(layout.root / "optuna")

    probes = {
        "artifacts": lambda: probe_artifacts(layout.root),
        "remote": lambda: probe_remote(layout.root),
        "studies": studies,
    }
    for name, probe_one in probes.items():
        told = _guard(name, partial(_told, name, probe_one))
        if told.found:
            yield told


def _told(name: str, probe_one: Callable[[], str | None]) -> Line:
    return Line(name, "ok", probe_one() or "")


def _dvc(layout: Layout) -> Line:
    done = _dvc_status(layout, "--quiet")
    if done.returncode == 0:
        return Line("dvc", "ok", "everything up to date")
    if done.returncode == 1:
        return Line("dvc", "note", "something changed or was never run", "dvc repro (dvc status says what)")
    # Quiet, it does not even say why it cannot.
    said = _dvc_status(layout).stderr.strip().splitlines() or ["dvc status failed"]
    return Line("dvc", "fail", said[0].removeprefix("ERROR: "), "make the folder a git clone with its .dvc")


def _dvc_status(layout: Layout, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", "status", *options]
    return subprocess.run(command, cwd=layout.root, capture_output=True, text=True, timeout=300, check=False)


def _kaggle() -> Line:
    from isic.submit.push import require_token

    try:
        require_token()
    except InputError:
        return Line("kaggle", "note", "no token", "only `make data` and a push need one: set KAGGLE_API_TOKEN")
    return Line("kaggle", "ok", "token present (not shown)")


def _time(layout: Layout) -> Line:
    from isic.scale.estimate import remaining_time

    return Line("time", "ok", remaining_time(layout))
