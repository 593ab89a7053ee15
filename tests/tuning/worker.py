"""One process of a shared search, started by test_tune: `python -m tests.tuning.worker FOLDER
TRIALS`.
"""

import sys
from pathlib import Path

from isic.stack.training_data import build_training_data
from isic.tuning.tune import tune
from tests.stack.population import make, settings

if __name__ == "__main__":
    folder, trials = Path(sys.argv[1]), int(sys.argv[2])
    chosen = settings()
    data = build_training_data(*make(), chosen.images, chosen.params.max_bin)

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    tune(data, chosen, "shared", folder, trials, seeds=1, say=say)
