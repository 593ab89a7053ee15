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
from typing import NamedTuple

from isic.core.errors import InputError, run
from isic.core.params import load_params
from isic.core.paths import Layout


class Slot(NamedTuple):
    """What one process at a time may use: a GPU by the name CUDA knows it under, and processor cores."""

    gpu: str
    cores: frozenset[int]


#: Starts a job in a slot and returns its exit status.
Start = Callable[[str, Slot], int]


def spread(jobs: Sequence[str], slots: Sequence[Slot], start: Start) -> list[str]:
    """Run `start` for every job, one per slot at a time; returns the jobs that failed."""
    free: Queue[Slot] = Queue()
    for slot in slots:
        free.put(slot)

    def work(job: str) -> bool:
        slot = free.get()
        try:
            return start(job, slot) == 0
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(slots)) as pool:
        return [job for job, done in zip(jobs, pool.map(work, jobs), strict=True) if not done]


def share_machine(count: int, gpus: int, visible: str | None, cores: Sequence[int]) -> list[Slot]:
    """`count` slots of a machine that shows `gpus` GPUs, CUDA_VISIBLE_DEVICES being `visible`, and `cores`.

    Raises InputError when there are GPUs but fewer than asked for: a process without one would train on the CPU.
    """
    if gpus and count > gpus:
        raise InputError(f"GPUS={count}, but this machine shows {gpus}: use GPUS={gpus}")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    share = max(1, len(cores) // count)
    starts = [number * share % len(cores) for number in range(count)]
    own = [frozenset(cores[first : first + share]) for first in starts]
    return [Slot(names[number] if gpus else "", own[number]) for number in range(count)]


def repro(job: str, slot: Slot) -> int:
    """`dvc repro` of one stage, without those before it, on the slot's GPU and cores."""
    if hasattr(os, "sched_setaffinity"):
        # Of this thread, and inherited by what it starts: thread pools and loader processes count their cores by it.
        os.sched_setaffinity(0, slot.cores)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": slot.gpu}
    command = _dvc("repro", "--single-item", job)
    with subprocess.Popen(
        command, env=environment, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        # Line by line through here: several live lines on one terminal would overwrite each other.
        for line in process.stdout or ():
            sys.stderr.write(line)
    return process.returncode


def _dvc(*words: str) -> list[str]:
    # Several start at once, and each holds the repository's lock while it reads the graph.
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *words]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, required=True, help="processes at a time, each with its own GPU")
    count = parser.parse_args().gpus
    if count < 1:
        raise InputError(f"--gpus {count}: at least 1")
    layout = Layout.find()
    params = load_params(layout.params)
    from isic.image.network.device import describe_devices
    from isic.scale.estimate import remaining_hours

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    slots = share_machine(count, len(describe_devices()), os.environ.get("CUDA_VISIBLE_DEVICES"), cores)
    ready = layout.folds.is_file() and layout.train_images.is_file()
    if not ready and subprocess.run(_dvc("repro", "folds"), check=False).returncode:
        raise InputError("the folds cannot be made (see above)")
    sys.stderr.write(f"isic: {remaining_hours(layout)}; {count} at a time\n")
    pairs = [f"{backbone}-{fold}" for backbone in params.image.backbones for fold in params.folds]
    for stage in ("train_image", "embed"):
        if failed := spread([f"{stage}@{pair}" for pair in pairs], slots, repro):
            raise InputError(f"{', '.join(failed)} failed (see above): run the same command again to go on")


if __name__ == "__main__":
    run(main)
