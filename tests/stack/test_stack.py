"""The stacker: honest out-of-fold scores, the same from the saved folder, one-line errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from isic.core.errors import InputError
from isic.core.metric import auc, pauc
from isic.stack import Stack, fit, fit_stack
from isic.stack.combination import PRIOR, fit_combination
from isic.stack.fit import fit_training_data, out_of_fold
from isic.stack.training_data import build_training_data, sample_rows, with_groups
from isic.tabular.thinning import thin_patients
from tests.stack.population import Population, make, settings


@pytest.fixture(scope="module")
def people() -> Population:
    return make()


@pytest.fixture(scope="module")
def stack(people: Population) -> Stack:
    return fit_stack(*people, settings())


@pytest.fixture
def saved(stack: Stack, tmp_path: Path) -> Path:
    stack.save(tmp_path / "stack")
    return tmp_path / "stack"


def test_scores_every_lesion_out_of_fold_far_above_chance(stack: Stack, people: Population) -> None:
    names = ["isic_id", "patient_id", "target", "fold", "score", "seed_0", "seed_1"]
    names.append("features_only")
    assert list(stack.oof.columns) == names
    assert (stack.oof["isic_id"] == people.features["isic_id"]).all()
    assert stack.oof["score"].between(0, 1, inclusive="neither").all()
    assert stack.metrics["pauc"] == pauc(stack.oof["target"], stack.oof["score"]) > 0.12
    assert stack.metrics["auc"] == auc(stack.oof["target"], stack.oof["score"])
    assert [fold["fold"] for fold in stack.metrics["folds"]] == [0, 1, 2]


def test_members_of_thinned_features_count_the_more_the_fewer_lesions_a_patient_has(
    people: Population,
) -> None:
    reversed_ = people.features.copy()
    numeric = [name for name in reversed_ if name.startswith("measure_")]
    reversed_[numeric] = -reversed_[numeric]
    ordinary = fit_stack(people.features, {}, people.folds, settings())
    same = fit_stack(people.features, {}, people.folds, settings(), thinned=people.features)
    np.testing.assert_allclose(same.oof["score"], ordinary.oof["score"], atol=1e-12)

    both = fit_stack(people.features, {}, people.folds, settings(), thinned=reversed_)
    target = people.folds["target"]
    held_out = (people.folds["fold"] == 0).to_numpy()
    found = {}
    for size in (1, 10_000):
        patients = np.arange(len(target)) if size == 1 else np.zeros(len(target))
        score = both.score(people.features, {}, 0, patients)
        found[size] = auc(target[held_out], score[held_out])
    assert found[10_000] > 0.6
    assert found[1] < 0.4, "a patient's only lesion is scored by the members of thinned patients"


def test_image_columns_of_thinned_training_compare_within_the_part(people: Population) -> None:
    images = settings().images.model_copy(update={"noise": 0.0})
    data = build_training_data(*people, images, 63, thinned=people.features)
    parts = thin_patients(people.folds)["patient_id"]
    single = (parts.groupby(parts).transform("size") == 1).to_numpy()
    assert single.any()
    thinned = data.pool_of(0, "thinned").columns
    assert (thinned["image_vit_rank"][single] == 0.5).all()
    whole = data.pool_of(0).columns
    for name in ("image_vit_rank", "image_vit_above", "image_vit"):
        np.testing.assert_array_equal(data.columns[name], whole[name])


def test_every_seed_has_noise_of_its_own(people: Population) -> None:
    data = build_training_data(*people, settings().images, 63)
    first, second = (data.pool_of(0, "whole", seed).columns["image_vit"] for seed in (0, 1))
    clean = data.columns["image_vit"]
    assert abs(np.corrcoef(first - clean, second - clean)[0, 1]) < 0.1
    assert np.std(first - clean) == pytest.approx(settings().images.noise, rel=0.1)
    again = build_training_data(*people, settings().images, 63)
    np.testing.assert_array_equal(again.pool_of(0, "whole", 1).columns["image_vit"], second)


@pytest.mark.parametrize("shift", [-7.0, 0.0])
def test_a_network_that_failed_is_named_and_left_out(people: Population, shift: float) -> None:
    rng = np.random.default_rng(3)
    mine = (people.folds["fold"] == 1).to_numpy()
    broken = people.logits["vit"].copy()
    broken[mine] = rng.normal(size=mine.sum()) + shift
    chosen = settings()
    stack = fit_stack(people.features, people.logits | {"vit": broken}, people.folds, chosen)
    assert stack.metrics["failed_networks"] == ["vit of fold 1"]
    other = people.logits | {"vit": np.where(mine, 3 * broken, broken)}
    again = fit_stack(people.features, other, people.folds, chosen)
    np.testing.assert_array_equal(stack.oof["score"], again.oof["score"])
    assert "failed_networks" not in fit_stack(*people, chosen).metrics


def test_combination_is_a_logistic_regression_held_near_its_prior() -> None:
    rng = np.random.default_rng(1)
    target = (rng.random(60_000) < 0.2).astype(np.int64)
    design = rng.normal(size=(60_000, 3)) + np.array([0.4, 1.0, 0.6]) * target[:, None]
    found = fit_combination(target, design)
    # With so many rows the ridge is nothing.
    (free,) = LogisticRegression(C=np.inf).fit(design, target).coef_
    wanted = free / free[:2].sum()
    weights = np.array([found.features, found.columns, found.image])
    np.testing.assert_allclose(weights, wanted, atol=0.01)

    few = fit_combination(target[:40], design[:40])
    near = np.abs(np.array([few.features, few.columns, few.image]) - PRIOR)
    assert (near < np.abs(wanted - PRIOR)).all()
    assert fit_combination(target, design * [1, 1, -1]).image == 0
    assert fit_combination(np.zeros(5, np.int64), design[:5]).columns == PRIOR[1]


def test_saved_folder_reproduces_every_folds_scores_exactly(
    stack: Stack, people: Population, saved: Path
) -> None:
    again = Stack.load(saved)
    assert (again.folds, again.backbones, again.names) == (
        stack.folds,
        stack.backbones,
        stack.names,
    )
    for fold in again.folds:
        score = again.score(people.features, people.logits, fold, people.folds["patient_id"])
        mine = people.folds["fold"] == fold
        np.testing.assert_array_equal(score[mine], stack.oof.loc[mine, "score"])


def test_same_bytes_again_on_any_number_of_cores(
    stack: Stack, people: Population, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fit_stack(*people, settings()).save(tmp_path / "again")
    files = sorted(file.relative_to(saved) for file in saved.rglob("*") if file.is_file())
    assert len(files) > 12
    for file in files:
        assert (saved / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_a_folds_own_labels_never_reach_its_scores(people: Population) -> None:
    mine = people.folds["fold"] == 1
    flipped = people.folds.assign(
        target=people.folds["target"].where(~mine, 1 - people.folds["target"])
    )
    chosen = settings(combine="columns")
    other = fit_stack(people.features, people.logits, flipped, chosen)
    same = fit_stack(*people, chosen)
    for name in ("score", "features_only"):
        np.testing.assert_array_equal(other.oof.loc[mine, name], same.oof.loc[mine, name])


def test_random_labels_score_like_chance(people: Population) -> None:
    rng = np.random.default_rng(8)
    shuffled = people.folds.assign(target=rng.permutation(people.folds["target"]))
    assert fit_stack(people.features, people.logits, shuffled, settings()).metrics["pauc"] < 0.06


def test_each_folds_own_scale_of_logits_does_not_matter(stack: Stack, people: Population) -> None:
    fold = people.folds["fold"].to_numpy()
    moved = {name: values * (1 + fold) + 7 - fold for name, values in people.logits.items()}
    other = fit_stack(people.features, moved, people.folds, settings())
    assert np.corrcoef(other.oof["score"], stack.oof["score"])[0, 1] > 0.995
    images = settings().images.model_dump() | {"scale": "ranked", "noise": 0.0}
    assert fit_stack(*people, settings(images=images)).metrics["pauc"] > 0.12


def test_a_patients_scores_ignore_other_patients_and_row_order(
    stack: Stack, people: Population
) -> None:
    patients = people.folds["patient_id"]
    everyone = stack.score(people.features, people.logits, 0, patients)
    few = np.flatnonzero(patients.isin(patients.unique()[:4]))[::-1]
    alone = stack.score(
        people.features.iloc[few],
        {name: values[few] for name, values in people.logits.items()},
        0,
        patients.iloc[few],
    )
    np.testing.assert_allclose(alone, everyone[few], atol=1e-12)


def test_unknown_site_single_lesion_and_missing_image_have_scores(
    stack: Stack, people: Population
) -> None:
    odd = people.features.iloc[:3].copy()
    odd["site"] = pd.Series(["moon", None, "arm"], dtype="str", index=odd.index)
    logits = {name: np.array([np.nan, 0.1, np.nan], dtype=np.float32) for name in stack.backbones}
    score = stack.score(odd, logits, 2, ["a", "b", "c"])
    assert np.isfinite(score).all()


def test_scores_are_probabilities_at_the_populations_prevalence(people: Population) -> None:
    everyone = fit_stack(*people, settings(negatives=0)).oof["score"].mean()
    sampled = fit_stack(*people, settings(negatives=3)).oof["score"].mean()
    assert everyone == pytest.approx(people.folds["target"].mean(), rel=0.5)
    assert sampled == pytest.approx(everyone, rel=0.5)


def test_works_on_features_alone(people: Population) -> None:
    alone = fit_stack(people.features, {}, people.folds, settings())
    assert alone.backbones == ()
    assert alone.score(people.features, {}, 0, people.folds["patient_id"]).shape == (
        len(people.features),
    )


def test_samples_keep_all_malignant_rows_and_draw_fresh_benign_ones() -> None:
    target = np.repeat([0, 1], [500, 5])
    training = np.arange(505) % 2 == 0
    first, second = (sample_rows(target, training, 10, [seed, 0]) for seed in (0, 1))
    for index in (first, second):
        assert (np.diff(index) > 0).all()
        assert training[index].all()
        assert target[index].sum() == target[training].sum()
        assert (target[index] == 0).sum() == 10 * target[training].sum()
    assert set(first) != set(second)
    assert len(sample_rows(target, training, 0, [0])) == training.sum()


def test_refuses_features_that_leak(people: Population) -> None:
    leaking = people.features.assign(iddx_1=people.folds["target"])
    with pytest.raises(InputError, match="iddx_1"):
        fit_stack(leaking, people.logits, people.folds, settings())


def test_refuses_other_lesions_or_broken_logits(people: Population) -> None:
    with pytest.raises(InputError, match="ISIC_0000899"):
        fit_stack(
            people.features,
            people.logits,
            people.folds.assign(isic_id=lambda f: f["isic_id"].replace("ISIC_0000899", "X")),
            settings(),
        )
    broken = people.logits | {"vit": people.logits["vit"] * np.nan}
    with pytest.raises(InputError, match="vit"):
        fit_stack(people.features, broken, people.folds, settings())


def test_refuses_to_score_what_it_was_not_trained_for(stack: Stack, people: Population) -> None:
    patients = people.folds["patient_id"]
    with pytest.raises(InputError, match="measure_3"):
        stack.score(people.features.drop(columns="measure_3"), people.logits, 0, patients)
    with pytest.raises(InputError, match="backbones"):
        stack.score(people.features, {"vit": people.logits["vit"]}, 0, patients)
    with pytest.raises(InputError, match="no fold 9"):
        stack.score(people.features, people.logits, 9, patients)
    with pytest.raises(InputError, match="numeric"):
        stack.score(people.features.assign(measure_3="a"), people.logits, 0, patients)


def test_refuses_a_folder_that_was_changed(saved: Path) -> None:
    booster = saved / "fold0-lightgbm-0.txt"
    text = booster.read_text()
    booster.write_text(text.replace("measure_0 measure_1", "measure_1 measure_0"))
    with pytest.raises(InputError, match="other columns"):
        Stack.load(saved)
    booster.write_text("")
    with pytest.raises(InputError, match="not a LightGBM model"):
        Stack.load(saved)
    booster.unlink()
    with pytest.raises(InputError, match="missing"):
        Stack.load(saved)
    description = json.loads((saved / "stack.json").read_text())
    (saved / "stack.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        Stack.load(saved)


def test_one_fold_alone_blends_evenly(people: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    # Weights of a fold are fitted on the scores of other folds, and there are none.
    monkeypatch.setattr(
        fit, "find_weights", lambda *_: pytest.fail("weights found on rows that nobody scored")
    )
    quick = {name: getattr(settings(), name).model_dump() | {"rounds": 10} for name in ("xgboost",)}
    weighted = settings(members=["lightgbm", "xgboost"], blend="weights", seeds=1, **quick)
    data = build_training_data(*people, weighted.images, weighted.params.max_bin)
    alone = replace(data, images={1: data.images[1]})
    even = out_of_fold(alone, weighted.model_copy(update={"blend": "rank"}))[0].log_odds
    np.testing.assert_array_equal(out_of_fold(alone, weighted)[0].log_odds, even)
    assert np.isnan(even[data.fold != 1]).all()


def test_a_group_that_nobody_has_seen_keeps_its_own_level_of_logits(people: Population) -> None:
    """A hospital with higher logits keeps them: standardised by itself it would look ordinary."""
    how = settings(seeds=1)
    patient = people.folds["patient_id"].str[-2:].astype(int).to_numpy()
    group = (patient % 2).astype(np.int64)
    shifted = {name: values + 6.0 * (group == 0) for name, values in people.logits.items()}
    scores = []
    for logits in (people.logits, shifted):
        data = build_training_data(
            people.features, logits, people.folds, how.images, how.params.max_bin
        )
        oof = fit_training_data(with_groups(data, group, people.features, ()), how).oof
        assert oof["fold"].tolist() == group.tolist()
        scores.append(oof["score"].to_numpy())
    assert np.median(scores[1][group == 0]) > 1.5 * np.median(scores[0][group == 0])


def test_ordinary_folds_as_groups_are_the_ordinary_stacker(
    people: Population, stack: Stack
) -> None:
    how = settings()
    data = build_training_data(*people, how.images, how.params.max_bin)
    again = fit_training_data(with_groups(data, data.fold, people.features, ()), how).oof
    pd.testing.assert_frame_equal(again, stack.oof)
