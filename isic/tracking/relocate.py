"""Point the local MLflow store of a copied or moved checkout at its own files.

MLflow stores absolute addresses of artifacts, so a copy would read and write files of the original.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

#: Columns with addresses of artifacts, by table.
_ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def relocate(database: Path, artifacts: Path) -> bool:
    """Rewrite addresses in `database` of another folder `mlartifacts` to the folder `artifacts`.

    An address stays where the file is only at the old place, for example in a copy of the database
    alone; new files of an experiment go to `artifacts` in any case. Returns whether the store was
    of another place. Call with the store's lock held.
    """
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        if not _is_elsewhere(connection, artifacts):
            return False
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for table, columns in _ADDRESSES.items():
                for column in columns:
                    _rewrite(connection, table, column, artifacts)
    return True


def _is_elsewhere(connection: sqlite3.Connection, artifacts: Path) -> bool:
    rows = connection.execute("SELECT artifact_location FROM experiments").fetchall()
    return any(_new_address(address, artifacts) for (address,) in rows)


def _rewrite(connection: sqlite3.Connection, table: str, column: str, artifacts: Path) -> None:
    # Table and column are names of `_ADDRESSES`, not input.
    rows = connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
    for (old,) in rows:
        new = _new_address(old, artifacts)
        if new is None:
            continue
        if table != "experiments" and _path(old).exists() and not _path(new).exists():
            continue
        connection.execute(
            f"UPDATE {table} SET {column} = ? WHERE {column} = ?",
            (new, old),
        )


def _new_address(address: str | None, artifacts: Path) -> str | None:
    """The address below `artifacts` of one below another folder of this name; None for others."""
    if not address or urlparse(address).scheme not in ("", "file"):
        return None
    path = _path(address)
    folders = [folder for folder in (path, *path.parents) if folder.name == artifacts.name]
    if not folders or artifacts in folders:
        return None
    target = artifacts / path.relative_to(folders[0])
    return f"file://{quote(str(target))}" if address.startswith("file:") else str(target)


def _path(address: str) -> Path:
    return Path(unquote(urlparse(address).path))
