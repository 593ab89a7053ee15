"""Outline of a body in the coordinates tbp_lv_x and tbp_lv_y, millimetres: background of the body
map.

Origin between the feet, y upwards, arms and legs apart as in the scanner. Drawn through the median
coordinates of the published locations (Head & Neck, Torso, arms and legs, upper and lower). For
orientation only, not to scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Right half in the front view, from the crown down the outside and up the inside of arm and leg.
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
#: (x, y) of the closed outline. It is symmetric, so front and back share it.
OUTLINE: tuple[tuple[int, int], ...] = (*_HALF, *((-x, y) for x, y in reversed(_HALF[1:-1])))
#: Half width and vertical range shown; lesions outside extend them.
HALF_WIDTH, BODY_BOTTOM, BODY_TOP = 560, -60, 1850


def body_map(patient: Mapping[str, Any], marked: int) -> str:
    """Front and back as inline SVG for one lesion's page; `marked` is the rank of the lesion to
    circle.

    `patient` is an entry of `isic.report.patients`.
    """
    dots = patient["map"]
    order = sorted(range(len(dots["x"])), key=lambda i: (dots["t"][i], -dots["v"][i]))
    parts = []
    for back, centre in ((0, HALF_WIDTH), (1, 3 * HALF_WIDTH)):
        circles = [
            _dot(dots, i, centre, marked)
            for i in order
            if dots["b"][i] == back and _has_position(dots, i)
        ]
        corners = " ".join(f"{centre + x},{BODY_TOP - y}" for x, y in OUTLINE)
        height, side = BODY_TOP - BODY_BOTTOM + 70, "back" if back else "front"
        title = f'<text x="{centre}" y="{height}" text-anchor="middle">{side}</text>'
        parts.append(f'<polygon class="body" points="{corners}"/>{"".join(circles)}{title}')
    size = f"0 0 {4 * HALF_WIDTH} {BODY_TOP - BODY_BOTTOM + 90}"
    label = f"Body map: {len(dots['x'])} lesions, front and back"
    return (
        f'<svg class="bodymap" viewBox="{size}" role="img"'
        f' aria-label="{label}">{"".join(parts)}</svg>'
    )


def _has_position(dots: Mapping[str, Sequence[Any]], i: int) -> bool:
    return dots["x"][i] is not None and dots["y"][i] is not None


def _dot(dots: Mapping[str, Sequence[Any]], i: int, centre: int, marked: int) -> str:
    radius = 10 + 3 * min(dots["d"][i], 9) + (16 if dots["t"][i] else 0)
    kind = "dot malignant" if dots["t"][i] else "dot"
    x, y = centre + dots["x"][i], BODY_TOP - dots["y"][i]
    heat = f"--heat:{min(1.0, -dots['v'][i] / 3):.2f}"
    dot = f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius:.0f}" style="{heat}"/>'
    if dots["r"][i] != marked:
        return dot
    return dot + f'<circle class="here" cx="{x}" cy="{y}" r="{radius + 34:.0f}"/>'
