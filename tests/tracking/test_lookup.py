"""Look-up of runs by id or name for their out-of-fold scores, and the verb that compares two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from isic.cli import app
from isic.core.errors import InputError
from isic.core.io import write_parquet
from isic.tracking import open_run, parent
from isic.tracking.lookup import run_scores
from isic.tracking.store import EXPERIMENT, connect
from isic.tracking.view import KEY, publish_view


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A checkout with two stacks, the second clearly better, and a run without scores; name -> run
    id.
    """
    root = tmp_path_factory.mktemp("runs")
    (root / "dvc.yaml").touch()
    rng = np.random.default_rng(0)
    target = np.repeat([1, 0], [40, 400])
    oof = pd.DataFrame(
        {"isic_id": [f"ISIC_{i}" for i in range(440)], "target": target, "fold": np.arange(440) % 2}
    )
    oof["patient_id"] = [f"IP_{i % 50}" for i in range(440)]
    for strength in (1, 4):
        write_parquet(
            root / "stack.parquet", oof.assign(score=rng.normal(size=440) + strength * target)
        )
        with parent("stack", {"strength": strength}, root=root) as run:
            run.artifact(root / "stack.parquet", "oof")
        with open_run(
            "stack", {"strength": strength}, f"stack-fold0-{strength}", fold=0, root=root
        ):
            pass
    with open_run("gate", {}, "gate-1", root=root):
        pass
    client = connect(root)
    found = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    return root, {run.info.run_name: run.info.run_id for run in found}


def test_a_run_is_found_by_id_by_name_and_through_its_fold(
    runs: tuple[Path, dict[str, str]],
) -> None:
    root, ids = runs
    name = next(name for name in ids if name.startswith("stack-") and "fold" not in name)
    by_id, by_name = run_scores(root, ids[name]), run_scores(root, name)
    assert by_id.read_bytes() == by_name.read_bytes()
    fold = run_scores(root, ids["stack-fold0-4"])
    assert len(pd.read_parquet(fold)) == 440


@pytest.mark.parametrize(
    ("name", "says"), [("gate-1", "no out-of-fold scores"), ("nobody", "no run of experiment")]
)
def test_what_cannot_be_compared_is_said(
    runs: tuple[Path, dict[str, str]], name: str, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        run_scores(runs[0], name)


def test_two_runs_are_compared_on_the_screen_and_in_a_file(
    runs: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ids = runs
    monkeypatch.chdir(root)
    done = CliRunner().invoke(app, ["compare", ids["stack-fold0-1"], ids["stack-fold0-4"]])
    assert done.exit_code == 0, done.output
    assert f"{ids['stack-fold0-4']} is better" in done.output
    written = json.loads((root / "reports" / "compare.json").read_text())
    assert written["low"] > 0
    assert written["changes"] == [{"key": "strength", "before": "1", "after": "4"}]
    assert "  strength  1 → 4\n" in done.output
    assert written["rows"] == 440


def test_the_view_names_its_columns_once(runs: tuple[Path, dict[str, str]]) -> None:
    client = connect(runs[0])
    first, second = publish_view(client), publish_view(client)
    assert first == second
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    assert first.startswith(f"/#/experiments/{experiment}/runs?viewStateShareKey={KEY}&")
    assert first.endswith("&workflowType=machine_learning")
    state = json.loads(
        client.get_experiment_by_name(EXPERIMENT).tags[f"mlflow.sharedViewState.{KEY}"]
    )
    assert "metrics.`pauc_fold_mean`" in state["selectedColumns"]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`pauc`", False)
    assert set(state["selectedColumns"]) <= set(state["columnOrder"])
