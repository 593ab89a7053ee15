"""Comparison with the champion: the paired difference, and the parameters and data that changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from isic.core.errors import InputError
from isic.evaluate.compare import compare_oof
from isic.evaluate.config import changed_values, flatten_params
from isic.evaluate.results import RunResults


@dataclass(frozen=True)
class Champion:
    """The champion: its name, out-of-fold scores, params.yaml values, and hashes by tag name."""

    name: str
    oof: pd.DataFrame
    params: Mapping[str, Any]
    provenance: Mapping[str, str]


def compare_with_champion(
    champion: Champion,
    results: RunResults,
    params: Mapping[str, Any],
    provenance: Mapping[str, str],
) -> dict[str, Any]:
    """Difference to the champion for the page. With other data: only name, changes and the reason
    in `absent`.
    """
    current = {section: params.get(section) for section in champion.params}
    hashes = {name: champion.provenance.get(name) for name in ("data_hash", "folds_hash")}
    changes = [
        *changed_values(flatten_params(champion.params), flatten_params(current)),
        *changed_values(hashes, provenance, set_only=True),
    ]
    settings = params["evaluate"]
    try:
        comparison = compare_oof(
            champion.oof,
            results.oof,
            (champion.name, "this run"),
            int(settings["replicates"]),
            int(settings["seed"]),
        )
    except InputError as error:
        return {"name": champion.name, "absent": str(error), "changes": changes}
    return {
        "name": champion.name,
        "absent": "",
        "pauc": comparison.a.pauc,
        "n": comparison.rows,
        "gain": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
        "verdict": comparison.verdict,
        "changes": changes,
    }
