"""The outline of a person behind the lesions: a typical body in the frame of tbp_lv_x and tbp_lv_y, millimetres.

Origin between the feet, y upwards, arms and legs apart as people stand in the scanner. Drawn through the medians of the
published locations' coordinates (Head & Neck, Torso, arms and legs, upper and lower); it orients, it measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Right half seen from the front, from the crown down the outside and up the inside of arm and leg.
_HALF = (
    (0, 1795),
    (48, 1784),
    (80, 1738),
    (84, 1672),
    (70, 1608),
    (52, 1566),
    (56, 1532),
    (112, 1508),
    (190, 1486),
    (250, 1452),
    (300, 1392),
    (346, 1306),
    (390, 1176),
    (430, 1062),
    (466, 892),
    (500, 812),
    (490, 742),
    (446, 780),
    (412, 876),
    (346, 1036),
    (302, 1148),
    (236, 1306),
    (198, 1372),
    (186, 1270),
    (170, 1130),
    (176, 1020),
    (204, 916),
    (226, 780),
    (238, 630),
    (246, 500),
    (274, 340),
    (264, 120),
    (286, 36),
    (250, 6),
    (206, 12),
    (194, 104),
    (150, 330),
    (132, 500),
    (86, 640),
    (26, 776),
    (0, 806),
)
#: (x, y) of the closed outline, seen from the front; it is its own mirror image, so the back has the same.
OUTLINE: tuple[tuple[int, int], ...] = (*_HALF, *((-x, y) for x, y in reversed(_HALF[1:-1])))
#: Half width and height shown; lesions beyond (long arms, a raised one) widen it.
HALF_WIDTH, BOTTOM, TOP = 560, -60, 1850


def still(patient: Mapping[str, Any], marked: int) -> str:
    """Front and back as inline SVG, for one lesion's page; `marked` is the rank of the lesion to point at.

    `patient` is an entry of `isic.report.patients`.
    """
    found = patient["map"]
    order = sorted(range(len(found["x"])), key=lambda i: (found["t"][i], -found["v"][i]))
    parts = []
    for back, centre in ((0, HALF_WIDTH), (1, 3 * HALF_WIDTH)):
        dots = [_dot(found, i, centre, marked) for i in order if found["b"][i] == back and _placed(found, i)]
        corners = " ".join(f"{centre + x},{TOP - y}" for x, y in OUTLINE)
        title = f'<text x="{centre}" y="{TOP - BOTTOM + 70}" text-anchor="middle">{"back" if back else "front"}</text>'
        parts.append(f'<polygon class="body" points="{corners}"/>{"".join(dots)}{title}')
    size = f"0 0 {4 * HALF_WIDTH} {TOP - BOTTOM + 90}"
    label = f"Body map: {len(found['x'])} lesions, front and back"
    return f'<svg class="bodymap" viewBox="{size}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _placed(found: Mapping[str, Sequence[Any]], i: int) -> bool:
    return found["x"][i] is not None and found["y"][i] is not None


def _dot(found: Mapping[str, Sequence[Any]], i: int, centre: int, marked: int) -> str:
    radius = 10 + 3 * min(found["d"][i], 9) + (16 if found["t"][i] else 0)
    kind = "dot ill" if found["t"][i] else "dot"
    x, y = centre + found["x"][i], TOP - found["y"][i]
    heat = f"--heat:{min(1.0, -found['v'][i] / 3):.2f}"
    dot = f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius:.0f}" style="{heat}"/>'
    if found["r"][i] != marked:
        return dot
    return dot + f'<circle class="here" cx="{x}" cy="{y}" r="{radius + 34:.0f}"/>'
