"""Reader of the stack stage's inputs: features, folds, and out-of-fold logits by backbone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.folds import read_folds
from isic.core.io import read_parquet, require, sha256, sha256_json
from isic.core.params import ImageColumns, StackSettings
from isic.core.paths import StackFiles
from isic.core.schema import ID
from isic.stack.training_data import Anchors, TrainingData, align, build_training_data


class Inputs(NamedTuple):
    """Features, {backbone: out-of-fold logits (n,)}, folds, {backbone: embeddings (n, d)}, features
    of thinned patients if asked for; all in the same order of rows.
    """

    features: pd.DataFrame
    logits: dict[str, NDArray[np.float32]]
    folds: pd.DataFrame
    embeddings: dict[str, NDArray[np.float16]]
    thinned: pd.DataFrame | None = None


def read_training_data(files: StackFiles, settings: StackSettings) -> TrainingData:
    """The stage's training data, from the files that `settings.images` needs.

    Raises InputError when a file is missing, broken or of other lesions.
    """
    images = settings.images
    inputs = read_inputs(files, images.embeddings != "none", settings.thinned)
    anchors = read_anchors(files.embeddings) if images.embeddings == "aligned" else {}
    data = build_training_data(
        *inputs[:3],
        images,
        settings.params.max_bin,
        inputs.embeddings,
        anchors,
        settings.fitted,
        inputs.thinned,
    )
    if data.failed:
        sys.stderr.write(
            f"warning: held-out AUC of {', '.join(data.failed)} at chance: left out of its fold's"
            " scores; train it again\n"
        )
    return data


def read_inputs(files: StackFiles, embeddings: bool, thinned: bool = False) -> Inputs:
    """The stage's inputs in the features' row order; `embeddings`, `thinned`: read them too.

    Raises InputError when a file is missing or a fold's logits are not those of the fold's lesions.
    """
    features = read_features(files.features)
    table = align(read_folds(files.folds, files.fold_count), features[ID])
    logits = {name: _logits(paths, table, name) for name, paths in files.embeddings.items()}
    vectors = {}
    if embeddings:
        vectors = {
            name: _embeddings(paths, table, name) for name, paths in files.embeddings.items()
        }
    part = read_features(files.thinned) if thinned else None
    if part is not None and not part[ID].equals(features[ID]):
        raise InputError(
            f"{files.thinned} does not hold the lesions of {files.features}: rerun `dvc repro features`"
        )
    return Inputs(features, logits, table, vectors, part)


def read_anchors(embeddings: Mapping[str, Mapping[int, Path]]) -> Anchors:
    """Embeddings of the anchors by every fold's network; `embeddings`: backbone -> fold ->
    `Layout.embedding`.

    Raises InputError when a file is missing or of another shape.
    """
    anchors: dict[str, dict[int, NDArray[np.float16]]] = {}
    for backbone, paths in embeddings.items():
        anchors[backbone] = {
            fold: _vectors(path.with_suffix(".anchors.npy"), backbone, fold)
            for fold, path in paths.items()
        }
        if len({values.shape for values in anchors[backbone].values()}) > 1:
            raise InputError(
                f"anchors of {backbone} differ in shape from fold to fold: rerun `dvc repro` for it"
            )
    return anchors


def read_features(path: Path) -> pd.DataFrame:
    """The feature table, texts as categories. Read by column: reading it at once takes four times
    its memory.

    Raises InputError when the file is missing or broken.
    """
    require(
        path, "feature table", "run `dvc repro features`, or `dvc pull` if it was made elsewhere"
    )
    try:
        with pq.ParquetFile(path) as file:
            columns = {field.name: _column(file, field) for field in file.schema_arrow}
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} cannot be read as parquet ({reason}): delete it and run `dvc repro`"
        ) from error
    if ID not in columns:
        raise InputError(f"{path} lacks column `{ID}`: delete it and run `dvc repro`")
    pa.default_memory_pool().release_unused()
    return pd.DataFrame(columns, copy=False)


def _column(file: pq.ParquetFile, field: pa.Field) -> pd.Series:
    # No threads: they do not help with one column at a time, and each keeps buffers of its own.
    column = file.read([field.name], use_threads=False).column(0)
    if pa.types.is_floating(field.type):
        # A copy, so that Arrow's buffers are freed before the next column.
        return pd.Series(np.array(column.to_numpy()))
    series = column.to_pandas()
    return series if field.name == ID or series.dtype.kind in "iub" else series.astype("category")


def fingerprint(files: StackFiles, images: ImageColumns) -> str:
    """Hash of everything `read_training_data` reads."""
    logits = [path for paths in files.embeddings.values() for path in paths.values()]
    vectors = [path.with_suffix(".npy") for path in logits] if images.embeddings != "none" else []
    anchors = (
        [path.with_suffix(".anchors.npy") for path in logits]
        if images.embeddings == "aligned"
        else []
    )
    thinned = [files.thinned] if files.thinned.exists() else []
    paths = [files.folds, files.features, *thinned, *logits, *vectors, *anchors]
    return sha256_json([sha256(path) for path in paths])


def _logits(paths: Mapping[int, Path], table: pd.DataFrame, backbone: str) -> NDArray[np.float32]:
    folds = sorted(table["fold"].unique())
    parts = [read_parquet(paths[fold], columns=[ID, "logit"]) for fold in folds]
    for fold, part in zip(folds, parts, strict=True):
        expected = table.loc[table["fold"] == fold, ID]
        if len(part) != len(expected) or set(part[ID]) != set(expected):
            raise InputError(
                f"{paths[fold]} does not hold the lesions of fold {fold}: rerun `dvc repro"
                f" embed@{backbone}-{fold}`"
            )
    logits = pd.concat(parts).set_index(ID)["logit"]
    return logits.loc[table[ID]].to_numpy(np.float32)


def _embeddings(
    paths: Mapping[int, Path], table: pd.DataFrame, backbone: str
) -> NDArray[np.float16]:
    vectors: NDArray[np.float16] | None = None
    for fold in sorted(table["fold"].unique()):
        path = paths[fold]
        ids = read_parquet(path, columns=[ID])[ID]
        part = _vectors(path.with_suffix(".npy"), backbone, fold)
        if vectors is None:
            vectors = np.empty((len(table), part.shape[1]), dtype=np.float16)
        rows = pd.Series(np.arange(len(table)), index=table[ID]).loc[ids].to_numpy()
        vectors[rows] = part
    assert vectors is not None
    return vectors


def _vectors(path: Path, backbone: str, fold: int) -> NDArray[np.float16]:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path} is missing or broken: rerun `dvc repro embed@{backbone}-{fold}`"
        ) from error
