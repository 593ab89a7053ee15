"""Structure of runs: one parent per stage family and configuration, one child per fold or trial, all
found by tags.

Functions here call the store directly and may raise; `writer` handles failures.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isic.tracking.store import EXPERIMENT, REGISTRY_EXPERIMENT, checkout_lock, experiment_id

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PARENT_TAG = "mlflow.parentRunId"
#: Families whose runs hold checks only; they are in `REGISTRY_EXPERIMENT`.
CHECKS = ("register", "gate", "frontier")
#: Metrics of folds of which a parent has mean and sd. Others, such as the number of the last epoch
#: or a score on sampled lesions, have no meaning over folds.
OVER_FOLDS = ("pauc", "auc")
#: Tag with the time of a run's last sign of life, in seconds, and seconds after which a run without
#: one has no writer: its machine died, for a writer that lives closes its run.
HEARTBEAT, _DEAD = "heartbeat", 900.0
#: Characters of a run's name, and parameters per batch.
_NAME, _PARAMS = 90, 100


@dataclass(frozen=True)
class RunSpec:
    """Identity of a run: `fold` and `trial` None means the parent itself.

    `outer` is the run that `mlflow run` opened, if any. `attach`: the newest run of this identity
    is used as it is, if there is one.
    """

    family: str
    config: str
    name: str
    fold: int | None = None
    outer: str | None = None
    trial: int | None = None
    attach: bool = False

    @property
    def is_parent(self) -> bool:
        return self.fold is None and self.trial is None

    def tags(self) -> dict[str, str]:
        tags = {"family": self.family, "config_hash": self.config}
        if self.trial is not None:
            return tags | {"role": "trial", "trial": str(self.trial)}
        if self.fold is not None:
            return tags | {"role": "fold", "fold": str(self.fold)}
        return tags | {"role": "parent"}

    @property
    def stage(self) -> str:
        """The DVC stage that makes runs of this family, "" for work that is no stage."""
        if self.family.startswith("train_image-"):
            return f"train_image@{self.family.removeprefix('train_image-')}-{self.fold or 0}"
        return self.family if self.family in ("stack", "register") else ""


#: Tags of a run that is created now or opened again by its own stage. Cached, may take seconds.
Provenance = Callable[[], Mapping[str, str]]


def start(
    client: MlflowClient,
    root: Path,
    spec: RunSpec,
    provenance: Provenance,
    params: Mapping[str, str] | None = None,
    owner: bool = True,
) -> str:
    """Find or create the run of `spec` and return its id.

    A failed or killed child is resumed, as its training is; for a finished one a new run is
    created. A parent that is created gets `params`. Tags of an existing run change only if `owner`.
    """
    if owner and not spec.attach:
        provenance()  # hashes files: without the lock
    spec = _with_known_outer(client, spec)
    with checkout_lock(root):
        experiment = _experiment(client, root, spec)
        _close_dead(client, experiment)
        if spec.is_parent:
            return _parent(client, experiment, spec, provenance, params or {}, owner)
        if spec.attach and (found := _find(client, experiment, spec)):
            return str(found[-1].info.run_id)

        parent = spec.outer or _parent(
            client, experiment, _parent_of(spec), provenance, params or {}, owner
        )
        broken = [
            run
            for run in _find(client, experiment, spec)
            if run.info.status in ("FAILED", "KILLED") and run.data.tags.get(PARENT_TAG) == parent
        ]
        if broken:
            return _reopen(client, broken[0].info.run_id, provenance())
        every = {**provenance(), **spec.tags(), PARENT_TAG: parent}
        return str(client.create_run(experiment, tags=every, run_name=spec.name).info.run_id)


def finish(client: MlflowClient, root: Path, spec: RunSpec, run_id: str, status: str) -> None:
    """Close a run as FINISHED, FAILED or KILLED; closing a fold also updates its parent's mean and
    sd.
    """
    # An attached run that had ended keeps its end time.
    if not spec.attach or client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id, status)
    if spec.is_parent:
        return
    with checkout_lock(root):
        parent = str(client.get_run(run_id).data.tags[PARENT_TAG])
        if client.get_run(parent).info.lifecycle_stage == "deleted":  # in the UI
            return
        children = _children(client, client.get_run(run_id).info.experiment_id, parent, spec)
        if spec.fold is not None:
            _log_summary(client, parent, [run for run in children if run.info.status == "FINISHED"])
        # MLflow closes the run that `mlflow run` opened.
        if parent != spec.outer and not any(run.info.status == "RUNNING" for run in children):
            client.set_terminated(parent, status)


def beat(client: MlflowClient, run_id: str) -> None:
    """Record that the run's writer lives."""
    client.set_tag(run_id, HEARTBEAT, f"{time.time():.0f}")


def _with_known_outer(client: MlflowClient, spec: RunSpec) -> RunSpec:
    """`spec` without its outer run when MLFLOW_RUN_ID is left over from another store."""
    from mlflow.exceptions import MlflowException

    try:
        if spec.outer and client.get_run(spec.outer).info.lifecycle_stage == "active":
            return spec
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    return replace(spec, outer=None)


def _close_dead(client: MlflowClient, experiment: str) -> None:
    """Close the open runs of dead machines, and their parents when nothing runs below them."""
    running = {
        run.info.run_id: run.data.tags
        for run in client.search_runs([experiment], "attributes.status = 'RUNNING'")
    }
    dead = {
        run_id
        for run_id, tags in running.items()
        if (last := tags.get(HEARTBEAT, "")).isdigit() and int(last) < time.time() - _DEAD
    }
    # A parent that a fold opened again has an old heartbeat and no writer of its own.
    needed = {tags.get(PARENT_TAG) for run_id, tags in running.items() if run_id not in dead}
    dead |= {running[run_id].get(PARENT_TAG, "") for run_id in dead}
    for run_id in (dead & running.keys()) - needed:
        client.set_terminated(run_id, "KILLED")


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


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    """Log any number of parameters."""
    from mlflow.entities import Param

    every = [Param(name, value) for name, value in params.items()]
    for begin in range(0, len(every), _PARAMS):
        client.log_batch(run_id, params=every[begin : begin + _PARAMS])


def _experiment(client: MlflowClient, root: Path, spec: RunSpec) -> str:
    if spec.outer:
        return str(client.get_run(spec.outer).info.experiment_id)
    name = REGISTRY_EXPERIMENT if spec.family in CHECKS else EXPERIMENT
    return experiment_id(client, root, name)


def _parent_of(spec: RunSpec) -> RunSpec:
    name = f"{spec.family}-{spec.config[:8]}"
    return replace(spec, name=name, fold=None, trial=None, attach=False)


def _parent(
    client: MlflowClient,
    experiment: str,
    spec: RunSpec,
    provenance: Provenance,
    params: Mapping[str, str],
    owner: bool,
) -> str:
    same = _find(client, experiment, spec)
    found = [
        run for run in same if spec.outer is None or run.data.tags.get(PARENT_TAG) == spec.outer
    ]
    if found:
        return _reopen(client, found[0].info.run_id, provenance() if owner else {})
    every = {**provenance(), **spec.tags(), **({PARENT_TAG: spec.outer} if spec.outer else {})}
    name = spec.name + _changes(client, experiment, spec, params)
    run_id = str(client.create_run(experiment, tags=every, run_name=name).info.run_id)
    log_params(client, run_id, params)
    return run_id


def _changes(
    client: MlflowClient, experiment: str, spec: RunSpec, params: Mapping[str, str]
) -> str:
    """Parameters that differ from those of the family's last parent, as the end of a name."""
    wanted = f"tags.`family` = '{spec.family}' and tags.`role` = 'parent'"
    last = client.search_runs(
        [experiment], wanted, max_results=1, order_by=["attributes.start_time DESC"]
    )
    before = last[0].data.params if last else {}
    if not before or not params or spec.family in CHECKS:
        return ""
    # The last part of a dotted name is enough to recognise it.
    changed = [
        f" {key.rsplit('.', 1)[-1]}={value}"
        for key, value in params.items()
        if before.get(key) != value
    ]
    changed += [f" without {key}" for key in before if key not in params]
    text = ""
    for count, change in enumerate(changed):
        if len(spec.name + text + change) > _NAME:
            return f"{text} and {len(changed) - count} more"
        text += change
    return text


def _find(client: MlflowClient, experiment: str, spec: RunSpec) -> list[Run]:
    """Runs of this identity, oldest first: if two machines create a parent at once, all use the
    same one.
    """
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in spec.tags().items())
    return list(client.search_runs([experiment], wanted, order_by=["attributes.start_time ASC"]))


def _children(client: MlflowClient, experiment: str, parent: str, spec: RunSpec) -> list[Run]:
    """The newest run of every fold (or trial) under `parent`."""
    role = spec.tags()["role"]
    wanted = (
        f"tags.`{PARENT_TAG}` = '{parent}' and tags.`family` = '{spec.family}' and tags.`role` ="
        f" '{role}'"
    )
    runs = client.search_runs([experiment], wanted, order_by=["attributes.start_time ASC"])
    return list({run.data.tags[role]: run for run in runs}.values())


def _reopen(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> str:
    from mlflow.entities import RunTag

    client.update_run(run_id, status="RUNNING")
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    return run_id


def _log_summary(client: MlflowClient, parent: str, folds: list[Run]) -> None:
    """Mean and standard deviation over the finished folds of the metrics that all of them have."""
    from mlflow.entities import Metric
    from mlflow.utils.time import get_current_time_millis

    values: dict[str, float] = {"folds_finished": float(len(folds))}
    for name in OVER_FOLDS:
        column = [run.data.metrics[name] for run in folds if name in run.data.metrics]
        if not column or len(column) < len(folds):
            continue
        values[f"{name}_fold_mean"] = statistics.fmean(column)
        if len(column) > 1:
            values[f"{name}_fold_sd"] = statistics.stdev(column)

    now = get_current_time_millis()
    client.log_batch(
        parent, metrics=[Metric(name, value, now, 0) for name, value in values.items()]
    )
