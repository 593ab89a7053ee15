"""Rehearse the notebook under Kaggle's conditions: offline, fresh environment, other files."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from isic.core.errors import InputError
from isic.core.io import read_json, require, scratch_dir, write_json
from isic.core.schema import ID
from isic.data.patient_chunks import open_chunked
from isic.image.scoring_time import (
    HIDDEN_ROWS,
    KAGGLE_GPUS,
    T4,
    ScoredNetwork,
    kaggle_seconds,
)
from isic.predict.bundle import load_bundle
from isic.predict.manifest import read_manifest
from isic.predict.rows import CHUNK_ROWS
from isic.predict.scoring import ScoringOptions
from isic.submit.environment import fresh_environment
from isic.submit.hidden_test_set import write_hidden_test_set
from isic.submit.kaggle import COMPETITION, DATASET, Package, read_notebook_code
from isic.submit.submission import check_submission, read_sample

LIMIT_HOURS = 12.0
_KAGGLE_CORES = 4
_WARNING = "isic: WARNING"


@dataclass(frozen=True)
class NotebookRun:
    """One run of the notebook: rows scored, seconds, peak memory, and the notes it printed."""

    case: str
    rows: int
    seconds: float
    peak_gb: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """Estimated hours for the hidden test set: here, and on Kaggle's two T4 and four cores.

    `plain_hours_*` is the part of features and boosters. A tile counts once per image model; images
    per second are None without image models. `basis`: how the networks' time on Kaggle was found.
    """

    images_per_second_here: float | None
    images_per_second_kaggle: float | None
    plain_hours_here: float
    plain_hours_kaggle: float
    hours_here: float
    hours_kaggle: float
    basis: str = ""

    @property
    def fits(self) -> bool:
        return self.hours_kaggle <= LIMIT_HOURS

    def text(self) -> str:
        here = _parts(self.plain_hours_here, self.images_per_second_here)
        kaggle = _parts(self.plain_hours_kaggle, self.images_per_second_kaggle)
        networks = f"{self.basis}, decoding, "
        return (
            f"{HIDDEN_ROWS:,} lesions: {self.hours_here:.2f} h here{here}; about"
            f" {self.hours_kaggle:.2f} h on Kaggle{kaggle}, which"
            f" {'fits' if self.fits else 'DOES NOT FIT'} {LIMIT_HOURS:g} h (an estimate:"
            f" {networks if here else ''}features and boosters by {_KAGGLE_CORES} cores)"
        )


def _parts(plain_hours: float, images_per_second: float | None) -> str:
    if images_per_second is None:
        return ""
    return (
        f" ({plain_hours:.2f} h of features and boosters, {images_per_second:,.0f} images a second)"
    )


@dataclass(frozen=True)
class DryRun:
    """All runs of the notebook; no estimate when only the few official rows were scored."""

    runs: tuple[NotebookRun, ...]
    offline: bool
    estimate: Estimate | None

    def text(self) -> str:
        lines = []
        for run in self.runs:
            lines.append(
                f"{run.case:<8} {run.rows:>8,} lesions  {run.seconds:7.1f} s  {run.peak_gb:5.2f} GB"
                "  valid"
            )
            lines += [f"         {note}" for note in run.notes]
        if not self.offline:
            lines.append(
                "the network could not be disabled here (no unshare): network access would not be"
                " noticed"
            )
        lines.append(
            self.estimate.text()
            if self.estimate
            else "no estimate of time: give --rows 20000 or more"
        )
        return "\n".join(lines)


def dry_run(package: Package, competition: Path, out: Path, rows: int = HIDDEN_ROWS) -> DryRun:
    """Run the built notebook on the test files in `competition` and on `rows` generated lesions
    (0: leave those out).

    Writes the result as JSON to `out`. Raises InputError when there is no package, the notebook
    fails, or a submission is not valid.
    """
    require(package.notebook, "Kaggle package", "run `isic submission build`")
    manifest = read_manifest(package.dataset / "bundle")
    members = manifest.models.get("stack", {}).get("members", ["lightgbm"])
    with scratch_dir() as folder:
        wheel = next((package.dataset / "wheels").glob("isic-*.whl"))
        python = fresh_environment(folder / "environment", wheel, members)
        runs = [run_notebook(package, python, competition, folder / "official", "official")]
        guess = None
        if rows:
            write_hidden_test_set(folder / "hidden", rows)
            runs.append(
                run_notebook(
                    package, python, folder / "hidden", folder / "generated", "hidden", new=True
                )
            )
            plain = plain_seconds(
                package, competition / "test-metadata.csv", folder / "hidden" / "test-metadata.csv"
            )
            decode = decode_seconds(folder / "hidden" / "test-image.hdf5")
            networks = scored_networks(package.dataset / "bundle")
            guess = estimate(runs[0], runs[1], plain, decode, networks)
    result = DryRun(tuple(runs), bool(_offline()), guess)
    content = asdict(result) | {"fits": guess.fits if guess else None}
    write_json(out, content)
    return result


def run_notebook(
    package: Package, python: Path, competition: Path, folder: Path, case: str, new: bool = False
) -> NotebookRun:
    """Run the notebook's code with the competition's files in `competition`, and validate its
    submission.

    `new`: mount files where Kaggle does since 2026, below competitions/ and datasets/OWNER/.
    """
    source = folder / "input"
    data = source / ("datasets/owner" if new else "") / DATASET
    files = source / ("competitions" if new else "") / COMPETITION
    for link, target in ((data, package.dataset), (files, competition)):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target.resolve(), target_is_directory=True)
    working = folder / "working"
    working.mkdir()
    (folder / "notebook.py").write_text(read_notebook_code(package))
    dropped = ("PYTHON", "MLFLOW_", "DVC_", "KAGGLE_")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(dropped)
    }
    environment |= {"ISIC_KAGGLE_INPUT": str(source), "HOME": str(folder)}
    command = [*_offline(), str(python), str(folder / "notebook.py")]
    started = time.perf_counter()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=working, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        tail = (folder / "log").read_text().strip().splitlines()[-1:]
        raise InputError(
            f"the notebook failed on the {case} test files: {' '.join(tail) or 'no message'}"
        )
    expected = read_sample(competition / "sample_submission.csv")
    check_submission(pd.read_csv(working / "submission.csv", dtype={ID: "str"}), expected)
    notes = [
        line
        for line in (folder / "log").read_text().splitlines()
        if line.startswith(("isic: note", _WARNING))
    ]
    return NotebookRun(case, len(expected), seconds, usage.ru_maxrss / 2**20, tuple(notes))


def _offline() -> list[str]:
    """Command prefix that disables the network, [] where an ordinary user may not."""
    if shutil.which("unshare") is None:
        return []
    tried = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False)
    return ["unshare", "-rn"] if tried.returncode == 0 else []


def decode_seconds(images: Path, most: int = 2000) -> float:
    """Mean seconds to read and decode one tile on one core; broken tiles are skipped."""
    from isic.data.tiles import TileStore

    tiles, times = TileStore(images), []
    for name in tiles.ids()[:most]:
        started = time.perf_counter()
        try:
            tiles.image(name)
        except InputError:
            continue
        times.append(time.perf_counter() - started)
    return float(np.mean(times))


def plain_seconds(package: Package, few: Path, many: Path) -> float:
    """Seconds per lesion of the metadata `many` without images: table, features, boosters.

    `few` is scored first, so that loading libraries and models is not counted.
    """
    bundle = load_bundle(package.dataset / "bundle")
    for metadata in (few, many):
        started = time.perf_counter()
        with open_chunked(metadata, CHUNK_ROWS) as rows:
            bundle.predict_chunks(rows, None, ScoringOptions("impute"))
        seconds = time.perf_counter() - started
    return seconds / len(rows.ids)


def scored_networks(folder: Path) -> list[ScoredNetwork]:
    """The image networks of a bundle folder with the number format of their scores."""
    configs = [read_json(path) for path in sorted(folder.glob("image/*/fold*/config.json"))]
    return [
        ScoredNetwork(
            config["model"], config["size"], config.get("scoring_precision", "fp32"), config["tta"]
        )
        for config in configs
    ]


def estimate(
    small: NotebookRun,
    large: NotebookRun,
    plain: float,
    decode: float,
    networks: Sequence[ScoredNetwork],
) -> Estimate:
    """Scale a run to the hidden set: seconds beyond those of a run of a few rows grow with the
    lesions.

    `plain`: seconds per lesion without its image, not scaled down for a machine with fewer cores
    than Kaggle's, since not all of that work is parallel. `decode`: seconds per tile on one core;
    each of `networks` decodes every tile. The rest of the time per lesion is the networks': see
    `_networks_on_kaggle`.
    """
    per_lesion = max(large.seconds - small.seconds, 1e-9) / large.rows
    plain = min(plain, per_lesion) if networks else per_lesion
    images, decoding = per_lesion - plain, decode * len(networks)
    work, basis = _networks_on_kaggle(networks, max(images - decoding, 0.0))
    images_there = max(decoding / _KAGGLE_CORES, work)
    plain_there = plain * max(1.0, len(os.sched_getaffinity(0)) / _KAGGLE_CORES)
    start, hours = small.seconds / 3600, HIDDEN_ROWS / 3600
    count = len(networks)
    return Estimate(
        images_per_second_here=count / max(images, 1e-9) if count else None,
        images_per_second_kaggle=count / max(images_there, 1e-9) if count else None,
        plain_hours_here=hours * plain,
        plain_hours_kaggle=hours * plain_there,
        hours_here=start + hours * per_lesion,
        hours_kaggle=start + hours * (plain_there + images_there),
        basis=basis,
    )


def _networks_on_kaggle(networks: Sequence[ScoredNetwork], measured: float) -> tuple[float, str]:
    """Seconds of the networks per lesion on Kaggle's GPUs, and what they were computed from.

    `measured`: their seconds per lesion here. On a GPU these are scaled to a T4, number format by
    number format. A CPU has no 16-bit speed: there a T4's constants hold, and only for networks
    without constants the matrix work measured in float32.
    """
    from isic.image.network.device import describe_devices, gpu_tflops

    if not networks:
        return 0.0, ""
    formats = sorted({network.precision for network in networks})
    # A T4 has no bf16: such a network is scored in float32 there. The slowest format counts.
    slowest = min(T4.get(name, T4["fp32"]).tflops for name in formats)
    there = f"{KAGGLE_GPUS} x T4 in {', '.join(_on_t4(name) for name in formats)}"
    tflops = gpu_tflops()
    if tflops is not None:
        devices = describe_devices()
        here = (
            tflops
            * len(devices)
            * (T4["fp32"].tflops / T4["fp16"].tflops if formats == ["fp32"] else 1)
        )
        scale = here / (slowest * KAGGLE_GPUS)
        return measured * scale, f"networks as measured on {devices[0]}, scaled to {there}"
    constants = kaggle_seconds(networks)
    if constants is not None:
        return constants, f"networks by constants of {there}, not measured"
    work = measured * matrix_gflops() / (slowest * 1e3 * KAGGLE_GPUS)
    return work, f"networks scaled by matrix speed to {there}, not measured"


def _on_t4(precision: str) -> str:
    return precision if precision in T4 else f"fp32 for {precision}"


def matrix_gflops(side: int = 1024, rounds: int = 5) -> float:
    """This machine's speed in float32 matrix products, in GFLOP/s: the best of `rounds`."""
    left = np.ones((side, side), dtype=np.float32)
    best = min(_seconds(left) for _ in range(rounds))
    return 2 * side**3 / best / 1e9


def _seconds(left: np.ndarray) -> float:
    started = time.perf_counter()
    left @ left
    return time.perf_counter() - started
