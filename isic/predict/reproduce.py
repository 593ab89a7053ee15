"""Check that a bundle reproduces its stored scores in a fresh process.

`reload_elsewhere` runs `python -m isic.predict.reproduce`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from isic.core.errors import InputError, run
from isic.core.io import sha256_json
from isic.core.schema import ID, PATIENT, TEST_COLUMNS
from isic.predict.bundle import load_bundle


class Reload(NamedTuple):
    """Rows scored again, the largest difference from their stored scores, and seconds per row after
    loading.
    """

    rows: int
    largest: float
    seconds_per_row: float


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
    # Loads libraries and the stacker, so that the seconds below are of scoring only.
    first = table.loc[stored[ID].head(1), list(TEST_COLUMNS)].reset_index(drop=True)
    bundle.predict(first, tiles)
    for fold, part in stored.groupby("fold"):
        lesions = table.loc[part[ID], list(TEST_COLUMNS)].reset_index(drop=True)
        started = time.perf_counter()
        again = bundle.predict(lesions, tiles, folds=[int(str(fold))])
        seconds += time.perf_counter() - started
        largest = max(largest, float(np.abs(again.to_numpy() - part["score"].to_numpy()).max()))
    return Reload(len(stored), largest, seconds / len(stored))


def main() -> None:
    folder, metadata, images, rows = sys.argv[1:]
    result = reload_here(Path(folder), Path(metadata), Path(images), int(rows))
    sys.stdout.write(json.dumps(result._asdict()) + "\n")


if __name__ == "__main__":
    run(main)
