"""Whether a challenger may become champion: a list of checks, each with what was found, what was needed, and why.

Both are compared on the same out-of-fold rows, stored in their bundles; a difference is judged by resampling patients
for both at once, because lesions of a patient are no independent evidence.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from isic.core.errors import InputError
from isic.core.metric import paired_difference
from isic.core.params import Gate
from isic.core.paths import Layout
from isic.core.schema import ID, PATIENT, TARGET
from isic.registry.bundle import Bundle, load_bundle
from isic.registry.reload import reload_elsewhere
from isic.registry.versions import Registry, Version
from isic.tracking.context import data_hash, file_hash


@dataclass(frozen=True)
class Check:
    """One check: `found` against `needed`, in words and numbers a person reads."""

    name: str
    passed: bool
    found: str
    needed: str


@dataclass(frozen=True)
class Verdict:
    """All checks of one comparison; `champion` is None when there was none to beat."""

    challenger: int
    champion: int | None
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def summary(self) -> str:
        """The reasons against, or what spoke for it, in one line."""
        failed = [f"{check.name}: {check.found}, needed {check.needed}" for check in self.checks if not check.passed]
        return "; ".join(failed) or f"all {len(self.checks)} checks passed"

    def table(self) -> str:
        """The checks as aligned lines of text."""
        rows = [("check", "", "found", "needed")]
        rows += [(check.name, "ok" if check.passed else "NO", check.found, check.needed) for check in self.checks]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def to_json(self) -> dict[str, Any]:
        checks = [asdict(check) for check in self.checks]
        return {"challenger": self.challenger, "champion": self.champion, "passed": self.passed, "checks": checks}


def judge(layout: Layout, settings: Gate, registry: Registry, challenger: Version, champion: Version | None) -> Verdict:
    """Compare two registered versions. Raises InputError when the files of either are gone or damaged."""
    new = load_bundle(registry.folder(challenger))
    checks = [*_same_data(layout, new, "challenger")]
    if checks[0].passed:
        checks.append(_reload(layout, settings, new))
    if champion is not None:
        old = load_bundle(registry.folder(champion))
        checks += _against(settings, new, old)
    return Verdict(challenger.number, champion.number if champion else None, tuple(checks))


def _same_data(layout: Layout, bundle: Bundle, who: str) -> list[Check]:
    here = (data_hash(layout), file_hash(layout.folds))
    same = here == (bundle.manifest.data_hash, bundle.manifest.folds_hash)
    found = "the files here" if same else "other files"
    return [Check(f"{who} was made from", same, found, "the data and folds of this checkout (`dvc repro`)")]


def _reload(layout: Layout, settings: Gate, bundle: Bundle) -> Check:
    done = reload_elsewhere(layout, bundle.folder, settings.reload_rows)
    return Check(
        "reload reproduces stored scores",
        done.largest <= settings.reload_tolerance,
        f"largest difference {done.largest:.1e} over {done.rows} rows",
        f"at most {settings.reload_tolerance:.0e}",
    )


def _against(settings: Gate, new: Bundle, old: Bundle) -> list[Check]:
    same = (new.manifest.data_hash, new.manifest.folds_hash) == (old.manifest.data_hash, old.manifest.folds_hash)
    checks = [
        Check("champion was judged on", same, "the same rows" if same else "other data or folds", "the same rows")
    ]
    if not same:
        return checks
    rows = joined(new.oof(), old.oof())
    gain = paired_difference(
        rows[TARGET], rows["score"], rows["score_champion"], rows[PATIENT], settings.replicates, settings.seed
    )
    checks.append(
        Check("pAUC gain", gain.value >= settings.min_gain, f"{gain.value:+.4f}", f"at least {settings.min_gain:+.4f}")
    )
    interval = f"{gain.low:+.4f} to {gain.high:+.4f}"
    needed = f"low end at least {settings.min_gain_low:+.4f}"
    checks.append(Check("pAUC gain, 95 % over patients", gain.low >= settings.min_gain_low, interval, needed))
    return checks


def joined(new: pd.DataFrame, old: pd.DataFrame) -> pd.DataFrame:
    """The challenger's out-of-fold rows with `score_champion` beside `score`; InputError unless the lesions agree."""
    rows = new.merge(old[[ID, "score"]], on=ID, suffixes=("", "_champion"), validate="one_to_one")
    if len(rows) != len(new) or len(new) != len(old):
        raise InputError("challenger and champion were scored on different lesions: run `dvc repro` on the same data")
    return rows
