"""No message blames a healthy file for what the system refused."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
import pytest

from isic.core.errors import InputError, error_line
from isic.core.io import read_parquet
from isic.data.tiles import TileStore


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize(
    ("library", "name", "read"),
    [
        (h5py, "File", lambda path: TileStore(path).ids()),
        (pd, "read_parquet", read_parquet),
    ],
)
def test_what_the_system_refuses_is_no_fault_of_the_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    library: Any,
    name: str,
    read: Callable[[Path], Any],
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        # As h5py and pyarrow raise it: without the name of the file.
        raise OSError(number, "unable to open file")

    (tmp_path / "a file").touch()
    monkeypatch.setattr(library, name, refuse)
    with pytest.raises(OSError, match="a file") as error:
        read(tmp_path / "a file")
    line = error_line(error.value) or ""
    assert str(tmp_path / "a file") in line
    assert "again" not in line
    assert "damaged" not in line


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip", b"isic_id,target\n", b"\xff\xd8\xff"])
def test_a_file_of_another_kind_is_not_to_be_copied_again(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tiles").write_bytes(data)
    with pytest.raises(InputError, match="is no HDF5 file: name another file"):
        TileStore(tmp_path / "tiles").ids()
