"""The whole campaign and the kills on one finished checkout: nothing is counted but its inputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.cases import all_cases
from tests.pipeline import call


@pytest.fixture(scope="module")
def promoted(done: Path) -> Path:
    """A checkout with a champion."""
    call(done, "isic", "promote")
    return done


def _run(module: str, root: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    finished = subprocess.run(
        [sys.executable, "-m", f"tests.faults.{module}", *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    print(finished.stdout.splitlines()[-1])
    return json.loads(finished.stdout.splitlines()[-1]), finished.stdout


def test_there_are_enough_inputs() -> None:
    cases = all_cases()
    assert len(cases) >= 250
    assert {case.kind for case in cases} >= {1, 2, 3, 4, 5, 6, 7, 8}


@pytest.mark.slow
def test_no_input_ends_in_a_traceback_an_abort_a_hang_or_a_wrong_success(
    root: Path, promoted: Path
) -> None:
    counts, text = _run("campaign", root, str(promoted))
    assert counts["inputs"] >= 250
    faults = {name: counts[name] for name in counts if name not in ("inputs", "seconds")}
    assert set(faults.values()) == {0}, text


@pytest.mark.slow
def test_what_was_killed_and_repeated_ends_as_if_it_was_not(root: Path, promoted: Path) -> None:
    counts, text = _run("kills", root, str(promoted), "63")
    assert counts["differing"] == 0, text
