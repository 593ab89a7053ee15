"""Table of all features, printed by `isic features list`; `docs/features.md` is its summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from isic.core.errors import InputError
from isic.core.io import atomic_file
from isic.tabular.fitted import fitted_families
from isic.tabular.registry import choose, feature_families

_HEAD = """# Features

The features are columns in {count} families, most of them computed within the patient. The table counts the
columns of each family. The columns themselves, with formula and meaning:

```
isic features list patient_z               # the features of one family
isic features list --find hue              # features by a word in name, formula or meaning
isic features list --all                   # all {features:,}
```

Names in formulas are the official columns without `tbp_lv_`; `diam` is `clin_size_long_diam_mm`, `age` is `age_approx`.
`mean`, `sd` (population), `median` and `n` over a group use that patient's rows alone.

`params.yaml: features.families` selects families. The `fitted` families are selected in `stack.fitted`, learnt on
training folds and stored with the model. [stacking.md](stacking.md#which-families) measures what each family gains.

`isic features write` generates this page from `isic/tabular`.

"""


class Row(NamedTuple):
    """One feature of the catalogue."""

    name: str
    family: str
    formula: str
    meaning: str


def catalogue(families: Sequence[str] | None = None) -> list[Row]:
    """All features (or those of the named families), in the order of the feature frame; the fitted
    ones last.
    """
    rows = [
        Row(feature.name, family.name, feature.formula, feature.meaning)
        for family in choose(families)
        for feature in family.features
    ]
    if families is None:
        rows += [
            Row(feature.name, f"fitted: {name}", feature.formula, feature.meaning)
            for name, kind in fitted_families().items()
            for feature in kind.features
        ]
    return rows


def find_features(families: Sequence[str] = (), text: str = "") -> list[Row]:
    """Features of the named families (none named: of all) with `text` in name, formula or meaning.

    A fitted family is named with or without `fitted: `. Raises InputError for an unknown family,
    and when no feature matches.
    """
    rows = catalogue()
    known = dict.fromkeys(row.family.removeprefix("fitted: ") for row in rows)
    chosen = {family.removeprefix("fitted: ") for family in families}
    for name in sorted(chosen - known.keys()):
        raise InputError(f"unknown feature family `{name}`: choose from {', '.join(known)}")

    text = text.lower()
    matching = [
        row
        for row in rows
        if (not chosen or row.family.removeprefix("fitted: ") in chosen)
        and any(text in field.lower() for field in (row.name, row.formula, row.meaning))
    ]
    if not matching:
        raise InputError(f"no feature with {text!r} in its name, formula or meaning")
    return matching


def family_rows() -> list[tuple[str, int, str]]:
    """Name, number of features and meaning of each family, the fitted ones last."""
    plain = [(name, family.features, family.meaning) for name, family in feature_families().items()]
    fitted = [
        (f"fitted: {name}", family.features, family.meaning)
        for name, family in fitted_families().items()
    ]
    return [(name, len(features), meaning) for name, features, meaning in plain + fitted]


def markdown() -> str:
    """The table of families as the text of docs/features.md."""
    rows = family_rows()
    features = sum(count for _, count, _ in rows)
    lines = [f"| {name} | {count} | {_cell(meaning)} |\n" for name, count, meaning in rows]
    head = _HEAD.format(count=len(rows), features=features)
    return head + "| family | features | meaning |\n|---|---|---|\n" + "".join(lines)


def write_markdown(path: Path) -> None:
    """Write the page to `path` (docs/features.md)."""
    with atomic_file(path) as temporary:
        temporary.write_text(markdown(), encoding="utf-8")


def check_markdown(path: Path) -> None:
    """Raise InputError when `path` is not what `write_markdown` would write."""
    if not Path(path).is_file() or Path(path).read_text(encoding="utf-8") != markdown():
        raise InputError(
            f"{path} does not match the features in isic/tabular: run `isic features write`"
        )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
