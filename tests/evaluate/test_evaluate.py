"""The evaluation against values computed by hand, and for incomplete runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from isic.core.errors import InputError
from isic.core.io import read_parquet, write_json, write_parquet
from isic.core.metric import pauc, top15_sensitivity
from isic.core.paths import Layout
from isic.evaluate.curves import decision_points, flagged_points, histogram_points, rank_in_patient
from isic.evaluate.evaluate import Evaluation, evaluate, headline_metrics
from isic.evaluate.learning import learning_records
from isic.evaluate.model_figures import frontier
from isic.evaluate.slices import slice_masks
from tests.report.conftest import FOLDS, results_of

BACKBONES = ("vit", "convnext")
CONTRACT = {
    "pauc",
    "pauc_low",
    "pauc_high",
    "pauc_fold_mean",
    "pauc_fold_sd",
    "auc",
    "top15_sensitivity",
    "n",
    "positives",
    "patients",
    "folds",
}


@pytest.fixture(scope="module")
def judged(run_dir: Layout) -> Evaluation:
    return evaluate(results_of(run_dir, BACKBONES), replicates=100, seed=0)


def area_above(points: list[dict[str, float]], level: float = 0.8) -> float:
    """Area between a step-and-line ROC and a level of sensitivity, by the trapezoid rule over 1 −
    FPR.
    """
    tpr, fpr = np.array([p["tpr"] for p in points]), np.array([p["fpr"] for p in points])
    grid = np.unique(np.concatenate([tpr[tpr > level], [level, 1.0]]))
    # Vertical steps: the curve at a sensitivity is reached at its smallest FPR from the left and
    # left at its largest.
    total = 0.0
    for low, high in pairwise(grid):
        i = np.flatnonzero(tpr <= low)[-1]
        start = fpr[i] + (fpr[i + 1] - fpr[i]) * (low - tpr[i]) / (tpr[i + 1] - tpr[i])
        end = fpr[i] + (fpr[i + 1] - fpr[i]) * (high - tpr[i]) / (tpr[i + 1] - tpr[i])
        total += (high - low) * (1 - (start + end) / 2)
    return total


def test_the_headline_holds_the_contract_and_agrees_with_the_metric(
    run_dir: Layout, judged: Evaluation
) -> None:
    oof = read_parquet(run_dir.oof)
    metrics = judged.metrics
    assert set(metrics) >= CONTRACT
    assert metrics["pauc"] == pauc(oof["target"], oof["score"])
    assert metrics["auc"] == pytest.approx(roc_auc_score(oof["target"], oof["score"]), abs=1e-12)
    assert metrics["pauc_low"] < metrics["pauc"] < metrics["pauc_high"]
    assert (metrics["n"], metrics["positives"], metrics["patients"]) == (
        1200,
        60,
        oof["patient_id"].nunique(),
    )
    by_fold = [pauc(part["target"], part["score"]) for _, part in oof.groupby("fold")]
    assert [fold["pauc"] for fold in metrics["folds"]] == by_fold
    assert metrics["pauc_fold_sd"] == pytest.approx(pd.Series(by_fold).std())


def test_the_shaded_area_of_the_roc_points_is_the_pauc(judged: Evaluation) -> None:
    assert area_above(judged.points["roc"]) == pytest.approx(judged.metrics["pauc"], abs=1e-9)


def test_flagging_fifteen_gives_the_official_top_15() -> None:
    rng = np.random.default_rng(3)
    patient, score = rng.integers(0, 30, 2000), rng.normal(size=2000)
    target = (rng.random(2000) < 0.02).astype(int)
    at_15 = next(row for row in flagged_points(patient, target, score) if row["flagged"] == 15)
    assert at_15["sensitivity"] == pytest.approx(
        top15_sensitivity(patient, target, score), abs=1e-12
    )
    assert flagged_points(patient, np.zeros(2000), score) == []


def test_ranks_are_cut_in_row_order_on_ties() -> None:
    assert rank_in_patient(np.array(["a", "b", "a", "a"]), np.array([1.0, 9, 1, 2])).tolist() == [
        2,
        1,
        3,
        1,
    ]


def test_net_benefit_by_hand() -> None:
    """Threshold 0.2: two of three above are malignant, one of four in all; 2/4 − 1/4 · 0.25."""
    target, probability = np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.3, 0.1])
    nearest = min(
        decision_points(target, probability, points=400),
        key=lambda row: abs(row["threshold"] - 0.2),
    )
    odds = nearest["threshold"] / (1 - nearest["threshold"])
    assert nearest["model"] == pytest.approx(0.5 - 0.25 * odds)
    assert nearest["all"] == pytest.approx(0.5 - 0.5 * odds)


@pytest.mark.parametrize(
    "score", [np.array([0.1, 0.2, 0.9]), np.array([-1.0, 0.0, 5.0]), np.array([0.5, 0.5, 0.5])]
)
def test_the_histogram_counts_every_lesion(score: np.ndarray) -> None:
    assert sum(row["count"] for row in histogram_points(np.array([0, 0, 1]), score)) == 3


def test_slices_say_when_there_is_too_little(judged: Evaluation, run_dir: Layout) -> None:
    records = judged.points["slices"]
    few = [record for record in records if record["positives"] < 15]
    assert few
    assert all(
        record["pauc"] is None and "too few malignant lesions" in record["note"] for record in few
    )
    assert all(
        record["low"] <= record["pauc"] <= record["high"]
        for record in records
        if record["positives"] >= 15
    )
    hospitals = [record for record in records if record["family"] == "hospital"]
    assert sum(record["n"] for record in hospitals) == judged.metrics["n"]
    assert {record["family"] for record in records} == {
        "size",
        "hospital",
        "sex",
        "age",
        "site",
        "tile type",
        "skin tone (proxy)",
        "lesions per patient",
        "diagnosis (against all benign)",
    }


def test_missing_categories_are_a_slice_of_their_own(run_dir: Layout) -> None:
    rows = results_of(run_dir).rows
    found = {(family, name): mask.sum() for family, name, mask in slice_masks(rows)}
    assert found["sex", "missing"] == rows["sex"].isna().sum() > 0
    assert found["age", "missing"] == rows["age_approx"].isna().sum() > 0


def test_the_ladder_ends_with_the_score_and_compares_each_step_with_it(judged: Evaluation) -> None:
    steps = judged.points["ladder"]
    assert [step["step"] for step in steps] == [
        "image vit",
        "image convnext",
        "images, mean",
        "stack",
    ]
    assert steps[-1]["pauc"] == judged.metrics["pauc"]
    assert steps[0]["gain"] == pytest.approx(steps[-1]["pauc"] - steps[0]["pauc"])


def test_calibration_brings_predictions_to_the_shares_found(judged: Evaluation) -> None:
    error = judged.metrics["calibration_error"]
    assert error["after"] < error["before"]
    # The stored map, fitted on everything, predicts as many malignant lesions as there are.
    probability = judged.calibration(np.linspace(0, 1, 50))
    assert (np.diff(probability) >= 0).all()
    assert 0 <= probability.min() <= probability.max() <= 1


def test_histories_become_one_long_table(run_dir: Layout) -> None:
    records = learning_records(run_dir.image_models(BACKBONES, FOLDS))
    assert len(records) == 2 * 3 * 3 * 2
    assert {record["name"] for record in records} == {"train_loss", "val_pauc"}


def test_a_run_without_images_says_which_logits_are_missing(new_run: Callable[..., Layout]) -> None:
    layout = new_run(images=False)
    result = evaluate(results_of(layout, BACKBONES), replicates=50, seed=0)
    assert [step["step"] for step in result.points["ladder"]] == ["stack"]
    assert len(result.metrics["missing"]) == 2
    assert learning_records(layout.image_models(BACKBONES, (0,))) == []


def test_one_fold_has_no_spread_and_no_calibrated_curve(new_run: Callable[..., Layout]) -> None:
    result = evaluate(results_of(new_run(folds=1), BACKBONES), replicates=50, seed=0)
    assert result.metrics["pauc_fold_sd"] is None
    assert result.points["decision"] == []
    assert {record["kind"] for record in result.points["calibration"]} == {"score as it is"}


def test_three_positives_still_give_a_judgement(new_run: Callable[..., Layout]) -> None:
    result = evaluate(results_of(new_run(positives=3), BACKBONES), replicates=50, seed=0)
    assert result.metrics["positives"] == 3
    assert all(record["pauc"] is None for record in result.points["slices"])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda oof: oof.assign(score=np.nan), "not finite"),
        (lambda oof: oof.drop(columns="fold"), "lacks column `fold`"),
        (lambda oof: oof.iloc[:0], "no rows"),
        (lambda oof: pd.concat([oof, oof.iloc[:1]]), "more than once"),
        (lambda oof: oof.assign(isic_id="ISIC_9999999").iloc[:1], "ISIC_9999999"),
        (lambda oof: oof.assign(target=0), "malignant|benign"),
    ],
)
def test_scores_that_cannot_be_judged_are_refused(
    run_dir: Layout, tmp_path, spoil: Callable[[pd.DataFrame], pd.DataFrame], says: str
) -> None:
    layout = Layout(tmp_path)
    layout.raw.parent.mkdir()
    layout.raw.symlink_to(run_dir.raw)
    write_parquet(layout.oof, spoil(read_parquet(run_dir.oof)))
    with pytest.raises(InputError, match=says):
        evaluate(results_of(layout), replicates=50, seed=0)


def test_metrics_diff_fits_a_terminal(
    judged: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commits' headlines in a repository whose dvc.yaml declares the same metrics file."""
    monkeypatch.chdir(tmp_path)
    stage = {"cmd": "true", "metrics": [{"metrics/headline.json": {"cache": False}}]}
    write_json(tmp_path / "dvc.yaml", {"stages": {"evaluate": stage}})
    headline = headline_metrics(judged.metrics)
    write_json(tmp_path / "metrics" / "headline.json", headline)
    dvc = (sys.executable, "-m", "dvc")
    for command in (
        ("git", "init", "-q"),
        (*dvc, "init", "-q"),
        ("git", "add", "."),
        ("git", "-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qm", "Baseline"),
    ):
        subprocess.run(command, check=True)
    changed = {name: value - 0.01234567 for name, value in headline.items() if value is not None}
    assert set(changed) == set(headline)
    write_json(tmp_path / "metrics" / "headline.json", changed)

    done = subprocess.run(
        [*dvc, "metrics", "diff"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(done) == 1 + len(headline) <= 9
    assert max(map(len, done)) <= 100
    assert all(line.split()[-1] == "-0.01235" for line in done[1:])


def test_the_frontier_keeps_what_nothing_beats() -> None:
    records = [
        {"name": name, "pauc": pauc, "megabytes": size}
        for name, pauc, size in (("a", 0.1, 1), ("b", 0.09, 2), ("c", 0.12, 3), ("d", 0.12, 4))
    ]
    assert [record["name"] for record in frontier(records, "megabytes")] == ["a", "c"]
