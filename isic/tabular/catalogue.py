"""Every feature in one table: what `isic features list` prints and `docs/features.md` holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from isic.core.errors import InputError
from isic.core.io import atomic_file
from isic.tabular.fitted import fitted_families
from isic.tabular.registry import choose, feature_families

_HEAD = """# Features

Generated from `isic/tabular`: write it again with `isic features write` after a change. Names in formulas are the
official columns without `tbp_lv_`; `diam` is `clin_size_long_diam_mm`, `age` is `age_approx`. `mean`, `sd`
(population), `median`, `n` over a group use that patient's rows alone. Families are switched in `params.yaml:
features.families`; the `fitted` ones in `stack.fitted`: they are learnt on training folds and travel with the model.
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
        Row(each.name, family.name, each.formula, each.meaning)
        for family in choose(families)
        for each in family.features
    ]
    if families is None:
        rows += [
            Row(each.name, f"fitted: {name}", each.formula, each.meaning)
            for name, kind in fitted_families().items()
            for each in kind.features
        ]
    return rows


def markdown() -> str:
    """The catalogue as the text of docs/features.md."""
    rows = catalogue()
    parts = [_HEAD, _overview(rows)]
    for family in dict.fromkeys(row.family for row in rows):
        parts.append(f"\n## {family}\n\n| name | formula | meaning |\n|---|---|---|\n")
        parts += [
            f"| `{row.name}` | `{_cell(row.formula)}` | {_cell(row.meaning)} |\n"
            for row in rows
            if row.family == family
        ]
    return "".join(parts)


def write_markdown(path: Path) -> None:
    """Write the table to `path` (docs/features.md)."""
    with atomic_file(path) as temporary:
        temporary.write_text(markdown(), encoding="utf-8")


def check_markdown(path: Path) -> None:
    """Raise InputError when `path` is not what `write_markdown` would write."""
    if not Path(path).is_file() or Path(path).read_text(encoding="utf-8") != markdown():
        raise InputError(
            f"{path} does not match the features in isic/tabular: run `isic features write`"
        )


def _overview(rows: Sequence[Row]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.family] = counts.get(row.family, 0) + 1
    meanings = {name: family.meaning for name, family in feature_families().items()}
    meanings |= {f"fitted: {name}": kind.meaning for name, kind in fitted_families().items()}
    lines = [f"| {name} | {count} | {_cell(meanings[name])} |\n" for name, count in counts.items()]
    return f"\n{len(rows)} features:\n\n| family | features | what |\n|---|---|---|\n" + "".join(
        lines
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
