"""Tiles as JPEG files of a folder or members of a zip archive.

Nothing is unpacked: a member is read into memory by its place in the archive, so that its name cannot
name a file of this machine, and its size is checked before and while it is decompressed.
"""

from __future__ import annotations

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isic.core.errors import InputError, printable
from isic.data.tiles import MAX_JPEG_BYTES, TileStore, is_hidden, tile_id

#: An archive may grow to this many times its size, and 1 GiB: JPEGs hardly shrink, a table of
#: measurements to a third.
_MAX_GROWTH = 50
_ROOM = 1 << 30
#: Bytes of a member's local header before its name.
_HEADER = 30
#: Exceptions of zipfile for an archive that is damaged, encrypted, or of an unsupported
#: compression.
BAD_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


def open_images(path: Path | str) -> TileStore:
    """The tiles of a folder of JPEGs, a zip archive of them, or an HDF5 file, by what `path` is."""
    path = Path(path)
    if path.is_dir():
        return FolderTiles(path)
    if path.is_file():
        with path.open("rb") as stream:
            start = stream.read(512)
        if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return ZipTiles(path)
        if is_tar(start):
            raise InputError(
                f"{path} is a tar archive, whose members cannot be read in any order: unpack it, or"
                " run isic data import"
            )
    return TileStore(path)


def is_tar(start: bytes) -> bool:
    """Whether a file with these first 512 bytes is a tar archive, or compressed like one."""
    return start[257:262] == b"ustar" or start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))


class FolderTiles(TileStore):
    """`ISIC_….jpg` files of a folder and the folders in it, by their names without suffix.

    Raises InputError for a folder without any, and for two files of one name.
    """

    def __init__(self, path: Path, names: Sequence[str] | None = None) -> None:
        """`names`: the files to use, relative to `path`; default: all."""
        self.path = path
        self._files: dict[str, str] = {}
        for name in walk(path) if names is None else names:
            isic_id = tile_id(name)
            if isic_id is None:
                continue
            if isic_id in self._files:
                raise InputError(
                    f"{path} holds {isic_id} twice, {self._files[isic_id]} and {name}: keep one"
                )
            self._files[isic_id] = name
        if not self._files and names is None:
            raise InputError(f"{path} holds no .jpg file: name the folder of the tiles")

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, isic_id: str) -> bool:
        return isic_id in self._files

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def ids(self) -> list[str]:
        """All isic_ids, by the path of their file."""
        return list(self._files)

    def state(self) -> list[int]:
        """Sizes and times of change of all files, as one number."""
        hashed = 0
        for name in self._files.values():
            found = os.stat(f"{self.path}/{name}")  # noqa: PTH116, as above
            hashed = zlib.crc32(f"{name} {found.st_size} {found.st_mtime_ns}".encode(), hashed)
        return [len(self._files), hashed]

    def close(self) -> None:
        pass

    def _read(self, isic_id: str) -> bytes:
        if isic_id not in self._files:
            raise InputError(
                f"{self.path} has no image for {isic_id}: add it or drop its metadata row"
            )
        file = f"{self.path}/{self._files[isic_id]}"
        with open(file, "rb") as stream:  # noqa: PTH123, a Path takes as long as the reading
            data = stream.read(MAX_JPEG_BYTES + 1)
        if len(data) > MAX_JPEG_BYTES:
            raise InputError(
                f"{self.path}: tile {isic_id} holds more than {MAX_JPEG_BYTES} bytes, no more are"
                " read"
            )
        return data


def walk(folder: Path) -> Iterator[str]:
    """Files below `folder` that are not hidden, relative to it, sorted within each folder. A linked
    folder is entered once, so a loop of links ends.
    """
    entered: set[tuple[int, int]] = set()

    def files(path: str, prefix: str) -> Iterator[str]:
        state = Path(path).stat()
        if (state.st_dev, state.st_ino) in entered:
            return
        entered.add((state.st_dev, state.st_ino))
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                yield from files(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name

    return files(str(folder), "")


class ZipTiles(TileStore):
    """`ISIC_….jpg` members of a zip archive, by their names without folder and suffix.

    Workers share the file's descriptor: members are read by position.
    """

    def __init__(self, path: Path, members: Sequence[zipfile.ZipInfo] | None = None) -> None:
        """`members`: of `zip_members(path)`, which is the default."""
        self.path = path
        self._descriptor: int | None = None
        self._rows: dict[str, int] = {}
        places: list[tuple[int, int, int, int, bool]] = []
        for member in zip_members(path) if members is None else members:
            isic_id = tile_id(member.filename)
            if isic_id is None:
                continue
            if isic_id in self._rows:
                raise InputError(f"{path} holds {printable(isic_id)} twice: keep one of them")
            self._rows[isic_id] = len(places)
            places.append(_place(path, member))
        if not places and members is None:
            raise InputError(f"{path} holds no .jpg file: name an archive of tiles")
        # By member (n, 5): offset of the local header, packed size, size, CRC, whether deflated.
        self._places = np.array(places, dtype=np.int64).reshape(-1, 5)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, isic_id: str) -> bool:
        return isic_id in self._rows

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}

    def ids(self) -> list[str]:
        """All isic_ids, by their place in the archive."""
        ids = list(self._rows)
        return [ids[row] for row in np.argsort(self._places[:, 0], kind="stable")]

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.close()

    def _read(self, isic_id: str) -> bytes:
        if isic_id not in self._rows:
            raise InputError(
                f"{self.path} has no image for {isic_id}: add it or drop its metadata row"
            )
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        offset, packed, size, crc, deflated = self._places[self._rows[isic_id]].tolist()
        header = os.pread(self._descriptor, _HEADER, offset)
        if len(header) < _HEADER or not header.startswith(b"PK\x03\x04"):
            raise ValueError("no header at the place that the directory gives")
        # The header's own name and extra field, whose lengths may differ from the directory's.
        skipped = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        data = os.pread(self._descriptor, packed, offset + _HEADER + skipped)
        if deflated:
            try:
                data = zlib.decompressobj(-15).decompress(data, size + 1)
            except zlib.error as error:
                raise ValueError(str(error)) from error
        if len(data) != size or zlib.crc32(data) != crc:
            raise ValueError("its bytes are not those that were packed")
        return data


def zip_members(path: Path) -> list[zipfile.ZipInfo]:
    """The files of a zip archive that are not hidden. Raises InputError for a damaged archive, a
    member whose path leaves it, and an archive that would grow beyond reason.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except BAD_ZIP as error:
        raise InputError(
            f"{path} is not a complete zip archive ({' '.join(str(error).split())[:120]}): copy it"
            " again"
        ) from error
    for member in members:
        member.filename = member_path(member.filename, path)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(
                f"{path}: {printable(member.filename)} is a link: pack the file itself"
            )
    refuse_growth(path, sum(member.file_size for member in members))
    return [member for member in members if not is_hidden(member.filename)]


def member_path(name: str, archive: Path) -> str:
    """The path of a member, with the slashes that some programs on Windows write as backslashes.
    Raises InputError for one that leads out of its archive.
    """
    path = name.replace("\\", "/")
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or parts[0].endswith(":") or "\0" in name:
        raise InputError(
            f"{archive} has a member outside of it, {printable(name)!r}: do not use this archive"
        )
    return path


def refuse_growth(archive: Path, size: int) -> None:
    """Raise InputError when an archive's members have `size` bytes in all, far more than it."""
    packed = archive.stat().st_size
    if size > _MAX_GROWTH * packed + _ROOM:
        raise InputError(
            f"{archive} has {packed:,} bytes and unpacks to {size:,} or more: do not use this archive"
        )


def _place(path: Path, member: zipfile.ZipInfo) -> tuple[int, int, int, int, bool]:
    problem = ""
    if member.flag_bits & 0x1:
        problem = "is encrypted: unpack the archive with its password"
    elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        problem = f"is compressed by method {member.compress_type}: unpack the archive"
    elif max(member.file_size, member.compress_size) > MAX_JPEG_BYTES:
        problem = f"holds {member.file_size} bytes, at most {MAX_JPEG_BYTES} are read"
    if problem:
        raise InputError(f"{path}: {printable(member.filename)} {problem}")
    deflated = member.compress_type == zipfile.ZIP_DEFLATED
    return member.header_offset, member.compress_size, member.file_size, member.CRC, deflated
