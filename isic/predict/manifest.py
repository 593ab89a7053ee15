"""What a bundle says of itself: bundle.json, checked against the files beside it before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from isic.core.errors import InputError, faulty_key
from isic.core.io import read_json, sha256, sha256_json

#: Raised when bundle.json changes so that older code cannot read it; `_upgraded` brings older ones forward.
FORMAT = 2
FILE = "bundle.json"
#: What a bundle is made of: weights, boosters as text or in their libraries' portable forms, plain numbers, tables.
KINDS = frozenset({".safetensors", ".txt", ".cbm", ".npz", ".json", ".parquet"})

#: What `hash` covers in each format; code, commit, libraries and licence are told beside it.
_PARTS_1 = ("format", "folds", "backbones", "families", "params", "metrics", "data_hash", "folds_hash", "files")
_PARTS = {1: _PARTS_1, 2: (*_PARTS_1, "models", "features", "fitted")}

#: Removed embedding modes and the last version of isic that reads a bundle with one.
_LAST_READER = {"distance": "0.1.0", "reduced": "0.1.0"}


class Manifest(BaseModel):
    """bundle.json. `hash` identifies what scores and how well: models, parameters, metrics, data, folds.

    `models` says what each learner is, `features` what the stacker reads, `fitted` which file holds what was fitted,
    `libraries` the versions the bundle was made with.
    """

    # A key added by later code within a format is no reason to refuse the rest.
    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int
    hash: str
    folds: tuple[int, ...]
    backbones: tuple[str, ...]
    families: tuple[str, ...]
    models: dict[str, Any]
    features: tuple[str, ...]
    fitted: dict[str, str]
    params: dict[str, Any]
    metrics: dict[str, Any]
    data_hash: str
    folds_hash: str
    #: Of the tiles that the embeddings were aligned by; empty in bundles of isic 0.1.
    anchors_hash: str = ""
    code_hash: str
    git_commit: str
    isic_version: str
    libraries: dict[str, str]
    licence: str
    load: str
    files: dict[str, str]


def identity(content: Mapping[str, Any]) -> str:
    """The hash of what a bundle is, by the rule of its format; KeyError when a part of that is missing."""
    return sha256_json({part: content[part] for part in _PARTS[content["format"]]})


def file_hashes(folder: Path) -> dict[str, str]:
    """Relative name to SHA-256 of every file in a bundle folder but its manifest."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / FILE)
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def read_manifest(folder: Path) -> Manifest:
    """Read bundle.json, of this or an older format, without looking at the other files.

    Raises InputError when the folder is no bundle, a newer one than this code reads, or not whole.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise InputError(f"{folder} is not a bundle (no {FILE}): run `dvc repro register` or name another folder")
    content = read_json(folder / FILE)
    if not isinstance(content, dict) or not isinstance(content.get("format"), int) or content["format"] < 1:
        raise InputError(f"{folder / FILE} is not a bundle's manifest: run `dvc repro register` again")
    if content["format"] > FORMAT:
        raise InputError(f"{folder} has bundle format {content['format']}, this code reads up to {FORMAT}: update isic")
    try:
        whole = identity(content) == content["hash"]
        manifest = Manifest.model_validate(_upgraded(content))
    except KeyError as error:
        raise InputError(f"{folder / FILE} has no {error}: build the bundle again") from error
    except ValidationError as error:
        raise InputError(f"{folder / FILE} has no usable `{faulty_key(error)}`: build the bundle again") from error
    except (TypeError, ValueError) as error:  # parts of another shape in an older format; NaN, which has no hash
        raise InputError(f"{folder / FILE} is not a bundle's manifest ({error}): build the bundle again") from error
    if not whole:
        raise InputError(f"{folder / FILE} was changed after it was written: fetch or build the bundle again")
    _check_names(folder, manifest)
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Raise InputError unless the folder holds the files of the manifest, with the recorded bytes, and no others."""
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{folder} lacks {name}: fetch or build the bundle again")
        if not file.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{file} is a link to a file outside the bundle: do not use this bundle")
        if sha256(file) != expected:
            raise InputError(f"{file} is not the file the bundle was made with (its hash differs): fetch it again")
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if not file.is_dir() and name != FILE and name not in manifest.files:
            raise InputError(f"{file} is not part of the bundle: remove it, or fetch or build the bundle again")


def refuse_removed(folder: Path, manifest: Manifest) -> None:
    """Raise InputError when the bundle needs a feature family or an embedding mode that was removed."""
    from isic.tabular.registry import REMOVED, feature_families

    for family in manifest.families:
        if family not in feature_families():
            last = REMOVED.get(family, manifest.isic_version)
            raise InputError(f"{folder} uses the removed feature family `{family}`: isic {last} is the last to read it")
    stack = manifest.params.get("stack")
    images = stack.get("images", stack.get("evidence")) if isinstance(stack, dict) else None
    mode = images.get("embeddings") if isinstance(images, dict) else None
    if isinstance(mode, str) and mode in _LAST_READER:
        raise InputError(
            f"{folder} uses the removed embedding mode `{mode}`: isic {_LAST_READER[mode]} is the last to read it"
        )


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest of an older format in the words of this one; what was not recorded then stays empty."""
    if content["format"] == 1:
        image = content["params"]["image"]["backbones"]
        models = {"image": {name: {"model": image[name]["model"]} for name in content["backbones"]}}
        return {"models": models, "features": (), "fitted": {}, "libraries": {}, **content}
    return content


def _check_names(folder: Path, manifest: Manifest) -> None:
    """Names become paths when models are loaded: refuse those that lead elsewhere, and files that are no models."""
    for name in manifest.files:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name:
            raise InputError(f"{folder / FILE} names a file outside the bundle ({name}): do not use this bundle")
        if inside.suffix not in KINDS:
            raise InputError(f"{folder / FILE} names {name}, a kind of file no bundle has: do not use this bundle")
    for name in manifest.backbones:
        if PurePosixPath(name).parts != (name,) or name == ".." or "\\" in name:
            raise InputError(f"{folder / FILE} names a backbone that is no plain name ({name}): do not use this bundle")
