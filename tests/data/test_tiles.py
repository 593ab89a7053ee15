"""Tiles: official HDF5 form, one decoder, hostile bytes refused."""

from __future__ import annotations

import io
import multiprocessing
import pickle
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

from isic.core.errors import InputError
from isic.data import tiles
from isic.data.tiles import TileStore, decode, jpeg_size
from tests.conftest import rows_of


def _jpeg(height: int, width: int) -> bytes:
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


def _store(path: Path, tiles: dict[str, bytes]) -> TileStore:
    with h5py.File(path, "w") as file:
        for name, data in tiles.items():
            file.create_dataset(name, data=np.bytes_(data))
    return TileStore(path)


def test_real_tiles_decode_like_pillow(real_data: Path) -> None:
    store = TileStore(real_data / "competition" / "train-image.hdf5")
    assert len(store) == rows_of(real_data)[0]
    for name in store.ids()[:20]:
        image = store.image(name)
        with Image.open(io.BytesIO(store.jpeg(name))) as reference:
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


def _raw(file: h5py.File, name: str, size: int, external: Path | None = None) -> None:
    """A scalar of `size` bytes that is never written: its bytes lie in `external`, or nowhere."""
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(size)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if external is not None:
        properties.set_external(bytes(external), 0, size)
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR), properties)


def _virtual(file: h5py.File, name: str, source: Path) -> None:
    layout = h5py.VirtualLayout(shape=(1,), dtype="S6")
    layout[0:1] = h5py.VirtualSource(source, "secret", shape=(1,), dtype="S6")
    file.create_virtual_dataset(name, layout)


@pytest.fixture
def hostile(tmp_path: Path) -> TileStore:
    """A file with entries that are links or not tiles."""
    other, text = tmp_path / "other.hdf5", tmp_path / "secret"
    text.write_bytes(b"secret")
    with h5py.File(other, "w") as file:
        file.create_dataset("secret", data=np.bytes_(b"secret"))
    with h5py.File(tmp_path / "t.hdf5", "w") as file:
        file.create_dataset("ISIC_0000001", data=np.bytes_(_jpeg(64, 64)))
        file["external link"] = h5py.ExternalLink(str(other), "/secret")
        file["soft link"] = h5py.SoftLink("/ISIC_0000001")
        _raw(file, "external storage", 6, text)
        _raw(file, "huge", 2**31)
        _virtual(file, "virtual", other)
        file.create_group("group")
        file["group/ISIC_0000002"] = file["ISIC_0000001"]
        file["type"] = np.dtype("S6")
        file.create_dataset("array", data=np.zeros(10, dtype=np.uint16))
        file.create_dataset("pixels", data=np.zeros((8, 8), dtype=np.uint8))
        file.create_dataset(
            "huge chunk", (10,), np.uint8, maxshape=(None,), chunks=(2**30,), compression="gzip"
        )
        file.create_dataset("of any length", data=b"secret")
        file.create_dataset("null", data=h5py.Empty("S6"))
    return TileStore(tmp_path / "t.hdf5")


HOSTILE = {
    "external link": "is a link: use a file that contains its tiles",
    "soft link": "is a link: use a file that contains its tiles",
    "external storage": "are in another file",
    "huge": "holds 2147483648 bytes",
    "virtual": "are in another file",
    "group": "is not JPEG bytes",
    "type": "is not JPEG bytes",
    "array": "is not JPEG bytes",
    "pixels": "is not JPEG bytes",
    "huge chunk": "or in chunks of more than",
    "of any length": "is not JPEG bytes",
    "null": "is not JPEG bytes",
    "group/ISIC_0000002": "has no image for",
    "/ISIC_0000001": "has no image for",
    ".": "has no image for",
    "": "has no image for",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_leads_elsewhere_is_refused(hostile: TileStore, name: str) -> None:
    assert hostile.image("ISIC_0000001").shape == (64, 64, 3)
    with pytest.raises(InputError, match=HOSTILE[name]) as error:
        hostile.jpeg(name)
    assert name in str(error.value)


#: Forms in which people pack tiles: name of a dataset, and what h5py is given.
FORMS = {
    "bytes": ("{}", np.bytes_),
    "one of an array": ("{}", lambda data: np.array([data])),
    "suffixes": ("{}.jpg", np.bytes_),
    "groups": ("train/image/{}.JPEG", np.void),
    "opaque": ("{}", np.void),
    "array": ("{}", lambda data: np.frombuffer(data, np.uint8)),
    "signed": ("a/{}", lambda data: np.frombuffer(data, np.int8)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_tiles_are_the_same_bytes_in_every_form(
    tmp_path: Path, form: str, compression: str | None
) -> None:
    tiles = {f"ISIC_{side:07d}": _jpeg(side, side + 1) for side in (51, 96, 239)}
    name, pack = FORMS[form]
    with h5py.File(tmp_path / "t.hdf5", "w") as file:
        for isic_id, data in tiles.items():
            packed = pack(data)
            # HDF5 compresses arrays only.
            filters = {"compression": compression} if packed.ndim and packed.size > 1 else {}
            file.create_dataset(name.format(isic_id), data=packed, **filters)

    store = pickle.loads(pickle.dumps(TileStore(tmp_path / "t.hdf5")))
    assert sorted(store.ids()) == sorted(tiles)
    assert {isic_id: store.jpeg(isic_id) for isic_id in tiles} == tiles
    assert "ISIC_0000052" not in store
    assert store.official == (form == "bytes")


def test_a_tile_in_two_groups_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.hdf5", "w") as file:
        for group in ("benign", "malignant"):
            file[f"{group}/ISIC_0000001"] = np.bytes_(_jpeg(51, 51))
    with pytest.raises(InputError, match=r"1 tiles twice.*first ISIC_0000001"):
        TileStore(tmp_path / "t.hdf5").ids()


def test_damaged_files_are_named_wherever_the_damage_is(tmp_path: Path) -> None:
    path = tmp_path / "t.hdf5"
    _store(path, {f"ISIC_{number:07d}": _jpeg(51, 51)[:700] for number in range(30)}).close()
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    faults = []
    for _ in range(120):
        damaged = bytearray(whole)
        for place in rng.integers(0, rng.choice([200, 4000, len(whole)]), 8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        faults.append(_fault(path))
    assert all("t.hdf5" in fault for fault in faults if fault)
    assert 40 < sum(map(bool, faults)) < 120


def _fault(path: Path) -> str:
    """The error of reading every tile of a file, "" without one."""
    store = TileStore(path)
    try:
        for name in store.ids():
            store.jpeg(name)
    except InputError as error:
        return str(error)
    finally:
        store.close()
    return ""


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\xff\xd8\xff\xd9", _jpeg(64, 64)[:40], b"\xff\xd8" + b"\xff" * 50]
)
def test_bytes_that_do_not_decode_name_the_tile(data: bytes) -> None:
    with pytest.raises(InputError, match="ISIC_0000007"):
        decode(data, "ISIC_0000007")


def _bomb(side: int) -> bytes:
    """A small file that claims `side` x `side` pixels, memory that a decoder would allocate."""
    bomb = bytearray(_jpeg(64, 64))
    frame = bomb.index(b"\xff\xc0")
    bomb[frame + 5 : frame + 9] = side.to_bytes(2, "big") * 2
    return bytes(bomb)


def test_image_bomb_is_refused_before_decoding() -> None:
    with pytest.raises(InputError, match=r"ISIC_0000007 claims 65000 x 65000 pixels"):
        decode(_bomb(65000), "ISIC_0000007")


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def _ordinary() -> dict[str, bytes]:
    """JPEGs of 64 x 80 px from both writers, with segments of cameras and editors before the frame
    header.
    """
    image = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "orientation and words"
    options = {
        "plain": {},
        "progressive": {"progressive": True},
        "EXIF, ICC and comment": {
            "exif": exif,
            "icc_profile": bytes(70_000),
            "comment": b"a lesion",
        },
        "restarts": {"restart_marker_blocks": 1},
        "no subsampling": {"subsampling": 0, "quality": 100},
    }
    found = {}
    for name, how in options.items():
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", **how)
        found[f"Pillow, {name}"] = stream.getvalue()
    for name, flags in {"plain": [], "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]}.items():
        found[f"OpenCV, {name}"] = cv2.imencode(".jpg", image, flags)[1].tobytes()
    frame = found["OpenCV, plain"].index(b"\xff\xc0")
    found["fill bytes"] = (
        found["OpenCV, plain"][:frame] + b"\xff" * 5 + found["OpenCV, plain"][frame:]
    )
    return found


@pytest.mark.parametrize("name", _ordinary())
def test_ordinary_jpegs_have_the_size_that_they_decode_to(name: str) -> None:
    data = _ordinary()[name]
    assert jpeg_size(data, name) == decode(data, name).shape[:2] == (64, 80)


@pytest.mark.parametrize("marker", [0x00, 0x01, *range(0xD0, 0xDA)])
def test_an_image_bomb_behind_a_marker_without_length_is_refused(
    marker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read as a length, the bytes after the marker lead to a small frame header, which decoders
    skip as part of a comment.
    """
    small = b"\xff\xc0\x00\x11\x08\x00\x10\x00\x40"
    comment = _segment(0xFE, bytes(100))
    body = bytearray(65533)
    start = 4 + 0xFFFE - (4 + len(comment) + 4)
    body[start : start + len(small)] = small
    bomb = (
        b"\xff\xd8"
        + bytes([0xFF, marker])
        + comment
        + _segment(0xEF, bytes(body))
        + _bomb(8000)[2:]
    )
    monkeypatch.setattr(cv2, "imdecode", _never)
    with pytest.raises(InputError, match="ISIC_0000007 is a JPEG without a readable frame header"):
        decode(bomb, "ISIC_0000007")


def _never(*_: object) -> np.ndarray:
    pytest.fail("was decoded")


def test_a_tile_that_decodes_to_another_size_than_it_claims_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiles, "jpeg_size", lambda *_: (16, 64))
    with pytest.raises(
        InputError, match=r"ISIC_0000007 claims 64 x 16 pixels and decodes to 80 x 50"
    ):
        decode(_jpeg(50, 80), "ISIC_0000007")
