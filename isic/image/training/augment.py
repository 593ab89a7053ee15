"""Augmentation in uint8 at the tile's own resolution, random by (seed, epoch, position).

albumentations 2.0.8 draws the same transforms in every epoch and worker (#266 and #272 of its
successor, never fixed under the MIT licence), so its generators are replaced before every tile. Its
import takes 2.4 s; `none` and `flips` do not import it.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.image.training.rng import AUGMENT, python_stream, stream
from isic.image.training.sampler import Slot

Tile = NDArray[np.uint8]
PRESETS = ("none", "flips", "light", "medium", "heavy")

#: Flips and quarter turns of a square: a lesion has no orientation.
_ORIENTATIONS = 8


class Augmenter:
    """Applies a preset to tiles; picklable for loader processes.

    Raises InputError if the preset needs albumentations and it is not installed.
    """

    def __init__(self, preset: str, seed: int) -> None:
        if preset not in PRESETS:
            raise ValueError(f"augment preset {preset!r}: one of {PRESETS}")
        if preset in _TRANSFORMS and importlib.util.find_spec("albumentations") is None:
            raise InputError(
                f"image.train.augment `{preset}` needs albumentations 2.0.8: pip install it, or set"
                " flips or none"
            )
        self.preset = preset
        self.seed = seed
        self._compose: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"preset": self.preset, "seed": self.seed, "_compose": None}

    def __call__(self, tile: Tile, epoch: int, position: int) -> Tile:
        """The tile as shown at `position` of `epoch`: uint8 (h, w, 3), sides possibly swapped."""
        if self.preset == "none":
            return tile
        key = (AUGMENT, self.seed, epoch, position)
        random = stream(*key)
        tile = orient(tile, int(random.integers(_ORIENTATIONS)))
        if self.preset == "flips":
            return tile
        if self._compose is None:
            self._compose = _compose(self.preset)
        self._compose.set_random_state(random, python_stream(*key))
        return self._compose(image=np.ascontiguousarray(tile))["image"]

    def augment_slot(self, tiles: Sequence[Tile], slot: Slot) -> list[Tile]:
        """The tiles of one micro-batch as shown in training."""
        return [
            self(tile, slot.epoch, position)
            for tile, position in zip(tiles, slot.position.tolist(), strict=True)
        ]


def orient(tile: Tile, orientation: int) -> Tile:
    """One of the eight flips and quarter turns of a tile (0: the tile itself).

    By OpenCV: numpy takes five times as long to copy pixels of three bytes in another order.
    """
    if orientation & 4:
        tile = np.asarray(cv2.transpose(tile), dtype=np.uint8)
    axis = _FLIPS.get(orientation & 3)
    return tile if axis is None else np.asarray(cv2.flip(tile, axis), dtype=np.uint8)


#: OpenCV's code of a flip: 0 reverses rows, 1 columns, -1 both.
_FLIPS = {1: 1, 2: 0, 3: -1}


def _compose(preset: str) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no request at import
    import albumentations

    # Loader processes already use all cores.
    cv2.setNumThreads(0)
    return albumentations.Compose(_TRANSFORMS[preset](albumentations))


def _light(a: Any) -> list[Any]:
    return [
        a.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1, p=0.5),
        a.HueSaturationValue(hue_shift_limit=5, sat_shift_limit=10, val_shift_limit=5, p=0.3),
        _affine(a, 0.05, 0.1, 15, p=0.5),
    ]


def _medium(a: Any) -> list[Any]:
    return [
        a.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.75),
        a.HueSaturationValue(hue_shift_limit=10, sat_shift_limit=20, val_shift_limit=10, p=0.5),
        a.OneOf([a.GaussianBlur(blur_limit=(3, 5)), a.GaussNoise(std_range=(0.01, 0.03))], p=0.3),
        a.ImageCompression(quality_range=(60, 100), p=0.25),
        _affine(a, 0.1, 0.15, 45, p=0.75),
        _hole(a, 0.25, p=0.5),
    ]


def _heavy(a: Any) -> list[Any]:
    """The list of the SIIM-2020 winners' published code; its flips and transpose are done before.

    Borders are mirrored, where the original fills what a warp brings in with black: no real tile
    has black areas.
    """
    blur = [
        a.MotionBlur(blur_limit=5),
        a.MedianBlur(blur_limit=5),
        a.GaussianBlur(blur_limit=(3, 5)),
        a.GaussNoise(std_range=_NOISE),
    ]
    mirrored = {"border_mode": cv2.BORDER_REFLECT_101}
    warp = [
        a.OpticalDistortion(distort_limit=1.0, **mirrored),
        a.GridDistortion(num_steps=5, distort_limit=1.0, **mirrored),
        _elastic_transform(a, alpha=3.0, sigma=50.0),
    ]
    return [
        a.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.0, p=0.75),
        a.RandomBrightnessContrast(brightness_limit=0.0, contrast_limit=0.2, p=0.75),
        a.OneOf(blur, p=0.7),
        a.OneOf(warp, p=0.7),
        a.CLAHE(clip_limit=4.0, p=0.7),
        a.HueSaturationValue(hue_shift_limit=10, sat_shift_limit=20, val_shift_limit=10, p=0.5),
        _affine(a, 0.1, 0.1, 15, p=0.85, zooms=1),
        _hole(a, 0.375, p=0.7),
    ]


#: Standard deviation of the SIIM list's noise, whose variance is 5 to 30 in levels of 255.
_NOISE = (math.sqrt(5) / 255, math.sqrt(30) / 255)


_TRANSFORMS: dict[str, Callable[[Any], list[Any]]] = {
    "light": _light,
    "medium": _medium,
    "heavy": _heavy,
}


def _affine(
    a: Any, shift: float, zoom: float, degrees: float, p: float, zooms: Literal[1, 2] = 2
) -> Any:
    class Move(a.ImageOnlyTransform):
        """Shift, zoom and rotation with the distributions of albumentations' Affine, in less than
        half its time. `zooms`: one factor for both axes, or one each.
        """

        def get_params(self) -> dict[str, Any]:
            return {"drawn": self.random_generator.uniform(-1, 1, 3 + zooms)}

        def apply(self, img: Tile, drawn: NDArray[np.float64], **_: Any) -> Tile:
            factors = np.broadcast_to(1 + drawn[2:-1] * zoom, 2)
            return move(img, drawn[:2] * shift, factors, float(drawn[-1]) * degrees)

    return Move(p=p)


def move(tile: Tile, shift: NDArray[np.float64], zoom: NDArray[np.float64], degrees: float) -> Tile:
    """The tile zoomed and rotated about its centre, then shifted by shares of its width and height;
    borders are mirrored.

    `shift` and `zoom` are (x, y); positive degrees rotate clockwise.
    """
    size = np.array(tile.shape[1::-1], dtype=np.float64)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    linear = np.array([[cos, -sin], [sin, cos]]) * zoom
    centre = (size - 1) / 2
    matrix = np.column_stack([linear, centre + shift * size - linear @ centre])
    moved = cv2.warpAffine(
        tile,
        matrix,
        (tile.shape[1], tile.shape[0]),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(moved, dtype=np.uint8)


def _hole(a: Any, side: float, p: float) -> Any:
    return a.CoarseDropout(
        num_holes_range=(1, 1), hole_height_range=(side, side), hole_width_range=(side, side), p=p
    )


def _elastic_transform(a: Any, alpha: float, sigma: float) -> Any:
    class Elastic(a.ImageOnlyTransform):
        """Elastic distortion with the displacements of albumentations' ElasticTransform, in a
        twentieth of its time.
        """

        def get_params(self) -> dict[str, Any]:
            return {
                "noise": (
                    self.random_generator.uniform(-1, 1, (2, _COARSE, _COARSE)).astype(np.float32)
                )
            }

        def apply(self, img: Tile, noise: NDArray[np.float32], **_: Any) -> Tile:
            return bend(img, noise, alpha, sigma)

    return Elastic()


#: Side of the coarse grid of displacements.
_COARSE = 32


def bend(tile: Tile, noise: NDArray[np.float32], alpha: float, sigma: float) -> Tile:
    """The tile distorted by smooth random displacements (Simard et al. 2003): `alpha` times white
    noise blurred by `sigma`.

    `noise` (2, k, k) in [-1, 1] lies on a grid over the tile: a blur of 50 px removes finer detail.
    After the blur, noise on a grid of c px has c times the sd of noise at every pixel, hence the
    division.
    """
    height, width = tile.shape[:2]
    cell = max(height, width) / _COARSE
    blurred = [cv2.GaussianBlur(axis, (0, 0), sigma / cell) * (alpha / cell) for axis in noise]
    across, down = (cv2.resize(axis, (width, height)) for axis in blurred)
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    )
    return cv2.remap(
        tile, columns + across, rows + down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
