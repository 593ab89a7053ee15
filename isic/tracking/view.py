"""The table of runs as it should first be seen: the columns that matter, parents above their folds.

MLflow's own choice of columns (source, data set, models) says nothing about our runs, and what a person chooses stays
in their browser. A shared view is a tag of the experiment that a link names, so `isic ui` can print one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from isic.tracking.store import EXPERIMENT

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

KEY = "isic"
#: Pooled value and interval of stacks, mean and sd over folds of their parents, then one fold's own number.
METRICS = ("pauc", "pauc_low", "pauc_high", "pauc_mean", "pauc_sd", "auc", "top15_sensitivity", "folds_finished")
TAGS = ("family", "fold", "DVC_EXP_NAME", "git_commit")


def publish(client: MlflowClient) -> str:
    """Store the view on the experiment and return the page's address below the server's, "" before there are runs."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return ""
    state = json.dumps(view(), separators=(",", ":"))
    name = f"mlflow.sharedViewState.{KEY}"
    # The kind hides what MLflow has for chats and prompts.
    for tag, value in ((name, state), ("mlflow.experimentKind", "custom_model_development")):
        if experiment.tags.get(tag) != value:
            client.set_experiment_tag(experiment.experiment_id, tag, value)
    return f"/#/experiments/{experiment.experiment_id}/runs?viewStateShareKey={KEY}"


def view() -> dict[str, Any]:
    """The state of the page in MLflow's own terms; what is left out keeps its default."""
    name, created, models = "attributes.`Run Name`", "attributes.start_time", "attributes.`Models`"
    metrics, tags = ([f"{kind}.`{name}`" for name in names] for kind, names in (("metrics", METRICS), ("tags", TAGS)))
    widths = {name: 260, created: 130, models: 110, **dict.fromkeys(metrics, 96), **dict.fromkeys(tags, 120)}
    order = [name, created, *metrics, models, *tags]
    return {"selectedColumns": [*metrics, models, *tags], "columnOrder": order, "columnWidths": widths}
