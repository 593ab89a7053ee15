"""Gradient-boosting libraries behind one interface; each is imported at first use."""

from __future__ import annotations

import importlib
from typing import Any

from isic.core.errors import InputError
from isic.stack.members.base import EarlyStopping, Library, MemberTask, Pool, log_odds

__all__ = ["EarlyStopping", "Library", "MemberTask", "Pool", "library", "log_odds"]

_HOMES = {"lightgbm": "lightgbm_", "xgboost": "xgboost_", "catboost": "catboost_"}


def library(name: str) -> Library:
    """The library called `name`. Raises InputError when it is unknown or not installed."""
    if name not in _HOMES:
        raise InputError(
            f"unknown member `{name}` in stack.members: choose from {', '.join(_HOMES)}"
        )
    try:
        module: Any = importlib.import_module(f"isic.stack.members.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed, and stack.members names it: pip install {name}"
        ) from error
    loaded: Library = module.LIBRARY
    return loaded
