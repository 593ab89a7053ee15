"""The ablation with a learner for which the gain of every family is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.metric import pauc
from isic.evaluate.ablation import ablation_points, family_ablation
from isic.evaluate.figures import save_figure
from isic.evaluate.interval_figures import draw_families

FAMILIES = ("raw", "good", "useless", "spare")
USED = ("raw", "good", "useless")


@pytest.fixture
def folds() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    target = (rng.random(3000) < 0.1).astype(int)
    return pd.DataFrame(
        {"patient_id": [f"IP_{number}" for number in rng.integers(0, 80, 3000)], "target": target}
    )


def _score(families: Sequence[str], folds: pd.DataFrame) -> np.ndarray:
    """`raw` shifts malignant lesions by one sd, `good` by two more, `spare` by one; `useless` by
    none.
    """
    noise = np.random.default_rng(1).normal(size=len(folds))
    return noise + folds["target"].to_numpy() * (
        1.0 * ("raw" in families) + 2.0 * ("good" in families) + 1.0 * ("spare" in families)
    )


def test_a_useful_family_is_gained_and_missed_and_a_useless_one_is_neither(
    folds: pd.DataFrame,
) -> None:
    lines: list[str] = []
    report = family_ablation(
        lambda names: _score(names, folds), folds, FAMILIES, USED, ["raw"], 200, 0, lines.append
    )
    rows = {row["family"]: row for row in report["families"]}
    assert rows["good"]["added_low"] > 0
    assert rows["good"]["left_out_high"] < 0
    assert rows["useless"]["added"] == rows["useless"]["left_out"] == 0
    assert rows["raw"]["added"] is None
    expected = pauc(folds["target"], _score(["raw", "good"], folds)) - pauc(
        folds["target"], _score(["raw"], folds)
    )
    assert rows["good"]["added"] == pytest.approx(expected)
    assert report["used"]["pauc"] > report["base"]["pauc"]
    assert rows["spare"]["put_in_low"] > 0
    assert rows["spare"]["left_out"] is None
    assert rows["good"]["put_in"] is None
    assert len(lines) == len(FAMILIES)
    assert lines[1].startswith("2/4 good: added to the base +")


def test_points_to_plot_leave_out_what_was_not_asked(folds: pd.DataFrame) -> None:
    report = family_ablation(
        lambda names: _score(names, folds), folds, FAMILIES, USED, ["raw"], 50, 0
    )
    ways = [(point["family"], point["way"]) for point in ablation_points(report)]
    assert ("raw", "added") not in ways
    assert ("good", "added") in ways
    assert all(point["low"] <= point["high"] for point in ablation_points(report))


def test_a_base_outside_the_families_is_an_error(folds: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="base families"):
        family_ablation(
            lambda names: _score(names, folds), folds, FAMILIES, USED, ["texture"], 50, 0
        )


def test_the_picture_shows_every_family(folds: pd.DataFrame, tmp_path: Path) -> None:
    report = family_ablation(
        lambda names: _score(names, folds), folds, FAMILIES, USED, ["raw"], 50, 0
    )
    save_figure(draw_families({"families": ablation_points(report)}), tmp_path / "features.svg")
    with mpl.rc_context({"svg.fonttype": "none"}):
        save_figure(draw_families({"families": ablation_points(report)}), tmp_path / "texts.svg")
    text = (tmp_path / "texts.svg").read_text()
    assert all(f">{name}<" in text for name in FAMILIES)
    assert draw_families({}) is None
