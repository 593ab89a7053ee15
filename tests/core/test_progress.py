"""Step lines: order, count and time left, by a clock of the test's own."""

from __future__ import annotations

import pytest

from isic.core.progress import StepProgress


def test_steps_are_announced_with_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    progress = StepProgress("demo", {"read": 1, "fit": 3, "write": 0.5}, lambda: now[0])
    progress.start("read")
    now[0] += 10
    progress.start("fit")
    now[0] += 590
    progress.start("write")
    assert capsys.readouterr().err.splitlines() == [
        "demo: read (1 of 3)",
        "demo: fit (2 of 3), about 35 s left",
        "demo: write (3 of 3), about 75 s left",
    ]


def test_minutes_and_an_unknown_step(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = StepProgress("long", {"a": 1, "b": 9}, lambda: now[0])
    now[0] = 60.0
    progress.start("b")
    assert "about 9 min left" in capsys.readouterr().err
    with pytest.raises(ValueError, match="c"):
        progress.start("c")
