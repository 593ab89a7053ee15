"""Shards hold the lesions of the official files, each once, with whole patients; errors are one
line.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import fsspec
import h5py
import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from isic.core.errors import InputError
from isic.core.schema import TEST_COLUMNS
from isic.data.sample import write_sample
from isic.data.tables import metadata_chunks, read_metadata
from isic.data.tiles import TileStore
from isic.scale import store as stores
from isic.scale.make_shards import index_shards, make_shards
from isic.scale.shards import MANIFEST, ShardManifest, read_shard, read_shard_manifest
from isic.scale.store import Store


@pytest.fixture
def files(sample_raw: Path) -> tuple[Path, Path]:
    return sample_raw / "train-metadata.csv", sample_raw / "train-image.hdf5"


@pytest.fixture
def shards(files: tuple[Path, Path], tmp_path: Path) -> Store:
    store = Store(tmp_path / "shards")
    make_shards(*files, store, rows=100)
    return store


def _rows(store: Store) -> list[pd.DataFrame]:
    return [read_shard(store, shard).rows for shard in read_shard_manifest(store).shards]


def test_every_lesion_is_there_once_and_no_patient_is_split(
    files: tuple[Path, Path], shards: Store
) -> None:
    official = read_metadata(files[0], train=True)[list(TEST_COLUMNS)]
    parts = _rows(shards)
    assert len(parts) > 3
    owners = [set(part["patient_id"]) for part in parts]
    assert sum(len(owner) for owner in owners) == official["patient_id"].nunique()
    together = pd.concat(parts).set_index("isic_id")
    assert together.index.is_unique
    pd.testing.assert_frame_equal(together.loc[official["isic_id"]], official.set_index("isic_id"))
    largest = int(official["patient_id"].value_counts().max())
    assert all(len(part) <= max(100, largest) for part in parts)


def test_tiles_are_the_stored_bytes(files: tuple[Path, Path], shards: Store) -> None:
    tiles, count = TileStore(files[1]), 0
    for shard in read_shard_manifest(shards).shards:
        own = read_shard(shards, shard).tiles
        assert own is not None
        assert all(own.jpeg(name) == tiles.jpeg(name) for name in own.ids())
        count += len(own)
    assert count == len(tiles)


def test_the_same_files_give_the_same_bytes(
    files: tuple[Path, Path], shards: Store, tmp_path: Path
) -> None:
    assert make_shards(*files, Store(tmp_path / "again"), rows=100) == read_shard_manifest(shards)


def test_a_shard_of_few_megabytes_holds_fewer_lesions(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    assert len(make_shards(*files, Store(tmp_path / "small"), megabytes=0.2).shards) > 3


def test_shards_are_not_written_over(files: tuple[Path, Path], shards: Store) -> None:
    with pytest.raises(InputError, match="already holds shards"):
        make_shards(*files, shards)


def test_a_lesion_without_a_tile_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "few.hdf5", "w") as few, h5py.File(files[1]) as whole:
        names = list(whole)
        for name in names[1:]:
            whole.copy(name, few)
    with pytest.raises(InputError, match=f"no image for {names[0]}"):
        make_shards(files[0], tmp_path / "few.hdf5", Store(tmp_path / "a"))
    assert not (tmp_path / "a" / MANIFEST).exists()
    make_shards(files[0], tmp_path / "few.hdf5", Store(tmp_path / "b"), impute=True)
    tiles = [
        read_shard(Store(tmp_path / "b"), shard).tiles
        for shard in read_shard_manifest(Store(tmp_path / "b")).shards
    ]
    assert names[0] not in {name for one in tiles if one is not None for name in one.ids()}


@pytest.mark.parametrize(
    ("column", "message"), [("isic_id", "more than once"), ("patient_id", "patient_id is missing")]
)
def test_a_repeated_lesion_and_a_missing_patient_are_refused(
    files: tuple[Path, Path], tmp_path: Path, column: str, message: str
) -> None:
    table = pd.read_csv(files[0], low_memory=False)
    table.loc[599, column] = table.loc[0, column] if column == "isic_id" else None
    table.to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(InputError, match=message):
        make_shards(tmp_path / "bad.csv", None, Store(tmp_path / "bad"))
    assert not (tmp_path / "bad").exists()


def test_a_table_without_a_lesion_makes_no_shards(tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text(",".join(TEST_COLUMNS) + "\n")
    with pytest.raises(InputError, match=r"none\.csv has a header and no rows"):
        make_shards(tmp_path / "none.csv", None, Store(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_pieces_of_the_table_are_the_table(files: tuple[Path, Path]) -> None:
    whole = read_metadata(files[0], train=True)[list(TEST_COLUMNS)]
    pd.testing.assert_frame_equal(pd.concat(metadata_chunks(files[0], 70)), whole)


def test_a_truncated_shard_is_named(shards: Store) -> None:
    shard = read_shard_manifest(shards).shards[1]
    file = Path(shards.uri) / shard.name
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"{shard.name} is truncated or changed"):
        read_shard(shards, shard)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["shards"][0].update(name="../../etc/x.parquet"), "in the same folder"),
        (lambda m: m["shards"].append(m["shards"][0]), "more than once"),
        (lambda m: m.update(format=99), "format 99"),
        (lambda m: m.update(shards=[]), "lists no shard"),
        (lambda m: m.pop("images"), "not a manifest"),
    ],
)
def test_a_hostile_manifest_is_refused(shards: Store, change: object, message: str) -> None:
    content = json.loads(shards.read(MANIFEST))
    change(content)  # type: ignore[operator]
    shards.write(MANIFEST, json.dumps(content).encode())
    with pytest.raises(InputError, match=message):
        read_shard_manifest(shards)


def test_a_folder_without_a_manifest_is_unfinished(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="isic shard --index"):
        read_shard_manifest(Store(tmp_path))


def test_shards_of_others_get_a_manifest(shards: Store) -> None:
    before = read_shard_manifest(shards)
    (Path(shards.uri) / MANIFEST).unlink()
    assert index_shards(shards) == before == read_shard_manifest(shards)
    pq.write_table(pa.table({"isic_id": ["a"]}), Path(shards.uri) / "part-00000.parquet")
    with pytest.raises(InputError, match="lacks column `patient_id`"):
        index_shards(shards)


class _Flaky:
    """A local file system that fails every third call."""

    def __init__(self) -> None:
        self._fs, self.calls = pafs.LocalFileSystem(), 0

    def __getattr__(self, name: str) -> object:
        self.calls += 1
        if self.calls % 3 == 0:
            raise OSError("503 Slow Down")
        return getattr(self._fs, name)


def test_storage_that_stumbles_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "WAIT", 0.001)
    store = Store(tmp_path)
    store._fs = _Flaky()
    for number in range(10):
        store.write(f"{number}.bin", bytes([number]))
    assert [store.read(f"{number}.bin") for number in range(10)] == [
        bytes([number]) for number in range(10)
    ]
    assert len(store.sizes()) == 10


class _Dead:
    """A file system that never responds, and its error."""

    def __init__(self, words: str) -> None:
        self.words = words

    def open_input_stream(self, path: str) -> io.BytesIO:
        raise OSError(self.words)


def test_storage_that_stays_away_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "WAIT", 0.001)
    store = Store(tmp_path)
    store._fs = _Dead("connection reset")
    with pytest.raises(
        InputError, match=r"a.bin cannot be read after 8 attempts \(connection reset\)"
    ):
        store.read("a.bin")


def test_an_unknown_uri_is_one_line() -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        Store("carrier-pigeon://loft/shards")


@pytest.mark.parametrize("kind", [ValueError, ImportError, OSError])
def test_an_address_that_cannot_be_opened_is_said_without_its_password(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "carrier-pigeon://me:SECRET@loft/shards?token=SECRET"
    # A long text before it, so that the line is cut within the password.
    quoted = f"{'the loft is closed, ' * 6} no pigeon for {address}"

    def refuse(uri: str) -> None:
        raise kind(quoted)

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(InputError, match="cannot be opened") as caught:
        Store(address)
    assert str(caught.value).startswith(
        "carrier-pigeon://me:***@loft/shards cannot be opened (the loft is closed"
    )
    assert "SEC" not in str(caught.value)


def test_a_storage_that_quotes_its_address_is_repeated_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "WAIT", 0.001)
    store = Store(tmp_path)
    store._fs = _Dead("no answer from http://me:SECRET@loft/a.bin?token=SECRET")
    with pytest.raises(InputError, match=r"no answer from http://me:\*\*\*@loft/a.bin\)") as caught:
        store.read("a.bin")
    assert "SECRET" not in str(caught.value) + capsys.readouterr().err


def test_a_file_is_removed_once_and_its_absence_is_no_fault(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("a.bin", b"a")
    store.remove("a.bin")
    store.remove("a.bin")
    assert not list(tmp_path.iterdir())
    assert "a.bin" not in store


@pytest.mark.slow
def test_memory_does_not_grow_with_the_lesions(tmp_path: Path) -> None:
    peaks = []
    for lesions in (20_000, 80_000):
        raw, out = tmp_path / f"raw{lesions}", tmp_path / f"out{lesions}"
        write_sample(raw, lesions // 400, lesions, 50, seed=1, images=False)
        script = (
            "import resource, sys; from pathlib import Path; from isic.scale.make_shards import"
            " make_shards; from isic.scale.store import Store; make_shards(Path(sys.argv[1]), None,"
            " Store(sys.argv[2]), rows=5000);"
            " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = [sys.executable, "-c", script, str(raw / "train-metadata.csv"), str(out)]
        peaks.append(
            int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        )
    assert peaks[1] < 1.15 * peaks[0]


def test_manifest_counts(shards: Store) -> None:
    manifest = read_shard_manifest(shards)
    assert isinstance(manifest, ShardManifest)
    assert manifest.images
    assert manifest.rows == 600


def test_a_password_in_the_address_is_not_said() -> None:
    place = Store("s3://KEY:SECRET@bucket/shards?region=us-east-1").where("part-0.parquet")
    assert place == "s3://KEY:***@bucket/shards/part-0.parquet"
