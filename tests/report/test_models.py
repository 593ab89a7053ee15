"""Parts with networks and a stacker: maps, image noise, reasons, a lesion's page, the robustness
stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from isic.core.errors import InputError
from isic.core.io import read_json, read_parquet, write_json, write_parquet
from isic.core.params import Params, load_params
from isic.core.paths import Layout
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.image.cam import activation_maps, class_activation
from isic.image.network.artifact import save_model
from isic.image.network.backbone import create
from isic.image.network.catalogue import resolve
from isic.report.build import build_report
from isic.report.failures import Reasons
from isic.report.lesion_page import write_lesion_page
from isic.report.lesions import overview
from isic.report.maps import lesion_maps
from isic.report.reasons import score_reasons
from isic.robustness.conditions import _hospitals
from isic.stack import Stack
from isic.stack.inputs import read_inputs
from isic.tabular import build_features
from isic.tabular.thinning import thin_patients
from pipelines.robustness import conditions_of
from tests.registry.conftest import fit_stacker

from .conftest import FOLDS, HOSPITALS, make_run, results_of
from .test_page import judge

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def params() -> Params:
    given = load_params(ROOT / "params.yaml")
    quick = given.stack.model_copy(update={"rounds": 20, "seeds": 1})
    evaluate = given.evaluate.model_copy(update={"replicates": 20})
    return given.model_copy(update={"stack": quick, "evaluate": evaluate})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Layout:
    """A run with real, untrained networks and a real stacker."""
    layout = make_run(tmp_path_factory.mktemp("whole"), lesions=600, patients=30, positives=36)
    torch.manual_seed(0)
    for name, backbone in params.image.backbones.items():
        model, args = resolve(backbone["model"], {})
        net, spec = create(model, args, 64, "none")
        for fold in params.folds:
            save_model(
                layout.image_model(name, fold),
                net,
                spec,
                {"tta": "none"},
                [{"epoch": 1, "pauc": 0.03}],
            )
    rows = read_metadata(layout.train_metadata, train=True)
    write_parquet(layout.features, build_features(rows, ["raw"]))
    write_parquet(layout.thinned, build_features(thin_patients(rows), ["raw"]))
    fit_stacker(layout, params)
    return layout


def reasons_of(layout: Layout, params: Params) -> Callable[[Sequence[str]], Reasons]:
    stack = Stack.load(layout.stack_model)
    return score_reasons(
        stack, read_inputs(layout.stack_files(stack.backbones, params.folds), stack.uses_embeddings)
    )


@pytest.mark.parametrize("model", ["demo_vit", "demo_convnext", "test_efficientnet"])
def test_a_map_shows_where_the_logit_comes_from(model: str) -> None:
    """A network reading one quarter of the tile only: the map must be hotter there."""
    torch.manual_seed(1)
    name, args = resolve(model, {})
    net, spec = create(name, args, 64 if model.startswith("demo") else None, "none")
    heat = activation_maps(net.eval(), spec, torch.randn(2, 3, spec.size, spec.size))
    assert heat.shape == (2, spec.size, spec.size)
    assert 0 <= heat.min() < heat.max() <= 1


def test_maps_come_from_the_network_that_never_saw_the_lesion(
    whole: Layout, params: Params
) -> None:
    lesions = overview(results_of(whole))
    ids = list(lesions["isic_id"].iloc[:3])
    maps, notes = lesion_maps(
        whole.image_models(params.image.backbones, params.folds),
        lesions,
        TileStore(whole.train_images),
        ids,
    )
    assert [picture["title"].split(":")[0] for picture in maps(ids[0])] == list(
        params.image.backbones
    )
    assert maps("ISIC_unknown") == []
    assert "No network was trained on the patient" in notes[0]
    own = class_activation(
        whole.image_model("vit", int(lesions["fold"].iloc[0])),
        TileStore(whole.train_images),
        ids[:1],
    )
    picture = cv2.imdecode(np.frombuffer(own[ids[0]].jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (160, 160, 3)


def test_absent_models_and_tiles_are_said(run_dir: Layout) -> None:
    lesions = overview(results_of(run_dir))
    ids = list(lesions["isic_id"].iloc[:4])
    models = run_dir.image_models(["vit"], FOLDS)
    assert "no images" in lesion_maps(models, lesions, None, ids)[1][0]
    maps, notes = lesion_maps(models, lesions, TileStore(run_dir.train_images), ids)
    assert maps(ids[0]) == []
    assert "the model is missing" in notes[0]


@pytest.fixture(scope="module")
def found(whole: Layout, params: Params) -> dict[str, Any]:
    """Results of the stage robustness for `whole`."""
    quick = params.model_copy(
        update={"features": params.features.model_copy(update={"families": ("raw",)})}
    )
    return conditions_of(whole, quick, results_of(whole, params.image.backbones))


def test_robustness_holds_every_part(found: dict[str, Any]) -> None:
    assert len(found["hospitals"]["records"]) == 4
    assert len(found["columns"]["records"]) == 13
    assert len(found["images"]["records"]) == 2 * 4
    assert found["sameness"]["test_absent"] == "there are no test rows here"
    assert "optimism of shared folds" in found["nested"]["text"]


def test_the_page_tells_what_robustness_found_or_why_not(
    whole: Layout, params: Params, found: dict[str, Any]
) -> None:
    results = judge(whole)
    values = params.model_dump(mode="json", by_alias=True)
    reasons = reasons_of(whole, params)
    says = {"nested": "of something", "absent": "three folds or more are needed"}
    for nested in ({**found["nested"], "text": says["nested"]}, {"absent": says["absent"]}):
        hospitals = {**found["hospitals"], "refit_both": bool(nested["absent"])}
        write_json(
            whole.root / "metrics" / "robustness.json",
            {**found, "hospitals": hospitals, "nested": nested},
        )
        build_report(
            whole.report,
            results,
            whole.report_files(params.image.backbones, FOLDS),
            values,
            {},
            reasons,
        )
        html = whole.report.read_text(encoding="utf-8")
        head = html[html.index("Nested check") : html.index('id="champion"')]
        assert says["absent" if nested["absent"] else "nested"] in head
        assert ("both without embeddings" in html) is hospitals["refit_both"]
    part = html[html.index('id="robustness"') : html.index('id="patients"')]
    for title in (
        "An unseen hospital",
        "Missing measurements",
        "Degraded tiles",
        "Distribution shift",
    ):
        assert title in part
    assert "odds" in html[html.index('id="failures"') : html.index('id="cards"')]


@pytest.mark.parametrize(("embeddings", "refits"), [("none", 1), ("aligned", 2)])
def test_an_unseen_hospital_is_not_charged_with_the_lack_of_embeddings(
    whole: Layout, params: Params, monkeypatch: pytest.MonkeyPatch, embeddings: str, refits: int
) -> None:
    results, fitted = results_of(whole, params.image.backbones), []

    def refit(folds: pd.DataFrame) -> np.ndarray:
        fitted.append(folds)
        return np.zeros(len(folds))

    found = _hospitals(results, refit, params.evaluate, embeddings != "none")
    pooled = found["records"][0]
    assert len(fitted) == refits
    assert found["refit_both"] is (refits == 2)
    assert (pooled["change"] == 0) is (refits == 2)


def test_one_lesion_has_a_page_with_maps_and_reasons(whole: Layout, params: Params) -> None:
    isic_id = read_parquet(whole.oof)["isic_id"].iloc[5]
    results, models = (
        results_of(whole, params.image.backbones),
        whole.image_models(params.image.backbones, FOLDS),
    )
    out, reasons = whole.report.with_name("lesion.html"), reasons_of(whole, params)
    write_lesion_page(out, results, isic_id, whole.train_images, models, reasons)
    html = out.read_text(encoding="utf-8")
    assert isic_id in html
    assert html.count("Grad-CAM of ") >= 2
    assert "odds × " in html
    assert 'class="here"' in html
    assert "this one" in html
    with pytest.raises(InputError, match="ISIC_nowhere"):
        write_lesion_page(out, results, "ISIC_nowhere", whole.train_images, models, reasons)


def test_the_stage_writes_its_file(
    whole: Layout, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from pipelines import robustness

    shutil.copy(ROOT / "params.yaml", whole.params)
    monkeypatch.chdir(whole.root)
    monkeypatch.setattr(robustness, "load_params", lambda path: params)
    monkeypatch.setattr(
        robustness,
        "conditions",
        lambda *_, **__: {"hospitals": {"records": []}, "sameness": {"test": []}},
    )
    robustness.main()
    assert read_json(whole.root / "metrics" / "robustness.json")["sameness"] == {"test": []}


def test_two_hospitals_and_early_stopping_leave_the_other_parts_whole(
    whole: Layout, params: Params
) -> None:
    features = params.features.model_copy(update={"families": ("raw",)})
    stack = params.stack.model_copy(update={"early_stop": 5})
    results = results_of(whole, params.image.backbones)
    rows = results.rows.replace({"attribution": {HOSPITALS[2]: HOSPITALS[1]}})
    quick = params.model_copy(update={"features": features, "stack": stack})
    found = conditions_of(whole, quick, replace(results, rows=rows))
    assert "three `folds` or more" in found["hospitals"]["absent"]
    assert found["columns"]["records"]
