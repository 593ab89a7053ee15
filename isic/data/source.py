"""The five official files in data/raw, copied or built from a folder or archive."""

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


def take_folder(folder: Path, raw: Path, work: Path) -> None:
    """Fill `raw` with the five official files of `folder`, or built from another form of them, in
    which case tiles that were read are kept in `work`; `folder` is read, never written.

    Raises InputError when the folder or anything in it is missing, or the folder is `raw` itself.
    Nothing is left in `raw` on failure.
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(
            f"data.folder {folder} is not a folder: run `make data`, which downloads the official"
            " files to data/official, or set data.folder in params.yaml to a folder that has them"
        )
    if folder.resolve().is_relative_to(Path(raw).resolve()):
        raise InputError(
            f"data.folder {folder} is {raw} itself, which DVC empties and fills: keep the files"
            " elsewhere"
        )
    missing = missing_files(folder)
    if missing and not has_tiles(folder):
        raise InputError(
            f"data.folder {folder} lacks {', '.join(missing)}: run `make data`, which downloads the"
            " official files to data/official, or put them or another form of the data there"
            " (docs/data.md)"
        )
    with atomic_dir(raw) as temporary:
        if missing or not _are_official(folder):
            from isic.data.forms.build import import_data

            import_data(folder, temporary, work)
        else:
            for name in FILES:
                shutil.copyfile(folder / name, temporary / name)


def missing_files(folder: Path) -> list[str]:
    """The official files that `folder` lacks."""
    return [name for name in FILES if not (folder / name).is_file()]


def has_tiles(source: Path) -> bool:
    """Whether `source` is an archive or holds one, an HDF5 file or a JPEG, by their names: the data in
    another form.
    """
    from isic.data.forms.find import is_source_file
    from isic.data.image_files import walk

    return source.is_file() or (source.is_dir() and any(map(is_source_file, walk(source))))


def _are_official(folder: Path) -> bool:
    from isic.data.tiles import TileStore

    return all(TileStore(folder / name).official for name in FILES if name.endswith(".hdf5"))
