"""Train and embed every missing fold on this machine, one fold per GPU at a time: `make folds
GPUS=4`.

Each fold runs as its own `dvc repro`; DVC locks outputs by path, so several can run at once. `dvc
repro` afterwards runs the later stages. Without a GPU the processes share the cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import NamedTuple

from isic.core.errors import InputError, run
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.image.network.gpu import may_have_gpu


class DeviceSlot(NamedTuple):
    """Devices of one process at a time: a GPU, as named in CUDA_VISIBLE_DEVICES ("" for none), and
    processor cores.
    """

    gpu: str
    cores: frozenset[int]


#: Runs a job in a slot and returns its exit status.
_RunJob = Callable[[str, DeviceSlot], int]


def run_jobs(jobs: Sequence[str], slots: Sequence[DeviceSlot], run_job: _RunJob) -> list[str]:
    """Call `run_job` for every job, one per slot at a time; returns the jobs that failed."""
    free: Queue[DeviceSlot] = Queue()
    for slot in slots:
        free.put(slot)

    def work(job: str) -> bool:
        slot = free.get()
        try:
            return run_job(job, slot) == 0
        finally:
            free.put(slot)

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


def repro(job: str, slot: DeviceSlot) -> int:
    """Run `dvc repro` of one stage, without its upstream stages, on the slot's GPU and cores."""
    if hasattr(os, "sched_setaffinity"):
        # Applies to this thread and its child processes: their thread pools and loaders use these
        # cores.
        os.sched_setaffinity(0, slot.cores)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": slot.gpu}
    command = _dvc("repro", "--single-item", job)
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
        required=True,
        help="number of processes at a time, each with its own GPU",
    )
    count = parser.parse_args().gpus
    if count < 1:
        raise InputError(f"--gpus is {count}: give 1 or more")
    layout = Layout.find()
    params = load_params(layout.params)
    from isic.scale.estimate import count_lesions, remaining_time

    cores = (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )
    slots = share_machine(count, _count_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"), cores)
    ready = layout.folds.is_file() and layout.train_images.is_file()
    if not ready and subprocess.run(_dvc("repro", "folds"), check=False).returncode:
        raise InputError("`dvc repro folds` failed: see above")
    models = layout.image_models(params.image.backbones, params.folds)
    left = remaining_time(params.image, models, count_lesions(layout.folds, params.data))
    sys.stderr.write(f"isic: {left}; {count} at a time\n")
    pairs = [f"{backbone}-{fold}" for backbone in params.image.backbones for fold in params.folds]
    for stage in ("train_image", "embed"):
        if failed := run_jobs([f"{stage}@{pair}" for pair in pairs], slots, repro):
            raise InputError(
                f"{', '.join(failed)} failed (see above): run the same command again to resume"
            )


if __name__ == "__main__":
    run(main)
