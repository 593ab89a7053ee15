"""The model of time and money, against arithmetic done by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture
def capacity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(importlib.import_module("harness"), "RESULTS", tmp_path)
    return importlib.import_module("capacity")


def test_bounds_for_many_cores(capacity: ModuleType, tmp_path: Path) -> None:
    measured = {
        "one_node_lesions": 100_000,
        "one_node_ray_seconds": 180.0,
        "nodes_lesions": 1_000_000,
        "single_node_seconds": 360.0,
        "two_nodes_speedup": 1.6,
    }
    machine = {"cores": 2, "processor": "p"}
    result = {
        "name": "scale",
        "measured": measured,
        "machine": machine,
        "date": "2026-01-01T00:00:00",
    }
    (tmp_path / "scale.json").write_text(json.dumps(result))
    images, features = capacity.paces()
    assert (images.core_seconds, features.core_seconds) == (0.0036, 0.00036)
    # A thousand core-hours on 100 cores: 10 h at no loss, 12.5 h at the efficiency of two nodes,
    # and with a quarter serial (2 / 1.6 - 1) 250 h and the rest spread.
    best, worst = images.hours(10**9, 100)
    assert best == pytest.approx(12.5)
    assert worst == pytest.approx(257.5)
    assert images.hours(10**9, 1) == (1000.0, 1000.0)


def test_without_measurements_nothing_is_claimed(capacity: ModuleType) -> None:
    assert capacity.paces() == []


def test_times_are_said_as_people_do(capacity: ModuleType) -> None:
    assert [capacity.span(hours) for hours in (1 / 360, 0.5, 3.0, 100.0)] == [
        "10 s",
        "30 min",
        "3.0 h",
        "4.2 d",
    ]
