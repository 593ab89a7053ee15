"""Configurations of two runs (parameters, features, data, folds) and their differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunConfig:
    """`params`: values of params.yaml by dotted key; `hashes`: data_hash and folds_hash."""

    params: Mapping[str, Any]
    hashes: Mapping[str, str]


def list_changes(a: RunConfig, b: RunConfig) -> list[dict[str, str]]:
    """{key, before, after} of each difference, in the sections and hashes that both runs have."""
    shared = {_section(key) for key in a.params} & {_section(key) for key in b.params}
    first, second = (
        {key: value for key, value in side.params.items() if _section(key) in shared}
        for side in (a, b)
    )
    known = {name for name in a.hashes if a.hashes[name] and b.hashes.get(name)}
    hashes = changed_values(
        {name: a.hashes[name] for name in sorted(known)},
        {name: b.hashes[name] for name in sorted(known)},
    )
    return [*changed_values(first, second), *hashes]


def changes_text(changes: list[dict[str, str]], names: tuple[str, str]) -> str:
    """The changes for a terminal, one per line; of a changed list only the entries added or
    removed.
    """
    if not changes:
        return "same parameters, features, data and folds"
    width = max(len(change["key"]) for change in changes)
    lines = [f"differences ({names[0]} → {names[1]}):"]
    lines += [f"  {change['key']:<{width}}  {_change(change)}" for change in changes]
    return "\n".join(lines)


def _change(change: Mapping[str, str]) -> str:
    before, after = (change[side].split(", ") for side in ("before", "after"))
    if max(len(before), len(after)) == 1:
        return f"{change['before']} → {change['after']}"
    return ", ".join(_entries(before, after)) or "the same entries in another order"


def _entries(before: list[str], after: list[str]) -> Iterator[str]:
    yield from (f"+{entry}" for entry in after if entry not in before)
    yield from (f"-{entry}" for entry in before if entry not in after)


def _section(key: str) -> str:
    return key.split(".")[0]


def flatten_params(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        flattened |= (
            flatten_params(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )
    return flattened


def changed_values(
    before: Mapping[str, Any], after: Mapping[str, Any], set_only: bool = False
) -> list[dict[str, str]]:
    """{key, before, after} of each value that differs; with `set_only`, only keys with a value in
    `before`.
    """
    keys = (
        [key for key in before if before[key]]
        if set_only
        else [*before, *(key for key in after if key not in before)]
    )
    return [
        {"key": key, "before": _format(before.get(key)), "after": _format(after.get(key))}
        for key in keys
        if _format(before.get(key)) != _format(after.get(key))
    ]


def _format(value: Any) -> str:
    if value is None:
        return "–"
    text = (", ".join(map(str, value)) or "none") if isinstance(value, list | tuple) else str(value)
    # The first characters identify a hash.
    return f"{text[:12]}…" if len(text) == 64 and " " not in text else text
