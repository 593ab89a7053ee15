"""Description of a version in MLflow: the model card, followed by the latest gate result."""

from __future__ import annotations

import re

#: MLflow stores up to 5,000 characters; the rest is for the gate result.
_MAX_CARD, _MAX = 3_400, 5_000
_GATE = "\n\n## Gate\n\n"


def from_card(card: str) -> str:
    """Markdown of a model card without its metadata header, cut at the end of a line if too long
    for MLflow.
    """
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL).strip()
    if len(text) <= _MAX_CARD:
        return text
    return (
        text[: text.rindex("\n", 0, _MAX_CARD)]
        + "\n\n… (whole: report/model_card.md of the stack's run)"
    )


def with_gate(description: str, verdict: str) -> str:
    """`description` followed by the latest gate result (Markdown), which replaces an earlier one."""
    return (description.split(_GATE)[0] + _GATE + verdict)[:_MAX]
