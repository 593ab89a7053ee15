"""The generator at full size against the published population of 401,059 lesions.

Numbers in this file are published ones (statistics of the whole training set, see `sources` in
population.json); quantiles and Spearman matrices come from the folder of real data and are skipped
without it.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic.data.sample.population import population
from isic.data.sample.rows import draw_rows


@pytest.fixture(scope="module")
def full() -> pd.DataFrame:
    return draw_rows(population(), seed=0, patients=1042, lesions=401_059, positives=393).frame


def test_numbers_are_shipped_with_their_sources() -> None:
    shipped = json.loads(
        (files("isic.data.sample") / "population.json").read_text(encoding="utf-8")
    )
    assert all(len(source) > 40 for source in shipped["sources"])
    assert any("doi:10.1038/s41597-024-03743-w" in source for source in shipped["sources"])


def test_patients_lesions_and_malignant_lesions(full: pd.DataFrame) -> None:
    patients = full.groupby("patient_id")["target"].agg(["size", "sum"])
    with_malignant = patients["sum"] > 0
    assert (len(full), len(patients), full["target"].sum(), with_malignant.sum()) == (
        401_059,
        1042,
        393,
        259,
    )
    per_patient = {1: 193, 2: 35, 3: 18, 4: 6, 5: 2, 6: 1, 7: 2, 8: 1, 14: 1}
    assert patients["sum"][with_malignant].value_counts().to_dict() == per_patient
    quartiles = [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(
        patients["size"][with_malignant].quantile(quartiles), [213, 434, 758, 6267], rtol=0.1
    )
    np.testing.assert_allclose(
        patients["size"][~with_malignant].quantile(quartiles), [95, 203, 392, 9184], rtol=0.1
    )


#: Rows, patients, licence, share of lesions under white light.
HOSPITALS = {
    "Memorial Sloan Kettering Cancer Center": (129_068, 398, "CC-BY", 0.888),
    "Department of Dermatology, Hospital Clínic de Barcelona": (105_724, 163, "CC-BY-NC", 0),
    "University Hospital of Basel": (65_218, 230, "CC-BY-NC", 0),
    "Frazer Institute, The University of Queensland, Dermatology Research Centre": (
        51_768,
        176,
        "CC-BY",
        0,
    ),
    "ACEMID MIA": (28_665, 44, "CC-0", 0),
    "ViDIR Group, Department of Dermatology, Medical University of Vienna": (
        12_640,
        15,
        "CC-BY-NC",
        0,
    ),
    "Department of Dermatology, University of Athens, Andreas Syggros Hospital of Skin and Venereal Diseases, Alexander Stratigos, Konstantinos Liopyris": (  # noqa: E501
        7_976,
        16,
        "CC-BY",
        0,
    ),
}


def test_hospitals_with_their_patients_light_and_licence(full: pd.DataFrame) -> None:
    assert set(full["attribution"]) == set(HOSPITALS)
    for name, (rows, patients, licence, white) in HOSPITALS.items():
        here = full[full["attribution"] == name]
        assert len(here) == pytest.approx(rows, rel=0.1), name
        assert here["patient_id"].nunique() == patients, name
        assert set(here["copyright_license"]) == {licence}, name
        assert (here["tbp_tile_type"] == "3D: white").mean() == pytest.approx(white, abs=0.04), name
    rates = full.groupby("tbp_tile_type")["target"].mean()
    assert rates["3D: white"] == pytest.approx(0.001702, rel=0.15)
    assert rates["3D: XP"] == pytest.approx(0.000689, rel=0.15)


def test_missing_values_sexes_and_sites(full: pd.DataFrame) -> None:
    missing = full[["anatom_site_general", "sex", "age_approx"]].isna().mean()
    assert missing["anatom_site_general"] == pytest.approx(0.01435, rel=0.1)
    # Sex and age are missing for whole patients, of very different size.
    assert missing["sex"] == pytest.approx(0.02872, abs=0.02)
    assert missing["age_approx"] == pytest.approx(0.00698, abs=0.01)
    assert (full["sex"] == "male").mean() == pytest.approx(265_546 / 401_059, abs=0.05)
    assert full["lesion_id"].notna().sum() == pytest.approx(22_058, rel=0.05)
    sites = {
        "posterior torso": (121_902, 0.000845),
        "lower extremity": (103_028, 0.000709),
        "anterior torso": (87_770, 0.000934),
        "upper extremity": (70_557, 0.000808),
        "head/neck": (12_046, 0.006475),
    }
    found = full.groupby("anatom_site_general")["target"].agg(["size", "mean"])
    assert set(found.index) == set(sites)
    for name, (count, rate) in sites.items():
        assert found.loc[name, "size"] == pytest.approx(count, rel=0.1), name
        assert found.loc[name, "mean"] == pytest.approx(rate, rel=0.35), name


def test_malignant_lesions_are_large_within_their_patient(full: pd.DataFrame) -> None:
    percentile = full.groupby("patient_id")["clin_size_long_diam_mm"].rank(pct=True)[
        full["target"] == 1
    ]
    assert percentile.median() == pytest.approx(0.88, abs=0.06)
    assert (percentile > 0.9).mean() == pytest.approx(0.457, abs=0.1)


def test_hospitals_and_patients_differ_by_more_than_their_lesions(full: pd.DataFrame) -> None:
    light = full.loc[full["target"] == 0, ["attribution", "patient_id", "tbp_lv_Lext"]]
    hospital = light.groupby("attribution")["tbp_lv_Lext"].mean() - light["tbp_lv_Lext"].mean()
    # White light is at one hospital, whose tiles are the lightest: by the published rows half an
    # sd and more.
    assert hospital.idxmax() == "Memorial Sloan Kettering Cancer Center"
    assert hospital.max() / light["tbp_lv_Lext"].std() > 0.3
    within = light["tbp_lv_Lext"] - light.groupby("attribution")["tbp_lv_Lext"].transform("mean")
    patient = within.groupby(light["patient_id"]).transform("mean")
    assert 0.05 < patient.var() / within.var() < 0.9


def test_quantiles_are_the_published_ones(full: pd.DataFrame, real_data: Path) -> None:
    published = pd.read_csv(
        real_data / "statistics" / "population_quantiles_n401059.csv", index_col=0
    )
    columns = [
        name for name in published.index if name in full and name not in ("target", "age_approx")
    ]
    assert len(columns) == 33
    shares = ["10%", "25%", "40%", "50%", "60%", "75%", "90%", "95%"]
    found = (
        full[columns]
        .quantile([float(share[:-1]) / 100 for share in shares if share in published])
        .T
    )
    expected = published.loc[columns, [share for share in shares if share in published]]
    off = (
        np.abs(found.to_numpy() - expected.to_numpy()) / published.loc[columns, ["std"]].to_numpy()
    )
    assert off.max() < 0.25, columns[int(off.max(axis=1).argmax())]
    assert np.median(off) < 0.03
    # Ages are in steps of five, about a third of their sd, hence a tolerance of one step.
    ages = full["age_approx"].quantile([0.1, 0.5, 0.9]).to_numpy() - [40, 60, 75]
    assert np.abs(ages).max() <= 5


@pytest.mark.parametrize(("name", "target"), [("neg977sample", 0), ("pos393", 1)])
def test_rank_correlations_are_the_published_ones(name: str, target: int, real_data: Path) -> None:
    published = pd.read_csv(real_data / "statistics" / f"spearman_{name}.csv", index_col=0)
    # More malignant lesions than published, so that their correlations can be estimated.
    rows = draw_rows(population(), seed=1, patients=600, lesions=20_000, positives=1500).frame
    columns = [column for column in published.columns if column in rows]
    assert len(columns) > 30
    pairs = np.triu_indices(len(columns), 1)
    found = rows.loc[rows["target"] == target, columns].corr("spearman").to_numpy()[pairs]
    expected = published.loc[columns, columns].to_numpy()[pairs]
    assert np.corrcoef(found, expected)[0, 1] > 0.97
    assert np.abs(found - expected).mean() < 0.06
    assert np.abs(found - expected).max() < 0.4
