"""Model card and data card from the run's own numbers, as Markdown with a Hugging Face header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from isic.core.schema import PATIENT, TARGET
from isic.evaluate.slices import SELECTED_MM

USE = (
    "Research on triage of lesions in 3D total-body photography and the ISIC 2024 metric. Not a medical device: not "
    "validated for, and not to be used in, the diagnosis or care of a person."
)
LIMITS = (
    f"Lesions under {SELECTED_MM} mm are present only because a clinician tagged them, so small size itself hints at "
    f"malignancy in these data (selection artefact, not medicine); judge by the slice of {SELECTED_MM} mm and over.",
    "Benign means not known to be malignant: most lesions were never biopsied.",
    "Seven hospitals, one lighting type almost only in one of them; skin-tone groups are a proxy and unevenly filled.",
    "Scores rank lesions; they are no probabilities unless the stored calibration is applied, and its prevalence is "
    "that of these data.",
)


def model_card(
    metrics: Mapping[str, Any], params: Mapping[str, Any], provenance: Mapping[str, str], generated: bool
) -> str:
    """Markdown of the model card; `params` is params.yaml as plain values."""
    header = {
        # Most of the official lesions are CC BY-NC; what learnt from them is shared alike.
        "license": "mit" if generated else "cc-by-nc-4.0",
        "tags": "[skin-cancer, isic-2024, slice-3d, tabular-classification, image-classification]",
        "pipeline_tag": "tabular-classification",
        "library_name": "isic",
    }
    backbones = ", ".join(params["image"]["backbones"]) or "none"
    origin = "generated lesions (no patient's data)" if generated else "SLICE-3D (ISIC 2024)"
    lines = [
        "---",
        *(f"{key}: {value}" for key, value in header.items()),
        "model-index:",
        "  - name: isic-2024",
        "    results:",
        "      - task: {type: tabular-classification}",
        f"        dataset: {{name: {origin.split(' (')[0]}, type: slice-3d}}",
        "        metrics:",
        f"          - {{type: pauc_80tpr, value: {metrics['pauc']:.5f}}}",
        f"          - {{type: roc_auc, value: {metrics['auc']:.5f}}}",
        "---",
        "# Model card: isic-2024",
        "",
        f"**Intended use.** {USE}",
        "",
        f"**What it is.** Image networks ({backbones}) and "
        "measurements relative to the patient's other lesions, joined by "
        f"a gradient-boosted stacker; {len(params['folds'])} folds, scores averaged over them.",
        "",
        f"**Trained and judged on** {origin}: {metrics['n']:,} lesions, {metrics['positives']} malignant, "
        f"{metrics['patients']:,} patients; every score out of fold, folds split by patient.",
        "",
        "## Results",
        "",
        "| metric | value |",
        "|---|---|",
        f"| pAUC above 80 % sensitivity (0 to 0.2) | {metrics['pauc']:.4f} "
        f"({metrics['pauc_low']:.4f} to {metrics['pauc_high']:.4f}) |",
        f"| pAUC, fold mean | {_or_dash(metrics['pauc_fold_mean'])} |",
        f"| pAUC, fold sd | {_or_dash(metrics['pauc_fold_sd'])} |",
        f"| AUC | {metrics['auc']:.4f} |",
        f"| top-15 sensitivity | {metrics['top15_sensitivity']:.4f} |",
        "",
        "## Limits",
        "",
        *(f"- {line}" for line in LIMITS),
        "",
        "## Provenance",
        "",
        *(f"- {key}: `{value}`" for key, value in provenance.items()),
        "",
    ]
    return "\n".join(lines)


def data_card(rows: pd.DataFrame, generated: bool) -> str:
    """Markdown of the data card: counts, licences per hospital, what is missing, known biases."""
    small = rows["clin_size_long_diam_mm"] < SELECTED_MM
    ill = rows[TARGET] == 1
    lines = [
        "# Data card",
        "",
        "**Provenance.** "
        + (
            "Generated rows and tiles, drawn from published aggregates of SLICE-3D; they belong to no person. Hospital "
            "names are labels of the imitated populations."
            if generated
            else "SLICE-3D, the ISIC 2024 challenge (Kurtansky et al., Scientific Data 11, 884, 2024): 15 × 15 mm "
            "tiles of 3D total-body photographs with a row of measurements each."
        ),
        "",
        f"{len(rows):,} lesions, {int(ill.sum())} malignant ({100 * ill.mean():.3g} %), "
        f"{rows[PATIENT].nunique():,} patients, "
        f"{int(rows.loc[ill, PATIENT].nunique())} of them with a malignant lesion.",
        "",
        "## Hospitals and licences",
        "",
        *_table(
            ["hospital", "licence", "lesions", "malignant", "patients"],
            rows.fillna({"attribution": "missing", "copyright_license": "missing"})
            .groupby(["attribution", "copyright_license"])
            .agg(lesions=(TARGET, "size"), malignant=(TARGET, "sum"), patients=(PATIENT, "nunique"))
            .reset_index()
            .to_numpy()
            .tolist(),
        ),
        "",
        "CC-BY-NC rows may not be used commercially, nor may what is trained on them where that licence is held "
        "to reach it.",
        "",
        "## Known biases",
        "",
        f"- Selection: {int(small.sum()):,} lesions are under {SELECTED_MM} mm, {int((small & ill).sum())} of them "
        f"malignant ({_percent(small[ill].mean())} of the malignant, {_percent(small[~ill].mean())} of the benign). "
        "Such lesions were kept only when a clinician tagged them.",
        f"- Missing: age {_percent(rows['age_approx'].isna().mean())}, sex {_percent(rows['sex'].isna().mean())}, "
        f"site {_percent(rows['anatom_site_general'].isna().mean())}.",
        f"- Sex: {_shares(rows['sex'])}. Lighting: {_shares(rows['tbp_tile_type'])}.",
        "- The diagnosis columns and the network confidence are in the training file only and never reach a feature.",
        "",
    ]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    body = [" | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in row) for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {line} |" for line in body)]


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _percent(share: float) -> str:
    return "–" if pd.isna(share) else f"{100 * share:.1f} %"


def _shares(values: pd.Series) -> str:
    shares = values.fillna("missing").value_counts(normalize=True)
    return ", ".join(f"{name} {_percent(share)}" for name, share in shares.items())
