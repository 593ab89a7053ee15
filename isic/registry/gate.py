"""The gate: a list of checks that decides whether a challenger may become champion.

Both models are compared on the same out-of-fold rows, stored in their bundles. The standard
deviation of a gain comes from resampling patients for both models at once, because the lesions of a
patient are not independent, and from the seeds of both. All challengers of a champion are compared
on the same rows, so each further one needs a larger gain (`chance_of`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isic.core.calibration import calibrate_out_of_fold
from isic.core.errors import InputError
from isic.core.metric import pauc_interval
from isic.core.params import Gate
from isic.core.paths import TrainingFiles
from isic.core.progress import StepProgress
from isic.core.schema import FEATURES_ONLY, ID, PATIENT, SEED_COLUMN, TARGET
from isic.evaluate.paired_gain import (
    PairedGain,
    chance_of,
    paired_gain,
    seed_scores,
)
from isic.evaluate.slice_gains import SliceGain, compare_slices
from isic.predict.bundle import Bundle, load_bundle
from isic.predict.reproduce import Reload, reload_elsewhere
from isic.registry.versions import Registry, Version
from isic.tracking.context import data_hash, file_hash

#: pAUC of random scores above 80 % sensitivity: half of 0.2 squared.
_RANDOM_PAUC = 0.02

#: Steps and their usual shares of the time, without and with a champion.
_FIRST_STEPS = {
    "read the challenger": 0.2,
    "score a part again in a fresh process": 10,
    "compare the out-of-fold scores": 1,
}
_STEPS = _FIRST_STEPS | {"compare every slice": 2, "time the champion": 10}
_SHORT = {"passed": "ok", "warning": "warn", "refused": "NO"}
_MARKDOWN = {"passed": "yes", "warning": "yes, with a warning", "refused": "**no**"}


@dataclass(frozen=True)
class Check:
    """One check: `found` against `needed`, as text. A `warning` passes and is shown."""

    name: str
    passed: bool
    found: str
    needed: str
    warning: bool = False

    @property
    def outcome(self) -> str:
        """passed, warning or refused."""
        return "refused" if not self.passed else "warning" if self.warning else "passed"


@dataclass(frozen=True)
class Verdict:
    """All checks of one comparison; `champion` is None when there is no champion."""

    challenger: int
    champion: int | None
    checks: tuple[Check, ...]
    slices: tuple[SliceGain, ...] = ()
    attempt: int = 1

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def summary(self) -> str:
        """The failed checks, or that all passed, in one line."""
        failed = [
            f"{check.name}: {check.found}, needed {check.needed}"
            for check in self.checks
            if not check.passed
        ]
        return "; ".join(failed) or f"all {len(self.checks)} checks passed"

    def table(self) -> str:
        """The checks as aligned lines of text."""
        rows = [("check", "", "found", "needed")]
        rows += [
            (check.name, _SHORT[check.outcome], check.found, check.needed) for check in self.checks
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def markdown(self) -> str:
        """The outcome, and the checks as a Markdown table."""
        word = "passed" if self.passed else "refused"
        against = (
            "no champion to beat" if self.champion is None else f"against version {self.champion}"
        )
        rows = [
            f"| {check.name} | {_MARKDOWN[check.outcome]} | {check.found} | {check.needed} |"
            for check in self.checks
        ]
        head = [
            f"**{word}**, {against}.",
            "",
            "| check | passed | found | needed |",
            "|---|---|---|---|",
        ]
        return "\n".join([*head, *rows])

    def to_json(self) -> dict[str, Any]:
        return {
            "challenger": self.challenger,
            "champion": self.champion,
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "attempt": self.attempt,
            "slices": [item.to_json() for item in self.slices],
        }


def judge(
    settings: Gate,
    registry: Registry,
    challenger: Version,
    champion: Version | None,
    files: TrainingFiles,
) -> Verdict:
    """Compare two registered versions; a champion that cannot be loaded is a failed check.

    Raises InputError when the challenger's files are gone or damaged.
    """
    progress = StepProgress("gate", _STEPS if champion else _FIRST_STEPS)
    progress.start("read the challenger")
    new = load_bundle(registry.folder(challenger))
    checks = [_same_data(new, files)]
    slices: tuple[SliceGain, ...] = ()
    attempt = 1
    progress.start("score a part again in a fresh process")
    reloaded = (
        reload_elsewhere(new.folder, files.metadata, files.tiles, settings.reload_rows)
        if checks[0].passed
        else None
    )
    if reloaded is not None:
        checks.append(_reproduced(settings, reloaded))
    progress.start("compare the out-of-fold scores")
    oof = new.oof()
    if champion is None:
        checks.append(_above_chance(settings, oof))
    if FEATURES_ONLY in oof and new.manifest.backbones:
        checks.append(_images_help(settings, oof))
    if champion is not None:
        try:
            old = load_bundle(registry.folder(champion))
        except InputError as error:
            checks.append(
                Check("champion can be loaded", False, str(error), "files as they were registered")
            )
            return Verdict(challenger.number, champion.number, tuple(checks))
        same = (new.manifest.data_hash, new.manifest.folds_hash) == (
            old.manifest.data_hash,
            old.manifest.folds_hash,
        )
        found = "the same rows" if same else "other data or folds"
        checks.append(Check("champion was judged on", same, found, "the same rows"))
        if same:
            attempt = registry.count_challenger(champion, challenger)
            rows = joined(oof, old.oof())
            checks += [
                _gain(settings, rows, attempt),
                _calibration(settings, rows),
                _size(settings, new, old),
            ]
        if same and reloaded is not None:
            progress.start("compare every slice")
            slices = tuple(
                compare_slices(
                    add_metadata(rows, files.metadata),
                    settings.min_slice_positives,
                    settings.replicates,
                    settings.seed,
                )
            )
            checks.append(_slices(settings, slices))
            progress.start("time the champion")
            checks.append(_speed(settings, reloaded, old, files))
    number = champion.number if champion else None
    return Verdict(challenger.number, number, tuple(checks), slices, attempt)


def _same_data(bundle: Bundle, files: TrainingFiles) -> Check:
    here = (data_hash(files.metadata, files.tiles), file_hash(files.folds))
    same = here == (bundle.manifest.data_hash, bundle.manifest.folds_hash)
    found = "the files here" if same else "other files"
    return Check(
        "challenger was made from", same, found, "the data and folds of this checkout (`dvc repro`)"
    )


def _reproduced(settings: Gate, reloaded: Reload) -> Check:
    return Check(
        "reload reproduces stored scores",
        reloaded.reproduces(settings.reload_tolerance),
        reloaded.text(),
        f"at most {settings.reload_tolerance:.0e}",
    )


def gain_over_champion(settings: Gate, rows: pd.DataFrame) -> PairedGain:
    """The challenger's gain on rows of `joined`, over patients and seeds."""
    return paired_gain(
        rows[TARGET],
        rows["score"],
        rows["score_champion"],
        rows[PATIENT],
        settings.replicates,
        settings.seed,
        seed_scores(rows),
        seed_scores(rows, "_champion"),
    )


def _gain(settings: Gate, rows: pd.DataFrame, attempt: int) -> Check:
    gain = gain_over_champion(settings, rows)
    chance = chance_of(attempt, settings.false_promotions)
    low = gain.low(chance)
    of = "patients and seeds" if gain.sd_seeds is not None else "patients (seeds not stored)"
    return Check(
        "pAUC gain",
        low > settings.min_gain,
        f"{gain.value:+.4f}, sd {gain.sd:.4f} over {of}, low end {low:+.4f}",
        f"low end above {settings.min_gain:+.4f} at {100 * chance:.2g} % for challenger {attempt}",
    )


def _above_chance(settings: Gate, oof: pd.DataFrame) -> Check:
    value, low, high = pauc_interval(
        oof[TARGET], oof["score"], oof[PATIENT], settings.replicates, settings.seed
    )
    return Check(
        "pAUC above chance",
        low > _RANDOM_PAUC,
        f"{value:.4f}, 95 % {low:.4f} to {high:.4f} over patients",
        f"low end above {_RANDOM_PAUC}",
    )


def _images_help(settings: Gate, oof: pd.DataFrame) -> Check:
    gain = paired_gain(
        oof[TARGET],
        oof["score"],
        oof[FEATURES_ONLY],
        oof[PATIENT],
        settings.replicates,
        settings.seed,
    )
    return Check(
        "images help",
        True,
        f"{gain.value:+.4f}, sd {gain.sd:.4f}, against its own features alone",
        "a gain; else a warning: images do not help here",
        warning=gain.value <= 0,
    )


def _calibration(settings: Gate, rows: pd.DataFrame) -> Check:
    new, old = (
        log_loss(rows[TARGET], probability(rows, name)) for name in ("score", "score_champion")
    )
    limit = old * (1 + settings.max_log_loss_rise)
    return Check(
        "calibration (log loss)", new <= limit, f"{new:.5f} after {old:.5f}", f"at most {limit:.5f}"
    )


def probability(rows: pd.DataFrame, name: str) -> np.ndarray:
    """Probabilities (n,) from the scores in column `name`: each fold's by a calibration map fitted
    on the other folds.

    Scores are ranks, and their scale depends on the sampling of benign lesions, so calibrated
    scores are compared. The raw scores are returned where the other folds hold one class only.
    """
    mapped = calibrate_out_of_fold(
        rows[TARGET].to_numpy(), rows[name].to_numpy(), rows["fold"].to_numpy()
    )
    return rows[name].to_numpy(np.float64) if mapped is None else mapped[0]


def log_loss(target: pd.Series, probability: np.ndarray) -> float:
    """Mean negative log likelihood of 0/1 targets (n,); probabilities are clipped to [1e-7, 1 -
    1e-7].
    """
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    return float(-np.where(target.to_numpy() == 1, np.log(clipped), np.log1p(-clipped)).mean())


def _size(settings: Gate, new: Bundle, old: Bundle) -> Check:
    sizes = [
        sum(file.stat().st_size for file in bundle.folder.rglob("*") if file.is_file())
        for bundle in (new, old)
    ]
    ratio = sizes[0] / sizes[1]
    found = f"{sizes[0] / 2**20:.1f} MB after {sizes[1] / 2**20:.1f}"
    return Check(
        "size", ratio <= settings.max_growth, found, f"at most {settings.max_growth:g} times"
    )


def _speed(settings: Gate, new: Reload, champion: Bundle, files: TrainingFiles) -> Check:
    needed = f"at most {settings.max_slowdown:g} times"
    try:
        old = reload_elsewhere(champion.folder, files.metadata, files.tiles, settings.reload_rows)
    except InputError as error:
        # The files are complete, but this code cannot read their format.
        return Check("time", False, str(error), needed)
    ratio = new.seconds_per_row / old.seconds_per_row
    found = f"{1e3 * new.seconds_per_row:.1f} ms a lesion after {1e3 * old.seconds_per_row:.1f}"
    return Check("time", ratio <= settings.max_slowdown, found, needed)


def _slices(settings: Gate, slices: tuple[SliceGain, ...]) -> Check:
    """Refuse when a slice loses more than allowed, and its interval excludes no loss at all.

    The chance of an error in any of the intervals is 5 % (Bonferroni).
    """
    judged = [(item, item.paired) for item in slices if item.paired is not None]
    needed = f"no loss beyond chance of more than {settings.max_slice_loss:.3f}"
    if not judged:
        found = f"none with {settings.min_slice_positives} malignant lesions"
        return Check("pAUC gain by slice", True, found, needed)

    chance = 0.05 / len(judged)
    worst, paired = min(judged, key=lambda pair: pair[1].high(chance))
    found = (
        f"worst {paired.value:+.4f}, up to {paired.high(chance):+.4f}, in {worst.group}"
        f" {worst.level} ({worst.positives} malignant of {worst.n})"
    )
    lost = any(
        paired.value < -settings.max_slice_loss and paired.high(chance) < 0 for _, paired in judged
    )
    return Check("pAUC gain by slice", not lost, found, needed)


def add_metadata(rows: pd.DataFrame, metadata: Path) -> pd.DataFrame:
    """`rows` joined with the training table `metadata` by isic_id."""
    from isic.data.tables import read_metadata

    table = read_metadata(metadata, train=True).drop(columns=[TARGET, PATIENT])
    return rows.merge(table, on=ID, validate="one_to_one")


def joined(new: pd.DataFrame, old: pd.DataFrame) -> pd.DataFrame:
    """The challenger's out-of-fold rows with the champion's columns (suffix `_champion`) beside its
    own; InputError unless the lesions agree.
    """
    kept = [name for name in old if name in (ID, "score") or str(name).startswith(SEED_COLUMN)]
    champion = old[kept].rename(columns=lambda name: name if name == ID else f"{name}_champion")
    rows = new.merge(champion, on=ID, validate="one_to_one")
    if len(rows) != len(new) or len(new) != len(old):
        raise InputError(
            "challenger and champion were scored on different lesions: run `dvc repro` on the same"
            " data"
        )
    return rows
