"""From ragged uint8 tiles to one normalised batch: the only resize of the project.

Training, embedding and prediction see the same pixels: antialiased bicubic or bilinear as in Pillow, rounded to whole
levels. On the CPU torch's own uint8 kernel does it; on a GPU two matrix products per batch, whose matrices hold the
filter of each tile (a tile of h rows is W(size, h) @ tile @ W(size, w).T), so that tiles of any size go in one call.
Both agree with Pillow within a level or two (tested).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Images = Sequence[NDArray[np.uint8]]

#: Reach of each filter in source pixels at scale 1.
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


def pack(images: Images) -> tuple[Tensor, Tensor]:
    """Tiles in the corner of one canvas: uint8 (n, side, side, 3) and sizes int64 (n, 2) as (height, width).

    What lies outside a tile is undefined and never read.
    """
    side = max(max(image.shape[:2]) for image in images)
    canvas = torch.empty((len(images), side, side, 3), dtype=torch.uint8)
    view = canvas.numpy()
    for number, image in enumerate(images):
        view[number, : image.shape[0], : image.shape[1]] = image
    return canvas, torch.tensor([image.shape[:2] for image in images], dtype=torch.int64)


def resize(canvas: Tensor, sizes: Tensor, size: int, interpolation: str) -> Tensor:
    """uint8 (n, 3, size, size) from a packed canvas, on the canvas' device, channels last in memory."""
    kind = interpolation if interpolation in _SUPPORT else "bilinear"
    if canvas.device.type == "cpu":
        return _resize_each(canvas, sizes, size, kind)
    return resize_by_matrices(canvas, sizes, size, kind)


def _resize_each(canvas: Tensor, sizes: Tensor, size: int, kind: str) -> Tensor:
    out = torch.empty((len(canvas), size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    for number, (height, width) in enumerate(sizes.tolist()):
        tile = canvas[number, :height, :width].permute(2, 0, 1)[None]
        out[number] = functional.interpolate(tile, size=(size, size), mode=kind, antialias=True)[0]
    return out


def resize_by_matrices(canvas: Tensor, sizes: Tensor, size: int, kind: str) -> Tensor:
    """The same for any device: one batched product per axis."""
    side = canvas.shape[1]
    sizes = sizes.to(canvas.device)
    rows = _filters(sizes[:, 0], size, side, kind)
    columns = _filters(sizes[:, 1], size, side, kind)
    # Undefined canvas is multiplied by zero weights; as uint8 it cannot hold a NaN that would survive that.
    tiles = canvas.permute(0, 3, 1, 2).float()
    # Columns first and whole levels after each axis, as Pillow does it.
    narrow = torch.matmul(tiles, columns.transpose(1, 2)[:, None]).round_().clamp_(0, 255)
    wide = torch.matmul(rows[:, None], narrow).round_().clamp_(0, 255)
    return wide.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def _filters(lengths: Tensor, size: int, side: int, kind: str) -> Tensor:
    """Antialiasing filters (n, size, side) float32, rows sum to 1, zero beyond each length."""
    scale = (lengths.float() / size)[:, None, None]
    centre = (torch.arange(size, device=lengths.device)[None, :, None] + 0.5) * scale
    source = torch.arange(side, device=lengths.device)[None, None, :]
    distance = ((source + 0.5 - centre) / scale.clamp(min=1)).abs()
    weight = _bicubic(distance) if kind == "bicubic" else (1 - distance).clamp(min=0)
    weight = weight * (source < lengths[:, None, None])
    return weight / weight.sum(-1, keepdim=True)


def _bicubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5, as in Pillow (Keys 1981, doi:10.1109/TASSP.1981.1163711)."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def normalise(
    pixels: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """(levels / 255 - mean) / std per channel, as `dtype`, from uint8 (n, 3, h, w)."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=pixels.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=pixels.device)
    # In place: fresh pages for a second copy of a batch cost as much as the arithmetic.
    if pixels.is_contiguous(memory_format=torch.channels_last):
        # As rows of pixels: to repeat three numbers along the innermost axis is the slow way for a CPU.
        count, _, height, width = pixels.shape
        rows = pixels.permute(0, 2, 3, 1).reshape(count * height, width * 3).float()
        rows.mul_(scale.repeat(width)).add_(shift.repeat(width))
        return rows.view(count, height, width, 3).permute(0, 3, 1, 2).to(dtype)
    shape = (1, 3, 1, 1)
    return pixels.float().mul_(scale.view(shape)).add_(shift.view(shape)).to(dtype)
