"""Files of macOS that are no data."""

from __future__ import annotations

from pathlib import Path

#: What a copy of a file's attributes starts with.
ATTRIBUTES = b"\0\5\26\7Mac OS X"


def write_attributes(folder: Path) -> None:
    """Write `._NAME` beside every file below `folder`, as macOS does on a disk of another system."""
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        file.with_name(f"._{file.name}").write_bytes(ATTRIBUTES)
