"""A promotion file whose last write was cut off goes on; damage elsewhere is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from isic.core.errors import InputError, printable
from isic.registry.journal import append, make_record, read_promotions


def _record(number: int, reason: str = "") -> object:
    return make_record("promote", "isic-2024", "me", None, number, None, reason=reason)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_torn_tail_is_left_out_and_the_next_write_mends_it(tmp_path: Path, share: float) -> None:
    path = tmp_path / "promotions.jsonl"
    for number in range(1, 4):
        append(path, _record(number))  # type: ignore[arg-type]
    *whole, last = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole) + last[: int(len(last) * share)])
    assert [move.after for move in read_promotions(path)] == [1, 2]
    append(path, _record(9))  # type: ignore[arg-type]
    assert [move.after for move in read_promotions(path)] == [1, 2, 9]
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("damage", ["x\n", "{}\n", "[]\n", "\n", "\0\0\n", '{"id": 1}\n'])
def test_damage_elsewhere_is_named_each_time(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "promotions.jsonl"
    append(path, _record(1))  # type: ignore[arg-type]
    text = path.read_text()
    for content, line in ((text + damage + text, 2), (text + text + damage, 3)):
        path.write_text(content)
        for _ in range(2):
            with pytest.raises(InputError, match=rf"promotions\.jsonl line {line} is not"):
                append(path, _record(2))  # type: ignore[arg-type]
        assert path.read_text() == content


@pytest.mark.parametrize(
    "text",
    ["\x1b[31mred", "\x1b]0;title\x07", "a\nb\r\x85c\u2028d", "\u202eevil", "\x9b2J", "\0\x08"],
)
def test_texts_reach_a_terminal_without_control_characters(text: str) -> None:
    assert printable(text).isprintable()
    assert printable("Zoë – ok") == "Zoë – ok"
    assert len(printable("x" * 10_000)) < 400
