"""Runs read by MLflow's client, written by real processes in folders without an MLflow store."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from isic.core.errors import InputError
from isic.tracking import open_run, pipe
from isic.tracking.context import run_tags
from isic.tracking.oof import log_network, log_scores
from isic.tracking.runs import HEARTBEAT, PARENT_TAG, RunSpec, finish, start
from isic.tracking.server import serve
from isic.tracking.store import (
    EXPERIMENT,
    REGISTRY_EXPERIMENT,
    absolute,
    connect,
    experiment_id,
    home,
    tracking_uri,
)

FOLD = """
import sys
from pathlib import Path
from isic.tracking import open_run
fold = int(sys.argv[1])
with open_run("train_image", {"lr": 0.1, "net": {"name": "tiny"}}, f"tiny-fold{fold}", fold, Path(sys.argv[2])) as run:
    for epoch in range(20):
        run.metrics({"loss": 1 / (epoch + 1), "pauc": fold / 100}, epoch)
    note = Path(sys.argv[2]) / f"note{fold}.txt"
    note.write_text(f"fold {fold}")
    run.artifact(note, "notes")
    note.unlink()
    run.params({"device": "cpu"})
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "DVC_ROOT", "DVC_EXP_NAME", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    # On a loaded machine the writer needs longer to import MLflow.
    monkeypatch.setattr(pipe, "_PATIENCE", 240.0)
    (tmp_path / "dvc.yaml").touch()
    return tmp_path


def start_fold(
    root: Path, fold: int, script: str = FOLD, **kwargs: object
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(fold), str(root)],
        text=True,
        stderr=subprocess.PIPE,
        **kwargs,
    )


def every_run(root: Path) -> list:
    client = connect(root)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return client.search_runs([experiment.experiment_id]) if experiment else []


@pytest.mark.parametrize("count", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_processes_at_once_on_a_fresh_folder(root: Path, count: int) -> None:
    folds = [start_fold(root, fold) for fold in range(count)]
    messages = [process.communicate()[1] for process in folds]
    assert [process.returncode for process in folds] == [0] * count
    # On a busy machine a stage ends before its last messages are written, and prints a line.
    slow = "isic: tracking: the store is slow: the last messages are sent in the background"
    late = [text for text in messages if text]
    assert all(text.startswith(slow) and text.count("\n") == 1 for text in late)
    for _ in range(600 if late else 0):
        if all(run.info.status == "FINISHED" for run in every_run(root)):
            break
        time.sleep(0.1)

    runs = every_run(root)
    (parent,) = [run for run in runs if run.data.tags["role"] == "parent"]
    children = sorted(
        (run for run in runs if run.data.tags["role"] == "fold"), key=lambda run: run.info.run_name
    )
    assert [child.info.run_name for child in children] == [
        f"tiny-fold{fold}" for fold in range(count)
    ]
    client = connect(root)
    for fold, child in enumerate(children):
        assert child.info.status == "FINISHED"
        assert child.data.tags[PARENT_TAG] == parent.info.run_id
        assert child.data.params == {"lr": "0.1", "net.name": "tiny", "device": "cpu"}
        assert [
            point.step for point in client.get_metric_history(child.info.run_id, "loss")
        ] == list(range(20))
        kept = Path(client.download_artifacts(child.info.run_id, f"notes/note{fold}.txt"))
        assert kept.read_text() == f"fold {fold}"
        assert child.info.artifact_uri.startswith((root / "mlartifacts").as_uri())
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {
        "pauc_fold_mean": pytest.approx({2: 0.005, 5: 0.02}[count]),
        "pauc_fold_sd": pytest.approx({2: 0.00707106781, 5: 0.0158113883}[count]),
        "folds_finished": count,
    }, "no means of losses"
    assert parent.data.params == {"lr": "0.1", "net.name": "tiny"}


def test_a_dead_server_costs_one_line(root: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
    process = start_fold(root, 0, env=os.environ | {"MLFLOW_TRACKING_URI": uri})
    message = process.communicate()[1]
    assert process.returncode == 0
    assert message.count("\n") == 1
    assert message.startswith(f"isic: tracking: cannot log to the MLflow store at {uri}")


def test_a_killed_stage_leaves_a_killed_run_and_the_next_attempt_takes_it_up(root: Path) -> None:
    script = FOLD.replace(
        "run.params", "import time; print('ready', flush=True); time.sleep(60); run.params"
    )
    process = start_fold(root, 3, script, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_for_status(root, "KILLED")
    start_fold(root, 3).communicate()
    (child,) = [run for run in every_run(root) if run.data.tags["role"] == "fold"]
    assert child.info.status == "FINISHED"


def wait_for_status(root: Path, status: str) -> bool:
    for _ in range(150):
        statuses = [run.info.status for run in every_run(root) if run.data.tags["role"] == "fold"]
        if statuses == [status]:
            return True
        time.sleep(0.2)
    return False


@pytest.mark.slow
def test_deletions_in_the_pages_and_old_variables_cost_no_log(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    client = connect(root)
    spec = RunSpec("net", "c" * 64, "net-fold0", 0, outer="0" * 32)
    first = start(client, root, spec, dict)
    parent = client.get_run(first).data.tags[PARENT_TAG]
    client.delete_run(parent)
    finish(client, root, spec, first, "FINISHED")
    assert client.get_run(first).info.status == "FINISHED"

    client.delete_experiment(client.get_run(first).info.experiment_id)
    again = start(client, root, spec, dict)
    finish(client, root, spec, again, "FINISHED")
    assert client.get_run(again).info.lifecycle_stage == "active"
    line = f"isic: tracking: experiment {EXPERIMENT} was deleted in MLflow's UI: restored"
    assert line in capfd.readouterr().err


@pytest.mark.slow
def test_runs_of_a_dead_machine_are_taken_up_or_closed(root: Path) -> None:
    client = connect(root)
    old = int(time.time()) - 5000

    def running(fold: int, beat: int) -> str:
        spec = RunSpec("net", "c" * 64, f"net-fold{fold}", fold)
        run = start(client, root, spec, dict)
        client.set_tag(run, HEARTBEAT, str(beat))
        return run

    dead, lives, other = running(0, old), running(1, old + 5000), running(2, old)
    assert running(0, old + 5000) == dead
    parent = client.get_run(dead).data.tags[PARENT_TAG]
    client.set_tag(parent, HEARTBEAT, str(old))  # of a writer that ended long ago
    start(client, root, RunSpec("other", "d" * 64, "other"), dict)
    status = {run: client.get_run(run).info.status for run in (dead, lives, other, parent)}
    assert status == {dead: "RUNNING", lives: "RUNNING", other: "KILLED", parent: "RUNNING"}

    for run in (dead, lives):
        client.set_tag(run, HEARTBEAT, str(old))
    start(client, root, RunSpec("other", "d" * 64, "other"), dict)
    assert {client.get_run(run).info.status for run in (dead, lives, parent)} == {"KILLED"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["100% ?", "a%41?b#c", 'o\'h "x" é'])
def test_a_store_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "checkout"
    folder.mkdir(parents=True)
    client = connect(folder)
    run = client.create_run(experiment_id(client, folder)).info.run_id
    client.log_text(run, "text", "a?b%41.txt")
    assert (folder / "mlflow.db").is_file()
    assert [path.read_text() for path in folder.rglob("*.txt")] == ["text"]
    assert list(tmp_path.iterdir()) == [tmp_path / name]
    assert absolute(client.tracking_uri, tmp_path) == client.tracking_uri


def test_runs_lie_under_the_run_that_mlflow_run_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(root)
    outer = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", outer)
    with open_run("stack", {}, "stack-fold1", fold=1, root=root) as run:
        run.metrics({"pauc": 0.15})
    (child,) = [run for run in client.search_runs(["0"]) if run.info.run_id != outer]
    assert child.data.tags[PARENT_TAG] == outer
    assert client.get_run(outer).data.metrics["pauc_fold_mean"] == 0.15
    assert client.get_run(outer).info.status == "RUNNING", "mlflow run closes its own run"


def test_an_exception_passes_on_and_the_run_is_marked_failed(root: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run("stack", {"a": 1}, "stack", root=root):
        raise ZeroDivisionError
    (run,) = every_run(root)
    assert run.info.status == "FAILED"


def test_a_figure_is_kept_as_drawn(root: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([0, 1], [0, 1])
    with open_run("stack", {}, "stack", root=root) as run:
        run.figure(figure, "curves/roc.png")
    (found,) = every_run(root)
    kept = Path(connect(root).download_artifacts(found.info.run_id, "curves/roc.png"))
    assert kept.read_bytes().startswith(b"\x89PNG")


def test_tags_say_what_the_run_was_made_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(
        ["git", "-C", str(root), *identity, "commit", "-q", "--allow-empty", "-m", "first"],
        check=True,
    )
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    (root / "data" / "raw").mkdir(parents=True)
    (root / "data" / "raw" / "train-metadata.csv").write_text("isic_id\n")
    monkeypatch.setenv("DVC_EXP_NAME", "keen-hare")
    with open_run("stack", {}, "stack", root=root):
        pass
    (run,) = every_run(root)
    tags = run.data.tags
    head = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert tags["git_commit"] == head.stdout.strip()
    assert tags["DVC_EXP_NAME"] == "keen-hare"
    assert len(tags["data_hash"]) == 64
    assert "dvc_lock" not in tags, "DVC rewrites it while stages run"
    assert "folds_hash" not in tags


def test_a_temporary_experiment_logs_to_the_lasting_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "x"
    copy.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert home(copy) == tmp_path
    assert tracking_uri(copy) == f"sqlite:///{tmp_path}/mlflow.db"
    assert home(Path("/elsewhere")) == Path("/elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert tracking_uri(copy) == f"sqlite:///{tmp_path}/mlflow.db"


def test_no_room_for_notes_costs_the_notes_only(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object, **kwargs: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", full)
        with open_run("evaluate", {}, "evaluate", root=root) as run:
            run.metrics({"pauc": 0.1})
    assert "not tracked" in capfd.readouterr().err
    with open_run("evaluate", {}, "evaluate", root=root) as run:
        patch.setattr(tempfile, "mkdtemp", full)
        run.artifact(root / "dvc.yaml")
        patch.undo()
    assert "could not be copied for tracking" in capfd.readouterr().err
    assert [run.info.status for run in every_run(root)] == ["FINISHED"]


def test_an_address_of_no_store_is_refused_in_words(root: Path) -> None:
    with pytest.raises(InputError, match=r"nonsense://me:\*\*\*@x is no MLflow store"):
        connect(root, "nonsense://me:secret@x")


@pytest.mark.parametrize(
    ("port", "said"), [(-1, "is no port"), (99_999, "is no port"), (None, "is taken")]
)
def test_pages_on_a_port_that_cannot_be_used(root: Path, port: int | None, said: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=said):
            serve(root, taken.getsockname()[1] if port is None else port)


def test_a_checkout_of_another_owner_has_no_provenance_rather_than_a_clean_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / "committed").touch()
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["add", "committed"], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(root), *identity, *command], check=True)
    assert {"git_commit", "git_dirty"} <= set(run_tags(root))
    # Git's variable for testing this refusal; otherwise the owner would have to change.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "true")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    assert not {"git_commit", "git_dirty"} & set(run_tags(root))


def test_a_parent_is_named_by_what_changed(root: Path) -> None:
    for leaves in (31, 63):
        with open_run(
            "stack", {"params": {"num_leaves": leaves, "lr": 0.1}}, f"stack-{leaves}", root=root
        ):
            pass
    assert sorted(run.info.run_name for run in every_run(root)) == [
        "stack-31",
        "stack-63 num_leaves=63",
    ]


def test_trials_have_parameters_of_their_own_and_their_parent_no_folds(root: Path) -> None:
    for trial in range(2):
        with open_run("tune", {"rate": 0.05}, f"trial-{trial}", trial=trial, root=root) as run:
            run.params({"learning_rate": 0.1 * (trial + 1)})
            run.metrics({"trial_pauc": 0.1})
    by_role: dict[str, list] = {}
    for run in every_run(root):
        by_role.setdefault(run.data.tags["role"], []).append(run)
    (parent,) = by_role["parent"]
    assert parent.data.params == {"rate": "0.05"}
    assert parent.data.metrics == {}
    assert {str(run.data.params) for run in by_role["trial"]} == {
        "{'learning_rate': '0.1'}",
        "{'learning_rate': '0.2'}",
    }


def test_checks_have_an_experiment_of_their_own(root: Path) -> None:
    with open_run("gate", {}, "gate-1", root=root):
        pass
    assert every_run(root) == []
    client = connect(root)
    experiment = client.get_experiment_by_name(REGISTRY_EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "gate-1"


def test_data_sets_are_known_by_the_md5_that_dvc_would_record(root: Path) -> None:
    table = root / "data" / "raw" / "train-metadata.csv"
    table.parent.mkdir(parents=True)
    table.write_text("isic_id\nISIC_1\nISIC_2\n")
    with open_run("stack", {}, "stack", root=root) as run:
        run.dataset(table, "train")
        run.dataset(table.parent, "oof")
    (found,) = every_run(root)
    sets = {item.tags[0].value: item.dataset for item in found.inputs.dataset_inputs}
    assert sets["train"].name == "data/raw/train-metadata.csv"
    # md5sum of the file; md5sum of DVC's list of the folder's one file.
    assert sets["train"].digest == hashlib.md5(table.read_bytes()).hexdigest()
    listing = f'[{{"md5": "{sets["train"].digest}", "relpath": "train-metadata.csv"}}]'
    assert sets["oof"].digest == hashlib.md5(listing.encode()).hexdigest() + ".dir"
    assert json.loads(sets["train"].profile) == {"num_rows": 2}


def test_a_fold_network_is_a_model_that_gets_its_score_later(root: Path) -> None:
    folder = root / "models" / "image" / "vit" / "fold0"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "history.csv"):
        (folder / name).write_text(name)
    config = {"epochs": 3}
    with open_run("train_image-vit", config, "vit-0", fold=0, root=root) as run:
        run.metrics({"val_pauc": 0.01}, 1)
        log_network(run, "vit-0", folder)
    for _ in range(2):
        log_scores(
            "vit", config, {0: folder}, folder, {0: {"pauc": 0.12}, None: {"pauc": 0.11}}, root
        )

    runs = {run.data.tags["role"]: run for run in every_run(root)}
    assert len(every_run(root)) == 2, "evaluate opens no run of its own"
    assert runs["parent"].data.metrics["pauc"] == 0.11
    assert runs["parent"].data.metrics["pauc_fold_mean"] == 0.12
    assert runs["fold"].data.metrics == {"val_pauc": 0.01, "pauc": 0.12}
    client = connect(root)
    assert len(client.get_metric_history(runs["fold"].info.run_id, "pauc")) == 1
    (model,) = client.search_logged_models([runs["fold"].info.experiment_id])
    assert model.source_run_id == runs["fold"].info.run_id
    assert {metric.key: metric.value for metric in model.metrics} == {"pauc": 0.12}
    assert model.params == {"epochs": "3"}
    assert model.tags["path"] == "models/image/vit/fold0"


def test_a_stage_that_adds_to_a_run_leaves_its_provenance(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in ("stack", "report"):
        monkeypatch.setenv("DVC_STAGE", stage)
        with open_run("stack", {}, "stack", root=root):
            pass
    (run,) = every_run(root)
    assert run.data.tags["DVC_STAGE"] == "stack"


def test_a_slow_store_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipe, "_PATIENCE", 0.01)
    # A writer that never answers.
    monkeypatch.setattr(
        pipe,
        "_start_writer",
        lambda: subprocess.Popen(
            ["sleep", "5"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ),
    )
    slow = pipe.Pipe()
    assert slow.wait_for(1)
    assert slow.wait_for(2)
    error = capsys.readouterr().err
    assert error.count("the store is slow: the last messages are sent in the background") == 1
