"""Stage `stack`: fit the stacker on features and out-of-fold image logits; write model and scores,
log fold runs.
"""

import sys

from isic.core.errors import run
from isic.core.io import write_parquet
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.robustness.leaks import describe_leaks, screen_leaks
from isic.stack.fit import fit_training_data
from isic.stack.inputs import read_training_data
from isic.tracking import open_run, parent
from isic.tracking.oof import log_oof


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    files = layout.stack_files(params.image.backbones, params.folds)
    data = read_training_data(files, params.stack)
    if leaks := screen_leaks(data):
        print(f"warning: {describe_leaks(leaks)}", file=sys.stderr)
    stack = fit_training_data(data, params.stack)
    # Results first: tracking may fail.
    stack.save(layout.stack_model)
    write_parquet(layout.oof, stack.oof)
    config = params.stack_config()
    pooled = {name: value for name, value in stack.metrics.items() if name != "folds"}
    for fold in stack.metrics["folds"]:
        index = fold["fold"]
        with open_run("stack", config, name=f"stack-fold{index}", fold=index) as tracker:
            tracker.metrics({name: fold[name] for name in ("pauc", "auc")})
            tracker.dataset(layout.train_metadata, "train")
    with parent("stack", config) as tracker:
        tracker.metrics(pooled)
        log_oof(tracker, layout.train_metadata, layout.oof, layout.stack_model)
    scores = f"pAUC {pooled['pauc']:.4f}, AUC {pooled['auc']:.4f}"
    print(f"stack: out-of-fold {scores} over {len(stack.oof)} lesions")


if __name__ == "__main__":
    run(main)
