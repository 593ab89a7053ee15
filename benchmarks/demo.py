"""The first ten minutes: wall seconds of the demo's commands as multiples of U, the seconds of
`python -c "import torch, lightgbm, mlflow"` on the same machine in the same run.

`python benchmarks/demo.py [--quick]`. Works in a fresh clone of this checkout's commit with the
packages of this interpreter, so set-up is not part of it. U is measured before and after each
command, and the ratio is to their mean: load on the machine changes both.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness

#: Most multiples of U; of `python -c pass` for `help`.
TARGETS = {"repro": 25, "demo": 20, "promote": 2, "submission": 1.3, "doctor": 1, "help": 12}
UNIT = ("-c", "import torch, lightgbm, mlflow")
VERBS = {
    "promote": ("-m", "isic", "promote"),
    "submission": ("-m", "isic", "submission"),
    "summary": ("-m", "isic", "summary"),
}
QUICK = {
    "data": {"sample": {"patients": 40, "lesions": 600, "positives": 30}},
    "folds": [0, 1],
    "image": {"backbones": {"__replace__": {"convnext": {"model": "demo_convnext"}}}},
}


def main() -> int:
    quick = harness.arguments(__doc__ or "").quick
    texts = {name: f"<= {most} U" for name, most in TARGETS.items()}
    texts["help"] = "<= 12 times `python -c pass`"

    def judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
        return {
            name: measured[name] <= most if name in measured else None
            for name, most in TARGETS.items()
        }

    return harness.run_parts("demo", {"demo": lambda: measure(quick)}, texts, judge, quick)


def measure(quick: bool) -> dict[str, Any]:
    """Seconds and multiples of every command, in a new clone."""
    with tempfile.TemporaryDirectory() as folder:
        run = Runner(_clone(Path(folder) / "isic", quick))
        run(UNIT, 2)  # fills the cache of the file system
        found: dict[str, Any] = {"pass_seconds": run(("-c", "pass"), 9)}
        found["load_before"] = round(os.getloadavg()[0], 1)
        found["help_seconds"] = run(("-m", "isic", "--help"), 9)
        found["help"] = round(found["help_seconds"] / found["pass_seconds"], 1)
        units = [run(UNIT)]

        def time_steps(run: Runner, steps: Mapping[str, Sequence[str]]) -> None:
            for name, words in steps.items():
                found[f"{name}_seconds"] = run(words)
                units.append(run(UNIT))
                found[name] = round(2 * found[f"{name}_seconds"] / (units[-2] + units[-1]), 2)

        time_steps(
            run, {"doctor": ("-m", "isic", "doctor"), "repro": ("-m", "dvc", "repro")} | VERBS
        )
        # The steps of `make demo`: the folds side by side, then the rest.
        beside = Runner(_clone(Path(folder) / "beside", quick))
        time_steps(
            beside, {"folds": ("-m", "isic.scale.local"), "after_folds": ("-m", "dvc", "repro")}
        )
        steps = ("folds", "after_folds", *VERBS)
        found["demo"] = round(sum(found[name] for name in steps), 2)
        return found | {"unit_seconds": statistics.median(units)}


def _clone(checkout: Path, quick: bool) -> Path:
    subprocess.run(["git", "clone", "-q", str(harness.ROOT), str(checkout)], check=True)
    if quick:
        from isic.core.presets import write_overlay

        write_overlay(checkout / "params.yaml", QUICK)
    return checkout


class Runner:
    """Runs `python WORDS` in a checkout and returns the median wall seconds."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        own = {"PYTHONPATH": str(checkout), "MLFLOW_DISABLE_TELEMETRY": "true"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        dropped = ("MLFLOW_", "DVC_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        self.environment = kept | own | {"PATH": path, "NO_ALBUMENTATIONS_UPDATE": "1"}

    def __call__(self, words: Sequence[str], rounds: int = 1) -> float:
        return round(statistics.median(self._seconds(words) for _ in range(rounds)), 3)

    def _seconds(self, words: Sequence[str]) -> float:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.checkout,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        # The doctor's status counts warnings, too.
        if done.returncode and "doctor" not in words:
            raise RuntimeError(f"{' '.join(words)} failed: {done.stderr[-2000:]}")
        return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
