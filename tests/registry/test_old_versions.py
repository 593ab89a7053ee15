"""Versions that isic 0.1.0 registered score with their own code, and with the installed package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

import isic
from isic.data.tables import read_metadata
from isic.registry.register import LOADER

STORED = Path(__file__).parents[1] / "predict" / "format_2"


@pytest.fixture
def old_model(tmp_path: Path) -> Path:
    """A pyfunc as isic 0.1.0 logged it: its loader imports the modules by their old paths."""
    loader = LOADER.read_text().replace("isic.predict.", "isic.registry.")
    assert "from isic.registry.bundle import" in loader
    (tmp_path / "pyfunc.py").write_text(loader)
    mlflow.pyfunc.save_model(
        tmp_path / "model",
        python_model=str(tmp_path / "pyfunc.py"),
        artifacts={"bundle": str(STORED / "bundle")},
        code_paths=[str(Path(isic.__file__).parent)],
        pip_requirements=[],
    )
    return tmp_path / "model"


def expected() -> pd.Series:
    return pd.read_csv(STORED / "scores.csv", index_col="isic_id")["no_images"]


def test_an_old_version_loads_where_isic_is_imported(old_model: Path) -> None:
    pytest.importorskip("xgboost")
    shutil.rmtree(old_model / "code")
    rows = read_metadata(STORED / "rows.csv", train=False)
    scores = mlflow.pyfunc.load_model(str(old_model)).predict(rows)
    np.testing.assert_allclose(scores.set_index("isic_id")["target"], expected(), rtol=0, atol=1e-7)


def test_a_version_loads_with_its_own_code(old_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xgboost")
    # The old tree: the module is found in the version's own code only.
    package = old_model / "code" / "isic"
    (package / "registry" / "former.py").write_text((package / "predict" / "bundle.py").read_text())
    loader = next(old_model.glob("*.py"))
    loader.write_text(loader.read_text().replace("isic.registry.bundle", "isic.registry.former"))
    script = f"""
import mlflow, sys
model = mlflow.pyfunc.load_model({str(old_model)!r})
import isic
from isic.data.tables import read_metadata
from pathlib import Path
model.predict(read_metadata(Path({str(STORED / "rows.csv")!r}), train=False)).to_csv({str(tmp_path / "out.csv")!r})
print(isic.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(old_model)
    scores = pd.read_csv(tmp_path / "out.csv", index_col="isic_id")["target"]
    np.testing.assert_allclose(scores, expected(), rtol=0, atol=1e-7)
