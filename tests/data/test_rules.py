"""What `validate` refuses is refused alike by every way to score lesions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.schema import NUMERIC, TEST_COLUMNS
from isic.data.patient_chunks import open_chunked
from isic.data.rules import refuse_rows, row_faults
from isic.data.tables import read_metadata
from isic.predict.requests import _typed
from isic.predict.rows import InMemoryRows
from isic.scale.shards import pack_shard, unpack_shard

BROKEN: dict[str, Any] = {
    "age_approx": -1.0,
    "clin_size_long_diam_mm": 0.0,
    "tbp_lv_areaMM2": -0.5,
    "tbp_lv_perimeterMM": 1e5,
    "tbp_lv_minorAxisMM": -2.0,
    "tbp_lv_eccentricity": 1.01,
    "tbp_lv_nevi_confidence": 100.5,
    "tbp_lv_norm_border": -1e-3,
    "tbp_lv_color_std_mean": 1e9,
    "tbp_lv_symm_2axis_angle": -1.0,
    "tbp_lv_L": 150.0,
    "tbp_lv_C": 0.0,
    "tbp_lv_Hext": 17.0,
    "tbp_lv_deltaL": 55.0,
    "tbp_lv_area_perim_ratio": 1.0,
    "tbp_lv_x": np.inf,
    "tbp_lv_y": np.nan,
    "isic_id": "ISIC_0000008\t",
    "patient_id": " IP_0000001",
    "attribution": None,
    "tbp_lv_location": None,
}


@pytest.fixture(scope="module")
def rows(sample_raw: Path) -> pd.DataFrame:
    return read_metadata(sample_raw / "train-metadata.csv", train=True)[list(TEST_COLUMNS)].head(40)


def test_whole_rows_break_no_rule(rows: pd.DataFrame) -> None:
    assert list(row_faults(rows)) == []
    unknown = rows.assign(attribution="Nowhere", sex="other", tbp_lv_location="Moon")
    assert list(row_faults(unknown)) == []
    assert list(row_faults(rows.assign(age_approx=np.nan, sex=None))) == []
    # A request's ids may be numbers.
    assert list(row_faults(rows.assign(isic_id=range(len(rows)), patient_id=1.5))) == []


@pytest.mark.parametrize("column", BROKEN)
def test_a_broken_rule_is_refused_at_every_door(
    rows: pd.DataFrame, tmp_path: Path, column: str
) -> None:
    broken = rows.copy()
    broken.loc[7, column] = BROKEN[column]
    assert column in [fault.column for fault in row_faults(broken)]
    line = f"`{column}` of {broken['isic_id'][7].strip()} is "
    with pytest.raises(InputError, match=line):
        refuse_rows(broken, "here")
    with pytest.raises(InputError, match=line):
        InMemoryRows(broken)
    with pytest.raises(InputError, match=line):
        InMemoryRows(_typed(pd.DataFrame(json.loads(broken.to_json(orient="records")))))
    with pytest.raises(InputError, match=line):
        InMemoryRows(unpack_shard(pack_shard(broken, [None] * len(broken)), "a shard").rows)
    broken.to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InputError, match=f"`{column}`"), open_chunked(tmp_path / "rows.csv", 100):
        pass


@pytest.mark.parametrize("column", ["age_approx", "tbp_lv_z", "tbp_lv_eccentricity"])
@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_is_no_number(
    rows: pd.DataFrame, tmp_path: Path, column: str, value: bool
) -> None:
    assert column in NUMERIC
    whole = rows.assign(**{column: value})
    one = rows.astype({column: object})
    one.loc[3, column] = value
    for frame in (whole, one):
        frame.to_csv(tmp_path / "rows.csv", index=False)
        with pytest.raises(InputError, match=f"`{column}` holds '{value}'"):
            read_metadata(tmp_path / "rows.csv", train=False)
        with pytest.raises(InputError, match=f"`{column}`"), open_chunked(tmp_path / "rows.csv", 9):
            pass
    with pytest.raises(InputError, match=f"`{column}` .* a number is needed"):
        InMemoryRows(whole)
