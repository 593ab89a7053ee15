"""What tiles are painted with: periodic noise made once per process and cut at random, coordinates,
colour.

Images are planes (channel, row, column): sums over interleaved channels take numpy several times as
long.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

#: Field of view of a tile.
MM = 15.0
BANK_SIDE = 768
#: Band centres of the noise bank in pixels.
BANDS = (0.8, 1.6, 3.2, 6.4, 12.8)


@cache
def _bank() -> np.ndarray:
    """Noise fields (band, side, side), periodic, each of unit sd: differences of Gaussians of white
    noise.
    """
    rng = np.random.default_rng(20240627)
    fields = []
    for sigma in BANDS:
        white = rng.standard_normal((BANK_SIDE, BANK_SIDE)).astype(np.float32)
        field = _periodic_blur(white, sigma) - _periodic_blur(white, 2 * sigma)
        fields.append(field / field.std())
    return np.stack(fields)


def _periodic_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    pad = int(4 * sigma) + 1
    return cv2.GaussianBlur(np.pad(image, pad, mode="wrap"), (0, 0), sigma)[pad:-pad, pad:-pad]


@cache
def furrows() -> np.ndarray:
    """Fields (direction, side, side) of fine parallel creases, made like the bank with long
    kernels.
    """
    rng = np.random.default_rng(20240628)
    fields = []
    for turn in np.arange(8) * np.pi / 8:
        white = np.pad(
            rng.standard_normal((BANK_SIDE, BANK_SIDE)).astype(np.float32), 24, mode="wrap"
        )
        field = cv2.filter2D(white, -1, _crease(turn))[24:-24, 24:-24]
        fields.append(field / field.std())
    return np.stack(fields)


def _crease(turn: float) -> np.ndarray:
    """A kernel 1 px wide and 5 px long (sd) minus its wider self, turned by an angle."""
    axis = np.arange(-16, 17, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    narrow, wide = (
        np.exp(-0.5 * ((along / 5) ** 2 + (across / width) ** 2)) for width in (1.0, 2.0)
    )
    return (narrow / narrow.sum() - wide / wide.sum()).astype(np.float32)


@cache
def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Millimetres right of and below the centre, for each pixel."""
    axis = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5) * MM
    return np.meshgrid(axis, axis)


def noise(rng: np.random.Generator, band: int, height: int, width: int) -> np.ndarray:
    """A random cut of one band (height, width), float32. A view: not to be written to."""
    room = BANK_SIDE - max(height, width)
    # One number at a time: numpy checks the size of an array of two for longer than it takes to
    # draw them.
    top, left, flips = int(rng.integers(0, room)), int(rng.integers(0, room)), int(rng.integers(4))
    cut = _bank()[band, top : top + height, left : left + width]
    return cut[:: 1 - 2 * (flips & 1), :: 1 - (flips & 2)]


def near(side: int, across: float, down: float, reach: float) -> tuple[slice, slice]:
    """The pixels within `reach` millimetres of a point, as row and column slices."""
    scale = side / MM
    left, right = (across - reach) * scale + side / 2, (across + reach) * scale + side / 2
    top, bottom = (down - reach) * scale + side / 2, (down + reach) * scale + side / 2
    return (
        slice(min(max(int(top), 0), side - 1), min(max(int(bottom) + 1, 1), side)),
        slice(min(max(int(left), 0), side - 1), min(max(int(right) + 1, 1), side)),
    )


def tint(planes: np.ndarray, amount: np.ndarray, colour: Sequence[float] | np.ndarray) -> None:
    """Add `amount` (row, column) of a colour to `planes` (channel, row, column), in place."""
    for plane, value in zip(planes, colour, strict=True):
        plane += amount * np.float32(value)
