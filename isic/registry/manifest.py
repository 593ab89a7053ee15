"""What a bundle says of itself: bundle.json, checked against the files beside it before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from isic.core.errors import InputError
from isic.core.io import read_json, sha256, sha256_json

#: Raised when a bundle changes so that older code cannot read it; `_upgraded` brings older ones forward.
FORMAT = 1
FILE = "bundle.json"


class Manifest(BaseModel):
    """bundle.json. `hash` identifies what scores and how well: models, parameters, metrics, data, folds."""

    # A key added by later code within a format is no reason to refuse the rest.
    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int
    hash: str
    folds: tuple[int, ...]
    backbones: tuple[str, ...]
    families: tuple[str, ...]
    params: dict[str, Any]
    metrics: dict[str, Any]
    data_hash: str
    folds_hash: str
    code_hash: str
    git_commit: str
    isic_version: str
    licence: str
    load: str
    files: dict[str, str]


def identity(content: Mapping[str, Any]) -> str:
    """The hash of what a bundle is; code and commit are told beside it, for they do not change its bytes."""
    parts = ("format", "folds", "backbones", "families", "params", "metrics", "data_hash", "folds_hash", "files")
    return sha256_json({part: content[part] for part in parts})


def file_hashes(folder: Path) -> dict[str, str]:
    """Relative name to SHA-256 of every file in a bundle folder but its manifest."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / FILE)
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def read_manifest(folder: Path) -> Manifest:
    """Read bundle.json without looking at the other files.

    Raises InputError when the folder is no bundle, a newer one than this code reads, or not whole.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise InputError(f"{folder} is not a bundle (no {FILE}): run `dvc repro register` or name another folder")
    content = read_json(folder / FILE)
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise InputError(f"{folder / FILE} is not a bundle's manifest: run `dvc repro register` again")
    if content["format"] > FORMAT:
        raise InputError(f"{folder} has bundle format {content['format']}, this code reads up to {FORMAT}: update isic")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(f"{folder / FILE} has no usable `{key}`: build the bundle again") from error
    if identity(content) != manifest.hash:
        raise InputError(f"{folder / FILE} was changed after it was written: fetch or build the bundle again")
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Raise InputError unless every file of the manifest is there with the recorded bytes."""
    for name, expected in manifest.files.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise InputError(f"{folder / FILE} names a file outside the bundle ({name}): do not use this bundle")
        file = folder / name
        if not file.is_file():
            raise InputError(f"{folder} lacks {name}: fetch or build the bundle again")
        if sha256(file) != expected:
            raise InputError(f"{file} is not the file the bundle was made with (its hash differs): fetch it again")
