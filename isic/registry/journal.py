"""Moving the champion alias with a write-ahead record, so that an interrupted promotion is finished
or undone.

Readers use one alias, `champion`, which MLflow moves atomically; the other changes of a promotion
are separate steps. `apply_record` writes the record to .pending.json, sets `previous`, sets
`champion`, appends the record to promotions.jsonl, and removes .pending.json. If a later call finds
.pending.json, it checks `champion`: if the alias has moved, it does the remaining steps, else it
restores `previous`.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from isic.core.errors import InputError, faulty_key
from isic.core.io import atomic_file, read_json, typed, write_json
from isic.registry.versions import CHAMPION, PREVIOUS, Registry

#: JSON does not escape these, but str.splitlines and many editors treat each as a line end.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


class PromotionRecord(BaseModel):
    """One line of promotions.jsonl: a promotion or rollback, author, time, versions and reason."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    act: str
    model: str
    at: str
    who: str
    before: int | None
    after: int
    previous: int | None
    reason: str
    forced: bool
    gate: dict[str, Any] | None


def make_record(
    act: str,
    model: str,
    who: str,
    before: int | None,
    after: int,
    previous: int | None,
    *,
    reason: str = "",
    forced: bool = False,
    gate: dict[str, Any] | None = None,
) -> PromotionRecord:
    """A record with a new id and the time now; `previous` is the present version of that alias."""
    return PromotionRecord(
        id=uuid.uuid4().hex,
        act=act,
        model=model,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        who=who,
        before=before,
        after=after,
        previous=previous,
        reason=reason,
        forced=forced,
        gate=gate,
    )


def apply_record(registry: Registry, promotions: Path, record: PromotionRecord) -> None:
    """Move the aliases and append to `promotions`, in the module's order.

    Call with the registry's lock held and no pending record.
    """
    write_json(pending_file(promotions), record.model_dump())
    registry.set_alias(record.model, PREVIOUS, record.before)
    registry.set_alias(record.model, CHAMPION, record.after)
    append(promotions, record)
    pending_file(promotions).unlink()


def recover(registry: Registry, promotions: Path) -> str | None:
    """Finish or undo an interrupted `apply_record`; returns a message, None without a pending
    record.

    Raises InputError when `promotions` cannot be read: no alias is moved that could not be
    recorded.
    """
    read_promotions(promotions)
    pending = pending_file(promotions)
    if not pending.exists():
        return None

    try:
        record = typed(PromotionRecord, read_json(pending))
    except ValidationError as error:
        raise InputError(
            f"{pending} is not the record of a promotion (`{faulty_key(error)}`): remove it, see"
            " `isic history` and promote again"
        ) from error
    champion = registry.find_alias(record.model, CHAMPION)
    moved = champion is not None and champion.number == record.after
    if moved:
        registry.set_alias(record.model, PREVIOUS, record.before)
        append(promotions, record)
    else:
        registry.set_alias(record.model, PREVIOUS, record.previous)
    pending.unlink()
    outcome = "finished" if moved else "undone"
    return f"an interrupted {record.act} to {record.model} version {record.after} was {outcome}"


def append(promotions: Path, record: PromotionRecord) -> None:
    """Add a record to promotions.jsonl unless it is there; the file is replaced atomically."""
    records = read_promotions(promotions)
    if any(known.id == record.id for known in records):
        return

    lines = [
        json.dumps(known.model_dump(), ensure_ascii=False).translate(_LINE_ENDS)
        for known in (*records, record)
    ]
    with atomic_file(promotions) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_promotions(promotions: Path) -> list[PromotionRecord]:
    """All records, oldest first. Raises InputError naming a line that cannot be read."""
    if not promotions.exists():
        return []

    records = []
    content = promotions.read_bytes()
    # Bytes are split at \n, \r and \r\n only; text would also be split at U+2028 and the like
    # within a reason.
    lines = content.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(PromotionRecord.model_validate_json(line, strict=True))
        except ValueError as error:
            # A write that was cut off: the next one, which replaces the file, leaves it out.
            if number == len(lines) and not content.endswith((b"\n", b"\r")):
                break
            raise InputError(
                f"{promotions} line {number} is not a promotion: restore the file from git"
            ) from error
    return records


def pending_file(promotions: Path) -> Path:
    """File of the record being applied."""
    return promotions.with_name(".pending.json")
