"""The notebook, run here as Kaggle would run it: offline, in a fresh environment, on files it has not seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
import venv
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from isic.core.errors import InputError
from isic.core.io import read_json, require, write_json
from isic.core.paths import Layout
from isic.core.schema import ID
from isic.submit.hidden import write_hidden
from isic.submit.kaggle import COMPETITION, DATASET, Package, package_of, read_notebook_code
from isic.submit.submission import check_submission, read_sample

#: Lesions the hidden test set is planned for: at least the training size.
HIDDEN_ROWS = 500_000
LIMIT_HOURS = 12.0
#: A T4 has a peak of 8.1 TFLOP/s in float32, of which image networks reach about a third.
_T4_GFLOPS = 2700.0
_T4_COUNT, _KAGGLE_CORES = 2, 4


@dataclass(frozen=True)
class Measured:
    """One run of the notebook: what it scored, how long it took, and its largest memory."""

    case: str
    rows: int
    seconds: float
    peak_gb: float


@dataclass(frozen=True)
class DryRun:
    """All runs, and the time the hidden test set would take: here, and estimated on Kaggle's two T4."""

    runs: tuple[Measured, ...]
    hours_here: float
    hours_kaggle: float

    @property
    def fits(self) -> bool:
        return self.hours_kaggle <= LIMIT_HOURS

    def text(self) -> str:
        lines = [
            f"{run.case:<8} {run.rows:>8,} lesions  {run.seconds:8.1f} s  {run.peak_gb:5.2f} GB  valid"
            for run in self.runs
        ]
        answer = "fits" if self.fits else "DOES NOT FIT"
        lines.append(
            f"{HIDDEN_ROWS:,} lesions: {self.hours_here:.2f} h on this machine; estimated {self.hours_kaggle:.2f} h on "
            f"2 x T4, which {answer} {LIMIT_HOURS:g} h (an estimate: scaled by matrix speed, decoding by 4 cores)"
        )
        return "\n".join(lines)


def dry_run(layout: Layout, rows: int = HIDDEN_ROWS) -> DryRun:
    """Run the built notebook on the checkout's test files and on `rows` generated lesions (0: leave those out).

    Writes submission/kaggle-dry-run.json. Raises InputError when nothing was built, the notebook fails, or a
    submission is not valid.
    """
    package = package_of(layout)
    require(package.notebook, "Kaggle package", "run `isic submission build`")
    with tempfile.TemporaryDirectory(prefix="isic-dry-run-") as name:
        folder = Path(name)
        python = fresh_environment(folder / "environment")
        runs = [run_notebook(package, python, layout.raw, folder / "official", "official")]
        decode = 0.0
        if rows:
            write_hidden(folder / "hidden", rows)
            runs.append(run_notebook(package, python, folder / "hidden", folder / "generated", "hidden"))
            decode = decode_seconds(folder / "hidden" / "test-image.hdf5")
    models = read_json(package.dataset / "bundle" / "bundle.json")
    result = estimate(tuple(runs), decode, len(models["backbones"]) * len(models["folds"]))
    content = asdict(result) | {"fits": result.fits}
    write_json(layout.submission.with_name("kaggle-dry-run.json"), content)
    return result


def fresh_environment(folder: Path) -> Path:
    """An environment with the libraries of this one and without this package; returns its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    # Only the folder is added: .pth files in it, such as that of an editable install, are not followed.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin" / "python"


def run_notebook(package: Package, python: Path, competition: Path, folder: Path, case: str) -> Measured:
    """Run the notebook's code with `competition` as the competition's files, and check what it wrote."""
    source = folder / "input"
    source.mkdir(parents=True)
    (source / DATASET).symlink_to(package.dataset.resolve(), target_is_directory=True)
    (source / COMPETITION).symlink_to(competition.resolve(), target_is_directory=True)
    working = folder / "working"
    working.mkdir()
    (folder / "notebook.py").write_text(read_notebook_code(package))
    dropped = ("PYTHON", "MLFLOW_", "DVC_", "KAGGLE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment |= {"ISIC_KAGGLE_INPUT": str(source), "HOME": str(folder)}
    command = [*_offline(), str(python), str(folder / "notebook.py")]
    started = time.perf_counter()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=working, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        tail = (folder / "log").read_text().strip().splitlines()[-1:]
        raise InputError(f"the notebook failed on the {case} test files: {' '.join(tail) or 'no message'}")
    expected = read_sample(competition / "sample_submission.csv")
    check_submission(pd.read_csv(working / "submission.csv", dtype={ID: "str"}), expected)
    return Measured(case, len(expected), seconds, usage.ru_maxrss / 2**20)


def _offline() -> list[str]:
    """Prefix that takes the network away where the system lets an ordinary user do so."""
    if shutil.which("unshare") is None:
        return []
    tried = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False)
    return ["unshare", "-rn"] if tried.returncode == 0 else []


def decode_seconds(images: Path, most: int = 2000) -> float:
    """Seconds to read and decode one tile on one core."""
    from isic.data.tiles import TileStore

    tiles = TileStore(images)
    ids = tiles.ids()[:most]
    started = time.perf_counter()
    for name in ids:
        tiles.image(name)
    return (time.perf_counter() - started) / len(ids)


def estimate(runs: tuple[Measured, ...], decode: float, models: int) -> DryRun:
    """Scale the largest run to the hidden set: seconds beyond those of the smallest run grow with the lesions.

    `decode` are seconds per tile on one core; every one of `models` decodes for itself. What is left of a lesion's
    time is taken as matrix work and scaled from this machine's speed to two T4.
    """
    small, large = runs[0], runs[-1]
    fixed = small.seconds if large.rows > small.rows else 0.0
    per_lesion = max(large.seconds - fixed, 0.0) / large.rows
    decoding = decode * models
    work = max(per_lesion - decoding, 0.0) * matrix_gflops() / (_T4_GFLOPS * _T4_COUNT)
    kaggle = max(decoding / _KAGGLE_CORES, work)
    hours = [(fixed + HIDDEN_ROWS * seconds) / 3600 for seconds in (per_lesion, kaggle)]
    return DryRun(runs, hours[0], hours[1])


def matrix_gflops(side: int = 1024, rounds: int = 5) -> float:
    """This machine's speed in float32 matrix products, in GFLOP/s: the best of some rounds."""
    left = np.ones((side, side), dtype=np.float32)
    best = min(_seconds(left) for _ in range(rounds))
    return 2 * side**3 / best / 1e9


def _seconds(left: np.ndarray) -> float:
    started = time.perf_counter()
    left @ left
    return time.perf_counter() - started
