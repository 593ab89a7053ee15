"""Ragged uint8 tiles to one normalised batch: the only resize of the project.

Training, embedding and prediction use the same pixels on every device: antialiased bicubic or
bilinear as in Pillow, in its integer arithmetic. A CPU uses torch's uint8 kernel. A GPU uses two
matrix products per axis with the filters of each tile, W(size, h) @ tile @ W(size, w).T for a tile
of h x w px, so tiles of all sizes take one call. Both give the same bits (tested).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Images = Sequence[NDArray[np.uint8]]

#: Radius of each filter in source pixels at scale 1.
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
#: Longest side whose filters are cached; tiles are 51 to 239 px wide.
_TABLE = 256
#: Most fraction bits of a weight in torch's kernel.
_MOST_BITS = 22


def pack(images: Images) -> tuple[Tensor, Tensor]:
    """Tiles in the upper left corners of one canvas, uint8 (n, side, side, 3), and their sizes,
    int64 (n, 2) as (height, width).

    The canvas outside a tile is undefined and never read.
    """
    side = max(max(image.shape[:2]) for image in images)
    canvas = torch.empty((len(images), side, side, 3), dtype=torch.uint8)
    view = canvas.numpy()
    for index, image in enumerate(images):
        view[index, : image.shape[0], : image.shape[1]] = image
    return canvas, torch.tensor([image.shape[:2] for image in images], dtype=torch.int64)


def resize(canvas: Tensor, sizes: Tensor, size: int, interpolation: str) -> Tensor:
    """uint8 (n, 3, size, size) from a packed canvas, on the canvas' device, channels last in
    memory.
    """
    kind = interpolation if interpolation in _SUPPORT else "bilinear"
    if canvas.device.type == "cpu":
        return _resize_each(canvas, sizes, size, kind)
    return resize_by_matrices(canvas, sizes, size, kind)


def _resize_each(canvas: Tensor, sizes: Tensor, size: int, kind: str) -> Tensor:
    out = torch.empty((len(canvas), size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    for index, (height, width) in enumerate(sizes.tolist()):
        tile = canvas[index, :height, :width].permute(2, 0, 1)[None]
        out[index] = functional.interpolate(tile, size=(size, size), mode=kind, antialias=True)[0]
    return out


def resize_by_matrices(canvas: Tensor, sizes: Tensor, size: int, kind: str) -> Tensor:
    """`resize` by batched products per axis, on any device and with the same bits."""
    side = canvas.shape[1]
    sizes = sizes.to(canvas.device, non_blocking=True)
    # The undefined canvas is multiplied by zero weights; uint8 has no NaN.
    tiles = canvas.permute(0, 3, 1, 2).float()
    # Columns first, and rounding to integers after each axis, as in Pillow and torch.
    weights, bits = _chosen(sizes[:, 1], size, side, kind)
    upper, lower = (torch.matmul(tiles, part.transpose(1, 2)[:, None]) for part in _halves(weights))
    narrow = _levels(upper, lower, bits)
    weights, bits = _chosen(sizes[:, 0], size, side, kind)
    upper, lower = (torch.matmul(part[:, None], narrow) for part in _halves(weights))
    wide = _levels(upper, lower, bits)
    return wide.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def _chosen(lengths: Tensor, size: int, side: int, kind: str) -> tuple[Tensor, Tensor]:
    """`_filters`, from the table if it has all lengths."""
    if side > _TABLE:
        return _filters(lengths, size, side, kind)
    weights, bits = _table(size, kind, lengths.device)
    return weights[lengths - 1, :, :side], bits[lengths - 1]


@lru_cache(maxsize=8)
def _table(size: int, kind: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Filters int16 (256, size, 256) and bits (256,) of lengths 1 to 256. Cached, because computing
    them takes as long as a resize.
    """
    with torch.inference_mode(False):
        weights, bits = _filters(torch.arange(1, _TABLE + 1, device=device), size, _TABLE, kind)
        return weights.to(torch.int16), bits


def _halves(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Upper part and lowest eight bits of integer weights, float32.

    Both need at most nine bits and a level needs eight. So products and their sums, below 2**24,
    are exact in float32 and in TF32 (ten bits), in any order of addition.
    """
    whole = weights.to(torch.int16)
    return (whole >> 8).float(), (whole & 255).float()


def _levels(upper: Tensor, lower: Tensor, bits: Tensor) -> Tensor:
    """Integer levels 0 to 255, float32, of sums of products with weights scaled by 2**bits."""
    bits = bits[:, None, None, None]
    sums = upper.to(torch.int32) * 256 + lower.to(torch.int32) + (1 << bits) // 2
    return (sums >> bits).clamp_(0, 255).float()


def _filters(lengths: Tensor, size: int, side: int, kind: str) -> tuple[Tensor, Tensor]:
    """Antialiasing filters (n, size, side), integers in float64, zero beyond each length; and bits
    int32 (n,).

    Rows sum to about 2**bits, with the most bits for which the largest weight of a tile fits 16
    bits. The formulas are those of torch's CPU kernel for uint8.
    """
    scale = (lengths.double() / size)[:, None, None]
    centre = (
        torch.arange(size, device=lengths.device, dtype=torch.float64)[None, :, None] + 0.5
    ) * scale
    source = torch.arange(side, device=lengths.device, dtype=torch.float64)[None, None, :]
    stretch = scale.clamp(min=1)
    reach = _SUPPORT[kind] * stretch
    first = (centre - reach + 0.5).floor().clamp(min=0)
    last = torch.minimum((centre + reach + 0.5).floor(), lengths[:, None, None].double())
    distance = ((source - centre + 0.5) * (1 / stretch)).abs()
    weight = _bicubic(distance) if kind == "bicubic" else (1 - distance).clamp(min=0)
    weight = weight * ((source >= first) & (source < last))
    weight = weight / weight.sum(-1, keepdim=True)
    # Count the bits for which the largest weight stays below 2**15.
    doubled = torch.exp2(
        torch.arange(1, _MOST_BITS + 1, device=lengths.device, dtype=torch.float64)
    )
    bits = ((weight.amax((1, 2))[:, None] * doubled + 0.5).floor() < 2**15).sum(
        1, dtype=torch.int32
    )
    whole = weight * torch.exp2(bits.double())[:, None, None]
    return torch.where(whole < 0, (whole - 0.5).ceil(), (whole + 0.5).floor()), bits


def _bicubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5, as in Pillow (Keys 1981,
    doi:10.1109/TASSP.1981.1163711).
    """
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def normalise(
    pixels: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """(levels / 255 - mean) / std per channel, as `dtype`, from uint8 (n, 3, h, w)."""
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), pixels.device)
    # In place: memory for a second copy of a batch costs as much as the arithmetic.
    if pixels.is_contiguous(memory_format=torch.channels_last):
        # As rows of pixels: a CPU is slow at broadcasting three numbers along the innermost axis.
        count, _, height, width = pixels.shape
        rows = pixels.permute(0, 2, 3, 1).reshape(count * height, width * 3).float()
        rows.mul_(scale.repeat(width)).add_(shift.repeat(width))
        return rows.view(count, height, width, 3).permute(0, 3, 1, 2).to(dtype)
    shape = (1, 3, 1, 1)
    return pixels.float().mul_(scale.view(shape)).add_(shift.view(shape)).to(dtype)


@lru_cache(maxsize=32)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Both (3,) float32 on the device. Cached, because a tensor made from numbers on a GPU waits
    for the GPU.
    """
    with torch.inference_mode(False):
        scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        return scale, torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
