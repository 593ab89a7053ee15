"""Copy of the five official files from a folder to data/raw."""

from __future__ import annotations

import shutil
from pathlib import Path

from isic.core.errors import InputError
from isic.core.io import atomic_dir

#: The official names.
FILES = (
    "train-metadata.csv",
    "train-image.hdf5",
    "test-metadata.csv",
    "test-image.hdf5",
    "sample_submission.csv",
)


def take_folder(folder: Path, raw: Path) -> None:
    """Copy the five official files from `folder` to `raw`; `folder` is read, never written.

    Raises InputError when the folder or one of the files is missing, or the folder is `raw` itself.
    Nothing is left behind on failure.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"data.folder {folder} is not a folder: run `make data`, which downloads the official"
            " files to data/official, or set data.folder in params.yaml to a folder that has them"
        )
    if folder.resolve().is_relative_to(Path(raw).resolve()):
        raise InputError(
            f"data.folder {folder} is {raw} itself, which DVC empties and fills: keep the files"
            " elsewhere"
        )
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"data.folder {folder} lacks {', '.join(missing)}: run `make data`, which downloads the"
            " official files to data/official, or put them there"
        )
    with atomic_dir(raw) as temporary:
        for name in FILES:
            shutil.copyfile(folder / name, temporary / name)
