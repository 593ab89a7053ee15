"""Import one source: its table, its pictures shrunk once, and who of the challenge is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.io import atomic_dir, write_parquet
from isic.core.parallel import workers
from isic.core.progress import StepProgress
from isic.core.schema import ID, PATIENT, TARGET
from isic.data.archive.duplicates import near_pairs, picture_hash
from isic.data.archive.forms import DIAGNOSIS_COLUMNS, list_files, read_diagnoses
from isic.data.archive.people import DIAGNOSES, LINKS, PICTURES, stored_hashes
from isic.data.archive.pictures import encode_picture, read_picture
from isic.data.tables import read_metadata
from isic.data.tile_file import check_room, put_tile
from isic.data.tiles import TileStore

#: Pictures read ahead of the writer.
_AHEAD = 64


class _Challenge(NamedTuple):
    """The challenge's lesions: isic_id, patient_id, lesion_id, in_test, and their tiles' hashes."""

    rows: pd.DataFrame
    hashes: NDArray[np.uint64]


def import_source(
    name: str, folder: Path, form: str, px: int, licence: str | None, raw: Path, out: Path
) -> dict[str, Any]:
    """Write the labelled pictures of `folder` to `out` (PICTURES, DIAGNOSES) and return their counts
    (JSON-able).

    A picture has at most `px` px a side. Rows without a label or a picture are counted and left
    out. `raw` holds the challenge's files, whose patients are looked for. Raises InputError when a
    table or picture is not usable, or no labelled row has a picture.
    """
    steps = StepProgress(f"archive {name}", {"pictures": 3, "challenge tiles": 1, "patients": 1})
    files = list_files(folder)
    table = read_diagnoses(form, files, licence)
    has_picture = table[ID].isin(list(files.pictures))
    rows = table[has_picture & table[TARGET].notna()].reset_index(drop=True)
    if rows.empty:
        raise InputError(
            f"{folder}: none of the {len(table):,} rows has a label and a picture (first id"
            f" {table[ID].iloc[0]}): put the pictures into the folder"
        )
    with atomic_dir(out) as temporary:
        steps.start("pictures")
        paths = [files.pictures[isic_id] for isic_id in rows[ID]]
        rows["hash"] = _write_pictures(temporary / PICTURES, rows[ID].tolist(), paths, px)
        steps.start("challenge tiles")
        challenge = _read_challenge(raw)
        steps.start("patients")
        matches = _find_patients(rows, challenge)
        rows = rows.assign(source=name, **_links(len(rows), matches))
        rows[TARGET] = rows[TARGET].astype("int64")
        write_parquet(temporary / DIAGNOSES, rows[[*DIAGNOSIS_COLUMNS, *LINKS]])
    return _counts(table, has_picture, rows, matches, form)


def _write_pictures(path: Path, ids: list[str], paths: Sequence[Path], px: int) -> list[bytes]:
    """Write the pictures in order; returns their hashes."""

    def shrink(source: Path) -> tuple[bytes, bytes]:
        picture = read_picture(source, px)
        return encode_picture(picture), picture_hash(picture).tobytes()

    hashes = []
    with h5py.File(path, "w") as file, ThreadPoolExecutor(workers()) as pool:
        parts = (paths[start : start + _AHEAD] for start in range(0, len(paths), _AHEAD))
        shrunk = chain.from_iterable(pool.map(shrink, part) for part in parts)
        for index, (isic_id, (data, bits)) in enumerate(zip(ids, shrunk, strict=True)):
            if index % _AHEAD == 0:
                check_room(path)
            put_tile(file, isic_id, data)
            hashes.append(bits)
    return hashes


def _read_challenge(raw: Path) -> _Challenge:
    frames, hashes = [], [np.empty((0, 4), dtype=np.uint64)]
    for part in ("train", "test"):
        frame = read_metadata(raw / f"{part}-metadata.csv", train=part == "train")
        store = TileStore(raw / f"{part}-image.hdf5")
        with ThreadPoolExecutor(workers()) as pool:
            hashes += pool.map(lambda name, store=store: picture_hash(store.image(name)), frame[ID])
        frames.append(
            pd.DataFrame(
                {
                    ID: frame[ID],
                    PATIENT: frame[PATIENT],
                    "lesion_id": frame["lesion_id"] if part == "train" else None,
                    "in_test": part == "test",
                }
            )
        )
    return _Challenge(pd.concat(frames, ignore_index=True), np.vstack(hashes))


def _find_patients(rows: pd.DataFrame, challenge: _Challenge) -> pd.DataFrame:
    """Pairs of a row and a challenge lesion of the same person: `row`, `patient_id`, `in_test`,
    `by` (how it is known).
    """
    found = []
    for column in (PATIENT, "lesion_id", ID):
        keys = challenge.rows[[column, "in_test"]].assign(patient=challenge.rows[PATIENT])
        keys = keys[keys[column].notna()].drop_duplicates()
        own = pd.DataFrame({"row": np.arange(len(rows)), column: rows[column]})
        pairs = own[own[column] != ""].merge(keys, on=column)
        found.append(pairs[["row", "patient", "in_test"]].assign(by=column))
    near = near_pairs(stored_hashes(rows), challenge.hashes)
    lesions = challenge.rows.iloc[near[:, 1]]
    found.append(
        pd.DataFrame(
            {
                "row": near[:, 0],
                "patient": lesions[PATIENT].to_numpy(),
                "in_test": lesions["in_test"].to_numpy(),
                "by": "picture",
            }
        )
    )
    return pd.concat(found, ignore_index=True)


def _links(count: int, matches: pd.DataFrame) -> dict[str, list[Any]]:
    patients = matches.groupby("row")["patient"].agg(lambda names: " ".join(sorted(set(names))))
    tested = set(matches.loc[matches["in_test"].astype(bool), "row"])
    return {
        "shared": [patients.get(row, "") for row in range(count)],
        "in_test": [row in tested for row in range(count)],
    }


def _counts(
    table: pd.DataFrame,
    has_picture: pd.Series,
    rows: pd.DataFrame,
    matches: pd.DataFrame,
    form: str,
) -> dict[str, Any]:
    """Counts of the whole table, of the pictures kept, and of the people shared with the
    challenge.
    """
    patients = table.loc[table[PATIENT] != "", PATIENT]
    return {
        "form": form,
        "licences": _value_counts(rows["licence"]),
        "table": {
            "rows": len(table),
            "malignant": int((table[TARGET] == 1).sum()),
            "patients": int(patients.nunique()),
            "diagnoses": _value_counts(table["diagnosis"]),
            "without_label": int(table[TARGET].isna().sum()),
            "without_picture": int((~has_picture).sum()),
        },
        "pictures": len(rows),
        "malignant": int(rows[TARGET].sum()),
        "shared": {
            "patients": int(matches["patient"].nunique()),
            "pictures": int(matches["row"].nunique()),
            "test_patients": int(matches.loc[matches["in_test"].astype(bool), "patient"].nunique()),
            "pictures_by": {
                str(by): int(part["row"].nunique()) for by, part in matches.groupby("by")
            },
        },
    }


def _value_counts(values: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in values.value_counts().items()}


def describe_source(counts: dict[str, Any]) -> Iterator[str]:
    """Lines about an imported source."""
    table, shared = counts["table"], counts["shared"]
    yield (
        f"{table['rows']:,} rows, {counts['pictures']:,} with a picture and a label,"
        f" {counts['malignant']:,} of them malignant"
    )
    if shared["patients"]:
        yield (
            f"{shared['patients']} patients of the challenge are in {shared['pictures']:,} pictures,"
            " which do not train the networks that score these patients"
        )
