"""Shared code of the benchmarks: arguments, comparison in turn, the machine, and the result file.

Benchmarks run as scripts (`python benchmarks/NAME.py [--quick]`), so they import this as `harness`.
A full run writes `benchmarks/results/NAME.json`, a quick one a file in `benchmarks/results/quick/`,
which git ignores.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from isic.core.io import atomic_dir, read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
# Python searches a script's folder, not the checkout's, which holds `pipelines`.
sys.path.append(str(ROOT))
RESULTS = ROOT / "benchmarks" / "results"

#: Packages whose versions can change a measured number.
PACKAGES = (
    "numpy",
    "pandas",
    "scikit-learn",
    "lightgbm",
    "torch",
    "timm",
    "albumentations",
    "opencv-python-headless",
    "h5py",
)


#: Recipe of a demo network from random weights; the committed one starts from generated tiles.
RANDOM_START: dict[str, Any] = {"weights": "none", "epochs": 20, "lr": 0.002, "head_lr": None}


def arguments(description: str, parts: Sequence[str] = ()) -> argparse.Namespace:
    """The command line of a benchmark: `--quick` for a version of a minute, `--only PART` with
    parts.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="about a minute, smaller inputs, numbers are not kept"
    )
    if parts:
        parser.add_argument(
            "--only",
            choices=parts,
            help="measure this part; the stored numbers of the others are kept",
        )
    return parser.parse_args()


class NotMeasured(Exception):
    """A part cannot be measured here: real data, a finished pipeline or a GPU is missing."""


def run_parts(
    name: str,
    parts: Mapping[str, Callable[[], Mapping[str, Any]]],
    targets: Mapping[str, Any],
    judge: Callable[[Mapping[str, Any]], Mapping[str, bool | None]],
    quick: bool,
    only: str | None = None,
) -> int:
    """Measure the parts in turn (`only`: these, separated by commas), report after each, return the
    exit status.

    `parts` return their numbers, `judge` compares numbers with the targets: None for a target
    without a number, and for all of a quick run, whose inputs are smaller. If a part raises, the
    numbers of the others are kept and the status is 1; `NotMeasured` does not change the status.
    """
    failed = []
    start = not only
    for part in only.split(",") if only else parts:
        clock, processor = time.perf_counter(), processor_seconds()
        try:
            measured = dict(parts[part]())
        except NotMeasured as reason:
            print(f"{name} {part}: not measured: {reason}", file=sys.stderr, flush=True)
            continue
        except Exception:
            # After any error, the other parts are still measured.
            traceback.print_exc()
            failed.append(part)
            continue
        spent = {
            "seconds": round(time.perf_counter() - clock, 1),
            "processor_seconds": round(processor_seconds() - processor, 1),
        }
        met = dict.fromkeys(targets) if quick else judge(measured)
        report(name, measured, targets, met, quick, part, start, spent)
        start = False
    if failed:
        print(f"{name}: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def kept(name: str, quick: bool) -> dict[str, Any]:
    """Stored numbers of this machine, {} if none."""
    path = _file(name, quick, machine(), all_parts=False)
    return dict(read_json(path)["measured"]) if path.is_file() else {}


def processor_seconds() -> float:
    """Processor seconds of this process and of its finished children, all threads together."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def real_data() -> Path | None:
    """Folder of the real SLICE-3D part (`ISIC_REAL_DATA`, else ../shared/data/slice3d), or None
    where it is absent.
    """
    folder = Path(os.environ.get("ISIC_REAL_DATA") or ROOT.parent / "shared" / "data" / "slice3d")
    return folder if (folder / "README.md").is_file() else None


#: Number of different tiles that `official` repeats.
DRAWN = 4_000


def official(lesions: int, images: bool) -> Path:
    """The official files of `lesions` generated lesions, written once in the temporary folder;
    tiles repeat.
    """
    import h5py
    import pandas as pd

    from isic.core.schema import ID
    from isic.data.sample import write_sample
    from isic.data.tile_file import put_tile

    home = Path(tempfile.gettempdir()) / f"isic-bench-{lesions}-{'images' if images else 'rows'}"
    if home.is_dir():
        return home
    with atomic_dir(home) as folder:
        write_sample(
            folder, max(10, lesions // 400), lesions, max(5, lesions // 1000), seed=17, images=False
        )
        if images:
            names = pd.read_csv(folder / "train-metadata.csv", usecols=[ID])[ID].tolist()
            few = min(lesions, DRAWN)
            with tempfile.TemporaryDirectory() as drawn:
                write_sample(Path(drawn), max(10, few // 400), few, max(5, few // 1000), seed=18)
                with h5py.File(Path(drawn) / "train-image.hdf5") as source:
                    tiles = [bytes(source[name][()]) for name in source]
            with h5py.File(folder / "train-image.hdf5", "w") as file:
                for number, name in enumerate(names):
                    put_tile(file, name, tiles[number % len(tiles)])
    return home


def alternating(
    sides: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1
) -> dict[str, float]:
    """Median seconds of each side, measured in turn within every round.

    In turn, because clock speed and other load drift over minutes: a ratio of two blocks would
    include the drift.
    """
    for _ in range(warmup):
        for side in sides.values():
            side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory_gb() -> float:
    """Peak resident memory in GB of this process, or of its largest finished child if that was
    larger.
    """
    kilobytes = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return kilobytes * 1024 / 1e9


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory, thread settings, and the GPU if torch can use one."""
    gpu = _gpu()
    return {
        **({"gpu": gpu} if gpu else {}),
        "processor": _processor(),
        "cores": (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }


@functools.cache
def _gpu() -> str:
    """Name of the GPU, "" without one. Without torch imported, a child process is used, so that the
    import does not add to the memory.
    """
    if not (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").is_dir()):
        return ""
    done = subprocess.run([sys.executable, "-c", _GPU_NAME], capture_output=True, text=True)
    return done.stdout.strip()


_GPU_NAME = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"


def _same_machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(a.get(key) == b.get(key) for key in ("processor", "cores", "gpu"))


def _file(name: str, quick: bool, where: Mapping[str, Any], all_parts: bool) -> Path:
    """The result file of this machine: NAME.json; NAME_GPU.json where there is a GPU.

    NAME_PROCESSOR.json for a single part when another machine measured the others.
    """
    folder = RESULTS / "quick" if quick else RESULTS
    path = folder / f"{name}.json"
    free = all_parts or not path.is_file() or _same_machine(read_json(path)["machine"], where)
    if not where.get("gpu") and free:
        return path
    device = (where.get("gpu") or where["processor"]).lower().removeprefix("nvidia ")
    words = re.findall(r"[a-z0-9]+", device)
    return folder / f"{name}_{words[0] if where.get('gpu') else '_'.join(words)}.json"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def versions() -> dict[str, str]:
    """Installed versions of `PACKAGES`."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def commit() -> str:
    """The checkout's commit, with `+` when tracked files differ from it; of a copy without git,
    ISIC_COMMIT.
    """
    # A copy may be inside another checkout, whose commit is not its own.
    own = _git("rev-parse", "--show-toplevel") == str(ROOT)
    described = (
        _git("describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+") if own else ""
    )
    return described or os.environ.get("ISIC_COMMIT", "unknown")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def made() -> dict[str, Any]:
    """Machine, package versions, commit and date of a measurement."""
    return {
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def report(
    name: str,
    measured: Mapping[str, Any],
    targets: Mapping[str, Any],
    met: Mapping[str, bool | None],
    quick: bool = False,
    only: str | None = None,
    start: bool = False,
    spent: Mapping[str, float] | None = None,
) -> None:
    """Write the result file and print the closing JSON line.

    `targets` and `met` have the same keys, one per target of the benchmark's issue; `met` is None
    where the target could not be measured (real data absent, no GPU, quick run). With `only`, the
    measured part, numbers of other parts in the file are kept, and `parts` records date and commit
    of this one. Numbers of another machine or GPU are never in one file; with `start` (the first
    part of a complete run) they are replaced. `spent` (seconds of the part) goes into its stamp.
    """
    if set(targets) != set(met):
        raise ValueError(f"targets and met differ: {sorted(set(targets) ^ set(met))}")
    stamp = made()
    path = _file(name, quick, stamp["machine"], only is None or start)
    result = {
        "name": name,
        "measured": dict(measured),
        "targets": dict(targets),
        "met": dict(met),
        **stamp,
    }
    if only is not None:
        result["parts"] = {only: stamp | dict(spent or {})}
        if path.is_file() and _same_machine(read_json(path)["machine"], stamp["machine"]):
            result = _merged(read_json(path), result)
    if quick:
        # The targets are for full inputs.
        result["met"] = dict.fromkeys(targets)
    write_json(path, {**result, "quick": quick})
    line = {key: result[key] for key in ("name", "machine", "measured", "targets", "met")}
    print(json.dumps(line, ensure_ascii=False))


def _merged(kept: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A stored result with one part replaced; machine, commit and date of the rest are kept."""
    found = {key: value for key, value in new["met"].items() if value is not None}
    met = {key: found.get(key, kept["met"].get(key)) for key in new["targets"]}
    return {
        **kept,
        "measured": {**kept["measured"], **new["measured"]},
        "targets": new["targets"],
        "met": met,
        "parts": {**kept.get("parts", {}), **new["parts"]},
    }
