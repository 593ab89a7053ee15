"""`isic doctor`: all documented checks run, with a remedy where one is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from isic.doctor import Line, _command, _paired, _system, checks
from tests.conftest import Outcome

#: "artifacts" is checked where MLFLOW_TRACKING_URI names a server.
PROMISED = (
    "python",
    "command",
    "packages",
    "torch",
    "disk",
    "params",
    "data",
    "mlflow",
    "artifacts",
    "dvc",
    "kaggle",
    "time",
)


@pytest.fixture
def clone(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout that is a git and DVC repository, without a Kaggle token."""
    subprocess.run(["git", "init", "-q"], cwd=checkout, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=checkout, check=True)
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(checkout.parent))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    return checkout


def _found(server: bool = False) -> dict[str, Line]:
    lines = list(checks())
    assert [line.name for line in lines] == [
        name for name in PROMISED if server or name != "artifacts"
    ]
    for line in lines:
        assert "\n" not in line.text()
        assert line.state == "ok" or line.remedy or ": " in line.finding, "a remedy is missing"
    return {line.name: line for line in lines}


def test_a_fresh_clone_has_notes_and_no_failures(
    clone: Path, stage: Callable[..., Outcome]
) -> None:
    found = _found()
    assert not [line.text() for line in found.values() if line.state == "fail"]
    assert found["data"].remedy == "dvc repro validate"
    assert found["kaggle"].state == found["dvc"].state == "note"
    assert "6 image folds to train: about" in found["time"].finding
    assert stage("validate").code == 0
    assert "valid: 600 rows, 24 malignant, 60 patients" in _found()["data"].finding


def test_what_is_broken_is_named_and_the_rest_still_checked(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clone / "params.yaml").write_text("data: [")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
    (clone / ".git").rename(clone / "git")
    found = _found(server=True)
    assert {name for name, line in found.items() if line.state == "fail"} == {
        "params",
        "mlflow",
        "artifacts",
        "dvc",
    }
    assert "is not valid YAML" in found["params"].finding
    assert "unset MLFLOW_TRACKING_URI" in found["mlflow"].finding
    assert "not a git repository" in found["dvc"].finding
    assert "secret" not in found["kaggle"].text()
    assert found["kaggle"].state == "ok"


def test_a_folder_without_the_official_files_fails(clone: Path) -> None:
    text = (clone / "params.yaml").read_text().replace("source: sample", "source: folder")
    (clone / "params.yaml").write_text(text.replace("folder: #", "folder: nowhere #"))
    line = _found()["data"]
    assert line.state == "fail"
    assert line.finding.startswith("nowhere lacks train-metadata.csv")
    assert "data.folder" in line.remedy


def test_outside_a_checkout_it_says_so_and_does_not_fail_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    last = list(checks())[-1]
    assert (last.name, last.state) == ("checkout", "fail")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("  - age\n", "  - agee\n", "agee in features.families"),
        ("drop: []", "drop: [nosuch]", "nosuch in stack.drop"),
        ("fitted: []", "fitted: [nosuch]", "nosuch in stack.fitted"),
        ("model: demo_vit", "model: resnet_of_mine", "resnet_of_mine in image.backbones.vit.model"),
        ("    positives: 60", "    positives: 9000", "9000 positives do not fit"),
    ],
)
def test_names_and_numbers_that_a_stage_would_stumble_over_later(
    clone: Path, before: str, after: str, said: str
) -> None:
    text = (clone / "params.yaml").read_text()
    assert text.count(before) == 1
    (clone / "params.yaml").write_text(text.replace(before, after))
    line = _found()["params"]
    assert line.state == "fail"
    assert said in line.finding


@pytest.mark.parametrize(
    ("torch", "torchvision", "state"),
    [("cpu", "cu130", "note"), ("cpu", "cpu", "ok"), ("cu130", "cu130", "ok"), ("", "", "ok")],
)
def test_torch_and_torchvision_of_different_builds_get_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: str, torchvision: str, state: str
) -> None:
    for name, build in (("torch", torch), ("torchvision", torchvision)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        version = f"2.0.0+{build}" if build else "2.0.0"
        (tmp_path / name / "version.py").write_text(f"__version__ = '{version}'\n")
    # As Python looks up packages that are not imported yet.
    find = partial(PathFinder.find_spec, path=[str(tmp_path)])
    monkeypatch.setattr("isic.doctor.importlib.util.find_spec", find)
    line = _paired(Line("torch", "ok", "2.0.0"))
    assert line.state == state
    if state == "note":
        assert "torch is built for cpu, torchvision for cu130" in line.text()
        assert "--index-url https://download.pytorch.org/whl/cpu torchvision==" in line.text()


def test_programs_of_another_environment_are_named(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("python", "dvc"):
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text("#!/bin/sh")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    lines = [line.text() for line in _system()]
    assert [line.split()[:2] for line in lines] == [
        ["note", name] for name in ("git", "path", "path")
    ]
    assert all("activate" in line for line in lines[1:])


def test_a_stage_with_another_python_is_one_line(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pipelines.folds"],
        cwd=root,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is not the project's Python" in done.stderr


@pytest.mark.parametrize(
    ("script", "state", "finding"),
    [
        ("from isic.cli import main", "ok", ""),
        ("from isic_cli.cli import main", "note", "is isic-cli, the archive's tool"),
        ("from elsewhere import main", "note", "is another program"),
        (None, "note", "no isic on the PATH"),
    ],
)
def test_the_program_named_isic_on_the_path(
    script: str | None, state: str, finding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        (tmp_path / "isic").write_text(f"#!{sys.executable}\n{script}\n")
        (tmp_path / "isic").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    line = _command()
    assert line.state == state
    assert finding in line.finding
    assert "python -m isic" in line.remedy or state == "ok"

    monkeypatch.setattr(sys, "executable", "/elsewhere/bin/python")
    assert (state == "ok") == ("another environment" in _command().finding)
