"""Model card and data card from the metrics of the run, as Markdown with a Hugging Face header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from isic.core.schema import PATIENT, TARGET
from isic.data.archive.licences import all_licences, licence_sentence, model_licence
from isic.evaluate.slices import SELECTED_MM
from isic.report.markdown import literal

USE = (
    "Research on triage of lesions in 3D total-body photography and the ISIC 2024 metric. Not a"
    " medical device: not validated for diagnosis or patient care and not to be used there."
)
LIMITS = (
    (
        f"Lesions under {SELECTED_MM} mm are in the data only because a clinician tagged them, so"
        " small size predicts malignancy here (a selection artefact); evaluate on the slice of"
        f" {SELECTED_MM} mm and over."
    ),
    "Benign means not known to be malignant: most lesions were never biopsied.",
    (
        "Seven hospitals; one lighting type is almost only at one of them. Skin-tone groups are a"
        " proxy of uneven size."
    ),
    (
        "Scores are ranks, not probabilities. The stored calibration gives probabilities at the"
        " prevalence of these data."
    ),
)


def model_card(
    metrics: Mapping[str, Any],
    params: Mapping[str, Any],
    provenance: Mapping[str, str],
    generated: bool,
    rows: pd.DataFrame,
    sources: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Markdown of the model card.

    params: params.yaml as plain values. rows: of the challenge, with their `copyright_license`.
    sources: pictures that only trained, as of `train_only_sources`.
    """
    own = [] if generated else rows["copyright_license"].fillna("missing").unique().tolist()
    licences = all_licences(own, sources)
    header = {
        "license": model_licence(licences),
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
        (
            f"**Model.** Image networks ({backbones}) and "
            "measurements relative to the patient's other lesions, combined by "
            f"a gradient-boosted stacker; {len(params['folds'])} folds, scores averaged over them."
        ),
        "",
        *(line for sentence in pretraining_sentences(params) for line in (sentence, "")),
        (
            f"**Trained and evaluated on** {origin}: {metrics['n']:,} lesions,"
            f" {metrics['positives']} malignant, {metrics['patients']:,} patients; scores out of"
            " fold, folds by patient."
        ),
        "",
        *(line for source in sources for line in (_source(source), "")),
        f"**Licence.** {literal(licence_sentence(licences))}",
        "",
        "## Results",
        "",
        "| metric | value |",
        "|---|---|",
        (
            f"| pAUC above 80 % sensitivity (0 to 0.2) | {metrics['pauc']:.4f} "
            f"({metrics['pauc_low']:.4f} to {metrics['pauc_high']:.4f}) |"
        ),
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
        # A card without the date stays the same when the page is made again.
        *(f"- {key}: `{value}`" for key, value in provenance.items() if key != "date"),
        "",
    ]
    return "\n".join(lines)


def pretraining_sentences(params: Mapping[str, Any]) -> list[str]:
    """A sentence if networks start from the package's weights of generated tiles, else none.

    params: params.yaml as plain values.
    """
    image = params["image"]
    names = [
        name
        for name, own in image["backbones"].items()
        if ((own or {}).get("weights") or image["train"]["weights"]) == "generated"
    ]
    if not names:
        return []
    scored = (
        "They are evaluated on generated lesions, of another seed."
        if params["data"]["source"] == "sample"
        else "Those were drawn from published aggregates of these data."
    )
    return [f"Networks pre-trained on generated tiles: {', '.join(names)}. {scored}"]


def _source(source: Mapping[str, Any]) -> str:
    """A paragraph about pictures that only trained."""
    use = {
        "pretrain": "trained the image networks before the lesions above",
        "mix": "trained the image networks among the lesions above",
        "extra": "are extra tiles that trained the image networks",
    }[source["use"]]
    return (
        f"**Further pictures, never scored.** {source['pictures']:,} of `{source['source']}`"
        f" ({source['malignant']:,} malignant; {literal(', '.join(source['licences']))}) {use}"
        f" ({', '.join(source['backbones'])}). Pictures of a scored patient were left out: up to"
        f" {source['left_out_for_patients']:,} for a fold."
    )


def data_card(rows: pd.DataFrame, generated: bool) -> str:
    """Markdown of the data card: counts, licences per hospital, missing values, known biases."""
    small = rows["clin_size_long_diam_mm"] < SELECTED_MM
    malignant = rows[TARGET] == 1
    lines = [
        "# Data card",
        "",
        "**Provenance.** "
        + (
            "Generated rows and tiles, sampled from published aggregates of SLICE-3D; no patient"
            " data. Hospital names label the simulated populations."
            if generated
            else (
                "SLICE-3D, the ISIC 2024 challenge (Kurtansky et al., Scientific Data 11, 884,"
                " 2024): 15 × 15 mm tiles of 3D total-body photographs with a row of measurements"
                " each."
            )
        ),
        "",
        (
            f"{len(rows):,} lesions, {int(malignant.sum())} malignant ({100 * malignant.mean():.3g}"
            f" %), {rows[PATIENT].nunique():,} patients,"
            f" {int(rows.loc[malignant, PATIENT].nunique())} of them with a malignant lesion."
        ),
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
        (
            "CC-BY-NC rows may not be used commercially. Where the licence is held to cover trained"
            " models, neither may models trained on them."
        ),
        "",
        "## Known biases",
        "",
        (
            f"- Selection: {int(small.sum()):,} lesions are under {SELECTED_MM} mm,"
            f" {int((small & malignant).sum())} of them malignant"
            f" ({_percent(small[malignant].mean())} of the malignant,"
            f" {_percent(small[~malignant].mean())} of the benign). Such lesions are in the data"
            " only because a clinician tagged them."
        ),
        (
            f"- Missing: age {_percent(rows['age_approx'].isna().mean())}, sex"
            f" {_percent(rows['sex'].isna().mean())}, site"
            f" {_percent(rows['anatom_site_general'].isna().mean())}."
        ),
        f"- Sex: {_shares(rows['sex'])}. Lighting: {_shares(rows['tbp_tile_type'])}.",
        (
            "- The diagnosis columns and the network confidence are only in the training file and"
            " are never features."
        ),
        "",
    ]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    body = [
        " | ".join(f"{value:,}" if isinstance(value, int) else literal(str(value)) for value in row)
        for row in rows
    ]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {line} |" for line in body)]


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _percent(share: float) -> str:
    return "–" if pd.isna(share) else f"{100 * share:.1f} %"


def _shares(values: pd.Series) -> str:
    shares = values.fillna("missing").value_counts(normalize=True)
    return ", ".join(f"{literal(str(name))} {_percent(share)}" for name, share in shares.items())
