"""Kinds 5 to 10: params.yaml, the MLflow store, append-only files and other files of a checkout."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.harness import Case


def cases() -> Iterator[Case]:
    yield from ()
