"""What a trained network says about tiles: one logit and one embedding each, in training and
prediction alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
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
from isic.image.network.device import Fetched
from isic.image.network.loader import Batch, batches, default_workers
from isic.image.network.pixels import normalise, resize
from isic.image.training.augment import Augmenter
from isic.image.training.sampler import Slot

#: Tiles per forward pass: enough to fill a GPU.
BATCH = 128
#: Largest finite float16.
_LARGEST = torch.finfo(torch.float16).max
#: With more tiles than this every batch is filled up: products of other sizes sum in another order,
#: and a tile's last bit must not depend on how many others are scored with it (a tree may turn it
#: into a visible difference).
FEW = 16


class Said(NamedTuple):
    """Logits float32 (n,) and embeddings float16 (n, width), in the order of the ids; in which
    format, on what.
    """

    logits: NDArray[np.float32]
    embeddings: NDArray[np.float16]
    precision: str = "fp32"
    device: str = "CPU"

    @property
    def origin(self) -> dict[str, str]:
        """Number format and device, to be kept with the logits: others agree with these only so
        far.
        """
        return {"precision": self.precision, "device": self.device}


def embed(
    model: Path | Model, tiles: TileStore, ids: Sequence[str], workers: int | None = None
) -> Said:
    """Logits and embeddings of `ids` by one fold's network; memory does not grow with the tiles'
    pixels.

    In the model's own number format on a GPU, in float32 on a CPU. A tile whose score is not finite
    in 16 bits gets that of float32. Embeddings beyond float16 are cut off at ±65504. Raises
    InputError naming the id of a tile that is missing or broken, or whose score is not finite.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    device = machine.pick()
    names = np.asarray(ids, dtype=str)
    loaded.net.to(device)
    loaders = default_workers(device) if workers is None else workers
    precision = machine.scoring_precision(loaded.precision, device)
    logits, embeddings = _described(
        loaded, tiles, names, loaders, device, precision, len(names) > FEW
    )
    broken = np.flatnonzero(~np.isfinite(logits))
    if len(broken) and precision != "fp32":
        again = _described(loaded, tiles, names[broken], loaders, device, "fp32", len(names) > FEW)
        logits[broken], embeddings[broken] = again
    if not np.isfinite(logits).all():
        raise InputError(
            f"the image model gives no finite score for {names[~np.isfinite(logits)][0]}:"
            " retrain it"
        )
    return Said(logits, embeddings, precision, (machine.describe_devices() or ["CPU"])[0])


def _described(
    model: Model,
    tiles: TileStore,
    names: NDArray[np.str_],
    loaders: int,
    device: torch.device,
    precision: str,
    fill: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """Logits and embeddings of `names` in one number format; `fill` fills every batch up."""
    spec = model.spec
    logits = np.empty(len(names), dtype=np.float32)
    embeddings = np.empty((len(names), spec.width), dtype=np.float16)
    most = BATCH
    # The numbers of a batch are fetched when the next ones are queued, so that a GPU does not wait
    # for the CPU.
    coming: deque[tuple[NDArray[np.int64], Fetched, Fetched]] = deque()

    def forward(batch: Batch, start: int, most: int) -> tuple[Tensor, Tensor]:
        canvas, sizes = (
            machine.to_device(one[start : start + most], device)
            for one in (batch.canvas, batch.sizes)
        )
        levels = resize(canvas, sizes, spec.size, spec.interpolation)
        count = len(levels)
        if fill:
            levels = torch.cat([levels, levels[-1:].expand(most - count, -1, -1, -1)])
        pixels = normalise(levels, spec.mean, spec.std)
        with machine.autocast(precision, device):
            said, described = _flipped(model.net, pixels, model.tta)
        return said[:count], described[:count]

    def arrive() -> None:
        rows, said, described = coming.popleft()
        logits[rows], embeddings[rows] = said.numpy(), described.numpy()

    stream = batches(
        tiles,
        names,
        Augmenter("none", 0),
        _slots(len(names)),
        loaders,
        device.type == "cuda",
        memory=0,
    )
    with torch.inference_mode(), machine.exact_products():
        for batch in stream:
            parts, most = machine.split_until_it_fits(
                partial(forward, batch), len(batch.sizes), most
            )
            said, described = (torch.cat(values) for values in zip(*parts, strict=True))
            # A larger value would become infinite and spoil every product of its row. Cut off it is
            # as far out as one can be, and one odd tile stops no run; what is not finite here
            # already gives no finite logit either.
            halves = described.float().clamp(-_LARGEST, _LARGEST).half()
            coming.append((batch.slot.rows, Fetched(said.float()), Fetched(halves)))
            if len(coming) > 2:
                arrive()
        while coming:
            arrive()
    return logits, embeddings


def _flipped(net: LesionNet, pixels: Tensor, tta: str) -> tuple[Tensor, Tensor]:
    """Mean over the flips of `tta`: logits (n,), embeddings (n, width)."""
    views = [(), (2,), (3,), (2, 3)] if tta == "flips" else [()]
    said = [net.describe(pixels.flip(axes) if axes else pixels) for axes in views]
    return torch.stack([one[0] for one in said]).mean(0), torch.stack(
        [one[1] for one in said]
    ).mean(0)


def _slots(count: int) -> Iterator[Slot]:
    for start in range(0, count, BATCH):
        rows = np.arange(start, min(start + BATCH, count))
        yield Slot(
            0,
            start // BATCH,
            rows,
            rows,
            len(rows),
            ends_step=True,
            ends_epoch=rows[-1] + 1 == count,
        )
