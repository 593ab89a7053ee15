"""A copied or moved checkout reads and writes files of its own, also after the original is gone."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from isic.core.params import Params
from isic.core.paths import Layout
from isic.registry.register import register, register_backbones
from isic.registry.versions import Registry, resolve_model
from isic.tracking import open_run, pipe
from isic.tracking.store import EXPERIMENT, connect
from pipelines.register import bundle_of

MODEL = "isic-2024"


@pytest.fixture
def original(
    layout: Layout, params: Params, store: Path, monkeypatch: pytest.MonkeyPatch
) -> Layout:
    """A checkout with a run that has a file, a version of the bundle and versions of its networks."""
    monkeypatch.setattr(pipe, "_PATIENCE", 240.0)
    # A writer of the test's own: it keeps the moved database open, and later tests would wait for it.
    monkeypatch.setattr(pipe.Pipe, "_of_process", None)
    shutil.copy(store, layout.root / "mlflow.db")
    log_note(layout.root, 1)
    bundle = bundle_of(layout, params)
    register_backbones(layout.root, bundle, register(layout.root, bundle, MODEL).version)
    return layout


def log_note(root: Path, number: int) -> None:
    note = root / f"note{number}.txt"
    note.write_text(f"note {number}")
    with open_run("stack", {"number": number}, f"note-{number}", root=root) as run:
        run.artifact(note)
    note.unlink()


def addresses(root: Path) -> list[str]:
    """Every text in the store that names a file."""
    found = []
    with closing(sqlite3.connect(root / "mlflow.db")) as store:
        for (table,) in store.execute(
            "SELECT name FROM sqlite_master WHERE type='table'"
        ).fetchall():
            for row in store.execute(f"SELECT * FROM {table}"):
                found += [
                    value for value in row if isinstance(value, str) and "mlartifacts" in value
                ]
    return found


@pytest.mark.parametrize("way", ["copied", "moved"])
def test_everything_is_read_from_and_written_to_the_checkout_itself(
    original: Layout, params: Params, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Layout(original.root.with_name("other place"))
    before = (original.root / "mlflow.db").read_bytes()
    if way == "copied":
        shutil.copytree(original.root, other.root)
    else:
        original.root.rename(other.root)
    # MLflow leaves the store that this process used last in the environment.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    log_note(other.root, 2)
    if way == "copied":
        assert (original.root / "mlflow.db").read_bytes() == before
        kept = sorted(path.name for path in original.root.rglob("note*.txt"))
        assert kept == ["note1.txt"], "the copy wrote into the original"
        shutil.rmtree(original.root)

    client = connect(other.root)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    notes = {run.info.run_name: run for run in runs if run.info.run_name.startswith("note-")}
    for number in (1, 2):
        (run,) = (run for name, run in notes.items() if name.startswith(f"note-{number}"))
        folder = Path(unquote(urlparse(run.info.artifact_uri).path))
        assert folder.is_relative_to(other.root)
        assert (folder / f"note{number}.txt").read_text() == f"note {number}"

    folder = resolve_model(f"models:/{MODEL}@challenger", other.root)
    assert folder.is_relative_to(other.root)
    registry = Registry(other.root)
    for backbone in params.image.backbones:
        (version,) = registry.versions(f"isic-image-{backbone}")
        assert registry.has_files(version, ["fold0/model.safetensors"])
    assert register(other.root, bundle_of(other, params), MODEL).reused
    strange = [
        text for text in addresses(other.root) if other.root.name not in text.replace("%20", " ")
    ]
    assert strange == []


def test_a_copy_of_the_database_alone_still_finds_the_files(
    original: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alone").mkdir()
    shutil.copy(original.root / "mlflow.db", tmp_path / "alone" / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = resolve_model(f"models:/{MODEL}@challenger", tmp_path / "alone")
    assert folder.is_relative_to(original.root)
