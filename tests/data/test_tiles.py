"""Tiles: official HDF5 form, one decoder, hostile bytes refused."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from isic.core.errors import InputError
from isic.data.tiles import TileStore, decode, jpeg_size


def _jpeg(height: int, width: int) -> bytes:
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


def _store(path: Path, tiles: dict[str, bytes]) -> TileStore:
    with h5py.File(path, "w") as file:
        for name, data in tiles.items():
            file.create_dataset(name, data=np.bytes_(data))
    return TileStore(path)


def test_real_tiles_decode_like_pillow(real_data: Path) -> None:
    from io import BytesIO

    from PIL import Image

    store = TileStore(real_data / "competition" / "train-image.hdf5")
    assert len(store) == 228
    for name in store.ids()[:20]:
        image = store.image(name)
        with Image.open(BytesIO(store.jpeg(name))) as reference:
            pixels = np.asarray(reference.convert("RGB"))
        assert image.shape == pixels.shape
        assert image.dtype == np.uint8
        # Decoders may round differently, by a level or two; swapped channels would differ by tens.
        assert np.abs(image.astype(int) - pixels).mean() < 1.5
        assert jpeg_size(store.jpeg(name), name) == pixels.shape[:2]


def _first_image(store: TileStore) -> int:
    return int(store.image("ISIC_0000001").sum())


def test_open_handle_is_not_shared_with_children(tmp_path: Path) -> None:
    store = _store(tmp_path / "t.hdf5", {"ISIC_0000001": _jpeg(64, 64)})
    expected = _first_image(store)
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(_first_image, [store] * 4) == [expected] * 4
    assert _first_image(pickle.loads(pickle.dumps(store))) == expected


def test_missing_tile_and_file_are_named(tmp_path: Path) -> None:
    store = _store(tmp_path / "t.hdf5", {"ISIC_0000001": _jpeg(64, 64)})
    with pytest.raises(InputError, match="has no image for ISIC_0000002"):
        store.image("ISIC_0000002")
    with pytest.raises(InputError, match="not found"):
        TileStore(tmp_path / "none.hdf5")


def test_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.hdf5"
    _store(path, {f"ISIC_{number:07d}": _jpeg(90, 90) for number in range(50)}).close()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="not a complete HDF5 file"):
        TileStore(path).ids()


def test_forms_other_than_scalar_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("array", data=np.zeros(10, dtype=np.uint8))
        file.create_group("group")
        file["outside"] = h5py.ExternalLink("/etc/passwd", "/")
    for name in ("array", "group"):
        with pytest.raises(InputError, match="not a scalar of JPEG bytes"):
            TileStore(path).image(name)
    with pytest.raises(InputError, match="outside"):
        TileStore(path).image("outside")


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff\xd9", _jpeg(64, 64)[:40], b"\xff\xd8" + b"\xff" * 50])
def test_bytes_that_do_not_decode_name_the_tile(data: bytes) -> None:
    with pytest.raises(InputError, match="ISIC_0000007"):
        decode(data, "ISIC_0000007")


def test_image_bomb_is_refused_before_decoding() -> None:
    bomb = bytearray(_jpeg(64, 64))
    frame = bomb.index(b"\xff\xc0")
    bomb[frame + 5 : frame + 9] = (65000).to_bytes(2, "big") * 2
    with pytest.raises(InputError, match=r"ISIC_0000007 claims 65000 x 65000 pixels"):
        decode(bytes(bomb), "ISIC_0000007")
