"""`make tune`: search the stacker's parameters. Any number of processes can work on one study at a
time.
"""

import argparse
from typing import Any

from isic.core.errors import InputError, run
from isic.core.io import sha256_json
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.core.presets import write_overlay
from isic.stack.inputs import fingerprint, read_training_data
from isic.tracking import open_run, parent
from isic.tuning.limits import size_limit
from isic.tuning.record import record_study
from isic.tuning.search import HALFWAY_REPORTS
from isic.tuning.tune import tune


def study_name(config: dict[str, Any]) -> str:
    """The study of this configuration. `stack.images` counts as `stack.evidence`, so that older
    studies continue.
    """
    stack = {
        ("evidence" if key == "images" else key): value for key, value in config["stack"].items()
    }
    return f"stack-{sha256_json([config | {'stack': stack}, HALFWAY_REPORTS])[:8]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--trials",
        type=int,
        default=200,
        help="finished trials of the study, over all processes",
    )
    trials = parser.parse_args().trials
    if trials < 1:
        raise InputError(f"--trials is {trials}: give 1 or more")
    layout = Layout.find()
    params = load_params(layout.params)
    current = params.stack
    files = layout.stack_files(params.image.backbones, params.folds)
    data = read_training_data(files, current)
    # Trials with other inputs, current values or pruning steps are not comparable: they form
    # another study.
    inputs = fingerprint(files, current.images)
    config = {"stack": current.model_dump(mode="json"), "inputs": inputs}
    name, folder = study_name(config), layout.root / "optuna"
    print(
        f"study {name}: up to {trials} trials; Ctrl-C keeps the finished trials, the same command"
        " resumes",
        flush=True,
    )
    try:
        result = tune(
            data,
            current,
            name,
            folder,
            trials,
            lambda n: open_run("tune", config, f"trial-{n}", trial=n),
            print,
            limit=size_limit(layout.bundle, params.gate.max_growth),
        )
    except KeyboardInterrupt:
        with parent("tune", config) as tracker:
            record_study(tracker, name, folder)
        raise
    with parent("tune", config) as tracker:
        record_study(tracker, name, folder, result)
    if result is not None:
        print(result.line)
        print(
            write_overlay(layout.params, {"stack": result.change}) if result.change else "", end=""
        )
        print(result.advice(trials))


if __name__ == "__main__":
    run(main)
