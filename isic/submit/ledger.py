"""Ledger of submissions: scored files, versions, and leaderboard scores.

One JSON object a line in submission/ledger.jsonl, which belongs in git; submission.json holds the
last one.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from isic.core.errors import InputError
from isic.core.io import atomic_file, sha256, write_json
from isic.predict.bundle import Bundle
from isic.registry.versions import Registry, Version

#: Tag of a version with the time of its last submission.
SUBMITTED = "submitted"


class Submission(BaseModel):
    """One submission: hashes are SHA-256; pauc is out of fold, public and private the leaderboard's."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: str
    model: str
    version: int
    run: str
    bundle_hash: str
    test_metadata: str = ""
    test_images: str = ""
    csv: str = ""
    lesions: int = 0
    pauc: float
    pauc_low: float | None = None
    pauc_high: float | None = None
    public: float | None = None
    private: float | None = None


def log_submission(
    registry: Registry, version: Version, bundle: Bundle, competition: Path, csv: Path, lesions: int
) -> Submission:
    """Add the file `csv`, scored by `version`, to the ledger beside it; tag the version.

    competition: folder of the test files.
    """
    scored = _new(registry, version, bundle).model_copy(
        update={
            "test_metadata": sha256(competition / "test-metadata.csv"),
            "test_images": sha256(competition / "test-image.hdf5"),
            "csv": sha256(csv),
            "lesions": lesions,
        }
    )
    write_json(csv.with_suffix(".json"), scored.model_dump(exclude={"public", "private"}))
    ledger = csv.with_name("ledger.jsonl")
    _write(ledger, [*read_ledger(ledger), scored])
    registry.tag(version, {SUBMITTED: scored.at})
    return scored


def record_scores(
    registry: Registry,
    model: str,
    ledger: Path,
    public: float | None,
    private: float | None,
    version: int | None = None,
) -> Submission:
    """Enter leaderboard scores for the last submission (of `version`) and tag the version with them.

    A version that was only submitted on Kaggle has no entry yet and gets one. Raises InputError when
    there is nothing to enter, or nothing to enter it for.
    """
    scores = {"public": public, "private": private}
    given = {name: value for name, value in scores.items() if value is not None}
    if not given:
        raise InputError("give --public, --private or both")
    for name, value in given.items():
        if not 0 <= value <= 0.2:
            raise InputError(f"--{name} is {value}: the competition's pAUC is from 0 to 0.2")

    entries = read_ledger(ledger)
    index = next(
        (i for i in reversed(range(len(entries))) if version in (None, entries[i].version)), None
    )
    if index is None:
        if version is None:
            raise InputError("nothing was submitted yet: isic submission, or name --version N")
        from isic.predict.bundle import load_bundle

        found = registry.version(model, version)
        entries.append(_new(registry, found, load_bundle(registry.folder(found))))
        index = len(entries) - 1

    entries[index] = entries[index].model_copy(update=given)
    _write(ledger, entries)
    entry = entries[index]
    registry.tag(
        registry.version(entry.model, entry.version),
        {SUBMITTED: entry.at, **{f"leaderboard_{name}": f"{v:.5f}" for name, v in given.items()}},
    )
    return entry


def read_ledger(ledger: Path) -> list[Submission]:
    """All submissions, oldest first. Raises InputError naming a line that cannot be read."""
    if not ledger.is_file():
        return []
    entries = []
    for number, line in enumerate(ledger.read_bytes().splitlines(), start=1):
        try:
            entries.append(Submission.model_validate_json(line))
        except ValidationError as error:
            raise InputError(
                f"{ledger} line {number} is no submission: restore the file from git"
            ) from error
    return entries


def ledger_table(entries: list[Submission]) -> str:
    """Out-of-fold and leaderboard scores side by side, a line each."""
    rows = [("submitted", "version", "out of fold", "95 %", "public", "private", "lesions", "file")]
    rows += [
        (
            entry.at,
            f"{entry.model}/{entry.version}",
            f"{entry.pauc:.4f}",
            _interval(entry),
            _score(entry.public),
            _score(entry.private),
            f"{entry.lesions:,}" if entry.lesions else "-",
            entry.csv[:8] or "-",
        )
        for entry in entries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _new(registry: Registry, version: Version, bundle: Bundle) -> Submission:
    metrics = bundle.manifest.metrics
    return Submission(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        model=version.name,
        version=version.number,
        run=registry.source_run(version),
        bundle_hash=bundle.manifest.hash,
        pauc=metrics["pauc"],
        pauc_low=metrics.get("pauc_low"),
        pauc_high=metrics.get("pauc_high"),
    )


def _write(ledger: Path, entries: list[Submission]) -> None:
    with atomic_file(ledger) as temporary:
        lines = [json.dumps(entry.model_dump()) for entry in entries]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _interval(entry: Submission) -> str:
    if entry.pauc_low is None or entry.pauc_high is None:
        return "-"
    return f"{entry.pauc_low:.4f} to {entry.pauc_high:.4f}"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
