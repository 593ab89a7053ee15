"""The package for Kaggle: what it holds, that it runs offline on awkward files, and what it says without a token."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.registry.bundle import build_bundle, load_bundle
from isic.submit import kaggle
from isic.submit.dryrun import Measured, dry_run, estimate
from isic.submit.hidden import UNSEEN, disturb
from isic.submit.kaggle import Package
from isic.submit.push import push


@pytest.fixture(scope="module")
def built(made: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, made once: building a wheel takes seconds. Read only."""
    layout = Layout(tmp_path_factory.mktemp("package") / "checkout")
    shutil.copytree(made, layout.root)
    bundle = build_bundle(layout, load_params(layout.params))
    (layout.root / "isic").symlink_to(root / "isic", target_is_directory=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (layout.root / name).symlink_to(root / name)
    return kaggle.build(layout, str(bundle.folder), user="someone").folder


@pytest.fixture
def package(layout: Layout, built: Path) -> Package:
    target = kaggle.package_of(layout)
    shutil.copytree(built, target.folder)
    return target


def test_the_package_is_what_kaggle_takes(package: Package) -> None:
    notebook = nbformat.read(package.notebook / "isic-2024-submission.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            compile(cell.source, "cell", "exec")
    kernel = json.loads((package.notebook / "kernel-metadata.json").read_text())
    assert (kernel["enable_internet"], kernel["enable_gpu"], kernel["is_private"]) == (False, True, True)
    assert kernel["competition_sources"] == ["isic-2024-challenge"]
    dataset = json.loads((package.dataset / "dataset-metadata.json").read_text())
    assert kernel["dataset_sources"] == [dataset["id"]] == ["someone/isic-2024-bundle"]
    assert load_bundle(package.dataset / "bundle").manifest.backbones
    (wheel,) = (package.dataset / "wheels").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl"), "no compiled code of ours: Kaggle has another Python"
    names = zipfile.ZipFile(wheel).namelist()
    assert "isic/submit/submission.py" in names
    assert not any(name.endswith((".so", ".pkl", ".pickle")) for name in names)


def test_without_a_token_it_says_what_to_set(
    layout: Layout, package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert package.notebook.exists()
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="set KAGGLE_API_TOKEN"):
        push(layout, "a try")


@pytest.mark.parametrize("known", [True, False])
def test_the_client_gets_folders_and_versions_and_never_the_token(
    layout: Layout, package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: bool
) -> None:
    calls = tmp_path / "calls"
    client = tmp_path / "bin" / "kaggle"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n[ "$2" = status ] && exit {0 if known else 1}\necho done\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret-token")
    assert push(layout, "a try") == ["done", "done"]
    push(layout, "a try", submit_version=3)
    status, upload, kernel, submit = calls.read_text().splitlines()
    assert status == "datasets status someone/isic-2024-bundle"
    assert upload.startswith("datasets version -m a try -p" if known else "datasets create -p")
    assert kernel == f"kernels push -p {package.notebook}"
    assert submit.startswith("competitions submit isic-2024-challenge -k someone/isic-2024-submission -v 3 -f")
    assert "secret-token" not in calls.read_text()


def test_the_hidden_set_holds_every_awkward_case(layout: Layout) -> None:
    table = pd.read_csv(layout.train_metadata, low_memory=False).head(300)
    hidden = disturb(table, seed=0)
    sizes = hidden["patient_id"].value_counts()
    assert sizes["IP_ALONE"] == 1
    assert sizes["IP_LARGEST"] == 100
    assert (hidden["attribution"] == UNSEEN).sum() == 6
    assert hidden[["age_approx", "sex", "anatom_site_general"]].isna().sum().min() > 0
    assert hidden["isic_id"].equals(table["isic_id"])


def test_the_estimate_counts_what_grows_with_the_lesions() -> None:
    runs = (Measured("official", 3, 10.0, 1.0), Measured("hidden", 10_000, 110.0, 1.5))
    result = estimate(runs, decode=1e-4, models=10)
    assert result.hours_here == pytest.approx((10 + 500_000 * 0.01) / 3600)
    assert result.hours_kaggle >= (10 + 500_000 * 1e-4 * 10 / 4) / 3600 * 0.999
    assert result.fits
    assert "estimate" in result.text()


def test_an_unbuilt_package_is_named(layout: Layout) -> None:
    with pytest.raises(InputError, match="isic submission build"):
        dry_run(layout, rows=0)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [0, 20_000])
def test_the_notebook_runs_offline_in_a_fresh_environment(layout: Layout, package: Package, rows: int) -> None:
    assert package.notebook.exists()
    result = dry_run(layout, rows)
    assert [run.rows for run in result.runs] == ([3, rows] if rows else [3])
    assert all(run.peak_gb > 0.1 for run in result.runs)
    assert result.fits


@pytest.mark.slow
def test_a_damaged_image_model_still_gives_a_valid_submission(layout: Layout, package: Package) -> None:
    from isic.core.io import read_json, write_json
    from isic.registry.manifest import identity

    folder = package.dataset / "bundle"
    weights = next(folder.rglob("model.safetensors"))
    weights.write_bytes(b"not weights")
    content = read_json(folder / "bundle.json")
    name = weights.relative_to(folder).as_posix()
    content["files"][name] = hashlib.sha256(b"not weights").hexdigest()
    write_json(folder / "bundle.json", content | {"hash": identity(content)})
    assert dry_run(layout, rows=0).runs[0].rows == 3
