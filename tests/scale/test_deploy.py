"""The files of deploy/: valid ones pass the check, and it refuses those that would not start."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

pytest.importorskip("check_jsonschema")
pytest.importorskip("kubernetes_validate")

from deploy import check
from isic.core.errors import InputError
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"


def test_everything_as_committed_passes() -> None:
    check.main()
    subprocess.run(["sh", "-n", str(DEPLOY / "mlflow.sh")], check=True)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("healthcheck:", "healthchek:", "healthchek"),
        ("image: postgres:18.4-bookworm", "image: postgres:latest", "has no exact version"),
        ("restart: unless-stopped", "restart: [always]", "services.postgres.restart"),
        ("${POSTGRES_PASSWORD:?set it in deploy/.env}", "hunter2", "has a literal value"),
        (
            "${S3_ACCESS_KEY:?set it in deploy/.env}",
            "${S3_KEY:?set it in deploy/.env}",
            "S3_KEY is missing in .env.example",
        ),
    ],
)
def test_a_compose_file_that_would_not_start_is_refused(
    good: str, bad: str, message: str, tmp_path: Path
) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert good in text
    path = tmp_path / "compose.yaml"
    path.write_text(text.replace(good, bad, 1))
    with pytest.raises(InputError, match=re.escape(message)):
        check.check_compose(path)


@pytest.mark.parametrize(
    ("name", "good", "bad", "message"),
    [
        ("rayjob", "entrypoint:", "entryPoint:", "'entrypoint' is a required property"),
        ("rayjob", "backoffLimit: 2", 'backoffLimit: "2"', "spec.backoffLimit"),
        ("rayjob", "volumeMounts:", "volumeMount:", "volumeMount"),
        ("raycluster", "minReplicas: 0", "", "'minReplicas' is a required property"),
        ("raycluster", '{num-cpus: "0",', "{num-cpus: 0,", "0 is not of type 'string'"),
        ("raycluster", "memory: 16Gi}", "memory: [16Gi]}", "resources"),
        ("raycluster", "image: isic-ray:1", "image: isic-ray", "has no exact version"),
        (
            "secret.example",
            'AWS_SECRET_ACCESS_KEY: ""',
            "AWS_SECRET_ACCESS_KEY: abc",
            "contains a secret",
        ),
        ("secret.example", "stringData:", "stringdata:", "stringdata"),
    ],
)
def test_a_manifest_that_would_not_apply_is_refused(
    name: str, good: str, bad: str, message: str, tmp_path: Path
) -> None:
    text = (DEPLOY / "kubernetes" / f"{name}.yaml").read_text()
    assert good in text
    path = tmp_path / f"{name}.yaml"
    path.write_text(text.replace(good, bad, 1))
    with pytest.raises(InputError, match=re.escape(message)):
        check.check_kubernetes(path)


def test_versions_are_those_the_project_is_tested_with() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for name in ("rayjob", "raycluster"):
        *_, document = yaml.safe_load_all((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())
        cluster = document["spec"].get("rayClusterSpec", document["spec"])
        assert cluster["rayVersion"] == pins["ray"]


def test_the_job_calls_a_verb_that_exists() -> None:
    from typer.main import get_command

    from isic.cli import app

    job = yaml.safe_load((DEPLOY / "kubernetes" / "rayjob.yaml").read_text())["spec"][
        "entrypoint"
    ].split()
    command = get_command(app).commands[job[1]]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in job if word.startswith("--")} <= known
