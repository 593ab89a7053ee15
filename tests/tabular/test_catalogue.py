"""The table of features: complete, unambiguous, and the one in docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from isic.core.errors import InputError
from isic.tabular.catalogue import catalogue, check_markdown, write_markdown

DOCS = Path(__file__).resolve().parents[2] / "docs" / "features.md"


def test_docs_hold_the_current_table() -> None:
    check_markdown(DOCS)


def test_drift_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "features.md"
    write_markdown(path)
    check_markdown(path)
    path.write_text(path.read_text().replace("hue_contrast", "hue"))
    with pytest.raises(InputError, match="isic features --write"):
        check_markdown(path)


def test_every_feature_is_explained_in_one_line() -> None:
    rows = catalogue()
    assert len({row.name for row in rows}) == len(rows)
    assert all(field and "\n" not in field and "{" not in field for row in rows for field in row)
    # LightGBM refuses these in feature names.
    assert not any(set(row.name) & set('",:[]{} ') for row in rows)
