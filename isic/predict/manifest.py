"""The manifest of a bundle, bundle.json, verified against the files before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isic.core.errors import InputError, faulty_key
from isic.core.io import read_json, sha256, sha256_json, typed

#: Incremented when older code cannot read a new bundle.json; `_upgraded` converts older formats.
BUNDLE_FORMAT = 3
FILE = "bundle.json"
#: File types of a bundle: weights, boosters as text or in their portable formats, numbers, tables.
KINDS = frozenset({".safetensors", ".txt", ".cbm", ".npz", ".json", ".parquet"})

#: Keys covered by `hash`, by format; code, commit, libraries and licence are not.
_PARTS_1 = (
    "format",
    "folds",
    "backbones",
    "families",
    "params",
    "metrics",
    "data_hash",
    "folds_hash",
    "files",
)
_PARTS_2 = (*_PARTS_1, "models", "features", "fitted")
_PARTS = {1: _PARTS_1, 2: _PARTS_2, 3: _PARTS_2}

#: Removed embedding modes and the last version of isic that reads a bundle with one.
_LAST_READER = {"distance": "0.1.0", "reduced": "0.1.0"}


class Manifest(BaseModel):
    """bundle.json. `hash` identifies the models, parameters, metrics, data and folds.

    `models`: description of each learner; `features`: columns of the stacker; `fitted`: files of
    fitted values; `libraries`: versions of the packages at the time of building.
    """

    # Later code may add keys within a format.
    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int
    hash: str
    folds: Annotated[tuple[Annotated[int, Field(ge=0, lt=1000)], ...], Field(min_length=1)]
    backbones: tuple[str, ...]
    families: tuple[str, ...]
    models: dict[str, Any]
    features: tuple[str, ...]
    fitted: dict[str, str]
    params: dict[str, Any]
    metrics: dict[str, Any]
    data_hash: str
    folds_hash: str
    #: Hash of the tiles by which the embeddings were aligned; empty in bundles of isic 0.1.
    anchors_hash: str = ""
    code_hash: str
    git_commit: str
    isic_version: str
    libraries: dict[str, str]
    licence: str
    load: str
    files: dict[str, str]

    @property
    def older_ranks(self) -> bool:
        """Whether its stacker was trained on ranks without the half; see `build_features`."""
        return self.format < 3


def identity(content: Mapping[str, Any]) -> str:
    """The hash of a manifest by the rule of its format; KeyError when a covered key is missing."""
    return sha256_json({part: content[part] for part in _PARTS[content["format"]]})


def file_hashes(folder: Path) -> dict[str, str]:
    """Relative name to SHA-256 of every file in a bundle folder but its manifest."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / FILE)
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def read_manifest(folder: Path) -> Manifest:
    """Read bundle.json, of this or an older format, without checking the other files.

    Raises InputError when the folder is no bundle, has a newer format, or bundle.json is damaged.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise InputError(
            f"{folder} is not a bundle (no {FILE}): run `dvc repro register` or name another folder"
        )
    content = read_json(folder / FILE)
    if (
        not isinstance(content, dict)
        or type(content.get("format")) is not int
        or content["format"] < 1
    ):
        raise InputError(
            f"{folder / FILE} is not a bundle's manifest: run `dvc repro register` again"
        )
    if content["format"] > BUNDLE_FORMAT:
        raise InputError(
            f"{folder} has bundle format {content['format']}, this code reads up to"
            f" {BUNDLE_FORMAT}: update isic"
        )
    try:
        unchanged = identity(content) == content["hash"]
        manifest = typed(Manifest, _upgraded(content))
    except KeyError as error:
        raise InputError(f"{folder / FILE} has no {error}: build the bundle again") from error
    except ValidationError as error:
        raise InputError(
            f"{folder / FILE} has no usable `{faulty_key(error)}`: build the bundle again"
        ) from error
    except (
        TypeError,
        ValueError,
    ) as error:  # a key of another type in an older format; NaN, which has no hash
        raise InputError(
            f"{folder / FILE} is not a bundle's manifest ({error}): build the bundle again"
        ) from error
    if not unchanged:
        raise InputError(
            f"{folder / FILE} was changed after it was written: copy or build the bundle again"
        )
    _check_names(folder, manifest)
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Raise InputError unless the folder holds the files of the manifest, with the recorded bytes,
    and no others.
    """
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{folder} lacks {name}: copy or build the bundle again")
        if not file.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{file} is a link to a file outside the bundle: do not use this bundle"
            )
        if sha256(file) != expected:
            raise InputError(
                f"{file} is not the file the bundle was made with (its hash differs): copy it again"
            )
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if not file.is_dir() and name != FILE and name not in manifest.files:
            raise InputError(
                f"{file} is not part of the bundle: remove it, or copy or build the bundle again"
            )


def refuse_removed(folder: Path, manifest: Manifest) -> None:
    """Raise InputError when the bundle needs a feature family or an embedding mode that was
    removed.
    """
    from isic.tabular.registry import REMOVED, feature_families

    for family in manifest.families:
        if family not in feature_families():
            last = REMOVED.get(family, manifest.isic_version)
            raise InputError(
                f"{folder} uses the removed feature family `{family}`: isic {last} is the last to"
                " read it"
            )
    stack = manifest.params.get("stack", {})
    if not isinstance(stack, dict):
        raise InputError(f"{folder / FILE} has no usable `params.stack`: build the bundle again")
    images = stack.get("images", stack.get("evidence"))
    mode = images.get("embeddings") if isinstance(images, dict) else None
    if isinstance(mode, str) and mode in _LAST_READER:
        raise InputError(
            f"{folder} uses the removed embedding mode `{mode}`: isic {_LAST_READER[mode]} is the"
            " last to read it"
        )


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Convert a manifest of an older format to this one; keys not recorded then stay empty."""
    if content["format"] == 1:
        image = content["params"]["image"]["backbones"]
        models = {"image": {name: {"model": image[name]["model"]} for name in content["backbones"]}}
        return {"models": models, "features": (), "fitted": {}, "libraries": {}, **content}
    return content


def _check_names(folder: Path, manifest: Manifest) -> None:
    """Names become paths when models are loaded: refuse paths outside the bundle and other file
    types.
    """
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise InputError(
                f"{folder / FILE} names a file outside the bundle ({name}): do not use this bundle"
            )
        if path.suffix not in KINDS:
            raise InputError(
                f"{folder / FILE} names {name}, a kind of file no bundle has: do not use this"
                " bundle"
            )
    for names in (manifest.folds, manifest.backbones, manifest.families):
        if len(set(names)) < len(names):
            raise InputError(f"{folder / FILE} names one of {list(names)} twice: do not use it")
    for name in manifest.backbones:
        if PurePosixPath(name).parts != (name,) or name == ".." or "\\" in name:
            raise InputError(
                f"{folder / FILE} names a backbone that is no plain name ({name}): do not use this"
                " bundle"
            )
