"""Tables of labelled pictures in the forms in which they are published, as one diagnosis table.

Forms: Codella et al. 2018 (arXiv:1902.03368) and Tschandl et al. 2018 (isic2018, ham10000),
Hernández-Pérez et al. 2024 (isic2019), Rotemberg et al. 2021 (isic2020), Pacheco et al. 2020
(pad_ufes_20), and `folder`: one CSV beside pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from isic.core.csv_files import read_csv
from isic.core.errors import InputError
from isic.core.schema import ID, PATIENT, TARGET
from isic.data.tiles import is_hidden

#: Columns of the diagnosis table. `target` is 0, 1 or missing; other missing values are "".
DIAGNOSIS_COLUMNS = (ID, TARGET, "diagnosis", PATIENT, "lesion_id", "licence")
#: Suffixes of pictures.
SUFFIXES = (".jpg", ".jpeg", ".png")

_NC = "CC-BY-NC"
#: Diagnosis and target by the codes of the challenges. AKIEC is benign actinic keratosis and
#: malignant Bowen's disease in one class, so its target is unknown.
_CODES: dict[str, tuple[str, float]] = {
    "MEL": ("Melanoma", 1),
    "NV": ("Nevus", 0),
    "NEV": ("Nevus", 0),
    "BCC": ("Basal cell carcinoma", 1),
    "SCC": ("Squamous cell carcinoma", 1),
    "AK": ("Actinic keratosis", 0),
    "ACK": ("Actinic keratosis", 0),
    "AKIEC": ("Actinic keratosis or Bowen's disease", np.nan),
    "BKL": ("Benign keratosis", 0),
    "SEK": ("Seborrheic keratosis", 0),
    "DF": ("Dermatofibroma", 0),
    "VASC": ("Vascular lesion", 0),
    "UNK": ("", np.nan),
}


class Files(NamedTuple):
    """Files of a source: tables by name, pictures by name without suffix."""

    folder: Path
    tables: Mapping[str, Path]
    pictures: Mapping[str, Path]


class Form(NamedTuple):
    """A published form: its table reader and the licence of its pictures."""

    read: Callable[[Files], pd.DataFrame]
    licence: str


def list_files(folder: Path) -> Files:
    """Tables and pictures in `folder` and below. Raises InputError when there is no such folder, or
    no picture, or two of one name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name the folder of tables and pictures")
    tables: dict[str, Path] = {}
    pictures: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(names):
            path = Path(parent) / name
            if is_hidden(name):
                continue
            if path.suffix.lower() not in SUFFIXES:
                tables.setdefault(name, path)
            elif path.stem in pictures:
                raise InputError(
                    f"{pictures[path.stem]} and {path} have one name: keep one picture of each id"
                )
            else:
                pictures[path.stem] = path
    if not pictures:
        raise InputError(f"{folder} has no picture ({', '.join(SUFFIXES)}): put them there")
    return Files(folder, tables, pictures)


def read_diagnoses(form: str, files: Files, licence: str | None = None) -> pd.DataFrame:
    """The table of a source, DIAGNOSIS_COLUMNS, in its rows' order; `licence` replaces that of the
    form.

    Raises InputError for a missing table or column, an id that is missing, repeated or no plain
    name, and a label of another kind.
    """
    reader = FORMS[form]
    frame = reader.read(files).reindex(columns=DIAGNOSIS_COLUMNS)
    texts = [column for column in DIAGNOSIS_COLUMNS if column != TARGET]
    frame[texts] = frame[texts].astype("str").where(frame[texts].notna(), "")
    frame[TARGET] = frame[TARGET].astype("float64")
    frame["licence"] = licence or frame["licence"].where(frame["licence"] != "", reader.licence)

    ids = frame[ID]
    if frame.empty:
        raise InputError(
            f"{files.folder}: the table of form {form} has no row: name another folder"
        )
    for fault, rows in (
        ("no id", ids == ""),
        ("an id with /", ids.str.contains("/", regex=False) | ids.isin([".", ".."])),
        ("the id of another row", ids.duplicated()),
    ):
        if rows.any():
            first = int(np.flatnonzero(rows)[0])
            raise InputError(
                f"{files.folder}: {int(rows.sum())} rows have {fault} (first line {first + 2},"
                f" {ids.iloc[first]!r}): mend the table"
            )
    return frame.reset_index(drop=True)


def _table(files: Files, *names: str) -> Path:
    for name in names:
        if name in files.tables:
            return files.tables[name]
    raise InputError(f"{files.folder} has no {names[0]}: put it there or name another form")


def _columns(path: Path, names: Sequence[str]) -> pd.DataFrame:
    frame = read_csv(path, dtype="str")
    missing = [name for name in names if name not in frame]
    if missing:
        raise InputError(f"{path} has no column `{missing[0]}`: use the published table")
    return frame


def _from_codes(codes: pd.Series, path: Path) -> pd.DataFrame:
    """Columns `diagnosis` and `target` of class codes."""
    codes = codes.str.upper()
    unknown = sorted(set(codes.dropna()) - set(_CODES))
    if unknown or codes.isna().any():
        shown = repr(unknown[0]) if unknown else "a row without a diagnosis"
        raise InputError(
            f"{path} has {shown}, none of {', '.join(_CODES)}: use the published table"
        )
    pairs = codes.map(_CODES)
    return pd.DataFrame({"diagnosis": pairs.str[0], TARGET: pairs.str[1]})


def _one_hot(path: Path) -> pd.DataFrame:
    """A GroundTruth table: an id, then a column of 0 and 1 per class."""
    frame = _columns(path, ["image"])
    codes = [name for name in frame if name != "image"]
    try:
        values = frame[codes].astype("float64").to_numpy()
    except ValueError as error:
        raise InputError(
            f"{path} has a class that is no number ({error}): copy it again"
        ) from error
    wrong = ~((values == 1).sum(axis=1) == 1) | ~np.isin(values, (0, 1)).all(axis=1)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{path} has {int(wrong.sum())} rows without exactly one class (first line"
            f" {first + 2}): copy it again"
        )
    code = pd.Series(np.array(codes)[values.argmax(axis=1)], dtype="str")
    return _from_codes(code, path).assign(**{ID: frame["image"]})


def _isic2018(files: Files) -> pd.DataFrame:
    frame = _one_hot(_table(files, "ISIC2018_Task3_Training_GroundTruth.csv"))
    groupings = files.tables.get("ISIC2018_Task3_Training_LesionGroupings.csv")
    if groupings is None:
        return frame
    lesions = _columns(groupings, ["image", "lesion_id"]).set_index("image")["lesion_id"]
    return frame.assign(lesion_id=frame[ID].map(lesions))


def _isic2019(files: Files) -> pd.DataFrame:
    frame = _one_hot(_table(files, "ISIC_2019_Training_GroundTruth.csv"))
    path = _table(files, "ISIC_2019_Training_Metadata.csv")
    lesions = _columns(path, ["image", "lesion_id"]).set_index("image")["lesion_id"]
    return frame.assign(lesion_id=frame[ID].map(lesions))


def _isic2020(files: Files) -> pd.DataFrame:
    names = ("ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_GroundTruth.csv")
    path = _table(files, *names[::-1])
    frame = _columns(path, ["image_name", PATIENT, "diagnosis", TARGET])
    return frame.rename(columns={"image_name": ID}).assign(
        target=_targets(frame[TARGET], path), diagnosis=frame["diagnosis"].replace("unknown", "")
    )


def _ham10000(files: Files) -> pd.DataFrame:
    path = _table(files, "HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")
    frame = _columns(path, ["image_id", "lesion_id", "dx"])
    known = _from_codes(frame["dx"], path)
    return known.assign(**{ID: frame["image_id"], "lesion_id": frame["lesion_id"]})


def _pad_ufes_20(files: Files) -> pd.DataFrame:
    path = _table(files, "metadata.csv")
    frame = _columns(path, [PATIENT, "lesion_id", "diagnostic", "img_id"])
    ids = frame["img_id"].str.replace(r"\.png$", "", regex=True)
    # Its lesions are numbered from 1, so the number alone would join lesions of other sources.
    lesions = "PAD_" + frame["lesion_id"]
    known = _from_codes(frame["diagnostic"], path)
    return known.assign(**{ID: ids, PATIENT: frame[PATIENT], "lesion_id": lesions})


#: Columns of a plain table by the names under which they are found, the first that exists.
_ALIASES = {
    ID: (ID, "image", "image_name", "image_id"),
    PATIENT: (PATIENT,),
    "lesion_id": ("lesion_id",),
    "diagnosis": ("diagnosis", "iddx_full", "diagnosis_full"),
    "licence": ("licence", "license", "copyright_license"),
    TARGET: (TARGET, "benign_malignant", "diagnosis_1"),
}


def _folder(files: Files) -> pd.DataFrame:
    tables = [path for name, path in sorted(files.tables.items()) if name.endswith(".csv")]
    if len(tables) != 1:
        shown = ", ".join(path.name for path in tables[:4]) or "none"
        raise InputError(f"{files.folder} must hold one CSV, it has {shown}: keep one")
    (path,) = tables
    frame = read_csv(path, dtype="str")
    found = {
        column: next((name for name in names if name in frame), None)
        for column, names in _ALIASES.items()
    }
    for column in (ID, TARGET):
        if found[column] is None:
            raise InputError(f"{path} has no column `{column}`: add it")
    chosen = {column: frame[name] for column, name in found.items() if name is not None}
    # The archive's own tables give a diagnosis in levels from diagnosis_1 on.
    if found["diagnosis"] is None:
        levels = [name for name in frame if name.startswith("diagnosis_")]
        if levels:
            parts = frame[levels].fillna("")
            chosen["diagnosis"] = parts.agg("::".join, axis=1).str.rstrip(":")
    labels = frame[found[TARGET]]
    is_text = found[TARGET] != TARGET
    chosen[TARGET] = (
        labels.str.lower().map({"benign": 0.0, "malignant": 1.0})
        if is_text
        else _targets(labels, path)
    )
    return pd.DataFrame(chosen)


def _targets(values: pd.Series, path: Path) -> pd.Series:
    """0, 1 or missing; InputError for anything else."""
    numbers = pd.to_numeric(values, errors="coerce")
    wrong = values.notna() & ~numbers.isin([0, 1])
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{path} has {int(wrong.sum())} rows whose target is not 0 or 1 (first line {first + 2},"
            f" {values.iloc[first]!r}): mend them"
        )
    return numbers


FORMS: dict[str, Form] = {
    "isic2018": Form(_isic2018, _NC),
    "isic2019": Form(_isic2019, _NC),
    "isic2020": Form(_isic2020, _NC),
    "ham10000": Form(_ham10000, _NC),
    "pad_ufes_20": Form(_pad_ufes_20, "CC-BY"),
    "folder": Form(_folder, "unknown"),
}
