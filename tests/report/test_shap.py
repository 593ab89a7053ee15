"""Explanations add up to the score, and their texts are sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import logit

from isic.core.errors import InputError
from isic.core.io import write_parquet
from isic.core.paths import Layout
from isic.report.reasons import explain_score
from isic.report.shap import shap_by_family, shap_values
from isic.report.shap_text import group_shap
from isic.stack import Stack, fit_stack
from isic.stack.inputs import fingerprint, read_inputs
from tests.conftest import ROOT
from tests.stack.population import Population, make, settings


@pytest.fixture(scope="module")
def people() -> Population:
    plain = make()
    return plain._replace(
        features=plain.features.rename(
            columns={"measure_0": "tbp_lv_H", "measure_1": "hue_contrast"}
        )
    )


@pytest.fixture(scope="module")
def stack(people: Population) -> Stack:
    return fit_stack(*people, settings())


@pytest.mark.parametrize("combine", ["late", pytest.param("columns", marks=pytest.mark.slow)])
@pytest.mark.parametrize("member", ["lightgbm", "xgboost", "catboost"])
def test_contributions_add_up_to_the_score(people: Population, member: str, combine: str) -> None:
    small = {"rounds": 20}
    section = settings()
    quick = {name: getattr(section, name).model_dump() | small for name in ("xgboost", "catboost")}
    chosen = settings(members=[member], combine=combine, **quick)
    fitted = fit_stack(*people, chosen, thinned=people.features)
    patients = people.folds["patient_id"]
    keep = np.array([3, 500, 77])
    columns = fitted.columns(people.features, people.logits, 1, patients)
    ids = people.features["isic_id"]
    values, averages = shap_values(fitted, columns, 1, ids, patients, people.logits, keep)
    assert list(values.index) == people.features["isic_id"].iloc[keep].tolist()
    score = fitted.score(people.features, people.logits, 1, patients)[keep]
    np.testing.assert_allclose(values.sum(axis=1) + averages, logit(score), atol=1e-4)
    families = shap_by_family(fitted, values)
    np.testing.assert_allclose(families.sum(axis=1), values.sum(axis=1), atol=1e-9)
    assert "image" in families.columns


@pytest.fixture
def written(people: Population, stack: Stack, tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    recipe = next(iter(params["image"]["backbones"].values()))
    params["image"]["backbones"] = dict.fromkeys(people.logits, recipe)
    layout.params.write_text(yaml.safe_dump(params | {"folds": [0, 1, 2]}), encoding="utf-8")
    write_parquet(layout.features, people.features)
    write_parquet(layout.folds, people.folds)
    for name, values in people.logits.items():
        for fold, part in people.folds.groupby("fold"):
            frame = pd.DataFrame({"isic_id": part["isic_id"], "logit": values[part.index]})
            write_parquet(layout.embedding(name, int(str(fold))), frame)
    stack.save(layout.stack_model)
    write_parquet(layout.oof, stack.oof)
    return layout


def test_a_score_is_explained_in_words(stack: Stack, written: Layout, people: Population) -> None:
    malignant = people.folds.loc[people.folds["target"] == 1, "isic_id"].iloc[0]
    inputs = read_inputs(written.stack_files(people.logits, (0, 1, 2)), False)
    text = explain_score(stack, inputs, stack.oof, malignant)
    assert text.startswith(f"{malignant} of patient")
    for phrase in (
        "Raised by:",
        "Lowered by:",
        "the image",
        "colour of the lesion",
        "odds ×",
        "columns, odds: ",
        "Together:",
    ):
        assert phrase in text
    with pytest.raises(InputError, match="ISIC_9999999"):
        explain_score(stack, inputs, stack.oof, "ISIC_9999999")


def test_groups_add_up_and_compare_the_lesion_with_others(people: Population, stack: Stack) -> None:
    patients = people.folds["patient_id"].to_numpy()
    hue = people.features["tbp_lv_H"].to_numpy()
    row = int(np.flatnonzero(people.folds["target"] == 1)[0])
    columns = stack.columns(people.features, people.logits, 1, patients)
    ids = people.features["isic_id"]
    owners = people.folds["patient_id"]
    values = shap_values(stack, columns, 1, ids, owners, people.logits, np.array([row]))[0].iloc[0]
    groups = group_shap(stack, values, columns, patients, row)
    assert sum(group.log_odds for group in groups) == pytest.approx(values.sum(), abs=1e-9)
    assert [abs(group.log_odds) for group in groups] == sorted(
        (abs(group.log_odds) for group in groups), reverse=True
    )
    (colour,) = (group for group in groups if group.name == "colour of the lesion")
    others = hue[(patients == patients[row]) & (np.arange(len(hue)) != row)]
    below, above = int((others < hue[row]).sum()), int((others > hue[row]).sum())
    side, count = ("above", below) if below >= above else ("below", above)
    text = (
        f"all {len(others)} others of the patient"
        if count == len(others)
        else f"{count} of {len(others)}"
    )
    assert colour.facts[0].endswith(f"and {side} {text}")
    assert f"{hue[row]:.3g}°" in colour.facts[0]


def test_a_study_is_another_when_anything_it_reads_is(written: Layout, people: Population) -> None:
    def named(**changes: str) -> str:
        how = settings().images.model_copy(update=changes)
        return fingerprint(written.stack_files(people.logits, (0, 1, 2)), how)

    vectors = [
        written.embedding(name, fold).with_suffix(".npy")
        for name in people.logits
        for fold in range(3)
    ]
    anchors = [written.anchors(name, fold) for name in people.logits for fold in range(3)]
    for path in (*vectors, *anchors):
        path.write_bytes(b"before")
    before = named(), named(embeddings="full"), named(embeddings="aligned")
    anchors[-1].write_bytes(b"after")
    assert (named(), named(embeddings="full")) == before[:2]
    assert named(embeddings="aligned") != before[2]
    vectors[0].write_bytes(b"after")
    assert named() == before[0]
    assert named(embeddings="full") != before[1]
