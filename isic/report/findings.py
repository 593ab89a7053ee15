"""Findings of a run: one sentence per question, with numbers and the section of the details."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from isic.core.metric import TOP
from isic.core.schema import TARGET
from isic.evaluate.curves import Records
from isic.evaluate.slices import MIN_POSITIVES


@dataclass(frozen=True)
class Finding:
    """A sentence in two parts, the first in bold, and the id of the section with the details."""

    bold: str
    rest: str
    section: str


def findings(
    points: Mapping[str, Records], lesions: pd.DataFrame, robustness: Mapping[str, Any] | None
) -> list[Finding]:
    """Findings in the order of the page, without the parts that were not measured.

    `lesions` is `isic.report.lesions.overview`; `points["ladder"]` has the robustness stage's steps
    in front.
    """
    candidates = [
        _images(points["ladder"]),
        _slices(points["slices"], points["ladder"][-1]["pauc"]),
        *(_robustness(robustness) if robustness else ()),
        _missed(lesions),
    ]
    return [finding for finding in candidates if finding is not None]


def _images(ladder: Records) -> Finding | None:
    alone = next((step for step in ladder if step["step"] == "features alone"), None)
    if alone is None or alone["gain"] is None:
        return None
    change = _change(alone["gain"], alone["gain_low"], alone["gain_high"])
    if alone["gain_low"] > 0:
        return Finding("Images help:", f"pAUC {change} over the features alone.", "ladder")
    if alone["gain_high"] < 0:
        return Finding("Images hurt:", f"pAUC {change} against the features alone.", "ladder")
    return Finding("No evidence that images add to the features:", f"pAUC {change}.", "ladder")


def _slices(slices: Records, overall: float) -> Finding | None:
    measured = [record for record in slices if record["pauc"] is not None]
    if not measured:
        return Finding(
            "No slice can be judged:",
            f"none of {len(slices)} holds {MIN_POSITIVES} malignant lesions.",
            "slices",
        )
    lowest = min(measured, key=lambda record: record["pauc"])
    comparison = (
        f"{lowest['pauc']:.3f} ({lowest['low']:.3f} to {lowest['high']:.3f}) against {overall:.3f}"
        " for all"
    )
    small = len(slices) - len(measured)
    text = (
        f"{comparison}; {small} of {len(slices)} slices are too small to judge."
        if small
        else f"{comparison}."
    )
    label = "Weakest" if lowest["high"] < overall else "Lowest, within the noise,"
    return Finding(
        f"{label} in {lowest['family'].split(' (')[0]} {lowest['slice']}:", text, "slices"
    )


def _robustness(robustness: Mapping[str, Any]) -> Iterator[Finding]:
    pooled = [
        record
        for record in robustness["hospitals"]["records"]
        if record["hospital"] == "all pooled"
    ]
    if pooled and not pooled[0]["note"]:
        record = pooled[0]
        change = _change(record["change"], record["change_low"], record["change_high"])
        worse = record["change_high"] < 0
        unproven = "No evidence of a loss at an unseen hospital:"
        bold = "An unseen hospital is scored worse:" if worse else unproven
        yield Finding(bold, f"pAUC {change}, with the stacker refitted without it.", "robustness")
    lost = [record for record in robustness["columns"]["records"] if record["high"] < 0]
    if lost:
        worst = min(lost, key=lambda record: record["change"])
        change = _change(worst["change"], worst["low"], worst["high"])
        yield Finding(
            f"Most important measurement, {worst['group']}:",
            f"pAUC {change} without it.",
            "robustness",
        )


def _missed(lesions: pd.DataFrame) -> Finding | None:
    malignant = lesions[lesions[TARGET] == 1]
    missed = malignant[malignant["rank"] > TOP]
    if malignant.empty:
        return None
    if missed.empty:
        return Finding(
            "No malignant lesion missed:",
            f"all are among their patient's {TOP} highest.",
            "failures",
        )
    worst = missed.loc[missed["rank"].idxmax()]
    return Finding(
        f"{len(missed)} of {len(malignant)} malignant lesions are outside their patient's {TOP}"
        " highest:",
        f"the lowest has rank {worst['rank']:,} of {worst['of']:,}.",
        "failures",
    )


def _change(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})".replace("-", "−")
