"""A version's page in MLflow: numbers, parameters, data and links of the runs that made it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from isic.core.io import read_json, write_json
from isic.core.params import Params
from isic.core.paths import Layout
from isic.registry.register import register, register_backbones
from isic.registry.versions import Registry
from isic.tracking import parent, pipe
from isic.tracking.oof import log_oof, log_scores
from isic.tracking.store import EXPERIMENT, REGISTRY_EXPERIMENT
from pipelines.register import bundle_of

MODEL = "isic-2024"
CARD = "# Model card\n\nNot a medical device."


def log_work(layout: Layout, params: Params) -> None:
    """Runs of the networks and the stacker, as the stages log them."""
    for index, backbone in enumerate(params.image.backbones):
        models = layout.image_models([backbone], params.folds)[backbone]
        scores: dict[int | None, dict[str, float]] = {
            fold: {"pauc": 0.10 + 0.01 * fold, "auc": 0.8} for fold in params.folds
        }
        scores[None] = {"pauc": 0.11 + index / 100, "pauc_low": 0.09, "pauc_high": 0.13}
        oof = layout.embedding(backbone, 0).parent
        log_scores(backbone, params.image_config(backbone), models, oof, scores, layout.root)
    with parent("stack", params.stack_config(), root=layout.root) as run:
        log_oof(run, layout.train_metadata, layout.oof, layout.stack_model)
        run.metrics({"pauc": 0.15})


@pytest.fixture
def client(
    layout: Layout, params: Params, store: Path, monkeypatch: pytest.MonkeyPatch
) -> MlflowClient:
    monkeypatch.setattr(pipe, "_PATIENCE", 240.0)
    shutil.copy(store, layout.root / "mlflow.db")
    metrics = read_json(layout.evaluate_metrics)
    counts = {"pauc_low": 0.09, "pauc_high": 0.19, "n": 600, "patients": 60, "positives": 24}
    write_json(layout.evaluate_metrics, metrics | counts)
    return Registry(layout.root).client


def test_the_source_run_carries_numbers_parameters_data_and_networks(
    layout: Layout, params: Params, client: MlflowClient
) -> None:
    log_work(layout, params)
    bundle = bundle_of(layout, params)
    made = register(layout.root, bundle, MODEL, CARD).version
    networks = register_backbones(layout.root, bundle, made)

    version = client.get_model_version(MODEL, "1")
    run = client.get_run(version.run_id)
    assert run.data.tags["family"] == "stack"
    assert run.data.tags["version"] == f"{MODEL}/1"
    assert run.data.metrics["pauc"] == 0.15
    assert run.data.params["stack.rounds"] == "20"
    assert {item.dataset.name for item in run.inputs.dataset_inputs} == {
        "data/raw/train-metadata.csv",
        "data/oof/stack.parquet",
    }
    folds = [client.get_logged_model(item.model_id) for item in run.inputs.model_inputs]
    assert sorted(model.name for model in folds) == [
        "convnext-0",
        "convnext-1",
        "vit-0",
        "vit-1",
    ]
    ranked = client.search_logged_models(
        [run.info.experiment_id],
        "metrics.pauc > 0.105",
        order_by=[{"field_name": "metrics.pauc", "ascending": False}],
    )
    assert "vit-0" not in [model.name for model in ranked]
    assert {"vit-1", "convnext-1"} < {model.name for model in ranked}

    (bundled,) = [client.get_logged_model(item.model_id) for item in run.outputs.model_outputs]
    assert {metric.key: metric.value for metric in bundled.metrics}["pauc"] == 0.15
    (scored,) = [m for m in client.get_logged_model(folds[0].model_id).metrics if m.key == "pauc"]
    assert scored.dataset_name.startswith("data/embeddings/")
    assert bundled.params["stack.rounds"] == "20"
    assert len(client.get_metric_history(version.run_id, "pauc")) == 1

    score, data, gate, runs = version.description.split("\n\n")[:4]
    assert score.startswith(
        f"**pAUC {bundle.manifest.metrics['pauc']:.4f}** (95 % over patients 0.0900"
    )
    assert data.startswith("**Data** data `")
    assert data.endswith("600 lesions of 60 patients, 24 malignant")
    assert gate == "**Gate** not judged yet"
    assert f"/runs/{version.run_id})" in runs
    assert "train_image-vit" in runs
    assert version.description.endswith(CARD)

    for image in networks:
        stored = client.get_model_version(image.name, str(image.number))
        parent_run = client.get_run(stored.run_id)
        assert parent_run.data.tags["role"] == "parent"
        assert parent_run.data.tags["run.stack"] == version.run_id
        assert stored.description.startswith(f"**pAUC {parent_run.data.metrics['pauc']:.4f}**")
        assert float(stored.tags["pauc"]) == parent_run.data.metrics["pauc"]
        assert client.get_model_version_by_alias(image.name, "challenger").version == stored.version
        assert client.get_model_version(MODEL, "1").tags[image.name] == str(image.number)

    checks = client.get_experiment_by_name(REGISTRY_EXPERIMENT)
    assert len(client.search_runs([checks.experiment_id])) == 1 + len(networks)


def test_a_bundle_whose_runs_are_gone_gets_one_with_its_numbers(
    layout: Layout, params: Params, client: MlflowClient
) -> None:
    bundle = bundle_of(layout, params)
    register(layout.root, bundle, MODEL)
    register_backbones(layout.root, bundle)
    version = client.get_model_version(MODEL, "1")
    run = client.get_run(version.run_id)
    assert run.data.metrics["pauc"] == bundle.manifest.metrics["pauc"]
    assert run.data.params["stack.rounds"] == "20"
    work = client.get_experiment_by_name(EXPERIMENT)
    assert len(client.search_runs([work.experiment_id])) == 1, "the networks have no run to show"
