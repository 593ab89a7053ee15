"""The text on a version's page in MLflow: the model card, and below it what the gate said."""

from __future__ import annotations

import re

#: MLflow's column for it holds 5,000 characters; the gate needs its share.
_MOST_CARD, _MOST = 3_400, 5_000
_GATE = "\n\n## Gate\n\n"


def from_card(card: str) -> str:
    """Markdown of a model card without its metadata header, cut at a line where MLflow would cut within one."""
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL).strip()
    if len(text) <= _MOST_CARD:
        return text
    return text[: text.rindex("\n", 0, _MOST_CARD)] + "\n\n… (whole: report/model_card.md of the stack's run)"


def with_gate(note: str, verdict: str) -> str:
    """`note` with the latest verdict (Markdown) below it; an earlier one is replaced."""
    return (note.split(_GATE)[0] + _GATE + verdict)[:_MOST]
