"""Ids, hospitals, licences and reasons that are HTML or Markdown: the report, the pages of lesions
and MLflow's pages in a real browser, where nothing of it may run or load.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
import pytest

from isic.tracking.store import connect, experiment_ids
from tests.browser import mlflow_pages, needs_chromium, opened
from tests.pipeline import SHRUNK, call, make_checkout

pytestmark = [needs_chromium, pytest.mark.slow]

TEXTS = (
    '<img src=hostile onerror="window.hit=1">',
    "</script><script>window.hit=1</script>",
    "'\"><svg onload=window.hit=1>",
    "[x](javascript:window.hit=1)",
    "`${window.hit=1}` {{constructor.constructor('window.hit=1')()}}",
    "=cmd|' /C calc'!A0 <b onmouseover=window.hit=1>",
)


def _renamed(values: pd.Series, start: int, prefix: bool) -> dict[str, str]:
    """A hostile text for each value, with the value before it or a number after it."""
    names = enumerate(sorted(values.unique()), start)
    return {
        name: f"{name} {TEXTS[number % len(TEXTS)]}"
        if prefix
        else f"{TEXTS[number % len(TEXTS)]} {number}"
        for number, name in names
    }


def _spoil(raw: Path, part: str) -> pd.Series:
    """Put the texts into one official table and its tiles; returns the ids."""
    table = pd.read_csv(raw / f"{part}-metadata.csv", low_memory=False)
    for column, start in (("attribution", 0), ("copyright_license", 2)):
        table[column] = table[column].map(_renamed(table[column], start, prefix=False))
    table["patient_id"] = table["patient_id"].map(_renamed(table["patient_id"], 0, prefix=True))
    # A name in an HDF5 file holds no slash.
    ids = {
        old: new.replace("/", "%2f")
        for old, new in _renamed(table["isic_id"], 0, prefix=True).items()
    }
    with h5py.File(raw / f"{part}-image.hdf5", "r+") as tiles:
        for old, new in ids.items():
            tiles.move(old, new)
    table["isic_id"] = table["isic_id"].map(ids)
    table.to_csv(raw / f"{part}-metadata.csv", index=False)
    return table["isic_id"]


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on such data, with pages of two lesions and a promotion."""
    changes = SHRUNK | {"data": {"source": "folder", "folder": "data/official"}}
    folder = make_checkout(root, tmp_path_factory.mktemp("hostile") / "checkout", changes)
    raw = folder / "data" / "official"
    sizes = ("--patients", "40", "--lesions", "600", "--positives", "30", "--seed", "3")
    call(folder, "isic", "sample", "--out", str(raw), *sizes)
    ids = _spoil(raw, "train")
    submission = pd.read_csv(raw / "sample_submission.csv")
    submission.assign(isic_id=_spoil(raw, "test")).to_csv(
        raw / "sample_submission.csv", index=False
    )
    call(folder, "dvc", "repro", timeout=1200)
    call(folder, "isic", "promote", "--reason", " ".join(TEXTS))
    for number in range(2):
        call(folder, "isic", "explain", ids[number])
    return folder


@pytest.fixture(scope="module")
def address(checkout: Path) -> Iterator[str]:
    with mlflow_pages(checkout) as page:
        yield page.split("/#")[0]


def _pages(checkout: Path, address: str) -> Iterator[str]:
    for file in sorted((checkout / "reports").glob("*.html")):
        yield file.as_uri()
    client = connect(checkout, f"sqlite:///{checkout}/mlflow.db")
    for experiment in experiment_ids(client):
        pages = f"{address}/#/experiments/{experiment}"
        yield f"{pages}?workflowType=machine_learning"
        for run in client.search_runs([experiment]):
            yield f"{pages}/runs/{run.info.run_id}"
            if run.data.tags.get("role") == "parent":
                yield f"{pages}/runs/{run.info.run_id}/artifacts/report/index.html"
    yield f"{address}/#/models/isic-2024"
    yield f"{address}/#/models/isic-2024/versions/1"


def test_nothing_in_a_text_runs_or_loads(checkout: Path, address: str) -> None:
    pages, faults = list(_pages(checkout, address)), []
    assert len(pages) > 12
    with opened() as browser:
        for url in pages:
            tab: Any = browser.new_page()
            loaded: list[str] = []
            tab.on("request", lambda request, loaded=loaded: loaded.append(request.url))
            tab.on("dialog", lambda dialog, loaded=loaded: loaded.append("hostile dialog"))
            tab.goto(url, timeout=120_000)
            tab.wait_for_timeout(5000)
            hits = [frame.evaluate("window.hit") for frame in tab.frames]
            made = sum(
                frame.locator(f"{selector}").count()
                for frame in tab.frames
                for selector in ("[onerror]", "svg[onload]", "[onmouseover]", "a[href^=javascript]")
            )
            if any(hits) or made or any(one.endswith(("/hostile", "dialog")) for one in loaded):
                faults.append((url, hits, made))
            tab.close()
    assert not faults
