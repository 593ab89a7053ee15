"""Train and embed every missing fold on this machine, one fold per GPU at a time: `make folds
GPUS=4`.

Each fold runs as its own `dvc repro`; DVC locks outputs by path, so several can run at once. `dvc
repro` afterwards runs the later stages. Without a GPU the processes share the cores.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import NamedTuple

from isic.core.errors import InputError, run
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.core.progress import CountProgress
from isic.image.network.gpu import may_have_gpu


class DeviceSlot(NamedTuple):
    """Devices of one process at a time: a GPU, as named in CUDA_VISIBLE_DEVICES ("" for none), and
    processor cores.
    """

    gpu: str
    cores: frozenset[int]


#: The stages of a fold, in order.
_STAGES = ("train_image", "embed")
#: Processes on a machine without GPU, each of about 1 GB.
_MOST = 4

#: Runs a job in a slot and returns its exit status.
_RunJob = Callable[[str, DeviceSlot], int]


def run_jobs(jobs: Sequence[str], slots: Sequence[DeviceSlot], run_job: _RunJob) -> list[str]:
    """Call `run_job` for every job, one per slot at a time, and print how many are done; returns
    the jobs that failed.
    """
    free: Queue[DeviceSlot] = Queue()
    for slot in slots:
        free.put(slot)
    done, lock = itertools.count(1), threading.Lock()
    progress = CountProgress("isic")
    progress.update(0, len(jobs), "")

    def work(job: str) -> bool:
        slot = free.get()
        try:
            return run_job(job, slot) == 0
        finally:
            free.put(slot)
            with lock:
                count = next(done)
                progress.update(count, len(jobs), f"{count} of {len(jobs)} folds done")

    with ThreadPoolExecutor(len(slots)) as pool:
        return [job for job, done in zip(jobs, pool.map(work, jobs), strict=True) if not done]


def share_machine(
    count: int, gpus: int, visible: str | None, cores: Sequence[int]
) -> list[DeviceSlot]:
    """`count` slots of a machine with `gpus` GPUs and these `cores`; `visible` is the value of
    CUDA_VISIBLE_DEVICES.

    Raises InputError when there are GPUs but fewer than `count`: a process without one would train
    on the CPU.
    """
    if gpus and count > gpus:
        raise InputError(f"GPUS={count}, but this machine has {gpus}: use GPUS={gpus}")
    names = visible.split(",") if visible else [str(index) for index in range(count)]
    share = max(1, len(cores) // count)
    starts = [index * share % len(cores) for index in range(count)]
    shares = [frozenset(cores[start : start + share]) for start in starts]
    return [DeviceSlot(names[index] if gpus else "", shares[index]) for index in range(count)]


def repro(pair: str, slot: DeviceSlot) -> int:
    """Train and embed the fold `BACKBONE-FOLD` by `dvc repro`, without upstream stages, on the slot's
    GPU and cores.
    """
    if hasattr(os, "sched_setaffinity"):
        # Applies to this thread and its child processes: their thread pools and loaders use these
        # cores.
        os.sched_setaffinity(0, slot.cores)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": slot.gpu}
    command = _dvc("repro", "--single-item", *(f"{stage}@{pair}" for stage in _STAGES))
    with subprocess.Popen(
        command,
        env=environment,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        # Forwarded line by line: progress lines of several processes would overwrite each other on
        # a terminal.
        for line in process.stdout or ():
            sys.stderr.write(line)
    return process.returncode


def _count_gpus() -> int:
    if not may_have_gpu():
        return 0
    from isic.image.network.device import describe_devices

    return len(describe_devices())


def _dvc(*arguments: str) -> list[str]:
    # Processes start at the same time, and each locks the repository while it reads the graph.
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--gpus",
        type=int,
        help="number of processes at a time, each with its own GPU; default: one per GPU, without a"
        f" GPU one per core, at most {_MOST}",
    )
    wanted = parser.parse_args().gpus
    if wanted is not None and wanted < 1:
        raise InputError(f"--gpus is {wanted}: give 1 or more")
    layout = Layout.find()
    params = load_params(layout.params)
    from isic.scale.estimate import count_lesions, remaining_time

    cores = (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )
    gpus = _count_gpus()
    count = wanted or gpus or min(len(cores), _MOST)
    slots = share_machine(count, gpus, os.environ.get("CUDA_VISIBLE_DEVICES"), cores)
    ready = layout.folds.is_file() and layout.train_images.is_file()
    if not ready:
        sys.stderr.write("isic: the data and their folds first\n")
    if not ready and subprocess.run(_dvc("repro", "folds"), check=False).returncode:
        raise InputError("`dvc repro folds` failed: see above")
    models = layout.image_models(params.image.backbones, params.folds)
    lesions = count_lesions(layout.folds, params.data)
    sys.stderr.write(f"isic: {remaining_time(params.image, models, lesions, count)}\n")
    trained = all(
        (folder / "config.json").is_file() for of in models.values() for folder in of.values()
    )
    if trained and not subprocess.run(_dvc("status", "--quiet", *_STAGES), check=False).returncode:
        sys.stderr.write("isic: nothing to do\n")
        return
    pairs = [f"{backbone}-{fold}" for backbone in params.image.backbones for fold in params.folds]
    if failed := run_jobs(pairs, slots, repro):
        raise InputError(
            f"{', '.join(failed)} failed (see above): run the same command again to resume"
        )


if __name__ == "__main__":
    run(main)
