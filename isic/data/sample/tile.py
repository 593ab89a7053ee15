"""One tile from its record: skin, other spots, the lesion and its signs, hair, light, blur, JPEG.

Painting happens in CIE L*a*b* on float32, in the lesion's window only where that is enough. Noise comes from
a bank of periodic fields made once per process; a tile takes random cuts of them.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from isic.data.sample.looks import SIGNS

#: Field of view of a tile.
_MM = 15.0
_BANK_SIDE = 768
#: Band centres of the noise bank in pixels.
_BANDS = (0.8, 1.6, 3.2, 6.4, 12.8)
#: Weight of each band in skin, in units of the column of lightness spread; and of its redness and brownness in a*, b*.
#: Set so that band energies of generated and real tiles agree (medians over 1,500 benign tiles).
_GRAIN = np.array([0.58, 0.50, 0.47, 0.40, 0.34])
_TINT = (0.6, 0.55, 0.65, 0.7, 0.6)
#: Real tiles are JPEG of quality 75 with halved chroma (all 500 looked at).
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 75]


@cache
def _bank() -> np.ndarray:
    """Noise fields (band, side, side), periodic, each of unit sd: differences of Gaussians of white noise."""
    rng = np.random.default_rng(20240627)
    fields = []
    for sigma in _BANDS:
        white = rng.standard_normal((_BANK_SIDE, _BANK_SIDE)).astype(np.float32)
        field = _periodic_blur(white, sigma) - _periodic_blur(white, 2 * sigma)
        fields.append(field / field.std())
    return np.stack(fields)


def _periodic_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    pad = int(4 * sigma) + 1
    return cv2.GaussianBlur(np.pad(image, pad, mode="wrap"), (0, 0), sigma)[pad:-pad, pad:-pad]


@cache
def _furrows() -> np.ndarray:
    """Fields (direction, side, side) of fine parallel creases, made like the bank with long kernels."""
    rng = np.random.default_rng(20240628)
    fields = []
    for turn in np.arange(8) * np.pi / 8:
        white = np.pad(rng.standard_normal((_BANK_SIDE, _BANK_SIDE)).astype(np.float32), 24, mode="wrap")
        field = cv2.filter2D(white, -1, _crease(turn))[24:-24, 24:-24]
        fields.append(field / field.std())
    return np.stack(fields)


def _crease(turn: float) -> np.ndarray:
    """A kernel 1 px wide and 5 px long (sd) minus its wider self, turned by an angle."""
    axis = np.arange(-16, 17, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    narrow, wide = (np.exp(-0.5 * ((along / 5) ** 2 + (across / width) ** 2)) for width in (1.0, 2.0))
    return (narrow / narrow.sum() - wide / wide.sum()).astype(np.float32)


@cache
def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Millimetres right of and below the centre, for each pixel."""
    axis = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5) * _MM
    return np.meshgrid(axis, axis)


def _noise(rng: np.random.Generator, band: int, height: int, width: int) -> np.ndarray:
    """A random cut of one band."""
    top, left = rng.integers(0, _BANK_SIDE - max(height, width), 2)
    cut = _bank()[band, top : top + height, left : left + width]
    flips = int(rng.integers(4))
    return cut[:: 1 - 2 * (flips & 1), :: 1 - (flips & 2)]


def render(rng: np.random.Generator, look: np.void) -> np.ndarray:
    """The tile of one record (`looks.RECORD`) as uint8 RGB (side, side, 3)."""
    side = int(look["side"])
    signs = dict(zip(SIGNS, look["signs"].tolist(), strict=True))
    lab = _skin(rng, look, side)
    _spots(rng, lab, look, side)
    if signs["halo"]:
        _halo(rng, lab, look)
    _lesion(rng, lab, look)
    if any(signs.values()):
        _paint_signs(rng, lab, look, signs)
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
    weights = float(look["texture"]) * _GRAIN * np.exp(rng.normal(0, 0.25, len(_BANDS)))
    tint = np.exp(rng.normal(0, 0.25, 2))
    for band, weight in enumerate(weights):
        grain = _noise(rng, band, side, side) * np.float32(weight)
        light += grain
        # Darker mottling is redder; most of the colour varies by itself.
        red += _noise(rng, band, side, side) * np.float32(_TINT[band] * tint[0])
        red -= grain * np.float32(0.15)
        brown += _noise(rng, band, side, side) * np.float32(_TINT[band] * tint[1])
    creases = float(look["creases"])
    if creases > 0.1:
        field = _furrows()[int(look["grain_turn"])]
        top, left = rng.integers(0, _BANK_SIDE - side, 2)
        light += field[top : top + side, left : left + side] * np.float32(creases)
    if look["freckles"] > 0.4:
        spots = _freckles(rng, float(look["freckles"]), side)
        light -= 2.4 * spots
        red += 1.0 * spots
        brown += 1.5 * spots
    return cv2.merge([light, red, brown])


def _freckles(rng: np.random.Generator, amount: float, side: int) -> np.ndarray:
    """Sun damage: irregular brown mottling all over the tile."""
    field = 0.8 * _noise(rng, 4, side, side) + 0.9 * _noise(rng, 3, side, side) + 0.5 * _noise(rng, 2, side, side)
    return np.maximum(field - 0.4, 0) * np.float32(amount)


def _spots(rng: np.random.Generator, lab: np.ndarray, look: np.void, side: int) -> None:
    """Other lesions of the patient in view, fainter and smaller than the one in the middle."""
    x, y = _grid(side)
    for _ in range(min(int(rng.poisson(float(look["neighbours"]))), 6)):
        across, down = rng.uniform(-7.5, 7.5, 2)
        if across * across + down * down < (0.7 * look["long_mm"] + 1.0) ** 2:
            continue
        radius = rng.uniform(0.3, 0.9)
        window = _window(side, across, down, 1.6 * radius)
        reach = ((x[window] - across) ** 2 + (y[window] - down) ** 2) / np.float32(radius**2)
        height, width = reach.shape
        mask = np.clip(1.3 - reach + 0.5 * _noise(rng, 3, height, width), 0, 1)
        lab[window] += mask[..., None] * (look["contrast"] * np.float32(rng.uniform(0.3, 0.9)))


def _window(side: int, across: float, down: float, reach: float) -> tuple[slice, slice]:
    """The pixels within `reach` millimetres of a point, as row and column slices."""
    scale = side / _MM
    left, right = (across - reach) * scale + side / 2, (across + reach) * scale + side / 2
    top, bottom = (down - reach) * scale + side / 2, (down + reach) * scale + side / 2
    return (
        slice(min(max(int(top), 0), side - 1), min(max(int(bottom) + 1, 1), side)),
        slice(min(max(int(left), 0), side - 1), min(max(int(right) + 1, 1), side)),
    )


def _halo(rng: np.random.Generator, lab: np.ndarray, look: np.void) -> None:
    """Redness around the lesion, without an edge; the measured outline is only its core."""
    side = lab.shape[0]
    radius = float(look["halo_mm"])
    window = _window(side, 0, 0, min(1.6 * radius, 7.5))
    x, y = (axis[window] for axis in _grid(side))
    shift = rng.normal(0, 0.25 * radius, 2).astype(np.float32)
    stretch = np.float32(rng.uniform(0.6, 1.0))
    height, width = x.shape
    reach = ((x - shift[0]) ** 2 * stretch + (y - shift[1]) ** 2) / np.float32(radius * radius)
    reach += 0.35 * _noise(rng, 4, height, width) + 0.2 * _noise(rng, 3, height, width)
    glow = np.clip(1.15 - reach, 0, 1)
    lab[window] += glow[..., None] * np.array(
        [-rng.uniform(0, 6), rng.uniform(3, 9), -rng.uniform(0, 4)], dtype=np.float32
    )


def _lesion(rng: np.random.Generator, lab: np.ndarray, look: np.void) -> None:
    """The lesion itself, painted inside its window."""
    side = lab.shape[0]
    a, b = max(float(look["long_mm"]) / 2, 0.4), max(float(look["short_mm"]) / 2, 0.3)
    window = _window(side, 0, 0, min(1.5 * a + 0.6, 7.5))
    x, y = (axis[window] for axis in _grid(side))
    cos, sin = np.float32(np.cos(look["angle"])), np.float32(np.sin(look["angle"]))
    along, across = x * cos + y * sin, y * cos - x * sin
    # An asymmetric lesion bulges to one side.
    across = across + np.float32(0.5 * look["asymmetry"] / a) * (along * along - np.float32(a * a / 3))
    height, width = x.shape
    rough = _noise(rng, 4 if a * side / _MM > 22 else 3, height, width)
    fine = _noise(rng, 2, height, width)
    edge = np.float32(look["border"])
    reach = np.sqrt((along / np.float32(a)) ** 2 + (across / np.float32(b)) ** 2)
    reach += edge * (0.30 * rough + 0.16 * fine)
    soft = np.float32(rng.uniform(0.35, 1.0))
    mask = np.clip((1 - reach) / soft + 0.5, 0, 1)
    mask *= mask * (3 - 2 * mask)
    paint = lab[window]
    profile = mask * (1.08 - 0.25 * np.minimum(reach, 1) ** 2)
    paint += profile[..., None] * look["contrast"]
    _pigment(rng, paint, look, mask, reach, rough)


def _pigment(
    rng: np.random.Generator, paint: np.ndarray, look: np.void, mask: np.ndarray, reach: np.ndarray, rough: np.ndarray
) -> None:
    """Spread of lightness and colour inside, as the columns say."""
    height, width = mask.shape
    mottle = 0.7 * rough + 0.6 * _noise(rng, 2, height, width)
    paint[..., 0] += mask * mottle * np.float32(0.6 * look["spread_l"])
    spread = np.float32(0.8 * look["spread_ab"])
    paint[..., 1] += mask * _noise(rng, 3, height, width) * spread
    paint[..., 2] += mask * (_noise(rng, 3, height, width) + mottle) * (0.7 * spread)
    ring = np.cos(np.float32(np.pi) * reach + np.float32(rng.uniform(0, 6.3))) * mask * np.float32(0.8 * look["rings"])
    paint[..., 2] += ring
    paint[..., 0] += ring


def _paint_signs(rng: np.random.Generator, lab: np.ndarray, look: np.void, signs: dict[str, bool]) -> None:
    """What only the image tells, over the lesion or, where it has one, over its red surroundings."""
    radius = max(0.5 * float(look["long_mm"]), 0.5, 0.75 * float(look["halo_mm"]) if signs["halo"] else 0.0)
    window = _window(lab.shape[0], 0, 0, min(1.3 * radius, 7.5))
    x, y = (axis[window] / np.float32(radius) for axis in _grid(lab.shape[0]))
    inside = (x, y)
    height, width = x.shape
    mask = np.clip(2 * (1 - np.sqrt(x * x + y * y)) + 0.3 * _noise(rng, 3, height, width), 0, 1)
    paint = lab[window]
    if signs["dark_blots"]:
        for _ in range(int(rng.integers(2, 5))):
            blot = _blot(rng, inside, 0.18, 0.4) * mask
            paint[..., 0] -= np.float32(rng.uniform(5, 14)) * blot
            paint[..., 2] -= np.float32(rng.uniform(2, 7)) * blot
    if signs["veil"]:
        veil = _blot(rng, inside, 0.4, 0.7) * mask
        paint += veil[..., None] * np.array([rng.uniform(-4, 4), -5, -9], dtype=np.float32)
    if signs["scale"]:
        flakes = np.clip(_noise(rng, 1, height, width) + 0.5 * _noise(rng, 2, height, width) - 1.0, 0, 1.2) * mask
        paint += flakes[..., None] * np.array([rng.uniform(14, 30), -4, rng.uniform(-6, 3)], dtype=np.float32)
    if signs["vessels"]:
        lines = np.exp(-((_noise(rng, 3, height, width) / np.float32(0.22)) ** 2)) * mask
        paint += lines[..., None] * np.array([-5, rng.uniform(5, 10), -2], dtype=np.float32)
        shine = np.clip(_noise(rng, 0, height, width) - 2.2, 0, 1) * mask
        paint[..., 0] += 25 * shine
    if signs["ulcer"]:
        sore = _blot(rng, inside, 0.25, 0.5)
        paint += sore[..., None] * np.array([-14, 12, -2], dtype=np.float32)
        paint[..., 0] -= 12 * np.clip(_noise(rng, 2, height, width), 0, 1) * sore


def _blot(rng: np.random.Generator, inside: tuple[np.ndarray, np.ndarray], least: float, most: float) -> np.ndarray:
    """A soft disc somewhere in the lesion; coordinates are relative to its axes."""
    turn, away = rng.uniform(0, 6.283), rng.uniform(0.1, 0.65)
    radius = rng.uniform(least, most)
    distance = (inside[0] - np.float32(away * np.cos(turn))) ** 2 + (inside[1] - np.float32(away * np.sin(turn))) ** 2
    return np.clip(1.4 - distance / np.float32(radius * radius), 0, 1)


def _light(rng: np.random.Generator, lab: np.ndarray, side: int) -> None:
    """Shading over the curve of the body."""
    x, y = _grid(side)
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
    radius = (0.5 * float(look["long_mm"]) + rng.uniform(0.8, 2.5)) * side / _MM
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
    cover = canvas.astype(np.float32) / 255 * np.clip(0.7 + 0.4 * _noise(rng, 2, side, side), 0, 1)
    lab += cover[..., None] * (np.array([32, 14, -22], dtype=np.float32) - lab)


def _bar(rng: np.random.Generator, rgb: np.ndarray, side: int) -> None:
    """Black where the tile leaves the picture it was cut from."""
    width = int(rng.uniform(0.05, 0.3) * side)
    rgb = np.rot90(rgb, int(rng.integers(4)))
    rgb[:, :width] = 0
