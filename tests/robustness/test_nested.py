"""The nested estimate: chance for random labels, small optimism for honest columns, text for the
report.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic.core.io import read_parquet, write_parquet
from isic.core.metric import Interval
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.core.schema import PATIENT
from isic.robustness import nested
from isic.robustness.nested import NestedEstimate, check_optimism, estimate_optimism
from isic.stack.inputs import read_inputs
from isic.tabular import build_features
from tests.conftest import ROOT
from tests.stack.population import Population, make, settings
from tests.tabular.population import lesions


@pytest.fixture(scope="module")
def people() -> Population:
    return make(lesions=2400, positives=90, patients=60)


def test_random_labels_give_chance_in_both_ways(people: Population) -> None:
    shuffled = people.folds.assign(
        target=np.random.default_rng(1).permutation(people.folds["target"])
    )
    estimate = estimate_optimism(people.features, shuffled, settings(), replicates=50)
    assert estimate.shared < 0.05
    assert estimate.nested < 0.05


def test_shared_folds_flatter_honest_columns_little(people: Population) -> None:
    estimate = estimate_optimism(people.features, people.folds, settings(), replicates=100)
    assert estimate.nested > 0.05
    assert estimate.optimism.low <= estimate.optimism.value <= estimate.optimism.high
    assert abs(estimate.optimism.value) < 0.02
    assert set(estimate.to_json()) == {"shared", "nested", "optimism", "proxy"}


def test_fitted_features_are_part_of_the_check() -> None:
    frame = lesions([20] * 45, seed=3)
    ill = np.where(frame["tbp_lv_location"] == "Head & Neck", 0.5, 0.05)
    target = (np.random.default_rng(1).random(len(frame)) < ill).astype(np.int64)
    fold = frame[PATIENT].str[3:].astype(int).to_numpy() % 3
    folds = frame[["isic_id", PATIENT]].assign(target=target, fold=fold)
    features = build_features(frame, ["raw"])
    kinds = ("encoding", "hospital")
    bare, beside = (
        estimate_optimism(features, folds, settings(fitted=k, rounds=10, seeds=1), 20)
        for k in ((), kinds)
    )
    assert beside.proxy == bare.proxy
    assert beside.shared != bare.shared
    assert beside.nested != bare.nested


@pytest.mark.parametrize(
    ("optimism", "taken", "said"),
    [(0.01, 0.01, "networks"), (-0.01, 0.0, "networks, so nothing is taken off")],
)
def test_only_flattery_is_taken_off_the_headline(
    people: Population,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimism: float,
    taken: float,
    said: str,
) -> None:
    layout, params = Layout(tmp_path), load_params(ROOT / "params.yaml")
    write_parquet(layout.features, people.features)
    write_parquet(layout.folds, people.folds)
    write_parquet(layout.oof, people.folds.assign(score=people.logits["vit"]))
    for name, logits in people.logits.items():
        for fold, part in people.folds.groupby("fold"):
            write_parquet(
                layout.embedding(name, int(str(fold))),
                pd.DataFrame({"isic_id": part["isic_id"], "logit": logits[part.index]}),
            )
    estimate = NestedEstimate(0.15, 0.14, Interval(optimism, optimism - 0.02, optimism + 0.02), 0.1)
    monkeypatch.setattr(nested, "estimate_optimism", lambda *_: estimate)
    inputs = read_inputs(layout.stack_files(people.logits, (0, 1, 2)), embeddings=False)
    found = check_optimism(
        inputs, read_parquet(layout.oof), params.stack, params.evaluate.replicates
    )
    assert found["pauc"] == pytest.approx(found["headline"] - taken)
    assert found["text"].endswith(said)
    assert found["leaks"] == []
