"""Reading what the stack stage reads: features, recorded folds, and every backbone's out-of-fold logits."""

from __future__ import annotations

from collections.abc import Sequence
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
from isic.core.params import ImageColumns
from isic.core.params import Stack as Settings
from isic.core.paths import Layout
from isic.core.schema import ID
from isic.stack.training_data import Anchors, TrainingData, align, build_training_data


class Inputs(NamedTuple):
    """Features, {backbone: out-of-fold logits (n,)}, folds, {backbone: embeddings (n, d)}; n rows in one order."""

    features: pd.DataFrame
    logits: dict[str, NDArray[np.float32]]
    folds: pd.DataFrame
    embeddings: dict[str, NDArray[np.float16]]


def read_training_data(
    layout: Layout, folds: Sequence[int], backbones: Sequence[str], settings: Settings
) -> TrainingData:
    """The stage's prepared problem, of the files that `settings.images` asks for; errors of the other readers."""
    image_settings = settings.images
    inputs = read_inputs(layout, folds, backbones, image_settings.embeddings != "none")
    anchors = read_anchors(layout, folds, backbones) if image_settings.embeddings == "aligned" else {}
    return build_training_data(
        *inputs[:3], image_settings, settings.params.max_bin, inputs.embeddings, anchors, settings.fitted
    )


def read_inputs(layout: Layout, folds: Sequence[int], backbones: Sequence[str], embeddings: bool) -> Inputs:
    """The stage's inputs in the features' row order; embeddings only if asked for.

    Raises InputError when a file is missing or a fold's logits are not those of the fold's lesions.
    """
    features = read_features(layout.features)
    table = align(read_folds(layout, len(folds)), features[ID])
    logits = {backbone: _logits(layout, table, backbone) for backbone in backbones}
    vectors = {backbone: _embeddings(layout, table, backbone) for backbone in backbones} if embeddings else {}
    return Inputs(features, logits, table, vectors)


def read_anchors(layout: Layout, folds: Sequence[int], backbones: Sequence[str]) -> Anchors:
    """What every fold's networks say of the anchors. Raises InputError when a file is missing or of another shape."""
    found: dict[str, dict[int, NDArray[np.float16]]] = {}
    for backbone in backbones:
        found[backbone] = {fold: _vectors(layout.anchors(backbone, fold), backbone, fold) for fold in folds}
        if len({values.shape for values in found[backbone].values()}) > 1:
            raise InputError(f"anchors of {backbone} differ in shape from fold to fold: rerun `dvc repro` for it")
    return found


def read_features(path: Path) -> pd.DataFrame:
    """The feature table, texts as categories, at little more than its size: read whole, it is held four times over.

    Raises InputError when the file is missing or broken.
    """
    require(path, "feature table", "run `dvc repro features`, or `dvc pull` if it was made elsewhere")
    try:
        with pq.ParquetFile(path) as file:
            columns = {field.name: _column(file, field) for field in file.schema_arrow}
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as parquet ({reason}): delete it and run `dvc repro`") from error
    pa.default_memory_pool().release_unused()
    return pd.DataFrame(columns, copy=False)


def _column(file: pq.ParquetFile, field: pa.Field) -> pd.Series:
    # One column at a time gives threads nothing to do, and each would keep buffers of its own.
    column = file.read([field.name], use_threads=False).column(0)
    if pa.types.is_floating(field.type):
        # A copy, so that Arrow's buffers can go before the next column comes.
        return pd.Series(np.array(column.to_numpy()))
    series = column.to_pandas()
    return series if field.name == ID or series.dtype.kind in "iub" else series.astype("category")


def fingerprint(layout: Layout, folds: Sequence[int], backbones: Sequence[str], image_settings: ImageColumns) -> str:
    """Hash of everything `read_training_data` reads."""
    logits = [layout.embedding(name, fold) for name in backbones for fold in folds]
    vectors = [path.with_suffix(".npy") for path in logits] if image_settings.embeddings != "none" else []
    aligned = image_settings.embeddings == "aligned"
    anchors = [layout.anchors(name, fold) for name in backbones for fold in folds] if aligned else []
    paths = [layout.folds, layout.features, *logits, *vectors, *anchors]
    return sha256_json([sha256(path) for path in paths])


def _logits(layout: Layout, table: pd.DataFrame, backbone: str) -> NDArray[np.float32]:
    numbers = sorted(table["fold"].unique())
    parts = [read_parquet(layout.embedding(backbone, number), columns=[ID, "logit"]) for number in numbers]
    for number, part in zip(numbers, parts, strict=True):
        expected = table.loc[table["fold"] == number, ID]
        if len(part) != len(expected) or set(part[ID]) != set(expected):
            raise InputError(
                f"{layout.embedding(backbone, number)} does not hold the lesions of fold {number}: "
                f"rerun `dvc repro embed@{backbone}-{number}`"
            )
    logits = pd.concat(parts).set_index(ID)["logit"]
    return logits.loc[table[ID]].to_numpy(np.float32)


def _embeddings(layout: Layout, table: pd.DataFrame, backbone: str) -> NDArray[np.float16]:
    whole: NDArray[np.float16] | None = None
    for number in sorted(table["fold"].unique()):
        path = layout.embedding(backbone, number)
        ids = read_parquet(path, columns=[ID])[ID]
        part = _vectors(path.with_suffix(".npy"), backbone, number)
        if whole is None:
            whole = np.empty((len(table), part.shape[1]), dtype=np.float16)
        place = pd.Series(np.arange(len(table)), index=table[ID]).loc[ids].to_numpy()
        whole[place] = part
    assert whole is not None
    return whole


def _vectors(path: Path, backbone: str, fold: int) -> NDArray[np.float16]:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is missing or broken: rerun `dvc repro embed@{backbone}-{fold}`") from error
