"""The paired comparison: direction, agreement with the metric, errors of incomparable scores."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from isic.cli import app
from isic.core.errors import InputError
from isic.core.io import read_parquet, write_parquet
from isic.core.metric import pauc
from isic.core.paths import Layout
from isic.evaluate.compare import compare_oof, comparison_table, read_oof


@pytest.fixture
def oof(run_dir: Layout) -> pd.DataFrame:
    return read_parquet(run_dir.oof)


def test_a_clearly_better_score_wins_and_the_reverse_mirrors_it(oof: pd.DataFrame) -> None:
    better = oof.assign(score=oof["score"] + 0.5 * oof["target"])
    forth, back = (compare_oof(*pair, replicates=100) for pair in ((oof, better), (better, oof)))
    assert forth.difference == pytest.approx(
        pauc(oof["target"], better["score"]) - pauc(oof["target"], oof["score"])
    )
    assert forth.low > 0
    assert "B is better" in forth.verdict
    assert "A is better" in back.verdict
    assert back.difference == pytest.approx(-forth.difference)


def test_the_same_scores_in_another_order_do_not_differ(oof: pd.DataFrame) -> None:
    shuffled = oof.sample(frac=1, random_state=1).assign(score=lambda frame: 3 * frame["score"] + 1)
    result = compare_oof(oof, shuffled, ("old", "new"), replicates=50)
    assert (result.difference, result.low, result.high) == (0, 0, 0)
    assert "no evidence" in result.verdict
    text = comparison_table(result)
    assert "old" in text
    assert "new − old: +0.0000" in text


def test_only_shared_lesions_count_and_the_rest_is_said(oof: pd.DataFrame) -> None:
    result = compare_oof(oof, oof.iloc[:900], replicates=50)
    assert (result.rows, result.only_a, result.only_b) == (900, 300, 0)
    assert "300 only in A" in comparison_table(result)


def test_other_folds_are_said(oof: pd.DataFrame) -> None:
    result = compare_oof(oof, oof.assign(fold=(oof["fold"] + 1) % 3), replicates=50)
    assert result.folds == ()
    assert "folds differ" in comparison_table(result)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda oof: oof.assign(isic_id=[f"X{i}" for i in range(len(oof))]), "share no isic_id"),
        (lambda oof: oof.assign(target=1 - oof["target"]), "disagree on the target"),
        (lambda oof: oof.assign(patient_id="IP_0"), "disagree on the patient_id"),
    ],
)
def test_scores_of_other_data_are_refused(oof: pd.DataFrame, spoil, says: str) -> None:
    with pytest.raises(InputError, match=says):
        compare_oof(oof, spoil(oof), replicates=50)


def test_scores_are_found_in_files_bundles_and_checkouts(
    oof: pd.DataFrame, run_dir: Layout, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "bundle" / "oof.parquet", oof)
    for place in (run_dir.oof, run_dir.root, tmp_path / "bundle"):
        assert np.array_equal(read_oof(place)["score"], oof["score"])
    with pytest.raises(InputError, match="no out-of-fold scores"):
        read_oof(tmp_path)


def test_two_checkouts_are_compared_with_what_they_were_made_with(
    checkout: Path, tmp_path: Path, oof: pd.DataFrame
) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkout, other)
    for folder in (checkout, other):
        write_parquet(folder / "data" / "oof" / "stack.parquet", oof)
    text = (other / "params.yaml").read_text()
    changed = re.sub(r"num_leaves: \d+", "num_leaves: 63", text).replace("  - age\n", "", 1)
    (other / "params.yaml").write_text(changed)
    with (other / "data" / "raw" / "train-metadata.csv").open("a") as file:
        file.write("\n")

    shown = CliRunner().invoke(app, ["compare", str(checkout), str(other)]).output
    assert re.search(r"^  features\.families +-age$", shown, re.MULTILINE)
    assert re.search(r"^  stack\.params\.num_leaves +\d+ → 63$", shown, re.MULTILINE)
    assert re.search(r"^  data_hash +\w{12}… → \w{12}…$", shown, re.MULTILINE)
    assert len(re.findall(r"^  \S+  .*(?:→|-age)", shown, re.MULTILINE)) == 3

    shown = CliRunner().invoke(app, ["compare", str(checkout), str(checkout)]).output
    assert "same parameters, features, data and folds" in shown
    scores = str(checkout / "data" / "oof" / "stack.parquet")
    shown = CliRunner().invoke(app, ["compare", str(checkout), scores]).output
    assert f"differences unknown: {scores} holds scores alone" in shown
