"""Tiles as files of a folder and members of an archive: the same bytes, and nothing outside."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import stat
import zipfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from isic.core.errors import InputError
from isic.data import image_files
from isic.data.image_files import open_images
from isic.data.tiles import TileStore


def _jpeg(side: int) -> bytes:
    image = np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


TILES = {f"ISIC_{side:07d}": _jpeg(side) for side in (51, 70, 133, 239)}
MD5 = {name: hashlib.md5(data).hexdigest() for name, data in TILES.items()}


def _folder(path: Path) -> Path:
    for number, (name, data) in enumerate(TILES.items()):
        folder = path / ("train-image/image" if number % 2 else "more")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.{'jpg' if number else 'JPEG'}").write_bytes(data)
    (path / "more" / "._ISIC_0000001.jpg").write_bytes(b"attributes of macOS")
    (path / "more" / "ATTRIBUTION.txt").write_text("text")
    (path / "more" / "loop").symlink_to(path)
    return path


def _zip(path: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("ISIC_2024_Training_Input/metadata.csv", "isic_id\n")
        for name, data in TILES.items():
            archive.writestr(f"ISIC_2024_Training_Input/{name}.jpg", data)
        archive.writestr("__MACOSX/ISIC_2024_Training_Input/ISIC_0000001.jpg", b"attributes")
    return path


def _hdf5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        for name, data in TILES.items():
            file[f"image/{name}.jpg"] = np.frombuffer(data, np.uint8)
    return path


@pytest.fixture(params=["folder", "deflated", "stored", "hdf5"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> TileStore:
    make = {
        "folder": lambda: _folder(tmp_path / "tiles"),
        "deflated": lambda: _zip(tmp_path / "tiles.zip"),
        "stored": lambda: _zip(tmp_path / "no suffix", zipfile.ZIP_STORED),
        "hdf5": lambda: _hdf5(tmp_path / "tiles.hdf5"),
    }
    return open_images(make[request.param]())


def _digests(store: TileStore) -> dict[str, str]:
    return {name: hashlib.md5(store.jpeg(name)).hexdigest() for name in store.ids()}


def test_every_form_has_the_same_bytes_in_every_process(store: TileStore) -> None:
    assert _digests(store) == MD5
    assert len(store) == len(MD5)
    assert ("ISIC_0000070" in store, "ISIC_0000071" in store) == (True, False)
    assert store.image("ISIC_0000133").shape == (133, 133, 3)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_digests, [store] * 3) == [MD5] * 3
    assert _digests(pickle.loads(pickle.dumps(store))) == MD5
    store.close()
    assert _digests(store) == MD5
    with pytest.raises(InputError, match="has no image for ISIC_9999999"):
        store.jpeg("ISIC_9999999")


def test_a_changed_file_changes_the_state(tmp_path: Path) -> None:
    store = open_images(_folder(tmp_path))
    before = store.state()
    assert open_images(tmp_path).state() == before
    file = next(tmp_path.rglob("ISIC_0000070.jpg"))
    os.utime(file, ns=(1, 1))
    assert store.state() != before


def _member(name: str, mode: int = 0) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


#: Members of a hostile archive, and the message.
HOSTILE = {
    "../../ISIC_0000001.jpg": "a member outside of it",
    "/etc/ISIC_0000001.jpg": "a member outside of it",
    "C:/ISIC_0000001.jpg": "a member outside of it",
    "a\\..\\ISIC_0000001.jpg": "a member outside of it",
    "b/ISIC_0000051.jpg": "holds ISIC_0000051 twice",
    "c/\x1b[2JISIC_0000051.jpg": "x1b",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(tmp_path: Path, name: str) -> None:
    mode = stat.S_IFLNK | 0o777 if "\x1b" in name else 0
    with zipfile.ZipFile(_zip(tmp_path / "t.zip"), "a") as archive:
        archive.writestr(_member(name, mode=mode), b"/etc/passwd")
    with pytest.raises(InputError, match=HOSTILE[name]) as error:
        open_images(tmp_path / "t.zip")
    assert "\x1b" not in str(error.value)


def test_members_that_are_huge_encrypted_or_of_another_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ISIC_1.jpg", bytes(image_files.MAX_JPEG_BYTES + 1))
    with pytest.raises(InputError, match="holds 8388609 bytes"):
        open_images(path)
    monkeypatch.setattr(image_files, "_ROOM", 1 << 20)
    with pytest.raises(InputError, match=r"unpacks to 8,388,609 or more"):
        open_images(path)

    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("ISIC_1.jpg", TILES["ISIC_0000051"])
    with pytest.raises(InputError, match="compressed by method 14"):
        open_images(path)

    whole = bytearray(_zip(path).read_bytes())
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = whole.find(mark)
        while at >= 0:
            whole[at + place] |= 1
            at = whole.find(mark, at + 1)
    path.write_bytes(whole)
    with pytest.raises(InputError, match="is encrypted"):
        open_images(path)


def test_a_member_that_claims_less_than_it_holds_or_is_damaged(tmp_path: Path) -> None:
    path = _zip(tmp_path / "t.zip")
    rng = np.random.default_rng(0)
    whole = path.read_bytes()
    refused = []
    for _ in range(200):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            digests = _digests(open_images(path))
        except InputError as error:
            refused.append(str(error))
        else:
            assert set(digests.values()) <= set(MD5.values())
    assert len(refused) > 100
    assert not any("\n" in message for message in refused)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a complete zip archive"):
        open_images(path)


def test_folders_archives_and_files_without_tiles(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("text")
    (tmp_path / "t.tar.gz").write_bytes(b"\x1f\x8b and more")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("metadata.csv", "isic_id\n")
    for name, message in {
        "empty": "holds no .jpg file",
        "t.zip": "holds no .jpg file",
        "t.tar.gz": "unpack it",
        "none": "not found",
    }.items():
        with pytest.raises(InputError, match=message):
            open_images(tmp_path / name)
    with pytest.raises(InputError, match="is no HDF5 file"):
        open_images(tmp_path / "text").ids()
    (tmp_path / "empty" / "a").mkdir()
    for folder in ("empty", "empty/a"):
        (tmp_path / folder / "ISIC_1.jpg").write_bytes(TILES["ISIC_0000051"])
    with pytest.raises(InputError, match=r"holds ISIC_1 twice, ISIC_1.jpg and a/ISIC_1.jpg|twice"):
        open_images(tmp_path / "empty")
