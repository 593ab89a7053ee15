"""Every missing fold of every image network as tasks of a Ray cluster: `make folds ON=ray`.

The checkout lies on storage that all nodes see at the same path. A task runs the stages' own mains there, so resume
states, models and embeddings are where DVC looks for them; only the driver calls DVC, to record what is finished. A
plain `dvc repro` afterwards finds these stages done. With `image.devices` above 1 each network is trained by so many
workers together, one after the other (`isic.scale.multi_node_training`).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isic.core.errors import InputError, run
from isic.core.io import require, sha256_json
from isic.core.locks import locked
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.scale.cluster import connected
from isic.scale.multi_node_training import train_multi_node
from isic.scale.resources import Resources

#: A fold that was lost so many times is left alone.
MAX_LOST = 3
#: Seconds a task waits for what a lost node may still be doing: its processes end when they notice.
_PATIENCE = 120.0
STAGES = ("train_image", "embed")


@dataclass(frozen=True)
class Fold:
    """One fold of one backbone and the stages of it that are to run, in order."""

    backbone: str
    number: int
    stages: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.backbone}-{self.number}"

    @property
    def targets(self) -> list[str]:
        return [f"{stage}@{self.name}" for stage in self.stages]


def run_folds(layout: Layout, resources: Resources) -> list[str]:
    """Train and embed what is missing and record it with DVC; returns the recorded stages.

    Raises InputError when what the stages read is missing or changes meanwhile, and, after all others are done, for
    folds that failed.
    """
    require(layout.folds, "folds", "run `dvc repro folds` first")
    require(layout.train_images, "training tiles", "run `dvc repro data` first")
    folds = missing_folds(layout)
    if not folds:
        _say("every fold is done")
        return []
    before = fingerprint(layout)
    _say(f"{len(folds)} folds to do: {', '.join(fold.name for fold in folds)}; logs in .resume/ray/")
    done: list[str] = []
    failed: dict[str, str] = {}
    devices = load_params(layout.params).image.devices
    with connected() as ray:
        for fold, error in _finished(ray, layout, folds, resources, devices):
            if error:
                failed[fold.name] = error
                continue
            if fingerprint(layout) != before:
                raise InputError("code, parameters or data changed while folds were trained: run the command again")
            _dvc(layout, "commit", "--force", "--quiet", *fold.targets)
            done += fold.targets
            _say(f"{fold.name} is done ({len(done)} stages recorded)")
    if failed:
        lines = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise InputError(f"{lines}; the other folds are done: run the same command again to go on")
    return done


def missing_folds(layout: Layout) -> list[Fold]:
    """Folds with a stage that DVC would run."""
    params = load_params(layout.params)
    pairs = [(backbone, fold) for backbone in params.image.backbones for fold in params.folds]
    targets = [f"{stage}@{backbone}-{fold}" for backbone, fold in pairs for stage in STAGES]
    changed = json.loads(_dvc(layout, "status", "--json", *targets))
    folds = [
        Fold(name, number, tuple(stage for stage in STAGES if f"{stage}@{name}-{number}" in changed))
        for name, number in pairs
    ]
    return [fold for fold in folds if fold.stages]


def fingerprint(layout: Layout) -> str:
    """Changes with code, parameters, folds or tiles: what DVC would record as the stages' inputs."""
    code = [path for folder in ("isic", "pipelines") for path in (layout.root / folder).rglob("*.py")]
    files = [*sorted(code), layout.params, layout.root / "dvc.yaml", layout.folds, layout.train_images]
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return sha256_json(states)


def _finished(
    ray: Any, layout: Layout, folds: Sequence[Fold], resources: Resources, devices: int
) -> Iterator[tuple[Fold, str]]:
    """Folds as they end, each with its error or ""; one whose worker or node was lost starts again elsewhere."""
    left = {fold: fold.stages for fold in folds}
    for fold in folds if devices > 1 else ():
        if "train_image" in fold.stages:
            if error := train_multi_node(layout.root, fold.backbone, fold.number, devices, resources):
                del left[fold]
                yield fold, error
            else:
                left[fold] = tuple(stage for stage in fold.stages if stage != "train_image")
    # Ray would repeat a lost task by itself, but without a word, and for want of memory for ever.
    task = ray.remote(max_retries=0, **resources.as_options())(run_fold)
    lost = dict.fromkeys(left, 0)
    running = {task.remote(str(layout.root), fold, stages): fold for fold, stages in left.items()}
    while running:
        ready, _ = ray.wait(list(running), num_returns=1)
        fold = running.pop(ready[0])
        try:
            yield fold, ray.get(ready[0])
        except (ray.exceptions.RayTaskError, ray.exceptions.TaskUnschedulableError) as error:
            yield fold, " ".join(str(error).split())[-200:]
        except ray.exceptions.RayError as error:
            lost[fold] += 1
            reason = type(error).__name__
            if lost[fold] >= MAX_LOST:
                yield fold, f"lost {MAX_LOST} times, at last by {reason}: out of memory? ask for more with --memory-gb"
                continue
            _say(f"{fold.name} was lost ({reason}) and goes on from its last saved state on another node")
            running[task.remote(str(layout.root), fold, left[fold])] = fold


def run_fold(root: str, fold: Fold, stages: Sequence[str]) -> str:
    """Run these stages of a fold in the checkout at `root`, on a node; returns "" or the line of what is wrong."""
    if not (Path(root) / "dvc.yaml").is_file():
        return f"node {os.uname().nodename} does not see {root}: mount the checkout at the same path on every node"
    logs = Path(root) / ".resume" / "ray"
    with locked(logs / f"{fold.name}.lock", _PATIENCE) as free:
        if not free:
            return f"{fold.name} is still being worked on by a node that Ray lost: wait for it, or end it"
        for stage in stages:
            log = logs / f"{stage}-{fold.name}.log"
            identity = ["--backbone", fold.backbone, "--fold", str(fold.number)]
            with log.open("ab") as stream:
                status = _run([sys.executable, "-m", f"pipelines.{stage}", *identity], root, stream)
            if status:
                return f"{stage} ended with status {status}: {_last_line(log)}"
    return ""


def _run(command: list[str], root: str, log: Any) -> int:
    # The checkout's own code, whatever isic is installed on the node.
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        command, cwd=root, env=environment, stdout=log, stderr=log, preexec_fn=_end_with_parent, check=False
    ).returncode


def _end_with_parent() -> None:
    """A killed worker must not leave a training process behind, which would hold the model's lock (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("isic: error: ")[:300] if lines else "it said nothing"


def _dvc(layout: Layout, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=layout.root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"dvc {words[0]} failed ({said}): run `dvc {words[0]}` to see why")
    return done.stdout


def _say(text: str) -> None:
    sys.stderr.write(f"isic: {text}\n")


def ask(cluster: Mapping[str, float], workers: int | None, cpus: float | None, gpus: float | None) -> Resources:
    """What a fold asks of a cluster with these resources; None leaves it to the machine.

    A GPU where there is any. A core for the loop and one for each of the `workers` that load tiles, or a GPU's share of
    the cores. Two gigabytes for the loop and one for each that loads.
    """
    gpus = float(cluster.get("GPU", 0) > 0) if gpus is None else gpus
    if cpus is None and workers is not None:
        cpus = workers + 1
    elif cpus is None:
        cpus = max(1, cluster.get("CPU", 1) // cluster["GPU"]) if gpus else 1
    return Resources(cpus, gpus, 2.0 + (workers or 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpus", type=float, help="CPU cores a fold asks for (default: image.workers and one more)")
    parser.add_argument("--gpus", type=float, help="GPUs a fold asks for (default: 1 where the cluster has any)")
    parser.add_argument("--memory-gb", type=float, help="memory a fold asks for (default: 2, and 1 for each worker)")
    wanted = parser.parse_args()
    layout = Layout.find()
    workers = load_params(layout.params).image.workers
    with connected() as ray:
        resources = ask(ray.cluster_resources(), workers, wanted.cpus, wanted.gpus)
        if wanted.memory_gb is not None:
            resources = replace(resources, memory_gb=wanted.memory_gb)
        done = run_folds(layout, resources)
    _say(f"{len(done)} stages done; next: dvc repro")


if __name__ == "__main__":
    run(main)
