"""Cost of an image network: parameters, GFLOPs and time for a lesion, size on disk."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from isic.image.network.artifact import WEIGHTS, load_model

#: Lesions at once, and rounds of which the median counts.
_BATCH, _ROUNDS = 16, 3


def network_cost(folder: Path) -> dict[str, float]:
    """Cost of the network in `folder` for one lesion, all flips of its test-time augmentation
    included.

    parameters: count. gflops: 10^9 floating-point operations, two to a multiply-add, as counted by
    torch's FlopCounterMode. milliseconds: on this machine's CPU. megabytes: of the weights.
    """
    model = load_model(folder)
    views = 4 if model.tta == "flips" else 1
    tile = torch.zeros(1, 3, model.spec.size, model.spec.size)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            model.net(tile)
        batch = tile.expand(_BATCH, -1, -1, -1)
        model.net(batch)  # the first pass allocates
        seconds = [_seconds(model.net, batch) for _ in range(_ROUNDS)]

    return {
        "parameters": float(sum(value.numel() for value in model.net.parameters())),
        "gflops": views * counter.get_total_flops() / 1e9,
        "milliseconds": views * 1000 * statistics.median(seconds) / _BATCH,
        "megabytes": (folder / WEIGHTS).stat().st_size / 2**20,
    }


def _seconds(net: torch.nn.Module, tiles: torch.Tensor) -> float:
    start = time.perf_counter()
    net(tiles)
    return time.perf_counter() - start
