"""Pictures of other sources: their tables, and who of the challenge is in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.folds import make_folds
from isic.core.io import read_parquet
from isic.data.archive.build import import_source
from isic.data.archive.duplicates import near_pairs, picture_hash
from isic.data.archive.forms import list_files, read_diagnoses
from isic.data.archive.people import DIAGNOSES, PICTURES, may_train, read_sources
from isic.data.sample import write_sample
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from tests.data.mac_files import write_attributes


def save(path: Path, picture: np.ndarray, quality: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    assert cv2.imwrite(str(path), data, [cv2.IMWRITE_JPEG_QUALITY, quality])


def draw_pictures(folder: Path, names: list[str], suffix: str = ".jpg", seed: int = 0) -> None:
    """A picture of its own for each name: 320 x 240 px of blurred noise."""
    random = np.random.default_rng(seed)
    for name in names:
        noise = random.normal(150, 60, (30, 40, 3)).clip(0, 255).astype(np.uint8)
        save(folder / f"{name}{suffix}", cv2.resize(noise, (320, 240)))


#: Table files of each form in a small version, with all that they can hold.
FORMS = {
    "isic2018": {
        "ISIC2018_Task3_Training_GroundTruth.csv": (
            "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\na,1.0,0,0,0,0,0,0\nb,0,1,0,0,0,0,0\n"
            "c,0,0,0,1,0,0,0\n"
        ),
        "ISIC2018_Task3_Training_LesionGroupings.csv": (
            "image,lesion_id,diagnosis_confirm_type\na,HAM_1,histo\nb,HAM_2,histo\nc,HAM_2,x\n"
        ),
    },
    "isic2019": {
        "ISIC_2019_Training_GroundTruth.csv": (
            "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\na,1,0,0,0,0,0,0,0,0\nb,0,1,0,0,0,0,0,0,0\n"
            "c,0,0,0,0,0,0,0,0,1\n"
        ),
        "ISIC_2019_Training_Metadata.csv": (
            "image,age_approx,anatom_site_general,lesion_id,sex\na,5,x,HAM_1,\nb,,,HAM_2,\nc,,,HAM_2,\n"
        ),
    },
    "isic2020": {
        "ISIC_2020_Training_GroundTruth.csv": (
            "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,"
            "benign_malignant,target\na,IP_1,,,,melanoma,malignant,1\nb,IP_2,,,,nevus,benign,0\n"
            "c,IP_2,,,,unknown,benign,\n"
        )
    },
    "ham10000": {
        "HAM10000_metadata": (
            "lesion_id,image_id,dx,dx_type,age,sex,localization\nHAM_1,a,mel,histo,,,\n"
            "HAM_2,b,nv,histo,,,\nHAM_2,c,akiec,histo,,,\n"
        )
    },
    "pad_ufes_20": {
        "metadata.csv": (
            "patient_id,lesion_id,diagnostic,img_id,biopsed\nPAT_1,1,MEL,a.png,True\n"
            "PAT_2,2,NEV,b.png,False\nPAT_2,2,NEV,c.png,False\n"
        )
    },
    "folder": {
        "anything.csv": (
            "isic_id,patient_id,diagnosis_1,diagnosis_2,copyright_license\n"
            "a,P1,Malignant,Melanoma,CC-0\nb,P2,Benign,Nevus,CC-BY\nc,P2,Indeterminate,,CC-BY\n"
        )
    },
}


def write_tables(folder: Path, form: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FORMS[form].items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_table(form: str, tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "source", form)
    draw_pictures(folder / "images" / "part", ["a"], ".png" if form == "pad_ufes_20" else ".jpg")
    write_attributes(folder)
    table = read_diagnoses(form, list_files(folder)).set_index("isic_id")

    assert table.loc["a", "target"] == 1
    assert table.loc["b", "target"] == 0
    assert "melanoma" in table.loc["a", "diagnosis"].lower()
    assert "nevus" in table.loc["b", "diagnosis"].lower()
    if form != "pad_ufes_20":
        assert np.isnan(table.loc["c", "target"]), "a class that is neither"
    same = "lesion_id" if form in ("isic2018", "isic2019", "ham10000") else "patient_id"
    assert table.loc["b", same] == table.loc["c", same] != table.loc["a", same]
    expected = {"pad_ufes_20": "CC-BY", "folder": "CC-0"}.get(form, "CC-BY-NC")
    assert table.loc["a", "licence"] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "labels.csv").unlink(), "must hold one CSV"),
        (lambda folder: (folder / "more.csv").write_text("a\n1\n"), "must hold one CSV"),
        (lambda folder: (folder / "labels.csv").write_text("isic_id\na\n"), "no column `target`"),
        (lambda folder: (folder / "labels.csv").write_text("isic_id,target\na,2\n"), "not 0 or 1"),
        (
            lambda folder: (folder / "labels.csv").write_text("isic_id,target\na,1\na,0\n"),
            "the id of another row",
        ),
        (lambda folder: (folder / "labels.csv").write_text("isic_id,target\n../a,1\n"), "with /"),
        (lambda folder: (folder / "labels.csv").write_text("isic_id,target\nx,1\n"), "a picture"),
        (lambda folder: (folder / "a.jpg").write_bytes(b"\xff\xd8no"), "does not decode"),
        (
            lambda folder: (folder / "a.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-900]),
            "does not decode",
        ),
        (
            lambda folder: save(folder / "sub" / "a.jpg", np.zeros((32, 32, 3), np.uint8)),
            "one name",
        ),
    ],
)
def test_bad_input_is_one_error_and_leaves_nothing(
    change: Callable[[Path], object], message: str, tmp_path: Path, sample_raw: Path
) -> None:
    folder = tmp_path / "source"
    draw_pictures(folder, ["a", "b"])
    (folder / "labels.csv").write_text("isic_id,target\na,1\nb,0\n")
    change(folder)
    with pytest.raises(InputError, match=message):
        import_source("mine", folder, "folder", 64, None, sample_raw, tmp_path / "out" / "mine")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "out" in path.parts]


def test_near_pairs_are_those_of_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 2**64, (50, 4), dtype=np.uint64)
    b = np.concatenate([a[:20], random.integers(0, 2**64, (30, 4), dtype=np.uint64)])
    for row in range(20):
        bits = random.choice(256, 3 * row, replace=False)
        for bit in bits:
            b[row, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    expected = {
        (i, j)
        for i in range(50)
        for j in range(50)
        if sum(int(x).bit_count() for x in a[i] ^ b[j]) <= 40
    }
    assert {(i, i) for i in range(14)} <= expected
    assert set(map(tuple, near_pairs(a, b, 40).tolist())) == expected


@pytest.fixture(scope="module")
def planted(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Folds, imported rows, and the patient of the challenge planted under each name.

    `own` has the patient's id; `copy` is the patient's tile, larger and encoded again, without any
    id; `friend` shares the patient of `copy`, `twin` is a copy of `friend` from another source.
    """
    sample_raw = tmp_path_factory.mktemp("few") / "raw"
    write_sample(sample_raw, patients=30, lesions=150, positives=15, seed=3)
    train = read_metadata(sample_raw / "train-metadata.csv", train=True)
    test = read_metadata(sample_raw / "test-metadata.csv", train=False)
    folds = make_folds(train, 3, 0)
    mine, other = folds["patient_id"].unique()[[3, 20]]
    folder = tmp_path_factory.mktemp("archive")

    draw_pictures(folder / "one", ["own", "friend", "tested", *(f"free{i}" for i in range(6))])
    tile_id = folds.loc[folds["patient_id"] == other, "isic_id"].iloc[0]
    tile = TileStore(sample_raw / "train-image.hdf5").image(tile_id)
    save(folder / "one" / "copy.jpg", cv2.resize(tile, None, fx=1.7, fy=1.7), quality=60)
    names = ["own", "copy", "friend", "tested", *(f"free{i}" for i in range(6))]
    people = [mine, "X1", "X1", test["patient_id"].iloc[0], *(f"F{i}" for i in range(6))]
    pd.DataFrame(
        {"isic_id": names, "patient_id": people, "target": [1, 0] * 5, "diagnosis": "Nevus"}
    ).to_csv(folder / "one" / "labels.csv", index=False)
    draw_pictures(folder / "two", ["alone"], seed=9)
    friend = cv2.cvtColor(cv2.imread(str(folder / "one" / "friend.jpg")), cv2.COLOR_BGR2RGB)
    save(folder / "two" / "twin.jpg", cv2.resize(friend, (200, 150)), quality=70)
    (folder / "two" / "labels.csv").write_text("isic_id,target\nalone,1\ntwin,0\n")

    counts = {}
    for name in ("one", "two"):
        counts[name] = import_source(
            name, folder / name, "folder", 128, None, sample_raw, folder / "out" / name
        )
    shared = counts["one"]["shared"]
    assert (shared["patients"], shared["pictures"], shared["test_patients"]) == (3, 3, 1)
    assert shared["pictures_by"] == {"patient_id": 2, "picture": 1}
    assert counts["two"]["shared"]["patients"] == 0, "known only through the other source"
    rows = read_sources([folder / "out" / "one", folder / "out" / "two"])
    return folds, rows, {"own": mine, "copy": other, "friend": other, "twin": other}


def test_a_patient_trains_only_networks_that_do_not_score_them(
    planted: tuple[pd.DataFrame, pd.DataFrame, dict[str, str]],
) -> None:
    folds, rows, patients = planted
    fold_of = folds.drop_duplicates("patient_id").set_index("patient_id")["fold"]
    for fold in range(3):
        scored = set(fold_of.index[fold_of == fold])
        allowed = set(rows.loc[may_train(rows, set(fold_of.index) - scored, scored), "isic_id"])
        for name, patient in patients.items():
            assert (name in allowed) == (fold_of[patient] != fold), (name, fold)
        assert "tested" not in allowed, "of a patient of the test set"
        assert {"alone", *(f"free{i}" for i in range(6))} <= allowed


def test_pictures_are_kept_small_and_in_shape(
    planted: tuple[pd.DataFrame, pd.DataFrame, dict[str, str]],
) -> None:
    _, rows, _ = planted
    folder = Path(rows["folder"].iloc[0])
    kept = TileStore(folder / PICTURES).image("own")
    assert kept.shape == (96, 128, 3)
    stored = read_parquet(folder / DIAGNOSES)
    own = np.frombuffer(stored.loc[stored["isic_id"] == "own", "hash"].item(), np.uint64)
    # The hash is that of the picture before it was encoded.
    assert near_pairs(picture_hash(kept)[None], own[None]).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("form", "rows", "malignant", "patients"),
    [("isic2019", 25_331, 4_522 + 3_323 + 628, 0), ("isic2020", 33_126, 584, 2_056)],
)
def test_the_real_tables_have_the_published_counts(
    form: str, rows: int, malignant: int, patients: int, real_data: Path, tmp_path: Path
) -> None:
    source = real_data.parent / "archive"
    if not source.is_dir():
        pytest.skip("no label tables of the archive beside the real data")
    for path in source.glob("*.csv"):
        (tmp_path / path.name).symlink_to(path)
    draw_pictures(tmp_path, ["ISIC_0000000"])
    table = read_diagnoses(form, list_files(tmp_path))
    assert len(table) == rows
    assert table["target"].sum() == malignant
    assert table.loc[table["patient_id"] != "", "patient_id"].nunique() == patients
    if form == "isic2019":
        assert table["diagnosis"].value_counts().to_dict() == {
            "Nevus": 12_875,
            "Melanoma": 4_522,
            "Basal cell carcinoma": 3_323,
            "Benign keratosis": 2_624,
            "Actinic keratosis": 867,
            "Squamous cell carcinoma": 628,
            "Vascular lesion": 253,
            "Dermatofibroma": 239,
        }


@pytest.mark.slow
def test_real_patients_in_the_real_table_train_no_network_that_scores_them(
    real_data: Path, tmp_path: Path
) -> None:
    tables, raw = real_data.parent / "archive", real_data / "competition"
    if not tables.is_dir():
        pytest.skip("no label tables of the archive beside the real data")
    table = pd.read_csv(tables / "ISIC_2020_Training_GroundTruth.csv")
    train = read_metadata(raw / "train-metadata.csv", train=True)
    shared = set(table["patient_id"]) & set(train["patient_id"])
    assert shared, "some of the people are the same"
    pictures = table.loc[table["patient_id"].isin(shared), "image_name"].tolist()
    pictures += table.loc[~table["patient_id"].isin(shared), "image_name"].head(50).tolist()
    source = tmp_path / "isic2020"
    draw_pictures(source, pictures)
    (source / "ISIC_2020_Training_GroundTruth.csv").symlink_to(
        tables / "ISIC_2020_Training_GroundTruth.csv"
    )

    counts = import_source("old", source, "isic2020", 64, None, raw, tmp_path / "out" / "old")
    assert counts["shared"]["patients"] == len(shared)
    assert counts["shared"]["pictures"] == len(pictures) - 50
    rows, folds = read_sources([tmp_path / "out" / "old"]), make_folds(train, 3, 0)
    for fold in range(3):
        scored = set(folds.loc[folds["fold"] == fold, "patient_id"])
        used = rows[may_train(rows, set(train["patient_id"]) - scored, scored)]
        assert not set(used["patient_id"]) & scored
        assert set(used["patient_id"]) & shared == shared - scored
