"""One tile from its record: skin, other spots, the lesion and its signs, hair, light, blur, JPEG.

Painting happens in CIE L*a*b* on float32, in the lesion's window only where that is enough.
"""

from __future__ import annotations

import cv2
import numpy as np

from isic.data.sample.lesion import paint_halo, paint_lesion, paint_signs
from isic.data.sample.looks import SIGNS
from isic.data.sample.noise import BANDS, BANK_SIDE, MM, furrows, grid, near, noise

#: Weight of each band in skin, in units of the column of lightness spread; and of its redness and brownness in a*, b*.
#: Set so that band energies of generated and real tiles agree (medians over 1,500 benign tiles).
_GRAIN = np.array([0.58, 0.50, 0.47, 0.40, 0.34])
_TINT = (0.6, 0.55, 0.65, 0.7, 0.6)
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
    if look["blur"] > 0.3:
        lab = cv2.GaussianBlur(lab, (0, 0), float(look["blur"]))
    rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    if rng.random() < 0.012:
        _bar(rng, rgb, side)
    return np.rint(rgb * 255).astype(np.uint8)


def encode(image: np.ndarray) -> bytes:
    """JPEG bytes of a uint8 RGB image, as the real tiles are stored."""
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _QUALITY)[1].tobytes()


def _skin(rng: np.random.Generator, look: np.void, side: int) -> np.ndarray:
    """Base colour with grain, creases, mottling and freckles, float32 Lab (side, side, 3)."""
    # Plane by plane: on interleaved channels the same sums take twice the time.
    light, red, brown = (np.full((side, side), value, dtype=np.float32) for value in look["skin"])
    weights = float(look["texture"]) * _GRAIN * np.exp(rng.normal(0, 0.25, len(BANDS)))
    tint = np.exp(rng.normal(0, 0.25, 2))
    for band, weight in enumerate(weights):
        grain = noise(rng, band, side, side) * np.float32(weight)
        light += grain
        # Darker mottling is redder; most of the colour varies by itself.
        red += noise(rng, band, side, side) * np.float32(_TINT[band] * tint[0])
        red -= grain * np.float32(0.15)
        brown += noise(rng, band, side, side) * np.float32(_TINT[band] * tint[1])
    creases = float(look["creases"])
    if creases > 0.1:
        field = furrows()[int(look["grain_turn"])]
        top, left = rng.integers(0, BANK_SIDE - side, 2)
        light += field[top : top + side, left : left + side] * np.float32(creases)
    if look["freckles"] > 0.4:
        spots = _freckles(rng, float(look["freckles"]), side)
        light -= 2.4 * spots
        red += 1.0 * spots
        brown += 1.5 * spots
    return cv2.merge([light, red, brown])


def _freckles(rng: np.random.Generator, amount: float, side: int) -> np.ndarray:
    """Sun damage: irregular brown mottling all over the tile."""
    field = 0.8 * noise(rng, 4, side, side) + 0.9 * noise(rng, 3, side, side) + 0.5 * noise(rng, 2, side, side)
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
        lab[window] += mask[..., None] * (look["contrast"] * np.float32(rng.uniform(0.3, 0.9)))


def _light(rng: np.random.Generator, lab: np.ndarray, side: int) -> None:
    """Shading over the curve of the body."""
    x, y = grid(side)
    slope = rng.normal(0, 0.28, 2).astype(np.float32)
    lab[..., 0] += slope[0] * x + slope[1] * y
    if rng.random() < 0.06:
        # The edge of a limb: skin falls away into shadow.
        turn = rng.uniform(0, 6.283)
        depth = x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn)) - np.float32(rng.uniform(3.5, 7))
        lab[..., 0] -= np.clip(depth, 0, 4) * np.float32(rng.uniform(4, 14))


def _hairs(rng: np.random.Generator, lab: np.ndarray, look: np.void, side: int) -> None:
    count = int(rng.poisson(float(look["hair"])))
    if count == 0:
        return
    canvas = np.zeros((side, side), dtype=np.uint8)
    steps = np.linspace(0, 1, 7)[:, None]
    main = rng.uniform(0, np.pi)
    for _ in range(count):
        start = rng.uniform(-0.2, 1.2, 2)
        turn = main + rng.normal(0, 0.7)
        heading = np.array([np.cos(turn), np.sin(turn)]) * rng.uniform(0.2, 0.9)
        bend = np.array([-heading[1], heading[0]]) * rng.normal(0, 0.25)
        points = (start + heading * steps + bend * 4 * steps * (1 - steps)) * side
        shade = int(rng.integers(70, 230))
        cv2.polylines(canvas, [np.rint(points * 8).astype(np.int32)], False, shade, 1, cv2.LINE_AA, 3)
    cover = canvas.astype(np.float32) * np.float32(1 / 255)
    colour = np.array([min(0.45 * float(look["skin"][0]), 28), 5, 7], dtype=np.float32)
    lab += (0.8 * cover)[..., None] * (colour - lab)


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
    lab += cover[..., None] * (np.array([32, 14, -22], dtype=np.float32) - lab)


def _bar(rng: np.random.Generator, rgb: np.ndarray, side: int) -> None:
    """Black where the tile leaves the picture it was cut from."""
    width = int(rng.uniform(0.05, 0.3) * side)
    rgb = np.rot90(rgb, int(rng.integers(4)))
    rgb[:, :width] = 0
