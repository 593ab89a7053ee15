"""MLflow Projects: entry points that start what exists, and runs that lie under the run `mlflow run` opened."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from isic.core.paths import Layout
from isic.tracking.runs import PARENT_TAG
from isic.tracking.store import EXPERIMENT, connect

NAMES = ("image_fold", "pipeline", "predict", "stack", "tune")


def project(root: Path, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((root / "mlflow_projects" / name / "MLproject").read_text()))


def test_these_projects_exist(root: Path) -> None:
    assert sorted(path.name for path in (root / "mlflow_projects").iterdir() if path.is_dir()) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_point_calls_what_exists_from_the_root_with_typed_parameters(root: Path, name: str) -> None:
    content = project(root, name)
    environment = yaml.safe_load((root / "mlflow_projects" / name / content["python_env"]).read_text())
    assert environment["dependencies"]
    (entry,) = content["entry_points"].values()
    assert entry["command"].startswith("cd ../.. && ")
    modules = re.findall(r"python -m ([\w.]+)", entry["command"])
    assert modules or "dvc repro" in entry["command"]
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module
    assert set(re.findall(r"{(\w+)}", entry["command"])) == set(entry["parameters"])
    assert all(parameter["type"] in ("string", "float", "path") for parameter in entry["parameters"].values())


@pytest.mark.slow
def test_mlflow_run_stack_logs_under_its_run(layout: Layout, root: Path, store: Path) -> None:
    shutil.copy(store, layout.root / "mlflow.db")
    shutil.copytree(root / "mlflow_projects", layout.root / "mlflow_projects")
    environment = os.environ | {
        "PYTHONPATH": str(root),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = ["mlflow", "run", "--env-manager", "local", "--experiment-name", EXPERIMENT, "-P", "evaluate=no"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "mlflow_projects/stack"],
        cwd=layout.root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    client = connect(layout.root)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    (outer,) = [run for run in runs if "mlflow.project.entryPoint" in run.data.tags]
    folds = [run for run in runs if run.data.tags.get("role") == "fold"]
    assert len(folds) == 2
    assert {run.data.tags[PARENT_TAG] for run in folds} == {outer.info.run_id}
    assert outer.info.status == "FINISHED"
    assert "pauc_mean" in outer.data.metrics
