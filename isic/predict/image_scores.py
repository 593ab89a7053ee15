"""Image scores of a bundle's models, chunk by chunk: memory stays flat and a killed run resumes.

The scores of one model for one chunk are one small file in the work folder. With several GPUs, one
process per GPU writes these files and the caller reads them. `_on_every_gpu` runs `python -m
isic.predict.image_scores`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isic.core.errors import InputError, run
from isic.core.io import atomic_file, sha256_json, write_json
from isic.image.network.scores import ImageScores

if TYPE_CHECKING:
    from isic.data.tiles import TileStore
    from isic.image.network.artifact import Model

#: Seconds between progress lines.
_REPORT = 20.0

#: Backbone and fold.
ModelKey = tuple[str, int]


#: Errors of reading a missing or damaged file of scores.
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class TileError(InputError):
    """A tile does not decode and broken tiles are not imputed. No fault of the image models."""


@dataclass
class ImageScoringJob:
    """Image-scoring job: bundle, tiles and cache.

    `chunk_ids(index)` gives the ids of each of the `chunks` chunks. Scores are cached in files
    below `work` if given, else in memory. With `impute_broken`, a tile that does not decode gets
    NaN instead of an error and is added to `broken`. `workers`: loader processes; None: by the
    cores of this machine.
    """

    folder: Path
    tiles: TileStore
    chunk_ids: Callable[[int], list[str]]
    chunks: int
    embeddings: bool
    impute_broken: bool = False
    work: Path | None = None
    workers: int | None = None
    broken: set[str] = field(default_factory=set)
    in_memory: dict[tuple[ModelKey, int], ImageScores] = field(default_factory=dict)

    def identity(self, bundle_hash: str) -> str:
        """Name of the cache: hash of bundle, tiles, lesions, chunks and `impute_broken`."""
        lesions = hashlib.sha256()
        for index in range(self.chunks):
            lesions.update("\n".join([*self.chunk_ids(index), ""]).encode())
        inputs = [
            bundle_hash,
            str(self.tiles.path.resolve()),
            *self.tiles.state(),
            lesions.hexdigest(),
        ]
        return sha256_json([*inputs, self.chunks, self.impute_broken])[:24]

    def intact(self, ids: list[str]) -> list[str]:
        """`ids` without the tiles known to be broken."""
        return [isic_id for isic_id in ids if isic_id not in self.broken] if self.broken else ids

    def model_folder(self, key: ModelKey) -> Path:
        return self.folder / "image" / key[0] / f"fold{key[1]}"

    def is_cached(self, key: ModelKey, index: int) -> bool:
        """Whether chunk `index` has scores by this model; a damaged file has none."""
        if self.work is None:
            return (key, index) in self.in_memory
        try:
            scores = _read(self._file(key, index))
        except _DAMAGED:
            return False
        count = len(self.chunk_ids(index))
        embeddings = scores.embeddings
        return (
            scores.logits.dtype == np.float32
            and scores.logits.shape == (count,)
            and not np.isinf(scores.logits).any()
            and embeddings.dtype == np.float16
            and embeddings.ndim == 2
            and len(embeddings) == count
            and (embeddings.shape[1] > 0) == self.embeddings
        )

    def load(self, key: ModelKey, index: int) -> ImageScores:
        """Cached scores of chunk `index`."""
        return self.in_memory[key, index] if self.work is None else _read(self._file(key, index))

    def save(self, key: ModelKey, index: int, scores: ImageScores) -> None:
        """Cache the scores of chunk `index`."""
        if self.work is None:
            self.in_memory[key, index] = scores
        else:
            _write(self._file(key, index), scores)

    def _file(self, key: ModelKey, index: int) -> Path:
        assert self.work is not None
        return self.work / f"{key[0]}-{key[1]}-{index}.npz"


def score_images(job: ImageScoringJob, keys: Sequence[ModelKey], tiles: int) -> None:
    """Score every chunk, `tiles` tiles in all, by every model of `keys`.

    Raises InputError for a model or tile that cannot be read.
    """
    if job.work is not None and isinstance(job.tiles.path, Path):
        _on_every_gpu(job, keys, tiles)
    _score(job, keys, tiles)


class ScoringProgress:
    """Prints the share done and the time left, at most every `_REPORT` seconds."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.fresh = 0
        self.started = self.printed = time.monotonic()

    def add(self, count: int, fresh: bool) -> None:
        """Count tiles as done; only `fresh` ones, not read from the cache, count for the speed."""
        self.done += count
        self.fresh += count if fresh else 0
        now = time.monotonic()
        if now - self.printed < _REPORT:
            return

        self.printed = now
        left = (self.total - self.done) * (now - self.started) / max(self.fresh, 1)
        share = self.done / self.total
        sys.stderr.write(
            f"isic: {self.done:,} of {self.total:,} tiles by model ({share:.0%}), {left / 60:.0f}"
            " min left\n"
        )


def _score(job: ImageScoringJob, keys: Sequence[ModelKey], tiles: int) -> None:
    from isic.image.network.artifact import load_model

    progress = ScoringProgress(tiles * len(keys))
    for key in keys:
        model = None
        for index in range(job.chunks):
            ids = job.chunk_ids(index)
            if not job.is_cached(key, index):
                model = model or load_model(job.model_folder(key))
                job.save(key, index, _score_chunk(job, model, ids))
            progress.add(len(ids), fresh=model is not None)


def _score_chunk(job: ImageScoringJob, model: Model, ids: list[str]) -> ImageScores:
    """Scores of these tiles by one model. Broken tiles are searched for only after an error."""
    from isic.image.network.embed import embed

    try:
        scores = embed(model, job.tiles, job.intact(ids), job.workers)
    except InputError as error:
        broken = _broken(job.tiles, job.intact(ids))
        if not broken:
            raise
        isic_id, reason = next(iter(broken.items()))
        if not job.impute_broken:
            raise TileError(
                f"{reason}, or use --missing-images impute ({len(broken)} of {len(ids):,} tiles are"
                " broken)"
            ) from error
        sys.stderr.write(
            f"isic: note: {len(broken)} of {len(ids):,} tiles are imputed, first {isic_id}:"
            f" {reason}\n"
        )
        job.broken.update(broken)
        scores = embed(model, job.tiles, job.intact(ids), job.workers)
    return _with_broken(job, ids, scores)


def _with_broken(job: ImageScoringJob, ids: list[str], scores: ImageScores) -> ImageScores:
    """Scores of all `ids` from the scores of the intact ones; NaN for broken tiles."""
    if not job.embeddings:
        scores = scores._replace(embeddings=scores.embeddings[:, :0])
    if len(scores.logits) == len(ids):
        return scores

    intact = np.array([isic_id not in job.broken for isic_id in ids])
    logits = np.full(len(ids), np.nan, dtype=np.float32)
    logits[intact] = scores.logits
    embeddings = np.full((len(ids), scores.embeddings.shape[1]), np.nan, dtype=np.float16)
    embeddings[intact] = scores.embeddings
    return ImageScores(logits, embeddings)


def _broken(tiles: TileStore, ids: Sequence[str]) -> dict[str, str]:
    """Tiles that do not decode, and the error of each."""
    errors = {}
    for isic_id in ids:
        try:
            tiles.image(isic_id)
        except InputError as error:
            errors[isic_id] = str(error)
    return errors


def _write(file: Path, scores: ImageScores) -> None:
    arrays: dict[str, Any] = {"logits": scores.logits}
    if scores.embeddings.shape[1]:
        arrays["embeddings"] = scores.embeddings
    with atomic_file(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def _read(file: Path) -> ImageScores:
    with np.load(file, allow_pickle=False) as stored:
        logits = stored["logits"]
        return ImageScores(logits, stored.get("embeddings", np.empty((len(logits), 0), np.float16)))


def _on_every_gpu(job: ImageScoringJob, keys: Sequence[ModelKey], tiles: int) -> None:
    """With two GPUs or more, fill the cache by one process per GPU.

    The caller scores the chunks that a failed process did not.
    """
    from isic.image.network.device import describe_devices

    count = len(describe_devices())
    if count < 2 or job.work is None:
        return

    for index in range(job.chunks):
        write_json(job.work / _ids_file(index), job.chunk_ids(index))
    task = job.work / "task.json"
    write_json(
        task,
        [
            str(job.folder),
            str(job.tiles.path),
            job.chunks,
            job.embeddings,
            job.impute_broken,
            tiles,
            count,
        ],
    )

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "isic.predict.image_scores",
                str(task),
                json.dumps(keys[gpu::count]),
            ],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": visible[gpu]},
        )
        for gpu in range(count)
    ]
    for process in processes:
        process.wait()


def _ids_file(index: int) -> str:
    return f"ids-{index}.json"


def main() -> None:
    """Score the chunks of `task.json` by the models given, as one of several processes."""
    from isic.data.image_files import open_images
    from isic.image.network.device import pick
    from isic.image.network.loader import default_workers

    task, keys = Path(sys.argv[1]), [(backbone, fold) for backbone, fold in json.loads(sys.argv[2])]
    folder, path, chunks, embeddings, impute_broken, tiles, processes = json.loads(task.read_text())

    def chunk_ids(index: int) -> list[str]:
        ids: list[str] = json.loads((task.parent / _ids_file(index)).read_text())
        return ids

    job = ImageScoringJob(
        Path(folder),
        open_images(path),
        chunk_ids,
        chunks,
        embeddings,
        impute_broken,
        work=task.parent,
        workers=default_workers(pick(), processes),
    )
    _score(job, keys, tiles)


if __name__ == "__main__":
    run(main)
