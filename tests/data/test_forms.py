"""Every form of the data gives the five official files: the same rows and the same bytes."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.data import image_files
from isic.data.forms import build, find
from isic.data.forms.build import import_data
from isic.data.source import FILES
from isic.data.validate import validate
from tests.conftest import Outcome
from tests.data.mac_files import ATTRIBUTES, write_attributes

SUPPLEMENT = [
    "lesion_id",
    *("iddx_full", "iddx_1", "iddx_2", "iddx_3", "iddx_4", "iddx_5"),
    *("mel_mitotic_index", "mel_thick_mm", "tbp_lv_dnn_lesion_confidence"),
]
INPUT = "ISIC_2024_Training_Input"


@pytest.fixture(scope="module")
def lesions(sample_raw: Path) -> pd.DataFrame:
    """Rows of whole patients as text, both classes among them."""
    frame = pd.read_csv(sample_raw / "train-metadata.csv", dtype="str", keep_default_na=False)
    ill = frame.loc[frame["target"] == "1", "patient_id"].unique()[:3]
    return frame[frame["patient_id"].isin([*ill, *frame["patient_id"].unique()[:3]])]


@pytest.fixture(scope="module")
def tiles(lesions: pd.DataFrame, sample_raw: Path) -> dict[str, bytes]:
    with h5py.File(sample_raw / "train-image.hdf5") as file:
        return {name: bytes(file[name][()]) for name in lesions["isic_id"]}


def _challenge(lesions: pd.DataFrame, folder: Path, metadata: str = "Metadata") -> None:
    """The three tables of the challenge, rows in other orders."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "ISIC_2024_Training_{}.csv"
    truth = lesions[["isic_id", "target"]].rename(columns={"target": "malignant"}).iloc[::-1]
    truth["malignant"] += ".0"
    truth.to_csv(folder / name.format("GroundTruth"), index=False)
    lesions[["isic_id", *SUPPLEMENT]].sample(frac=1, random_state=2).to_csv(
        folder / name.format("Supplement"), index=False
    )
    main = lesions.drop(columns=["target", *SUPPLEMENT])
    path = folder / (metadata if "." in metadata else name.format(metadata))
    path.parent.mkdir(exist_ok=True)
    main[list(reversed(main.columns))].to_csv(path, index=False)


def _files(folder: Path, tiles: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in tiles.items():
        (folder / f"{name}.jpg").write_bytes(data)


def _zip(path: Path, tiles: dict[str, bytes], *tables: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for table in tables:
            archive.write(table, f"{INPUT}/{table.name}")
        for name, data in tiles.items():
            archive.writestr(f"{INPUT}/{name}.jpg", data)


def _tar(path: Path, tiles: dict[str, bytes], *tables: Path) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in tiles.items():
            member = tarfile.TarInfo(f"./{INPUT}/{name}.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for table in tables:
            archive.add(table, f"./{INPUT}/{table.name}")


def _challenge_folder(lesions: pd.DataFrame, tiles: dict[str, bytes], folder: Path) -> Path:
    _challenge(lesions, folder, f"{INPUT}/metadata.csv")
    _files(folder / INPUT / "image", tiles)
    return folder


def _as_downloaded(lesions: pd.DataFrame, tiles: dict[str, bytes], folder: Path) -> Path:
    """The archive with metadata.csv in it, beside the two other tables."""
    _challenge(lesions, folder, "metadata.csv")
    _zip(folder / f"{INPUT}.zip", tiles, folder / "metadata.csv")
    (folder / "metadata.csv").unlink()
    return folder


def _one_zip(lesions: pd.DataFrame, tiles: dict[str, bytes], folder: Path) -> Path:
    _challenge(lesions, folder)
    _zip(folder.with_suffix(".zip"), tiles, *folder.iterdir())
    return folder.with_suffix(".zip")


def _windows_zip(lesions: pd.DataFrame, tiles: dict[str, bytes], folder: Path) -> Path:
    """An archive with backslashes in its members' names, as older programs on Windows pack."""
    _challenge(lesions, folder)
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for table in folder.iterdir():
            archive.writestr(f"ISIC 2024\\{table.name}", table.read_bytes())
        for name, data in tiles.items():
            archive.writestr(f"ISIC 2024\\{INPUT}\\{name}.JPG", data)
    return folder.with_suffix(".zip")


def _one_tar(lesions: pd.DataFrame, tiles: dict[str, bytes], folder: Path) -> Path:
    _challenge(lesions, folder)
    _tar(folder.with_suffix(".tgz"), tiles, *folder.iterdir())
    return folder.with_suffix(".tgz")


def _tar_beside(lesions: pd.DataFrame, tiles: dict[str, bytes], folder: Path) -> Path:
    _challenge(lesions, folder)
    _tar(folder / "tiles.tar", tiles)
    return folder


def _competition(lesions: pd.DataFrame, tiles: dict[str, bytes], folder: Path) -> Path:
    """Kaggle's folder with the tiles as files and the table in UTF-16 with tabs."""
    _files(folder / "train-image" / "image", tiles)
    lesions.to_csv(folder / "train-metadata.csv", index=False, sep="\t", encoding="utf-16")
    write_attributes(folder)
    (folder / "._tiles.zip").write_bytes(ATTRIBUTES)
    # A notebook's copy of a table.
    (folder / ".ipynb_checkpoints").mkdir()
    lesions.head(3).to_csv(folder / ".ipynb_checkpoints" / "train-metadata.csv", index=False)
    return folder


def _kaggle(lesions: pd.DataFrame, tiles: dict[str, bytes], folder: Path) -> Path:
    """Kaggle's archive: tiles as files and in HDF5 both."""
    folder.mkdir()
    lesions.to_csv(folder / "train-metadata.csv", index=False)
    with h5py.File(folder / "train-image.hdf5", "w") as file:
        for name, data in tiles.items():
            file[name] = np.bytes_(data)
    pd.DataFrame({"isic_id": ["ISIC_0000001"], "target": 0.0}).to_csv(
        folder / "sample_submission.csv", index=False
    )
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
            archive.writestr(f"__MACOSX/._{path.name}", ATTRIBUTES)
        for name in list(tiles)[::2]:
            archive.writestr(f"train-image/image/{name}.jpg", tiles[name])
    return folder.with_suffix(".zip")


def _hdf5(lesions: pd.DataFrame, tiles: dict[str, bytes], folder: Path) -> Path:
    _challenge(lesions, folder)
    with h5py.File(folder / "packed.h5", "w") as file:
        for number, (name, data) in enumerate(tiles.items()):
            # Some pack arrays of one length, with zeros after the JPEG.
            packed = np.frombuffer(data + bytes(number % 3), np.uint8)
            file[f"{number % 2}/{name}.jpg"] = packed if number % 2 else np.void(data)
    return folder


def _archive_tool(lesions: pd.DataFrame, tiles: dict[str, bytes], folder: Path) -> Path:
    """Images and metadata.csv as isic-cli writes them, beside the challenge's measurements."""
    _challenge(lesions, folder, "measurements.csv")
    for name in ("GroundTruth", "Supplement"):
        (folder / f"ISIC_2024_Training_{name}.csv").unlink()
    for name, data in tiles.items():
        (folder / f"{name}.jpg").write_bytes(data)
    own = ["attribution", "copyright_license", "age_approx", "sex", "patient_id", "lesion_id"]
    levels = {f"iddx_{level}": f"diagnosis_{level}" for level in range(1, 6)}
    rest = ["mel_mitotic_index", "mel_thick_mm", "tbp_lv_dnn_lesion_confidence"]
    frame = lesions[["isic_id", *own, *levels, *rest]].rename(columns=levels)
    frame.assign(diagnosis_confirm_type="histopathology").to_csv(
        folder / "metadata.csv", index=False
    )
    (folder / "attribution.txt").write_text("attribution")
    return folder


SOURCES = {
    form.__name__.strip("_"): form
    for form in (
        *(_challenge_folder, _as_downloaded, _one_zip, _windows_zip, _one_tar, _tar_beside),
        *(_competition, _kaggle, _hdf5, _archive_tool),
    )
}


def _digests(path: Path) -> dict[str, str]:
    with h5py.File(path) as file:
        assert all(file[name].shape == () and file[name].dtype.kind == "S" for name in file)
        return {name: hashlib.md5(file[name][()]).hexdigest() for name in file}


@pytest.mark.parametrize("form", SOURCES)
def test_every_form_gives_the_official_files(
    form: str,
    lesions: pd.DataFrame,
    tiles: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = SOURCES[form](lesions, tiles, tmp_path / "source")
    out = tmp_path / "out"
    counts = import_data(source, out)
    train = (out / "train-metadata.csv").read_bytes()
    assert train == lesions.to_csv(index=False).encode()
    assert _digests(out / "train-image.hdf5") == {
        name: hashlib.md5(data).hexdigest() for name, data in tiles.items()
    }
    assert counts == (
        len(lesions),
        lesions["patient_id"].nunique(),
        (lesions["target"] == "1").sum(),
        3,
    )
    facts = validate(out)
    assert (facts["rows"], facts["test_rows"], facts["test_patients"]) == (len(lesions), 3, 3)
    shown = capsys.readouterr().err
    assert "holds no test rows: 3 training lesions stand in" in shown
    assert ("`diagnosis_1`" in shown or "where `iddx_1` is Malignant" in shown) == (
        form == "archive_tool"
    )
    assert {path.name for path in tmp_path.iterdir()} <= {"source", source.name, "out"}
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


def test_test_rows_are_those_without_a_target(
    lesions: pd.DataFrame, tiles: dict[str, bytes], tmp_path: Path
) -> None:
    held = lesions["patient_id"] == lesions["patient_id"].iloc[0]
    source = _challenge_folder(lesions[~held], tiles, tmp_path / "source")
    test = lesions[held].drop(columns=["target", *SUPPLEMENT])
    test.to_csv(source / "anything.csv", index=False)
    counts = import_data(source, tmp_path / "out")
    assert (counts.lesions, counts.test) == ((~held).sum(), held.sum())
    assert (tmp_path / "out/test-metadata.csv").read_text() == test.to_csv(index=False)
    assert set(_digests(tmp_path / "out/test-image.hdf5")) == set(test["isic_id"])
    sample = pd.read_csv(tmp_path / "out/sample_submission.csv")
    assert sample["isic_id"].tolist() == test["isic_id"].tolist()
    # The official files themselves are copied as they are, and are a form too.
    import_data(tmp_path / "out", tmp_path / "again")
    for name in FILES:
        same = (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
        assert same or name.endswith(".hdf5"), name
        if name.endswith(".hdf5"):
            assert _digests(tmp_path / "again" / name) == _digests(tmp_path / "out" / name)


def _drop(pattern: str) -> Callable[[Path], object]:
    return lambda source: next(source.rglob(pattern)).unlink()


def _edit(pattern: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], object]:
    def edit(source: Path) -> None:
        path = next(source.rglob(pattern))
        change(pd.read_csv(path, dtype="str", keep_default_na=False)).to_csv(path, index=False)

    return edit


#: What is wrong with a source, and what is said of it.
WRONG: dict[str, Callable[[Path], object]] = {
    "have no tile": _drop("*.jpg"),
    "holds no target of its lesions": lambda source: (
        _drop("*GroundTruth.csv")(source),
        _drop("*Supplement.csv")(source),
    ),
    "no table with isic_id and patient_id": _drop("metadata.csv"),
    "lacks `tbp_lv_H`": _edit("metadata.csv", lambda frame: frame.drop(columns="tbp_lv_H")),
    "rows have no target": _edit("*GroundTruth.csv", lambda frame: frame.iloc[2:]),
    "must be 0 or 1": _edit("*GroundTruth.csv", lambda frame: frame.assign(malignant="0.3")),
    "occurs more than once": _edit(
        "metadata.csv", lambda frame: pd.concat([frame, frame.iloc[:1]])
    ),
    "Supplement.csv: isic_id": _edit(
        "*Supplement.csv", lambda frame: pd.concat([frame, frame.iloc[:1]])
    ),
    "is no id": _edit("metadata.csv", lambda frame: frame.assign(isic_id="../x")),
    "has a header and no rows": _edit("metadata.csv", lambda frame: frame.iloc[:0]),
    "is not a JPEG": lambda source: next(source.rglob("*.jpg")).write_bytes(b"GIF89a"),
    "holds more than": lambda source: next(source.rglob("*.jpg")).write_bytes(
        b"\xff\xd8" + bytes(9 << 20)
    ),
    "fields, the header has": lambda source: (
        table := next(source.rglob("metadata.csv"))
    ).write_text(table.read_text().replace("\n", ",1\n", 2).replace(",1\n", "\n", 1)),
    "damaged, or no folder, archive": lambda source: (source / "tiles.zip").write_bytes(
        b"not a zip"
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    message: str, lesions: pd.DataFrame, tiles: dict[str, bytes], tmp_path: Path
) -> None:
    source = _challenge_folder(lesions, tiles, tmp_path / "source")
    WRONG[message](source)
    with pytest.raises(InputError, match=message) as error:
        import_data(source, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert {path.name for path in tmp_path.iterdir()} <= {"source", "out"}


def test_each_missing_thing_has_its_line(
    lesions: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _challenge(lesions, tmp_path / "source")
    for name in ("GroundTruth", "Supplement"):
        _drop(f"*{name}.csv")(tmp_path / "source")
    with pytest.raises(InputError, match="lacks 2 things, each in a line above"):
        import_data(tmp_path / "source", tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("isic: missing: ") for line in lines) == 2
    assert any(f"{len(lesions)} of {len(lesions)} rows have no tile" in line for line in lines)


def test_formats_that_are_not_read_are_named(
    lesions: pd.DataFrame,
    tiles: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "source"
    _files(source / "image", dict(list(tiles.items())[:-2]))
    (source / "image" / "ISIC_0000007.jpg").write_bytes(next(iter(tiles.values())))
    lesions.to_csv(source / "train-metadata.csv", index=False)
    for name in list(tiles)[-2:]:
        (source / "image" / f"{name}.PNG").write_bytes(b"\x89PNG")
    (source / "table.parquet").write_bytes(b"PAR1")
    with zipfile.ZipFile(source / "outer.zip", "w") as archive:
        archive.writestr("more/inner.tar.gz", b"")
        archive.writestr("__MACOSX/._inner.tar.gz", b"")
    with pytest.raises(InputError, match=r"2 of \d+ rows have no tile"):
        import_data(source, tmp_path / "out")
    error = capsys.readouterr().err
    assert (
        f"note: not read in {source}: 2 .png (tiles must be .jpg); 1 .parquet (tables must be"
        " .csv); 1 .tar.gz (unpack them)\n"
    ) in error
    assert "1 tiles have no row in a table (first ISIC_0000007): left out" in error


def test_missing_diagnoses_are_written_empty_with_a_note(
    lesions: pd.DataFrame,
    tiles: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = _challenge_folder(lesions, tiles, tmp_path / "source")
    _drop("*Supplement.csv")(source)
    import_data(source, tmp_path / "out")
    assert "`lesion_id`" in capsys.readouterr().err
    written = pd.read_csv(tmp_path / "out/train-metadata.csv", dtype="str", keep_default_na=False)
    assert (written[SUPPLEMENT] == "").all().all()
    assert (written["target"] == lesions["target"].to_numpy()).all()


def _member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, "/etc/passwd", size
    return member


#: Members that a hostile tar archive has, and what is said of them.
HOSTILE = {
    "a member outside of it": _member("../../ISIC_0000001.jpg"),
    "a member outside": _member("/ISIC_0000001.jpg"),
    "is a link or no file": _member("ISIC_0000001.jpg", tarfile.SYMTYPE),
    "link or no file": _member("metadata.csv", tarfile.LNKTYPE),
    "no file: pack": _member("ISIC_0000002.jpg", tarfile.FIFOTYPE),
    "at most 8388608 are read": _member("ISIC_0000001.jpg", size=9 << 20),
    "do not use this archive": _member("zeros", size=1 << 60),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_tars_are_refused(
    message: str, lesions: pd.DataFrame, tiles: dict[str, bytes], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    _challenge(lesions, source)
    with tarfile.open(source / "tiles.tar", "w") as archive:
        archive.fileobj.write(HOSTILE[message].tobuf())  # type: ignore[union-attr]
        archive.fileobj.write(bytes(9 << 20))  # type: ignore[union-attr]
    with pytest.raises(InputError, match=message) as error:
        import_data(source, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ISIC_0000001.jpg").exists()


def test_a_tar_with_a_tile_twice_or_cut_off(
    lesions: pd.DataFrame, tiles: dict[str, bytes], tmp_path: Path
) -> None:
    source = _tar_beside(lesions, tiles, tmp_path / "source")
    whole = (source / "tiles.tar").read_bytes()
    message = "cannot be unpacked|have no tile"
    for cut in (len(whole) // 2 + 300, len(whole) // 1024 * 512, 700):
        (source / "tiles.tar").write_bytes(whole[:cut])
        with pytest.raises(InputError, match=message):
            import_data(source, tmp_path / "out")
    with tarfile.open(source / "tiles.tar", "w") as archive:
        for folder in "ab":
            member = _member(f"{folder}/ISIC_0000001.jpg", size=2)
            archive.addfile(member, io.BytesIO(b"\xff\xd8"))
    with pytest.raises(InputError, match="holds ISIC_0000001 twice"):
        import_data(source, tmp_path / "out")


def test_tables_in_archives_are_bounded(
    lesions: pd.DataFrame,
    tiles: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(find, "_MAX_TABLE", 1000)
    for form in (_one_zip, _one_tar):
        source = form(lesions, tiles, tmp_path / form.__name__)
        with pytest.raises(InputError, match="at most 1000 are unpacked"):
            import_data(source, tmp_path / "out")
    monkeypatch.setattr(image_files, "_ROOM", 0)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(4 << 20))
    with pytest.raises(InputError, match="unpacks to 4,194,304 or more"):
        import_data(bomb, tmp_path / "out")


def test_an_interrupted_import_reads_no_tile_twice(
    lesions: pd.DataFrame,
    tiles: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = _challenge_folder(lesions, tiles, tmp_path / "source")
    monkeypatch.setattr(build, "_PIECE", 5)
    monkeypatch.setattr(build, "_SAVE", 0.0)
    read: list[str] = []
    original = image_files.FolderTiles.jpeg

    def failing(self: image_files.FolderTiles, name: str) -> bytes:
        read.append(name)
        if len(read) == len(lesions) - 40:
            raise KeyboardInterrupt
        return original(self, name)

    monkeypatch.setattr(image_files.FolderTiles, "jpeg", failing)
    with pytest.raises(KeyboardInterrupt):
        import_data(source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    first = set(read)
    # The last line of the list was cut, and bytes lie after the last tile.
    work = tmp_path / ".out.work" / "tiles"
    with (work / "list").open("a") as listing, (work / "tiles").open("ab") as spooled:
        listing.write("ISIC_1 \0\0\nISIC_00")
        spooled.write(b"half a tile")
    read.clear()
    monkeypatch.setattr(
        image_files.FolderTiles,
        "jpeg",
        lambda self, name: (read.append(name), original(self, name))[1],
    )
    import_data(source, tmp_path / "out")
    assert "tiles were read by an earlier run, which resumes" in capsys.readouterr().err
    assert 0 < len(read) < len(lesions)
    assert len(set(read) & first) <= 45, "pieces in flight are read again, no others"
    assert _digests(tmp_path / "out/train-image.hdf5") == {
        name: hashlib.md5(data).hexdigest() for name, data in tiles.items()
    }
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


def test_another_source_does_not_resume(
    lesions: pd.DataFrame, tiles: dict[str, bytes], tmp_path: Path
) -> None:
    work = tmp_path / "work" / "tiles"
    work.mkdir(parents=True)
    name = next(iter(tiles))
    (work / "key").write_text("another source's")
    (work / "tiles").write_bytes(b"\xff\xd8")
    (work / "list").write_text(f"{name} 2\n")
    source = _challenge_folder(lesions, tiles, tmp_path / "source")
    import_data(source, tmp_path / "out", tmp_path / "work")
    assert _digests(tmp_path / "out/train-image.hdf5")[name] == hashlib.md5(tiles[name]).hexdigest()


def test_the_stage_takes_any_form(
    lesions: pd.DataFrame,
    tiles: dict[str, bytes],
    checkout: Path,
    stage: Callable[..., Outcome],
    tmp_path: Path,
) -> None:
    source = _one_zip(lesions, tiles, tmp_path / "source")
    text = (checkout / "params.yaml").read_text().replace("source: sample", "source: folder")
    (checkout / "params.yaml").write_text(text.replace("folder: #", f"folder: {source} #"))
    assert stage("data").code == 0
    assert (checkout / "data/raw/train-metadata.csv").read_text() == lesions.to_csv(index=False)
    assert stage("validate").code == 0
    assert [path.name for path in (checkout / "data").iterdir()] == ["raw"]
    assert not (checkout / ".resume" / "data").exists()
    # All five files are there, but the tiles are packed in another way.
    packed = tmp_path / "packed"
    shutil.copytree(checkout / "data" / "raw", packed)
    (packed / "train-image.hdf5").unlink()
    with h5py.File(packed / "train-image.hdf5", "w") as file:
        for name, data in tiles.items():
            file[f"image/{name}.jpg"] = np.void(data)
    (checkout / "params.yaml").write_text(text.replace("folder: #", f"folder: {packed} #"))
    assert stage("data").code == 0
    assert set(_digests(checkout / "data/raw/train-image.hdf5")) == set(tiles)


@pytest.fixture
def many(lesions: pd.DataFrame, tiles: dict[str, bytes], tmp_path: Path) -> Path:
    """A challenge folder with 100 times the lesions, each tile of other bytes."""
    source, frames = tmp_path / "many", []
    images = source / INPUT
    images.mkdir(parents=True)
    for copy in range(100):
        ids = lesions["isic_id"] + f"{copy:02d}"
        frames.append(lesions.assign(isic_id=ids, patient_id=lesions["patient_id"] + f"{copy:02d}"))
        for name, data in tiles.items():
            (images / f"{name}{copy:02d}.jpg").write_bytes(data + copy.to_bytes(2, "big") + b"\1")
    _challenge(pd.concat(frames), source, f"{INPUT}/metadata.csv")
    return source


@pytest.mark.slow
def test_a_killed_import_resumes_and_leaves_no_process(many: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "isic", "data", "import", str(many), "--out"]
    images = list((many / INPUT).glob("*.jpg"))
    started = time.monotonic()
    while True:
        process = subprocess.Popen([*command, str(tmp_path / "out")], stderr=subprocess.PIPE)
        spooled = tmp_path / ".out.work" / "tiles" / "tiles"
        while process.poll() is None and not (spooled.exists() and spooled.stat().st_size > 1e6):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL or time.monotonic() - started > 60:
            break
        shutil.rmtree(tmp_path / "out")
    assert process.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while (left := _running(str(tmp_path / "out"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    done = subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    assert b"lesions of" in done.stdout
    expected = {path.stem: hashlib.md5(path.read_bytes()).hexdigest() for path in images}
    assert _digests(tmp_path / "out" / "train-image.hdf5") == expected
    assert {path.name for path in tmp_path.iterdir()} == {"many", "out"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)


def _running(word: str) -> list[str]:
    def commands() -> Iterator[str]:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                yield (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue

    return [
        command for command in commands() if word in command and str(os.getpid()) not in command
    ]


@pytest.mark.slow
def test_real_lesions_in_the_challenges_form(real_data: Path, tmp_path: Path) -> None:
    raw = real_data / "competition"
    frame = pd.read_csv(raw / "train-metadata.csv", dtype="str", keep_default_na=False)
    with h5py.File(raw / "train-image.hdf5") as file:
        stored = {name: bytes(file[name][()]) for name in frame["isic_id"]}
    source = _as_downloaded(frame, stored, tmp_path / "source")
    for name in ("test-metadata.csv", "test-image.hdf5", "sample_submission.csv"):
        shutil.copy(raw / name, source / name)
    counts = import_data(source, tmp_path / "out")
    assert (counts.lesions, counts.test) == (len(frame), 3)
    written = pd.read_csv(tmp_path / "out/train-metadata.csv", dtype="str", keep_default_na=False)
    pd.testing.assert_frame_equal(written, frame)
    for name in ("train-image.hdf5", "test-image.hdf5"):
        assert _digests(tmp_path / "out" / name) == _digests(raw / name)
    validate(tmp_path / "out")
