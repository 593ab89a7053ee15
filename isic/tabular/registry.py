"""Feature families: their interface, and the list of all.

A module in `isic/tabular/families/lesion` or `…/patient` holds one `FAMILY` or several `FAMILIES`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import pandas as pd

from isic.core.errors import InputError

#: Removed families and the last version of isic that has them.
REMOVED = {"restated": "0.1.0"}


@dataclass(frozen=True)
class Feature:
    """One column: its name, how it is computed (official names without `tbp_lv_`), its meaning with
    its unit.
    """

    name: str
    formula: str
    meaning: str


@dataclass(frozen=True)
class Family:
    """Features that are switched on and off together.

    `build` maps a canonical frame (see `isic.tabular.canonical`) to the family's columns, one row
    per row. A family that is `relative` to other lesions gets the columns of every `measured`
    family in that frame too.
    """

    name: str
    meaning: str
    features: tuple[Feature, ...]
    build: Callable[[pd.DataFrame], pd.DataFrame]
    #: Compares lesions with the patient's others, so it needs the measured families first.
    relative: bool = False
    #: Its columns are measurements that relative families compare between lesions.
    measured: bool = False


@cache
def feature_families() -> dict[str, Family]:
    """All families by name: the lesion families, then the relative ones, each sorted by name."""
    from isic.tabular.families import patient

    families = [*lesion_families(), *_load(patient)]
    _refuse_duplicates(families)
    return {family.name: family for family in families}


@cache
def lesion_families() -> tuple[Family, ...]:
    """The families computed from a lesion's own row. Relative families use them at import."""
    from isic.tabular.families import lesion

    return tuple(_load(lesion))


def _load(package: ModuleType) -> list[Family]:
    families: list[Family] = []
    for entry in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{entry.name}")
        families += getattr(module, "FAMILIES", None) or [module.FAMILY]
    return sorted(families, key=lambda family: family.name)


def choose(names: Sequence[str] | None, key: str = "features.families") -> list[Family]:
    """The named families in registry order, each once; None means all.

    Raises InputError for an unknown or removed name; `key` is the key of params.yaml that holds the
    names.
    """
    known = feature_families()
    if names is None:
        return list(known.values())
    for name in names:
        if name in REMOVED:
            last = f"isic {REMOVED[name]} is the last version that reads it"
            raise InputError(f"feature family `{name}` in {key} was removed ({last}): take it out")
        if name not in known:
            raise InputError(
                f"unknown feature family `{name}` in {key}: choose from {', '.join(known)}"
            )
    return [family for name, family in known.items() if name in names]


def _refuse_duplicates(families: Sequence[Family]) -> None:
    owner: dict[str, str] = {}
    for family in families:
        for feature in family.features:
            if feature.name in owner:
                raise ValueError(
                    f"feature {feature.name} is in families {owner[feature.name]} and {family.name}"
                )
            owner[feature.name] = family.name
