"""The image benchmark on a machine with torch, timm and few other packages: other imports fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.image.conftest import ROOT

#: Packages of the project that such a machine lacks; `benchmarks/gpu_wheels.py` lists those to
#: bring.
ABSENT = (
    "alembic boto3 catboost dvc lightgbm lightning_fabric mlflow nbformat optuna plotly "
    "psycopg pytorch_grad_cam ray ruamel sqlalchemy ttach typer xgboost"
)
_BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def box(folder: Path, *arguments: str, more: str = "") -> subprocess.CompletedProcess[str]:
    """Python with those packages blocked, also in its child processes (loaders)."""
    absent = f"ABSENT = {[*ABSENT.split(), *more.split()]!r}\n"
    (folder / "sitecustomize.py").write_text(absent + _BLOCK)
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "ISIC_REAL_DATA": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT
    )


@pytest.mark.slow
def test_what_is_not_on_the_box_is_not_imported(tmp_path: Path) -> None:
    done = box(tmp_path, "benchmarks/image.py", "--help", more="albumentations")
    assert done.returncode == 0, done.stderr
    refused = box(tmp_path, "-c", "import mlflow")
    assert "No module named 'mlflow'" in refused.stderr


def test_the_list_of_wheels_covers_what_albumentations_and_pydantic_need(tmp_path: Path) -> None:
    from importlib.metadata import requires

    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu_wheels.py"], capture_output=True, text=True
    )
    listed = {line.split("==")[0] for line in done.stdout.split()}
    there = {"numpy", "scipy", "pyyaml", "opencv-python-headless"}
    for package in sorted(listed):
        for line in requires(package) or []:
            needed = re.split(r"[^\w.-]", line)[0].lower().replace("_", "-")
            optional = "extra ==" in line or 'python_version < "3' in line or "Windows" in line
            assert optional or needed in listed | there, (package, line)
    (typing,) = [line for line in done.stdout.split() if line.startswith("typing-extensions")]
    assert tuple(map(int, typing.split("==")[1].split("."))) >= (4, 16)


@pytest.mark.slow
def test_the_benchmark_runs_to_its_end_there(tmp_path: Path) -> None:
    done = box(tmp_path, "benchmarks/image.py", "--quick")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["met"]) == set(found["targets"])
    assert found["met"]["e_validation"] is not None
