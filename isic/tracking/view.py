"""Default columns of the table of runs: metrics and tags of this project, parents above their
folds.

MLflow's default columns (source, dataset, models) are not useful here, and a user's choice is
stored in the browser only. A shared view is a tag of the experiment, addressed by a link that `isic
ui` prints.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from isic.tracking.store import EXPERIMENT

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

KEY = "isic"
#: Pooled pAUC with its interval, mean and sd over folds of a parent run, other metrics.
_METRICS = (
    "pauc",
    "pauc_low",
    "pauc_high",
    "pauc_fold_mean",
    "pauc_fold_sd",
    "auc",
    "top15_sensitivity",
    "folds_finished",
)
_TAGS = ("family", "fold", "DVC_EXP_NAME", "git_commit")
#: MLflow starts on its pages for chats unless the address names the workflow. It ignores the shared
#: view when the address has an order or filter: these are in the view.
_QUERY = {"viewStateShareKey": KEY, "workflowType": "machine_learning"}


def publish_view(client: MlflowClient) -> str:
    """Store the view on the experiment and return its path below the server's URL, "" before there
    are runs.
    """
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return ""
    state = json.dumps(_view_state(), separators=(",", ":"))
    name = f"mlflow.sharedViewState.{KEY}"
    # This kind hides MLflow's columns for chats and prompts.
    for tag, value in ((name, state), ("mlflow.experimentKind", "custom_model_development")):
        if experiment.tags.get(tag) != value:
            client.set_experiment_tag(experiment.experiment_id, tag, value)
    page = f"/#/experiments/{experiment.experiment_id}/runs"
    return f"{page}?{urlencode(_QUERY, quote_via=quote)}"


def _view_state() -> dict[str, Any]:
    """State of the page as MLflow stores it; missing keys keep their defaults."""
    name, created, models, data = (
        "attributes.`Run Name`",
        "attributes.start_time",
        "attributes.`Models`",
        "attributes.`Dataset`",
    )
    metrics, tags = (
        [f"{kind}.`{name}`" for name in names]
        for kind, names in (("metrics", _METRICS), ("tags", _TAGS))
    )
    widths = {
        name: 320,
        created: 130,
        models: 110,
        data: 150,
        **dict.fromkeys(metrics, 96),
        **dict.fromkeys(tags, 120),
    }
    order = [name, created, *metrics, data, models, *tags]
    return {
        # In any other order than by time MLflow shows all runs flat, so folds and trials are left
        # to their parents' pages.
        "orderByKey": "metrics.`pauc`",
        "orderByAsc": False,
        "searchFilter": "tags.role = 'parent'",
        "selectedColumns": [*metrics, data, models, *tags],
        "columnOrder": order,
        "columnWidths": widths,
    }
