"""The lesion of a tile, the redness around it, and the signs of malignancy that no column tells."""

from __future__ import annotations

import numpy as np

from isic.data.sample.noise import MM, grid, near, noise, tint


def paint_halo(rng: np.random.Generator, lab: np.ndarray, look: np.void) -> None:
    """Redness around the lesion, without an edge; the measured outline is only its core."""
    side = lab.shape[1]
    radius = float(look["halo_mm"])
    window = near(side, 0, 0, min(1.6 * radius, 7.5))
    x, y = (axis[window] for axis in grid(side))
    shift = rng.normal(0, 0.25 * radius, 2).astype(np.float32)
    stretch = np.float32(rng.uniform(0.6, 1.0))
    height, width = x.shape
    reach = ((x - shift[0]) ** 2 * stretch + (y - shift[1]) ** 2) / np.float32(radius * radius)
    reach += 0.35 * noise(rng, 4, height, width) + 0.2 * noise(rng, 3, height, width)
    glow = np.clip(1.15 - reach, 0, 1)
    tint(lab[:, *window], glow, [-rng.uniform(0, 6), rng.uniform(3, 9), -rng.uniform(0, 4)])


def paint_lesion(rng: np.random.Generator, lab: np.ndarray, look: np.void) -> None:
    """The lesion itself, painted inside its window."""
    side = lab.shape[1]
    a, b = max(float(look["long_mm"]) / 2, 0.4), max(float(look["short_mm"]) / 2, 0.3)
    window = near(side, 0, 0, min(1.5 * a + 0.6, 7.5))
    x, y = (axis[window] for axis in grid(side))
    cos, sin = np.float32(np.cos(look["angle"])), np.float32(np.sin(look["angle"]))
    along, across = x * cos + y * sin, y * cos - x * sin
    # An asymmetric lesion bulges to one side.
    across = across + np.float32(0.5 * look["asymmetry"] / a) * (
        along * along - np.float32(a * a / 3)
    )
    height, width = x.shape
    rough = noise(rng, 4 if a * side / MM > 22 else 3, height, width)
    fine = noise(rng, 2, height, width)
    edge = np.float32(look["border"])
    reach = np.sqrt((along / np.float32(a)) ** 2 + (across / np.float32(b)) ** 2)
    reach += edge * (0.30 * rough + 0.16 * fine)
    soft = np.float32(rng.uniform(0.35, 1.0))
    mask = np.clip((1 - reach) / soft + 0.5, 0, 1)
    mask *= mask * (3 - 2 * mask)
    paint = lab[:, *window]
    profile = mask * (1.08 - 0.25 * np.minimum(reach, 1) ** 2)
    tint(paint, profile, look["contrast"])
    _pigment(rng, paint, look, mask, reach, rough)


def _pigment(
    rng: np.random.Generator,
    paint: np.ndarray,
    look: np.void,
    mask: np.ndarray,
    reach: np.ndarray,
    rough: np.ndarray,
) -> None:
    """Spread of lightness and colour inside, as the columns say."""
    height, width = mask.shape
    mottle = 0.7 * rough + 0.6 * noise(rng, 2, height, width)
    paint[0] += mask * mottle * np.float32(0.6 * look["spread_l"])
    spread = np.float32(0.8 * look["spread_ab"])
    paint[1] += mask * noise(rng, 3, height, width) * spread
    paint[2] += mask * (noise(rng, 3, height, width) + mottle) * (0.7 * spread)
    ring = (
        np.cos(np.float32(np.pi) * reach + np.float32(rng.uniform(0, 6.3)))
        * mask
        * np.float32(0.8 * look["rings"])
    )
    paint[2] += ring
    paint[0] += ring


def paint_signs(
    rng: np.random.Generator, lab: np.ndarray, look: np.void, signs: dict[str, bool]
) -> None:
    """What only the image tells, over the lesion or, where it has one, over its red surroundings."""
    radius = max(
        0.5 * float(look["long_mm"]), 0.5, 0.75 * float(look["halo_mm"]) if signs["halo"] else 0.0
    )
    window = near(lab.shape[1], 0, 0, min(1.3 * radius, 7.5))
    x, y = (axis[window] / np.float32(radius) for axis in grid(lab.shape[1]))
    inside = (x, y)
    height, width = x.shape
    mask = np.clip(2 * (1 - np.sqrt(x * x + y * y)) + 0.3 * noise(rng, 3, height, width), 0, 1)
    paint = lab[:, *window]
    if signs["dark_blots"]:
        for _ in range(int(rng.integers(2, 5))):
            blot = _blot(rng, inside, 0.18, 0.4) * mask
            paint[0] -= np.float32(rng.uniform(5, 14)) * blot
            paint[2] -= np.float32(rng.uniform(2, 7)) * blot
    if signs["veil"]:
        veil = _blot(rng, inside, 0.4, 0.7) * mask
        tint(paint, veil, [rng.uniform(-4, 4), -5, -9])
    if signs["scale"]:
        flakes = (
            np.clip(noise(rng, 1, height, width) + 0.5 * noise(rng, 2, height, width) - 1.0, 0, 1.2)
            * mask
        )
        tint(paint, flakes, [rng.uniform(14, 30), -4, rng.uniform(-6, 3)])
    if signs["vessels"]:
        lines = np.exp(-((noise(rng, 3, height, width) / np.float32(0.22)) ** 2)) * mask
        tint(paint, lines, [-5, rng.uniform(5, 10), -2])
        shine = np.clip(noise(rng, 0, height, width) - 2.2, 0, 1) * mask
        paint[0] += 25 * shine
    if signs["ulcer"]:
        sore = _blot(rng, inside, 0.25, 0.5)
        tint(paint, sore, [-14, 12, -2])
        paint[0] -= 12 * np.clip(noise(rng, 2, height, width), 0, 1) * sore


def _blot(
    rng: np.random.Generator, inside: tuple[np.ndarray, np.ndarray], least: float, most: float
) -> np.ndarray:
    """A soft disc somewhere in the lesion; coordinates are relative to its axes."""
    turn, away = rng.uniform(0, 6.283), rng.uniform(0.1, 0.65)
    radius = rng.uniform(least, most)
    distance = (inside[0] - np.float32(away * np.cos(turn))) ** 2 + (
        inside[1] - np.float32(away * np.sin(turn))
    ) ** 2
    return np.clip(1.4 - distance / np.float32(radius * radius), 0, 1)
