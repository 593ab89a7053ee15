"""SourceRows of the official tables, joined by isic_id from the tables that a source has.

Values are passed on as text, so no digit changes. Memory holds, for each lesion, its id and what other
tables than the widest give for it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from isic.core.csv_files import MISSING, csv_columns, csv_rows
from isic.core.errors import InputError, printable
from isic.core.schema import (
    ID,
    MAY_BE_MISSING,
    PATIENT,
    TARGET,
    TEST_COLUMNS,
    TRAIN_COLUMNS,
    TRAIN_ONLY,
)

#: Columns of the challenge's other form (`malignant`) and of the archive's tool, and their official
#: names.
_OFFICIAL_NAMES = {
    "malignant": TARGET,
    **{f"diagnosis_{level}": f"iddx_{level}" for level in range(1, 6)},
}
_LEVELS = tuple(f"iddx_{level}" for level in range(1, 6))
#: Columns from which a target follows where no table has one: the positive value of each. Of the
#: 401,059 official rows, target is 1 exactly where iddx_1 is Malignant.
_DIAGNOSES = {"benign_malignant": "malignant", "iddx_1": "Malignant"}
_PLACEHOLDERS = 3


@dataclass(frozen=True)
class SourceTable:
    """A table with isic_ids: its file, its name in messages, and the index of each column by official
    name.
    """

    path: Path
    label: str
    columns: Mapping[str, int]

    def rows(self) -> Iterator[list[str]]:
        """The rows without the header. Raises InputError with the table's label."""
        try:
            rows = csv_rows(self.path)
            next(rows)
            for row in rows:
                isic_id = row[self.columns[ID]]
                if isic_id in MISSING or isic_id == "." or "/" in isic_id or "\0" in isic_id:
                    raise InputError(f"{self.path}: isic_id {printable(isic_id)!r} is no id")
                yield row
        except InputError as error:
            raise InputError(str(error).replace(str(self.path), self.label)) from error


def tables_with_ids(files: Mapping[str, Path]) -> list[SourceTable]:
    """The tables with a column `isic_id`, but for sample submissions."""
    tables = []
    for label, path in files.items():
        if Path(label).name.startswith("sample_submission"):
            continue
        try:
            names = csv_columns(path)
        except InputError as error:
            raise InputError(str(error).replace(str(path), label)) from error
        columns: dict[str, int] = {}
        for index, name in enumerate(names):
            columns.setdefault(_OFFICIAL_NAMES.get(name.strip(), name.strip()), index)
        if ID in columns:
            tables.append(SourceTable(path, label, columns))
    return tables


class SourceRows:
    """The lesions of a source; `ids`: whether each is a test row (bit 1), a training row (bit 2).

    `problems` and `notes`: one line for each thing that is missing.
    """

    def __init__(self, source: Path, tables: Sequence[SourceTable]) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.ids: dict[str, int] = {}
        self.positives = 0
        self.patients: set[str] = set()
        self._source = source
        self._tables: dict[bool, list[SourceTable]] = {True: [], False: []}
        wide = [table for table in tables if PATIENT in table.columns]
        if not wide:
            self.problems.append(
                f"{source} holds no table with isic_id and patient_id: put the measurements there"
                " (train-metadata.csv, or metadata.csv of the challenge's *_Input archive)"
            )
            return
        self._sort(tables, wide)

    def _sort(self, tables: Sequence[SourceTable], wide: Sequence[SourceTable]) -> None:
        def official(table: SourceTable) -> int:
            return len(set(TEST_COLUMNS) & set(table.columns))

        most = max(map(official, wide))
        main = [table for table in wide if official(table) > most // 2]
        extra = [table for table in tables if table not in main]
        given = set.intersection(*(set(table.columns) for table in main))
        wanted = set(TRAIN_COLUMNS) - given - {TARGET}
        self._labels = self._read_labels(main, extra)
        self._extra = [
            _Lookup(table, sorted(wanted & set(table.columns)))
            for table in sorted(extra, key=official, reverse=True)
            if wanted & set(table.columns)
        ]
        for table in main:
            self._count(table)
        self._check_columns()

    def _read_labels(
        self, main: Sequence[SourceTable], extra: Sequence[SourceTable]
    ) -> Callable[[str], str]:
        """Target of an isic_id as text, "" where no table has one."""
        tables = [*main, *extra]
        source, positive = TARGET, ""
        if not any(TARGET in table.columns for table in tables):
            source = next(
                (name for name in _DIAGNOSES if any(name in table.columns for table in tables)), ""
            )
            if not source:
                return lambda isic_id: ""
            positive = _DIAGNOSES[source]
            self.notes.append(f"no table has a target: it is 1 where `{source}` is {positive}")
        labels: dict[str, str] = {}
        for table in tables:
            if source not in table.columns:
                continue
            at, value_at = table.columns[ID], table.columns[source]
            for row in table.rows():
                label = _label(row[value_at], positive, row[at], table)
                if label and labels.setdefault(row[at], label) != label:
                    raise InputError(
                        f"{table.label}: {row[at]} has target {label}, another table"
                        f" {labels[row[at]]}: keep the right one"
                    )
        return lambda isic_id: labels.get(isic_id, "")

    def _count(self, table: SourceTable) -> None:
        """Add the ids of a table, whose rows are all training rows or all test rows: those without a
        target, and those of the official test file, which may repeat training rows.
        """
        at, patient_at = table.columns[ID], table.columns[PATIENT]
        is_test_file = Path(table.label).name == "test-metadata.csv"
        ids: dict[str, None] = {}
        without, first, positives = 0, "", 0
        patients: set[str] = set()
        for row in table.rows():
            isic_id = row[at]
            if isic_id in ids:
                raise _repeated(table, isic_id)
            ids[isic_id] = None
            label = "" if is_test_file else self._labels(isic_id)
            patients.add(row[patient_at])
            positives += label == "1"
            if not label:
                without, first = without + 1, first or isic_id
        if not ids:
            raise InputError(f"{table.label} has a header and no rows: put the whole file there")
        if 0 < without < len(ids):
            self.problems.append(
                f"{table.label}: {without:,} of {len(ids):,} rows have no target (first {first}): add"
                " them to the ground truth"
            )
        is_train = without < len(ids)
        bit = 1 << is_train
        for isic_id in ids:
            if self.ids.get(isic_id, 0) & bit:
                raise _repeated(table, isic_id)
            self.ids[isic_id] = self.ids.get(isic_id, 0) | bit
        self._tables[is_train].append(table)
        if is_train:
            self.positives += positives
            self.patients |= patients

    def _check_columns(self) -> None:
        if not self._tables[True]:
            self.problems.append(
                f"{self._source} holds no target of its lesions: put ISIC_2024_Training_GroundTruth"
                ".csv (isic_id, malignant) or train-metadata.csv there"
            )
        looked_up = {name for lookup in self._extra for name in lookup.columns}
        for part, columns in ((True, TRAIN_COLUMNS), (False, TEST_COLUMNS)):
            for table in self._tables[part]:
                given = looked_up | set(table.columns) | {TARGET}
                absent = [name for name in columns if name not in given]
                needed = [name for name in absent if name not in (*MAY_BE_MISSING, *TRAIN_ONLY)]
                if needed:
                    self.problems.append(
                        f"{table.label} lacks {_list(needed)}, and no other table has them: put the"
                        " challenge's metadata.csv there (the archive's tool downloads no"
                        " measurements)"
                    )
                known = {"iddx_full"} if "iddx_1" in given else set()
                if empty := [name for name in absent if name not in {*needed, *known}]:
                    self.notes.append(
                        f"{table.label} lacks {_list(empty)}, and no other table has them: written"
                        " empty (the challenge's *_Supplement.csv has the diagnoses)"
                    )

    def write(self, folder: Path) -> list[str]:
        """Write train-metadata.csv, test-metadata.csv and sample_submission.csv to `folder`.

        Returns the isic_ids that stand in for test rows where the source has none: of three
        patients, as in Kaggle's public test set.
        """
        placeholders: dict[str, list[str]] = {}
        with _writer(folder / "train-metadata.csv", TRAIN_COLUMNS) as write:
            for table in self._tables[True]:
                patient = TRAIN_COLUMNS.index(PATIENT)
                for row in self._joined(table, TRAIN_COLUMNS):
                    write(row)
                    if len(placeholders) < _PLACEHOLDERS:
                        placeholders.setdefault(row[patient], row)
        test = [self._joined(table, TEST_COLUMNS) for table in self._tables[False]]
        if not test:
            pick = itemgetter(*(TRAIN_COLUMNS.index(name) for name in TEST_COLUMNS))
            test = [iter(list(pick(row)) for row in placeholders.values())]
        with (
            _writer(folder / "test-metadata.csv", TEST_COLUMNS) as write,
            _writer(folder / "sample_submission.csv", (ID, TARGET)) as write_score,
        ):
            for part in test:
                for row in part:
                    write(row)
                    write_score([row[0], "0.3"])
        return [] if self._tables[False] else [row[0] for row in placeholders.values()]

    def _joined(self, table: SourceTable, header: Sequence[str]) -> Iterator[list[str]]:
        width = len(csv_columns(table.path))
        place: dict[str, int] = {}
        for lookup in self._extra:
            for name in lookup.columns:
                place.setdefault(name, width)
                width += 1
        place |= {name: index for name, index in table.columns.items() if name != TARGET}
        # After the values of all tables: the target, and the empty value.
        pick = itemgetter(*(place.get(name, width + (name != TARGET)) for name in header))
        full = header.index("iddx_full") if "iddx_full" in header else -1
        levels = [header.index(name) for name in _LEVELS] if full >= 0 else []
        at = table.columns[ID]
        for row in table.rows():
            isic_id = row[at]
            values = row
            for lookup in self._extra:
                values = [*values, *lookup.of(isic_id)]
            joined = list(pick([*values, self._labels(isic_id), ""]))
            if levels and not joined[full]:
                joined[full] = "::".join(filter(None, (joined[index] for index in levels)))
            yield joined


class _Lookup:
    """Columns of a table by isic_id; equal values are stored once."""

    def __init__(self, table: SourceTable, columns: Sequence[str]) -> None:
        self.columns = columns
        self._none = ("",) * len(columns)
        self._rows: dict[str, tuple[str, ...]] = {}
        shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        at, places = table.columns[ID], [table.columns[name] for name in columns]
        for row in table.rows():
            if row[at] in self._rows:
                raise _repeated(table, row[at])
            values = tuple(row[place] for place in places)
            self._rows[row[at]] = shared.setdefault(values, values)

    def of(self, isic_id: str) -> tuple[str, ...]:
        return self._rows.get(isic_id, self._none)


def _repeated(table: SourceTable, isic_id: str) -> InputError:
    return InputError(f"{table.label}: isic_id {isic_id} occurs more than once: keep one")


def _label(value: str, positive: str, isic_id: str, table: SourceTable) -> str:
    if value in MISSING:
        return ""
    if positive:
        return str(int(value == positive))
    try:
        return {0.0: "0", 1.0: "1"}[float(value)]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{table.label}: target of {isic_id} is {printable(value)}, it must be 0 or 1"
        ) from error


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more columns" if len(names) > 5 else ""
    return ", ".join(f"`{name}`" for name in names[: 4 if more else 5]) + more


@contextmanager
def _writer(path: Path, header: Sequence[str]) -> Iterator[Callable[[Sequence[str]], object]]:
    """Open a CSV, write its header and yield the function that writes a row."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        write = csv.writer(stream, lineterminator="\n").writerow
        write(header)
        yield write
