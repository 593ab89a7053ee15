"""The runs that made a bundle: a version's page in MLflow shows the numbers of its source run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from isic.core.io import sha256_json
from isic.predict.bundle import Bundle
from isic.registry.versions import Registry
from isic.tracking.oof import STACK_HASH, WEIGHTS, WEIGHTS_HASH, scalar_metrics
from isic.tracking.runs import PARENT_TAG, RunSpec, finish, flatten, log_params, start
from isic.tracking.store import EXPERIMENT, experiment_ids

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.tracking import MlflowClient


def stack_run(registry: Registry, bundle: Bundle) -> str:
    """Id of the parent run that made the stacker in `bundle`, found by the hash of its files.

    Where the store has none, for example in a new clone, it is created from the manifest.
    """
    client, manifest = registry.client, bundle.manifest
    digest = sha256_json(
        {
            name.removeprefix("stack/"): value
            for name, value in manifest.files.items()
            if name.startswith("stack/")
        }
    )
    experiments = experiment_ids(client)
    if experiments:
        wanted = f"tags.`{STACK_HASH}` = '{digest}' and tags.`role` = 'parent'"
        order = ["attributes.start_time DESC"]
        runs = client.search_runs(experiments, wanted, max_results=1, order_by=order)
        if runs:
            return str(runs[0].info.run_id)

    config = sha256_json([manifest.params, digest])
    spec = RunSpec("stack", config, f"stack-{config[:8]}")
    tags = {
        STACK_HASH: digest,
        "data_hash": manifest.data_hash,
        "folds_hash": manifest.folds_hash,
        "git_commit": manifest.git_commit,
    }
    run = start(client, registry.root, spec, lambda: tags)
    log_params(client, run, flatten(manifest.params))
    _log_metrics(client, run, scalar_metrics(manifest.metrics))
    finish(client, registry.root, spec, run, "FINISHED")
    return run


def network_run(client: MlflowClient, bundle: Bundle, backbone: str) -> str | None:
    """Id of the parent run of the networks of `backbone` in `bundle`; None where the store has none."""
    for model in fold_models(client, bundle, backbone):
        run = client.get_run(model.source_run_id or "")
        return str(run.data.tags.get(PARENT_TAG, run.info.run_id))
    return None


def fold_models(client: MlflowClient, bundle: Bundle, backbone: str) -> list[LoggedModel]:
    """The fold networks of `backbone` in `bundle` that the store has as models, found by weights."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    found = []
    for fold in bundle.manifest.folds:
        digest = bundle.manifest.files.get(f"image/{backbone}/fold{fold}/{WEIGHTS}", "")
        models = client.search_logged_models(
            [experiment.experiment_id], f"tags.`{WEIGHTS_HASH}` = '{digest}'", max_results=1
        )
        found += [model for model in models if model.source_run_id]
    return found


def link_networks(client: MlflowClient, run: str, bundle: Bundle, parents: Sequence[Run]) -> None:
    """Make the fold networks inputs of the stacker's run, and tag it with their parent runs."""
    from mlflow.entities import LoggedModelInput

    models = [
        model
        for backbone in bundle.manifest.backbones
        for model in fold_models(client, bundle, backbone)
    ]
    if models:
        client.log_inputs(run, models=[LoggedModelInput(model.model_id) for model in models])
    for parent in parents:
        client.set_tag(run, f"run.{parent.data.tags.get('family', '')}", parent.info.run_id)
        client.set_tag(parent.info.run_id, "run.stack", run)


def log_model_metrics(
    client: MlflowClient, run: str, model: str, values: Mapping[str, float]
) -> None:
    """Log the metrics of `run`, and `values` that it lacks, as metrics of `model` too."""
    from mlflow.entities import Metric

    known = client.get_run(run).data.metrics
    _log_metrics(client, run, {key: value for key, value in values.items() if key not in known})
    points = [client.get_metric_history(run, key)[-1] for key in {**known, **values}]
    # The same points: the run gets no second one.
    metrics = [Metric(p.key, p.value, p.timestamp, p.step, model) for p in points]
    if metrics:
        client.log_batch(run, metrics=metrics)


def _log_metrics(client: MlflowClient, run: str, values: Mapping[str, float]) -> None:
    from mlflow.entities import Metric
    from mlflow.utils.time import get_current_time_millis

    now = get_current_time_millis()
    if values:
        client.log_batch(run, metrics=[Metric(key, v, now, 0) for key, v in values.items()])
