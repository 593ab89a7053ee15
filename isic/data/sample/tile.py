"""One tile from its record: skin, other spots, the lesion and its signs, hair, light, blur, JPEG.

Painting happens in CIE L*a*b* on float32, in the lesion's window only where that is enough.
"""

from __future__ import annotations

import cv2
import numpy as np

from isic.data.sample.lesion import paint_halo, paint_lesion, paint_signs
from isic.data.sample.looks import SIGNS
from isic.data.sample.noise import BANDS, BANK_SIDE, MM, furrows, grid, near, noise, tint

#: Weight of each band in skin, in units of the column of lightness spread; and of its redness and
#: brownness in a*, b*. Set so that band energies of generated and real tiles agree (medians over
#: 1,500 benign tiles).
_GRAIN = np.array([0.58, 0.50, 0.47, 0.40, 0.34])
_TINT = (0.6, 0.55, 0.65, 0.7, 0.6)
#: Where a hair's polyline bends, from its root (0) to its tip (1).
_ALONG = np.linspace(0, 1, 7)[:, None]
#: Real tiles are JPEG of quality 75 with halved chroma (all 500 looked at).
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 75]


def render(rng: np.random.Generator, look: np.void) -> np.ndarray:
    """The tile of one record (`looks.RECORD`) as uint8 RGB (side, side, 3)."""
    side = int(look["side"])
    signs = dict(zip(SIGNS, look["signs"].tolist(), strict=True))
    lab = _skin(rng, look, side)
    _spots(rng, lab, look, side)
    if signs["halo"]:
        paint_halo(rng, lab, look)
    paint_lesion(rng, lab, look)
    if any(signs.values()):
        paint_signs(rng, lab, look, signs)
    _light(rng, lab, side)
    _hairs(rng, lab, look, side)
    if signs["ink"]:
        _ink(rng, lab, look, side)
    image = cv2.merge(list(lab))
    if look["blur"] > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(look["blur"]))
    image = cv2.cvtColor(image, cv2.COLOR_LAB2RGB)
    if rng.random() < 0.012:
        _bar(rng, image, side)
    image *= 255
    return np.rint(image, out=image).astype(np.uint8)


def encode(image: np.ndarray) -> bytes:
    """JPEG bytes of a uint8 RGB image, as the real tiles are stored."""
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _QUALITY)[1].tobytes()


def _skin(rng: np.random.Generator, look: np.void, side: int) -> np.ndarray:
    """Base colour with grain, creases, mottling and freckles, float32 Lab (3, side, side)."""
    lab = np.empty((3, side, side), dtype=np.float32)
    lab[:] = look["skin"][:, None, None]
    light, red, brown = lab
    grain, part = np.empty_like(light), np.empty_like(light)
    weights = float(look["texture"]) * _GRAIN * np.exp(rng.normal(0, 0.25, len(BANDS)))
    warmth = np.exp(rng.normal(0, 0.25, 2))
    for band, weight in enumerate(weights):
        light += np.multiply(noise(rng, band, side, side), np.float32(weight), out=grain)
        # Darker mottling is redder; most of the colour varies by itself.
        red += np.multiply(
            noise(rng, band, side, side), np.float32(_TINT[band] * warmth[0]), out=part
        )
        red -= np.multiply(grain, np.float32(0.15), out=part)
        brown += np.multiply(
            noise(rng, band, side, side), np.float32(_TINT[band] * warmth[1]), out=part
        )
    creases = float(look["creases"])
    if creases > 0.1:
        field = furrows()[int(look["grain_turn"])]
        top, left = rng.integers(0, BANK_SIDE - side, 2)
        light += np.multiply(
            field[top : top + side, left : left + side], np.float32(creases), out=part
        )
    if look["freckles"] > 0.4:
        tint(lab, _freckles(rng, float(look["freckles"]), side), (-2.4, 1.0, 1.5))
    return lab


def _freckles(rng: np.random.Generator, amount: float, side: int) -> np.ndarray:
    """Sun damage: irregular brown mottling all over the tile."""
    field = (
        0.8 * noise(rng, 4, side, side)
        + 0.9 * noise(rng, 3, side, side)
        + 0.5 * noise(rng, 2, side, side)
    )
    return np.maximum(field - 0.4, 0) * np.float32(amount)


def _spots(rng: np.random.Generator, lab: np.ndarray, look: np.void, side: int) -> None:
    """Other lesions of the patient in view, fainter and smaller than the one in the middle."""
    x, y = grid(side)
    for _ in range(min(int(rng.poisson(float(look["neighbours"]))), 6)):
        across, down = rng.uniform(-7.5, 7.5, 2)
        if across * across + down * down < (0.7 * look["long_mm"] + 1.0) ** 2:
            continue
        radius = rng.uniform(0.3, 0.9)
        window = near(side, across, down, 1.6 * radius)
        reach = ((x[window] - across) ** 2 + (y[window] - down) ** 2) / np.float32(radius**2)
        height, width = reach.shape
        mask = np.clip(1.3 - reach + 0.5 * noise(rng, 3, height, width), 0, 1)
        tint(lab[:, *window], mask, look["contrast"] * np.float32(rng.uniform(0.3, 0.9)))


def _light(rng: np.random.Generator, lab: np.ndarray, side: int) -> None:
    """Shading over the curve of the body."""
    x, y = grid(side)
    slope = rng.normal(0, 0.28, 2).astype(np.float32)
    lab[0] += slope[0] * x + slope[1] * y
    if rng.random() < 0.06:
        # The edge of a limb: skin falls away into shadow.
        turn = rng.uniform(0, 6.283)
        depth = (
            x * np.float32(np.cos(turn))
            + y * np.float32(np.sin(turn))
            - np.float32(rng.uniform(3.5, 7))
        )
        lab[0] -= np.clip(depth, 0, 4) * np.float32(rng.uniform(4, 14))


def _hairs(rng: np.random.Generator, lab: np.ndarray, look: np.void, side: int) -> None:
    count = int(rng.poisson(float(look["hair"])))
    if count == 0:
        return
    main = rng.uniform(0, np.pi)
    starts, turns, bends, shades = np.empty((count, 2)), np.empty((count, 2)), np.empty(count), []
    for hair in range(count):
        starts[hair] = rng.uniform(-0.2, 1.2), rng.uniform(-0.2, 1.2)
        turns[hair] = main + rng.normal(0, 0.7), rng.uniform(0.2, 0.9)
        bends[hair] = rng.normal(0, 0.25)
        shades.append(int(rng.integers(70, 230)))
    angle, length = turns.T
    headings = np.stack([np.cos(angle), np.sin(angle)], axis=1) * length[:, None]
    sideways = np.stack([-headings[:, 1], headings[:, 0]], axis=1) * bends[:, None]
    points = (
        starts[:, None] + headings[:, None] * _ALONG + sideways[:, None] * 4 * _ALONG * (1 - _ALONG)
    )
    lines = np.rint(points * side * 8).astype(np.int32)
    canvas = np.zeros((side, side), dtype=np.uint8)
    for line, shade in zip(lines, shades, strict=True):
        cv2.polylines(canvas, [line], False, shade, 1, cv2.LINE_AA, 3)
    cover = np.float32(0.8) * (canvas.astype(np.float32) * np.float32(1 / 255))
    _cover(lab, cover, (min(0.45 * float(look["skin"][0]), 28), 5, 7))


def _cover(lab: np.ndarray, cover: np.ndarray, colour: tuple[float, float, float]) -> None:
    """Lay a colour over the image, as opaque as `cover` (side, side) says, 0 to 1."""
    for plane, value in zip(lab, colour, strict=True):
        plane += cover * (np.float32(value) - plane)


def _ink(rng: np.random.Generator, lab: np.ndarray, look: np.void, side: int) -> None:
    """A surgeon's violet pen around the lesion or beside it."""
    canvas = np.zeros((side, side), dtype=np.uint8)
    radius = (0.5 * float(look["long_mm"]) + rng.uniform(0.8, 2.5)) * side / MM
    middle = side / 2 + rng.normal(0, 0.08 * side, 2)
    axes = (round(radius), round(radius * rng.uniform(0.6, 1)))
    first = rng.uniform(0, 360)
    centre = (round(middle[0]), round(middle[1]))
    cv2.ellipse(
        canvas,
        centre,
        axes,
        rng.uniform(0, 180),
        first,
        first + rng.uniform(60, 360),
        220,
        max(2, side // 45),
        cv2.LINE_AA,
    )
    cover = canvas.astype(np.float32) / 255 * np.clip(0.7 + 0.4 * noise(rng, 2, side, side), 0, 1)
    _cover(lab, cover, (32, 14, -22))


def _bar(rng: np.random.Generator, rgb: np.ndarray, side: int) -> None:
    """Black where the tile leaves the picture it was cut from."""
    width = int(rng.uniform(0.05, 0.3) * side)
    rgb = np.rot90(rgb, int(rng.integers(4)))
    rgb[:, :width] = 0
