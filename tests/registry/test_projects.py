"""MLflow Projects: entry points start existing commands, and runs are children of the run of
`mlflow run`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from mlflow.entities import Run
from packaging.requirements import Requirement

from isic.core.params import Params
from isic.core.paths import Layout
from isic.tracking.runs import PARENT_TAG
from isic.tracking.store import EXPERIMENT, connect
from pipelines.register import bundle_of

NAMES = ("image_fold", "pipeline", "predict", "stack", "tune")


def project(root: Path, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((root / "mlflow_projects" / name / "MLproject").read_text()))


def test_these_projects_exist(root: Path) -> None:
    assert sorted(
        path.name for path in (root / "mlflow_projects").iterdir() if path.is_dir()
    ) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_point_calls_what_exists_from_the_root_with_typed_parameters(
    root: Path, name: str
) -> None:
    content = project(root, name)
    assert (root / "mlflow_projects" / name / content["python_env"]).is_file()
    (entry,) = content["entry_points"].values()
    assert entry["command"].startswith("cd ../.. && ")
    modules = re.findall(r"python -m ([\w.]+)", entry["command"])
    assert modules or "dvc repro" in entry["command"]
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module
    assert set(re.findall(r"{(\w+)}", entry["command"])) == set(entry["parameters"])
    assert all(
        parameter["type"] in ("string", "float", "path")
        for parameter in entry["parameters"].values()
    )


def test_their_environment_is_what_the_pipeline_needs_pinned_as_here(root: Path) -> None:
    environment = yaml.safe_load((root / "mlflow_projects" / "python_env.yaml").read_text())
    package = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    needed = [*package["dependencies"], *package["optional-dependencies"]["pipeline"]]
    pinned = set((root / "constraints.txt").read_text().lower().replace("_", "-").splitlines())
    assert {Requirement(line).name for line in environment["dependencies"]} == {
        Requirement(line).name for line in needed
    }
    pins = (line.split(" ;")[0] for line in environment["dependencies"])
    assert {pin.lower().replace("_", "-") for pin in pins} <= pinned


@pytest.mark.slow
def test_mlflow_run_stack_logs_under_its_run(layout: Layout, root: Path, store: Path) -> None:
    shutil.copy(store, layout.root / "mlflow.db")
    outer, inner = mlflow_run(layout, root, "stack", "-P", "evaluate=no")
    assert {run.data.tags["role"] for run in inner} == {"fold", "parent"}
    assert len([run for run in inner if run.data.tags["role"] == "fold"]) == 2
    assert "pauc_fold_mean" in outer.data.metrics


@pytest.mark.slow
def test_mlflow_run_predict_logs_under_its_run(
    layout: Layout, params: Params, root: Path, store: Path
) -> None:
    shutil.copy(store, layout.root / "mlflow.db")
    bundle = bundle_of(layout, params)
    files = {
        "model": bundle.folder,
        "metadata": layout.test_metadata,
        "images": layout.raw / "test-image.hdf5",
        "out": "scores.csv",
    }
    arguments = [part for name, value in files.items() for part in ("-P", f"{name}={value}")]
    _, (run,) = mlflow_run(layout, root, "predict", *arguments)
    assert run.data.metrics["lesions"] == 3
    assert run.data.params["bundle"] == bundle.manifest.hash
    assert len(pd.read_csv(layout.root / "scores.csv")) == 3


def mlflow_run(layout: Layout, root: Path, name: str, *arguments: str) -> tuple[Run, list[Run]]:
    """The run that `mlflow run` opened for a project of this checkout, and those below it."""
    shutil.copytree(root / "mlflow_projects", layout.root / "mlflow_projects")
    environment = os.environ | {
        "PYTHONPATH": str(root),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [
        "mlflow",
        "run",
        "--env-manager",
        "local",
        "--experiment-name",
        EXPERIMENT,
        *arguments,
    ]
    done = subprocess.run(
        [sys.executable, "-m", *command, f"mlflow_projects/{name}"],
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
    assert outer.info.status == "FINISHED"
    inner = [run for run in runs if run is not outer]
    assert inner
    assert {run.data.tags[PARENT_TAG] for run in inner} == {outer.info.run_id}
    return outer, inner
