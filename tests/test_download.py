"""`make data` takes five files from Kaggle's download, or ends with a one-line error."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from isic.core.errors import InputError
from isic.data.source import FILES
from pipelines import download

#: A fake client: copies the test's files, as `competitions download -c NAME -p FOLDER` would.
CLIENT = """#!/bin/sh
[ -f "$SENT" ] && cp "$SENT" "$6/$4.zip"
exit 0
"""


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the files that Kaggle sends; the working directory is a checkout without data."""
    (tmp_path / "bin").mkdir()
    client = tmp_path / "bin" / "kaggle"
    client.write_text(CLIENT)
    client.chmod(0o755)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "dvc.yaml").touch()
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "token")
    monkeypatch.setenv("SENT", str(tmp_path / "sent.zip"))
    return tmp_path / "sent.zip"


def archive(path: Path, *, without: str = "", more: tuple[str, ...] = ()) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        for name in (*FILES, *more):
            if name != without:
                content.writestr(name, f"{name} " * 50)


def refused(match: str) -> None:
    """`make data` ends with one line that matches `match`, names no temporary folder, and leaves no
    files.
    """
    with pytest.raises(InputError, match=match) as error:
        download.main()
    assert "data/.official" not in str(error.value)
    assert not list(Path("data").iterdir())


def test_the_five_files_are_taken_and_no_others(sent: Path) -> None:
    archive(sent, more=("../outside", "train-image/image/ISIC_0000001.jpg", "/tmp/isic-outside"))
    download.main()
    assert {file.name for file in Path("data/official").iterdir()} == set(FILES)
    assert Path("data/official/train-image.hdf5").read_text().startswith("train-image.hdf5 ")
    assert {file.name for file in Path("data").iterdir()} == {"official"}


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(sent: Path, name: str) -> None:
    archive(sent, without=name)
    refused(f"lacks {name}")


def test_no_archive_is_said_without_a_folder_that_is_gone(sent: Path) -> None:
    refused("left no isic-2024-challenge.zip")


@pytest.mark.parametrize("fault", ["page", "empty", "cut short", "damaged", "encrypted"])
def test_what_is_no_whole_archive_is_said(sent: Path, fault: str) -> None:
    archive(sent)
    data = bytearray(sent.read_bytes())
    if fault == "encrypted":
        for place in (
            6,
            data.index(b"PK\x01\x02") + 8,
        ):  # flags of the first file, in both of its headers
            data[place] |= 1
    if fault == "damaged":
        data[50:60] = bytes(10)
    made = {
        "page": b"<!doctype html><title>Sign in</title>",
        "empty": b"",
        "cut short": data[: len(data) // 2],
    }
    sent.write_bytes(made.get(fault, data))
    refused("is not a complete zip archive")


def test_a_file_too_large_to_be_official_is_not_unpacked(
    sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(sent)
    monkeypatch.setattr(download, "MAX_BYTES", 100)
    refused("train-metadata.csv in isic-2024-challenge.zip claims 950 bytes, at most 100")


def test_the_command_itself_ends_with_one_line(
    sent: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent.write_bytes(b"<!doctype html>")
    monkeypatch.setenv("PYTHONPATH", str(root))
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.download"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("isic: error: the isic-2024-challenge.zip that Kaggle sent")
    assert len(done.stderr.splitlines()) == 1
