"""The ledger of submissions, as its verbs write and print it and as MLflow shows it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from isic.cli import app
from isic.core.params import Params
from isic.core.paths import Layout
from isic.registry.register import register
from isic.registry.versions import Registry
from pipelines.register import bundle_of

MODEL = "isic-2024"


def isic(*words: str) -> Result:
    return CliRunner().invoke(app, words)


@pytest.fixture
def champion(
    layout: Layout, params: Params, store: Path, monkeypatch: pytest.MonkeyPatch
) -> Layout:
    """A checkout, the working directory, with version 1 as champion."""
    shutil.copy(store, layout.root / "mlflow.db")
    register(layout.root, bundle_of(layout, params), MODEL)
    Registry(layout.root).set_alias(MODEL, "champion", 1)
    monkeypatch.chdir(layout.root)
    return layout


def test_two_submissions_stand_beside_their_leaderboard_scores(champion: Layout) -> None:
    assert "nothing was submitted yet" in isic("submission", "list").output
    assert isic("submission").exit_code == 0
    written = json.loads(champion.submission.with_name("submission.json").read_text())
    for key, path in (
        ("csv", champion.submission),
        ("test_metadata", champion.raw / "test-metadata.csv"),
        ("test_images", champion.raw / "test-image.hdf5"),
    ):
        assert written[key] == hashlib.sha256(path.read_bytes()).hexdigest()
    client = Registry(champion.root).client
    version = client.get_model_version(MODEL, "1")
    assert (written["version"], written["run"]) == (1, version.run_id)
    assert version.tags["submitted"] == written["at"]

    assert isic("submission", "record", "--public", ".17").exit_code == 0
    assert isic("submission").exit_code == 0
    done = isic("submission", "record", "--public", ".172", "--private", ".165")
    assert done.exit_code == 0, done.output
    lines = isic("submission", "list").output.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[-4:-2] == ["0.1700", "-"]
    assert lines[2].split()[-4:-2] == ["0.1720", "0.1650"]
    assert f"{written['pauc']:.4f}" in lines[1]
    assert client.get_model_version(MODEL, "1").tags["leaderboard_private"] == "0.16500"


def test_a_version_submitted_on_kaggle_only_gets_an_entry(champion: Layout) -> None:
    done = isic("submission", "record", "--private", ".16", "--version", "1")
    assert done.exit_code == 0, done.output
    assert "0.1600" in isic("submission", "list").output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "give --public, --private or both"),
        (("--public", "17"), "from 0 to 0.2"),
        (("--public", ".17"), "nothing was submitted yet"),
        (("--public", ".17", "--version", "9"), "there is no version 9"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    champion: Layout, words: tuple[str, ...], text: str
) -> None:
    done = isic("submission", "record", *words)
    assert done.exit_code != 0
    assert text in str(done.exception) + done.output
    assert not champion.ledger.exists()
