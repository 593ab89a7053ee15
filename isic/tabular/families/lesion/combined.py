"""Combinations of categories: a location under one lighting at one hospital is a category of its
own.

Licence and hospital are not combined with each other: the hospital decides its licence.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from isic.tabular.canonical import codes
from isic.tabular.parallel import parallel_map
from isic.tabular.registry import Family, Feature

#: Word in the feature's name → official column.
_PARTS = {
    "sex": "sex",
    "tile": "tbp_tile_type",
    "location": "tbp_lv_location",
    "hospital": "attribution",
    "licence": "copyright_license",
}
_COMBINED: dict[str, tuple[str, ...]] = {
    "combined_anatomical_site": ("anatom_site_general", "tbp_lv_location"),
    **{
        f"combined_{'_'.join(words)}": tuple(_PARTS[word] for word in words)
        for size in (2, 3)
        for words in combinations(_PARTS, size)
        if not {"hospital", "licence"} <= set(words)
    },
}


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """The combined texts as categories; missing where one of the parts is missing."""
    columns = parallel_map(lambda names: _combine(frame, names), list(_COMBINED.values()))
    return pd.DataFrame(dict(zip(_COMBINED, columns, strict=True)), copy=False)


def _combine(frame: pd.DataFrame, names: tuple[str, ...]) -> pd.Categorical:
    _, example, member = np.unique(codes(frame, names), return_index=True, return_inverse=True)
    # Texts are joined once per combination that occurs, not once per row.
    parts = frame[list(names)].iloc[example]
    complete = parts.notna().all(axis=1).to_numpy()
    texts = ["_".join(row) for row in parts[complete].astype("str").itertuples(index=False)]
    category = np.full(len(example), -1)
    category[complete] = np.arange(complete.sum())
    return pd.Categorical.from_codes(category[member], categories=pd.Index(texts, dtype="str"))


FAMILY = Family(
    name="combined",
    meaning="Two or three categories as one; hundreds of levels, so better with many rows",
    features=tuple(
        Feature(name, ' + "_" + '.join(columns), f"{' and '.join(columns)} as one category")
        for name, columns in _COMBINED.items()
    ),
    build=build,
)
