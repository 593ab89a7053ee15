"""One big network over the GPUs of several nodes: Ray Train starts the processes, the Fabric loop is the usual one.

Better is one fold per GPU. This is for networks or batches that do not fit one machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isic.core.params import load_params
from isic.core.paths import Layout
from isic.scale.resources import Resources

#: Times the workers are started again, from the last saved state, after one is lost.
_AGAIN = 3


def train_multi_node(root: Path, backbone: str, fold: int, workers: int, resources: Resources) -> str:
    """Train one fold in the checkout at `root` by `workers` processes; returns "" or the line of what is wrong.

    Expects a connection to Ray and a checkout that all nodes see.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    per_worker = {"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})}
    trainer = TorchTrainer(
        _work,
        train_loop_config={"root": str(root), "backbone": backbone, "fold": fold},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=resources.gpus > 0, resources_per_worker=per_worker, placement_strategy="PACK"
        ),
        run_config=RunConfig(
            name=f"{backbone}-{fold}",
            storage_path=str(root / ".resume" / "ray" / "train"),
            failure_config=FailureConfig(max_failures=_AGAIN),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        return " ".join(str(error).split())[-300:]
    return ""


def _work(config: dict[str, Any]) -> None:
    """What each of the processes does."""
    from ray.train import get_context

    from isic.core.tracker import NullTracker
    from isic.image.training.fold import train_in
    from isic.image.training.parallel import enter
    from isic.scale.estimate import outlook
    from isic.tracking import open_run

    rank, size = get_context().get_world_rank(), get_context().get_world_size()
    layout, backbone, fold = Layout(Path(config["root"])), str(config["backbone"]), int(config["fold"])
    params = load_params(layout.params)
    world = enter(rank, size)
    if rank > 0:
        train_in(layout, params, backbone, fold, NullTracker(), world)
        return
    recipe = params.image_config(backbone)
    with open_run(f"train_image-{backbone}", recipe, f"{backbone}-{fold}", fold, layout.root) as tracker:
        train_in(layout, params, backbone, fold, tracker, world, outlook(layout, backbone, fold))
