"""Licences of the pictures that trained a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from isic.core.io import read_json

#: Key of an image fold's config.json with the pictures that only trained: see `TrainOnly`.
_KEY = "train_only"


def train_only_sources(networks: Mapping[str, Mapping[int, Path]]) -> list[dict[str, Any]]:
    """The sources of all networks (backbone -> fold -> folder), each once with the most pictures
    that a network trained on, and `backbones`. Older networks have none.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for backbone, folds in networks.items():
        for folder in folds.values():
            config = folder / "config.json"
            for entry in read_json(config).get(_KEY, []) if config.is_file() else []:
                kept = found.setdefault(
                    (entry["source"], entry["use"]), entry | {"backbones": [], "licences": []}
                )
                kept["backbones"] = sorted({*kept["backbones"], backbone})
                kept["licences"] = sorted({*kept["licences"], *entry["licences"]})
                for name in ("pictures", "malignant", "left_out_for_patients"):
                    kept[name] = max(kept[name], entry[name])
    return list(found.values())


def all_licences(own: Iterable[str], sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """The licences of the challenge's lesions (`own`) and of the sources, each once."""
    return sorted({*own, *(name for source in sources for name in source["licences"])})


def model_licence(licences: Sequence[str]) -> str:
    """Licence of a model in Hugging Face's names, by those of its pictures; none: the code's."""
    if any(forbids_sale(name) for name in licences):
        return "cc-by-nc-4.0"
    if not licences:
        return "mit"
    known = all(name.upper().startswith("CC") for name in licences)
    return "cc-by-4.0" if known else "other"


def forbids_sale(licence: str) -> bool:
    """Whether a licence excludes commercial use (CC BY-NC, and its kin)."""
    return "NC" in licence.upper().replace(" ", "-").split("-")


def licence_sentence(licences: Sequence[str]) -> str:
    """What follows for the weights."""
    if not licences:
        return "Trained on generated pictures alone."
    shown = ", ".join(licences)
    kind = model_licence(licences)
    if kind == "cc-by-nc-4.0":
        return f"Trained on pictures under {shown}: not for commercial use."
    if kind == "other":
        return f"Trained on pictures under {shown}: find out what that allows before use."
    return f"Trained on pictures under {shown}."
