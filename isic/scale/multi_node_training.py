"""Train one network on the GPUs of several nodes. Ray Train starts the processes; the training loop
is the one of a single machine.

For networks or batches that do not fit one machine; otherwise one fold per GPU is faster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isic.core.params import load_params
from isic.core.paths import Layout
from isic.scale.resources import Resources

#: Restarts of the workers from the last saved state, each after a lost worker.
_MAX_RESTARTS = 3


def train_multi_node(
    root: Path, backbone: str, fold: int, processes: int, resources: Resources
) -> str:
    """Train one fold in the checkout at `root` with `processes` processes; returns "" or a one-line
    error.

    Expects a connection to Ray, and the checkout at the same path on all nodes.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    per_worker = {"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})}
    trainer = TorchTrainer(
        _train_process,
        train_loop_config={"root": str(root), "backbone": backbone, "fold": fold},
        scaling_config=ScalingConfig(
            num_workers=processes,
            use_gpu=resources.gpus > 0,
            resources_per_worker=per_worker,
            placement_strategy="PACK",
        ),
        run_config=RunConfig(
            name=f"{backbone}-{fold}",
            storage_path=str(root / ".resume" / "ray" / "train"),
            failure_config=FailureConfig(max_failures=_MAX_RESTARTS),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        return " ".join(str(error).split())[-300:]
    return ""


def _train_process(config: dict[str, Any]) -> None:
    """Training in one of the processes."""
    from ray.train import get_context

    from isic.core.tracker import NullTracker
    from isic.image.training.fold import train_files
    from isic.image.training.parallel import join_cluster
    from isic.scale.estimate import count_lesions, estimate_time
    from isic.tracking import open_run
    from isic.tracking.oof import log_network

    context = get_context()
    rank = context.get_world_rank()
    layout, backbone, fold = (
        Layout(Path(config["root"])),
        str(config["backbone"]),
        int(config["fold"]),
    )
    params = load_params(layout.params)
    files = layout.train_files(backbone, fold, params.data.archive)
    group = join_cluster(rank, context.get_world_size(), context.get_local_world_size())
    if rank > 0:
        train_files(files, params.image, backbone, fold, NullTracker(), group)
        return
    models = layout.image_models(params.image.backbones, params.folds)
    counts = count_lesions(layout.folds, params.data)
    estimate = estimate_time(params.image, models, counts, backbone, fold)
    config = params.image_config(backbone)
    with open_run(
        f"train_image-{backbone}", config, f"{backbone}-{fold}", fold, layout.root
    ) as tracker:
        train_files(files, params.image, backbone, fold, tracker, group, estimate)
        log_network(tracker, f"{backbone}-{fold}", layout.image_model(backbone, fold))
        tracker.dataset(layout.train_metadata, "train")
        tracker.dataset(layout.train_images, "train")
