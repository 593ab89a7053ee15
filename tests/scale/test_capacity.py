"""The estimate of time and cost, against values computed by hand."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT


@pytest.fixture
def capacity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(importlib.import_module("harness"), "RESULTS", tmp_path)
    return importlib.import_module("capacity")


def test_bounds_for_many_cores(
    capacity: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured: dict[str, float] = {
        "one_node_lesions": 100_000,
        "one_node_ray_seconds": 180.0,
        "nodes_lesions": 1_000_000,
        "single_node_seconds": 360.0,
        "two_nodes_speedup": 1.6,
    }
    machine = {"cores": 2, "processor": "p"}
    result: dict[str, Any] = {
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

    monkeypatch.setattr(sys, "argv", ["capacity.py"])
    capacity.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "Ray |" in line]
    # 100,000 lesions by the features alone take 36 core-seconds, which is 0.01 core-hours.
    assert rows[1][:3] == ["| 100,000", "features alone, on Ray", "0.01"]
    assert len(rows) == 10

    result["measured"]["single_node_seconds"] = 36.0
    (tmp_path / "scale.json").write_text(json.dumps(result))
    capacity.main()
    shown = capsys.readouterr().out
    assert " 0.00 " not in shown
    assert shown.count("Ray |") == 9


def test_without_measurements_nothing_is_claimed(capacity: ModuleType) -> None:
    assert capacity.paces() == []


def test_times_are_said_as_people_do(capacity: ModuleType) -> None:
    assert [capacity.span(hours) for hours in (1 / 360, 0.5, 3.0, 100.0)] == [
        "10 s",
        "30 min",
        "3.0 h",
        "4.2 d",
    ]
