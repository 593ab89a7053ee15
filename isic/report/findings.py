"""Where to look first: one sentence per question a reader has, with the numbers that answer it and the section."""

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
    """A sentence in two parts, the first in bold, and the id of the section that tells more."""

    bold: str
    rest: str
    section: str


def findings(
    points: Mapping[str, Records], lesions: pd.DataFrame, robustness: Mapping[str, Any] | None
) -> list[Finding]:
    """What stands out in this run, in the order of the page; parts that were not measured are passed over.

    `lesions` is `isic.report.lesions.overview`; `points["ladder"]` has the robustness stage's steps in front.
    """
    found = [_images(points["ladder"]), _slices(points["slices"], points["ladder"][-1]["pauc"])]
    found += list(_robustness(robustness)) if robustness else []
    return [each for each in (*found, _missed(lesions)) if each is not None]


def _images(ladder: Records) -> Finding | None:
    alone = next((step for step in ladder if step["step"] == "features alone"), None)
    if alone is None or alone["gain"] is None:
        return None
    numbers = _change(alone["gain"], alone["gain_low"], alone["gain_high"])
    if alone["gain_low"] > 0:
        return Finding("Images help:", f"pAUC {numbers} over the features alone.", "ladder")
    if alone["gain_high"] < 0:
        return Finding("Images hurt:", f"pAUC {numbers} against the features alone.", "ladder")
    return Finding("No evidence that images add to the features:", f"pAUC {numbers}.", "ladder")


def _slices(slices: Records, whole: float) -> Finding | None:
    measured = [record for record in slices if record["pauc"] is not None]
    if not measured:
        return Finding(
            "No slice can be judged:", f"none of {len(slices)} holds {MIN_POSITIVES} malignant lesions.", "slices"
        )
    lowest = min(measured, key=lambda record: record["pauc"])
    numbers = f"{lowest['pauc']:.3f} ({lowest['low']:.3f} to {lowest['high']:.3f}) against {whole:.3f} for all"
    silent = len(slices) - len(measured)
    about = f"{numbers}; {silent} of {len(slices)} slices are too small to say." if silent else f"{numbers}."
    word = "Weakest" if lowest["high"] < whole else "Lowest, within the noise,"
    return Finding(f"{word} in {lowest['family'].split(' (')[0]} {lowest['slice']}:", about, "slices")


def _robustness(found: Mapping[str, Any]) -> Iterator[Finding]:
    pooled = [record for record in found["hospitals"]["records"] if record["hospital"] == "all pooled"]
    if pooled and not pooled[0]["note"]:
        one = pooled[0]
        numbers = _change(one["change"], one["change_low"], one["change_high"])
        worse = one["change_high"] < 0
        head = "A hospital never seen is scored worse:" if worse else "A hospital never seen costs nothing measurable:"
        yield Finding(head, f"pAUC {numbers}, the stacker refitted without it.", "robustness")
    lost = [record for record in found["columns"]["records"] if record["high"] < 0]
    if lost:
        worst = min(lost, key=lambda record: record["change"])
        numbers = _change(worst["change"], worst["low"], worst["high"])
        yield Finding(f"It leans most on {worst['group']}:", f"without it pAUC {numbers}.", "robustness")


def _missed(lesions: pd.DataFrame) -> Finding | None:
    ill = lesions[lesions[TARGET] == 1]
    missed = ill[ill["rank"] > TOP]
    if ill.empty:
        return None
    if missed.empty:
        return Finding("Nothing missed:", f"every malignant lesion is among its patient's {TOP} highest.", "failures")
    worst = missed.loc[missed["rank"].idxmax()]
    return Finding(
        f"{len(missed)} of {len(ill)} malignant lesions are outside their patient's {TOP} highest:",
        f"the furthest has rank {worst['rank']:,} of {worst['of']:,}.",
        "failures",
    )


def _change(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})".replace("-", "−")
