"""Logits and embeddings of tiles by a trained network, the same in training and prediction."""

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
from isic.image.network.scores import ImageScores

#: Tiles per forward pass: enough to fill a GPU.
BATCH = 128
#: Largest finite float16.
_LARGEST = torch.finfo(torch.float16).max
#: With more tiles than this, every batch is filled up to `BATCH`. Products of another size sum in
#: another order, and the last bit of a score must not depend on the number of tiles scored with it:
#: a tree may turn it into a visible difference.
FEW = 16


class _Slot(NamedTuple):
    """Rows (n,) of one batch."""

    rows: NDArray[np.int64]


def scoring_origin(model: Model) -> dict[str, str]:
    """Number format and device of scores by `model` on this machine, to be stored with them.

    Scores of another format or device agree only within a tolerance.
    """
    precision = machine.scoring_precision(model.precision, machine.pick())
    return {"precision": precision, "device": (machine.describe_devices() or ["CPU"])[0]}


def embed(
    model: Path | Model, tiles: TileStore, ids: Sequence[str], workers: int | None = None
) -> ImageScores:
    """Logits and embeddings of `ids` by one fold's network. Memory does not grow with the number of
    tiles, except for the result.

    A GPU uses the number format of the model, a CPU float32. A tile with a score that is not finite
    in 16 bits is scored again in float32. Embeddings beyond float16 are clipped to ±65504. Raises
    InputError naming the id of a tile that is missing or broken, or without a finite score.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    device = machine.pick()
    names = np.asarray(ids, dtype=str)
    loaded.net.to(device)
    loaders = default_workers(device) if workers is None else workers
    precision = machine.scoring_precision(loaded.precision, device)
    fill = len(names) > FEW

    logits, embeddings = _score(loaded, tiles, names, loaders, device, precision, fill)
    broken = np.flatnonzero(~np.isfinite(logits))
    if len(broken) and precision != "fp32":
        again = _score(loaded, tiles, names[broken], loaders, device, "fp32", fill)
        logits[broken], embeddings[broken] = again

    if not np.isfinite(logits).all():
        raise InputError(
            f"the image model gives no finite score for {names[~np.isfinite(logits)][0]}:"
            " retrain it"
        )
    return ImageScores(logits, embeddings)


def _score(
    model: Model,
    tiles: TileStore,
    names: NDArray[np.str_],
    loaders: int,
    device: torch.device,
    precision: str,
    fill: bool,
) -> ImageScores:
    """Scores of `names` in one number format; `fill` fills every batch up to `BATCH`."""
    spec = model.spec
    scores = ImageScores(
        np.empty(len(names), dtype=np.float32),
        np.empty((len(names), spec.width), dtype=np.float16),
    )
    most = BATCH
    # Scores of a batch are fetched after the next batches are queued, so the GPU never waits for
    # the CPU.
    pending: deque[tuple[NDArray[np.int64], Fetched, Fetched]] = deque()

    def forward(batch: Batch[_Slot], start: int, most: int) -> tuple[Tensor, Tensor]:
        canvas, sizes = (
            machine.to_device(values[start : start + most], device)
            for values in (batch.canvas, batch.sizes)
        )
        levels = resize(canvas, sizes, spec.size, spec.interpolation)
        count = len(levels)
        if fill:
            levels = torch.cat([levels, levels[-1:].expand(most - count, -1, -1, -1)])
        pixels = normalise(levels, spec.mean, spec.std)
        with machine.autocast(precision, device):
            logits, embeddings = augmented_forward(model.net, pixels, model.tta)
        return logits[:count], embeddings[:count]

    def fetch() -> None:
        rows, logits, embeddings = pending.popleft()
        scores.logits[rows], scores.embeddings[rows] = logits.numpy(), embeddings.numpy()

    stream = batches(tiles, names, _slots(len(names)), loaders, device.type == "cuda", memory=0)
    with torch.inference_mode(), machine.exact_products():
        for batch in stream:
            parts, most = machine.split_until_it_fits(
                partial(forward, batch), len(batch.sizes), most
            )
            logits, embeddings = (torch.cat(values) for values in zip(*parts, strict=True))
            # A larger value would become infinite and spoil every product of its row. A clipped
            # value is still the most extreme one, and one odd tile does not end the run.
            halves = embeddings.float().clamp(-_LARGEST, _LARGEST).half()
            pending.append((batch.slot.rows, Fetched(logits.float()), Fetched(halves)))
            if len(pending) > 2:
                fetch()
        while pending:
            fetch()
    return scores


def augmented_forward(net: LesionNet, pixels: Tensor, tta: str) -> tuple[Tensor, Tensor]:
    """Mean over the flips of `tta`: logits (n,), embeddings (n, width)."""
    views = [(), (2,), (3,), (2, 3)] if tta == "flips" else [()]
    outputs = [net.logits_and_embeddings(pixels.flip(axes) if axes else pixels) for axes in views]
    logits, embeddings = (torch.stack(values) for values in zip(*outputs, strict=True))
    return logits.mean(0), embeddings.mean(0)


def _slots(count: int) -> Iterator[_Slot]:
    for start in range(0, count, BATCH):
        yield _Slot(np.arange(start, min(start + BATCH, count)))
