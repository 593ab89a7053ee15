"""`isic score`: official numbers, matched by isic_id."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from isic.core.errors import InputError
from isic.core.score import score_files


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    target = (rng.random(400) < 0.1).astype(int)
    solution = pd.DataFrame(
        {
            "isic_id": [f"ISIC_{number:07d}" for number in range(400)],
            "patient_id": [f"IP_{number % 20:07d}" for number in range(400)],
            "target": target,
        }
    )
    submission = solution[["isic_id"]].assign(target=target + rng.normal(0, 1, 400))
    solution.to_csv(tmp_path / "S.csv", index=False)
    # Other order than the solution's: position must not matter.
    submission.sample(frac=1, random_state=1).to_csv(tmp_path / "P.csv", index=False)
    return tmp_path / "S.csv", tmp_path / "P.csv"


def test_rows_are_matched_by_id(files: tuple[Path, Path]) -> None:
    truth = pd.read_csv(files[0]).set_index("isic_id")["target"]
    guess = pd.read_csv(files[1]).set_index("isic_id")["target"].reindex(truth.index)
    found = score_files(*files)
    # scikit-learn's standardised corner area, undone (FPR and TPR swapped).
    m = 1 - 0.8
    expected = 0.5 * m**2 + (m - 0.5 * m**2) / 0.5 * (
        roc_auc_score(1 - truth, -guess, max_fpr=m) - 0.5
    )
    assert found["pauc"] == pytest.approx(expected, abs=1e-12)
    assert found["auc"] == pytest.approx(roc_auc_score(truth, guess), abs=1e-12)
    assert found["n"] == 400


def test_cli_prints_one_json_object(files: tuple[Path, Path]) -> None:
    command = [
        sys.executable,
        "-m",
        "isic.cli",
        "score",
        "--solution",
        str(files[0]),
        "--submission",
        str(files[1]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) == {"pauc", "auc", "top15_sensitivity", "n", "positives"}


def test_bad_submissions_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    solution, good = files
    frame = pd.read_csv(good)
    cases = {
        "lacks 1 of the solution's isic_ids": frame.iloc[1:],
        "occurs more than once": pd.concat([frame, frame.iloc[:1]]),
        "isic_ids that the solution lacks": pd.concat(
            [frame, pd.DataFrame({"isic_id": ["ISIC_9"], "target": [0.1]})]
        ),
        "lacks column `target`": frame[["isic_id"]],
        "rows have no isic_id": pd.concat(
            [frame, pd.DataFrame({"isic_id": [None, None], "target": [0.1, 0.2]})]
        ),
        "finite number": frame.assign(target=[*frame["target"].iloc[:-1], np.inf]),
        "has no rows": frame.iloc[:0],
    }
    for message, bad in cases.items():
        bad.to_csv(tmp_path / "bad.csv", index=False)
        with pytest.raises(InputError, match=message):
            score_files(solution, tmp_path / "bad.csv")
    command = [
        sys.executable,
        "-m",
        "isic.cli",
        "score",
        "--solution",
        str(solution),
        "--submission",
        str(tmp_path / "x"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is not a file" in done.stderr
    assert done.stdout == ""
