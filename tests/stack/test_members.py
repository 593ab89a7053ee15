"""Every library and embedding mode: exact reload, honest out-of-fold scores, determinism."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from isic.core.errors import InputError
from isic.core.metric import pauc
from isic.stack import Stack, fit_stack
from isic.stack.blend import find_weights, make_reference, rank
from isic.stack.encoder import Columns, rows
from isic.stack.members import EarlyStopping, MemberTask, library, lightgbm_
from isic.stack.members.base import Pool
from isic.stack.training_data import build_training_data
from tests.stack.population import Population, make, settings

MODES = ("aligned", "full")


@pytest.fixture(scope="module")
def people() -> Population:
    return make()


class Seen(NamedTuple):
    """One latent picture of each lesion, embedded by every fold's model in its own space; anchors
    likewise.
    """

    embeddings: dict[str, np.ndarray]
    anchors: dict[str, dict[int, np.ndarray]]


def vectors(people: Population, seed: int = 0) -> Seen:
    rng = np.random.default_rng(seed)
    target, fold = people.folds["target"].to_numpy(), people.folds["fold"].to_numpy()
    latent, apart = rng.normal(size=(len(target), 12)), 3 + 2 * rng.normal(size=(200, 12))
    latent[:, 0] += 3 * target
    loud = 2.0 ** -np.arange(12)  # parts differ in scale, so that the main directions are the parts
    seen = Seen({}, {})
    for name in people.logits:
        spaces = [np.linalg.qr(rng.normal(size=(12, 12)))[0] for _ in range(3)]
        rows = [row @ spaces[number] for row, number in zip(latent * loud, fold, strict=True)]
        seen.embeddings[name] = np.stack(rows).astype(np.float16)
        seen.anchors[name] = {
            number: (apart * loud @ spaces[number]).astype(np.float16) for number in range(3)
        }
    return seen


def quick(**changes: object) -> dict[str, object]:
    section = settings()
    fast = {
        name: getattr(section, name).model_dump() | {"rounds": 30}
        for name in ("xgboost", "catboost")
    }
    return fast | changes


@pytest.mark.parametrize(
    "members", [["xgboost"], ["catboost"], ["lightgbm", "xgboost", "catboost"]]
)
@pytest.mark.parametrize("blend", ["rank", "weights"])
def test_members_are_honest_exact_and_repeatable(
    people: Population, tmp_path: Path, members: list[str], blend: str
) -> None:
    # The weights of `late` are fitted like those of `weights`.
    chosen = settings(**quick(members=members, blend=blend, combine="columns"))
    stack = fit_stack(*people, chosen)
    assert stack.metrics["pauc"] > 0.11
    stack.save(tmp_path / "one")
    again = Stack.load(tmp_path / "one")
    for fold in again.folds:
        score = again.score(people.features, people.logits, fold, people.folds["patient_id"])
        mine = people.folds["fold"] == fold
        np.testing.assert_allclose(score[mine], stack.oof.loc[mine, "score"], rtol=0, atol=1e-12)
    assert fit_stack(*people, chosen).oof.equals(stack.oof)
    if len(members) > 1 and blend == "weights":
        # Ten-step weights are fitted on other folds' scores, by members trained on this fold.
        return
    mine = people.folds["fold"] == 1
    flipped = people.folds.assign(
        target=people.folds["target"].where(~mine, 1 - people.folds["target"])
    )
    other = fit_stack(people.features, people.logits, flipped, chosen)
    np.testing.assert_array_equal(other.oof.loc[mine, "score"], stack.oof.loc[mine, "score"])


@pytest.mark.parametrize(
    "member",
    ["lightgbm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("xgboost", "catboost"))],
)
def test_members_of_every_part_reload_exactly(
    people: Population, tmp_path: Path, member: str
) -> None:
    halved = people.features.assign(measure_0=people.features["measure_0"] / 2)
    stack = fit_stack(*people, settings(**quick(members=[member])), thinned=halved)
    assert "measure_0" not in stack.lesion_names
    assert "measure_1" in stack.lesion_names
    stack.save(tmp_path / "stack")
    again, mine = Stack.load(tmp_path / "stack"), people.folds["fold"] == 2
    score = again.score(people.features, people.logits, 2, people.folds["patient_id"])
    np.testing.assert_allclose(score[mine], stack.oof.loc[mine, "score"], rtol=0, atol=1e-12)


def test_weights_report_their_optimism(people: Population) -> None:
    chosen = settings(**quick(members=["lightgbm", "xgboost"], blend="weights"))
    stack = fit_stack(*people, chosen)
    assert 0 <= stack.metrics["blend_optimism"] < 0.02
    for chain in stack.chains.values():
        assert sum(chain.blend.weights.values()) == pytest.approx(1)


def test_weights_prefer_the_library_that_knows_more() -> None:
    rng = np.random.default_rng(0)
    target = (rng.random(2000) < 0.1).astype(np.int64)
    found = find_weights(
        target, {"good": rng.random(2000) + 0.6 * target, "noise": rng.random(2000)}
    )
    assert found["good"] >= 0.8
    assert find_weights(target, {"a": target * 1.0, "b": target * 1.0}) == {"a": 0.5, "b": 0.5}


def test_ranks_keep_order_beyond_the_reference() -> None:
    values = np.random.default_rng(0).normal(size=500)
    reference = make_reference(values)
    beyond = np.array([-9.0, -8.0, -0.1, 0.1, 8.0, 9.0])
    assert (np.diff(rank(beyond, reference)) > 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_embedding_modes_reload_exactly_and_are_asked_for(
    people: Population, tmp_path: Path, mode: str
) -> None:
    images = settings().images.model_dump() | {"embeddings": mode, "components": 12}
    seen = vectors(people)
    stack = fit_stack(*people, settings(images=images), *seen)
    stack.save(tmp_path / mode)
    again = Stack.load(tmp_path / mode)
    assert again.uses_embeddings
    mine = people.folds["fold"] == 2
    score = again.score(
        people.features, people.logits, 2, people.folds["patient_id"], seen.embeddings
    )
    np.testing.assert_allclose(score[mine], stack.oof.loc[mine, "score"], rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="embeddings"):
        again.score(people.features, people.logits, 2, people.folds["patient_id"])
    with pytest.raises(InputError, match="embeddings"):
        fit_stack(*people, settings(images=images))


@pytest.mark.parametrize("mode", ["none", *MODES])
def test_rows_without_any_image_are_scored_without_embeddings(
    people: Population, mode: str
) -> None:
    images = settings().images.model_dump() | {"embeddings": mode, "components": 12}
    seen = vectors(people) if mode != "none" else Seen({}, {})
    stack = fit_stack(*people, settings(images=images, rounds=10), *seen)
    few = people.features.head(5), people.folds["patient_id"].head(5)
    logits = {name: np.full(5, np.nan, np.float32) for name in people.logits}
    blank = {
        name: np.full((5, values.shape[1]), np.nan, np.float16)
        for name, values in seen.embeddings.items()
    }
    score = stack.score(few[0], logits, 1, few[1])
    assert np.isfinite(score).all()
    np.testing.assert_array_equal(score, stack.score(few[0], logits, 1, few[1], blank))
    if mode != "none":
        one = logits | {"vit": np.array([0.1, *[np.nan] * 4], np.float32)}
        with pytest.raises(InputError, match="embeddings are of backbones"):
            stack.score(few[0], one, 1, few[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_embeddings_and_anchors_that_are_not_finite_are_counted(
    people: Population, mode: str, value: float
) -> None:
    images = settings().images.model_copy(update={"embeddings": mode, "components": 5})
    seen = vectors(people)
    seen.embeddings["convnext"][[3, 8], 2] = value
    seen.embeddings["convnext"][8, 5] = -value
    with pytest.raises(InputError, match=r"^2 embeddings of convnext are NaN or infinite: rerun"):
        build_training_data(*people, images, 63, *seen)
    if mode == "aligned":
        embeddings, anchors = vectors(people)
        anchors["vit"][1][7, 0] = value
        with pytest.raises(InputError, match=r"^1 anchors of vit are NaN"):
            build_training_data(*people, images, 63, embeddings, anchors)


def test_aligned_spaces_are_one_space(people: Population) -> None:
    images = settings().images.model_copy(update={"embeddings": "aligned", "components": 5})
    seen = vectors(people)
    data = build_training_data(*people, images, 63, *seen)
    # The anchors are unlike the population; after alignment each network's embeddings of them
    # agree.
    for name, views in seen.anchors.items():
        placed = [data.images[fold].spaces[name].project(views[fold]) for fold in range(3)]
        for other in placed[1:]:
            moved = other - other.mean(axis=0) - placed[0] + placed[0].mean(axis=0)
            assert np.abs(moved).mean() < 0.15 * np.abs(placed[0] - placed[0].mean(axis=0)).mean()
    with pytest.raises(InputError, match="no anchors of vit"):
        build_training_data(*people, images, 63, seen.embeddings)


def test_aligned_spaces_share_what_raw_ones_do_not(people: Population) -> None:
    blank = {name: np.zeros_like(values) for name, values in people.logits.items()}
    quiet = people.features[["isic_id", "measure_7"]]
    scores = {}
    for mode in ("aligned", "full"):
        images = settings().images.model_dump() | {"embeddings": mode, "components": 12}
        fitted = fit_stack(quiet, blank, people.folds, settings(images=images), *vectors(people))
        scores[mode] = fitted.metrics["auc"]
    assert scores["aligned"] > 0.9
    assert scores["aligned"] > scores["full"] + 0.05


@pytest.mark.parametrize("member", ["lightgbm", "xgboost", "catboost"])
def test_early_stopping_keeps_the_trees_that_were_best_on_rows_kept_out(
    people: Population, member: str
) -> None:
    data = build_training_data(*people, settings().images, settings().params.max_bin)
    chosen = settings(**quick()).library(member)
    train, watched = np.flatnonzero(data.fold == 0), np.flatnonzero(data.fold == 1)
    home, seen = library(member), data.target[watched]

    def score(model: object) -> float:
        return pauc(seen, home.log_odds(model, rows(data.pool_of(0).columns, watched)))

    fixed = [
        home.train(MemberTask(data.pool_of(0), train, chosen["params"], number, 0))
        for number in range(1, 31)
    ]
    alone = [score(model) for model in fixed]
    model = home.train(
        MemberTask(
            data.pool_of(0), train, chosen["params"], 30, 0, EarlyStopping(watched, seen, 30)
        )
    )
    assert score(model) == pytest.approx(max(alone), abs=1e-9)
    hasty = home.train(
        MemberTask(data.pool_of(0), train, chosen["params"], 30, 0, EarlyStopping(watched, seen, 1))
    )
    first_fall = next(
        place for place, (before, after) in enumerate(pairwise(alone)) if after <= before
    )
    assert score(hasty) == pytest.approx(alone[first_fall], abs=1e-9)


def test_early_stopping_reads_nothing_of_the_scored_fold(people: Population) -> None:
    chosen = settings(early_stop=5, negatives=5, combine="columns")
    stack = fit_stack(*people, chosen)
    mine = people.folds["fold"] == 1
    flipped = people.folds.assign(
        target=people.folds["target"].where(~mine, 1 - people.folds["target"])
    )
    other = fit_stack(people.features, people.logits, flipped, chosen)
    np.testing.assert_array_equal(other.oof.loc[mine, "score"], stack.oof.loc[mine, "score"])
    two = people.folds.assign(fold=people.folds["fold"] % 2)
    with pytest.raises(InputError, match="early_stop"):
        fit_stack(people.features, people.logits, two, chosen)


def test_tables_of_sparse_columns_are_combined_and_scored() -> None:
    # z-scores of patients with few lesions are mostly 0. LightGBM would put such columns into one
    # group of each table, and two groups into another order than in the table of the rows to score.
    rng, count = np.random.default_rng(3), 600

    def draw() -> Columns:
        sparse = np.where(rng.random((35, count)) < 0.2, rng.normal(size=(35, count)), 0)
        values = np.vstack([sparse[:34], rng.normal(size=(109, count)), sparse[34:]])
        return {f"c{index}": column for index, column in enumerate(values.astype(np.float32))}

    train, held_out = draw(), draw()
    target = (train["c40"] + train["c0"] + rng.normal(0, 0.2, count) > 0.3).astype(np.int64)
    pool = Pool(train, target, 127, [list(train)[:33], list(train)[33:]])
    tables = lightgbm_.binned(pool)
    scored = [
        lightgbm_.bin_columns({name: held_out[name] for name in names}, pool, table)
        for names, table in zip(pool.groups, tables, strict=True)
    ]
    index, params = np.arange(count), {"num_leaves": 7, "min_data_in_leaf": 5}
    margins = lightgbm_.train_and_score(
        lightgbm_.compose(tables, index),
        lightgbm_.compose(scored, index),
        params,
        20,
        0,
        threading.Event(),
    )
    booster = lightgbm_.train(lightgbm_.compose(tables, index), params, 20, 0)
    raw = np.column_stack(list(held_out.values())).astype(np.float64)
    np.testing.assert_allclose(margins, booster.predict(raw, raw_score=True), atol=1e-9)
