"""Families fitted on training rows: levels of hospitals and locations, target rates, clusters.

A family is one module of `isic.tabular.families.fitted`. Its state is plain values, stored in the
model's JSON. The columns of a row depend on the state and that row alone; an unknown hospital,
location or sex takes a coarser level. `params.yaml: stack.fitted` selects families; the stacker
fits them on the training folds of each chain and stores them with that chain's models.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from isic.core.errors import InputError
from isic.tabular.registry import Feature

#: Columns by name, each (n,) float32.
FittedColumns = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class FittedFamily:
    """Fitted features that are switched on and off together.

    `fit(frame, target)` returns JSON-able values of the training rows; `apply(state, frame)` gives
    one value per row and feature. `frame` holds the official columns: a metadata frame, or features
    with family `raw`. A family that uses the target has `training(frame, target, patients)`: the
    columns of the training rows themselves, which must not depend on their own patient's labels;
    patients are numbered from 0.
    """

    name: str
    meaning: str
    features: tuple[Feature, ...]
    fit: Callable[[pd.DataFrame, NDArray[np.float64]], dict[str, Any]]
    apply: Callable[[Mapping[str, Any], pd.DataFrame], FittedColumns]
    training: (
        Callable[[pd.DataFrame, NDArray[np.float64], NDArray[np.int64]], FittedColumns] | None
    ) = None


@cache
def fitted_families() -> dict[str, FittedFamily]:
    """All fitted families by name, sorted."""
    from isic.tabular.families import fitted as package

    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return {module.FAMILY.name: module.FAMILY for module in modules}


@dataclass(frozen=True)
class Fitted:
    """The states of fitted families, {family: state}, JSON-able."""

    states: dict[str, dict[str, Any]]

    @classmethod
    def fit(cls, kinds: Sequence[str], frame: pd.DataFrame, target: ArrayLike) -> Fitted:
        """Fit the families `kinds` on training rows. InputError for an unknown family or a missing
        column.
        """
        known, labels = fitted_families(), np.asarray(target, dtype=np.float64)
        unknown = [name for name in kinds if name not in known]
        if unknown:
            raise InputError(
                f"unknown fitted features `{unknown[0]}` in stack.fitted: choose from"
                f" {', '.join(known)}"
            )
        return cls({name: kind.fit(frame, labels) for name, kind in known.items() if name in kinds})

    @property
    def names(self) -> dict[str, str]:
        """Column name → family, in the order of `columns`."""
        return {
            feature.name: name
            for name in self.states
            for feature in fitted_families()[name].features
        }

    def columns(self, frame: pd.DataFrame) -> FittedColumns:
        """The columns of rows that were not trained on. InputError names a missing column."""
        columns: FittedColumns = {}
        for name, state in self.states.items():
            columns |= fitted_families()[name].apply(state, frame)
        return columns

    def training_columns(
        self, frame: pd.DataFrame, target: ArrayLike, patients: ArrayLike
    ) -> FittedColumns:
        """The columns of the rows given to `fit`; none depends on its own patient's labels."""
        labels = np.asarray(target, dtype=np.float64)
        # Numbered in order of name, so that a row's columns do not depend on the order of the rows.
        codes = pd.factorize(np.asarray(patients), sort=True)[0].astype(np.int64)
        columns: FittedColumns = {}
        for name, state in self.states.items():
            kind = fitted_families()[name]
            columns |= (
                kind.training(frame, labels, codes) if kind.training else kind.apply(state, frame)
            )
        return columns
