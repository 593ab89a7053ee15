"""What a trained network says about tiles: one logit and one embedding each, in training and prediction alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isic.core.errors import InputError
from isic.data.tiles import TileStore
from isic.image.network import device as machine
from isic.image.network.artifact import Model, load_model
from isic.image.network.backbone import LesionNet
from isic.image.network.loader import batches, default_workers
from isic.image.network.pixels import normalise, resize
from isic.image.training.augment import Augmenter
from isic.image.training.sampler import Slot

#: Tiles per forward pass: enough to fill a GPU.
BATCH = 128
#: Largest finite float16.
_LARGEST = torch.finfo(torch.float16).max
#: With more tiles than this every batch is filled up: products of other sizes sum in another order, and a tile's last
#: bit must not depend on how many others are scored with it (a tree may turn it into a visible difference).
FEW = 16


class Said(NamedTuple):
    """Logits float32 (n,) and embeddings float16 (n, width), in the order of the ids."""

    logits: NDArray[np.float32]
    embeddings: NDArray[np.float16]


def embed(model: Path | Model, tiles: TileStore, ids: Sequence[str], workers: int | None = None) -> Said:
    """Logits and embeddings of `ids` by one fold's network; memory does not grow with the tiles' pixels.

    Always in float32 (on a GPU with TF32 products), so that scores of a bf16 training box and of an older GPU agree.
    Embeddings beyond float16 are cut off at ±65504. Raises InputError naming the id of a tile that is missing or
    broken, or whose score is not finite.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    device = machine.pick()
    names = np.asarray(ids, dtype=str)
    net = loaded.net.to(device)
    logits = np.empty(len(names), dtype=np.float32)
    embeddings = np.empty((len(names), loaded.spec.width), dtype=np.float16)
    loaders = default_workers(device) if workers is None else workers
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else "highest")
    stream = batches(tiles, names, Augmenter("none", 0), _slots(len(names)), loaders, device.type == "cuda", memory=0)
    with torch.inference_mode():
        for batch in stream:
            pixels = resize(
                batch.canvas.to(device, non_blocking=True), batch.sizes, loaded.spec.size, loaded.spec.interpolation
            )
            count = len(pixels)
            if len(names) > FEW:
                pixels = torch.cat([pixels, pixels[-1:].expand(BATCH - count, -1, -1, -1)])
            said, described = _flipped(net, normalise(pixels, loaded.spec.mean, loaded.spec.std), loaded.tta)
            logits[batch.slot.rows] = said[:count].float().cpu().numpy()
            # A larger value would become infinite and spoil every product of its row. Cut off it is as far out as one
            # can be, and one odd tile stops no run; what is not finite here already gives no finite logit either.
            embeddings[batch.slot.rows] = described[:count].clamp(-_LARGEST, _LARGEST).half().cpu().numpy()
    if not np.isfinite(logits).all():
        raise InputError(f"the image model gives no finite score for {names[~np.isfinite(logits)][0]}: retrain it")
    return Said(logits, embeddings)


def _flipped(net: LesionNet, pixels: Tensor, tta: str) -> tuple[Tensor, Tensor]:
    """Mean over the flips of `tta`: logits (n,), embeddings (n, width)."""
    views = [(), (2,), (3,), (2, 3)] if tta == "flips" else [()]
    said = [net.describe(pixels.flip(axes) if axes else pixels) for axes in views]
    return torch.stack([one[0] for one in said]).mean(0), torch.stack([one[1] for one in said]).mean(0)


def _slots(count: int) -> Iterator[Slot]:
    for start in range(0, count, BATCH):
        rows = np.arange(start, min(start + BATCH, count))
        yield Slot(0, start // BATCH, rows, rows, len(rows), ends_step=True, ends_epoch=rows[-1] + 1 == count)
