"""Out-of-fold scores in MLflow: those of the stacker, and a model per fold and a pooled value of
each image network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isic.core.io import sha256, sha256_json
from isic.core.tracker import OOF, Tracker
from isic.tracking.tracker import open_run, parent

#: Tags by which a registered bundle finds the runs that made it.
STACK_HASH, WEIGHTS_HASH = "stack_hash", "weights_hash"
WEIGHTS = "model.safetensors"


def log_oof(tracker: Tracker, metadata: Path, oof: Path, model: Path) -> None:
    """Log the stacker's out-of-fold scores and the table it was trained on; `isic compare` reads
    the scores. `model` is the stacker's folder, whose hash is a tag.
    """
    files = [path for path in model.rglob("*") if path.is_file()]
    if files:
        hashes = {path.relative_to(model).as_posix(): sha256(path) for path in files}
        tracker.tags({STACK_HASH: sha256_json(hashes)})
    tracker.artifact(oof, "oof")
    tracker.dataset(metadata, "train")
    tracker.dataset(oof, OOF)


def log_network(tracker: Tracker, name: str, folder: Path) -> None:
    """Log the network in `folder` as a model of the run; its weights stay in `folder`."""
    tags = {WEIGHTS_HASH: sha256(folder / WEIGHTS), "path": "/".join(folder.parts[-4:])}
    tracker.tags({WEIGHTS_HASH: tags[WEIGHTS_HASH]})
    tracker.model(name, [folder / "config.json", folder / "history.csv"], tags)


def log_scores(
    backbone: str,
    config: Mapping[str, Any],
    models: Mapping[int, Path],
    oof: Path,
    scores: Mapping[int | None, Mapping[str, float]],
    root: Path | None = None,
) -> None:
    """Add the out-of-fold scores of a backbone to the runs of its folds and to their parent.

    models: fold -> folder of its network. oof: folder of the logits. scores: fold -> metrics, None
    for the pooled ones. Runs of networks that were trained elsewhere are created.
    """
    family = f"train_image-{backbone}"
    for fold, folder in models.items():
        name = f"{backbone}-{fold}"
        with open_run(family, config, name, fold, root, attach=True) as tracker:
            log_network(tracker, name, folder)
            tracker.dataset(oof / f"fold{fold}.parquet", OOF)
            tracker.metrics(scores.get(fold, {}))
    with parent(family, config, root) as tracker:
        tracker.metrics(scores[None])
        tracker.dataset(oof, OOF)


def scalar_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """The scalar values of `metrics`, for MLflow; None and nested values are left out."""
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
