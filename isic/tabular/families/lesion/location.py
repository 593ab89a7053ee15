"""Position of the lesion on the body."""

from isic.tabular.formulas import formula_family

FAMILY = formula_family(
    "location",
    "Position of the lesion on the body",
    (
        ("position_distance_3d", "sqrt(x**2 + y**2 + z**2)", "distance from the origin, mm"),
        ("lesion_orientation_3d", "atan2(y, x)", "angle in the frontal plane, radians"),
        ("position_angle_3d_xz", "atan2(z, x)", "angle in the horizontal plane, radians"),
        ("position_angle_3d_yz", "atan2(z, y)", "angle in the side plane, radians"),
        (
            "lesion_flatness",
            "sqrt(x**2 + y**2) / (z + 1e-5)",
            "distance from the axis against depth, unstable near z = 0, no unit",
        ),
    ),
)
