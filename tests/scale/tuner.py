"""One worker of a study with a cheap objective: `python -m tests.scale.tuner FOLDER TRIALS
SECONDS`.
"""

import sys
import time
from pathlib import Path

import optuna

from isic.core.errors import run
from isic.tuning.study import join_study


def main() -> None:
    folder, trials, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -5, 5)
        print(f"at {trial.number}", flush=True)
        for step in range(4):
            time.sleep(seconds / 4)
            trial.report(-(x**2), step)
        return -(x**2)

    with join_study("shared", folder, {"x": 4.5}) as worker:
        worker.run(objective, trials)


if __name__ == "__main__":
    run(main)
