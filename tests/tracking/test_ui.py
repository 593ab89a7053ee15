"""MLflow's pages of a finished pipeline's store, opened in a real browser as by `make ui`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isic.tracking.store import EXPERIMENT, connect
from tests.browser import mlflow_pages, needs_chromium, opened
from tests.pipeline import call

pytestmark = [needs_chromium, pytest.mark.slow]


@pytest.fixture(scope="module")
def address(done: Path) -> Iterator[str]:
    """The address printed by `isic ui`, once the server responds; the pipeline's model is promoted
    first.
    """
    call(done, "isic", "promote")
    with mlflow_pages(done) as page:
        yield page


@pytest.fixture(scope="module")
def tab(address: str) -> Iterator[Any]:
    with opened() as browser:
        page = browser.new_page(viewport={"width": 2600, "height": 1200})
        page.set_default_timeout(60_000)
        yield page


def test_the_table_shows_parents_by_pauc_with_their_columns(
    done: Path, tab: Any, address: str
) -> None:
    tab.goto(address)
    stack = tab.locator(".ag-row", has_text=re.compile("stack-[0-9a-f]{8}"))
    stack.first.wait_for()
    head = tab.locator(".ag-header").inner_text()
    for column in (
        "pauc",
        "pauc_low",
        "pauc_high",
        "pauc_fold_mean",
        "pauc_fold_sd",
        "folds_finished",
        "Dataset",
    ):
        assert column in head.split("\n"), column
    assert tab.get_by_text("Error loading shared view state").count() == 0
    assert tab.get_by_text("Sort: pauc").count() == 1
    assert tab.locator(".ag-row", has_text="stack-fold0").count() == 0, "parents only"
    # Which of the two is better on 12 malignant lesions differs between processors.
    client = connect(done, f"sqlite:///{done}/mlflow.db")
    parents = client.search_runs(
        [client.get_experiment_by_name(EXPERIMENT).experiment_id], "tags.role = 'parent'"
    )
    by_pauc = sorted(
        (run for run in parents if "pauc" in run.data.metrics),
        key=lambda run: -run.data.metrics["pauc"],
    )
    assert len(by_pauc) > 1
    names = tab.locator(".ag-row a[href*='/runs/']").all_inner_texts()
    assert [name for name in names if "-" in name][: len(by_pauc)] == [
        run.info.run_name for run in by_pauc
    ]
    tab.get_by_text("Datasets", exact=True).first.click()
    tab.get_by_text("data/oof/stack.parquet").first.wait_for()


def test_the_version_page_carries_card_gate_and_alias(tab: Any, address: str) -> None:
    tab.goto(f"{address.split('/#')[0]}/#/models/isic-2024/versions/1")
    tab.get_by_text("Not a medical device").first.wait_for()
    text = tab.locator("body").inner_text()
    assert "champion" in text
    assert re.search(r"pAUC 0\.\d{4} \(95 % over patients", text)
    assert "Gate passed, no champion to beat." in text
    assert "reload reproduces stored scores" in text
    assert "passed" in text


def test_a_stack_run_holds_the_figures_the_report_and_its_result_in_words(
    done: Path, tab: Any, address: str
) -> None:
    # By its address: other tests may have left another store in the environment.
    client = connect(done, f"sqlite:///{done}/mlflow.db")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (parent,) = client.search_runs(
        [experiment.experiment_id], "tags.family = 'stack' and tags.role = 'parent'"
    )
    run = (
        f"{address.split('/#')[0]}/#/experiments/{experiment.experiment_id}"
        f"/runs/{parent.info.run_id}"
    )
    tab.goto(f"{run}/artifacts")
    for name in ("figures", "report", "oof"):
        tab.get_by_text(name, exact=True).first.wait_for()
    tab.goto(run)
    tab.get_by_text("pAUC above 80 % sensitivity").first.wait_for()
