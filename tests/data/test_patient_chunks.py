"""The chunks of whole patients hold exactly the rows of the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isic.core.errors import InputError
from isic.core.schema import TEST_COLUMNS
from isic.data import patient_chunks as home
from isic.data.patient_chunks import pack_patients, write_chunks
from isic.data.tables import read_metadata


@pytest.fixture
def table(sample_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training table in the test form whose patients' lesions lie anywhere in it, parsed in small
    chunks.
    """
    monkeypatch.setattr(home, "_PARSED_ROWS", 37)
    rows = pd.read_csv(sample_raw / "train-metadata.csv", low_memory=False).sample(
        frac=1.0, random_state=3
    )
    rows[list(TEST_COLUMNS)].assign(tbp_lv_x=7).to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


def test_the_pieces_hold_every_row_as_the_table_has_it_and_whole_patients(
    table: Path, tmp_path: Path
) -> None:
    whole = read_metadata(table, train=False)
    (tmp_path / "pieces").mkdir()
    pieces = write_chunks(table, tmp_path / "pieces", 50)
    frames = [pieces.chunk(number) for number in range(len(pieces))]
    assert len(frames) > 5
    assert tuple(map(len, frames)) == pieces.sizes
    pd.testing.assert_frame_equal(pd.concat(frames).sort_index(), whole)
    assert pieces.ids.tolist() == whole["isic_id"].tolist()
    assert sum(frame["patient_id"].nunique() for frame in frames) == whole["patient_id"].nunique()
    for number, frame in enumerate(frames):
        pd.testing.assert_series_equal(pieces.chunk_ids(number), frame["isic_id"])
        assert len(frame) <= 50 or frame["patient_id"].nunique() == 1


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40), limit=st.integers(1, 40))
def test_patients_are_packed_in_order_and_no_two_neighbouring_pieces_would_fit_one(
    sizes: list[int], limit: int
) -> None:
    place = pack_patients(np.array(sizes), limit)
    filled = np.bincount(place, weights=sizes)
    patients = np.bincount(place)
    assert place[0] == 0
    assert set(np.diff(place)) <= {0, 1}
    assert all(filled[patients > 1] <= limit)
    first = np.array(
        [sizes[np.flatnonzero(place == number)[0]] for number in range(1, len(filled))]
    )
    assert all(filled[:-1] + first > limit), "the next patient did not fit"


def test_a_lesion_that_comes_again_much_later_is_named(table: Path, tmp_path: Path) -> None:
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(InputError, match=f"{lines[1].split(',')[0]} occurs more than once"):
        write_chunks(table, tmp_path, 50)


def test_a_lesion_of_nobody_is_named_by_its_line(table: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(table, low_memory=False)
    rows.loc[400, "patient_id"] = np.nan
    rows.to_csv(table, index=False)
    with pytest.raises(InputError, match="line 402: patient_id is missing"):
        write_chunks(table, tmp_path, 50)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("tbp_lv_H", np.nan, "`tbp_lv_H` of ISIC_.* is nan"),
        ("tbp_lv_x", -np.inf, "`tbp_lv_x` of ISIC_.* is -inf"),
        ("age_approx", np.inf, "`age_approx` of ISIC_.* is inf"),
        ("age_approx", np.nan, None),
    ],
)
def test_a_measurement_that_no_model_was_trained_to_miss_is_named(
    table: Path, tmp_path: Path, column: str, value: float, said: str | None
) -> None:
    rows = pd.read_csv(table, low_memory=False).astype({column: "float64"})
    rows.loc[5, column] = value
    rows.to_csv(table, index=False)
    if said is None:
        assert len(write_chunks(table, tmp_path, 50).ids) == len(rows)
    else:
        with pytest.raises(InputError, match=said):
            write_chunks(table, tmp_path, 50)
