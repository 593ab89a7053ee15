"""Shared fixtures: a small generated data set, a checkout with it, and a runner of one stage."""

from __future__ import annotations

import csv
import importlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.pipeline import SHRUNK, call, make_checkout

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# A developer's own server must not receive test runs.
os.environ.pop("MLFLOW_TRACKING_URI", None)
# Two workers with two threads each on two cores are slower than with one each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests interrupt themselves, and a shell has what it starts in the background ignore SIGINT.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest file first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture(autouse=True)
def no_store_left_behind() -> Iterator[None]:
    """MLflow writes the store that a process used last into the environment; the next test has its
    own.
    """
    yield
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout under test."""
    return ROOT


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A read-only folder that the processes of a test run share: the first of them makes it."""
    from isic.core.locks import locked

    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with locked(base / f"{name}.lock"):
        if not (base / f"{name}.made").exists():
            shutil.rmtree(base / name, ignore_errors=True)
            make(base / name)
            (base / f"{name}.made").touch()
    return base / name


@pytest.fixture(scope="session")
def sample_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five official files, generated: 60 patients, 600 lesions, 24 malignant. Read only."""
    from isic.data.sample import write_sample

    def make(folder: Path) -> None:
        write_sample(folder, patients=60, lesions=600, positives=24, seed=3)

    return made_once(tmp_path_factory, "sample", make)


@pytest.fixture
def checkout(tmp_path: Path, sample_raw: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with dvc.yaml, params.yaml and data/raw, as the working directory."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(sample_raw, folder / "data" / "raw")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def done(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after `dvc repro`. Shared: tests may add to it, not remove."""
    folder = make_checkout(root, tmp_path_factory.mktemp("pipeline") / "checkout", SHRUNK)
    call(folder, "dvc", "repro")
    return folder


class Outcome(NamedTuple):
    """Exit status of a stage, and its standard error."""

    code: int
    error: str


@pytest.fixture
def stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run a stage main in this process as `python -m pipelines.NAME ARGS` would."""
    from isic.core.errors import run

    def call(name: str, *arguments: str) -> Outcome:
        module = importlib.import_module(f"pipelines.{name}")
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capsys.readouterr()
        try:
            run(module.main)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, capsys.readouterr().err)

    return call


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real rows and tiles, from ISIC_REAL_DATA or the folder beside the checkout; skips without
    them.
    """
    folder = Path(os.environ.get("ISIC_REAL_DATA") or ROOT.parent / "shared" / "data" / "slice3d")
    if not (folder / "competition" / "train-metadata.csv").is_file():
        pytest.skip("no real data: set ISIC_REAL_DATA to a folder with competition/ and tiles/")
    return folder


def rows_of(real_data: Path, part: str = "competition") -> tuple[int, int]:
    """Rows and malignant rows of a table of the real data, counted because the data grow."""
    with (real_data / part / "train-metadata.csv").open(newline="") as stream:
        targets = [row["target"] for row in csv.DictReader(stream)]
    return len(targets), targets.count("1")
