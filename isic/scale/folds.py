"""Every missing fold of every image network as tasks of a Ray cluster: `make folds ON=ray`.

The checkout is on storage that all nodes mount at the same path. A task runs the stage mains there,
so resume states, models and embeddings are at the paths of dvc.yaml; only the driver calls DVC, to
record finished stages. `dvc repro` afterwards does not rerun them. With `image.devices` above 1,
that many workers train each network together, one network after the other
(`isic.scale.multi_node_training`).
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

#: A fold is given up after this many lost tasks.
_MAX_LOST_TASKS = 3
#: Seconds that a task waits for the processes of a lost node, which may still be running.
_LOCK_SECONDS = 120.0
STAGES = ("train_image", "embed")


@dataclass(frozen=True)
class FoldTask:
    """One fold of one backbone and its stages to run, in order."""

    backbone: str
    fold: int
    stages: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.backbone}-{self.fold}"

    @property
    def targets(self) -> list[str]:
        return [f"{stage}@{self.name}" for stage in self.stages]


def run_folds(
    root: Path,
    tasks: Sequence[FoldTask],
    inputs: Sequence[Path],
    resources: Resources,
    devices: int,
) -> list[str]:
    """Train and embed `tasks` in the checkout at `root` and record them with DVC; returns the
    recorded stages.

    `inputs`: the stages' inputs besides code; `devices`: workers that train one network together.
    Raises InputError when an input changes during training, and, after all others are done, for
    folds that failed.
    """
    if not tasks:
        _log("every fold is done")
        return []
    before = _input_fingerprint(root, inputs)
    _log(
        f"{len(tasks)} folds to do: {', '.join(task.name for task in tasks)}; logs in .resume/ray/"
    )
    done: list[str] = []
    failed: dict[str, str] = {}
    with connected() as ray:
        for task, error in _run_all(ray, root, tasks, resources, devices):
            if error:
                failed[task.name] = error
                continue
            if _input_fingerprint(root, inputs) != before:
                raise InputError(
                    "code, parameters or data changed while folds were trained: run the command"
                    " again"
                )
            _dvc(root, "commit", "--force", "--quiet", *task.targets)
            done += task.targets
            _log(f"{task.name} is done ({len(done)} stages recorded)")
    if failed:
        lines = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise InputError(f"{lines}; the other folds are done: run the same command again to resume")
    return done


def missing_folds(root: Path, backbones: Sequence[str], folds: Sequence[int]) -> list[FoldTask]:
    """Folds with a stage that DVC would rerun."""
    pairs = [(backbone, fold) for backbone in backbones for fold in folds]
    targets = [f"{stage}@{backbone}-{fold}" for backbone, fold in pairs for stage in STAGES]
    changed = json.loads(_dvc(root, "status", "--json", *targets))
    tasks = [
        FoldTask(
            name, fold, tuple(stage for stage in STAGES if f"{stage}@{name}-{fold}" in changed)
        )
        for name, fold in pairs
    ]
    return [task for task in tasks if task.stages]


def _input_fingerprint(root: Path, inputs: Sequence[Path]) -> str:
    """Hash over sizes and times of `inputs` and of the code in the checkout at `root`."""
    code = [path for folder in ("isic", "pipelines") for path in (root / folder).rglob("*.py")]
    files = [*sorted(code), *inputs]
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return sha256_json(states)


def _run_all(
    ray: Any, root: Path, tasks: Sequence[FoldTask], resources: Resources, devices: int
) -> Iterator[tuple[FoldTask, str]]:
    """Yield each finished fold with its error or "". The fold of a lost worker or node is restarted
    on another.
    """
    left = {task: task.stages for task in tasks}
    for task in tasks if devices > 1 else ():
        if "train_image" in task.stages:
            if error := train_multi_node(root, task.backbone, task.fold, devices, resources):
                del left[task]
                yield task, error
            else:
                left[task] = tuple(stage for stage in task.stages if stage != "train_image")
    # No retries by Ray: they are silent, and unlimited when memory runs out.
    remote = ray.remote(max_retries=0, **resources.as_options())(_run_fold)
    lost = dict.fromkeys(left, 0)
    running = {remote.remote(str(root), task, stages): task for task, stages in left.items()}
    while running:
        ready, _ = ray.wait(list(running), num_returns=1)
        task = running.pop(ready[0])
        try:
            yield task, ray.get(ready[0])
        except (ray.exceptions.RayTaskError, ray.exceptions.TaskUnschedulableError) as error:
            yield task, " ".join(str(error).split())[-200:]
        except ray.exceptions.RayError as error:
            lost[task] += 1
            reason = type(error).__name__
            if lost[task] >= _MAX_LOST_TASKS:
                yield (
                    task,
                    (
                        f"lost {lost[task]} times, the last by {reason}: out of memory? request"
                        " more with --memory-gb"
                    ),
                )
                continue
            _log(
                f"{task.name} was lost ({reason}) and resumes from its last saved state on another"
                " node"
            )
            running[remote.remote(str(root), task, left[task])] = task


def _run_fold(root: str, task: FoldTask, stages: Sequence[str]) -> str:
    """Run these stages of a fold in the checkout at `root`, on a node; returns "" or a one-line
    error.
    """
    if not (Path(root) / "dvc.yaml").is_file():
        return (
            f"node {os.uname().nodename} has no {root}: mount the checkout at the same path on"
            " every node"
        )
    logs = Path(root) / ".resume" / "ray"
    with locked(logs / f"{task.name}.lock", _LOCK_SECONDS) as free:
        if not free:
            return f"{task.name} is still running on a node that Ray lost: wait for it, or end it"
        for stage in stages:
            log = logs / f"{stage}-{task.name}.log"
            options = ["--backbone", task.backbone, "--fold", str(task.fold)]
            with log.open("ab") as stream:
                status = _run([sys.executable, "-m", f"pipelines.{stage}", *options], root, stream)
            if status:
                return f"{stage} ended with status {status}: {_last_line(log)}"
    return ""


def _run(command: list[str], root: str, log: Any) -> int:
    # The checkout's code takes precedence over an isic installed on the node.
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        command,
        cwd=root,
        env=environment,
        stdout=log,
        stderr=log,
        preexec_fn=_end_with_parent,
        check=False,
    ).returncode


def _end_with_parent() -> None:
    """End this process with its parent (Linux): a training process that outlives its worker holds
    the model's lock.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("isic: error: ")[:300] if lines else "no output"


def _dvc(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        message = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InputError(
            f"dvc {arguments[0]} failed ({message}): run `dvc {arguments[0]}` to see why"
        )
    return done.stdout


def _log(text: str) -> None:
    sys.stderr.write(f"isic: {text}\n")


def fold_resources(
    cluster: Mapping[str, float], workers: int | None, cpus: float | None, gpus: float | None
) -> Resources:
    """Resources requested for a fold from a cluster with `cluster` resources; None selects the
    default.

    Defaults: a GPU if the cluster has any. A core for the training loop and one for each of the
    `workers` that load tiles, or a GPU's share of the cores. Two gigabytes for the loop and one for
    each worker.
    """
    gpus = float(cluster.get("GPU", 0) > 0) if gpus is None else gpus
    if cpus is None and workers is not None:
        cpus = workers + 1
    elif cpus is None:
        cpus = max(1, cluster.get("CPU", 1) // cluster["GPU"]) if gpus else 1
    return Resources(cpus, gpus, 2.0 + (workers or 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cpus",
        type=float,
        help="CPU cores of a fold (default: image.workers + 1; without image.workers a GPU's share"
        " of the cores, or 1)",
    )
    parser.add_argument(
        "--gpus", type=float, help="GPUs of a fold (default: 1 if the cluster has any)"
    )
    parser.add_argument(
        "--memory-gb", type=float, help="memory of a fold (default: 2, and 1 for each worker)"
    )
    options = parser.parse_args()
    layout = Layout.find()
    params = load_params(layout.params)
    require(layout.folds, "folds", "run `dvc repro folds` first")
    require(layout.train_images, "training tiles", "run `dvc repro data` first")
    inputs = [layout.params, layout.root / "dvc.yaml", layout.folds, layout.train_images]
    for source in map(layout.archive, params.data.archive):
        inputs.append(require(source, "imported source", "run `dvc repro archive` first"))
    tasks = missing_folds(layout.root, list(params.image.backbones), params.folds)
    image = params.image
    with connected() as ray:
        cluster = ray.cluster_resources()
        resources = fold_resources(cluster, image.workers, options.cpus, options.gpus)
        if options.memory_gb is not None:
            resources = replace(resources, memory_gb=options.memory_gb)
        done = run_folds(layout.root, tasks, inputs, resources, image.devices)
    _log(f"{len(done)} stages done; next: dvc repro")


if __name__ == "__main__":
    run(main)
