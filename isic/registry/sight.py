"""What a bundle's image models say about tiles: chunk by chunk, so that memory stays flat and a killed run goes on.

A chunk of one model is one small file in the work folder. With several GPUs each gets a process that fills files; the
caller then only reads them. Run as `python -m isic.registry.sight` by `_on_every_gpu`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isic.core.errors import InputError, run
from isic.core.io import atomic_file, sha256_json

if TYPE_CHECKING:
    from isic.data.tiles import TileStore
    from isic.image.artifact import Model
    from isic.image.embed import Said

#: Tiles per chunk: half a minute of a T4, so that little is lost and starting loaders costs little.
CHUNK = 16384
#: Seconds between progress lines.
REPORT = 20.0

Key = tuple[str, int]


class Sight(NamedTuple):
    """Logits float32 (n,) and, if asked for, embeddings float16 (n, width) of one model."""

    logits: NDArray[np.float32]
    embeddings: NDArray[np.float16] | None


@dataclass(frozen=True)
class Look:
    """What is to be looked at: these tiles by the bundle in `folder`; chunks are kept in `work` if given.

    With `spare`, a tile that does not decode is NaN in what is said, instead of an error; those found are `broken`.
    """

    folder: Path
    tiles: TileStore
    ids: list[str]
    embeddings: bool
    work: Path | None
    spare: bool = False
    broken: set[str] = field(default_factory=set)

    def whole(self, ids: list[str]) -> list[str]:
        """Those that are not known to be broken."""
        return [name for name in ids if name not in self.broken] if self.broken else ids

    def chunks(self) -> list[list[str]]:
        return [self.ids[begin : begin + CHUNK] for begin in range(0, len(self.ids), CHUNK)]

    def model(self, key: Key) -> Path:
        return self.folder / "image" / key[0] / f"fold{key[1]}"

    def file(self, key: Key, number: int) -> Path | None:
        return None if self.work is None else self.work / f"{key[0]}-{key[1]}-{number}.npz"


def work_folder(home: Path, bundle_hash: str, tiles: TileStore, ids: Sequence[str], spare: bool) -> Path:
    """A folder below `home` that only the same bundle, tiles, lesions and way with broken tiles share."""
    state = tiles.path.stat()
    what = [bundle_hash, str(tiles.path.resolve()), state.st_size, state.st_mtime_ns, list(ids), spare]
    return home / sha256_json(what)[:24]


def look_through(look: Look, keys: Sequence[Key]) -> dict[Key, Sight]:
    """What every model of `keys` says about every tile. Raises what the models raise."""
    if look.work is not None and isinstance(look.tiles.path, Path):
        _on_every_gpu(look, keys)
    progress = Progress(len(look.ids) * len(keys))
    return {key: _joined(list(_look(look, key, progress))) for key in keys}


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


def _look(look: Look, key: Key, progress: Progress) -> Iterator[Sight]:
    from isic.image.artifact import load_model

    model = None
    for number, ids in enumerate(look.chunks()):
        file = look.file(key, number)
        kept = _read(file, len(ids)) if file is not None else None
        if kept is None:
            model = model or load_model(look.model(key))
            kept = _say(look, model, ids)
            if file is not None:
                _write(file, kept)
        progress.add(len(ids), fresh=model is not None)
        yield kept


def _say(look: Look, model: Model, ids: list[str]) -> Sight:
    """What one model says about these tiles. Broken ones are searched for only when something is wrong."""
    from isic.image.embed import embed

    try:
        said = embed(model, look.tiles, look.whole(ids))
    except InputError:
        broken = _broken(look.tiles, look.whole(ids)) if look.spare else {}
        if not broken:
            raise
        name, reason = next(iter(broken.items()))
        sys.stderr.write(f"isic: note: {len(broken)} of {len(ids):,} tiles are imputed, first {name}: {reason}\n")
        look.broken.update(broken)
        said = embed(model, look.tiles, look.whole(ids))
    return _spread(look, ids, said)


def _spread(look: Look, ids: list[str], said: Said) -> Sight:
    """What was said of the whole tiles, with NaN for the broken ones."""
    if len(said.logits) == len(ids):
        return Sight(said.logits, said.embeddings if look.embeddings else None)
    whole = np.array([name not in look.broken for name in ids])
    logits = np.full(len(ids), np.nan, dtype=np.float32)
    logits[whole] = said.logits
    if not look.embeddings:
        return Sight(logits, None)
    embeddings = np.full((len(ids), said.embeddings.shape[1]), np.nan, dtype=np.float16)
    embeddings[whole] = said.embeddings
    return Sight(logits, embeddings)


def _broken(tiles: TileStore, ids: Sequence[str]) -> dict[str, str]:
    """Tiles that do not decode, and why."""
    found = {}
    for name in ids:
        try:
            tiles.image(name)
        except InputError as error:
            found[name] = str(error)
    return found


def _joined(parts: list[Sight]) -> Sight:
    vectors = [part.embeddings for part in parts if part.embeddings is not None]
    return Sight(np.concatenate([part.logits for part in parts]), np.concatenate(vectors) if vectors else None)


def _write(file: Path, sight: Sight) -> None:
    arrays = {name: values for name, values in sight._asdict().items() if values is not None}
    with atomic_file(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def _read(file: Path, count: int) -> Sight | None:
    if not file.exists():
        return None
    with np.load(file, allow_pickle=False) as stored:
        sight = Sight(stored["logits"], stored.get("embeddings"))
    return sight if len(sight.logits) == count else None


def _on_every_gpu(look: Look, keys: Sequence[Key]) -> None:
    """With two GPUs or more, fill the chunk files by one process per GPU; a process that fails leaves gaps, no more."""
    from isic.image.device import describe_devices

    count = len(describe_devices())
    if count < 2 or look.work is None:
        return
    task = look.work / "task.json"
    look.work.mkdir(parents=True, exist_ok=True)
    task.write_text(json.dumps([str(look.folder), str(look.tiles.path), look.ids, look.embeddings, look.spare]))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "isic.registry.sight", str(task), json.dumps(keys[number::count])],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": visible[number]},
        )
        for number in range(count)
    ]
    for process in started:
        process.wait()


def main() -> None:
    from isic.data.tiles import TileStore

    task, keys = Path(sys.argv[1]), [(name, fold) for name, fold in json.loads(sys.argv[2])]
    folder, tiles, ids, embeddings, spare = json.loads(task.read_text())
    look = Look(Path(folder), TileStore(tiles), ids, embeddings, task.parent, spare)
    progress = Progress(len(ids) * len(keys))
    for key in keys:
        for _ in _look(look, key, progress):
            pass


if __name__ == "__main__":
    run(main)
