"""The nested check: chance for random labels, little flattery for honest columns, and words for the report."""

from __future__ import annotations

import numpy as np
import pytest

from isic.stack.nested import nested_check
from tests.stack.population import Population, make, settings


@pytest.fixture(scope="module")
def people() -> Population:
    return make(lesions=2400, positives=90, patients=60)


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
