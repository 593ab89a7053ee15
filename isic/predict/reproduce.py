"""Check that a bundle reproduces its stored scores in a fresh process.

`reload_elsewhere` runs `python -m isic.predict.reproduce`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from isic.core.errors import InputError, run
from isic.core.io import sha256_json
from isic.core.schema import ID, PATIENT, TEST_COLUMNS
from isic.predict.bundle import Bundle, load_bundle
from isic.predict.tolerance import origin_of, pair_tolerance

if TYPE_CHECKING:
    from isic.data.tiles import TileStore


class Reload(NamedTuple):
    """Rows scored again, the largest difference from their stored scores, and seconds per row after
    loading.

    A tree turns the last bits of a logit into a visible difference of the score. So where a GPU
    made the logits, or scores them here, networks and stacker are compared apart. `stacker`: the
    largest difference of the scores of stored logits, None where all was done on CPUs. `share`: the
    largest difference of logits from stored ones as a share of their tolerance, and `pair`, where
    they were made.
    """

    rows: int
    largest: float
    seconds_per_row: float
    stacker: float | None = None
    share: float = 0.0
    pair: str = ""

    def reproduces(self, tolerance: float) -> bool:
        """Whether the bundle gives its stored scores; `tolerance`: of scores on CPUs."""
        apart = self.stacker is not None and self.stacker <= tolerance and self.share <= 1
        return self.largest <= tolerance or apart

    def text(self) -> str:
        """The differences in one line."""
        differences = f"largest difference {self.largest:.1e} over {self.rows} rows"
        if self.stacker is None:
            return differences
        return (
            f"{differences}; of the stacker alone {self.stacker:.1e}, of logits {self.share:.2g} of"
            f" the tolerance of {self.pair}"
        )


def reload_elsewhere(folder: Path, metadata: Path, images: Path, rows: int) -> Reload:
    """Score about `rows` out-of-fold rows of the bundle in `folder` again in a fresh process.

    `metadata` and `images` are the official training files. Raises InputError with the error line
    of the process when it fails.
    """
    command = [
        sys.executable,
        "-m",
        "isic.predict.reproduce",
        str(folder),
        str(metadata),
        str(images),
        str(rows),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix(
            "isic: error: "
        )
        raise InputError(f"{folder} cannot be used in a fresh process: {reason}")
    return Reload(**json.loads(done.stdout.splitlines()[-1]))


def choose_patients(oof: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Rows of whole patients of every fold, at least `rows` if there are as many, without very
    large patients.

    Whole patients, because a lesion is scored in comparison with its patient's others; small ones
    for speed.
    """
    sizes = oof.groupby(PATIENT).agg(fold=("fold", "first"), size=(ID, "size")).reset_index()
    order = sizes.assign(
        large=sizes["size"] > rows, key=[sha256_json(patient) for patient in sizes[PATIENT]]
    ).sort_values(["large", "key"])
    # One patient of each fold in turn.
    order = order.assign(turn=order.groupby("fold").cumcount()).sort_values(
        ["turn", "large", "key"], kind="stable"
    )
    before = order["size"].cumsum() - order["size"]
    needed = (before < rows) | (order["turn"] == 0)
    return oof[oof[PATIENT].isin(order.loc[needed, PATIENT])]


def reload_here(folder: Path, metadata: Path, images: Path, rows: int) -> Reload:
    """`reload_elsewhere` in this process."""
    from isic.data.tables import read_metadata
    from isic.data.tiles import TileStore

    bundle = load_bundle(folder)
    stored = choose_patients(bundle.oof(), rows)
    table = read_metadata(metadata, train=True).set_index(ID, drop=False)
    tiles = TileStore(images)
    largest, seconds = 0.0, 0.0
    apart: list[_Apart] = []
    # Loads libraries and the stacker, so that the seconds below measure scoring only.
    first = table.loc[stored[ID].head(1), list(TEST_COLUMNS)].reset_index(drop=True)
    bundle.predict(first, tiles)
    for fold, part in stored.groupby("fold"):
        lesions = table.loc[part[ID], list(TEST_COLUMNS)].reset_index(drop=True)
        started = time.perf_counter()
        again = bundle.predict(lesions, tiles, folds=[int(str(fold))])
        seconds += time.perf_counter() - started
        largest = max(largest, float(np.abs(again.to_numpy() - part["score"].to_numpy()).max()))
        apart += _networks_and_stacker(bundle, int(str(fold)), lesions, part["score"], tiles)
    worst = max(apart, key=lambda item: item.share, default=None)
    result = Reload(len(stored), largest, seconds / len(stored))
    if worst is None:
        return result
    stacker = max(item.stacker for item in apart)
    return result._replace(stacker=stacker, share=worst.share, pair=worst.pair)


class _Apart(NamedTuple):
    """`Reload.stacker`, `.share` and `.pair` of one network."""

    stacker: float
    share: float
    pair: str


def _networks_and_stacker(
    bundle: Bundle, fold: int, lesions: pd.DataFrame, scores: pd.Series, tiles: TileStore
) -> Iterator[_Apart]:
    """Compare a fold's networks with their stored logits, and its stacker with the scores of these.

    Empty without a GPU on either side, for a bundle without stored logits, and for a stacker that
    reads embeddings, which are not stored.
    """
    from isic.image.network.artifact import load_model
    from isic.image.network.embed import embed, scoring_origin
    from isic.tabular import build_features

    backbones = bundle.manifest.backbones
    stored = {backbone: bundle.oof_logits(backbone, fold) for backbone in backbones}
    known = {name: frame for name, frame in stored.items() if frame is not None}
    if len(known) < len(backbones) or bundle.stack.uses_embeddings:
        return
    models = {
        backbone: load_model(bundle.folder / "image" / backbone / f"fold{fold}")
        for backbone in backbones
    }
    pairs = {
        name: (origin_of(frame.attrs), origin_of(scoring_origin(models[name])))
        for name, frame in known.items()
    }
    if not any(origin.tolerance for pair in pairs.values() for origin in pair):
        return

    logits = {
        name: frame.set_index(ID)["logit"].loc[lesions[ID]].to_numpy()
        for name, frame in known.items()
    }
    features = build_features(lesions, list(bundle.manifest.families), bundle.manifest.older_ranks)
    again = bundle.stack.score(features, logits, fold, lesions[PATIENT])
    stacker = float(np.abs(again - scores.to_numpy()).max())
    for name, (before, here) in pairs.items():
        spread = max(1.0, float(known[name]["logit"].std(ddof=0)))
        now = embed(models[name], tiles, lesions[ID].tolist()).logits
        allowed = pair_tolerance(before, here) * spread
        share = float(np.abs(now - logits[name]).max()) / allowed
        yield _Apart(stacker, share, f"{before.text()}, here {here.text()}")


def main() -> None:
    folder, metadata, images, rows = sys.argv[1:]
    result = reload_here(Path(folder), Path(metadata), Path(images), int(rows))
    sys.stdout.write(json.dumps(result._asdict()) + "\n")


if __name__ == "__main__":
    run(main)
