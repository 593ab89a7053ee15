"""This run against the current model: the paired difference, and what changed since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from isic.core.errors import InputError
from isic.evaluate.compare import compare_oof
from isic.evaluate.results import RunResults


@dataclass(frozen=True)
class Champion:
    """The current model as it was judged: its name, out-of-fold scores, params.yaml values, and hashes by tag name."""

    name: str
    oof: pd.DataFrame
    params: Mapping[str, Any]
    provenance: Mapping[str, str]


def against(
    champion: Champion, results: RunResults, params: Mapping[str, Any], provenance: Mapping[str, str]
) -> dict[str, Any]:
    """What the page says about the champion; a champion of other data has only its name, its changes and the reason."""
    known = {section: params.get(section) for section in champion.params}
    changes = [
        *changed(flat(champion.params), flat(known)),
        *changed({k: champion.provenance.get(k) for k in ("data_hash", "folds_hash")}, dict(provenance), known=True),
    ]
    settings = params["evaluate"]
    try:
        found = compare_oof(
            champion.oof, results.oof, (champion.name, "this run"), int(settings["replicates"]), int(settings["seed"])
        )
    except InputError as error:
        return {"name": champion.name, "absent": str(error), "changes": changes}
    return {
        "name": champion.name,
        "absent": "",
        "pauc": found.a.pauc,
        "n": found.rows,
        "gain": found.difference,
        "low": found.low,
        "high": found.high,
        "verdict": found.verdict,
        "changes": changes,
    }


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any], known: bool = False) -> list[dict[str, str]]:
    """Keys whose value differs; with `known`, only keys of `before` that have a value."""
    keys = [key for key in before if before[key]] if known else [*before, *(key for key in after if key not in before)]
    return [
        {"key": key, "before": _shown(before.get(key)), "after": _shown(after.get(key))}
        for key in keys
        if _shown(before.get(key)) != _shown(after.get(key))
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    text = (", ".join(map(str, value)) or "none") if isinstance(value, list | tuple) else str(value)
    # Hashes are told apart by their first letters.
    return f"{text[:12]}…" if len(text) == 64 and " " not in text else text
