"""What a bundle's image models say about tiles: piece by piece, so that memory stays flat and a killed run goes on.

What one model says of one piece is one small file in the work folder. With several GPUs each gets a process that fills
files; the caller then only reads them. Run as `python -m isic.predict.image_scores` by `_on_every_gpu`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isic.core.errors import InputError, run
from isic.core.io import atomic_file, sha256_json, write_json

if TYPE_CHECKING:
    from isic.data.tiles import TileStore
    from isic.image.network.artifact import Model
    from isic.image.network.embed import Said

#: Seconds between progress lines.
REPORT = 20.0

ModelKey = tuple[str, int]


class TileError(InputError):
    """A tile that does not decode where none is to be imputed: no fault of the image models."""


class ImageScores(NamedTuple):
    """Logits float32 (n,) and, if asked for, embeddings float16 (n, width) of one model."""

    logits: NDArray[np.float32]
    embeddings: NDArray[np.float16] | None


@dataclass
class ImageScoringJob:
    """What is to be looked at: the tiles `ids(number)` of `pieces` pieces, by the bundle in `folder`.

    What is said is kept in files below `work` if given, else in memory. With `spare`, a tile that does not decode is
    NaN in what is said, instead of an error; those found are `broken`.
    """

    folder: Path
    tiles: TileStore
    ids: Callable[[int], list[str]]
    pieces: int
    embeddings: bool
    spare: bool = False
    work: Path | None = None
    broken: set[str] = field(default_factory=set)
    held: dict[tuple[ModelKey, int], ImageScores] = field(default_factory=dict)

    def identity(self, bundle_hash: str) -> str:
        """What only the same bundle, tiles, lesions, pieces and way with broken tiles share."""
        state = self.tiles.path.stat()
        lesions = hashlib.sha256()
        for number in range(self.pieces):
            lesions.update("\n".join([*self.ids(number), ""]).encode())
        what = [bundle_hash, str(self.tiles.path.resolve()), state.st_size, state.st_mtime_ns, lesions.hexdigest()]
        return sha256_json([*what, self.pieces, self.spare])[:24]

    def whole(self, ids: list[str]) -> list[str]:
        """Those that are not known to be broken."""
        return [name for name in ids if name not in self.broken] if self.broken else ids

    def model(self, key: ModelKey) -> Path:
        return self.folder / "image" / key[0] / f"fold{key[1]}"

    def seen(self, key: ModelKey, number: int) -> bool:
        """Whether a model has looked at a piece."""
        return (key, number) in self.held if self.work is None else self._file(key, number).exists()

    def sight(self, key: ModelKey, number: int) -> ImageScores:
        """What a model said about a piece it has looked at."""
        return self.held[key, number] if self.work is None else _read(self._file(key, number))

    def keep(self, key: ModelKey, number: int, sight: ImageScores) -> None:
        """For `sight` to give."""
        if self.work is None:
            self.held[key, number] = sight
        else:
            _write(self._file(key, number), sight)

    def _file(self, key: ModelKey, number: int) -> Path:
        assert self.work is not None
        return self.work / f"{key[0]}-{key[1]}-{number}.npz"


def score_images(look: ImageScoringJob, keys: Sequence[ModelKey], tiles: int) -> None:
    """Have every model of `keys` look at every piece, `tiles` tiles in all. Raises what the models raise."""
    if look.work is not None and isinstance(look.tiles.path, Path):
        _on_every_gpu(look, keys, tiles)
    _score(look, keys, tiles)


class Progress:
    """Says now and then how far a long look is, and how long it still takes."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.fresh = 0
        self.begun = self.told = time.monotonic()

    def add(self, count: int, fresh: bool) -> None:
        self.done += count
        self.fresh += count if fresh else 0
        now = time.monotonic()
        if now - self.told < REPORT:
            return
        self.told = now
        left = (self.total - self.done) * (now - self.begun) / max(self.fresh, 1)
        share = self.done / self.total
        sys.stderr.write(f"isic: {self.done:,} of {self.total:,} looks ({share:.0%}), {left / 60:.0f} min left\n")


def _score(look: ImageScoringJob, keys: Sequence[ModelKey], tiles: int) -> None:
    from isic.image.network.artifact import load_model

    progress = Progress(tiles * len(keys))
    for key in keys:
        model = None
        for number in range(look.pieces):
            ids = look.ids(number)
            if not look.seen(key, number):
                model = model or load_model(look.model(key))
                look.keep(key, number, _score_chunk(look, model, ids))
            progress.add(len(ids), fresh=model is not None)


def _score_chunk(look: ImageScoringJob, model: Model, ids: list[str]) -> ImageScores:
    """What one model says about these tiles. Broken ones are searched for only when something is wrong."""
    from isic.image.network.embed import embed

    try:
        said = embed(model, look.tiles, look.whole(ids))
    except InputError as error:
        broken = _broken(look.tiles, look.whole(ids))
        if not broken:
            raise
        name, reason = next(iter(broken.items()))
        if not look.spare:
            raise TileError(
                f"{reason}, or use --missing-images impute ({len(broken)} of {len(ids):,} tiles are broken)"
            ) from error
        sys.stderr.write(f"isic: note: {len(broken)} of {len(ids):,} tiles are imputed, first {name}: {reason}\n")
        look.broken.update(broken)
        said = embed(model, look.tiles, look.whole(ids))
    return _spread(look, ids, said)


def _spread(look: ImageScoringJob, ids: list[str], said: Said) -> ImageScores:
    """What was said of the whole tiles, with NaN for the broken ones."""
    if len(said.logits) == len(ids):
        return ImageScores(said.logits, said.embeddings if look.embeddings else None)
    whole = np.array([name not in look.broken for name in ids])
    logits = np.full(len(ids), np.nan, dtype=np.float32)
    logits[whole] = said.logits
    if not look.embeddings:
        return ImageScores(logits, None)
    embeddings = np.full((len(ids), said.embeddings.shape[1]), np.nan, dtype=np.float16)
    embeddings[whole] = said.embeddings
    return ImageScores(logits, embeddings)


def _broken(tiles: TileStore, ids: Sequence[str]) -> dict[str, str]:
    """Tiles that do not decode, and why."""
    found = {}
    for name in ids:
        try:
            tiles.image(name)
        except InputError as error:
            found[name] = str(error)
    return found


def _write(file: Path, sight: ImageScores) -> None:
    arrays = {name: values for name, values in sight._asdict().items() if values is not None}
    with atomic_file(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def _read(file: Path) -> ImageScores:
    with np.load(file, allow_pickle=False) as stored:
        return ImageScores(stored["logits"], stored.get("embeddings"))


def _on_every_gpu(look: ImageScoringJob, keys: Sequence[ModelKey], tiles: int) -> None:
    """With two GPUs or more, fill the files by one process per GPU; a process that fails leaves gaps, no more."""
    from isic.image.network.device import describe_devices

    count = len(describe_devices())
    if count < 2 or look.work is None:
        return
    for number in range(look.pieces):
        write_json(look.work / _ids(number), look.ids(number))
    task = look.work / "task.json"
    write_json(task, [str(look.folder), str(look.tiles.path), look.pieces, look.embeddings, look.spare, tiles])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "isic.predict.image_scores", str(task), json.dumps(keys[number::count])],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": visible[number]},
        )
        for number in range(count)
    ]
    for process in started:
        process.wait()


def _ids(number: int) -> str:
    return f"ids-{number}.json"


def main() -> None:
    from isic.data.tiles import TileStore

    task, keys = Path(sys.argv[1]), [(name, fold) for name, fold in json.loads(sys.argv[2])]
    folder, path, pieces, embeddings, spare, tiles = json.loads(task.read_text())

    def ids(number: int) -> list[str]:
        names: list[str] = json.loads((task.parent / _ids(number)).read_text())
        return names

    _score(ImageScoringJob(Path(folder), TileStore(path), ids, pieces, embeddings, spare, task.parent), keys, tiles)


if __name__ == "__main__":
    run(main)
