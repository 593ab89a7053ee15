"""Description of a version in MLflow: score, data, gate and runs in a line each, then the model card
and the checks of the gate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: MLflow stores up to 5,000 characters; the rest is for the headline and the gate result.
_MAX_CARD, _MAX = 2_800, 5_000
_GATE = "\n\n## Gate\n\n"
_GATE_LINE = re.compile(r"^\*\*Gate\*\* .*$", flags=re.MULTILINE)


def headline(
    metrics: Mapping[str, Any], hashes: Mapping[str, str], runs: Mapping[str, str], gate: bool
) -> str:
    """The first lines of a description.

    metrics: content of metrics/evaluate.json, or the part of it that is known. hashes: of data and
    folds, by name. runs: name -> address on MLflow's pages. gate: whether a gate judges the version.
    """
    interval = ""
    if "pauc_low" in metrics:
        low, high = metrics["pauc_low"], metrics["pauc_high"]
        interval = f" (95 % over patients {low:.4f} to {high:.4f})"
    score = f"**pAUC {metrics['pauc']:.4f}**{interval}, out of fold"
    if metrics.get("auc") is not None:
        score += f"; AUC {metrics['auc']:.4f}"

    data = "**Data** " + ", ".join(f"{name} `{value[:8]}`" for name, value in hashes.items())
    if "patients" in metrics:
        data += (
            f": {metrics['n']:,} lesions of {metrics['patients']:,} patients,"
            f" {metrics['positives']:,} malignant"
        )

    links = "**Runs** " + ", ".join(f"[{name}]({address})" for name, address in runs.items())
    return "\n\n".join([score, data, *(["**Gate** not judged yet"] if gate else []), links])


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
    """`description` with the latest gate result (Markdown), which replaces an earlier one: its first
    line above, all of it below.
    """
    first = verdict.splitlines()[0].replace("*", "")
    head = _GATE_LINE.sub(lambda _: f"**Gate** {first}", description.split(_GATE)[0], count=1)
    return (head + _GATE + verdict)[:_MAX]
