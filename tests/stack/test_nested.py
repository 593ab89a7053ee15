"""Leaks are named, honest columns are not, and the nested check sees through a stack that flatters itself."""

from __future__ import annotations

import numpy as np
import pytest

from isic.core.errors import InputError
from isic.stack.nested import find_leaks, nested_check, refuse_leaks
from isic.stack.problem import prepare
from tests.stack.population import Population, make, settings


@pytest.fixture(scope="module")
def people() -> Population:
    return make(lesions=2400, positives=90, patients=60)


def leaks(people: Population) -> list[tuple[str, int | None]]:
    problem = prepare(*people, settings().evidence, settings().params.max_bin)
    return [(leak.column, leak.fold) for leak in find_leaks(problem.columns, problem.target, problem.fold)]


def test_honest_columns_pass(people: Population) -> None:
    assert leaks(people) == []


def test_a_copy_of_the_target_is_named(people: Population) -> None:
    target = people.folds["target"].to_numpy()
    noise = np.random.default_rng(0).normal(size=len(target))
    planted = people._replace(features=people.features.assign(helpful=(4 * target + noise).astype(np.float32)))
    assert leaks(planted)[0] == ("helpful", None)


def test_a_feature_made_from_the_held_out_folds_target_is_named_and_refused(people: Population) -> None:
    target, fold = people.folds["target"].to_numpy(), people.folds["fold"].to_numpy()
    noise = np.random.default_rng(0).normal(size=len(target))
    planted = people._replace(
        features=people.features.assign(helpful=(2.5 * target * (fold == 1) + noise).astype(np.float32))
    )
    assert leaks(planted) == [("helpful", fold_number) for fold_number in (1,)] or ("helpful", 1) in leaks(planted)
    problem = prepare(*planted, settings().evidence, settings().params.max_bin)
    with pytest.raises(InputError, match="helpful leaks the target"):
        refuse_leaks(problem.columns, problem.target, problem.fold)


def test_random_labels_give_chance_in_both_ways(people: Population) -> None:
    shuffled = people.folds.assign(target=np.random.default_rng(1).permutation(people.folds["target"]))
    honesty = nested_check(people.features, shuffled, settings(), replicates=50)
    assert honesty.shared < 0.05
    assert honesty.nested < 0.05


def test_shared_folds_flatter_honest_columns_little(people: Population) -> None:
    honesty = nested_check(people.features, people.folds, settings(), replicates=100)
    assert honesty.nested > 0.05
    assert honesty.flattery.low <= honesty.flattery.value <= honesty.flattery.high
    assert abs(honesty.flattery.value) < 0.02
    assert set(honesty.to_json()) == {"shared", "nested", "flattery", "proxy"}
