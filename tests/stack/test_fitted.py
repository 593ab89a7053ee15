"""Fitted features in the stacker: fitted by each chain on its training folds, stored with it, equal
after a reload.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.schema import PATIENT
from isic.report.shap import shap_values
from isic.report.shap_text import group_shap
from isic.stack import Stack, fit_stack
from isic.stack.model import Chain
from isic.stack.training_data import build_training_data
from isic.tabular import build_features
from isic.tabular.families.fitted.encoding import ENCODED
from isic.tabular.fitted import Fitted, fitted_families
from isic.tuning.search import TrialEvaluator
from tests.stack.population import Population, settings
from tests.tabular.population import lesions

KINDS = tuple(fitted_families())
QUICK = settings(fitted=KINDS, rounds=20, seeds=1)


@pytest.fixture(scope="module")
def people() -> Population:
    frame = lesions([70, 60, 50, 40, 30, 20, 9, 1, 40, 30], seed=3)
    rng = np.random.default_rng(1)
    target = (
        rng.random(len(frame)) < np.where(frame["tbp_lv_location"] == "Head & Neck", 0.5, 0.05)
    ).astype(np.int64)
    fold = frame[PATIENT].str[3:].astype(int).to_numpy() % 3
    folds = frame[["isic_id", PATIENT]].assign(target=target, fold=fold)
    return Population(build_features(frame, ["raw"]), {}, folds)


@pytest.fixture(scope="module")
def stack(people: Population) -> Stack:
    return fit_stack(*people, QUICK)


def test_a_saved_chain_gives_the_held_out_scores_row_by_row(
    stack: Stack, people: Population, tmp_path: Path
) -> None:
    stack.save(tmp_path / "stack")
    again = Stack.load(tmp_path / "stack")
    assert again.names == stack.names
    for fold in again.folds:
        mine = np.flatnonzero(people.folds["fold"] == fold)
        for rows in (mine, mine[:1], mine[::3]):
            score = again.score(
                people.features.iloc[rows], {}, fold, people.folds[PATIENT].iloc[rows]
            )
            np.testing.assert_array_equal(score, stack.oof["score"].iloc[rows])


def test_a_chain_learns_from_its_training_folds_only(stack: Stack, people: Population) -> None:
    mine = people.folds["fold"] == 1
    flipped = people.folds.assign(
        target=people.folds["target"].where(~mine, 1 - people.folds["target"])
    )
    moved = people.features.assign(
        tbp_lv_H=people.features["tbp_lv_H"] + 40 * mine.astype("float32")
    )
    other = fit_stack(moved, {}, flipped, QUICK)
    assert other.chains[1].fitted == stack.chains[1].fitted
    assert other.chains[0].fitted != stack.chains[0].fitted
    training = people.features[~mine], people.folds.loc[~mine, "target"]
    assert stack.chains[1].fitted == Fitted.fit(KINDS, *training)


def test_fitted_columns_are_read_and_explained(stack: Stack, people: Population) -> None:
    assert {family for family in stack.families.values() if family != "raw"} == {
        f"fitted {kind}" for kind in KINDS
    }
    columns = stack.columns(people.features, {}, 0, people.folds[PATIENT])
    rows = np.arange(len(people.features))
    values = shap_values(
        stack, columns, 0, people.features["isic_id"], people.folds[PATIENT], {}, rows
    )[0]
    assert list(values.columns) == list(stack.names)
    assert values["fitted_rate_tbp_lv_location"].abs().max() > 0


def rate_gain(chain: Chain) -> float:
    """Share of the training gain of the chain's only model that its `fitted_rate` columns have."""
    (model,) = chain.members["lightgbm"]["whole"]
    gain = pd.Series(model.feature_importance("gain"), model.feature_name())
    return float(gain[gain.index.str.startswith("fitted_rate")].sum() / gain.sum())


def test_rates_of_levels_that_say_nothing_cost_and_gain_nothing() -> None:
    """With only each patient's own rates left out, these columns took 70 % of the gain and .1 of
    the AUC.
    """
    lost, taken = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        patient, target = rng.integers(0, 200, 4000), np.zeros(4000, dtype=np.int64)
        target[rng.choice(4000, 120, replace=False)] = 1
        people = pd.DataFrame({"isic_id": [f"ISIC_{row:07d}" for row in range(4000)]})
        folds = people.assign(
            patient_id=[f"IP_{p:07d}" for p in patient], target=target, fold=patient % 3
        )
        signal = {f"measure_{number}": rng.normal(size=4000) + 0.5 * target for number in range(4)}
        noise = {
            name: rng.integers(0, levels, 4000).astype(str)
            for name, levels in zip(ENCODED, (6, 3, 21, 8), strict=True)
        }
        features = people.assign(
            **{name: values.astype(np.float32) for name, values in signal.items()}, **noise
        )
        bare, fitted = (
            fit_stack(features, {}, folds, settings(fitted=k, seeds=1)) for k in ((), ("encoding",))
        )
        lost.append(bare.metrics["auc"] - fitted.metrics["auc"])
        taken.append(np.mean([rate_gain(chain) for chain in fitted.chains.values()]))
    assert abs(np.mean(lost)) < 0.02
    assert np.mean(taken) < 0.35


def test_an_unknown_hospital_and_place_still_get_a_score(stack: Stack, people: Population) -> None:
    strange = people.features.assign(
        attribution="FNQH Cairns", tbp_lv_location="Left Ear", sex=None
    )
    score = stack.score(strange, {}, 0, people.folds[PATIENT])
    assert np.isfinite(score).all()


def test_a_search_switches_kinds_as_the_stage_does(people: Population) -> None:
    data = build_training_data(*people, QUICK.images, QUICK.params.max_bin, fitted=KINDS)
    for kinds in (("encoding",), ("hospital", "kmeans"), ()):
        chosen = settings(fitted=kinds, rounds=20, seeds=1)
        expected = fit_stack(*people, chosen).oof["score"]
        found = pd.Series(TrialEvaluator(data, 1).out_of_fold(chosen))
        assert found.rank().corr(expected.rank()) > 0.999


def test_what_cannot_be_fitted_is_named(people: Population) -> None:
    with pytest.raises(InputError, match=r"stack\.fitted"):
        fit_stack(*people, settings(fitted=["hospitals"]))
    with pytest.raises(InputError, match="family `raw`"):
        fit_stack(people.features.drop(columns="attribution"), {}, people.folds, QUICK)


def test_fitted_columns_speak_of_what_they_measure(stack: Stack, people: Population) -> None:
    columns = stack.columns(people.features, {}, 0, people.folds[PATIENT])
    values = shap_values(
        stack, columns, 0, people.features["isic_id"], people.folds[PATIENT], {}, np.array([0])
    )[0].iloc[0]
    groups = group_shap(stack, values, columns, people.folds[PATIENT], 0)
    assert sum(group.log_odds for group in groups) == pytest.approx(values.sum())
    assert "position on the body" in {group.name for group in groups}
    assert not any("fitted" in str(group) for group in groups)
