"""The generator against what is published, and against the contract of the official files."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from isic.core.errors import InputError
from isic.core.schema import IDENTITIES, IDENTITY_TOLERANCE, TEST_COLUMNS, TRAIN_COLUMNS
from isic.data.sample import write_sample
from isic.data.sample.looks import SIGNS, draw_looks
from isic.data.sample.population import population
from isic.data.sample.rows import draw_rows
from isic.data.sample.tile import render
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore

FILES = {
    "train-metadata.csv",
    "train-image.hdf5",
    "test-metadata.csv",
    "test-image.hdf5",
    "sample_submission.csv",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, patients=60, lesions=600, positives=12, seed=3, processes=1)
    return folder


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """A tenth of the published size, with ten times the share of malignant lesions for their
    margins.
    """
    return draw_rows(population(), seed=1, patients=600, lesions=40_000, positives=1500).frame


def test_five_official_files_with_their_columns(small: Path) -> None:
    assert {path.name for path in small.iterdir()} == FILES
    train = read_metadata(small / "train-metadata.csv", train=True)
    test = read_metadata(small / "test-metadata.csv", train=False)
    assert tuple(pd.read_csv(small / "train-metadata.csv", nrows=1).columns) == TRAIN_COLUMNS
    assert tuple(test.columns) == TEST_COLUMNS
    assert (len(train), train["target"].sum(), train["patient_id"].nunique()) == (600, 12, 60)
    assert train["isic_id"].is_monotonic_increasing
    submission = pd.read_csv(small / "sample_submission.csv")
    assert submission["isic_id"].tolist() == test["isic_id"].tolist()


def test_every_row_has_a_square_tile_of_real_size(small: Path) -> None:
    for part in ("train", "test"):
        ids = read_metadata(small / f"{part}-metadata.csv", train=part == "train")[
            "isic_id"
        ].to_list()
        store = TileStore(small / f"{part}-image.hdf5")
        assert sorted(store.ids()) == sorted(ids)
        shapes = {store.image(name).shape for name in ids}
        assert all(
            height == width and 51 <= width <= 239 and depth == 3 for height, width, depth in shapes
        )


def test_test_set_is_the_official_placeholder(small: Path) -> None:
    train = read_metadata(small / "train-metadata.csv", train=True)
    test = read_metadata(small / "test-metadata.csv", train=False)
    assert test["patient_id"].nunique() == len(test) == 3
    assert not set(test["patient_id"]) & set(train["patient_id"])
    assert "FNQH Cairns" in set(test["attribution"])
    assert "FNQH Cairns" not in set(train["attribution"])


def test_same_request_same_bytes_whatever_the_processes(small: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "again", patients=60, lesions=600, positives=12, seed=3, processes=2)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (small / name).read_bytes(), name
    write_sample(tmp_path / "other", patients=60, lesions=600, positives=12, seed=4, images=False)
    assert (tmp_path / "other" / "train-metadata.csv").read_bytes() != (
        small / "train-metadata.csv"
    ).read_bytes()
    assert not (tmp_path / "other" / "train-image.hdf5").exists()


@pytest.mark.slow
def test_it_ends_in_a_process_whose_opencv_has_threads(small: Path, tmp_path: Path) -> None:
    script = (
        "import cv2, numpy as np, sys; from pathlib import Path;"
        "from isic.data.sample import write_sample;"
        "cv2.setNumThreads(4); cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 5);"
        "write_sample(Path(sys.argv[1]), 60, 600, 12, seed=3, processes=2)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "threads")]
    subprocess.run(command, check=True, timeout=120)
    tiles = (tmp_path / "threads" / "train-image.hdf5").read_bytes()
    assert tiles == (small / "train-image.hdf5").read_bytes()


@pytest.mark.parametrize(
    ("patients", "lesions", "positives"),
    [
        (1, 1, 0),
        (1, 1, 1),
        (3, 3, 1),
        (3, 40, 0),
        (10, 20, 20),
        (5, 2000, 4),
        (50, 50, 50),
        (60, 3000, 60),
    ],
)
def test_small_requests_are_met_exactly(patients: int, lesions: int, positives: int) -> None:
    frame = draw_rows(population(), 0, patients, lesions, positives).frame
    assert (frame["patient_id"].nunique(), len(frame), frame["target"].sum()) == (
        patients,
        lesions,
        positives,
    )


@pytest.mark.parametrize(
    ("patients", "lesions", "positives"), [(0, 5, 1), (10, 9, 1), (5, 10, 11), (5, 10, -1)]
)
def test_impossible_requests_say_so_and_write_nothing(
    tmp_path: Path, patients: int, lesions: int, positives: int
) -> None:
    with pytest.raises(InputError) as error:
        write_sample(tmp_path / "out", patients, lesions, positives, seed=0)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_identities_survive_the_file(small: Path) -> None:
    frame = read_metadata(small / "train-metadata.csv", train=True)
    for column, formula in IDENTITIES.items():
        assert (frame[column] - formula(frame)).abs().max() < IDENTITY_TOLERANCE, column


def test_functional_columns_and_missing_values(rows: pd.DataFrame) -> None:
    for cause, effect in [
        ("tbp_lv_location", "tbp_lv_location_simple"),
        ("attribution", "copyright_license"),
        ("patient_id", "attribution"),
    ]:
        assert rows.groupby(cause)[effect].nunique().max() == 1
    assert (rows["anatom_site_general"].isna() == (rows["tbp_lv_location"] == "Unknown")).all()
    assert (rows["clin_size_long_diam_mm"][rows["lesion_id"].isna()] >= 2.5).all()
    assert rows["lesion_id"][rows["target"] == 1].notna().all()
    assert rows.groupby("patient_id")["sex"].nunique(dropna=False).max() == 1
    ages = rows.groupby("patient_id")["age_approx"]
    assert ((ages.max() - ages.min()).dropna() <= 5).all()
    assert set(rows["tbp_lv_symm_2axis_angle"] % 5) == {0}
    assert (rows["iddx_1"].eq("Malignant") == rows["target"].eq(1)).all()
    assert rows["mel_thick_mm"][rows["target"] == 0].isna().all()


def test_near_exact_relations(rows: pd.DataFrame) -> None:
    tbp = rows.rename(columns=lambda name: name.removeprefix("tbp_lv_"))
    border = (0.173 * tbp["area_perim_ratio"] + 7.58 * tbp["symm_2axis"] - 2.17).clip(0, 10)
    assert (border - tbp["norm_border"]).std() < 0.12
    assert ((tbp["norm_color"] == 0) == (tbp["color_std_mean"] == 0)).all()
    excess = tbp["deltaLB"] - np.hypot(tbp["deltaL"], tbp["deltaB"])
    assert excess.min() > -1e-5
    assert excess.mean() == pytest.approx(0.17, abs=0.02)
    assert np.corrcoef(tbp["L"], tbp["Lext"])[0, 1] == pytest.approx(0.960, abs=0.03)
    assert np.corrcoef(tbp["color_std_mean"], tbp["norm_color"])[0, 1] == pytest.approx(
        0.965, abs=0.03
    )


# Published statistics: mean over all rows and over the malignant ones, and the sd of all rows.
PUBLISHED = {
    "clin_size_long_diam_mm": (3.93, 5.75, 1.74),
    "tbp_lv_A": (19.97, 22.50, 4.00),
    "tbp_lv_B": (28.28, 23.84, 5.28),
    "tbp_lv_H": (54.65, 46.74, 5.52),
    "tbp_lv_Hext": (61.00, 55.12, 5.63),
    "tbp_lv_L": (42.29, 40.88, 10.9),
    "tbp_lv_deltaB": (1.37, -1.11, 2.22),
    "tbp_lv_stdLExt": (2.24, 2.76, 0.62),
    "tbp_lv_areaMM2": (8.54, 22.49, 9.68),
    "tbp_lv_deltaLBnorm": (7.54, 8.70, 2.40),
    "tbp_lv_norm_border": (3.45, 3.82, 1.72),
}


@pytest.mark.parametrize("column", PUBLISHED)
def test_means_are_the_published_ones(rows: pd.DataFrame, column: str) -> None:
    benign, malignant, sd = PUBLISHED[column]
    by_target = rows.groupby("target")[column].mean()
    # 600 patients instead of 1,042: patient effects change the benign mean.
    assert by_target[0] == pytest.approx(benign, abs=0.2 * sd)
    assert by_target[1] == pytest.approx(malignant, abs=0.3 * sd)


@pytest.mark.parametrize(
    ("column", "published"), [("tbp_lv_H", 0.806), ("tbp_lv_deltaB", 0.754), ("tbp_lv_B", 0.712)]
)
def test_single_columns_separate_as_published(
    rows: pd.DataFrame, column: str, published: float
) -> None:
    assert roc_auc_score(rows["target"], -rows[column]) == pytest.approx(published, abs=0.04)


def test_lesions_of_a_patient_resemble_each_other(rows: pd.DataFrame) -> None:
    benign = rows[rows["target"] == 0]
    for column in ("tbp_lv_Lext", "tbp_lv_Bext", "tbp_lv_nevi_confidence"):
        means = benign.groupby("patient_id")[column].transform("mean")
        assert 0.15 < means.var() / benign[column].var() < 0.9, column


def test_tiles_agree_with_their_rows() -> None:
    sample = draw_rows(population(), seed=5, patients=60, lesions=250, positives=20)
    looks = draw_looks(population(), np.random.default_rng(0), sample)
    rng = np.random.default_rng(0)
    seen = []
    for look in looks:
        image = render(rng, look)
        lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        side = len(image)
        away = np.hypot(*(np.mgrid[:side, :side] - side / 2)) * 15 / side
        seen.append([*np.median(lab[away > 5], axis=0), np.median(lab[away < 0.9], axis=0)[0]])
    light, red, yellow, core = np.array(seen).T
    frame = sample.frame
    assert np.corrcoef(light, frame["tbp_lv_Lext"])[0, 1] > 0.75
    assert np.corrcoef(red, frame["tbp_lv_Aext"])[0, 1] > 0.75
    assert np.corrcoef(yellow, frame["tbp_lv_Bext"])[0, 1] > 0.75
    assert np.corrcoef(core - light, frame["tbp_lv_deltaL"])[0, 1] > 0.5


def test_images_carry_signs_that_no_column_has() -> None:
    sample = draw_rows(population(), seed=6, patients=300, lesions=4000, positives=800)
    signs = draw_looks(population(), np.random.default_rng(0), sample)["signs"].sum(axis=1)
    target = sample.frame["target"].to_numpy()
    assert signs.shape == target.shape
    assert len(SIGNS) > 3
    assert 0.75 < roc_auc_score(target, signs) < 0.97


def test_shares_are_the_same_whatever_the_seed() -> None:
    for seed in range(3):
        frame = draw_rows(population(), seed, patients=1042, lesions=20_000, positives=393).frame
        malignant = frame[frame["target"] == 1]
        # Published: 196 of 393 under white light, 174 at Memorial Sloan Kettering, 163 basal cell
        # carcinomas, a quarter smaller than what the machine finds by itself.
        assert (malignant["tbp_tile_type"] == "3D: white").sum() == pytest.approx(196, abs=6)
        largest = malignant["attribution"].value_counts().max()
        assert largest == pytest.approx(174, abs=4)
        basal = malignant["iddx_full"].str.contains("Basal cell carcinoma").sum()
        assert basal == pytest.approx(163, abs=2)
        small = (malignant["clin_size_long_diam_mm"] < 2.5).mean()
        assert small == pytest.approx(0.255, abs=0.02)
        assert malignant["age_approx"].mean() == pytest.approx(61.4, abs=1)
        assert frame["age_approx"].mean() == pytest.approx(58.0, abs=1)


def test_some_benign_lesions_look_malignant() -> None:
    """Without them a linear rule finds half of the malignant lesions at once."""
    sample = draw_rows(population(), seed=2, patients=1000, lesions=30_000, positives=400)
    target = sample.frame["target"].to_numpy()
    lookalike = ~np.isnan(sample.visibility) & (target == 0)
    assert lookalike.mean() == pytest.approx(0.043, abs=0.002)
    assert not np.isnan(sample.visibility[target == 1]).any()
    hue = sample.frame["tbp_lv_H"].to_numpy()
    assert hue[lookalike].mean() < hue[(target == 0) & ~lookalike].mean() - 4
    small = sample.frame.loc[lookalike, "clin_size_long_diam_mm"] < 2.5
    assert small.mean() < 0.01


def test_a_tile_shows_more_where_its_row_does() -> None:
    sample = draw_rows(population(), seed=6, patients=300, lesions=4000, positives=2000)
    signs = draw_looks(population(), np.random.default_rng(0), sample)["signs"].sum(axis=1)
    malignant = sample.frame["target"].to_numpy() == 1
    order = np.argsort(sample.visibility[malignant])
    hidden, plain = signs[malignant][order[:500]], signs[malignant][order[-500:]]
    assert hidden.mean() < 0.9 * plain.mean()


def test_another_population_file(tmp_path: Path) -> None:
    shipped = json.loads(files("isic.data.sample").joinpath("population.json").read_text("utf-8"))
    shipped["visibility"]["lookalikes"] = 0.5
    path = tmp_path / "other.json"
    path.write_text(json.dumps(shipped), encoding="utf-8")
    sample = draw_rows(population(path), seed=2, patients=10, lesions=1000, positives=0)
    assert np.isfinite(sample.visibility).sum() == 500


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"variables": []}', None])
def test_a_file_of_another_form_is_one_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        write_sample(tmp_path / "out", 10, 100, 5, seed=0, images=False, population_file=path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert not (tmp_path / "out").exists()
