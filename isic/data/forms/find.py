"""What a source holds: tables, and tiles in folders, archives and HDF5 files."""

from __future__ import annotations

import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from isic.core.errors import InputError, error_line, printable
from isic.core.io import sha256_json
from isic.data.image_files import (
    BAD_ZIP,
    FolderTiles,
    ZipTiles,
    is_tar,
    member_path,
    refuse_growth,
    walk,
    zip_members,
)
from isic.data.tiles import MAX_JPEG_BYTES, TileStore, is_hidden, tile_id

_TABLES = (".csv", ".csv.gz")
_HDF5 = (".hdf5", ".h5", ".hdf")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
#: Suffixes of files that hold tiles or tables in other formats, which are not read.
_OTHER_TILES = (".png", ".tif", ".tiff", ".bmp", ".webp", ".dcm")
_OTHER_TABLES = (".parquet", ".tsv", ".xlsx", ".xls")
_OTHER_ARCHIVES = (".7z", ".rar")
#: The official tables have 0.2 GB, the official tiles 1.2.
_MAX_TABLE = 2 << 30
_MAX_HDF5 = 8 << 30
_BLOCK = 1 << 20
_BAD_ARCHIVE = (tarfile.TarError, *BAD_ZIP)


def is_source_file(name: str) -> bool:
    """Whether a file of this name may hold tiles."""
    return tile_id(name) is not None or name.lower().endswith((*_HDF5, *_ARCHIVES))


@dataclass
class Found:
    """Files of a source: tables by the name that messages have for them, tiles that can be read in
    any order, tar archives; the number of files of each format that is not read; `key` changes with
    the files.
    """

    source: Path
    tables: dict[str, Path] = field(default_factory=dict)
    stores: list[TileStore] = field(default_factory=list)
    tars: list[Path] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    key: str = ""


def find_files(source: Path, work: Path) -> Found:
    """Files of `source`, a folder, an archive or an HDF5 file. Tables and HDF5 files in zip archives are
    unpacked to `work`.

    JPEGs are told apart by name: to look at each of 400,000 files would take as long as reading
    them. Raises InputError when `source` is absent or an archive in it hostile.
    """
    if not source.exists():
        raise InputError(f"{source} not found: name a folder, an archive or an HDF5 file")
    found = Found(source)
    names = list(walk(source)) if source.is_dir() else [""]
    images = [name for name in names if tile_id(name)]
    found.unread.update(_unread(names))
    others = [name for name in names if name.lower().endswith((*_TABLES, *_HDF5, *_ARCHIVES))]
    for path in [source / name for name in others] if source.is_dir() else [source]:
        _add(found, path, work)
    if images:
        found.stores.append(FolderTiles(source, images))
    # One HDF5 file is read faster than the same tiles as files, where both are there.
    found.stores.sort(key=lambda store: isinstance(store, FolderTiles | ZipTiles))
    state = [(name, *_state(source / name if name else source)) for name in others or names[:1]]
    found.key = sha256_json([str(source.resolve()), state, images])
    return found


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _add(found: Found, path: Path, work: Path) -> None:
    with path.open("rb") as stream:
        start = stream.read(512)
    if _is_table(path.name):
        found.tables[str(path)] = path
    elif start.startswith(b"\x89HDF"):
        found.stores.append(TileStore(path))
    elif start.startswith(b"PK\x03\x04"):
        members = zip_members(path)
        found.unread.update(_unread((member.filename for member in members), _ARCHIVES))
        _unpack(found, path, members, work)
        if any(tile_id(member.filename) for member in members):
            found.stores.append(ZipTiles(path, members))
    elif is_tar(start):
        found.tars.append(path)
    else:
        raise InputError(f"{path} is damaged, or no folder, archive or HDF5 file: copy it again")


def _unpack(found: Found, path: Path, members: list[zipfile.ZipInfo], work: Path) -> None:
    """Unpack tables and, as Kaggle's archive has them, HDF5 files of a zip archive."""
    wanted = [
        member
        for member in members
        if _is_table(member.filename) or member.filename.lower().endswith(_HDF5)
    ]
    if not wanted:
        return  # opening the archive reads its whole directory
    with zipfile.ZipFile(path) as archive:
        for member in wanted:
            label = f"{path}/{printable(member.filename)}"
            is_table = _is_table(member.filename)
            _refuse_size(member.file_size, label, _MAX_TABLE if is_table else _MAX_HDF5)
            try:
                with archive.open(member) as stream:
                    target = _copy(stream.read, member.file_size, work)
            except _BAD_ARCHIVE as error:
                if error_line(error) is not None:  # a full disk is not a fault of the archive
                    raise
                raise _unreadable(label, error) from error
            if is_table:
                found.tables[label] = target
            else:
                found.stores.append(TileStore(target))


def read_tar(
    path: Path, work: Path, known: Callable[[str], bool], unread: Counter[str]
) -> Iterator[tuple[str, bytes | Path | None, float]]:
    """Files of a tar archive in its order: isic_id and JPEG bytes of a tile (None for a `known` one),
    or label and unpacked file of a table; and the share of the archive that is read. Files of other
    formats are counted in `unread`.

    Raises InputError for a damaged or hostile archive.
    """
    size, unpacked, seen = path.stat().st_size, 0, set[str]()
    try:
        with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps all headers
                name = member_path(member.name, path)
                unpacked += member.size
                refuse_growth(path, unpacked)
                if is_hidden(name):
                    continue
                isic_id, label = tile_id(name), f"{path}/{printable(name)}"
                if not isic_id and not _is_table(name):
                    unread.update(_unread([name], (*_ARCHIVES, *_HDF5)))
                    continue
                if not member.isfile():
                    raise InputError(f"{label} is a link or no file: pack the file itself")
                stream = archive.extractfile(member)
                assert stream is not None
                if not isic_id:
                    _refuse_size(member.size, label, _MAX_TABLE)
                    yield label, _copy(stream.read, member.size, work), raw.tell() / size
                    continue
                if isic_id in seen:
                    raise InputError(f"{path} holds {printable(isic_id)} twice: keep one of them")
                seen.add(isic_id)
                if member.size > MAX_JPEG_BYTES:
                    raise InputError(
                        f"{label} holds {member.size} bytes, at most {MAX_JPEG_BYTES} are read"
                    )
                yield isic_id, None if known(isic_id) else stream.read(), raw.tell() / size
    except _BAD_ARCHIVE as error:
        if error_line(error) is not None:
            raise
        raise _unreadable(str(path), error) from error


def unread_text(unread: Counter[str]) -> str:
    """Counts of the files that are not read, and the format that is."""
    reasons = {
        "tiles must be .jpg": _OTHER_TILES,
        "tables must be .csv": _OTHER_TABLES,
        "unpack them": (*_OTHER_ARCHIVES, *_ARCHIVES, *_HDF5),
    }
    return "; ".join(
        f"{', '.join(f'{unread[suffix]:,} {suffix}' for suffix in counted)} ({reason})"
        for reason, suffixes in reasons.items()
        if (counted := [suffix for suffix in suffixes if unread[suffix]])
    )


def _unread(names: Iterable[str], inside: tuple[str, ...] = ()) -> Iterator[str]:
    """Suffixes of files in formats that are not read, `inside` among them."""
    suffixes = (*_OTHER_TILES, *_OTHER_TABLES, *_OTHER_ARCHIVES, *inside)
    for name in map(str.lower, names):
        if name.endswith(suffixes):
            yield next(end for end in suffixes if name.endswith(end))


def _is_table(name: str) -> bool:
    return name.lower().endswith(_TABLES)


def _refuse_size(size: int, label: str, limit: int) -> None:
    if size > limit:
        raise InputError(f"{label} holds {size} bytes, at most {limit} are unpacked")


def _copy(read: Callable[[int], bytes], size: int, work: Path) -> Path:
    """Copy `size` bytes, what a member claims, to a file of `work` whose name is ours."""
    folder = work / "unpacked"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / str(len(list(folder.iterdir())))
    with target.open("wb") as stream:
        while size > 0 and (block := read(min(size, _BLOCK))):
            stream.write(block)
            size -= len(block)
    return target


def _unreadable(label: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return InputError(f"{label} cannot be unpacked ({reason}): copy the archive again")
