"""The cores of a machine are divided by the training processes on it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from isic.image.network import loader
from isic.image.training import train
from isic.image.training.parallel import join_cluster


class FakeFabric:
    """Process 3 of a group, on a GPU."""

    global_rank = 3
    device = torch.device("cuda")

    def __init__(self, **options: object) -> None:
        self.options = options

    def launch(self) -> None:
        pass


def test_on_several_nodes_a_process_loads_tiles_with_its_share_of_its_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lightning_fabric = pytest.importorskip("lightning_fabric")
    monkeypatch.setattr(lightning_fabric, "Fabric", FakeFabric)
    for name in ("WORLD_SIZE", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")
    group = join_cluster(rank=3, size=8, local_size=2)
    assert (group.rank, group.size, group.local_size) == (3, 8, 2)

    workers = []

    def record(_tiles: object, _ids: object, _slots: object, count: int, *_: object) -> Any:
        workers.append(count)
        return iter(())

    monkeypatch.setattr(train, "batches", record)
    monkeypatch.setattr(loader, "cores", lambda: 17)
    recipe = SimpleNamespace(augment="none", epochs=1)
    run: Any = SimpleNamespace(
        recipe=recipe,
        sampling=SimpleNamespace(seed=0),
        slots=lambda: iter(()),
        progress=SimpleNamespace(epoch=0, micro=0),
        device=group.device,
        processes=group,
    )
    job: Any = SimpleNamespace(limits=SimpleNamespace(workers=None), ids=[])
    tiles: Any = None
    assert not list(train._steps(run, job, tiles, train.Clock(0, 0)))
    assert workers == [8], "(17 - 1) // 2: of the 8 processes, 2 run on this node"
