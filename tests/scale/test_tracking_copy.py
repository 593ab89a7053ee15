"""Copying a store: the copy is compared with the source through MLflow's client."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from isic.core.errors import InputError
from isic.tracking.copy import ORIGIN, Copied, copy
from isic.tracking.store import connect

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

POINTS = 1200  # more than MLflow accepts in one request


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty: Path) -> str:
    """A store with a parent and its fold, a logged model, versions 1 and 3 of a model, and aliases.
    Read only.
    """
    from mlflow.entities import (
        Dataset,
        DatasetInput,
        InputTag,
        LoggedModelInput,
        LoggedModelOutput,
        Metric,
        Param,
        RunTag,
    )

    root = tmp_path_factory.mktemp("source")
    uri = f"sqlite:///{shutil.copy(empty, root / 'mlflow.db')}"
    client = connect(root, uri)
    experiment = client.create_experiment(
        "isic-2024", (root / "mlartifacts" / "isic-2024").as_uri()
    )
    parent = client.create_run(experiment, 1000, {"family": "train_image"}, "parent").info.run_id
    child = client.create_run(
        experiment, 2000, {"mlflow.parentRunId": parent, "fold": "0"}, "fold0"
    ).info.run_id
    points = [Metric("loss", 1 / (step + 1), 3000 + step, step) for step in range(POINTS)]
    client.log_batch(child, points[:1000], [Param("lr", "0.1")], [RunTag("git_commit", "abc")])
    client.log_batch(child, [*points[1000:], Metric("pauc", float("nan"), 9000, 0)])
    note = root / "note.txt"
    note.write_text("café")
    client.log_artifact(child, str(note), "notes/deep")
    client.log_artifact(child, str(note), "image/vit")
    client.set_terminated(child, "FAILED", 12_345)
    client.set_terminated(parent, "FINISHED", 23_456)

    model = client.create_logged_model(
        experiment, "bundle", child, {"kind": "pyfunc"}, {"folds": "3"}, "stack"
    )
    files = root / "files"
    (files / "artifacts").mkdir(parents=True)
    (files / "MLmodel").write_text(f"model_id: {model.model_id}\nrun_id: {child}\n")
    (files / "artifacts" / "weights.bin").write_bytes(bytes(range(256)))
    client.log_model_artifacts(model.model_id, str(files))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(child, [LoggedModelOutput(model.model_id, 0)])
    client.log_batch(child, [Metric("loss", 1.0, 3000, 0, model.model_id)])
    data = Dataset("data/raw", "0123.dir", "local", '{"uri": "data/raw"}')
    client.log_inputs(child, [DatasetInput(data, [InputTag("mlflow.data.context", "train")])])
    client.log_inputs(parent, models=[LoggedModelInput(model.model_id)])
    import mlflow

    mlflow.set_tracking_uri(uri)
    client.create_registered_model("isic-2024", {"owner": "team"}, "scores")
    for _ in range(3):
        client.create_model_version(
            "isic-2024", f"models:/{model.model_id}", child, tags={"pauc": "0.15"}
        )
    client.delete_model_version("isic-2024", "2")
    client.set_registered_model_alias("isic-2024", "champion", "1")
    client.set_registered_model_alias("isic-2024", "challenger", "3")
    client.create_registered_model("isic-image-vit")
    source = f"{client.get_run(child).info.artifact_uri}/image/vit"
    client.create_model_version("isic-image-vit", source, child)
    return uri


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh, migrated MLflow database: making one takes seconds."""
    folder = tmp_path_factory.mktemp("empty")
    connect(folder, f"sqlite:///{folder / 'mlflow.db'}")
    return folder / "mlflow.db"


@pytest.fixture
def target(tmp_path: Path, empty: Path) -> Iterator[str]:
    import mlflow

    before = mlflow.get_tracking_uri()
    (tmp_path / "there").mkdir()
    shutil.copy(empty, tmp_path / "there" / "mlflow.db")
    yield f"sqlite:///{tmp_path / 'there' / 'mlflow.db'}"
    mlflow.set_tracking_uri(before)


def sent(copied: Copied) -> dict[str, int]:
    return {kind: tally.sent for kind, tally in copied.counts.items()}


def copies(client: MlflowClient) -> dict[str, object]:
    experiment = client.get_experiment_by_name("isic-2024")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


@pytest.mark.slow
def test_everything_arrives_and_a_second_copy_sends_nothing(
    store: str, target: str, tmp_path: Path
) -> None:
    first = copy(store, target, tmp_path)
    assert {kind: tally.total for kind, tally in first.counts.items()} == {
        "experiments": 1,
        "runs": 2,
        "logged models": 1,
        "parameters": 1,
        "metric points": POINTS + 1,
        "files": 4,
        "models": 2,
        "versions": 3,
        "aliases": 2,
    }
    assert sent(first) == {kind: tally.total for kind, tally in first.counts.items()}

    client = connect(tmp_path, target)
    runs = copies(client)
    parent, child = runs["parent"], runs["fold0"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.info.status, child.info.start_time, child.info.end_time) == (
        "FAILED",
        2000,
        12_345,
    )
    assert child.data.params == {"lr": "0.1"}
    assert child.data.tags["git_commit"] == "abc"
    history = client.get_metric_history(child.info.run_id, "loss")
    assert [(point.step, point.value, point.timestamp) for point in history] == [
        (step, 1 / (step + 1), 3000 + step) for step in range(POINTS)
    ]
    (data,) = child.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("data/raw", "0123.dir")
    assert {tag.key: tag.value for tag in data.tags} == {"mlflow.data.context": "train"}
    (used,) = client.get_run(parent.info.run_id).inputs.model_inputs
    model = client.get_logged_model(used.model_id)
    assert model.source_run_id == child.info.run_id
    assert [(metric.key, metric.value) for metric in model.metrics] == [("loss", 1.0)]
    kept = Path(client.download_artifacts(child.info.run_id, "notes/deep/note.txt"))
    assert kept.read_text() == "café"

    versions = {int(one.version): one for one in client.search_model_versions("name = 'isic-2024'")}
    assert set(versions) == {1, 3}, "promotions.jsonl names versions by number"
    assert versions[3].tags["pauc"] == "0.15"
    assert versions[3].run_id == child.info.run_id
    place = client.get_model_version_download_uri("isic-2024", "3")
    from mlflow.artifacts import download_artifacts

    files = Path(download_artifacts(artifact_uri=place, tracking_uri=target))
    assert (files / "artifacts" / "weights.bin").read_bytes() == bytes(range(256))
    identity = dict(
        line.split(": ") for line in (files / "MLmodel").read_text().split("\n") if line
    )
    assert identity == {
        "model_id": versions[3].source.removeprefix("models:/"),
        "run_id": child.info.run_id,
    }
    assert client.get_logged_model(identity["model_id"]).params == {"folds": "3"}
    aliases = client.get_registered_model("isic-2024").aliases
    assert {alias: int(number) for alias, number in aliases.items()} == {
        "champion": 1,
        "challenger": 3,
    }
    assert client.get_model_version("isic-image-vit", "1").source.startswith(
        child.info.artifact_uri
    )

    second = copy(store, target, tmp_path)
    assert set(sent(second).values()) == {0}
    assert len(copies(client)) == 2


@pytest.mark.slow
def test_a_copy_can_be_copied_as_often_as_it_takes(
    store: str, target: str, empty: Path, tmp_path: Path
) -> None:
    copy(store, target, tmp_path)
    third = f"sqlite:///{shutil.copy(empty, tmp_path / 'mlflow.db')}"
    assert sent(copy(target, third, tmp_path))["runs"] == 2
    assert set(sent(copy(target, third, tmp_path)).values()) == {0}
    assert len(copies(connect(tmp_path, third))) == 2


@pytest.mark.slow
def test_a_cut_copy_goes_on_where_it_was(
    store: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    real, calls = MlflowClient.log_batch, []

    def cut(self: MlflowClient, run_id: str, **parts: object) -> None:
        calls.append(run_id)
        if len(calls) == 5:
            raise MlflowException("the connection is gone")
        real(self, run_id, **parts)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", cut)
        with pytest.raises(InputError, match=r"the connection is gone; run the same command again"):
            copy(store, target, tmp_path)
    copied = copy(store, target, tmp_path)
    assert copied.counts["runs"].total == 2
    assert copied.counts["runs"].sent == 0
    client = connect(tmp_path, target)
    child = copies(client)["fold0"]
    assert len(client.get_metric_history(child.info.run_id, "loss")) == POINTS
    assert set(sent(copy(store, target, tmp_path)).values()) == {0}


@pytest.mark.slow
def test_what_was_decided_on_the_server_stays(store: str, target: str, tmp_path: Path) -> None:
    copy(store, target, tmp_path)
    client = connect(tmp_path, target)
    client.set_registered_model_alias("isic-2024", "champion", "3")
    again = copy(store, target, tmp_path)
    assert again.kept == ["isic-2024@champion stays version 3 on the target (here: 1)"]
    assert int(client.get_registered_model("isic-2024").aliases["champion"]) == 3


@pytest.mark.slow
def test_a_model_of_its_own_on_the_server_is_not_mixed_with_ours(
    store: str, target: str, tmp_path: Path
) -> None:
    client = connect(tmp_path, target)
    client.create_registered_model("isic-2024")
    client.create_model_version("isic-2024", "file:///elsewhere", None)
    with pytest.raises(InputError, match="has a version 1 of isic-2024 of its own"):
        copy(store, target, tmp_path)


@pytest.mark.slow
def test_runs_that_went_on_are_brought_up_to_date(target: str, empty: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{shutil.copy(empty, tmp_path / 'mlflow.db')}"
    client = connect(tmp_path, uri)
    experiment = client.create_experiment("isic-2024", (tmp_path / "mlartifacts").as_uri())
    run = client.create_run(experiment, run_name="long").info.run_id
    client.log_metric(run, "loss", 1.0, step=0)
    copy(uri, target, tmp_path)
    client.log_metric(run, "loss", 0.5, step=1)
    client.set_terminated(run, "FINISHED")
    assert copy(uri, target, tmp_path).counts["metric points"] == (2, 2)
    there = connect(tmp_path, target)
    (found,) = copies(there).values()
    assert found.info.status == "FINISHED"
    assert found.data.tags[ORIGIN] == run
    assert [point.value for point in there.get_metric_history(found.info.run_id, "loss")] == [
        1.0,
        0.5,
    ]


@pytest.mark.parametrize(
    ("source", "target", "part"),
    [
        (
            "sqlite:////nowhere/mlflow.db",
            "http://127.0.0.1:1",
            "there is no database /nowhere/mlflow.db",
        ),
        (
            "sqlite:///dvc.yaml",
            "postgresql+psycopg://me:secret@host/mlflow",
            "--to is postgresql+psycopg://me:***@host",
        ),
        (
            "http://me:secret@host",
            "http://me:secret@host",
            "--from and --to are both http://me:***@host",
        ),
    ],
)
def test_an_unusable_address_is_one_line(
    source: str, target: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isic.cli import app

    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["tracking", "copy", "--from", source, "--to", target])
    assert isinstance(done.exception, InputError)
    assert part in str(done.exception)
    assert "secret" not in str(done.exception)


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_line(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError) as caught:
        copy(store, "http://me:secret@127.0.0.1:1", tmp_path)
    assert "http://me:***@127.0.0.1:1" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_a_database_under_two_names_is_not_copied_into_itself(store: str, tmp_path: Path) -> None:
    file = Path(store.removeprefix("sqlite:///"))
    other = f"sqlite:///{os.path.relpath(file, tmp_path)}"
    with pytest.raises(InputError, match="--from and --to are both"):
        copy(store, other, tmp_path)


def test_a_server_that_is_not_there_is_said_at_once(store: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no server responds at http://127\.0\.0\.1:9 .*: start the server"
    ):
        copy(store, "http://127.0.0.1:9", tmp_path)
