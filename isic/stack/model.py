"""The stacker: one chain per fold from features and image logits to a score, saved as portable
models and stack.json.

Chain F is what scored fold F out of fold: logits of fold F's image models, on fold F's scale,
through the members trained on the other folds. At test time every chain scores every lesion and the
mean of the chains is the score.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, ValidationError
from scipy.special import expit

from isic.core.errors import InputError, faulty_key
from isic.core.io import atomic_dir, read_json, typed, write_json
from isic.core.metric import Floats
from isic.core.params import ImageColumns
from isic.core.schema import TEST_COLUMNS, TEXT
from isic.stack.blend import Blend, by_patient_size
from isic.stack.combination import Combination
from isic.stack.embeddings import Space
from isic.stack.encoder import Columns, Encoder, plain
from isic.stack.image_columns import Embeddings, ImageEncoder, Scale, check_images
from isic.stack.members import Library, library, log_odds
from isic.stack.training_data import Part, patient_sizes
from isic.tabular.fitted import Fitted, fitted_families

_FORMAT = 3
#: Format 2 has members of whole patients only, and no combination.
_READ = (2, 3)
_FILE = "stack.json"
_SPACES = "spaces.npz"
#: Folder of the stacker without images, inside that of one with them.
_FEATURES_ONLY = "features_only"
#: A lesion on which fitted values are tried when they are loaded.
_ANY_ROW = pd.DataFrame({name: ["unknown"] if name in TEXT else [1.0] for name in TEST_COLUMNS})
_REFIT = "rerun `dvc repro stack`, or `dvc pull` if it was made elsewhere"


#: A file of the stacker's own folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\.[a-z]+$")]


_Files = Annotated[list[FileName], Field(min_length=1)]


class _StoredMembers(BaseModel):
    """Files of a library's members in stack.json."""

    whole: _Files
    thinned: _Files | None = None
    lesion: _Files | None = None

    def parts(self) -> dict[Part, list[str]]:
        """Part -> files, those that exist."""
        found: dict[Part, list[str] | None] = {
            "whole": self.whole,
            "thinned": self.thinned,
            "lesion": self.lesion,
        }
        return {part: files for part, files in found.items() if files}


def _of_whole_patients(stored: Any) -> Any:
    """Members of format 2, a list of files."""
    return {"whole": stored} if isinstance(stored, list) else stored


class _StoredChain(BaseModel):
    """A chain in stack.json."""

    scales: dict[str, Scale]
    members: Annotated[
        dict[str, Annotated[_StoredMembers, BeforeValidator(_of_whole_patients)]],
        Field(min_length=1),
    ]
    blend: Blend
    combination: Combination | None = None
    #: A log-odds; beyond 100 all scores are equal.
    offset: Annotated[float, Field(ge=-100, le=100)]
    fitted: dict[str, dict[str, Any]] = {}  # absent in old stackers


class _Stored(BaseModel):
    """stack.json; unknown keys, added by later code within a format, are ignored."""

    columns: dict[str, str]
    lesion_columns: tuple[str, ...] = ()
    numeric: tuple[str, ...]
    levels: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]]
    # Called "evidence" before isic 0.2.
    images: ImageColumns = Field(validation_alias=AliasChoices("images", "evidence"))
    chains: dict[int, _StoredChain] = Field(min_length=1)
    metrics: dict[str, Any]


#: {library: {part of the patients: models}}.
Members = Mapping[str, Mapping[Part, list[Any]]]


@dataclass(frozen=True)
class Chain:
    """Scores one fold: image encoder, members, their blend, the log-odds offset that undoes the
    sampling, the features fitted on the training folds, and the late combination if there is one.
    """

    images: ImageEncoder
    members: Members
    blend: Blend
    offset: float
    fitted: Fitted = field(default_factory=lambda: Fitted({}))
    combination: Combination | None = None


@dataclass(frozen=True)
class Stack:
    """A fitted stacker. `oof` (isic_id, patient_id, target, fold, score) exists only after fitting.
    `features_only` is the stacker of the same rows and settings without image columns.

    `families` maps every column, in the order the members read them, to its feature family ("image"
    for image columns).
    """

    encoder: Encoder
    chains: dict[int, Chain]
    families: dict[str, str]
    oof: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics: dict[str, Any] = field(default_factory=dict)
    features_only: Stack | None = None
    #: Columns of the members of part "lesion", those that no other lesion changes.
    lesion_names: tuple[str, ...] = ()

    @property
    def folds(self) -> tuple[int, ...]:
        return tuple(sorted(self.chains))

    @property
    def backbones(self) -> tuple[str, ...]:
        return tuple(next(iter(self.chains.values())).images.scales)

    @property
    def names(self) -> tuple[str, ...]:
        """Columns in the order the members read them."""
        return tuple(self.families)

    def names_of(self, part: Part) -> tuple[str, ...]:
        """Columns in the order in which members of a part read them."""
        return self.lesion_names if part == "lesion" else self.names

    @property
    def thinned(self) -> bool:
        """Whether there are members of thinned patients."""
        first = next(iter(self.chains.values()))
        return any("thinned" in by_part for by_part in first.members.values())

    @property
    def uses_embeddings(self) -> bool:
        """Whether `score` needs embeddings besides logits."""
        return (
            bool(self.backbones)
            and next(iter(self.chains.values())).images.settings.embeddings != "none"
        )

    def score(
        self,
        features: pd.DataFrame,
        logits: Mapping[str, ArrayLike],
        fold: int,
        patients: ArrayLike,
        embeddings: Embeddings | None = None,
    ) -> NDArray[np.float64]:
        """Score of chain `fold` for each row, (n,) between 0 and 1, higher = more malignant.

        `logits` are the raw ones of fold `fold`'s image models, NaN where an image is missing;
        `patients` (n,) names each row's patient: image columns include ranks within the patient.
        `embeddings` are needed only if `uses_embeddings`. Raises InputError on a missing feature,
        another set of backbones or an unknown fold.
        """
        chain, sizes = self.chain(fold), patient_sizes(patients)
        columns = self.columns(features, logits, fold, patients, embeddings)
        total = self._log_odds(fold, columns, sizes)
        if chain.combination is not None and self.features_only is not None:
            alone = self.features_only._log_odds(fold, columns, sizes)
            total = chain.combination(alone, total, chain.images.mean_logit(logits))
        return np.asarray(expit(total), dtype=np.float64)

    def _log_odds(self, fold: int, columns: Columns, sizes: NDArray[np.int64]) -> Floats:
        """Log-odds (n,) of the members of chain `fold`; `columns` may have further ones."""
        chain, index = self.chain(fold), np.arange(len(sizes))
        margins = {}
        for name, by_part in chain.members.items():
            values = {
                part: log_odds(
                    [(library(name), model) for model in models],
                    {column: columns[column] for column in self.names_of(part)},
                    index,
                ).mean(axis=0)
                for part, models in by_part.items()
            }
            margins[name] = by_patient_size(values, sizes)
        return chain.blend(margins) + chain.offset

    def columns(
        self,
        features: pd.DataFrame,
        logits: Mapping[str, ArrayLike],
        fold: int,
        patients: ArrayLike,
        embeddings: Embeddings | None = None,
    ) -> Columns:
        """Columns that the members of chain `fold` read; arguments as for `score`."""
        vectors = embeddings or {}
        check_images(logits, vectors, self.backbones, len(features), self.uses_embeddings)
        chain, columns = self.chain(fold), self.encoder.columns(features)
        if self.backbones:
            columns |= chain.images.columns(logits, vectors, patients)
        return columns | {
            plain(name): values for name, values in chain.fitted.columns(features).items()
        }

    def chain(self, fold: int) -> Chain:
        """The chain of a fold; InputError when there is none."""
        if fold not in self.chains:
            raise InputError(
                f"the stacker has no fold {fold}, only {list(self.folds)}: use one of these"
            )
        return self.chains[fold]

    def save(self, folder: Path) -> None:
        """Write `stack.json`, one file per member and `spaces.npz`, all or nothing."""
        with atomic_dir(Path(folder)) as temporary:
            arrays: dict[str, NDArray] = {}
            chains = {
                str(fold): _write_chain(temporary, fold, chain, arrays)
                for fold, chain in self.chains.items()
            }
            if self.features_only is not None:
                self.features_only.save(temporary / _FEATURES_ONLY)
            if arrays:
                np.savez(temporary / _SPACES, **arrays)  # type: ignore[arg-type]
            write_json(
                temporary / _FILE,
                {
                    "format": _FORMAT,
                    "columns": self.families,
                    "lesion_columns": list(self.lesion_names),
                    "numeric": list(self.encoder.numeric),
                    "levels": {
                        column: list(levels) for column, levels in self.encoder.levels.items()
                    },
                    "images": next(iter(self.chains.values())).images.settings.model_dump(),
                    "chains": chains,
                    "metrics": self.metrics,
                },
            )

    @classmethod
    def load(cls, folder: Path) -> Stack:
        """Read what `save` wrote.

        Raises InputError when a file is missing, damaged, of another format or of other columns.
        """
        folder = Path(folder)
        stored = _read_stored(folder / _FILE)
        encoder, names = Encoder(stored.numeric, stored.levels), list(stored.columns)
        chains = {
            fold: _read_chain(folder, fold, chain, stored) for fold, chain in stored.chains.items()
        }
        for chain in chains.values():
            if _columns(encoder, chain) != names:
                raise InputError(
                    f"{folder}/{_FILE} names columns that this code would not build: refit the"
                    " stacker"
                )
        combined = any(chain.combination is not None for chain in chains.values())
        if not set(stored.lesion_columns) <= set(names) or (
            combined and any(not chain.images.scales for chain in chains.values())
        ):
            raise InputError(f"{folder / _FILE} has parts that do not fit each other: {_REFIT}")
        features_only = _load_features_only(folder, chains, stored.columns)
        return cls(
            encoder,
            chains,
            stored.columns,
            metrics=stored.metrics,
            features_only=features_only,
            lesion_names=stored.lesion_columns,
        )


def _load_features_only(
    folder: Path, chains: Mapping[int, Chain], columns: Mapping[str, str]
) -> Stack | None:
    """The stacker without images beside one with them; InputError where it does not fit."""
    if not (folder / _FEATURES_ONLY).is_dir():
        if any(chain.combination is not None for chain in chains.values()):
            raise InputError(f"{folder / _FEATURES_ONLY} is missing: {_REFIT}")
        return None
    found = Stack.load(folder / _FEATURES_ONLY)
    if (
        found.backbones
        or found.chains.keys() != chains.keys()
        or not (found.families.keys() <= columns.keys())
    ):
        raise InputError(f"{folder / _FEATURES_ONLY} is not of {folder / _FILE}: {_REFIT}")
    return found


def _columns(encoder: Encoder, chain: Chain) -> list[str]:
    """Names of the columns that a chain reads, in order."""
    no_image = {backbone: [np.nan] for backbone in chain.images.scales}
    image = chain.images.columns(no_image, {}, ["patient"]) if no_image else {}
    return [*encoder.names, *image, *map(plain, chain.fitted.names)]


def _save(implementation: Library, model: Any, path: Path) -> None:
    try:
        implementation.save(model, path)
    except OSError:
        raise
    except Exception as error:  # each library has its own for a full disk
        raise InputError(
            f"{path} cannot be written ({error}): free some disk space and run the same command"
            " again"
        ) from error


def _write_chain(
    folder: Path, fold: int, chain: Chain, arrays: dict[str, NDArray]
) -> dict[str, Any]:
    files: dict[str, dict[str, list[str]]] = {}
    for name, by_part in chain.members.items():
        implementation, files[name] = library(name), {}
        for part, models in by_part.items():
            stem = f"fold{fold}-{name}" if part == "whole" else f"fold{fold}-{name}-{part}"
            own = [f"{stem}-{index}{implementation.suffix}" for index in range(len(models))]
            files[name][part] = own
            for file, model in zip(own, models, strict=True):
                _save(implementation, model, folder / file)
    for backbone, space in chain.images.spaces.items():
        arrays[f"{fold}/{backbone}/centre"], arrays[f"{fold}/{backbone}/directions"] = (
            space.centre,
            space.directions,
        )
    return {
        "scales": {backbone: scale.to_json() for backbone, scale in chain.images.scales.items()},
        "members": files,
        "blend": chain.blend.to_json(),
        "offset": chain.offset,
        "fitted": chain.fitted.states,
        "combination": chain.combination.to_json() if chain.combination else None,
    }


def _read_stored(file: Path) -> _Stored:
    content = read_json(file)
    if isinstance(content, dict) and content.get("format") not in _READ:
        raise InputError(
            f"{file.parent} has stacker format {content.get('format')}, this code reads"
            f" {' and '.join(map(str, _READ))}: {_REFIT}"
        )
    try:
        return typed(_Stored, content)
    except ValidationError as error:
        raise InputError(f"{file} has no usable `{faulty_key(error)}`: {_REFIT}") from error


def _read_chain(folder: Path, fold: int, stored: _StoredChain, stack: _Stored) -> Chain:
    members: dict[str, dict[Part, list[Any]]] = {}
    references = set(stored.members) if len(stored.members) > 1 else set()
    if set(stored.blend.weights) != set(stored.members) or not references <= set(
        stored.blend.references
    ):
        raise InputError(
            f"{folder / _FILE} blends {list(stored.blend.weights)}, its members are"
            f" {list(stored.members)}: {_REFIT}"
        )
    if len({tuple(stored_members.parts()) for stored_members in stored.members.values()}) > 1:
        raise InputError(f"{folder / _FILE} has no usable `members`: {_REFIT}")
    for name, by_part in stored.members.items():
        members[name] = {}
        for part, files in by_part.parts().items():
            for file in files:
                if not (folder / file).is_file():
                    raise InputError(f"{folder / file} is missing: {_REFIT}")
            names = stack.lesion_columns if part == "lesion" else list(stack.columns)
            members[name][part] = [library(name).load(folder / file, names) for file in files]
    unknown = stored.fitted.keys() - fitted_families().keys()
    if unknown:
        raise InputError(
            f"{folder / _FILE} has fitted features `{min(unknown)}`, which this code lacks:"
            f" {_REFIT}"
        )
    fitted = Fitted(stored.fitted)
    try:
        fitted.columns(_ANY_ROW)
    except Exception as error:  # each family fails in its own way at another one's values
        raise InputError(f"{folder / _FILE} has no usable `fitted`: {_REFIT}") from error
    settings = stack.images
    backbones = list(stored.scales) if settings.embeddings != "none" else []
    images = ImageEncoder(settings, stored.scales, _read_spaces(folder, fold, backbones))
    return Chain(images, members, stored.blend, stored.offset, fitted, stored.combination)


def _read_spaces(folder: Path, fold: int, backbones: list[str]) -> dict[str, Space]:
    if not backbones:
        return {}
    try:
        with np.load(folder / _SPACES, allow_pickle=False) as arrays:
            return {
                name: _space(arrays[f"{fold}/{name}/centre"], arrays[f"{fold}/{name}/directions"])
                for name in backbones
            }
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{folder / _SPACES} is missing or broken: {_REFIT}") from error


def _space(centre: NDArray, directions: NDArray) -> Space:
    """ValueError unless the arrays (d,) and (d, k) fit each other and hold finite numbers."""
    if centre.dtype.kind != "f" or directions.dtype.kind != "f":
        raise ValueError("a space holds numbers")
    if centre.ndim != 1 or directions.ndim != 2 or len(directions) != len(centre):
        raise ValueError("centre and directions are of different spaces")
    if not (np.isfinite(centre).all() and np.isfinite(directions).all()):
        raise ValueError("a space is not finite")
    return Space(centre, directions)
