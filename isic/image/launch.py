"""One fold per GPU: trains and embeds every fold that is not done, as many at a time as there are GPUs.

Each runs as its own `dvc repro`, which locks outputs by path, so several at once are safe; a plain `dvc repro`
afterwards closes the graph. Called by `make folds GPUS=4`; without a GPU the processes share the cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

from isic.core.errors import InputError, run
from isic.core.params import load_params
from isic.core.paths import Layout

#: Environment changes for a job on one GPU, and the job's words -> exit status.
Start = Callable[[Sequence[str], dict[str, str]], int]


def spread(jobs: Sequence[str], gpus: int, start: Start) -> list[str]:
    """Run `start` for every job, at most one per GPU at a time; returns the jobs that failed."""
    free: Queue[int] = Queue()
    for number in range(gpus):
        free.put(number)

    def work(job: str) -> bool:
        gpu = free.get()
        try:
            threads = max(1, (os.cpu_count() or 1) // gpus)
            return start([job], {"CUDA_VISIBLE_DEVICES": str(gpu), "OMP_NUM_THREADS": str(threads)}) == 0
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(gpus) as pool:
        return [job for job, done in zip(jobs, pool.map(work, jobs), strict=True) if not done]


def repro(stages: Sequence[str], environment: dict[str, str]) -> int:
    """`dvc repro` of single stages, without those before them."""
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", *stages]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, required=True, help="processes at a time, each with its own GPU")
    gpus = parser.parse_args().gpus
    if gpus < 1:
        raise InputError(f"--gpus {gpus}: at least 1")
    params = load_params(Layout.find().params)
    pairs = [f"{backbone}-{fold}" for backbone in params.image.backbones for fold in params.folds]
    for stage in ("train_image", "embed"):
        if failed := spread([f"{stage}@{pair}" for pair in pairs], gpus, repro):
            raise InputError(f"{', '.join(failed)} failed (see above): run the same command again to go on")


if __name__ == "__main__":
    run(main)
