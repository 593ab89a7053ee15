"""Moving the champion: written down before it starts and after it ends, so that a killed move is finished or undone.

Readers look at one alias, `champion`, and MLflow moves one alias at once; what can be cut in half is the bookkeeping
around it. A move first writes its intent, then sets `previous`, then `champion`, then appends its line to
promotions.jsonl, then removes the intent. Whoever comes next and finds an intent looks at `champion`: if it has moved,
the rest is done, else everything is put back.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from isic.core.errors import InputError
from isic.core.io import atomic_file, read_json, write_json
from isic.core.paths import Layout
from isic.registry.versions import CHAMPION, PREVIOUS, Registry
from isic.tracking.context import git

#: JSON leaves these as they are, and much that reads lines ends one at each of them (str.splitlines, editors).
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


class PromotionRecord(BaseModel):
    """One line of promotions.jsonl: who moved the champion, when, from which version to which, and why it might."""

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


def make_move(
    layout: Layout,
    act: str,
    model: str,
    before: int | None,
    after: int,
    previous: int | None,
    *,
    reason: str = "",
    forced: bool = False,
    gate: dict[str, Any] | None = None,
) -> PromotionRecord:
    """A move about to be made by this checkout's git user; `previous` is what that alias names now."""
    return PromotionRecord(
        id=uuid.uuid4().hex,
        act=act,
        model=model,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        who=git(layout.root, "config", "user.email") or git(layout.root, "config", "user.name") or "unknown",
        before=before,
        after=after,
        previous=previous,
        reason=reason,
        forced=forced,
        gate=gate,
    )


def apply(registry: Registry, move: PromotionRecord) -> None:
    """Make a move, step by step as the module describes. Call with the registry's lock held and nothing pending."""
    layout = registry.layout
    write_json(_intent(layout), move.model_dump())
    registry.point(move.model, PREVIOUS, move.before)
    registry.point(move.model, CHAMPION, move.after)
    append(layout, move)
    _intent(layout).unlink()


def recover(registry: Registry) -> str | None:
    """Finish or undo a move that was cut off; returns a line about it, None when nothing was pending.

    Raises InputError when promotions.jsonl cannot be read: every move begins here, before an alias is moved that could
    not be written down.
    """
    layout = registry.layout
    history(layout)
    if not _intent(layout).exists():
        return None
    move = PromotionRecord.model_validate(read_json(_intent(layout)))
    champion = registry.aliased(move.model, CHAMPION)
    done = champion is not None and champion.number == move.after
    if done:
        registry.point(move.model, PREVIOUS, move.before)
        append(layout, move)
    else:
        registry.point(move.model, PREVIOUS, move.previous)
    _intent(layout).unlink()
    return f"an interrupted {move.act} to {move.model} version {move.after} was {'finished' if done else 'undone'}"


def append(layout: Layout, move: PromotionRecord) -> None:
    """Add a move to promotions.jsonl unless it is there; the file is replaced whole."""
    moves = history(layout)
    if any(known.id == move.id for known in moves):
        return
    lines = [json.dumps(known.model_dump(), ensure_ascii=False).translate(_LINE_ENDS) for known in (*moves, move)]
    with atomic_file(layout.promotions) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def history(layout: Layout) -> list[PromotionRecord]:
    """All moves, oldest first. Raises InputError naming a line that cannot be read."""
    if not layout.promotions.exists():
        return []
    moves = []
    # Bytes end a line at what the system calls one; text also at U+2028 and the like, inside somebody's reason.
    for number, line in enumerate(layout.promotions.read_bytes().splitlines(), start=1):
        try:
            moves.append(PromotionRecord.model_validate_json(line))
        except ValueError as error:
            raise InputError(
                f"{layout.promotions} line {number} is not a promotion: restore the file from git"
            ) from error
    return moves


def _intent(layout: Layout) -> Path:
    return layout.promotions.with_name(".pending.json")
