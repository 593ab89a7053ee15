"""The verbs: fast help, and one line with exit status 2 for wrong input."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from isic.cli import main
from isic.data.source import FILES


def test_help_is_quick_because_nothing_heavy_is_loaded() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "isic", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor seconds: wall seconds depend on other load.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    script = (
        "import sys, isic.cli; print(*sorted({'numpy', 'pandas', 'torch', 'mlflow', 'pydantic'} &"
        " set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("sample --out sample --patients 10 --lesions 5 --positives 1", "10 patients"),
        (
            "sample --out table.csv --patients 3 --lesions 5 --positives 1 --no-images",
            "table.csv: file exists",
        ),
        (
            "sample --out held --patients 3 --lesions 5 --positives 1",
            "held already holds train-metadata.csv",
        ),
        (
            "sample --out sample --patients 3 --lesions 5 --positives 1 --seed -1",
            "seed -1 is negative",
        ),
        ("score --solution . --submission table.csv", "solution . is not a file"),
        ("score --solution table.csv --submission none.csv", "submission none.csv is not a file"),
        ("predict --model none --metadata held --out scores.csv", "held: is a directory"),
        ("predict --model none --metadata none.csv --out scores.csv", "none.csv not found"),
        (
            "predict --model none --metadata table.csv --out scores.csv",
            "table.csv lacks columns `patient_id`",
        ),
        (
            "predict --model none --metadata table.csv --out scores.csv --missing-images no",
            "use error or impute",
        ),
        ("predict --model none --metadata table.csv --out table.csv", "written over its own input"),
        (
            "predict --model none --metadata table.csv --images held/x --out held",
            "held is a folder",
        ),
        ("compare a b", "a not found"),
        ("compare table.csv held --out held", "held is a folder"),
        ("compare  b", "A is empty"),
        ("preset full", "no dvc.yaml"),
        ("promote", "no dvc.yaml"),
        ("submission", "no dvc.yaml"),
        ("explain ISIC_0000001", "no dvc.yaml"),
        ("summary", "no dvc.yaml"),
        ("check-stack", "no dvc.yaml"),
        ("features write", "no dvc.yaml"),
        ("features check", "no dvc.yaml"),
        ("features measure", "no dvc.yaml"),
        ("features --list", "`isic features --list` is now `isic features list`"),
        ("features --write", "`isic features --write` is now `isic features write`"),
        ("features --check", "`isic features --check` is now `isic features check`"),
        ("features --report", "`isic features --report` is now `isic features measure`"),
        ("stack --nested", "`isic stack --nested` is now `isic check-stack`"),
        ("stack", "`isic stack` is now `isic check-stack`"),
        ("image download out", "pipx run --spec isic-cli isic image download out"),
        ("user login", "pipx run --spec isic-cli isic user login"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    said: str,
) -> None:
    (tmp_path / "table.csv").write_text("isic_id,target\nA,1\nB,0\n")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "train-metadata.csv").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["isic", *arguments.split(" ")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("isic: error: ")
    assert error.count("\n") == 1
    assert said in error
    assert {path.name for path in tmp_path.iterdir()} == {"held", "table.csv"}


def exit_status(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    monkeypatch.setattr(sys, "argv", ["isic", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


@pytest.fixture
def presets(checkout: Path, root: Path) -> Path:
    """A checkout with the presets."""
    shutil.copytree(root / "pipelines" / "presets", checkout / "pipelines" / "presets")
    return checkout


def test_a_preset_ends_with_the_next_command(
    presets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not exit_status(monkeypatch, "preset", "full")
    shown = capsys.readouterr().out.splitlines()
    assert any(line.startswith("+  source: folder ") for line in shown)
    assert shown[-1].startswith("next: make data (needs a Kaggle token")

    official = presets / "data" / "official"
    official.mkdir()
    for name in FILES:
        (official / name).touch()
    assert not exit_status(monkeypatch, "preset", "full")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "params.yaml already holds preset full"
    assert shown[-1].startswith("next: dvc repro")


def test_a_preset_without_a_name_shows_how_to_give_one(
    presets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (presets / "params.yaml").read_text()
    assert exit_status(monkeypatch, "preset") == 2
    error = capsys.readouterr().err
    assert error.startswith("isic: error: name a preset, one of full, kaggle_t4")
    assert "make preset P=full" in error
    assert (presets / "params.yaml").read_text() == before


def test_a_sample_that_was_killed_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--patients", "5", "--lesions", "30", "--positives", "2"]
    assert not exit_status(monkeypatch, "sample", "--out", "whole", *options)
    # Killed while it moved its files: two are there, the others in the temporary folder.
    shutil.copytree("whole", "half/.isic-tmp-0-1-x")
    for name in sorted(FILES)[:2]:
        Path("half/.isic-tmp-0-1-x", name).rename(Path("half", name))
    assert not exit_status(monkeypatch, "sample", "--out", "half", *options)
    for name in FILES:
        assert Path("half", name).read_bytes() == Path("whole", name).read_bytes(), name
