"""Columns, folds and sampled rows of the stacker, computed once and shared by many fits.

A training row has the image columns of its own fold's models, so all chains share one set of
columns. Fitted features are the exception: each chain has its own columns of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from isic.core.errors import InputError
from isic.core.params import ImageColumns
from isic.core.schema import ID, PATIENT, TARGET
from isic.stack.encoder import Columns, Encoder, plain
from isic.stack.image_columns import Embeddings, ImageEncoder, check_images
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


@dataclass(frozen=True)
class TrainingData:
    """Training data of n rows.

    `columns` are for scoring; `pool` holds the same with the noise of training. `folds` has
    isic_id, patient_id, target, fold in row order; `families` maps each column to its feature
    family, image columns to "image". `fitted` and `pools` hold each chain's fitted features and its
    pool with their columns, by fold; both are empty without fitted features.
    """

    folds: pd.DataFrame
    target: NDArray[np.int64]
    fold: NDArray[np.int64]
    encoder: Encoder
    images: dict[int, ImageEncoder]
    columns: Columns
    pool: Pool
    families: dict[str, str]
    fitted: dict[int, Fitted] = field(default_factory=dict)
    pools: dict[int, Pool] = field(default_factory=dict)

    def pool_of(self, fold: int) -> Pool:
        """Training pool of chain `fold`."""
        return self.pools.get(fold, self.pool)

    def columns_of(self, fold: int) -> Columns:
        """Columns that members of chain `fold` score; its training rows have the fitted columns of
        training.
        """
        return self.columns | self.fitted_columns(fold)

    def fitted_columns(self, fold: int) -> Columns:
        """Fitted columns of chain `fold` for every row; those of training for its training rows."""
        own = self.pools.get(fold)
        return {name: own.columns[name] for group in own.groups for name in group} if own else {}

    def all_families(self) -> dict[str, str]:
        """`families` with the fitted columns, in the order the members read them."""
        names = next(iter(self.fitted.values())).names if self.fitted else {}
        return self.families | {plain(name): f"{FITTED} {kind}" for name, kind in names.items()}

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
    clean, noisy = (
        ({}, {})
        if not logits
        else _image_columns(images, logits, vectors, folds, thinned is not None)
    )
    columns = base | clean
    training = (base if thinned is None else encoder.columns(thinned)) | noisy
    pool = Pool(training, target, max_bin)
    data = TrainingData(
        folds, target, fold, encoder, images, columns, pool, _families(encoder, columns)
    )
    return _fit_features(data, features, fitted) if fitted else data


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
    pool = Pool(
        {name: data.pool.columns[name] for name in families}, data.target, data.pool.max_bin
    )
    columns = {name: data.columns[name] for name in families}
    encoder = data.encoder.drop_families(gone)
    bare = replace(data, encoder=encoder, columns=columns, pool=pool, families=families)
    return with_fitted(bare, data)


def with_fitted(data: TrainingData, other: TrainingData) -> TrainingData:
    """`data` with the fitted features of `other`, training data of the same rows and folds."""
    pools = {
        fold: data.pool.extended(other.fitted_columns(fold), own.groups)
        for fold, own in other.pools.items()
    }
    return replace(data, fitted=other.fitted, pools=pools)


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
        data, folds=data.folds.assign(fold=fold), fold=fold, images=images, fitted={}, pools={}
    )
    return _fit_features(other, features, kinds) if kinds else other


def _fit_features(data: TrainingData, features: pd.DataFrame, kinds: Sequence[str]) -> TrainingData:
    """Fit the kinds on the training rows of each chain, and make their columns for every row."""
    fitted, pools = {}, {}
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
        pools[fold] = data.pool.extended(
            columns, [[plain(name) for name, _ in group] for _, group in groups]
        )
    return replace(data, fitted=fitted, pools=pools)


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


def _image_columns(
    images: dict[int, ImageEncoder],
    logits: Mapping[str, ArrayLike],
    embeddings: Embeddings,
    folds: pd.DataFrame,
    thinned: bool,
) -> tuple[Columns, Columns]:
    """Image columns of all rows, each by its own fold's models: for scoring, and for training with
    noise and, if `thinned`, among a part of the patient's lesions.
    """
    rng = np.random.default_rng(0)
    fold, patients = folds["fold"].to_numpy(np.int64), folds[PATIENT].to_numpy()
    parts = thin_patients(folds)[PATIENT].to_numpy() if thinned else patients
    both: tuple[Columns, Columns] = ({}, {})
    for chain, encoder in images.items():
        index = np.flatnonzero(fold == chain)
        given = _take(logits, index), _take(embeddings, index)
        scoring = encoder.columns(*given, patients[index])
        training = encoder.columns(*given, parts[index], rng)
        for by_name, part in zip(both, (scoring, training), strict=True):
            for name, values in part.items():
                by_name.setdefault(name, np.empty(len(fold), dtype=np.float32))[index] = values
    return both


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
