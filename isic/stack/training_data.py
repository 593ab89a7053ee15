"""Columns, folds and sampled rows of the stacker, computed once and shared by many fits.

A training row has the image columns of its own fold's models, so all chains share one set of
columns. Fitted features are the exception: each chain has its own columns of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from isic.core.errors import InputError
from isic.core.params import ImageColumns
from isic.core.schema import ID, PATIENT, TARGET
from isic.stack.encoder import Columns, Encoder, plain
from isic.stack.image_columns import (
    Embeddings,
    ImageEncoder,
    check_images,
    failed_folds,
    relative_columns,
)
from isic.stack.members import Pool
from isic.tabular import feature_families
from isic.tabular.fitted import Fitted
from isic.tabular.registry import choose
from isic.tabular.thinning import thin_patients

IMAGE_FAMILY = "image"
#: {backbone: {fold: embeddings (m, d) of the same m lesions, which no network saw}}.
Anchors = Mapping[str, Mapping[int, NDArray[np.float16]]]
#: First word of the family of a fitted column.
FITTED = "fitted"

#: What members train on: lesions among their whole patients or among random parts of them, or the
#: columns that no other lesion changes.
Part = Literal["whole", "thinned", "lesion"]


@dataclass(frozen=True)
class ChainColumns:
    """Fitted columns (n,) of one chain, those of training for its training rows, and their names by
    kind.
    """

    columns: Columns
    groups: list[list[str]]


@dataclass(frozen=True)
class TrainingData:
    """Training data of n rows.

    `columns` are for scoring. Members train on `pools`: features of the lesions among their whole
    patients and, if asked for, among random parts of them; then `noisy_images(part, seed)`, image
    columns with the noise of one seed's members. `folds` has isic_id, patient_id, target, fold in
    row order; `families` maps each column to its feature family, image columns to "image".
    `image_logit` (n,) is the mean standardised logit, `failed` names the networks that count as
    missing. `fitted` and `fitted_columns` hold each chain's fitted features and their columns, by fold; both
    are empty without fitted features.
    """

    folds: pd.DataFrame
    target: NDArray[np.int64]
    fold: NDArray[np.int64]
    encoder: Encoder
    images: dict[int, ImageEncoder]
    columns: Columns
    pools: dict[Part, Pool]
    families: dict[str, str]
    noisy_images: Callable[[Part, int], Columns] | None = None
    image_logit: NDArray[np.float64] | None = None
    failed: tuple[str, ...] = ()
    fitted: dict[int, Fitted] = field(default_factory=dict)
    fitted_columns: dict[int, ChainColumns] = field(default_factory=dict)
    #: Pools with image columns by (part, seed), and with fitted columns by (part, seed, fold).
    _cache: dict[tuple[Any, ...], Pool] = field(default_factory=dict)

    @property
    def patient_sizes(self) -> NDArray[np.int64]:
        """Number of lesions of each row's patient (n,)."""
        return patient_sizes(self.folds[PATIENT])

    @property
    def image_names(self) -> list[str]:
        """All image columns."""
        return [name for name, family in self.families.items() if family == IMAGE_FAMILY]

    @property
    def lesion_names(self) -> tuple[str, ...]:
        """Columns of the members of part "lesion", in the order in which they read them; () without
        such members.
        """
        if "lesion" not in self.pools:
            return ()
        own = {*self.pools["lesion"].columns, *self.image_names_of("lesion")}
        return tuple(
            name
            for name, family in self.all_families().items()
            if name in own or family.startswith(FITTED)
        )

    def image_names_of(self, part: Part) -> list[str]:
        """Image columns of a part's members: of part "lesion" without those within the patient."""
        relative = relative_columns(next(iter(self.images.values())).scales)
        return [name for name in self.image_names if part != "lesion" or name not in relative]

    def pool_of(self, fold: int, part: Part = "whole", seed: int = 0) -> Pool:
        """Training pool of the members of chain `fold` and `seed`, made at the first call: call it
        once before threads use it.
        """
        pool = self.pools[part]
        if self.noisy_images is not None:
            key = (part, seed)
            if key not in self._cache:
                images, names = self.noisy_images(part, seed), self.image_names_of(part)
                self._cache[key] = pool.extended({name: images[name] for name in names}, [names])
            pool = self._cache[key]
        if fold not in self.fitted_columns:
            return pool
        own = self.fitted_columns[fold]
        if (part, seed, fold) not in self._cache:
            self._cache[part, seed, fold] = pool.extended(own.columns, own.groups)
        return self._cache[part, seed, fold]

    def columns_of(self, fold: int) -> Columns:
        """Columns that members of chain `fold` score; its training rows have the fitted columns of
        training.
        """
        own = self.fitted_columns.get(fold)
        return self.columns | (own.columns if own else {})

    def all_families(self) -> dict[str, str]:
        """`families` with the fitted columns, in the order the members read them."""
        names = next(iter(self.fitted.values())).names if self.fitted else {}
        return self.families | {plain(name): f"{FITTED} {kind}" for name, kind in names.items()}

    def combination_design(self, features_only: ArrayLike, with_images: ArrayLike) -> NDArray:
        """(n, 3): log-odds (n,) without and with image columns, and the image logit. ValueError
        without networks.
        """
        if self.image_logit is None:
            raise ValueError("a combination needs image logits")
        return np.column_stack([features_only, with_images, self.image_logit])

    def training_rows(
        self, fold: int, negatives: int, seed: int, watched: int | None = None
    ) -> NDArray[np.int64]:
        """Rows of one member of chain `fold`, none of them of fold `watched`."""
        kept = self.fold != fold if watched is None else ~np.isin(self.fold, (fold, watched))
        return sample_rows(self.target, kept, negatives, [seed, fold])

    def offset(self, fold: int, negatives: int, weight: float) -> float:
        """Log-odds to add so that chain `fold` gives probabilities at the prevalence of its
        training rows.
        """
        training = self.target[self.fold != fold]
        malignant, benign = int(training.sum()), int((training == 0).sum())
        kept = min(negatives * malignant, benign) if negatives else benign
        return math.log(kept / benign) - math.log(weight)


def build_training_data(
    features: pd.DataFrame,
    logits: Mapping[str, ArrayLike],
    folds: pd.DataFrame,
    image_settings: ImageColumns,
    max_bin: int,
    embeddings: Embeddings | None = None,
    anchors: Anchors | None = None,
    fitted: Sequence[str] = (),
    thinned: pd.DataFrame | None = None,
) -> TrainingData:
    """Line up the inputs of `fit_stack` and compute every column once; `fitted` names kinds of
    fitted features, `thinned` are the features that members train on.

    Raises InputError when the frames do not hold the same lesions, or a logit, embedding or anchor
    is missing or not finite.
    """
    folds = align(folds, features[ID])
    vectors = (embeddings or {}) if image_settings.embeddings != "none" else {}
    check_images(logits, vectors, tuple(logits), len(features), image_settings.embeddings != "none")
    _check_finite("logits", logits)
    _check_finite("embeddings", vectors)
    target, fold = folds[TARGET].to_numpy(np.int64), folds["fold"].to_numpy(np.int64)
    encoder = Encoder.fit(features)
    base = encoder.columns(features)
    images = _fit_images(logits, vectors, fold, image_settings, anchors or {})
    failed = _silence_failed(images, logits, target, fold)
    clean: Columns = {}
    noisy: Callable[[Part, int], Columns] | None = None
    image_logit = None
    if logits:
        patients = {"whole": folds[PATIENT].to_numpy()}
        patients["lesion"] = patients["whole"]
        if thinned is not None:
            patients["thinned"] = thin_patients(folds)[PATIENT].to_numpy()

        def noisy(part: Part, seed: int) -> Columns:
            return _image_columns(images, logits, vectors, fold, patients[part], seed)

        clean = _image_columns(images, logits, vectors, fold, patients["whole"])
        image_logit = np.empty(len(fold))
        for chain, images_of_fold in images.items():
            index = np.flatnonzero(fold == chain)
            image_logit[index] = images_of_fold.mean_logit(_take(logits, index))
    columns = base | clean
    pools: dict[Part, Pool] = {"whole": Pool(base, target, max_bin)}
    if thinned is not None:
        among_parts = encoder.columns(thinned)
        pools["thinned"] = Pool(among_parts, target, max_bin)
        lesion = {
            name: values
            for name, values in base.items()
            if np.array_equal(values, among_parts[name], equal_nan=True)
        }
        if lesion:
            pools["lesion"] = Pool(lesion, target, max_bin)
    families = _families(encoder, columns)
    data = TrainingData(
        folds,
        target,
        fold,
        encoder,
        images,
        columns,
        pools,
        families,
        noisy,
        image_logit,
        failed,
    )
    return _fit_features(data, features, fitted) if fitted else data


def patient_sizes(patients: ArrayLike) -> NDArray[np.int64]:
    """Number of lesions of each row's patient (n,)."""
    _, index, counts = np.unique(
        np.asarray(patients).astype(str), return_inverse=True, return_counts=True
    )
    return np.asarray(counts[index], np.int64)


def align(folds: pd.DataFrame, ids: pd.Series) -> pd.DataFrame:
    """isic_id, patient_id, target, fold in the order of `ids`; InputError unless both hold the same
    lesions once.
    """
    if len(folds) == len(ids) and ids.is_unique and bool((folds[ID].array == ids.array).all()):
        # Arrow would keep the memory in which it looked for repeated ids.
        pa.default_memory_pool().release_unused()
        return folds[[ID, PATIENT, TARGET, "fold"]].reset_index(drop=True)
    table = folds.set_index(ID)[[PATIENT, TARGET, "fold"]]
    if (
        len(table) != len(ids)
        or not table.index.is_unique
        or not ids.is_unique
        or not ids.isin(table.index).all()
    ):
        unknown = ids[~ids.isin(table.index)]
        which = f", for example {unknown.iloc[0]}" if len(unknown) else ""
        raise InputError(
            f"features hold {len(ids)} lesions and folds {len(table)}, not the same ones{which}: "
            "rerun `dvc repro features folds`"
        )
    return table.loc[ids].rename_axis(ID).reset_index()


def sample_rows(
    target: NDArray[np.int64], training: NDArray[np.bool_], negatives: int, seed: list[int]
) -> NDArray[np.int64]:
    """Sorted rows of one member: all malignant ones and `negatives` benign ones for each, drawn
    afresh (0: all).
    """
    malignant = np.flatnonzero(training & (target == 1))
    benign = np.flatnonzero(training & (target == 0))
    wanted = negatives * len(malignant)
    if 0 < wanted < len(benign):
        # A prefix of one permutation: a larger sample of the same seed holds the smaller one.
        benign = np.random.default_rng(seed).permutation(benign)[:wanted]
    return np.sort(np.concatenate([malignant, benign]))


def drop_families(data: TrainingData, drop: tuple[str, ...]) -> TrainingData:
    """The problem without the columns of the families `drop`. InputError names a family that does
    not exist.
    """
    choose(drop, "stack.drop")
    families = {name: family for name, family in data.families.items() if family not in drop}
    if len(families) == len(data.families):
        return data
    if not families:
        raise InputError("stack.drop leaves the stacker without any column: drop fewer families")
    gone = {source for name, source in data.encoder.sources().items() if name not in families}
    encoder = data.encoder.drop_families(gone)
    columns = {name: data.columns[name] for name in families}
    pools = {
        part: Pool(
            {name: pool.columns[name] for name in pool.columns if name in families},
            pool.target,
            pool.max_bin,
        )
        for part, pool in data.pools.items()
    }
    return replace(
        data, encoder=encoder, columns=columns, pools=pools, families=families, _cache={}
    )


def without_images(data: TrainingData) -> TrainingData:
    """The same lesions without image columns; its pools and their bins are shared with `data`."""
    names = set(data.image_names)
    return replace(
        data,
        images={fold: images.without_networks() for fold, images in data.images.items()},
        columns={name: values for name, values in data.columns.items() if name not in names},
        families={name: family for name, family in data.families.items() if name not in names},
        noisy_images=None,
        image_logit=None,
        _cache={},
    )


def with_fitted(data: TrainingData, other: TrainingData) -> TrainingData:
    """`data` with the fitted features of `other`, training data of the same rows and folds."""
    return replace(data, fitted=other.fitted, fitted_columns=other.fitted_columns, _cache={})


def with_groups(
    data: TrainingData, fold: NDArray[np.int64], features: pd.DataFrame, kinds: Sequence[str]
) -> TrainingData:
    """`data` with other groups of rows to leave out, (n,); `features` and `kinds` as for
    `build_training_data`.

    Image columns stay on the scale of the networks that made them, as for a new group. Chains of
    the result score its own rows only.
    """
    images = dict.fromkeys(np.unique(fold).tolist(), next(iter(data.images.values())))
    other = replace(
        data,
        folds=data.folds.assign(fold=fold),
        fold=fold,
        images=images,
        fitted={},
        fitted_columns={},
        _cache={},
    )
    return _fit_features(other, features, kinds) if kinds else other


def _fit_features(data: TrainingData, features: pd.DataFrame, kinds: Sequence[str]) -> TrainingData:
    """Fit the kinds on the training rows of each chain, and make their columns for every row."""
    fitted, made = {}, {}
    for fold in data.images:
        training = data.fold != fold
        rows, target = features[training], data.target[training]
        fitted[fold] = Fitted.fit(kinds, rows, target)
        own = fitted[fold].training_columns(rows, target, data.folds.loc[training, PATIENT])
        columns: Columns = {}
        for name, values in fitted[fold].columns(features[~training]).items():
            column = np.empty(len(training), dtype=np.float32)
            column[training], column[~training] = own[name], values
            columns[plain(name)] = column
        groups = groupby(fitted[fold].names.items(), key=lambda item: item[1])
        made[fold] = ChainColumns(
            columns, [[plain(name) for name, _ in group] for _, group in groups]
        )
    return replace(data, fitted=fitted, fitted_columns=made, _cache={})


def _families(encoder: Encoder, columns: Columns) -> dict[str, str]:
    owner = {
        feature.name: name
        for name, family in feature_families().items()
        for feature in family.features
    }
    sources = encoder.sources()
    return {
        name: owner.get(sources[name], "other") if name in sources else IMAGE_FAMILY
        for name in columns
    }


def _fit_images(
    logits: Mapping[str, ArrayLike],
    embeddings: Embeddings,
    fold: NDArray[np.int64],
    image_settings: ImageColumns,
    anchors: Anchors,
) -> dict[int, ImageEncoder]:
    chains = np.unique(fold).tolist()
    index = {chain: np.flatnonzero(fold == chain) for chain in chains}
    images = {
        chain: ImageEncoder.fit(
            _take(logits, index[chain]), _take(embeddings, index[chain]), image_settings
        )
        for chain in chains
    }
    for backbone in embeddings if image_settings.embeddings == "aligned" else ():
        known = anchors.get(backbone, {})
        if any(
            chain not in known or known[chain].shape[1] != embeddings[backbone].shape[1]
            for chain in chains
        ):
            raise InputError(
                f"no anchors of {backbone} to align its spaces by: rerun `dvc repro` for that"
                " backbone"
            )
        for chain in chains:
            _check_finite("anchors", {backbone: known[chain]})
        first = images[chains[0]].spaces[backbone].project(known[chains[0]])
        for chain in chains[1:]:
            images[chain].spaces[backbone] = (
                images[chain].spaces[backbone].aligned_to(known[chain], first)
            )
    return images


def _silence_failed(
    images: dict[int, ImageEncoder],
    logits: Mapping[str, ArrayLike],
    target: NDArray[np.int64],
    fold: NDArray[np.int64],
) -> tuple[str, ...]:
    """Mark networks whose training failed, by their own held-out lesions; returns their names."""
    failed = []
    for backbone, values in logits.items():
        for chain in failed_folds(np.asarray(values, np.float64), target, fold):
            scales = images[chain].scales
            scales[backbone] = replace(scales[backbone], failed=True)
            failed.append(f"{backbone} of fold {chain}")
    return tuple(failed)


def _image_columns(
    images: dict[int, ImageEncoder],
    logits: Mapping[str, ArrayLike],
    embeddings: Embeddings,
    fold: NDArray[np.int64],
    patients: NDArray,
    seed: int | None = None,
) -> Columns:
    """Image columns of all rows, each by its own fold's models, among the lesions of `patients`
    (n,); with `seed`, with the noise of training.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    columns: Columns = {}
    for chain, encoder in images.items():
        index = np.flatnonzero(fold == chain)
        given = _take(logits, index), _take(embeddings, index)
        for name, values in encoder.columns(*given, patients[index], rng).items():
            columns.setdefault(name, np.empty(len(fold), dtype=np.float32))[index] = values
    return columns


def _take(arrays: Mapping[str, ArrayLike], index: NDArray[np.int64]) -> dict[str, NDArray]:
    return {name: np.asarray(values)[index] for name, values in arrays.items()}


def _check_finite(kind: str, given: Mapping[str, ArrayLike]) -> None:
    for backbone, values in given.items():
        rows = np.asarray(values)
        with np.errstate(invalid="ignore"):  # inf - inf
            # A row's sum is finite where all of it is, and needs no copy of every dimension.
            sums = rows.sum(axis=tuple(range(1, rows.ndim)), dtype=np.float64)
        broken = int((~np.isfinite(sums)).sum())
        if broken:
            raise InputError(
                f"{broken} {kind} of {backbone} are NaN or infinite: rerun `dvc repro` for that"
                " backbone"
            )
