"""Structure of runs: one parent per stage family and configuration, one child per fold, both found
by tags.

Functions here call the store directly and may raise; `writer` handles failures.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isic.tracking.store import checkout_lock, experiment_id

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True)
class RunSpec:
    """Identity of a run: `fold` None means the parent itself; `outer` is the run that `mlflow run`
    opened, if any.
    """

    family: str
    config: str
    name: str
    fold: int | None = None
    outer: str | None = None

    def tags(self) -> dict[str, str]:
        tags = {
            "family": self.family,
            "config_hash": self.config,
            "role": "parent" if self.fold is None else "fold",
        }
        return tags if self.fold is None else tags | {"fold": str(self.fold)}


def start(client: MlflowClient, root: Path, spec: RunSpec, tags: Mapping[str, str]) -> str:
    """Find or create the run of `spec` and return its id.

    A failed or killed child is resumed, as its training is; for a finished one a new run is
    created.
    """
    with checkout_lock(root):
        experiment = _experiment(client, root, spec)
        if spec.fold is None:
            return _parent(client, experiment, spec, tags)
        parent = spec.outer or _parent(client, experiment, _parent_of(spec), tags)
        broken = [
            run
            for run in _find(client, experiment, spec)
            if run.info.status in ("FAILED", "KILLED") and run.data.tags.get(PARENT_TAG) == parent
        ]
        if broken:
            return _reopen(client, broken[0].info.run_id, tags)
        every = {**tags, **spec.tags(), PARENT_TAG: parent}
        return str(client.create_run(experiment, tags=every, run_name=spec.name).info.run_id)


def finish(client: MlflowClient, root: Path, spec: RunSpec, run_id: str, status: str) -> None:
    """Close a run as FINISHED, FAILED or KILLED; closing a fold also updates its parent's mean and
    sd.
    """
    client.set_terminated(run_id, status)
    if spec.fold is None:
        return
    with checkout_lock(root):
        parent = str(client.get_run(run_id).data.tags[PARENT_TAG])
        children = _children(client, client.get_run(run_id).info.experiment_id, parent, spec)
        _log_summary(client, parent, [run for run in children if run.info.status == "FINISHED"])
        # MLflow closes the run that `mlflow run` opened.
        if parent != spec.outer and not any(run.info.status == "RUNNING" for run in children):
            client.set_terminated(parent, status)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as dotted parameter names, as in `dvc exp run -S`: `{"a": {"b": 1}}` → `{"a.b":
    "1"}`.
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _experiment(client: MlflowClient, root: Path, spec: RunSpec) -> str:
    if spec.outer:
        return str(client.get_run(spec.outer).info.experiment_id)
    return experiment_id(client, root)


def _parent_of(spec: RunSpec) -> RunSpec:
    return RunSpec(spec.family, spec.config, f"{spec.family}-{spec.config[:8]}", None, spec.outer)


def _parent(client: MlflowClient, experiment: str, spec: RunSpec, tags: Mapping[str, str]) -> str:
    same = _find(client, experiment, spec)
    found = [
        run for run in same if spec.outer is None or run.data.tags.get(PARENT_TAG) == spec.outer
    ]
    if found:
        return _reopen(client, found[0].info.run_id, tags)
    every = {**tags, **spec.tags(), **({PARENT_TAG: spec.outer} if spec.outer else {})}
    return str(client.create_run(experiment, tags=every, run_name=spec.name).info.run_id)


def _find(client: MlflowClient, experiment: str, spec: RunSpec) -> list[Run]:
    """Runs of this identity, oldest first: if two machines create a parent at once, all use the
    same one.
    """
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in spec.tags().items())
    return list(client.search_runs([experiment], wanted, order_by=["attributes.start_time ASC"]))


def _children(client: MlflowClient, experiment: str, parent: str, spec: RunSpec) -> list[Run]:
    """The newest run of every fold under `parent`."""
    wanted = (
        f"tags.`{PARENT_TAG}` = '{parent}' and tags.`family` = '{spec.family}' and tags.`role` ="
        " 'fold'"
    )
    runs = client.search_runs([experiment], wanted, order_by=["attributes.start_time ASC"])
    return list({run.data.tags["fold"]: run for run in runs}.values())


def _reopen(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> str:
    from mlflow.entities import RunTag

    client.update_run(run_id, status="RUNNING")
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    return run_id


def _log_summary(client: MlflowClient, parent: str, folds: list[Run]) -> None:
    """Mean and standard deviation over the finished folds of every metric they share."""
    from mlflow.entities import Metric
    from mlflow.utils.time import get_current_time_millis

    shared = set.intersection(*(set(run.data.metrics) for run in folds)) if folds else set()
    now = get_current_time_millis()
    values: dict[str, float] = {"folds_finished": float(len(folds))}
    for name in sorted(shared):
        column = [run.data.metrics[name] for run in folds]
        values[f"{name}_mean"] = statistics.fmean(column)
        values[f"{name}_sd"] = statistics.stdev(column) if len(column) > 1 else 0.0
    client.log_batch(
        parent, metrics=[Metric(name, value, now, len(folds)) for name, value in values.items()]
    )
