"""Find a run's out-of-fold scores and parameters by run id or name in the checkout's store."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isic.core.errors import InputError
from isic.tracking.runs import PARENT_TAG
from isic.tracking.store import EXPERIMENT, connect, experiment_ids, short_reason

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

#: Artifact of a run's out-of-fold scores; the evaluate stage logs it to the stacker's parent run.
_SCORES = "oof/stack.parquet"


def run_scores(root: Path, name: str) -> Path:
    """Local path of the out-of-fold scores of run `name` (run id or run name), or of its parent.

    Of several runs with one name the newest is used. Raises InputError when there is no such run,
    it has no scores, or the store cannot be reached.
    """
    client, run = _run_with_scores(root, name)
    return Path(client.download_artifacts(run.info.run_id, _SCORES))


def run_values(root: Path, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters and tags of the run whose scores `run_scores` returns. Raises as it does.

    Parameters are by dotted key, their values read back from MLflow's text.
    """
    run = _run_with_scores(root, name)[1]
    return {key: _parse(text) for key, text in run.data.params.items()}, dict(run.data.tags)


def _parse(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # a plain word
        return text


def _run_with_scores(root: Path, name: str) -> tuple[MlflowClient, Run]:
    from mlflow.exceptions import MlflowException

    try:
        client = connect(root)
        run = _find(client, name)
        for owner in filter(None, (run, _parent(client, run))):
            files = client.list_artifacts(owner.info.run_id, _SCORES.split("/")[0])
            if any(file.path == _SCORES for file in files):
                return client, owner
    except MlflowException as error:
        raise InputError(
            f"the MLflow store does not answer ({short_reason(error)}): start it, or unset"
            " MLFLOW_TRACKING_URI"
        ) from error
    raise InputError(
        f"run {run.info.run_name} holds no out-of-fold scores ({_SCORES}): name a run stack-…, a"
        " version (models:/NAME/3), a bundle or a checkout"
    )


def _find(client: MlflowClient, name: str) -> Run:
    experiments = experiment_ids(client)
    if experiments and "'" not in name:
        # A name may end with the changes: `stack-1a2b3c4d num_leaves=63`.
        for wanted in (f"run_id = '{name}'", f"run_name = '{name}'", f"run_name LIKE '{name} %'"):
            runs = client.search_runs(experiments, f"attributes.{wanted}", max_results=1)
            if runs:
                return runs[0]
    raise InputError(
        f"{name} is no file or folder here, no version (models:/NAME@ALIAS) and no run of"
        f" experiment {EXPERIMENT}: `make ui` shows the runs"
    )


def _parent(client: MlflowClient, run: Run) -> Run | None:
    parent = run.data.tags.get(PARENT_TAG)
    return client.get_run(parent) if parent else None
