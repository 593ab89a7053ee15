"""`isic doctor`: one line per check of the set-up, with a remedy where one is needed.

Checks only read. A check that raises is reported as a failed line, and the others still run.
"""

from __future__ import annotations

import ctypes
import getpass
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from isic.core.errors import InputError, error_line
from isic.core.io import read_json
from isic.core.params import Params, load_params
from isic.core.paths import Layout
from isic.image.network.gpu import may_have_gpu

State = Literal["ok", "note", "fail"]

#: Bytes of a checkout with the full data: 1.2 GB of tiles in data/official, data/raw and the cache,
#: and models and embeddings of ten folds.
_BYTES_NEEDED = 12 << 30


class Line(NamedTuple):
    """Result of one check: its name, state and finding, and the remedy."""

    name: str
    state: State
    finding: str
    remedy: str = ""

    def text(self) -> str:
        """The line as printed, with the remedy unless the state is ok."""
        advice = f" -> {self.remedy}" if self.remedy and self.state != "ok" else ""
        return f"{self.state:<5}{self.name:<14}{self.finding}{advice}"


def checks() -> Iterator[Line]:
    """All checks, cheap ones first. DVC, the slowest, checks while the others do."""
    try:
        layout = Layout.find()
    except InputError as error:
        yield from _environment()
        yield Line("checkout", "fail", str(error))
        return
    with ThreadPoolExecutor(1) as pool:
        dvc = pool.submit(_dvc, layout)
        yield from _environment()
        yield from _checkout(layout, dvc.result)


def _environment() -> Iterator[Line]:
    yield _python()
    yield _guard("command", _command)
    yield _guard("packages", _packages)
    yield from _system()
    yield _guard("torch", _torch)


def _checkout(layout: Layout, dvc: Callable[[], Line]) -> Iterator[Line]:
    yield _guard("disk", lambda: _disk(layout))
    params = _guard("params", lambda: _params(layout))
    yield params
    readable = params.state == "ok"
    yield _guard("data", lambda: _data(layout)) if readable else _skipped("data")
    yield _guard("mlflow", lambda: _mlflow(layout))
    yield from _servers(layout)
    yield _guard("dvc", dvc)
    yield _kaggle()
    yield _guard("time", lambda: _time(layout)) if readable else _skipped("time")


def _skipped(name: str) -> Line:
    return Line(name, "note", "not checked", "correct params.yaml")


def _guard(name: str, check: Callable[[], Line]) -> Line:
    try:
        return check()
    except InputError as error:
        return Line(name, "fail", " ".join(str(error).split()))
    except Exception as error:
        if line := error_line(error):
            return Line(name, "fail", line)
        # A broken installation may raise anything; the other checks still run.
        return Line(
            name,
            "fail",
            f"{type(error).__name__}: {' '.join(str(error).split())[:160]}",
            "make setup",
        )


def _python() -> Line:
    finding = f"{sys.version.split()[0]} at {sys.executable}"
    state: State = "ok" if sys.version_info >= (3, 11) else "fail"
    return Line("python", state, finding, "make PYTHON=python3.11 setup")


def _command() -> Line:
    """Whether `isic` on the PATH is this program: isic-cli, the archive's tool, installs the same
    name.
    """
    path = shutil.which("isic")
    remedy = "python -m isic is always this program"
    if path is None:
        return Line("command", "note", "no isic on the PATH", remedy)
    # The script of an entry point imports its module; a binary cannot be told apart.
    script = Path(path).read_bytes()[:4096]
    if b"isic_cli" in script:
        finding = f"{path} is isic-cli, the archive's tool"
        return Line("command", "note", finding, f"{remedy}; for both: {_BOTH}")
    if b"isic.cli" not in script:
        return Line("command", "note", f"{path} is another program", remedy)
    if Path(path).resolve().parent != Path(sys.executable).parent.resolve():
        return Line("command", "note", f"{path} belongs to another environment", remedy)
    return Line("command", "ok", path)


#: Moves isic-cli into an environment of its own.
_BOTH = (
    "pip uninstall isic-cli, pip install --no-deps --editable ., then `pipx run --spec isic-cli"
    " isic` for the archive"
)


def _packages() -> Line:
    root = Path(__file__).resolve().parent.parent
    pinned = dict(_pins(root / "constraints.txt"))
    outdated = [
        f"{name} {installed or 'absent'} (pinned {pin})"
        for name, pin in pinned.items()
        if (installed := _installed(name)) != pin
    ]
    # Only direct imports fail the check: a package pinned for another platform may be absent.
    failed = [entry for entry in outdated if entry.split()[0] in _DIRECT]
    if failed:
        return Line("packages", "fail", ", ".join(failed), "make setup")
    return Line(
        "packages",
        "ok",
        f"{len(pinned) - len(outdated)} of {len(pinned)} pinned packages installed as pinned",
    )


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


def _system() -> Iterator[Line]:
    """What other programs of this machine lack or put first; nothing where all is well."""
    try:
        if sys.platform == "linux":
            ctypes.CDLL("libgomp.so.1")
    except OSError:
        remedy = "Debian and Ubuntu: sudo apt install libgomp1"
        yield Line("libgomp", "fail", "libgomp.so.1 is absent, LightGBM needs it", remedy)
    if shutil.which("git") is None:
        remedy = "Debian and Ubuntu: sudo apt install git"
        yield Line("git", "note", "not installed: runs have no commit", remedy)
    own = Path(sys.executable).parent
    for name in ("python", "dvc"):
        first = shutil.which(name)
        if first is None or Path(first).parent != own:
            finding = f"`{name}` is {first or 'absent'}, this Python is in {own}"
            yield Line("path", "note", finding, f"source {own}/activate, or use make")


def _pins(path: Path) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        name, _, pin = line.partition("==")
        if pin:
            yield name.strip(), pin.split(";")[0].split("#")[0].strip()


def _installed(name: str) -> str | None:
    try:
        # A suffix such as "+cpu" names a build of the same version.
        return version(name).split("+")[0]
    except PackageNotFoundError:
        return None


def _torch() -> Line:
    if not may_have_gpu():
        return _paired(_without_gpu())
    from isic.image.network.device import describe_devices, pick, unseen_gpu

    fault = unseen_gpu()
    if fault:
        return Line("torch", "fail", f"{version('torch')}, a GPU that cannot be used", fault)
    devices = describe_devices()
    if devices:
        try:
            pick()
        except InputError as error:
            return Line("torch", "fail", f"{version('torch')}, {'; '.join(devices)}", str(error))
        return _paired(Line("torch", "ok", f"{version('torch')}, {'; '.join(devices)}"))
    return _paired(_without_gpu())


def _without_gpu() -> Line:
    finding = f"{version('torch')}, no GPU: the demo runs on the CPU"
    return Line("torch", "note", finding, "the full preset needs a GPU")


def _paired(line: Line) -> Line:
    """`line`, with a note when torch and torchvision are built for different devices.

    isic needs no torchvision (isic/image/network/lean_imports.py); other programs fail.
    """
    own, other = (_build(name) for name in ("torch", "torchvision"))
    if not own or not other or own == other:
        return line
    finding = (
        f"{line.finding}; torch is built for {own}, torchvision for {other}: isic runs, a plain"
        " `import timm` fails"
    )
    index = f"https://download.pytorch.org/whl/{own}"
    remedy = f"for a pair: pip install --force-reinstall --no-deps --index-url {index} torchvision"
    pin = f"=={_installed('torchvision')}"
    advice = f"{line.remedy}; {remedy}{pin}" if line.remedy else remedy + pin
    return Line(line.name, "note", finding, advice)


def _build(package: str) -> str:
    """What an installed package of PyTorch was built for, such as `cpu` or `cu130`; "" if unknown.

    Read from its version.py, since the version of a wheel on PyPI has no such suffix.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    detected = re.search(r"^__version__ = '[^'+]*\+(\w+)'", text, re.MULTILINE)
    return detected[1] if detected else ""


def _disk(layout: Layout) -> Line:
    free = shutil.disk_usage(layout.root).free
    finding = f"{free / 2**30:.1f} GiB free"
    if free < 1 << 30:
        return Line("disk", "fail", finding, "the demo needs 1 GiB: free disk space")
    if free < _BYTES_NEEDED:
        return Line(
            "disk",
            "note",
            finding,
            f"enough for the demo; the full data needs {_BYTES_NEEDED >> 30} GiB",
        )
    return Line("disk", "ok", finding)


def _params(layout: Layout) -> Line:
    params = load_params(layout.params)
    unknown = list(_unknown_names(params))
    if unknown:
        return Line(
            "params",
            "fail",
            f"unknown {', '.join(unknown)}",
            "check the spelling; isic features list",
        )
    if params.data.source == "sample":
        from isic.data.sample.patients import check_request

        sample = params.data.sample
        check_request(sample.patients, sample.lesions, sample.positives, sample.seed)
    return Line(
        "params", "ok", f"{len(params.image.backbones)} backbones x {len(params.folds)} folds"
    )


def _unknown_names(params: Params) -> Iterator[str]:
    """Names in params.yaml that do not exist; a stage would raise for them only when it runs."""
    from isic.image.network.catalogue import CATALOGUE
    from isic.tabular import feature_families
    from isic.tabular.fitted import fitted_families

    families, kinds = set(feature_families()), set(fitted_families())
    for key, names, known in (
        ("features.families", params.features.families, families),
        ("stack.drop", params.stack.drop, families),
        ("stack.fitted", params.stack.fitted, kinds),
    ):
        yield from (f"{name} in {key}" for name in names if name not in known)
    for backbone in params.image.backbones:
        model = params.image.recipe(backbone).model
        if model in CATALOGUE:
            continue
        # Imported late: timm and torch take seconds.
        from isic.image.network.backbone import exists

        if not exists(model):
            yield f"{model} in image.backbones.{backbone}.model"


def _data(layout: Layout) -> Line:
    from isic.data.source import FILES, has_tiles, missing_files

    data = load_params(layout.params).data
    folder = layout.root / str(data.folder)
    if data.source == "folder" and folder.resolve().is_relative_to(layout.raw.resolve()):
        return Line(
            "data",
            "fail",
            f"{data.folder} is an output of DVC and is emptied by it",
            "keep the files in another folder",
        )
    missing = missing_files(folder) if data.source == "folder" else []
    if missing and not has_tiles(folder):
        return Line(
            "data",
            "fail",
            f"{data.folder} lacks {', '.join(missing)}",
            "make data, or set data.folder",
        )
    if not layout.validate_metrics.is_file() or not all(
        (layout.raw / name).is_file() for name in FILES
    ):
        return Line(
            "data",
            "note",
            f"source {data.source}, data/raw not written or not validated",
            "dvc repro validate",
        )
    counts = read_json(layout.validate_metrics)
    text = (
        f"valid: {counts['rows']:,} rows, {counts['positives']} malignant, {counts['patients']:,}"
        " patients"
    )
    return Line("data", "ok", f"source {data.source}, {text}")


def _mlflow(layout: Layout) -> Line:
    from isic.tracking.server import count_runs

    return Line("mlflow", "ok", count_runs(layout.root))


def _servers(layout: Layout) -> Iterator[Line]:
    """A team's servers, each only if this checkout is configured to use it."""
    from isic.tracking.remote import probe_remote
    from isic.tracking.server import probe_artifacts

    def studies() -> str | None:
        if not os.environ.get("OPTUNA_STORAGE"):
            return None
        from isic.tuning.storage import count_studies

        return count_studies(layout.root / "optuna")

    probes = {
        "artifacts": lambda: probe_artifacts(layout.root),
        "remote": lambda: probe_remote(layout.root),
        "studies": studies,
    }
    for name, probe_server in probes.items():
        line = _guard(name, partial(_probe_line, name, probe_server))
        if line.finding:
            yield line


def _probe_line(name: str, probe_server: Callable[[], str | None]) -> Line:
    return Line(name, "ok", probe_server() or "")


def _dvc(layout: Layout) -> Line:
    try:
        getpass.getuser()
    except (KeyError, OSError):  # of Python until 3.12, from 3.13
        finding = f"user {os.getuid()} has no name, and DVC needs one"
        return Line("dvc", "fail", finding, "export USER=me, or use make, which does")
    done = _dvc_status(layout, "--quiet")
    if done.returncode == 0:
        return Line("dvc", "ok", "everything up to date")
    if done.returncode == 1:
        return Line(
            "dvc", "note", "some stages changed or never ran", "dvc repro (dvc status lists them)"
        )
    # --quiet hides the error message too: run again without it.
    errors = _dvc_status(layout).stderr.strip().splitlines() or ["dvc status failed"]
    return Line(
        "dvc",
        "fail",
        errors[0].removeprefix("ERROR: "),
        "a clone has .git and .dvc; in a ZIP download: git init && git add . && git commit -m Start",
    )


def _dvc_status(layout: Layout, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", "status", *options]
    return subprocess.run(
        command, cwd=layout.root, capture_output=True, text=True, timeout=300, check=False
    )


def _kaggle() -> Line:
    from isic.submit.push import require_token

    try:
        require_token()
    except InputError:
        return Line(
            "kaggle",
            "note",
            "no token",
            "only `make data` and `isic submission push` need one: set KAGGLE_API_TOKEN",
        )
    return Line("kaggle", "ok", "token present (not shown)")


def _time(layout: Layout) -> Line:
    from isic.scale.estimate import count_lesions, hidden_set_time, remaining_time

    params = load_params(layout.params)
    models = layout.image_models(params.image.backbones, params.folds)
    counts = count_lesions(layout.folds, params.data)
    training = remaining_time(params.image, models, counts)
    scoring = hidden_set_time(params.image, len(params.folds))
    return Line("time", "ok", "; ".join(filter(None, (training, scoring))))
