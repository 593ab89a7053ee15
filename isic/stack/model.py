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
from pydantic import AliasChoices, BaseModel, Field, ValidationError
from scipy.special import expit

from isic.core.errors import InputError, faulty_key
from isic.core.io import atomic_dir, read_json, typed, write_json
from isic.core.params import ImageColumns
from isic.core.schema import TEST_COLUMNS, TEXT
from isic.stack.blend import Blend
from isic.stack.embeddings import Space
from isic.stack.encoder import Columns, Encoder, plain
from isic.stack.image_columns import Embeddings, ImageEncoder, Scale, check_images
from isic.stack.members import library, log_odds
from isic.tabular.fitted import Fitted, fitted_families

_FORMAT = 2
_FILE = "stack.json"
_SPACES = "spaces.npz"
#: A lesion on which fitted values are tried when they are loaded.
_ANY_ROW = pd.DataFrame({name: ["unknown"] if name in TEXT else [1.0] for name in TEST_COLUMNS})
_REFIT = "rerun `dvc repro stack`, or `dvc pull` if it was made elsewhere"


#: A file of the stacker's own folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\.[a-z]+$")]


class _StoredChain(BaseModel):
    """A chain in stack.json."""

    scales: dict[str, Scale]
    members: Annotated[
        dict[str, Annotated[list[FileName], Field(min_length=1)]], Field(min_length=1)
    ]
    blend: Blend
    #: A log-odds; beyond 100 all scores are equal.
    offset: Annotated[float, Field(ge=-100, le=100)]
    fitted: dict[str, dict[str, Any]] = {}  # absent in old stackers


class _Stored(BaseModel):
    """stack.json; unknown keys, added by later code within a format, are ignored."""

    columns: dict[str, str]
    numeric: tuple[str, ...]
    levels: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]]
    # Called "evidence" before isic 0.2.
    images: ImageColumns = Field(validation_alias=AliasChoices("images", "evidence"))
    chains: dict[int, _StoredChain] = Field(min_length=1)
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Chain:
    """Scores one fold: image encoder, {library: models}, their blend, the log-odds offset that
    undoes the sampling, and the features fitted on the training folds.
    """

    images: ImageEncoder
    members: dict[str, list[Any]]
    blend: Blend
    offset: float
    fitted: Fitted = field(default_factory=lambda: Fitted({}))


@dataclass(frozen=True)
class Stack:
    """A fitted stacker. `oof` (isic_id, patient_id, target, fold, score) exists only after fitting.

    `families` maps every column, in the order the members read them, to its feature family ("image"
    for image columns).
    """

    encoder: Encoder
    chains: dict[int, Chain]
    families: dict[str, str]
    oof: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics: dict[str, Any] = field(default_factory=dict)

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
        chain = self.chain(fold)
        columns = self.columns(features, logits, fold, patients, embeddings)
        index = np.arange(len(features))
        margins = {
            name: (
                log_odds([(library(name), model) for model in models], columns, index).mean(axis=0)
            )
            for name, models in chain.members.items()
        }
        return probabilities(chain, margins)

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
            if arrays:
                np.savez(temporary / _SPACES, **arrays)  # type: ignore[arg-type]
            write_json(
                temporary / _FILE,
                {
                    "format": _FORMAT,
                    "columns": self.families,
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
        settings = stored.images
        chains = {
            fold: _read_chain(folder, fold, chain, settings, names)
            for fold, chain in stored.chains.items()
        }
        for chain in chains.values():
            if _columns(encoder, chain) != names:
                raise InputError(
                    f"{folder}/{_FILE} names columns that this code would not build: refit the"
                    " stacker"
                )
        return cls(encoder, chains, stored.columns, metrics=stored.metrics)


def probabilities(chain: Chain, margins: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Probability of malignancy at the population's prevalence from each library's mean log-odds
    (n,).
    """
    return np.asarray(expit(chain.blend(margins) + chain.offset), dtype=np.float64)


def _columns(encoder: Encoder, chain: Chain) -> list[str]:
    """Names of the columns that a chain reads, in order."""
    no_image = {backbone: [np.nan] for backbone in chain.images.scales}
    image = chain.images.columns(no_image, {}, ["patient"]) if no_image else {}
    return [*encoder.names, *image, *map(plain, chain.fitted.names)]


def _write_chain(
    folder: Path, fold: int, chain: Chain, arrays: dict[str, NDArray]
) -> dict[str, Any]:
    files: dict[str, list[str]] = {}
    for name, models in chain.members.items():
        implementation = library(name)
        files[name] = [
            f"fold{fold}-{name}-{index}{implementation.suffix}" for index in range(len(models))
        ]
        for file, model in zip(files[name], models, strict=True):
            implementation.save(model, folder / file)
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
    }


def _read_stored(file: Path) -> _Stored:
    content = read_json(file)
    if isinstance(content, dict) and content.get("format") != _FORMAT:
        raise InputError(
            f"{file.parent} has stacker format {content.get('format')}, this code reads {_FORMAT}:"
            f" {_REFIT}"
        )
    try:
        return typed(_Stored, content)
    except ValidationError as error:
        raise InputError(f"{file} has no usable `{faulty_key(error)}`: {_REFIT}") from error


def _read_chain(
    folder: Path, fold: int, stored: _StoredChain, settings: ImageColumns, names: list[str]
) -> Chain:
    members: dict[str, list[Any]] = {}
    references = set(stored.members) if len(stored.members) > 1 else set()
    if set(stored.blend.weights) != set(stored.members) or not references <= set(
        stored.blend.references
    ):
        raise InputError(
            f"{folder / _FILE} blends {list(stored.blend.weights)}, its members are"
            f" {list(stored.members)}: {_REFIT}"
        )
    for name, files in stored.members.items():
        for file in files:
            if not (folder / file).is_file():
                raise InputError(f"{folder / file} is missing: {_REFIT}")
        members[name] = [library(name).load(folder / file, names) for file in files]
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
    backbones = list(stored.scales) if settings.embeddings != "none" else []
    images = ImageEncoder(settings, stored.scales, _read_spaces(folder, fold, backbones))
    return Chain(images, members, stored.blend, stored.offset, fitted)


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
